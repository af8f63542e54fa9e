//! A broker for tests, in process: keeps what it is sent, checks it as a broker does, and misbehaves on demand.
//!
//! Sequence numbers follow Kafka's rules (a window of five batches, epochs, an unknown producer may begin
//! anywhere), so that a producer's mistakes show as doubled or missing records in [`MockBroker::records`].

mod cluster;
mod fetch;
mod group_admin;
mod groups;
mod log;
mod produce;
mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::grpc::v1;
use logweir_proto::record::{Record, RecordBatch};
use logweir_proto::{ErrorCode, ProducerId, TopicId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::service::Routes;
use v1::cluster_service_server::ClusterServiceServer;
use v1::fetch_service_server::FetchServiceServer;
use v1::group_service_server::GroupServiceServer;
use v1::produce_service_server::ProduceServiceServer;
use v1::topic_service_server::TopicServiceServer;

use crate::client::Client;
pub(crate) use log::Log;

/// What to do with a produce request.
#[derive(Clone, Debug, Default)]
pub(crate) enum Act {
    /// Append and answer.
    #[default]
    Serve,
    /// Append nothing; this error for every append.
    Refuse(ErrorCode),
    /// Append nothing for the appends whose place in the request is listed; serve the others.
    RefuseSome(ErrorCode, Vec<usize>),
    /// Append, and answer with this error all the same.
    ServeAndSay(ErrorCode),
    /// Append, and end the stream without an answer.
    ServeAndDisconnect,
    /// End the stream; what comes after on it is lost.
    Disconnect,
    /// End the stream with this status.
    End(tonic::Code),
    /// End the stream, but append this and what comes after on it, as a broker does that has not noticed yet.
    DisconnectAndServeLater,
    /// Append, and never answer this or anything after it.
    FallSilent,
    /// Answer with a response that does not fit the request.
    TalkNonsense,
}

/// Decides what happens to the n-th produce request, counted from 0.
pub(crate) type ProduceScript = Box<dyn FnMut(usize, &v1::ProduceRequest) -> Act + Send>;
/// Decides what happens to the n-th response of a fetch stream, counted over all streams: an error ends the stream.
pub(crate) type FetchScript =
    Box<dyn FnMut(usize, &mut v1::FetchResponse) -> Result<(), tonic::Status> + Send>;

pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) partitions: Vec<Log>,
    pub(crate) configs: BTreeMap<String, String>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) auto_create_partitions: Option<usize>,
    pub(crate) next_producer_id: i64,
    pub(crate) produce_script: Option<ProduceScript>,
    pub(crate) fetch_script: Option<FetchScript>,
    pub(crate) produce_requests: usize,
    pub(crate) fetch_responses: usize,
    pub(crate) streams_opened: usize,
    /// Calls of each kind that fail as a whole before anything else, with this status.
    pub(crate) failing_calls: BTreeMap<&'static str, Vec<tonic::Code>>,
    pub(crate) client_ids: Vec<String>,
    pub(crate) describes: usize,
    pub(crate) groups: BTreeMap<String, group_admin::MockGroup>,
    /// Errors of the next entries of group calls, the last first.
    pub(crate) failing_group_entries: Vec<ErrorCode>,
}

/// The broker. Clones are the same broker.
#[derive(Clone)]
pub(crate) struct MockBroker {
    pub(crate) state: Arc<Mutex<State>>,
    /// Counts changes; whoever waits for records waits for it.
    pub(crate) changes: watch::Sender<u64>,
    /// While false, produce requests wait.
    pub(crate) open: watch::Sender<bool>,
}

