//! What a reader hands out.

use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::record::{Record, RecordHeader, TimestampType};
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp};

/// A record read. Key, value and headers are slices of the batch it came in, and keep it in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset.
    pub offset: Offset,
    /// The term of the leader that wrote it.
    pub leader_epoch: LeaderEpoch,
    /// Milliseconds since 1970-01-01 UTC.
    pub timestamp: Timestamp,
    /// The key; none is not the same as empty.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Application headers, in order.
    pub headers: Vec<RecordHeader>,
}

impl ConsumerRecord {
    pub(crate) fn new(
        topic: Arc<str>,
        partition: PartitionId,
        leader_epoch: LeaderEpoch,
        record: Record,
    ) -> Self {
        let Record {
            offset,
            timestamp,
            key,
            value,
            headers,
        } = record;
        Self {
            topic,
            partition,
            offset,
            leader_epoch,
            timestamp,
            key,
            value,
            headers,
        }
    }
}

/// The records of one batch that lie at or above the reader's position and below its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchedBatch {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The records in the order of their offsets; at least one.
    pub records: Vec<Record>,
    /// The term of the leader that wrote the batch.
    pub leader_epoch: LeaderEpoch,
    /// Who stamped the records.
    pub timestamp_type: TimestampType,
    /// The partition's high watermark when the batch was sent; the distance to it is the lag.
    pub high_watermark: Offset,
    /// Where reading goes on after this batch.
    pub next_offset: Offset,
    /// The size of the whole batch as it was received, in bytes.
    pub size_bytes: usize,
}

impl IntoIterator for FetchedBatch {
    type Item = ConsumerRecord;
    type IntoIter = Box<dyn Iterator<Item = ConsumerRecord> + Send>;

    fn into_iter(self) -> Self::IntoIter {
        let (topic, partition, epoch) = (self.topic, self.partition, self.leader_epoch);
        let named = move |record| ConsumerRecord::new(Arc::clone(&topic), partition, epoch, record);
        Box::new(self.records.into_iter().map(named))
    }
}
