//! Starting and ending: the ready file, one process per data directory, damage that is refused by
//! name, signals, and settings that do not exist.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use logweir_tests::{
    BrokerProcess, DEADLINE, GrpcBroker, Logweir, Ready, ServeOptions, is_running,
};
use rustix::process::Signal;

/// Starts a broker that must refuse, and gives what it said.
fn refused(options: ServeOptions) -> String {
    let mut broker = BrokerProcess::spawn(options);
    let ended = || broker.is_ready() || !is_running(broker.pid());
    logweir_tests::wait_until("the broker refuses or starts", DEADLINE, ended);
    assert!(
        !broker.is_ready(),
        "it started, and should have refused:\n{}",
        broker.log()
    );
    let status = broker.wait_exit(DEADLINE);
    let log = broker.log();
    assert!(!status.success(), "it should have refused:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    log
}

#[test]
fn the_ready_file_and_standard_output_tell_process_and_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let ready_file = dir.path().join("ready.json");
    let flags = [
        "--ready-file",
        ready_file.to_str().unwrap(),
        "--grpc",
        "127.0.0.1:0",
    ];
    let flags_off = ["--http", "off", "--kafka", "127.0.0.1:0"];
    let options = ServeOptions::in_memory().args(&flags).args(&flags_off);
    let mut broker = BrokerProcess::spawn(options);
    logweir_tests::wait_until("the ready file is there", DEADLINE, || ready_file.exists());
    let line = fs::read_to_string(&ready_file).unwrap();
    let ready = Ready::parse(&line);
    assert_eq!(line.lines().count(), 1, "{line:?}");
    assert_eq!(ready.pid, broker.pid());
    assert_eq!(ready.http, None);
    for address in [ready.kafka, ready.grpc] {
        let address = address.expect("both are on");
        let port = address.strip_prefix("127.0.0.1:").expect("the loopback's");
        assert_ne!(port, "0", "the port that the system chose");
    }
    broker.terminate();
    assert!(
        broker.log().contains(&format!("out: {}", line.trim_end())),
        "{}",
        broker.log()
    );
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    let temporary = left.iter().filter(|name| *name != "ready.json").count();
    assert_eq!(temporary, 0, "left behind: {left:?}");
}

#[test]
fn a_second_process_on_the_same_data_directory_is_told_the_firsts_pid() {
    let dir = tempfile::tempdir().unwrap();
    let first = ServeOptions::on_disk(dir.path()).start();
    let log = refused(ServeOptions::on_disk(dir.path()));
    assert!(
        log.contains(&first.pid().to_string()),
        "pid {} is not in:\n{log}",
        first.pid()
    );
    // Once: the directory was named by what wanted it, and again by what could not be had.
    assert_eq!(
        log.matches(dir.path().to_str().unwrap()).count(),
        1,
        "the directory is not named once in:\n{log}"
    );
    assert_eq!(log.matches("in use").count(), 1, "{log}");
    assert!(is_running(first.pid()), "the first goes on");
}

