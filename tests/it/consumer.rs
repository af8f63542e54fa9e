//! The client's group consumer on an embedded broker, whose clock and faults the test controls.

use std::collections::BTreeMap;
use std::time::Duration;

use logweir::{Broker, Config, ErrorCode};
use logweir_client::{
    Consumer, ConsumerConfig, ConsumerRecord, ErrorKind, Offset, OffsetReset, PartitionId, StartAt,
    Timestamp, TopicPartition,
};
use logweir_tests::{DEADLINE, GrpcBroker, wait_until_async};
use tokio_stream::StreamExt;

mod commits;
mod members;

/// A broker with a topic "orders" of four partitions, ten records in each.
async fn start() -> (Broker, GrpcBroker) {
    let broker = Broker::start(Config::in_memory()).await.unwrap();
    let mut grpc = GrpcBroker::connect(&broker.grpc_addr().unwrap().to_string()).await;
    grpc.create_topic("orders", 4, &[]).await;
    for partition in 0..4 {
        fill(&mut grpc, "orders", partition, 10).await;
    }
    (broker, grpc)
}

async fn fill(grpc: &mut GrpcBroker, topic: &str, partition: i32, count: usize) {
    for number in 0..count {
        grpc.produce_value(topic, partition, &number.to_string())
            .await;
    }
}

/// Commits by hand, after marks by hand.
fn manual() -> ConsumerConfig {
    ConsumerConfig {
        auto_commit: false,
        auto_mark: false,
        ..ConsumerConfig::new("g")
    }
}

fn open(broker: &Broker, config: ConsumerConfig) -> Consumer {
    let mut consumer = broker.client().unwrap().consumer_with(config).unwrap();
    consumer.subscribe(["orders"]).unwrap();
    consumer
}

async fn next(consumer: &mut Consumer) -> ConsumerRecord {
    let record = tokio::time::timeout(DEADLINE, consumer.next()).await;
    record.expect("a record in time").unwrap()
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<ConsumerRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        records.push(next(consumer).await);
    }
    records
}

/// Polls, handing nothing out, until something holds.
async fn poll_until(consumer: &mut Consumer, what: &str, holds: impl Fn(&Consumer) -> bool) {
    let polling = async {
        while !holds(consumer) {
            let records = consumer.poll(Duration::from_millis(5)).await.unwrap();
            assert!(records.is_empty(), "{what}: {records:?}");
        }
    };
    let held = tokio::time::timeout(DEADLINE, polling).await;
    held.unwrap_or_else(|_| panic!("{what}"));
}

/// Polls both until the two of them share the partitions of "orders"; what the first and the second were handed out.
async fn share(
    first: &mut Consumer,
    second: &mut Consumer,
) -> (Vec<ConsumerRecord>, Vec<ConsumerRecord>) {
    let short = Duration::from_millis(5);
    let mut read = (Vec::new(), Vec::new());
    let sharing = async {
        while first.assignment().len() != 2 || second.assignment().len() != 2 {
            read.0.extend(first.poll(short).await.unwrap());
            read.1.extend(second.poll(short).await.unwrap());
        }
    };
    let shared = tokio::time::timeout(DEADLINE, sharing).await;
    shared.expect("both have two partitions in time");
    read
}

fn place(partition: i32) -> TopicPartition {
    TopicPartition::new("orders", PartitionId::new(partition))
}

/// Where records came from and how many.
fn counts(records: &[ConsumerRecord]) -> BTreeMap<i32, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.partition.get()).or_default() += 1;
    }
    counts
}

/// What the group has committed, by partition of "orders".
async fn committed(broker: &Broker) -> BTreeMap<i32, i64> {
    let offsets = broker.client().unwrap().admin().group_offsets("g").await;
    let offsets = offsets.unwrap();
    let offsets = offsets.iter();
    offsets
        .map(|o| (o.partition.partition.get(), o.offset.get()))
        .collect()
}

async fn wait_committed(broker: &Broker, wanted: BTreeMap<i32, i64>) {
    let as_wanted = || async { (committed(broker).await == wanted).then_some(()) };
    wait_until_async(&format!("{wanted:?} is committed"), DEADLINE, as_wanted).await;
}

