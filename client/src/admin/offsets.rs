//! Looking offsets up, and deleting what lies below one.

use std::sync::Arc;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp};
use v1::list_offsets_partition::At;

use super::{Admin, SLACK, only};
use crate::client::Client;
use crate::config::Isolation;
use crate::error::{Error, ErrorKind, Result};
use crate::topic_partition::TopicPartition;

/// Which offset to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OffsetSpec {
    /// The first offset that can be read.
    Earliest,
    /// Where new records will appear: the high watermark, or the last stable offset for
    /// [`Isolation::ReadCommitted`].
    Latest,
    /// The first record whose timestamp is at or above this time.
    Timestamp(Timestamp),
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
}

/// An offset found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedOffset {
    /// The offset; none if no record fits.
    pub offset: Option<Offset>,
    /// The timestamp of the record found; none for earliest and latest.
    pub timestamp: Option<Timestamp>,
    /// The leader epoch of that offset; [`LeaderEpoch::NONE`] if unknown.
    pub leader_epoch: LeaderEpoch,
}

impl Admin {
    /// Looks one offset up.
    ///
    /// # Errors
    /// If there is no such partition, or the broker cannot be reached.
    pub async fn list_offset(
        &self,
        topic: &str,
        partition: PartitionId,
        spec: OffsetSpec,
    ) -> Result<ListedOffset> {
        let wanted = vec![(TopicPartition::new(topic, partition), spec)];
        only(self.list_offsets(wanted, Isolation::default()).await?)?
    }

    /// Looks offsets up; the results are in order. At most 10,000.
    ///
    /// # Errors
    /// If the whole request failed.
    pub async fn list_offsets(
        &self,
        wanted: Vec<(TopicPartition, OffsetSpec)>,
        isolation: Isolation,
    ) -> Result<Vec<Result<ListedOffset>>> {
        self.read(|| look_up(&self.client, &wanted, isolation))
            .await
    }

    /// Deletes a partition's records below an offset (exclusive), or below the high watermark if none is
    /// given, and returns the first offset that can be read now.
    ///
    /// # Errors
    /// If the offset is above the high watermark, there is no such partition, or the broker cannot be reached.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: PartitionId,
        before: Option<Offset>,
    ) -> Result<Offset> {
        let mut service = self.client.topic_service();
        let call = service.delete_records(v1::DeleteRecordsRequest {
            partitions: vec![v1::DeleteRecordsPartition {
                topic: topic.to_owned(),
                partition: partition.get(),
                before_offset: before.map_or(-1, Offset::get),
            }],
            timeout_ms: self.timeout_ms(),
        });
        let response = self.client.call("deleting records", SLACK, call).await?;
        let result = only(response.results)?;
        match &result.error {
            Some(error) => Err(Error::from_entry(error).of_partition(topic, partition)),
            None => Ok(Offset::new(result.log_start_offset)),
        }
    }
}

/// Looks offsets up once; the results are in the order asked for.
pub(crate) async fn look_up(
    client: &Client,
    wanted: &[(TopicPartition, OffsetSpec)],
    isolation: Isolation,
) -> Result<Vec<Result<ListedOffset>>> {
    let mut request = v1::ListOffsetsRequest {
        partitions: wanted
            .iter()
            .map(|(place, spec)| wanted_entry(place, *spec))
            .collect(),
        ..Default::default()
    };
    request.set_isolation_level(isolation.into());
    let mut service = client.fetch_service();
    let response = client
        .call(
            "looking offsets up",
            Duration::ZERO,
            service.list_offsets(request),
        )
        .await?;
    if response.offsets.len() != wanted.len() {
        let message = format!(
            "{} offsets were asked for and {} came back",
            wanted.len(),
            response.offsets.len()
        );
        return Err(Error::new(ErrorKind::Broker, message));
    }
    let found = response.offsets.into_iter().zip(wanted);
    Ok(found
        .map(|(listed, (place, _))| found_entry(&listed, place))
        .collect())
}

fn wanted_entry(place: &TopicPartition, spec: OffsetSpec) -> v1::ListOffsetsPartition {
    v1::ListOffsetsPartition {
        topic: place.topic.to_string(),
        partition: place.partition.get(),
        at: Some(match spec {
            OffsetSpec::Earliest => At::Earliest(v1::Earliest {}),
            OffsetSpec::Latest => At::Latest(v1::Latest {}),
            OffsetSpec::Timestamp(time) => At::TimestampMs(time.get()),
            OffsetSpec::MaxTimestamp => At::MaxTimestamp(v1::MaxTimestamp {}),
        }),
        current_leader_epoch: None,
    }
}

fn found_entry(listed: &v1::ListedOffset, place: &TopicPartition) -> Result<ListedOffset> {
    if let Some(error) = &listed.error {
        return Err(
            Error::from_entry(error).of_partition(Arc::clone(&place.topic), place.partition)
        );
    }
    Ok(ListedOffset {
        offset: (listed.offset >= 0).then(|| Offset::new(listed.offset)),
        timestamp: (listed.timestamp_ms >= 0).then(|| Timestamp::new(listed.timestamp_ms)),
        leader_epoch: LeaderEpoch::new(listed.leader_epoch),
    })
}

impl From<Isolation> for v1::IsolationLevel {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::ReadUncommitted => Self::ReadUncommitted,
            Isolation::ReadCommitted => Self::ReadCommitted,
        }
    }
}
