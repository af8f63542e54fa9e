//! `logweir group delete-offsets`: forgets what a group committed for some topics.

use clap::Args;
use serde_json::json;

use super::advised;
use crate::cli::connection::ServerArgs;
use crate::cli::exit::Exit;
use crate::cli::output::{OutputArgs, OutputFormat, print_json};
use crate::cli::partition_list::PartitionList;

const EXAMPLES: &str = "\
Examples:
  logweir group delete-offsets billing --topic orders
  logweir group delete-offsets billing --topic orders:0,4-7 --topic payments

Topics that members of the group are subscribed to are refused. Where nothing is
committed, the group begins as a new one would.";

/// Forget what a group has committed for topics that it does not read any more
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeleteOffsets {
    /// The group
    group: String,
    /// A topic, or partitions of it; repeatable
    #[arg(long = "topic", value_name = "TOPIC[:0,1-3]", required = true)]
    topics: Vec<PartitionList>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DeleteOffsets {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let topics: Vec<_> = self.topics.iter().map(PartitionList::named).collect();
        let results = admin
            .delete_group_offsets(&self.group, &topics)
            .await
            .map_err(|error| advised(error, &self.group))?;
        if results.is_empty() {
            eprintln!(
                "group {} has committed nothing for these topics",
                self.group
            );
        }
        let mut failed = 0;
        for (place, outcome) in &results {
            if let Err(error) = outcome {
                eprintln!("error: {error}");
                failed += 1;
            } else if self.output.format() == OutputFormat::Json {
                print_json(&json!({
                    "group": self.group,
                    "topic": place.topic.as_ref(),
                    "partition": place.partition.get(),
                    "deleted": true,
                }))?;
            } else {
                eprintln!(
                    "no offset is committed for partition {} of {} any more",
                    place.partition, place.topic
                );
            }
        }
        Ok(Exit::of(failed, results.len()))
    }
}
