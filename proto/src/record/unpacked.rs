//! Taking records out of a batch, as compaction does.
//!
//! Base offset, last offset, leader epoch, producer and the order of what stays are untouched, so that nothing moves.
//! Records are copied byte for byte; only the delete horizon (KIP-534) changes what their timestamps are relative to.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    batch::renew_crc,
    compression,
    error::BatchError,
    header::{
        ATTRIBUTES_AT, Attributes, BASE_TIMESTAMP_AT, BatchHeader, Compression, HEADER_LEN,
        LENGTH_AT, MAX_TIMESTAMP_AT, PREFIX_LEN, RECORD_COUNT_AT, TimestampType, put,
    },
    records::{Layout, Walk},
    varint,
};
use crate::{
    ids::{Offset, Timestamp},
    record::RecordBatch,
};

/// What compaction looks at of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedRecord<'a> {
    /// The record's offset in its partition.
    pub offset: Offset,
    /// The key; `None` is not the same as empty.
    pub key: Option<&'a [u8]>,
    /// It has no value: it deletes its key.
    pub is_tombstone: bool,
}

/// A batch out of a log whose body was unpacked, so that records can be taken out of it.
///
/// ```
/// use std::ops::ControlFlow;
/// use logweir_proto::{Offset, Timestamp, record::{BatchBuilder, Compression, RecordBatch, UnpackedBatch}};
///
/// let mut builder = BatchBuilder::new(Compression::Lz4);
/// builder.append(Timestamp::new(5), Some(b"k"), Some(b"old"), &[])?;
/// builder.append(Timestamp::new(6), Some(b"k"), Some(b"new"), &[])?;
/// let batch = RecordBatch::from_bytes(builder.build()?)?;
///
/// let unpacked = UnpackedBatch::open(&batch, 1 << 20)?;
/// let kept = RecordBatch::from_bytes(unpacked.retain(None, |record| record.offset > Offset::ZERO)?)?;
/// assert_eq!(kept.header().next_offset(), batch.header().next_offset());
/// assert_eq!(kept.records(1 << 20)?.count(), 1);
/// # Ok::<(), logweir_proto::record::BatchError>(())
/// ```
#[derive(Clone, Debug)]
pub struct UnpackedBatch {
    header: BatchHeader,
    bytes: Bytes,
    body: Bytes,
}

impl UnpackedBatch {
    /// Unpacks a batch, a compressed one into at most `max_decompressed_bytes`. The CRC is not checked, nor are the
    /// records yet.
    ///
    /// # Errors
    /// [`BatchError::Decompress`] and [`BatchError::DecompressedTooLarge`].
    pub fn open(batch: &RecordBatch, max_decompressed_bytes: usize) -> Result<Self, BatchError> {
        let (header, bytes) = (*batch.header(), batch.bytes().clone());
        let body = bytes.slice(HEADER_LEN..);
        let body = match header.attributes.compression() {
            Compression::None => body,
            compression => {
                compression::decompress(compression, &body, max_decompressed_bytes)?.into()
            }
        };
        Ok(Self {
            header,
            bytes,
            body,
        })
    }

