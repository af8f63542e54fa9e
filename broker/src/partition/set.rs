//! The partitions this broker hosts, kept equal to the cluster image.
//!
//! Looking a partition up takes a read lock for a hash look-up. Only [`Partitions::apply`] changes the
//! set: it opens logs that the image has and the set lacks, and closes and deletes the opposite.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use logweir_proto::record::TimestampType;
use logweir_proto::{LeaderEpoch, NodeId, PartitionId, TopicId};
use logweir_storage::disk::DiskSpace;
use logweir_storage::{
    self as storage, FlushPolicy, LogConfig, LogDir, LogId, OpenError, on_threads,
};
use parking_lot::{Mutex, RwLock};

use crate::clock::Clock;
use crate::config::{CleanupPolicy, Config, MessageTimestampType, TopicConfig};
use crate::error::ApiError;
use crate::metadata::{Image, TopicImage};
use crate::metrics::LockHold;
use crate::partition::{Partition, PartitionSpec};

/// Threads that open logs beside the one that applies an image, and how many logs each is worth.
const OPENING_THREADS: usize = 15;
const PARTITIONS_PER_THREAD: usize = 16;

/// The most partitions of an image that is applied where it is met.
const APPLIED_AT_ONCE: u64 = 64;

/// What stands at a partition's place.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// It is led here.
    Online(Arc<Partition>),
    /// Its log could not be opened.
    Offline(Offline),
    /// Another node leads it.
    Elsewhere,
}

/// Why a partition's log could not be opened.
#[derive(Clone, Debug)]
pub(crate) struct Offline {
    /// What a caller is told.
    pub(crate) error: ApiError,
    /// How often it was tried; `None` if trying again cannot help: the log is corrupt, or the data directory failed.
    tries: Option<u64>,
}

impl Offline {
    fn new(error: &OpenError, tries: u64) -> Self {
        let may_pass = !matches!(error, OpenError::Corrupt { .. } | OpenError::Offline { .. });
        Self {
            error: ApiError::storage(error.to_string()),
            tries: may_pass.then_some(tries),
        }
    }
}

/// A topic of which this broker hosts partitions.
#[derive(Debug)]
struct Hosted {
    image: Arc<TopicImage>,
    config: Arc<TopicConfig>,
    partitions: Vec<Slot>,
}

/// The most partitions that one call of [`Partitions::retry_offline`] tries to open.
const RETRIES: usize = 100;

/// Whether the partitions were closed for good.
#[derive(Debug)]
struct Closed(bool);

/// That this broker leads a partition from now on, or no longer does.
#[derive(Clone, Debug)]
pub(crate) enum Leadership {
    /// It leads the partition in this epoch. May be told again, and again with a higher epoch.
    Gained(Arc<Partition>, LeaderEpoch),
    /// It does not lead the partition, or cannot serve it. May be told again.
    Lost(PartitionId),
}

/// Is told, in order and one at a time, of the partitions of one topic. It must not change the set.
type Listener = Box<dyn Fn(Leadership) + Send + Sync>;

/// Who is to be told of which topic; few, the coordinators.
#[derive(Default)]
struct Listeners(RwLock<Vec<(Arc<str>, Listener)>>);

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let listeners = self.0.read();
        f.debug_list()
            .entries(listeners.iter().map(|(topic, _)| topic))
            .finish()
    }
}

/// All partitions of one broker.
#[derive(Debug)]
pub(crate) struct Partitions {
    node: NodeId,
    log_dir: Arc<LogDir>,
    config: Arc<Config>,
    clock: Clock,
    lock_hold: Arc<LockHold>,
    topics: RwLock<HashMap<Arc<str>, Hosted>>,
    listeners: Listeners,
    /// Held while the set is being changed, which may take as long as opening logs takes.
    applying: Mutex<Closed>,
}

impl Partitions {
    pub(crate) fn new(
        node: NodeId,
        log_dir: Arc<LogDir>,
        config: Arc<Config>,
        clock: Clock,
        lock_hold: Arc<LockHold>,
    ) -> Self {
        Self {
            node,
            log_dir,
            config,
            clock,
            lock_hold,
            topics: RwLock::default(),
            listeners: Listeners::default(),
            applying: Mutex::new(Closed(false)),
        }
    }

