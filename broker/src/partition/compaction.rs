//! Compacting a partition's log: long work without the lock, short steps under it.

use std::sync::atomic::Ordering;

use logweir_proto::Timestamp;
use logweir_storage::{CompactionStats, CompactionStep};

use crate::error::ApiError;
use crate::partition::Partition;

impl Partition {
    /// Whether only the last record of each key is kept, so that each record needs one.
    pub(crate) fn compacts(&self) -> bool {
        self.compacts.load(Ordering::Relaxed)
    }

    /// Whether nothing can be changed any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    /// Which part of the log is to be compacted, from 0 to 1; `None` if it is not due.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` if the disk fails.
    pub(crate) fn dirty_ratio(&self, now: Timestamp) -> Result<Option<f64>, ApiError> {
        let mut state = self.state.lock();
        let bound = state.progress.last_stable();
        let planned = state.log()?.plan_compaction(now, bound)?;
        Ok(planned.map(|compaction| compaction.dirty_ratio()))
    }

    /// Compacts the log if it is due; what was done. Takes long and waits for the disk, while appends go on. `go_on` is
    /// told of bytes read, and says whether to go on. There is to be one such call at a time.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` if the disk fails, is full, or holds something damaged; what was replaced stays.
    pub(crate) fn compact(
        &self,
        now: Timestamp,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<CompactionStats>, ApiError> {
        let mut state = self.state.lock();
        let bound = state.progress.last_stable();
        let planned = state.log()?.plan_compaction(now, bound)?;
        drop(state);
        let Some(mut compaction) = planned else {
            return Ok(None);
        };
        while let CompactionStep::Replace(replacement) = compaction.run(go_on)? {
            // Nobody who holds `state` then has to wait for the disk until the replacement is settled.
            let _trimming = self.trimming.lock();
            let mut state = self.state.lock();
            let finished = state.log()?.finish_compaction(&replacement)?;
            drop(state);
            if !finished {
                break;
            }
            replacement.settle()?;
        }
        Ok(Some(compaction.stats()))
    }
}
