"""librdkafka, through confluent-kafka.

    librdkafka.py check ADDRESS                           every check
    librdkafka.py produce ADDRESS TOPIC <LINES            sends KEY, tab, VALUE
    librdkafka.py consume ADDRESS TOPIC GROUP [PROTOCOL]  a member of a group until standard input closes
"""

import sys
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin import NewPartitions, NewTopic, OffsetSpec, ResourceType

import checks
from checks import PARTITIONS, SECONDS, check, same, unique, until


def producer(address, **more):
    return Producer({"bootstrap.servers": address, "enable.idempotence": True, **more})


def member(address, group, protocol="classic", **more):
    """A member of a group that commits only what it is told to."""
    config = {"bootstrap.servers": address, "group.id": group, "group.protocol": protocol}
    config |= {"auto.offset.reset": "earliest", "enable.auto.commit": False, "fetch.wait.max.ms": 100}
    if protocol == "classic":
        config |= {"session.timeout.ms": 10_000, "heartbeat.interval.ms": 300}
        config |= {"partition.assignment.strategy": "range"}
    return Consumer(config | more)


def send(client, topic, rows, partition=-1):
    """Sends (key, value, headers) rows and waits until each is acknowledged."""
    errors = []
    told = lambda error, _: error and errors.append(error)
    for key, value, headers in rows:
        client.produce(topic, value, key, partition, told, headers=headers)
        client.poll(0)
    same(client.flush(SECONDS), 0, "records without an answer")
    same(errors, [], "errors")


def take(client, count):
    """The next records, exactly so many."""
    got = []

    def polled():
        for message in client.consume(count - len(got), 0.1):
            if message.error():
                raise KafkaException(message.error())
            got.append(message)
        return len(got) >= count

    until(f"{count} records", polled)
    return got


