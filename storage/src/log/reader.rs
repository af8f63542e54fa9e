//! The reading side of a log: no lock of the writer, no copy.

use std::sync::Arc;

use logweir_proto::{LeaderEpoch, Offset, Timestamp};

use super::shared::{LogShared, Segments};
use crate::error::ReadError;
use crate::segment::{OpenSegment, ReadSlice};

/// Reads a log. Cheap to clone; stays good while the log is appended to, truncated and deleted.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<LogShared>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<LogShared>) -> Self {
        Self { shared }
    }

    /// The first offset that may be read.
    #[must_use]
    pub fn log_start_offset(&self) -> Offset {
        self.shared.offsets.log_start()
    }

    /// The offset the next record will get.
    #[must_use]
    pub fn log_end_offset(&self) -> Offset {
        self.shared.offsets.log_end()
    }

    /// Everything below it (exclusive) survives a power cut.
    #[must_use]
    pub fn durable_end_offset(&self) -> Offset {
        self.shared.offsets.durable_end()
    }

    /// Bytes in the log's segments, indexes not counted.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.segments.load().size_bytes()
    }

    /// Reads whole batches without copying them: from the batch that contains or follows `from`, all below
    /// `below` (exclusive), from one segment, at most `max_bytes` unless the first batch alone is larger. Nothing
    /// if there is no such batch. The first batch may begin below `from`. May wait for the disk.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] below the log start or above the log end; [`ReadError::Offline`] and device
    /// errors.
    pub fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        below: Offset,
    ) -> Result<ReadSlice, ReadError> {
        let log_end = self.in_range(from)?;
        let below = below.min(log_end);
        if from < below {
            let segments = self.shared.segments.load();
            if let Some(at) = segments.find(from) {
                let end = segments.end_of(at, log_end);
                let open = self.shared.open_segment(&segments, at, log_end)?;
                return open.read(from, max_bytes, below.min(end));
            }
        }
        Ok(ReadSlice {
            bytes: bytes::Bytes::new(),
            next_offset: from,
        })
    }

    /// The first record in the log, below `below` (exclusive), that is not older than `timestamp`: its offset, its
    /// timestamp and the epoch of its batch. May read much from the disk.
    ///
    /// # Errors
    /// [`ReadError::Offline`] and device errors.
    pub fn offset_for_timestamp(
        &self,
        timestamp: Timestamp,
        below: Offset,
    ) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, ReadError> {
        let start = self.log_start_offset();
        for part in self.parts(below)? {
            if part.max_timestamp(&self.shared)? < timestamp {
                continue;
            }
            let found = part
                .open(&self.shared)?
                .find_timestamp(timestamp, start, part.below)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp below `below` (exclusive), as KIP-734 asks for.
    ///
    /// # Errors
    /// [`ReadError::Offline`] and device errors.
    pub fn max_timestamp(
        &self,
        below: Offset,
    ) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, ReadError> {
        let mut largest: Option<(Timestamp, Part)> = None;
        for part in self.parts(below)? {
            let timestamp = part.max_timestamp(&self.shared)?;
            if timestamp > largest.as_ref().map_or(Timestamp::NONE, |found| found.0) {
                largest = Some((timestamp, part));
            }
        }
        let Some((timestamp, part)) = largest else {
            return Ok(None);
        };
        part.open(&self.shared)?
            .find_timestamp(timestamp, self.log_start_offset(), part.below)
    }

    /// The leader epoch in which `offset` was (or, at the log end, is being) written; [`LeaderEpoch::NONE`] if it
    /// is not known.
    #[must_use]
    pub fn leader_epoch_of(&self, offset: Offset) -> LeaderEpoch {
        self.shared.epochs.read().of(offset)
    }

    /// The largest epoch not above `epoch` and its end offset (exclusive); `None` if `epoch` is newer than any
    /// in the log (KIP-279).
    #[must_use]
    pub fn end_offset_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.shared
            .epochs
            .read()
            .end_of(epoch, self.log_end_offset())
    }

    /// How many data records lie in `[from, to)`, both moved into the log's range: compacted records and
    /// control records are not counted. May read from the disk.
    ///
    /// # Errors
    /// [`ReadError::Offline`] and device errors.
    pub fn records_between(&self, from: Offset, to: Offset) -> Result<u64, ReadError> {
        let log_end = self.readable()?;
        let from = from.max(self.log_start_offset());
        let to = to.min(log_end);
        let segments = self.shared.segments.load_full();
        let (Some(first), Some(last)) = (segments.find(from), segments.find(to)) else {
            return Ok(0);
        };
        if to <= from {
            return Ok(0);
        }
        let below = |at: usize, offset: Offset| {
            self.shared
                .open_segment(&segments, at, log_end)?
                .records_below(offset)
        };
        let mut records = if to > segments.0[last].base() {
            below(last, to)?
        } else {
            0
        };
        for at in first..last {
            let end = segments.end_of(at, log_end);
            let summary = segments.0[at].summary(self.shared.context.disk.as_ref(), end)?;
            records += u64::from(summary.records);
        }
        Ok(records.saturating_sub(if from > segments.0[first].base() {
            below(first, from)?
        } else {
            0
        }))
    }

    /// When the batch that contains or follows `offset` was appended, to the second or the next 4 KiB before it;
    /// `None` outside the log and if it is not known.
    ///
    /// # Errors
    /// [`ReadError::Offline`] and device errors.
    pub fn append_time_of(&self, offset: Offset) -> Result<Option<Timestamp>, ReadError> {
        let log_end = self.readable()?;
        let segments = self.shared.segments.load_full();
        let in_log = offset >= self.log_start_offset() && offset < log_end;
        let Some(at) = segments.find(offset).filter(|_| in_log) else {
            return Ok(None);
        };
        let open = self.shared.open_segment(&segments, at, log_end)?;
        Ok(Some(open.append_time_of(offset)?).filter(|&time| time != Timestamp::NONE))
    }

    /// The log end, if the log may be read at all.
    fn readable(&self) -> Result<Offset, ReadError> {
        self.shared
            .context
            .health
            .check()
            .map_err(|reason| ReadError::Offline { reason })?;
        Ok(self.log_end_offset())
    }

    fn in_range(&self, offset: Offset) -> Result<Offset, ReadError> {
        let end = self.readable()?;
        let start = self.log_start_offset();
        if offset < start || offset > end {
            return Err(ReadError::OutOfRange { start, end });
        }
        Ok(end)
    }

    /// The segments that have offsets below `below` and at or above the log start.
    fn parts(&self, below: Offset) -> Result<Vec<Part>, ReadError> {
        let log_end = self.readable()?;
        let below = below.min(log_end);
        let segments = self.shared.segments.load_full();
        let first = segments.find(self.log_start_offset()).unwrap_or(0);
        let parts = (first..segments.0.len())
            .filter(|&at| segments.0[at].base() < below)
            .map(|at| {
                let end = segments.end_of(at, log_end);
                let below = below.min(end);
                let whole = below == end && at + 1 < segments.0.len();
                Part {
                    segments: Arc::clone(&segments),
                    at,
                    below,
                    whole,
                    log_end,
                }
            });
        Ok(parts.collect())
    }
}

/// A segment, or its beginning, in a search by time.
struct Part {
    segments: Arc<Segments>,
    at: usize,
    /// Exclusive.
    below: Offset,
    /// The segment is closed and all of it counts.
    whole: bool,
    log_end: Offset,
}

impl Part {
    fn open(&self, shared: &LogShared) -> Result<Arc<OpenSegment>, ReadError> {
        shared.open_segment(&self.segments, self.at, self.log_end)
    }

    fn max_timestamp(&self, shared: &LogShared) -> Result<Timestamp, ReadError> {
        if self.whole {
            let segment = &self.segments.0[self.at];
            return Ok(segment
                .summary(shared.context.disk.as_ref(), self.below)?
                .max_timestamp);
        }
        self.open(shared)?.max_timestamp_below(self.below)
    }
}
