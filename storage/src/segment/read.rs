//! Reading published batches: from the index to the nearest place, then header by header.
//!
//! No body is opened, except inside the one batch that a search by time ends in.

use bytes::Bytes;
use logweir_proto::record::{BatchHeader, Record, RecordBatch, TimestampType};
use logweir_proto::{LeaderEpoch, Offset, Timestamp};

use super::OpenSegment;
use super::scan::Walk;
use crate::error::ReadError;
use crate::index::IndexEntry;

/// A batch that a search by time opens may grow to this when it is decompressed; of a larger one the beginning
/// is the answer.
const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;

/// A walk from an index entry seldom goes further.
const WALK_BYTES: u64 = 64 << 10;

/// Batches read from one segment.
#[derive(Clone, Debug, Default)]
pub struct ReadSlice {
    /// Whole batches, as they lie in the segment; not copied. They keep the mapping alive.
    pub bytes: Bytes,
    /// Where to read next: the end (exclusive) of the last batch, or the offset asked for if there is none.
    pub next_offset: Offset,
}

/// A record found by its time: offset, timestamp, and epoch of its batch.
pub(crate) type FoundRecord = (Offset, Timestamp, LeaderEpoch);

impl OpenSegment {
    /// Reads whole batches from the one that contains or follows `from`, all of them below `below` (exclusive), at
    /// most `max_bytes` unless the first is larger.
    pub(crate) fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        below: Offset,
    ) -> Result<ReadSlice, ReadError> {
        let mut walk = self.walk_to(from)?;
        let start = walk.place().position;
        let first = match self.peek(&walk)? {
            Some(header) if header.next_offset() <= below => header,
            next => {
                // Where compaction left nothing in between, there is nothing to wait for either.
                let gap = next.is_some_and(|header| header.base_offset >= below);
                return Ok(ReadSlice {
                    bytes: Bytes::new(),
                    next_offset: if gap { from.max(below) } else { from },
                });
            }
        };
        walk.pass(&first);
        let limit = u64::from(start).saturating_add(max_bytes as u64);
        self.load(
            u64::from(start),
            limit.max(u64::from(walk.place().position)),
        )?;
        walk.skip_to(self.index.read().at_bounds(below, limit));
        while let Some(header) = self.peek(&walk)? {
            let next = walk.place().after(&header);
            if next.offset > below || u64::from(next.position) > limit {
                break;
            }
            walk.pass(&header);
        }
        let end = walk.place();
        Ok(ReadSlice {
            bytes: walk.slice(start, end.position),
            next_offset: end.offset,
        })
    }

    /// The place of the first batch that contains or follows `offset`, or of the segment's end.
    pub(crate) fn place_at(&self, offset: Offset) -> Result<IndexEntry, ReadError> {
        Ok(self.walk_to(offset)?.place())
    }

    /// Data records below `offset` in this segment.
    pub(crate) fn records_below(&self, offset: Offset) -> Result<u64, ReadError> {
        let walk = self.walk_to(offset)?;
        let mut records = u64::from(walk.place().records);
        if let Some(header) = self.peek(&walk)?
            && header.base_offset < offset
            && !header.attributes.is_control()
        {
            records += self.records_of(&walk, &header, offset)?;
        }
        Ok(records)
    }

    /// Records of a batch below `offset`.
    fn records_of(
        &self,
        walk: &Walk,
        header: &BatchHeader,
        offset: Offset,
    ) -> Result<u64, ReadError> {
        let mut records = 0;
        if header.record_count <= header.last_offset_delta {
            // Some were compacted away; which ones only the records tell.
            let opened = self.look_into(walk, header, |record| {
                let below = record.offset < offset;
                records += u64::from(below);
                below
            })?;
            if opened {
                return Ok(records);
            }
        }
        let part = offset
            .since(header.base_offset)
            .min(i64::from(header.record_count));
        Ok(u64::try_from(part).unwrap_or(0))
    }

    /// When the batch with `offset` was appended, to the next index entry before it.
    pub(crate) fn append_time_of(&self, offset: Offset) -> Result<Timestamp, ReadError> {
        let walk = self.walk_to(offset)?;
        match self.peek(&walk)? {
            Some(header) if stamps_append_time(&header) => Ok(header.max_timestamp),
            _ => Ok(self.index.read().at_offset(offset).append_time),
        }
    }

    /// The first record in `[from, below)` that is not older than `timestamp`.
    pub(crate) fn find_timestamp(
        &self,
        timestamp: Timestamp,
        from: Offset,
        below: Offset,
    ) -> Result<Option<FoundRecord>, ReadError> {
        let mut walk = self.walk_from(self.index.read().before_timestamp(timestamp))?;
        while let Some(header) = self.peek(&walk)? {
            if header.next_offset() > below {
                break;
            }
            let candidate = header.record_count > 0
                && header.max_timestamp >= timestamp
                && header.next_offset() > from;
            if candidate && let Some(found) = self.record_at(&walk, &header, timestamp, from)? {
                return Ok(Some(found));
            }
            walk.pass(&header);
        }
        Ok(None)
    }

    /// The largest timestamp of the records in `[from, below)`; [`Timestamp::NONE`] if there are none.
    pub(crate) fn max_timestamp_in(
        &self,
        from: Offset,
        below: Offset,
    ) -> Result<Timestamp, ReadError> {
        let whole = from <= self.index.read().base();
        let mut walk = match whole {
            true => self.walk_from(self.index.read().at_offset(below))?,
            false => self.walk_to(from)?,
        };
        let mut max = if whole {
            walk.place().max_timestamp
        } else {
            Timestamp::NONE
        };
        while let Some(header) = self.peek(&walk)? {
            if header.next_offset() > below {
                break;
            }
            let cut = header.base_offset < from && !is_whole_and_stamped(&header);
            max = max.max(match cut {
                _ if header.record_count == 0 => Timestamp::NONE,
                true => self.max_of_records(&walk, &header, from)?,
                false => header.max_timestamp,
            });
            walk.pass(&header);
        }
        Ok(max)
    }

    /// The largest timestamp of a batch's records at or above `from`.
    fn max_of_records(
        &self,
        walk: &Walk,
        header: &BatchHeader,
        from: Offset,
    ) -> Result<Timestamp, ReadError> {
        let mut max = Timestamp::NONE;
        let opened = self.look_into(walk, header, |record| {
            if record.offset >= from {
                max = max.max(record.timestamp);
            }
            true
        })?;
        Ok(if opened { max } else { header.max_timestamp })
    }

    /// The first record of a batch, at or above `from`, that is not older than `timestamp`.
    fn record_at(
        &self,
        walk: &Walk,
        header: &BatchHeader,
        timestamp: Timestamp,
        from: Offset,
    ) -> Result<Option<FoundRecord>, ReadError> {
        let beginning = (
            header.base_offset.max(from),
            header.max_timestamp,
            header.leader_epoch,
        );
        if is_whole_and_stamped(header) {
            return Ok(Some(beginning));
        }
        let mut found = None;
        let opened = self.look_into(walk, header, |record| {
            if record.timestamp >= timestamp && record.offset >= from {
                found = Some((record.offset, record.timestamp, header.leader_epoch));
            }
            found.is_none()
        })?;
        Ok(if opened { found } else { Some(beginning) })
    }

    /// Shows the records of a batch until `look` has seen enough. Gives whether the batch could be opened: one that its
    /// producer compressed wrongly is found by its readers, and here it stands as one.
    fn look_into(
        &self,
        walk: &Walk,
        header: &BatchHeader,
        mut look: impl FnMut(&Record) -> bool,
    ) -> Result<bool, ReadError> {
        let place = walk.place();
        let mut bytes = walk.slice(place.position, place.after(header).position);
        let batch = RecordBatch::split_from(&mut bytes)
            .map_err(|error| self.corrupt(place, error.to_string()))?;
        let Ok(records) = batch.records(MAX_DECOMPRESSED_BYTES) else {
            return Ok(false);
        };
        for record in records {
            match record {
                Ok(record) if look(&record) => {}
                Ok(_) => break,
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn walk_to(&self, offset: Offset) -> Result<Walk, ReadError> {
        let mut walk = self.walk_from(self.index.read().at_offset(offset))?;
        while let Some(header) = self.peek(&walk)? {
            if header.next_offset() > offset {
                break;
            }
            walk.pass(&header);
        }
        Ok(walk)
    }

    fn walk_from(&self, place: IndexEntry) -> Result<Walk, ReadError> {
        let end = self.map.published();
        let position = u64::from(place.position);
        self.load(position, position + WALK_BYTES)?;
        let bytes = self.map.slice(position, end);
        let bytes = bytes.ok_or_else(|| self.corrupt(place, "the index points beyond the end"))?;
        let walk = Walk::new(bytes, place);
        match self.peek(&walk)? {
            Some(header) if header.base_offset < place.offset => {
                Err(self.corrupt(place, "the index points at another batch"))
            }
            _ => Ok(walk),
        }
    }

    /// Has `[from, to)` read from the device where it may not be in memory, so that a device error is an error
    /// here and not a signal when the bytes are looked at.
    fn load(&self, from: u64, to: u64) -> Result<(), ReadError> {
        let to = to.min(self.cold_end);
        if from >= to {
            return Ok(());
        }
        self.map
            .populate_read(from, to)
            .map_err(ReadError::io(&self.path))
    }

    fn peek(&self, walk: &Walk) -> Result<Option<BatchHeader>, ReadError> {
        walk.peek()
            .map_err(|reason| self.corrupt(walk.place(), reason))
    }

    fn corrupt(&self, place: IndexEntry, reason: impl Into<String>) -> ReadError {
        ReadError::Corrupt {
            path: self.path.clone(),
            position: u64::from(place.position),
            reason: reason.into(),
        }
    }
}

fn stamps_append_time(header: &BatchHeader) -> bool {
    header.attributes.timestamp_type() == TimestampType::LogAppendTime
}

/// Whether each of its offsets has a record, of one time.
fn is_whole_and_stamped(header: &BatchHeader) -> bool {
    stamps_append_time(header) && header.record_count > header.last_offset_delta
}
