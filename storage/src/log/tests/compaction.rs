//! Compaction: the last record of each key stays where it was, and nobody else notices.

use std::time::Duration;

use logweir_proto::record::{set_base_offset, set_leader_epoch, set_producer};
use logweir_proto::{ProducerEpoch, ProducerId, Sequence};

use super::*;
use crate::config::{CleanupPolicy, Ratio};
use crate::log::CompactionStats;
use crate::producers::ProducerCheck;

pub(super) const DAY_MS: i64 = 86_400_000;

/// A record: key, value (none is a tombstone).
pub(super) type Pair<'a> = (&'a str, Option<&'a str>);

pub(super) fn compacted() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        min_cleanable_dirty_ratio: Ratio::percent(0),
        ..small_segments()
    }
}

pub(super) fn keyed(compression: Compression, pairs: &[Pair<'_>], time: i64) -> RecordBatch {
    let mut builder = BatchBuilder::new(compression);
    for (key, value) in pairs {
        let key = (*key != "-").then_some(key.as_bytes());
        let value = value.map(str::as_bytes);
        builder
            .append(Timestamp::new(time), key, value, &[])
            .unwrap();
    }
    RecordBatch::from_bytes(builder.build().unwrap()).unwrap()
}

/// A record that was found: offset, time, key, value.
pub(super) type Found = (i64, i64, String, Option<String>);

/// All records from `from` on, and that offsets and batches are in order.
pub(super) fn records(reader: &LogReader, from: i64) -> Vec<Found> {
    let mut at = Offset::new(from);
    let mut found = Vec::new();
    while at < reader.log_end_offset() {
        let slice = reader.read(at, 300, Offset::MAX).unwrap();
        assert!(slice.next_offset > at, "reading at {at} makes no progress");
        found.extend(records_in(&slice.bytes));
        at = slice.next_offset;
    }
    found.retain(|record| record.0 >= from);
    assert!(found.windows(2).all(|two| two[0].0 < two[1].0));
    found
}

pub(super) fn records_in(bytes: &Bytes) -> Vec<Found> {
    let mut found = Vec::new();
    for batch in batches(bytes.clone()) {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        if batch.header().attributes.is_control() {
            continue;
        }
        for record in batch.records(1 << 20).unwrap() {
            let record = record.unwrap();
            let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            found.push((
                record.offset.get(),
                record.timestamp.get(),
                record.key.map_or_else(|| "-".to_owned(), text),
                record.value.map(text),
            ));
        }
    }
    found
}

pub(super) fn put(log: &mut Log, pairs: &[Pair<'_>], time: i64) -> i64 {
    let batch = keyed(Compression::None, pairs, time);
    let done = log.append(&batch, EPOCH, Timestamp::new(time)).unwrap();
    done.base_offset.get()
}

/// Closes the active segment, whatever its age.
pub(super) fn roll(log: &mut Log) {
    log.roll(0).unwrap();
}

pub(super) fn compact(log: &mut Log, now: i64) -> Option<CompactionStats> {
    let bound = log.log_end_offset();
    log.enforce_compaction(Timestamp::new(now), bound).unwrap()
}

fn keys_and_offsets(log: &Log) -> Vec<(i64, String)> {
    let found = records(&log.reader(), log.log_start_offset().get());
    found
        .into_iter()
        .map(|record| (record.0, record.2))
        .collect()
}

fn named(expected: &[(i64, &str)]) -> Vec<(i64, String)> {
    expected
        .iter()
        .map(|&(at, key)| (at, key.to_owned()))
        .collect()
}

#[test]
fn the_last_record_of_each_key_stays_at_its_offset() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    put(
        &mut log,
        &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))],
        10,
    );
    put(&mut log, &[("a", Some("2"))], 20);
    put(&mut log, &[("b", Some("2")), ("b", Some("3"))], 30);
    roll(&mut log);
    put(&mut log, &[("c", Some("2"))], 40);
    let stats = compact(&mut log, 50).unwrap();
    assert_eq!((stats.passes, stats.keys, stats.removed_records), (1, 3, 3));
    let expected = [
        (2, 10, "c", "1"),
        (3, 20, "a", "2"),
        (5, 30, "b", "3"),
        (6, 40, "c", "2"),
    ];
    let expected: Vec<Found> = expected
        .iter()
        .map(|&(at, time, key, value)| (at, time, key.to_owned(), Some(value.to_owned())))
        .collect();
    assert_eq!(
        records(&log.reader(), 0),
        expected,
        "the active segment is left alone"
    );
    assert_eq!(
        log.reader()
            .records_between(Offset::ZERO, Offset::new(7))
            .unwrap(),
        4
    );
    assert_eq!(
        log.reader()
            .records_between(Offset::new(1), Offset::new(3))
            .unwrap(),
        1
    );
    assert!(compact(&mut log, 51).is_none(), "nothing is new");
    log.close().unwrap();
    drop(log);
    dir.close().unwrap();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    assert_eq!(records(&log.reader(), 0), expected);
    assert!(
        compact(&mut log, 51).is_none(),
        "what was compacted is remembered"
    );
}

