//! The data directory around the logs: who owns it, what is in it, how many logs it bears.

use std::time::Instant;

use super::*;
use crate::disk::{DiskOp, OpenMode, PowerCut};
use crate::error::OpenError;

fn open_partition(dir: &Arc<LogDir>, partition: i32, config: &LogConfig) -> Log {
    let (topic_id, partition) = (TopicId::new([1; 16]), PartitionId::new(partition));
    dir.open_log("t", topic_id, partition, config.clone(), Box::new(|_| {}))
        .unwrap()
}

#[test]
fn a_second_owner_is_refused_and_told_the_firsts_pid() {
    for place in [Place::simulated(), Place::real()] {
        let dir = place.open();
        let second = LogDir::open(
            Arc::clone(&place.disk),
            &place.path,
            LogDirConfig::default(),
        );
        let error = second.unwrap_err();
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        assert!(
            error.to_string().contains(&std::process::id().to_string()),
            "{error}"
        );
        dir.close().unwrap();
        drop(dir);
        place.open();
    }
}

/// It used to take sixteen threads, whatever there was to do.
#[test]
fn all_logs_are_flushed_by_no_more_threads_than_there_are_logs() {
    let disk = SimDisk::new(1 << 26);
    let config = LogDirConfig {
        threads: false,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/d"), config).unwrap();
    let mut log = open_partition(&dir, 0, &small_segments());
    log.append(&batch(&["a"], 0), EPOCH, Timestamp::new(0))
        .unwrap();
    let own = std::thread::current().id();
    let syncs = disk.operations_of(DiskOp::Sync);
    disk.set_hook(Some(Arc::new(move |op, _| {
        assert_eq!(std::thread::current().id(), own, "{op:?}");
    })));
    dir.flush_all().unwrap();
    assert_eq!(log.durable_end_offset(), Offset::new(1));
    assert!(disk.operations_of(DiskOp::Sync) > syncs);
}

#[test]
fn a_directory_knows_itself_and_how_it_was_left() {
    let disk = SimDisk::new(1 << 26);
    let open = || {
        let disk = Arc::new(disk.clone());
        LogDir::open(disk, Path::new("/d"), LogDirConfig::default()).unwrap()
    };
    let dir = open();
    let id = dir.directory_id();
    assert!(!dir.was_clean() && !dir.same_boot(), "a new directory");
    dir.close().unwrap();
    drop(dir);
    let dir = open();
    assert_eq!(dir.directory_id(), id);
    assert!(
        dir.was_clean() && dir.same_boot(),
        "closed, then opened on the same boot"
    );
    disk.power_cut(1, PowerCut::KeepAll);
    drop(dir);
    let dir = open();
    assert!(!dir.was_clean() && dir.same_boot(), "killed");
    disk.power_cut(2, PowerCut::LoseUnsynced);
    drop(dir);
    let dir = open();
    assert!(!dir.was_clean() && !dir.same_boot(), "the power was cut");
    assert_eq!(dir.directory_id(), id);
}

#[test]
fn a_damaged_file_of_the_directory_is_a_refusal_that_names_it() {
    for name in ["directory", "recovery-points"] {
        let disk = SimDisk::new(1 << 26);
        let open = || {
            let disk = Arc::new(disk.clone());
            LogDir::open(disk, Path::new("/d"), LogDirConfig::default())
        };
        open().unwrap().close().unwrap();
        disk.flip_bit(&Path::new("/d").join(name), 13, 1).unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains(&format!("/d/{name} is corrupt")), "{error}");
    }
}

