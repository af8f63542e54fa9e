//! Where a configuration comes from: defaults, then the file, then the environment, then flags, the later
//! ones winning. Remembers for each setting who set it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Config, ConfigError, LogSettings, Problem, Setting, nearest, settings};

/// Variables beginning with `LOGWEIR_` that are no settings of the broker.
const OTHER_VARIABLES: [&str; 3] = ["LOGWEIR_CONFIG", "LOGWEIR_SERVER", "LOGWEIR_PROOF"];

/// Everything that says how a broker shall be, from the weakest to the strongest.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The configuration file: its path, for messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// Environment variables; those that do not begin with `LOGWEIR_` are passed over.
    pub environment: Vec<(String, String)>,
    /// Settings from the command line: the flag as typed, the setting's name, the value.
    pub flags: Vec<(String, String, String)>,
}

/// Who gave a setting its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Nobody; it is the default.
    Default,
    /// The configuration file of this path.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The flag of this name.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A configuration, and where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration, checked.
    pub config: Config,
    sources: BTreeMap<&'static str, Source>,
}

impl Loaded {
    /// Who gave the setting its value.
    #[must_use]
    pub fn source(&self, setting: &Setting) -> Source {
        self.sources
            .get(setting.name)
            .cloned()
            .unwrap_or(Source::Default)
    }
}

/// One value that one layer gives.
struct Assignment {
    setting: &'static Setting,
    value: String,
    source: Source,
    /// The key as the person wrote it.
    key: String,
}

impl Layers {
    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8; the message names it.
    pub fn read_file(path: &Path) -> Result<(PathBuf, String), ConfigError> {
        std::fs::read_to_string(path)
            .map(|text| (path.to_owned(), text))
            .map_err(|error| {
                let problem = Problem::new(
                    &path.display().to_string(),
                    format!("cannot be read: {error}"),
                );
                ConfigError {
                    problems: vec![problem],
                }
            })
    }

    /// Puts the layers together and checks the result.
    ///
    /// # Errors
    /// Every problem of every layer: malformed TOML, unknown keys and `LOGWEIR_` variables (with the nearest known
    /// name), values that do not parse or lie out of range, and settings that contradict each other.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut problems = Vec::new();
        let mut assignments = Vec::new();
        if let Some((path, text)) = &self.file {
            from_file(path, text, &mut assignments, &mut problems);
        }
        from_environment(&self.environment, &mut assignments, &mut problems);
        from_flags(&self.flags, &mut assignments, &mut problems);
        refuse_two_homes(&assignments, &mut problems);

        let mut config = Config::default();
        if asks_for_memory(&assignments) {
            config.log.segment_bytes = LogSettings::EMBEDDED_SEGMENT_BYTES;
        }
        let mut sources = BTreeMap::new();
        for assignment in assignments {
            let Assignment {
                setting,
                value,
                source,
                key,
            } = assignment;
            match setting.set(&mut config, &value) {
                Ok(()) => {
                    sources.insert(setting.name, source);
                }
                Err(message) => {
                    problems.push(Problem {
                        key,
                        message: format!("{message} (from {source})"),
                    });
                }
            }
        }
        if problems.is_empty() {
            config.validate()?;
        }
        ConfigError::unless_empty(problems)?;
        Ok(Loaded { config, sources })
    }
}

fn from_file(
    path: &Path,
    text: &str,
    assignments: &mut Vec<Assignment>,
    problems: &mut Vec<Problem>,
) {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let message = format!("is not valid TOML: {}", error.to_string().trim_end());
            problems.push(Problem {
                key: path.display().to_string(),
                message,
            });
            return;
        }
    };
    let mut values = Vec::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(section) => {
                values.extend(
                    section
                        .into_iter()
                        .map(|(key, value)| (format!("{name}.{key}"), value)),
                );
            }
            value => values.push((name, value)),
        }
    }
    for (key, value) in values {
        let source = Source::File(path.to_owned());
        let Some(setting) = find(&key) else {
            problems.push(unknown(&key, &source, settings().map(|s| s.name)));
            continue;
        };
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(switch) => switch.to_string(),
            other => {
                let message = format!(
                    "is a {}, but a {} is wanted (from {source})",
                    other.type_str(),
                    setting.kind.describe()
                );
                problems.push(Problem { key, message });
                continue;
            }
        };
        assignments.push(Assignment {
            setting,
            value,
            source,
            key,
        });
    }
}

