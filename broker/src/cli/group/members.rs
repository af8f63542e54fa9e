//! `logweir group members`: who is in a group, and what each has.

use clap::Args;
use logweir_client::{GroupMember, TopicPartition};
use serde_json::{Map, Value, json};

use super::{advised, or_dash};
use crate::cli::connection::ServerArgs;
use crate::cli::exit::Exit;
use crate::cli::output::{OutputArgs, OutputFormat, Rows, print_json};
use crate::cli::partition_list::{by_topic, ranges};
use crate::cli::time::{format_age, whole_ms};

const EXAMPLES: &str = "\
Examples:
  logweir group members billing
  logweir group members billing --output json | jq -r .member

An assignment is written as topic:partitions, such as orders:0-3,7. Members of
classic groups have no epoch. INSTANCE is the id of a static member; there is no
such column if the group has none.";

/// Show the members of a group, with assignment and lag
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Members {
    /// The group
    group: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Members {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let group = admin.describe_group(&self.group).await;
        let group = group.map_err(|error| advised(error, &self.group))?;
        if self.output.format() == OutputFormat::Json {
            for member in &group.members {
                print_json(&member_json(member))?;
            }
            return Ok(Exit::Done);
        }
        if group.members.is_empty() {
            eprintln!("group {} has no members", self.group);
            return Ok(Exit::Done);
        }
        member_rows(&group.members).print()?;
        Ok(Exit::Done)
    }
}

/// A row for each member; instance ids, as in Kafka's tool, only where there are any.
fn member_rows(members: &[GroupMember]) -> Rows {
    let is_static = members.iter().any(|member| member.instance_id.is_some());
    let mut headings = vec![
        "MEMBER",
        "CLIENT ID",
        "HOST",
        "EPOCH",
        "PARTITIONS",
        "ASSIGNMENT",
        "LAG",
        "LAG TIME",
    ];
    let mut numbers = [3, 4, 6, 7];
    if is_static {
        headings.insert(1, "INSTANCE");
        numbers = numbers.map(|column| column + 1);
    }
    let mut rows = Rows::new(&headings).right(&numbers);
    for member in members {
        let epoch = member.member_epoch.map(|epoch| epoch.to_string());
        let mut cells = vec![
            member.member_id.clone(),
            or_dash(&member.client_id),
            or_dash(&member.client_host),
            epoch.unwrap_or_else(|| "-".to_owned()),
            member.assignment.len().to_string(),
            or_dash(&in_words(&member.assignment)),
            member.lag_records.to_string(),
            member.lag_time.map_or_else(|| "-".to_owned(), format_age),
        ];
        if is_static {
            cells.insert(
                1,
                or_dash(member.instance_id.as_deref().unwrap_or_default()),
            );
        }
        rows.push(cells);
    }
    rows
}

/// `orders:0-3,7 payments:1`.
fn in_words(partitions: &[TopicPartition]) -> String {
    let topics = by_topic(partitions);
    let topics = topics
        .iter()
        .map(|(topic, partitions)| format!("{topic}:{}", ranges(partitions)));
    topics.collect::<Vec<_>>().join(" ")
}

/// A member as an object, for this command and for `describe`.
pub(super) fn member_json(member: &GroupMember) -> Value {
    json!({
        "member": member.member_id,
        "instance": member.instance_id,
        "client_id": member.client_id,
        "host": member.client_host,
        "rack": member.rack,
        "epoch": member.member_epoch,
        "subscribed_topics": member.subscribed_topics,
        "subscribed_regex": member.subscribed_regex,
        "assignment": partitions_json(&member.assignment),
        "target": partitions_json(&member.target),
        "lag_records": member.lag_records,
        "lag_ms": member.lag_time.map(whole_ms),
    })
}

/// Partition numbers under their topics' names.
fn partitions_json(partitions: &[TopicPartition]) -> Value {
    let topics = by_topic(partitions).into_iter();
    Value::Object(
        topics
            .map(|(topic, partitions)| (topic.to_owned(), json!(partitions)))
            .collect::<Map<_, _>>(),
    )
}
