//! Building a batch, record by record, in one buffer.

use bytes::Bytes;

use super::{
    batch::renew_crc,
    compression,
    error::BatchError,
    header::{
        ATTRIBUTES_AT, Attributes, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, Compression, HEADER_LEN,
        LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_AT, MAGIC, MAGIC_AT, MAX_TIMESTAMP_AT,
        PREFIX_LEN, PRODUCER_EPOCH_AT, PRODUCER_ID_AT, RECORD_COUNT_AT, put,
    },
    records::RecordHeader,
    varint,
};
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Builds one record batch.
///
/// Records are written straight into the batch's buffer, after room for the header; only compression makes a
/// second one. Offsets count from 0: the broker puts the base offset.
///
/// ```
/// use logweir_proto::{
///     ProducerEpoch, ProducerId, Sequence, Timestamp,
///     record::{BatchBuilder, Compression, RecordBatch, RecordHeader},
/// };
///
/// let now = Timestamp::new(1_700_000_000_000);
/// let mut builder = BatchBuilder::new(Compression::None);
/// builder.producer(ProducerId::new(7), ProducerEpoch::new(0), Sequence::new(40));
/// builder.append(now, Some(b"key"), Some(b"value"), &[RecordHeader::new("trace", "1f")])?;
/// builder.append(now, Some(b"key"), None, &[])?; // a tombstone
/// assert_eq!(builder.len(), 2);
///
/// let expected_bytes = builder.uncompressed_bytes();
/// let batch = RecordBatch::from_bytes(builder.build()?)?;
/// assert_eq!(batch.bytes().len(), expected_bytes);
/// assert_eq!(batch.header().last_sequence(), Sequence::new(41));
/// # Ok::<(), logweir_proto::record::BatchError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// Room for the header, then the records, uncompressed.
    buffer: Vec<u8>,
    compression: Compression,
    transactional: bool,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: Sequence,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    record_count: i32,
}

