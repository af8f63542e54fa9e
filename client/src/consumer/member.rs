//! What a consumer and its task share: membership, partitions, commits. One lock, held for a few lines at a time.
//!
//! The task speaks with the group: it learns the target (what is to be read) and says what is owned. The consumer moves
//! what is owned towards the target while it is polled. A partition becomes owned only while the target names it, under
//! the same lock under which heartbeats are written, so that none says too little or too much.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{PartitionId, TopicId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::commits::{CommitFuture, Queue};
use super::partitions::Partitions;
use crate::clock::wait_until;
use crate::config::ConsumerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::ConsumerCounters;
use crate::topic_partition::TopicPartition;

/// The epochs that join and leave.
pub(super) const JOIN: i32 = 0;
const LEAVE: i32 = -1;
const LEAVE_FOR_A_WHILE: i32 = -2;

/// Partitions with the ids of their topics.
pub(super) type Target = BTreeMap<TopicPartition, TopicId>;

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subscription {
    Topics(Vec<String>),
    Pattern(String),
}

impl Subscription {
    fn check(&self) -> Result<()> {
        match self {
            Self::Topics(topics) if topics.is_empty() => {
                let error = Error::invalid("there is no topic to subscribe to");
                Err(error
                    .with_action("name at least one, or close the consumer to leave the group"))
            }
            Self::Topics(topics) if topics.iter().any(String::is_empty) => {
                Err(Error::invalid("a topic to subscribe to has an empty name"))
            }
            Self::Pattern(pattern) if pattern.is_empty() => {
                let error = Error::invalid("the pattern to subscribe to is empty");
                Err(error.with_action("for all topics, subscribe to \".*\""))
            }
            _ => Ok(()),
        }
    }
}

impl From<&Subscription> for v1::Subscription {
    fn from(subscription: &Subscription) -> Self {
        match subscription {
            Subscription::Topics(topics) => Self {
                topics: topics.clone(),
                topic_regex: String::new(),
            },
            Subscription::Pattern(pattern) => Self {
                topics: Vec::new(),
                topic_regex: pattern.clone(),
            },
        }
    }
}

/// Where membership stands.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Nothing is to be read.
    Idle,
    /// To become a member.
    Joining,
    Member,
    /// Removed from the group, and why; joins again when it is polled.
    Lost(Error),
    /// Cannot be a member as it is.
    Failed(Error),
    /// Closed.
    Left,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) epoch: i32,
    pub(super) subscription: Option<Subscription>,
    /// What the group wants it to read; none until it has said so.
    pub(super) target: Option<Target>,
    /// Counts how often that has changed.
    pub(super) target_version: u64,
    pub(super) partitions: Partitions,
    pub(super) queue: Queue,
    /// What is owned may not be what is to be read.
    pub(super) unsettled: bool,
    /// What the next heartbeat has to say.
    say_subscription: bool,
    say_owned: bool,
    /// Nobody has looked yet whether there are the topics that are subscribed to.
    look_for_topics: bool,
    pub(super) polled: bool,
    /// The group cannot be reached, for longer than the application wants to wait in silence.
    pub(super) trouble: Option<Error>,
    /// Wakes whoever polls the consumer.
    waker: Option<Waker>,
    /// The consumer is closed: until then what is left has to be done.
    pub(super) ending: Option<Instant>,
    /// Whether it took its leave, or why not.
    pub(super) farewell: Option<Result<()>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: ConsumerConfig,
    pub(super) member_id: String,
    state: Mutex<State>,
    /// There may be something for heartbeats to say.
    pub(super) beat: Notify,
    /// There may be something to commit.
    pub(super) commit: Notify,
    /// The epoch has changed.
    pub(super) epoch_moved: Notify,
    pub(super) counters: ConsumerCounters,
}