fn from_environment(
    environment: &[(String, String)],
    assignments: &mut Vec<Assignment>,
    problems: &mut Vec<Problem>,
) {
    let names: Vec<String> = settings().map(Setting::environment_name).collect();
    for (name, value) in environment {
        if !name.starts_with("LOGWEIR_")
            || OTHER_VARIABLES.contains(&name.as_str())
            || is_service_link(name)
        {
            continue;
        }
        let source = Source::Environment(name.clone());
        match settings().find(|setting| setting.environment_name() == *name) {
            Some(setting) => assignments.push(Assignment {
                setting,
                value: value.clone(),
                source,
                key: setting.name.to_owned(),
            }),
            None => problems.push(unknown(name, &source, names.iter().map(String::as_str))),
        }
    }
}

/// Kubernetes gives every container such variables about a service named "logweir": they are nobody's typing error.
fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("LOGWEIR_") else {
        return false;
    };
    rest == "PORT"
        || rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
        || rest
            .strip_prefix("PORT_")
            .is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
}

fn from_flags(
    flags: &[(String, String, String)],
    assignments: &mut Vec<Assignment>,
    problems: &mut Vec<Problem>,
) {
    for (flag, key, value) in flags {
        let source = Source::Flag(flag.clone());
        match find(key) {
            Some(setting) => assignments.push(Assignment {
                setting,
                value: value.clone(),
                source,
                key: setting.name.to_owned(),
            }),
            None => problems.push(unknown(key, &source, settings().map(|s| s.name))),
        }
    }
}

fn find(name: &str) -> Option<&'static Setting> {
    settings().find(|setting| setting.name == name)
}

/// The message for a key that is no setting.
fn unknown<'a>(
    key: &str,
    source: &Source,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Problem {
    // A key without, or with the wrong, section is the commonest slip: its last part says what was meant.
    let last = key.rsplit('.').next().unwrap_or(key);
    let same_end = known
        .clone()
        .find(|name| name.rsplit('.').next() == Some(last));
    // Kafka's own spelling is another.
    let kafka = settings()
        .find(|s| s.kafka == Some(key) || s.topic == Some(key))
        .map(|s| s.name);
    let meant = same_end.or(kafka).or_else(|| nearest(key, known));
    let hint = meant.map_or_else(
        || "see `logweir config` for all of them".to_owned(),
        |name| format!("did you mean {name}?"),
    );
    Problem::new(key, format!("is not a setting (from {source}); {hint}"))
}

/// Whether the strongest word on where to keep data is "in memory".
fn asks_for_memory(assignments: &[Assignment]) -> bool {
    let last = assignments
        .iter()
        .rev()
        .find(|a| matches!(a.setting.name, "data_dir" | "in_memory"));
    last.is_some_and(|a| a.setting.name == "in_memory" && a.value == "true")
}

