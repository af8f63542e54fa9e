//! Groups: listing, describing and deleting them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionId, Timestamp, TopicId};

use super::{Admin, only};
use crate::error::{Error, ErrorKind, Result};
use crate::topic_partition::TopicPartition;

/// Groups of one request. The broker takes 1,000; what it would say of so many may be larger than an answer can be.
const GROUPS_PER_REQUEST: usize = 100;

/// Kafka's states of a group. Its [`Display`](fmt::Display) is Kafka's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupState {
    /// A name of a newer broker.
    Unknown,
    /// No members; it may have committed offsets.
    Empty,
    /// An assignment is being computed (KIP-848).
    Assigning,
    /// Members have yet to take over what they were assigned (KIP-848).
    Reconciling,
    /// Every member has what it was assigned.
    Stable,
    /// Members are awaited (classic groups).
    PreparingRebalance,
    /// The assignment of the leader is awaited (classic groups).
    CompletingRebalance,
    /// The group is gone.
    Dead,
}

impl GroupState {
    const NAMES: [(Self, &str); 7] = [
        (Self::Empty, "Empty"),
        (Self::Assigning, "Assigning"),
        (Self::Reconciling, "Reconciling"),
        (Self::Stable, "Stable"),
        (Self::PreparingRebalance, "PreparingRebalance"),
        (Self::CompletingRebalance, "CompletingRebalance"),
        (Self::Dead, "Dead"),
    ];

    /// Kafka's name, such as `PreparingRebalance`.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(state, _)| *state == self);
        found.map_or("Unknown", |(_, name)| name)
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GroupState {
    type Err = Error;

    /// Reads Kafka's name, in any case.
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::NAMES
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(state, _)| *state).ok_or_else(|| {
            // A group that is gone is in no list.
            let listed = Self::NAMES.iter().filter(|(state, _)| *state != Self::Dead);
            let names: Vec<&str> = listed.map(|(_, name)| *name).collect();
            Error::invalid(format!(
                "{text:?} is no state of a group; there are {}",
                names.join(", ")
            ))
        })
    }
}

/// Which protocol a group's members speak. Its [`Display`](fmt::Display) is Kafka's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupType {
    /// A name of a newer broker.
    Unknown,
    /// Join and sync: members share partitions out among themselves.
    Classic,
    /// Heartbeats only: the broker shares partitions out (KIP-848).
    Consumer,
}

impl GroupType {
    /// Kafka's name: `classic` or `consumer`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

impl fmt::Display for GroupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GroupType {
    type Err = Error;

    /// Reads Kafka's name, in any case.
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "classic" => Ok(Self::Classic),
            "consumer" => Ok(Self::Consumer),
            _ => Err(Error::invalid(format!(
                "{text:?} is no type of a group; there are classic and consumer"
            ))),
        }
    }
}

/// Which groups to list. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFilter {
    /// Only groups in one of these states; empty for all.
    pub states: Vec<GroupState>,
    /// Only groups of one of these types; empty for all.
    pub types: Vec<GroupType>,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupSummary {
    /// Its id.
    pub group_id: String,
    /// Its state.
    pub state: GroupState,
    /// Its type.
    pub group_type: GroupType,
    /// `consumer` for consumers; empty for a group that only has committed offsets.
    pub protocol_type: String,
}

/// A group in full.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// Its id.
    pub group_id: String,
    /// Its state.
    pub state: GroupState,
    /// Its type.
    pub group_type: GroupType,
    /// `consumer` for consumers; empty for a group that only has committed offsets.
    pub protocol_type: String,
    /// How partitions are shared out: the assignor, or a classic group's protocol.
    pub assignor: String,
    /// The group's epoch; none for a classic group.
    pub epoch: Option<i32>,
    /// The epoch that the assignment was made for; none for a classic group.
    pub assignment_epoch: Option<i32>,
    /// The node that is its coordinator.
    pub coordinator: NodeId,
    /// Its members, by id.
    pub members: Vec<GroupMember>,
    /// Every partition that something was committed for, or that a member has, by topic and partition.
    pub partitions: Vec<GroupPartition>,
    /// What it has still to read in all, in records; partitions of unknown lag are left out.
    pub lag_records: u64,
    /// The age of the oldest record that it has still to read, to the millisecond; zero if there is none, none if it is
    /// not known.
    pub lag_time: Option<Duration>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// Its id.
    pub member_id: String,
    /// Its instance id, if it is static.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where it connects from.
    pub client_host: String,
    /// Its rack, if it has one.
    pub rack: Option<String>,
    /// Its epoch; none for a member of a classic group.
    pub member_epoch: Option<i32>,
    /// The topics that it is subscribed to by name, as far as the broker knows.
    pub subscribed_topics: Vec<String>,
    /// The pattern that it is subscribed to, if there is one.
    pub subscribed_regex: Option<String>,
    /// What it owns, by topic and partition.
    pub assignment: Vec<TopicPartition>,
    /// What it is to own once everybody has let go.
    pub target: Vec<TopicPartition>,
    /// What it has still to read, in records.
    pub lag_records: u64,
    /// The age of the oldest record that it has still to read, to the millisecond; zero if there is none, none if it is
    /// not known.
    pub lag_time: Option<Duration>,
}

