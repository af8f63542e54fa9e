//! Accepts connections for the gRPC listener, within limits of number and idle time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::config::Limits;
use crate::grpc::responses::ConnectionShare;
use crate::inflight::ConnectionInflight;
use crate::metrics::Metrics;

/// A peer that connected has this long to say something.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (no descriptors left, for instance) the listener rests.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection that the broker closes is read from to no end.
const LINGER: Duration = Duration::from_secs(1);
/// Reads of that before others have their turn.
const LINGER_READS: usize = 64;

/// What the handlers know of the connection a call came on.
#[derive(Clone, Debug)]
pub(super) struct ConnectionInfo {
    /// Cuts this connection, as a broken network would.
    pub(super) cut: CancellationToken,
    /// Who connected; `None` in process.
    pub(super) peer: Option<SocketAddr>,
    /// `None` in process, where the caller's memory is the broker's.
    pub(super) limits: Option<Arc<ConnectionLimits>>,
}

impl ConnectionInfo {
    /// A connection in this process.
    pub(super) fn in_process(cut: CancellationToken) -> Self {
        Self {
            cut,
            peer: None,
            limits: None,
        }
    }
}

/// What one connection has of the broker's limits.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    /// What its requests take.
    pub(super) inflight: Arc<ConnectionInflight>,
    /// What its responses may take.
    pub(super) responses: ConnectionShare,
}

impl ConnectionLimits {
    /// A connection on which nothing has come yet, and whose responses may take so many bytes.
    pub(super) fn new(response_bytes: usize) -> Self {
        Self {
            inflight: Arc::default(),
            responses: ConnectionShare::new(response_bytes),
        }
    }
}

/// The stream of accepted connections.
#[derive(Debug)]
pub(super) struct Connections {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    idle: Duration,
    response_bytes: usize,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    /// The parent of every connection's own token.
    cut: CancellationToken,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    pub(super) fn new(
        listener: TcpListener,
        limits: &Limits,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
        cut: CancellationToken,
    ) -> Self {
        Self {
            listener,
            slots: Arc::new(Semaphore::new(limits.max_connections)),
            idle: Duration::from_millis(limits.connections_max_idle_ms),
            response_bytes: limits.max_response_bytes_per_connection,
            metrics,
            stop,
            cut,
            pause: None,
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.metrics
                .connections_refused
                .fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, "connection refused: max_connections is reached");
            return None;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "TCP_NODELAY was not set");
        }
        self.metrics.connections.fetch_add(1, Ordering::Relaxed);
        let cut = self.cut.child_token();
        let limits = Arc::new(ConnectionLimits::new(self.response_bytes));
        Some(Connection {
            stream,
            is_cut: Box::pin(cut.clone().cancelled_owned()),
            limits: Arc::clone(&limits),
            info: ConnectionInfo {
                cut,
                peer: Some(peer),
                limits: Some(limits),
            },
            active: Instant::now(),
            idle: self.idle,
            heard: false,
            lingers: false,
            timer: Box::pin(sleep_until(Instant::now() + FIRST_BYTES_TIMEOUT)),
            metrics: Arc::clone(&self.metrics),
            _slot: slot,
        })
    }
}

impl Stream for Connections {
    type Item = Result<Connection, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.stop.is_cancelled() {
                return Poll::Ready(None);
            }
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match std::task::ready!(self.listener.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    if let Some(connection) = self.admit(stream, peer) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    self.pause = Some(Box::pin(sleep_until(Instant::now() + ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// A connection that closes itself when nothing has happened on it for too long, and breaks when it is cut.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    limits: Arc<ConnectionLimits>,
    info: ConnectionInfo,
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    active: Instant,
    idle: Duration,
    heard: bool,
    /// It is closed as far as the broker is concerned.
    lingers: bool,
    timer: Pin<Box<Sleep>>,
    metrics: Arc<Metrics>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// Reads on, for a moment and to no end, until the peer has closed its side. Bytes that nobody read would make the
    /// kernel reset the connection at its close, and take back answers that the peer has not read yet (RFC 1122,
    /// section 4.2.2.13).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.lingers {
            self.lingers = true;
            self.timer.as_mut().reset(Instant::now() + LINGER);
        }
        let mut scratch = [0; 4096];
        for _ in 0..LINGER_READS {
            if self.is_cut.as_mut().poll(cx).is_ready() || self.timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut unread = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut unread) {
                Poll::Ready(Ok(())) if !unread.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        // Others are to have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Registers for the moment the connection is cut; an error if that has come.
    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.is_cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the broker cut the connection",
            )),
            Poll::Pending => Ok(()),
        }
    }

    /// Registers for the moment the connection has been idle too long; an error if that has come.
    fn check_idle(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let deadline = self.active + self.idle;
            if !self.heard || deadline <= Instant::now() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the connection was idle too long",
                ));
            }
            self.timer.as_mut().reset(deadline);
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        std::task::ready!(self.limits.inflight.gate.poll_open(cx));
        let filled = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => match self.check_idle(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
            Poll::Ready(result) => {
                if buf.filled().len() > filled {
                    self.active = Instant::now();
                    self.heard = true;
                }
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.active = Instant::now();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.active = Instant::now();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.poll_linger(cx).map(Ok)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
