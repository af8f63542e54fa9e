//! `ListOffsets` (2), versions 1 to 10: offsets by time, and the ends (KIP-79, KIP-734).
//!
//! -1 is the end that the isolation level shows, -2 and -4 the beginning (nothing is tiered), -3 the record with the
//! largest timestamp, -5 the last tiered record, which there never is.

use std::sync::Arc;

use kafka_wire::list_offsets_request::ListOffsetsPartition;
use kafka_wire::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_wire::{ListOffsetsRequest, ListOffsetsResponse};
use logweir_proto::{ErrorCode, LeaderEpoch, PartitionId, Timestamp};

use crate::kafka::call::Call;
use crate::kafka::message::message;
use crate::service::{Isolation, OffsetQuery};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

pub(super) async fn handle(call: Arc<Call>, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let isolation = isolation(request.isolation_level);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            partitions.push(look_up(&call, &topic.name, wanted, isolation).await);
        }
        topics.push(message!(ListOffsetsTopicResponse {
            name: topic.name,
            partitions: partitions,
        }));
    }
    message!(ListOffsetsResponse { topics: topics })
}

pub(super) fn isolation(level: i8) -> Isolation {
    match level {
        1 => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    }
}

async fn look_up(
    call: &Call,
    topic: &str,
    wanted: &ListOffsetsPartition,
    isolation: Isolation,
) -> ListOffsetsPartitionResponse {
    let mut found = message!(ListOffsetsPartitionResponse {
        partition_index: wanted.partition_index,
        timestamp: -1,
        offset: -1,
        leader_epoch: -1,
    });
    let query = match wanted.timestamp {
        LATEST => OffsetQuery::Latest(isolation),
        EARLIEST | EARLIEST_LOCAL => OffsetQuery::Earliest,
        MAX_TIMESTAMP => OffsetQuery::MaxTimestamp,
        LATEST_TIERED => return found,
        time if time >= 0 => OffsetQuery::At(Timestamp::new(time)),
        _ => {
            found.error_code = ErrorCode::InvalidRequest.code();
            return found;
        }
    };
    let epoch =
        (wanted.current_leader_epoch >= 0).then(|| LeaderEpoch::new(wanted.current_leader_epoch));
    let partition = PartitionId::new(wanted.partition_index);
    match call
        .service
        .list_offset(&call.ctx, topic, partition, epoch, query)
        .await
    {
        Ok(listed) => {
            found.timestamp = listed.timestamp.get();
            found.offset = listed.offset.get();
            if call.version >= 4 {
                found.leader_epoch = listed.leader_epoch.get();
            }
        }
        Err(error) => found.error_code = error.code.code(),
    }
    found
}
