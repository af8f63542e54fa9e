//! A client of KIP-848. Odd ones are as gRPC members are: their heartbeats wait for news, and their polls are watched.

use super::*;

#[derive(Debug)]
enum Step {
    Stopped,
    Join,
    Stable,
    /// A heartbeat waits for news.
    Waiting(CallId),
}

pub(super) struct ConsumerClient {
    number: usize,
    step: Step,
    member_id: String,
    instance_id: Option<InstanceId>,
    epoch: i32,
    /// Position by partition; what it has not let go of is here still.
    owned: BTreeMap<i32, i64>,
    /// What it was told to let go of.
    releasing: Vec<i32>,
    /// The next heartbeat says everything.
    is_full_due: bool,
    runs: usize,
}

impl ConsumerClient {
    fn reset(&mut self, step: Step) {
        self.owned.clear();
        self.releasing.clear();
        self.epoch = 0;
        self.step = step;
    }

    fn request(&mut self, world: &mut World) -> ConsumerHeartbeat {
        let mut request = next_beat(GROUP, &self.member_id, self.epoch);
        let joins = matches!(self.step, Step::Join);
        if joins || std::mem::take(&mut self.is_full_due) || world.random.chance(10) {
            let first = first_beat(GROUP, &self.member_id);
            request.rebalance_timeout = Some(15 * SECOND);
            request.topic_names = first.topic_names;
        }
        let held: Vec<i32> = self.owned.keys().copied().collect();
        request.owned = Some(partitions(&held));
        request.instance_id.clone_from(&self.instance_id);
        if self.number % 2 == 1 {
            request.wait = Some(2 * SECOND);
            let polled = world.is_quiet || world.random.chance(80);
            request.poll = Some(PollMark {
                polled,
                max_interval: 12 * SECOND,
            });
        }
        request
    }

    fn take(&mut self, answer: Result<ConsumerHeartbeatAnswer, GroupError>, world: &mut World) {
        self.step = if matches!(self.step, Step::Join) {
            Step::Join
        } else {
            Step::Stable
        };
        if world.loses() {
            self.is_full_due = true;
            return;
        }
        match answer {
            Ok(answer) => {
                self.step = Step::Stable;
                self.epoch = answer.member_epoch.get();
                if let Some(assignment) = answer.assignment {
                    self.follow(&assignment, world);
                }
            }
            Err(error) => match error.code {
                ErrorCode::FencedInstanceId => self.reset(Step::Stopped),
                ErrorCode::UnreleasedInstanceId => {}
                _ => self.reset(Step::Join),
            },
        }
    }

    fn follow(&mut self, assignment: &Assignment, world: &mut World) {
        let wanted: Vec<i32> = assignment.iter().map(|(_, p)| p.get()).collect();
        self.releasing = self
            .owned
            .keys()
            .copied()
            .filter(|p| !wanted.contains(p))
            .collect();
        for partition in wanted {
            self.owned
                .entry(partition)
                .or_insert_with(|| world.position(partition));
        }
    }

    /// Lets go, unless it is slow.
    fn release(&mut self, world: &mut World) {
        if world.is_quiet || world.random.chance(70) {
            for partition in std::mem::take(&mut self.releasing) {
                self.owned.remove(&partition);
            }
        }
    }
}

impl Client for ConsumerClient {
    fn new(number: usize) -> Self {
        Self {
            number,
            step: Step::Stopped,
            member_id: String::new(),
            instance_id: None,
            epoch: 0,
            owned: BTreeMap::new(),
            releasing: Vec::new(),
            is_full_due: false,
            runs: 0,
        }
    }

    fn start(&mut self, is_static: bool) {
        if matches!(self.step, Step::Stopped) {
            self.runs += 1;
            self.member_id = format!("member-{}-{}", self.number, self.runs);
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
            Step::Waiting(call) => match world.harness.answers.remove(&call) {
                Some(GroupAnswer::ConsumerHeartbeat(answer)) => self.take(answer, world),
                Some(other) => panic!("{other:?}"),
                None => {}
            },
            Step::Join | Step::Stable => {
                self.release(world);
                let request = Box::new(self.request(world));
                let call = world.harness.send(GroupRequest::ConsumerHeartbeat(request));
                match world.harness.answers.remove(&call) {
                    Some(GroupAnswer::ConsumerHeartbeat(answer)) => self.take(answer, world),
                    Some(other) => panic!("{other:?}"),
                    None => self.step = Step::Waiting(call),
                }
            }
        }
    }

    fn commit(&mut self, world: &mut World) {
        for (partition, position) in self.owned.clone() {
            let position = position + i64::try_from(world.random.below(5)).unwrap();
            match world.commit(&self.member_id, self.epoch, partition, position) {
                ErrorCode::None => {
                    self.owned.insert(partition, position);
                }
                ErrorCode::StaleMemberEpoch => return,
                _ => return self.reset(Step::Join),
            }
        }
    }

    fn leave(&mut self, world: &mut World) {
        if self.is_running() {
            let mut request = next_beat(GROUP, &self.member_id, -1);
            if let Some(instance) = &self.instance_id {
                request.instance_id = Some(Arc::clone(instance));
                request.member_epoch = Epoch::LEAVE_STATIC;
            }
            // Its heartbeat that waits, if any, is answered, too; nobody is there to take it.
            let _ = world.harness.beat(request);
        }
        self.reset(Step::Stopped);
    }

    fn crash(&mut self, world: &mut World) {
        if let Step::Waiting(call) = self.step {
            world.harness.machine.abandon(call);
        }
        self.reset(Step::Stopped);
    }

    fn lose_calls(&mut self) {
        if let Step::Waiting(_) = self.step {
            self.step = Step::Stable;
            self.is_full_due = true;
        }
    }

    fn owned(&self) -> Vec<i32> {
        self.owned.keys().copied().collect()
    }

    fn is_known(&self, world: &World) -> bool {
        let group = world.harness.machine.state.consumer(GROUP);
        group.is_some_and(|g| g.members.contains_key(self.member_id.as_str()))
    }
}
