//! A data directory: its lock, its identity, the logs in it and the threads that serve them.
//!
//! Kafka's "log dir". One process owns it. Order at the end: logs are closed, then the threads stop, then the
//! recovery points and the clean-shutdown file are written, then the lock goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use logweir_proto::{PartitionId, TopicId};
use parking_lot::Mutex;

use crate::checkpoint::{self, RecoveryPoint, RecoveryPoints};
use crate::config::{LogConfig, LogDirConfig};
use crate::disk::{DirLock, Disk};
use crate::error::{ChangeError, OpenError};
use crate::flush::{FlushCallback, GroupCommit, flush_log};
use crate::log::{self, Log, LogShared};
use crate::threads::on_threads;

mod budget;
mod context;
mod folders;
mod identity;
mod keeper;
mod names;
mod reserve;
mod writeback;

pub(crate) use budget::OpenSlot;
use budget::{MapBudget, default_max_mapped, default_max_open_logs};
pub(crate) use context::DirContext;
use context::{Health, Registry};
use folders::Folders;
use identity::CacheLife;
pub use identity::DirectoryId;
pub(crate) use keeper::Job;
use keeper::Keeper;
pub use names::LogId;
use names::{DELETED, DirPaths, STRAY};
use reserve::Reserve;
use writeback::Writeback;

/// One open data directory. Dropping it without [`LogDir::close`] is what a crash of the process is.
#[derive(Debug)]
pub struct LogDir {
    context: Arc<DirContext>,
    directory_id: DirectoryId,
    was_clean: bool,
    cache_life: CacheLife,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Gone once closed.
    lock: Mutex<Option<Box<dyn DirLock>>>,
}

