//! What a log's writer, its readers and the directory's threads share: published offsets and segments.
//!
//! Lock order: the flush's `flushing`, then `unsettled`, then `state_writing`, then `state`; the last two of these and
//! `compacted` are held for a look or a small file only.
//!
//! Only the writer moves the log's start and end and replaces the list of segments; only a flush moves the
//! durable end up. A reader loads the log end before the segments, so that the list holds what the end promises.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use arc_swap::ArcSwap;
use logweir_proto::Offset;
use parking_lot::{Mutex, RwLock};

use super::LogFiles;
use super::compaction::{CompactionPoint, Unsettled};
use crate::checkpoint::{LogKey, LogState};
use crate::epochs::Epochs;
use crate::error::{ChangeError, ReadError};
use crate::flush::LogFlush;
use crate::log_dir::{DirContext, LogId};
use crate::segment::{OpenSegment, Segment};

/// The offsets of a log, readable without a lock.
#[derive(Debug)]
pub(crate) struct LogOffsets {
    /// `log_start <= log_end`.
    log_start: AtomicI64,
    log_end: AtomicI64,
    /// `durable_end <= log_end`, but for a moment during a truncation.
    durable_end: AtomicI64,
}

impl LogOffsets {
    pub(crate) fn new(log_start: Offset, log_end: Offset) -> Self {
        Self {
            log_start: AtomicI64::new(log_start.get()),
            log_end: AtomicI64::new(log_end.get()),
            durable_end: AtomicI64::new(log_end.get()),
        }
    }

    pub(crate) fn log_start(&self) -> Offset {
        Offset::new(self.log_start.load(Ordering::Acquire))
    }

    pub(crate) fn log_end(&self) -> Offset {
        Offset::new(self.log_end.load(Ordering::Acquire))
    }

    pub(crate) fn durable_end(&self) -> Offset {
        Offset::new(self.durable_end.load(Ordering::Acquire))
    }

    pub(crate) fn set_log_start(&self, offset: Offset) {
        self.log_start.store(offset.get(), Ordering::Release);
    }

    pub(crate) fn set_log_end(&self, offset: Offset) {
        self.log_end.store(offset.get(), Ordering::Release);
    }

    pub(crate) fn advance_durable(&self, offset: Offset) {
        self.durable_end.fetch_max(offset.get(), Ordering::AcqRel);
    }

    /// Lowers both ends to the cut of a truncation.
    pub(crate) fn truncate(&self, end: Offset) {
        self.durable_end.fetch_min(end.get(), Ordering::AcqRel);
        self.log_end.store(end.get(), Ordering::Release);
    }

    /// Everything up to here is durable, whatever was said before: after an empty beginning elsewhere.
    pub(crate) fn restart(&self, offset: Offset) {
        self.log_end.store(offset.get(), Ordering::Release);
        self.durable_end.store(offset.get(), Ordering::Release);
        self.log_start.store(offset.get(), Ordering::Release);
    }
}

/// The segments of a log, ascending by base offset; never empty, the last is appended to. Each ends where the
/// next begins.
#[derive(Clone, Debug)]
pub(crate) struct Segments(pub(crate) Vec<Arc<Segment>>);

impl Segments {
    /// The place in the list of the segment that holds `offset`, if it is not below the first.
    pub(crate) fn find(&self, offset: Offset) -> Option<usize> {
        self.0
            .partition_point(|segment| segment.base() <= offset)
            .checked_sub(1)
    }

    pub(crate) fn last(&self) -> &Arc<Segment> {
        self.0.last().expect("a log has at least one segment")
    }

    /// Where the segment at `at` ends (exclusive).
    pub(crate) fn end_of(&self, at: usize, log_end: Offset) -> Offset {
        self.0.get(at + 1).map_or(log_end, |next| next.base())
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.0.iter().map(|segment| segment.size_bytes()).sum()
    }
}

