//! `logweir group reset`: where a group goes on reading, first shown and then done.

use clap::Args;
use logweir_client::{Offset, ResetOffset, ResetTo};

use super::advised;
use crate::cli::connection::ServerArgs;
use crate::cli::exit::{Exit, usage};
use crate::cli::moved_offsets::{MovedOffset, MovedOffsets, Outcome};
use crate::cli::output::OutputArgs;
use crate::cli::partition_list::PartitionList;
use crate::cli::time::When;
use crate::clock::Clock;

const EXAMPLES: &str = "\
Examples:
  logweir group reset billing --to-earliest                what it would do
  logweir group reset billing --to-earliest --execute      does it
  logweir group reset billing --to-time 2h --topic orders --execute
  logweir group reset billing --to-offset 1200 --topic orders:3
  logweir group reset billing --shift-by -100 --topic orders:0,4-7

Without --execute nothing is changed: it is only shown what would be. All of it
is done, or nothing. A group with members is refused: stop them first. Offsets
are clipped to the first and the end of each partition, and the row says so
(clipped_from in JSON). A group that does not exist is made if topics are given.";

/// Set where a group without members goes on reading; shows it only, without --execute
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Reset {
    /// The group
    group: String,
    #[command(flatten)]
    target: Target,
    /// Only this topic, or partitions of it; repeatable [default: all that the group has committed something for]
    #[arg(long = "topic", value_name = "TOPIC[:0,1-3]")]
    topics: Vec<PartitionList>,
    /// Do it, not only show it
    #[arg(long)]
    execute: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Where to: exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// To the first record that can be read
    #[arg(long)]
    to_earliest: bool,
    /// To the end: only new records are read
    #[arg(long)]
    to_latest: bool,
    /// To this offset
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// To the first record at or after this time: RFC 3339, a date (UTC), @MILLISECONDS, or an age such as 2h
    #[arg(long, value_name = "TIME")]
    to_time: Option<When>,
    /// So many offsets on from what is committed, or back if negative
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,
}

impl Target {
    fn read(&self) -> anyhow::Result<ResetTo> {
        if let Some(offset) = self.to_offset {
            return Ok(ResetTo::Offset(Offset::new(offset)));
        }
        if let Some(time) = self.to_time {
            return Ok(ResetTo::Timestamp(time.resolve(Clock::default().now())));
        }
        match self.shift_by {
            Some(0) => Err(usage(
                "--shift-by 0 changes nothing; give a number above or below 0",
            )),
            Some(by) => Ok(ResetTo::ShiftBy(by)),
            None if self.to_latest => Ok(ResetTo::Latest),
            None => Ok(ResetTo::Earliest),
        }
    }

    /// With what was asked for, where that is a number.
    fn moved(&self, reset: Vec<ResetOffset>) -> Vec<MovedOffset> {
        let moved = |reset: ResetOffset| {
            let shifted = self.shift_by.zip(reset.before);
            let shifted = shifted.map(|(by, before)| before.get().saturating_add(by));
            MovedOffset::new(reset, self.to_offset.or(shifted))
        };
        reset.into_iter().map(moved).collect()
    }
}

impl Reset {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let to = self.target.read()?;
        let topics: Vec<_> = self.topics.iter().map(PartitionList::named).collect();
        let admin = self.server.connect().await?.admin();
        let reset = |dry_run| admin.reset_offsets(&self.group, &topics, to.clone(), dry_run);
        let mut moved = MovedOffsets::new(self.output.format(), self.execute);
        // Also where it is done: what was committed before is known then, even if the answer is lost.
        let planned = reset(true).await;
        let planned = planned.map_err(|error| advised(error, &self.group))?;
        if !self.execute {
            moved.tell(&self.group, &self.target.moved(planned), Outcome::Shown)?;
            moved.finish()?;
            return Ok(Exit::Done);
        }
        match reset(false).await {
            Ok(set) => {
                moved.tell(&self.group, &self.target.moved(set), Outcome::Set)?;
                moved.finish()?;
                Ok(Exit::Done)
            }
            Err(error) => {
                if let Some(outcome) = Outcome::of_failed(&error) {
                    moved.tell(&self.group, &self.target.moved(planned), outcome)?;
                    moved.finish()?;
                }
                Err(advised(error, &self.group).into())
            }
        }
    }
}