#[test]
fn a_missing_segment_below_the_recovery_point_is_corruption() {
    let disk = SimDisk::new(1 << 26);
    let place = Place {
        disk: Arc::new(disk.clone()),
        path: "/data".into(),
        _temporary: None,
    };
    let dir = place.open();
    let mut log = open_log(&dir, &small_segments());
    for at in 0..50 {
        log.append(&batch(&["value"], at), EPOCH, Timestamp::new(at))
            .unwrap();
    }
    log.flush().unwrap();
    dir.drive(true);
    disk.power_cut(0, PowerCut::KeepAll);
    let path = place.path.join("logs/t").join(log.id().dir_name());
    drop((log, dir));
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let last = disk
        .list(&path)
        .unwrap()
        .into_iter()
        .rfind(|e| e.name.ends_with(".log"));
    disk.remove_file(&path.join(last.unwrap().name)).unwrap();
    let dir = LogDir::open(disk, &place.path, LogDirConfig::default()).unwrap();
    let id = (TopicId::new([1; 16]), PartitionId::new(0));
    let error = dir
        .open_log("t", id.0, id.1, small_segments(), Box::new(|_| {}))
        .unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn unknown_directories_are_put_aside_and_never_removed() {
    let place = Place::real();
    let dir = place.open();
    drop(open_log(&dir, &LogConfig::default()));
    let topic = place.path.join("logs/t");
    for name in [
        "notes",
        "1-01010101-0101-0101-0101-010101010101.deleted",
        "old.stray",
    ] {
        place.disk.create_dir_all(&topic.join(name)).unwrap();
        place
            .disk
            .open(&topic.join(name).join("file"), OpenMode::Create)
            .unwrap();
    }
    let logs = dir.existing_logs().unwrap();
    let id = TopicId::new([1; 16]);
    assert_eq!(logs.len(), 1);
    assert_eq!(
        (&*logs[0].topic, logs[0].topic_id, logs[0].partition.get()),
        ("t", id, 0)
    );
    dir.set_stray(&logs[0]).unwrap();
    assert_eq!(dir.existing_logs().unwrap(), []);
    let names: Vec<_> = place
        .disk
        .list(&topic)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let stray = "0-01010101-0101-0101-0101-010101010101.stray";
    assert_eq!(names, [stray, "notes.stray", "old.stray"]);
    assert!(place.disk.exists(&topic.join("notes.stray/file")).unwrap());
}

#[test]
fn a_log_is_opened_once_and_begins_anew_after_it_was_deleted() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &LogConfig::default());
    log.append(&batch(&["value"], 0), EPOCH, Timestamp::new(0))
        .unwrap();
    let id = (TopicId::new([1; 16]), PartitionId::new(0));
    let again = dir.open_log("t", id.0, id.1, LogConfig::default(), Box::new(|_| {}));
    assert!(matches!(again.unwrap_err(), OpenError::AlreadyOpen { .. }));
    dir.delete_log(log).unwrap();
    assert_eq!(dir.existing_logs().unwrap(), []);
    let log = open_log(&dir, &LogConfig::default());
    assert_eq!(log.log_end_offset(), Offset::ZERO);
}

#[test]
fn a_deleted_log_does_not_take_the_directory_offline() {
    let place = Place::real();
    let dir = place.open();
    let per_ack = LogConfig {
        flush: FlushPolicy::PER_ACK,
        ..small_segments()
    };
    for round in 0..50 {
        let mut log = open_log(&dir, &per_ack);
        for at in 0..10 {
            log.append(&batch(&["value"], at), EPOCH, Timestamp::new(at))
                .unwrap();
        }
        dir.delete_log(log).unwrap();
        assert_eq!(dir.offline(), None, "round {round}");
    }
}

#[test]
fn mapped_segments_stay_within_their_budget() {
    let disk = SimDisk::new(1 << 28);
    let config = LogDirConfig {
        max_mapped_segments: Some(8),
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk), Path::new("/data"), config).unwrap();
    let mut log = open_log(&dir, &small_segments());
    for at in 0..1000 {
        log.append(&batch(&["value"], at), EPOCH, Timestamp::new(at))
            .unwrap();
    }
    for _ in 0..3 {
        assert_eq!(read_all(&log, 0).len(), 1000);
        assert!(
            dir.mapped_segments() <= 8,
            "{} are mapped",
            dir.mapped_segments()
        );
    }
}

