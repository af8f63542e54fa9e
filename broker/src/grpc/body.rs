//! What stands between HTTP and the calls: every request's body is charged to the [`Budget`] as it arrives, and the
//! responses that hold records give back their [`Responses`] share when they have left.
//!
//! A message that has begun, and every call of a single message, must be complete within [`MESSAGE_TIMEOUT`], not
//! counting the time the broker made it wait, so that nobody holds on to a share of the budget for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame as BodyFrame};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::grpc::connection::ConnectionInfo;
use crate::grpc::framing::{Framing, Shape};
use crate::grpc::membership::MEMBERSHIP;
use crate::grpc::produce_stream::PRODUCE_STREAM;
use crate::grpc::responses::{ResponseBody, ResponseLimit, Responses};
use crate::inflight::{Account, Budget, Charge, Exhausted, Frame};

/// How long the parts of one message may take to arrive.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Puts [`ChargedBody`] around every request's body, and into the request its [`Charge`] and, where it
/// may need them, its [`Responses`].
#[derive(Clone, Debug)]
pub(super) struct LimitsLayer {
    budget: Arc<Budget>,
    responses: ResponseLimit,
}

impl LimitsLayer {
    pub(super) fn new(budget: Arc<Budget>, responses: ResponseLimit) -> Self {
        Self { budget, responses }
    }
}

impl<S> Layer<S> for LimitsLayer {
    type Service = LimitsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LimitsService {
            inner,
            limits: self.clone(),
        }
    }
}

/// See [`LimitsLayer`].
#[derive(Clone, Debug)]
pub(super) struct LimitsService<S> {
    inner: S,
    limits: LimitsLayer,
}

impl<S> Service<http::Request<Body>> for LimitsService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let connection = parts.extensions.get::<ConnectionInfo>();
        let limited = connection.and_then(|connection| {
            let limits = connection.limits.clone()?;
            Some((limits, connection.cut.clone()))
        });
        let Some((limits, cut)) = limited else {
            return Box::pin(self.inner.call(http::Request::from_parts(parts, body)));
        };
        let path = parts.uri.path();
        let streams =
            [PRODUCE_STREAM, MEMBERSHIP].contains(&path) || path.starts_with("/grpc.reflection.");
        let responses = Responses::new(&self.limits.responses, &limits.responses, &cut);
        let charge = Charge::new(
            Arc::clone(&self.limits.budget),
            Arc::clone(&limits.inflight),
        );
        let body = ChargedBody {
            inner: body,
            account: Account::new(charge.clone()),
            framing: Framing::new(Shape::of(path)),
            streams,
            late: (!streams).then(|| Instant::now() + MESSAGE_TIMEOUT),
            timer: None,
            held: None,
            charge: charge.clone(),
        };
        parts.extensions.insert(charge);
        parts.extensions.insert(responses.clone());
        let body = Body::new(body);
        let call = self.inner.call(http::Request::from_parts(parts, body));
        Box::pin(async move {
            let response = call.await?;
            Ok(response.map(|body| Body::new(ResponseBody::new(body, responses))))
        })
    }
}

/// A request's body that is charged as it arrives.
#[derive(Debug)]
struct ChargedBody {
    inner: Body,
    account: Account,
    framing: Framing,
    /// Whether the call takes any number of messages, at any time.
    streams: bool,
    /// When the message that has begun, or the call, is late.
    late: Option<Instant>,
    /// Rings then or before; moved only when it rings.
    timer: Option<Pin<Box<Sleep>>>,
    /// What has come and is not charged yet.
    held: Option<(Bytes, Frame)>,
    charge: Charge,
}

impl ChargedBody {
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(late) = self.late else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(late)));
        while timer.as_mut().poll(cx).is_ready() {
            if late <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(late);
        }
        Poll::Pending
    }

    /// Takes the next frame from the peer; data is held until it is charged, the rest is given at once.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Status>>> {
        let data = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => {
                std::task::ready!(self.poll_late(cx));
                let secs = MESSAGE_TIMEOUT.as_secs();
                let message =
                    format!("a message was not complete within {secs} s of its beginning");
                return Poll::Ready(Some(Err(Status::deadline_exceeded(message))));
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            },
            Poll::Ready(other) => return Poll::Ready(other),
        };
        let begun = self.framing.within_message();
        let bytes = self.framing.advance(&data);
        if let Err(error) = self.charge.count(bytes) {
            return Poll::Ready(Some(Err(exhausted(&error))));
        }
        let ends = self.framing.has_ended();
        self.charge.complete(self.framing.take_ended());
        if self.streams {
            if !self.framing.within_message() {
                self.late = None;
            } else if self.late.is_none() || ends {
                self.late = Some(Instant::now() + MESSAGE_TIMEOUT);
            }
        }
        self.held = Some((data, Frame { bytes, begun, ends }));
        Poll::Ready(None)
    }
}

impl HttpBody for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Status>>> {
        let body = &mut *self;
        if body.held.is_none() {
            let other = std::task::ready!(body.poll_next(cx));
            if body.held.is_none() {
                return Poll::Ready(other);
            }
        }
        let Some((_, frame)) = &body.held else {
            return Poll::Ready(None);
        };
        let charged = std::task::ready!(body.account.poll_charge(frame, cx));
        let waited = charged.map_err(|error| exhausted(&error))?;
        body.late = body.late.map(|late| late + waited);
        let data = body.held.take().map(|(data, _)| BodyFrame::data(data));
        Poll::Ready(data.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &self.held {
            None => self.inner.size_hint(),
            Some(_) => http_body::SizeHint::default(),
        }
    }
}

impl Drop for ChargedBody {
    fn drop(&mut self) {
        if let Some((_, frame)) = &self.held {
            self.charge.uncount(frame.bytes);
        }
    }
}

fn exhausted(error: &Exhausted) -> Status {
    Status::resource_exhausted(error.to_string())
}
