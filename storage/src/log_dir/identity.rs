//! Who a data directory is, whether it runs on the boot it ran on before, and whether it was closed.

use std::fmt;
use std::path::Path;

use logweir_proto::TopicId;

use super::names::DirPaths;
use crate::checked_file::{self, Fields, magic};
use crate::disk::{Disk, replace_file};
use crate::error::OpenError;

const VERSION: u16 = 1;

/// A data directory's identity, random and kept for its life (KIP-858).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId([u8; 16]);

impl DirectoryId {
    /// Wraps the sixteen bytes as they stand on the wire.
    #[must_use]
    pub const fn new(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    /// The sixteen bytes as they stand on the wire.
    #[must_use]
    pub const fn get(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicId::new(self.0).fmt(f)
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryId({self})")
    }
}

/// Reads a small file and its body; `None` if it is absent.
pub(crate) fn read_body(
    disk: &dyn Disk,
    path: &Path,
    magic: [u8; 4],
) -> Result<Option<Vec<u8>>, OpenError> {
    let bytes = checked_file::read_whole(disk, path).map_err(OpenError::io(path))?;
    let body = bytes
        .map(|bytes| checked_file::unframe(magic, VERSION, &bytes).map(|(_, body)| body.to_vec()));
    body.transpose()
        .map_err(|damage| OpenError::damaged(path, damage))
}

/// Reads the directory's id, or gives a new directory one.
pub(crate) fn load_or_create(disk: &dyn Disk, paths: &DirPaths) -> Result<DirectoryId, OpenError> {
    let path = paths.directory();
    if let Some(body) = read_body(disk, &path, magic::DIRECTORY)? {
        let mut fields = Fields::new(&body);
        let id = fields.array().and_then(|id| fields.end().map(|()| id));
        return id
            .map(DirectoryId)
            .map_err(|damage| OpenError::damaged(&path, damage));
    }
    let id = DirectoryId(TopicId::random().get());
    let bytes = checked_file::frame(magic::DIRECTORY, VERSION, &id.get());
    replace_file(disk, &path, &bytes).map_err(OpenError::io(&path))?;
    Ok(id)
}

/// Says that this directory is in use on this boot. Gives whether the file said so before: then the end of the
/// last run, if it was a crash, was one of the process, and the page cache survived.
pub(crate) fn mark_running(
    disk: &dyn Disk,
    paths: &DirPaths,
    id: DirectoryId,
) -> Result<bool, OpenError> {
    let path = paths.running();
    let boot_id = disk.boot_id().map_err(OpenError::io(&path))?;
    let mut body = id.get().to_vec();
    body.extend_from_slice(boot_id.as_bytes());
    // A damaged file tells nothing, like an absent one.
    let same = match read_body(disk, &path, magic::RUNNING) {
        Ok(before) => before.is_some_and(|before| before == body),
        Err(OpenError::Corrupt { .. }) => false,
        Err(error) => return Err(error),
    };
    if !same {
        let bytes = checked_file::frame(magic::RUNNING, VERSION, &body);
        replace_file(disk, &path, &bytes).map_err(OpenError::io(&path))?;
    }
    Ok(same)
}

/// Notes that all logs were closed; `points` are the bytes of the recovery points that say where they end.
pub(crate) fn mark_clean(
    disk: &dyn Disk,
    paths: &DirPaths,
    id: DirectoryId,
    points: &[u8],
) -> std::io::Result<()> {
    let bytes = checked_file::frame(magic::CLEAN_SHUTDOWN, VERSION, &clean_body(id, points));
    replace_file(disk, &paths.clean_shutdown(), &bytes)
}

/// Whether the last run noted that it closed all logs as `points` say. The note is gone afterwards.
pub(crate) fn take_clean_mark(
    disk: &dyn Disk,
    paths: &DirPaths,
    id: DirectoryId,
    points: &[u8],
) -> Result<bool, OpenError> {
    let path = paths.clean_shutdown();
    let mark = match read_body(disk, &path, magic::CLEAN_SHUTDOWN) {
        Ok(None) => return Ok(false),
        Ok(mark) => mark,
        Err(OpenError::Corrupt { .. }) => None,
        Err(error) => return Err(error),
    };
    disk.remove_file(&path).map_err(OpenError::io(&path))?;
    disk.sync_dir(paths.root())
        .map_err(OpenError::io(paths.root()))?;
    Ok(mark.is_some_and(|mark| mark == clean_body(id, points)))
}

fn clean_body(id: DirectoryId, points: &[u8]) -> Vec<u8> {
    let mut body = id.get().to_vec();
    body.extend_from_slice(&crc32fast::hash(points).to_be_bytes());
    body
}
