//! A KIP-848 group as records: Kafka's `ConsumerGroup…` keys 3 and 5 to 8, values of version 0, compact.
//!
//! ```text
//! 3  group                 epoch i32 | tag 0: metadata hash i64 | tag 10,000 (ours): empty since i64, ms
//! 5  group, member         instance id, rack id nullable | client id | client host | topic names list |
//!                          pattern nullable | rebalance timeout i32, ms | assignor nullable | tag 0: classic, skipped
//! 6  group                 target assignment's epoch i32 | tags
//! 7  group, member         target: list of (topic id | list of partition i32 | tags)
//! 8  group, member         epoch i32 | previous epoch i32 | state i8 (0 stable, 1 unrevoked partitions,
//!                          2 unreleased partitions) | assigned | pending revocation, lists as in 7
//! ```
//! Keys are an i16 type, then old strings. The hash takes the place of Kafka's older key 4, as in Kafka 4.1.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logweir_proto::{PartitionId, Timestamp};

use super::encoding::{DecodeError, Reader, Writer};
use super::{millis, span};
use crate::coordinator::groups::ids::{Assignment, Epoch, InstanceId};

/// The types of the keys.
pub(super) const GROUP_KEY: i16 = 3;
pub(super) const MEMBER_KEY: i16 = 5;
pub(super) const TARGET_EPOCH_KEY: i16 = 6;
pub(super) const TARGET_MEMBER_KEY: i16 = 7;
pub(super) const CURRENT_KEY: i16 = 8;

const METADATA_HASH_TAG: u32 = 0;
/// A tag of our own, far from those that Kafka may still give out.
const EMPTY_SINCE_TAG: u32 = 10_000;

/// The group itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerGroupValue {
    pub(crate) epoch: Epoch,
    /// Of the topics that the group is subscribed to, at this epoch: ids and numbers of partitions.
    pub(crate) metadata_hash: i64,
    /// When the last member left, by wall time; `None` while there are members. Offsets expire from then on.
    pub(crate) empty_since: Option<Timestamp>,
}

/// What a member said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemberValue {
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) rack_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) topic_names: BTreeSet<Arc<str>>,
    pub(crate) topic_regex: Option<Arc<str>>,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) server_assignor: Option<Arc<str>>,
}

/// How far a member is on its way to its target. The numbers are Kafka's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// It has what it can have at its epoch.
    #[default]
    Stable,
    /// It was told to let go of partitions and has not confirmed.
    UnrevokedPartitions,
    /// It waits for partitions that others have not let go of.
    UnreleasedPartitions,
}

/// What a member owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CurrentValue {
    /// The epoch that is expected in its next heartbeat; [`Epoch::LEAVE_STATIC`] while a static member is away.
    pub(crate) epoch: Epoch,
    /// The one before, which it may still send if the answer was lost.
    pub(crate) previous_epoch: Epoch,
    pub(crate) state: MemberState,
    /// What it may consume.
    pub(crate) assigned: Assignment,
    /// What it must let go of; nobody else gets it before it did.
    pub(crate) pending_revocation: Assignment,
}

fn begin() -> Writer {
    Writer::new(0, true)
}

/// Opens a value; there is one version.
fn open(value: &[u8]) -> Result<Reader<'_>, DecodeError> {
    let mut reader = Reader::new(value);
    if reader.i16()? != 0 {
        return Err(DecodeError(
            "a consumer group's value has an unknown version",
        ));
    }
    reader.flexible = true;
    Ok(reader)
}

fn close(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    reader.skip_tags()?;
    reader.end()
}

impl ConsumerGroupValue {
    pub(super) fn encode(&self) -> Bytes {
        let hash = self.metadata_hash.to_be_bytes().to_vec();
        let mut tags = vec![(METADATA_HASH_TAG, hash)];
        if let Some(since) = self.empty_since {
            tags.push((EMPTY_SINCE_TAG, since.get().to_be_bytes().to_vec()));
        }
        begin().i32(self.epoch.get()).tags(&tags).finish()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = open(value)?;
        let epoch = Epoch::new(reader.i32()?);
        let (mut metadata_hash, mut empty_since) = (0, None);
        reader.tags(|tag, field| {
            match tag {
                METADATA_HASH_TAG => metadata_hash = field.i64()?,
                EMPTY_SINCE_TAG => empty_since = Some(Timestamp::new(field.i64()?)),
                _ => {}
            }
            Ok(())
        })?;
        reader.end()?;
        Ok(Self {
            epoch,
            metadata_hash,
            empty_since,
        })
    }
}

