//! Bounds the bytes of requests that are in the broker, per connection and in all.
//!
//! Every received DATA frame is charged before it is handed on; where a limit is passed the call ends
//! with RESOURCE_EXHAUSTED. A message that has begun must be complete within [`MESSAGE_TIMEOUT`], so that
//! nobody holds on to a share of the budget for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::config::Limits;
use crate::grpc::connection::ConnectionInfo;
use crate::metrics::Metrics;

/// How long the parts of one message may take to arrive.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A gRPC message's prefix: one byte of flags, four of length.
const PREFIX_BYTES: usize = 5;

/// The bytes that all connections of a listener may have in the broker.
#[derive(Debug)]
pub(super) struct Budget {
    total: usize,
    per_connection: usize,
    metrics: Arc<Metrics>,
}

impl Budget {
    pub(super) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            total: limits.max_inflight_bytes,
            per_connection: limits.max_inflight_bytes_per_connection,
            metrics,
        }
    }

    fn used(&self) -> &AtomicU64 {
        &self.metrics.inflight_bytes
    }
}

/// What one call has been charged; released when the last clone is dropped, or as messages are settled.
#[derive(Clone, Debug)]
pub(super) struct Charge(Arc<Charged>);

#[derive(Debug)]
struct Charged {
    budget: Arc<Budget>,
    connection: Arc<AtomicUsize>,
    bytes: AtomicUsize,
}

impl Charge {
    /// Bytes received and not yet settled.
    #[cfg(test)]
    fn outstanding(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Gives back bytes whose messages have been dealt with.
    pub(super) fn settle(&self, bytes: usize) {
        let mut given = 0;
        // The closure always returns a value, so the update cannot fail.
        let _ = self
            .0
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                given = bytes.min(held);
                Some(held - given)
            });
        self.0.release(given);
    }

    /// Takes `bytes` more.
    fn add(&self, bytes: usize) -> Result<(), Status> {
        let charged = &self.0;
        charged.bytes.fetch_add(bytes, Ordering::Relaxed);
        let connection = charged.connection.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = charged
            .budget
            .used()
            .fetch_add(bytes as u64, Ordering::Relaxed)
            + bytes as u64;
        if connection > charged.budget.per_connection {
            return Err(exhausted(
                "this connection has",
                connection as u64,
                charged.budget.per_connection,
            ));
        }
        if total > charged.budget.total as u64 {
            return Err(exhausted(
                "all connections have",
                total,
                charged.budget.total,
            ));
        }
        Ok(())
    }
}

fn exhausted(who: &str, bytes: u64, limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "{who} {bytes} bytes of unanswered requests in the broker, the limit is {limit}; send less at a time"
    ))
}

impl Charged {
    fn release(&self, bytes: usize) {
        self.connection.fetch_sub(bytes, Ordering::Relaxed);
        self.budget
            .used()
            .fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.release(self.bytes.load(Ordering::Relaxed));
    }
}

/// Puts [`ChargedBody`] around every request's body, and its [`Charge`] into the request.
#[derive(Clone, Debug)]
pub(super) struct BudgetLayer(Arc<Budget>);

impl BudgetLayer {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self(budget)
    }
}

impl<S> Layer<S> for BudgetLayer {
    type Service = BudgetService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BudgetService {
            inner,
            budget: Arc::clone(&self.0),
        }
    }
}

/// See [`BudgetLayer`].
#[derive(Clone, Debug)]
pub(super) struct BudgetService<S> {
    inner: S,
    budget: Arc<Budget>,
}

impl<S> Service<http::Request<Body>> for BudgetService<S>
where
    S: Service<http::Request<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let connection = parts
            .extensions
            .get::<ConnectionInfo>()
            .map_or_else(Arc::default, |info| Arc::clone(&info.inflight));
        let charge = Charge(Arc::new(Charged {
            budget: Arc::clone(&self.budget),
            connection,
            bytes: AtomicUsize::new(0),
        }));
        parts.extensions.insert(charge.clone());
        let body = ChargedBody {
            inner: body,
            charge,
            framing: Framing::default(),
            late: None,
        };
        self.inner
            .call(http::Request::from_parts(parts, Body::new(body)))
    }
}

/// A request's body that is charged as it arrives.
#[derive(Debug)]
struct ChargedBody {
    inner: Body,
    charge: Charge,
    framing: Framing,
    /// Rings when the message that has begun is late.
    late: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => {
                if let Some(late) = &mut self.late
                    && late.as_mut().poll(cx).is_ready()
                {
                    let secs = MESSAGE_TIMEOUT.as_secs();
                    let message =
                        format!("a message was not complete within {secs} s of its beginning");
                    return Poll::Ready(Some(Err(Status::deadline_exceeded(message))));
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.charge.add(data.len())?;
                    self.framing.advance(data);
                    if !self.framing.within_message() {
                        self.late = None;
                    } else if self.late.is_none() {
                        self.late = Some(Box::pin(sleep_until(Instant::now() + MESSAGE_TIMEOUT)));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

/// Follows the message boundaries of a gRPC body without keeping any of it.
#[derive(Debug, Default)]
struct Framing {
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// Bytes of the current message still to come.
    rest: usize,
}

impl Framing {
    fn within_message(&self) -> bool {
        self.prefix_len > 0 || self.rest > 0
    }

    fn advance(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.rest > 0 {
                let taken = self.rest.min(data.len());
                self.rest -= taken;
                data.advance(taken);
                continue;
            }
            let taken = (PREFIX_BYTES - self.prefix_len).min(data.len());
            self.prefix[self.prefix_len..self.prefix_len + taken].copy_from_slice(&data[..taken]);
            self.prefix_len += taken;
            data.advance(taken);
            if self.prefix_len == PREFIX_BYTES {
                let [_flags, length @ ..] = self.prefix;
                self.rest = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.prefix_len = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(total: usize, per_connection: usize) -> Arc<Budget> {
        Arc::new(Budget {
            total,
            per_connection,
            metrics: Arc::default(),
        })
    }

    fn charge(budget: &Arc<Budget>, connection: &Arc<AtomicUsize>) -> Charge {
        Charge(Arc::new(Charged {
            budget: Arc::clone(budget),
            connection: Arc::clone(connection),
            bytes: AtomicUsize::new(0),
        }))
    }

    #[test]
    fn limits_hold_per_connection_and_in_all_and_everything_is_given_back() {
        let budget = budget(100, 60);
        let (one, two) = (Arc::default(), Arc::default());
        let (first, second) = (charge(&budget, &one), charge(&budget, &two));
        assert!(first.add(60).is_ok());
        assert_eq!(
            first.add(1).expect_err("over").code(),
            tonic::Code::ResourceExhausted
        );
        assert!(second.add(39).is_ok());
        assert!(second.add(1).is_err());
        first.settle(61);
        assert_eq!(first.outstanding(), 0);
        assert!(second.add(1).is_ok());
        drop((first, second));
        assert_eq!(budget.used().load(Ordering::Relaxed), 0);
        assert_eq!(one.load(Ordering::Relaxed) + two.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn framing_finds_the_boundaries_however_the_bytes_are_cut() {
        let mut body = Vec::new();
        for length in [0_u32, 3, 1_000] {
            body.push(0);
            body.extend_from_slice(&length.to_be_bytes());
            body.extend(std::iter::repeat_n(7, length as usize));
        }
        for cut in 1..40 {
            let mut framing = Framing::default();
            for piece in body.chunks(cut) {
                framing.advance(piece);
            }
            assert!(!framing.within_message(), "cut into {cut}");
            framing.advance(&[0, 0, 0]);
            assert!(framing.within_message());
        }
    }
}
