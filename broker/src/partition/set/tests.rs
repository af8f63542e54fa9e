//! The set of partitions on a simulated disk: what could not be opened is served once the reason has passed.

use std::io;
use std::path::Path;
use std::time::Instant;

use logweir_proto::grpc::internal::record::Kind;
use logweir_proto::grpc::internal::{PartitionRecord, Record, RemoveTopicRecord, TopicRecord};
use logweir_proto::record::{BatchBuilder, Compression, RecordBatch};
use logweir_storage::LogDirConfig;
use logweir_storage::disk::{Disk, DiskOp, SimDisk, SimFault};

use super::*;
use crate::partition::AckWait;

const NODE: i32 = 1;
const TOPIC: &str = "orders";
const ID: [u8; 16] = [3; 16];

fn record(kind: Kind) -> Record {
    Record { kind: Some(kind) }
}

/// The records of one topic that this node leads.
fn topic(partitions: i32, leader_epoch: i32) -> Vec<Record> {
    let topic_id = bytes::Bytes::copy_from_slice(&ID);
    let mut records = vec![record(Kind::Topic(TopicRecord {
        name: TOPIC.to_owned(),
        topic_id: topic_id.clone(),
    }))];
    records.extend((0..partitions).map(|partition| {
        record(Kind::Partition(PartitionRecord {
            topic_id: topic_id.clone(),
            partition,
            replicas: vec![NODE],
            isr: vec![NODE],
            leader: NODE,
            leader_epoch,
            ..PartitionRecord::default()
        }))
    }));
    records
}

fn image(records: &[Record]) -> Image {
    Image::from_records(1, records).unwrap()
}

fn set(disk: &SimDisk) -> Partitions {
    let config = LogDirConfig {
        reserve_bytes: 0,
        ..LogDirConfig::default()
    };
    let log_dir = LogDir::open(Arc::new(disk.clone()), Path::new("/"), config).unwrap();
    Partitions::new(
        NodeId::new(NODE),
        log_dir,
        Arc::new(Config::in_memory()),
        Clock::default(),
        Arc::default(),
    )
}

fn batch() -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    let timestamp = logweir_proto::Timestamp::new(1);
    builder.append(timestamp, None, Some(b"v"), &[]).unwrap();
    RecordBatch::from_bytes(builder.build().unwrap()).unwrap()
}

fn get(partitions: &Partitions, partition: i32) -> Result<Arc<Partition>, ApiError> {
    partitions.get(TOPIC, None, PartitionId::new(partition))
}

/// A partition whose log could not be opened, say for a full disk, used to stay offline until a restart.
#[test]
fn a_partition_that_met_a_full_disk_is_served_once_there_is_room() {
    let disk = SimDisk::new(1 << 30);
    let partitions = set(&disk);
    let full = SimFault::new(io::ErrorKind::StorageFull).on(DiskOp::CreateDir);
    disk.inject(full.under("/logs").forever());
    partitions.apply(&image(&topic(2, 0)));
    let refused = get(&partitions, 0).unwrap_err();
    assert_eq!(refused.code, logweir_proto::ErrorCode::KafkaStorageError);
    assert_eq!(partitions.retry_offline(), 0);
    assert_eq!(get(&partitions, 0).unwrap_err(), refused);

    disk.clear_faults();
    assert_eq!(partitions.retry_offline(), 2);
    assert!(get(&partitions, 0).is_ok() && get(&partitions, 1).is_ok());
    assert_eq!(partitions.retry_offline(), 0);
}

#[test]
fn one_call_opens_at_most_a_hundred_and_the_next_begins_with_the_others() {
    let disk = SimDisk::new(1 << 30);
    let partitions = set(&disk);
    disk.inject(
        SimFault::errno(24)
            .on(DiskOp::CreateDir)
            .under("/logs")
            .forever(),
    );
    partitions.apply(&image(&topic(150, 0)));
    let tried = || {
        let slots = partitions.slots(TOPIC);
        let tries = slots.iter().map(|slot| match slot {
            Slot::Offline(offline) => offline.tries.unwrap(),
            _ => 0,
        });
        tries.collect::<Vec<_>>()
    };
    partitions.retry_offline();
    assert_eq!(tried().iter().sum::<u64>(), 100);
    partitions.retry_offline();
    assert!(tried().iter().all(|tries| *tries >= 1), "{:?}", tried());
    disk.clear_faults();
    assert_eq!(partitions.retry_offline(), 100);
    assert_eq!(partitions.retry_offline(), 50);
}

