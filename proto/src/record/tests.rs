//! Record batches as a whole: what is built comes back, and what each check refuses.

mod hostile;
mod vectors;

use bytes::Bytes;
use proptest::{collection, option, prelude::*};

use super::{
    batch::renew_crc,
    header::{
        ATTRIBUTES_AT, BASE_SEQUENCE_AT, LAST_OFFSET_DELTA_AT, MAX_TIMESTAMP_AT, PRODUCER_EPOCH_AT,
        PRODUCER_ID_AT, RECORD_COUNT_AT, put,
    },
    *,
};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// More than any batch of these tests unpacks to.
const LIMIT: usize = 64 << 20;

/// A record to be built: timestamp, key, value, headers.
type Input = (
    i64,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<(String, Option<Vec<u8>>)>,
);

fn headers_of(input: &Input) -> Vec<RecordHeader> {
    let header = |(key, value): &(String, Option<Vec<u8>>)| RecordHeader {
        key: Bytes::from(key.clone()),
        value: value.clone().map(Bytes::from),
    };
    input.3.iter().map(header).collect()
}

fn builder_of(compression: Compression, inputs: &[Input]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(compression);
    for input in inputs {
        let (timestamp, key, value) = (
            Timestamp::new(input.0),
            input.1.as_deref(),
            input.2.as_deref(),
        );
        let headers = headers_of(input);
        let expected = builder.uncompressed_bytes_with(timestamp, key, value, &headers);
        builder.append(timestamp, key, value, &headers).unwrap();
        assert_eq!(builder.uncompressed_bytes(), expected);
    }
    builder
}

/// A batch of three records, small enough to try everything on.
fn small(compression: Compression) -> Vec<u8> {
    let inputs = [
        (
            1000,
            Some(b"key".to_vec()),
            Some(b"value".to_vec()),
            vec![("h".to_owned(), None)],
        ),
        (1005, None, Some(Vec::new()), Vec::new()),
        (
            990,
            Some(Vec::new()),
            None,
            vec![("name".to_owned(), Some(b"x".to_vec()))],
        ),
    ];
    let mut builder = builder_of(compression, &inputs);
    builder.producer(ProducerId::new(5), ProducerEpoch::new(0), Sequence::new(9));
    builder.build().unwrap().to_vec()
}

/// What a broker does with bytes from a producer.
fn accept(bytes: &[u8]) -> Result<(), BatchError> {
    RecordBatch::from_bytes(Bytes::copy_from_slice(bytes))?.validate()
}

fn read(bytes: &[u8]) -> Result<Vec<Record>, BatchError> {
    RecordBatch::from_bytes(Bytes::copy_from_slice(bytes))?
        .records(LIMIT)?
        .collect()
}

/// A batch around a body made by hand, with a right checksum.
fn around(body: &[u8], record_count: i32, last_offset_delta: i32) -> Vec<u8> {
    let mut batch = small(Compression::None);
    batch.truncate(HEADER_LEN);
    batch.extend_from_slice(body);
    let length = i32::try_from(batch.len() - 12).unwrap();
    put(&mut batch, 8, length.to_be_bytes());
    put(&mut batch, RECORD_COUNT_AT, record_count.to_be_bytes());
    put(
        &mut batch,
        LAST_OFFSET_DELTA_AT,
        last_offset_delta.to_be_bytes(),
    );
    renew_crc(&mut batch);
    batch
}

fn input() -> impl Strategy<Value = Input> {
    let bytes = || option::of(collection::vec(any::<u8>(), 0..200));
    let timestamp = prop_oneof![4 => 0..2_000_000_000_000_i64, 1 => any::<i64>()];
    (
        timestamp,
        bytes(),
        bytes(),
        collection::vec((".{0,20}", bytes()), 0..5),
    )
}

fn compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(Compression::ALL.to_vec())
}