#[test]
fn small_segments_that_follow_each_other_become_one() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    for at in 0..100 {
        put(
            &mut log,
            &[("k", Some("value")), (&format!("{}", at % 3), None)],
            at as i64,
        );
    }
    roll(&mut log);
    let segments = || log.shared().segments.load().0.len();
    let before = segments();
    assert!(before > 8, "{before}");
    let stats = log
        .enforce_compaction(Timestamp::new(200), Offset::MAX)
        .unwrap()
        .unwrap();
    assert!(stats.written_bytes < stats.replaced_bytes / 5, "{stats:?}");
    let after = log.shared().segments.load().0.len();
    assert_eq!(after, 2, "one compacted segment and the active one");
    let names = place.disk.list(log.shared().files.dir()).unwrap();
    let logs = names
        .iter()
        .filter(|name| name.name.ends_with(".log"))
        .count();
    assert!(logs <= 2, "{names:?}");
}

#[test]
fn tombstones_go_when_their_time_has_come_and_not_before() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    put(&mut log, &[("a", Some("1")), ("b", Some("1"))], 0);
    roll(&mut log);
    put(&mut log, &[("a", None)], 10);
    roll(&mut log);
    compact(&mut log, 1000).unwrap();
    assert_eq!(keys_and_offsets(&log), named(&[(1, "b"), (2, "a")]));
    assert!(compact(&mut log, 1000 + DAY_MS - 1).is_none());
    // Of itself: no other record has to come.
    compact(&mut log, 1000 + DAY_MS).unwrap();
    assert_eq!(keys_and_offsets(&log), named(&[(1, "b")]));
    assert_eq!(log.log_end_offset(), Offset::new(3));
    assert!(
        compact(&mut log, 1000 + 9 * DAY_MS).is_none(),
        "no tombstone is left"
    );
    put(&mut log, &[("a", Some("3"))], 20);
    assert_eq!(keys_and_offsets(&log), named(&[(1, "b"), (3, "a")]));
}

#[test]
fn records_without_a_key_go_and_batches_of_every_compression_are_opened() {
    for compression in Compression::ALL {
        let place = Place::simulated();
        let dir = place.open();
        let mut log = open_log(&dir, &compacted());
        let long = "x".repeat(100);
        let first = keyed(
            compression,
            &[("a", Some(&long)), ("-", Some("1")), ("b", Some(&long))],
            5,
        );
        let second = keyed(compression, &[("a", Some("2"))], 6);
        for batch in [&first, &second] {
            log.append(batch, EPOCH, Timestamp::new(7)).unwrap();
        }
        roll(&mut log);
        compact(&mut log, 8).unwrap();
        assert_eq!(
            keys_and_offsets(&log),
            named(&[(2, "b"), (3, "a")]),
            "{compression}"
        );
        let slice = log
            .reader()
            .read(Offset::ZERO, 10_000, Offset::MAX)
            .unwrap();
        let headers: Vec<_> = batches(slice.bytes)
            .map(|batch| *batch.unwrap().header())
            .collect();
        assert_eq!(headers[0].attributes.compression(), compression);
        assert_eq!(headers[0].base_offset, Offset::ZERO);
        assert_eq!(
            headers[1].crc,
            second.header().crc,
            "what loses nothing is copied"
        );
    }
}

