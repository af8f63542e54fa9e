//! `logweir offsets import`: sets what groups have committed, from a file; everything is checked before anything is set.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use logweir_client::{
    Admin, Error, ErrorCode, Isolation, Offset, OffsetSpec, OffsetToCommit, ResetOffset, ResetTo,
    TopicPartition,
};

use super::LOOK_UP_CHUNK;
use super::file::{self, FORMAT};
use crate::cli::connection::ServerArgs;
use crate::cli::exit::Exit;
use crate::cli::group::advised;
use crate::cli::moved_offsets::{MovedOffset, MovedOffsets, Outcome};
use crate::cli::output::OutputArgs;
use crate::words::counted;

const EXAMPLES: &str = "\
Examples:
  logweir offsets import offsets.json              what it would do
  logweir offsets import offsets.json --execute    does it
  logweir offsets export old | sed 's/\"group\":\"old\"/\"group\":\"new\"/' |
    logweir offsets import --execute

Without --execute nothing is changed: it is only shown what would be. All of the
file is checked first, and nothing is set if anything in it is refused: a group
with members, a topic or partition that is not there, a topic that was created
anew. Partitions that the file does not name keep what they have.

An offset before the first record of a partition, or beyond its end, is clipped to
it, and the row says so (clipped_from in JSON): a group that is sent beyond the
end would begin anew.

The offsets of a group are set all at once if they are at most 10,000 and take at
most 1,000,000 bytes: for each its topic, its metadata, the group and 96 bytes.
More are set part by part. If that fails on the way, what was set is shown with
what was committed before, and the exit code is 3.";

/// Set what groups without members have committed, from JSON; shows it only, without --execute
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{FORMAT}"))]
pub(super) struct Import {
    /// The file [default: standard input]
    file: Option<PathBuf>,
    /// Do it, not only show it
    #[arg(long)]
    execute: bool,
    /// Take topics for the same if they have the same name, as in another cluster
    #[arg(long)]
    ignore_topic_ids: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A group with what it is to have committed.
struct Wanted {
    group: String,
    offsets: Vec<OffsetToCommit>,
    /// What the file says, where it is clipped.
    clipped_from: BTreeMap<TopicPartition, i64>,
}

impl Import {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let mut groups: Vec<Wanted> = self
            .read()?
            .into_iter()
            .map(|group| Wanted {
                offsets: group.to_commit(self.ignore_topic_ids),
                group: group.group,
                clipped_from: BTreeMap::new(),
            })
            .collect();
        let admin = self.server.connect().await?.admin();
        let Some(checked) = check(&admin, &groups).await else {
            eprintln!("nothing was changed");
            return Ok(Exit::Failed);
        };
        clip(&admin, &mut groups)
            .await
            .context("cannot look up where partitions begin and end; nothing was changed")?;
        for group in groups.iter().filter(|group| group.offsets.is_empty()) {
            eprintln!("group {}: the file has no offsets of it", group.group);
        }
        let mut moved = MovedOffsets::new(self.output.format(), self.execute);
        let mut failed = 0;
        for (group, before) in groups.iter().zip(&checked) {
            if !self.execute {
                moved.tell(
                    &group.group,
                    &group.planned(before, &group.offsets),
                    Outcome::Shown,
                )?;
            } else if !group.set(&admin, before, &mut moved).await? {
                failed += 1;
            }
        }
        let set = moved.set();
        moved.finish()?;
        Ok(match failed {
            0 => Exit::Done,
            _ if set > 0 => Exit::Partial,
            _ => Exit::Failed,
        })
    }

    fn read(&self) -> anyhow::Result<Vec<file::GroupOffsets>> {
        let name = self.file.as_ref().map_or_else(
            || "standard input".into(),
            |path| path.display().to_string(),
        );
        let text = match &self.file {
            Some(path) => std::fs::read_to_string(path),
            None => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map(|_| text)
            }
        };
        let text = text.with_context(|| format!("cannot read {name}"))?;
        file::parse(&text).context(name)
    }
}

