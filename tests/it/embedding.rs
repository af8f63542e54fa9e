//! A broker within a program: what it leaves behind, and what a program in another language starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use logweir::testing::{self, eventually};
use logweir::{BlockingBroker, Broker, Config, PowerCut};
use logweir_client::ProducerRecord;

use logweir_tests::binary;

const DEADLINE: Duration = Duration::from_secs(120);
/// Set in the process that counts what brokers leave behind.
const CHILD: &str = "LOGWEIR_TEST_LEAK_CHILD";
const BROKERS: usize = 200;

/// Threads, descriptors, maps and temporary folders of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Footprint {
    threads: usize,
    descriptors: usize,
    maps: usize,
    folders: usize,
}

fn entries(dir: impl AsRef<Path>) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

impl Footprint {
    fn now() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        Self {
            threads: entries("/proc/self/task"),
            descriptors: entries("/proc/self/fd"),
            maps: maps.lines().count(),
            folders: entries(std::env::temp_dir()),
        }
    }

    /// Nothing that grows with the number of brokers. The allocator and the runtime keep a few maps and threads.
    fn is_near(self, before: Self) -> bool {
        self.threads <= before.threads + 2
            && self.descriptors <= before.descriptors
            && self.maps <= before.maps + 20
            && self.folders == before.folders
    }
}

/// Starts a broker, uses it, and ends it in one of four ways.
async fn one_life(round: usize) -> testing::Result {
    let broker = if round.is_multiple_of(2) {
        Broker::start(Config::in_memory()).await?
    } else {
        Broker::start_in_temp_dir(Config::in_memory()).await?
    };
    testing::produce(&broker, ProducerRecord::new("t").value("v")).await?;
    assert_eq!(testing::read_topic(&broker, "t").await?.len(), 1);
    match round % 4 {
        0 | 1 => broker.shutdown().await?,
        2 => {
            broker.crash(PowerCut::LoseUnsynced).await?;
            broker.restart().await?;
            drop(broker);
        }
        _ => drop(broker),
    }
    Ok(())
}

async fn two_hundred_lives() {
    // What is made once for all brokers is there after the first few.
    for round in 0..8 {
        one_life(round).await.unwrap();
    }
    let settled = || std::future::ready(entries(std::env::temp_dir()) == 0);
    let folders = eventually("the folders are gone", DEADLINE, settled).await;
    folders.unwrap();
    let before = Footprint::now();
    for round in 0..BROKERS {
        one_life(round).await.unwrap();
    }
    let is_back = || std::future::ready(Footprint::now().is_near(before));
    let back = eventually("all is given back", DEADLINE, is_back).await;
    assert!(back.is_ok(), "{before:?} became {:?}", Footprint::now());
}

/// Runs in a process of its own, in which no other test opens and closes things.
#[test]
fn two_hundred_brokers_leave_no_thread_descriptor_map_or_file() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            // Blocking threads end soon, so that they can be told from leaks.
            .thread_keep_alive(Duration::from_millis(10))
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(two_hundred_lives());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "embedding::two_hundred_brokers_leave_no_thread_descriptor_map_or_file";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads", "1"])
        .env(CHILD, "1")
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{text}");
    assert!(text.contains("1 passed"), "the child ran no test: {text}");
}

#[test]
fn a_current_thread_runtime_and_none_at_all_will_do() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for round in 0..4 {
        runtime.block_on(one_life(round)).unwrap();
    }
    let broker = BlockingBroker::start(Config::in_memory()).unwrap();
    assert_eq!(broker.produce("t", "k", "v").unwrap().get(), 0);
    broker.crash(PowerCut::LoseUnsynced).unwrap();
    broker.restart().unwrap();
    assert_eq!(broker.read_topic("t").unwrap().len(), 1);
    broker.shutdown().unwrap();
}

#[tokio::test]
async fn an_order_outlives_a_power_cut_and_not_a_week() -> testing::Result {
    let broker = testing::broker().await?;
    let order = ProducerRecord::new("orders").key("7").value("paid");
    testing::produce(&broker, order).await?;
    broker.crash(PowerCut::LoseUnsynced).await?;
    broker.restart().await?;
    assert_eq!(testing::read_topic(&broker, "orders").await?.len(), 1);
    broker.clock().advance(Duration::from_secs(8 * 86_400));
    assert_eq!(testing::read_topic(&broker, "orders").await?.len(), 0);
    Ok(())
}

/// The line that a broker writes when it is ready.
async fn ready(file: PathBuf) -> BTreeMap<String, serde_json::Value> {
    let there = || std::future::ready(file.exists());
    eventually("the ready file", DEADLINE, there).await.unwrap();
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[tokio::test]
async fn a_broker_that_is_to_exit_with_its_parent_does_and_another_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let start = |with_parent: bool, file: &Path| {
        let mut command = Command::new(binary());
        command.args([
            "serve",
            "--in-memory",
            "--grpc",
            "127.0.0.1:0",
            "--http",
            "off",
        ]);
        command
            .args(["--kafka", "off"])
            .arg("--ready-file")
            .arg(file);
        if with_parent {
            command.arg("--exit-with-parent");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let files = [folder.path().join("a.json"), folder.path().join("b.json")];
    let mut bound = start(true, &files[0]);
    let mut free = start(false, &files[1]);
    assert_eq!(ready(files[0].clone()).await["pid"], bound.id());
    ready(files[1].clone()).await;
    drop((bound.stdin.take(), free.stdin.take()));
    let mut status = None;
    let ended = || {
        status = bound.try_wait().unwrap();
        std::future::ready(status.is_some())
    };
    eventually("it exits", DEADLINE, ended).await.unwrap();
    assert!(status.unwrap().success(), "{status:?}");
    assert!(!files[0].exists(), "its ready file is left behind");
    assert!(free.try_wait().unwrap().is_none());
    free.kill().unwrap();
    free.wait().unwrap();
}
