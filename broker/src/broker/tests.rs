//! The broker as a program embeds it: in memory or on a directory, through the in-process client.

use bytes::Bytes;
use logweir_client::{
    Acks, Client, ConfigChanges, ErrorCode, NewTopic, Offset, OffsetSpec, OutOfRange, PartitionId,
    ProducerConfig, ProducerRecord, ReaderConfig, StartAt, TopicPartition,
};
use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::produce_service_client::ProduceServiceClient;
use logweir_proto::record::{BatchBuilder, Compression};
use logweir_proto::{ProducerEpoch, ProducerId, Sequence, Timestamp};

use tokio::net::TcpListener;

use super::*;
use crate::ListenAddr;

mod coordinators;
mod embedding;
#[cfg(feature = "http")]
mod group_lists;

const QUIET: ListenAddr = ListenAddr::Off;

/// A broker in memory that listens nowhere.
fn quiet() -> Config {
    Config::in_memory()
        .with_grpc(QUIET)
        .with_http(QUIET)
        .with_kafka(QUIET)
}

fn log_dir(broker: &Broker) -> Arc<LogDir> {
    let run = broker.run.borrow().clone().expect("it runs");
    run.log_dir().upgrade().expect("it runs")
}

async fn start(config: Config) -> (Broker, Client) {
    let broker = Broker::start(config).await.expect("starts");
    let client = broker.client().expect("default settings");
    (broker, client)
}

/// Sends values to partition 0 of a topic and waits for their acknowledgements.
async fn send(client: &Client, topic: &str, values: &[&str]) -> Vec<Offset> {
    let producer = client.producer().expect("default settings");
    let mut deliveries = Vec::new();
    for value in values {
        let record = ProducerRecord::new(topic.to_owned()).value((*value).to_owned());
        deliveries.push(producer.send(record).await.expect("buffered"));
    }
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(delivery.await.expect("acknowledged").offset.expect("told"));
    }
    producer.close().await.expect("closes");
    offsets
}

async fn read(client: &Client, topic: &str) -> Vec<(Offset, Bytes)> {
    let mut reader = client.reader().expect("default settings");
    reader
        .assign_topic(topic.to_owned(), StartAt::Earliest)
        .await
        .expect("assigned");
    reader.stop_at_end();
    let mut records = Vec::new();
    while let Some(record) = reader.next().await.expect("reads") {
        records.push((record.offset, record.value.unwrap_or_default()));
    }
    records
}

fn values(records: &[(Offset, Bytes)]) -> Vec<&str> {
    records
        .iter()
        .map(|(_, value)| std::str::from_utf8(value).expect("text"))
        .collect()
}

/// A batch of one record from an idempotent producer.
fn batch(sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer(
        ProducerId::new(7),
        ProducerEpoch::new(0),
        Sequence::new(sequence),
    );
    builder
        .append(Timestamp::new(1), None, Some(b"v"), &[])
        .expect("fits");
    builder.build().expect("valid")
}

async fn append(broker: &Broker, topic: &str, batch: Bytes) -> v1::AppendResult {
    let append = v1::PartitionAppend {
        topic: topic.to_owned(),
        partition: Some(0),
        data: Some(v1::partition_append::Data::Batch(batch)),
        ..v1::PartitionAppend::default()
    };
    let request = v1::ProduceRequest {
        appends: vec![append],
        ..v1::ProduceRequest::default()
    };
    let mut service = ProduceServiceClient::new(broker.parts.in_process.clone());
    let answer = service
        .produce(request)
        .await
        .expect("answers")
        .into_inner();
    answer.results.into_iter().next().expect("one result")
}

