//! CSV (RFC 4180): finds where each row ends without changing a byte of it, and reads the key cell.
//!
//! Quoted cells may hold separators, doubled quotes and line breaks. A quote that does not begin a
//! cell is an ordinary character. Blank lines are passed over, as they hold no cell.

use std::io::BufRead;
use std::ops::Range;

use bytes::Bytes;

use super::{InputError, InputRecord, Source, strip_line_ending};
use crate::config::nearest;
use crate::words::counted;

/// More columns than any table has; the header of something that is no table is refused here.
const MAX_COLUMNS: usize = 65_536;

/// How a table is written and which column is the key.
#[derive(Clone, Debug)]
pub(crate) struct CsvOptions {
    /// The character between cells.
    pub(crate) delimiter: u8,
    /// The column whose cell is the key; `None` gives null keys.
    pub(crate) key_column: Option<String>,
}

/// Reads rows after the header.
pub(crate) struct Rows {
    delimiter: u8,
    columns: usize,
    key: Option<usize>,
}

/// Where the framing stands within a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    CellStart,
    Plain,
    Quoted,
    /// After a quote within a quoted cell: the end of the quoting, or the first of two quotes.
    QuoteInQuoted,
}

/// One row as it stands in the input.
struct Row {
    line: u64,
    /// Without its line ending.
    bytes: Vec<u8>,
    cells: usize,
    /// The wanted cell, if the row has it.
    cell: Option<Range<usize>>,
}

impl Rows {
    /// Takes the header row.
    pub(crate) fn open<R: BufRead>(
        source: &mut Source<R>,
        options: &CsvOptions,
    ) -> Result<Self, InputError> {
        let header = loop {
            match next_row(source, options.delimiter, None)? {
                Some(row) if row.bytes.is_empty() => {}
                Some(row) => break row,
                None => {
                    let reason = "the input is empty, but CSV begins with a header row".to_owned();
                    return Err(InputError::Stop { line: 1, reason });
                }
            }
        };
        if header.cells > MAX_COLUMNS {
            let reason = format!(
                "has {} columns, more than {MAX_COLUMNS}; is it CSV?",
                header.cells
            );
            return Err(InputError::Stop {
                line: header.line,
                reason,
            });
        }
        let key = match &options.key_column {
            Some(name) => Some(find_column(&header, options.delimiter, name)?),
            None => None,
        };
        Ok(Self {
            delimiter: options.delimiter,
            columns: header.cells,
            key,
        })
    }

    /// The next row as a record; `None` at the end.
    pub(crate) fn next<R: BufRead>(
        &self,
        source: &mut Source<R>,
    ) -> Result<Option<InputRecord>, InputError> {
        loop {
            let Some(row) = next_row(source, self.delimiter, self.key)? else {
                return Ok(None);
            };
            if row.bytes.is_empty() {
                continue;
            }
            if row.cells != self.columns {
                let reason = format!(
                    "has {}, but the header has {}; look for a separator or quote that is not quoted",
                    counted(row.cells, "cell"),
                    self.columns
                );
                return Err(InputError::Record {
                    line: row.line,
                    reason,
                });
            }
            let key = row
                .cell
                .as_ref()
                .map(|range| unquote(&row.bytes[range.clone()]));
            let value = Some(Bytes::from(row.bytes));
            return Ok(Some(InputRecord {
                line: row.line,
                key,
                value,
                ..InputRecord::default()
            }));
        }
    }
}

/// The index of the column called `name`.
fn find_column(header: &Row, delimiter: u8, name: &str) -> Result<usize, InputError> {
    let names: Vec<String> = split_cells(&header.bytes, delimiter)
        .map(|range| String::from_utf8_lossy(&unquote(&header.bytes[range])).into_owned())
        .collect();
    let stop = |reason| InputError::Stop {
        line: header.line,
        reason,
    };
    let mut found = names
        .iter()
        .enumerate()
        .filter(|(_, column)| *column == name);
    match (found.next(), found.next()) {
        (Some((index, _)), None) => Ok(index),
        (Some(_), Some(_)) => Err(stop(format!(
            "the header has more than one column {name:?}; the key must be one of them"
        ))),
        (None, _) => {
            let known = || names.iter().map(String::as_str);
            let hint = nearest(name, known())
                .map(|column| format!("did you mean {column:?}? "))
                .unwrap_or_default();
            let shown: Vec<&str> = known().take(50).collect();
            Err(stop(format!(
                "there is no column {name:?}; {hint}the header has: {}",
                shown.join(", ")
            )))
        }
    }
}

