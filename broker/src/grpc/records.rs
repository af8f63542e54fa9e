//! Plain records of the contract, to and from record batches.

use std::collections::BTreeMap;

use bytes::Bytes;
use logweir_proto::grpc::v1;
use logweir_proto::partitioner::partition_for_key;
use logweir_proto::record::{self, BatchBuilder, Compression, RecordHeader};
use logweir_proto::{ErrorCode, Offset, PartitionId, Timestamp};

use crate::error::ApiError;

/// Bytes that one stored batch may unpack to before the reader is told to fetch it packed.
pub(super) const MAX_UNPACKED_BYTES: usize = 64 << 20;

/// The contract's compression.
pub(super) fn compression(raw: i32) -> Result<Compression, ApiError> {
    let known = v1::Compression::try_from(raw).map_err(|_| {
        ApiError::new(
            ErrorCode::UnsupportedCompressionType,
            format!("there is no compression {raw}"),
        )
    })?;
    Ok(match known {
        v1::Compression::None => Compression::None,
        v1::Compression::Gzip => Compression::Gzip,
        v1::Compression::Snappy => Compression::Snappy,
        v1::Compression::Lz4 => Compression::Lz4,
        v1::Compression::Zstd => Compression::Zstd,
    })
}

/// Builds one batch from records, in order.
///
/// # Errors
/// `INVALID_RECORD` if there is none, or they cannot be put in one batch.
pub(super) fn build_batch<'a>(
    records: impl IntoIterator<Item = &'a v1::Record>,
    compression: Compression,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let mut builder = BatchBuilder::new(compression);
    for record in records {
        let headers: Vec<RecordHeader> = record
            .headers
            .iter()
            .map(|header| RecordHeader {
                key: Bytes::copy_from_slice(header.key.as_bytes()),
                value: header.value.clone(),
            })
            .collect();
        let timestamp = record.timestamp_ms.map_or(now, Timestamp::new);
        builder.append(
            timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        )?;
    }
    if builder.is_empty() {
        return Err(ApiError::new(
            ErrorCode::InvalidRecord,
            "an append needs at least one record",
        ));
    }
    Ok(builder.build()?)
}

/// Which records go to which partition: by key as Kafka's default partitioner does, the rest to `keyless`.
pub(super) fn spread(
    records: &[v1::Record],
    partitions: i32,
    keyless: PartitionId,
) -> BTreeMap<PartitionId, Vec<u32>> {
    let mut spread: BTreeMap<PartitionId, Vec<u32>> = BTreeMap::new();
    for (index, record) in (0_u32..).zip(records) {
        let partition = record
            .key
            .as_ref()
            .map_or(keyless, |key| partition_for_key(key, partitions));
        spread.entry(partition).or_default().push(index);
    }
    spread
}

/// Unpacks whole batches into plain records from `from` on; control batches hold none.
///
/// # Errors
/// `CORRUPT_MESSAGE` if a stored batch cannot be read, or unpacks to more than the limit.
pub(super) fn unpack(batches: Bytes, from: Offset) -> Result<v1::RecordList, ApiError> {
    let mut list = v1::RecordList::default();
    for batch in record::batches(batches) {
        let batch = batch?;
        if batch.header().attributes.is_control() {
            continue;
        }
        for record in batch.records(MAX_UNPACKED_BYTES)? {
            let record = record?;
            if record.offset < from {
                continue;
            }
            list.records.push(v1::Record {
                key: record.key,
                value: record.value,
                headers: record.headers.into_iter().map(header).collect(),
                timestamp_ms: Some(record.timestamp.get()),
                offset: record.offset.get(),
            });
        }
    }
    Ok(list)
}

fn header(header: RecordHeader) -> v1::Header {
    // The contract's names are text; a foreign client's odd bytes are shown, not refused.
    let key = String::from_utf8_lossy(&header.key).into_owned();
    v1::Header {
        key,
        value: header.value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&str>, value: &str) -> v1::Record {
        v1::Record {
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: vec![v1::Header {
                key: "h".to_owned(),
                value: None,
            }],
            timestamp_ms: Some(7),
            offset: 0,
        }
    }

    #[test]
    fn records_come_back_from_a_batch_as_they_went_in() {
        for compression in [Compression::None, Compression::Zstd] {
            let records = [
                record(Some("a"), "1"),
                record(None, "2"),
                record(Some(""), "3"),
            ];
            let batch = build_batch(&records, compression, Timestamp::new(1)).expect("valid");
            let list = unpack(batch, Offset::new(1)).expect("valid");
            assert_eq!(list.records.len(), 2);
            assert_eq!(
                list.records[0],
                v1::Record {
                    offset: 1,
                    ..records[1].clone()
                }
            );
            assert_eq!(
                list.records[1],
                v1::Record {
                    offset: 2,
                    ..records[2].clone()
                }
            );
        }
    }

    #[test]
    fn records_are_spread_by_key_and_keep_their_order() {
        let records: Vec<_> = (0..50)
            .map(|i| record((i % 3 > 0).then_some(["a", "b"][i % 2]), ""))
            .collect();
        let spread = spread(&records, 4, PartitionId::new(2));
        let mut seen: Vec<u32> = spread.values().flatten().copied().collect();
        for indexes in spread.values() {
            assert!(indexes.is_sorted());
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
    }
}
