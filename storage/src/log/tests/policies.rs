//! Rolling, retention, times and sizes, one rule at a time.

use std::time::Duration;

use super::*;
use crate::error::{AppendError, ChangeError};
use logweir_proto::record::{TimestampType, set_base_offset, set_leader_epoch};

const DAY: i64 = 86_400_000;

fn quiet(place: &Place) -> Arc<LogDir> {
    let config = LogDirConfig {
        threads: false,
        ..LogDirConfig::default()
    };
    LogDir::open(Arc::clone(&place.disk), &place.path, config).unwrap()
}

fn append_at(log: &mut Log, time: i64, now: i64) {
    log.append(&batch(&["0123456789"], time), EPOCH, Timestamp::new(now))
        .unwrap();
}

fn segments(place: &Place, log: &Log) -> usize {
    let path = place.path.join("logs/t").join(log.id().dir_name());
    let names = place.disk.list(&path).unwrap().into_iter();
    names.filter(|entry| entry.name.ends_with(".log")).count()
}

#[test]
fn a_segment_is_closed_by_size_and_by_age() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let size = batch(&["0123456789"], 0).bytes().len() as u64;
    let config = LogConfig {
        segment_bytes: 3 * size,
        segment_age: Duration::from_secs(60),
        ..LogConfig::default()
    };
    let mut log = open_log(&dir, &config);
    for at in 0..6 {
        append_at(&mut log, 0, at);
    }
    assert_eq!(segments(&place, &log), 2, "three batches fit exactly");
    append_at(&mut log, 0, 10);
    assert_eq!(segments(&place, &log), 3);
    log.roll_if_due(Timestamp::new(60_009)).unwrap();
    append_at(&mut log, 0, 60_009);
    assert_eq!(segments(&place, &log), 3, "a minute has not passed");
    append_at(&mut log, 0, 60_010);
    assert_eq!(segments(&place, &log), 4, "by the next append");
    log.roll_if_due(Timestamp::new(200_000)).unwrap();
    assert_eq!(segments(&place, &log), 5, "without another append");
    log.roll_if_due(Timestamp::new(400_000)).unwrap();
    assert_eq!(segments(&place, &log), 5, "an empty one stays");
    assert_eq!(read_all(&log, 0).len(), 9);
}

#[test]
fn a_batch_larger_than_a_segment_is_refused_from_producers_and_kept_from_leaders() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let mut log = open_log(&dir, &small_segments());
    append_at(&mut log, 0, 0);
    let value = "x".repeat(5000);
    let large = batch(&[&value], 0);
    let error = log.append(&large, EPOCH, Timestamp::new(0)).unwrap_err();
    let AppendError::TooLarge {
        size_bytes,
        limit_bytes,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (size_bytes, limit_bytes),
        (large.bytes().len() as u64, 1000)
    );

    for offset in [1, 2] {
        let mut bytes = large.bytes().to_vec();
        set_base_offset(&mut bytes, Offset::new(offset));
        set_leader_epoch(&mut bytes, EPOCH);
        let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
        log.append_replica(&batch, Timestamp::new(0)).unwrap();
    }
    append_at(&mut log, 0, 0);
    let found = read_all(&log, 0);
    assert_eq!(found.len(), 4);
    assert!(found[1].1 == value && found[2].1 == value);
    drop((log, dir));
    let dir = quiet(&place);
    assert!(read_all(&open_log(&dir, &small_segments()), 0) == found);
}

