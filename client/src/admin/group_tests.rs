//! Calls about groups against the mock broker.

use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, PartitionId, Timestamp};

use super::{GroupFilter, GroupState, GroupType, NamedPartitions, OffsetToCommit, ResetTo};
use crate::client::Client;
use crate::error::ErrorKind;
use crate::mock::MockBroker;

const P0: PartitionId = PartitionId::new(0);
const P1: PartitionId = PartitionId::new(1);

/// A broker whose topic `t` has five records in partition 0 and one in partition 1.
fn broker() -> MockBroker {
    let broker = MockBroker::new().with_topic("t", 2);
    broker.append("t", 0, &["a", "b", "c", "d", "e"]);
    broker.append("t", 1, &["f"]);
    broker
}

fn member(member_id: &str) -> v1::GroupMember {
    let topics = vec![v1::TopicPartitions {
        topic: "t".to_owned(),
        partitions: vec![0, 1],
        ..Default::default()
    }];
    v1::GroupMember {
        member_id: member_id.to_owned(),
        client_id: "c".to_owned(),
        client_host: "127.0.0.1".to_owned(),
        member_epoch: 3,
        assignment: Some(v1::Assignment { topics }),
        lag_records: 4,
        lag_ms: 1_500,
        ..Default::default()
    }
}

async fn commit(client: &Client, group_id: &str, partition: PartitionId, offset: i64) {
    let offsets = [OffsetToCommit::new("t", partition, Offset::new(offset))];
    let admin = client.admin();
    let committed = admin.commit_group_offsets(group_id, &offsets).await;
    committed.unwrap().remove(0).unwrap();
}

#[tokio::test(start_paused = true)]
async fn listing_follows_all_pages_and_filters() {
    let broker = broker();
    let client = broker.client();
    for number in 0..5 {
        commit(&client, &format!("g-{number}"), P0, 1).await;
    }
    broker.add_member("g-3", member("m"));
    let ids = async |filter: GroupFilter| -> Vec<String> {
        let groups = client.admin().list_groups(filter).await.unwrap();
        groups.into_iter().map(|group| group.group_id).collect()
    };
    let all = ids(GroupFilter::default()).await;
    assert_eq!(all, ["g-0", "g-1", "g-2", "g-3", "g-4"]);
    let stable = GroupFilter {
        states: vec![GroupState::Stable],
        types: vec![GroupType::Consumer],
    };
    assert_eq!(ids(stable).await, ["g-3"]);
    let classic = GroupFilter {
        types: vec![GroupType::Classic],
        ..GroupFilter::default()
    };
    assert!(ids(classic).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_description_tells_members_offsets_and_lag_in_records_and_time() {
    let broker = broker();
    let client = broker.client();
    commit(&client, "g", P0, 1).await;
    commit(&client, "g", P1, 1).await;
    broker.add_member("g", member("m"));
    let groups = client.admin().describe_groups(&["g", "none"]).await;
    let mut groups = groups.unwrap();
    let error = groups.pop().unwrap().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GroupIdNotFound));
    let group = groups.pop().unwrap().unwrap();
    assert_eq!(
        (group.state, group.group_type),
        (GroupState::Stable, GroupType::Consumer)
    );
    assert_eq!((group.epoch, group.assignor.as_str()), (Some(3), "uniform"));
    assert_eq!(group.members[0].assignment.len(), 2);
    let lag_time = group.members[0].lag_time;
    assert_eq!(lag_time, Some(Duration::from_millis(1_500)));
    let first = &group.partitions[0];
    assert_eq!(first.committed_offset, Some(Offset::new(1)));
    assert_eq!(first.end_offset, Some(Offset::new(5)));
    assert_eq!(first.lag_records, Some(4));
    assert_eq!(first.lag_time, Some(Duration::from_secs(4)));
    assert_eq!(group.partitions[1].lag_records, Some(0));
    assert_eq!(group.lag_records, 4);

    // What is not known is not zero.
    client.admin().delete_topic("t").await.unwrap();
    let group = client.admin().describe_group("g").await.unwrap();
    let gone = &group.partitions[0];
    assert_eq!(
        (gone.end_offset, gone.lag_records, gone.lag_time),
        (None, None, None)
    );
}

/// The broker refuses what it cannot answer at once, as here a group named twice.
#[tokio::test(start_paused = true)]
async fn what_is_refused_for_groups_together_is_asked_for_in_parts() {
    let client = broker().client();
    for (group, offset) in [("a", 1), ("b", 2), ("c", 3)] {
        commit(&client, group, P0, offset).await;
    }
    let asked = ["a", "b", "b", "none", "c"];
    let offsets = client.admin().groups_offsets(&asked).await.unwrap();
    let offsets = offsets.iter().map(|group| {
        let first = group.as_ref().unwrap().first();
        first.map(|committed| committed.offset.get())
    });
    let expected = [Some(1), Some(2), Some(2), None, Some(3)];
    assert!(offsets.eq(expected));
    let described = client.admin().describe_groups(&asked).await.unwrap();
    let ids = described.iter().map(|group| {
        let group = group.as_ref();
        group.map_or("", |group| &*group.group_id)
    });
    assert!(ids.eq(["a", "b", "b", "", "c"]));
}

