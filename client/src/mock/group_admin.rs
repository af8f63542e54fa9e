//! What the mock broker does with groups from outside: offsets and descriptions.

use std::collections::{BTreeMap, BTreeSet};

use logweir_proto::ErrorCode;
use logweir_proto::grpc::v1;
use tonic::Status;
use v1::reset_offsets_request::To;

use super::{MockBroker, State, error, partition_index};

/// A topic and one of its partitions.
type Place = (String, i32);

/// A group as calls from outside see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct MockGroup {
    pub(crate) members: Vec<v1::GroupMember>,
    pub(crate) offsets: BTreeMap<Place, v1::CommittedOffset>,
    /// What the next changes are answered with, although they are made.
    lost: Vec<ErrorCode>,
}

impl MockGroup {
    /// What this change is answered with, although it is made.
    fn lose(&mut self) -> Option<ErrorCode> {
        self.lost.pop().filter(|code| *code != ErrorCode::None)
    }

    fn state(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else {
            "Stable"
        }
    }
}

impl MockBroker {
    /// Adds a member that is just there.
    pub(crate) fn add_member(&self, group_id: &str, member: v1::GroupMember) {
        let mut state = self.state.lock();
        let group = state.groups.entry(group_id.to_owned()).or_default();
        group.members.push(member);
    }

    /// The next entries of group calls carry this error, so many of them.
    pub(crate) fn fail_group_entries(&self, code: ErrorCode, count: usize) {
        self.state.lock().failing_group_entries = vec![code; count];
    }
}

impl MockBroker {
    /// The next changes of a group are made, and answered with these errors, the last first: its coordinator went away
    /// before it could answer. [`ErrorCode::None`] is answered well.
    pub(crate) fn lose_changes(&self, group_id: &str, codes: Vec<ErrorCode>) {
        let mut state = self.state.lock();
        state.groups.entry(group_id.to_owned()).or_default().lost = codes;
    }
}

/// The error that was scripted for the next entry.
fn scripted(state: &mut State) -> Option<v1::Error> {
    state.failing_group_entries.pop().and_then(error)
}

/// A status as the broker gives it for a whole call.
fn refused(code: ErrorCode) -> Status {
    use prost::Message as _;
    let entry = error(code).unwrap();
    let mut any = Vec::new();
    let url = "type.googleapis.com/logweir.v1.Error".to_owned();
    prost::encoding::string::encode(1, &url, &mut any);
    prost::encoding::bytes::encode(2, &entry.encode_to_vec(), &mut any);
    let mut details = Vec::new();
    prost::encoding::int32::encode(1, &9, &mut details);
    prost::encoding::bytes::encode(3, &any, &mut details);
    Status::with_details(tonic::Code::FailedPrecondition, "scripted", details.into())
}

/// Refuses a request that names a group twice, as the broker does.
fn distinct<'a>(ids: impl IntoIterator<Item = &'a String>) -> Result<(), Status> {
    let mut seen = BTreeSet::new();
    match ids.into_iter().all(|id| seen.insert(id)) {
        true => Ok(()),
        false => Err(refused(ErrorCode::InvalidRequest)),
    }
}

pub(super) fn commit_offsets(
    broker: &MockBroker,
    request: v1::CommitOffsetsRequest,
) -> Result<v1::CommitOffsetsResponse, Status> {
    broker.check_call("CommitOffsets")?;
    let mut state = broker.state.lock();
    let mut results = Vec::new();
    for wanted in request.offsets {
        let mut error = scripted(&mut state);
        if error.is_none() && !state.topics.contains_key(&wanted.topic) {
            error = super::error(ErrorCode::UnknownTopicOrPartition);
        }
        results.push(v1::PartitionResult {
            topic: wanted.topic.clone(),
            partition: wanted.partition,
            error: error.clone(),
        });
        if error.is_none() {
            let group = state.groups.entry(request.group_id.clone()).or_default();
            let committed = v1::CommittedOffset {
                topic: wanted.topic.clone(),
                topic_id: wanted.topic_id.unwrap_or_default(),
                partition: wanted.partition,
                offset: wanted.offset,
                leader_epoch: wanted.leader_epoch.unwrap_or(-1),
                metadata: wanted.metadata,
                committed_at_ms: 5_000,
            };
            group
                .offsets
                .insert((wanted.topic, wanted.partition), committed);
        }
    }
    Ok(v1::CommitOffsetsResponse { results })
}

