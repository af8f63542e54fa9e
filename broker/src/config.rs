//! What a broker can be told, in one place: [`Config`], its defaults, its checks, and where it is read from.
//!
//! A setting is described once, in the table of `config/settings.rs`; file, environment, flags,
//! `logweir config` and topic configuration all go through that table. Nothing here starts anything.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod explain;
mod layers;
mod settings;
mod topic;
mod values;

pub use explain::{explain, explain_json, render, to_json};
pub use layers::{Layers, Loaded, Source};
pub use logweir_storage::Ratio;
pub use settings::{Kind, Setting, settings};
#[cfg(feature = "cli")]
pub(crate) use topic::topic_setting;
pub use topic::{ConfigSource, TopicConfig, TopicConfigEntry};
pub use values::{
    CleanupPolicy, CompressionType, FlushMode, ListenAddr, LogFormat, MessageTimestampType,
};
pub(crate) use values::{bytes_to_digits, duration_to_digits};

const MIB: u64 = 1 << 20;
const DAY_MS: u64 = 86_400_000;

/// Everything a broker can be told.
///
/// ```
/// use logweir::Config;
///
/// let config = Config::in_memory().with_auto_create_topics(false);
/// config.validate().unwrap();
/// assert_eq!(config.listeners.grpc.to_string(), "127.0.0.1:0");
/// ```
///
/// It is read and written by serde in the form of the TOML file; unknown keys are errors that name the nearest key.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This broker's id in the cluster, from 0.
    pub node_id: i32,
    /// The directory that holds everything; `None` keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    /// How many bytes an in-memory broker may hold; beyond that its disk is full.
    pub memory_capacity_bytes: u64,
    /// The least severe log level that is written, or `tracing` filter directives. Used by the program only.
    pub log_level: String,
    /// How the log is written. Used by the program only.
    pub log_format: LogFormat,
    /// Where the broker listens.
    pub listeners: Listeners,
    /// What topics get that do not say otherwise.
    pub log: LogSettings,
    /// How topics come and go.
    pub topics: TopicSettings,
    /// Consumer groups and committed offsets.
    pub groups: GroupSettings,
    /// What the broker takes at most.
    pub limits: Limits,
    /// How the data directory is kept.
    pub log_dir: LogDirSettings,
}

/// Where the broker listens, and which addresses it tells others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// The Kafka protocol.
    pub kafka: ListenAddr,
    /// gRPC.
    pub grpc: ListenAddr,
    /// Metrics, liveness and readiness over HTTP.
    pub http: ListenAddr,
    /// `HOST:PORT` at which others reach the Kafka listener; `None` tells each client where it reached the broker.
    pub advertised_kafka: Option<String>,
    /// `HOST:PORT` at which others reach the gRPC listener; `None` means where it listens.
    pub advertised_grpc: Option<String>,
    /// `HOST:PORT` at which others reach the HTTP listener; `None` means where it listens.
    pub advertised_http: Option<String>,
}

/// What topics get that do not say otherwise; Kafka's topic configuration in snake case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A segment is rolled before it grows beyond this many bytes.
    pub segment_bytes: u64,
    /// A segment is rolled when its first record is this old.
    pub segment_ms: u64,
    /// Segments whose last record is older are deleted; -1 keeps them for ever.
    pub retention_ms: i64,
    /// The oldest segments of a partition beyond this many bytes are deleted; -1 keeps them.
    pub retention_bytes: i64,
    /// A larger batch is refused.
    pub max_message_bytes: u64,
    /// Whose clock stamps records.
    pub message_timestamp_type: MessageTimestampType,
    /// One index entry for about this many bytes of log.
    pub index_interval_bytes: u64,
    /// What becomes of old records.
    pub cleanup_policy: CleanupPolicy,
    /// Where the policy compacts: how long a tombstone stays after the compaction that first met it.
    pub delete_retention_ms: u64,
    /// Where the policy compacts: a partition is due when more than this part of it was not compacted yet.
    pub min_cleanable_dirty_ratio: Ratio,
    /// Where the policy compacts: younger records are left alone.
    pub min_compaction_lag_ms: u64,
    /// Where the policy compacts: a record is due after this, whatever the ratio. `i64::MAX` is never.
    pub max_compaction_lag_ms: i64,
    /// How the broker keeps batches compressed.
    pub compression_type: CompressionType,
    /// How many in-sync replicas acks=all needs. The effective number is at most the replication factor.
    pub min_insync_replicas: i32,
    /// When appended records are made durable.
    pub flush: FlushMode,
    /// Sync after this many records; 1 is the same as `flush = "per-ack"`. `i64::MAX` is never.
    pub flush_messages: i64,
    /// Sync when a record has waited this long. `i64::MAX` is never.
    pub flush_ms: i64,
}

