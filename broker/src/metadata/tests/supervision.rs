//! What the broker's supervisor is told when the quorum stops, and how the metadata goes on where the disk is full.

use super::*;
use logweir_storage::{LogDir, LogDirConfig};

/// Waits for the reason of an end that must come.
fn reason(quorum: &Quorum) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let ended = async { tokio::time::timeout(Duration::from_secs(60), quorum.ended()).await };
    runtime.block_on(ended).expect("the end is noticed")
}

/// Whether the end is told of at once.
fn has_ended(quorum: &Quorum) -> bool {
    let mut ended = pin!(quorum.ended());
    let mut context = Context::from_waker(Waker::noop());
    ended.as_mut().poll(&mut context).is_ready()
}

/// The metadata thread used to die unnoticed: the broker served on and refused every change.
#[test]
fn a_panic_of_the_metadata_thread_is_told() {
    let quorum = block_on(registered(QuorumConfig {
        check_topic_configs: |configs| match configs.is_empty() {
            true => Ok(()),
            false => panic!("on purpose"),
        },
        ..config(&memory())
    }));
    block_on(quorum.create_topic(topic("fine", 1))).unwrap();
    assert!(!has_ended(&quorum));
    let mut bad = topic("bad", 1);
    bad.configs = settings(&[("a", "b")]);
    let error = block_on(quorum.create_topic(bad)).unwrap_err();
    assert_eq!(error, MetadataError::Interrupted);
    assert!(reason(&quorum).contains("panicked"), "{}", reason(&quorum));
}

#[test]
fn a_panic_below_openraft_is_told_and_its_caller_does_not_wait_for_ever() {
    for disk_may_wait in [false, true] {
        let disk = memory();
        let quorum = block_on(registered(QuorumConfig {
            disk_may_wait,
            ..config(&disk)
        }));
        disk.set_hook(Some(Arc::new(|op, _: &Path| {
            assert!(op != DiskOp::Sync, "on purpose");
        })));
        assert!(block_on(quorum.create_topic(topic("lost", 1))).is_err());
        let reason = reason(&quorum);
        assert!(reason.contains("panicked"), "{reason}");
        disk.set_hook(None);
        block_on(quorum.shutdown());
    }
}

#[test]
fn a_failed_disk_is_no_end_and_a_shutdown_says_that_it_was_one() {
    let disk = memory();
    let quorum = block_on(registered(config(&disk)));
    disk.inject(SimFault::errno(5).on(DiskOp::Sync));
    assert!(block_on(quorum.create_topic(topic("lost", 1))).is_err());
    assert!(quorum.offline().is_some());
    assert!(!has_ended(&quorum));
    block_on(quorum.shutdown());
    assert!(reason(&quorum).contains("shut down"));
}

/// The reserve file is for this: while the disk is full, topics can still be deleted and settings changed. Nobody
/// gave it up.
#[test]
fn a_full_disk_gives_up_the_reserve_and_metadata_goes_on() {
    let disk = SimDisk::new(256 << 20);
    let settings = LogDirConfig {
        reserve_bytes: 4 << 20,
        ..LogDirConfig::default()
    };
    let dir: Arc<dyn Disk> = Arc::new(disk.clone());
    let log_dir = LogDir::open(Arc::clone(&dir), Path::new("/"), settings).unwrap();
    let reserve = Arc::clone(&log_dir);
    let quorum = block_on(registered(QuorumConfig {
        disk_may_wait: true,
        release_reserve: Arc::new(move || reserve.release_reserve()),
        ..QuorumConfig::new(
            NODE,
            log_dir.directory_id().get(),
            dir,
            log_dir.metadata_path(),
        )
    }));
    disk.set_capacity(disk.used_bytes());
    let mut before = 0;
    while disk.space(Path::new("/")).unwrap().free_bytes == 0 {
        before += 1;
        let new = topic(&format!("t-{before}"), 100);
        block_on(quorum.create_topic(new)).expect("the reserve has room");
        assert!(before < 1_000, "what was reserved ahead is never used up");
    }
    assert!(!log_dir.release_reserve(), "it was given up");
    block_on(quorum.delete_topic("t-1")).unwrap();
    // When that is used up too, changes are refused and nothing else.
    disk.set_capacity(0);
    let mut more = 0;
    let refusal = loop {
        match block_on(quorum.create_topic(topic(&format!("u-{more}"), 100))) {
            Ok(_) => more += 1,
            Err(error) => break error,
        }
        assert!(more < 5_000, "the disk is never full");
    };
    assert!(
        matches!(refusal, MetadataError::DiskFull { .. }),
        "{refusal}"
    );
    assert!(!has_ended(&quorum));
}
