//! Cutting a log's end off, as a follower must when its leader's log went another way.
//!
//! Published bytes never change: the segment at the cut keeps its bytes and ends, logically, where a new one
//! begins. On the disk, in this order: the recovery point is capped, higher segments go from the top down, the
//! directory is synced, the new segment is made, the directory is synced. A crash between gives a log that ends
//! somewhere from the cut to the old end.

use std::io;
use std::sync::Arc;

use logweir_proto::Offset;

use super::shared::Segments;
use super::{Log, recovery};
use crate::checkpoint::LogState;
use crate::error::ChangeError;
use crate::log_dir::Job;
use crate::segment::Segment;

impl Log {
    /// Cuts off what lies at or above `offset`; a batch that contains it goes whole. At or below the log start the log
    /// begins anew, empty, at `offset`. Durable when it returns. Gives the new log end. Waits for the device.
    ///
    /// # Errors
    /// Device errors; if files were changed already, the data directory goes offline.
    pub fn truncate_to(&mut self, offset: Offset) -> Result<Offset, ChangeError> {
        self.check_open()?;
        if offset >= self.log_end_offset() {
            return Ok(self.log_end_offset());
        }
        self.shared.settle()?;
        let log_start = self.log_start_offset();
        if offset <= log_start {
            self.restart_at(offset)?;
            return Ok(offset);
        }
        let log_end = self.log_end_offset();
        let segments = self.shared.segments.load_full();
        let at = segments
            .find(offset)
            .expect("the offset lies above the log start");
        let place = self
            .shared
            .with_segment(&segments, at, log_end, |open| open.place_at(offset));
        let cut = place?.offset;
        if cut < log_start {
            // The batch that contains both goes whole.
            self.restart_at(log_start)?;
            return Ok(log_start);
        }
        let kept = if segments.0[at].base() == cut {
            at
        } else {
            at + 1
        };
        let state = self.capped_state(cut, log_start);
        let offsets = &self.shared.offsets;
        self.shared.flush.truncate(cut, || offsets.truncate(cut));
        self.cut(&segments, kept, cut, state)?;
        Ok(cut)
    }

    /// Drops everything and begins, empty, at `offset`: what a follower does whose log lies outside of its
    /// leader's. Durable when it returns. Waits for the device.
    ///
    /// # Errors
    /// As [`Log::truncate_to`].
    pub fn restart_at(&mut self, offset: Offset) -> Result<(), ChangeError> {
        self.check_open()?;
        self.shared.settle()?;
        let cut = offset.min(self.log_start_offset());
        let state = LogState {
            restarting: true,
            ..self.capped_state(cut, offset)
        };
        let segments = self.shared.segments.load_full();
        let offsets = &self.shared.offsets;
        self.shared
            .flush
            .truncate(offset, || offsets.restart(offset));
        self.cut(&segments, 0, offset, state)?;
        let restarted = self.shared.write_state(|state| LogState {
            restarting: false,
            ..state
        });
        restarted.map_err(ChangeError::io(&self.shared.files.state()))
    }

    /// The log's state after a cut, which recovery points from before must not pass.
    fn capped_state(&self, cut: Offset, log_start: Offset) -> LogState {
        let state = *self.shared.state.lock();
        let point = self.shared.context.writeback.point(self.shared.key());
        let last_cut = state.recovery_offset(point.as_ref()).min(cut);
        LogState {
            log_start,
            truncations: state.truncations + 1,
            last_cut,
            restarting: false,
            ..state
        }
    }

    /// Keeps the first `kept` segments and begins a new one at `cut`.
    fn cut(
        &mut self,
        segments: &Segments,
        kept: usize,
        cut: Offset,
        state: LogState,
    ) -> Result<(), ChangeError> {
        let (keep, drop) = segments.0.split_at(kept);
        let outcome = self
            .shared
            .write_state(|_| state)
            .and_then(|()| self.replace_tail(keep, drop, cut));
        if let Err(source) = outcome {
            let dir = self.shared.files.dir().to_path_buf();
            let reason = format!("truncation of {} failed: {source}", dir.display());
            self.shared.context.go_offline(reason);
            return Err(ChangeError::Io { path: dir, source });
        }
        self.shared.epochs.write().truncate_from_end(cut);
        self.shared
            .epochs_dirty
            .store(true, std::sync::atomic::Ordering::Release);
        self.last_epoch = self.shared.epochs.read().last();
        let found = recovery::replay_producers(&self.shared)?;
        self.producers = found.producers;
        self.snapshot_at = found.snapshot_at;
        Ok(())
    }

    fn replace_tail(
        &mut self,
        keep: &[Arc<Segment>],
        drop: &[Arc<Segment>],
        cut: Offset,
    ) -> io::Result<()> {
        let context = Arc::clone(&self.shared.context);
        let disk = context.disk.as_ref();
        let files = &self.shared.files;
        if let Some(mut active) = self.active.take() {
            active.seal()?;
            context.budget.opened(active.segment());
        }
        let forgotten = if self.shared.state.lock().restarting {
            Offset::new(-1)
        } else {
            cut
        };
        recovery::remove_snapshots_above(disk, files, forgotten)?;
        let mut unlinks = Vec::new();
        if let Some(base) = self.rolling_to.take() {
            unlinks.push(files.retire(disk, base)?);
        }
        for segment in drop.iter().rev() {
            unlinks.push(segment.retire(disk)?);
        }
        disk.sync_dir(files.dir())?;
        let segment = Segment::new(cut, files.clone(), 0);
        let active = self
            .open_active(Arc::clone(&segment), 0)
            .map_err(io::Error::other)?;
        context.with_reserve(|| disk.sync_dir(files.dir()))?;
        self.active = Some(active);
        let mut list = keep.to_vec();
        list.push(segment);
        self.shared.segments.store(Arc::new(Segments(list)));
        for path in unlinks {
            context.submit(Job::Unlink(path));
        }
        Ok(())
    }

    pub(super) fn check_open(&self) -> Result<(), ChangeError> {
        self.shared
            .check_open()
            .map_err(|reason| ChangeError::Offline { reason })
    }
}
