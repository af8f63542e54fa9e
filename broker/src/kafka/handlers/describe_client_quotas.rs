//! `DescribeClientQuotas` (48), versions 0 and 1: there are none yet (KIP-546).

use std::sync::Arc;

use kafka_wire::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use crate::kafka::call::Call;
use crate::kafka::message::message;

pub(super) async fn handle(
    _: Arc<Call>,
    _: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    message!(DescribeClientQuotasResponse {
        error_message: None,
        entries: Some(Vec::new()),
    })
}
