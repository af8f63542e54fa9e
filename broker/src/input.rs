//! What `logweir produce` and fixtures are read from: lines, JSON lines or CSV, one record after another with its line number.
//!
//! Memory is bounded by the [`Limit`] whatever the input holds. The value is always the input's own
//! bytes; nothing is trimmed, unquoted or re-encoded except where a format says so.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;

mod csv;
mod jsonl;

pub(crate) use csv::CsvOptions;

/// One record of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InputRecord {
    /// The line it begins on, from 1.
    pub(crate) line: u64,
    /// `None` is a null key; empty is empty.
    pub(crate) key: Option<Bytes>,
    /// `None` is a tombstone.
    pub(crate) value: Option<Bytes>,
    /// In order; a name may occur more than once.
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since 1970-01-01 UTC; `None` is the time of producing.
    pub(crate) timestamp_ms: Option<i64>,
}

impl InputRecord {
    /// Bytes of key and value.
    pub(crate) fn data_bytes(&self) -> u64 {
        let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        u64::try_from(bytes(&self.key) + bytes(&self.value)).unwrap_or(u64::MAX)
    }

    /// About how many bytes of input it was read from.
    pub(crate) fn input_bytes(&self) -> u64 {
        self.data_bytes() + 1
    }
}

/// Why there is no record, or no further one.
#[derive(Debug)]
pub(crate) enum InputError {
    /// This record is wrong; the next one can be read.
    Record { line: u64, reason: String },
    /// Where the next record begins cannot be known, or nothing more can be read.
    Stop { line: u64, reason: String },
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { line, reason } | Self::Stop { line, reason } => {
                write!(f, "line {line}: {reason}")
            }
        }
    }
}

/// How to read the input.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// A record a line; text before the first separator, if one is given, is the key.
    Lines { key_separator: Option<Vec<u8>> },
    /// A JSON object a line.
    Jsonl,
    /// A CSV row a record.
    Csv(CsvOptions),
}

/// How long a record may be, and who is told what is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// The most bytes of a record, without its line's ending.
    pub(crate) bytes: usize,
    /// Flags are named as a way out: a program that reads a fixture has none to change.
    pub(crate) has_flags: bool,
}

impl Limit {
    fn exceeded(self) -> String {
        let advice = if self.has_flags {
            "; raise --max-record-bytes if that is right"
        } else {
            ", the most that is read as one record"
        };
        format!("is longer than {} bytes{advice}", self.bytes)
    }

    fn exceeded_in_quotes(self) -> String {
        let advice = if self.has_flags {
            ", or raise --max-record-bytes"
        } else {
            ""
        };
        format!(
            "the quote opened on this line is not closed within {} bytes; close it{advice}",
            self.bytes
        )
    }
}

/// The records of an input, in order.
pub(crate) struct Input<R> {
    source: Source<R>,
    kind: Kind,
}

enum Kind {
    Lines { key_separator: Option<Vec<u8>> },
    Jsonl,
    Csv(csv::Rows),
}

impl<R: BufRead> Input<R> {
    /// Begins to read; for CSV this takes the header row.
    ///
    /// # Errors
    /// [`InputError::Stop`] if the header row is missing or does not have the key column.
    pub(crate) fn new(reader: R, format: &Format, limit: Limit) -> Result<Self, InputError> {
        let mut source = Source {
            reader,
            line: 1,
            limit,
        };
        source.skip_byte_order_mark(format)?;
        let kind = match format {
            Format::Lines { key_separator } => Kind::Lines {
                key_separator: key_separator.clone(),
            },
            Format::Jsonl => Kind::Jsonl,
            Format::Csv(options) => Kind::Csv(csv::Rows::open(&mut source, options)?),
        };
        Ok(Self { source, kind })
    }

