//! What commands that set committed offsets print: before and after, and whether it was done.

use std::io;

use logweir_client::{Offset, ResetOffset};
use serde_json::json;

use super::output::{OutputFormat, Rows, print_json};
use crate::words::counted;

/// Offsets that were set, or would be.
pub(super) struct MovedOffsets {
    format: OutputFormat,
    executed: bool,
    rows: Rows,
    partitions: usize,
    groups: usize,
}

impl MovedOffsets {
    pub(super) fn new(format: OutputFormat, executed: bool) -> Self {
        let headings = ["GROUP", "TOPIC", "PARTITION", "BEFORE", "AFTER"];
        Self {
            format,
            executed,
            rows: Rows::new(&headings).right(&[2, 3, 4]),
            partitions: 0,
            groups: 0,
        }
    }

    /// Takes what was set for a group; as JSON it is printed at once.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn tell(&mut self, group: &str, moved: &[ResetOffset]) -> io::Result<()> {
        self.groups += 1;
        self.partitions += moved.len();
        for offset in moved {
            let place = &offset.partition;
            match self.format {
                OutputFormat::Json => print_json(&json!({
                    "group": group,
                    "topic": place.topic.as_ref(),
                    "partition": place.partition.get(),
                    "before": offset.before.map(Offset::get),
                    "after": offset.after.get(),
                    "dry_run": !self.executed,
                }))?,
                OutputFormat::Table => self.rows.push(vec![
                    group.to_owned(),
                    place.topic.to_string(),
                    place.partition.to_string(),
                    offset
                        .before
                        .map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
                    offset.after.to_string(),
                ]),
            }
        }
        Ok(())
    }

    /// Prints the table, and says whether anything was changed.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn finish(self) -> io::Result<()> {
        if self.format == OutputFormat::Table && self.partitions > 0 {
            self.rows.print()?;
        }
        let partitions = counted(self.partitions, "partition");
        let groups = counted(self.groups, "group");
        if self.executed {
            eprintln!("set the offsets of {partitions} in {groups}");
        } else {
            eprintln!(
                "dry run: nothing was changed; with --execute the offsets of {partitions} in {groups} are set"
            );
        }
        Ok(())
    }
}
