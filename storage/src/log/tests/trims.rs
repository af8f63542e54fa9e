//! The log's beginning goes in three steps, of which only the second waits for the device, and not under its owner's
//! lock: what happens between them.

use super::*;
use crate::disk::{DiskOp, PowerCut};

fn appended(dir: &Arc<LogDir>, records: i64) -> Log {
    let mut log = open_log(dir, &small_segments());
    append(&mut log, records);
    log.flush().unwrap();
    log
}

fn append(log: &mut Log, records: i64) {
    for at in 0..records {
        log.append(&batch(&["value"], at), EPOCH, Timestamp::new(at))
            .unwrap();
    }
}

fn open_dir(disk: &SimDisk) -> Arc<LogDir> {
    let config = LogDirConfig {
        threads: false,
        ..LogDirConfig::default()
    };
    LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap()
}

fn bounds(log: &Log) -> (i64, i64) {
    (log.log_start_offset().get(), log.log_end_offset().get())
}

/// Opens the log again after a power cut that keeps only what was synced, or everything.
fn after_a_cut(disk: &SimDisk, dir: Arc<LogDir>, log: Log, cut: PowerCut) -> (Arc<LogDir>, Log) {
    disk.power_cut(0, cut);
    drop((log, dir));
    let dir = open_dir(disk);
    let log = open_log(&dir, &small_segments());
    (dir, log)
}

#[test]
fn only_the_middle_step_waits_for_the_device() {
    let disk = SimDisk::new(1 << 26);
    let dir = open_dir(&disk);
    let mut log = appended(&dir, 50);
    let syncs = || disk.operations_of(DiskOp::Sync) + disk.operations_of(DiskOp::SyncDir);
    let before = syncs();
    let day = Timestamp::new(8 * 86_400_000);
    let trim = log.plan_retention(day, Offset::new(50)).unwrap().unwrap();
    assert_eq!(trim.log_start(), Offset::new(50));
    assert_eq!(syncs(), before);
    assert_eq!(bounds(&log), (0, 50), "nothing is shown yet");
    trim.write().unwrap();
    let written = syncs();
    assert!(written > before);
    assert_eq!(read_all(&log, 0).len(), 50, "readers go on");
    append(&mut log, 5);
    assert!(log.finish_trim(trim).unwrap() > 1);
    assert_eq!(syncs(), written);
    assert_eq!(bounds(&log), (50, 55));
    assert!(log.plan_delete_before(Offset::new(50)).unwrap().is_none());
}

#[test]
fn a_trim_that_was_written_holds_after_a_power_cut_and_one_that_was_not_does_nothing() {
    let disk = SimDisk::new(1 << 26);
    let dir = open_dir(&disk);
    let mut log = appended(&dir, 50);
    let trim = log.plan_delete_before(Offset::new(20)).unwrap().unwrap();
    assert_eq!(log.finish_trim(trim).unwrap(), 0);
    assert_eq!(bounds(&log), (0, 50));
    let trim = log.plan_delete_before(Offset::new(20)).unwrap().unwrap();
    trim.write().unwrap();
    drop(trim);
    let (_dir, log) = after_a_cut(&disk, dir, log, PowerCut::LoseUnsynced);
    assert_eq!(bounds(&log), (20, 50));
    assert_eq!(read_all(&log, 20).len(), 30);
}

#[test]
fn a_truncation_between_the_steps_takes_the_trim_back() {
    for written_before in [false, true] {
        let disk = SimDisk::new(1 << 26);
        let dir = open_dir(&disk);
        let mut log = appended(&dir, 50);
        let trim = log.plan_delete_before(Offset::new(40)).unwrap().unwrap();
        if written_before {
            trim.write().unwrap();
        }
        log.truncate_to(Offset::new(30)).unwrap();
        append(&mut log, 3);
        if !written_before {
            trim.write().unwrap();
        }
        assert_eq!(log.finish_trim(trim).unwrap(), 0);
        assert_eq!(bounds(&log), (0, 33));
        let (_dir, log) = after_a_cut(&disk, dir, log, PowerCut::KeepAll);
        assert_eq!(bounds(&log), (0, 33));
        assert_eq!(read_all(&log, 0).len(), 33);
    }
}

/// A gap is noted in the same small file; that note must not bring the old log start back.
#[test]
fn a_gap_that_is_noted_between_the_steps_keeps_the_written_start() {
    let disk = SimDisk::new(1 << 26);
    let dir = open_dir(&disk);
    let mut log = appended(&dir, 50);
    let trim = log.plan_delete_before(Offset::new(20)).unwrap().unwrap();
    trim.write().unwrap();
    let mut bytes = batch(&["value"], 0).bytes().to_vec();
    logweir_proto::record::set_base_offset(&mut bytes, Offset::new(60));
    logweir_proto::record::set_leader_epoch(&mut bytes, EPOCH);
    let gap = RecordBatch::from_bytes(bytes.into()).unwrap();
    log.append_replica(&gap, Timestamp::new(0)).unwrap();
    assert!(log.finish_trim(trim).unwrap() > 0);
    assert_eq!(bounds(&log), (20, 61));
    log.flush().unwrap();
    let (_dir, log) = after_a_cut(&disk, dir, log, PowerCut::LoseUnsynced);
    assert_eq!(bounds(&log), (20, 61));
}

#[test]
fn a_trim_of_a_log_that_was_deleted_is_an_error_and_leaves_the_directory_alone() {
    let disk = SimDisk::new(1 << 26);
    let dir = open_dir(&disk);
    let mut log = appended(&dir, 50);
    let day = Timestamp::new(8 * 86_400_000);
    let trim = log.plan_retention(day, Offset::new(50)).unwrap().unwrap();
    dir.delete_log(log).unwrap();
    assert!(trim.write().is_err());
    assert_eq!(dir.offline(), None);
}
