//! The one error of this crate, split by what the caller does next.
//!
//! Everything that can go wrong arrives here in one of two forms: a gRPC status (the whole request
//! failed; its details hold a `logweir.v1.Error`) or a `logweir.v1.Error` in the entry of one topic
//! or partition. Both carry Kafka's code; the kind follows from the code by one table.

use std::fmt;
use std::sync::Arc;

use logweir_proto::grpc::v1;
use logweir_proto::{ErrorCode, PartitionId};
use prost::Message as _;

/// What a caller does about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The same call may succeed later: no connection, no leader, a full disk, a quota.
    Retriable,
    /// A deadline ran out. A write may still have happened; see [`Error::may_have_happened`].
    TimedOut,
    /// The request itself is refused: unknown topic, a record too large, a setting that is not valid. Mend it first.
    Invalid,
    /// The caller lacks the right to do this.
    Denied,
    /// A newer instance of this producer or member has taken over. Give up.
    Fenced,
    /// This producer, reader or client was closed. Give up.
    Closed,
    /// Stored or received data is not what it must be: a damaged batch, an offset outside the log, a
    /// sequence that shows that acknowledged records are gone. Look at the data.
    Data,
    /// The broker failed in a way it has no name for. Look at its log.
    Broker,
}

impl ErrorKind {
    /// What to do about errors of this kind, in a few words.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Retriable => "try again later",
            Self::TimedOut => "the write may have happened: check before sending it again",
            Self::Invalid => "change the request",
            Self::Denied => "ask for the right to do this",
            Self::Fenced => "stop: a newer instance has taken over",
            Self::Closed => "open a new one",
            Self::Data => "look at the data",
            Self::Broker => "look at the broker's log",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retriable => "retriable",
            Self::TimedOut => "timed out",
            Self::Invalid => "invalid request",
            Self::Denied => "denied",
            Self::Fenced => "fenced",
            Self::Closed => "closed",
            Self::Data => "data",
            Self::Broker => "broker failure",
        })
    }
}

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do. Cheap to clone: one failed batch gives it to each of its records.
///
/// ```
/// use logweir_client::{Error, ErrorKind};
/// # use logweir_proto::ErrorCode;
/// fn next_step(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::Retriable => "again, later",
///         ErrorKind::TimedOut => "look whether it happened",
///         _ => "stop",
///     }
/// }
/// # let error = Error::from_code(ErrorCode::NotLeaderOrFollower, "moved");
/// # assert_eq!(next_step(&error), "again, later");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    code: Option<ErrorCode>,
    topic: Option<Arc<str>>,
    partition: Option<PartitionId>,
    message: String,
    action: String,
    may_have_happened: bool,
}

