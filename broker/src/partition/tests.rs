//! One partition on a simulated disk: what becomes of its neighbours when its offsets contradict each other, and
//! what a new leader epoch changes.

use std::path::Path;
use std::sync::mpsc::channel;

use logweir_proto::record::{BatchBuilder, Compression, RecordBatch};
use logweir_proto::{ErrorCode, ProducerEpoch, ProducerId, Sequence};
use logweir_storage::disk::{DiskOp, SimDisk};
use logweir_storage::{FlushPolicy, LogDirConfig};

use super::*;

const NODE: NodeId = NodeId::new(1);

fn log_dir(disk: &SimDisk) -> Arc<LogDir> {
    let config = LogDirConfig {
        reserve_bytes: 0,
        ..LogDirConfig::default()
    };
    LogDir::open(Arc::new(disk.clone()), Path::new("/"), config).unwrap()
}

/// A partition that flushes per ack.
fn partition(log_dir: &Arc<LogDir>, topic: &str, leader_epoch: i32) -> Arc<Partition> {
    partition_of(log_dir, topic, TopicId::random(), leader_epoch)
}

fn partition_of(
    log_dir: &Arc<LogDir>,
    topic: &str,
    topic_id: TopicId,
    leader_epoch: i32,
) -> Arc<Partition> {
    let spec = PartitionSpec {
        topic: Arc::from(topic),
        topic_id,
        partition: PartitionId::new(0),
        leader_epoch: LeaderEpoch::new(leader_epoch),
        isr: vec![NODE],
        config: LogConfig {
            flush: FlushPolicy {
                per_ack: true,
                ..FlushPolicy::default()
            },
            ..LogConfig::default()
        },
        max_message_bytes: 1 << 20,
    };
    Partition::open(log_dir, NODE, spec, &Clock::default(), &Arc::default()).unwrap()
}

/// Puts it where an event that never was would have put it.
fn contradict(partition: &Partition) {
    let contradiction = (Offset::new(10), Offset::new(0), Offset::new(5));
    partition.state.lock().progress = Progress::new(NODE, vec![NODE], true, contradiction);
}

fn batch() -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .append(Timestamp::new(1), None, Some(b"v"), &[])
        .unwrap();
    RecordBatch::from_bytes(builder.build().unwrap()).unwrap()
}

/// Waits for the acknowledgement, unless it is due at once because the flush has overtaken the append's last steps.
fn acknowledged(appended: Appended) {
    if let Some(ack) = appended.ack {
        assert_eq!(ack.blocking_recv(), Ok(Ok(())));
    }
}

/// A broken invariant used to be an assertion. On the group-commit thread, which moves the durable end of every
/// partition, it ended that thread: no topic of the broker that flushes per ack was acknowledged any more.
#[test]
fn offsets_out_of_order_end_their_partition_and_the_group_commit_thread_goes_on_for_the_others() {
    let disk = SimDisk::new(1 << 30);
    let dir = log_dir(&disk);
    let (sick, sound) = (partition(&dir, "sick", 0), partition(&dir, "sound", 0));
    let (entered, at_sync) = channel();
    let (release, released) = channel::<()>();
    let gate = Mutex::new((entered, released));
    disk.set_hook(Some(Arc::new(move |op, _: &Path| {
        if op == DiskOp::Sync {
            let gate = gate.lock();
            let _ = gate.0.send(());
            let _ = gate.1.recv();
        }
    })));
    let ack = sick.append(&batch(), AckWait::Leader).unwrap().ack.unwrap();
    at_sync.recv().unwrap();
    contradict(&sick);
    drop(release);

    let refused = ack.blocking_recv().unwrap().unwrap_err();
    assert_eq!(refused.code, ErrorCode::KafkaStorageError);
    assert!(refused.message.contains("topic \"sick\""), "{refused}");
    assert!(refused.message.contains("out of order"), "{refused}");
    assert_eq!(sick.broken(), Some(&refused));
    assert_eq!(sick.append(&batch(), AckWait::None).unwrap_err(), refused);

    acknowledged(sound.append(&batch(), AckWait::Leader).unwrap());
    assert_eq!(sound.broken(), None);
    sick.close(&refused).unwrap();
}

