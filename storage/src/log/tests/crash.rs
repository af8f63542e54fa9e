//! A process that ends without notice: what is left of it disturbs nobody and promises nothing, and takes nothing along.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::disk::{DiskOp, OpenMode, PowerCut, SimFault};
use crate::flush::FlushOutcome;

const PATIENCE: Duration = Duration::from_secs(20);
const CUTS: [PowerCut; 2] = [PowerCut::LoseUnsynced, PowerCut::KeepAll];

fn per_ack() -> LogConfig {
    LogConfig {
        flush: FlushPolicy::PER_ACK,
        ..small_segments()
    }
}

fn append(log: &mut Log) -> Result<crate::log::Appended, crate::error::AppendError> {
    log.append(&batch(&["value"], 0), EPOCH, Timestamp::new(0))
}

/// Opens the directory as one process that may be cut off, its threads included.
fn open_dir(disk: &SimDisk, threads: bool) -> Arc<LogDir> {
    let config = LogDirConfig {
        threads,
        ..LogDirConfig::default()
    };
    LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap()
}

fn open_told(dir: &Arc<LogDir>, config: LogConfig) -> (Log, mpsc::Receiver<FlushOutcome>) {
    let (sender, told) = mpsc::channel();
    let on_flush = Box::new(move |outcome| {
        let _ = sender.send(outcome);
    });
    let id = (TopicId::new([1; 16]), PartitionId::new(0));
    let log = dir.open_log("t", id.0, id.1, config, on_flush).unwrap();
    (log, told)
}

/// Every file under a directory.
fn image(disk: &SimDisk, dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            files.extend(image(disk, &path));
            continue;
        }
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap()];
        let file = disk.open(&path, OpenMode::Read).unwrap();
        file.read_at(&mut bytes, 0).unwrap();
        files.insert(path, bytes);
    }
    files
}

#[test]
fn what_is_left_of_a_dead_process_changes_nothing() {
    for cut in CUTS {
        let disk = SimDisk::new(1 << 26);
        let dead = open_dir(&disk, true);
        let (mut log, _told) = open_told(&dead, LogConfig::default());
        append(&mut log).unwrap();
        log.flush().unwrap();
        append(&mut log).unwrap();
        disk.power_cut(0, cut);

        let dir = open_dir(&disk, false);
        let mut next = open_log(&dir, &LogConfig::default());
        append(&mut next).unwrap();
        let before = image(&disk, Path::new("/"));
        assert!(log.flush().is_err(), "{cut:?}: nothing is durable any more");
        assert!(append(&mut log).is_err());
        assert!(log.close().is_err() && dead.flush_all().is_err());
        assert!(dead.delete_log(log).is_err() && dead.close().is_err());
        assert!(!dead.release_reserve());
        dead.drive(true);
        assert_eq!(image(&disk, Path::new("/")), before, "{cut:?}");

        let third = Arc::new(disk.clone());
        let third = LogDir::open(third, Path::new("/data"), LogDirConfig::default());
        assert!(third.is_err(), "{cut:?}: the lock is the new one's");
        next.close().unwrap();
        dir.close().unwrap();
        drop((next, dir));
        drop(dead);
        assert!(open_dir(&disk, false).was_clean(), "{cut:?}");
    }
}

