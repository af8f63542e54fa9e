//! The records that are sent: values of random bytes, the same in every run.

use bytes::Bytes;
use logweir_proto::Timestamp;
use logweir_proto::record::{BatchBuilder, Compression, HEADER_LEN, RecordBatch};

/// A batch of one record that is `batch_bytes` long in all.
///
/// # Panics
/// If `batch_bytes` is below 100, or not below 2 GiB.
#[must_use]
pub fn batch_of(batch_bytes: usize) -> RecordBatch {
    // The record's own fields take 7 to 15 bytes, as their lengths do.
    let room = batch_bytes - HEADER_LEN;
    for value_bytes in (room.saturating_sub(20)..room).rev() {
        let bytes = build(&[value_bytes]);
        if bytes.len() == batch_bytes {
            return RecordBatch::from_bytes(bytes).expect("it was built as one");
        }
    }
    panic!("no single record makes a batch of {batch_bytes} bytes")
}

/// A batch of `records` records with values of `value_bytes`.
///
/// # Panics
/// If that is no batch: no records, or 2 GiB of them.
#[must_use]
pub fn record_batch(records: usize, value_bytes: usize) -> RecordBatch {
    RecordBatch::from_bytes(build(&vec![value_bytes; records])).expect("it was built as one")
}

/// How many such batches make up about `total_bytes`, at least one.
#[must_use]
pub fn batches_for(total_bytes: u64, batch: &RecordBatch) -> u64 {
    (total_bytes / batch.bytes().len() as u64).max(1)
}

fn build(value_bytes: &[usize]) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut builder = BatchBuilder::new(Compression::None);
    for (at, &length) in value_bytes.iter().enumerate() {
        let mut value = Vec::with_capacity(length + 8);
        while value.len() < length {
            // Xorshift, which does not compress.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            value.extend_from_slice(&state.to_le_bytes());
        }
        value.truncate(length);
        let timestamp = Timestamp::new(1_700_000_000_000 + i64::try_from(at).expect("few records"));
        builder
            .append(timestamp, None, Some(&value), &[])
            .expect("a batch holds it");
    }
    builder.build().expect("there are records")
}
