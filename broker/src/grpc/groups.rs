//! `logweir.v1.GroupService`, but for the membership stream (`membership.rs`).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::group_service_server::GroupService;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::error::ApiError;
use crate::grpc::Handler;
use crate::grpc::budget::Charge;
use crate::grpc::context::{context, topic_id};
use crate::grpc::membership;
use crate::grpc::status::{at_most, check_name, error_of, invalid, status};
use crate::service::groups::request::{
    CommitOffsets, DeleteOffsets, FetchGroup, ListGroups, NewOffset,
};
use crate::service::groups::{ByTopic, Epoch, ListedGroup, Named};
use crate::service::{
    GroupDescription, GroupPartition, MemberDescription, RequestContext, ResetTo, Resetting,
};

/// Groups of one request.
const MAX_GROUPS: usize = 1_000;
/// Partitions and offsets of one request.
const MAX_PARTITIONS: usize = 10_000;
/// Members and partitions of all groups that one response describes.
const MAX_DESCRIBED: usize = 100_000;
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
        let request = request.into_inner();
        at_most("groups", request.groups.len(), MAX_GROUPS)?;
        let mut room = MAX_DESCRIBED;
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in request.groups {
            let outcome = self.offsets_of(&ctx, &group).await?;
            let error = error_of(&outcome);
            let offsets = outcome.unwrap_or_default();
            room = room
                .checked_sub(offsets.len())
                .ok_or_else(|| too_many("offsets"))?;
            groups.push(v1::GroupOffsets {
                group_id: group.group_id,
                error,
                offsets,
            });
        }
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
        let mut partitions = Vec::new();
        for (topic, numbers) in named_partitions(&ctx, &request.topics)? {
            let all = match numbers.is_empty() {
                true => self.all_partitions(&ctx, &topic),
                false => Ok(numbers),
            };
            let all = all.map_err(|error| status(&error))?;
            partitions.extend(all.into_iter().map(|number| (Arc::clone(&topic), number)));
        }
        at_most("partitions", partitions.len(), MAX_PARTITIONS)?;
        let delete = DeleteOffsets {
            group_id: inner(&ctx, &request.group_id),
            partitions,
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
        let request = request.into_inner();
        at_most("groups", request.group_ids.len(), MAX_GROUPS)?;
        let mut room = MAX_DESCRIBED;
        let mut groups = Vec::with_capacity(request.group_ids.len());
        for group_id in request.group_ids {
            let outcome = self
                .service
                .describe_group(&ctx, &inner(&ctx, &group_id))
                .await;
            let error = error_of(&outcome);
            let described = outcome.ok().map(description).unwrap_or_default();
            room = room
                .checked_sub(described.members.len() + described.partitions.len())
                .ok_or_else(|| too_many("members and partitions"))?;
            groups.push(v1::GroupDescription {
                group_id,
                error,
                ..described
            });
        }
        Ok(Response::new(v1::DescribeGroupsResponse { groups }))
    }

    async fn delete_groups(
        &self,
        request: Request<v1::DeleteGroupsRequest>,
    ) -> Result<Response<v1::DeleteGroupsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        at_most("groups", request.group_ids.len(), MAX_GROUPS)?;
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
    /// The committed offsets of one group of a request; the outer error is about the request.
    async fn offsets_of(
        &self,
        ctx: &RequestContext,
        group: &v1::FetchOffsetsGroup,
    ) -> Result<Result<Vec<v1::CommittedOffset>, ApiError>, Status> {
        let topics = named_partitions(ctx, &group.topics)?;
        // Of a topic without numbers all partitions are meant, also those that it has no more.
        let exact = topics.iter().all(|(_, numbers)| !numbers.is_empty());
        let wanted = |topic: &Arc<str>, partition: PartitionId| {
            let fits = |(name, numbers): &(Arc<str>, Vec<PartitionId>)| {
                name == topic && (numbers.is_empty() || numbers.contains(&partition))
            };
            topics.is_empty() || topics.iter().any(fits)
        };
        let partitions = (exact && !topics.is_empty()).then(|| {
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
        Ok(fetched.map(|offsets| {
            let offsets = offsets
                .into_iter()
                .filter(|offset| exact || wanted(&offset.topic, offset.partition));
            let committed = offsets.filter_map(|offset| {
                let committed = offset.committed?;
                Some(v1::CommittedOffset {
                    topic: offset.topic.to_string(),
                    topic_id: known_id(committed.topic_id),
                    partition: offset.partition.get(),
                    offset: committed.offset.get(),
                    leader_epoch: committed.leader_epoch.get(),
                    metadata: committed.metadata.to_string(),
                    committed_at_ms: committed.committed_at.get(),
                })
            });
            committed.collect()
        }))
    }

    fn all_partitions(
        &self,
        ctx: &RequestContext,
        topic: &str,
    ) -> Result<Vec<PartitionId>, ApiError> {
        let count = self.service.topic(ctx, topic)?.partition_count();
        Ok((0..count).map(PartitionId::new).collect())
    }
}

/// The broker's name for the caller's.
pub(super) fn inner(ctx: &RequestContext, name: &str) -> Arc<str> {
    Arc::from(&*ctx.names.to_inner(name))
}

fn too_many(what: &str) -> Status {
    invalid(format!(
        "the answer would hold more than {MAX_DESCRIBED} {what}; ask for fewer groups at once"
    ))
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

fn named_partitions(
    ctx: &RequestContext,
    topics: &[v1::NamedPartitions],
) -> Result<ByTopic, Status> {
    at_most("topics", topics.len(), MAX_PARTITIONS)?;
    let count = topics.iter().map(|topic| topic.partitions.len()).sum();
    at_most("partitions", count, MAX_PARTITIONS)?;
    let mut named = Vec::with_capacity(topics.len());
    for topic in topics {
        check_name(&topic.topic)?;
        let numbers = topic.partitions.iter().copied().map(PartitionId::new);
        named.push((inner(ctx, &topic.topic), numbers.collect()));
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
        Some(To::Exact(exact)) => {
            at_most("offsets", exact.offsets.len(), MAX_PARTITIONS)?;
            let offsets = exact.offsets.into_iter().map(|offset| {
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
            ResetTo::Exact(offsets.collect::<Result<_, _>>()?)
        }
        None => {
            return Err(invalid(
                "say where to: earliest, latest, offset, timestamp_ms, shift_by or exact",
            ));
        }
    })
}

fn summary(group: &ListedGroup) -> v1::GroupSummary {
    v1::GroupSummary {
        group_id: group.group_id.to_string(),
        state: group.state.to_owned(),
        r#type: group.group_type.to_owned(),
        protocol_type: group.protocol_type.to_string(),
    }
}

fn description(group: GroupDescription) -> v1::GroupDescription {
    let (epoch, assignment_epoch) = group.epochs.map_or((-1, -1), |(epoch, assignment)| {
        (epoch.get(), assignment.get())
    });
    v1::GroupDescription {
        group_id: group.group_id.to_string(),
        error: None,
        state: group.state.to_owned(),
        r#type: group.group_type.to_owned(),
        protocol_type: group.protocol_type.to_string(),
        assignor: group.assignor.to_string(),
        epoch,
        assignment_epoch,
        coordinator_id: group.coordinator.get(),
        members: group.members.into_iter().map(member).collect(),
        partitions: group.partitions.into_iter().map(partition).collect(),
        lag_records: signed(group.lag.records),
        lag_ms: millis(group.lag.age),
    }
}

fn member(member: MemberDescription) -> v1::GroupMember {
    let names = member.topic_names.iter().map(ToString::to_string);
    v1::GroupMember {
        member_id: member.member_id.to_string(),
        instance_id: member.instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        rack_id: member.rack_id.map(|rack| rack.to_string()),
        member_epoch: member.epoch.map_or(-1, Epoch::get),
        subscription: Some(v1::Subscription {
            topics: names.collect(),
            topic_regex: member
                .topic_regex
                .map_or_else(String::new, |r| r.to_string()),
        }),
        assignment: Some(assignment(&member.assignment)),
        target: Some(assignment(&member.target)),
        lag_records: signed(member.lag.records),
        lag_ms: millis(member.lag.age),
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

fn partition(partition: GroupPartition) -> v1::GroupPartition {
    let leader_epoch = partition.leader_epoch().get();
    let (log_start, end) = partition
        .bounds
        .map_or((-1, -1), |(start, end)| (start.get(), end.get()));
    let committed = partition.committed.as_ref();
    v1::GroupPartition {
        topic: partition.topic.to_string(),
        topic_id: partition.topic_id.map_or_else(Bytes::new, known_id),
        partition: partition.partition.get(),
        member_id: partition
            .member_id
            .map_or_else(String::new, |id| id.to_string()),
        committed_offset: committed.map_or(-1, |committed| committed.offset.get()),
        leader_epoch,
        metadata: committed.map_or_else(String::new, |committed| committed.metadata.to_string()),
        committed_at_ms: committed.map_or(-1, |committed| committed.committed_at.get()),
        log_start_offset: log_start,
        end_offset: end,
        lag_records: partition.lag.map_or(-1, |lag| signed(lag.records)),
        lag_ms: partition.lag.map_or(-1, |lag| millis(lag.age)),
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
