//! The steps between "this is to be read" and reading it: telling the listener, committing, looking up where to begin.

use std::sync::Arc;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, TopicId};
use tokio::time::Instant;

use super::handle::ConsumerHandle;
use super::listener::{Listener, RebalanceFuture, RebalanceListener};
use super::member::{Shared, Target};
use super::partitions::Position;
use crate::admin::{only, same_number};
use crate::client::Client;
use crate::clock::wait_until;
use crate::error::{Error, ErrorKind, Result};
use crate::topic_partition::TopicPartition;

/// Partitions of one request for committed offsets.
const PARTITIONS_PER_REQUEST: usize = 10_000;

/// A partition to be read, and what the group has committed for it.
pub(super) struct Start {
    pub(super) place: TopicPartition,
    pub(super) topic_id: TopicId,
    pub(super) committed: Option<Position>,
}

/// A method of a listener.
type ListenerCall = for<'a> fn(
    &'a mut dyn RebalanceListener,
    &'a ConsumerHandle,
    &'a [TopicPartition],
) -> RebalanceFuture<'a>;

/// Tells the listener that partitions go, then waits until what is marked of them is committed.
pub(super) async fn let_go(
    handle: ConsumerHandle,
    mut listener: Listener,
    places: Vec<TopicPartition>,
) -> (Listener, Result<()>) {
    let until = Instant::now() + handle.shared.config.max_poll_interval;
    if let Some(listener) = &mut listener {
        listener.revoked(&handle, &places).await;
    }
    let committed = handle.shared.commit_before_letting_go(&places, until);
    let committed = committed.await;
    if let Err(error) = &committed {
        tracing::warn!(group = %handle.group_id(), %error, "partitions are let go of with records that may be read again");
    }
    (listener, committed)
}

/// Calls the listener, if there is one, about partitions that have come or are lost.
pub(super) async fn tell(
    handle: ConsumerHandle,
    mut listener: Listener,
    places: Vec<TopicPartition>,
    what: ListenerCall,
) -> Listener {
    if let Some(listener) = &mut listener {
        what(listener.as_mut(), &handle, &places).await;
    }
    listener
}

/// Looks up what the group has committed, trying again for `retry_timeout`.
pub(super) async fn find(
    shared: Arc<Shared>,
    client: Client,
    wanted: Target,
) -> Result<Vec<Start>> {
    let until = Instant::now() + shared.config.reader.retry_timeout;
    let mut backoff = client.backoff();
    let wanted: Vec<_> = wanted.into_iter().collect();
    let mut starts = Vec::with_capacity(wanted.len());
    let mut chunks = wanted.chunks(PARTITIONS_PER_REQUEST);
    let mut chunk = chunks.next();
    while let Some(places) = chunk {
        match committed(&shared, &client, places).await {
            Ok(found) => {
                starts.extend(found);
                chunk = chunks.next();
                backoff.reset();
            }
            Err(error) if may_pass(&error) && Instant::now() < until => {
                tracing::debug!(group = %shared.config.group_id, %error, "committed offsets are not to be had now");
                wait_until(Some(Instant::now() + backoff.next())).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(starts)
}

fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Retriable | ErrorKind::TimedOut)
}

async fn committed(
    shared: &Shared,
    client: &Client,
    places: &[(TopicPartition, TopicId)],
) -> Result<Vec<Start>> {
    let topics = places.chunk_by(|(a, _), (b, _)| a.topic == b.topic);
    let topics = topics.map(|places| v1::NamedPartitions {
        topic: places[0].0.topic.to_string(),
        partitions: places
            .iter()
            .map(|(place, _)| place.partition.get())
            .collect(),
    });
    let request = v1::FetchOffsetsRequest {
        groups: vec![v1::FetchOffsetsGroup {
            group_id: shared.config.group_id.clone(),
            topics: topics.collect(),
            member_id: String::new(),
            member_epoch: -1,
        }],
    };
    let mut service = client.group_service();
    let call = service.fetch_offsets(request);
    let what = "fetching committed offsets";
    let response = client.call(what, Duration::ZERO, call).await?;
    let group = only(same_number(1, response.groups)?)?;
    if let Some(error) = &group.error {
        return Err(Error::from_entry(error));
    }
    let mut known: std::collections::HashMap<(String, PartitionId), v1::CommittedOffset> = group
        .offsets
        .into_iter()
        .map(|found| {
            let place = (found.topic.clone(), PartitionId::new(found.partition));
            (place, found)
        })
        .collect();
    let start = |(place, topic_id): &(TopicPartition, TopicId)| {
        let found = known.remove(&(place.topic.to_string(), place.partition));
        // What was committed for a topic of the same name before is nothing to this one.
        let found = found.filter(|found| {
            let id = TopicId::from_slice(&found.topic_id);
            id.is_none_or(|id| id == *topic_id)
        });
        Start {
            place: place.clone(),
            topic_id: *topic_id,
            committed: found.map(|found| Position {
                offset: Offset::new(found.offset),
                leader_epoch: LeaderEpoch::new(found.leader_epoch),
            }),
        }
    };
    Ok(places.iter().map(start).collect())
}
