//! The segment that compaction writes: a file under a temporary name, and the index that goes with it.
//!
//! As long as all is as in the first source nothing is written, so that a segment that compaction does not change costs
//! reading only. Written in pieces, synced once at the end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use logweir_proto::record::BatchHeader;
use logweir_proto::{Offset, Timestamp};

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::index::{Index, IndexEntry};
use crate::log::remove_if_there;

/// So much is written at once.
const PIECE_BYTES: usize = 1 << 20;

/// What is written of a new segment so far.
pub(super) struct Output {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    interval_bytes: u32,
    index: Index,
    /// Where the next batch goes, and what lies before it.
    place: IndexEntry,
    /// `None` as long as the new segment begins as this file does.
    file: Option<Arc<dyn DiskFile>>,
    original: Arc<dyn DiskFile>,
    /// Bytes to be written behind those that were.
    buffer: Vec<u8>,
}

/// A place to go back to.
pub(super) struct Mark {
    place: IndexEntry,
    entries: usize,
}

impl Output {
    /// Nothing yet of a segment with this base offset, whose first source is `original`; to be written to `path`.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        base: Offset,
        original: Arc<dyn DiskFile>,
        interval_bytes: u32,
    ) -> Self {
        Self {
            disk,
            path,
            interval_bytes,
            index: Index::new(base),
            place: IndexEntry::beginning(base),
            file: None,
            original,
            buffer: Vec::new(),
        }
    }

    /// Where the next batch goes, and what lies before it.
    pub(super) fn place(&self) -> IndexEntry {
        self.place
    }

    pub(super) fn size_bytes(&self) -> u64 {
        u64::from(self.place.position)
    }

    /// Whether the segment begins as its first source does.
    pub(super) fn is_as_the_original(&self) -> bool {
        self.file.is_none()
    }

    /// Adds a batch that was appended at `append_time`. `in_place` says that it stands at the same position of the first
    /// source.
    pub(super) fn push(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
        append_time: Timestamp,
        in_place: bool,
    ) -> io::Result<()> {
        if self.file.is_none() && !in_place {
            self.begin()?;
        }
        let place = IndexEntry {
            append_time,
            ..self.place
        };
        self.index.push_sparse(place, self.interval_bytes);
        if self.file.is_some() {
            self.buffer.extend_from_slice(bytes);
        }
        self.place = place.after(header);
        if self.buffer.len() >= PIECE_BYTES {
            self.write_buffer()?;
        }
        Ok(())
    }

    /// Makes the file, with what is as in the first source.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        remove_if_there(self.disk.as_ref(), &self.path)?;
        let file = self.disk.open(&self.path, OpenMode::Create)?;
        let (mut at, end) = (0, self.size_bytes());
        let mut piece = Vec::new();
        while at < end {
            let len = (end - at).min(PIECE_BYTES as u64);
            piece.resize(usize::try_from(len).expect("a piece"), 0);
            self.original.read_at(&mut piece, at)?;
            file.write_at(&piece, at)?;
            at += len;
        }
        self.file = Some(file);
        Ok(())
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| !self.buffer.is_empty()) {
            file.write_at(&self.buffer, self.size_bytes() - self.buffer.len() as u64)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Notes a place that [`Output::rewind`] may go back to.
    pub(super) fn mark(&mut self) -> io::Result<Mark> {
        self.write_buffer()?;
        Ok(Mark {
            place: self.place,
            entries: self.index.entries().len(),
        })
    }

    /// Takes back what was added since the mark.
    pub(super) fn rewind(&mut self, mark: &Mark) -> io::Result<()> {
        self.buffer.clear();
        if let Some(file) = &self.file {
            let len = u64::from(mark.place.position);
            if file.len()? > len {
                file.set_len(len)?;
            }
        }
        self.place = mark.place;
        self.index.keep_first(mark.entries);
        Ok(())
    }

    /// Writes the rest, and gives the file, which is to be synced, and the index with the end as its last entry. `None`
    /// if nothing was changed.
    pub(super) fn finish(mut self) -> io::Result<Option<(Arc<dyn DiskFile>, Index)>> {
        self.write_buffer()?;
        self.index.push(self.place);
        Ok(self.file.map(|file| (file, self.index)))
    }
}
