//! The HTTP listener: `/metrics` (Prometheus), `/healthz` (the process is up), `/readyz` (it serves).
//!
//! A connection serves one request and has little time for it, so that peers that are idle, slow or many cost little.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::service::Service;

mod metrics;

/// A peer that connected has this long to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last, its response included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// What is kept of one connection's input, and of the head of its output. A larger head is refused.
const MAX_BUFFER_BYTES: usize = 16 << 10;
/// Metrics pages that are being made or sent: one of 10,000 partitions has a few MiB.
const MAX_PAGES: usize = 8;
/// After a failed accept (no descriptors left, for instance) the listener rests.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages need.
#[derive(Clone, Debug)]
struct Pages {
    service: Arc<Service>,
    slots: Arc<Semaphore>,
}

/// Serves a bound listener until `stop`, then lets the requests in flight finish. Dropping the future breaks them off.
///
/// # Errors
/// None; what fails is one connection.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let max_connections = service.config.limits.max_connections;
    let metrics = Arc::clone(&service.metrics);
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { (StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n") })
        .with_state(Pages {
            service,
            slots: Arc::new(Semaphore::new(MAX_PAGES)),
        });
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok(_) if connections.len() >= max_connections => {
                metrics.connections_refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok((stream, _)) => {
                let served = serve_connection(stream, router.clone(), &graceful);
                connections.spawn(tokio::time::timeout(CONNECTION_TIMEOUT, served));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an HTTP connection failed");
                crate::clock::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

fn serve_connection(
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + 'static {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let served = graceful.watch(connection);
    async move {
        if let Err(error) = served.await {
            tracing::debug!(%error, "an HTTP connection ended early");
        }
    }
}

/// Made on a thread that may take its time; a page of many partitions takes milliseconds.
async fn metrics_page(State(pages): State<Pages>) -> Response {
    let Ok(slot) = pages.slots.try_acquire_owned() else {
        let message = format!("{MAX_PAGES} pages are being sent already; try again\n");
        return (StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    };
    let groups = metrics::GroupValues::of(&pages.service).await;
    let render = move || metrics::render(&pages.service, groups);
    let rendered = tokio::task::spawn_blocking(render).await;
    let error = match rendered {
        Ok(Ok(text)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let page = Bytes::from_owner(Page { text, _slot: slot });
            return ([(header::CONTENT_TYPE, kind)], Body::from(page)).into_response();
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("metrics: {error}\n"),
    )
        .into_response()
}

/// A page, in one of [`MAX_PAGES`] slots until it was sent.
#[derive(Debug)]
struct Page {
    text: String,
    _slot: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Ready means that every partition led here can be used and the data directory is online.
async fn ready(State(pages): State<Pages>) -> Response {
    match pages.service.unready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;
    use crate::{Broker, Config};

    async fn broker(max_connections: usize) -> Broker {
        let mut config = Config::in_memory();
        config.limits.max_connections = max_connections;
        Broker::start(config).await.expect("starts")
    }

    async fn connect(broker: &Broker, first_bytes: &[u8]) -> TcpStream {
        let address = broker.http_addr().expect("it listens");
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        // A connection that is refused may be gone already.
        let _ = stream.write_all(first_bytes).await;
        stream
    }

    /// What comes until the connection ends.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        // A refused connection may be reset.
        let _ = stream.read_to_end(&mut bytes).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Peers that said nothing, or half a request, or read nothing kept their connections for ever.
    #[tokio::test]
    async fn a_connection_that_does_not_get_on_is_closed() {
        let broker = broker(100).await;
        tokio::time::pause();
        for first_bytes in ["", "GET /metrics HT", "GET /healthz HTTP/1.1\r\nA: b\r\n"] {
            let started = Instant::now();
            let mut peer = connect(&broker, first_bytes.as_bytes()).await;
            let answer = rest(&mut peer).await;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(started.elapsed() >= HEAD_TIMEOUT);
            assert!(started.elapsed() < CONNECTION_TIMEOUT, "{first_bytes:?}");
        }
        let started = Instant::now();
        let request = "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx";
        let mut peer = connect(&broker, request.as_bytes()).await;
        rest(&mut peer).await;
        assert!(started.elapsed() <= CONNECTION_TIMEOUT + HEAD_TIMEOUT);
        let mut peer = connect(&broker, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(rest(&mut peer).await.ends_with("ok\n"));
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_closed_and_heads_beyond_theirs_refused() {
        let broker = broker(2).await;
        let mut held = connect(&broker, b"GET").await;
        let mut other = connect(&broker, b"GET").await;
        let mut third = connect(&broker, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(rest(&mut third).await, "");
        held.write_all(b" /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("it is served");
        assert!(rest(&mut held).await.ends_with("ok\n"));
        let long = format!(
            " / HTTP/1.1\r\nLong: {}\r\n\r\n",
            "x".repeat(2 * MAX_BUFFER_BYTES)
        );
        // It may stop reading before the end.
        let _ = other.write_all(long.as_bytes()).await;
        let answer = rest(&mut other).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }
}
