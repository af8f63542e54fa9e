//! What the codec does not know: Produce 0 to 2, OffsetCommit 1, CreateTopics 1, and versions of the future.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_wire::create_topics_request::CreatableTopic;
use kafka_wire::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_wire::{
    ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    OffsetCommitResponse, OffsetFetchRequest, ProduceResponse,
};
use kafka_wire_core::{ApiVersion, KafkaDecode, KafkaEncode};
use logweir_proto::ErrorCode;

use super::client::{code, decoded};
use super::{Client, batch, broker, create_topic};
use crate::Config;
use crate::kafka::apis::SERVED;
use crate::kafka::message::{limits, message, text};

const PRODUCE: i16 = 0;
const OFFSET_COMMIT: i16 = 8;
const API_VERSIONS: i16 = 18;
const CREATE_TOPICS: i16 = 19;

fn put_string(body: &mut BytesMut, text: &str) {
    body.put_i16(i16::try_from(text.len()).expect("it is short"));
    body.put_slice(text.as_bytes());
}

/// Produce 0 to 2: as 3 without a transactional id.
fn produce_body(acks: i16, topic: &str) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i16(acks);
    body.put_i32(1_000);
    body.put_i32(1);
    put_string(&mut body, topic);
    body.put_i32(2);
    for partition in [0, 1] {
        body.put_i32(partition);
        let records = batch(b"v");
        body.put_i32(i32::try_from(records.len()).expect("it is short"));
        body.put_slice(&records);
    }
    body
}

#[tokio::test]
async fn produce_of_the_old_message_formats_is_refused_in_an_answer_of_its_form() {
    let broker = broker(Config::in_memory()).await;
    let mut client = Client::of(&broker).await;
    create_topic(&mut client, "t", &[]).await;
    for version in 0..=2 {
        let what = format!("Produce {version}");
        let id = client
            .send_body(PRODUCE, version, &produce_body(1, "t"))
            .await;
        let body = client.body(id, false, &what).await;
        // Version 3 has the form of version 2; version 1 has no append time, and version 0 no throttle time at its end.
        let mut as_3 = BytesMut::new();
        let mut rest = body.clone();
        let head = rest.split_to(4 + 2 + 1 + 4);
        as_3.put_slice(&head);
        for _ in 0..2 {
            as_3.put_slice(&rest.split_to(4 + 2 + 8));
            match version {
                2 => as_3.put_slice(&rest.split_to(8)),
                _ => as_3.put_i64(-1),
            }
        }
        match version {
            0 => as_3.put_i32(0),
            _ => as_3.put_slice(&rest.split_to(4)),
        }
        assert!(!rest.has_remaining(), "{what}: {body:?}");
        let answer: ProduceResponse = decoded(&as_3.freeze(), ApiVersion::new(3), &what);
        let partitions = &answer.responses[0].partition_responses;
        let told: Vec<_> = partitions
            .iter()
            .map(|p| (p.index, code(p.error_code), p.base_offset))
            .collect();
        let refused = |index| (index, ErrorCode::UnsupportedVersion, -1);
        assert_eq!(told, [refused(0), refused(1)], "{what}");
    }
    // Nobody waits for an answer to acks=0: what is refused closes the connection.
    client.send_body(PRODUCE, 2, &produce_body(0, "t")).await;
    assert!(client.is_closed().await);
    broker.shutdown().await.expect("a clean end");
}

