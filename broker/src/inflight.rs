//! The bytes of requests that may be in the broker, per connection and over all listeners.
//!
//! They are charged frame by frame, before a frame is handed on. What passes a connection's own limit ends the call
//! that sent it. What passes the total waits, in the order it came, until something is given back; meanwhile that
//! connection is not read from. If all that is held belongs to messages that are not complete, nothing would ever
//! be given back: so one of those that wait is favoured, and may be read to its end whatever the total.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::Limits;
use crate::metrics::Metrics;

/// How long one frame waits for others to give bytes back. As long as a message may take to arrive: then those that
/// hold the budget without using it are gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Frames that wait at a time.
const MAX_WAITING: usize = 1_024;

/// There is no room for a request, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Exhausted(String);

/// What the requests of one connection take.
#[derive(Debug, Default)]
pub(crate) struct ConnectionInflight {
    bytes: AtomicUsize,
    /// Closed while a request of this connection waits for the budget.
    pub(crate) gate: Gate,
}

/// Whether a connection is read from.
///
/// While the broker takes no more requests, what a peer sends stays in the kernel and with the peer; HTTP/2's own
/// window would let megabytes of each connection in. A peer's other calls wait too, as in Kafka.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Bodies that wait for the budget.
    waiting: AtomicUsize,
    /// Bodies that may be read whatever the budget.
    favoured: AtomicUsize,
    reader: Mutex<Option<Waker>>,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn open(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn favour(&self) {
        self.favoured.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn unfavour(&self) {
        self.favoured.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_open(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 || self.favoured.load(Ordering::SeqCst) > 0
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.lock().take() {
            reader.wake();
        }
    }

    pub(crate) fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_open() {
            return Poll::Ready(());
        }
        *self.reader.lock() = Some(cx.waker().clone());
        // It may have been opened before the waker was there.
        if self.is_open() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// The bytes that all connections may have in the broker.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u64,
    per_connection: usize,
    metrics: Arc<Metrics>,
    queue: Mutex<Queue>,
    /// The queue's length, so that giving back takes no lock where nobody waits.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// Who may pass the total.
    favoured: Option<u64>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    /// Whether its message has begun, so that it holds what others wait for.
    begun: bool,
    waker: Waker,
}

impl Budget {
    pub(crate) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            total: limits.max_inflight_bytes as u64,
            per_connection: limits.max_inflight_bytes_per_connection,
            metrics,
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Bytes that one connection may have in the broker.
    pub(crate) fn per_connection(&self) -> usize {
        self.per_connection
    }

    fn used(&self) -> &AtomicU64 {
        &self.metrics.inflight_bytes
    }

    fn has_room(&self) -> bool {
        self.used().load(Ordering::SeqCst) < self.total
    }

    /// Takes the bytes if the total is not reached; the last frame may pass it.
    fn take(&self, bytes: usize) -> bool {
        let take = |used| (used < self.total).then_some(used + bytes as u64);
        self.used()
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used().fetch_sub(bytes as u64, Ordering::SeqCst);
        // Whoever queues raises this before it looks at what is used: one of the two sees the other.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.hand_on(&mut self.queue.lock());
        }
    }

    /// Wakes whoever may go on now.
    fn hand_on(&self, queue: &mut Queue) {
        if self.has_room() {
            if let Some(first) = queue.waiters.front() {
                first.waker.wake_by_ref();
            }
        } else if queue.favoured.is_none()
            && let Some(begun) = queue.waiters.iter().find(|waiter| waiter.begun)
        {
            queue.favoured = Some(begun.id);
            begun.waker.wake_by_ref();
        }
    }

    fn leave(&self, queue: &mut Queue, id: u64) {
        queue.waiters.retain(|waiter| waiter.id != id);
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
    }
}

/// What one call has been charged; given back when the last clone is dropped, or as messages are settled.
#[derive(Clone, Debug)]
pub(crate) struct Charge(Arc<Charged>);

#[derive(Debug)]
struct Charged {
    budget: Arc<Budget>,
    connection: Arc<ConnectionInflight>,
    bytes: AtomicUsize,
    /// What each message was charged that is complete and not settled, in order.
    messages: Mutex<VecDeque<usize>>,
}

impl Charge {
    pub(crate) fn new(budget: Arc<Budget>, connection: Arc<ConnectionInflight>) -> Self {
        Self(Arc::new(Charged {
            budget,
            connection,
            bytes: AtomicUsize::new(0),
            messages: Mutex::default(),
        }))
    }

    /// Notes messages that are complete, with what they were charged.
    pub(crate) fn complete(&self, messages: impl Iterator<Item = usize>) {
        self.0.messages.lock().extend(messages);
    }

    /// Gives back what the next complete message was charged, except for at most `keep` bytes.
    pub(crate) fn settle(&self, keep: usize) -> Kept {
        let charged = self.0.messages.lock().pop_front().unwrap_or(0);
        let kept = keep.min(charged);
        self.0.give_back(charged - kept);
        Kept {
            charge: self.clone(),
            bytes: kept,
        }
    }

    /// Counts bytes that have come against the connection's limit.
    ///
    /// # Errors
    /// If they would pass it; then they are not counted.
    pub(crate) fn count(&self, bytes: usize) -> Result<(), Exhausted> {
        let (charged, limit) = (&self.0, self.0.budget.per_connection);
        let now = charged.connection.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if now <= limit {
            return Ok(());
        }
        charged.connection.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(Exhausted(format!(
            "this connection has requests in the broker that take {now} bytes decoded, the limit is {limit}; \
             send less at a time"
        )))
    }

    /// What other calls of the same connection have counted; `counted` is what this one has beside what it was charged.
    pub(crate) fn others(&self, counted: usize) -> usize {
        let all = self.0.connection.bytes.load(Ordering::Relaxed);
        let own = self.0.bytes.load(Ordering::Relaxed) + counted;
        all.saturating_sub(own)
    }

    /// Takes back [`Charge::count`] for a frame that will not be charged.
    pub(crate) fn uncount(&self, bytes: usize) {
        self.0.connection.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Charged {
    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.connection.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.budget.give_back(bytes);
        }
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.give_back(self.bytes.load(Ordering::Relaxed));
    }
}

/// What is kept of a settled message's charge; given back on drop.
#[derive(Debug)]
pub(crate) struct Kept {
    charge: Charge,
    bytes: usize,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.charge.0.give_back(self.bytes);
    }
}

