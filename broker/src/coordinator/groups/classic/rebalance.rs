//! How a classic group goes from one generation to the next: joins are gathered, a leader assigns, all are told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logweir_proto::ErrorCode;

use super::group::{ClassicGroup, Phase, unknown_member};
use crate::coordinator::groups::answer::{GroupAnswer, GroupError, JoinAnswer, Joined, Synced};
use crate::coordinator::groups::ids::MemberId;
use crate::coordinator::groups::records::GroupRecord;
use crate::coordinator::groups::scene::Scene;
use crate::coordinator::groups::timers::Timer;

impl ClassicGroup {
    /// Begins a rebalance, unless one has not got past its joins.
    pub(super) fn prepare_rebalance(&mut self, scene: &mut Scene<'_>) {
        match self.phase {
            Phase::PreparingRebalance => return,
            Phase::CompletingRebalance => {
                self.fail_syncs(
                    scene,
                    ErrorCode::RebalanceInProgress,
                    "the group rebalances",
                );
            }
            Phase::Empty | Phase::Stable => {}
        }
        scene
            .timers
            .cancel(&Timer::ClassicSync(Arc::clone(&self.id)));
        let is_initial = self.phase == Phase::Empty;
        self.enter(Phase::PreparingRebalance, scene.now.wall);
        if is_initial {
            let delay = scene.config.initial_rebalance_delay;
            self.initial_remaining = Some(self.rebalance_timeout().saturating_sub(delay));
            self.set_join_timer(scene, delay);
        } else {
            self.set_join_timer(scene, self.rebalance_timeout());
            self.complete_join_if_all_are_there(scene);
        }
    }

    fn set_join_timer(&self, scene: &mut Scene<'_>, after: Duration) {
        let at = scene.now.session.saturating_add(after);
        scene
            .timers
            .set(Timer::ClassicJoin(Arc::clone(&self.id)), at);
    }

    /// Ends the wait for joins early. A new group waits its whole delay, for members that nobody knows of yet.
    pub(super) fn complete_join_if_all_are_there(&mut self, scene: &mut Scene<'_>) {
        let may = self.phase == Phase::PreparingRebalance && self.initial_remaining.is_none();
        if may && self.all_have_joined() {
            self.complete_join(scene);
        }
    }

    /// The wait for joins is over, or its present part.
    pub(super) fn on_join_due(&mut self, scene: &mut Scene<'_>) {
        if self.phase != Phase::PreparingRebalance {
            return;
        }
        if let Some(remaining) = self.initial_remaining
            && std::mem::take(&mut self.new_member_added)
            && !remaining.is_zero()
        {
            let delay = scene.config.initial_rebalance_delay.min(remaining);
            self.initial_remaining = Some(remaining.saturating_sub(delay));
            self.set_join_timer(scene, delay);
            return;
        }
        self.initial_remaining = None;
        self.complete_join(scene);
    }

