//! The connection: one lazily reconnecting channel (or an in-process service) that producers, readers
//! and admin calls share.
//!
//! A [`Client`] is a handle; clones share the channel and the metadata cache. Every request carries
//! the client id, and the software's name and version as user agent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::grpc::v1;
use tonic::codegen::{Body as HttpBody, Bytes, StdError, http};
use tonic::transport::{Channel, Endpoint};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};
use v1::cluster_service_client::ClusterServiceClient;
use v1::fetch_service_client::FetchServiceClient;
use v1::group_service_client::GroupServiceClient;
use v1::produce_service_client::ProduceServiceClient;
use v1::topic_service_client::TopicServiceClient;

use crate::admin::Admin;
use crate::backoff::{Backoff, Random};
use crate::clock::WallClock;
use crate::config::{ClientConfig, ConsumerConfig, ProducerConfig, ReaderConfig};
use crate::consumer::Consumer;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Metadata;
use crate::producer::Producer;
use crate::reader::Reader;

/// The metadata key of the client id.
pub const CLIENT_ID_KEY: &str = "logweir-client-id";
/// Name and version of this software, sent as `user-agent`, which is where the broker looks for them.
const SOFTWARE: &str = concat!("logweir-client-rust/", env!("CARGO_PKG_VERSION"));

/// Bytes that may be on the way to this client per stream and per connection, and the frame size that
/// large batches travel in. Measured: a produce of 1 MiB takes 353 instead of 615 us of CPU.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const FRAME_SIZE: u32 = 1 << 20;

type Request = http::Request<tonic::body::Body>;
type Response = http::Response<tonic::body::Body>;

/// Why a request did not get through. A type of its own, because a bare boxed error keeps the compiler
/// from seeing that the generated clients' futures can move between threads.
#[derive(Debug)]
pub(crate) struct TransportError(StdError);

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl TransportError {
    fn new(error: impl Into<StdError>) -> Self {
        Self(error.into())
    }
}

/// The transport, whatever it is.
pub(crate) type Transport = BoxCloneSyncService<Request, Response, TransportError>;

/// A connection to a broker. Cheap to clone; clones share it.
///
/// Admin calls go over this connection; each producer and each reader makes one of its own, so that one that is
/// held back does not hold others back.
///
/// ```no_run
/// # async fn example() -> logweir_client::Result<()> {
/// use logweir_client::{Client, ProducerRecord};
///
/// let client = Client::connect("127.0.0.1:9093").await?;
/// let producer = client.producer()?;
/// let delivery = producer.send(ProducerRecord::new("flights").key("N14228").value("EWR,IAH")).await?;
/// println!("at offset {:?}", delivery.await?.offset);
/// producer.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    transport: Transport,
}

struct Shared {
    /// Makes further connections; none for an in-process service.
    endpoint: Option<Endpoint>,
    config: ClientConfig,
    clock: WallClock,
    metadata: Metadata,
    target: String,
}

impl Client {
    /// Connects to `HOST:PORT` (or a URI such as `http://broker:9093`) with the default settings.
    ///
    /// The first connection is made before this returns; later ones are made when they are needed.
    ///
    /// # Errors
    /// If the address is not valid or nobody answers there in time.
    pub async fn connect(address: impl AsRef<str>) -> Result<Self> {
        Self::builder().connect(address).await
    }

