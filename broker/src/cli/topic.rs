//! `logweir topic`: create, list, describe, alter, expand and delete topics.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use logweir_client::{
    Admin, ConfigChanges, ConfigEntry, ConfigSource, NewTopic, TopicDescription, TopicSummary,
};
use logweir_proto::{ErrorCode, NodeId};
use serde_json::{Value, json};

use super::connection::ServerArgs;
use super::exit::{Exit, in_words, usage};
use super::output::{OutputArgs, OutputFormat, Rows, human_bytes, print_json, print_line};
use crate::config::{nearest, topic_setting};
use crate::words::counted;

const CREATE_EXAMPLES: &str = "\
Examples:
  logweir topic create flights --partitions 12
  logweir topic create audit --config retention.ms=30d --config segment.bytes=64MiB
  logweir topic create scratch --config logweir.flush=os --if-not-exists

`logweir config --explain retention.ms` explains a setting.";

const DESCRIBE_EXAMPLES: &str = "\
Examples:
  logweir topic describe flights                partitions, changed settings
  logweir topic describe flights --all-configs  every setting
  logweir topic describe flights --output json | jq .partitions[].leader";

const ALTER_EXAMPLES: &str = "\
Examples:
  logweir topic alter flights --config retention.ms=2d
  logweir topic alter flights --unset retention.ms --config logweir.flush=os";

/// Create, list, describe, change, expand and delete topics
#[derive(Debug, Args)]
pub(super) struct TopicCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
    Describe(Describe),
    Alter(Alter),
    Expand(Expand),
    Delete(Delete),
}

