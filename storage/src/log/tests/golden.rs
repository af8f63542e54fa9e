//! Files of released versions: they open, and say what they said.
//!
//! `testdata/v1` was written by `write_the_golden_files`; once a version is released its files are never written again.

use super::*;
use crate::inspect::{self, FileKind, Item};
use crate::producers::ProducerCheck;
use logweir_proto::record::set_producer;
use logweir_proto::{ProducerEpoch, ProducerId, Sequence};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/log/testdata/v1");
const LOG: &str = "logs/t/0-01010101-0101-0101-0101-010101010101";

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 400,
        index_interval_bytes: 100,
        ..LogConfig::default()
    }
}

fn of_producer(value: &str, sequence: i32) -> RecordBatch {
    let mut bytes = batch(&[value], 77).bytes().to_vec();
    let (id, epoch) = (ProducerId::new(4000), ProducerEpoch::new(2));
    set_producer(&mut bytes, id, epoch, Sequence::new(sequence));
    RecordBatch::from_bytes(bytes.into()).unwrap()
}

/// Everything a log's files can hold: epochs, a cut, a raised start, a producer, a gap.
fn write(log: &mut Log) {
    for at in 0..12 {
        log.append(
            &batch(&[&format!("old {at}")], at),
            EPOCH,
            Timestamp::new(at),
        )
        .unwrap();
    }
    log.truncate_to(Offset::new(8)).unwrap();
    for at in 8..12 {
        let batch = of_producer(&format!("new {at}"), i32::try_from(at - 8).unwrap());
        log.append(&batch, LeaderEpoch::new(3), Timestamp::new(at))
            .unwrap();
    }
    let mut gap = batch(&["after a gap"], 99).bytes().to_vec();
    logweir_proto::record::set_base_offset(&mut gap, Offset::new(15));
    logweir_proto::record::set_leader_epoch(&mut gap, LeaderEpoch::new(5));
    let gap = RecordBatch::from_bytes(gap.into()).unwrap();
    log.append_replica(&gap, Timestamp::new(99)).unwrap();
    log.delete_records_before(Offset::new(5)).unwrap();
}

#[test]
#[ignore = "writes the files of a new version into the source tree"]
fn write_the_golden_files() {
    let path = Path::new(GOLDEN);
    std::fs::create_dir_all(path).unwrap();
    let config = LogDirConfig {
        reserve_bytes: 0,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(OsDisk::new()), path, config).unwrap();
    let mut log = open_log(&dir, &self::config());
    write(&mut log);
    log.close().unwrap();
    drop(log);
    dir.close().unwrap();
    std::fs::remove_file(path.join(".lock")).unwrap();
}

pub(super) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Opens a copy of the golden files, without those of the given names.
fn check(without: &[&str], clean: bool) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    copy_tree(Path::new(GOLDEN), &path);
    for name in without {
        std::fs::remove_file(path.join(name)).unwrap();
    }
    let dir = LogDir::open(Arc::new(OsDisk::new()), &path, LogDirConfig::default()).unwrap();
    assert_eq!(dir.was_clean(), clean);
    let log = open_log(&dir, &config());
    let expected: Vec<(i64, String)> = (5..8)
        .map(|at| (at, format!("old {at}")))
        .chain((8..12).map(|at| (at, format!("new {at}"))))
        .chain([(15, "after a gap".to_owned())])
        .collect();
    assert_eq!(read_all(&log, 5), expected);
    let reader = log.reader();
    assert_eq!(
        (log.log_start_offset().get(), log.log_end_offset().get()),
        (5, 16)
    );
    let epochs = [5, 7, 8, 11, 15].map(|at| reader.leader_epoch_of(Offset::new(at)).get());
    assert_eq!(epochs, [1, 1, 3, 3, 5]);
    assert_eq!(
        reader.records_between(Offset::ZERO, Offset::MAX).unwrap(),
        8
    );
    let check = log.check_producer(of_producer("new 10", 2).header(), Timestamp::new(100));
    let known = ProducerCheck::Duplicate {
        base_offset: Offset::new(10),
        append_time: Timestamp::NONE,
    };
    assert_eq!(check, Ok(known));
}

#[test]
fn files_of_version_1_open_after_a_clean_end() {
    check(&[], true);
}

#[test]
fn files_of_version_1_open_after_a_crash() {
    check(&["clean-shutdown"], false);
    check(&["clean-shutdown", "recovery-points"], false);
}

#[test]
fn files_of_version_1_open_without_what_can_be_made_again() {
    let index = format!("{LOG}/00000000000000000008.index");
    let producers = format!("{LOG}/00000000000000000016.producers");
    check(&[&index, &producers], true);
}

