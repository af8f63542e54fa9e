//! The file that `logweir offsets export` writes and `import` reads: one JSON object for each group.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use logweir_client::{
    CommittedOffset, LeaderEpoch, Offset, OffsetToCommit, PartitionId, TopicId, TopicPartition,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// What `--help` says about the file.
pub(super) const FORMAT: &str = "\
The file has one JSON object for each group, one a line where it is exported:

  {\"group\":\"billing\",\"offsets\":[{\"topic\":\"orders\",
   \"topic_id\":\"0f8fad5b-d9cb-469f-a165-70867728950e\",\"partition\":0,
   \"offset\":1200,\"leader_epoch\":4,\"metadata\":\"\"}]}

  group         the group's id
  topic         the topic's name
  topic_id      its id; a topic created anew under that name is refused on import.
                May be left out
  partition     the partition, from 0
  offset        the next record that the group wants, from 0
  leader_epoch  of the record before it; may be left out
  metadata      what the committer wanted to remember; may be left out";

/// A group's offsets.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupOffsets {
    pub(super) group: String,
    pub(super) offsets: Vec<FileOffset>,
}

/// An offset of a partition.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileOffset {
    topic: String,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_id",
        deserialize_with = "read_id"
    )]
    topic_id: Option<Uuid>,
    partition: i32,
    offset: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leader_epoch: Option<i32>,
    #[serde(default)]
    metadata: String,
}

impl GroupOffsets {
    /// What a group has committed.
    pub(super) fn new(group: &str, committed: Vec<CommittedOffset>) -> Self {
        Self {
            group: group.to_owned(),
            offsets: committed.into_iter().map(FileOffset::from).collect(),
        }
    }

    /// The offsets as they are to be set.
    pub(super) fn to_commit(&self, ignore_topic_ids: bool) -> Vec<OffsetToCommit> {
        let offsets = self.offsets.iter().map(FileOffset::to_commit);
        offsets
            .map(|mut offset| {
                offset.topic_id = offset.topic_id.filter(|_| !ignore_topic_ids);
                offset
            })
            .collect()
    }

    fn check(&self) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        for offset in &self.offsets {
            let place = format!("partition {} of topic {:?}", offset.partition, offset.topic);
            if offset.partition < 0 {
                bail!("{place}: partitions begin at 0");
            }
            if offset.offset < 0 {
                bail!(
                    "{place}: offset {} is below 0; leave the partition out if nothing is to be committed",
                    offset.offset
                );
            }
            if offset.leader_epoch.is_some_and(|epoch| epoch < 0) {
                bail!("{place}: leader_epoch is below 0; leave it out if it is not known");
            }
            if !seen.insert((&offset.topic, offset.partition)) {
                bail!("{place} is there twice");
            }
        }
        Ok(())
    }
}

impl FileOffset {
    fn to_commit(&self) -> OffsetToCommit {
        let partition = PartitionId::new(self.partition);
        OffsetToCommit {
            partition: TopicPartition::new(self.topic.as_str(), partition),
            topic_id: self.topic_id.map(|id| TopicId::new(id.into_bytes())),
            offset: Offset::new(self.offset),
            leader_epoch: self.leader_epoch.map(LeaderEpoch::new),
            metadata: self.metadata.clone(),
        }
    }
}

impl From<CommittedOffset> for FileOffset {
    fn from(committed: CommittedOffset) -> Self {
        let known = committed.leader_epoch != LeaderEpoch::NONE;
        Self {
            topic: committed.partition.topic.to_string(),
            topic_id: committed
                .topic_id
                .filter(|id| *id != TopicId::ZERO)
                .map(|id| Uuid::from_bytes(id.get())),
            partition: committed.partition.partition.get(),
            offset: committed.offset.get(),
            leader_epoch: known.then(|| committed.leader_epoch.get()),
            metadata: committed.metadata,
        }
    }
}

#[expect(clippy::ref_option, reason = "serde calls it so")]
fn write_id<S: Serializer>(id: &Option<Uuid>, serializer: S) -> Result<S::Ok, S::Error> {
    id.map(|id| id.to_string()).serialize(serializer)
}

fn read_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Uuid>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let id = text.map(|text| {
        Uuid::parse_str(&text)
            .map_err(|_| D::Error::custom(format!("topic_id {text:?} is not a UUID")))
    });
    id.transpose()
}

/// A list is what a person would write, or another tool: it is told apart from a file that is no JSON at all.
fn refuse_list(text: &str) -> anyhow::Result<()> {
    let Ok(serde_json::Value::Array(items)) = serde_json::from_str(text) else {
        return Ok(());
    };
    if items.is_empty() {
        bail!("is an empty list, []: it has no group in it");
    }
    bail!(
        "is a list; it is to have the objects of groups one after another, which `jq -c '.[]'` makes of it (see --help)"
    )
}

/// Reads a whole file, and refuses it if anything in it cannot be meant.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<GroupOffsets>> {
    refuse_list(text)?;
    let mut groups: Vec<GroupOffsets> = Vec::new();
    for group in serde_json::Deserializer::from_str(text).into_iter() {
        let group: GroupOffsets =
            group.context("is not what `logweir offsets export` writes (see --help)")?;
        if group.group.is_empty() {
            bail!("object {}: the group has no id", groups.len() + 1);
        }
        if groups.iter().any(|earlier| earlier.group == group.group) {
            bail!("group {:?} is there twice", group.group);
        }
        group
            .check()
            .with_context(|| format!("group {:?}", group.group))?;
        groups.push(group);
    }
    if groups.is_empty() {
        bail!("has no group in it");
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let offset = FileOffset {
            topic: "t".to_owned(),
            topic_id: Some(Uuid::from_bytes([7; 16])),
            partition: 3,
            offset: 12,
            leader_epoch: Some(4),
            metadata: "\"m\"\n".to_owned(),
        };
        let group = |group: &str, offsets| GroupOffsets {
            group: group.to_owned(),
            offsets,
        };
        let groups = [group("a", vec![offset]), group("b", vec![])];
        let lines = groups
            .iter()
            .map(|group| serde_json::to_string(group).unwrap());
        let text = lines.collect::<Vec<_>>().join("\n");
        assert_eq!(parse(&text).unwrap(), groups);
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_and_its_fault_is_named() {
        let check = |text: &str, fault: &str| {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(fault), "{text}: {error}");
        };
        let of = |offsets: &str| format!(r#"{{"group":"g","offsets":[{offsets}]}}"#);
        let one = r#"{"topic":"t","partition":0,"offset":1}"#;
        check("", "no group");
        check("[]", "empty list");
        check(" [\n] ", "no group");
        check(&format!("[{}]", of("")), "jq");
        check("[", "--help");
        check("{\"group\":\"g\"}", "offsets");
        check(r#"{"group":"","offsets":[]}"#, "no id");
        check(&format!("{}{}", of(one), of(one)), "twice");
        check(&of(&format!("{one},{one}")), "twice");
        check(&of(r#"{"topic":"t","partition":0,"offset":-1}"#), "below 0");
        check(
            &of(r#"{"topic":"t","partition":-1,"offset":1}"#),
            "begin at 0",
        );
        check(
            &of(r#"{"topic":"t","partition":0,"ofset":1}"#),
            "unknown field",
        );
        check(
            &of(r#"{"topic":"t","topic_id":"x","partition":0,"offset":1}"#),
            "UUID",
        );
    }
}
