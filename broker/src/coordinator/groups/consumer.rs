//! The consumer group protocol (KIP-848): members heartbeat, the coordinator assigns, and a partition is handed on
//! only after its former owner let go.
//!
//! Beside Kafka's there is what gRPC members need: a heartbeat may wait for news, and members whose polls are watched
//! are removed when they do not poll. A change of topics moves a group on at its next heartbeat, as in Kafka.

mod draft;
mod fence;
pub(super) mod group;
mod plan;
mod reconcile;
mod subscription;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::ErrorCode;

pub(super) use self::group::ConsumerGroup;

use self::draft::Draft;
use self::plan::{Known, Plan, Revocation, group_not_found, plan_heartbeat, plan_news};
use self::subscription::Subscriptions;
use super::GroupMachine;
use super::answer::{
    ConsumerDescription, ConsumerHeartbeatAnswer, ConsumerMemberDescription, GroupAnswer,
    GroupError,
};
use super::classic::unknown_member;
use super::ids::{Epoch, GroupId, MemberId};
use super::records::{CurrentValue, GroupRecord, MemberState};
use super::request::{CommitOffsets, ConsumerHeartbeat, FetchGroup, PollMark};
use super::scene::Decision;
use super::timers::Timer;
use crate::coordinator::machine::{CallId, Now};

/// So many members that were removed for not polling are remembered, to tell them why.
const REMEMBERED_IDLERS: usize = 1_000;

/// Heartbeats that may wait for an interval wait until a multiple of this part of it: those that have begun to wait about
/// the same time are answered together, and so is what their members send next. One by one, a thousand idle members woke
/// the broker hundreds of times a second, which cost five times as much.
const WAIT_PARTS: u32 = 10;

/// After so many changes a group is assigned anew in any case, so that its targets fit a batch of the log.
const MAX_UNASSIGNED: usize = 1_000;

/// What is transient of a group.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// The topics may have changed since the group last looked.
    is_refresh_due: bool,
    /// When the target assignment was made last.
    assigned_at: Option<Duration>,
    /// Changes since then that it does not know of.
    unassigned: usize,
    /// Heartbeats that wait for news.
    waiting: BTreeMap<MemberId, CallId>,
    /// Whom of them there may be news for, beside all if `check_all` says so.
    to_check: BTreeSet<MemberId>,
    /// There may be news for whoever waits when the timer for it rings.
    check_all: bool,
}

/// Members that were removed because they did not poll, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Idlers(std::collections::VecDeque<(GroupId, MemberId)>);

impl Idlers {
    fn remember(&mut self, group: &GroupId, member: &MemberId) {
        if self.0.len() == REMEMBERED_IDLERS {
            self.0.pop_front();
        }
        self.0.push_back((Arc::clone(group), Arc::clone(member)));
    }

    fn forget(&mut self, group: &str, member: &str) {
        self.0.retain(|(g, m)| **g != *group || **m != *member);
    }

    /// The error for who is no member, with the reason if it is known.
    pub(super) fn unknown(&self, group: &str, member: &str) -> GroupError {
        let mut error = unknown_member(group, member);
        if self.0.iter().any(|(g, m)| **g == *group && **m == *member) {
            error.message.push_str(
                ": it did not poll within its max poll interval and was removed; its partitions may have another owner",
            );
        }
        error
    }
}

/// Until when a heartbeat waits, at most an interval.
fn until(now: Now, wait: Duration, interval: Duration) -> Duration {
    let at = now.session.saturating_add(wait.min(interval));
    let surplus = at
        .as_nanos()
        .checked_rem((interval / WAIT_PARTS).as_nanos());
    match surplus.map(u64::try_from) {
        Some(Ok(surplus)) if wait >= interval => at.saturating_sub(Duration::from_nanos(surplus)),
        _ => at,
    }
}

