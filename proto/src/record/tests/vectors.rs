//! Bytes of other implementations: by hand from Kafka's documentation, from Kafka's Java classes, from kafka-python.
//!
//! `testdata/README.md` tells how the files were made, and how Kafka's Java classes read what is built here.

use super::*;

const TIME: i64 = 1_700_000_000_000;

/// The records in every file of `testdata`, but for the markers; the last value is larger in the compressed ones.
fn sample(repeats: usize) -> Vec<Input> {
    let headers = vec![
        ("trace".to_owned(), Some(b"1f".to_vec())),
        ("empty".to_owned(), Some(Vec::new())),
        ("null".to_owned(), None),
    ];
    vec![
        (
            TIME,
            Some(b"k0".to_vec()),
            Some(b"value 0".to_vec()),
            headers,
        ),
        (TIME + 5, None, Some(b"no key".to_vec()), Vec::new()),
        (TIME - 10, Some(Vec::new()), Some(Vec::new()), Vec::new()),
        (TIME + 3, Some(b"k0".to_vec()), None, Vec::new()),
        (
            TIME + 1000,
            Some(vec![0xff, 0]),
            Some(b"0123456789abcdef".repeat(repeats)),
            Vec::new(),
        ),
    ]
}

fn sample_builder(compression: Compression) -> BatchBuilder {
    let mut builder = builder_of(compression, &sample(repeats(compression)));
    builder.producer(ProducerId::new(42), ProducerEpoch::new(1), Sequence::new(7));
    builder
}

fn repeats(compression: Compression) -> usize {
    if compression == Compression::None {
        2
    } else {
        5000
    }
}

fn build(builder: BatchBuilder, base_offset: i64, leader_epoch: i32) -> Vec<u8> {
    let mut bytes = builder.build().unwrap().to_vec();
    set_base_offset(&mut bytes, Offset::new(base_offset));
    set_leader_epoch(&mut bytes, LeaderEpoch::new(leader_epoch));
    bytes
}

/// The files of `testdata`, compiled in: this crate reads no file, nor do its tests.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        const FILES: &[(&str, &[u8])] = &[$(($name, include_bytes!(concat!("../testdata/", $name)))),*];
    };
}

files![
    "java-abort.bin",
    "java-commit.bin",
    "java-gzip.bin",
    "java-log-append-time.bin",
    "java-lz4.bin",
    "java-none.bin",
    "java-snappy.bin",
    "java-transactional.bin",
    "java-zstd.bin",
    "python-gzip.bin",
    "python-lz4.bin",
    "python-none.bin",
    "python-snappy.bin",
    "python-zstd.bin",
];

fn file(name: &str) -> Vec<u8> {
    let found = FILES.iter().find(|(found, _)| *found == name);
    found
        .unwrap_or_else(|| panic!("{name} is not listed"))
        .1
        .to_vec()
}

fn check_sample(name: &str, compression: Compression, base_offset: i64, leader_epoch: i32) {
    let batch = RecordBatch::from_bytes(file(name).into()).unwrap();
    batch.validate().unwrap();
    let header = batch.header();
    assert_eq!(header.attributes.compression(), compression, "{name}");
    assert_eq!(header.base_offset, Offset::new(base_offset));
    assert_eq!(header.leader_epoch, LeaderEpoch::new(leader_epoch));
    assert_eq!(header.base_timestamp, Timestamp::new(TIME));
    assert_eq!(header.max_timestamp, Timestamp::new(TIME + 1000));
    assert_eq!(
        (
            header.producer_id.get(),
            header.producer_epoch.get(),
            header.base_sequence.get()
        ),
        (42, 1, 7)
    );
    let records: Vec<Record> = batch
        .records(100_000)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let expected = sample(repeats(compression));
    assert_eq!(records.len(), expected.len());
    for ((record, input), offset) in records.iter().zip(&expected).zip(base_offset..) {
        assert_eq!(record.offset, Offset::new(offset));
        assert_eq!(record.timestamp, Timestamp::new(input.0));
        assert_eq!(record.key.as_deref(), input.1.as_deref());
        assert_eq!(record.value.as_deref(), input.2.as_deref());
        assert_eq!(record.headers, headers_of(input));
    }
}

