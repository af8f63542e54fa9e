//! A decision about a KIP-848 group in the making: the records so far, and the group as it will be once they apply.
//!
//! The group is copied where the target assignment is made, which looks at all of it anyway. A member that merely comes
//! or goes costs no copy: joins of n members would copy n * n of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::Timestamp;

use super::group::{ConsumerGroup, Subscribed};
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
    /// As it was before the decision, with the first `applied` of the records.
    pub(super) group: Cow<'a, ConsumerGroup>,
    pub(super) records: Vec<GroupRecord>,
    applied: usize,
    /// With all records; `None` if they change nothing of it.
    subscribed: Option<Subscribed>,
    /// With all records.
    member_count: usize,
    /// With all records.
    pub(super) epoch: Epoch,
    /// Whether other members may have something to do now: a new target, or a partition that was let go of.
    pub(super) stirs_others: bool,
    /// The group goes on to another epoch.
    pub(super) has_moved: bool,
    /// The target assignment was made anew.
    pub(super) has_assigned: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(id: &GroupId, group: Cow<'a, ConsumerGroup>) -> Self {
        Self {
            id: Arc::clone(id),
            records: Vec::new(),
            applied: 0,
            subscribed: None,
            member_count: group.members.len(),
            epoch: group.epoch,
            stirs_others: false,
            has_moved: false,
            has_assigned: false,
            group,
        }
    }

    /// Applies the records so far to `group`.
    pub(super) fn apply(&mut self) {
        for record in &self.records[self.applied..] {
            self.group.to_mut().apply(record.clone());
        }
        self.applied = self.records.len();
    }

    /// What a member says of itself. `group` must know of it as it is: nothing else about it may be drafted and not applied.
    pub(super) fn put_member(&mut self, id: &MemberId, value: MemberValue) {
        let subscribed = self.subscribed.take();
        let mut subscribed = subscribed.unwrap_or_else(|| self.group.subscribed().clone());
        match self.group.members.get(id) {
            Some(before) => subscribed.remove(&before.value),
            None => self.member_count += 1,
        }
        subscribed.add(&value);
        self.subscribed = Some(subscribed);
        let (group, id) = (Arc::clone(&self.id), Arc::clone(id));
        self.records
            .push(GroupRecord::Member(group, id, Some(value)));
    }

    pub(super) fn put_target(&mut self, id: &MemberId, target: Assignment) {
        let (group, id) = (Arc::clone(&self.id), Arc::clone(id));
        self.records
            .push(GroupRecord::Target(group, id, Some(target)));
    }

    pub(super) fn put_current(&mut self, id: &MemberId, current: CurrentValue) {
        let (group, id) = (Arc::clone(&self.id), Arc::clone(id));
        self.records
            .push(GroupRecord::Current(group, id, Some(current)));
    }

    /// Takes a member out, with all that it has. `group` must know of it as it is.
    pub(super) fn remove(&mut self, id: &MemberId) {
        if let Some(before) = self.group.members.get(id) {
            let subscribed = self.subscribed.take();
            let mut subscribed = subscribed.unwrap_or_else(|| self.group.subscribed().clone());
            subscribed.remove(&before.value);
            self.subscribed = Some(subscribed);
            self.member_count -= 1;
        }
        let names = || (Arc::clone(&self.id), Arc::clone(id));
        let ((group1, id1), (group2, id2), (group3, id3)) = (names(), names(), names());
        self.records.extend([
            GroupRecord::Current(group1, id1, None),
            GroupRecord::Target(group2, id2, None),
            GroupRecord::Member(group3, id3, None),
        ]);
        self.stirs_others = true;
    }

    /// What its members are subscribed to.
    pub(super) fn subscribed(&self) -> &Subscribed {
        match &self.subscribed {
            Some(changed) => changed,
            None => self.group.subscribed(),
        }
    }

    /// Moves the group to its next epoch: the target is to be made anew.
    pub(super) fn bump(&mut self, metadata_hash: i64, now: Timestamp) {
        let value = ConsumerGroupValue {
            epoch: self.epoch.next(),
            metadata_hash,
            empty_since: (self.member_count == 0).then_some(now),
        };
        self.epoch = value.epoch;
        self.has_moved = true;
        let group = Arc::clone(&self.id);
        self.records
            .push(GroupRecord::ConsumerGroup(group, Some(value)));
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
        self.apply();
        let group = &self.group;
        let mut subscribers = BTreeMap::new();
        for (id, member) in &group.members {
            let subscriber = Subscriber {
                instance_id: member.value.instance_id.clone(),
                topics: subscriptions
                    .of(&member.value.topic_names, member.value.topic_regex.as_ref()),
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
        let group = Arc::clone(&self.id);
        self.records
            .push(GroupRecord::TargetEpoch(group, Some(epoch)));
        self.apply();
        self.stirs_others = true;
        self.has_assigned = true;
    }

    /// The epoch that members are led to.
    pub(super) fn target_epoch(&self) -> Epoch {
        self.group.target_epoch
    }
}
