//! What groups have committed: reading, setting and forgetting it, for groups without members.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
use v1::reset_offsets_request::To;

use super::groups::{in_parts, is_no_group, is_of_coordinator, may_stand, outcome_of, same_number};
use super::{Admin, only};
use crate::error::{Error, ErrorKind, Result};
use crate::topic_partition::TopicPartition;

/// Offsets of one request, which is what the broker takes.
const OFFSETS_PER_REQUEST: usize = 10_000;
/// And their bytes, as the broker counts them: strings, and so much beside them for each offset.
const BYTES_PER_REQUEST: usize = 1_000_000;
const OFFSET_BYTES: usize = 96;

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

    /// Offsets of a group in as few parts as the broker sets at once, each of them whole or not at all; in order, and none
    /// of no offsets. [`Admin::reset_offsets`] and [`Admin::commit_group_offsets`] do the same with what is too much for
    /// one request; who sets the parts one by one is told of each what was committed before, also if a later one fails.
    ///
    /// ```
    /// use logweir_client::{Offset, OffsetToCommit, PartitionId};
    ///
    /// let offset = |number| OffsetToCommit::new("flights", PartitionId::new(number), Offset::ZERO);
    /// let offsets: Vec<_> = (0..12_000).map(offset).collect();
    /// let parts = OffsetToCommit::parts("billing", &offsets);
    /// assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), 12_000);
    /// assert!(parts.iter().all(|part| part.len() <= 10_000));
    /// ```
    #[must_use]
    pub fn parts<'a>(group_id: &str, offsets: &'a [Self]) -> Vec<&'a [Self]> {
        parts(group_id, offsets)
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
    /// So many offsets on (or back, if negative) from what is committed, kept between the first and the end. Looked up
    /// first and then set, so that it is not done twice where it has to be tried again.
    ShiftBy(i64),
    /// At these offsets as they are, each partition once. A topic with another id than the one given is refused.
    ///
    /// The broker takes 10,000 offsets and 1,000,000 bytes at once, counting for each offset its topic's name, its metadata,
    /// the group's id and 96 bytes. More are all checked first, and then set part by part: if a later part fails all the
    /// same, the error says what was set before.
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
        let groups = in_parts(group_ids, |group_ids| async {
            let asked = group_ids.into_iter().map(|group_id| v1::FetchOffsetsGroup {
                group_id,
                topics: Vec::new(),
                member_id: String::new(),
                member_epoch: -1,
            });
            let request = v1::FetchOffsetsRequest {
                groups: asked.collect(),
            };
            let ask = || async {
                let mut service = self.client.group_service();
                let call = service.fetch_offsets(request.clone());
                let what = "fetching committed offsets";
                let response = self.client.call(what, Duration::ZERO, call).await?;
                same_number(request.groups.len(), response.groups)
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
    /// not exist is made. More than one request takes (see [`ResetTo::Exact`]) are sent as several.
    ///
    /// # Errors
    /// If the group has members, or a whole request failed; of several, it is said which offsets were sent before.
    pub async fn commit_group_offsets(
        &self,
        group_id: &str,
        offsets: &[OffsetToCommit],
    ) -> Result<Vec<Result<()>>> {
        let mut results = Vec::with_capacity(offsets.len());
        for part in parts(group_id, offsets) {
            let request = v1::CommitOffsetsRequest {
                group_id: group_id.to_owned(),
                member_id: String::new(),
                member_epoch: -1,
                instance_id: None,
                offsets: part.iter().map(v1::OffsetToCommit::from).collect(),
            };
            let commit = || async {
                let mut service = self.client.group_service();
                let call = service.commit_offsets(request.clone());
                let what = "committing offsets";
                let response = self.client.call(what, Duration::ZERO, call).await?;
                same_number(part.len(), response.results)
            };
            let answered = self.repeat_change(commit, passes).await;
            let done = &offsets[..results.len()];
            let answered = answered.map_err(|error| after(error, "sent", done))?;
            results.extend(answered.iter().map(|result| result_of(result).1));
        }
        Ok(results)
    }

    /// Forgets what a group has committed for these partitions, each on its own; of a whole topic for those that it has
    /// committed something for, also if the topic is gone. Partitions of topics that the group's members are subscribed to
    /// are refused.
    ///
    /// # Errors
    /// If there is no such group, no topic is named, or the whole request failed.
    pub async fn delete_group_offsets(
        &self,
        group_id: &str,
        partitions: &[NamedPartitions],
    ) -> Result<Vec<(TopicPartition, Result<()>)>> {
        let request = v1::DeleteOffsetsRequest {
            group_id: group_id.to_owned(),
            topics: partitions.iter().map(v1::NamedPartitions::from).collect(),
        };
        let delete = || async {
            let mut service = self.client.group_service();
            let call = service.delete_offsets(request.clone());
            let what = "deleting committed offsets";
            let response = self.client.call(what, Duration::ZERO, call).await?;
            Ok(response.results)
        };
        let mut may_be_done = false;
        let answered = self.repeat(delete, |result| {
            may_be_done |= result.as_ref().is_err_and(may_stand);
            passes(result)
        });
        let answered = answered.await;
        let some_whole = partitions.iter().any(|named| named.partitions.is_empty());
        match answered {
            // With its last offset, the group was gone, too.
            Err(error) if may_be_done && is_no_group(&error) && !some_whole => {
                Ok(singly(partitions))
            }
            Err(error) if may_be_done => Err(error.with_may_have_happened(true)),
            // What there was to be forgotten of whole topics is not known any more.
            Ok(answered) if may_be_done && some_whole && answered.is_empty() => {
                let message = "the answer was lost, and there is nothing left to be forgotten";
                Err(Error::new(ErrorKind::TimedOut, message).with_may_have_happened(true))
            }
            answered => Ok(answered?.iter().map(result_of).collect()),
        }
    }

    /// Sets where a group that has no members goes on reading: all of it, or nothing, but for very many exact offsets
    /// (see [`ResetTo::Exact`]). With `dry_run` it is only said what would be set. `topics` limits it; empty for all that
    /// the group has committed something for. A group that does not exist is made.
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
        match to {
            ResetTo::Exact(offsets) if topics.is_empty() => {
                self.reset_exactly(group_id, &offsets, dry_run).await
            }
            // Tried again after a lost answer, it would shift twice.
            ResetTo::ShiftBy(_) if !dry_run => {
                let shifted = self.reset_once(group_id, topics, to, true).await?;
                let exact = shifted.iter().map(|reset| {
                    let place = &reset.partition;
                    OffsetToCommit::new(Arc::clone(&place.topic), place.partition, reset.after)
                });
                let exact: Vec<_> = exact.collect();
                if parts(group_id, &exact).len() > 1 {
                    let message = format!(
                        "{} offsets are to be shifted, more than are set at once",
                        exact.len()
                    );
                    let error = Error::invalid(message);
                    return Err(error.with_action("name topics or partitions, some at a time"));
                }
                self.reset_exactly(group_id, &exact, false).await?;
                Ok(shifted)
            }
            to => self.reset_once(group_id, topics, to, dry_run).await,
        }
    }

    async fn reset_exactly(
        &self,
        group_id: &str,
        offsets: &[OffsetToCommit],
        dry_run: bool,
    ) -> Result<Vec<ResetOffset>> {
        let mut parts = parts(group_id, offsets);
        if parts.is_empty() {
            // What there is to say about the group is said all the same.
            parts.push(&[]);
        }
        let mut named = BTreeSet::new();
        if let Some(twice) = offsets.iter().find(|o| !named.insert(&o.partition)) {
            let place = &twice.partition;
            let error = Error::invalid("an offset is given twice");
            return Err(error.of_partition(Arc::clone(&place.topic), place.partition));
        }
        if parts.len() > 1 && !dry_run {
            // What is refused is to be refused before anything is set.
            for part in &parts {
                let exact = ResetTo::Exact(part.to_vec());
                self.reset_once(group_id, &[], exact, true).await?;
            }
        }
        let mut reset = Vec::with_capacity(offsets.len());
        for part in parts {
            let exact = ResetTo::Exact(part.to_vec());
            let answered = self.reset_once(group_id, &[], exact, dry_run).await;
            let answered = answered.and_then(|answered| same_number(part.len(), answered));
            let done = if dry_run { 0 } else { reset.len() };
            let done = &offsets[..done];
            reset.extend(answered.map_err(|error| after(error, "set", done))?);
        }
        Ok(reset)
    }

    async fn reset_once(
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
        let reset = || async {
            let mut service = self.client.group_service();
            let call = service.reset_offsets(request.clone());
            let what = "resetting offsets";
            let response = self.client.call(what, Duration::ZERO, call).await?;
            Ok(response.offsets)
        };
        let passes = |result: &Result<_>| result.as_ref().is_err_and(is_of_coordinator);
        let offsets = self.repeat_change(reset, passes).await?;
        Ok(offsets.into_iter().map(ResetOffset::from).collect())
    }
}

/// The offsets in as few parts as the broker takes in one request.
fn parts<'a>(group_id: &str, offsets: &'a [OffsetToCommit]) -> Vec<&'a [OffsetToCommit]> {
    let mut parts = Vec::new();
    let mut rest = offsets;
    while !rest.is_empty() {
        let sizes = rest
            .iter()
            .map(|offset| offset.partition.topic.len() + offset.metadata.len());
        let (part, left) = rest.split_at(fitting_offsets(group_id, sizes));
        parts.push(part);
        rest = left;
    }
    parts
}

