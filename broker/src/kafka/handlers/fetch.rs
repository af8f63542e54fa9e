//! `Fetch` (1), versions 4 to 17: records, waited for without polling (KIP-74, KIP-320, KIP-516, KIP-595).
//!
//! From version 13 on topics are named by id. The answer is written by hand and the records are spliced in where they
//! lie, not copied. What a client said before is remembered in fetch sessions (KIP-227, `sessions.rs`).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::FetchRequest as Request;
use kafka_wire_core::Encoder;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, PartitionId};

use super::list_offsets::isolation;
use super::shared;
use crate::error::ApiError;
use crate::kafka::call::{Answer, Broken, Call, Response, finish};
use crate::kafka::message::topic_id;
use crate::kafka::sessions::{Plan, TopicKey, Wanted};
use crate::kafka::wire::{put_array_len, put_no_tags, put_string};
use crate::service::{FetchPartition, FetchRequest, FetchedPartition, Isolation};

/// The first version with sessions.
const FIRST_WITH_SESSIONS: i16 = 7;
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

pub(super) async fn handle(mut call: Call) -> Result<Answer, Broken> {
    let request: Request = call.decode()?;
    // While it waits it need not hold what the request came in.
    let size = std::mem::take(&mut call.body).len();
    let with_ids = call.version >= FIRST_WITH_IDS;
    let plan = match call.version {
        FIRST_WITH_SESSIONS.. => call.peer.sessions.plan(&request, with_ids),
        _ => Plan::without_session(&request),
    };
    let isolation = isolation(request.isolation_level);
    let mut fetch = FetchRequest {
        max_wait: Some(shared(request.max_wait_ms).min(MAX_WAIT)),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        max_bytes: usize::try_from(request.max_bytes)
            .unwrap_or(0)
            .min(MAX_BYTES),
        isolation,
        partitions: Vec::new(),
    };
    drop(request);
    let _kept = call.is_parked(size);
    let names = names(&call, plan.wanted());
    let known = names.iter().zip(plan.wanted());
    fetch.partitions = known
        .filter_map(|(name, wanted)| Some(partition(name.as_ref()?, wanted)))
        .collect();
    let has_failed = names.iter().any(Option::is_none) || matches!(plan, Plan::Refused(_));
    let mut fetched = fetch_until_stopped(&call, fetch, has_failed)
        .await
        .into_iter();
    // In the order in which they are wanted; none for topics of unknown ids.
    let fetched: Vec<_> = names
        .iter()
        .map(|name| name.as_ref().and_then(|_| fetched.next()))
        .collect();
    let (session_id, told) = call.peer.sessions.conclude(&plan, &fetched);
    let entries = plan.wanted().iter().zip(fetched).zip(told);
    let entries = entries
        .filter(|(_, told)| *told)
        .map(|(entry, _)| entry)
        .collect();
    let answer = Answering {
        code: match plan {
            Plan::Refused(code) => code,
            _ => ErrorCode::None,
        },
        session_id,
        is_committed: isolation == Isolation::ReadCommitted,
        entries,
    };
    Ok(Answer::Ready(encode(&call, answer)?))
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

/// The names of topics; none for ids that nobody knows.
fn names(call: &Call, wanted: &[Wanted]) -> Vec<Option<Arc<str>>> {
    let image = call.service.image();
    let name = |wanted: &Wanted| match &wanted.topic {
        TopicKey::Name(name) => Some(Arc::clone(name)),
        TopicKey::Id(id) => {
            let topic = image.topic_by_id(&topic_id(*id)?)?;
            Some(Arc::clone(&topic.name))
        }
    };
    wanted.iter().map(name).collect()
}

fn partition(name: &Arc<str>, wanted: &Wanted) -> FetchPartition {
    let epoch = |epoch: i32| (epoch >= 0).then(|| LeaderEpoch::new(epoch));
    let asked = &wanted.asked;
    FetchPartition {
        topic: Arc::clone(name),
        topic_id: match &wanted.topic {
            TopicKey::Name(_) => None,
            TopicKey::Id(id) => topic_id(*id),
        },
        partition: PartitionId::new(asked.partition),
        fetch_offset: Offset::new(asked.fetch_offset),
        max_bytes: usize::try_from(asked.partition_max_bytes).unwrap_or(0),
        current_leader_epoch: epoch(asked.current_leader_epoch),
        last_fetched_epoch: epoch(asked.last_fetched_epoch),
    }
}

/// What an answer tells.
struct Answering<'a> {
    code: ErrorCode,
    session_id: i32,
    is_committed: bool,
    entries: Vec<(&'a Wanted, Option<FetchedPartition>)>,
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

fn encode(call: &Call, answer: Answering<'_>) -> Result<Response, Broken> {
    let flexible = call.served.is_flexible(call.version);
    let mut pieces = Pieces {
        done: Vec::new(),
        done_bytes: 0,
        frame: call.begin(),
    };
    // Nobody is throttled.
    pieces.frame.put_i32(0);
    if call.version >= FIRST_WITH_SESSIONS {
        pieces.frame.put_i16(answer.code.code());
        pieces.frame.put_i32(answer.session_id);
    }
    let is_same = |a: &(&Wanted, _), b: &(&Wanted, _)| a.0.topic == b.0.topic;
    let topics: Vec<usize> = answer.entries.chunk_by(is_same).map(<[_]>::len).collect();
    put_array_len(&mut pieces.frame, topics.len(), flexible)?;
    let mut entries = answer.entries.into_iter().peekable();
    for count in topics {
        match entries.peek().map(|(wanted, _)| &wanted.topic) {
            Some(TopicKey::Id(id)) => Encoder::new(&mut pieces.frame).write_uuid(*id)?,
            Some(TopicKey::Name(name)) => put_string(&mut pieces.frame, name, flexible)?,
            None => break,
        }
        put_array_len(&mut pieces.frame, count, flexible)?;
        for (wanted, fetched) in entries.by_ref().take(count) {
            let index = wanted.asked.partition;
            put_partition(&mut pieces, call, index, fetched, answer.is_committed)?;
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
