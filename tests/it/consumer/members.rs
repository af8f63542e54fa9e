//! Members of a group: partitions come and go, sessions and poll intervals pass, places are kept or lost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use logweir::{Api, ErrorCode, Fault};
use logweir_client::{
    Consumer, ConsumerConfig, ConsumerHandle, ErrorKind, Offset, OffsetReset, OffsetToCommit,
    RebalanceFuture, RebalanceListener, TopicPartition,
};
use logweir_tests::{DEADLINE, wait_until_async};

use super::{committed, counts, fill, manual, next, open, poll_until, share, start, take};

const POLL: Duration = Duration::from_secs(300);

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
