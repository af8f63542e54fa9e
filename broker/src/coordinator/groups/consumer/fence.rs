//! Who is let through: epochs and instance ids of KIP-848 members, and the requests themselves.

use std::sync::Arc;

use logweir_proto::ErrorCode;

use super::group::{ConsumerGroup, Member};
use crate::coordinator::groups::answer::GroupError;
use crate::coordinator::groups::assignors::Assignor;
use crate::coordinator::groups::ids::{Assignment, Epoch, InstanceId};
use crate::coordinator::groups::records::CurrentValue;
use crate::coordinator::groups::request::ConsumerHeartbeat;
use crate::coordinator::groups::{check_group_id, check_name};

/// The most topic names of a member.
const MAX_TOPIC_NAMES: usize = 10_000;

/// Checks a heartbeat by itself, in Kafka's order.
///
/// # Errors
/// INVALID_REQUEST, UNSUPPORTED_ASSIGNOR.
pub(super) fn check_request(request: &ConsumerHeartbeat) -> Result<(), GroupError> {
    let invalid = |message: &str| Err(GroupError::new(ErrorCode::InvalidRequest, message));
    if check_group_id(&request.group_id).is_err() {
        return invalid("the group id is empty or too long");
    }
    let is_empty = |name: &Option<Arc<str>>| name.as_ref().is_some_and(|name| name.is_empty());
    if is_empty(&request.instance_id) || is_empty(&request.rack_id) {
        return invalid("an instance id or rack is empty; leave it out");
    }
    match request.member_epoch {
        Epoch::JOIN => {
            if request.rebalance_timeout.is_none() {
                return invalid("a join needs a rebalance timeout");
            }
            if request.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
                return invalid("who joins must say that it owns nothing");
            }
            if request.topic_names.is_none() && request.topic_regex.is_none() {
                return invalid("a join needs topic names or a pattern");
            }
        }
        epoch if epoch < Epoch::LEAVE_STATIC => return invalid("there is no such member epoch"),
        Epoch::LEAVE_STATIC if request.instance_id.is_none() => {
            return invalid("only a member with an instance id leaves for a while");
        }
        _ if request.member_id.is_empty() => return invalid("the member id is missing"),
        _ => {}
    }
    let names = request.topic_names.as_deref().unwrap_or_default();
    if names.len() > MAX_TOPIC_NAMES {
        return invalid("too many topic names");
    }
    for name in [&request.member_id, &request.client_id, &request.client_host]
        .into_iter()
        .chain(&request.instance_id)
        .chain(&request.rack_id)
        .chain(&request.topic_regex)
        .chain(&request.server_assignor)
        .chain(names)
    {
        check_name(name)?;
    }
    match request.server_assignor.as_deref() {
        Some(name) if Assignor::from_name(name).is_none() => {
            let known: Vec<_> = Assignor::ALL.into_iter().map(Assignor::name).collect();
            let message = format!(
                "there is no assignor {name:?}; there are {}",
                known.join(", ")
            );
            Err(GroupError::new(ErrorCode::UnsupportedAssignor, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// Checks a member's epoch. The one before is let through if the member owns no more than it was given since, or has yet to
/// let go of: the answer that told it of the new one may be lost, or on its way. Kafka, whose members send one heartbeat
/// at a time, knows what was given only.
///
/// # Errors
/// FENCED_MEMBER_EPOCH.
pub(super) fn check_epoch(
    current: &CurrentValue,
    request: &ConsumerHeartbeat,
) -> Result<(), GroupError> {
    let received = request.member_epoch;
    let within = |owned: &Assignment| {
        let beyond = owned.without(&current.assigned);
        beyond.is_subset_of(&current.pending_revocation)
    };
    let may_retry =
        received == current.previous_epoch && request.owned.as_ref().is_some_and(within);
    if received == current.epoch || (received < current.epoch && may_retry) {
        return Ok(());
    }
    let message = format!(
        "member epoch {received} is not the member's, which is {}; give up all partitions and join again",
        current.epoch
    );
    Err(GroupError::new(ErrorCode::FencedMemberEpoch, message))
}

/// The member that holds an instance id, which must be this one.
///
/// # Errors
/// UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID.
pub(super) fn check_instance(
    group: &ConsumerGroup,
    instance: &InstanceId,
    id: &str,
) -> Result<Arc<Member>, GroupError> {
    let holder = group.instance(instance);
    let member = holder.and_then(|holder| Some((holder, group.members.get(holder)?)));
    let Some((holder, member)) = member else {
        let message = format!("no member has the instance id {instance:?}");
        return Err(GroupError::new(ErrorCode::UnknownMemberId, message));
    };
    if **holder != *id {
        let message = format!("another member has the instance id {instance:?} now");
        return Err(GroupError::new(ErrorCode::FencedInstanceId, message));
    }
    Ok(Arc::clone(member))
}

/// The error for a static member whose place is still held.
pub(super) fn unreleased(instance: &str) -> GroupError {
    let message = format!("another member has the instance id {instance:?} and has not left");
    GroupError::new(ErrorCode::UnreleasedInstanceId, message)
}

#[cfg(test)]
mod tests {
    use logweir_proto::{PartitionId, TopicId};

    use super::*;
    use crate::coordinator::groups::records::MemberState;
    use crate::coordinator::groups::tests::first_beat;

    fn partitions(numbers: &[i32]) -> Assignment {
        let topic = TopicId::new([7; 16]);
        let numbers = numbers.iter();
        numbers.map(|n| (topic, PartitionId::new(*n))).collect()
    }

    #[test]
    fn the_epoch_before_is_let_through_with_what_is_still_to_be_let_go_of_and_no_more() {
        let current = CurrentValue {
            epoch: Epoch::new(3),
            previous_epoch: Epoch::new(2),
            state: MemberState::UnrevokedPartitions,
            assigned: partitions(&[1]),
            pending_revocation: partitions(&[2]),
        };
        let passes = |epoch: i32, owned: Option<&[i32]>| {
            let request = ConsumerHeartbeat {
                member_epoch: Epoch::new(epoch),
                owned: owned.map(partitions),
                ..first_beat("g", "m")
            };
            check_epoch(&current, &request).is_ok()
        };
        assert!(passes(2, Some(&[1, 2])) && passes(2, Some(&[])));
        assert!(!passes(2, Some(&[1, 2, 3])), "another may have 3");
        assert!(!passes(2, None), "who does not say may own anything");
        assert!(passes(3, None) && !passes(1, Some(&[])) && !passes(4, Some(&[])));
    }
}
