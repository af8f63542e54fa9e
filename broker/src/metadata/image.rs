//! The cluster as this broker knows it: an immutable [`Image`], made from the last one and a record (`image/apply.rs`).
//! Parts that did not change are shared with the image before.

mod apply;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use logweir_proto::grpc::internal::record::Kind;
use logweir_proto::grpc::internal::{
    ClusterRecord, ConfigRecord, ConfigResource, DeletedTopicsRecord, FeatureLevelRecord,
    PartitionRecord, ProducerIdsRecord, Record, RegisterBrokerRecord, TopicRecord,
};
use logweir_proto::{BrokerEpoch, LeaderEpoch, NodeId, PartitionId, ProducerId, TopicId};

use super::sorted_map::SortedMap;

/// So many deleted topics are remembered.
pub(super) const DELETED_TOPICS: usize = 4_096;

/// The cluster's state at one version of the metadata log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Image {
    /// The index of the log entry that last changed this state; 0 before the first change.
    pub(crate) version: u64,
    /// The cluster's id; empty before the first change.
    pub(crate) cluster_id: Arc<str>,
    /// The topics by name.
    pub(crate) topics: SortedMap<Arc<str>, Arc<TopicImage>>,
    /// The registered brokers.
    pub(crate) brokers: Arc<BTreeMap<NodeId, BrokerImage>>,
    /// The active controller, as far as this node knows. Not part of the log.
    pub(crate) controller: Option<NodeId>,
    /// Feature levels by name; "metadata" is the log's own.
    pub(crate) features: Arc<BTreeMap<String, u32>>,
    /// Settings of brokers by node id, those of all brokers under "".
    pub(crate) broker_configs: Arc<BTreeMap<String, BTreeMap<String, String>>>,
    /// The first producer id that was not handed out.
    pub(crate) next_producer_id: ProducerId,
    /// How many partitions all topics have together.
    pub(crate) partition_count: u64,
    /// The topics deleted last, the newest at the end; at most [`DELETED_TOPICS`].
    deleted: Arc<VecDeque<TopicId>>,
    names_by_id: SortedMap<TopicId, Arc<str>>,
    /// Names with '.' read as '_', of those topics that have either.
    collisions: SortedMap<Arc<str>, Arc<str>>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopicImage {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its id.
    pub(crate) id: TopicId,
    /// The settings that were set for it, by Kafka's names.
    pub(crate) configs: BTreeMap<String, String>,
    /// Its partitions, by number.
    pub(crate) partitions: Vec<Arc<PartitionImage>>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PartitionImage {
    /// The nodes that hold it, the preferred leader first.
    pub(crate) replicas: Vec<NodeId>,
    /// The in-sync replicas.
    pub(crate) isr: Vec<NodeId>,
    /// The eligible leader replicas (KIP-966).
    pub(crate) elr: Vec<NodeId>,
    /// Who was eligible last, when nobody is any more.
    pub(crate) last_known_elr: Vec<NodeId>,
    /// Replicas being added by a reassignment.
    pub(crate) adding_replicas: Vec<NodeId>,
    /// Replicas being removed by a reassignment.
    pub(crate) removing_replicas: Vec<NodeId>,
    /// The leader, if there is one.
    pub(crate) leader: Option<NodeId>,
    /// The leader's term.
    pub(crate) leader_epoch: LeaderEpoch,
    /// Grows by one with every change of this partition.
    pub(crate) partition_epoch: i32,
    /// The partitions whose keys it took over in an ordered expansion.
    pub(crate) parents: Vec<PartitionId>,
    /// The expansion that made it; 0 for the topic's first partitions.
    pub(crate) expansion_epoch: i32,
}

/// A broker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BrokerImage {
    /// Its node id.
    pub(crate) node_id: NodeId,
    /// Its present run: the index of the log entry that registered it.
    pub(crate) epoch: BrokerEpoch,
    /// Its data directory.
    pub(crate) directory_id: [u8; 16],
    /// Where its listeners are reached.
    pub(crate) addresses: BrokerAddresses,
    /// Its rack.
    pub(crate) rack: Option<String>,
    /// Whether it is kept from leading partitions.
    pub(crate) fenced: bool,
    /// The program's version.
    pub(crate) version: String,
    /// The boot of its machine, if it is known.
    pub(crate) boot_id: Option<String>,
}

