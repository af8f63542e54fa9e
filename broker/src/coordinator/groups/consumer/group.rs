//! A KIP-848 group as its records have it: members, the target assignment, and who owns what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use logweir_proto::{PartitionId, Timestamp, TopicId};

use crate::coordinator::groups::ids::{Assignment, Epoch, GroupId, InstanceId, MemberId};
use crate::coordinator::groups::records::{
    ConsumerGroupValue, CurrentValue, GroupRecord, MemberState, MemberValue,
};

/// A group. Members are shared, so that a draft of a decision is cheap.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ConsumerGroup {
    /// Grows whenever the target assignment has to be made anew.
    pub(crate) epoch: Epoch,
    pub(crate) metadata_hash: i64,
    pub(crate) empty_since: Option<Timestamp>,
    pub(crate) members: BTreeMap<MemberId, Arc<Member>>,
    /// The group epoch that the target assignment was made for.
    pub(crate) target_epoch: Epoch,
    /// What each member is to own in the end.
    pub(crate) targets: BTreeMap<MemberId, Arc<Assignment>>,
    /// Whether its own record exists; one of a member may come first in a compacted log.
    is_written: bool,
    /// Who has each partition, as assigned or not yet let go. Follows from `members`.
    owners: BTreeMap<(TopicId, PartitionId), MemberId>,
    /// Follows from `members`.
    instances: BTreeMap<InstanceId, MemberId>,
    /// Follows from `members`.
    subscribed: Subscribed,
}

/// A subscription as members say it: names of topics, and a pattern.
pub(crate) type Subscription = (BTreeSet<Arc<str>>, Option<Arc<str>>);

/// How many members want the same. Few groups have many entries, whatever their size.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Subscribed(BTreeMap<Subscription, usize>);

impl Subscribed {
    pub(crate) fn add(&mut self, member: &MemberValue) {
        let subscription = (member.topic_names.clone(), member.topic_regex.clone());
        *self.0.entry(subscription).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, member: &MemberValue) {
        let subscription = (member.topic_names.clone(), member.topic_regex.clone());
        if let Some(count) = self.0.get_mut(&subscription) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&subscription);
            }
        }
    }

    /// Each once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.0.keys()
    }
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Member {
    pub(crate) value: MemberValue,
    pub(crate) current: CurrentValue,
}

impl Member {
    /// Whether it has all of the target of `epoch`.
    pub(crate) fn is_reconciled_to(&self, epoch: Epoch) -> bool {
        self.current.state == MemberState::Stable && self.current.epoch == epoch
    }
}

impl ConsumerGroup {
    /// Who holds an instance id.
    pub(crate) fn instance(&self, instance: &str) -> Option<&MemberId> {
        self.instances.get(instance)
    }

    /// What its members are subscribed to.
    pub(crate) fn subscribed(&self) -> &Subscribed {
        &self.subscribed
    }

    /// Whether its target assignment is behind.
    pub(crate) fn owes_assignment(&self) -> bool {
        self.epoch > self.target_epoch
    }

    /// Who has a partition, or has not yet let go of it.
    pub(crate) fn owner(&self, topic: TopicId, partition: PartitionId) -> Option<&MemberId> {
        self.owners.get(&(topic, partition))
    }

