//! Bounds what a crash can cost: unflushed bytes over all logs, and the distance to the recovery points.
//!
//! The thread syncs the fullest logs when too many bytes wait, then has the group-commit thread say so; and it writes
//! the recovery points now and then. Before a recovery point passes something that recovery would otherwise find by
//! its scan (epochs, index entries), that is written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::context::DirContext;
use crate::checkpoint::{self, LogKey, RecoveryPoint, RecoveryPoints};
use crate::flush::flush_log;
use crate::log::LogShared;

/// Recovery points are written at the latest when this part of the allowed bytes was flushed since.
const CHECKPOINT_PART: u64 = 4;

/// The counters and the points.
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    /// Appended and not flushed, over all logs.
    unflushed: AtomicU64,
    /// Flushed since the recovery points were written.
    since_checkpoint: AtomicU64,
    /// What the file says, and what closed logs will have it say.
    points: Mutex<RecoveryPoints>,
    /// Held while the file is written.
    writing: Mutex<()>,
    signal: Mutex<Signal>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Signal {
    woken: bool,
    stopped: bool,
}

impl Writeback {
    pub(crate) fn new(points: RecoveryPoints) -> Self {
        Self {
            points: Mutex::new(points),
            ..Self::default()
        }
    }

    /// Counts appended bytes, and wakes the thread when half of those allowed wait.
    pub(crate) fn appended(&self, bytes: u64, max_unflushed: u64) {
        let before = self.unflushed.fetch_add(bytes, Ordering::Relaxed);
        let half = max_unflushed / 2;
        if before < half && before + bytes >= half {
            self.wake();
        }
    }

    /// Whether as many bytes wait as are allowed.
    pub(crate) fn is_full(&self, max_unflushed: u64) -> bool {
        self.unflushed.load(Ordering::Relaxed) >= max_unflushed
    }

    /// Whether the recovery points lie as far behind as is allowed.
    pub(crate) fn is_behind(&self, max_unflushed: u64) -> bool {
        self.since_checkpoint.load(Ordering::Relaxed) >= max_unflushed
    }

    /// Counts bytes that need not be flushed any more.
    pub(crate) fn discard(&self, bytes: u64) {
        self.unflushed.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.unflushed.load(Ordering::Relaxed)
    }

    /// Counts flushed bytes, and wakes the thread when the recovery points should follow.
    pub(crate) fn flushed(&self, bytes: u64, max_unflushed: u64) {
        self.unflushed.fetch_sub(bytes, Ordering::Relaxed);
        let before = self.since_checkpoint.fetch_add(bytes, Ordering::Relaxed);
        let much = max_unflushed / CHECKPOINT_PART;
        if before < much && before + bytes >= much {
            self.wake();
        }
    }

    pub(crate) fn point(&self, key: LogKey) -> Option<RecoveryPoint> {
        self.points.lock().get(&key).copied()
    }

    pub(crate) fn set_point(&self, key: LogKey, point: RecoveryPoint) {
        self.points.lock().insert(key, point);
    }

    pub(crate) fn forget(&self, key: LogKey) {
        self.points.lock().remove(&key);
    }

    fn wake(&self) {
        self.signal.lock().woken = true;
        self.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.signal.lock().stopped = true;
        self.wake.notify_one();
    }

    /// The writeback thread: works until [`Writeback::stop`].
    pub(crate) fn run(&self, context: &DirContext) {
        let interval = context.config.checkpoint_interval;
        let mut due = Instant::now() + interval;
        loop {
            let mut signal = self.signal.lock();
            while !signal.woken && !signal.stopped && Instant::now() < due {
                self.wake.wait_until(&mut signal, due);
            }
            signal.woken = false;
            if signal.stopped {
                return;
            }
            drop(signal);
            self.drive(context, Instant::now() >= due);
            if Instant::now() >= due {
                due = Instant::now() + interval.max(Duration::from_millis(1));
            }
        }
    }

    /// Flushes if too much waits; writes the recovery points if it is time or much was flushed.
    pub(crate) fn drive(&self, context: &DirContext, is_time: bool) {
        let max_unflushed = context.config.max_unflushed_bytes;
        if self.unflushed.load(Ordering::Relaxed) >= max_unflushed / 2 {
            self.flush_fullest(context, max_unflushed / 4);
        }
        let flushed = self.since_checkpoint.load(Ordering::Relaxed);
        let much = flushed >= max_unflushed / CHECKPOINT_PART;
        if (much || (is_time && flushed > 0))
            && !context.health.is_offline()
            && let Err(error) = self.checkpoint(context)
        {
            tracing::warn!(%error, "the recovery points could not be written");
        }
    }

    /// Flushes the logs with the most waiting bytes until no more than `target` wait.
    fn flush_fullest(&self, context: &DirContext, target: u64) {
        let mut logs = context.registry.logs();
        logs.sort_by_key(|log| std::cmp::Reverse(log.flush.unflushed_bytes()));
        for log in logs {
            if self.unflushed.load(Ordering::Relaxed) <= target || context.health.is_offline() {
                return;
            }
            if flush_log(context, &log).is_ok() {
                context.group_commit.request(&log);
            }
        }
    }

    /// Writes the recovery points of all logs.
    pub(crate) fn checkpoint(&self, context: &DirContext) -> io::Result<()> {
        let _writing = self.writing.lock();
        let flushed = self.since_checkpoint.load(Ordering::Relaxed);
        let mut points = self.points.lock().clone();
        for log in context.registry.logs() {
            let point = point_of(&log);
            if !points
                .get(&log.key())
                .is_some_and(|known| known.is_as_far_as(&point))
            {
                match log.prepare_checkpoint() {
                    // Its files may be gone; its point stays as it is.
                    Err(_) if log.closed.load(Ordering::Acquire) => continue,
                    outcome => outcome?,
                }
            }
            points.insert(log.key(), point);
        }
        let bytes = checkpoint::encode_points(&points);
        let path = context.paths.recovery_points();
        context.replace_file(&path, &bytes)?;
        self.settle(context, points);
        self.since_checkpoint.fetch_sub(flushed, Ordering::Relaxed);
        Ok(())
    }

    /// Takes in what was written, but for logs that were closed or deleted in the meantime.
    fn settle(&self, context: &DirContext, written: RecoveryPoints) {
        let mut points = self.points.lock();
        for (key, point) in written {
            if context.registry.get(key).is_some() {
                points.insert(key, point);
            }
        }
    }

    /// Writes the points as they stand, which is how the closed logs left them. Gives the file's bytes.
    pub(crate) fn write_final(&self, context: &DirContext) -> io::Result<Vec<u8>> {
        let _writing = self.writing.lock();
        let bytes = checkpoint::encode_points(&self.points.lock());
        let path = context.paths.recovery_points();
        context.replace_file(&path, &bytes)?;
        Ok(bytes)
    }
}

/// Where recovery of the log may begin now.
fn point_of(log: &Arc<LogShared>) -> RecoveryPoint {
    // The count before the offset: a truncation in between gives a point that is capped, not one that is too high.
    let truncations = log.state.lock().truncations;
    let offset = log.offsets.durable_end();
    RecoveryPoint {
        truncations,
        offset,
        clean: false,
    }
}
