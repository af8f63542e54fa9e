//! The configuration of one topic: what was set for it, over the broker's defaults.

use std::collections::BTreeMap;
use std::fmt;

use super::settings::{Access, Setting, topic_settings};
use super::{Config, ConfigError, LogSettings, Problem, nearest};

/// Topic settings of Kafka that this version does not have, with the reason, so that nobody takes them for typing errors.
const KAFKA_ONLY: [(&str, &str); 12] = [
    (
        "file.delete.delay.ms",
        "files are deleted at once; readers keep what they hold",
    ),
    ("preallocate", "blocks are always reserved ahead, in steps"),
    ("segment.index.bytes", "indexes grow as needed"),
    ("segment.jitter.ms", "partitions do not roll together"),
    (
        "unclean.leader.election.enable",
        "unclean elections are always off",
    ),
    (
        "message.timestamp.before.max.ms",
        "timestamps are not limited",
    ),
    (
        "message.timestamp.after.max.ms",
        "timestamps are not limited",
    ),
    (
        "message.downconversion.enable",
        "only record batches of version 2 are kept",
    ),
    (
        "message.format.version",
        "only record batches of version 2 are kept",
    ),
    ("remote.storage.enable", "there is no remote storage"),
    ("local.retention.ms", "there is no remote storage"),
    ("local.retention.bytes", "there is no remote storage"),
];

/// Who gave a topic's setting its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Logweir's default.
    Default,
    /// The broker's configuration.
    Broker,
    /// The topic's own configuration.
    Topic,
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Broker => "broker",
            Self::Topic => "topic",
        })
    }
}

/// One setting of a topic, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfigEntry {
    /// Kafka's name, such as `retention.ms`.
    pub key: &'static str,
    /// The value in force.
    pub value: String,
    /// Where it comes from.
    pub source: ConfigSource,
    /// What it does.
    pub doc: &'static str,
}

/// The configuration of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    values: LogSettings,
    entries: Vec<(ConfigSource, &'static str)>,
}

impl TopicConfig {
    /// Lays what was set for the topic, by Kafka's dotted names, over the broker's defaults.
    ///
    /// # Errors
    /// Every problem, as [`TopicConfig::validate`], and sizes that the broker's limits make impossible.
    pub fn new(broker: &Config, set: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut values = broker.log.clone();
        apply(&mut values, set, &mut problems);
        let largest = u64::try_from(broker.limits.max_request_bytes).unwrap_or(u64::MAX);
        if set.contains_key("max.message.bytes") && values.max_message_bytes > largest {
            problems.push(Problem::new(
                "max.message.bytes",
                format!(
                    "{} is more than a request may have on this broker (limits.max_request_bytes is {largest})",
                    values.max_message_bytes
                ),
            ));
        }
        ConfigError::unless_empty(problems)?;
        Ok(Self::layered(broker, values, set))
    }

    /// As [`TopicConfig::new`], but keeps going where something is wrong: such values are passed over. For
    /// configuration that was accepted once and is read back, perhaps by another version.
    #[must_use]
    pub fn new_lenient(broker: &Config, set: &BTreeMap<String, String>) -> Self {
        let mut values = broker.log.clone();
        apply(&mut values, set, &mut Vec::new());
        Self::layered(broker, values, set)
    }

    fn layered(broker: &Config, values: LogSettings, set: &BTreeMap<String, String>) -> Self {
        let default = Config::default();
        let embedded = Config::in_memory();
        let entries = topic_settings()
            .filter_map(|setting| {
                let name = setting.topic?;
                let of_broker = setting.get(broker);
                let source = if set.contains_key(name) {
                    ConfigSource::Topic
                } else if of_broker == setting.get(&default) || of_broker == setting.get(&embedded)
                {
                    ConfigSource::Default
                } else {
                    ConfigSource::Broker
                };
                Some((source, name))
            })
            .collect();
        Self { values, entries }
    }