/// Create a topic
#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLES)]
struct Create {
    /// The name: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'
    name: String,
    /// How many partitions [default: the broker's topics.num_partitions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many replicas [default: the broker's topics.default_replication_factor]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(i32).range(1..))]
    replication_factor: Option<i32>,
    /// A setting by Kafka's name, such as retention.ms=7d; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Do nothing if the topic is there already
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// List topics
#[derive(Debug, Args)]
struct List {
    /// Only names that begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Also the broker's own topics
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show partitions, replicas, offsets and settings of topics
#[derive(Debug, Args)]
#[command(after_help = DESCRIBE_EXAMPLES)]
struct Describe {
    /// The topics
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Every setting, not only those that are not defaults
    #[arg(long)]
    all_configs: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Change settings of a topic, all of them or none
#[derive(Debug, Args)]
#[command(after_help = ALTER_EXAMPLES)]
struct Alter {
    /// The topic
    name: String,
    /// Set by Kafka's name, such as retention.ms=7d; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Go back to the broker's value; repeatable
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Add partitions to a topic
///
/// Most keys go to another partition from then on. What is in the old partitions stays there, so
/// the order of such a key's records across the change is not kept.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  logweir topic expand flights --partitions 24")]
struct Expand {
    /// The topic
    name: String,
    /// How many partitions it shall have in all; more than now
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Delete topics with all their records
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  logweir topic delete flights\n  logweir topic delete a b c --if-exists"
)]
struct Delete {
    /// The topics
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Pass over topics that are not there
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl TopicCommand {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::Create(create) => create.run().await,
            Action::List(list) => list.run().await,
            Action::Describe(describe) => describe.run().await,
            Action::Alter(alter) => alter.run().await,
            Action::Expand(expand) => expand.run().await,
            Action::Delete(delete) => delete.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<Exit> {
        let mut topic = NewTopic::new(self.name.clone());
        topic.partitions = self.partitions;
        topic.replication_factor = self.replication_factor;
        topic.configs = parse_configs(&self.config)?;
        let admin = self.server.connect().await?.admin();
        match admin.create_topic(topic).await {
            Ok(summary) => tell_summary("created", &summary, self.output.format())?,
            Err(error)
                if self.if_not_exists && error.code() == Some(ErrorCode::TopicAlreadyExists) =>
            {
                eprintln!("{} is there already", self.name);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Exit::Done)
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let topics = admin.list_topics_with(prefix, self.internal).await?;
        let mut rows = Rows::new(&["NAME", "PARTITIONS", "REPLICAS", "ID"]).right(&[1, 2]);
        for topic in &topics {
            match self.output.format() {
                OutputFormat::Json => print_json(&summary_json(topic))?,
                OutputFormat::Table => rows.push(vec![
                    topic.name.clone(),
                    topic.partitions.to_string(),
                    topic.replication_factor.to_string(),
                    topic.id.to_string(),
                ]),
            }
        }
        if self.output.format() == OutputFormat::Table {
            if topics.is_empty() {
                eprintln!("no topics; `logweir topic create NAME` makes one");
            } else {
                rows.print()?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Describe {
    async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let descriptions = admin.describe_topics(&names).await?;
        let mut failed = 0;
        for (index, description) in descriptions.into_iter().enumerate() {
            let outcome = match description {
                Ok(topic) => self.tell(&admin, &topic, index).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = outcome {
                // A closed pipe ends the whole command, not one topic.
                if error.downcast_ref::<std::io::Error>().is_some() {
                    return Err(error);
                }
                eprintln!("error: {}", in_words(&error));
                failed += 1;
            }
        }
        Ok(Exit::of(failed, names.len()))
    }

    async fn tell(
        &self,
        admin: &Admin,
        topic: &TopicDescription,
        index: usize,
    ) -> anyhow::Result<()> {
        let configs = admin.describe_config(&topic.name).await?;
        let shown =
            |entry: &&ConfigEntry| self.all_configs || entry.source != ConfigSource::Default;
        let configs: Vec<&ConfigEntry> = configs.iter().filter(shown).collect();
        if self.output.format() == OutputFormat::Json {
            print_json(&description_json(topic, &configs))?;
            return Ok(());
        }
        let gap = if index > 0 { "\n" } else { "" };
        let size: u64 = topic
            .partitions
            .iter()
            .filter_map(|p| p.offsets.as_ref())
            .map(|o| o.size_bytes)
            .sum();
        print_line(&format!(
            "{gap}{}: {}, {}, id {}",
            topic.name,
            counted(topic.partitions.len(), "partition"),
            human_bytes(size),
            topic.id
        ))?;
        partition_rows(topic).print()?;
        if configs.is_empty() {
            return Ok(());
        }
        print_line("")?;
        let mut rows = Rows::new(&["SETTING", "VALUE", "FROM"]);
        for entry in configs {
            rows.push(vec![
                entry.key.clone(),
                entry.value.clone(),
                source_name(entry.source).to_owned(),
            ]);
        }
        rows.print()?;
        Ok(())
    }
}

fn partition_rows(topic: &TopicDescription) -> Rows {
    let headings = [
        "PARTITION",
        "LEADER",
        "REPLICAS",
        "ISR",
        "BEGINS AT",
        "ENDS AT",
        "SIZE",
        "STATE",
    ];
    let mut rows = Rows::new(&headings).right(&[0, 1, 4, 5, 6]);
    for partition in &topic.partitions {
        let offset = |pick: fn(&logweir_client::PartitionOffsets) -> String| {
            partition
                .offsets
                .as_ref()
                .map_or_else(|| "-".to_owned(), pick)
        };
        rows.push(vec![
            partition.partition.to_string(),
            partition
                .leader
                .map_or_else(|| "none".to_owned(), |node| node.to_string()),
            node_list(&partition.replicas),
            node_list(&partition.isr),
            offset(|o| o.log_start_offset.to_string()),
            offset(|o| o.high_watermark.to_string()),
            offset(|o| human_bytes(o.size_bytes)),
            partition
                .error
                .as_ref()
                .map_or_else(|| "ok".to_owned(), ToString::to_string),
        ]);
    }
    rows
}

impl Alter {
    async fn run(self) -> anyhow::Result<Exit> {
        if self.config.is_empty() && self.unset.is_empty() {
            return Err(usage(
                "nothing to change: give --config KEY=VALUE or --unset KEY",
            ));
        }
        let mut changes = ConfigChanges::new();
        changes.set = parse_configs(&self.config)?;
        changes.unset = self.unset;
        if let Some(key) = changes
            .unset
            .iter()
            .find(|key| changes.set.contains_key(*key))
        {
            return Err(usage(format!(
                "{key} is both set and unset; give one of the two"
            )));
        }
        let admin = self.server.connect().await?.admin();
        if !changes.unset.is_empty() {
            // The broker takes it for granted that what is not set can be unset; a typing error must not pass for done.
            let entries = admin.describe_config(&self.name).await?;
            let known = || entries.iter().map(|entry| entry.key.as_str());
            if let Some(key) = changes
                .unset
                .iter()
                .find(|key| known().all(|name| name != *key))
            {
                let hint = nearest(key, known())
                    .map(|name| format!("; did you mean {name}?"))
                    .unwrap_or_default();
                anyhow::bail!("--unset {key}: is not a topic setting{hint}");
            }
        }
        admin.alter_config(&self.name, changes).await?;
        eprintln!("altered {}", self.name);
        Ok(Exit::Done)
    }
}

impl Expand {
    async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let summary = admin.create_partitions(&self.name, self.partitions).await?;
        tell_summary("expanded", &summary, self.output.format())?;
        Ok(Exit::Done)
    }
}

impl Delete {
    async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut failed = 0;
        for (name, outcome) in names.iter().zip(admin.delete_topics(&names).await?) {
            match outcome {
                Ok(()) => eprintln!("deleted {name}"),
                Err(error)
                    if self.if_exists
                        && error.code() == Some(ErrorCode::UnknownTopicOrPartition) =>
                {
                    eprintln!("{name} is not there");
                }
                Err(error) => {
                    eprintln!("error: {error}");
                    failed += 1;
                }
            }
        }
        Ok(Exit::of(failed, names.len()))
    }
}

/// Says what was done on standard error, or gives the topic as JSON on standard output.
fn tell_summary(done: &str, topic: &TopicSummary, output: OutputFormat) -> anyhow::Result<()> {
    let replicas = counted(topic.replication_factor, "replica");
    let partitions = counted(topic.partitions, "partition");
    match output {
        OutputFormat::Table => eprintln!("{done} {}: {partitions}, {replicas}", topic.name),
        OutputFormat::Json => print_json(&summary_json(topic))?,
    }
    Ok(())
}

/// Reads `KEY=VALUE`s; sizes and times may have units, which the broker is given as plain numbers.
fn parse_configs(pairs: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut configs = BTreeMap::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(usage(format!(
                "--config {pair}: is not KEY=VALUE, such as retention.ms=7d"
            )));
        };
        let (key, value) = (key.trim(), value.trim());
        let value = match topic_setting(key) {
            Some(setting) => setting
                .without_unit(value)
                .map_err(|why| usage(format!("--config {key}: {why}")))?,
            // The broker may be newer and know it.
            None => value.to_owned(),
        };
        if configs.insert(key.to_owned(), value).is_some() {
            return Err(usage(format!("--config {key} is given twice")));
        }
    }
    Ok(configs)
}

fn node_list(nodes: &[NodeId]) -> String {
    nodes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn source_name(source: ConfigSource) -> &'static str {
    match source {
        ConfigSource::Default => "default",
        ConfigSource::Broker => "broker",
        ConfigSource::Topic => "topic",
        _ => "unknown",
    }
}

fn summary_json(topic: &TopicSummary) -> Value {
    json!({
        "name": topic.name,
        "id": topic.id.to_string(),
        "partitions": topic.partitions,
        "replication_factor": topic.replication_factor,
        "internal": topic.internal,
    })
}

fn description_json(topic: &TopicDescription, configs: &[&ConfigEntry]) -> Value {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.get()).collect::<Vec<_>>();
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .map(|p| {
            let offsets = p.offsets.as_ref();
            json!({
                "partition": p.partition.get(),
                "leader": p.leader.map(NodeId::get),
                "leader_epoch": p.leader_epoch.get(),
                "replicas": ids(&p.replicas),
                "isr": ids(&p.isr),
                "error": p.error.as_ref().map(ToString::to_string),
                "log_start_offset": offsets.map(|o| o.log_start_offset.get()),
                "last_stable_offset": offsets.map(|o| o.last_stable_offset.get()),
                "high_watermark": offsets.map(|o| o.high_watermark.get()),
                "log_end_offset": offsets.map(|o| o.log_end_offset.get()),
                "durable_end_offset": offsets.map(|o| o.durable_end_offset.get()),
                "size_bytes": offsets.map(|o| o.size_bytes),
            })
        })
        .collect();
    let configs: Vec<Value> = configs
        .iter()
        .map(|entry| json!({"key": entry.key, "value": entry.value, "source": source_name(entry.source)}))
        .collect();
    json!({
        "name": topic.name,
        "id": topic.id.to_string(),
        "internal": topic.internal,
        "partitions": partitions,
        "configs": configs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[&str]) -> Result<Vec<(String, String)>, String> {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        parse_configs(&pairs)
            .map(|map| map.into_iter().collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn units_become_plain_numbers() {
        let check = |pair: &str, key: &str, value: &str| {
            assert_eq!(parse(&[pair]), Ok(vec![(key.to_owned(), value.to_owned())]));
        };
        check("retention.ms=7d", "retention.ms", "604800000");
        check("segment.bytes = 64MiB", "segment.bytes", "67108864");
        check("logweir.flush=os", "logweir.flush", "os");
        check("retention.ms=-1", "retention.ms", "-1");
        check("future.setting=a=b", "future.setting", "a=b");
    }

    #[test]
    fn what_is_no_pair_or_no_number_is_refused() {
        assert!(parse(&["retention.ms"]).unwrap_err().contains("KEY=VALUE"));
        assert!(parse(&["retention.ms=week"]).unwrap_err().contains("7d"));
        assert!(parse(&["a=1", "a=2"]).unwrap_err().contains("twice"));
    }
}
