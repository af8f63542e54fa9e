//! Heartbeats that wait for news, members whose polls are watched, and large groups.

use super::*;
use crate::coordinator::groups::consumer::until;

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
fn who_waits_for_an_interval_waits_until_a_tenth_of_it_begins() {
    let check = |now_ms: u64, wait_ms: u64, interval_ms: u64, expected_ms: u64| {
        let now = Now {
            wall: Timestamp::new(0),
            session: Duration::from_millis(now_ms),
        };
        let (wait, interval) = (
            Duration::from_millis(wait_ms),
            Duration::from_millis(interval_ms),
        );
        let expected = Duration::from_millis(expected_ms);
        assert_eq!(
            until(now, wait, interval),
            expected,
            "{now_ms} {wait_ms} {interval_ms}"
        );
    };
    check(0, 5_000, 5_000, 5_000);
    check(499, 5_000, 5_000, 5_000);
    check(500, 3_600_000, 5_000, 5_500);
    // Whole seconds, too, where the parts are longer.
    check(3_200, 45_000, 45_000, 45_000);
    check(4_499, 45_000, 45_000, 45_000);
    check(4_500, 45_000, 45_000, 49_500);
    check(12_345_678, 300_000, 300_000, 12_630_000);
    // Who waits for less waits for that, and an interval without parts is no interval to be divided.
    check(3_200, 44_999, 45_000, 48_199);
    check(7, 100, 0, 7);
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

/// Each of a thousand joins made an assignment of its own, which led all who were there to another epoch.
#[test]
fn a_large_group_is_assigned_anew_once_in_a_while() {
    let millis = Duration::from_millis;
    let mut h = Harness::with(|config| {
        config.consumer_batched_size = 2;
        config.consumer_assignment_pause = millis(100);
    });
    check(&mut h, first_beat(G, "a"), (1, Some(&[0, 1, 2, 3])));
    check(&mut h, first_beat(G, "b"), (2, Some(&[])));
    check(&mut h, owning(G, "a", 1, &[0, 1, 2, 3]), (1, Some(&[0, 1])));
    check(&mut h, owning(G, "a", 1, &[0, 1]), (2, None));
    check(&mut h, next_beat(G, "b", 2), (2, Some(&[2, 3])));
    let a = waiting(&mut h, next_beat(G, "a", 2));
    let b = waiting(&mut h, next_beat(G, "b", 2));
    // Whoever comes is a member at once, and gets its share later, as with Kafka's assignment interval.
    check(&mut h, first_beat(G, "c"), (2, Some(&[])));
    assert_eq!(h.state_of(G), "Assigning");
    h.pass(millis(199));
    check(&mut h, first_beat(G, "d"), (2, Some(&[])));
    h.pass(millis(200));
    assert!(!h.answers.contains_key(&a) && !h.answers.contains_key(&b));
    h.pass(millis(1));
    for call in [a, b] {
        let answer = told(&mut h, call).unwrap();
        assert_eq!((epoch(&answer), given(&answer).unwrap().len()), (2, 1));
    }
    assert_eq!(h.state_of(G), "Reconciling");
    check(&mut h, next_beat(G, "c", 2), (4, None));
    // Where nobody waits, the first heartbeat after that while makes it.
    check(&mut h, next_beat(G, "d", -1), (-1, None));
    assert_eq!(h.state_of(G), "Assigning");
    h.pass(2 * SECOND);
    assert_eq!(h.state_of(G), "Assigning");
    check(&mut h, next_beat(G, "c", 4), (5, None));
    assert_eq!(h.state_of(G), "Reconciling");
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
