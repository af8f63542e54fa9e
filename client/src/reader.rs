//! Reading records from chosen partitions, without a group.
//!
//! A [`Reader`] runs no task and has no queue of its own: it works while it is polled. What it reads ahead is
//! one response, and what the connection's flow-control window holds; a reader that is not polled
//! holds the broker back. `link` looks offsets up and keeps the stream; `assignment` is one partition.

mod assignment;
mod link;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
use tokio_stream::Stream;

use self::assignment::{Assignment, Decoded, End, Position};
use self::link::{Link, LinkEvent};
use crate::client::Client;
use crate::config::ReaderConfig;
use crate::error::{Error, Result};
use crate::metrics::{ReaderCounters, ReaderMetrics};
use crate::topic_partition::TopicPartition;

pub use record::{ConsumerRecord, FetchedBatch};

/// The most partitions of one reader, as the contract says.
pub(crate) const MAX_PARTITIONS: usize = 10_000;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartAt {
    /// At the first record there is.
    Earliest,
    /// At the end: only records that come later.
    Latest,
    /// At this offset, or the first record above it.
    Offset(Offset),
    /// At the first record whose timestamp is at or above this time; at the end if there is none.
    Timestamp(Timestamp),
}

/// Reads records from partitions it is given.
///
/// Records of one partition come in the order of their offsets, each once; a lost connection is made anew by
/// itself and goes on at the next offset. Between partitions there is no order.
///
/// All `next` calls may be dropped at any time: what was not returned comes with the next call.
///
/// ```no_run
/// # async fn example(client: logweir_client::Client) -> logweir_client::Result<()> {
/// use logweir_client::{PartitionId, StartAt};
///
/// let mut reader = client.reader()?;
/// reader.assign("flights", PartitionId::new(0), StartAt::Earliest)?;
/// while let Some(batch) = reader.next_batch().await? {
///     let lag = batch.high_watermark.since(batch.next_offset);
///     println!("{} records, {lag} behind", batch.records.len());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    client: Client,
    config: ReaderConfig,
    partitions: BTreeMap<TopicPartition, Assignment>,
    /// Partitions in the order in which something arrived for them; may name one more than once.
    arrivals: VecDeque<TopicPartition>,
    /// The rest of the batch that `next` hands out record by record.
    current: Option<Current>,
    /// Errors to hand out once what arrived before them was.
    errors: VecDeque<Error>,
    link: Link,
    stop_at_end: bool,
    /// Whether to say again, when nothing else is left to read, why a partition is not read.
    repeat_failures: bool,
    counters: ReaderCounters,
}

/// A batch that is being handed out record by record.
struct Current {
    place: TopicPartition,
    batch: FetchedBatch,
    records: std::vec::IntoIter<logweir_proto::record::Record>,
}

impl From<FetchedBatch> for Current {
    fn from(mut batch: FetchedBatch) -> Self {
        let records = std::mem::take(&mut batch.records).into_iter();
        Self {
            place: TopicPartition::new(Arc::clone(&batch.topic), batch.partition),
            batch,
            records,
        }
    }
}

/// Records that can be handed out.
pub(crate) struct Chunk {
    pub(crate) place: TopicPartition,
    pub(crate) first_offset: Offset,
    pub(crate) last_offset: Offset,
    /// Where reading goes on after them.
    pub(crate) next_offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) count: usize,
}

impl Reader {
    pub(crate) fn open(client: Client, config: ReaderConfig) -> Result<Self> {
        config.validate()?;
        let link = Link::new(&client);
        Ok(Self {
            client,
            config,
            partitions: BTreeMap::new(),
            arrivals: VecDeque::new(),
            current: None,
            errors: VecDeque::new(),
            link,
            stop_at_end: false,
            repeat_failures: true,
            counters: ReaderCounters::default(),
        })
    }

