//! What is written to `__consumer_offsets`, in Kafka's formats: see the files below for their byte tables.
//!
//! A key begins with an i16 that tells its type, a value with an i16 that tells its version. Keys of types that are
//! not known here are kept as they are; those of types that Kafka has and that are of no use here (4: partition metadata,
//! 16: resolved patterns) are dropped.

mod classic;
mod consumer;
mod encoding;
mod offsets;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

pub(crate) use self::classic::{ClassicMemberValue, ClassicValue};
pub(crate) use self::consumer::{ConsumerGroupValue, CurrentValue, MemberState, MemberValue};
pub(crate) use self::encoding::DecodeError;
pub(crate) use self::offsets::{CommittedOffset, OffsetKey};

use self::encoding::{Reader, Writer};
use super::ids::{Assignment, Epoch, GroupId, MemberId};
use crate::coordinator::machine::StateRecord;

/// Kafka's keys that are of no use here: partition metadata, resolved patterns.
const DROPPED_KEYS: [i16; 2] = [4, 16];

/// A record of a group's state; a value of `None` is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupRecord {
    Offset(OffsetKey, Option<CommittedOffset>),
    Classic(GroupId, Option<ClassicValue>),
    ConsumerGroup(GroupId, Option<ConsumerGroupValue>),
    Member(GroupId, MemberId, Option<MemberValue>),
    TargetEpoch(GroupId, Option<Epoch>),
    Target(GroupId, MemberId, Option<Assignment>),
    Current(GroupId, MemberId, Option<CurrentValue>),
    /// Of a type that is not known here.
    Foreign(Bytes, Option<Bytes>),
    /// Of a type that is of no use here.
    Dropped,
}

impl GroupRecord {
    pub(crate) fn encode(&self) -> StateRecord {
        let (key, value) = match self {
            Self::Offset(key, value) => (key.encode(), value.as_ref().map(CommittedOffset::encode)),
            Self::Classic(group, value) => (
                group_key(classic::KEY, group),
                value.as_ref().map(ClassicValue::encode),
            ),
            Self::ConsumerGroup(group, value) => {
                let value = value.as_ref().map(ConsumerGroupValue::encode);
                (group_key(consumer::GROUP_KEY, group), value)
            }
            Self::Member(group, member, value) => {
                let value = value.as_ref().map(MemberValue::encode);
                (member_key(consumer::MEMBER_KEY, group, member), value)
            }
            Self::TargetEpoch(group, value) => {
                let value = value.map(consumer::encode_target_epoch);
                (group_key(consumer::TARGET_EPOCH_KEY, group), value)
            }
            Self::Target(group, member, value) => {
                let value = value.as_ref().map(consumer::encode_target);
                (
                    member_key(consumer::TARGET_MEMBER_KEY, group, member),
                    value,
                )
            }
            Self::Current(group, member, value) => {
                let value = value.as_ref().map(CurrentValue::encode);
                (member_key(consumer::CURRENT_KEY, group, member), value)
            }
            Self::Foreign(key, value) => (key.clone(), value.clone()),
            Self::Dropped => (group_key(DROPPED_KEYS[0], ""), None),
        };
        StateRecord { key, value }
    }

    pub(crate) fn decode(record: &StateRecord) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&record.key);
        let kind = reader.i16()?;
        let value = record.value.as_deref();
        let decoded = match kind {
            0 | offsets::KEY => {
                let key = OffsetKey::decode(&mut reader)?;
                Self::Offset(key, value.map(CommittedOffset::decode).transpose()?)
            }
            classic::KEY => Self::Classic(
                reader.string()?,
                value.map(ClassicValue::decode).transpose()?,
            ),
            consumer::GROUP_KEY => {
                let value = value.map(ConsumerGroupValue::decode).transpose()?;
                Self::ConsumerGroup(reader.string()?, value)
            }
            consumer::MEMBER_KEY => {
                let value = value.map(MemberValue::decode).transpose()?;
                Self::Member(reader.string()?, reader.string()?, value)
            }
            consumer::TARGET_EPOCH_KEY => {
                let value = value.map(consumer::decode_target_epoch).transpose()?;
                Self::TargetEpoch(reader.string()?, value)
            }
            consumer::TARGET_MEMBER_KEY => {
                let value = value.map(consumer::decode_target).transpose()?;
                Self::Target(reader.string()?, reader.string()?, value)
            }
            consumer::CURRENT_KEY => {
                let value = value.map(CurrentValue::decode).transpose()?;
                Self::Current(reader.string()?, reader.string()?, value)
            }
            kind if DROPPED_KEYS.contains(&kind) => return Ok(Self::Dropped),
            _ => return Ok(Self::Foreign(record.key.clone(), record.value.clone())),
        };
        reader.end()?;
        Ok(decoded)
    }
}

fn group_key(kind: i16, group: &str) -> Bytes {
    Writer::new(kind, false).string(group).finish()
}

fn member_key(kind: i16, group: &str, member: &str) -> Bytes {
    Writer::new(kind, false)
        .string(group)
        .string(member)
        .finish()
}

/// A span as Kafka writes it; the largest number if it does not fit.
fn millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}

/// A span that was written in milliseconds; -1 (none) is read as zero.
fn span(millis: i32) -> Result<Duration, DecodeError> {
    match u64::try_from(millis) {
        Ok(millis) => Ok(Duration::from_millis(millis)),
        Err(_) if millis == -1 => Ok(Duration::ZERO),
        Err(_) => Err(DecodeError("a time span is negative")),
    }
}
