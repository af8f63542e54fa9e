//! `logweir group describe`: a group's state, and what it has read and has still to read.

use clap::Args;
use logweir_client::{GroupDescription, GroupMember, GroupPartition, Offset};
use serde_json::{Value, json};

use super::members::member_json;
use super::{advised, or_dash};
use crate::cli::connection::ServerArgs;
use crate::cli::exit::Exit;
use crate::cli::output::{OutputArgs, OutputFormat, Rows, print_json, print_line, printable};
use crate::cli::time::{format_age, whole_ms};
use crate::words::counted;

const EXAMPLES: &str = "\
Examples:
  logweir group describe billing
  logweir group describe billing shipping
  logweir group describe billing --output json | jq .lag_records

LAG counts the records that are there from the committed offset to the end; LAG
TIME is the age of the oldest of them. `-` is what is not known: nothing was
committed, the topic is gone, or the oldest record was not found.";

/// Show state, committed offsets, lag and members of groups
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Describe {
    /// The groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Describe {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let (mut shown, mut failed) = (0, 0);
        for (id, described) in groups.iter().zip(admin.describe_groups(&groups).await?) {
            match described {
                Ok(group) if self.output.format() == OutputFormat::Json => {
                    print_json(&group_json(&group))?;
                }
                Ok(group) => {
                    if shown > 0 {
                        print_line("")?;
                    }
                    print_group(&group)?;
                    shown += 1;
                }
                Err(error) => {
                    eprintln!("error: {}", advised(error, id));
                    failed += 1;
                }
            }
        }
        Ok(Exit::of(failed, groups.len()))
    }
}

fn print_group(group: &GroupDescription) -> std::io::Result<()> {
    let mut traits = vec![
        group.state.to_string(),
        format!("type {}", group.group_type),
    ];
    if !group.assignor.is_empty() {
        traits.push(format!("assignor {}", group.assignor));
    }
    if let Some(epoch) = group.epoch {
        traits.push(format!("epoch {epoch}"));
    }
    traits.push(format!("coordinator {}", group.coordinator));
    let line = format!("{}: {}", group.group_id, traits.join(", "));
    print_line(&printable(&line))?;
    let members = match group.members.len() {
        0 => "no members".to_owned(),
        count => counted(count, "member"),
    };
    if group.partitions.is_empty() {
        return print_line(&format!("{members}; nothing is committed or assigned"));
    }
    let unknown = match unknown_partitions(group) {
        0 => String::new(),
        count => format!(", not known for {}", counted(count, "partition")),
    };
    print_line(&format!(
        "{members}, {}, lag {} ({}){unknown}",
        counted(group.partitions.len(), "partition"),
        counted(group.lag_records, "record"),
        group
            .lag_time
            .map_or_else(|| "age not known".to_owned(), format_age),
    ))?;
    partition_rows(group).print()
}

/// Partitions that the lag of the whole group leaves out: nothing was committed for them, or their log is not there.
fn unknown_partitions(group: &GroupDescription) -> usize {
    let lags = group
        .partitions
        .iter()
        .map(|partition| partition.lag_records);
    lags.filter(Option::is_none).count()
}

fn partition_rows(group: &GroupDescription) -> Rows {
    let headings = [
        "TOPIC",
        "PARTITION",
        "COMMITTED",
        "END",
        "LAG",
        "LAG TIME",
        "MEMBER",
        "CLIENT ID",
        "HOST",
    ];
    let mut rows = Rows::new(&headings).right(&[1, 2, 3, 4, 5]);
    let dash = || "-".to_owned();
    let offset = |offset: Option<Offset>| offset.map_or_else(dash, |offset| offset.to_string());
    for partition in &group.partitions {
        let member = owner(group, partition);
        rows.push(vec![
            partition.partition.topic.to_string(),
            partition.partition.partition.to_string(),
            offset(partition.committed_offset),
            offset(partition.end_offset),
            partition
                .lag_records
                .map_or_else(dash, |lag| lag.to_string()),
            partition.lag_time.map_or_else(dash, format_age),
            partition.member_id.clone().unwrap_or_else(dash),
            member.map_or_else(dash, |member| or_dash(&member.client_id)),
            member.map_or_else(dash, |member| or_dash(&member.client_host)),
        ]);
    }
    rows
}

fn owner<'a>(group: &'a GroupDescription, partition: &GroupPartition) -> Option<&'a GroupMember> {
    let id = partition.member_id.as_ref()?;
    group.members.iter().find(|member| member.member_id == *id)
}

fn group_json(group: &GroupDescription) -> Value {
    let partitions = group
        .partitions
        .iter()
        .map(|partition| partition_json(group, partition));
    json!({
        "group": group.group_id,
        "state": group.state.name(),
        "type": group.group_type.name(),
        "protocol_type": group.protocol_type,
        "assignor": group.assignor,
        "epoch": group.epoch,
        "assignment_epoch": group.assignment_epoch,
        "coordinator": group.coordinator.get(),
        "lag_records": group.lag_records,
        "lag_unknown_partitions": unknown_partitions(group),
        "lag_ms": group.lag_time.map(whole_ms),
        "members": group.members.iter().map(member_json).collect::<Vec<_>>(),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn partition_json(group: &GroupDescription, partition: &GroupPartition) -> Value {
    let member = owner(group, partition);
    json!({
        "topic": partition.partition.topic.as_ref(),
        "topic_id": partition.topic_id.map(|id| id.to_string()),
        "partition": partition.partition.partition.get(),
        "committed_offset": partition.committed_offset.map(Offset::get),
        "log_start_offset": partition.log_start_offset.map(Offset::get),
        "end_offset": partition.end_offset.map(Offset::get),
        "lag_records": partition.lag_records,
        "lag_ms": partition.lag_time.map(whole_ms),
        "member": partition.member_id,
        "client_id": member.map(|member| &member.client_id),
        "host": member.map(|member| &member.client_host),
        "metadata": partition.metadata,
        "committed_at_ms": partition.committed_at.map(|time| time.get()),
    })
}