/// How topics come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// The partitions of a topic that does not say how many.
    pub num_partitions: i32,
    /// The replicas of a topic that does not say how many.
    pub default_replication_factor: i16,
    /// The partitions of each of the broker's own topics, such as `__consumer_offsets`, when it is first needed.
    pub internal_num_partitions: i32,
    /// Whether a topic is created when it is first used.
    pub auto_create_topics_enable: bool,
    /// Whether topics may be deleted.
    pub delete_topic_enable: bool,
}

/// Consumer groups and committed offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// The shortest session timeout that a member of a classic group may ask for.
    pub min_session_timeout_ms: u64,
    /// The longest.
    pub max_session_timeout_ms: u64,
    /// How long a new classic group waits for more members.
    pub initial_rebalance_delay_ms: u64,
    /// How many members a classic group may have.
    pub max_size: usize,
    /// How many members a group of the consumer protocol (KIP-848, and gRPC) may have.
    pub consumer_max_size: usize,
    /// How long a member of the consumer protocol may be silent.
    pub consumer_session_timeout_ms: u64,
    /// How often members of the consumer protocol send heartbeats.
    pub consumer_heartbeat_interval_ms: u64,
    /// How much text may be committed with an offset.
    pub offset_metadata_max_bytes: usize,
    /// How long committed offsets of a group without members are kept.
    pub offsets_retention_ms: u64,
    /// How often it is looked for committed offsets that have expired.
    pub offsets_retention_check_interval_ms: u64,
}

/// What the broker takes at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one listener at a time.
    pub max_connections: usize,
    /// Bytes of one request.
    pub max_request_bytes: usize,
    /// Bytes of requests that one connection may have in the broker at a time.
    pub max_inflight_bytes_per_connection: usize,
    /// Bytes of requests that all connections may have in the broker at a time.
    pub max_inflight_bytes: usize,
    /// Bytes of records on their way to one connection that its peer has not taken yet.
    pub max_response_bytes_per_connection: usize,
    /// Bytes of records on their way to all connections that their peers have not taken yet.
    pub max_response_bytes: usize,
    /// A connection whose peer gave no sign of life for so long, not even an answer to a ping, is closed.
    pub connections_max_idle_ms: u64,
    /// Topics of the cluster.
    pub max_topics: usize,
    /// Partitions of this broker.
    pub max_partitions: usize,
}

/// How the data directory is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirSettings {
    /// Bytes not yet synced are kept below this by flushing in the background, which bounds recovery.
    pub max_unflushed_bytes: u64,
    /// A file of this size is given up when the disk is full, so that metadata and retention go on.
    pub reserve_bytes: u64,
    /// Recovery points are written this often.
    pub checkpoint_interval_ms: u64,
    /// Old segments, and partitions to compact, are looked for this often.
    pub retention_check_interval_ms: u64,
    /// Memory that the keys of one compaction may take.
    pub compaction_buffer_bytes: usize,
    /// Bytes that a compaction reads in a second at most. `i64::MAX` sets no limit.
    pub compaction_max_bytes_per_second: i64,
    /// A producer that appended nothing for so long is forgotten.
    pub producer_id_expiration_ms: u64,
}

impl Default for Config {
    /// A standalone broker on `./logweir-data`, listening on the loopback interface.
    fn default() -> Self {
        Self {
            node_id: 1,
            data_dir: Some(PathBuf::from("./logweir-data")),
            memory_capacity_bytes: 1024 * MIB,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            listeners: Listeners::default(),
            log: LogSettings::default(),
            topics: TopicSettings::default(),
            groups: GroupSettings::default(),
            limits: Limits::default(),
            log_dir: LogDirSettings::default(),
        }
    }
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            kafka: ListenAddr::At("127.0.0.1:9092".to_owned()),
            grpc: ListenAddr::At("127.0.0.1:9093".to_owned()),
            http: ListenAddr::At("127.0.0.1:9094".to_owned()),
            advertised_kafka: None,
            advertised_grpc: None,
            advertised_http: None,
        }
    }
}

