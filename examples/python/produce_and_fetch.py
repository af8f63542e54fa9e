"""Produces plain records to a Logweir broker and fetches them back, over gRPC.

The stubs are generated from proto/ when the program starts, so nothing of them is kept in the
repository. To try it, with a broker running (`cargo run --release -- serve`):

    python3 -m venv venv && venv/bin/pip install -r examples/python/requirements.txt
    venv/bin/python examples/python/produce_and_fetch.py 127.0.0.1:9093
"""

import sys
import tempfile
import uuid
from pathlib import Path

import grpc
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"


def generate_stubs(into):
    """Generates Python modules from the contract and makes them importable."""
    files = sorted(str(path) for path in (PROTO / "logweir" / "v1").glob("*.proto"))
    arguments = ["protoc", f"-I{PROTO}", f"--python_out={into}", f"--grpc_python_out={into}"]
    if protoc.main(arguments + files) != 0:
        raise SystemExit("the stubs cannot be generated")
    sys.path.insert(0, str(into))


def main(address):
    # The modules exist only now.
    from logweir.v1 import common_pb2, fetch_pb2, fetch_pb2_grpc, produce_pb2, produce_pb2_grpc
    from logweir.v1 import topics_pb2, topics_pb2_grpc

    channel = grpc.insecure_channel(address)
    topics = topics_pb2_grpc.TopicServiceStub(channel)
    producer = produce_pb2_grpc.ProduceServiceStub(channel)
    reader = fetch_pb2_grpc.FetchServiceStub(channel)

    topic = f"greetings-{uuid.uuid4().hex[:8]}"
    new = topics_pb2.NewTopic(name=topic, partitions=3, configs={"retention.ms": "3600000"})
    created = topics.CreateTopics(topics_pb2.CreateTopicsRequest(topics=[new])).results[0]
    if created.HasField("error"):
        raise SystemExit(f"{created.error.name}: {created.error.message} {created.error.action}")

    # Records of one key go to one partition, chosen as Kafka's clients choose it. A key or a value
    # that is not set is null, which is not the same as empty.
    sent = [
        common_pb2.Record(key=b"alice", value=b"hello"),
        common_pb2.Record(key=b"bob", value=b"hi", headers=[common_pb2.Header(key="lang", value=b"en")]),
        common_pb2.Record(key=b"alice", value=b"hello again"),
        common_pb2.Record(key=b"bob"),
    ]
    append = produce_pb2.PartitionAppend(topic=topic, records=common_pb2.RecordList(records=sent))
    request = produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, appends=[append])
    results = producer.Produce(request, timeout=30).results
    for result in results:
        # An error of one partition stands in its own entry.
        if result.HasField("error"):
            raise SystemExit(f"{result.error.name}: {result.error.message} {result.error.action}")
        print(f"{result.record_count} record(s) in {topic}-{result.partition} from {result.base_offset}")

    request = fetch_pb2.FetchStreamRequest(
        partitions=[
            fetch_pb2.FetchPartition(
                topic=topic,
                partition=result.partition,
                fetch_offset=result.base_offset,
                end_offset=result.base_offset + result.record_count,
            )
            for result in results
        ],
        format=fetch_pb2.RECORD_FORMAT_RECORDS,
    )
    received = {}
    # The stream ends when every partition has reached its end offset; without one it would follow.
    for response in reader.FetchStream(request, timeout=30):
        for fetched in response.partitions:
            if fetched.HasField("error"):
                raise SystemExit(f"{fetched.error.name}: {fetched.error.message}")
            for record in fetched.records.records:
                value = record.value if record.HasField("value") else None
                print(f"{topic}-{fetched.partition} @{record.offset} {record.key!r}: {value!r}")
                received.setdefault(record.key, []).append(value)

    # A call that makes no sense as a whole is a status; its details hold a logweir.v1.Error.
    try:
        producer.Produce(produce_pb2.ProduceRequest(acks=77, appends=[append]), timeout=30)
        raise SystemExit("there is no acks=77")
    except grpc.RpcError as error:
        print(f"refused as expected: {error.code().name}: {error.details()}")

    expected = {b"alice": [b"hello", b"hello again"], b"bob": [b"hi", None]}
    if received != expected:
        raise SystemExit(f"expected {expected}, received {received}")
    print("every record came back, in order per key")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        generate_stubs(folder)
        main(sys.argv[1])
