//! `Heartbeat` (12), versions 0 to 4: a member of a classic group lives (KIP-345).

use std::sync::Arc;

use kafka_wire::{HeartbeatRequest, HeartbeatResponse};

use crate::kafka::call::Call;
use crate::kafka::message::message;
use crate::service::groups::Generation;
use crate::service::groups::request::Heartbeat;

pub(super) async fn handle(call: Arc<Call>, request: HeartbeatRequest) -> HeartbeatResponse {
    let heartbeat = Heartbeat {
        group_id: call.name(&request.group_id),
        generation: Generation::new(request.generation_id),
        member_id: Arc::from(&*request.member_id),
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
    };
    let outcome = call.service.heartbeat(&call.ctx, heartbeat).await;
    message!(HeartbeatResponse {
        error_code: super::code(&outcome),
    })
}
