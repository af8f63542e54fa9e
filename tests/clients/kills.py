"""Kills a broker again and again (SIGKILL) while idempotent producers write and groups of two languages read.

    kills.py LOGWEIR KILLS

Afterwards every record that was acknowledged is in the topic exactly once, where it was said to be and in the order of
its producer, and each group has seen every one at least once. LOGWEIR_SEED replays when the broker was killed.
"""

import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from programs import KafkaMember, until

PRODUCERS = 2
PARTITIONS = 6
TOPIC = "kills"
# Records that a producer sends in a second, about.
RATE = 1_000
# Who reads: two members each. The second group assigns partitions with the broker (KIP-848).
GROUPS = {"go": ("franz-go",), "java": ("java", "consumer")}
LOGWEIR, KILLS = sys.argv[1], int(sys.argv[2])


def free_port(chance):
    """A port that no client is given for a connection of its own while the broker is away."""
    while True:
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Broker:
    def __init__(self, folder, chance):
        self.folder, self.ready = folder, folder / "ready.json"
        self.kafka, self.grpc = (f"127.0.0.1:{free_port(chance)}" for _ in range(2))
        self.process = None

    def start(self):
        self.ready.unlink(missing_ok=True)
        command = [LOGWEIR, "serve", "--data-dir", self.folder / "data", "--http", "off"]
        command += ["--kafka", self.kafka, "--grpc", self.grpc, "--log-level", "warn"]
        command += ["--ready-file", self.ready, "--exit-with-parent"]
        with open(self.folder / "broker.log", "ab") as log:
            pipe, null = subprocess.PIPE, subprocess.DEVNULL
            self.process = subprocess.Popen(command, stdin=pipe, stdout=null, stderr=log)
        until("the broker is ready", lambda: self.ready.exists() or self.died())

    def died(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the broker ends by itself: {(self.folder / 'broker.log').read_text()[-2000:]}")

    def kill(self):
        self.died()
        self.process.kill()
        self.process.wait()


class Writer(threading.Thread):
    """An idempotent producer that numbers its records; number n goes to partition n modulo their count."""

    def __init__(self, name, address):
        super().__init__(daemon=True)
        self.name, self.sent, self.acknowledged, self.errors = name, 0, {}, []
        self.stopping = threading.Event()
        config = {"bootstrap.servers": address, "enable.idempotence": True, "acks": "all"}
        config |= {"message.timeout.ms": 600_000, "reconnect.backoff.max.ms": 200, "linger.ms": 5}
        self.producer = Producer(config | {"queue.buffering.max.messages": 5_000, "log_level": 2})

    def run(self):
        try:
            while not self.stopping.is_set():
                self.send_one()
                if self.sent % 10 == 0:
                    self.producer.poll(10 / RATE)
            left = self.producer.flush(120)
            if left:
                self.errors.append(f"{left} records without an answer")
        except Exception as error:
            self.errors.append(error)

    def send_one(self):
        value = f"{self.name} {self.sent}"
        try:
            self.producer.produce(TOPIC, value, partition=self.sent % PARTITIONS, on_delivery=self.told)
            self.sent += 1
        except BufferError:
            self.producer.poll(0.05)

    def told(self, error, message):
        if error:
            self.errors.append(f"{message.value()}: {error}")
        else:
            self.acknowledged[message.value().decode()] = (message.partition(), message.offset())


def read_topic(address):
    """Every record there is: partition -> [(offset, value)], in order."""
    config = {"bootstrap.servers": address, "group.id": "nobody", "enable.auto.commit": False}
    consumer = Consumer(config | {"enable.partition.eof": False})
    ends = {}
    for partition in range(PARTITIONS):
        ends[partition] = consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=30)[1]
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in ends])
    found = {partition: [] for partition in ends}

    def all_read():
        for message in consumer.consume(10_000, 0.1):
            if message.error():
                raise KafkaException(message.error())
            found[message.partition()].append((message.offset(), message.value().decode()))
        return all(not end or (found[p] and found[p][-1][0] >= end - 1) for p, end in ends.items())

    until("the whole topic is read", all_read)
    consumer.close()
    return found


