//! What the tests of groups share: a machine with its log, run as its runner runs it.

mod golden;
mod limits;
mod recorded;
mod replay;
mod sim;
mod speed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
use uuid::Uuid;

use super::answer::*;
use super::config::GroupConfig;
use super::ids::*;
use super::request::*;
use super::topics::{TopicInfo, Topics};
use super::*;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY_MS: i64 = 86_400_000;

/// A machine, the log of its records, the time, and answers that nobody has taken yet.
pub(super) struct Harness {
    pub(super) machine: GroupMachine,
    pub(super) config: GroupConfig,
    pub(super) topics: Arc<Topics>,
    pub(super) log: Vec<StateRecord>,
    pub(super) now: Now,
    pub(super) answers: BTreeMap<CallId, GroupAnswer>,
    next_call: u64,
    uuids: u128,
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// Without an initial delay, so that tests which are not about it need not wait.
    pub(super) fn with(change: impl FnOnce(&mut GroupConfig)) -> Self {
        let mut config = GroupConfig {
            initial_rebalance_delay: Duration::ZERO,
            ..GroupConfig::default()
        };
        change(&mut config);
        let topics = Arc::new(topics(&[("orders", 1, 4), ("payments", 2, 2)]));
        let mut harness = Self {
            machine: machine(&config, &topics, 0),
            config,
            topics,
            log: Vec::new(),
            now: Now {
                wall: Timestamp::new(1_000 * DAY_MS),
                session: Duration::ZERO,
            },
            answers: BTreeMap::new(),
            next_call: 0,
            uuids: 0,
        };
        harness.machine.loaded(harness.now);
        harness
    }

    pub(super) fn send(&mut self, request: GroupRequest) -> CallId {
        self.next_call += 1;
        let call = CallId::new(self.next_call);
        let effects = self.machine.handle(call, request, self.now);
        self.apply(effects);
        self.settle();
        call
    }

    pub(super) fn ask(&mut self, request: GroupRequest) -> GroupAnswer {
        let call = self.send(request);
        self.answers
            .remove(&call)
            .expect("the answer comes at once")
    }

    fn apply(&mut self, effects: Effects<GroupAnswer>) {
        for record in effects.records {
            self.machine.replay(&record, self.now).unwrap();
            self.log.push(record);
        }
        for (call, answer) in effects.answers {
            assert!(
                self.answers.insert(call, answer).is_none(),
                "call {} is answered twice",
                call.get()
            );
        }
    }