/// One log, as everybody but its writer has it.
#[derive(Debug)]
pub(crate) struct LogShared {
    pub(crate) id: LogId,
    pub(crate) files: LogFiles,
    pub(crate) context: Arc<DirContext>,
    pub(crate) offsets: LogOffsets,
    pub(crate) segments: ArcSwap<Segments>,
    pub(crate) epochs: RwLock<Epochs>,
    /// The epochs have changed since their file was written.
    pub(crate) epochs_dirty: AtomicBool,
    /// What the log's own small file says.
    pub(crate) state: Mutex<LogState>,
    /// Held while that file is written.
    pub(crate) state_writing: Mutex<()>,
    /// Up to where the log is compacted.
    pub(crate) compacted: Mutex<CompactionPoint>,
    /// A segment that took the place of others and has not got its name yet. Held while names change.
    pub(crate) unsettled: Mutex<Option<Unsettled>>,
    pub(crate) flush: LogFlush,
    /// The writer was closed, or the log deleted.
    pub(crate) closed: AtomicBool,
}

impl LogShared {
    pub(crate) fn key(&self) -> LogKey {
        self.id.key()
    }

    /// # Errors
    /// Why nothing can be changed: the writer was closed, or the directory is offline.
    pub(crate) fn check_open(&self) -> Result<(), Arc<str>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Arc::from("the log is closed"));
        }
        self.context.health.check()
    }

    /// Does `work` on the log's files while nothing is flushed and they are not taken away: waits for a flush that is
    /// in progress.
    ///
    /// # Errors
    /// [`ChangeError::Offline`] if nothing can be changed any more, and the work's.
    pub(crate) fn while_open(
        &self,
        work: impl FnOnce() -> Result<(), ChangeError>,
    ) -> Result<(), ChangeError> {
        self.flush.exclude(|| {
            self.check_open()
                .map_err(|reason| ChangeError::Offline { reason })?;
            work()
        })
    }

    /// Writes the log's small file anew, and takes over what it says. Waits for the device.
    pub(crate) fn write_state(&self, change: impl FnOnce(LogState) -> LogState) -> io::Result<()> {
        let _writing = self.state_writing.lock();
        let (context, path) = (&self.context, self.files.state());
        let before = *self.state.lock();
        let state = change(before);
        if state == before {
            return Ok(());
        }
        let bytes = state.encode();
        // A file is as durable as its directory's name.
        context.folders.sync(context)?;
        context.replace_file(&path, &bytes)?;
        *self.state.lock() = state;
        Ok(())
    }

    /// Writes the leader epochs if they have changed.
    pub(crate) fn save_epochs(&self) -> io::Result<()> {
        if !self.epochs_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let bytes = self.epochs.read().encode();
        let outcome = self.context.replace_file(&self.files.epochs(), &bytes);
        if outcome.is_err() {
            self.epochs_dirty.store(true, Ordering::Release);
        }
        outcome
    }

    /// Writes what recovery would otherwise have to find below a recovery point that is about to rise.
    pub(crate) fn prepare_checkpoint(&self) -> io::Result<()> {
        self.save_epochs()?;
        if let Some(open) = self.segments.load().last().opened() {
            open.persist_index(self.context.disk.as_ref(), &self.files)?;
        }
        Ok(())
    }

    /// Reads from the segment at `at` of `segments`, which is opened if need be. If its index led astray, another is
    /// made and it is read once more.
    pub(crate) fn with_segment<T>(
        &self,
        segments: &Segments,
        at: usize,
        log_end: Offset,
        read: impl Fn(&OpenSegment) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let outcome = read(self.open_segment(segments, at, log_end)?.as_ref());
        // The last one's index comes from the appends themselves.
        if at + 1 == segments.0.len() || !matches!(outcome, Err(ReadError::Corrupt { .. })) {
            return outcome;
        }
        let segment = &segments.0[at];
        let path = segment.path();
        tracing::warn!(segment = %path.display(), "the index is wrong and made anew");
        segment
            .distrust_index(self.context.disk.as_ref())
            .map_err(ReadError::io(&path))?;
        read(self.open_segment(segments, at, log_end)?.as_ref())
    }

    fn open_segment(
        &self,
        segments: &Segments,
        at: usize,
        log_end: Offset,
    ) -> Result<Arc<OpenSegment>, ReadError> {
        let segment = &segments.0[at];
        let budget = &self.context.budget;
        segment.touch(budget.tick());
        if let Some(open) = segment.opened() {
            return Ok(open);
        }
        let end = segments.end_of(at, log_end);
        let (open, was_closed) = segment.open_sealed(self.context.disk.as_ref(), end)?;
        if was_closed {
            budget.opened(segment);
        }
        Ok(open)
    }
}
