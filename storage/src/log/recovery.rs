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
use logweir_proto::{LeaderEpoch, Offset, Timestamp};
use parking_lot::{Mutex, RwLock};

use super::shared::{LogOffsets, LogShared, Segments};
use super::{FileName, Log, LogFiles, remove_if_there};
use crate::checked_file;
use crate::checkpoint::{LogState, RecoveryPoint};
use crate::config::LogConfig;
use crate::disk::{Disk, OpenMode};
use crate::epochs::Epochs;
use crate::error::{OpenError, ReadError};
use crate::flush::{FlushCallback, LogFlush};
use crate::index::{Index, IndexEntry, IndexFile};
use crate::log_dir::{DirContext, LogDir, LogId};
use crate::producers::{self, Producers};
use crate::segment::{Scanner, Segment, Stop};

/// So much below the recovery point is checked as well: what a failing disk does to the last writes.
const MARGIN_BYTES: u32 = 1 << 20;
/// Index entries of recovered segments are this far apart, whatever the topic says.
const INTERVAL_BYTES: u32 = 4096;

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
            disk.create_dir_all(&path).map_err(OpenError::io(&path))?;
            flush.add_dir(context.paths.root().to_path_buf());
            flush.add_dir(context.paths.logs());
            flush.add_dir(context.paths.topic(&id.topic));
            Found::default()
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    let recovered = Recovery::new(disk, &files, found).run(point)?;
    let shared = Arc::new(LogShared {
        id,
        files,
        context: Arc::clone(context),
        offsets: LogOffsets::new(recovered.state.log_start, recovered.log_end),
        segments: ArcSwap::from_pointee(recovered.segments),
        epochs: RwLock::new(recovered.epochs),
        epochs_dirty: AtomicBool::new(recovered.epochs_dirty),
        state: Mutex::new(recovered.state),
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
        must_roll: false,
        last_epoch,
        producers: replayed.producers,
        snapshot_at: replayed.snapshot_at,
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
                FileName::Leftover => {
                    let path = files.dir().join(&entry.name);
                    remove_if_there(disk, &path).map_err(OpenError::io(&path))?;
                }
                FileName::Index(_) | FileName::Producers(_) => {}
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
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    files: &'a LogFiles,
    found: Found,
    state: LogState,
    epochs: Epochs,
    epochs_dirty: bool,
}

/// Where the batches of one segment end.
struct SegmentEnd {
    place: IndexEntry,
    stop: Stop,
    /// Bytes that are no zeroes follow.
    soiled: bool,
    index: Index,
}

impl<'a> Recovery<'a> {
    fn new(disk: &'a dyn Disk, files: &'a LogFiles, found: Found) -> Self {
        Self {
            disk,
            files,
            found,
            state: LogState::default(),
            epochs: Epochs::default(),
            epochs_dirty: false,
        }
    }

    fn run(mut self, point: Option<RecoveryPoint>) -> Result<Recovered, OpenError> {
        self.read_small_files()?;
        self.drop_below_start()?;
        let durable = self
            .state
            .recovery_offset(point.as_ref())
            .max(self.state.log_start);
        let Some(&(first, _)) = self.found.segments.first() else {
            return self.without_segments(durable);
        };
        if first > self.state.log_start {
            return Err(self.missing(self.state.log_start));
        }
        let clean = point.is_some_and(|point| point.clean);
        let log_end = if clean { durable } else { self.scan(durable)? };
        let segments = self.found.segments.iter();
        let segments = segments.map(|&(base, len)| Segment::new(base, self.files.clone(), len));
        Ok(Recovered {
            segments: Segments(segments.collect()),
            state: self.state,
            log_end,
            epochs: self.epochs,
            epochs_dirty: self.epochs_dirty,
        })
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
        Ok(())
    }

    fn read_whole(&self, path: &Path) -> Result<Vec<u8>, OpenError> {
        let bytes = checked_file::read_whole(self.disk, path).map_err(OpenError::io(path))?;
        Ok(bytes.unwrap_or_default())
    }

    /// Finishes a removal that a crash cut short: segments that lie below the log start.
    fn drop_below_start(&mut self) -> Result<(), OpenError> {
        let keep = self
            .found
            .segments
            .partition_point(|&(base, _)| base <= self.state.log_start)
            .saturating_sub(1);
        for (base, _) in self.found.segments.drain(..keep) {
            retire(self.disk, self.files, base)?;
        }
        Ok(())
    }

    fn without_segments(self, durable: Offset) -> Result<Recovered, OpenError> {
        if durable > self.state.log_start {
            return Err(self.missing(self.state.log_start));
        }
        let log_end = self.state.log_start;
        Ok(Recovered {
            segments: Segments(vec![Segment::new(log_end, self.files.clone(), 0)]),
            state: self.state,
            log_end,
            epochs: self.epochs,
            epochs_dirty: self.epochs_dirty,
        })
    }

    fn missing(&self, base: Offset) -> OpenError {
        let path = self.files.segment(base);
        OpenError::corrupt(
            &path,
            0,
            format!("the segment with offset {base} is missing"),
        )
    }

    /// Finds the log's end by scanning, and removes what lies behind it.
    fn scan(&mut self, durable: Offset) -> Result<Offset, OpenError> {
        let count = self.found.segments.len();
        let mut at = self
            .found
            .segments
            .partition_point(|&(base, _)| base <= durable)
            - 1;
        self.epochs_dirty |= self.epochs.truncate_from_end(durable.plus(1));
        loop {
            let (base, _) = self.found.segments[at];
            let next = self.found.segments.get(at + 1).map(|&(base, _)| base);
            let end = self.scan_segment(at, durable, next)?;
            let place = end.place;
            let reached = next == Some(place.offset);
            if !reached && place.offset < durable {
                let reason = match end.stop {
                    Stop::Damaged(reason) => reason,
                    stop => format!("batches up to {durable} were durable, but {stop}"),
                };
                let position = u64::from(place.position);
                return Err(OpenError::corrupt(
                    &self.files.segment(base),
                    position,
                    reason,
                ));
            }
            self.settle(at, &end, reached)?;
            if !reached || at + 1 == count {
                self.drop_after(at, place.offset)?;
                self.epochs_dirty |= self.epochs.truncate_from_end(place.offset);
                return Ok(place.offset);
            }
            at += 1;
        }
    }

    /// Scans one segment up to where the next begins; from the margin below `durable` if its index tells where.
    fn scan_segment(
        &mut self,
        at: usize,
        durable: Offset,
        next: Option<Offset>,
    ) -> Result<SegmentEnd, OpenError> {
        let (base, _) = self.found.segments[at];
        let path = self.files.index(base);
        let (_, mut index) =
            IndexFile::load(self.disk, &path, base).map_err(OpenError::io(&path))?;
        index.truncate(durable, u64::MAX);
        let known = index.last().map_or(0, |last| last.position);
        index.truncate(durable, u64::from(known.saturating_sub(MARGIN_BYTES)));
        if index.last().is_some_and(|last| last.position > 0) {
            let end = self.scan_from(at, index, next)?;
            if end.place.offset >= durable || next == Some(end.place.offset) {
                return Ok(end);
            }
            // The batches are wrong, or the index is: the whole segment tells.
        }
        self.scan_from(at, Index::new(base), next)
    }

    /// Scans from the last entry of `index` on.
    fn scan_from(
        &mut self,
        at: usize,
        mut index: Index,
        next: Option<Offset>,
    ) -> Result<SegmentEnd, OpenError> {
        let (base, len) = self.found.segments[at];
        let path = self.files.segment(base);
        let file = self
            .disk
            .open(&path, OpenMode::Read)
            .map_err(OpenError::io(&path))?;
        let start = index.last().copied().unwrap_or(IndexEntry::beginning(base));
        let mut epoch = match self.epochs.of(start.offset.plus(-1)) {
            LeaderEpoch::NONE => LeaderEpoch::NONE,
            known => known,
        };
        let mut scanner = Scanner::new(file.as_ref(), start, len, true);
        let stop = loop {
            let place = scanner.place();
            if next == Some(place.offset) {
                break Stop::End;
            }
            let header = match scanner.peek().map_err(OpenError::io(&path))? {
                Ok(header) => header,
                Err(stop) => break stop,
            };
            if header.base_offset < place.offset {
                break Stop::Damaged(format!(
                    "batch at offset {} where {} was expected",
                    header.base_offset, place.offset
                ));
            }
            if header.leader_epoch < epoch {
                break Stop::Damaged(format!(
                    "batch of epoch {} after one of epoch {epoch}",
                    header.leader_epoch
                ));
            }
            if next.is_some_and(|next| header.next_offset() > next) {
                break Stop::End;
            }
            epoch = header.leader_epoch;
            self.epochs_dirty |= self.epochs.assign(epoch, header.base_offset);
            let append_time = place.append_time.max(header.max_timestamp);
            let entry = IndexEntry {
                offset: header.base_offset,
                append_time,
                ..place
            };
            index.push_sparse(entry, INTERVAL_BYTES);
            scanner.pass(&header);
        };
        let place = scanner.place();
        let soiled = next != Some(place.offset)
            && stop != Stop::End
            && !scanner.rest_is_zero().map_err(OpenError::io(&path))?;
        Ok(SegmentEnd {
            place,
            stop,
            soiled,
            index,
        })
    }

    /// Makes what was found of a scanned segment durable, without what lies behind its end, and its index.
    fn settle(&mut self, at: usize, end: &SegmentEnd, reached: bool) -> Result<(), OpenError> {
        let (base, len) = self.found.segments[at];
        let path = self.files.segment(base);
        let valid = u64::from(end.place.position);
        let file = self
            .disk
            .open(&path, OpenMode::Write)
            .map_err(OpenError::io(&path))?;
        let mut settled = || -> io::Result<()> {
            if !reached && (end.soiled || len > valid) {
                file.set_len(valid)?;
                self.found.segments[at].1 = valid;
            }
            file.sync()
        };
        settled().map_err(OpenError::io(&path))?;
        let index_path = self.files.index(base);
        let mut index = Index::new(base);
        for entry in end.index.entries().iter().chain([&end.place]) {
            index.push(*entry);
        }
        let write = || {
            remove_if_there(self.disk, &index_path)?;
            self.disk.sync_dir(self.files.dir())?;
            IndexFile::absent().persist(self.disk, &index_path, base, index.entries())
        };
        write().map_err(OpenError::io(&index_path))
    }

    /// Removes the segments after the one at `at`, top down, and snapshots above the log's end.
    fn drop_after(&mut self, at: usize, end: Offset) -> Result<(), OpenError> {
        while self.found.segments.len() > at + 1 {
            let (base, len) = self.found.segments.pop().expect("there is one more");
            if len > 0 {
                let file = self.files.segment(base);
                tracing::warn!(file = %file.display(), len, "removed: what lies before it is lost");
            }
            retire(self.disk, self.files, base)?;
        }
        let dir = self.files.dir();
        remove_snapshots_above(self.disk, self.files, end).map_err(OpenError::io(dir))?;
        self.disk.sync_dir(dir).map_err(OpenError::io(dir))
    }
}

fn retire(disk: &dyn Disk, files: &LogFiles, base: Offset) -> Result<(), OpenError> {
    let path = files.segment(base);
    let unlink = files.retire(disk, base).map_err(OpenError::io(&path))?;
    remove_if_there(disk, &unlink).map_err(OpenError::io(&unlink))
}

/// Offsets of the snapshots in a directory, ascending.
fn snapshots(disk: &dyn Disk, files: &LogFiles) -> io::Result<Vec<Offset>> {
    let names = disk.list(files.dir())?.into_iter();
    let offsets = names.filter_map(|entry| match FileName::parse(&entry.name) {
        FileName::Producers(offset) => Some(offset),
        _ => None,
    });
    Ok(offsets.collect())
}

/// Removes producer snapshots that speak of offsets beyond `end`. Not durable before the directory is synced.
pub(super) fn remove_snapshots_above(
    disk: &dyn Disk,
    files: &LogFiles,
    end: Offset,
) -> io::Result<()> {
    for offset in snapshots(disk, files)?
        .into_iter()
        .filter(|&offset| offset > end)
    {
        remove_if_there(disk, &files.producers(offset))?;
    }
    Ok(())
}

/// The producers of a log, and where the snapshot was taken that they were found with.
pub(super) struct Replayed {
    pub(super) producers: Producers,
    pub(super) snapshot_at: Offset,
}

/// Finds the state of the producers at the log's end: from the newest snapshot that can be read, and the headers of the
/// batches after it.
pub(super) fn replay_producers(shared: &LogShared) -> Result<Replayed, ReadError> {
    let disk = shared.context.disk.as_ref();
    let files = &shared.files;
    let (log_start, log_end) = (shared.offsets.log_start(), shared.offsets.log_end());
    let listed = snapshots(disk, files).map_err(ReadError::io(files.dir()))?;
    let mut producers = Producers::default();
    let mut snapshot_at = Offset::ZERO;
    for &offset in listed.iter().rev().filter(|&&offset| offset <= log_end) {
        let path = files.producers(offset);
        let bytes = checked_file::read_whole(disk, &path).map_err(ReadError::io(&path))?;
        if let Ok((at, found)) = producers::decode(&bytes.unwrap_or_default())
            && at == offset
        {
            producers = found;
            snapshot_at = offset;
            break;
        }
    }
    let segments = shared.segments.load_full();
    let from = snapshot_at.max(log_start);
    for at in segments.find(from).unwrap_or(0)..segments.0.len() {
        let end = segments.end_of(at, log_end);
        if from < end {
            segments.0[at].replay(disk, from, end, |header| {
                producers.note(header, Timestamp::NONE);
            })?;
        }
    }
    Ok(Replayed {
        producers,
        snapshot_at,
    })
}
