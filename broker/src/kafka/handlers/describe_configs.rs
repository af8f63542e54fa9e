//! `DescribeConfigs` (32), versions 1 to 4: settings of topics, of brokers, and none of groups (KIP-226, KIP-569).
//!
//! A broker's settings have Kafka's names where Kafka has the setting, and are read only: they are set where the broker
//! is started.

use std::sync::Arc;

use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_wire::{DescribeConfigsRequest, DescribeConfigsResponse};
use logweir_proto::ErrorCode;

use super::{BROKER, GROUP, TOPIC, config_source};
use crate::config::{Kind, Setting, settings};
use crate::error::ApiError;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

/// `config_source` of what the broker was started with.
const STATIC_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

pub(super) async fn handle(
    call: Arc<Call>,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let mut request = request;
    let resources = std::mem::take(&mut request.resources);
    let mut results = Vec::with_capacity(resources.len());
    for resource in resources {
        let wanted = |name: &str| {
            let keys = resource.configuration_keys.as_ref();
            keys.is_none_or(|keys| keys.is_empty() || keys.iter().any(|key| &**key == name))
        };
        let entries = entries(&call, &resource).await;
        results.push(match entries {
            Ok(entries) => message!(DescribeConfigsResult {
                resource_type: resource.resource_type,
                configs: entries
                    .into_iter()
                    .filter(|entry| wanted(&entry.name))
                    .map(|entry| shown(&request, entry))
                    .collect(),
                resource_name: resource.resource_name,
                error_message: None,
            }),
            Err(error) => message!(DescribeConfigsResult {
                error_code: error.code.code(),
                error_message: Some(text(error.to_string())),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
            }),
        });
    }
    message!(DescribeConfigsResponse { results: results })
}

/// A setting, whosever it is.
struct Entry {
    name: String,
    value: String,
    source: i8,
    read_only: bool,
    kind: Kind,
    doc: &'static str,
}

async fn entries(call: &Call, resource: &DescribeConfigsResource) -> Result<Vec<Entry>, ApiError> {
    match resource.resource_type {
        TOPIC => of_topic(call, &resource.resource_name).await,
        BROKER => of_broker(call, &resource.resource_name),
        GROUP => Ok(Vec::new()),
        other => Err(ApiError::new(
            ErrorCode::InvalidRequest,
            format!("resources of type {other} have no settings here"),
        )),
    }
}

async fn of_topic(call: &Call, topic: &str) -> Result<Vec<Entry>, ApiError> {
    let config = call.service.topic_config(&call.ctx, topic).await?;
    let kind = |key: &str| {
        settings()
            .find(|setting| setting.topic == Some(key))
            .map_or(Kind::Text, |s| s.kind)
    };
    let entries = config.entries().into_iter().map(|entry| Entry {
        kind: kind(entry.key),
        name: entry.key.to_owned(),
        value: entry.value,
        source: config_source(entry.source),
        read_only: false,
        doc: entry.doc,
    });
    Ok(entries.collect())
}

fn of_broker(call: &Call, node: &str) -> Result<Vec<Entry>, ApiError> {
    let config = &call.service.config;
    if !node.is_empty() && node != config.node_id.to_string() {
        let message = format!(
            "this is broker {}, not {node:?}; ask that one",
            config.node_id
        );
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let defaults = crate::config::Config::default();
    let entry = |setting: &'static Setting| {
        let value = setting.get(config);
        Entry {
            source: if value == setting.get(&defaults) {
                DEFAULT
            } else {
                STATIC_BROKER
            },
            name: setting.kafka.unwrap_or(setting.name).to_owned(),
            value,
            read_only: true,
            kind: setting.kind,
            doc: setting.doc,
        }
    };
    // Those of all brokers together, which the empty name asks for, can be set for none.
    Ok(settings().filter(|_| !node.is_empty()).map(entry).collect())
}

fn shown(request: &DescribeConfigsRequest, entry: Entry) -> DescribeConfigsResourceResult {
    let synonym = request.include_synonyms.then(|| {
        message!(DescribeConfigsSynonym {
            name: text(&entry.name),
            value: Some(text(&entry.value)),
            source: entry.source,
        })
    });
    message!(DescribeConfigsResourceResult {
        name: text(entry.name),
        value: Some(text(entry.value)),
        read_only: entry.read_only,
        config_source: entry.source,
        synonyms: synonym.into_iter().collect(),
        config_type: config_type(entry.kind),
        documentation: request.include_documentation.then(|| text(entry.doc)),
    })
}

/// Kafka's `ConfigType`.
fn config_type(kind: Kind) -> i8 {
    match kind {
        Kind::Switch => 1,
        Kind::Listener | Kind::Address | Kind::Path | Kind::Choice(_) | Kind::Text => 2,
        Kind::Bytes | Kind::Milliseconds | Kind::Number => 5,
        Kind::Ratio => 6,
    }
}
