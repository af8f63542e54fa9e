//! When offsets go by themselves: after their time, never while the group has members, and with their topic.
//!
//! The time of a group's offsets begins when its last member leaves (KIP-211) or when they were committed, whichever is
//! later; of offsets that were committed from outside, when they were committed. Kafka also drops offsets of topics
//! that a group with members is no longer subscribed to; here a group with members keeps everything.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use logweir_proto::{Timestamp, TopicId};

use super::{RECORD_OVERHEAD, later};
use crate::coordinator::groups::GroupMachine;
use crate::coordinator::groups::admin::Deletion;
use crate::coordinator::groups::consumer::ConsumerGroup;
use crate::coordinator::groups::ids::GroupId;
use crate::coordinator::groups::records::{CommittedOffset, GroupRecord};
use crate::coordinator::groups::scene::Decision;
use crate::coordinator::groups::state::{GroupState, Kind, offset_key};
use crate::coordinator::machine::{CallId, Now};

/// The most tombstones of one decision; what is left is done by the next. Their batch must fit, too.
pub(super) const MAX_TOMBSTONES: usize = 5_000;

/// How many more tombstones one decision may have, and how many bytes.
#[derive(Debug)]
pub(in crate::coordinator::groups) struct Room {
    records: usize,
    bytes: usize,
}

impl Room {
    /// Takes the place of a tombstone; `false` if there is none, and then there is none for any other.
    pub(in crate::coordinator::groups) fn take(&mut self, id: &str, topic: &str) -> bool {
        let bytes = id.len() + topic.len() + RECORD_OVERHEAD;
        if self.is_full() || self.bytes < bytes {
            self.records = 0;
            return false;
        }
        self.records -= 1;
        self.bytes -= bytes;
        true
    }

    fn is_full(&self) -> bool {
        self.records == 0
    }
}

/// What is due by wall time.
#[derive(Debug, Default)]
pub(in crate::coordinator::groups) struct Housekeeping {
    /// When offsets are looked through next.
    next_check: Option<Timestamp>,
    /// Topics that are gone, whose offsets are to go.
    deleted: Vec<(Arc<str>, TopicId)>,
    /// What was deleted before this machine was loaded has been looked for.
    is_swept: bool,
    /// Groups whose deletion goes on.
    deletions: VecDeque<Deletion>,
}

impl Housekeeping {
    pub(in crate::coordinator::groups) fn put_off(&mut self, deletion: Deletion) {
        self.deletions.push_back(deletion);
    }

    /// The caller is gone: what is left of its deletion is not done.
    pub(in crate::coordinator::groups) fn abandon(&mut self, call: CallId) {
        self.deletions.retain(|deletion| deletion.call != call);
    }
}

impl GroupMachine {
    pub(in crate::coordinator::groups) fn next_housekeeping(&self) -> Option<Timestamp> {
        if !self.housekeeping.deletions.is_empty() {
            return Some(Timestamp::new(0));
        }
        if self.state.groups.is_empty() {
            return None;
        }
        if self.housekeeping.deleted.is_empty() {
            return self.housekeeping.next_check;
        }
        Some(Timestamp::new(0))
    }

    pub(in crate::coordinator::groups) fn start_housekeeping(&mut self, now: Now) {
        let next = later(now.wall, self.config.offsets_retention_check_interval);
        self.housekeeping.next_check = Some(next);
    }

    /// The first time after a load, looks for offsets of topics that were deleted while nobody listened here.
    pub(in crate::coordinator::groups) fn sweep_deleted(&mut self) {
        if std::mem::replace(&mut self.housekeeping.is_swept, true) {
            return;
        }
        let deleted: BTreeSet<TopicId> = self.topics.deleted().collect();
        let offsets = self.state.groups.values().flat_map(|group| &group.offsets);
        let mut gone = BTreeSet::new();
        for (topic, partitions) in offsets {
            let ids = partitions.values().map(|offset| offset.topic_id);
            let ids = ids.filter(|id| deleted.contains(id));
            gone.extend(ids.map(|id| (Arc::clone(topic), id)));
        }
        self.housekeeping.deleted.extend(gone);
    }