/// How many offsets one request takes, at least one if there is any; each is given by the length of its topic's name and
/// its metadata.
pub(crate) fn fitting_offsets(group_id: &str, sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |size: &usize| {
        bytes += OFFSET_BYTES + group_id.len() + size;
        bytes <= BYTES_PER_REQUEST
    };
    let mut sizes = sizes.take(OFFSETS_PER_REQUEST).peekable();
    let least = usize::from(sizes.peek().is_some());
    sizes.take_while(fits).count().max(least)
}

/// The error of a part, with what the parts before it have done.
fn after(error: Error, what: &str, done: &[OffsetToCommit]) -> Error {
    let Some(last) = done.last() else {
        return error;
    };
    let (count, place) = (done.len(), &last.partition);
    error.with_note(format!(
        "the first {count} offsets were {what} before, up to partition {} of topic {:?}",
        place.partition, place.topic
    ))
}

/// Partitions that are named by number, as what was forgotten.
fn singly(partitions: &[NamedPartitions]) -> Vec<(TopicPartition, Result<()>)> {
    let all = partitions.iter().flat_map(|named| {
        let topic: Arc<str> = named.topic.as_str().into();
        let numbers = named.partitions.iter();
        numbers.map(move |number| (TopicPartition::new(Arc::clone(&topic), *number), Ok(())))
    });
    all.collect()
}

/// Whether the coordinator, or that of an entry, was not there. The calls that ask may be repeated whole: they leave the
/// same state behind.
fn passes(result: &Result<Vec<v1::PartitionResult>>) -> bool {
    match result {
        Err(error) => is_of_coordinator(error),
        Ok(results) => {
            let mut errors = results.iter().filter_map(|result| result.error.as_ref());
            errors.any(|error| is_of_coordinator(&Error::from_entry(error)))
        }
    }
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