impl LogSettings {
    /// The segment size of a standalone broker.
    pub(crate) const STANDALONE_SEGMENT_BYTES: u64 = 128 * MIB;
    /// The segment size of an embedded or in-memory broker.
    pub(crate) const EMBEDDED_SEGMENT_BYTES: u64 = 16 * MIB;
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: Self::STANDALONE_SEGMENT_BYTES,
            segment_ms: 7 * DAY_MS,
            retention_ms: 604_800_000,
            retention_bytes: -1,
            max_message_bytes: 1_048_588,
            message_timestamp_type: MessageTimestampType::default(),
            index_interval_bytes: 4_096,
            cleanup_policy: CleanupPolicy::default(),
            delete_retention_ms: DAY_MS,
            min_cleanable_dirty_ratio: Ratio::HALF,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            compression_type: CompressionType::default(),
            min_insync_replicas: 1,
            flush: FlushMode::default(),
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
        }
    }
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            num_partitions: 1,
            default_replication_factor: 1,
            internal_num_partitions: 16,
            auto_create_topics_enable: true,
            delete_topic_enable: true,
        }
    }
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: 10_000,
            consumer_max_size: 10_000,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5_000,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * DAY_MS,
            offsets_retention_check_interval_ms: 600_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_request_bytes: 16 << 20,
            max_inflight_bytes_per_connection: 64 << 20,
            max_inflight_bytes: 512 << 20,
            max_response_bytes_per_connection: 64 << 20,
            max_response_bytes: 512 << 20,
            connections_max_idle_ms: 600_000,
            max_topics: 10_000,
            max_partitions: 20_000,
        }
    }
}

impl Default for LogDirSettings {
    fn default() -> Self {
        Self {
            max_unflushed_bytes: 256 * MIB,
            reserve_bytes: 8 * MIB,
            checkpoint_interval_ms: 60_000,
            retention_check_interval_ms: 300_000,
            compaction_buffer_bytes: 128 << 20,
            compaction_max_bytes_per_second: i64::MAX,
            producer_id_expiration_ms: DAY_MS,
        }
    }
}

