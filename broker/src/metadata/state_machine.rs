//! Applies committed entries to the image and publishes it; makes and takes snapshots.

use std::io::{self, Cursor};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use logweir_proto::NodeId;
use logweir_proto::grpc::internal as wire;
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, StorageError, StorageIOError, StoredMembership,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::QuorumError;
use super::image::Image;
use super::raft::{Applied, TypeConfig, Voter};
use super::raft_codec::{
    CodecError, log_id_to_wire, snapshot_meta_from_wire, stored_membership_to_wire,
};
use super::snapshot_file::SnapshotFile;

/// The current image, for everybody to read; only the apply loop replaces it.
#[derive(Debug)]
pub(super) struct Publisher {
    image: ArcSwap<Image>,
    version: watch::Sender<u64>,
    /// Held while the image is replaced.
    replacing: Mutex<()>,
    /// Why nothing is written any more.
    failure: OnceLock<Arc<str>>,
    /// Cancelled when the quorum stopped by itself.
    stopped: CancellationToken,
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self {
            image: ArcSwap::from_pointee(Image::default()),
            version: watch::Sender::new(0),
            replacing: Mutex::new(()),
            failure: OnceLock::new(),
            stopped: CancellationToken::new(),
        }
    }

    pub(super) fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Why nothing is written any more, if so.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failure.get().cloned()
    }

    /// Notes that nothing is written any more; `false` if that was known.
    pub(super) fn fail(&self, reason: Arc<str>) -> bool {
        self.failure.set(reason).is_ok()
    }

    /// Notes that the quorum stopped by itself, for a reason that [`Publisher::fail`] has been told.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }

    /// Waits until the quorum has stopped by itself.
    pub(super) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    fn publish(&self, mut image: Image) {
        let replacing = self.replacing.lock();
        image.controller = self.image.load().controller;
        let version = image.version;
        self.image.store(Arc::new(image));
        drop(replacing);
        self.version.send_replace(version);
    }

    /// Notes who the active controller is.
    pub(super) fn set_controller(&self, controller: Option<NodeId>) {
        let replacing = self.replacing.lock();
        let current = self.image.load_full();
        if current.controller == controller {
            return;
        }
        let version = current.version;
        let mut image = Image::clone(&current);
        image.controller = controller;
        self.image.store(Arc::new(image));
        drop(replacing);
        self.version.send_replace(version);
    }
}

/// The state machine of one node.
pub(super) struct StateMachine {
    publisher: Arc<Publisher>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, Voter>,
    snapshots: SnapshotFile,
    /// Whether the snapshot it started from came from another node.
    received: bool,
    /// Whether the disk may wait, so that snapshots are written on another thread.
    disk_may_wait: bool,
}

impl StateMachine {
    /// Starts from the snapshot, if there is one.
    ///
    /// # Errors
    /// [`QuorumError`] if the snapshot cannot be trusted.
    pub(super) fn open(
        publisher: Arc<Publisher>,
        snapshots: SnapshotFile,
        disk_may_wait: bool,
    ) -> Result<Self, QuorumError> {
        let mut machine = Self {
            publisher,
            applied: None,
            membership: StoredMembership::default(),
            snapshots,
            received: false,
            disk_may_wait,
        };
        if let Some((meta, body)) = machine.snapshots.read()? {
            let refusal = |error: CodecError| error.at(machine.snapshots.path(), 0);
            let received = meta.received;
            let meta = snapshot_meta_from_wire(&meta).map_err(refusal)?;
            let image = decode_image(body).map_err(refusal)?;
            machine.received = received;
            machine.restore(&meta, image);
        }
        Ok(machine)
    }

    /// The last entry whose effect the image holds.
    pub(super) fn applied(&self) -> Option<LogId<u64>> {
        self.applied
    }

    /// Whether the snapshot it started from came from another node, so that the log may be behind it.
    pub(super) fn snapshot_was_received(&self) -> bool {
        self.received
    }

