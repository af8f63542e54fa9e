//! A client of the classic protocol, eager: it lets go of everything before it joins again.

use super::*;

#[derive(Debug)]
enum Step {
    Stopped,
    Join,
    Joining(CallId),
    Sync,
    Syncing(CallId),
    Stable,
}

pub(super) struct ClassicClient {
    number: usize,
    step: Step,
    member_id: String,
    instance_id: Option<InstanceId>,
    generation: i32,
    /// What it is to assign, if it leads.
    leads: Option<Vec<MemberId>>,
    /// Position by partition.
    owned: BTreeMap<i32, i64>,
    runs: usize,
}

impl ClassicClient {
    fn reset(&mut self, step: Step) {
        self.owned.clear();
        self.step = step;
    }

    /// What an error means to a client.
    fn on_error(&mut self, code: ErrorCode) {
        match code {
            ErrorCode::FencedInstanceId => self.reset(Step::Stopped),
            ErrorCode::UnknownMemberId => {
                self.member_id.clear();
                self.reset(Step::Join);
            }
            _ => self.reset(Step::Join),
        }
    }

    fn send_join(&mut self, world: &mut World) {
        self.owned.clear();
        let mut request = join(GROUP, &self.member_id);
        request.instance_id.clone_from(&self.instance_id);
        request.member_id_required = self.number.is_multiple_of(2);
        request.can_skip_assignment = self.number.is_multiple_of(3);
        request.rebalance_timeout = 15 * SECOND;
        self.step = Step::Joining(world.harness.send(GroupRequest::Join(request)));
    }

    fn take_join(&mut self, call: CallId, world: &mut World) {
        let Some(answer) = world.harness.take_join(call) else {
            return;
        };
        if world.loses() {
            self.step = Step::Join;
            return;
        }
        match answer.result {
            Ok(joined) => {
                self.member_id = answer.member_id.to_string();
                self.generation = joined.generation.get();
                let leads = joined.leader == answer.member_id && !joined.skip_assignment;
                let ids = joined.members.into_iter().map(|m| m.member_id).collect();
                self.leads = leads.then_some(ids);
                self.step = Step::Sync;
            }
            Err(error) if error.code == ErrorCode::MemberIdRequired => {
                self.member_id = answer.member_id.to_string();
                self.step = Step::Join;
            }
            Err(error) => self.on_error(error.code),
        }
    }

    fn send_sync(&mut self, world: &mut World) {
        let mut shares: BTreeMap<MemberId, Vec<u8>> = BTreeMap::new();
        if let Some(members) = &self.leads {
            for (partition, member) in (0..world.partitions).zip(members.iter().cycle()) {
                let share = shares.entry(Arc::clone(member)).or_default();
                share.push(u8::try_from(partition).unwrap());
            }
        }
        let request = SyncGroup {
            group_id: GROUP.into(),
            generation: Generation::new(self.generation),
            member_id: self.member_id.as_str().into(),
            instance_id: self.instance_id.clone(),
            protocol_type: Some("consumer".into()),
            protocol: Some("range".into()),
            assignments: shares
                .into_iter()
                .map(|(id, share)| (id, share.into()))
                .collect(),
        };
        self.step = Step::Syncing(world.harness.send(GroupRequest::Sync(request)));
    }

    fn take_sync(&mut self, call: CallId, world: &mut World) {
        let Some(answer) = world.harness.take_sync(call) else {
            return;
        };
        if world.loses() {
            self.step = Step::Sync;
            return;
        }
        match answer {
            Ok(synced) => {
                for partition in synced.assignment.iter().copied().map(i32::from) {
                    // A static member has its assignment under one id after the other.
                    let name = match &self.instance_id {
                        Some(instance) => instance.to_string(),
                        None => self.member_id.clone(),
                    };
                    let key = (self.generation, partition);
                    let owner = world.given.entry(key).or_insert_with(|| name.clone());
                    assert_eq!(
                        *owner, name,
                        "partition {partition}, generation {}",
                        self.generation
                    );
                    let position = world.position(partition);
                    self.owned.insert(partition, position);
                }
                self.step = Step::Stable;
            }
            Err(code) => self.on_error(code),
        }
    }

