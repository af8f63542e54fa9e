//! What the machine can be asked: Kafka's group and offset requests in plain types, and what happens to topics.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};

use super::ids::{Assignment, Epoch, Generation, GroupId, InstanceId, MemberId};
use super::topics::Topics;

/// A request, or an event; each is answered once.
#[derive(Clone, Debug)]
pub(crate) enum GroupRequest {
    Join(JoinGroup),
    Sync(SyncGroup),
    Heartbeat(Heartbeat),
    Leave(LeaveGroup),
    ConsumerHeartbeat(Box<ConsumerHeartbeat>),
    Commit(CommitOffsets),
    /// Of many groups at once; at most as many as the listener lets through.
    Fetch(Vec<FetchGroup>),
    DeleteOffsets(DeleteOffsets),
    Reset(ResetOffsets),
    DescribeClassic(Vec<GroupId>),
    DescribeConsumer(Vec<GroupId>),
    List(ListGroups),
    DeleteGroups(Vec<GroupId>),
    /// Topics were created, deleted or got partitions: all of them as they are now.
    TopicsChanged(Arc<Topics>),
    /// These topics are gone for good; what was committed for them is dropped.
    TopicsDeleted(Vec<(Arc<str>, TopicId)>),
}

/// JoinGroup.
#[derive(Clone, Debug)]
pub(crate) struct JoinGroup {
    pub(crate) group_id: GroupId,
    /// Empty for a member that has no id yet.
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: Arc<str>,
    /// Those that the member speaks, the one it likes best first.
    pub(crate) protocols: Vec<Protocol>,
    /// Whether the client can be told to come again with an id (version 4 and up, KIP-394).
    pub(crate) member_id_required: bool,
    /// Whether it knows of `skip_assignment` (version 9 and up, KIP-814).
    pub(crate) can_skip_assignment: bool,
}

/// A protocol of a classic member, with what it wants to tell the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: Arc<str>,
    pub(crate) metadata: Bytes,
}

/// SyncGroup.
#[derive(Clone, Debug)]
pub(crate) struct SyncGroup {
    pub(crate) group_id: GroupId,
    pub(crate) generation: Generation,
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
    /// What the member believes, from version 5 on.
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol: Option<Arc<str>>,
    /// From the leader.
    pub(crate) assignments: Vec<(MemberId, Bytes)>,
}

/// Heartbeat of a classic member.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) group_id: GroupId,
    pub(crate) generation: Generation,
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
}

/// LeaveGroup: one member, or several.
#[derive(Clone, Debug)]
pub(crate) struct LeaveGroup {
    pub(crate) group_id: GroupId,
    pub(crate) members: Vec<LeavingMember>,
}

/// A member that leaves, or is removed by its instance id alone.
#[derive(Clone, Debug)]
pub(crate) struct LeavingMember {
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
}

/// ConsumerGroupHeartbeat (KIP-848). What is `None` did not change since the last one.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerHeartbeat {
    pub(crate) group_id: GroupId,
    /// Chosen by the member; empty with epoch 0 lets the coordinator choose (version 0).
    pub(crate) member_id: MemberId,
    /// The last one it was given, or [`Epoch::JOIN`], [`Epoch::LEAVE`], [`Epoch::LEAVE_STATIC`].
    pub(crate) member_epoch: Epoch,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) rack_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) rebalance_timeout: Option<Duration>,
    pub(crate) topic_names: Option<Vec<Arc<str>>>,
    /// Empty ends the subscription by pattern.
    pub(crate) topic_regex: Option<Arc<str>>,
    pub(crate) server_assignor: Option<Arc<str>>,
    /// What the member owns now: the acknowledgement of a revocation.
    pub(crate) owned: Option<Assignment>,
    /// From members whose polls the coordinator watches (gRPC).
    pub(crate) poll: Option<PollMark>,
    /// How long the answer may wait for news, at most the heartbeat interval; `None` is Kafka's way, at once.
    pub(crate) wait: Option<Duration>,
}

/// What a member says about its polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PollMark {
    /// Whether it polled since its last heartbeat.
    pub(crate) polled: bool,
    /// How long it may go without; Kafka's `max.poll.interval.ms`, 5 minutes by default.
    pub(crate) max_interval: Duration,
}

impl PollMark {
    /// Kafka's default of `max.poll.interval.ms`.
    pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(5 * 60);
}

/// OffsetCommit.
#[derive(Clone, Debug)]
pub(crate) struct CommitOffsets {
    pub(crate) group_id: GroupId,
    /// Empty for who is no member.
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
    /// A classic member's generation, a KIP-848 member's epoch, or -1.
    pub(crate) generation_or_epoch: i32,
    /// Whether the caller knows the errors of KIP-848 (version 9 and up, and gRPC).
    pub(crate) knows_epochs: bool,
    /// How long the offsets are to be kept, from old clients.
    pub(crate) retention: Option<Duration>,
    pub(crate) offsets: Vec<NewOffset>,
}

/// An offset to be committed.
#[derive(Clone, Debug)]
pub(crate) struct NewOffset {
    pub(crate) topic: Arc<str>,
    /// [`TopicId::ZERO`] if the caller does not say: then that of the topic of this name.
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) metadata: Arc<str>,
    /// When it was committed, where an import says so; `None` is now.
    pub(crate) committed_at: Option<Timestamp>,
}

/// OffsetFetch of one group.
#[derive(Clone, Debug)]
pub(crate) struct FetchGroup {
    pub(crate) group_id: GroupId,
    /// Empty if the caller does not say (before version 9).
    pub(crate) member_id: MemberId,
    /// -1 if the caller does not say.
    pub(crate) member_epoch: Epoch,
    /// `None` is all that were committed.
    pub(crate) partitions: Option<Vec<(Arc<str>, PartitionId)>>,
    /// Refuse offsets that an open transaction may still change (KIP-447). Taken and without effect: no transaction
    /// commits offsets yet, so that every committed offset is stable.
    #[expect(dead_code, reason = "offsets of transactions come later")]
    pub(crate) require_stable: bool,
}

/// OffsetDelete.
#[derive(Clone, Debug)]
pub(crate) struct DeleteOffsets {
    pub(crate) group_id: GroupId,
    pub(crate) partitions: Vec<(Arc<str>, PartitionId)>,
    /// Topics, not named among the partitions, of which all is to go that was committed, also if they are gone.
    pub(crate) whole_topics: Vec<Arc<str>>,
}

/// Sets offsets of a group that nobody uses; the caller has looked up which ones.
#[derive(Clone, Debug)]
pub(crate) struct ResetOffsets {
    pub(crate) group_id: GroupId,
    pub(crate) offsets: Vec<NewOffset>,
    /// Only say what would be done.
    pub(crate) dry_run: bool,
}

/// ListGroups. Empty filters let everything through; names are compared without case.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListGroups {
    pub(crate) states: Vec<Arc<str>>,
    pub(crate) types: Vec<Arc<str>>,
}
