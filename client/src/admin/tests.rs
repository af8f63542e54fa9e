//! Admin calls against the mock broker.

use std::time::Duration;

use logweir_proto::{ErrorCode, Offset, PartitionId, Timestamp};

use super::{
    ConfigChanges, ConfigSource, GroupFilter, NamedPartitions, NewTopic, OffsetSpec, ResetTo,
};
use crate::config::Isolation;
use crate::error::ErrorKind;
use crate::mock::MockBroker;
use crate::topic_partition::TopicPartition;

#[tokio::test(start_paused = true)]
async fn a_topic_is_created_listed_described_changed_expanded_and_deleted() {
    let broker = MockBroker::new();
    let admin = broker.client().admin();
    let new = NewTopic::new("t").partitions(3).config("retention.ms", "5");
    let created = admin.create_topic(new.clone()).await.unwrap();
    assert_eq!((created.name.as_str(), created.partitions), ("t", 3));
    let error = admin.create_topic(new).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TopicAlreadyExists));
    assert_eq!(error.topic(), Some("t"));

    let described = admin.describe_topic("t").await.unwrap();
    assert_eq!(described.id, created.id);
    assert_eq!(described.partitions.len(), 3);
    assert_eq!(described.partitions[2].partition, PartitionId::new(2));

    admin
        .alter_config(
            "t",
            ConfigChanges::new().set("a", "1").unset("retention.ms"),
        )
        .await
        .unwrap();
    let settings = admin.describe_config("t").await.unwrap();
    assert_eq!(settings.len(), 1);
    assert_eq!(
        (settings[0].key.as_str(), settings[0].value.as_str()),
        ("a", "1")
    );
    assert_eq!(settings[0].source, ConfigSource::Topic);

    assert_eq!(admin.create_partitions("t", 5).await.unwrap().partitions, 5);
    let error = admin.create_partitions("t", 5).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidPartitions));

    admin.delete_topic("t").await.unwrap();
    for error in [
        admin.delete_topic("t").await.unwrap_err(),
        admin.describe_topic("t").await.unwrap_err(),
        admin.describe_config("t").await.unwrap_err(),
        admin
            .alter_config("t", ConfigChanges::new())
            .await
            .unwrap_err(),
    ] {
        assert_eq!(
            (error.kind(), error.topic()),
            (ErrorKind::Invalid, Some("t"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn listing_follows_all_pages() {
    let broker = MockBroker::new();
    for number in 0..7 {
        broker.create(&format!("a-{number}"), 1);
    }
    broker.create("b", 1);
    let admin = broker.client().admin();
    let names = |topics: Vec<super::TopicSummary>| -> Vec<String> {
        topics.into_iter().map(|topic| topic.name).collect()
    };
    assert_eq!(names(admin.list_topics().await.unwrap()).len(), 8);
    let some = names(admin.list_topics_with("a-", false).await.unwrap());
    assert_eq!(some, ["a-0", "a-1", "a-2", "a-3", "a-4", "a-5", "a-6"]);
}

#[tokio::test(start_paused = true)]
async fn offsets_are_looked_up_each_on_its_own_and_records_deleted() {
    let broker = MockBroker::new().with_topic("t", 1);
    broker.append("t", 0, &["a", "b", "c"]);
    let admin = broker.client().admin();
    let place = TopicPartition::new("t", PartitionId::new(0));
    let wanted = vec![
        (place.clone(), OffsetSpec::Earliest),
        (place.clone(), OffsetSpec::Latest),
        (place.clone(), OffsetSpec::Timestamp(Timestamp::new(1_001))),
        (place.clone(), OffsetSpec::Timestamp(Timestamp::new(9_999))),
        (
            TopicPartition::new("t", PartitionId::new(1)),
            OffsetSpec::Latest,
        ),
    ];
    let found = admin
        .list_offsets(wanted, Isolation::default())
        .await
        .unwrap();
    let offset = |index: usize| found[index].as_ref().unwrap().offset.map(Offset::get);
    assert_eq!(
        (offset(0), offset(1), offset(2), offset(3)),
        (Some(0), Some(3), Some(1), None)
    );
    assert_eq!(
        found[4].as_ref().unwrap_err().partition(),
        Some(PartitionId::new(1))
    );

    let partition = PartitionId::new(0);
    let start = admin
        .delete_records("t", partition, Some(Offset::new(2)))
        .await
        .unwrap();
    assert_eq!(start, Offset::new(2));
    let found = admin
        .list_offset("t", partition, OffsetSpec::Earliest)
        .await
        .unwrap();
    assert_eq!(found.offset, Some(Offset::new(2)));
    let error = admin
        .delete_records("t", partition, Some(Offset::new(9)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OffsetOutOfRange));
    assert_eq!(
        admin.delete_records("t", partition, None).await.unwrap(),
        Offset::new(3)
    );
}

#[tokio::test(start_paused = true)]
async fn reading_calls_wait_passing_trouble_out_and_changing_calls_do_not() {
    let broker = MockBroker::new();
    let admin = broker.client().admin();
    broker.fail_calls("DescribeCluster", vec![tonic::Code::Unavailable; 5]);
    let cluster = admin.describe_cluster().await.unwrap();
    assert_eq!(
        (cluster.cluster_id.as_str(), cluster.controller),
        ("mock", None)
    );
    assert_eq!(
        cluster.nodes[0].grpc_address.as_deref(),
        Some("127.0.0.1:1")
    );
    assert_eq!(cluster.nodes[0].rack, None);
    broker.fail_calls("CreateTopics", vec![tonic::Code::Unavailable]);
    let error = admin.create_topic(NewTopic::new("t")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    let begun = tokio::time::Instant::now();
    broker.fail_calls("ListTopics", vec![tonic::Code::Unavailable; 1_000]);
    assert!(admin.list_topics().await.unwrap_err().is_retriable());
    assert!(
        begun.elapsed() <= Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    broker.fail_calls("ListTopics", vec![tonic::Code::PermissionDenied]);
    assert_eq!(
        admin.list_topics().await.unwrap_err().kind(),
        ErrorKind::Denied
    );
}

#[tokio::test]
async fn an_address_that_is_not_valid_or_answers_nobody_is_an_error_that_names_it() {
    for address in ["", "nowhere", "http://host", "https://host:1", "host:port"] {
        let error = crate::Client::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{address}: {error}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = crate::Client::connect(free.to_string()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert!(error.to_string().contains(&free.to_string()), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    // Lazily, the same is told by the first call.
    let client = crate::Client::builder()
        .request_timeout(Duration::from_millis(300))
        .connect_lazy(free.to_string())
        .unwrap();
    let error = client.admin().list_topics().await.unwrap_err();
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

#[tokio::test]
async fn calls_can_be_made_in_tasks_of_their_own() {
    let admin = MockBroker::new().with_topic("t", 1).client().admin();
    // That this compiles is the point: what is spawned has to be free to move between threads.
    let task = tokio::spawn(async move {
        admin.describe_cluster().await?;
        admin.list_topics().await?;
        admin.describe_topics(&["t"]).await?;
        admin.describe_config("t").await?;
        let at = OffsetSpec::Latest;
        admin.list_offset("t", PartitionId::new(0), at).await?;
        admin.describe_groups(&["g"]).await?;
        admin.groups_offsets(&["g"]).await?;
        admin.commit_group_offsets("g", &[]).await?;
        let all = [NamedPartitions::all("t")];
        admin
            .reset_offsets("g", &all, ResetTo::Earliest, false)
            .await?;
        admin.delete_group_offsets("g", &all).await?;
        admin.delete_groups(&["g"]).await?;
        admin.list_groups(GroupFilter::default()).await
    });
    task.await.unwrap().unwrap();
}
