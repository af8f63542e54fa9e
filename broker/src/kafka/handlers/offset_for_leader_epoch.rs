//! `OffsetForLeaderEpoch` (23), versions 2 to 4: where a leader epoch ends, by which a consumer notices that records it has
//! read were lost (KIP-320).

use std::sync::Arc;

use kafka_wire::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_wire::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_wire::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use logweir_proto::{LeaderEpoch, PartitionId};

use crate::kafka::call::Call;
use crate::kafka::message::message;

pub(super) async fn handle(
    call: Arc<Call>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic
            .partitions
            .iter()
            .map(|wanted| end(&call, &topic.topic, wanted));
        message!(OffsetForLeaderTopicResult {
            partitions: partitions.collect(),
            topic: topic.topic,
        })
    });
    message!(OffsetForLeaderEpochResponse {
        topics: topics.collect()
    })
}

fn end(call: &Call, topic: &str, wanted: &OffsetForLeaderPartition) -> EpochEndOffset {
    let known =
        (wanted.current_leader_epoch >= 0).then(|| LeaderEpoch::new(wanted.current_leader_epoch));
    let epoch = LeaderEpoch::new(wanted.leader_epoch);
    let partition = PartitionId::new(wanted.partition);
    match call
        .service
        .end_of_epoch(&call.ctx, topic, partition, known, epoch)
    {
        Ok(end) => message!(EpochEndOffset {
            partition: wanted.partition,
            leader_epoch: end.map_or(-1, |(epoch, _)| epoch.get()),
            end_offset: end.map_or(-1, |(_, offset)| offset.get()),
        }),
        Err(error) => message!(EpochEndOffset {
            error_code: error.code.code(),
            partition: wanted.partition,
            leader_epoch: -1,
            end_offset: -1,
        }),
    }
}
