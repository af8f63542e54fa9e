//! The gRPC listener: translates the contract of `proto/logweir/v1` into service calls, and nothing more.
//!
//! One file per service. Limits on connections, messages and buffered bytes are enforced before a
//! message reaches a handler.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use logweir_proto::grpc::v1::cluster_service_server::ClusterServiceServer;
use logweir_proto::grpc::v1::fetch_service_server::FetchServiceServer;
use logweir_proto::grpc::v1::group_service_server::GroupServiceServer;
use logweir_proto::grpc::v1::topic_service_server::TopicServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::inflight::{self, Budget};
use crate::service::Service;

mod answers;
mod body;
mod cluster;
mod connection;
mod context;
mod fetch;
mod framing;
mod groups;
mod in_process;
mod membership;
mod produce;
mod produce_stream;
mod records;
mod reflection;
mod requests;
mod responses;
mod status;
mod topics;

use body::LimitsLayer;
use connection::Connections;
pub(crate) use in_process::InProcess;
use produce_stream::ProduceServer;
use responses::ResponseLimit;

/// Bytes that may be on their way to one stream, and to one connection, before the peer has to wait.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Larger HTTP/2 frames than the default 16 KiB halve the CPU per byte of large messages.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Streams of one connection at a time.
const MAX_STREAMS: u32 = 1_024;
/// How long a peer may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(40);
// A connection is not read from while a request of it waits for the budget; its answers to pings wait with it.
const _: () = assert!(PING_TIMEOUT.as_secs() > inflight::PATIENCE.as_secs());
/// What a response may hold besides records.
const RESPONSE_MARGIN_BYTES: usize = 16 << 20;
/// Bytes of a request that carries no records.
const MAX_SMALL_REQUEST_BYTES: usize = 4 << 20;
/// Bytes of a request's headers.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Every service of the contract with health and reflection, as one router without a socket.
pub(crate) async fn routes(service: &Arc<Service>, stop: &CancellationToken) -> Routes {
    let max_request = service.config.limits.max_request_bytes;
    let max_small_request = MAX_SMALL_REQUEST_BYTES.min(max_request);
    // A response holds at most one fetch answer, whose limit is its own.
    let max_response = fetch::MAX_RESPONSE_BYTES.max(max_request) + RESPONSE_MARGIN_BYTES;
    let handler = Handler {
        service: Arc::clone(service),
        stop: stop.clone(),
        next_keyless: Arc::default(),
    };
    reflection::add_to(Routes::default())
        .add_service(health().await)
        .add_service(ProduceServer::new(
            handler.clone(),
            max_request,
            max_response,
        ))
        .add_service(
            FetchServiceServer::new(handler.clone())
                .max_decoding_message_size(max_small_request)
                .max_encoding_message_size(max_response),
        )
        .add_service(
            GroupServiceServer::new(handler.clone())
                .max_decoding_message_size(max_small_request)
                .max_encoding_message_size(max_response),
        )
        .add_service(
            TopicServiceServer::new(handler.clone())
                .max_decoding_message_size(max_small_request)
                .max_encoding_message_size(max_response),
        )
        .add_service(
            ClusterServiceServer::new(handler.clone())
                .max_decoding_message_size(max_small_request)
                .max_encoding_message_size(max_response),
        )
        .prepare()
}

/// Health of the whole server and of each service: serving, as long as the listener is up.
async fn health() -> HealthServer<impl Health> {
    use tonic_health::ServingStatus::Serving;
    let names = [
        "",
        "logweir.v1.ProduceService",
        "logweir.v1.FetchService",
        "logweir.v1.GroupService",
        "logweir.v1.TopicService",
        "logweir.v1.ClusterService",
    ];
    let (reporter, server) = tonic_health::server::health_reporter();
    for name in names {
        reporter.set_service_status(name, Serving).await;
    }
    server
}

/// Serves a bound listener until `stop`, then lets the calls in flight finish. `cut` breaks every connection at once,
/// also those that outlive this future when it is dropped.
///
/// # Errors
/// If the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Routes,
    service: &Service,
    budget: Arc<Budget>,
    stop: CancellationToken,
    cut: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let limits = &service.config.limits;
    let responses = ResponseLimit::new(limits.max_response_bytes);
    let metrics = Arc::clone(&service.metrics);
    let connections = Connections::new(listener, limits, metrics, stop.clone(), cut);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        // A peer that lives answers, and so keeps its connection; one that is gone does not.
        .http2_keepalive_interval(Some(Duration::from_millis(
            limits.connections_max_idle_ms / 3,
        )))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .layer(LimitsLayer::new(budget, responses))
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await
}

/// What every gRPC service works with.
#[derive(Clone, Debug)]
struct Handler {
    service: Arc<Service>,
    /// Ends streams that would otherwise go on for ever.
    stop: CancellationToken,
    /// Plain records without a key go to one partition after the other, an append at a time.
    next_keyless: Arc<AtomicU32>,
}

#[cfg(test)]
mod tests;
