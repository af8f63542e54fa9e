//! Reading a partition without its lock, and watching its end.

use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset};
use logweir_storage::ReadSlice;
use tokio::sync::Notify;

use crate::error::ApiError;
use crate::partition::Partition;

/// Up to where a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadBound {
    /// Below the high watermark.
    HighWatermark,
    /// Below the last stable offset.
    LastStable,
}

/// The last place up to where a reader and a log agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Diverging {
    /// The epoch of the last records both have; [`LeaderEpoch::NONE`] if that is not known.
    pub(crate) leader_epoch: LeaderEpoch,
    /// Their end (exclusive).
    pub(crate) end_offset: Offset,
}

impl Partition {
    /// The first offset that a reader may not see.
    pub(crate) fn bound(&self, bound: ReadBound) -> Offset {
        match bound {
            ReadBound::HighWatermark => self.high_watermark(),
            ReadBound::LastStable => self.last_stable(),
        }
    }

    /// Whole batches from `from` on, below the bound; empty at the bound.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` below the log start or above the high watermark, `KAFKA_STORAGE_ERROR`.
    pub(crate) fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        bound: ReadBound,
    ) -> Result<ReadSlice, ApiError> {
        let below = self.bound(bound);
        // An offset between the bound and the high watermark exists but may not be seen yet.
        if from > self.high_watermark() || from < Offset::ZERO {
            return Err(self.out_of_range(from));
        }
        if from >= below {
            return Ok(ReadSlice {
                bytes: Bytes::new(),
                next_offset: from,
            });
        }
        Ok(self.log().read(from, max_bytes, below)?)
    }

    /// Whether reading from `from` may have to wait for the disk.
    pub(crate) fn is_cold(&self, from: Offset) -> bool {
        self.log().is_cold(from)
    }

    /// Refuses a reader whose leader epoch is not this leader's (KIP-320).
    ///
    /// # Errors
    /// `FENCED_LEADER_EPOCH` for an older one, `UNKNOWN_LEADER_EPOCH` for a newer one.
    pub(crate) fn check_epoch(&self, known: Option<LeaderEpoch>) -> Result<(), ApiError> {
        let Some(known) = known.filter(|epoch| *epoch != LeaderEpoch::NONE) else {
            return Ok(());
        };
        let current = self.leader_epoch();
        let code = match known.cmp(&current) {
            std::cmp::Ordering::Equal => return Ok(()),
            std::cmp::Ordering::Less => ErrorCode::FencedLeaderEpoch,
            std::cmp::Ordering::Greater => ErrorCode::UnknownLeaderEpoch,
        };
        let message = format!("the request knows leader epoch {known}, the leader's is {current}");
        Err(ApiError::new(code, message).hint("refresh the topic's metadata"))
    }

    /// Where the log and what a reader has part, if they do: it has read everything below `from`, the last of it from
    /// `epoch` (KIP-320). The end of a log can be lost in a power cut where the topic leaves flushing to the system.
    pub(crate) fn diverging(&self, epoch: LeaderEpoch, from: Offset) -> Option<Diverging> {
        // Newer than all that is there: its records are gone, so the newest that is left has the end.
        let known = self.log().end_offset_of_epoch(epoch);
        let (found, end_offset) =
            known.unwrap_or_else(|| (self.log().last_epoch(), self.log().log_end_offset()));
        // Older than all that is kept: what it wrote is gone.
        let leader_epoch = match self.log().has_epoch(found) {
            true => found,
            false => LeaderEpoch::NONE,
        };
        (end_offset < from).then_some(Diverging {
            leader_epoch,
            end_offset,
        })
    }

    /// Notifies `notify` whenever more records may be seen, until the watch is dropped.
    pub(crate) fn watch(self: &Arc<Self>, notify: &Arc<Notify>) -> Watch {
        self.state.lock().waiters.add_reader(notify);
        Watch {
            partition: Arc::clone(self),
            notify: Arc::clone(notify),
        }
    }

    fn out_of_range(&self, from: Offset) -> ApiError {
        ApiError::new(
            ErrorCode::OffsetOutOfRange,
            format!(
                "offset {from} is outside of the log, which can be read from {} to {}",
                self.log().log_start_offset(),
                self.high_watermark()
            ),
        )
        .hint("look up the earliest or latest offset and go on from there")
    }
}

/// A reader's place among those who are woken.
#[derive(Debug)]
pub(crate) struct Watch {
    partition: Arc<Partition>,
    notify: Arc<Notify>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.partition
            .state
            .lock()
            .waiters
            .remove_reader(&self.notify);
    }
}
