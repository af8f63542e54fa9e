//! `logweir offsets` and `logweir delete-records`: where partitions begin and end, and moving the beginning; and what
//! groups have committed, to a file and back.

use clap::{Args, Subcommand};
use logweir_client::{Admin, Isolation, ListedOffset, OffsetSpec, TopicPartition};
use logweir_proto::{Offset, PartitionId};
use serde_json::json;

use super::connection::ServerArgs;
use super::exit::{Exit, usage};
use super::output::{OutputArgs, OutputFormat, Rows, print_json};
use super::time::{Position, format_timestamp};
use crate::clock::Clock;
use crate::words::counted;

mod export;
mod file;
mod import;

/// Partitions of one look-up request.
const LOOK_UP_CHUNK: usize = 5_000;

const OFFSETS_HELP: &str = "\
Examples:
  logweir offsets flights                    where partitions begin and end
  logweir offsets flights --partition 3      one partition
  logweir offsets flights --at 2h            the first record of two hours
  logweir offsets flights --at 2025-01-31T08:00:00Z
  logweir offsets -- export                  a topic that is called export
  logweir offsets export billing             what a group has committed, as JSON";

/// Show where the partitions of a topic begin and end, find offsets by time, and export and import what groups
/// have committed
#[derive(Debug, Args)]
#[command(
    after_help = OFFSETS_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(super) struct OffsetsCommand {
    #[command(subcommand)]
    action: Option<Action>,
    /// The topic; after -- if it is called export, import or help
    #[arg(required = true)]
    topic: Option<String>,
    /// Only this partition; repeatable, or 0,2,5
    #[arg(long, value_name = "N", value_delimiter = ',')]
    partition: Vec<i32>,
    /// Also the first record at or after this time: RFC 3339, a date (UTC), @MILLISECONDS, or an age such as 2h
    #[arg(long, value_name = "TIME")]
    at: Option<super::time::When>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    Export(export::Export),
    Import(import::Import),
}

impl OffsetsCommand {
    pub(super) async fn run(mut self) -> anyhow::Result<Exit> {
        match (self.action.take(), self.topic.take()) {
            (Some(Action::Export(export)), _) => export.run().await,
            (Some(Action::Import(import)), _) => import.run().await,
            (None, Some(topic)) => self.look_up(&topic).await,
            (None, None) => Err(usage("which topic? logweir offsets TOPIC")),
        }
    }

    async fn look_up(self, topic: &str) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let partitions = choose_partitions(&admin, topic, &self.partition).await?;
        let earliest = look_up(&admin, topic, &partitions, OffsetSpec::Earliest).await?;
        let latest = look_up(&admin, topic, &partitions, OffsetSpec::Latest).await?;
        let at = match self.at {
            Some(when) => {
                let spec = OffsetSpec::Timestamp(when.resolve(Clock::default().now()));
                Some(look_up(&admin, topic, &partitions, spec).await?)
            }
            None => None,
        };
        let headings: &[&str] = match at {
            Some(_) => &[
                "PARTITION",
                "EARLIEST",
                "LATEST",
                "AT",
                "TIME OF THAT RECORD",
            ],
            None => &["PARTITION", "EARLIEST", "LATEST"],
        };
        let mut rows = Rows::new(headings).right(&[0, 1, 2, 3][..headings.len().min(4)]);
        for (index, partition) in partitions.iter().enumerate() {
            let (first, end) = (earliest[index].offset, latest[index].offset);
            let found = at.as_ref().map(|at| at[index]);
            match self.output.format() {
                OutputFormat::Json => {
                    let mut object = json!({
                        "topic": topic,
                        "partition": partition.get(),
                        "earliest": first.map(Offset::get),
                        "latest": end.map(Offset::get),
                    });
                    if let Some(found) = found {
                        object["at"] = json!(found.offset.map(Offset::get));
                        object["at_timestamp"] = json!(found.timestamp.map(|time| time.get()));
                    }
                    print_json(&object)?;
                }
                OutputFormat::Table => {
                    let mut cells = vec![partition.to_string(), or_dash(first), or_dash(end)];
                    if let Some(found) = found {
                        cells.push(or_dash(found.offset));
                        cells.push(
                            found
                                .timestamp
                                .map_or_else(|| "-".to_owned(), format_timestamp),
                        );
                    }
                    rows.push(cells);
                }
            }
        }
        if self.output.format() == OutputFormat::Table {
            rows.print()?;
        }
        Ok(Exit::Done)
    }
}

const DELETE_HELP: &str = "\
Examples:
  logweir delete-records flights --before latest          empty the topic
  logweir delete-records flights --before 7d --dry-run    what is a week old
  logweir delete-records flights --partition 3 --before 120000

Deleting moves the beginning of a partition; the offsets of what remains do not
change. Disk space comes back when whole segments lie below the beginning.";

