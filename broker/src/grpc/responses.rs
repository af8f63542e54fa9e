//! The bytes of responses that may be in the broker, per connection and in all.
//!
//! Records that were read lie in the log's maps; they become memory when they are unpacked or encoded, and stay until
//! the peer has taken them. So a response takes its share before that, and it comes back with the last encoded byte,
//! wherever that was waiting. A small response of a connection that has nothing else under way is never held
//! up by what others leave unread, and a large one not for ever: who leaves responses unread while others wait
//! loses the connection.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

/// How long a single response waits for its share where the caller has no deadline of its own.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a response waits before it looks for those who hold the room and do not read.
const STARVED: Duration = Duration::from_secs(10);
/// How long a response may be left unread while others wait for its room.
const UNREAD: Duration = Duration::from_secs(30);
/// What each connection has for itself, whatever others hold.
const OWN_BYTES: usize = 2 << 20;

/// Bytes that may be given out again.
#[derive(Clone, Debug)]
struct Pool {
    permits: Arc<Semaphore>,
    whole: usize,
}

impl Pool {
    fn new(bytes: usize) -> Self {
        let whole = bytes.min(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(whole)),
            whole,
        }
    }

    /// What is more than the whole counts as the whole: it is served when nothing else is.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.whole)).unwrap_or(u32::MAX)
    }

    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = Arc::clone(&self.permits);
        permits.try_acquire_many_owned(self.permits(bytes)).ok()
    }

    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = Arc::clone(&self.permits);
        // The semaphore is never closed.
        permits.acquire_many_owned(self.permits(bytes)).await.ok()
    }
}

/// The bytes of responses of all connections.
#[derive(Clone, Debug)]
pub(super) struct ResponseLimit {
    pool: Pool,
    holders: Arc<Mutex<Holders>>,
}

/// Who has a share of what all have, by age.
#[derive(Debug, Default)]
struct Holders {
    next_id: u64,
    since: BTreeMap<u64, (Instant, CancellationToken)>,
}

impl ResponseLimit {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            pool: Pool::new(bytes),
            holders: Arc::default(),
        }
    }

    /// Takes a share for a connection; cuts others that have left theirs unread for too long.
    async fn take(&self, bytes: usize, cut: &CancellationToken) -> Share {
        let permit = self.pool.take(bytes);
        tokio::pin!(permit);
        let permit = loop {
            match tokio::time::timeout(STARVED, &mut permit).await {
                Ok(permit) => break permit,
                Err(_elapsed) => self.cut_unread(),
            }
        };
        let mut holders = self.holders.lock();
        let id = holders.next_id;
        holders.next_id += 1;
        holders.since.insert(id, (Instant::now(), cut.clone()));
        let held = Held {
            holders: Arc::clone(&self.holders),
            id,
        };
        Share {
            permits: permit.into_iter().collect(),
            _held: Some(held),
        }
    }

    fn cut_unread(&self) {
        for (since, cut) in self.holders.lock().since.values() {
            if since.elapsed() >= UNREAD && !cut.is_cancelled() {
                tracing::info!(
                    "a connection that left its responses unread is cut, others wait for the room"
                );
                cut.cancel();
            }
        }
    }
}

/// A place among the holders.
#[derive(Debug)]
struct Held {
    holders: Arc<Mutex<Holders>>,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holders.lock().since.remove(&self.id);
    }
}

/// The bytes of responses of one connection.
#[derive(Clone, Debug)]
pub(super) struct ConnectionShare {
    own: Pool,
    limit: Pool,
}

impl ConnectionShare {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            own: Pool::new(OWN_BYTES),
            limit: Pool::new(bytes),
        }
    }
}

/// What one call's responses may take.
#[derive(Clone, Debug)]
pub(super) struct Responses {
    all: ResponseLimit,
    connection: ConnectionShare,
    cut: CancellationToken,
    /// Shares of messages that were handed on to be encoded and are not encoded yet.
    handed: Arc<Mutex<Vec<Share>>>,
}

impl Responses {
    pub(super) fn new(
        all: &ResponseLimit,
        connection: &ConnectionShare,
        cut: &CancellationToken,
    ) -> Self {
        Self {
            all: all.clone(),
            connection: connection.clone(),
            cut: cut.clone(),
            handed: Arc::default(),
        }
    }

    /// Takes a share when there is room, as long as that takes. Dropping the future gives up the place in the queue.
    pub(super) async fn take(&self, bytes: usize) -> Share {
        if bytes <= OWN_BYTES
            && let Some(own) = self.connection.own.try_take(bytes)
        {
            return Share {
                permits: vec![own],
                _held: None,
            };
        }
        let connection = self.connection.limit.take(bytes).await;
        let mut share = self.all.take(bytes, &self.cut).await;
        share.permits.extend(connection);
        share
    }

