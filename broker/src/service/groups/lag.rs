//! How far a group is behind in a partition: in records that are there, and in the age of the oldest of them.

use std::time::Duration;

use logweir_proto::record::{RecordBatch, TimestampType, batches};
use logweir_proto::{Offset, Timestamp};
use logweir_storage::ReadError;

use crate::partition::Partition;

/// Bytes of the log read at a time in search of the oldest record.
const READ_BYTES: usize = 64 << 10;
/// Batches without a record of a user (control batches, emptied ones) that are passed over in that search.
const MAX_BATCHES: usize = 10_000;
/// A batch may grow to this when it is decompressed.
const MAX_DECOMPRESSED_BYTES: usize = 16 << 20;

/// What is still to be read of a partition, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Records that are there: none that compaction removed, no control records.
    pub(crate) records: u64,
    /// The age of the oldest of them by its timestamp; zero if there is none, or it is of the future.
    pub(crate) age: Duration,
}

impl Lag {
    /// Of both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            age: self.age.max(other.age),
        }
    }
}

/// The lag of who wants `from` next, for readers that see records below the last stable offset. May read from the disk.
///
/// # Errors
/// What the log says when it is read.
pub(super) fn lag(partition: &Partition, from: Offset, now: Timestamp) -> Result<Lag, ReadError> {
    let end = partition.last_stable();
    let from = from.max(partition.log().log_start_offset());
    if from >= end {
        return Ok(Lag::default());
    }
    let records = partition.log().records_between(from, end)?;
    if records == 0 {
        return Ok(Lag::default());
    }
    let oldest = match first_timestamp(partition, from, end) {
        // Retention has just removed it.
        Err(ReadError::OutOfRange { start, .. }) if start > from => {
            return lag(partition, start, now);
        }
        oldest => oldest?,
    };
    let age_ms = oldest.map_or(0, |oldest| now.get().saturating_sub(oldest.get()));
    Ok(Lag {
        records,
        age: Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)),
    })
}

/// The timestamp of the first record from `from` on and below `end` that is a user's.
fn first_timestamp(
    partition: &Partition,
    from: Offset,
    end: Offset,
) -> Result<Option<Timestamp>, ReadError> {
    let mut at = from;
    let mut passed = 0;
    while at < end && passed < MAX_BATCHES {
        let slice = partition.log().read(at, READ_BYTES, end)?;
        if slice.next_offset <= at {
            break;
        }
        for batch in batches(slice.bytes).map_while(Result::ok) {
            passed += 1;
            if let Some(found) = first_in(&batch, from) {
                return Ok(Some(found));
            }
        }
        at = slice.next_offset;
    }
    Ok(None)
}

/// What cannot be read, such as the body of a batch that a producer compressed badly, has no timestamp but its header's.
fn first_in(batch: &RecordBatch, from: Offset) -> Option<Timestamp> {
    let header = batch.header();
    if header.attributes.is_control() {
        return None;
    }
    // Mostly the header is enough, and the records need not be unpacked.
    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        return Some(header.max_timestamp);
    }
    let is_whole = i64::from(header.record_count) == i64::from(header.last_offset_delta) + 1;
    if is_whole && from <= header.base_offset {
        return Some(header.base_timestamp);
    }
    let Ok(records) = batch.records(MAX_DECOMPRESSED_BYTES) else {
        return Some(header.max_timestamp);
    };
    let mut records = records.map_while(Result::ok);
    records
        .find(|record| record.offset >= from)
        .map(|record| record.timestamp)
}
