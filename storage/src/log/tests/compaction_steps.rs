//! Compaction goes in steps, of which only those without the log wait for the device: what happens between them, and what
//! stops them.

use super::compaction::{Found, compact, compacted, put, records, roll};
use super::*;
use crate::disk::{DiskOp, PowerCut, SimFault};
use crate::log::{Compaction, CompactionStep, Replacement};

/// Works up to the first replacement.
fn first_replacement(log: &mut Log, now: i64) -> (Compaction, Replacement) {
    let end = log.log_end_offset();
    let mut compaction = log
        .plan_compaction(Timestamp::new(now), end)
        .unwrap()
        .unwrap();
    match compaction.run(&mut |_| true).unwrap() {
        CompactionStep::Replace(replacement) => (compaction, replacement),
        step => panic!("{step:?}"),
    }
}

fn filled(dir: &Arc<LogDir>) -> Log {
    let mut log = open_log(dir, &compacted());
    for at in 0..60 {
        put(
            &mut log,
            &[("k", Some("value")), (&format!("{at}"), Some("value"))],
            at,
        );
    }
    roll(&mut log);
    log.flush().unwrap();
    log
}

#[test]
fn only_the_steps_without_the_log_wait_for_the_device() {
    let disk = SimDisk::new(1 << 26);
    let config = LogDirConfig {
        threads: false,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap();
    let mut log = filled(&dir);
    let syncs = || disk.operations_of(DiskOp::Sync) + disk.operations_of(DiskOp::SyncDir);
    let before = syncs();
    let mut compaction = log
        .plan_compaction(Timestamp::new(100), Offset::MAX)
        .unwrap()
        .unwrap();
    assert_eq!(syncs(), before);
    let CompactionStep::Replace(replacement) = compaction.run(&mut |_| true).unwrap() else {
        panic!("nothing is replaced");
    };
    let written = disk.operations();
    assert!(syncs() > before);
    assert!(log.finish_compaction(&replacement).unwrap());
    assert_eq!(
        disk.operations(),
        written,
        "the list is replaced in memory alone"
    );
    assert_eq!(records(&log.reader(), 0).last().unwrap().2, "59");
    put(&mut log, &[("after", Some("it"))], 100);
    replacement.settle().unwrap();
    assert!(syncs() > before);
}

#[test]
fn a_truncation_or_a_removal_between_the_steps_takes_the_replacement_back() {
    for removal in [false, true] {
        let place = Place::simulated();
        let dir = place.open();
        let mut log = filled(&dir);
        let (mut compaction, replacement) = first_replacement(&mut log, 100);
        if removal {
            let at = log.shared().segments.load().0[1].base();
            log.delete_records_before(at).unwrap();
        } else {
            log.truncate_to(Offset::new(30)).unwrap();
        }
        let before = records(&log.reader(), log.log_start_offset().get());
        assert!(!log.finish_compaction(&replacement).unwrap());
        drop(replacement);
        assert_eq!(records(&log.reader(), log.log_start_offset().get()), before);
        let end = compaction.run(&mut |_| true).unwrap();
        assert!(matches!(end, CompactionStep::Stopped), "{end:?}");
        drop((end, compaction));
        log.close().unwrap();
        drop(log);
        dir.close().unwrap();
        let dir = place.open();
        let log = open_log(&dir, &compacted());
        assert_eq!(records(&log.reader(), log.log_start_offset().get()), before);
        let names = place.disk.list(log.shared().files.dir()).unwrap();
        assert!(
            !names.iter().any(|name| name.name.contains("compacted")),
            "{names:?}"
        );
    }
}

#[test]
fn a_truncation_after_the_list_was_replaced_first_ends_the_replacement() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = filled(&dir);
    let (_compaction, replacement) = first_replacement(&mut log, 100);
    assert!(log.finish_compaction(&replacement).unwrap());
    log.truncate_to(Offset::new(7)).unwrap();
    let end = log.log_end_offset();
    assert!(end <= Offset::new(7));
    let before = records(&log.reader(), 0);
    replacement.settle().unwrap();
    put(&mut log, &[("new", Some("1"))], 1);
    log.close().unwrap();
    drop(log);
    dir.close().unwrap();
    let log = open_log(&place.open(), &compacted());
    let found = records(&log.reader(), 0);
    assert_eq!(found[..before.len()], before[..]);
    assert_eq!(found.last().unwrap().2, "new");
}