/// One layer that asks for a directory and for memory has no answer; a stronger layer may overrule a weaker one.
fn refuse_two_homes(assignments: &[Assignment], problems: &mut Vec<Problem>) {
    let layer = |source: &Source| match source {
        Source::Default => 0,
        Source::File(_) => 1,
        Source::Environment(_) => 2,
        Source::Flag(_) => 3,
    };
    let memory = assignments
        .iter()
        .filter(|a| a.setting.name == "in_memory" && a.value == "true");
    for memory in memory {
        let dir = assignments
            .iter()
            .find(|a| a.setting.name == "data_dir" && layer(&a.source) == layer(&memory.source));
        if let Some(dir) = dir {
            problems.push(Problem::new(
                "in_memory",
                format!(
                    "contradicts data_dir = {:?} (from {} and {}); give one of the two",
                    dir.value, memory.source, dir.source
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Layers {
        Layers {
            file: Some((PathBuf::from("logweir.toml"), file.to_owned())),
            environment: environment
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            flags: flags
                .iter()
                .map(|(k, v)| ("--set".into(), (*k).into(), (*v).into()))
                .collect(),
        }
    }

    fn problems(layers: &Layers) -> Vec<String> {
        let error = layers.load().unwrap_err();
        error.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = "node_id = 4\n[log]\nretention_ms = \"2d\"\nsegment_bytes = 65536\n";
        let environment = [
            ("LOGWEIR_LOG_RETENTION_MS", "3000"),
            ("LOGWEIR_LOG_FLUSH", "os"),
        ];
        let loaded = layers(file, &environment, &[("log.flush", "per-ack")])
            .load()
            .unwrap();
        let log = &loaded.config.log;
        assert_eq!(
            (loaded.config.node_id, log.retention_ms, log.segment_bytes),
            (4, 3000, 65536)
        );
        let source = |name| loaded.source(find(name).unwrap()).to_string();
        assert_eq!(source("node_id"), "file logweir.toml");
        assert_eq!(
            source("log.retention_ms"),
            "environment LOGWEIR_LOG_RETENTION_MS"
        );
        assert_eq!(source("log.flush"), "flag --set");
        assert_eq!(source("log.segment_ms"), "default");
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_origin() {
        let file = "data_dri = \"x\"\nretention_ms = 5\n[log]\nsegment_bytes = 1\nflush = \"never\"\n\
                    retention.ms = 3\n[[listeners]]\n";
        let found = problems(&layers(
            file,
            &[
                ("LOGWEIR_LOG_RETENTION_MSS", "1"),
                ("LOGWEIR_NODE_ID", "-3"),
            ],
            &[("log.flushh", "os")],
        ));
        let expected = [
            "did you mean data_dir?",
            "did you mean log.retention_ms?",
            "less than 4096",
            "none of auto, per-ack and os",
            "log.retention:",
            "did you mean LOGWEIR_LOG_RETENTION_MS?",
            "-3 is less than 0",
            "did you mean log.flush?",
            "listeners:",
        ];
        for text in expected {
            assert!(
                found.iter().any(|p| p.contains(text)),
                "{text} is missing in {found:#?}"
            );
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    }

    #[test]
    fn kafkas_spelling_is_recognised() {
        let found = problems(&layers("", &[], &[("log.retention.ms", "5")]));
        assert!(
            found[0].contains("did you mean log.retention_ms?"),
            "{found:?}"
        );
    }

    #[test]
    fn malformed_toml_is_refused_with_the_place() {
        let found = problems(&layers("node_id = \n", &[], &[]));
        assert!(found[0].contains("line 1"), "{found:?}");
    }

    #[test]
    fn variables_that_kubernetes_sets_are_passed_over() {
        let environment = [
            ("LOGWEIR_PORT", "tcp://10.0.0.1:9093"),
            ("LOGWEIR_PORT_9093_TCP_ADDR", "10.0.0.1"),
            ("LOGWEIR_SERVICE_HOST", "10.0.0.1"),
            ("LOGWEIR_SERVICE_PORT_GRPC", "9093"),
            ("LOGWEIR_SERVER", "10.0.0.1:9093"),
            ("PATH", "/bin"),
        ];
        assert_eq!(
            layers("", &environment, &[]).load().unwrap().config,
            Config::default()
        );
    }

    #[test]
    fn memory_in_a_stronger_layer_overrules_a_directory_in_a_weaker_one() {
        let loaded = layers("data_dir = \"d\"", &[], &[("in_memory", "true")])
            .load()
            .unwrap();
        assert!(loaded.config.is_in_memory());
        assert_eq!(
            loaded.config.log.segment_bytes,
            LogSettings::EMBEDDED_SEGMENT_BYTES
        );
        let loaded = layers("in_memory = true", &[], &[("data_dir", "d")])
            .load()
            .unwrap();
        assert_eq!(loaded.config.data_dir, Some(PathBuf::from("d")));
        assert_eq!(
            loaded.config.log.segment_bytes,
            LogSettings::STANDALONE_SEGMENT_BYTES
        );
    }

    #[test]
    fn memory_and_a_directory_in_one_layer_contradict_each_other() {
        for toml in [
            "data_dir = \"d\"\nin_memory = true",
            "in_memory = true\ndata_dir = \"d\"",
        ] {
            let found = problems(&layers(toml, &[], &[]));
            assert!(found[0].contains("contradicts data_dir"), "{found:?}");
        }
    }

    #[test]
    fn a_configuration_survives_its_own_file_form() {
        for config in [
            Config::default(),
            Config::in_memory().with_node_id(7),
            Config::on_dir("/x"),
        ] {
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn serde_refuses_unknown_keys() {
        let error = toml::from_str::<Config>("[log]\nretention_msec = 1")
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean log.retention_ms?"), "{error}");
    }
}
