//! The listener over real connections, against peers that ask for too much or never finish.

use std::net::SocketAddr;
use std::time::Duration;

use logweir_proto::Timestamp;
use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::fetch_service_client::FetchServiceClient;
use logweir_proto::grpc::v1::produce_service_client::ProduceServiceClient;
use logweir_proto::record::{BatchBuilder, Compression};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::{Broker, Config};

/// Longer than anything here takes, shorter than any of the listener's own timeouts.
const DEADLINE: Duration = Duration::from_secs(8);

/// An HTTP/2 frame of stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    bytes.extend_from_slice(payload);
    bytes
}

/// A connection with a call whose message has begun and does not end.
async fn half_a_call(address: SocketAddr, path: &str) -> TcpStream {
    let mut headers = vec![0x83, 0x86]; // POST, http
    for (name, value) in [
        (":path", path),
        (":authority", "logweir"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).expect("short"));
            headers.extend_from_slice(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
    bytes.extend(frame(1, 4, &headers));
    // 256 bytes, of which the last 253 are a field that nobody knows.
    bytes.extend(frame(0, 0, &[0, 0, 0, 1, 0, 0x7a, 0xfd, 1]));
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(&bytes).await.expect("it reads");
    stream
}

/// The server's connection tasks are detached from the task that accepts: after a broker was dropped, or its shutdown
/// had waited long enough, a connection with a call that does not end lived on, and with it the whole broker.
#[tokio::test]
async fn a_dropped_broker_leaves_no_connection_behind() {
    let broker = Broker::start(Config::in_memory()).await.expect("starts");
    let address = broker.grpc_addr().expect("listens");
    let mut peer = half_a_call(address, "/logweir.v1.ProduceService/Produce").await;
    // Its greeting shows that the broker has taken the connection.
    let mut greeting = [0; 9];
    peer.read_exact(&mut greeting).await.expect("a greeting");
    drop(broker);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, peer.read_to_end(&mut rest));
    // A clean end or a reset: either way it is gone.
    let _ = ended.await.expect("the connection was cut");
}

/// A connection with the windows that HTTP/2 begins with.
async fn connect(broker: &Broker) -> Channel {
    let address = broker.grpc_addr().expect("it listens");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("it listens")
}

fn produce(partition: i32, data: v1::partition_append::Data) -> v1::ProduceRequest {
    let append = v1::PartitionAppend {
        topic: "t".into(),
        partition: Some(partition),
        data: Some(data),
        ..v1::PartitionAppend::default()
    };
    v1::ProduceRequest {
        acks: v1::Acks::Leader as i32,
        appends: vec![append],
        ..v1::ProduceRequest::default()
    }
}

/// Appends `count` batches of a record of `bytes`.
async fn fill(broker: &Broker, partition: i32, count: usize, bytes: usize) {
    let mut client = ProduceServiceClient::new(connect(broker).await);
    let mut batch = BatchBuilder::new(Compression::None);
    let value = vec![7; bytes];
    batch
        .append(Timestamp::new(1), None, Some(&value), &[])
        .expect("it fits");
    let batch = batch.build().expect("it fits");
    for _ in 0..count {
        let data = v1::partition_append::Data::Batch(batch.clone());
        let response = client.produce(produce(partition, data)).await;
        let result = &response.expect("answered").into_inner().results[0];
        assert_eq!(result.error, None);
    }
}

fn wanted(partition: i32, fetch_offset: i64) -> v1::FetchPartition {
    v1::FetchPartition {
        topic: "t".into(),
        partition,
        fetch_offset,
        partition_max_bytes: 50 << 20,
        ..v1::FetchPartition::default()
    }
}

fn fetch(max_bytes: u32, partitions: Vec<v1::FetchPartition>) -> v1::FetchRequest {
    v1::FetchRequest {
        partitions,
        max_bytes,
        ..v1::FetchRequest::default()
    }
}

