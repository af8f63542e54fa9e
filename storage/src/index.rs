//! Where batches lie in a segment: a sparse list of offsets, positions, counts and times.
//!
//! An entry speaks of the place where a batch begins (or the segment ends) and of all that lies before it in
//! the segment, so it serves look-ups by offset, by position, by count and by time. It is a hint: what it
//! points at is checked, and a missing or wrong index is made again from the segment.

use logweir_proto::record::BatchHeader;
use logweir_proto::{Offset, Timestamp};

mod file;

pub(crate) use file::{ENTRY_LEN, HEADER_LEN, IndexFile, decode_entry, decode_header};

/// An entry is also made when this time has passed since the last, so that lag in seconds is known to a second
/// however few the records.
const MAX_SILENCE_MS: i64 = 1000;

/// What is known of one position in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// The end (exclusive) of all before `position`: the base offset of the batch there, but for a gap.
    pub(crate) offset: Offset,
    /// Where that batch begins, or the segment ends.
    pub(crate) position: u32,
    /// Data records before `position` in this segment.
    pub(crate) records: u32,
    /// When that batch was appended; at the segment's end, when the last one was.
    pub(crate) append_time: Timestamp,
    /// The largest record timestamp before `position` in this segment, or [`Timestamp::NONE`].
    pub(crate) max_timestamp: Timestamp,
}

impl IndexEntry {
    /// The beginning of a segment.
    pub(crate) const fn beginning(base: Offset) -> Self {
        Self {
            offset: base,
            position: 0,
            records: 0,
            append_time: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
        }
    }

    /// Whether `interval_bytes` or a second lie between `last` and this; the first of a segment always counts.
    pub(crate) fn is_due_after(&self, last: Option<&Self>, interval_bytes: u32) -> bool {
        last.is_none_or(|last| {
            self.position.saturating_sub(last.position) >= interval_bytes
                || self
                    .append_time
                    .get()
                    .saturating_sub(last.append_time.get())
                    >= MAX_SILENCE_MS
        })
    }

    /// What is known after the batch that begins here.
    pub(crate) fn after(&self, header: &BatchHeader) -> Self {
        let size = u32::try_from(header.size_bytes).unwrap_or(u32::MAX);
        let records = if header.attributes.is_control() {
            0
        } else {
            header.record_count
        };
        Self {
            offset: header.next_offset(),
            position: self.position.saturating_add(size),
            records: self
                .records
                .saturating_add(u32::try_from(records).unwrap_or(0)),
            append_time: self.append_time,
            // An empty batch tells the time of records that compaction removed.
            max_timestamp: match header.record_count {
                0 => self.max_timestamp,
                _ => self.max_timestamp.max(header.max_timestamp),
            },
        }
    }
}

/// The entries of one segment, ascending by offset and position.
#[derive(Debug)]
pub(crate) struct Index {
    base: Offset,
    entries: Vec<IndexEntry>,
}

