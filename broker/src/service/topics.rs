//! Topics and their configuration: create, delete, describe, alter, add partitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::{ErrorCode, Offset, PartitionId};
use logweir_storage::disk::DiskSpace;

use crate::config::TopicConfig;
use crate::error::ApiError;
use crate::faults::Api;
use crate::metadata::{NewTopic, TopicImage};
use crate::partition::{Partition, Slot};
use crate::service::{RequestContext, Service};

/// A topic to create; absent numbers mean the broker's defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct CreateTopic {
    pub(crate) name: String,
    pub(crate) partitions: Option<i32>,
    pub(crate) replication_factor: Option<i16>,
    pub(crate) configs: BTreeMap<String, String>,
}

/// What a change of a topic led to, or would lead to.
#[derive(Clone, Debug)]
pub(crate) enum TopicOutcome {
    /// The topic as it is now.
    Done(Arc<TopicImage>),
    /// The request is valid and was only checked: so many partitions with so many replicas each.
    Valid {
        partitions: i32,
        replication_factor: i32,
    },
}

/// A partition's offsets and size, as this broker sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartitionOffsets {
    pub(crate) log_start: Offset,
    pub(crate) last_stable: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) log_end: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) size_bytes: u64,
}

impl PartitionOffsets {
    fn of(partition: &Partition) -> Self {
        Self {
            log_start: partition.log().log_start_offset(),
            last_stable: partition.last_stable(),
            high_watermark: partition.high_watermark(),
            log_end: partition.log().log_end_offset(),
            durable_end: partition.log().durable_end_offset(),
            size_bytes: partition.log().size_bytes(),
        }
    }
}

impl Service {
    /// Creates a topic and waits until its partitions can be used.
    ///
    /// # Errors
    /// As [`Quorum::create_topic`](crate::metadata::Quorum::create_topic); `KAFKA_STORAGE_ERROR` if a log could not be made.
    pub(crate) async fn create_topic(
        &self,
        ctx: &RequestContext,
        request: CreateTopic,
        validate_only: bool,
    ) -> Result<TopicOutcome, ApiError> {
        self.suffer(ctx, Api::CreateTopics, Some((&request.name, None)), || {
            Box::pin(self.create_topic_now(ctx, request.clone(), validate_only))
        })
        .await
    }

    async fn create_topic_now(
        &self,
        ctx: &RequestContext,
        request: CreateTopic,
        validate_only: bool,
    ) -> Result<TopicOutcome, ApiError> {
        let new = NewTopic {
            name: ctx.names.to_inner(&request.name).into_owned(),
            partitions: request
                .partitions
                .unwrap_or_else(|| self.config.topics.num_partitions),
            replication_factor: request
                .replication_factor
                .unwrap_or_else(|| self.config.topics.default_replication_factor),
            configs: request.configs,
        };
        if validate_only {
            let partitions = new.partitions;
            let replication_factor = i32::from(new.replication_factor);
            self.quorum.check_create_topic(&new)?;
            return Ok(TopicOutcome::Valid {
                partitions,
                replication_factor,
            });
        }
        let topic = self.quorum.create_topic(new).await?;
        self.partitions_follow().await;
        self.partitions_usable(&topic)?;
        ctx.log_change("created a topic", &topic.name);
        Ok(TopicOutcome::Done(topic))
    }