/// Where a broker's listeners are reached, each HOST:PORT; `None` where it has no such listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BrokerAddresses {
    /// gRPC.
    pub(crate) grpc: Option<String>,
    /// Kafka's protocol.
    pub(crate) kafka: Option<String>,
    /// HTTP.
    pub(crate) http: Option<String>,
}

/// A record that does not fit the image: the log is damaged or was written by a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The record's kind is not known here.
    #[error("a record of a kind that this version does not know")]
    UnknownKind,
    /// The record contradicts the state before it.
    #[error("{0}")]
    Contradiction(String),
}

impl Image {
    /// The topic of a name.
    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    /// The topic of an id.
    pub(crate) fn topic_by_id(&self, id: &TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(&**self.names_by_id.get(id)?)
    }

    /// Topics by ascending name after `name` (exclusive), or from the first if it is empty.
    pub(crate) fn topics_after(&self, name: &str) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics
            .iter_from(Bound::Excluded(name))
            .map(|(_, topic)| topic)
    }

    /// The existing topic whose name differs from `name` at most in '.' and '_'.
    pub(crate) fn colliding_topic(&self, name: &str) -> Option<&Arc<str>> {
        self.collisions.get(&*collision_key(name)?)
    }

    /// The topics that were deleted last, the newest at the end.
    pub(crate) fn deleted(&self) -> &Arc<VecDeque<TopicId>> {
        &self.deleted
    }

    /// Whether the topic was deleted; `false` also where that was so long ago that it is forgotten.
    pub(crate) fn was_deleted(&self, id: &TopicId) -> bool {
        self.deleted.contains(id)
    }

    /// Whether the node leads a partition.
    pub(crate) fn leads_any(&self, node: NodeId) -> bool {
        self.topics.values().any(|topic| topic.leads(node))
    }

    /// Brokers that may lead partitions.
    pub(crate) fn active_brokers(&self) -> impl Iterator<Item = &BrokerImage> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    /// About how many bytes its snapshot takes; rather too many.
    pub(crate) fn rough_bytes(&self) -> u64 {
        let topic_bytes = |topic: &TopicImage| {
            let configs: usize = topic
                .configs
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum();
            let per_config = topic.configs.len() * (topic.name.len() + 32);
            let per_partition = topic
                .partitions
                .first()
                .map_or(0, |one| 64 + 16 * one.replicas.len());
            128 + topic.name.len() + configs + per_config + per_partition * topic.partitions.len()
        };
        let topics: usize = self.topics.values().map(|topic| topic_bytes(topic)).sum();
        topics as u64 + 8_192 * self.brokers.len() as u64 + 18 * self.deleted.len() as u64
    }

    /// Records that make this image from nothing, in an order that depends on it alone.
    pub(crate) fn to_records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let mut push = |kind| records.push(Record { kind: Some(kind) });
        if !self.cluster_id.is_empty() {
            push(Kind::Cluster(ClusterRecord {
                cluster_id: self.cluster_id.to_string(),
            }));
        }
        for (name, level) in self.features.iter() {
            push(Kind::FeatureLevel(FeatureLevelRecord {
                name: name.clone(),
                level: *level,
            }));
        }
        for broker in self.brokers.values() {
            push(Kind::RegisterBroker(broker.to_record()));
        }
        for topic in self.topics.values() {
            let id = bytes::Bytes::copy_from_slice(&topic.id.get());
            let name = topic.name.to_string();
            push(Kind::Topic(TopicRecord {
                name: name.clone(),
                topic_id: id.clone(),
            }));
            for (number, partition) in (0..).zip(&topic.partitions) {
                push(Kind::Partition(partition.to_record(&id, number)));
            }
            for (key, value) in &topic.configs {
                push(config_record(
                    ConfigResource::Topic,
                    &name,
                    key,
                    Some(value),
                ));
            }
        }
        for (name, configs) in self.broker_configs.iter() {
            for (key, value) in configs {
                push(config_record(
                    ConfigResource::Broker,
                    name,
                    key,
                    Some(value),
                ));
            }
        }
        if self.next_producer_id.get() != 0 {
            let next_producer_id = self.next_producer_id.get();
            push(Kind::ProducerIds(ProducerIdsRecord {
                next_producer_id,
                node_id: -1,
            }));
        }
        if !self.deleted.is_empty() {
            let bytes = |id: &TopicId| bytes::Bytes::copy_from_slice(&id.get());
            push(Kind::DeletedTopics(DeletedTopicsRecord {
                topic_ids: self.deleted.iter().map(bytes).collect(),
            }));
        }
        records
    }
}

