//! From a batch's fate to each record's future, without an allocation per record.
//!
//! All records of a batch share one [`BatchDelivery`]; a [`DeliveryFuture`] is a pointer to it and an index.
//! The sending side holds a [`Completion`]: exactly one outcome for each record, also when it is
//! dropped, so that no future waits for ever. A failure whose future was dropped before is kept in the
//! producer's [`Tracker`], which `flush` and `close` read.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use logweir_proto::{Offset, PartitionId, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::record::RecordMetadata;
use crate::error::{Error, Result};
use crate::metrics::ProducerCounters;

/// What the producer knows of all its batches: which are not decided yet, and which failures nobody has seen.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    /// Undecided batches by number. Numbers ascend in the order in which batches were opened, so the
    /// first is the one whose deadline comes first.
    incomplete: Mutex<BTreeMap<u64, Arc<BatchDelivery>>>,
    unseen: Mutex<Unseen>,
    pub(crate) counters: ProducerCounters,
}

#[derive(Debug, Default)]
struct Unseen {
    records: u64,
    first: Option<Error>,
}

impl Tracker {
    /// The batches that are not decided at this moment.
    pub(crate) fn incomplete(&self) -> Vec<Arc<BatchDelivery>> {
        self.incomplete.lock().values().cloned().collect()
    }

    /// Whether every batch is decided.
    pub(crate) fn is_idle(&self) -> bool {
        self.incomplete.lock().is_empty()
    }

    /// The undecided batch whose deadline comes first: the deadline, and the number of its queue.
    pub(crate) fn first_deadline(&self) -> Option<(Instant, usize)> {
        let incomplete = self.incomplete.lock();
        incomplete
            .first_key_value()
            .map(|(_, batch)| (batch.deadline, batch.queue))
    }

    fn note_unseen(&self, records: u64, error: &Error) {
        if records == 0 {
            return;
        }
        self.counters.records_failed_unseen.add(records);
        let mut unseen = self.unseen.lock();
        unseen.records += records;
        unseen.first.get_or_insert_with(|| error.clone());
    }

    /// Reports the failures nobody has seen, and forgets them.
    pub(crate) fn report_unseen(&self) -> Result<()> {
        let unseen = std::mem::take(&mut *self.unseen.lock());
        match unseen.first {
            None => Ok(()),
            Some(first) if unseen.records == 1 => Err(first),
            Some(first) => {
                let action = format!("{} records failed; this is the first", unseen.records);
                Err(first.with_action(action))
            }
        }
    }
}

/// The fate of one batch, shared by its records.
pub(crate) struct BatchDelivery {
    number: u64,
    topic: Arc<str>,
    partition: PartitionId,
    /// The number of the queue that the batch came from.
    queue: usize,
    /// When an undecided batch fails.
    deadline: Instant,
    tracker: Arc<Tracker>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// One outcome for each range of records: one for the whole batch, unless it was split.
    outcomes: Vec<RangeOutcome>,
    /// How many records have an outcome; all of `closed_at` at the end.
    decided: u32,
    /// How many records the batch has, once it takes no more.
    records: u32,
    /// Indexes whose futures were dropped while undecided.
    abandoned: Vec<u32>,
    wakers: Vec<Option<Waker>>,
}

struct RangeOutcome {
    first: u32,
    count: u32,
    result: Result<Appended>,
}

/// Where a range of records was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    /// The offset of the range's first record, if the broker told it.
    pub(crate) base_offset: Option<Offset>,
    /// The broker's time, for topics that use it.
    pub(crate) log_append_time: Option<Timestamp>,
}

impl State {
    fn outcome_of(&self, index: u32) -> Option<&RangeOutcome> {
        self.outcomes
            .iter()
            .find(|range| (range.first..range.first + range.count).contains(&index))
    }

    fn register(&mut self, slot: &mut Option<usize>, waker: &Waker) {
        match *slot {
            Some(at) => match &mut self.wakers[at] {
                Some(known) => known.clone_from(waker),
                empty => *empty = Some(waker.clone()),
            },
            None => {
                *slot = Some(self.wakers.len());
                self.wakers.push(Some(waker.clone()));
            }
        }
    }
}

impl fmt::Debug for BatchDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "batch {} of {}-{}",
            self.number, self.topic, self.partition
        )
    }
}

impl BatchDelivery {
    /// Begins a batch. Its records are added through the returned [`Completion`].
    pub(crate) fn begin(
        tracker: &Arc<Tracker>,
        number: u64,
        topic: &Arc<str>,
        partition: PartitionId,
        queue: usize,
        deadline: Instant,
    ) -> Completion {
        let shared = Arc::new(Self {
            number,
            topic: Arc::clone(topic),
            partition,
            queue,
            deadline,
            tracker: Arc::clone(tracker),
            state: Mutex::default(),
        });
        tracker
            .incomplete
            .lock()
            .insert(number, Arc::clone(&shared));
        Completion {
            shared,
            first: 0,
            count: 0,
            done: false,
        }
    }