#[tokio::test]
async fn a_broker_in_memory_gives_back_what_it_was_given() {
    let (broker, client) = start(quiet()).await;
    assert_eq!(broker.grpc_addr(), None);
    let offsets = send(&client, "orders", &["a", "b", "c"]).await;
    assert_eq!(offsets, [0, 1, 2].map(Offset::new));
    assert_eq!(values(&read(&client, "orders").await), ["a", "b", "c"]);
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn records_and_topics_are_there_after_a_restart_clean_or_not() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let config = || {
        Config::on_dir(dir.path())
            .with_grpc(QUIET)
            .with_http(QUIET)
            .with_kafka(QUIET)
    };
    let (broker, client) = start(config()).await;
    send(&client, "orders", &["a", "b"]).await;
    broker.shutdown().await.expect("stops");

    let (broker, client) = start(config()).await;
    assert!(log_dir(&broker).was_clean());
    send(&client, "orders", &["c"]).await;
    drop((broker, client));

    let broker = loop {
        // A dropped broker lets go of its directory when its tasks have ended.
        match Broker::start(config()).await {
            Ok(broker) => break broker,
            Err(BrokerError::Storage(logweir_storage::OpenError::Locked { .. })) => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(!log_dir(&broker).was_clean());
    let client = broker.client().expect("default settings");
    assert_eq!(values(&read(&client, "orders").await), ["a", "b", "c"]);
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_repeated_batch_gets_its_old_offset_and_a_gap_is_refused() {
    let (broker, client) = start(quiet()).await;
    client
        .admin()
        .create_topic(NewTopic::new("orders"))
        .await
        .expect("created");
    for sequence in 0..3 {
        let stored = append(&broker, "orders", batch(sequence)).await;
        assert_eq!(
            (stored.error, stored.base_offset),
            (None, i64::from(sequence))
        );
    }
    let repeated = append(&broker, "orders", batch(1)).await;
    assert_eq!((repeated.error, repeated.base_offset), (None, 1));
    let gap = append(&broker, "orders", batch(9))
        .await
        .error
        .expect("refused");
    assert_eq!(gap.name, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    assert_eq!(read(&client, "orders").await.len(), 3);
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_damaged_batch_is_refused_and_changes_nothing() {
    let (broker, client) = start(quiet()).await;
    client
        .admin()
        .create_topic(NewTopic::new("orders"))
        .await
        .expect("created");
    let mut damaged = batch(0).to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    let error = append(&broker, "orders", damaged.into())
        .await
        .error
        .expect("refused");
    assert_eq!(
        (error.name.as_str(), error.retriable),
        ("CORRUPT_MESSAGE", true)
    );
    let two = [batch(0), batch(1)].concat();
    let error = append(&broker, "orders", two.into())
        .await
        .error
        .expect("refused");
    assert_eq!(error.name, "INVALID_RECORD");
    assert!(read(&client, "orders").await.is_empty());
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_full_disk_refuses_appends_keeps_reads_and_recovers_by_itself() {
    let capacity = 4 << 20;
    let config = quiet()
        .with_memory_capacity_bytes(capacity)
        .with_segment_bytes(1 << 20);
    let (broker, client) = start(config).await;
    client
        .admin()
        .create_topic(NewTopic::new("orders"))
        .await
        .expect("created");
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .append(Timestamp::new(1), None, Some(&[7; 64 << 10]), &[])
        .expect("fits");
    let big = builder.build().expect("valid");
    let mut stored = 0_i64;
    let refused = loop {
        match append(&broker, "orders", big.clone()).await.error {
            None => stored += 1,
            Some(error) => break error,
        }
        assert!(
            stored * 65_536 < 2 * i64::try_from(capacity).expect("small"),
            "never full"
        );
    };
    assert_eq!(
        (refused.name.as_str(), refused.retriable),
        ("KAFKA_STORAGE_ERROR", true)
    );
    assert!(refused.message.contains("full"), "{}", refused.message);
    let records = read(&client, "orders").await;
    assert_eq!(
        i64::try_from(records.len()).expect("few"),
        stored,
        "reads go on"
    );

    client
        .admin()
        .delete_records("orders", PartitionId::new(0), Some(Offset::new(stored)))
        .await
        .expect("deleted");
    let offsets = send(&client, "orders", &["after"]).await;
    assert!(offsets[0].get() >= stored);
    assert_eq!(
        values(&read(&client, "orders").await).last(),
        Some(&"after")
    );
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn every_acks_setting_stores_the_record() {
    let (broker, client) = start(quiet().with_flush(crate::FlushMode::PerAck)).await;
    for (acks, topic) in [
        (Acks::All, "all"),
        (Acks::Leader, "leader"),
        (Acks::None, "none"),
    ] {
        let settings = ProducerConfig {
            acks,
            ..ProducerConfig::default()
        };
        let producer = client.producer_with(settings).expect("valid settings");
        let delivery = producer
            .send(ProducerRecord::new(topic).value("v"))
            .await
            .expect("sent");
        delivery.await.expect("delivered");
        producer.close().await.expect("closes");
        // What was not acknowledged for certain becomes readable when the disk has it.
        while client
            .admin()
            .list_offset(topic, PartitionId::new(0), OffsetSpec::Latest)
            .await
            .expect("found")
            .offset
            != Some(Offset::new(1))
        {
            tokio::task::yield_now().await;
        }
        assert_eq!(values(&read(&client, topic).await), ["v"]);
    }
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_changed_setting_acts_at_once() {
    let (broker, client) = start(quiet()).await;
    let admin = client.admin();
    admin
        .create_topic(NewTopic::new("orders"))
        .await
        .expect("created");
    send(&client, "orders", &["small"]).await;
    let changes = ConfigChanges::new().set("max.message.bytes", "100");
    admin
        .alter_config("orders", changes)
        .await
        .expect("changed");
    let producer = client.producer().expect("default settings");
    let large = ProducerRecord::new("orders").value("x".repeat(200));
    let refused = producer
        .send(large)
        .await
        .expect("buffered")
        .await
        .expect_err("too large");
    assert_eq!(refused.code(), Some(ErrorCode::MessageTooLarge));
    assert!(
        refused.to_string().contains("max.message.bytes=100"),
        "{refused}"
    );
    let unknown = ConfigChanges::new().set("retention.mz", "1");
    let refused = admin
        .alter_config("orders", unknown)
        .await
        .expect_err("unknown name");
    assert!(refused.to_string().contains("retention.ms"), "{refused}");
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_deleted_topic_is_gone_and_its_name_is_free_again() {
    let (broker, client) = start(quiet().with_auto_create_topics(false)).await;
    let admin = client.admin();
    let first = admin
        .create_topic(NewTopic::new("orders").partitions(3))
        .await
        .expect("created");
    send(&client, "orders", &["old"]).await;
    admin.delete_topic("orders").await.expect("deleted");
    let missing = admin.describe_topic("orders").await.expect_err("gone");
    assert_eq!(missing.code(), Some(ErrorCode::UnknownTopicOrPartition));
    let second = admin
        .create_topic(NewTopic::new("orders"))
        .await
        .expect("created");
    assert_ne!(first.id, second.id);
    assert!(read(&client, "orders").await.is_empty());
    broker.shutdown().await.expect("stops");
}

#[test]
fn a_broker_runs_in_a_current_thread_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let (broker, client) = start(quiet()).await;
        send(&client, "orders", &["a"]).await;
        assert_eq!(values(&read(&client, "orders").await), ["a"]);
        broker.shutdown().await.expect("stops");
    });
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = taken.local_addr().expect("bound").to_string();
    let error = Broker::start(quiet().with_grpc(ListenAddr::At(address.clone()))).await;
    let error = error.expect_err("taken").to_string();
    assert!(
        error.contains(&address) && error.contains("grpc"),
        "{error}"
    );
}