/// A partition as a group sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's id; none if there is no such topic any more.
    pub topic_id: Option<TopicId>,
    /// The member that owns it, if one does.
    pub member_id: Option<String>,
    /// The next record that the group wants; none if nothing was committed.
    pub committed_offset: Option<Offset>,
    /// The leader epoch of the last record consumed; [`LeaderEpoch::NONE`] if the committer did not say.
    pub leader_epoch: LeaderEpoch,
    /// What the committer wanted to remember.
    pub metadata: String,
    /// When it was committed.
    pub committed_at: Option<Timestamp>,
    /// The first offset that can be read, if it is known.
    pub log_start_offset: Option<Offset>,
    /// Where new records will appear, if it is known.
    pub end_offset: Option<Offset>,
    /// Records from the committed offset to the end: those that are there, without gaps left by compaction and
    /// without control records. None if it is not known.
    pub lag_records: Option<u64>,
    /// The age of the oldest of them by its timestamp, to the millisecond; zero if there is none, none if it is not
    /// known.
    pub lag_time: Option<Duration>,
}

impl Admin {
    /// The groups that fit, by id.
    ///
    /// # Errors
    /// If the broker cannot be reached or refuses.
    pub async fn list_groups(&self, filter: GroupFilter) -> Result<Vec<GroupSummary>> {
        let mut groups: Vec<GroupSummary> = Vec::new();
        loop {
            let last = groups.last().map(|group| group.group_id.clone());
            let request = v1::ListGroupsRequest {
                states: filter.states.iter().map(ToString::to_string).collect(),
                types: filter.types.iter().map(ToString::to_string).collect(),
                after: last.unwrap_or_default(),
                limit: 0,
            };
            let page = self
                .read(|| async {
                    let mut service = self.client.group_service();
                    let call = service.list_groups(request.clone());
                    self.client
                        .call("listing groups", Duration::ZERO, call)
                        .await
                })
                .await?;
            let more = page.more && !page.groups.is_empty();
            groups.extend(page.groups.into_iter().map(GroupSummary::from));
            if !more {
                return Ok(groups);
            }
        }
    }

    /// Members, assignment, committed offsets and lag of a group.
    ///
    /// # Errors
    /// If there is no such group, or the broker cannot be reached.
    pub async fn describe_group(&self, group_id: &str) -> Result<GroupDescription> {
        only(self.describe_groups(&[group_id]).await?)?
    }

    /// Members, assignment, committed offsets and lag of groups, in order. One whose description is larger than 16 MiB is
    /// refused.
    ///
    /// # Errors
    /// If a whole request failed.
    pub async fn describe_groups(
        &self,
        group_ids: &[&str],
    ) -> Result<Vec<Result<GroupDescription>>> {
        let groups = in_parts(group_ids, |group_ids| async {
            let request = v1::DescribeGroupsRequest { group_ids };
            let ask = || async {
                let mut service = self.client.group_service();
                let call = service.describe_groups(request.clone());
                let what = "describing groups";
                let response = self.client.call(what, Duration::ZERO, call).await?;
                same_number(request.group_ids.len(), response.groups)
            };
            self.read_entries(ask, |group| group.error.as_ref()).await
        });
        Ok(groups.await?.into_iter().map(description_of).collect())
    }

    /// Deletes a group that has no members, with its offsets.
    ///
    /// # Errors
    /// If there is no such group, it has members, or the broker cannot be reached; it may be gone then all the same,
    /// see [`Error::may_have_happened`].
    pub async fn delete_group(&self, group_id: &str) -> Result<()> {
        only(self.delete_groups(&[group_id]).await?)?
    }