    /// The led partition, if the topic's id is the expected one.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INCONSISTENT_TOPIC_ID`, `KAFKA_STORAGE_ERROR`, `NOT_LEADER_OR_FOLLOWER`.
    pub(crate) fn get(
        &self,
        topic: &str,
        topic_id: Option<TopicId>,
        partition: PartitionId,
    ) -> Result<Arc<Partition>, ApiError> {
        let topics = self.topics.read();
        let hosted = topics
            .get(topic)
            .ok_or_else(|| ApiError::unknown_topic(topic))?;
        if let Some(expected) = topic_id.filter(|id| *id != hosted.image.id) {
            return Err(ApiError::new(
                logweir_proto::ErrorCode::InconsistentTopicId,
                format!(
                    "topic {topic:?} has id {}, not {expected}: it was created anew",
                    hosted.image.id
                ),
            )
            .hint("refresh the topic's metadata"));
        }
        let slot = usize::try_from(partition.get())
            .ok()
            .and_then(|index| hosted.partitions.get(index))
            .ok_or_else(|| {
                ApiError::unknown_partition(topic, partition, hosted.partitions.len())
            })?;
        match slot {
            Slot::Online(partition) => match partition.broken() {
                Some(broken) => Err(broken.clone()),
                None => Ok(Arc::clone(partition)),
            },
            Slot::Offline(offline) => Err(offline.error.clone()),
            Slot::Elsewhere => Err(ApiError::new(
                logweir_proto::ErrorCode::NotLeaderOrFollower,
                format!("this broker does not lead partition {partition} of topic {topic:?}"),
            )
            .hint("refresh the topic's metadata")),
        }
    }

    /// How many partitions the topic has; `None` if it is not hosted.
    pub(crate) fn partition_count(&self, topic: &str) -> Option<usize> {
        self.topics
            .read()
            .get(topic)
            .map(|hosted| hosted.partitions.len())
    }

    /// The topic's configuration in force.
    pub(crate) fn topic_config(&self, topic: &str) -> Option<Arc<TopicConfig>> {
        self.topics
            .read()
            .get(topic)
            .map(|hosted| Arc::clone(&hosted.config))
    }

    /// What stands at each of a topic's partitions.
    pub(crate) fn slots(&self, topic: &str) -> Vec<Slot> {
        self.topics
            .read()
            .get(topic)
            .map_or_else(Vec::new, |hosted| hosted.partitions.clone())
    }

    /// What stands at one of a topic's partitions.
    pub(crate) fn slot(&self, topic: &str, partition: usize) -> Option<Slot> {
        self.topics
            .read()
            .get(topic)?
            .partitions
            .get(partition)
            .cloned()
    }

    /// Has `listener` told which partitions of a topic are led here: now, and whenever that changes, while the set is
    /// being changed. What leads a partition elsewhere will come by the same events once there are replicas.
    pub(crate) fn listen(
        &self,
        topic: &str,
        listener: impl Fn(Leadership) + Send + Sync + 'static,
    ) {
        let _changing = self.applying.lock();
        self.tell_of(topic, self.partition_count(topic).unwrap_or(0), &listener);
        let listener = (Arc::from(topic), Box::new(listener) as Listener);
        self.listeners.0.write().push(listener);
    }

    /// Tells every listener how its topic stands; `gone` are topics that were removed, with their partitions.
    fn tell_listeners(&self, gone: &[(Arc<str>, usize)]) {
        for (topic, listener) in self.listeners.0.read().iter() {
            let removed = gone.iter().find(|(name, _)| name == topic);
            let count = self.partition_count(topic).unwrap_or(0);
            self.tell_of(topic, count.max(removed.map_or(0, |gone| gone.1)), listener);
        }
    }

    fn tell_of(&self, topic: &str, count: usize, listener: &(impl Fn(Leadership) + ?Sized)) {
        for index in 0..count {
            listener(match self.slot(topic, index) {
                Some(Slot::Online(partition)) if partition.broken().is_none() => {
                    let epoch = partition.leader_epoch();
                    Leadership::Gained(partition, epoch)
                }
                _ => Leadership::Lost(partition_id(index)),
            });
        }
    }

    /// Every partition that is led here and can be served.
    pub(crate) fn online(&self) -> Vec<Arc<Partition>> {
        let mut opened = self.opened();
        opened.retain(|partition| partition.broken().is_none());
        opened
    }

    /// Every partition whose log is open.
    fn opened(&self) -> Vec<Arc<Partition>> {
        let topics = self.topics.read();
        let slots = topics.values().flat_map(|hosted| &hosted.partitions);
        slots
            .filter_map(|slot| match slot {
                Slot::Online(partition) => Some(Arc::clone(partition)),
                Slot::Offline(_) | Slot::Elsewhere => None,
            })
            .collect()
    }