/// A producer may compress what is no compressed body; nobody looks into it at append.
#[test]
fn a_batch_that_cannot_be_opened_stays_and_so_do_the_tombstones_after_it() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    put(&mut log, &[("a", Some("1"))], 0);
    let mut bytes = keyed(Compression::Zstd, &[("a", Some("2")), ("b", Some("2"))], 0)
        .bytes()
        .to_vec();
    bytes.truncate(70);
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = logweir_proto::record::crc_of(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let broken = RecordBatch::from_bytes(bytes.into()).unwrap();
    log.append(&broken, EPOCH, Timestamp::new(0)).unwrap();
    put(
        &mut log,
        &[("a", None), ("c", Some("1")), ("c", Some("2"))],
        0,
    );
    roll(&mut log);
    compact(&mut log, 0).unwrap();
    compact(&mut log, 3 * DAY_MS).unwrap();
    assert!(
        compact(&mut log, 4 * DAY_MS).is_none(),
        "a tombstone that stays for ever makes nothing due"
    );
    let slice = log
        .reader()
        .read(Offset::ZERO, 10_000, Offset::MAX)
        .unwrap();
    let kept: Vec<_> = batches(slice.bytes).map(|batch| batch.unwrap()).collect();
    assert_eq!(
        kept[0].header().crc,
        broken.header().crc,
        "the value before it is gone"
    );
    let rest: Vec<_> = records_in(kept[1].bytes())
        .into_iter()
        .map(|r| (r.0, r.2))
        .collect();
    assert_eq!(rest, named(&[(3, "a"), (5, "c")]));
}

#[test]
fn a_compaction_stays_below_its_bound_and_leaves_young_records_alone() {
    let place = Place::simulated();
    let dir = place.open();
    let config = LogConfig {
        min_compaction_lag: Duration::from_millis(100),
        ..compacted()
    };
    let mut log = open_log(&dir, &config);
    for at in 0..4 {
        put(&mut log, &[("k", Some("v"))], at * 100);
        roll(&mut log);
    }
    let plan = |log: &mut Log, now: i64, bound: i64| {
        let planned = log
            .plan_compaction(Timestamp::new(now), Offset::new(bound))
            .unwrap();
        planned.map(|planned| planned.dirty_ratio())
    };
    assert_eq!(plan(&mut log, 99, 4), None, "all are too young");
    assert_eq!(plan(&mut log, 1000, 0), None, "none lies below the bound");
    log.enforce_compaction(Timestamp::new(250), Offset::new(4))
        .unwrap()
        .unwrap();
    assert_eq!(
        keys_and_offsets(&log).len(),
        3,
        "the first two were old enough"
    );
    log.enforce_compaction(Timestamp::new(1000), Offset::new(3))
        .unwrap()
        .unwrap();
    assert_eq!(keys_and_offsets(&log), named(&[(2, "k"), (3, "k")]));
    let config = LogConfig {
        cleanup_policy: CleanupPolicy::Delete,
        ..config
    };
    log.set_config(config);
    assert_eq!(plan(&mut log, 1000, 4), None, "the policy does not compact");
}

#[test]
fn a_log_is_due_by_its_dirty_part_or_by_the_age_of_that() {
    let place = Place::simulated();
    let dir = place.open();
    let config = LogConfig {
        min_cleanable_dirty_ratio: Ratio::HALF,
        max_compaction_lag: Some(Duration::from_secs(3600)),
        ..compacted()
    };
    let mut log = open_log(&dir, &config);
    for at in 0..20 {
        put(&mut log, &[(&format!("key {at}"), Some("value"))], 0);
    }
    roll(&mut log);
    assert!(compact(&mut log, 0).is_some(), "all is dirty");
    put(&mut log, &[("key 0", Some("value"))], 0);
    roll(&mut log);
    assert!(
        compact(&mut log, 3_599_999).is_none(),
        "a small part is dirty"
    );
    assert!(
        compact(&mut log, 3_600_000).is_some(),
        "it has waited long enough"
    );
    put(&mut log, &[("key 0", Some("value"))], 4_000_000);
    log.roll_if_due(Timestamp::new(4_000_000 + 3_600_000))
        .unwrap();
    assert_eq!(
        log.shared().segments.load().last().base(),
        log.log_end_offset()
    );
}

#[test]
fn a_policy_that_does_not_delete_keeps_old_and_many_records() {
    let place = Place::simulated();
    let dir = place.open();
    let config = LogConfig {
        retention_bytes: Some(100),
        retention: Some(Duration::from_secs(1)),
        ..compacted()
    };
    let mut log = open_log(&dir, &config);
    for at in 0..20 {
        put(&mut log, &[(&format!("key {at}"), Some("value"))], 0);
    }
    let (now, end) = (Timestamp::new(DAY_MS), log.log_end_offset());
    assert_eq!(log.enforce_retention(now, end).unwrap(), 0);
    log.set_config(LogConfig {
        cleanup_policy: CleanupPolicy::CompactAndDelete,
        ..config
    });
    assert!(log.enforce_retention(now, end).unwrap() > 0);
}

