//! `Fetch` (1), versions 4 to 17: records, waited for without polling (KIP-74, KIP-320, KIP-516, KIP-595).
//!
//! From version 13 on topics are named by id. The answer is written by hand and the records are spliced in where they
//! lie, not copied. There are no fetch sessions yet (KIP-227): every answer has session 0, and clients then say each
//! time what they want.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::FetchRequest as Request;
use kafka_wire::fetch_request::FetchTopic;
use kafka_wire_core::{Encoder, Uuid};
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, PartitionId, TopicId};

use super::list_offsets::isolation;
use crate::error::ApiError;
use crate::kafka::call::{Answer, Broken, Call, Response, finish};
use crate::kafka::message::topic_id;
use crate::kafka::wire::{put_array_len, put_no_tags, put_string};
use crate::service::{FetchPartition, FetchRequest, FetchedPartition, Isolation};

/// The first version that names topics by id.
const FIRST_WITH_IDS: i16 = 13;
/// The first version that tells where logs part ways.
const FIRST_WITH_DIVERGING: i16 = 12;
/// The most bytes of records in one answer (Kafka's `fetch.max.bytes`).
const MAX_BYTES: usize = 55 << 20;
/// The longest that an answer may wait.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Fewer bytes are copied rather than made a piece of their own.
const SMALLEST_PIECE: usize = 1 << 10;

/// A topic as it was asked for, with the numbers of its partitions.
struct Topic {
    name: Arc<str>,
    id: Uuid,
    partitions: Vec<i32>,
    /// There is no topic of this id.
    is_unknown: bool,
}

pub(super) async fn handle(mut call: Call) -> Result<Answer, Broken> {
    let request: Request = call.decode()?;
    // While it waits it need not hold what the request came in.
    let size = std::mem::take(&mut call.body).len();
    let is_committed = isolation(request.isolation_level) == Isolation::ReadCommitted;
    let (topics, wanted) = wanted(&call, &request);
    drop(request.topics);
    let _kept = call.is_parked(size);
    let fetch = FetchRequest {
        max_wait: Some(
            Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT),
        ),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        max_bytes: usize::try_from(request.max_bytes)
            .unwrap_or(0)
            .min(MAX_BYTES),
        isolation: isolation(request.isolation_level),
        partitions: wanted,
    };
    let fetched =
        fetch_until_stopped(&call, fetch, topics.iter().any(|topic| topic.is_unknown)).await;
    let response = encode(&call, &topics, fetched, is_committed)?;
    Ok(Answer::Ready(response))
}

/// What is fetched; no longer waited for once the broker stops, or where a part has failed already.
async fn fetch_until_stopped(
    call: &Call,
    mut fetch: FetchRequest,
    has_failed: bool,
) -> Vec<FetchedPartition> {
    if !has_failed {
        tokio::select! {
            fetched = call.service.fetch(&call.ctx, &fetch) => return fetched,
            () = call.service.stop.cancelled() => {}
        }
    }
    fetch.max_wait = Some(Duration::ZERO);
    call.service.fetch(&call.ctx, &fetch).await
}

fn wanted(call: &Call, request: &Request) -> (Vec<Topic>, Vec<FetchPartition>) {
    let image = call.service.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let id = topic_id(topic.topic_id).filter(|_| call.version >= FIRST_WITH_IDS);
        let name = match id {
            Some(id) => image.topic_by_id(&id).map(|topic| Arc::clone(&topic.name)),
            None if call.version >= FIRST_WITH_IDS => None,
            None => Some(Arc::from(topic.topic.as_str())),
        };
        topics.push(Topic {
            is_unknown: name.is_none(),
            name: name.clone().unwrap_or_default(),
            id: topic.topic_id,
            partitions: topic
                .partitions
                .iter()
                .map(|partition| partition.partition)
                .collect(),
        });
        if let Some(name) = name {
            wanted.extend(partitions(&name, id, topic));
        }
    }
    (topics, wanted)
}

fn partitions(
    name: &Arc<str>,
    id: Option<TopicId>,
    topic: &FetchTopic,
) -> impl Iterator<Item = FetchPartition> {
    let epoch = |epoch: i32| (epoch >= 0).then(|| LeaderEpoch::new(epoch));
    topic
        .partitions
        .iter()
        .map(move |partition| FetchPartition {
            topic: Arc::clone(name),
            topic_id: id,
            partition: PartitionId::new(partition.partition),
            fetch_offset: Offset::new(partition.fetch_offset),
            max_bytes: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
            current_leader_epoch: epoch(partition.current_leader_epoch),
            last_fetched_epoch: epoch(partition.last_fetched_epoch),
        })
}

/// An answer that grows: what was written, and pieces before it that are done.
struct Pieces {
    done: Vec<Bytes>,
    done_bytes: usize,
    frame: BytesMut,
}

