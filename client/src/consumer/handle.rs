//! What can be done to a consumer from elsewhere: from its handlers, from other tasks, from its listener.

use std::fmt;
use std::sync::Arc;

use logweir_proto::{LeaderEpoch, Offset};
use tokio::time::Instant;

use super::commits::{CommitFuture, Entry, removed};
use super::member::{Phase, Shared};
use super::partitions::{Partitions, not_owned};
use crate::admin::OffsetToCommit;
use crate::config::Delivery;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::ConsumerMetrics;
use crate::reader::{ConsumerRecord, FetchedBatch, StartAt};
use crate::topic_partition::TopicPartition;

/// Marks, commits and steers a [`Consumer`](super::Consumer). Cheap to clone; clones are of the same consumer.
#[derive(Clone)]
pub struct ConsumerHandle {
    pub(super) shared: Arc<Shared>,
}

impl ConsumerHandle {
    /// The group.
    #[must_use]
    pub fn group_id(&self) -> &str {
        &self.shared.config.group_id
    }

    /// The consumer's id in the group, as `logweir group members` shows it.
    #[must_use]
    pub fn member_id(&self) -> &str {
        &self.shared.member_id
    }

    /// The member's epoch; none while it is no member.
    #[must_use]
    pub fn member_epoch(&self) -> Option<i32> {
        let state = self.shared.lock();
        matches!(state.phase, Phase::Member).then_some(state.epoch)
    }

    /// The partitions that the consumer owns now.
    #[must_use]
    pub fn assignment(&self) -> Vec<TopicPartition> {
        let state = self.shared.lock();
        state
            .partitions
            .iter()
            .map(|(place, _)| place.clone())
            .collect()
    }

    /// What the group has committed for a partition that the consumer owns, as far as it knows: what it found when the
    /// partition was assigned, or committed since. None if nothing.
    #[must_use]
    pub fn committed(&self, place: &TopicPartition) -> Option<Offset> {
        self.shared.lock().partitions.get(place)?.committed
    }

    /// What the consumer has done so far.
    #[must_use]
    pub fn metrics(&self) -> ConsumerMetrics {
        self.shared.counters.snapshot()
    }

    /// The application is done with this record and those before it in its partition: what is committed next says so.
    ///
    /// # Errors
    /// Of kind [`Fenced`](ErrorKind::Fenced) if the partition was taken away since the record was handed out, or the consumer
    /// was removed from its group: the record is, or will be, handed out again, to this or another member.
    pub fn mark(&self, record: &ConsumerRecord) -> Result<()> {
        let place = TopicPartition::new(Arc::clone(&record.topic), record.partition);
        self.mark_up_to(&place, record.offset, record.leader_epoch)
    }

    /// The application is done with all records of this batch.
    ///
    /// # Errors
    /// As [`Self::mark`].
    pub fn mark_batch(&self, batch: &FetchedBatch) -> Result<()> {
        let place = TopicPartition::new(Arc::clone(&batch.topic), batch.partition);
        let last = batch.records.last();
        let last = last.ok_or_else(|| Error::invalid("the batch has no records any more"))?;
        self.mark_up_to(&place, last.offset, batch.leader_epoch)
    }

    fn mark_up_to(
        &self,
        place: &TopicPartition,
        offset: Offset,
        leader_epoch: LeaderEpoch,
    ) -> Result<()> {
        {
            let mut state = self.shared.lock();
            if let Phase::Lost(why) | Phase::Failed(why) = &state.phase {
                return Err(removed(&self.shared, "marked", why));
            }
            state.partitions.mark(place, offset, leader_epoch)?;
        }
        self.shared.commit_if_many();
        Ok(())
    }

    /// Commits what is marked; with `auto_mark`, that is all that was handed out. Also returns when all earlier commits
    /// are decided.
    ///
    /// # Errors
    /// Of kind [`Fenced`](ErrorKind::Fenced) if the consumer was removed from its group, or a partition was taken away;
    /// what could be committed is. Of kind [`TimedOut`](ErrorKind::TimedOut) after `commit_timeout`.
    pub async fn commit(&self) -> Result<()> {
        self.commit_async().await
    }