    /// Waits until every record of the batch is decided. May be dropped at any time.
    pub(crate) async fn decided(&self) {
        let mut slot = None;
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if state.records > 0 && state.decided == state.records {
                return Poll::Ready(());
            }
            state.register(&mut slot, context.waker());
            Poll::Pending
        })
        .await;
    }
}

/// The duty to decide a range of a batch's records. Dropping it fails them as closed.
pub(crate) struct Completion {
    shared: Arc<BatchDelivery>,
    first: u32,
    count: u32,
    done: bool,
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records from {} of {:?}",
            self.count, self.first, self.shared
        )
    }
}

impl Completion {
    /// Adds a record, and returns its future.
    pub(crate) fn add(&mut self, timestamp: Timestamp) -> DeliveryFuture {
        let index = self.count;
        self.count += 1;
        DeliveryFuture {
            shared: Arc::clone(&self.shared),
            index,
            timestamp,
            slot: None,
            finished: false,
        }
    }

    /// When these records fail if they are not decided.
    pub(crate) fn deadline(&self) -> Instant {
        self.shared.deadline
    }

    /// Divides the duty: the first `at` records, and the rest. Call only when no more records are added.
    pub(crate) fn split(mut self, at: u32) -> (Self, Self) {
        // The whole has to be known before a part is decided.
        self.shared.state.lock().records = self.whole();
        self.done = true;
        let part = |first, count| Self {
            shared: Arc::clone(&self.shared),
            first,
            count,
            done: false,
        };
        (part(self.first, at), part(self.first + at, self.count - at))
    }

    /// How many records the whole batch has.
    fn whole(&self) -> u32 {
        let known = self.shared.state.lock().records;
        if known > 0 { known } else { self.count }
    }

    /// Decides the records.
    pub(crate) fn complete(mut self, result: Result<Appended>) {
        self.decide(result);
    }

    fn decide(&mut self, result: Result<Appended>) {
        if std::mem::replace(&mut self.done, true) || self.count == 0 {
            self.forget_if_empty();
            return;
        }
        let shared = &*self.shared;
        let result =
            result.map_err(|error| error.of_partition(Arc::clone(&shared.topic), shared.partition));
        let range = self.first..self.first + self.count;
        let counters = &shared.tracker.counters;
        match &result {
            Ok(_) => counters.records_delivered.add(u64::from(self.count)),
            Err(_) => counters.records_failed.add(u64::from(self.count)),
        }
        let mut state = shared.state.lock();
        if state.records == 0 {
            state.records = self.count;
        }
        state.decided += self.count;
        let failure = result.as_ref().err().cloned();
        state.outcomes.push(RangeOutcome {
            first: self.first,
            count: self.count,
            result,
        });
        let all_decided = state.decided == state.records;
        let unseen = state
            .abandoned
            .iter()
            .filter(|index| range.contains(index))
            .count();
        let wakers: Vec<Waker> = state.wakers.iter_mut().filter_map(Option::take).collect();
        drop(state);
        if let Some(error) = failure {
            tracing::debug!(%error, records = self.count, "batch failed");
            if unseen > 0 {
                tracing::warn!(%error, records = unseen, "records failed and nobody waits for them");
                shared.tracker.note_unseen(unseen as u64, &error);
            }
        }
        if all_decided {
            shared.tracker.incomplete.lock().remove(&shared.number);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A batch that never got a record has nobody to tell.
    fn forget_if_empty(&self) {
        if self.count == 0 && self.first == 0 {
            self.shared
                .tracker
                .incomplete
                .lock()
                .remove(&self.shared.number);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if !self.done {
            self.decide(Err(Error::closed("producer")));
        }
    }
}

/// The fate of one record: a future of where it was stored, or of why not.
///
/// The record is sent whether this is awaited or not. If it is dropped and the record fails, the failure
/// is logged, counted, and returned by the next [`flush`](crate::Producer::flush) or
/// [`close`](crate::Producer::close).
#[must_use = "a send that fails is only seen by awaiting this, or by flush() and close()"]
pub struct DeliveryFuture {
    shared: Arc<BatchDelivery>,
    index: u32,
    timestamp: Timestamp,
    slot: Option<usize>,
    finished: bool,
}

impl DeliveryFuture {
    /// The topic the record goes to.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.shared.topic
    }

    /// The partition the record goes to.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.shared.partition
    }
}

impl fmt::Debug for DeliveryFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of {:?}", self.index, self.shared)
    }
}

impl Future for DeliveryFuture {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.shared.state.lock();
        let Some(outcome) = state.outcome_of(this.index) else {
            state.register(&mut this.slot, context.waker());
            return Poll::Pending;
        };
        let result = match &outcome.result {
            Ok(appended) => Ok(RecordMetadata {
                topic: Arc::clone(&this.shared.topic),
                partition: this.shared.partition,
                offset: appended
                    .base_offset
                    .map(|base| base.plus(i64::from(this.index - outcome.first))),
                timestamp: appended.log_append_time.unwrap_or(this.timestamp),
            }),
            Err(error) => Err(error.clone()),
        };
        drop(state);
        this.finished = true;
        Poll::Ready(result)
    }
}

