//! Reading: no copy, no call of the disk, and nothing that a reader holds ever changes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::OpenMode;
use crate::error::ReadError;

fn append(log: &mut Log, value: &str) {
    log.append(&batch(&[value], 0), EPOCH, Timestamp::new(0))
        .unwrap();
}

fn sim() -> (SimDisk, Arc<LogDir>) {
    let disk = SimDisk::new(1 << 28);
    let config = LogDirConfig {
        threads: false,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap();
    (disk, dir)
}

#[test]
fn appends_and_reads_call_the_disk_only_for_blocks() {
    let (disk, dir) = sim();
    let mut log = open_log(&dir, &LogConfig::default());
    append(&mut log, "first");
    let before = disk.operations();
    // 600 batches of about 80 bytes stay within the first step of blocks.
    for _ in 0..600 {
        append(&mut log, "value");
    }
    let reader = log.reader();
    for from in 0..600 {
        let slice = reader.read(Offset::new(from), 4000, Offset::MAX).unwrap();
        assert!(!slice.bytes.is_empty());
    }
    assert_eq!(disk.operations(), before);
}

#[test]
fn a_read_is_not_a_copy() {
    let (_disk, dir) = sim();
    let mut log = open_log(&dir, &LogConfig::default());
    for at in 0..100 {
        append(&mut log, &format!("value {at}"));
    }
    let reader = log.reader();
    let whole = reader
        .read(Offset::ZERO, usize::MAX, Offset::MAX)
        .unwrap()
        .bytes;
    let part = reader
        .read(Offset::new(50), 300, Offset::MAX)
        .unwrap()
        .bytes;
    let distance = part.as_ptr() as usize - whole.as_ptr() as usize;
    assert_eq!(whole[distance..distance + part.len()], part);
}

#[test]
fn a_read_keeps_to_its_bounds() {
    let (_disk, dir) = sim();
    let mut log = open_log(&dir, &LogConfig::default());
    for _ in 0..10 {
        log.append(&batch(&["a", "b"], 0), EPOCH, Timestamp::new(0))
            .unwrap();
    }
    let reader = log.reader();
    let size = batch(&["a", "b"], 0).bytes().len();
    let read = |from: i64, max_bytes: usize, below: i64| {
        let slice = reader
            .read(Offset::new(from), max_bytes, Offset::new(below))
            .unwrap();
        (slice.bytes.len() / size, slice.next_offset.get())
    };
    assert_eq!(read(0, 3 * size, 20), (3, 6));
    assert_eq!(read(0, 3 * size + 1, 20), (3, 6));
    assert_eq!(read(0, 3 * size - 1, 20), (2, 4));
    assert_eq!(
        read(0, 0, 20),
        (1, 2),
        "the first batch even if it is larger"
    );
    assert_eq!(
        read(3, 2 * size, 20),
        (2, 6),
        "the batch that contains the offset"
    );
    assert_eq!(
        read(0, usize::MAX, 7),
        (3, 6),
        "no batch that reaches beyond the bound"
    );
    assert_eq!(read(6, usize::MAX, 7), (0, 6), "not even the first");
    assert_eq!(read(20, usize::MAX, 99), (0, 20), "nothing at the end");
    for from in [-1, 21] {
        let error = reader.read(Offset::new(from), 1, Offset::MAX).unwrap_err();
        let ReadError::OutOfRange { start, end } = error else {
            panic!("{error}");
        };
        assert_eq!((start.get(), end.get()), (0, 20));
    }
}

#[test]
fn bytes_outlive_truncation_retention_and_deletion() {
    for place in [Place::simulated(), Place::real()] {
        let dir = place.open();
        let mut log = open_log(&dir, &small_segments());
        for at in 0..60 {
            append(&mut log, &format!("value {at} {}", "x".repeat(50)));
        }
        let reader = log.reader();
        let held: Vec<_> = (0..60)
            .map(|at| {
                reader
                    .read(Offset::new(at), 500, Offset::MAX)
                    .unwrap()
                    .bytes
            })
            .collect();
        let copies: Vec<_> = held.iter().map(|bytes| bytes.to_vec()).collect();
        log.truncate_to(Offset::new(33)).unwrap();
        for at in 0..60 {
            append(&mut log, &format!("other {at} {}", "y".repeat(70)));
        }
        log.delete_records_before(Offset::new(30)).unwrap();
        dir.delete_log(log).unwrap();
        drop(dir);
        for (bytes, copy) in held.iter().zip(&copies) {
            assert_eq!(bytes, copy);
        }
    }
}

#[test]
fn readers_see_one_history_while_the_log_changes() {
    let place = Place::real();
    let dir = place.open();
    let mut log = open_log(&dir, &small_segments());
    let reader = log.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let from = reader.log_start_offset();
                    match reader.read(from, 2000, Offset::MAX) {
                        Ok(slice) => check_history(&slice.bytes, from),
                        Err(ReadError::OutOfRange { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    let end = reader.log_end_offset();
                    let at = Offset::new((from.get() + end.get()) / 2);
                    if let Ok(slice) = reader.read(at, 2000, Offset::MAX) {
                        check_history(&slice.bytes, at);
                    }
                }
            });
        }
        let rounds = if full() { 20_000 } else { 2_000 };
        for round in 0..rounds {
            let offset = log.log_end_offset();
            append(
                &mut log,
                &format!(
                    "{offset} {}",
                    "x".repeat(usize::try_from(round % 90).unwrap())
                ),
            );
            if round % 97 == 0 {
                log.truncate_to(Offset::new(offset.get() - round % 13))
                    .unwrap();
            }
            if round % 131 == 0 {
                let start = log.log_start_offset().get();
                let middle = (start + log.log_end_offset().get()) / 2;
                log.delete_records_before(Offset::new(middle)).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Every value tells its offset, so whatever is read must be where it says.
fn check_history(bytes: &Bytes, from: Offset) {
    let mut expected = None;
    for (offset, value) in values(bytes) {
        assert!(
            value.starts_with(&format!("{offset} ")),
            "{value} at {offset}"
        );
        assert_eq!(*expected.get_or_insert(offset), offset);
        expected = Some(offset + 1);
        assert!(
            offset >= from.get(),
            "single records begin where they are asked for"
        );
    }
}

#[test]
fn a_missing_or_wrong_index_is_made_again() {
    let (disk, dir) = sim();
    let mut log = open_log(&dir, &small_segments());
    for at in 0..60 {
        append(&mut log, &format!("value {at} {}", "x".repeat(50)));
    }
    let expected = read_all(&log, 0);
    log.close().unwrap();
    drop(log);
    dir.close().unwrap();
    drop(dir);
    let logs = Path::new("/data/logs/t/0-01010101-0101-0101-0101-010101010101");
    let indexes = || {
        let names = disk.list(logs).unwrap().into_iter().map(|entry| entry.name);
        names
            .filter(|name| name.ends_with(".index"))
            .collect::<Vec<_>>()
    };
    let names = indexes();
    assert!(names.len() >= 5, "{names:?}");
    disk.remove_file(&logs.join(&names[0])).unwrap();
    disk.flip_bit(&logs.join(&names[1]), 40, 3).unwrap();
    disk.open(&logs.join(&names[2]), OpenMode::Write)
        .unwrap()
        .set_len(50)
        .unwrap();
    // Entries with good CRCs: only the batches tell that they are wrong.
    forge_index(&disk, &logs.join(&names[3]), false);
    forge_index(&disk, &logs.join(&names[4]), true);

    let dir = LogDir::open(
        Arc::new(disk.clone()),
        Path::new("/data"),
        LogDirConfig::default(),
    );
    let log = open_log(&dir.unwrap(), &small_segments());
    assert_eq!(read_all(&log, 0), expected);
    for at in 0..60 {
        assert_eq!(read_all(&log, at), expected[usize::try_from(at).unwrap()..]);
        let count = log
            .reader()
            .records_between(Offset::ZERO, Offset::new(at))
            .unwrap();
        assert_eq!(count, u64::try_from(at).unwrap());
    }
    assert_eq!(indexes(), names);
}

/// Writes an index whose entries are well formed and lead nowhere; the last one may be the true one.
fn forge_index(disk: &SimDisk, path: &Path, with_end: bool) {
    use crate::index::{IndexEntry, IndexFile};
    let name = path.file_stem().unwrap().to_str().unwrap();
    let base = Offset::new(name.parse().unwrap());
    let (_, index) = IndexFile::load(disk, path, base).unwrap();
    let entry = |offset: i64, position: u32, records: u32| IndexEntry {
        offset: base.plus(offset),
        position,
        records,
        append_time: Timestamp::new(0),
        max_timestamp: Timestamp::new(0),
    };
    let mut entries = vec![entry(0, 0, 1), entry(2, 17, 1), entry(4, 333, 9)];
    if with_end {
        entries[0].records = 0;
        entries.push(*index.last().unwrap());
    }
    disk.remove_file(path).unwrap();
    IndexFile::absent()
        .persist(disk, path, base, &entries)
        .unwrap();
}