    /// Like [`Self::commit`], but returns at once. Commits happen in the order in which they are asked for. The future
    /// tells the outcome, and may be dropped.
    pub fn commit_async(&self) -> CommitFuture {
        let config = &self.shared.config;
        self.put(|partitions| match config.delivery {
            Delivery::AtLeastOnce => {
                partitions.come_back(config.auto_mark);
                Ok(partitions.take_uncommitted_marks(|_| true))
            }
            // What was handed out was committed before.
            Delivery::AtMostOnce => Ok(Vec::new()),
        })
    }

    /// Commits these offsets, whatever is marked, in partitions that the consumer owns. They stay until records are handed
    /// out and marked, or, at most once, handed out.
    pub fn commit_offsets(
        &self,
        offsets: impl IntoIterator<Item = OffsetToCommit>,
    ) -> CommitFuture {
        // Before anything is locked: what makes them may ask this consumer.
        let offsets = offsets.into_iter().collect();
        self.put(|partitions| partitions.take_offsets(offsets))
    }

    /// Takes what is to be committed and gives it to the queue at once, so that none overtakes another.
    fn put(&self, take: impl FnOnce(&mut Partitions) -> Result<Vec<Entry>>) -> CommitFuture {
        let mut state = self.shared.lock();
        if state.ending.is_some() {
            return CommitFuture::refused(Error::closed("consumer"));
        }
        if state.queue.is_full() {
            let message = "too many commits wait for the broker";
            let error = Error::new(ErrorKind::Retriable, message).with_action(
                "commit less often, such as every so many records, or wait for commits",
            );
            return CommitFuture::refused(error);
        }
        let entries = match take(&mut state.partitions) {
            Ok(entries) => entries,
            Err(error) => return CommitFuture::refused(error),
        };
        let until = Instant::now() + self.shared.config.commit_timeout;
        let outcome = state.queue.push(entries, until, false);
        drop(state);
        self.shared.commit.notify_one();
        outcome
    }

    /// Goes on at another place of a partition with the next poll. A later commit commits that place, unless records were
    /// handed out and marked by then.
    ///
    /// # Errors
    /// If the consumer does not own the partition.
    pub fn seek(&self, place: &TopicPartition, to: StartAt) -> Result<()> {
        self.order(|state| state.partitions.seek(place, to))
    }

    /// Hands out nothing more of a partition, from the next poll until [`Self::resume`] or until it is assigned anew.
    ///
    /// # Errors
    /// If the consumer does not own the partition.
    pub fn pause(&self, place: &TopicPartition) -> Result<()> {
        self.order(|state| state.partitions.pause(place, true))
    }

    /// Goes on with a paused partition where it was.
    ///
    /// # Errors
    /// If the consumer does not own the partition.
    pub fn resume(&self, place: &TopicPartition) -> Result<()> {
        self.order(|state| state.partitions.pause(place, false))
    }

    fn order(&self, give: impl FnOnce(&mut super::member::State) -> Result<()>) -> Result<()> {
        give(&mut self.shared.lock())?;
        self.shared.wake();
        Ok(())
    }

    /// Whether a partition is paused.
    ///
    /// # Errors
    /// If the consumer does not own the partition.
    pub fn is_paused(&self, place: &TopicPartition) -> Result<bool> {
        let state = self.shared.lock();
        let owned = state.partitions.get(place);
        owned
            .map(|owned| owned.paused)
            .ok_or_else(|| not_owned(place))
    }

    /// The handler is alive, although it has not polled for long: counts as a poll. Without it, a consumer that does not
    /// poll for `max_poll_interval` is removed from its group.
    pub fn keep_alive(&self) {
        self.shared.lock().polled = true;
    }
}

impl fmt::Debug for ConsumerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerHandle")
            .field("group_id", &self.group_id())
            .field("member_id", &self.member_id())
            .field("assignment", &self.assignment())
            .finish_non_exhaustive()
    }
}
