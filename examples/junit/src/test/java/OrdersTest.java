import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.ExtendWith;

/** Tests of a program that uses Kafka's client; nothing in it knows of Logweir but its address. */
@ExtendWith(LogweirBroker.class)
@Timeout(60)
class OrdersTest {
  /** A topic that no other test has; it is made when the first record comes. */
  private final String topic = "orders-" + UUID.randomUUID();

  private void write(String order, String state) throws Exception {
    Map<String, Object> config = Map.of("bootstrap.servers", LogweirBroker.address());
    try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
      producer.send(new ProducerRecord<>(topic, order, state)).get();
    }
  }

  private List<String> read(int count, String protocol) {
    Map<String, Object> config =
        Map.of("bootstrap.servers", LogweirBroker.address(), "group.id", "billing-" + topic,
            "group.protocol", protocol, "auto.offset.reset", "earliest", "max.poll.records", 1);
    var states = new ArrayList<String>();
    try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
      consumer.subscribe(List.of(topic));
      while (states.size() < count) {
        consumer.poll(Duration.ofSeconds(1)).forEach(record -> states.add(record.value()));
      }
      consumer.commitSync();
    }
    return states;
  }

  @Test
  void theStatesOfAnOrderComeInOrder() throws Exception {
    var states = List.of("placed", "paid", "shipped");
    for (String state : states) {
      write("7", state);
    }
    assertEquals(states, read(3, "classic"));
  }

  @Test
  void aGroupGoesOnWhereItStopped() throws Exception {
    write("7", "paid");
    write("7", "shipped");
    assertEquals(List.of("paid"), read(1, "consumer"));
    assertEquals(List.of("shipped"), read(1, "consumer"));
  }
}