impl Error {
    /// An error of a kind, without a Kafka code.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            code: None,
            topic: None,
            partition: None,
            message: message.into(),
            action: String::new(),
            may_have_happened: false,
        }))
    }

    /// The error of a Kafka code; its kind follows from the code.
    #[must_use]
    pub fn from_code(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut error = Self::new(kind_of(code), message);
        error.edit().code = Some(code);
        error
    }

    fn edit(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    /// What to do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Kafka's code, where the broker (or Kafka's own client, in the same place) has one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// The topic this is about.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.0.topic.as_deref()
    }

    /// The partition this is about.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        self.0.partition
    }

    /// What was wrong, with the value that was refused.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it: the broker's words if it gave any, else those of the kind.
    #[must_use]
    pub fn action(&self) -> &str {
        if self.0.action.is_empty() {
            self.0.kind.advice()
        } else {
            &self.0.action
        }
    }

    /// Whether the same call may succeed later. A timed-out write is not retriable in this sense: it may have happened.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.0.kind == ErrorKind::Retriable
    }

    /// Whether a write that failed so may have been stored all the same, because its answer was lost
    /// or came too late.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        self.0.may_have_happened
    }

    /// This error, said of a topic.
    #[must_use]
    pub fn of_topic(mut self, topic: impl Into<Arc<str>>) -> Self {
        self.edit().topic = Some(topic.into());
        self
    }

    /// This error, said of a partition.
    #[must_use]
    pub fn of_partition(mut self, topic: impl Into<Arc<str>>, partition: PartitionId) -> Self {
        let inner = self.edit();
        inner.topic = Some(topic.into());
        inner.partition = Some(partition);
        self
    }

    /// This error with advice of its own.
    #[must_use]
    pub fn with_action(mut self, action: impl Into<String>) -> Self {
        self.edit().action = action.into();
        self
    }

    /// This error with more to be said of it.
    pub(crate) fn with_note(mut self, note: impl fmt::Display) -> Self {
        let inner = self.edit();
        inner.message = format!("{}; {note}", inner.message);
        self
    }

    pub(crate) fn with_may_have_happened(mut self, may_have_happened: bool) -> Self {
        self.edit().may_have_happened = may_have_happened;
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.edit().kind = kind;
        self
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(ErrorKind::Closed, format!("the {what} is closed"))
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::from_code(ErrorCode::RequestTimedOut, message)
    }

    /// The error of a topic's or partition's own entry.
    pub(crate) fn from_entry(entry: &v1::Error) -> Self {
        let code = i16::try_from(entry.code)
            .ok()
            .and_then(ErrorCode::from_code);
        let mut error = match code {
            Some(code) => Self::from_code(code, entry.message.clone()),
            // A code of a newer broker: it says itself whether to try again.
            None => Self::new(
                if entry.retriable {
                    ErrorKind::Retriable
                } else {
                    ErrorKind::Broker
                },
                format!("{} ({}): {}", entry.name, entry.code, entry.message),
            ),
        };
        if !entry.action.is_empty() {
            error.edit().action.clone_from(&entry.action);
        }
        error
    }

    /// The error of a call that failed as a whole.
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        if let Some(entry) = entry_of(status.details()) {
            return Self::from_entry(&entry);
        }
        let kind = match status.code() {
            tonic::Code::InvalidArgument
            | tonic::Code::NotFound
            | tonic::Code::AlreadyExists
            | tonic::Code::FailedPrecondition
            | tonic::Code::OutOfRange
            | tonic::Code::Unimplemented => ErrorKind::Invalid,
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => ErrorKind::Denied,
            tonic::Code::DataLoss => ErrorKind::Data,
            tonic::Code::DeadlineExceeded => ErrorKind::TimedOut,
            // `Unknown` and `Internal` are what a broken HTTP/2 stream turns into.
            _ => ErrorKind::Retriable,
        };
        let mut message = status.message().to_owned();
        let mut source = std::error::Error::source(status);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message = if message.is_empty() {
                    cause_text
                } else {
                    format!("{message}: {cause_text}")
                };
            }
            source = cause.source();
        }
        if message.is_empty() {
            message = status.code().description().to_owned();
        }
        Self::new(kind, message)
    }
}

/// Finds the `logweir.v1.Error` in the details of a status, if there is one.
fn entry_of(details: &[u8]) -> Option<v1::Error> {
    if details.is_empty() {
        return None;
    }
    let status = tonic_types::pb::Status::decode(details).ok()?;
    let any = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("/logweir.v1.Error"))?;
    v1::Error::decode(any.value.as_slice()).ok()
}

