//! Kafka record batches, format 2 ("magic 2"): the unit that is sent, stored and fetched.
//!
//! A batch is the same bytes on the wire and on disk. Producers build it ([`BatchBuilder`]), the broker checks it
//! ([`RecordBatch::validate`]), patches offset and leader epoch ([`set_base_offset`], [`set_leader_epoch`]) and stores
//! it as it is; readers iterate over it ([`RecordBatch::records`]). Nothing here copies keys or values: all are slices
//! of the batch's [`bytes::Bytes`], or of its unpacked body. No bytes from outside make it panic.

mod batch;
mod builder;
mod compression;
mod control;
mod error;
mod header;
mod records;
mod unpacked;
mod varint;

pub use batch::{
    Batches, RecordBatch, batches, crc_of, set_base_offset, set_leader_epoch, set_log_append_time,
    set_producer,
};
pub use builder::BatchBuilder;
pub use control::{ControlRecord, EndTransaction};
pub use error::{BatchError, RecordFault};
pub use header::{
    Attributes, BatchHeader, Compression, HEADER_LEN, ParseCompressionError, TimestampType,
};
pub use records::{Record, RecordHeader, Records};
pub use unpacked::{KeyedRecord, UnpackedBatch, without_records};

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod tests;