impl BatchBuilder {
    /// An empty batch without a producer.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self::with_capacity(compression, 0)
    }

    /// An empty batch with room for `records_bytes` of records before its buffer grows.
    #[must_use]
    pub fn with_capacity(compression: Compression, records_bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(HEADER_LEN.saturating_add(records_bytes));
        buffer.resize(HEADER_LEN, 0);
        Self {
            buffer,
            compression,
            transactional: false,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: Sequence::NONE,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
            record_count: 0,
        }
    }

    /// Makes it a batch of an idempotent producer; `base_sequence` is the first record's.
    pub fn producer(
        &mut self,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        base_sequence: Sequence,
    ) -> &mut Self {
        self.producer_id = producer_id;
        self.producer_epoch = producer_epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// Makes it part of its producer's transaction, or not.
    pub fn transactional(&mut self, transactional: bool) -> &mut Self {
        self.transactional = transactional;
        self
    }

    /// Adds a record. A `None` key is not an empty key; a `None` value is a tombstone.
    ///
    /// # Errors
    /// [`BatchError::HeaderNotUtf8`], and [`BatchError::TooLarge`] if the record or the uncompressed batch would pass
    /// `i32::MAX` bytes. The batch is then as it was.
    pub fn append(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader],
    ) -> Result<(), BatchError> {
        for (index, header) in headers.iter().enumerate() {
            if std::str::from_utf8(&header.key).is_err() {
                return Err(BatchError::HeaderNotUtf8 { index });
            }
        }
        let timestamp_delta = self.timestamp_delta(timestamp);
        let record_len = record_len(timestamp_delta, self.record_count, key, value, headers)
            .ok_or(BatchError::TooLarge { what: "the record" })?;
        let next_count = self.record_count.checked_add(1);
        let whole_len = self.buffer.len() + len_with_prefix(record_len);
        let (Some(next_count), true) = (next_count, fits(whole_len)) else {
            return Err(BatchError::TooLarge {
                what: "the batch with this record",
            });
        };
        if self.record_count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);

        let out = &mut self.buffer;
        out.reserve(len_with_prefix(record_len));
        varint::write_i32(out, record_len);
        out.push(0); // attributes
        varint::write_i64(out, timestamp_delta);
        varint::write_i32(out, self.record_count);
        write_nullable(out, key);
        write_nullable(out, value);
        varint::write_i32(out, length(headers.len()));
        for header in headers {
            write_nullable(out, Some(&header.key));
            write_nullable(out, header.value.as_deref());
        }
        debug_assert_eq!(
            out.len(),
            whole_len,
            "the size told before is the size written"
        );
        self.record_count = next_count;
        Ok(())
    }

    /// How many records were added.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.record_count).expect("the count starts at 0 and grows")
    }

    /// Whether no record was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// The compression the batch will have.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The exact size of the batch in bytes, header included, if it were built without compression.
    #[must_use]
    pub fn uncompressed_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// What [`BatchBuilder::uncompressed_bytes`] would be after adding this record; `usize::MAX` if it is
    /// more than a batch can hold.
    #[must_use]
    pub fn uncompressed_bytes_with(
        &self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader],
    ) -> usize {
        let delta = self.timestamp_delta(timestamp);
        record_len(delta, self.record_count, key, value, headers)
            .map_or(usize::MAX, |len| self.buffer.len() + len_with_prefix(len))
    }

    /// Compresses the records, writes the header and returns the whole batch: base offset 0, leader epoch -1.
    ///
    /// # Errors
    /// [`BatchError::NoRecords`]; [`BatchError::Compress`]; [`BatchError::TooLarge`] if compression made the batch
    /// larger than `i32::MAX` bytes.
    pub fn build(self) -> Result<Bytes, BatchError> {
        if self.is_empty() {
            return Err(BatchError::NoRecords);
        }
        let mut batch = match self.compression {
            Compression::None => self.buffer,
            compression => compression::compress(compression, &self.buffer, HEADER_LEN)?,
        };
        if !fits(batch.len()) {
            return Err(BatchError::TooLarge {
                what: "the compressed batch",
            });
        }
        let mut attributes = i16::from(self.compression.bits());
        if self.transactional {
            attributes |= Attributes::TRANSACTIONAL;
        }
        let batch_length = length(batch.len() - PREFIX_LEN);
        // The base offset is zero already.
        put(&mut batch, LENGTH_AT, batch_length.to_be_bytes());
        put(
            &mut batch,
            LEADER_EPOCH_AT,
            LeaderEpoch::NONE.get().to_be_bytes(),
        );
        put(&mut batch, MAGIC_AT, MAGIC.to_be_bytes());
        put(&mut batch, ATTRIBUTES_AT, attributes.to_be_bytes());
        put(
            &mut batch,
            LAST_OFFSET_DELTA_AT,
            (self.record_count - 1).to_be_bytes(),
        );
        put(
            &mut batch,
            BASE_TIMESTAMP_AT,
            self.base_timestamp.get().to_be_bytes(),
        );
        put(
            &mut batch,
            MAX_TIMESTAMP_AT,
            self.max_timestamp.get().to_be_bytes(),
        );
        put(
            &mut batch,
            PRODUCER_ID_AT,
            self.producer_id.get().to_be_bytes(),
        );
        put(
            &mut batch,
            PRODUCER_EPOCH_AT,
            self.producer_epoch.get().to_be_bytes(),
        );
        put(
            &mut batch,
            BASE_SEQUENCE_AT,
            self.base_sequence.get().to_be_bytes(),
        );
        put(&mut batch, RECORD_COUNT_AT, self.record_count.to_be_bytes());
        renew_crc(&mut batch);
        Ok(batch.into())
    }

    fn timestamp_delta(&self, timestamp: Timestamp) -> i64 {
        if self.is_empty() {
            return 0;
        }
        // Wraps like the sum that undoes it.
        timestamp.get().wrapping_sub(self.base_timestamp.get())
    }
}

/// The length of a record after its length field; `None` above `i32::MAX`.
fn record_len(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[RecordHeader],
) -> Option<i32> {
    let mut len = 1 + varint::len_i64(timestamp_delta) + varint::len_i32(offset_delta);
    len = len
        .checked_add(nullable_len(key)?)?
        .checked_add(nullable_len(value)?)?;
    len = len.checked_add(varint::len_i32(i32::try_from(headers.len()).ok()?))?;
    for header in headers {
        len = len.checked_add(nullable_len(Some(&header.key))?)?;
        len = len.checked_add(nullable_len(header.value.as_deref())?)?;
    }
    i32::try_from(len).ok()
}

fn nullable_len(bytes: Option<&[u8]>) -> Option<usize> {
    let Some(bytes) = bytes else {
        return Some(varint::len_i32(-1));
    };
    Some(varint::len_i32(i32::try_from(bytes.len()).ok()?) + bytes.len())
}

fn write_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::write_i32(out, -1),
        Some(bytes) => {
            varint::write_i32(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

/// The size of a record with its length field.
fn len_with_prefix(record_len: i32) -> usize {
    varint::len_i32(record_len)
        + usize::try_from(record_len).expect("a record's length is positive")
}

fn fits(batch_len: usize) -> bool {
    i32::try_from(batch_len).is_ok()
}

fn length(len: usize) -> i32 {
    i32::try_from(len).expect("sizes are checked before they are written")
}
