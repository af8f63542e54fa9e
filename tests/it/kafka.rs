//! An unmodified Kafka client (rskafka) against the program, alone and beside the gRPC front end.

use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::grpc::v1;
use logweir_tests::{BrokerProcess, DEADLINE, GrpcBroker, ServeOptions};
use rskafka::chrono::{DateTime, TimeZone, Utc};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::{Record, RecordAndOffset};

/// Milliseconds since the epoch, in the past of every test.
const THEN: i64 = 1_700_000_000_000;
const TIMEOUT_MS: i32 = 30_000;
/// What the client can compress with.
const COMPRESSIONS: [Compression; 5] = [
    Compression::NoCompression,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

fn start() -> BrokerProcess {
    ServeOptions::in_memory()
        .args(&["--kafka", "127.0.0.1:0"])
        .start()
}

async fn connect(process: &BrokerProcess) -> Client {
    ClientBuilder::new(vec![process.kafka().to_owned()])
        .build()
        .await
        .expect("the listener takes the client")
}

async fn partition(client: &Client, topic: &str) -> PartitionClient {
    client
        .partition_client(topic, 0, UnknownTopicHandling::Error)
        .await
        .expect("the topic is there")
}

async fn create(client: &Client, topic: &str) {
    let controller = client.controller_client().unwrap();
    controller
        .create_topic(topic, 2, 1, TIMEOUT_MS)
        .await
        .expect("a topic is created");
}

fn at(ms: i64) -> DateTime<Utc> {
    Utc.timestamp_millis_opt(ms).unwrap()
}

/// Records with and without keys, values and headers; no two have the same time.
fn records() -> Vec<Record> {
    let record = |n: i64, key: Option<&str>, value: Option<Vec<u8>>| Record {
        key: key.map(|key| key.as_bytes().to_vec()),
        value,
        headers: BTreeMap::new(),
        timestamp: at(THEN + n * 1_000),
    };
    let mut records = vec![
        record(0, Some("k"), Some(b"v".to_vec())),
        record(1, None, Some(Vec::new())),
        record(2, Some(""), None),
        // It compresses well, and is larger than what is copied into answers.
        record(3, Some("large"), Some(b"flight ".repeat(20_000))),
    ];
    records[0].headers = BTreeMap::from([
        ("trace".to_owned(), b"1f".to_vec()),
        ("empty".to_owned(), Vec::new()),
        ("bytes".to_owned(), vec![0, 255, 128]),
    ]);
    records
}

async fn fetch_all(partition: &PartitionClient, from: i64) -> Vec<RecordAndOffset> {
    let end = partition.get_offset(OffsetAt::Latest).await.unwrap();
    let (mut read, mut next) = (Vec::new(), from);
    while next < end {
        let (records, high_watermark) = partition
            .fetch_records(next, 1..1_000_000, 1_000)
            .await
            .expect("records are fetched");
        assert_eq!(high_watermark, end);
        // A batch comes whole, also what is before the offset that was asked for.
        read.extend(records.into_iter().filter(|record| record.offset >= next));
        next = read.last().expect("there is more to read").offset + 1;
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_client_produces_and_fetches_with_every_compression() {
    let process = start();
    let client = connect(&process).await;
    for compression in COMPRESSIONS {
        let topic = format!("t-{compression:?}");
        create(&client, &topic).await;
        let partition = partition(&client, &topic).await;
        for round in 0..3 {
            let offsets = partition.produce(records(), compression).await;
            let first = round * 4;
            assert_eq!(offsets.unwrap(), [first, first + 1, first + 2, first + 3]);
        }
        let read = fetch_all(&partition, 0).await;
        let expected = records().into_iter().cycle().zip(0..12);
        let expected: Vec<_> = expected
            .map(|(record, offset)| RecordAndOffset { record, offset })
            .collect();
        assert_eq!(read, expected, "{compression:?}");
        assert_eq!(
            fetch_all(&partition, 9).await,
            expected[9..],
            "{compression:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_client_lists_offsets_and_deletes_records_and_topics() {
    let process = start();
    let client = connect(&process).await;
    create(&client, "t").await;
    create(&client, "other").await;
    let names = |client: Arc<Client>| async move {
        let topics = client.list_topics().await.expect("topics are listed");
        let topics = topics
            .into_iter()
            .map(|topic| (topic.name, topic.partitions.len()));
        topics.collect::<BTreeMap<_, _>>()
    };
    let client = Arc::new(client);
    let both = BTreeMap::from([("t".to_owned(), 2), ("other".to_owned(), 2)]);
    assert_eq!(names(Arc::clone(&client)).await, both);

    let partition = partition(&client, "t").await;
    assert_eq!(partition.get_offset(OffsetAt::Latest).await.unwrap(), 0);
    for record in records() {
        let sent = partition
            .produce(vec![record], Compression::NoCompression)
            .await;
        sent.expect("a record is stored");
    }
    for (asked, expected) in [
        (OffsetAt::Earliest, 0),
        (OffsetAt::Latest, 4),
        (OffsetAt::Timestamp(at(THEN)), 0),
        (OffsetAt::Timestamp(at(THEN + 1_500)), 2),
        (OffsetAt::Timestamp(at(THEN + 9_000)), -1),
    ] {
        assert_eq!(
            partition.get_offset(asked).await.unwrap(),
            expected,
            "{asked:?}"
        );
    }
    partition
        .delete_records(2, TIMEOUT_MS)
        .await
        .expect("records are deleted");
    assert_eq!(partition.get_offset(OffsetAt::Earliest).await.unwrap(), 2);
    let read = fetch_all(&partition, 2).await;
    assert_eq!(
        read.iter().map(|record| record.offset).collect::<Vec<_>>(),
        [2, 3]
    );
    let below = partition.fetch_records(0, 1..1_000, 0).await;
    let below = below.expect_err("they are gone").to_string();
    assert!(below.contains("OffsetOutOfRange"), "{below}");

    let controller = client.controller_client().unwrap();
    controller
        .delete_topic("t", TIMEOUT_MS)
        .await
        .expect("a topic is deleted");
    assert_eq!(
        names(Arc::clone(&client)).await,
        BTreeMap::from([("other".to_owned(), 2)])
    );
    let again = controller.delete_topic("t", TIMEOUT_MS).await;
    let again = again.expect_err("it is gone").to_string();
    assert!(again.contains("UnknownTopicOrPartition"), "{again}");
}

fn of_grpc(record: &Record) -> v1::Record {
    let headers = record.headers.iter().map(|(key, value)| v1::Header {
        key: key.clone(),
        value: Some(value.clone().into()),
    });
    v1::Record {
        key: record.key.clone().map(Into::into),
        value: record.value.clone().map(Into::into),
        headers: headers.collect(),
        timestamp_ms: Some(record.timestamp.timestamp_millis()),
        ..Default::default()
    }
}

/// What one front end stores is what the other reads: offset by offset, byte by byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_the_same_over_both_front_ends() {
    let process = start();
    let client = connect(&process).await;
    let mut grpc = GrpcBroker::connect(process.grpc()).await;
    create(&client, "t").await;
    let partition = partition(&client, "t").await;
    for compression in COMPRESSIONS {
        let first = partition.get_offset(OffsetAt::Latest).await.unwrap();
        let by_kafka = partition.produce(records(), compression).await.unwrap();
        let by_grpc = records().iter().map(of_grpc).collect();
        let by_grpc = grpc
            .produce_records("t", Some(0), v1::Acks::All, by_grpc)
            .await
            .expect("the request is served");
        assert_eq!(by_grpc.error, None);
        assert_eq!((by_kafka[0], by_grpc.base_offset), (first, first + 4));

        let over_kafka = fetch_all(&partition, first).await;
        let expected = [records(), records()].concat().into_iter().zip(first..);
        let expected: Vec<_> = expected
            .map(|(record, offset)| RecordAndOffset { record, offset })
            .collect();
        assert_eq!(over_kafka, expected, "{compression:?}");

        let mut over_grpc = Vec::new();
        while over_grpc.len() < expected.len() {
            let next = first + i64::try_from(over_grpc.len()).unwrap();
            let fetched = grpc.fetch_once("t", 0, next, DEADLINE).await.unwrap();
            let Some(v1::fetched_partition::Data::Records(list)) = fetched.data else {
                panic!("records were asked for: {fetched:?}");
            };
            over_grpc.extend(
                list.records
                    .into_iter()
                    .filter(|record| record.offset >= next),
            );
        }
        for (read, expected) in over_grpc.iter().zip(&expected) {
            let wanted = of_grpc(&expected.record);
            assert_eq!(read.offset, expected.offset, "{compression:?}");
            assert_eq!(
                (&read.key, &read.value),
                (&wanted.key, &wanted.value),
                "{compression:?}"
            );
            assert_eq!(read.headers, wanted.headers, "{compression:?}");
            assert_eq!(read.timestamp_ms, wanted.timestamp_ms, "{compression:?}");
        }
    }
}
