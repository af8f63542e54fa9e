"""Several clients at a time: what one language wrote is read by a group of another, or of several.

    across.py LOGWEIR KAFKA_ADDRESS GRPC_ADDRESS
"""

import json
import subprocess
import sys
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from programs import GrpcMember, KafkaMember, flights, produce, until

PARTITIONS = 6
ROWS = flights(3_000)
# Who writes, and of what the group is made that reads.
PAIRS = [
    ("librdkafka", "franz-go"),
    ("franz-go", "java"),
    ("java", "kafkajs"),
    ("kafkajs", "kcat"),
    ("kcat", "kafka-python"),
    ("kafka-python", "sarama"),
    ("sarama", "librdkafka"),
]
# Groups whose members assign partitions with the broker (KIP-848).
NEW_GROUPS = [("librdkafka", "java"), ("java", "librdkafka")]
# Those that know the range assignor, so that any of them can lead a group of all.
ALL = ["librdkafka", "kafka-python", "franz-go", "sarama", "java", "kcat"]
LOGWEIR, KAFKA, GRPC = sys.argv[1:4]


def logweir(*arguments):
    command = [LOGWEIR, *arguments, "--server", GRPC]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def new_topic():
    topic = f"flights-{uuid.uuid4().hex[:12]}"
    logweir("topic", "create", topic, "--partitions", str(PARTITIONS))
    return topic


def all_owned(members):
    """Whether every partition has one owner, and every member one or more."""
    owned = sorted(partition for member in members for partition in member.owned)
    return owned == list(range(PARTITIONS)) and all(member.owned for member in members)


def received(members):
    return [record for member in members for record in member.records]


def wait_for_all(members, count):
    counts = lambda: f"{count} records: {[(m.name, len(m.records), m.errors[-2:]) for m in members]}"
    until(counts, lambda: len(received(members)) >= count)


def check_each_once(members, rows):
    """Every row came once, and those of a key in the order in which they were written."""
    got = received(members)
    places = Counter((partition, offset) for partition, offset, _, _ in got)
    twice = [place for place, count in places.items() if count > 1]
    assert not twice, f"{len(twice)} records came twice, such as {twice[0]}"
    assert Counter(value for *_, value in got) == Counter(value for _, value in rows), "other rows"
    written, read = {}, {}
    for key, value in rows:
        written.setdefault(key, []).append(value)
    for _, _, key, value in sorted(got, key=lambda record: record[:2]):
        read.setdefault(key, []).append(value)
    assert read == written, "another order"


def check_no_lag(group):
    described = json.loads(logweir("group", "describe", group, "--json"))
    assert described["lag_records"] == 0, described["lag_records"]


def one_group(writer, readers, *protocol):
    topic, group = new_topic(), f"across-{uuid.uuid4().hex[:12]}"
    members = [KafkaMember(reader, KAFKA, topic, group, *protocol) for reader in readers]
    try:
        told = lambda: f"partitions shared: {[(m.name, m.owned, m.errors[-2:]) for m in members]}"
        until(told, lambda: all_owned(members))
        produce(writer, KAFKA, topic, ROWS)
        wait_for_all(members, len(ROWS))
        for member in members:
            member.leave()
        check_each_once(members, ROWS)
        check_no_lag(group)
    finally:
        for member in members:
            member.kill()


def grpc_and_java():
    """Members over gRPC and Java's share a group, and more of both come while records are written."""
    topic, group = new_topic(), f"across-{uuid.uuid4().hex[:12]}"
    members = []

    def join():
        members.append(KafkaMember("java", KAFKA, topic, group, "consumer"))
        members.append(GrpcMember(LOGWEIR, GRPC, topic, group))

    def shared():
        if f'"{group}"' not in logweir("group", "list", "--json"):
            return False
        found = [json.loads(line) for line in logweir("group", "members", group, "--json").splitlines()]
        owned = [member["assignment"].get(topic, []) for member in found]
        return len(owned) == len(members) and all(owned) and sorted(sum(owned, [])) == list(range(PARTITIONS))

    try:
        join()
        until("a group of two", shared)
        produce("librdkafka", KAFKA, topic, ROWS[:1_000])
        join()
        for start in range(1_000, 2_000, 250):
            produce("librdkafka", KAFKA, topic, ROWS[start : start + 250])
        until("a group of four", shared)
        produce("librdkafka", KAFKA, topic, ROWS[2_000:])
        wait_for_all(members, len(ROWS))
        for member in members:
            member.leave()
        check_each_once(members, ROWS)
        assert all(member.records for member in members), "a member got nothing"
        check_no_lag(group)
    finally:
        for member in members:
            member.kill()


def main():
    cases = [(f"{writer}-to-{reader}", one_group, writer, [reader] * 2) for writer, reader in PAIRS]
    for writer, reader in NEW_GROUPS:
        cases.append((f"{writer}-to-{reader}-kip-848", one_group, writer, [reader] * 2, "consumer"))
    cases.append(("one-group-of-all", one_group, "franz-go", ALL))
    cases.append(("grpc-and-java-in-one-group", grpc_and_java))
    failed = False
    with ThreadPoolExecutor(3) as pool:
        running = [(name, pool.submit(case, *arguments)) for name, case, *arguments in cases]
        for name, result in running:
            try:
                result.result()
                print("ok", name, flush=True)
            except Exception as error:
                failed = True
                print(f"FAIL {name}: {' '.join(f'{type(error).__name__}: {error}'.split())}", flush=True)
    sys.exit(failed)


main()
