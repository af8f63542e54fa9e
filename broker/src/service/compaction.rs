//! Compacting the partitions that are due, one at a time, on a thread of its own: the other alarms of the clock need not
//! wait for it, and no thread that serves does.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use logweir_proto::Timestamp;
use logweir_storage::CompactionStats;
use parking_lot::{Condvar, Mutex};

use crate::clock::Alarm;
use crate::partition::Partition;
use crate::service::Service;

/// The thread that compacts, as far as there is one.
#[derive(Debug, Default)]
pub(crate) struct Compactor {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    is_working: bool,
    /// It was asked for once more in the meantime.
    again: bool,
}

impl Compactor {
    /// Whether the caller is to do the work; if not, who is at it does it once more.
    fn begin(&self) -> bool {
        let mut state = self.state.lock();
        state.again = state.is_working;
        !std::mem::replace(&mut state.is_working, true)
    }

    /// Whether the work is to be done once more.
    fn goes_on(&self) -> bool {
        let mut state = self.state.lock();
        let again = std::mem::take(&mut state.again);
        if !again {
            state.is_working = false;
            self.idle.notify_all();
        }
        again
    }

    /// Waits until nothing is compacted.
    pub(super) fn wait(&self) {
        let mut state = self.state.lock();
        while state.is_working {
            self.idle.wait(&mut state);
        }
    }
}

/// Ends the work however it ends, so that nobody waits for ever.
struct Working<'a>(&'a Compactor);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        *self.0.state.lock() = State::default();
        self.0.idle.notify_all();
    }
}

/// Lets no more bytes pass in a second than it may.
struct Throttle {
    bytes_per_second: Option<u64>,
    begun: Instant,
    bytes: u64,
}

impl Throttle {
    fn new(bytes_per_second: i64) -> Self {
        let limit = u64::try_from(bytes_per_second).ok();
        Self {
            bytes_per_second: limit.filter(|_| bytes_per_second != i64::MAX),
            begun: Instant::now(),
            bytes: 0,
        }
    }

    /// How long to wait after `bytes` more.
    fn after(&mut self, bytes: u64) -> Duration {
        self.bytes += bytes;
        let Some(limit) = self.bytes_per_second else {
            return Duration::ZERO;
        };
        let nanos = u128::from(self.bytes) * 1_000_000_000 / u128::from(limit.max(1));
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        due.saturating_sub(self.begun.elapsed())
    }
}

impl Service {
    /// Compacts what is due at the configured interval, by the broker's clock, until the alarms are dropped. Who moves
    /// the clock finds it done.
    pub(crate) fn watch_compaction(self: &Arc<Self>) -> [Alarm; 2] {
        let interval = Duration::from_millis(self.config.log_dir.retention_check_interval_ms);
        let service = Arc::downgrade(self);
        let start = move |_| {
            if let Some(service) = service.upgrade() {
                service.start_compacting();
            }
        };
        let service = Arc::downgrade(self);
        let wait = move || {
            if let Some(service) = service.upgrade() {
                service.compactor.wait();
            }
        };
        [
            self.clock.every(interval, start),
            self.clock.after_moves(wait),
        ]
    }

    /// Has a thread compact what is due, unless nothing is.
    fn start_compacting(self: &Arc<Self>) {
        if !self
            .partitions()
            .online()
            .iter()
            .any(|partition| partition.compacts())
        {
            return;
        }
        if !self.compactor.begin() {
            return;
        }
        let service = Arc::downgrade(self);
        let work = move || compact_until_done(&service);
        let thread = std::thread::Builder::new().name("logweir-compact".to_owned());
        if let Err(error) = thread.spawn(work) {
            tracing::warn!(%error, "no thread for compaction; it is done here");
            compact_until_done(&Arc::downgrade(self));
        }
    }

    /// Compacts every partition that is due, those first of which the most was not compacted yet.
    fn compact_due(&self) {
        let now = self.clock.now();
        let mut due: Vec<(f64, Arc<Partition>)> = self
            .partitions()
            .online()
            .into_iter()
            .filter(|partition| partition.compacts())
            .filter_map(|partition| {
                let ratio = self.heed(&partition, partition.dirty_ratio(now))?;
                Some((ratio, partition))
            })
            .collect();
        due.sort_by(|one, other| other.0.total_cmp(&one.0));
        for (_, partition) in due {
            if self.stop.is_cancelled() {
                return;
            }
            self.compact(&partition, now);
        }
    }

    fn compact(&self, partition: &Partition, now: Timestamp) {
        let begun = Instant::now();
        let limit = self.config.log_dir.compaction_max_bytes_per_second;
        let mut throttle = Throttle::new(limit);
        let mut go_on = |bytes| {
            let wait = throttle.after(bytes);
            if wait > Duration::ZERO {
                self.pause(wait);
            } else {
                std::thread::yield_now();
            }
            !self.stop.is_cancelled()
        };
        let outcome = partition.compact(now, &mut go_on);
        if let Some(stats) = self.heed(partition, outcome) {
            self.metrics.count_compaction(stats.removed_records);
            let CompactionStats {
                passes,
                removed_records,
                replaced_bytes,
                written_bytes,
                ..
            } = stats;
            tracing::info!(topic = %partition.topic(), partition = %partition.id(), passes, removed_records,
                replaced_bytes, written_bytes, elapsed = ?begun.elapsed(), "compacted");
        }
    }

    /// Waits, unless the broker stops.
    fn pause(&self, span: Duration) {
        const STEP: Duration = Duration::from_millis(100);
        let until = Instant::now() + span;
        while Instant::now() < until && !self.stop.is_cancelled() {
            std::thread::park_timeout(until.saturating_duration_since(Instant::now()).min(STEP));
        }
    }

    /// What came of it, if anything; an error is told and counted.
    fn heed<T>(
        &self,
        partition: &Partition,
        outcome: Result<Option<T>, crate::error::ApiError>,
    ) -> Option<T> {
        outcome.unwrap_or_else(|error| {
            // A partition that was closed or deleted meanwhile is no failure.
            if !self.stop.is_cancelled() && !partition.has_ended() {
                self.metrics.count_compaction_error();
                tracing::warn!(topic = %partition.topic(), partition = %partition.id(), %error, "not compacted");
            }
            None
        })
    }
}

fn compact_until_done(service: &Weak<Service>) {
    let Some(service) = service.upgrade() else {
        return;
    };
    let working = Working(&service.compactor);
    loop {
        service.compact_due();
        if !service.compactor.goes_on() {
            break;
        }
    }
    // It was ended already, and somebody else may be at work.
    std::mem::forget(working);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_waits_as_long_as_the_bytes_are_ahead_of_their_time() {
        let mut none = Throttle::new(i64::MAX);
        assert_eq!(none.after(u64::MAX / 2), Duration::ZERO);
        let mut slow = Throttle::new(1_000_000);
        let wait = slow.after(10_000_000);
        assert!(
            wait > Duration::from_secs(9) && wait <= Duration::from_secs(10),
            "{wait:?}"
        );
        slow.begun -= Duration::from_secs(60);
        assert_eq!(slow.after(1), Duration::ZERO);
    }

    #[test]
    fn who_comes_while_work_is_done_has_it_done_once_more() {
        let compactor = Compactor::default();
        assert!(compactor.begin());
        assert!(!compactor.begin());
        assert!(!compactor.begin());
        assert!(compactor.goes_on());
        assert!(!compactor.goes_on());
        compactor.wait();
        assert!(compactor.begin());
        drop(Working(&compactor));
        compactor.wait();
    }
}