    /// Checks what is to be set for a topic, without a broker.
    ///
    /// # Errors
    /// Every problem: names that are no topic settings (with the nearest that is), values that do not parse or lie
    /// out of range, values not available yet, and settings that contradict each other.
    pub fn validate(set: &BTreeMap<String, String>) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        apply(&mut LogSettings::default(), set, &mut problems);
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    /// The values in force.
    #[must_use]
    pub fn values(&self) -> &LogSettings {
        &self.values
    }

    /// Every setting, described, by name.
    #[must_use]
    pub fn entries(&self) -> Vec<TopicConfigEntry> {
        let mut entries: Vec<_> = topic_settings()
            .filter_map(|setting| {
                let key = setting.topic?;
                let source = self.entries.iter().find(|(_, name)| *name == key)?.0;
                let Access::Topic { get, .. } = setting.access else {
                    return None;
                };
                Some(TopicConfigEntry {
                    key,
                    value: get(&self.values),
                    source,
                    doc: setting.doc,
                })
            })
            .collect();
        entries.sort_by_key(|entry| entry.key);
        entries
    }

    /// Whether a record is synced before it is acknowledged or shown, for a topic with so many replicas.
    #[must_use]
    pub fn flushes_per_ack(&self, replicas: usize) -> bool {
        self.values.flushes_per_ack(replicas)
    }
}

/// The topic setting of a dotted name.
pub(crate) fn topic_setting(name: &str) -> Option<&'static Setting> {
    topic_settings().find(|setting| setting.topic == Some(name))
}

/// Sets what is right, and tells of the rest.
fn apply(values: &mut LogSettings, set: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    for (name, text) in set {
        let outcome = match topic_setting(name) {
            Some(setting) => set_one(setting, values, text),
            None => Err(unknown(name)),
        };
        if let Err(message) = outcome {
            problems.push(Problem::new(name, message));
        }
    }
    if let Some(problem) = values.lag_conflict("min.compaction.lag.ms", "max.compaction.lag.ms") {
        problems.push(problem);
    }
    // A contradiction that the broker's own defaults bring in is resolved in favour of what the topic says.
    if let Some(problem) = values.flush_conflict("logweir.flush", "flush.messages") {
        match (
            set.contains_key("logweir.flush"),
            set.contains_key("flush.messages"),
        ) {
            (true, false) => values.flush_messages = i64::MAX,
            (false, true) => values.flush = super::FlushMode::Auto,
            _ => problems.push(problem),
        }
    }
}

fn set_one(setting: &Setting, values: &mut LogSettings, text: &str) -> Result<(), String> {
    setting.check_range(text)?;
    match setting.access {
        Access::Topic { set, .. } => set(values, text),
        Access::Broker { .. } => Err("is not a topic setting".to_owned()),
    }
}

