//! Reading records from any number of partitions, waiting for new ones without polling.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, PartitionId, TopicId};
use tokio::sync::Notify;

use crate::error::ApiError;
use crate::faults::Api;
use crate::partition::{Diverging, Partition, ReadBound, Watch};
use crate::service::{RequestContext, Service};

/// Which records a reader may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Everything below the high watermark.
    #[default]
    ReadUncommitted,
    /// Everything below the last stable offset.
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn bound(self) -> ReadBound {
        match self {
            Self::ReadUncommitted => ReadBound::HighWatermark,
            Self::ReadCommitted => ReadBound::LastStable,
        }
    }
}

/// One partition to read.
#[derive(Clone, Debug)]
pub(crate) struct FetchPartition {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) partition: PartitionId,
    pub(crate) fetch_offset: Offset,
    pub(crate) max_bytes: usize,
    pub(crate) current_leader_epoch: Option<LeaderEpoch>,
    /// The epoch of the last record that the reader has from below `fetch_offset`.
    pub(crate) last_fetched_epoch: Option<LeaderEpoch>,
}

/// A read of many partitions.
#[derive(Clone, Debug)]
pub(crate) struct FetchRequest {
    /// How long to wait for `min_bytes`; `None` waits as long as it takes.
    pub(crate) max_wait: Option<Duration>,
    pub(crate) min_bytes: usize,
    /// The most bytes of the answer; the first batch found is sent even if it is larger.
    pub(crate) max_bytes: usize,
    pub(crate) isolation: Isolation,
    pub(crate) partitions: Vec<FetchPartition>,
}

/// What one partition answers.
#[derive(Clone, Debug)]
pub(crate) struct FetchedPartition {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: PartitionId,
    pub(crate) outcome: Result<Fetched, ApiError>,
    /// Beside an error: the reader has records that the log has not.
    pub(crate) diverging: Option<Diverging>,
}

/// Records of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) high_watermark: Offset,
    pub(crate) last_stable_offset: Offset,
    pub(crate) log_start_offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    /// Whole record batches; the first may begin below the fetch offset.
    pub(crate) records: Bytes,
    pub(crate) next_offset: Offset,
}

impl Service {
    /// Reads the partitions in the order given; waits until `min_bytes` are there, an error is, or time is up.
    /// Dropping the future is safe.
    pub(crate) async fn fetch(
        &self,
        ctx: &RequestContext,
        request: &FetchRequest,
    ) -> Vec<FetchedPartition> {
        let targets = request
            .partitions
            .iter()
            .map(|wanted| (&*wanted.topic, Some(wanted.partition.get())));
        match self.faults.hit(Api::Fetch, &ctx.client_id, targets) {
            None => self.fetch_now_or_wait(ctx, request).await,
            Some(hit) => self.fetch_faulty(ctx, request, &hit).await,
        }
    }

