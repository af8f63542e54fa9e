//! The quorum's thread: it opens the files, runs openraft on a runtime of its own, and takes the callers'
//! operations one batch after another. openraft's types end here.
//!
//! A proposal names the version of the image that it was decided on, and takes effect only on that. So
//! a controller that was overtaken cannot write over its successor's decisions: it decides anew.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Cursor};
use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::NodeId;
use logweir_proto::grpc::internal::{Proposal, Record};
use openraft::error::{ClientWriteError, Fatal, RaftError};
use openraft::{Config, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::QuorumConfig;
use super::batch::{Operation, decide, refuse_all, take_batch};
use super::controller::{Request, Rules};
use super::error::{MetadataError, QuorumError};
use super::image::Image;
use super::quorum_files::{Opened, open};
use super::raft_log::RaftLog;
use super::raft_network::NoNetwork;
use super::state_machine::{Publisher, StateMachine};

/// Operations that may wait; more wait in their callers.
pub(super) const QUEUE: usize = 128;
/// How often openraft's clock ticks in a quorum of one: a day, in ms.
const NEVER_MS: u64 = 86_400_000;
/// Room for a snapshot's header and for the rewritten log, in bytes.
const SNAPSHOT_SLACK: u64 = 1 << 20;
/// Bytes that a log frame has besides the proposal, at most.
const FRAME_OVERHEAD: usize = 256;

openraft::declare_raft_types!(
    /// What openraft is told about Logweir.
    pub(super) TypeConfig:
        D = Proposed,
        R = Applied,
        NodeId = u64,
        Node = Voter,
);

/// An encoded `Proposal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposed(pub(super) Bytes);

// openraft asks for serde; neither its files nor its network are used here.
impl Serialize for Proposed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Proposed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| Self(bytes.into()))
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// Its index.
    pub(super) index: u64,
    /// Whether it took effect; a proposal decided on another version than it met does not.
    pub(super) accepted: bool,
}

/// A member of the quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Voter {
    /// Where the others reach it; empty in a quorum of one.
    pub(super) address: String,
    /// Its data directory, if known.
    pub(super) directory_id: Option<[u8; 16]>,
}

/// What the thread is given.
pub(super) struct Start {
    pub(super) config: QuorumConfig,
    pub(super) publisher: Arc<Publisher>,
    pub(super) operations: mpsc::Receiver<Operation>,
    pub(super) ready: oneshot::Sender<Result<(), QuorumError>>,
    pub(super) stop: CancellationToken,
}

