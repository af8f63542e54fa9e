//! What a log's records amount to up to an offset, as its owner puts it: a small file beside the segments, so that who
//! replays the log need not begin at its beginning.
//!
//! The log is what counts. A snapshot that cannot be read is put aside, and one that speaks of another log, or of an
//! end that this log does not have (any more), tells nothing; the owner reads the log from its start then.

use std::io;
use std::path::Path;

use bytes::Bytes;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};

use super::LogReader;
use crate::checked_file::{self, Damage, Fields, magic};
use crate::error::ChangeError;

const VERSION: u16 = 1;
/// Bytes before the owner's: topic id (16), partition (4), leader epoch (4), end (8), time (8).
const HEAD_LEN: usize = 40;
/// No snapshot has more bytes of the owner's.
pub const MAX_STATE_BYTES: usize = 128 << 20;

/// A log's records below an offset, summed up by their owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSnapshot {
    /// It stands for all records below this (exclusive).
    pub end: Offset,
    /// The leader epoch of the last of them.
    pub leader_epoch: LeaderEpoch,
    /// When it was taken, by the owner's wall time. Where the log is compacted, a tombstone that was appended later may be
    /// gone once the topic's `delete.retention.ms` has passed: the log after `end` then does not tell everything.
    pub taken_at: Timestamp,
    /// What the owner made of them.
    pub state: Bytes,
}

/// A decoded file: whose snapshot it is, and the snapshot.
pub(crate) struct Decoded {
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) snapshot: StateSnapshot,
}

pub(super) fn encode(
    topic_id: TopicId,
    partition: PartitionId,
    snapshot: &StateSnapshot,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEAD_LEN + snapshot.state.len());
    body.extend_from_slice(&topic_id.get());
    body.extend_from_slice(&partition.get().to_be_bytes());
    body.extend_from_slice(&snapshot.leader_epoch.get().to_be_bytes());
    body.extend_from_slice(&snapshot.end.get().to_be_bytes());
    body.extend_from_slice(&snapshot.taken_at.get().to_be_bytes());
    body.extend_from_slice(&snapshot.state);
    checked_file::frame(magic::STATE_SNAPSHOT, VERSION, &body)
}

/// Reads the file's bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, Damage> {
    let (_, body) = checked_file::unframe(magic::STATE_SNAPSHOT, VERSION, bytes)?;
    let mut fields = Fields::new(body);
    let topic_id = TopicId::new(fields.array()?);
    let partition = PartitionId::new(fields.i32()?);
    let leader_epoch = LeaderEpoch::new(fields.i32()?);
    let end = Offset::new(fields.i64()?);
    let taken_at = Timestamp::new(fields.i64()?);
    let state = Bytes::copy_from_slice(&body[HEAD_LEN..]);
    Ok(Decoded {
        topic_id,
        partition,
        snapshot: StateSnapshot {
            end,
            leader_epoch,
            taken_at,
            state,
        },
    })
}

impl LogReader {
    /// Replaces the log's snapshot, so that after any crash the old one or the new one is there. One writer at a time.
    /// Waits for the device.
    ///
    /// # Errors
    /// [`ChangeError::Offline`] if the log is closed or its directory offline; [`ChangeError::Io`], also for more than
    /// [`MAX_STATE_BYTES`]. The old snapshot may be there still; the log is not affected, unless it was a sync that
    /// failed, which takes the directory offline.
    pub fn write_snapshot(&self, snapshot: &StateSnapshot) -> Result<(), ChangeError> {
        let shared = self.shared();
        let path = shared.files.snapshot();
        let failed = ChangeError::io(&path);
        if snapshot.state.len() > MAX_STATE_BYTES {
            let len = snapshot.state.len();
            let reason = format!("a snapshot of {len} bytes is larger than {MAX_STATE_BYTES}");
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
        }
        shared
            .check_open()
            .map_err(|reason| ChangeError::Offline { reason })?;
        let bytes = encode(shared.id.topic_id, shared.id.partition, snapshot);
        let context = &shared.context;
        // A file is as durable as its directory's name.
        let written = context.folders.sync(context);
        written
            .and_then(|()| context.replace_file(&path, &bytes))
            .map_err(failed)
    }

    /// The log's snapshot, if there is one that holds for the log as it is: its last record is there, from the same
    /// leader epoch. One that cannot be read is renamed `state-snapshot.unreadable`. Waits for the device.
    ///
    /// # Errors
    /// [`ChangeError::Io`].
    pub fn read_snapshot(&self) -> Result<Option<StateSnapshot>, ChangeError> {
        let shared = self.shared();
        let path = shared.files.snapshot();
        let disk = shared.context.disk.as_ref();
        let read = checked_file::read_whole(disk, &path).map_err(ChangeError::io(&path))?;
        let Some(bytes) = read else {
            return Ok(None);
        };
        match decode(&bytes) {
            Ok(decoded) => Ok(self.if_it_holds(decoded)),
            Err(damage) => {
                tracing::warn!(log = %shared.id, file = %path.display(), position = damage.position,
                    reason = %damage.reason, "a snapshot that cannot be read is put aside; the log tells the same");
                self.put_snapshot_aside()?;
                Ok(None)
            }
        }
    }

    /// Renames the log's snapshot `state-snapshot.unreadable`, in place of an earlier one, for a person to look at. To be
    /// called by an owner who cannot make sense of it.
    ///
    /// # Errors
    /// [`ChangeError::Io`].
    pub fn put_snapshot_aside(&self) -> Result<(), ChangeError> {
        let shared = self.shared();
        let path = shared.files.snapshot();
        let aside: &Path = &shared.files.snapshot_aside();
        let renamed = shared.context.disk.rename(&path, aside);
        renamed.map_err(ChangeError::io(&path))
    }

    fn if_it_holds(&self, decoded: Decoded) -> Option<StateSnapshot> {
        let shared = self.shared();
        let Decoded {
            topic_id,
            partition,
            snapshot,
        } = decoded;
        let of_this_log = (topic_id, partition) == (shared.id.topic_id, shared.id.partition);
        let within = snapshot.end > self.log_start_offset().max(Offset::ZERO)
            && snapshot.end <= self.log_end_offset();
        let holds = of_this_log
            && within
            && self.leader_epoch_of(snapshot.end.plus(-1)) == snapshot.leader_epoch;
        if !holds {
            tracing::info!(log = %shared.id, end = %snapshot.end, leader_epoch = %snapshot.leader_epoch,
                "the snapshot does not speak of this log's records and is passed over");
        }
        holds.then_some(snapshot)
    }
}