impl LogDir {
    /// Opens a data directory, making it if it is absent, and takes its lock.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it; [`OpenError::Corrupt`] if one of the directory's own
    /// files is damaged; device errors.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        config: LogDirConfig,
    ) -> Result<Arc<Self>, OpenError> {
        let paths = DirPaths::new(path);
        make_durable_dir(disk.as_ref(), &paths).map_err(OpenError::io(path))?;
        let lock = disk.lock_dir(path).map_err(|source| {
            let path = path.to_path_buf();
            // Anything else, such as a lock file that may not be written, says nothing of another process.
            if source.kind() == std::io::ErrorKind::WouldBlock {
                OpenError::Locked { path, source }
            } else {
                OpenError::Io { path, source }
            }
        })?;
        let directory_id = identity::load_or_create(disk.as_ref(), &paths)?;
        let (points, was_clean) = load_points(disk.as_ref(), &paths, directory_id)?;
        let cache_life = identity::mark_running(disk.as_ref(), &paths, directory_id)?;
        let context = Arc::new(new_context(disk, paths, config, points)?);
        let dir = Arc::new(Self {
            threads: Mutex::new(start_threads(&context)?),
            context,
            directory_id,
            was_clean,
            cache_life,
            lock: Mutex::new(Some(lock)),
        });
        Ok(dir)
    }

    /// The directory's identity.
    #[must_use]
    pub fn directory_id(&self) -> DirectoryId {
        self.directory_id
    }

    /// Whether the last run closed the directory.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// Whether the last run was on this boot of the machine, and no sync of it failed: if it crashed, the page cache
    /// survived it.
    #[must_use]
    pub fn same_boot(&self) -> bool {
        self.cache_life.goes_on
    }

    /// Names the time in which nothing that was written got lost, synced or not, for as long as it stays the same: it is
    /// another one after a new boot of the machine, and after a run that ended with a failed sync.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.cache_life.id
    }

    /// Where the metadata quorum keeps its files.
    #[must_use]
    pub fn metadata_path(&self) -> PathBuf {
        self.context.paths.metadata()
    }

    /// The disk it lies on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.context.disk
    }

    /// Why the directory cannot be relied on any more; `None` while it can.
    #[must_use]
    pub fn offline(&self) -> Option<String> {
        self.context
            .health
            .check()
            .err()
            .map(|reason| reason.to_string())
    }

    /// How often segment files were synced by flushes since the directory was opened: one flush of a log syncs each of
    /// its segments that were written to, mostly one. Failed syncs are not counted.
    #[must_use]
    pub fn log_flushes(&self) -> u64 {
        self.context.log_flushes.load(Ordering::Relaxed)
    }

    /// Gives up the reserve of space, for a small write that met a full disk. Gives whether there was any; appends
    /// are refused until there is room for it again.
    pub fn release_reserve(&self) -> bool {
        self.context.reserve.release(self.context.disk.as_ref())
    }

    /// Opens a log, making it if it is absent, and recovers it if it was not closed. `on_flush` is told when
    /// its durable end moves, or that it will not any more. May read much from the disk.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] if bytes that were durable are damaged; nothing is changed then.
    /// [`OpenError::AlreadyOpen`], [`OpenError::Offline`], device errors.
    pub fn open_log(
        self: &Arc<Self>,
        topic: &str,
        topic_id: TopicId,
        partition: PartitionId,
        config: LogConfig,
        on_flush: FlushCallback,
    ) -> Result<Log, OpenError> {
        self.context
            .health
            .check()
            .map_err(|reason| OpenError::Offline { reason })?;
        let id = LogId {
            topic: Arc::from(topic),
            topic_id,
            partition,
        };
        if self.context.registry.get(id.key()).is_some() {
            return Err(OpenError::AlreadyOpen {
                path: self.context.paths.log(&id),
            });
        }
        let point = self.context.writeback.point(id.key());
        let opened = log::open(Arc::clone(self), &self.context, id, config, point, on_flush);
        let log = opened.map_err(|error| match (error, self.context.health.check()) {
            // A sync failed on the way: no use in trying again.
            (OpenError::Io { .. }, Err(reason)) => OpenError::Offline { reason },
            (error, _) => error,
        })?;
        self.log_opened(&log, point);
        Ok(log)
    }

    fn log_opened(&self, log: &Log, point: Option<RecoveryPoint>) {
        let shared = log.shared();
        // From now on the log is in use, so the point speaks of durability only.
        let offset = point.map_or(logweir_proto::Offset::ZERO, |point| point.offset);
        let truncations = point.map_or(shared.state.lock().truncations, |p| p.truncations);
        let point = RecoveryPoint {
            truncations,
            offset,
            clean: false,
        };
        self.context.writeback.set_point(shared.key(), point);
        self.context.registry.insert(shared);
    }

    /// The logs that are in the directory, open or not. Directories that are no logs are renamed `.stray`, deletions
    /// that were cut short are finished, and directories of topics with nothing in them are removed.
    ///
    /// # Errors
    /// Device errors.
    pub fn existing_logs(&self) -> Result<Vec<LogId>, OpenError> {
        let disk = self.context.disk.as_ref();
        let root = self.context.paths.logs();
        let mut logs = Vec::new();
        for topic in self.list(&root)?.into_iter().filter(|entry| entry.is_dir) {
            let dir = root.join(&topic.name);
            for entry in self.list(&dir)?.into_iter().filter(|entry| entry.is_dir) {
                let path = dir.join(&entry.name);
                if let Some(id) = LogId::parse(&topic.name, &entry.name) {
                    logs.push(id);
                } else if entry.name.ends_with(&format!(".{DELETED}")) {
                    disk.remove_dir_all(&path).map_err(OpenError::io(&path))?;
                } else if !entry.name.ends_with(&format!(".{STRAY}")) {
                    tracing::warn!(directory = %path.display(), "unknown directory: renamed");
                    let stray = dir.join(format!("{}.{STRAY}", entry.name));
                    disk.rename(&path, &stray).map_err(OpenError::io(&path))?;
                }
            }
            if logs.last().is_none_or(|log| *log.topic != *topic.name) {
                // A deletion that was cut short may have left it.
                let removed = self.context.folders.remove_if_empty(disk, &dir);
                removed.map_err(OpenError::io(&dir))?;
            }
        }
        Ok(logs)
    }

    fn list(&self, dir: &Path) -> Result<Vec<crate::disk::DirEntry>, OpenError> {
        match self.context.disk.list(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(OpenError::io(dir)),
        }
    }

    /// Puts a log that nobody knows aside, as a directory ending in `.stray`. It must not be open.
    ///
    /// # Errors
    /// Device errors.
    pub fn set_stray(&self, id: &LogId) -> Result<(), ChangeError> {
        self.move_log(id, STRAY).map(|_| ())
    }

    /// Deletes a log. Readers that hold bytes of it keep them. Durable when it returns.
    ///
    /// # Errors
    /// Device errors.
    pub fn delete_log(&self, log: Log) -> Result<(), ChangeError> {
        let id = log.id().clone();
        drop(log);
        self.delete_closed_log(&id)
    }

    /// Deletes a log that is not open, as [`LogDir::delete_log`] does.
    ///
    /// # Errors
    /// Device errors.
    pub fn delete_closed_log(&self, id: &LogId) -> Result<(), ChangeError> {
        let disk = self.context.disk.as_ref();
        let path = self.move_log(id, DELETED)?;
        disk.remove_dir_all(&path).map_err(ChangeError::io(&path))?;
        let topic = self.context.paths.topic(&id.topic);
        let removed = self.context.folders.remove_if_empty(disk, &topic);
        removed.map_err(ChangeError::io(&topic))
    }

    fn move_log(&self, id: &LogId, ending: &str) -> Result<PathBuf, ChangeError> {
        let (from, to) = (
            self.context.paths.log(id),
            self.context.paths.log_as(id, ending),
        );
        let disk = self.context.disk.as_ref();
        if disk.exists(&to).map_err(ChangeError::io(&to))? {
            disk.remove_dir_all(&to).map_err(ChangeError::io(&to))?;
        }
        disk.rename(&from, &to).map_err(ChangeError::io(&from))?;
        let topic = self.context.paths.topic(&id.topic);
        let synced = self.context.sync_dir(&topic);
        synced.map_err(ChangeError::io(&topic))?;
        self.context.writeback.forget(id.key());
        Ok(to)
    }

    /// Does once, on this thread, what the directory's threads would do; `checkpoint` writes the recovery points
    /// too. For directories without threads of their own.
    pub fn drive(&self, checkpoint: bool) {
        self.context.keeper.drive(self.context.disk.as_ref());
        self.context
            .group_commit
            .drive(&self.context, Instant::now() + FAR);
        self.context.writeback.drive(&self.context, checkpoint);
    }

    /// Lets `span` pass at once for flushes that were to come after a time ([`FlushPolicy::interval`]): those that
    /// become due are done, and told to the logs' owners, when it returns. Everything else that goes by age takes its
    /// time as an argument. Waits for the device.
    ///
    /// [`FlushPolicy::interval`]: crate::FlushPolicy::interval
    pub fn advance(&self, span: Duration) {
        self.context.group_commit.advance(&self.context, span);
    }

    /// Makes all open logs durable, several at a time, which lets the device serve many with one commit. To be called
    /// before many logs are closed one after the other. Waits for the device.
    ///
    /// # Errors
    /// [`ChangeError::Offline`] if the directory is or thereby goes offline, and device errors.
    pub fn flush_all(&self) -> Result<(), ChangeError> {
        let logs = self.context.registry.logs();
        let next = AtomicUsize::new(0);
        let flush_some = || {
            while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let flushed = flush_log(&self.context, log);
                flushed.map_err(|reason| ChangeError::Offline { reason })?;
                log.save_epochs()
                    .map_err(ChangeError::io(log.files.dir()))?;
                self.context.group_commit.request(log);
            }
            Ok(())
        };
        let others = logs.len().saturating_sub(1).min(FLUSHING_THREADS - 1);
        on_threads(others, flush_some).into_iter().collect()
    }

    /// Ends the run: stops the threads and, if every log was closed, notes that the next start need not recover.
    /// To be called after the logs were closed; logs that are still open will be recovered.
    ///
    /// # Errors
    /// Device errors, and [`ChangeError::Offline`]; the next start will recover.
    pub fn close(&self) -> Result<(), ChangeError> {
        self.stop();
        let outcome = self.write_marks();
        self.lock.lock().take();
        outcome
    }

    fn write_marks(&self) -> Result<(), ChangeError> {
        let context = &self.context;
        context
            .health
            .check()
            .map_err(|reason| ChangeError::Offline { reason })?;
        let root = context.paths.root();
        let points = context
            .writeback
            .write_final(context)
            .map_err(ChangeError::io(root))?;
        context
            .with_reserve(|| {
                identity::mark_clean(
                    context.disk.as_ref(),
                    &context.paths,
                    self.directory_id,
                    &points,
                )
            })
            .map_err(ChangeError::io(root))
    }

    #[cfg(test)]
    pub(crate) fn mapped_segments(&self) -> usize {
        self.context.budget.mapped()
    }

    /// Notes where a closed log ends.
    pub(crate) fn log_closed(&self, log: &LogShared) {
        let truncations = log.state.lock().truncations;
        let point = RecoveryPoint {
            truncations,
            offset: log.offsets.log_end(),
            clean: true,
        };
        self.context.registry.remove(log);
        self.context.writeback.set_point(log.key(), point);
    }

    /// Notes that a log's writer is gone. Nothing is flushed any more: a sync of files and directories that may be
    /// removed would look like a failing device.
    pub(crate) fn log_dropped(&self, log: &LogShared) {
        let bytes = log.flush.end(|| log.closed.store(true, Ordering::Release));
        self.context.writeback.discard(bytes);
        self.context.registry.remove(log);
    }

    #[cfg(test)]
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.context.writeback.unflushed_bytes()
    }

    fn stop(&self) {
        self.context.writeback.stop();
        self.context.group_commit.stop();
        self.context.keeper.stop();
        for thread in self.threads.lock().drain(..) {
            // A callback may hold the last share of the directory; a thread does not wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the data directory panicked");
            }
        }
        self.context.keeper.drive(self.context.disk.as_ref());
    }
}

