//! Opening a log: what its files say, and what of it is true.
//!
//! After a clean end nothing is read but small files. Otherwise batches are scanned from the recovery point on:
//! one counts if its CRC holds, its offset is at or above the expected one and its epoch does not fall. Where they
//! end above the recovery point, the log ends, and what lies behind is removed before it could be taken for batches
//! later. Where they end below, bytes that were durable are gone: that is an error, and nothing is changed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use logweir_proto::{Offset, Timestamp};
use parking_lot::{Mutex, RwLock};

use super::compaction::{CompactionPoint, put_in_place};
use super::shared::{LogOffsets, LogShared, Segments};
use super::{FileName, Log, LogFiles, remove_if_there};
use crate::checked_file;
use crate::checkpoint::{LogState, RecoveryPoint};
use crate::config::LogConfig;
use crate::disk::{Disk, OpenMode};
use crate::epochs::Epochs;
use crate::error::OpenError;
use crate::flush::{FlushCallback, LogFlush};
use crate::log_dir::{DirContext, LogDir, LogId};
use crate::segment::Segment;

mod replay;
mod tail;

pub(super) use replay::{remove_snapshots_above, replay_producers};
use tail::TailSegment;

/// Opens the log in `dir`, making it if it is absent. `point` is where its recovery may begin.
pub(crate) fn open(
    dir: Arc<LogDir>,
    context: &Arc<DirContext>,
    id: LogId,
    config: LogConfig,
    point: Option<RecoveryPoint>,
    on_flush: FlushCallback,
) -> Result<Log, OpenError> {
    let disk = context.disk.as_ref();
    let flush = LogFlush::new(on_flush);
    let path = context.paths.log(&id);
    let files = LogFiles::new(&path);
    let found = match disk.list(&path) {
        Ok(entries) => Found::read(disk, &files, entries)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = context.folders.make(disk, &context.paths, &id.topic, &path);
            made.map_err(OpenError::io(&path))?;
            Found::default()
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    if point.is_none_or(|point| point.offset == Offset::ZERO) {
        // As long as nothing was durable, nothing says that the directories' names are.
        context.folders.found(&context.paths, &id.topic);
        if !found.segments.is_empty() {
            let synced = context.folders.sync(context);
            synced.map_err(OpenError::io(context.paths.root()))?;
        }
    }
    let recovered = Recovery::new(context, &files, found).run(point)?;
    let shared = Arc::new(LogShared {
        id,
        files,
        context: Arc::clone(context),
        offsets: LogOffsets::new(recovered.state.log_start, recovered.log_end),
        segments: ArcSwap::from_pointee(recovered.segments),
        epochs: RwLock::new(recovered.epochs),
        epochs_dirty: AtomicBool::new(recovered.epochs_dirty),
        state: Mutex::new(recovered.state),
        state_writing: Mutex::new(()),
        compacted: Mutex::new(recovered.compacted),
        unsettled: Mutex::new(None),
        flush,
        closed: AtomicBool::new(false),
    });
    let replayed = replay_producers(&shared).map_err(OpenError::from)?;
    let last_epoch = shared.epochs.read().last();
    Ok(Log {
        shared,
        dir,
        config,
        active: None,
        slot: None,
        rolling_to: None,
        last_epoch,
        producers: replayed.producers,
        snapshot_at: replayed.snapshot_at,
        unsnapped_bytes: 0,
        unflushed_records: 0,
        last_append: Timestamp::NONE,
        stamped: Vec::new(),
    })
}

/// What lies in a log's directory.
#[derive(Debug, Default)]
struct Found {
    /// Segments: base offset and length of the file, ascending.
    segments: Vec<(Offset, u64)>,
    has_state: bool,
    has_epochs: bool,
    has_compaction: bool,
    /// Segments that were to take the place of others: base offset, end and the log's truncations then.
    compacted: Vec<(Offset, Offset, u32)>,
}

impl Found {
    /// Sorts the names, and removes what a crash left half done.
    fn read(
        disk: &dyn Disk,
        files: &LogFiles,
        entries: Vec<crate::disk::DirEntry>,
    ) -> Result<Self, OpenError> {
        let mut found = Self::default();
        for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
            match FileName::parse(&entry.name) {
                FileName::Segment(base) => found.segments.push((base, entry.len)),
                FileName::State => found.has_state = true,
                FileName::Epochs => found.has_epochs = true,
                FileName::Compaction => found.has_compaction = true,
                FileName::Compacted {
                    base,
                    end,
                    truncations,
                } => found.compacted.push((base, end, truncations)),
                FileName::Leftover => {
                    let path = files.dir().join(&entry.name);
                    remove_if_there(disk, &path).map_err(OpenError::io(&path))?;
                }
                FileName::Index(_) | FileName::Producers(_) | FileName::Snapshot => {}
                FileName::Unknown => {
                    let file = files.dir().join(&entry.name);
                    tracing::warn!(file = %file.display(), "unknown file in a log's directory");
                }
            }
        }
        Ok(found)
    }
}

