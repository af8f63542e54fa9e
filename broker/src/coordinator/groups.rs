//! Groups and committed offsets: the state machine of one partition of `__consumer_offsets`.
//!
//! Two kinds of groups, the classic protocol (`classic.rs`) and KIP-848 (`consumer.rs`); a group is of one kind at a
//! time and may change it when it is empty. Everything of a group lies in one partition, so that a commit and the
//! membership that it is fenced by are decided in one place.
//!
//! Durable state (`state.rs`) is what the records say. Beside it there is what dies with the coordinator: sessions, who
//! waits, and how far a classic group has got in a rebalance. Answers that need no record may tell of state whose
//! record is not committed yet; the runner holds them back until it is.

mod admin;
pub(crate) mod answer;
mod assignors;
mod classic;
pub(crate) mod config;
mod consumer;
pub(crate) mod ids;
mod offsets;
mod patterns;
pub(crate) mod records;
pub(crate) mod request;
mod scene;
mod state;
#[cfg(test)]
mod tests;
mod timers;
pub(crate) mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::ErrorCode;

pub(crate) use self::classic::{assigned_partitions, subscribed_topics};

use self::answer::{GroupAnswer, GroupError};
use self::classic::ClassicGroup;
use self::config::{GroupConfig, NewUuid};
use self::ids::{GroupId, MAX_NAME_BYTES};
use self::offsets::Housekeeping;
use self::records::GroupRecord;
use self::request::GroupRequest;
use self::scene::{Decision, Waiting};
use self::state::State;
use self::timers::{Timer, Timers};
use self::topics::Topics;
use super::machine::{CallId, Due, Effects, Machine, Now, ReplayError, StateRecord};

/// The groups of one partition of `__consumer_offsets`.
pub(crate) struct GroupMachine {
    config: GroupConfig,
    new_uuid: NewUuid,
    topics: Arc<Topics>,
    /// All that lasts; changed by [`Machine::replay`] alone.
    state: State,
    /// Classic groups as they are now. Every written one is here once the machine serves.
    classic: BTreeMap<GroupId, ClassicGroup>,
    /// What is transient of KIP-848 groups.
    consumer: BTreeMap<GroupId, consumer::Live>,
    timers: Timers,
    waiting: Waiting,
    idlers: consumer::Idlers,
    housekeeping: Housekeeping,
    /// The latest session time seen.
    session: Duration,
}

impl GroupMachine {
    /// A machine that knows of no group yet. `topics` are those of now: it must not take an image that is merely not
    /// there yet for one without topics.
    pub(crate) fn new(config: GroupConfig, topics: Arc<Topics>, new_uuid: NewUuid) -> Self {
        Self {
            config,
            new_uuid,
            topics,
            state: State::default(),
            classic: BTreeMap::new(),
            consumer: BTreeMap::new(),
            timers: Timers::default(),
            waiting: Waiting::new(),
            idlers: consumer::Idlers::default(),
            housekeeping: Housekeeping::default(),
            session: Duration::ZERO,
        }
    }

    /// Decides what is answered at once. Joins, syncs, KIP-848 heartbeats and deletions answer by themselves.
    fn decide(
        &mut self,
        call: CallId,
        request: GroupRequest,
        now: Now,
        decision: &mut Decision,
    ) -> Option<GroupAnswer> {
        let answer = match request {
            GroupRequest::Join(request) => {
                self.join(call, request, now, decision);
                return None;
            }
            GroupRequest::Sync(request) => {
                self.sync(call, request, now, decision);
                return None;
            }
            GroupRequest::ConsumerHeartbeat(request) => {
                self.consumer_heartbeat(call, &request, now, decision);
                return None;
            }
            GroupRequest::Heartbeat(request) => {
                GroupAnswer::Heartbeat(self.heartbeat(&request, now, decision))
            }
            GroupRequest::Leave(request) => GroupAnswer::Leave(self.leave(request, now, decision)),
            GroupRequest::Commit(request) => {
                GroupAnswer::Commit(self.commit(&request, now, decision))
            }
            GroupRequest::Fetch(requests) => GroupAnswer::Fetch(
                requests
                    .into_iter()
                    .map(|request| self.fetch(request))
                    .collect(),
            ),
            GroupRequest::DeleteOffsets(request) => {
                GroupAnswer::DeleteOffsets(self.delete_offsets(&request, decision))
            }
            GroupRequest::Reset(request) => GroupAnswer::Reset(self.reset(&request, now, decision)),
            GroupRequest::DescribeClassic(ids) => {
                let described = ids
                    .into_iter()
                    .map(|id| (Arc::clone(&id), self.describe_classic(&id)));
                GroupAnswer::DescribeClassic(described.collect())
            }
            GroupRequest::DescribeConsumer(ids) => {
                let described = ids
                    .into_iter()
                    .map(|id| (Arc::clone(&id), self.describe_consumer(&id)));
                GroupAnswer::DescribeConsumer(described.collect())
            }
            GroupRequest::List(request) => GroupAnswer::List(self.list(&request)),
            GroupRequest::DeleteGroups(ids) => {
                self.delete_groups(call, ids, decision);
                return None;
            }
            GroupRequest::TopicsChanged(topics) => {
                self.topics = topics;
                self.sweep_deleted();
                self.refresh_consumers(now);
                GroupAnswer::Done
            }
            GroupRequest::TopicsDeleted(topics) => {
                self.note_deleted(topics);
                GroupAnswer::Done
            }
        };
        Some(answer)
    }

