//! The client's group consumer on an embedded broker, whose clock and faults the test controls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logweir::{Api, Broker, Config, ErrorCode, Fault};
use logweir_client::{
    Consumer, ConsumerConfig, ConsumerHandle, ConsumerRecord, Delivery, ErrorKind, Offset,
    OffsetReset, OffsetToCommit, PartitionId, RebalanceFuture, RebalanceListener, StartAt,
    Timestamp, TopicPartition,
};
use logweir_tests::{DEADLINE, GrpcBroker, wait_until_async};
use tokio_stream::StreamExt;

const POLL: Duration = Duration::from_secs(300);

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

/// Notes what happens.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<(&'static str, usize)>>>);

impl Diary {
    fn note(&self, what: &'static str, partitions: &[TopicPartition]) {
        self.0.lock().unwrap().push((what, partitions.len()));
    }

    fn read(&self) -> Vec<(&'static str, usize)> {
        self.0.lock().unwrap().clone()
    }
}

impl RebalanceListener for Diary {
    fn assigned<'a>(
        &'a mut self,
        _: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> RebalanceFuture<'a> {
        Box::pin(async { self.note("assigned", partitions) })
    }

    fn revoked<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> RebalanceFuture<'a> {
        Box::pin(async {
            consumer.commit().await.unwrap();
            self.note("revoked", partitions);
        })
    }

    fn lost<'a>(
        &'a mut self,
        _: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> RebalanceFuture<'a> {
        Box::pin(async { self.note("lost", partitions) })
    }
}

