//! Files of a compacted log, as it lay when the power went in the middle of a second compaction: its point, a segment
//! that was replaced before, and one that is to take the place of others. They open, and say what they said.
//!
//! `testdata/v1-compaction` was written by `write_the_golden_files_of_compaction`; once a version is released its files
//! are never written again.

use super::compaction::{Found, compact, compacted, put, records, roll};
use super::golden::copy_tree;
use super::*;
use crate::inspect::{self, FileKind, Item};
use crate::log::CompactionStep;

const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/log/testdata/v1-compaction"
);
const LOG: &str = "logs/t/0-01010101-0101-0101-0101-010101010101";

/// Two rounds of keys that are overwritten; a tombstone in the first, which stays for its time.
fn fill(log: &mut Log, round: i64) {
    for at in 0..12 {
        let (key, value) = (format!("k{}", at % 3), format!("{round}.{at}"));
        put(log, &[(&key, Some(&value)), ("all", Some(&value))], round);
    }
    if round == 1 {
        put(log, &[("k2", None), ("only", Some("once"))], round);
    }
    roll(log);
    log.flush().unwrap();
}

#[test]
#[ignore = "writes the files of a new version into the source tree"]
fn write_the_golden_files_of_compaction() {
    let temporary = tempfile::tempdir().unwrap();
    let config = LogDirConfig {
        reserve_bytes: 0,
        ..LogDirConfig::default()
    };
    let dir = LogDir::open(Arc::new(OsDisk::new()), temporary.path(), config).unwrap();
    let mut log = open_log(&dir, &compacted());
    fill(&mut log, 1);
    compact(&mut log, 1).unwrap();
    fill(&mut log, 2);
    let end = log.log_end_offset();
    let mut compaction = log
        .plan_compaction(Timestamp::new(2), end)
        .unwrap()
        .unwrap();
    let step = compaction.run(&mut |_| true).unwrap();
    assert!(matches!(step, CompactionStep::Replace(_)), "{step:?}");
    copy_tree(temporary.path(), Path::new(GOLDEN));
    std::fs::remove_file(Path::new(GOLDEN).join(".lock")).unwrap();
}

/// Opens a copy of the files, without those of the given names, and reads it.
fn check(without: &[&str]) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    copy_tree(Path::new(GOLDEN), &path);
    for name in without {
        std::fs::remove_file(path.join(LOG).join(name)).unwrap();
    }
    let dir = LogDir::open(Arc::new(OsDisk::new()), &path, LogDirConfig::default()).unwrap();
    let mut log = open_log(&dir, &compacted());
    check_last(&records(&log.reader(), 0));
    let kept = |log: &Log| {
        let names = std::fs::read_dir(log.shared().files.dir()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".compacted")).count()
    };
    assert_eq!(kept(&log), 0, "what was begun is finished by the start");
    compact(&mut log, 3);
    let found = records(&log.reader(), 0);
    check_last(&found);
    assert_eq!(found.len(), 5, "one record of each key: {found:?}");
}

/// What each key says last.
fn check_last(found: &[Found]) {
    let last = |key: &str| {
        let (at, _, _, value) = found.iter().rfind(|record| record.2 == key).unwrap();
        (*at, value.clone())
    };
    let is = |text: &str| Some(text.to_owned());
    assert_eq!(last("only"), (25, is("once")));
    assert_eq!(last("k0"), (44, is("2.9")));
    assert_eq!(last("k1"), (46, is("2.10")));
    assert_eq!(last("k2"), (48, is("2.11")));
    assert_eq!(last("all"), (49, is("2.11")));
}

/// The name of the segment that is to take the place of others.
fn pending() -> String {
    let names = std::fs::read_dir(Path::new(GOLDEN).join(LOG)).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.find(|name| name.ends_with(".compacted")).unwrap()
}

#[test]
fn a_compacted_log_of_version_1_opens_and_is_compacted_further() {
    check(&[]);
}

#[test]
fn a_compacted_log_of_version_1_opens_without_what_can_be_made_again() {
    check(&["compaction"]);
    check(&[&pending()]);
    check(&["compaction", &pending()]);
}

#[test]
fn the_files_of_compaction_are_described() {
    let describe = |name: &str| {
        let contents = inspect::describe(&Path::new(GOLDEN).join(LOG).join(name)).unwrap();
        let kind = contents.kind;
        (kind, contents.map(Result::unwrap).collect::<Vec<_>>())
    };
    let (kind, items) = describe("compaction");
    assert_eq!((kind, items.len()), (FileKind::Compaction, 3));
    let (kind, items) = describe(&pending());
    assert_eq!(kind, FileKind::Segment);
    let is_batch = |item: &Item| matches!(item, Item::Batch { .. });
    assert!(!items.is_empty() && items.iter().all(is_batch), "{items:?}");
}