impl GroupMachine {
    pub(super) fn consumer_heartbeat(
        &mut self,
        call: CallId,
        request: &ConsumerHeartbeat,
        now: Now,
        decision: &mut Decision,
    ) {
        let answer = if let Err(error) = fence::check_request(request) {
            Some(Err(error))
        } else if request.member_epoch < Epoch::JOIN {
            Some(self.consumer_leave(request, now, decision))
        } else {
            self.consumer_stay(call, request, now, decision).transpose()
        };
        if let Some(answer) = answer {
            decision
                .answers
                .push((call, GroupAnswer::ConsumerHeartbeat(answer)));
        }
    }

    /// Joins, or stays. `None` if the answer waits for news.
    fn consumer_stay(
        &mut self,
        call: CallId,
        request: &ConsumerHeartbeat,
        now: Now,
        decision: &mut Decision,
    ) -> Result<Option<ConsumerHeartbeatAnswer>, GroupError> {
        let group_id = &request.group_id;
        let joins = request.member_epoch == Epoch::JOIN;
        let member_id: MemberId = if request.member_id.is_empty() {
            (self.new_uuid)().to_string().into()
        } else {
            Arc::clone(&request.member_id)
        };
        let converts = joins && self.can_convert(group_id)?;
        let known = self.known(group_id, now);
        let plan = plan_heartbeat(self.state.consumer(group_id), request, &member_id, known)
            .map_err(|error| self.explain(error, group_id, &member_id))?;
        if converts {
            let record = Self::classic_tombstone(group_id);
            decision.records.push(record);
        }
        if joins {
            self.forget_classic(group_id);
        }
        if let Some(old) = &plan.replaced {
            self.forget_member(group_id, old, decision);
        }
        let interval = self.config.consumer_heartbeat_interval;
        let answer = ConsumerHeartbeatAnswer {
            member_id: Arc::clone(&member_id),
            member_epoch: plan.epoch,
            heartbeat_interval: interval,
            assignment: plan.assignment.clone(),
        };
        let is_news = joins || plan.is_news || plan.assignment.is_some();
        self.tell_waiting(group_id, &member_id, decision);
        self.carry_out(group_id, &member_id, plan, now, decision);
        let group = || Arc::clone(group_id);
        let at = now
            .session
            .saturating_add(self.config.consumer_session_timeout);
        self.timers
            .set(Timer::ConsumerSession(group(), Arc::clone(&member_id)), at);
        self.note_poll(group_id, &member_id, request.poll, joins, now);
        let Some(wait) = request.wait.filter(|_| !is_news) else {
            return Ok(Some(answer));
        };
        let at = until(now, wait, interval);
        self.timers
            .set(Timer::ConsumerWait(group(), Arc::clone(&member_id)), at);
        self.waiting.insert(call, (group(), Arc::clone(&member_id)));
        self.consumer
            .entry(group())
            .or_default()
            .waiting
            .insert(member_id, call);
        Ok(None)
    }

    /// Whether a classic group has to be ended first.
    fn can_convert(&self, id: &GroupId) -> Result<bool, GroupError> {
        let has_members = |group: &super::ClassicGroup| !group.is_empty();
        match self.classic.get(id) {
            Some(group) if has_members(group) => Err(group_not_found(id)),
            Some(_) => Ok(self.state.classic(id).is_some()),
            None => Ok(false),
        }
    }