    /// These topics are gone for good.
    pub(in crate::coordinator::groups) fn note_deleted(
        &mut self,
        topics: Vec<(Arc<str>, TopicId)>,
    ) {
        if !self.state.groups.is_empty() {
            self.housekeeping.deleted.extend(topics);
        }
    }

    /// Goes on with deletions, drops the offsets of topics that are gone, then what has expired if it is time to look.
    pub(in crate::coordinator::groups) fn keep_house(&mut self, now: Now, decision: &mut Decision) {
        if let Some(deletion) = self.housekeeping.deletions.pop_front() {
            self.go_on_deleting(deletion, decision);
            return;
        }
        if !self.housekeeping.deleted.is_empty() {
            self.drop_deleted(decision);
            return;
        }
        if self.housekeeping.next_check.is_none_or(|at| at > now.wall) {
            return;
        }
        let mut room = self.room();
        let mut ended = Vec::new();
        for (id, group) in &self.state.groups {
            if room.is_full() {
                break;
            }
            if self.has_members(id) {
                continue;
            }
            let is_bare = self.expire(id, group, now, &mut room, decision);
            // A group ends by up to two tombstones.
            if is_bare && group.kind.is_some() && room.take(id, "") && room.take(id, "") {
                ended.push(Arc::clone(id));
            }
        }
        for id in ended {
            self.end_group(&id, decision);
        }
        if !room.is_full() {
            self.start_housekeeping(now);
        }
    }

    pub(in crate::coordinator::groups) fn room(&self) -> Room {
        Room {
            records: MAX_TOMBSTONES,
            bytes: self.config.max_batch_bytes,
        }
    }

    /// Drops a group's offsets that have expired; whether none is left.
    fn expire(
        &self,
        id: &GroupId,
        group: &GroupState,
        now: Now,
        room: &mut Room,
        decision: &mut Decision,
    ) -> bool {
        let empty_since = match &group.kind {
            Some(Kind::Classic(classic)) => classic.state_since,
            Some(Kind::Consumer(consumer)) => consumer.empty_since.unwrap_or(Timestamp::NONE),
            None => Timestamp::NONE,
        };
        let has_expired = |offset: &CommittedOffset| {
            let end = offset.expires_at.unwrap_or_else(|| {
                later(
                    offset.committed_at.max(empty_since),
                    self.config.offsets_retention,
                )
            });
            end <= now.wall
        };
        let mut is_bare = true;
        for (topic, partitions) in &group.offsets {
            for (partition, offset) in partitions {
                if has_expired(offset) && room.take(id, topic) {
                    let key = offset_key(id, topic, *partition);
                    decision.records.push(GroupRecord::Offset(key, None));
                } else {
                    is_bare = false;
                }
            }
        }
        is_bare
    }

    fn drop_deleted(&mut self, decision: &mut Decision) {
        let mut room = self.room();
        let deleted = &self.housekeeping.deleted;
        'all: for (id, group) in &self.state.groups {
            for (topic, topic_id) in deleted {
                for (partition, offset) in group.offsets.get(topic).into_iter().flatten() {
                    // Committed for a later topic of the same name: that one is not gone.
                    if offset.topic_id != *topic_id && offset.topic_id != TopicId::ZERO {
                        continue;
                    }
                    if !room.take(id, topic) {
                        break 'all;
                    }
                    let key = offset_key(id, topic, *partition);
                    decision.records.push(GroupRecord::Offset(key, None));
                }
            }
        }
        if !room.is_full() {
            self.housekeeping.deleted.clear();
        }
    }

    /// Whether the group has members of either kind, or somebody is about to join.
    pub(in crate::coordinator::groups) fn has_members(&self, id: &GroupId) -> bool {
        let consumer = self
            .state
            .consumer(id)
            .is_some_and(|group| !group.members.is_empty());
        consumer || self.classic.get(id).is_some_and(|group| !group.is_idle())
    }

    /// Ends a group that has no members, whatever its kind. Its offsets have their own records.
    pub(in crate::coordinator::groups) fn end_group(
        &mut self,
        id: &GroupId,
        decision: &mut Decision,
    ) {
        if self.state.classic(id).is_some() {
            decision.records.push(Self::classic_tombstone(id));
        }
        self.forget_classic(id);
        if self.state.consumer(id).is_some() {
            decision.records.extend(ConsumerGroup::tombstones(id));
            self.forget_consumer(id);
        }
    }
}