#[tokio::test]
async fn what_was_handed_out_is_committed_on_closing_and_not_read_again() {
    let (broker, mut grpc) = start().await;
    let mut consumer = open(&broker, ConsumerConfig::new("g"));
    let records = take(&mut consumer, 40).await;
    assert_eq!(counts(&records), (0..4).map(|p| (p, 10)).collect());
    consumer.close().await.unwrap();
    assert_eq!(committed(&broker).await, (0..4).map(|p| (p, 10)).collect());
    assert_eq!(members(&broker).await, 0);

    fill(&mut grpc, "orders", 2, 1).await;
    let mut consumer = open(&broker, ConsumerConfig::new("g"));
    let record = next(&mut consumer).await;
    assert_eq!((record.partition.get(), record.offset.get()), (2, 10));
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_is_dropped_leaves_without_committing() {
    let (broker, _) = start().await;
    let mut consumer = open(&broker, ConsumerConfig::new("g"));
    take(&mut consumer, 40).await;
    drop(consumer);
    let gone = || async { (members(&broker).await == 0).then_some(()) };
    wait_until_async("it has left", DEADLINE, gone).await;
    assert_eq!(committed(&broker).await, BTreeMap::new());
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn members_share_partitions_and_nothing_that_was_marked_is_read_twice() {
    let (broker, mut grpc) = start().await;
    let diary = Diary::default();
    let mut first = open(&broker, manual());
    first.set_listener(diary.clone());
    let records = take(&mut first, 40).await;
    // Marked by hand: the last of each partition but one.
    for record in &records {
        if record.offset.get() < 9 {
            first.mark(record).unwrap();
        }
    }
    let mut second = open(&broker, manual());
    let both = async {
        let mut read = Vec::new();
        while read.len() < 2 {
            tokio::select! {
                // What it was handed out is not handed out again, as long as it owns the partition.
                record = first.next() => panic!("{record:?}"),
                record = second.next() => read.push(record.unwrap()),
            }
        }
        read
    };
    let read = tokio::time::timeout(DEADLINE, both).await.unwrap();
    // It gave two away, and had committed what was marked of them.
    assert_eq!(diary.read(), [("assigned", 4), ("revoked", 2)]);
    assert_eq!(counts(&read).len(), 2);
    assert!(
        read.iter().all(|record| record.offset.get() == 9),
        "{read:?}"
    );
    assert_eq!(first.assignment().len(), 2);
    assert_eq!(second.assignment().len(), 2);
    let given = second.assignment()[0].clone();
    // What it was handed out before it gave a partition away cannot be marked any more.
    let late = records.iter().find(|r| r.partition == given.partition);
    let refused = first.mark(late.unwrap()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    let offset = OffsetToCommit::new("orders", given.partition, Offset::new(5));
    let refused = first.commit_offsets([offset]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);

    second.close().await.unwrap();
    fill(&mut grpc, "orders", given.partition.get(), 1).await;
    // The one that the other did not mark, and the new one.
    let again = take(&mut first, 3).await;
    assert_eq!(counts(&again)[&given.partition.get()], 2);
    first.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn marks_are_committed_by_number_by_interval_and_when_asked_for() {
    let (broker, _) = start().await;
    let mut consumer = open(
        &broker,
        ConsumerConfig {
            auto_commit_interval: Duration::from_secs(3_600),
            commit_every: 10,
            auto_mark: false,
            ..ConsumerConfig::new("g")
        },
    );
    let records = take(&mut consumer, 40).await;
    let of = |partition: i32| {
        records
            .iter()
            .filter(move |r| r.partition.get() == partition)
    };
    for record in of(1).take(9) {
        consumer.mark(record).unwrap();
    }
    assert_eq!(committed(&broker).await, BTreeMap::new());
    consumer.mark(of(2).next().unwrap()).unwrap();
    wait_committed(&broker, BTreeMap::from([(1, 9), (2, 1)])).await;
    // A mark below the last changes nothing.
    consumer.mark(of(1).next().unwrap()).unwrap();
    consumer.mark(of(3).nth(4).unwrap()).unwrap();
    consumer.commit().await.unwrap();
    let asked = BTreeMap::from([(1, 9), (2, 1), (3, 5)]);
    assert_eq!(committed(&broker).await, asked);
    assert_eq!(consumer.metrics().commits, 2);
    consumer.close().await.unwrap();

    let mut consumer = open(
        &broker,
        ConsumerConfig {
            auto_commit_interval: Duration::from_millis(5),
            ..ConsumerConfig::new("g")
        },
    );
    take(&mut consumer, 25).await;
    // The poll that finds nothing more says that those before are done with.
    poll_until(&mut consumer, "the end is committed", |consumer| {
        consumer.metrics().commits > 0
    })
    .await;
    wait_committed(&broker, (0..4).map(|p| (p, 10)).collect()).await;
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn offsets_are_committed_with_metadata_as_the_application_says() {
    let (broker, _) = start().await;
    let mut consumer = open(&broker, manual());
    next(&mut consumer).await;
    let offset = OffsetToCommit::new("orders", PartitionId::new(3), Offset::new(7));
    let committing = consumer.commit_offsets([offset.metadata("half")]);
    committing.await.unwrap();
    let offsets = broker.client().unwrap().admin().group_offsets("g").await;
    let offset = offsets.unwrap().remove(0);
    assert_eq!(
        (offset.offset, offset.metadata.as_str()),
        (Offset::new(7), "half")
    );
    assert!(offset.topic_id.is_some());
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_to_be_committed_may_be_asked_of_the_consumer_while_it_is_listed() {
    let (broker, _) = start().await;
    let mut consumer = open(&broker, manual());
    take(&mut consumer, 40).await;
    let offsets = consumer.assignment().into_iter().filter_map(|place| {
        let offset = consumer.position(&place)?;
        let (topic, partition) = (Arc::clone(&place.topic), place.partition);
        assert_eq!(consumer.committed(&place), None);
        Some(OffsetToCommit::new(topic, partition, offset))
    });
    consumer.commit_offsets(offsets).await.unwrap();
    assert_eq!(committed(&broker).await, (0..4).map(|p| (p, 10)).collect());
    // All of them, or none.
    let ours = OffsetToCommit::new("orders", PartitionId::new(0), Offset::new(1));
    let other = OffsetToCommit::new("other", PartitionId::new(0), Offset::new(1));
    let refused = consumer.commit_offsets([ours, other]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    consumer.commit().await.unwrap();
    assert_eq!(committed(&broker).await, (0..4).map(|p| (p, 10)).collect());
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn at_most_once_gives_back_what_it_did_not_hand_out() {
    let (broker, _) = start().await;
    let config = || ConsumerConfig {
        delivery: Delivery::AtMostOnce,
        ..ConsumerConfig::new("g")
    };
    let mut read = BTreeSet::new();
    let mut note = |record: &ConsumerRecord| {
        let place = (record.partition.get(), record.offset.get());
        assert!(read.insert(place), "{place:?} was handed out before");
        read.len()
    };
    let mut first = open(&broker, config());
    for record in take(&mut first, 3).await {
        note(&record);
    }
    first.close().await.unwrap();
    // One that is paused, and goes to another.
    let mut first = open(&broker, config());
    let record = next(&mut first).await;
    note(&record);
    for partition in 0..4 {
        first.pause(&place(partition)).unwrap();
    }
    let mut second = open(&broker, config());
    let (by_first, by_second) = share(&mut first, &mut second).await;
    assert_eq!(by_first, []);
    for record in by_second {
        note(&record);
    }
    for place in first.assignment() {
        first.resume(&place).unwrap();
    }
    let reading = async {
        let mut count = 0;
        while count < 40 {
            let record = tokio::select! {
                record = first.next() => record.unwrap(),
                record = second.next() => record.unwrap(),
            };
            count = note(&record);
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap();
    first.close().await.unwrap();
    second.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_acknowledgement_that_is_refused_is_made_again() {
    let (broker, _) = start().await;
    let mut first = open(&broker, manual());
    take(&mut first, 40).await;
    // The next heartbeats fail: the one that joins, and the one that says what was let go of.
    let fault = Fault::fail(ErrorCode::CoordinatorLoadInProgress)
        .on(Api::ConsumerGroupHeartbeat)
        .times(3);
    let id = broker.faults().inject(fault);
    let mut second = open(&broker, manual());
    share(&mut first, &mut second).await;
    assert_eq!(broker.faults().fired(id), 3);
    assert_eq!((first.metrics().joins, second.metrics().joins), (1, 1));
    first.close().await.unwrap();
    second.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_committed_offset_that_is_not_in_the_log_is_no_end() {
    let (broker, _) = start().await;
    let admin = broker.client().unwrap().admin();
    let beyond = OffsetToCommit::new("orders", PartitionId::new(2), Offset::new(70));
    let committing = admin.commit_group_offsets("g", &[beyond]).await.unwrap();
    assert!(committing.iter().all(Result::is_ok));
    let mut consumer = open(&broker, manual());
    for record in take(&mut consumer, 40).await {
        consumer.mark(&record).unwrap();
    }
    consumer.commit().await.unwrap();
    assert_eq!(committed(&broker).await, (0..4).map(|p| (p, 10)).collect());
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_end_where_a_group_began_is_kept_when_partitions_move() {
    let (broker, mut grpc) = start().await;
    let config = || ConsumerConfig {
        auto_offset_reset: OffsetReset::Latest,
        auto_commit_interval: Duration::from_secs(3_600),
        ..ConsumerConfig::new("g")
    };
    let at_the_end = |consumer: &Consumer| {
        let owned = consumer.assignment();
        !owned.is_empty()
            && owned
                .iter()
                .all(|p| consumer.position(p) == Some(Offset::new(10)))
    };
    let mut first = open(&broker, config());
    poll_until(&mut first, "it is at the end", at_the_end).await;
    let mut second = open(&broker, config());
    // The first lets go of two, and before the second looks where to begin there are new records.
    let delay = Fault::delay(Duration::from_secs(5)).on(Api::OffsetFetch);
    let id = broker.faults().inject(delay);
    let short = Duration::from_millis(5);
    let moving = async {
        while broker.faults().fired(id) == 0 {
            first.poll(short).await.unwrap();
            second.poll(short).await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, moving).await.unwrap();
    for partition in 0..4 {
        fill(&mut grpc, "orders", partition, 1).await;
    }
    broker.clock().advance_sessions(Duration::from_secs(5));
    let mut read = Vec::new();
    let reading = async {
        while read.len() < 4 {
            read.extend(first.poll(short).await.unwrap());
            read.extend(second.poll(short).await.unwrap());
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap();
    assert_eq!(counts(&read).len(), 4, "{read:?}");
    first.close().await.unwrap();
    second.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn at_most_once_commits_before_it_hands_out() {
    let (broker, _) = start().await;
    let config = ConsumerConfig {
        delivery: Delivery::AtMostOnce,
        ..ConsumerConfig::new("g")
    };
    let mut consumer = open(&broker, config.clone());
    for read in 1..=40 {
        let record = next(&mut consumer).await;
        let committed = committed(&broker).await;
        let committed = committed[&record.partition.get()];
        assert!(
            record.offset.get() < committed,
            "record {read}: {committed}"
        );
    }
    drop(consumer);
    let mut consumer = open(&broker, config);
    poll_until(&mut consumer, "nothing is repeated", |consumer| {
        (0..4).all(|p| consumer.position(&place(p)) == Some(Offset::new(10)))
    })
    .await;
    // Where a commit is not possible, nothing is handed out.
    consumer.seek(&place(0), StartAt::Earliest).unwrap();
    let fault = Fault::fail(ErrorCode::GroupAuthorizationFailed).on(Api::OffsetCommit);
    broker.faults().inject(fault);
    let refused = consumer.next().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert_eq!(next(&mut consumer).await.offset, Offset::ZERO);
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
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
async fn a_handler_that_takes_too_long_loses_its_partitions_unless_it_says_that_it_lives() {
    let (broker, _) = start().await;
    let diary = Diary::default();
    let mut consumer = open(&broker, manual());
    consumer.set_listener(diary.clone());
    let records = take(&mut consumer, 40).await;
    let beats = |consumer: &Consumer| consumer.metrics().heartbeats;
    // Step by step, so that sessions go on; twice the poll interval in all.
    let step = Duration::from_secs(40);
    let mut passed = Duration::ZERO;
    while passed < POLL * 2 {
        consumer.keep_alive();
        let before = beats(&consumer);
        broker.clock().advance_sessions(step);
        let beaten = || async { (beats(&consumer) > before).then_some(()) };
        wait_until_async("a heartbeat", DEADLINE, beaten).await;
        passed += step;
    }
    consumer.mark(&records[0]).unwrap();
    consumer.commit().await.unwrap();

    let mut passed = Duration::ZERO;
    while passed < POLL && consumer.member_epoch().is_some() {
        let before = beats(&consumer);
        broker.clock().advance_sessions(step);
        let beaten = || async {
            (beats(&consumer) > before || consumer.member_epoch().is_none()).then_some(())
        };
        wait_until_async("a heartbeat", DEADLINE, beaten).await;
        passed += step;
    }
    let removed = || async { consumer.member_epoch().is_none().then_some(()) };
    wait_until_async("it is removed", DEADLINE, removed).await;
    let late = consumer.mark(&records[0]).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced);
    assert!(passed >= POLL - step, "{passed:?}");
    let late = consumer.commit_offsets([OffsetToCommit::new(
        "orders",
        records[0].partition,
        Offset::new(9),
    )]);
    let late = late.await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced);
    assert!(late.message().contains("did not poll"), "{late}");
    // It joins again when it is polled, and goes on where it was committed.
    let again = take(&mut consumer, 39).await;
    assert_eq!(again.len(), 39);
    let seen = diary.read();
    assert_eq!(seen, [("assigned", 4), ("lost", 4), ("assigned", 4)]);
    assert_eq!(consumer.metrics().partitions_lost, 4);
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn waiting_for_records_counts_as_polling() {
    let (broker, mut grpc) = start().await;
    let mut consumer = open(&broker, manual());
    take(&mut consumer, 40).await;
    let handle = consumer.handle();
    let waiting = tokio::spawn(async move { consumer.next().await.map(|record| record.offset) });
    let step = Duration::from_secs(40);
    let mut passed = Duration::ZERO;
    while passed < POLL * 2 {
        // Two, so that the second surely says that there was a poll.
        let before = handle.metrics().heartbeats;
        broker.clock().advance_sessions(step / 2);
        let beaten = || async { (handle.metrics().heartbeats > before).then_some(()) };
        wait_until_async("a heartbeat", DEADLINE, beaten).await;
        passed += step / 2;
    }
    assert!(handle.member_epoch().is_some());
    fill(&mut grpc, "orders", 1, 1).await;
    assert_eq!(waiting.await.unwrap().unwrap(), Offset::new(10));
    assert_eq!(handle.metrics().joins, 1);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn lost_answers_and_broken_streams_cost_no_record_and_no_place() {
    let (broker, mut grpc) = start().await;
    let mut consumer = open(&broker, ConsumerConfig::new("g"));
    take(&mut consumer, 40).await;
    for (number, fault) in [
        Fault::disconnect().on(Api::ConsumerGroupHeartbeat),
        Fault::disconnect_after().on(Api::ConsumerGroupHeartbeat),
        Fault::fail(ErrorCode::CoordinatorNotAvailable).on(Api::ConsumerGroupHeartbeat),
        Fault::fail(ErrorCode::CoordinatorLoadInProgress).on(Api::OffsetCommit),
        Fault::disconnect().on(Api::OffsetCommit),
        Fault::disconnect_after().on(Api::OffsetCommit),
    ]
    .into_iter()
    .enumerate()
    {
        let id = broker.faults().inject(fault);
        // So that something is said.
        broker.clock().advance_sessions(Duration::from_secs(10));
        fill(&mut grpc, "orders", 0, 1).await;
        let record = next(&mut consumer).await;
        assert_eq!(
            record.offset,
            Offset::new(10 + i64::try_from(number).unwrap())
        );
        consumer.commit().await.unwrap();
        let fired = || async { (broker.faults().fired(id) == 1).then_some(()) };
        wait_until_async("the fault happens", DEADLINE, fired).await;
    }
    assert_eq!(committed(&broker).await[&0], 16);
    assert_eq!(consumer.metrics().joins, 1);
    assert!(consumer.metrics().commits_retried >= 3);
    consumer.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_removed_member_hears_of_it_and_its_partitions_go_to_the_other() {
    let (broker, _) = start().await;
    let diary = Diary::default();
    let mut first = open(&broker, manual());
    first.set_listener(diary.clone());
    take(&mut first, 40).await;
    let mut second = open(&broker, manual());
    let sharing = async {
        tokio::select! {
            record = first.next() => panic!("{record:?}"),
            record = second.next() => record.unwrap(),
        }
    };
    tokio::time::timeout(DEADLINE, sharing).await.unwrap();
    let id = broker.faults().inject(
        Fault::fail(ErrorCode::UnknownMemberId)
            .on(Api::ConsumerGroupHeartbeat)
            .times(1),
    );
    broker.clock().advance_sessions(Duration::from_secs(10));
    let fired = || async { (broker.faults().fired(id) == 1).then_some(()) };
    wait_until_async("a heartbeat is refused", DEADLINE, fired).await;
    // Whichever it was: both go on, and share again.
    let sharing = async {
        while first.assignment().len() != 2
            || second.assignment().len() != 2
            || first.metrics().joins + second.metrics().joins < 3
        {
            let short = Duration::from_millis(5);
            first.poll(short).await.unwrap();
            second.poll(short).await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, sharing).await.unwrap();
    first.close().await.unwrap();
    second.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

/// However many rebalances overlap, none of them costs a member its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_all_come_at_once_keep_their_places() {
    let (broker, mut grpc) = start().await;
    grpc.create_topic("many", 24, &[]).await;
    for _ in 0..10 {
        let consumers = (0..6).map(|_| {
            let mut consumer = broker.client().unwrap().consumer_with(manual()).unwrap();
            consumer.subscribe(["many"]).unwrap();
            consumer
        });
        let shares = Arc::new(Mutex::new([0; 6]));
        let polling = consumers.zip(0..).map(|(mut consumer, index)| {
            let shares = Arc::clone(&shares);
            tokio::spawn(async move {
                poll_until(&mut consumer, "all have their shares", |consumer| {
                    let mut shares = shares.lock().unwrap();
                    shares[index] = consumer.assignment().len();
                    *shares == [4; 6]
                })
                .await;
                consumer
            })
        });
        let polling: Vec<_> = polling.collect();
        // Nobody leaves before all have seen it.
        let mut consumers = Vec::new();
        for task in polling {
            consumers.push(task.await.unwrap());
        }
        for consumer in consumers {
            let metrics = consumer.metrics();
            assert_eq!((metrics.joins, metrics.partitions_lost), (1, 0));
            let handle = consumer.handle();
            drop(consumer);
            let left = || async { handle.assignment().is_empty().then_some(()) };
            wait_until_async("it has left", DEADLINE, left).await;
        }
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_static_member_comes_back_to_its_partitions() {
    let (broker, mut grpc) = start().await;
    let config = || ConsumerConfig {
        instance_id: Some("kitchen-1".to_owned()),
        ..manual()
    };
    let mut consumer = open(&broker, config());
    let mut other = open(&broker, manual());
    share(&mut consumer, &mut other).await;
    let owned = consumer.assignment();
    let rebalances = other.metrics().rebalances;

    // Another with its name is refused while it is there.
    let mut twin = open(&broker, config());
    let refused = twin.next().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    drop(twin);

    consumer.close().await.unwrap();
    let mut consumer = open(&broker, config());
    poll_until_any(&mut consumer, |consumer| consumer.assignment() == owned).await;
    other.poll(Duration::from_millis(5)).await.unwrap();
    assert_eq!(other.metrics().rebalances, rebalances);
    consumer.close().await.unwrap();

    // Its next life may read something else, by a pattern and then by name.
    grpc.create_topic("kitchens", 1, &[]).await;
    fill(&mut grpc, "kitchens", 0, 1).await;
    for by_pattern in [true, false] {
        let mut consumer = broker.client().unwrap().consumer_with(config()).unwrap();
        match by_pattern {
            true => consumer.subscribe_pattern("kitchen.*").unwrap(),
            false => consumer.subscribe(["orders"]).unwrap(),
        }
        let topic = if by_pattern { "kitchens" } else { "orders" };
        let short = Duration::from_millis(5);
        let subscribing = async {
            let is_right = |consumer: &Consumer| {
                let owned = consumer.assignment();
                !owned.is_empty() && owned.iter().all(|place| &*place.topic == topic)
            };
            while !is_right(&consumer) {
                consumer.poll(short).await.unwrap();
                other.poll(short).await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, subscribing).await.unwrap();
        consumer.close().await.unwrap();
    }
    other.close().await.unwrap();
    broker.shutdown().await.unwrap();
}

/// Polls, whatever comes, until something holds.
async fn poll_until_any(consumer: &mut Consumer, holds: impl Fn(&Consumer) -> bool) {
    let polling = async {
        while !holds(consumer) {
            consumer.poll(Duration::from_millis(5)).await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, polling).await.unwrap();
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