    /// Deletes groups that have no members, each on its own, with their offsets; the results are in order.
    ///
    /// # Errors
    /// If the first request failed as a whole; the failure of a later one is the result of each of its groups.
    pub async fn delete_groups(&self, group_ids: &[&str]) -> Result<Vec<Result<()>>> {
        let mut deleted = Vec::with_capacity(group_ids.len());
        for chunk in group_ids.chunks(GROUPS_PER_REQUEST) {
            match self.delete_some_groups(chunk).await {
                Ok(results) => deleted.extend(results),
                Err(error) if deleted.is_empty() => return Err(error),
                Err(error) => deleted.extend(chunk.iter().map(|_| Err(error.clone()))),
            }
        }
        Ok(deleted)
    }

    /// Deletes groups; those whose coordinator was not there are asked for again, the others are not: a group that
    /// was deleted would be said not to be there.
    async fn delete_some_groups(&self, group_ids: &[&str]) -> Result<Vec<Result<()>>> {
        let mut results = vec![Ok(()); group_ids.len()];
        // With whether an earlier try may have deleted it.
        let mut pending: Vec<(usize, bool)> = (0..group_ids.len()).map(|at| (at, false)).collect();
        let mut tries = self.tries();
        loop {
            let asked = pending.iter().map(|(at, _)| group_ids[*at].to_owned());
            let answered = match self.ask_to_delete(asked.collect()).await {
                Ok(answered) => answered,
                Err(error) if pending.len() == group_ids.len() => return Err(error),
                // What is known of the others is not lost.
                Err(error) => {
                    for (at, may_be_done) in pending {
                        let may_be_done = may_be_done || error.may_have_happened();
                        let error = error.clone().with_may_have_happened(may_be_done);
                        results[at] = Err(error);
                    }
                    return Ok(results);
                }
            };
            let mut passing = Vec::new();
            for ((at, may_be_done), outcome) in pending.into_iter().zip(answered) {
                let may_be_done = may_be_done || outcome.as_ref().is_err_and(may_stand);
                results[at] = match outcome {
                    Err(error) if may_be_done && is_no_group(&error) => Ok(()),
                    outcome => outcome.map_err(|e| e.with_may_have_happened(may_be_done)),
                };
                if results[at].as_ref().is_err_and(is_of_coordinator) {
                    passing.push((at, may_be_done));
                }
            }
            pending = passing;
            if pending.is_empty() || !tries.wait().await {
                return Ok(results);
            }
        }
    }

    async fn ask_to_delete(&self, group_ids: Vec<String>) -> Result<Vec<Result<()>>> {
        let count = group_ids.len();
        let mut service = self.client.group_service();
        let call = service.delete_groups(v1::DeleteGroupsRequest { group_ids });
        let response = self.client.call("deleting groups", Duration::ZERO, call);
        let results = same_number(count, response.await?.results)?;
        let outcomes = results
            .iter()
            .map(|result| outcome_of(result.error.as_ref()));
        Ok(outcomes.collect())
    }
}

/// Asks about groups, so many at a time as the answer has room for: a part that is refused is halved, down to the single
/// group that is at fault.
pub(super) async fn in_parts<T, F: Future<Output = Result<Vec<T>>>>(
    group_ids: &[&str],
    ask: impl Fn(Vec<String>) -> F,
) -> Result<Vec<T>> {
    let mut answers = Vec::with_capacity(group_ids.len());
    let mut left: Vec<&[&str]> = group_ids.chunks(GROUPS_PER_REQUEST).rev().collect();
    while let Some(part) = left.pop() {
        match ask(part.iter().map(ToString::to_string).collect()).await {
            Err(error) if error.code() == Some(ErrorCode::InvalidRequest) && part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                left.extend([second, first]);
            }
            answered => answers.extend(answered?),
        }
    }
    Ok(answers)
}

/// Whether the coordinator was not there, or went away before it answered, so that the same call may succeed soon.
pub(super) fn is_of_coordinator(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(
            ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator
        )
    )
}

/// Whether what was asked for may be done all the same: the coordinator may have gone between doing it and saying so.
pub(super) fn may_stand(error: &Error) -> bool {
    // Who is still loading has decided nothing.
    is_of_coordinator(error) && error.code() != Some(ErrorCode::CoordinatorLoadInProgress)
}

