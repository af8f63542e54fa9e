//! A classic group as it is now: members, who waits, and what of it is written.
//!
//! Only the assignment of a generation lasts ([`ClassicValue`]); joining is transient, as in Kafka. A coordinator that
//! is loaded anew knows the last generation that was written, and members of a later one join again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logweir_proto::{ErrorCode, Timestamp};

use crate::coordinator::groups::answer::{GroupError, JoinedMember};
use crate::coordinator::groups::ids::{Generation, GroupId, InstanceId, MemberId};
use crate::coordinator::groups::records::{ClassicMemberValue, ClassicValue};
use crate::coordinator::groups::request::Protocol;
use crate::coordinator::machine::CallId;

/// The protocol type of consumers, whose metadata tells what they subscribe to.
pub(super) const CONSUMER_PROTOCOL: &str = "consumer";

/// Where a group is in a rebalance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Empty,
    /// Members are to join.
    PreparingRebalance,
    /// All have joined; the leader is to assign.
    CompletingRebalance,
    Stable,
}

impl Phase {
    /// Kafka's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A member.
#[derive(Clone, Debug)]
pub(crate) struct ClassicMember {
    pub(super) instance_id: Option<InstanceId>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    /// Those it speaks, the one it likes best first. After loading, only the one that was chosen.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    pub(super) joining: Option<CallId>,
    pub(super) syncing: Option<CallId>,
    /// It has not been part of a generation yet, and cannot be expected to heartbeat.
    pub(super) is_new: bool,
    /// It was told its id before it joined, or has an instance id: it can come back.
    pub(super) can_return: bool,
}

impl ClassicMember {
    pub(super) fn metadata_for(&self, protocol: Option<&str>) -> Bytes {
        let speaks = |p: &&Protocol| protocol.is_some_and(|name| *p.name == *name);
        self.protocols
            .iter()
            .find(speaks)
            .map(|p| p.metadata.clone())
            .unwrap_or_default()
    }
}

/// A classic group.
#[derive(Clone, Debug)]
pub(crate) struct ClassicGroup {
    pub(super) id: GroupId,
    pub(super) phase: Phase,
    pub(super) generation: Generation,
    pub(super) protocol_type: Option<Arc<str>>,
    /// The protocol of this generation.
    pub(super) protocol: Option<Arc<str>>,
    pub(super) leader: Option<MemberId>,
    /// When it got into its phase, by wall time.
    pub(super) phase_since: Timestamp,
    pub(super) members: BTreeMap<MemberId, ClassicMember>,
    pub(super) instances: BTreeMap<InstanceId, MemberId>,
    /// Ids that were given out and not yet joined with.
    pub(super) pending: BTreeSet<MemberId>,
    /// Who has not asked for the assignment of this generation.
    pub(super) pending_sync: BTreeSet<MemberId>,
    /// While a new group waits for more members: how much longer it may in all.
    pub(super) initial_remaining: Option<Duration>,
    /// Somebody came during that wait.
    pub(super) new_member_added: bool,
    /// How many members speak each protocol.
    supported: BTreeMap<Arc<str>, usize>,
}

impl ClassicGroup {
    pub(super) fn new(id: GroupId, now: Timestamp) -> Self {
        Self {
            id,
            phase: Phase::Empty,
            generation: Generation::default(),
            protocol_type: None,
            protocol: None,
            leader: None,
            phase_since: now,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            initial_remaining: None,
            new_member_added: false,
            supported: BTreeMap::new(),
        }
    }

