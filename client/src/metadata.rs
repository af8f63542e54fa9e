//! What the client knows of topics: partition counts and leaders, cached and refreshed when an answer
//! shows that they are stale.
//!
//! The cache is shared by everything opened from one [`Client`]; it holds at most [`MAX_TOPICS`] and
//! forgets the one not refreshed for longest. One look-up per topic is under way at a time: a second
//! caller waits for the first and takes its result.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{LeaderEpoch, NodeId, TopicId};
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};

/// The most topics remembered.
const MAX_TOPICS: usize = 10_000;

/// One topic, as last described.
#[derive(Clone, Debug)]
pub(crate) struct TopicMetadata {
    pub(crate) id: TopicId,
    /// By partition number; never empty.
    pub(crate) partitions: Vec<PartitionMetadata>,
    pub(crate) described_at: Instant,
}

/// One partition, as last described.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartitionMetadata {
    pub(crate) leader: Option<NodeId>,
    #[expect(
        dead_code,
        reason = "fetches will carry it once leaders change (KIP-320)"
    )]
    pub(crate) leader_epoch: LeaderEpoch,
}

impl TopicMetadata {
    /// How many partitions the topic has, at least 1.
    pub(crate) fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }
}

/// The cache.
pub(crate) struct Metadata {
    topics: RwLock<HashMap<Arc<str>, Arc<TopicMetadata>>>,
    /// Held while a topic is asked for, so that many waiting senders cause one request; by the name's hash, so
    /// that one slow topic holds up few others.
    asking: [tokio::sync::Mutex<()>; 16],
    hasher: RandomState,
    max_age: Duration,
}

impl Metadata {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self {
            topics: RwLock::default(),
            asking: Default::default(),
            hasher: RandomState::new(),
            max_age,
        }
    }

    /// What is known of a topic, unless it is older than the maximum age.
    pub(crate) fn fresh(&self, topic: &str) -> Option<Arc<TopicMetadata>> {
        let found = self.topics.read().get(topic).cloned()?;
        (found.described_at.elapsed() < self.max_age).then_some(found)
    }

    /// The topic, from the cache or the broker.
    pub(crate) async fn topic(
        &self,
        client: &Client,
        topic: &str,
        auto_create: bool,
    ) -> Result<Arc<TopicMetadata>> {
        match self.fresh(topic) {
            Some(found) => Ok(found),
            None => self.refresh(client, topic, auto_create).await,
        }
    }

    /// The topic, from the broker, or from another caller's look-up that began after this call.
    pub(crate) async fn refresh(
        &self,
        client: &Client,
        topic: &str,
        auto_create: bool,
    ) -> Result<Arc<TopicMetadata>> {
        let wanted_since = Instant::now();
        let slot = self.hasher.hash_one(topic) % self.asking.len() as u64;
        let _asking = self.asking[usize::try_from(slot).unwrap_or(0)].lock().await;
        if let Some(found) = self.topics.read().get(topic)
            && found.described_at > wanted_since
        {
            return Ok(Arc::clone(found));
        }
        let described = describe(client, topic, auto_create).await;
        match described {
            Ok(found) => {
                let found = Arc::new(found);
                self.remember(topic, Arc::clone(&found));
                Ok(found)
            }
            Err(error) => {
                if error.kind() == ErrorKind::Invalid {
                    self.topics.write().remove(topic);
                }
                Err(error)
            }
        }
    }

    fn remember(&self, topic: &str, found: Arc<TopicMetadata>) {
        let mut topics = self.topics.write();
        if topics.len() >= MAX_TOPICS && !topics.contains_key(topic) {
            let oldest = topics.iter().min_by_key(|(_, known)| known.described_at);
            if let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) {
                topics.remove(&oldest);
            }
        }
        topics.insert(topic.into(), found);
    }
}

async fn describe(client: &Client, topic: &str, auto_create: bool) -> Result<TopicMetadata> {
    let asked_at = Instant::now();
    let mut service = client.topic_service();
    let request = v1::DescribeTopicsRequest {
        names: vec![topic.to_owned()],
        allow_auto_create: auto_create,
    };
    let response = client
        .call(
            "describing a topic",
            Duration::ZERO,
            service.describe_topics(request),
        )
        .await?;
    let description = response
        .topics
        .into_iter()
        .find(|described| described.name == topic)
        .ok_or_else(|| {
            Error::new(ErrorKind::Broker, "the answer leaves the topic out").of_topic(topic)
        })?;
    if let Some(error) = &description.error {
        return Err(Error::from_entry(error).of_topic(topic));
    }
    if description.partitions.is_empty() {
        return Err(
            Error::new(ErrorKind::Retriable, "the topic has no partitions yet").of_topic(topic),
        );
    }
    let mut partitions = description.partitions;
    partitions.sort_unstable_by_key(|partition| partition.partition);
    Ok(TopicMetadata {
        id: TopicId::from_slice(&description.topic_id).unwrap_or_default(),
        partitions: partitions
            .iter()
            .map(|partition| PartitionMetadata {
                leader: (partition.leader >= 0).then(|| NodeId::new(partition.leader)),
                leader_epoch: LeaderEpoch::new(partition.leader_epoch),
            })
            .collect(),
        described_at: asked_at,
    })
}
