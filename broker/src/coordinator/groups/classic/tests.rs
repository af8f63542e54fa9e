//! The classic protocol, edge by edge.

use std::time::Duration;

use bytes::Bytes;
use logweir_proto::ErrorCode;

use crate::coordinator::groups::answer::*;
use crate::coordinator::groups::ids::*;
use crate::coordinator::groups::request::*;
use crate::coordinator::groups::tests::*;
use crate::coordinator::machine::{CallId, Machine};

const G: &str = "g";

fn send_join(h: &mut Harness, request: JoinGroup) -> CallId {
    h.send(GroupRequest::Join(request))
}

/// A join that is answered at once with its generation.
fn joined(h: &mut Harness, request: JoinGroup) -> (String, Joined) {
    let call = send_join(h, request);
    take_joined(h, call)
}

fn take_joined(h: &mut Harness, call: CallId) -> (String, Joined) {
    let answer = h.take_join(call).expect("the join is answered");
    (answer.member_id.to_string(), answer.result.unwrap())
}

fn refused(h: &mut Harness, request: JoinGroup) -> (String, ErrorCode) {
    let call = send_join(h, request);
    let answer = h.take_join(call).expect("the join is answered");
    (
        answer.member_id.to_string(),
        answer.result.unwrap_err().code,
    )
}

fn send_sync(h: &mut Harness, member: &str, generation: i32, shares: &[(&str, u8)]) -> CallId {
    let share = |(id, byte): &(&str, u8)| (MemberId::from(*id), Bytes::from(vec![*byte]));
    let request = SyncGroup {
        group_id: G.into(),
        generation: Generation::new(generation),
        member_id: member.into(),
        instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: shares.iter().map(share).collect(),
    };
    h.send(GroupRequest::Sync(request))
}

fn synced(
    h: &mut Harness,
    member: &str,
    generation: i32,
    shares: &[(&str, u8)],
) -> Result<Vec<u8>, ErrorCode> {
    let call = send_sync(h, member, generation, shares);
    let answer = h.take_sync(call).expect("the sync is answered");
    answer.map(|synced| synced.assignment.to_vec())
}

fn heartbeat(h: &mut Harness, member: &str, generation: i32) -> ErrorCode {
    heartbeat_as(h, member, None, generation)
}

fn heartbeat_as(
    h: &mut Harness,
    member: &str,
    instance: Option<&str>,
    generation: i32,
) -> ErrorCode {
    let request = Heartbeat {
        group_id: G.into(),
        generation: Generation::new(generation),
        member_id: member.into(),
        instance_id: instance.map(InstanceId::from),
    };
    match h.ask(GroupRequest::Heartbeat(request)) {
        GroupAnswer::Heartbeat(answer) => code(&answer),
        other => panic!("{other:?}"),
    }
}

fn leave(h: &mut Harness, members: &[(&str, Option<&str>)]) -> Vec<ErrorCode> {
    let leaving = |(id, instance): &(&str, Option<&str>)| LeavingMember {
        member_id: (*id).into(),
        instance_id: instance.map(InstanceId::from),
    };
    let members = members.iter().map(leaving).collect();
    match h.ask(GroupRequest::Leave(LeaveGroup {
        group_id: G.into(),
        members,
    })) {
        GroupAnswer::Leave(left) => left.unwrap().iter().map(|m| code(&m.result)).collect(),
        other => panic!("{other:?}"),
    }
}

fn describe(h: &mut Harness, group: &str) -> ClassicDescription {
    match h.ask(GroupRequest::DescribeClassic(vec![group.into()])) {
        GroupAnswer::DescribeClassic(mut all) => all.remove(0).1,
        other => panic!("{other:?}"),
    }
}

