//! What groups have committed: reading, setting and forgetting it, for groups without members.

use std::sync::Arc;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
use v1::reset_offsets_request::To;

use super::groups::{in_parts, is_of_coordinator, outcome_of, same_number};
use super::{Admin, only};
use crate::error::{Error, Result};
use crate::topic_partition::TopicPartition;

/// Offsets of one request, which is what the broker takes.
const OFFSETS_PER_REQUEST: usize = 10_000;

/// An offset that a group has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommittedOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's id when it was committed, if it was known.
    pub topic_id: Option<TopicId>,
    /// The next record that the group wants.
    pub offset: Offset,
    /// The leader epoch of the last record consumed; [`LeaderEpoch::NONE`] if the committer did not say.
    pub leader_epoch: LeaderEpoch,
    /// What the committer wanted to remember.
    pub metadata: String,
    /// When it was committed.
    pub committed_at: Timestamp,
}

/// An offset to be committed for a group without members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's id; if given, a topic recreated under the same name is refused.
    pub topic_id: Option<TopicId>,
    /// The next record that the group wants.
    pub offset: Offset,
    /// The leader epoch of the last record consumed, if it is known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Whatever is to be remembered with it; at most 4,096 bytes by default.
    pub metadata: String,
}

impl OffsetToCommit {
    /// An offset and nothing else.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: PartitionId, offset: Offset) -> Self {
        Self {
            partition: TopicPartition::new(topic, partition),
            topic_id: None,
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }
    }

    /// With the leader epoch of the last record consumed.
    #[must_use]
    pub const fn leader_epoch(mut self, leader_epoch: LeaderEpoch) -> Self {
        self.leader_epoch = Some(leader_epoch);
        self
    }

    /// With something to be remembered.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

impl From<CommittedOffset> for OffsetToCommit {
    fn from(committed: CommittedOffset) -> Self {
        Self {
            partition: committed.partition,
            topic_id: committed.topic_id,
            offset: committed.offset,
            leader_epoch: (committed.leader_epoch != LeaderEpoch::NONE)
                .then_some(committed.leader_epoch),
            metadata: committed.metadata,
        }
    }
}

/// Partitions of a topic, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPartitions {
    /// The topic's name.
    pub topic: String,
    /// The partitions; empty for all.
    pub partitions: Vec<PartitionId>,
}

impl NamedPartitions {
    /// All partitions of a topic.
    #[must_use]
    pub fn all(topic: impl Into<String>) -> Self {
        Self::some(topic, [])
    }

    /// These partitions of a topic; none means all.
    #[must_use]
    pub fn some(
        topic: impl Into<String>,
        partitions: impl IntoIterator<Item = PartitionId>,
    ) -> Self {
        Self {
            topic: topic.into(),
            partitions: partitions.into_iter().collect(),
        }
    }
}

/// Where a group is to go on reading.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetTo {
    /// At the first offset that can be read.
    Earliest,
    /// At the end, where new records will appear.
    Latest,
    /// At this offset, kept between the first and the end.
    Offset(Offset),
    /// At the first record whose timestamp is at or above this time; at the end if there is none.
    Timestamp(Timestamp),
    /// So many offsets on (or back, if negative) from what is committed, kept between the first and the end.
    ShiftBy(i64),
    /// At these offsets as they are; at most 10,000. A topic with another id than the one given is refused.
    Exact(Vec<OffsetToCommit>),
}

/// What was set for a partition, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResetOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// What was committed before, if anything was.
    pub before: Option<Offset>,
    /// What is committed now.
    pub after: Offset,
}

impl Admin {
    /// What a group has committed, by topic and partition. A group that does not exist has committed nothing.
    ///
    /// # Errors
    /// If the broker cannot be reached or refuses.
    pub async fn group_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>> {
        only(self.groups_offsets(&[group_id]).await?)?
    }

