//! What a heartbeat of a KIP-848 member comes to. Pure: state, topics and request give records and an answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::{ErrorCode, Timestamp};

use super::draft::Draft;
use super::fence::{check_epoch, check_instance, unreleased};
use super::group::{ConsumerGroup, Member};
use super::reconcile::{Goal, reconcile};
use super::subscription::{Subscriptions, read_pattern};
use crate::coordinator::groups::answer::GroupError;
use crate::coordinator::groups::classic::unknown_member;
use crate::coordinator::groups::config::GroupConfig;
use crate::coordinator::groups::ids::{Assignment, Epoch, GroupId, MemberId};
use crate::coordinator::groups::records::{CurrentValue, GroupRecord, MemberState, MemberValue};
use crate::coordinator::groups::request::ConsumerHeartbeat;
use crate::coordinator::groups::topics::Topics;

/// What is known when a plan is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) config: &'a GroupConfig,
    pub(super) topics: &'a Topics,
    /// Whether the topics may have changed since the group's hash was made.
    pub(super) is_refresh_due: bool,
    /// Whether the target assignment may be made now; else it is left for later.
    pub(super) may_assign: bool,
    pub(super) now: Timestamp,
}

/// What to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) records: Vec<GroupRecord>,
    pub(super) epoch: Epoch,
    /// What the member has to be told; `None` if it knows.
    pub(super) assignment: Option<Assignment>,
    /// Whether its epoch or assignment is not what it was.
    pub(super) is_news: bool,
    pub(super) stirs_others: bool,
    /// The group goes on to another epoch.
    pub(super) has_moved: bool,
    /// The target assignment was made anew.
    pub(super) has_assigned: bool,
    /// It is behind, and left for later.
    pub(super) owes_assignment: bool,
    /// Whether a time to let go of partitions begins now, or one that runs has no object any more.
    pub(super) revocation: Revocation,
    /// The id that the member had before it came back.
    pub(super) replaced: Option<MemberId>,
}

/// What becomes of the time that a member has for letting go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revocation {
    Unchanged,
    Begins(Duration),
    Ends,
}

/// Plans a heartbeat that joins or stays; `group` is `None` where there is no group of this kind yet.
///
/// # Errors
/// GROUP_ID_NOT_FOUND, GROUP_MAX_SIZE_REACHED, UNKNOWN_MEMBER_ID, FENCED_MEMBER_EPOCH, UNRELEASED_INSTANCE_ID,
/// FENCED_INSTANCE_ID, and those of a pattern.
pub(super) fn plan_heartbeat(
    group: Option<&ConsumerGroup>,
    request: &ConsumerHeartbeat,
    id: &MemberId,
    known: Known<'_>,
) -> Result<Plan, GroupError> {
    let group = match group {
        Some(group) => Cow::Borrowed(group),
        None if request.member_epoch == Epoch::JOIN => Cow::Owned(ConsumerGroup::default()),
        None => return Err(group_not_found(&request.group_id)),
    };
    if !group.members.contains_key(id) && group.members.len() >= known.config.consumer_max_size {
        let message = format!(
            "group {:?} has its maximum number of members",
            request.group_id
        );
        return Err(GroupError::new(ErrorCode::GroupMaxSizeReached, message));
    }
    if let Some(pattern) = request.topic_regex.as_deref().filter(|p| !p.is_empty()) {
        read_pattern(known.config.patterns, pattern)?;
    }
    let mut draft = Draft::new(&request.group_id, group);
    let (before, replaced) = find_member(&mut draft, request, id)?;
    let is_new = !draft.group.members.contains_key(id);
    let mut resubscribes = false;
    let mut timeout = before.value.rebalance_timeout;
    if is_new || says_something(&before.value, request) {
        let value = updated(&before.value, request);
        timeout = value.rebalance_timeout;
        resubscribes = value.topic_names != before.value.topic_names
            || value.topic_regex != before.value.topic_regex;
        if is_new || value != before.value {
            draft.put_member(id, value);
        }
    }
    refresh(&mut draft, is_new || resubscribes, known);
    let owned = request.owned.as_ref();
    let is_full = request.member_epoch == Epoch::JOIN
        || (request.rebalance_timeout.is_some()
            && (request.topic_names.is_some() || request.topic_regex.is_some())
            && owned.is_some());
    let mut plan = step(draft, id, &before.current, owned, timeout);
    if is_full && plan.assignment.is_none() {
        plan.assignment = Some(before.current.assigned.clone());
    }
    plan.replaced = replaced;
    Ok(plan)
}

/// Plans what a member that waits for news is to be told, if there are any.
pub(super) fn plan_news(
    group: &ConsumerGroup,
    id: &GroupId,
    member_id: &MemberId,
    known: Known<'_>,
) -> Option<Plan> {
    let before = Arc::clone(group.members.get(member_id)?);
    let mut draft = Draft::new(id, Cow::Borrowed(group));
    refresh(&mut draft, false, known);
    let timeout = before.value.rebalance_timeout;
    Some(step(draft, member_id, &before.current, None, timeout))
}

/// Moves the group on where its subscriptions or their topics have changed, and makes the target if it is behind and may
/// be made.
fn refresh(draft: &mut Draft<'_>, resubscribed: bool, known: Known<'_>) {
    let mut subscriptions = Subscriptions::new(known.topics, known.config.patterns);
    if resubscribed || known.is_refresh_due {
        let hash = subscriptions.hash(draft.subscribed());
        if resubscribed || hash != draft.group.metadata_hash {
            draft.bump(hash, known.now);
        }
    }
    if known.may_assign && draft.epoch > draft.target_epoch() {
        draft.retarget(&mut subscriptions);
    }
}