    /// The next record; `None` at the end. After [`InputError::Stop`] nothing more must be asked for.
    pub(crate) fn next_record(&mut self) -> Option<Result<InputRecord, InputError>> {
        match &self.kind {
            Kind::Csv(rows) => rows.next(&mut self.source).transpose(),
            Kind::Lines { key_separator } => {
                let next = self.source.next_line().transpose()?;
                Some(next.and_then(|(line, text)| split_line(line, text, key_separator.as_deref())))
            }
            Kind::Jsonl => loop {
                match self.source.next_line().transpose()? {
                    Ok((_, text)) if text.trim_ascii().is_empty() => {}
                    Ok((line, text)) => {
                        let record = jsonl::parse(&text, self.source.limit.has_flags);
                        return Some(match record {
                            Ok(record) => Ok(InputRecord { line, ..record }),
                            Err(reason) => Err(InputError::Record { line, reason }),
                        });
                    }
                    Err(error) => return Some(Err(error)),
                }
            },
        }
    }
}

impl<R: Read> Input<BufReader<R>> {
    /// Whether the next line can be had without waiting for whoever writes the input.
    pub(crate) fn has_buffered_line(&self) -> bool {
        self.source.reader.buffer().contains(&b'\n')
    }
}

fn split_line(
    line: u64,
    text: Vec<u8>,
    key_separator: Option<&[u8]>,
) -> Result<InputRecord, InputError> {
    let text = Bytes::from(text);
    let Some(separator) = key_separator else {
        return Ok(InputRecord {
            line,
            value: Some(text),
            ..InputRecord::default()
        });
    };
    let at = text
        .windows(separator.len())
        .position(|window| window == separator);
    let Some(at) = at else {
        let shown = String::from_utf8_lossy(separator)
            .escape_debug()
            .to_string();
        let reason = format!("has no key separator {shown:?}; every line must be KEY{shown}VALUE");
        return Err(InputError::Record { line, reason });
    };
    let value = text.slice(at + separator.len()..);
    Ok(InputRecord {
        line,
        key: Some(text.slice(..at)),
        value: Some(value),
        ..InputRecord::default()
    })
}

/// The bytes of the input, with a line counter.
struct Source<R> {
    reader: R,
    /// The line that the next byte is on, from 1.
    line: u64,
    limit: Limit,
}

impl<R: BufRead> Source<R> {
    /// A byte order mark is no part of the first column's name or of a JSON object. Lines keep theirs.
    fn skip_byte_order_mark(&mut self, format: &Format) -> Result<(), InputError> {
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        if matches!(format, Format::Lines { .. }) {
            return Ok(());
        }
        let buffered = self.fill()?;
        if buffered.starts_with(MARK) {
            self.reader.consume(MARK.len());
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<&[u8], InputError> {
        let line = self.line;
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_read(line, &error)),
            }
        }
        self.reader
            .fill_buf()
            .map_err(|error| cannot_read(line, &error))
    }

    /// The next line without its ending (LF or CR LF), and its number; `None` at the end. A line that is too
    /// long is passed over and is an error of its own.
    fn next_line(&mut self) -> Result<Option<(u64, Vec<u8>)>, InputError> {
        let line = self.line;
        let mut text = Vec::new();
        // Two more bytes than a record may have: its line ending.
        let limit = u64::try_from(self.limit.bytes)
            .unwrap_or(u64::MAX)
            .saturating_add(2);
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut text);
        if read.map_err(|error| cannot_read(line, &error))? == 0 {
            return Ok(None);
        }
        let whole = text.last() == Some(&b'\n');
        if whole {
            self.line += 1;
        }
        strip_line_ending(&mut text);
        if text.len() > self.limit.bytes {
            if !whole {
                self.skip_line()?;
            }
            let reason = self.limit.exceeded();
            return Err(InputError::Record { line, reason });
        }
        Ok(Some((line, text)))
    }

    /// Passes over the rest of a line.
    fn skip_line(&mut self) -> Result<(), InputError> {
        loop {
            let buffered = self.fill()?;
            if buffered.is_empty() {
                return Ok(());
            }
            let end = buffered.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(buffered.len(), |end| end + 1);
            self.reader.consume(length);
            if end.is_some() {
                self.line += 1;
                return Ok(());
            }
        }
    }
}

fn strip_line_ending(text: &mut Vec<u8>) {
    if text.last() == Some(&b'\n') {
        text.pop();
        if text.last() == Some(&b'\r') {
            text.pop();
        }
    }
}

fn cannot_read(line: u64, error: &io::Error) -> InputError {
    InputError::Stop {
        line,
        reason: format!("the input cannot be read further: {error}"),
    }
}

#[cfg(test)]
mod tests;
