//! `FindCoordinator` (10), versions 0 to 6: who coordinates groups (KIP-699). Every broker coordinates all it is asked for.
//!
//! Transactional ids (key type 1) and share groups (key type 2) are refused: there are no transactions and no share
//! groups yet. For transactions the code is `TRANSACTIONAL_ID_AUTHORIZATION_FAILED`, the one that every client gives up
//! at: Sarama and librdkafka try `INVALID_REQUEST` again until their time is up.

use std::sync::Arc;

use kafka_wire::find_coordinator_response::Coordinator;
use kafka_wire::{FindCoordinatorRequest, FindCoordinatorResponse};
use logweir_proto::{ErrorCode, NodeId};

use crate::error::ApiError;
use crate::kafka::addresses::{self, Address};
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

/// The key is a group's id.
const GROUP: i8 = 0;
/// The first version that asks for many keys at once.
const FIRST_WITH_MANY: i16 = 4;

pub(super) async fn handle(
    call: Arc<Call>,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let found = find(&call, request.key_type).await;
    if call.version < FIRST_WITH_MANY {
        return match found {
            Ok(address) => message!(FindCoordinatorResponse {
                node_id: address.node_id.get(),
                host: text(address.host),
                port: address.port,
                error_message: None,
            }),
            Err(error) => message!(FindCoordinatorResponse {
                error_code: error.code.code(),
                error_message: Some(text(error.to_string())),
                node_id: -1,
                port: -1,
            }),
        };
    }
    let coordinators = request
        .coordinator_keys
        .into_iter()
        .map(|key| match &found {
            Ok(address) => message!(Coordinator {
                key: key,
                node_id: address.node_id.get(),
                host: text(&address.host),
                port: address.port,
                error_message: None,
            }),
            Err(error) => message!(Coordinator {
                key: key,
                node_id: -1,
                port: -1,
                error_code: error.code.code(),
                error_message: Some(text(error.to_string())),
            }),
        });
    message!(FindCoordinatorResponse {
        coordinators: coordinators.collect(),
    })
}

async fn find(call: &Call, key_type: i8) -> Result<Address, ApiError> {
    if key_type != GROUP {
        let (what, code) = match key_type {
            1 => (
                "transactions are",
                ErrorCode::TransactionalIdAuthorizationFailed,
            ),
            2 => ("share groups are", ErrorCode::InvalidRequest),
            _ => ("keys of this type are", ErrorCode::InvalidRequest),
        };
        let error = ApiError::new(
            code,
            format!("{what} not supported yet (key type {key_type})"),
        );
        call.log_refused(&error);
        return Err(error);
    }
    let image = call.service.find_coordinator(&call.ctx).await?;
    let own = NodeId::new(call.service.config.node_id);
    let mut brokers = addresses::brokers(&call.service, &image, &call.peer).into_iter();
    brokers
        .find(|address| address.node_id == own)
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::CoordinatorNotAvailable,
                "this broker is not registered yet",
            )
        })
}
