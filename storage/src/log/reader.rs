//! The reading side of a log: no lock of the writer, no copy.

use std::sync::Arc;

use logweir_proto::{LeaderEpoch, Offset, Timestamp};

use super::shared::{LogShared, Segments};
use crate::error::ReadError;
use crate::index::IndexEntry;
use crate::segment::{FoundRecord, OpenSegment, ReadSlice};

/// Reads a log. Cheap to clone; stays good while the log is appended to, truncated and deleted.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<LogShared>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<LogShared>) -> Self {
        Self { shared }
    }

    pub(super) fn shared(&self) -> &LogShared {
        &self.shared
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
        self.with_present_segments(|segments, _| {
            let log_end = self.in_range(from)?;
            let below = below.min(log_end);
            match segments.find(from) {
                Some(at) if from < below => {
                    let below = below.min(segments.end_of(at, log_end));
                    let read = |open: &OpenSegment| open.read(from, max_bytes, below);
                    self.shared.with_segment(segments, at, log_end, read)
                }
                _ => Ok(ReadSlice {
                    bytes: bytes::Bytes::new(),
                    next_offset: from,
                }),
            }
        })
    }

    /// Whether `from` lies before the active segment, so that reading there may have to wait for the disk: that is
    /// to be done off the threads that serve.
    #[must_use]
    pub fn is_cold(&self, from: Offset) -> bool {
        from < self.shared.segments.load().last().base()
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
        self.with_present_segments(|segments, log_end| {
            let start = self.log_start_offset();
            for part in self.parts(segments, below, log_end) {
                if self.max_timestamp_of(&part)? >= timestamp {
                    let found = self.find_in(&part, timestamp, start)?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
            }
            Ok(None)
        })
    }

    /// The first record with the largest timestamp below `below` (exclusive), as KIP-734 asks for.
    ///
    /// # Errors
    /// [`ReadError::Offline`] and device errors.
    pub fn max_timestamp(
        &self,
        below: Offset,
    ) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, ReadError> {
        self.with_present_segments(|segments, log_end| {
            let mut largest: Option<(Timestamp, Part<'_>)> = None;
            for part in self.parts(segments, below, log_end) {
                let timestamp = self.max_timestamp_of(&part)?;
                if timestamp > largest.as_ref().map_or(Timestamp::NONE, |found| found.0) {
                    largest = Some((timestamp, part));
                }
            }
            let Some((timestamp, part)) = largest else {
                return Ok(None);
            };
            self.find_in(&part, timestamp, self.log_start_offset())
        })
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

    /// The newest leader epoch in the log; [`LeaderEpoch::NONE`] if there is none.
    #[must_use]
    pub fn last_epoch(&self) -> LeaderEpoch {
        self.shared.epochs.read().last()
    }

    /// Whether records of `epoch` are in the log.
    #[must_use]
    pub fn has_epoch(&self, epoch: LeaderEpoch) -> bool {
        let epochs = self.shared.epochs.read();
        epochs.entries().iter().any(|(known, _)| *known == epoch)
    }

    /// How many data records lie in `[from, to)`, both moved into the log's range: compacted records and
    /// control records are not counted. May read from the disk.
    ///
    /// # Errors
    /// [`ReadError::Offline`] and device errors.
    pub fn records_between(&self, from: Offset, to: Offset) -> Result<u64, ReadError> {
        self.with_present_segments(|segments, log_end| {
            let (from, to) = (from.max(self.log_start_offset()), to.min(log_end));
            let (Some(first), Some(last)) = (segments.find(from), segments.find(to)) else {
                return Ok(0);
            };
            if to <= from {
                return Ok(0);
            }
            let below = |at: usize, offset: Offset| match offset > segments.0[at].base() {
                true => {
                    let count = |open: &OpenSegment| open.records_below(offset);
                    self.shared.with_segment(segments, at, log_end, count)
                }
                false => Ok(0),
            };
            let mut records = below(last, to)?;
            for at in first..last {
                records += u64::from(self.summary_of(segments, at, log_end)?.records);
            }
            Ok(records.saturating_sub(below(first, from)?))
        })
    }

    /// When the batch that contains or follows `offset` was appended, to the second or the next 4 KiB before it;
    /// `None` outside the log and if it is not known.
    ///
    /// # Errors
    /// [`ReadError::Offline`] and device errors.
    pub fn append_time_of(&self, offset: Offset) -> Result<Option<Timestamp>, ReadError> {
        self.with_present_segments(|segments, log_end| {
            let in_log = offset >= self.log_start_offset() && offset < log_end;
            let Some(at) = segments.find(offset).filter(|_| in_log) else {
                return Ok(None);
            };
            let time = |open: &OpenSegment| open.append_time_of(offset);
            let time = self.shared.with_segment(segments, at, log_end, time)?;
            Ok(Some(time).filter(|&time| time != Timestamp::NONE))
        })
    }

    /// Reads with the log end and the segments of one moment; once more if they were replaced meanwhile and so the
    /// reading failed.
    fn with_present_segments<T>(
        &self,
        read: impl Fn(&Segments, Offset) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        loop {
            let log_end = self.readable()?;
            let segments = self.shared.segments.load();
            let outcome = read(&segments, log_end);
            let replaced = !Arc::ptr_eq(&segments, &self.shared.segments.load());
            match outcome {
                Err(ReadError::Io { .. } | ReadError::Corrupt { .. }) if replaced => {}
                outcome => return outcome,
            }
        }
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
    fn parts<'a>(
        &self,
        segments: &'a Segments,
        below: Offset,
        log_end: Offset,
    ) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let below = below.min(log_end);
        let first = segments.find(self.log_start_offset()).unwrap_or(0);
        let before = segments.0.partition_point(|segment| segment.base() < below);
        (first..before).map(move |at| Part {
            segments,
            at,
            below: below.min(segments.end_of(at, log_end)),
            log_end,
        })
    }

    fn max_timestamp_of(&self, part: &Part<'_>) -> Result<Timestamp, ReadError> {
        let start = self.log_start_offset();
        let closed = part.at + 1 < part.segments.0.len();
        let whole = part.below == part.segments.end_of(part.at, part.log_end)
            && part.segments.0[part.at].base() >= start;
        if closed && whole {
            let summary = self.summary_of(part.segments, part.at, part.log_end)?;
            return Ok(summary.max_timestamp);
        }
        let max = |open: &OpenSegment| open.max_timestamp_in(start, part.below);
        self.shared
            .with_segment(part.segments, part.at, part.log_end, max)
    }

    fn find_in(
        &self,
        part: &Part<'_>,
        timestamp: Timestamp,
        from: Offset,
    ) -> Result<Option<FoundRecord>, ReadError> {
        let find = |open: &OpenSegment| open.find_timestamp(timestamp, from, part.below);
        self.shared
            .with_segment(part.segments, part.at, part.log_end, find)
    }

    /// What lies before the end of a closed segment.
    fn summary_of(
        &self,
        segments: &Segments,
        at: usize,
        log_end: Offset,
    ) -> Result<IndexEntry, ReadError> {
        let end = segments.end_of(at, log_end);
        segments.0[at].summary(self.shared.context.disk.as_ref(), end)
    }
}

/// A segment, or its beginning, in a search by time.
struct Part<'a> {
    segments: &'a Segments,
    at: usize,
    /// Exclusive.
    below: Offset,
    log_end: Offset,
}