    /// Takes a share within the caller's deadline.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is none in time.
    pub(super) async fn take_until(
        &self,
        bytes: usize,
        deadline: Option<std::time::Instant>,
    ) -> Result<Share, Status> {
        let patience = Instant::now() + PATIENCE;
        let deadline = deadline.map_or(patience, |deadline| patience.min(deadline.into()));
        tokio::time::timeout_at(deadline, self.take(bytes)).await.map_err(|_| {
            let message = format!(
                "the response of {bytes} bytes found no room beside those that were not read yet; read what was asked \
                 for, or ask for less"
            );
            Status::resource_exhausted(message)
        })
    }

    /// Ties a share to the message that is encoded next.
    pub(super) fn hand_on(&self, share: Share) {
        self.handed.lock().push(share);
    }
}

/// A share of the limits; given back on drop.
#[derive(Debug)]
pub(super) struct Share {
    permits: Vec<OwnedSemaphorePermit>,
    _held: Option<Held>,
}

impl Share {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        for permit in &mut self.permits {
            let surplus = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(surplus));
        }
    }
}

/// A response's body that ties the shares of its messages to the bytes they were encoded to.
#[derive(Debug)]
pub(super) struct ResponseBody {
    inner: Body,
    responses: Responses,
}

impl ResponseBody {
    pub(super) fn new(inner: Body, responses: Responses) -> Self {
        Self { inner, responses }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let shares = std::mem::take(&mut *self.responses.handed.lock());
        if shares.is_empty() {
            return Poll::Ready(frame);
        }
        // What was polled out of the call's stream so far is all in this frame.
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    Bytes::from_owner(Encoded {
                        bytes,
                        _shares: shares,
                    })
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

/// Encoded messages with their shares.
#[derive(Debug)]
struct Encoded {
    bytes: Bytes,
    _shares: Vec<Share>,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn responses(all: &ResponseLimit) -> Responses {
        Responses::new(
            all,
            &ConnectionShare::new(8 << 20),
            &CancellationToken::new(),
        )
    }

    /// Eight connections that kept what they had asked for unread, and answered pings, had all the room for ever.
    #[tokio::test(start_paused = true)]
    async fn who_leaves_responses_unread_while_others_wait_is_cut_and_nobody_else() {
        let all = ResponseLimit::new(10 << 20);
        let (idle, busy, waiting) = (responses(&all), responses(&all), responses(&all));
        let unread = idle.take(5 << 20).await;
        let cut = idle.cut.clone();
        let gone = tokio::spawn(async move {
            cut.cancelled().await;
            drop(unread);
        });
        tokio::time::advance(UNREAD).await;
        assert!(!idle.cut.is_cancelled(), "nobody waits yet");
        let read = busy.take(5 << 20).await;
        let share = waiting.take_until(5 << 20, None).await;
        drop(share.expect("the room of who does not read"));
        gone.await.expect("no panic");
        assert!(!busy.cut.is_cancelled() && !waiting.cut.is_cancelled());
        drop(read);
        assert_eq!(all.pool.permits.available_permits(), 10 << 20);
        assert!(all.holders.lock().since.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_waits_for_its_connection_and_for_all_and_no_longer_than_the_deadline() {
        let all = ResponseLimit::new(10 << 20);
        let (one, two) = (responses(&all), responses(&all));
        let mut first = one.take(6 << 20).await;
        let refused = one
            .take_until(3 << 20, None)
            .await
            .expect_err("its connection has 8 MiB");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let deadline = std::time::Instant::now() + Duration::from_secs(1);
        let refused = two.take_until(5 << 20, Some(deadline)).await;
        refused.expect_err("all have 10 MiB");
        // The small ones of others go by.
        let small = two.take_until(OWN_BYTES, None).await.expect("its own");
        first.shrink_to(5 << 20);
        drop(two.take_until(5 << 20, None).await.expect("given back"));
        drop((first, small));
        // More than there is counts as all there is.
        drop(two.take_until(50 << 20, None).await.expect("alone"));
        assert_eq!(all.pool.permits.available_permits(), 10 << 20);
    }

    #[tokio::test]
    async fn a_share_is_held_until_the_encoded_bytes_are_gone() {
        use http_body::Body as _;
        let all = ResponseLimit::new(10 << 20);
        let responses = responses(&all);
        let share = responses.take(3 << 20).await;
        responses.hand_on(share);
        let inner = Body::new(http_body_of(b"encoded"));
        let mut body = ResponseBody::new(inner, responses);
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let data = frame.expect("a frame").expect("no error").into_data();
        drop(body);
        let data = data.expect("data");
        assert_eq!(data, &b"encoded"[..]);
        assert_eq!(all.pool.permits.available_permits(), 7 << 20);
        drop(data);
        assert_eq!(all.pool.permits.available_permits(), 10 << 20);
    }

    fn http_body_of(bytes: &'static [u8]) -> impl HttpBody<Data = Bytes, Error = Status> {
        struct Once(Option<Bytes>);
        impl HttpBody for Once {
            type Data = Bytes;
            type Error = Status;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
                Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
            }
        }
        Once(Some(Bytes::from_static(bytes)))
    }
}
