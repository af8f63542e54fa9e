//! Everything of groups that lasts: what the records of one `__consumer_offsets` partition say, and nothing else.
//!
//! [`State::apply`] is the only code that changes it. Equal records in an equal order give an equal state, and
//! [`State::records`] gives records that make an equal one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::{PartitionId, TopicId};

use super::consumer::group::ConsumerGroup;
use super::ids::GroupId;
use super::records::{ClassicValue, CommittedOffset, GroupRecord, OffsetKey};

/// Every group of the partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) groups: BTreeMap<GroupId, GroupState>,
    /// Records whose type is not known, kept so that whoever wrote them finds them again.
    foreign: BTreeMap<Bytes, Bytes>,
}

/// One group; it exists as long as it has a kind or an offset.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GroupState {
    pub(crate) kind: Option<Kind>,
    pub(crate) offsets: Offsets,
}

/// Committed offsets by topic and partition; no topic has an empty map.
pub(crate) type Offsets = BTreeMap<Arc<str>, BTreeMap<PartitionId, CommittedOffset>>;

/// A group has one kind at a time. A group without one was made by committing offsets from outside (a "simple" group).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Classic(ClassicValue),
    Consumer(ConsumerGroup),
}

impl State {
    pub(crate) fn consumer(&self, group: &str) -> Option<&ConsumerGroup> {
        match &self.groups.get(group)?.kind {
            Some(Kind::Consumer(consumer)) => Some(consumer),
            Some(Kind::Classic(_)) | None => None,
        }
    }

    pub(crate) fn classic(&self, group: &str) -> Option<&ClassicValue> {
        match &self.groups.get(group)?.kind {
            Some(Kind::Classic(classic)) => Some(classic),
            Some(Kind::Consumer(_)) | None => None,
        }
    }

    pub(crate) fn offsets(&self, group: &str) -> Option<&Offsets> {
        self.groups.get(group).map(|state| &state.offsets)
    }

    /// Applies one record.
    pub(crate) fn apply(&mut self, record: GroupRecord) {
        match record {
            GroupRecord::Offset(key, Some(offset)) => self.put_offset(key, offset),
            GroupRecord::Offset(key, None) => self.remove_offset(&key),
            GroupRecord::Classic(id, Some(value)) => {
                self.groups.entry(id).or_default().kind = Some(Kind::Classic(value));
            }
            GroupRecord::Classic(id, None) => {
                if self.classic(&id).is_some() {
                    self.end_kind(&id);
                }
            }
            GroupRecord::ConsumerGroup(id, None) => {
                if self.consumer(&id).is_some() {
                    self.end_kind(&id);
                }
            }
            GroupRecord::Foreign(key, Some(value)) => {
                self.foreign.insert(key, value);
            }
            GroupRecord::Foreign(key, None) => {
                self.foreign.remove(&key);
            }
            GroupRecord::Dropped => {}
            record => self.apply_to_consumer(record),
        }
    }

    fn put_offset(&mut self, key: OffsetKey, offset: CommittedOffset) {
        let OffsetKey {
            group_id,
            topic,
            partition,
        } = key;
        let group = self.groups.entry(group_id).or_default();
        group
            .offsets
            .entry(topic)
            .or_default()
            .insert(partition, offset);
    }

    fn remove_offset(&mut self, key: &OffsetKey) {
        let Some(group) = self.groups.get_mut(&key.group_id) else {
            return;
        };
        let Some(partitions) = group.offsets.get_mut(&key.topic) else {
            return;
        };
        partitions.remove(&key.partition);
        if partitions.is_empty() {
            group.offsets.remove(&key.topic);
        }
        self.drop_if_void(&key.group_id);
    }

    fn apply_to_consumer(&mut self, record: GroupRecord) {
        let (id, is_tombstone) = match &record {
            GroupRecord::ConsumerGroup(id, value) => (id, value.is_none()),
            GroupRecord::Member(id, _, value) => (id, value.is_none()),
            GroupRecord::TargetEpoch(id, value) => (id, value.is_none()),
            GroupRecord::Target(id, _, value) => (id, value.is_none()),
            GroupRecord::Current(id, _, value) => (id, value.is_none()),
            other => unreachable!("{other:?} is no record of a consumer group"),
        };
        // Compaction may keep the tombstones of a group longer than anything else of it.
        if is_tombstone && self.consumer(id).is_none() {
            return;
        }
        let kind = &mut self.groups.entry(Arc::clone(id)).or_default().kind;
        if let Some(Kind::Consumer(consumer)) = kind {
            consumer.apply(record);
        } else {
            let mut consumer = ConsumerGroup::default();
            consumer.apply(record);
            *kind = Some(Kind::Consumer(consumer));
        }
    }

    fn end_kind(&mut self, id: &str) {
        if let Some(group) = self.groups.get_mut(id) {
            group.kind = None;
        }
        self.drop_if_void(id);
    }

    fn drop_if_void(&mut self, id: &str) {
        if let Some(group) = self.groups.get(id)
            && group.kind.is_none()
            && group.offsets.is_empty()
        {
            self.groups.remove(id);
        }
    }

    /// The whole state as records.
    pub(crate) fn records(&self) -> Vec<GroupRecord> {
        let mut records = Vec::new();
        for (id, group) in &self.groups {
            match &group.kind {
                Some(Kind::Classic(value)) => {
                    records.push(GroupRecord::Classic(Arc::clone(id), Some(value.clone())));
                }
                Some(Kind::Consumer(consumer)) => consumer.records(id, &mut records),
                None => {}
            }
            records.extend(group.offsets.iter().flat_map(|(topic, partitions)| {
                partitions.iter().map(|(partition, offset)| {
                    GroupRecord::Offset(offset_key(id, topic, *partition), Some(offset.clone()))
                })
            }));
        }
        let foreign = self.foreign.iter();
        records.extend(foreign.map(|(k, v)| GroupRecord::Foreign(k.clone(), Some(v.clone()))));
        records
    }
}

impl GroupState {
    /// The offset of a partition, unless it belongs to an earlier topic of the same name.
    ///
    /// `topic_id` is that of the topic as it is now; [`TopicId::ZERO`] if it is not known.
    pub(crate) fn offset(
        &self,
        topic: &str,
        topic_id: TopicId,
        partition: PartitionId,
    ) -> Option<&CommittedOffset> {
        let offset = self.offsets.get(topic)?.get(&partition)?;
        let other = offset.topic_id != topic_id
            && offset.topic_id != TopicId::ZERO
            && topic_id != TopicId::ZERO;
        (!other).then_some(offset)
    }
}

/// Names an offset.
pub(crate) fn offset_key(group: &GroupId, topic: &Arc<str>, partition: PartitionId) -> OffsetKey {
    let (group_id, topic) = (Arc::clone(group), Arc::clone(topic));
    OffsetKey {
        group_id,
        topic,
        partition,
    }
}
