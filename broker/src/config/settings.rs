//! The table of settings: name, Kafka's name, unit, range and meaning of each, and how to get and set it.
//!
//! It drives the configuration file, the environment variables, the flags, `logweir config` and the
//! description of topic configuration, so that none of them can disagree.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Config, LogSettings, bytes_to_digits, duration_to_digits, values};

/// What kind of value a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A number of bytes; units such as `64KiB` or `1GiB` are understood in file, environment and flags.
    Bytes,
    /// A number of milliseconds; units such as `90s`, `12h` or `7d` are understood in file, environment and flags.
    Milliseconds,
    /// A plain whole number.
    Number,
    /// A number from 0 to 1.
    Ratio,
    /// `true` or `false`.
    Switch,
    /// `HOST:PORT`, or `off`.
    Listener,
    /// `HOST:PORT`.
    Address,
    /// A path.
    Path,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Free text.
    Text,
}

impl Kind {
    /// The kind in words.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Bytes => "bytes (also 64KiB, 128MiB, 1GiB)".to_owned(),
            Self::Milliseconds => "milliseconds (also 500ms, 90s, 15m, 12h, 7d)".to_owned(),
            Self::Number => "number".to_owned(),
            Self::Ratio => "number from 0 to 1".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Listener => "HOST:PORT or off".to_owned(),
            Self::Address => "HOST:PORT".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Choice(words) => words.join(" | "),
            Self::Text => "text".to_owned(),
        }
    }

    fn is_numeric(self) -> bool {
        matches!(self, Self::Bytes | Self::Milliseconds | Self::Number)
    }
}

/// How a setting is read from and written to the structures.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// Of the broker.
    Broker {
        get: fn(&Config) -> String,
        set: fn(&mut Config, &str) -> Result<(), String>,
    },
    /// Of a topic, with the broker's value as default.
    Topic {
        get: fn(&LogSettings) -> String,
        set: fn(&mut LogSettings, &str) -> Result<(), String>,
    },
}

/// One documented setting.
pub struct Setting {
    /// The key in the configuration file, `section.name`, such as `log.retention_ms`.
    pub name: &'static str,
    /// The name of the same setting in Kafka's broker configuration, if there is one.
    pub kafka: Option<&'static str>,
    /// The name in topic configuration, if topics can have a value of their own.
    pub topic: Option<&'static str>,
    /// The long flag of `logweir serve` that sets it, if there is one beside `--set`.
    pub flag: Option<&'static str>,
    /// What kind of value it takes.
    pub kind: Kind,
    /// The least and the largest number, both included, for numeric kinds.
    pub range: (i64, i64),
    /// What it does, in full sentences.
    pub doc: &'static str,
    pub(super) access: Access,
}

impl Setting {
    /// The environment variable that sets it, such as `LOGWEIR_LOG_RETENTION_MS`.
    #[must_use]
    pub fn environment_name(&self) -> String {
        format!(
            "LOGWEIR_{}",
            self.name.replace('.', "_").to_ascii_uppercase()
        )
    }

    /// The value in `config` as text; empty if there is none.
    #[must_use]
    pub fn get(&self, config: &Config) -> String {
        match self.access {
            Access::Broker { get, .. } => get(config),
            Access::Topic { get, .. } => get(&config.log),
        }
    }

    /// Sets the value from text, checking form and range.
    ///
    /// # Errors
    /// What is wrong with the text; `config` is then unchanged.
    pub fn set(&self, config: &mut Config, text: &str) -> Result<(), String> {
        let plain = self.without_unit(text)?;
        self.check_range(&plain)?;
        match self.access {
            Access::Broker { set, .. } => set(config, &plain),
            Access::Topic { set, .. } => set(&mut config.log, &plain),
        }
    }

    /// The range in words; empty for kinds that have none.
    #[must_use]
    pub fn describe_range(&self) -> String {
        if !self.kind.is_numeric() {
            return String::new();
        }
        match self.range {
            (least, i64::MAX) => format!("at least {least}"),
            (least, most) => format!("{least} to {most}"),
        }
    }

    /// Plain digits for a number with a unit, where the kind has units.
    pub(crate) fn without_unit(&self, text: &str) -> Result<String, String> {
        match self.kind {
            Kind::Bytes => bytes_to_digits(text),
            Kind::Milliseconds => duration_to_digits(text),
            _ => Ok(text.to_owned()),
        }
    }

