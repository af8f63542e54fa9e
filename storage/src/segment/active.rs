//! The segment that is being appended to, as its one writer has it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use logweir_proto::record::BatchHeader;
use logweir_proto::{Offset, Timestamp};
use parking_lot::{Mutex, RwLock};

use super::prefault::Prefault;
use super::{OpenSegment, Reservation, Segment};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::ReadError;
use crate::index::IndexEntry;
use crate::log::LogFiles;
use crate::log_dir::{DirContext, Job};
use crate::mmap::{SegmentMap, SegmentWriter};

/// From this size on a `pwrite` costs less than page faults.
const PWRITE_BYTES: usize = 32 << 10;

/// How the bytes of an append reach the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Small batches are copied into the map, large ones written.
    Mapped,
    /// Always written: the topic syncs after each append, and a store into a page under writeback can stall.
    Written,
}

/// Why a batch was not appended.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// There are no blocks for it; nothing was written.
    NoRoom(io::Error),
    /// The device failed; part of it may have been written.
    Failed(io::Error),
}

/// The newest segment of a log, open for appends.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    segment: Arc<Segment>,
    open: Arc<OpenSegment>,
    writer: SegmentWriter,
    file: Arc<dyn DiskFile>,
    /// `None` where blocks cannot be reserved; then everything is written.
    reservation: Option<Arc<Reservation>>,
    /// Where the next batch goes, and what lies before it.
    place: IndexEntry,
    /// The newest entry of the index, known without its lock.
    last_entry: Option<IndexEntry>,
    first_append: Timestamp,
    prefault: Prefault,
    /// A failed append may have left bytes up to here.
    soiled: u64,
}

