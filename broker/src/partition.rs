//! One partition that this broker leads: its log, how far it has got, and who waits for it.
//!
//! The partition owns all three under one lock, held for the copy of a batch and the moving of
//! offsets, never across `.await`. `service/` is the only caller; `writer.rs` is the only code that
//! changes the log, `reader.rs` reads without the lock.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use logweir_proto::{LeaderEpoch, NodeId, Offset, PartitionId, Timestamp, TopicId};
use logweir_storage::{
    ChangeError, FlushOutcome, KnownProducer, Log, LogConfig, LogDir, LogReader, OpenError, Trim,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::error::ApiError;
use crate::metrics::LockHold;
use crate::partition::progress::{Effects, Event, OutOfOrder, Progress};
use crate::partition::waiters::{Ready, Waiters};

mod compaction;
mod progress;
mod reader;
mod set;
mod waiters;
mod writer;

pub(crate) use reader::{Diverging, ReadBound, Watch};
pub(crate) use set::{Leadership, Partitions, Slot};
pub(crate) use writer::{AckWait, Appended};

/// What to know about a partition before its log is opened.
#[derive(Clone, Debug)]
pub(crate) struct PartitionSpec {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) isr: Vec<NodeId>,
    pub(crate) config: LogConfig,
    pub(crate) max_message_bytes: usize,
}

/// A led partition.
#[derive(Debug)]
pub(crate) struct Partition {
    topic: Arc<str>,
    partition: PartitionId,
    /// Moved under the lock; batches are stamped with it under the lock, too.
    leader_epoch: AtomicI32,
    reader: LogReader,
    /// Why it can neither be written nor read until it is opened anew: its offsets contradict each other.
    broken: OnceLock<ApiError>,
    /// Copies of the offsets that readers are bound by, moved under the lock, read without it.
    high_watermark: AtomicI64,
    last_stable: AtomicI64,
    max_message_bytes: AtomicU64,
    /// Whether only the last record of each key is kept.
    compacts: AtomicBool,
    clock: Clock,
    lock_hold: Arc<LockHold>,
    /// Held while the log start is raised or a compacted segment gets its name, which waits for the disk; taken before
    /// `state`, which is not held meanwhile.
    trimming: Mutex<()>,
    state: Mutex<State>,
}

/// What the lock guards.
#[derive(Debug)]
struct State {
    /// Gone once the partition was deleted; `ended` is then set.
    log: Option<Log>,
    progress: Progress,
    waiters: Waiters,
    /// Why nothing can be changed any more.
    ended: Option<ApiError>,
}