    fn known(&self, id: &GroupId, now: Now) -> Known<'_> {
        Known {
            config: &self.config,
            topics: &self.topics,
            is_refresh_due: self
                .consumer
                .get(id)
                .is_some_and(|live| live.is_refresh_due),
            may_assign: self.may_assign_at(id) <= now.session,
            now: now.wall,
        }
    }

    /// When the target assignment of a group may be made. One of a large group is made at most once in a while: it costs
    /// every member a step to the next epoch, and as long as members come one by one all but the last would be for
    /// nothing (as in KIP-1263, which has one interval for groups of every size).
    fn may_assign_at(&self, id: &GroupId) -> Duration {
        let live = self.consumer.get(id);
        let live = live.filter(|live| live.unassigned < MAX_UNASSIGNED);
        let size = self.state.consumer(id).map_or(0, |g| g.members.len());
        let Some(assigned_at) = live
            .and_then(|live| live.assigned_at)
            .filter(|_| size >= self.config.consumer_batched_size)
        else {
            return Duration::ZERO;
        };
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let pause = self.config.consumer_assignment_pause.saturating_mul(size);
        assigned_at.saturating_add(pause.min(self.config.consumer_heartbeat_interval))
    }

    /// Says why somebody is no member, if that is known.
    fn explain(&self, error: GroupError, group: &str, member: &str) -> GroupError {
        match error.code {
            ErrorCode::UnknownMemberId => self.idlers.unknown(group, member),
            _ => error,
        }
    }

    /// Writes a plan and keeps what is transient in step with it.
    fn carry_out(
        &mut self,
        group: &GroupId,
        member: &MemberId,
        plan: Plan,
        now: Now,
        decision: &mut Decision,
    ) {
        let timer = Timer::ConsumerRebalance(Arc::clone(group), Arc::clone(member));
        match plan.revocation {
            Revocation::Unchanged => {}
            Revocation::Begins(left) => {
                self.timers.set(timer, now.session.saturating_add(left));
            }
            Revocation::Ends => self.timers.cancel(&timer),
        }
        let live = self.consumer.entry(Arc::clone(group)).or_default();
        // Only where there is nothing to write: what is written may turn out not to fit, and then has to be tried again.
        if plan.records.is_empty() {
            live.is_refresh_due = false;
        }
        if plan.has_assigned {
            live.assigned_at = Some(now.session);
            live.unassigned = 0;
        }
        live.unassigned += usize::from(plan.owes_assignment && plan.has_moved);
        decision.records.extend(plan.records);
        if plan.stirs_others {
            self.stir(group, now.session);
        }
        if plan.owes_assignment {
            let at = self.may_assign_at(group).max(now.session);
            self.stir(group, at);
        }
    }

    /// Lets whoever waits at `at` look whether there are news.
    fn stir(&mut self, group: &GroupId, at: Duration) {
        if let Some(live) = self.consumer.get_mut(group) {
            live.check_all = true;
            self.timers
                .hasten(Timer::ConsumerNews(Arc::clone(group)), at);
        }
    }

    fn note_poll(
        &mut self,
        group: &GroupId,
        member: &MemberId,
        poll: Option<PollMark>,
        joins: bool,
        now: Now,
    ) {
        let Some(PollMark {
            polled,
            max_interval,
        }) = poll
        else {
            return;
        };
        if joins {
            self.idlers.forget(group, member);
        }
        let timer = Timer::ConsumerPoll(Arc::clone(group), Arc::clone(member));
        if polled || joins || !self.timers.is_set(&timer) {
            self.timers
                .set(timer, now.session.saturating_add(max_interval));
        }
    }

    /// Answers a heartbeat of the member that waits, without news.
    fn tell_waiting(&mut self, group: &GroupId, member: &MemberId, decision: &mut Decision) {
        let Some(call) = self.stop_waiting(group, member) else {
            return;
        };
        let epoch = self
            .state
            .consumer(group)
            .and_then(|g| g.members.get(member));
        let answer = ConsumerHeartbeatAnswer {
            member_id: Arc::clone(member),
            member_epoch: epoch.map(|m| m.current.epoch).unwrap_or_default(),
            heartbeat_interval: self.config.consumer_heartbeat_interval,
            assignment: None,
        };
        decision
            .answers
            .push((call, GroupAnswer::ConsumerHeartbeat(Ok(answer))));
    }

    fn stop_waiting(&mut self, group: &GroupId, member: &MemberId) -> Option<CallId> {
        let live = self.consumer.get_mut(group)?;
        live.to_check.remove(member);
        let call = live.waiting.remove(member)?;
        self.waiting.remove(&call);
        self.timers
            .cancel(&Timer::ConsumerWait(Arc::clone(group), Arc::clone(member)));
        Some(call)
    }

    /// Forgets what is transient of a member that is gone, and tells it so if it waits.
    fn forget_member(&mut self, group: &GroupId, member: &MemberId, decision: &mut Decision) {
        if let Some(call) = self.stop_waiting(group, member) {
            let error = self.idlers.unknown(group, member);
            decision
                .answers
                .push((call, GroupAnswer::ConsumerHeartbeat(Err(error))));
        }
        let names = || (Arc::clone(group), Arc::clone(member));
        for timer in [
            Timer::ConsumerSession,
            Timer::ConsumerRebalance,
            Timer::ConsumerPoll,
        ] {
            let (group, member) = names();
            self.timers.cancel(&timer(group, member));
        }
    }

    fn consumer_leave(
        &mut self,
        request: &ConsumerHeartbeat,
        now: Now,
        decision: &mut Decision,
    ) -> Result<ConsumerHeartbeatAnswer, GroupError> {
        let (group_id, id) = (&request.group_id, &request.member_id);
        let group = self
            .state
            .consumer(group_id)
            .ok_or_else(|| group_not_found(group_id))?;
        let member = match &request.instance_id {
            Some(instance) => fence::check_instance(group, instance, id)?,
            None => group
                .members
                .get(id)
                .cloned()
                .ok_or_else(|| self.idlers.unknown(group_id, id))?,
        };
        if request.member_epoch == Epoch::LEAVE_STATIC {
            let current = CurrentValue {
                epoch: Epoch::LEAVE_STATIC,
                previous_epoch: member.current.epoch,
                state: MemberState::Stable,
                assigned: member.current.assigned.clone(),
                pending_revocation: super::ids::Assignment::default(),
            };
            let (group, member) = (Arc::clone(group_id), Arc::clone(id));
            self.tell_waiting(group_id, id, decision);
            for timer in [Timer::ConsumerRebalance, Timer::ConsumerPoll] {
                self.timers
                    .cancel(&timer(Arc::clone(&group), Arc::clone(&member)));
            }
            decision
                .records
                .push(GroupRecord::Current(group, member, Some(current)));
            self.stir(group_id, now.session);
        } else {
            self.fence(group_id, id, now, decision);
        }
        Ok(ConsumerHeartbeatAnswer {
            member_id: Arc::clone(id),
            member_epoch: request.member_epoch,
            // There is no next one.
            heartbeat_interval: Duration::ZERO,
            assignment: None,
        })
    }

    /// Takes a member out of its group, and moves the group on.
    fn fence(&mut self, id: &GroupId, member: &MemberId, now: Now, decision: &mut Decision) {
        let Some(group) = self.state.consumer(id) else {
            return;
        };
        if group.members.contains_key(member) {
            let mut draft = Draft::new(id, Cow::Borrowed(group));
            draft.remove(member);
            let patterns = self.config.patterns;
            let hash = Subscriptions::new(&self.topics, patterns).hash(draft.subscribed());
            draft.bump(hash, now.wall);
            decision.records.append(&mut draft.records);
        }
        self.forget_member(id, member, decision);
        // What it had is given to others with the next assignment.
        let at = self.may_assign_at(id).max(now.session);
        self.stir(id, at);
    }

    /// Does what one timer of a KIP-848 member or group is for.
    pub(super) fn on_consumer_timer(&mut self, timer: Timer, now: Now, decision: &mut Decision) {
        match timer {
            Timer::ConsumerSession(group, member) | Timer::ConsumerRebalance(group, member) => {
                self.fence(&group, &member, now, decision);
            }
            Timer::ConsumerPoll(group, member) => {
                self.idlers.remember(&group, &member);
                self.fence(&group, &member, now, decision);
            }
            Timer::ConsumerWait(group, member) => self.tell_waiting(&group, &member, decision),
            Timer::ConsumerNews(group) => self.look_for_news(&group, now, decision),
            Timer::ClassicSession(..) | Timer::ClassicJoin(_) | Timer::ClassicSync(_) => {}
        }
    }

    /// Takes those that may have news until one has: the next decision must see what that one wrote.
    fn look_for_news(&mut self, id: &GroupId, now: Now, decision: &mut Decision) {
        if let Some(live) = self.consumer.get_mut(id)
            && std::mem::take(&mut live.check_all)
        {
            live.to_check = live.waiting.keys().cloned().collect();
        }
        while decision.records.is_empty() {
            let Some(live) = self.consumer.get_mut(id) else {
                return;
            };
            let Some(member) = live.to_check.pop_first() else {
                return self.look_again_when_assigned(id, now);
            };
            let known = self.known(id, now);
            let Some(group) = self.state.consumer(id) else {
                return;
            };
            let Some(plan) = plan_news(group, id, &member, known) else {
                continue;
            };
            if plan.is_news
                && let Some(call) = self.stop_waiting(id, &member)
            {
                let answer = ConsumerHeartbeatAnswer {
                    member_id: Arc::clone(&member),
                    member_epoch: plan.epoch,
                    heartbeat_interval: self.config.consumer_heartbeat_interval,
                    assignment: plan.assignment.clone(),
                };
                decision
                    .answers
                    .push((call, GroupAnswer::ConsumerHeartbeat(Ok(answer))));
            }
            self.carry_out(id, &member, plan, now, decision);
        }
        self.timers
            .hasten(Timer::ConsumerNews(Arc::clone(id)), now.session);
    }

    /// The timer may have rung for something else, before an assignment may be made that is still to come.
    fn look_again_when_assigned(&mut self, id: &GroupId, now: Now) {
        let owes = self
            .state
            .consumer(id)
            .is_some_and(ConsumerGroup::owes_assignment);
        let waits = |live: &Live| !live.waiting.is_empty();
        let at = self.may_assign_at(id);
        if owes && at > now.session && self.consumer.get(id).is_some_and(waits) {
            self.stir(id, at);
        }
    }

    /// The topics have changed: every group looks at its next heartbeat, and at once where heartbeats wait.
    pub(super) fn refresh_consumers(&mut self, now: Now) {
        let mut stirred = Vec::new();
        for (id, live) in &mut self.consumer {
            live.is_refresh_due = true;
            stirred.push(Arc::clone(id));
        }
        for id in stirred {
            self.stir(&id, now.session);
        }
    }

    /// The caller of a heartbeat that waits is gone. That is no leave: the member's session goes on.
    pub(super) fn abandon_consumer(&mut self, call: CallId, group: &GroupId, member: &MemberId) {
        let waits = |live: &Live| live.waiting.get(member) == Some(&call);
        if self.consumer.get(group).is_some_and(waits) {
            self.stop_waiting(group, member);
        }
    }

    /// Starts the sessions of members that were loaded.
    pub(super) fn load_consumers(&mut self, now: Now) {
        for (id, group) in &self.state.groups {
            let Some(super::state::Kind::Consumer(group)) = &group.kind else {
                continue;
            };
            let live = Live {
                is_refresh_due: true,
                ..Live::default()
            };
            self.consumer.insert(Arc::clone(id), live);
            for (member_id, member) in &group.members {
                let names = || (Arc::clone(id), Arc::clone(member_id));
                let (group, name) = names();
                let at = now
                    .session
                    .saturating_add(self.config.consumer_session_timeout);
                self.timers.set(Timer::ConsumerSession(group, name), at);
                if member.current.state == MemberState::UnrevokedPartitions {
                    let (group, name) = names();
                    let at = now.session.saturating_add(member.value.rebalance_timeout);
                    self.timers.set(Timer::ConsumerRebalance(group, name), at);
                }
            }
        }
    }

    pub(super) fn forget_consumer(&mut self, id: &GroupId) {
        self.consumer.remove(id);
        self.timers.cancel(&Timer::ConsumerNews(Arc::clone(id)));
    }

    /// Whether offsets may be committed to a KIP-848 group. `None` if it is none.
    pub(super) fn check_consumer_commit(
        &self,
        commit: &CommitOffsets,
    ) -> Option<Result<(), GroupError>> {
        let group = self.state.consumer(&commit.group_id)?;
        if commit.generation_or_epoch < 0 && group.members.is_empty() {
            return Some(Ok(()));
        }
        let epoch = Epoch::new(commit.generation_or_epoch);
        if !commit.knows_epochs && group.members.contains_key(&commit.member_id) {
            let message = "a member of the consumer protocol commits with version 9 or later";
            return Some(Err(GroupError::new(ErrorCode::UnsupportedVersion, message)));
        }
        Some(self.check_member_epoch(&commit.group_id, group, &commit.member_id, epoch))
    }

    /// Whether offsets may be fetched: who says that it is a member has to be one.
    pub(super) fn check_fetch(&self, fetch: &FetchGroup) -> Result<(), GroupError> {
        let Some(group) = self.state.consumer(&fetch.group_id) else {
            return Ok(());
        };
        if fetch.member_id.is_empty() && fetch.member_epoch < Epoch::JOIN {
            return Ok(());
        }
        self.check_member_epoch(&fetch.group_id, group, &fetch.member_id, fetch.member_epoch)
    }

    fn check_member_epoch(
        &self,
        id: &GroupId,
        group: &ConsumerGroup,
        member_id: &MemberId,
        epoch: Epoch,
    ) -> Result<(), GroupError> {
        let member = group.members.get(member_id);
        let member = member.ok_or_else(|| self.idlers.unknown(id, member_id))?;
        if member.current.epoch == epoch {
            return Ok(());
        }
        let message = format!(
            "member epoch {epoch} is not the member's, which is {}",
            member.current.epoch
        );
        Err(GroupError::new(ErrorCode::StaleMemberEpoch, message))
    }

    /// Whether a member of a KIP-848 group is subscribed to the topic.
    pub(super) fn is_consumer_subscribed(&self, id: &GroupId, topic: &str) -> bool {
        let Some(group) = self.state.consumer(id) else {
            return false;
        };
        let Some(found) = self.topics.get(topic) else {
            return group
                .members
                .values()
                .any(|m| m.value.topic_names.contains(topic));
        };
        let mut subscriptions = Subscriptions::new(&self.topics, self.config.patterns);
        group.members.values().any(|m| {
            let (names, pattern) = (&m.value.topic_names, m.value.topic_regex.as_ref());
            subscriptions.of(names, pattern).contains_key(&found.id)
        })
    }

    pub(super) fn describe_consumer(
        &self,
        id: &GroupId,
    ) -> Result<ConsumerDescription, GroupError> {
        let group = self.state.consumer(id).ok_or_else(|| group_not_found(id))?;
        let member = |(id, m): (&MemberId, &Arc<group::Member>)| ConsumerMemberDescription {
            member_id: Arc::clone(id),
            instance_id: m.value.instance_id.clone(),
            rack_id: m.value.rack_id.clone(),
            client_id: Arc::clone(&m.value.client_id),
            client_host: Arc::clone(&m.value.client_host),
            epoch: m.current.epoch,
            topic_names: m.value.topic_names.iter().cloned().collect(),
            topic_regex: m.value.topic_regex.clone(),
            assignment: m.current.assigned.clone(),
            target: group
                .targets
                .get(id)
                .map(|t| (**t).clone())
                .unwrap_or_default(),
        };
        Ok(ConsumerDescription {
            state: group.state(),
            epoch: group.epoch,
            assignment_epoch: group.target_epoch,
            assignor: Draft::assignor(group).name(),
            members: group.members.iter().map(member).collect(),
        })
    }
}