impl ActiveSegment {
    /// Opens `segment`, in which the last batch ends at `end`, for appends up to `capacity` bytes. An empty
    /// segment's file is made if it is absent.
    pub(crate) fn open(
        disk: &dyn Disk,
        segment: Arc<Segment>,
        end: Offset,
        capacity: u64,
        reserves_blocks: bool,
    ) -> Result<Self, ReadError> {
        let path = segment.path();
        let opening = segment.opening.lock();
        let mode = if end == segment.base {
            OpenMode::CreateOrOpen
        } else {
            OpenMode::Write
        };
        let file = disk.open(&path, mode).map_err(ReadError::io(&path))?;
        let (mut index_file, mut index) = segment.load_index(disk, file.as_ref(), end)?;
        let place = index
            .last()
            .copied()
            .unwrap_or(IndexEntry::beginning(segment.base));
        index_file.keep(index.reopen());
        let last_entry = index.last().copied();
        let first_append = index
            .entries()
            .first()
            .map_or(Timestamp::NONE, |first| first.append_time);

        let valid = u64::from(place.position);
        let capacity = capacity.max(valid).max(1);
        let allocated = if reserves_blocks { valid } else { capacity };
        let mapping = file.map(usize::try_from(capacity).unwrap_or(usize::MAX));
        let mapped = mapping.and_then(|m| Ok(SegmentMap::new(m, valid, allocated)?));
        let (writer, map) = mapped.map_err(ReadError::io(&path))?;
        let open = Arc::new(OpenSegment {
            path,
            map,
            cold_end: valid,
            index: RwLock::new(index),
            index_file: Mutex::new(index_file),
        });
        segment.open.store(Some(Arc::clone(&open)));
        segment.pinned.store(true, Ordering::Release);
        let reservation =
            reserves_blocks.then(|| Reservation::new(Arc::clone(&file), valid, capacity));
        drop(opening);
        Ok(Self {
            segment,
            open,
            writer,
            file,
            reservation,
            place,
            last_entry,
            first_append,
            prefault: Prefault::new(valid),
            soiled: valid,
        })
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    pub(crate) fn open_segment(&self) -> &Arc<OpenSegment> {
        &self.open
    }

    pub(crate) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    /// Where the next batch goes, and what lies before it.
    pub(crate) fn place(&self) -> IndexEntry {
        self.place
    }

    /// When the first batch was appended; [`Timestamp::NONE`] if there is none.
    pub(crate) fn first_append(&self) -> Timestamp {
        self.first_append
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.place.position == 0
    }

    /// Whether a batch of `size_bytes` ending at `next` fits.
    pub(crate) fn fits(&self, size_bytes: u64, next: Offset, segment_bytes: u64) -> bool {
        let end = u64::from(self.place.position) + size_bytes;
        let capacity = self.capacity();
        let near = next.since(self.segment.base()) <= i64::from(i32::MAX);
        near && end <= capacity && (end <= segment_bytes || self.is_empty())
    }

    fn capacity(&self) -> u64 {
        self.reservation
            .as_ref()
            .map_or(self.writer.allocated(), |r| r.capacity())
    }

    /// Copies a batch, given as its patched header and the rest, behind the others and publishes it.
    ///
    /// # Errors
    /// Nothing was published; the next append takes the same place.
    pub(crate) fn append(
        &mut self,
        header: &BatchHeader,
        parts: [&[u8]; 2],
        placement: Placement,
        interval_bytes: u32,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let position = u64::from(self.place.position);
        let end = position + header.size_bytes as u64;
        self.reserve(end).map_err(WriteError::NoRoom)?;
        self.clean_up(end).map_err(WriteError::Failed)?;
        if let Err(error) = self.put(position, parts, placement) {
            self.soiled = self.soiled.max(end);
            let full = error.kind() == io::ErrorKind::StorageFull;
            return Err(if full {
                WriteError::NoRoom(error)
            } else {
                WriteError::Failed(error)
            });
        }
        let entry = IndexEntry {
            append_time: now,
            ..self.place
        };
        if entry.is_due_after(self.last_entry.as_ref(), interval_bytes) {
            self.open.index.write().push(entry);
            self.last_entry = Some(entry);
        }
        if let Err(error) = self.writer.publish(end) {
            self.soiled = self.soiled.max(end);
            return Err(WriteError::Failed(error.into()));
        }
        self.place = IndexEntry {
            append_time: now,
            ..self.place.after(header)
        };
        if self.first_append == Timestamp::NONE {
            self.first_append = now;
        }
        Ok(())
    }

    /// Makes sure that `[0, end)` has blocks.
    fn reserve(&mut self, end: u64) -> io::Result<()> {
        let Some(reservation) = &self.reservation else {
            return Ok(());
        };
        if end <= self.writer.allocated() {
            return Ok(());
        }
        if end > reservation.reserved() {
            reservation.grow(end)?;
        }
        self.writer.set_allocated(reservation.reserved())?;
        Ok(())
    }

    /// Asks the keeper for what the appends to come should not have to wait for: the next blocks, once when half of the
    /// last step is used, and pages ahead of a busy writer.
    pub(crate) fn ask_keeper(&mut self, context: &DirContext) {
        let used = self.writer.published();
        if let Some(blocks) = &self.reservation
            && blocks.asks_for_more(used)
        {
            context.submit(Job::Reserve(Arc::clone(blocks)));
        }
        // Not what the writer knows of: it asks only when it gets there, and would find the first pages absent.
        let reserved = self.reservation.as_ref().map(|blocks| blocks.reserved());
        let reserved = reserved.unwrap_or(self.writer.allocated());
        if let Some((from, to)) = self.prefault.next(used, reserved) {
            context.submit(Job::Prefault(Arc::clone(self.writer.map()), from, to));
        }
    }

    /// Zeroes what a failed append left behind the batch that ends at `end`: it could be taken for batches.
    fn clean_up(&mut self, end: u64) -> io::Result<()> {
        if self.soiled <= end {
            return Ok(());
        }
        if self.reservation.is_some() {
            self.reserve(self.soiled)?;
            self.writer.zero(end, self.soiled)?;
        } else {
            self.file.set_len(self.writer.published())?;
        }
        self.soiled = end;
        Ok(())
    }

    fn put(&mut self, position: u64, parts: [&[u8]; 2], placement: Placement) -> io::Result<()> {
        let len = parts[0].len() + parts[1].len();
        let written = self.reservation.is_none() || placement == Placement::Written;
        if !written && len < PWRITE_BYTES {
            self.writer.write_vectored(position, &parts)?;
            // For the append after the next: memory takes longer than the next one needs to come.
            self.writer.prefetch(position + 2 * len as u64, len);
            return Ok(());
        }
        self.prefault.skip_to(position + len as u64);
        self.file.write_vectored_at(parts, position)
    }

    /// Ends the segment: the last index entry is made and unused blocks are given back.
    ///
    /// # Errors
    /// The device's, from giving back; the segment is good all the same.
    pub(crate) fn seal(&mut self) -> io::Result<()> {
        self.open.index.write().push(self.place);
        let used = self.writer.published();
        self.segment.len.store(used, Ordering::Release);
        self.segment.pinned.store(false, Ordering::Release);
        match &self.reservation {
            Some(reservation) => reservation.close(used),
            None if self.soiled > used => self.file.set_len(used),
            None => Ok(()),
        }
    }

    /// Writes what is not yet in the index file.
    pub(crate) fn persist_index(&self, disk: &dyn Disk, files: &LogFiles) -> io::Result<()> {
        self.open.persist_index(disk, files)
    }
}
