//! Sending records: batched per partition, in order, without losing or doubling any.
//!
//! `send` finds the partition, takes the record's bytes from the memory budget and appends it to the
//! open batch of its partition (`accumulator`); one task per producer (`runner`) sends batches and
//! reads answers, by the rules in `sender` and `lane`; `delivery` brings a batch's fate to each record.

mod accumulator;
mod batch;
mod delivery;
mod lane;
mod partitioner;
mod record;
mod runner;
mod sender;
#[cfg(test)]
mod tests;
mod verdict;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use logweir_proto::ErrorCode;
use logweir_proto::record::HEADER_LEN;
use tokio::sync::watch;
use tokio::time::Instant;

use self::accumulator::{Accumulator, Reserved, TopicQueues};
use self::runner::{Ending, Runner};
use crate::client::Client;
use crate::clock::wait_until;
use crate::config::ProducerConfig;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::metrics::ProducerMetrics;

pub use delivery::DeliveryFuture;
pub use record::{ProducerRecord, RecordMetadata};

/// Sends records. Cheap to clone; clones share batches, order and memory.
///
/// **Order.** Records that one task sends to one partition are stored in the order of its `send` calls, also
/// across retries and lost connections (without idempotence only with `max_in_flight` 1). A record that fails
/// leaves a gap; later ones go on.
///
/// **Nothing twice.** With idempotence, which is the default, retries repeat a batch under its number, and the broker
/// stores it once. A batch that may have been stored and can no longer be repeated so fails, with
/// [`Error::may_have_happened`] set; it is never sent again under another number.
///
/// **Nothing unnoticed.** Each record's fate reaches its [`DeliveryFuture`]; if that was dropped, [`Self::flush`] and
/// [`Self::close`] return the failure.
///
/// **Ending.** [`Self::close`] delivers what was sent. When the last clone is dropped without it, what was not delivered
/// yet fails as [`Closed`](ErrorKind::Closed), and the producer's task ends.
///
/// ```no_run
/// # async fn example(client: logweir_client::Client) -> logweir_client::Result<()> {
/// use logweir_client::ProducerRecord;
///
/// let producer = client.producer()?;
/// let mut deliveries = Vec::new();
/// for order in 0..1_000 {
///     let record = ProducerRecord::new("orders").key(format!("order-{order}")).value("created");
///     deliveries.push(producer.send(record).await?); // waits while the buffer is full
/// }
/// for delivery in deliveries {
///     let stored = delivery.await?; // or the reason why not
///     println!("{}-{} at {:?}", stored.topic, stored.partition, stored.offset);
/// }
/// producer.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// What all clones share; dropping it ends the task.
struct Handle {
    client: Client,
    accumulator: Arc<Accumulator>,
    ending: Arc<AtomicU8>,
    ended: watch::Receiver<bool>,
}

impl Handle {
    fn end(&self, how: Ending) {
        self.ending.fetch_max(how as u8, Ordering::AcqRel);
        self.accumulator.refuse(Error::closed("producer"));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end(Ending::Abandon);
    }
}

/// Ends what the task would have ended, if it is gone for any reason, a panic among them.
struct TaskGuard {
    accumulator: Arc<Accumulator>,
    ended: watch::Sender<bool>,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let closed = Error::closed("producer");
        self.accumulator.refuse(closed.clone());
        self.accumulator.close_memory();
        self.accumulator.fail_waiting(&closed);
        self.ended.send_replace(true);
    }
}

impl Producer {
    pub(crate) fn open(client: Client, config: ProducerConfig) -> Result<Self> {
        config.validate()?;
        let accumulator = Arc::new(Accumulator::new(config));
        let ending = Arc::new(AtomicU8::new(Ending::No as u8));
        let (ended_sender, ended) = watch::channel(false);
        let guard = TaskGuard {
            accumulator: Arc::clone(&accumulator),
            ended: ended_sender,
        };
        let runner = Runner::new(client.clone(), Arc::clone(&accumulator));
        let ending_seen = Arc::clone(&ending);
        tokio::spawn(async move {
            let _guard = guard;
            runner
                .run(|| match ending_seen.load(Ordering::Acquire) {
                    0 => Ending::No,
                    1 => Ending::Close,
                    _ => Ending::Abandon,
                })
                .await;
        });
        Ok(Self {
            handle: Arc::new(Handle {
                client,
                accumulator,
                ending,
                ended,
            }),
        })
    }

    /// Hands a record over to be sent, and returns the future of its fate.
    ///
    /// Returns at once unless the topic has to be looked up or the buffer is full; then it waits, for at most
    /// `max_block` each. Dropping it before it returns means that the record is not sent.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a record that is too large (`MESSAGE_TOO_LARGE`) or whose topic or
    /// partition does not exist; [`TimedOut`](ErrorKind::TimedOut) if the buffer stayed full;
    /// [`Closed`](ErrorKind::Closed); [`Fenced`](ErrorKind::Fenced); or why the topic could not be looked up. The
    /// record was then not sent.
    pub async fn send(&self, record: ProducerRecord) -> Result<DeliveryFuture> {
        let result = self.enqueue(record).await;
        let counters = &self.handle.accumulator.tracker.counters;
        match &result {
            Ok(_) => counters.records_accepted.add(1),
            Err(_) => counters.records_rejected.add(1),
        }
        result
    }

