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

/// For how long what was written and not synced is kept.
#[derive(Debug)]
pub(crate) struct CacheLife {
    /// The machine's boot and a random part, which is new after each loss.
    pub(crate) id: String,
    /// The last run was in it, too.
    pub(crate) goes_on: bool,
}

/// Says that this directory is in use on this boot. If the file said so before, the end of the last run, if it was a
/// crash, was one of the process, and the page cache survived.
pub(crate) fn mark_running(
    disk: &dyn Disk,
    paths: &DirPaths,
    id: DirectoryId,
) -> Result<CacheLife, OpenError> {
    let path = paths.running();
    let boot_id = disk.boot_id().map_err(OpenError::io(&path))?;
    // A damaged file tells nothing, like an absent one.
    let before = match read_body(disk, &path, magic::RUNNING) {
        Ok(before) => before.and_then(|before| cache_life(&before, id, &boot_id)),
        Err(OpenError::Corrupt { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(id) = before {
        return Ok(CacheLife { id, goes_on: true });
    }
    let life = CacheLife {
        id: format!("{boot_id} {}", TopicId::random()),
        goes_on: false,
    };
    let mut body = id.get().to_vec();
    body.extend_from_slice(life.id.as_bytes());
    let bytes = checked_file::frame(magic::RUNNING, VERSION, &body);
    replace_file(disk, &path, &bytes).map_err(OpenError::io(&path))?;
    Ok(life)
}

/// What the file says, if it is of this directory and boot.
fn cache_life(body: &[u8], id: DirectoryId, boot_id: &str) -> Option<String> {
    let text = std::str::from_utf8(body.strip_prefix(&id.get())?).ok()?;
    let random = text.strip_prefix(boot_id)?;
    (random.is_empty() || random.starts_with(' ')).then(|| text.to_owned())
}

/// Notes that what was written and not synced may be lost although the machine goes on. Nothing is synced: the note
/// matters for as long as the machine runs. A disk that takes no changes any more does not take this one.
pub(crate) fn unmark_running(disk: &dyn Disk, paths: &DirPaths) -> std::io::Result<()> {
    disk.remove_file(&paths.running())
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
