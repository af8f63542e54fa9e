//! What each record makes of an [`Image`].
//!
//! [`Image::apply`] is pure: records are results, so it decides nothing, reads no clock and draws no random number, and
//! every node gets the same image from the same log.

use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::grpc::internal::record::Kind;
use logweir_proto::grpc::internal::{
    ClusterRecord, ConfigRecord, ConfigResource, PartitionRecord, Proposal, Record,
    RegisterBrokerRecord, RemoveTopicRecord, TopicRecord,
};
use logweir_proto::{BrokerEpoch, LeaderEpoch, NodeId, ProducerId, TopicId};

use super::{
    ApplyError, BrokerAddresses, BrokerImage, DELETED_TOPICS, Image, PartitionImage, TopicImage,
    collision_key,
};

impl Image {
    /// The image after a proposal that stands at `index` in the log.
    pub(crate) fn apply(&self, index: u64, proposal: &Proposal) -> Result<Self, ApplyError> {
        let mut next = self.clone();
        for record in &proposal.records {
            next.apply_record(index, record)?;
        }
        next.version = index;
        Ok(next)
    }

    /// The image that a snapshot's records make.
    pub(crate) fn from_records(version: u64, records: &[Record]) -> Result<Self, ApplyError> {
        let mut image = Self::default();
        for record in records {
            image.apply_record(version, record)?;
        }
        image.version = version;
        Ok(image)
    }

    fn apply_record(&mut self, index: u64, record: &Record) -> Result<(), ApplyError> {
        match record.kind.as_ref().ok_or(ApplyError::UnknownKind)? {
            Kind::Cluster(record) => self.apply_cluster(record),
            Kind::FeatureLevel(record) => {
                Arc::make_mut(&mut self.features).insert(record.name.clone(), record.level);
                Ok(())
            }
            Kind::Topic(record) => self.apply_topic(record),
            Kind::Partition(record) => self.apply_partition(record),
            Kind::RemoveTopic(record) => self.apply_remove_topic(record),
            Kind::Config(record) => self.apply_config(record),
            Kind::RegisterBroker(record) => self.apply_register_broker(index, record),
            Kind::FenceBroker(record) => {
                self.apply_fenced(record.node_id, record.broker_epoch, true)
            }
            Kind::UnfenceBroker(record) => {
                self.apply_fenced(record.node_id, record.broker_epoch, false)
            }
            Kind::UnregisterBroker(record) => {
                Arc::make_mut(&mut self.brokers).remove(&NodeId::new(record.node_id));
                Ok(())
            }
            Kind::ProducerIds(record) => {
                let next = ProducerId::new(record.next_producer_id);
                if next < self.next_producer_id {
                    return contradiction(format!(
                        "producer ids go back from {} to {next}",
                        self.next_producer_id
                    ));
                }
                self.next_producer_id = next;
                Ok(())
            }
            Kind::NewLeaderEpochs(record) => {
                self.apply_new_leader_epochs(NodeId::new(record.node_id))
            }
            Kind::DeletedTopics(record) => {
                for id in &record.topic_ids {
                    self.remember_deleted(topic_id(id)?);
                }
                Ok(())
            }
        }
    }

    fn remember_deleted(&mut self, id: TopicId) {
        let deleted = Arc::make_mut(&mut self.deleted);
        if deleted.len() == DELETED_TOPICS {
            deleted.pop_front();
        }
        deleted.push_back(id);
    }

    fn apply_new_leader_epochs(&mut self, node: NodeId) -> Result<(), ApplyError> {
        let led = self.topics.values().filter(|topic| topic.leads(node));
        let names: Vec<Arc<str>> = led.map(|topic| Arc::clone(&topic.name)).collect();
        for name in names {
            let Some(topic) = self.topics.get_mut(&*name) else {
                continue;
            };
            let partitions = &mut Arc::make_mut(topic).partitions;
            for partition in partitions.iter_mut().filter(|p| p.leader == Some(node)) {
                let partition = Arc::make_mut(partition);
                let epoch = partition.leader_epoch.get().checked_add(1);
                let (Some(epoch), Some(change)) = (epoch, partition.partition_epoch.checked_add(1))
                else {
                    return contradiction(format!("topic {name} has no epoch left"));
                };
                partition.leader_epoch = LeaderEpoch::new(epoch);
                partition.partition_epoch = change;
            }
        }
        Ok(())
    }

    fn apply_cluster(&mut self, record: &ClusterRecord) -> Result<(), ApplyError> {
        if !self.cluster_id.is_empty() && *self.cluster_id != *record.cluster_id {
            return contradiction(format!(
                "cluster id {} changes to {}",
                self.cluster_id, record.cluster_id
            ));
        }
        self.cluster_id = record.cluster_id.as_str().into();
        Ok(())
    }