impl Pieces {
    fn splice(&mut self, records: Bytes) {
        if records.len() < SMALLEST_PIECE {
            self.frame.put_slice(&records);
            return;
        }
        let before = self.frame.split().freeze();
        self.done_bytes += before.len() + records.len();
        self.done.extend([before, records]);
    }
}

fn encode(
    call: &Call,
    topics: &[Topic],
    fetched: Vec<FetchedPartition>,
    is_committed: bool,
) -> Result<Response, Broken> {
    let flexible = call.served.is_flexible(call.version);
    let mut pieces = Pieces {
        done: Vec::new(),
        done_bytes: 0,
        frame: call.begin(),
    };
    // Nobody is throttled.
    pieces.frame.put_i32(0);
    if call.version >= 7 {
        pieces.frame.put_i16(ErrorCode::None.code());
        // No session.
        pieces.frame.put_i32(0);
    }
    put_array_len(&mut pieces.frame, topics.len(), flexible)?;
    let mut fetched = fetched.into_iter();
    for topic in topics {
        match call.version {
            FIRST_WITH_IDS.. => Encoder::new(&mut pieces.frame).write_uuid(topic.id)?,
            _ => put_string(&mut pieces.frame, &topic.name, flexible)?,
        }
        put_array_len(&mut pieces.frame, topic.partitions.len(), flexible)?;
        for index in &topic.partitions {
            let partition = match topic.is_unknown {
                true => None,
                false => fetched.next(),
            };
            put_partition(&mut pieces, call, *index, partition, is_committed)?;
        }
        put_no_tags(&mut pieces.frame, flexible);
    }
    put_no_tags(&mut pieces.frame, flexible);
    Ok(framed(pieces))
}

/// Writes the length before the first piece.
fn framed(pieces: Pieces) -> Response {
    let Pieces {
        mut done,
        done_bytes,
        frame,
    } = pieces;
    if done.is_empty() {
        return vec![finish(frame, 0)];
    }
    let last = frame.freeze();
    // A header and a topic's name: short enough to be copied for its length.
    let more = done_bytes - done[0].len() + last.len();
    done[0] = finish(BytesMut::from(&done[0][..]), more);
    done.push(last);
    done
}

fn put_partition(
    pieces: &mut Pieces,
    call: &Call,
    index: i32,
    partition: Option<FetchedPartition>,
    is_committed: bool,
) -> Result<(), Broken> {
    let (version, flexible) = (call.version, call.served.is_flexible(call.version));
    let (outcome, diverging) = match partition {
        Some(partition) => (partition.outcome, partition.diverging),
        None => (Err(unknown_id()), None),
    };
    let frame = &mut pieces.frame;
    frame.put_i32(index);
    let (code, offsets, records) = match outcome {
        Ok(fetched) => {
            let offsets = [
                fetched.high_watermark,
                fetched.last_stable_offset,
                fetched.log_start_offset,
            ];
            (ErrorCode::None, offsets.map(Offset::get), fetched.records)
        }
        // It is told where to go on instead, in versions that can tell.
        Err(_) if diverging.is_some() && version >= FIRST_WITH_DIVERGING => {
            (ErrorCode::None, [-1; 3], Bytes::new())
        }
        Err(error) => (error.code, [-1; 3], Bytes::new()),
    };
    frame.put_i16(code.code());
    let [high_watermark, last_stable, log_start] = offsets;
    frame.put_i64(high_watermark);
    frame.put_i64(last_stable);
    if version >= 5 {
        frame.put_i64(log_start);
    }
    put_no_aborted(frame, is_committed, flexible)?;
    if version >= 11 {
        // The leader is to be read from.
        frame.put_i32(-1);
    }
    let length = records.len();
    let mut encoder = Encoder::new(frame);
    match flexible {
        // One more, so that 0 is null.
        true => encoder.write_unsigned_varint(u32::try_from(length + 1).unwrap_or(u32::MAX))?,
        false => encoder.write_i32(i32::try_from(length).unwrap_or(i32::MAX))?,
    }
    pieces.splice(records);
    match diverging {
        Some(diverging) if version >= FIRST_WITH_DIVERGING => {
            let frame = &mut pieces.frame;
            // One tagged field, 0, of 13 bytes: epoch, end offset, no tagged fields.
            frame.put_slice(&[1, 0, 13]);
            frame.put_i32(diverging.leader_epoch.get());
            frame.put_i64(diverging.end_offset.get());
            frame.put_u8(0);
        }
        _ => put_no_tags(&mut pieces.frame, flexible),
    }
    Ok(())
}

/// No transaction was aborted; null to who did not ask for committed records.
fn put_no_aborted(frame: &mut BytesMut, is_committed: bool, flexible: bool) -> Result<(), Broken> {
    match is_committed {
        true => put_array_len(frame, 0, flexible)?,
        false if flexible => frame.put_u8(0),
        false => frame.put_i32(-1),
    }
    Ok(())
}

fn unknown_id() -> ApiError {
    ApiError::new(ErrorCode::UnknownTopicId, "there is no topic of this id")
}