impl Shared {
    pub(super) fn new(config: ConsumerConfig) -> Self {
        Self {
            config,
            // A random UUID, which is what KIP-848 wants.
            member_id: TopicId::random().to_string(),
            state: Mutex::new(State {
                phase: Phase::Idle,
                epoch: JOIN,
                subscription: None,
                target: None,
                target_version: 0,
                partitions: Partitions::default(),
                queue: Queue::default(),
                unsettled: false,
                say_subscription: false,
                say_owned: false,
                look_for_topics: false,
                polled: false,
                trouble: None,
                waker: None,
                ending: None,
                farewell: None,
            }),
            beat: Notify::new(),
            commit: Notify::new(),
            epoch_moved: Notify::new(),
            counters: ConsumerCounters::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Wakes whoever polls the consumer. Not while the lock is held: what is woken may run at once.
    pub(super) fn wake(&self) {
        let waker = self.state.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for something, but not beyond the consumer's end. What `notify` tells meanwhile is looked at afterwards.
    pub(super) async fn until_the_end<T>(
        &self,
        notify: &Notify,
        wanted: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(wanted);
        loop {
            let ending = self.lock().ending;
            tokio::select! {
                biased;
                done = &mut wanted => return Some(done),
                () = wait_until(ending) => return None,
                () = notify.notified(), if ending.is_none() => {}
            }
        }
    }

    /// # Errors
    /// If there is nothing to read in it, or the consumer is closed, or was put out of the group for good.
    pub(super) fn subscribe(&self, subscription: Subscription) -> Result<()> {
        subscription.check()?;
        let mut state = self.lock();
        match &state.phase {
            Phase::Failed(error) if error.kind() == ErrorKind::Fenced => return Err(error.clone()),
            Phase::Left => return Err(Error::closed("consumer")),
            _ => {}
        }
        state.say_subscription |= state.subscription.as_ref() != Some(&subscription);
        state.subscription = Some(subscription);
        state.look_for_topics = true;
        match state.phase {
            Phase::Idle => state.phase = Phase::Joining,
            // What it owned, if anything, is to be let go of first.
            Phase::Failed(_) => {
                let why = Error::new(ErrorKind::Fenced, "it is subscribed anew");
                state.phase = Phase::Lost(why);
            }
            _ => {}
        }
        drop(state);
        self.beat.notify_one();
        Ok(())
    }

    /// Puts marks into the queue, unless an automatic commit is in it already.
    pub(super) fn commit_automatically(&self) {
        let mut state = self.lock();
        if state.queue.has_automatic || state.ending.is_some() {
            return;
        }
        let entries = state.partitions.take_new_marks(|_| true);
        if !entries.is_empty() {
            let until = Instant::now() + self.config.commit_timeout;
            drop(state.queue.push(entries, until, true));
            drop(state);
            self.commit.notify_one();
        }
    }

    /// Commits if so many records were marked that it is time.
    pub(super) fn commit_if_many(&self) {
        let every = self.config.commit_every;
        if every > 0 && self.config.commits_marks() && self.lock().partitions.marked() >= every {
            self.commit_automatically();
        }
    }

    /// Commits what is marked of partitions that are to be let go of, if that is automatic. The result is told after all
    /// earlier commits are decided, also if there is nothing to commit.
    pub(super) fn commit_before_letting_go(
        &self,
        places: &[TopicPartition],
        until: Instant,
    ) -> CommitFuture {
        let mut state = self.lock();
        let entries = match self.config.commits_marks() {
            // Also what is in the queue already: if that fails, nobody is told.
            true => state
                .partitions
                .take_uncommitted_marks(|place| places.contains(place)),
            false => Vec::new(),
        };
        // Whatever else is in the queue: this one is needed.
        let until = until.min(Instant::now() + self.config.commit_timeout);
        let outcome = state.queue.push(entries, until, false);
        drop(state);
        self.commit.notify_one();
        outcome
    }

    /// The epoch that takes leave.
    pub(super) fn leaving_epoch(&self) -> i32 {
        match self.config.instance_id {
            Some(_) => LEAVE_FOR_A_WHILE,
            None => LEAVE,
        }
    }
}

impl State {
    /// Has whoever polls the consumer woken when something changes.
    pub(super) fn wake_later(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Whether to be, or to become, a member.
    pub(super) fn wants_membership(&self) -> bool {
        matches!(self.phase, Phase::Joining | Phase::Member)
    }

    /// What is owned and is not to be read any more.
    pub(super) fn to_revoke(&self) -> Vec<TopicPartition> {
        let (Some(target), Phase::Member) = (&self.target, &self.phase) else {
            return Vec::new();
        };
        let owned = self.partitions.iter();
        owned
            .filter(|(place, owned)| target.get(*place) != Some(&owned.topic_id))
            .map(|(place, _)| place.clone())
            .collect()
    }

    /// What is to be read and is not owned.
    pub(super) fn to_add(&self) -> Target {
        let (Some(target), Phase::Member) = (&self.target, &self.phase) else {
            return Target::new();
        };
        let missing = target
            .iter()
            .filter(|(place, _)| self.partitions.get(place).is_none());
        missing.map(|(place, id)| (place.clone(), *id)).collect()
    }

    /// Whether nothing is owned that is not to be read.
    fn has_let_go(&self) -> bool {
        let target = self.target.as_ref();
        self.partitions
            .iter()
            .all(|(place, owned)| target.and_then(|t| t.get(place)) == Some(&owned.topic_id))
    }

    /// What is owned has changed.
    pub(super) const fn owned_changed(&mut self) {
        self.say_owned = true;
    }

    /// Whether a heartbeat is due before its time.
    pub(super) fn has_something_to_say(&self) -> bool {
        self.say_subscription || (self.say_owned && self.has_let_go())
    }

    /// Topics of which nobody has looked yet whether they exist.
    pub(super) fn topics_to_look_for(&mut self) -> Vec<String> {
        match &self.subscription {
            Some(Subscription::Topics(topics)) if std::mem::take(&mut self.look_for_topics) => {
                topics.clone()
            }
            _ => Vec::new(),
        }
    }

    /// The next heartbeat; one that is `full` says everything. Whoever waits for records has to be woken after it: it polls
    /// once more by that, and so the next heartbeat says that somebody does.
    pub(super) fn heartbeat(
        &mut self,
        shared: &Shared,
        full: bool,
        overtakes: bool,
    ) -> v1::ConsumerGroupHeartbeatRequest {
        let config = &shared.config;
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let full = full || self.epoch == JOIN;
        let mut request = v1::ConsumerGroupHeartbeatRequest {
            group_id: config.group_id.clone(),
            member_id: shared.member_id.clone(),
            member_epoch: self.epoch,
            // With each: by it the broker sees that nobody has taken the member's place.
            instance_id: config.instance_id.clone(),
            polled: std::mem::take(&mut self.polled),
            max_poll_interval_ms: millis(config.max_poll_interval),
            ..Default::default()
        };
        if full {
            request.rack_id.clone_from(&config.rack_id);
            request.rebalance_timeout_ms = Some(millis(config.max_poll_interval));
            request.server_assignor.clone_from(&config.server_assignor);
        }
        if full || self.say_subscription {
            request.subscription = self.subscription.as_ref().map(Into::into);
            self.say_subscription = false;
        }
        let acknowledges = self.say_owned && self.has_let_go();
        if full || overtakes || acknowledges {
            request.owned = Some(self.owned());
            self.say_owned &= !(full || acknowledges);
        }
        request
    }

    /// What the group is told that this member owns: also what it is about to take over. If that were left out, the group
    /// might give it to another meanwhile.
    fn owned(&self) -> v1::Assignment {
        let owned = self.partitions.iter();
        let owned = owned.map(|(place, owned)| (place, owned.topic_id));
        let target = self.target.iter().flatten().map(|(place, id)| (place, *id));
        let all: BTreeSet<(&TopicPartition, TopicId)> = owned.chain(target).collect();
        let mut topics: BTreeMap<(&str, TopicId), Vec<i32>> = BTreeMap::new();
        for (place, id) in all {
            let partitions = topics.entry((&place.topic, id)).or_default();
            partitions.push(place.partition.get());
        }
        let topics = topics
            .into_iter()
            .map(|((topic, id), partitions)| v1::TopicPartitions {
                topic: topic.to_owned(),
                topic_id: id.get().to_vec().into(),
                partitions,
            });
        v1::Assignment {
            topics: topics.collect(),
        }
    }

    /// Takes an answer without error in. Returns whether there is news in it.
    pub(super) fn hear(
        &mut self,
        shared: &Shared,
        answer: v1::ConsumerGroupHeartbeatResponse,
    ) -> bool {
        let joined = matches!(self.phase, Phase::Joining);
        let moved = self.epoch != answer.member_epoch;
        if joined {
            self.phase = Phase::Member;
            shared.counters.joins.add(1);
        }
        self.trouble = None;
        self.epoch = answer.member_epoch;
        let is_news = joined || moved || answer.assignment.is_some();
        if let Some(assignment) = answer.assignment {
            let target = target_of(assignment);
            if self.target.as_ref() != Some(&target) {
                shared.counters.rebalances.add(1);
                self.target_version += 1;
            }
            self.target = Some(target);
            self.unsettled = true;
            // Also if nothing changes: the group waits to hear what is owned.
            self.say_owned = true;
        }
        if moved {
            shared.epoch_moved.notify_one();
        }
        is_news
    }

    /// It is no member any more.
    pub(super) fn lose(&mut self, shared: &Shared, why: Error) {
        self.phase = Phase::Lost(why);
        self.leave_behind(shared);
    }

    /// It cannot be a member.
    pub(super) fn fail(&mut self, shared: &Shared, why: Error) {
        self.phase = Phase::Failed(why);
        self.leave_behind(shared);
    }

    fn leave_behind(&mut self, shared: &Shared) {
        self.epoch = JOIN;
        self.target = None;
        self.target_version += 1;
        shared.epoch_moved.notify_one();
    }
}

fn target_of(assignment: v1::Assignment) -> Target {
    let mut target = Target::new();
    for topic in assignment.topics {
        let id = TopicId::from_slice(&topic.topic_id).unwrap_or_default();
        let name: Arc<str> = topic.topic.into();
        for partition in topic.partitions {
            let place = TopicPartition::new(Arc::clone(&name), PartitionId::new(partition));
            target.insert(place, id);
        }
    }
    target
}
