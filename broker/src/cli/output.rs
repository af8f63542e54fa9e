//! What commands print: tables for people, one JSON object a line for programs.
//!
//! Names of groups, members and clients are chosen by whoever connects. In a table nothing of them reaches a terminal
//! that would move its cursor or read as a line of its own; in JSON they are escaped anyway.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::Value;

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

/// The `--output` of commands that print rows.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// How to print: columns for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: OutputFormat,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl OutputArgs {
    /// What was asked for, by either flag.
    pub(super) fn format(self) -> OutputFormat {
        if self.json {
            OutputFormat::Json
        } else {
            self.output
        }
    }
}

#[cfg(test)]
impl From<OutputFormat> for OutputArgs {
    fn from(output: OutputFormat) -> Self {
        let json = false;
        Self { output, json }
    }
}

/// Rows under headings, numbers to the right.
pub(super) struct Rows {
    table: Table,
    headings: usize,
}

impl Rows {
    /// A table with these headings.
    pub(super) fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.to_vec());
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self {
            table,
            headings: headings.len(),
        }
    }

    /// Adds a row; one cell for each heading. What a terminal would obey is escaped.
    pub(super) fn push(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headings);
        self.table
            .add_row(cells.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }

    /// Aligns the columns of these numbers to the right.
    pub(super) fn right(mut self, columns: &[usize]) -> Self {
        for column in columns {
            if let Some(column) = self.table.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Prints the table.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for line in self.table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        out.flush()
    }
}

/// The text with what a terminal would obey instead of showing it as `\u{1b}` or `\n`: control characters, and what
/// breaks lines or turns the direction of writing.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_obeyed(c) {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Prints one JSON object on a line of its own.
///
/// # Errors
/// Standard output cannot be written to.
pub(super) fn print_json(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

/// Prints a line of plain text.
///
/// # Errors
/// Standard output cannot be written to.
pub(super) fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Bytes in a form that is short to read, such as `1.5 MiB`.
pub(super) fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_cell_is_obeyed_by_a_terminal() {
        let check = |text: &str, shown: &str| assert_eq!(printable(text), shown);
        check("orders", "orders");
        check("\u{1b}[31mred", "\\u{1b}[31mred");
        check("a\r\nb\tc", "a\\r\\nb\\tc");
        check("\u{9b}2J\u{202e}x", "\\u{9b}2J\\u{202e}x");
        check("消费者 é \\ \"'", "消费者 é \\ \"'");
    }

    #[test]
    fn a_cell_is_one_line_whatever_is_in_it() {
        let mut rows = Rows::new(&["GROUP"]);
        rows.push(vec!["two\nlines".to_owned()]);
        let lines: Vec<String> = rows.table.lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[1].trim(), "two\\nlines");
    }
}
