//! `logweir.v1.FetchService`.
//!
//! A stream waits for its partitions' offsets to move and sends what is new; a reader that does not
//! take it is held back by flow control, with at most [`QUEUED_RESPONSES`] responses in between.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::fetch_service_server::FetchService;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, PartitionId, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::error::ApiError;
use crate::grpc::Handler;
use crate::grpc::answers::Answers;
use crate::grpc::context::{context, topic_id};
use crate::grpc::records::{Room, unpack};
use crate::grpc::responses::{Responses, Share};
use crate::grpc::status::{at_most, check_name, error_of, invalid, shutting_down};
use crate::service::{
    FetchPartition, FetchRequest, FetchedPartition, Isolation, OffsetQuery, RequestContext,
};

/// Bytes of records in one response; a single batch may be larger only up to a request's limit.
pub(super) const MAX_RESPONSE_BYTES: usize = 50 << 20;
/// Bytes of plain records in one response, after they were unpacked.
const MAX_UNPACKED_RESPONSE_BYTES: usize = 32 << 20;
/// What a partition takes in a response beside its records, about.
const PARTITION_BYTES: usize = 256;
/// What a stream's response holds where the request does not say.
const DEFAULT_STREAM_BYTES: usize = 1 << 20;
/// What one partition contributes to a response where the request does not say.
const DEFAULT_PARTITION_BYTES: usize = 1 << 20;
/// Partitions of one request.
const MAX_PARTITIONS: usize = 10_000;
/// The longest a single read waits.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Responses between the reader of the log and the connection.
const QUEUED_RESPONSES: usize = 2;

