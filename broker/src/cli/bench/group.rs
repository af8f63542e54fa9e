//! `logweir bench group`: how fast a consumer group shares partitions out, and what its members cost while nothing
//! happens.
//!
//! The members are bare streams of heartbeats, so that what is measured is the broker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::HumanCount;
use logweir_client::{Client, NewTopic};
use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::group_service_client::GroupServiceClient;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::super::exit::{Exit, usage};
use super::super::interrupt::Interrupt;
use super::histogram::short;
use super::process;
use super::report::{Report, ReportArgs};
use super::run_time;
use super::subject::{SpawnOptions, Spawned};

/// The topic that the group reads, and the group.
const TOPIC: &str = "shared";
const GROUP: &str = "bench";
/// How long a rebalance may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(120);

const HELP: &str = "\
Examples:
  logweir bench group
  logweir bench group --members 1000 --partitions 1000 --duration 1m
  logweir bench group --in-memory --json

A broker of this program is started in a temporary folder with a topic of so many
partitions. So many members join one group; when each has its share, one leaves,
and it is measured how long it takes until the others have all partitions. Then
the group is left alone, and the broker's processor time is measured.

Each member has a connection of its own, as members in processes of their own
have, and no two share a write or a wake-up. A rebalance leaves members beating
in step, which costs the broker less than members that came one by one: before
idle members are measured, each waits once for its part of the heartbeat interval,
so that their heartbeats are spread over it. (The broker answers those that wait
about as long at one time.) With --in-step they stay as the rebalance left them.";

/// Measure a consumer group: rebalance, and the cost of idle members
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct GroupBench {
    /// Members of the group, each with a connection of its own
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(i32).range(2..=9_000))]
    members: i32,
    /// Partitions of the topic
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=20_000))]
    partitions: i32,
    /// How long to let the group settle
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = run_time)]
    settle: Duration,
    /// How long to measure the idle group
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = run_time)]
    duration: Duration,
    /// Leave idle members beating in step, as the rebalance has put them
    #[arg(long)]
    in_step: bool,
    /// A broker that keeps everything in memory
    #[arg(long)]
    in_memory: bool,
    /// Make the temporary folder in this one
    #[arg(long, value_name = "DIR")]
    spawn_in: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
}

impl GroupBench {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        if self.members > self.partitions {
            return Err(usage(format!(
                "--members {} is above --partitions {}: some would have nothing to read",
                self.members, self.partitions
            )));
        }
        let interrupt = Interrupt::listen()?;
        let options = SpawnOptions {
            folder: self.spawn_in.clone(),
            in_memory: self.in_memory,
            ..SpawnOptions::default()
        };
        let broker = tokio::task::spawn_blocking(move || Spawned::start(&options)).await??;
        let client = Client::connect(&broker.address).await?;
        let topic = NewTopic::new(TOPIC).partitions(self.partitions);
        client.admin().create_topic(topic).await?;
        let mut members = JoinSet::new();
        let measured = tokio::select! {
            measured = self.measure(&broker, &mut members) => measured?,
            () = interrupt.asked() => return Ok(interrupt.exit().unwrap_or(Exit::Done)),
        };
        self.tell(&measured).print(self.report)?;
        members.shutdown().await;
        drop(client);
        broker.end()?;
        Ok(Exit::Done)
    }

    async fn measure(
        &self,
        broker: &Spawned,
        members: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<Measured> {
        let count = usize::try_from(self.members)?;
        let shares = Arc::new(Shares::new(count));
        let (stage, of_members) = watch::channel(Stage::Share);
        let began = Instant::now();
        for index in 0..count {
            let member = Member::connect(&broker.address, index).await?;
            members.spawn(member.live(Arc::clone(&shares), of_members.clone()));
        }
        let partitions = usize::try_from(self.partitions)?;
        let fair = |shares: &[Share]| {
            let least = partitions / shares.len();
            total(shares) == partitions && shares.iter().all(|s| s.owned >= least)
        };
        shares.until(members, fair).await?;
        let joined = began.elapsed();
        tokio::time::sleep_until((Instant::now() + self.settle).into()).await;

        let (cpu, began) = (process::exact_cpu_time(broker.pid())?, Instant::now());
        stage.send_replace(Stage::Leave);
        shares
            .until(members, |shares| total(&shares[1..]) == partitions)
            .await?;
        let rebalanced = began.elapsed();
        let rebalance_cpu = process::exact_cpu_time(broker.pid())?.saturating_sub(cpu);

        if !self.in_step {
            stage.send_replace(Stage::Spread);
            shares
                .until(members, |shares| shares[1..].iter().all(|s| s.is_spread))
                .await?;
        }
        tokio::time::sleep_until((Instant::now() + self.settle).into()).await;
        let (cpu, began) = (process::exact_cpu_time(broker.pid())?, Instant::now());
        tokio::time::sleep_until((began + self.duration).into()).await;
        Ok(Measured {
            joined,
            rebalanced,
            rebalance_cpu,
            idle_cpu: process::exact_cpu_time(broker.pid())?.saturating_sub(cpu),
            idle: began.elapsed(),
        })
    }

    fn tell(&self, measured: &Measured) -> Report {
        let mut report = Report::default();
        let mut count = |name: &str, value: i32| {
            let words = HumanCount(value.unsigned_abs().into()).to_string();
            report.add(name, value, name, words);
        };
        count("members", self.members);
        count("partitions", self.partitions);
        let mut time = |name: &str, label: &str, value: Duration| {
            report.add(name, value.as_secs_f64(), label, short(value).to_string());
        };
        time("joined_seconds", "all joined", measured.joined);
        time(
            "rebalanced_seconds",
            "one left, all shared out",
            measured.rebalanced,
        );
        time(
            "rebalance_cpu_seconds",
            "processor time of it",
            measured.rebalance_cpu,
        );
        let percent = measured.idle_cpu.as_secs_f64() / measured.idle.as_secs_f64() * 100.0;
        report.note("idle_cpu_seconds", measured.idle_cpu.as_secs_f64());
        report.note("idle_seconds", measured.idle.as_secs_f64());
        report.note("idle_in_step", self.in_step);
        report.add(
            "idle_cpu_percent_of_a_core",
            percent,
            match self.in_step {
                true => "idle, in step",
                false => "idle, spread",
            },
            format!(
                "{percent:.3} % of a core ({} in {})",
                short(measured.idle_cpu),
                short(measured.idle)
            ),
        );
        report
    }
}

