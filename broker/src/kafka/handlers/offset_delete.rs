//! `OffsetDelete` (47), version 0: forgets committed offsets (KIP-496).

use std::sync::Arc;

use kafka_wire::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_wire::{OffsetDeleteRequest, OffsetDeleteResponse};
use logweir_proto::PartitionId;

use crate::kafka::call::Call;
use crate::kafka::message::{message, text};
use crate::service::groups::request::DeleteOffsets;

pub(super) async fn handle(call: Arc<Call>, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let mut partitions = Vec::new();
    for topic in &request.topics {
        let name: Arc<str> = Arc::from(&*topic.name);
        let of_topic = topic.partitions.iter();
        partitions
            .extend(of_topic.map(|p| (Arc::clone(&name), PartitionId::new(p.partition_index))));
    }
    let delete = DeleteOffsets {
        group_id: call.name(&request.group_id),
        partitions,
        whole_topics: Vec::new(),
    };
    let answers = match call.service.delete_offsets(&call.ctx, delete).await {
        Ok(answers) => answers,
        Err(error) => {
            return message!(OffsetDeleteResponse {
                error_code: error.code.code(),
            });
        }
    };
    let topics = answers.chunk_by(|a, b| a.topic == b.topic).map(|answers| {
        let partitions = answers.iter().map(|answer| {
            message!(OffsetDeleteResponsePartition {
                partition_index: answer.partition.get(),
                error_code: answer
                    .result
                    .as_ref()
                    .err()
                    .map_or(0, |error| error.code.code()),
            })
        });
        message!(OffsetDeleteResponseTopic {
            name: text(&answers[0].topic),
            partitions: partitions.collect(),
        })
    });
    message!(OffsetDeleteResponse {
        topics: topics.collect(),
    })
}
