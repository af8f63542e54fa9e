//! The active controller's decisions: a request and an image give records, or a refusal.
//!
//! Pure but for the ids it draws. What it decides is written as results, so applying needs no decision.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use logweir_proto::grpc::internal::record::Kind;
use logweir_proto::grpc::internal::{
    ClusterRecord, ConfigResource, FeatureLevelRecord, NewLeaderEpochsRecord, ProducerIdsRecord,
    Record, RegisterBrokerRecord, RemoveTopicRecord, TopicRecord,
};
use logweir_proto::{LeaderEpoch, NodeId, TopicId};

use super::error::MetadataError;
use super::image::{BrokerAddresses, Image, PartitionImage, TopicImage, config_record};
use super::placement::place;
use super::topic_name::{check_topic_name, is_internal_name, shortened};

/// The most partitions a topic may have.
pub(crate) const MAX_PARTITIONS_PER_TOPIC: i32 = 10_000;
/// How many producer ids are handed out at once.
pub(crate) const PRODUCER_ID_BLOCK: i64 = 1_000;
/// The most settings a topic may have.
const MAX_CONFIGS: usize = 100;
/// The most bytes of a topic's settings, names and values together.
const MAX_CONFIG_BYTES: usize = 64 << 10;
/// The most bytes of an address, a rack or a version.
const MAX_LABEL: usize = 1_024;
/// The level of these records: 2 added new leader epochs and deleted topics.
const METADATA_LEVEL: u32 = 2;

/// Checks a topic's settings as they would be after a change.
pub(crate) type CheckTopicConfigs = fn(&BTreeMap<String, String>) -> Result<(), String>;

/// What the controller needs to know besides the image.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) max_topics: u64,
    pub(super) max_partitions: u64,
    pub(super) check_topic_configs: CheckTopicConfigs,
}

/// A topic to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewTopic {
    /// 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'; not "." or "..".
    pub(crate) name: String,
    /// From 1 to [`MAX_PARTITIONS_PER_TOPIC`].
    pub(crate) partitions: i32,
    /// From 1 to the number of brokers that are not fenced.
    pub(crate) replication_factor: i16,
    /// Settings by Kafka's names; at most 100, and 64 KiB.
    pub(crate) configs: BTreeMap<String, String>,
}

/// A broker that begins a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerRegistration {
    /// Its node id, from 0.
    pub(crate) node_id: NodeId,
    /// Its data directory's id.
    pub(crate) directory_id: [u8; 16],
    /// Where its listeners are reached.
    pub(crate) addresses: BrokerAddresses,
    /// Its rack.
    pub(crate) rack: Option<String>,
    /// Whether its last run closed the data directory.
    pub(crate) was_clean: bool,
    /// The boot of its machine, as [`Disk::boot_id`](logweir_storage::disk::Disk::boot_id) names it; empty if that
    /// is not known, which counts as another boot than any before.
    pub(crate) boot_id: String,
}

/// What a caller asks of the controller.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Give the cluster its id, if it has none.
    FormCluster,
    RegisterBroker(BrokerRegistration),
    CreateTopic {
        topic: NewTopic,
        /// Whether the broker itself asks, so that internal names are allowed.
        internal: bool,
    },
    DeleteTopic(String),
    CreatePartitions {
        name: String,
        total: i32,
    },
    AlterConfigs {
        name: String,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    },
    AllocateProducerIds(NodeId),
}

/// Records to write, and what to answer when they are.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) records: Vec<Record>,
    pub(super) outcome: Outcome,
}

/// What to answer once the records are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The broker's epoch, which the log gives.
    BrokerEpoch(NodeId),
    /// The topic of this id, as it is then.
    Topic(TopicId),
    DeletedTopic(TopicId),
    ProducerIds(Range<i64>),
}

