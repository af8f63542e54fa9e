//! Configuration told to people: one setting explained, or the whole as a documented TOML file.

use std::fmt::Write as _;

use super::{Config, Kind, Loaded, Setting, nearest, settings};

const WIDTH: usize = 100;
/// Settings named to whoever gave a part of a name.
const MAX_SUGGESTED: usize = 8;

/// Everything about one setting, found by its name in the file, in the environment, as a flag, in Kafka's
/// broker configuration or in topic configuration.
///
/// # Errors
/// If no setting has that name; the message gives the nearest one.
pub fn explain(name: &str, loaded: Option<&Loaded>) -> Result<String, String> {
    let setting = find_or_suggest(name)?;
    let mut text = format!("{}\n", setting.name);
    for line in wrap(setting.doc, WIDTH - 2) {
        let _ = writeln!(text, "  {line}");
    }
    let mut row = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {label:<12} {value}");
        }
    };
    row("type", &setting.kind.describe());
    row("range", &setting.describe_range());
    row("default", or_none(&setting.get(&Config::default())));
    if let Some(loaded) = loaded {
        let value = setting.get(&loaded.config);
        row(
            "now",
            &format!("{} ({})", or_none(&value), loaded.source(setting)),
        );
    }
    row("in the file", &in_file(setting));
    row("environment", &setting.environment_name());
    row("flag", &flag_of(setting));
    row(
        "topic",
        &setting
            .topic
            .map(|topic| format!("{topic} (logweir topic create|alter --config)"))
            .unwrap_or_default(),
    );
    row("Kafka", setting.kafka.unwrap_or("has no such setting"));
    Ok(text)
}

/// As [`explain`], as one JSON object; value and source are null where no configuration was loaded.
///
/// # Errors
/// As [`explain`].
pub fn explain_json(name: &str, loaded: Option<&Loaded>) -> Result<serde_json::Value, String> {
    let setting = find_or_suggest(name)?;
    let mut object = setting_json(setting, loaded);
    object["range"] = setting.describe_range().into();
    object["flag"] = flag_of(setting).into();
    Ok(object)
}

/// The configuration in force as a TOML file that says of each value what it means and where it came from.
/// Reading it back gives the same configuration.
#[must_use]
pub fn render(loaded: &Loaded) -> String {
    let mut text = String::from(
        "# The configuration of a Logweir broker in force here. Flags win over environment variables, they over\n\
         # the file (--config FILE or LOGWEIR_CONFIG), and the file over the defaults.\n",
    );
    let mut section = "";
    for setting in settings() {
        let (here, name) = setting.name.split_once('.').unwrap_or(("", setting.name));
        if here != section {
            let _ = write!(text, "\n\n[{here}]");
            section = here;
        }
        text.push('\n');
        for line in wrap(setting.doc, WIDTH - 2) {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "# {}", facts(setting));
        let _ = writeln!(text, "# from: {}", loaded.source(setting));
        let value = toml_value(setting, &loaded.config);
        let line = match value {
            Some(value) => format!("{name} = {value}"),
            None => format!("# {name} = {}", placeholder(setting)),
        };
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Every setting with its value and where it came from, as one JSON object.
#[must_use]
pub fn to_json(loaded: &Loaded) -> serde_json::Value {
    let entries = settings().map(|setting| setting_json(setting, Some(loaded)));
    serde_json::Value::Array(entries.collect())
}

fn setting_json(setting: &Setting, loaded: Option<&Loaded>) -> serde_json::Value {
    serde_json::json!({
        "name": setting.name,
        "value": loaded.and_then(|loaded| setting.json(&loaded.config)),
        "default": setting.json(&Config::default()),
        "source": loaded.map(|loaded| loaded.source(setting).to_string()),
        "environment": setting.environment_name(),
        "topic": setting.topic,
        "kafka": setting.kafka,
        "type": setting.kind.describe(),
        "documentation": setting.doc,
    })
}

/// The setting of that name; else an error with those whose names contain it, or with the nearest one.
fn find_or_suggest(name: &str) -> Result<&'static Setting, String> {
    if let Some(setting) = find_by_any_name(name) {
        return Ok(setting);
    }
    let word = name.trim_matches(['-', '.', '_']).to_lowercase();
    let has_word = |setting: &&Setting| {
        let names = [
            Some(setting.name),
            setting.topic,
            setting.kafka,
            setting.flag,
        ];
        names.into_iter().flatten().any(|name| name.contains(&word))
    };
    let with_word: Vec<&str> = settings()
        .filter(|_| !word.is_empty())
        .filter(has_word)
        .map(|setting| setting.topic.unwrap_or(setting.name))
        .collect();
    let hint = match nearest(name, settings().map(|setting| setting.name)) {
        _ if with_word.len() > MAX_SUGGESTED => {
            let shown = with_word[..MAX_SUGGESTED].join(", ");
            format!("did you mean one of {shown}, …? `logweir config` lists them all")
        }
        _ if !with_word.is_empty() => format!("did you mean {}?", with_word.join(", ")),
        Some(near) => format!("did you mean {near}?"),
        None => "`logweir config` lists them all".to_owned(),
    };
    Err(format!("there is no setting {name:?}; {hint}"))
}

fn find_by_any_name(name: &str) -> Option<&'static Setting> {
    let flag = name.strip_prefix("--");
    let exact = settings().find(|setting| {
        setting.name == name
            || setting.environment_name() == name
            || setting.topic == Some(name)
            || setting.kafka == Some(name)
            || (flag.is_some() && setting.flag == flag)
    });
    // The last part alone will do where it is the last part of one setting only.
    exact.or_else(|| {
        let mut same_end =
            settings().filter(|setting| setting.name.rsplit('.').next() == Some(name));
        same_end.next().filter(|_| same_end.next().is_none())
    })
}