pub(super) fn fetch_offsets(
    broker: &MockBroker,
    request: v1::FetchOffsetsRequest,
) -> Result<v1::FetchOffsetsResponse, Status> {
    broker.check_call("FetchOffsets")?;
    distinct(request.groups.iter().map(|group| &group.group_id))?;
    let mut state = broker.state.lock();
    let groups = request.groups.into_iter().map(|asked| {
        let error = scripted(&mut state);
        let group = state.groups.get(&asked.group_id);
        let wanted = |topic: &str, partition: i32| {
            asked.topics.is_empty()
                || asked.topics.iter().any(|named| {
                    named.topic == topic
                        && (named.partitions.is_empty() || named.partitions.contains(&partition))
                })
        };
        let offsets = group
            .filter(|_| error.is_none())
            .into_iter()
            .flat_map(|group| &group.offsets)
            .filter(|((topic, partition), _)| wanted(topic, *partition))
            .map(|(_, committed)| committed.clone());
        v1::GroupOffsets {
            offsets: offsets.collect(),
            group_id: asked.group_id,
            error,
        }
    });
    Ok(v1::FetchOffsetsResponse {
        groups: groups.collect(),
    })
}

/// The partitions that are to be reset: those that are named, or of which something is committed.
fn named(group: &MockGroup, topics: &[v1::NamedPartitions], state: &State) -> Vec<Place> {
    if topics.is_empty() {
        return group.offsets.keys().cloned().collect();
    }
    let mut places = Vec::new();
    for named in topics {
        let all = state
            .topics
            .get(&named.topic)
            .map_or(0, |topic| topic.partitions.len());
        let partitions = if named.partitions.is_empty() {
            (0..i32::try_from(all).unwrap()).collect()
        } else {
            named.partitions.clone()
        };
        places.extend(partitions.into_iter().map(|p| (named.topic.clone(), p)));
    }
    places
}

pub(super) fn delete_offsets(
    broker: &MockBroker,
    request: v1::DeleteOffsetsRequest,
) -> Result<v1::DeleteOffsetsResponse, Status> {
    broker.check_call("DeleteOffsets")?;
    if request.topics.is_empty() {
        return Err(refused(ErrorCode::InvalidRequest));
    }
    let mut state = broker.state.lock();
    let group = state.groups.get(&request.group_id).cloned();
    let mut group = group.ok_or_else(|| refused(ErrorCode::GroupIdNotFound))?;
    let mut results = Vec::new();
    for place in forgotten(&group, &request.topics) {
        let error = scripted(&mut state);
        if error.is_none() {
            group.offsets.remove(&place);
        }
        let (topic, partition) = place;
        results.push(v1::PartitionResult {
            topic,
            partition,
            error,
        });
    }
    let lost = group.lose();
    // A group that has nothing any more is gone.
    match group.offsets.is_empty() && group.members.is_empty() {
        true => state.groups.remove(&request.group_id),
        false => state.groups.insert(request.group_id, group),
    };
    lost.map_or(Ok(v1::DeleteOffsetsResponse { results }), |code| {
        Err(refused(code))
    })
}

/// The partitions whose offsets are to be forgotten; of a whole topic, those that have one.
fn forgotten(group: &MockGroup, topics: &[v1::NamedPartitions]) -> Vec<Place> {
    let mut places = Vec::new();
    for named in topics {
        let topic = &named.topic;
        if named.partitions.is_empty() {
            let held = group.offsets.keys().filter(|(held, _)| held == topic);
            places.extend(held.cloned());
        }
        places.extend(named.partitions.iter().map(|p| (topic.clone(), *p)));
    }
    places
}

