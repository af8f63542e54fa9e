//! What can go wrong, an enum for each group of operations whose callers act differently.
//!
//! What the broker turns into Kafka's codes is exhaustive on purpose: a new variant must choose its code there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checked_file::Damage;
use logweir_proto::{LeaderEpoch, Offset, ProducerEpoch, Sequence};

/// A data directory or a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the directory.
    #[error("data directory {} is in use: {source}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Names the other's pid.
        source: io::Error,
    },
    /// Bytes that were once durable are not what was written. Nothing was changed; the partition must be
    /// repaired from a replica or by a person.
    #[error("{} is corrupt at byte {position}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The log is open already.
    #[error("log {} is already open", path.display())]
    AlreadyOpen {
        /// The log's directory.
        path: PathBuf,
    },
    /// The data directory was taken offline.
    #[error("data directory is offline: {reason}")]
    Offline {
        /// What took it offline.
        reason: Arc<str>,
    },
    /// The device failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The device's error.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn damaged(path: &Path, damage: Damage) -> Self {
        Self::corrupt(path, damage.position, damage.reason)
    }

    pub(crate) fn corrupt(path: &Path, position: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_path_buf(),
            position,
            reason: reason.into(),
        }
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io { path, source } => Self::Io { path, source },
            ReadError::Offline { reason } => Self::Offline { reason },
            ReadError::Corrupt {
                path,
                position,
                reason,
            } => Self::Corrupt {
                path,
                position,
                reason,
            },
            ReadError::OutOfRange { .. } => Self::Io {
                path: PathBuf::new(),
                source: io::Error::other(error.to_string()),
            },
        }
    }
}

/// A batch was not appended; the log is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full. Reads go on, and appends succeed again by themselves when there is room.
    #[error("disk is full")]
    Full,
    /// The data directory was taken offline.
    #[error("data directory is offline: {reason}")]
    Offline {
        /// What took it offline.
        reason: Arc<str>,
    },
    /// The batch does not fit in a segment.
    #[error("batch of {size_bytes} bytes is larger than a segment of {limit_bytes}")]
    TooLarge {
        /// The batch's size.
        size_bytes: u64,
        /// `segment_bytes` of the log.
        limit_bytes: u64,
    },
    /// A leader's batch lies below the log's end, or its epoch below the log's last.
    #[error(
        "batch at offset {found} of epoch {found_epoch} does not follow offset {expected} of epoch {expected_epoch}"
    )]
    OutOfOrder {
        /// The lowest offset that could be appended.
        expected: Offset,
        /// The lowest epoch that could be appended.
        expected_epoch: LeaderEpoch,
        /// The batch's base offset.
        found: Offset,
        /// The batch's epoch.
        found_epoch: LeaderEpoch,
    },
    /// The device failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The device's error.
        source: io::Error,
    },
}

impl AppendError {
    /// A segment that could not be opened for appending.
    pub(crate) fn from_read(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::Io { path, source } => Self::from_io(&path, source),
            ReadError::Offline { reason } => Self::Offline { reason },
            ReadError::Corrupt { path, .. } => Self::Io {
                path,
                source: io::Error::other(text),
            },
            ReadError::OutOfRange { .. } => Self::Io {
                path: PathBuf::new(),
                source: io::Error::other(text),
            },
        }
    }

    /// A device error, told apart from a full disk.
    pub(crate) fn from_io(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::Full;
        }
        Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset is outside of {start} to {end}")]
    OutOfRange {
        /// The log start offset (inclusive).
        start: Offset,
        /// The log end offset (exclusive).
        end: Offset,
    },
    /// The data directory was taken offline.
    #[error("data directory is offline: {reason}")]
    Offline {
        /// What took it offline.
        reason: Arc<str>,
    },
    /// A segment does not hold what its neighbours and index say.
    #[error("{} is corrupt at byte {position}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The device failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The device's error.
        source: io::Error,
    },
}

impl ReadError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Truncating, deleting, closing or another change of a log or data directory failed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The offset is not in the log.
    #[error("offset {offset} is outside of {start} to {end}")]
    OutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// The log start offset (inclusive).
        start: Offset,
        /// The log end offset (inclusive here).
        end: Offset,
    },
    /// The data directory was taken offline.
    #[error("data directory is offline: {reason}")]
    Offline {
        /// What took it offline.
        reason: Arc<str>,
    },
    /// The device failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The device's error.
        source: io::Error,
    },
    /// Reading what is needed for the change failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl ChangeError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// A batch of an idempotent producer cannot be the next one (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// A batch before this one is missing.
    #[error("sequence {found} where {expected} was expected")]
    OutOfOrder {
        /// The sequence that would be accepted.
        expected: Sequence,
        /// The batch's base sequence.
        found: Sequence,
    },
    /// A newer instance of the producer has written.
    #[error("producer epoch {found} is older than {current}")]
    Fenced {
        /// The newest epoch seen.
        current: ProducerEpoch,
        /// The batch's epoch.
        found: ProducerEpoch,
    },
    /// The batch was appended long ago: more than five batches back, so that its offset is not known any more.
    #[error("the batch was appended before, more than five batches ago")]
    DuplicateTooOld,
}