proptest! {
    #[test]
    fn every_record_comes_back_as_it_was_appended(
        compression in compression(),
        inputs in collection::vec(input(), 1..40),
        base_offset in 0..i64::MAX / 2,
    ) {
        let builder = builder_of(compression, &inputs);
        let mut bytes = builder.build().unwrap().to_vec();
        set_base_offset(&mut bytes, Offset::new(base_offset));
        let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
        batch.validate().unwrap();
        let max = inputs.iter().map(|input| input.0).max().unwrap();
        prop_assert_eq!(batch.header().max_timestamp, Timestamp::new(max));
        prop_assert_eq!(batch.header().base_timestamp, Timestamp::new(inputs[0].0));
        let mut count = 0;
        for (record, (offset, input)) in batch.records(LIMIT).unwrap().zip((base_offset..).zip(&inputs)) {
            let record = record.unwrap();
            prop_assert_eq!(record.offset, Offset::new(offset));
            prop_assert_eq!(record.timestamp, Timestamp::new(input.0));
            prop_assert_eq!(record.key.as_deref(), input.1.as_deref());
            prop_assert_eq!(record.value.as_deref(), input.2.as_deref());
            prop_assert_eq!(&record.headers, &headers_of(input));
            count += 1;
        }
        prop_assert_eq!(count, inputs.len());
    }
}

#[test]
fn a_builder_without_records_builds_nothing() {
    let builder = BatchBuilder::new(Compression::Zstd);
    assert!(builder.is_empty());
    assert_eq!(builder.uncompressed_bytes(), HEADER_LEN);
    assert_eq!(builder.build(), Err(BatchError::NoRecords));
}

#[test]
fn a_refused_record_leaves_the_builder_as_it_was() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .append(Timestamp::new(1), None, Some(b"a"), &[])
        .unwrap();
    let good = RecordHeader::new("good", "");
    let bad = RecordHeader {
        key: Bytes::from_static(b"\xff"),
        value: None,
    };
    assert_eq!(
        builder.append(Timestamp::new(9), None, Some(b"b"), &[good, bad]),
        Err(BatchError::HeaderNotUtf8 { index: 1 })
    );
    let records = read(&builder.build().unwrap()).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].timestamp, Timestamp::new(1));
}

#[test]
fn an_idempotent_and_transactional_producer_stands_in_the_header() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer(
        ProducerId::new(77),
        ProducerEpoch::new(3),
        Sequence::new(i32::MAX - 1),
    );
    builder.transactional(true);
    for _ in 0..4 {
        builder.append(Timestamp::new(1), None, None, &[]).unwrap();
    }
    let batch = RecordBatch::from_bytes(builder.build().unwrap()).unwrap();
    batch.validate().unwrap();
    let header = batch.header();
    assert!(header.has_producer() && header.attributes.is_transactional());
    assert_eq!(
        (header.producer_id, header.producer_epoch),
        (ProducerId::new(77), ProducerEpoch::new(3))
    );
    assert_eq!(
        header.last_sequence(),
        Sequence::new(1),
        "sequences wrap from i32::MAX to 0"
    );
    assert_eq!(header.leader_epoch, LeaderEpoch::NONE);
}

#[test]
fn without_a_producer_there_is_no_last_sequence() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(Timestamp::new(1), None, None, &[]).unwrap();
    let batch = RecordBatch::from_bytes(builder.build().unwrap()).unwrap();
    batch.validate().unwrap();
    assert!(!batch.header().has_producer());
    assert_eq!(batch.header().last_sequence(), Sequence::NONE);
}

#[test]
fn offset_and_leader_epoch_lie_outside_of_the_checksum() {
    let mut bytes = small(Compression::Lz4);
    set_base_offset(&mut bytes, Offset::new(12_345));
    set_leader_epoch(&mut bytes, LeaderEpoch::new(8));
    let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
    batch.validate().unwrap();
    assert_eq!(batch.header().base_offset, Offset::new(12_345));
    assert_eq!(batch.header().last_offset(), Offset::new(12_347));
    assert_eq!(batch.header().next_offset(), Offset::new(12_348));
    assert_eq!(batch.header().leader_epoch, LeaderEpoch::new(8));
}

#[test]
fn log_append_time_becomes_the_time_of_every_record() {
    for compression in Compression::ALL {
        let mut bytes = small(compression);
        set_log_append_time(&mut bytes, Timestamp::new(7_000));
        let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
        batch.verify_crc().unwrap();
        assert_eq!(
            batch.header().attributes.timestamp_type(),
            TimestampType::LogAppendTime
        );
        assert_eq!(batch.header().attributes.compression(), compression);
        assert_eq!(batch.header().max_timestamp, Timestamp::new(7_000));
        assert_eq!(batch.header().base_timestamp, Timestamp::new(1_000));
        for record in batch.records(LIMIT).unwrap() {
            assert_eq!(record.unwrap().timestamp, Timestamp::new(7_000));
        }
    }
}

