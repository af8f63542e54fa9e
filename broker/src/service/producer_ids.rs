//! Producer ids from blocks that the quorum hands out, so that most requests need no metadata write.

use std::ops::Range;

use logweir_proto::{ErrorCode, ProducerEpoch, ProducerId};
use tokio::sync::Mutex;

use crate::error::ApiError;
use crate::faults::Api;
use crate::service::{RequestContext, Service};

/// The rest of the current block.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds(Mutex<Range<i64>>);

impl ProducerIds {
    /// Begins with this block.
    pub(crate) fn new(block: Range<i64>) -> Self {
        Self(Mutex::new(block))
    }
}

impl Service {
    /// A producer id that nobody else gets, with its first epoch (KIP-98).
    ///
    /// # Errors
    /// `UNSUPPORTED_FOR_MESSAGE_FORMAT` for a transactional id; the quorum's errors.
    pub(crate) async fn init_producer_id(
        &self,
        ctx: &RequestContext,
        transactional_id: Option<&str>,
    ) -> Result<(ProducerId, ProducerEpoch), ApiError> {
        self.suffer(ctx, Api::InitProducerId, None, || {
            Box::pin(self.init_producer_id_now(transactional_id))
        })
        .await
    }

    async fn init_producer_id_now(
        &self,
        transactional_id: Option<&str>,
    ) -> Result<(ProducerId, ProducerEpoch), ApiError> {
        if let Some(id) = transactional_id {
            return Err(ApiError::new(
                ErrorCode::UnsupportedForMessageFormat,
                format!("transactional id {id:?}: transactions are not supported yet"),
            ));
        }
        let mut block = self.producer_ids.0.lock().await;
        if block.is_empty() {
            *block = self.quorum.allocate_producer_ids().await?;
        }
        let id = block.next().ok_or_else(|| {
            ApiError::new(
                ErrorCode::CoordinatorNotAvailable,
                "the quorum gave an empty block",
            )
        })?;
        Ok((ProducerId::new(id), ProducerEpoch::new(0)))
    }
}
