//! When appended records become durable, and who is told.

use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::disk::{DiskOp, PowerCut, SimFault};
use crate::flush::FlushOutcome;

const PATIENCE: Duration = Duration::from_secs(20);

fn open_told(dir: &Arc<LogDir>, config: LogConfig) -> (Log, Receiver<FlushOutcome>) {
    let (sender, told) = mpsc::channel();
    let on_flush = Box::new(move |outcome| {
        let _ = sender.send(outcome);
    });
    let id = (TopicId::new([1; 16]), PartitionId::new(0));
    (
        dir.open_log("t", id.0, id.1, config, on_flush).unwrap(),
        told,
    )
}

fn append(log: &mut Log) {
    log.append(&batch(&["value"], 0), EPOCH, Timestamp::new(0))
        .unwrap();
}

/// Waits until everything below `end` was told to be durable.
fn wait_for(told: &Receiver<FlushOutcome>, end: i64) {
    loop {
        match told.recv_timeout(PATIENCE).unwrap() {
            FlushOutcome::Durable(offset) if offset.get() >= end => return,
            FlushOutcome::Durable(_) => {}
            FlushOutcome::Failed(reason) => panic!("{reason}"),
        }
    }
}

/// A disk whose syncs wait for a gate.
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
    arrived: Mutex<mpsc::Sender<()>>,
}

fn slow_disk() -> (SimDisk, Arc<Gate>, Receiver<()>) {
    let disk = SimDisk::new(1 << 28);
    let (sender, arrived) = mpsc::channel();
    let gate = Arc::new(Gate {
        open: Mutex::new(true),
        changed: Condvar::new(),
        arrived: Mutex::new(sender),
    });
    let at = Arc::clone(&gate);
    disk.set_hook(Some(Arc::new(move |op, _| {
        let mut open = at.open.lock();
        if op == DiskOp::Sync && !*open {
            let _ = at.arrived.lock().send(());
            while !*open {
                at.changed.wait(&mut open);
            }
        }
    })));
    (disk, gate, arrived)
}

impl Gate {
    fn set(&self, open: bool) {
        *self.open.lock() = open;
        self.changed.notify_all();
    }
}

#[test]
fn one_sync_serves_all_that_wait() {
    let (disk, gate, arrived) = slow_disk();
    let dir = LogDir::open(
        Arc::new(disk.clone()),
        Path::new("/d"),
        LogDirConfig::default(),
    );
    let dir = dir.unwrap();
    let per_ack = LogConfig {
        flush: FlushPolicy::PER_ACK,
        ..LogConfig::default()
    };
    let (mut log, told) = open_told(&dir, per_ack);
    append(&mut log);
    wait_for(&told, 1);
    let before = disk.operations_of(DiskOp::Sync);
    let flushes_before = dir.log_flushes();
    gate.set(false);
    append(&mut log);
    arrived.recv_timeout(PATIENCE).unwrap();
    // While that sync is in progress, a thousand more come.
    for _ in 0..1000 {
        append(&mut log);
    }
    assert_eq!(log.durable_end_offset(), Offset::new(1));
    gate.set(true);
    wait_for(&told, 1002);
    assert_eq!(log.durable_end_offset(), Offset::new(1002));
    let syncs = disk.operations_of(DiskOp::Sync) - before;
    assert_eq!(syncs, 2, "one for the first, one for the thousand");
    assert_eq!(dir.log_flushes() - flushes_before, 2, "they are counted");
}

