//! JoinGroup: who may come in, who gets an id first, whose join begins a rebalance.

use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::ErrorCode;
use uuid::Uuid;

use super::group::{ClassicGroup, ClassicMember, Phase};
use crate::coordinator::groups::answer::{GroupAnswer, GroupError, JoinAnswer};
use crate::coordinator::groups::ids::{InstanceId, MemberId};
use crate::coordinator::groups::request::JoinGroup;
use crate::coordinator::groups::scene::Scene;
use crate::coordinator::groups::timers::Timer;
use crate::coordinator::machine::CallId;

impl ClassicGroup {
    /// Takes a join; it is answered now or when the group has gathered.
    pub(super) fn join(
        &mut self,
        call: CallId,
        request: JoinGroup,
        uuid: Uuid,
        scene: &mut Scene<'_>,
    ) {
        let is_new = request.member_id.is_empty();
        let id = Arc::clone(&request.member_id);
        if !self.has_room_for(&request.member_id, scene.config.max_size) {
            self.pending.remove(&id);
            self.expel(&id, "the group is full", scene);
            self.rebalance_without_the_gone(scene);
            let message = format!("group {:?} has its maximum number of members", self.id);
            let error = GroupError::new(ErrorCode::GroupMaxSizeReached, message);
            return refuse(call, MemberId::from(""), error, scene);
        }
        if !self.supports(&request.protocol_type, &request.protocols) {
            let message = format!(
                "protocol type {:?} or its protocols do not fit those of group {:?}",
                request.protocol_type, self.id
            );
            let error = GroupError::new(ErrorCode::InconsistentGroupProtocol, message);
            return refuse(call, id, error, scene);
        }
        if is_new {
            self.join_new(call, request, uuid, scene);
        } else {
            self.join_known(call, request, scene);
        }
        self.complete_join_if_all_are_there(scene);
    }

    /// Whether the group is below its limit, or the member has its place already.
    fn has_room_for(&self, id: &str, max_size: usize) -> bool {
        match self.phase {
            Phase::Empty => true,
            Phase::PreparingRebalance => {
                let has_joined = self.members.get(id).is_some_and(|m| m.joining.is_some());
                let joining = self
                    .members
                    .values()
                    .filter(|m| m.joining.is_some())
                    .count();
                has_joined || joining < max_size
            }
            Phase::CompletingRebalance | Phase::Stable => {
                self.members.contains_key(id) || self.members.len() < max_size
            }
        }
    }

    fn join_new(&mut self, call: CallId, request: JoinGroup, uuid: Uuid, scene: &mut Scene<'_>) {
        let prefix = request.instance_id.as_ref().unwrap_or(&request.client_id);
        let id: MemberId = format!("{prefix}-{uuid}").into();
        if let Some(instance) = request.instance_id.clone() {
            match self.instances.get(&instance).cloned() {
                Some(old) => self.replace_static(call, &instance, &old, id, request, scene),
                None => self.add(call, id, request, scene),
            }
        } else if request.member_id_required {
            self.pending.insert(Arc::clone(&id));
            let at = scene.now.session.saturating_add(request.session_timeout);
            scene.timers.set(
                Timer::ClassicSession(Arc::clone(&self.id), Arc::clone(&id)),
                at,
            );
            let message = "join again with this member id";
            let error = GroupError::new(ErrorCode::MemberIdRequired, message);
            refuse(call, id, error, scene);
        } else {
            self.add(call, id, request, scene);
        }
    }

    fn join_known(&mut self, call: CallId, request: JoinGroup, scene: &mut Scene<'_>) {
        let id = Arc::clone(&request.member_id);
        if self.pending.contains(&id) {
            return self.add(call, id, request, scene);
        }
        if let Err(error) = self.check_member(&id, request.instance_id.as_ref()) {
            return refuse(call, id, error, scene);
        }
        let is_same = self
            .members
            .get(&id)
            .is_some_and(|m| m.protocols == request.protocols);
        let rejoins = match self.phase {
            Phase::PreparingRebalance => true,
            // Its first answer was lost.
            Phase::CompletingRebalance => !is_same,
            // The leader may have seen something that the others' metadata does not tell.
            Phase::Stable => self.is_leader(&id) || !is_same,
            Phase::Empty => unreachable!("an empty group has no members"),
        };
        if rejoins {
            self.update(call, &id, request, scene);
            self.prepare_rebalance(scene);
        } else {
            let result = Ok(self.joined(&id, false));
            scene.answer(
                call,
                GroupAnswer::Join(JoinAnswer {
                    member_id: id,
                    result,
                }),
            );
        }
    }

