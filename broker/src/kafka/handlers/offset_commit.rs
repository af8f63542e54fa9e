//! `OffsetCommit` (8), versions 1 to 9: commits offsets of members and of simple consumers (KIP-320, KIP-345, KIP-848).
//!
//! Version 1, which Kafka 4 dropped, is read in `legacy.rs`: Sarama sends it when it is told to speak to brokers of 0.11.
//! An error that concerns the whole commit stands with each of its partitions: the answer has no other place for it.

use std::sync::Arc;
use std::time::Duration;

use kafka_wire::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_wire::{OffsetCommitRequest, OffsetCommitResponse};
use logweir_proto::{LeaderEpoch, Offset, PartitionId, TopicId};

use super::code;
use crate::kafka::call::{Answer, Broken, Call};
use crate::kafka::legacy;
use crate::kafka::message::message;
use crate::service::groups::request::{CommitOffsets, NewOffset};

/// The first version whose clients know the errors of KIP-848.
const FIRST_WITH_EPOCHS: i16 = 9;

pub(super) async fn handle(call: Call) -> Result<Answer, Broken> {
    if call.version > 1 {
        return call.answer(commit).await;
    }
    let request = legacy::offset_commit_v1(&call.body)?;
    let call = Arc::new(call);
    let response = commit(Arc::clone(&call), request).await;
    // Version 2 is answered in the same form.
    Ok(Answer::Ready(call.encode_as(&response, 2)?))
}

async fn commit(call: Arc<Call>, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let mut offsets = Vec::new();
    for topic in &request.topics {
        let name: Arc<str> = Arc::from(&*topic.name);
        offsets.extend(topic.partitions.iter().map(|partition| NewOffset {
            topic: Arc::clone(&name),
            topic_id: TopicId::ZERO,
            partition: PartitionId::new(partition.partition_index),
            offset: Offset::new(partition.committed_offset),
            leader_epoch: LeaderEpoch::new(partition.committed_leader_epoch),
            metadata: Arc::from(partition.committed_metadata.as_deref().unwrap_or_default()),
            committed_at: None,
        }));
    }
    let count = offsets.len();
    let retention = u64::try_from(request.retention_time_ms)
        .ok()
        .filter(|_| call.version <= 4);
    let commit = CommitOffsets {
        group_id: call.name(&request.group_id),
        member_id: Arc::from(&*request.member_id),
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        generation_or_epoch: request.generation_id_or_member_epoch,
        knows_epochs: call.version >= FIRST_WITH_EPOCHS,
        retention: retention.map(Duration::from_millis),
        offsets,
    };
    let codes = match call.service.commit_offsets(&call.ctx, commit).await {
        Ok(results) => results.iter().map(code).collect(),
        Err(error) => vec![error.code.code(); count],
    };
    let mut codes = codes.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(codes.by_ref());
        let partitions = partitions.map(|(partition, code)| {
            message!(OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: code,
            })
        });
        message!(OffsetCommitResponseTopic {
            partitions: partitions.collect(),
            name: topic.name,
        })
    });
    message!(OffsetCommitResponse {
        topics: topics.collect(),
    })
}
