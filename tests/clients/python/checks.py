"""What the Python programs share: the command line, how a check is told, and deadlines."""

import os
import sys
import threading
import time
import traceback
import uuid

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PARTITIONS = 4
SECONDS = 30

failed = False


def unique(name):
    """A name that no other run has."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def check(name, body, *arguments):
    """Runs a check and prints how it went."""
    global failed
    try:
        body(*arguments)
        print("ok", name, flush=True)
    except Exception as error:
        failed = True
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"FAIL {name}: {why}", flush=True)
        if not isinstance(error, AssertionError):
            traceback.print_exc()


def same(got, wanted, what="got"):
    assert got == wanted, f"{what}: {str(got)[:300]}, wanted {str(wanted)[:300]}"


def until(what, condition, seconds=SECONDS):
    """Waits for a condition; it may do the work that it waits for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def rows(count):
    """Records of all sizes: (key, value, headers), some without key, value or headers."""
    for number in range(count):
        key = None if number % 7 == 0 else b"key-%d" % (number % 50)
        value = None if number % 101 == 100 else b"%d " % number + b"v" * (number % 900)
        headers = [("number", b"%d" % number), ("number", b"")] if number % 3 else []
        yield key, value, headers


class Output:
    """What a member of a group tells on standard output: what it owns, and each record."""

    def owned(self, partitions):
        print("=\t" + ",".join(str(partition) for partition in sorted(partitions)), flush=True)

    def record(self, partition, offset, key, value):
        key, value = (key or b"").decode(), (value or b"").decode()
        sys.stdout.write(f"{partition}\t{offset}\t{key}\t{value}\n")


def input_rows():
    """Lines of standard input: a key, a tab, a value."""
    for line in sys.stdin.buffer:
        key, value = line.rstrip(b"\n").split(b"\t", 1)
        yield key, value


def input_closed():
    """An event that is set when standard input ends."""
    closed = threading.Event()

    def wait():
        while os.read(0, 4096):
            pass
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    return closed


def main(usage, checks, produce, consume):
    """`check ADDRESS`, `produce ADDRESS TOPIC` or `consume ADDRESS TOPIC GROUP [PROTOCOL]`."""
    match sys.argv[1:]:
        case ["check", address]:
            checks(address)
        case ["produce", address, topic]:
            produce(address, topic)
        case ["consume", address, topic, group, *protocol]:
            consume(address, topic, group, *protocol)
        case _:
            raise SystemExit(usage)
    sys.exit(failed)
