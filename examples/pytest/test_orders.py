"""Tests of a program that writes and reads orders; the program is the two functions at the top.

    python3 -m venv venv && venv/bin/pip install -r examples/pytest/requirements.txt
    LOGWEIR=target/release/logweir venv/bin/pytest examples/pytest
"""

import os


def write(channel, topic, orders):
    """Stores (order, state) pairs and waits until they are safe."""
    from logweir.v1 import common_pb2, produce_pb2, produce_pb2_grpc

    records = [common_pb2.Record(key=key.encode(), value=state.encode()) for key, state in orders]
    append = produce_pb2.PartitionAppend(
        topic=topic, records=common_pb2.RecordList(records=records)
    )
    request = produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, appends=[append])
    answer = produce_pb2_grpc.ProduceServiceStub(channel).Produce(request, timeout=30)
    for result in answer.results:
        if result.HasField("error"):
            raise RuntimeError(f"{result.error.name}: {result.error.message}")


def read(channel, topic, partitions=3):
    """Every (order, state) pair there is, partition by partition."""
    from logweir.v1 import fetch_pb2, fetch_pb2_grpc

    wanted = [
        fetch_pb2.FetchPartition(topic=topic, partition=number, fetch_offset=0)
        for number in range(partitions)
    ]
    request = fetch_pb2.FetchRequest(
        partitions=wanted, format=fetch_pb2.RECORD_FORMAT_RECORDS, max_wait_ms=0
    )
    answer = fetch_pb2_grpc.FetchServiceStub(channel).Fetch(request, timeout=30)
    for part in answer.partitions:
        if part.HasField("error"):
            raise RuntimeError(f"{part.error.name}: {part.error.message}")
        # A program that reads more than one answer holds goes on at next_fetch_offset.
        assert part.next_fetch_offset == part.high_watermark
    return [
        (record.key.decode(), record.value.decode())
        for part in answer.partitions
        for record in part.records.records
    ]


def test_the_states_of_an_order_come_in_order(channel, topic):
    sent = [(f"order-{n % 7}", f"state-{n}") for n in range(100)]
    write(channel, topic, sent)
    got = read(channel, topic)
    assert sorted(got) == sorted(sent)
    for order in {key for key, _ in sent}:
        states = [state for key, state in got if key == order]
        assert states == [state for key, state in sent if key == order]


def test_every_test_has_a_topic_of_its_own(channel, topic):
    assert read(channel, topic) == []


def test_the_broker_is_a_process_of_this_test_run(broker):
    os.kill(broker["pid"], 0)
    assert broker["grpc"].startswith("127.0.0.1:") and broker["http"] is None
