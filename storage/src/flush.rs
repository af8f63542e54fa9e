//! Making appends durable: one group-commit thread for all logs of a directory.
//!
//! A log is in the queue at most once, so the queue is as long as there are logs; all that was appended up to
//! the moment of the sync is served by it. A failed sync takes the directory offline and is never tried again.
//! Lock order: `serving`, a log's `flushing`, then its files; the queue is never held with another. A callback is
//! called with `serving` held alone.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use logweir_proto::Offset;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile};
use crate::log::LogShared;
use crate::log_dir::DirContext;

/// What a log's owner is told when a flush is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlushOutcome {
    /// All below this offset (exclusive) is durable. If the log was truncated in the meantime it may lie above
    /// the log's end.
    Durable(Offset),
    /// The data directory is offline, for this reason; nothing more becomes durable.
    Failed(Arc<str>),
}

/// Called by the group-commit thread, or by who calls [`LogDir::drive`](crate::LogDir::drive) or
/// [`LogDir::advance`](crate::LogDir::advance), which it must not do itself. No lock of the log is held.
pub type FlushCallback = Box<dyn Fn(FlushOutcome) + Send + Sync>;

/// A file with bytes that may not be durable.
#[derive(Clone, Debug)]
struct UnsyncedFile {
    base: Offset,
    file: Arc<dyn DiskFile>,
    /// It gets no more bytes, so one sync is enough.
    sealed: bool,
}

#[derive(Debug, Default)]
struct Unsynced {
    /// Segments by base offset; the last is the active one.
    files: Vec<UnsyncedFile>,
    /// Directories in which names were made.
    dirs: Vec<PathBuf>,
    /// Raised by a truncation, so that a flush from before says nothing about offsets after.
    truncations: u64,
}

/// What of one log waits to be made durable.
pub(crate) struct LogFlush {
    unsynced: Mutex<Unsynced>,
    /// Bytes appended. Moved by the log's one writer alone, so that an append pays no atomic addition for it.
    appended: AtomicU64,
    /// Bytes appended of which no flush needs to know any more, at most `appended`. Moved with `flushing` held.
    flushed: AtomicU64,
    queued: AtomicBool,
    /// A flush was asked for at a later time.
    timed: AtomicBool,
    /// Held while a flush is in progress: what one has taken on must be done before another says so.
    flushing: Mutex<()>,
    on_flush: FlushCallback,
}

impl std::fmt::Debug for LogFlush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFlush")
            .field("unsynced", &self.unsynced)
            .finish_non_exhaustive()
    }
}

/// What one flush covers.
struct Snapshot {
    end: Offset,
    appended: u64,
    files: Vec<UnsyncedFile>,
    dirs: Vec<PathBuf>,
    truncations: u64,
}

impl LogFlush {
    pub(crate) fn new(on_flush: FlushCallback) -> Self {
        Self {
            unsynced: Mutex::default(),
            appended: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            queued: AtomicBool::new(false),
            timed: AtomicBool::new(false),
            flushing: Mutex::new(()),
            on_flush,
        }
    }

    /// Adds the file of a segment that will be appended to.
    pub(crate) fn add_file(&self, base: Offset, file: Arc<dyn DiskFile>) {
        let mut unsynced = self.unsynced.lock();
        for earlier in &mut unsynced.files {
            earlier.sealed = true;
        }
        unsynced.files.push(UnsyncedFile {
            base,
            file,
            sealed: false,
        });
    }

    /// Adds a directory in which a name was made.
    pub(crate) fn add_dir(&self, dir: PathBuf) {
        let mut unsynced = self.unsynced.lock();
        if !unsynced.dirs.contains(&dir) {
            unsynced.dirs.push(dir);
        }
    }

    /// Forgets the files of segments from `base` on, and what flushes in progress will say; `lower` moves the
    /// ends, so that no flush from before can raise them again.
    pub(crate) fn truncate(&self, base: Offset, lower: impl FnOnce()) {
        let mut unsynced = self.unsynced.lock();
        unsynced.files.retain(|file| file.base < base);
        unsynced.truncations += 1;
        lower();
    }

    /// Lets go of all files. Only when everything is durable.
    pub(crate) fn release(&self) {
        self.unsynced.lock().files.clear();
    }