    /// How many partitions cannot be served because of their disk or a broken invariant.
    #[cfg(feature = "http")]
    pub(crate) fn offline_count(&self) -> usize {
        let topics = self.topics.read();
        let slots = topics.values().flat_map(|hosted| &hosted.partitions);
        slots
            .filter(|slot| match slot {
                Slot::Online(partition) => partition.broken().is_some(),
                Slot::Offline(_) => true,
                Slot::Elsewhere => false,
            })
            .count()
    }

    /// How much room there is where the logs are; `None` if that cannot be told.
    pub(crate) fn disk_space(&self) -> Option<DiskSpace> {
        let path = self.log_dir.metadata_path();
        self.log_dir
            .disk()
            .space(path.parent().unwrap_or(&path))
            .ok()
    }

    /// Why the data directory cannot be written any more; `None` while it can.
    #[cfg(feature = "http")]
    pub(crate) fn disk_offline(&self) -> Option<String> {
        self.log_dir.offline().map(|reason| reason.to_string())
    }

    /// Syncs of segment files since the data directory was opened.
    #[cfg(feature = "http")]
    pub(crate) fn log_flushes(&self) -> u64 {
        self.log_dir.log_flushes()
    }

    /// Renames what no topic of the image accounts for, so that nothing is ever deleted by mistake. Only logs of a topic
    /// that the image knows to have been deleted go: a broker that was killed had not removed them yet.
    pub(crate) fn set_strays_aside(&self, existing: &[LogId], image: &Image) {
        for log in existing {
            let known = image.topics.get(&log.topic).is_some_and(|topic| {
                topic.id == log.topic_id
                    && usize::try_from(log.partition.get())
                        .is_ok_and(|i| i < topic.partitions.len())
            });
            if known {
                continue;
            }
            if image.was_deleted(&log.topic_id) {
                tracing::info!(topic = %log.topic, topic_id = %log.topic_id, partition = %log.partition,
                    "a log of a deleted topic is removed");
                if let Err(error) = self.log_dir.delete_closed_log(log) {
                    tracing::error!(%error, topic = %log.topic, "cannot remove the log");
                }
            } else {
                tracing::warn!(topic = %log.topic, topic_id = %log.topic_id, partition = %log.partition,
                    "a log that no topic accounts for is set aside as .stray");
                if let Err(error) = self.log_dir.set_stray(log) {
                    tracing::error!(%error, topic = %log.topic, "cannot set the log aside");
                }
            }
        }
    }

    /// Whether [`Partitions::apply`] takes no time worth a thread: the disk is memory, which nothing slows down, few
    /// logs are to be opened, and none is likely to be deleted.
    pub(crate) fn applies_at_once(&self, image: &Image) -> bool {
        !self.log_dir.disk().may_wait()
            && image.partition_count <= APPLIED_AT_ONCE
            && !self.applying.is_locked()
            && image.topics.len() >= self.topics.read().len()
    }

    /// Makes the set equal to the image. May open, scan, repair and delete logs: not for a task that serves.
    pub(crate) fn apply(&self, image: &Image) {
        let closed = self.applying.lock();
        if closed.0 {
            return;
        }
        let gone: Vec<Arc<str>> = {
            let topics = self.topics.read();
            let same = |hosted: &Hosted| {
                image
                    .topics
                    .get(&hosted.image.name)
                    .is_some_and(|topic| topic.id == hosted.image.id)
            };
            topics
                .values()
                .filter(|hosted| !same(hosted))
                .map(|h| Arc::clone(&h.image.name))
                .collect()
        };
        let gone: Vec<_> = gone
            .into_iter()
            .map(|name| {
                let partitions = self.remove(&name);
                (name, partitions)
            })
            .collect();
        let mut changes: Vec<_> = image
            .topics
            .values()
            .filter_map(|topic| self.change_of(topic))
            .collect();
        self.open_missing(&mut changes);
        let mut topics = self.topics.write();
        for hosted in changes {
            topics.insert(Arc::clone(&hosted.image.name), hosted);
        }
        drop(topics);
        self.tell_listeners(&gone);
    }

    /// What becomes of a topic, with the partitions that it has already; `None` if it stays as it is.
    fn change_of(&self, image: &Arc<TopicImage>) -> Option<Hosted> {
        let (config, partitions) = {
            let topics = self.topics.read();
            match topics.get(&image.name) {
                Some(hosted) if Arc::ptr_eq(&hosted.image, image) => return None,
                Some(hosted) if hosted.image.configs == image.configs => {
                    (Arc::clone(&hosted.config), hosted.partitions.clone())
                }
                Some(hosted) => (self.config_of(image), hosted.partitions.clone()),
                None => (self.config_of(image), Vec::new()),
            }
        };
        for (slot, image_of) in partitions.iter().zip(&image.partitions) {
            if let Slot::Online(partition) = slot {
                let log = log_config(&self.config, &config, replicas(image));
                partition.lead_in(image_of.leader_epoch);
                partition.set_config(log, max_message_bytes(&config));
            }
        }
        Some(Hosted {
            image: Arc::clone(image),
            config,
            partitions,
        })
    }

