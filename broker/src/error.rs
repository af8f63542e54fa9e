//! What the broker answers when it cannot do what was asked, and how inner errors become that.
//!
//! The one table from the errors of storage and metadata to Kafka's codes. Matches name every
//! variant, so that a new one must choose.

use std::fmt;
use std::io;

use logweir_proto::record::BatchError;
use logweir_proto::{ErrorCode, PartitionId};
use logweir_storage::{AppendError, ChangeError, OpenError, ProducerError, ReadError};

use crate::faults::FaultReport;
use crate::metadata::MetadataError;

/// An error as every front end tells it: Kafka's code, what was wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiError {
    /// Kafka's code, which also says whether to try again.
    pub code: ErrorCode,
    /// What was wrong, with the value that was refused.
    pub message: String,
    /// What the caller can do about it; empty if there is nothing to add.
    pub action: &'static str,
}

impl ApiError {
    /// An error with nothing to add on what to do.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            action: "",
        }
    }

    /// Says what the caller can do.
    pub(crate) fn hint(mut self, action: &'static str) -> Self {
        self.action = action;
        self
    }

    pub(crate) fn unknown_topic(topic: &str) -> Self {
        Self::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("there is no topic {topic:?}"),
        )
        .hint("check the name, or create the topic")
    }

    pub(crate) fn unknown_partition(topic: &str, partition: PartitionId, count: usize) -> Self {
        Self::new(
            ErrorCode::UnknownTopicOrPartition,
            format!(
                "topic {topic:?} has no partition {partition}, its {count} are numbered from 0"
            ),
        )
    }

    pub(crate) fn storage(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::KafkaStorageError, message)
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::RequestTimedOut, message)
            .hint("the records may have been stored; an idempotent producer may send them again")
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if !self.action.is_empty() {
            write!(f, " ({})", self.action)?;
        }
        Ok(())
    }
}

impl std::error::Error for ApiError {}

/// Why a broker did not start or stop as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The configuration is not valid; the message lists every problem.
    #[error("the configuration is not valid:\n{0}")]
    Config(String),
    /// A listener's address cannot be used.
    #[error(
        "cannot listen for {listener} on {address}: {source} (is another broker running there? port 0 lets the system choose)"
    )]
    Listen {
        /// Which listener.
        listener: &'static str,
        /// The address asked for.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] OpenError),
    /// The metadata cannot be used.
    #[error("metadata: {0}")]
    Metadata(String),
    /// The data directory could not be closed cleanly; the next start scans its logs.
    #[error("the data directory was not closed cleanly: {0}")]
    Close(String),
    /// A part that must not end before the broker did.
    #[error("a part of the broker ended by itself: {0}")]
    Ended(String),
    /// The broker has crashed and was not restarted.
    #[error("the broker is down; restart it first")]
    Down,
    /// Asked for on a real disk; the text says what.
    #[error("{0} needs a broker in memory, whose disk is simulated")]
    NotInMemory(&'static str),
    /// Faults were injected that never happened, so that what they were to show was not shown.
    #[error("injected faults that never happened (mark those that need not as optional): {}", list(.0))]
    UnfiredFaults(Vec<FaultReport>),
    /// A temporary folder could not be made or removed.
    #[error("the temporary folder: {0}")]
    TemporaryFolder(io::Error),
    /// There is no Tokio runtime to start in.
    #[error("a Broker needs a Tokio runtime; without one use BlockingBroker")]
    WithoutRuntime,
    /// A blocking call from within an asynchronous runtime, which it would stop.
    #[error("a BlockingBroker cannot be used within an asynchronous runtime; use Broker there")]
    WithinRuntime,
}

fn list(faults: &[FaultReport]) -> String {
    let descriptions: Vec<_> = faults.iter().map(|fault| &*fault.description).collect();
    descriptions.join("; ")
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> Self {
        let code = match &error {
            BatchError::TooShort { .. } | BatchError::Length { .. } | BatchError::Crc { .. } => {
                ErrorCode::CorruptMessage
            }
            BatchError::Magic { .. } => ErrorCode::UnsupportedForMessageFormat,
            BatchError::UnknownCompression { .. } => ErrorCode::UnsupportedCompressionType,
            BatchError::MoreThanOneBatch { .. }
            | BatchError::UnknownAttributes { .. }
            | BatchError::Count { .. }
            | BatchError::Producer { .. }
            | BatchError::ControlBatch
            | BatchError::LogAppendTime
            | BatchError::DeleteHorizon
            | BatchError::NoKey { .. }
            | BatchError::Record { .. }
            | BatchError::TrailingBytes { .. }
            | BatchError::Decompress { .. }
            | BatchError::NoRecords
            | BatchError::HeaderNotUtf8 { .. } => ErrorCode::InvalidRecord,
            BatchError::DecompressedTooLarge { .. } | BatchError::TooLarge { .. } => {
                ErrorCode::MessageTooLarge
            }
            BatchError::Compress { .. } => ErrorCode::UnknownServerError,
        };
        Self::new(code, error.to_string())
    }
}

impl From<MetadataError> for ApiError {
    fn from(error: MetadataError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        let message = error.to_string();
        match error {
            AppendError::Full => Self::storage(message)
                .hint("free some space; appends go on by themselves, reads are not affected"),
            AppendError::Offline { .. } | AppendError::Io { .. } => Self::storage(message),
            AppendError::TooLarge { .. } => Self::new(ErrorCode::MessageTooLarge, message)
                .hint("send smaller batches, or raise the topic's segment.bytes"),
            AppendError::OutOfOrder { .. } => Self::new(ErrorCode::UnknownServerError, message),
        }
    }
}

impl From<ProducerError> for ApiError {
    fn from(error: ProducerError) -> Self {
        let code = match error {
            ProducerError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequenceNumber,
            ProducerError::Fenced { .. } => ErrorCode::InvalidProducerEpoch,
            ProducerError::DuplicateTooOld => ErrorCode::DuplicateSequenceNumber,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::OutOfRange { .. } => Self::new(ErrorCode::OffsetOutOfRange, message)
                .hint("look up the earliest or latest offset and go on from there"),
            ReadError::Corrupt { .. } | ReadError::Offline { .. } | ReadError::Io { .. } => {
                Self::storage(message)
            }
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::OutOfRange { .. } => Self::new(ErrorCode::OffsetOutOfRange, message),
            ChangeError::Read(error) => error.into(),
            ChangeError::Offline { .. } | ChangeError::Io { .. } => Self::storage(message),
        }
    }
}
