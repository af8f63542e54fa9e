//! Giving up the beginning of a log: by age, by size, by request; and letting go of idle logs' files.
//!
//! Only whole, closed segments go, oldest first. The log start is made durable before, so that whatever part of the
//! removals a crash undoes is finished at the next start.

use std::sync::Arc;
use std::time::Duration;

use logweir_proto::{Offset, Timestamp};

use super::shared::Segments;
use super::{Log, passed};
use crate::checkpoint::LogState;
use crate::error::ChangeError;
use crate::log_dir::Job;

/// A log to which nothing was appended for this long lets go of its file and map.
const IDLE: Duration = Duration::from_secs(600);
/// As [`IDLE`], when too many logs are open.
const IDLE_CROWDED: Duration = Duration::from_secs(1);

impl Log {
    /// Removes closed segments of which every record is past its time, or that the log does not need to keep its
    /// size, or that lie below the log start; never records at or above `high_watermark`. The active
    /// segment is closed if it is due. Gives how many segments were removed. Waits for the device.
    ///
    /// # Errors
    /// Device errors; the log is as it was.
    pub fn enforce_retention(
        &mut self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<u64, ChangeError> {
        self.check_open()?;
        self.roll_if_expired(now, high_watermark)?;
        let segments = self.shared.segments.load_full();
        let count = self.count_expired(&segments, now, high_watermark)?;
        if count == 0 {
            return Ok(0);
        }
        let new_start = self.log_start_offset().max(segments.0[count].base());
        self.raise_log_start(new_start)?;
        self.remove_front(&segments, count)?;
        Ok(count as u64)
    }

    /// Gives up all records below `offset`, and removes the segments that hold no others. The caller sees to it
    /// that `offset` is not above the high watermark. Gives the log start. Waits for the device.
    ///
    /// # Errors
    /// [`ChangeError::OutOfRange`] above the log end, and device errors; the log is as it was.
    pub fn delete_records_before(&mut self, offset: Offset) -> Result<Offset, ChangeError> {
        self.check_open()?;
        let (start, end) = (self.log_start_offset(), self.log_end_offset());
        if offset > end {
            return Err(ChangeError::OutOfRange { offset, start, end });
        }
        if offset <= start {
            return Ok(start);
        }
        self.raise_log_start(offset)?;
        let segments = self.shared.segments.load_full();
        let count = segments.find(offset).unwrap_or(0);
        self.remove_front(&segments, count)?;
        Ok(offset)
    }

    /// Makes a higher log start durable and lets readers see it.
    fn raise_log_start(&mut self, log_start: Offset) -> Result<(), ChangeError> {
        if log_start > self.log_start_offset() {
            let state = LogState {
                log_start,
                ..*self.shared.state.lock()
            };
            let path = self.shared.files.state();
            self.write_state(state).map_err(ChangeError::io(&path))?;
            self.shared.offsets.set_log_start(log_start);
            if self.shared.epochs.write().truncate_from_start(log_start) {
                self.shared
                    .epochs_dirty
                    .store(true, std::sync::atomic::Ordering::Release);
            }
        }
        Ok(())
    }

    /// Removes the first `count` segments, which lie below the log start.
    fn remove_front(&mut self, segments: &Segments, count: usize) -> Result<(), ChangeError> {
        if count == 0 {
            return Ok(());
        }
        let (gone, kept) = segments.0.split_at(count);
        self.shared
            .segments
            .store(Arc::new(Segments(kept.to_vec())));
        let context = &self.shared.context;
        for segment in gone {
            let path = segment.path();
            let unlink = segment
                .retire(context.disk.as_ref())
                .map_err(ChangeError::io(&path))?;
            context.submit(Job::Unlink(unlink));
        }
        Ok(())
    }

    fn count_expired(
        &self,
        segments: &Segments,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<usize, ChangeError> {
        let mut spare_bytes = self
            .config
            .retention_bytes
            .map_or(0, |keep| segments.size_bytes().saturating_sub(keep));
        let log_start = self.log_start_offset();
        for at in 0..segments.0.len() - 1 {
            let end = segments.0[at + 1].base();
            let size_bytes = segments.0[at].size_bytes();
            let spare = size_bytes > 0 && size_bytes <= spare_bytes;
            let goes = end <= high_watermark
                && (end <= log_start || spare || self.is_expired(segments, at, end, now)?);
            if !goes {
                return Ok(at);
            }
            spare_bytes = spare_bytes.saturating_sub(size_bytes);
        }
        Ok(segments.0.len() - 1)
    }

    /// Whether every record below `end` in the segment at `at` is past its time.
    fn is_expired(
        &self,
        segments: &Segments,
        at: usize,
        end: Offset,
        now: Timestamp,
    ) -> Result<bool, ChangeError> {
        let Some(retention) = self.config.retention else {
            return Ok(false);
        };
        let disk = self.shared.context.disk.as_ref();
        let summary = segments.0[at].summary(disk, end)?;
        // Records without a time count by when they came.
        let newest = match summary.max_timestamp {
            Timestamp::NONE => summary.append_time,
            timestamp => timestamp,
        };
        Ok(passed(newest, retention, now))
    }

    /// Closes the active segment if all of it may go by its age.
    fn roll_if_expired(
        &mut self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<(), ChangeError> {
        let end = self.log_end_offset();
        let segments = self.shared.segments.load_full();
        let last = segments.0.len() - 1;
        if self.config.retention.is_none() || high_watermark < end || segments.0[last].base() == end
        {
            return Ok(());
        }
        let newest = match &self.active {
            Some(active) => active.place().max_timestamp,
            None => {
                segments.0[last]
                    .summary(self.shared.context.disk.as_ref(), end)?
                    .max_timestamp
            }
        };
        let expired = self
            .config
            .retention
            .is_some_and(|age| passed(newest, age, now));
        if !expired {
            return Ok(());
        }
        self.roll(0)?;
        // The end of the log must be known from the new file before the old one goes.
        self.flush_names()
    }

    fn flush_names(&self) -> Result<(), ChangeError> {
        let dir = self.shared.files.dir();
        self.shared.context.disk.sync_dir(dir).map_err(|error| {
            let reason = format!("sync of {} failed: {error}", dir.display());
            ChangeError::Offline {
                reason: self.shared.context.go_offline(reason),
            }
        })
    }

    /// Lets go of file and map if nothing was appended for some time and everything is durable.
    pub(super) fn park_if_idle(&mut self, now: Timestamp) -> Result<(), ChangeError> {
        let crowded = self.shared.context.budget.is_crowded();
        let idle = passed(
            self.last_append,
            if crowded { IDLE_CROWDED } else { IDLE },
            now,
        );
        if self.active.is_some() && idle && self.durable_end_offset() == self.log_end_offset() {
            self.park()?;
        }
        Ok(())
    }

    /// Closes the active segment's file; it is opened again by the next append. Everything is durable.
    pub(super) fn park(&mut self) -> Result<(), ChangeError> {
        let Some(mut active) = self.active.take() else {
            return Ok(());
        };
        let context = &self.shared.context;
        let segment = Arc::clone(active.segment());
        let path = segment.path();
        let closed = active
            .seal()
            .and_then(|()| active.persist_index(context.disk.as_ref(), &self.shared.files));
        drop(active);
        self.shared.flush.release();
        self.slot = None;
        segment.close();
        closed.map_err(ChangeError::io(&path))
    }
}