#[test]
fn a_corrupt_log_is_not_tried_again() {
    let disk = SimDisk::new(1 << 30);
    let partitions = set(&disk);
    partitions.apply(&image(&topic(1, 0)));
    let partition = get(&partitions, 0).unwrap();
    if let Some(ack) = partition.append(&batch(), AckWait::Leader).unwrap().ack {
        ack.blocking_recv().unwrap().unwrap();
    }
    assert_eq!(partition.delete_records(None).unwrap().get(), 1);
    drop(partition);
    partitions.close().unwrap();
    drop(partitions);
    let dir = Path::new("/logs").join(TOPIC);
    let log = dir.join(&disk.list(&dir).unwrap()[0].name);
    disk.flip_bit(&log.join("log-state"), 20, 1).unwrap();

    let partitions = set(&disk);
    partitions.apply(&image(&topic(1, 0)));
    let corrupt = get(&partitions, 0).unwrap_err();
    assert!(corrupt.message.contains("corrupt"), "{corrupt}");
    let looked = disk.operations_of(DiskOp::Open);
    assert_eq!(partitions.retry_offline(), 0);
    assert_eq!(disk.operations_of(DiskOp::Open), looked);
    assert_eq!(get(&partitions, 0).unwrap_err(), corrupt);
}

#[test]
fn in_a_failed_data_directory_nothing_is_tried_again() {
    let disk = SimDisk::new(1 << 30);
    let partitions = set(&disk);
    partitions.apply(&image(&topic(1, 0)));
    disk.inject(SimFault::errno(24).on(DiskOp::CreateDir).under("/logs"));
    partitions.apply(&image(&topic(2, 0)));
    assert!(get(&partitions, 1).is_err());
    let partition = get(&partitions, 0).unwrap();
    disk.inject(SimFault::errno(5).on(DiskOp::Sync).under("/logs"));
    partition.append(&batch(), AckWait::None).unwrap();
    // Asks for a flush, which fails.
    partition.set_config(LogConfig::default(), 1 << 20);
    let deadline = Instant::now() + Duration::from_secs(30);
    while partitions.log_dir.offline().is_none() {
        assert!(
            Instant::now() < deadline,
            "the directory does not go offline"
        );
        std::thread::yield_now();
    }
    assert_eq!(partitions.retry_offline(), 0);
    assert!(get(&partitions, 1).is_err());
}

#[test]
fn a_leader_epoch_of_a_later_image_reaches_the_open_partition() {
    let disk = SimDisk::new(1 << 30);
    let partitions = set(&disk);
    partitions.apply(&image(&topic(1, 0)));
    assert_eq!(get(&partitions, 0).unwrap().leader_epoch().get(), 0);
    partitions.apply(&image(&topic(1, 3)));
    assert_eq!(get(&partitions, 0).unwrap().leader_epoch().get(), 3);
}

/// Killed between the metadata's answer and the removal of the files, a broker used to leave a `.stray` folder of the
/// deleted topic behind for ever.
#[test]
fn the_logs_of_an_interrupted_topic_deletion_go_at_the_next_start_and_unknown_ones_are_set_aside() {
    let disk = SimDisk::new(1 << 30);
    let partitions = set(&disk);
    partitions.apply(&image(&topic(2, 0)));
    partitions.close().unwrap();
    drop(partitions);
    let names = || {
        let entries = disk
            .list(&Path::new("/logs").join(TOPIC))
            .unwrap_or_default();
        entries
            .into_iter()
            .map(|entry| entry.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 2);

    let mut records = topic(1, 0);
    let partitions = set(&disk);
    let existing = partitions.log_dir.existing_logs().unwrap();
    // Of this topic partition 1 was never made: nothing proves that it may go.
    partitions.set_strays_aside(&existing, &image(&records));
    let mut left = names();
    left.sort();
    assert!(
        left[0].starts_with("0-") && !left[0].ends_with(".stray"),
        "{left:?}"
    );
    assert!(
        left[1].starts_with("1-") && left[1].ends_with(".stray"),
        "{left:?}"
    );

    let topic_id = bytes::Bytes::copy_from_slice(&ID);
    records.push(record(Kind::RemoveTopic(RemoveTopicRecord { topic_id })));
    let existing = partitions.log_dir.existing_logs().unwrap();
    assert_eq!(existing.len(), 1);
    partitions.set_strays_aside(&existing, &image(&records));
    assert_eq!(names(), left[1..]);
    partitions.close().unwrap();
}

#[test]
fn who_listens_is_told_of_every_partition_that_is_led_or_no_longer_in_order() {
    let disk = SimDisk::new(1 << 30);
    let partitions = set(&disk);
    let full = SimFault::new(io::ErrorKind::StorageFull).on(DiskOp::CreateDir);
    disk.inject(full.under("/logs").forever());
    partitions.apply(&image(&topic(1, 3)));
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    partitions.listen(TOPIC, move |event| {
        tell.lock().push(match event {
            Leadership::Gained(partition, epoch) => (partition.id().get(), Some(epoch.get())),
            Leadership::Lost(partition) => (partition.get(), None),
        });
    });
    let taken = || std::mem::take(&mut *told.lock());
    assert_eq!(taken(), [(0, None)], "its log could not be opened");
    disk.clear_faults();
    assert_eq!(partitions.retry_offline(), 1);
    assert_eq!(taken(), [(0, Some(3))]);
    partitions.apply(&image(&topic(2, 4)));
    assert_eq!(taken(), [(0, Some(4)), (1, Some(4))]);
    partitions.apply(&Image::default());
    assert_eq!(taken(), [(0, None), (1, None)]);
}