/// Opens, appends to and closes `count` logs, and opens them again.
fn check_many(place: &Place, sim: Option<&SimDisk>, count: i32) {
    let dir = place.open();
    let config = LogConfig::default();
    let began = Instant::now();
    let mut logs: Vec<_> = (0..count)
        .map(|at| open_partition(&dir, at, &config))
        .collect();
    let made = began.elapsed();
    for log in &mut logs {
        log.append(&batch(&["value"], 0), EPOCH, Timestamp::new(0))
            .unwrap();
    }
    let appended = began.elapsed() - made;
    for log in &logs {
        assert!(log.reader().size_bytes() < 100);
        let path = place.path.join("logs/t").join(log.id().dir_name());
        let files = place.disk.list(&path).unwrap();
        let bytes: u64 = files.iter().map(|entry| entry.len).sum();
        assert!(bytes <= 64 << 10, "{bytes} bytes for a record");
    }
    let closing = Instant::now();
    dir.flush_all().unwrap();
    for log in &mut logs {
        log.close().unwrap();
    }
    drop(logs);
    dir.close().unwrap();
    drop(dir);
    let closed = closing.elapsed();

    let opening = Instant::now();
    let dir = place.open();
    let (maps, scans) = sim.map_or((0, 0), |disk| {
        (
            disk.operations_of(DiskOp::Map),
            disk.operations_of(DiskOp::Len),
        )
    });
    let logs: Vec<_> = (0..count)
        .map(|at| open_partition(&dir, at, &config))
        .collect();
    let opened = opening.elapsed();
    if let Some(disk) = sim {
        assert_eq!(
            disk.operations_of(DiskOp::Map),
            maps,
            "nothing is mapped at a clean start"
        );
        // The producer snapshot and the epochs: two small files each.
        let read = disk.operations_of(DiskOp::Len) - scans;
        assert!(
            read <= 2 * u64::try_from(count).unwrap(),
            "{read} files were looked into"
        );
    }
    assert!(
        logs.iter()
            .all(|log| log.log_end_offset() == Offset::new(1))
    );
    println!(
        "{count} logs: made in {made:?}, appended to in {appended:?}, closed in {closed:?}, \
         opened in {opened:?}"
    );
}

#[test]
fn ten_thousand_logs_are_small_and_open_fast() {
    let count = if full() { 10_000 } else { 1_000 };
    let disk = SimDisk::new(2 << 30);
    let place = Place {
        disk: Arc::new(disk.clone()),
        path: "/data".into(),
        _temporary: None,
    };
    check_many(&place, Some(&disk), count);
    check_many(&Place::real(), None, if full() { 10_000 } else { 200 });
}

#[test]
fn a_start_in_memory_is_cheap() {
    let mut times: Vec<_> = (0..50)
        .map(|_| {
            let began = Instant::now();
            let place = Place::simulated();
            let dir = place.open();
            let log = open_log(&dir, &LogConfig::default());
            let time = began.elapsed();
            drop(log);
            time
        })
        .collect();
    times.sort();
    println!(
        "a directory and a log in memory: {:?} (median of 50)",
        times[25]
    );
    assert!(times[0].as_millis() < 10, "{times:?}");
}

fn names(disk: &SimDisk, dir: &str) -> Vec<String> {
    let entries = disk.list(Path::new(dir)).unwrap().into_iter();
    entries.map(|entry| entry.name).collect()
}

/// A topic of two partitions is deleted while another stays; then the power is cut before the `k`-th operation.
fn delete_a_topic(disk: &SimDisk, k: u64) -> bool {
    let open = || {
        let config = LogDirConfig {
            threads: false,
            ..LogDirConfig::default()
        };
        LogDir::open(Arc::new(disk.clone()), Path::new("/d"), config).unwrap()
    };
    let dir = open();
    let config = LogConfig::default();
    let ids = [(1, "gone", 0), (1, "gone", 1), (2, "kept", 0)];
    let mut logs = ids.map(|(id, topic, partition)| {
        let (id, partition) = (TopicId::new([id; 16]), PartitionId::new(partition));
        let log = dir.open_log(topic, id, partition, config.clone(), Box::new(|_| {}));
        log.unwrap()
    });
    for log in &mut logs {
        log.append(&batch(&["value"], 0), EPOCH, Timestamp::new(0))
            .unwrap();
        log.flush().unwrap();
    }
    let [one, two, _kept] = logs;
    disk.inject(crate::disk::SimFault::errno(5).at(k).forever());
    let deleted = dir.delete_log(one).is_ok() && {
        let id = two.id().clone();
        drop(two);
        dir.delete_closed_log(&id).is_ok()
    };
    disk.clear_faults();
    deleted
}