    /// Kafka's name of its state.
    pub(crate) fn state(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.owes_assignment() {
            "Assigning"
        } else if self
            .members
            .values()
            .all(|m| m.is_reconciled_to(self.target_epoch))
        {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// Applies a record of this group.
    ///
    /// Compaction takes away what was overwritten later, so records may come before those that they build on: an
    /// assignment before its member, a new owner before the old one let go. What comes last holds.
    pub(crate) fn apply(&mut self, record: GroupRecord) {
        match record {
            GroupRecord::ConsumerGroup(_, Some(value)) => {
                let ConsumerGroupValue {
                    epoch,
                    metadata_hash,
                    empty_since,
                } = value;
                (self.epoch, self.metadata_hash) = (epoch, metadata_hash);
                self.empty_since = empty_since;
                self.is_written = true;
            }
            GroupRecord::Member(_, id, Some(value)) => self.put_member(id, value),
            GroupRecord::Member(_, id, None) => self.remove_member(&id),
            GroupRecord::TargetEpoch(_, epoch) => self.target_epoch = epoch.unwrap_or_default(),
            GroupRecord::Target(_, id, Some(target)) => {
                self.targets.insert(id, Arc::new(target));
            }
            GroupRecord::Target(_, id, None) => {
                self.targets.remove(&id);
            }
            GroupRecord::Current(_, id, Some(current)) => self.put_current(id, current),
            GroupRecord::Current(_, id, None) => {
                if self.members.contains_key(&id) {
                    let current = CurrentValue {
                        epoch: Epoch::LEAVE,
                        ..CurrentValue::default()
                    };
                    self.put_current(id, current);
                }
            }
            other => unreachable!("{other:?} is no record of a consumer group"),
        }
    }

    fn put_member(&mut self, id: MemberId, value: MemberValue) {
        let mut member = self
            .members
            .get(&id)
            .map(|m| Member::clone(m))
            .unwrap_or_default();
        if self.members.contains_key(&id) {
            self.subscribed.remove(&member.value);
        }
        self.subscribed.add(&value);
        self.forget_instance(&id, &member);
        if let Some(instance) = &value.instance_id {
            self.instances.insert(Arc::clone(instance), Arc::clone(&id));
        }
        member.value = value;
        self.members.insert(id, Arc::new(member));
    }

    fn remove_member(&mut self, id: &str) {
        if let Some(member) = self.members.remove(id) {
            self.subscribed.remove(&member.value);
            self.forget_instance(id, &member);
            self.forget_owned(id, &member.current);
        }
    }

    fn put_current(&mut self, id: MemberId, current: CurrentValue) {
        let mut member = self
            .members
            .get(&id)
            .map(|m| Member::clone(m))
            .unwrap_or_default();
        if !self.members.contains_key(&id) {
            self.subscribed.add(&member.value);
        }
        self.forget_owned(&id, &member.current);
        for place in current
            .assigned
            .iter()
            .chain(current.pending_revocation.iter())
        {
            self.owners.insert(place, Arc::clone(&id));
        }
        member.current = current;
        self.members.insert(id, Arc::new(member));
    }

    fn forget_instance(&mut self, id: &str, member: &Member) {
        if let Some(instance) = &member.value.instance_id
            && self
                .instances
                .get(instance)
                .is_some_and(|holder| &**holder == id)
        {
            self.instances.remove(instance);
        }
    }

    fn forget_owned(&mut self, id: &str, current: &CurrentValue) {
        for place in current
            .assigned
            .iter()
            .chain(current.pending_revocation.iter())
        {
            if self.owners.get(&place).is_some_and(|owner| &**owner == id) {
                self.owners.remove(&place);
            }
        }
    }

    /// The whole group as records.
    pub(crate) fn records(&self, id: &GroupId, records: &mut Vec<GroupRecord>) {
        let group = || Arc::clone(id);
        if self.is_written {
            let value = ConsumerGroupValue {
                epoch: self.epoch,
                metadata_hash: self.metadata_hash,
                empty_since: self.empty_since,
            };
            records.push(GroupRecord::ConsumerGroup(group(), Some(value)));
        }
        for (member_id, member) in &self.members {
            let value = Some(member.value.clone());
            records.push(GroupRecord::Member(group(), Arc::clone(member_id), value));
            let current = Some(member.current.clone());
            records.push(GroupRecord::Current(
                group(),
                Arc::clone(member_id),
                current,
            ));
        }
        for (member_id, target) in &self.targets {
            let target = Some(Assignment::clone(target));
            records.push(GroupRecord::Target(group(), Arc::clone(member_id), target));
        }
        records.push(GroupRecord::TargetEpoch(group(), Some(self.target_epoch)));
    }

    /// The records that end the group, which has no members.
    pub(crate) fn tombstones(id: &GroupId) -> [GroupRecord; 2] {
        let group = || Arc::clone(id);
        [
            GroupRecord::TargetEpoch(group(), None),
            GroupRecord::ConsumerGroup(group(), None),
        ]
    }
}