impl Drop for LogDir {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes a directory so that a power cut does not take it, with its parents, away again. One with an identity
/// is known to be durable; one without may be what a start that failed left behind.
fn make_durable_dir(disk: &dyn Disk, paths: &DirPaths) -> std::io::Result<()> {
    let root = paths.root();
    disk.create_dir_all(root)?;
    if !disk.exists(&paths.directory())? {
        for parent in root.ancestors().skip(1) {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            match disk.sync_dir(parent) {
                // Directories of others were there before.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => break,
                outcome => outcome?,
            }
        }
    }
    // What a start that failed left in it counts from here on.
    disk.sync_dir(root)
}

/// What one of the directory's threads does.
type Work = fn(&DirContext);

/// Logs that [`LogDir::flush_all`] flushes at a time, at most.
const FLUSHING_THREADS: usize = 16;

/// Later than anything that waits.
const FAR: Duration = Duration::from_secs(1 << 30);

fn load_points(
    disk: &dyn Disk,
    paths: &DirPaths,
    id: DirectoryId,
) -> Result<(RecoveryPoints, bool), OpenError> {
    let path = paths.recovery_points();
    let bytes = crate::checked_file::read_whole(disk, &path).map_err(OpenError::io(&path))?;
    let mut points = match &bytes {
        Some(bytes) => {
            checkpoint::decode_points(bytes).map_err(|damage| OpenError::damaged(&path, damage))?
        }
        None => RecoveryPoints::new(),
    };
    let clean = identity::take_clean_mark(disk, paths, id, &bytes.unwrap_or_default())?;
    for point in points.values_mut() {
        point.clean &= clean;
    }
    Ok((points, clean))
}

fn new_context(
    disk: Arc<dyn Disk>,
    paths: DirPaths,
    config: LogDirConfig,
    points: RecoveryPoints,
) -> Result<DirContext, OpenError> {
    let root = paths.root();
    let reserves_blocks = disk.reserves_blocks(root).map_err(OpenError::io(root))?;
    let reserve = Reserve::take(disk.as_ref(), paths.reserve(), config.reserve_bytes);
    let max_mapped = config
        .max_mapped_segments
        .unwrap_or_else(default_max_mapped);
    let max_open_logs = config.max_open_logs.unwrap_or_else(default_max_open_logs);
    Ok(DirContext {
        reserve: reserve.map_err(OpenError::io(root))?,
        disk,
        reserves_blocks,
        health: Health::default(),
        registry: Registry::default(),
        budget: MapBudget::new(max_mapped, max_open_logs),
        group_commit: GroupCommit::default(),
        log_flushes: AtomicU64::new(0),
        folders: Folders::default(),
        keeper: Keeper::default(),
        writeback: Writeback::new(points),
        paths,
        config,
    })
}

fn start_threads(context: &Arc<DirContext>) -> Result<Vec<JoinHandle<()>>, OpenError> {
    if !context.config.threads {
        return Ok(Vec::new());
    }
    let parts: [(&str, Work); 3] = [
        ("logweir-commit", |context| {
            context.group_commit.run(context)
        }),
        ("logweir-keeper", |context| {
            context.keeper.run(context.disk.as_ref())
        }),
        ("logweir-writeback", |context| {
            context.writeback.run(context)
        }),
    ];
    let mut threads = Vec::new();
    for (name, work) in parts {
        let shared = Arc::clone(context);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&shared))
            .map_err(OpenError::io(context.paths.root()))?;
        threads.push(thread);
    }
    Ok(threads)
}