    fn add(&mut self, call: CallId, id: MemberId, request: JoinGroup, scene: &mut Scene<'_>) {
        let member = ClassicMember {
            can_return: request.instance_id.is_some() || !request.member_id.is_empty(),
            instance_id: request.instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            session_timeout: request.session_timeout,
            rebalance_timeout: request.rebalance_timeout,
            protocols: request.protocols,
            assignment: Bytes::new(),
            joining: Some(call),
            syncing: None,
            is_new: true,
        };
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type);
        }
        if self.initial_remaining.is_some() && self.generation.get() == 0 {
            self.new_member_added = true;
        }
        scene.wait(call, &self.id, &id);
        // It cannot heartbeat before it is told its id. If its caller is gone it must not stay for ever.
        let at = scene
            .now
            .session
            .saturating_add(scene.config.new_member_join_timeout);
        scene.timers.set(
            Timer::ClassicSession(Arc::clone(&self.id), Arc::clone(&id)),
            at,
        );
        self.insert(id, member);
        self.prepare_rebalance(scene);
    }

    fn update(&mut self, call: CallId, id: &MemberId, request: JoinGroup, scene: &mut Scene<'_>) {
        self.set_protocols(id, request.protocols);
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.client_id = request.client_id;
        member.client_host = request.client_host;
        member.session_timeout = request.session_timeout;
        member.rebalance_timeout = request.rebalance_timeout;
        if let Some(earlier) = member.joining.replace(call) {
            let message = "the member has sent another join";
            let error = GroupError::new(ErrorCode::RebalanceInProgress, message);
            refuse(earlier, Arc::clone(id), error, scene);
        }
        scene.wait(call, &self.id, id);
    }

    /// A static member comes back without its id and gets a new one; who still uses the old one is fenced (KIP-345).
    fn replace_static(
        &mut self,
        call: CallId,
        instance: &InstanceId,
        old: &MemberId,
        id: MemberId,
        request: JoinGroup,
        scene: &mut Scene<'_>,
    ) {
        let leader = self.leader.clone().unwrap_or_default();
        let can_skip = request.can_skip_assignment;
        self.rename(instance, old, &id, scene);
        self.update(call, &id, request, scene);
        self.start_session(&id, scene);
        match self.phase {
            Phase::Stable if self.select_protocol() == self.protocol => {
                self.write(scene);
                if can_skip {
                    self.answer_join(&id, true, scene);
                    return;
                }
                // Older clients must not assign: the group is stable and would not take it. They are told the leader
                // of before, which is not they, and so do not.
                let mut joined = self.joined(&id, false);
                joined.leader = leader;
                joined.members = Vec::new();
                if let Some(member) = self.members.get_mut(&id) {
                    member.joining = None;
                }
                let answer = JoinAnswer {
                    member_id: id,
                    result: Ok(joined),
                };
                scene.answer(call, GroupAnswer::Join(answer));
            }
            // The leader may have been told the old id, and would assign to it.
            Phase::Stable | Phase::CompletingRebalance => self.prepare_rebalance(scene),
            Phase::PreparingRebalance => {}
            Phase::Empty => unreachable!("an empty group has no members"),
        }
    }

    fn rename(
        &mut self,
        instance: &InstanceId,
        old: &MemberId,
        id: &MemberId,
        scene: &mut Scene<'_>,
    ) {
        let led = self.is_leader(old);
        let must_sync = self.pending_sync.contains(old);
        let Some(mut member) = self.remove(old) else {
            return;
        };
        scene.timers.cancel(&Timer::ClassicSession(
            Arc::clone(&self.id),
            Arc::clone(old),
        ));
        let message = format!("another member has the instance id {instance:?} now");
        let fenced = GroupError::new(ErrorCode::FencedInstanceId, message);
        if let Some(call) = member.joining.take() {
            refuse(call, Arc::clone(old), fenced.clone(), scene);
        }
        if let Some(call) = member.syncing.take() {
            scene.answer(call, GroupAnswer::Sync(Err(fenced)));
        }
        if must_sync {
            self.pending_sync.insert(Arc::clone(id));
        }
        self.insert(Arc::clone(id), member);
        if led {
            self.leader = Some(Arc::clone(id));
        }
    }
}

/// Refuses a join.
pub(super) fn refuse(call: CallId, member_id: MemberId, error: GroupError, scene: &mut Scene<'_>) {
    let answer = JoinAnswer {
        member_id,
        result: Err(error),
    };
    scene.answer(call, GroupAnswer::Join(answer));
}
