//! Topics and their configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{LeaderEpoch, NodeId, Offset, PartitionId, TopicId};

use super::{Admin, SLACK, only};
use crate::error::{Error, Result};

/// A topic to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// 1 to 249 characters of a-z, A-Z, 0-9, `.`, `_` and `-`; not `.` or `..`.
    pub name: String,
    /// How many partitions, from 1; the broker's `num.partitions` if not given.
    pub partitions: Option<i32>,
    /// How many replicas, from 1; the broker's `default.replication.factor` if not given.
    pub replication_factor: Option<i32>,
    /// Settings by Kafka's names, such as `retention.ms`.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the broker's defaults.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// With so many partitions.
    #[must_use]
    pub const fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// With so many replicas.
    #[must_use]
    pub const fn replication_factor(mut self, replication_factor: i32) -> Self {
        self.replication_factor = Some(replication_factor);
        self
    }

    /// With this setting.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(key.into(), value.into());
        self
    }
}

/// A topic in a list, or after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSummary {
    /// Its name.
    pub name: String,
    /// Its id; [`TopicId::ZERO`] if the request was only to be checked.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas each has.
    pub replication_factor: i32,
    /// Whether it is one of the broker's own.
    pub internal: bool,
}

/// A topic in full.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: TopicId,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionDescription>,
    /// Whether it is one of the broker's own.
    pub internal: bool,
}

/// A partition in full.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// Its number, from 0.
    pub partition: PartitionId,
    /// The node that leads it, if one does.
    pub leader: Option<NodeId>,
    /// The leader's term.
    pub leader_epoch: LeaderEpoch,
    /// The nodes that hold it, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// The replicas that are in sync, the leader included.
    pub isr: Vec<NodeId>,
    /// Why the leader cannot serve it, if so.
    pub error: Option<Error>,
    /// The offsets, as the answering broker sees them, if it holds the partition.
    pub offsets: Option<PartitionOffsets>,
}

/// A partition's offsets and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionOffsets {
    /// The first offset that can be read.
    pub log_start_offset: Offset,
    /// Below it, no transaction is open.
    pub last_stable_offset: Offset,
    /// Below it, every in-sync replica has the records.
    pub high_watermark: Offset,
    /// The offset the next record will get.
    pub log_end_offset: Offset,
    /// Below it, the broker's disk has the records for certain.
    pub durable_end_offset: Offset,
    /// Bytes of its segments.
    pub size_bytes: u64,
}

/// Where a setting's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigSource {
    /// The broker does not say.
    Unknown,
    /// Logweir's default.
    Default,
    /// The broker's configuration.
    Broker,
    /// Set for this topic.
    Topic,
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigEntry {
    /// Kafka's name, such as `retention.ms`.
    pub key: String,
    /// The value in force.
    pub value: String,
    /// Where it comes from.
    pub source: ConfigSource,
    /// What it does, with unit and range.
    pub documentation: String,
}

/// Changes of one topic's settings: all are made, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// Set these.
    pub set: BTreeMap<String, String>,
    /// Go back to the default for these.
    pub unset: Vec<String>,
}

impl ConfigChanges {
    /// No changes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a setting.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set.insert(key.into(), value.into());
        self
    }

    /// Goes back to a setting's default.
    #[must_use]
    pub fn unset(mut self, key: impl Into<String>) -> Self {
        self.unset.push(key.into());
        self
    }
}

