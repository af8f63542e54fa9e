//! State snapshots: they count for the very log they speak of, or not at all.

use std::path::PathBuf;

use super::*;
use crate::checked_file::{frame, magic};
use crate::disk::{OpenMode, PowerCut, SimFault, replace_file};
use crate::log::StateSnapshot;

fn snapshot(end: i64, leader_epoch: LeaderEpoch, state: &'static str) -> StateSnapshot {
    StateSnapshot {
        end: Offset::new(end),
        leader_epoch,
        taken_at: Timestamp::new(7),
        state: Bytes::from_static(state.as_bytes()),
    }
}

fn append(log: &mut Log, epoch: LeaderEpoch, count: usize) {
    for _ in 0..count {
        let batch = batch(&["value"], 0);
        log.append(&batch, epoch, Timestamp::new(0)).unwrap();
    }
}

fn file(log: &Log) -> (PathBuf, PathBuf) {
    let files = &log.shared().files;
    (files.snapshot(), files.snapshot_aside())
}

#[test]
fn a_snapshot_is_read_as_it_was_written_also_after_a_restart() {
    for place in [Place::simulated(), Place::real()] {
        let dir = place.open();
        let mut log = open_log(&dir, &LogConfig::default());
        assert_eq!(log.reader().read_snapshot().unwrap(), None);
        append(&mut log, EPOCH, 5);
        for state in ["first", "second"] {
            let written = snapshot(4, EPOCH, state);
            log.reader().write_snapshot(&written).unwrap();
            assert_eq!(log.reader().read_snapshot().unwrap(), Some(written));
        }
        log.close().unwrap();
        let closed = log.reader().write_snapshot(&snapshot(5, EPOCH, "late"));
        assert!(closed.is_err(), "the log is closed");
        drop(log);
        dir.close().unwrap();
        drop(dir);
        let dir = place.open();
        let log = open_log(&dir, &LogConfig::default());
        let found = log.reader().read_snapshot().unwrap();
        assert_eq!(found, Some(snapshot(4, EPOCH, "second")));
    }
}

#[test]
fn a_snapshot_of_records_that_the_log_lost_tells_nothing() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &LogConfig::default());
    append(&mut log, EPOCH, 5);
    log.reader()
        .write_snapshot(&snapshot(5, EPOCH, "s"))
        .unwrap();
    log.truncate_to(Offset::new(4)).unwrap();
    assert_eq!(
        log.reader().read_snapshot().unwrap(),
        None,
        "beyond the end"
    );
    append(&mut log, LeaderEpoch::new(2), 3);
    assert_eq!(log.reader().read_snapshot().unwrap(), None, "written anew");
    let holds = snapshot(6, LeaderEpoch::new(2), "s");
    log.reader().write_snapshot(&holds).unwrap();
    assert_eq!(log.reader().read_snapshot().unwrap(), Some(holds));
}

#[test]
fn a_snapshot_of_another_log_tells_nothing() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &LogConfig::default());
    append(&mut log, EPOCH, 5);
    let of_another = super::super::snapshot::encode(
        TopicId::new([2; 16]),
        PartitionId::new(0),
        &snapshot(5, EPOCH, "s"),
    );
    replace_file(place.disk.as_ref(), &file(&log).0, &of_another).unwrap();
    assert_eq!(log.reader().read_snapshot().unwrap(), None);
}

#[test]
fn a_damaged_and_a_too_new_snapshot_are_put_aside_and_disturb_nobody() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &LogConfig::default());
    append(&mut log, EPOCH, 5);
    let too_new = frame(magic::STATE_SNAPSHOT, 2, &[0; 40]);
    for unreadable in [b"LWSS".to_vec(), Vec::new(), too_new] {
        let (path, aside) = file(&log);
        replace_file(place.disk.as_ref(), &path, &unreadable).unwrap();
        assert_eq!(log.reader().read_snapshot().unwrap(), None);
        assert!(!place.disk.exists(&path).unwrap());
        let kept = place.disk.open(&aside, OpenMode::Read).unwrap();
        assert_eq!(kept.len().unwrap(), unreadable.len() as u64);
    }
    log.close().unwrap();
    drop(log);
    let log = open_log(&dir, &LogConfig::default());
    assert_eq!(read_all(&log, 0).len(), 5);
}

#[test]
fn after_a_crash_at_any_operation_the_old_snapshot_or_the_new_one_is_there() {
    let mut failed = 0;
    for (k, seed) in (1..12).flat_map(|k| (0..4).map(move |seed| (k, seed))) {
        let disk = SimDisk::new(1 << 26);
        let open = || {
            let disk = Arc::new(disk.clone());
            LogDir::open(disk, Path::new("/data"), LogDirConfig::default()).unwrap()
        };
        let dir = open();
        let mut log = open_log(&dir, &LogConfig::default());
        append(&mut log, EPOCH, 5);
        log.flush().unwrap();
        let (old, new) = (snapshot(3, EPOCH, "old"), snapshot(5, EPOCH, "new"));
        log.reader().write_snapshot(&old).unwrap();
        disk.inject(SimFault::errno(5).at(k).forever());
        let outcome = log.reader().write_snapshot(&new);
        failed += usize::from(outcome.is_err());
        disk.clear_faults();
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        drop((log, dir));
        let dir = open();
        let log = open_log(&dir, &LogConfig::default());
        let found = log.reader().read_snapshot().unwrap().expect("one is there");
        match outcome {
            Ok(()) => assert_eq!(found, new, "operation {k}, seed {seed}"),
            Err(_) => assert!(found == old || found == new, "operation {k}, seed {seed}"),
        }
    }
    assert!(failed >= 16, "only {failed} writes were cut short");
}

/// The file as it was first written; it must open for ever.
#[test]
fn the_bytes_of_a_snapshot_are_those_of_the_format() {
    let encoded = super::super::snapshot::encode(
        TopicId::new([0xab; 16]),
        PartitionId::new(3),
        &snapshot(0x0102, LeaderEpoch::new(9), "state"),
    );
    let mut expected = b"LWSS\x00\x01\x00\x00\x00\x00\x00\x2d".to_vec();
    expected.extend_from_slice(&[0xab; 16]);
    expected.extend_from_slice(
        b"\x00\x00\x00\x03\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x00\x00\x00\x07state",
    );
    let crc = crc32fast::hash(&expected);
    expected.extend_from_slice(&crc.to_be_bytes());
    assert_eq!(encoded, expected);
}
