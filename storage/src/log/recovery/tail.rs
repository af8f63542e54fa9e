//! Scans one segment from the recovery point on, to find where its batches end.

use std::io;
use std::path::Path;

use logweir_proto::record::BatchHeader;
use logweir_proto::{LeaderEpoch, Offset};

use crate::disk::{Disk, OpenMode};
use crate::epochs::Epochs;
use crate::error::OpenError;
use crate::index::{Index, IndexEntry, IndexFile};
use crate::log::{LogFiles, remove_if_there};
use crate::log_dir::DirContext;
use crate::segment::{Scanner, Stop};

/// So much below the recovery point is checked as well: what a failing disk does to the last writes.
const MARGIN_BYTES: u32 = 1 << 20;
/// Bytes are made durable in pieces of this size.
const REWRITE_BYTES: usize = 1 << 20;
/// New index entries are this far apart, whatever the topic says.
const INTERVAL_BYTES: u32 = 4096;

/// A segment at or above the recovery point.
pub(super) struct TailSegment<'a> {
    pub(super) context: &'a DirContext,
    pub(super) files: &'a LogFiles,
    pub(super) base: Offset,
    /// Of the file.
    pub(super) len: u64,
    /// Offsets may be missing between batches.
    pub(super) has_gaps: bool,
    /// Base offset of the next segment.
    pub(super) next: Option<Offset>,
}

/// Where the batches of a segment end.
pub(super) struct SegmentEnd {
    /// Where the scan began.
    start: IndexEntry,
    pub(super) place: IndexEntry,
    /// Epochs that begin in the scanned part.
    pub(super) epochs: Vec<(LeaderEpoch, Offset)>,
    stop: Stop,
    /// Bytes that are no zeroes follow.
    soiled: bool,
    index: Index,
    /// The index file tells something else, or of what lies behind the end.
    index_is_wrong: bool,
}

impl SegmentEnd {
    /// Says why the batches do not reach `durable`.
    pub(super) fn why_not(&self, durable: Offset) -> String {
        match &self.stop {
            Stop::Damaged(reason) => reason.clone(),
            stop => format!("batches up to {durable} were durable, but {stop}"),
        }
    }
}

