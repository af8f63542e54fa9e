//! `CreateTopics` (19), versions 1 to 7: topics with partitions and configuration (KIP-464, KIP-525).
//!
//! Version 1, which Kafka 4 dropped, has the form of version 2 without the throttle time. -1 partitions or replicas are
//! the broker's defaults, in every version: kafkajs sends them before version 4. Replicas that the client places itself
//! give their number; where they are is decided by the broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_wire::create_topics_request::CreatableTopic;
use kafka_wire::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_wire::{CreateTopicsRequest, CreateTopicsResponse};
use logweir_proto::ErrorCode;

use super::{config_source, time};
use crate::error::ApiError;
use crate::kafka::call::{Answer, Broken, Call};
use crate::kafka::message::{message, text, uuid};
use crate::service::{CreateTopic, TopicOutcome, within};

pub(super) async fn handle(call: Call) -> Result<Answer, Broken> {
    if call.version > 1 {
        return call.answer(create).await;
    }
    let request = call.decode_as(2)?;
    let call = Arc::new(call);
    let response = create(Arc::clone(&call), request).await;
    let mut frame = call.begin();
    crate::kafka::legacy::put_create_topics_v1(&mut frame, &response)?;
    Ok(Answer::Ready(vec![crate::kafka::call::finish(frame, 0)]))
}

async fn create(call: Arc<Call>, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let time = time(request.timeout_ms);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = topic.name.clone();
        let create = async {
            let topic = new_topic(topic)?;
            call.service
                .create_topic(&call.ctx, topic, request.validate_only)
                .await
        };
        let outcome = within(time, create).await;
        if let Err(error) = &outcome {
            call.log_refused(error);
        }
        topics.push(result(&call, name, outcome).await);
    }
    message!(CreateTopicsResponse { topics: topics })
}

fn new_topic(topic: CreatableTopic) -> Result<CreateTopic, ApiError> {
    let invalid = |message: &str| Err(ApiError::new(ErrorCode::InvalidRequest, message));
    let mut partitions = (topic.num_partitions != -1).then_some(topic.num_partitions);
    let mut replication_factor =
        (topic.replication_factor != -1).then_some(topic.replication_factor);
    if !topic.assignments.is_empty() {
        if partitions.is_some() || replication_factor.is_some() {
            return invalid(
                "a topic has either assignments or a number of partitions and replicas",
            );
        }
        let replicas = topic
            .assignments
            .iter()
            .map(|a| a.broker_ids.len())
            .max()
            .unwrap_or(0);
        partitions = i32::try_from(topic.assignments.len()).ok();
        replication_factor = i16::try_from(replicas).ok();
    }
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            return invalid("a setting of a new topic has no value");
        };
        configs.insert(config.name.to_string(), value.to_string());
    }
    Ok(CreateTopic {
        name: topic.name.to_string(),
        partitions,
        replication_factor,
        configs,
    })
}

async fn result(
    call: &Call,
    name: kafka_wire_core::StrBytes,
    outcome: Result<TopicOutcome, ApiError>,
) -> CreatableTopicResult {
    match outcome {
        Ok(TopicOutcome::Done(topic)) => {
            let configs = configs(call, &topic.name).await;
            message!(CreatableTopicResult {
                name: name,
                topic_id: uuid(topic.id),
                num_partitions: topic.partition_count(),
                replication_factor: i16::try_from(topic.replication_factor()).unwrap_or(i16::MAX),
                error_message: None,
                configs: configs,
            })
        }
        Ok(TopicOutcome::Valid {
            partitions,
            replication_factor,
        }) => message!(CreatableTopicResult {
            name: name,
            num_partitions: partitions,
            replication_factor: i16::try_from(replication_factor).unwrap_or(i16::MAX),
            error_message: None,
            configs: Some(Vec::new()),
        }),
        Err(error) => message!(CreatableTopicResult {
            name: name,
            error_code: error.code.code(),
            error_message: Some(text(error.to_string())),
            num_partitions: -1,
            replication_factor: -1,
            configs: None,
        }),
    }
}

/// The configuration in force, which versions 5 and up tell.
async fn configs(call: &Call, topic: &str) -> Option<Vec<CreatableTopicConfigs>> {
    if call.version < 5 {
        return Some(Vec::new());
    }
    let config = call.service.topic_config(&call.ctx, topic).await.ok()?;
    let configs = config.entries().into_iter().map(|entry| {
        message!(CreatableTopicConfigs {
            name: text(entry.key),
            value: Some(text(entry.value)),
            config_source: config_source(entry.source),
        })
    });
    Some(configs.collect())
}
