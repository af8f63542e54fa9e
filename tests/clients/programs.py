"""The programs of this folder as child processes: producers, and members of groups.

Each language's program understands `produce ADDRESS TOPIC` and `consume ADDRESS TOPIC GROUP`. A member tells
`=`, tab, the partitions that it owns whenever they change, and for each record its partition, offset, key and value;
it commits what it has told, and leaves when its standard input closes. What was built lies in CLIENTS_BUILD.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLIGHTS = HERE.parents[1] / "examples" / "data" / "flights.csv.gz"
SECONDS = 60


def command(language):
    build = Path(os.environ["CLIENTS_BUILD"])
    java = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{build}/java:{build}/jars/*", "Clients"]
    return {
        "librdkafka": [sys.executable, HERE / "python" / "librdkafka.py"],
        "kafka-python": [sys.executable, HERE / "python" / "kafka_python.py"],
        "franz-go": [build / "franz"],
        "sarama": [build / "sarama"],
        "java": java,
        "kafkajs": ["node", build / "node" / "clients.js"],
        "kcat": [HERE / "kcat" / "clients.sh"],
    }[language]


def flights(count):
    """The first flights of 2013 as (tail number, line)."""
    with gzip.open(FLIGHTS, "rt") as lines:
        header = next(lines).rstrip("\n").split(",")
        column = header.index("tailnum")
        rows = [line.rstrip("\n") for _, line in zip(range(count), lines)]
    return [(row.split(",")[column], row) for row in rows]


def until(what, condition, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.05)


def produce(language, address, topic, rows):
    """Sends rows with the program of a language, and waits until all are acknowledged."""
    arguments = [*command(language), "produce", address, topic]
    text = "".join(f"{key}\t{value}\n" for key, value in rows)
    done = subprocess.run(arguments, input=text, text=True, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, f"{language} produces: {done.stderr[-500:]}"


class Member:
    """A member of a group; `records` are (partition, offset, key, value)."""

    def __init__(self, arguments, name):
        self.name, self.owned, self.records, self.errors = name, set(), [], []
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        self.readers = [
            threading.Thread(target=self.read, daemon=True),
            threading.Thread(target=self.read_errors, daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def read(self):
        for line in self.process.stdout:
            self.told(line.rstrip("\n"))

    def read_errors(self):
        for line in self.process.stderr:
            self.errors = [*self.errors[-20:], line.rstrip("\n")]

    def told(self, line):
        if line.startswith("=\t"):
            self.owned = {int(partition) for partition in line[2:].split(",") if partition}
        else:
            partition, offset, key, value = line.split("\t", 3)
            self.records.append((int(partition), int(offset), key, value))

    def leave(self):
        """Leaves the group and waits until it has."""
        self.process.stdin.close()
        self.ended()

    def ended(self):
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} does not end") from None
        for reader in self.readers:
            reader.join()
        assert code in (0, 130), f"{self.name} ends with {code}: {self.errors}"

    def kill(self):
        """Ends it without leaving, for when something went wrong."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class KafkaMember(Member):
    def __init__(self, language, address, topic, group, *protocol):
        super().__init__([*command(language), "consume", address, topic, group, *protocol], language)


class GrpcMember(Member):
    """`logweir consume --group --follow`; the broker says what it owns."""

    def __init__(self, logweir, grpc, topic, group):
        options = ["--group", group, "--follow", "--quiet", "--output", "json", "--server", grpc]
        super().__init__([logweir, "consume", topic, *options], "logweir consume")

    def told(self, line):
        record = json.loads(line)
        fields = (record[name] for name in ("partition", "offset", "key", "value"))
        self.records.append(tuple(fields))

    def leave(self):
        self.process.send_signal(signal.SIGINT)
        self.ended()
