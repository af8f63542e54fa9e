//! The mock broker's topic service.

use logweir_proto::grpc::v1;
use logweir_proto::{ErrorCode, Offset};
use tonic::{Request, Response, Status};
use v1::topic_service_server::TopicService;

use super::{MockBroker, Topic, error, partition_index};

fn result_of(name: &str, topic: Result<&Topic, ErrorCode>) -> v1::TopicResult {
    v1::TopicResult {
        name: name.to_owned(),
        topic_id: topic
            .map_or_else(|_| Vec::new(), |topic| topic.id.get().to_vec())
            .into(),
        error: topic.err().and_then(error),
        partitions: topic.map_or(0, |topic| i32::try_from(topic.partitions.len()).unwrap()),
        replication_factor: i32::from(topic.is_ok()),
    }
}

#[tonic::async_trait]
impl TopicService for MockBroker {
    async fn create_topics(
        &self,
        request: Request<v1::CreateTopicsRequest>,
    ) -> Result<Response<v1::CreateTopicsResponse>, Status> {
        self.check_call("CreateTopics")?;
        let results = request.into_inner().topics.into_iter().map(|new| {
            if self.state.lock().topics.contains_key(&new.name) {
                return result_of(&new.name, Err(ErrorCode::TopicAlreadyExists));
            }
            self.create(&new.name, usize::try_from(new.partitions()).unwrap().max(1));
            let mut state = self.state.lock();
            let topic = state.topics.get_mut(&new.name).unwrap();
            topic.configs = new.configs.into_iter().collect();
            result_of(&new.name, Ok(topic))
        });
        Ok(Response::new(v1::CreateTopicsResponse {
            results: results.collect(),
        }))
    }

    async fn delete_topics(
        &self,
        request: Request<v1::DeleteTopicsRequest>,
    ) -> Result<Response<v1::DeleteTopicsResponse>, Status> {
        let mut state = self.state.lock();
        let results = request.get_ref().names.iter().map(|name| {
            let topic = state.topics.remove(name);
            result_of(
                name,
                topic.as_ref().ok_or(ErrorCode::UnknownTopicOrPartition),
            )
        });
        Ok(Response::new(v1::DeleteTopicsResponse {
            results: results.collect(),
        }))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        self.check_call("ListTopics")?;
        let request = request.get_ref();
        let state = self.state.lock();
        // Pages of two, so that paging is tried.
        let mut found = state
            .topics
            .iter()
            .filter(|(name, _)| name.starts_with(&request.prefix) && **name > request.after)
            .map(|(name, topic)| {
                let result = result_of(name, Ok(topic));
                v1::TopicSummary {
                    name: result.name,
                    topic_id: result.topic_id,
                    partitions: result.partitions,
                    replication_factor: 1,
                    internal: false,
                }
            });
        let topics = found.by_ref().take(2).collect();
        let more = found.next().is_some();
        Ok(Response::new(v1::ListTopicsResponse { topics, more }))
    }

