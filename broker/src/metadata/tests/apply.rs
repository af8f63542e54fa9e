//! Apply is pure: the same log gives the same image, by whatever snapshots the way led.

use super::super::controller::{Request, plan};
use super::super::quorum_files::open;
use super::super::raft::{Proposed, TypeConfig};
use super::super::raft_log::State;
use super::super::state_machine::{decode_image, encode_image};
use super::*;
use logweir_proto::grpc::internal::record::Kind;
use logweir_proto::grpc::internal::{
    ConfigRecord, FeatureLevelRecord, FenceBrokerRecord, PartitionRecord, Proposal, Record,
    UnfenceBrokerRecord, UnregisterBrokerRecord,
};
use openraft::storage::RaftStateMachine;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId};
use proptest::prelude::*;
use prost::Message;

/// A step of a history: what a caller may ask, or a record that the cluster will write.
#[derive(Clone, Debug)]
enum Step {
    Ask(Request),
    /// Changes partition `partition % count` of a topic.
    Partition {
        topic: String,
        partition: usize,
        record: PartitionRecord,
    },
    Fence {
        node: i32,
        fenced: bool,
    },
    Raw(Kind),
}

fn name() -> impl Strategy<Value = String> {
    "[a-c][._]?[a-c]?"
}

fn nodes() -> impl Strategy<Value = Vec<i32>> {
    prop::collection::vec(0..5i32, 0..4)
}

fn request() -> impl Strategy<Value = Request> {
    let configs = || prop::collection::btree_map("[x-z]", "[a-z]{0,3}", 0..3);
    let rack = prop::option::of("[r-t]");
    prop_oneof![
        Just(Request::FormCluster),
        (0..5i32, rack, any::<bool>(), "[b-c]?").prop_map(|(node, rack, was_clean, boot_id)| {
            let node_id = NodeId::new(node);
            Request::RegisterBroker(BrokerRegistration {
                node_id,
                rack,
                was_clean,
                boot_id,
                ..registration()
            })
        }),
        (name(), 1..6i32, 1..3i16, configs()).prop_map(|(name, partitions, factor, configs)| {
            let topic = NewTopic {
                name,
                partitions,
                replication_factor: factor,
                configs,
            };
            Request::CreateTopic {
                topic,
                internal: false,
            }
        }),
        name().prop_map(Request::DeleteTopic),
        (name(), 1..9i32).prop_map(|(name, total)| Request::CreatePartitions { name, total }),
        (name(), configs(), prop::collection::vec("[x-z]", 0..2))
            .prop_map(|(name, set, unset)| Request::AlterConfigs { name, set, unset }),
        (0..5i32).prop_map(|node| Request::AllocateProducerIds(NodeId::new(node))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let partition = (
        name(),
        0..9usize,
        nodes(),
        nodes(),
        nodes(),
        -1..5i32,
        0..9i32,
        nodes(),
    );
    prop_oneof![
        6 => request().prop_map(Step::Ask),
        2 => partition.prop_map(|(topic, partition, replicas, isr, elr, leader, epoch, parents)| {
            let record = PartitionRecord {
                replicas: replicas.clone(),
                isr,
                last_known_elr: elr.clone(),
                elr,
                adding_replicas: replicas.clone(),
                removing_replicas: replicas,
                leader,
                leader_epoch: epoch,
                partition_epoch: epoch + 1,
                parents,
                expansion_epoch: epoch,
                ..PartitionRecord::default()
            };
            Step::Partition { topic, partition, record }
        }),
        1 => (0..5i32, any::<bool>()).prop_map(|(node, fenced)| Step::Fence { node, fenced }),
        1 => (0..5i32).prop_map(|node_id| {
            Step::Raw(Kind::UnregisterBroker(UnregisterBrokerRecord { node_id }))
        }),
        1 => ("[f-h]", 1..4u32).prop_map(|(name, level)| {
            Step::Raw(Kind::FeatureLevel(FeatureLevelRecord { name, level }))
        }),
        1 => ("[0-2]?", "[x-z]", prop::option::of("[a-z]{0,3}")).prop_map(|(node, key, value)| {
            Step::Raw(Kind::Config(ConfigRecord {
                resource: 2,
                resource_name: node,
                key,
                value,
            }))
        }),
    ]
}

/// The records of a step on an image; none if it is refused.
fn decide(step: Step, image: &Image) -> Vec<Record> {
    let kind = match step {
        Step::Ask(request) => {
            let rules = config(&memory()).rules();
            return plan(&request, image, &rules).map_or(Vec::new(), |plan| plan.records);
        }
        Step::Partition {
            topic,
            partition,
            mut record,
        } => {
            let Some(topic) = image.topic(&topic) else {
                return Vec::new();
            };
            record.topic_id = bytes::Bytes::copy_from_slice(&topic.id.get());
            record.partition = i32::try_from(partition % topic.partitions.len()).unwrap();
            Kind::Partition(record)
        }
        Step::Fence { node, fenced } => {
            let node_id = node;
            let Some(broker) = image.brokers.get(&NodeId::new(node)) else {
                return Vec::new();
            };
            let broker_epoch = broker.epoch.get();
            if fenced {
                Kind::FenceBroker(FenceBrokerRecord {
                    node_id,
                    broker_epoch,
                })
            } else {
                Kind::UnfenceBroker(UnfenceBrokerRecord {
                    node_id,
                    broker_epoch,
                })
            }
        }
        Step::Raw(kind) => kind,
    };
    vec![Record { kind: Some(kind) }]
}

proptest! {
    #[test]
    fn the_image_from_a_snapshot_is_the_image_from_replay(
        steps in prop::collection::vec(step(), 1..60),
        snapshot_at in 0..60usize,
    ) {
        let mut image = Image::default();
        let mut history = Vec::new();
        for (index, step) in (1u64..).zip(steps) {
            let proposal = Proposal { planned_on: image.version, records: decide(step, &image) };
            image = image.apply(index, &proposal).unwrap();
            history.push((index, proposal.encode_to_vec()));
        }
        let mut replayed = Image::default();
        let mut by_snapshot = Image::default();
        for (number, (index, bytes)) in history.iter().enumerate() {
            let proposal = Proposal::decode(&bytes[..]).unwrap();
            replayed = replayed.apply(*index, &proposal).unwrap();
            by_snapshot = by_snapshot.apply(*index, &proposal).unwrap();
            if number == snapshot_at {
                by_snapshot = decode_image(encode_image(&by_snapshot).into()).unwrap();
            }
        }
        prop_assert_eq!(&replayed, &image);
        prop_assert_eq!(&by_snapshot, &image);
        let restored = decode_image(encode_image(&image).into()).unwrap();
        prop_assert_eq!(&restored, &image);
        prop_assert_eq!(encode_image(&restored), encode_image(&image));
        let partitions: usize = image.topics.values().map(|topic| topic.partitions.len()).sum();
        prop_assert_eq!(image.partition_count, partitions as u64);
        for topic in image.topics.values() {
            prop_assert_eq!(image.topic_by_id(&topic.id), Some(topic));
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_image(bytes.clone().into());
        let _ = State::default().replay(bytes.into());
    }
}

fn entry(index: u64, planned_on: u64, node_id: i32) -> Entry<TypeConfig> {
    let request = Request::AllocateProducerIds(NodeId::new(node_id));
    let image = Image::default();
    let records = plan(&request, &image, &config(&memory()).rules())
        .unwrap()
        .records;
    let proposal = Proposal {
        planned_on,
        records,
    };
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
        payload: EntryPayload::Normal(Proposed(proposal.encode_to_vec().into())),
    }
}

#[test]
fn of_two_decisions_made_on_one_version_only_the_first_takes_effect() {
    let publisher = Arc::new(Publisher::new());
    let mut machine = open(&config(&memory()), &publisher).unwrap().machine;
    // Both would hand out the ids from 0 on.
    let entries = [entry(4, 0, 1), entry(5, 0, 2)];
    let applied = block_on(machine.apply(entries)).unwrap();
    assert_eq!(
        applied
            .iter()
            .map(|applied| applied.accepted)
            .collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(publisher.image().version, 4);
    assert_eq!(publisher.image().next_producer_id.get(), PRODUCER_ID_BLOCK);
    let later = block_on(machine.apply([entry(6, 4, 1)])).unwrap();
    assert!(later[0].accepted);
}

#[test]
fn a_record_of_an_unknown_kind_stops_the_state_machine() {
    let publisher = Arc::new(Publisher::new());
    let mut machine = open(&config(&memory()), &publisher).unwrap().machine;
    let proposal = Proposal {
        planned_on: 0,
        records: vec![Record { kind: None }],
    };
    let unknown = Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 1), 0),
        payload: EntryPayload::Normal(Proposed(proposal.encode_to_vec().into())),
    };
    let refusal = block_on(machine.apply([unknown])).unwrap_err().to_string();
    assert!(refusal.contains("does not know"), "{refusal}");
    assert_eq!(publisher.image().version, 0);
}

