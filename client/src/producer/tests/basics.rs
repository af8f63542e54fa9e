//! What a producer does on a good day.

use std::sync::Arc;
use std::time::Duration;

use logweir_proto::partitioner::partition_for_key;
use logweir_proto::record::{Compression, RecordHeader};
use logweir_proto::{Offset, PartitionId, Timestamp};

use super::{config, numbers, one_partition, producer, send, send_numbers};
use crate::clock::WallClock;
use crate::config::{Acks, ProducerConfig};
use crate::error::ErrorKind;
use crate::mock::MockBroker;
use crate::producer::ProducerRecord;

#[tokio::test(start_paused = true)]
async fn each_record_is_told_its_partition_offset_and_timestamp() {
    let broker = one_partition();
    let clock = WallClock::new(|| Timestamp::new(77));
    let client = crate::Client::builder()
        .clock(clock)
        .from_service(broker.routes())
        .unwrap();
    let producer = producer(&client);
    let first = send(&producer, "t", "a").await.unwrap();
    let record = ProducerRecord::new("t")
        .value("b")
        .timestamp(Timestamp::new(5));
    let second = producer.send(record).await.unwrap();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.offset, Some(Offset::new(0)));
    assert_eq!(first.timestamp, Timestamp::new(77));
    assert_eq!(
        (&*second.topic, second.partition),
        ("t", PartitionId::new(0))
    );
    assert_eq!(second.offset, Some(Offset::new(1)));
    assert_eq!(second.timestamp, Timestamp::new(5));
    producer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_values_headers_and_tombstones_arrive_as_sent_in_every_compression() {
    for compression in Compression::ALL {
        let broker = one_partition();
        let config = ProducerConfig {
            compression,
            ..config()
        };
        let producer = broker.client().producer_with(config).unwrap();
        let full = ProducerRecord::new("t")
            .key("k")
            .value("v".repeat(500))
            .header("h", "1");
        let mut bare_header = ProducerRecord::new("t").key("").value("");
        bare_header.headers.push(RecordHeader {
            key: "n".into(),
            value: None,
        });
        let sent = [full, bare_header, ProducerRecord::new("t").key("gone")];
        for record in &sent {
            drop(producer.send(record.clone()).await.unwrap());
        }
        producer.flush().await.unwrap();
        let stored = broker.records("t", 0);
        assert_eq!(stored.len(), 3, "{compression}");
        for (sent, stored) in sent.iter().zip(&stored) {
            assert_eq!((&sent.key, &sent.value), (&stored.key, &stored.value));
            assert_eq!(sent.headers, stored.headers);
        }
        assert_eq!(
            broker.batches("t", 0)[0].header().attributes.compression(),
            compression
        );
    }
}

#[tokio::test(start_paused = true)]
async fn keyed_records_go_where_kafkas_partitioner_sends_them_and_chosen_ones_where_told() {
    let broker = MockBroker::new().with_topic("t", 7);
    let producer = producer(&broker.client());
    for key in 0..100 {
        let key = format!("key-{key}");
        let record = ProducerRecord::new("t").key(key.clone()).value(key.clone());
        let stored = producer.send(record).await.unwrap().await.unwrap();
        assert_eq!(stored.partition, partition_for_key(key.as_bytes(), 7));
    }
    let chosen = ProducerRecord::new("t")
        .key("key-1")
        .partition(PartitionId::new(6))
        .value("x");
    assert_eq!(
        producer.send(chosen).await.unwrap().partition(),
        PartitionId::new(6)
    );
}

