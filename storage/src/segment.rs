//! A run of batches from one base offset on: a file, its map and its index, opened when first read.
//!
//! The newest segment of a log is written through [`ActiveSegment`]; the others never change. Where a
//! segment ends, logically, is told by the base offset of the next: batches at or above it are what a
//! truncation left behind, and nobody is shown them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use logweir_proto::record::BatchHeader;
use logweir_proto::{Offset, Timestamp};
use parking_lot::{Mutex, RwLock};

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::ReadError;
use crate::index::{Index, IndexEntry, IndexFile};
use crate::log::{LogFiles, remove_if_there};
use crate::mmap::SegmentMap;

mod active;
mod prefault;
mod read;
mod reservation;
mod scan;

pub(crate) use active::{ActiveSegment, Placement, WriteError};
pub(crate) use read::FoundRecord;
pub use read::ReadSlice;
pub(crate) use reservation::Reservation;
pub(crate) use scan::{Scanner, Stop};

/// A segment of a log, open or not.
#[derive(Debug)]
pub(crate) struct Segment {
    base: Offset,
    files: LogFiles,
    open: ArcSwapOption<OpenSegment>,
    /// Held while opening, so that a segment is mapped once. True once its name may be another's.
    opening: Mutex<bool>,
    /// Its map must stay. It is being appended to: the map is the writer's, and a second one would never see what comes.
    /// Or its file has not got its name yet.
    pinned: AtomicBool,
    /// What the budget of maps goes by.
    last_used: AtomicU64,
    /// Bytes in the file; for the active segment, valid bytes.
    len: AtomicU64,
    /// Its end, once it is known and cannot change.
    summary: Mutex<Option<IndexEntry>>,
}

/// A segment that is mapped, with its index in memory.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    path: PathBuf,
    map: Arc<SegmentMap>,
    /// Bytes below were there before it was opened, so they may be on the device only.
    cold_end: u64,
    index: RwLock<Index>,
    index_file: Mutex<IndexFile>,
}

impl Segment {
    /// A segment whose file has `len` valid bytes; the file may be absent if that is none.
    pub(crate) fn new(base: Offset, files: LogFiles, len: u64) -> Arc<Self> {
        Arc::new(Self {
            base,
            files,
            open: ArcSwapOption::empty(),
            opening: Mutex::new(false),
            pinned: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            len: AtomicU64::new(len),
            summary: Mutex::new(None),
        })
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.files.segment(self.base)
    }

    /// Bytes of the segment; of a cut one, what was cut off included.
    pub(crate) fn size_bytes(&self) -> u64 {
        match self.open.load().as_deref() {
            Some(open) => open.map.published(),
            None => self.len.load(Ordering::Acquire),
        }
    }

