//! Compaction on failing disks and under power cuts: before and after every operation the log has the old segments or
//! the new ones, and for every key what was acknowledged last.

use std::collections::BTreeMap;

use super::compaction::{compacted, keyed, records};
use super::*;
use crate::disk::{PowerCut, SimFault};

const DAY_MS: i64 = 86_400_000;

/// What a run did, as far as it was told.
#[derive(Debug, Default)]
struct Told {
    /// Offset, key and value.
    appended: BTreeMap<i64, (String, Option<String>)>,
    /// Below it everything was acknowledged.
    durable: i64,
    /// Compactions that were done to the end.
    compactions: u64,
}

fn config() -> LogConfig {
    LogConfig {
        flush: FlushPolicy::PER_ACK,
        segment_bytes: 900,
        ..compacted()
    }
}

fn open(disk: &SimDisk) -> Result<(Arc<LogDir>, Log), crate::error::OpenError> {
    let dir_config = LogDirConfig {
        threads: false,
        reserve_bytes: 0,
        compaction_buffer_bytes: 0,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), dir_config)?;
    let id = (TopicId::new([1; 16]), PartitionId::new(0));
    let log = dir.open_log("t", id.0, id.1, config(), Box::new(|_| {}))?;
    Ok((dir, log))
}

/// Opens, appends, rolls, compacts, closes and does it again; errors are borne as a broker would.
fn run(disk: &SimDisk) -> Told {
    let mut told = Told::default();
    for round in 0..3 {
        let Ok((dir, mut log)) = open(disk) else {
            continue;
        };
        for at in 0..14_i64 {
            let now = Timestamp::new(round * 2 * DAY_MS + at);
            let key = format!("key {}", at % 3);
            let value = (at % 5 != 3).then(|| format!("{round}.{at} {}", "x".repeat(100)));
            let batch = keyed(Compression::None, &[(&key, value.as_deref())], now.get());
            if let Ok(done) = log.append(&batch, EPOCH, now) {
                told.appended.insert(done.base_offset.get(), (key, value));
            }
            dir.drive(at == 8);
            if dir.offline().is_none() {
                told.durable = told.durable.max(log.durable_end_offset().get());
            }
            if at == 6 || at == 13 {
                let compacted = log.enforce_compaction(now, log.durable_end_offset());
                told.compactions += u64::from(matches!(compacted, Ok(Some(_))));
                dir.drive(false);
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

/// The last acknowledged record of each key is there, or a newer one; nothing but what was appended is.
fn check(disk: &SimDisk, told: &Told, context: &str) {
    let (_dir, mut log) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    for again in [false, true] {
        let found = records(&log.reader(), 0);
        let mut last = BTreeMap::new();
        for (offset, _, key, value) in &found {
            let appended = told.appended.get(offset);
            assert_eq!(
                appended,
                Some(&(key.clone(), value.clone())),
                "{context}: {offset}"
            );
            last.insert(key.clone(), *offset);
        }
        for (offset, (key, value)) in told.appended.range(..told.durable) {
            let newer = told
                .appended
                .range(offset + 1..told.durable)
                .any(|(_, other)| other.0 == *key);
            let kept = last.get(key).is_some_and(|found| found >= offset);
            let deleted = value.is_none() && !last.contains_key(key);
            assert!(
                newer || kept || deleted,
                "{context}: {key} at {offset}, again {again}"
            );
        }
        let count = log
            .reader()
            .records_between(Offset::ZERO, Offset::MAX)
            .unwrap();
        assert_eq!(count, found.len() as u64, "{context}: count");
        let names = disk.list(log.shared().files.dir()).unwrap();
        let left = names.iter().any(|name| name.name.ends_with("compacted"));
        assert!(!left, "{context}: {names:?}");
        if !again {
            // And it can be compacted.
            log.roll(0).unwrap();
            let end = log.log_end_offset();
            log.enforce_compaction(Timestamp::new(9 * DAY_MS), end)
                .unwrap();
        }
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

/// How many operations a run takes, after it was seen to do what it should.
fn operations() -> u64 {
    let disk = SimDisk::new(1 << 26);
    let told = run(&disk);
    assert_eq!(
        (told.durable, told.compactions),
        (42, 6),
        "the run without a fault"
    );
    let operations = disk.operations();
    assert!(operations >= 300, "only {operations} operations");
    check(&disk, &told, "without a fault");
    operations
}

/// The operations that something happens at: all of them in a long run, else every seventh.
fn struck() -> impl Iterator<Item = u64> {
    (1..=operations()).step_by(if full() { 1 } else { 7 })
}

#[test]
fn whichever_operation_fails_the_last_record_of_each_key_is_kept() {
    for k in struck() {
        for cut in [PowerCut::LoseUnsynced, PowerCut::KeepAll] {
            check_fault(&SimFault::errno(5).at(k), cut, k);
            let full = SimFault::new(std::io::ErrorKind::StorageFull);
            check_fault(&full.at(k), cut, k);
            check_fault(&SimFault::errno(5).at(k).forever(), cut, k);
        }
    }
}

#[test]
fn whenever_the_power_goes_the_last_record_of_each_key_is_kept() {
    let seeds = if full() { 20 } else { 5 };
    for k in struck() {
        for seed in 0..seeds {
            let disk = Arc::new(SimDisk::new(1 << 26));
            let (machine, cut) = (Arc::clone(&disk), std::sync::Once::new());
            disk.set_hook(Some(Arc::new(move |_, _| {
                if machine.operations() >= k {
                    cut.call_once(|| machine.power_cut(seed, PowerCut::LoseUnsynced));
                }
            })));
            let told = run(&disk);
            disk.set_hook(None);
            disk.power_cut(seed, PowerCut::LoseUnsynced);
            check(
                &disk,
                &told,
                &format!("cut before operation {k}, seed {seed}"),
            );
        }
    }
}