impl TailSegment<'_> {
    fn disk(&self) -> &dyn Disk {
        self.context.disk.as_ref()
    }

    /// Scans up to where the next segment begins; from the margin below `durable` if the index tells where.
    pub(super) fn scan(&self, durable: Offset, epochs: &Epochs) -> Result<SegmentEnd, OpenError> {
        let path = self.files.index(self.base);
        let loaded = IndexFile::load(self.disk(), &path, self.base);
        let (_, mut index) = loaded.map_err(OpenError::io(&path))?;
        let newest = index.last().copied();
        index.truncate(durable, self.len);
        let known = index.last().map_or(0, |last| last.position);
        let margin = u64::from(known.saturating_sub(MARGIN_BYTES));
        let start = index.at_bounds(durable, margin);
        if let Some(mut end) = self.scan_from(start, index, epochs)?
            && (end.place.offset >= durable || self.next == Some(end.place.offset))
        {
            end.index_is_wrong = newest.is_some_and(|newest| newest.offset > end.place.offset);
            return Ok(end);
        }
        // The batches are wrong, or the index is: the whole segment tells.
        let start = IndexEntry::beginning(self.base);
        let end = self.scan_from(start, Index::new(self.base), epochs)?;
        let mut end = end.expect("an empty index is never wrong");
        end.index_is_wrong = newest.is_some();
        Ok(end)
    }

    /// Scans from `start` on, adding to `index`; `None` if that turns out to be wrong.
    fn scan_from(
        &self,
        start: IndexEntry,
        mut index: Index,
        epochs: &Epochs,
    ) -> Result<Option<SegmentEnd>, OpenError> {
        let path = self.files.segment(self.base);
        let file = self
            .disk()
            .open(&path, OpenMode::Read)
            .map_err(OpenError::io(&path))?;
        let mut scanner = Scanner::new(file.as_ref(), start, self.len, true);
        let mut epoch = epochs.of(start.offset.plus(-1));
        let mut found = Vec::new();
        let stop = loop {
            let place = scanner.place();
            if self.next == Some(place.offset) {
                break Stop::End;
            }
            let header = match scanner.peek().map_err(OpenError::io(&path))? {
                Ok(header) => header,
                Err(stop) => break stop,
            };
            if let Some(stop) = self.refuse(&header, place.offset, epoch) {
                break stop;
            }
            if header.leader_epoch > epoch {
                epoch = header.leader_epoch;
                found.push((epoch, header.base_offset));
            }
            let append_time = place.append_time.max(header.max_timestamp);
            let entry = IndexEntry {
                append_time,
                ..place
            };
            if !index.agrees_with(&entry) {
                return Ok(None);
            }
            index.push_sparse(entry, INTERVAL_BYTES);
            scanner.pass(&header);
        };
        let place = scanner.place();
        let reached = self.next == Some(place.offset);
        let ends = reached || stop == Stop::End;
        let soiled = !ends && !scanner.rest_is_zero().map_err(OpenError::io(&path))?;
        let index_is_wrong = false;
        Ok(Some(SegmentEnd {
            start,
            place,
            epochs: found,
            stop,
            soiled,
            index,
            index_is_wrong,
        }))
    }

    /// Why a batch with a good CRC does not count here.
    fn refuse(&self, header: &BatchHeader, expected: Offset, epoch: LeaderEpoch) -> Option<Stop> {
        let (offset, found) = (header.base_offset, header.leader_epoch);
        let fits = if self.has_gaps {
            // A segment's offsets fit 31 bits, as everywhere.
            offset >= expected && offset.since(self.base) <= i64::from(i32::MAX)
        } else {
            offset == expected
        };
        if !fits {
            let reason = format!("batch at offset {offset} where {expected} was expected");
            return Some(Stop::Damaged(reason));
        }
        if found < epoch {
            let reason = format!("batch of epoch {found} after one of epoch {epoch}");
            return Some(Stop::Damaged(reason));
        }
        let beyond = self.next.is_some_and(|next| header.next_offset() > next);
        beyond.then_some(Stop::End)
    }

    /// Makes what was found above `durable` so, without what lies behind its end, and the index that goes with it.
    pub(super) fn settle(&self, end: &SegmentEnd, durable: Offset) -> Result<(), OpenError> {
        let (path, index) = (self.files.segment(self.base), self.files.index(self.base));
        let grown = end.place.offset > durable;
        let index_changes = grown || end.index_is_wrong;
        let mut names_change = grown && durable <= self.base;
        if index_changes {
            names_change |= remove_if_there(self.disk(), &index).map_err(OpenError::io(&index))?;
        }
        if grown || end.soiled {
            self.make_durable(&path, end)
                .map_err(OpenError::io(&path))?;
        }
        if names_change {
            // A segment's name is made durable with its first batch; and what an older index told must not come back.
            let dir = self.files.dir();
            self.context.sync_dir(dir).map_err(OpenError::io(dir))?;
        }
        if index_changes {
            self.write_index(&index, end)
                .map_err(OpenError::io(&index))?;
        }
        Ok(())
    }

    fn make_durable(&self, path: &Path, end: &SegmentEnd) -> io::Result<()> {
        let file = self.disk().open(path, OpenMode::Write)?;
        let valid = u64::from(end.place.position);
        if end.soiled {
            tracing::warn!(file = %path.display(), valid, len = self.len, "removed: a torn write");
            file.set_len(valid)?;
        }
        // The last run may have ended because a sync failed. Then these bytes are in memory only and count as
        // clean, so that a sync alone would do nothing: they are written again.
        let mut buffer = Vec::new();
        let mut position = u64::from(end.start.position);
        while position < valid {
            let len = usize::try_from(valid - position)
                .unwrap_or(usize::MAX)
                .min(REWRITE_BYTES);
            buffer.resize(len, 0);
            file.read_at(&mut buffer, position)?;
            file.write_at(&buffer, position)?;
            position += len as u64;
        }
        self.context.synced(path, file.sync())
    }

    fn write_index(&self, path: &Path, end: &SegmentEnd) -> io::Result<()> {
        let mut entries = end.index.entries().to_vec();
        if entries
            .last()
            .is_none_or(|last| last.position < end.place.position)
        {
            entries.push(end.place);
        }
        IndexFile::absent().persist(self.disk(), path, self.base, &entries)
    }
}
