//! `CreatePartitions` (37), versions 0 to 3: more partitions for a topic (KIP-195).

use std::sync::Arc;

use kafka_wire::create_partitions_response::CreatePartitionsTopicResult;
use kafka_wire::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::{code, time};
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};
use crate::service::within;

pub(super) async fn handle(
    call: Arc<Call>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let time = time(request.timeout_ms);
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        // Where the new ones are is decided by the broker, whatever the client says.
        let create = call.service.create_partitions(
            &call.ctx,
            &topic.name,
            topic.count,
            request.validate_only,
        );
        let outcome = within(time, create).await;
        results.push(message!(CreatePartitionsTopicResult {
            name: topic.name,
            error_code: code(&outcome),
            error_message: outcome.err().map(|error| text(error.to_string())),
        }));
    }
    message!(CreatePartitionsResponse { results: results })
}
