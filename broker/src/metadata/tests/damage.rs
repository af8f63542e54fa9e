//! Damage: whatever byte of the files changes, the broker either refuses to start or has the same image.

use super::super::log_file::{Identity, LogFile};
use super::crash::without_controller;
use super::*;
use logweir_storage::disk::{OpenMode, PowerCut};
use prost::Message;

const LOG: &str = "/data/metadata/log";
const SNAPSHOT: &str = "/data/metadata/snapshot";

fn bytes_of(disk: &SimDisk, path: &str) -> Vec<u8> {
    let file = disk.open(Path::new(path), OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// A disk that holds these files and nothing else.
fn disk_with(log: Option<&[u8]>, snapshot: Option<&[u8]>) -> SimDisk {
    let disk = memory();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (path, bytes) in [(LOG, log), (SNAPSHOT, snapshot)] {
        if let Some(bytes) = bytes {
            disk.open(Path::new(path), OpenMode::Create)
                .unwrap()
                .write_at(bytes, 0)
                .unwrap();
        }
    }
    disk
}

/// What a start makes of the files: the image, or the error's words.
fn start(disk: &SimDisk) -> Result<Image, String> {
    match block_on(Quorum::start(config(disk))) {
        Ok(quorum) => {
            block_on(quorum.shutdown());
            Ok(without_controller(&quorum.image()))
        }
        Err(error) => Err(error.to_string()),
    }
}

struct Files {
    image: Image,
    log: Vec<u8>,
    snapshot: Option<Vec<u8>>,
}

/// Files as a killed process leaves them, after some changes.
fn killed_after_changes(snapshot_entries: u64) -> Files {
    let disk = memory();
    let quorum = block_on(registered(QuorumConfig {
        snapshot_entries,
        ..config(&disk)
    }));
    for number in 0..8 {
        let configs = settings(&[("retention.ms", "5000")]);
        let new = NewTopic {
            configs,
            ..topic(&format!("topic-{number}"), 2)
        };
        block_on(quorum.create_topic(new)).unwrap();
    }
    block_on(quorum.allocate_producer_ids()).unwrap();
    block_on(quorum.shutdown());
    let has_snapshot = disk.exists(Path::new(SNAPSHOT)).unwrap();
    Files {
        image: without_controller(&quorum.image()),
        log: bytes_of(&disk, LOG),
        snapshot: has_snapshot.then(|| bytes_of(&disk, SNAPSHOT)),
    }
}

/// Places worth trying one by one: what is written and its surroundings; of long empty stretches some.
fn places(bytes: &[u8]) -> Vec<usize> {
    let near = |at: usize| {
        bytes[at.saturating_sub(40)..(at + 40).min(bytes.len())]
            .iter()
            .any(|byte| *byte != 0)
    };
    (0..bytes.len())
        .filter(|at| near(*at) || at % 509 == 0)
        .collect()
}

fn check_flip(files: &Files, at: usize, mask: u8, must_refuse: bool) {
    let mut log = files.log.clone();
    log[at] ^= mask;
    match start(&disk_with(Some(&log), files.snapshot.as_deref())) {
        Ok(image) => {
            assert!(!must_refuse, "byte {at} ^ {mask:#x} went unnoticed");
            assert_eq!(
                image, files.image,
                "byte {at} ^ {mask:#x} changed the image"
            );
        }
        Err(error) => {
            assert!(error.contains(LOG), "byte {at}: {error}");
            assert!(
                error.contains("restore") || error.contains("newer"),
                "byte {at}: {error}"
            );
        }
    }
}

#[test]
fn a_changed_byte_of_the_log_is_a_refusal_or_the_same_image() {
    for snapshot_entries in [1_000, 6] {
        let files = killed_after_changes(snapshot_entries);
        assert_eq!(files.snapshot.is_some(), snapshot_entries == 6);
        let places = places(&files.log);
        println!("{} of {} bytes", places.len(), files.log.len());
        let masks: &[u8] = if long_count(10) == 10 {
            &[1, 2, 4, 8, 16, 32, 64, 128, 255]
        } else {
            &[1, 255]
        };
        for at in places {
            for mask in masks {
                check_flip(&files, at, *mask, false);
            }
        }
    }
}

#[test]
fn a_changed_byte_of_any_frame_is_a_refusal() {
    let files = killed_after_changes(1_000);
    let frames = files.log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut checked = 0;
    for page in (3 * 4096..frames).step_by(4096) {
        let end = (page + 4096).min(frames);
        let written = files.log[page..end]
            .iter()
            .rposition(|byte| *byte != 0)
            .unwrap()
            + 1;
        for at in (page..page + written).step_by(if long_count(10) == 10 { 1 } else { 5 }) {
            check_flip(&files, at, 0x10, true);
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn a_changed_byte_of_the_last_frame_is_a_refusal_even_if_its_mark_was_lost() {
    let files = killed_after_changes(1_000);
    // The two marks differ by one frame: the older one in both places is what a power cut can leave.
    let mark = |page: usize| u64::from_le_bytes(files.log[page + 4..page + 12].try_into().unwrap());
    let (older, newer) = if mark(4096) < mark(8192) {
        (4096, 8192)
    } else {
        (8192, 4096)
    };
    assert_eq!(mark(older) + 1, mark(newer));
    let mut log = files.log.clone();
    log.copy_within(older..older + 24, newer);
    let files = Files { log, ..files };
    assert_eq!(
        start(&disk_with(Some(&files.log), None)).unwrap(),
        files.image
    );
    let end = files.log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let last = (end - 1) / 4096 * 4096;
    for at in last..end {
        for mask in [1, 0x80, 0xFF] {
            check_flip(&files, at, mask, true);
        }
    }
}

#[test]
fn a_log_cut_short_anywhere_is_a_refusal_or_the_same_image() {
    let files = killed_after_changes(1_000);
    let frames = files.log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut cuts: Vec<usize> = (0..frames)
        .step_by(if long_count(10) == 10 { 7 } else { 97 })
        .collect();
    cuts.extend([0, 1, 4096, 3 * 4096, frames - 1, frames, frames + 1]);
    for cut in cuts {
        let outcome = start(&disk_with(Some(&files.log[..cut]), None));
        assert_eq!(
            outcome.is_ok(),
            cut >= frames,
            "cut at {cut} of {frames}: {outcome:?}"
        );
        match outcome {
            Ok(image) => assert_eq!(image, files.image),
            Err(error) => assert!(error.contains(LOG), "cut at {cut}: {error}"),
        }
    }
}

#[test]
fn a_changed_or_shortened_snapshot_is_a_refusal() {
    let files = killed_after_changes(6);
    let snapshot = files.snapshot.unwrap();
    assert_eq!(
        start(&disk_with(Some(&files.log), Some(&snapshot))).unwrap(),
        files.image
    );
    for at in 0..snapshot.len() {
        for mask in [1, 0x80, 0xFF] {
            let mut changed = snapshot.clone();
            changed[at] ^= mask;
            let refusal = start(&disk_with(Some(&files.log), Some(&changed))).unwrap_err();
            assert!(refusal.contains(SNAPSHOT), "byte {at}: {refusal}");
        }
        let cut = &snapshot[..at];
        assert!(
            start(&disk_with(Some(&files.log), Some(cut))).is_err(),
            "cut at {at}"
        );
    }
    let longer = [&snapshot[..], &[0]].concat();
    assert!(start(&disk_with(Some(&files.log), Some(&longer))).is_err());
}

#[test]
fn a_missing_or_older_file_is_a_refusal_that_names_it() {
    let files = killed_after_changes(6);
    let snapshot = files.snapshot.as_deref();
    let refusal = start(&disk_with(Some(&files.log), None)).unwrap_err();
    assert!(
        refusal.contains(SNAPSHOT) && refusal.contains("missing"),
        "{refusal}"
    );
    let refusal = start(&disk_with(None, snapshot)).unwrap_err();
    assert!(
        refusal.contains(LOG) && refusal.contains("missing"),
        "{refusal}"
    );
    let used = QuorumConfig {
        expect_existing: true,
        ..config(&memory())
    };
    let refusal = block_on(Quorum::start(used)).unwrap_err().to_string();
    assert!(
        refusal.contains(LOG) && refusal.contains("missing"),
        "{refusal}"
    );
}

#[test]
fn an_older_snapshot_in_the_place_of_the_present_one_is_a_refusal() {
    let disk = memory();
    let config = QuorumConfig {
        snapshot_entries: 5,
        ..config(&disk)
    };
    let mut older = None;
    for run in 0..2 {
        let quorum = block_on(registered(config.clone()));
        for number in 0..10 {
            block_on(quorum.create_topic(topic(&format!("t-{run}-{number}"), 1))).unwrap();
        }
        block_on(quorum.shutdown());
        older.get_or_insert_with(|| bytes_of(&disk, SNAPSHOT));
    }
    let log = bytes_of(&disk, LOG);
    assert!(start(&disk_with(Some(&log), Some(&bytes_of(&disk, SNAPSHOT)))).is_ok());
    let refusal = start(&disk_with(Some(&log), older.as_deref())).unwrap_err();
    assert!(
        refusal.contains(SNAPSHOT) && refusal.contains("log begins after"),
        "{refusal}"
    );
}

#[test]
fn a_write_cut_off_at_any_byte_is_dropped() {
    let disk = memory();
    let quorum = block_on(registered(config(&disk)));
    block_on(quorum.create_topic(topic("kept", 1))).unwrap();
    let before = bytes_of(&disk, LOG);
    let image = without_controller(&quorum.image());
    let value = "x".repeat(6_000);
    block_on(quorum.alter_configs("kept", settings(&[("a", &value)]), Vec::new())).unwrap();
    block_on(quorum.shutdown());
    let after = bytes_of(&disk, LOG);
    let begin = before
        .iter()
        .rposition(|byte| *byte != 0)
        .unwrap()
        .next_multiple_of(4096);
    let end = after.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert!(end - begin > 6_000);
    for cut in (begin..end)
        .step_by(if long_count(10) == 10 { 1 } else { 13 })
        .chain([end - 1])
    {
        // The bytes before the cut arrived; the mark, which follows the sync, did not.
        let mut log = before.clone();
        log[begin..cut].copy_from_slice(&after[begin..cut]);
        assert_eq!(
            start(&disk_with(Some(&log), None)).as_ref(),
            Ok(&image),
            "cut at {cut}"
        );
        // The same without the blocks that were reserved ahead.
        log.truncate(cut);
        assert_eq!(
            start(&disk_with(Some(&log), None)).as_ref(),
            Ok(&image),
            "cut at {cut}"
        );
    }
    // Whole sectors that did not arrive.
    for missing in (begin..end).step_by(512) {
        let mut log = before.clone();
        log[begin..end].copy_from_slice(&after[begin..end]);
        log[missing..(missing + 512).min(end)].fill(0);
        assert_eq!(
            start(&disk_with(Some(&log), None)).as_ref(),
            Ok(&image),
            "without {missing}"
        );
    }
}

#[test]
fn what_was_torn_once_does_not_come_back() {
    let disk = memory();
    let quorum = block_on(registered(config(&disk)));
    disk.inject(SimFault::errno(5).on(DiskOp::Write));
    // Half of the write arrives, and that is less than the frame.
    block_on(quorum.create_topic(topic("torn", 500))).unwrap_err();
    block_on(quorum.shutdown());
    let quorum = block_on(Quorum::start(config(&disk))).unwrap();
    assert!(quorum.image().topic("torn").is_none());
    block_on(quorum.create_topic(topic("next", 1))).unwrap();
    block_on(quorum.shutdown());
    disk.power_cut(3, PowerCut::LoseUnsynced);
    let image = start(&disk).unwrap();
    assert!(image.topic("torn").is_none() && image.topic("next").is_some());
}

#[test]
fn after_a_failed_write_the_file_takes_nothing_more() {
    let disk = memory();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let identity = Identity {
        node_id: NODE.get(),
        directory_id: DIRECTORY,
    };
    let dir = Path::new(DIR);
    for op in [DiskOp::Write, DiskOp::Sync, DiskOp::Allocate] {
        let mut file = LogFile::create(Arc::new(disk.clone()), dir, identity, &[]).unwrap();
        disk.inject(SimFault::errno(5).on(op));
        file.append(b"lost").unwrap_err();
        // The disk would take it now, but what it holds is not known.
        file.append(b"late").unwrap_err();
        file.reserve(1).unwrap_err();
        file.rewrite(&[]).unwrap_err();
    }
}

#[test]
fn without_room_a_rewrite_leaves_the_file_as_it_was() {
    let disk = memory();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let identity = Identity {
        node_id: NODE.get(),
        directory_id: DIRECTORY,
    };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new(DIR);
    let mut file = LogFile::create(Arc::clone(&shared), dir, identity, &[]).unwrap();
    file.append(b"one").unwrap();
    disk.set_capacity(disk.used_bytes());
    assert!(
        !file
            .rewrite(&[bytes::Bytes::from_static(b"instead")])
            .unwrap()
    );
    file.append(b"two").unwrap();
    disk.set_capacity(1 << 30);
    let opened = LogFile::open(shared, dir, identity).unwrap().unwrap();
    let bodies: Vec<_> = opened.bodies.iter().map(|(_, body)| &body[..]).collect();
    assert_eq!(bodies, [&b"one"[..], b"two"]);
}

#[test]
fn what_a_newer_version_wrote_is_refused_as_such() {
    use logweir_proto::grpc::internal as wire;
    let disk = memory();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let identity = Identity {
        node_id: NODE.get(),
        directory_id: DIRECTORY,
    };
    let proposal = wire::Proposal {
        planned_on: 0,
        records: vec![wire::Record { kind: None }],
    };
    let unknown_record = wire::LogEntry {
        log_id: Some(wire::LogId::default()),
        payload: Some(wire::log_entry::Payload::Proposal(
            proposal.encode_to_vec().into(),
        )),
    };
    let unknown_step = wire::LogStep { kind: None };
    let unknown_record = wire::LogStep {
        kind: Some(wire::log_step::Kind::Append(unknown_record)),
    };
    for step in [unknown_step, unknown_record] {
        let frame = wire::LogFrame { steps: vec![step] }.encode_to_vec();
        let bodies = [bytes::Bytes::from(frame)];
        LogFile::create(Arc::new(disk.clone()), Path::new(DIR), identity, &bodies).unwrap();
        let refusal = start(&disk).unwrap_err();
        assert!(
            refusal.contains(LOG) && refusal.contains("newer version"),
            "{refusal}"
        );
    }
}
