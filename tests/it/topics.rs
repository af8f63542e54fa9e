//! Topics: creation and its refusals, auto-creation, configuration, expansion, deletion, retention
//! and deleting records; all of it over kill -9.

use std::fs;
use std::path::Path;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_tests::{
    DEADLINE, GrpcBroker, ServeOptions, earliest, latest, record, wait_until_async,
};

#[tokio::test]
async fn topics_and_their_settings_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = ServeOptions::on_disk(dir.path()).start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker
        .create_topic("kept", 5, &[("retention.ms", "123456789")])
        .await;
    broker.create_topic("gone", 2, &[]).await;
    broker.produce_value("gone", 0, "x").await;
    let request = v1::DeleteTopicsRequest {
        names: vec!["gone".into(), "never".into()],
        ..Default::default()
    };
    let results = broker
        .topics
        .delete_topics(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results[0].error, None);
    assert_eq!(results[1].error.as_ref().map(|e| e.code), Some(3));
    let request = v1::CreatePartitionsRequest {
        name: "kept".into(),
        partitions: 7,
        ..Default::default()
    };
    let result = broker
        .topics
        .create_partitions(request)
        .await
        .unwrap()
        .into_inner()
        .result
        .unwrap();
    assert_eq!((result.error, result.partitions), (None, 7));
    let before = broker.describe_topic("kept").await;

    process.kill9();
    process.restart();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    let listed = broker
        .topics
        .list_topics(v1::ListTopicsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let names: Vec<&str> = listed.topics.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["kept"]);
    let after = broker.describe_topic("kept").await;
    assert_eq!(
        (after.topic_id, after.partitions.len()),
        (before.topic_id, 7)
    );
    assert_eq!(
        setting(&mut broker, "kept", "retention.ms").await,
        "123456789"
    );

    // The same name again is another topic, without the old records.
    broker.create_topic("gone", 2, &[]).await;
    assert_eq!(broker.list_offset("gone", 0, latest()).await.offset, 0);
}

async fn setting(broker: &mut GrpcBroker, topic: &str, key: &str) -> String {
    let request = v1::DescribeConfigsRequest {
        topics: vec![topic.into()],
        keys: vec![key.into()],
    };
    let answer = broker
        .topics
        .describe_configs(request)
        .await
        .unwrap()
        .into_inner();
    let topic = &answer.topics[0];
    assert_eq!(topic.error, None);
    assert!(!topic.entries[0].documentation.is_empty());
    topic.entries[0].value.clone()
}

#[tokio::test]
async fn what_no_topic_can_be_is_refused_with_kafkas_code() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let long = "x".repeat(250);
    for (name, partitions, configs, code) in [
        ("t", 1, &[][..], 36),
        ("", 1, &[], 17),
        (".", 1, &[], 17),
        ("a b", 1, &[], 17),
        ("ü", 1, &[], 17),
        ("../up", 1, &[], 17),
        (long.as_str(), 1, &[], 17),
        ("u", 0, &[], 37),
        ("u", -1, &[], 37),
        ("u", 1, &[("retention.sm", "1")], 40),
        ("u", 1, &[("retention.ms", "soon")], 40),
        ("u", 1, &[("segment.bytes", "-5")], 40),
    ] {
        let result = broker.try_create_topic(name, partitions, configs).await;
        let found = result.error.as_ref().map(|e| e.code);
        assert_eq!(
            found,
            Some(code),
            "{name:?} {partitions} {configs:?}: {:?}",
            result.error
        );
    }
    let near = broker
        .try_create_topic("u", 1, &[("retention.sm", "1")])
        .await
        .error
        .unwrap();
    let told = format!("{} {}", near.message, near.action);
    assert!(
        told.contains("retention.ms"),
        "the nearest setting is named: {near:?}"
    );
    let only_t = broker
        .topics
        .list_topics(v1::ListTopicsRequest::default())
        .await
        .unwrap();
    assert_eq!(only_t.into_inner().topics.len(), 1, "nothing was made");
}