/// A frame that was counted against its connection and is to be charged to the total.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: usize,
    /// Whether it goes on with a message.
    pub(crate) begun: bool,
    /// Whether a message ends in it.
    pub(crate) ends: bool,
}

/// How one body stands with the budget.
#[derive(Debug)]
pub(crate) struct Account {
    charge: Charge,
    place: Option<Place>,
    favour: Option<Favour>,
}

impl Account {
    pub(crate) fn new(charge: Charge) -> Self {
        Self {
            charge,
            place: None,
            favour: None,
        }
    }

    /// Charges the frame when there is room; gives how long it waited.
    pub(crate) fn poll_charge(
        &mut self,
        frame: &Frame,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Duration, Exhausted>> {
        let budget = &self.charge.0.budget;
        let mut waited = Duration::ZERO;
        if self.favour.is_some() {
            budget
                .used()
                .fetch_add(frame.bytes as u64, Ordering::SeqCst);
        } else if self.place.is_some()
            || budget.waiting.load(Ordering::SeqCst) > 0
            || !budget.take(frame.bytes)
        {
            let mut place = match self.place.take() {
                Some(place) => place,
                None => Place::queue(&self.charge.0, frame.begun, cx.waker())?,
            };
            match place.poll(frame.bytes, cx) {
                Poll::Pending => {
                    self.place = Some(place);
                    return Poll::Pending;
                }
                Poll::Ready(granted) => self.favour = granted?,
            }
            waited = place.since.elapsed();
        }
        self.charge
            .0
            .bytes
            .fetch_add(frame.bytes, Ordering::Relaxed);
        if frame.ends {
            self.favour = None;
        }
        Poll::Ready(Ok(waited))
    }
}

/// A place in the queue; given up on drop.
#[derive(Debug)]
struct Place {
    charged: Arc<Charged>,
    id: u64,
    since: Instant,
    patience: Pin<Box<Sleep>>,
}

impl Place {
    fn queue(charged: &Arc<Charged>, begun: bool, waker: &Waker) -> Result<Self, Exhausted> {
        let budget = &charged.budget;
        let mut queue = budget.queue.lock();
        if queue.waiters.len() >= MAX_WAITING {
            return Err(exhausted(budget.total, "and too many wait already"));
        }
        let id = queue.next_id;
        queue.next_id += 1;
        queue.waiters.push_back(Waiter {
            id,
            begun,
            waker: waker.clone(),
        });
        budget.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        budget.hand_on(&mut queue);
        charged.connection.gate.close();
        let since = Instant::now();
        Ok(Self {
            charged: Arc::clone(charged),
            id,
            since,
            patience: Box::pin(sleep_until(since + PATIENCE)),
        })
    }

    /// Ready when the bytes were taken; with the favour if that is why.
    fn poll(
        &mut self,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Favour>, Exhausted>> {
        let budget = &self.charged.budget;
        let mut queue = budget.queue.lock();
        if queue.favoured == Some(self.id) {
            budget.used().fetch_add(bytes as u64, Ordering::SeqCst);
            budget.leave(&mut queue, self.id);
            self.charged.connection.gate.favour();
            return Poll::Ready(Ok(Some(Favour {
                charged: Arc::clone(&self.charged),
                id: self.id,
            })));
        }
        let first = queue.waiters.front().map(|waiter| waiter.id);
        if first == Some(self.id) && budget.take(bytes) {
            budget.leave(&mut queue, self.id);
            budget.hand_on(&mut queue);
            return Poll::Ready(Ok(None));
        }
        let own = queue.waiters.iter_mut().find(|waiter| waiter.id == self.id);
        if let Some(own) = own {
            own.waker.clone_from(cx.waker());
        }
        drop(queue);
        std::task::ready!(self.patience.as_mut().poll(cx));
        let secs = PATIENCE.as_secs();
        let why = format!("and for {secs} s nothing was given back");
        Poll::Ready(Err(exhausted(self.charged.budget.total, &why)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let budget = &self.charged.budget;
        let mut queue = budget.queue.lock();
        if queue.waiters.iter().any(|waiter| waiter.id == self.id) {
            budget.leave(&mut queue, self.id);
            if queue.favoured == Some(self.id) {
                queue.favoured = None;
            }
            budget.hand_on(&mut queue);
        }
        self.charged.connection.gate.open();
    }
}

/// The right to pass the total until the message ends; handed on on drop.
#[derive(Debug)]
struct Favour {
    charged: Arc<Charged>,
    id: u64,
}

impl Drop for Favour {
    fn drop(&mut self) {
        let budget = &self.charged.budget;
        let mut queue = budget.queue.lock();
        if queue.favoured == Some(self.id) {
            queue.favoured = None;
            budget.hand_on(&mut queue);
        }
        self.charged.connection.gate.unfavour();
    }
}

fn exhausted(total: u64, why: &str) -> Exhausted {
    Exhausted(format!(
        "all connections together have {total} bytes of unanswered requests in the broker, which is the limit, {why}; \
         try again"
    ))
}

#[cfg(test)]
mod tests;
