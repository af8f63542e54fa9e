//! Giving up the beginning of a log: by age, by size, by request; and letting go of idle logs' files.
//!
//! Only whole, closed segments go, oldest first. The log start is made durable before, so that whatever part of the
//! removals a crash undoes is finished at the next start.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use logweir_proto::{Offset, Timestamp};

use super::shared::{LogShared, Segments};
use super::{Log, passed};
use crate::checkpoint::LogState;
use crate::error::ChangeError;
use crate::log_dir::Job;

/// A log to which nothing was appended for this long lets go of its file and map.
const IDLE: Duration = Duration::from_secs(600);
/// As [`IDLE`], when too many logs are open.
const IDLE_CROWDED: Duration = Duration::from_secs(1);

/// A raise of the log start that was decided and is not durable yet; see [`Log::plan_retention`].
#[derive(Debug)]
#[must_use = "nothing goes before it is written and finished"]
pub struct Trim {
    shared: Arc<LogShared>,
    log_start: Offset,
    /// Truncations of the log when it was decided: after another one it does not count.
    truncations: u32,
    /// A segment was begun whose name must be durable before the one before goes.
    rolled: bool,
}

impl Trim {
    /// Where the log will start.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Makes the new log start durable. Needs no lock of the log's owner: appends, reads and truncations may go on.
    /// Waits for the device.
    ///
    /// # Errors
    /// Device errors, and [`ChangeError::Offline`] if a sync failed; the log is as it was, and the trim is to be dropped.
    pub fn write(&self) -> Result<(), ChangeError> {
        let shared = &self.shared;
        let (dir, context) = (shared.files.dir(), &shared.context);
        shared.while_open(|| {
            let named = match self.rolled {
                true => context.sync_dir(dir),
                false => Ok(()),
            };
            let raise = || {
                shared.write_state(|state| {
                    let log_start = match state.truncations == self.truncations {
                        true => self.log_start.max(state.log_start),
                        false => state.log_start,
                    };
                    LogState { log_start, ..state }
                })
            };
            named
                .and_then(|()| raise())
                .map_err(|source| match context.health.check() {
                    Err(reason) => ChangeError::Offline { reason },
                    Ok(()) => ChangeError::io(dir)(source),
                })
        })
    }
}

impl Log {
    /// Decides what may go: closed segments of which every record is past its time, or that the log does not need to
    /// keep its size, if its policy deletes, or that lie below the log start; never records at or above `high_watermark`. The active segment
    /// is closed if it is due. `None` if there is nothing to do. Syncs nothing.
    ///
    /// It goes by [`Trim::write`], which waits for the device and needs not the log, and [`Log::finish_trim`]. There is
    /// to be one trim of a log at a time.
    ///
    /// # Errors
    /// Device errors; the log is as it was.
    pub fn plan_retention(
        &mut self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<Option<Trim>, ChangeError> {
        self.check_open()?;
        let rolled = self.roll_if_expired(now, high_watermark)?;
        let segments = self.shared.segments.load_full();
        let count = self.count_expired(&segments, now, high_watermark)?;
        let log_start = self.log_start_offset().max(segments.0[count].base());
        Ok((count > 0).then(|| self.trim(log_start, rolled)))
    }

    /// As [`Log::plan_retention`], for all records below `offset`, which the caller sees to is not above the high
    /// watermark. `None` if it is not above the log start.
    ///
    /// # Errors
    /// [`ChangeError::OutOfRange`] above the log end, [`ChangeError::Offline`].
    pub fn plan_delete_before(&mut self, offset: Offset) -> Result<Option<Trim>, ChangeError> {
        self.check_open()?;
        let (start, end) = (self.log_start_offset(), self.log_end_offset());
        if offset > end {
            return Err(ChangeError::OutOfRange { offset, start, end });
        }
        Ok((offset > start).then(|| self.trim(offset, false)))
    }

    fn trim(&self, log_start: Offset, rolled: bool) -> Trim {
        Trim {
            truncations: self.shared.state.lock().truncations,
            shared: Arc::clone(&self.shared),
            log_start,
            rolled,
        }
    }

    /// Shows readers the log start that `trim` wrote, and removes the segments below it. Nothing happens if it was
    /// not written. Gives how many segments were removed. Syncs nothing.
    ///
    /// # Errors
    /// Device errors; the log start holds, and the segments go at the next start.
    pub fn finish_trim(&mut self, trim: Trim) -> Result<u64, ChangeError> {
        self.check_open()?;
        debug_assert!(Arc::ptr_eq(&trim.shared, &self.shared));
        let log_start = self.shared.state.lock().log_start;
        if log_start > self.log_start_offset() {
            self.shared.offsets.set_log_start(log_start);
            if self.shared.epochs.write().truncate_from_start(log_start) {
                self.shared.epochs_dirty.store(true, Ordering::Release);
            }
        }
        let segments = self.shared.segments.load_full();
        let count = segments.find(log_start).unwrap_or(0);
        self.remove_front(&segments, count)?;
        Ok(count as u64)
    }

    /// The three steps of [`Log::plan_retention`] in one. Gives how many segments were removed. Waits for the device.
    ///
    /// # Errors
    /// Device errors.
    pub fn enforce_retention(
        &mut self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<u64, ChangeError> {
        let Some(trim) = self.plan_retention(now, high_watermark)? else {
            return Ok(0);
        };
        trim.write()?;
        self.finish_trim(trim)
    }

    /// The three steps of [`Log::plan_delete_before`] in one. Gives the log start. Waits for the device.
    ///
    /// # Errors
    /// [`ChangeError::OutOfRange`] above the log end, and device errors.
    pub fn delete_records_before(&mut self, offset: Offset) -> Result<Offset, ChangeError> {
        if let Some(trim) = self.plan_delete_before(offset)? {
            trim.write()?;
            self.finish_trim(trim)?;
        }
        Ok(self.log_start_offset())
    }

    /// Removes the first `count` segments, which lie below the log start.
    fn remove_front(&mut self, segments: &Segments, count: usize) -> Result<(), ChangeError> {
        if count == 0 {
            return Ok(());
        }
        self.shared.settle()?;
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
        let deletes = self.config.cleanup_policy.deletes();
        let mut spare_bytes = self
            .config
            .retention_bytes
            .filter(|_| deletes)
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
        let deletes = self.config.cleanup_policy.deletes();
        let Some(retention) = self.config.retention.filter(|_| deletes) else {
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

    /// Closes the active segment if all of it may go by its age. Gives whether it did.
    fn roll_if_expired(
        &mut self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<bool, ChangeError> {
        let end = self.log_end_offset();
        let segments = self.shared.segments.load_full();
        let last = segments.last();
        let deletes = self.config.cleanup_policy.deletes();
        let Some(retention) = self.config.retention.filter(|_| deletes) else {
            return Ok(false);
        };
        if high_watermark < end || last.base() == end {
            return Ok(false);
        }
        let newest = match &self.active {
            Some(active) => active.place().max_timestamp,
            None => {
                let disk = self.shared.context.disk.as_ref();
                last.summary(disk, end)?.max_timestamp
            }
        };
        let expired = passed(newest, retention, now);
        if expired {
            self.roll(0)?;
        }
        Ok(expired)
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