#[test]
fn a_leaders_batch_must_follow() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let mut log = open_log(&dir, &small_segments());
    let replica = |offset: i64, epoch: i32| {
        let mut bytes = batch(&["a", "b"], 0).bytes().to_vec();
        set_base_offset(&mut bytes, Offset::new(offset));
        set_leader_epoch(&mut bytes, LeaderEpoch::new(epoch));
        RecordBatch::from_bytes(bytes.into()).unwrap()
    };
    log.append_replica(&replica(0, 2), Timestamp::new(0))
        .unwrap();
    for (offset, epoch) in [(1, 2), (0, 2), (2, 1), (2 + (1 << 31), 2)] {
        let error = log
            .append_replica(&replica(offset, epoch), Timestamp::new(0))
            .unwrap_err();
        assert!(
            matches!(error, AppendError::OutOfOrder { .. }),
            "{offset} {epoch}: {error}"
        );
    }
    let error = log
        .append(&batch(&["c"], 0), EPOCH, Timestamp::new(0))
        .unwrap_err();
    assert!(matches!(error, AppendError::OutOfOrder { .. }), "{error}");
    log.append_replica(&replica(2, 2), Timestamp::new(0))
        .unwrap();
    assert_eq!(read_all(&log, 0).len(), 4);
}

#[test]
fn retention_by_time_goes_by_the_newest_record_and_never_above_the_high_watermark() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let config = LogConfig {
        segment_bytes: 300,
        retention: Some(Duration::from_secs(86_400)),
        ..LogConfig::default()
    };
    let mut log = open_log(&dir, &config);
    for at in 0..12 {
        append_at(&mut log, at, at);
    }
    let count = segments(&place, &log);
    assert!(count >= 4, "{count}");
    let end = log.log_end_offset();
    assert_eq!(
        log.enforce_retention(Timestamp::new(DAY - 1), end).unwrap(),
        0
    );
    let removed = log
        .enforce_retention(Timestamp::new(2 * DAY), Offset::new(7))
        .unwrap();
    assert!(removed > 0);
    assert!(log.log_start_offset() <= Offset::new(7));
    // The active segment is closed when it is due, so that even it goes.
    log.enforce_retention(Timestamp::new(2 * DAY), end).unwrap();
    dir.drive(false);
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (end, end));
    assert_eq!(segments(&place, &log), 1);
    drop((log, dir));
    let dir = quiet(&place);
    let mut log = open_log(&dir, &config);
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (end, end));
    append_at(&mut log, 3 * DAY, 3 * DAY);
    assert_eq!(read_all(&log, end.get()).len(), 1);
}

#[test]
fn retention_by_size_keeps_what_was_asked_for() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let config = LogConfig {
        segment_bytes: 300,
        retention: None,
        retention_bytes: Some(1000),
        ..LogConfig::default()
    };
    let mut log = open_log(&dir, &config);
    for at in 0..60 {
        append_at(&mut log, 0, at);
    }
    let end = log.log_end_offset();
    assert!(log.enforce_retention(Timestamp::new(100), end).unwrap() > 0);
    let size = log.reader().size_bytes();
    assert!((1000..1300).contains(&size), "{size}");
    assert_eq!(log.enforce_retention(Timestamp::new(100), end).unwrap(), 0);
}

#[test]
fn deleted_records_stay_deleted() {
    let place = Place::real();
    let dir = place.open();
    let mut log = open_log(&dir, &small_segments());
    for at in 0..50 {
        append_at(&mut log, at, at);
    }
    assert_eq!(
        log.delete_records_before(Offset::new(33)).unwrap(),
        Offset::new(33)
    );
    assert_eq!(
        log.delete_records_before(Offset::new(10)).unwrap(),
        Offset::new(33)
    );
    let error = log.delete_records_before(Offset::new(51)).unwrap_err();
    assert!(matches!(error, ChangeError::OutOfRange { .. }), "{error}");
    drop((log, dir));
    let dir = place.open();
    let log = open_log(&dir, &small_segments());
    assert_eq!(log.log_start_offset(), Offset::new(33));
    assert_eq!(read_all(&log, 33).len(), 17);
    assert!(log.reader().read(Offset::new(32), 1, Offset::MAX).is_err());
}

