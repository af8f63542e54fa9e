//! How far a group is behind in a partition: in records that are there, and in the age of the oldest of them.

use std::time::Duration;

use logweir_proto::record::{RecordBatch, TimestampType, batches};
use logweir_proto::{Offset, Timestamp};
use logweir_storage::{LogReader, ReadError};

/// Bytes of the log read at a time in search of the oldest record.
const READ_BYTES: usize = 64 << 10;
/// Batches without a record of a user (control batches, emptied ones) that are passed over in that search.
const MAX_BATCHES: usize = 10_000;
/// A batch may grow to this when it is decompressed.
const MAX_DECOMPRESSED_BYTES: usize = 16 << 20;

/// What is still to be read of a partition, or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Records that are there: none that compaction removed, no control records.
    pub(crate) records: u64,
    /// The age of the oldest of them by its timestamp; zero if there is none, or it is of the future. `None` if it was not
    /// found.
    pub(crate) age: Option<Duration>,
}

impl Default for Lag {
    fn default() -> Self {
        Self {
            records: 0,
            age: Some(Duration::ZERO),
        }
    }
}

impl Lag {
    /// Of both together. An age that is not known is left out, unless nothing else is behind.
    pub(crate) fn and(self, other: Self) -> Self {
        let age = match (self.age, other.age) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (one, other) => one.or(other).filter(|age| !age.is_zero()),
        };
        Self {
            records: self.records.saturating_add(other.records),
            age,
        }
    }
}

/// The lag of who wants `from` next and is shown what is below `end`. May read from the disk.
///
/// # Errors
/// What the log says when it is read.
pub(super) fn lag(
    log: &LogReader,
    from: Offset,
    end: Offset,
    now: Timestamp,
) -> Result<Lag, ReadError> {
    let from = from.max(log.log_start_offset());
    if from >= end {
        return Ok(Lag::default());
    }
    let records = log.records_between(from, end)?;
    if records == 0 {
        return Ok(Lag::default());
    }
    let oldest = match first_timestamp(log, from, end) {
        // Retention has just removed it.
        Err(ReadError::OutOfRange { start, .. }) if start > from => {
            return lag(log, start, end, now);
        }
        oldest => oldest?,
    };
    let age = oldest.map(|oldest| {
        let ms = now.get().saturating_sub(oldest.get());
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    });
    Ok(Lag { records, age })
}

