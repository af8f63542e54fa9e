//! Directories above the logs in which names were made that may not be durable yet.
//!
//! They are shared: when many logs are made at once, the first flush makes the names of all of them durable.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::disk::Disk;

/// The directories that are to be synced before anything in their new subdirectories counts as durable.
#[derive(Debug, Default)]
pub(crate) struct NewNames(Mutex<BTreeSet<PathBuf>>);

impl NewNames {
    pub(crate) fn add(&self, dirs: impl IntoIterator<Item = PathBuf>) {
        self.0.lock().extend(dirs);
    }

    /// Makes all names durable that were made before. Whoever comes while another is at it waits for that.
    pub(crate) fn sync(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut dirs = self.0.lock();
        while let Some(dir) = dirs.first() {
            disk.sync_dir(dir)?;
            dirs.pop_first();
        }
        Ok(())
    }
}
