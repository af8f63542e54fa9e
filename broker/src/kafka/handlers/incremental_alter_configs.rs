//! `IncrementalAlterConfigs` (44), versions 0 and 1: sets and unsets settings of topics, and adds to and takes from those that
//! are lists (KIP-339).

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_wire::incremental_alter_configs_request::AlterConfigsResource;
use kafka_wire::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_wire::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use logweir_proto::ErrorCode;

use super::{check_alterable, code};
use crate::error::ApiError;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(super) async fn handle(
    call: Arc<Call>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
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
    message!(IncrementalAlterConfigsResponse {
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
    let now = call.service.topic_config(&call.ctx, topic).await?.entries();
    let (mut set, mut unset) = (BTreeMap::new(), Vec::new());
    for config in &resource.configs {
        let name = config.name.to_string();
        let given = config.value.as_deref().unwrap_or_default();
        let value = match config.config_operation {
            SET => given.to_owned(),
            DELETE => {
                unset.push(name);
                continue;
            }
            APPEND | SUBTRACT => {
                let before = now
                    .iter()
                    .find(|entry| entry.key == name)
                    .map_or("", |entry| &entry.value);
                changed_list(before, given, config.config_operation == APPEND)
            }
            other => {
                let message = format!(
                    "{name}: operation {other} is not known (0 set, 1 delete, 2 append, 3 subtract)"
                );
                return Err(ApiError::new(ErrorCode::InvalidRequest, message));
            }
        };
        set.insert(name, value);
    }
    call.service
        .alter_configs(&call.ctx, topic, set, unset, validate_only)
        .await?;
    Ok(())
}

/// A list with these added that are not in it, or without those that are.
fn changed_list(before: &str, given: &str, adds: bool) -> String {
    let items = |text: &str| -> Vec<String> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items.map(str::to_owned).collect()
    };
    let (mut list, given) = (items(before), items(given));
    match adds {
        true => {
            for item in given {
                if !list.contains(&item) {
                    list.push(item);
                }
            }
        }
        false => list.retain(|item| !given.contains(item)),
    }
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_and_shrink() {
        assert_eq!(changed_list("delete", "compact", true), "delete,compact");
        assert_eq!(changed_list("delete", "delete", true), "delete");
        assert_eq!(
            changed_list("compact, delete", "delete,none", false),
            "compact"
        );
        assert_eq!(changed_list("", "", false), "");
    }
}