    async fn enqueue(&self, record: ProducerRecord) -> Result<DeliveryFuture> {
        let accumulator = &*self.handle.accumulator;
        if let Some(refusal) = accumulator.refusal() {
            return Err(refusal);
        }
        partitioner::check_partition(&record)?;
        let bytes = record.size_bound();
        if bytes
            > accumulator
                .config
                .max_request_size
                .saturating_sub(HEADER_LEN)
        {
            let message = format!(
                "the record takes {bytes} bytes, and max_request_size is {}",
                accumulator.config.max_request_size
            );
            return Err(Error::from_code(ErrorCode::MessageTooLarge, message)
                .with_action("raise max_request_size, or keep the payload elsewhere and send where")
                .of_topic(Arc::clone(&record.topic)));
        }
        let topic = match accumulator.topic(&record.topic) {
            Some(topic) => topic,
            None => self.look_up(&record.topic).await?,
        };
        let reserved = accumulator.reserve(bytes).await?;
        if let Some(refusal) = accumulator.refusal() {
            return Err(refusal);
        }
        match self.append(&topic, &record, bytes, reserved) {
            Ok(result) => result,
            Err(reserved) => self.append_to_new_partition(&record, bytes, reserved).await,
        }
    }

    /// Appends a record, or gives its memory back if the topic is not known to have its partition.
    fn append(
        &self,
        topic: &TopicQueues,
        record: &ProducerRecord,
        bytes: usize,
        reserved: Reserved,
    ) -> std::result::Result<Result<DeliveryFuture>, Reserved> {
        let view = Arc::clone(&topic.view.read());
        let Some(queue) = partitioner::choose(topic, &view, record, bytes) else {
            return Err(reserved);
        };
        topic.used.store(true, Ordering::Relaxed);
        let timestamp = record
            .timestamp
            .unwrap_or_else(|| self.handle.client.clock().now());
        Ok(self
            .handle
            .accumulator
            .append(queue, record, timestamp, reserved))
    }

    /// The record names a partition that was not there when the topic was described last.
    async fn append_to_new_partition(
        &self,
        record: &ProducerRecord,
        bytes: usize,
        reserved: Reserved,
    ) -> Result<DeliveryFuture> {
        let client = &self.handle.client;
        let metadata = client
            .metadata()
            .refresh(client, &record.topic, false)
            .await?;
        let topic = self.handle.accumulator.learn(&record.topic, &metadata);
        match self.append(&topic, record, bytes, reserved) {
            Ok(result) => result,
            Err(_) => Err(partitioner::no_such_partition(record, &topic.view.read())),
        }
    }

    /// Learns a topic's partitions, waiting for at most `max_block`.
    async fn look_up(&self, name: &Arc<str>) -> Result<Arc<TopicQueues>> {
        let (client, config) = (&self.handle.client, &self.handle.accumulator.config);
        let deadline = Instant::now() + config.max_block;
        let mut backoff = client.backoff();
        let mut unknown = 0;
        loop {
            let call = client
                .metadata()
                .topic(client, name, config.auto_create_topics);
            let error = match tokio::time::timeout_at(deadline, call).await {
                Ok(Ok(metadata)) => return Ok(self.handle.accumulator.learn(name, &metadata)),
                Ok(Err(error)) => error,
                Err(_) => Error::timed_out(format!(
                    "the topic's partitions were not told within {:?}",
                    config.max_block
                ))
                .of_topic(Arc::clone(name)),
            };
            let again = match error.code() {
                Some(ErrorCode::UnknownTopicOrPartition) => {
                    unknown += 1;
                    unknown <= config.unknown_topic_retries
                }
                _ => error.is_retriable(),
            };
            let next = Instant::now() + backoff.next();
            if !again || next >= deadline {
                return Err(error);
            }
            wait_until(Some(next)).await;
            if let Some(refusal) = self.handle.accumulator.refusal() {
                return Err(refusal);
            }
        }
    }

    /// Sends everything without lingering and waits until every record sent before this call is delivered or failed.
    ///
    /// May be dropped; the records are delivered all the same.
    ///
    /// # Errors
    /// The first failure of records whose [`DeliveryFuture`] was dropped, since the last time this was asked; the
    /// error's action tells how many there were. Failures that a `DeliveryFuture` tells are not repeated here.
    pub async fn flush(&self) -> Result<()> {
        let accumulator = &*self.handle.accumulator;
        let hurry = accumulator.hurry();
        for batch in accumulator.tracker.incomplete() {
            batch.decided().await;
        }
        drop(hurry);
        accumulator.tracker.report_unseen()
    }

    /// Takes no more records, delivers those it has, and ends the producer's task.
    ///
    /// Takes at most the delivery timeout. Calling it again is harmless. May be dropped; the producer then goes on
    /// closing.
    ///
    /// # Errors
    /// Like [`Self::flush`].
    pub async fn close(&self) -> Result<()> {
        let accumulator = &*self.handle.accumulator;
        let _hurry = accumulator.hurry();
        self.handle.end(Ending::Close);
        let mut ended = self.handle.ended.clone();
        // An error means that the sender is gone, and with it the task.
        let _ = ended.wait_for(|ended| *ended).await;
        accumulator.tracker.report_unseen()
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ProducerConfig {
        &self.handle.accumulator.config
    }

    /// What this producer has done so far.
    #[must_use]
    pub fn metrics(&self) -> ProducerMetrics {
        self.handle.accumulator.tracker.counters.snapshot()
    }

    /// Bytes of `buffer_memory` in use: records that wait or are in flight.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.handle.accumulator.buffered_bytes()
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("client", &self.handle.client)
            .field("metrics", &self.metrics())
            .finish_non_exhaustive()
    }
}
