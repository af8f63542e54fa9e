//! One thing goes wrong at a time.

use std::time::Duration;

use logweir_proto::ErrorCode;

use super::{config, numbers, one_partition, producer, send, send_numbers};
use crate::config::ProducerConfig;
use crate::error::ErrorKind;
use crate::mock::Act;

/// Ten records in ten batches meet `acts`, and are stored once each, in order.
async fn check_survives(acts: Vec<Act>) {
    let broker = one_partition();
    let config = ProducerConfig {
        batch_size: 1,
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    // An established producer keeps five batches in flight.
    send(&producer, "t", "first").await.unwrap().await.unwrap();
    let named = format!("{acts:?}");
    broker.script_list(acts);
    let deliveries = send_numbers(&producer, "t", 10).await;
    for (index, delivery) in (1..).zip(deliveries) {
        let stored = delivery
            .await
            .unwrap_or_else(|error| panic!("{named}: {error}"));
        assert_eq!(
            stored.offset.map(|offset| offset.get()),
            Some(index),
            "{named}"
        );
    }
    assert_eq!(broker.values("t", 0)[1..], numbers(10), "{named}");
    producer.close().await.unwrap();
    assert!(producer.metrics().batches_retried > 0, "{named}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_does_not_double_a_record() {
    check_survives(vec![Act::ServeAndDisconnect]).await;
    check_survives(vec![Act::Serve, Act::Serve, Act::ServeAndDisconnect]).await;
    check_survives(vec![Act::FallSilent]).await;
    check_survives(vec![Act::Serve, Act::FallSilent]).await;
    check_survives(vec![Act::ServeAndSay(ErrorCode::RequestTimedOut)]).await;
    check_survives(vec![Act::DisconnectAndServeLater]).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_passes_does_not_reorder_what_is_in_flight() {
    for code in [
        ErrorCode::NotLeaderOrFollower,
        ErrorCode::NotEnoughReplicas,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::KafkaStorageError,
        ErrorCode::CorruptMessage,
    ] {
        check_survives(vec![Act::Refuse(code)]).await;
        check_survives(vec![Act::Refuse(code), Act::Serve, Act::Refuse(code)]).await;
        check_survives(vec![Act::Serve, Act::Refuse(code), Act::ServeAndDisconnect]).await;
    }
    check_survives(vec![
        Act::Disconnect,
        Act::Refuse(ErrorCode::NotLeaderOrFollower),
    ])
    .await;
    check_survives(vec![Act::TalkNonsense, Act::End(tonic::Code::Internal)]).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_of_a_producer_may_be_refused_without_losing_its_place() {
    // The broker does not know the producer, so it would take the second batch after refusing the first.
    let broker = one_partition();
    let producer = broker
        .client()
        .producer_with(ProducerConfig {
            batch_size: 1,
            ..config()
        })
        .unwrap();
    broker.script_list(vec![Act::Refuse(ErrorCode::NotEnoughReplicas)]);
    for delivery in send_numbers(&producer, "t", 10).await {
        delivery.await.unwrap();
    }
    assert_eq!(broker.values("t", 0), numbers(10));
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_fails_alone_and_the_epoch_is_raised_once() {
    let broker = one_partition();
    let producer = broker
        .client()
        .producer_with(ProducerConfig {
            batch_size: 1,
            ..config()
        })
        .unwrap();
    send(&producer, "t", "first").await.unwrap().await.unwrap();
    broker.script_list(vec![Act::Serve, Act::Refuse(ErrorCode::InvalidRecord)]);
    let mut outcomes = Vec::new();
    for delivery in send_numbers(&producer, "t", 10).await {
        outcomes.push(delivery.await);
    }
    let error = outcomes.remove(1).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Invalid, Some(ErrorCode::InvalidRecord))
    );
    assert!(!error.may_have_happened());
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let mut expected = numbers(10);
    expected.remove(1);
    assert_eq!(broker.values("t", 0)[1..], expected);
    assert_eq!(producer.metrics().epoch_bumps, 1);
    assert_eq!(
        broker
            .batches("t", 0)
            .last()
            .unwrap()
            .header()
            .producer_epoch
            .get(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn records_lost_by_the_broker_after_their_ack_show_as_an_error_of_kind_data() {
    let broker = one_partition();
    let producer = broker
        .client()
        .producer_with(ProducerConfig {
            batch_size: 1,
            ..config()
        })
        .unwrap();
    for delivery in send_numbers(&producer, "t", 3).await {
        delivery.await.unwrap();
    }
    broker.lose_batches("t", 0, 1);
    let mut outcomes = Vec::new();
    for value in ["a", "b", "c"] {
        outcomes.push(send(&producer, "t", value).await.unwrap().await);
    }
    let error = outcomes[0].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert_eq!(error.code(), Some(ErrorCode::OutOfOrderSequenceNumber));
    assert!(
        outcomes[1].is_ok() && outcomes[2].is_ok(),
        "later records go on under a new epoch"
    );
    assert_eq!(broker.values("t", 0), ["0", "1", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_the_broker_has_forgotten_goes_on() {
    let broker = one_partition();
    let producer = producer(&broker.client());
    for round in 0..3_u32 {
        send(&producer, "t", &round.to_string())
            .await
            .unwrap()
            .await
            .unwrap();
        broker.forget_producers();
    }
    // Brokers before Kafka 2.5 said it with a code.
    broker.script_list(vec![Act::Refuse(ErrorCode::UnknownProducerId)]);
    send(&producer, "t", "3").await.unwrap().await.unwrap();
    assert_eq!(broker.values("t", 0), numbers(4));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_may_be_stored_is_never_sent_under_another_number() {
    let broker = one_partition();
    let producer = broker
        .client()
        .producer_with(ProducerConfig {
            batch_size: 1,
            ..config()
        })
        .unwrap();
    for delivery in send_numbers(&producer, "t", 2).await {
        delivery.await.unwrap();
    }
    // Stored, the answer lost, and then the broker forgets: nobody can tell any more.
    broker.script({
        let broker = broker.clone();
        move |number, _| match number {
            2 => Act::ServeAndDisconnect,
            3 => {
                let _ = &broker;
                Act::Refuse(ErrorCode::UnknownProducerId)
            }
            _ => Act::Serve,
        }
    });
    let error = send(&producer, "t", "2").await.unwrap().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(error.may_have_happened());
    send(&producer, "t", "3").await.unwrap().await.unwrap();
    assert_eq!(broker.values("t", 0), numbers(4), "once each");
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_batch_that_ran_out_of_time_is_stored_once() {
    let broker = one_partition();
    let config = ProducerConfig {
        batch_size: 1,
        delivery_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(2),
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    send(&producer, "t", "first").await.unwrap().await.unwrap();
    // The batch is refused, in a passing way, until its time is up.
    broker.script(|_, _| Act::Refuse(ErrorCode::NotEnoughReplicas));
    let late = send(&producer, "t", "late").await.unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    let follows = send(&producer, "t", "follows").await.unwrap();
    let error = late.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(
        !error.may_have_happened() && error.to_string().contains("NOT_ENOUGH_REPLICAS"),
        "{error}"
    );
    broker.script(|_, _| Act::Serve);
    follows.await.unwrap();
    assert_eq!(broker.values("t", 0), ["first", "follows"]);
}

#[tokio::test(start_paused = true)]
async fn a_fenced_producer_stops() {
    let broker = one_partition();
    let producer = producer(&broker.client());
    send(&producer, "t", "0").await.unwrap().await.unwrap();
    broker.script_list(vec![Act::Refuse(ErrorCode::InvalidProducerEpoch)]);
    let error = send(&producer, "t", "1").await.unwrap().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(
        send(&producer, "t", "2").await.unwrap_err().kind(),
        ErrorKind::Fenced
    );
    producer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_gone_fails_its_records_soon_and_names_itself() {
    let broker = one_partition().with_topic("other", 1);
    let config = ProducerConfig {
        auto_create_topics: false,
        ..config()
    };
    let producer = broker.client().producer_with(config).unwrap();
    send(&producer, "t", "0").await.unwrap().await.unwrap();
    broker.client().admin().delete_topic("t").await.unwrap();
    let begun = tokio::time::Instant::now();
    let error = send(&producer, "t", "1").await.unwrap().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    send(&producer, "other", "2").await.unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_is_written_to_again() {
    let broker = one_partition();
    let producer = producer(&broker.client());
    for delivery in send_numbers(&producer, "t", 5).await {
        delivery.await.unwrap();
    }
    broker.create("t", 1);
    send(&producer, "t", "anew").await.unwrap().await.unwrap();
    assert_eq!(broker.values("t", 0), ["anew"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_refused_as_a_whole_fails_only_its_own_records() {
    let broker = one_partition();
    let producer = broker
        .client()
        .producer_with(ProducerConfig {
            batch_size: 1,
            ..config()
        })
        .unwrap();
    send(&producer, "t", "first").await.unwrap().await.unwrap();
    broker.script_list(vec![Act::Serve, Act::End(tonic::Code::InvalidArgument)]);
    let mut outcomes = Vec::new();
    for delivery in send_numbers(&producer, "t", 6).await {
        outcomes.push(delivery.await);
    }
    assert_eq!(outcomes[1].as_ref().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_err()).count(),
        1,
        "{outcomes:?}"
    );
    assert_eq!(broker.values("t", 0), ["first", "0", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_without_rights_hears_it_at_once() {
    for call in ["ProduceStream", "InitProducerId"] {
        let broker = one_partition();
        broker.fail_calls(call, vec![tonic::Code::PermissionDenied; 3]);
        let producer = producer(&broker.client());
        let error = send(&producer, "t", "0").await.unwrap().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{call}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn passing_trouble_at_the_start_is_waited_out() {
    for call in ["ProduceStream", "InitProducerId", "DescribeTopics"] {
        let broker = one_partition();
        broker.fail_calls(call, vec![tonic::Code::Unavailable; 5]);
        let producer = producer(&broker.client());
        send(&producer, "t", "0").await.unwrap().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_whose_delivery_was_dropped_is_returned_by_flush() {
    let broker = one_partition();
    let producer = producer(&broker.client());
    broker.script_list(vec![Act::Refuse(ErrorCode::InvalidRecord)]);
    drop(send(&producer, "t", "0").await.unwrap());
    let error = producer.flush().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidRecord));
    producer.flush().await.unwrap();
    producer.close().await.unwrap();
    assert_eq!(producer.metrics().records_failed_unseen, 1);
}

#[tokio::test(start_paused = true)]
async fn one_partitions_trouble_does_not_hold_up_another() {
    let broker = crate::mock::MockBroker::new().with_topic("t", 2);
    let producer = producer(&broker.client());
    let to = |partition: i32, value: String| {
        crate::ProducerRecord::new("t")
            .partition(crate::PartitionId::new(partition))
            .value(value)
    };
    broker.script(|_, request| {
        let sick = request
            .appends
            .iter()
            .position(|append| append.partition() == 0);
        sick.map_or(Act::Serve, |place| {
            Act::RefuseSome(ErrorCode::NotLeaderOrFollower, vec![place])
        })
    });
    let sick = producer.send(to(0, "sick".to_owned())).await.unwrap();
    for number in 0..20 {
        producer
            .send(to(1, number.to_string()))
            .await
            .unwrap()
            .await
            .unwrap();
    }
    assert_eq!(broker.values("t", 1), numbers(20));
    assert!(broker.records("t", 0).is_empty());
    broker.script(|_, _| Act::Serve);
    sick.await.unwrap();
}