/// A log as it was found and put in order.
struct Recovered {
    segments: Segments,
    state: LogState,
    log_end: Offset,
    epochs: Epochs,
    epochs_dirty: bool,
    compacted: CompactionPoint,
}

struct Recovery<'a> {
    context: &'a DirContext,
    files: &'a LogFiles,
    found: Found,
    state: LogState,
    epochs: Epochs,
    epochs_dirty: bool,
    compacted: CompactionPoint,
}

impl<'a> Recovery<'a> {
    fn new(context: &'a DirContext, files: &'a LogFiles, found: Found) -> Self {
        Self {
            context,
            files,
            found,
            state: LogState::default(),
            epochs: Epochs::default(),
            epochs_dirty: false,
            compacted: CompactionPoint::NONE,
        }
    }

    fn run(mut self, point: Option<RecoveryPoint>) -> Result<Recovered, OpenError> {
        self.read_small_files()?;
        self.finish_replacements()?;
        if self.state.restarting {
            self.finish_restart()?;
        }
        self.drop_below_start()?;
        let log_start = self.state.log_start;
        let durable = self.state.recovery_offset(point.as_ref());
        let starts = self
            .found
            .segments
            .first()
            .is_some_and(|&(base, _)| base <= log_start);
        if !starts && durable > log_start {
            let path = self.files.segment(log_start);
            let reason = format!("the segment with offset {log_start} is missing");
            return Err(OpenError::corrupt(&path, 0, reason));
        }
        let clean = point.is_some_and(|point| point.clean);
        let log_end = match starts {
            true if clean => durable,
            true => self.scan(durable)?,
            false => log_start,
        };
        if !starts || log_end < log_start {
            // Nothing that may be read was durable, and it is gone; or there was nothing yet.
            self.drop_all()?;
        }
        let mut segments: Vec<_> = self.found.segments.iter().collect();
        let empty = (log_start, 0);
        if segments.is_empty() {
            segments.push(&empty);
        }
        let segments = segments.into_iter();
        let segments = segments.map(|&(base, len)| Segment::new(base, self.files.clone(), len));
        Ok(Recovered {
            segments: Segments(segments.collect()),
            state: self.state,
            log_end: log_end.max(log_start),
            epochs: self.epochs,
            epochs_dirty: self.epochs_dirty,
            compacted: self.compacted,
        })
    }