    /// Runs `work` while no flush is in progress.
    pub(crate) fn exclude<T>(&self, work: impl FnOnce() -> T) -> T {
        let _flushing = self.flushing.lock();
        work()
    }

    /// As [`LogFlush::exclude`], and gives the bytes that will not be flushed any more.
    pub(crate) fn end(&self, change: impl FnOnce()) -> u64 {
        self.exclude(|| {
            change();
            self.flushed_up_to(self.appended.load(Ordering::Acquire))
        })
    }

    pub(crate) fn unflushed_bytes(&self) -> u64 {
        let flushed = self.flushed.load(Ordering::Relaxed);
        self.appended
            .load(Ordering::Relaxed)
            .saturating_sub(flushed)
    }

    /// Called by the log's writer.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        let before = self.appended.load(Ordering::Relaxed);
        // Whoever sees these sees the sum over all logs with them.
        self.appended.store(before + bytes, Ordering::Release);
    }

    /// Notes that no flush needs to know of the first `appended` bytes any more; how many of them were new. Called with
    /// `flushing` held.
    fn flushed_up_to(&self, appended: u64) -> u64 {
        appended - self.flushed.swap(appended, Ordering::Relaxed)
    }

    pub(crate) fn tell(&self, outcome: FlushOutcome) {
        (self.on_flush)(outcome);
    }

    fn snapshot(&self, end: impl FnOnce() -> Offset) -> Snapshot {
        let mut unsynced = self.unsynced.lock();
        // The files are those of the end or later ones: a file is added before its first append.
        Snapshot {
            end: end(),
            appended: self.appended.load(Ordering::Acquire),
            files: unsynced.files.clone(),
            dirs: std::mem::take(&mut unsynced.dirs),
            truncations: unsynced.truncations,
        }
    }

    /// Notes what was synced; calls `advance` unless the log was truncated in the meantime.
    fn complete(&self, snapshot: &Snapshot, advance: impl FnOnce()) -> bool {
        let mut unsynced = self.unsynced.lock();
        if unsynced.truncations != snapshot.truncations {
            return false;
        }
        // Not by the base offset: a segment that was opened anew while it was empty is there twice, and once sealed.
        let synced = |file: &UnsyncedFile| {
            snapshot.files.iter().any(|other| {
                let (one, other_file) = (Arc::as_ptr(&file.file), Arc::as_ptr(&other.file));
                other.sealed && std::ptr::addr_eq(one, other_file)
            })
        };
        unsynced.files.retain(|file| !synced(file));
        advance();
        true
    }
}

impl Snapshot {
    fn sync(&self, disk: &dyn Disk, log_flushes: &AtomicU64) -> io::Result<()> {
        for file in &self.files {
            file.file.sync()?;
            log_flushes.fetch_add(1, Ordering::Relaxed);
        }
        for dir in &self.dirs {
            disk.sync_dir(dir)?;
        }
        Ok(())
    }
}

/// Makes one log durable up to its present end and moves its durable end there, which it gives. Waits for the
/// device, unless there is nothing to do.
///
/// # Errors
/// Why not: the log is closed or the directory offline, which a failed sync made it.
pub(crate) fn flush_log(context: &DirContext, log: &LogShared) -> Result<Offset, Arc<str>> {
    let _flushing = log.flush.flushing.lock();
    let durable_end = log.offsets.durable_end();
    if durable_end >= log.offsets.log_end() {
        // What was not durable was cut off.
        let appended = log.flush.appended.load(Ordering::Acquire);
        context.writeback.discard(log.flush.flushed_up_to(appended));
        return Ok(durable_end);
    }
    log.check_open()?;
    let snapshot = log.flush.snapshot(|| log.offsets.log_end());
    let disk = context.disk.as_ref();
    if let Err(error) = snapshot
        .sync(disk, &context.log_flushes)
        .and_then(|()| context.folders.sync(context))
    {
        let reason = format!("sync of {} failed: {error}", log.files.dir().display());
        return Err(context.go_offline(reason));
    }
    log.flush
        .complete(&snapshot, || log.offsets.advance_durable(snapshot.end));
    let flushed_bytes = log.flush.flushed_up_to(snapshot.appended);
    context
        .writeback
        .flushed(flushed_bytes, context.config.max_unflushed_bytes);
    // Not the snapshot's end: a truncation may have overtaken the sync.
    Ok(log.offsets.durable_end())
}

