//! Sequences, epochs, the window and expiry, as Kafka has them.

use std::time::Duration;

use logweir_proto::record::{BatchBuilder, BatchHeader, Compression, RecordBatch, set_producer};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn header(epoch: i16, sequence: i32, records: usize, base_offset: i64) -> BatchHeader {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..records {
        builder
            .append(Timestamp::new(5), None, Some(b"v"), &[])
            .unwrap();
    }
    let mut bytes = builder.build().unwrap().to_vec();
    let (id, epoch) = (ProducerId::new(9), ProducerEpoch::new(epoch));
    set_producer(&mut bytes, id, epoch, Sequence::new(sequence));
    let header = *RecordBatch::from_bytes(bytes.into()).unwrap().header();
    BatchHeader {
        base_offset: Offset::new(base_offset),
        ..header
    }
}

/// Appends batches (epoch, sequence, records), each at the offset of ten times its number.
fn producers(batches: &[(i16, i32, usize)]) -> Producers {
    let mut producers = Producers::default();
    for (&(epoch, sequence, records), offset) in batches.iter().zip((0..).step_by(10)) {
        producers.note(
            &header(epoch, sequence, records, offset),
            Timestamp::new(100),
        );
    }
    producers
}

fn check(
    before: &[(i16, i32, usize)],
    (epoch, sequence, records): (i16, i32, usize),
    expected: Result<ProducerCheck, ProducerError>,
) {
    let header = header(epoch, sequence, records, 0);
    let found = producers(before).check(&header, Timestamp::new(200), DAY);
    assert_eq!(
        found, expected,
        "{before:?}, then {epoch} {sequence} {records}"
    );
}

fn duplicate(base_offset: i64) -> Result<ProducerCheck, ProducerError> {
    let base_offset = Offset::new(base_offset);
    Ok(ProducerCheck::Duplicate {
        base_offset,
        append_time: Timestamp::NONE,
    })
}

fn out_of_order(expected: i32, found: i32) -> Result<ProducerCheck, ProducerError> {
    let (expected, found) = (Sequence::new(expected), Sequence::new(found));
    Err(ProducerError::OutOfOrder { expected, found })
}

#[test]
fn sequences_follow_one_another() {
    check(&[], (0, 0, 1), Ok(ProducerCheck::New));
    check(&[(0, 0, 3)], (0, 3, 2), Ok(ProducerCheck::New));
    check(&[(0, 0, 3)], (0, 4, 2), out_of_order(3, 4));
    check(&[(0, 0, 3)], (0, 2, 2), out_of_order(3, 2));
}

#[test]
fn an_unknown_producer_begins_anywhere() {
    check(&[], (3, 77, 1), Ok(ProducerCheck::New));
}

#[test]
fn a_sequence_wraps_after_the_largest() {
    check(&[(0, i32::MAX - 1, 2)], (0, 0, 1), Ok(ProducerCheck::New));
    check(&[(0, i32::MAX, 3)], (0, 2, 1), Ok(ProducerCheck::New));
    check(&[(0, i32::MAX, 3)], (0, i32::MAX, 3), duplicate(0));
    check(
        &[(0, i32::MAX, 3)],
        (0, i32::MAX - 1, 1),
        Err(ProducerError::DuplicateTooOld),
    );
}

#[test]
fn each_of_the_last_five_batches_is_known() {
    let six = [
        (0, 0, 1),
        (0, 1, 2),
        (0, 3, 1),
        (0, 4, 1),
        (0, 5, 1),
        (0, 6, 1),
    ];
    check(&six, (0, 1, 2), duplicate(10));
    check(&six, (0, 6, 1), duplicate(50));
    check(&six, (0, 0, 1), Err(ProducerError::DuplicateTooOld));
    // The same records in other batches cannot be answered with an offset.
    check(&six, (0, 1, 1), out_of_order(7, 1));
}

#[test]
fn a_newer_epoch_begins_at_zero_and_fences_the_older() {
    check(&[(1, 0, 1)], (2, 0, 1), Ok(ProducerCheck::New));
    check(&[(1, 0, 1)], (2, 1, 1), out_of_order(0, 1));
    let fenced = ProducerError::Fenced {
        current: ProducerEpoch::new(2),
        found: ProducerEpoch::new(1),
    };
    check(&[(1, 0, 1), (2, 0, 1)], (1, 1, 1), Err(fenced));
    // Batches of the older epoch are no duplicates of the newer one's.
    check(
        &[(1, 0, 1), (1, 1, 1), (2, 0, 1)],
        (2, 1, 1),
        Ok(ProducerCheck::New),
    );
}

#[test]
fn a_producer_not_seen_for_long_is_forgotten() {
    let mut producers = producers(&[(0, 0, 1)]);
    let late = Timestamp::new(100 + 86_400_000);
    assert_eq!(
        producers.check(&header(0, 9, 1, 0), late, DAY),
        Ok(ProducerCheck::New)
    );
    producers.expire(Timestamp::new(99 + 86_400_000), DAY);
    assert_eq!(producers.sorted().len(), 1);
    producers.expire(late, DAY);
    assert_eq!(producers, Producers::default());
}

#[test]
fn a_recovered_producer_counts_as_seen_when_the_clock_is_first_looked_at() {
    let mut producers = Producers::default();
    producers.note(&header(0, 0, 1, 0), Timestamp::NONE);
    let now = Timestamp::new(1_000_000_000_000);
    producers.expire(now, DAY);
    assert_eq!(producers.sorted()[0].1.last_seen, now);
}

#[test]
fn an_open_transaction_keeps_its_producer() {
    let mut producers = producers(&[(0, 0, 1)]);
    let state = producers.by_id.get_mut(&ProducerId::new(9)).unwrap();
    state.txn_first_offset = Some(Offset::new(0));
    producers.expire(Timestamp::new(i64::MAX), DAY);
    assert_eq!(producers.sorted().len(), 1);
}

#[test]
fn a_snapshot_gives_back_every_field() {
    let mut producers = producers(&[(0, 0, 1), (0, 1, 2), (1, 0, 1)]);
    let state = producers.by_id.get_mut(&ProducerId::new(9)).unwrap();
    state.coordinator_epoch = 4;
    state.txn_first_offset = Some(Offset::new(7));
    let bytes = encode(&producers, Offset::new(30));
    assert_eq!(decode(&bytes), Ok((Offset::new(30), producers)));
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err());
    }
}

#[test]
fn a_batch_without_a_producer_is_always_new() {
    let mut plain = header(0, 0, 1, 0);
    plain.producer_id = ProducerId::NONE;
    let check = producers(&[(0, 5, 1)]).check(&plain, Timestamp::new(0), DAY);
    assert_eq!(check, Ok(ProducerCheck::New));
}
