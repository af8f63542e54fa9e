//! Plain records of the contract, to and from record batches.

use std::collections::BTreeMap;

use bytes::Bytes;
use logweir_proto::grpc::v1;
use logweir_proto::partitioner::partition_for_key;
use logweir_proto::record::{
    self, BatchBuilder, BatchError, Compression, Record, RecordBatch, RecordHeader,
};
use logweir_proto::{ErrorCode, Offset, PartitionId, Timestamp};
use prost::Message;

use crate::error::ApiError;

/// Bytes that one stored batch may unpack to before the reader is told to fetch it packed.
const MAX_UNPACKED_BYTES: usize = 64 << 20;
/// What a record takes in its list besides itself, at most.
const RECORD_PREFIX_BYTES: usize = 6;

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

/// Where plain records go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    At(PartitionId),
    /// By key over so many partitions, and those without a key to one of them.
    Spread {
        count: i32,
        keyless: PartitionId,
    },
}

/// Builds a batch for each partition that gets records; with their indexes where they were spread.
///
/// # Errors
/// `INVALID_RECORD` if there is none, or they cannot be put in one batch.
pub(super) fn pack(
    records: &[v1::Record],
    place: Place,
    compression: Compression,
    now: Timestamp,
) -> Result<Vec<(PartitionId, Bytes, Vec<u32>)>, ApiError> {
    let spread = match place {
        Place::Spread { count, keyless } if !records.is_empty() => spread(records, count, keyless),
        Place::At(partition)
        | Place::Spread {
            keyless: partition, ..
        } => {
            let batch = build_batch(records, compression, now)?;
            return Ok(vec![(partition, batch, Vec::new())]);
        }
    };
    let packed = spread.into_iter().map(|(partition, indexes)| {
        let part = indexes
            .iter()
            .filter_map(|index| records.get(*index as usize));
        Ok((partition, build_batch(part, compression, now)?, indexes))
    });
    packed.collect()
}

fn build_batch<'a>(
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
fn spread(
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

/// The bytes of a response that plain records may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    left: usize,
    whole: usize,
    taken: usize,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            left: bytes,
            whole: bytes,
            taken: 0,
        }
    }

    /// The bytes that were given out.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }
}

/// Plain records, and where to go on if not all fit.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) list: v1::RecordList,
    /// The first record that was left out; `None` if all are there.
    pub(super) rest: Option<Offset>,
}

/// Unpacks whole batches into plain records from `from` on, until the response has no room left; control
/// batches hold none. What lies before a batch that cannot be unpacked is given without it.
///
/// # Errors
/// `INVALID_RECORD` if the first batch cannot be unpacked, `MESSAGE_TOO_LARGE` if it unpacks to more than the limit or
/// its first record alone does not fit.
pub(super) fn unpack(batches: Bytes, from: Offset, room: &mut Room) -> Result<Unpacked, ApiError> {
    let mut unpacked = Unpacked::default();
    if room.left == 0 {
        unpacked.rest = Some(from);
        return Ok(unpacked);
    }
    for batch in record::batches(batches) {
        let batch = batch?;
        let header = *batch.header();
        if header.attributes.is_control() || header.next_offset() <= from {
            continue;
        }
        let start = unpacked.list.records.len();
        if let Err(error) = unpack_batch(&batch, from, room, &mut unpacked) {
            unpacked.list.records.truncate(start);
            if start == 0 {
                return Err(error);
            }
            unpacked.rest = Some(header.base_offset.max(from));
        }
        if unpacked.rest.is_some() {
            break;
        }
    }
    Ok(unpacked)
}

