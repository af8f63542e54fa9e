//! `DeleteGroups` (42), versions 0 to 2: groups without members, with their offsets (KIP-229).

use std::sync::Arc;

use kafka_wire::delete_groups_response::DeletableGroupResult;
use kafka_wire::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::code;
use crate::kafka::call::Call;
use crate::kafka::message::message;

pub(super) async fn handle(call: Arc<Call>, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group in request.groups_names {
        let outcome = call
            .service
            .delete_group(&call.ctx, &call.name(&group))
            .await;
        results.push(message!(DeletableGroupResult {
            group_id: group,
            error_code: code(&outcome),
        }));
    }
    message!(DeleteGroupsResponse { results: results })
}