/// A stable group of `count` members in generation `count`; the first leads.
fn stable(h: &mut Harness, count: usize) -> Vec<String> {
    let (first, _) = joined(h, join(G, ""));
    let mut members = vec![first];
    for _ in 1..count {
        let new = send_join(h, join(G, ""));
        let old: Vec<CallId> = members.iter().map(|id| send_join(h, join(G, id))).collect();
        for call in old {
            take_joined(h, call);
        }
        members.push(take_joined(h, new).0);
    }
    let generation = i32::try_from(count).unwrap();
    let followers: Vec<CallId> = members[1..]
        .iter()
        .map(|id| send_sync(h, id, generation, &[]))
        .collect();
    let shares: Vec<(&str, u8)> = members.iter().map(String::as_str).zip(1..).collect();
    assert_eq!(synced(h, &members[0], generation, &shares), Ok(vec![1]));
    for (call, share) in followers.into_iter().zip(2..) {
        assert_eq!(h.take_sync(call).unwrap().unwrap().assignment, vec![share]);
    }
    assert_eq!(h.state_of(G), "Stable");
    members
}

#[test]
fn two_members_join_sync_and_heartbeat() {
    let mut h = Harness::new();
    let members = stable(&mut h, 2);
    for member in &members {
        assert_eq!(heartbeat(&mut h, member, 2), ErrorCode::None);
    }
    let described = describe(&mut h, G);
    assert_eq!((described.state, &*described.protocol), ("Stable", "range"));
    assert_eq!(described.members.len(), 2);
    assert!(
        described
            .members
            .iter()
            .all(|m| m.metadata == protocol("range").metadata)
    );
    h.check_replay();
}

#[test]
fn a_member_that_comes_wakes_the_others_by_their_heartbeats() {
    let mut h = Harness::new();
    let members = stable(&mut h, 1);
    let call = send_join(&mut h, join(G, ""));
    assert_eq!(h.take_join(call), None);
    assert_eq!(h.state_of(G), "PreparingRebalance");
    assert_eq!(
        heartbeat(&mut h, &members[0], 1),
        ErrorCode::RebalanceInProgress
    );
    assert_eq!(
        synced(&mut h, &members[0], 1, &[]),
        Err(ErrorCode::RebalanceInProgress)
    );
    let (_, leads) = joined(&mut h, join(G, &members[0]));
    let (new, follows) = take_joined(&mut h, call);
    assert_eq!(leads.generation, Generation::new(2));
    assert_eq!(leads.members.len(), 2);
    assert_eq!(follows.members, []);
    assert_eq!(&*follows.leader, members[0]);
    assert_eq!(heartbeat(&mut h, &new, 2), ErrorCode::None);
}

#[test]
fn a_new_client_is_told_its_id_first() {
    let mut h = Harness::new();
    let request = || JoinGroup {
        member_id_required: true,
        ..join(G, "")
    };
    let (id, error) = refused(&mut h, request());
    assert_eq!(error, ErrorCode::MemberIdRequired);
    assert!(id.starts_with("client-"), "{id}");
    let (again, joined) = joined(&mut h, join(G, &id));
    assert_eq!((again, joined.generation), (id, Generation::new(1)));
    // An id that nobody uses is forgotten.
    let (id, _) = refused(&mut h, request());
    h.pass(11 * SECOND);
    assert_eq!(refused(&mut h, join(G, &id)).1, ErrorCode::UnknownMemberId);
}

#[test]
fn an_id_that_was_never_joined_with_leaves_nothing() {
    let mut h = Harness::new();
    refused(
        &mut h,
        JoinGroup {
            member_id_required: true,
            ..join(G, "")
        },
    );
    assert_eq!(h.state_of(G), "Empty");
    h.pass(11 * SECOND);
    assert_eq!(h.state_of(G), "none");
    assert_eq!(h.log, []);
}

#[test]
fn who_waits_for_an_id_holds_up_the_others() {
    let mut h = Harness::new();
    let members = stable(&mut h, 1);
    let (id, _) = refused(
        &mut h,
        JoinGroup {
            member_id_required: true,
            ..join(G, "")
        },
    );
    let call = send_join(&mut h, join(G, &members[0]));
    assert_eq!(h.take_join(call), None);
    assert_eq!(leave(&mut h, &[(&id, None)]), [ErrorCode::None]);
    take_joined(&mut h, call);
}

#[test]
fn a_new_group_waits_for_more_members() {
    let mut h = Harness::with(|config| config.initial_rebalance_delay = 3 * SECOND);
    let first = send_join(&mut h, join(G, ""));
    h.pass(2 * SECOND);
    let second = send_join(&mut h, join(G, ""));
    h.pass(2 * SECOND);
    // The second one made the wait longer by another delay.
    assert_eq!(h.take_join(first), None);
    h.pass(2 * SECOND);
    assert_eq!(take_joined(&mut h, first).1.generation, Generation::new(1));
    take_joined(&mut h, second);
}

