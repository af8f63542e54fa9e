//! The real disk: files and directories of the operating system.
//!
//! Every error names its path. Full file systems and used-up quotas are both
//! [`io::ErrorKind::StorageFull`]. No state of its own: the kernel has it all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{DirEntry, DirLock, Disk, DiskFile, DiskSpace, LOCK_FILE, OpenMode};
use crate::mmap::Mapping;

/// Files and directories of the operating system.
#[derive(Clone, Debug, Default)]
pub struct OsDisk {
    _private: (),
}

impl OsDisk {
    /// The operating system's files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Adds what was tried and on which path; the kind stays, except that a used-up quota is a full
/// disk.
fn at(error: &io::Error, verb: &str, path: &Path) -> io::Error {
    let kind = match error.kind() {
        io::ErrorKind::QuotaExceeded => io::ErrorKind::StorageFull,
        kind => kind,
    };
    io::Error::new(kind, format!("{verb} {}: {error}", path.display()))
}

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        match mode {
            OpenMode::Read | OpenMode::Write => {}
            OpenMode::Create => {
                options.create_new(true);
            }
            OpenMode::CreateOrOpen => {
                options.create(true).truncate(false);
            }
        }
        let file = options.open(path).map_err(|e| at(&e, "open", path))?;
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(OsFile {
            file,
            path: path.to_owned(),
            writable,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path).map_err(|e| at(&e, "make directory", path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let failed = |e: io::Error| at(&e, "list", dir);
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                // Removed in the meantime, or a link to nowhere.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(at(&e, "look at", &entry.path())),
            };
            let is_dir = metadata.is_dir();
            let len = if is_dir { 0 } else { metadata.len() };
            entries.push(DirEntry { name, is_dir, len });
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists().map_err(|e| at(&e, "look for", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(|e| at(&at(&e, "to", to), "rename", from))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(|e| at(&e, "remove", path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path).map_err(|e| at(&e, "remove directory", path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path).map_err(|e| at(&e, "remove directory", path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // The parent of a relative name is the empty path.
        let here = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        File::open(here)
            .and_then(|handle| handle.sync_all())
            .map_err(|e| at(&e, "sync directory", dir))
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let found = rustix::fs::statvfs(path).map_err(|e| at(&e.into(), "space of", path))?;
        Ok(DiskSpace {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let path = dir.join(LOCK_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| at(&e, "open", &path))?;
        // `flock` belongs to this open file, so a second owner within the process is refused as
        // well.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
                let owner = fs::read_to_string(&path).unwrap_or_default();
                return Err(super::locked(owner.trim().parse().ok()));
            }
            Err(e) => return Err(at(&e.into(), "lock", &path)),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all_at(pid.as_bytes(), 0))
            .map_err(|e| at(&e, "write", &path))?;
        Ok(Box::new(OsDirLock { _file: file }))
    }

    fn reserves_blocks(&self, dir: &Path) -> io::Result<bool> {
        trial::reserves_blocks(dir)
    }

    fn boot_id(&self) -> io::Result<String> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let id = fs::read_to_string(path).map_err(|e| at(&e, "read", path))?;
        Ok(id.trim().to_owned())
    }
}

/// Holds the lock by holding the open file. The lock file stays: removing it would race with the
/// next owner.
#[derive(Debug)]
struct OsDirLock {
    _file: File,
}

impl DirLock for OsDirLock {}

#[derive(Debug)]
struct OsFile {
    file: File,
    path: PathBuf,
    writable: bool,
}

impl OsFile {
    fn failed(&self, verb: &str) -> impl FnOnce(io::Error) -> io::Error {
        move |error| at(&error, verb, &self.path)
    }
}

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata().map_err(self.failed("look at"))?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(self.failed("set length of"))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let before = self.len()?;
        let reserved = rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len)
        });
        let Err(error) = reserved else {
            return Ok(());
        };
        // ext4 leaves the file grown, and the blocks taken, when it runs out on the way.
        if self.len()? > before {
            self.set_len(before)?;
        }
        Err(at(&error.into(), "reserve space in", &self.path))
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.file
            .read_exact_at(buffer, position)
            .map_err(self.failed("read"))
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file
            .write_all_at(bytes, position)
            .map_err(self.failed("write"))
    }

    fn write_vectored_at(&self, parts: [&[u8]; 2], position: u64) -> io::Result<()> {
        let slices = parts.map(io::IoSlice::new);
        let written =
            rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, &slices, position));
        let mut written = written.map_err(|e| at(&e.into(), "write", &self.path))?;
        let mut start = position;
        for part in parts {
            // Nothing is left as a rule; a nearly full disk takes a piece and then says why.
            let done = written.min(part.len());
            if done < part.len() {
                self.write_at(&part[done..], start + done as u64)?;
            }
            written -= done;
            start += part.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(self.failed("sync"))
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        Mapping::of_file(&self.file, len, self.writable).map_err(self.failed("map"))
    }
}

/// Finds out whether reserved blocks are a promise.
mod trial {
    use super::*;

    const EXT4: u64 = 0xEF53;
    const XFS: u64 = 0x5846_5342;
    const TMPFS: u64 = 0x0102_1994;
    const TRIAL_BYTES: u64 = 64 * 1024;

    /// A promise needs three things. The type of the file system is one of the few that overwrite
    /// in place and for which it was tried (an overlay, FUSE or NFS hides what lies beneath; btrfs,
    /// ZFS and f2fs write elsewhere and need new blocks for it). `fallocate` works (ext3 on the
    /// ext4 driver has none). And files cannot share blocks: where `cp` makes reflinks, a copy of
    /// the active segment would turn reserved blocks into shared ones.
    pub(super) fn reserves_blocks(dir: &Path) -> io::Result<bool> {
        let found = rustix::fs::statfs(dir).map_err(|e| at(&e.into(), "type of", dir))?;
        let kind = u64::try_from(found.f_type).unwrap_or_default();
        if ![EXT4, XFS, TMPFS].contains(&kind) {
            return Ok(false);
        }
        let names =
            ["a", "b"].map(|which| dir.join(format!(".trial-{}-{which}", std::process::id())));
        let outcome = try_out(&names[0], &names[1]);
        for name in &names {
            if let Err(e) = fs::remove_file(name)
                && e.kind() != io::ErrorKind::NotFound
            {
                return Err(at(&e, "remove", name));
            }
        }
        match outcome {
            // It refuses for want of space, so it does reserve.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(true),
            other => other,
        }
    }

    fn try_out(one: &Path, other: &Path) -> io::Result<bool> {
        let open = |path: &Path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
                .map_err(|e| at(&e, "open", path))
        };
        let file = open(one)?;
        let reserved = rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, TRIAL_BYTES)
        });
        match reserved {
            Ok(()) => {}
            Err(e) if e == rustix::io::Errno::OPNOTSUPP || e == rustix::io::Errno::NOSYS => {
                return Ok(false);
            }
            Err(e) => return Err(at(&e.into(), "reserve space in", one)),
        }
        let metadata = file.metadata().map_err(|e| at(&e, "look at", one))?;
        // `st_blocks` counts 512 bytes whatever the block size.
        if metadata.len() != TRIAL_BYTES || metadata.blocks().saturating_mul(512) < TRIAL_BYTES {
            return Ok(false);
        }
        let shares_blocks = rustix::fs::ioctl_ficlone(open(other)?, &file).is_ok();
        Ok(!shares_blocks)
    }
}
