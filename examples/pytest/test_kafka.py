"""Tests of a program that uses a Kafka client; nothing in it knows of Logweir but its address."""

from confluent_kafka import Consumer, Producer


def write(config, topic, orders):
    """Stores (order, state) pairs and waits until they are safe."""
    producer = Producer({**config, "enable.idempotence": True})
    for order, state in orders:
        producer.produce(topic, state, order)
    assert producer.flush(30) == 0


def read(config, topic, group, count):
    """The next so many (order, state) pairs of a group, which then goes on behind them."""
    settings = {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({**config, **settings})
    consumer.subscribe([topic])
    records = []
    while len(records) < count:
        records += consumer.consume(count - len(records), 10)
    consumer.commit(asynchronous=False)
    consumer.close()
    return [(record.key().decode(), record.value().decode()) for record in records]


def test_the_states_of_an_order_come_in_order(kafka, topic):
    sent = [(f"order-{n % 7}", f"state-{n}") for n in range(100)]
    write(kafka, topic, sent)
    got = read(kafka, topic, "billing", 100)
    for order in {key for key, _ in sent}:
        states = [state for key, state in got if key == order]
        assert states == [state for key, state in sent if key == order]


def test_a_group_goes_on_where_it_stopped(kafka, topic):
    write(kafka, topic, [("7", "paid"), ("7", "shipped")])
    assert read(kafka, topic, "billing", 1) == [("7", "paid")]
    assert read(kafka, topic, "billing", 1) == [("7", "shipped")]