    /// The group as it was written.
    pub(super) fn load(id: GroupId, value: &ClassicValue) -> Self {
        let mut group = Self::new(id, value.state_since);
        group.generation = value.generation;
        group.protocol_type = Some(&value.protocol_type)
            .filter(|t| !t.is_empty())
            .map(Arc::clone);
        group.protocol.clone_from(&value.protocol);
        for member in &value.members {
            let name = value.protocol.clone().unwrap_or_default();
            let protocols = vec![Protocol {
                name,
                metadata: member.subscription.clone(),
            }];
            let loaded = ClassicMember {
                instance_id: member.instance_id.clone(),
                client_id: Arc::clone(&member.client_id),
                client_host: Arc::clone(&member.client_host),
                session_timeout: member.session_timeout,
                rebalance_timeout: member.rebalance_timeout,
                protocols,
                assignment: member.assignment.clone(),
                joining: None,
                syncing: None,
                is_new: false,
                can_return: true,
            };
            group.insert(Arc::clone(&member.member_id), loaded);
        }
        group.leader.clone_from(&value.leader);
        if !group.members.is_empty() {
            group.phase = Phase::Stable;
        }
        group
    }

    /// The group as it is to be written.
    pub(crate) fn value(&self) -> ClassicValue {
        let protocol = self.protocol.as_deref();
        let member = |(id, m): (&MemberId, &ClassicMember)| ClassicMemberValue {
            member_id: Arc::clone(id),
            instance_id: m.instance_id.clone(),
            client_id: Arc::clone(&m.client_id),
            client_host: Arc::clone(&m.client_host),
            rebalance_timeout: m.rebalance_timeout,
            session_timeout: m.session_timeout,
            subscription: m.metadata_for(protocol),
            assignment: m.assignment.clone(),
        };
        ClassicValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since: self.phase_since,
            members: self.members.iter().map(member).collect(),
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Timestamp) {
        self.phase = phase;
        self.phase_since = now;
    }

    /// Whether nothing of it is worth keeping: nobody ever joined, and nobody is about to.
    pub(super) fn is_void(&self) -> bool {
        self.phase == Phase::Empty
            && self.members.is_empty()
            && self.pending.is_empty()
            && self.generation == Generation::default()
    }

    /// Whether it has no members; some may be about to join.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether it has no members and nobody was given an id to join with.
    pub(crate) fn is_idle(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// Whether the member is part of this generation, which is the group's.
    #[cfg(test)]
    pub(crate) fn has_in_generation(&self, member: &str, generation: Generation) -> bool {
        self.generation == generation && self.members.contains_key(member)
    }

    /// Whether its members are consumers, whose subscriptions can be read.
    pub(crate) fn has_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL)
    }

    /// Its protocol type, and Kafka's name of its state.
    pub(crate) fn listed(&self) -> (Arc<str>, &'static str) {
        (
            self.protocol_type.clone().unwrap_or_default(),
            self.phase.name(),
        )
    }

    pub(super) fn is_leader(&self, member: &str) -> bool {
        self.leader.as_deref() == Some(member)
    }

