//! What commands print: tables for people, one JSON object a line for programs.

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

    /// Adds a row; one cell for each heading.
    pub(super) fn push(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headings);
        self.table.add_row(cells);
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