#[tokio::test(start_paused = true)]
async fn offsets_are_committed_fetched_and_forgotten_each_on_its_own() {
    let client = broker().client();
    let admin = client.admin();
    let offsets = [
        OffsetToCommit::new("t", P0, Offset::new(3))
            .leader_epoch(LeaderEpoch::new(7))
            .metadata("half"),
        OffsetToCommit::new("nowhere", P0, Offset::new(3)),
    ];
    let committed = admin.commit_group_offsets("g", &offsets).await.unwrap();
    committed[0].as_ref().unwrap();
    let error = committed[1].as_ref().unwrap_err();
    assert_eq!(
        (error.topic(), error.partition()),
        (Some("nowhere"), Some(P0))
    );

    let fetched = admin.groups_offsets(&["g", "none"]).await.unwrap();
    assert!(fetched[1].as_ref().unwrap().is_empty());
    let found = &fetched[0].as_ref().unwrap()[0];
    assert_eq!(
        (found.offset, found.metadata.as_str()),
        (Offset::new(3), "half")
    );
    assert_eq!(OffsetToCommit::from(found.clone()), offsets[0]);

    let first = [NamedPartitions::some("t", [P0])];
    let forgotten = admin.delete_group_offsets("g", &first);
    forgotten.await.unwrap().remove(0).1.unwrap();
    assert!(admin.group_offsets("g").await.unwrap().is_empty());
    let error = admin
        .delete_group_offsets("none", &first)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GroupIdNotFound));
    let error = admin.delete_group_offsets("g", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidRequest));
}

#[tokio::test(start_paused = true)]
async fn a_reset_says_what_it_would_do_and_then_does_it_unless_there_are_members() {
    let broker = broker();
    let client = broker.client();
    let admin = client.admin();
    commit(&client, "g", P0, 4).await;
    let check = async |to: ResetTo, expected: i64| {
        let [reset] = &admin.reset_offsets("g", &[], to, true).await.unwrap()[..] else {
            panic!("one partition has an offset");
        };
        assert_eq!(reset.before, Some(Offset::new(4)));
        assert_eq!(reset.after, Offset::new(expected));
        let unchanged = admin.group_offsets("g").await.unwrap();
        assert_eq!(unchanged[0].offset, Offset::new(4));
    };
    check(ResetTo::Earliest, 0).await;
    check(ResetTo::Latest, 5).await;
    check(ResetTo::Offset(Offset::new(99)), 5).await;
    check(ResetTo::Timestamp(Timestamp::new(1_002)), 2).await;
    check(ResetTo::ShiftBy(-3), 1).await;
    let exact = vec![OffsetToCommit::new("t", P0, Offset::new(3))];
    check(ResetTo::Exact(exact), 3).await;

    let all = [NamedPartitions::all("t")];
    let reset = admin.reset_offsets("g", &all, ResetTo::Earliest, false);
    let reset = reset.await.unwrap();
    assert_eq!((reset.len(), reset[1].before), (2, None));
    let offsets = admin.group_offsets("g").await.unwrap();
    assert_eq!((offsets.len(), offsets[0].offset), (2, Offset::ZERO));

    broker.add_member("g", member("m"));
    let error = admin.reset_offsets("g", &all, ResetTo::Latest, false);
    let error = error.await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NonEmptyGroup));
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_not_there_is_asked_again() {
    let broker = broker();
    let client = broker.client();
    let admin = client.admin();
    broker.fail_group_entries(ErrorCode::NotCoordinator, 2);
    commit(&client, "g", P0, 4).await;
    broker.fail_group_entries(ErrorCode::CoordinatorLoadInProgress, 3);
    admin.describe_group("g").await.unwrap();
    broker.fail_group_entries(ErrorCode::CoordinatorNotAvailable, 1);
    assert_eq!(admin.group_offsets("g").await.unwrap().len(), 1);
    broker.fail_group_entries(ErrorCode::CoordinatorLoadInProgress, 1);
    admin
        .reset_offsets("g", &[], ResetTo::Earliest, false)
        .await
        .unwrap();
    broker.fail_group_entries(ErrorCode::NotCoordinator, 1);
    let whole = [NamedPartitions::all("t")];
    let forgotten = admin.delete_group_offsets("g", &whole).await.unwrap();
    assert_eq!(forgotten.len(), 1);
    commit(&client, "g", P0, 4).await;
    broker.fail_calls("ListGroups", vec![tonic::Code::Unavailable]);
    assert_eq!(
        admin
            .list_groups(GroupFilter::default())
            .await
            .unwrap()
            .len(),
        1
    );
    // What stays so is told in the end.
    broker.fail_group_entries(ErrorCode::CoordinatorNotAvailable, 1_000_000);
    let error = admin.describe_group("g").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::CoordinatorNotAvailable));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_repeated_does_not_take_what_it_deleted_for_missing() {
    let broker = broker();
    let client = broker.client();
    commit(&client, "a", P0, 1).await;
    commit(&client, "b", P0, 1).await;
    broker.add_member("busy", member("m"));
    // The first group has to be asked for again; the second is deleted at once.
    broker.fail_group_entries(ErrorCode::CoordinatorLoadInProgress, 1);
    let admin = client.admin();
    let deleted = admin.delete_groups(&["a", "b", "busy", "none"]).await;
    let codes: Vec<_> = deleted
        .unwrap()
        .into_iter()
        .map(|outcome| outcome.err().and_then(|error| error.code()))
        .collect();
    assert_eq!(
        codes,
        [
            None,
            None,
            Some(ErrorCode::NonEmptyGroup),
            Some(ErrorCode::GroupIdNotFound)
        ]
    );
}

