//! What must hold for any bytes at all, as functions that proptest runs in `cargo test` and the fuzzer at length.
//!
//! Compiled for tests and fuzzing only. A broken promise is a panic.

use bytes::Bytes;

use super::{
    BatchBuilder, BatchError, BatchHeader, Compression, ControlRecord, HEADER_LEN, Record,
    RecordBatch, batch::renew_crc, batches, compression, header,
};

/// What bodies may unpack to; small, so that bombs are met often.
const LIMIT: usize = 256 * 1024;

/// Takes `bytes` as everything that bytes from outside are taken for: a batch, a batch whose first fields and checksum
/// happen to be right, several batches, a compressed body.
pub fn check_any_bytes(bytes: &[u8]) {
    check_as_batch(bytes);
    check_as_batch(&mended(bytes));
    let mut taken = 0;
    for batch in batches(Bytes::copy_from_slice(bytes)).flatten() {
        taken += batch.bytes().len();
    }
    assert!(taken <= bytes.len(), "batches do not overlap");
    for compression in Compression::ALL {
        if let Ok(unpacked) = compression::decompress(compression, bytes, LIMIT) {
            assert!(
                unpacked.capacity() <= LIMIT,
                "{compression} made {}",
                unpacked.capacity()
            );
        }
    }
}

/// Checks one batch, which may be anything.
pub fn check_as_batch(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    let mut rest = whole.clone();
    let header = BatchHeader::read(bytes);
    let batch = match RecordBatch::split_from(&mut rest) {
        Ok(batch) => batch,
        Err(error) => {
            assert_eq!(rest, whole, "a refused batch stays where it was");
            assert!(
                header.is_err() || matches!(error, BatchError::TooShort { .. }),
                "{error}"
            );
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(header.as_ref(), Ok(batch.header()));
    assert_eq!(batch.bytes().len(), batch.header().size_bytes);
    assert_eq!(batch.bytes().len() + rest.len(), bytes.len());
    assert!(batch.header().last_offset() >= batch.header().base_offset);

    let valid = batch.validate();
    let records = read(&batch);
    if valid.is_ok() && batch.header().attributes.compression() == Compression::None {
        let records = records
            .as_ref()
            .expect("a batch that was checked can be read");
        let count = usize::try_from(batch.header().record_count).expect("counts were checked");
        assert_eq!(
            records.len(),
            count,
            "a checked batch has as many records as it says"
        );
        rebuild(records);
    }
}

/// Every record, or the first error, with what holds for them in any batch.
fn read(batch: &RecordBatch) -> Result<Vec<Record>, BatchError> {
    let mut records: Vec<Record> = Vec::new();
    let mut iterator = batch.records(LIMIT)?;
    while let Some(record) = iterator.next() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                assert!(iterator.next().is_none(), "nothing comes after an error");
                return Err(error);
            }
        };
        assert!(record.offset >= batch.header().base_offset);
        assert!(record.offset <= batch.header().last_offset());
        if batch.header().last_offset() < crate::Offset::MAX {
            assert!(
                records
                    .last()
                    .is_none_or(|last| last.offset < record.offset)
            );
        }
        let _ = ControlRecord::read(&record);
        records.push(record);
    }
    assert!(iterator.next().is_none());
    Ok(records)
}

/// What was read can be built again, and read again as the same.
fn rebuild(records: &[Record]) {
    let compression = Compression::ALL[records.len() % Compression::ALL.len()];
    let mut builder = BatchBuilder::new(compression);
    for record in records {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        match builder.append(record.timestamp, key, value, &record.headers) {
            Ok(()) => {}
            Err(BatchError::HeaderNotUtf8 { .. }) => return,
            Err(error) => panic!("a record that was read cannot be built: {error}"),
        }
    }
    let limit = builder.uncompressed_bytes();
    let batch = builder
        .build()
        .and_then(RecordBatch::from_bytes)
        .expect("it was built");
    batch.validate().expect("what is built is valid");
    let again: Vec<Record> = batch
        .records(limit)
        .expect("what was packed is unpacked")
        .map(|record| record.expect("what is built can be read"))
        .collect();
    assert_eq!(again.len(), records.len());
    for (again, record) in again.iter().zip(records) {
        assert_eq!(
            (again.timestamp, &again.key, &again.value, &again.headers),
            (
                record.timestamp,
                &record.key,
                &record.value,
                &record.headers
            )
        );
    }
}

/// The bytes with magic, length, attributes and checksum put right, which chance alone would seldom do.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut batch = bytes.to_vec();
    if batch.len() < HEADER_LEN {
        return batch;
    }
    let Ok(length) = i32::try_from(batch.len() - header::PREFIX_LEN) else {
        return batch;
    };
    header::put(&mut batch, header::LENGTH_AT, length.to_be_bytes());
    header::put(&mut batch, header::MAGIC_AT, header::MAGIC.to_be_bytes());
    batch[header::ATTRIBUTES_AT] = 0;
    batch[header::ATTRIBUTES_AT + 1] &= 0x7f;
    renew_crc(&mut batch);
    batch
}
