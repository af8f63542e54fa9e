//! The coordinators' runtime: replayed state machines on the partitions of an internal topic.
//!
//! A [`Coordinator`] has a shard for each partition of its topic that this broker leads, loaded and ended by the same
//! events that will come with replication. It knows nothing of groups or transactions: what is decided is the
//! machine's (`machine.rs`). One decision is one batch. Decisions follow each other without waiting for the disk: each
//! sees what those before it wrote, committed or not, and for that reason no answer leaves before everything decided up
//! to it is committed.
//!
//! What must hold: a machine's durable state is what a replay of its partition gives; an answer is never taken back;
//! nothing polls, and who waits forever has a caller that can give up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use logweir_proto::{ErrorCode, PartitionId};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::ApiError;
use crate::partition::{Leadership, Partitions};

mod answers;
pub(crate) mod groups;
mod loading;
pub(crate) mod machine;
mod routing;
mod shard;
mod snapshot;
#[cfg(test)]
mod tests;

pub(crate) use answers::Pending;
use answers::{not_available, not_coordinator, stopping};
use machine::Machine;
use shard::Shard;

/// What internal topics are configured with; the broker leaves out what it does not know. Segments are small because
/// the one that is written to is not compacted. Nothing goes but by compaction: a record is needed until another
/// replaces it. Tombstones stay for longer than a snapshot counts ([`Settings::snapshot_age`]).
pub(crate) const INTERNAL_TOPIC_CONFIGS: [(&str, &str); 6] = [
    ("cleanup.policy", "compact"),
    ("delete.retention.ms", "86400000"),
    ("segment.bytes", "4194304"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("max.message.bytes", "1048588"),
];

/// The runtime's limits and intervals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Calls of one shard that may wait for their answer or its commit; more are refused.
    pub(crate) max_calls: usize,
    /// A snapshot is written when so many records were appended since the last.
    pub(crate) snapshot_records: u64,
    /// And when so much wall time has passed since the first of them.
    pub(crate) snapshot_interval: Duration,
    /// But not before so much has passed since the last snapshot, which may be large.
    pub(crate) snapshot_pause: Duration,
    /// A snapshot that so much wall time lies behind counts only if no record follows it: a tombstone that does may have been
    /// compacted away, and what it deleted would come back. Less than the topic's `delete.retention.ms`.
    pub(crate) snapshot_age: Duration,
    /// How long the second load after a failure waits, in real time; the first is tried at once, later ones wait twice as
    /// long each.
    pub(crate) reload_pause: Duration,
    /// The longest such wait.
    pub(crate) max_reload_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_calls: 100_000,
            snapshot_records: 100_000,
            snapshot_interval: Duration::from_secs(60),
            snapshot_pause: Duration::from_secs(10),
            snapshot_age: Duration::from_secs(12 * 3_600),
            reload_pause: Duration::from_millis(100),
            max_reload_pause: Duration::from_secs(10),
        }
    }
}

/// What the shards of one coordinator share.
struct Context<M> {
    clock: Clock,
    settings: Settings,
    make: Box<dyn Fn(PartitionId) -> M + Send + Sync>,
    /// Counts the machines that were loaded.
    loads: watch::Sender<u64>,
    runtime: Handle,
    /// Cancelled when the coordinator ends, for what works in the background.
    stop: CancellationToken,
}

/// The machines of one internal topic. Dropping it ends them at once, as a crash would.
pub(crate) struct Coordinator<M: Machine> {
    topic: Arc<str>,
    partitions: Arc<Partitions>,
    context: Arc<Context<M>>,
    shards: RwLock<BTreeMap<PartitionId, Arc<Shard<M>>>>,
    stopping: AtomicBool,
}

impl<M: Machine> Coordinator<M> {
    /// Leads the topic's partitions that this broker leads, now and as that changes; the topic need not exist yet.
    /// `make` gives a machine without state for a partition. Returns at once; loading goes on in the background.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, in which that background runs.
    pub(crate) fn start(
        topic: &str,
        partitions: &Arc<Partitions>,
        clock: &Clock,
        settings: Settings,
        make: impl Fn(PartitionId) -> M + Send + Sync + 'static,
    ) -> Arc<Self> {
        let coordinator = Arc::new(Self {
            topic: Arc::from(topic),
            partitions: Arc::clone(partitions),
            context: Arc::new(Context {
                clock: clock.clone(),
                settings,
                make: Box::new(make),
                loads: watch::Sender::default(),
                runtime: Handle::current(),
                stop: CancellationToken::new(),
            }),
            shards: RwLock::default(),
            stopping: AtomicBool::new(false),
        });
        let told = Arc::downgrade(&coordinator);
        partitions.listen(topic, move |event| {
            if let Some(coordinator) = told.upgrade() {
                coordinator.on_leadership(event);
            }
        });
        coordinator
    }