/// Delete the records below an offset or before a time
#[derive(Debug, Args)]
#[command(after_help = DELETE_HELP)]
pub(super) struct DeleteRecordsCommand {
    /// The topic
    topic: String,
    /// Delete what lies below: an offset (exclusive), latest, or the first record at or after a time
    #[arg(long, value_name = "OFFSET|latest|TIME")]
    before: Position,
    /// Only this partition; repeatable, or 0,2,5
    #[arg(long, value_name = "N", value_delimiter = ',')]
    partition: Vec<i32>,
    /// Only show what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DeleteRecordsCommand {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        if self.before == Position::Earliest {
            return Err(usage(
                "--before earliest would delete nothing; say latest, an offset or a time",
            ));
        }
        if matches!(self.before, Position::Offset(_)) && self.partition.is_empty() {
            return Err(usage(
                "--before OFFSET needs --partition: offsets of different partitions have nothing to do with each other; \
                 --before latest or a TIME goes for all of them",
            ));
        }
        let admin = self.server.connect().await?.admin();
        let partitions = choose_partitions(&admin, &self.topic, &self.partition).await?;
        let earliest = look_up(&admin, &self.topic, &partitions, OffsetSpec::Earliest).await?;
        let latest = look_up(&admin, &self.topic, &partitions, OffsetSpec::Latest).await?;
        let bounds = self.bounds(&admin, &partitions, &latest).await?;
        let headings = if self.dry_run {
            ["PARTITION", "BEGINS AT", "WOULD BEGIN AT", "WOULD DELETE"]
        } else {
            ["PARTITION", "BEGAN AT", "BEGINS AT", "DELETED"]
        };
        let mut rows = Rows::new(&headings).right(&[0, 1, 2, 3]);
        let mut failed = 0;
        for (index, partition) in partitions.iter().enumerate() {
            let old = earliest[index].offset.unwrap_or(Offset::ZERO);
            let before = bounds[index].max(old);
            let new = if self.dry_run {
                Ok(before)
            } else {
                admin
                    .delete_records(&self.topic, *partition, Some(before))
                    .await
            };
            let new = match new {
                Ok(new) => new,
                Err(error) => {
                    eprintln!("error: {error}");
                    failed += 1;
                    continue;
                }
            };
            let deleted = new.since(old);
            match self.output.format() {
                OutputFormat::Json => print_json(&json!({
                    "topic": self.topic,
                    "partition": partition.get(),
                    "old_log_start_offset": old.get(),
                    "log_start_offset": new.get(),
                    "deleted": deleted,
                    "dry_run": self.dry_run,
                }))?,
                OutputFormat::Table => rows.push(vec![
                    partition.to_string(),
                    old.to_string(),
                    new.to_string(),
                    deleted.to_string(),
                ]),
            }
        }
        if self.output.format() == OutputFormat::Table && failed < partitions.len() {
            rows.print()?;
        }
        Ok(Exit::of(failed, partitions.len()))
    }

    /// Below which offset to delete, for each partition.
    async fn bounds(
        &self,
        admin: &Admin,
        partitions: &[PartitionId],
        latest: &[ListedOffset],
    ) -> anyhow::Result<Vec<Offset>> {
        let ends = || {
            latest
                .iter()
                .map(|listed| listed.offset.unwrap_or(Offset::ZERO))
        };
        Ok(match self.before {
            Position::Offset(offset) => vec![offset; partitions.len()],
            Position::Earliest | Position::Latest => ends().collect(),
            Position::Time(when) => {
                let spec = OffsetSpec::Timestamp(when.resolve(Clock::default().now()));
                let found = look_up(admin, &self.topic, partitions, spec).await?;
                // No record that late: everything is older.
                found
                    .iter()
                    .zip(ends())
                    .map(|(listed, end)| listed.offset.unwrap_or(end))
                    .collect()
            }
        })
    }
}

/// The partitions asked for, or all, in order; refuses those that the topic does not have.
pub(super) async fn choose_partitions(
    admin: &Admin,
    topic: &str,
    wanted: &[i32],
) -> anyhow::Result<Vec<PartitionId>> {
    let description = admin.describe_topic(topic).await?;
    let all: Vec<PartitionId> = description.partitions.iter().map(|p| p.partition).collect();
    if wanted.is_empty() {
        return Ok(all);
    }
    let mut chosen: Vec<PartitionId> = wanted.iter().copied().map(PartitionId::new).collect();
    chosen.sort_unstable();
    chosen.dedup();
    if let Some(missing) = chosen.iter().find(|partition| !all.contains(partition)) {
        anyhow::bail!(
            "{topic} has no partition {missing}; it has {}, from 0",
            counted(all.len(), "partition")
        );
    }
    Ok(chosen)
}

/// Looks one offset up in each partition, in order.
pub(super) async fn look_up(
    admin: &Admin,
    topic: &str,
    partitions: &[PartitionId],
    spec: OffsetSpec,
) -> anyhow::Result<Vec<ListedOffset>> {
    let mut found = Vec::with_capacity(partitions.len());
    for chunk in partitions.chunks(LOOK_UP_CHUNK) {
        let wanted = chunk
            .iter()
            .map(|p| (TopicPartition::new(topic, *p), spec))
            .collect();
        for listed in admin.list_offsets(wanted, Isolation::default()).await? {
            found.push(listed?);
        }
    }
    Ok(found)
}

fn or_dash(offset: Option<Offset>) -> String {
    offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string())
}
