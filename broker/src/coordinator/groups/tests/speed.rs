//! What the machine costs, printed: figures for people, not checks. `cargo test -p logweir --lib groups::tests::speed --
//! --ignored --nocapture --test-threads 1`.

use std::time::Instant;

use super::*;
use crate::coordinator::groups::assignors::{Assignor, Subscriber};

const G: &str = "g";

fn clock() -> Instant {
    Instant::now()
}

/// A group, and what each member knows.
struct Crowd {
    harness: Harness,
    /// Name, epoch, and what it owns.
    members: Vec<(String, i32, Assignment)>,
    beats: usize,
    most_records: usize,
}

impl Crowd {
    fn new(count: usize, partitions: i32) -> Self {
        let mut harness = Harness::with(|config| config.consumer_max_size = 100_000);
        harness.set_topics(&[("orders", 1, partitions)]);
        let members = (0..count).map(|n| (format!("m{n:05}"), 0, Assignment::default()));
        Self {
            harness,
            members: members.collect(),
            beats: 0,
            most_records: 0,
        }
    }

    /// One heartbeat; whether it told news.
    fn beat(&mut self, at: usize) -> bool {
        let (name, epoch, owned) = &self.members[at];
        let request = match epoch {
            0 => first_beat(G, name),
            _ => ConsumerHeartbeat {
                owned: Some(owned.clone()),
                ..next_beat(G, name, *epoch)
            },
        };
        let before = self.harness.log.len();
        let answer = self.harness.beat(request).unwrap();
        self.beats += 1;
        self.most_records = self.most_records.max(self.harness.log.len() - before);
        let (_, epoch, owned) = &mut self.members[at];
        let is_news = answer.member_epoch.get() != *epoch || answer.assignment.is_some();
        *epoch = answer.member_epoch.get();
        if let Some(assignment) = answer.assignment {
            *owned = assignment;
        }
        is_news
    }

    /// Everybody heartbeats until nobody learns anything, and the group is stable.
    fn settle(&mut self) {
        let interval = self.harness.config.consumer_heartbeat_interval;
        loop {
            // A large group is assigned anew once in that time.
            self.harness.pass(interval);
            let mut news = false;
            for at in 0..self.members.len() {
                news |= self.beat(at);
            }
            if !news {
                assert_eq!(self.harness.state_of(G), "Stable");
                return;
            }
        }
    }

    /// Everybody heartbeats once and waits, in the course of an interval; then another interval passes.
    fn idle(&mut self) -> Duration {
        let interval = self.harness.config.consumer_heartbeat_interval;
        let count = u32::try_from(self.members.len()).unwrap();
        let request = |(name, epoch, _): &(String, i32, Assignment)| ConsumerHeartbeat {
            wait: Some(interval),
            ..next_beat(G, name, *epoch)
        };
        let requests: Vec<_> = self.members.iter().map(request).collect();
        let start = clock();
        for request in requests {
            self.harness
                .send(GroupRequest::ConsumerHeartbeat(Box::new(request)));
            self.harness.pass(interval / count);
        }
        self.harness.pass(interval);
        let spent = start.elapsed();
        assert_eq!(self.harness.answers.len(), self.members.len());
        self.harness.answers.clear();
        spent
    }
}

#[test]
#[ignore = "prints figures"]
fn idle_members() {
    for count in [1_000, 10_000] {
        let start = clock();
        let mut crowd = Crowd::new(count, 1_000);
        for at in 0..count {
            crowd.beat(at);
        }
        println!(
            "{count} members joined one after the other in {:?}",
            start.elapsed()
        );
        let start = clock();
        crowd.settle();
        println!(
            "  and were stable after {:?}, {} heartbeats, at most {} records at once",
            start.elapsed(),
            crowd.beats,
            crowd.most_records
        );
        crowd.harness.log.clear();
        let spent = (0..5).map(|_| crowd.idle()).min().unwrap();
        let share = spent.as_secs_f64()
            / crowd
                .harness
                .config
                .consumer_heartbeat_interval
                .as_secs_f64();
        println!(
            "  idle: {:?} for a heartbeat that waits 5 s and its answer; {:.3} % of a core",
            spent / u32::try_from(count).unwrap(),
            share * 100.0
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn one_of_a_hundred_members_leaves() {
    for (count, partitions) in [(100, 1_000), (1_000, 10_000)] {
        let mut crowd = Crowd::new(count, partitions);
        crowd.settle();
        (crowd.beats, crowd.most_records) = (0, 0);
        let (name, ..) = crowd.members.remove(count / 2);
        let records = crowd.harness.log.len();
        let start = clock();
        crowd.harness.beat(next_beat(G, &name, -1)).unwrap();
        crowd.settle();
        println!(
            "one of {count} members of {partitions} partitions left: stable after {:?} of the machine, {} heartbeats, {} records",
            start.elapsed(),
            crowd.beats,
            crowd.harness.log.len() - records
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn assigning() {
    for (count, topics, each) in [(100, 1_u8, 1_000), (1_000, 100, 100), (10_000, 10, 1_000)] {
        for same in [true, false] {
            let mut number = 0_usize;
            let mut next = || {
                number = number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                number >> 33
            };
            let mut members: BTreeMap<MemberId, Subscriber> = (0..count)
                .map(|n| {
                    let wanted = (0..topics).filter(|_| same || next() % 3 == 0);
                    let topics = Arc::new(wanted.map(|t| (topic_id(t), each)).collect());
                    (
                        format!("m{n:05}").into(),
                        Subscriber {
                            topics,
                            ..Subscriber::default()
                        },
                    )
                })
                .collect();
            let start = clock();
            let assigned = Assignor::Uniform.assign(&members);
            let fresh = start.elapsed();
            for (id, target) in assigned {
                members.get_mut(&id).unwrap().target = Arc::new(target);
            }
            members.pop_first();
            let start = clock();
            Assignor::Uniform.assign(&members);
            println!(
                "uniform, {count} members, {topics} topics of {each}, {}: {fresh:?} anew, {:?} when one left",
                if same { "all of them" } else { "a third each" },
                start.elapsed()
            );
        }
    }
}