#[test]
fn whoever_comes_after_all_have_left_a_new_group_may_speak_anything() {
    let mut h = Harness::with(|config| config.initial_rebalance_delay = 3 * SECOND);
    let first = send_join(&mut h, static_join("", "i1"));
    assert_eq!(leave(&mut h, &[("", Some("i1"))]), [ErrorCode::None]);
    let error = h.take_join(first).unwrap().result.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownMemberId);
    let call = send_join(
        &mut h,
        JoinGroup {
            protocol_type: "connect".into(),
            protocols: vec![protocol("other")],
            ..join(G, "")
        },
    );
    h.pass(6 * SECOND);
    assert_eq!(take_joined(&mut h, call).1.generation, Generation::new(1));
}

#[test]
fn the_wait_of_a_new_group_ends_with_its_rebalance_timeout() {
    let mut h = Harness::with(|config| config.initial_rebalance_delay = 3 * SECOND);
    let request = || JoinGroup {
        rebalance_timeout: 5 * SECOND,
        ..join(G, "")
    };
    let first = send_join(&mut h, request());
    for _ in 0..4 {
        h.pass(SECOND);
        send_join(&mut h, request());
    }
    h.pass(SECOND);
    take_joined(&mut h, first);
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let mut h = Harness::new();
    let long = || JoinGroup {
        session_timeout: 300 * SECOND,
        ..join(G, "")
    };
    let (slow, _) = joined(&mut h, long());
    assert_eq!(synced(&mut h, &slow, 1, &[(&slow, 1)]), Ok(vec![1]));
    let call = send_join(&mut h, long());
    h.pass(59 * SECOND);
    assert_eq!(h.take_join(call), None);
    h.pass(SECOND);
    let (id, alone) = take_joined(&mut h, call);
    assert_eq!(alone.members.len(), 1);
    assert_eq!(&*alone.leader, id);
    assert_eq!(heartbeat(&mut h, &slow, 1), ErrorCode::UnknownMemberId);
}

#[test]
fn who_does_not_sync_in_time_is_out() {
    let mut h = Harness::new();
    let long = || JoinGroup {
        session_timeout: 300 * SECOND,
        ..join(G, "")
    };
    let (first, _) = joined(&mut h, long());
    let new = send_join(&mut h, long());
    joined(
        &mut h,
        JoinGroup {
            session_timeout: 300 * SECOND,
            ..join(G, &first)
        },
    );
    let (second, _) = take_joined(&mut h, new);
    let waits = send_sync(&mut h, &second, 2, &[]);
    h.pass(60 * SECOND);
    // The leader never assigned.
    assert_eq!(
        h.take_sync(waits),
        Some(Err(ErrorCode::RebalanceInProgress))
    );
    assert_eq!(heartbeat(&mut h, &first, 2), ErrorCode::UnknownMemberId);
    assert_eq!(
        heartbeat(&mut h, &second, 2),
        ErrorCode::RebalanceInProgress
    );
    let (_, leads) = joined(&mut h, join(G, &second));
    assert_eq!(
        (leads.generation, leads.members.len()),
        (Generation::new(3), 1)
    );
}

#[test]
fn a_session_ends_without_heartbeats_and_the_group_becomes_empty() {
    let mut h = Harness::new();
    let members = stable(&mut h, 1);
    h.pass(9 * SECOND);
    assert_eq!(heartbeat(&mut h, &members[0], 1), ErrorCode::None);
    h.pass(9 * SECOND);
    assert_eq!(h.state_of(G), "Stable");
    h.pass(SECOND);
    assert_eq!(h.state_of(G), "Empty");
    assert_eq!(
        heartbeat(&mut h, &members[0], 1),
        ErrorCode::UnknownMemberId
    );
    let value = h.machine.state.classic(G).unwrap();
    assert_eq!(
        (value.generation, value.members.len()),
        (Generation::new(2), 0)
    );
    h.restart();
    assert_eq!(h.state_of(G), "Empty");
}