    fn apply_topic(&mut self, record: &TopicRecord) -> Result<(), ApplyError> {
        let id = topic_id(&record.topic_id)?;
        let name: Arc<str> = record.name.as_str().into();
        if self.names_by_id.contains_key(&id) || self.topics.contains_key(&*name) {
            return contradiction(format!("topic {name} ({id}) is created twice"));
        }
        if let Some(key) = collision_key(&name) {
            self.collisions.insert(key, name.clone());
        }
        let topic = TopicImage {
            name: name.clone(),
            id,
            configs: BTreeMap::new(),
            partitions: Vec::new(),
        };
        self.names_by_id.insert(id, name.clone());
        self.topics.insert(name, Arc::new(topic));
        Ok(())
    }

    fn apply_partition(&mut self, record: &PartitionRecord) -> Result<(), ApplyError> {
        let id = topic_id(&record.topic_id)?;
        let topic = self
            .names_by_id
            .get(&id)
            .and_then(|name| self.topics.get_mut(&**name))
            .ok_or_else(|| ApplyError::Contradiction(format!("a partition of no topic ({id})")))?;
        let topic = Arc::make_mut(topic);
        let partition = Arc::new(PartitionImage::from_record(record));
        let number = usize::try_from(record.partition).unwrap_or(usize::MAX);
        if let Some(slot) = topic.partitions.get_mut(number) {
            *slot = partition;
        } else if number == topic.partitions.len() {
            topic.partitions.push(partition);
            self.partition_count += 1;
        } else {
            return contradiction(format!(
                "partition {} of {} follows {} partitions",
                record.partition,
                topic.name,
                topic.partitions.len()
            ));
        }
        Ok(())
    }

    fn apply_remove_topic(&mut self, record: &RemoveTopicRecord) -> Result<(), ApplyError> {
        let id = topic_id(&record.topic_id)?;
        let removed = self
            .names_by_id
            .remove(&id)
            .and_then(|name| self.topics.remove(&*name));
        let Some(topic) = removed else {
            return contradiction(format!("a topic is removed that is not there ({id})"));
        };
        if let Some(key) = collision_key(&topic.name) {
            self.collisions.remove(&*key);
        }
        self.partition_count -= topic.partitions.len() as u64;
        self.remember_deleted(id);
        Ok(())
    }

    fn apply_config(&mut self, record: &ConfigRecord) -> Result<(), ApplyError> {
        let set = |configs: &mut BTreeMap<String, String>| match &record.value {
            Some(value) => {
                configs.insert(record.key.clone(), value.clone());
            }
            None => {
                configs.remove(&record.key);
            }
        };
        match record.resource() {
            ConfigResource::Unspecified => Err(ApplyError::UnknownKind),
            ConfigResource::Topic => match self.topics.get_mut(&*record.resource_name) {
                Some(topic) => {
                    set(&mut Arc::make_mut(topic).configs);
                    Ok(())
                }
                None => contradiction(format!("a setting of no topic ({})", record.resource_name)),
            },
            ConfigResource::Broker => {
                let all = Arc::make_mut(&mut self.broker_configs);
                let configs = all.entry(record.resource_name.clone()).or_default();
                set(configs);
                if configs.is_empty() {
                    all.remove(&record.resource_name);
                }
                Ok(())
            }
        }
    }

    fn apply_register_broker(
        &mut self,
        index: u64,
        record: &RegisterBrokerRecord,
    ) -> Result<(), ApplyError> {
        let directory_id = record.directory_id.as_ref().try_into().map_err(|_| {
            ApplyError::Contradiction(format!("node {} has no directory id", record.node_id))
        })?;
        let epoch = record
            .broker_epoch
            .or_else(|| i64::try_from(index).ok())
            .ok_or_else(|| ApplyError::Contradiction("the log is too long".to_owned()))?;
        let node_id = NodeId::new(record.node_id);
        let broker = BrokerImage {
            node_id,
            epoch: BrokerEpoch::new(epoch),
            directory_id,
            addresses: BrokerAddresses {
                grpc: record.grpc_address.clone(),
                kafka: record.kafka_address.clone(),
                http: record.http_address.clone(),
            },
            rack: record.rack.clone(),
            fenced: record.fenced,
            version: record.version.clone(),
            boot_id: record.boot_id.clone(),
        };
        Arc::make_mut(&mut self.brokers).insert(node_id, broker);
        Ok(())
    }

    fn apply_fenced(&mut self, node_id: i32, epoch: i64, fenced: bool) -> Result<(), ApplyError> {
        let brokers = Arc::make_mut(&mut self.brokers);
        if let Some(broker) = brokers.get_mut(&NodeId::new(node_id))
            && broker.epoch.get() == epoch
        {
            broker.fenced = fenced;
        }
        Ok(())
    }
}

fn contradiction<T>(what: String) -> Result<T, ApplyError> {
    Err(ApplyError::Contradiction(what))
}

fn topic_id(raw: &[u8]) -> Result<TopicId, ApplyError> {
    TopicId::from_slice(raw)
        .ok_or_else(|| ApplyError::Contradiction(format!("a topic id of {} bytes", raw.len())))
}
