//! The Kafka listener: translates Kafka's own protocol into service calls, and nothing more.
//!
//! One file per API in `handlers/`. What is served in which versions stands in `apis.rs`. The codec is the crate
//! `kafka-wire`; where records are, and in old versions that it lacks (`legacy.rs`), is read and written by hand (`wire.rs`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::sessions::Sessions;
use crate::inflight::Budget;
use crate::service::Service;

mod addresses;
mod apis;
mod call;
mod connection;
mod handlers;
mod header;
mod input;
mod legacy;
mod message;
mod output;
mod sessions;
mod wire;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod tests;

/// After a failed accept (no descriptors left, for instance) the listener rests.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a bound listener until `stop`, then lets the calls in flight finish. `cut` breaks every connection at once,
/// also those that outlive this future when it is dropped.
///
/// # Errors
/// Never at present: an accept that fails is tried again.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    budget: Arc<Budget>,
    stop: CancellationToken,
    cut: CancellationToken,
) -> io::Result<()> {
    let sessions = Arc::default();
    let slots = Arc::new(Semaphore::new(service.config.limits.max_connections));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                let _ = tokio::time::timeout(ACCEPT_PAUSE, stop.cancelled()).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            let refused = &service.metrics.connections_refused;
            refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, "connection refused: max_connections is reached");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "TCP_NODELAY was not set");
        }
        let serving = serve_one(
            stream,
            slot,
            Arc::clone(&service),
            Arc::clone(&budget),
            Arc::clone(&sessions),
            stop.clone(),
            cut.child_token(),
        );
        connections.spawn(serving);
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn serve_one(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    service: Arc<Service>,
    budget: Arc<Budget>,
    sessions: Arc<Sessions>,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    let metrics = Arc::clone(&service.metrics);
    metrics.connections.fetch_add(1, Ordering::Relaxed);
    connection::run(stream, service, budget, sessions, stop, cut).await;
    metrics.connections.fetch_sub(1, Ordering::Relaxed);
    drop(slot);
}