#[test]
fn a_taken_port_is_refused_with_the_address() {
    let first = ServeOptions::in_memory().start();
    let log = refused(ServeOptions::in_memory().args(&["--grpc", first.grpc()]));
    assert!(log.contains(first.grpc()), "{log}");
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// The first byte of a metadata file, and one in each topic's name, wherever it stands.
fn places_to_damage(bytes: &[u8]) -> Vec<u64> {
    let found = bytes
        .windows(6)
        .enumerate()
        .filter(|(_, window)| *window == b"topic-");
    let names = found.map(|(at, _)| u64::try_from(at).unwrap());
    let places: Vec<u64> = std::iter::once(0).chain(names).collect();
    assert!(
        places.len() > 3,
        "the topics' names are not in it: {places:?}"
    );
    places
}

/// Flips the bits of one byte and gives what it was.
fn flip(path: &Path, at: u64) {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0xff]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_metadata_file_is_refused_by_name_and_nothing_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = ServeOptions::on_disk(dir.path()).start();
    let mut client = GrpcBroker::connect(broker.grpc()).await;
    for topic in ["topic-a", "topic-b", "topic-c"] {
        client.create_topic(topic, 2, &[]).await;
    }
    client.produce_value("topic-a", 0, "kept").await;
    broker.terminate();

    let metadata = metadata_files(dir.path());
    assert!(!metadata.is_empty(), "{:?}", files_below(dir.path()));
    for path in &metadata {
        for at in places_to_damage(&fs::read(path).unwrap()) {
            flip(path, at);
            println!("byte {at} of {} is damaged", path.display());
            let log = refused(ServeOptions::on_disk(dir.path()));
            let told = log.contains(path.to_str().unwrap());
            assert!(
                told,
                "byte {at} of {} is damaged, but it says:\n{log}",
                path.display()
            );
            flip(path, at);
        }
    }

    // Missing is as bad as damaged where topics are known to have been there.
    for path in &metadata {
        let aside = dir.path().join("aside");
        fs::rename(path, &aside).unwrap();
        let log = refused(ServeOptions::on_disk(dir.path()));
        assert!(
            log.contains("metadata"),
            "{} is missing, but it says:\n{log}",
            path.display()
        );
        fs::rename(&aside, path).unwrap();
    }

    broker.restart();
    let mut client = GrpcBroker::connect(broker.grpc()).await;
    let values: Vec<String> = client
        .read_partition("topic-a", 0)
        .await
        .into_iter()
        .map(|record| record.value)
        .collect();
    assert_eq!(values, ["kept"]);
}

/// The metadata quorum's files that hold something.
fn metadata_files(data_dir: &Path) -> Vec<PathBuf> {
    let mut files = files_below(data_dir);
    files.retain(|path| {
        let inside = path.strip_prefix(data_dir).unwrap();
        inside.to_string_lossy().contains("metadata") && fs::metadata(path).unwrap().len() > 0
    });
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_and_the_next_start_finds_everything() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = ServeOptions::on_disk(dir.path()).start();
        let mut client = GrpcBroker::connect(broker.grpc()).await;
        client.create_topic("t", 1, &[]).await;
        for value in ["0", "1", "2"] {
            client.produce_value("t", 0, value).await;
        }
        // Connections left open do not hold the broker up.
        let started = Instant::now();
        broker.signal(signal);
        let status = broker.wait_exit(DEADLINE);
        assert!(status.success(), "{status}:\n{}", broker.log());
        println!("{signal:?}: ended after {:?}", started.elapsed());
        let mark = dir.path().join("clean-shutdown");
        assert!(mark.exists(), "{signal:?} leaves the clean-shutdown file");

        broker.restart();
        let mut client = GrpcBroker::connect(broker.grpc()).await;
        assert_eq!(client.read_partition("t", 0).await.len(), 3);
        assert_eq!(client.produce_value("t", 0, "3").await, 3);
        assert!(!mark.exists(), "a running broker is not cleanly shut down");
        broker.kill9();
        assert!(!mark.exists(), "a killed one neither");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_flight_when_sigterm_comes_gets_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = ServeOptions::on_disk(dir.path()).start();
    let mut client = GrpcBroker::connect(broker.grpc()).await;
    client.create_topic("t", 1, &[]).await;
    // A fetch that waits for records that never come is in flight for certain.
    let mut waiting = client.clone();
    let fetch = tokio::spawn(async move {
        waiting
            .fetch_once("t", 0, 0, std::time::Duration::from_secs(300))
            .await
    });
    let answered = client.produce_value("t", 0, "x").await;
    assert_eq!(answered, 0);
    assert_eq!(
        fetch.await.unwrap().unwrap().next_fetch_offset,
        1,
        "it woke for the record"
    );

    let mut waiting = client.clone();
    let fetch = tokio::spawn(async move {
        waiting
            .fetch_once("t", 0, 1, std::time::Duration::from_secs(300))
            .await
    });
    client.produce_value("t", 0, "y").await;
    assert_eq!(fetch.await.unwrap().unwrap().next_fetch_offset, 2);
    let started = Instant::now();
    broker.terminate();
    assert!(
        started.elapsed() < DEADLINE / 2,
        "ending took {:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_broker_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = ServeOptions::on_disk(dir.path()).start();
    let mut client = GrpcBroker::connect(broker.grpc()).await;
    client.create_topic("t", 1, &[]).await;
    client.produce_value("t", 0, "kept").await;
    // An unfinished produce stream keeps the first signal busy for as long as the broker lets it.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let answers = client.produce.produce_stream(stream).await.unwrap();
    broker.signal(Signal::TERM);
    broker.signal(Signal::TERM);
    let status = broker.wait_exit(DEADLINE);
    // The second may come when the first has done its work already.
    let code = status.code();
    assert!(
        code == Some(143) || code == Some(0),
        "{status}:\n{}",
        broker.log()
    );
    drop((sender, answers));

    broker.restart();
    let mut client = GrpcBroker::connect(broker.grpc()).await;
    assert_eq!(client.read_partition("t", 0).await.len(), 1);
}

#[test]
fn settings_that_do_not_exist_are_refused_with_the_nearest_that_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("logweir.toml");
    let check = |text: &str, expected: &[&str]| {
        fs::write(&config, text).unwrap();
        let log = refused(ServeOptions::in_memory().args(&["--config", config.to_str().unwrap()]));
        for words in expected {
            assert!(
                log.contains(words),
                "`{words}` is not in the answer to {text:?}:\n{log}"
            );
        }
    };
    check(
        "[log]\nretention_sm = 5\n",
        &["retention_sm", "retention_ms", "logweir.toml"],
    );
    check(
        "[listners]\ngrpc = \"127.0.0.1:0\"\n",
        &["listners", "listeners"],
    );
    check("[log]\nsegment_bytes = \"a lot\"\n", &["segment_bytes"]);
    check("[log\n", &["logweir.toml"]);

    let log = refused(ServeOptions::in_memory().env("LOGWEIR_LOG_RETENTION_SM", "5"));
    assert!(log.contains("LOGWEIR_LOG_RETENTION_MS"), "{log}");
    let log = refused(ServeOptions::in_memory().args(&["--set", "log.retention_sm=5"]));
    assert!(log.contains("log.retention_ms"), "{log}");
}