#[test]
fn a_snapshot_takes_about_as_many_bytes_as_was_thought() {
    let quorum = block_on(registered(config(&memory())));
    for number in 0..50 {
        let configs = settings(&[("retention.ms", "86400000"), ("cleanup.policy", "compact")]);
        let new = NewTopic {
            configs,
            ..topic(&format!("t-{number:03}"), 1 + number)
        };
        block_on(quorum.create_topic(new)).unwrap();
    }
    let image = quorum.image();
    let (thought, found) = (image.rough_bytes(), encode_image(&image).len() as u64);
    assert!(
        thought >= found && thought < 4 * found + 10_000,
        "{thought} for {found}"
    );
}

#[test]
fn an_image_shares_what_did_not_change() {
    let quorum = block_on(registered(config(&memory())));
    for number in 0..300 {
        block_on(quorum.create_topic(topic(&format!("t-{number:03}"), 1))).unwrap();
    }
    let before = quorum.image();
    block_on(quorum.create_partitions("t-150", 2)).unwrap();
    let after = quorum.image();
    let shared = before
        .topics
        .values()
        .zip(after.topics.values())
        .filter(|(before, after)| Arc::ptr_eq(before, after))
        .count();
    assert_eq!(shared, 299);
    let (old, new) = (
        before.topic("t-150").unwrap(),
        after.topic("t-150").unwrap(),
    );
    assert!(Arc::ptr_eq(&old.partitions[0], &new.partitions[0]));
}