    pub(super) fn all_have_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|m| m.joining.is_some())
    }

    /// The longest rebalance timeout of a member.
    pub(super) fn rebalance_timeout(&self) -> Duration {
        self.members
            .values()
            .map(|m| m.rebalance_timeout)
            .max()
            .unwrap_or_default()
    }

    /// Whether a member that speaks these may join.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let everybody = |p: &Protocol| self.supported.get(&p.name) == Some(&self.members.len());
        self.protocol_type.as_deref() == Some(protocol_type) && protocols.iter().any(everybody)
    }

    /// The protocol that everybody speaks and most like best; the first by name where votes are equal.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let everybody = |p: &&Protocol| self.supported.get(&p.name) == Some(&self.members.len());
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(liked) = member.protocols.iter().find(everybody) {
                *votes.entry(&liked.name).or_default() += 1;
            }
        }
        // `max_by_key` gives the last of equals, so that it is asked from the end.
        votes
            .into_iter()
            .rev()
            .max_by_key(|(_, votes)| *votes)
            .map(|(name, _)| Arc::clone(name))
    }

    pub(super) fn insert(&mut self, id: MemberId, member: ClassicMember) {
        if let Some(instance) = &member.instance_id {
            self.instances.insert(Arc::clone(instance), Arc::clone(&id));
        }
        self.count_protocols(&member.protocols, 1);
        self.leader.get_or_insert_with(|| Arc::clone(&id));
        self.pending.remove(&id);
        self.members.insert(id, member);
    }

    /// Takes a member out; another one leads if it did.
    pub(super) fn remove(&mut self, id: &str) -> Option<ClassicMember> {
        let member = self.members.remove(id)?;
        self.count_protocols(&member.protocols, -1);
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        self.pending_sync.remove(id);
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// What a member speaks from now on.
    pub(super) fn set_protocols(&mut self, id: &str, protocols: Vec<Protocol>) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut member.protocols, protocols.clone());
        self.count_protocols(&before, -1);
        self.count_protocols(&protocols, 1);
    }

    fn count_protocols(&mut self, protocols: &[Protocol], change: isize) {
        // A name that stands there twice speaks once.
        let names: BTreeSet<&Arc<str>> = protocols.iter().map(|p| &p.name).collect();
        for name in names {
            let count = self.supported.entry(Arc::clone(name)).or_default();
            *count = count.saturating_add_signed(change);
            if *count == 0 {
                self.supported.remove(name);
            }
        }
    }

    /// Gives the lead to somebody who has joined. `false` if nobody has.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let has_joined = |id: &MemberId| self.members.get(id).is_some_and(|m| m.joining.is_some());
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        let joined = self.members.keys().find(|id| has_joined(id)).cloned();
        let found = joined.is_some();
        if found {
            self.leader = joined;
        }
        found
    }

    /// Everybody's metadata for the protocol of this generation.
    pub(super) fn joined_members(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref();
        let joined = |(id, member): (&MemberId, &ClassicMember)| JoinedMember {
            member_id: Arc::clone(id),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata_for(protocol),
        };
        self.members.iter().map(joined).collect()
    }

    /// Checks that a member is one of this group, and holds its instance id if it names one.
    ///
    /// # Errors
    /// FENCED_INSTANCE_ID, UNKNOWN_MEMBER_ID.
    pub(super) fn check_member(
        &self,
        id: &str,
        instance: Option<&InstanceId>,
    ) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            match self.instances.get(instance) {
                None => {
                    let message = format!("no member has the instance id {instance:?}");
                    return Err(GroupError::new(ErrorCode::UnknownMemberId, message));
                }
                Some(holder) if **holder != *id => {
                    let message = format!("another member has the instance id {instance:?} now");
                    return Err(GroupError::new(ErrorCode::FencedInstanceId, message));
                }
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) {
            Ok(())
        } else {
            Err(unknown_member(&self.id, id))
        }
    }

    /// Checks that a member's generation is the group's.
    ///
    /// # Errors
    /// ILLEGAL_GENERATION.
    pub(super) fn check_generation(&self, generation: Generation) -> Result<(), GroupError> {
        if generation == self.generation {
            return Ok(());
        }
        let message = format!(
            "generation {generation} is not the group's, which is {}",
            self.generation
        );
        Err(GroupError::new(ErrorCode::IllegalGeneration, message))
    }

    /// Whether a consumer of this group subscribes to the topic; where that cannot be read, whether it may.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        if self.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL) || self.members.is_empty() {
            return false;
        }
        let subscribes = |member: &ClassicMember| {
            let metadata = member.metadata_for(self.protocol.as_deref());
            super::subscription::subscribed_topics(&metadata)
                .is_none_or(|topics| topics.contains(topic))
        };
        self.members.values().any(subscribes)
    }
}

/// The error for who is not, or no longer, a member.
pub(crate) fn unknown_member(group: &str, member: &str) -> GroupError {
    let message = match member.is_empty() {
        true => format!("group {group:?} has members, and only they may do this"),
        false => format!("group {group:?} has no member {member:?}"),
    };
    GroupError::new(ErrorCode::UnknownMemberId, message)
}
