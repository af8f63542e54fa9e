import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.TopicExistsException;

/** Every check of the Java client. */
final class Checks {
  private static final int PARTITIONS = 4;
  private static final int SECONDS = 30;

  private final String address;
  private final Admin admin;
  private boolean failed;

  private interface Body {
    void run() throws Exception;
  }

  Checks(String address) {
    this.address = address;
    this.admin = Admin.create(Connect.config(address));
  }

  boolean run() {
    for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
      check("codec-" + codec, () -> codec(codec));
    }
    check("group-classic", () -> group("classic"));
    check("group-consumer", () -> group("consumer"));
    check("admin-topics", this::topics);
    check("admin-groups", this::groups);
    check("admin-offsets", this::offsets);
    check("admin-cluster", this::cluster);
    check("transactions-are-refused", this::transactions);
    admin.close();
    return !failed;
  }

  private void check(String name, Body body) {
    try {
      body.run();
      System.out.println("ok " + name);
    } catch (Exception | AssertionError error) {
      failed = true;
      Throwable why = error instanceof ExecutionException ? error.getCause() : error;
      System.out.println("FAIL " + name + ": " + String.valueOf(why).replace('\n', ' '));
    }
  }

  private static void same(Object got, Object wanted) {
    if (!Objects.equals(got, wanted)) {
      throw new AssertionError(got + ", wanted " + wanted);
    }
  }

  /** Waits for a condition; it may do the work that it waits for. */
  private static void until(String what, Callable<Boolean> condition) throws Exception {
    long end = System.nanoTime() + SECONDS * 1_000_000_000L;
    while (!condition.call()) {
      if (System.nanoTime() > end) {
        throw new AssertionError("not within " + SECONDS + " s: " + what);
      }
      Thread.sleep(20);
    }
  }

  private static String unique(String name) {
    return "java-" + name + "-" + UUID.randomUUID().toString().substring(0, 13);
  }

  private String topic(String name, int partitions) throws Exception {
    String topic = unique(name);
    admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
    return topic;
  }

  private static void send(Producer<String, String> producer, List<ProducerRecord<String, String>> records)
      throws Exception {
    var sent = new ArrayList<Future<RecordMetadata>>();
    records.forEach(record -> sent.add(producer.send(record)));
    for (var one : sent) {
      one.get();
    }
  }

  private void send(String topic, int count) throws Exception {
    var records = new ArrayList<ProducerRecord<String, String>>();
    for (int i = 0; i < count; i++) {
      records.add(new ProducerRecord<>(topic, "" + i, "" + i));
    }
    try (var producer = Connect.producer(address)) {
      send(producer, records);
    }
  }

  private void codec(String codec) throws Exception {
    String topic = topic(codec, 1);
    var records = new ArrayList<ProducerRecord<String, String>>();
    for (int i = 0; i < 1_500; i++) {
      String value = i % 101 == 100 ? null : i + " " + "v".repeat(i % 900);
      var record = new ProducerRecord<>(topic, 0, i % 7 == 0 ? null : "key-" + i % 50, value);
      record.headers().add("number", ("" + i).getBytes()).add("none", null);
      records.add(record);
    }
    try (var producer = Connect.producer(address, "compression.type", codec, "linger.ms", "5")) {
      send(producer, records);
    }
    var partition = new TopicPartition(topic, 0);
    var got = new ArrayList<ConsumerRecord<String, String>>();
    try (var reader = Connect.member(address, null, null)) {
      reader.assign(List.of(partition));
      reader.seekToBeginning(List.of(partition));
      until("every record", () -> poll(reader, got) >= records.size());
    }
    same(got.size(), records.size());
    for (int i = 0; i < got.size(); i++) {
      same(got.get(i).offset(), (long) i);
      same(got.get(i).key(), records.get(i).key());
      same(got.get(i).value(), records.get(i).value());
      same(got.get(i).headers(), records.get(i).headers());
    }
  }

  private static int poll(Consumer<String, String> member, List<ConsumerRecord<String, String>> into) {
    member.poll(Duration.ofMillis(50)).forEach(into::add);
    return into.size();
  }

  private static int places(List<ConsumerRecord<String, String>> records) {
    var places = new HashSet<String>();
    records.forEach(record -> places.add(record.partition() + "@" + record.offset()));
    return places.size();
  }

  private void group(String protocol) throws Exception {
    String topic = topic(protocol, PARTITIONS);
    String group = unique("group");
    var got = new ArrayList<ConsumerRecord<String, String>>();
    try (var first = Connect.member(address, group, protocol);
        var second = Connect.member(address, group, protocol)) {
      first.subscribe(List.of(topic));
      second.subscribe(List.of(topic));
      Callable<Integer> both = () -> Math.max(poll(first, got), poll(second, got));
      Callable<Boolean> shared =
          () -> first.assignment().size() == 2 && second.assignment().size() == 2;
      until("two partitions each", () -> both.call() >= 0 && shared.call());
      send(topic, 400);
      until("400 records", () -> both.call() >= 400);
      same(List.of(got.size(), places(got)), List.of(400, 400));
      first.commitSync();
      second.commitSync();
    }
    send(topic, 100);
    try (var third = Connect.member(address, group, protocol)) {
      third.subscribe(List.of(topic));
      until("100 records", () -> poll(third, got) >= 500);
      same(places(got), 500);
    }
  }

  private void topics() throws Exception {
    String topic = topic("admin", 2);
    try {
      admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all().get();
      throw new AssertionError("created twice");
    } catch (ExecutionException error) {
      same(error.getCause().getClass(), TopicExistsException.class);
    }
    admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
    until("5 partitions", () -> partitions(topic) == 5);
    var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
    var entry = new ConfigEntry(TopicConfig.MAX_MESSAGE_BYTES_CONFIG, "2000000");
    var change = List.of(new AlterConfigOp(entry, AlterConfigOp.OpType.SET));
    admin.incrementalAlterConfigs(Map.of(resource, change)).all().get();
    until(
        "the new setting",
        () -> {
          var config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
          return config.get(entry.name()).value().equals(entry.value());
        });
    admin.deleteTopics(List.of(topic)).all().get();
    until("no topic", () -> !admin.listTopics().names().get().contains(topic));
  }

  private int partitions(String topic) throws Exception {
    var described = admin.describeTopics(List.of(topic)).allTopicNames().get();
    return described.get(topic).partitions().size();
  }

  private void groups() throws Exception {
    String topic = topic("groups", 1);
    String group = unique("groups");
    var partition = new TopicPartition(topic, 0);
    send(topic, 10);
    try (var member = Connect.member(address, group, "classic")) {
      member.subscribe(List.of(topic));
      var got = new ArrayList<ConsumerRecord<String, String>>();
      until("10 records", () -> poll(member, got) >= 10);
      member.commitSync();
      var described = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
      same(List.of(described.groupState(), described.members().size()), List.of(GroupState.STABLE, 1));
    }
    var listed = admin.listGroups().all().get();
    same(listed.stream().filter(found -> found.groupId().equals(group)).count(), 1L);
    same(committed(group, partition).offset(), 10L);
    admin.alterConsumerGroupOffsets(group, Map.of(partition, new OffsetAndMetadata(4))).all().get();
    same(committed(group, partition).offset(), 4L);
    admin.deleteConsumerGroupOffsets(group, Set.of(partition)).all().get();
    same(committed(group, partition), null);
    admin.deleteConsumerGroups(List.of(group)).all().get();
  }

  private OffsetAndMetadata committed(String group, TopicPartition partition) throws Exception {
    var offsets = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
    return offsets.get(partition);
  }

  private void offsets() throws Exception {
    String topic = topic("offsets", 1);
    var records = new ArrayList<ProducerRecord<String, String>>();
    for (int i = 0; i < 5; i++) {
      records.add(new ProducerRecord<>(topic, 0, 1_600_000_000_000L + i * 1_000, "", ""));
    }
    try (var producer = Connect.producer(address)) {
      send(producer, records);
    }
    var partition = new TopicPartition(topic, 0);
    same(offset(partition, OffsetSpec.earliest()), 0L);
    same(offset(partition, OffsetSpec.latest()), 5L);
    same(offset(partition, OffsetSpec.maxTimestamp()), 4L);
    same(offset(partition, OffsetSpec.forTimestamp(1_600_000_001_500L)), 2L);
    admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(3))).all().get();
    same(offset(partition, OffsetSpec.earliest()), 3L);
  }

  private long offset(TopicPartition partition, OffsetSpec spec) throws Exception {
    return admin.listOffsets(Map.of(partition, spec)).all().get().get(partition).offset();
  }

  /** There are none yet, and the client must be told so at once, and for good. */
  private void transactions() {
    try (var producer = Connect.producer(address, "transactional.id", unique("transactions"))) {
      producer.initTransactions();
      throw new AssertionError("not refused");
    } catch (TimeoutException error) {
      throw new AssertionError("not given up at", error);
    } catch (KafkaException error) {
      // As it should be.
    }
  }

  private void cluster() throws Exception {
    var nodes = admin.describeCluster().nodes().get();
    same(nodes.size(), 1);
    int node = nodes.iterator().next().id();
    same(admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node).size(), 1);
  }
}
