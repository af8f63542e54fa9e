//! One connection: requests in, answers out in the order in which the requests came.
//!
//! A request is begun when the one before has its place in the order. Only Produce lets go before it is answered: while
//! it waits for its acknowledgement, others may begin. So a connection has one request under way beside the
//! acknowledgements that it waits for, as with Kafka, which reads no further while it works on a request.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::apis::{ApiKey, Served};
use super::call::{Answer, Broken, Call, Peer, Response};
use super::handlers;
use super::header::Header;
use super::input::{Frame, Input};
use super::message::MAX_SMALL_FRAME;
use super::output::Output;
use super::sessions::Sessions;
use crate::inflight::{Budget, Charge};
use crate::service::{ListenerKind, NameMapping, Principal, RequestContext, Service};

/// Acknowledgements that a connection may wait for.
const MAX_PENDING: usize = 1_024;
/// How long a connection that the broker closes is read from to no end, so that its last answers arrive.
const LINGER: Duration = Duration::from_secs(1);
/// How often it is looked at most whether a connection is idle.
const SMALLEST_IDLE_CHECK: Duration = Duration::from_millis(100);
/// Longer names are cut: they go into logs and metrics.
const MAX_NAME_BYTES: usize = 256;

type Work<T> = Pin<Box<dyn Future<Output = Result<T, Broken>> + Send>>;

/// Something under way, and then what came of it.
enum Due<T> {
    Waits(Work<T>),
    Done(Result<T, Broken>),
}

impl<T> Due<T> {
    /// Whether it is done.
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        if let Self::Waits(work) = self
            && let Poll::Ready(done) = work.as_mut().poll(context)
        {
            *self = Self::Done(done);
        }
        matches!(self, Self::Done(_))
    }

    fn take(self) -> io::Result<T> {
        match self {
            Self::Done(done) => done.map_err(|error| invalid(error.to_string())),
            // It is only taken once it is done.
            Self::Waits(_) => Err(invalid("a request has no answer".to_owned())),
        }
    }
}

/// Something under way, with what its request was charged.
struct Charged<T> {
    due: Due<T>,
    charge: Charge,
}

struct Connection {
    service: Arc<Service>,
    peer: Arc<Peer>,
    cut: CancellationToken,
    client_id: Arc<str>,
    input: Input,
    output: Output,
    /// The request that is being worked on.
    current: Option<Charged<Answer>>,
    /// Answers that are due, in the order of requests.
    pending: VecDeque<Charged<Response>>,
    /// The peer sends no more, or is not to be heard any more.
    is_done: bool,
    /// Why it ends, once what was asked before is answered.
    failure: Option<io::Error>,
    /// When its last request came, or some of an answer went.
    active: Instant,
}

/// Serves a connection until it ends, is cut, or `stop` has come and what was begun is answered.
pub(super) async fn run(
    mut stream: TcpStream,
    service: Arc<Service>,
    budget: Arc<Budget>,
    sessions: Arc<Sessions>,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    let host = stream
        .peer_addr()
        .map_or_else(|_| "unknown".to_owned(), |peer| peer.ip().to_string());
    let mut connection = Connection {
        peer: Arc::new(Peer {
            host: host.into(),
            reached: stream.local_addr().ok(),
            sessions,
            software: Mutex::new("".into()),
        }),
        cut: cut.clone(),
        client_id: "".into(),
        input: Input::new(service.config.limits.max_request_bytes, budget),
        output: Output::default(),
        current: None,
        pending: VecDeque::new(),
        is_done: false,
        failure: None,
        active: Instant::now(),
        service,
    };
    let (mut reader, mut writer) = stream.split();
    let served = tokio::select! {
        () = cut.cancelled() => return,
        served = connection.serve(&mut reader, &mut writer, &stop) => served,
    };
    match served {
        Ok(()) => {}
        Err(error) if is_usual(&error) => {
            tracing::debug!(host = %connection.peer.host, %error, "a connection ended");
        }
        Err(error) => {
            let software = connection.peer.software.lock().clone();
            tracing::warn!(host = %connection.peer.host, client_id = %connection.client_id, %software, %error,
                "a connection is closed");
        }
    }
    tokio::select! {
        () = cut.cancelled() => {}
        () = linger(&mut stream) => {}
    }
}

/// Whether that is how connections end.
fn is_usual(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::TimedOut
    )
}

/// Bytes that nobody read would make the kernel reset the connection at its close, and take back answers that the peer
/// has not read yet (RFC 1122, section 4.2.2.13).
async fn linger(stream: &mut TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut scratch = [0; 4096];
    let drained = async { while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {} };
    let _ = timeout(LINGER, drained).await;
}

