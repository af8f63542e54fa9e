import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;

/**
 * Kafka's own Java client.
 *
 * <pre>
 * Clients check ADDRESS                           every check
 * Clients produce ADDRESS TOPIC                   sends lines of standard input: KEY, tab, VALUE
 * Clients consume ADDRESS TOPIC GROUP [PROTOCOL]  a member of a group until standard input closes
 * </pre>
 */
public final class Clients {
  private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

  public static void main(String[] args) throws Exception {
    switch (args[0]) {
      case "check" -> System.exit(new Checks(args[1]).run() ? 0 : 1);
      case "produce" -> produce(args[1], args[2]);
      case "consume" -> consume(args[1], args[2], args[3], args.length > 4 ? args[4] : "classic");
      default -> throw new IllegalArgumentException(args[0]);
    }
  }

  private static void produce(String address, String topic) throws Exception {
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try (var producer = Connect.producer(address, "linger.ms", "5")) {
      var sent = new ArrayList<Future<RecordMetadata>>();
      for (String line; (line = lines.readLine()) != null; ) {
        String[] row = line.split("\t", 2);
        sent.add(producer.send(new ProducerRecord<>(topic, row[0], row[1])));
      }
      for (var one : sent) {
        one.get();
      }
    }
  }

  private static void consume(String address, String topic, String group, String protocol) {
    var closed = inputClosed();
    try (var member = Connect.member(address, group, protocol)) {
      member.subscribe(List.of(topic), new Told());
      while (!closed.get()) {
        try {
          var records = member.poll(Duration.ofMillis(100));
          for (var record : records) {
            var place = record.partition() + "\t" + record.offset();
            OUT.print(place + "\t" + record.key() + "\t" + record.value() + "\n");
          }
          OUT.flush();
          if (!records.isEmpty()) {
            member.commitSync(Duration.ofSeconds(10));
          }
        } catch (KafkaException error) {
          // A broker that is away, or partitions that were lost: what was not committed comes again.
          System.err.println(error);
        }
      }
    }
  }

  /** True once standard input has ended. */
  private static AtomicBoolean inputClosed() {
    var closed = new AtomicBoolean();
    var reader =
        new Thread(
            () -> {
              try {
                while (System.in.read() >= 0) {}
              } catch (IOException gone) {
                // As good as closed.
              }
              closed.set(true);
            });
    reader.setDaemon(true);
    reader.start();
    return closed;
  }

  /** Tells which partitions the member owns. */
  private static final class Told implements ConsumerRebalanceListener {
    private final TreeSet<Integer> owned = new TreeSet<>();

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
      partitions.forEach(partition -> owned.add(partition.partition()));
      tell();
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
      partitions.forEach(partition -> owned.remove(partition.partition()));
      tell();
    }

    private void tell() {
      OUT.print("=\t" + String.join(",", owned.stream().map(String::valueOf).toList()) + "\n");
      OUT.flush();
    }
  }
}