/// From the tables of <https://kafka.apache.org/documentation/#recordbatch>, byte by byte.
#[test]
fn a_batch_laid_out_by_hand_is_the_one_that_is_built() {
    #[rustfmt::skip]
    let bytes: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 0,             // base offset 0
        0, 0, 0, 60,                        // batch length: 49 of the header, 11 of the record
        0xff, 0xff, 0xff, 0xff,             // partition leader epoch -1
        2,                                  // magic
        0x3c, 0xb5, 0x98, 0x3d,             // CRC-32C
        0, 0,                               // attributes: no compression, create time
        0, 0, 0, 0,                         // last offset delta
        0, 0, 0, 0, 0, 0, 0, 100,           // base timestamp
        0, 0, 0, 0, 0, 0, 0, 100,           // max timestamp
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id -1
        0xff, 0xff,                         // producer epoch -1
        0xff, 0xff, 0xff, 0xff,             // base sequence -1
        0, 0, 0, 1,                         // record count
        20,                                 // record length 10
        0,                                  // attributes
        0,                                  // timestamp delta
        0,                                  // offset delta
        2, b'k',                            // key
        1,                                  // value: null
        2,                                  // one header
        2, b'h',                            // its name
        0,                                  // its value: empty
    ];
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .append(
            Timestamp::new(100),
            Some(b"k"),
            None,
            &[RecordHeader::new("h", "")],
        )
        .unwrap();
    assert_eq!(builder.build().unwrap(), bytes);
    accept(bytes).unwrap();
    let records = read(bytes).unwrap();
    assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(records[0].value, None);
    assert_eq!(records[0].headers, [RecordHeader::new("h", "")]);
}

#[test]
fn batches_of_kafkas_java_classes_are_read() {
    for compression in Compression::ALL {
        check_sample(&format!("java-{compression}.bin"), compression, 100, 3);
    }
}

#[test]
fn batches_of_kafka_python_are_read() {
    for compression in Compression::ALL {
        check_sample(&format!("python-{compression}.bin"), compression, 0, 0);
    }
}

#[test]
fn uncompressed_batches_are_byte_for_byte_those_of_the_other_implementations() {
    assert_eq!(
        build(sample_builder(Compression::None), 100, 3),
        file("java-none.bin")
    );
    assert_eq!(
        build(sample_builder(Compression::None), 0, 0),
        file("python-none.bin")
    );
    let mut builder = sample_builder(Compression::None);
    builder.transactional(true);
    assert_eq!(build(builder, 100, 3), file("java-transactional.bin"));
}

#[test]
fn log_append_time_is_stamped_as_kafka_stamps_it() {
    let mut bytes = file("java-none.bin");
    set_log_append_time(&mut bytes, Timestamp::new(TIME + 77));
    let ours = RecordBatch::from_bytes(bytes.into()).unwrap();
    let theirs = RecordBatch::from_bytes(file("java-log-append-time.bin").into()).unwrap();
    assert_eq!(ours.bytes(), theirs.bytes());
    for record in theirs.records(0).unwrap() {
        assert_eq!(record.unwrap().timestamp, Timestamp::new(TIME + 77));
    }
}

#[test]
fn transaction_markers_of_kafkas_java_classes_are_read() {
    let end = EndTransaction {
        coordinator_epoch: 9,
    };
    for (name, expected) in [
        ("java-commit.bin", ControlRecord::Commit(end)),
        ("java-abort.bin", ControlRecord::Abort(end)),
    ] {
        let batch = RecordBatch::from_bytes(file(name).into()).unwrap();
        batch.verify_crc().unwrap();
        assert_eq!(batch.validate(), Err(BatchError::ControlBatch));
        let attributes = batch.header().attributes;
        assert!(attributes.is_control() && attributes.is_transactional());
        let records: Vec<Record> = batch.records(0).unwrap().map(Result::unwrap).collect();
        assert_eq!(records.len(), 1);
        assert_eq!(ControlRecord::read(&records[0]), Some(expected));
    }
}