struct Measured {
    joined: Duration,
    rebalanced: Duration,
    rebalance_cpu: Duration,
    idle_cpu: Duration,
    idle: Duration,
}

/// What the members are to do, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Share the partitions out.
    Share,
    /// The first is to leave.
    Leave,
    /// The others are to beat at times of their own.
    Spread,
}

/// How far a member is.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// Partitions that it owns.
    owned: usize,
    /// It beats at a time of its own.
    is_spread: bool,
}

fn total(shares: &[Share]) -> usize {
    shares.iter().map(|share| share.owned).sum()
}

/// How far each member is.
struct Shares {
    of_members: Mutex<Vec<Share>>,
    changed: Notify,
}

impl Shares {
    fn new(members: usize) -> Self {
        Self {
            of_members: Mutex::new(vec![Share::default(); members]),
            changed: Notify::new(),
        }
    }

    fn change(&self, member: usize, change: impl FnOnce(&mut Share)) {
        change(&mut self.of_members.lock()[member]);
        self.changed.notify_one();
    }

    /// How long a member is to wait once, so that the heartbeats of all are spread evenly over an interval.
    fn part(&self, member: usize, interval: Duration) -> Duration {
        let part = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let count = part(self.of_members.lock().len());
        interval.saturating_mul(part(member)) / count.max(1)
    }

    /// Waits until the partitions are shared out so; an error of a member, or that it takes too long, ends it.
    async fn until(
        &self,
        members: &mut JoinSet<anyhow::Result<()>>,
        shared: impl Fn(&[Share]) -> bool,
    ) -> anyhow::Result<()> {
        let waiting = async {
            while !shared(&self.of_members.lock()) {
                tokio::select! {
                    () = self.changed.notified() => {}
                    Some(ended) = members.join_next() => ended.context("a member's task failed")??,
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .context("the group did not share its partitions out in time")?
    }
}

/// A member of the group that reads nothing.
struct Member {
    index: usize,
    epoch: i32,
    owned: v1::Assignment,
    requests: mpsc::Sender<v1::ConsumerGroupHeartbeatRequest>,
    answers: tonic::Streaming<v1::ConsumerGroupHeartbeatResponse>,
}

impl Member {
    async fn connect(address: &str, index: usize) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let mut groups = GroupServiceClient::new(endpoint.connect().await?);
        let (requests, receiver) = mpsc::channel(4);
        let member = Self {
            index,
            epoch: 0,
            owned: v1::Assignment::default(),
            requests,
            answers: groups
                .consumer_group_heartbeat(ReceiverStream::new(receiver))
                .await?
                .into_inner(),
        };
        let join = v1::ConsumerGroupHeartbeatRequest {
            subscription: Some(v1::Subscription {
                topics: vec![TOPIC.to_owned()],
                ..Default::default()
            }),
            ..member.heartbeat()
        };
        member.requests.send(join).await?;
        Ok(member)
    }

    fn heartbeat(&self) -> v1::ConsumerGroupHeartbeatRequest {
        v1::ConsumerGroupHeartbeatRequest {
            group_id: GROUP.to_owned(),
            member_id: format!("member-{}", self.index),
            member_epoch: self.epoch,
            polled: true,
            ..Default::default()
        }
    }

    async fn leave(mut self) -> anyhow::Result<()> {
        self.epoch = -1;
        self.requests.send(self.heartbeat()).await?;
        while let Some(answer) = self.answers.message().await? {
            if answer.member_epoch == -1 {
                break;
            }
        }
        Ok(())
    }

    /// Beats until the first member is to leave, which it does; the others go on.
    async fn live(
        mut self,
        shares: Arc<Shares>,
        mut stage: watch::Receiver<Stage>,
    ) -> anyhow::Result<()> {
        let mut is_spread = false;
        loop {
            let is_to_spread = !is_spread && *stage.borrow() == Stage::Spread;
            let asked_to_leave = async { stage.wait_for(|s| *s >= Stage::Leave).await.is_ok() };
            let answer = tokio::select! {
                answer = self.answers.message() => answer?.context("the broker ended the stream")?,
                true = asked_to_leave, if self.index == 0 => {
                    shares.change(0, |share| share.owned = 0);
                    return self.leave().await;
                }
            };
            if let Some(error) = answer.error {
                anyhow::bail!("a heartbeat was refused: {}: {}", error.name, error.message);
            }
            self.epoch = answer.member_epoch;
            let mut next = self.heartbeat();
            if let Some(assignment) = answer.assignment {
                let owned = assignment.topics.iter().map(|topic| topic.partitions.len());
                shares.change(self.index, |share| share.owned = owned.sum());
                self.owned = assignment;
                next.owned = Some(self.owned.clone());
            }
            if is_to_spread {
                let interval = Duration::from_millis(answer.heartbeat_interval_ms.into());
                let part = shares.part(self.index, interval);
                tokio::time::sleep_until((Instant::now() + part).into()).await;
                is_spread = true;
                shares.change(self.index, |share| share.is_spread = true);
            }
            self.requests.send(next).await?;
        }
    }
}