#[tonic::async_trait]
impl FetchService for Handler {
    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        let ctx = context(&request);
        let responses = request.extensions().get::<Responses>().cloned();
        let request = request.into_inner();
        if request.replica_id.is_some_and(|replica| replica >= 0) {
            return Err(invalid("replica_id: followers are not served yet"));
        }
        let partitions = partitions(&request.partitions)?;
        let format = format(request.format)?;
        let max_bytes = limit(request.max_bytes, MAX_RESPONSE_BYTES);
        let fetch = FetchRequest {
            max_wait: Some(Duration::from_millis(u64::from(request.max_wait_ms)).min(MAX_WAIT)),
            // More than the answer may hold would never be there.
            min_bytes: usize::try_from(request.min_bytes)
                .unwrap_or(max_bytes)
                .min(max_bytes),
            max_bytes,
            isolation: isolation(request.isolation_level)?,
            partitions,
        };
        let fetched = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(shutting_down()),
            fetched = self.service.fetch(&ctx, &fetch) => fetched,
        };
        let offsets = fetch.partitions.iter().map(|wanted| wanted.fetch_offset);
        let reads = Reads {
            parts: fetched.into_iter().zip(offsets).collect(),
            format,
        };
        let mut share = None;
        if let Some(responses) = &responses {
            share = Some(responses.take_until(reads.bytes(), ctx.deadline).await?);
        }
        let partitions = reads.answers(share.as_mut()).await?;
        if let (Some(responses), Some(share)) = (responses, share) {
            responses.hand_on(share);
        }
        Ok(Response::new(v1::FetchResponse { partitions }))
    }

    type FetchStreamStream =
        Pin<Box<dyn Stream<Item = Result<v1::FetchResponse, Status>> + Send + 'static>>;

    async fn fetch_stream(
        &self,
        request: Request<v1::FetchStreamRequest>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let ctx = context(&request);
        let responses = request.extensions().get::<Responses>().cloned();
        let request = request.into_inner();
        let ends = request
            .partitions
            .iter()
            .map(|part| part.end_offset.map(Offset::new))
            .collect();
        let follow = Follow {
            fetch: FetchRequest {
                max_wait: None,
                min_bytes: 1,
                max_bytes: limit(request.max_bytes, DEFAULT_STREAM_BYTES),
                isolation: isolation(request.isolation_level)?,
                partitions: partitions(&request.partitions)?,
            },
            ends,
            format: format(request.format)?,
            responses: responses.clone(),
        };
        let (sender, receiver) = mpsc::channel(QUEUED_RESPONSES);
        let handler = self.clone();
        let following = async move {
            tokio::select! {
                () = follow.run(&handler, &ctx, &sender) => {}
                () = sender.closed() => {}
                () = handler.stop.cancelled() => {
                    // The reader may have gone, or never look again; then nobody needs to know.
                    tokio::select! {
                        _ = sender.send(Err(shutting_down())) => {}
                        () = ctx.cut() => {}
                    }
                }
            }
        };
        let answers = Answers::new(receiver, following).map(move |answer| {
            let (answer, share) = answer?;
            if let (Some(responses), Some(share)) = (&responses, share) {
                responses.hand_on(share);
            }
            Ok(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        at_most("partitions", request.partitions.len(), MAX_PARTITIONS)?;
        let isolation = isolation(request.isolation_level)?;
        let mut offsets = Vec::with_capacity(request.partitions.len());
        for wanted in request.partitions {
            offsets.push(self.listed_offset(&ctx, wanted, isolation).await);
        }
        Ok(Response::new(v1::ListOffsetsResponse { offsets }))
    }
}

/// What a stream still has to send.
#[derive(Debug)]
struct Follow {
    fetch: FetchRequest,
    /// Beside each partition of `fetch`: where to stop (exclusive).
    ends: Vec<Option<Offset>>,
    format: v1::RecordFormat,
    responses: Option<Responses>,
}

/// A response with what it takes of the limits.
type Shared = (v1::FetchResponse, Option<Share>);

impl Follow {
    /// Sends until every partition has ended or failed, or the reader is gone.
    async fn run(
        mut self,
        handler: &Handler,
        ctx: &RequestContext,
        sender: &mpsc::Sender<Result<Shared, Status>>,
    ) {
        self.drop_finished(&[]);
        while !self.fetch.partitions.is_empty() {
            // Room first: records are read when they can be sent, not before.
            let Ok(room) = sender.reserve().await else {
                return;
            };
            let fetched = handler.service.fetch(ctx, &self.fetch).await;
            let offsets = self.fetch.partitions.iter().map(|part| part.fetch_offset);
            let reads = Reads {
                parts: fetched.into_iter().zip(offsets).collect(),
                format: self.format,
            };
            let mut share = match &self.responses {
                Some(responses) => Some(responses.take(reads.bytes()).await),
                None => None,
            };
            let answers = match reads.answers(share.as_mut()).await {
                Ok(answers) => answers,
                Err(status) => return room.send(Err(status)),
            };
            let mut failed = Vec::with_capacity(answers.len());
            let mut partitions = Vec::new();
            for (wanted, answer) in self.fetch.partitions.iter_mut().zip(answers) {
                let from = wanted.fetch_offset;
                failed.push(answer.error.is_some());
                wanted.fetch_offset = Offset::new(answer.next_fetch_offset);
                // It was that of the first offset; nothing is cut off while a stream is served.
                wanted.last_fetched_epoch = None;
                if answer.error.is_some() || wanted.fetch_offset != from {
                    partitions.push(answer);
                }
            }
            room.send(Ok((v1::FetchResponse { partitions }, share)));
            self.drop_finished(&failed);
            // Whoever was served first comes last next time, so that one busy partition starves no other.
            if !self.fetch.partitions.is_empty() {
                self.fetch.partitions.rotate_left(1);
                self.ends.rotate_left(1);
            }
        }
    }

    /// Forgets the partitions that failed or have reached their ends.
    fn drop_finished(&mut self, failed: &[bool]) {
        let keep: Vec<bool> = self
            .fetch
            .partitions
            .iter()
            .zip(&self.ends)
            .enumerate()
            .map(|(index, (wanted, end))| {
                let ended = end.is_some_and(|end| wanted.fetch_offset >= end);
                !ended && !failed.get(index).copied().unwrap_or(false)
            })
            .collect();
        let mut kept = keep.iter();
        self.fetch
            .partitions
            .retain(|_| kept.next().copied().unwrap_or(true));
        let mut kept = keep.iter();
        self.ends.retain(|_| kept.next().copied().unwrap_or(true));
    }
}

impl Handler {
    async fn listed_offset(
        &self,
        ctx: &RequestContext,
        wanted: v1::ListOffsetsPartition,
        isolation: Isolation,
    ) -> v1::ListedOffset {
        use v1::list_offsets_partition::At;
        let query = match wanted.at {
            Some(At::Earliest(_)) => Ok(OffsetQuery::Earliest),
            Some(At::Latest(_)) => Ok(OffsetQuery::Latest(isolation)),
            Some(At::TimestampMs(ms)) if ms >= 0 => Ok(OffsetQuery::At(Timestamp::new(ms))),
            Some(At::MaxTimestamp(_)) => Ok(OffsetQuery::MaxTimestamp),
            Some(At::TimestampMs(ms)) => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                format!("timestamp_ms {ms} lies before 1970"),
            )),
            None => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                "say what to look up: earliest, latest, timestamp_ms or max_timestamp",
            )),
        };
        let partition = PartitionId::new(wanted.partition);
        let epoch = wanted.current_leader_epoch.map(LeaderEpoch::new);
        let outcome = match query {
            Ok(query) => {
                self.service
                    .list_offset(ctx, &wanted.topic, partition, epoch, query)
                    .await
            }
            Err(error) => Err(error),
        };
        let found = outcome.as_ref().ok();
        v1::ListedOffset {
            error: error_of(&outcome),
            offset: found.map_or(-1, |found| found.offset.get()),
            timestamp_ms: found.map_or(-1, |found| found.timestamp.get()),
            leader_epoch: found.map_or(-1, |found| found.leader_epoch.get()),
            topic: wanted.topic,
            partition: wanted.partition,
        }
    }
}