#[test]
fn every_file_is_described() {
    let describe = |name: &str| {
        let contents = inspect::describe(&Path::new(GOLDEN).join(name)).unwrap();
        let kind = contents.kind;
        let items: Vec<_> = contents.map(Result::unwrap).collect();
        (kind, items)
    };
    let (kind, items) = describe(&format!("{LOG}/00000000000000000008.log"));
    assert_eq!(kind, FileKind::Segment);
    let offsets = items.iter().map(|item| match item {
        Item::Batch { header, .. } => header.base_offset.get(),
        other => panic!("{other:?}"),
    });
    assert_eq!(offsets.collect::<Vec<_>>(), [8, 9, 10, 11, 15]);
    let (kind, items) = describe(&format!("{LOG}/00000000000000000008.index"));
    assert_eq!(kind, FileKind::Index);
    assert!(items.len() >= 3, "{items:?}");
    let (kind, items) = describe(&format!("{LOG}/00000000000000000016.producers"));
    assert_eq!(kind, FileKind::Producers);
    assert!(
        matches!(&items[1], Item::Producer { batches: 4, .. }),
        "{items:?}"
    );
    let (kind, items) = describe(&format!("{LOG}/leader-epochs"));
    assert_eq!((kind, items.len()), (FileKind::LeaderEpochs, 3));
    for (name, kind, count) in [
        (format!("{LOG}/log-state"), FileKind::LogState, 5),
        ("recovery-points".into(), FileKind::RecoveryPoints, 1),
        ("directory".into(), FileKind::Directory, 1),
        ("running".into(), FileKind::Running, 2),
        ("clean-shutdown".into(), FileKind::CleanShutdown, 2),
    ] {
        let (found, items) = describe(&name);
        assert_eq!((found, items.len()), (kind, count), "{name}");
    }
}

/// Files were judged by their names, and those of a data directory that have no magic number passed for files of others.
#[test]
fn a_file_is_known_by_its_content_and_one_without_a_magic_number_by_its_name() {
    let temporary = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], expected: Result<FileKind, &str>| {
        let path = temporary.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let described = inspect::describe(&path).and_then(|contents| {
            let kind = contents.kind;
            contents.collect::<Result<Vec<_>, _>>().map(|_| kind)
        });
        match (described, expected) {
            (Ok(kind), Ok(expected)) => assert_eq!(kind, expected, "{name}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (described, _) => panic!("{name}: {described:?}"),
        }
    };
    let golden = |name: &str| std::fs::read(Path::new(GOLDEN).join(name)).unwrap();
    let segment = golden(&format!("{LOG}/00000000000000000008.log"));
    let epochs = golden(&format!("{LOG}/leader-epochs"));
    check("copy of a segment", &segment, Ok(FileKind::Segment));
    let deleted = "00000000000000000008.log.deleted";
    check(deleted, &segment, Ok(FileKind::Segment));
    check(
        "00000000000000000009.log",
        &epochs,
        Ok(FileKind::LeaderEpochs),
    );
    check("00000000000000000009.log", b"", Ok(FileKind::Segment));
    check("reserve", &[0; 70_000], Ok(FileKind::Reserve));
    check("reserve", &[0, 0, 0, 0, 0, 0, 0, 0, 7], Err("at byte 8"));
    check(".lock", b"7\n", Ok(FileKind::Lock));
    check(".lock", b"none", Err("no pid"));
    check("leader-epochs.tmp", &epochs, Ok(FileKind::LeaderEpochs));
    check("leader-epochs.tmp", &epochs[..9], Ok(FileKind::Leftover));
    check("leader-epochs.tmp", b"", Ok(FileKind::Leftover));
    check("log.new", b"LWM", Ok(FileKind::Leftover));
    let mut damaged = epochs;
    damaged[0] ^= 1;
    check(
        "leader-epochs",
        &damaged,
        Err("does not begin as leader epochs"),
    );
    check("notes", &damaged, Err("none of Logweir's files"));
}

#[test]
fn damage_is_told_with_its_place_and_foreign_files_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let segment = temporary.path().join("00000000000000000008.log");
    let golden = Path::new(GOLDEN).join(LOG).join("00000000000000000008.log");
    let mut bytes = std::fs::read(golden).unwrap();
    let size = logweir_proto::record::BatchHeader::read(&bytes)
        .unwrap()
        .size_bytes;
    bytes[size + 70] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let items: Vec<_> = inspect::describe(&segment).unwrap().collect();
    assert_eq!(items.len(), 2, "one batch, then the damage");
    let error = items[1].as_ref().unwrap_err().to_string();
    assert!(
        error.contains(&format!("is corrupt at byte {size}")),
        "{error}"
    );

    let foreign = temporary.path().join("notes.txt");
    std::fs::write(&foreign, "hello").unwrap();
    let error = inspect::describe(&foreign).unwrap_err().to_string();
    assert!(error.contains("none of Logweir's files"), "{error}");
}
