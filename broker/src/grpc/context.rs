//! Who calls, from the call's metadata.

use std::sync::Arc;
use std::time::{Duration, Instant};

use logweir_proto::TopicId;
use tonic::{Request, Status};

use crate::grpc::connection::ConnectionInfo;
use crate::grpc::status::invalid;
use crate::service::{ListenerKind, NameMapping, Principal, RequestContext};

/// Longer names are cut: they go into logs and metrics.
const MAX_NAME_BYTES: usize = 256;

/// The caller of a request, with its gRPC deadline if it sent one.
pub(super) fn context<T>(request: &Request<T>) -> RequestContext {
    let text = |key: &str| {
        let value = request
            .metadata()
            .get(key)
            .and_then(|value| value.to_str().ok());
        Arc::from(value.map_or("", |value| &value[..value.len().min(MAX_NAME_BYTES)]))
    };
    let connection = request.extensions().get::<ConnectionInfo>();
    RequestContext {
        principal: Principal::anonymous(),
        listener: ListenerKind::Grpc,
        client_id: text("logweir-client-id"),
        client_host: client_host(connection),
        client_software: text("user-agent"),
        deadline: deadline(request),
        names: NameMapping,
        connection: connection.map(|connection| connection.cut.clone()),
    }
}

fn client_host(connection: Option<&ConnectionInfo>) -> Arc<str> {
    let peer = connection.and_then(|connection| connection.peer);
    peer.map_or("in-process".into(), |peer| peer.ip().to_string().into())
}

/// The `grpc-timeout` header: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    let timeout = match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}

/// A topic id of the contract: absent, or sixteen bytes.
pub(super) fn topic_id(bytes: Option<&[u8]>) -> Result<Option<TopicId>, Status> {
    let Some(bytes) = bytes else { return Ok(None) };
    match TopicId::from_slice(bytes) {
        Some(id) => Ok(Some(id)),
        None => Err(invalid(format!(
            "a topic id has 16 bytes, not {}",
            bytes.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(text: &str) -> Option<Duration> {
        let mut request = Request::new(());
        request
            .metadata_mut()
            .insert("grpc-timeout", text.parse().expect("ascii"));
        deadline(&request).map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    #[test]
    fn a_deadline_is_read_in_every_unit_and_refused_otherwise() {
        for (text, seconds) in [
            ("2H", 7_200),
            ("3M", 180),
            ("5S", 5),
            ("7000m", 7),
            ("9000000u", 9),
        ] {
            let left = timeout(text).expect(text);
            assert!(
                left <= Duration::from_secs(seconds) && left > Duration::from_secs(seconds - 1)
            );
        }
        for text in ["", "S", "5", "5s", "-5S", "123456789S", "5 S"] {
            assert_eq!(timeout(text), None, "{text:?}");
        }
    }
}
