//! A node's files: opened and checked against each other, or made.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use logweir_storage::disk::Disk;

use super::QuorumConfig;
use super::error::QuorumError;
use super::log_file::{Identity, LOG_NAME, LogFile};
use super::log_writer::LogWriter;
use super::raft_log::{RaftLog, State};
use super::snapshot_file::{SNAPSHOT_NAME, SnapshotFile};
use super::state_machine::{Publisher, StateMachine};

/// A node's files, read.
pub(super) struct Opened {
    pub(super) log: RaftLog,
    pub(super) machine: StateMachine,
    /// Ends when the log is dropped.
    pub(super) io_thread: Option<std::thread::JoinHandle<()>>,
}

/// Opens the files, or makes them.
pub(super) fn open(
    config: &QuorumConfig,
    publisher: &Arc<Publisher>,
) -> Result<Opened, QuorumError> {
    let identity = Identity {
        node_id: config.node_id.get(),
        directory_id: config.directory_id,
    };
    let disk = &config.disk;
    let snapshots = SnapshotFile::new(Arc::clone(disk), &config.dir, identity);
    let has_snapshot = io(
        disk.exists(snapshots.path()),
        snapshots.path().into(),
        "read",
    )?;
    let found = LogFile::open(Arc::clone(disk), &config.dir, identity)?;
    let (file, state) = match found {
        Some(opened) => {
            if opened.torn {
                tracing::warn!(path = %opened.file.path().display(),
                    "dropped the last write to the metadata log: it was cut off before it was acknowledged");
            }
            // A broker that was killed between a rename and the sync of the folder left names that a power
            // cut can still take back. What is read here counts from now on, so they must be durable.
            io(disk.sync_dir(&config.dir), config.dir.clone(), "synced")?;
            let state = replay(&opened.file, opened.bodies)?;
            (opened.file, state)
        }
        None => {
            let path = config.dir.join(LOG_NAME);
            let missing = |reason: &str| QuorumError::Missing {
                path: path.clone(),
                reason: reason.to_owned(),
            };
            if has_snapshot {
                return Err(missing("there is a snapshot beside it"));
            }
            if config.expect_existing {
                return Err(missing("the data directory has been used before"));
            }
            (create(disk, config, identity)?, State::default())
        }
    };
    let machine = StateMachine::open(Arc::clone(publisher), snapshots, config.disk_may_wait)?;
    check_snapshot_reaches(&machine, &state, config)?;
    let release = Arc::clone(&config.release_reserve);
    let (writer, io_thread) = if config.disk_may_wait {
        let spawned = LogWriter::spawn(file, release);
        let (writer, thread) = io(spawned, config.dir.clone(), "written")?;
        (writer, Some(thread))
    } else {
        (LogWriter::inline(file, release), None)
    };
    Ok(Opened {
        log: RaftLog::new(state, writer, config.rewrite_bytes),
        machine,
        io_thread,
    })
}

fn create(
    disk: &Arc<dyn Disk>,
    config: &QuorumConfig,
    identity: Identity,
) -> Result<LogFile, QuorumError> {
    let made = || {
        disk.create_dir_all(&config.dir)?;
        if let Some(parent) = config.dir.parent() {
            disk.sync_dir(parent)?;
        }
        LogFile::create(Arc::clone(disk), &config.dir, identity, &[])
    };
    io(made(), config.dir.join(LOG_NAME), "created")
}

fn replay(file: &LogFile, bodies: Vec<(u64, Bytes)>) -> Result<State, QuorumError> {
    let mut state = State::default();
    for (position, body) in bodies {
        state
            .replay(body)
            .map_err(|error| error.at(file.path(), position))?;
    }
    Ok(state)
}

/// The log begins where the snapshot ends, or before; a snapshot of this node's own log does not reach
/// beyond it.
fn check_snapshot_reaches(
    machine: &StateMachine,
    state: &State,
    config: &QuorumConfig,
) -> Result<(), QuorumError> {
    let path: PathBuf = config.dir.join(SNAPSHOT_NAME);
    match (state.purged, machine.applied()) {
        (Some(purged), None) => Err(QuorumError::Missing {
            path,
            reason: format!("the log begins after entry {}", purged.index),
        }),
        (Some(purged), Some(applied)) if applied < purged => Err(QuorumError::Damaged {
            path,
            position: 0,
            reason: format!(
                "it ends with entry {}, but the log begins after entry {}",
                applied.index, purged.index
            ),
        }),
        (_, Some(applied))
            if !machine.snapshot_was_received() && state.last_log_id() < Some(applied) =>
        {
            Err(QuorumError::Damaged {
                path: config.dir.join(LOG_NAME),
                position: 0,
                reason: format!(
                    "it ends before entry {}, which the snapshot holds",
                    applied.index
                ),
            })
        }
        _ => Ok(()),
    }
}

fn io<T>(outcome: io::Result<T>, path: PathBuf, doing: &'static str) -> Result<T, QuorumError> {
    outcome.map_err(|cause| QuorumError::Io { path, doing, cause })
}
