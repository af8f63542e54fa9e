//! `logweir.v1.GroupService`, but for the membership stream (`membership.rs`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::group_service_server::GroupService;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::error::ApiError;
use crate::grpc::Handler;
use crate::grpc::context::{context, topic_id};
use crate::grpc::membership;
use crate::grpc::responses::Responses;
use crate::grpc::status::{at_most, check_name, error_of, invalid, status};
use crate::inflight::Charge;
use crate::service::groups::request::{
    CommitOffsets, DeleteOffsets, FetchGroup, ListGroups, NewOffset,
};
use crate::service::groups::{ByTopic, Epoch, FetchedOffset, ListedGroup, Named};
use crate::service::{RequestContext, ResetTo, Resetting};

mod description;
mod room;

use description::{bytes_of, description};
use room::{AnswerRoom, GROUP_BYTES, too_large};

/// Groups of one request.
const MAX_GROUPS: usize = 1_000;
/// Bytes of a group's id.
const MAX_ID_BYTES: usize = 4_096;
/// Partitions and offsets of one request.
const MAX_PARTITIONS: usize = 10_000;
/// What a committed offset takes in an answer beside its strings, at most.
const OFFSET_BYTES: usize = 96;
/// States and types that a list is narrowed to; there are fewer.
const MAX_FILTERS: usize = 100;

