import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Clients with the settings that all programs here share; more of them come as name, value, name, value. */
final class Connect {
  private Connect() {}

  static Map<String, Object> config(String address, Object... more) {
    var config = new HashMap<String, Object>(Map.of("bootstrap.servers", address));
    for (int i = 0; i < more.length; i += 2) {
      config.put((String) more[i], more[i + 1]);
    }
    return config;
  }

  static Producer<String, String> producer(String address, Object... more) {
    var config = config(address, "enable.idempotence", "true", "acks", "all");
    config.putAll(config(address, more));
    return new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
  }

  /** A member of a group that commits only what it is told to; a plain reader if the group is null. */
  static Consumer<String, String> member(String address, String group, String protocol) {
    var config = config(address, "enable.auto.commit", "false", "auto.offset.reset", "earliest");
    config.put("fetch.max.wait.ms", "100");
    if (group != null) {
      config.put("group.id", group);
      config.put("group.protocol", protocol);
    }
    if (group != null && protocol.equals("classic")) {
      config.put("session.timeout.ms", "10000");
      config.put("heartbeat.interval.ms", "300");
      config.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor");
    }
    return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
  }
}