fn unknown(name: &str) -> String {
    if let Some((_, why)) = KAFKA_ONLY.iter().find(|(known, _)| *known == name) {
        return format!("is a setting of Kafka that Logweir does not have: {why}; leave it out");
    }
    let known = || topic_settings().filter_map(|setting| setting.topic);
    match nearest(name, known()) {
        Some(meant) => format!("is not a topic setting; did you mean {meant}?"),
        None => {
            format!(
                "is not a topic setting; there are {}",
                known().collect::<Vec<_>>().join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn per_ack(broker: &Config, pairs: &[(&str, &str)], replicas: usize) -> bool {
        let topic = TopicConfig::new(broker, &map(pairs)).unwrap();
        topic.flushes_per_ack(replicas)
    }

    #[test]
    fn topics_with_one_replica_flush_per_ack_unless_told_otherwise() {
        let (disk, memory) = (Config::default(), Config::in_memory());
        assert!(per_ack(&disk, &[], 1));
        assert!(!per_ack(&disk, &[], 2));
        assert!(
            per_ack(&memory, &[], 1),
            "a power cut can be simulated there"
        );
        assert!(!per_ack(&memory, &[("logweir.flush", "os")], 1));
        assert!(!per_ack(&disk, &[("logweir.flush", "os")], 1));
        assert!(per_ack(&disk, &[("logweir.flush", "per-ack")], 3));
        assert!(per_ack(&disk, &[("flush.messages", "1")], 3));
        assert!(!per_ack(&disk, &[("flush.messages", "1000")], 1));
        assert!(!per_ack(&disk, &[("flush.ms", "50")], 1));
    }

    #[test]
    fn a_topics_word_on_flushing_beats_the_brokers() {
        let os = Config::default().with_flush(super::super::FlushMode::Os);
        assert!(per_ack(&os, &[("flush.messages", "1")], 1));
        assert!(!per_ack(&os, &[], 1));
        let mut every = Config::default();
        every.log.flush_messages = 1;
        assert!(!per_ack(&every, &[("logweir.flush", "os")], 1));
    }

    #[test]
    fn contradicting_flush_settings_are_refused() {
        let set = map(&[("logweir.flush", "os"), ("flush.messages", "1")]);
        let problems = TopicConfig::validate(&set).unwrap_err();
        assert!(
            problems[0].message.contains("contradicts flush.messages=1"),
            "{problems:?}"
        );
    }

    #[test]
    fn each_value_says_where_it_comes_from() {
        let mut broker = Config::default();
        broker.log.segment_bytes = 1 << 20;
        let topic = TopicConfig::new(&broker, &map(&[("retention.ms", "-1")])).unwrap();
        assert_eq!(topic.values().retention(), None);
        let entry = |key| topic.entries().into_iter().find(|e| e.key == key).unwrap();
        assert_eq!(entry("retention.ms").source, ConfigSource::Topic);
        assert_eq!(entry("segment.bytes").source, ConfigSource::Broker);
        assert_eq!(entry("segment.bytes").value, "1048576");
        assert_eq!(entry("flush.ms").source, ConfigSource::Default);
        let embedded = TopicConfig::new(&Config::in_memory(), &map(&[])).unwrap();
        assert!(
            embedded
                .entries()
                .iter()
                .all(|e| e.source == ConfigSource::Default)
        );
    }

    #[test]
    fn every_problem_is_named_with_what_to_do() {
        let problems = TopicConfig::validate(&map(&[
            ("retention.mss", "5"),
            ("segment.bytes", "tiny"),
            ("cleanup.policy", "compress"),
            ("segment.jitter.ms", "5"),
            ("colour", "red"),
            ("max.message.bytes", "-1"),
        ]))
        .unwrap_err();
        let text = |key: &str| &problems.iter().find(|p| p.key == key).unwrap().message;
        assert!(text("retention.mss").contains("did you mean retention.ms?"));
        assert!(text("segment.bytes").contains("not a whole number"));
        assert!(text("cleanup.policy").contains("compact,delete"));
        assert!(text("segment.jitter.ms").contains("a setting of Kafka"));
        assert!(text("colour").contains("there are segment.bytes"));
        assert!(text("max.message.bytes").contains("less than 0"));
        assert_eq!(problems.len(), 6);
    }

    #[test]
    fn a_message_size_that_no_request_can_have_is_refused() {
        let set = map(&[("max.message.bytes", "100000000")]);
        TopicConfig::validate(&set).unwrap();
        let error = TopicConfig::new(&Config::default(), &set).unwrap_err();
        assert!(
            error.to_string().contains("limits.max_request_bytes"),
            "{error}"
        );
    }

    #[test]
    fn configuration_of_another_version_does_not_stop_a_topic() {
        let set = map(&[
            ("retention.ms", "5"),
            ("future.setting", "x"),
            ("segment.bytes", "?"),
        ]);
        let topic = TopicConfig::new_lenient(&Config::default(), &set);
        assert_eq!(topic.values().retention_ms, 5);
        assert_eq!(
            topic.values().segment_bytes,
            LogSettings::STANDALONE_SEGMENT_BYTES
        );
    }
}