    /// Checks a plain value against the range, for numeric kinds.
    pub(super) fn check_range(&self, plain: &str) -> Result<(), String> {
        if !self.kind.is_numeric() {
            return Ok(());
        }
        let number: i64 = plain
            .parse()
            .map_err(|_| format!("{plain:?} is not a whole number"))?;
        let (least, most) = self.range;
        if number < least {
            return Err(format!(
                "{number} is less than {least}, the least that is allowed"
            ));
        }
        if number > most {
            return Err(format!(
                "{number} is more than {most}, the most that is allowed"
            ));
        }
        Ok(())
    }

    /// The value as it stands in a file; `None` for a value that is not set.
    pub(super) fn json(&self, config: &Config) -> Option<serde_json::Value> {
        let text = self.get(config);
        match self.kind {
            Kind::Bytes | Kind::Milliseconds | Kind::Number => {
                text.parse::<i64>().ok().map(Into::into)
            }
            Kind::Ratio => text.parse::<f64>().ok().map(Into::into),
            Kind::Switch => Some((text == "true").into()),
            Kind::Address | Kind::Path if text.is_empty() => None,
            _ => Some(text.into()),
        }
    }
}

/// Every setting, in the order of the configuration file.
pub fn settings() -> impl Iterator<Item = &'static Setting> + Clone {
    BROKER
        .iter()
        .chain(LISTENERS)
        .chain(LOG)
        .chain(compaction::COMPACTION)
        .chain(TOPICS)
        .chain(groups::GROUPS)
        .chain(LIMITS)
        .chain(LOG_DIR)
}

/// The settings that topics can have values of their own for.
pub(super) fn topic_settings() -> impl Iterator<Item = &'static Setting> {
    LOG.iter().chain(compaction::COMPACTION)
}

fn put<T: FromStr<Err: Display>>(at: &mut T, text: &str) -> Result<(), String> {
    *at = text
        .parse()
        .map_err(|error| format!("{text:?} is not valid: {error}"))?;
    Ok(())
}

fn put_choice<T: FromStr<Err = String>>(at: &mut T, text: &str) -> Result<(), String> {
    *at = text.parse()?;
    Ok(())
}

fn put_switch(at: &mut bool, text: &str) -> Result<(), String> {
    *at = match text {
        "true" => true,
        "false" => false,
        _ => return Err(format!("{text:?} is neither true nor false")),
    };
    Ok(())
}

fn put_address(at: &mut Option<String>, text: &str) -> Result<(), String> {
    if text.is_empty() {
        *at = None;
    } else {
        values::check_host_port(text)?;
        *at = Some(text.to_owned());
    }
    Ok(())
}

fn set_data_dir(config: &mut Config, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty; name a directory".to_owned());
    }
    config.data_dir = Some(PathBuf::from(text));
    Ok(())
}

fn set_in_memory(config: &mut Config, text: &str) -> Result<(), String> {
    let mut in_memory = false;
    put_switch(&mut in_memory, text)?;
    if in_memory {
        config.data_dir = None;
    } else if config.data_dir.is_none() {
        config.data_dir = Config::default().data_dir;
    }
    Ok(())
}

/// What most settings share; `..PLAIN` stands for "no other name, no flag".
const PLAIN: Setting = Setting {
    name: "",
    kafka: None,
    topic: None,
    flag: None,
    kind: Kind::Text,
    range: (i64::MIN, i64::MAX),
    doc: "",
    access: Access::Broker {
        get: |_| String::new(),
        set: |_, _| Ok(()),
    },
};

