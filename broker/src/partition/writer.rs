//! Appending to a partition's log: the only code that changes it, under the partition's lock.

use logweir_proto::record::RecordBatch;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, Timestamp};
use logweir_storage::ProducerCheck;
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::partition::progress::Event;
use crate::partition::waiters::Ready;
use crate::partition::{Partition, State};

/// What an append's answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckWait {
    /// Nothing (acks=0).
    None,
    /// The leader's log; its disk where the topic flushes per ack (acks=1).
    Leader,
    /// Every in-sync replica (acks=all).
    Replicated,
}

/// An append that has its place in the log.
#[derive(Debug)]
pub(crate) struct Appended {
    /// The offset of its first record.
    pub(crate) base_offset: Offset,
    /// When the broker appended, for topics with log append time; else none.
    pub(crate) log_append_time: Timestamp,
    /// The producer had sent it before, so nothing was appended now.
    pub(crate) duplicate: bool,
    /// Completed when the acknowledgement is due; `None` if it is due now.
    pub(crate) ack: Option<oneshot::Receiver<Result<(), ApiError>>>,
}

impl Partition {
    /// Appends a batch that was validated, unless its producer has sent it before.
    ///
    /// # Errors
    /// `MESSAGE_TOO_LARGE`, `INVALID_RECORD` without a key in a compacted topic, the producer errors of KIP-98, `KAFKA_STORAGE_ERROR`; nothing was appended then.
    pub(crate) fn append(&self, batch: &RecordBatch, wait: AckWait) -> Result<Appended, ApiError> {
        self.check_batch(batch)?;
        let (appended, ready) = self.with_state(|state| self.append_locked(state, batch, wait))?;
        ready.complete();
        appended
    }

    /// Appends a batch of the broker's own, for a writer that knows what leader epoch it writes in; ask
    /// [`Partition::committed`] when it is committed.
    ///
    /// # Errors
    /// `FENCED_LEADER_EPOCH` if the partition is led in another epoch by now, and as [`Partition::append`]; nothing was
    /// appended then.
    pub(crate) fn append_in(
        &self,
        epoch: LeaderEpoch,
        batch: &RecordBatch,
    ) -> Result<Appended, ApiError> {
        self.check_batch(batch)?;
        let (appended, ready) = self.with_state(|state| {
            let current = self.leader_epoch();
            if epoch != current {
                let message = format!(
                    "the writer's leader epoch is {epoch}, the partition is led in {current}"
                );
                return Err(ApiError::new(ErrorCode::FencedLeaderEpoch, message));
            }
            self.append_locked(state, batch, AckWait::None)
        })?;
        ready.complete();
        appended
    }

    /// Waits for all records below `end` (exclusive) to be committed: `None` if the high watermark has passed it.
    ///
    /// # Errors
    /// Why it never will: the partition has ended.
    pub(crate) fn committed(
        &self,
        end: Offset,
    ) -> Result<Option<oneshot::Receiver<Result<(), ApiError>>>, ApiError> {
        if end <= self.high_watermark() {
            return Ok(None);
        }
        let mut state = self.state.lock();
        let receiver = self.wait_for(&mut state, end, AckWait::Replicated);
        match &state.ended {
            Some(reason) if receiver.is_some() => Err(reason.clone()),
            _ => Ok(receiver),
        }
    }

    fn check_batch(&self, batch: &RecordBatch) -> Result<(), ApiError> {
        let size = batch.header().size_bytes;
        let limit = self.max_message_bytes();
        if size > limit {
            return Err(ApiError::new(
                ErrorCode::MessageTooLarge,
                format!(
                    "a batch of {size} bytes is larger than max.message.bytes={limit} of topic {:?}",
                    self.topic()
                ),
            )
            .hint("send smaller batches, compress them, or raise the topic's max.message.bytes"));
        }
        if self.compacts() {
            batch.check_keys().map_err(|error| {
                ApiError::from(error)
                    .hint("give each record a key, or set the topic's cleanup.policy to delete")
            })?;
        }
        Ok(())
    }

    fn append_locked(
        &self,
        state: &mut State,
        batch: &RecordBatch,
        wait: AckWait,
    ) -> Result<(Result<Appended, ApiError>, Ready), ApiError> {
        let log = state.log()?;
        let now = self.clock.now();
        if batch.header().has_producer() {
            match log.check_producer(batch.header(), now)? {
                ProducerCheck::New => {}
                ProducerCheck::Duplicate {
                    base_offset,
                    append_time,
                } => {
                    let records = i64::from(batch.header().last_offset_delta) + 1;
                    let ack = self.wait_for(state, base_offset.plus(records), wait);
                    let appended = Appended {
                        base_offset,
                        log_append_time: append_time,
                        duplicate: true,
                        ack,
                    };
                    return Ok((Ok(appended), Ready::default()));
                }
            }
        }
        let placed = log.append(batch, self.leader_epoch(), now)?;
        let log_end = placed.last_offset.plus(1);
        let durable_end = log.durable_end_offset();
        let appended = Event::Appended {
            log_end,
            durable_end,
        };
        let ready = self.advance(state, appended);
        if let Some(broken) = self.broken() {
            return Ok((Err(broken.clone()), ready));
        }
        let ack = self.wait_for(state, log_end, wait);
        let appended = Appended {
            base_offset: placed.base_offset,
            log_append_time: placed.log_append_time,
            duplicate: false,
            ack,
        };
        Ok((Ok(appended), ready))
    }

    /// Joins the queue of what `wait` needs; `None` if the offset has passed `end` already.
    fn wait_for(
        &self,
        state: &mut State,
        end: Offset,
        wait: AckWait,
    ) -> Option<oneshot::Receiver<Result<(), ApiError>>> {
        let progress = &state.progress;
        let reached = match wait {
            AckWait::None => return None,
            // Where nothing is shown before the disk has it, nothing is promised either.
            AckWait::Leader if progress.flush_per_ack() => progress.durable_end(),
            AckWait::Leader => return None,
            // A topic that flushes per ack only since a moment ago has shown more than is durable.
            AckWait::Replicated if progress.flush_per_ack() => {
                progress.high_watermark().min(progress.durable_end())
            }
            AckWait::Replicated => progress.high_watermark(),
        };
        if end <= reached {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        match wait {
            AckWait::Replicated if end > state.progress.high_watermark() => {
                state.waiters.on_replicated(end, sender);
            }
            _ => state.waiters.on_durable(end, sender),
        }
        Some(receiver)
    }
}