impl Admin {
    /// Creates a topic and waits until it can be used.
    ///
    /// # Errors
    /// If it exists already, its name or settings are not valid, or the broker cannot be reached.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicSummary> {
        only(self.create_topics(vec![topic], false).await?)?
    }

    /// Creates topics, each on its own, or only checks them; the results are in order. At most 1,000.
    ///
    /// # Errors
    /// If the whole request failed.
    pub async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Result<Vec<Result<TopicSummary>>> {
        let request = v1::CreateTopicsRequest {
            topics: topics.into_iter().map(v1::NewTopic::from).collect(),
            validate_only,
            timeout_ms: self.timeout_ms(),
        };
        let mut service = self.client.topic_service();
        let call = service.create_topics(request);
        let response = self.client.call("creating topics", SLACK, call).await?;
        Ok(response.results.into_iter().map(summary_of).collect())
    }

    /// Deletes a topic with all its records.
    ///
    /// # Errors
    /// If there is no such topic, or the broker cannot be reached.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        only(self.delete_topics(&[name]).await?)?
    }

    /// Deletes topics, each on its own; the results are in order. At most 1,000.
    ///
    /// # Errors
    /// If the whole request failed.
    pub async fn delete_topics(&self, names: &[&str]) -> Result<Vec<Result<()>>> {
        let request = v1::DeleteTopicsRequest {
            names: names.iter().map(ToString::to_string).collect(),
            timeout_ms: self.timeout_ms(),
        };
        let mut service = self.client.topic_service();
        let call = service.delete_topics(request);
        let response = self.client.call("deleting topics", SLACK, call).await?;
        Ok(response
            .results
            .into_iter()
            .map(|result| summary_of(result).map(drop))
            .collect())
    }

    /// All topics by name, without the broker's own.
    ///
    /// # Errors
    /// If the broker cannot be reached or refuses.
    pub async fn list_topics(&self) -> Result<Vec<TopicSummary>> {
        self.list_topics_with("", false).await
    }

    /// The topics whose names begin with `prefix`, by name, the broker's own included if wanted.
    ///
    /// # Errors
    /// If the broker cannot be reached or refuses.
    pub async fn list_topics_with(
        &self,
        prefix: &str,
        include_internal: bool,
    ) -> Result<Vec<TopicSummary>> {
        let mut topics: Vec<TopicSummary> = Vec::new();
        loop {
            let after = topics
                .last()
                .map(|topic| topic.name.clone())
                .unwrap_or_default();
            let page = self
                .read(|| async {
                    let mut service = self.client.topic_service();
                    let call = service.list_topics(v1::ListTopicsRequest {
                        prefix: prefix.to_owned(),
                        after: after.clone(),
                        limit: 0,
                        include_internal,
                    });
                    self.client
                        .call("listing topics", Duration::ZERO, call)
                        .await
                })
                .await?;
            let more = page.more && !page.topics.is_empty();
            topics.extend(page.topics.into_iter().map(|topic| TopicSummary {
                name: topic.name,
                id: TopicId::from_slice(&topic.topic_id).unwrap_or_default(),
                partitions: topic.partitions,
                replication_factor: topic.replication_factor,
                internal: topic.internal,
            }));
            if !more {
                return Ok(topics);
            }
        }
    }

    /// Partitions, leaders, replicas and offsets of a topic.
    ///
    /// # Errors
    /// If there is no such topic, or the broker cannot be reached.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription> {
        only(self.describe_topics(&[name]).await?)?
    }

    /// Partitions, leaders, replicas and offsets of topics, in order. At most 1,000.
    ///
    /// # Errors
    /// If the whole request failed.
    pub async fn describe_topics(&self, names: &[&str]) -> Result<Vec<Result<TopicDescription>>> {
        let response = self
            .read(|| async {
                let mut service = self.client.topic_service();
                let call = service.describe_topics(v1::DescribeTopicsRequest {
                    names: names.iter().map(ToString::to_string).collect(),
                    allow_auto_create: false,
                });
                self.client
                    .call("describing topics", Duration::ZERO, call)
                    .await
            })
            .await?;
        Ok(response.topics.into_iter().map(description_of).collect())
    }

    /// Adds partitions, up to `total` in all. Keys are spread anew over all of them.
    ///
    /// # Errors
    /// If `total` is not above the present number, there is no such topic, or the broker cannot be reached.
    pub async fn create_partitions(&self, name: &str, total: i32) -> Result<TopicSummary> {
        let mut service = self.client.topic_service();
        let call = service.create_partitions(v1::CreatePartitionsRequest {
            name: name.to_owned(),
            partitions: total,
            validate_only: false,
            timeout_ms: self.timeout_ms(),
        });
        let response = self.client.call("adding partitions", SLACK, call).await?;
        summary_of(only(response.result.into_iter().collect())?)
    }

    /// A topic's settings, by name, with where each value comes from.
    ///
    /// # Errors
    /// If there is no such topic, or the broker cannot be reached.
    pub async fn describe_config(&self, topic: &str) -> Result<Vec<ConfigEntry>> {
        let response = self
            .read(|| async {
                let mut service = self.client.topic_service();
                let call = service.describe_configs(v1::DescribeConfigsRequest {
                    topics: vec![topic.to_owned()],
                    keys: Vec::new(),
                });
                self.client
                    .call("describing settings", Duration::ZERO, call)
                    .await
            })
            .await?;
        let configs = only(response.topics)?;
        if let Some(error) = &configs.error {
            return Err(Error::from_entry(error).of_topic(topic));
        }
        Ok(configs.entries.into_iter().map(ConfigEntry::from).collect())
    }

    /// Changes a topic's settings: all of `changes`, or none.
    ///
    /// # Errors
    /// If a setting is unknown or its value not valid, there is no such topic, or the broker cannot be reached.
    pub async fn alter_config(&self, topic: &str, changes: ConfigChanges) -> Result<()> {
        let mut service = self.client.topic_service();
        let call = service.alter_configs(v1::AlterConfigsRequest {
            topics: vec![v1::AlterTopicConfigs {
                topic: topic.to_owned(),
                set: changes.set.into_iter().collect(),
                unset: changes.unset,
            }],
            validate_only: false,
        });
        let response = self.client.call("changing settings", SLACK, call).await?;
        summary_of(only(response.results)?).map(drop)
    }
}