#[test]
fn several_passes_do_what_one_with_more_memory_does() {
    let mut outcomes = Vec::new();
    for buffer_bytes in [0, 9 << 10, 128 << 20] {
        let disk = SimDisk::new(1 << 26);
        let config = LogDirConfig {
            compaction_buffer_bytes: buffer_bytes,
            ..LogDirConfig::default()
        };
        let dir = LogDir::open(Arc::new(disk), Path::new("/data"), config).unwrap();
        let mut log = open_log(&dir, &compacted());
        for at in 0..120_i64 {
            let key = format!("key number {}", at * 7 % 40);
            put(
                &mut log,
                &[(&key, Some("v")), ("often", (at % 3 > 0).then_some("v"))],
                at,
            );
        }
        roll(&mut log);
        let stats = compact(&mut log, 500).unwrap();
        outcomes.push((records(&log.reader(), 0), stats.passes));
    }
    assert_eq!(outcomes[0].0, outcomes[2].0);
    assert_eq!(outcomes[1].0, outcomes[2].0);
    let passes: Vec<_> = outcomes.iter().map(|outcome| outcome.1).collect();
    assert!(
        passes[0] > passes[1] && passes[1] >= passes[2],
        "{passes:?}"
    );
    assert_eq!(passes[2], 1);
}

fn with_producer(batch: &RecordBatch, id: i64, sequence: i32) -> RecordBatch {
    let mut bytes = batch.bytes().to_vec();
    let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(0));
    set_producer(&mut bytes, id, epoch, Sequence::new(sequence));
    RecordBatch::from_bytes(bytes.into()).unwrap()
}

#[test]
fn a_duplicate_is_known_after_compaction_and_a_restart_without_snapshots() {
    let disk = SimDisk::new(1 << 26);
    let dir = LogDir::open(
        Arc::new(disk.clone()),
        Path::new("/data"),
        LogDirConfig::default(),
    );
    let dir = dir.unwrap();
    let mut log = open_log(&dir, &compacted());
    let mut last = Vec::new();
    for sequence in 0..30 {
        for id in [1, 2] {
            let batch = keyed(Compression::None, &[("k", Some("v"))], 0);
            let batch = with_producer(&batch, id, sequence);
            let done = log.append(&batch, EPOCH, Timestamp::new(0)).unwrap();
            last.push((batch, done.base_offset));
        }
    }
    put(&mut log, &[("k", Some("end"))], 0);
    roll(&mut log);
    put(&mut log, &[("k", Some("after"))], 0);
    compact(&mut log, 0).unwrap();
    assert_eq!(keys_and_offsets(&log), named(&[(60, "k"), (61, "k")]));
    let dir_path = log.shared().files.dir().to_path_buf();
    drop(log);
    drop(dir);
    for entry in disk.list(&dir_path).unwrap() {
        if entry.name.ends_with(".producers") {
            disk.remove_file(&dir_path.join(entry.name)).unwrap();
        }
    }
    let dir = LogDir::open(Arc::new(disk), Path::new("/data"), LogDirConfig::default()).unwrap();
    let log = open_log(&dir, &compacted());
    for (batch, base_offset) in &last[58..] {
        let check = log
            .check_producer(batch.header(), Timestamp::new(0))
            .unwrap();
        let ProducerCheck::Duplicate {
            base_offset: found, ..
        } = check
        else {
            panic!("{check:?}");
        };
        assert_eq!(found, *base_offset);
    }
    let next = with_producer(&last[0].0, 1, 30);
    let check = log.check_producer(next.header(), Timestamp::new(0));
    assert_eq!(check, Ok(ProducerCheck::New));
}

#[test]
fn the_batch_of_a_producer_that_is_not_known_any_more_goes() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    let batch = with_producer(&keyed(Compression::None, &[("k", Some("v"))], 0), 5, 0);
    log.append(&batch, EPOCH, Timestamp::new(0)).unwrap();
    put(&mut log, &[("k", Some("v"))], 0);
    roll(&mut log);
    let headers = |log: &Log| {
        let slice = log
            .reader()
            .read(Offset::ZERO, 10_000, Offset::MAX)
            .unwrap();
        batches(slice.bytes).count()
    };
    compact(&mut log, 10).unwrap();
    assert_eq!(headers(&log), 2, "its empty batch is kept");
    put(&mut log, &[("k", Some("v"))], 3 * DAY_MS);
    roll(&mut log);
    compact(&mut log, 3 * DAY_MS).unwrap();
    assert_eq!(keys_and_offsets(&log), named(&[(2, "k")]));
    assert_eq!(headers(&log), 1);
}

