//! Walks over the batches of a segment: of a file by `pread` (recovery), of published bytes in the map (reads).
//!
//! Both keep a [`IndexEntry`] as their place, so that offsets, positions, counts and times stay in step.

use std::{fmt, io};

use bytes::Bytes;
use logweir_proto::record::{self, BatchHeader};

use crate::disk::DiskFile;
use crate::index::IndexEntry;

/// At least so much is read at once.
const CHUNK: usize = 1 << 20;

/// Where a file's batches end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// At the last byte that was to be read.
    End,
    /// At a header of zeroes.
    Zeroes,
    /// At bytes that are no batch.
    Damaged(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("the file ends"),
            Self::Zeroes => f.write_str("zeroes follow"),
            Self::Damaged(reason) => f.write_str(reason),
        }
    }
}

/// Reads batches from a file, so that a device error is an error and nothing is mapped.
pub(crate) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    /// Exclusive end of the bytes that are read.
    end: u64,
    place: IndexEntry,
    verify: bool,
    buffer: Vec<u8>,
    /// Position in the file of the buffer's first byte.
    buffer_at: u64,
}

impl<'a> Scanner<'a> {
    /// Scans `[place, end)`, with the CRC of each batch where `verify` says so.
    pub(crate) fn new(file: &'a dyn DiskFile, place: IndexEntry, end: u64, verify: bool) -> Self {
        Self {
            file,
            end,
            place,
            verify,
            buffer: Vec::new(),
            buffer_at: 0,
        }
    }

    /// Where the next batch begins, and what lies before it.
    pub(crate) fn place(&self) -> IndexEntry {
        self.place
    }

    /// Looks at the next batch without passing it.
    pub(crate) fn peek(&mut self) -> io::Result<Result<BatchHeader, Stop>> {
        let position = u64::from(self.place.position);
        let left = self.end.saturating_sub(position);
        if left == 0 {
            return Ok(Err(Stop::End));
        }
        let head_len = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(record::HEADER_LEN);
        let head = self.bytes(position, head_len)?;
        if head.iter().all(|&byte| byte == 0) {
            return Ok(Err(Stop::Zeroes));
        }
        let header = match BatchHeader::read(head) {
            Ok(header) => header,
            Err(error) => return Ok(Err(Stop::Damaged(error.to_string()))),
        };
        if header.size_bytes as u64 > left {
            return Ok(Err(Stop::Damaged("the batch is cut off".into())));
        }
        if self.verify && record::crc_of(self.bytes(position, header.size_bytes)?) != header.crc {
            return Ok(Err(Stop::Damaged("the batch's CRC is wrong".into())));
        }
        Ok(Ok(header))
    }

    /// The bytes of the batch that [`Scanner::peek`] showed.
    pub(crate) fn batch(&mut self, header: &BatchHeader) -> io::Result<&[u8]> {
        self.bytes(u64::from(self.place.position), header.size_bytes)
    }

    /// Passes the batch that [`Scanner::peek`] showed.
    pub(crate) fn pass(&mut self, header: &BatchHeader) {
        self.place = self.place.after(header);
        self.place.append_time = self.place.append_time.max(header.max_timestamp);
    }

    /// Whether only zeroes follow up to the end of the scanned bytes.
    pub(crate) fn rest_is_zero(&mut self) -> io::Result<bool> {
        let mut position = u64::from(self.place.position);
        while position < self.end {
            let len = usize::try_from(self.end - position)
                .unwrap_or(usize::MAX)
                .min(CHUNK);
            if self.bytes(position, len)?.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            position += len as u64;
        }
        Ok(true)
    }

    /// `len` bytes from `position`, which lie within the scanned bytes.
    fn bytes(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let buffered = self.buffer_at..self.buffer_at + self.buffer.len() as u64;
        if !buffered.contains(&position) || position + len as u64 > buffered.end {
            let left = usize::try_from(self.end - position).unwrap_or(usize::MAX);
            self.buffer.resize(len.max(CHUNK).min(left), 0);
            self.buffer_at = position;
            if let Err(error) = self.file.read_at(&mut self.buffer, position) {
                self.buffer.clear();
                return Err(error);
            }
        }
        let start = usize::try_from(position - self.buffer_at).expect("it lies in the buffer");
        Ok(&self.buffer[start..start + len])
    }
}

/// Walks over published batches in a map.
pub(crate) struct Walk {
    bytes: Bytes,
    /// Position in the segment of the first of `bytes`.
    origin: u32,
    place: IndexEntry,
}

impl Walk {
    /// Walks over `bytes`, which begin at `place`.
    pub(crate) fn new(bytes: Bytes, place: IndexEntry) -> Self {
        Self {
            bytes,
            origin: place.position,
            place,
        }
    }

    /// Where the next batch begins, and what lies before it.
    pub(crate) fn place(&self) -> IndexEntry {
        self.place
    }

    /// Goes on at `place`, which is a batch's beginning in the same bytes, if it lies ahead.
    pub(crate) fn skip_to(&mut self, place: IndexEntry) {
        if place.position > self.place.position {
            self.place = place;
        }
    }

    /// Looks at the next batch; `None` at the end. An error says what is wrong at [`Walk::place`].
    pub(crate) fn peek(&self) -> Result<Option<BatchHeader>, String> {
        let rest = &self.bytes[self.index(self.place.position)..];
        if rest.is_empty() {
            return Ok(None);
        }
        let header = BatchHeader::read(rest).map_err(|error| error.to_string())?;
        if header.size_bytes > rest.len() {
            return Err("the batch is cut off".into());
        }
        Ok(Some(header))
    }

    /// Passes the batch that [`Walk::peek`] showed.
    pub(crate) fn pass(&mut self, header: &BatchHeader) {
        self.place = self.place.after(header);
    }

    /// The bytes from one position to another, without a copy.
    pub(crate) fn slice(&self, from: u32, to: u32) -> Bytes {
        self.bytes.slice(self.index(from)..self.index(to))
    }

    fn index(&self, position: u32) -> usize {
        usize::try_from(position - self.origin).expect("positions fit in memory")
    }
}
