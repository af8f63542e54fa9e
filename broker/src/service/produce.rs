//! Appending records. Two stages: the append takes its place in the order at once, the answer waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use logweir_proto::record::RecordBatch;
use logweir_proto::{ErrorCode, Offset, PartitionId, Timestamp, TopicId};
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::faults::Api;
use crate::metrics::Metrics;
use crate::partition::{AckWait, Appended, Partition};
use crate::service::faults::Lost;
use crate::service::internal_topics::refuse_internal;
use crate::service::{RequestContext, Service};

/// How long an answer is waited for where the request does not say (Kafka's `request.timeout.ms`).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time that an answer may be waited for.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// When a produce request is answered (Kafka's `acks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    /// 0: at once.
    None,
    /// 1: when the leader has the records.
    Leader,
    /// -1: when every in-sync replica has them.
    All,
}

/// One batch for one partition.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) partition: PartitionId,
    /// Exactly one record batch.
    pub(crate) batch: Bytes,
}

/// Batches for any number of partitions, appended in this order.
#[derive(Clone, Debug)]
pub(crate) struct ProduceRequest {
    pub(crate) acks: Acks,
    /// How long to wait for `acks`; zero means the broker's default.
    pub(crate) timeout: Duration,
    pub(crate) transactional_id: Option<String>,
    pub(crate) appends: Vec<Append>,
}

/// What became of one append.
#[derive(Clone, Debug)]
pub(crate) struct AppendResult {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: PartitionId,
    pub(crate) outcome: Result<Stored, ApiError>,
}

/// Where a batch was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) base_offset: Offset,
    pub(crate) record_count: i32,
    pub(crate) log_append_time: Timestamp,
    pub(crate) log_start_offset: Offset,
}

type Ack = oneshot::Receiver<Result<(), ApiError>>;

/// A produce request whose batches have their places, but whose answer may still be due.
#[derive(Debug)]
pub(crate) struct PendingProduce {
    results: Vec<AppendResult>,
    acks: Vec<(usize, Ack)>,
    deadline: Instant,
    metrics: Arc<Metrics>,
    /// The answer is to get lost.
    lost: Option<Lost>,
}

impl PendingProduce {
    fn new(deadline: Instant, metrics: Arc<Metrics>) -> Self {
        Self {
            results: Vec::new(),
            acks: Vec::new(),
            deadline,
            metrics,
            lost: None,
        }
    }

    /// Adds the result of an append that was left out, at its place in the request.
    pub(super) fn insert(&mut self, index: usize, result: AppendResult) {
        self.results.insert(index, result);
        for (later, _) in &mut self.acks {
            *later += usize::from(*later >= index);
        }
    }

    /// Has the answer get lost.
    pub(super) fn lose(mut self, lost: Lost) -> Self {
        self.lost = Some(lost);
        self
    }

    /// Waits until every append is acknowledged or the time is up. Dropping the future loses only the answer.
    pub(crate) async fn wait(mut self) -> Vec<AppendResult> {
        let deadline = tokio::time::Instant::from_std(self.deadline);
        for (index, ack) in self.acks {
            let result = match tokio::time::timeout_at(deadline, ack).await {
                Ok(Ok(result)) => result,
                Ok(Err(_closed)) => Err(ApiError::storage("the partition was closed")),
                Err(_elapsed) => Err(ApiError::timed_out(
                    "the acknowledgement did not come within the timeout",
                )),
            };
            if let Err(error) = result {
                self.metrics.count_produce_error();
                self.results[index].outcome = Err(error);
            }
        }
        if let Some(lost) = self.lost {
            let error = lost.forever().await;
            for result in &mut self.results {
                result.outcome = Err(error.clone());
            }
        }
        self.results
    }
}