    /// What groups have committed, in order, each by topic and partition. One that has more than 16 MiB of it is refused.
    ///
    /// # Errors
    /// If a whole request failed.
    pub async fn groups_offsets(
        &self,
        group_ids: &[&str],
    ) -> Result<Vec<Result<Vec<CommittedOffset>>>> {
        let groups = in_parts(group_ids, async |part| {
            let asked = part.iter().map(|group_id| v1::FetchOffsetsGroup {
                group_id: (*group_id).to_owned(),
                topics: Vec::new(),
                member_id: String::new(),
                member_epoch: -1,
            });
            let request = v1::FetchOffsetsRequest {
                groups: asked.collect(),
            };
            let ask = async || {
                let mut service = self.client.group_service();
                let call = service.fetch_offsets(request.clone());
                let what = "fetching committed offsets";
                let response = self.client.call(what, Duration::ZERO, call).await?;
                same_number(part.len(), response.groups)
            };
            self.read_entries(ask, |group| group.error.as_ref()).await
        });
        let offsets_of = |group: v1::GroupOffsets| {
            outcome_of(group.error.as_ref())?;
            Ok(group.offsets.into_iter().map(Into::into).collect())
        };
        Ok(groups.await?.into_iter().map(offsets_of).collect())
    }

    /// Commits offsets for a group that has no members, each on its own; the results are in order. A group that does
    /// not exist is made.
    ///
    /// # Errors
    /// If the group has members, or a whole request failed: of more than 10,000 offsets, earlier ones may be
    /// committed then.
    pub async fn commit_group_offsets(
        &self,
        group_id: &str,
        offsets: &[OffsetToCommit],
    ) -> Result<Vec<Result<()>>> {
        let mut results = Vec::with_capacity(offsets.len());
        for chunk in offsets.chunks(OFFSETS_PER_REQUEST) {
            let request = v1::CommitOffsetsRequest {
                group_id: group_id.to_owned(),
                member_id: String::new(),
                member_epoch: -1,
                instance_id: None,
                offsets: chunk.iter().map(v1::OffsetToCommit::from).collect(),
            };
            let mut answered = Vec::new();
            self.change_entries(async || {
                let mut service = self.client.group_service();
                let call = service.commit_offsets(request.clone());
                let what = "committing offsets";
                let response = self.client.call(what, Duration::ZERO, call).await?;
                answered = same_number(chunk.len(), response.results)?;
                Ok(is_settled(&answered))
            })
            .await?;
            results.extend(answered.iter().map(|result| result_of(result).1));
        }
        Ok(results)
    }

    /// Forgets what a group has committed for these partitions, each on its own. Partitions of topics that the group's
    /// members are subscribed to are refused.
    ///
    /// # Errors
    /// If there is no such group, or the whole request failed.
    pub async fn delete_group_offsets(
        &self,
        group_id: &str,
        partitions: &[NamedPartitions],
    ) -> Result<Vec<(TopicPartition, Result<()>)>> {
        let request = v1::DeleteOffsetsRequest {
            group_id: group_id.to_owned(),
            topics: partitions.iter().map(v1::NamedPartitions::from).collect(),
        };
        let mut answered = Vec::new();
        self.change_entries(async || {
            let mut service = self.client.group_service();
            let call = service.delete_offsets(request.clone());
            let what = "deleting committed offsets";
            let response = self.client.call(what, Duration::ZERO, call).await?;
            answered = response.results;
            Ok(is_settled(&answered))
        })
        .await?;
        Ok(answered.iter().map(result_of).collect())
    }

    /// Sets where a group that has no members goes on reading: all of it, or nothing. With `dry_run` it is only said
    /// what would be set. `topics` limits it; empty for all that the group has committed something for. A group that
    /// does not exist is made.
    ///
    /// # Errors
    /// If the group has members, a partition does not exist, or the broker cannot be reached.
    pub async fn reset_offsets(
        &self,
        group_id: &str,
        topics: &[NamedPartitions],
        to: ResetTo,
        dry_run: bool,
    ) -> Result<Vec<ResetOffset>> {
        let request = v1::ResetOffsetsRequest {
            group_id: group_id.to_owned(),
            topics: topics.iter().map(v1::NamedPartitions::from).collect(),
            to: Some(to.into()),
            dry_run,
        };
        let mut offsets = Vec::new();
        self.change_entries(async || {
            let mut service = self.client.group_service();
            let call = service.reset_offsets(request.clone());
            let what = "resetting offsets";
            offsets = self.client.call(what, Duration::ZERO, call).await?.offsets;
            Ok(true)
        })
        .await?;
        Ok(offsets.into_iter().map(ResetOffset::from).collect())
    }
}