#[test]
fn append_times_are_stamped_where_the_topic_asks_for_it() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let config = LogConfig {
        timestamp_type: TimestampType::LogAppendTime,
        ..small_segments()
    };
    let mut log = open_log(&dir, &config);
    for at in 0..20 {
        let now = Timestamp::new(1000 + at * 10);
        let done = log.append(&batch(&["a", "b"], 5), EPOCH, now).unwrap();
        assert_eq!(done.log_append_time, now);
    }
    let reader = log.reader();
    assert_eq!(read_all(&log, 0).len(), 40, "the batches are valid");
    let found = reader
        .offset_for_timestamp(Timestamp::new(1015), Offset::MAX)
        .unwrap()
        .unwrap();
    assert_eq!((found.0, found.1), (Offset::new(4), Timestamp::new(1020)));
    let time = reader.append_time_of(Offset::new(9)).unwrap();
    assert_eq!(time, Some(Timestamp::new(1040)));
}

#[test]
fn lag_is_told_in_records_and_to_the_second() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let mut log = open_log(&dir, &LogConfig::default());
    for at in 0..100 {
        // The producer's clock tells nothing about when its records came.
        append_at(&mut log, 5, 1_000_000 + at * 300);
    }
    let reader = log.reader();
    for at in 0..100 {
        let time = reader
            .append_time_of(Offset::new(at))
            .unwrap()
            .unwrap()
            .get();
        let true_time = 1_000_000 + at * 300;
        assert!(time <= true_time && true_time - time < 1000, "{at}: {time}");
        let lag = reader
            .records_between(Offset::new(at), Offset::MAX)
            .unwrap();
        assert_eq!(lag, u64::try_from(100 - at).unwrap());
    }
    assert_eq!(reader.append_time_of(Offset::new(100)).unwrap(), None);
}

#[test]
fn control_batches_are_no_data_records() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let mut log = open_log(&dir, &small_segments());
    append_at(&mut log, 0, 0);
    let mut bytes = batch(&["marker"], 0).bytes().to_vec();
    bytes[22] |= 0x20;
    let crc = logweir_proto::record::crc_of(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let control = RecordBatch::from_bytes(bytes.into()).unwrap();
    assert!(control.header().attributes.is_control());
    log.append(&control, EPOCH, Timestamp::new(0)).unwrap();
    append_at(&mut log, 0, 0);
    assert_eq!(log.log_end_offset(), Offset::new(3));
    assert_eq!(
        log.reader()
            .records_between(Offset::ZERO, Offset::MAX)
            .unwrap(),
        2
    );
}

#[test]
fn an_idle_log_lets_go_of_its_file_and_takes_it_up_again() {
    let place = Place::real();
    let dir = place.open();
    let mut log = open_log(&dir, &small_segments());
    append_at(&mut log, 0, 0);
    log.flush().unwrap();
    let open_files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let path = place.path.join("logs/t").join(log.id().dir_name());
    let is_open = || {
        let fds = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(Result::ok);
        let targets = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        targets.filter(|target| target.starts_with(&path)).count()
    };
    assert!(open_files() > 0);
    assert_eq!(is_open(), 1);
    log.roll_if_due(Timestamp::new(599_999)).unwrap();
    assert_eq!(is_open(), 1);
    log.roll_if_due(Timestamp::new(600_000)).unwrap();
    assert_eq!(is_open(), 0, "ten minutes have passed");
    assert_eq!(read_all(&log, 0).len(), 1);
    append_at(&mut log, 0, 600_001);
    assert_eq!(read_all(&log, 0).len(), 2);
}

#[test]
fn a_new_leaders_epoch_is_known_before_its_first_batch() {
    let place = Place::simulated();
    let dir = quiet(&place);
    let mut log = open_log(&dir, &small_segments());
    append_at(&mut log, 0, 0);
    log.begin_epoch(LeaderEpoch::new(4));
    let reader = log.reader();
    assert_eq!(
        reader.end_offset_of_epoch(EPOCH),
        Some((EPOCH, Offset::new(1)))
    );
    let latest = LeaderEpoch::new(4);
    assert_eq!(
        reader.end_offset_of_epoch(latest),
        Some((latest, Offset::new(1)))
    );
    log.close().unwrap();
    drop(log);
    assert_eq!(open_log(&dir, &small_segments()).last_epoch(), latest);
}
