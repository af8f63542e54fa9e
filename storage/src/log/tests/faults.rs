//! Failing disks: whatever operation fails, nothing that was acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::disk::{DiskOp, PowerCut, SimFault};
use crate::error::{AppendError, ReadError};
use crate::flush::FlushOutcome;

/// What a run did, as far as it was told.
#[derive(Debug, Default)]
struct Told {
    /// Appended: offset and value.
    appended: BTreeMap<i64, String>,
    /// Below it everything was acknowledged.
    durable: i64,
    /// The log start that was asked for last.
    start: i64,
}

fn open(disk: &SimDisk) -> Result<(Arc<LogDir>, Log), crate::error::OpenError> {
    let config = LogDirConfig {
        threads: false,
        reserve_bytes: 64 << 10,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config)?;
    let config = LogConfig {
        flush: FlushPolicy::PER_ACK,
        retention: None,
        retention_bytes: Some(4000),
        ..small_segments()
    };
    let on_flush = Box::new(|_| {});
    let log = dir.open_log(
        "t",
        TopicId::new([1; 16]),
        PartitionId::new(0),
        config,
        on_flush,
    )?;
    Ok((dir, log))
}

/// Opens, appends, rolls, deletes, checkpoints, closes and does it again; errors are borne as a broker would.
fn run(disk: &SimDisk) -> Told {
    let mut told = Told::default();
    for round in 0..3 {
        let Ok((dir, mut log)) = open(disk) else {
            continue;
        };
        for at in 0..16 {
            let value = format!("{round}.{at} {}", "x".repeat(150));
            let now = Timestamp::new(round * 1000 + at);
            if let Ok(done) = log.append(&batch(&[&value], now.get()), EPOCH, now) {
                told.appended.insert(done.base_offset.get(), value);
            }
            dir.drive(at == 8);
            if dir.offline().is_none() {
                told.durable = told.durable.max(log.durable_end_offset().get());
            }
            if at == 10 {
                let start = log.log_start_offset().plus(3);
                if start <= log.durable_end_offset() {
                    told.start = told.start.max(start.get());
                    let _ = log.delete_records_before(start);
                }
            }
            if at == 12 {
                if log
                    .enforce_retention(now, log.durable_end_offset())
                    .is_err()
                {
                    // It may have been done all the same.
                    told.start = told.start.max(told.durable);
                }
                told.start = told.start.max(log.log_start_offset().get());
            }
        }
        let closed = log.close().is_ok();
        drop(log);
        if closed {
            let _ = dir.close();
        }
    }
    told
}

/// Everything acknowledged is there, and nothing but what was appended.
fn check(disk: &SimDisk, told: &Told, context: &str) {
    let (_dir, log) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let start = log.log_start_offset().get();
    assert!(start <= told.start, "{context}: starts at {start}");
    let found: BTreeMap<_, _> = read_all(&log, start).into_iter().collect();
    for (offset, value) in told.appended.range(start..told.durable) {
        assert_eq!(
            found.get(offset),
            Some(value),
            "{context}: acknowledged offset {offset}"
        );
    }
    for (offset, value) in &found {
        assert_eq!(
            told.appended.get(offset),
            Some(value),
            "{context}: offset {offset}"
        );
    }
}

fn check_fault(fault: &SimFault, cut: PowerCut, seed: u64) {
    let disk = SimDisk::new(1 << 26);
    disk.inject(fault.clone());
    let told = run(&disk);
    disk.clear_faults();
    disk.power_cut(seed, cut);
    check(&disk, &told, &format!("{fault:?} {cut:?} seed {seed}"));
}

#[test]
fn whichever_operation_fails_nothing_acknowledged_is_lost() {
    let disk = SimDisk::new(1 << 26);
    let told = run(&disk);
    let operations = disk.operations();
    assert!(operations >= 500, "only {operations} operations");
    assert_eq!(told.durable, 48, "the run without a fault");
    for k in 1..=operations {
        for cut in [PowerCut::LoseUnsynced, PowerCut::KeepAll] {
            check_fault(&SimFault::errno(5).at(k), cut, k);
            check_fault(
                &SimFault::new(std::io::ErrorKind::StorageFull).at(k),
                cut,
                k,
            );
            check_fault(&SimFault::errno(5).at(k).forever(), cut, k);
        }
    }
}

