//! `ListGroups` (16), versions 0 to 5: groups of both kinds, filtered by state and kind (KIP-518, KIP-848).

use std::sync::Arc;

use kafka_wire::list_groups_response::ListedGroup;
use kafka_wire::{ListGroupsRequest, ListGroupsResponse};

use crate::kafka::call::Call;
use crate::kafka::message::{message, text};
use crate::service::groups::request::ListGroups;

pub(super) async fn handle(call: Arc<Call>, request: ListGroupsRequest) -> ListGroupsResponse {
    let filter = ListGroups {
        states: request
            .states_filter
            .iter()
            .map(|state| Arc::from(&**state))
            .collect(),
        types: request
            .types_filter
            .iter()
            .map(|kind| Arc::from(&**kind))
            .collect(),
    };
    let groups = match call.service.list_groups(&call.ctx, &filter).await {
        Ok(groups) => groups,
        Err(error) => {
            return message!(ListGroupsResponse {
                error_code: error.code.code(),
            });
        }
    };
    let groups = groups.into_iter().map(|group| {
        message!(ListedGroup {
            group_id: text(&group.group_id),
            protocol_type: text(&group.protocol_type),
            group_state: text(if call.version >= 4 { group.state } else { "" }),
            group_type: text(if call.version >= 5 {
                group.group_type
            } else {
                ""
            }),
        })
    });
    message!(ListGroupsResponse {
        groups: groups.collect(),
    })
}