    pub(super) async fn fetch_now_or_wait(
        &self,
        ctx: &RequestContext,
        request: &FetchRequest,
    ) -> Vec<FetchedPartition> {
        let deadline = request.max_wait.map(|wait| Instant::now() + wait);
        let mut answer = self.fetch_now(ctx, request).await;
        if !wants_more(&answer, request.min_bytes, deadline) {
            return self.counted(answer);
        }
        let notify = Arc::new(Notify::new());
        let _watches = self.watch_all(ctx, request, &notify);
        // What arrived between the first look and the watch would otherwise be missed.
        answer = self.fetch_now(ctx, request).await;
        while wants_more(&answer, request.min_bytes, deadline) {
            match deadline {
                None => notify.notified().await,
                Some(deadline) => {
                    let deadline = tokio::time::Instant::from_std(deadline);
                    if tokio::time::timeout_at(deadline, notify.notified())
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
            }
            answer = self.fetch_now(ctx, request).await;
        }
        self.counted(answer)
    }

    /// One look at every partition.
    async fn fetch_now(
        &self,
        ctx: &RequestContext,
        request: &FetchRequest,
    ) -> Vec<FetchedPartition> {
        let mut left = request.max_bytes;
        let mut first = true;
        let mut answer = Vec::with_capacity(request.partitions.len());
        for wanted in &request.partitions {
            let limit = wanted.max_bytes.min(left);
            let room = Room { limit, first };
            let mut diverging = None;
            let found = self.find(ctx, wanted).and_then(|partition| {
                let epoch = wanted.last_fetched_epoch;
                diverging = epoch.and_then(|last| partition.diverging(last, wanted.fetch_offset));
                diverging.map_or(Ok(partition), |here| Err(truncated(wanted, here)))
            });
            let outcome = match found {
                // Nothing would fit: it is not looked for, least of all on the disk.
                Ok(partition) if left == 0 && !first => Ok(empty(&partition, wanted.fetch_offset)),
                Ok(partition) => {
                    read(
                        partition,
                        wanted.fetch_offset,
                        request.isolation.bound(),
                        room,
                    )
                    .await
                }
                Err(error) => Err(error),
            };
            if let Ok(fetched) = &outcome {
                left = left.saturating_sub(fetched.records.len());
                first &= fetched.records.is_empty();
            }
            let topic = Arc::clone(&wanted.topic);
            answer.push(FetchedPartition {
                topic,
                partition: wanted.partition,
                outcome,
                diverging,
            });
        }
        answer
    }

    fn find(
        &self,
        ctx: &RequestContext,
        wanted: &FetchPartition,
    ) -> Result<Arc<Partition>, ApiError> {
        let name = ctx.names.to_inner(&wanted.topic);
        let partition = self
            .partitions()
            .get(&name, wanted.topic_id, wanted.partition)?;
        partition.check_epoch(wanted.current_leader_epoch)?;
        Ok(partition)
    }

    fn watch_all(
        &self,
        ctx: &RequestContext,
        request: &FetchRequest,
        notify: &Arc<Notify>,
    ) -> Vec<Watch> {
        let found = request
            .partitions
            .iter()
            .filter_map(|wanted| self.find(ctx, wanted).ok());
        found.map(|partition| partition.watch(notify)).collect()
    }

    fn counted(&self, answer: Vec<FetchedPartition>) -> Vec<FetchedPartition> {
        for partition in &answer {
            let bytes = partition
                .outcome
                .as_ref()
                .map(|fetched| fetched.records.len() as u64);
            self.metrics.count_fetch(bytes);
        }
        answer
    }
}

/// The error of a reader that has read what the log has no more.
fn truncated(wanted: &FetchPartition, diverging: Diverging) -> ApiError {
    let end = diverging.end_offset;
    ApiError::new(
        ErrorCode::OffsetOutOfRange,
        format!(
            "the log was truncated below offset {}: what was read from offset {end} on is lost",
            wanted.fetch_offset
        ),
    )
    .hint("go on at diverging_epoch.end_offset: what is there now is not what was read")
}

/// What an answer has left for a partition.
#[derive(Clone, Copy, Debug)]
struct Room {
    limit: usize,
    /// Nothing was found yet, so that one batch may be larger than the limit.
    first: bool,
}

/// Reads one partition; what lies before the active segment is brought in on a thread that may wait for the disk.
async fn read(
    partition: Arc<Partition>,
    from: Offset,
    bound: ReadBound,
    room: Room,
) -> Result<Fetched, ApiError> {
    if !partition.is_cold(from) {
        return read_now(&partition, from, bound, room);
    }
    let work = move || read_now(&partition, from, bound, room);
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::storage(format!("the read ended early: {error}")))?
}

fn read_now(
    partition: &Partition,
    from: Offset,
    bound: ReadBound,
    room: Room,
) -> Result<Fetched, ApiError> {
    let slice = partition.read(from, room.limit, bound)?;
    let mut fetched = empty(partition, from);
    // A batch larger than the limit is sent only where nothing else is, so that every reader gets on.
    if slice.bytes.len() <= room.limit || room.first {
        fetched.records = slice.bytes;
        fetched.next_offset = slice.next_offset;
    }
    Ok(fetched)
}

/// What is told of a partition without any of its records.
fn empty(partition: &Partition, from: Offset) -> Fetched {
    Fetched {
        high_watermark: partition.high_watermark(),
        last_stable_offset: partition.last_stable(),
        log_start_offset: partition.log().log_start_offset(),
        leader_epoch: partition.leader_epoch(),
        records: Bytes::new(),
        next_offset: from,
    }
}

/// Whether to go on waiting: too few bytes, no error, and time left.
fn wants_more(answer: &[FetchedPartition], min_bytes: usize, deadline: Option<Instant>) -> bool {
    let mut bytes = 0_usize;
    for partition in answer {
        match &partition.outcome {
            Ok(fetched) => bytes = bytes.saturating_add(fetched.records.len()),
            Err(_) => return false,
        }
    }
    bytes < min_bytes && deadline.is_none_or(|deadline| Instant::now() < deadline)
}