#[test]
fn a_failed_sync_takes_the_directory_offline_and_is_not_tried_again() {
    let disk = SimDisk::new(1 << 26);
    let dir = LogDir::open(
        Arc::new(disk.clone()),
        Path::new("/d"),
        LogDirConfig::default(),
    );
    let dir = dir.unwrap();
    let (sender, told) = std::sync::mpsc::channel();
    let on_flush = Box::new(move |outcome| {
        let _ = sender.send(outcome);
    });
    let config = LogConfig {
        flush: FlushPolicy::PER_ACK,
        ..LogConfig::default()
    };
    let id = (TopicId::new([1; 16]), PartitionId::new(0));
    let mut log = dir
        .open_log("t", id.0, id.1, config.clone(), on_flush)
        .unwrap();
    let mut other = open_other(&dir, &config);
    log.append(&batch(&["a"], 0), EPOCH, Timestamp::new(0))
        .unwrap();
    assert_eq!(told.recv().unwrap(), FlushOutcome::Durable(Offset::new(1)));

    disk.inject(SimFault::errno(5).on(DiskOp::Sync));
    log.append(&batch(&["b"], 0), EPOCH, Timestamp::new(0))
        .unwrap();
    let FlushOutcome::Failed(reason) = told.recv().unwrap() else {
        panic!("the flush did not fail");
    };
    assert!(reason.contains("sync of"), "{reason}");
    assert_eq!(dir.offline().as_deref(), Some(reason.as_ref()));
    let syncs = disk.operations_of(DiskOp::Sync);
    log.request_flush();
    let error = other
        .append(&batch(&["c"], 0), EPOCH, Timestamp::new(0))
        .unwrap_err();
    assert!(matches!(error, AppendError::Offline { .. }), "{error}");
    let error = log
        .reader()
        .read(Offset::ZERO, 100, Offset::MAX)
        .unwrap_err();
    assert!(matches!(error, ReadError::Offline { .. }), "{error}");
    assert_eq!(log.durable_end_offset(), Offset::new(1));
    assert!(log.close().is_err());
    assert!(dir.close().is_err());
    assert_eq!(disk.operations_of(DiskOp::Sync), syncs);
}

fn open_other(dir: &Arc<LogDir>, config: &LogConfig) -> Log {
    let id = (TopicId::new([2; 16]), PartitionId::new(0));
    dir.open_log("other", id.0, id.1, config.clone(), Box::new(|_| {}))
        .unwrap()
}

/// One run with the group-commit thread: a writer appends, a reader follows below the durable end, and the power goes
/// before some operation, or at the end.
fn power_cut(seed: u64) {
    let disk = SimDisk::new(1 << 26);
    let config = LogDirConfig {
        max_unflushed_bytes: 16 << 10,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap();
    let log_config = LogConfig {
        flush: FlushPolicy::PER_ACK,
        ..small_segments()
    };
    let acknowledged = Arc::new(AtomicI64::new(0));
    let told = Arc::clone(&acknowledged);
    let on_flush = Box::new(move |outcome| {
        if let FlushOutcome::Durable(end) = outcome {
            told.fetch_max(end.get(), Ordering::SeqCst);
        }
    });
    let id = (TopicId::new([1; 16]), PartitionId::new(0));
    let mut log = dir
        .open_log("t", id.0, id.1, log_config.clone(), on_flush)
        .unwrap();
    let reader = log.reader();
    let mut appended = Vec::new();
    let mut shown = Vec::new();
    let batches = 5 + seed % 40;
    let disk = Arc::new(disk);
    cut_at(&disk, disk.operations() + seed % 97, seed);
    for at in 0..batches {
        let filler = "y".repeat(usize::try_from((seed * 31 + at * 7) % 300).unwrap());
        let value = format!("{seed}.{at} {filler}");
        if log
            .append(&batch(&[&value], 0), EPOCH, Timestamp::new(0))
            .is_err()
        {
            break;
        }
        appended.push(value);
        let bound = reader.durable_end_offset();
        let from = Offset::new(i64::try_from(shown.len()).unwrap());
        match reader.read(from, 1000, bound) {
            Ok(slice) => shown.extend(values(&slice.bytes)),
            Err(_) => break,
        }
    }
    disk.set_hook(None);
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    disk.power_cut(seed, PowerCut::LoseUnsynced);
    drop(log);
    drop(dir);

    let dir = LogDir::open(
        Arc::new(SimDisk::clone(&disk)),
        Path::new("/data"),
        LogDirConfig::default(),
    );
    let log = open_log(&dir.unwrap(), &log_config);
    let found = read_all(&log, 0);
    let durable = usize::try_from(acknowledged).unwrap().max(shown.len());
    assert!(
        found.len() >= durable,
        "seed {seed}: {} of {durable} are left",
        found.len()
    );
    for (at, value) in appended.iter().enumerate().take(found.len()) {
        assert_eq!(&found[at].1, value, "seed {seed}, offset {at}");
    }
    assert_eq!(found[..shown.len()], shown, "seed {seed}");
}

/// Cuts the power before the operation with this number.
fn cut_at(disk: &Arc<SimDisk>, number: u64, seed: u64) {
    let machine = Arc::clone(disk);
    let cut = std::sync::Once::new();
    disk.set_hook(Some(Arc::new(move |_, _| {
        if machine.operations() >= number {
            cut.call_once(|| machine.power_cut(seed, PowerCut::LoseUnsynced));
        }
    })));
}

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged_or_shown() {
    let count = if full() { 1000 } else { 100 };
    for seed in 0..count {
        power_cut(seed);
    }
}
