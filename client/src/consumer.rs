//! The group consumer: reads what its group gives it, and says how far it has come.
//!
//! Two tasks speak with the group: one keeps the membership, one commits. Reading, and the moving of partitions, happens
//! while the consumer is polled, step by step, so that a dropped call loses no progress. What they share is
//! [`member::State`].

mod commits;
mod handle;
mod heartbeat;
mod listener;
mod member;
mod partitions;
mod rebalance;
mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use logweir_proto::{ErrorCode, LeaderEpoch, Offset};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_stream::Stream;

use self::listener::Listener;
use self::member::{Phase, Shared, Subscription};
use self::partitions::Position;
use self::step::Step;
use crate::client::Client;
use crate::config::{ConsumerConfig, Delivery};
use crate::error::{Error, Result};
use crate::metrics::ReaderMetrics;
use crate::reader::{ConsumerRecord, FetchedBatch, Reader, StartAt};
use crate::topic_partition::TopicPartition;

pub use self::commits::CommitFuture;
pub use self::handle::ConsumerHandle;
pub use self::listener::{RebalanceFuture, RebalanceListener};

/// A member of a consumer group: reads the partitions that the group gives it, and commits how far it has come.
///
/// Records come by [`Self::next`], [`Self::next_batch`], [`Self::poll`], or as a [`Stream`]. All that a
/// [`ConsumerHandle`] can do, a consumer can: mark, commit, seek, pause. Partitions are taken over and let go of while it
/// is polled; one that is not polled for `max_poll_interval` loses its partitions to the others.
///
/// Dropping it leaves the group without committing; [`Self::close`] commits first.
///
/// ```no_run
/// # async fn example(client: logweir_client::Client) -> logweir_client::Result<()> {
/// let mut consumer = client.consumer("billing")?;
/// consumer.subscribe(["flights"])?;
/// loop {
///     let record = consumer.next().await?;
///     println!("{}-{} {}", record.topic, record.partition, record.offset);
/// }
/// # }
/// ```
pub struct Consumer {
    handle: ConsumerHandle,
    client: Client,
    reader: Reader,
    listener: Listener,
    step: Step,
    /// At most once: what may be handed out because it is committed, up to this offset (exclusive).
    ahead: Option<(TopicPartition, Offset)>,
    /// When to look next whether there is more to commit than what was handed out.
    next_settle: Instant,
    /// Partitions that the broker does not know, and where to go on should it know them again.
    gone: BTreeMap<TopicPartition, StartAt>,
    tasks: Option<[JoinHandle<()>; 2]>,
}

impl Consumer {
    pub(crate) fn open(client: &Client, config: ConsumerConfig) -> Result<Self> {
        config.validate()?;
        let mut reader = Reader::open(client.with_own_connection(), config.reader_config())?;
        reader.tell_failures_once();
        let client = client.with_own_connection();
        let shared = Arc::new(Shared::new(config));
        let heartbeats = heartbeat::run(Arc::clone(&shared), client.clone());
        let commits = commits::run(Arc::clone(&shared), client.clone());
        Ok(Self {
            handle: ConsumerHandle { shared },
            client,
            reader,
            listener: None,
            step: Step::None,
            ahead: None,
            next_settle: Instant::now(),
            gone: BTreeMap::new(),
            tasks: Some([tokio::spawn(heartbeats), tokio::spawn(commits)]),
        })
    }

    /// Reads these topics from now on, and no others. Topics that do not exist yet are read once they do; that they do not
    /// is logged as a warning.
    ///
    /// # Errors
    /// If there are none, or one has no name; if the consumer was put out of its group for good.
    pub fn subscribe(&mut self, topics: impl IntoIterator<Item = impl Into<String>>) -> Result<()> {
        let topics = topics.into_iter().map(Into::into).collect();
        self.handle.shared.subscribe(Subscription::Topics(topics))
    }

