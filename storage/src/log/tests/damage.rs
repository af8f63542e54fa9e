//! Damaged and cut files: what is left is exactly the valid prefix, or an error that names the place.

use super::*;
use crate::disk::{OpenMode, PowerCut};
use crate::error::OpenError;

const SEGMENT: &str =
    "/data/logs/t/0-01010101-0101-0101-0101-010101010101/00000000000000000000.log";

/// A log of ten batches on a disk that can be copied; the position at which each batch ends.
struct Prepared {
    /// Everything in the data directory.
    files: Vec<(std::path::PathBuf, Vec<u8>)>,
    ends: Vec<u64>,
    values: Vec<(i64, String)>,
}

fn manual() -> LogDirConfig {
    LogDirConfig {
        threads: false,
        reserve_bytes: 0,
        ..LogDirConfig::default()
    }
}

/// Writes ten batches; the first `durable` of them are below the recovery point. Then the process is killed.
fn prepare(durable: usize) -> Prepared {
    let disk = SimDisk::new(1 << 24);
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), manual()).unwrap();
    let mut log = open_log(&dir, &LogConfig::default());
    let (mut ends, mut values) = (Vec::new(), Vec::new());
    let mut end = 0;
    for at in 0..10i64 {
        let text = format!("value {at}");
        let batch = batch(&[&text, "second"], at);
        log.append(&batch, EPOCH, Timestamp::new(at)).unwrap();
        end += batch.bytes().len() as u64;
        ends.push(end);
        values.extend([(2 * at, text), (2 * at + 1, "second".to_owned())]);
        if ends.len() == durable {
            log.flush().unwrap();
            dir.drive(true);
        }
    }
    disk.power_cut(0, PowerCut::KeepAll);
    let mut files = Vec::new();
    copy_out(&disk, Path::new("/data"), &mut files);
    Prepared {
        files,
        ends,
        values,
    }
}

fn copy_out(disk: &SimDisk, dir: &Path, files: &mut Vec<(std::path::PathBuf, Vec<u8>)>) {
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            copy_out(disk, &path, files);
            continue;
        }
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap()];
        disk.open(&path, OpenMode::Read)
            .unwrap()
            .read_at(&mut bytes, 0)
            .unwrap();
        files.push((path, bytes));
    }
}

impl Prepared {
    /// Opens a copy in which `damage` was done to the segment. Gives the values that are left.
    fn recover(&self, damage: impl Fn(&mut Vec<u8>)) -> Result<Vec<(i64, String)>, OpenError> {
        let disk = SimDisk::new(1 << 24);
        for (path, bytes) in &self.files {
            disk.create_dir_all(path.parent().unwrap()).unwrap();
            let mut bytes = bytes.clone();
            if path == Path::new(SEGMENT) {
                damage(&mut bytes);
            }
            disk.open(path, OpenMode::Create)
                .unwrap()
                .write_at(&bytes, 0)
                .unwrap();
        }
        let dir = LogDir::open(Arc::new(disk), Path::new("/data"), manual())?;
        let config = LogConfig::default();
        let on_flush = Box::new(|_| {});
        let partition = PartitionId::new(0);
        let log = dir.open_log("t", TopicId::new([1; 16]), partition, config, on_flush)?;
        let found = read_all(&log, 0);
        // What was cut off does not come back, and appends go on.
        let mut log = log;
        let end = log.log_end_offset();
        let done = log
            .append(
                &batch(&["next"], 0),
                log.last_epoch().max(EPOCH),
                Timestamp::new(0),
            )
            .unwrap();
        assert_eq!(done.base_offset, end);
        drop(log);
        drop(dir);
        Ok(found)
    }

    /// How many whole batches lie below `position`.
    fn batches_below(&self, position: u64) -> usize {
        self.ends.iter().filter(|&&end| end <= position).count()
    }