impl Config {
    /// A broker within a program: nothing on disk, every listener on a loopback port of the system's choice.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            data_dir: None,
            ..Self::embedded()
        }
    }

    /// A broker within a program that keeps its data in `dir`, every listener on a loopback port of
    /// the system's choice. The directory is created if absent.
    #[must_use]
    pub fn on_dir(dir: impl AsRef<Path>) -> Self {
        Self {
            data_dir: Some(dir.as_ref().to_owned()),
            ..Self::embedded()
        }
    }

    fn embedded() -> Self {
        let listeners = Listeners {
            kafka: ListenAddr::any_port(),
            grpc: ListenAddr::any_port(),
            http: ListenAddr::any_port(),
            ..Listeners::default()
        };
        let log = LogSettings {
            segment_bytes: LogSettings::EMBEDDED_SEGMENT_BYTES,
            ..LogSettings::default()
        };
        let topics = TopicSettings {
            internal_num_partitions: 1,
            ..TopicSettings::default()
        };
        let groups = GroupSettings {
            initial_rebalance_delay_ms: 0,
            ..GroupSettings::default()
        };
        Self {
            listeners,
            log,
            topics,
            groups,
            ..Self::default()
        }
    }

    /// Whether nothing is kept on disk.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.data_dir.is_none()
    }

    /// Sets this broker's id.
    #[must_use]
    pub fn with_node_id(mut self, node_id: i32) -> Self {
        self.node_id = node_id;
        self
    }

    /// Sets where the Kafka protocol is listened for.
    #[must_use]
    pub fn with_kafka(mut self, address: ListenAddr) -> Self {
        self.listeners.kafka = address;
        self
    }

    /// Sets where gRPC is listened for.
    #[must_use]
    pub fn with_grpc(mut self, address: ListenAddr) -> Self {
        self.listeners.grpc = address;
        self
    }

    /// Sets where HTTP is listened for.
    #[must_use]
    pub fn with_http(mut self, address: ListenAddr) -> Self {
        self.listeners.http = address;
        self
    }

    /// Sets when appended records are made durable, for topics that do not say otherwise.
    #[must_use]
    pub fn with_flush(mut self, flush: FlushMode) -> Self {
        self.log.flush = flush;
        self
    }

    /// Sets the segment size in bytes, for topics that do not say otherwise.
    #[must_use]
    pub fn with_segment_bytes(mut self, segment_bytes: u64) -> Self {
        self.log.segment_bytes = segment_bytes;
        self
    }

    /// Sets how many bytes an in-memory broker may hold.
    #[must_use]
    pub fn with_memory_capacity_bytes(mut self, capacity_bytes: u64) -> Self {
        self.memory_capacity_bytes = capacity_bytes;
        self
    }

    /// Sets whether a topic is created when it is first used.
    #[must_use]
    pub fn with_auto_create_topics(mut self, enable: bool) -> Self {
        self.topics.auto_create_topics_enable = enable;
        self
    }

    /// Sets the partitions of topics that do not say how many.
    #[must_use]
    pub fn with_num_partitions(mut self, partitions: i32) -> Self {
        self.topics.num_partitions = partitions;
        self
    }

    /// Reads the TOML form. Absent keys have the standalone broker's defaults.
    ///
    /// # Errors
    /// Every problem found: malformed TOML, unknown keys (with the nearest known one), values that
    /// do not parse or lie out of range.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let layers = Layers {
            file: Some((PathBuf::from("configuration"), text.to_owned())),
            ..Layers::default()
        };
        Ok(layers.load()?.config)
    }

    /// Checks every setting and how they fit together.
    ///
    /// # Errors
    /// Every problem, not only the first.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        for setting in settings() {
            if let Err(message) = setting.check_range(&setting.get(self)) {
                problems.push(Problem::new(setting.name, message));
            }
        }
        self.check_listeners(&mut problems);
        self.check_limits(&mut problems);
        self.check_groups(&mut problems);
        let lags = ("log.min_compaction_lag_ms", "log.max_compaction_lag_ms");
        if let Some(problem) = self.log.lag_conflict(lags.0, lags.1) {
            problems.push(problem);
        }
        if let Some(problem) = self.log.flush_conflict("log.flush", "log.flush_messages") {
            problems.push(problem);
        }
        match &self.data_dir {
            Some(dir) if dir.as_os_str().is_empty() => {
                problems.push(Problem::new("data_dir", "is empty; name a directory"));
            }
            None if self.memory_capacity_bytes < self.log.segment_bytes => {
                problems.push(Problem::new(
                    "memory_capacity_bytes",
                    format!(
                        "{} is less than one segment (log.segment_bytes is {})",
                        self.memory_capacity_bytes, self.log.segment_bytes
                    ),
                ));
            }
            _ => {}
        }
        ConfigError::unless_empty(problems)
    }

    fn check_listeners(&self, problems: &mut Vec<Problem>) {
        let listeners = &self.listeners;
        let all = [
            ("listeners.kafka", &listeners.kafka),
            ("listeners.grpc", &listeners.grpc),
            ("listeners.http", &listeners.http),
        ];
        for (index, (name, address)) in all.iter().enumerate() {
            if let ListenAddr::At(text) = address
                && let Err(message) = values::check_host_port(text)
            {
                problems.push(Problem::new(name, message));
            }
            let fixed_port = address.port().is_some_and(|port| port != 0);
            for (other, same) in all.iter().skip(index + 1) {
                if fixed_port && address == same {
                    problems.push(Problem::new(
                        other,
                        format!("{same} is also {name}; give each listener a port of its own"),
                    ));
                }
            }
        }
        for (name, address) in [
            ("listeners.advertised_kafka", &listeners.advertised_kafka),
            ("listeners.advertised_grpc", &listeners.advertised_grpc),
            ("listeners.advertised_http", &listeners.advertised_http),
        ] {
            if let Some(text) = address
                && let Err(message) = values::check_host_port(text)
            {
                problems.push(Problem::new(name, message));
            }
        }
    }

    fn check_groups(&self, problems: &mut Vec<Problem>) {
        let groups = &self.groups;
        if groups.min_session_timeout_ms > groups.max_session_timeout_ms {
            let message = format!(
                "{} ms is more than groups.max_session_timeout_ms, which is {} ms",
                groups.min_session_timeout_ms, groups.max_session_timeout_ms
            );
            problems.push(Problem::new("groups.min_session_timeout_ms", message));
        }
        if groups.consumer_heartbeat_interval_ms >= groups.consumer_session_timeout_ms {
            let message = format!(
                "{} ms is not less than groups.consumer_session_timeout_ms, which is {} ms: members would be removed \
                 between two heartbeats",
                groups.consumer_heartbeat_interval_ms, groups.consumer_session_timeout_ms
            );
            problems.push(Problem::new(
                "groups.consumer_heartbeat_interval_ms",
                message,
            ));
        }
    }

    fn check_limits(&self, problems: &mut Vec<Problem>) {
        let limits = &self.limits;
        let mut at_least = |name: &'static str, value: usize, other: &str, least: usize| {
            if value < least {
                problems.push(Problem::new(
                    name,
                    format!("{value} is less than {other} ({least})"),
                ));
            }
        };
        at_least(
            "limits.max_request_bytes",
            limits.max_request_bytes,
            "log.max_message_bytes",
            usize::try_from(self.log.max_message_bytes).unwrap_or(usize::MAX),
        );
        at_least(
            "limits.max_inflight_bytes_per_connection",
            limits.max_inflight_bytes_per_connection,
            "limits.max_request_bytes",
            limits.max_request_bytes,
        );
        at_least(
            "limits.max_inflight_bytes",
            limits.max_inflight_bytes,
            "limits.max_inflight_bytes_per_connection",
            limits.max_inflight_bytes_per_connection,
        );
        at_least(
            "limits.max_response_bytes",
            limits.max_response_bytes,
            "limits.max_response_bytes_per_connection",
            limits.max_response_bytes_per_connection,
        );
    }
}

