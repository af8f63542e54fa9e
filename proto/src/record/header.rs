//! The header of a record batch: where its fields stand, and what they say.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..8 | base offset | i64; offset of the first record; outside the CRC |
//! | 8..12 | batch length | i32; bytes after this field; outside the CRC |
//! | 12..16 | partition leader epoch | i32; outside the CRC |
//! | 16 | magic | i8; 2 |
//! | 17..21 | CRC | u32; CRC-32C of everything after it |
//! | 21..23 | attributes | i16, see [`Attributes`] |
//! | 23..27 | last offset delta | i32; offset of the last record less the base offset |
//! | 27..35 | base timestamp | i64; what the records' timestamps are relative to |
//! | 35..43 | max timestamp | i64 |
//! | 43..51 | producer id | i64; -1 for none |
//! | 51..53 | producer epoch | i16; -1 for none |
//! | 53..57 | base sequence | i32; sequence of the first record; -1 for none |
//! | 57..61 | record count | i32 |
//! | 61.. | records | one after another; compressed as one, if compressed |
//!
//! All numbers are big-endian.

use std::{fmt, str::FromStr};

use thiserror::Error;

use super::error::BatchError;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// The length of a batch's header in bytes.
pub const HEADER_LEN: usize = 61;

/// Base offset and length field: what the length field does not count.
pub(super) const PREFIX_LEN: usize = 12;

pub(super) const BASE_OFFSET_AT: usize = 0;
pub(super) const LENGTH_AT: usize = 8;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC_AT: usize = 17;
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(super) const BASE_TIMESTAMP_AT: usize = 27;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
pub(super) const PRODUCER_ID_AT: usize = 43;
pub(super) const PRODUCER_EPOCH_AT: usize = 51;
pub(super) const BASE_SEQUENCE_AT: usize = 53;
pub(super) const RECORD_COUNT_AT: usize = 57;

const _: () = assert!(RECORD_COUNT_AT + size_of::<i32>() == HEADER_LEN);
const _: () = assert!(LENGTH_AT + size_of::<i32>() == PREFIX_LEN);

/// The only batch format served.
pub(super) const MAGIC: i8 = 2;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not compressed.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy, in Xerial's framing as Kafka's Java client writes it; raw Snappy is read too.
    Snappy,
    /// LZ4 frames of independent 64 KiB blocks; linked blocks and other block sizes are read too.
    Lz4,
    /// Zstandard (RFC 8878; KIP-110).
    Zstd,
}

impl Compression {
    /// Every compression, by its number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in the attributes, 0 to 4.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The compression of a number; `None` if there is none such.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name as Kafka's setting `compression.type` spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no compression's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown compression {name:?}: expected none, gzip, snappy, lz4 or zstd")]
pub struct ParseCompressionError {
    name: String,
}

impl FromStr for Compression {
    type Err = ParseCompressionError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|compression| compression.name() == name)
            .ok_or_else(|| ParseCompressionError {
                name: name.to_owned(),
            })
    }
}

/// Who stamped a batch's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer: each record has a timestamp of its own.
    #[default]
    CreateTime,
    /// The broker, at append: all records have the batch's max timestamp.
    LogAppendTime,
}

/// The attributes of a batch.
///
/// | bits | meaning |
/// |---|---|
/// | 0..3 | [`Compression`] |
/// | 3 | [`TimestampType`]: 1 is LogAppendTime |
/// | 4 | part of a transaction (KIP-98) |
/// | 5 | control batch (KIP-98) |
/// | 6 | base timestamp is the delete horizon (KIP-534) |
/// | 7..16 | 0 |
///
/// Differs from Kafka, which ignores the unused bits: here a batch that sets them is refused, so that they can
/// be given a meaning later without old data having it by accident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    bits: i16,
    compression: Compression,
}

impl Attributes {
    pub(super) const COMPRESSION: i16 = 0x07;
    pub(super) const LOG_APPEND_TIME: i16 = 0x08;
    pub(super) const TRANSACTIONAL: i16 = 0x10;
    pub(super) const CONTROL: i16 = 0x20;
    pub(super) const DELETE_HORIZON: i16 = 0x40;
    const UNKNOWN: i16 = !0x7f;

    /// Reads the attributes field.
    ///
    /// # Errors
    /// [`BatchError::UnknownAttributes`] and [`BatchError::UnknownCompression`].
    pub fn from_bits(bits: i16) -> Result<Self, BatchError> {
        if bits & Self::UNKNOWN != 0 {
            return Err(BatchError::UnknownAttributes { attributes: bits });
        }
        let [_, low] = (bits & Self::COMPRESSION).to_be_bytes();
        let compression =
            Compression::from_bits(low).ok_or(BatchError::UnknownCompression { bits: low })?;
        Ok(Self { bits, compression })
    }

    /// The field as it stands in the header.
    #[must_use]
    pub const fn bits(self) -> i16 {
        self.bits
    }

