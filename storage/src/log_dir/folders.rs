//! The directories above the logs: made, made durable, and removed when nothing is left in them.
//!
//! They are shared: when many logs are made or recovered at once, the first flush makes the names of all of them
//! durable.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::context::DirContext;
use super::names::DirPaths;
use crate::disk::Disk;

/// The directories above the logs that were used in this run.
#[derive(Debug, Default)]
pub(crate) struct Folders(Mutex<Known>);

/// A directory is in one of the two; then the one above it is as well, and was not synced before it was there.
#[derive(Debug, Default)]
struct Known {
    /// To be synced before anything in their new subdirectories counts as durable.
    unsynced: BTreeSet<PathBuf>,
    synced: BTreeSet<PathBuf>,
}

impl Known {
    fn has(&self, dir: &Path) -> bool {
        self.unsynced.contains(dir) || self.synced.contains(dir)
    }

    /// Notes a new name in a directory.
    fn soil(&mut self, dir: PathBuf) {
        self.synced.remove(&dir);
        self.unsynced.insert(dir);
    }
}

impl Folders {
    /// Makes a log's directory, and those above it if need be.
    pub(crate) fn make(
        &self,
        disk: &dyn Disk,
        paths: &DirPaths,
        topic: &str,
        log: &Path,
    ) -> io::Result<()> {
        let mut known = self.0.lock();
        disk.create_dir_all(log)?;
        let (logs, topic) = (paths.logs(), paths.topic(topic));
        if !known.has(&logs) {
            known.soil(paths.root().to_path_buf());
        }
        if !known.has(&topic) {
            known.soil(logs);
        }
        known.soil(topic);
        Ok(())
    }

    /// Notes that a log's directory was there, but that nothing says its name is durable.
    pub(crate) fn found(&self, paths: &DirPaths, topic: &str) {
        let mut known = self.0.lock();
        for dir in [paths.root().to_path_buf(), paths.logs(), paths.topic(topic)] {
            if !known.has(&dir) {
                known.soil(dir);
            }
        }
    }

    /// Makes all names durable that were made before. Whoever comes while another is at it waits for that, and fails
    /// with it: a failed sync takes the data directory, `context`, offline and is not tried again.
    pub(crate) fn sync(&self, context: &DirContext) -> io::Result<()> {
        let mut known = self.0.lock();
        let healthy = context.health.check();
        healthy.map_err(|reason| io::Error::other(reason.to_string()))?;
        while let Some(dir) = known.unsynced.first().cloned() {
            context.sync_dir(&dir)?;
            known.unsynced.remove(&dir);
            known.synced.insert(dir);
        }
        Ok(())
    }

    /// Removes a topic's directory if nothing is in it. It may come back after a power cut, empty.
    pub(crate) fn remove_if_empty(&self, disk: &dyn Disk, topic: &Path) -> io::Result<()> {
        let mut known = self.0.lock();
        match disk.remove_dir(topic) {
            Ok(()) => {
                known.unsynced.remove(topic);
                known.synced.remove(topic);
                Ok(())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
