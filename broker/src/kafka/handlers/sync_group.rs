//! `SyncGroup` (14), versions 0 to 5: the leader gives assignments, everybody gets one (KIP-345, KIP-559).

use std::sync::Arc;

use kafka_wire::{SyncGroupRequest, SyncGroupResponse};

use crate::kafka::call::Call;
use crate::kafka::message::{message, text};
use crate::service::groups::Generation;
use crate::service::groups::request::SyncGroup;

pub(super) async fn handle(call: Arc<Call>, request: SyncGroupRequest) -> SyncGroupResponse {
    let assignments = request.assignments.into_iter().map(|given| {
        // Kept for as long as the generation: a slice would keep the whole frame.
        (
            Arc::from(&*given.member_id),
            bytes::Bytes::copy_from_slice(&given.assignment),
        )
    });
    let sync = SyncGroup {
        group_id: call.name(&request.group_id),
        generation: Generation::new(request.generation_id),
        member_id: Arc::from(&*request.member_id),
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        protocol_type: request.protocol_type.as_deref().map(Arc::from),
        protocol: request.protocol_name.as_deref().map(Arc::from),
        assignments: assignments.collect(),
    };
    let _kept = call.is_parked(call.body.len());
    match call.service.sync_group(&call.ctx, sync).await {
        Ok(synced) => message!(SyncGroupResponse {
            protocol_type: synced.protocol_type.filter(|_| call.version >= 5).map(text),
            protocol_name: synced.protocol.filter(|_| call.version >= 5).map(text),
            assignment: synced.assignment,
        }),
        Err(error) => message!(SyncGroupResponse {
            error_code: error.code.code(),
        }),
    }
}
