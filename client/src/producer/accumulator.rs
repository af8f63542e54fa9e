//! Where records wait: one queue of batches per partition, under one budget of memory.
//!
//! Senders append here, the producer's task takes from here. Lock order: a queue's lock, then the
//! inbox or the tracker; never two queues. No lock is held across an await. The budget is counted in
//! permits of a semaphore, one per byte: a record's bytes are taken before it is appended and given
//! back when its batch is decided and its request gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use logweir_proto::record::BatchBuilder;
use logweir_proto::{PartitionId, Timestamp};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::delivery::{BatchDelivery, Completion, DeliveryFuture, Tracker};
use super::partitioner::Sticky;
use super::record::ProducerRecord;
use crate::config::ProducerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::TopicMetadata;

/// Bytes of the budget, given back when dropped.
pub(crate) struct Reserved {
    memory: Arc<Semaphore>,
    bytes: usize,
}

impl Reserved {
    fn none(memory: &Arc<Semaphore>) -> Self {
        Self {
            memory: Arc::clone(memory),
            bytes: 0,
        }
    }

    fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Divides the bytes between two holders.
    pub(crate) fn split(mut self) -> (Self, Self) {
        let second = Self {
            memory: Arc::clone(&self.memory),
            bytes: self.bytes / 2,
        };
        self.bytes -= second.bytes;
        (self, second)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.add_permits(self.bytes);
        }
    }
}

/// A batch that may still take records.
pub(crate) struct OpenBatch {
    pub(crate) builder: BatchBuilder,
    pub(crate) completion: Completion,
    pub(crate) opened_at: Instant,
    pub(crate) reserved: Reserved,
}

/// How loudly the producer's task was told of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listed {
    /// It does not know of anything here.
    #[default]
    No,
    /// It knows of a batch that may wait for more records.
    Open,
    /// It knows of a batch that is full.
    Full,
}

#[derive(Default)]
pub(crate) struct QueueState {
    /// Takes records; the last of the queue.
    pub(crate) open: Option<OpenBatch>,
    /// Full ones, oldest first.
    pub(crate) full: VecDeque<OpenBatch>,
    pub(crate) listed: Listed,
}

/// The batches of one partition that were not sent yet.
pub(crate) struct PartitionQueue {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: PartitionId,
    /// The queue's number in this producer.
    pub(crate) index: usize,
    pub(crate) state: Mutex<QueueState>,
}

/// A topic's queues, as many as it has partitions.
pub(crate) struct TopicQueues {
    pub(crate) name: Arc<str>,
    pub(crate) view: RwLock<Arc<TopicView>>,
    pub(crate) sticky: Sticky,
    /// Whether a record was sent to it since it was looked for topics to describe anew.
    pub(crate) used: AtomicBool,
}

/// What senders need to know of a topic.
pub(crate) struct TopicView {
    pub(crate) described_at: Instant,
    /// By partition number. A queue is never replaced: its sequence numbers must go on.
    queues: Vec<Arc<PartitionQueue>>,
    /// How many partitions the topic has now; a topic made anew may have fewer than there are queues.
    pub(crate) partitions: usize,
    /// The partitions that have a leader; all, if none has.
    pub(crate) available: Vec<usize>,
}

impl TopicView {
    /// The queue of a partition that the topic has now.
    pub(crate) fn queue(&self, partition: usize) -> Option<&Arc<PartitionQueue>> {
        self.queues
            .get(partition)
            .filter(|_| partition < self.partitions)
    }
}

/// All waiting records of one producer.
pub(crate) struct Accumulator {
    pub(crate) config: ProducerConfig,
    pub(crate) tracker: Arc<Tracker>,
    /// Tells the producer's task that something changed.
    pub(crate) wake: Notify,
    memory: Arc<Semaphore>,
    topics: RwLock<HashMap<Arc<str>, Arc<TopicQueues>>>,
    queue_count: AtomicUsize,
    batch_count: AtomicU64,
    /// Queues with news for the producer's task; each is listed at most twice, so it is bounded by their number.
    inbox: Mutex<Vec<Arc<PartitionQueue>>>,
    /// How many callers want everything sent now: flushing, or waiting for memory.
    urgent: AtomicUsize,
    refusing: AtomicBool,
    /// Why records are refused, once `refusing` is set.
    refusal: Mutex<Option<Error>>,
}