    /// Damage at `position` leaves the batches before it, or is an error if there is one of the first
    /// `durable` batches there.
    fn check(&self, durable: usize, position: u64, damage: impl Fn(&mut Vec<u8>)) {
        let whole = self.batches_below(position);
        match self.recover(damage) {
            Ok(found) => {
                assert!(
                    whole >= durable,
                    "durable batches went missing at byte {position}"
                );
                assert_eq!(found, self.values[..2 * whole], "damage at byte {position}");
            }
            Err(OpenError::Corrupt {
                path, position: at, ..
            }) => {
                assert!(
                    whole < durable,
                    "a torn tail at byte {position} was taken for corruption"
                );
                assert_eq!(path, Path::new(SEGMENT));
                let start = self.ends[..whole].last().copied().unwrap_or(0);
                assert_eq!(at, start, "the error names the batch");
            }
            Err(error) => panic!("damage at byte {position}: {error}"),
        }
    }
}

fn check_every_cut(durable: usize) {
    let prepared = prepare(durable);
    let end = *prepared.ends.last().unwrap();
    for len in 0..end {
        prepared.check(durable, len, |bytes| {
            bytes.truncate(usize::try_from(len).unwrap())
        });
    }
    let (_, bytes) = prepared
        .files
        .iter()
        .find(|(path, _)| path == Path::new(SEGMENT))
        .unwrap();
    for from in 0..usize::try_from(end).unwrap() {
        // Zeroes that were there before are no damage.
        if let Some(first) = bytes.iter().skip(from).position(|&byte| byte != 0) {
            prepared.check(durable, (from + first) as u64, |bytes| {
                bytes[from..].fill(0)
            });
        }
    }
}

#[test]
fn a_tail_cut_at_any_byte_leaves_the_whole_batches_before() {
    check_every_cut(0);
}

#[test]
fn a_tail_cut_below_the_recovery_point_is_corruption() {
    check_every_cut(7);
}

fn check_every_flip(durable: usize) {
    let prepared = prepare(durable);
    let start = prepared.ends[6];
    let end = *prepared.ends.last().unwrap();
    for bit in start * 8..end * 8 {
        let byte = usize::try_from(bit / 8).unwrap();
        prepared.check_flip(durable, byte, 1 << (bit % 8));
    }
}

impl Prepared {
    fn check_flip(&self, durable: usize, byte: usize, mask: u8) {
        let position = byte as u64;
        let whole = self.batches_below(position);
        let start = self.ends[..whole].last().copied().unwrap_or(0);
        let in_epoch = (12..16).contains(&(position - start));
        if !in_epoch {
            return self.check(durable, position, |bytes| bytes[byte] ^= mask);
        }
        // The leader epoch lies outside of the CRC, as Kafka has it. One that falls is noticed; one that rises cannot be
        // told from a true one, but no record is lost or changed by it.
        match self.recover(|bytes| bytes[byte] ^= mask) {
            Ok(found) => assert_eq!(found[..2 * whole], self.values[..2 * whole]),
            Err(OpenError::Corrupt { .. }) => assert!(whole < durable),
            Err(error) => panic!("flip at byte {byte}: {error}"),
        }
    }
}

#[test]
fn a_flip_of_any_bit_of_the_last_three_batches_ends_the_log_there() {
    check_every_flip(0);
}

#[test]
fn a_flip_of_any_bit_below_the_recovery_point_is_corruption() {
    check_every_flip(10);
}

#[test]
fn bytes_of_a_torn_tail_do_not_come_back_as_batches() {
    // The first of three batches is damaged; after the cut one of the same size takes its place. If the others were
    // still there, they would follow it.
    let prepared = prepare(0);
    let hit = usize::try_from(prepared.ends[6]).unwrap() + 30;
    let disk = SimDisk::new(1 << 24);
    for (path, bytes) in &prepared.files {
        disk.create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = bytes.clone();
        if path == Path::new(SEGMENT) {
            bytes[hit] ^= 1;
        }
        disk.open(path, OpenMode::Create)
            .unwrap()
            .write_at(&bytes, 0)
            .unwrap();
    }
    for _ in 0..2 {
        let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), manual()).unwrap();
        let mut log = open_log(&dir, &LogConfig::default());
        if log.log_end_offset() == Offset::new(14) {
            log.append(&batch(&["value 7", "second"], 7), EPOCH, Timestamp::new(7))
                .unwrap();
        }
        assert_eq!(log.log_end_offset(), Offset::new(16));
        disk.power_cut(0, PowerCut::KeepAll);
    }
}