/// Decides.
///
/// # Errors
/// [`MetadataError`] if the request is refused; nothing is to be written then.
pub(super) fn plan(request: &Request, image: &Image, rules: &Rules) -> Result<Plan, MetadataError> {
    match request {
        Request::FormCluster => Ok(form_cluster(image)),
        Request::RegisterBroker(registration) => register_broker(registration, image),
        Request::CreateTopic { topic, internal } => create_topic(topic, *internal, image, rules),
        Request::DeleteTopic(name) => delete_topic(name, image),
        Request::CreatePartitions { name, total } => create_partitions(name, *total, image, rules),
        Request::AlterConfigs { name, set, unset } => alter_configs(name, set, unset, image, rules),
        Request::AllocateProducerIds(node_id) => allocate_producer_ids(*node_id, image),
    }
}

fn form_cluster(image: &Image) -> Plan {
    let mut kinds = Vec::new();
    if image.cluster_id.is_empty() {
        let cluster_id = TopicId::random().to_string();
        kinds.push(Kind::Cluster(ClusterRecord { cluster_id }));
    }
    let name = "metadata".to_owned();
    if image
        .features
        .get(&name)
        .is_none_or(|level| *level < METADATA_LEVEL)
    {
        kinds.push(Kind::FeatureLevel(FeatureLevelRecord {
            name,
            level: METADATA_LEVEL,
        }));
    }
    Plan {
        records: records(kinds),
        outcome: Outcome::Done,
    }
}

fn register_broker(
    registration: &BrokerRegistration,
    image: &Image,
) -> Result<Plan, MetadataError> {
    let BrokerRegistration {
        node_id,
        directory_id,
        addresses,
        rack,
        boot_id,
        was_clean: _,
    } = registration;
    if node_id.get() < 0 {
        let reason = format!("the node id {node_id} is negative");
        return Err(MetadataError::InvalidRegistration { reason });
    }
    let labels = [&addresses.grpc, &addresses.kafka, &addresses.http, rack];
    if let Some(long) = labels
        .into_iter()
        .flatten()
        .chain([boot_id])
        .find(|label| label.len() > MAX_LABEL)
    {
        let reason = format!(
            "an address, rack or boot id has {} bytes, at most {MAX_LABEL} fit",
            long.len()
        );
        return Err(MetadataError::InvalidRegistration { reason });
    }
    if let Some(known) = image.brokers.get(node_id)
        && known.directory_id != *directory_id
    {
        return Err(MetadataError::DirectoryMismatch {
            node_id: *node_id,
            registered: super::hex(&known.directory_id),
            given: super::hex(directory_id),
        });
    }
    let record = RegisterBrokerRecord {
        node_id: node_id.get(),
        directory_id: Bytes::copy_from_slice(directory_id),
        grpc_address: addresses.grpc.clone(),
        kafka_address: addresses.kafka.clone(),
        http_address: addresses.http.clone(),
        rack: rack.clone(),
        fenced: false,
        broker_epoch: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: (!boot_id.is_empty()).then(|| boot_id.clone()),
    };
    let mut kinds = vec![Kind::RegisterBroker(record)];
    if may_have_lost_records(registration, image) && image.leads_any(*node_id) {
        let node_id = node_id.get();
        kinds.push(Kind::NewLeaderEpochs(NewLeaderEpochsRecord { node_id }));
    }
    Ok(Plan {
        records: records(kinds),
        outcome: Outcome::BrokerEpoch(*node_id),
    })
}

/// Whether the ends of the broker's logs may be gone: its last run did not close them, and was on another boot, so
/// that the page cache did not survive it. What counts is the boot of the last *registration*: a run that was
/// killed before it registered has told nobody about new leader epochs.
fn may_have_lost_records(registration: &BrokerRegistration, image: &Image) -> bool {
    let last_boot = image
        .brokers
        .get(&registration.node_id)
        .and_then(|known| known.boot_id.as_deref());
    let same_boot = !registration.boot_id.is_empty() && last_boot == Some(&registration.boot_id);
    !registration.was_clean && !same_boot
}

