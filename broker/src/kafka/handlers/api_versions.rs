//! `ApiVersions` (18), versions 0 to 4: what is served in which versions (KIP-35, KIP-511).
//!
//! A version from the future is answered in version 0, with `UNSUPPORTED_VERSION` and the versions of ApiVersions itself,
//! so that the client can come down. No features are finalised: without `transaction.version` clients speak classic
//! transactions.

use std::sync::Arc;

use kafka_wire::api_versions_response::ApiVersion;
use kafka_wire::{ApiVersionsRequest, ApiVersionsResponse};
use logweir_proto::ErrorCode;

use crate::kafka::apis::{SERVED, Served};
use crate::kafka::call::{Answer, Broken, Call};
use crate::kafka::message::message;

/// What a client says of itself is cut to this.
const MAX_SOFTWARE: usize = 128;

pub(super) fn handle(mut call: Call) -> Result<Answer, Broken> {
    if call.version > call.served.max || call.version < 0 {
        let (version, client) = (call.version, &call.ctx.client_id);
        tracing::debug!(version, %client, host = %call.peer.host, "ApiVersions was asked for in a version of the future");
        call.version = 0;
        let response = message!(ApiVersionsResponse {
            error_code: ErrorCode::UnsupportedVersion.code(),
            api_keys: vec![entry(call.served)],
        });
        return Ok(Answer::Ready(call.encode(&response)?));
    }
    let request: ApiVersionsRequest = call.decode()?;
    if call.version >= 3 {
        note_software(&call, &request);
    }
    let response = message!(ApiVersionsResponse {
        api_keys: SERVED.iter().map(entry).collect(),
    });
    Ok(Answer::Ready(call.encode(&response)?))
}

fn entry(served: &Served) -> ApiVersion {
    message!(ApiVersion {
        api_key: served.api as i16,
        min_version: served.min,
        max_version: served.max,
    })
}

fn note_software(call: &Call, request: &ApiVersionsRequest) {
    let software = format!(
        "{}/{}",
        request.client_software_name, request.client_software_version
    );
    let software: String = software
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_SOFTWARE)
        .collect();
    *call.peer.software.lock() = Arc::from(software);
}