/// A flush that served so many appends or more has the next one wait for as many: others are likely to be on their way.
const SIBLINGS: u64 = 5;
/// How long they are waited for: so many times as long as the flush took that served those before,
const GATHER_FACTOR: u32 = 2;
/// and never longer than this.
const MAX_GATHER: Duration = Duration::from_millis(2);
/// Flushes that take less are not worth the wait.
const MIN_GATHER: Duration = Duration::from_micros(50);

/// Appends that asked for a flush, so that one flush serves many of those that come side by side.
#[derive(Debug, Default)]
struct Gathering {
    /// Appends that have asked so far.
    asked: AtomicU64,
    /// The count at which the thread goes on, while it waits for more.
    wanted: AtomicU64,
}

impl Gathering {
    /// Notes an append; whether it is the last of those that are waited for.
    fn ask(&self) -> bool {
        // In one order with the thread's store of `wanted` and its look at `asked`: one of the two sees the other.
        let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        asked == self.wanted.load(Ordering::SeqCst)
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn want(&self, asked: u64) {
        self.wanted.store(asked, Ordering::SeqCst);
    }
}

/// What the last flush tells of the next.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Appends that had asked when it began.
    asked: u64,
    /// Appends that it served.
    served: u64,
    /// How long it took.
    took: Duration,
}

impl Pace {
    /// Until how many appends have asked, and for how long, the next flush waits, if nobody has asked for `idle`; `None`
    /// if it does not: a client that is alone, or a disk that is quick, would only be held up.
    fn gather(self, idle: Duration) -> Option<(u64, Duration)> {
        let time = (self.took * GATHER_FACTOR).min(MAX_GATHER);
        let there = idle <= self.took.max(MAX_GATHER);
        let worth = self.served >= SIBLINGS && time >= MIN_GATHER && there;
        worth.then_some((self.asked + self.served, time))
    }
}

#[derive(Debug, Default)]
struct Queue {
    logs: VecDeque<Arc<LogShared>>,
    /// Logs whose flush may wait until then, in no order; each log once.
    later: Vec<(Instant, Arc<LogShared>)>,
    stopped: bool,
}

/// The queue of logs that want to be flushed, and the thread's work.
#[derive(Debug, Default)]
pub(crate) struct GroupCommit {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Held while the queue is served, so that who serves it too finds nothing half done.
    serving: Mutex<()>,
    gathering: Gathering,
    /// The logs were told that the directory is offline.
    announced: AtomicBool,
}

impl GroupCommit {
    /// Asks for a flush that covers everything appended so far.
    pub(crate) fn request(&self, log: &Arc<LogShared>) {
        if self.gathering.ask() {
            self.wake();
        }
        if log.flush.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        self.queue.lock().logs.push_back(Arc::clone(log));
        self.wake.notify_one();
    }

    /// Asks for a flush after `delay` or before.
    pub(crate) fn request_after(&self, log: &Arc<LogShared>, delay: Duration) {
        if log.flush.timed.swap(true, Ordering::AcqRel) {
            return;
        }
        let due = Instant::now() + delay;
        self.queue.lock().later.push((due, Arc::clone(log)));
        self.wake.notify_one();
    }

    /// Wakes the thread to tell the logs that the directory is offline.
    pub(crate) fn wake(&self) {
        // Under the lock, so that the thread is either before its look at the health or waiting.
        let _queue = self.queue.lock();
        self.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.queue.lock().stopped = true;
        self.wake.notify_one();
    }

    /// The group-commit thread: serves requests until [`GroupCommit::stop`].
    pub(crate) fn run(&self, context: &DirContext) {
        let mut pace = Pace::default();
        let mut ended = Instant::now();
        loop {
            let mut queue = self.queue.lock();
            while queue.logs.is_empty() && !queue.stopped && !self.must_announce(context) {
                let now = Instant::now();
                if queue.later.iter().any(|(due, _)| *due <= now) {
                    break;
                }
                match queue.later.iter().map(|(due, _)| *due).min() {
                    Some(due) => {
                        self.wake.wait_until(&mut queue, due);
                    }
                    None => self.wake.wait(&mut queue),
                }
            }
            if !queue.stopped
                && let Some((wanted, time)) = pace.gather(ended.elapsed())
            {
                self.gather(&mut queue, wanted, time);
            }
            let stopped = queue.stopped;
            drop(queue);
            let (began, asked) = (Instant::now(), self.gathering.asked());
            self.drive(context, began);
            pace = Pace {
                asked,
                served: asked - pace.asked,
                took: began.elapsed(),
            };
            ended = Instant::now();
            if stopped {
                return;
            }
        }
    }