/// The thread's body: returns when the quorum has stopped and its files are closed.
pub(super) fn run(start: Start) {
    let Start {
        config,
        publisher,
        operations,
        ready,
        stop,
    } = start;
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(QuorumError::Failed {
                reason: error.to_string(),
            }));
            return;
        }
    };
    let opened = match open(&config, &publisher) {
        Ok(opened) => opened,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let Opened {
        log,
        machine,
        io_thread,
    } = opened;
    let keep = config.keep.clone();
    runtime.block_on(async {
        match Node::start(config, publisher, log, machine).await {
            Ok(mut node) => {
                // A caller that went away has dropped the handle too, which ends the loop below.
                let _ = ready.send(Ok(()));
                node.serve(operations, stop).await;
                node.shutdown().await;
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    });
    // Ends what openraft left running, and with it the last handle to the writer.
    drop(runtime);
    if let Some(thread) = io_thread
        && thread.join().is_err()
    {
        tracing::error!("the metadata writer panicked");
    }
    drop(keep);
}

/// A running node.
struct Node {
    raft: Raft<TypeConfig>,
    log: RaftLog,
    publisher: Arc<Publisher>,
    rules: Rules,
    config: QuorumConfig,
    metrics: watch::Receiver<RaftMetrics<u64, Voter>>,
    /// The entry at which the next snapshot is due.
    snapshot_due_index: u64,
    /// The bytes of entries at which the next snapshot is due.
    snapshot_due_bytes: u64,
}

impl Node {
    async fn start(
        config: QuorumConfig,
        publisher: Arc<Publisher>,
        log: RaftLog,
        machine: StateMachine,
    ) -> Result<Self, QuorumError> {
        let failed = |reason: String| QuorumError::Failed { reason };
        let id = u64::try_from(config.node_id.get()).map_err(|_| QuorumError::Config {
            reason: "the node id is negative".to_owned(),
        })?;
        let in_snapshot = machine.applied().map_or(0, |applied| applied.index);
        let raft = Raft::new(id, Arc::new(raft_config()), NoNetwork, log.clone(), machine)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let rules = config.rules();
        let mut node = Self {
            metrics: raft.metrics(),
            snapshot_due_index: in_snapshot + config.snapshot_entries,
            snapshot_due_bytes: config.snapshot_bytes,
            raft,
            log,
            publisher,
            rules,
            config,
        };
        if let Err(error) = node.lead(id).await {
            let reason = node
                .log
                .writer()
                .failure()
                .map_or(error, |cause| cause.to_string());
            // Otherwise the tasks of openraft would end with the runtime, which is as good.
            let _ = node.raft.shutdown().await;
            return Err(failed(reason));
        }
        Ok(node)
    }

    /// Becomes the leader of the quorum of one, with everything applied and the cluster formed.
    async fn lead(&mut self, id: u64) -> Result<(), String> {
        let text = |error: Fatal<u64>| error.to_string();
        let mut metrics = self.metrics.clone();
        if !self.raft.is_initialized().await.map_err(text)? {
            let directory_id = Some(self.config.directory_id);
            let voter = Voter {
                address: String::new(),
                directory_id,
            };
            let members = BTreeMap::from([(id, voter)]);
            // An election follows by itself.
            self.raft
                .initialize(members)
                .await
                .map_err(|error| error.to_string())?;
        } else {
            let state = metrics.borrow().state;
            match state {
                ServerState::Leader => {}
                ServerState::Learner => {
                    return Err(format!("node {id} is no voter of its own quorum"));
                }
                _ => self.raft.trigger().elect().await.map_err(text)?,
            }
        }
        wait_for(&mut metrics, |now| {
            now.state == ServerState::Leader && now.current_leader == Some(id)
        })
        .await?;
        self.publisher.set_controller(Some(self.config.node_id));
        // A leader may count only entries of its own term as committed. If the last one is older, an
        // empty proposal commits it.
        let last = self.log.last_log_id();
        if last.map(|last| last.leader_id) != Some(metrics.borrow().vote.leader_id) {
            self.propose(Proposal::default())
                .await
                .map_err(|error| error.to_string())?;
        }
        let last = self.log.last_log_id();
        wait_for(&mut metrics, |now| now.last_applied >= last).await?;
        self.form_cluster().await.map_err(|error| error.to_string())
    }

    async fn form_cluster(&mut self) -> Result<(), MetadataError> {
        let (answer, formed) = oneshot::channel();
        self.run_batch(VecDeque::from([Operation {
            request: Request::FormCluster,
            answer,
        }]))
        .await;
        formed
            .await
            .unwrap_or(Err(MetadataError::Interrupted))
            .map(drop)
    }

    async fn serve(&mut self, mut operations: mpsc::Receiver<Operation>, stop: CancellationToken) {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(operation) => operation,
                None => match self.next(&mut operations, &stop).await {
                    Some(operation) => operation,
                    None => break,
                },
            };
            let batch = take_batch(first, &mut operations, &mut held);
            self.run_batch(batch).await;
            self.snapshot_if_due().await;
        }
        operations.close();
        let refused = held
            .into_iter()
            .chain(std::iter::from_fn(|| operations.try_recv().ok()));
        for operation in refused {
            operation.refuse(MetadataError::ShutDown);
        }
    }

    /// The next operation; `None` when the quorum is to end. Meanwhile it notices if openraft has ended.
    async fn next(
        &mut self,
        operations: &mut mpsc::Receiver<Operation>,
        stop: &CancellationToken,
    ) -> Option<Operation> {
        loop {
            let watched = self.publisher.failure().is_none();
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                operation = operations.recv() => return operation,
                changed = self.metrics.changed(), if watched => {
                    let running = match changed {
                        Ok(()) => self.metrics.borrow().running_state.clone(),
                        Err(_) => Err(Fatal::Stopped),
                    };
                    if let Err(error) = running {
                        self.core_ended(&error);
                    }
                }
            }
        }
    }

    async fn shutdown(self) {
        self.publisher.set_controller(None);
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "the metadata quorum ended badly");
        }
    }

    /// Decides and writes some operations as one proposal, and answers each.
    async fn run_batch(&mut self, mut batch: VecDeque<Operation>) {
        while !batch.is_empty() {
            if let Some(reason) = self.publisher.failure() {
                refuse_all(batch, &MetadataError::Offline { reason });
                return;
            }
            let base = self.publisher.image();
            let decided = decide(&mut batch, &base, &self.rules);
            if decided.operations.is_empty() {
                continue;
            }
            match self.write(decided.records, &base).await {
                Ok(true) => {
                    let image = self.publisher.image();
                    for (operation, answer) in decided.operations {
                        operation.answer(answer, &image);
                    }
                }
                // Another decision came in between: decide again, in the same order.
                Ok(false) => {
                    for (operation, _) in decided.operations.into_iter().rev() {
                        batch.push_front(operation);
                    }
                }
                Err(error) => {
                    let operations = decided
                        .operations
                        .into_iter()
                        .map(|(operation, _)| operation);
                    refuse_all(operations, &error);
                }
            }
        }
    }

    /// Writes records decided on `base`; whether they took effect.
    async fn write(&mut self, records: Vec<Record>, base: &Image) -> Result<bool, MetadataError> {
        if records.is_empty() {
            return Ok(true);
        }
        self.propose(Proposal {
            planned_on: base.version,
            records,
        })
        .await
    }

    async fn propose(&mut self, proposal: Proposal) -> Result<bool, MetadataError> {
        let proposed = Proposed(proposal.encode_to_vec().into());
        // openraft takes a full disk for a broken one, so the room is made sure of before.
        if let Err(error) = self
            .log
            .writer()
            .reserve(proposed.0.len() + FRAME_OVERHEAD)
            .await
        {
            return Err(self.no_room(&error));
        }
        match self.raft.client_write(proposed).await {
            Ok(written) => Ok(written.data.accepted),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                let leader = to
                    .leader_id
                    .and_then(|id| i32::try_from(id).ok())
                    .map(NodeId::new);
                Err(MetadataError::NotController { leader })
            }
            Err(RaftError::Fatal(error)) => Err(self.core_ended(&error)),
            Err(error) => Err(self.fail(error.to_string())),
        }
    }

    fn no_room(&self, error: &io::Error) -> MetadataError {
        if error.kind() == io::ErrorKind::StorageFull {
            let reason = error.to_string().into();
            return MetadataError::DiskFull {
                path: self.config.dir.clone(),
                reason,
            };
        }
        self.fail(error.to_string())
    }

    /// Notes that openraft has ended. It does so for a failed disk, which is known and told by the readiness, and for
    /// a bug, which the broker's supervisor must learn of.
    fn core_ended(&self, error: &Fatal<u64>) -> MetadataError {
        let offline = self.fail(error.to_string());
        let disk_failed = matches!(error, Fatal::StorageError(_));
        if !disk_failed || self.log.writer().has_panicked() {
            self.publisher.stop();
        }
        offline
    }

    /// Notes that nothing can be written any more, and why.
    fn fail(&self, error: String) -> MetadataError {
        let reason = self.log.writer().failure().unwrap_or_else(|| error.into());
        if self.publisher.fail(Arc::clone(&reason)) {
            tracing::error!(%reason, "metadata is offline until the broker restarts");
            self.publisher.set_controller(None);
        }
        MetadataError::Offline { reason }
    }

    /// Asks for a snapshot when enough was written since the last one, so that log and memory stay small.
    async fn snapshot_if_due(&mut self) {
        let applied = self
            .metrics
            .borrow()
            .last_applied
            .map_or(0, |applied| applied.index);
        let bytes = self.log.entry_bytes() as u64;
        self.snapshot_due_bytes = self
            .snapshot_due_bytes
            .min(bytes + self.config.snapshot_bytes);
        let due = applied >= self.snapshot_due_index || bytes >= self.snapshot_due_bytes;
        if !due || self.publisher.failure().is_some() {
            return;
        }
        self.snapshot_due_index = applied + self.config.snapshot_entries;
        self.snapshot_due_bytes = bytes + self.config.snapshot_bytes;
        // openraft takes a full disk for a broken one. Without a snapshot the log grows on, until there
        // is no room for that either and operations are refused.
        let needed = self.publisher.image().rough_bytes() + SNAPSHOT_SLACK;
        let free = self
            .config
            .disk
            .space(&self.config.dir)
            .map(|space| space.free_bytes);
        if !free.is_ok_and(|free| free >= needed) {
            tracing::warn!(needed, "no room for a snapshot of the metadata");
            return;
        }
        if let Err(error) = self.raft.trigger().snapshot().await {
            self.core_ended(&error);
        }
    }
}

/// Waits until openraft reports what is wished for.
async fn wait_for(
    metrics: &mut watch::Receiver<RaftMetrics<u64, Voter>>,
    mut reached: impl FnMut(&RaftMetrics<u64, Voter>) -> bool,
) -> Result<(), String> {
    loop {
        {
            let now = metrics.borrow_and_update();
            now.running_state.as_ref().map_err(ToString::to_string)?;
            if reached(&now) {
                return Ok(());
            }
        }
        metrics.changed().await.map_err(|error| error.to_string())?;
    }
}

/// A quorum of one needs no heartbeats and no election timer, so an idle broker is never woken.
/// Written out, because openraft's default parses an empty command line.
fn raft_config() -> Config {
    #[expect(deprecated, reason = "the field must be given a value")]
    Config {
        cluster_name: "logweir".to_owned(),
        election_timeout_min: 2 * NEVER_MS,
        election_timeout_max: 3 * NEVER_MS,
        heartbeat_interval: NEVER_MS,
        install_snapshot_timeout: 10_000,
        send_snapshot_timeout: 0,
        max_payload_entries: 64,
        replication_lag_threshold: 5_000,
        snapshot_policy: SnapshotPolicy::Never,
        snapshot_max_chunk_size: 1 << 20,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
    }
}
