//! `logweir group` and `logweir offsets export|import`, as people and scripts use them.

use std::path::Path;
use std::time::Duration;

use logweir::{Api, Broker, Config, Fault};
use logweir_client::{
    Client, ConsumerConfig, ErrorCode, NewTopic, Offset, OffsetToCommit, PartitionId,
    ProducerRecord,
};
use logweir_proto::grpc::v1;
use logweir_tests::{BrokerProcess, DEADLINE, GrpcBroker, Logweir, ServeOptions};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// A broker with a topic "orders" of four partitions, ten records in each.
async fn start() -> BrokerProcess {
    let broker = ServeOptions::in_memory().start();
    let mut grpc = GrpcBroker::connect(broker.grpc()).await;
    grpc.create_topic("orders", 4, &[]).await;
    for partition in 0..4 {
        for number in 0..10 {
            let value = number.to_string();
            grpc.produce_value("orders", partition, &value).await;
        }
    }
    broker
}

fn call(broker: &BrokerProcess, line: &str) -> Logweir {
    let words: Vec<&str> = line.split(' ').collect();
    Logweir::new(&words).server(broker.grpc())
}

/// What a command prints as JSON.
fn objects(broker: &BrokerProcess, line: &str) -> Vec<Value> {
    let text = call(broker, line).succeed();
    let lines = text.lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// What a command that ends with `code` says to people.
fn said(broker: &BrokerProcess, line: &str, code: i32) -> String {
    let finished = call(broker, line).run();
    let (out, err) = (finished.stdout, finished.stderr);
    assert_eq!(finished.code, Some(code), "{line}\n{out}\n{err}");
    err
}

/// The cells of the lines that a command prints.
fn cells(broker: &BrokerProcess, line: &str) -> Vec<Vec<String>> {
    let text = call(broker, line).succeed();
    let lines = text.lines();
    lines
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// Commits these offsets of partitions of "orders" for a group without members.
async fn commit(broker: &BrokerProcess, group: &str, offsets: &[(i32, i64)]) {
    let client = Client::connect(broker.grpc()).await.unwrap();
    let offsets = offsets.iter().map(|(partition, offset)| {
        let partition = PartitionId::new(*partition);
        OffsetToCommit::new("orders", partition, Offset::new(*offset)).metadata("note")
    });
    let offsets: Vec<_> = offsets.collect();
    let results = client.admin().commit_group_offsets(group, &offsets).await;
    assert!(results.unwrap().iter().all(Result::is_ok));
}

/// What a group has committed, by partition of "orders".
async fn committed(broker: &BrokerProcess, group: &str) -> Vec<(i32, i64)> {
    let client = Client::connect(broker.grpc()).await.unwrap();
    let offsets = client.admin().group_offsets(group).await.unwrap();
    let offsets = offsets
        .iter()
        .map(|o| (o.partition.partition.get(), o.offset.get()));
    offsets.collect()
}

/// A member of group "busy" that owns all of "orders".
struct Member {
    requests: mpsc::Sender<v1::ConsumerGroupHeartbeatRequest>,
    answers: Streaming<v1::ConsumerGroupHeartbeatResponse>,
}

impl Member {
    async fn join(broker: &BrokerProcess) -> Self {
        let mut grpc = GrpcBroker::connect(broker.grpc()).await;
        let (requests, receiver) = mpsc::channel(8);
        let stream = ReceiverStream::new(receiver);
        let answers = grpc.groups.consumer_group_heartbeat(stream).await.unwrap();
        let mut member = Self {
            requests,
            answers: answers.into_inner(),
        };
        let join = v1::ConsumerGroupHeartbeatRequest {
            group_id: "busy".to_owned(),
            member_id: "m-1".to_owned(),
            polled: true,
            owned: Some(v1::Assignment::default()),
            subscription: Some(v1::Subscription {
                topics: vec!["orders".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let joined = member.ask(join.clone()).await;
        member
            .requests
            .send(v1::ConsumerGroupHeartbeatRequest {
                member_epoch: joined.member_epoch,
                owned: joined.assignment,
                subscription: None,
                ..join
            })
            .await
            .unwrap();
        let mut commit = v1::CommitOffsetsRequest {
            group_id: "busy".to_owned(),
            member_id: "m-1".to_owned(),
            member_epoch: joined.member_epoch,
            ..Default::default()
        };
        commit.offsets.push(v1::OffsetToCommit {
            topic: "orders".to_owned(),
            partition: 0,
            offset: 4,
            ..Default::default()
        });
        grpc.groups.commit_offsets(commit).await.unwrap();
        member
    }

    async fn ask(
        &mut self,
        request: v1::ConsumerGroupHeartbeatRequest,
    ) -> v1::ConsumerGroupHeartbeatResponse {
        self.requests.send(request).await.unwrap();
        let answer = tokio::time::timeout(DEADLINE, self.answers.message()).await;
        let answer = answer.expect("an answer in time").unwrap().unwrap();
        assert_eq!(answer.error, None);
        answer
    }
}

#[tokio::test]
async fn groups_are_listed_by_state_and_type() {
    let broker = start().await;
    commit(&broker, "idle", &[(0, 1)]).await;
    let _member = Member::join(&broker).await;
    let names = |line: &str| {
        let groups = objects(&broker, line).into_iter();
        groups
            .map(|g| g["group"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("group list --json"), ["busy", "idle"]);
    assert_eq!(names("group list --state empty --output json"), ["idle"]);
    assert_eq!(names("group list --type consumer --json"), ["busy"]);
    assert_eq!(
        names("group list --type consumer --state Empty --json"),
        [""; 0]
    );
    let table = cells(&broker, "group list");
    assert_eq!(table[0], ["GROUP", "STATE", "TYPE", "PROTOCOL"]);
    assert_eq!(table[1][0], "busy");
    assert_eq!(table[2], ["idle", "Empty", "classic", "-"]);
    let error = said(&broker, "group list --state asleep", 2);
    assert!(!error.contains("Dead"), "{error}");
    assert!(error.contains("asleep") && error.contains("PreparingRebalance"));
}

#[tokio::test]
async fn a_group_without_members_says_so_and_shows_its_lag() {
    let broker = start().await;
    commit(&broker, "idle", &[(0, 4), (1, 10)]).await;
    let text = call(&broker, "group describe idle").succeed();
    assert!(
        text.starts_with("idle: Empty, type classic, coordinator "),
        "{text}"
    );
    assert!(
        text.contains("\nno members, 2 partitions, lag 6 records ("),
        "{text}"
    );
    let table = cells(&broker, "group describe idle");
    assert_eq!(table[3][..5], ["orders", "0", "4", "10", "6"]);
    let caught_up = ["orders", "1", "10", "10", "0", "0s", "-", "-", "-"];
    assert_eq!(table[4], caught_up);

    let described = objects(&broker, "group describe idle --json").remove(0);
    assert_eq!(
        (&described["state"], &described["members"]),
        (&json!("Empty"), &json!([]))
    );
    assert_eq!(described["lag_records"], 6);
    let first = &described["partitions"][0];
    assert_eq!(
        (&first["committed_offset"], &first["end_offset"]),
        (&json!(4), &json!(10))
    );
    assert_eq!(
        (&first["metadata"], &first["member"]),
        (&json!("note"), &json!(null))
    );
    assert!(first["lag_ms"].is_u64() && first["topic_id"].is_string());

    let error = said(&broker, "group describe idle nobody", 3);
    assert!(
        error.contains("nobody") && error.contains("logweir group list"),
        "{error}"
    );
    said(&broker, "group describe nobody", 1);
    let none = said(&broker, "group members idle", 0);
    assert_eq!(none, "group idle has no members\n");
    said(&broker, "group members nobody", 1);
}

#[tokio::test]
async fn members_are_shown_with_what_they_have() {
    let broker = start().await;
    let _member = Member::join(&broker).await;
    let table = cells(&broker, "group members busy");
    assert_eq!(table[0][..4], ["MEMBER", "CLIENT", "ID", "HOST"]);
    assert_eq!(table[1][0], "m-1");
    assert_eq!(table[1][4..7], ["4", "orders:0-3", "6"]);
    let member = objects(&broker, "group members busy --output json").remove(0);
    assert_eq!(member["assignment"], json!({ "orders": [0, 1, 2, 3] }));
    assert_eq!(
        (&member["host"], &member["lag_records"]),
        (&json!("127.0.0.1"), &json!(6))
    );

    let text = call(&broker, "group describe busy").succeed();
    assert!(
        text.contains("\n1 member, 4 partitions, lag 6 records (")
            && text.contains("), not known for 3 partitions\n"),
        "{text}"
    );
    let described = objects(&broker, "group describe busy --json").remove(0);
    assert_eq!(described["type"], "consumer");
    assert_eq!(described["partitions"][3]["member"], "m-1");
    assert_eq!(described["partitions"][3]["host"], "127.0.0.1");
    assert_eq!(described["partitions"][3]["lag_records"], json!(null));
    assert_eq!(described["lag_unknown_partitions"], 3);
}

#[tokio::test]
async fn a_reset_is_shown_first_and_done_only_with_execute() {
    let broker = start().await;
    commit(&broker, "idle", &[(0, 4), (1, 10)]).await;
    let finished = call(&broker, "group reset idle --to-earliest").run();
    assert_eq!(finished.code, Some(0));
    assert!(
        finished.stderr.contains("nothing was changed") && finished.stderr.contains("--execute"),
        "{}",
        finished.stderr
    );
    let rows: Vec<Vec<&str>> = finished
        .stdout
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(rows[1], ["idle", "orders", "0", "4", "0"]);
    assert_eq!(rows[2], ["idle", "orders", "1", "10", "0"]);
    assert_eq!(committed(&broker, "idle").await, [(0, 4), (1, 10)]);

    let check = async |arguments: &str, expected: &[(i32, i64)]| {
        said(
            &broker,
            &format!("group reset idle {arguments} --execute"),
            0,
        );
        assert_eq!(committed(&broker, "idle").await, expected, "{arguments}");
    };
    check("--shift-by -3", &[(0, 1), (1, 7)]).await;
    check(
        "--to-offset 5 --topic orders:1-2",
        &[(0, 1), (1, 5), (2, 5)],
    )
    .await;
    check("--to-time 1h --topic orders:0", &[(0, 0), (1, 5), (2, 5)]).await;
    check(
        "--to-latest --topic orders",
        &[(0, 10), (1, 10), (2, 10), (3, 10)],
    )
    .await;
    let shown = objects(
        &broker,
        "group reset idle --to-earliest --topic orders:3 --json",
    );
    let expected = json!({"group": "idle", "topic": "orders", "partition": 3, "before": 10, "after": 0,
        "clipped_from": null, "dry_run": true, "set": false});
    assert_eq!(shown, [expected]);
}

/// It was clipped without a word, so that a slip of the finger looked like what was asked for.
#[tokio::test]
async fn a_reset_out_of_range_is_clipped_and_says_so() {
    let broker = start().await;
    commit(&broker, "idle", &[(0, 4), (1, 9)]).await;
    let finished = call(&broker, "group reset idle --to-offset 99 --execute").run();
    assert_eq!(finished.code, Some(0));
    let (out, err) = (finished.stdout, finished.stderr);
    assert!(out.lines().next().unwrap().ends_with("NOTE"), "{out}");
    let clipped = out.matches("clipped from 99 to the end").count();
    assert_eq!(clipped, 2, "{out}");
    assert!(err.contains("2 offsets lie outside"), "{err}");
    assert_eq!(committed(&broker, "idle").await, [(0, 10), (1, 10)]);
    let shown = objects(
        &broker,
        "group reset idle --shift-by -12 --topic orders:0 --json",
    );
    assert_eq!(
        (&shown[0]["after"], &shown[0]["clipped_from"]),
        (&json!(0), &json!(-2))
    );
    let table = call(&broker, "group reset idle --shift-by -1").succeed();
    assert!(!table.contains("NOTE"), "{table}");
}

#[tokio::test]
async fn a_reset_that_cannot_be_done_says_why() {
    let broker = start().await;
    let _member = Member::join(&broker).await;
    let error = said(&broker, "group reset busy --to-earliest --execute", 1);
    assert!(
        error.contains("members") && error.contains("stop its members first"),
        "{error}"
    );
    let error = said(&broker, "group reset nobody --to-earliest", 1);
    assert!(
        error.contains("no group \"nobody\"") && error.contains("nothing"),
        "{error}"
    );
    let error = said(&broker, "group reset g --to-earliest --topic nowhere", 1);
    assert!(
        error.starts_with("error: there is no topic \"nowhere\""),
        "{error}"
    );
    let error = said(&broker, "group reset g --to-earliest --topic orders:9", 1);
    assert!(error.contains('9'), "{error}");
    said(&broker, "group reset g", 2);
    said(&broker, "group reset g --shift-by 0", 2);
}

#[tokio::test]
async fn groups_and_offsets_are_deleted() {
    let broker = start().await;
    commit(&broker, "idle", &[(0, 4), (1, 10), (2, 1)]).await;
    let _member = Member::join(&broker).await;
    let deleted = objects(
        &broker,
        "group delete-offsets idle --topic orders:1-2 --json",
    );
    assert_eq!(deleted.len(), 2);
    assert_eq!(deleted[0]["partition"], 1);
    assert_eq!(committed(&broker, "idle").await, [(0, 4)]);
    said(&broker, "group delete-offsets idle --topic orders", 0);
    assert_eq!(committed(&broker, "idle").await, []);
    commit(&broker, "idle", &[(0, 4)]).await;
    let error = said(&broker, "group delete-offsets idle --topic nowhere", 1);
    assert!(
        error.contains("committed nothing for topic \"nowhere\"; there is no such topic"),
        "{error}"
    );
    let error = said(&broker, "group delete-offsets idle --topic orders:0-1", 3);
    assert!(error.contains("any more"), "{error}");
    assert!(
        error.contains("nothing for partition 1 of topic"),
        "{error}"
    );
    commit(&broker, "idle", &[(0, 4)]).await;
    let finished = call(&broker, "group delete-offsets idle --topic orders:9 --json").run();
    assert_eq!(finished.code, Some(1));
    let deleted: Value = serde_json::from_str(&finished.stdout).unwrap();
    let expected = json!({"group": "idle", "topic": "orders", "partition": 9, "deleted": false});
    assert_eq!(deleted, expected);
    assert!(
        finished.stderr.contains("it has 4 partitions"),
        "{}",
        finished.stderr
    );
    let error = said(&broker, "group delete-offsets busy --topic orders:0", 1);
    assert!(error.contains("subscribed"), "{error}");
    let error = said(&broker, "group delete-offsets nobody --topic orders:0", 1);
    assert!(error.contains("nobody"), "{error}");

    commit(&broker, "idle", &[(0, 4)]).await;
    let error = said(&broker, "group delete busy idle nobody", 3);
    assert!(error.contains("deleted group idle"), "{error}");
    assert!(error.contains("logweir group members busy"), "{error}");
    assert_eq!(error.matches("stop").count(), 1, "{error}");
    said(&broker, "group delete idle", 1);
    said(&broker, "group delete idle --if-exists", 0);
    let deleted = objects(&broker, "group delete idle --if-exists --json");
    assert_eq!(deleted, [json!({"group": "idle", "deleted": false})]);
    commit(&broker, "idle", &[(0, 4)]).await;
    let deleted = objects(&broker, "group delete idle --output json");
    assert_eq!(deleted, [json!({"group": "idle", "deleted": true})]);
    assert_eq!(objects(&broker, "group list --json").len(), 1);
}

#[tokio::test]
async fn offsets_go_out_and_come_back_the_same() {
    let broker = start().await;
    commit(&broker, "a", &[(0, 4), (1, 10)]).await;
    commit(&broker, "b", &[(3, 7)]).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("offsets.json");
    let file = path.to_str().unwrap();
    said(
        &broker,
        &format!("offsets export a b --output-file {file}"),
        0,
    );
    let exported = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        call(&broker, "offsets export a b --json").succeed(),
        exported
    );
    said(&broker, "group delete a b", 0);

    let text = said(&broker, &format!("offsets import {file}"), 0);
    assert!(text.contains("nothing was changed"), "{text}");
    assert_eq!(committed(&broker, "a").await, []);
    let set = objects(&broker, &format!("offsets import {file} --execute --json"));
    assert_eq!(set.len(), 3);
    assert_eq!(
        (&set[2]["group"], &set[2]["before"], &set[2]["after"]),
        (&json!("b"), &json!(null), &json!(7))
    );
    assert_eq!(call(&broker, "offsets export a b").succeed(), exported);

    let renamed = exported.replace("\"group\":\"a\"", "\"group\":\"c\"");
    call(&broker, "offsets import --execute")
        .input(renamed)
        .succeed();
    assert_eq!(committed(&broker, "c").await, [(0, 4), (1, 10)]);

    let error = said(&broker, "offsets export a nobody", 3);
    assert!(error.contains("nobody has committed nothing"), "{error}");
    said(&broker, "offsets export nobody", 1);
}

#[tokio::test]
async fn an_import_is_checked_whole_before_anything_is_set() {
    let broker = start().await;
    commit(&broker, "a", &[(0, 4)]).await;
    let _member = Member::join(&broker).await;
    let dir = tempfile::tempdir().unwrap();
    let refuse = |text: &str, fault: &str| {
        let path = dir.path().join("f");
        std::fs::write(&path, text).unwrap();
        let line = format!("offsets import {} --execute", path.to_str().unwrap());
        let error = said(&broker, &line, 1);
        assert!(error.contains(fault), "{text}: {error}");
    };
    let good = r#"{"group":"a","offsets":[{"topic":"orders","partition":0,"offset":9}]}"#;
    refuse(&format!("{good}{good}"), "twice");
    refuse(&good.replace("9}", "-9}"), "below 0");
    refuse("[]", "empty list");
    refuse(&good.replace("offset\":9", "ofset\":9"), "--help");
    refuse(
        &format!("{good}{}", good.replace("\"a\"", "\"busy\"")),
        "stop its members first",
    );
    let elsewhere = good.replace("\"a\"", "\"b\"").replace("orders", "nowhere");
    refuse(&format!("{good}{elsewhere}"), "nowhere");
    let anew = good.replace(
        "\"partition\"",
        "\"topic_id\":\"0f8fad5b-d9cb-469f-a165-70867728950e\",\"partition\"",
    );
    refuse(&anew, "--ignore-topic-ids");
    assert_eq!(committed(&broker, "a").await, [(0, 4)]);
    let line = "offsets import --execute --ignore-topic-ids";
    call(&broker, line).input(anew).succeed();
    assert_eq!(committed(&broker, "a").await, [(0, 9)]);
    let missing = dir.path().join("missing");
    let error = said(&broker, &format!("offsets import {}", shown(&missing)), 1);
    assert!(error.contains("missing"), "{error}");
}

/// The coordinator decides on a million bytes at a time, and refused larger imports.
#[tokio::test]
async fn an_import_larger_than_one_decision_is_set_part_by_part() {
    let broker = start().await;
    let mut grpc = GrpcBroker::connect(broker.grpc()).await;
    grpc.create_topic("wide", 300, &[]).await;
    let metadata = "m".repeat(4_000);
    let offsets = (0..300).map(|partition| {
        json!({"topic": "wide", "partition": partition, "offset": 1, "metadata": metadata})
    });
    let group = json!({"group": "g", "offsets": offsets.collect::<Vec<_>>()});
    let import = call(&broker, "offsets import --execute --json");
    let set = import.input(group.to_string()).succeed();
    assert_eq!(set.lines().count(), 300);
    assert_eq!(committed(&broker, "g").await.len(), 300);
}

/// Beyond the end, the group would have begun anew at 0.
#[tokio::test]
async fn an_import_out_of_range_is_clipped_and_says_so() {
    let broker = start().await;
    commit(&broker, "g", &[(0, 4)]).await;
    let mut grpc = GrpcBroker::connect(broker.grpc()).await;
    let file = r#"{"group":"g","offsets":[
        {"topic":"orders","partition":0,"offset":5000,"leader_epoch":0,"metadata":"m"},
        {"topic":"orders","partition":1,"offset":3}]}"#;
    let import = |line: &str| call(&broker, line).input(file).run();
    let shown = import("offsets import");
    assert_eq!(shown.code, Some(0));
    let rows: Vec<&str> = shown.stdout.lines().collect();
    assert!(
        rows[1].ends_with("4     10  clipped from 5000 to the end"),
        "{rows:?}"
    );
    assert!(rows[2].ends_with("-      3"), "{rows:?}");
    assert!(
        shown.stderr.contains("1 offset lies outside"),
        "{}",
        shown.stderr
    );
    assert_eq!(committed(&broker, "g").await, [(0, 4)]);
    let set = import("offsets import --execute --json").stdout;
    let set: Value = serde_json::from_str(set.lines().next().unwrap()).unwrap();
    assert_eq!(
        (
            &set["before"],
            &set["after"],
            &set["clipped_from"],
            &set["set"]
        ),
        (&json!(4), &json!(10), &json!(5000), &json!(true))
    );
    assert_eq!(committed(&broker, "g").await, [(0, 10), (1, 3)]);
    let described = objects(&broker, "group describe g --json").remove(0);
    assert_eq!(described["partitions"][0]["metadata"], "m");
    grpc.produce_value("orders", 0, "new").await;
    let read = call(&broker, "consume orders --group g --quiet --max 1").succeed();
    assert!(read == "new\n" || read == "3\n", "{read}");
}

#[tokio::test]
async fn an_import_of_nothing_says_so() {
    let broker = start().await;
    let import = call(&broker, "offsets import").input(r#"{"group":"g","offsets":[]}"#);
    let error = import.run().stderr;
    assert!(error.contains("no offsets of it"), "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
}

/// What a group had committed before would be known to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fails_on_the_way_shows_what_it_has_set() {
    let broker = Broker::start(Config::in_memory()).await.unwrap();
    let server = broker.grpc_addr().unwrap().to_string();
    let client = broker.client().unwrap();
    let topic = NewTopic::new("orders").partitions(1);
    client.admin().create_topic(topic).await.unwrap();
    for group in ["a", "b"] {
        let zero = [OffsetToCommit::new(
            "orders",
            PartitionId::new(0),
            Offset::ZERO,
        )];
        let committed = client.admin().commit_group_offsets(group, &zero).await;
        committed.unwrap().into_iter().for_each(|r| r.unwrap());
    }
    for value in ["x", "y", "z"] {
        let record = ProducerRecord::new("orders").value(value);
        logweir::testing::produce(&broker, record).await.unwrap();
    }
    let group = |id: &str| {
        let offset = r#"{"topic":"orders","partition":0,"offset":2}"#;
        format!(r#"{{"group":"{id}","offsets":[{offset}]}}"#)
    };
    let file = format!("{}{}", group("a"), group("b"));
    let import = async |fault: Fault| {
        let of_b = |fault: Fault| fault.on(Api::ResetOffsets).group("b");
        // The check comes first and is to succeed.
        broker.faults().inject(of_b(Fault::delay(Duration::ZERO)));
        broker.faults().inject(of_b(fault));
        let words = ["offsets", "import", "--execute", "--json"];
        let import = Logweir::new(&words).server(&server).input(file.clone());
        tokio::task::spawn_blocking(|| import.run()).await.unwrap()
    };
    let failed = import(Fault::fail(ErrorCode::InvalidRequest)).await;
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    let row = |group: &str, before: i64, set: Value| {
        json!({"group": group, "topic": "orders", "partition": 0, "before": before, "after": 2,
            "clipped_from": null, "dry_run": false, "set": set})
    };
    let rows = |text: &str| {
        let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
        rows.collect::<Vec<Value>>()
    };
    assert_eq!(rows(&failed.stdout), [row("a", 0, json!(true))]);
    let lost = import(Fault::disconnect_after()).await;
    assert_eq!(lost.code, Some(3), "{}", lost.stderr);
    let expected = [row("a", 2, json!(true)), row("b", 0, json!(null))];
    assert_eq!(rows(&lost.stdout), expected);
    assert!(lost.stderr.contains("not known whether"), "{}", lost.stderr);
    broker.shutdown().await.unwrap();
}

/// A group, or a member, may call itself what it likes.
#[tokio::test]
async fn names_that_a_terminal_would_obey_are_escaped_in_tables() {
    let broker = start().await;
    let id = "\u{1b}[2Jgone\nevil  Stable";
    commit(&broker, id, &[(0, 4)]).await;
    for words in [&["group", "list"][..], &["group", "describe", id]] {
        let table = Logweir::new(words).server(broker.grpc()).succeed();
        assert!(table.contains("\\u{1b}[2Jgone\\nevil"), "{table}");
        assert!(!table.contains('\u{1b}'), "{table:?}");
    }
    assert_eq!(objects(&broker, "group list --json")[0]["group"], id);
}

#[tokio::test]
async fn static_members_are_shown_with_their_instance() {
    let broker = start().await;
    let client = Client::connect(broker.grpc()).await.unwrap();
    let config = ConsumerConfig {
        instance_id: Some("till-1".to_owned()),
        ..ConsumerConfig::new("shop")
    };
    let mut consumer = client.consumer_with(config).unwrap();
    consumer.subscribe(["orders"]).unwrap();
    consumer.next().await.unwrap();
    let table = cells(&broker, "group members shop");
    assert_eq!(table[0][..2], ["MEMBER", "INSTANCE"]);
    assert_eq!(table[1][1], "till-1");
    consumer.close().await.unwrap();
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_topic_that_is_called_like_a_command_can_be_looked_up() {
    let broker = start().await;
    let mut grpc = GrpcBroker::connect(broker.grpc()).await;
    grpc.create_topic("export", 2, &[]).await;
    assert_eq!(objects(&broker, "offsets orders --json").len(), 4);
    assert_eq!(objects(&broker, "offsets --json -- export").len(), 2);
    said(&broker, "offsets export", 2);
    said(&broker, "offsets", 2);
}
