//! Looking offsets up, and deleting the records below one.

use std::borrow::Cow;
use std::sync::Arc;

use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp};
use logweir_storage::KnownProducer;

use crate::error::ApiError;
use crate::faults::Api;
use crate::partition::Partition;
use crate::service::fetch::Isolation;
use crate::service::internal_topics::refuse_internal;
use crate::service::{RequestContext, Service};

/// What to look up in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffsetQuery {
    /// The first offset that can be read.
    Earliest,
    /// Where new records will appear to a reader of this isolation.
    Latest(Isolation),
    /// The first record at or after this time.
    At(Timestamp),
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
}

/// The offset found; -1 where no record fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListedOffset {
    pub(crate) offset: Offset,
    pub(crate) timestamp: Timestamp,
    pub(crate) leader_epoch: LeaderEpoch,
}

impl Service {
    /// Looks one offset up. Queries by time may read from the disk.
    ///
    /// # Errors
    /// As finding the partition, and `KAFKA_STORAGE_ERROR`.
    pub(crate) async fn list_offset(
        &self,
        ctx: &RequestContext,
        topic: &str,
        partition: PartitionId,
        current_leader_epoch: Option<LeaderEpoch>,
        query: OffsetQuery,
    ) -> Result<ListedOffset, ApiError> {
        self.suffer(
            ctx,
            Api::ListOffsets,
            Some((topic, Some(partition))),
            || {
                let name = ctx.names.to_inner(topic);
                Box::pin(self.list_offset_now(name, partition, current_leader_epoch, query))
            },
        )
        .await
    }

    /// Where the last epoch at or before `epoch` ends, and which one that is; `None` if nothing that old or old enough is
    /// known.
    ///
    /// # Errors
    /// As finding the partition.
    pub(crate) fn end_of_epoch(
        &self,
        ctx: &RequestContext,
        topic: &str,
        partition: PartitionId,
        current_leader_epoch: Option<LeaderEpoch>,
        epoch: LeaderEpoch,
    ) -> Result<Option<(LeaderEpoch, Offset)>, ApiError> {
        let name = ctx.names.to_inner(topic);
        let partition = self.partitions().get(&name, None, partition)?;
        partition.check_epoch(current_leader_epoch)?;
        Ok(partition.log().end_offset_of_epoch(epoch))
    }

    /// The producers that a partition remembers.
    ///
    /// # Errors
    /// As finding the partition.
    pub(crate) fn producers(
        &self,
        ctx: &RequestContext,
        topic: &str,
        partition: PartitionId,
    ) -> Result<Vec<KnownProducer>, ApiError> {
        let name = ctx.names.to_inner(topic);
        self.partitions().get(&name, None, partition)?.producers()
    }

    /// Looks an offset up for the broker's own sake, by the topic's inner name.
    ///
    /// # Errors
    /// As [`Service::list_offset`].
    pub(super) async fn offset_of(
        &self,
        topic: &str,
        partition: PartitionId,
        query: OffsetQuery,
    ) -> Result<Offset, ApiError> {
        let listed = self.list_offset_now(topic.into(), partition, None, query);
        Ok(listed.await?.offset)
    }

    async fn list_offset_now(
        &self,
        name: Cow<'_, str>,
        partition: PartitionId,
        current_leader_epoch: Option<LeaderEpoch>,
        query: OffsetQuery,
    ) -> Result<ListedOffset, ApiError> {
        let partition = self.partitions().get(&name, None, partition)?;
        partition.check_epoch(current_leader_epoch)?;
        match query {
            OffsetQuery::Earliest => {
                Ok(found_offset(&partition, partition.log().log_start_offset()))
            }
            OffsetQuery::Latest(isolation) => {
                Ok(found_offset(&partition, partition.bound(isolation.bound())))
            }
            OffsetQuery::At(_) | OffsetQuery::MaxTimestamp => {
                let search = move || search(&partition, query);
                tokio::task::spawn_blocking(search).await.map_err(|error| {
                    ApiError::storage(format!("the look-up ended early: {error}"))
                })?
            }
        }
    }

