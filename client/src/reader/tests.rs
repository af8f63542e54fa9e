//! The reader against a broker that misbehaves.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use logweir_proto::grpc::v1;
use logweir_proto::record::{BatchBuilder, Compression};
use logweir_proto::{ErrorCode, Offset, PartitionId, Timestamp};
use tokio_stream::StreamExt;
use v1::fetched_partition::Data;

use super::{Reader, StartAt};
use crate::config::{OutOfRange, ReaderConfig};
use crate::error::{Error, ErrorKind};
use crate::mock::{MockBroker, error};
use crate::topic_partition::TopicPartition;

fn place(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, PartitionId::new(partition))
}

/// A broker with topic `t` of one partition: batches of `size` records, named by their offsets.
fn filled(count: usize, size: usize) -> MockBroker {
    let broker = MockBroker::new().with_topic("t", 1);
    let names: Vec<String> = (0..count).map(|offset| offset.to_string()).collect();
    for batch in names.chunks(size) {
        broker.append(
            "t",
            0,
            &batch.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    broker
}

fn reader_of(broker: &MockBroker, start: StartAt) -> Reader {
    let mut reader = broker.client().reader().unwrap();
    reader.assign("t", PartitionId::new(0), start).unwrap();
    reader
}

/// Reads to the end; checks that each record is named by its offset.
async fn read_all(reader: &mut Reader) -> Vec<i64> {
    let mut offsets = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        assert_eq!(
            record.value.as_deref(),
            Some(record.offset.to_string().as_bytes())
        );
        offsets.push(record.offset.get());
    }
    offsets
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_at_the_end_hands_out_every_record_once_in_order() {
    for start in [
        StartAt::Earliest,
        StartAt::Offset(Offset::ZERO),
        StartAt::Timestamp(Timestamp::new(0)),
    ] {
        let broker = filled(100, 7);
        let mut reader = reader_of(&broker, start);
        reader.stop_at_end();
        assert_eq!(read_all(&mut reader).await, (0..100).collect::<Vec<_>>());
        assert!(
            reader.next().await.unwrap().is_none(),
            "and stays at the end"
        );
        assert_eq!(reader.position(&place("t", 0)), Some(Offset::new(100)));
        assert_eq!(reader.end_offset(&place("t", 0)), Some(Offset::new(100)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_that_of_the_beginning_whatever_arrives_meanwhile() {
    let broker = filled(10, 3);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    reader.stop_at_end();
    reader.next().await.unwrap().unwrap();
    broker.append("t", 0, &["10", "11"]);
    assert_eq!(read_all(&mut reader).await.last(), Some(&9));
    // An empty partition ends at once.
    let empty = MockBroker::new().with_topic("t", 1);
    let mut reader = reader_of(&empty, StartAt::Earliest);
    reader.stop_at_end();
    assert!(reader.next().await.unwrap().is_none());
    assert!(
        broker
            .client()
            .reader()
            .unwrap()
            .next()
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn reading_begins_and_stops_inside_of_a_batch() {
    let broker = filled(100, 10);
    let mut reader = reader_of(&broker, StartAt::Offset(Offset::new(23)));
    reader.stop_at(&place("t", 0), Offset::new(57)).unwrap();
    assert_eq!(read_all(&mut reader).await, (23..57).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn reading_begins_at_a_time_or_at_the_end() {
    // Each batch of ten begins at time 1000 again.
    let broker = filled(10, 10);
    let mut reader = reader_of(&broker, StartAt::Timestamp(Timestamp::new(1_004)));
    assert_eq!(reader.next().await.unwrap().unwrap().offset, Offset::new(4));
    for late in [StartAt::Timestamp(Timestamp::new(9_999)), StartAt::Latest] {
        let broker = filled(10, 10);
        let mut reader = reader_of(&broker, late);
        let nothing = tokio::time::timeout(Duration::from_secs(5), reader.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        broker.append("t", 0, &["10"]);
        assert_eq!(
            reader.next().await.unwrap().unwrap().offset,
            Offset::new(10)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_is_made_anew_without_gap_or_repetition() {
    for lose_every in [1, 2, 5] {
        let broker = filled(300, 4);
        broker.fetch_script(move |number, _| match number % lose_every {
            0 if number % 7 != 0 || lose_every > 1 => Err(tonic::Status::unavailable("scripted")),
            _ => Ok(()),
        });
        let mut reader = reader_of(&broker, StartAt::Earliest);
        reader.stop_at_end();
        assert_eq!(
            read_all(&mut reader).await,
            (0..300).collect::<Vec<_>>(),
            "{lose_every}"
        );
        assert!(reader.metrics().connections_lost > 10);
        assert_eq!(reader.metrics().records, 300);
    }
}

#[tokio::test(start_paused = true)]
async fn every_partition_is_read_to_its_end() {
    let broker = MockBroker::new().with_topic("t", 5).with_topic("u", 1);
    for partition in 0..5 {
        for batch in 0..partition {
            broker.append("t", partition, &[&format!("{batch}"), "x"]);
        }
    }
    broker.append("u", 0, &["u"]);
    let mut reader = broker.client().reader().unwrap();
    reader.assign_topic("t", StartAt::Earliest).await.unwrap();
    reader.assign_topic("u", StartAt::Earliest).await.unwrap();
    reader.stop_at_end();
    let mut counts = [0; 6];
    while let Some(batch) = reader.next_batch().await.unwrap() {
        let at = if &*batch.topic == "u" {
            5
        } else {
            usize::try_from(batch.partition.get()).unwrap()
        };
        counts[at] += batch.records.len();
        assert!(batch.high_watermark >= batch.next_offset);
    }
    assert_eq!(counts, [0, 2, 4, 6, 8, 1]);
    assert_eq!(reader.assignment().count(), 6);
}

#[tokio::test(start_paused = true)]
async fn seeking_drops_what_was_read_ahead() {
    let broker = filled(100, 10);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    for _ in 0..15 {
        reader.next().await.unwrap().unwrap();
    }
    assert_eq!(reader.position(&place("t", 0)), Some(Offset::new(15)));
    reader
        .seek(&place("t", 0), StartAt::Offset(Offset::new(3)))
        .unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().offset, Offset::new(3));
    reader
        .seek(&place("t", 0), StartAt::Offset(Offset::new(77)))
        .unwrap();
    assert_eq!(
        reader.next_batch().await.unwrap().unwrap().records[0].offset,
        Offset::new(77)
    );
    let error = reader.seek(&place("t", 9), StartAt::Earliest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_batch_is_handed_out_whole_or_one_by_one() {
    let broker = filled(20, 10);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    for _ in 0..4 {
        reader.next().await.unwrap().unwrap();
    }
    let rest = reader.next_batch().await.unwrap().unwrap();
    let offsets: Vec<i64> = rest.into_iter().map(|record| record.offset.get()).collect();
    assert_eq!(offsets, (4..10).collect::<Vec<_>>());
    assert_eq!(
        reader.next().await.unwrap().unwrap().offset,
        Offset::new(10)
    );
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_waits_where_it_was_while_others_go_on() {
    let broker = MockBroker::new().with_topic("t", 2);
    for number in 0..10_usize {
        broker.append("t", number % 2, &["a", "b", "c"]);
    }
    let mut reader = broker.client().reader().unwrap();
    reader.assign_topic("t", StartAt::Earliest).await.unwrap();
    reader.stop_at_end();
    let first = reader.next().await.unwrap().unwrap();
    let paused = place("t", first.partition.get());
    reader.pause(&paused).unwrap();
    assert_eq!(reader.position(&paused), Some(Offset::new(1)));
    let mut others = 0;
    while let Ok(record) = tokio::time::timeout(Duration::from_secs(5), reader.next()).await {
        assert_ne!(record.unwrap().unwrap().partition, paused.partition);
        others += 1;
    }
    assert_eq!(others, 15);
    reader.resume(&paused).unwrap();
    let mut offsets = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        offsets.push(record.offset.get());
    }
    assert_eq!(offsets, (1..15).collect::<Vec<_>>());
}

/// A log whose first twenty records are gone.
fn trimmed() -> MockBroker {
    let broker = filled(50, 10);
    broker.state.lock().topics.get_mut("t").unwrap().partitions[0].start = Offset::new(20);
    broker
}

#[tokio::test(start_paused = true)]
async fn an_offset_outside_of_the_log_goes_on_as_configured() {
    for (policy, asked, found) in [
        (OutOfRange::Earliest, 5, Some(20)),
        (OutOfRange::Earliest, 500, Some(20)),
        (OutOfRange::Latest, 5, None),
    ] {
        let config = ReaderConfig {
            out_of_range: policy,
            ..Default::default()
        };
        let mut reader = trimmed().client().reader_with(config).unwrap();
        reader
            .assign(
                "t",
                PartitionId::new(0),
                StartAt::Offset(Offset::new(asked)),
            )
            .unwrap();
        let read = tokio::time::timeout(Duration::from_secs(5), reader.next()).await;
        let offset = read
            .ok()
            .map(|record| record.unwrap().unwrap().offset.get());
        assert_eq!(offset, found, "{policy:?} {asked}");
        assert_eq!(reader.metrics().offset_resets, 1);
    }
    let config = ReaderConfig {
        out_of_range: OutOfRange::Error,
        ..Default::default()
    };
    let mut reader = trimmed().client().reader_with(config).unwrap();
    reader
        .assign("t", PartitionId::new(0), StartAt::Offset(Offset::new(5)))
        .unwrap();
    let error = reader.next().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Data, Some(ErrorCode::OffsetOutOfRange))
    );
    assert!(reader.next().await.is_err(), "it stays failed");
    reader.seek(&place("t", 0), StartAt::Earliest).unwrap();
    assert_eq!(
        reader.next().await.unwrap().unwrap().offset,
        Offset::new(20)
    );
}

/// Damages the n-th responses.
fn damage(broker: &MockBroker, which: impl Fn(usize) -> bool + Send + 'static) {
    broker.fetch_script(move |number, response| {
        if which(number)
            && let Some(Data::Batches(bytes)) = &mut response.partitions[0].data
        {
            let mut damaged = BytesMut::from(&bytes[..]);
            let last = damaged.len() - 1;
            damaged[last] ^= 0x40;
            *bytes = damaged.freeze();
        }
        Ok(())
    });
}

#[tokio::test(start_paused = true)]
async fn a_batch_damaged_on_the_way_is_fetched_again() {
    let broker = filled(50, 10);
    damage(&broker, |number| number == 2);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    reader.stop_at_end();
    assert_eq!(read_all(&mut reader).await, (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_batch_damaged_for_good_is_an_error_that_can_be_sought_past() {
    let broker = filled(50, 10);
    broker.fetch_script(|_, response| {
        if let Some(Data::Batches(bytes)) = &mut response.partitions[0].data
            && bytes[..8] == 20_i64.to_be_bytes()
        {
            let mut damaged = BytesMut::from(&bytes[..]);
            damaged[70] ^= 1;
            *bytes = damaged.freeze();
        }
        Ok(())
    });
    let mut reader = reader_of(&broker, StartAt::Earliest);
    reader.stop_at_end();
    for offset in 0..20 {
        assert_eq!(
            reader.next().await.unwrap().unwrap().offset,
            Offset::new(offset)
        );
    }
    let error = reader.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("offset 20"), "{error}");
    reader
        .seek(&place("t", 0), StartAt::Offset(Offset::new(30)))
        .unwrap();
    assert_eq!(read_all(&mut reader).await, (30..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_unpacks_to_more_than_allowed_is_an_error_and_not_memory() {
    let broker = MockBroker::new().with_topic("t", 1);
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder
        .append(Timestamp::new(1), None, Some(&vec![0; 4 << 20]), &[])
        .unwrap();
    broker.append_batch("t", 0, builder.build().unwrap());
    let config = ReaderConfig {
        max_decompressed_bytes: 1 << 20,
        ..Default::default()
    };
    let mut reader = broker.client().reader_with(config).unwrap();
    reader
        .assign("t", PartitionId::new(0), StartAt::Earliest)
        .unwrap();
    assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::Data);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_batches_are_an_error_and_never_a_panic() {
    let mut seed = crate::backoff::Random::from_seed(1);
    for length in 0..200_usize {
        let garbage: Vec<u8> = (0..length)
            .map(|_| seed.next_u64().to_le_bytes()[0])
            .collect();
        let broker = filled(10, 10);
        broker.fetch_script(move |_, response| {
            response.partitions[0].data = Some(Data::Batches(Bytes::from(garbage.clone())));
            Ok(())
        });
        let mut reader = reader_of(&broker, StartAt::Earliest);
        reader.stop_at_end();
        match reader.next().await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Data),
            // No bytes at all: the broker says that there is nothing to show up to there.
            Ok(record) => assert!(length == 0 && record.is_none(), "{length}: {record:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stays_away_is_told_after_a_while_and_found_again() {
    let broker = filled(10, 10);
    broker.fail_calls("FetchStream", vec![tonic::Code::Unavailable; 70]);
    let config = ReaderConfig {
        retry_timeout: Duration::from_secs(30),
        ..Default::default()
    };
    let mut reader = broker.client().reader_with(config).unwrap();
    reader
        .assign("t", PartitionId::new(0), StartAt::Earliest)
        .unwrap();
    let begun = tokio::time::Instant::now();
    let error = reader.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert!(
        begun.elapsed() >= Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    let mut told = 1;
    let first = loop {
        match reader.next().await {
            Ok(record) => break record.unwrap(),
            Err(_) => told += 1,
        }
    };
    assert_eq!(first.offset, Offset::ZERO);
    assert!(told <= 3, "{told} errors");
}

#[tokio::test(start_paused = true)]
async fn partitions_and_topics_that_are_not_there_are_named() {
    let broker = filled(10, 10);
    let mut reader = broker.client().reader().unwrap();
    let error = reader
        .assign_topic("mistyped", StartAt::Earliest)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.topic()),
        (ErrorKind::Invalid, Some("mistyped"))
    );
    for start in [StartAt::Earliest, StartAt::Offset(Offset::ZERO)] {
        let mut reader = reader_of(&broker, StartAt::Earliest);
        reader.assign("t", PartitionId::new(7), start).unwrap();
        let mut read = 0;
        let error = loop {
            match reader.next().await {
                Ok(_) => read += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.partition(), Some(PartitionId::new(7)), "{error}");
        assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
        // The other partition is read all the same.
        while read < 10 {
            reader.next().await.unwrap().unwrap();
            read += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_is_not_taken_for_the_old_one() {
    let broker = filled(10, 10);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    for _ in 0..10 {
        reader.next().await.unwrap().unwrap();
    }
    broker.create("t", 1);
    broker.append("t", 0, &["other"]);
    broker.fetch_script(|number, _| match number {
        1 => Err(tonic::Status::unavailable("scripted")),
        _ => Ok(()),
    });
    let error = reader.next().await.unwrap_err();
    assert_eq!(
        error.code(),
        Some(ErrorCode::InconsistentTopicId),
        "{error}"
    );
    assert!(error.action().contains("assign it again"), "{error}");
    reader
        .assign("t", PartitionId::new(0), StartAt::Earliest)
        .unwrap();
    assert_eq!(
        reader.next().await.unwrap().unwrap().value.as_deref(),
        Some(&b"other"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn passing_errors_of_a_partition_are_waited_out() {
    for code in [
        ErrorCode::NotLeaderOrFollower,
        ErrorCode::KafkaStorageError,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::OffsetNotAvailable,
    ] {
        let broker = filled(50, 10);
        broker.fetch_script(move |number, response| {
            if number % 3 == 1 {
                response.partitions[0].error = error(code);
                response.partitions[0].data = None;
            }
            Ok(())
        });
        let mut reader = reader_of(&broker, StartAt::Earliest);
        reader.stop_at_end();
        assert_eq!(
            read_all(&mut reader).await,
            (0..50).collect::<Vec<_>>(),
            "{code}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_next_call_loses_nothing() {
    let broker = filled(200, 3);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    reader.stop_at_end();
    let mut offsets = Vec::new();
    loop {
        // Polled once and dropped, again and again.
        let once = std::future::poll_fn(|context| {
            let mut next = std::pin::pin!(reader.next());
            std::task::Poll::Ready(next.as_mut().poll(context))
        })
        .await;
        match once {
            std::task::Poll::Ready(Ok(Some(record))) => offsets.push(record.offset.get()),
            std::task::Poll::Ready(Ok(None)) => break,
            std::task::Poll::Ready(Err(error)) => panic!("{error}"),
            std::task::Poll::Pending => tokio::task::yield_now().await,
        }
    }
    assert_eq!(offsets, (0..200).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_not_polled_holds_the_broker_back() {
    let broker = filled(2_000, 1);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    reader.next().await.unwrap().unwrap();
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let sent = broker.state.lock().fetch_responses;
    assert!(sent < 10, "{sent} responses for one record");
}

#[tokio::test(start_paused = true)]
async fn control_batches_are_not_shown_and_not_waited_for() {
    let broker = filled(3, 3);
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .append(Timestamp::new(1), Some(&[0, 0, 0, 1]), Some(&[0; 6]), &[])
        .unwrap();
    let mut marker = BytesMut::from(&builder.build().unwrap()[..]);
    // Attributes: control.
    marker[22] |= 0x20;
    let crc = logweir_proto::record::crc_of(&marker);
    marker[17..21].copy_from_slice(&crc.to_be_bytes());
    logweir_proto::record::set_base_offset(&mut marker, Offset::new(3));
    let marker = logweir_proto::record::RecordBatch::from_bytes(marker.freeze()).unwrap();
    broker.state.lock().topics.get_mut("t").unwrap().partitions[0]
        .batches
        .push(marker);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    reader.stop_at_end();
    assert_eq!(read_all(&mut reader).await, [0, 1, 2]);
    assert_eq!(reader.position(&place("t", 0)), Some(Offset::new(4)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_a_stream() {
    let broker = filled(10, 3);
    let mut reader = reader_of(&broker, StartAt::Earliest);
    reader.stop_at_end();
    let records: Result<Vec<_>, Error> = StreamExt::collect(&mut reader).await;
    assert_eq!(records.unwrap().len(), 10);
}

#[tokio::test]
async fn reading_goes_on_over_a_socket_after_the_broker_was_restarted() {
    let broker = filled(100, 10);
    let listening = broker.listen();
    let client = crate::Client::connect(listening.address.to_string())
        .await
        .unwrap();
    let mut reader = client.reader().unwrap();
    reader.assign_topic("t", StartAt::Earliest).await.unwrap();
    for offset in 0..100 {
        assert_eq!(
            reader.next().await.unwrap().unwrap().offset,
            Offset::new(offset)
        );
    }
    let address = listening.stop();
    broker.append("t", 0, &["100"]);
    let _listening = broker.listen_again(address).await;
    assert_eq!(
        reader.next().await.unwrap().unwrap().offset,
        Offset::new(100)
    );
    assert_eq!(reader.metrics().connections_lost, 1);
}

#[tokio::test]
async fn readers_that_are_not_polled_hold_up_neither_producers_nor_admin_calls() {
    let broker = MockBroker::new().with_topic("t", 1).with_topic("u", 1);
    let large = "x".repeat(1 << 20);
    for _ in 0..12 {
        let mut builder = BatchBuilder::new(Compression::None);
        builder
            .append(Timestamp::new(1), None, Some(large.as_bytes()), &[])
            .unwrap();
        broker.append_batch("t", 0, builder.build().unwrap());
    }
    let listening = broker.listen();
    let client = crate::Client::connect(listening.address.to_string())
        .await
        .unwrap();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut reader = client.reader().unwrap();
        reader
            .assign("t", PartitionId::new(0), StartAt::Earliest)
            .unwrap();
        reader.next().await.unwrap().unwrap();
        readers.push(reader);
    }
    let producer = client.producer().unwrap();
    for _ in 0..100 {
        let record = crate::ProducerRecord::new("u").value("y");
        producer.send(record).await.unwrap().await.unwrap();
        client.admin().describe_topic("u").await.unwrap();
    }
    for reader in &mut readers {
        for _ in 1..12 {
            reader.next().await.unwrap().unwrap();
        }
    }
}