#[test]
fn errors_come_in_kafkas_order() {
    let mut h = Harness::new();
    assert_eq!(heartbeat(&mut h, "m", 0), ErrorCode::UnknownMemberId);
    assert_eq!(synced(&mut h, "m", 0, &[]), Err(ErrorCode::UnknownMemberId));
    assert_eq!(leave(&mut h, &[("m", None)]), [ErrorCode::UnknownMemberId]);
    assert_eq!(
        refused(&mut h, join(G, "m")),
        ("m".into(), ErrorCode::UnknownMemberId)
    );
    assert_eq!(refused(&mut h, join("", "")).1, ErrorCode::InvalidGroupId);
    for timeout in [5 * SECOND, 1_801 * SECOND] {
        let request = JoinGroup {
            session_timeout: timeout,
            ..join(G, "")
        };
        assert_eq!(refused(&mut h, request).1, ErrorCode::InvalidSessionTimeout);
    }
    for request in [
        JoinGroup {
            protocols: Vec::new(),
            ..join(G, "")
        },
        JoinGroup {
            protocol_type: "".into(),
            ..join(G, "")
        },
    ] {
        assert_eq!(
            refused(&mut h, request).1,
            ErrorCode::InconsistentGroupProtocol
        );
    }
}

#[test]
fn strangers_and_stale_members_are_told_apart() {
    let mut h = Harness::new();
    let members = stable(&mut h, 1);
    for request in [
        JoinGroup {
            protocols: vec![protocol("other")],
            ..join(G, "")
        },
        JoinGroup {
            protocol_type: "connect".into(),
            ..join(G, "")
        },
    ] {
        assert_eq!(
            refused(&mut h, request).1,
            ErrorCode::InconsistentGroupProtocol
        );
    }
    assert_eq!(refused(&mut h, join(G, "m")).1, ErrorCode::UnknownMemberId);
    assert_eq!(
        heartbeat(&mut h, &members[0], 7),
        ErrorCode::IllegalGeneration
    );
    assert_eq!(heartbeat(&mut h, "m", 7), ErrorCode::UnknownMemberId);
    assert_eq!(
        synced(&mut h, &members[0], 7, &[]),
        Err(ErrorCode::IllegalGeneration)
    );
    let request = SyncGroup {
        group_id: G.into(),
        generation: Generation::new(1),
        member_id: members[0].as_str().into(),
        instance_id: None,
        protocol_type: Some("consumer".into()),
        protocol: Some("sticky".into()),
        assignments: Vec::new(),
    };
    let call = h.send(GroupRequest::Sync(request));
    assert_eq!(
        h.take_sync(call),
        Some(Err(ErrorCode::InconsistentGroupProtocol))
    );
}

#[test]
fn names_and_metadata_have_limits() {
    let mut h = Harness::new();
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    assert_eq!(
        refused(&mut h, join(&long, "")).1,
        ErrorCode::InvalidGroupId
    );
    let request = JoinGroup {
        client_id: long.into(),
        ..join(G, "")
    };
    assert_eq!(refused(&mut h, request).1, ErrorCode::InvalidRequest);
    let big = Protocol {
        name: "range".into(),
        metadata: vec![0; 600 << 10].into(),
    };
    let request = JoinGroup {
        protocols: vec![big],
        ..join(G, "")
    };
    assert_eq!(refused(&mut h, request).1, ErrorCode::InvalidRequest);
}

#[test]
fn an_assignment_that_fits_no_record_is_refused_and_the_group_rebalances() {
    let mut h = Harness::with(|config| config.max_batch_bytes = 300);
    let (member, _) = joined(&mut h, join(G, ""));
    let request = SyncGroup {
        group_id: G.into(),
        generation: Generation::new(1),
        member_id: member.as_str().into(),
        instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: vec![(member.as_str().into(), vec![0; 300].into())],
    };
    let call = h.send(GroupRequest::Sync(request));
    assert_eq!(h.take_sync(call), Some(Err(ErrorCode::UnknownServerError)));
    assert_eq!(h.state_of(G), "PreparingRebalance");
    assert_eq!(h.log, []);
}

