//! The committed-offset table: commit, fetch, delete. Expiry and reset have files of their own.

mod expiry;
mod reset;
#[cfg(test)]
mod tests;

pub(super) use self::expiry::{Housekeeping, Room};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::{ErrorCode, PartitionId, Timestamp, TopicId};

use super::answer::{FetchedGroup, FetchedOffset, GroupError, PartitionAnswer};
use super::classic::unknown_member;
use super::ids::GroupId;
use super::records::{CommittedOffset, GroupRecord};
use super::request::{CommitOffsets, DeleteOffsets, FetchGroup, NewOffset};
use super::scene::Decision;
use super::state::offset_key;
use super::{GroupMachine, check_name};
use crate::coordinator::machine::Now;

/// What a record of an offset takes beside its strings, at most: lengths, versions, numbers, the batch's own.
const RECORD_OVERHEAD: usize = 96;
/// Offsets that one request may forget.
const MAX_DELETIONS: usize = 10_000;
/// Records may carry metadata with a length of 16 bits, whatever the setting says.
const MAX_METADATA_BYTES: usize = 32_767;

impl GroupMachine {
    pub(super) fn commit(
        &mut self,
        request: &CommitOffsets,
        now: Now,
        decision: &mut Decision,
    ) -> Result<Vec<PartitionAnswer>, GroupError> {
        check_name(&request.group_id)?;
        self.check_commit(request, now, decision)?;
        let expires_at = request.retention.map(|span| later(now.wall, span));
        let mut bytes = 0;
        let mut answers = Vec::with_capacity(request.offsets.len());
        for offset in &request.offsets {
            let result = self.check_offset(&request.group_id, offset, &mut bytes);
            let topic_id = self.topic_id(offset);
            if result.is_ok() {
                let committed = CommittedOffset {
                    expires_at,
                    ..committed(offset, topic_id, now)
                };
                let key = offset_key(&request.group_id, &offset.topic, offset.partition);
                decision
                    .records
                    .push(GroupRecord::Offset(key, Some(committed)));
            }
            let (topic, partition) = (Arc::clone(&offset.topic), offset.partition);
            answers.push(PartitionAnswer {
                topic,
                topic_id,
                partition,
                result,
            });
        }
        Ok(answers)
    }

    /// Whether the committer is a member of the group as it is now, or the group has none.
    fn check_commit(
        &mut self,
        request: &CommitOffsets,
        now: Now,
        decision: &mut Decision,
    ) -> Result<(), GroupError> {
        if let Some(checked) = self.check_consumer_commit(request) {
            return checked;
        }
        if let Some(checked) = self.check_classic_commit(request, now, decision) {
            return checked;
        }
        if request.generation_or_epoch < 0 {
            return Ok(());
        }
        let id = &request.group_id;
        if self.state.groups.contains_key(id) {
            return Err(unknown_member(id, &request.member_id));
        }
        let code = match request.knows_epochs {
            true => ErrorCode::GroupIdNotFound,
            false => ErrorCode::IllegalGeneration,
        };
        Err(GroupError::new(code, format!("there is no group {id:?}")))
    }

    fn check_offset(
        &self,
        group: &GroupId,
        offset: &NewOffset,
        bytes: &mut usize,
    ) -> Result<(), GroupError> {
        check_name(&offset.topic)?;
        let max = self
            .config
            .offset_metadata_max_bytes
            .min(MAX_METADATA_BYTES);
        if offset.metadata.len() > max {
            let message = format!(
                "{} bytes of metadata, at most {max} fit",
                offset.metadata.len()
            );
            return Err(GroupError::new(ErrorCode::OffsetMetadataTooLarge, message));
        }
        *bytes += group.len() + offset.topic.len() + offset.metadata.len() + RECORD_OVERHEAD;
        if *bytes > self.config.max_batch_bytes {
            let message = "the offsets do not fit one batch; commit fewer at once";
            return Err(GroupError::new(ErrorCode::InvalidCommitOffsetSize, message));
        }
        Ok(())
    }

    /// The id that the committer gave, or that of the topic of this name.
    fn topic_id(&self, offset: &NewOffset) -> TopicId {
        if offset.topic_id == TopicId::ZERO {
            return self.topic_id_of(&offset.topic);
        }
        offset.topic_id
    }

    fn topic_id_of(&self, topic: &str) -> TopicId {
        self.topics
            .get(topic)
            .map_or(TopicId::ZERO, |topic| topic.id)
    }

    pub(super) fn fetch(&self, request: FetchGroup) -> FetchedGroup {
        let result = self
            .check_fetch(&request)
            .map(|()| self.fetch_offsets(&request));
        FetchedGroup {
            group_id: request.group_id,
            result,
        }
    }

