//! What the machine answers, kind by kind as [`GroupRequest`](super::GroupRequest) asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logweir_proto::{ErrorCode, Offset, PartitionId, TopicId};

use super::ids::{Assignment, Epoch, Generation, GroupId, InstanceId, MemberId};
use super::records::CommittedOffset;

/// Kafka's code, and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct GroupError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl GroupError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }
}

/// An answer; its kind is that of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupAnswer {
    Join(JoinAnswer),
    Sync(Result<Synced, GroupError>),
    Heartbeat(Result<(), GroupError>),
    Leave(Result<Vec<LeftMember>, GroupError>),
    ConsumerHeartbeat(Result<ConsumerHeartbeatAnswer, GroupError>),
    Commit(Result<Vec<PartitionAnswer>, GroupError>),
    Fetch(Vec<FetchedGroup>),
    DeleteOffsets(Result<Vec<PartitionAnswer>, GroupError>),
    Reset(Result<Vec<ResetAnswer>, GroupError>),
    DescribeClassic(Vec<(GroupId, ClassicDescription)>),
    DescribeConsumer(Vec<(GroupId, Result<ConsumerDescription, GroupError>)>),
    List(Vec<ListedGroup>),
    DeleteGroups(Vec<(GroupId, Result<(), GroupError>)>),
    /// The event was taken.
    Done,
}

/// Answers JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinAnswer {
    /// The member's id, the one to join with if it is told that it needs one, else empty with an error.
    pub(crate) member_id: MemberId,
    pub(crate) result: Result<Joined, GroupError>,
}

/// A generation that a member is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: Generation,
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) leader: MemberId,
    /// The leader is told who leads, and is not to assign (KIP-814).
    pub(crate) skip_assignment: bool,
    /// For the leader: everybody's metadata for the protocol that was chosen. Empty for others.
    pub(crate) members: Vec<JoinedMember>,
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinedMember {
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) metadata: Bytes,
}

/// Answers SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) assignment: Bytes,
}

/// Whether a member could leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftMember {
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) result: Result<(), GroupError>,
}

/// Answers ConsumerGroupHeartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerHeartbeatAnswer {
    pub(crate) member_id: MemberId,
    /// What the next heartbeat must send.
    pub(crate) member_epoch: Epoch,
    pub(crate) heartbeat_interval: Duration,
    /// What the member may own now, whole; `None` if that did not change.
    pub(crate) assignment: Option<Assignment>,
}

/// Whether an offset was committed, or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionAnswer {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) result: Result<(), GroupError>,
}

/// The offsets of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchedGroup {
    pub(crate) group_id: GroupId,
    pub(crate) result: Result<Vec<FetchedOffset>, GroupError>,
}

/// The offset of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchedOffset {
    pub(crate) topic: Arc<str>,
    /// The id of the topic of that name, as far as it is known.
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    /// `None` if there is none, or it is that of an earlier topic of the same name.
    pub(crate) committed: Option<CommittedOffset>,
}

/// What a reset does to a partition, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResetAnswer {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) before: Option<Offset>,
    pub(crate) after: Offset,
}

/// Answers DescribeGroups; a group that does not exist, or is of the other kind, is Dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassicDescription {
    /// Kafka's name of the state.
    pub(crate) state: &'static str,
    pub(crate) protocol_type: Arc<str>,
    /// Empty unless the group is Stable.
    pub(crate) protocol: Arc<str>,
    pub(crate) members: Vec<ClassicMemberDescription>,
    /// Why it is Dead; newer clients are told GROUP_ID_NOT_FOUND.
    pub(crate) error: Option<GroupError>,
}

/// A member of a classic group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassicMemberDescription {
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    /// Empty unless the group is Stable, as is the assignment.
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

/// Answers ConsumerGroupDescribe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerDescription {
    /// Kafka's name of the state.
    pub(crate) state: &'static str,
    pub(crate) epoch: Epoch,
    pub(crate) assignment_epoch: Epoch,
    pub(crate) assignor: &'static str,
    pub(crate) members: Vec<ConsumerMemberDescription>,
}

/// A member of a KIP-848 group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerMemberDescription {
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) rack_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) epoch: Epoch,
    pub(crate) topic_names: Vec<Arc<str>>,
    pub(crate) topic_regex: Option<Arc<str>>,
    pub(crate) assignment: Assignment,
    pub(crate) target: Assignment,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedGroup {
    pub(crate) group_id: GroupId,
    pub(crate) protocol_type: Arc<str>,
    /// Kafka's name of the state.
    pub(crate) state: &'static str,
    /// "classic" or "consumer".
    pub(crate) group_type: &'static str,
}