static BROKER: &[Setting] = &[
    Setting {
        name: "node_id",
        kafka: Some("node.id"),
        flag: Some("node-id"),
        kind: Kind::Number,
        range: (0, i32::MAX as i64),
        doc: "This broker's id in the cluster. It belongs to the data directory and cannot be changed later.",
        access: Access::Broker {
            get: |c| c.node_id.to_string(),
            set: |c, v| put(&mut c.node_id, v),
        },
        ..PLAIN
    },
    Setting {
        name: "data_dir",
        kafka: Some("log.dirs"),
        flag: Some("data-dir"),
        kind: Kind::Path,
        doc: "The directory that holds everything: records, metadata, identity. Created if absent. One process at a time.",
        access: Access::Broker {
            get: |c| {
                c.data_dir
                    .as_ref()
                    .map(|dir| dir.display().to_string())
                    .unwrap_or_default()
            },
            set: set_data_dir,
        },
        ..PLAIN
    },
    Setting {
        name: "in_memory",
        flag: Some("in-memory"),
        kind: Kind::Switch,
        doc: "Keep everything in memory, and nothing after the end of the process. Takes the place of data_dir.",
        access: Access::Broker {
            get: |c| c.is_in_memory().to_string(),
            set: set_in_memory,
        },
        ..PLAIN
    },
    Setting {
        name: "memory_capacity_bytes",
        kind: Kind::Bytes,
        range: (1 << 20, i64::MAX),
        doc: "How much an in-memory broker may hold. When it is full, appends are refused until retention or deletion \
              makes room; reads go on.",
        access: Access::Broker {
            get: |c| c.memory_capacity_bytes.to_string(),
            set: |c, v| put(&mut c.memory_capacity_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log_level",
        flag: Some("log-level"),
        kind: Kind::Text,
        doc: "Which log lines are written to standard error: error, warn, info, debug, trace, or tracing's filter \
              directives such as info,logweir::grpc=debug.",
        access: Access::Broker {
            get: |c| c.log_level.clone(),
            set: |c, v| {
                if v.is_empty() {
                    return Err("is empty; say error, warn, info, debug or trace".to_owned());
                }
                c.log_level = v.to_owned();
                Ok(())
            },
        },
        ..PLAIN
    },
    Setting {
        name: "log_format",
        flag: Some("log-format"),
        kind: Kind::Choice(&["text", "json"]),
        doc: "How log lines are written: text for people, json for machines, one object a line.",
        access: Access::Broker {
            get: |c| c.log_format.to_string(),
            set: |c, v| put_choice(&mut c.log_format, v),
        },
        ..PLAIN
    },
];

static LISTENERS: &[Setting] = &[
    Setting {
        name: "listeners.kafka",
        flag: Some("kafka"),
        kind: Kind::Listener,
        doc: "Where the Kafka protocol is served. Nobody is asked who they are, so use an address that only trusted \
              programs reach. Port 0 lets the system choose.",
        access: Access::Broker {
            get: |c| c.listeners.kafka.to_string(),
            set: |c, v| put_choice(&mut c.listeners.kafka, v),
        },
        ..PLAIN
    },
    Setting {
        name: "listeners.grpc",
        flag: Some("grpc"),
        kind: Kind::Listener,
        doc: "Where gRPC is served. Nobody is asked who they are, so use an address that only trusted programs \
              reach. Port 0 lets the system choose.",
        access: Access::Broker {
            get: |c| c.listeners.grpc.to_string(),
            set: |c, v| put_choice(&mut c.listeners.grpc, v),
        },
        ..PLAIN
    },
    Setting {
        name: "listeners.http",
        flag: Some("http"),
        kind: Kind::Listener,
        doc: "Where /metrics, /healthz and /readyz are served. Port 0 lets the system choose.",
        access: Access::Broker {
            get: |c| c.listeners.http.to_string(),
            set: |c, v| put_choice(&mut c.listeners.http, v),
        },
        ..PLAIN
    },
    Setting {
        name: "listeners.advertised_kafka",
        kind: Kind::Address,
        doc: "The address that clients are told for the Kafka listener: where a port is mapped, the one outside. Empty \
              tells each client the address at which it reached the broker.",
        access: Access::Broker {
            get: |c| c.listeners.advertised_kafka.clone().unwrap_or_default(),
            set: |c, v| put_address(&mut c.listeners.advertised_kafka, v),
        },
        ..PLAIN
    },
    Setting {
        name: "listeners.advertised_grpc",
        kind: Kind::Address,
        doc: "The address that clients are told for the gRPC listener. Empty means where it listens.",
        access: Access::Broker {
            get: |c| c.listeners.advertised_grpc.clone().unwrap_or_default(),
            set: |c, v| put_address(&mut c.listeners.advertised_grpc, v),
        },
        ..PLAIN
    },
    Setting {
        name: "listeners.advertised_http",
        kind: Kind::Address,
        doc: "The address that others are told for the HTTP listener. Empty means where it listens.",
        access: Access::Broker {
            get: |c| c.listeners.advertised_http.clone().unwrap_or_default(),
            set: |c, v| put_address(&mut c.listeners.advertised_http, v),
        },
        ..PLAIN
    },
];

mod compaction;
mod groups;

static LOG: &[Setting] = &[
    Setting {
        name: "log.segment_bytes",
        kafka: Some("log.segment.bytes"),
        topic: Some("segment.bytes"),
        kind: Kind::Bytes,
        range: (4_096, i32::MAX as i64),
        doc: "A segment file is rolled before it grows beyond this. Retention deletes whole segments, so smaller \
              segments are deleted more exactly. In-memory and embedded brokers default to 16 MiB.",
        access: Access::Topic {
            get: |l| l.segment_bytes.to_string(),
            set: |l, v| put(&mut l.segment_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.segment_ms",
        kafka: Some("log.roll.ms"),
        topic: Some("segment.ms"),
        kind: Kind::Milliseconds,
        range: (1, i64::MAX),
        doc: "A segment file is rolled when its first record is this old, so that retention can delete it.",
        access: Access::Topic {
            get: |l| l.segment_ms.to_string(),
            set: |l, v| put(&mut l.segment_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.retention_ms",
        kafka: Some("log.retention.ms"),
        topic: Some("retention.ms"),
        kind: Kind::Milliseconds,
        range: (-1, i64::MAX),
        doc: "Segments whose newest record is older than this are deleted. -1 keeps them for ever.",
        access: Access::Topic {
            get: |l| l.retention_ms.to_string(),
            set: |l, v| put(&mut l.retention_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.retention_bytes",
        kafka: Some("log.retention.bytes"),
        topic: Some("retention.bytes"),
        kind: Kind::Bytes,
        range: (-1, i64::MAX),
        doc: "The oldest segments of a partition are deleted while what remains is at least this. Counted per \
              partition. -1 sets no limit.",
        access: Access::Topic {
            get: |l| l.retention_bytes.to_string(),
            set: |l, v| put(&mut l.retention_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.max_message_bytes",
        kafka: Some("message.max.bytes"),
        topic: Some("max.message.bytes"),
        kind: Kind::Bytes,
        range: (0, 1 << 30),
        doc: "A larger record batch (after compression) is refused with MESSAGE_TOO_LARGE.",
        access: Access::Topic {
            get: |l| l.max_message_bytes.to_string(),
            set: |l, v| put(&mut l.max_message_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.message_timestamp_type",
        kafka: Some("log.message.timestamp.type"),
        topic: Some("message.timestamp.type"),
        kind: Kind::Choice(&["CreateTime", "LogAppendTime"]),
        doc: "Whose clock stamps records: the producer's (CreateTime) or the broker's when it appends (LogAppendTime).",
        access: Access::Topic {
            get: |l| l.message_timestamp_type.to_string(),
            set: |l, v| put_choice(&mut l.message_timestamp_type, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.index_interval_bytes",
        kafka: Some("log.index.interval.bytes"),
        topic: Some("index.interval.bytes"),
        kind: Kind::Bytes,
        range: (0, i32::MAX as i64),
        doc: "One index entry is kept for about so many bytes of log. Fewer bytes find offsets faster and take more \
              room.",
        access: Access::Topic {
            get: |l| l.index_interval_bytes.to_string(),
            set: |l, v| put(&mut l.index_interval_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.compression_type",
        kafka: Some("compression.type"),
        topic: Some("compression.type"),
        kind: Kind::Choice(&["producer"]),
        doc: "How the broker keeps batches: producer keeps them as they were sent. Compressing anew is not available.",
        access: Access::Topic {
            get: |l| l.compression_type.to_string(),
            set: |l, v| put_choice(&mut l.compression_type, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.min_insync_replicas",
        kafka: Some("min.insync.replicas"),
        topic: Some("min.insync.replicas"),
        kind: Kind::Number,
        range: (1, i32::MAX as i64),
        doc: "How many in-sync replicas acks=all needs, the leader included. The number that counts is at most the \
              topic's replication factor.",
        access: Access::Topic {
            get: |l| l.min_insync_replicas.to_string(),
            set: |l, v| put(&mut l.min_insync_replicas, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.flush",
        topic: Some("logweir.flush"),
        flag: Some("flush"),
        kind: Kind::Choice(&["auto", "per-ack", "os"]),
        doc: "When records reach the disk for certain. per-ack: before they are acknowledged or shown to a reader, so \
              that a power cut takes back nothing; many waiting producers share one sync. os: when the operating system \
              likes; a killed broker loses nothing, a power cut may lose the last seconds. auto: per-ack for topics with \
              one replica that set neither flush.messages nor flush.ms, else os.",
        access: Access::Topic {
            get: |l| l.flush.to_string(),
            set: |l, v| put_choice(&mut l.flush, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.flush_messages",
        kafka: Some("log.flush.interval.messages"),
        topic: Some("flush.messages"),
        kind: Kind::Number,
        range: (1, i64::MAX),
        doc: "Sync after so many records. 1 is the same as logweir.flush=per-ack: nothing is acknowledged or shown \
              before it is on disk. 9223372036854775807 is never.",
        access: Access::Topic {
            get: |l| l.flush_messages.to_string(),
            set: |l, v| put(&mut l.flush_messages, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.flush_ms",
        kafka: Some("log.flush.interval.ms"),
        topic: Some("flush.ms"),
        kind: Kind::Milliseconds,
        range: (0, i64::MAX),
        doc: "Sync when a record has waited so long. 9223372036854775807 is never.",
        access: Access::Topic {
            get: |l| l.flush_ms.to_string(),
            set: |l, v| put(&mut l.flush_ms, v),
        },
        ..PLAIN
    },
];

static TOPICS: &[Setting] = &[
    Setting {
        name: "topics.num_partitions",
        kafka: Some("num.partitions"),
        kind: Kind::Number,
        range: (1, 10_000),
        doc: "How many partitions a topic gets that does not say.",
        access: Access::Broker {
            get: |c| c.topics.num_partitions.to_string(),
            set: |c, v| put(&mut c.topics.num_partitions, v),
        },
        ..PLAIN
    },
    Setting {
        name: "topics.default_replication_factor",
        kafka: Some("default.replication.factor"),
        kind: Kind::Number,
        range: (1, i16::MAX as i64),
        doc: "How many replicas a topic gets that does not say.",
        access: Access::Broker {
            get: |c| c.topics.default_replication_factor.to_string(),
            set: |c, v| put(&mut c.topics.default_replication_factor, v),
        },
        ..PLAIN
    },
    Setting {
        name: "topics.internal_num_partitions",
        kafka: Some("offsets.topic.num.partitions"),
        kind: Kind::Number,
        range: (1, 10_000),
        doc: "How many partitions each of the broker's own topics gets, such as __consumer_offsets, when it is first needed. \
              Fixed from then on: it decides which partition is responsible for a group. A broker within a program has 1 \
              unless it says otherwise.",
        access: Access::Broker {
            get: |c| c.topics.internal_num_partitions.to_string(),
            set: |c, v| put(&mut c.topics.internal_num_partitions, v),
        },
        ..PLAIN
    },
    Setting {
        name: "topics.auto_create_topics_enable",
        kafka: Some("auto.create.topics.enable"),
        kind: Kind::Switch,
        doc: "Whether a topic is created when a producer first uses it. Handy, and a typing error makes a topic.",
        access: Access::Broker {
            get: |c| c.topics.auto_create_topics_enable.to_string(),
            set: |c, v| put_switch(&mut c.topics.auto_create_topics_enable, v),
        },
        ..PLAIN
    },
    Setting {
        name: "topics.delete_topic_enable",
        kafka: Some("delete.topic.enable"),
        kind: Kind::Switch,
        doc: "Whether topics may be deleted.",
        access: Access::Broker {
            get: |c| c.topics.delete_topic_enable.to_string(),
            set: |c, v| put_switch(&mut c.topics.delete_topic_enable, v),
        },
        ..PLAIN
    },
];

static LIMITS: &[Setting] = &[
    Setting {
        name: "limits.max_connections",
        kafka: Some("max.connections"),
        kind: Kind::Number,
        range: (1, 1_000_000),
        doc: "Connections of one listener at a time; more are closed at once.",
        access: Access::Broker {
            get: |c| c.limits.max_connections.to_string(),
            set: |c, v| put(&mut c.limits.max_connections, v),
        },
        ..PLAIN
    },
    Setting {
        name: "limits.max_request_bytes",
        kafka: Some("socket.request.max.bytes"),
        kind: Kind::Bytes,
        range: (1_024, 1 << 30),
        doc: "A larger request is refused. At least log.max_message_bytes. Requests that carry no records have a limit of \
              4 MiB.",
        access: Access::Broker {
            get: |c| c.limits.max_request_bytes.to_string(),
            set: |c, v| put(&mut c.limits.max_request_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "limits.max_inflight_bytes_per_connection",
        kind: Kind::Bytes,
        range: (1_024, i64::MAX),
        doc: "Bytes that the unanswered requests of one connection may take in the broker, decoded; a call that passes \
              it fails.",
        access: Access::Broker {
            get: |c| c.limits.max_inflight_bytes_per_connection.to_string(),
            set: |c, v| put(&mut c.limits.max_inflight_bytes_per_connection, v),
        },
        ..PLAIN
    },
    Setting {
        name: "limits.max_inflight_bytes",
        kafka: Some("queued.max.request.bytes"),
        kind: Kind::Bytes,
        range: (1_024, i64::MAX),
        doc: "Bytes that the unanswered requests of all connections may take in the broker, decoded; beyond that they \
              are not read from until some are answered.",
        access: Access::Broker {
            get: |c| c.limits.max_inflight_bytes.to_string(),
            set: |c, v| put(&mut c.limits.max_inflight_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "limits.max_response_bytes_per_connection",
        kind: Kind::Bytes,
        range: (1 << 20, i64::MAX),
        doc: "Bytes of records on their way to one connection that its peer has not taken yet; more is not sent until it \
              has. A connection may have 2 MiB beside that, whatever others hold.",
        access: Access::Broker {
            get: |c| c.limits.max_response_bytes_per_connection.to_string(),
            set: |c, v| put(&mut c.limits.max_response_bytes_per_connection, v),
        },
        ..PLAIN
    },
    Setting {
        name: "limits.max_response_bytes",
        kind: Kind::Bytes,
        range: (1 << 20, i64::MAX),
        doc: "Bytes of records on their way to all connections that their peers have not taken yet; more is not sent \
              until they have.",
        access: Access::Broker {
            get: |c| c.limits.max_response_bytes.to_string(),
            set: |c, v| put(&mut c.limits.max_response_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "limits.connections_max_idle_ms",
        kafka: Some("connections.max.idle.ms"),
        kind: Kind::Milliseconds,
        range: (1_000, i64::MAX),
        doc: "A connection whose peer gave no sign of life for so long, not even an answer to a ping, is closed.",
        access: Access::Broker {
            get: |c| c.limits.connections_max_idle_ms.to_string(),
            set: |c, v| put(&mut c.limits.connections_max_idle_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "limits.max_topics",
        kind: Kind::Number,
        range: (1, 1_000_000),
        doc: "Topics of the cluster; more are refused.",
        access: Access::Broker {
            get: |c| c.limits.max_topics.to_string(),
            set: |c, v| put(&mut c.limits.max_topics, v),
        },
        ..PLAIN
    },
    Setting {
        name: "limits.max_partitions",
        kind: Kind::Number,
        range: (1, 1_000_000),
        doc: "Partitions of all topics together; more are refused.",
        access: Access::Broker {
            get: |c| c.limits.max_partitions.to_string(),
            set: |c, v| put(&mut c.limits.max_partitions, v),
        },
        ..PLAIN
    },
];

static LOG_DIR: &[Setting] = &[
    Setting {
        name: "log_dir.max_unflushed_bytes",
        kind: Kind::Bytes,
        range: (1 << 20, i64::MAX),
        doc: "Bytes not yet on disk are kept below this in all by syncing in the background, so that a restart after a \
              crash checks no more than this, however long the log is.",
        access: Access::Broker {
            get: |c| c.log_dir.max_unflushed_bytes.to_string(),
            set: |c, v| put(&mut c.log_dir.max_unflushed_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log_dir.reserve_bytes",
        kind: Kind::Bytes,
        range: (0, i64::MAX),
        doc: "A file of this size is given up when the disk is full, so that metadata and retention go on working.",
        access: Access::Broker {
            get: |c| c.log_dir.reserve_bytes.to_string(),
            set: |c, v| put(&mut c.log_dir.reserve_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log_dir.checkpoint_interval_ms",
        kafka: Some("log.flush.offset.checkpoint.interval.ms"),
        kind: Kind::Milliseconds,
        range: (10, i64::MAX),
        doc: "How often the points are written from which a restart after a crash checks the log.",
        access: Access::Broker {
            get: |c| c.log_dir.checkpoint_interval_ms.to_string(),
            set: |c, v| put(&mut c.log_dir.checkpoint_interval_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log_dir.retention_check_interval_ms",
        kafka: Some("log.retention.check.interval.ms"),
        kind: Kind::Milliseconds,
        range: (1, i64::MAX),
        doc: "How often old segments are looked for, and partitions that are due to be compacted.",
        access: Access::Broker {
            get: |c| c.log_dir.retention_check_interval_ms.to_string(),
            set: |c, v| put(&mut c.log_dir.retention_check_interval_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log_dir.compaction_buffer_bytes",
        kafka: Some("log.cleaner.dedupe.buffer.size"),
        kind: Kind::Bytes,
        range: (1 << 20, i64::MAX),
        doc: "Memory that the keys of a compaction may take, of which there is one at a time: each takes its length and \
              about 25 bytes. What does not fit is compacted in another pass over the partition.",
        access: Access::Broker {
            get: |c| c.log_dir.compaction_buffer_bytes.to_string(),
            set: |c, v| put(&mut c.log_dir.compaction_buffer_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log_dir.compaction_max_bytes_per_second",
        kafka: Some("log.cleaner.io.max.bytes.per.second"),
        kind: Kind::Bytes,
        range: (1 << 10, i64::MAX),
        doc: "Bytes that a compaction reads in a second at most, so that it leaves the disk to others. \
              9223372036854775807 sets no limit.",
        access: Access::Broker {
            get: |c| c.log_dir.compaction_max_bytes_per_second.to_string(),
            set: |c, v| put(&mut c.log_dir.compaction_max_bytes_per_second, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log_dir.producer_id_expiration_ms",
        kafka: Some("producer.id.expiration.ms"),
        kind: Kind::Milliseconds,
        range: (1, i64::MAX),
        doc: "A producer that appended nothing to a partition for so long is forgotten there; duplicates of its older \
              batches are then no longer noticed.",
        access: Access::Broker {
            get: |c| c.log_dir.producer_id_expiration_ms.to_string(),
            set: |c, v| put(&mut c.log_dir.producer_id_expiration_ms, v),
        },
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_reads_back_the_default_it_writes() {
        let default = Config::default();
        for setting in settings() {
            let text = setting.get(&default);
            if text.is_empty() {
                continue;
            }
            let mut config = Config::in_memory();
            config.data_dir = default.data_dir.clone();
            setting
                .set(&mut config, &text)
                .unwrap_or_else(|e| panic!("{}: {e}", setting.name));
            assert_eq!(setting.get(&config), text, "{}", setting.name);
        }
    }

    #[test]
    fn no_two_settings_share_a_name_a_variable_or_a_flag() {
        let mut names = BTreeSet::new();
        for setting in settings() {
            assert!(names.insert(setting.name.to_owned()), "{}", setting.name);
            assert!(names.insert(setting.environment_name()), "{}", setting.name);
            if let Some(flag) = setting.flag {
                assert!(names.insert(format!("--{flag}")), "{flag}");
            }
            if let Some(topic) = setting.topic {
                assert!(names.insert(format!("topic {topic}")), "{topic}");
            }
        }
    }

    #[test]
    fn every_setting_is_documented() {
        for setting in settings() {
            assert!(
                setting.doc.ends_with('.') && setting.doc.len() > 20,
                "{}",
                setting.name
            );
            assert!(
                !setting.doc.contains("  "),
                "{} has a gap in its text",
                setting.name
            );
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_limit() {
        let setting = settings().find(|s| s.name == "log.segment_bytes").unwrap();
        let mut config = Config::default();
        let refused = setting.set(&mut config, "1").unwrap_err();
        assert!(refused.contains("4096"), "{refused}");
        assert_eq!(config, Config::default());
    }
}
