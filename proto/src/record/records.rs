//! The records of a batch: their layout, and reading them without copying.
//!
//! A record is: length (of what follows), attributes (one unused byte), timestamp delta, offset delta, key,
//! value, headers. Numbers are [`super::varint`]s, byte strings have their length before them and -1 for null,
//! headers their count. The batch's checks at append and the reading of records are one walk over the same code.

use std::{iter::FusedIterator, ops::Range};

use bytes::Bytes;

use super::{
    error::{BatchError, RecordFault},
    header::{BatchHeader, TimestampType},
    varint::{self, VarintError},
};
use crate::ids::{Offset, Timestamp};

/// One record. Key, value and headers share the memory of the batch they were read from, and keep it alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The record's offset in its partition.
    pub offset: Offset,
    /// The record's time; with LogAppendTime, the time of the append.
    pub timestamp: Timestamp,
    /// The key; `None` is not the same as empty.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone, which deletes the key in a compacted topic.
    pub value: Option<Bytes>,
    /// Application headers in order; a name may occur more than once (KIP-82).
    pub headers: Vec<RecordHeader>,
}

/// An application header of a record (KIP-82).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordHeader {
    /// The name. UTF-8 in batches built here; as the producer sent it in batches read.
    pub key: Bytes,
    /// The value; `None` is not the same as empty.
    pub value: Option<Bytes>,
}

impl RecordHeader {
    /// A header of a name and a value.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: Some(value.into()),
        }
    }
}

/// The records of one batch, in order; see [`super::RecordBatch::records`].
///
/// Each key, value and header is a slice of one [`Bytes`]: the batch's own, or the unpacked body of a compressed
/// batch. The iterator ends after its first error.
#[derive(Clone, Debug)]
pub struct Records {
    body: Bytes,
    walk: Walk,
    base_offset: Offset,
    base_timestamp: Timestamp,
    log_append_time: Option<Timestamp>,
}

impl Records {
    pub(super) fn new(header: &BatchHeader, body: Bytes) -> Self {
        let log_append_time = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        Self {
            body,
            walk: Walk::new(header),
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            log_append_time,
        }
    }

    fn record(&self, layout: &Layout) -> Result<Record, RecordFault> {
        let slice = |range: &Range<usize>| self.body.slice(range.clone());
        let timestamp = self.log_append_time.unwrap_or_else(|| {
            // Wraps, as Kafka's does: the sum of any two fields is a timestamp, if a senseless one.
            Timestamp::new(
                self.base_timestamp
                    .get()
                    .wrapping_add(layout.timestamp_delta),
            )
        });
        // A header takes two bytes at least but more memory than that, so the count alone reserves only a little.
        let mut headers = Vec::with_capacity(layout.header_count.min(16));
        let mut fields = Fields {
            bytes: &self.body[..layout.headers.end],
            at: layout.headers.start,
        };
        for _ in 0..layout.header_count {
            let (key, value) = fields.header()?;
            headers.push(RecordHeader {
                key: slice(&key),
                value: value.as_ref().map(slice),
            });
        }
        Ok(Record {
            offset: self.base_offset.plus(i64::from(layout.offset_delta)),
            timestamp,
            key: layout.key.as_ref().map(slice),
            value: layout.value.as_ref().map(slice),
            headers,
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.walk.index;
        let layout = match self.walk.next(&self.body)? {
            Ok(layout) => layout,
            Err(error) => return Some(Err(error)),
        };
        Some(
            self.record(&layout)
                .map_err(|fault| BatchError::Record { index, fault }),
        )
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // The count is the producer's word: no promise of as many.
        (
            0,
            usize::try_from(self.walk.count - self.walk.index)
                .ok()
                .map(|left| left.saturating_add(1)),
        )
    }
}

impl FusedIterator for Records {}

/// Checks every record of an uncompressed body.
pub(super) fn check(header: &BatchHeader, body: &[u8]) -> Result<(), BatchError> {
    let mut walk = Walk::new(header);
    while let Some(layout) = walk.next(body) {
        layout?;
    }
    Ok(())
}

/// Checks that every record of an uncompressed body, which [`check`] passed, has a key.
pub(super) fn check_keys(header: &BatchHeader, body: &[u8]) -> Result<(), BatchError> {
    let mut walk = Walk::new(header);
    loop {
        let index = walk.index;
        match walk.next(body) {
            None => return Ok(()),
            Some(layout) => {
                if layout?.key.is_none() {
                    return Err(BatchError::NoKey { index });
                }
            }
        }
    }
}

/// A walk over a body, record by record, that checks sizes, order and the end.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// Where the next record begins.
    pub(super) at: usize,
    index: i32,
    count: i32,
    previous_delta: i32,
    last_delta: i32,
    done: bool,
}

impl Walk {
    pub(super) fn new(header: &BatchHeader) -> Self {
        Self {
            at: 0,
            index: 0,
            count: header.record_count,
            previous_delta: -1,
            last_delta: header.last_offset_delta,
            done: false,
        }
    }

