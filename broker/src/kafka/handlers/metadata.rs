//! `Metadata` (3), versions 0 to 13: brokers, topics, leaders.
//!
//! No topics named is all topics in version 0, and none from 1 on, where null is all. Below version 4 a topic that does
//! not exist is always to be made, if the broker allows it. Topics by id from version 10 on (KIP-516).

use std::sync::Arc;

use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_wire::{MetadataRequest, MetadataResponse};
use logweir_proto::ErrorCode;

use super::OPERATIONS_UNKNOWN;
use crate::kafka::addresses;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text, topic_id, uuid};
use crate::service::TopicImage;

pub(super) async fn handle(call: Arc<Call>, request: MetadataRequest) -> MetadataResponse {
    let wanted = match request.topics {
        Some(topics) if call.version == 0 && topics.is_empty() => None,
        topics => topics,
    };
    let allow_auto_create = call.version < 4 || request.allow_auto_topic_creation;
    let topics = match wanted {
        Some(topics) => {
            let mut found = Vec::with_capacity(topics.len());
            for topic in &topics {
                found.push(find(&call, topic, allow_auto_create).await);
            }
            found
        }
        None => all(&call).await,
    };
    let image = call.service.image();
    let brokers = addresses::brokers(&call.service, &image, &call.peer);
    let brokers = brokers.into_iter().map(|address| {
        message!(MetadataResponseBroker {
            node_id: address.node_id.get(),
            host: text(address.host),
            port: address.port,
            rack: address.rack.map(text),
        })
    });
    message!(MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: Some(text(&image.cluster_id)),
        controller_id: image.controller.map_or(-1, |node| node.get()),
        topics: topics,
        cluster_authorized_operations: OPERATIONS_UNKNOWN,
    })
}

/// Every topic; one that an injected fault hits has its error.
async fn all(call: &Call) -> Vec<MetadataResponseTopic> {
    let Ok(image) = call.service.cluster(&call.ctx).await else {
        return Vec::new();
    };
    image
        .topics_after("")
        .map(|topic| description(topic))
        .collect()
}

async fn find(
    call: &Call,
    wanted: &MetadataRequestTopic,
    allow_auto_create: bool,
) -> MetadataResponseTopic {
    let image = call.service.image();
    let (name, id) = match (&wanted.name, topic_id(wanted.topic_id)) {
        (Some(name), _) => (name.to_string(), None),
        (None, Some(id)) => match image.topic_by_id(&id) {
            Some(topic) => (topic.name.to_string(), Some(id)),
            None => {
                return message!(MetadataResponseTopic {
                    error_code: ErrorCode::UnknownTopicId.code(),
                    topic_id: uuid(id),
                    name: none_or_empty(call),
                    topic_authorized_operations: OPERATIONS_UNKNOWN,
                });
            }
        },
        (None, None) => (String::new(), None),
    };
    let allow_auto_create = allow_auto_create && id.is_none();
    match call
        .service
        .describe_topic(&call.ctx, &name, allow_auto_create)
        .await
    {
        Ok(topic) => description(&topic),
        Err(error) => {
            call.log_refused(&error);
            message!(MetadataResponseTopic {
                error_code: error.code.code(),
                name: Some(text(&name)),
                topic_authorized_operations: OPERATIONS_UNKNOWN,
            })
        }
    }
}

/// The name of a topic that nobody knows: null, where the version can say so.
fn none_or_empty(call: &Call) -> Option<kafka_wire_core::StrBytes> {
    (call.version < 12).then(|| text(""))
}

fn description(topic: &TopicImage) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().zip(0..);
    let partitions = partitions.map(|(partition, index)| {
        let ids = |nodes: &[logweir_proto::NodeId]| nodes.iter().map(|node| node.get()).collect();
        let error_code = match partition.leader {
            Some(_) => ErrorCode::None,
            None => ErrorCode::LeaderNotAvailable,
        };
        message!(MetadataResponsePartition {
            error_code: error_code.code(),
            partition_index: index,
            leader_id: partition.leader.map_or(-1, |leader| leader.get()),
            leader_epoch: partition.leader_epoch.get(),
            replica_nodes: ids(&partition.replicas),
            isr_nodes: ids(&partition.isr),
        })
    });
    message!(MetadataResponseTopic {
        name: Some(text(&topic.name)),
        topic_id: uuid(topic.id),
        is_internal: topic.is_internal(),
        partitions: partitions.collect(),
        topic_authorized_operations: OPERATIONS_UNKNOWN,
    })
}