#[test]
fn flags_beat_environment_beats_file() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("logweir.toml");
    fs::write(
        &config,
        "node_id = 3\n[log]\nretention_ms = \"2d\"\nsegment_bytes = \"32MiB\"\n",
    )
    .unwrap();
    let explained = |key: &str| {
        Logweir::new(&[
            "config",
            "--config",
            config.to_str().unwrap(),
            "--explain",
            key,
        ])
        .env("LOGWEIR_LOG_RETENTION_MS", "3d")
        .succeed()
    };
    let retention = explained("log.retention_ms");
    assert!(
        retention.contains("259200000") || retention.contains("3d"),
        "{retention}"
    );
    assert!(
        retention.contains("LOGWEIR_LOG_RETENTION_MS"),
        "{retention}"
    );
    let segment = explained("log.segment_bytes");
    assert!(
        segment.contains("33554432") || segment.contains("32MiB"),
        "{segment}"
    );
    assert!(segment.contains("logweir.toml"), "{segment}");
}

#[test]
fn the_configuration_that_is_printed_can_be_started_with() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("logweir.toml");
    let printed = Logweir::new(&["config", "--set", "log.retention_ms=2d"]).succeed();
    fs::write(&config, &printed).unwrap();
    let again = Logweir::new(&["config", "--config", config.to_str().unwrap()]).succeed();
    assert!(
        again.contains("172800000") || again.contains("2d"),
        "{again}"
    );
    let keys = |text: &str| {
        let settings = text.lines().map(|line| line.trim_start_matches("# "));
        let keys =
            settings.filter_map(|line| line.split_once(" = ").map(|(key, _)| key.to_owned()));
        keys.filter(|key| !key.contains(' ')).collect::<Vec<_>>()
    };
    assert_eq!(keys(&printed), keys(&again));
    ServeOptions::in_memory()
        .args(&["--config", config.to_str().unwrap()])
        .start()
        .terminate();
}
