//! `logweir consume --group`: real processes that share a topic, while they and the broker are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use logweir_client::{Client, Producer, ProducerRecord};
use logweir_tests::{
    BrokerProcess, DEADLINE, Flights, GrpcBroker, Logweir, MemberProcess, Outputs, Seeded,
    ServeOptions, proof_count, wait_until, wait_until_async,
};
use serde_json::Value;

const PARTITIONS: i32 = 6;
/// Members at a time, while they are killed.
const MEMBERS: usize = 3;
/// Records that the producer may be ahead of the members.
const AHEAD: u64 = 2_000;
/// A member that was killed is missed after this long.
const SESSION: [&str; 4] = [
    "--set",
    "groups.consumer_session_timeout_ms=1000",
    "--set",
    "groups.consumer_heartbeat_interval_ms=200",
];

fn call(broker: &BrokerProcess, arguments: &[&str]) -> Logweir {
    Logweir::new(arguments).server(broker.grpc())
}

/// What a command says to people, that ends with `code`.
fn said(broker: &BrokerProcess, arguments: &[&str], code: i32) -> String {
    let finished = call(broker, arguments).run();
    assert_eq!(
        finished.code,
        Some(code),
        "{arguments:?}: {}",
        finished.stderr
    );
    finished.stderr
}