/// An empty plain record is two bytes on the wire and a hundred times that decoded: 16 MiB of them, which a request
/// may have, were turned into 0.9 GiB before anybody looked.
#[tokio::test]
async fn a_request_that_takes_far_more_decoded_than_sent_is_refused() {
    let broker = Broker::start(Config::in_memory()).await.expect("starts");
    let mut client = ProduceServiceClient::new(connect(&broker).await);
    let plain = |count| {
        let records = vec![v1::Record::default(); count];
        let list = v1::RecordList { records };
        produce(0, v1::partition_append::Data::Records(list))
    };
    let refused = client.produce(plain(1_000_000)).await;
    let error = refused.expect_err("2 MB sent");
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("decoded"), "{error}");
    let good = client.produce(plain(10_000)).await.expect("a fair number");
    assert_eq!(good.into_inner().results[0].record_count, 10_000);

    let partitions = vec![v1::FetchPartition::default(); 1_000_000];
    let mut client = FetchServiceClient::new(connect(&broker).await);
    let error = client.fetch(fetch(0, partitions)).await.expect_err("2 MB");
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
}

/// Whatever was fetched and not read was kept in memory, 50 MiB for each call of a client that closed its windows.
#[tokio::test]
async fn responses_that_nobody_reads_make_large_ones_wait_and_small_ones_not() {
    let mut config = Config::in_memory();
    config.limits.max_response_bytes_per_connection = 4 << 20;
    config.limits.max_response_bytes = 4 << 20;
    let broker = Broker::start(config).await.expect("starts");
    fill(&broker, 0, 8, 900_000).await;
    let open = |channel| FetchServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut reader = open(connect(&broker).await);
    let request = v1::FetchStreamRequest {
        partitions: vec![wanted(0, 0)],
        max_bytes: 50 << 20,
        ..v1::FetchStreamRequest::default()
    };
    // More than the limit: it is served alone, takes all there is, and is not read.
    let unread = reader.fetch_stream(request).await;
    let mut unread = unread.expect("begins").into_inner();
    let mut client = open(connect(&broker).await);
    let large = fetch(3 << 20, vec![wanted(0, 0)]);
    let waits = async {
        let patience = Duration::from_millis(300);
        // Until the stream has its share, these are served.
        while let Ok(served) = tokio::time::timeout(patience, client.fetch(large.clone())).await {
            served.expect("served");
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waits).await;
    waited.expect("it waits for its share");
    let small = client.fetch(fetch(1_000_000, vec![wanted(0, 0)])).await;
    let small = small.expect("served").into_inner();
    assert_eq!(small.partitions[0].next_fetch_offset, 1);
    // Once that is read there is room again.
    let first = unread.message().await.expect("good").expect("records");
    assert_eq!(first.partitions[0].next_fetch_offset, 8);
    let large = tokio::time::timeout(DEADLINE, client.fetch(large)).await;
    let large = large.expect("in time").expect("served").into_inner();
    assert_eq!(large.partitions[0].next_fetch_offset, 3);
}

/// Each partition behind the one that filled the answer was read all the same, a cold one from the disk, and what was
/// read thrown away.
#[tokio::test]
async fn partitions_beyond_a_full_answer_are_not_read() {
    let config = Config::in_memory().with_num_partitions(2);
    let broker = Broker::start(config).await.expect("starts");
    fill(&broker, 0, 1, 10_000).await;
    let mut client = FetchServiceClient::new(connect(&broker).await);
    // Reading there would tell that the offset is out of range.
    let request = fetch(1_000, vec![wanted(0, 0), wanted(1, 1_000)]);
    let answer = client.fetch(request).await.expect("served").into_inner();
    assert_eq!(answer.partitions[0].next_fetch_offset, 1);
    let beyond = &answer.partitions[1];
    assert_eq!((&beyond.error, beyond.next_fetch_offset), (&None, 1_000));
    assert_eq!(beyond.high_watermark, 0);
}

/// A message that was complete kept its share of the budget as long as the end of its call was not sent.
#[tokio::test]
async fn a_call_of_one_message_that_does_not_end_is_given_up() {
    let broker = Broker::start(Config::in_memory()).await.expect("starts");
    let address = broker.grpc_addr().expect("listens");
    let mut peer = half_a_call(address, "/logweir.v1.ProduceService/Produce").await;
    let rest = frame(0, 0, &[0; 253]);
    peer.write_all(&rest).await.expect("it reads");
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    loop {
        let mut head = [0; 9];
        peer.read_exact(&mut head).await.expect("it answers");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        peer.read_exact(&mut payload).await.expect("all of it");
        // HEADERS: the call's answer.
        if head[3] == 1 {
            break;
        }
    }
    let answered = started.elapsed();
    assert!((25..=35).contains(&answered.as_secs()), "{answered:?}");
}