    /// The map and index, if they are open.
    pub(crate) fn opened(&self) -> Option<Arc<OpenSegment>> {
        self.open.load_full()
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub(crate) fn touch(&self, tick: u64) {
        self.last_used.store(tick, Ordering::Relaxed);
    }

    /// Drops map and index; readers keep what they hold.
    pub(crate) fn close(&self) {
        if let Some(open) = self.open.swap(None) {
            self.len.store(open.map.published(), Ordering::Release);
        }
    }

    /// As [`Segment::close`], but leaves a segment alone whose map must stay.
    pub(crate) fn close_if_sealed(&self) {
        let _opening = self.opening.lock();
        if !self.pinned.load(Ordering::Acquire) {
            self.close();
        }
    }

    /// Opens a segment that gets no more bytes and ends, logically, at `end`. Gives whether it was closed before.
    pub(crate) fn open_sealed(
        &self,
        disk: &dyn Disk,
        end: Offset,
    ) -> Result<(Arc<OpenSegment>, bool), ReadError> {
        if let Some(open) = self.opened() {
            return Ok((open, false));
        }
        let retired = self.opening.lock();
        if let Some(open) = self.opened() {
            return Ok((open, false));
        }
        if *retired {
            return Err(ReadError::io(&self.path())(io::ErrorKind::NotFound.into()));
        }
        let open = Arc::new(self.load(disk, self.path(), end)?);
        self.open.store(Some(Arc::clone(&open)));
        Ok((open, true))
    }

    fn load(&self, disk: &dyn Disk, path: PathBuf, end: Offset) -> Result<OpenSegment, ReadError> {
        let file = disk
            .open(&path, OpenMode::Read)
            .map_err(ReadError::io(&path))?;
        let (index_file, index) = self.load_index(disk, file.as_ref(), end)?;
        let position = index.last().map_or(0, |last| u64::from(last.position));
        let len = usize::try_from(position).unwrap_or(usize::MAX).max(1);
        let map = file
            .map(len)
            .and_then(|mapping| Ok(SegmentMap::sealed(mapping, position)?));
        let map = map.map_err(ReadError::io(&path))?;
        Ok(OpenSegment {
            path,
            map,
            cold_end: position,
            index: RwLock::new(index),
            index_file: Mutex::new(index_file),
        })
    }

    /// Gives an index whose last entry stands at the segment's end, where a batch ends at `end`: from the file, or
    /// from a walk over what the file does not tell.
    fn load_index(
        &self,
        disk: &dyn Disk,
        file: &dyn DiskFile,
        end: Offset,
    ) -> Result<(IndexFile, Index), ReadError> {
        let path = self.files.index(self.base);
        if end == self.base {
            remove_if_there(disk, &path).map_err(ReadError::io(&path))?;
            let mut index = Index::new(self.base);
            index.push(IndexEntry::beginning(self.base));
            return Ok((IndexFile::absent(), index));
        }
        let (mut index_file, mut index) =
            IndexFile::load(disk, &path, self.base).map_err(ReadError::io(&path))?;
        let len = file.len().map_err(ReadError::io(&self.path()))?;
        index_file.keep(index.truncate(end, len));
        if index.last().is_some_and(|last| last.offset == end) {
            return Ok((index_file, index));
        }
        if self.complete_index(file, &mut index, end, len).is_err() {
            // What the file told was wrong, so nothing of it counts.
            index = Index::new(self.base);
            index_file.keep(0);
            self.complete_index(file, &mut index, end, len)?;
        }
        // If it cannot be written, the next opening walks again; that is all.
        let _ = index_file.persist(disk, &path, self.base, index.entries());
        Ok((index_file, index))
    }

    /// Walks from the last entry to the segment's end and notes that as the last entry.
    fn complete_index(
        &self,
        file: &dyn DiskFile,
        index: &mut Index,
        end: Offset,
        len: u64,
    ) -> Result<(), ReadError> {
        const INTERVAL_BYTES: u32 = 4096;
        let mut scanner = Scanner::new(file, index.at_offset(end), len, false);
        loop {
            let mut place = scanner.place();
            if place.offset == end {
                index.push(place);
                return Ok(());
            }
            let reason = match scanner.peek().map_err(ReadError::io(&self.path()))? {
                Ok(header) if header.base_offset < place.offset => "the offsets do not rise".into(),
                Ok(header) if header.next_offset() > end => format!("no batch ends at {end}"),
                Ok(header) => {
                    place.append_time = place.append_time.max(header.max_timestamp);
                    index.push_sparse(place, INTERVAL_BYTES);
                    scanner.pass(&header);
                    continue;
                }
                Err(stop) => format!("batches up to {end} were expected, but {stop}"),
            };
            let (path, position) = (self.path(), u64::from(place.position));
            return Err(ReadError::Corrupt {
                path,
                position,
                reason,
            });
        }
    }

    /// Closes a segment whose index led astray, and removes that, so that the next opening makes another.
    pub(crate) fn distrust_index(&self, disk: &dyn Disk) -> io::Result<()> {
        let _opening = self.opening.lock();
        if !self.pinned.load(Ordering::Acquire) {
            self.close();
            remove_if_there(disk, &self.files.index(self.base))?;
        }
        Ok(())
    }

    /// A segment that compaction wrote to `file`, which will be given the segment's name by whoever calls
    /// [`Segment::unpin`]; until then it stays mapped. `index` ends at its end.
    pub(crate) fn compacted(
        base: Offset,
        files: LogFiles,
        file: &dyn DiskFile,
        index: Index,
    ) -> io::Result<Arc<Self>> {
        let summary = index.last().copied();
        let position = summary.map_or(0, |last| u64::from(last.position));
        let len = usize::try_from(position).unwrap_or(usize::MAX).max(1);
        let map = SegmentMap::sealed(file.map(len)?, position)?;
        let segment = Self::new(base, files, position);
        let open = OpenSegment {
            path: segment.path(),
            map,
            cold_end: position,
            index: RwLock::new(index),
            index_file: Mutex::new(IndexFile::absent()),
        };
        segment.open.store(Some(Arc::new(open)));
        segment.pinned.store(true, Ordering::Release);
        *segment.summary.lock() = summary;
        Ok(segment)
    }

    /// The file has the segment's name: the map may go.
    pub(crate) fn unpin(&self) {
        self.pinned.store(false, Ordering::Release);
    }

    /// Opens the file of a segment that gets no more bytes and ends, logically, at `end`, with an index whose last entry
    /// stands there. Nothing is mapped.
    pub(crate) fn open_to_copy(
        &self,
        disk: &dyn Disk,
        end: Offset,
    ) -> Result<(Arc<dyn DiskFile>, Index), ReadError> {
        let path = self.path();
        let retired = self.opening.lock();
        if *retired {
            return Err(ReadError::io(&path)(io::ErrorKind::NotFound.into()));
        }
        let file = disk
            .open(&path, OpenMode::Read)
            .map_err(ReadError::io(&path))?;
        if let Some(open) = self.opened() {
            let index = open.index.read();
            if index.last().is_some_and(|last| last.offset == end) {
                return Ok((file, index.copy()));
            }
        }
        let (_, index) = self.load_index(disk, file.as_ref(), end)?;
        Ok((file, index))
    }

    /// When the first batch was appended, as the index tells; the segment gets no more bytes and ends at `end`.
    pub(crate) fn first_append(
        &self,
        disk: &dyn Disk,
        end: Offset,
    ) -> Result<Timestamp, ReadError> {
        let first = |index: &Index| {
            let first = index.entries().first();
            first.map_or(Timestamp::NONE, |first| first.append_time)
        };
        match self.opened() {
            Some(open) => Ok(first(&open.index.read())),
            None => self.open_to_copy(disk, end).map(|(_, index)| first(&index)),
        }
    }

    /// Another segment has taken the place of this one: it is not opened by its name any more, and writes no index.
    /// Readers that have it open keep it.
    pub(crate) fn give_way(&self) {
        *self.opening.lock() = true;
        if let Some(open) = self.opened() {
            open.retire();
        }
    }

    /// Takes the segment out of the log; readers that have it open keep it. Gives the path that is still to be
    /// unlinked. Not durable before the directory is synced.
    pub(crate) fn retire(&self, disk: &dyn Disk) -> io::Result<PathBuf> {
        *self.opening.lock() = true;
        if let Some(open) = self.opened() {
            open.retire();
        }
        self.files.retire(disk, self.base)
    }

    /// Calls `note` with the headers of the batches in `[from, end)`; the segment ends at `end`.
    pub(crate) fn replay(
        &self,
        disk: &dyn Disk,
        from: Offset,
        end: Offset,
        mut note: impl FnMut(&BatchHeader),
    ) -> Result<(), ReadError> {
        let path = self.path();
        let file = disk
            .open(&path, OpenMode::Read)
            .map_err(ReadError::io(&path))?;
        let (_, index) = self.load_index(disk, file.as_ref(), end)?;
        let len = index.last().map_or(0, |last| u64::from(last.position));
        let mut scanner = Scanner::new(file.as_ref(), index.at_offset(from), len, false);
        while let Ok(header) = scanner.peek().map_err(ReadError::io(&path))? {
            if header.base_offset >= from {
                note(&header);
            }
            scanner.pass(&header);
        }
        Ok(())
    }

    /// What lies before the segment's end. The segment gets no more bytes and ends at `end`.
    pub(crate) fn summary(&self, disk: &dyn Disk, end: Offset) -> Result<IndexEntry, ReadError> {
        if let Some(known) = *self.summary.lock()
            && known.offset == end
        {
            return Ok(known);
        }
        let summary = match self.opened() {
            Some(open) => open.place_at(end)?,
            None => self.read_summary(disk, end)?,
        };
        let summary = IndexEntry {
            offset: end,
            ..summary
        };
        *self.summary.lock() = Some(summary);
        Ok(summary)
    }

    /// Reads it from the index file, without mapping the segment if the file is whole.
    fn read_summary(&self, disk: &dyn Disk, end: Offset) -> Result<IndexEntry, ReadError> {
        let path = self.files.index(self.base);
        let (_, index) = IndexFile::load(disk, &path, self.base).map_err(ReadError::io(&path))?;
        match index.last() {
            Some(last) if last.offset == end => Ok(*last),
            _ => {
                let (open, _) = self.open_sealed(disk, end)?;
                open.place_at(end)
            }
        }
    }
}

impl OpenSegment {
    /// Writes no index any more: the segment's name may be another's soon.
    fn retire(&self) {
        self.index_file.lock().retire();
    }

    /// Writes index entries that are not in the file yet.
    pub(crate) fn persist_index(&self, disk: &dyn Disk, files: &LogFiles) -> io::Result<()> {
        let mut file = self.index_file.lock();
        let index = self.index.read();
        let (base, entries) = (index.base(), index.entries().to_vec());
        drop(index);
        file.persist(disk, &files.index(base), base, &entries)
    }
}