    /// Sets a connection up.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client of an in-process service, such as an embedded broker's: no socket and no HTTP/2 between.
    ///
    /// # Errors
    /// Never with the default settings; see [`ClientBuilder::from_service`].
    pub fn from_service<S, B>(service: S) -> Result<Self>
    where
        S: Service<Request, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<StdError>,
        S::Future: Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        Self::builder().from_service(service)
    }

    /// A producer with the default settings.
    ///
    /// # Errors
    /// See [`Self::producer_with`].
    pub fn producer(&self) -> Result<Producer> {
        self.producer_with(ProducerConfig::default())
    }

    /// A producer. It runs one task on the current tokio runtime until it is closed or dropped.
    ///
    /// # Errors
    /// If the settings are not valid.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn producer_with(&self, config: ProducerConfig) -> Result<Producer> {
        Producer::open(self.with_own_connection(), config)
    }

    /// A reader with the default settings and no partitions yet.
    ///
    /// # Errors
    /// See [`Self::reader_with`].
    pub fn reader(&self) -> Result<Reader> {
        self.reader_with(ReaderConfig::default())
    }

    /// A reader with no partitions yet. It runs no task: it works while it is polled.
    ///
    /// # Errors
    /// If the settings are not valid.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn reader_with(&self, config: ReaderConfig) -> Result<Reader> {
        Reader::open(self.with_own_connection(), config)
    }

    /// A member of a consumer group, with the default settings.
    ///
    /// # Errors
    /// See [`Self::consumer_with`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn consumer(&self, group_id: impl Into<String>) -> Result<Consumer> {
        self.consumer_with(ConsumerConfig::new(group_id))
    }

    /// A member of a consumer group. It runs two tasks on the current tokio runtime until it is closed or dropped.
    ///
    /// # Errors
    /// If the settings are not valid.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn consumer_with(&self, config: ConsumerConfig) -> Result<Consumer> {
        Consumer::open(self, config)
    }

    /// Topics, configuration, offsets, groups and the cluster.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// The settings of this connection.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// Where this client connects to, for messages.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.shared.target
    }

    /// The clock that stamps records.
    #[must_use]
    pub fn clock(&self) -> &WallClock {
        &self.shared.clock
    }

    /// The same client over a connection of its own, made when it is first used.
    ///
    /// Streams of one connection share its flow-control window: readers that are not polled would fill it, and
    /// then nothing else would get through. So each producer and each reader has its own.
    pub(crate) fn with_own_connection(&self) -> Self {
        let Some(endpoint) = &self.shared.endpoint else {
            return self.clone();
        };
        let channel = endpoint.connect_lazy().map_err(TransportError::new);
        let transport = identified(BoxCloneSyncService::new(channel), &self.shared.config);
        Self {
            shared: Arc::clone(&self.shared),
            transport,
        }
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.shared.metadata
    }

    pub(crate) fn backoff(&self) -> Backoff {
        let config = &self.shared.config;
        Backoff::new(
            config.retry_backoff,
            config.retry_backoff_max,
            Random::from_entropy(),
        )
    }

    pub(crate) fn produce_service(&self) -> ProduceServiceClient<Transport> {
        ProduceServiceClient::new(self.transport.clone())
            .max_decoding_message_size(self.shared.config.max_response_bytes)
    }

    pub(crate) fn fetch_service(&self) -> FetchServiceClient<Transport> {
        FetchServiceClient::new(self.transport.clone())
            .max_decoding_message_size(self.shared.config.max_response_bytes)
    }

    pub(crate) fn group_service(&self) -> GroupServiceClient<Transport> {
        GroupServiceClient::new(self.transport.clone())
            .max_decoding_message_size(self.shared.config.max_response_bytes)
    }

    pub(crate) fn topic_service(&self) -> TopicServiceClient<Transport> {
        TopicServiceClient::new(self.transport.clone())
            .max_decoding_message_size(self.shared.config.max_response_bytes)
    }

    pub(crate) fn cluster_service(&self) -> ClusterServiceClient<Transport> {
        ClusterServiceClient::new(self.transport.clone())
            .max_decoding_message_size(self.shared.config.max_response_bytes)
    }

    /// Waits for one call, at most for `request_timeout` plus `extra` (what the broker may take by design).
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        extra: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        let limit = self.shared.config.request_timeout.saturating_add(extra);
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.explain(Error::from_status(&status))),
            Err(_) => Err(Error::timed_out(format!(
                "{}: {what} was not answered in {limit:?}",
                self.target()
            ))
            .with_may_have_happened(true)),
        }
    }

    /// Says where a connection was wanted, which the transport's own messages leave out.
    pub(crate) fn explain(&self, error: Error) -> Error {
        if error.code().is_none() && error.kind() == ErrorKind::Retriable {
            return Error::new(
                ErrorKind::Retriable,
                format!("broker {}: {}", self.target(), error.message()),
            );
        }
        error
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.shared.target)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

/// Sets up a [`Client`].
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    config: ClientConfig,
    clock: WallClock,
}