#[test]
fn a_full_group_lets_nobody_in_but_its_members() {
    let mut h = Harness::with(|config| config.max_size = 2);
    let members = stable(&mut h, 2);
    assert_eq!(
        refused(&mut h, join(G, "")),
        (String::new(), ErrorCode::GroupMaxSizeReached)
    );
    let first = send_join(&mut h, join(G, &members[0]));
    take_joined_after(&mut h, first, &members[1]);
}

fn take_joined_after(h: &mut Harness, call: CallId, other: &str) {
    assert_eq!(h.take_join(call), None);
    joined(h, join(G, other));
    take_joined(h, call);
}

#[test]
fn the_protocol_that_most_like_best_is_chosen() {
    let mut h = Harness::with(|config| config.initial_rebalance_delay = SECOND);
    let speaks = |names: &[&str]| JoinGroup {
        protocols: names.iter().map(|n| protocol(n)).collect(),
        ..join(G, "")
    };
    let calls = [
        send_join(&mut h, speaks(&["a", "b", "c"])),
        send_join(&mut h, speaks(&["c", "b", "a"])),
        send_join(&mut h, speaks(&["b", "c"])),
        send_join(&mut h, speaks(&["d", "c", "b"])),
    ];
    h.pass(2 * SECOND);
    for call in calls {
        // Everybody speaks b and c; b has two votes and c two, so that the name decides.
        assert_eq!(take_joined(&mut h, call).1.protocol.as_deref(), Some("b"));
    }
}

#[test]
fn a_follower_that_repeats_its_join_is_told_again_and_a_leader_rebalances() {
    let mut h = Harness::new();
    let members = stable(&mut h, 2);
    let (_, again) = joined(&mut h, join(G, &members[1]));
    assert_eq!(
        (again.generation, again.members.len()),
        (Generation::new(2), 0)
    );
    assert_eq!(h.state_of(G), "Stable");
    let call = send_join(&mut h, join(G, &members[0]));
    assert_eq!(h.state_of(G), "PreparingRebalance");
    take_joined_after(&mut h, call, &members[1]);
}

#[test]
fn a_join_that_is_repeated_while_the_leader_assigns_changes_nothing() {
    let mut h = Harness::new();
    let (first, _) = joined(&mut h, join(G, ""));
    let (_, again) = joined(&mut h, join(G, &first));
    assert_eq!(
        (again.generation, again.members.len()),
        (Generation::new(1), 1)
    );
    let changed = JoinGroup {
        protocols: vec![protocol("other")],
        ..join(G, &first)
    };
    assert_eq!(
        refused(&mut h, changed).1,
        ErrorCode::InconsistentGroupProtocol
    );
    let changed = JoinGroup {
        protocols: vec![protocol("more"), protocol("range")],
        ..join(G, &first)
    };
    assert_eq!(joined(&mut h, changed).1.generation, Generation::new(2));
}

#[test]
fn a_call_that_is_repeated_answers_the_earlier_one() {
    let mut h = Harness::new();
    let members = stable(&mut h, 2);
    let earlier = send_join(&mut h, join(G, &members[0]));
    let later = send_join(&mut h, join(G, &members[0]));
    assert_eq!(
        h.take_join(earlier).unwrap().result.unwrap_err().code,
        ErrorCode::RebalanceInProgress
    );
    joined(&mut h, join(G, &members[1]));
    take_joined(&mut h, later);
    let earlier = send_sync(&mut h, &members[1], 3, &[]);
    let later = send_sync(&mut h, &members[1], 3, &[]);
    assert_eq!(
        h.take_sync(earlier),
        Some(Err(ErrorCode::RebalanceInProgress))
    );
    assert_eq!(
        synced(&mut h, &members[0], 3, &[(&members[1], 9)]),
        Ok(vec![])
    );
    assert_eq!(h.take_sync(later).unwrap().unwrap().assignment, vec![9]);
}

