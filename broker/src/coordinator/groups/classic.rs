//! The classic group protocol: members join, a leader among them assigns, all are told (JoinGroup, SyncGroup,
//! Heartbeat, LeaveGroup; KIP-62, 134, 345, 394, 429, 814).
//!
//! Cooperative rebalancing needs nothing here: it is two rebalances, with what members own in their subscriptions.
//! Errors and their order are Kafka's. Two things differ: a call that another one of the same member replaces is
//! answered (REBALANCE_IN_PROGRESS) rather than left without an answer, and protocols with equally many votes are
//! taken in the order of their names.

mod group;
mod join;
mod membership;
mod rebalance;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use logweir_proto::ErrorCode;

pub(super) use self::group::{ClassicGroup, Phase, unknown_member};
pub(crate) use self::subscription::{assigned_partitions, subscribed_topics};

use super::answer::{
    ClassicDescription, ClassicMemberDescription, GroupAnswer, GroupError, LeftMember,
};
use super::ids::{GroupId, InstanceId, MAX_MEMBER_ID_BYTES, MAX_NAME_BYTES, MemberId};
use super::records::GroupRecord;
use super::request::{Heartbeat, JoinGroup, LeaveGroup, SyncGroup};
use super::scene::{Decision, Scene};
use super::timers::Timer;
use super::{GroupMachine, check_group_id, check_name};
use crate::coordinator::machine::{CallId, Now};

/// The most protocols of a member.
const MAX_PROTOCOLS: usize = 100;
/// The most members that leave in one request.
const MAX_LEAVING: usize = 10_000;

impl GroupMachine {
    pub(super) fn join(
        &mut self,
        call: CallId,
        request: JoinGroup,
        now: Now,
        decision: &mut Decision,
    ) {
        let id = Arc::clone(&request.group_id);
        if let Err(error) = self.admit(&request, now, decision) {
            let member_id = request.member_id;
            let answer = super::answer::JoinAnswer {
                member_id,
                result: Err(error),
            };
            return decision.answers.push((call, GroupAnswer::Join(answer)));
        }
        let uuid = (self.new_uuid)();
        self.with_classic(&id, now, decision, |group, scene| {
            group.join(call, request, uuid, scene);
        });
    }

    /// Checks a join and makes its group ready for it.
    fn admit(
        &mut self,
        request: &JoinGroup,
        now: Now,
        decision: &mut Decision,
    ) -> Result<(), GroupError> {
        let id = &request.group_id;
        self.check_join(request)?;
        if let Some(consumer) = self.state.consumer(id) {
            if !consumer.members.is_empty() {
                let message =
                    format!("group {id:?} has members of the consumer protocol (KIP-848)");
                return Err(GroupError::new(
                    ErrorCode::InconsistentGroupProtocol,
                    message,
                ));
            }
            if !request.member_id.is_empty() {
                return Err(unknown_member(id, &request.member_id));
            }
            // A join that will be refused must not end the group.
            if request.protocol_type.is_empty() || request.protocols.is_empty() {
                let message = "a protocol type and a protocol are needed";
                return Err(GroupError::new(
                    ErrorCode::InconsistentGroupProtocol,
                    message,
                ));
            }
            decision
                .records
                .extend(super::consumer::ConsumerGroup::tombstones(id));
            self.forget_consumer(id);
        }
        if !self.classic.contains_key(id) {
            if !request.member_id.is_empty() {
                return Err(unknown_member(id, &request.member_id));
            }
            let group = ClassicGroup::new(Arc::clone(id), now.wall);
            self.classic.insert(Arc::clone(id), group);
        }
        Ok(())
    }

