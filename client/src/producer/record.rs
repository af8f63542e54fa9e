//! What goes in and what comes out: a record to send, and where it went.

use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::record::RecordHeader;
use logweir_proto::{Offset, PartitionId, Timestamp};

/// The most bytes a record takes beside its key, value and headers: attributes and seven varints.
const RECORD_OVERHEAD: usize = 1 + 5 + 10 + 5 + 5 + 5 + 5;
/// The most bytes a header takes beside its key and value: two varints.
const HEADER_OVERHEAD: usize = 5 + 5;

/// A record to send.
///
/// ```
/// use logweir_client::ProducerRecord;
/// use logweir_proto::PartitionId;
///
/// let by_key = ProducerRecord::new("orders").key("order-7").value("paid").header("trace", "4bf92f");
/// let tombstone = ProducerRecord::new("orders").key("order-7");
/// let chosen = ProducerRecord::new("orders").partition(PartitionId::new(3)).value("x");
/// # assert!(by_key.value.is_some() && tombstone.value.is_none() && chosen.partition.is_some());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerRecord {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition. If not given, records with a key go to `murmur2(key)` mod the partition count, as with Kafka's
    /// default partitioner, and records without a key stick to one partition for a batch's worth of bytes (KIP-794).
    pub partition: Option<PartitionId>,
    /// The key; none is not the same as empty.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Application headers, in order; a name may occur more than once.
    pub headers: Vec<RecordHeader>,
    /// Milliseconds since 1970-01-01 UTC; the time of sending if not given.
    pub timestamp: Option<Timestamp>,
}

impl ProducerRecord {
    /// A record for a topic, without key and value yet.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp: None,
        }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With this value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// To this partition.
    #[must_use]
    pub const fn partition(mut self, partition: PartitionId) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let key = Bytes::from(key.into());
        self.headers.push(RecordHeader {
            key,
            value: Some(value.into()),
        });
        self
    }

    /// With this timestamp.
    #[must_use]
    pub const fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// An upper bound of the bytes this record takes in a batch.
    pub(crate) fn size_bound(&self) -> usize {
        let data = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self
            .headers
            .iter()
            .map(|header| HEADER_OVERHEAD + header.key.len() + data(&header.value))
            .sum();
        RECORD_OVERHEAD + data(&self.key) + data(&self.value) + headers
    }
}

/// Where a record was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordMetadata {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset. None if the broker does not tell it: with [`Acks::None`](crate::Acks::None), or for a
    /// repetition of a batch that it has stored but whose offset it no longer remembers.
    pub offset: Option<Offset>,
    /// The record's timestamp: its own, or the broker's for topics with `message.timestamp.type=LogAppendTime`.
    pub timestamp: Timestamp,
}
