//! `logweir group delete-offsets`: forgets what a group committed for some topics.

use std::collections::BTreeSet;

use clap::Args;
use logweir_client::{Admin, ErrorCode, NamedPartitions, PartitionId, TopicPartition};
use serde_json::json;

use super::advised;
use crate::cli::connection::ServerArgs;
use crate::cli::exit::Exit;
use crate::cli::output::{OutputArgs, OutputFormat, print_json};
use crate::cli::partition_list::PartitionList;
use crate::words::counted;

const EXAMPLES: &str = "\
Examples:
  logweir group delete-offsets billing --topic orders
  logweir group delete-offsets billing --topic orders:0,4-7 --topic payments

Topics that members of the group are subscribed to are refused. Where nothing is
committed, the group begins as a new one would. A partition or a topic that
nothing was committed for is named, and the exit code is 1 (3 if others were
forgotten).";

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
        // The broker, as Kafka's, takes what was not committed for forgotten. Where a group has committed more than is read
        // at once it has to be believed.
        let committed = admin.group_offsets(&self.group).await.ok();
        let committed = committed.map(|offsets| {
            let places = offsets.into_iter().map(|offset| offset.partition);
            places.collect::<BTreeSet<_>>()
        });
        let results = admin
            .delete_group_offsets(&self.group, &topics)
            .await
            .map_err(|error| advised(error, &self.group))?;
        let was_committed = |place: &TopicPartition| match &committed {
            Some(committed) => committed.contains(place),
            None => true,
        };
        let (mut failed, mut absent) = (0, Vec::new());
        for (place, outcome) in &results {
            match outcome {
                Err(error) => {
                    eprintln!("error: {error}");
                    failed += 1;
                }
                Ok(()) if was_committed(place) => {
                    self.tell(&place.topic, Some(place.partition), true)?;
                }
                Ok(()) => absent.push((place.topic.to_string(), Some(place.partition))),
            }
        }
        let answered: BTreeSet<&str> = results.iter().map(|(place, _)| &*place.topic).collect();
        let whole = |named: &&NamedPartitions| {
            named.partitions.is_empty() && !answered.contains(named.topic.as_str())
        };
        let unanswered = topics.iter().filter(whole);
        absent.extend(unanswered.map(|named| (named.topic.clone(), None)));
        for (topic, partition) in &absent {
            self.tell(topic, *partition, false)?;
            let of = partition.map_or_else(String::new, |number| format!("partition {number} of "));
            let why = self.why_absent(&admin, topic, *partition).await;
            eprintln!(
                "error: group {} has committed nothing for {of}topic {topic:?}{why}",
                self.group
            );
        }
        let not_answered = absent.iter().filter(|(_, partition)| partition.is_none());
        let tried = results.len() + not_answered.count();
        Ok(Exit::of(failed + absent.len(), tried))
    }

    fn tell(
        &self,
        topic: &str,
        partition: Option<PartitionId>,
        deleted: bool,
    ) -> std::io::Result<()> {
        if self.output.format() == OutputFormat::Json {
            return print_json(&json!({
                "group": self.group,
                "topic": topic,
                "partition": partition.map(PartitionId::get),
                "deleted": deleted,
            }));
        }
        if let Some(partition) = partition.filter(|_| deleted) {
            eprintln!("no offset is committed for partition {partition} of {topic} any more");
        }
        Ok(())
    }

    /// What is to be said of a topic or partition that is not there at all.
    async fn why_absent(
        &self,
        admin: &Admin,
        topic: &str,
        partition: Option<PartitionId>,
    ) -> String {
        match (admin.describe_topic(topic).await, partition) {
            (Err(error), _) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {
                "; there is no such topic".to_owned()
            }
            (Ok(described), Some(partition))
                if described
                    .partitions
                    .iter()
                    .all(|p| p.partition != partition) =>
            {
                let partitions = counted(described.partitions.len(), "partition");
                format!("; it has {partitions}, from 0")
            }
            _ => String::new(),
        }
    }
}
