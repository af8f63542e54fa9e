//! Connections: the order of answers, who gets none, what waits and until when, and which addresses are told.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{
    ApiVersionsRequest, DescribeClusterRequest, FetchRequest, FindCoordinatorRequest,
    JoinGroupRequest, MetadataRequest, ProduceRequest,
};
use kafka_wire_core::{ApiVersion, KafkaEncode};
use tokio::net::TcpListener;

use super::client::DEADLINE;
use super::{Client, batch, broker, create_topic, value};
use crate::kafka::message::{message, text};
use crate::testing::eventually;
use crate::{Broker, Config, ListenAddr};

fn produce(acks: i16, partition: i32, records: Bytes) -> ProduceRequest {
    let partition = message!(PartitionProduceData {
        index: partition,
        records: Some(records),
    });
    message!(ProduceRequest {
        acks: acks,
        timeout_ms: 30_000,
        topic_data: vec![message!(TopicProduceData {
            name: text("t"),
            partition_data: vec![partition],
        })],
    })
}

fn fetch(offset: i64, max_wait: Duration) -> FetchRequest {
    let partition = message!(FetchPartition {
        partition: 0,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
    });
    message!(FetchRequest {
        max_wait_ms: i32::try_from(max_wait.as_millis()).expect("it is short"),
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![message!(FetchTopic {
            topic: text("t"),
            partitions: vec![partition],
        })],
    })
}

fn records(answer: &kafka_wire::FetchResponse) -> usize {
    let partition = &answer.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0, "{answer:?}");
    partition.records.as_ref().map_or(0, Bytes::len)
}

async fn with_topic(config: Config) -> (Broker, Client) {
    let broker = broker(config).await;
    let mut client = Client::of(&broker).await;
    create_topic(&mut client, "t", &[]).await;
    (broker, client)
}

/// Waits until so many bytes of requests are in the broker.
async fn inflight(broker: &Broker, what: &str, is_met: impl Fn(u64) -> bool) {
    let service = broker.service();
    let bytes = || {
        service
            .metrics
            .inflight_bytes
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    let met = eventually(what, DEADLINE, || std::future::ready(is_met(bytes()))).await;
    met.unwrap_or_else(|error| panic!("{error}: {} bytes", bytes()));
}

/// On a disk acknowledgements come from another thread, after the sync.
async fn on_disk() -> Broker {
    let quiet = Config::in_memory()
        .with_grpc(ListenAddr::Off)
        .with_http(ListenAddr::Off);
    Broker::start_in_temp_dir(quiet)
        .await
        .expect("a broker starts")
}

#[tokio::test]
async fn acks_0_gets_no_byte_and_is_stored() {
    let (broker, mut client) = with_topic(Config::in_memory()).await;
    for n in 0..10 {
        client
            .send(&produce(0, 0, batch(&[n])), 3 + i16::from(n % 9))
            .await;
    }
    // What comes next is the answer to what is asked next, and by then all is stored.
    let answer = client.ask(&produce(-1, 0, batch(b"last")), 9).await;
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 10);
    broker.shutdown().await.expect("a clean end");
}

#[tokio::test]
async fn acks_0_that_cannot_be_stored_closes_the_connection() {
    let (broker, mut client) = with_topic(Config::in_memory()).await;
    client.send(&produce(0, 9, batch(b"v")), 9).await;
    assert!(client.is_closed().await);
    broker.shutdown().await.expect("a clean end");
}

/// Answers that were ready, or waited for their acknowledgement, were lost with the connection when what came right
/// behind could not be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_before_nonsense_is_answered() {
    let broker = on_disk().await;
    create_topic(&mut Client::of(&broker).await, "t", &[]).await;
    for nonsense in [&[0, 0, 0, 1, 7][..], &[0xff; 8]] {
        let mut client = Client::of(&broker).await;
        let mut frames = BytesMut::new();
        let asked = client.encode(&mut frames, &ApiVersionsRequest::default(), 0);
        let produced = client.encode(&mut frames, &produce(-1, 0, batch(b"v")), 9);
        frames.extend_from_slice(nonsense);
        client.send_bytes(&frames).await;
        client.answer::<ApiVersionsRequest>(asked, 0).await;
        client.answer::<ProduceRequest>(produced, 9).await;
        assert!(client.is_closed().await);
    }
    broker.shutdown().await.expect("a clean end");
}