    fn fetch_offsets(&self, request: &FetchGroup) -> Vec<FetchedOffset> {
        let group = self.state.groups.get(&request.group_id);
        let fetched = |topic: &Arc<str>, partition: PartitionId| {
            let topic_id = self.topic_id_of(topic);
            let committed = group
                .and_then(|g| g.offset(topic, topic_id, partition))
                .cloned();
            FetchedOffset {
                topic: Arc::clone(topic),
                topic_id,
                partition,
                committed,
            }
        };
        match &request.partitions {
            Some(partitions) => partitions.iter().map(|(t, p)| fetched(t, *p)).collect(),
            None => {
                let all = group.iter().flat_map(|group| &group.offsets);
                let all = all.flat_map(|(t, partitions)| partitions.keys().map(|p| fetched(t, *p)));
                all.filter(|offset| offset.committed.is_some()).collect()
            }
        }
    }

    pub(super) fn delete_offsets(
        &self,
        request: &DeleteOffsets,
        decision: &mut Decision,
    ) -> Result<Vec<PartitionAnswer>, GroupError> {
        let id = &request.group_id;
        let exists = self.state.groups.contains_key(id) || self.classic.contains_key(id);
        if !exists {
            let message = format!("there is no group {id:?}");
            return Err(GroupError::new(ErrorCode::GroupIdNotFound, message));
        }
        if self
            .classic
            .get(id)
            .is_some_and(|g| !g.is_empty() && !g.has_consumers())
        {
            return Err(non_empty(id));
        }
        let mut subscribed: BTreeMap<&Arc<str>, bool> = BTreeMap::new();
        let mut room = self.room();
        let held = self.held_of(id, &request.whole_topics);
        let named = request.partitions.len() + held.len();
        if named > MAX_DELETIONS {
            let message = format!(
                "{named} offsets are to be forgotten, and one request takes {MAX_DELETIONS}; name partitions, some at a time"
            );
            return Err(GroupError::new(ErrorCode::InvalidRequest, message));
        }
        let mut answers = Vec::with_capacity(request.partitions.len() + held.len());
        for (topic, partition) in request.partitions.iter().chain(&held) {
            let is_subscribed = *subscribed
                .entry(topic)
                .or_insert_with(|| self.is_subscribed(id, topic));
            let offsets = self
                .state
                .offsets(id)
                .and_then(|offsets| offsets.get(topic));
            let exists = offsets.is_some_and(|held| held.contains_key(partition));
            let result = if is_subscribed {
                let message = "the group is subscribed to the topic";
                Err(GroupError::new(ErrorCode::GroupSubscribedToTopic, message))
            } else if !exists {
                Ok(())
            } else if room.take(id, topic) {
                let key = offset_key(id, topic, *partition);
                decision.records.push(GroupRecord::Offset(key, None));
                Ok(())
            } else {
                let message = "the offsets do not fit one batch; delete fewer at once";
                Err(GroupError::new(ErrorCode::InvalidRequest, message))
            };
            let (topic_id, topic) = (self.topic_id_of(topic), Arc::clone(topic));
            answers.push(PartitionAnswer {
                topic,
                topic_id,
                partition: *partition,
                result,
            });
        }
        Ok(answers)
    }

    /// The partitions of these topics that something is committed for.
    fn held_of(&self, id: &GroupId, topics: &[Arc<str>]) -> Vec<(Arc<str>, PartitionId)> {
        let Some(offsets) = self.state.offsets(id) else {
            return Vec::new();
        };
        let held = topics
            .iter()
            .filter_map(|topic| offsets.get_key_value(topic));
        let held = held.flat_map(|(topic, partitions)| {
            let numbers = partitions.keys();
            numbers.map(|partition| (Arc::clone(topic), *partition))
        });
        held.collect()
    }

    fn is_subscribed(&self, id: &GroupId, topic: &str) -> bool {
        if let Some(group) = self.classic.get(id) {
            return group.is_subscribed_to(topic);
        }
        self.is_consumer_subscribed(id, topic)
    }
}

/// An offset as it is written.
fn committed(offset: &NewOffset, topic_id: TopicId, now: Now) -> CommittedOffset {
    CommittedOffset {
        offset: offset.offset,
        leader_epoch: offset.leader_epoch,
        metadata: Arc::clone(&offset.metadata),
        committed_at: offset.committed_at.unwrap_or(now.wall),
        expires_at: None,
        topic_id,
    }
}

/// A moment and a span after it; the end of time if that is beyond it.
fn later(at: Timestamp, span: Duration) -> Timestamp {
    let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    Timestamp::new(at.get().saturating_add(millis))
}

/// The error for what may be done to groups without members only.
pub(super) fn non_empty(id: &str) -> GroupError {
    let message = format!("group {id:?} has members");
    GroupError::new(ErrorCode::NonEmptyGroup, message)
}
