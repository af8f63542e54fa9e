//! The same load for the broker and for bare tonic: raw stubs, no client library.

use std::time::{Duration, Instant};

use bytes::Bytes;
use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::fetch_service_client::FetchServiceClient;
use logweir_proto::grpc::v1::produce_service_client::ProduceServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::process::cpu_time;

/// The largest response taken.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Where a load goes, and who is charged for it.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// `HOST:PORT` of a gRPC listener.
    pub address: &'a str,
    /// The process that listens there.
    pub pid: u32,
}

/// What a load came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loaded {
    /// Bytes of record batches moved.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Processor time of the server.
    pub server_cpu: Duration,
}

impl Loaded {
    /// Adds another round.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.elapsed += other.elapsed;
        self.server_cpu += other.server_cpu;
    }
}

/// A connection with the windows and frames of Logweir's client.
///
/// # Panics
/// If nobody listens there.
pub async fn connect(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("addresses make URIs")
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .max_frame_size(1 << 20)
        .tcp_nodelay(true)
        .connect()
        .await
        .expect("the server listens")
}

/// Batches on one produce stream.
#[derive(Clone, Debug)]
pub struct ProduceLoad {
    /// What every request appends.
    pub batch: Bytes,
    /// How many requests.
    pub requests: u64,
    /// Requests that may be unanswered at a time.
    pub in_flight: usize,
    /// The topic, which is made by its first request.
    pub topic: String,
}

impl ProduceLoad {
    /// Sends all of it and waits for every answer.
    ///
    /// # Panics
    /// If an append is refused.
    pub async fn run(&self, server: Server<'_>) -> Loaded {
        let mut service = ProduceServiceClient::new(connect(server.address).await);
        let (requests, outgoing) = mpsc::channel(self.in_flight);
        // The first waits for what is made once: the topic, the segment.
        requests.try_send(self.request(0)).expect("there is room");
        let mut answers = service
            .produce_stream(ReceiverStream::new(outgoing))
            .await
            .expect("the stream is taken")
            .into_inner();
        accept(answers.message().await);
        let (cpu, began) = (cpu_time(server.pid), Instant::now());
        let window = tokio::sync::Semaphore::new(self.in_flight);
        let send = async {
            for number in 1..=self.requests {
                window.acquire().await.expect("it stays open").forget();
                let sent = requests.send(self.request(number)).await;
                sent.expect("the stream stays open");
            }
        };
        let receive = async {
            for _ in 0..self.requests {
                accept(answers.message().await);
                window.add_permits(1);
            }
        };
        tokio::join!(send, receive);
        Loaded {
            bytes: self.requests * self.batch.len() as u64,
            elapsed: began.elapsed(),
            server_cpu: cpu_time(server.pid).saturating_sub(cpu),
        }
    }

    fn request(&self, number: u64) -> v1::ProduceRequest {
        v1::ProduceRequest {
            correlation_id: number,
            acks: v1::Acks::Leader.into(),
            appends: vec![v1::PartitionAppend {
                topic: self.topic.clone(),
                partition: Some(0),
                data: Some(v1::partition_append::Data::Batch(self.batch.clone())),
                ..Default::default()
            }],
            ..Default::default()
        }
    }
}

fn accept(answer: Result<Option<v1::ProduceResponse>, tonic::Status>) {
    let answer = answer.expect("the stream goes on").expect("an answer");
    assert!(
        answer.results.iter().all(|result| result.error.is_none()),
        "{answer:?}"
    );
}

/// One fetch stream, read to its end.
#[derive(Clone, Debug)]
pub struct ConsumeLoad {
    /// The topic, whose partition 0 is read from its beginning.
    pub topic: String,
    /// Where to stop (exclusive).
    pub end_offset: i64,
    /// Bytes of a response, at most.
    pub response_bytes: u32,
}

impl ConsumeLoad {
    /// Reads all of it.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn run(&self, server: Server<'_>) -> Loaded {
        let mut service = FetchServiceClient::new(connect(server.address).await)
            .max_decoding_message_size(MAX_RESPONSE_BYTES);
        let request = v1::FetchStreamRequest {
            partitions: vec![v1::FetchPartition {
                topic: self.topic.clone(),
                partition: 0,
                partition_max_bytes: self.response_bytes,
                end_offset: Some(self.end_offset),
                ..Default::default()
            }],
            max_bytes: self.response_bytes,
            ..Default::default()
        };
        let (cpu, began) = (cpu_time(server.pid), Instant::now());
        let stream = service.fetch_stream(request).await;
        let mut responses = stream.expect("the stream is taken").into_inner();
        let mut bytes = 0;
        while let Some(response) = responses.message().await.expect("the stream goes on") {
            for partition in response.partitions {
                assert_eq!(partition.error, None);
                if let Some(v1::fetched_partition::Data::Batches(batches)) = partition.data {
                    bytes += batches.len() as u64;
                }
            }
        }
        Loaded {
            bytes,
            elapsed: began.elapsed(),
            server_cpu: cpu_time(server.pid).saturating_sub(cpu),
        }
    }
}