#[tokio::test]
async fn topics_are_created_on_first_use_unless_that_is_switched_off() {
    for (auto, flags) in [
        (true, &[][..]),
        (false, &["--set", "topics.auto_create_topics_enable=false"]),
    ] {
        let process = ServeOptions::in_memory().args(flags).start();
        let mut broker = GrpcBroker::connect(process.grpc()).await;
        let result = broker
            .produce_records("new", Some(0), v1::Acks::All, vec![record(None, "x")])
            .await;
        let error = result.unwrap().error;
        assert_eq!(error.is_none(), auto, "{error:?}");
        let request = v1::DescribeTopicsRequest {
            names: vec!["asked".into()],
            allow_auto_create: true,
        };
        let described = broker
            .topics
            .describe_topics(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(described.topics[0].error.is_none(), auto);
        // Reading creates nothing.
        let fetched = broker
            .fetch_once("read-only", 0, 0, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(fetched.error.map(|e| e.code), Some(3));
    }
}

#[tokio::test]
async fn settings_change_all_at_once_or_not_at_all_and_take_effect() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let alter = async |set: &[(&str, &str)], unset: &[&str]| {
        let change = v1::AlterTopicConfigs {
            topic: "t".into(),
            set: set
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            unset: unset.iter().map(|k| (*k).to_owned()).collect(),
        };
        let request = v1::AlterConfigsRequest {
            topics: vec![change],
            ..Default::default()
        };
        let answer = broker
            .clone()
            .topics
            .alter_configs(request)
            .await
            .unwrap()
            .into_inner();
        answer.results[0].error.clone()
    };
    let refused = alter(
        &[("max.message.bytes", "500"), ("no.such.setting", "1")],
        &[],
    )
    .await;
    assert_eq!(refused.map(|e| e.code), Some(40));
    let large = || vec![record(None, &"x".repeat(1_000))];
    let mut client = broker.clone();
    let stored = client
        .produce_records("t", Some(0), v1::Acks::All, large())
        .await
        .unwrap();
    assert_eq!(stored.error, None, "nothing changed");
    assert_eq!(alter(&[("max.message.bytes", "500")], &[]).await, None);
    let refused = client
        .produce_records("t", Some(0), v1::Acks::All, large())
        .await
        .unwrap();
    assert_eq!(
        refused.error.map(|e| e.code),
        Some(10),
        "the new limit holds"
    );
    assert_eq!(alter(&[], &["max.message.bytes"]).await, None);
    let stored = client
        .produce_records("t", Some(0), v1::Acks::All, large())
        .await
        .unwrap();
    assert_eq!(stored.error, None, "the default holds again");
}

#[tokio::test]
async fn deleted_records_stay_deleted_over_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = ServeOptions::on_disk(dir.path()).start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 2, &[]).await;
    for n in 0..20 {
        broker.produce_value("t", n % 2, "x").await;
    }
    let partition = |partition, before_offset| v1::DeleteRecordsPartition {
        topic: "t".into(),
        partition,
        before_offset,
    };
    let request = v1::DeleteRecordsRequest {
        partitions: vec![
            partition(0, 4),
            partition(1, -1),
            partition(0, 99),
            partition(9, 0),
        ],
        ..Default::default()
    };
    let results = broker
        .topics
        .delete_records(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let starts: Vec<i64> = results.iter().map(|r| r.log_start_offset).collect();
    assert_eq!(starts, [4, 10, -1, -1]);
    assert_eq!(
        results[2].error.as_ref().map(|e| e.code),
        Some(1),
        "{:?}",
        results[2]
    );
    assert_eq!(
        results[3].error.as_ref().map(|e| e.code),
        Some(3),
        "{:?}",
        results[3]
    );

    for life in ["running", "killed"] {
        let mut broker = GrpcBroker::connect(process.grpc()).await;
        assert_eq!(
            broker.list_offset("t", 0, earliest()).await.offset,
            4,
            "{life}"
        );
        assert_eq!(
            broker.list_offset("t", 1, earliest()).await.offset,
            10,
            "{life}"
        );
        let below = broker.fetch_once("t", 0, 3, Duration::ZERO).await.unwrap();
        assert_eq!(below.error.map(|e| e.code), Some(1), "{life}");
        assert_eq!(broker.read_partition("t", 0).await.len(), 6, "{life}");
        process.kill9();
        process.restart();
    }
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    assert_eq!(
        broker.produce_value("t", 1, "next").await,
        10,
        "offsets go on"
    );
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0, // deleted meanwhile
    };
    entries.map(size).sum()
}

#[tokio::test]
async fn retention_by_size_and_by_time_removes_the_oldest_segments() {
    let often = [
        "--set",
        "log_dir.retention_check_interval_ms=1000",
        "--flush",
        "os",
    ];
    for (setting, value) in [("retention.bytes", "300000"), ("retention.ms", "1")] {
        let dir = tempfile::tempdir().unwrap();
        let process = ServeOptions::on_disk(dir.path()).args(&often).start();
        let mut broker = GrpcBroker::connect(process.grpc()).await;
        broker
            .create_topic("t", 1, &[("segment.bytes", "65536"), (setting, value)])
            .await;
        for _ in 0..100 {
            broker.produce_value("t", 0, &"x".repeat(10_000)).await;
        }
        let moved = wait_until_async("old segments are gone", DEADLINE, || {
            let mut broker = broker.clone();
            async move {
                let start = broker.list_offset("t", 0, earliest()).await.offset;
                (start >= 60).then_some(start)
            }
        })
        .await;
        let read = broker.read_partition("t", 0).await;
        assert_eq!(
            broker.list_offset("t", 0, latest()).await.offset,
            100,
            "{setting}"
        );
        assert!(read.iter().all(|r| r.offset >= moved), "{setting}");
        if setting == "retention.bytes" {
            assert!(
                read.len() >= 30,
                "{} records of 10,000 bytes are kept",
                read.len()
            );
        }
        let topic_bytes = bytes_below(dir.path());
        println!("{setting}: starts at {moved}, {topic_bytes} bytes in the data directory");
        assert_eq!(broker.produce_value("t", 0, "next").await, 100, "{setting}");
    }
}
