//! Appending, reading, rolling, closing and opening again, on both disks.

use super::*;

fn fill(log: &mut Log, count: i64) -> Vec<(i64, String)> {
    let start = log.log_end_offset().get();
    let mut expected = Vec::new();
    for at in start..start + count {
        let value = format!("value {at}");
        let done = log
            .append(&batch(&[&value], at * 10), EPOCH, Timestamp::new(at))
            .unwrap();
        assert_eq!(done.base_offset, Offset::new(at));
        expected.push((at, value));
    }
    expected
}

fn check_reopen(place: &Place, clean: bool, config: &LogConfig) {
    let dir = place.open();
    let mut log = open_log(&dir, config);
    let mut expected = fill(&mut log, 100);
    assert_eq!(read_all(&log, 0), expected);
    if clean {
        log.close().unwrap();
        drop(log);
        dir.close().unwrap();
    } else {
        drop(log);
    }
    drop(dir);
    let dir = place.open();
    assert_eq!(dir.was_clean(), clean);
    assert!(dir.same_boot());
    let mut log = open_log(&dir, config);
    assert_eq!(log.log_end_offset(), Offset::new(100));
    assert_eq!(log.durable_end_offset(), Offset::new(100));
    assert_eq!(read_all(&log, 0), expected);
    expected.extend(fill(&mut log, 50));
    assert_eq!(read_all(&log, 0), expected);
    assert_eq!(read_all(&log, 77), expected[77..]);
    assert_eq!(log.last_epoch(), EPOCH);
}

#[test]
fn a_log_closed_or_not_is_read_back_from_either_disk() {
    let per_ack = LogConfig {
        flush: FlushPolicy::PER_ACK,
        ..small_segments()
    };
    for clean in [true, false] {
        for config in [small_segments(), LogConfig::default(), per_ack.clone()] {
            check_reopen(&Place::simulated(), clean, &config);
            check_reopen(&Place::real(), clean, &config);
        }
    }
}
