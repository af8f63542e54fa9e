//! `LeaveGroup` (13), versions 0 to 5: members leave, or are removed by their instance ids (KIP-345).
//!
//! Below version 3 one member leaves and its error is the answer's.

use std::sync::Arc;

use kafka_wire::leave_group_response::MemberResponse;
use kafka_wire::{LeaveGroupRequest, LeaveGroupResponse};

use crate::kafka::call::Call;
use crate::kafka::message::{message, text};
use crate::service::groups::request::{LeaveGroup, LeavingMember};

/// The first version that names several members.
const FIRST_WITH_MANY: i16 = 3;

pub(super) async fn handle(call: Arc<Call>, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let members = match call.version {
        ..FIRST_WITH_MANY => vec![LeavingMember {
            member_id: Arc::from(&*request.member_id),
            instance_id: None,
        }],
        _ => {
            let members = request.members.iter().map(|member| LeavingMember {
                member_id: Arc::from(&*member.member_id),
                instance_id: member.group_instance_id.as_deref().map(Arc::from),
            });
            members.collect()
        }
    };
    let leave = LeaveGroup {
        group_id: call.name(&request.group_id),
        members,
    };
    let left = match call.service.leave_group(&call.ctx, leave).await {
        Ok(left) => left,
        Err(error) => {
            return message!(LeaveGroupResponse {
                error_code: error.code.code(),
            });
        }
    };
    if call.version < FIRST_WITH_MANY {
        let failed = left.into_iter().find_map(|member| member.result.err());
        return message!(LeaveGroupResponse {
            error_code: failed.map_or(0, |error| error.code.code()),
        });
    }
    let members = left.into_iter().map(|member| {
        message!(MemberResponse {
            member_id: text(&member.member_id),
            group_instance_id: member.instance_id.map(text),
            error_code: member.result.err().map_or(0, |error| error.code.code()),
        })
    });
    message!(LeaveGroupResponse {
        members: members.collect(),
    })
}