    async fn describe_topics(
        &self,
        request: Request<v1::DescribeTopicsRequest>,
    ) -> Result<Response<v1::DescribeTopicsResponse>, Status> {
        self.check_call("DescribeTopics")?;
        let request = request.into_inner();
        self.state.lock().describes += 1;
        let topics = request.names.iter().map(|name| {
            let auto_create = self.state.lock().auto_create_partitions;
            if let Some(partitions) = auto_create
                && request.allow_auto_create
                && !self.state.lock().topics.contains_key(name)
            {
                self.create(name, partitions);
            }
            let state = self.state.lock();
            let Some(topic) = state.topics.get(name) else {
                return v1::TopicDescription {
                    name: name.clone(),
                    error: error(ErrorCode::UnknownTopicOrPartition),
                    ..Default::default()
                };
            };
            let partitions = (0..).zip(&topic.partitions).map(|(number, log)| {
                let offsets = v1::PartitionOffsets {
                    log_start_offset: log.start.get(),
                    last_stable_offset: log.end().get(),
                    high_watermark: log.end().get(),
                    log_end_offset: log.end().get(),
                    durable_end_offset: log.end().get(),
                    size_bytes: 0,
                };
                v1::PartitionDescription {
                    partition: number,
                    leader: 1,
                    leader_epoch: 0,
                    replicas: vec![1],
                    isr: vec![1],
                    error: None,
                    offsets: Some(offsets),
                }
            });
            v1::TopicDescription {
                name: name.clone(),
                topic_id: topic.id.get().to_vec().into(),
                error: None,
                partitions: partitions.collect(),
                internal: false,
            }
        });
        Ok(Response::new(v1::DescribeTopicsResponse {
            topics: topics.collect(),
        }))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let request = request.get_ref();
        let mut state = self.state.lock();
        let total = usize::try_from(request.partitions).unwrap();
        let result = match state.topics.get_mut(&request.name) {
            None => result_of(&request.name, Err(ErrorCode::UnknownTopicOrPartition)),
            Some(topic) if topic.partitions.len() >= total => {
                result_of(&request.name, Err(ErrorCode::InvalidPartitions))
            }
            Some(topic) => {
                topic.partitions.resize_with(total, Default::default);
                result_of(&request.name, Ok(topic))
            }
        };
        Ok(Response::new(v1::CreatePartitionsResponse {
            result: Some(result),
        }))
    }

    async fn describe_configs(
        &self,
        request: Request<v1::DescribeConfigsRequest>,
    ) -> Result<Response<v1::DescribeConfigsResponse>, Status> {
        let state = self.state.lock();
        let topics = request.get_ref().topics.iter().map(|name| {
            let configs = state.topics.get(name).map(|topic| &topic.configs);
            let entries = configs
                .into_iter()
                .flatten()
                .map(|(key, value)| v1::ConfigEntry {
                    key: key.clone(),
                    value: value.clone(),
                    source: v1::ConfigSource::Topic as i32,
                    documentation: "doc".to_owned(),
                });
            v1::TopicConfigs {
                topic: name.clone(),
                error: configs
                    .is_none()
                    .then(|| error(ErrorCode::UnknownTopicOrPartition))
                    .flatten(),
                entries: entries.collect(),
            }
        });
        let topics = topics.collect();
        Ok(Response::new(v1::DescribeConfigsResponse { topics }))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Response<v1::AlterConfigsResponse>, Status> {
        let mut state = self.state.lock();
        let results = request.into_inner().topics.into_iter().map(|change| {
            let Some(topic) = state.topics.get_mut(&change.topic) else {
                return result_of(&change.topic, Err(ErrorCode::UnknownTopicOrPartition));
            };
            topic.configs.extend(change.set);
            topic.configs.retain(|key, _| !change.unset.contains(key));
            result_of(&change.topic, Ok(topic))
        });
        Ok(Response::new(v1::AlterConfigsResponse {
            results: results.collect(),
        }))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let mut state = self.state.lock();
        let results = request.get_ref().partitions.iter().map(|part| {
            let log = state
                .topics
                .get_mut(&part.topic)
                .and_then(|topic| topic.partitions.get_mut(partition_index(part.partition)?));
            let mut result = v1::DeleteRecordsResult {
                topic: part.topic.clone(),
                partition: part.partition,
                error: None,
                log_start_offset: -1,
            };
            match log {
                None => result.error = error(ErrorCode::UnknownTopicOrPartition),
                Some(log) if part.before_offset > log.end().get() => {
                    result.error = error(ErrorCode::OffsetOutOfRange);
                }
                Some(log) => {
                    let before = if part.before_offset < 0 {
                        log.end()
                    } else {
                        Offset::new(part.before_offset)
                    };
                    log.start = log.start.max(before);
                    result.log_start_offset = log.start.get();
                }
            }
            result
        });
        Ok(Response::new(v1::DeleteRecordsResponse {
            results: results.collect(),
        }))
    }
}