    /// Reads a partition from `start` on; one that is read already goes on there.
    ///
    /// Whether the partition exists shows when reading begins.
    ///
    /// # Errors
    /// If the reader would have more than 10,000 partitions.
    pub fn assign(
        &mut self,
        topic: impl Into<Arc<str>>,
        partition: PartitionId,
        start: StartAt,
    ) -> Result<()> {
        let place = TopicPartition::new(topic, partition);
        if self.partitions.len() >= MAX_PARTITIONS && !self.partitions.contains_key(&place) {
            return Err(Error::invalid(format!(
                "a reader has at most {MAX_PARTITIONS} partitions"
            )));
        }
        let end = if self.stop_at_end {
            End::Unknown
        } else {
            End::Never
        };
        self.drop_current_of(&place);
        self.partitions.insert(place, Assignment::new(start, end));
        self.link.renew();
        Ok(())
    }

    /// Reads all partitions that a topic has now, from `start` on. Partitions added later are not read.
    ///
    /// # Errors
    /// If there is no such topic, or the broker cannot be reached.
    pub async fn assign_topic(&mut self, topic: impl Into<Arc<str>>, start: StartAt) -> Result<()> {
        let topic = topic.into();
        let metadata = self
            .client
            .metadata()
            .refresh(&self.client, &topic, false)
            .await?;
        for number in 0..metadata.partition_count() {
            self.assign(Arc::clone(&topic), PartitionId::new(number), start)?;
        }
        Ok(())
    }

    /// Reads a partition no longer. What arrived for it is dropped.
    pub fn unassign(&mut self, place: &TopicPartition) {
        if self.partitions.remove(place).is_some() {
            self.drop_current_of(place);
            self.forget_errors_of(place);
            self.link.renew();
        }
    }

    /// Goes on at another place. What arrived for the partition is dropped, and a failure of it forgotten.
    ///
    /// # Errors
    /// If the partition is not assigned.
    pub fn seek(&mut self, place: &TopicPartition, to: StartAt) -> Result<()> {
        self.assigned(place)?.seek(to);
        self.drop_current_of(place);
        self.forget_errors_of(place);
        self.link.renew();
        Ok(())
    }

    /// Hands out nothing more of a partition until [`Self::resume`].
    ///
    /// # Errors
    /// If the partition is not assigned.
    pub fn pause(&mut self, place: &TopicPartition) -> Result<()> {
        let from_current = self.current_position_of(place);
        let assignment = self.assigned(place)?;
        assignment.paused = true;
        if let Some(offset) = from_current {
            assignment.found(offset);
        }
        assignment.rewind();
        self.drop_current_of(place);
        self.link.renew();
        Ok(())
    }

    /// Goes on with a paused partition where it was.
    ///
    /// # Errors
    /// If the partition is not assigned.
    pub fn resume(&mut self, place: &TopicPartition) -> Result<()> {
        self.assigned(place)?.paused = false;
        self.link.renew();
        Ok(())
    }

    /// Stops each partition at the end it has when reading begins: `next` then returns `None`. Holds for
    /// partitions assigned before and after.
    pub fn stop_at_end(&mut self) {
        self.stop_at_end = true;
        for assignment in self.partitions.values_mut() {
            if assignment.end == End::Never {
                assignment.end = End::Unknown;
            }
        }
        self.link.renew();
    }

    /// Stops a partition below `end` (exclusive).
    ///
    /// # Errors
    /// If the partition is not assigned.
    pub fn stop_at(&mut self, place: &TopicPartition, end: Offset) -> Result<()> {
        self.assigned(place)?.end = End::At(end);
        self.link.renew();
        Ok(())
    }