impl Service {
    /// Checks and appends the request's batches, in order. Waits only where a missing topic is created first.
    ///
    /// When it returns, the batches have their places: a caller that goes on with its next request keeps its order.
    pub(crate) async fn produce(
        &self,
        ctx: &RequestContext,
        request: ProduceRequest,
    ) -> PendingProduce {
        let targets = request
            .appends
            .iter()
            .map(|append| (&*append.topic, Some(append.partition.get())));
        match self.faults.hit(Api::Produce, &ctx.client_id, targets) {
            None => self.produce_now(ctx, request).await,
            Some(hit) => self.produce_faulty(ctx, request, &hit).await,
        }
    }

    pub(super) async fn produce_now(
        &self,
        ctx: &RequestContext,
        request: ProduceRequest,
    ) -> PendingProduce {
        let timeout = match request.timeout {
            Duration::ZERO => DEFAULT_TIMEOUT,
            timeout => timeout.min(MAX_TIMEOUT),
        };
        let mut deadline = Instant::now() + timeout;
        if let Some(callers) = ctx.deadline {
            deadline = deadline.min(callers);
        }
        let mut pending = PendingProduce::new(deadline, Arc::clone(&self.metrics));
        for append in request.appends {
            let outcome = match &request.transactional_id {
                Some(id) => Err(transactions_refused(id)),
                None => {
                    // Only the creation of a topic waits; a batch that was appended is never given up here.
                    let append = self.append(ctx, request.acks, &append);
                    let waited = tokio::time::timeout_at(deadline.into(), append).await;
                    waited.unwrap_or_else(|_| {
                        Err(ApiError::timed_out(
                            "the topic was not created within the timeout",
                        ))
                    })
                }
            };
            let outcome = outcome.map(|(stored, ack)| {
                pending
                    .acks
                    .extend(ack.map(|ack| (pending.results.len(), ack)));
                stored
            });
            if outcome.is_err() {
                self.metrics.count_produce_error();
            }
            let Append {
                topic, partition, ..
            } = append;
            pending.results.push(AppendResult {
                topic,
                partition,
                outcome,
            });
        }
        pending
    }

    async fn append(
        &self,
        ctx: &RequestContext,
        acks: Acks,
        append: &Append,
    ) -> Result<(Stored, Option<Ack>), ApiError> {
        let batch = checked_batch(&append.batch)?;
        let partition = self.partition_for_append(ctx, append).await?;
        let wait = match acks {
            Acks::None => AckWait::None,
            Acks::Leader => AckWait::Leader,
            Acks::All => AckWait::Replicated,
        };
        if acks == Acks::All {
            self.enough_replicas(&partition)?;
        }
        let appended = partition.append(&batch, wait)?;
        count(&self.metrics, &batch, &appended);
        let stored = Stored {
            base_offset: appended.base_offset,
            record_count: batch.header().record_count,
            log_append_time: appended.log_append_time,
            log_start_offset: partition.log().log_start_offset(),
        };
        Ok((stored, appended.ack))
    }

    /// The partition, after its topic was created if it may be.
    async fn partition_for_append(
        &self,
        ctx: &RequestContext,
        append: &Append,
    ) -> Result<Arc<Partition>, ApiError> {
        let name = ctx.names.to_inner(&append.topic);
        refuse_internal(&name)?;
        match self
            .partitions
            .get(&name, append.topic_id, append.partition)
        {
            Err(error)
                if error.code == ErrorCode::UnknownTopicOrPartition
                    && append.topic_id.is_none()
                    && self.partitions.partition_count(&name).is_none() =>
            {
                self.auto_create(ctx, &append.topic).await?;
                self.partitions.get(&name, None, append.partition)
            }
            found => found,
        }
    }

