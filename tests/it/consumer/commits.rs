//! What a group consumer commits, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use logweir::{Api, ErrorCode, Fault};
use logweir_client::{
    ConsumerConfig, ConsumerRecord, Delivery, ErrorKind, Offset, OffsetToCommit, PartitionId,
    StartAt,
};
use logweir_tests::{DEADLINE, wait_until_async};

use super::{
    committed, counts, fill, manual, members, next, open, place, poll_until, share, start, take,
    wait_committed,
};

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