    fn disk(&self) -> &'a dyn Disk {
        self.context.disk.as_ref()
    }

    fn read_small_files(&mut self) -> Result<(), OpenError> {
        if self.found.has_state {
            let path = self.files.state();
            let bytes = self.read_whole(&path)?;
            self.state =
                LogState::decode(&bytes).map_err(|damage| OpenError::damaged(&path, damage))?;
        }
        if self.found.has_epochs {
            let path = self.files.epochs();
            let bytes = self.read_whole(&path)?;
            self.epochs =
                Epochs::decode(&bytes).map_err(|damage| OpenError::damaged(&path, damage))?;
        }
        if self.found.has_compaction {
            let path = self.files.compaction();
            let bytes = self.read_whole(&path)?;
            self.compacted = CompactionPoint::decode(&bytes)
                .map_err(|damage| OpenError::damaged(&path, damage))?;
        }
        Ok(())
    }

    fn read_whole(&self, path: &Path) -> Result<Vec<u8>, OpenError> {
        let bytes = checked_file::read_whole(self.disk(), path).map_err(OpenError::io(path))?;
        Ok(bytes.unwrap_or_default())
    }

    /// Finishes replacements of segments that a crash cut short, but for those from before a truncation.
    fn finish_replacements(&mut self) -> Result<(), OpenError> {
        for (base, end, truncations) in std::mem::take(&mut self.found.compacted) {
            let path = self.files.compacted(base, end, truncations);
            if truncations != self.state.truncations {
                remove_if_there(self.disk(), &path).map_err(OpenError::io(&path))?;
                continue;
            }
            let segments = &mut self.found.segments;
            let first = segments.partition_point(|&(found, _)| found < base);
            let after = segments.partition_point(|&(found, _)| found < end);
            let others = segments[first..after].iter().map(|&(found, _)| found);
            let bases: Vec<_> = [base]
                .into_iter()
                .chain(others.filter(|&found| found != base))
                .collect();
            // A run that was killed may have renamed the file and not synced its name.
            let placed = self
                .make_names_durable()
                .and_then(|()| put_in_place(self.context, self.files, &path, &bases));
            let unlinks = placed.map_err(OpenError::io(&path))?;
            for path in unlinks {
                remove_if_there(self.disk(), &path).map_err(OpenError::io(&path))?;
            }
            let file = self.files.segment(base);
            let opened = self.disk().open(&file, OpenMode::Read);
            let len = opened
                .and_then(|file| file.len())
                .map_err(OpenError::io(&file))?;
            self.found.segments.splice(first..after, [(base, len)]);
        }
        Ok(())
    }

    /// Finishes a new beginning that a crash cut short: nothing of before counts.
    fn finish_restart(&mut self) -> Result<(), OpenError> {
        self.make_state_durable()?;
        self.drop_all()?;
        self.state.restarting = false;
        let path = self.files.state();
        let replaced = self.context.replace_file(&path, &self.state.encode());
        replaced.map_err(OpenError::io(&path))
    }

    /// What is removed on the word of the log's small file must not outlive that: a run that was killed may have
    /// renamed the file into place and not synced its name.
    fn make_state_durable(&self) -> Result<(), OpenError> {
        self.make_names_durable()
            .map_err(OpenError::io(self.files.dir()))
    }

    fn make_names_durable(&self) -> io::Result<()> {
        self.context.sync_dir(self.files.dir())
    }

    /// Removes all segments, top down, and what goes with them.
    fn drop_all(&mut self) -> Result<(), OpenError> {
        self.epochs_dirty |= self.epochs.truncate_from_end(Offset::ZERO);
        self.drop_from(0, Offset::new(-1))
    }

    /// Finishes a removal that a crash cut short: segments that lie below the log start.
    fn drop_below_start(&mut self) -> Result<(), OpenError> {
        let keep = self
            .found
            .segments
            .partition_point(|&(base, _)| base <= self.state.log_start)
            .saturating_sub(1);
        if keep > 0 {
            self.make_state_durable()?;
        }
        let disk = self.disk();
        for (base, _) in self.found.segments.drain(..keep) {
            retire(disk, self.files, base)?;
        }
        Ok(())
    }

    /// Finds the log's end by scanning, and removes what lies behind it.
    fn scan(&mut self, durable: Offset) -> Result<Offset, OpenError> {
        self.epochs_dirty |= self.epochs.truncate_from_end(durable.plus(1));
        let first = durable.max(self.state.log_start);
        let mut at = self
            .found
            .segments
            .partition_point(|&(base, _)| base <= first)
            - 1;
        loop {
            let (base, len) = self.found.segments[at];
            let next = self.found.segments.get(at + 1).map(|&(base, _)| base);
            let segment = TailSegment {
                context: self.context,
                files: self.files,
                base,
                len,
                has_gaps: self.state.has_gaps,
                next,
            };
            let end = segment.scan(durable, &self.epochs)?;
            let reached = next == Some(end.place.offset);
            if !reached && end.place.offset < durable {
                let position = u64::from(end.place.position);
                let reason = end.why_not(durable);
                return Err(OpenError::corrupt(
                    &self.files.segment(base),
                    position,
                    reason,
                ));
            }
            for &(epoch, start) in &end.epochs {
                self.epochs_dirty |= self.epochs.assign(epoch, start);
            }
            segment.settle(&end, durable)?;
            if !reached {
                self.found.segments[at].1 = u64::from(end.place.position);
                self.drop_from(at + 1, end.place.offset)?;
                // An epoch that began here and has no batch yet was noted all the same.
                let above = end.place.offset.plus(1);
                self.epochs_dirty |= self.epochs.truncate_from_end(above);
                return Ok(end.place.offset);
            }
            at += 1;
        }
    }

    /// Removes the segments from the one at `at` on, top down, and snapshots above the log's end.
    fn drop_from(&mut self, at: usize, end: Offset) -> Result<(), OpenError> {
        let dir = self.files.dir();
        let mut removed =
            remove_snapshots_above(self.disk(), self.files, end).map_err(OpenError::io(dir))?;
        while self.found.segments.len() > at {
            let (base, len) = self.found.segments.pop().expect("there is one more");
            if len > 0 {
                let file = self.files.segment(base);
                tracing::warn!(file = %file.display(), len, "removed: what lies before it is lost");
            }
            retire(self.disk(), self.files, base)?;
            removed = true;
        }
        if removed {
            self.context.sync_dir(dir).map_err(OpenError::io(dir))?;
        }
        Ok(())
    }
}

fn retire(disk: &dyn Disk, files: &LogFiles, base: Offset) -> Result<(), OpenError> {
    let path = files.segment(base);
    let unlink = files.retire(disk, base).map_err(OpenError::io(&path))?;
    remove_if_there(disk, &unlink).map_err(OpenError::io(&unlink))?;
    Ok(())
}
