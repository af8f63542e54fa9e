//! Groups and committed offsets, as every front end offers them: asks the coordinator, and tells it of topics.
//!
//! What a group decides is decided in `coordinator/groups`; here are the checks against the cluster's image, the faults,
//! and what needs the partitions' logs beside the group's state: lag (`lag.rs`), descriptions and resets.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::{ErrorCode, PartitionId, TopicId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::Config;
use crate::coordinator::groups::GroupMachine;
use crate::coordinator::groups::answer::{GroupAnswer, GroupError, PartitionAnswer};
use crate::coordinator::groups::config::GroupConfig;
use crate::coordinator::groups::request::{
    CommitOffsets, ConsumerHeartbeat, DeleteOffsets, FetchGroup, GroupRequest, ListGroups,
    NewOffset,
};
use crate::coordinator::groups::topics::{TopicInfo, Topics};
use crate::coordinator::{Coordinator, Settings};
use crate::error::ApiError;
use crate::faults::{Action, Api, Hit};
use crate::metadata::{Image, Quorum};
use crate::partition::Partitions;
use crate::service::faults::{Work, injected};
use crate::service::{RequestContext, Service};

mod classic;
mod describe;
mod lag;
mod reset;

pub(crate) use crate::coordinator::groups::answer::{
    ClassicDescription, ConsumerDescription, ConsumerHeartbeatAnswer, ConsumerMemberDescription,
    FetchedOffset, JoinAnswer, Joined, ListedGroup,
};
pub(crate) use crate::coordinator::groups::ids::{Assignment, Epoch, Generation};
pub(crate) use crate::coordinator::groups::request;
pub(crate) use describe::{GroupDescription, GroupPartition, MemberDescription, Named};
pub(crate) use reset::{ByTopic, ResetTo, Resetting};
#[cfg(test)]
pub(crate) use {crate::coordinator::groups::records::CommittedOffset, lag::Lag};

/// Where groups and committed offsets are kept.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The groups whose coordinator this broker is.
pub(crate) struct Groups {
    coordinator: Arc<Coordinator<GroupMachine>>,
    topics: Arc<TopicsNow>,
    /// Turns at measuring lag.
    measuring: Arc<Semaphore>,
}

/// Groups, as far as they could be asked for.
#[cfg(feature = "http")]
#[derive(Debug, Default)]
pub(crate) struct AllGroups {
    pub(crate) groups: Vec<ListedGroup>,
    /// Partitions of the table whose groups are not known at present.
    pub(crate) unlisted_partitions: usize,
}

/// How many groups' lag is measured at a time.
const MAX_MEASURING: usize = 2;

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

impl Groups {
    /// Begins to coordinate the groups of the partitions that this broker leads, now and later.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(crate) fn start(
        config: &Config,
        clock: &Clock,
        quorum: &Quorum,
        partitions: &Arc<Partitions>,
    ) -> Self {
        let topics = Arc::new(TopicsNow::default());
        let (settings, quorum, now) = (group_config(config), quorum.clone(), Arc::clone(&topics));
        let make = move |_| {
            let topics = now.of(&quorum.image());
            GroupMachine::new(settings.clone(), topics, Box::new(Uuid::new_v4))
        };
        let runtime = Settings::default();
        let coordinator = Coordinator::start(OFFSETS_TOPIC, partitions, clock, runtime, make);
        Self {
            coordinator,
            topics,
            measuring: Arc::new(Semaphore::new(MAX_MEASURING)),
        }
    }

    /// Tells the groups of topics as they come and go, for as long as the quorum lives; why it ended.
    pub(crate) fn follow(&self, quorum: Quorum) -> impl Future<Output = String> + Send + 'static {
        let (coordinator, now) = (Arc::downgrade(&self.coordinator), Arc::clone(&self.topics));
        let (mut images, mut loads) = (quorum.changed(), self.coordinator.loads());
        async move {
            let mut told: Option<Arc<Topics>> = None;
            let mut loads_told = u64::MAX;
            loop {
                images.mark_unchanged();
                loads.mark_unchanged();
                match coordinator.upgrade() {
                    Some(coordinator) => {
                        let topics = || now.of(&quorum.image());
                        let has_loaded = *loads.borrow() != loads_told;
                        loads_told = *loads.borrow();
                        told = tell(&coordinator, told, topics, has_loaded);
                    }
                    None => return "the groups have ended".to_owned(),
                }
                tokio::select! {
                    changed = images.changed() => if changed.is_err() {
                        return "the metadata quorum has ended".to_owned();
                    },
                    changed = loads.changed() => if changed.is_err() {
                        return "the groups have ended".to_owned();
                    },
                }
            }
        }
    }

    /// See [`Coordinator::refuse_calls`].
    pub(crate) fn refuse_calls(&self) {
        self.coordinator.refuse_calls();
    }

    /// See [`Coordinator::close`].
    pub(crate) fn close(&self) {
        self.coordinator.close();
    }

    /// See [`Coordinator::unready`].
    #[cfg(feature = "http")]
    pub(crate) fn unready(&self) -> Option<String> {
        self.coordinator.unready()
    }
}