impl Index {
    pub(crate) fn new(base: Offset) -> Self {
        Self {
            base,
            entries: Vec::new(),
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// The same entries once more.
    pub(crate) fn copy(&self) -> Self {
        Self {
            base: self.base,
            entries: self.entries.clone(),
        }
    }

    pub(crate) fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    pub(crate) fn last(&self) -> Option<&IndexEntry> {
        self.entries.last()
    }

    /// Adds an entry if it lies above the last one.
    pub(crate) fn push(&mut self, entry: IndexEntry) {
        let rises = self
            .entries
            .last()
            .is_none_or(|last| last.position < entry.position && last.offset < entry.offset);
        if rises {
            self.entries.push(entry);
        }
    }

    /// Adds an entry if it is due.
    pub(crate) fn push_sparse(&mut self, entry: IndexEntry, interval_bytes: u32) {
        if entry.is_due_after(self.entries.last(), interval_bytes) {
            self.push(entry);
        }
    }

    /// Whether the entries here are those of the batches there: `entry` is one of them, at the same place, or lies
    /// between two.
    pub(crate) fn agrees_with(&self, entry: &IndexEntry) -> bool {
        let after = self
            .entries
            .partition_point(|known| known.position <= entry.position);
        let Some(known) = after.checked_sub(1).map(|at| &self.entries[at]) else {
            return true;
        };
        if known.position < entry.position {
            return known.offset < entry.offset && known.records <= entry.records;
        }
        known.offset == entry.offset && known.records == entry.records
    }

    /// Forgets entries above `offset` or `position`. Gives how many are kept.
    pub(crate) fn truncate(&mut self, offset: Offset, position: u64) -> usize {
        let keep = self
            .entries
            .partition_point(|e| e.offset <= offset && u64::from(e.position) <= position);
        self.entries.truncate(keep);
        keep
    }

    /// Forgets all entries but the first `entries`.
    pub(crate) fn keep_first(&mut self, entries: usize) {
        self.entries.truncate(entries);
    }

    /// Takes away the entry that stands at the end of the segment, so that the batch to come there gets its own.
    /// Gives how many are kept.
    pub(crate) fn reopen(&mut self) -> usize {
        self.entries.pop();
        self.entries.len()
    }

    /// The last entry at or below `offset`.
    pub(crate) fn at_offset(&self, offset: Offset) -> IndexEntry {
        self.before(self.entries.partition_point(|e| e.offset <= offset))
    }

    /// The last entry at or below both bounds.
    pub(crate) fn at_bounds(&self, offset: Offset, position: u64) -> IndexEntry {
        self.before(
            self.entries
                .partition_point(|e| e.offset <= offset && u64::from(e.position) <= position),
        )
    }

    /// The last entry before which all records are older than `timestamp`.
    pub(crate) fn before_timestamp(&self, timestamp: Timestamp) -> IndexEntry {
        self.before(
            self.entries
                .partition_point(|e| e.max_timestamp < timestamp),
        )
    }

    fn before(&self, after: usize) -> IndexEntry {
        match after.checked_sub(1) {
            Some(at) => self.entries[at],
            None => IndexEntry::beginning(self.base),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: i64, position: u32, time: i64) -> IndexEntry {
        IndexEntry {
            offset: Offset::new(offset),
            position,
            records: u32::try_from(offset - 100).unwrap(),
            append_time: Timestamp::new(time),
            max_timestamp: Timestamp::new(time - 1),
        }
    }

    fn index() -> Index {
        let mut index = Index::new(Offset::new(100));
        for e in [entry(100, 0, 0), entry(110, 500, 10), entry(130, 900, 20)] {
            index.push(e);
        }
        index
    }

    #[test]
    fn a_look_up_gives_the_last_entry_at_or_below() {
        let index = index();
        assert_eq!(index.at_offset(Offset::new(129)).position, 500);
        assert_eq!(index.at_offset(Offset::new(130)).position, 900);
        assert_eq!(index.at_bounds(Offset::new(130), 899).position, 500);
        assert_eq!(index.before_timestamp(Timestamp::new(10)).position, 500);
        assert_eq!(index.before_timestamp(Timestamp::new(9)).position, 0);
        assert_eq!(
            Index::new(Offset::new(7)).at_offset(Offset::new(9)).offset,
            Offset::new(7)
        );
    }

    #[test]
    fn entries_are_sparse_by_bytes_and_by_time() {
        let mut index = Index::new(Offset::new(100));
        for e in [
            entry(100, 0, 0),
            entry(101, 99, 0),
            entry(102, 100, 0),
            entry(103, 120, 999),
            entry(104, 140, 1000),
        ] {
            index.push_sparse(e, 100);
        }
        let positions: Vec<_> = index.entries().iter().map(|e| e.position).collect();
        assert_eq!(positions, [0, 100, 140]);
    }

    #[test]
    fn an_entry_that_does_not_rise_is_left_out() {
        let mut index = index();
        index.push(entry(130, 950, 30));
        index.push(entry(131, 900, 30));
        assert_eq!(index.entries().len(), 3);
        index.truncate(Offset::new(115), 10_000);
        assert_eq!(index.last().map(|e| e.position), Some(500));
    }
}