fn limit(asked: u32, default: usize) -> usize {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => default,
        asked => asked.min(MAX_RESPONSE_BYTES),
    }
}

fn isolation(raw: i32) -> Result<Isolation, Status> {
    match v1::IsolationLevel::try_from(raw) {
        Ok(v1::IsolationLevel::ReadUncommitted) => Ok(Isolation::ReadUncommitted),
        Ok(v1::IsolationLevel::ReadCommitted) => Ok(Isolation::ReadCommitted),
        Err(_) => Err(invalid(format!("there is no isolation level {raw}"))),
    }
}

fn format(raw: i32) -> Result<v1::RecordFormat, Status> {
    v1::RecordFormat::try_from(raw).map_err(|_| invalid(format!("there is no record format {raw}")))
}

fn partitions(wanted: &[v1::FetchPartition]) -> Result<Vec<FetchPartition>, Status> {
    at_most("partitions", wanted.len(), MAX_PARTITIONS)?;
    let mut seen = HashSet::with_capacity(wanted.len());
    let mut partitions = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        check_name(&wanted.topic)?;
        let (topic, partition) = (wanted.topic.as_str(), wanted.partition);
        if !seen.insert((topic, partition)) {
            let message = format!("partition {partition} of topic {topic:?} is asked for twice");
            return Err(invalid(message));
        }
        let last_fetched_epoch = wanted.last_fetched_epoch.map(LeaderEpoch::new);
        if let Some(epoch) = last_fetched_epoch.filter(|epoch| *epoch < LeaderEpoch::NONE) {
            return Err(invalid(format!(
                "last_fetched_epoch {epoch} is below -1, which stands for none"
            )));
        }
        partitions.push(FetchPartition {
            topic: Arc::from(topic),
            topic_id: topic_id(wanted.topic_id.as_deref())?,
            partition: PartitionId::new(partition),
            fetch_offset: Offset::new(wanted.fetch_offset),
            max_bytes: limit(wanted.partition_max_bytes, DEFAULT_PARTITION_BYTES),
            current_leader_epoch: wanted.current_leader_epoch.map(LeaderEpoch::new),
            last_fetched_epoch: last_fetched_epoch.filter(|epoch| *epoch != LeaderEpoch::NONE),
        });
    }
    Ok(partitions)
}