/// Tells every machine of the topics as they are, and of those that are gone since it was `told`. One that is just being
/// loaded is told when it is.
fn tell(
    coordinator: &Coordinator<GroupMachine>,
    told: Option<Arc<Topics>>,
    topics: impl FnOnce() -> Arc<Topics>,
    has_loaded: bool,
) -> Option<Arc<Topics>> {
    let led = coordinator.led();
    if led.is_empty() {
        return None;
    }
    let topics = topics();
    if !has_loaded && told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &topics)) {
        return told;
    }
    let gone = told.map_or_else(Vec::new, |told| told.gone_from(&topics));
    for partition in led {
        // Nobody waits for these answers, and a machine that refuses is told again when it is loaded.
        if !gone.is_empty() {
            let gone = GroupRequest::TopicsDeleted(gone.clone());
            drop(coordinator.begin_at(partition, gone));
        }
        let changed = GroupRequest::TopicsChanged(Arc::clone(&topics));
        drop(coordinator.begin_at(partition, changed));
    }
    Some(topics)
}

/// The topics of the newest image, made once for all machines.
#[derive(Debug, Default)]
struct TopicsNow(Mutex<Option<(u64, Arc<Topics>)>>);

impl TopicsNow {
    fn of(&self, image: &Image) -> Arc<Topics> {
        let mut newest = self.0.lock();
        if let Some((version, topics)) = &*newest
            && *version == image.version
        {
            return Arc::clone(topics);
        }
        let info = |topic: &crate::metadata::TopicImage| TopicInfo {
            id: topic.id,
            partitions: topic.partition_count(),
        };
        let topics = image.topics_after("");
        let topics = topics.map(|topic| (Arc::clone(&topic.name), info(topic)));
        let topics = topics.collect::<Topics>();
        let topics = topics.with_deleted(Arc::clone(image.deleted()));
        // The same again where something else has changed, so that nobody need look at it.
        let topics = match &*newest {
            Some((_, before)) if **before == topics => Arc::clone(before),
            _ => Arc::new(topics),
        };
        *newest = Some((image.version, Arc::clone(&topics)));
        topics
    }
}

fn group_config(config: &Config) -> GroupConfig {
    let groups = &config.groups;
    GroupConfig {
        min_session_timeout: Duration::from_millis(groups.min_session_timeout_ms),
        max_session_timeout: Duration::from_millis(groups.max_session_timeout_ms),
        initial_rebalance_delay: Duration::from_millis(groups.initial_rebalance_delay_ms),
        max_size: groups.max_size,
        consumer_max_size: groups.consumer_max_size,
        consumer_session_timeout: Duration::from_millis(groups.consumer_session_timeout_ms),
        consumer_heartbeat_interval: Duration::from_millis(groups.consumer_heartbeat_interval_ms),
        offset_metadata_max_bytes: groups.offset_metadata_max_bytes,
        offsets_retention: Duration::from_millis(groups.offsets_retention_ms),
        offsets_retention_check_interval: Duration::from_millis(
            groups.offsets_retention_check_interval_ms,
        ),
        ..GroupConfig::default()
    }
}

impl From<GroupError> for ApiError {
    fn from(error: GroupError) -> Self {
        let hint = match error.code {
            ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch => {
                "nothing was changed; join the group again"
            }
            ErrorCode::StaleMemberEpoch | ErrorCode::IllegalGeneration => {
                "nothing was changed; the group has moved on, look whether the partition is still yours"
            }
            ErrorCode::NonEmptyGroup => "nothing was changed; stop them first",
            ErrorCode::GroupIdNotFound => "check the group's id",
            ErrorCode::GroupSubscribedToTopic => "stop the members that are subscribed first",
            _ => "",
        };
        Self::new(error.code, error.message).hint(hint)
    }
}

