//! One whole batch as bytes: taking it out of a stream, checking it, patching it.

use std::{fmt, iter::FusedIterator};

use bytes::Bytes;

use super::{
    compression,
    error::BatchError,
    header::{
        ATTRIBUTES_AT, Attributes, BASE_OFFSET_AT, BASE_SEQUENCE_AT, BatchHeader, CRC_AT,
        Compression, HEADER_LEN, LEADER_EPOCH_AT, MAX_TIMESTAMP_AT, PRODUCER_EPOCH_AT,
        PRODUCER_ID_AT, TimestampType, put,
    },
    records::{self, Records},
};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// A record batch: its decoded header, and the bytes of exactly this batch. Cloning shares the bytes.
///
/// Taking one out of a buffer checks the header only; [`RecordBatch::validate`] checks the rest.
///
/// ```
/// use logweir_proto::{Offset, Timestamp, record::{BatchBuilder, Compression, RecordBatch}};
///
/// let mut builder = BatchBuilder::new(Compression::Zstd);
/// builder.append(Timestamp::new(1_700_000_000_000), Some(b"N14228"), Some(b"EWR,IAH"), &[])?;
/// let mut received = builder.build()?;
///
/// let batch = RecordBatch::split_from(&mut received)?;
/// assert!(received.is_empty());
/// batch.validate()?;
/// assert_eq!(batch.header().record_count, 1);
///
/// let limit_bytes = 1 << 20;
/// for record in batch.records(limit_bytes)? {
///     let record = record?;
///     assert_eq!(record.offset, Offset::ZERO);
///     assert_eq!(record.key.as_deref(), Some(&b"N14228"[..]));
/// }
/// # Ok::<(), logweir_proto::record::BatchError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Takes the batch at the front of `bytes`, which keeps what follows. Copies nothing.
    ///
    /// # Errors
    /// Those of [`BatchHeader::read`], and [`BatchError::TooShort`] if the batch is not there in full; `bytes` is
    /// then as it was.
    pub fn split_from(bytes: &mut Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::read(bytes)?;
        if header.size_bytes > bytes.len() {
            return Err(BatchError::TooShort {
                needed: header.size_bytes,
                found: bytes.len(),
            });
        }
        Ok(Self {
            header,
            bytes: bytes.split_to(header.size_bytes),
        })
    }

    /// Takes bytes that are exactly one batch. Copies nothing.
    ///
    /// # Errors
    /// Those of [`RecordBatch::split_from`], and [`BatchError::MoreThanOneBatch`] if bytes follow the batch.
    pub fn from_bytes(mut bytes: Bytes) -> Result<Self, BatchError> {
        let batch = Self::split_from(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(BatchError::MoreThanOneBatch { extra: bytes.len() });
        }
        Ok(batch)
    }

    /// The decoded header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch, header included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Turns the batch back into its bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Checks the bytes against the CRC.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let computed = crc_of(&self.bytes);
        if computed != self.header.crc {
            return Err(BatchError::Crc {
                stored: self.header.crc,
                computed,
            });
        }
        Ok(())
    }

    /// Checks a batch that a producer sent, before it is appended: the CRC; that it is one a producer may write; that
    /// it holds at least one record and as many as its offsets say; that its producer fields make sense; and every
    /// record of an uncompressed batch. Compressed bodies are not opened.
    ///
    /// Not for batches out of a log: those may be control batches, and compaction leaves gaps in them.
    ///
    /// Differs from Kafka (`LogValidator`): compressed records are not looked at, here a batch whose uncompressed
    /// records have wrong offset deltas is refused, and the max timestamp is taken at the producer's word.
    ///
    /// # Errors
    /// What is wrong: [`BatchError::Crc`], [`BatchError::ControlBatch`], [`BatchError::LogAppendTime`],
    /// [`BatchError::DeleteHorizon`], [`BatchError::Count`], [`BatchError::Producer`], [`BatchError::Record`],
    /// [`BatchError::TrailingBytes`].
    pub fn validate(&self) -> Result<(), BatchError> {
        self.verify_crc()?;
        let header = &self.header;
        if header.attributes.is_control() {
            return Err(BatchError::ControlBatch);
        }
        if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
            return Err(BatchError::LogAppendTime);
        }
        if header.attributes.has_delete_horizon() {
            return Err(BatchError::DeleteHorizon);
        }
        if header.record_count < 1 || header.record_count - 1 != header.last_offset_delta {
            return Err(BatchError::Count {
                record_count: header.record_count,
                last_offset_delta: header.last_offset_delta,
            });
        }
        check_producer(header)?;
        let body = &self.bytes[HEADER_LEN..];
        if header.attributes.compression() == Compression::None {
            return records::check(header, body);
        }
        if body.is_empty() {
            let compression = header.attributes.compression();
            return Err(BatchError::Decompress {
                compression,
                reason: "no bytes".to_owned(),
            });
        }
        Ok(())
    }

    /// Checks that each record has a key, as a compacted topic needs; for a batch that passed [`RecordBatch::validate`].
    /// Compressed bodies are not opened: a record without a key in one is dropped when it is compacted.
    ///
    /// # Errors
    /// [`BatchError::NoKey`].
    pub fn check_keys(&self) -> Result<(), BatchError> {
        match self.header.attributes.compression() {
            Compression::None => records::check_keys(&self.header, &self.bytes[HEADER_LEN..]),
            _ => Ok(()),
        }
    }

    /// The records, in order. A compressed body is unpacked first, in one go, into at most `max_decompressed_bytes`;
    /// an uncompressed one is not copied, and the limit does not apply to it.
    ///
    /// The limit bounds the bytes, not what a caller makes of them: a record of nothing but empty headers takes two
    /// bytes each here and 64 as [`super::RecordHeader`]s, so records of strangers are best not collected.
    ///
    /// The CRC is not checked, and the batch needs not have passed [`RecordBatch::validate`]: the iterator
    /// yields an error where a record is malformed, and after it nothing.
    ///
    /// # Errors
    /// [`BatchError::Decompress`] and [`BatchError::DecompressedTooLarge`].
    pub fn records(&self, max_decompressed_bytes: usize) -> Result<Records, BatchError> {
        let body = self.bytes.slice(HEADER_LEN..);
        let body = match self.header.attributes.compression() {
            Compression::None => body,
            compression => {
                compression::decompress(compression, &body, max_decompressed_bytes)?.into()
            }
        };
        Ok(Records::new(&self.header, body))
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

fn check_producer(header: &BatchHeader) -> Result<(), BatchError> {
    let reason = if header.producer_id.get() < ProducerId::NONE.get() {
        "the id is below -1"
    } else if !header.has_producer() && header.attributes.is_transactional() {
        "a transaction needs a producer id"
    } else if header.has_producer() && header.producer_epoch.get() < 0 {
        "a producer id needs an epoch"
    } else if header.has_producer() && header.base_sequence.get() < 0 {
        "a producer id needs a sequence"
    } else {
        return Ok(());
    };
    Err(BatchError::Producer {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        reason,
    })
}

/// The batches that stand one after another in `bytes`, in order, without copying.
///
/// Only headers are checked. After an error, which is what a batch cut short at the end gives, the iterator ends.
#[must_use]
pub fn batches(bytes: Bytes) -> Batches {
    Batches { bytes }
}

/// See [`batches`].
#[derive(Clone, Debug)]
pub struct Batches {
    bytes: Bytes,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let batch = RecordBatch::split_from(&mut self.bytes);
        if batch.is_err() {
            self.bytes = Bytes::new();
        }
        Some(batch)
    }
}

