//! `logweir.v1.TopicService`.

use std::collections::BTreeMap;

use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::topic_service_server::TopicService;
use logweir_proto::{ErrorCode, Offset, PartitionId};
use tonic::{Request, Response, Status};

use crate::config::{ConfigSource, TopicConfig};
use crate::error::ApiError;
use crate::grpc::Handler;
use crate::grpc::context::context;
use crate::grpc::status::{at_most, error_of, status};
use crate::service::{
    CreateTopic, PartitionOffsets, RequestContext, Time, TopicImage, TopicOutcome, within,
};

/// Topics of one request.
const MAX_TOPICS: usize = 1_000;
/// Partitions that one response describes.
const MAX_DESCRIBED_PARTITIONS: usize = 100_000;
/// Partitions of one request.
const MAX_PARTITIONS: usize = 10_000;
/// Keys that one request asks for; there are far fewer.
const MAX_KEYS: usize = 1_000;

#[tonic::async_trait]
impl TopicService for Handler {
    async fn create_topics(
        &self,
        request: Request<v1::CreateTopicsRequest>,
    ) -> Result<Response<v1::CreateTopicsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        let time = Time::of(request.timeout_ms);
        at_most("topics", request.topics.len(), MAX_TOPICS)?;
        let mut results = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let name = topic.name.clone();
            let create = async {
                let topic = new_topic(topic)?;
                self.service
                    .create_topic(&ctx, topic, request.validate_only)
                    .await
            };
            results.push(topic_result(name, within(time, create).await));
        }
        Ok(Response::new(v1::CreateTopicsResponse { results }))
    }

    async fn delete_topics(
        &self,
        request: Request<v1::DeleteTopicsRequest>,
    ) -> Result<Response<v1::DeleteTopicsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        let time = Time::of(request.timeout_ms);
        at_most("topics", request.names.len(), MAX_TOPICS)?;
        let mut results = Vec::with_capacity(request.names.len());
        for name in request.names {
            let delete = self.service.delete_topic(&ctx, &name);
            let outcome = within(time, delete).await.map(TopicOutcome::Done);
            results.push(topic_result(name, outcome));
        }
        Ok(Response::new(v1::DeleteTopicsResponse { results }))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        let limit = match usize::try_from(request.limit).unwrap_or(MAX_TOPICS) {
            0 => MAX_TOPICS,
            limit => limit.min(MAX_TOPICS),
        };
        let image = self
            .service
            .cluster(&ctx)
            .await
            .map_err(|error| status(&error))?;
        let mut fitting = image.topics_after(&request.after).filter(|topic| {
            topic.name.starts_with(&request.prefix)
                && (request.include_internal || !is_internal(&topic.name))
        });
        let topics = fitting
            .by_ref()
            .take(limit)
            .map(|topic| summary(topic))
            .collect();
        let more = fitting.next().is_some();
        Ok(Response::new(v1::ListTopicsResponse { topics, more }))
    }

    async fn describe_topics(
        &self,
        request: Request<v1::DescribeTopicsRequest>,
    ) -> Result<Response<v1::DescribeTopicsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        at_most("topics", request.names.len(), MAX_TOPICS)?;
        let mut topics = Vec::with_capacity(request.names.len());
        let mut partitions = 0;
        for name in request.names {
            let topic = self
                .description(&ctx, name, request.allow_auto_create)
                .await;
            partitions += topic.partitions.len();
            at_most("partitions", partitions, MAX_DESCRIBED_PARTITIONS)?;
            topics.push(topic);
        }
        Ok(Response::new(v1::DescribeTopicsResponse { topics }))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        let time = Time::of(request.timeout_ms);
        let (name, total) = (request.name, request.partitions);
        let create = self
            .service
            .create_partitions(&ctx, &name, total, request.validate_only);
        let outcome = within(time, create).await;
        let result = Some(topic_result(name, outcome));
        Ok(Response::new(v1::CreatePartitionsResponse { result }))
    }

    async fn describe_configs(
        &self,
        request: Request<v1::DescribeConfigsRequest>,
    ) -> Result<Response<v1::DescribeConfigsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        at_most("topics", request.topics.len(), MAX_TOPICS)?;
        at_most("keys", request.keys.len(), MAX_KEYS)?;
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let outcome = self.service.topic_config(&ctx, &topic).await;
            let error = error_of(&outcome);
            let entries = outcome.map_or_else(|_| Vec::new(), |c| entries(&c, &request.keys));
            topics.push(v1::TopicConfigs {
                topic,
                error,
                entries,
            });
        }
        Ok(Response::new(v1::DescribeConfigsResponse { topics }))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Response<v1::AlterConfigsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        let time = Time::of(0);
        at_most("topics", request.topics.len(), MAX_TOPICS)?;
        let mut results = Vec::with_capacity(request.topics.len());
        for change in request.topics {
            let set = change.set.into_iter().collect();
            let alter = self.service.alter_configs(
                &ctx,
                &change.topic,
                set,
                change.unset,
                request.validate_only,
            );
            let outcome = within(time, alter).await.map(TopicOutcome::Done);
            results.push(topic_result(change.topic, outcome));
        }
        Ok(Response::new(v1::AlterConfigsResponse { results }))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        let time = Time::of(request.timeout_ms);
        at_most("partitions", request.partitions.len(), MAX_PARTITIONS)?;
        let mut results = Vec::with_capacity(request.partitions.len());
        for wanted in request.partitions {
            let before = (wanted.before_offset != -1).then_some(Offset::new(wanted.before_offset));
            let partition = PartitionId::new(wanted.partition);
            let delete = self
                .service
                .delete_records(&ctx, &wanted.topic, partition, before);
            let outcome = within(time, delete).await;
            results.push(v1::DeleteRecordsResult {
                topic: wanted.topic,
                partition: wanted.partition,
                error: error_of(&outcome),
                log_start_offset: outcome.map_or(-1, Offset::get),
            });
        }
        Ok(Response::new(v1::DeleteRecordsResponse { results }))
    }
}

