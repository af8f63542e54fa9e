//! A group in full: its members, what each has, what was committed, and how far behind that is.

use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::{LeaderEpoch, NodeId, Offset, PartitionId, TopicId};
use tokio::sync::oneshot;

use super::lag::{Lag, lag};
use super::{answer, other_kind};
use crate::coordinator::groups::answer::{
    ClassicDescription, ClassicMemberDescription, ConsumerDescription, ConsumerMemberDescription,
    GroupAnswer,
};
use crate::coordinator::groups::ids::{Assignment, Epoch};
use crate::coordinator::groups::records::CommittedOffset;
use crate::coordinator::groups::request::{FetchGroup, GroupRequest};
use crate::coordinator::groups::{assigned_partitions, subscribed_topics};
use crate::error::ApiError;
use crate::faults::Api;
use crate::metadata::Image;
use crate::partition::Partition;
use crate::service::faults::Work;
use crate::service::{RequestContext, Service};

/// A group in full.
#[derive(Clone, Debug)]
pub(crate) struct GroupDescription {
    pub(crate) group_id: Arc<str>,
    /// Kafka's name of the state.
    pub(crate) state: &'static str,
    /// "classic" or "consumer".
    pub(crate) group_type: &'static str,
    pub(crate) protocol_type: Arc<str>,
    /// The assignor, or a classic group's protocol.
    pub(crate) assignor: Arc<str>,
    /// `None` for a classic group.
    pub(crate) epochs: Option<(Epoch, Epoch)>,
    pub(crate) coordinator: NodeId,
    /// By id.
    pub(crate) members: Vec<MemberDescription>,
    /// By topic and partition.
    pub(crate) partitions: Vec<GroupPartition>,
    /// Of all partitions whose lag is known.
    pub(crate) lag: Lag,
}

/// A member of a group of either kind.
#[derive(Clone, Debug)]
pub(crate) struct MemberDescription {
    pub(crate) member_id: Arc<str>,
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) rack_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    /// `None` for a member of a classic group.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) topic_names: Vec<Arc<str>>,
    pub(crate) topic_regex: Option<Arc<str>>,
    pub(crate) assignment: Named,
    pub(crate) target: Named,
    /// Of its partitions whose lag is known.
    pub(crate) lag: Lag,
}

/// Partitions by the names of their topics, with their ids. Topics that are gone are left out.
pub(crate) type Named = BTreeMap<(Arc<str>, TopicId), Vec<PartitionId>>;

/// A partition as a group sees it.
#[derive(Clone, Debug)]
pub(crate) struct GroupPartition {
    pub(crate) topic: Arc<str>,
    /// `None` if there is no such topic any more.
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) partition: PartitionId,
    /// The member that owns it.
    pub(crate) member_id: Option<Arc<str>>,
    pub(crate) committed: Option<CommittedOffset>,
    /// The first offset that can be read and the end; `None` if they are not known here.
    pub(crate) bounds: Option<(Offset, Offset)>,
    /// `None` if nothing was committed, or the log cannot be read.
    pub(crate) lag: Option<Lag>,
}

impl GroupPartition {
    /// Looks into the log. May wait for the disk.
    fn measure(&mut self, partition: &Partition, now: logweir_proto::Timestamp) {
        let log = partition.log();
        let end = partition.last_stable();
        self.bounds = Some((log.log_start_offset(), end));
        let measure = |c: &CommittedOffset| lag(log, c.offset, end, now);
        self.lag = match self.committed.as_ref().map(measure).transpose() {
            Ok(lag) => lag,
            Err(error) => {
                tracing::warn!(topic = %self.topic, partition = %self.partition, %error,
                    "the lag of a group cannot be measured");
                None
            }
        };
    }
}

impl Service {
    /// Describes a group. Reads from the logs of its partitions.
    ///
    /// # Errors
    /// The coordinator's; `GROUP_ID_NOT_FOUND`.
    pub(crate) async fn describe_group(
        &self,
        ctx: &RequestContext,
        group: &Arc<str>,
    ) -> Result<GroupDescription, ApiError> {
        let work = || -> Work<'_, GroupDescription> { Box::pin(self.describe_group_now(group)) };
        self.suffer_in_group(ctx, Api::DescribeGroups, group, [], work)
            .await
    }