/// On a disk an acknowledgement comes from another thread, after the sync; what is asked behind it is known sooner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_their_order() {
    let broker = on_disk().await;
    let mut client = Client::of(&broker).await;
    create_topic(&mut client, "t", &[]).await;
    let topic = message!(MetadataRequestTopic {
        name: Some(text("t"))
    });
    let metadata = message!(MetadataRequest {
        topics: Some(vec![topic])
    });
    let mut frames = BytesMut::new();
    let mut ids = Vec::new();
    for round in 0..60 {
        let partition = round % 2;
        let produce = produce(
            if round % 3 == 0 { 1 } else { -1 },
            partition,
            batch(&value(2_000)),
        );
        let produced = client.encode(&mut frames, &produce, 9);
        // One in between is asked without an answer.
        let silent = self::produce(0, partition, batch(b"v"));
        client.encode(&mut frames, &silent, 9);
        ids.push((produced, client.encode(&mut frames, &metadata, 12)));
    }
    client.send_bytes(&frames).await;
    for (round, (produced, asked)) in (0_i64..).zip(ids) {
        let answer = client.answer::<ProduceRequest>(produced, 9).await;
        let partition = &answer.responses[0].partition_responses[0];
        // Two of each round, in one of two partitions.
        assert_eq!(
            (partition.error_code, partition.base_offset),
            (0, round / 2 * 2)
        );
        let answer = client.answer::<MetadataRequest>(asked, 12).await;
        assert_eq!(answer.topics[0].error_code, 0);
    }
    broker.shutdown().await.expect("a clean end");
}

#[tokio::test]
async fn a_fetch_that_waits_is_woken_by_records() {
    let (broker, mut client) = with_topic(Config::in_memory()).await;
    let mut reader = Client::of(&broker).await;
    for offset in 0..20 {
        // Far longer than the answer is waited for.
        let id = reader.send(&fetch(offset, DEADLINE * 4), 11).await;
        inflight(&broker, "the fetch is there", |bytes| bytes > 0).await;
        client.ask(&produce(-1, 0, batch(b"v")), 9).await;
        let answer = reader.answer::<FetchRequest>(id, 11).await;
        assert!(records(&answer) > 0);
    }
    broker.shutdown().await.expect("a clean end");
}

#[tokio::test]
async fn a_fetch_waits_for_as_long_as_it_says_and_no_longer() {
    let (broker, mut client) = with_topic(Config::in_memory()).await;
    for wait in [Duration::ZERO, Duration::from_millis(300)] {
        let begun = Instant::now();
        let answer = client.ask(&fetch(0, wait), 11).await;
        assert_eq!(records(&answer), 0);
        assert!(begun.elapsed() >= wait, "{:?}", begun.elapsed());
    }
    broker.shutdown().await.expect("a clean end");
}

#[tokio::test]
async fn a_fetch_that_waits_is_answered_when_the_broker_stops() {
    let (broker, _client) = with_topic(Config::in_memory()).await;
    let mut reader = Client::of(&broker).await;
    let id = reader.send(&fetch(0, DEADLINE * 4), 11).await;
    inflight(&broker, "the fetch is there", |bytes| bytes > 0).await;
    let begun = Instant::now();
    let (ended, ()) = tokio::join!(broker.shutdown(), async {
        let answer = reader.answer::<FetchRequest>(id, 11).await;
        assert_eq!(records(&answer), 0);
        assert!(reader.is_closed().await);
    });
    ended.expect("a clean end");
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn idle_connections_are_closed_and_those_that_wait_are_not() {
    let mut config = Config::in_memory();
    config.limits.connections_max_idle_ms = 1_000;
    let (broker, mut idle) = with_topic(config).await;
    let mut silent = Client::of(&broker).await;
    let mut waiting = Client::of(&broker).await;
    let wait = Duration::from_millis(2_500);
    let id = waiting.send(&fetch(0, wait), 11).await;
    assert!(idle.is_closed().await);
    assert!(silent.is_closed().await);
    let answer = waiting.answer::<FetchRequest>(id, 11).await;
    assert_eq!(records(&answer), 0);
    broker.shutdown().await.expect("a clean end");
}

/// Host and port, as each of three APIs tells them.
async fn told(client: &mut Client) -> (String, u16) {
    let metadata = client.ask(&MetadataRequest::default(), 4).await;
    let own = &metadata.brokers[0];
    let cluster = client.ask(&DescribeClusterRequest::default(), 0).await;
    let broker = &cluster.brokers[0];
    let find = message!(FindCoordinatorRequest { key: text("g") });
    let found = client.ask(&find, 2).await;
    assert_eq!((&own.host, own.port), (&broker.host, broker.port));
    assert_eq!((&own.host, own.port), (&found.host, found.port));
    (
        own.host.to_string(),
        u16::try_from(own.port).expect("it is a port"),
    )
}

#[tokio::test]
async fn clients_are_told_the_address_that_they_reached_the_broker_by() {
    let broker = broker(Config::in_memory()).await;
    let address = broker.kafka_addr().expect("the listener is on");
    assert_ne!(address.port(), 0);
    let told = told(&mut Client::connect(address).await).await;
    assert_eq!(told, ("127.0.0.1".to_owned(), address.port()));
    broker.shutdown().await.expect("a clean end");
}

#[tokio::test]
async fn clients_are_told_what_is_advertised() {
    let mut config = Config::in_memory();
    config.listeners.advertised_kafka = Some("broker.example:9999".to_owned());
    let broker = broker(config).await;
    let told = told(&mut Client::of(&broker).await).await;
    assert_eq!(told, ("broker.example".to_owned(), 9_999));
    broker.shutdown().await.expect("a clean end");
}

#[tokio::test]
async fn clients_that_come_by_ipv6_are_told_ipv6() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        println!("skipped: this machine has no ::1");
        return;
    }
    for (listen, hosts) in [("[::1]:0", &["::1"][..]), ("[::]:0", &["::1", "127.0.0.1"])] {
        let config = Config::in_memory().with_kafka(ListenAddr::At(listen.to_owned()));
        let broker = broker(config).await;
        let port = broker.kafka_addr().expect("the listener is on").port();
        for host in hosts {
            let address = SocketAddr::new(host.parse().expect("an address"), port);
            let told = told(&mut Client::connect(address).await).await;
            assert_eq!(told, ((*host).to_owned(), port), "{listen}");
        }
        broker.shutdown().await.expect("a clean end");
    }
}