#[test]
fn who_stops_a_compaction_keeps_what_was_replaced() {
    let place = Place::simulated();
    let dir = place.open();
    let config = LogConfig {
        segment_bytes: 1 << 20,
        ..compacted()
    };
    let mut log = open_log(&dir, &config);
    let long = "x".repeat(100_000);
    for _ in 0..40 {
        put(&mut log, &[("k", Some(&long))], 0);
    }
    roll(&mut log);
    let mut compaction = log
        .plan_compaction(Timestamp::new(0), Offset::MAX)
        .unwrap()
        .unwrap();
    let mut asked = 0;
    let step = compaction.run(&mut |bytes| {
        asked += 1;
        assert!(bytes >= 1 << 20);
        false
    });
    assert!(matches!(step.unwrap(), CompactionStep::Stopped));
    assert_eq!(asked, 1);
    let read = |log: &Log| {
        log.reader()
            .read(Offset::ZERO, 1, Offset::MAX)
            .unwrap()
            .next_offset
    };
    assert_eq!(read(&log), Offset::new(1));
    compact(&mut log, 0).unwrap();
    assert_eq!(read(&log), Offset::new(40));
}

#[test]
fn damage_is_told_and_not_copied() {
    let place = Place::real();
    let dir = place.open();
    let mut log = filled(&dir);
    let path = log.shared().segments.load().0[0].path();
    let file = place
        .disk
        .open(&path, crate::disk::OpenMode::Write)
        .unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 70).unwrap();
    file.write_at(&[byte[0] ^ 1], 70).unwrap();
    let error = log
        .enforce_compaction(Timestamp::new(100), Offset::MAX)
        .unwrap_err();
    assert!(error.to_string().contains("CRC"), "{error}");
    assert!(dir.offline().is_none());
}

#[test]
fn a_full_disk_ends_a_compaction_and_nothing_else() {
    let disk = SimDisk::new(1 << 26);
    let dir = LogDir::open(
        Arc::new(disk.clone()),
        Path::new("/data"),
        LogDirConfig::default(),
    );
    let dir = dir.unwrap();
    let mut log = filled(&dir);
    let before = records(&log.reader(), 0);
    let full = SimFault::new(std::io::ErrorKind::StorageFull)
        .on(DiskOp::Write)
        .forever();
    disk.inject(full.under(log.shared().files.compacting(Offset::ZERO)));
    let error = log
        .enforce_compaction(Timestamp::new(100), Offset::MAX)
        .unwrap_err();
    assert!(error.to_string().contains("log.tmp"), "{error}");
    assert_eq!(records(&log.reader(), 0), before);
    assert!(dir.offline().is_none());
    disk.clear_faults();
    compact(&mut log, 100).unwrap();
    assert_eq!(records(&log.reader(), 0).len(), 61);
}

#[test]
fn a_power_cut_right_after_each_step_gives_the_old_or_the_new_segments() {
    for steps in 0..3 {
        for seed in 0..20 {
            let disk = SimDisk::new(1 << 26);
            let config = LogDirConfig {
                threads: false,
                ..LogDirConfig::default()
            };
            let open = |disk: &SimDisk| {
                LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config.clone()).unwrap()
            };
            let dir = open(&disk);
            let mut log = filled(&dir);
            let (compaction, replacement) = first_replacement(&mut log, 100);
            if steps > 0 {
                assert!(log.finish_compaction(&replacement).unwrap());
            }
            if steps > 1 {
                log.shared().settle().unwrap();
            }
            disk.power_cut(seed, PowerCut::LoseUnsynced);
            drop(log);
            drop((compaction, replacement, dir));
            let dir = open(&disk);
            let mut log = open_log(&dir, &compacted());
            let last = |found: &[Found]| found.iter().rfind(|record| record.2 == "k").map(|r| r.0);
            let found = records(&log.reader(), 0);
            assert_eq!(last(&found), Some(118), "steps {steps}, seed {seed}");
            assert!(found.len() < 120, "a committed replacement is finished");
            let count = log
                .reader()
                .records_between(Offset::ZERO, Offset::MAX)
                .unwrap();
            assert_eq!(count, found.len() as u64);
            compact(&mut log, 100).unwrap();
            assert_eq!(records(&log.reader(), 0).len(), 61);
        }
    }
}