impl Connection {
    async fn serve(
        &mut self,
        reader: &mut ReadHalf<'_>,
        writer: &mut WriteHalf<'_>,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let idle = Duration::from_millis(self.service.config.limits.connections_max_idle_ms);
        let mut stopped = std::pin::pin!(stop.cancelled());
        // Moved on only when it rings: that is rare, and requests are not.
        let mut timer = std::pin::pin!(sleep_until(Instant::now() + idle));
        loop {
            poll_fn(|context| {
                self.go_on(context);
                Poll::Ready(())
            })
            .await;
            let may_begin = !self.is_done
                && self.current.is_none()
                && self.pending.len() < MAX_PENDING
                && self.output.has_room();
            // What has come already before anything is written: answers to many requests then go out together. If it has
            // to wait for the budget it does so below, beside the answers whose requests hold the budget.
            if may_begin
                && self.input.has_frame()
                && let Some(frame) = self.input.next(reader).now_or_never()
            {
                self.take(frame);
                continue;
            }
            let is_idle =
                self.current.is_none() && self.pending.is_empty() && self.output.is_empty();
            if self.is_done && is_idle {
                return self.failure.take().map_or(Ok(()), Err);
            }
            tokio::select! {
                biased;
                () = &mut stopped, if !self.is_done => self.is_done = true,
                written = self.output.write(writer), if !self.output.is_empty() => {
                    written?;
                    self.active = Instant::now();
                }
                () = progress(&mut self.current, &mut self.pending) => {}
                frame = self.input.next(reader), if may_begin => self.take(frame),
                () = &mut timer => {
                    // Nothing is asked, or nobody reads what was answered.
                    let is_waiting = self.current.is_none() && self.pending.is_empty();
                    let until = self.active + idle;
                    if until <= Instant::now() && is_waiting {
                        return Ok(());
                    }
                    timer.as_mut().reset(until.max(Instant::now() + SMALLEST_IDLE_CHECK));
                }
            }
        }
    }

    /// Takes in what has come to its end.
    fn go_on(&mut self, context: &mut Context<'_>) {
        if self
            .current
            .as_mut()
            .is_some_and(|current| current.due.poll(context))
            && let Some(current) = self.current.take()
        {
            let due = match current.due.take() {
                Ok(Answer::Ready(response)) => Some(Due::Done(Ok(response))),
                Ok(Answer::Later(answer)) => Some(Due::Waits(answer)),
                Ok(Answer::Nothing) => None,
                Err(error) => {
                    self.fail(error);
                    None
                }
            };
            let charge = current.charge;
            self.pending.extend(due.map(|due| Charged { due, charge }));
        }
        while self
            .pending
            .front_mut()
            .is_some_and(|first| first.due.poll(context))
            && let Some(first) = self.pending.pop_front()
        {
            match first.due.take() {
                Ok(response) => self.output.push(response),
                Err(error) => {
                    // Those behind it would be taken for its answer.
                    self.pending.clear();
                    self.current = None;
                    self.fail(error);
                }
            }
        }
    }

    /// Ends the connection when what was asked before is answered: the peer may rely on it.
    fn fail(&mut self, error: io::Error) {
        self.is_done = true;
        self.failure.get_or_insert(error);
    }

    /// Begins the request of a frame; without one the peer has closed its side.
    fn take(&mut self, frame: io::Result<Option<Frame>>) {
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => return self.is_done = true,
            Err(error) => return self.fail(error),
        };
        self.active = Instant::now();
        let charge = frame.charge.clone();
        match self.call(frame) {
            Ok(call) => {
                self.current = Some(Charged {
                    due: Due::Waits(Box::pin(handlers::handle(call))),
                    charge,
                });
            }
            Err(error) => self.fail(error),
        }
    }

    /// What a frame asks.
    fn call(&mut self, frame: Frame) -> io::Result<Call> {
        let size = frame.bytes.len();
        let header = Header::read(&frame.bytes)
            .map_err(|error| invalid(format!("the header of a request cannot be read: {error}")))?;
        self.note_client_id(header.client_id.as_deref().unwrap_or_default());
        let (key, version) = (header.api_key, header.version);
        let Some(served) = header.served else {
            return Err(invalid(format!(
                "API {key} (version {version}) is not served"
            )));
        };
        check(served, version, size)?;
        Ok(Call {
            body: header.body,
            service: Arc::clone(&self.service),
            peer: Arc::clone(&self.peer),
            ctx: self.context(),
            served,
            version,
            correlation_id: header.correlation_id,
            charge: frame.charge,
            account: Mutex::new(Some(frame.account)),
        })
    }

    fn note_client_id(&mut self, client_id: &str) {
        let mut end = client_id.len().min(MAX_NAME_BYTES);
        while !client_id.is_char_boundary(end) {
            end -= 1;
        }
        if *self.client_id != client_id[..end] {
            self.client_id = client_id[..end].into();
        }
    }

    fn context(&self) -> RequestContext {
        RequestContext {
            principal: Principal::anonymous(),
            listener: ListenerKind::Kafka,
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.peer.host),
            client_software: self.peer.software.lock().clone(),
            deadline: None,
            names: NameMapping,
            connection: Some(self.cut.clone()),
        }
    }
}

/// Waits until something that is under way has come to its end.
async fn progress(
    current: &mut Option<Charged<Answer>>,
    pending: &mut VecDeque<Charged<Response>>,
) {
    poll_fn(|context| {
        let current = current
            .as_mut()
            .is_some_and(|current| current.due.poll(context));
        let first = pending
            .front_mut()
            .is_some_and(|first| first.due.poll(context));
        if current || first {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Refuses what cannot be answered. ApiVersions can in every version, and Produce in those that it is listed with.
fn check(served: &Served, version: i16, size: usize) -> io::Result<()> {
    let is_answered =
        served.api == ApiKey::ApiVersions || (served.min..=served.max).contains(&version);
    if !is_answered {
        let (name, min, max) = (served.name, served.min, served.max);
        return Err(invalid(format!(
            "{name} is served in versions {min} to {max}, and was asked for in {version}"
        )));
    }
    if served.api != ApiKey::Produce && size > MAX_SMALL_FRAME {
        let name = served.name;
        return Err(invalid(format!(
            "a request for {name} has {size} bytes; up to {MAX_SMALL_FRAME} are taken"
        )));
    }
    Ok(())
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
