//! `DeleteTopics` (20), versions 1 to 6: by name, and by id from version 6 on (KIP-516, KIP-525).

use std::sync::Arc;

use kafka_wire::delete_topics_response::DeletableTopicResult;
use kafka_wire::{DeleteTopicsRequest, DeleteTopicsResponse};
use kafka_wire_core::Uuid;
use logweir_proto::ErrorCode;

use super::time;
use crate::error::ApiError;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text, topic_id, uuid};
use crate::service::within;

/// The first version that names topics one by one, by name or id.
const FIRST_WITH_IDS: i16 = 6;
/// The first version that says what was wrong.
const FIRST_WITH_MESSAGES: i16 = 5;

pub(super) async fn handle(call: Arc<Call>, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let time = time(request.timeout_ms);
    let wanted: Vec<_> = match call.version {
        FIRST_WITH_IDS.. => request
            .topics
            .into_iter()
            .map(|topic| (topic.name, topic.topic_id))
            .collect(),
        _ => request
            .topic_names
            .into_iter()
            .map(|name| (Some(name), Uuid::ZERO))
            .collect(),
    };
    let mut responses = Vec::with_capacity(wanted.len());
    for (name, id) in wanted {
        let delete = async {
            let name = match &name {
                Some(name) => name.to_string(),
                None => name_of(&call, id)?,
            };
            call.service.delete_topic(&call.ctx, &name).await
        };
        responses.push(match within(time, delete).await {
            Ok(topic) => message!(DeletableTopicResult {
                name: Some(text(&topic.name)),
                topic_id: uuid(topic.id),
                error_message: None,
            }),
            Err(error) => message!(DeletableTopicResult {
                name: name,
                topic_id: id,
                error_code: error.code.code(),
                error_message: (call.version >= FIRST_WITH_MESSAGES)
                    .then(|| text(error.to_string())),
            }),
        });
    }
    message!(DeleteTopicsResponse {
        responses: responses
    })
}

fn name_of(call: &Call, id: Uuid) -> Result<String, ApiError> {
    let image = call.service.image();
    let topic = topic_id(id).and_then(|id| image.topic_by_id(&id).cloned());
    let unknown = || ApiError::new(ErrorCode::UnknownTopicId, "there is no topic of this id");
    topic
        .map(|topic| topic.name.to_string())
        .ok_or_else(unknown)
}
