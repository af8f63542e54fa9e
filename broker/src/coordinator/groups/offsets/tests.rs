//! The committed-offset table, edge by edge.

use std::time::Duration;

use logweir_proto::{ErrorCode, Offset, PartitionId, TopicId};

use crate::coordinator::groups::answer::*;
use crate::coordinator::groups::request::*;
use crate::coordinator::groups::tests::*;
use crate::coordinator::machine::{CallId, Machine};

const G: &str = "g";

fn reset(
    h: &mut Harness,
    offsets: Vec<NewOffset>,
    dry_run: bool,
) -> Result<Vec<ResetAnswer>, ErrorCode> {
    let request = ResetOffsets {
        group_id: G.into(),
        offsets,
        dry_run,
    };
    match h.ask(GroupRequest::Reset(request)) {
        GroupAnswer::Reset(answer) => answer.map_err(|e| e.code),
        other => panic!("{other:?}"),
    }
}

fn delete_offsets(h: &mut Harness, topic: &str, partition: i32) -> ErrorCode {
    let partitions = vec![(topic.into(), PartitionId::new(partition))];
    let request = DeleteOffsets {
        group_id: G.into(),
        partitions,
        whole_topics: Vec::new(),
    };
    match h.ask(GroupRequest::DeleteOffsets(request)) {
        GroupAnswer::DeleteOffsets(Ok(answers)) => code(&answers[0].result),
        GroupAnswer::DeleteOffsets(Err(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

/// A classic group with one member.
fn stable_member(h: &mut Harness) -> String {
    let call = h.send(GroupRequest::Join(join(G, "")));
    let member = h.take_join(call).unwrap().member_id;
    let sync = SyncGroup {
        group_id: G.into(),
        generation: crate::coordinator::groups::ids::Generation::new(1),
        member_id: member.clone(),
        instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: Vec::new(),
    };
    let call = h.send(GroupRequest::Sync(sync));
    assert!(h.take_sync(call).unwrap().is_ok());
    member.to_string()
}

#[test]
fn anybody_commits_to_a_group_without_members() {
    let mut h = Harness::new();
    assert_eq!(h.committed(G), None);
    assert_eq!(h.commit(G, "", 3, 7), ErrorCode::GroupIdNotFound);
    assert_eq!(h.commit(G, "", -1, 7), ErrorCode::None);
    assert_eq!(h.committed(G), Some(7));
    assert_eq!(h.state_of(G), "Empty");
    assert_eq!(h.commit(G, "m", 3, 8), ErrorCode::UnknownMemberId);
    h.restart();
    assert_eq!(h.committed(G), Some(7));
    // It makes way for members, and keeps its offsets.
    stable_member(&mut h);
    assert_eq!(h.committed(G), Some(7));
}

#[test]
fn before_version_9_a_group_that_is_not_there_is_an_illegal_generation() {
    let mut h = Harness::new();
    let commit = CommitOffsets {
        group_id: G.into(),
        member_id: "m".into(),
        instance_id: None,
        generation_or_epoch: 1,
        knows_epochs: false,
        retention: None,
        offsets: Vec::new(),
    };
    let GroupAnswer::Commit(answer) = h.ask(GroupRequest::Commit(commit)) else {
        panic!()
    };
    assert_eq!(code(&answer), ErrorCode::IllegalGeneration);
}

#[test]
fn what_is_committed_is_fetched_with_all_that_belongs_to_it() {
    let mut h = Harness::new();
    let offsets = vec![new_offset("orders", 0, 5), new_offset("unknown", 9, 6)];
    assert_eq!(
        h.commit_all(G, "", -1, offsets),
        [ErrorCode::None, ErrorCode::None]
    );
    let fetch =
        |group: &str, partitions: Option<Vec<(std::sync::Arc<str>, PartitionId)>>| FetchGroup {
            group_id: group.into(),
            member_id: "".into(),
            member_epoch: crate::coordinator::groups::ids::Epoch::LEAVE,
            partitions,
            require_stable: true,
        };
    let some = Some(vec![
        ("orders".into(), PartitionId::new(0)),
        ("orders".into(), PartitionId::new(1)),
    ]);
    let asked = vec![fetch(G, None), fetch(G, some), fetch("other", None)];
    let GroupAnswer::Fetch(groups) = h.ask(GroupRequest::Fetch(asked)) else {
        panic!()
    };
    let all = groups[0].result.as_ref().unwrap();
    assert_eq!(all.len(), 2);
    let first = all[0].committed.as_ref().unwrap();
    assert_eq!((first.offset, &*first.metadata), (Offset::new(5), "m"));
    assert_eq!((first.leader_epoch.get(), first.topic_id), (3, topic_id(1)));
    assert_eq!(first.committed_at, h.now.wall);
    assert_eq!(all[1].committed.as_ref().unwrap().topic_id, TopicId::ZERO);
    let some = groups[1].result.as_ref().unwrap();
    assert!(some[0].committed.is_some() && some[1].committed.is_none());
    assert_eq!(groups[2].result, Ok(Vec::new()));
}

/// No transaction commits offsets yet, so that every committed offset is stable (KIP-447).
#[test]
fn who_wants_stable_offsets_gets_what_everybody_gets() {
    let mut h = Harness::new();
    h.commit_all(G, "", -1, vec![new_offset("orders", 0, 5)]);
    let partition = |number| ("orders".into(), PartitionId::new(number));
    for partitions in [None, Some(vec![partition(0), partition(1)])] {
        let fetch = |require_stable| FetchGroup {
            group_id: G.into(),
            member_id: "".into(),
            member_epoch: crate::coordinator::groups::ids::Epoch::LEAVE,
            partitions: partitions.clone(),
            require_stable,
        };
        let asked = vec![fetch(true), fetch(false)];
        let GroupAnswer::Fetch(groups) = h.ask(GroupRequest::Fetch(asked)) else {
            panic!()
        };
        let stable = groups[0].result.as_ref().unwrap();
        let committed = stable[0].committed.as_ref().unwrap();
        assert_eq!(committed.offset, Offset::new(5));
        assert_eq!(groups[0], groups[1]);
    }
}

/// A whole topic used to stand for the partitions that it has now: of a topic that was deleted, or is smaller now,
/// nothing could be forgotten.
#[test]
fn of_a_whole_topic_all_is_forgotten_that_was_committed_also_if_the_topic_is_gone() {
    let mut h = Harness::new();
    let offsets = [("gone", 3), ("gone", 70), ("orders", 0), ("orders", 9)];
    let offsets = offsets.map(|(topic, partition)| new_offset(topic, partition, 5));
    h.commit_all(G, "", -1, offsets.to_vec());
    let mut forget = |whole: &[&str], some: &[(&str, i32)]| {
        let some = some
            .iter()
            .map(|(topic, n)| ((*topic).into(), PartitionId::new(*n)));
        let request = DeleteOffsets {
            group_id: G.into(),
            partitions: some.collect(),
            whole_topics: whole.iter().map(|topic| (*topic).into()).collect(),
        };
        let GroupAnswer::DeleteOffsets(answer) = h.ask(GroupRequest::DeleteOffsets(request)) else {
            panic!()
        };
        let places = answer.unwrap().into_iter().map(|answer| {
            assert_eq!(code(&answer.result), ErrorCode::None);
            (answer.topic.to_string(), answer.partition.get())
        });
        places.collect::<Vec<_>>()
    };
    let place = |topic: &str, partition| (topic.to_owned(), partition);
    assert_eq!(forget(&["never"], &[("orders", 4)]), [place("orders", 4)]);
    assert_eq!(
        forget(&["gone"], &[]),
        [place("gone", 3), place("gone", 70)]
    );
    assert_eq!(forget(&["gone"], &[]), []);
    assert_eq!(
        forget(&["orders"], &[]),
        [place("orders", 0), place("orders", 9)]
    );
    assert!(h.machine.state.groups.is_empty());
    h.check_replay();
}

#[test]
fn metadata_and_batches_have_limits_and_the_rest_is_committed() {
    let mut h = Harness::with(|config| config.max_batch_bytes = 9_000);
    let long = |bytes: usize| NewOffset {
        metadata: "x".repeat(bytes).into(),
        ..new_offset("orders", i32::try_from(bytes).unwrap(), 1)
    };
    let codes = h.commit_all(
        G,
        "",
        -1,
        vec![long(4_097), long(4_096), long(4_095), long(4_000)],
    );
    let (large, none) = (ErrorCode::OffsetMetadataTooLarge, ErrorCode::None);
    assert_eq!(
        codes,
        [large, none, none, ErrorCode::InvalidCommitOffsetSize]
    );
    assert_eq!(h.log.len(), 2);
}

#[test]
fn a_topic_that_is_made_anew_inherits_no_offsets() {
    let mut h = Harness::new();
    h.commit(G, "", -1, 7);
    h.set_topics(&[("orders", 9, 4)]);
    assert_eq!(h.committed(G), None);
    assert_eq!(h.commit(G, "", -1, 3), ErrorCode::None);
    // The old topic's end is noticed late; what was committed for the new one stays.
    h.ask(GroupRequest::TopicsDeleted(vec![(
        "orders".into(),
        topic_id(1),
    )]));
    assert_eq!(h.committed(G), Some(3));
    h.ask(GroupRequest::TopicsDeleted(vec![(
        "orders".into(),
        topic_id(9),
    )]));
    assert_eq!(h.committed(G), None);
    assert_eq!(h.state_of(G), "none");
    assert_eq!(h.log.last().unwrap().value, None);
    h.check_replay();
}

#[test]
fn a_deleted_topic_with_many_offsets_is_cleared_in_parts() {
    let mut h = Harness::with(|config| config.max_batch_bytes = 4_000_000);
    let many = (0..12_000).map(|p| new_offset("orders", p, 1)).collect();
    h.commit_all(G, "", -1, many);
    h.ask(GroupRequest::TopicsDeleted(vec![(
        "orders".into(),
        topic_id(1),
    )]));
    assert_eq!(h.machine.snapshot(), []);
    assert_eq!(h.log.len(), 24_000);
}

#[test]
fn offsets_of_nobody_expire_after_their_retention() {
    let mut h = Harness::new();
    h.commit(G, "", -1, 7);
    h.pass_wall(6 * DAY_MS);
    h.commit_all(G, "", -1, vec![new_offset("orders", 1, 8)]);
    h.pass_wall(DAY_MS - 1);
    assert_eq!(h.committed(G), Some(7));
    h.pass_wall(600_001);
    assert_eq!(h.committed(G), None);
    assert_eq!(h.state_of(G), "Empty");
    h.pass_wall(6 * DAY_MS);
    assert_eq!(h.state_of(G), "none");
    assert_eq!(
        h.machine.next_due(),
        crate::coordinator::machine::Due::default()
    );
}

#[test]
fn a_group_with_members_keeps_its_offsets_and_their_time_begins_when_it_is_empty() {
    let mut h = Harness::new();
    let member = stable_member(&mut h);
    assert_eq!(h.commit(G, &member, 1, 7), ErrorCode::None);
    h.pass_wall(100 * DAY_MS);
    assert_eq!(h.committed(G), Some(7));
    h.pass(11 * SECOND);
    assert_eq!(h.state_of(G), "Empty");
    h.pass_wall(7 * DAY_MS - 1);
    assert_eq!(h.committed(G), Some(7));
    h.restart();
    h.pass_wall(600_000);
    assert_eq!(h.state_of(G), "none");
    assert_eq!(h.machine.snapshot(), []);
}

#[test]
fn an_empty_consumer_group_keeps_its_offsets_for_the_retention_from_then_on() {
    let mut h = Harness::new();
    assert!(h.beat(first_beat(G, "a")).is_ok());
    assert_eq!(h.commit(G, "a", 1, 7), ErrorCode::None);
    h.pass_wall(100 * DAY_MS);
    assert!(h.beat(next_beat(G, "a", -1)).is_ok());
    h.pass_wall(7 * DAY_MS - 1);
    assert_eq!(h.committed(G), Some(7));
    h.pass_wall(600_001);
    assert_eq!(h.state_of(G), "none");
    assert_eq!(h.machine.snapshot(), []);
}

#[test]
fn an_old_client_chooses_how_long_its_offsets_are_kept() {
    let mut h = Harness::new();
    let commit = CommitOffsets {
        group_id: G.into(),
        member_id: "".into(),
        instance_id: None,
        generation_or_epoch: -1,
        knows_epochs: false,
        retention: Some(Duration::from_secs(3_600)),
        offsets: vec![new_offset("orders", 0, 7)],
    };
    h.ask(GroupRequest::Commit(commit));
    h.restart();
    assert_eq!(h.committed(G), Some(7));
    h.pass_wall(4_200_000);
    assert_eq!(h.committed(G), None);
}

#[test]
fn expiry_goes_on_in_parts() {
    let mut h = Harness::with(|config| config.max_batch_bytes = 700_000);
    let many = (0..super::expiry::MAX_TOMBSTONES + 10)
        .map(|p| new_offset("orders", i32::try_from(p).unwrap(), 1))
        .collect();
    h.commit_all(G, "", -1, many);
    h.pass_wall(8 * DAY_MS);
    assert_eq!(h.machine.snapshot(), []);
}

#[test]
fn offsets_of_topics_that_nobody_subscribes_to_are_deleted() {
    let mut h = Harness::new();
    assert_eq!(
        delete_offsets(&mut h, "orders", 0),
        ErrorCode::GroupIdNotFound
    );
    let member = stable_member(&mut h);
    let both = vec![new_offset("orders", 0, 1), new_offset("payments", 0, 2)];
    h.commit_all(G, &member, 1, both);
    assert_eq!(
        delete_offsets(&mut h, "orders", 0),
        ErrorCode::GroupSubscribedToTopic
    );
    assert_eq!(delete_offsets(&mut h, "payments", 0), ErrorCode::None);
    assert_eq!(delete_offsets(&mut h, "payments", 1), ErrorCode::None);
    h.pass(11 * SECOND);
    assert_eq!(delete_offsets(&mut h, "orders", 0), ErrorCode::None);
    assert_eq!(h.committed(G), None);
    assert!(h.beat(first_beat("k", "a")).is_ok());
    h.check_replay();
}

#[test]
fn offsets_of_a_group_whose_members_are_no_consumers_stay() {
    let mut h = Harness::new();
    let call = h.send(GroupRequest::Join(JoinGroup {
        protocol_type: "connect".into(),
        ..join(G, "")
    }));
    assert!(h.take_join(call).is_some());
    assert_eq!(
        delete_offsets(&mut h, "orders", 0),
        ErrorCode::NonEmptyGroup
    );
}

#[test]
fn a_reset_is_tried_first_and_refused_while_the_group_is_active() {
    let mut h = Harness::new();
    let member = stable_member(&mut h);
    h.commit(G, &member, 1, 7);
    let wanted = || vec![new_offset("orders", 0, 2), new_offset("orders", 1, 3)];
    assert_eq!(reset(&mut h, wanted(), true), Err(ErrorCode::NonEmptyGroup));
    assert_eq!(
        reset(&mut h, wanted(), false),
        Err(ErrorCode::NonEmptyGroup)
    );
    h.pass(11 * SECOND);
    let tried = reset(&mut h, wanted(), true).unwrap();
    assert_eq!(
        (tried[0].before, tried[0].after),
        (Some(Offset::new(7)), Offset::new(2))
    );
    assert_eq!((tried[1].before, tried[1].after), (None, Offset::new(3)));
    assert_eq!(h.committed(G), Some(7));
    let bad = vec![new_offset("orders", 0, 2), new_offset("orders", 1, -1)];
    assert_eq!(reset(&mut h, bad, false), Err(ErrorCode::InvalidRequest));
    assert_eq!(h.committed(G), Some(7));
    assert_eq!(reset(&mut h, wanted(), false).unwrap(), tried);
    assert_eq!(h.committed(G), Some(2));
    h.check_replay();
}

#[test]
fn groups_are_listed_by_state_and_type_and_deleted_when_empty() {
    let mut h = Harness::new();
    stable_member(&mut h);
    h.commit("simple", "", -1, 1);
    assert!(h.beat(first_beat("k", "a")).is_ok());
    let list = |h: &mut Harness, states: &[&str], types: &[&str]| {
        let names = |all: &[&str]| all.iter().map(|n| (*n).into()).collect();
        let request = ListGroups {
            states: names(states),
            types: names(types),
        };
        let GroupAnswer::List(groups) = h.ask(GroupRequest::List(request)) else {
            panic!()
        };
        groups
            .iter()
            .map(|g| g.group_id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&mut h, &[], &[]), ["g", "k", "simple"]);
    assert_eq!(list(&mut h, &["stable"], &[]), ["g", "k"]);
    assert_eq!(
        list(&mut h, &["Stable", "EMPTY"], &["Classic"]),
        ["g", "simple"]
    );
    assert_eq!(list(&mut h, &[], &["consumer"]), ["k"]);
    assert_eq!(list(&mut h, &["Dead"], &[]), [""; 0]);
    assert_eq!(h.delete_group(G), ErrorCode::NonEmptyGroup);
    assert_eq!(h.delete_group("k"), ErrorCode::NonEmptyGroup);
    assert_eq!(h.delete_group("simple"), ErrorCode::None);
    assert_eq!(h.committed("simple"), None);
    assert!(h.beat(next_beat("k", "a", -1)).is_ok());
    assert_eq!(h.delete_group("k"), ErrorCode::None);
    assert_eq!(list(&mut h, &[], &[]), ["g"]);
    h.check_replay();
}

#[test]
fn a_group_with_more_offsets_than_fit_one_batch_is_deleted_in_parts_and_answered_once() {
    let mut h = Harness::new();
    for part in 0..4 {
        let offsets = (0..3_500).map(|n| new_offset("orders", part * 3_500 + n, 1));
        let codes = h.commit_all(G, "", -1, offsets.collect());
        assert!(codes.iter().all(|code| *code == ErrorCode::None));
    }
    let mut delete = |count: i32, whole_topics: Vec<std::sync::Arc<str>>| {
        let some = (0..count).map(|n| ("orders".into(), PartitionId::new(n)));
        let request = DeleteOffsets {
            group_id: G.into(),
            partitions: some.collect(),
            whole_topics,
        };
        let request = GroupRequest::DeleteOffsets(request);
        h.machine.handle(CallId::new(1 << 40), request, h.now)
    };
    // No answer is without an end.
    let effects = delete(0, vec!["orders".into()]);
    let GroupAnswer::DeleteOffsets(Err(error)) = &effects.answers[0].1 else {
        panic!("{:?}", effects.answers);
    };
    assert!(error.message.contains("14000"), "{}", error.message);
    assert!(effects.records.is_empty());
    let effects = delete(10_000, Vec::new());
    let GroupAnswer::DeleteOffsets(Ok(answers)) = &effects.answers[0].1 else {
        panic!("{:?}", effects.answers);
    };
    let refused = answers
        .iter()
        .filter(|a| code(&a.result) == ErrorCode::InvalidRequest);
    assert_eq!(effects.records.len() + refused.count(), 10_000);

    let request = || GroupRequest::DeleteGroups(vec![G.into(), "none".into()]);
    let call = CallId::new(1 << 41);
    let effects = h.machine.handle(call, request(), h.now);
    assert_eq!((effects.records.len(), effects.answers.len()), (5_000, 0));
    // Whoever asked went away, and nothing was written.
    h.machine.abandon(call);
    assert!(h.machine.next_due().wall.is_none_or(|at| at > h.now.wall));
    let before = h.log.len();
    let GroupAnswer::DeleteGroups(answers) = h.ask(request()) else {
        panic!("a deletion is answered");
    };
    let codes: Vec<ErrorCode> = answers.iter().map(|(_, result)| code(result)).collect();
    assert_eq!(codes, [ErrorCode::None, ErrorCode::GroupIdNotFound]);
    assert_eq!(h.log.len() - before, 14_000);
    assert!(h.machine.state.groups.is_empty());
    h.check_replay();
}