#[tokio::test(start_paused = true)]
async fn keyless_records_fill_batches_and_use_all_partitions() {
    let broker = MockBroker::new().with_topic("t", 4);
    let config = ProducerConfig {
        batch_size: 1_000,
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    drop(send_numbers(&producer, "t", 2_000).await);
    producer.close().await.unwrap();
    let mut batches = 0;
    for partition in 0..4 {
        let found = broker.batches("t", partition);
        assert!(!found.is_empty(), "partition {partition} got nothing");
        batches += found.len();
    }
    assert!(
        batches < 40,
        "{batches} batches for about 20 of a thousand bytes"
    );
}

#[tokio::test(start_paused = true)]
async fn records_wait_for_company_unless_nothing_is_in_flight() {
    let broker = one_partition();
    let linger = Duration::from_secs(3);
    let producer = broker
        .client()
        .producer_with(ProducerConfig { linger, ..config() })
        .unwrap();
    let begun = tokio::time::Instant::now();
    send(&producer, "t", "0").await.unwrap().await.unwrap();
    assert!(begun.elapsed() < linger, "a lone record lingered");

    broker.open.send_replace(false);
    let ahead = send(&producer, "t", "1").await.unwrap();
    tokio::time::advance(Duration::from_millis(100)).await;
    let deliveries = send_numbers(&producer, "t", 50).await;
    tokio::time::advance(Duration::from_millis(100)).await;
    broker.open.send_replace(true);
    ahead.await.unwrap();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert_eq!(
        broker.batches("t", 0).len(),
        3,
        "fifty records that waited are one batch"
    );
}

#[tokio::test(start_paused = true)]
async fn without_sending_when_idle_every_record_lingers() {
    let broker = one_partition();
    let linger = Duration::from_secs(3);
    let config = ProducerConfig {
        linger,
        send_when_idle: false,
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    let begun = tokio::time::Instant::now();
    send(&producer, "t", "0").await.unwrap().await.unwrap();
    assert!(begun.elapsed() >= linger, "{:?}", begun.elapsed());
    // Flushing does not linger.
    let begun = tokio::time::Instant::now();
    drop(send(&producer, "t", "1").await.unwrap());
    producer.flush().await.unwrap();
    assert!(begun.elapsed() < linger, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_acks_a_send_succeeds_without_an_offset_and_closing_sends_the_rest() {
    let broker = one_partition();
    let config = ProducerConfig {
        acks: Acks::None,
        batch_size: 200,
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    let stored = send(&producer, "t", "first").await.unwrap().await.unwrap();
    assert_eq!(stored.offset, None);
    drop(send_numbers(&producer, "t", 300).await);
    producer.close().await.unwrap();
    assert_eq!(broker.values("t", 0)[1..], numbers(300));
    assert!(!broker.batches("t", 0)[0].header().has_producer());
}

#[tokio::test(start_paused = true)]
async fn missing_topics_are_created_where_the_broker_allows_it_and_else_named() {
    let broker = MockBroker::new();
    broker.state.lock().auto_create_partitions = Some(3);
    let producer = producer(&broker.client());
    send(&producer, "new", "1").await.unwrap().await.unwrap();
    assert_eq!(broker.state.lock().topics["new"].partitions.len(), 3);

    broker.state.lock().auto_create_partitions = None;
    let error = send(&producer, "mistyped", "1").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.topic()),
        (ErrorKind::Invalid, Some("mistyped"))
    );
    assert_eq!(producer.metrics().records_rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn a_partition_added_later_is_found_and_one_that_is_not_there_is_refused() {
    let broker = one_partition();
    let producer = producer(&broker.client());
    send(&producer, "t", "1").await.unwrap().await.unwrap();
    let to = |number| {
        ProducerRecord::new("t")
            .partition(PartitionId::new(number))
            .value("x")
    };
    let error = producer.send(to(1)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.partition()),
        (ErrorKind::Invalid, Some(PartitionId::new(1)))
    );
    assert_eq!(
        producer.send(to(-1)).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    broker
        .client()
        .admin()
        .create_partitions("t", 3)
        .await
        .unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    let stored = producer.send(to(2)).await.unwrap().await.unwrap();
    assert_eq!(stored.partition, PartitionId::new(2));
}

#[tokio::test(start_paused = true)]
async fn partitions_added_later_are_used_once_the_description_has_aged() {
    let broker = one_partition();
    let producer = producer(&broker.client());
    send(&producer, "t", "1").await.unwrap().await.unwrap();
    broker
        .client()
        .admin()
        .create_partitions("t", 50)
        .await
        .unwrap();
    tokio::time::sleep_until(tokio::time::Instant::now() + Duration::from_secs(301)).await;
    for key in 0..100 {
        let record = ProducerRecord::new("t").key(format!("{key}")).value("x");
        producer.send(record).await.unwrap().await.unwrap();
    }
    let used = (0..50)
        .filter(|partition| !broker.batches("t", *partition).is_empty())
        .count();
    assert!(used > 20, "{used} of 50 partitions");
}

#[tokio::test(start_paused = true)]
async fn closing_delivers_what_was_sent_and_refuses_more() {
    let broker = one_partition();
    let producer = producer(&broker.client());
    let deliveries = send_numbers(&producer, "t", 100).await;
    let clone = producer.clone();
    producer.close().await.unwrap();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert_eq!(broker.values("t", 0), numbers(100));
    assert_eq!(
        send(&clone, "t", "late").await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    clone.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn neither_closing_nor_dropping_leaves_anything_behind() {
    for close in [true, false] {
        let broker = one_partition();
        let client = broker.client();
        let producer = producer(&client);
        send(&producer, "t", "1").await.unwrap().await.unwrap();
        let accumulator = Arc::downgrade(&producer.handle.accumulator);
        let tracker = Arc::downgrade(&producer.handle.accumulator.tracker);
        if close {
            producer.close().await.unwrap();
        }
        let mut ended = producer.handle.ended.clone();
        drop(producer);
        let _ = ended.wait_for(|ended| *ended).await;
        tokio::time::advance(Duration::from_secs(10)).await;
        while accumulator.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tracker.strong_count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clone_fails_what_was_not_delivered() {
    let broker = one_partition();
    broker.open.send_replace(false);
    let producer = producer(&broker.client());
    let deliveries = send_numbers(&producer, "t", 10).await;
    drop(producer.clone());
    tokio::task::yield_now().await;
    drop(producer);
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_id_is_sent() {
    let broker = one_partition();
    let client = crate::Client::builder()
        .client_id("billing")
        .from_service(broker.routes())
        .unwrap();
    send(&producer(&client), "t", "1")
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(broker.state.lock().client_ids, ["billing"]);
}

#[tokio::test]
async fn records_travel_over_a_socket_and_a_restart_of_the_broker() {
    let broker = one_partition();
    let listening = broker.listen();
    let client = crate::Client::connect(listening.address.to_string())
        .await
        .unwrap();
    let producer = producer(&client);
    send(&producer, "t", "0").await.unwrap().await.unwrap();
    let address = listening.stop();
    let deliveries = send_numbers(&producer, "t", 100).await;
    let _listening = broker.listen_again(address).await;
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert_eq!(broker.values("t", 0)[1..], numbers(100));
    producer.close().await.unwrap();
    assert!(producer.metrics().connections_lost >= 1);
}

/// A record appended between the task's last look and its end would have waited for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_send_that_races_with_closing_is_delivered_or_refused_but_never_left_waiting() {
    let broker = one_partition();
    let client = broker.client();
    let mut delivered = 0;
    for round in 0..200_u64 {
        let producer = producer(&client);
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let producer = producer.clone();
                tokio::spawn(async move {
                    let mut deliveries = Vec::new();
                    while let Ok(delivery) = send(&producer, "t", "x").await {
                        deliveries.push(delivery);
                        if deliveries.len() % 7 == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                    deliveries
                })
            })
            .collect();
        while producer.metrics().records_accepted < round % 50 {
            tokio::task::yield_now().await;
        }
        producer.close().await.unwrap();
        for sender in senders {
            for delivery in sender.await.unwrap() {
                let fate = tokio::time::timeout(Duration::from_secs(20), delivery).await;
                match fate.expect("the record's fate is told") {
                    Ok(_) => delivered += 1,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
                }
            }
        }
    }
    assert_eq!(broker.records("t", 0).len(), delivered);
}