impl FusedIterator for Batches {}

/// The CRC-32C of everything after the CRC field of `batch`, which is the whole of one batch.
///
/// # Panics
/// If `batch` is shorter than a header.
#[must_use]
pub fn crc_of(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[ATTRIBUTES_AT..])
}

/// Puts the offset of the first record into a batch. It lies outside the CRC.
///
/// # Panics
/// If `batch` is shorter than a header.
#[inline]
pub fn set_base_offset(batch: &mut [u8], base_offset: Offset) {
    put(batch, BASE_OFFSET_AT, base_offset.get().to_be_bytes());
}

/// Puts the term of the appending leader into a batch. It lies outside the CRC.
///
/// # Panics
/// If `batch` is shorter than a header.
#[inline]
pub fn set_leader_epoch(batch: &mut [u8], leader_epoch: LeaderEpoch) {
    put(batch, LEADER_EPOCH_AT, leader_epoch.get().to_be_bytes());
}

/// Stamps a batch with the time of its append, as Kafka does: the timestamp type becomes LogAppendTime and the max
/// timestamp `now`; the base timestamp stays. The CRC is computed anew over the whole batch.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn set_log_append_time(batch: &mut [u8], now: Timestamp) {
    let [high, low] = Attributes::LOG_APPEND_TIME.to_be_bytes();
    batch[ATTRIBUTES_AT] |= high;
    batch[ATTRIBUTES_AT + 1] |= low;
    put(batch, MAX_TIMESTAMP_AT, now.get().to_be_bytes());
    renew_crc(batch);
}

/// Puts a producer's id, epoch and first sequence into a batch built without or with others, as a producer must when
/// its epoch was raised. The CRC is computed anew over the whole batch.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn set_producer(
    batch: &mut [u8],
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: Sequence,
) {
    put(batch, PRODUCER_ID_AT, producer_id.get().to_be_bytes());
    put(batch, PRODUCER_EPOCH_AT, producer_epoch.get().to_be_bytes());
    put(batch, BASE_SEQUENCE_AT, base_sequence.get().to_be_bytes());
    renew_crc(batch);
}

pub(super) fn renew_crc(batch: &mut [u8]) {
    let crc = crc_of(batch);
    put(batch, CRC_AT, crc.to_be_bytes());
}
