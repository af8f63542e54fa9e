//! Sizes, memory and time are bounded, and say so.

use std::time::Duration;

use super::{config, numbers, one_partition, producer, send, send_numbers};
use crate::config::ProducerConfig;
use crate::error::ErrorKind;
use crate::mock::Act;
use crate::producer::ProducerRecord;

#[tokio::test(start_paused = true)]
async fn a_record_larger_than_a_request_is_refused_with_the_sizes() {
    let broker = one_partition();
    let config = ProducerConfig {
        max_request_size: 2_000,
        batch_size: 1_000,
        buffer_memory: 4_000,
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    let error = send(&producer, "t", &"x".repeat(2_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.code(), Some(crate::ErrorCode::MessageTooLarge));
    assert!(error.to_string().contains("2000"), "{error}");
    // Larger than a batch is no problem.
    send(&producer, "t", &"x".repeat(1_800))
        .await
        .unwrap()
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_makes_send_wait_and_never_takes_more_memory() {
    let broker = one_partition();
    broker.open.send_replace(false);
    let config = ProducerConfig {
        buffer_memory: 20_000,
        max_request_size: 5_000,
        batch_size: 1_000,
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move {
            let mut deliveries = Vec::new();
            for number in 0..2_000_u32 {
                let sent = send(&producer, "t", &number.to_string()).await.unwrap();
                assert!(producer.buffered_bytes() <= 20_000);
                deliveries.push(sent);
            }
            deliveries
        }
    });
    tokio::time::advance(Duration::from_secs(5)).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(
        !sending.is_finished(),
        "nothing is answered, and still all was taken"
    );
    assert!(producer.buffered_bytes() > 19_000);
    let taken = producer.metrics().records_accepted;
    assert!(
        (100..1_000).contains(&taken),
        "{taken} records in 20,000 bytes"
    );
    broker.open.send_replace(true);
    for delivery in sending.await.unwrap() {
        delivery.await.unwrap();
    }
    assert_eq!(broker.values("t", 0), numbers(2_000));
    producer.flush().await.unwrap();
    assert_eq!(producer.buffered_bytes(), 0);
    assert!(producer.metrics().memory_waits > 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_memory_ends_after_max_block_and_can_be_given_up() {
    let broker = one_partition();
    broker.open.send_replace(false);
    let config = ProducerConfig {
        buffer_memory: 2_000,
        max_request_size: 2_000,
        batch_size: 1_000,
        max_block: Duration::from_secs(3),
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    let value = "x".repeat(1_500);
    let first = send(&producer, "t", &value).await.unwrap();
    let begun = tokio::time::Instant::now();
    let error = send(&producer, "t", &value).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("buffer_memory"), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(3));
    let given_up = tokio::time::timeout(Duration::from_secs(1), send(&producer, "t", &value)).await;
    assert!(given_up.is_err());
    broker.open.send_replace(true);
    first.await.unwrap();
    send(&producer, "t", "last").await.unwrap().await.unwrap();
    assert_eq!(
        broker.records("t", 0).len(),
        2,
        "what was refused or given up was not sent"
    );
    assert_eq!(producer.metrics().records_rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn every_record_fails_at_its_deadline_wherever_it_is() {
    // In flight without an answer, waiting behind it, and never sent because there is no connection.
    for reachable in [true, false] {
        let broker = one_partition();
        broker.open.send_replace(!reachable);
        if reachable {
            broker.script(|_, _| Act::FallSilent);
        } else {
            broker.fail_calls("ProduceStream", vec![tonic::Code::Unavailable; 1_000]);
        }
        let timeout = Duration::from_secs(20);
        let config = ProducerConfig {
            delivery_timeout: timeout,
            batch_size: 300,
            ..config()
        };
        let producer = broker.client().producer_with(config).unwrap();
        let begun = tokio::time::Instant::now();
        let deliveries = send_numbers(&producer, "t", 200).await;
        for delivery in deliveries {
            let error = delivery.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            assert_eq!(error.topic(), Some("t"));
            if !reachable {
                assert!(!error.may_have_happened(), "nothing was ever sent: {error}");
                assert!(
                    error.to_string().contains("scripted"),
                    "the reason is missing: {error}"
                );
            }
        }
        let took = begun.elapsed();
        assert!(
            took >= timeout && took < timeout + Duration::from_secs(1),
            "{took:?}"
        );
        producer.flush().await.unwrap();
        assert_eq!(producer.metrics().records_failed, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_without_a_broker_ends_at_the_deadline_and_tells() {
    let broker = one_partition();
    let producer = {
        let config = ProducerConfig {
            delivery_timeout: Duration::from_secs(15),
            ..config()
        };
        broker.client().producer_with(config).unwrap()
    };
    send(&producer, "t", "0").await.unwrap().await.unwrap();
    broker.script(|_, _| Act::Disconnect);
    broker.fail_calls("ProduceStream", vec![tonic::Code::Unavailable; 1_000]);
    drop(send_numbers(&producer, "t", 5).await);
    let error = producer.close().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("5 records failed"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_too_large_for_the_topic_is_split_until_it_fits() {
    let broker = one_partition();
    broker.state.lock().topics.get_mut("t").unwrap().partitions[0].max_message_bytes = Some(400);
    let producer = producer(&broker.client());
    // The first batch holds one record; the others pile up behind it.
    let mut deliveries = send_numbers(&producer, "t", 500).await;
    let huge = producer
        .send(ProducerRecord::new("t").value("x".repeat(600)))
        .await
        .unwrap();
    deliveries.extend(send_numbers(&producer, "t", 50).await);
    let error = huge.await.unwrap_err();
    assert_eq!(error.code(), Some(crate::ErrorCode::MessageTooLarge));
    for (index, delivery) in deliveries.into_iter().enumerate() {
        let stored = delivery.await.unwrap();
        let offset = usize::try_from(stored.offset.unwrap().get()).unwrap();
        assert_eq!(offset, index);
    }
    let mut expected = numbers(500);
    expected.extend(numbers(50));
    assert_eq!(broker.values("t", 0), expected);
    assert!(producer.metrics().batches_split > 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_in_flight_than_allowed() {
    let broker = one_partition();
    broker.open.send_replace(false);
    let config = ProducerConfig {
        max_in_flight: 3,
        batch_size: 200,
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    let deliveries = send_numbers(&producer, "t", 300).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // A new producer's first batch goes alone.
    assert_eq!(producer.metrics().requests_sent, 1);
    broker.open.send_replace(true);
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    broker.open.send_replace(false);
    let sent_before = producer.metrics().requests_sent;
    let deliveries = send_numbers(&producer, "t", 300).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(producer.metrics().requests_sent - sent_before, 3);
    broker.open.send_replace(true);
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}