    /// Opens the partitions that are new, several at a time: after a crash each waits for the device, which serves
    /// many with one write.
    fn open_missing(&self, changes: &mut [Hosted]) {
        let missing: Vec<(usize, usize)> = changes
            .iter()
            .enumerate()
            .flat_map(|(at, hosted)| {
                let new = hosted.partitions.len()..hosted.image.partitions.len();
                new.map(move |index| (at, index))
            })
            .collect();
        let next = AtomicUsize::new(0);
        let open_some = || {
            let mut opened = Vec::new();
            while let Some(&(at, index)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let hosted = &changes[at];
                opened.push((
                    at,
                    index,
                    self.open_first(&hosted.image, index, &hosted.config),
                ));
            }
            opened
        };
        let threads = (missing.len() / PARTITIONS_PER_THREAD).min(OPENING_THREADS);
        let mut opened = on_threads(threads, open_some)
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
        opened.sort_unstable_by_key(|&(at, index, _)| (at, index));
        for (at, _, slot) in opened {
            changes[at].partitions.push(slot);
        }
    }

    fn config_of(&self, image: &TopicImage) -> Arc<TopicConfig> {
        Arc::new(TopicConfig::new_lenient(&self.config, &image.configs))
    }

    fn open_first(&self, topic: &TopicImage, index: usize, config: &TopicConfig) -> Slot {
        if topic.partitions[index].leader != Some(self.node) {
            return Slot::Elsewhere;
        }
        match self.open(topic, index, config) {
            Ok(partition) => Slot::Online(partition),
            Err(error) => {
                tracing::error!(topic = %topic.name, partition = index, %error, "the partition is offline");
                Slot::Offline(Offline::new(&error, 0))
            }
        }
    }

    fn open(
        &self,
        topic: &TopicImage,
        index: usize,
        config: &TopicConfig,
    ) -> Result<Arc<Partition>, OpenError> {
        let image = &topic.partitions[index];
        let id = partition_id(index);
        let spec = PartitionSpec {
            topic: Arc::clone(&topic.name),
            topic_id: topic.id,
            partition: id,
            leader_epoch: image.leader_epoch.max(LeaderEpoch::new(0)),
            isr: image.isr.clone(),
            config: log_config(&self.config, config, replicas(topic)),
            max_message_bytes: max_message_bytes(config),
        };
        Partition::open(&self.log_dir, self.node, spec, &self.clock, &self.lock_hold)
    }

    /// Opens again what could not be opened for a reason that may have passed, such as a full disk: at most 100
    /// partitions in a call, those that were tried least first. Gives how many are served now. May scan and repair logs:
    /// not for a task that serves.
    pub(crate) fn retry_offline(&self) -> usize {
        let closed = self.applying.lock();
        if closed.0 || self.log_dir.offline().is_some() {
            return 0;
        }
        let mut waiting = self.waiting();
        waiting.sort_by_key(|(tries, ..)| *tries);
        waiting.truncate(RETRIES);
        let tried = waiting
            .into_iter()
            .filter(|(tries, name, index)| self.retry(*tries, name, *index));
        let served = tried.count();
        if served > 0 {
            self.tell_listeners(&[]);
        }
        served
    }

    /// Partitions that may be opened again: how often each was tried, its topic and number.
    fn waiting(&self) -> Vec<(u64, Arc<str>, usize)> {
        let topics = self.topics.read();
        let mut waiting = Vec::new();
        for (name, hosted) in topics.iter() {
            for (index, slot) in hosted.partitions.iter().enumerate() {
                if let Slot::Offline(Offline {
                    tries: Some(tries), ..
                }) = slot
                {
                    waiting.push((*tries, Arc::clone(name), index));
                }
            }
        }
        waiting
    }

