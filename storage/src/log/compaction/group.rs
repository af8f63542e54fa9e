//! The segments of a log that become one, and what is written of them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::record::{BatchHeader, without_records};
use logweir_proto::{Offset, Timestamp};

use super::filter::{Filter, Seen, Verdict};
use super::output::{Mark, Output};
use super::source::Source;
use super::{Halt, Pace};
use crate::error::ChangeError;
use crate::segment::Segment;

/// Segments that become one.
pub(super) struct Group {
    pub(super) output: Output,
    pub(super) sources: Vec<Arc<Segment>>,
    /// Where the last of them ends.
    pub(super) end: Offset,
    /// Their size.
    pub(super) bytes: u64,
    /// The last batch of the last of them without its records, and when it was appended.
    last: Option<(Bytes, Timestamp)>,
}

/// A place to go back to.
pub(super) struct Before {
    mark: Mark,
    seen: Seen,
    end: Offset,
    bytes: u64,
    last: Option<(Bytes, Timestamp)>,
}

impl Group {
    /// None yet, of which the first will end at `end`.
    pub(super) fn new(output: Output, end: Offset) -> Self {
        Self {
            output,
            sources: Vec::new(),
            end,
            bytes: 0,
            last: None,
        }
    }

    /// Notes what there is, to go back to it if another source turns out not to fit.
    pub(super) fn mark(&mut self, filter: &Filter, path: &Path) -> Result<Before, Halt> {
        Ok(Before {
            mark: self.output.mark().map_err(ChangeError::io(path))?,
            seen: filter.seen(),
            end: self.end,
            bytes: self.bytes,
            last: self.last.clone(),
        })
    }

    /// Takes back the last source.
    pub(super) fn rewind(
        &mut self,
        before: Before,
        filter: &mut Filter,
        path: &Path,
    ) -> Result<(), Halt> {
        let rewound = self.output.rewind(&before.mark);
        rewound.map_err(ChangeError::io(path))?;
        self.sources.pop();
        filter.forget(before.seen);
        (self.end, self.bytes, self.last) = (before.end, before.bytes, before.last);
        Ok(())
    }

    /// Adds what the filter leaves of a source.
    pub(super) fn add(
        &mut self,
        source: Source,
        filter: &mut Filter,
        pace: &mut Pace<'_>,
        path: &Path,
    ) -> Result<(), Halt> {
        let is_first = self.sources.is_empty();
        let mut batches = source.batches();
        while let Some(found) = batches.next()? {
            pace.read(found.header().size_bytes as u64)?;
            let verdict = filter.decide(&found.batch).map_err(|error| {
                let offset = found.header().base_offset;
                let reason = format!("the batch at offset {offset}: {error}");
                ChangeError::io(path)(io::Error::other(reason))
            })?;
            let is_last = found.header().next_offset() == source.end;
            if is_last {
                self.last = Some((without_records(found.batch.bytes()), found.append_time));
            }
            let bytes = match verdict {
                Verdict::Keep => found.batch.bytes().clone(),
                Verdict::Rewrite(bytes) => bytes,
                // A segment ends where its last batch does, and this one may stay the last.
                Verdict::Drop if is_last && found.header().record_count == 0 && is_first => {
                    found.batch.bytes().clone()
                }
                Verdict::Drop => continue,
            };
            let in_place = is_first
                && self.output.size_bytes() == found.position
                && bytes == *found.batch.bytes();
            let header = BatchHeader::read(&bytes).unwrap_or(*found.header());
            let pushed = self
                .output
                .push(&header, &bytes, found.append_time, in_place);
            pushed.map_err(ChangeError::io(path))?;
        }
        if is_first && self.output.size_bytes() != source.size_bytes() {
            self.output.begin().map_err(ChangeError::io(path))?;
        }
        self.end = source.end;
        self.bytes += source.size_bytes();
        self.sources.push(source.segment);
        Ok(())
    }

    /// Has the last batch end where the next segment begins.
    pub(super) fn close(&mut self, path: &Path) -> Result<(), Halt> {
        if self.output.place().offset == self.end {
            return Ok(());
        }
        let (bytes, append_time) = self.last.take().expect("a source ends with a batch");
        let header = BatchHeader::read(&bytes).expect("a header that was read before");
        let pushed = self.output.push(&header, &bytes, append_time, false);
        Ok(pushed.map_err(ChangeError::io(path))?)
    }
}
