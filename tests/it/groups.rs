//! Consumer groups through the bare contract, on brokers whose clock and faults the test controls.

use std::collections::BTreeSet;
use std::time::Duration;

use logweir::{Api, Broker, Config, ErrorCode, Fault, PowerCut};
use logweir_proto::grpc::v1;
use logweir_tests::{DEADLINE, GrpcBroker, http_get, record};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

const SESSION: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);

async fn connect(broker: &Broker) -> GrpcBroker {
    GrpcBroker::connect(&broker.grpc_addr().unwrap().to_string()).await
}

/// A broker with a topic "orders" of four partitions, ten records in each.
async fn start() -> (Broker, GrpcBroker) {
    let broker = Broker::start(Config::in_memory()).await.unwrap();
    let mut grpc = connect(&broker).await;
    grpc.create_topic("orders", 4, &[]).await;
    for partition in 0..4 {
        for number in 0..10 {
            grpc.produce_value("orders", partition, &number.to_string())
                .await;
        }
    }
    (broker, grpc)
}

/// A member that does nothing by itself.
struct Member {
    id: String,
    epoch: i32,
    owned: v1::Assignment,
    requests: mpsc::Sender<v1::ConsumerGroupHeartbeatRequest>,
    answers: Streaming<v1::ConsumerGroupHeartbeatResponse>,
}

impl Member {
    /// Joins group "g" with a subscription to "orders", and takes what it is given.
    async fn join(grpc: &mut GrpcBroker, id: &str) -> Self {
        let mut member = Self::open(grpc, id).await;
        member.rejoin().await;
        member
    }

