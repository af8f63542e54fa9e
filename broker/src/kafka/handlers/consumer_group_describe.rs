//! `ConsumerGroupDescribe` (69), versions 0 and 1: groups of the consumer protocol (KIP-848).

use std::sync::Arc;

use kafka_wire::consumer_group_describe_response::{
    Assignment as Described, DescribedGroup, Member, TopicPartitions,
};
use kafka_wire::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse};
use kafka_wire_core::StrBytes;

use super::OPERATIONS_UNKNOWN;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text, uuid};
use crate::service::groups::{Assignment, ConsumerDescription, ConsumerMemberDescription};

/// A member of the consumer protocol, and not one of a group that is being converted.
const CONSUMER_MEMBER: i8 = 1;

pub(super) async fn handle(
    call: Arc<Call>,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let mut groups = Vec::with_capacity(request.group_ids.len());
    for group in request.group_ids {
        let described = call
            .service
            .describe_consumer_group(&call.ctx, &call.name(&group))
            .await;
        groups.push(match described {
            Ok(described) => describe(&call, group, described),
            Err(error) => message!(DescribedGroup {
                error_code: error.code.code(),
                error_message: Some(text(error.to_string())),
                group_id: group,
                authorized_operations: OPERATIONS_UNKNOWN,
            }),
        });
    }
    message!(ConsumerGroupDescribeResponse { groups: groups })
}

fn describe(call: &Call, group: StrBytes, described: ConsumerDescription) -> DescribedGroup {
    message!(DescribedGroup {
        group_id: group,
        group_state: text(described.state),
        group_epoch: described.epoch.get(),
        assignment_epoch: described.assignment_epoch.get(),
        assignor_name: text(described.assignor),
        members: described
            .members
            .into_iter()
            .map(|m| member(call, m))
            .collect(),
        authorized_operations: OPERATIONS_UNKNOWN,
    })
}

fn member(call: &Call, member: ConsumerMemberDescription) -> Member {
    message!(Member {
        member_id: text(&member.member_id),
        instance_id: member.instance_id.map(text),
        rack_id: member.rack_id.map(text),
        member_epoch: member.epoch.get(),
        client_id: text(&member.client_id),
        client_host: text(&member.client_host),
        subscribed_topic_names: member.topic_names.iter().map(text).collect(),
        subscribed_topic_regex: member.topic_regex.map(text),
        assignment: assignment(call, &member.assignment),
        target_assignment: assignment(call, &member.target),
        // Version 0 does not know it.
        member_type: if call.version >= 1 {
            CONSUMER_MEMBER
        } else {
            -1
        },
    })
}

fn assignment(call: &Call, assignment: &Assignment) -> Described {
    let named = call.service.named(assignment);
    let topics = named.into_iter().map(|((name, id), partitions)| {
        message!(TopicPartitions {
            topic_id: uuid(id),
            topic_name: text(name),
            partitions: partitions.iter().map(|partition| partition.get()).collect(),
        })
    });
    message!(Described {
        topic_partitions: topics.collect(),
    })
}