    /// Creates a topic on its first use, where the broker allows that.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION` where it does not; else as [`Service::create_topic`].
    pub(crate) async fn auto_create(
        &self,
        ctx: &RequestContext,
        name: &str,
    ) -> Result<(), ApiError> {
        if !self.config.topics.auto_create_topics_enable {
            return Err(ApiError::unknown_topic(name));
        }
        let request = CreateTopic {
            name: name.to_owned(),
            ..CreateTopic::default()
        };
        match self.create_topic_now(ctx, request, false).await {
            // Somebody else was first; wait until it is usable.
            Err(error) if error.code == ErrorCode::TopicAlreadyExists => {
                self.partitions_follow().await;
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// Deletes a topic with all its records.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `TOPIC_DELETION_DISABLED`, the quorum's errors.
    pub(crate) async fn delete_topic(
        &self,
        ctx: &RequestContext,
        name: &str,
    ) -> Result<Arc<TopicImage>, ApiError> {
        self.suffer(ctx, Api::DeleteTopics, Some((name, None)), || {
            Box::pin(self.delete_topic_now(ctx, name))
        })
        .await
    }

    async fn delete_topic_now(
        &self,
        ctx: &RequestContext,
        name: &str,
    ) -> Result<Arc<TopicImage>, ApiError> {
        if !self.config.topics.delete_topic_enable {
            return Err(ApiError::new(
                ErrorCode::TopicDeletionDisabled,
                "this broker was configured with delete.topic.enable=false",
            ));
        }
        let topic = self.topic(ctx, name)?;
        self.quorum.delete_topic(&topic.name).await?;
        self.partitions_follow().await;
        ctx.log_change("deleted a topic", &topic.name);
        Ok(topic)
    }

    /// Adds partitions until the topic has `total`.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_PARTITIONS`, the quorum's errors.
    pub(crate) async fn create_partitions(
        &self,
        ctx: &RequestContext,
        name: &str,
        total: i32,
        validate_only: bool,
    ) -> Result<TopicOutcome, ApiError> {
        self.suffer(ctx, Api::CreatePartitions, Some((name, None)), || {
            Box::pin(self.create_partitions_now(ctx, name, total, validate_only))
        })
        .await
    }

    async fn create_partitions_now(
        &self,
        ctx: &RequestContext,
        name: &str,
        total: i32,
        validate_only: bool,
    ) -> Result<TopicOutcome, ApiError> {
        let topic = self.topic(ctx, name)?;
        if validate_only {
            self.quorum.check_create_partitions(&topic.name, total)?;
            let replicas = topic
                .partitions
                .first()
                .map_or(0, |first| first.replicas.len());
            return Ok(TopicOutcome::Valid {
                partitions: total,
                replication_factor: i32::try_from(replicas).unwrap_or(i32::MAX),
            });
        }
        let topic = self.quorum.create_partitions(&topic.name, total).await?;
        self.partitions_follow().await;
        ctx.log_change("added partitions", &topic.name);
        self.partitions_usable(&topic)?;
        Ok(TopicOutcome::Done(topic))
    }

    /// Changes settings of a topic, all or none.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_CONFIG`, the quorum's errors.
    pub(crate) async fn alter_configs(
        &self,
        ctx: &RequestContext,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
        validate_only: bool,
    ) -> Result<Arc<TopicImage>, ApiError> {
        self.suffer(ctx, Api::AlterConfigs, Some((name, None)), || {
            let (set, unset) = (set.clone(), unset.clone());
            Box::pin(self.alter_configs_now(ctx, name, set, unset, validate_only))
        })
        .await
    }

    async fn alter_configs_now(
        &self,
        ctx: &RequestContext,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
        validate_only: bool,
    ) -> Result<Arc<TopicImage>, ApiError> {
        let topic = self.topic(ctx, name)?;
        if validate_only {
            self.quorum.check_alter_configs(&topic.name, set, unset)?;
            return Ok(topic);
        }
        self.quorum.alter_configs(&topic.name, set, unset).await?;
        self.partitions_follow().await;
        ctx.log_change("changed a topic's configuration", &topic.name);
        self.topic(ctx, name)
    }

    /// A topic of the image; created first where asked and allowed.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`; as [`Service::create_topic`].
    pub(crate) async fn describe_topic(
        &self,
        ctx: &RequestContext,
        name: &str,
        allow_auto_create: bool,
    ) -> Result<Arc<TopicImage>, ApiError> {
        self.suffer(ctx, Api::Metadata, Some((name, None)), || {
            Box::pin(self.describe_topic_now(ctx, name, allow_auto_create))
        })
        .await
    }

    /// As [`Service::describe_topic`], as a part of another call: faults of that call are not suffered.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn describe_topic_now(
        &self,
        ctx: &RequestContext,
        name: &str,
        allow_auto_create: bool,
    ) -> Result<Arc<TopicImage>, ApiError> {
        match self.topic(ctx, name) {
            Err(error) if error.code == ErrorCode::UnknownTopicOrPartition && allow_auto_create => {
                self.auto_create(ctx, name).await?;
                self.topic(ctx, name)
            }
            found => found,
        }
    }

    /// The configuration in force for a topic.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`.
    pub(crate) async fn topic_config(
        &self,
        ctx: &RequestContext,
        name: &str,
    ) -> Result<TopicConfig, ApiError> {
        self.suffer(ctx, Api::DescribeConfigs, Some((name, None)), || {
            Box::pin(std::future::ready(self.topic_config_now(ctx, name)))
        })
        .await
    }

    fn topic_config_now(&self, ctx: &RequestContext, name: &str) -> Result<TopicConfig, ApiError> {
        let topic = self.topic(ctx, name)?;
        Ok(TopicConfig::new_lenient(&self.config, &topic.configs))
    }

    /// The offsets of a partition held here, or why it cannot be served; `None` if it is not held here.
    pub(crate) fn partition_offsets(
        &self,
        topic: &TopicImage,
        partition: PartitionId,
    ) -> Option<Result<PartitionOffsets, ApiError>> {
        let index = usize::try_from(partition.get()).ok()?;
        match self.partitions().slot(&topic.name, index)? {
            Slot::Elsewhere => None,
            Slot::Offline(offline) => Some(Err(offline.error)),
            Slot::Online(partition) => Some(match partition.broken() {
                Some(broken) => Err(broken.clone()),
                None => Ok(PartitionOffsets::of(&partition)),
            }),
        }
    }

    /// How much room there is where the logs are, and how much of it is free; `None` if that cannot be told.
    pub(crate) fn disk_space(&self) -> Option<DiskSpace> {
        self.partitions().disk_space()
    }

    /// Where the logs are: a path, or "memory".
    pub(crate) fn log_dir_name(&self) -> String {
        let path = self.config.data_dir.as_ref();
        path.map_or_else(|| "memory".to_owned(), |path| path.display().to_string())
    }

    /// Every partition led here, with its offsets.
    pub(crate) fn hosted_partitions(&self) -> Vec<(Arc<str>, PartitionId, PartitionOffsets)> {
        let online = self.partitions().online().into_iter();
        online
            .map(|partition| {
                let offsets = PartitionOffsets::of(&partition);
                (Arc::clone(partition.topic()), partition.id(), offsets)
            })
            .collect()
    }

    /// How many partitions cannot be served because of their disk.
    #[cfg(feature = "http")]
    pub(crate) fn offline_partitions(&self) -> usize {
        self.partitions().offline_count()
    }

    /// Waits until the partitions are as the image says now.
    pub(super) async fn partitions_follow(&self) {
        self.reconciler.reached(self.image().version).await;
    }

    fn partitions_usable(&self, topic: &TopicImage) -> Result<(), ApiError> {
        let slots = self.partitions().slots(&topic.name);
        if slots.len() < topic.partitions.len() {
            return Err(ApiError::storage(
                "the topic's partitions could not be opened",
            ));
        }
        for slot in slots {
            if let Slot::Offline(offline) = slot {
                return Err(offline.error);
            }
        }
        Ok(())
    }
}