class Checks:
    def __init__(self, address):
        self.address = address
        self.admin = AdminClient({"bootstrap.servers": address})

    def topic(self, name, partitions=1, **config):
        name = unique(f"librdkafka-{name}")
        self.admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(SECONDS)
        return name

    def codec(self, codec):
        topic, rows = self.topic(codec), list(checks.rows(1_500))
        settings = {"compression.type": codec, "linger.ms": 5, "batch.num.messages": 200}
        send(producer(self.address, **settings), topic, rows, partition=0)
        reader = member(self.address, unique("none"))
        reader.assign([TopicPartition(topic, 0, 0)])
        got = take(reader, len(rows))
        same([(m.key(), m.value(), m.headers() or []) for m in got], rows)
        same([m.offset() for m in got], list(range(len(rows))), "offsets")
        reader.close()

    def group(self, protocol):
        topic, group = self.topic(protocol, PARTITIONS), unique(f"librdkafka-{protocol}")
        first, second = (member(self.address, group, protocol) for _ in range(2))
        seen = []

        def poll(client):
            for message in client.consume(500, 0.05):
                if message.error():
                    raise KafkaException(message.error())
                seen.append((message.partition(), message.offset()))

        def shared():
            poll(first), poll(second)
            return [len(client.assignment()) for client in (first, second)] == [2, 2]

        first.subscribe([topic]), second.subscribe([topic])
        until("two partitions each", shared)
        rows = [(b"%d" % n, b"%d" % n, []) for n in range(400)]
        send(producer(self.address), topic, rows)
        until("400 records", lambda: poll(first) or poll(second) or len(seen) >= 400)
        same(len(set(seen)), 400, "different records")
        same(len(seen), 400, "records")
        # Both before one of them leaves: then the other's generation is over.
        first.commit(asynchronous=False), second.commit(asynchronous=False)
        first.close(), second.close()
        send(producer(self.address), topic, rows[:100])
        third = member(self.address, group, protocol)
        third.subscribe([topic])
        until("100 records", lambda: poll(third) or len(seen) >= 500)
        same(len(set(seen)), 500, "records after the commits")
        third.close()

    def topics(self):
        topic = self.topic("admin", 2, **{"retention.ms": "111000"})
        try:
            self.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(SECONDS)
            raise AssertionError("created twice")
        except KafkaException as error:
            same(error.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS)
        self.admin.create_partitions([NewPartitions(topic, 5)])[topic].result(SECONDS)
        found = lambda: self.admin.list_topics(topic, timeout=SECONDS).topics[topic].partitions
        until("5 partitions", lambda: len(found()) == 5)
        resource = ConfigResource(ResourceType.TOPIC, topic)
        value = lambda key: self.admin.describe_configs([resource])[resource].result(SECONDS)[key].value
        same(value("retention.ms"), "111000")
        entry = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
        change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        self.admin.incremental_alter_configs([change])[change].result(SECONDS)
        until("the new setting", lambda: value("cleanup.policy") == "compact")
        same(value("retention.ms"), "111000")
        self.admin.delete_topics([topic])[topic].result(SECONDS)
        until("no topic", lambda: topic not in self.admin.list_topics(timeout=SECONDS).topics)

    def groups(self):
        topic, group = self.topic("groups"), unique("librdkafka-groups")
        send(producer(self.address), topic, [(None, b"v", [])] * 10, partition=0)
        client = member(self.address, group)
        client.subscribe([topic])
        take(client, 10)
        client.commit(asynchronous=False)
        described = self.admin.describe_consumer_groups([group])[group].result(SECONDS)
        same((described.state.name, len(described.members)), ("STABLE", 1))
        client.close()
        listed = self.admin.list_consumer_groups().result().valid
        assert group in [found.group_id for found in listed], "not listed"
        back = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 4)])
        self.admin.alter_consumer_group_offsets([back])[group].result(SECONDS)
        asked = ConsumerGroupTopicPartitions(group)
        offsets = self.admin.list_consumer_group_offsets([asked])[group].result(SECONDS)
        same([p.offset for p in offsets.topic_partitions], [4])
        self.admin.delete_consumer_groups([group])[group].result(SECONDS)

    def offsets(self):
        topic = self.topic("offsets")
        client = producer(self.address)
        for second in range(5):
            client.produce(topic, b"v", partition=0, timestamp=1_600_000_000_000 + second * 1_000)
        same(client.flush(SECONDS), 0)
        partition = TopicPartition(topic, 0)

        def at(spec):
            return self.admin.list_offsets({partition: spec})[partition].result(SECONDS).offset

        same([at(OffsetSpec.earliest()), at(OffsetSpec.latest())], [0, 5])
        same(at(OffsetSpec.for_timestamp(1_600_000_001_500)), 2)
        same(at(OffsetSpec.max_timestamp()), 4)
        self.admin.delete_records([TopicPartition(topic, 0, 3)])[partition].result(SECONDS)
        same([at(OffsetSpec.earliest()), at(OffsetSpec.latest())], [3, 5])

    def transactions(self):
        """There are none yet, and the client must be told so at once, and for good."""
        client = producer(self.address, **{"transactional.id": unique("librdkafka")})
        try:
            client.init_transactions(SECONDS)
        except KafkaException as error:
            assert error.args[0].fatal(), f"not given up at: {error}"
            return
        raise AssertionError("not refused")


def run_checks(address):
    client = Checks(address)
    for codec in checks.CODECS:
        check(f"codec-{codec}", client.codec, codec)
    for protocol in ("classic", "consumer"):
        check(f"group-{protocol}", client.group, protocol)
    check("admin-topics", client.topics)
    check("admin-groups", client.groups)
    check("admin-offsets", client.offsets)
    check("transactions-are-refused", client.transactions)


def produce(address, topic):
    rows = ((key, value, []) for key, value in checks.input_rows())
    send(producer(address, **{"linger.ms": 5}), topic, rows)


def consume(address, topic, group, protocol="classic"):
    closed, output, owned = checks.input_closed(), checks.Output(), set()

    def gained(_, partitions):
        owned.update(found.partition for found in partitions)
        output.owned(owned)

    def gone(_, partitions):
        owned.difference_update(found.partition for found in partitions)
        output.owned(owned)

    client = member(address, group, protocol)
    client.subscribe([topic], on_assign=gained, on_revoke=gone, on_lost=gone)
    while not closed.is_set():
        messages = client.consume(1_000, 0.1)
        errors = [message.error() for message in messages if message.error()]
        for message in messages:
            if not message.error():
                output.record(message.partition(), message.offset(), message.key(), message.value())
        sys.stdout.flush()
        if errors:
            print(errors, file=sys.stderr)
        if len(messages) > len(errors):
            commit(client)
    client.close()


def commit(client):
    try:
        client.commit(asynchronous=False)
    except KafkaException as error:
        # A member that lost its partitions, or a broker that is away: what was not committed comes again.
        print(error, file=sys.stderr)
        time.sleep(0.1)


if __name__ == "__main__":
    checks.main(__doc__, run_checks, produce, consume)