fn unpack_batch(
    batch: &RecordBatch,
    from: Offset,
    room: &mut Room,
    unpacked: &mut Unpacked,
) -> Result<(), ApiError> {
    let place = batch.header().base_offset;
    let told = |error: BatchError| {
        let error = ApiError::from(error);
        ApiError {
            message: format!("the batch at offset {place}: {}", error.message),
            ..error
        }
        .hint("fetch it as batches, or go on at the offset after it")
    };
    for record in batch.records(MAX_UNPACKED_BYTES).map_err(told)? {
        let record = record.map_err(told)?;
        if record.offset < from {
            continue;
        }
        let offset = record.offset;
        let plain = plain(record);
        let size = plain.encoded_len() + RECORD_PREFIX_BYTES;
        if size > room.left {
            // Nothing more is unpacked only to find that it does not fit.
            room.left = 0;
            if size > room.whole {
                return Err(told(BatchError::TooLarge {
                    what: "a record for one response",
                }));
            }
            unpacked.rest = Some(offset);
            return Ok(());
        }
        room.left -= size;
        room.taken += size;
        unpacked.list.records.push(plain);
    }
    Ok(())
}

fn plain(record: Record) -> v1::Record {
    v1::Record {
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(header).collect(),
        timestamp_ms: Some(record.timestamp.get()),
        offset: record.offset.get(),
    }
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
            let list = unpack(batch, Offset::new(1), &mut Room::new(1_000))
                .expect("valid")
                .list;
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
    fn a_response_that_is_full_tells_where_to_go_on() {
        let records: Vec<_> = (0..10).map(|_| record(None, &"x".repeat(100))).collect();
        let batch = build_batch(&records, Compression::Zstd, Timestamp::new(1)).expect("valid");
        let mut from = Offset::ZERO;
        let mut offsets = Vec::new();
        loop {
            let unpacked = unpack(batch.clone(), from, &mut Room::new(400)).expect("some fit");
            offsets.extend(unpacked.list.records.iter().map(|record| record.offset));
            let Some(rest) = unpacked.rest else { break };
            assert!(rest > from, "no progress");
            from = rest;
        }
        assert_eq!(offsets, (0..10).collect::<Vec<_>>());
        let error = unpack(batch, Offset::ZERO, &mut Room::new(50)).expect_err("not even one fits");
        assert_eq!(error.code, ErrorCode::MessageTooLarge);
    }

    #[test]
    fn a_batch_that_cannot_be_unpacked_is_named_after_what_lies_before_it_was_given() {
        let good = build_batch(&[record(None, "v")], Compression::None, Timestamp::new(1));
        let bad = build_batch(&[record(None, "v")], Compression::Gzip, Timestamp::new(1));
        let mut bad = bad.expect("valid").to_vec();
        let body = bad.len() - 6;
        bad[body] ^= 0xff;
        record::set_base_offset(&mut bad, Offset::new(1));
        let both = Bytes::from([good.expect("valid").to_vec(), bad.clone()].concat());
        let unpacked =
            unpack(both.clone(), Offset::ZERO, &mut Room::new(1_000)).expect("the first is good");
        assert_eq!(
            (unpacked.list.records.len(), unpacked.rest),
            (1, Some(Offset::new(1)))
        );
        let error = unpack(both, Offset::new(1), &mut Room::new(1_000)).expect_err("damaged");
        assert!(error.message.contains("offset 1"), "{error}");
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

    #[test]
    fn each_partition_gets_a_batch_of_its_records_and_no_records_are_refused() {
        let place = Place::Spread {
            count: 4,
            keyless: PartitionId::new(2),
        };
        let now = Timestamp::new(1);
        let records = [record(None, "1"), record(Some("a"), "2"), record(None, "3")];
        let packed = pack(&records, place, Compression::None, now).expect("valid");
        for (_, batch, indexes) in packed {
            let room = &mut Room::new(1_000);
            let list = unpack(batch, Offset::ZERO, room).expect("valid").list;
            let values = list.records.iter().map(|record| &record.value);
            assert!(values.eq(indexes.iter().map(|index| &records[*index as usize].value)));
        }
        for place in [place, Place::At(PartitionId::new(0))] {
            let error = pack(&[], place, Compression::None, now).expect_err("nothing");
            assert_eq!(error.code, ErrorCode::InvalidRecord);
        }
    }
}