    /// Refuses acks=all where fewer replicas are in sync than the topic demands, capped by how many it has.
    fn enough_replicas(&self, partition: &Partition) -> Result<(), ApiError> {
        let image = self.image();
        let Some(topic) = image.topics.get(partition.topic()) else {
            return Ok(());
        };
        let index = usize::try_from(partition.id().get()).unwrap_or(usize::MAX);
        let Some(placed) = topic.partitions.get(index) else {
            return Ok(());
        };
        let Some(config) = self.partitions.topic_config(partition.topic()) else {
            return Ok(());
        };
        let wanted = usize::try_from(config.values().min_insync_replicas).unwrap_or(1);
        let needed = wanted.min(placed.replicas.len());
        if placed.isr.len() >= needed {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::NotEnoughReplicas,
            format!(
                "replicas in sync: {}, min.insync.replicas is {needed}",
                placed.isr.len()
            ),
        ))
    }
}

/// Counts what was appended; a batch that an idempotent producer repeats was not.
fn count(metrics: &Metrics, batch: &RecordBatch, appended: &Appended) {
    if !appended.duplicate {
        let records = u64::try_from(batch.header().record_count).unwrap_or(0);
        metrics.count_append(records, batch.bytes().len() as u64);
    }
}

fn transactions_refused(id: &str) -> ApiError {
    ApiError::new(
        ErrorCode::UnsupportedForMessageFormat,
        format!("transactional id {id:?}: transactions are not supported yet"),
    )
    .hint("leave the transactional id away; idempotence works without it")
}

/// Checks the one batch whole, before any lock is taken.
fn checked_batch(bytes: &Bytes) -> Result<RecordBatch, ApiError> {
    let batch = RecordBatch::from_bytes(bytes.clone())?;
    batch.validate()?;
    if batch.header().attributes.is_transactional() {
        return Err(ApiError::new(
            ErrorCode::UnsupportedForMessageFormat,
            "the batch is transactional, and transactions are not supported yet",
        ));
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use logweir_proto::record::{BatchBuilder, Compression};

    use super::*;

    fn result() -> AppendResult {
        let stored = Stored {
            base_offset: Offset::new(0),
            record_count: 1,
            log_append_time: Timestamp::NONE,
            log_start_offset: Offset::new(0),
        };
        AppendResult {
            topic: Arc::from("orders"),
            partition: PartitionId::new(0),
            outcome: Ok(stored),
        }
    }

    /// Acknowledgements that did not come in time used to be no errors in the metrics.
    #[tokio::test]
    async fn an_acknowledgement_that_does_not_come_in_time_is_an_error_and_counted() {
        let metrics = Arc::new(Metrics::default());
        let (_disk_stands_still, ack) = oneshot::channel();
        let (acknowledged, other) = oneshot::channel();
        acknowledged.send(Ok(())).unwrap();
        let mut pending = PendingProduce::new(Instant::now(), Arc::clone(&metrics));
        pending.results = vec![result(), result()];
        pending.acks = vec![(0, ack), (1, other)];
        let results = pending.wait().await;
        let error = results[0].outcome.as_ref().unwrap_err();
        assert_eq!(error.code, ErrorCode::RequestTimedOut);
        assert!(results[1].outcome.is_ok());
        assert_eq!(metrics.produce_errors.load(Relaxed), 1);
    }

    /// A batch that an idempotent producer sends again is answered and not appended; it used to be counted again.
    #[test]
    fn a_repeated_batch_is_not_counted_as_appended() {
        let mut builder = BatchBuilder::new(Compression::None);
        for value in [b"a", b"b"] {
            let timestamp = Timestamp::new(1);
            builder.append(timestamp, None, Some(value), &[]).unwrap();
        }
        let batch = checked_batch(&builder.build().unwrap()).unwrap();
        let metrics = Metrics::default();
        for duplicate in [false, true, true] {
            let appended = Appended {
                base_offset: Offset::new(0),
                log_append_time: Timestamp::NONE,
                duplicate,
                ack: None,
            };
            count(&metrics, &batch, &appended);
        }
        assert_eq!(metrics.produce_batches.load(Relaxed), 1);
        assert_eq!(metrics.produce_records.load(Relaxed), 2);
        assert_eq!(
            metrics.produce_bytes.load(Relaxed),
            batch.bytes().len() as u64
        );
    }
}