    fn complete_join(&mut self, scene: &mut Scene<'_>) {
        // Static members have until their session ends; of the others, who has not joined is out.
        let late = self.members.iter().filter(|(_, m)| m.joining.is_none());
        let late = late.filter(|(_, m)| m.instance_id.is_none());
        for id in late.map(|(id, _)| Arc::clone(id)).collect::<Vec<_>>() {
            scene.timers.cancel(&Timer::ClassicSession(
                Arc::clone(&self.id),
                Arc::clone(&id),
            ));
            self.remove(&id);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            self.set_join_timer(scene, self.rebalance_timeout());
            return;
        }
        scene
            .timers
            .cancel(&Timer::ClassicJoin(Arc::clone(&self.id)));
        self.generation = self.generation.next();
        self.pending_sync.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.enter(Phase::Empty, scene.now.wall);
            self.write(scene);
            return;
        }
        self.protocol = self.select_protocol();
        self.enter(Phase::CompletingRebalance, scene.now.wall);
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in ids {
            self.answer_join(&id, false, scene);
            self.start_session(&id, scene);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
            self.pending_sync.insert(id);
        }
        let at = scene.now.session.saturating_add(self.rebalance_timeout());
        scene
            .timers
            .set(Timer::ClassicSync(Arc::clone(&self.id)), at);
    }

    /// Tells a member that waits for it what generation it is in.
    pub(super) fn answer_join(&mut self, id: &str, skip_assignment: bool, scene: &mut Scene<'_>) {
        let Some((id, member)) = self.members.get_key_value(id) else {
            return;
        };
        let (id, Some(call)) = (Arc::clone(id), member.joining) else {
            return;
        };
        let joined = self.joined(&id, skip_assignment);
        if let Some(member) = self.members.get_mut(&id) {
            member.joining = None;
        }
        let answer = JoinAnswer {
            member_id: id,
            result: Ok(joined),
        };
        scene.answer(call, GroupAnswer::Join(answer));
    }

    /// The present generation as a member is told of it.
    pub(super) fn joined(&self, id: &str, skip_assignment: bool) -> Joined {
        let leads = self.is_leader(id);
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: skip_assignment && leads,
            members: if leads {
                self.joined_members()
            } else {
                Vec::new()
            },
        }
    }

    /// The leader has assigned: writes that, and tells everybody who asked.
    pub(super) fn complete_sync(
        &mut self,
        assignments: Vec<(MemberId, Bytes)>,
        scene: &mut Scene<'_>,
    ) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        let before = (self.phase, self.phase_since);
        self.enter(Phase::Stable, scene.now.wall);
        let record = GroupRecord::Classic(Arc::clone(&self.id), Some(self.value()));
        if record.encode().value.map_or(0, |value| value.len()) > scene.config.max_batch_bytes {
            (self.phase, self.phase_since) = before;
            let message = "the group's members and assignments do not fit a record";
            self.fail_syncs(scene, ErrorCode::UnknownServerError, message);
            self.prepare_rebalance(scene);
            return;
        }
        scene.write(record);
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            if let Some(call) = member.syncing.take() {
                let synced = self.synced(&id);
                scene.answer(call, GroupAnswer::Sync(Ok(synced)));
                self.start_session(&id, scene);
            }
        }
    }

    /// A member's assignment in the present generation.
    pub(super) fn synced(&self, id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self
                .members
                .get(id)
                .map(|m| m.assignment.clone())
                .unwrap_or_default(),
        }
    }

    fn fail_syncs(&mut self, scene: &mut Scene<'_>, code: ErrorCode, message: &str) {
        let mut told = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = Bytes::new();
            if let Some(call) = member.syncing.take() {
                scene.answer(call, GroupAnswer::Sync(Err(GroupError::new(code, message))));
                told.push(Arc::clone(id));
            }
        }
        // While they waited their sessions may have ended unnoticed.
        for id in told {
            self.start_session(&id, scene);
        }
    }

    /// Members that have not asked for their assignments in time are out.
    pub(super) fn on_sync_due(&mut self, scene: &mut Scene<'_>) {
        let waits = matches!(self.phase, Phase::CompletingRebalance | Phase::Stable);
        if !waits || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.expel(&id, "it did not ask for its assignment in time", scene);
        }
        self.prepare_rebalance(scene);
    }

    /// A member, or who was given an id, was not heard of in time.
    pub(super) fn on_session_due(&mut self, id: &str, scene: &mut Scene<'_>) {
        if self.pending.remove(id) {
            self.complete_join_if_all_are_there(scene);
            return;
        }
        let Some(member) = self.members.get(id) else {
            return;
        };
        // Who waits for the group need not heartbeat. Of new members, whose callers may have gone, not for ever.
        let is_waiting = member.joining.is_some() || member.syncing.is_some();
        if is_waiting && !member.is_new {
            return;
        }
        self.expel(id, "its session has ended", scene);
        self.rebalance_without_the_gone(scene);
    }

    /// Takes a member out and tells whoever waits as that member.
    pub(super) fn expel(&mut self, id: &str, why: &str, scene: &mut Scene<'_>) {
        let (group, name) = (Arc::clone(&self.id), MemberId::from(id));
        scene.timers.cancel(&Timer::ClassicSession(group, name));
        let Some(member) = self.remove(id) else {
            return;
        };
        let mut error = unknown_member(&self.id, id);
        error.message = format!("{}: {why}", error.message);
        if let Some(call) = member.joining {
            let answer = JoinAnswer {
                member_id: "".into(),
                result: Err(error.clone()),
            };
            scene.answer(call, GroupAnswer::Join(answer));
        }
        if let Some(call) = member.syncing {
            scene.answer(call, GroupAnswer::Sync(Err(error)));
        }
    }

    /// After members are gone.
    pub(super) fn rebalance_without_the_gone(&mut self, scene: &mut Scene<'_>) {
        match self.phase {
            Phase::Stable | Phase::CompletingRebalance => self.prepare_rebalance(scene),
            Phase::PreparingRebalance => self.complete_join_if_all_are_there(scene),
            Phase::Empty => {}
        }
    }

    /// Starts a member's session anew.
    pub(super) fn start_session(&self, id: &str, scene: &mut Scene<'_>) {
        if let Some((id, member)) = self.members.get_key_value(id) {
            let at = scene.now.session.saturating_add(member.session_timeout);
            scene.timers.set(
                Timer::ClassicSession(Arc::clone(&self.id), Arc::clone(id)),
                at,
            );
        }
    }

    pub(super) fn write(&self, scene: &mut Scene<'_>) {
        scene.write(GroupRecord::Classic(
            Arc::clone(&self.id),
            Some(self.value()),
        ));
    }
}