fn create_topic(
    topic: &NewTopic,
    internal: bool,
    image: &Image,
    rules: &Rules,
) -> Result<Plan, MetadataError> {
    let NewTopic {
        name,
        partitions,
        replication_factor,
        configs,
    } = topic;
    check_topic_name(name)?;
    if is_internal_name(name) && !internal {
        return Err(MetadataError::InternalTopic { name: name.clone() });
    }
    if image.topic(name).is_some() {
        return Err(MetadataError::TopicExists { name: name.clone() });
    }
    if let Some(existing) = image.colliding_topic(name) {
        let (name, existing) = (name.clone(), existing.to_string());
        return Err(MetadataError::TopicNameCollides { name, existing });
    }
    check_partitions(*partitions)?;
    check_configs(configs, rules)?;
    check_limit("topics", image.topics.len() as u64 + 1, rules.max_topics)?;
    let id = TopicId::random();
    let topic_id = Bytes::copy_from_slice(&id.get());
    let mut kinds = vec![Kind::Topic(TopicRecord {
        name: name.clone(),
        topic_id: topic_id.clone(),
    })];
    kinds.extend(new_partitions(
        &id,
        0,
        *partitions,
        *replication_factor,
        image,
        rules,
    )?);
    for (key, value) in configs {
        kinds.push(config_record(ConfigResource::Topic, name, key, Some(value)));
    }
    Ok(Plan {
        records: records(kinds),
        outcome: Outcome::Topic(id),
    })
}

fn delete_topic(name: &str, image: &Image) -> Result<Plan, MetadataError> {
    let topic = existing(name, image)?;
    if topic.is_internal() {
        return Err(MetadataError::InternalTopic {
            name: name.to_owned(),
        });
    }
    let topic_id = Bytes::copy_from_slice(&topic.id.get());
    Ok(Plan {
        records: records([Kind::RemoveTopic(RemoveTopicRecord { topic_id })]),
        outcome: Outcome::DeletedTopic(topic.id),
    })
}

fn create_partitions(
    name: &str,
    total: i32,
    image: &Image,
    rules: &Rules,
) -> Result<Plan, MetadataError> {
    let topic = existing(name, image)?;
    if topic.is_internal() {
        return Err(MetadataError::InternalTopic {
            name: name.to_owned(),
        });
    }
    let present = topic.partition_count();
    check_partitions(total)?;
    if total <= present {
        let reason = format!("topic {name:?} has {present}, and the new total must be larger");
        return Err(MetadataError::InvalidPartitions {
            partitions: total,
            reason,
        });
    }
    let factor = i16::try_from(topic.replication_factor()).unwrap_or(i16::MAX);
    let added = new_partitions(&topic.id, present, total - present, factor, image, rules)?;
    Ok(Plan {
        records: records(added),
        outcome: Outcome::Topic(topic.id),
    })
}

fn alter_configs(
    name: &str,
    set: &BTreeMap<String, String>,
    unset: &[String],
    image: &Image,
    rules: &Rules,
) -> Result<Plan, MetadataError> {
    let topic = existing(name, image)?;
    if let Some(both) = unset.iter().find(|key| set.contains_key(*key)) {
        let reason = format!("setting {:?} is both set and unset", shortened(both));
        return Err(MetadataError::InvalidConfig { reason });
    }
    let mut configs = topic.configs.clone();
    configs.retain(|key, _| !unset.contains(key));
    configs.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    check_configs(&configs, rules)?;
    let changed = set
        .iter()
        .filter(|(key, value)| topic.configs.get(*key) != Some(value));
    let removed = unset.iter().filter(|key| topic.configs.contains_key(*key));
    let mut kinds: Vec<Kind> = changed
        .map(|(key, value)| config_record(ConfigResource::Topic, name, key, Some(value)))
        .collect();
    kinds.extend(removed.map(|key| config_record(ConfigResource::Topic, name, key, None)));
    Ok(Plan {
        records: records(kinds),
        outcome: Outcome::Done,
    })
}