/// The one table from codes to kinds.
fn kind_of(code: ErrorCode) -> ErrorKind {
    use ErrorCode as Code;
    match code {
        Code::RequestTimedOut => ErrorKind::TimedOut,
        Code::UnknownServerError => ErrorKind::Broker,
        Code::OffsetOutOfRange
        | Code::CorruptMessage
        | Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::DuplicateSequenceNumber
        | Code::UnsupportedCompressionType
        | Code::UnsupportedForMessageFormat => ErrorKind::Data,
        Code::InvalidProducerEpoch
        | Code::ProducerFenced
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::UnreleasedInstanceId
        | Code::StaleMemberEpoch
        | Code::TransactionCoordinatorFenced => ErrorKind::Fenced,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed => ErrorKind::Denied,
        // The name is wrong far more often than the metadata is stale; what is retried inside the
        // client is decided by the code, not by the kind.
        Code::UnknownTopicOrPartition | Code::UnknownTopicId | Code::InconsistentTopicId => {
            ErrorKind::Invalid
        }
        code if code.is_retriable() => ErrorKind::Retriable,
        _ => ErrorKind::Invalid,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        match (&inner.topic, inner.partition) {
            (Some(topic), Some(partition)) => write!(f, "{topic}-{partition}: ")?,
            // Most messages name the topic themselves.
            (Some(topic), None) if !inner.message.contains(&format!("{topic:?}")) => {
                write!(f, "{topic}: ")?;
            }
            _ => {}
        }
        match (inner.code, inner.message.is_empty()) {
            (Some(code), true) => f.write_str(code.name())?,
            (Some(code), false) => write!(f, "{} ({code})", inner.message)?,
            (None, true) => write!(f, "{}", inner.kind)?,
            (None, false) => f.write_str(&inner.message)?,
        }
        if inner.action.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", inner.action)
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("code", &self.0.code)
            .field("topic", &self.0.topic)
            .field("partition", &self.0.partition)
            .field("message", &self.0.message)
            .field("may_have_happened", &self.0.may_have_happened)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::from_status(&status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(code: ErrorCode, message: &str, action: &str) -> v1::Error {
        v1::Error {
            code: i32::from(code.code()),
            name: code.name().to_owned(),
            message: message.to_owned(),
            retriable: code.is_retriable(),
            action: action.to_owned(),
        }
    }

    fn status_with(entry: &v1::Error) -> tonic::Status {
        let any = prost_any(
            "type.googleapis.com/logweir.v1.Error",
            entry.encode_to_vec(),
        );
        let details = tonic_types::pb::Status {
            code: 3,
            message: "outer".to_owned(),
            details: vec![any],
        };
        tonic::Status::with_details(
            tonic::Code::InvalidArgument,
            "outer",
            details.encode_to_vec().into(),
        )
    }

    /// The type of `details` is prost's `Any`, which this crate does not name otherwise.
    fn prost_any<A: prost::Message + Default>(type_url: &str, value: Vec<u8>) -> A {
        let mut wire = Vec::new();
        prost::encoding::string::encode(1, &type_url.to_owned(), &mut wire);
        prost::encoding::bytes::encode(2, &value, &mut wire);
        A::decode(wire.as_slice()).unwrap()
    }

    #[test]
    fn the_details_of_a_status_say_more_than_its_code() {
        let error = Error::from(status_with(&entry(
            ErrorCode::NotLeaderOrFollower,
            "node 3 leads it",
            "refresh",
        )));
        assert_eq!(error.kind(), ErrorKind::Retriable);
        assert_eq!(error.code(), Some(ErrorCode::NotLeaderOrFollower));
        assert_eq!(error.message(), "node 3 leads it");
        assert_eq!(error.action(), "refresh");
        assert!(error.is_retriable());
    }

    #[test]
    fn a_status_without_or_with_damaged_details_goes_by_its_code() {
        for (status, kind) in [
            (tonic::Status::unavailable("down"), ErrorKind::Retriable),
            (
                tonic::Status::internal("h2 protocol error"),
                ErrorKind::Retriable,
            ),
            (
                tonic::Status::deadline_exceeded("late"),
                ErrorKind::TimedOut,
            ),
            (tonic::Status::invalid_argument("no"), ErrorKind::Invalid),
            (tonic::Status::permission_denied("no"), ErrorKind::Denied),
            (
                tonic::Status::with_details(
                    tonic::Code::InvalidArgument,
                    "x",
                    bytes::Bytes::from_static(&[0xff; 7]),
                ),
                ErrorKind::Invalid,
            ),
        ] {
            assert_eq!(Error::from_status(&status).kind(), kind, "{status}");
        }
    }

    #[test]
    fn a_code_of_a_newer_broker_keeps_its_name_and_retriability() {
        let newer = v1::Error {
            code: 9_999,
            name: "BRAND_NEW".to_owned(),
            message: "what".to_owned(),
            retriable: true,
            action: String::new(),
        };
        let error = Error::from_entry(&newer);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Retriable, None));
        assert!(error.to_string().contains("BRAND_NEW"), "{error}");
    }

    #[test]
    fn an_error_reads_as_one_line_with_place_code_and_advice() {
        let error = Error::from_entry(&entry(
            ErrorCode::MessageTooLarge,
            "2000000 bytes",
            "raise max.message.bytes",
        ))
        .of_partition("flights", PartitionId::new(3));
        assert_eq!(
            error.to_string(),
            "flights-3: 2000000 bytes (MESSAGE_TOO_LARGE); raise max.message.bytes"
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let unnamed = Error::from_code(ErrorCode::InvalidConfig, "no").of_topic("t");
        assert_eq!(unnamed.to_string(), "t: no (INVALID_CONFIG)");
        let message = "there is no topic \"t\"";
        let named = Error::from_code(ErrorCode::UnknownTopicOrPartition, message).of_topic("t");
        assert!(named.to_string().starts_with("there is no topic"));
    }

    #[test]
    fn every_code_has_a_kind_and_none_but_time_outs_and_known_ones_hide_a_retry() {
        for code in ErrorCode::ALL {
            let kind = kind_of(*code);
            if kind == ErrorKind::Retriable {
                assert!(code.is_retriable(), "{code}");
            }
        }
    }
}