/// Whether no entry says that the coordinator was not there. Both calls that ask may be repeated whole: they leave the
/// same state behind.
fn is_settled(results: &[v1::PartitionResult]) -> bool {
    let mut errors = results.iter().filter_map(|result| result.error.as_ref());
    !errors.any(|error| is_of_coordinator(&Error::from_entry(error)))
}

fn result_of(result: &v1::PartitionResult) -> (TopicPartition, Result<()>) {
    let partition = PartitionId::new(result.partition);
    let place = TopicPartition::new(result.topic.as_str(), partition);
    let outcome = outcome_of(result.error.as_ref())
        .map_err(|error| error.of_partition(Arc::clone(&place.topic), partition));
    (place, outcome)
}

impl From<v1::CommittedOffset> for CommittedOffset {
    fn from(committed: v1::CommittedOffset) -> Self {
        Self {
            partition: TopicPartition::new(committed.topic, PartitionId::new(committed.partition)),
            topic_id: TopicId::from_slice(&committed.topic_id),
            offset: Offset::new(committed.offset),
            leader_epoch: LeaderEpoch::new(committed.leader_epoch),
            metadata: committed.metadata,
            committed_at: Timestamp::new(committed.committed_at_ms),
        }
    }
}

impl From<&OffsetToCommit> for v1::OffsetToCommit {
    fn from(wanted: &OffsetToCommit) -> Self {
        Self {
            topic: wanted.partition.topic.to_string(),
            topic_id: wanted.topic_id.map(|id| id.get().to_vec().into()),
            partition: wanted.partition.partition.get(),
            offset: wanted.offset.get(),
            leader_epoch: wanted.leader_epoch.map(LeaderEpoch::get),
            metadata: wanted.metadata.clone(),
        }
    }
}

impl From<&NamedPartitions> for v1::NamedPartitions {
    fn from(named: &NamedPartitions) -> Self {
        Self {
            topic: named.topic.clone(),
            partitions: named.partitions.iter().map(|p| p.get()).collect(),
        }
    }
}

impl From<ResetTo> for To {
    fn from(to: ResetTo) -> Self {
        match to {
            ResetTo::Earliest => Self::Earliest(v1::Earliest {}),
            ResetTo::Latest => Self::Latest(v1::Latest {}),
            ResetTo::Offset(offset) => Self::Offset(offset.get()),
            ResetTo::Timestamp(time) => Self::TimestampMs(time.get()),
            ResetTo::ShiftBy(by) => Self::ShiftBy(by),
            ResetTo::Exact(offsets) => {
                let offsets = offsets.into_iter().map(|wanted| v1::ExactOffset {
                    topic: wanted.partition.topic.to_string(),
                    partition: wanted.partition.partition.get(),
                    offset: wanted.offset.get(),
                    leader_epoch: wanted.leader_epoch.map(LeaderEpoch::get),
                    metadata: wanted.metadata,
                    topic_id: wanted.topic_id.map(|id| id.get().to_vec().into()),
                });
                Self::Exact(v1::ExactOffsets {
                    offsets: offsets.collect(),
                })
            }
        }
    }
}

impl From<v1::ResetOffset> for ResetOffset {
    fn from(reset: v1::ResetOffset) -> Self {
        Self {
            partition: TopicPartition::new(reset.topic, PartitionId::new(reset.partition)),
            before: reset.before.map(Offset::new),
            after: Offset::new(reset.after),
        }
    }
}
