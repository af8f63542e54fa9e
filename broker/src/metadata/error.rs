//! What can go wrong in the metadata: an operation that is refused, and a quorum that does not start.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use logweir_proto::{ErrorCode, NodeId};

use crate::words::counted;

/// Why an operation on the metadata did not happen (or, for [`MetadataError::Interrupted`], may not have).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MetadataError {
    /// The topic's name breaks Kafka's rules.
    #[error("topic name {name:?} is not valid: {reason}")]
    InvalidTopicName {
        /// The name as given, cut to 300 characters.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The name differs from an existing topic's only in '.' and '_', which metrics cannot tell apart.
    #[error(
        "topic {name:?} collides with the existing topic {existing:?}: '.' and '_' count as the same"
    )]
    TopicNameCollides {
        /// The name as given.
        name: String,
        /// The topic that is there.
        existing: String,
    },
    /// Names that begin with two underscores are the broker's own.
    #[error("topic {name:?} is internal: names that begin with \"__\" are the broker's own")]
    InternalTopic {
        /// The name as given.
        name: String,
    },
    /// There is such a topic.
    #[error("topic {name:?} exists already")]
    TopicExists {
        /// Its name.
        name: String,
    },
    /// There is no such topic.
    #[error("there is no topic {name:?}")]
    UnknownTopic {
        /// The name as given, cut to 300 characters.
        name: String,
    },
    /// The number of partitions is out of range.
    #[error("{} not possible: {reason}", counted(*partitions, "partition"))]
    InvalidPartitions {
        /// The number as given.
        partitions: i32,
        /// Why.
        reason: String,
    },
    /// The replication factor is out of range.
    #[error(
        "a replication factor of {replication_factor} is not possible with {}",
        counted(*available, "available broker")
    )]
    InvalidReplicationFactor {
        /// The factor as given.
        replication_factor: i16,
        /// How many brokers are registered and not fenced.
        available: usize,
    },
    /// A setting is unknown, or its value is not valid, or there is too much of it.
    #[error("{reason}")]
    InvalidConfig {
        /// Which, and why.
        reason: String,
    },
    /// The cluster has as many topics or partitions as it may.
    #[error("this would make {would_be} {what}, but the cluster's limit is {limit}")]
    LimitReached {
        /// "topics" or "partitions".
        what: &'static str,
        /// How many there would be.
        would_be: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The request is larger than one change may be.
    #[error("the change takes {bytes} bytes, but one change may take {limit}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The node is registered with another data directory.
    #[error(
        "node {node_id} is registered with data directory {registered}, not {given}: \
         start it with its own directory, or give it another node id"
    )]
    DirectoryMismatch {
        /// The node.
        node_id: NodeId,
        /// The directory it is registered with.
        registered: String,
        /// The directory it came with.
        given: String,
    },
    /// The node is not registered.
    #[error("node {node_id} is not registered")]
    UnknownBroker {
        /// The node.
        node_id: NodeId,
    },
    /// The registration is malformed.
    #[error("the broker registration is not valid: {reason}")]
    InvalidRegistration {
        /// Why.
        reason: String,
    },
    /// All 2^63 producer ids were handed out.
    #[error("every producer id has been handed out")]
    ProducerIdsExhausted,
    /// Another node is the active controller.
    #[error("this node is not the active controller")]
    NotController {
        /// Who is, if known.
        leader: Option<NodeId>,
    },
    /// The metadata's file system is full; nothing was written.
    #[error("there is no room for metadata in {}: {reason}", .path.display())]
    DiskFull {
        /// The metadata directory.
        path: PathBuf,
        /// What the file system said.
        reason: Arc<str>,
    },
    /// The metadata's disk failed, so nothing more is written until the broker restarts.
    #[error("metadata is offline until the broker restarts: {reason}")]
    Offline {
        /// What failed.
        reason: Arc<str>,
    },
    /// The quorum was shut down before the operation began; nothing was written.
    #[error("the metadata quorum has been shut down")]
    ShutDown,
    /// The quorum stopped while the operation was under way; it may or may not have happened.
    #[error("the metadata quorum stopped during the change, which may or may not have happened")]
    Interrupted,
}