impl Wanted {
    /// Sets the offsets part by part, and tells what became of each. Whether all are set; if not, it was said why.
    async fn set(
        &self,
        admin: &Admin,
        before: &[ResetOffset],
        moved: &mut MovedOffsets,
    ) -> anyhow::Result<bool> {
        let mut done = 0;
        for part in OffsetToCommit::parts(&self.group, &self.offsets) {
            let exact = ResetTo::Exact(part.to_vec());
            match admin.reset_offsets(&self.group, &[], exact, false).await {
                Ok(set) => {
                    done += set.len();
                    let set = set.into_iter().map(|reset| self.moved(reset));
                    moved.tell(&self.group, &set.collect::<Vec<_>>(), Outcome::Set)?;
                }
                Err(error) => {
                    if let Some(outcome) = Outcome::of_failed(&error) {
                        moved.tell(&self.group, &self.planned(before, part), outcome)?;
                    }
                    self.say(error);
                    if done > 0 {
                        let all = counted(self.offsets.len(), "offset");
                        eprintln!("group {}: {done} of {all} were set before", self.group);
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What is to become of these offsets, by what the check found committed.
    fn planned(&self, before: &[ResetOffset], offsets: &[OffsetToCommit]) -> Vec<MovedOffset> {
        let offsets = offsets.iter().map(|offset| (&offset.partition, offset));
        let offsets: BTreeMap<_, _> = offsets.collect();
        let planned = before.iter().filter_map(|reset| {
            let mut reset = reset.clone();
            reset.after = offsets.get(&reset.partition)?.offset;
            Some(self.moved(reset))
        });
        planned.collect()
    }

    fn moved(&self, reset: ResetOffset) -> MovedOffset {
        let wanted = self.clipped_from.get(&reset.partition).copied();
        MovedOffset::new(reset, wanted)
    }

    /// Says why the group is refused.
    fn say(&self, error: Error) {
        let error = match error.code() {
            Some(ErrorCode::UnknownTopicId) => error.with_action(
                "take its offsets out of the file, or say --ignore-topic-ids to set them nevertheless",
            ),
            _ => advised(error, &self.group),
        };
        if error.message().contains(&format!("{:?}", self.group)) {
            eprintln!("error: {error}");
        } else {
            eprintln!("error: group {}: {error}", self.group);
        }
    }
}

/// Finds out what would be set, by group. None if any of them is refused, which was said of each.
async fn check(admin: &Admin, groups: &[Wanted]) -> Option<Vec<Vec<ResetOffset>>> {
    let mut checked = Vec::with_capacity(groups.len());
    for group in groups {
        let exact = ResetTo::Exact(group.offsets.clone());
        match admin.reset_offsets(&group.group, &[], exact, true).await {
            Ok(reset) => checked.push(reset),
            Err(error) => group.say(error),
        }
    }
    (checked.len() == groups.len()).then_some(checked)
}

/// Keeps the offsets within what their partitions have.
async fn clip(admin: &Admin, groups: &mut [Wanted]) -> anyhow::Result<()> {
    let places = groups.iter().flat_map(|group| &group.offsets);
    let mut places: Vec<TopicPartition> = places.map(|offset| offset.partition.clone()).collect();
    places.sort_unstable();
    places.dedup();
    let first = offsets_of(admin, &places, OffsetSpec::Earliest).await?;
    let end = offsets_of(admin, &places, OffsetSpec::Latest).await?;
    let bounds = first.into_iter().zip(end);
    let bounds: BTreeMap<TopicPartition, (Offset, Offset)> =
        places.into_iter().zip(bounds).collect();
    for group in groups {
        for offset in &mut group.offsets {
            let Some((first, end)) = bounds.get(&offset.partition) else {
                continue;
            };
            let kept = offset.offset.clamp(*first, *end.max(first));
            if kept != offset.offset {
                let from = offset.offset.get();
                group.clipped_from.insert(offset.partition.clone(), from);
                offset.offset = kept;
                // It is that of another record.
                offset.leader_epoch = None;
            }
        }
    }
    Ok(())
}

/// One offset of each partition, in order.
async fn offsets_of(
    admin: &Admin,
    places: &[TopicPartition],
    spec: OffsetSpec,
) -> anyhow::Result<Vec<Offset>> {
    let mut found = Vec::with_capacity(places.len());
    for chunk in places.chunks(LOOK_UP_CHUNK) {
        let wanted = chunk.iter().map(|place| (place.clone(), spec)).collect();
        let listed = admin
            .list_offsets(wanted, Isolation::ReadUncommitted)
            .await?;
        for (place, listed) in chunk.iter().zip(listed) {
            let offset = listed?.offset;
            found.push(offset.with_context(|| {
                format!("partition {} of topic {:?}", place.partition, place.topic)
            })?);
        }
    }
    Ok(found)
}