#[test]
fn a_producer_can_be_put_into_a_built_batch() {
    let mut bytes = small(Compression::Gzip);
    set_producer(
        &mut bytes,
        ProducerId::new(6),
        ProducerEpoch::new(1),
        Sequence::new(0),
    );
    let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
    batch.validate().unwrap();
    assert_eq!(batch.header().producer_id, ProducerId::new(6));
    assert_eq!(batch.header().last_sequence(), Sequence::new(2));
}

#[test]
fn batches_are_taken_out_of_a_buffer_without_copying() {
    let bytes: Bytes = [small(Compression::None), small(Compression::Zstd)]
        .concat()
        .into();
    let mut rest = bytes.clone();
    let first = RecordBatch::split_from(&mut rest).unwrap();
    let second = RecordBatch::split_from(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(first.bytes().as_ptr(), bytes.as_ptr());
    assert_eq!(
        second.bytes().as_ptr(),
        bytes[first.bytes().len()..].as_ptr()
    );
    for record in first.records(0).unwrap() {
        let record = record.unwrap();
        for field in [record.key, record.value]
            .into_iter()
            .flatten()
            .filter(|field| !field.is_empty())
        {
            assert!(
                bytes.as_ptr_range().contains(&field.as_ptr()),
                "a field is part of the batch"
            );
        }
    }
    let taken: Vec<_> = batches(bytes).collect();
    assert_eq!(taken, [Ok(first), Ok(second)]);
}

#[test]
fn a_batch_cut_short_ends_the_batches_with_an_error() {
    let batch = small(Compression::None);
    let mut two = [batch.clone(), batch.clone()].concat();
    two.pop();
    let mut taken = batches(two.into());
    assert!(taken.next().unwrap().is_ok());
    let expected = BatchError::TooShort {
        needed: batch.len(),
        found: batch.len() - 1,
    };
    assert_eq!(taken.next(), Some(Err(expected)));
    assert_eq!(taken.next(), None);
}

#[test]
fn two_batches_are_not_one() {
    let batch = small(Compression::None);
    let two = [batch.clone(), batch.clone()].concat();
    assert_eq!(
        accept(&two),
        Err(BatchError::MoreThanOneBatch { extra: batch.len() })
    );
}

/// The small batch with two bytes of attributes set, and a right checksum.
fn with_attributes(bits: i16) -> Vec<u8> {
    let mut batch = small(Compression::None);
    put(&mut batch, ATTRIBUTES_AT, bits.to_be_bytes());
    renew_crc(&mut batch);
    batch
}

#[test]
fn attributes_that_no_producer_may_set_are_refused() {
    assert_eq!(accept(&with_attributes(0)), Ok(()));
    assert_eq!(accept(&with_attributes(Attributes::TRANSACTIONAL)), Ok(()));
    assert_eq!(
        accept(&with_attributes(Attributes::CONTROL)),
        Err(BatchError::ControlBatch)
    );
    assert_eq!(
        accept(&with_attributes(Attributes::LOG_APPEND_TIME)),
        Err(BatchError::LogAppendTime)
    );
    assert_eq!(
        accept(&with_attributes(Attributes::DELETE_HORIZON)),
        Err(BatchError::DeleteHorizon)
    );
    for bits in 5..=7 {
        assert_eq!(
            accept(&with_attributes(i16::from(bits))),
            Err(BatchError::UnknownCompression { bits })
        );
    }
    for attributes in [0x80, 0x100, 0x4000, i16::MIN] {
        assert_eq!(
            accept(&with_attributes(attributes)),
            Err(BatchError::UnknownAttributes { attributes })
        );
    }
}

#[test]
fn producer_fields_that_make_no_sense_are_refused() {
    let check = |id: i64, epoch: i16, sequence: i32, attributes: i16, good: bool| {
        let mut batch = with_attributes(attributes);
        put(&mut batch, PRODUCER_ID_AT, id.to_be_bytes());
        put(&mut batch, PRODUCER_EPOCH_AT, epoch.to_be_bytes());
        put(&mut batch, BASE_SEQUENCE_AT, sequence.to_be_bytes());
        renew_crc(&mut batch);
        match accept(&batch) {
            Ok(()) => assert!(good, "{id} {epoch} {sequence}"),
            Err(BatchError::Producer { .. }) => assert!(!good, "{id} {epoch} {sequence}"),
            Err(other) => panic!("{other}"),
        }
    };
    check(-1, -1, -1, 0, true);
    check(0, 0, 0, 0, true);
    check(0, 0, i32::MAX, Attributes::TRANSACTIONAL, true);
    check(-1, -1, -1, Attributes::TRANSACTIONAL, false);
    check(-2, 0, 0, 0, false);
    check(5, -1, 0, 0, false);
    check(5, 0, -1, 0, false);
    // Without an id the others have no meaning, and some clients leave them zero.
    check(-1, 0, 0, 0, true);
}

#[test]
fn counts_that_do_not_fit_the_offsets_are_refused() {
    let body = &small(Compression::None)[HEADER_LEN..];
    for (record_count, last_offset_delta) in [
        (3, 3),
        (3, 1),
        (2, 2),
        (4, 2),
        (0, 0),
        (0, 2),
        (-1, 2),
        (3, -1),
        (i32::MIN, 2),
        (0, -1),
        (i32::MAX, i32::MAX),
    ] {
        let error = accept(&around(body, record_count, last_offset_delta)).unwrap_err();
        assert_eq!(
            error,
            BatchError::Count {
                record_count,
                last_offset_delta
            }
        );
    }
    // One record more or less than there are, with offsets to match.
    assert_eq!(
        accept(&around(body, 4, 3)),
        Err(BatchError::Record {
            index: 3,
            fault: RecordFault::Ended {
                field: "record length",
                needed: 1,
                left: 0
            }
        })
    );
    assert_eq!(
        accept(&around(body, 2, 1)),
        Err(BatchError::TrailingBytes { extra: 14 })
    );
}

/// Checks a body that is broken in its record `index`. Records by hand are: length, attributes, timestamp delta,
/// offset delta, key, value, header count.
fn check_fault(body: &[u8], index: i32, fault: RecordFault) {
    let batch = around(body, index + 1, index);
    let expected = Err(BatchError::Record { index, fault });
    assert_eq!(accept(&batch), expected);
    assert_eq!(read(&batch).map(|_| ()), expected);
}

#[test]
fn records_outside_of_the_batch_or_out_of_order_are_refused() {
    assert_eq!(accept(&around(&[12, 0, 0, 0, 1, 1, 0], 1, 0)), Ok(()));
    // Beyond the last, negative, the same twice.
    check_fault(
        &[12, 0, 0, 2, 1, 1, 0],
        0,
        RecordFault::OffsetDelta { delta: 1, last: 0 },
    );
    check_fault(
        &[12, 0, 0, 1, 1, 1, 0],
        0,
        RecordFault::OffsetDelta { delta: -1, last: 0 },
    );
    let twice = [12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 0, 1, 1, 0];
    check_fault(
        &twice,
        1,
        RecordFault::OffsetOrder {
            delta: 0,
            previous: 0,
        },
    );
}

#[test]
fn records_whose_sizes_do_not_fit_are_refused() {
    let ended = |field, needed, left| RecordFault::Ended {
        field,
        needed,
        left,
    };
    let negative = |field, length| RecordFault::NegativeLength { field, length };
    // Longer than the body, negative, longer than its fields, shorter than them, without anything.
    check_fault(&[14, 0, 0, 0, 1, 1, 0], 0, ended("record", 7, 6));
    check_fault(&[13, 0, 0, 0, 1, 1, 0], 0, negative("record", -7));
    check_fault(
        &[14, 0, 0, 0, 1, 1, 0, 0],
        0,
        RecordFault::SizeMismatch { extra: 1 },
    );
    check_fault(&[10, 0, 0, 0, 1, 1, 0], 0, ended("header count", 1, 0));
    check_fault(&[0], 0, ended("record attributes", 1, 0));
    // A key and a value below -1, and a value that reaches into the next record.
    check_fault(&[12, 0, 0, 0, 3, 1, 0], 0, negative("key", -2));
    check_fault(&[12, 0, 0, 0, 1, 3, 0], 0, negative("value", -2));
    check_fault(
        &[12, 0, 0, 0, 1, 4, 0, 12, 0, 0, 2, 1, 1, 0],
        0,
        ended("value", 2, 1),
    );
    // More headers than there can be, fewer than none, one without a name.
    check_fault(
        &[12, 0, 0, 0, 1, 1, 2],
        0,
        RecordFault::HeaderCount { count: 1, left: 0 },
    );
    check_fault(
        &[12, 0, 0, 0, 1, 1, 1],
        0,
        RecordFault::HeaderCount { count: -1, left: 0 },
    );
    check_fault(
        &[16, 0, 0, 0, 1, 1, 2, 1, 1],
        0,
        negative("header name", -1),
    );
    // A number longer than its type.
    let long = [22, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x10, 0, 0, 0, 0];
    check_fault(
        &long,
        0,
        RecordFault::NumberTooLong {
            field: "offset delta",
        },
    );
}

#[test]
fn a_compressed_body_is_not_opened_but_may_not_be_missing() {
    let mut batch = around(&[1, 2, 3], 1, 0);
    put(&mut batch, ATTRIBUTES_AT, 4_i16.to_be_bytes());
    renew_crc(&mut batch);
    assert_eq!(accept(&batch), Ok(()));
    assert!(matches!(read(&batch), Err(BatchError::Decompress { .. })));
    let mut batch = around(&[], 1, 0);
    put(&mut batch, ATTRIBUTES_AT, 4_i16.to_be_bytes());
    renew_crc(&mut batch);
    assert!(matches!(accept(&batch), Err(BatchError::Decompress { .. })));
}

#[test]
fn a_compacted_batch_can_be_read_though_no_producer_may_send_it() {
    // Only the record at delta 2 of 0..=4 is left.
    let bytes = around(&[12, 0, 0, 4, 1, 1, 0], 1, 4);
    assert!(matches!(accept(&bytes), Err(BatchError::Count { .. })));
    let records = read(&bytes).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].offset, Offset::new(2));
    // None is left; the batch keeps the producer's sequence alive.
    let bytes = around(&[], 0, 4);
    let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
    assert_eq!(batch.header().last_sequence(), Sequence::new(13));
    assert_eq!(batch.records(0).unwrap().count(), 0);
}

