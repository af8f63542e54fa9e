//! Bugs that were there once, each with its story.

use super::*;
use crate::disk::{DiskOp, PowerCut};
use crate::flush::FlushOutcome;
use std::path::Path;
use std::sync::Mutex;

fn quiet() -> LogDirConfig {
    LogDirConfig {
        threads: false,
        reserve_bytes: 0,
        ..LogDirConfig::default()
    }
}

fn per_ack() -> LogConfig {
    LogConfig {
        flush: FlushPolicy::PER_ACK,
        ..small_segments()
    }
}

fn dir_on(disk: &SimDisk, config: LogDirConfig) -> Arc<LogDir> {
    LogDir::open(Arc::new(disk.clone()), Path::new("/srv/data"), config).unwrap()
}

fn topic(n: u8) -> TopicId {
    TopicId::new([n; 16])
}

/// The data directory was made and used, but nobody had synced the name of the directory in its parent: a power cut
/// took everything away.
#[test]
fn acknowledged_records_survive_although_the_data_directory_is_new() {
    for seed in 0..100 {
        let disk = SimDisk::new(1 << 30);
        disk.create_dir_all(Path::new("/srv")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let dir = dir_on(&disk, quiet());
        let mut log = open_log(&dir, &per_ack());
        log.append(&batch(&["a"], 1), EPOCH, Timestamp::new(1))
            .unwrap();
        dir.drive(false);
        assert_eq!(log.durable_end_offset(), Offset::new(1));
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        drop((log, dir));
        let dir = dir_on(&disk, quiet());
        let log = open_log(&dir, &per_ack());
        assert_eq!(log.log_end_offset(), Offset::new(1), "seed {seed}");
    }
}

/// A broker was killed between making a log's directory and the first flush. The next run found the directory
/// there and never synced its names.
#[test]
fn names_made_before_a_kill_are_durable_with_the_first_flush_after_it() {
    for seed in 0..100 {
        let disk = SimDisk::new(1 << 30);
        disk.create_dir_all(Path::new("/srv/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.sync_dir(Path::new("/srv")).unwrap();
        let dir = dir_on(&disk, quiet());
        let log = open_log(&dir, &per_ack());
        disk.power_cut(seed, PowerCut::KeepAll);
        drop((log, dir));
        let dir = dir_on(&disk, quiet());
        let mut log = open_log(&dir, &per_ack());
        log.append(&batch(&["a"], 1), EPOCH, Timestamp::new(1))
            .unwrap();
        dir.drive(false);
        assert_eq!(log.durable_end_offset(), Offset::new(1));
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        drop((log, dir));
        let dir = dir_on(&disk, quiet());
        let log = open_log(&dir, &per_ack());
        assert_eq!(log.log_end_offset(), Offset::new(1), "seed {seed}");
    }
}

/// A segment that a reader had mapped and that was then appended to was closed by the budget of maps. Readers
/// mapped it a second time, up to where it ended then, and saw nothing that came later.
#[test]
fn the_budget_never_closes_the_segment_that_is_appended_to() {
    let disk = SimDisk::new(1 << 30);
    let config = LogDirConfig {
        max_mapped_segments: Some(2),
        ..quiet()
    };
    let config_log = small_segments();
    let dir = dir_on(&disk, config.clone());
    let mut log = open_log(&dir, &config_log);
    for nth in 0..3 {
        log.append(&batch(&["x"], nth), EPOCH, Timestamp::new(nth))
            .unwrap();
    }
    log.close().unwrap();
    drop(log);
    dir.close().unwrap();
    drop(dir);
    let dir = dir_on(&disk, config);
    let mut log = open_log(&dir, &config_log);
    assert_eq!(read_all(&log, 0).len(), 3); // a consumer reads before anything is appended
    log.append(&batch(&["y"], 4), EPOCH, Timestamp::new(4))
        .unwrap();
    // Other logs' segments push it out.
    let mut others = Vec::new();
    for n in 10..14 {
        let mut other = dir
            .open_log(
                "o",
                topic(n),
                PartitionId::new(0),
                config_log.clone(),
                Box::new(|_| {}),
            )
            .unwrap();
        for nth in 0..40 {
            other
                .append(
                    &batch(&["some longer value that fills segments"], nth),
                    EPOCH,
                    Timestamp::new(nth),
                )
                .unwrap();
        }
        others.push(other);
    }
    // A consumer reads again, which maps the evicted segment a second time; then the producer goes on.
    assert_eq!(read_all(&log, 0).len(), 4);
    log.append(&batch(&["z"], 5), EPOCH, Timestamp::new(5))
        .unwrap();
    let slice = log
        .reader()
        .read(Offset::new(4), 1000, Offset::MAX)
        .unwrap();
    assert_eq!(
        values(&slice.bytes).len(),
        1,
        "the last record must be readable"
    );
}

/// A flush that waited while its log was deleted could not sync the directory that was gone, and took the data
/// directory offline.
#[test]
fn deleting_a_log_with_a_flush_waiting_leaves_the_directory_online() {
    let disk = SimDisk::new(1 << 30);
    let dir = dir_on(&disk, quiet());
    let mut log = open_log(&dir, &per_ack());
    log.append(&batch(&["a"], 1), EPOCH, Timestamp::new(1))
        .unwrap();
    dir.delete_log(log).unwrap();
    dir.drive(false);
    assert_eq!(dir.offline(), None);
}

/// A flush that a truncation overtook told the end from before: records of the new epoch were acknowledged that no
/// disk had.
#[test]
fn a_flush_from_before_a_truncation_says_nothing_about_what_came_after() {
    let disk = SimDisk::new(1 << 30);
    let dir = dir_on(&disk, quiet());
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let on_flush = Box::new(move |outcome| sink.lock().unwrap().push(outcome));
    let log = dir
        .open_log("t", topic(1), PartitionId::new(0), per_ack(), on_flush)
        .unwrap();
    let log = Arc::new(Mutex::new(log));
    {
        let mut log = log.lock().unwrap();
        for nth in 0..10 {
            log.append(&batch(&["old"], nth), EPOCH, Timestamp::new(nth))
                .unwrap();
        }
    }
    // While the sync waits, a follower's thread cuts the log to 2 and appends a new leader's record there.
    let reader = log.lock().unwrap().reader();
    let cutting = Arc::new(Mutex::new(None));
    let (shared, thread) = (Arc::clone(&log), Arc::clone(&cutting));
    disk.set_hook(Some(Arc::new(move |op, path| {
        let mut thread = thread.lock().unwrap();
        if op != DiskOp::Sync || !path.to_string_lossy().ends_with("0000.log") || thread.is_some() {
            return;
        }
        let log = Arc::clone(&shared);
        *thread = Some(std::thread::spawn(move || {
            let mut log = log.lock().unwrap();
            log.truncate_to(Offset::new(2)).unwrap();
            log.append(&batch(&["new"], 1), LeaderEpoch::new(2), Timestamp::new(1))
                .unwrap();
        }));
        while reader.log_end_offset() > Offset::new(3) {
            std::thread::yield_now();
        }
    })));
    dir.drive(false);
    let cutting = cutting.lock().unwrap().take().expect("the sync was met");
    cutting.join().unwrap();
    disk.set_hook(None);
    let log = log.lock().unwrap();
    for outcome in told.lock().unwrap().iter() {
        if let FlushOutcome::Durable(end) = outcome {
            assert!(
                *end <= log.log_end_offset(),
                "told {end}, but the log ends at {}",
                log.log_end_offset()
            );
        }
    }
}

/// A log start that was renamed into place but not yet synced decided what to remove at the next start; a power
/// cut then kept the removals and lost the log start.
#[test]
fn a_log_start_that_is_not_durable_removes_nothing_durably() {
    for seed in 0..300 {
        let disk = SimDisk::new(1 << 30);
        disk.create_dir_all(Path::new("/srv/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.sync_dir(Path::new("/srv")).unwrap();
        let dir = dir_on(&disk, quiet());
        let mut log = open_log(&dir, &per_ack());
        for nth in 0..60 {
            log.append(
                &batch(&["some value that fills segments soon"], nth),
                EPOCH,
                Timestamp::new(nth),
            )
            .unwrap();
        }
        dir.drive(true);
        // Killed between the rename of log-state and the sync of the directory.
        disk.inject(
            crate::disk::SimFault::new(std::io::ErrorKind::Other)
                .on(DiskOp::SyncDir)
                .forever(),
        );
        log.delete_records_before(Offset::new(40)).unwrap_err();
        disk.clear_faults();
        disk.power_cut(seed, PowerCut::KeepAll);
        drop((log, dir));
        let dir = dir_on(&disk, quiet());
        disk.inject(
            crate::disk::SimFault::new(std::io::ErrorKind::Other)
                .at(1 + seed % 20)
                .forever(),
        );
        let log = dir.open_log(
            "t",
            topic(1),
            PartitionId::new(0),
            per_ack(),
            Box::new(|_| {}),
        );
        disk.clear_faults();
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        drop((log, dir));
        let dir = dir_on(&disk, quiet());
        let opened = dir.open_log(
            "t",
            topic(1),
            PartitionId::new(0),
            per_ack(),
            Box::new(|_| {}),
        );
        assert!(opened.is_ok(), "seed {seed}: {:?}", opened.err());
    }
}

/// What a deleted or truncated log had not flushed was counted as waiting for ever, until every append waited for a
/// flush of its own.
#[test]
fn bytes_that_need_no_flush_any_more_do_not_count_as_waiting() {
    let disk = SimDisk::new(1 << 30);
    let dir = dir_on(&disk, quiet());
    let mut log = open_log(&dir, &small_segments());
    for nth in 0..50 {
        log.append(&batch(&["value"], nth), EPOCH, Timestamp::new(nth))
            .unwrap();
    }
    assert!(dir.unflushed_bytes() > 0);
    log.truncate_to(Offset::ZERO).unwrap();
    log.request_flush();
    dir.drive(false);
    assert_eq!(dir.unflushed_bytes(), 0, "after a truncation");
    log.append(&batch(&["value"], 0), EPOCH, Timestamp::new(0))
        .unwrap();
    dir.delete_log(log).unwrap();
    assert_eq!(dir.unflushed_bytes(), 0, "after a deletion");
}

/// A roll made the next segment's file and failed. After a truncation that file was still there, and when the log
/// had grown past it again, recovery took it for the next segment and cut off what lay above its base.
#[test]
fn the_file_of_a_roll_that_failed_goes_with_a_truncation() {
    let disk = SimDisk::new(1 << 30);
    let dir = dir_on(&disk, quiet());
    let mut log = open_log(&dir, &small_segments());
    let append = |log: &mut Log, nth: i64| {
        let value = format!("value {nth} {}", "x".repeat(100));
        log.append(&batch(&[&value], nth), EPOCH, Timestamp::new(nth))
    };
    let failing = crate::disk::SimFault::new(std::io::ErrorKind::Other).on(DiskOp::Map);
    append(&mut log, 0).unwrap();
    disk.inject(failing);
    let mut end = 1;
    while append(&mut log, end).is_ok() {
        end += 1;
    }
    disk.clear_faults();
    log.truncate_to(Offset::new(2)).unwrap();
    for nth in 2..end + 3 {
        append(&mut log, nth).unwrap();
    }
    let before = read_all(&log, 0);
    disk.power_cut(0, PowerCut::KeepAll);
    drop((log, dir));
    let log = open_log(&dir_on(&disk, quiet()), &small_segments());
    assert_eq!(read_all(&log, 0), before);
}

/// Pages were asked for only as far as the writer knew of blocks, which it learns of when it gets there: at every new
/// step of blocks up to 512 KiB of pages were absent, and an append there took 20 times as long.
#[test]
fn a_busy_writer_finds_its_pages_also_where_new_blocks_begin() {
    let place = Place::real();
    let dir = LogDir::open(Arc::clone(&place.disk), &place.path, quiet()).unwrap();
    // An index that grew would meet absent pages of its own.
    let config = LogConfig {
        index_interval_bytes: u32::MAX,
        ..LogConfig::default()
    };
    let mut log = open_log(&dir, &config);
    let value = "x".repeat(1 << 10);
    let small = batch(&[&value], 0);
    let (mut met, mut since_known) = (0, 0);
    for burst in 0..128 {
        let before = faults_of_this_thread();
        for _ in 0..256 {
            log.append(&small, EPOCH, Timestamp::new(0)).unwrap();
        }
        met += faults_of_this_thread() - before;
        // Known to be busy by then.
        if burst == 16 {
            since_known = met;
        }
        dir.drive(false);
    }
    let met = met - since_known;
    assert!(met < 14, "{met} pages were absent in 28 MiB");
}

/// Page faults served without a device (`minflt` of proc(5)).
fn faults_of_this_thread() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// An empty segment is opened anew when a batch comes that its map has no room for. Its file was then noted twice, once
/// as one that gets no more, and the first flush took both off the list: what was appended later was told to be durable
/// and never synced.
#[test]
fn a_segment_that_was_opened_anew_while_it_was_empty_is_synced_with_every_flush() {
    let disk = SimDisk::new(1 << 26);
    let small = LogConfig {
        segment_bytes: 500,
        ..per_ack()
    };
    let large = LogConfig {
        segment_bytes: 50_000,
        ..per_ack()
    };
    let dir = dir_on(&disk, quiet());
    let mut log = open_log(&dir, &small);
    log.append(&batch(&["a"], 1), EPOCH, Timestamp::new(1))
        .unwrap();
    log.restart_at(Offset::new(10)).unwrap();
    log.set_config(large.clone());
    let long = "x".repeat(5_000);
    for value in [&*long, "b"] {
        log.append(&batch(&[value], 1), EPOCH, Timestamp::new(1))
            .unwrap();
        dir.drive(false);
    }
    assert_eq!(log.durable_end_offset(), Offset::new(12));
    disk.power_cut(0, PowerCut::LoseUnsynced);
    drop((log, dir));
    let log = open_log(&dir_on(&disk, quiet()), &large);
    assert_eq!(log.log_end_offset(), Offset::new(12));
}
