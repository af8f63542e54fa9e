//! What commands that set committed offsets print: before and after, where an offset was clipped to its partition, and
//! whether it was done.

use std::io;

use logweir_client::{Error, Offset, ResetOffset, TopicPartition};
use serde_json::json;

use super::output::{OutputFormat, Rows, print_json};
use crate::words::counted;

/// An offset that was set, or is to be.
#[derive(Debug)]
pub(super) struct MovedOffset {
    partition: TopicPartition,
    before: Option<Offset>,
    after: Offset,
    /// What was asked for, where that lies before the first offset or beyond the end.
    clipped_from: Option<i64>,
}

impl MovedOffset {
    /// An offset of which this was asked for, if it was a number.
    pub(super) fn new(reset: ResetOffset, wanted: Option<i64>) -> Self {
        Self {
            clipped_from: wanted.filter(|wanted| *wanted != reset.after.get()),
            partition: reset.partition,
            before: reset.before,
            after: reset.after,
        }
    }

    fn note(&self, outcome: Outcome) -> String {
        let mut notes = Vec::new();
        if let Some(from) = self.clipped_from {
            let bound = match from > self.after.get() {
                true => "the end",
                false => "the first offset",
            };
            notes.push(format!("clipped from {from} to {bound}"));
        }
        if outcome == Outcome::Unknown {
            notes.push("not known whether it was set".to_owned());
        }
        notes.join("; ")
    }
}

/// What became of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// They are shown only.
    Shown,
    /// They are set.
    Set,
    /// They may be set: the answer was lost.
    Unknown,
}

impl Outcome {
    /// That of a change that failed so; none if nothing was changed for certain.
    pub(super) fn of_failed(error: &Error) -> Option<Self> {
        // An error without a code is not the broker's: the request may have come there before the connection broke.
        let is_open = error.may_have_happened() || error.code().is_none();
        is_open.then_some(Self::Unknown)
    }
}

/// Offsets that were set, or would be.
pub(super) struct MovedOffsets {
    format: OutputFormat,
    executed: bool,
    rows: Vec<Vec<String>>,
    groups: Vec<String>,
    shown: usize,
    set: usize,
    unknown: usize,
    clipped: usize,
}

impl MovedOffsets {
    pub(super) fn new(format: OutputFormat, executed: bool) -> Self {
        Self {
            format,
            executed,
            rows: Vec::new(),
            groups: Vec::new(),
            shown: 0,
            set: 0,
            unknown: 0,
            clipped: 0,
        }
    }

    /// Takes what became of offsets of a group; as JSON it is printed at once.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn tell(
        &mut self,
        group: &str,
        moved: &[MovedOffset],
        outcome: Outcome,
    ) -> io::Result<()> {
        if self.groups.last().is_none_or(|last| last != group) {
            self.groups.push(group.to_owned());
        }
        *match outcome {
            Outcome::Shown => &mut self.shown,
            Outcome::Set => &mut self.set,
            Outcome::Unknown => &mut self.unknown,
        } += moved.len();
        for offset in moved {
            let place = &offset.partition;
            self.clipped += usize::from(offset.clipped_from.is_some());
            match self.format {
                OutputFormat::Json => print_json(&json!({
                    "group": group,
                    "topic": place.topic.as_ref(),
                    "partition": place.partition.get(),
                    "before": offset.before.map(Offset::get),
                    "after": offset.after.get(),
                    "clipped_from": offset.clipped_from,
                    "dry_run": outcome == Outcome::Shown,
                    "set": match outcome {
                        Outcome::Shown => Some(false),
                        Outcome::Set => Some(true),
                        Outcome::Unknown => None,
                    },
                }))?,
                OutputFormat::Table => self.rows.push(vec![
                    group.to_owned(),
                    place.topic.to_string(),
                    place.partition.to_string(),
                    offset
                        .before
                        .map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
                    offset.after.to_string(),
                    offset.note(outcome),
                ]),
            }
        }
        Ok(())
    }

    /// How many offsets were set.
    pub(super) fn set(&self) -> usize {
        self.set
    }

    /// Prints the table, and says what was changed.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn finish(self) -> io::Result<()> {
        if !self.rows.is_empty() {
            self.table().print()?;
        }
        let groups = counted(self.groups.len(), "group");
        let partitions = |count: usize| counted(count, "partition");
        if self.clipped > 0 {
            let lie = if self.clipped == 1 { "lies" } else { "lie" };
            eprintln!(
                "{} {lie} outside of what the partition has, and is clipped to its first offset or its end",
                counted(self.clipped, "offset")
            );
        }
        if self.unknown > 0 {
            eprintln!(
                "it is not known whether the offsets of {} were set; `logweir group describe` shows them",
                partitions(self.unknown)
            );
        }
        if !self.executed {
            eprintln!(
                "dry run: nothing was changed; with --execute the offsets of {} in {groups} are set",
                partitions(self.shown)
            );
        } else if self.set > 0 || self.unknown == 0 {
            eprintln!("set the offsets of {} in {groups}", partitions(self.set));
        }
        Ok(())
    }

    /// The rows, with a column of notes only if there are any.
    fn table(&self) -> Rows {
        let headings = ["GROUP", "TOPIC", "PARTITION", "BEFORE", "AFTER", "NOTE"];
        let has_notes = self.rows.iter().any(|row| !row[5].is_empty());
        let columns = if has_notes { 6 } else { 5 };
        let mut rows = Rows::new(&headings[..columns]).right(&[2, 3, 4]);
        for row in &self.rows {
            rows.push(row[..columns].to_vec());
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use logweir_client::PartitionId;

    use super::*;

    #[test]
    fn a_clipped_offset_says_from_where_and_to_which_side() {
        let check = |wanted: Option<i64>, after: i64, expected: &str| {
            let moved = MovedOffset {
                partition: TopicPartition::new("t", PartitionId::new(0)),
                before: None,
                after: Offset::new(after),
                clipped_from: wanted,
            };
            assert_eq!(moved.note(Outcome::Set), expected);
        };
        check(None, 5, "");
        check(Some(99), 5, "clipped from 99 to the end");
        check(Some(-3), 2, "clipped from -3 to the first offset");
    }
}