async fn members(broker: &Broker) -> usize {
    let group = broker.client().unwrap().admin().describe_group("g").await;
    group.unwrap().members.len()
}

#[tokio::test]
async fn a_consumer_seeks_pauses_and_tells_its_position_and_lag() {
    let (broker, _) = start().await;
    let mut consumer = open(&broker, manual());
    let unknown = consumer.pause(&place(0)).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Fenced);
    let records = take(&mut consumer, 40).await;
    assert_eq!(consumer.position(&place(1)), Some(Offset::new(10)));
    assert_eq!(consumer.lag(&place(1)), Some(0));

    consumer
        .seek(&place(1), StartAt::Offset(Offset::new(6)))
        .unwrap();
    assert_eq!(consumer.position(&place(1)), Some(Offset::new(6)));
    let again = take(&mut consumer, 2).await;
    assert_eq!(again[0].offset, Offset::new(6));
    assert_eq!(consumer.lag(&place(1)), Some(2));
    consumer.pause(&place(1)).unwrap();
    assert!(consumer.is_paused(&place(1)).unwrap());
    assert_eq!(consumer.poll(Duration::from_millis(50)).await.unwrap(), []);
    consumer.resume(&place(1)).unwrap();
    let rest = take(&mut consumer, 2).await;
    assert_eq!(rest[0].offset, Offset::new(8));

    let time = records
        .iter()
        .find(|r| r.offset.get() == 4 && r.partition.get() == 2);
    let time = time.unwrap().timestamp;
    consumer.seek(&place(2), StartAt::Timestamp(time)).unwrap();
    assert_eq!(consumer.position(&place(2)), None);
    assert!(next(&mut consumer).await.timestamp >= time);
    // A commit says where it was sought.
    consumer
        .seek(&place(3), StartAt::Offset(Offset::new(2)))
        .unwrap();
    consumer.commit().await.unwrap();
    assert_eq!(committed(&broker).await[&3], 2);
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_poll_takes_what_there_is_up_to_its_limit() {
    let (broker, _) = start().await;
    let config = ConsumerConfig {
        max_poll_records: 15,
        ..manual()
    };
    let mut consumer = open(&broker, config);
    let mut read = 0;
    while read < 40 {
        let records = consumer.poll(DEADLINE).await.unwrap();
        assert!((1..=15).contains(&records.len()), "{}", records.len());
        read += records.len();
    }
    assert_eq!(read, 40);
    assert_eq!(consumer.metrics().records, 40);
    // And as a stream, which never ends.
    consumer.seek(&place(3), StartAt::Earliest).unwrap();
    let stream = StreamExt::take(&mut consumer, 4).map(|record| record.unwrap().offset.get());
    assert_eq!(stream.collect::<Vec<_>>().await, [0, 1, 2, 3]);
    consumer.seek(&place(0), StartAt::Earliest).unwrap();
    consumer.pause(&place(3)).unwrap();
    let batch = consumer.next_batch().await.unwrap();
    consumer.mark_batch(&batch).unwrap();
    consumer.commit().await.unwrap();
    let marked = BTreeMap::from([(0, batch.next_offset.get())]);
    assert_eq!(committed(&broker).await, marked);
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_pattern_takes_in_topics_that_are_made_later_and_leaves_those_that_go() {
    let (broker, mut grpc) = start().await;
    let mut consumer = broker.client().unwrap().consumer_with(manual()).unwrap();
    consumer.subscribe_pattern("orders(-.*)?").unwrap();
    take(&mut consumer, 40).await;
    grpc.create_topic("orders-eu", 2, &[]).await;
    fill(&mut grpc, "orders-eu", 1, 3).await;
    let read = take(&mut consumer, 3).await;
    assert!(read.iter().all(|record| &*record.topic == "orders-eu"));

    // A topic that is made anew is read from its beginning, whatever was committed.
    consumer.mark(&read[2]).unwrap();
    consumer.commit().await.unwrap();
    let admin = broker.client().unwrap().admin();
    admin.delete_topic("orders-eu").await.unwrap();
    poll_until(&mut consumer, "its partitions go", |consumer| {
        consumer.assignment().len() == 4
    })
    .await;
    grpc.create_topic("orders-eu", 1, &[]).await;
    fill(&mut grpc, "orders-eu", 0, 1).await;
    assert_eq!(next(&mut consumer).await.offset, Offset::ZERO);

    // And a subscription can be changed.
    consumer.subscribe(["orders-eu"]).unwrap();
    poll_until(&mut consumer, "the others go", |consumer| {
        consumer.assignment().len() == 1
    })
    .await;
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_group_begins_where_it_is_told_if_it_has_committed_nothing() {
    let (broker, mut grpc) = start().await;
    let at = |auto_offset_reset| ConsumerConfig {
        auto_offset_reset,
        ..manual()
    };
    let mut latest = open(&broker, at(OffsetReset::Latest));
    poll_until(&mut latest, "it is at the end", |consumer| {
        (0..4).all(|p| consumer.position(&place(p)) == Some(Offset::new(10)))
    })
    .await;
    fill(&mut grpc, "orders", 3, 1).await;
    let record = next(&mut latest).await;
    assert_eq!(record.offset, Offset::new(10));
    latest.close().await.unwrap();

    let from = OffsetReset::Timestamp(record.timestamp);
    let mut timed = open(&broker, at(from));
    assert!(next(&mut timed).await.timestamp >= record.timestamp);
    timed.close().await.unwrap();

    let mut never = open(
        &broker,
        at(OffsetReset::Timestamp(Timestamp::new(i64::MAX))),
    );
    poll_until(&mut never, "there is nothing so late", |consumer| {
        consumer.position(&place(3)) == Some(Offset::new(11))
    })
    .await;
    never.close().await.unwrap();

    let mut none = open(&broker, at(OffsetReset::Error));
    let refused = none.next().await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.topic()),
        (ErrorKind::Data, Some("orders"))
    );
    for partition in 0..4 {
        none.seek(&place(partition), StartAt::Offset(Offset::new(9)))
            .unwrap();
    }
    // What was not told yet is of no interest any more.
    let read = take(&mut none, 5).await;
    assert!(read.iter().all(|record| record.offset.get() >= 9));
    none.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_said_at_once() {
    let (broker, _) = start().await;
    let client = broker.client().unwrap();
    let invalid = client.consumer("").unwrap_err();
    assert!(invalid.message().contains("group_id"), "{invalid}");
    let mut consumer = client.consumer("g").unwrap();
    let nothing = consumer.next().await.unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::Invalid);
    let no_topics = consumer.subscribe(Vec::<String>::new()).unwrap_err();
    let no_name = consumer.subscribe(["orders", ""]).unwrap_err();
    let no_pattern = consumer.subscribe_pattern("").unwrap_err();
    for refused in [no_topics, no_name, no_pattern] {
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    }
    consumer.subscribe_pattern("orders(").unwrap();
    let pattern = consumer.next().await.unwrap_err();
    assert_eq!(pattern.code(), Some(ErrorCode::InvalidRegularExpression));
    // It can be mended.
    consumer.subscribe(["orders"]).unwrap();
    let first = consumer.poll(Duration::MAX).await.unwrap();
    take(&mut consumer, 40 - first.len()).await;
    let handle = consumer.handle();
    consumer.close().await.unwrap();
    let closed = handle.commit().await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
    let late = handle.mark(&first[0]).unwrap_err();
    assert_eq!(
        (late.kind(), handle.assignment()),
        (ErrorKind::Fenced, vec![])
    );

    let assignor = ConsumerConfig {
        server_assignor: Some("fair".to_owned()),
        ..manual()
    };
    let unsupported = open(&broker, assignor).next().await.unwrap_err();
    assert_eq!(unsupported.code(), Some(ErrorCode::UnsupportedAssignor));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn closing_takes_no_longer_than_it_may_without_a_broker() {
    let (broker, _) = start().await;
    let config = ConsumerConfig {
        close_timeout: Duration::from_millis(200),
        ..ConsumerConfig::new("g")
    };
    let mut consumer = open(&broker, config);
    take(&mut consumer, 40).await;
    broker.shutdown().await.unwrap();
    let closed = tokio::time::timeout(DEADLINE, consumer.close()).await;
    let late = closed.unwrap().unwrap_err();
    assert_eq!(late.kind(), ErrorKind::TimedOut);
}