    /// How the records are compressed.
    #[must_use]
    pub const fn compression(self) -> Compression {
        self.compression
    }

    /// Who stamped the records.
    #[must_use]
    pub const fn timestamp_type(self) -> TimestampType {
        if self.bits & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub const fn is_transactional(self) -> bool {
        self.bits & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records, which are not shown to readers.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.bits & Self::CONTROL != 0
    }

    /// Whether the base timestamp tells when compaction may drop the batch's tombstones (KIP-534).
    #[must_use]
    pub const fn has_delete_horizon(self) -> bool {
        self.bits & Self::DELETE_HORIZON != 0
    }
}

/// The header of one batch, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record. Producers send any; the broker puts its own.
    pub base_offset: Offset,
    /// The size of the whole batch in bytes, the header included; at least [`HEADER_LEN`].
    pub size_bytes: usize,
    /// The term of the leader that appended the batch. Producers send any.
    pub leader_epoch: LeaderEpoch,
    /// The CRC-32C of everything after the field, as stored; not checked.
    pub crc: u32,
    /// Compression, timestamp type and flags.
    pub attributes: Attributes,
    /// The offset of the last record less the base offset; at or above 0.
    pub last_offset_delta: i32,
    /// The time the records' timestamps are relative to.
    pub base_timestamp: Timestamp,
    /// The largest timestamp of the records, by the producer's word; with LogAppendTime, the time of the append.
    pub max_timestamp: Timestamp,
    /// The idempotent producer; [`ProducerId::NONE`] if it is none.
    pub producer_id: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The sequence of the first record.
    pub base_sequence: Sequence,
    /// How many records the batch holds: from 0 (compaction removed all) to `last_offset_delta + 1`.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`; needs the first [`HEADER_LEN`] bytes only and does not look at
    /// those after. Magic, length, attributes and count are known to make sense afterwards; the CRC is not checked.
    ///
    /// # Errors
    /// [`BatchError::TooShort`] if there is no whole header, [`BatchError::Length`], [`BatchError::Magic`],
    /// [`BatchError::UnknownAttributes`], [`BatchError::UnknownCompression`], [`BatchError::Count`].
    pub fn read(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::TooShort {
                needed: HEADER_LEN,
                found: bytes.len(),
            });
        };
        let magic = i8::from_be_bytes(field(head, MAGIC_AT));
        if magic != MAGIC {
            return Err(BatchError::Magic { magic });
        }
        let length = i32::from_be_bytes(field(head, LENGTH_AT));
        let size_bytes = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(PREFIX_LEN))
            .filter(|size| *size >= HEADER_LEN)
            .ok_or(BatchError::Length { length })?;
        let attributes = Attributes::from_bits(i16::from_be_bytes(field(head, ATTRIBUTES_AT)))?;
        let last_offset_delta = i32::from_be_bytes(field(head, LAST_OFFSET_DELTA_AT));
        let record_count = i32::from_be_bytes(field(head, RECORD_COUNT_AT));
        if last_offset_delta < 0 || record_count < 0 || record_count - 1 > last_offset_delta {
            return Err(BatchError::Count {
                record_count,
                last_offset_delta,
            });
        }
        Ok(Self {
            base_offset: Offset::new(i64::from_be_bytes(field(head, BASE_OFFSET_AT))),
            size_bytes,
            leader_epoch: LeaderEpoch::new(i32::from_be_bytes(field(head, LEADER_EPOCH_AT))),
            crc: u32::from_be_bytes(field(head, CRC_AT)),
            attributes,
            last_offset_delta,
            base_timestamp: Timestamp::new(i64::from_be_bytes(field(head, BASE_TIMESTAMP_AT))),
            max_timestamp: Timestamp::new(i64::from_be_bytes(field(head, MAX_TIMESTAMP_AT))),
            producer_id: ProducerId::new(i64::from_be_bytes(field(head, PRODUCER_ID_AT))),
            producer_epoch: ProducerEpoch::new(i16::from_be_bytes(field(head, PRODUCER_EPOCH_AT))),
            base_sequence: Sequence::new(i32::from_be_bytes(field(head, BASE_SEQUENCE_AT))),
            record_count,
        })
    }

    /// The offset of the last record (which compaction may have removed).
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset after the batch's last.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta) + 1)
    }

    /// The sequence of the last record; [`Sequence::NONE`] if the batch has no sequence.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        if self.base_sequence.get() < 0 {
            return Sequence::NONE;
        }
        self.base_sequence.plus(self.last_offset_delta)
    }

    /// Whether an idempotent producer wrote the batch.
    #[must_use]
    pub const fn has_producer(&self) -> bool {
        self.producer_id.get() >= 0
    }
}

fn field<const N: usize>(head: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&head[at..at + N]);
    out
}

pub(super) fn put<const N: usize>(batch: &mut [u8], at: usize, value: [u8; N]) {
    batch[at..at + N].copy_from_slice(&value);
}