    /// The partitions.
    pub fn assignment(&self) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.keys()
    }

    /// The offset of the next record to be handed out; none while it is not known, or if the partition is not assigned.
    #[must_use]
    pub fn position(&self, place: &TopicPartition) -> Option<Offset> {
        if let Some(offset) = self.current_position_of(place) {
            return Some(offset);
        }
        match self.partitions.get(place)?.position {
            Position::At(offset) => Some(offset),
            Position::Unknown(_) => None,
        }
    }

    /// Where a partition stops (exclusive); none if nowhere, or while it is not known.
    #[must_use]
    pub fn end_offset(&self, place: &TopicPartition) -> Option<Offset> {
        match self.partitions.get(place)?.end {
            End::At(offset) => Some(offset),
            End::Never | End::Unknown => None,
        }
    }

    /// The partition's high watermark as the broker told it last.
    #[must_use]
    pub fn high_watermark(&self, place: &TopicPartition) -> Option<Offset> {
        self.partitions.get(place)?.high_watermark
    }

    /// What this reader has done so far.
    #[must_use]
    pub fn metrics(&self) -> ReaderMetrics {
        self.counters.snapshot()
    }

    /// The next record; `None` once every partition has reached its end, or if there are no partitions.
    ///
    /// Waits for records to come if there are none. Waits for ever while all partitions are paused.
    ///
    /// # Errors
    /// Of kind [`Retriable`](crate::ErrorKind::Retriable) if the broker could not be reached for `retry_timeout`: call it
    /// again to go on trying. Any other is about one partition, which is not read any more until
    /// [`Self::seek`] or [`Self::assign`]; the others go on with the next call.
    pub async fn next(&mut self) -> Result<Option<ConsumerRecord>> {
        poll_fn(|context| self.poll_record(context))
            .await
            .transpose()
    }

    /// Like [`Self::next`], but all records of one batch at once, which is cheaper.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_batch(&mut self) -> Result<Option<FetchedBatch>> {
        poll_fn(|context| self.poll_batch(context))
            .await
            .transpose()
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<ConsumerRecord>>> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(record) = current.records.next() {
                    let topic = Arc::clone(&current.place.topic);
                    let partition = current.place.partition;
                    let epoch = current.batch.leader_epoch;
                    let record = ConsumerRecord::new(topic, partition, epoch, record);
                    return Poll::Ready(Some(Ok(record)));
                }
                self.current = None;
            }
            match std::task::ready!(self.poll_batch(context)) {
                Some(Ok(batch)) => self.current = Some(batch.into()),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Waits until there are records to [`Self::take`]; `None` once there will be no more.
    pub(crate) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<()>>> {
        if self.peek(1, Offset::MAX).is_some() {
            return Poll::Ready(Some(Ok(())));
        }
        self.current = None;
        let filled = std::task::ready!(self.poll_batch(context));
        Poll::Ready(filled.map(|filled| filled.map(|batch| self.current = Some(batch.into()))))
    }

    /// What [`Self::take`] would hand out.
    pub(crate) fn peek(&self, max: usize, below: Offset) -> Option<Chunk> {
        let current = self.current.as_ref()?;
        let records = current.records.as_slice();
        let count = records[..records.len().min(max)].partition_point(|r| r.offset < below);
        let next_offset = match records.get(count) {
            Some(next) => next.offset,
            None => current.batch.next_offset,
        };
        Some(Chunk {
            place: current.place.clone(),
            first_offset: records.first()?.offset,
            last_offset: records[..count].last()?.offset,
            next_offset,
            leader_epoch: current.batch.leader_epoch,
            count,
        })
    }

    /// The first records of the batch that is being handed out: up to `max`, and only those below an offset.
    pub(crate) fn take(&mut self, max: usize, below: Offset) -> Option<(Chunk, FetchedBatch)> {
        let chunk = self.peek(max, below)?;
        let current = self.current.as_mut()?;
        let records = current.records.by_ref().take(chunk.count).collect();
        let taken = FetchedBatch {
            records,
            next_offset: chunk.next_offset,
            ..current.batch.clone()
        };
        if current.records.as_slice().is_empty() {
            self.current = None;
        }
        Some((chunk, taken))
    }

    /// Like [`Self::assign`], with what is known of the partition: the topic's id, and the leader epoch of the record
    /// before the start.
    ///
    /// # Errors
    /// As [`Self::assign`].
    pub(crate) fn assign_known(
        &mut self,
        place: &TopicPartition,
        start: StartAt,
        leader_epoch: LeaderEpoch,
        topic_id: TopicId,
    ) -> Result<()> {
        self.assign(Arc::clone(&place.topic), place.partition, start)?;
        let assignment = self.assigned(place)?;
        assignment.read_epoch = leader_epoch;
        assignment.topic_id = Some(topic_id).filter(|id| *id != TopicId::ZERO);
        Ok(())
    }

    /// Does not read a partition until it is sought, and says why.
    pub(crate) fn refuse(&mut self, place: &TopicPartition, why: Error) {
        if let Some(assignment) = self.partitions.get_mut(place) {
            assignment.failure = Some(why.clone());
            self.errors.push_back(why);
            self.link.renew();
        }
    }

    /// Does not tell again why a partition is not read, once that was told.
    pub(crate) fn tell_failures_once(&mut self) {
        self.repeat_failures = false;
    }

    /// Hands an error out with the next poll.
    pub(crate) fn give_back(&mut self, error: Error) {
        self.errors.push_back(error);
    }

    /// Whether a partition is paused; none if it is not assigned.
    pub(crate) fn is_paused(&self, place: &TopicPartition) -> Option<bool> {
        let assignment = self.partitions.get(place)?;
        Some(assignment.paused)
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<FetchedBatch>>> {
        if let Some(mut current) = self.current.take() {
            current.batch.records = current.records.collect();
            if !current.batch.records.is_empty() {
                return Poll::Ready(Some(Ok(current.batch)));
            }
        }
        loop {
            if let Some(result) = self.decode() {
                return Poll::Ready(Some(result));
            }
            if let Some(error) = self.errors.pop_front() {
                return Poll::Ready(Some(Err(error)));
            }
            let reading = link::Reading {
                client: &self.client,
                config: &self.config,
                partitions: &mut self.partitions,
                repeat_failures: self.repeat_failures,
                counters: &self.counters,
            };
            match std::task::ready!(self.link.poll(reading, context)) {
                LinkEvent::Finished => return Poll::Ready(None),
                LinkEvent::Arrived(places) => self.arrivals.extend(places),
                LinkEvent::Failed(error) => self.errors.push_back(error),
            }
        }
    }

    /// Unpacks the next batch of what has arrived.
    fn decode(&mut self) -> Option<Result<FetchedBatch>> {
        while let Some(place) = self.arrivals.front() {
            // A partition may have been taken away since.
            let Some(assignment) = self.partitions.get_mut(place) else {
                self.arrivals.pop_front();
                continue;
            };
            match assignment.next_batch(place, &self.config) {
                Decoded::Batch(batch) => {
                    self.counters.batches.add(1);
                    self.counters.records.add_usize(batch.records.len());
                    self.counters.bytes.add_usize(batch.size_bytes);
                    return Some(Ok(batch));
                }
                Decoded::Nothing => {
                    self.arrivals.pop_front();
                }
                Decoded::Refetch => self.link.renew(),
                Decoded::Failed(error) => {
                    self.link.renew();
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn assigned(&mut self, place: &TopicPartition) -> Result<&mut Assignment> {
        self.partitions.get_mut(place).ok_or_else(|| {
            Error::invalid("the partition is not assigned to this reader")
                .of_partition(Arc::clone(&place.topic), place.partition)
        })
    }

    /// The offset of the next record of the batch being handed out, if it is of this partition.
    fn current_position_of(&self, place: &TopicPartition) -> Option<Offset> {
        let current = self
            .current
            .as_ref()
            .filter(|current| current.place == *place)?;
        Some(current.records.as_slice().first()?.offset)
    }

    /// Errors of a partition that wait to be told have no meaning any more.
    fn forget_errors_of(&mut self, place: &TopicPartition) {
        let is_of = |error: &Error| {
            error.topic() == Some(&*place.topic) && error.partition() == Some(place.partition)
        };
        self.errors.retain(|error| !is_of(error));
        self.link.failures.retain(|error| !is_of(error));
    }

    fn drop_current_of(&mut self, place: &TopicPartition) {
        self.current = self
            .current
            .take()
            .filter(|current| current.place != *place);
    }
}

impl Stream for Reader {
    type Item = Result<ConsumerRecord>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(context)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("client", &self.client)
            .field("partitions", &self.partitions.keys())
            .field("metrics", &self.metrics())
            .finish_non_exhaustive()
    }
}
