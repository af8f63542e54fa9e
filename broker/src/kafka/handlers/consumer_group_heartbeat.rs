//! `ConsumerGroupHeartbeat` (68), versions 0 and 1: members of the consumer protocol (KIP-848), in one group with those of
//! gRPC. Answered at once; the member watches its own polls and leaves by itself.

use std::sync::Arc;

use kafka_wire::consumer_group_heartbeat_request::TopicPartitions as Owned;
use kafka_wire::consumer_group_heartbeat_response::{Assignment as Response, TopicPartitions};
use kafka_wire::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use logweir_proto::{PartitionId, TopicId};

use super::shared;
use crate::error::ApiError;
use crate::kafka::call::Call;
use crate::kafka::message::{message, millis, text, uuid};
use crate::service::groups::request::ConsumerHeartbeat;
use crate::service::groups::{Assignment, ConsumerHeartbeatAnswer, Epoch};

pub(super) async fn handle(
    call: Arc<Call>,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    match beat(&call, request).await {
        Ok(answer) => message!(ConsumerGroupHeartbeatResponse {
            member_id: Some(text(&answer.member_id)),
            member_epoch: answer.member_epoch.get(),
            heartbeat_interval_ms: millis(answer.heartbeat_interval),
            assignment: answer.assignment.as_ref().map(assignment),
        }),
        Err(error) => {
            call.log_refused(&error);
            message!(ConsumerGroupHeartbeatResponse {
                error_code: error.code.code(),
                error_message: Some(text(error.to_string())),
            })
        }
    }
}

async fn beat(
    call: &Call,
    request: ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerHeartbeatAnswer, ApiError> {
    let some = |text: Option<kafka_wire_core::StrBytes>| text.as_deref().map(Arc::from);
    let heartbeat = ConsumerHeartbeat {
        group_id: call.name(&request.group_id),
        member_id: Arc::from(&*request.member_id),
        member_epoch: Epoch::new(request.member_epoch),
        instance_id: some(request.instance_id),
        rack_id: some(request.rack_id),
        client_id: Arc::clone(&call.ctx.client_id),
        client_host: Arc::clone(&call.ctx.client_host),
        // -1 says that it did not change.
        rebalance_timeout: (request.rebalance_timeout_ms >= 0)
            .then(|| shared(request.rebalance_timeout_ms)),
        topic_names: request
            .subscribed_topic_names
            .map(|names| names.iter().map(|name| Arc::from(&**name)).collect()),
        topic_regex: some(request.subscribed_topic_regex),
        server_assignor: some(request.server_assignor),
        owned: request.topic_partitions.map(owned),
        poll: None,
        wait: None,
    };
    let hit = call
        .service
        .expect_heartbeat(&call.ctx, &heartbeat.group_id)
        .await?;
    call.service
        .consumer_heartbeat(&call.ctx, heartbeat, hit)
        .await
}

fn owned(topics: Vec<Owned>) -> Assignment {
    let mut all = Assignment::default();
    for topic in topics {
        for partition in topic.partitions {
            all.insert(
                TopicId::new(topic.topic_id.to_bytes()),
                PartitionId::new(partition),
            );
        }
    }
    all
}

fn assignment(assignment: &Assignment) -> Response {
    let topics = assignment.topics().map(|(id, partitions)| {
        message!(TopicPartitions {
            topic_id: uuid(id),
            partitions: partitions.iter().map(|partition| partition.get()).collect(),
        })
    });
    message!(Response {
        topic_partitions: topics.collect(),
    })
}
