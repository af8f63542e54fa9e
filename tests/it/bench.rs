//! `logweir bench`: what it tells is what happened. Small counts; no figure of speed is asserted.

use std::time::{Duration, Instant};

use logweir_tests::{
    BrokerProcess, DEADLINE, GrpcBroker, Logweir, ServeOptions, is_running, latest, wait_until,
    wait_until_async,
};

use rustix::process::Signal;
use serde_json::Value;

/// Runs `logweir bench` and reads the one JSON object it prints.
fn bench(arguments: &str, broker: Option<&BrokerProcess>) -> Value {
    let pid = broker.map(|broker| broker.pid().to_string());
    let mut words: Vec<&str> = vec!["bench"];
    words.extend(arguments.split(' '));
    words.extend(["--json", "--quiet"]);
    if let Some(pid) = &pid {
        words.extend(["--pid", pid]);
    }
    let mut call = Logweir::new(&words);
    if let Some(broker) = broker {
        call = call.server(broker.grpc());
    }
    let printed = call.succeed();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    serde_json::from_str(&printed).unwrap()
}

#[test]
fn the_records_that_a_load_counts_are_the_records_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let broker = ServeOptions::on_disk(dir.path()).start();
    let produced = bench(
        "produce --flush os --records 1500 --producers 3 --partitions 2",
        Some(&broker),
    );
    assert_eq!(produced["records"], 1_500);
    assert_eq!(produced["log_records"], 1_500);
    assert_eq!(produced["failed"], 0);
    assert_eq!(produced["latency"]["count"], 1_500);
    assert!(produced["records_per_second"].as_f64().unwrap() > 0.0);
    assert!(produced["broker_cpu_seconds_per_gb"].as_f64().unwrap() >= 0.0);
    assert!(produced["broker_peak_anonymous_bytes"].as_u64().unwrap() > 0);
    // What is there is read, and nothing is added.
    let consumed = bench("consume --consumers 2", Some(&broker));
    assert_eq!(consumed["log_records"], 1_500);
    assert_eq!(consumed["records"], 3_000);
    assert!(consumed["batch_wait"]["count"].as_u64().unwrap() >= 4);
}

#[test]
fn a_broker_started_for_the_occasion_is_measured_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let flags = format!(
        "produce --spawn --spawn-in {} --records 100 --rate 100000 --record-bytes 1KiB",
        folder.path().display()
    );
    let produced = bench(&flags, None);
    assert_eq!(
        (&produced["records"], &produced["log_records"]),
        (&100.into(), &100.into())
    );
    assert!(produced["broker_peak_resident_bytes"].as_u64().unwrap() > 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // An empty topic is filled first.
    let consumed = bench("consume --spawn --in-memory --records 50", None);
    assert_eq!(
        (&consumed["records"], &consumed["log_records"]),
        (&50.into(), &50.into())
    );
}

/// The broker was ended by the bench, so one that was killed left it behind, with its folder and its port.
#[test]
fn a_broker_started_for_the_occasion_does_not_outlive_a_killed_bench() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let load = ["bench", "produce", "--spawn", "--spawn-in", dir];
    let endless = ["--rate", "10", "--duration", "1h"];
    let mut bench = Logweir::new(&[&load[..], &endless].concat()).spawn();
    let mut broker = None;
    wait_until("the broker runs", DEADLINE, || {
        broker = child_of(bench.id());
        broker.is_some()
    });
    bench.kill().unwrap();
    bench.wait().unwrap();
    let broker = broker.unwrap();
    wait_until("the broker ends, too", DEADLINE, || !is_running(broker));
}

/// The pid of a process that this one started and that runs.
fn child_of(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            // It may be gone since.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent_field = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1));
            parent_field.and_then(|field| field.parse().ok()) == Some(parent)
        })
}

/// A load that sends one record after the other would only see a single slow record, if it counted from the
/// moment a record is sent; every record that was due meanwhile has waited, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_shows_in_every_record_that_was_due_meanwhile() {
    const STALL: Duration = Duration::from_millis(1_000);
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("bench", 1, &[]).await;
    let measuring = std::thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            bench(
                "latency --rate 200 --records 1000 --one-at-a-time",
                Some(&process),
            )
        });
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                wait_until_async("records come", DEADLINE, || {
                    let mut broker = broker.clone();
                    async move {
                        (broker.list_offset("bench", 0, latest()).await.offset >= 100).then_some(())
                    }
                })
                .await;
            })
        });
        process.signal(Signal::STOP);
        let stopped = Instant::now();
        wait_until("the stall is over", DEADLINE, || stopped.elapsed() >= STALL);
        process.signal(Signal::CONT);
        measuring.join().unwrap()
    });
    assert_eq!(measuring["records_read"], 1_000);
    // 200 of 1,000 records were due during the stall, evenly: a tenth of all waited at least half of it.
    for latency in ["latency", "end_to_end"] {
        let at = |name: &str| measuring[latency][name].as_f64().unwrap();
        assert!(at("max_us") >= 900_000.0, "{measuring}");
        assert!(at("p90_us") >= 400_000.0, "{measuring}");
    }
}

