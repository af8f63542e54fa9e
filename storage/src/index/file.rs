//! The index on disk: a header and entries of 32 bytes, each with its own CRC-32, appended now and then.
//!
//! A file that was cut short or damaged gives its valid beginning; nothing after the first wrong entry counts.

use std::io;
use std::path::Path;

use logweir_proto::{Offset, Timestamp};

use super::{Index, IndexEntry};
use crate::checked_file::{Damage, Fields, magic};
use crate::disk::{Disk, OpenMode};

/// Magic (4), version (2), zero (2), base offset (8), zero (12), CRC (4).
pub(crate) const HEADER_LEN: usize = 32;
/// Relative offset (4), position (4), records before (4), append time (8), largest timestamp before (8), CRC (4).
pub(crate) const ENTRY_LEN: usize = 32;
const CRC_AT: usize = ENTRY_LEN - 4;
const VERSION: u16 = 1;

const _: () = assert!(HEADER_LEN == ENTRY_LEN && CRC_AT == 4 + 4 + 4 + 8 + 8);

/// The file of one segment's index, and how much of the index it holds.
#[derive(Debug)]
pub(crate) struct IndexFile {
    /// Entries that are in the file; those in memory beyond are not yet.
    persisted: usize,
    /// The file's name is given up.
    retired: bool,
}

impl IndexFile {
    /// A file that is not there or of no use.
    pub(crate) fn absent() -> Self {
        Self {
            persisted: 0,
            retired: false,
        }
    }

    /// Reads the valid beginning of the file, which is empty if the file is absent or another's.
    pub(crate) fn load(disk: &dyn Disk, path: &Path, base: Offset) -> io::Result<(Self, Index)> {
        let mut index = Index::new(base);
        let bytes = crate::checked_file::read_whole(disk, path)?.unwrap_or_default();
        let mut chunks = bytes.chunks_exact(ENTRY_LEN);
        let ours = chunks
            .next()
            .is_some_and(|header| decode_header(header) == Ok(base));
        if !ours {
            return Ok((Self::absent(), index));
        }
        for chunk in chunks {
            let before = index.entries.len();
            let Ok(entry) = decode_entry(chunk, base) else {
                break;
            };
            index.push(entry);
            if index.entries.len() == before {
                break;
            }
        }
        let persisted = index.entries.len();
        Ok((
            Self {
                persisted,
                retired: false,
            },
            index,
        ))
    }

    /// Writes the entries that are not in the file yet. Not synced: damage is found by the CRCs.
    pub(crate) fn persist(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
        base: Offset,
        entries: &[IndexEntry],
    ) -> io::Result<()> {
        if self.persisted >= entries.len() || self.retired {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity((entries.len() - self.persisted + 1) * ENTRY_LEN);
        let mut position = 0;
        if self.persisted == 0 {
            bytes.extend_from_slice(&encode_header(base));
        } else {
            position = (HEADER_LEN + self.persisted * ENTRY_LEN) as u64;
        }
        for entry in &entries[self.persisted..] {
            bytes.extend_from_slice(&encode_entry(entry, base));
        }
        let file = disk.open(path, OpenMode::CreateOrOpen)?;
        if file.len()? > position {
            file.set_len(position)?;
        }
        file.write_at(&bytes, position)?;
        self.persisted = entries.len();
        Ok(())
    }

    /// Writes nothing any more.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
    }

    /// Lets only the first `entries` of the file count; the next [`IndexFile::persist`] cuts off the others.
    pub(crate) fn keep(&mut self, entries: usize) {
        self.persisted = self.persisted.min(entries);
    }
}

fn encode_header(base: Offset) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..4].copy_from_slice(&magic::INDEX);
    bytes[4..6].copy_from_slice(&VERSION.to_be_bytes());
    bytes[8..16].copy_from_slice(&base.get().to_be_bytes());
    seal(&mut bytes);
    bytes
}

/// Reads the header: the base offset of the segment.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<Offset, Damage> {
    let mut fields = checked(bytes)?;
    if fields.array()? != magic::INDEX {
        return Err(Damage::new(0, "the magic is wrong"));
    }
    let version = fields.u16()?;
    if version != VERSION {
        return Err(Damage::new(4, format!("version {version} is not known")));
    }
    fields.u16()?;
    Ok(Offset::new(fields.i64()?))
}

fn encode_entry(entry: &IndexEntry, base: Offset) -> [u8; ENTRY_LEN] {
    let relative = u32::try_from(entry.offset.since(base)).unwrap_or(u32::MAX);
    let mut bytes = [0; ENTRY_LEN];
    bytes[..4].copy_from_slice(&relative.to_be_bytes());
    bytes[4..8].copy_from_slice(&entry.position.to_be_bytes());
    bytes[8..12].copy_from_slice(&entry.records.to_be_bytes());
    bytes[12..20].copy_from_slice(&entry.append_time.get().to_be_bytes());
    bytes[20..28].copy_from_slice(&entry.max_timestamp.get().to_be_bytes());
    seal(&mut bytes);
    bytes
}

/// Reads an entry.
pub(crate) fn decode_entry(bytes: &[u8], base: Offset) -> Result<IndexEntry, Damage> {
    let mut fields = checked(bytes)?;
    Ok(IndexEntry {
        offset: base.plus(i64::from(fields.u32()?)),
        position: fields.u32()?,
        records: fields.u32()?,
        append_time: Timestamp::new(fields.i64()?),
        max_timestamp: Timestamp::new(fields.i64()?),
    })
}

fn seal(bytes: &mut [u8; ENTRY_LEN]) {
    let crc = crc32fast::hash(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
}

fn checked(bytes: &[u8]) -> Result<Fields<'_>, Damage> {
    if bytes.len() != ENTRY_LEN {
        return Err(Damage::new(bytes.len(), "an entry is cut off"));
    }
    if crc32fast::hash(&bytes[..CRC_AT]).to_be_bytes() != bytes[CRC_AT..] {
        return Err(Damage::new(CRC_AT, "the CRC is wrong"));
    }
    Ok(Fields::new(bytes))
}