pub(super) fn is_no_group(error: &Error) -> bool {
    error.code() == Some(ErrorCode::GroupIdNotFound)
}

/// What became of one entry.
pub(super) fn outcome_of(error: Option<&v1::Error>) -> Result<()> {
    error.map_or(Ok(()), |error| Err(Error::from_entry(error)))
}

/// Checks that there is an answer to everything that was asked.
pub(crate) fn same_number<T>(asked: usize, entries: Vec<T>) -> Result<Vec<T>> {
    if entries.len() == asked {
        return Ok(entries);
    }
    let message = format!(
        "{asked} things were asked for and {} came back",
        entries.len()
    );
    Err(Error::new(ErrorKind::Broker, message))
}

/// The time of a field in milliseconds; none below zero.
fn time_of(ms: i64) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// A count or number that is below zero when it is not known.
fn known<T: TryFrom<i64>>(number: i64) -> Option<T> {
    if number < 0 {
        return None;
    }
    T::try_from(number).ok()
}

fn state_of(name: &str) -> GroupState {
    name.parse().unwrap_or(GroupState::Unknown)
}

fn type_of(name: &str) -> GroupType {
    name.parse().unwrap_or(GroupType::Unknown)
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn description_of(group: v1::GroupDescription) -> Result<GroupDescription> {
    outcome_of(group.error.as_ref())?;
    Ok(GroupDescription {
        state: state_of(&group.state),
        group_type: type_of(&group.r#type),
        group_id: group.group_id,
        protocol_type: group.protocol_type,
        assignor: group.assignor,
        epoch: known(group.epoch.into()),
        assignment_epoch: known(group.assignment_epoch.into()),
        coordinator: NodeId::new(group.coordinator_id),
        members: group.members.into_iter().map(GroupMember::from).collect(),
        partitions: group
            .partitions
            .into_iter()
            .map(GroupPartition::from)
            .collect(),
        lag_records: known(group.lag_records).unwrap_or(0),
        lag_time: time_of(group.lag_ms),
    })
}

/// Topics and their partitions as single partitions.
fn flat(assignment: Option<v1::Assignment>) -> Vec<TopicPartition> {
    let topics = assignment.map(|assignment| assignment.topics);
    let mut flat = Vec::new();
    for topic in topics.unwrap_or_default() {
        let name: Arc<str> = topic.topic.into();
        let partitions = topic.partitions.into_iter().map(PartitionId::new);
        flat.extend(partitions.map(|partition| TopicPartition::new(Arc::clone(&name), partition)));
    }
    flat
}

impl From<v1::GroupSummary> for GroupSummary {
    fn from(group: v1::GroupSummary) -> Self {
        Self {
            group_id: group.group_id,
            state: state_of(&group.state),
            group_type: type_of(&group.r#type),
            protocol_type: group.protocol_type,
        }
    }
}

impl From<v1::GroupMember> for GroupMember {
    fn from(member: v1::GroupMember) -> Self {
        let subscription = member.subscription.unwrap_or_default();
        Self {
            member_id: member.member_id,
            instance_id: member.instance_id,
            client_id: member.client_id,
            client_host: member.client_host,
            rack: member.rack_id,
            member_epoch: known(member.member_epoch.into()),
            subscribed_topics: subscription.topics,
            subscribed_regex: given(subscription.topic_regex),
            assignment: flat(member.assignment),
            target: flat(member.target),
            lag_records: known(member.lag_records).unwrap_or(0),
            lag_time: time_of(member.lag_ms),
        }
    }
}

impl From<v1::GroupPartition> for GroupPartition {
    fn from(seen: v1::GroupPartition) -> Self {
        Self {
            partition: TopicPartition::new(seen.topic, PartitionId::new(seen.partition)),
            topic_id: TopicId::from_slice(&seen.topic_id),
            member_id: given(seen.member_id),
            committed_offset: known(seen.committed_offset).map(Offset::new),
            leader_epoch: LeaderEpoch::new(seen.leader_epoch),
            metadata: seen.metadata,
            committed_at: known(seen.committed_at_ms).map(Timestamp::new),
            log_start_offset: known(seen.log_start_offset).map(Offset::new),
            end_offset: known(seen.end_offset).map(Offset::new),
            lag_records: known(seen.lag_records),
            lag_time: time_of(seen.lag_ms),
        }
    }
}