fn other_kind() -> ApiError {
    let message = "the coordinator gave an answer of another kind";
    ApiError::new(ErrorCode::UnknownServerError, message)
}

/// The answer, if it is of the kind that was asked for.
macro_rules! answer {
    ($kind:ident, $asked:expr) => {
        match $asked {
            Ok(GroupAnswer::$kind(answer)) => Ok(answer),
            Ok(_) => Err(other_kind()),
            Err(error) => Err(error),
        }
    };
}
use answer;

impl Service {
    /// Asks the coordinator of a group. The request has its place in the order when the future was first polled, unless
    /// the internal topic has to be made first.
    async fn ask(&self, group: &str, request: GroupRequest) -> Result<GroupAnswer, ApiError> {
        self.ensure_internal_topic(OFFSETS_TOPIC).await?;
        self.groups.coordinator.call(group, request).await
    }

    /// Asks the coordinator of a group what concerns the group as a whole, with the fault that this call is to suffer, if
    /// any.
    async fn ask_for(
        &self,
        ctx: &RequestContext,
        api: Api,
        group: &str,
        request: GroupRequest,
    ) -> Result<GroupAnswer, ApiError> {
        let work = || -> Work<'_, GroupAnswer> { Box::pin(self.ask(group, request.clone())) };
        self.suffer_in_group(ctx, api, group, [], work).await
    }

