//! `Produce` (0), versions 3 to 11: record batches, one for each partition (KIP-98, KIP-467, KIP-951).
//!
//! Read and written by hand: it is the hot path, and the records are slices of the frame. Versions 0 to 2, which carry
//! the message formats before record batches, are refused with `UNSUPPORTED_VERSION`; they are listed because older
//! librdkafka looks there. With acks=0 there is no answer; if something fails, the connection is closed, as Kafka does,
//! so that the client looks again who leads.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire_core::{Decoder, StrBytes};
use logweir_proto::{ErrorCode, PartitionId};

use crate::error::ApiError;
use crate::kafka::call::{Answer, Broken, Call, Response, finish};
use crate::kafka::message::limits;
use crate::kafka::wire::{
    array_len, put_array_len, put_no_tags, put_nullable_string, put_string, skip_tags,
};
use crate::service::{Acks, Append, AppendResult, PendingProduce, ProduceRequest};

/// The first version that carries record batches.
const FIRST_SERVED: i16 = 3;
const FIRST_FLEXIBLE: i16 = 9;
/// Partitions of one request.
const MAX_PARTITIONS: usize = 100_000;

/// A request, as it was read.
#[derive(Debug)]
pub(in crate::kafka) struct Parsed {
    pub(in crate::kafka) transactional_id: Option<String>,
    pub(in crate::kafka) acks: i16,
    pub(in crate::kafka) timeout_ms: i32,
    pub(in crate::kafka) appends: Vec<Append>,
}

pub(super) async fn handle(call: Call) -> Result<Answer, Broken> {
    let parsed = parse(&call.body, call.version)?;
    if call.version < FIRST_SERVED {
        let version = call.version;
        let error = ApiError::new(
            ErrorCode::UnsupportedVersion,
            format!("Produce {version} carries message formats from before Kafka 0.11"),
        );
        call.log_refused(&error);
        return refuse(&call, parsed, &error);
    }
    let acks = match parsed.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        -1 => Acks::All,
        other => {
            let error = ApiError::new(
                ErrorCode::InvalidRequiredAcks,
                format!("acks is {other}, not 0, 1 or -1 (all)"),
            );
            return refuse(&call, parsed, &error);
        }
    };
    let request = ProduceRequest {
        acks,
        timeout: Duration::from_millis(u64::try_from(parsed.timeout_ms).unwrap_or(0)),
        transactional_id: parsed.transactional_id,
        appends: parsed.appends,
    };
    let pending = call.service.produce(&call.ctx, request).await;
    if acks == Acks::None {
        return unanswered(&call, pending).await;
    }
    Ok(Answer::Later(Box::pin(async move {
        let results = pending.wait().await;
        encode(&call, &results)
    })))
}

fn refuse(call: &Call, parsed: Parsed, error: &ApiError) -> Result<Answer, Broken> {
    let results = parsed.appends.into_iter().map(|append| AppendResult {
        topic: append.topic,
        partition: append.partition,
        outcome: Err(error.clone()),
    });
    let results: Vec<_> = results.collect();
    if parsed.acks == 0 {
        return Err(Broken::Other(error.to_string()));
    }
    Ok(Answer::Ready(encode(call, &results)?))
}

async fn unanswered(call: &Call, pending: PendingProduce) -> Result<Answer, Broken> {
    let results = pending.wait().await;
    let failed = results.into_iter().find_map(|result| {
        result
            .outcome
            .err()
            .map(|error| (result.topic, result.partition, error))
    });
    match failed {
        None => Ok(Answer::Nothing),
        Some((topic, partition, error)) => {
            let host = &call.peer.host;
            Err(Broken::Other(format!(
                "records of {host} for {topic}-{partition}, sent with acks=0, were not stored: {error}"
            )))
        }
    }
}

/// Reads a request of any version that is listed.
///
/// # Errors
/// If it cannot be read, or names too many partitions.
pub(in crate::kafka) fn parse(body: &Bytes, version: i16) -> Result<Parsed, Broken> {
    let flexible = version >= FIRST_FLEXIBLE;
    let mut decoder = Decoder::new(body.clone(), limits(body.len()))?;
    let transactional_id = match version {
        ..FIRST_SERVED => None,
        _ if flexible => decoder.read_compact_nullable_string()?,
        _ => decoder.read_nullable_string()?,
    };
    let (acks, timeout_ms) = (decoder.read_i16()?, decoder.read_i32()?);
    let mut appends = Vec::new();
    for _ in 0..array_len(&mut decoder, flexible)? {
        let name = match flexible {
            true => decoder.read_compact_string()?,
            false => decoder.read_string()?,
        };
        let topic: Arc<str> = Arc::from(name.as_str());
        let partitions = array_len(&mut decoder, flexible)?;
        if appends.len() + partitions > MAX_PARTITIONS {
            return Err(Broken::Other(format!(
                "a Produce request names more than {MAX_PARTITIONS} partitions"
            )));
        }
        for _ in 0..partitions {
            let partition = PartitionId::new(decoder.read_i32()?);
            let batch = match flexible {
                true => decoder.read_compact_nullable_bytes()?,
                false => decoder.read_nullable_bytes()?,
            };
            skip_tags(&mut decoder, flexible)?;
            appends.push(Append {
                topic: Arc::clone(&topic),
                topic_id: None,
                partition,
                batch: batch.unwrap_or_default(),
            });
        }
        skip_tags(&mut decoder, flexible)?;
    }
    skip_tags(&mut decoder, flexible)?;
    Ok(Parsed {
        transactional_id: transactional_id.map(StrBytes::into_string),
        acks,
        timeout_ms,
        appends,
    })
}

/// Results come in the order of the request, so that those of one topic follow each other.
fn encode(call: &Call, results: &[AppendResult]) -> Result<Response, Broken> {
    let flexible = call.served.is_flexible(call.version);
    let mut frame = call.begin();
    let topics = results.chunk_by(|a, b| Arc::ptr_eq(&a.topic, &b.topic));
    put_array_len(&mut frame, topics.clone().count(), flexible)?;
    for topic in topics {
        put_string(&mut frame, &topic[0].topic, flexible)?;
        put_array_len(&mut frame, topic.len(), flexible)?;
        for result in topic {
            put_result(&mut frame, call.version, result, flexible)?;
        }
        put_no_tags(&mut frame, flexible);
    }
    if call.version >= 1 {
        // Nobody is throttled.
        frame.put_i32(0);
    }
    put_no_tags(&mut frame, flexible);
    Ok(vec![finish(frame, 0)])
}

fn put_result(
    frame: &mut BytesMut,
    version: i16,
    result: &AppendResult,
    flexible: bool,
) -> Result<(), Broken> {
    frame.put_i32(result.partition.get());
    let (code, base_offset, log_append_time, log_start_offset, message) = match &result.outcome {
        Ok(stored) => (
            ErrorCode::None,
            stored.base_offset.get(),
            stored.log_append_time.get(),
            stored.log_start_offset.get(),
            None,
        ),
        Err(error) => (error.code, -1, -1, -1, Some(error.to_string())),
    };
    frame.put_i16(code.code());
    frame.put_i64(base_offset);
    if version >= 2 {
        frame.put_i64(log_append_time);
    }
    if version >= 5 {
        frame.put_i64(log_start_offset);
    }
    if version >= 8 {
        // Which records of the batch were at fault is not told one by one.
        put_array_len(frame, 0, flexible)?;
        put_nullable_string(frame, message.as_deref(), flexible)?;
    }
    put_no_tags(frame, flexible);
    Ok(())
}