    /// Tries to open one partition again; whether it can be served now.
    fn retry(&self, tries: u64, name: &str, index: usize) -> bool {
        let Some((image, config)) = self
            .topics
            .read()
            .get(name)
            .map(|hosted| (Arc::clone(&hosted.image), Arc::clone(&hosted.config)))
        else {
            return false;
        };
        let outcome = self.open(&image, index, &config);
        let mut topics = self.topics.write();
        let Some(slot) = topics
            .get_mut(name)
            .and_then(|hosted| hosted.partitions.get_mut(index))
        else {
            return false;
        };
        match outcome {
            Ok(partition) => {
                tracing::info!(
                    topic = name,
                    partition = index,
                    "the partition is online again"
                );
                *slot = Slot::Online(partition);
                true
            }
            Err(error) => {
                let still = Offline::new(&error, tries + 1);
                if !matches!(slot, Slot::Offline(before) if before.error == still.error) {
                    tracing::error!(topic = name, partition = index, %error, "the partition stays offline");
                }
                *slot = Slot::Offline(still);
                false
            }
        }
    }

    /// Takes a topic out; how many partitions it had.
    fn remove(&self, name: &str) -> usize {
        let Some(hosted) = self.topics.write().remove(name) else {
            return 0;
        };
        let reason = ApiError::unknown_topic(name);
        for (index, slot) in hosted.partitions.iter().enumerate() {
            let deleted = match slot {
                Slot::Online(partition) => partition.delete(&self.log_dir, &reason),
                // What could not be opened is kept for a person to look at.
                Slot::Offline(_) => self.log_dir.set_stray(&LogId {
                    topic: Arc::clone(&hosted.image.name),
                    topic_id: hosted.image.id,
                    partition: partition_id(index),
                }),
                Slot::Elsewhere => Ok(()),
            };
            if let Err(error) = deleted {
                tracing::error!(topic = name, partition = index, %error, "cannot delete the log");
            }
        }
        hosted.partitions.len()
    }

    /// Closes every log; the data directory can be closed cleanly if none failed.
    ///
    /// # Errors
    /// The first log that failed, after all were tried.
    pub(crate) fn close(&self) -> Result<(), String> {
        let mut closed = self.applying.lock();
        // An image that is still to be applied must not open the logs again.
        closed.0 = true;
        let reason = ApiError::new(
            logweir_proto::ErrorCode::NotLeaderOrFollower,
            "the broker is shutting down",
        );
        // One sync after the other would take minutes for ten thousand logs; closing finds nothing left to flush.
        let mut first = self.log_dir.flush_all().map_err(|error| error.to_string());
        for partition in self.opened() {
            let closed = partition.close(&reason).map_err(|error| error.to_string());
            first = first.and(closed);
        }
        first
    }
}

fn partition_id(index: usize) -> PartitionId {
    PartitionId::new(i32::try_from(index).unwrap_or(i32::MAX))
}

fn replicas(topic: &TopicImage) -> usize {
    topic
        .partitions
        .first()
        .map_or(1, |partition| partition.replicas.len())
}

fn max_message_bytes(topic: &TopicConfig) -> usize {
    usize::try_from(topic.values().max_message_bytes).unwrap_or(usize::MAX)
}

/// The storage's settings for a topic with so many replicas.
fn log_config(config: &Config, topic: &TopicConfig, replicas: usize) -> LogConfig {
    let values = topic.values();
    LogConfig {
        segment_bytes: values.segment_bytes,
        segment_age: Duration::from_millis(values.segment_ms),
        index_interval_bytes: u32::try_from(values.index_interval_bytes).unwrap_or(u32::MAX),
        cleanup_policy: match values.cleanup_policy {
            CleanupPolicy::Delete => storage::CleanupPolicy::Delete,
            CleanupPolicy::Compact => storage::CleanupPolicy::Compact,
            CleanupPolicy::CompactAndDelete => storage::CleanupPolicy::CompactAndDelete,
        },
        delete_retention: Duration::from_millis(values.delete_retention_ms),
        min_compaction_lag: Duration::from_millis(values.min_compaction_lag_ms),
        max_compaction_lag: values.max_compaction_lag(),
        min_cleanable_dirty_ratio: values.min_cleanable_dirty_ratio,
        retention: values.retention(),
        retention_bytes: u64::try_from(values.retention_bytes).ok(),
        flush: FlushPolicy {
            per_ack: topic.flushes_per_ack(replicas),
            records: values.flush_records(),
            interval: values.flush_interval(),
        },
        timestamp_type: match values.message_timestamp_type {
            MessageTimestampType::CreateTime => TimestampType::CreateTime,
            MessageTimestampType::LogAppendTime => TimestampType::LogAppendTime,
        },
        producer_expiry: Duration::from_millis(config.log_dir.producer_id_expiration_ms),
    }
}

#[cfg(test)]
mod tests;