    /// Deletes a partition's records below `before` (exclusive; `None` for the high watermark); the new log start.
    ///
    /// # Errors
    /// As finding the partition, `OFFSET_OUT_OF_RANGE`, `KAFKA_STORAGE_ERROR`.
    pub(crate) async fn delete_records(
        &self,
        ctx: &RequestContext,
        topic: &str,
        partition: PartitionId,
        before: Option<Offset>,
    ) -> Result<Offset, ApiError> {
        self.suffer(
            ctx,
            Api::DeleteRecords,
            Some((topic, Some(partition))),
            || Box::pin(self.delete_records_now(ctx, topic, partition, before)),
        )
        .await
    }

    async fn delete_records_now(
        &self,
        ctx: &RequestContext,
        topic: &str,
        partition: PartitionId,
        before: Option<Offset>,
    ) -> Result<Offset, ApiError> {
        let name = ctx.names.to_inner(topic);
        refuse_internal(&name)?;
        let partition = self.partitions().get(&name, None, partition)?;
        let delete = move || partition.delete_records(before);
        tokio::task::spawn_blocking(delete)
            .await
            .map_err(|error| ApiError::storage(format!("the deletion ended early: {error}")))?
    }
}

fn found_offset(partition: &Arc<Partition>, offset: Offset) -> ListedOffset {
    ListedOffset {
        offset,
        timestamp: Timestamp::NONE,
        leader_epoch: partition.leader_epoch(),
    }
}

fn search(partition: &Partition, query: OffsetQuery) -> Result<ListedOffset, ApiError> {
    let below = partition.high_watermark();
    let found = match query {
        OffsetQuery::At(timestamp) => partition.log().offset_for_timestamp(timestamp, below)?,
        _ => partition.log().max_timestamp(below)?,
    };
    Ok(found.map_or(
        ListedOffset {
            offset: Offset::new(-1),
            timestamp: Timestamp::NONE,
            leader_epoch: LeaderEpoch::NONE,
        },
        |(offset, timestamp, leader_epoch)| ListedOffset {
            offset,
            timestamp,
            leader_epoch,
        },
    ))
}

#[cfg(all(test, feature = "client"))]
mod tests {
    use logweir_client::{Client, NewTopic, OffsetSpec};
    use logweir_storage::disk::PowerCut;

    use super::*;
    use crate::{Broker, Config, FlushMode, ListenAddr};

    async fn leader_epoch(client: &Client) -> i32 {
        let admin = client.admin();
        let listed = admin.list_offset("orders", PartitionId::new(0), OffsetSpec::Latest);
        listed.await.expect("listed").leader_epoch.get()
    }

    /// A power cut can take records that a topic flushing as `os` has shown. Its leader epoch did not grow, so that a
    /// reader had nothing to notice it by (KIP-320).
    #[tokio::test]
    async fn the_leader_epoch_grows_over_a_power_cut_and_not_over_a_kill_or_a_stop() {
        let config = Config::in_memory()
            .with_grpc(ListenAddr::Off)
            .with_http(ListenAddr::Off)
            .with_flush(FlushMode::Os);
        let broker = Broker::start(config).await.unwrap();
        let client = broker.client().unwrap();
        let topic = NewTopic::new("orders");
        client.admin().create_topic(topic).await.unwrap();
        assert_eq!(leader_epoch(&client).await, 0);
        broker.restart().await.unwrap();
        assert_eq!(leader_epoch(&client).await, 0);
        broker.crash(PowerCut::KeepAll).await.unwrap();
        broker.restart().await.unwrap();
        assert_eq!(leader_epoch(&client).await, 0);
        broker.crash(PowerCut::LoseUnsynced).await.unwrap();
        broker.restart().await.unwrap();
        assert_eq!(leader_epoch(&client).await, 1);
        broker.restart().await.unwrap();
        assert_eq!(leader_epoch(&client).await, 1);
        broker.shutdown().await.unwrap();
    }
}