impl TopicImage {
    /// Whether it is one of the broker's own.
    pub(crate) fn is_internal(&self) -> bool {
        self.name.starts_with("__")
    }

    /// Whether the node leads one of its partitions.
    fn leads(&self, node: NodeId) -> bool {
        self.partitions
            .iter()
            .any(|partition| partition.leader == Some(node))
    }

    /// How many partitions it has.
    pub(crate) fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// How many replicas its first partition has; 0 if it has no partition.
    pub(crate) fn replication_factor(&self) -> i32 {
        let replicas = self
            .partitions
            .first()
            .map_or(0, |partition| partition.replicas.len());
        i32::try_from(replicas).unwrap_or(i32::MAX)
    }
}

impl PartitionImage {
    fn from_record(record: &PartitionRecord) -> Self {
        Self {
            replicas: nodes(&record.replicas),
            isr: nodes(&record.isr),
            elr: nodes(&record.elr),
            last_known_elr: nodes(&record.last_known_elr),
            adding_replicas: nodes(&record.adding_replicas),
            removing_replicas: nodes(&record.removing_replicas),
            leader: (record.leader >= 0).then_some(NodeId::new(record.leader)),
            leader_epoch: LeaderEpoch::new(record.leader_epoch),
            partition_epoch: record.partition_epoch,
            parents: record
                .parents
                .iter()
                .copied()
                .map(PartitionId::new)
                .collect(),
            expansion_epoch: record.expansion_epoch,
        }
    }

    /// The record that replaces partition `number` of the topic with this.
    pub(crate) fn to_record(&self, topic_id: &bytes::Bytes, number: i32) -> PartitionRecord {
        PartitionRecord {
            topic_id: topic_id.clone(),
            partition: number,
            replicas: raw_nodes(&self.replicas),
            isr: raw_nodes(&self.isr),
            elr: raw_nodes(&self.elr),
            last_known_elr: raw_nodes(&self.last_known_elr),
            adding_replicas: raw_nodes(&self.adding_replicas),
            removing_replicas: raw_nodes(&self.removing_replicas),
            leader: self.leader.map_or(-1, NodeId::get),
            leader_epoch: self.leader_epoch.get(),
            partition_epoch: self.partition_epoch,
            parents: self.parents.iter().map(|parent| parent.get()).collect(),
            expansion_epoch: self.expansion_epoch,
        }
    }
}

impl BrokerImage {
    fn to_record(&self) -> RegisterBrokerRecord {
        RegisterBrokerRecord {
            node_id: self.node_id.get(),
            directory_id: bytes::Bytes::copy_from_slice(&self.directory_id),
            grpc_address: self.addresses.grpc.clone(),
            kafka_address: self.addresses.kafka.clone(),
            http_address: self.addresses.http.clone(),
            rack: self.rack.clone(),
            fenced: self.fenced,
            broker_epoch: Some(self.epoch.get()),
            version: self.version.clone(),
            boot_id: self.boot_id.clone(),
        }
    }
}

/// The record that sets a setting, or takes it back to its default.
pub(crate) fn config_record(
    resource: ConfigResource,
    name: &str,
    key: &str,
    value: Option<&str>,
) -> Kind {
    Kind::Config(ConfigRecord {
        resource: resource.into(),
        resource_name: name.to_owned(),
        key: key.to_owned(),
        value: value.map(str::to_owned),
    })
}

/// What two names that Kafka's metrics cannot tell apart have in common; `None` if the name can be told
/// from every other.
fn collision_key(name: &str) -> Option<Arc<str>> {
    name.contains(['.', '_'])
        .then(|| name.replace('.', "_").into())
}

fn nodes(raw: &[i32]) -> Vec<NodeId> {
    raw.iter().copied().map(NodeId::new).collect()
}

fn raw_nodes(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.get()).collect()
}