impl LogSettings {
    /// Segments whose last record is older are deleted; `None` keeps them for ever.
    #[must_use]
    pub fn retention(&self) -> Option<Duration> {
        u64::try_from(self.retention_ms)
            .ok()
            .map(Duration::from_millis)
    }

    /// Records after which to sync, if any; 1 is expressed by [`LogSettings::flushes_per_ack`] instead.
    #[must_use]
    pub fn flush_records(&self) -> Option<u64> {
        u64::try_from(self.flush_messages)
            .ok()
            .filter(|n| *n > 1 && self.flush_messages != i64::MAX)
    }

    /// How long a record may wait for a sync, if at most so long.
    #[must_use]
    pub fn flush_interval(&self) -> Option<Duration> {
        let wait = u64::try_from(self.flush_ms).ok()?;
        (self.flush_ms != i64::MAX).then(|| Duration::from_millis(wait))
    }

    /// The longest that a record may wait for compaction, if there is a limit.
    #[must_use]
    pub fn max_compaction_lag(&self) -> Option<Duration> {
        let lag = u64::try_from(self.max_compaction_lag_ms).ok()?;
        (self.max_compaction_lag_ms != i64::MAX).then(|| Duration::from_millis(lag))
    }

    /// A record must be allowed to be compacted before it has to be.
    fn lag_conflict(&self, min: &str, max: &str) -> Option<Problem> {
        let longest = u64::try_from(self.max_compaction_lag_ms).unwrap_or(0);
        (self.min_compaction_lag_ms > longest).then(|| {
            let least = self.min_compaction_lag_ms;
            Problem::new(min, format!("{least} is more than {max} ({longest})"))
        })
    }

    /// Whether a record is synced before it is acknowledged or shown, for a topic with so many replicas.
    #[must_use]
    pub fn flushes_per_ack(&self, replicas: usize) -> bool {
        match self.flush {
            FlushMode::PerAck => true,
            FlushMode::Os => false,
            FlushMode::Auto if self.flush_messages == 1 => true,
            FlushMode::Auto => {
                let scheduled = self.flush_records().is_some() || self.flush_interval().is_some();
                replicas <= 1 && !scheduled
            }
        }
    }

    /// `os` and a sync after every record contradict each other.
    fn flush_conflict(&self, flush: &str, flush_messages: &str) -> Option<Problem> {
        (self.flush == FlushMode::Os && self.flush_messages == 1).then(|| {
            Problem::new(
                flush,
                format!(
                    "os contradicts {flush_messages}=1, which is a sync per ack; set one of the two"
                ),
            )
        })
    }
}

/// Something wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, or the key that is no setting.
    pub key: String,
    /// What is wrong with it, with the value, and what to do.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(key: &str, message: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Everything wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one problem.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self { problems })
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "invalid configuration: {one}"),
            many => {
                write!(f, "invalid configuration, {} problems:", many.len())?;
                for problem in many {
                    write!(f, "\n  {problem}")?;
                }
                Ok(())
            }
        }
    }
}

/// The known name most like `name`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

impl serde::Serialize for Config {
    /// Writes the form of the TOML file.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut root: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
        for setting in settings() {
            let Some(value) = setting.json(self) else {
                continue;
            };
            match setting.name.split_once('.') {
                None => {
                    root.insert(setting.name, value);
                }
                Some((section, name)) => {
                    let entry = root.entry(section).or_insert_with(|| serde_json::json!({}));
                    entry[name] = value;
                }
            }
        }
        serde::Serialize::serialize(&root, serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Config {
    /// Reads the form of the TOML file. Absent keys have the standalone broker's defaults.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let table = <toml::Table as serde::Deserialize>::deserialize(deserializer)?;
        let text = toml::to_string(&table).map_err(D::Error::custom)?;
        Self::from_toml(&text).map_err(D::Error::custom)
    }
}
