//! Making a machine from what its partition says: the newest local snapshot that holds, then the log after it.
//!
//! Called on threads that may wait for the disk, with no lock held. What cannot be read is never guessed: the shard is
//! not served then, and says so.

use std::time::Duration;

use logweir_proto::record::{RecordBatch, batches};
use logweir_proto::{Offset, Timestamp};
use logweir_storage::{ChangeError, LogReader, ReadError, StateSnapshot};
use tokio_util::sync::CancellationToken;

use super::machine::{Machine, Now, StateRecord};
use super::snapshot;
use crate::clock::Clock;

/// Bytes of the log read at a time.
const READ_BYTES: usize = 1 << 20;
/// A batch may grow to this when it is decompressed; the runtime itself writes none compressed.
const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;

/// A machine that holds what its log says.
pub(super) struct Loaded<M> {
    pub(super) machine: M,
    /// Everything below it (exclusive) was replayed.
    pub(super) end: Offset,
    /// Everything below it (exclusive) was in the snapshot.
    pub(super) saved_end: Offset,
}

/// Why a machine could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// Nobody wants it any more.
    #[error("the broker stops, or another leads the partition")]
    Stopped,
    /// The disk or the log's end are in the way; they may pass.
    #[error("{0}")]
    Passing(String),
    /// The log holds what this broker cannot read.
    #[error("{0}")]
    Unreadable(String),
}

impl From<ReadError> for LoadError {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::Corrupt { .. } => Self::Unreadable(text),
            ReadError::OutOfRange { .. } | ReadError::Offline { .. } | ReadError::Io { .. } => {
                Self::Passing(text)
            }
        }
    }
}

impl From<ChangeError> for LoadError {
    fn from(error: ChangeError) -> Self {
        Self::Passing(error.to_string())
    }
}

/// Loads a machine up to the log's end. May wait for the disk.
///
/// # Errors
/// As [`LoadError`] says.
pub(super) fn load<M: Machine>(
    log: &LogReader,
    make: &dyn Fn() -> M,
    clock: &Clock,
    snapshot_age: Duration,
    stop: &CancellationToken,
) -> Result<Loaded<M>, LoadError> {
    let now = || Now::of(clock);
    let end = log.log_end_offset();
    let mut machine = make();
    let mut saved_end = Offset::ZERO;
    let snapshot = log.read_snapshot()?;
    if let Some(snapshot) = snapshot.filter(|s| is_fresh(s, end, clock.now(), snapshot_age)) {
        match replay_snapshot(&mut machine, &snapshot, now()) {
            Ok(()) => saved_end = snapshot.end,
            Err(reason) => {
                tracing::warn!(end = %snapshot.end, %reason,
                    "a snapshot that cannot be replayed is put aside; the log tells the same");
                log.put_snapshot_aside()?;
                machine = make();
            }
        }
    }
    let start = log.log_start_offset();
    if start > saved_end {
        return Err(LoadError::Unreadable(format!(
            "the records below offset {start} were deleted, and no snapshot holds what they said"
        )));
    }
    let mut at = saved_end;
    while at < end {
        if stop.is_cancelled() {
            return Err(LoadError::Stopped);
        }
        let slice = log.read(at, READ_BYTES, end)?;
        if slice.next_offset <= at {
            return Err(LoadError::Unreadable(format!(
                "no batch follows offset {at}, and the log ends at {end}"
            )));
        }
        for batch in batches(slice.bytes) {
            let batch = batch.map_err(|error| unreadable(at, &error))?;
            replay_batch(&mut machine, &batch, at, now())?;
        }
        at = slice.next_offset;
    }
    machine.loaded(now());
    Ok(Loaded {
        machine,
        end,
        saved_end,
    })
}

/// Whether the log after a snapshot tells everything that has changed since.
fn is_fresh(snapshot: &StateSnapshot, log_end: Offset, now: Timestamp, age: Duration) -> bool {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let fresh = snapshot.end == log_end || now.get().abs_diff(snapshot.taken_at.get()) < age_ms;
    if !fresh {
        tracing::info!(end = %snapshot.end, taken_at = %snapshot.taken_at,
            "a snapshot is too old to count and the log is read from its start");
    }
    fresh
}

/// Replays the records of a batch from offset `from` on.
fn replay_batch<M: Machine>(
    machine: &mut M,
    batch: &RecordBatch,
    from: Offset,
    now: Now,
) -> Result<(), LoadError> {
    let header = batch.header();
    let damaged = |error| unreadable(header.base_offset, &error);
    batch.verify_crc().map_err(damaged)?;
    if header.attributes.is_control() {
        return Ok(());
    }
    for record in batch.records(MAX_DECOMPRESSED_BYTES).map_err(damaged)? {
        let record = record.map_err(damaged)?;
        if record.offset < from {
            continue;
        }
        let Some(key) = record.key else {
            return Err(unreadable(record.offset, &"it has no key"));
        };
        // Copied: what a machine keeps must not keep a whole segment mapped.
        let record_of_state = StateRecord {
            key: bytes::Bytes::copy_from_slice(&key),
            value: record.value.as_deref().map(bytes::Bytes::copy_from_slice),
        };
        machine
            .replay(&record_of_state, now)
            .map_err(|error| unreadable(record.offset, &error))?;
    }
    Ok(())
}

fn replay_snapshot<M: Machine>(
    machine: &mut M,
    snapshot: &StateSnapshot,
    now: Now,
) -> Result<(), String> {
    for record in snapshot::decode(&snapshot.state)? {
        machine
            .replay(&record, now)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn unreadable(offset: Offset, reason: &dyn std::fmt::Display) -> LoadError {
    LoadError::Unreadable(format!("the record at offset {offset}: {reason}"))
}