/// What is decoded takes far more than what was sent. What waits for minutes afterwards does not.
#[tokio::test]
async fn a_request_is_charged_as_it_is_once_decoded_until_it_waits() {
    let (broker, mut client) = with_topic(Config::in_memory()).await;
    let mut reader = Client::of(&broker).await;
    let many = vec![fetch(0, DEADLINE).topics[0].partitions[0].clone(); 1_000];
    let mut request = fetch(0, DEADLINE);
    request.topics[0].partitions = many;
    let mut frame = BytesMut::new();
    reader.encode(&mut frame, &request, 11);
    reader.send_bytes(&frame).await;
    let length = u64::try_from(frame.len() - 4).unwrap();
    inflight(&broker, "the fetch waits", |bytes| {
        bytes > 0 && bytes <= length
    })
    .await;
    client.ask(&produce(-1, 0, batch(b"v")), 9).await;
    inflight(&broker, "it is given back", |bytes| bytes == 0).await;
    broker.shutdown().await.expect("a clean end");
}

/// Members that wait for their group would have held 64 times their requests, for as long as a rebalance takes.
#[tokio::test]
async fn members_that_wait_for_their_group_do_not_hold_the_budget() {
    let mut config = Config::in_memory();
    config.groups.initial_rebalance_delay_ms = 60_000;
    let (broker, mut client) = with_topic(config).await;
    let (mut members, mut kept) = (Vec::new(), 0);
    for n in 0..20 {
        let mut member = Client::of(&broker).await;
        let protocol = message!(JoinGroupRequestProtocol {
            name: text("range"),
            metadata: Bytes::from(value(500)),
        });
        let join = message!(JoinGroupRequest {
            group_id: text(format!("g{n:02}")),
            session_timeout_ms: 30_000,
            protocol_type: text("consumer"),
            protocols: vec![protocol],
        });
        let length = join.encoded_len(ApiVersion::new(0));
        kept += length.expect("version 0 can say it") as u64;
        let id = member.send(&join, 0).await;
        members.push((member, id));
    }
    inflight(&broker, "all wait", |bytes| bytes == kept).await;
    client.ask(&ApiVersionsRequest::default(), 0).await;
    broker.clock().advance_sessions(Duration::from_secs(60));
    for (mut member, id) in members {
        let joined = member.answer::<JoinGroupRequest>(id, 0).await;
        assert_eq!(joined.error_code, 0);
    }
    inflight(&broker, "all is given back", |bytes| bytes == 0).await;
    broker.shutdown().await.expect("a clean end");
}

/// The connection waited for the budget that its own requests held, without looking after them, and was closed after
/// 30 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_sends_more_than_may_be_in_the_broker_is_slowed_down_and_not_closed() {
    let mut config = Config::in_memory();
    config.limits.max_request_bytes = 2 << 20;
    config.limits.max_inflight_bytes_per_connection = 2 << 20;
    config.limits.max_inflight_bytes = 3 << 20;
    let quiet = config.with_grpc(ListenAddr::Off).with_http(ListenAddr::Off);
    let broker = Broker::start_in_temp_dir(quiet)
        .await
        .expect("a broker starts");
    let mut client = Client::of(&broker).await;
    create_topic(&mut client, "t", &[]).await;
    let mut frames = BytesMut::new();
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(client.encode(&mut frames, &produce(-1, 0, batch(&value(200_000))), 9));
    }
    let begun = Instant::now();
    client.send_bytes(&frames).await;
    for (offset, id) in (0_i64..).zip(ids) {
        let answer = client.answer::<ProduceRequest>(id, 9).await;
        assert_eq!(
            answer.responses[0].partition_responses[0].base_offset,
            offset
        );
    }
    assert!(
        begun.elapsed() < crate::inflight::PATIENCE,
        "{:?}",
        begun.elapsed()
    );
    inflight(&broker, "all is given back", |bytes| bytes == 0).await;
    broker.shutdown().await.expect("a clean end");
}