#[test]
fn the_extremes_of_timestamps_come_back() {
    let mut builder = BatchBuilder::new(Compression::None);
    let times = [i64::MIN, i64::MAX, 0, -1];
    for time in times {
        builder
            .append(Timestamp::new(time), None, None, &[])
            .unwrap();
    }
    let bytes = builder.build().unwrap();
    assert_eq!(bytes[MAX_TIMESTAMP_AT..][..8], i64::MAX.to_be_bytes());
    let read: Vec<i64> = read(&bytes)
        .unwrap()
        .iter()
        .map(|record| record.timestamp.get())
        .collect();
    assert_eq!(read, times);
}

#[test]
fn compressions_have_kafkas_names_and_numbers() {
    for (number, name) in (0_u8..).zip(["none", "gzip", "snappy", "lz4", "zstd"]) {
        let compression: Compression = name.parse().unwrap();
        assert_eq!(compression.bits(), number);
        assert_eq!(Compression::from_bits(number), Some(compression));
        assert_eq!(compression.to_string(), name);
    }
    assert_eq!(Compression::from_bits(5), None);
    let error = "brotli".parse::<Compression>().unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown compression \"brotli\": expected none, gzip, snappy, lz4 or zstd"
    );
}

#[test]
fn errors_tell_the_values_that_were_wrong() {
    for (error, text) in [
        (
            BatchError::Crc {
                stored: 0x12,
                computed: 0xab_cdef,
            },
            "stored CRC 0x00000012 differs from 0x00abcdef, the CRC of the bytes",
        ),
        (
            BatchError::Magic { magic: 1 },
            "magic 1 where 2 is the only record batch format served",
        ),
        (
            BatchError::Record {
                index: 4,
                fault: RecordFault::OffsetDelta { delta: 9, last: 6 },
            },
            "record 4 of the batch: offset delta 9 lies outside of the batch, whose last is 6",
        ),
        (
            BatchError::DecompressedTooLarge {
                compression: Compression::Zstd,
                limit_bytes: 4096,
            },
            "zstd body unpacks to more than the limit of 4096 bytes",
        ),
        (
            BatchError::Length { length: 7 },
            "batch length 7 is below 49, the length of an empty batch",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}
