//! Errors on the wire: in the body where they concern one partition, as a typed status for a whole call.

use bytes::Bytes;
use logweir_proto::ErrorCode;
use logweir_proto::grpc::v1;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::pb::Status as DetailedStatus;

use crate::error::ApiError;

impl From<&ApiError> for v1::Error {
    fn from(error: &ApiError) -> Self {
        Self {
            code: i32::from(error.code.code()),
            name: error.code.name().to_owned(),
            message: error.message.clone(),
            retriable: error.code.is_retriable(),
            action: error.action.to_owned(),
        }
    }
}

/// The longest topic name, as in Kafka.
const MAX_NAME_BYTES: usize = 249;

/// A status for a whole call, with a `logweir.v1.Error` in its details.
pub(super) fn status(error: &ApiError) -> Status {
    let code = match error.code {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => Code::NotFound,
        ErrorCode::TopicAlreadyExists => Code::AlreadyExists,
        ErrorCode::RequestTimedOut => Code::DeadlineExceeded,
        ErrorCode::ClusterAuthorizationFailed | ErrorCode::TopicAuthorizationFailed => {
            Code::PermissionDenied
        }
        ErrorCode::OffsetOutOfRange => Code::OutOfRange,
        ErrorCode::UnsupportedVersion | ErrorCode::UnsupportedForMessageFormat => {
            Code::Unimplemented
        }
        ErrorCode::UnknownServerError => Code::Internal,
        ErrorCode::ThrottlingQuotaExceeded => Code::ResourceExhausted,
        code if code.is_retriable() => Code::Unavailable,
        _ => Code::InvalidArgument,
    };
    let detail = prost_types_any(&v1::Error::from(error));
    let details = DetailedStatus {
        code: code as i32,
        message: error.to_string(),
        details: vec![detail],
    };
    Status::with_details(
        code,
        error.to_string(),
        Bytes::from(details.encode_to_vec()),
    )
}

fn prost_types_any(error: &v1::Error) -> prost_types::Any {
    prost_types::Any {
        type_url: "type.googleapis.com/logweir.v1.Error".to_owned(),
        value: error.encode_to_vec(),
    }
}

/// A request that makes no sense as a whole.
pub(super) fn invalid(message: impl Into<String>) -> Status {
    status(&ApiError::new(ErrorCode::InvalidRequest, message))
}

/// Refuses lists longer than the contract says.
pub(super) fn at_most(what: &str, count: usize, limit: usize) -> Result<(), Status> {
    if count <= limit {
        return Ok(());
    }
    Err(invalid(format!(
        "{count} {what} at once, at most {limit} are taken; name fewer at a time"
    )))
}

/// Refuses names that no topic can have because of their length, before they are copied anywhere.
pub(super) fn check_name(topic: &str) -> Result<(), Status> {
    if topic.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let message = format!(
        "a topic name of {} bytes; at most {MAX_NAME_BYTES} are allowed",
        topic.len()
    );
    Err(invalid(message))
}

/// The outcome's error as the contract tells it.
pub(super) fn error_of<T>(outcome: &Result<T, ApiError>) -> Option<v1::Error> {
    outcome.as_ref().err().map(v1::Error::from)
}

/// Ends a call that would otherwise go on.
pub(super) fn shutting_down() -> Status {
    Status::unavailable("the broker is shutting down; connect again")
}