/// The timestamp of the first record from `from` on and below `end` that is a user's; `None` if it was not found among
/// the first [`MAX_BATCHES`].
fn first_timestamp(
    log: &LogReader,
    from: Offset,
    end: Offset,
) -> Result<Option<Timestamp>, ReadError> {
    let mut at = from;
    let mut passed = 0;
    while at < end && passed < MAX_BATCHES {
        let slice = log.read(at, READ_BYTES, end)?;
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
    for record in records {
        match record {
            Ok(record) if record.offset >= from => return Some(record.timestamp),
            Ok(_) => {}
            Err(_) => return Some(header.max_timestamp),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use logweir_proto::record::{BatchBuilder, Compression, crc_of};
    use logweir_proto::{LeaderEpoch, PartitionId, TopicId};
    use logweir_storage::disk::SimDisk;
    use logweir_storage::{Log, LogConfig, LogDir, LogDirConfig};

    use super::*;

    /// When the brokers of these tests append, and when they look.
    const APPENDED: Timestamp = Timestamp::new(50_000);
    const NOW: Timestamp = Timestamp::new(100_000);

    fn log(timestamp_type: TimestampType) -> Log {
        let disk = Arc::new(SimDisk::new(256 << 20));
        let dir = LogDir::open(disk, Path::new("/"), LogDirConfig::default()).unwrap();
        let config = LogConfig {
            timestamp_type,
            ..LogConfig::default()
        };
        let id = (TopicId::new([7; 16]), PartitionId::new(0));
        dir.open_log("t", id.0, id.1, config, Box::new(|_| {}))
            .unwrap()
    }

    /// A batch of records with these timestamps.
    fn built(compression: Compression, times: &[i64]) -> Vec<u8> {
        let mut batch = BatchBuilder::new(compression);
        for time in times {
            let (time, value) = (Timestamp::new(*time), [b'v'; 100]);
            batch.append(time, None, Some(&value), &[]).unwrap();
        }
        batch.build().unwrap().to_vec()
    }

    /// With a change that its producer made on purpose, so that its CRC is right.
    fn changed(mut batch: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        change(&mut batch);
        let crc = crc_of(&batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    fn plain(times: &[i64]) -> Vec<u8> {
        built(Compression::None, times)
    }

    fn control() -> Vec<u8> {
        changed(plain(&[1_000]), |batch| batch[22] |= 0x20)
    }

    fn append(log: &mut Log, batch: Vec<u8>) {
        let batch = RecordBatch::from_bytes(Bytes::from(batch)).unwrap();
        log.append(&batch, LeaderEpoch::new(0), APPENDED).unwrap();
    }

    fn filled(timestamp_type: TimestampType, batches: Vec<Vec<u8>>) -> Log {
        let mut log = log(timestamp_type);
        for batch in batches {
            append(&mut log, batch);
        }
        log
    }

    fn check(log: &Log, from: i64, records: u64, age_ms: Option<u64>) {
        let found = lag(&log.reader(), Offset::new(from), log.log_end_offset(), NOW).unwrap();
        let age = age_ms.map(Duration::from_millis);
        assert_eq!(found, Lag { records, age }, "from {from}");
    }

    #[test]
    fn lag_is_counted_from_the_first_record_that_is_there_to_the_end() {
        use TimestampType::{CreateTime, LogAppendTime};
        let batches = || vec![plain(&[10_000, 20_000]), plain(&[30_000, 120_000])];
        let mut create = filled(CreateTime, batches());
        check(&create, 0, 4, Some(90_000));
        check(&create, 1, 3, Some(80_000));
        check(&create, 2, 2, Some(70_000));
        // Of the future.
        check(&create, 3, 1, Some(0));
        check(&create, 4, 0, Some(0));
        // Committed beyond the end, as an import may have it.
        check(&create, 1_000, 0, Some(0));
        // Committed below what retention left.
        create.delete_records_before(Offset::new(2)).unwrap();
        check(&create, 0, 2, Some(70_000));

        let append_time = filled(LogAppendTime, batches());
        for (from, records) in [(0, 4), (1, 3), (3, 1)] {
            check(&append_time, from, records, Some(50_000));
        }
        let compressed = built(Compression::Zstd, &[10_000, 20_000, 30_000]);
        let compressed = filled(CreateTime, vec![compressed]);
        check(&compressed, 0, 3, Some(90_000));
        check(&compressed, 2, 1, Some(70_000));
    }

    #[test]
    fn a_body_that_cannot_be_read_is_as_old_as_its_header_says() {
        let batch = built(Compression::Zstd, &[10_000, 20_000, 30_000]);
        let broken = changed(batch, |batch| batch[61..].fill(0xff));
        let log = filled(TimestampType::CreateTime, vec![broken]);
        // The first record's time is in the header, that of the second is not.
        check(&log, 0, 3, Some(90_000));
        check(&log, 1, 2, Some(70_000));
    }

    /// An age that was not found used to be 0, which is that of a group that has read all there is.
    #[test]
    fn control_batches_are_passed_over_and_after_too_many_the_age_is_not_known() {
        let with = |controls: usize| {
            let mut batches = vec![control(); controls];
            batches.push(plain(&[10_000]));
            filled(TimestampType::CreateTime, batches)
        };
        check(&with(3), 0, 1, Some(90_000));
        check(&with(3), 2, 1, Some(90_000));
        check(&with(3), 4, 0, Some(0));
        let only = filled(TimestampType::CreateTime, vec![control(); 3]);
        check(&only, 0, 0, Some(0));
        let many = i64::try_from(MAX_BATCHES).unwrap() + 1_000;
        let too_many = with(MAX_BATCHES + 1_000);
        check(&too_many, 0, 1, None);
        check(&too_many, many - 10, 1, Some(90_000));
    }

    #[test]
    fn what_is_not_known_is_left_out_of_a_sum_but_is_no_zero() {
        let known = |records, ms| Lag {
            records,
            age: Some(Duration::from_millis(ms)),
        };
        let unknown = Lag {
            records: 5,
            age: None,
        };
        for (one, other, records, age_ms) in [
            (known(1, 7), known(2, 9), 3, Some(9)),
            (known(1, 7), unknown, 6, Some(7)),
            (Lag::default(), unknown, 5, None),
            (unknown, unknown, 10, None),
            (Lag::default(), Lag::default(), 0, Some(0)),
        ] {
            let age = age_ms.map(Duration::from_millis);
            assert_eq!(one.and(other), Lag { records, age });
            assert_eq!(other.and(one), Lag { records, age });
        }
    }
}