#[test]
fn an_idle_broker_is_measured_with_its_partitions_and_readers() {
    let idle = bench(
        "idle --partitions 20 --consumers 2 --settle 100ms --duration 300ms",
        None,
    );
    assert_eq!(
        (&idle["partitions"], &idle["consumers"]),
        (&20.into(), &2.into())
    );
    assert!(idle["elapsed_seconds"].as_f64().unwrap() >= 0.3);
    assert!(idle["anonymous_bytes"].as_u64().unwrap() > 100_000);
    assert!(idle["page_table_bytes"].as_u64().unwrap() > 0);
    let percent = idle["cpu_percent_of_a_core"].as_f64().unwrap();
    assert!((0.0..=200.0).contains(&percent), "{percent}");
}

#[test]
fn a_group_is_measured_while_one_leaves_and_while_nothing_happens() {
    let group = bench(
        "group --members 5 --partitions 20 --in-memory --settle 100ms --duration 300ms",
        None,
    );
    assert_eq!(
        (&group["members"], &group["partitions"]),
        (&5.into(), &20.into())
    );
    for figure in ["joined_seconds", "rebalanced_seconds", "idle_seconds"] {
        assert!(group[figure].as_f64().unwrap() > 0.0, "{group}");
    }
    let percent = group["idle_cpu_percent_of_a_core"].as_f64().unwrap();
    assert!((0.0..=200.0).contains(&percent), "{percent}");
}

#[test]
fn every_kind_of_start_is_measured_as_often_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display();
    let start = bench(&format!("start --iterations 2 --dir {dir}"), None);
    for kind in ["memory", "memory_ports", "disk", "serve", "serve_again"] {
        assert_eq!(start[kind]["count"], 2, "{start}");
    }
    let partitions = bench(
        &format!("start --iterations 1 --partitions 8 --dir {dir}"),
        None,
    );
    assert_eq!(partitions["after_end"]["count"], 1);
    assert_eq!(partitions["after_kill"]["count"], 1);
    let log = bench(
        &format!("start --iterations 2 --log-bytes 4MiB --dir {dir}"),
        None,
    );
    assert_eq!(log["log_records"], 64);
    assert_eq!(log["after_kill"]["count"], 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_limit() {
    for (arguments, code, said) in [
        ("produce --rate 0", 2, "from 1 to 100000000"),
        ("produce --record-bytes 16MiB", 2, "15MiB"),
        ("produce --batch-bytes 20MiB", 2, "15MiB"),
        (
            "produce --spawn --in-memory --linger 10m",
            2,
            "delivery_timeout_ms",
        ),
        (
            "latency --spawn --in-memory --record-bytes 8",
            2,
            "below 16",
        ),
        (
            "idle --partitions 3 --consumers 4",
            2,
            "above --partitions 3",
        ),
        (
            "group --partitions 3 --members 4",
            2,
            "above --partitions 3",
        ),
        // It measured the one that it started, and left the other one out without a word.
        (
            "produce --spawn --server 127.0.0.1:1",
            2,
            "'--spawn' cannot be used with '--server",
        ),
        ("consume --pid 2147483647", 1, "no such broker"),
        ("produce --server 127.0.0.1:1", 1, "cannot reach the broker"),
    ] {
        let mut words = vec!["bench"];
        words.extend(arguments.split(' '));
        let finished = Logweir::new(&words).run();
        assert_eq!(
            finished.code,
            Some(code),
            "{arguments}: {}",
            finished.stderr
        );
        assert!(
            finished.stderr.contains(said),
            "{arguments}: {}",
            finished.stderr
        );
        assert_eq!(finished.stdout, "");
    }
}

#[test]
fn people_see_percentiles_and_a_drawing() {
    let printed = Logweir::new(&[
        "bench",
        "produce",
        "--spawn",
        "--in-memory",
        "--records",
        "20",
    ])
    .succeed();
    for expected in [
        "20 records",
        "p99.9",
        "  <= ",
        "####",
        "broker processor time",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
}