#[tokio::test]
async fn offset_commit_1_commits() {
    let broker = broker(Config::in_memory()).await;
    let mut client = Client::of(&broker).await;
    create_topic(&mut client, "t", &[]).await;
    let mut body = BytesMut::new();
    put_string(&mut body, "g");
    body.put_i32(-1);
    put_string(&mut body, "");
    body.put_i32(1);
    put_string(&mut body, "t");
    body.put_i32(2);
    for partition in [0, 1] {
        body.put_i32(partition);
        body.put_i64(40 + i64::from(partition));
        body.put_i64(-1);
        put_string(&mut body, "note");
    }
    let id = client.send_body(OFFSET_COMMIT, 1, &body).await;
    let body = client.body(id, false, "OffsetCommit 1").await;
    let answer: OffsetCommitResponse = decoded(&body, ApiVersion::new(2), "OffsetCommit 1");
    let told = answer.topics[0].partitions.iter();
    let told: Vec<_> = told.map(|p| (p.partition_index, p.error_code)).collect();
    assert_eq!(told, [(0, 0), (1, 0)]);
    let fetch = message!(OffsetFetchRequest {
        group_id: text("g"),
        topics: Some(vec![message!(OffsetFetchRequestTopic {
            name: text("t"),
            partition_indexes: vec![0, 1],
        })]),
    });
    let fetched = client.ask(&fetch, 1).await;
    let told = fetched.topics[0].partitions.iter();
    let told: Vec<_> = told
        .map(|p| (p.committed_offset, p.metadata.as_deref()))
        .collect();
    assert_eq!(told, [(40, Some("note")), (41, Some("note"))]);
    broker.shutdown().await.expect("a clean end");
}

/// CreateTopics 1 has the request of version 2, and its response without the throttle time.
#[tokio::test]
async fn create_topics_1_creates() {
    let broker = broker(Config::in_memory()).await;
    let mut client = Client::of(&broker).await;
    let topic = |name| {
        message!(CreatableTopic {
            name: text(name),
            num_partitions: 3,
            replication_factor: 1,
        })
    };
    let request = message!(CreateTopicsRequest {
        topics: vec![topic("t"), topic("a b")],
        timeout_ms: 30_000,
    });
    let mut body = BytesMut::new();
    request
        .encode_into(&mut body, ApiVersion::new(2))
        .expect("version 2 can say it");
    let id = client.send_body(CREATE_TOPICS, 1, &body).await;
    let body = client.body(id, false, "CreateTopics 1").await;
    let as_2 = Bytes::from([&[0; 4][..], &body].concat());
    let answer: CreateTopicsResponse = decoded(&as_2, ApiVersion::new(2), "CreateTopics 1");
    let told = answer.topics.iter();
    let told: Vec<_> = told.map(|t| (&*t.name, code(t.error_code))).collect();
    assert_eq!(
        told,
        [
            ("t", ErrorCode::None),
            ("a b", ErrorCode::InvalidTopicException)
        ]
    );
    assert!(answer.topics[1].error_message.is_some());
    let image = broker.service().image();
    let created = image.topics_after("").next().expect("it was created");
    assert_eq!((&*created.name, created.partition_count()), ("t", 3));
    broker.shutdown().await.expect("a clean end");
}

/// KIP-511: a client that is newer than the broker is told in a form that it can read how to come down.
#[tokio::test]
async fn api_versions_of_the_future_gets_the_oldest_answer_with_an_error() {
    let broker = broker(Config::in_memory()).await;
    let mut client = Client::of(&broker).await;
    let newest = SERVED
        .iter()
        .find(|served| served.api as i16 == API_VERSIONS);
    let newest = newest.expect("it is served").max;
    for version in [newest + 1, 99, i16::MAX, -1] {
        let id = client
            .send_body(API_VERSIONS, version, b"whatever it may hold")
            .await;
        let body = client.body(id, false, "ApiVersions").await;
        let answer = ApiVersionsResponse::decode_from_bytes(
            body.clone(),
            ApiVersion::new(0),
            limits(body.len()),
        );
        let answer = answer.expect("version 0");
        assert_eq!(
            code(answer.error_code),
            ErrorCode::UnsupportedVersion,
            "version {version}"
        );
        let told = answer.api_keys.iter();
        let told: Vec<_> = told
            .map(|k| (k.api_key, k.min_version, k.max_version))
            .collect();
        assert_eq!(told, [(API_VERSIONS, 0, newest)], "version {version}");
    }
    // The connection goes on.
    let answer = client.ask(&ApiVersionsRequest::default(), 0).await;
    assert_eq!(
        (answer.error_code, answer.api_keys.len()),
        (0, SERVED.len())
    );
    broker.shutdown().await.expect("a clean end");
}
