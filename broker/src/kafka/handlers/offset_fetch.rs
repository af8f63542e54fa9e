//! `OffsetFetch` (9), versions 1 to 9: what groups have committed (KIP-709, KIP-848).
//!
//! A null list of topics is all of them. What was not committed has offset -1 and no error. From version 8 on many groups
//! are asked for at once.

use std::sync::Arc;

use kafka_wire::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_wire::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_wire::{OffsetFetchRequest, OffsetFetchResponse};
use kafka_wire_core::StrBytes;
use logweir_proto::PartitionId;

use crate::error::ApiError;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};
use crate::service::groups::request::FetchGroup;
use crate::service::groups::{Epoch, FetchedOffset};

/// The first version that asks for many groups.
const FIRST_WITH_MANY: i16 = 8;
/// The first version whose members say who they are.
const FIRST_WITH_EPOCHS: i16 = 9;

pub(super) async fn handle(call: Arc<Call>, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if call.version < FIRST_WITH_MANY {
        return one(&call, request).await;
    }
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in request.groups {
        groups.push(of_many(&call, group, request.require_stable).await);
    }
    message!(OffsetFetchResponse { groups: groups })
}

type Wanted = Option<Vec<(Arc<str>, PartitionId)>>;

fn wanted<'a>(
    topics: impl Iterator<Item = (&'a StrBytes, &'a Vec<i32>)>,
) -> Vec<(Arc<str>, PartitionId)> {
    let mut wanted = Vec::new();
    for (name, partitions) in topics {
        let name: Arc<str> = Arc::from(&**name);
        wanted.extend(
            partitions
                .iter()
                .map(|p| (Arc::clone(&name), PartitionId::new(*p))),
        );
    }
    wanted
}

async fn fetch(
    call: &Call,
    group_id: &str,
    member: (&str, i32),
    partitions: Wanted,
    require_stable: bool,
) -> Result<Vec<FetchedOffset>, ApiError> {
    let fetch = FetchGroup {
        group_id: call.name(group_id),
        member_id: Arc::from(member.0),
        member_epoch: Epoch::new(member.1),
        partitions,
        require_stable,
    };
    call.service.fetch_offsets(&call.ctx, fetch).await
}

async fn one(call: &Call, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let topics = request.topics.as_ref();
    let partitions = topics.map(|topics| {
        wanted(
            topics
                .iter()
                .map(|topic| (&topic.name, &topic.partition_indexes)),
        )
    });
    match fetch(
        call,
        &request.group_id,
        ("", -1),
        partitions,
        request.require_stable,
    )
    .await
    {
        Ok(offsets) => message!(OffsetFetchResponse {
            topics: offsets
                .chunk_by(|a, b| a.topic == b.topic)
                .map(topic)
                .collect(),
        }),
        // Version 1 has no place for it but with each partition.
        Err(error) if call.version < 2 => message!(OffsetFetchResponse {
            topics: request
                .topics
                .unwrap_or_default()
                .into_iter()
                .map(|topic| failed(topic, &error))
                .collect(),
        }),
        Err(error) => message!(OffsetFetchResponse {
            error_code: error.code.code(),
        }),
    }
}

fn failed(
    topic: kafka_wire::offset_fetch_request::OffsetFetchRequestTopic,
    error: &ApiError,
) -> OffsetFetchResponseTopic {
    let partitions = topic.partition_indexes.iter().map(|index| {
        message!(OffsetFetchResponsePartition {
            partition_index: *index,
            committed_offset: -1,
            committed_leader_epoch: -1,
            metadata: Some(text("")),
            error_code: error.code.code(),
        })
    });
    message!(OffsetFetchResponseTopic {
        partitions: partitions.collect(),
        name: topic.name,
    })
}

fn topic(offsets: &[FetchedOffset]) -> OffsetFetchResponseTopic {
    let partitions = offsets.iter().map(|fetched| {
        let (offset, epoch, metadata) = shown(fetched);
        message!(OffsetFetchResponsePartition {
            partition_index: fetched.partition.get(),
            committed_offset: offset,
            committed_leader_epoch: epoch,
            metadata: Some(metadata),
        })
    });
    message!(OffsetFetchResponseTopic {
        name: text(&offsets[0].topic),
        partitions: partitions.collect(),
    })
}

fn shown(fetched: &FetchedOffset) -> (i64, i32, StrBytes) {
    match &fetched.committed {
        Some(committed) => (
            committed.offset.get(),
            committed.leader_epoch.get(),
            text(&committed.metadata),
        ),
        None => (-1, -1, text("")),
    }
}

async fn of_many(
    call: &Call,
    group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let topics = group.topics.as_ref();
    let partitions = topics.map(|topics| {
        wanted(
            topics
                .iter()
                .map(|topic| (&topic.name, &topic.partition_indexes)),
        )
    });
    let member = match call.version {
        FIRST_WITH_EPOCHS.. => (
            group.member_id.as_deref().unwrap_or_default(),
            group.member_epoch,
        ),
        _ => ("", -1),
    };
    match fetch(call, &group.group_id, member, partitions, require_stable).await {
        Ok(offsets) => message!(OffsetFetchResponseGroup {
            group_id: group.group_id,
            topics: offsets
                .chunk_by(|a, b| a.topic == b.topic)
                .map(topic_of_many)
                .collect(),
        }),
        Err(error) => message!(OffsetFetchResponseGroup {
            group_id: group.group_id,
            error_code: error.code.code(),
        }),
    }
}

fn topic_of_many(offsets: &[FetchedOffset]) -> OffsetFetchResponseTopics {
    let partitions = offsets.iter().map(|fetched| {
        let (offset, epoch, metadata) = shown(fetched);
        message!(OffsetFetchResponsePartitions {
            partition_index: fetched.partition.get(),
            committed_offset: offset,
            committed_leader_epoch: epoch,
            metadata: Some(metadata),
        })
    });
    message!(OffsetFetchResponseTopics {
        name: text(&offsets[0].topic),
        partitions: partitions.collect(),
    })
}