/// A coordinator may do what it was asked for and go away before it says so: a shift was made twice, and a group that
/// was deleted was said not to be there.
#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_is_not_made_twice() {
    let broker = broker();
    let client = broker.client();
    let admin = client.admin();
    commit(&client, "g", P0, 4).await;
    broker.lose_changes("g", vec![ErrorCode::CoordinatorNotAvailable; 2]);
    let shifted = admin.reset_offsets("g", &[], ResetTo::ShiftBy(-1), false);
    let shifted = shifted.await.unwrap();
    assert_eq!(shifted[0].before, Some(Offset::new(4)));
    assert_eq!(shifted[0].after, Offset::new(3));
    let offsets = admin.group_offsets("g").await.unwrap();
    assert_eq!(offsets[0].offset, Offset::new(3));

    broker.lose_changes("g", vec![ErrorCode::NotCoordinator]);
    let named = [NamedPartitions::some("t", [P0])];
    let forgotten = admin.delete_group_offsets("g", &named).await.unwrap();
    assert!(forgotten.len() == 1 && forgotten[0].1.is_ok());

    commit(&client, "g", P0, 4).await;
    broker.lose_changes("g", vec![ErrorCode::CoordinatorNotAvailable]);
    admin.delete_group("g").await.unwrap();
    // Nobody can have deleted it while the coordinator was loading.
    broker.fail_group_entries(ErrorCode::CoordinatorLoadInProgress, 1);
    let error = admin.delete_group("g").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GroupIdNotFound));
}

/// More than about 9,000 offsets did not fit one decision of the broker, although 10,000 were said to be taken.
#[tokio::test(start_paused = true)]
async fn exact_offsets_are_set_part_by_part_and_an_error_says_how_far() {
    let broker = MockBroker::new().with_topic("t", 1);
    let client = broker.client();
    let admin = client.admin();
    let offset = |number| OffsetToCommit::new("t", PartitionId::new(number), Offset::new(1));
    let offsets: Vec<_> = (0..15_000).map(offset).collect();
    let reset = admin.reset_offsets("g", &[], ResetTo::Exact(offsets.clone()), false);
    assert_eq!(reset.await.unwrap().len(), 15_000);
    assert_eq!(admin.group_offsets("g").await.unwrap().len(), 15_000);
    let long = |offset: OffsetToCommit| offset.metadata("m".repeat(4_000));
    let longer: Vec<_> = offsets.iter().take(1_000).cloned().map(long).collect();
    let reset = admin.reset_offsets("g", &[], ResetTo::Exact(longer), false);
    assert_eq!(reset.await.unwrap().len(), 1_000);

    broker.lose_changes("g", vec![ErrorCode::InvalidRequest, ErrorCode::None]);
    let reset = admin.reset_offsets("g", &[], ResetTo::Exact(offsets), false);
    let error = reset.await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidRequest));
    let said = "the first 10000 offsets were set before, up to partition 9999 of topic \"t\"";
    assert!(error.message().contains(said), "{error}");
}

#[test]
fn names_of_states_and_types_are_kafkas_in_any_case() {
    assert_eq!(
        "preparingrebalance".parse::<GroupState>().unwrap(),
        GroupState::PreparingRebalance
    );
    assert_eq!(GroupState::Reconciling.to_string(), "Reconciling");
    assert_eq!("CLASSIC".parse::<GroupType>().unwrap(), GroupType::Classic);
    let error = "Asleep".parse::<GroupState>().unwrap_err();
    assert!(error.message().contains("Stable"), "{error}");
}
