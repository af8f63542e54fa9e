//! `logweir offsets import`: sets what groups have committed, from a file; everything is checked before anything is set.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use logweir_client::{Admin, ErrorCode, OffsetToCommit, ResetOffset, ResetTo};

use super::file::{self, FORMAT};
use crate::cli::connection::ServerArgs;
use crate::cli::exit::Exit;
use crate::cli::group::advised;
use crate::cli::moved_offsets::MovedOffsets;
use crate::cli::output::OutputArgs;

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

The offsets of a group are set all at once if they are at most 10,000 and take at
most 1,000,000 bytes: for each its topic, its metadata, the group and 96 bytes.
More are set part by part; if that fails on the way, it is said how far it got.";

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
type Wanted = (String, Vec<OffsetToCommit>);

impl Import {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let groups: Vec<Wanted> = self
            .read()?
            .into_iter()
            .map(|group| {
                let offsets = group.to_commit(self.ignore_topic_ids);
                (group.group, offsets)
            })
            .collect();
        let admin = self.server.connect().await?.admin();
        let mut moved = MovedOffsets::new(self.output.format(), self.execute);
        let checked = set(&admin, &groups, true).await?;
        let refused = checked.iter().filter(|result| result.is_none()).count();
        if refused > 0 {
            eprintln!("nothing was changed");
            return Ok(Exit::Failed);
        }
        let results = if self.execute {
            set(&admin, &groups, false).await?
        } else {
            checked
        };
        let failed = results.iter().filter(|result| result.is_none()).count();
        for ((group, _), result) in groups.iter().zip(&results) {
            if let Some(result) = result {
                moved.tell(group, result)?;
            }
        }
        moved.finish()?;
        Ok(Exit::of(failed, groups.len()))
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

/// Sets the offsets of every group, or finds out what would be set. None for a group that was refused, which was said.
async fn set(
    admin: &Admin,
    groups: &[Wanted],
    dry_run: bool,
) -> anyhow::Result<Vec<Option<Vec<ResetOffset>>>> {
    let mut results = Vec::with_capacity(groups.len());
    for (group, offsets) in groups {
        let exact = ResetTo::Exact(offsets.clone());
        results.push(match admin.reset_offsets(group, &[], exact, dry_run).await {
            Ok(moved) => Some(moved),
            Err(error) => {
                let error = match error.code() {
                    Some(ErrorCode::UnknownTopicId) => error.with_action(
                        "take its offsets out of the file, or say --ignore-topic-ids to set them nevertheless",
                    ),
                    _ => advised(error, group),
                };
                eprintln!("error: group {group}: {error}");
                None
            }
        });
    }
    Ok(results)
}