    fn check_join(&self, request: &JoinGroup) -> Result<(), GroupError> {
        check_group_id(&request.group_id)?;
        let timeout = request.session_timeout;
        let (min, max) = (
            self.config.min_session_timeout,
            self.config.max_session_timeout,
        );
        if timeout < min || timeout > max {
            let message =
                format!("the session timeout {timeout:?} is not within {min:?} and {max:?}");
            return Err(GroupError::new(ErrorCode::InvalidSessionTimeout, message));
        }
        if request.member_id.len() > MAX_MEMBER_ID_BYTES {
            return Err(unknown_member(&request.group_id, &request.member_id));
        }
        for name in [&request.client_id, &request.client_host]
            .into_iter()
            .chain(&request.instance_id)
            .chain([&request.protocol_type])
            .chain(request.protocols.iter().map(|p| &p.name))
        {
            check_name(name)?;
        }
        let size = |p: &super::request::Protocol| p.name.len() + p.metadata.len();
        let bytes: usize = request.protocols.iter().map(size).sum();
        if bytes > self.config.max_protocol_bytes || request.protocols.len() > MAX_PROTOCOLS {
            let message = format!(
                "{} protocols of {bytes} bytes; at most {MAX_PROTOCOLS} of {} fit",
                request.protocols.len(),
                self.config.max_protocol_bytes
            );
            return Err(GroupError::new(ErrorCode::InvalidRequest, message));
        }
        Ok(())
    }