    /// Does `work` for a group, with the fault that this call is to suffer, if any. `targets` are the partitions that it
    /// concerns.
    async fn suffer_in_group<'a, T>(
        &'a self,
        ctx: &RequestContext,
        api: Api,
        group: &str,
        targets: impl IntoIterator<Item = (&str, Option<i32>), IntoIter: Clone>,
        work: impl Fn() -> Work<'a, T>,
    ) -> Result<T, ApiError> {
        match self
            .faults
            .hit_group(api, &ctx.client_id, &[group], targets)
        {
            None => work().await,
            Some(hit) => self.endure(ctx, &hit, work).await,
        }
    }

    /// Does what has to be done before a heartbeat can take its place in the order: afterwards it does with the first
    /// poll of [`Service::consumer_heartbeat`], which is to be given the fault.
    ///
    /// # Errors
    /// `COORDINATOR_NOT_AVAILABLE` if the internal topic cannot be made.
    pub(crate) async fn expect_heartbeat(
        &self,
        ctx: &RequestContext,
        group: &str,
    ) -> Result<Option<Hit>, ApiError> {
        self.ensure_internal_topic(OFFSETS_TOPIC).await?;
        let api = Api::ConsumerGroupHeartbeat;
        let hit = self.faults.hit_group(api, &ctx.client_id, &[group], []);
        if let Some(Action::Delay(by)) = hit.as_ref().map(|hit| hit.action) {
            crate::clock::sleep(by).await;
            return Ok(None);
        }
        Ok(hit)
    }

    /// A heartbeat of a member of the consumer protocol: joins, stays, leaves. May wait for news as long as the request
    /// says.
    ///
    /// # Errors
    /// The coordinator's (see [`Coordinator::call`]) and the machine's.
    pub(crate) async fn consumer_heartbeat(
        &self,
        ctx: &RequestContext,
        mut request: ConsumerHeartbeat,
        hit: Option<Hit>,
    ) -> Result<ConsumerHeartbeatAnswer, ApiError> {
        let Some(hit) = hit else {
            return self.beat(request).await;
        };
        if hit.action == Action::Duplicate {
            // The second must not wait until the first has waited.
            request.wait = None;
        }
        let work = || -> Work<'_, ConsumerHeartbeatAnswer> { Box::pin(self.beat(request.clone())) };
        // Boxed, so that the many heartbeats without a fault take no room for it.
        Box::pin(self.endure(ctx, &hit, work)).await
    }

    async fn beat(&self, request: ConsumerHeartbeat) -> Result<ConsumerHeartbeatAnswer, ApiError> {
        let group = Arc::clone(&request.group_id);
        let request = GroupRequest::ConsumerHeartbeat(Box::new(request));
        let answer = answer!(ConsumerHeartbeat, self.ask(&group, request).await)?;
        Ok(answer?)
    }

    /// An assignment by the names of its topics.
    pub(crate) fn named(&self, assignment: &Assignment) -> Named {
        describe::named(assignment, &self.image())
    }

    /// Commits offsets; what became of each, in order.
    ///
    /// # Errors
    /// What concerns the whole commit: the committer is no member (any more), the coordinator cannot be asked.
    pub(crate) async fn commit_offsets(
        &self,
        ctx: &RequestContext,
        mut commit: CommitOffsets,
    ) -> Result<Vec<Result<(), ApiError>>, ApiError> {
        let mut results = Vec::with_capacity(commit.offsets.len());
        let targets = commit
            .offsets
            .iter()
            .map(|o| (&*o.topic, Some(o.partition.get())));
        let groups = [&*commit.group_id];
        let hit = self
            .faults
            .hit_group(Api::OffsetCommit, &ctx.client_id, &groups, targets);
        let image = self.image();
        for offset in &mut commit.offsets {
            let fails = hit.as_ref().and_then(|hit| match hit.action {
                Action::Fail(code) if hit.covers(&offset.topic, Some(offset.partition.get())) => {
                    Some(injected(code))
                }
                _ => None,
            });
            results.push(fails.map_or_else(|| place(&image, offset), Err));
        }
        let hit = hit.filter(|hit| !matches!(hit.action, Action::Fail(_)));
        let mut good = results.iter().map(Result::is_ok);
        commit.offsets.retain(|_| good.next().unwrap_or(false));
        let commit = &commit;
        let work = || -> Work<'_, Vec<PartitionAnswer>> {
            Box::pin(async move {
                let request = GroupRequest::Commit(commit.clone());
                let answer = answer!(Commit, self.ask(&commit.group_id, request).await)?;
                Ok(answer?)
            })
        };
        let answers = match hit {
            None => work().await?,
            Some(hit) => self.endure(ctx, &hit, work).await?,
        };
        let mut answers = answers.into_iter();
        for result in results.iter_mut().filter(|result| result.is_ok()) {
            let answer = answers.next().ok_or_else(other_kind)?;
            *result = answer.result.map_err(ApiError::from);
        }
        Ok(results)
    }

    /// The committed offsets of one group.
    ///
    /// # Errors
    /// The coordinator's; for who says that it is a member: that it is none, or has another epoch.
    pub(crate) async fn fetch_offsets(
        &self,
        ctx: &RequestContext,
        fetch: FetchGroup,
    ) -> Result<Vec<FetchedOffset>, ApiError> {
        let fetch = &fetch;
        let work = || -> Work<'_, Vec<FetchedOffset>> { Box::pin(self.fetch_offsets_now(fetch)) };
        let targets = fetch.partitions.iter().flatten();
        let targets = targets.map(|(topic, partition)| (&**topic, Some(partition.get())));
        self.suffer_in_group(ctx, Api::OffsetFetch, &fetch.group_id, targets, work)
            .await
    }

    async fn fetch_offsets_now(&self, fetch: &FetchGroup) -> Result<Vec<FetchedOffset>, ApiError> {
        let request = GroupRequest::Fetch(vec![fetch.clone()]);
        let mut fetched = answer!(Fetch, self.ask(&fetch.group_id, request).await)?;
        let mut offsets = fetched.pop().ok_or_else(other_kind)?.result?;
        // The machine may not have been told yet that a topic was created anew.
        let image = self.image();
        for offset in &mut offsets {
            let topic = image.topics.get(&offset.topic);
            let is_of_another = |id| id != TopicId::ZERO && topic.is_some_and(|t| t.id != id);
            if offset
                .committed
                .as_ref()
                .is_some_and(|c| is_of_another(c.topic_id))
            {
                offset.committed = None;
            }
        }
        Ok(offsets)
    }

    /// Forgets committed offsets; what became of each.
    ///
    /// # Errors
    /// The coordinator's, and that there is no such group.
    pub(crate) async fn delete_offsets(
        &self,
        ctx: &RequestContext,
        delete: DeleteOffsets,
    ) -> Result<Vec<PartitionAnswer>, ApiError> {
        let delete = &delete;
        let work = || -> Work<'_, Vec<PartitionAnswer>> {
            Box::pin(async move {
                let request = GroupRequest::DeleteOffsets(delete.clone());
                let answer = answer!(DeleteOffsets, self.ask(&delete.group_id, request).await)?;
                Ok(answer?)
            })
        };
        let whole = delete.whole_topics.iter().map(|topic| (&**topic, None));
        let targets = delete.partitions.iter();
        let targets = targets.map(|(topic, partition)| (&**topic, Some(partition.get())));
        let targets = targets.chain(whole);
        self.suffer_in_group(ctx, Api::OffsetDelete, &delete.group_id, targets, work)
            .await
    }

    /// The groups that this broker coordinates and that pass the filters, by id.
    ///
    /// # Errors
    /// The coordinator's, if one of its partitions cannot be asked.
    pub(crate) async fn list_groups(
        &self,
        ctx: &RequestContext,
        filter: &ListGroups,
    ) -> Result<Vec<ListedGroup>, ApiError> {
        let work = || -> Work<'_, Vec<ListedGroup>> { Box::pin(self.list_groups_now(filter)) };
        self.suffer(ctx, Api::ListGroups, None, work).await
    }

    /// The groups that this broker coordinates, for its own sake, by partition of the table and id. What a partition of it
    /// does not tell before `until` is counted, not waited for.
    #[cfg(feature = "http")]
    pub(crate) async fn list_all_groups(&self, until: tokio::time::Instant) -> AllGroups {
        let coordinator = &self.groups.coordinator;
        // All are asked before any is waited for.
        let ask =
            |partition| coordinator.begin_at(partition, GroupRequest::List(ListGroups::default()));
        let asked: Vec<_> = coordinator.led().into_iter().map(ask).collect();
        let mut all = AllGroups::default();
        for pending in asked {
            let listed = match pending {
                Ok(pending) => tokio::time::timeout_at(until, pending.wait()).await.ok(),
                Err(error) => Some(Err(error)),
            };
            match listed {
                Some(Ok(GroupAnswer::List(listed))) => all.groups.extend(listed),
                listed => {
                    tracing::debug!(?listed, "the groups of a partition cannot be listed");
                    all.unlisted_partitions += 1;
                }
            }
        }
        all
    }

    async fn list_groups_now(&self, filter: &ListGroups) -> Result<Vec<ListedGroup>, ApiError> {
        let mut groups = Vec::new();
        for partition in self.groups.coordinator.led() {
            let request = GroupRequest::List(filter.clone());
            let asked = match self.groups.coordinator.begin_at(partition, request) {
                Ok(pending) => pending.wait().await,
                Err(error) => Err(error),
            };
            groups.extend(answer!(List, asked)?);
        }
        groups.sort_by(|one, other| one.group_id.cmp(&other.group_id));
        Ok(groups)
    }

    /// Deletes a group with its offsets.
    ///
    /// # Errors
    /// The coordinator's; `NON_EMPTY_GROUP`, `GROUP_ID_NOT_FOUND`.
    pub(crate) async fn delete_group(
        &self,
        ctx: &RequestContext,
        group: &Arc<str>,
    ) -> Result<(), ApiError> {
        let request = GroupRequest::DeleteGroups(vec![Arc::clone(group)]);
        let asked = self.ask_for(ctx, Api::DeleteGroups, group, request);
        let mut deleted = answer!(DeleteGroups, asked.await)?;
        deleted.pop().ok_or_else(other_kind)?.1?;
        tracing::info!(group = %group, principal = %ctx.principal, listener = %ctx.listener, client_id = %ctx.client_id,
            "deleted a group");
        Ok(())
    }
}

/// Checks that an offset can be committed for its partition, as far as the cluster's image tells, and says which topic is
/// meant: the machine may not have been told of it yet.
fn place(image: &Image, offset: &mut NewOffset) -> Result<(), ApiError> {
    let topic = image
        .topics
        .get(&offset.topic)
        .ok_or_else(|| ApiError::unknown_topic(&offset.topic))?;
    check_number(topic, offset.partition)?;
    if offset.topic_id == TopicId::ZERO || offset.topic_id == topic.id {
        offset.topic_id = topic.id;
        return Ok(());
    }
    let message = format!(
        "topic {:?} has id {}, not {}: it was created anew",
        offset.topic, topic.id, offset.topic_id
    );
    Err(ApiError::new(ErrorCode::UnknownTopicId, message)
        .hint("what was read of the earlier topic needs no commit any more"))
}

/// Whether a topic has this partition.
fn check_number(
    topic: &crate::metadata::TopicImage,
    partition: PartitionId,
) -> Result<(), ApiError> {
    if (0..topic.partition_count()).contains(&partition.get()) {
        return Ok(());
    }
    let count = topic.partitions.len();
    Err(ApiError::unknown_partition(&topic.name, partition, count))
}
