//! One segment takes the place of one or several that follow each other: on the disk so that any crash leaves the old
//! ones or the new one, in memory so that readers go on.
//!
//! 1. [`Replacement::write`]: the new file is there, synced, under a temporary name. It gets a name that tells its range
//!    and the log's truncations; the directory is synced. From here on a start that finds it finishes the replacement,
//!    unless the log was truncated since.
//! 2. [`Log::finish_compaction`], under the lock of the log's owner: the list of segments is replaced. No file is
//!    touched; the new segment is mapped and stays so until 3 is done.
//! 3. [`LogShared::settle`]: the old files go, the directory is synced, so that no index of theirs is ever taken for the
//!    new one's; the new file gets its name, the directory is synced. Whoever changes files by their names calls it
//!    before: truncation, removal, closing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use logweir_proto::Offset;

use crate::error::ChangeError;
use crate::log::shared::{LogShared, Segments};
use crate::log::{Log, LogFiles, remove_if_there};
use crate::log_dir::{DirContext, Job};
use crate::segment::Segment;

/// A segment that is written and waits to take the place of others; see [`Log::plan_compaction`].
#[derive(Debug)]
#[must_use = "nothing is replaced before it is finished and settled"]
pub struct Replacement {
    shared: Arc<LogShared>,
    truncations: u32,
    sources: Vec<Arc<Segment>>,
    segment: Arc<Segment>,
    /// Where the file is.
    path: PathBuf,
    /// The list of segments was replaced, so that the file is no longer this one's to remove.
    finished: Arc<AtomicBool>,
}

/// A replacement that is done in memory and not yet on the disk.
#[derive(Debug)]
pub(crate) struct Unsettled {
    sources: Vec<Offset>,
    segment: Arc<Segment>,
    path: PathBuf,
}

impl Replacement {
    /// Commits `segment`, whose file is at `written` and synced, in place of `sources`, which end at `end`. Waits for
    /// the device.
    pub(super) fn write(
        shared: &Arc<LogShared>,
        truncations: u32,
        sources: Vec<Arc<Segment>>,
        segment: Arc<Segment>,
        (written, end): (PathBuf, Offset),
    ) -> Result<Self, ChangeError> {
        let context = &shared.context;
        let path = shared.files.compacted(segment.base(), end, truncations);
        let mut replacement = Self {
            shared: Arc::clone(shared),
            truncations,
            sources,
            segment,
            path: written,
            finished: Arc::default(),
        };
        shared.while_open(|| {
            let disk = context.disk.as_ref();
            let renamed = context.with_reserve(|| disk.rename(&replacement.path, &path));
            renamed.map_err(ChangeError::io(&path))?;
            replacement.path = path;
            let synced = context.with_reserve(|| context.sync_dir(shared.files.dir()));
            synced.map_err(ChangeError::io(shared.files.dir()))
        })?;
        Ok(replacement)
    }

    /// Is set when the list of segments was replaced.
    pub(super) fn finished(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.finished)
    }

    fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// The base offset of the new segment.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        self.segment.base()
    }

    /// How many segments the new one takes the place of, at least one.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.sources.len()
    }

    /// Gives the new file its name, after [`Log::finish_compaction`], and removes the old ones. Needs no lock of the
    /// log's owner: appends and reads go on. Waits for the device.
    ///
    /// # Errors
    /// Device errors, which take the data directory offline: the next start finishes what was not done.
    pub fn settle(self) -> Result<(), ChangeError> {
        let shared = Arc::clone(&self.shared);
        drop(self);
        shared.while_open(|| shared.settle())
    }

    /// Where its sources stand in the list, if all are there and none is appended to.
    fn place_in(&self, segments: &Segments) -> Option<usize> {
        let at = segments.find(self.segment.base())?;
        let found = segments.0.get(at..at + self.sources.len())?;
        let same = found
            .iter()
            .zip(&self.sources)
            .all(|(one, other)| Arc::ptr_eq(one, other));
        (same && at + self.sources.len() < segments.0.len()).then_some(at)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.is_finished() {
            return;
        }
        // If it stays, the next start removes it, or finishes what does no harm: the records are the same.
        let disk = self.shared.context.disk.as_ref();
        let removed = self.shared.while_open(|| {
            let removed = remove_if_there(disk, &self.path);
            removed.map(drop).map_err(ChangeError::io(&self.path))
        });
        if let Err(error) = removed {
            tracing::debug!(path = %self.path.display(), %error, "left for the next start");
        }
    }
}