impl ClientBuilder {
    /// Takes all settings at once.
    #[must_use]
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// The id sent with every request.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.config.client_id = client_id.into();
        self
    }

    /// How long one attempt to connect may take.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// How long to wait for the answer to one request.
    #[must_use]
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// The clock that stamps records, instead of the system's.
    #[must_use]
    pub fn clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }

    /// Connects to `HOST:PORT` or a URI. The first connection is made, and was answered on, before this returns: all
    /// within the time for connecting.
    ///
    /// # Errors
    /// If a setting or the address is not valid, or nobody answers there in time, or not as a gRPC server does.
    pub async fn connect(self, address: impl AsRef<str>) -> Result<Client> {
        self.config.validate()?;
        let (endpoint, target) = self.endpoint(address.as_ref())?;
        let until = tokio::time::Instant::now() + self.config.connect_timeout;
        let channel = endpoint.connect().await.map_err(|error| {
            Error::new(
                ErrorKind::Retriable,
                format!("no connection to {target}: {}", causes(&error)),
            )
            .with_action("is a broker running there? `logweir serve` starts one")
        })?;
        match tokio::time::timeout_at(until, greet(channel.clone())).await {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => {
                let message =
                    format!("what listens at {target} does not answer as gRPC does: {problem}");
                return Err(Error::new(ErrorKind::Retriable, message).with_action(
                    "is that the port of the gRPC listener (`logweir serve --grpc`, 9093 by default) and not of another?",
                ));
            }
            Err(_) => {
                let timeout = self.config.connect_timeout;
                let message = format!(
                    "what listens at {target} has not answered as gRPC does within {timeout:?}"
                );
                return Err(Error::new(ErrorKind::Retriable, message).with_action(
                    "the broker may be overloaded, or that is not the port of its gRPC listener (`logweir serve --grpc`, 9093 by default)",
                ));
            }
        }
        let transport = BoxCloneSyncService::new(channel.map_err(TransportError::new));
        Ok(self.build(transport, Some(endpoint), target))
    }

    /// Like [`Self::connect`], but the first connection is made by the first request. Needs a tokio runtime all the same.
    ///
    /// # Errors
    /// If a setting or the address is not valid.
    pub fn connect_lazy(self, address: impl AsRef<str>) -> Result<Client> {
        self.config.validate()?;
        let (endpoint, target) = self.endpoint(address.as_ref())?;
        let channel = endpoint.connect_lazy().map_err(TransportError::new);
        Ok(self.build(BoxCloneSyncService::new(channel), Some(endpoint), target))
    }

    /// A client of an in-process service, such as tonic's `Routes`.
    ///
    /// # Errors
    /// If a setting is not valid.
    pub fn from_service<S, B>(self, service: S) -> Result<Client>
    where
        S: Service<Request, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<StdError>,
        S::Future: Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        self.config.validate()?;
        let service = service
            .map_response(|response: http::Response<B>| response.map(tonic::body::Body::new))
            .map_err(TransportError::new);
        Ok(self.build(
            BoxCloneSyncService::new(service),
            None,
            "in process".to_owned(),
        ))
    }

    fn endpoint(&self, address: &str) -> Result<(Endpoint, String)> {
        let uri = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let refuse = |why: &str| {
            Error::invalid(format!("address {address:?} {why}")).with_action("give HOST:PORT")
        };
        let parsed: http::Uri = uri.parse().map_err(|_| refuse("is not valid"))?;
        if parsed.port_u16().is_none() {
            return Err(refuse("has no port"));
        }
        if parsed.scheme_str() != Some("http") {
            return Err(refuse(
                "is not plain http, the only transport of this version",
            ));
        }
        let target = parsed
            .authority()
            .map_or_else(|| uri.clone(), ToString::to_string);
        let endpoint = Endpoint::from(parsed)
            .connect_timeout(self.config.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(self.config.keepalive_interval))
            .http2_keep_alive_interval(self.config.keepalive_interval)
            .keep_alive_timeout(self.config.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE);
        Ok((endpoint, target))
    }

    fn build(self, transport: Transport, endpoint: Option<Endpoint>, target: String) -> Client {
        Client {
            transport: identified(transport, &self.config),
            shared: Arc::new(Shared {
                endpoint,
                metadata: Metadata::new(self.config.metadata_max_age),
                config: self.config,
                clock: self.clock,
                target,
            }),
        }
    }
}

/// Finds out whether a gRPC server is on the other side, or gives what it did instead. A connection counts as made once
/// its first bytes were sent, so one to an HTTP/1 server, say, would only fail with the first request: as a connection
/// that was lost and is made anew, until that request's time is up. Any gRPC server answers a call of any method as one;
/// what it answers does not matter.
async fn greet(channel: Channel) -> Result<(), String> {
    const PATH: &str = "/logweir.v1.ClusterService/DescribeCluster";
    const GRPC: &str = "application/grpc";
    let request = http::Request::post(PATH)
        .header(http::header::CONTENT_TYPE, GRPC)
        .header(http::header::TE, "trailers")
        .header(http::header::USER_AGENT, SOFTWARE)
        .body(tonic::body::Body::empty())
        .map_err(|error| error.to_string())?;
    let answer = channel.oneshot(request).await;
    let answer = answer.map_err(|error| causes(&error))?;
    let kind = answer.headers().get(http::header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes())) {
        Ok(())
    } else {
        Err(format!("HTTP status {}", answer.status()))
    }
}

/// A transport that says with each request who asks.
fn identified(transport: Transport, config: &ClientConfig) -> Transport {
    let client_id = http::HeaderValue::from_str(&config.client_id)
        .expect("validate() lets only printable ASCII through");
    let software = http::HeaderValue::from_static(SOFTWARE);
    BoxCloneSyncService::new(transport.map_request(move |mut request: Request| {
        let headers = request.headers_mut();
        headers.insert(CLIENT_ID_KEY, client_id.clone());
        headers.insert(http::header::USER_AGENT, software.clone());
        request
    }))
}

/// An error with its causes, the last of which says what happened.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
