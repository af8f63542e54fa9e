//! Old forms that the codec lacks: OffsetCommit 1 and CreateTopics 1, which Kafka 4 dropped and clients that are told to
//! speak to brokers of 0.11 still send.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::{CreateTopicsResponse, OffsetCommitRequest};
use kafka_wire_core::{DecodeError, Decoder, EncodeError};

use super::message::{limits, message};
use super::wire::{array_len, put_array_len, put_nullable_string, put_string};

/// OffsetCommit 1: as 2 without a retention time, and with a commit time for each partition, which the broker replaces by
/// its own.
///
/// # Errors
/// If it cannot be read.
pub(super) fn offset_commit_v1(body: &Bytes) -> Result<OffsetCommitRequest, DecodeError> {
    let mut decoder = Decoder::new(body.clone(), limits(body.len()))?;
    let group_id = decoder.read_string()?;
    let generation = decoder.read_i32()?;
    let member_id = decoder.read_string()?;
    let count = array_len(&mut decoder, false)?;
    let mut topics = Vec::new();
    for _ in 0..count {
        let name = decoder.read_string()?;
        let count = decoder.read_array_len()?;
        let partitions = decoder.read_vec(count, |decoder| {
            let (index, offset) = (decoder.read_i32()?, decoder.read_i64()?);
            let _committed_at = decoder.read_i64()?;
            Ok(message!(OffsetCommitRequestPartition {
                partition_index: index,
                committed_offset: offset,
                committed_leader_epoch: -1,
                committed_metadata: decoder.read_nullable_string()?,
            }))
        })?;
        topics.push(message!(OffsetCommitRequestTopic {
            name: name,
            partitions: partitions,
        }));
    }
    Ok(message!(OffsetCommitRequest {
        group_id: group_id,
        generation_id_or_member_epoch: generation,
        member_id: member_id,
        retention_time_ms: -1,
        topics: topics,
    }))
}

/// CreateTopics 1: as 2 without the throttle time.
pub(super) fn put_create_topics_v1(
    frame: &mut BytesMut,
    response: &CreateTopicsResponse,
) -> Result<(), EncodeError> {
    put_array_len(frame, response.topics.len(), false)?;
    for topic in &response.topics {
        put_string(frame, &topic.name, false)?;
        frame.put_i16(topic.error_code);
        put_nullable_string(frame, topic.error_message.as_deref(), false)?;
    }
    Ok(())
}