    pub(super) fn sync(
        &mut self,
        call: CallId,
        request: SyncGroup,
        now: Now,
        decision: &mut Decision,
    ) {
        let (id, member) = (
            Arc::clone(&request.group_id),
            Arc::clone(&request.member_id),
        );
        if let Err(error) = check_group_id(&id) {
            return decision.answers.push((call, GroupAnswer::Sync(Err(error))));
        }
        let found = self.with_classic(&id, now, decision, |group, scene| {
            group.sync(call, request, scene);
        });
        if found.is_none() {
            let error = unknown_member(&id, &member);
            decision.answers.push((call, GroupAnswer::Sync(Err(error))));
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        request: &Heartbeat,
        now: Now,
        decision: &mut Decision,
    ) -> Result<(), GroupError> {
        let id = &request.group_id;
        check_group_id(id)?;
        self.with_classic(id, now, decision, |group, scene| {
            group.heartbeat(request, scene)
        })
        .unwrap_or_else(|| Err(unknown_member(id, &request.member_id)))
    }

    pub(super) fn leave(
        &mut self,
        request: LeaveGroup,
        now: Now,
        decision: &mut Decision,
    ) -> Result<Vec<LeftMember>, GroupError> {
        let LeaveGroup { group_id, members } = request;
        check_group_id(&group_id)?;
        if members.len() > MAX_LEAVING {
            let message = format!("{} members leave, at most {MAX_LEAVING} can", members.len());
            return Err(GroupError::new(ErrorCode::InvalidRequest, message));
        }
        if !self.classic.contains_key(&group_id) {
            let gone = members.into_iter().map(|member| LeftMember {
                result: Err(unknown_member(&group_id, &member.member_id)),
                member_id: member.member_id,
                instance_id: member.instance_id,
            });
            return Ok(gone.collect());
        }
        let left = self.with_classic(&group_id, now, decision, |group, scene| {
            group.leave(members, scene)
        });
        Ok(left.unwrap_or_default())
    }

    /// Works with a classic group, if there is one, and forgets it if that left nothing worth keeping.
    pub(super) fn with_classic<T>(
        &mut self,
        id: &GroupId,
        now: Now,
        decision: &mut Decision,
        work: impl FnOnce(&mut ClassicGroup, &mut Scene<'_>) -> T,
    ) -> Option<T> {
        let group = self.classic.get_mut(id)?;
        let mut scene = Scene {
            config: &self.config,
            timers: &mut self.timers,
            waiting: &mut self.waiting,
            decision,
            now,
        };
        let done = work(group, &mut scene);
        if group.is_void() && self.state.classic(id).is_none() {
            self.forget_classic(id);
        }
        Some(done)
    }

    pub(super) fn on_classic_timer(&mut self, timer: &Timer, now: Now, decision: &mut Decision) {
        let (Timer::ClassicSession(id, _) | Timer::ClassicJoin(id) | Timer::ClassicSync(id)) =
            timer
        else {
            return;
        };
        self.with_classic(id, now, decision, |group, scene| match timer {
            Timer::ClassicSession(_, member) => group.on_session_due(member, scene),
            Timer::ClassicJoin(_) => group.on_join_due(scene),
            _ => group.on_sync_due(scene),
        });
    }

    /// Whether offsets may be committed to a classic group. `None` if it is none.
    pub(super) fn check_classic_commit(
        &mut self,
        commit: &super::request::CommitOffsets,
        now: Now,
        decision: &mut Decision,
    ) -> Option<Result<(), GroupError>> {
        let instance: Option<&InstanceId> = commit.instance_id.as_ref();
        let generation = super::ids::Generation::new(commit.generation_or_epoch);
        self.with_classic(&commit.group_id, now, decision, |group, scene| {
            group.check_commit(&commit.member_id, instance, generation, scene)
        })
    }

    /// The caller of a join or a sync is gone.
    pub(super) fn abandon_classic(&mut self, call: CallId, id: &GroupId, member_id: &MemberId) {
        let Some(group) = self.classic.get_mut(id) else {
            return;
        };
        let Some(member) = group.members.get_mut(member_id) else {
            return;
        };
        if member.joining == Some(call) {
            member.joining = None;
        } else if member.syncing == Some(call) {
            member.syncing = None;
        } else {
            return;
        }
        // Who was never told its id cannot come back: it goes at once. The others have their session.
        let left = if member.can_return {
            member.session_timeout
        } else {
            std::time::Duration::ZERO
        };
        let at = self.session.saturating_add(left);
        self.timers.set(
            Timer::ClassicSession(Arc::clone(id), Arc::clone(member_id)),
            at,
        );
    }

    /// Forgets what is transient of a classic group.
    pub(super) fn forget_classic(&mut self, id: &GroupId) {
        let Some(group) = self.classic.remove(id) else {
            return;
        };
        for member in group.members.keys().chain(&group.pending) {
            self.timers
                .cancel(&Timer::ClassicSession(Arc::clone(id), Arc::clone(member)));
        }
        self.timers.cancel(&Timer::ClassicJoin(Arc::clone(id)));
        self.timers.cancel(&Timer::ClassicSync(Arc::clone(id)));
    }

    /// Makes the written classic groups live, with new sessions.
    pub(super) fn load_classic(&mut self, now: Now) {
        let mut decision = Decision::default();
        let mut loaded = Vec::new();
        for (id, group) in &self.state.groups {
            if let Some(super::state::Kind::Classic(value)) = &group.kind {
                loaded.push((Arc::clone(id), ClassicGroup::load(Arc::clone(id), value)));
            }
        }
        for (id, group) in loaded {
            let members: Vec<MemberId> = group.members.keys().cloned().collect();
            self.classic.insert(Arc::clone(&id), group);
            self.with_classic(&id, now, &mut decision, |group, scene| {
                for member in &members {
                    group.start_session(member, scene);
                }
            });
        }
    }

    pub(super) fn describe_classic(&self, id: &GroupId) -> ClassicDescription {
        let Some(group) = self.classic.get(id) else {
            return self.describe_without_members(id);
        };
        let is_stable = group.phase == Phase::Stable;
        let protocol = group.protocol.as_deref().filter(|_| is_stable);
        let member = |(id, m): (&MemberId, &group::ClassicMember)| ClassicMemberDescription {
            member_id: Arc::clone(id),
            instance_id: m.instance_id.clone(),
            client_id: Arc::clone(&m.client_id),
            client_host: Arc::clone(&m.client_host),
            metadata: m.metadata_for(protocol),
            assignment: if is_stable {
                m.assignment.clone()
            } else {
                bytes::Bytes::new()
            },
        };
        ClassicDescription {
            state: group.phase.name(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            protocol: protocol.unwrap_or_default().into(),
            members: group.members.iter().map(member).collect(),
            error: None,
        }
    }

    fn describe_without_members(&self, id: &GroupId) -> ClassicDescription {
        let group = self.state.groups.get(id);
        let is_simple = group.is_some_and(|group| group.kind.is_none());
        let error = (!is_simple).then(|| {
            let message = match group {
                Some(_) => format!("group {id:?} is not a classic group"),
                None => format!("there is no group {id:?}"),
            };
            GroupError::new(ErrorCode::GroupIdNotFound, message)
        });
        ClassicDescription {
            state: if is_simple { "Empty" } else { "Dead" },
            protocol_type: "".into(),
            protocol: "".into(),
            members: Vec::new(),
            error,
        }
    }

    /// The record that ends a classic group.
    pub(super) fn classic_tombstone(id: &GroupId) -> GroupRecord {
        GroupRecord::Classic(Arc::clone(id), None)
    }
}

const _: () = assert!(MAX_NAME_BYTES <= i16::MAX as usize);
