//! `DescribeTopicPartitions` (75), version 0: topics with their partitions, in pages (KIP-966).

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_wire::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_wire::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use logweir_proto::{ErrorCode, NodeId};

use super::OPERATIONS_UNKNOWN;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text, uuid};
use crate::service::TopicImage;

/// Partitions of one answer at most (Kafka's `max.request.partition.size.limit`).
const MAX_PARTITIONS: usize = 2_000;

pub(super) async fn handle(
    call: Arc<Call>,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let image = call.service.image();
    let mut wanted: BTreeSet<String> = request
        .topics
        .iter()
        .map(|topic| topic.name.to_string())
        .collect();
    if wanted.is_empty() {
        wanted = image
            .topics_after("")
            .map(|topic| topic.name.to_string())
            .collect();
    }
    let (first, mut from) = match &request.cursor {
        Some(cursor) => (
            cursor.topic_name.to_string(),
            usize::try_from(cursor.partition_index).unwrap_or(0),
        ),
        None => (String::new(), 0),
    };
    let mut left = usize::try_from(request.response_partition_limit)
        .unwrap_or(0)
        .clamp(1, MAX_PARTITIONS);
    let (mut topics, mut next_cursor) = (Vec::new(), None);
    for name in wanted.range(first.clone()..) {
        if *name != first {
            from = 0;
        }
        if left == 0 {
            next_cursor = Some(cursor(name, 0));
            break;
        }
        match call.service.describe_topic(&call.ctx, name, false).await {
            Ok(topic) => {
                let end = topic.partitions.len().min(from.saturating_add(left));
                topics.push(description(&topic, from, end));
                left -= end.saturating_sub(from);
                if end < topic.partitions.len() {
                    next_cursor = Some(cursor(name, end));
                    break;
                }
            }
            Err(error) => topics.push(message!(DescribeTopicPartitionsResponseTopic {
                error_code: error.code.code(),
                name: Some(text(name)),
                topic_authorized_operations: OPERATIONS_UNKNOWN,
            })),
        }
    }
    message!(DescribeTopicPartitionsResponse {
        topics: topics,
        next_cursor: next_cursor,
    })
}

fn cursor(topic: &str, partition: usize) -> Cursor {
    message!(Cursor {
        topic_name: text(topic),
        partition_index: i32::try_from(partition).unwrap_or(i32::MAX),
    })
}

fn description(
    topic: &TopicImage,
    from: usize,
    end: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.get()).collect::<Vec<i32>>();
    let partitions = topic
        .partitions
        .iter()
        .enumerate()
        .take(end)
        .skip(from)
        .map(|(index, partition)| {
            let error = match partition.leader {
                Some(_) => ErrorCode::None,
                None => ErrorCode::LeaderNotAvailable,
            };
            message!(DescribeTopicPartitionsResponsePartition {
                error_code: error.code(),
                partition_index: i32::try_from(index).unwrap_or(i32::MAX),
                leader_id: partition.leader.map_or(-1, |leader| leader.get()),
                leader_epoch: partition.leader_epoch.get(),
                replica_nodes: ids(&partition.replicas),
                isr_nodes: ids(&partition.isr),
                eligible_leader_replicas: Some(ids(&partition.elr)),
                last_known_elr: Some(ids(&partition.last_known_elr)),
            })
        });
    message!(DescribeTopicPartitionsResponseTopic {
        name: Some(text(&topic.name)),
        topic_id: uuid(topic.id),
        is_internal: topic.is_internal(),
        partitions: partitions.collect(),
        topic_authorized_operations: OPERATIONS_UNKNOWN,
    })
}
