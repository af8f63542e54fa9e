//! Whether a log is to be compacted, and what of it: Kafka's rules (`LogCleanerManager`).

use std::sync::Arc;

use logweir_proto::{Offset, Timestamp};

use super::{Compaction, CompactionPoint, Plan};
use crate::error::ChangeError;
use crate::log::shared::Segments;
use crate::log::{Log, passed};

impl Log {
    /// Decides whether the log is due to be compacted: closed segments below `bound`, which the caller sees to is not
    /// above the high watermark nor above the last stable offset, and whose newest record is older than
    /// `min_compaction_lag`. It is due
    ///
    /// * if what was not compacted yet makes up more than `min_cleanable_dirty_ratio` of it;
    /// * if the oldest record of that was appended `max_compaction_lag` ago;
    /// * if the time of all tombstones that the last compaction left has come. (Kafka waits for other records.)
    ///
    /// `None` if not, or if the topic is not compacted. Rolls nothing and syncs nothing, but may read indexes.
    ///
    /// It goes by [`Compaction::run`], which takes long, waits for the device and needs not the log, and, for each
    /// replacement that it gives, [`Log::finish_compaction`] and [`Replacement::settle`]. There is to be one compaction
    /// of a log at a time.
    ///
    /// # Errors
    /// Device errors; the log is as it was.
    ///
    /// [`Replacement::settle`]: crate::Replacement::settle
    pub fn plan_compaction(
        &mut self,
        now: Timestamp,
        bound: Offset,
    ) -> Result<Option<Compaction>, ChangeError> {
        self.check_open()?;
        if !self.config.cleanup_policy.compacts() {
            return Ok(None);
        }
        let truncations = self.shared.state.lock().truncations;
        let point = self.shared.compacted.lock().after(truncations);
        let log_start = self.log_start_offset();
        let dirty_from = point.end.max(log_start);
        let segments = self.shared.segments.load_full();
        let count = self.count_compactable(&segments, dirty_from, now, bound)?;
        let end = segments.0[count].base();
        let (mut clean_bytes, mut dirty_bytes) = (0, 0);
        for (at, segment) in segments.0[..count].iter().enumerate() {
            match segments.0[at + 1].base() <= dirty_from {
                true => clean_bytes += segment.size_bytes(),
                false => dirty_bytes += segment.size_bytes(),
            }
        }
        let ratio = self.config.min_cleanable_dirty_ratio;
        let due = count > 0
            && (ratio.is_exceeded_by(dirty_bytes, clean_bytes)
                || (dirty_bytes > 0 && self.is_overdue(&segments, dirty_from, now)?)
                || tombstones_are_due(&point, now));
        if !due {
            return Ok(None);
        }
        self.producers.expire(now, self.config.producer_expiry);
        let plan = Plan {
            truncations,
            now,
            log_start,
            dirty_from: dirty_from.min(end),
            end,
            delete_retention: self.config.delete_retention,
            segment_bytes: self.config.max_segment_bytes(),
            interval_bytes: self.config.index_interval_bytes,
            producers: self.producers.ids().collect(),
            dirty_bytes,
            clean_bytes,
        };
        Ok(Some(Compaction::new(Arc::clone(&self.shared), plan)))
    }

    /// How many segments, from the first on, may be compacted.
    fn count_compactable(
        &self,
        segments: &Segments,
        dirty_from: Offset,
        now: Timestamp,
        bound: Offset,
    ) -> Result<usize, ChangeError> {
        let lag = self.config.min_compaction_lag;
        let disk = self.shared.context.disk.as_ref();
        for at in 0..segments.0.len() - 1 {
            let end = segments.0[at + 1].base();
            if end > bound {
                return Ok(at);
            }
            if end > dirty_from && !lag.is_zero() {
                let summary = segments.0[at].summary(disk, end)?;
                let newest = match summary.max_timestamp {
                    Timestamp::NONE => summary.append_time,
                    timestamp => timestamp,
                };
                if !passed(newest, lag, now) {
                    return Ok(at);
                }
            }
        }
        Ok(segments.0.len() - 1)
    }

    /// Whether the first record that is not compacted has waited for as long as it may.
    fn is_overdue(
        &self,
        segments: &Segments,
        dirty_from: Offset,
        now: Timestamp,
    ) -> Result<bool, ChangeError> {
        let Some(lag) = self.config.max_compaction_lag else {
            return Ok(false);
        };
        let Some(at) = segments.find(dirty_from) else {
            return Ok(false);
        };
        let end = segments.end_of(at, self.log_end_offset());
        let disk = self.shared.context.disk.as_ref();
        let first = segments.0[at].first_append(disk, end)?;
        Ok(passed(first, lag, now))
    }
}

fn tombstones_are_due(point: &CompactionPoint, now: Timestamp) -> bool {
    point.newest_horizon != Timestamp::NONE && point.newest_horizon <= now
}
