//! A sync that fails is told once by the kernel. Wherever it was, the directory goes offline and nothing is synced
//! again: a second try would succeed without what is lost.

use super::*;
use crate::disk::{DiskOp, InjectedFault, SimFault};
use crate::error::{ChangeError, OpenError};

fn open_dir(disk: &SimDisk) -> Arc<LogDir> {
    let config = LogDirConfig {
        threads: false,
        reserve_bytes: 0,
        ..LogDirConfig::default()
    };
    LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap()
}

fn open_topic(dir: &Arc<LogDir>, topic: u8) -> Result<Log, OpenError> {
    let (id, partition) = (TopicId::new([topic; 16]), PartitionId::new(0));
    let name = format!("t{topic}");
    dir.open_log(&name, id, partition, small_segments(), Box::new(|_| {}))
}

fn append(log: &mut Log, records: i64) {
    for at in 0..records {
        log.append(&batch(&["value"], at), EPOCH, Timestamp::new(at))
            .unwrap();
    }
}

fn syncs(disk: &SimDisk) -> u64 {
    disk.operations_of(DiskOp::Sync) + disk.operations_of(DiskOp::SyncDir)
}

/// Makes the `k`-th operation of a kind fail, as a broken device would.
fn break_one(disk: &SimDisk, op: DiskOp, k: u64) -> InjectedFault {
    disk.inject(SimFault::errno(5).on(op).at(k))
}

/// Recovery used to report such a failure as that of one log. The next log's flush synced the same directory again,
/// with success, and called names durable that were lost.
#[test]
fn a_sync_that_fails_while_a_log_is_opened_takes_the_directory_offline() {
    for (op, at_least) in [(DiskOp::Sync, 3), (DiskOp::SyncDir, 4)] {
        for k in 1.. {
            let disk = SimDisk::new(1 << 26);
            let dir = open_dir(&disk);
            let mut log = open_topic(&dir, 1).unwrap();
            append(&mut log, 40);
            // The process is killed.
            drop((log, dir));
            let dir = open_dir(&disk);
            let fault = break_one(&disk, op, k);
            let opened = open_topic(&dir, 1);
            if fault.fired() == 0 {
                opened.unwrap();
                assert!(k > at_least, "only {k} operations {op:?} in opening");
                break;
            }
            let after = syncs(&disk);
            let error = opened.unwrap_err();
            assert!(
                matches!(error, OpenError::Offline { .. }),
                "{op:?} {k}: {error}"
            );
            assert!(dir.offline().is_some(), "{op:?} {k}");
            for topic in [1, 2] {
                let error = open_topic(&dir, topic).unwrap_err();
                assert!(
                    matches!(error, OpenError::Offline { .. }),
                    "{op:?} {k}: {error}"
                );
            }
            assert_eq!(syncs(&disk), after, "{op:?} {k}: tried again");
        }
    }
}

/// A raise of the log start used to report it as an error of its own, and to sync the same directory at the next try.
#[test]
fn a_sync_that_fails_while_the_log_start_is_raised_takes_the_directory_offline() {
    for op in [DiskOp::Sync, DiskOp::SyncDir] {
        for k in 1.. {
            let disk = SimDisk::new(1 << 26);
            let dir = open_dir(&disk);
            let mut log = open_topic(&dir, 1).unwrap();
            append(&mut log, 40);
            log.flush().unwrap();
            // Its names are to be synced on the way.
            let other = open_topic(&dir, 2).unwrap();
            let trim = log.plan_delete_before(Offset::new(20)).unwrap().unwrap();
            let fault = break_one(&disk, op, k);
            let written = trim.write();
            if fault.fired() == 0 {
                written.unwrap();
                assert!(k > 1, "no {op:?} at all");
                break;
            }
            let after = syncs(&disk);
            let error = written.unwrap_err();
            assert!(
                matches!(error, ChangeError::Offline { .. }),
                "{op:?} {k}: {error}"
            );
            assert!(dir.offline().is_some(), "{op:?} {k}");
            assert_eq!(log.log_start_offset(), Offset::ZERO);
            trim.write().unwrap_err();
            log.flush().unwrap();
            log.close().unwrap_err();
            drop((log, other));
            dir.close().unwrap_err();
            assert_eq!(syncs(&disk), after, "{op:?} {k}: tried again");
        }
    }
}

/// The kernel may drop the pages that it failed to write. The next run on the same boot took itself for one that lost
/// nothing, and gave offsets out again in the same leader epoch.
#[test]
fn after_a_failed_sync_the_next_run_knows_that_the_page_cache_was_not_kept() {
    let disk = SimDisk::new(1 << 26);
    let dir = open_dir(&disk);
    let first = dir.boot_id().to_owned();
    assert!(first.starts_with(&disk.boot_id().unwrap()), "{first}");
    drop(dir);
    // The process is killed: everything is still there.
    let dir = open_dir(&disk);
    assert!(dir.same_boot());
    assert_eq!(dir.boot_id(), first);
    let mut log = open_topic(&dir, 1).unwrap();
    append(&mut log, 1);
    break_one(&disk, DiskOp::Sync, 1);
    log.flush().unwrap_err();
    drop((log, dir));

    let dir = open_dir(&disk);
    assert!(!dir.was_clean() && !dir.same_boot());
    let second = dir.boot_id().to_owned();
    assert_ne!(second, first);
    // Killed before it told anybody: the next one tells the same.
    drop(dir);
    let dir = open_dir(&disk);
    assert!(dir.same_boot());
    assert_eq!(dir.boot_id(), second);
}

#[test]
fn a_sync_that_fails_while_a_log_is_deleted_takes_the_directory_offline() {
    let disk = SimDisk::new(1 << 26);
    let dir = open_dir(&disk);
    let log = open_topic(&dir, 1).unwrap();
    break_one(&disk, DiskOp::SyncDir, 1);
    dir.delete_log(log).unwrap_err();
    assert!(dir.offline().is_some());
}

#[test]
fn a_sync_that_meets_a_full_disk_is_tried_again_when_there_is_room() {
    let disk = SimDisk::new(1 << 26);
    let dir = open_dir(&disk);
    let mut log = open_topic(&dir, 1).unwrap();
    append(&mut log, 40);
    log.flush().unwrap();
    let trim = log.plan_delete_before(Offset::new(20)).unwrap().unwrap();
    let full = SimFault::new(std::io::ErrorKind::StorageFull).on(DiskOp::Sync);
    disk.inject(full.forever());
    let error = trim.write().unwrap_err();
    assert!(matches!(error, ChangeError::Io { .. }), "{error}");
    assert_eq!(dir.offline(), None);
    disk.clear_faults();
    trim.write().unwrap();
    log.finish_trim(trim).unwrap();
    assert_eq!(log.log_start_offset(), Offset::new(20));
}