impl MemberValue {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = begin();
        out.nullable_string(self.instance_id.as_deref())
            .nullable_string(self.rack_id.as_deref());
        out.string(&self.client_id).string(&self.client_host);
        out.count(self.topic_names.len());
        for name in &self.topic_names {
            out.string(name);
        }
        out.nullable_string(self.topic_regex.as_deref())
            .i32(millis(self.rebalance_timeout));
        out.nullable_string(self.server_assignor.as_deref())
            .tags(&[])
            .finish()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = open(value)?;
        let member = Self {
            instance_id: reader.nullable_string()?,
            rack_id: reader.nullable_string()?,
            client_id: reader.string()?,
            client_host: reader.string()?,
            topic_names: reader.list(Reader::string)?.into_iter().collect(),
            // Kafka writes an empty one where there is none.
            topic_regex: reader.nullable_string()?.filter(|p| !p.is_empty()),
            rebalance_timeout: span(reader.i32()?)?,
            server_assignor: reader.nullable_string()?,
        };
        close(&mut reader)?;
        Ok(member)
    }
}

impl MemberState {
    fn number(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
        }
    }
}

impl CurrentValue {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = begin();
        out.i32(self.epoch.get())
            .i32(self.previous_epoch.get())
            .i8(self.state.number());
        write_assignment(&mut out, &self.assigned);
        write_assignment(&mut out, &self.pending_revocation);
        out.tags(&[]).finish()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = open(value)?;
        let current = Self {
            epoch: Epoch::new(reader.i32()?),
            previous_epoch: Epoch::new(reader.i32()?),
            state: match reader.i8()? {
                0 => MemberState::Stable,
                1 => MemberState::UnrevokedPartitions,
                2 => MemberState::UnreleasedPartitions,
                _ => return Err(DecodeError("a member's state is unknown")),
            },
            assigned: read_assignment(&mut reader)?,
            pending_revocation: read_assignment(&mut reader)?,
        };
        close(&mut reader)?;
        Ok(current)
    }
}

pub(super) fn encode_target_epoch(epoch: Epoch) -> Bytes {
    begin().i32(epoch.get()).tags(&[]).finish()
}

pub(super) fn decode_target_epoch(value: &[u8]) -> Result<Epoch, DecodeError> {
    let mut reader = open(value)?;
    let epoch = Epoch::new(reader.i32()?);
    close(&mut reader)?;
    Ok(epoch)
}

pub(super) fn encode_target(target: &Assignment) -> Bytes {
    let mut out = begin();
    write_assignment(&mut out, target);
    out.tags(&[]).finish()
}

pub(super) fn decode_target(value: &[u8]) -> Result<Assignment, DecodeError> {
    let mut reader = open(value)?;
    let target = read_assignment(&mut reader)?;
    close(&mut reader)?;
    Ok(target)
}

fn write_assignment(out: &mut Writer, assignment: &Assignment) {
    out.count(assignment.topics().count());
    for (topic, partitions) in assignment.topics() {
        out.raw(&topic.get()).count(partitions.len());
        for partition in partitions {
            out.i32(partition.get());
        }
        out.tags(&[]);
    }
}

fn read_assignment(reader: &mut Reader<'_>) -> Result<Assignment, DecodeError> {
    let topics = reader.list(|reader| {
        let topic = reader.topic_id()?;
        let partitions = reader.list(Reader::i32)?;
        reader.skip_tags()?;
        Ok((topic, partitions))
    })?;
    let each = |(topic, partitions): (_, Vec<i32>)| {
        partitions
            .into_iter()
            .map(move |partition| (topic, PartitionId::new(partition)))
    };
    Ok(topics.into_iter().flat_map(each).collect())
}
