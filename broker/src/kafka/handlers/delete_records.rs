//! `DeleteRecords` (21), versions 0 to 2: records below an offset, -1 for all that is committed (KIP-107).

use std::sync::Arc;

use kafka_wire::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_wire::{DeleteRecordsRequest, DeleteRecordsResponse};
use logweir_proto::{Offset, PartitionId};

use super::{code, time};
use crate::kafka::call::Call;
use crate::kafka::message::message;
use crate::service::within;

pub(super) async fn handle(
    call: Arc<Call>,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let time = time(request.timeout_ms);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let before = (wanted.offset != -1).then(|| Offset::new(wanted.offset));
            let partition = PartitionId::new(wanted.partition_index);
            let delete = call
                .service
                .delete_records(&call.ctx, &topic.name, partition, before);
            let outcome = within(time, delete).await;
            partitions.push(message!(DeleteRecordsPartitionResult {
                partition_index: wanted.partition_index,
                error_code: code(&outcome),
                low_watermark: outcome.map_or(-1, Offset::get),
            }));
        }
        topics.push(message!(DeleteRecordsTopicResult {
            name: topic.name,
            partitions: partitions,
        }));
    }
    message!(DeleteRecordsResponse { topics: topics })
}