    fn heartbeat(&mut self, world: &mut World) {
        let request = Heartbeat {
            group_id: GROUP.into(),
            generation: Generation::new(self.generation),
            member_id: self.member_id.as_str().into(),
            instance_id: self.instance_id.clone(),
        };
        let GroupAnswer::Heartbeat(answer) = world.harness.ask(GroupRequest::Heartbeat(request))
        else {
            panic!("a heartbeat is answered");
        };
        if !world.loses()
            && let Err(error) = answer
        {
            self.on_error(error.code);
        }
    }

    /// The leader sees that the topic has grown.
    fn has_to_reassign(&self, world: &World) -> bool {
        let assigned = world
            .given
            .keys()
            .filter(|(generation, _)| *generation == self.generation);
        self.leads.is_some()
            && assigned.count() < usize::try_from(world.partitions).unwrap()
            && world.is_quiet
    }
}

impl Client for ClassicClient {
    fn new(number: usize) -> Self {
        Self {
            number,
            step: Step::Stopped,
            member_id: String::new(),
            instance_id: None,
            generation: -1,
            leads: None,
            owned: BTreeMap::new(),
            runs: 0,
        }
    }

    fn start(&mut self, is_static: bool) {
        if matches!(self.step, Step::Stopped) {
            self.runs += 1;
            self.member_id.clear();
            self.instance_id = is_static.then(|| format!("instance-{}", self.number).into());
            self.reset(Step::Join);
        }
    }

    fn is_running(&self) -> bool {
        !matches!(self.step, Step::Stopped)
    }

    fn step(&mut self, world: &mut World) {
        match self.step {
            Step::Stopped => {}
            Step::Join => self.send_join(world),
            Step::Joining(call) => self.take_join(call, world),
            Step::Sync => self.send_sync(world),
            Step::Syncing(call) => self.take_sync(call, world),
            Step::Stable if self.has_to_reassign(world) => self.reset(Step::Join),
            Step::Stable => self.heartbeat(world),
        }
    }

    fn commit(&mut self, world: &mut World) {
        if !matches!(self.step, Step::Stable) {
            return;
        }
        for (partition, position) in self.owned.clone() {
            let position = position + i64::try_from(world.random.below(5)).unwrap();
            let code = world.commit(&self.member_id, self.generation, partition, position);
            if code == ErrorCode::None {
                self.owned.insert(partition, position);
            } else {
                return self.on_error(code);
            }
        }
    }

    fn leave(&mut self, world: &mut World) {
        if self.is_running() && self.instance_id.is_none() && !self.member_id.is_empty() {
            let member = LeavingMember {
                member_id: self.member_id.as_str().into(),
                instance_id: None,
            };
            let request = LeaveGroup {
                group_id: GROUP.into(),
                members: vec![member],
            };
            world.harness.ask(GroupRequest::Leave(request));
        }
        self.reset(Step::Stopped);
    }

    fn crash(&mut self, world: &mut World) {
        if let Step::Joining(call) | Step::Syncing(call) = self.step
            && world.random.chance(70)
        {
            world.harness.machine.abandon(call);
            world.harness.settle();
        }
        self.reset(Step::Stopped);
    }

    fn lose_calls(&mut self) {
        match self.step {
            Step::Joining(_) => self.step = Step::Join,
            Step::Syncing(_) => self.step = Step::Sync,
            _ => {}
        }
    }

    fn owned(&self) -> Vec<i32> {
        self.owned.keys().copied().collect()
    }

    fn is_known(&self, world: &World) -> bool {
        let group = world.harness.machine.classic.get(GROUP);
        group
            .is_some_and(|g| g.has_in_generation(&self.member_id, Generation::new(self.generation)))
    }
}
