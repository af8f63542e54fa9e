//! `InitProducerId` (22), versions 0 to 5: an id for an idempotent producer (KIP-98).
//!
//! A producer that has one and asks again gets a new one, as with Kafka (KIP-360). Transactional ids are refused:
//! there are no transactions yet.

use std::sync::Arc;

use kafka_wire::{InitProducerIdRequest, InitProducerIdResponse};

use crate::kafka::call::Call;
use crate::kafka::message::message;

pub(super) async fn handle(
    call: Arc<Call>,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let transactional_id = request.transactional_id.as_deref();
    match call
        .service
        .init_producer_id(&call.ctx, transactional_id)
        .await
    {
        Ok((id, epoch)) => message!(InitProducerIdResponse {
            producer_id: id.get(),
            producer_epoch: epoch.get(),
        }),
        Err(error) => {
            call.log_refused(&error);
            message!(InitProducerIdResponse {
                error_code: error.code.code(),
                producer_id: -1,
                producer_epoch: -1,
            })
        }
    }
}