pub(super) fn reset_offsets(
    broker: &MockBroker,
    request: v1::ResetOffsetsRequest,
) -> Result<v1::ResetOffsetsResponse, Status> {
    broker.check_call("ResetOffsets")?;
    let mut state = broker.state.lock();
    if let Some(code) = state.failing_group_entries.pop() {
        return Err(refused(code));
    }
    let mut group = state
        .groups
        .get(&request.group_id)
        .cloned()
        .unwrap_or_default();
    if !group.members.is_empty() {
        return Err(refused(ErrorCode::NonEmptyGroup));
    }
    let targets = targets(&group, &request, &state)?;
    let mut offsets = Vec::new();
    for ((topic, partition), after) in targets {
        let before = group.offsets.get(&(topic.clone(), partition));
        offsets.push(v1::ResetOffset {
            topic: topic.clone(),
            partition,
            before: before.map(|committed| committed.offset),
            after,
        });
        let committed = v1::CommittedOffset {
            topic: topic.clone(),
            partition,
            offset: after,
            leader_epoch: -1,
            committed_at_ms: 6_000,
            ..Default::default()
        };
        group.offsets.insert((topic, partition), committed);
    }
    let mut lost = None;
    if !request.dry_run {
        lost = group.lose();
        state.groups.insert(request.group_id, group);
    }
    lost.map_or(Ok(v1::ResetOffsetsResponse { offsets }), |code| {
        Err(refused(code))
    })
}

/// Where each partition goes.
fn targets(
    group: &MockGroup,
    request: &v1::ResetOffsetsRequest,
    state: &State,
) -> Result<Vec<(Place, i64)>, Status> {
    let to = request.to.as_ref();
    let to = to.ok_or_else(|| refused(ErrorCode::InvalidRequest))?;
    if let To::Exact(exact) = to {
        let sizes = exact
            .offsets
            .iter()
            .map(|wanted| request.group_id.len() + wanted.topic.len() + wanted.metadata.len() + 96);
        if exact.offsets.len() > 10_000 || sizes.sum::<usize>() > 1_000_000 {
            return Err(refused(ErrorCode::InvalidCommitOffsetSize));
        }
        let exact = exact.offsets.iter();
        return Ok(exact
            .map(|wanted| ((wanted.topic.clone(), wanted.partition), wanted.offset))
            .collect());
    }
    let mut targets = Vec::new();
    for place in named(group, &request.topics, state) {
        let log = state
            .topics
            .get(&place.0)
            .zip(partition_index(place.1))
            .and_then(|(topic, index)| topic.partitions.get(index))
            .ok_or_else(|| refused(ErrorCode::UnknownTopicOrPartition))?;
        let (start, end) = (log.start.get(), log.end().get());
        let committed = group.offsets.get(&place);
        let after = match to {
            To::Earliest(_) => start,
            To::Latest(_) => end,
            To::Offset(offset) => (*offset).clamp(start, end),
            // Records of a mock are a millisecond apart, from 1,000 on.
            To::TimestampMs(time) => (time - 1_000).clamp(start, end),
            To::ShiftBy(by) => committed.map_or(start, |c| c.offset + by).clamp(start, end),
            To::Exact(_) => unreachable!("answered above"),
        };
        targets.push((place, after));
    }
    Ok(targets)
}

