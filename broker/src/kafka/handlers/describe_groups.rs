//! `DescribeGroups` (15), versions 0 to 6: classic groups with members, metadata and assignments (KIP-345).
//!
//! A group that is not there, or of the consumer protocol, is Dead; from version 6 on it is `GROUP_ID_NOT_FOUND` (KIP-1043).

use std::sync::Arc;

use kafka_wire::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_wire::{DescribeGroupsRequest, DescribeGroupsResponse};
use kafka_wire_core::StrBytes;

use super::OPERATIONS_UNKNOWN;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};
use crate::service::groups::ClassicDescription;

/// The first version that tells errors apart from dead groups.
const FIRST_WITH_NOT_FOUND: i16 = 6;

pub(super) async fn handle(
    call: Arc<Call>,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in request.groups {
        let described = call
            .service
            .describe_classic_group(&call.ctx, &call.name(&group))
            .await;
        groups.push(match described {
            Ok(described) => describe(&call, group, described),
            Err(error) => message!(DescribedGroup {
                error_code: error.code.code(),
                error_message: told(&call, Some(error.to_string())),
                group_id: group,
                authorized_operations: OPERATIONS_UNKNOWN,
            }),
        });
    }
    message!(DescribeGroupsResponse { groups: groups })
}

fn told(call: &Call, error: Option<String>) -> Option<StrBytes> {
    error
        .filter(|_| call.version >= FIRST_WITH_NOT_FOUND)
        .map(text)
}

fn describe(call: &Call, group: StrBytes, described: ClassicDescription) -> DescribedGroup {
    let members = described.members.into_iter().map(|member| {
        message!(DescribedGroupMember {
            member_id: text(&member.member_id),
            group_instance_id: member.instance_id.filter(|_| call.version >= 4).map(text),
            client_id: text(&member.client_id),
            client_host: text(&member.client_host),
            member_metadata: member.metadata,
            member_assignment: member.assignment,
        })
    });
    let error = described
        .error
        .filter(|_| call.version >= FIRST_WITH_NOT_FOUND);
    message!(DescribedGroup {
        error_code: error.as_ref().map_or(0, |error| error.code.code()),
        error_message: told(call, error.map(|error| error.message)),
        group_id: group,
        group_state: text(described.state),
        protocol_type: text(&described.protocol_type),
        protocol_data: text(&described.protocol),
        members: members.collect(),
        authorized_operations: OPERATIONS_UNKNOWN,
    })
}
