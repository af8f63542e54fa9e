//! `AlterConfigs` (33), versions 0 to 2: the whole configuration of a topic (KIP-133). What is not named is the default again.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_wire::alter_configs_request::AlterConfigsResource;
use kafka_wire::alter_configs_response::AlterConfigsResourceResponse;
use kafka_wire::{AlterConfigsRequest, AlterConfigsResponse};

use super::{check_alterable, code};
use crate::error::ApiError;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

pub(super) async fn handle(call: Arc<Call>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let outcome = alter(&call, &resource, request.validate_only).await;
        responses.push(message!(AlterConfigsResourceResponse {
            error_code: code(&outcome),
            error_message: outcome.err().map(|error| text(error.to_string())),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        }));
    }
    message!(AlterConfigsResponse {
        responses: responses
    })
}

async fn alter(
    call: &Call,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), ApiError> {
    check_alterable(resource.resource_type)?;
    let topic = &*resource.resource_name;
    let mut set = BTreeMap::new();
    for config in &resource.configs {
        if let Some(value) = &config.value {
            set.insert(config.name.to_string(), value.to_string());
        }
    }
    let now = call.service.topic(&call.ctx, topic)?;
    let unset = now
        .configs
        .keys()
        .filter(|key| !set.contains_key(*key))
        .cloned();
    let unset = unset.collect();
    call.service
        .alter_configs(&call.ctx, topic, set, unset, validate_only)
        .await?;
    Ok(())
}