    /// Describes a group for the broker's own sake.
    ///
    /// # Errors
    /// As [`Service::describe_group`].
    pub(crate) async fn describe_group_now(
        &self,
        group: &Arc<str>,
    ) -> Result<GroupDescription, ApiError> {
        let image = self.image();
        let request = GroupRequest::DescribeConsumer(vec![Arc::clone(group)]);
        let mut described = answer!(DescribeConsumer, self.ask(group, request).await)?;
        let (_, described) = described.pop().ok_or_else(other_kind)?;
        let mut description = match described {
            Ok(consumer) => of_consumer(group, consumer, &image),
            Err(_) => {
                let request = GroupRequest::DescribeClassic(vec![Arc::clone(group)]);
                let mut described = answer!(DescribeClassic, self.ask(group, request).await)?;
                let (_, classic) = described.pop().ok_or_else(other_kind)?;
                if let Some(error) = classic.error {
                    return Err(error.into());
                }
                of_classic(group, classic, &image)
            }
        };
        description.coordinator = NodeId::new(self.config.node_id);
        let committed = self.fetch_offsets_now(&FetchGroup::all_of(group)).await?;
        let committed = committed.into_iter().filter_map(|fetched| {
            let place = (fetched.topic, fetched.partition);
            fetched.committed.map(|committed| (place, committed))
        });
        let partitions = partitions_of(&description.members, committed.collect(), &image);
        description.partitions = self.measured(partitions).await;
        description.add_up();
        Ok(description)
    }

    /// Measures on a thread that may wait for the disk.
    async fn measured(&self, mut measured: Vec<GroupPartition>) -> Vec<GroupPartition> {
        // Batches may have to be unpacked, and many may ask.
        let measuring = Arc::clone(&self.groups.measuring);
        let Ok(turn) = measuring.acquire_owned().await else {
            return measured;
        };
        let (partitions, now) = (Arc::clone(&self.partitions), self.clock.now());
        let kept = measured.clone();
        let (sender, done) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let measure = |of_group: &mut GroupPartition| {
                let found = of_group.topic_id.and_then(|id| {
                    let found = partitions.get(&of_group.topic, Some(id), of_group.partition);
                    found.ok()
                });
                if let Some(partition) = found {
                    of_group.measure(&partition, now);
                }
            };
            each_while_waited_for(&mut measured, &sender, measure);
            // Not before, though who asked may have gone.
            drop(turn);
            let _ = sender.send(measured);
        });
        done.await.unwrap_or_else(|_| {
            tracing::error!("the lag of a group was not measured: it panicked");
            kept
        })
    }
}

/// Works on one after the other, as long as somebody waits for it: else others are to have its turn.
fn each_while_waited_for<T, A>(
    all: &mut [T],
    waiting: &oneshot::Sender<A>,
    mut work: impl FnMut(&mut T),
) {
    for one in all {
        if waiting.is_closed() {
            return;
        }
        work(one);
    }
}

impl FetchGroup {
    /// Everything that a group has committed, for who is no member.
    pub(super) fn all_of(group: &Arc<str>) -> Self {
        Self {
            group_id: Arc::clone(group),
            member_id: "".into(),
            member_epoch: Epoch::new(-1),
            partitions: None,
            require_stable: false,
        }
    }
}

impl GroupDescription {
    fn add_up(&mut self) {
        let ids = self
            .members
            .iter()
            .map(|member| Arc::clone(&member.member_id));
        let places: BTreeMap<Arc<str>, usize> = ids.zip(0..).collect();
        for partition in &self.partitions {
            let lag = match partition.lag {
                Some(lag) => lag,
                // There is something to read, or not: how old it is nobody knows.
                None if partition.committed.is_some() => Lag {
                    records: 0,
                    age: None,
                },
                None => continue,
            };
            self.lag = self.lag.and(lag);
            let owner = partition.member_id.as_ref();
            if let Some(at) = owner.and_then(|id| places.get(id)) {
                let owner = &mut self.members[*at];
                owner.lag = owner.lag.and(lag);
            }
        }
    }
}

