//! A group in full, as the contract tells it, and what that takes.

use std::time::Duration;

use bytes::Bytes;
use logweir_proto::grpc::v1;

use super::{assignment, known_id};
use crate::service::groups::{Epoch, Named};
use crate::service::{GroupDescription, GroupPartition, MemberDescription};

/// What a member takes beside its strings and partitions, and a partition or a topic beside its strings, at most.
const MEMBER_BYTES: usize = 160;
const PARTITION_BYTES: usize = 160;
const TOPIC_BYTES: usize = 40;
/// A partition's number.
const NUMBER_BYTES: usize = 5;

/// What a description takes, at most.
pub(super) fn bytes_of(group: &GroupDescription) -> usize {
    let members = group.members.iter().map(member_bytes);
    let partitions = group.partitions.iter().map(partition_bytes);
    let names = group.protocol_type.len() + group.assignor.len();
    names + members.sum::<usize>() + partitions.sum::<usize>()
}

fn member_bytes(member: &MemberDescription) -> usize {
    let optional = [&member.instance_id, &member.rack_id, &member.topic_regex];
    let optional = optional.into_iter().flatten().map(|text| text.len());
    let names = member.topic_names.iter().map(|name| name.len() + 4);
    let named = named_bytes(&member.assignment) + named_bytes(&member.target);
    let ids = member.member_id.len() + member.client_id.len() + member.client_host.len();
    MEMBER_BYTES + ids + optional.sum::<usize>() + names.sum::<usize>() + named
}

fn named_bytes(named: &Named) -> usize {
    let topics = named.iter().map(|((topic, _), partitions)| {
        TOPIC_BYTES + topic.len() + partitions.len() * NUMBER_BYTES
    });
    topics.sum()
}

fn partition_bytes(partition: &GroupPartition) -> usize {
    let owner = partition.member_id.as_ref().map_or(0, |id| id.len());
    let metadata = partition.committed.as_ref().map_or(0, |c| c.metadata.len());
    PARTITION_BYTES + partition.topic.len() + owner + metadata
}

/// A description without an error.
pub(super) fn description(group: GroupDescription) -> v1::GroupDescription {
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
        lag_ms: age_ms(group.lag.age),
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
        lag_ms: age_ms(member.lag.age),
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
        lag_ms: partition.lag.map_or(-1, |lag| age_ms(lag.age)),
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn age_ms(age: Option<Duration>) -> i64 {
    age.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use logweir_proto::{LeaderEpoch, NodeId, Offset, PartitionId, Timestamp, TopicId};
    use prost::Message as _;

    use super::*;
    use crate::service::groups::{CommittedOffset, Lag};

    fn member_of(index: i32) -> MemberDescription {
        let name: Arc<str> = "a".repeat(200).into();
        let numbers = (0..300).map(|n| PartitionId::new(i32::MAX - n)).collect();
        let named = Named::from([((Arc::clone(&name), TopicId::new([7; 16])), numbers)]);
        MemberDescription {
            member_id: format!("member-{index}").into(),
            instance_id: Some(Arc::clone(&name)),
            rack_id: Some(Arc::clone(&name)),
            client_id: Arc::clone(&name),
            client_host: Arc::clone(&name),
            epoch: Some(Epoch::new(i32::MAX)),
            topic_names: vec![Arc::clone(&name); 10],
            topic_regex: Some(name),
            assignment: named.clone(),
            target: named,
            lag: Lag {
                records: u64::MAX,
                age: Some(Duration::MAX),
            },
        }
    }

    fn partition_of(index: i32) -> GroupPartition {
        GroupPartition {
            topic: "t".repeat(249).into(),
            topic_id: Some(TopicId::new([7; 16])),
            partition: PartitionId::new(i32::MAX - index),
            member_id: Some("m".repeat(4_096).into()),
            committed: Some(CommittedOffset {
                offset: Offset::new(i64::MAX),
                leader_epoch: LeaderEpoch::NONE,
                metadata: "x".repeat(4_096).into(),
                committed_at: Timestamp::NONE,
                expires_at: None,
                topic_id: TopicId::ZERO,
            }),
            bounds: Some((Offset::new(-1), Offset::new(-1))),
            lag: None,
        }
    }

    /// What is counted decides whether an answer fits; it must not be less than what is sent.
    #[test]
    fn a_description_is_counted_for_at_least_what_is_encoded_and_not_for_much_more() {
        let group = GroupDescription {
            group_id: "g".into(),
            state: "PreparingRebalance",
            group_type: "consumer",
            protocol_type: "p".repeat(4_096).into(),
            assignor: "a".repeat(4_096).into(),
            epochs: Some((Epoch::new(-1), Epoch::new(-1))),
            coordinator: NodeId::new(-1),
            members: (0..100).map(member_of).collect(),
            partitions: (0..100).map(partition_of).collect(),
            lag: Lag::default(),
        };
        let counted = bytes_of(&group) + super::super::group_bytes("g", 0);
        let encoded = description(group).encoded_len();
        assert!(
            (encoded..encoded * 11 / 10).contains(&counted),
            "{counted} for {encoded}"
        );
    }
}