pub(super) fn list_groups(
    broker: &MockBroker,
    request: &v1::ListGroupsRequest,
) -> Result<v1::ListGroupsResponse, Status> {
    broker.check_call("ListGroups")?;
    let state = broker.state.lock();
    let fits = |wanted: &[String], name: &str| {
        wanted.is_empty() || wanted.iter().any(|w| w.eq_ignore_ascii_case(name))
    };
    let mut found = state.groups.iter().filter(|(id, group)| {
        **id > request.after
            && fits(&request.states, group.state())
            && fits(&request.types, "consumer")
    });
    // Pages of two, so that paging is tried.
    let groups = found.by_ref().take(2).map(|(id, group)| v1::GroupSummary {
        group_id: id.clone(),
        state: group.state().to_owned(),
        r#type: "consumer".to_owned(),
        protocol_type: "consumer".to_owned(),
    });
    let groups = groups.collect();
    let more = found.next().is_some();
    Ok(v1::ListGroupsResponse { groups, more })
}

pub(super) fn describe_groups(
    broker: &MockBroker,
    request: v1::DescribeGroupsRequest,
) -> Result<v1::DescribeGroupsResponse, Status> {
    broker.check_call("DescribeGroups")?;
    distinct(&request.group_ids)?;
    let mut state = broker.state.lock();
    let groups = request.group_ids.into_iter().map(|group_id| {
        let error = scripted(&mut state);
        let group = state.groups.get(&group_id).filter(|_| error.is_none());
        match group {
            Some(group) => description(group_id, group, &state),
            None => v1::GroupDescription {
                group_id,
                error: error.or_else(|| super::error(ErrorCode::GroupIdNotFound)),
                ..Default::default()
            },
        }
    });
    Ok(v1::DescribeGroupsResponse {
        groups: groups.collect(),
    })
}

fn description(group_id: String, group: &MockGroup, state: &State) -> v1::GroupDescription {
    let partitions = group.offsets.values().map(|committed| {
        let log = state
            .topics
            .get(&committed.topic)
            .zip(partition_index(committed.partition))
            .and_then(|(topic, index)| topic.partitions.get(index));
        let end = log.map_or(-1, |log| log.end().get());
        let lag = log.map_or(-1, |_| end - committed.offset);
        v1::GroupPartition {
            topic: committed.topic.clone(),
            partition: committed.partition,
            committed_offset: committed.offset,
            leader_epoch: committed.leader_epoch,
            committed_at_ms: committed.committed_at_ms,
            log_start_offset: log.map_or(-1, |log| log.start.get()),
            end_offset: end,
            lag_records: lag,
            lag_ms: if lag > 0 { lag * 1_000 } else { lag },
            ..Default::default()
        }
    });
    let partitions: Vec<_> = partitions.collect();
    v1::GroupDescription {
        group_id,
        state: group.state().to_owned(),
        r#type: "consumer".to_owned(),
        protocol_type: "consumer".to_owned(),
        assignor: "uniform".to_owned(),
        epoch: 3,
        assignment_epoch: 3,
        coordinator_id: 1,
        members: group.members.clone(),
        lag_records: partitions.iter().map(|p| p.lag_records.max(0)).sum(),
        lag_ms: partitions
            .iter()
            .map(|p| p.lag_ms)
            .max()
            .unwrap_or(0)
            .max(0),
        partitions,
        error: None,
    }
}

pub(super) fn delete_groups(
    broker: &MockBroker,
    request: v1::DeleteGroupsRequest,
) -> Result<v1::DeleteGroupsResponse, Status> {
    broker.check_call("DeleteGroups")?;
    distinct(&request.group_ids)?;
    let mut state = broker.state.lock();
    let results = request.group_ids.into_iter().map(|group_id| {
        let mut error = scripted(&mut state);
        if error.is_none() {
            error = match state.groups.get(&group_id) {
                None => super::error(ErrorCode::GroupIdNotFound),
                Some(group) if !group.members.is_empty() => super::error(ErrorCode::NonEmptyGroup),
                Some(_) => None,
            };
        }
        if error.is_none() {
            let mut removed = state.groups.remove(&group_id);
            error = removed
                .as_mut()
                .and_then(|group| group.lose())
                .and_then(super::error);
        }
        v1::GroupResult { group_id, error }
    });
    Ok(v1::DeleteGroupsResponse {
        results: results.collect(),
    })
}
