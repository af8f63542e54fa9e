"""kafka-python: the protocol written in Python.

    kafka_python.py check ADDRESS                 every check
    kafka_python.py produce ADDRESS TOPIC <LINES  sends KEY, tab, VALUE
    kafka_python.py consume ADDRESS TOPIC GROUP   a member of a group until standard input closes
"""

import sys
import threading

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

import checks
from checks import PARTITIONS, SECONDS, check, same, unique, until


def producer(address, **more):
    return KafkaProducer(bootstrap_servers=address, enable_idempotence=True, acks="all", **more)


def member(address, group=None):
    """A member of a group that commits only what it is told to; without a group a plain reader."""
    config = {"bootstrap_servers": address, "group_id": group, "enable_auto_commit": False}
    config |= {"auto_offset_reset": "earliest", "fetch_max_wait_ms": 100}
    if group:
        config |= {"session_timeout_ms": 10_000, "heartbeat_interval_ms": 300}
        config |= {"partition_assignment_strategy": [RangePartitionAssignor]}
    return KafkaConsumer(**config)


def send(client, topic, rows, partition=None):
    sent = [
        client.send(topic, value, key, headers=headers, partition=partition)
        for key, value, headers in rows
    ]
    client.flush(SECONDS)
    return [future.get(SECONDS).offset for future in sent]


def poll(client):
    return [record for records in client.poll(100).values() for record in records]


def take(client, count):
    got = []
    until(f"{count} records", lambda: got.extend(poll(client)) or len(got) >= count)
    same(len(got), count, "records")
    return got


class Member(threading.Thread):
    """Polls in a thread of its own: joining needs all members at a time, and gives up when a poll ends."""

    def __init__(self, address, topic, group):
        super().__init__(daemon=True)
        self.client, self.leaving = member(address, group), threading.Event()
        self.client.subscribe([topic])
        self.owned, self.seen = set(), []
        self.start()

    def run(self):
        while not self.leaving.is_set():
            records = poll(self.client)
            if records:
                self.client.commit()
            self.seen += [(record.partition, record.offset) for record in records]
            self.owned = self.client.assignment()
        self.client.close()

    def leave(self):
        self.leaving.set()
        self.join(SECONDS)


class Checks:
    def __init__(self, address):
        self.address = address
        self.admin = KafkaAdminClient(bootstrap_servers=address)

    def topic(self, name, partitions=1):
        name = unique(f"kafka-python-{name}")
        self.admin.create_topics([NewTopic(name, partitions, 1)])
        return name

    def codec(self, codec):
        topic, rows = self.topic(codec), list(checks.rows(500))
        client = producer(self.address, compression_type=None if codec == "none" else codec)
        same(send(client, topic, rows, partition=0), list(range(len(rows))), "offsets")
        client.close()
        reader = member(self.address)
        reader.assign([TopicPartition(topic, 0)])
        reader.seek_to_beginning()
        same([(r.key, r.value, list(r.headers)) for r in take(reader, len(rows))], rows)
        reader.close()

    def group(self):
        topic, group = self.topic("group", PARTITIONS), unique("kafka-python-group")
        first, second = (Member(self.address, topic, group) for _ in range(2))
        seen = lambda *members: [place for member in members for place in member.seen]
        until("two partitions each", lambda: [len(m.owned) for m in (first, second)] == [2, 2])
        writer, rows = producer(self.address), [(b"%d" % n, b"%d" % n, []) for n in range(400)]
        send(writer, topic, rows)
        until("400 records", lambda: len(seen(first, second)) >= 400)
        first.leave(), second.leave()
        same(len(seen(first, second)), 400, "records")
        same(len(set(seen(first, second))), 400, "different records")
        send(writer, topic, rows[:100])
        writer.close()
        third = Member(self.address, topic, group)
        until("100 records", lambda: len(third.seen) >= 100)
        third.leave()
        same(len(set(seen(first, second, third))), 500, "records after the commits")

    def topics(self):
        topic = self.topic("admin", 2)
        try:
            self.admin.create_topics([NewTopic(topic, 1, 1)])
            raise AssertionError("created twice")
        except TopicAlreadyExistsError:
            pass
        same(len(self.admin.describe_topics([topic])[0]["partitions"]), 2)
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        assert self.admin.describe_configs([resource]), "no settings"
        self.admin.delete_topics([topic])
        until("no topic", lambda: topic not in self.admin.list_topics())

    def offsets(self):
        topic, group = self.topic("offsets"), unique("kafka-python-offsets")
        writer, partition = producer(self.address), TopicPartition(topic, 0)
        for second in range(5):
            at = 1_600_000_000_000 + second * 1_000
            writer.send(topic, b"v", partition=0, timestamp_ms=at).get(SECONDS)
        writer.close()
        client = member(self.address, group)
        client.assign([partition])
        same(client.beginning_offsets([partition]), {partition: 0})
        same(client.end_offsets([partition]), {partition: 5})
        same(client.offsets_for_times({partition: 1_600_000_001_500})[partition].offset, 2)
        client.commit({partition: OffsetAndMetadata(3, "note", -1)})
        same(client.committed(partition), 3)
        client.close()


def run_checks(address):
    client = Checks(address)
    for codec in checks.CODECS:
        check(f"codec-{codec}", client.codec, codec)
    check("group-classic", client.group)
    check("admin-topics", client.topics)
    check("offsets", client.offsets)


def produce(address, topic):
    client = producer(address, linger_ms=5)
    send(client, topic, ((key, value, []) for key, value in checks.input_rows()))
    client.close()


class Told(ConsumerRebalanceListener):
    """Tells which partitions the member owns."""

    def on_partitions_assigned(self, assigned):
        checks.Output().owned(found.partition for found in assigned)

    def on_partitions_revoked(self, revoked):
        checks.Output().owned([])


def consume(address, topic, group):
    closed, output, client = checks.input_closed(), checks.Output(), member(address, group)
    client.subscribe([topic], listener=Told())
    while not closed.is_set():
        records = poll(client)
        for record in records:
            output.record(record.partition, record.offset, record.key, record.value)
        sys.stdout.flush()
        try:
            if records:
                client.commit()
        except KafkaError as error:
            # What was not committed comes again.
            print(error, file=sys.stderr)
    client.close()


if __name__ == "__main__":
    checks.main(__doc__, run_checks, produce, consume)
