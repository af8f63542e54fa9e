//! What a data directory's logs and threads share.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::budget::MapBudget;
use super::folders::Folders;
use super::identity;
use super::keeper::{Job, Keeper};
use super::names::DirPaths;
use super::reserve::Reserve;
use super::writeback::Writeback;
use crate::checkpoint::LogKey;
use crate::config::LogDirConfig;
use crate::disk::{Disk, replace_file_heeding};
use crate::flush::GroupCommit;
use crate::log::LogShared;

/// Whether the directory can be relied on. Once offline it stays so until it is opened again.
#[derive(Debug, Default)]
pub(crate) struct Health {
    offline: AtomicBool,
    reason: Mutex<Option<Arc<str>>>,
}

impl Health {
    pub(crate) fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    /// # Errors
    /// The reason the directory is offline.
    pub(crate) fn check(&self) -> Result<(), Arc<str>> {
        if !self.is_offline() {
            return Ok(());
        }
        Err(self
            .reason
            .lock()
            .clone()
            .unwrap_or_else(|| Arc::from("unknown")))
    }

    /// Gives the first reason there was.
    fn go_offline(&self, reason: String) -> (Arc<str>, bool) {
        let mut known = self.reason.lock();
        let first = known.is_none();
        let reason = Arc::clone(known.get_or_insert_with(|| Arc::from(reason)));
        self.offline.store(true, Ordering::Release);
        (reason, first)
    }
}

/// The logs that are open.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    logs: Mutex<HashMap<LogKey, Weak<LogShared>>>,
}

impl Registry {
    pub(crate) fn logs(&self) -> Vec<Arc<LogShared>> {
        self.logs
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    pub(crate) fn get(&self, key: LogKey) -> Option<Arc<LogShared>> {
        self.logs.lock().get(&key).and_then(Weak::upgrade)
    }

    pub(crate) fn insert(&self, log: &Arc<LogShared>) {
        self.logs.lock().insert(log.key(), Arc::downgrade(log));
    }

    /// Forgets this log, not another that was opened under its name since.
    pub(crate) fn remove(&self, log: &LogShared) {
        let mut logs = self.logs.lock();
        if logs
            .get(&log.key())
            .is_some_and(|known| std::ptr::eq(known.as_ptr(), log))
        {
            logs.remove(&log.key());
        }
    }
}

/// One open data directory.
#[derive(Debug)]
pub(crate) struct DirContext {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) paths: DirPaths,
    pub(crate) config: LogDirConfig,
    /// Whether stores through a map are safe from a full disk.
    pub(crate) reserves_blocks: bool,
    pub(crate) health: Health,
    pub(crate) registry: Registry,
    pub(crate) budget: MapBudget,
    pub(crate) reserve: Reserve,
    pub(crate) group_commit: GroupCommit,
    /// Syncs of segment files by flushes, since the directory was opened.
    pub(crate) log_flushes: AtomicU64,
    pub(crate) folders: Folders,
    pub(crate) keeper: Keeper,
    pub(crate) writeback: Writeback,
}

impl DirContext {
    /// Takes the directory offline for good; the logs are told by the group-commit thread. Gives the reason that
    /// holds, which is an earlier one if there is.
    pub(crate) fn go_offline(&self, reason: String) -> Arc<str> {
        let (reason, first) = self.health.go_offline(reason);
        if first {
            tracing::error!(
                directory = %self.paths.root().display(), %reason, "data directory is offline"
            );
            self.group_commit.wake();
            if let Err(error) = identity::unmark_running(self.disk.as_ref(), &self.paths) {
                tracing::warn!(%error, "the failure could not be noted for the next start");
            }
        }
        reason
    }

    /// Passes on how a sync of `path` went. One that failed takes the directory offline: the kernel tells it once, so
    /// that a second try would succeed without what is lost. Apart are a full disk, which may have room again (what met
    /// it is still to be written), and what was deleted in the meantime.
    pub(crate) fn synced(&self, path: &Path, outcome: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &outcome
            && !matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::NotFound
            )
        {
            self.go_offline(format!("sync of {} failed: {error}", path.display()));
        }
        outcome
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Device errors, of which [`DirContext::synced`] tells more.
    pub(crate) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.synced(dir, self.disk.sync_dir(dir))
    }

    /// Writes a small file whole, as [`replace_file`](crate::disk::replace_file) does, with the reserve given up if the
    /// disk was full.
    ///
    /// # Errors
    /// Device errors; a failed sync takes the directory offline.
    pub(crate) fn replace_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let on_sync = |path: &Path, outcome| self.synced(path, outcome);
        self.with_reserve(|| replace_file_heeding(self.disk.as_ref(), path, bytes, &on_sync))
    }

    pub(crate) fn submit(&self, job: Job) {
        self.keeper.submit(self.disk.as_ref(), job);
    }

    /// Does `write`, and once more with the reserve given up if the disk was full.
    pub(crate) fn with_reserve<T>(&self, write: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match write() {
            Err(error)
                if error.kind() == io::ErrorKind::StorageFull
                    && self.reserve.release(self.disk.as_ref()) =>
            {
                write()
            }
            outcome => outcome,
        }
    }
}