fn facts(setting: &Setting) -> String {
    let mut facts = vec![setting.kind.describe()];
    let range = setting.describe_range();
    if !range.is_empty() {
        facts.push(range);
    }
    facts.push(format!(
        "default {}",
        or_none(&setting.get(&Config::default()))
    ));
    facts.push(setting.environment_name());
    if let Some(flag) = setting.flag {
        facts.push(format!("--{flag}"));
    }
    if let Some(topic) = setting.topic {
        facts.push(format!("topics: {topic}"));
    }
    if let Some(kafka) = setting.kafka {
        facts.push(format!("Kafka: {kafka}"));
    }
    facts.join("; ")
}

fn flag_of(setting: &Setting) -> String {
    let generic = format!("--set {}=VALUE", setting.name);
    match setting.flag {
        Some(flag) if setting.kind == Kind::Switch => format!("--{flag}, or {generic}"),
        Some(flag) => format!("--{flag} VALUE, or {generic}"),
        None => generic,
    }
}

fn in_file(setting: &Setting) -> String {
    match setting.name.split_once('.') {
        Some((section, name)) => format!("[{section}] {name} = …"),
        None => format!("{} = … (before the first section)", setting.name),
    }
}

fn or_none(value: &str) -> &str {
    if value.is_empty() { "none" } else { value }
}

/// The value as TOML; `None` where nothing is set.
fn toml_value(setting: &Setting, config: &Config) -> Option<String> {
    let value = setting.json(config)?;
    toml::Value::try_from(value)
        .ok()
        .map(|value| value.to_string())
}

fn placeholder(setting: &Setting) -> &'static str {
    match setting.kind {
        Kind::Path => "\"DIR\"",
        _ => "\"HOST:PORT\"",
    }
}

/// Breaks text between words; a word longer than `width` stands alone.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Layers;

    fn load(flags: &[(&str, &str)]) -> Loaded {
        let flags = flags
            .iter()
            .map(|(k, v)| ("--set".into(), (*k).into(), (*v).into()))
            .collect();
        Layers {
            flags,
            ..Layers::default()
        }
        .load()
        .unwrap()
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_configuration() {
        for flags in [
            &[][..],
            &[("in_memory", "true"), ("log.retention_ms", "-1")],
            &[
                ("data_dir", "/x \"y\""),
                ("listeners.advertised_grpc", "h:1"),
                ("listeners.http", "off"),
            ],
        ] {
            let loaded = load(flags);
            let text = render(&loaded);
            let file = Some((PathBuf::from("f"), text.clone()));
            let again = Layers {
                file,
                ..Layers::default()
            }
            .load();
            assert_eq!(
                again.unwrap_or_else(|e| panic!("{e}\n{text}")).config,
                loaded.config
            );
        }
    }

    #[test]
    fn what_is_printed_says_where_each_value_came_from() {
        let text = render(&load(&[("log.retention_ms", "2d")]));
        assert!(
            text.contains("# from: flag --set\nretention_ms = 172800000\n"),
            "{text}"
        );
        assert!(
            text.contains("# from: default\nsegment_ms = 604800000\n"),
            "{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 200),
            "{text}"
        );
    }

    #[test]
    fn a_setting_is_found_by_each_of_its_names() {
        for name in [
            "log.retention_ms",
            "retention.ms",
            "log.retention.ms",
            "LOGWEIR_LOG_RETENTION_MS",
            "retention_ms",
        ] {
            let text = explain(name, None).unwrap();
            assert!(text.starts_with("log.retention_ms\n"), "{name}: {text}");
        }
        assert!(explain("--flush", None).unwrap().starts_with("log.flush\n"));
        let refused = explain("retention", None).unwrap_err();
        assert!(refused.contains("did you mean"), "{refused}");
        for part in ["retention.ms", "retention.bytes"] {
            assert!(refused.contains(part), "{part} is missing in {refused}");
        }
        let refused = explain("log.retnetion_ms", None).unwrap_err();
        assert!(
            refused.contains("did you mean log.retention_ms?"),
            "{refused}"
        );
    }

    #[test]
    fn an_explanation_tells_type_range_default_value_and_names() {
        let text = explain(
            "flush.messages",
            Some(&load(&[("log.flush_messages", "10")])),
        )
        .unwrap();
        for part in [
            "per-ack",
            "at least 1",
            "9223372036854775807",
            "10 (flag --set)",
            "LOGWEIR_LOG_FLUSH_MESSAGES",
            "log.flush.interval.messages",
            "--set log.flush_messages=VALUE",
            "[log] flush_messages",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