#[test]
fn where_the_disk_is_memory_an_append_flushes_by_itself_unless_something_slows_it_down() {
    let disk = SimDisk::new(1 << 28);
    let config = LogDirConfig {
        threads: false,
        flush_in_append: true,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/d"), config).unwrap();
    let per_ack = LogConfig {
        flush: FlushPolicy::PER_ACK,
        ..LogConfig::default()
    };
    let (mut log, told) = open_told(&dir, per_ack);
    append(&mut log);
    assert_eq!(log.durable_end_offset(), Offset::new(1), "at once");

    let slow = || {
        disk.inject(
            SimFault::slow(Duration::from_millis(1))
                .on(DiskOp::Sync)
                .forever(),
        )
    };
    let slowed = slow();
    append(&mut log);
    assert_eq!(
        log.durable_end_offset(),
        Offset::new(1),
        "left to the thread"
    );
    dir.drive(false);
    wait_for(&told, 2);
    assert!(slowed.fired() > 0);

    append(&mut log);
    disk.clear_faults();
    append(&mut log);
    assert_eq!(
        log.durable_end_offset(),
        Offset::new(4),
        "with the one before"
    );
    // What was asked for in the meantime finds nothing to do.
    dir.drive(false);
    assert_eq!(log.durable_end_offset(), Offset::new(4));
    assert_eq!(dir.unflushed_bytes(), 0);

    let by_count = FlushPolicy {
        records: Some(2),
        ..FlushPolicy::OS
    };
    log.set_config(LogConfig {
        flush: by_count,
        ..LogConfig::default()
    });
    append(&mut log);
    assert_eq!(log.durable_end_offset(), Offset::new(4));
    append(&mut log);
    assert_eq!(
        log.durable_end_offset(),
        Offset::new(6),
        "the second record"
    );
}

#[test]
fn a_flush_by_count_comes_with_the_nth_record() {
    let disk = SimDisk::new(1 << 28);
    let config = LogDirConfig {
        threads: false,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk), Path::new("/d"), config).unwrap();
    let flush = FlushPolicy {
        records: Some(10),
        ..FlushPolicy::OS
    };
    let (mut log, told) = open_told(
        &dir,
        LogConfig {
            flush,
            ..LogConfig::default()
        },
    );
    for count in 1..=25 {
        append(&mut log);
        dir.drive(false);
        assert_eq!(log.durable_end_offset().get(), count / 10 * 10);
    }
    assert_eq!(told.try_iter().count(), 2);
}

#[test]
fn a_flush_by_time_comes_without_another_append() {
    let place = Place::real();
    let dir = place.open();
    let flush = FlushPolicy {
        interval: Some(Duration::from_millis(5)),
        ..FlushPolicy::OS
    };
    let (mut log, told) = open_told(
        &dir,
        LogConfig {
            flush,
            ..LogConfig::default()
        },
    );
    for count in 1..=3 {
        append(&mut log);
        wait_for(&told, count);
    }
}

#[test]
fn nothing_is_synced_for_the_operating_systems_policy_until_the_log_is_closed() {
    let disk = SimDisk::new(1 << 28);
    let dir = LogDir::open(
        Arc::new(disk.clone()),
        Path::new("/d"),
        LogDirConfig::default(),
    );
    let dir = dir.unwrap();
    let (mut log, told) = open_told(&dir, LogConfig::default());
    let before = disk.operations_of(DiskOp::Sync);
    for _ in 0..1000 {
        append(&mut log);
    }
    assert_eq!(disk.operations_of(DiskOp::Sync), before);
    assert_eq!(log.durable_end_offset(), Offset::ZERO);
    log.close().unwrap();
    assert_eq!(log.durable_end_offset(), Offset::new(1000));
    wait_for(&told, 1000);
}

#[test]
fn unflushed_bytes_are_bounded_and_so_is_recovery() {
    const MAX_UNFLUSHED: u64 = 1 << 20;
    let disk = SimDisk::new(1 << 28);
    let config = LogDirConfig {
        max_unflushed_bytes: MAX_UNFLUSHED,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap();
    let (mut log, _told) = open_told(&dir, LogConfig::default());
    let value = "v".repeat(10_000);
    let big = batch(&[&value], 0);
    let size = big.bytes().len() as u64;
    for count in 1..=6400i64 {
        log.append(&big, EPOCH, Timestamp::new(0)).unwrap();
        let waiting = u64::try_from(count - log.durable_end_offset().get()).unwrap() * size;
        assert!(waiting <= MAX_UNFLUSHED + size, "{waiting} bytes wait");
    }
    disk.power_cut(1, PowerCut::KeepAll);
    drop(log);
    drop(dir);
    let read = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&read);
    disk.set_hook(Some(Arc::new(move |op, path: &Path| {
        if op == DiskOp::Read && path.extension().is_some_and(|ending| ending == "log") {
            *counted.lock() += 1;
        }
    })));
    let dir = LogDir::open(
        Arc::new(disk.clone()),
        Path::new("/data"),
        LogDirConfig::default(),
    );
    let log = open_log(&dir.unwrap(), &LogConfig::default());
    assert_eq!(log.log_end_offset(), Offset::new(6400));
    // 64 MB were appended. In pieces of 1 MiB: what was not flushed or not noted to be, and a margin, once to check and once
    // to write it again; reserved blocks; headers since the last snapshot of the producers.
    let pieces = *read.lock();
    assert!(pieces <= 2 * 3 + 8 + 16 + 4, "{pieces} pieces were read");
}
