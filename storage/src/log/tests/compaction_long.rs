//! A log in which few keys are written for ever stays small.

use std::time::Instant;

use super::compaction::compacted;
use super::*;
use crate::config::Ratio;

const MIB: u64 = 1 << 20;
const KEYS: u64 = 1_000;
/// Commits from one look at what is due to the next: at 10,000 a second, ten seconds.
const TICK: u64 = 100_000;

fn commit(at: u64) -> RecordBatch {
    let key = format!("\0\x01group/topic-with-a-name/{:04}", at % KEYS);
    let value = format!("offset {at:020}, leader epoch 7, committed at {at:013}");
    let mut builder = BatchBuilder::new(Compression::None);
    let time = Timestamp::new(i64::try_from(at).unwrap());
    builder
        .append(time, Some(key.as_bytes()), Some(value.as_bytes()), &[])
        .unwrap();
    RecordBatch::from_bytes(builder.build().unwrap()).unwrap()
}

#[test]
fn ten_million_commits_of_a_thousand_keys_stay_below_64_mib() {
    let count: u64 = if full() { 10_000_000 } else { 500_000 };
    let place = Place::real();
    let dir = place.open();
    let config = LogConfig {
        segment_bytes: 4 * MIB,
        index_interval_bytes: 4096,
        min_cleanable_dirty_ratio: Ratio::HALF,
        ..compacted()
    };
    let mut log = open_log(&dir, &config);
    let (begun, mut compacting) = (Instant::now(), std::time::Duration::ZERO);
    let (mut largest, mut appended, mut compactions) = (0, 0, 0);
    for at in 0..count {
        let batch = commit(at);
        appended += batch.bytes().len() as u64;
        let now = Timestamp::new(i64::try_from(at / 10).unwrap());
        log.append(&batch, EPOCH, now).unwrap();
        if at % TICK == TICK - 1 {
            largest = largest.max(log.reader().size_bytes());
            let started = Instant::now();
            let end = log.log_end_offset();
            let done = log.enforce_compaction(now, end).unwrap();
            compacting += started.elapsed();
            compactions += u64::from(done.is_some());
        }
    }
    largest = largest.max(log.reader().size_bytes());
    println!(
        "{count} commits, {} MiB appended in {:?}, of which {compacting:?} in {compactions} compactions; at most {} KiB kept",
        appended / MIB,
        begun.elapsed(),
        largest >> 10
    );
    assert!(largest < 64 * MIB, "{largest} bytes");
    assert!(compactions >= count / TICK / 2, "{compactions}");
    check_the_last_of_each(&log, count);
    log.close().unwrap();
    drop(log);
    dir.close().unwrap();
    let log = open_log(&place.open(), &config);
    check_the_last_of_each(&log, count);
}

/// The last commit of each key is the last one that is found of it, and the counts are true.
fn check_the_last_of_each(log: &Log, count: u64) {
    let reader = log.reader();
    let (mut at, mut found) = (Offset::ZERO, 0_u64);
    let mut last = std::collections::HashMap::new();
    while at < reader.log_end_offset() {
        let slice = reader.read(at, 1 << 20, Offset::MAX).unwrap();
        assert!(slice.next_offset > at);
        at = slice.next_offset;
        for batch in batches(slice.bytes) {
            for record in batch.unwrap().records(1 << 20).unwrap() {
                let record = record.unwrap();
                found += 1;
                last.insert(record.key.unwrap(), record.offset.get());
            }
        }
    }
    let newest = i64::try_from(count).unwrap();
    let expected: std::collections::HashMap<_, _> = (count.saturating_sub(KEYS)..count)
        .map(|at| {
            let record = commit(at)
                .records(1 << 20)
                .unwrap()
                .next()
                .unwrap()
                .unwrap();
            (record.key.unwrap(), i64::try_from(at).unwrap())
        })
        .collect();
    assert_eq!(last, expected);
    let records = reader
        .records_between(Offset::ZERO, Offset::new(newest))
        .unwrap();
    assert_eq!(records, found);
}
