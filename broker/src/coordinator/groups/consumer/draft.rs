//! A decision about a KIP-848 group in the making: the records so far, and the group as it will be once they apply.
//!
//! The group is copied when the first record is drafted, and not at all by a heartbeat that changes nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::Timestamp;

use super::group::ConsumerGroup;
use super::subscription::Subscriptions;
use crate::coordinator::groups::assignors::{Assignor, Subscriber};
use crate::coordinator::groups::ids::{Assignment, Epoch, GroupId, MemberId};
use crate::coordinator::groups::records::{
    ConsumerGroupValue, CurrentValue, GroupRecord, MemberValue,
};

/// The draft.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) id: GroupId,
    pub(super) group: Cow<'a, ConsumerGroup>,
    pub(super) records: Vec<GroupRecord>,
    /// Whether other members may have something to do now: a new target, or a partition that was let go of.
    pub(super) stirs_others: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(id: &GroupId, group: Cow<'a, ConsumerGroup>) -> Self {
        Self {
            id: Arc::clone(id),
            group,
            records: Vec::new(),
            stirs_others: false,
        }
    }

    fn write(&mut self, record: GroupRecord) {
        self.group.to_mut().apply(record.clone());
        self.records.push(record);
    }

    pub(super) fn put_member(&mut self, id: &MemberId, value: MemberValue) {
        self.write(GroupRecord::Member(
            Arc::clone(&self.id),
            Arc::clone(id),
            Some(value),
        ));
    }

    pub(super) fn put_target(&mut self, id: &MemberId, target: Assignment) {
        self.write(GroupRecord::Target(
            Arc::clone(&self.id),
            Arc::clone(id),
            Some(target),
        ));
    }

    pub(super) fn put_current(&mut self, id: &MemberId, current: CurrentValue) {
        self.write(GroupRecord::Current(
            Arc::clone(&self.id),
            Arc::clone(id),
            Some(current),
        ));
    }

    /// The last record of a draft is not applied to it: nobody will look, and most drafts have no other.
    pub(super) fn put_current_last(&mut self, id: &MemberId, current: CurrentValue) {
        let (group, id) = (Arc::clone(&self.id), Arc::clone(id));
        self.records
            .push(GroupRecord::Current(group, id, Some(current)));
    }

    /// Takes a member out, with all that it has.
    pub(super) fn remove(&mut self, id: &MemberId) {
        let names = || (Arc::clone(&self.id), Arc::clone(id));
        let ((group1, id1), (group2, id2), (group3, id3)) = (names(), names(), names());
        self.write(GroupRecord::Current(group1, id1, None));
        self.write(GroupRecord::Target(group2, id2, None));
        self.write(GroupRecord::Member(group3, id3, None));
        self.stirs_others = true;
    }

    /// Moves the group to its next epoch: the target is to be made anew.
    pub(super) fn bump(&mut self, metadata_hash: i64, now: Timestamp) {
        let value = ConsumerGroupValue {
            epoch: self.group.epoch.next(),
            metadata_hash,
            empty_since: self.group.members.is_empty().then_some(now),
        };
        self.write(GroupRecord::ConsumerGroup(
            Arc::clone(&self.id),
            Some(value),
        ));
        self.stirs_others = true;
    }

    /// The assignor that most members ask for; of equals the first, and the default if nobody asks.
    pub(super) fn assignor(group: &ConsumerGroup) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        let asked = group
            .members
            .values()
            .filter_map(|m| m.value.server_assignor.as_deref());
        for assignor in asked.filter_map(Assignor::from_name) {
            *votes.entry(assignor).or_default() += 1;
        }
        let most = votes.into_iter().rev().max_by_key(|(_, votes)| *votes);
        most.map_or_else(Assignor::default, |(assignor, _)| assignor)
    }

    /// Makes the target assignment of the group's epoch, and writes what changed.
    pub(super) fn retarget(&mut self, subscriptions: &mut Subscriptions<'_>) {
        let group = &self.group;
        let mut subscribers = BTreeMap::new();
        for (id, member) in &group.members {
            let subscriber = Subscriber {
                instance_id: member.value.instance_id.clone(),
                topics: subscriptions.of(&member.value),
                target: group.targets.get(id).cloned().unwrap_or_default(),
            };
            subscribers.insert(Arc::clone(id), subscriber);
        }
        let assigned = Self::assignor(group).assign(&subscribers);
        let epoch = group.epoch;
        for (id, target) in assigned {
            if *subscribers[&id].target != target {
                self.put_target(&id, target);
            }
        }
        self.write(GroupRecord::TargetEpoch(Arc::clone(&self.id), Some(epoch)));
        self.stirs_others = true;
    }

    /// The epoch that members are led to.
    pub(super) fn target_epoch(&self) -> Epoch {
        self.group.target_epoch
    }
}