impl Handler {
    async fn description(
        &self,
        ctx: &RequestContext,
        name: String,
        allow_auto_create: bool,
    ) -> v1::TopicDescription {
        let outcome = self
            .service
            .describe_topic(ctx, &name, allow_auto_create)
            .await;
        let error = error_of(&outcome);
        let Ok(topic) = outcome else {
            return v1::TopicDescription {
                name,
                error,
                ..v1::TopicDescription::default()
            };
        };
        let partitions = (0_i32..).zip(&topic.partitions).map(|(number, image)| {
            let here = self
                .service
                .partition_offsets(&topic, PartitionId::new(number));
            v1::PartitionDescription {
                partition: number,
                leader: image.leader.map_or(-1, |leader| leader.get()),
                leader_epoch: image.leader_epoch.get(),
                replicas: image.replicas.iter().map(|node| node.get()).collect(),
                isr: image.isr.iter().map(|node| node.get()).collect(),
                error: here.as_ref().and_then(error_of),
                offsets: here.and_then(Result::ok).map(|here| offsets(&here)),
            }
        });
        v1::TopicDescription {
            partitions: partitions.collect(),
            topic_id: topic.id.get().to_vec().into(),
            internal: is_internal(&name),
            name,
            error: None,
        }
    }
}

fn new_topic(topic: v1::NewTopic) -> Result<CreateTopic, ApiError> {
    let replication_factor = topic.replication_factor.map(i16::try_from).transpose();
    Ok(CreateTopic {
        name: topic.name,
        partitions: topic.partitions,
        replication_factor: replication_factor.map_err(|_| {
            ApiError::new(
                ErrorCode::InvalidReplicationFactor,
                format!(
                    "replication factor {:?} is too large",
                    topic.replication_factor
                ),
            )
        })?,
        configs: topic.configs.into_iter().collect::<BTreeMap<_, _>>(),
    })
}

fn topic_result(name: String, outcome: Result<TopicOutcome, ApiError>) -> v1::TopicResult {
    let error = error_of(&outcome);
    let mut result = v1::TopicResult {
        name,
        error,
        ..v1::TopicResult::default()
    };
    match outcome {
        Ok(TopicOutcome::Done(topic)) => {
            let summary = summary(&topic);
            result.topic_id = summary.topic_id;
            result.partitions = summary.partitions;
            result.replication_factor = summary.replication_factor;
        }
        Ok(TopicOutcome::Valid {
            partitions,
            replication_factor,
        }) => {
            result.partitions = partitions;
            result.replication_factor = replication_factor;
        }
        Err(_) => {}
    }
    result
}

fn summary(topic: &TopicImage) -> v1::TopicSummary {
    let replicas = topic
        .partitions
        .first()
        .map_or(0, |first| first.replicas.len());
    v1::TopicSummary {
        name: topic.name.to_string(),
        topic_id: topic.id.get().to_vec().into(),
        partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
        replication_factor: i32::try_from(replicas).unwrap_or(i32::MAX),
        internal: is_internal(&topic.name),
    }
}

/// The broker's own topics begin with two underscores, and users cannot create such.
fn is_internal(name: &str) -> bool {
    name.starts_with("__")
}

fn entries(config: &TopicConfig, keys: &[String]) -> Vec<v1::ConfigEntry> {
    let wanted = |name: &str| keys.is_empty() || keys.iter().any(|key| key == name);
    let entries = config
        .entries()
        .into_iter()
        .filter(|entry| wanted(entry.key));
    entries
        .map(|entry| v1::ConfigEntry {
            key: entry.key.to_owned(),
            value: entry.value,
            source: match entry.source {
                ConfigSource::Default => v1::ConfigSource::Default,
                ConfigSource::Broker => v1::ConfigSource::Broker,
                ConfigSource::Topic => v1::ConfigSource::Topic,
            } as i32,
            documentation: entry.doc.to_owned(),
        })
        .collect()
}

fn offsets(here: &PartitionOffsets) -> v1::PartitionOffsets {
    v1::PartitionOffsets {
        log_start_offset: here.log_start.get(),
        last_stable_offset: here.last_stable.get(),
        high_watermark: here.high_watermark.get(),
        log_end_offset: here.log_end.get(),
        durable_end_offset: here.durable_end.get(),
        size_bytes: here.size_bytes,
    }
}
