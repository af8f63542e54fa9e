//! The one seam to the outside: files and directories, real ([`OsDisk`]) or simulated
//! ([`SimDisk`]).
//!
//! The hot path never calls through it: appends and reads go to a `SegmentMap` in `mmap.rs`,
//! which is pointer and length. Everything durable passes through here, so that a power cut, a full
//! disk or a failing device can be tried out.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::mmap::Mapping;

mod os;
mod sim;
#[cfg(test)]
mod tests;

pub use os::OsDisk;
pub use sim::{
    DEFAULT_CAPACITY_BYTES, DiskHook, DiskOp, InjectedFault, PowerCut, SimDisk, SimFault,
};

/// Holds the owner's pid, in every locked directory; never removed.
const LOCK_FILE: &str = ".lock";

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; an absent file is [`io::ErrorKind::NotFound`].
    Read,
    /// Read and write; an absent file is [`io::ErrorKind::NotFound`].
    Write,
    /// Read and write a new file; a present one is [`io::ErrorKind::AlreadyExists`].
    Create,
    /// Read and write, made if absent, kept if present.
    CreateOrOpen,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last part of the path. Names that are not UTF-8 are left out of listings.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes, for a file.
    pub len: u64,
}

/// Space of the file system that holds a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that this process may still take.
    pub free_bytes: u64,
}

/// Files and directories. Every call may wait for the device.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`OpenMode`] says, and any error of the device.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a directory and its parents; present ones are kept. The new names are not yet durable.
    ///
    /// # Errors
    /// Any error of the device.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it is absent, and any error of the device.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Whether a file or directory is there.
    ///
    /// # Errors
    /// Any error of the device other than its absence.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Renames a file or directory, replacing a file. Not durable before [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Any error of the device.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles and mappings stay good. Not durable before [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Any error of the device.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory. Not durable before [`Disk::sync_dir`] of the one above.
    ///
    /// # Errors
    /// [`io::ErrorKind::DirectoryNotEmpty`] if something is in it, and any error of the device.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and everything in it.
    ///
    /// # Errors
    /// Any error of the device.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: files created, renamed and removed in it.
    ///
    /// # Errors
    /// Any error of the device.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Space of the file system that holds `path`.
    ///
    /// # Errors
    /// Any error of the device.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// Takes a directory for this process, until the lock is dropped. The lock file holds the pid.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process (or another owner within this one) has it,
    /// with its pid in the message.
    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>>;

    /// Whether `fallocate` reserves real blocks under `dir`, so that stores through a mapping
    /// cannot meet a full disk. Where it does not, everything is written with
    /// [`DiskFile::write_at`].
    ///
    /// # Errors
    /// Any error of the device.
    fn reserves_blocks(&self, dir: &Path) -> io::Result<bool>;

    /// Names the present run of the machine: what was written but not synced survives for as long
    /// as it stays the same, whatever happens to the process.
    ///
    /// # Errors
    /// Any error of the system, for one that has no such name.
    fn boot_id(&self) -> io::Result<String>;

    /// Whether an operation may wait for a device now. A disk in memory whose operations nobody slows down does not.
    fn may_wait(&self) -> bool {
        true
    }
}

/// A directory held for one process; dropping it lets go.
pub trait DirLock: fmt::Debug + Send + Sync {}

/// An open file.
#[expect(
    clippy::len_without_is_empty,
    reason = "a length may fail to be read, and is never asked for emptiness"
)]
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Any error of the device.
    fn len(&self) -> io::Result<u64>;

    /// Sets its length. Never called to cut bytes that readers may hold.
    ///
    /// # Errors
    /// Any error of the device.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves real blocks for `[0, len)` and moves the end of the file there; a longer file keeps
    /// its length, but holes below `len` are filled (a file restored by a copy that skips zeroes
    /// has some). If it fails, the file has the length it had.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if there is no room, and any error of the device.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Fills `buffer` from `position`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] past the end, and any error of the device.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `position`, growing the file if need be.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if there is no room, and any error of the device.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// As [`DiskFile::write_at`], for two parts one after the other, in one operation.
    ///
    /// # Errors
    /// As [`DiskFile::write_at`].
    fn write_vectored_at(&self, parts: [&[u8]; 2], position: u64) -> io::Result<()>;

    /// Makes the file's bytes and length durable (`fdatasync`). Its name is made durable by
    /// [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Any error of the device. After one, nothing written since the last success can be trusted,
    /// and a second try must not be made (Linux marks the pages clean all the same).
    fn sync(&self) -> io::Result<()>;

    /// Maps `len` bytes of address space over the file, which may be shorter: only bytes below
    /// the allocated length may be touched. The mapping outlives the handle and the name.
    ///
    /// # Errors
    /// Any error of the device; [`io::ErrorKind::OutOfMemory`] if the process has too many maps.
    fn map(&self, len: usize) -> io::Result<Mapping>;
}

/// The error for a directory that has an owner. Names the owner only: whoever asked knows the directory.
fn locked(owner: Option<u32>) -> io::Error {
    let owner = match owner {
        Some(pid) if pid == std::process::id() => format!("this process (pid {pid})"),
        Some(pid) => format!("the process with pid {pid}"),
        None => "another process".to_owned(),
    };
    io::Error::new(io::ErrorKind::WouldBlock, format!("{owner} has it"))
}

/// Writes a small file whole: under a temporary name, synced, renamed, and the directory synced, so
/// that after any crash either the old or the new one is there.
///
/// # Errors
/// Any error of the device. The old file is then untouched, unless it was the last step that
/// failed, the sync of the directory: then the new one is there, but a power cut may bring the old
/// one back.
pub fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_file_heeding(disk, path, bytes, &|_, outcome| outcome)
}

/// Is told how each sync went, and of what.
pub(crate) type OnSync<'a> = &'a dyn Fn(&Path, io::Result<()>) -> io::Result<()>;

/// As [`replace_file`], for who must know of a failed sync.
pub(crate) fn replace_file_heeding(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
    on_sync: OnSync<'_>,
) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} names no file", path.display()),
        ));
    };
    let mut temporary = name.to_os_string();
    temporary.push(".tmp");
    let temporary = dir.join(temporary);
    if disk.exists(&temporary)? {
        disk.remove_file(&temporary)?;
    }
    let written = write_new(disk, &temporary, bytes, on_sync);
    let renamed = written.and_then(|()| disk.rename(&temporary, path));
    if let Err(error) = renamed {
        // Its blocks may be what a full disk lacks.
        let _ = disk.remove_file(&temporary);
        return Err(error);
    }
    on_sync(dir, disk.sync_dir(dir))
}

fn write_new(disk: &dyn Disk, path: &Path, bytes: &[u8], on_sync: OnSync<'_>) -> io::Result<()> {
    let file = disk.open(path, OpenMode::Create)?;
    file.write_at(bytes, 0)?;
    on_sync(path, file.sync())
}
