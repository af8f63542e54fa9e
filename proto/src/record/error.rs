//! What can be wrong with a record batch.
//!
//! Neither enum is `non_exhaustive`: the broker's table of error codes matches them without `_`, so that a new
//! kind of fault has to choose its code.

use thiserror::Error;

use super::header::{Compression, HEADER_LEN};
use crate::ids::{ProducerEpoch, ProducerId, Sequence};

/// A record batch that cannot be taken, read or built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("a record batch of {needed} bytes where {found} are left")]
    TooShort {
        /// How many bytes the batch has, by its length field; [`HEADER_LEN`] if not even that can be read.
        needed: usize,
        /// How many bytes there are.
        found: usize,
    },
    /// The length field is smaller than a header.
    #[error("batch length {length} is below {min}, the length of an empty batch", min = HEADER_LEN - 12)]
    Length {
        /// The length field: bytes after it.
        length: i32,
    },
    /// Bytes follow where there should be one batch only.
    #[error("{extra} bytes follow the record batch")]
    MoreThanOneBatch {
        /// How many bytes follow.
        extra: usize,
    },
    /// The batch is not of format 2.
    #[error("magic {magic} where 2 is the only record batch format served")]
    Magic {
        /// The magic byte.
        magic: i8,
    },
    /// The checksum does not fit the bytes.
    #[error("stored CRC {stored:#010x} differs from {computed:#010x}, the CRC of the bytes")]
    Crc {
        /// The CRC-32C in the header.
        stored: u32,
        /// The CRC-32C of the bytes.
        computed: u32,
    },
    /// Attribute bits are set that have no meaning.
    #[error("attributes {attributes:#06x} have unknown bits")]
    UnknownAttributes {
        /// The attributes field.
        attributes: i16,
    },
    /// The attributes name no known compression.
    #[error("compression {bits} is none of 0 (none), 1 (gzip), 2 (snappy), 3 (lz4), 4 (zstd)")]
    UnknownCompression {
        /// The compression bits, 5 to 7.
        bits: u8,
    },
    /// The record count does not fit the offsets.
    #[error("record count {record_count} does not fit last offset delta {last_offset_delta}")]
    Count {
        /// The record count field.
        record_count: i32,
        /// The last offset delta field.
        last_offset_delta: i32,
    },
    /// The producer fields make no sense together.
    #[error(
        "producer id {producer_id}, epoch {producer_epoch}, base sequence {base_sequence}: {reason}"
    )]
    Producer {
        /// The producer id.
        producer_id: ProducerId,
        /// The producer epoch.
        producer_epoch: ProducerEpoch,
        /// The first record's sequence.
        base_sequence: Sequence,
        /// What is wrong.
        reason: &'static str,
    },
    /// A producer sent a control batch, which only brokers write.
    #[error("producers may not write control batches")]
    ControlBatch,
    /// A producer marked its batch as stamped by the broker.
    #[error("producers may not set the timestamp type to LogAppendTime")]
    LogAppendTime,
    /// A producer set the delete horizon, which only compaction sets.
    #[error("producers may not set a delete horizon")]
    DeleteHorizon,
    /// A record has no key where each must have one: a topic that is compacted.
    #[error("record {index} of the batch has no key, which a compacted topic needs")]
    NoKey {
        /// Which record of the batch, from 0.
        index: i32,
    },
    /// A record is malformed.
    #[error("record {index} of the batch: {fault}")]
    Record {
        /// Which record of the batch, from 0.
        index: i32,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// Bytes follow the last record.
    #[error("{extra} bytes follow the last record of the batch")]
    TrailingBytes {
        /// How many bytes follow.
        extra: usize,
    },
    /// The compressed body cannot be unpacked.
    #[error("{compression} body cannot be unpacked: {reason}")]
    Decompress {
        /// The compression.
        compression: Compression,
        /// What the decoder said.
        reason: String,
    },
    /// The compressed body unpacks to more than the reader allows.
    #[error("{compression} body unpacks to more than the limit of {limit_bytes} bytes")]
    DecompressedTooLarge {
        /// The compression.
        compression: Compression,
        /// The limit.
        limit_bytes: usize,
    },
    /// The body cannot be compressed.
    #[error("the batch cannot be compressed with {compression}: {reason}")]
    Compress {
        /// The compression.
        compression: Compression,
        /// What the encoder said.
        reason: String,
    },
    /// A batch without records was to be built.
    #[error("a record batch has at least one record")]
    NoRecords,
    /// A batch under construction would outgrow the format.
    #[error("{what} is more than a record batch can hold")]
    TooLarge {
        /// What is too large.
        what: &'static str,
    },
    /// A header's name is not UTF-8.
    #[error("the name of header {index} is not UTF-8")]
    HeaderNotUtf8 {
        /// Which header of the record, from 0.
        index: usize,
    },
}

/// What is wrong with one record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordFault {
    /// The bytes end inside the record.
    #[error("{field} needs {needed} bytes where {left} are left")]
    Ended {
        /// The field that could not be read.
        field: &'static str,
        /// How many bytes it needs, at least.
        needed: usize,
        /// How many are left.
        left: usize,
    },
    /// A number has more bits than its type.
    #[error("{field} is longer than its type")]
    NumberTooLong {
        /// The field that could not be read.
        field: &'static str,
    },
    /// A length is negative where it may not be (or below -1 where -1 means null).
    #[error("{field} has the length {length}")]
    NegativeLength {
        /// The field.
        field: &'static str,
        /// Its length.
        length: i32,
    },
    /// There cannot be that many headers.
    #[error("{count} headers where {left} bytes are left")]
    HeaderCount {
        /// The count found.
        count: i32,
        /// How many bytes of the record are left for them.
        left: usize,
    },
    /// The record's fields end before the record does.
    #[error("{extra} bytes follow the last field")]
    SizeMismatch {
        /// How many bytes follow.
        extra: usize,
    },
    /// The record's offset lies outside of the batch.
    #[error("offset delta {delta} lies outside of the batch, whose last is {last}")]
    OffsetDelta {
        /// The record's offset delta.
        delta: i32,
        /// The batch's last offset delta.
        last: i32,
    },
    /// The record's offset does not lie after that of the record before it.
    #[error("offset delta {delta} does not follow {previous}")]
    OffsetOrder {
        /// The record's offset delta.
        delta: i32,
        /// The offset delta of the record before it.
        previous: i32,
    },
}