    /// Which partition is responsible for `key`.
    ///
    /// # Errors
    /// `COORDINATOR_NOT_AVAILABLE` while the topic does not exist.
    pub(crate) fn partition_for(&self, key: &str) -> Result<PartitionId, ApiError> {
        let count = self.partitions.partition_count(&self.topic);
        let count = count.ok_or_else(|| {
            not_available(format!(
                "the internal topic {:?} is not there yet",
                self.topic
            ))
        })?;
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        Ok(routing::partition_for(key, count))
    }

    /// The partitions that this broker is responsible for, loaded or not, ascending.
    pub(crate) fn led(&self) -> Vec<PartitionId> {
        self.shards.read().keys().copied().collect()
    }

    /// Changes whenever a machine was loaded and serves, so that it can be told what it has missed.
    pub(crate) fn loads(&self) -> watch::Receiver<u64> {
        self.context.loads.subscribe()
    }

    /// Asks the machine that is responsible for `key`, and waits for the answer and its commit. Dropping the future is
    /// safe and abandons the call; what was decided stands.
    ///
    /// # Errors
    /// `NOT_COORDINATOR` if another broker leads the partition, `COORDINATOR_LOAD_IN_PROGRESS` while the state is
    /// loaded, `COORDINATOR_NOT_AVAILABLE` if it cannot be, is loaded anew after a failure, or the broker stops: after
    /// each of them the decision may stand all the same, and callers try again. `MESSAGE_TOO_LARGE` if what was decided
    /// is larger than the topic's `max.message.bytes`; nothing has changed then.
    pub(crate) async fn call(&self, key: &str, request: M::Request) -> Result<M::Answer, ApiError> {
        self.begin(key, request)?.wait().await
    }

    /// The first half of [`Coordinator::call`]: decides, so that the call has its place in the order.
    ///
    /// # Errors
    /// As [`Coordinator::call`].
    pub(crate) fn begin(&self, key: &str, request: M::Request) -> Result<Pending<M>, ApiError> {
        self.begin_at(self.partition_for(key)?, request)
    }

    /// As [`Coordinator::begin`], for what is asked of each partition's machine, such as a list.
    ///
    /// # Errors
    /// As [`Coordinator::call`].
    pub(crate) fn begin_at(
        &self,
        partition: PartitionId,
        request: M::Request,
    ) -> Result<Pending<M>, ApiError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(stopping());
        }
        let shard = self.shards.read().get(&partition).cloned();
        match shard {
            Some(shard) => shard.begin(request),
            None => Err(self.why_not_led(partition)),
        }
    }

    fn why_not_led(&self, partition: PartitionId) -> ApiError {
        match self.partitions.get(&self.topic, None, partition) {
            // It will be told of in a moment.
            Ok(_) => not_available("the coordinator is about to load its state"),
            Err(error) if error.code == ErrorCode::NotLeaderOrFollower => {
                not_coordinator(error.message)
            }
            Err(error) => not_available(error.message),
        }
    }

    /// Takes in that a partition is led here, or no longer.
    pub(crate) fn on_leadership(&self, event: Leadership) {
        let mut shards = self.shards.write();
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        let (id, gained) = match event {
            Leadership::Gained(partition, epoch) => (partition.id(), Some((partition, epoch))),
            Leadership::Lost(id) => (id, None),
        };
        let known = shards.get(&id);
        if let (Some((partition, epoch)), Some(shard)) = (&gained, known)
            && shard.leads(partition, *epoch)
        {
            return;
        }
        if let Some(before) = shards.remove(&id) {
            before.close(&not_coordinator(
                "this broker no longer leads the partition",
            ));
        }
        if let Some((partition, epoch)) = gained {
            shards.insert(id, Shard::start(&self.context, partition, epoch));
        }
    }

    /// Why some partition cannot be served; `None` if all can, or are just being loaded.
    #[cfg(any(test, feature = "http"))]
    pub(crate) fn unready(&self) -> Option<String> {
        let shards = self.shards.read();
        shards.iter().find_map(|(partition, shard)| {
            let trouble = shard.trouble()?;
            Some(format!(
                "partition {partition} of {:?}: {trouble}",
                self.topic
            ))
        })
    }

    /// Begins a clean stop: who waits is told that the broker stops, and new calls are. Calls that were answered are
    /// still committed.
    pub(crate) fn refuse_calls(&self) {
        let shards = self.shards.write();
        self.stopping.store(true, Ordering::Release);
        for shard in shards.values() {
            shard.refuse_calls();
        }
    }

    /// Ends cleanly: writes the snapshots that are due, and drops the machines. To be called after
    /// [`Coordinator::refuse_calls`] and before the partitions are closed. Waits for the disk.
    pub(crate) fn close(&self) {
        self.refuse_calls();
        let shards = std::mem::take(&mut *self.shards.write());
        for shard in shards.values() {
            shard.save_at_stop();
            shard.close(&stopping());
        }
        self.context.stop.cancel();
    }
}

impl<M: Machine> Drop for Coordinator<M> {
    fn drop(&mut self) {
        self.context.stop.cancel();
        for shard in self.shards.get_mut().values() {
            shard.close(&stopping());
        }
    }
}
