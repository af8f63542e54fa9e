"""Writes and reads record batches with kafka-python; see README.md in this folder.

    python vectors.py write DIR       writes python-*.bin into DIR
    python vectors.py read FILE...    checks each file's batch and prints a line for each record
"""

import pathlib
import sys
import zlib

from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

TIME = 1_700_000_000_000
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def write(folder):
    for name, codec in CODECS.items():
        builder = DefaultRecordBatchBuilder(2, codec, False, 42, 1, 7, 1 << 20)
        headers = [("trace", b"1f"), ("empty", b""), ("null", None)]
        builder.append(0, TIME, b"k0", b"value 0", headers)
        builder.append(1, TIME + 5, None, b"no key", [])
        builder.append(2, TIME - 10, b"", b"", [])
        builder.append(3, TIME + 3, b"k0", None, [])
        repeats = 2 if name == "none" else 5000
        builder.append(4, TIME + 1000, b"\xff\x00", b"0123456789abcdef" * repeats, [])
        (folder / f"python-{name}.bin").write_bytes(bytes(builder.build()))


def show(value):
    if value is None:
        return "null"
    value = bytes(value)
    return f"[{value.hex()}]" if len(value) <= 16 else f"[{len(value)} bytes, crc32 {zlib.crc32(value):08x}]"


def read(path):
    records = MemoryRecords(path.read_bytes())
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc(), path
        for record in batch:
            headers = " ".join(f"{key}={show(value)}" for key, value in record.headers)
            print(path.name, record.offset, record.timestamp, show(record.key), show(record.value), headers)


if sys.argv[1] == "write":
    write(pathlib.Path(sys.argv[2]))
else:
    for name in sys.argv[2:]:
        read(pathlib.Path(name))
