//! KIP-848, edge by edge.

use std::time::Duration;

use logweir_proto::ErrorCode;

use crate::coordinator::groups::answer::*;
use crate::coordinator::groups::ids::*;
use crate::coordinator::groups::request::*;
use crate::coordinator::groups::tests::*;
use crate::coordinator::machine::{CallId, Machine};

const G: &str = "g";

fn epoch(answer: &ConsumerHeartbeatAnswer) -> i32 {
    answer.member_epoch.get()
}

/// The partitions that an answer gives, if it gives any word.
fn given(answer: &ConsumerHeartbeatAnswer) -> Option<Vec<i32>> {
    let numbers = |a: &Assignment| a.iter().map(|(_, p)| p.get()).collect();
    answer.assignment.as_ref().map(numbers)
}

#[track_caller]
fn check(h: &mut Harness, request: ConsumerHeartbeat, expected: (i32, Option<&[i32]>)) {
    let answer = h.beat(request).unwrap();
    assert_eq!((epoch(&answer), given(&answer).as_deref()), expected);
}

fn refused(h: &mut Harness, request: ConsumerHeartbeat) -> ErrorCode {
    h.beat(request).unwrap_err()
}

fn describe(h: &mut Harness) -> ConsumerDescription {
    match h.ask(GroupRequest::DescribeConsumer(vec![G.into()])) {
        GroupAnswer::DescribeConsumer(mut all) => all.remove(0).1.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// a has 0 to 3 at epoch 1; b has joined and waits at epoch 2 for 2 and 3.
fn two_members(h: &mut Harness) {
    check(h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    check(h, first_beat(G, "b"), (2, Some(&[])));
}

/// a has 0 and 1, b has 2 and 3, at epoch 2.
fn two_settled(h: &mut Harness) {
    two_members(h);
    check(h, owning(G, "a", 1, &[0, 1, 2, 3]), (1, Some(&[0, 1])));
    check(h, owning(G, "a", 1, &[0, 1]), (2, None));
    check(h, next_beat(G, "b", 2), (2, Some(&[2, 3])));
    assert_eq!(h.state_of(G), "Stable");
}

#[test]
fn the_first_member_gets_everything_and_an_idle_heartbeat_writes_nothing() {
    let mut h = Harness::new();
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    let written = h.log.len();
    check(&mut h, next_beat(G, "a", 1), (1, None));
    check(&mut h, owning(G, "a", 1, &[0, 1, 2, 3]), (1, None));
    assert_eq!(h.log.len(), written);
    // A full heartbeat is told everything.
    let full = ConsumerHeartbeat {
        rebalance_timeout: Some(60 * SECOND),
        topic_names: Some(vec!["orders".into()]),
        ..owning(G, "a", 1, &[])
    };
    check(&mut h, full, (1, Some(&[0, 1, 2, 3])));
    assert_eq!(h.log.len(), written);
    h.check_replay();
}

#[test]
fn a_partition_is_handed_on_only_after_its_owner_let_go() {
    let mut h = Harness::new();
    two_members(&mut h);
    assert_eq!(h.state_of(G), "Reconciling");
    check(&mut h, next_beat(G, "b", 2), (2, None));
    // Told to let go, a keeps its epoch until it has.
    check(&mut h, next_beat(G, "a", 1), (1, Some(&[0, 1])));
    check(&mut h, next_beat(G, "b", 2), (2, None));
    check(&mut h, owning(G, "a", 1, &[0, 1, 3]), (1, None));
    check(&mut h, next_beat(G, "b", 2), (2, None));
    check(&mut h, owning(G, "a", 1, &[0, 1]), (2, None));
    check(&mut h, next_beat(G, "b", 2), (2, Some(&[2, 3])));
    assert_eq!(h.state_of(G), "Stable");
    let described = describe(&mut h);
    assert_eq!(
        (described.epoch, described.assignment_epoch),
        (Epoch::new(2), Epoch::new(2))
    );
    assert_eq!(described.assignor, "uniform");
    assert_eq!(described.members[1].assignment, partitions(&[2, 3]));
    assert_eq!(described.members[1].target, partitions(&[2, 3]));
    h.check_replay();
}

#[test]
fn who_does_not_let_go_in_time_is_fenced() {
    let mut h = Harness::with(|config| config.consumer_session_timeout = 1_000 * SECOND);
    two_members(&mut h);
    check(&mut h, next_beat(G, "a", 1), (1, Some(&[0, 1])));
    h.pass(59 * SECOND);
    check(&mut h, owning(G, "a", 1, &[0, 1, 2]), (1, None));
    h.pass(SECOND);
    assert_eq!(
        refused(&mut h, owning(G, "a", 1, &[0, 1])),
        ErrorCode::UnknownMemberId
    );
    check(&mut h, next_beat(G, "b", 2), (3, Some(&[0, 1, 2, 3])));
    // Time to let go runs on after a restart.
    check(&mut h, first_beat(G, "a"), (4, Some(&[])));
    check(&mut h, next_beat(G, "b", 3), (3, Some(&[0, 1])));
    h.restart();
    h.pass(60 * SECOND);
    assert_eq!(
        refused(&mut h, next_beat(G, "b", 3)),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn a_member_that_is_not_heard_of_is_fenced() {
    let mut h = Harness::new();
    two_settled(&mut h);
    h.pass(44 * SECOND);
    check(&mut h, next_beat(G, "b", 2), (2, None));
    h.pass(SECOND);
    check(&mut h, next_beat(G, "b", 2), (3, Some(&[0, 1, 2, 3])));
    assert_eq!(
        refused(&mut h, next_beat(G, "a", 2)),
        ErrorCode::UnknownMemberId
    );
    h.pass(45 * SECOND);
    assert_eq!(h.state_of(G), "Empty");
    h.check_replay();
}

#[test]
fn a_member_that_leaves_is_gone_at_once() {
    let mut h = Harness::new();
    two_settled(&mut h);
    check(&mut h, next_beat(G, "a", -1), (-1, None));
    check(&mut h, next_beat(G, "b", 2), (3, Some(&[0, 1, 2, 3])));
    assert_eq!(
        refused(&mut h, next_beat(G, "a", -1)),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(
        refused(&mut h, next_beat("none", "a", -1)),
        ErrorCode::GroupIdNotFound
    );
}

#[test]
fn epochs_fence_and_the_one_before_is_let_through_if_nothing_is_owned_beyond_it() {
    let mut h = Harness::new();
    two_settled(&mut h);
    let fenced = ErrorCode::FencedMemberEpoch;
    assert_eq!(refused(&mut h, next_beat(G, "a", 3)), fenced);
    assert_eq!(refused(&mut h, next_beat(G, "a", 1)), fenced);
    assert_eq!(refused(&mut h, owning(G, "a", 1, &[0, 2])), fenced);
    check(&mut h, owning(G, "a", 1, &[0]), (2, None));
    assert_eq!(
        refused(&mut h, next_beat(G, "c", 1)),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(
        refused(&mut h, next_beat("none", "a", 1)),
        ErrorCode::GroupIdNotFound
    );
    // Who was fenced joins again, and owns nothing then.
    check(&mut h, first_beat(G, "a"), (2, Some(&[0, 1])));
}

#[test]
fn requests_are_checked_before_anything_else() {
    let mut h = Harness::new();
    let first = || first_beat(G, "a");
    for request in [
        ConsumerHeartbeat {
            rebalance_timeout: None,
            ..first()
        },
        ConsumerHeartbeat {
            owned: None,
            ..first()
        },
        ConsumerHeartbeat {
            owned: Some(partitions(&[1])),
            ..first()
        },
        ConsumerHeartbeat {
            topic_names: None,
            ..first()
        },
        ConsumerHeartbeat {
            instance_id: Some("".into()),
            ..first()
        },
        ConsumerHeartbeat {
            rack_id: Some("".into()),
            ..first()
        },
        ConsumerHeartbeat {
            member_epoch: Epoch::new(-3),
            ..first()
        },
        first_beat("", "a"),
        next_beat(G, "a", -2),
        next_beat(G, "", 1),
        ConsumerHeartbeat {
            client_id: "x".repeat(MAX_NAME_BYTES + 1).into(),
            ..first()
        },
    ] {
        assert_eq!(refused(&mut h, request), ErrorCode::InvalidRequest);
    }
    let request = ConsumerHeartbeat {
        server_assignor: Some("sticky".into()),
        ..first()
    };
    assert_eq!(refused(&mut h, request), ErrorCode::UnsupportedAssignor);
    let request = ConsumerHeartbeat {
        topic_regex: Some("a(".into()),
        ..first()
    };
    assert_eq!(
        refused(&mut h, request),
        ErrorCode::InvalidRegularExpression
    );
    assert_eq!(h.log, []);
    // Version 0 lets the coordinator choose the id.
    let answer = h
        .beat(ConsumerHeartbeat {
            member_id: "".into(),
            ..first()
        })
        .unwrap();
    assert!(!answer.member_id.is_empty());
}

#[test]
fn a_full_group_lets_nobody_in_but_its_members() {
    let mut h = Harness::with(|config| config.consumer_max_size = 1);
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    assert_eq!(
        refused(&mut h, first_beat(G, "b")),
        ErrorCode::GroupMaxSizeReached
    );
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
}

#[test]
fn subscriptions_change_by_name_and_by_pattern() {
    let mut h = Harness::new();
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    let names = |names: &[&str]| Some(names.iter().map(|n| (*n).into()).collect());
    let both = ConsumerHeartbeat {
        topic_names: names(&["orders", "payments", "none"]),
        ..next_beat(G, "a", 1)
    };
    let answer = h.beat(both).unwrap();
    assert_eq!((epoch(&answer), answer.assignment.unwrap().len()), (2, 6));
    // Patterns: the names go, what begins with "pay" stays.
    let pattern = ConsumerHeartbeat {
        topic_names: names(&[]),
        topic_regex: Some("pay.*".into()),
        ..next_beat(G, "a", 2)
    };
    let answer = h.beat(pattern).unwrap();
    assert_eq!((epoch(&answer), answer.assignment.unwrap().len()), (2, 2));
    // A topic that begins to match moves the group on.
    h.set_topics(&[("orders", 1, 4), ("payments", 2, 2), ("payouts", 3, 1)]);
    let owned = |topics: &[(u8, i32)]| {
        let places = topics
            .iter()
            .map(|(t, p)| (topic_id(*t), logweir_proto::PartitionId::new(*p)));
        Some(places.collect::<Assignment>())
    };
    let request = ConsumerHeartbeat {
        owned: owned(&[(2, 0), (2, 1)]),
        ..next_beat(G, "a", 2)
    };
    let answer = h.beat(request).unwrap();
    assert_eq!((epoch(&answer), answer.assignment.unwrap().len()), (4, 3));
    let end = ConsumerHeartbeat {
        topic_regex: Some("".into()),
        ..next_beat(G, "a", 4)
    };
    assert_eq!(given(&h.beat(end).unwrap()), Some(vec![]));
    h.check_replay();
}

#[test]
fn a_topic_that_begins_to_match_is_told_to_who_waits_and_internal_ones_never_match() {
    let mut h = Harness::new();
    let request = ConsumerHeartbeat {
        topic_names: None,
        topic_regex: Some(".*s".into()),
        ..first_beat(G, "a")
    };
    assert_eq!(h.beat(request).unwrap().assignment.unwrap().len(), 6);
    let waiting = ConsumerHeartbeat {
        wait: Some(5 * SECOND),
        ..next_beat(G, "a", 1)
    };
    let call = h.send(GroupRequest::ConsumerHeartbeat(Box::new(waiting)));
    let known = [("orders", 1, 4), ("payments", 2, 2)];
    h.set_topics(&[known[0], known[1], ("__offsets", 8, 9), ("returned", 7, 1)]);
    assert!(!h.answers.contains_key(&call), "no news");
    h.set_topics(&[known[0], known[1], ("__offsets", 8, 9), ("returns", 3, 1)]);
    let Some(GroupAnswer::ConsumerHeartbeat(Ok(answer))) = h.answers.remove(&call) else {
        panic!("there are news");
    };
    assert_eq!((epoch(&answer), answer.assignment.unwrap().len()), (2, 7));
    h.check_replay();
}

#[test]
fn without_a_pattern_engine_patterns_are_refused() {
    let mut h = Harness::with(|config| config.patterns = None);
    let request = ConsumerHeartbeat {
        topic_regex: Some("a*".into()),
        ..first_beat(G, "a")
    };
    assert_eq!(refused(&mut h, request), ErrorCode::UnsupportedVersion);
}

#[test]
fn topics_that_grow_go_or_come_back_move_the_group_on() {
    let mut h = Harness::new();
    two_settled(&mut h);
    h.set_topics(&[("orders", 1, 6)]);
    check(&mut h, next_beat(G, "a", 2), (3, Some(&[0, 1, 4])));
    check(&mut h, next_beat(G, "b", 2), (3, Some(&[2, 3, 5])));
    // Topics that nobody is subscribed to change nothing.
    h.set_topics(&[("orders", 1, 6), ("other", 7, 9)]);
    check(&mut h, next_beat(G, "a", 3), (3, None));
    h.set_topics(&[]);
    check(&mut h, owning(G, "a", 3, &[]), (4, Some(&[])));
    check(&mut h, owning(G, "b", 3, &[]), (4, Some(&[])));
    // Another topic under the same name is another topic.
    h.set_topics(&[("orders", 9, 2)]);
    let answer = h.beat(next_beat(G, "a", 4)).unwrap();
    let id = answer.assignment.unwrap().iter().next().unwrap().0;
    assert_eq!((id, answer.member_epoch), (topic_id(9), Epoch::new(5)));
}

#[test]
fn after_a_restart_everybody_goes_on_and_changed_topics_are_noticed() {
    let mut h = Harness::new();
    two_settled(&mut h);
    h.restart();
    check(&mut h, next_beat(G, "a", 2), (2, None));
    h.topics = std::sync::Arc::new(topics(&[("orders", 1, 5)]));
    h.restart();
    check(&mut h, next_beat(G, "b", 2), (3, None));
    check(&mut h, next_beat(G, "a", 2), (3, Some(&[0, 1, 4])));
    h.pass(45 * SECOND);
    assert_eq!(h.state_of(G), "Empty");
}

#[test]
fn most_votes_choose_the_assignor() {
    let mut h = Harness::new();
    let with = |member: &str, assignor: &str| ConsumerHeartbeat {
        server_assignor: Some(assignor.into()),
        ..first_beat(G, member)
    };
    h.beat(with("a", "range")).unwrap();
    assert_eq!(describe(&mut h).assignor, "range");
    h.beat(with("b", "uniform")).unwrap();
    assert_eq!(describe(&mut h).assignor, "uniform");
    h.beat(with("c", "range")).unwrap();
    assert_eq!(describe(&mut h).assignor, "range");
}

fn static_beat(member: &str, epoch: i32) -> ConsumerHeartbeat {
    let request = if epoch == 0 {
        first_beat(G, member)
    } else {
        next_beat(G, member, epoch)
    };
    ConsumerHeartbeat {
        instance_id: Some("i1".into()),
        ..request
    }
}

#[test]
fn a_static_member_leaves_for_a_while_and_comes_back_to_its_partitions() {
    let mut h = Harness::new();
    check(&mut h, static_beat("a", 0), (1, Some(&[0, 1, 2, 3])));
    assert_eq!(
        refused(&mut h, static_beat("b", 0)),
        ErrorCode::UnreleasedInstanceId
    );
    assert_eq!(
        refused(&mut h, static_beat("b", 1)),
        ErrorCode::FencedInstanceId
    );
    let unknown = ConsumerHeartbeat {
        instance_id: Some("i2".into()),
        ..next_beat(G, "a", 1)
    };
    assert_eq!(refused(&mut h, unknown), ErrorCode::UnknownMemberId);
    check(&mut h, static_beat("a", -2), (-2, None));
    h.restart();
    h.pass(30 * SECOND);
    check(&mut h, static_beat("b", 0), (1, Some(&[0, 1, 2, 3])));
    assert_eq!(
        refused(&mut h, static_beat("a", 1)),
        ErrorCode::FencedInstanceId
    );
    assert_eq!(
        refused(&mut h, static_beat("a", -1)),
        ErrorCode::FencedInstanceId
    );
    check(&mut h, static_beat("b", 1), (1, None));
    // The same id may come back, too.
    check(&mut h, static_beat("b", -2), (-2, None));
    check(&mut h, static_beat("b", 0), (1, Some(&[0, 1, 2, 3])));
    h.check_replay();
}

#[test]
fn a_static_member_that_stays_away_loses_its_place() {
    let mut h = Harness::new();
    check(&mut h, static_beat("a", 0), (1, Some(&[0, 1, 2, 3])));
    check(&mut h, static_beat("a", -2), (-2, None));
    check(&mut h, first_beat(G, "b"), (2, Some(&[])));
    h.pass(44 * SECOND);
    check(&mut h, next_beat(G, "b", 2), (2, None));
    h.pass(SECOND);
    check(&mut h, next_beat(G, "b", 2), (3, Some(&[0, 1, 2, 3])));
}

#[test]
fn a_static_member_leaves_for_good_by_the_other_epoch() {
    let mut h = Harness::new();
    check(&mut h, static_beat("a", 0), (1, Some(&[0, 1, 2, 3])));
    check(&mut h, static_beat("a", -1), (-1, None));
    assert_eq!(h.state_of(G), "Empty");
    check(&mut h, static_beat("b", 0), (3, Some(&[0, 1, 2, 3])));
}

#[test]
fn commits_and_fetches_are_fenced_by_epoch() {
    let mut h = Harness::new();
    two_settled(&mut h);
    assert_eq!(h.commit(G, "a", 2, 5), ErrorCode::None);
    assert_eq!(h.commit(G, "a", 1, 6), ErrorCode::StaleMemberEpoch);
    assert_eq!(h.commit(G, "a", 3, 6), ErrorCode::StaleMemberEpoch);
    assert_eq!(h.commit(G, "c", 2, 6), ErrorCode::UnknownMemberId);
    assert_eq!(h.commit(G, "", -1, 6), ErrorCode::UnknownMemberId);
    let old_client = CommitOffsets {
        group_id: G.into(),
        member_id: "a".into(),
        instance_id: None,
        generation_or_epoch: 2,
        knows_epochs: false,
        retention: None,
        offsets: vec![new_offset("orders", 0, 6)],
    };
    let GroupAnswer::Commit(answer) = h.ask(GroupRequest::Commit(old_client)) else {
        panic!()
    };
    assert_eq!(code(&answer), ErrorCode::UnsupportedVersion);
    assert_eq!(h.committed(G), Some(5));
    for (member, epoch, expected) in [
        ("a", 2, ErrorCode::None),
        ("a", 1, ErrorCode::StaleMemberEpoch),
        ("c", 2, ErrorCode::UnknownMemberId),
        ("", -1, ErrorCode::None),
    ] {
        let fetch = FetchGroup {
            group_id: G.into(),
            member_id: member.into(),
            member_epoch: Epoch::new(epoch),
            partitions: None,
            require_stable: false,
        };
        let GroupAnswer::Fetch(groups) = h.ask(GroupRequest::Fetch(vec![fetch])) else {
            panic!()
        };
        assert_eq!(code(&groups[0].result), expected);
    }
    for member in ["a", "b"] {
        check(&mut h, next_beat(G, member, -1), (-1, None));
    }
    assert_eq!(h.commit(G, "", -1, 9), ErrorCode::None);
}

#[test]
fn a_group_changes_its_kind_when_it_is_empty_and_keeps_its_offsets() {
    let mut h = Harness::new();
    let call = h.send(GroupRequest::Join(join(G, "")));
    let member = h.take_join(call).unwrap().member_id;
    assert_eq!(
        refused(&mut h, first_beat(G, "a")),
        ErrorCode::GroupIdNotFound
    );
    h.pass(11 * SECOND);
    assert_eq!(h.state_of(G), "Empty");
    h.commit(G, "", -1, 5);
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    assert_eq!(h.committed(G), Some(5));
    let call = h.send(GroupRequest::Join(join(G, "")));
    let error = h.take_join(call).unwrap().result.unwrap_err();
    assert_eq!(error.code, ErrorCode::InconsistentGroupProtocol);
    let call = h.send(GroupRequest::Join(join(G, &member)));
    let error = h.take_join(call).unwrap().result.unwrap_err();
    assert_eq!(error.code, ErrorCode::InconsistentGroupProtocol);
    h.restart();
    check(&mut h, next_beat(G, "a", -1), (-1, None));
    let call = h.send(GroupRequest::Join(join(G, "")));
    assert!(h.take_join(call).unwrap().result.is_ok());
    assert_eq!(h.committed(G), Some(5));
    assert_eq!(
        refused(&mut h, next_beat(G, "a", 2)),
        ErrorCode::GroupIdNotFound
    );
    h.restart();
    assert_eq!(h.committed(G), Some(5));
}

#[test]
fn a_refused_join_does_not_end_a_consumer_group_and_a_pending_one_ends_with_the_classic_group() {
    let mut h = Harness::new();
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    check(&mut h, next_beat(G, "a", -1), (-1, None));
    let written = h.log.len();
    let bad = JoinGroup {
        protocols: Vec::new(),
        ..join(G, "")
    };
    let call = h.send(GroupRequest::Join(bad));
    let error = h.take_join(call).unwrap().result.unwrap_err();
    assert_eq!(error.code, ErrorCode::InconsistentGroupProtocol);
    assert_eq!(h.log.len(), written);
    let pending = JoinGroup {
        member_id_required: true,
        ..join(G, "")
    };
    let call = h.send(GroupRequest::Join(pending));
    assert!(h.take_join(call).unwrap().result.is_err());
    check(&mut h, first_beat(G, "b"), (1, Some(&[0, 1, 2, 3])));
    assert!(h.machine.classic.is_empty());
    h.pass(11 * SECOND);
    assert_eq!(h.state_of(G), "Stable");
}

fn polling(member: &str, epoch: i32, polled: bool) -> ConsumerHeartbeat {
    let request = if epoch == 0 {
        first_beat(G, member)
    } else {
        next_beat(G, member, epoch)
    };
    let poll = Some(PollMark {
        polled,
        max_interval: PollMark::DEFAULT_INTERVAL,
    });
    ConsumerHeartbeat { poll, ..request }
}

#[test]
fn a_member_that_does_not_poll_is_removed_and_its_late_commit_says_why() {
    let mut h = Harness::new();
    check(&mut h, polling("a", 0, true), (1, Some(&[0, 1, 2, 3])));
    for _ in 0..9 {
        h.pass(30 * SECOND);
        check(&mut h, polling("a", 1, false), (1, None));
    }
    h.pass(29 * SECOND);
    check(&mut h, polling("a", 1, true), (1, None));
    for _ in 0..9 {
        h.pass(30 * SECOND);
        check(&mut h, polling("a", 1, false), (1, None));
    }
    h.pass(30 * SECOND);
    assert_eq!(h.state_of(G), "Empty");
    assert_eq!(
        refused(&mut h, polling("a", 1, true)),
        ErrorCode::UnknownMemberId
    );
    check(&mut h, first_beat(G, "b"), (3, Some(&[0, 1, 2, 3])));
    let late = CommitOffsets {
        group_id: G.into(),
        member_id: "a".into(),
        instance_id: None,
        generation_or_epoch: 1,
        knows_epochs: true,
        retention: None,
        offsets: vec![new_offset("orders", 0, 6)],
    };
    let GroupAnswer::Commit(Err(error)) = h.ask(GroupRequest::Commit(late)) else {
        panic!()
    };
    assert_eq!(error.code, ErrorCode::UnknownMemberId);
    assert!(error.message.contains("did not poll"), "{error}");
    // It may join again.
    check(&mut h, polling("a", 0, true), (4, Some(&[])));
}

fn waiting(h: &mut Harness, request: ConsumerHeartbeat) -> CallId {
    let request = ConsumerHeartbeat {
        wait: Some(5 * SECOND),
        ..request
    };
    let call = h.send(GroupRequest::ConsumerHeartbeat(Box::new(request)));
    assert!(!h.answers.contains_key(&call), "there are news already");
    call
}

fn told(h: &mut Harness, call: CallId) -> Result<ConsumerHeartbeatAnswer, ErrorCode> {
    match h.answers.remove(&call).expect("it was told") {
        GroupAnswer::ConsumerHeartbeat(answer) => answer.map_err(|e| e.code),
        other => panic!("{other:?}"),
    }
}

/// Members that were spread over the interval were answered one by one, and the broker woken for each.
#[test]
fn heartbeats_that_wait_since_about_the_same_time_are_answered_together_and_none_too_late() {
    let mut h = Harness::new();
    let millis = Duration::from_millis;
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    check(&mut h, first_beat(G, "b"), (2, Some(&[])));
    check(&mut h, owning(G, "a", 1, &[0, 1, 2, 3]), (1, Some(&[0, 1])));
    check(&mut h, owning(G, "a", 1, &[0, 1]), (2, None));
    check(&mut h, next_beat(G, "b", 2), (2, Some(&[2, 3])));
    assert_eq!(h.now.session, Duration::ZERO);
    h.pass(millis(130));
    let a = waiting(&mut h, next_beat(G, "a", 2));
    h.pass(millis(40));
    let b = waiting(&mut h, next_beat(G, "b", 2));
    h.pass(millis(4_829));
    assert!(!h.answers.contains_key(&a) && !h.answers.contains_key(&b));
    h.pass(millis(1));
    assert_eq!(given(&told(&mut h, a).unwrap()), None);
    assert_eq!(given(&told(&mut h, b).unwrap()), None);
    // Who may wait for less waits for that.
    let request = ConsumerHeartbeat {
        wait: Some(millis(4_990)),
        ..next_beat(G, "a", 2)
    };
    let call = h.send(GroupRequest::ConsumerHeartbeat(Box::new(request)));
    h.pass(millis(4_989));
    assert!(!h.answers.contains_key(&call));
    h.pass(millis(1));
    assert_eq!(given(&told(&mut h, call).unwrap()), None);
}

#[test]
fn a_heartbeat_that_waits_is_told_news_at_once() {
    let mut h = Harness::new();
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    let a = waiting(&mut h, next_beat(G, "a", 1));
    // b comes; a is to let go.
    check(&mut h, first_beat(G, "b"), (2, Some(&[])));
    let answer = told(&mut h, a).unwrap();
    assert_eq!((epoch(&answer), given(&answer)), (1, Some(vec![0, 1])));
    let b = waiting(&mut h, next_beat(G, "b", 2));
    check(&mut h, owning(G, "a", 1, &[0, 1]), (2, None));
    let answer = told(&mut h, b).unwrap();
    assert_eq!((epoch(&answer), given(&answer)), (2, Some(vec![2, 3])));
    // Nothing happens: it is told so in the end.
    let b = waiting(&mut h, next_beat(G, "b", 2));
    h.pass(5 * SECOND);
    assert_eq!(given(&told(&mut h, b).unwrap()), None);
    // a's session ends while b waits; topics grow while b waits.
    let b = waiting(&mut h, next_beat(G, "b", 2));
    check(&mut h, next_beat(G, "a", -1), (-1, None));
    assert_eq!(given(&told(&mut h, b).unwrap()), Some(vec![0, 1, 2, 3]));
    let b = waiting(&mut h, next_beat(G, "b", 3));
    h.set_topics(&[("orders", 1, 5)]);
    assert_eq!(given(&told(&mut h, b).unwrap()), Some(vec![0, 1, 2, 3, 4]));
    h.check_replay();
}

#[test]
fn a_caller_that_went_away_is_no_leave_and_a_fenced_one_is_told() {
    let mut h = Harness::new();
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    let gone = waiting(&mut h, next_beat(G, "a", 1));
    h.machine.abandon(gone);
    h.pass(10 * SECOND);
    assert!(!h.answers.contains_key(&gone));
    let earlier = waiting(&mut h, next_beat(G, "a", 1));
    let later = waiting(&mut h, next_beat(G, "a", 1));
    assert_eq!(given(&told(&mut h, earlier).unwrap()), None);
    h.ask(GroupRequest::ConsumerHeartbeat(Box::new(next_beat(
        G, "a", -1,
    ))));
    assert_eq!(told(&mut h, later), Err(ErrorCode::UnknownMemberId));
    assert_eq!(h.machine.timers.len(), 0);
}

#[test]
fn a_hundred_waiting_members_are_rebalanced_over_a_thousand_partitions_when_one_leaves() {
    let mut h = Harness::new();
    h.set_topics(&[("orders", 1, 1_000)]);
    let name = |n: usize| format!("member-{n:03}");
    let mut owned: Vec<(i32, Vec<i32>)> = Vec::new();
    for n in 0..100 {
        let answer = h.beat(first_beat(G, &name(n))).unwrap();
        owned.push((epoch(&answer), given(&answer).unwrap()));
    }
    // Rounds until all is handed on.
    for _ in 0..4 {
        for (n, (at, held)) in owned.iter_mut().enumerate() {
            let answer = h.beat(owning(G, &name(n), *at, held)).unwrap();
            *at = epoch(&answer);
            *held = given(&answer).unwrap_or_else(|| held.clone());
        }
    }
    assert!(owned.iter().all(|(_, held)| held.len() == 10), "{owned:?}");
    let calls: Vec<CallId> = (1..100)
        .map(|n| waiting(&mut h, next_beat(G, &name(n), owned[n].0)))
        .collect();
    let written = h.log.len();
    h.beat(next_beat(G, &name(0), -1)).unwrap();
    let mut got = 0;
    for call in calls {
        got += given(&told(&mut h, call).unwrap()).map_or(0, |held| held.len() - 10);
    }
    // Everything that was freed is handed on, and nobody loses anything.
    assert_eq!(got, 10);
    assert!(h.log.len() - written < 99 + 20);
    h.check_replay();
}