#[test]
fn a_sync_that_the_power_cut_overtook_is_told_as_failed() {
    for cut in CUTS {
        let disk = SimDisk::new(1 << 26);
        let dead = open_dir(&disk, true);
        let (mut log, told) = open_told(&dead, per_ack());
        let slow = disk.inject(SimFault::slow(PATIENCE).on(DiskOp::Sync).forever());
        append(&mut log).unwrap();
        let began = std::time::Instant::now();
        while slow.fired() == 0 {
            assert!(began.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        disk.power_cut(0, cut);
        let outcome = told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(outcome, FlushOutcome::Failed(_)), "{outcome:?}");
        assert_eq!(log.durable_end_offset(), Offset::ZERO);
    }
}

/// A broker appends, flushes and rolls in its threads when it is cut off; another starts at once.
#[test]
fn a_start_right_after_a_power_cut_finds_all_that_was_promised() {
    for seed in 0..if full() { 500 } else { 50 } {
        let disk = SimDisk::new(1 << 28);
        let dead = open_dir(&disk, true);
        let (mut log, told) = open_told(&dead, per_ack());
        let writer = std::thread::spawn(move || while append(&mut log).is_ok() {});
        let mut promised = 0;
        while promised < 20 + seed % 7 {
            if let FlushOutcome::Durable(end) = told.recv_timeout(PATIENCE).unwrap() {
                promised = u64::try_from(end.get()).unwrap();
            }
        }
        disk.power_cut(seed, CUTS[usize::try_from(seed % 2).unwrap()]);
        let dir = open_dir(&disk, true);
        let mut log = open_log(&dir, &per_ack());
        writer.join().unwrap();
        drop(dead);
        for outcome in told {
            if let FlushOutcome::Durable(end) = outcome {
                promised = promised.max(u64::try_from(end.get()).unwrap());
            }
        }
        let end = u64::try_from(log.log_end_offset().get()).unwrap();
        assert!(end >= promised, "seed {seed}: {end} of {promised}");
        assert_eq!(read_all(&log, 0).len() as u64, end, "seed {seed}");
        append(&mut log).unwrap();
        log.close().unwrap();
        dir.close().unwrap();
    }
}

#[test]
fn a_flush_whose_time_is_moved_up_is_done_when_the_move_returns() {
    let minute = Duration::from_secs(60);
    for threads in [true, false] {
        let disk = SimDisk::new(1 << 26);
        let dir = open_dir(&disk, threads);
        let flush = FlushPolicy {
            interval: Some(2 * minute),
            ..FlushPolicy::OS
        };
        let config = LogConfig {
            flush,
            ..LogConfig::default()
        };
        let (mut log, told) = open_told(&dir, config);
        append(&mut log).unwrap();
        dir.advance(minute);
        assert_eq!(log.durable_end_offset(), Offset::ZERO);
        assert_eq!(told.try_iter().count(), 0);
        dir.advance(minute);
        assert_eq!(log.durable_end_offset(), Offset::new(1));
        let told: Vec<_> = told.try_iter().collect();
        assert_eq!(told, [FlushOutcome::Durable(Offset::new(1))]);
    }
}

/// Tells the child process of the next test apart.
const CHILD: &str = "LOGWEIR_STORAGE_CHILD";

/// Threads, descriptors and maps of this process, and its anonymous memory in KiB.
fn holdings() -> ([usize; 3], u64) {
    let count = |of: &str| std::fs::read_dir(of).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let memory = memory.unwrap().trim().trim_end_matches(" kB");
    let ours = maps.lines().filter(|line| line.contains("/data/")).count();
    let held = [count("/proc/self/task"), count("/proc/self/fd"), ours];
    (held, memory.parse().unwrap())
}

fn open_append_and_drop(disk: Arc<dyn Disk>, path: &Path) {
    let dir = LogDir::open(disk, path, LogDirConfig::default()).unwrap();
    let mut log = open_log(&dir, &per_ack());
    for _ in 0..20 {
        append(&mut log).unwrap();
    }
    assert!(read_all(&log, log.log_end_offset().get() - 20).len() == 20);
    // Either may go first.
    if log.log_end_offset().get() % 40 == 0 {
        drop(dir);
        drop(log);
    } else {
        drop(log);
        drop(dir);
    }
}

/// Run in a process of its own, because it counts what the whole process holds.
#[test]
fn directories_that_are_dropped_take_threads_files_maps_and_memory_along() {
    let name =
        "log::tests::crash::directories_that_are_dropped_take_threads_files_maps_and_memory_along";
    if std::env::var_os(CHILD).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture", "--test-threads=1"]);
        let output = child.env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let cycle = |nth: u32| {
        // A real disk takes much longer.
        if nth.is_multiple_of(8) {
            let path = temporary.path().join(format!("{nth}/data"));
            open_append_and_drop(Arc::new(OsDisk::new()), &path);
        }
        open_append_and_drop(Arc::new(SimDisk::default()), Path::new("/data"));
    };
    (0..20).for_each(cycle);
    let (before, memory_before) = holdings();
    (20..220).for_each(cycle);
    let (after, memory_after) = holdings();
    assert_eq!(after, before, "threads, descriptors, maps");
    let grown = memory_after.saturating_sub(memory_before);
    assert!(grown < 4096, "{grown} KiB more than {memory_before} KiB");
}