impl Drop for DeliveryFuture {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut state = self.shared.state.lock();
        if let Some(slot) = self.slot {
            state.wakers[slot] = None;
        }
        let failure = match state.outcome_of(self.index) {
            Some(outcome) => outcome.result.as_ref().err().cloned(),
            None => {
                state.abandoned.push(self.index);
                None
            }
        };
        drop(state);
        if let Some(error) = failure {
            tracing::warn!(%error, records = 1, "a record failed and nobody waits for it");
            self.shared.tracker.note_unseen(1, &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn begin(tracker: &Arc<Tracker>) -> Completion {
        let deadline = Instant::now();
        BatchDelivery::begin(
            tracker,
            1,
            &Arc::from("t"),
            PartitionId::new(2),
            0,
            deadline,
        )
    }

    const fn at(offset: i64) -> Result<Appended> {
        Ok(Appended {
            base_offset: Some(Offset::new(offset)),
            log_append_time: None,
        })
    }

    #[tokio::test]
    async fn each_record_gets_its_own_offset_and_timestamp() {
        let tracker = Arc::new(Tracker::default());
        let mut batch = begin(&tracker);
        let deliveries: Vec<_> = (0..3).map(|time| batch.add(Timestamp::new(time))).collect();
        assert!(!tracker.is_idle());
        batch.complete(at(40));
        for (index, delivery) in (0..).zip(deliveries) {
            let stored = delivery.await.unwrap();
            assert_eq!(stored.offset, Some(Offset::new(40 + index)));
            assert_eq!(stored.timestamp, Timestamp::new(index));
        }
        assert!(tracker.is_idle());
        tracker.report_unseen().unwrap();
    }

    #[tokio::test]
    async fn the_halves_of_a_split_batch_have_outcomes_of_their_own() {
        let tracker = Arc::new(Tracker::default());
        let mut batch = begin(&tracker);
        let mut deliveries: Vec<_> = (0..5).map(|_| batch.add(Timestamp::new(9))).collect();
        let (head, tail) = batch.split(2);
        let (middle, tail) = tail.split(1);
        tail.complete(at(70));
        assert!(!tracker.is_idle(), "three records are undecided");
        head.complete(at(50));
        middle.complete(Err(Error::new(ErrorKind::Invalid, "no")));
        assert!(tracker.is_idle());
        let last = deliveries.pop().unwrap().await.unwrap();
        assert_eq!(last.offset, Some(Offset::new(71)));
        assert!(deliveries.remove(2).await.is_err());
        assert_eq!(
            deliveries.remove(1).await.unwrap().offset,
            Some(Offset::new(51))
        );
    }

    #[tokio::test]
    async fn a_dropped_completion_fails_its_records_as_closed() {
        let tracker = Arc::new(Tracker::default());
        let mut batch = begin(&tracker);
        let delivery = batch.add(Timestamp::new(0));
        let waiting = tokio::spawn(delivery);
        tokio::task::yield_now().await;
        drop(batch);
        assert_eq!(
            waiting.await.unwrap().unwrap_err().kind(),
            ErrorKind::Closed
        );
        assert!(tracker.is_idle());
    }

    #[tokio::test]
    async fn a_failure_is_reported_once_whenever_its_future_was_dropped() {
        let tracker = Arc::new(Tracker::default());
        let mut batch = begin(&tracker);
        let (early, late, seen) = (
            batch.add(Timestamp::new(0)),
            batch.add(Timestamp::new(0)),
            batch.add(Timestamp::new(0)),
        );
        drop(early);
        batch.complete(Err(Error::new(ErrorKind::TimedOut, "too late")));
        drop(late);
        assert!(seen.await.is_err());
        let report = tracker.report_unseen().unwrap_err();
        assert!(report.to_string().contains("2 records failed"), "{report}");
        assert_eq!(tracker.counters.records_failed_unseen.get(), 2);
        assert_eq!(tracker.counters.records_failed.get(), 3);
        tracker.report_unseen().unwrap();
    }

    #[test]
    fn a_batch_without_records_leaves_nothing_behind() {
        let tracker = Arc::new(Tracker::default());
        drop(begin(&tracker));
        assert!(tracker.is_idle());
    }

    #[tokio::test]
    async fn waiting_for_a_batch_ends_when_its_last_part_is_decided() {
        let tracker = Arc::new(Tracker::default());
        let mut batch = begin(&tracker);
        let deliveries = [batch.add(Timestamp::new(0)), batch.add(Timestamp::new(0))];
        let shared = tracker.incomplete().pop().unwrap();
        let waiting = tokio::spawn(async move { shared.decided().await });
        let (head, tail) = batch.split(1);
        head.complete(at(1));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        tail.complete(at(2));
        waiting.await.unwrap();
        drop(deliveries);
    }
}
