//! What `dump` shows of files that a quorum has just written.

use super::super::inspect::inspect;
use super::*;

#[test]
fn log_and_snapshot_of_a_quorum_are_shown_whole_and_every_changed_byte_of_a_snapshot_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let quorum = block_on(registered(QuorumConfig {
        snapshot_entries: 3,
        ..config_on_files(dir.path())
    }));
    for number in 0..8 {
        block_on(quorum.create_topic(topic(&format!("t-{number}"), 2))).unwrap();
    }
    block_on(quorum.delete_topic("t-1")).unwrap();
    block_on(quorum.shutdown());
    let read = |name: &str| {
        let path = dir.path().join("metadata").join(name);
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    let (path, bytes) = read("log");
    let log = inspect(&path, bytes.into()).unwrap();
    assert_eq!(log.kind, "metadata log");
    assert!(log.damage.is_none(), "{:?}", log.damage);
    assert!(
        log.items
            .iter()
            .any(|item| item["item"] == "vote" && item["term"] == 1)
    );

    let (path, bytes) = read("snapshot");
    let snapshot = inspect(&path, bytes.clone().into()).unwrap();
    assert!(snapshot.damage.is_none(), "{:?}", snapshot.damage);
    assert_eq!(snapshot.items[0]["node_id"], 1);
    let topics = snapshot
        .items
        .iter()
        .filter(|item| item["record"] == "topic");
    assert!(topics.count() > 0);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let found = inspect(&path, damaged.into());
        assert!(
            found.is_err() || found.is_ok_and(|found| found.damage.is_some()),
            "byte {at}"
        );
    }
}
