//! `AlterPartitionReassignments` (45), versions 0 and 1, and `ListPartitionReassignments` (46), version 0: with one broker
//! there is nowhere to move to, and nothing is moving (KIP-455).

use std::sync::Arc;

use kafka_wire::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_wire::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use logweir_proto::{ErrorCode, PartitionId};

use crate::error::ApiError;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

pub(super) async fn alter(
    call: Arc<Call>,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let responses = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let wanted = partition.replicas.as_deref();
            let outcome = reassign(&call, &topic.name, partition.partition_index, wanted);
            message!(ReassignablePartitionResponse {
                partition_index: partition.partition_index,
                error_code: super::code(&outcome),
                error_message: outcome.err().map(|error| text(error.to_string())),
            })
        });
        message!(ReassignableTopicResponse {
            partitions: partitions.collect(),
            name: topic.name,
        })
    });
    message!(AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        error_message: None,
        responses: responses.collect(),
    })
}

/// To where it is already is done; null cancels what is under way.
fn reassign(
    call: &Call,
    topic: &str,
    partition: i32,
    wanted: Option<&[i32]>,
) -> Result<(), ApiError> {
    let topic = call.service.topic(&call.ctx, topic)?;
    let index = usize::try_from(partition).unwrap_or(usize::MAX);
    let Some(now) = topic.partitions.get(index) else {
        return Err(ApiError::unknown_partition(
            &topic.name,
            PartitionId::new(partition),
            topic.partitions.len(),
        ));
    };
    match wanted {
        None => Err(ApiError::new(
            ErrorCode::NoReassignmentInProgress,
            "it is not being moved",
        )),
        Some(wanted)
            if now
                .replicas
                .iter()
                .map(|node| node.get())
                .eq(wanted.iter().copied()) =>
        {
            Ok(())
        }
        Some(wanted) => Err(ApiError::new(
            ErrorCode::InvalidReplicaAssignment,
            format!("replicas {wanted:?} name brokers that are not there; there is one"),
        )),
    }
}

pub(super) async fn list(
    _: Arc<Call>,
    _: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    message!(ListPartitionReassignmentsResponse {
        error_message: None
    })
}