/// Leads the member to its target, as far as it can go now. Of what is drafted and not applied it need not know: that
/// members have come, and that the group moves on.
fn step(
    mut draft: Draft<'_>,
    id: &MemberId,
    before: &CurrentValue,
    owned: Option<&Assignment>,
    rebalance_timeout: Duration,
) -> Plan {
    let group = &draft.group;
    let target = group.targets.get(id).cloned().unwrap_or_default();
    let goal = Goal {
        epoch: draft.target_epoch(),
        assignment: &target,
        owned,
    };
    let is_taken = |topic, partition| group.owner(topic, partition).is_some_and(|o| o != id);
    let mut plan = Plan {
        records: Vec::new(),
        epoch: before.epoch,
        assignment: None,
        is_news: false,
        stirs_others: false,
        has_moved: draft.has_moved,
        has_assigned: draft.has_assigned,
        owes_assignment: draft.epoch > draft.target_epoch(),
        revocation: Revocation::Unchanged,
        replaced: None,
    };
    if let Some(next) = reconcile(before, goal, is_taken) {
        plan.revocation = match next.state {
            MemberState::UnrevokedPartitions => Revocation::Begins(rebalance_timeout),
            _ => Revocation::Ends,
        };
        let has_changed = next.assigned != before.assigned;
        plan.is_news = has_changed || next.epoch != before.epoch;
        plan.assignment = has_changed.then(|| next.assigned.clone());
        plan.epoch = next.epoch;
        let keeps = |t, p| next.assigned.contains(t, p) || next.pending_revocation.contains(t, p);
        let mut had = before
            .assigned
            .iter()
            .chain(before.pending_revocation.iter());
        draft.stirs_others |= had.any(|(topic, partition)| !keeps(topic, partition));
        draft.put_current(id, next);
    }
    plan.records = draft.records;
    plan.stirs_others = draft.stirs_others;
    plan
}

/// The member that a heartbeat is of, as it is before it, and the id that it had if it comes back with another.
fn find_member(
    draft: &mut Draft<'_>,
    request: &ConsumerHeartbeat,
    id: &MemberId,
) -> Result<(Arc<Member>, Option<MemberId>), GroupError> {
    let joins = request.member_epoch == Epoch::JOIN;
    let known = draft.group.members.get(id).cloned();
    let Some(instance) = &request.instance_id else {
        let member = match known {
            Some(member) => member,
            None if joins => return Ok((Arc::default(), None)),
            None => return Err(unknown_member(&request.group_id, id)),
        };
        if !joins {
            check_epoch(&member.current, request)?;
        }
        return Ok((member, None));
    };
    if !joins {
        let member = check_instance(&draft.group, instance, id)?;
        check_epoch(&member.current, request)?;
        return Ok((member, None));
    }
    let holder = draft.group.instance(instance).cloned();
    let Some(holder) = holder.filter(|holder| holder != id) else {
        return Ok((known.unwrap_or_default(), None));
    };
    let old = draft
        .group
        .members
        .get(&holder)
        .cloned()
        .unwrap_or_default();
    if old.current.epoch != Epoch::LEAVE_STATIC {
        return Err(unreleased(instance));
    }
    Ok((replace(draft, &holder, id, &old), Some(holder)))
}

/// Gives all that a static member had to the id that it comes back with.
fn replace(draft: &mut Draft<'_>, old_id: &MemberId, id: &MemberId, old: &Member) -> Arc<Member> {
    let target = draft.group.targets.get(old_id).cloned().unwrap_or_default();
    draft.remove(old_id);
    draft.put_member(id, old.value.clone());
    draft.put_target(id, Assignment::clone(&target));
    let current = CurrentValue {
        epoch: Epoch::JOIN,
        previous_epoch: Epoch::JOIN,
        ..old.current.clone()
    };
    draft.put_current(id, current.clone());
    draft.apply();
    Arc::new(Member {
        value: old.value.clone(),
        current,
    })
}

/// Whether a heartbeat may tell of its member what is not known; most do not, and nothing need be copied.
fn says_something(known: &MemberValue, request: &ConsumerHeartbeat) -> bool {
    known.client_id != request.client_id
        || known.client_host != request.client_host
        || request.instance_id.is_some()
        || request.rack_id.is_some()
        || request.rebalance_timeout.is_some()
        || request.server_assignor.is_some()
        || request.topic_names.is_some()
        || request.topic_regex.is_some()
}

/// What the member says of itself from now on.
fn updated(before: &MemberValue, request: &ConsumerHeartbeat) -> MemberValue {
    let mut value = before.clone();
    value.client_id = Arc::clone(&request.client_id);
    value.client_host = Arc::clone(&request.client_host);
    if request.instance_id.is_some() {
        value.instance_id.clone_from(&request.instance_id);
    }
    if request.rack_id.is_some() {
        value.rack_id.clone_from(&request.rack_id);
    }
    if let Some(timeout) = request.rebalance_timeout {
        value.rebalance_timeout = timeout;
    }
    if request.server_assignor.is_some() {
        value.server_assignor.clone_from(&request.server_assignor);
    }
    if let Some(names) = &request.topic_names {
        value.topic_names = names.iter().cloned().collect();
    }
    if let Some(pattern) = &request.topic_regex {
        value.topic_regex = Some(Arc::clone(pattern)).filter(|p| !p.is_empty());
    }
    value
}

pub(super) fn group_not_found(id: &str) -> GroupError {
    let message = format!("there is no group {id:?} of the consumer protocol (KIP-848)");
    GroupError::new(ErrorCode::GroupIdNotFound, message)
}