fn summary_of(result: v1::TopicResult) -> Result<TopicSummary> {
    if let Some(error) = &result.error {
        return Err(Error::from_entry(error).of_topic(result.name));
    }
    Ok(TopicSummary {
        name: result.name,
        id: TopicId::from_slice(&result.topic_id).unwrap_or_default(),
        partitions: result.partitions,
        replication_factor: result.replication_factor,
        internal: false,
    })
}

fn description_of(topic: v1::TopicDescription) -> Result<TopicDescription> {
    if let Some(error) = &topic.error {
        return Err(Error::from_entry(error).of_topic(topic.name));
    }
    let name = topic.name;
    Ok(TopicDescription {
        id: TopicId::from_slice(&topic.topic_id).unwrap_or_default(),
        partitions: topic
            .partitions
            .into_iter()
            .map(|part| partition_of(&name, part))
            .collect(),
        internal: topic.internal,
        name,
    })
}

fn partition_of(topic: &str, described: v1::PartitionDescription) -> PartitionDescription {
    let partition = PartitionId::new(described.partition);
    let nodes = |ids: Vec<i32>| ids.into_iter().map(NodeId::new).collect();
    PartitionDescription {
        partition,
        leader: (described.leader >= 0).then(|| NodeId::new(described.leader)),
        leader_epoch: LeaderEpoch::new(described.leader_epoch),
        replicas: nodes(described.replicas),
        isr: nodes(described.isr),
        error: described
            .error
            .map(|error| Error::from_entry(&error).of_partition(topic, partition)),
        offsets: described.offsets.map(|offsets| PartitionOffsets {
            log_start_offset: Offset::new(offsets.log_start_offset),
            last_stable_offset: Offset::new(offsets.last_stable_offset),
            high_watermark: Offset::new(offsets.high_watermark),
            log_end_offset: Offset::new(offsets.log_end_offset),
            durable_end_offset: Offset::new(offsets.durable_end_offset),
            size_bytes: offsets.size_bytes,
        }),
    }
}

impl From<NewTopic> for v1::NewTopic {
    fn from(topic: NewTopic) -> Self {
        Self {
            name: topic.name,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            configs: topic.configs.into_iter().collect(),
        }
    }
}

impl From<v1::ConfigEntry> for ConfigEntry {
    fn from(entry: v1::ConfigEntry) -> Self {
        let source = match entry.source() {
            v1::ConfigSource::Unspecified => ConfigSource::Unknown,
            v1::ConfigSource::Default => ConfigSource::Default,
            v1::ConfigSource::Broker => ConfigSource::Broker,
            v1::ConfigSource::Topic => ConfigSource::Topic,
        };
        Self {
            key: entry.key,
            value: entry.value,
            source,
            documentation: entry.documentation,
        }
    }
}