    fn restore(&mut self, meta: &SnapshotMeta<u64, Voter>, image: Image) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publisher.publish(image);
    }

    fn apply_proposal(
        &self,
        image: &Image,
        index: u64,
        bytes: bytes::Bytes,
    ) -> Result<Option<Image>, String> {
        let proposal = wire::Proposal::decode(bytes).map_err(|error| error.to_string())?;
        if proposal.records.is_empty() || proposal.planned_on != image.version {
            return Ok(None);
        }
        image
            .apply(index, &proposal)
            .map(Some)
            .map_err(|error| error.to_string())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Voter>), StorageError<u64>> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut image: Option<Image> = None;
        let current = self.publisher.image();
        let mut answers = Vec::new();
        for entry in entries {
            let index = entry.log_id.index;
            let mut accepted = true;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposed) => {
                    let base = image.as_ref().unwrap_or(&current);
                    let next = self
                        .apply_proposal(base, index, proposed.0)
                        .map_err(|reason| {
                            let reason = format!("entry {index} cannot be applied: {reason}");
                            StorageIOError::apply(entry.log_id, AnyError::error(reason))
                        })?;
                    accepted = next.is_some();
                    image = next.or(image);
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            self.applied = Some(entry.log_id);
            answers.push(Applied { index, accepted });
        }
        if let Some(image) = image {
            self.publisher.publish(image);
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            image: self.publisher.image(),
            applied: self.applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
            disk_may_wait: self.disk_may_wait,
        }
    }

    async fn begin_receiving_snapshot(
        &mut self,
    ) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Voter>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let body = snapshot.into_inner();
        let failed =
            |error: AnyError| StorageIOError::write_snapshot(Some(meta.signature()), error);
        let image =
            decode_image(body.clone().into()).map_err(|error| failed(AnyError::new(&error)))?;
        let message = meta_to_wire(meta, true);
        write_snapshot(&self.snapshots, message, self.disk_may_wait, move || body)
            .await
            .map_err(|error| failed(AnyError::new(&error)))?;
        self.restore(meta, image);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        let failed = |error| StorageIOError::read_snapshot(None, error);
        let Some((meta, body)) = self
            .snapshots
            .read()
            .map_err(|error| failed(AnyError::new(&error)))?
        else {
            return Ok(None);
        };
        let meta = snapshot_meta_from_wire(&meta).map_err(|error| failed(AnyError::new(&error)))?;
        Ok(Some(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(body.to_vec())),
        }))
    }
}

/// Makes a snapshot of the state at the moment it was asked for.
pub(super) struct SnapshotBuilder {
    image: Arc<Image>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, Voter>,
    snapshots: SnapshotFile,
    disk_may_wait: bool,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let snapshot_id = self.applied.map_or_else(
            || "empty".to_owned(),
            |id| {
                format!(
                    "{}-{}-{}",
                    id.leader_id.term, id.leader_id.node_id, id.index
                )
            },
        );
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id,
        };
        let message = meta_to_wire(&meta, false);
        let image = Arc::clone(&self.image);
        let body = write_snapshot(&self.snapshots, message, self.disk_may_wait, move || {
            encode_image(&image)
        })
        .await
        .map_err(|error| {
            StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&error))
        })?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(body)),
        })
    }
}

/// Makes the snapshot's body and writes the file, away from the raft core unless the disk never waits.
async fn write_snapshot(
    snapshots: &SnapshotFile,
    meta: wire::SnapshotMeta,
    disk_may_wait: bool,
    body: impl FnOnce() -> Vec<u8> + Send + 'static,
) -> io::Result<Vec<u8>> {
    let snapshots = snapshots.clone();
    let write = move || {
        let body = body();
        snapshots.write(meta, &body).map(|()| body)
    };
    if !disk_may_wait {
        return write();
    }
    tokio::task::spawn_blocking(write)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn meta_to_wire(meta: &SnapshotMeta<u64, Voter>, received: bool) -> wire::SnapshotMeta {
    wire::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_wire),
        last_membership: Some(stored_membership_to_wire(&meta.last_membership)),
        snapshot_id: meta.snapshot_id.clone(),
        received,
        ..Default::default()
    }
}

/// The snapshot's body: records that make the image.
pub(super) fn encode_image(image: &Image) -> Vec<u8> {
    wire::SnapshotImage {
        version: image.version,
        records: image.to_records(),
    }
    .encode_to_vec()
}

/// The image of a snapshot's body.
pub(super) fn decode_image(body: bytes::Bytes) -> Result<Image, CodecError> {
    let snapshot = wire::SnapshotImage::decode(body)?;
    Ok(Image::from_records(snapshot.version, &snapshot.records)?)
}