#[test]
fn a_deleted_topic_leaves_no_directory_whenever_the_power_is_cut() {
    for (k, cut, seed) in (1..20).flat_map(|k| {
        [(k, PowerCut::KeepAll, 0)]
            .into_iter()
            .chain((0..8).map(move |s| (k, PowerCut::LoseUnsynced, s)))
    }) {
        let disk = SimDisk::new(1 << 26);
        let deleted = delete_a_topic(&disk, k);
        if deleted {
            assert_eq!(names(&disk, "/d/logs"), ["kept"]);
        }
        disk.power_cut(seed, cut);
        let dir = LogDir::open(
            Arc::new(disk.clone()),
            Path::new("/d"),
            LogDirConfig::default(),
        );
        let dir = dir.unwrap();
        let logs = dir.existing_logs().unwrap();
        let left = logs.iter().filter(|log| &*log.topic == "gone").count();
        assert!(!deleted || left == 0, "operation {k}, {cut:?} {seed}");
        assert_eq!(
            names(&disk, "/d/logs").len(),
            1 + left.min(1),
            "operation {k}, {cut:?} {seed}"
        );
        for log in logs.iter().filter(|log| &*log.topic == "gone") {
            dir.delete_closed_log(log).unwrap();
        }
        assert_eq!(
            names(&disk, "/d/logs"),
            ["kept"],
            "operation {k}, {cut:?} {seed}"
        );
        // Its name is free, and what comes under it stays.
        let (id, partition) = (TopicId::new([3; 16]), PartitionId::new(0));
        let mut log = dir
            .open_log(
                "gone",
                id,
                partition,
                LogConfig::default(),
                Box::new(|_| {}),
            )
            .unwrap();
        log.append(&batch(&["value"], 0), EPOCH, Timestamp::new(0))
            .unwrap();
        log.flush().unwrap();
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        let dir = LogDir::open(
            Arc::new(disk.clone()),
            Path::new("/d"),
            LogDirConfig::default(),
        );
        let log = dir.unwrap().open_log(
            "gone",
            id,
            partition,
            LogConfig::default(),
            Box::new(|_| {}),
        );
        assert_eq!(
            read_all(&log.unwrap(), 0).len(),
            1,
            "operation {k}, {cut:?} {seed}"
        );
    }
}

#[test]
fn a_start_after_a_kill_syncs_each_log_once_and_shared_directories_once() {
    let disk = SimDisk::new(1 << 28);
    let place = Place {
        disk: Arc::new(disk.clone()),
        path: "/data".into(),
        _temporary: None,
    };
    let dir = place.open();
    let mut logs: Vec<_> = (0..100)
        .map(|at| open_partition(&dir, at, &LogConfig::default()))
        .collect();
    for log in &mut logs {
        log.append(&batch(&["value"], 0), EPOCH, Timestamp::new(0))
            .unwrap();
    }
    disk.power_cut(0, PowerCut::KeepAll);
    drop((logs, dir));
    let syncs = || {
        let of = |op| disk.operations_of(op);
        [of(DiskOp::Sync), of(DiskOp::SyncDir)]
    };
    // The killed process left the disk to clones that are made from now on.
    let dir = LogDir::open(Arc::new(disk.clone()), &place.path, LogDirConfig::default()).unwrap();
    let before = syncs();
    let logs = (0..100).map(|at| open_partition(&dir, at, &LogConfig::default()));
    let logs: Vec<_> = logs.collect();
    let after = syncs();
    assert_eq!(after[0] - before[0], 100, "the bytes of each");
    assert_eq!(
        after[1] - before[1],
        103,
        "its name, and three directories above"
    );
    assert_eq!(logs.len(), 100);
}