/// The cells of one row.
fn split_cells(row: &[u8], delimiter: u8) -> impl Iterator<Item = Range<usize>> {
    let mut state = State::CellStart;
    let mut start = 0;
    let mut position = 0;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        while position < row.len() {
            let byte = row[position];
            position += 1;
            if state != State::Quoted && byte == delimiter {
                state = State::CellStart;
                let range = start..position - 1;
                start = position;
                return Some(range);
            }
            state = state.after(byte, delimiter);
        }
        done = true;
        Some(start..row.len())
    })
}

impl State {
    /// The state after a byte that ends neither cell nor row.
    fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::CellStart | Self::QuoteInQuoted, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::QuoteInQuoted,
            (Self::Quoted, _) => Self::Quoted,
            (_, byte) if byte == delimiter => Self::CellStart,
            _ => Self::Plain,
        }
    }
}

/// The bytes of a cell without the quoting.
fn unquote(cell: &[u8]) -> Bytes {
    let Some(quoted) = cell.strip_prefix(b"\"") else {
        return Bytes::copy_from_slice(cell);
    };
    let mut text = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'"' {
            text.push(byte);
        } else if bytes.peek() == Some(&b'"') {
            bytes.next();
            text.push(b'"');
        } else {
            // What follows the closing quote up to the separator belongs to the cell as it stands.
            text.extend(bytes);
            break;
        }
    }
    Bytes::from(text)
}

/// Reads up to the line break that ends the row, noting cell `wanted` on the way; `None` at the end of the input.
fn next_row<R: BufRead>(
    source: &mut Source<R>,
    delimiter: u8,
    wanted: Option<usize>,
) -> Result<Option<Row>, InputError> {
    let line = source.line;
    let mut row = Row {
        line,
        bytes: Vec::new(),
        cells: 1,
        cell: None,
    };
    let mut state = State::CellStart;
    let mut cell_start = 0;
    let mut quote_line = line;
    loop {
        let current_line = source.line;
        let buffered = source.fill()?;
        if buffered.is_empty() {
            return end_of_input(row, state, quote_line, wanted, cell_start);
        }
        let mut lines = 0;
        let mut end = None;
        for (index, &byte) in buffered.iter().enumerate() {
            if byte == b'\n' {
                lines += 1;
                if state != State::Quoted {
                    end = Some(index + 1);
                    break;
                }
            }
            if byte == delimiter && state != State::Quoted {
                let at = row.bytes.len() + index;
                if wanted == Some(row.cells - 1) {
                    row.cell = Some(cell_start..at);
                }
                row.cells += 1;
                cell_start = at + 1;
            }
            if state == State::CellStart && byte == b'"' {
                quote_line = current_line + lines;
            }
            state = state.after(byte, delimiter);
        }
        let length = end.unwrap_or(buffered.len());
        row.bytes.extend_from_slice(&buffered[..length]);
        source.reader.consume(length);
        source.line += lines;
        if end.is_some() {
            strip_line_ending(&mut row.bytes);
        }
        if row.bytes.len() > source.limit.bytes {
            return Err(too_long(source, &row, state, quote_line, end.is_some())?);
        }
        if end.is_some() {
            return Ok(Some(finish(row, wanted, cell_start)));
        }
    }
}

fn finish(mut row: Row, wanted: Option<usize>, cell_start: usize) -> Row {
    if wanted == Some(row.cells - 1) {
        row.cell = Some(cell_start.min(row.bytes.len())..row.bytes.len());
    }
    row
}

fn end_of_input(
    row: Row,
    state: State,
    quote_line: u64,
    wanted: Option<usize>,
    cell_start: usize,
) -> Result<Option<Row>, InputError> {
    if state == State::Quoted {
        let reason = "the quote opened on this line is never closed".to_owned();
        return Err(InputError::Stop {
            line: quote_line,
            reason,
        });
    }
    if row.bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(finish(row, wanted, cell_start)))
}

/// The error for a row beyond the limit. Outside of quotes the next line begins the next row; within, nobody can say.
fn too_long<R: BufRead>(
    source: &mut Source<R>,
    row: &Row,
    state: State,
    quote_line: u64,
    whole: bool,
) -> Result<InputError, InputError> {
    if state == State::Quoted && !whole {
        return Ok(InputError::Stop {
            line: quote_line,
            reason: source.limit.exceeded_in_quotes(),
        });
    }
    if !whole {
        source.skip_line()?;
    }
    Ok(InputError::Record {
        line: row.line,
        reason: source.limit.exceeded(),
    })
}