/// What a command prints as JSON.
fn objects(broker: &BrokerProcess, arguments: &[&str]) -> Vec<Value> {
    let text = call(broker, &[arguments, &["--json"]].concat()).succeed();
    let lines = text.lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A broker with a topic "orders" of four partitions, ten records in each.
async fn start() -> (BrokerProcess, GrpcBroker) {
    let broker = ServeOptions::in_memory().args(&SESSION).start();
    let mut grpc = GrpcBroker::connect(broker.grpc()).await;
    grpc.create_topic("orders", 4, &[]).await;
    for partition in 0..4 {
        fill(&mut grpc, partition, 10).await;
    }
    (broker, grpc)
}

async fn fill(grpc: &mut GrpcBroker, partition: i32, count: usize) {
    for number in 0..count {
        let value = format!("{partition}-{number}");
        grpc.produce_value("orders", partition, &value).await;
    }
}

/// The values that a consume command wrote.
fn consumed(broker: &BrokerProcess, flags: &[&str]) -> Vec<String> {
    let arguments = [&["consume", "orders", "--quiet"], flags].concat();
    let text = call(broker, &arguments).succeed();
    text.lines().map(str::to_owned).collect()
}

/// Where a group stands, by partition of "orders".
async fn committed(broker: &BrokerProcess, group: &str) -> BTreeMap<i32, i64> {
    let client = Client::connect(broker.grpc()).await.unwrap();
    let offsets = client.admin().group_offsets(group).await.unwrap();
    let offsets = offsets.iter();
    offsets
        .map(|o| (o.partition.partition.get(), o.offset.get()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_where_it_was() {
    let (broker, mut grpc) = start().await;
    let first = consumed(&broker, &["--group", "g"]);
    assert_eq!(first.len(), 40);
    let ends = |each: i64| (0..4).map(|p| (p, each)).collect::<BTreeMap<_, _>>();
    assert_eq!(committed(&broker, "g").await, ends(10));
    // It is at the end, whatever --from says.
    let from = ["--group", "g", "--from", "earliest"];
    assert_eq!(consumed(&broker, &from), [""; 0]);
    fill(&mut grpc, 2, 1).await;
    assert_eq!(consumed(&broker, &from), ["2-0"]);
    // Only what was written is committed.
    let three = consumed(&broker, &["--group", "few", "--max", "3"]);
    assert_eq!(three.len(), 3);
    let few = committed(&broker, "few").await;
    assert_eq!(few.values().sum::<i64>(), 3);
    let rest = consumed(&broker, &["--group", "few"]);
    assert_eq!(rest.len(), 38);
    // Also where offsets are committed before lines are written.
    let once = ["--group", "once", "--delivery", "at-most-once"];
    let three = consumed(&broker, &[&once[..], &["--max", "3"]].concat());
    assert_eq!((three.len(), consumed(&broker, &once).len()), (3, 38));
    // A topic that is empty has an end too.
    grpc.create_topic("empty", 1, &[]).await;
    call(&broker, &["consume", "empty", "--group", "g"]).succeed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_begins_where_it_is_told() {
    let (broker, _) = start().await;
    assert_eq!(
        consumed(&broker, &["--group", "latest", "--from", "latest"]),
        [""; 0]
    );
    assert_eq!(
        committed(&broker, "latest").await,
        (0..4).map(|p| (p, 10)).collect()
    );
    let offset = consumed(&broker, &["--group", "offset", "--from", "7"]);
    assert_eq!(offset.len(), 12, "{offset:?}");
    // Offsets beyond the end are the end.
    let beyond = consumed(&broker, &["--group", "beyond", "--from", "700"]);
    assert_eq!(beyond, [""; 0]);
    let age = consumed(&broker, &["--group", "age", "--from", "1h"]);
    assert_eq!(age.len(), 40);
}

/// A broker on a disk, with an empty topic "orders".
async fn start_on_disk() -> (tempfile::TempDir, BrokerProcess, GrpcBroker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = ServeOptions::on_disk(folder.path()).args(&SESSION).start();
    let mut grpc = GrpcBroker::connect(broker.grpc()).await;
    grpc.create_topic("orders", 4, &[]).await;
    (folder, broker, grpc)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_follows_waits_for_a_broker_that_is_not_there_yet() {
    let (_data, mut broker, mut grpc) = start_on_disk().await;
    fill(&mut grpc, 0, 3).await;
    broker.kill9();
    let folder = tempfile::tempdir().unwrap();
    let mut outputs = Outputs::new(folder.path());
    let follow = ["orders", "--group", "g", "--follow"];
    let mut member = MemberProcess::start(broker.grpc(), &follow, &mut outputs);
    wait_until("it says so", DEADLINE, || {
        member
            .errors()
            .contains("still trying: cannot reach the broker")
    });
    // One that does not follow is told at once.
    let once = said(&broker, &["consume", "orders", "--group", "g"], 1);
    assert!(once.contains("cannot reach the broker"), "{once}");
    broker.restart();
    wait_until("it reads", DEADLINE, || outputs.read() == 3);
    // It ends without the broker too, and says what it is about.
    broker.kill9();
    assert_eq!(member.terminate(DEADLINE).code(), Some(143));
    let errors = member.errors();
    assert!(
        errors.contains("interrupt again to end at once"),
        "{errors}"
    );
    assert!(errors.contains("warning: "), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_for_a_member_that_was_killed_says_so() {
    let broker = ServeOptions::in_memory().start();
    let mut grpc = GrpcBroker::connect(broker.grpc()).await;
    grpc.create_topic("orders", 4, &[]).await;
    fill(&mut grpc, 0, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let mut outputs = Outputs::new(folder.path());
    let follow = ["orders", "--group", "g", "--follow"];
    let mut killed = MemberProcess::start(broker.grpc(), &follow, &mut outputs);
    wait_until("it reads", DEADLINE, || outputs.read() == 1);
    killed.kill9();
    fill(&mut grpc, 0, 1).await;
    let here = ["orders", "--group", "g"];
    let mut waiting = MemberProcess::start(broker.grpc(), &here, &mut outputs);
    wait_until("it says so", DEADLINE, || {
        waiting.errors().contains("waiting for other members")
    });
    assert_eq!(waiting.terminate(DEADLINE).code(), Some(143));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_go_together_is_said() {
    let (broker, _) = start().await;
    let both = ["consume", "orders", "--group", "g", "--partition", "1"];
    assert!(said(&broker, &both, 2).contains("--partition"));
    let alone = ["consume", "orders", "--delivery", "at-most-once"];
    assert!(said(&broker, &alone, 2).contains("--group"));
    let absent = ["consume", "absent", "--group", "g"];
    assert!(said(&broker, &absent, 1).contains("absent"));
    let empty = ["consume", "orders", "--group", ""];
    assert!(said(&broker, &empty, 2).contains("--group <GROUP>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_each_record_is_written_once() {
    let (broker, mut grpc) = start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut outputs = Outputs::new(folder.path());
    let follow = ["orders", "--group", "g", "--follow"];
    let mut first = MemberProcess::start(broker.grpc(), &follow, &mut outputs);
    wait_until("all is written", DEADLINE, || outputs.read() == 40);
    let mut second = MemberProcess::start(broker.grpc(), &follow, &mut outputs);
    let owners = || async {
        let client = Client::connect(broker.grpc()).await.unwrap();
        let group = client.admin().describe_group("g").await.unwrap();
        let shares = group.members.iter().map(|member| member.assignment.len());
        (shares.collect::<Vec<_>>() == [2, 2]).then_some(())
    };
    wait_until_async("they share", DEADLINE, owners).await;
    for partition in 0..4 {
        fill(&mut grpc, partition, 10).await;
    }
    wait_until("all is written", DEADLINE, || outputs.read() == 80);
    // One that does not follow ends when the group, all together, is at the end.
    let here = ["orders", "--group", "g"];
    let mut third = MemberProcess::start(broker.grpc(), &here, &mut outputs);
    assert!(third.wait_exit(DEADLINE).success(), "{}", third.errors());
    assert_eq!(first.terminate(DEADLINE).code(), Some(143));
    assert_eq!(second.terminate(DEADLINE).code(), Some(143));
    assert_eq!(outputs.read(), 80);
    assert!(outputs.counts().values().all(|count| *count == 1));
    assert!(
        outputs
            .members()
            .nth(1)
            .is_some_and(|lines| lines.len() == 20)
    );
    assert_eq!(
        committed(&broker, "g").await,
        (0..4).map(|p| (p, 20)).collect()
    );
    let group = objects(&broker, &["group", "describe", "g"]).remove(0);
    assert_eq!(group["members"], serde_json::json!([]), "they have left");
}

/// Two members, then five, while members and the broker are killed; then once more from a time on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flights_are_shared_by_two_and_then_five() {
    let rows = usize::try_from(proof_count(Flights::COUNT as u64)).unwrap();
    let flights = Flights::load();
    let folder = tempfile::tempdir().unwrap();
    let mut broker = ServeOptions::on_disk(&folder.path().join("data"))
        .args(&SESSION)
        .start();
    Flights::create_topic(broker.grpc()).succeed();
    Flights::produce(broker.grpc(), flights.csv_of_first(rows)).succeed();

    let mut outputs = Outputs::new(folder.path());
    let share = ["flights", "--group", "billing", "--follow"];
    let mut members = Vec::new();
    for count in [2, 5] {
        while members.len() < count {
            members.push(MemberProcess::start(broker.grpc(), &share, &mut outputs));
        }
        let share_out = || async {
            let admin = Client::connect(broker.grpc()).await.unwrap().admin();
            let group = admin.describe_group("billing").await;
            // Before the first has joined there is no group.
            let live = group.map_or(0, |group| group.members.len());
            (live == count).then_some(())
        };
        wait_until_async("all are members", DEADLINE, share_out).await;
        let before = outputs.read();
        members[0].kill9();
        members[0] = MemberProcess::start(broker.grpc(), &share, &mut outputs);
        broker.kill9();
        broker.restart();
        wait_until("they go on", DEADLINE, || {
            outputs.read() > before || outputs.distinct() == rows
        });
    }
    wait_until("all is written", DEADLINE, || {
        outputs.read();
        outputs.distinct() == rows
    });
    let written: BTreeSet<&str> = outputs
        .members()
        .flatten()
        .map(|l| l.value.as_str())
        .collect();
    let expected: BTreeSet<&str> = flights
        .rows()
        .take(rows)
        .map(|flight| flight.line)
        .collect();
    assert!(
        written == expected,
        "{} of {} rows",
        written.len(),
        expected.len()
    );

    check_shares(&broker);
    // Not while it has members.
    let reset = ["group", "reset", "billing", "--to-time", "1h"];
    assert!(said(&broker, &reset, 1).contains("members"));
    for member in &mut members {
        let status = member.terminate(DEADLINE);
        assert_eq!(status.code(), Some(143), "{}", member.errors());
    }
    read_again(&broker, &reset, rows);
}

/// The group is at the end, and its members share the partitions.
fn check_shares(broker: &BrokerProcess) {
    let describe = || objects(broker, &["group", "describe", "billing"]).remove(0);
    wait_until("all is committed", DEADLINE, || is_at_the_end(&describe()));
    let group = describe();
    assert_eq!(
        (&group["lag_records"], &group["lag_ms"]),
        (&0.into(), &0.into())
    );
    let members = group["members"].as_array().unwrap();
    let owned = |member: &Value| {
        member["assignment"]["flights"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!(members.iter().map(owned).sum::<usize>(), 12, "{group}");
}

/// Whether a group has committed the ends of all partitions.
fn is_at_the_end(group: &Value) -> bool {
    let partitions = group["partitions"].as_array().unwrap();
    partitions
        .iter()
        .all(|p| p["committed_offset"] == p["end_offset"])
}

/// A reset is shown, then done, and then the group reads again.
fn read_again(broker: &BrokerProcess, reset: &[&str], rows: usize) {
    wait_until("those that were killed are missed", DEADLINE, || {
        objects(broker, &["group", "list"])[0]["state"] == "Empty"
    });
    let shared = ["consume", "flights", "--group", "billing", "--quiet"];
    assert_eq!(objects(broker, reset).len(), 12);
    let nothing = call(broker, &shared).succeed();
    assert_eq!(nothing, "", "it was a dry run");
    let execute = [reset, &["--execute"]].concat();
    assert_eq!(objects(broker, &execute).len(), 12);
    let again = call(broker, &shared).succeed();
    assert_eq!(again.lines().count(), rows);
}

/// Sends numbered records for as long as members keep up.
struct Load {
    /// Records acknowledged so far.
    acknowledged: Arc<AtomicU64>,
    /// Records that were written by members.
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(producer: Producer) -> Self {
        let (acknowledged, seen) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let stop = Arc::<AtomicBool>::default();
        let task = tokio::spawn(Self::run(
            producer,
            Arc::clone(&acknowledged),
            Arc::clone(&seen),
            Arc::clone(&stop),
        ));
        Self {
            acknowledged,
            seen,
            stop,
            task,
        }
    }

    async fn run(
        producer: Producer,
        acknowledged: Arc<AtomicU64>,
        seen: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
    ) {
        for number in 0_u64.. {
            let ready = || async {
                let behind = number.saturating_sub(seen.load(Ordering::Relaxed));
                (behind < AHEAD || stop.load(Ordering::Relaxed)).then_some(())
            };
            wait_until_async("members keep up", DEADLINE * 5, ready).await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let record = ProducerRecord::new("orders")
                .key(format!("{}", number % 50))
                .value(number.to_string());
            let sent = producer.send(record).await.expect("a send is taken");
            if number % 100 == 0 {
                sent.await.expect("a producer that retries delivers");
            }
            acknowledged.store(number + 1, Ordering::Relaxed);
        }
        producer.close().await.expect("the rest is delivered");
    }

    /// Ends it. Returns how many records there are.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("it does not panic");
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// What is killed, and what is written meanwhile.
struct Scene {
    broker: BrokerProcess,
    members: Vec<MemberProcess>,
    outputs: Outputs,
    delivery: &'static str,
    /// What the group had committed when it was looked last.
    committed: BTreeMap<i32, i64>,
}

impl Scene {
    async fn start(folder: &Path, delivery: &'static str) -> Self {
        let broker = ServeOptions::on_disk(&folder.join("data"))
            .args(&SESSION)
            .start();
        let mut grpc = GrpcBroker::connect(broker.grpc()).await;
        grpc.create_topic("orders", PARTITIONS, &[]).await;
        let mut scene = Self {
            broker,
            members: Vec::new(),
            outputs: Outputs::new(folder),
            delivery,
            committed: BTreeMap::new(),
        };
        for _ in 0..MEMBERS {
            let member = scene.member();
            scene.members.push(member);
        }
        scene
    }

    fn member(&mut self) -> MemberProcess {
        let flags = [
            "orders",
            "--group",
            "g",
            "--follow",
            "--delivery",
            self.delivery,
        ];
        MemberProcess::start(self.broker.grpc(), &flags, &mut self.outputs)
    }

    /// Kills the broker or one of the members, and starts it again.
    fn kill(&mut self, seeded: &mut Seeded) {
        let which = usize::try_from(seeded.below(MEMBERS as u64 + 1)).unwrap();
        if which == MEMBERS {
            self.broker.kill9();
            self.broker.restart();
        } else {
            self.members[which].kill9();
            self.members[which] = self.member();
        }
    }

    /// What is committed never goes back.
    async fn check_committed(&mut self) {
        let now = committed(&self.broker, "g").await;
        for (partition, before) in &self.committed {
            let offset = now.get(partition).copied();
            assert!(
                offset.is_some_and(|offset| offset >= *before),
                "partition {partition} went from {before} to {offset:?}"
            );
        }
        self.committed = now;
    }
}

/// Kills at random moments. Returns the scene at the end, and how many records there are.
async fn kill_and_kill(folder: &Path, delivery: &'static str) -> (Scene, u64) {
    let kills = proof_count(200);
    let mut seeded = Seeded::from_environment();
    let mut scene = Scene::start(folder, delivery).await;
    let producer = Client::connect(scene.broker.grpc()).await.unwrap();
    let load = Load::start(producer.producer().unwrap());
    for kill in 1..=kills {
        let goal = scene.outputs.read() + 50 + usize::try_from(seeded.below(500)).unwrap();
        let what = format!("members write before kill {kill}");
        wait_until(&what, DEADLINE, || {
            let lines = scene.outputs.read();
            load.seen.store(scene.outputs.reached(), Ordering::Relaxed);
            lines >= goal
        });
        scene.kill(&mut seeded);
        scene.check_committed().await;
    }
    let total = load.end().await;
    wait_until("the group is at the end", DEADLINE, || {
        scene.outputs.read();
        is_at_the_end(&objects(&scene.broker, &["group", "describe", "g"])[0])
    });
    for member in &mut scene.members {
        assert_eq!(member.terminate(DEADLINE).code(), Some(143));
    }
    scene.outputs.read();
    (scene, total)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_least_once_loses_nothing_whoever_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (scene, total) = kill_and_kill(folder.path(), "at-least-once").await;
    let written: BTreeSet<u64> = scene
        .outputs
        .members()
        .flatten()
        .map(|line| line.value.parse().unwrap())
        .collect();
    let lost: Vec<u64> = (0..total).filter(|n| !written.contains(n)).collect();
    assert!(lost.is_empty(), "of {total} records: {lost:?}");
    assert_eq!(scene.outputs.distinct() as u64, total);
    let again = scene.outputs.counts().values().filter(|count| **count > 1);
    println!("{total} records, {} of them more than once", again.count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_once_repeats_nothing_whoever_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (scene, total) = kill_and_kill(folder.path(), "at-most-once").await;
    let counts = scene.outputs.counts();
    let repeated: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(repeated.is_empty(), "of {total} records: {repeated:?}");
    // In its order, whoever wrote it.
    for lines in scene.outputs.members() {
        let mut last = BTreeMap::new();
        for line in lines {
            let before = last.insert(line.partition, line.offset);
            assert!(before.is_none_or(|before| before < line.offset), "{line:?}");
        }
    }
    println!(
        "{total} records, {} of them lost",
        total - counts.len() as u64
    );
}