/// The answers to a member's heartbeats.
type Heartbeats =
    Pin<Box<dyn Stream<Item = Result<v1::ConsumerGroupHeartbeatResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GroupService for Handler {
    type ConsumerGroupHeartbeatStream = Heartbeats;

    async fn consumer_group_heartbeat(
        &self,
        request: Request<Streaming<v1::ConsumerGroupHeartbeatRequest>>,
    ) -> Result<Response<Heartbeats>, Status> {
        let ctx = context(&request);
        let charge = request.extensions().get::<Charge>().cloned();
        let answers = membership::serve(self.clone(), ctx, charge, request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        at_most("offsets", request.offsets.len(), MAX_PARTITIONS)?;
        let offsets = request
            .offsets
            .iter()
            .map(|offset| new_offset(&ctx, offset));
        let commit = CommitOffsets {
            group_id: inner(&ctx, &request.group_id),
            member_id: request.member_id.into(),
            instance_id: request.instance_id.map(Arc::from),
            generation_or_epoch: request.member_epoch,
            knows_epochs: true,
            retention: None,
            offsets: offsets.collect::<Result<_, _>>()?,
        };
        let outcomes = self.service.commit_offsets(&ctx, commit).await;
        let outcomes = outcomes.map_err(|error| status(&error))?;
        let results = request.offsets.into_iter().zip(outcomes);
        let results = results.map(|(offset, outcome)| v1::PartitionResult {
            topic: offset.topic,
            partition: offset.partition,
            error: error_of(&outcome),
        });
        Ok(Response::new(v1::CommitOffsetsResponse {
            results: results.collect(),
        }))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let ctx = context(&request);
        let responses = request.extensions().get::<Responses>().cloned();
        let request = request.into_inner();
        at_most("groups", request.groups.len(), MAX_GROUPS)?;
        distinct(request.groups.iter().map(|group| &group.group_id))?;
        let mut room = AnswerRoom::new(responses, ctx.deadline).await?;
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in request.groups {
            let mut outcome = self.offsets_of(&ctx, &group).await?;
            let offsets = outcome.iter().flatten();
            let bytes: usize = offsets.map(offset_bytes).sum();
            if !room.take(group_bytes(&group.group_id, bytes)).await? {
                outcome = Err(too_large(
                    "its offsets",
                    bytes,
                    "name topics, some at a time",
                ));
            }
            groups.push(v1::GroupOffsets {
                group_id: group.group_id,
                error: error_of(&outcome),
                offsets: outcome.into_iter().flatten().filter_map(offset).collect(),
            });
        }
        room.hand_on();
        Ok(Response::new(v1::FetchOffsetsResponse { groups }))
    }

    async fn delete_offsets(
        &self,
        request: Request<v1::DeleteOffsetsRequest>,
    ) -> Result<Response<v1::DeleteOffsetsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        if request.topics.is_empty() {
            return Err(invalid("name the topics whose offsets are to be forgotten"));
        }
        let (whole, some): (ByTopic, ByTopic) = named_partitions(&ctx, &request.topics)?
            .into_iter()
            .partition(|(_, numbers)| numbers.is_empty());
        let some = some.iter().flat_map(|(topic, numbers)| {
            let numbers = numbers.iter();
            numbers.map(|number| (Arc::clone(topic), *number))
        });
        let delete = DeleteOffsets {
            group_id: inner(&ctx, &request.group_id),
            partitions: some.collect(),
            whole_topics: whole.into_keys().collect(),
        };
        let answers = self.service.delete_offsets(&ctx, delete).await;
        let answers = answers.map_err(|error| status(&error))?;
        let results = answers.into_iter().map(|answer| v1::PartitionResult {
            topic: answer.topic.to_string(),
            partition: answer.partition.get(),
            error: error_of(&answer.result.map_err(ApiError::from)),
        });
        Ok(Response::new(v1::DeleteOffsetsResponse {
            results: results.collect(),
        }))
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        let topics = named_partitions(&ctx, &request.topics)?;
        let to = reset_to(&ctx, request.to)?;
        if matches!(to, ResetTo::Exact(_)) && !topics.is_empty() {
            return Err(invalid(
                "exact offsets name their partitions; leave topics out",
            ));
        }
        let resetting = Resetting {
            group_id: inner(&ctx, &request.group_id),
            topics,
            to,
            dry_run: request.dry_run,
        };
        let reset = self.service.reset_offsets(&ctx, resetting).await;
        let reset = reset.map_err(|error| status(&error))?;
        let offsets = reset.into_iter().map(|reset| v1::ResetOffset {
            topic: reset.topic.to_string(),
            partition: reset.partition.get(),
            before: reset.before.map(Offset::get),
            after: reset.after.get(),
        });
        Ok(Response::new(v1::ResetOffsetsResponse {
            offsets: offsets.collect(),
        }))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        at_most("states", request.states.len(), MAX_FILTERS)?;
        at_most("types", request.types.len(), MAX_FILTERS)?;
        let limit = match usize::try_from(request.limit).unwrap_or(MAX_GROUPS) {
            0 => MAX_GROUPS,
            limit => limit.min(MAX_GROUPS),
        };
        let filter = ListGroups {
            states: request.states.into_iter().map(Arc::from).collect(),
            types: request.types.into_iter().map(Arc::from).collect(),
        };
        let groups = self.service.list_groups(&ctx, &filter).await;
        let groups = groups.map_err(|error| status(&error))?;
        let from = groups.partition_point(|group| *group.group_id <= *request.after);
        let page = groups.iter().skip(from).take(limit).map(summary);
        Ok(Response::new(v1::ListGroupsResponse {
            groups: page.collect(),
            more: groups.len() > from + limit,
        }))
    }

    async fn describe_groups(
        &self,
        request: Request<v1::DescribeGroupsRequest>,
    ) -> Result<Response<v1::DescribeGroupsResponse>, Status> {
        let ctx = context(&request);
        let responses = request.extensions().get::<Responses>().cloned();
        let request = request.into_inner();
        at_most("groups", request.group_ids.len(), MAX_GROUPS)?;
        distinct(&request.group_ids)?;
        let mut room = AnswerRoom::new(responses, ctx.deadline).await?;
        let mut groups = Vec::with_capacity(request.group_ids.len());
        for group_id in request.group_ids {
            let inner = inner(&ctx, &group_id);
            let mut outcome = self.service.describe_group(&ctx, &inner).await;
            let bytes = outcome.as_ref().map_or(0, bytes_of);
            if !room.take(group_bytes(&group_id, bytes)).await? {
                let hint = "fetch its offsets instead, some topics at a time";
                outcome = Err(too_large("its members and partitions", bytes, hint));
            }
            let error = error_of(&outcome);
            groups.push(v1::GroupDescription {
                group_id,
                error,
                ..outcome.map(description).unwrap_or_default()
            });
        }
        room.hand_on();
        Ok(Response::new(v1::DescribeGroupsResponse { groups }))
    }

    async fn delete_groups(
        &self,
        request: Request<v1::DeleteGroupsRequest>,
    ) -> Result<Response<v1::DeleteGroupsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        at_most("groups", request.group_ids.len(), MAX_GROUPS)?;
        distinct(&request.group_ids)?;
        let mut results = Vec::with_capacity(request.group_ids.len());
        for group_id in request.group_ids {
            let outcome = self
                .service
                .delete_group(&ctx, &inner(&ctx, &group_id))
                .await;
            let error = error_of(&outcome);
            results.push(v1::GroupResult { group_id, error });
        }
        Ok(Response::new(v1::DeleteGroupsResponse { results }))
    }
}