impl Accumulator {
    pub(crate) fn new(config: ProducerConfig) -> Self {
        Self {
            memory: Arc::new(Semaphore::new(config.buffer_memory)),
            config,
            tracker: Arc::default(),
            wake: Notify::new(),
            topics: RwLock::default(),
            queue_count: AtomicUsize::new(0),
            batch_count: AtomicU64::new(0),
            inbox: Mutex::default(),
            urgent: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            refusal: Mutex::default(),
        }
    }

    /// Bytes of the budget in use.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.config
            .buffer_memory
            .saturating_sub(self.memory.available_permits())
    }

    /// Refuses records from now on; the first reason given stands.
    pub(crate) fn refuse(&self, error: Error) {
        self.refusal.lock().get_or_insert(error);
        self.refusing.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Why records are refused, if they are.
    pub(crate) fn refusal(&self) -> Option<Error> {
        if !self.refusing.load(Ordering::Acquire) {
            return None;
        }
        self.refusal.lock().clone()
    }

    /// Asks for everything to be sent at once, until the result is dropped.
    pub(crate) fn hurry(&self) -> Hurry<'_> {
        self.urgent.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
        Hurry { accumulator: self }
    }

    /// Whether everything is to be sent at once.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire) > 0
    }

    /// Takes `bytes` of the budget, waiting for at most `max_block`. May be dropped.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<Reserved> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(permit) = self.memory.try_acquire_many(permits) {
            permit.forget();
            return Ok(Reserved {
                memory: Arc::clone(&self.memory),
                bytes,
            });
        }
        self.tracker.counters.memory_waits.add(1);
        let _hurry = self.hurry();
        let limit = self.config.max_block;
        match tokio::time::timeout(limit, self.memory.acquire_many(permits)).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(Reserved {
                    memory: Arc::clone(&self.memory),
                    bytes,
                })
            }
            Ok(Err(_)) => Err(Error::closed("producer")),
            Err(_) => Err(Error::timed_out(format!(
                "no memory for {bytes} bytes within {limit:?}: {} of {} bytes wait for the broker",
                self.buffered_bytes(),
                self.config.buffer_memory
            ))
            .with_action("send more slowly, or raise buffer_memory")),
        }
    }

    /// The queues of a topic, if it is known.
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<TopicQueues>> {
        self.topics.read().get(name).cloned()
    }

    /// Takes a topic's description in: makes queues for new partitions. Known ones stay, also if the topic has fewer now.
    pub(crate) fn learn(&self, name: &Arc<str>, metadata: &TopicMetadata) -> Arc<TopicQueues> {
        let mut topics = self.topics.write();
        let topic = topics.entry(Arc::clone(name)).or_insert_with(|| {
            let view = TopicView {
                described_at: metadata.described_at,
                queues: Vec::new(),
                partitions: 0,
                available: Vec::new(),
            };
            Arc::new(TopicQueues {
                name: Arc::clone(name),
                view: RwLock::new(Arc::new(view)),
                sticky: Sticky::new(self.config.batch_size),
                used: AtomicBool::new(true),
            })
        });
        let topic = Arc::clone(topic);
        drop(topics);
        let mut view = topic.view.write();
        let mut queues = view.queues.clone();
        for number in queues.len()..metadata.partitions.len() {
            queues.push(Arc::new(PartitionQueue {
                topic: Arc::clone(&topic.name),
                partition: PartitionId::new(i32::try_from(number).unwrap_or(i32::MAX)),
                index: self.queue_count.fetch_add(1, Ordering::Relaxed),
                state: Mutex::default(),
            }));
        }
        let partitions = metadata.partitions.len();
        let led = |(number, partition): (usize, &crate::metadata::PartitionMetadata)| {
            partition.leader.is_some().then_some(number)
        };
        let mut available: Vec<usize> = metadata
            .partitions
            .iter()
            .enumerate()
            .filter_map(led)
            .collect();
        if available.is_empty() {
            available = (0..partitions).collect();
        }
        *view = Arc::new(TopicView {
            described_at: metadata.described_at,
            queues,
            partitions,
            available,
        });
        drop(view);
        topic
    }

    /// Appends a record whose memory was reserved.
    pub(crate) fn append(
        &self,
        queue: &Arc<PartitionQueue>,
        record: &ProducerRecord,
        timestamp: Timestamp,
        reserved: Reserved,
    ) -> Result<DeliveryFuture> {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let mut state = queue.state.lock();
        // Looked at under the lock that `fail_waiting` takes after the flag was set: a record is either
        // refused here or failed there, and never left behind.
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        if let Some(open) = &state.open
            && open
                .builder
                .uncompressed_bytes_with(timestamp, key, value, &record.headers)
                > self.config.batch_size
            && let Some(open) = state.open.take()
        {
            state.full.push_back(open);
        }
        let open = state.open.get_or_insert_with(|| self.open_batch(queue));
        let appended = open.builder.append(timestamp, key, value, &record.headers);
        let result = match appended {
            Ok(()) => {
                open.reserved.absorb(reserved);
                Ok(open.completion.add(timestamp))
            }
            Err(error) => {
                let refused = Error::new(ErrorKind::Invalid, error.to_string());
                Err(refused.of_partition(Arc::clone(&queue.topic), queue.partition))
            }
        };
        if open.builder.is_empty() {
            state.open = None;
        } else if open.builder.uncompressed_bytes() >= self.config.batch_size
            && let Some(open) = state.open.take()
        {
            state.full.push_back(open);
        }
        let wanted = match (state.full.is_empty(), &state.open) {
            (false, _) => Listed::Full,
            (true, Some(_)) => Listed::Open,
            (true, None) => Listed::No,
        };
        if wanted > state.listed {
            state.listed = wanted;
            self.inbox.lock().push(Arc::clone(queue));
            drop(state);
            self.wake.notify_one();
        }
        result
    }

    fn open_batch(&self, queue: &PartitionQueue) -> OpenBatch {
        let opened_at = Instant::now();
        let completion = BatchDelivery::begin(
            &self.tracker,
            self.batch_count.fetch_add(1, Ordering::Relaxed),
            &queue.topic,
            queue.partition,
            queue.index,
            opened_at + self.config.delivery_timeout,
        );
        OpenBatch {
            builder: BatchBuilder::new(self.config.compression),
            completion,
            opened_at,
            reserved: Reserved::none(&self.memory),
        }
    }

    /// The topics in use that were described longer than `age` ago.
    pub(crate) fn topics_older_than(&self, age: Duration) -> Vec<Arc<str>> {
        let topics = self.topics.read();
        let old = topics.values().filter(|topic| {
            topic.view.read().described_at.elapsed() >= age
                && topic.used.swap(false, Ordering::Relaxed)
        });
        old.map(|topic| Arc::clone(&topic.name)).collect()
    }

    /// The queues with news since the last call.
    pub(crate) fn take_inbox(&self) -> Vec<Arc<PartitionQueue>> {
        std::mem::take(&mut *self.inbox.lock())
    }

    /// Fails every batch that still waits here.
    pub(crate) fn fail_waiting(&self, error: &Error) {
        let topics: Vec<_> = self.topics.read().values().cloned().collect();
        for topic in topics {
            let view = Arc::clone(&topic.view.read());
            for queue in &view.queues {
                queue.fail(error);
            }
        }
    }

    /// Ends the waiting of everyone who waits for memory.
    pub(crate) fn close_memory(&self) {
        self.memory.close();
    }
}

impl PartitionQueue {
    /// Fails every batch that waits here.
    pub(crate) fn fail(&self, error: &Error) {
        let batches: Vec<OpenBatch> = {
            let mut state = self.state.lock();
            let open = state.open.take();
            state.full.drain(..).chain(open).collect()
        };
        for batch in batches {
            batch.completion.complete(Err(error.clone()));
        }
    }

    /// Takes the batches whose deadline has passed out of the queue.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<OpenBatch> {
        let mut state = self.state.lock();
        let is_late = |batch: &OpenBatch| batch.completion.deadline() <= now;
        let mut late = Vec::new();
        while state.full.front().is_some_and(is_late) {
            late.extend(state.full.pop_front());
        }
        if state.full.is_empty() && state.open.as_ref().is_some_and(is_late) {
            late.extend(state.open.take());
        }
        late
    }
}

/// Keeps the producer in a hurry while it lives.
pub(crate) struct Hurry<'a> {
    accumulator: &'a Accumulator,
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.accumulator.urgent.fetch_sub(1, Ordering::AcqRel);
    }
}
