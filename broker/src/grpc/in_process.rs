//! Calls without a socket: what clients in this process use.
//!
//! The link stays the same over a crash and a restart of the broker, like an address does. While the
//! broker is down calls are refused as connections would be, and each call counts as a connection of its
//! own that can be cut.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use crate::grpc::connection::ConnectionInfo;
use crate::grpc::membership::MEMBERSHIP;

/// Leads to the broker's present run, if there is one; clones are the same link.
#[derive(Clone, Debug, Default)]
pub(crate) struct InProcess(Arc<ArcSwapOption<Up>>);

/// A run that can be called.
#[derive(Debug)]
struct Up {
    routes: Routes,
    cut: CancellationToken,
    calls: TaskTracker,
}

impl InProcess {
    /// Leads to these routes from now on, until `cut`. What is under way is counted in `calls`, except the answers to
    /// readers and members: those may be left alone for any time, and lose nothing.
    pub(crate) fn connect(&self, routes: Routes, cut: CancellationToken, calls: TaskTracker) {
        self.0.store(Some(Arc::new(Up { routes, cut, calls })));
    }

    /// Refuses calls from now on; those under way go on.
    pub(crate) fn disconnect(&self) {
        self.0.store(None);
    }
}

type Future = Pin<Box<dyn std::future::Future<Output = io::Result<http::Response<Body>>> + Send>>;

impl Service<http::Request<Body>> for InProcess {
    type Response = http::Response<Body>;
    type Error = io::Error;
    type Future = Future;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Future {
        let Some(up) = self.0.load_full() else {
            let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "the broker is down");
            return Box::pin(std::future::ready(Err(refused)));
        };
        let cut = up.cut.child_token();
        request
            .extensions_mut()
            .insert(ConnectionInfo::in_process(cut.clone()));
        let call = up.calls.token();
        let path = request.uri().path();
        let is_counted = !path.contains("FetchService") && path != MEMBERSHIP;
        let mut routes = up.routes.clone();
        Box::pin(async move {
            let answer = tokio::select! {
                biased;
                () = cut.cancelled() => return Err(reset()),
                answer = routes.call(request) => answer,
            };
            let response = answer.unwrap_or_else(|never: Infallible| match never {});
            Ok(response.map(|inner| {
                Body::new(CutBody {
                    inner,
                    is_cut: Box::pin(cut.cancelled_owned()),
                    _call: is_counted.then_some(call),
                })
            }))
        })
    }
}

fn reset() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the broker cut the connection",
    )
}

/// An answer that breaks off when its connection is cut.
#[derive(Debug)]
struct CutBody {
    inner: Body,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _call: Option<TaskTrackerToken>,
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if self.is_cut.as_mut().poll(cx).is_ready() {
            let status = tonic::Status::unavailable(reset().to_string());
            return Poll::Ready(Some(Err(status)));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
