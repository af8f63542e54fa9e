//! A closed segment as compaction reads it: by `pread`, each batch with its CRC, so that damage and device errors are
//! errors and never become somebody's records.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::record::{BatchHeader, RecordBatch};
use logweir_proto::{Offset, Timestamp};

use crate::disk::{Disk, DiskFile};
use crate::error::ReadError;
use crate::index::{Index, IndexEntry};
use crate::segment::{Scanner, Segment};

/// A segment that gets no more bytes.
pub(super) struct Source {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn DiskFile>,
    /// Its logical end (exclusive): a batch ends there.
    pub(super) end: Offset,
    /// With the end as its last entry.
    index: Index,
}

/// A batch of a source.
pub(super) struct SourceBatch {
    pub(super) batch: RecordBatch,
    /// Where it stands in the source.
    pub(super) position: u64,
    /// To the next index entry before it.
    pub(super) append_time: Timestamp,
}

impl SourceBatch {
    pub(super) fn header(&self) -> &BatchHeader {
        self.batch.header()
    }
}

impl Source {
    /// Opens a segment that ends, logically, at `end`. Waits for the device.
    pub(super) fn open(
        disk: &dyn Disk,
        segment: &Arc<Segment>,
        end: Offset,
    ) -> Result<Self, ReadError> {
        let (file, index) = segment.open_to_copy(disk, end)?;
        Ok(Self {
            segment: Arc::clone(segment),
            file,
            end,
            index,
        })
    }

    pub(super) fn base(&self) -> Offset {
        self.segment.base()
    }

    /// Bytes before the logical end.
    pub(super) fn size_bytes(&self) -> u64 {
        self.index.last().map_or(0, |last| u64::from(last.position))
    }

    /// The batches, in order.
    pub(super) fn batches(&self) -> SourceBatches<'_> {
        let place = IndexEntry::beginning(self.base());
        let file = self.file.as_ref();
        SourceBatches {
            source: self,
            scanner: Scanner::new(file, place, self.size_bytes(), true),
            entry: 0,
        }
    }

    fn path(&self) -> PathBuf {
        self.segment.path()
    }
}

/// Reads a source batch by batch.
pub(super) struct SourceBatches<'a> {
    source: &'a Source,
    scanner: Scanner<'a>,
    /// The index entry at or before the next batch.
    entry: usize,
}

impl SourceBatches<'_> {
    /// The next batch; `None` at the logical end.
    pub(super) fn next(&mut self) -> Result<Option<SourceBatch>, ReadError> {
        let place = self.scanner.place();
        if place.offset == self.source.end {
            return Ok(None);
        }
        let path = self.source.path();
        let reason = match self.scanner.peek().map_err(ReadError::io(&path))? {
            Ok(header) if header.base_offset < place.offset => "the offsets do not rise".to_owned(),
            Ok(header) if header.next_offset() > self.source.end => {
                format!("no batch ends at {}", self.source.end)
            }
            Ok(header) => return self.take(&header).map(Some),
            Err(stop) => stop.to_string(),
        };
        Err(self.corrupt(reason))
    }

    fn take(&mut self, header: &BatchHeader) -> Result<SourceBatch, ReadError> {
        let place = self.scanner.place();
        let path = self.source.path();
        let bytes = self.scanner.batch(header).map_err(ReadError::io(&path))?;
        let batch = RecordBatch::from_bytes(Bytes::copy_from_slice(bytes));
        let batch = batch.map_err(|error| self.corrupt(error.to_string()))?;
        self.scanner.pass(header);
        let entries = self.source.index.entries();
        let next = |entry: usize| entries.get(entry + 1);
        while next(self.entry).is_some_and(|next| next.position <= place.position) {
            self.entry += 1;
        }
        let known = entries.get(self.entry);
        Ok(SourceBatch {
            batch,
            position: u64::from(place.position),
            append_time: known.map_or(header.max_timestamp, |known| known.append_time),
        })
    }

    fn corrupt(&self, reason: String) -> ReadError {
        ReadError::Corrupt {
            path: self.source.path(),
            position: u64::from(self.scanner.place().position),
            reason,
        }
    }
}