impl Partition {
    /// Opens the partition's log, which may scan and repair it, and begins to lead it.
    ///
    /// # Errors
    /// As [`LogDir::open_log`].
    pub(crate) fn open(
        log_dir: &Arc<LogDir>,
        node: NodeId,
        spec: PartitionSpec,
        clock: &Clock,
        lock_hold: &Arc<LockHold>,
    ) -> Result<Arc<Self>, OpenError> {
        let this: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let callback = Arc::clone(&this);
        let flush_per_ack = spec.config.flush.per_ack;
        let compacts = spec.config.cleanup_policy.compacts();
        let log = log_dir.open_log(
            &spec.topic,
            spec.topic_id,
            spec.partition,
            spec.config,
            Box::new(move |outcome| {
                if let Some(partition) = callback.get().and_then(Weak::upgrade) {
                    partition.flushed(outcome);
                }
            }),
        )?;
        let offsets = (
            log.log_start_offset(),
            log.durable_end_offset(),
            log.log_end_offset(),
        );
        let progress = Progress::new(node, spec.isr, flush_per_ack, offsets);
        let partition = Arc::new(Self {
            topic: spec.topic,
            partition: spec.partition,
            leader_epoch: AtomicI32::new(spec.leader_epoch.get()),
            reader: log.reader(),
            broken: OnceLock::new(),
            high_watermark: AtomicI64::new(progress.high_watermark().get()),
            last_stable: AtomicI64::new(progress.last_stable().get()),
            max_message_bytes: AtomicU64::new(spec.max_message_bytes as u64),
            compacts: AtomicBool::new(compacts),
            clock: clock.clone(),
            lock_hold: Arc::clone(lock_hold),
            trimming: Mutex::new(()),
            state: Mutex::new(State {
                log: Some(log),
                progress,
                waiters: Waiters::default(),
                ended: None,
            }),
        });
        this.get_or_init(|| Arc::downgrade(&partition));
        partition.catch_up();
        Ok(partition)
    }

    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    pub(crate) fn id(&self) -> PartitionId {
        self.partition
    }

    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch::new(self.leader_epoch.load(Ordering::Acquire))
    }

    /// Why the partition can neither be written nor read until it is opened anew; `None` while all is well.
    pub(crate) fn broken(&self) -> Option<&ApiError> {
        self.broken.get()
    }

    pub(crate) fn log(&self) -> &LogReader {
        &self.reader
    }

    pub(crate) fn max_message_bytes(&self) -> usize {
        usize::try_from(self.max_message_bytes.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    pub(crate) fn high_watermark(&self) -> Offset {
        Offset::new(self.high_watermark.load(Ordering::Acquire))
    }

    pub(crate) fn last_stable(&self) -> Offset {
        Offset::new(self.last_stable.load(Ordering::Acquire))
    }

    /// Takes over a higher leader epoch: it stamps every later batch, and readers who know an older one are refused.
    pub(crate) fn lead_in(&self, epoch: LeaderEpoch) {
        let _state = self.state.lock();
        self.leader_epoch.fetch_max(epoch.get(), Ordering::AcqRel);
    }

    /// Takes over the topic's changed configuration.
    pub(crate) fn set_config(&self, config: LogConfig, max_message_bytes: usize) {
        self.max_message_bytes
            .store(max_message_bytes as u64, Ordering::Relaxed);
        let compacts = config.cleanup_policy.compacts();
        self.compacts.store(compacts, Ordering::Relaxed);
        let mut state = self.state.lock();
        let event = Event::FlushPerAck(config.flush.per_ack);
        let Ok(log) = state.log() else { return };
        log.set_config(config);
        // Records appended under the old policy may have to become durable under the new one.
        log.request_flush();
        let ready = self.advance(&mut state, event);
        drop(state);
        ready.complete();
    }

    /// The producers that the partition remembers.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` if it has ended.
    pub(crate) fn producers(&self) -> Result<Vec<KnownProducer>, ApiError> {
        Ok(self.state.lock().log()?.known_producers())
    }

    /// Deletes the records below `before` (exclusive), at most up to the high watermark. Waits for the disk, while
    /// appends go on.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` above the high watermark, `KAFKA_STORAGE_ERROR` if the disk fails.
    pub(crate) fn delete_records(&self, before: Option<Offset>) -> Result<Offset, ApiError> {
        let _trimming = self.trimming.lock();
        let mut state = self.state.lock();
        let high_watermark = state.progress.high_watermark();
        let before = before.unwrap_or(high_watermark);
        if before > high_watermark || before < Offset::ZERO {
            return Err(ApiError::new(
                logweir_proto::ErrorCode::OffsetOutOfRange,
                format!(
                    "cannot delete below offset {before}: the high watermark is {high_watermark}"
                ),
            )
            .hint("give an offset from 0 to the high watermark, or latest for all there is"));
        }
        let planned = state.log()?.plan_delete_before(before)?;
        drop(state);
        if let Some(trim) = planned {
            self.trim(trim)?;
        }
        Ok(self.reader.log_start_offset())
    }

    /// Rolls and deletes what the topic's retention says; how many segments were deleted. Waits for the disk, while
    /// appends go on.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` if the disk fails.
    pub(crate) fn enforce_retention(&self, now: Timestamp) -> Result<u64, ApiError> {
        let _trimming = self.trimming.lock();
        let mut state = self.state.lock();
        let high_watermark = state.progress.high_watermark();
        let log = state.log()?;
        log.roll_if_due(now)?;
        let planned = log.plan_retention(now, high_watermark)?;
        drop(state);
        planned.map_or(Ok(0), |trim| self.trim(trim))
    }

    /// Raises the log start. Only what waits for the disk is done without the lock: the new start must be durable
    /// before anybody sees it and before a segment goes. The caller holds `trimming`.
    fn trim(&self, trim: Trim) -> Result<u64, ApiError> {
        trim.write()?;
        let mut state = self.state.lock();
        let log = state.log()?;
        let removed = log.finish_trim(trim);
        let log_start = log.log_start_offset();
        let ready = self.advance(&mut state, Event::LogStartMoved { log_start });
        drop(state);
        ready.complete();
        Ok(removed?)
    }

    /// Ends the partition: waiters get `reason`, appends are refused, the log is closed. One whose offsets contradict
    /// each other lets go of its log as a crash would, so that the next start checks it.
    ///
    /// # Errors
    /// What stopped the log from being closed cleanly.
    pub(crate) fn close(&self, reason: &ApiError) -> Result<(), ChangeError> {
        match self.end(reason) {
            Some(mut log) if self.broken().is_none() => log.close(),
            _ => Ok(()),
        }
    }

    /// Ends the partition as [`Partition::close`] does, and deletes its log.
    ///
    /// # Errors
    /// Device errors; what is left is put aside at the next start.
    pub(crate) fn delete(&self, log_dir: &LogDir, reason: &ApiError) -> Result<(), ChangeError> {
        self.end(reason)
            .map_or(Ok(()), |log| log_dir.delete_log(log))
    }

    fn end(&self, reason: &ApiError) -> Option<Log> {
        let mut state = self.state.lock();
        let ready = state.end(reason);
        let log = state.log.take();
        drop(state);
        ready.complete();
        log
    }

    /// Completed with the reason when the partition ends: it was closed or deleted, or its disk or an invariant failed.
    pub(crate) fn until_end(&self) -> oneshot::Receiver<ApiError> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        match &state.ended {
            // A receiver is there, so it can be sent.
            Some(reason) => drop(sender.send(reason.clone())),
            None => state.waiters.on_end(sender),
        }
        receiver
    }

    /// Called on the group-commit thread.
    fn flushed(&self, outcome: FlushOutcome) {
        let mut state = self.state.lock();
        let ready = match outcome {
            FlushOutcome::Durable(durable_end) => {
                self.advance(&mut state, Event::Durable { durable_end })
            }
            FlushOutcome::Failed(reason) => {
                let reason = format!("the data directory is offline: {reason}");
                state.end(&ApiError::storage(reason))
            }
        };
        drop(state);
        ready.complete();
    }

    /// Takes in what became durable before the callback could find this partition.
    fn catch_up(&self) {
        let durable_end = self.reader.durable_end_offset();
        self.flushed(FlushOutcome::Durable(durable_end));
        if durable_end < self.reader.log_end_offset()
            && let Ok(log) = self.state.lock().log()
        {
            log.request_flush();
        }
    }

    /// Takes an event in: who is to be answered outside of the lock. Offsets that contradict each other end this
    /// partition, and no other: the group-commit thread, which may be the caller, goes on for the rest.
    fn advance(&self, state: &mut State, event: Event) -> Ready {
        if self.broken().is_some() {
            return Ready::default();
        }
        match state.progress.on(self.clock.now(), event) {
            Ok(effects) => self.publish(state, effects),
            Err(broken) => self.take_offline(state, &broken),
        }
    }

    fn take_offline(&self, state: &mut State, broken: &OutOfOrder) -> Ready {
        tracing::error!(topic = %self.topic, partition = %self.partition, error = %broken,
            "the partition is offline until the broker restarts");
        let error = ApiError::storage(format!(
            "partition {} of topic {:?} is offline: {broken}",
            self.partition, self.topic
        ))
        .hint("restart the broker, which checks the log, and report this");
        let ready = state.end(&error);
        self.broken.get_or_init(|| error);
        ready
    }

    /// Shows the moved offsets to readers and takes out the waiters they complete.
    fn publish(&self, state: &mut State, effects: Effects) -> Ready {
        let mut ready = Ready::default();
        if let Some(durable_end) = effects.durable {
            state.waiters.durable_moved(durable_end, &mut ready);
        }
        if let Some(high_watermark) = effects.high_watermark {
            self.high_watermark
                .store(high_watermark.get(), Ordering::Release);
            self.last_stable
                .store(state.progress.last_stable().get(), Ordering::Release);
            state
                .waiters
                .high_watermark_moved(high_watermark, &mut ready);
        }
        ready
    }

    /// Runs `change` under the lock and records how long a sample of such holds took.
    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let sampled = self.lock_hold.sample().then(Instant::now);
        let result = change(&mut state);
        drop(state);
        if let Some(begun) = sampled {
            self.lock_hold.record(begun.elapsed());
        }
        result
    }
}

impl State {
    /// Refuses every later change with `reason`, unless there is one already; who waits is to be told of it.
    fn end(&mut self, reason: &ApiError) -> Ready {
        self.ended.get_or_insert_with(|| reason.clone());
        self.waiters.take_all(reason)
    }

    /// The log, while it may be changed.
    fn log(&mut self) -> Result<&mut Log, ApiError> {
        match (&self.ended, &mut self.log) {
            (None, Some(log)) => Ok(log),
            (Some(reason), _) => Err(reason.clone()),
            (None, None) => Err(ApiError::storage("the partition's log is closed")),
        }
    }
}

#[cfg(test)]
mod tests;
