//! KIP-848, edge by edge. Here is how a partition gets from one member to another; each other subject has a file.

mod fencing;
mod static_members;
mod subscriptions;
mod waiting;

use std::time::Duration;

use logweir_proto::{ErrorCode, Timestamp};

use crate::coordinator::groups::answer::*;
use crate::coordinator::groups::ids::*;
use crate::coordinator::groups::request::*;
use crate::coordinator::groups::tests::*;
use crate::coordinator::machine::{CallId, Machine, Now};

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