    /// Reads all topics from now on whose whole names match a pattern, now or later (RE2's syntax, as Kafka's KIP-848).
    ///
    /// # Errors
    /// If the pattern is empty, or the consumer was put out of its group for good. That a pattern is not valid shows when it is polled.
    pub fn subscribe_pattern(&mut self, pattern: impl Into<String>) -> Result<()> {
        let pattern = Subscription::Pattern(pattern.into());
        self.handle.shared.subscribe(pattern)
    }

    /// Has a listener called when partitions come and go.
    pub fn set_listener(&mut self, listener: impl RebalanceListener) {
        self.listener = Some(Box::new(listener));
    }

    /// For use elsewhere: in handlers and other tasks.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        self.handle.clone()
    }

    /// The next record; waits until there is one. Safe to drop and call again.
    ///
    /// # Errors
    /// Of kind [`Retriable`](crate::ErrorKind::Retriable) if the broker could not be reached for `retry_timeout`: call it again
    /// to go on trying. Others are about one partition, which is not read until it is sought or assigned anew, or about
    /// the membership: then it cannot be a member as it is.
    pub async fn next(&mut self) -> Result<ConsumerRecord> {
        poll_fn(|context| self.poll_record(context)).await
    }

    /// Like [`Self::next`], but up to `max_poll_records` records of one batch at once, which is cheaper.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_batch(&mut self) -> Result<FetchedBatch> {
        let max = self.config().max_poll_records;
        poll_fn(|context| self.poll_chunk(context, max)).await
    }

    /// Up to `max_poll_records` records, of as many partitions as have some now; none if there are none within `timeout`.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<ConsumerRecord>> {
        let first = match Instant::now().checked_add(timeout) {
            Some(until) => match timeout_at(until, self.next_batch()).await {
                Ok(first) => first?,
                Err(_) => return Ok(Vec::new()),
            },
            None => self.next_batch().await?,
        };
        let mut records: Vec<ConsumerRecord> = first.into_iter().collect();
        let max = self.config().max_poll_records;
        // What is committed before it is handed out is handed out one commit at a time.
        while records.len() < max && self.config().delivery == Delivery::AtLeastOnce {
            let left = max - records.len();
            // An error comes back with the next poll.
            match poll_fn(|context| Poll::Ready(self.poll_more(context, left))).await {
                Some(batch) => records.extend(batch),
                None => break,
            }
        }
        Ok(records)
    }

    /// The offset of the next record to be handed out; none while it is not known, or if the partition is not owned.
    #[must_use]
    pub fn position(&self, place: &TopicPartition) -> Option<Offset> {
        let state = self.handle.shared.lock();
        match state.partitions.get(place)?.seek {
            Some(StartAt::Offset(offset)) => Some(offset),
            Some(_) => None,
            None => self.reader.position(place),
        }
    }

    /// How many offsets there are from the position to the end of a partition as the broker told it last; none while it
    /// is not known.
    #[must_use]
    pub fn lag(&self, place: &TopicPartition) -> Option<u64> {
        let end = self.reader.high_watermark(place)?.get();
        let position = self.position(place)?.get();
        Some(u64::try_from(end.saturating_sub(position)).unwrap_or(0))
    }

    /// What was fetched so far.
    #[must_use]
    pub fn reader_metrics(&self) -> ReaderMetrics {
        self.reader.metrics()
    }

    /// Leaves the group: with automatic commits, what was handed out is committed; the listener is told; then the
    /// group is. A static member's partitions are kept for it until its session times out.
    ///
    /// # Errors
    /// If not everything was committed, or the group could not be told, within `close_timeout`.
    pub async fn close(mut self) -> Result<()> {
        let until = Instant::now() + self.config().close_timeout;
        let auto_mark = self.config().auto_mark;
        let is_member = {
            let mut state = self.handle.shared.lock();
            state.partitions.come_back(auto_mark);
            state.wants_membership()
        };
        let let_go = timeout_at(until, self.let_go_of_all()).await;
        let let_go = let_go.unwrap_or_else(|_| {
            Err(Error::timed_out(
                "what was marked was not committed in time",
            ))
        });
        self.end(until);
        for task in self.tasks.take().into_iter().flatten() {
            // A little more than they have, so that they say themselves what took so long.
            let grace = until + Duration::from_secs(1);
            let _ = timeout_at(grace, task).await;
        }
        let farewell = self.handle.shared.lock().farewell.take();
        let left = farewell.unwrap_or_else(|| match is_member {
            true => Err(heartbeat::not_told()),
            false => Ok(()),
        });
        let_go.and(left)
    }

    async fn let_go_of_all(&mut self) -> Result<()> {
        while !matches!(self.step, Step::None) {
            // Whatever it was, it is over.
            let _ = poll_fn(|context| self.poll_step(context)).await;
        }
        self.prepare_to_let_go();
        let (places, is_lost) = {
            let state = self.handle.shared.lock();
            let places: Vec<_> = state
                .partitions
                .iter()
                .map(|(place, _)| place.clone())
                .collect();
            (
                places,
                matches!(state.phase, Phase::Lost(_) | Phase::Failed(_)),
            )
        };
        let (handle, listener) = (self.handle.clone(), self.listener.take());
        if is_lost {
            rebalance::tell(handle, listener, places, RebalanceListener::lost).await;
            return Ok(());
        }
        if places.is_empty() {
            return self.handle.commit().await;
        }
        rebalance::let_go(handle, listener, places).await.1
    }

    /// What can be committed of partitions that are about to go is made known: what is not shown behind the last record; at
    /// most once, what was committed and will not be handed out.
    fn prepare_to_let_go(&mut self) {
        if !self.is_at_most_once() {
            self.settle();
            return;
        }
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        let position = |place: &TopicPartition| self.reader.position(place);
        let entries = state.partitions.take_positions(position);
        if !entries.is_empty() {
            let until = Instant::now() + shared.config.commit_timeout;
            drop(state.queue.push(entries, until, false));
            drop(state);
            shared.commit.notify_one();
        }
    }

    fn end(&self, until: Instant) {
        let shared = &self.handle.shared;
        shared.lock().ending = Some(until);
        shared.commit.notify_one();
        shared.beat.notify_one();
    }

    fn config(&self) -> &ConsumerConfig {
        &self.handle.shared.config
    }

    fn is_at_most_once(&self) -> bool {
        self.config().delivery == Delivery::AtMostOnce
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Result<ConsumerRecord>> {
        loop {
            let batch = ready!(self.poll_chunk(context, 1))?;
            // A chunk has at least one record.
            if let Some(record) = batch.into_iter().next() {
                return Poll::Ready(Ok(record));
            }
        }
    }

    /// The application has come back for more.
    fn poll_chunk(&mut self, context: &mut Context<'_>, max: usize) -> Poll<Result<FetchedBatch>> {
        let auto_mark = self.config().auto_mark;
        {
            let mut state = self.handle.shared.lock();
            // First the waker: what changes from here on wakes.
            state.wake_later(context.waker());
            state.polled |= !self.step.is_in_listener();
            state.partitions.come_back(auto_mark);
        }
        self.handle.shared.commit_if_many();
        loop {
            ready!(self.poll_step(context))?;
            self.carry_out_orders();
            if let Some(batch) = self.take_ahead(max) {
                return Poll::Ready(Ok(batch));
            }
            if self.begin_step()? {
                continue;
            }
            match self.reader.poll_fill(context) {
                Poll::Ready(Some(Ok(()))) if self.is_at_most_once() => self.commit_ahead(),
                Poll::Ready(Some(Ok(()))) => {
                    if let Some(batch) = self.take(max, Offset::MAX) {
                        return Poll::Ready(Ok(batch));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    if !self.drop_if_gone(&error) {
                        return Poll::Ready(Err(error));
                    }
                }
                // Without partitions, or with all of them failed, there is nothing to come from the reader.
                Poll::Ready(None) | Poll::Pending => {
                    self.settle_now_and_then();
                    return Poll::Pending;
                }
            }
        }
    }

    /// More of what has arrived, if it is not time for anything else.
    fn poll_more(&mut self, context: &mut Context<'_>, max: usize) -> Option<FetchedBatch> {
        let state = self.handle.shared.lock();
        if state.unsettled || !matches!(state.phase, Phase::Member) {
            return None;
        }
        drop(state);
        self.carry_out_orders();
        match self.reader.poll_fill(context) {
            Poll::Ready(Some(Ok(()))) => self.take(max, Offset::MAX),
            Poll::Ready(Some(Err(error))) => {
                self.reader.give_back(error);
                None
            }
            _ => None,
        }
    }

    fn take(&mut self, max: usize, below: Offset) -> Option<FetchedBatch> {
        let (chunk, batch) = self.reader.take(max, below)?;
        let count = chunk.count as u64;
        let handed_out = (chunk.first_offset, chunk.last_offset);
        let next = Position {
            offset: chunk.next_offset,
            leader_epoch: chunk.leader_epoch,
        };
        let mut state = self.handle.shared.lock();
        if state.partitions.get(&chunk.place).is_none() {
            drop(state);
            self.reader.unassign(&chunk.place);
            return None;
        }
        state
            .partitions
            .hand_out(&chunk.place, handed_out, next, count);
        self.handle.shared.counters.records.add(count);
        Some(batch)
    }

    /// Tells the reader where to go on, and what to leave.
    fn carry_out_orders(&mut self) {
        let mut state = self.handle.shared.lock();
        if !std::mem::take(&mut state.partitions.has_orders) {
            return;
        }
        for (place, owned) in state.partitions.iter_mut() {
            if let Some(to) = owned.seek.take() {
                if self.reader.seek(place, to).is_err() {
                    self.gone.insert(place.clone(), to);
                }
                self.ahead = self.ahead.take().filter(|(ahead, _)| ahead != place);
            }
            let moved = match self.reader.is_paused(place) {
                Some(paused) if paused != owned.paused => match owned.paused {
                    true => self.reader.pause(place),
                    false => self.reader.resume(place),
                },
                _ => Ok(()),
            };
            debug_assert!(moved.is_ok(), "it is assigned");
        }
    }

    /// Whether an error only says that a topic is gone: the group will take its partitions away, or the broker know it again.
    fn drop_if_gone(&mut self, error: &Error) -> bool {
        let is_gone = matches!(
            error.code(),
            Some(
                ErrorCode::UnknownTopicOrPartition
                    | ErrorCode::UnknownTopicId
                    | ErrorCode::InconsistentTopicId
            )
        );
        match (error.topic(), error.partition()) {
            (Some(topic), Some(partition)) if is_gone => {
                tracing::warn!(%error, "a partition is not read at present");
                let place = TopicPartition::new(topic, partition);
                let at = self.reader.position(&place).map(StartAt::Offset);
                self.reader.unassign(&place);
                self.gone.insert(place, at.unwrap_or(StartAt::Earliest));
                true
            }
            _ => false,
        }
    }

    fn settle_now_and_then(&mut self) {
        let now = Instant::now();
        if now >= self.next_settle {
            self.next_settle = now + self.config().auto_commit_interval;
            self.settle();
            self.look_for_the_gone();
        }
    }

    /// Reads partitions again that were gone and are still to be read.
    fn look_for_the_gone(&mut self) {
        let shared = Arc::clone(&self.handle.shared);
        let state = shared.lock();
        for (place, at) in std::mem::take(&mut self.gone) {
            if let Some(owned) = state.partitions.get(&place) {
                let (epoch, id) = (LeaderEpoch::NONE, owned.topic_id);
                // There is room for it: it was read before.
                let _ = self.reader.assign_known(&place, at, epoch, id);
            }
        }
    }

    /// Marks what is behind the last record and is not shown.
    fn settle(&self) {
        if !self.is_at_most_once() {
            let mut state = self.handle.shared.lock();
            state.partitions.settle(|place| self.reader.position(place));
        }
    }
}

impl Deref for Consumer {
    type Target = ConsumerHandle;

    fn deref(&self) -> &ConsumerHandle {
        &self.handle
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumerRecord>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(context).map(Some)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.tasks.is_some() {
            self.end(Instant::now() + self.config().close_timeout);
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("handle", &self.handle)
            .field("metrics", &self.metrics())
            .finish_non_exhaustive()
    }
}
