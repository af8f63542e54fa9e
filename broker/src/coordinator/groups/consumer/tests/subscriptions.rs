//! What members are subscribed to, as it changes and as topics do.

use super::*;

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