/// What was read, on its way to a response.
#[derive(Debug)]
struct Reads {
    /// With the offset that each was read from.
    parts: Vec<(FetchedPartition, Offset)>,
    format: v1::RecordFormat,
}

impl Reads {
    fn has_records(&self) -> bool {
        let mut outcomes = self.parts.iter().map(|(part, _)| &part.outcome);
        outcomes.any(|outcome| {
            outcome
                .as_ref()
                .is_ok_and(|fetched| !fetched.records.is_empty())
        })
    }

    /// What the response may take, until [`Reads::answers`] knows better.
    fn bytes(&self) -> usize {
        if self.format == v1::RecordFormat::Records && self.has_records() {
            return MAX_UNPACKED_RESPONSE_BYTES;
        }
        let parts = self.parts.iter().map(|(part, _)| {
            let records = part.outcome.as_ref().map_or(0, |here| here.records.len());
            PARTITION_BYTES + records
        });
        parts.sum()
    }

    /// The partitions of the response; `share` shrinks to what they take. Unpacking may take a while, and waits for
    /// the disk where the records are not in memory: it is done where nothing else waits for it.
    async fn answers(self, share: Option<&mut Share>) -> Result<Vec<v1::FetchedPartition>, Status> {
        if self.format == v1::RecordFormat::Batches || !self.has_records() {
            return Ok(self.answers_now().0);
        }
        let work = tokio::task::spawn_blocking(move || self.answers_now());
        let (answers, unpacked) = work
            .await
            .map_err(|error| Status::internal(format!("unpacking ended early: {error}")))?;
        if let Some(share) = share {
            share.shrink_to(unpacked + answers.len() * PARTITION_BYTES);
        }
        Ok(answers)
    }

    /// The partitions, and the bytes of plain records in them.
    fn answers_now(self) -> (Vec<v1::FetchedPartition>, usize) {
        let mut room = Room::new(MAX_UNPACKED_RESPONSE_BYTES);
        let format = self.format;
        let answers = self
            .parts
            .into_iter()
            .map(|(part, from)| answer(part, from, format, &mut room))
            .collect();
        (answers, room.taken())
    }
}

/// A partition's part of a response that has `room` left for plain records.
fn answer(
    part: FetchedPartition,
    from: Offset,
    format: v1::RecordFormat,
    room: &mut Room,
) -> v1::FetchedPartition {
    let outcome = part.outcome.and_then(|mut fetched| {
        let batches = std::mem::take(&mut fetched.records);
        let data = match format {
            v1::RecordFormat::Batches => v1::fetched_partition::Data::Batches(batches),
            v1::RecordFormat::Records => {
                let unpacked = unpack(batches, from, room)?;
                fetched.next_offset = unpacked.rest.unwrap_or(fetched.next_offset);
                v1::fetched_partition::Data::Records(unpacked.list)
            }
        };
        Ok((fetched, data))
    });
    let mut answer = v1::FetchedPartition {
        topic: part.topic.to_string(),
        partition: part.partition.get(),
        error: error_of(&outcome),
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        next_fetch_offset: from.get(),
        leader_epoch: -1,
        diverging_epoch: part.diverging.map(|diverging| v1::DivergingEpoch {
            leader_epoch: diverging.leader_epoch.get(),
            end_offset: diverging.end_offset.get(),
        }),
        ..v1::FetchedPartition::default()
    };
    if let Ok((fetched, data)) = outcome {
        answer.high_watermark = fetched.high_watermark.get();
        answer.last_stable_offset = fetched.last_stable_offset.get();
        answer.log_start_offset = fetched.log_start_offset.get();
        answer.next_fetch_offset = fetched.next_offset.get();
        answer.leader_epoch = fetched.leader_epoch.get();
        answer.data = Some(data);
    }
    answer
}
