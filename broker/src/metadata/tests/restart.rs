//! What a broker's new run changes: leader epochs after a restart that may have cost records, and logs of older
//! versions.

use super::super::controller::plan;
use super::*;
use logweir_proto::grpc::internal::{FeatureLevelRecord, Proposal, Record, record::Kind};

/// Starts a quorum with two partitions, registered on `boot-1`.
fn with_topic(disk: &SimDisk) -> Quorum {
    let quorum = block_on(registered(config(disk)));
    block_on(quorum.create_topic(topic("orders", 2))).unwrap();
    quorum
}

fn epochs(quorum: &Quorum) -> Vec<(i32, i32)> {
    let image = quorum.image();
    let partitions = &image.topic("orders").unwrap().partitions;
    let epochs = partitions
        .iter()
        .map(|partition| (partition.leader_epoch.get(), partition.partition_epoch));
    epochs.collect()
}

fn register(quorum: &Quorum, was_clean: bool, boot_id: &str) {
    let registration = BrokerRegistration {
        was_clean,
        boot_id: boot_id.to_owned(),
        ..registration()
    };
    block_on(quorum.register_broker(registration)).unwrap();
}

/// After a power cut a topic that flushes as `os` may have lost its end. The leader epoch did not grow, so new
/// records took the lost offsets under the same epoch, and a consumer beyond them never noticed (KIP-320).
#[test]
fn a_restart_that_may_have_cost_records_gives_every_led_partition_a_new_leader_epoch() {
    let disk = memory();
    let quorum = with_topic(&disk);
    assert_eq!(epochs(&quorum), [(0, 0); 2]);
    // Closed, or only the process was killed: nothing was lost.
    register(&quorum, true, "boot-1");
    register(&quorum, false, "boot-1");
    register(&quorum, true, "boot-2");
    assert_eq!(epochs(&quorum), [(0, 0); 2]);
    register(&quorum, false, "boot-3");
    assert_eq!(epochs(&quorum), [(1, 1); 2]);
    // A boot that is not known counts as another one.
    register(&quorum, false, "");
    register(&quorum, false, "");
    assert_eq!(epochs(&quorum), [(3, 3); 2]);
    block_on(quorum.shutdown());
    let again = block_on(Quorum::start(config(&disk))).unwrap();
    assert_eq!(epochs(&again), [(3, 3); 2]);
}

/// The running file names the new boot as soon as the data directory is open. A run that is killed between that and
/// its registration must not take the notice with it.
#[test]
fn a_run_that_never_registered_does_not_hide_the_boot_that_cost_records() {
    let disk = memory();
    block_on(with_topic(&disk).shutdown());
    // On boot-2 a first run only opened the directory; the second run finds its running file and registers.
    block_on(block_on(Quorum::start(config(&disk))).unwrap().shutdown());
    let quorum = block_on(Quorum::start(config(&disk))).unwrap();
    register(&quorum, false, "boot-2");
    assert_eq!(epochs(&quorum), [(1, 1); 2]);
    register(&quorum, false, "boot-2");
    assert_eq!(epochs(&quorum), [(1, 1); 2]);
}

#[test]
fn only_the_partitions_that_the_broker_leads_get_new_epochs_by_one_small_record() {
    let quorum = with_topic(&memory());
    block_on(quorum.create_topic(topic("wide", 10_000))).unwrap();
    let mut image = Image::clone(&quorum.image());
    let id = image.topic("orders").unwrap().id;
    let id = bytes::Bytes::copy_from_slice(&id.get());
    let mut elsewhere = image.topic("orders").unwrap().partitions[1].to_record(&id, 1);
    elsewhere.leader = 7;
    let kind = Some(Kind::Partition(elsewhere));
    let records = vec![Record { kind }];
    let proposal = Proposal {
        planned_on: 0,
        records,
    };
    image = image.apply(90, &proposal).unwrap();
    let lost = BrokerRegistration {
        was_clean: false,
        boot_id: "boot-9".to_owned(),
        ..registration()
    };
    let rules = config(&memory()).rules();
    let planned = plan(&Request::RegisterBroker(lost), &image, &rules).unwrap();
    assert_eq!(planned.records.len(), 2);
    let proposal = Proposal {
        planned_on: 0,
        records: planned.records,
    };
    assert!(prost::Message::encoded_len(&proposal) < 500);
    let after = image.apply(91, &proposal).unwrap();
    let orders = &after.topic("orders").unwrap().partitions;
    assert_eq!(orders[0].leader_epoch.get(), 1);
    assert_eq!(*orders[1], *image.topic("orders").unwrap().partitions[1]);
    let wide = &after.topic("wide").unwrap().partitions;
    assert!(wide.iter().all(|one| one.leader_epoch.get() == 1));
}

/// `testdata/log-level-1` was written by the version before new leader epochs: node 1, a topic "orders" of two
/// partitions, one block of producer ids.
#[test]
fn a_log_of_an_older_version_opens_and_its_feature_level_is_raised() {
    let disk = memory();
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).unwrap();
    let log = include_bytes!("../testdata/log-level-1");
    logweir_storage::disk::replace_file(&disk, &dir.join("log"), log).unwrap();
    let quorum = block_on(Quorum::start(config(&disk))).unwrap();
    assert_eq!(epochs(&quorum), [(0, 0); 2]);
    assert_eq!(quorum.image().features["metadata"], 2);
    assert_eq!(quorum.image().brokers[&NODE].boot_id, None);
    assert_eq!(
        block_on(quorum.allocate_producer_ids()).unwrap().start,
        PRODUCER_ID_BLOCK
    );
    // Nobody knows on which boot the older version ran.
    register(&quorum, false, "boot-1");
    assert_eq!(epochs(&quorum), [(1, 1); 2]);
}

#[test]
fn deleted_topics_are_remembered_over_a_restart_and_only_so_many() {
    let disk = memory();
    let quorum = with_topic(&disk);
    let id = block_on(quorum.delete_topic("orders")).unwrap();
    block_on(quorum.create_topic(topic("orders", 1))).unwrap();
    block_on(quorum.shutdown());
    let image = block_on(Quorum::start(config(&disk))).unwrap().image();
    assert!(image.was_deleted(&id));
    assert!(!image.was_deleted(&image.topic("orders").unwrap().id));
    let restored = state_machine::decode_image(state_machine::encode_image(&image).into());
    assert!(restored.unwrap().was_deleted(&id));

    let level = Kind::FeatureLevel(FeatureLevelRecord::default());
    let mut records = vec![Record { kind: Some(level) }];
    let ids = (0..5_000_u32).map(|number| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        bytes::Bytes::copy_from_slice(&id)
    });
    records.push(Record {
        kind: Some(Kind::DeletedTopics(
            logweir_proto::grpc::internal::DeletedTopicsRecord {
                topic_ids: ids.collect(),
            },
        )),
    });
    let image = Image::from_records(1, &records).unwrap();
    let is_known = |number: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        image.was_deleted(&TopicId::new(id))
    };
    assert!(!is_known(903) && is_known(904) && is_known(4_999));
}