impl Log {
    /// Shows readers the segment of a replacement instead of its sources; they keep what they hold. Nothing happens if
    /// the log was truncated, or its beginning removed, since it was planned; gives whether it did. Waits for nothing,
    /// and [`Replacement::settle`] is to follow.
    ///
    /// # Errors
    /// [`ChangeError::Offline`].
    pub fn finish_compaction(&mut self, replacement: &Replacement) -> Result<bool, ChangeError> {
        self.check_open()?;
        let shared = &self.shared;
        debug_assert!(Arc::ptr_eq(&replacement.shared, shared));
        let mut unsettled = shared.unsettled.lock();
        let segments = shared.segments.load_full();
        let Some(at) = replacement
            .place_in(&segments)
            .filter(|_| shared.state.lock().truncations == replacement.truncations)
            .filter(|_| unsettled.is_none() && !replacement.is_finished())
        else {
            return Ok(false);
        };
        let sources = &replacement.sources;
        let mut list = Segments::clone(&segments);
        let segment = Arc::clone(&replacement.segment);
        list.0
            .splice(at..at + sources.len(), [Arc::clone(&segment)]);
        *unsettled = Some(Unsettled {
            sources: sources.iter().map(|source| source.base()).collect(),
            segment,
            path: replacement.path.clone(),
        });
        replacement.finished.store(true, Ordering::Release);
        shared.segments.store(Arc::new(list));
        // Only then: who has the old list and finds them gone looks at the list again.
        for source in sources {
            source.give_way();
        }
        shared.context.budget.opened(&replacement.segment);
        Ok(true)
    }
}

impl LogShared {
    /// Ends, on the disk, a replacement that was done in memory, if there is one. Waits for the device.
    ///
    /// # Errors
    /// Device errors, which take the data directory offline.
    pub(crate) fn settle(&self) -> Result<(), ChangeError> {
        let mut unsettled = self.unsettled.lock();
        let Some(waiting) = unsettled.as_ref() else {
            return Ok(());
        };
        let (context, dir) = (&self.context, self.files.dir());
        let settled = put_in_place(context, &self.files, &waiting.path, &waiting.sources);
        let unlinks = settled.map_err(|source| {
            let reason = format!("compaction of {} failed: {source}", dir.display());
            context.go_offline(reason);
            ChangeError::io(dir)(source)
        })?;
        waiting.segment.unpin();
        if let Some(open) = waiting.segment.opened() {
            context.submit(Job::PersistIndex(open, self.files.clone()));
        }
        for path in unlinks {
            context.submit(Job::Unlink(path));
        }
        *unsettled = None;
        Ok(())
    }
}

/// Removes the segments with these base offsets, ascending, and gives the file at `path` the name of the first. Gives
/// the paths that are still to be unlinked.
pub(in crate::log) fn put_in_place(
    context: &DirContext,
    files: &LogFiles,
    path: &std::path::Path,
    bases: &[Offset],
) -> std::io::Result<Vec<PathBuf>> {
    let disk = context.disk.as_ref();
    let (first, others) = bases.split_first().expect("at least one source");
    // The snapshot at the beginning goes on being where replay begins.
    let mut unlinks = vec![files.retire_keeping_producers(disk, *first)?];
    for base in others {
        unlinks.push(files.retire(disk, *base)?);
    }
    context.with_reserve(|| context.sync_dir(files.dir()))?;
    context.with_reserve(|| disk.rename(path, &files.segment(*first)))?;
    context.with_reserve(|| context.sync_dir(files.dir()))?;
    Ok(unlinks)
}