    /// Does what is due now.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            let Due { wall, session } = self.machine.next_due();
            if wall.is_none_or(|at| at > self.now.wall)
                && session.is_none_or(|at| at > self.now.session)
            {
                return;
            }
            let effects = self.machine.on_time(self.now);
            self.apply(effects);
        }
        panic!("what is due does not end");
    }

    /// Lets session time pass, with everything done when it is due.
    pub(super) fn pass(&mut self, span: Duration) {
        let end = self.now.session + span;
        while let Some(at) = self.machine.next_due().session.filter(|at| *at <= end) {
            self.now.session = at.max(self.now.session);
            self.settle();
        }
        self.now.session = end;
    }

    pub(super) fn pass_wall(&mut self, millis: i64) {
        self.now.wall = Timestamp::new(self.now.wall.get() + millis);
        self.settle();
    }

    /// Drops the machine and loads another from the log; or from a snapshot, which must come to the same.
    pub(super) fn restart(&mut self) {
        self.check_replay();
        self.uuids += 1_000_000;
        let mut machine = machine(&self.config, &self.topics, self.uuids);
        for record in &self.log {
            machine.replay(record, self.now).unwrap();
        }
        self.now.session = Duration::ZERO;
        machine.loaded(self.now);
        self.machine = machine;
        self.settle();
    }

    /// Replaying the log, or the snapshot, gives the state that the machine has.
    pub(super) fn check_replay(&self) {
        for records in [&self.log, &self.machine.snapshot()] {
            let mut other = machine(&self.config, &self.topics, 0);
            for record in records {
                other.replay(record, self.now).unwrap();
            }
            assert_eq!(other.state, self.machine.state);
        }
    }

    pub(super) fn set_topics(&mut self, changed: &[(&str, u8, i32)]) {
        self.topics = Arc::new(topics(changed));
        let event = GroupRequest::TopicsChanged(Arc::clone(&self.topics));
        assert_eq!(self.ask(event), GroupAnswer::Done);
    }

    pub(super) fn take_join(&mut self, call: CallId) -> Option<JoinAnswer> {
        match self.answers.remove(&call)? {
            GroupAnswer::Join(answer) => Some(answer),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn take_sync(&mut self, call: CallId) -> Option<Result<Synced, ErrorCode>> {
        match self.answers.remove(&call)? {
            GroupAnswer::Sync(answer) => Some(answer.map_err(|e| e.code)),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn beat(
        &mut self,
        request: ConsumerHeartbeat,
    ) -> Result<ConsumerHeartbeatAnswer, ErrorCode> {
        match self.ask(GroupRequest::ConsumerHeartbeat(Box::new(request))) {
            GroupAnswer::ConsumerHeartbeat(answer) => answer.map_err(|e| e.code),
            other => panic!("{other:?}"),
        }
    }

    /// Commits one offset of partition 0 of "orders" with a short metadata string; the error, if any.
    pub(super) fn commit(
        &mut self,
        group: &str,
        member: &str,
        epoch: i32,
        offset: i64,
    ) -> ErrorCode {
        self.commit_all(group, member, epoch, vec![new_offset("orders", 0, offset)])[0]
    }

    pub(super) fn commit_all(
        &mut self,
        group: &str,
        member: &str,
        epoch: i32,
        offsets: Vec<NewOffset>,
    ) -> Vec<ErrorCode> {
        let count = offsets.len();
        let commit = CommitOffsets {
            group_id: group.into(),
            member_id: member.into(),
            instance_id: None,
            generation_or_epoch: epoch,
            knows_epochs: true,
            retention: None,
            offsets,
        };
        match self.ask(GroupRequest::Commit(commit)) {
            GroupAnswer::Commit(Err(error)) => vec![error.code; count],
            GroupAnswer::Commit(Ok(answers)) => answers.iter().map(|a| code(&a.result)).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// The offset of partition 0 of "orders".
    pub(super) fn committed(&mut self, group: &str) -> Option<i64> {
        let fetch = FetchGroup {
            group_id: group.into(),
            member_id: "".into(),
            member_epoch: Epoch::LEAVE,
            partitions: Some(vec![("orders".into(), PartitionId::new(0))]),
            require_stable: false,
        };
        let GroupAnswer::Fetch(mut groups) = self.ask(GroupRequest::Fetch(vec![fetch])) else {
            panic!("a fetch is answered");
        };
        let offsets = groups.remove(0).result.unwrap();
        offsets[0].committed.as_ref().map(|c| c.offset.get())
    }

    pub(super) fn state_of(&mut self, group: &str) -> &'static str {
        let GroupAnswer::List(groups) = self.ask(GroupRequest::List(ListGroups::default())) else {
            panic!("a list is answered");
        };
        groups
            .iter()
            .find(|g| &*g.group_id == group)
            .map_or("none", |g| g.state)
    }

    pub(super) fn delete_group(&mut self, group: &str) -> ErrorCode {
        match self.ask(GroupRequest::DeleteGroups(vec![group.into()])) {
            GroupAnswer::DeleteGroups(answers) => code(&answers[0].1),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn code<T>(result: &Result<T, GroupError>) -> ErrorCode {
    result.as_ref().err().map_or(ErrorCode::None, |e| e.code)
}

fn machine(config: &GroupConfig, topics: &Arc<Topics>, uuids: u128) -> GroupMachine {
    let mut next = uuids;
    let new_uuid = Box::new(move || {
        next += 1;
        Uuid::from_u128(next)
    });
    GroupMachine::new(config.clone(), Arc::clone(topics), new_uuid)
}

/// Topics as (name, id, partitions).
pub(super) fn topics(all: &[(&str, u8, i32)]) -> Topics {
    let info = |id: u8, partitions: i32| TopicInfo {
        id: topic_id(id),
        partitions,
    };
    all.iter()
        .map(|(name, id, partitions)| (Arc::from(*name), info(*id, *partitions)))
        .collect()
}

pub(super) fn topic_id(number: u8) -> TopicId {
    TopicId::new([number; 16])
}

pub(super) fn new_offset(topic: &str, partition: i32, offset: i64) -> NewOffset {
    NewOffset {
        topic: topic.into(),
        topic_id: TopicId::ZERO,
        partition: PartitionId::new(partition),
        offset: Offset::new(offset),
        leader_epoch: LeaderEpoch::new(3),
        metadata: "m".into(),
        committed_at: None,
    }
}

/// Partitions of the topic with the id 1.
pub(super) fn partitions(numbers: &[i32]) -> Assignment {
    numbers
        .iter()
        .map(|n| (topic_id(1), PartitionId::new(*n)))
        .collect()
}

/// A classic consumer's join, with one protocol and a subscription to "orders".
pub(super) fn join(group: &str, member: &str) -> JoinGroup {
    JoinGroup {
        group_id: group.into(),
        member_id: member.into(),
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout: 10 * SECOND,
        rebalance_timeout: 60 * SECOND,
        protocol_type: "consumer".into(),
        protocols: vec![protocol("range")],
        member_id_required: false,
        can_skip_assignment: true,
    }
}

pub(super) fn protocol(name: &str) -> Protocol {
    let metadata = Bytes::from_static(b"\0\0\0\0\0\x01\0\x06orders\xff\xff\xff\xff");
    Protocol {
        name: name.into(),
        metadata,
    }
}

/// A KIP-848 member's first heartbeat, with a subscription to "orders".
pub(super) fn first_beat(group: &str, member: &str) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        member_epoch: Epoch::JOIN,
        rebalance_timeout: Some(60 * SECOND),
        topic_names: Some(vec!["orders".into()]),
        owned: Some(Assignment::default()),
        ..next_beat(group, member, 0)
    }
}

/// A later one that says nothing new.
pub(super) fn next_beat(group: &str, member: &str, epoch: i32) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        group_id: group.into(),
        member_id: member.into(),
        member_epoch: Epoch::new(epoch),
        instance_id: None,
        rack_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout: None,
        topic_names: None,
        topic_regex: None,
        server_assignor: None,
        owned: None,
        poll: None,
        wait: None,
    }
}

/// One that says what the member owns.
pub(super) fn owning(group: &str, member: &str, epoch: i32, owned: &[i32]) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        owned: Some(partitions(owned)),
        ..next_beat(group, member, epoch)
    }
}