fn of_consumer(
    group: &Arc<str>,
    described: ConsumerDescription,
    image: &Image,
) -> GroupDescription {
    let member = |member: ConsumerMemberDescription| MemberDescription {
        member_id: member.member_id,
        instance_id: member.instance_id,
        rack_id: member.rack_id,
        client_id: member.client_id,
        client_host: member.client_host,
        epoch: Some(member.epoch),
        topic_names: member.topic_names,
        topic_regex: member.topic_regex,
        assignment: named(&member.assignment, image),
        target: named(&member.target, image),
        lag: Lag::default(),
    };
    GroupDescription {
        group_id: Arc::clone(group),
        state: described.state,
        group_type: "consumer",
        protocol_type: "consumer".into(),
        assignor: described.assignor.into(),
        epochs: Some((described.epoch, described.assignment_epoch)),
        coordinator: NodeId::new(-1),
        members: described.members.into_iter().map(member).collect(),
        partitions: Vec::new(),
        lag: Lag::default(),
    }
}

fn of_classic(group: &Arc<str>, described: ClassicDescription, image: &Image) -> GroupDescription {
    let member = |member: ClassicMemberDescription| {
        let assignment = assigned_partitions(&member.assignment).unwrap_or_default();
        let known = assignment.into_iter().filter_map(|(topic, partitions)| {
            let topic = image.topics.get(topic)?;
            Some(((Arc::clone(&topic.name), topic.id), partitions))
        });
        let assignment: Named = known.collect();
        let topics = subscribed_topics(&member.metadata).unwrap_or_default();
        MemberDescription {
            member_id: member.member_id,
            instance_id: member.instance_id,
            rack_id: None,
            client_id: member.client_id,
            client_host: member.client_host,
            epoch: None,
            topic_names: topics.into_iter().map(Arc::from).collect(),
            topic_regex: None,
            target: assignment.clone(),
            assignment,
            lag: Lag::default(),
        }
    };
    GroupDescription {
        group_id: Arc::clone(group),
        state: described.state,
        group_type: "classic",
        protocol_type: described.protocol_type,
        assignor: described.protocol,
        epochs: None,
        coordinator: NodeId::new(-1),
        members: described.members.into_iter().map(member).collect(),
        partitions: Vec::new(),
        lag: Lag::default(),
    }
}

/// An assignment by names.
pub(super) fn named(assignment: &Assignment, image: &Image) -> Named {
    let known = assignment.topics().filter_map(|(id, partitions)| {
        let topic = image.topic_by_id(&id)?;
        let partitions = partitions.iter().copied().collect();
        Some(((Arc::clone(&topic.name), id), partitions))
    });
    known.collect()
}

/// Every partition that a member has or that something was committed for.
fn partitions_of(
    members: &[MemberDescription],
    committed: BTreeMap<(Arc<str>, PartitionId), CommittedOffset>,
    image: &Image,
) -> Vec<GroupPartition> {
    let mut owners = BTreeMap::new();
    for member in members {
        for ((topic, _), partitions) in &member.assignment {
            for partition in partitions {
                let place = (Arc::clone(topic), *partition);
                owners.insert(place, Arc::clone(&member.member_id));
            }
        }
    }
    let mut all: BTreeMap<(Arc<str>, PartitionId), Option<CommittedOffset>> =
        owners.keys().map(|place| (place.clone(), None)).collect();
    all.extend(committed.into_iter().map(|(place, c)| (place, Some(c))));
    let of_group = |((topic, partition), committed): ((Arc<str>, PartitionId), _)| GroupPartition {
        topic_id: image.topics.get(&topic).map(|found| found.id),
        member_id: owners.get(&(Arc::clone(&topic), partition)).cloned(),
        topic,
        partition,
        committed,
        bounds: None,
        lag: None,
    };
    all.into_iter().map(of_group).collect()
}

impl GroupPartition {
    /// The leader epoch of the last record consumed, if the committer said so.
    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        self.committed
            .as_ref()
            .map_or(LeaderEpoch::NONE, |committed| committed.leader_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A measurement whose caller was gone kept its turn, one of two, until it had been through all partitions.
    #[test]
    fn what_nobody_waits_for_any_more_ends() {
        let (sender, waiting) = oneshot::channel::<()>();
        let mut waiting = Some(waiting);
        let mut seen = Vec::new();
        each_while_waited_for(&mut [1, 2, 3, 4], &sender, |n| {
            seen.push(*n);
            if *n == 2 {
                waiting = None;
            }
        });
        assert_eq!(seen, [1, 2]);
        assert!(waiting.is_none());
    }
}