impl MockBroker {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            changes: watch::Sender::new(0),
            open: watch::Sender::new(true),
        }
    }

    /// With a topic.
    pub(crate) fn with_topic(self, name: &str, partitions: usize) -> Self {
        self.create(name, partitions);
        self
    }

    pub(crate) fn create(&self, name: &str, partitions: usize) {
        let topic = Topic {
            id: TopicId::random(),
            partitions: (0..partitions).map(|_| Log::default()).collect(),
            configs: BTreeMap::new(),
        };
        self.state.lock().topics.insert(name.to_owned(), topic);
        self.changed();
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Sets what happens to produce requests.
    pub(crate) fn script(
        &self,
        script: impl FnMut(usize, &v1::ProduceRequest) -> Act + Send + 'static,
    ) {
        self.state.lock().produce_script = Some(Box::new(script));
    }

    /// The first produce requests meet these fates, in order; later ones are served.
    pub(crate) fn script_list(&self, acts: Vec<Act>) {
        let first = self.state.lock().produce_requests;
        self.script(move |number, _| acts.get(number - first).cloned().unwrap_or_default());
    }

    /// Sets what happens to fetch responses.
    pub(crate) fn fetch_script(
        &self,
        script: impl FnMut(usize, &mut v1::FetchResponse) -> Result<(), tonic::Status> + Send + 'static,
    ) {
        self.state.lock().fetch_script = Some(Box::new(script));
    }

    /// The next calls of this kind fail with these codes, in order.
    pub(crate) fn fail_calls(&self, kind: &'static str, codes: Vec<tonic::Code>) {
        self.state.lock().failing_calls.insert(kind, codes);
    }

    /// Whether this call is to fail, and how.
    pub(crate) fn check_call(&self, kind: &'static str) -> Result<(), tonic::Status> {
        let mut state = self.state.lock();
        let codes = state.failing_calls.entry(kind).or_default();
        if codes.is_empty() {
            return Ok(());
        }
        Err(tonic::Status::new(codes.remove(0), "scripted"))
    }

    /// All records of a partition.
    pub(crate) fn records(&self, topic: &str, partition: usize) -> Vec<Record> {
        let batches = self.batches(topic, partition);
        let records = |batch: RecordBatch| batch.records(1 << 30).unwrap().map(Result::unwrap);
        batches.into_iter().flat_map(records).collect()
    }

    /// All batches of a partition.
    pub(crate) fn batches(&self, topic: &str, partition: usize) -> Vec<RecordBatch> {
        let state = self.state.lock();
        state.topics[topic].partitions[partition].batches.clone()
    }

    /// The values of a partition, as text.
    pub(crate) fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        let text = |record: Record| String::from_utf8(record.value.unwrap().to_vec()).unwrap();
        self.records(topic, partition)
            .into_iter()
            .map(text)
            .collect()
    }

    /// Appends records as another program would, one batch per call.
    pub(crate) fn append(&self, topic: &str, partition: usize, values: &[&str]) {
        use logweir_proto::Timestamp;
        use logweir_proto::record::{BatchBuilder, Compression};
        let mut builder = BatchBuilder::new(Compression::Zstd);
        for (index, value) in (0..).zip(values) {
            let time = Timestamp::new(1_000 + index);
            builder
                .append(time, Some(b"k"), Some(value.as_bytes()), &[])
                .unwrap();
        }
        self.append_batch(topic, partition, builder.build().unwrap());
    }

    /// Appends a batch.
    pub(crate) fn append_batch(&self, topic: &str, partition: usize, batch: bytes::Bytes) {
        let mut state = self.state.lock();
        let log = &mut state.topics.get_mut(topic).unwrap().partitions[partition];
        log.append(&batch).unwrap();
        drop(state);
        self.changed();
    }

    /// Forgets what it knows of producers, as after their expiry.
    pub(crate) fn forget_producers(&self) {
        for topic in self.state.lock().topics.values_mut() {
            topic
                .partitions
                .iter_mut()
                .for_each(|log| log.producers.clear());
        }
    }

    /// Loses the last batches of a partition, as after an unclean election.
    pub(crate) fn lose_batches(&self, topic: &str, partition: usize, count: usize) {
        let mut state = self.state.lock();
        state.topics.get_mut(topic).unwrap().partitions[partition].lose(count);
    }

    /// The services.
    pub(crate) fn routes(&self) -> Routes {
        const LIMIT: usize = 64 << 20;
        let produce = ProduceServiceServer::new(self.clone()).max_decoding_message_size(LIMIT);
        Routes::new(produce)
            .add_service(FetchServiceServer::new(self.clone()))
            .add_service(GroupServiceServer::new(self.clone()))
            .add_service(TopicServiceServer::new(self.clone()))
            .add_service(ClusterServiceServer::new(self.clone()))
            .prepare()
    }

    /// A client of this broker, in process.
    pub(crate) fn client(&self) -> Client {
        Client::from_service(self.routes()).unwrap()
    }

    /// A listener of this broker on a free port; it ends when the result is dropped.
    pub(crate) fn listen(&self) -> Listening {
        Listening::start(self, std::net::TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Listens again where it listened before, as soon as the system lets it.
    pub(crate) async fn listen_again(&self, address: std::net::SocketAddr) -> Listening {
        loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => return Listening::start(self, listener),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn new_producer_id(&self) -> ProducerId {
        let mut state = self.state.lock();
        state.next_producer_id += 1;
        ProducerId::new(999 + state.next_producer_id)
    }
}

/// A socket that a mock broker listens on, served by a runtime of its own, so that stopping it cuts all connections.
pub(crate) struct Listening {
    pub(crate) address: std::net::SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Listening {
    pub(crate) fn start(broker: &MockBroker, listener: std::net::TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .max_frame_size(1 << 20)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .add_routes(broker.routes());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// Stops listening and cuts all connections; the port can be listened on again.
    pub(crate) fn stop(self) -> std::net::SocketAddr {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An error entry.
pub(crate) fn error(code: ErrorCode) -> Option<v1::Error> {
    Some(v1::Error {
        code: i32::from(code.code()),
        name: code.name().to_owned(),
        message: "scripted".to_owned(),
        retriable: code.is_retriable(),
        action: String::new(),
    })
}

pub(crate) fn partition_index(partition: i32) -> Option<usize> {
    usize::try_from(partition).ok()
}
