//! `DescribeProducers` (61), version 0: idempotent producers that a partition remembers (KIP-664).

use std::sync::Arc;

use kafka_wire::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_wire::{DescribeProducersRequest, DescribeProducersResponse};
use logweir_proto::PartitionId;

use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

pub(super) async fn handle(
    call: Arc<Call>,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic
            .partition_indexes
            .iter()
            .map(|index| partition(&call, &topic.name, *index));
        message!(TopicResponse {
            partitions: partitions.collect(),
            name: topic.name,
        })
    });
    message!(DescribeProducersResponse {
        topics: topics.collect()
    })
}

fn partition(call: &Call, topic: &str, index: i32) -> PartitionResponse {
    let producers = match call
        .service
        .producers(&call.ctx, topic, PartitionId::new(index))
    {
        Ok(producers) => producers,
        Err(error) => {
            return message!(PartitionResponse {
                partition_index: index,
                error_code: error.code.code(),
                error_message: Some(text(error.to_string())),
            });
        }
    };
    let producers = producers.into_iter().map(|producer| {
        message!(ProducerState {
            producer_id: producer.id.get(),
            producer_epoch: producer.epoch.get().into(),
            last_sequence: producer.last_sequence.get(),
            last_timestamp: producer.last_timestamp.get(),
            // There are no transactions yet.
            coordinator_epoch: -1,
            current_txn_start_offset: -1,
        })
    });
    message!(PartitionResponse {
        partition_index: index,
        error_message: None,
        active_producers: producers.collect(),
    })
}