    fn on_timer(&mut self, timer: Timer, now: Now, decision: &mut Decision) {
        match timer {
            Timer::ClassicSession(..) | Timer::ClassicJoin(_) | Timer::ClassicSync(_) => {
                self.on_classic_timer(&timer, now, decision);
            }
            Timer::ConsumerSession(..)
            | Timer::ConsumerRebalance(..)
            | Timer::ConsumerPoll(..)
            | Timer::ConsumerWait(..)
            | Timer::ConsumerNews(_) => self.on_consumer_timer(timer, now, decision),
        }
    }
}

impl Machine for GroupMachine {
    type Request = GroupRequest;
    type Answer = GroupAnswer;

    fn handle(&mut self, call: CallId, request: GroupRequest, now: Now) -> Effects<GroupAnswer> {
        self.session = now.session;
        let mut decision = Decision::default();
        if let Some(answer) = self.decide(call, request, now, &mut decision) {
            decision.answers.push((call, answer));
        }
        decision.into_effects()
    }

    fn abandon(&mut self, call: CallId) {
        self.housekeeping.abandon(call);
        if let Some((group, member)) = self.waiting.remove(&call) {
            self.abandon_classic(call, &group, &member);
            self.abandon_consumer(call, &group, &member);
        }
    }

    fn replay(&mut self, record: &StateRecord, _now: Now) -> Result<(), ReplayError> {
        let decoded = GroupRecord::decode(record).map_err(|error| {
            ReplayError::new(format!(
                "{error}, in a record with a key of {} bytes",
                record.key.len()
            ))
        })?;
        self.state.apply(decoded);
        Ok(())
    }

    fn loaded(&mut self, now: Now) {
        self.session = now.session;
        self.load_classic(now);
        self.load_consumers(now);
        self.start_housekeeping(now);
    }

    fn next_due(&self) -> Due {
        Due {
            wall: self.next_housekeeping(),
            session: self.timers.next(),
        }
    }

    /// Stops after the first timer that writes: the next one must see what was written.
    fn on_time(&mut self, now: Now) -> Effects<GroupAnswer> {
        self.session = now.session;
        let mut decision = Decision::default();
        while decision.records.is_empty()
            && let Some(timer) = self.timers.pop(now.session)
        {
            self.on_timer(timer, now, &mut decision);
        }
        if decision.records.is_empty() {
            self.keep_house(now, &mut decision);
        }
        decision.into_effects()
    }

    fn snapshot(&self) -> Vec<StateRecord> {
        self.state
            .records()
            .iter()
            .map(GroupRecord::encode)
            .collect()
    }
}

/// Checks the id of a group that is to have members.
///
/// # Errors
/// INVALID_GROUP_ID.
fn check_group_id(id: &str) -> Result<(), GroupError> {
    if !id.is_empty() && id.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let message = format!(
        "a group id of {} bytes; 1 to {MAX_NAME_BYTES} are allowed",
        id.len()
    );
    Err(GroupError::new(ErrorCode::InvalidGroupId, message))
}

/// Checks any other name.
///
/// # Errors
/// INVALID_REQUEST.
fn check_name(name: &str) -> Result<(), GroupError> {
    if name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let message = format!(
        "a name of {} bytes; at most {MAX_NAME_BYTES} are allowed",
        name.len()
    );
    Err(GroupError::new(ErrorCode::InvalidRequest, message))
}
