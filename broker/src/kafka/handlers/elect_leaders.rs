//! `ElectLeaders` (43), versions 0 to 2: on one broker the leader is the preferred one already (KIP-183, KIP-460).

use std::sync::Arc;

use kafka_wire::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_wire::{ElectLeadersRequest, ElectLeadersResponse};
use logweir_proto::{ErrorCode, PartitionId};

use crate::error::ApiError;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

pub(super) async fn handle(call: Arc<Call>, request: ElectLeadersRequest) -> ElectLeadersResponse {
    // Null is all partitions: of those that have their leader nothing is told.
    let topics = request
        .topic_partitions
        .unwrap_or_default()
        .into_iter()
        .map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let error = not_needed(&call, &topic.topic, *partition);
                message!(PartitionResult {
                    partition_id: *partition,
                    error_code: error.code.code(),
                    error_message: Some(text(error.to_string())),
                })
            });
            message!(ReplicaElectionResult {
                partition_result: partitions.collect(),
                topic: topic.topic,
            })
        });
    message!(ElectLeadersResponse {
        replica_election_results: topics.collect(),
    })
}

fn not_needed(call: &Call, topic: &str, partition: i32) -> ApiError {
    match call.service.topic(&call.ctx, topic) {
        Err(error) => error,
        Ok(topic) if (0..topic.partition_count()).contains(&partition) => {
            ApiError::new(ErrorCode::ElectionNotNeeded, "it has its preferred leader")
        }
        Ok(topic) => ApiError::unknown_partition(
            &topic.name,
            PartitionId::new(partition),
            topic.partitions.len(),
        ),
    }
}
