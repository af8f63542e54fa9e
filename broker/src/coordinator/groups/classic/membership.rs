//! What members do between joins: SyncGroup, Heartbeat, LeaveGroup, and the fence of their commits.

use std::sync::Arc;

use logweir_proto::ErrorCode;

use super::group::{ClassicGroup, Phase, unknown_member};
use crate::coordinator::groups::answer::{GroupAnswer, GroupError, LeftMember};
use crate::coordinator::groups::ids::{Generation, InstanceId};
use crate::coordinator::groups::request::{Heartbeat, LeavingMember, SyncGroup};
use crate::coordinator::groups::scene::Scene;
use crate::coordinator::groups::timers::Timer;
use crate::coordinator::machine::CallId;

impl ClassicGroup {
    /// Takes a sync; it is answered now, or when the leader has assigned.
    pub(super) fn sync(&mut self, call: CallId, request: SyncGroup, scene: &mut Scene<'_>) {
        if let Err(error) = self.check_sync(&request) {
            return scene.answer(call, GroupAnswer::Sync(Err(error)));
        }
        let id = request.member_id;
        self.pending_sync.remove(&id);
        if self.pending_sync.is_empty() {
            scene
                .timers
                .cancel(&Timer::ClassicSync(Arc::clone(&self.id)));
        }
        if self.phase == Phase::Stable {
            scene.answer(call, GroupAnswer::Sync(Ok(self.synced(&id))));
            return self.start_session(&id, scene);
        }
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if let Some(earlier) = member.syncing.replace(call) {
            let message = "the member has sent another sync";
            let error = GroupError::new(ErrorCode::RebalanceInProgress, message);
            scene.answer(earlier, GroupAnswer::Sync(Err(error)));
        }
        scene.wait(call, &self.id, &id);
        if self.is_leader(&id) {
            self.complete_sync(request.assignments, scene);
        }
    }

    fn check_sync(&self, request: &SyncGroup) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.instance_id.as_ref())?;
        self.check_generation(request.generation)?;
        let differs =
            |given: &Option<Arc<str>>, ours: &Option<Arc<str>>| given.is_some() && given != ours;
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol, &self.protocol)
        {
            let message = "the protocol is not the one of this generation";
            return Err(GroupError::new(
                ErrorCode::InconsistentGroupProtocol,
                message,
            ));
        }
        match self.phase {
            Phase::Empty => Err(unknown_member(&self.id, &request.member_id)),
            Phase::PreparingRebalance => Err(rebalancing()),
            Phase::CompletingRebalance | Phase::Stable => Ok(()),
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        request: &Heartbeat,
        scene: &mut Scene<'_>,
    ) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.instance_id.as_ref())?;
        self.check_generation(request.generation)?;
        self.start_session(&request.member_id, scene);
        match self.phase {
            Phase::Empty => Err(unknown_member(&self.id, &request.member_id)),
            Phase::PreparingRebalance => Err(rebalancing()),
            Phase::CompletingRebalance | Phase::Stable => Ok(()),
        }
    }

    /// Lets members go, and rebalances once without them.
    pub(super) fn leave(
        &mut self,
        members: Vec<LeavingMember>,
        scene: &mut Scene<'_>,
    ) -> Vec<LeftMember> {
        let mut any = false;
        let mut left = Vec::with_capacity(members.len());
        for LeavingMember {
            member_id,
            instance_id,
        } in members
        {
            let result = self.leave_one(&member_id, instance_id.as_ref(), scene);
            any |= result.is_ok();
            left.push(LeftMember {
                member_id,
                instance_id,
                result,
            });
        }
        if any {
            self.rebalance_without_the_gone(scene);
        }
        left
    }

    fn leave_one(
        &mut self,
        id: &str,
        instance: Option<&InstanceId>,
        scene: &mut Scene<'_>,
    ) -> Result<(), GroupError> {
        // An administrator names a static member by its instance id alone.
        if id.is_empty() {
            let holder = instance
                .and_then(|instance| self.instances.get(instance))
                .cloned();
            let holder = holder.ok_or_else(|| unknown_member(&self.id, id))?;
            self.expel(&holder, "it was removed", scene);
            return Ok(());
        }
        if self.pending.remove(id) {
            scene
                .timers
                .cancel(&Timer::ClassicSession(Arc::clone(&self.id), id.into()));
            return Ok(());
        }
        self.check_member(id, instance)?;
        self.expel(id, "it has left", scene);
        Ok(())
    }

    /// Checks whether offsets may be committed, and keeps the committer's session.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS.
    pub(super) fn check_commit(
        &mut self,
        id: &str,
        instance: Option<&InstanceId>,
        generation: Generation,
        scene: &mut Scene<'_>,
    ) -> Result<(), GroupError> {
        if generation.get() < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        if generation.get() < 0 && id.is_empty() && instance.is_none() {
            let message = format!(
                "group {:?} has members; others cannot commit for it",
                self.id
            );
            return Err(GroupError::new(ErrorCode::UnknownMemberId, message));
        }
        self.check_member(id, instance)?;
        self.check_generation(generation)?;
        if self.phase == Phase::CompletingRebalance {
            return Err(rebalancing());
        }
        self.start_session(id, scene);
        Ok(())
    }
}

fn rebalancing() -> GroupError {
    GroupError::new(
        ErrorCode::RebalanceInProgress,
        "the group rebalances; join again",
    )
}