    /// The next record; `None` after the last or after an error.
    pub(super) fn next(&mut self, body: &[u8]) -> Option<Result<Layout, BatchError>> {
        if self.done {
            return None;
        }
        if self.index == self.count {
            self.done = true;
            let extra = body.len() - self.at;
            return (extra > 0).then_some(Err(BatchError::TrailingBytes { extra }));
        }
        match self.step(body) {
            Ok(layout) => Some(Ok(layout)),
            Err(fault) => {
                self.done = true;
                Some(Err(BatchError::Record {
                    index: self.index,
                    fault,
                }))
            }
        }
    }

    fn step(&mut self, body: &[u8]) -> Result<Layout, RecordFault> {
        let mut fields = Fields {
            bytes: body,
            at: self.at,
        };
        let layout = fields.record()?;
        let delta = layout.offset_delta;
        if delta < 0 || delta > self.last_delta {
            return Err(RecordFault::OffsetDelta {
                delta,
                last: self.last_delta,
            });
        }
        if delta <= self.previous_delta {
            return Err(RecordFault::OffsetOrder {
                delta,
                previous: self.previous_delta,
            });
        }
        self.at = layout.headers.end;
        self.index += 1;
        self.previous_delta = delta;
        Ok(layout)
    }
}

/// Where the fields of one record stand in its body.
pub(super) struct Layout {
    pub(super) timestamp_delta: i64,
    /// Where the fields after the timestamp begin.
    pub(super) after_timestamp: usize,
    pub(super) offset_delta: i32,
    pub(super) key: Option<Range<usize>>,
    pub(super) value: Option<Range<usize>>,
    header_count: usize,
    /// The headers without their count; ends where the record ends.
    headers: Range<usize>,
}

/// A place in a body, from which fields are read.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn number(&mut self, field: &'static str) -> Result<i32, RecordFault> {
        let read = varint::read_i32(&self.bytes[self.at..]);
        let (value, len) = read.map_err(|error| self.fault(error, field))?;
        self.at += len;
        Ok(value)
    }

    fn long(&mut self, field: &'static str) -> Result<i64, RecordFault> {
        let read = varint::read_i64(&self.bytes[self.at..]);
        let (value, len) = read.map_err(|error| self.fault(error, field))?;
        self.at += len;
        Ok(value)
    }

    fn fault(&self, error: VarintError, field: &'static str) -> RecordFault {
        match error {
            VarintError::Ended => RecordFault::Ended {
                field,
                needed: self.left() + 1,
                left: self.left(),
            },
            VarintError::TooLong => RecordFault::NumberTooLong { field },
        }
    }

    fn take(&mut self, len: i32, field: &'static str) -> Result<Range<usize>, RecordFault> {
        let needed =
            usize::try_from(len).map_err(|_| RecordFault::NegativeLength { field, length: len })?;
        if needed > self.left() {
            return Err(RecordFault::Ended {
                field,
                needed,
                left: self.left(),
            });
        }
        let start = self.at;
        self.at += needed;
        Ok(start..self.at)
    }

    fn nullable(&mut self, field: &'static str) -> Result<Option<Range<usize>>, RecordFault> {
        match self.number(field)? {
            -1 => Ok(None),
            len => self.take(len, field).map(Some),
        }
    }

    fn header(&mut self) -> Result<(Range<usize>, Option<Range<usize>>), RecordFault> {
        let len = self.number("header name")?;
        let key = self.take(len, "header name")?;
        Ok((key, self.nullable("header value")?))
    }

    fn record(&mut self) -> Result<Layout, RecordFault> {
        let len = self.number("record length")?;
        let whole = self.take(len, "record")?;
        // From here on nothing may reach beyond the record's own end.
        let mut fields = Fields {
            bytes: &self.bytes[..whole.end],
            at: whole.start,
        };
        // The attributes byte has no meaning yet; Kafka does not look at it.
        fields.take(1, "record attributes")?;
        let timestamp_delta = fields.long("timestamp delta")?;
        let after_timestamp = fields.at;
        let offset_delta = fields.number("offset delta")?;
        let key = fields.nullable("key")?;
        let value = fields.nullable("value")?;
        let count = fields.number("header count")?;
        // A header takes two bytes at least.
        let header_count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= fields.left() / 2)
            .ok_or(RecordFault::HeaderCount {
                count,
                left: fields.left(),
            })?;
        let headers_start = fields.at;
        for _ in 0..header_count {
            fields.header()?;
        }
        if fields.left() > 0 {
            return Err(RecordFault::SizeMismatch {
                extra: fields.left(),
            });
        }
        let headers = headers_start..whole.end;
        Ok(Layout {
            timestamp_delta,
            after_timestamp,
            offset_delta,
            key,
            value,
            header_count,
            headers,
        })
    }
}