#[test]
fn a_reader_keeps_what_it_holds_while_segments_are_replaced_and_reads_on() {
    for place in [Place::simulated(), Place::real()] {
        let dir = place.open();
        let mut log = open_log(&dir, &compacted());
        for at in 0..200 {
            put(
                &mut log,
                &[(&format!("k{}", at % 10), Some("a value of some length"))],
                at,
            );
        }
        roll(&mut log);
        let reader = log.reader();
        let mut held = Vec::new();
        let mut at = Offset::ZERO;
        while at < reader.log_end_offset() {
            let slice = reader.read(at, 300, Offset::MAX).unwrap();
            held.push((slice.bytes.clone(), slice.bytes.to_vec()));
            at = slice.next_offset;
        }
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Acquire) {
                    let found = records(&reader, 0);
                    let newest = found.iter().rev().take(10).count();
                    assert_eq!(newest, 10, "the last of each key is always there");
                }
            });
            for round in 0..20 {
                compact(&mut log, 1000 + round);
                for at in 0..30 {
                    put(
                        &mut log,
                        &[(&format!("k{}", at % 10), Some("again"))],
                        300 + at,
                    );
                }
                roll(&mut log);
            }
            stop.store(true, std::sync::atomic::Ordering::Release);
        });
        for (bytes, before) in held {
            assert_eq!(bytes, before);
        }
        assert!(compact(&mut log, 9_000).is_some());
        assert_eq!(keys_and_offsets(&log).len(), 10);
    }
}

#[test]
fn epochs_and_times_are_as_before() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    for at in 0..40_i64 {
        let batch = keyed(Compression::None, &[("k", Some("v"))], at * 1000);
        let epoch = LeaderEpoch::new(i32::try_from(at / 10).unwrap());
        log.append(&batch, epoch, Timestamp::new(at * 1000))
            .unwrap();
    }
    roll(&mut log);
    compact(&mut log, 100_000).unwrap();
    let check = |log: &Log| {
        let reader = log.reader();
        for at in 0..40 {
            let epoch = reader.leader_epoch_of(Offset::new(at));
            assert_eq!(i64::from(epoch.get()), at / 10, "epoch of {at}");
        }
        let epoch = LeaderEpoch::new(1);
        assert_eq!(
            reader.end_offset_of_epoch(epoch),
            Some((epoch, Offset::new(20)))
        );
        let time = reader.append_time_of(Offset::new(39)).unwrap();
        assert_eq!(time, Some(Timestamp::new(39_000)));
        let found = reader
            .offset_for_timestamp(Timestamp::new(5), Offset::MAX)
            .unwrap();
        let last = (Offset::new(39), Timestamp::new(39_000), LeaderEpoch::new(3));
        assert_eq!(found, Some(last));
        assert_eq!(reader.max_timestamp(Offset::MAX).unwrap(), Some(last));
        assert_eq!(reader.max_timestamp(Offset::new(39)).unwrap(), None);
    };
    check(&log);
    // A kill, after which the log is recovered.
    let disk = Arc::clone(&place.disk);
    drop((log, dir));
    let dir = LogDir::open(disk, &place.path, LogDirConfig::default()).unwrap();
    check(&open_log(&dir, &compacted()));
}

/// A reader that was told to stop at an offset would otherwise ask for ever for what is not there.
#[test]
fn a_read_below_an_offset_in_a_gap_comes_to_that_offset() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    for at in 0..10 {
        put(&mut log, &[("k", Some("v"))], at);
    }
    roll(&mut log);
    compact(&mut log, 10).unwrap();
    let slice = log
        .reader()
        .read(Offset::new(2), 1000, Offset::new(5))
        .unwrap();
    assert!(slice.bytes.is_empty());
    assert_eq!(slice.next_offset, Offset::new(5));
    let slice = log
        .reader()
        .read(Offset::new(2), 1000, Offset::MAX)
        .unwrap();
    assert_eq!(slice.next_offset, Offset::new(10));
}

/// What a follower that is given a leader's compacted batches does with them.
#[test]
fn a_log_of_compacted_batches_is_compacted_as_well() {
    let place = Place::simulated();
    let dir = place.open();
    let mut log = open_log(&dir, &compacted());
    for (base, pairs) in [
        (3, [("a", Some("1"))]),
        (9, [("b", Some("1"))]),
        (20, [("a", Some("2"))]),
    ] {
        let mut bytes = keyed(Compression::Lz4, &pairs, 0).bytes().to_vec();
        set_base_offset(&mut bytes, Offset::new(base));
        set_leader_epoch(&mut bytes, EPOCH);
        let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
        log.append_replica(&batch, Timestamp::new(0)).unwrap();
    }
    roll(&mut log);
    compact(&mut log, 0).unwrap();
    assert_eq!(keys_and_offsets(&log), named(&[(9, "b"), (20, "a")]));
}
