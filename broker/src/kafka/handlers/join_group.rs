//! `JoinGroup` (11), versions 0 to 9: joins a classic group and waits for the generation (KIP-62, KIP-394, KIP-345, KIP-814).

use std::sync::Arc;

use kafka_wire::join_group_response::JoinGroupResponseMember;
use kafka_wire::{JoinGroupRequest, JoinGroupResponse};
use logweir_proto::ErrorCode;

use super::shared;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};
use crate::service::groups::request::{JoinGroup, Protocol};
use crate::service::groups::{JoinAnswer, Joined};

pub(super) async fn handle(call: Arc<Call>, request: JoinGroupRequest) -> JoinGroupResponse {
    let session_timeout = shared(request.session_timeout_ms);
    let asked = request.member_id.clone();
    let join = JoinGroup {
        group_id: call.name(&request.group_id),
        member_id: Arc::from(&*request.member_id),
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        client_id: Arc::clone(&call.ctx.client_id),
        client_host: Arc::clone(&call.ctx.client_host),
        session_timeout,
        // Version 0 knows one time-out only.
        rebalance_timeout: match call.version {
            0 => session_timeout,
            _ => shared(request.rebalance_timeout_ms),
        },
        protocol_type: Arc::from(&*request.protocol_type),
        protocols: request.protocols.into_iter().map(protocol).collect(),
        member_id_required: call.version >= 4,
        can_skip_assignment: call.version >= 9,
    };
    let _kept = call.is_parked(call.body.len());
    match call.service.join_group(&call.ctx, join).await {
        Ok(JoinAnswer {
            member_id,
            result: Ok(joined),
        }) => response(&call, &member_id, joined),
        Ok(JoinAnswer {
            member_id,
            result: Err(error),
        }) => refused(&call, error.code, text(&member_id)),
        Err(error) => refused(&call, error.code, asked),
    }
}

fn protocol(protocol: kafka_wire::join_group_request::JoinGroupRequestProtocol) -> Protocol {
    Protocol {
        name: Arc::from(&*protocol.name),
        // Kept for as long as the member: a slice would keep the whole frame.
        metadata: bytes::Bytes::copy_from_slice(&protocol.metadata),
    }
}

fn response(call: &Call, member_id: &str, joined: Joined) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| {
        message!(JoinGroupResponseMember {
            member_id: text(&member.member_id),
            group_instance_id: member.instance_id.filter(|_| call.version >= 5).map(text),
            metadata: member.metadata,
        })
    });
    message!(JoinGroupResponse {
        generation_id: joined.generation.get(),
        protocol_type: joined.protocol_type.filter(|_| call.version >= 7).map(text),
        protocol_name: Some(text(joined.protocol.as_deref().unwrap_or_default())),
        leader: text(&joined.leader),
        skip_assignment: call.version >= 9 && joined.skip_assignment,
        member_id: text(member_id),
        members: members.collect(),
    })
}

fn refused(
    call: &Call,
    code: ErrorCode,
    member_id: kafka_wire_core::StrBytes,
) -> JoinGroupResponse {
    message!(JoinGroupResponse {
        error_code: code.code(),
        generation_id: -1,
        // Null is for versions that know it.
        protocol_name: (call.version < 7).then(|| text("")),
        member_id: member_id,
    })
}