#[test]
fn members_leave_one_by_one_and_together() {
    let mut h = Harness::new();
    let members = stable(&mut h, 3);
    assert_eq!(leave(&mut h, &[(&members[2], None)]), [ErrorCode::None]);
    assert_eq!(
        heartbeat(&mut h, &members[0], 3),
        ErrorCode::RebalanceInProgress
    );
    let left = leave(
        &mut h,
        &[
            (&members[0], None),
            ("m", None),
            (&members[1], None),
            ("", None),
        ],
    );
    let unknown = ErrorCode::UnknownMemberId;
    assert_eq!(left, [ErrorCode::None, unknown, ErrorCode::None, unknown]);
    assert_eq!(h.state_of(G), "Empty");
    assert_eq!(h.delete_group(G), ErrorCode::None);
    assert_eq!(h.state_of(G), "none");
    assert_eq!(h.delete_group(G), ErrorCode::GroupIdNotFound);
    h.check_replay();
    assert_eq!(h.machine.snapshot(), []);
}

fn static_join(member: &str, instance: &str) -> JoinGroup {
    JoinGroup {
        instance_id: Some(instance.into()),
        member_id_required: true,
        ..join(G, member)
    }
}

#[test]
fn a_static_member_that_comes_back_keeps_its_place_and_its_old_self_is_fenced() {
    let mut h = Harness::new();
    let (old, first) = joined(&mut h, static_join("", "i1"));
    assert!(old.starts_with("i1-"), "{old}");
    assert_eq!(first.generation, Generation::new(1));
    assert_eq!(synced(&mut h, &old, 1, &[(&old, 5)]), Ok(vec![5]));
    let (new, back) = joined(&mut h, static_join("", "i1"));
    assert_ne!(new, old);
    assert_eq!(back.generation, Generation::new(1));
    assert!(back.skip_assignment);
    assert_eq!(back.members.len(), 1);
    assert_eq!(h.state_of(G), "Stable");
    assert_eq!(synced(&mut h, &new, 1, &[]), Ok(vec![5]));
    assert_eq!(
        heartbeat_as(&mut h, &old, Some("i1"), 1),
        ErrorCode::FencedInstanceId
    );
    assert_eq!(heartbeat(&mut h, &old, 1), ErrorCode::UnknownMemberId);
    assert_eq!(heartbeat_as(&mut h, &new, Some("i1"), 1), ErrorCode::None);
    assert_eq!(
        heartbeat_as(&mut h, &new, Some("i2"), 1),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(
        refused(&mut h, static_join(&old, "i1")).1,
        ErrorCode::FencedInstanceId
    );
    h.restart();
    assert_eq!(heartbeat_as(&mut h, &new, Some("i1"), 1), ErrorCode::None);
}

#[test]
fn an_older_static_leader_is_kept_from_assigning() {
    let mut h = Harness::new();
    let request = |member: &str| JoinGroup {
        can_skip_assignment: false,
        ..static_join(member, "i1")
    };
    let (old, _) = joined(&mut h, request(""));
    assert_eq!(synced(&mut h, &old, 1, &[(&old, 5)]), Ok(vec![5]));
    let (new, back) = joined(&mut h, request(""));
    assert_eq!(
        (&*back.leader, back.members.len(), back.skip_assignment),
        (&*old, 0, false)
    );
    // It leads all the same: its next join rebalances.
    assert_eq!(
        joined(&mut h, request(&new)).1.generation,
        Generation::new(2)
    );
}

#[test]
fn a_static_member_that_comes_back_in_the_middle_of_a_rebalance_takes_over() {
    let mut h = Harness::new();
    let (old, _) = joined(&mut h, static_join("", "i1"));
    let waits = {
        let request = SyncGroup {
            group_id: G.into(),
            generation: Generation::new(1),
            member_id: old.as_str().into(),
            instance_id: Some("i1".into()),
            protocol_type: None,
            protocol: None,
            assignments: Vec::new(),
        };
        let (dynamic, _) = refused(
            &mut h,
            JoinGroup {
                member_id_required: true,
                ..join(G, "")
            },
        );
        let join_call = send_join(&mut h, join(G, &dynamic));
        (request, join_call)
    };
    // The old one joins and waits; the new one fences it.
    let old_join = send_join(&mut h, static_join(&old, "i1"));
    take_joined(&mut h, old_join);
    take_joined(&mut h, waits.1);
    let call = h.send(GroupRequest::Sync(SyncGroup {
        generation: Generation::new(2),
        ..waits.0
    }));
    assert!(h.take_sync(call).unwrap().is_ok());
    let new_join = send_join(&mut h, static_join("", "i1"));
    let (_, back) = take_joined(&mut h, new_join);
    assert_eq!(back.generation, Generation::new(2));
}

#[test]
fn a_static_member_is_removed_by_its_instance_alone_or_by_its_session() {
    let mut h = Harness::new();
    joined(&mut h, static_join("", "i1"));
    assert_eq!(
        leave(&mut h, &[("", Some("i2"))]),
        [ErrorCode::UnknownMemberId]
    );
    assert_eq!(
        leave(&mut h, &[("other", Some("i1"))]),
        [ErrorCode::FencedInstanceId]
    );
    assert_eq!(leave(&mut h, &[("", Some("i1"))]), [ErrorCode::None]);
    assert_eq!(h.state_of(G), "Empty");
    let (member, _) = joined(&mut h, static_join("", "i1"));
    assert_eq!(synced(&mut h, &member, 3, &[]), Ok(vec![]));
    h.pass(10 * SECOND);
    assert_eq!(h.state_of(G), "Empty");
}

#[test]
fn a_rebalance_waits_for_static_members_until_their_session_ends() {
    let mut h = Harness::new();
    let quick = |request: JoinGroup| JoinGroup {
        rebalance_timeout: 7 * SECOND,
        ..request
    };
    let (away, _) = joined(
        &mut h,
        quick(JoinGroup {
            session_timeout: 30 * SECOND,
            ..static_join("", "i1")
        }),
    );
    assert_eq!(synced(&mut h, &away, 1, &[]), Ok(vec![]));
    let call = send_join(&mut h, quick(join(G, "")));
    h.pass(7 * SECOND);
    // It goes on without the static one's join, and keeps its place.
    let (id, leads) = take_joined(&mut h, call);
    assert_eq!((&*leads.leader, leads.members.len()), (&*id, 2));
}

#[test]
fn cooperative_members_keep_what_they_own_over_two_rebalances() {
    let mut h = Harness::new();
    let members = stable(&mut h, 1);
    let new = send_join(&mut h, join(G, ""));
    let owning = Protocol {
        name: "range".into(),
        metadata: Bytes::from_static(b"owns 0 and 1"),
    };
    let request = |member: &str| JoinGroup {
        protocols: vec![owning.clone()],
        ..join(G, member)
    };
    let (_, leads) = joined(&mut h, request(&members[0]));
    let (new, _) = take_joined(&mut h, new);
    assert!(leads.members.iter().any(|m| m.metadata == owning.metadata));
    // The first one gives up partition 1, which nobody gets yet, and joins again.
    let call = send_sync(&mut h, &new, 2, &[]);
    assert_eq!(
        synced(&mut h, &members[0], 2, &[(&members[0], 0)]),
        Ok(vec![0])
    );
    assert!(h.take_sync(call).unwrap().unwrap().assignment.is_empty());
    let call = send_join(&mut h, join(G, &members[0]));
    assert_eq!(heartbeat(&mut h, &new, 2), ErrorCode::RebalanceInProgress);
    let (_, third) = joined(&mut h, join(G, &new));
    take_joined(&mut h, call);
    assert_eq!(third.generation, Generation::new(3));
    let call = send_sync(&mut h, &new, 3, &[]);
    assert_eq!(
        synced(&mut h, &members[0], 3, &[(&members[0], 0), (&new, 1)]),
        Ok(vec![0])
    );
    assert_eq!(h.take_sync(call).unwrap().unwrap().assignment, vec![1]);
}

#[test]
fn a_caller_that_went_away_does_not_hold_up_the_group() {
    let mut h = Harness::new();
    let members = stable(&mut h, 1);
    let gone = send_join(&mut h, join(G, ""));
    h.machine.abandon(gone);
    h.settle();
    // It was never told an id, so that it cannot come back.
    let (_, alone) = joined(&mut h, join(G, &members[0]));
    assert_eq!(alone.members.len(), 1);
    assert!(h.take_join(gone).is_none());
    // One that knows its id has its session to come back.
    let (id, _) = refused(
        &mut h,
        JoinGroup {
            member_id_required: true,
            ..join(G, "")
        },
    );
    let gone = send_join(&mut h, join(G, &id));
    h.machine.abandon(gone);
    let call = send_join(&mut h, join(G, &members[0]));
    assert_eq!(h.take_join(call), None);
    let (_, back) = joined(&mut h, join(G, &id));
    assert_eq!(back.generation, take_joined(&mut h, call).1.generation);
}

#[test]
fn a_new_member_whose_join_is_never_answered_goes_in_the_end() {
    let mut h = Harness::new();
    let long = |member: &str| JoinGroup {
        rebalance_timeout: 1_000 * SECOND,
        session_timeout: 1_000 * SECOND,
        ..join(G, member)
    };
    let (first, _) = joined(&mut h, long(""));
    assert_eq!(synced(&mut h, &first, 1, &[]), Ok(vec![]));
    let call = send_join(&mut h, long(""));
    h.pass(299 * SECOND);
    assert_eq!(h.take_join(call), None);
    h.pass(SECOND);
    assert_eq!(
        h.take_join(call).unwrap().result.unwrap_err().code,
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn after_a_restart_the_last_written_generation_goes_on_and_later_ones_join_again() {
    let mut h = Harness::new();
    let members = stable(&mut h, 2);
    h.restart();
    assert_eq!(heartbeat(&mut h, &members[0], 2), ErrorCode::None);
    assert_eq!(synced(&mut h, &members[1], 2, &[]), Ok(vec![2]));
    let call = send_join(&mut h, join(G, &members[0]));
    take_joined_after(&mut h, call, &members[1]);
    // Generation 3 was not written.
    h.restart();
    assert_eq!(
        heartbeat(&mut h, &members[0], 3),
        ErrorCode::IllegalGeneration
    );
    assert_eq!(heartbeat(&mut h, &members[1], 2), ErrorCode::None);
    h.pass(10 * SECOND);
    assert_eq!(h.state_of(G), "Empty");
}

#[test]
fn commits_are_fenced_by_member_and_generation() {
    let mut h = Harness::new();
    let members = stable(&mut h, 1);
    let id = members[0].clone();
    assert_eq!(h.commit(G, &id, 1, 10), ErrorCode::None);
    assert_eq!(h.commit(G, &id, 0, 5), ErrorCode::IllegalGeneration);
    assert_eq!(h.commit(G, &id, 2, 5), ErrorCode::IllegalGeneration);
    assert_eq!(h.commit(G, "m", 1, 5), ErrorCode::UnknownMemberId);
    assert_eq!(h.commit(G, "", -1, 5), ErrorCode::UnknownMemberId);
    assert_eq!(h.committed(G), Some(10));
    // While others join it may still commit, until its new generation begins.
    let new = send_join(&mut h, join(G, ""));
    assert_eq!(h.commit(G, &id, 1, 11), ErrorCode::None);
    joined(&mut h, join(G, &id));
    take_joined(&mut h, new);
    assert_eq!(h.commit(G, &id, 1, 5), ErrorCode::IllegalGeneration);
    assert_eq!(h.commit(G, &id, 2, 5), ErrorCode::RebalanceInProgress);
    assert_eq!(h.committed(G), Some(11));
}

#[test]
fn a_commit_keeps_the_session() {
    let mut h = Harness::new();
    let members = stable(&mut h, 1);
    for position in 0..5 {
        h.pass(9 * SECOND);
        assert_eq!(h.commit(G, &members[0], 1, position), ErrorCode::None);
    }
}

#[test]
fn a_thousand_idle_members_are_a_thousand_timers() {
    let mut h = Harness::with(|config| config.initial_rebalance_delay = SECOND);
    let calls: Vec<CallId> = (0..1_000).map(|_| send_join(&mut h, join(G, ""))).collect();
    h.pass(Duration::from_secs(2));
    for call in calls {
        take_joined(&mut h, call);
    }
    // A session for each, and the time for their syncs.
    assert_eq!(h.machine.timers.len(), 1_001);
    h.pass(11 * SECOND);
    assert_eq!(h.state_of(G), "Empty");
    assert_eq!(h.machine.timers.len(), 0);
}
