//! The frame of Logweir's small files: magic, version, body, CRC-32.
//!
//! Such a file is always written whole by [`replace_file`](crate::disk::replace_file), so a wrong CRC is
//! damage, never a write that was cut short.

use std::io;
use std::path::Path;

use crate::disk::{Disk, OpenMode};

/// Bytes before the body: magic (4), version (2), zero (2), length of the body (4).
pub(crate) const PREFIX_LEN: usize = 12;
/// Bytes after the body: CRC-32 of everything before.
pub(crate) const SUFFIX_LEN: usize = 4;
/// No small file is larger; a larger one is not read into memory.
const MAX_LEN: u64 = 256 << 20;

/// The first four bytes of each kind of file.
pub(crate) mod magic {
    /// Identity of a data directory.
    pub(crate) const DIRECTORY: [u8; 4] = *b"LWDI";
    /// A run of the broker.
    pub(crate) const RUNNING: [u8; 4] = *b"LWRU";
    /// A clean end of a run.
    pub(crate) const CLEAN_SHUTDOWN: [u8; 4] = *b"LWCL";
    /// Recovery points of all logs of a directory.
    pub(crate) const RECOVERY_POINTS: [u8; 4] = *b"LWRP";
    /// Start offset and truncations of one log.
    pub(crate) const LOG_STATE: [u8; 4] = *b"LWLS";
    /// Leader epochs of one log.
    pub(crate) const LEADER_EPOCHS: [u8; 4] = *b"LWEP";
    /// Up to where one log was compacted.
    pub(crate) const COMPACTION: [u8; 4] = *b"LWCO";
    /// Producer states at one offset.
    pub(crate) const PRODUCERS: [u8; 4] = *b"LWPS";
    /// What a log's records amount to.
    pub(crate) const STATE_SNAPSHOT: [u8; 4] = *b"LWSS";
    /// Index of one segment; the only one with a frame of its own.
    pub(crate) const INDEX: [u8; 4] = *b"LWIX";
}

/// Why a small file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Where in the file.
    pub(crate) position: u64,
    /// What is wrong there.
    pub(crate) reason: String,
}

impl Damage {
    pub(crate) fn new(position: usize, reason: impl Into<String>) -> Self {
        Self {
            position: u64::try_from(position).unwrap_or(u64::MAX),
            reason: reason.into(),
        }
    }
}

/// Puts `body` into a frame.
pub(crate) fn frame(magic: [u8; 4], version: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("small files stay below 256 MiB");
    let mut bytes = Vec::with_capacity(PREFIX_LEN + body.len() + SUFFIX_LEN);
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(body);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// Takes the body out of a frame of a version up to `newest`, and says which version it is.
pub(crate) fn unframe(magic: [u8; 4], newest: u16, bytes: &[u8]) -> Result<(u16, &[u8]), Damage> {
    if bytes.len() < PREFIX_LEN + SUFFIX_LEN {
        return Err(Damage::new(bytes.len(), "the file is too short"));
    }
    let mut prefix = Fields::new(bytes);
    if prefix.array::<4>()? != magic {
        return Err(Damage::new(0, "the magic is wrong"));
    }
    let version = prefix.u16()?;
    prefix.u16()?;
    let len = usize::try_from(prefix.u32()?).unwrap_or(usize::MAX);
    if bytes.len() - PREFIX_LEN - SUFFIX_LEN != len {
        return Err(Damage::new(8, "the length is wrong"));
    }
    let (covered, crc) = bytes.split_at(PREFIX_LEN + len);
    if crc32fast::hash(covered).to_be_bytes() != crc {
        return Err(Damage::new(covered.len(), "the CRC is wrong"));
    }
    if version == 0 || version > newest {
        let reason = format!("version {version} is not known (newest known: {newest})");
        return Err(Damage::new(4, reason));
    }
    Ok((version, &covered[PREFIX_LEN..]))
}

/// Reads a small file whole; `None` if it is absent.
pub(crate) fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > MAX_LEN {
        return Err(io::Error::other(format!("{len} bytes are too many")));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    file.read_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Reads big-endian fields one after the other.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.position == self.bytes.len()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let field = self.take(N)?;
        Ok(field.try_into().expect("take gives as many as asked for"))
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let end = self.position.checked_add(len);
        let field = end.and_then(|end| self.bytes.get(self.position..end));
        let field = field.ok_or_else(|| Damage::new(self.position, "a field is cut off"))?;
        self.position += len;
        Ok(field)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Damage> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Damage> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Damage> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Damage> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Refuses bytes after the last field.
    pub(crate) fn end(&self) -> Result<(), Damage> {
        if self.is_empty() {
            return Ok(());
        }
        Err(Damage::new(self.position, "bytes follow the last field"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_gives_back_its_body() {
        let bytes = frame(magic::RUNNING, 1, b"body");
        assert_eq!(unframe(magic::RUNNING, 1, &bytes), Ok((1, &b"body"[..])));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_refused() {
        let bytes = frame(magic::RUNNING, 1, b"body");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unframe(magic::RUNNING, 1, &damaged).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(
                unframe(magic::RUNNING, 1, &bytes[..len]).is_err(),
                "len {len}"
            );
        }
    }

    #[test]
    fn a_newer_version_is_refused() {
        let bytes = frame(magic::RUNNING, 2, b"");
        let damage = unframe(magic::RUNNING, 1, &bytes).unwrap_err();
        assert!(damage.reason.contains("version 2"), "{damage:?}");
    }
}
