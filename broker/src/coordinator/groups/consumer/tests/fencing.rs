//! Who is let through: heartbeats, commits, and groups of another kind.

use super::*;

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