impl MetadataError {
    /// Kafka's code for it.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidTopicName { .. }
            | Self::TopicNameCollides { .. }
            | Self::InternalTopic { .. } => ErrorCode::InvalidTopicException,
            Self::TopicExists { .. } => ErrorCode::TopicAlreadyExists,
            Self::UnknownTopic { .. } => ErrorCode::UnknownTopicOrPartition,
            Self::InvalidPartitions { .. } => ErrorCode::InvalidPartitions,
            Self::InvalidReplicationFactor { .. } => ErrorCode::InvalidReplicationFactor,
            Self::InvalidConfig { .. } => ErrorCode::InvalidConfig,
            Self::LimitReached { .. } => ErrorCode::PolicyViolation,
            Self::TooLarge { .. } | Self::InvalidRegistration { .. } => ErrorCode::InvalidRequest,
            Self::DirectoryMismatch { .. } => ErrorCode::DuplicateBrokerRegistration,
            Self::UnknownBroker { .. } => ErrorCode::BrokerIdNotRegistered,
            Self::ProducerIdsExhausted => ErrorCode::UnknownServerError,
            Self::NotController { .. } => ErrorCode::NotController,
            Self::DiskFull { .. } | Self::Offline { .. } => ErrorCode::KafkaStorageError,
            Self::ShutDown => ErrorCode::NotController,
            Self::Interrupted => ErrorCode::RequestTimedOut,
        }
    }
}

/// Why the quorum did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum QuorumError {
    /// A file holds what was never written so. Nothing was changed.
    #[error("metadata file {} is damaged at byte {position}: {reason}; {}", .path.display(), RESTORE)]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file that must be there is not. Nothing was changed.
    #[error("metadata file {} is missing: {reason}; {}", .path.display(), RESTORE)]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why it must be there.
        reason: String,
    },
    /// A file belongs to another node or another data directory.
    #[error("metadata file {} belongs to {found}, but this is {expected}: {advice}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who this is.
        expected: String,
        /// What to do.
        advice: &'static str,
    },
    /// A file was written by a newer version.
    #[error("metadata file {} was written by a newer version of Logweir ({reason}): start that version, or a newer one", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What is not understood.
        reason: String,
    },
    /// The disk failed.
    #[error("metadata file {} cannot be {doing}: {cause}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// "read", "written", …
        doing: &'static str,
        /// What the disk said.
        cause: io::Error,
    },
    /// A setting is out of range.
    #[error("the quorum's configuration is not valid: {reason}")]
    Config {
        /// Which, and why.
        reason: String,
    },
    /// The quorum's thread did not come up, or ended at once.
    #[error("the metadata quorum did not start: {reason}")]
    Failed {
        /// What is known.
        reason: String,
    },
}

/// What to do about a file that cannot be trusted.
const RESTORE: &str = "the broker does not start without it, because starting anew would forget topics \
     and hand out producer ids twice: restore the metadata folder from a backup, or move the whole data \
     directory away to begin with an empty broker";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_says_what_to_do() {
        let error = QuorumError::Damaged {
            path: PathBuf::from("/data/metadata/log"),
            position: 4096,
            reason: "checksum".to_owned(),
        };
        let text = error.to_string();
        assert!(text.contains("/data/metadata/log"), "{text}");
        assert!(text.contains("byte 4096"), "{text}");
        assert!(text.contains("restore the metadata folder"), "{text}");
    }

    #[test]
    fn only_errors_that_may_pass_by_themselves_are_retriable() {
        let elsewhere = MetadataError::NotController { leader: None };
        assert!(elsewhere.code().is_retriable());
        let exists = MetadataError::TopicExists {
            name: "a".to_owned(),
        };
        assert!(!exists.code().is_retriable());
    }
}