impl Handler {
    /// What one group of a request has committed, by topic and partition; the outer error is about the request.
    async fn offsets_of(
        &self,
        ctx: &RequestContext,
        group: &v1::FetchOffsetsGroup,
    ) -> Result<Result<Vec<FetchedOffset>, ApiError>, Status> {
        let topics = named_partitions(ctx, &group.topics)?;
        // Of a topic without numbers all partitions are meant, also those that it has no more.
        let exact = !topics.is_empty() && topics.values().all(|numbers| !numbers.is_empty());
        let partitions = exact.then(|| {
            let all = topics.iter();
            let all = all.flat_map(|(topic, n)| n.iter().map(|n| (Arc::clone(topic), *n)));
            all.collect()
        });
        let fetch = FetchGroup {
            group_id: inner(ctx, &group.group_id),
            member_id: group.member_id.as_str().into(),
            member_epoch: match group.member_id.is_empty() {
                true => Epoch::new(-1),
                false => Epoch::new(group.member_epoch),
            },
            partitions,
            require_stable: false,
        };
        let fetched = self.service.fetch_offsets(ctx, fetch).await;
        Ok(fetched.map(|mut offsets| {
            let is_wanted = |offset: &FetchedOffset| {
                let numbers = topics.get(&offset.topic);
                numbers.is_some_and(|n| n.is_empty() || n.contains(&offset.partition))
            };
            offsets.retain(|offset| {
                offset.committed.is_some() && (topics.is_empty() || is_wanted(offset))
            });
            offsets
        }))
    }
}

/// The broker's name for the caller's.
pub(super) fn inner(ctx: &RequestContext, name: &str) -> Arc<str> {
    Arc::from(&*ctx.names.to_inner(name))
}

/// Refuses groups that are named twice: each would be looked up and answered again.
fn distinct<'a>(ids: impl IntoIterator<Item = &'a String>) -> Result<(), Status> {
    let mut seen = BTreeSet::new();
    for id in ids {
        at_most("bytes of a group's id", id.len(), MAX_ID_BYTES)?;
        if !seen.insert(id) {
            return Err(invalid(format!("group {id:?} is there twice")));
        }
    }
    Ok(())
}

/// What a group takes in an answer, at most; an error may name it.
fn group_bytes(group_id: &str, content: usize) -> usize {
    // Quoted, one byte can take six.
    GROUP_BYTES + 7 * group_id.len() + content
}

fn offset_bytes(offset: &FetchedOffset) -> usize {
    let metadata = offset.committed.as_ref().map_or(0, |c| c.metadata.len());
    OFFSET_BYTES + offset.topic.len() + metadata
}

fn offset(fetched: FetchedOffset) -> Option<v1::CommittedOffset> {
    let committed = fetched.committed?;
    Some(v1::CommittedOffset {
        topic: fetched.topic.to_string(),
        topic_id: known_id(committed.topic_id),
        partition: fetched.partition.get(),
        offset: committed.offset.get(),
        leader_epoch: committed.leader_epoch.get(),
        metadata: committed.metadata.to_string(),
        committed_at_ms: committed.committed_at.get(),
    })
}

fn known_id(id: TopicId) -> Bytes {
    match id {
        TopicId::ZERO => Bytes::new(),
        id => Bytes::copy_from_slice(&id.get()),
    }
}

fn new_offset(ctx: &RequestContext, offset: &v1::OffsetToCommit) -> Result<NewOffset, Status> {
    check_name(&offset.topic)?;
    if offset.offset < 0 {
        return Err(invalid(format!(
            "offset {} of partition {} of topic {:?} is negative",
            offset.offset, offset.partition, offset.topic
        )));
    }
    Ok(NewOffset {
        topic: inner(ctx, &offset.topic),
        topic_id: topic_id(offset.topic_id.as_deref())?.unwrap_or(TopicId::ZERO),
        partition: PartitionId::new(offset.partition),
        offset: Offset::new(offset.offset),
        leader_epoch: LeaderEpoch::new(offset.leader_epoch.unwrap_or(-1)),
        metadata: offset.metadata.as_str().into(),
        committed_at: None,
    })
}