/// A broken partition used to be closed like any other: the clean mark covered it, and the next start took the log that
/// contradicted the offsets for the truth without a look, although its error says that a restart checks it.
#[test]
fn the_log_of_a_broken_partition_is_scanned_at_the_next_start_and_no_other() {
    let disk = SimDisk::new(1 << 30);
    let dir = log_dir(&disk);
    let ids = [("sick", TopicId::random()), ("sound", TopicId::random())];
    for (topic, id) in ids {
        let partition = partition_of(&dir, topic, id, 0);
        acknowledged(partition.append(&batch(), AckWait::Leader).unwrap());
        if topic == "sick" {
            contradict(&partition);
            let refused = partition.append(&batch(), AckWait::Leader);
            let _ = refused.map(|appended| appended.ack.map(|ack| ack.blocking_recv()));
            assert!(partition.broken().is_some());
        }
        dir.flush_all().unwrap();
        partition.close(&ApiError::storage("the end")).unwrap();
    }
    dir.close().unwrap();
    drop(dir);

    // What only a scan finds: the first batch is not what was written.
    for (topic, id) in ids {
        let log = format!("/logs/{topic}/0-{id}/00000000000000000000.log");
        disk.flip_bit(Path::new(&log), 66, 1).unwrap();
    }
    let dir = log_dir(&disk);
    assert!(dir.was_clean());
    let ends = ids.map(|(topic, id)| {
        let partition = partition_of(&dir, topic, id, 0);
        partition.log().log_end_offset().get()
    });
    assert_eq!(ends, [0, 1]);
}

#[test]
fn a_new_leader_epoch_stamps_the_next_batch_and_fences_who_knows_the_old_one() {
    let disk = SimDisk::new(1 << 30);
    let partition = partition(&log_dir(&disk), "orders", 4);
    partition.append(&batch(), AckWait::None).unwrap();
    let old = LeaderEpoch::new(4);
    partition.check_epoch(Some(old)).unwrap();

    partition.lead_in(LeaderEpoch::new(5));
    partition.lead_in(LeaderEpoch::new(3));
    let refused = partition.check_epoch(Some(old)).unwrap_err();
    assert_eq!(refused.code, ErrorCode::FencedLeaderEpoch);
    partition.append(&batch(), AckWait::None).unwrap();
    let log = partition.log();
    assert_eq!(log.leader_epoch_of(Offset::new(0)), old);
    assert_eq!(log.leader_epoch_of(Offset::new(1)), LeaderEpoch::new(5));
    // What KIP-101 asks: where the old epoch ended.
    assert_eq!(log.end_offset_of_epoch(old), Some((old, Offset::new(1))));
}

#[test]
fn a_batch_that_its_producer_repeats_is_known_as_a_duplicate() {
    let disk = SimDisk::new(1 << 30);
    let partition = partition(&log_dir(&disk), "orders", 0);
    let mut builder = BatchBuilder::new(Compression::None);
    let (id, epoch) = (ProducerId::new(7), ProducerEpoch::new(0));
    builder.producer(id, epoch, Sequence::new(0));
    builder
        .append(Timestamp::new(1), None, Some(b"v"), &[])
        .unwrap();
    let batch = RecordBatch::from_bytes(builder.build().unwrap()).unwrap();
    for duplicate in [false, true] {
        let appended = partition.append(&batch, AckWait::None).unwrap();
        assert_eq!(appended.duplicate, duplicate);
        assert_eq!(appended.base_offset, Offset::new(0));
    }
}

/// Deleting records used to hold the partition's lock while the new log start was synced: appends, metrics and the
/// group-commit thread stood still for as long as the disk took.
#[test]
fn appends_go_on_while_a_new_log_start_is_being_synced() {
    let disk = SimDisk::new(1 << 30);
    let partition = partition(&log_dir(&disk), "orders", 0);
    acknowledged(partition.append(&batch(), AckWait::Leader).unwrap());
    let (entered, at_sync) = channel();
    let (release, released) = channel::<()>();
    let gate = Mutex::new((entered, released));
    disk.set_hook(Some(Arc::new(move |op, path: &Path| {
        if op == DiskOp::Sync && path.to_string_lossy().contains("log-state") {
            let gate = gate.lock();
            let _ = gate.0.send(());
            let _ = gate.1.recv();
        }
    })));
    let deleting = Arc::clone(&partition);
    let deletion = std::thread::spawn(move || deleting.delete_records(None));
    at_sync.recv().unwrap();
    let (appended, answer) = channel();
    let appending = Arc::clone(&partition);
    std::thread::spawn(move || {
        let offset = appending
            .append(&batch(), AckWait::None)
            .unwrap()
            .base_offset;
        appended.send(offset)
    });
    let offset = answer.recv_timeout(std::time::Duration::from_secs(30));
    assert_eq!(
        partition.log().log_start_offset(),
        Offset::new(0),
        "not durable yet"
    );
    drop(release);
    assert_eq!(
        offset,
        Ok(Offset::new(1)),
        "the append waited for the deletion"
    );
    assert_eq!(deletion.join().unwrap(), Ok(Offset::new(1)));
    assert_eq!(partition.log().log_start_offset(), Offset::new(1));
}
