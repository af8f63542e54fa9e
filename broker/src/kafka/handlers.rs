//! Who answers what.

use super::apis::ApiKey;
use super::call::{Answer, Broken, Call};

mod api_versions;
mod fetch;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod produce;

/// Answers a request.
///
/// # Errors
/// If the connection cannot go on after it.
pub(super) async fn handle(call: Call) -> Result<Answer, Broken> {
    match call.api() {
        ApiKey::Produce => produce::handle(call).await,
        ApiKey::Fetch => fetch::handle(call).await,
        ApiKey::ApiVersions => api_versions::handle(call),
        ApiKey::ListOffsets => call.answer(list_offsets::handle).await,
        ApiKey::Metadata => call.answer(metadata::handle).await,
        ApiKey::InitProducerId => call.answer(init_producer_id::handle).await,
    }
}
