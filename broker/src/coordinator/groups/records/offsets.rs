//! Committed offsets as records: Kafka's `OffsetCommitKey` and `OffsetCommitValue`.
//!
//! ```text
//! key    i16 0 or 1 (written: 1) | group string | topic string | partition i32
//! value  i16 version
//!        0, 1   offset i64 | metadata string | commit timestamp i64 | version 1: expire timestamp i64
//!        2      offset i64 | metadata string | commit timestamp i64
//!        3      offset i64 | leader epoch i32 | metadata string | commit timestamp i64
//!        4      as 3, compact, then tagged fields; tag 0: topic id, 16 bytes
//! ```
//! Written is 1 where an expire time was asked for, else 4 where the topic's id is known, else 3, which
//! Kafka wrote up to 4.0. Kafka 4.1 writes 4 there, too, without the tag.

use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};

use super::encoding::{DecodeError, Reader, Writer};
use crate::coordinator::groups::ids::GroupId;

/// The type of an offset's key.
pub(super) const KEY: i16 = 1;
/// The tag of the topic's id in a value of version 4.
const TOPIC_ID_TAG: u32 = 0;

/// Which offset is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OffsetKey {
    pub(crate) group_id: GroupId,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: PartitionId,
}

/// An offset that a group committed for a partition: the next record it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    pub(crate) offset: Offset,
    /// Of the last record consumed; [`LeaderEpoch::NONE`] if the committer did not say.
    pub(crate) leader_epoch: LeaderEpoch,
    /// What the committer wants to remember.
    pub(crate) metadata: Arc<str>,
    /// When it was committed, by wall time.
    pub(crate) committed_at: Timestamp,
    /// When it expires, if the committer said so (old clients).
    pub(crate) expires_at: Option<Timestamp>,
    /// The topic's id when it was committed; [`TopicId::ZERO`] if it was not known.
    pub(crate) topic_id: TopicId,
}

impl OffsetKey {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer::new(KEY, false);
        out.string(&self.group_id).string(&self.topic);
        out.i32(self.partition.get()).finish()
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            group_id: reader.string()?,
            topic: reader.string()?,
            partition: PartitionId::new(reader.i32()?),
        })
    }
}

impl CommittedOffset {
    pub(super) fn encode(&self) -> Bytes {
        let version = match self.expires_at {
            Some(_) => 1,
            None if self.topic_id == TopicId::ZERO => 3,
            None => 4,
        };
        let mut out = Writer::new(version, version >= 4);
        out.i64(self.offset.get());
        if version >= 3 {
            out.i32(self.leader_epoch.get());
        }
        out.string(&self.metadata).i64(self.committed_at.get());
        if let Some(at) = self.expires_at {
            out.i64(at.get());
        }
        out.tags(&[(TOPIC_ID_TAG, self.topic_id.get().to_vec())])
            .finish()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let version = reader.i16()?;
        if !(0..=4).contains(&version) {
            return Err(DecodeError("an offset's value has an unknown version"));
        }
        reader.flexible = version >= 4;
        let offset = Offset::new(reader.i64()?);
        let leader_epoch = match version {
            3.. => LeaderEpoch::new(reader.i32()?),
            _ => LeaderEpoch::NONE,
        };
        let metadata = reader.string()?;
        let committed_at = Timestamp::new(reader.i64()?);
        let expires_at = match version {
            1 => Some(Timestamp::new(reader.i64()?)).filter(|at| *at != Timestamp::NONE),
            _ => None,
        };
        let mut topic_id = TopicId::ZERO;
        reader.tags(|tag, field| {
            if tag == TOPIC_ID_TAG {
                topic_id = field.topic_id()?;
            }
            Ok(())
        })?;
        reader.end()?;
        Ok(Self {
            offset,
            leader_epoch,
            metadata,
            committed_at,
            expires_at,
            topic_id,
        })
    }
}
