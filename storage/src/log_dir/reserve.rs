//! The reserve file: space that is given up when the disk is full, so that small but needed writes go on.
//!
//! While it is given up no appends are taken, or they would eat what was freed. It is taken back as soon as
//! there is room for it and as much again; from then on appends succeed.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::disk::{Disk, OpenMode};
use crate::log::remove_if_there;

/// At most this part of the disk is reserved.
const MAX_PART: u64 = 64;

/// The reserve of one data directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// The file is there, with blocks.
    held: AtomicBool,
    /// Held while the file comes or goes.
    changing: Mutex<()>,
}

impl Reserve {
    /// Takes the reserve, if there is room; a disk that is full already is no error.
    pub(crate) fn take(disk: &dyn Disk, path: PathBuf, bytes: u64) -> io::Result<Self> {
        let space = disk.space(path.parent().unwrap_or(&path))?;
        let bytes = bytes.min(space.total_bytes / MAX_PART);
        let reserve = Self {
            path,
            bytes,
            held: AtomicBool::new(bytes == 0),
            changing: Mutex::new(()),
        };
        if bytes > 0 {
            let held = reserve.try_hold(disk)?;
            reserve.held.store(held, Ordering::Release);
        }
        Ok(reserve)
    }

    /// Gives the space up. Gives whether there was any.
    pub(crate) fn release(&self, disk: &dyn Disk) -> bool {
        let _changing = self.changing.lock();
        if self.bytes == 0 || !self.held.load(Ordering::Acquire) {
            return false;
        }
        if let Err(error) = remove_if_there(disk, &self.path) {
            tracing::warn!(%error, "the reserve file cannot be removed");
            return false;
        }
        self.held.store(false, Ordering::Release);
        tracing::warn!(path = %self.path.display(), "disk is full: the reserve was given up");
        true
    }

    /// Whether appends may go on: the reserve is held, or could be taken again just now.
    pub(crate) fn allows_appends(&self, disk: &dyn Disk) -> bool {
        self.held.load(Ordering::Acquire) || self.take_again(disk)
    }

    fn take_again(&self, disk: &dyn Disk) -> bool {
        let _changing = self.changing.lock();
        let held = self.has_room(disk) && self.try_hold(disk).unwrap_or(false);
        if held {
            self.held.store(true, Ordering::Release);
            tracing::info!(path = %self.path.display(), "disk has room again: the reserve was taken");
        }
        held
    }

    /// Room for the reserve and as much again, so that it is not given up at once.
    fn has_room(&self, disk: &dyn Disk) -> bool {
        let space = disk.space(self.path.parent().unwrap_or(&self.path));
        space.is_ok_and(|space| space.free_bytes >= 2 * self.bytes)
    }

    fn try_hold(&self, disk: &dyn Disk) -> io::Result<bool> {
        let file = disk.open(&self.path, OpenMode::CreateOrOpen)?;
        match file.allocate(self.bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                remove_if_there(disk, &self.path)?;
                Ok(false)
            }
            // No reservations here, so no reserve either; appends do not depend on it.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
            Err(error) => Err(error),
        }
    }
}