fn allocate_producer_ids(node_id: NodeId, image: &Image) -> Result<Plan, MetadataError> {
    let first = image.next_producer_id.get();
    let next_producer_id = first
        .checked_add(PRODUCER_ID_BLOCK)
        .ok_or(MetadataError::ProducerIdsExhausted)?;
    let record = ProducerIdsRecord {
        next_producer_id,
        node_id: node_id.get(),
    };
    Ok(Plan {
        records: records([Kind::ProducerIds(record)]),
        outcome: Outcome::ProducerIds(first..next_producer_id),
    })
}

fn existing<'a>(name: &str, image: &'a Image) -> Result<&'a TopicImage, MetadataError> {
    image
        .topic(name)
        .map(|topic| &**topic)
        .ok_or_else(|| MetadataError::UnknownTopic {
            name: shortened(name),
        })
}

fn check_partitions(partitions: i32) -> Result<(), MetadataError> {
    if (1..=MAX_PARTITIONS_PER_TOPIC).contains(&partitions) {
        return Ok(());
    }
    let reason = format!("a topic has 1 to {MAX_PARTITIONS_PER_TOPIC}");
    Err(MetadataError::InvalidPartitions { partitions, reason })
}

fn check_limit(what: &'static str, would_be: u64, limit: u64) -> Result<(), MetadataError> {
    if would_be > limit {
        return Err(MetadataError::LimitReached {
            what,
            would_be,
            limit,
        });
    }
    Ok(())
}

fn check_configs(configs: &BTreeMap<String, String>, rules: &Rules) -> Result<(), MetadataError> {
    let refuse = |reason| Err(MetadataError::InvalidConfig { reason });
    if configs.len() > MAX_CONFIGS {
        return refuse(format!(
            "{} settings, at most {MAX_CONFIGS} fit",
            configs.len()
        ));
    }
    let bytes: usize = configs
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > MAX_CONFIG_BYTES {
        return refuse(format!(
            "settings of {bytes} bytes, at most {MAX_CONFIG_BYTES} fit"
        ));
    }
    (rules.check_topic_configs)(configs).or_else(refuse)
}

fn new_partitions(
    id: &TopicId,
    first: i32,
    count: i32,
    replication_factor: i16,
    image: &Image,
    rules: &Rules,
) -> Result<Vec<Kind>, MetadataError> {
    let available = image.active_brokers().count();
    let factor = usize::try_from(replication_factor).unwrap_or(0);
    if factor == 0 || factor > available {
        return Err(MetadataError::InvalidReplicationFactor {
            replication_factor,
            available,
        });
    }
    let (Ok(first_place), Ok(places)) = (usize::try_from(first), usize::try_from(count)) else {
        let reason = "the number is negative".to_owned();
        return Err(MetadataError::InvalidPartitions {
            partitions: count,
            reason,
        });
    };
    check_limit(
        "partitions",
        image.partition_count + places as u64,
        rules.max_partitions,
    )?;
    let topic_id = Bytes::copy_from_slice(&id.get());
    // The topic's random id spreads the first leaders of topics over the brokers.
    let start = usize::from(u16::from_le_bytes([topic_id[0], topic_id[1]]));
    let placed = place(image.active_brokers(), first_place, places, factor, start);
    let record = |(number, replicas): (i32, Vec<NodeId>)| {
        let partition = PartitionImage {
            leader: replicas.first().copied(),
            isr: replicas.clone(),
            replicas,
            leader_epoch: LeaderEpoch::new(0),
            ..PartitionImage::default()
        };
        Kind::Partition(partition.to_record(&topic_id, number))
    };
    Ok((first..).zip(placed).map(record).collect())
}

fn records(kinds: impl IntoIterator<Item = Kind>) -> Vec<Record> {
    kinds
        .into_iter()
        .map(|kind| Record { kind: Some(kind) })
        .collect()
}