    /// Waits until so many appends have asked, but no longer than `time`.
    fn gather(&self, queue: &mut MutexGuard<'_, Queue>, wanted: u64, time: Duration) {
        let until = Instant::now() + time;
        self.gathering.want(wanted);
        while self.gathering.asked() < wanted
            && !queue.stopped
            && !self.wake.wait_until(queue, until).timed_out()
        {}
        self.gathering.want(0);
    }

    /// Lets `span` pass for all that was to wait for a time, and serves what waits no longer.
    pub(crate) fn advance(&self, context: &DirContext, span: Duration) {
        let now = Instant::now();
        for (due, _) in &mut self.queue.lock().later {
            *due = due.checked_sub(span).unwrap_or(now);
        }
        self.drive(context, now);
    }

    /// Serves all that waits, and what was to wait until `now`.
    pub(crate) fn drive(&self, context: &DirContext, now: Instant) {
        let _serving = self.serving.lock();
        if self.must_announce(context) {
            self.announce(context);
        }
        let mut queue = self.queue.lock();
        let mut logs: Vec<_> = queue.logs.drain(..).collect();
        queue.later.retain(|(due, log)| {
            let is_due = *due <= now;
            if is_due {
                log.flush.timed.swap(false, Ordering::AcqRel);
            }
            if is_due && !log.flush.queued.swap(true, Ordering::AcqRel) {
                logs.push(Arc::clone(log));
            }
            !is_due
        });
        drop(queue);
        for log in logs {
            // Before the sync: what is appended from here on asks anew.
            // A swap, so that whoever found it set is seen here with what it appended.
            log.flush.queued.swap(false, Ordering::AcqRel);
            if let Ok(end) = flush_log(context, &log) {
                log.flush.tell(FlushOutcome::Durable(end));
            }
        }
        if self.must_announce(context) {
            self.announce(context);
        }
    }

    fn must_announce(&self, context: &DirContext) -> bool {
        context.health.is_offline() && !self.announced.load(Ordering::Acquire)
    }

    fn announce(&self, context: &DirContext) {
        let Err(reason) = context.health.check() else {
            return;
        };
        self.announced.store(true, Ordering::Release);
        for log in context.registry.logs() {
            log.flush.tell(FlushOutcome::Failed(Arc::clone(&reason)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(served: u64, took_us: u64) -> Pace {
        Pace {
            asked: 1_000,
            served,
            took: Duration::from_micros(took_us),
        }
    }

    #[test]
    fn a_flush_waits_for_as_many_as_the_last_served_if_there_were_many_and_the_disk_is_slow() {
        let check = |served, took_us, expected| {
            let time = pace(served, took_us).gather(Duration::ZERO);
            let time = time.map(|(asked, time)| (asked, u64::try_from(time.as_micros()).unwrap()));
            assert_eq!(time, expected, "{served} served in {took_us} us");
        };
        check(1, 10_000, None);
        check(4, 10_000, None);
        check(5, 200, Some((1_005, 400)));
        check(64, 20, None);
        check(64, 10_000, Some((1_064, 2_000)));
        assert_eq!(Pace::default().gather(Duration::ZERO), None);
        let later = |ms| pace(64, 10_000).gather(Duration::from_millis(ms));
        assert!(later(10).is_some());
        assert_eq!(later(11), None, "whoever there was has gone");
    }

    #[test]
    fn who_completes_the_number_ends_the_wait() {
        let commit = GroupCommit::default();
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Also those that ask before the thread waits count.
                for _ in 0..10 {
                    if commit.gathering.ask() {
                        commit.wake();
                    }
                    std::thread::yield_now();
                }
            });
            let mut queue = commit.queue.lock();
            commit.gather(&mut queue, 10, Duration::from_secs(600));
        });
        assert!(began.elapsed() < Duration::from_secs(300));
        assert_eq!(commit.gathering.asked(), 10);
    }
}