    async fn open(grpc: &mut GrpcBroker, id: &str) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        let stream = ReceiverStream::new(receiver);
        let answers = grpc.groups.consumer_group_heartbeat(stream).await.unwrap();
        Self {
            id: id.to_owned(),
            epoch: 0,
            owned: v1::Assignment::default(),
            requests,
            answers: answers.into_inner(),
        }
    }

    fn heartbeat(&self) -> v1::ConsumerGroupHeartbeatRequest {
        v1::ConsumerGroupHeartbeatRequest {
            group_id: "g".to_owned(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            polled: true,
            owned: Some(self.owned.clone()),
            ..Default::default()
        }
    }

    async fn rejoin(&mut self) {
        self.epoch = 0;
        self.owned = v1::Assignment::default();
        let join = v1::ConsumerGroupHeartbeatRequest {
            owned: None,
            subscription: Some(v1::Subscription {
                topics: vec!["orders".to_owned()],
                ..Default::default()
            }),
            ..self.heartbeat()
        };
        self.send(join).await;
        // What was refused before comes first.
        while self.answer().await.error.is_some() {}
    }

    async fn send(&self, request: v1::ConsumerGroupHeartbeatRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> v1::ConsumerGroupHeartbeatResponse {
        let answer = tokio::time::timeout(DEADLINE, self.answers.message()).await;
        let answer = answer.expect("an answer in time").unwrap().unwrap();
        if answer.error.is_none() {
            self.epoch = answer.member_epoch;
            if let Some(assignment) = &answer.assignment {
                self.owned = assignment.clone();
            }
        }
        answer
    }

    async fn ask(
        &mut self,
        request: v1::ConsumerGroupHeartbeatRequest,
    ) -> v1::ConsumerGroupHeartbeatResponse {
        self.send(request).await;
        self.answer().await
    }

    /// Says what it owns, and takes the answer.
    async fn beat(&mut self) -> v1::ConsumerGroupHeartbeatResponse {
        self.ask(self.heartbeat()).await
    }

    /// Beats until it owns these partitions. A heartbeat that waits is set free by the next.
    async fn comes_to_own(&mut self, wanted: &BTreeSet<i32>) {
        let beating = async {
            while self.partitions() != *wanted {
                self.send(self.heartbeat()).await;
                self.answer().await;
            }
        };
        let owns = tokio::time::timeout(DEADLINE, beating).await;
        owns.expect("the partitions are given to it");
    }

    /// Beats until that is refused; the error's name.
    async fn refusal(&mut self) -> String {
        loop {
            let answer = self.beat().await;
            if let Some(error) = answer.error {
                return error.name;
            }
        }
    }

    fn partitions(&self) -> BTreeSet<i32> {
        let topics = self.owned.topics.iter();
        topics.flat_map(|topic| topic.partitions.clone()).collect()
    }

    async fn commit(
        &self,
        grpc: &mut GrpcBroker,
        partition: i32,
        offset: i64,
    ) -> Result<Option<v1::Error>, Status> {
        let mut commit = commit(partition, offset);
        commit.member_id = self.id.clone();
        commit.member_epoch = self.epoch;
        let answer = grpc.groups.commit_offsets(commit).await?.into_inner();
        Ok(answer.results[0].error.clone())
    }
}

fn commit(partition: i32, offset: i64) -> v1::CommitOffsetsRequest {
    v1::CommitOffsetsRequest {
        group_id: "g".to_owned(),
        member_epoch: -1,
        offsets: vec![v1::OffsetToCommit {
            topic: "orders".to_owned(),
            partition,
            offset,
            ..Default::default()
        }],
        ..Default::default()
    }
}

async fn commit_alone(grpc: &mut GrpcBroker, partition: i32, offset: i64) -> Option<v1::Error> {
    let answer = grpc.groups.commit_offsets(commit(partition, offset)).await;
    answer.unwrap().into_inner().results[0].error.clone()
}

async fn committed(grpc: &mut GrpcBroker) -> Vec<(i32, i64)> {
    let request = v1::FetchOffsetsRequest {
        groups: vec![v1::FetchOffsetsGroup {
            group_id: "g".to_owned(),
            ..Default::default()
        }],
    };
    let answer = grpc.groups.fetch_offsets(request).await.unwrap();
    let group = answer.into_inner().groups.remove(0);
    assert_eq!(group.error, None);
    let offsets = group.offsets.iter();
    offsets
        .map(|offset| (offset.partition, offset.offset))
        .collect()
}

async fn describe(grpc: &mut GrpcBroker) -> v1::GroupDescription {
    let request = v1::DescribeGroupsRequest {
        group_ids: vec!["g".to_owned()],
    };
    let answer = grpc.groups.describe_groups(request).await.unwrap();
    answer.into_inner().groups.remove(0)
}

fn code(error: &Option<v1::Error>) -> &str {
    error.as_ref().map_or("", |error| &error.name)
}

/// The error's name, which a status carries in its details.
fn name_of(status: &Status) -> String {
    status
        .message()
        .split(':')
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a_partition_is_handed_on_only_after_its_owner_let_go() {
    let (broker, mut grpc) = start().await;
    let mut first = Member::join(&mut grpc, "first").await;
    assert_eq!(first.partitions(), BTreeSet::from([0, 1, 2, 3]));
    // The heartbeat that waits is told of the change at once.
    first.send(first.heartbeat()).await;
    let mut second = Member::join(&mut grpc, "second").await;
    assert_eq!(second.partitions(), BTreeSet::new());
    let before = first.partitions();
    first.answer().await;
    let kept = first.partitions();
    assert_eq!(kept.len(), 2);
    // Not before the first has said that it owns no more than that.
    for _ in 0..3 {
        second.send(second.heartbeat()).await;
        second.send(second.heartbeat()).await;
        second.answer().await;
        assert_eq!(second.partitions(), BTreeSet::new());
    }
    first.send(first.heartbeat()).await;
    let given = before.difference(&kept).copied().collect::<BTreeSet<_>>();
    second.comes_to_own(&given).await;
    let described = describe(&mut grpc).await;
    assert_eq!((described.error, described.members.len()), (None, 2));
    assert_eq!(described.r#type, "consumer");
    assert_eq!(described.members[0].client_host, "127.0.0.1");

    // A member that leaves leaves its partitions to the other.
    second.epoch = -1;
    second.beat().await;
    first.comes_to_own(&before).await;
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_broken_stream_is_not_a_leave_and_a_silent_member_is_removed_by_the_session_time() {
    let (broker, mut grpc) = start().await;
    let mut own = connect(&broker).await;
    let member = Member::join(&mut own, "m").await;
    let (epoch, owned) = (member.epoch, member.owned.clone());
    // One that waits for its answer.
    member.send(member.heartbeat()).await;
    let has_connections = async |count: &str| {
        let address = broker.http_addr().unwrap().to_string();
        let page = tokio::task::spawn_blocking(move || http_get(&address, "/metrics"));
        let page = page.await.unwrap().body;
        page.lines()
            .any(|line| line == format!("logweir_connections {count}"))
    };
    assert!(has_connections("2").await);
    drop((member, own));
    let is_seen = || has_connections("1");
    logweir::testing::eventually("the broker sees the break", DEADLINE, is_seen)
        .await
        .unwrap();
    let mut member = Member::open(&mut grpc, "m").await;
    (member.epoch, member.owned) = (epoch, owned);
    member.send(member.heartbeat()).await;
    member.send(member.heartbeat()).await;
    assert_eq!(member.answer().await.error, None);
    assert_eq!(member.commit(&mut grpc, 0, 3).await.unwrap(), None);

    broker.clock().advance_sessions(SESSION);
    let mut other = Member::join(&mut grpc, "other").await;
    assert_eq!(other.partitions().len(), 4);
    let refused = member.commit(&mut grpc, 0, 4).await.unwrap_err();
    assert_eq!(name_of(&refused), "UNKNOWN_MEMBER_ID");
    assert_eq!(committed(&mut grpc).await, [(0, 3)]);
    assert_eq!(member.refusal().await, "UNKNOWN_MEMBER_ID");
    // The stream goes on: it may join again.
    member.rejoin().await;
    other.beat().await;
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_member_that_does_not_poll_is_removed_and_told_why() {
    let (broker, mut grpc) = start().await;
    let mut member = Member::join(&mut grpc, "m").await;
    let idle = |member: &Member| v1::ConsumerGroupHeartbeatRequest {
        polled: false,
        ..member.heartbeat()
    };
    let step = Duration::from_secs(40);
    let mut passed = Duration::ZERO;
    while passed + step < POLL {
        broker.clock().advance_sessions(step);
        passed += step;
        member.send(idle(&member)).await;
        member.send(idle(&member)).await;
        assert_eq!(member.answer().await.error, None, "after {passed:?}");
        assert_eq!(member.commit(&mut grpc, 1, 1).await.unwrap(), None);
        broker.clock().advance_sessions(Duration::ZERO);
        // The one that still waits.
        member.send(idle(&member)).await;
        member.answer().await;
    }
    broker.clock().advance_sessions(step);
    let refused = member.commit(&mut grpc, 1, 5).await.unwrap_err();
    assert_eq!(name_of(&refused), "UNKNOWN_MEMBER_ID");
    assert!(refused.message().contains("did not poll"), "{refused}");
    assert_eq!(committed(&mut grpc).await, [(1, 1)]);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn commits_are_fenced_by_epoch_and_checked_against_the_topics() {
    let (broker, mut grpc) = start().await;
    let mut member = Member::join(&mut grpc, "m").await;
    member.epoch += 1;
    let stale = member.commit(&mut grpc, 0, 1).await.unwrap_err();
    assert_eq!(name_of(&stale), "STALE_MEMBER_EPOCH");
    member.epoch -= 1;
    let outside = grpc.groups.commit_offsets(commit(0, 1)).await.unwrap_err();
    assert_eq!(name_of(&outside), "UNKNOWN_MEMBER_ID");
    let error = member.commit(&mut grpc, 9, 1).await.unwrap();
    assert_eq!(code(&error), "UNKNOWN_TOPIC_OR_PARTITION");
    let negative = member.commit(&mut grpc, 0, -1).await.unwrap_err();
    assert_eq!(negative.code(), Code::InvalidArgument);
    assert_eq!(committed(&mut grpc).await, []);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_recreated_topic_does_not_inherit_offsets() {
    let (broker, mut grpc) = start().await;
    assert_eq!(commit_alone(&mut grpc, 0, 7).await, None);
    let old_id = grpc.describe_topic("orders").await.topic_id;
    let request = v1::DeleteTopicsRequest {
        names: vec!["orders".to_owned()],
        ..Default::default()
    };
    grpc.topics.delete_topics(request).await.unwrap();
    grpc.create_topic("orders", 1, &[]).await;
    assert_eq!(committed(&mut grpc).await, []);
    let mut late = commit(0, 8);
    late.offsets[0].topic_id = Some(old_id);
    let answer = grpc.groups.commit_offsets(late).await.unwrap().into_inner();
    assert_eq!(code(&answer.results[0].error), "UNKNOWN_TOPIC_ID");
    assert_eq!(commit_alone(&mut grpc, 0, 0).await, None);
    assert_eq!(committed(&mut grpc).await, [(0, 0)]);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn lag_is_told_in_records_and_in_time_by_partition_member_and_group() {
    let (broker, mut grpc) = start().await;
    let member = Member::join(&mut grpc, "m").await;
    member.commit(&mut grpc, 0, 4).await.unwrap();
    member.commit(&mut grpc, 1, 10).await.unwrap();
    broker.clock().advance(DAY);
    let described = describe(&mut grpc).await;
    let lags = described.partitions.iter().map(|p| {
        (
            p.committed_offset,
            p.end_offset,
            p.lag_records,
            p.lag_ms >= 86_400_000,
        )
    });
    assert_eq!(
        lags.collect::<Vec<_>>(),
        [
            (4, 10, 6, true),
            (10, 10, 0, false),
            (-1, 10, -1, false),
            (-1, 10, -1, false)
        ]
    );
    assert!(described.partitions.iter().all(|p| p.member_id == "m"));
    assert_eq!(described.partitions[1].lag_ms, 0);
    assert_eq!(described.lag_records, 6);
    let ms = described.lag_ms;
    assert!((86_400_000..86_400_000 + 600_000).contains(&ms), "{ms}");
    assert_eq!(described.members[0].lag_records, 6);
    assert_eq!(described.members[0].lag_ms, ms);
    broker.shutdown().await.unwrap();
}

fn reset(to: v1::reset_offsets_request::To, dry_run: bool) -> v1::ResetOffsetsRequest {
    v1::ResetOffsetsRequest {
        group_id: "g".to_owned(),
        to: Some(to),
        dry_run,
        ..Default::default()
    }
}

#[tokio::test]
async fn offsets_are_reset_only_when_meant_and_only_without_members() {
    use v1::reset_offsets_request::To;
    let (broker, mut grpc) = start().await;
    let mut member = Member::join(&mut grpc, "m").await;
    member.commit(&mut grpc, 2, 4).await.unwrap();
    let earliest = || To::Earliest(v1::Earliest {});
    for dry_run in [true, false] {
        let refused = grpc.groups.reset_offsets(reset(earliest(), dry_run)).await;
        assert_eq!(name_of(&refused.unwrap_err()), "NON_EMPTY_GROUP");
    }
    member.epoch = -1;
    member.beat().await;

    let now = |to, dry_run| {
        let mut groups = grpc.groups.clone();
        async move {
            let reset = groups.reset_offsets(reset(to, dry_run)).await?.into_inner();
            let offsets = reset
                .offsets
                .iter()
                .map(|o| (o.partition, o.before, o.after));
            Ok::<_, Status>(offsets.collect::<Vec<_>>())
        }
    };
    assert_eq!(now(earliest(), true).await.unwrap(), [(2, Some(4), 0)]);
    assert_eq!(now(earliest(), true).await.unwrap(), [(2, Some(4), 0)]);
    assert_eq!(
        now(To::ShiftBy(-3), false).await.unwrap(),
        [(2, Some(4), 1)]
    );
    assert_eq!(
        now(To::ShiftBy(99), false).await.unwrap(),
        [(2, Some(1), 10)]
    );
    assert_eq!(
        now(To::ShiftBy(-99), false).await.unwrap(),
        [(2, Some(10), 0)]
    );
    assert_eq!(now(To::Offset(7), false).await.unwrap(), [(2, Some(0), 7)]);
    let latest = To::Latest(v1::Latest {});
    assert_eq!(now(latest, false).await.unwrap(), [(2, Some(7), 10)]);
    assert_eq!(
        now(To::TimestampMs(0), false).await.unwrap(),
        [(2, Some(10), 0)]
    );
    let future = To::TimestampMs(i64::MAX);
    assert_eq!(now(future, false).await.unwrap(), [(2, Some(0), 10)]);
    let exact = To::Exact(v1::ExactOffsets {
        offsets: vec![v1::ExactOffset {
            topic: "orders".to_owned(),
            partition: 3,
            offset: 5,
            ..Default::default()
        }],
    });
    assert_eq!(now(exact, false).await.unwrap(), [(3, None, 5)]);
    assert_eq!(committed(&mut grpc).await, [(2, 10), (3, 5)]);

    let mut unknown = reset(earliest(), true);
    unknown.group_id = "nobody".to_owned();
    let refused = grpc.groups.reset_offsets(unknown).await.unwrap_err();
    assert!(refused.message().contains("committed nothing"), "{refused}");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn offsets_expire_by_the_wall_clock_never_while_the_group_has_members() {
    let (broker, mut grpc) = start().await;
    let mut member = Member::join(&mut grpc, "m").await;
    member.commit(&mut grpc, 0, 4).await.unwrap();
    broker.clock().advance(30 * DAY);
    assert_eq!(committed(&mut grpc).await, [(0, 4)]);
    member.epoch = -1;
    member.beat().await;
    broker.clock().advance(6 * DAY);
    assert_eq!(committed(&mut grpc).await, [(0, 4)]);
    broker.clock().advance(2 * DAY);
    assert_eq!(committed(&mut grpc).await, []);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn offsets_and_members_outlast_a_power_cut() {
    let (broker, mut grpc) = start().await;
    let member = Member::join(&mut grpc, "m").await;
    member.commit(&mut grpc, 0, 4).await.unwrap();
    let (epoch, owned) = (member.epoch, member.owned.clone());
    broker.crash(PowerCut::LoseUnsynced).await.unwrap();
    broker.restart().await.unwrap();
    let mut grpc = connect(&broker).await;
    let mut member = Member::open(&mut grpc, "m").await;
    (member.epoch, member.owned) = (epoch, owned);
    loop {
        member.send(member.heartbeat()).await;
        member.send(member.heartbeat()).await;
        match code(&member.answer().await.error) {
            "" => break,
            // The coordinator reads its log first.
            name => assert_eq!(name, LOADING),
        }
    }
    assert_eq!(member.epoch, epoch);
    assert_eq!(committed(&mut grpc).await, [(0, 4)]);
    assert_eq!(member.commit(&mut grpc, 0, 5).await.unwrap(), None);
    broker.shutdown().await.unwrap();
}

const LOADING: &str = "COORDINATOR_LOAD_IN_PROGRESS";

/// The next such call fails.
fn fail(broker: &Broker, api: Api) {
    let code = ErrorCode::CoordinatorLoadInProgress;
    broker.faults().fail_next(api, code);
}

#[tokio::test]
async fn faults_cover_every_call_about_offsets() {
    let (broker, mut grpc) = start().await;
    assert_eq!(commit_alone(&mut grpc, 0, 1).await, None);
    fail(&broker, Api::OffsetCommit);
    assert_eq!(code(&commit_alone(&mut grpc, 0, 2).await), LOADING);
    let other = Fault::fail(ErrorCode::CoordinatorNotAvailable).on(Api::OffsetCommit);
    let other = broker.faults().inject(other.group("another").optional());
    assert_eq!(commit_alone(&mut grpc, 0, 3).await, None);
    assert_eq!(broker.faults().fired(other), 0);
    fail(&broker, Api::OffsetFetch);
    let request = v1::FetchOffsetsRequest {
        groups: vec![v1::FetchOffsetsGroup {
            group_id: "g".to_owned(),
            ..Default::default()
        }],
    };
    let fetched = grpc.groups.fetch_offsets(request).await.unwrap();
    assert_eq!(code(&fetched.into_inner().groups[0].error), LOADING);
    fail(&broker, Api::ResetOffsets);
    let to = v1::reset_offsets_request::To::Earliest(v1::Earliest {});
    let refused = grpc.groups.reset_offsets(reset(to, false)).await;
    assert_eq!(name_of(&refused.unwrap_err()), LOADING);
    fail(&broker, Api::OffsetDelete);
    let delete = v1::DeleteOffsetsRequest {
        group_id: "g".to_owned(),
        topics: vec![v1::NamedPartitions {
            topic: "orders".to_owned(),
            ..Default::default()
        }],
    };
    let refused = grpc.groups.delete_offsets(delete.clone()).await;
    assert_eq!(name_of(&refused.unwrap_err()), LOADING);
    assert_eq!(committed(&mut grpc).await, [(0, 3)]);
    grpc.groups.delete_offsets(delete).await.unwrap();
    assert_eq!(committed(&mut grpc).await, []);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn faults_cover_every_call_about_groups() {
    let (broker, mut grpc) = start().await;
    assert_eq!(commit_alone(&mut grpc, 0, 3).await, None);
    fail(&broker, Api::DescribeGroups);
    assert_eq!(code(&describe(&mut grpc).await.error), LOADING);
    fail(&broker, Api::ListGroups);
    let list = || v1::ListGroupsRequest::default();
    let listed = grpc.groups.list_groups(list()).await.unwrap_err();
    assert_eq!(name_of(&listed), LOADING);
    let groups = grpc.groups.list_groups(list()).await.unwrap().into_inner();
    assert_eq!(groups.groups.len(), 1);
    fail(&broker, Api::DeleteGroups);
    let delete = || v1::DeleteGroupsRequest {
        group_ids: vec!["g".to_owned()],
    };
    let deleted = grpc.groups.delete_groups(delete()).await.unwrap();
    assert_eq!(code(&deleted.into_inner().results[0].error), LOADING);
    let deleted = grpc.groups.delete_groups(delete()).await.unwrap();
    assert_eq!(deleted.into_inner().results[0].error, None);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_can_fail_or_have_its_answer_lost() {
    let (broker, mut grpc) = start().await;
    fail(&broker, Api::ConsumerGroupHeartbeat);
    let mut member = Member::open(&mut grpc, "m").await;
    assert_eq!(code(&member.beat().await.error), LOADING);
    member.rejoin().await;
    // The heartbeat takes effect, and nobody hears of it.
    let lost = Fault::drop_response().on(Api::ConsumerGroupHeartbeat);
    broker.faults().inject(lost.group("g"));
    member.epoch = -1;
    member.send(member.heartbeat()).await;
    let has_left = || async { describe(&mut grpc.clone()).await.members.is_empty() };
    logweir::testing::eventually("the member has left", DEADLINE, has_left)
        .await
        .unwrap();
    broker.shutdown().await.unwrap();
    // All that was sent is here now.
    while let Ok(Some(answer)) = member.answers.message().await {
        assert_eq!(code(&answer.error), "NETWORK_EXCEPTION", "{answer:?}");
    }
}

#[tokio::test]
async fn clients_may_not_write_into_the_table_of_offsets() {
    let (broker, mut grpc) = start().await;
    assert_eq!(commit_alone(&mut grpc, 0, 1).await, None);
    let records = vec![record(Some("k"), "v")];
    let acks = v1::Acks::All;
    let result = grpc
        .produce_records("__consumer_offsets", Some(0), acks, records)
        .await
        .unwrap();
    assert_eq!(code(&result.error), "INVALID_TOPIC_EXCEPTION");
    let request = v1::DeleteRecordsRequest {
        partitions: vec![v1::DeleteRecordsPartition {
            topic: "__consumer_offsets".to_owned(),
            partition: 0,
            before_offset: -1,
        }],
        ..Default::default()
    };
    let deleted = grpc.topics.delete_records(request).await.unwrap();
    let error = &deleted.into_inner().results[0].error;
    assert_eq!(code(error), "INVALID_TOPIC_EXCEPTION");
    assert_eq!(committed(&mut grpc).await, [(0, 1)]);
    broker.shutdown().await.unwrap();
}

/// Offsets that compaction emptied are no records.
#[tokio::test]
async fn lag_counts_what_compaction_left() {
    let (broker, mut grpc) = start().await;
    let configs = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("segment.ms", "3600000"),
    ];
    grpc.create_topic("states", 1, &configs).await;
    for number in 0..10 {
        let key = if number < 8 { "old" } else { "new" };
        let records = vec![record(Some(key), &number.to_string())];
        let acks = v1::Acks::All;
        let appended = grpc.produce_records("states", Some(0), acks, records).await;
        assert_eq!(appended.unwrap().error, None);
    }
    let mut first = commit(0, 1);
    first.offsets[0].topic = "states".to_owned();
    grpc.groups.commit_offsets(first).await.unwrap();
    assert_eq!(describe(&mut grpc).await.lag_records, 9);
    broker.clock().advance(Duration::from_secs(7_200));
    let described = describe(&mut grpc).await;
    assert_eq!(described.lag_records, 2);
    assert_eq!(described.partitions[0].end_offset, 10);
    assert!((7_200_000..7_800_000).contains(&described.lag_ms));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn lag_is_on_the_metrics_page() {
    let (broker, mut grpc) = start().await;
    let member = Member::join(&mut grpc, "m").await;
    member.commit(&mut grpc, 0, 4).await.unwrap();
    broker.clock().advance(DAY);
    let address = broker.http_addr().unwrap().to_string();
    let page = tokio::task::spawn_blocking(move || http_get(&address, "/metrics"));
    let page = page.await.unwrap().body;
    for line in [
        "logweir_groups 1",
        "logweir_group_members{group=\"g\"} 1",
        "logweir_group_lag_records{group=\"g\",topic=\"orders\",partition=\"0\"} 6",
        "logweir_group_lag_seconds{group=\"g\",topic=\"orders\",partition=\"0\"} 864",
        "logweir_group_member_lag_records{group=\"g\",member=\"m\",client_id=\"\"} 6",
        "logweir_group_member_lag_seconds{group=\"g\",member=\"m\",client_id=\"\"} 864",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    broker.shutdown().await.unwrap();
}

async fn fetch(
    grpc: &mut GrpcBroker,
    groups: Vec<v1::FetchOffsetsGroup>,
) -> Result<Vec<v1::GroupOffsets>, Status> {
    let request = v1::FetchOffsetsRequest { groups };
    Ok(grpc
        .groups
        .fetch_offsets(request)
        .await?
        .into_inner()
        .groups)
}

fn topic(name: &str, partitions: &[i32]) -> v1::NamedPartitions {
    v1::NamedPartitions {
        topic: name.to_owned(),
        partitions: partitions.to_vec(),
    }
}

fn wanted(group_id: &str, topics: Vec<v1::NamedPartitions>) -> v1::FetchOffsetsGroup {
    v1::FetchOffsetsGroup {
        group_id: group_id.to_owned(),
        topics,
        ..Default::default()
    }
}

/// A group named a thousand times was looked up and answered a thousand times, a partition likewise.
#[tokio::test]
async fn what_is_named_twice_is_refused_or_answered_once() {
    let (broker, mut grpc) = start().await;
    for partition in 0..3 {
        assert_eq!(commit_alone(&mut grpc, partition, 1).await, None);
    }
    let twice = vec![wanted("g", Vec::new()), wanted("g", Vec::new())];
    let refused = fetch(&mut grpc, twice).await.unwrap_err();
    assert_eq!(name_of(&refused), "INVALID_REQUEST");
    let group_ids = vec!["g".to_owned(), "g".to_owned()];
    let twice = v1::DescribeGroupsRequest {
        group_ids: group_ids.clone(),
    };
    let refused = grpc.groups.describe_groups(twice).await.unwrap_err();
    assert_eq!(name_of(&refused), "INVALID_REQUEST");
    let twice = v1::DeleteGroupsRequest { group_ids };
    let refused = grpc.groups.delete_groups(twice).await.unwrap_err();
    assert_eq!(name_of(&refused), "INVALID_REQUEST");

    let check = async |topics: Vec<v1::NamedPartitions>, expected: &[i32]| {
        let groups = vec![wanted("g", topics)];
        let fetched = fetch(&mut grpc.clone(), groups).await.unwrap();
        let offsets = fetched[0].offsets.iter();
        let partitions: Vec<_> = offsets.map(|offset| offset.partition).collect();
        assert_eq!(partitions, expected);
    };
    check(
        vec![topic("orders", &[2, 0, 2]), topic("orders", &[0])],
        &[0, 2],
    )
    .await;
    check(
        vec![topic("orders", &[2]), topic("orders", &[])],
        &[0, 1, 2],
    )
    .await;
    check(
        vec![topic("orders", &[]), topic("orders", &[2])],
        &[0, 1, 2],
    )
    .await;
    check(vec![topic("orders", &[1]), topic("others", &[])], &[1]).await;
    let offset = v1::ExactOffset {
        topic: "orders".to_owned(),
        ..Default::default()
    };
    let exact = v1::reset_offsets_request::To::Exact(v1::ExactOffsets {
        offsets: vec![offset; 2],
    });
    let refused = grpc.groups.reset_offsets(reset(exact, true)).await;
    assert_eq!(name_of(&refused.unwrap_err()), "INVALID_REQUEST");
    broker.shutdown().await.unwrap();
}

/// Commits for these partitions of "wide", with metadata of 4,096 bytes each.
async fn commit_wide(grpc: &mut GrpcBroker, group_id: &str, partitions: std::ops::Range<i32>) {
    let partitions: Vec<i32> = partitions.collect();
    for partitions in partitions.chunks(200) {
        let offsets = partitions.iter().map(|partition| v1::OffsetToCommit {
            topic: "wide".to_owned(),
            partition: *partition,
            metadata: "m".repeat(4_096),
            ..Default::default()
        });
        let request = v1::CommitOffsetsRequest {
            group_id: group_id.to_owned(),
            member_epoch: -1,
            offsets: offsets.collect(),
            ..Default::default()
        };
        let answer = grpc.groups.commit_offsets(request).await.unwrap();
        let results = answer.into_inner().results;
        assert!(results.iter().all(|result| result.error.is_none()));
    }
}

/// The answers had no limit in bytes.
#[tokio::test]
async fn an_answer_about_groups_has_a_limit_and_says_what_to_ask_for_instead() {
    let broker = Broker::start(Config::in_memory()).await.unwrap();
    let mut grpc = connect(&broker).await;
    grpc.create_topic("wide", 4_200, &[]).await;
    commit_wide(&mut grpc, "a", 0..2_400).await;
    commit_wide(&mut grpc, "b", 0..2_400).await;
    let all = |ids: &[&str]| ids.iter().map(|id| wanted(id, Vec::new())).collect();
    let one = fetch(&mut grpc, all(&["a"])).await.unwrap();
    assert_eq!(one[0].offsets.len(), 2_400);
    let refused = fetch(&mut grpc, all(&["a", "b"])).await.unwrap_err();
    assert!(refused.message().contains("fewer groups"), "{refused}");
    let groups = grpc.groups.clone();
    let describe = |ids: &[&str]| {
        let group_ids = ids.iter().map(ToString::to_string).collect();
        let (mut groups, request) = (groups.clone(), v1::DescribeGroupsRequest { group_ids });
        async move { Ok::<_, Status>(groups.describe_groups(request).await?.into_inner().groups) }
    };
    assert_eq!(describe(&["a"]).await.unwrap()[0].partitions.len(), 2_400);
    let refused = describe(&["a", "b"]).await.unwrap_err();
    assert!(refused.message().contains("fewer groups"), "{refused}");

    // What never fits is told for that group alone.
    commit_wide(&mut grpc, "a", 2_400..4_200).await;
    let fetched = fetch(&mut grpc, all(&["a", "b"])).await.unwrap();
    let error = fetched[0].error.as_ref().unwrap();
    assert!(error.action.contains("name topics"), "{error:?}");
    assert_eq!(fetched[1].offsets.len(), 2_400);
    let described = describe(&["a", "b"]).await.unwrap();
    let error = described[0].error.as_ref().unwrap();
    assert!(error.action.contains("fetch its offsets"), "{error:?}");
    assert_eq!(described[1].partitions.len(), 2_400);
    let some = wanted("a", vec![topic("wide", &[4_199])]);
    let fetched = fetch(&mut grpc, vec![some]).await.unwrap();
    assert_eq!(fetched[0].offsets.len(), 1);
    broker.shutdown().await.unwrap();
}