    /// Shows the records in order, until `look` has seen enough.
    ///
    /// # Errors
    /// A record that is malformed, or bytes after the last; what lies before it was shown.
    pub fn visit(
        &self,
        mut look: impl FnMut(&KeyedRecord<'_>) -> ControlFlow<()>,
    ) -> Result<(), BatchError> {
        let mut walk = Walk::new(&self.header);
        while let Some(layout) = walk.next(&self.body) {
            if look(&self.record(&layout?)).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The batch with those records only that `keep` says; compressed as it was. With none left it is
    /// [`without_records`]. The largest timestamp is that of what is kept, unless the broker stamped the batch.
    ///
    /// `delete_horizon` is noted, as KIP-534 has it, in an attribute bit and the base timestamp, and tells when
    /// tombstones may go; a batch that has one keeps its own.
    ///
    /// # Errors
    /// A record that is malformed; [`BatchError::Compress`]; [`BatchError::TooLarge`] if the batch grew beyond
    /// `i32::MAX` bytes.
    pub fn retain(
        &self,
        delete_horizon: Option<Timestamp>,
        mut keep: impl FnMut(&KeyedRecord<'_>) -> bool,
    ) -> Result<Bytes, BatchError> {
        let header = &self.header;
        let horizon = delete_horizon.filter(|_| !header.attributes.has_delete_horizon());
        let base = horizon.unwrap_or(header.base_timestamp);
        let mut out = Vec::with_capacity(HEADER_LEN + self.body.len());
        out.extend_from_slice(&self.bytes[..HEADER_LEN]);
        let (mut count, mut max_timestamp) = (0_i32, Timestamp::NONE);
        let mut walk = Walk::new(header);
        let mut start = 0;
        while let Some(layout) = walk.next(&self.body) {
            let layout = layout?;
            let whole = start..walk.at;
            start = walk.at;
            if !keep(&self.record(&layout)) {
                continue;
            }
            let timestamp = self.timestamp(&layout);
            match horizon {
                None => out.extend_from_slice(&self.body[whole]),
                Some(_) => {
                    let delta = timestamp.get().wrapping_sub(base.get());
                    rewrite(
                        &mut out,
                        delta,
                        &self.body[layout.after_timestamp..whole.end],
                    )?;
                }
            }
            max_timestamp = if count == 0 {
                timestamp
            } else {
                max_timestamp.max(timestamp)
            };
            count += 1;
        }
        if count == 0 {
            return Ok(without_records(&self.bytes));
        }
        self.seal(out, count, max_timestamp, base, horizon.is_some())
    }

    /// Packs the records after the header in `out`, and puts the header right.
    fn seal(
        &self,
        out: Vec<u8>,
        count: i32,
        max_timestamp: Timestamp,
        base: Timestamp,
        has_horizon: bool,
    ) -> Result<Bytes, BatchError> {
        let attributes = self.header.attributes;
        let mut batch = match attributes.compression() {
            Compression::None => out,
            compression => {
                let mut packed = compression::compress(compression, &out, HEADER_LEN)?;
                packed[..HEADER_LEN].copy_from_slice(&out[..HEADER_LEN]);
                packed
            }
        };
        let length = i32::try_from(batch.len())
            .map_err(|_| BatchError::TooLarge { what: "the batch" })?
            - PREFIX;
        put(&mut batch, LENGTH_AT, length.to_be_bytes());
        let mut bits = attributes.bits();
        if has_horizon {
            bits |= Attributes::DELETE_HORIZON;
        }
        put(&mut batch, ATTRIBUTES_AT, bits.to_be_bytes());
        put(&mut batch, BASE_TIMESTAMP_AT, base.get().to_be_bytes());
        if attributes.timestamp_type() == TimestampType::CreateTime {
            put(
                &mut batch,
                MAX_TIMESTAMP_AT,
                max_timestamp.get().to_be_bytes(),
            );
        }
        put(&mut batch, RECORD_COUNT_AT, count.to_be_bytes());
        renew_crc(&mut batch);
        Ok(batch.into())
    }

    fn record(&self, layout: &Layout) -> KeyedRecord<'_> {
        KeyedRecord {
            offset: self.header.base_offset.plus(i64::from(layout.offset_delta)),
            key: layout.key.as_ref().map(|key| &self.body[key.clone()]),
            is_tombstone: layout.value.is_none(),
        }
    }

    /// As the producer sent it.
    fn timestamp(&self, layout: &Layout) -> Timestamp {
        let base = self.header.base_timestamp.get();
        Timestamp::new(base.wrapping_add(layout.timestamp_delta))
    }
}

const PREFIX: i32 = 12;
const _: () = assert!(PREFIX_LEN == 12);

/// Writes a record with another timestamp delta; `rest` is what follows that.
fn rewrite(out: &mut Vec<u8>, timestamp_delta: i64, rest: &[u8]) -> Result<(), BatchError> {
    let len = 1 + varint::len_i64(timestamp_delta) + rest.len();
    let len = i32::try_from(len).map_err(|_| BatchError::TooLarge { what: "the record" })?;
    varint::write_i32(out, len);
    out.push(0); // attributes
    varint::write_i64(out, timestamp_delta);
    out.extend_from_slice(rest);
    Ok(())
}

/// The batch without any record, as Kafka keeps it where only its offsets or its producer matter: not compressed, no
/// base timestamp, no delete horizon; the largest timestamp stays, of which nobody must make a record's.
///
/// # Panics
/// If `batch` is shorter than a header.
#[must_use]
pub fn without_records(batch: &[u8]) -> Bytes {
    let mut head = batch[..HEADER_LEN].to_vec();
    let [high, low] = (Attributes::COMPRESSION | Attributes::DELETE_HORIZON).to_be_bytes();
    head[ATTRIBUTES_AT] &= !high;
    head[ATTRIBUTES_AT + 1] &= !low;
    let length = i32::try_from(HEADER_LEN).expect("61") - PREFIX;
    put(&mut head, LENGTH_AT, length.to_be_bytes());
    put(
        &mut head,
        BASE_TIMESTAMP_AT,
        Timestamp::NONE.get().to_be_bytes(),
    );
    put(&mut head, RECORD_COUNT_AT, 0_i32.to_be_bytes());
    renew_crc(&mut head);
    head.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{
        BatchBuilder, RecordHeader, set_base_offset, set_log_append_time, set_producer,
    };
    use crate::{ProducerEpoch, ProducerId, Sequence};

    const LIMIT: usize = 1 << 20;

    /// Time, key and value.
    type Sent<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>);

    fn built(compression: Compression, records: &[Sent<'_>]) -> RecordBatch {
        let mut builder = BatchBuilder::new(compression);
        for (time, key, value) in records {
            let headers = [RecordHeader::new("h", "1")];
            builder
                .append(Timestamp::new(*time), *key, *value, &headers)
                .unwrap();
        }
        let mut bytes = builder.build().unwrap().to_vec();
        set_base_offset(&mut bytes, Offset::new(1000));
        set_producer(
            &mut bytes,
            ProducerId::new(7),
            ProducerEpoch::new(2),
            Sequence::new(40),
        );
        RecordBatch::from_bytes(bytes.into()).unwrap()
    }

    fn retained(batch: &RecordBatch, horizon: Option<i64>, mask: u64) -> RecordBatch {
        let unpacked = UnpackedBatch::open(batch, LIMIT).unwrap();
        let keep = |record: &KeyedRecord<'_>| {
            mask >> record.offset.since(batch.header().base_offset) & 1 == 1
        };
        let bytes = unpacked.retain(horizon.map(Timestamp::new), keep).unwrap();
        let kept = RecordBatch::from_bytes(bytes).unwrap();
        kept.verify_crc().unwrap();
        kept
    }

    proptest! {
        #[test]
        fn what_is_kept_is_as_it_was_whatever_the_compression_and_the_horizon(
            records in proptest::collection::vec((any::<i64>(), any::<bool>(), any::<bool>()), 1..20),
            mask in any::<u64>(),
            horizon in proptest::option::of(any::<i64>()),
            codec in 0_usize..5,
            stamped in any::<bool>(),
        ) {
            let records: Vec<_> = records
                .iter()
                .map(|&(time, key, value)| (time, key.then_some(&b"key"[..]), value.then_some(&b"value"[..])))
                .collect();
            let mut batch = built(Compression::ALL[codec], &records);
            if stamped {
                let mut bytes = batch.bytes().to_vec();
                set_log_append_time(&mut bytes, Timestamp::new(99));
                batch = RecordBatch::from_bytes(bytes.into()).unwrap();
            }
            let kept = retained(&batch, horizon, mask);
            let expected: Vec<_> = batch
                .records(LIMIT).unwrap().map(Result::unwrap)
                .filter(|record| mask >> (record.offset.get() - 1000) & 1 == 1)
                .collect();
            let found: Vec<_> = kept.records(LIMIT).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(&found, &expected);
            let (before, after) = (batch.header(), kept.header());
            prop_assert_eq!(before.base_offset, after.base_offset);
            prop_assert_eq!(before.next_offset(), after.next_offset());
            prop_assert_eq!(before.last_sequence(), after.last_sequence());
            prop_assert_eq!(before.producer_id, after.producer_id);
            prop_assert_eq!(before.producer_epoch, after.producer_epoch);
            prop_assert_eq!(before.leader_epoch, after.leader_epoch);
            prop_assert_eq!(before.attributes.timestamp_type(), after.attributes.timestamp_type());
            prop_assert_eq!(usize::try_from(after.record_count).unwrap(), found.len());
            if let Some(max) = found.iter().map(|record| record.timestamp).max() {
                prop_assert_eq!(after.max_timestamp, max);
                prop_assert_eq!(after.attributes.compression(), before.attributes.compression());
                prop_assert_eq!(after.attributes.has_delete_horizon(), horizon.is_some());
                if let Some(horizon) = horizon {
                    prop_assert_eq!(after.base_timestamp.get(), horizon);
                }
            }
        }
    }

    #[test]
    fn a_batch_keeps_the_delete_horizon_it_has() {
        let batch = built(
            Compression::Zstd,
            &[(5, Some(b"a"), None), (6, Some(b"b"), None)],
        );
        let first = retained(&batch, Some(1_000), 3);
        let second = retained(&first, Some(2_000), 1);
        assert!(second.header().attributes.has_delete_horizon());
        assert_eq!(second.header().base_timestamp.get(), 1_000);
        let times: Vec<_> = second
            .records(LIMIT)
            .unwrap()
            .map(|r| r.unwrap().timestamp.get())
            .collect();
        assert_eq!(times, [5]);
    }

    #[test]
    fn a_batch_without_records_is_a_header_that_can_be_read() {
        let batch = built(Compression::Gzip, &[(5, Some(b"a"), None)]);
        let empty = retained(&retained(&batch, Some(9), 1), None, 0);
        assert_eq!(empty.bytes().len(), HEADER_LEN);
        assert_eq!(empty.records(LIMIT).unwrap().count(), 0);
        assert_eq!(empty.header().next_offset(), Offset::new(1001));
        assert_eq!(empty.header().max_timestamp, Timestamp::new(5));
        assert!(!empty.header().attributes.has_delete_horizon());
        assert_eq!(retained(&empty, None, 0), empty);
    }

    #[test]
    fn a_record_without_a_key_is_named() {
        let batch = built(
            Compression::None,
            &[(5, Some(b""), None), (5, None, Some(b"v"))],
        );
        assert_eq!(batch.check_keys(), Err(BatchError::NoKey { index: 1 }));
        assert_eq!(
            built(Compression::None, &[(5, Some(b""), None)]).check_keys(),
            Ok(())
        );
        let packed = built(Compression::Snappy, &[(5, None, None)]);
        assert_eq!(
            packed.check_keys(),
            Ok(()),
            "compressed bodies are not opened"
        );
    }
}