/// Topics with the partitions that are named of them, each once; none stands for all of the topic.
fn named_partitions(
    ctx: &RequestContext,
    topics: &[v1::NamedPartitions],
) -> Result<ByTopic, Status> {
    at_most("topics", topics.len(), MAX_PARTITIONS)?;
    let count = topics.iter().map(|topic| topic.partitions.len()).sum();
    at_most("partitions", count, MAX_PARTITIONS)?;
    let mut named = BTreeMap::new();
    for topic in topics {
        check_name(&topic.topic)?;
        let numbers = topic.partitions.iter().copied().map(PartitionId::new);
        let numbers: BTreeSet<_> = numbers.collect();
        match named.entry(inner(ctx, &topic.topic)) {
            Entry::Vacant(place) => {
                place.insert(numbers);
            }
            Entry::Occupied(mut held) => {
                let all = numbers.is_empty() || held.get().is_empty();
                held.get_mut().extend(numbers);
                if all {
                    held.get_mut().clear();
                }
            }
        }
    }
    Ok(named)
}

fn reset_to(
    ctx: &RequestContext,
    to: Option<v1::reset_offsets_request::To>,
) -> Result<ResetTo, Status> {
    use v1::reset_offsets_request::To;
    Ok(match to {
        Some(To::Earliest(_)) => ResetTo::Earliest,
        Some(To::Latest(_)) => ResetTo::Latest,
        Some(To::Offset(offset)) if offset >= 0 => ResetTo::Offset(Offset::new(offset)),
        Some(To::Offset(offset)) => return Err(invalid(format!("offset {offset} is negative"))),
        Some(To::TimestampMs(ms)) if ms >= 0 => ResetTo::Timestamp(Timestamp::new(ms)),
        Some(To::TimestampMs(ms)) => {
            return Err(invalid(format!("timestamp_ms {ms} lies before 1970")));
        }
        Some(To::ShiftBy(by)) => ResetTo::ShiftBy(by),
        Some(To::Exact(exact)) => ResetTo::Exact(exact_offsets(ctx, exact.offsets)?),
        None => {
            return Err(invalid(
                "say where to: earliest, latest, offset, timestamp_ms, shift_by or exact",
            ));
        }
    })
}

fn exact_offsets(
    ctx: &RequestContext,
    exact: Vec<v1::ExactOffset>,
) -> Result<Vec<NewOffset>, Status> {
    at_most("offsets", exact.len(), MAX_PARTITIONS)?;
    let mut seen = BTreeSet::new();
    for offset in &exact {
        let (topic, partition) = (&offset.topic, offset.partition);
        if !seen.insert((topic, partition)) {
            let message = format!("partition {partition} of topic {topic:?} is there twice");
            return Err(invalid(message));
        }
    }
    let offsets = exact.into_iter().map(|offset| {
        let offset = v1::OffsetToCommit {
            topic: offset.topic,
            topic_id: offset.topic_id,
            partition: offset.partition,
            offset: offset.offset,
            leader_epoch: offset.leader_epoch,
            metadata: offset.metadata,
        };
        new_offset(ctx, &offset)
    });
    offsets.collect()
}

fn summary(group: &ListedGroup) -> v1::GroupSummary {
    v1::GroupSummary {
        group_id: group.group_id.to_string(),
        state: group.state.to_owned(),
        r#type: group.group_type.to_owned(),
        protocol_type: group.protocol_type.to_string(),
    }
}

/// An assignment as the contract tells it.
pub(super) fn assignment(named: &Named) -> v1::Assignment {
    let topics = named
        .iter()
        .map(|((topic, id), partitions)| v1::TopicPartitions {
            topic: topic.to_string(),
            topic_id: Bytes::copy_from_slice(&id.get()),
            partitions: partitions.iter().map(|partition| partition.get()).collect(),
        });
    v1::Assignment {
        topics: topics.collect(),
    }
}