def check_topic(writers, found):
    values = Counter(value for records in found.values() for _, value in records)
    twice = [value for value, count in values.items() if count > 1]
    assert not twice, f"{len(twice)} records are there twice, such as {twice[:3]}"
    at = {value: (partition, offset) for partition, records in found.items() for offset, value in records}
    for writer in writers:
        lost = [value for value in writer.acknowledged if value not in at]
        assert not lost, f"{len(lost)} acknowledged records are lost, such as {lost[:3]}"
        moved = [value for value, place in writer.acknowledged.items() if place[1] >= 0 and at[value] != place]
        assert not moved, f"{len(moved)} records are not where they were said to be, such as {moved[:3]}"
    for partition, records in found.items():
        newest = {}
        for offset, value in records:
            name, number = value.rsplit(" ", 1)
            before = newest.get(name, -1)
            assert before < int(number), f"{partition}@{offset}: {value} comes after {before}"
            newest[name] = int(number)
    return set(values)


def kill_often(broker, writers, chance):
    count = lambda: sum(len(writer.acknowledged) for writer in writers)
    for _ in range(KILLS):
        before = count()
        # Most at any time, some while the broker or its clients are still finding back.
        wait = chance.uniform(0, 0.3) if chance.random() < 0.3 else chance.uniform(0.3, 1.5)
        if wait > 0.3:
            until("acknowledgements after a restart", lambda: count() > before or failed(writers))
        time.sleep(wait)
        broker.kill()
        broker.start()


def failed(writers):
    for writer in writers:
        if writer.errors:
            raise AssertionError(f"{writer.name}: {writer.errors[:3]}")
    return False


def seen(members):
    return {value for member in members for *_, value in list(member.records)}


def run(folder, chance):
    broker = Broker(folder, chance)
    broker.start()
    create = [LOGWEIR, "topic", "create", TOPIC, "--partitions", str(PARTITIONS), "--server", broker.grpc]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
    writers = [Writer(f"writer-{number}", broker.kafka) for number in range(PRODUCERS)]
    groups = {}
    try:
        for group, (language, *protocol) in GROUPS.items():
            join = lambda: KafkaMember(language, broker.kafka, TOPIC, group, *protocol)
            groups[group] = [join(), join()]
        for writer in writers:
            writer.start()
        kill_often(broker, writers, chance)
        for writer in writers:
            writer.stopping.set()
            writer.join()
        failed(writers)
        # Once more: what was acknowledged last must outlast it, too.
        broker.kill()
        broker.start()
        values = check_topic(writers, read_topic(broker.kafka))
        for group, members in groups.items():
            lacks = lambda: f"{len(values - seen(members))} more in {group}, {[m.errors[-3:] for m in members]}"
            until(lacks, lambda: values <= seen(members), 120)
        tell(writers, values, groups)
        for members in groups.values():
            for member in members:
                member.leave()
    finally:
        for members in groups.values():
            for member in members:
                member.kill()
        if broker.process.poll() is None:
            broker.kill()


def tell(writers, values, groups):
    acknowledged = sum(len(writer.acknowledged) for writer in writers)
    print(f"{KILLS + 1} kills, {acknowledged} records acknowledged, {len(values)} in the topic, each once and in order")
    for group, members in groups.items():
        records = [(member.name, len(member.records)) for member in members]
        print(f"group {group}: {len(seen(members))} different records, handed out by member: {records}")


def main():
    # Taken away, because the broker takes LOGWEIR_ variables for settings.
    seed = int(os.environ.pop("LOGWEIR_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="logweir-kills-") as folder:
        try:
            run(Path(folder), random.Random(seed))
            print(f"ok kills ({time.monotonic() - began:.0f} s)")
        except Exception as error:
            log = Path(folder, "broker.log").read_text()[-2_000:]
            print(f"FAIL kills: seed {seed}: {' '.join(f'{type(error).__name__}: {error}'.split())}\n{log}")
            sys.exit(1)


main()
