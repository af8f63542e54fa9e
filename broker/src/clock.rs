//! The broker's one source of wall time and of waiting.
//!
//! Wall time is the system's plus an offset, so that a host can move it: timestamps, retention, delays
//! and expiries follow [`Clock::advance`]. Sessions and poll intervals have a time of their own, which
//! moves only by [`Clock::advance_sessions`]. What guards liveness (time-outs of requests, connections,
//! raft) is measured with [`std::time::Instant`] and never moves.
//!
//! What must hold: neither time goes back unless the system's does, and when `advance` returns, what became due is done.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use logweir_proto::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The furthest that a time can be moved in all: a thousand years, in milliseconds.
const MAX_OFFSET_MS: i64 = 1_000 * 365 * 86_400_000;

/// The broker's clock; clones share it, and it goes on over [`crash`](crate::Broker::crash) and
/// [`restart`](crate::Broker::restart).
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    offset_ms: AtomicI64,
    session_offset_ms: AtomicI64,
    alarms: Mutex<Alarms>,
    /// Held while alarms ring, so that who moved the time waits for what somebody else set off.
    ringing: Mutex<()>,
    changed: Notify,
}

impl Clock {
    /// Wall time in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        system_time_plus(&self.0.offset_ms)
    }

    /// The time that sessions and poll intervals are measured with, in milliseconds since 1970-01-01 UTC: the
    /// system's plus what [`Clock::advance_sessions`] added.
    #[must_use]
    pub fn session_now(&self) -> Timestamp {
        system_time_plus(&self.0.session_offset_ms)
    }

    /// Moves wall time ahead by `span` (whole milliseconds; 1,000 years in all are the limit, beyond which
    /// it stays). Timestamps, retention and expiries follow; what is thereby due is done, in the order of its
    /// times, when this returns. Work that repeats is done once, however often it was missed.
    ///
    /// Sessions, poll intervals and all that guards liveness do not move. With data on a disk, this waits for it.
    pub fn advance(&self, span: Duration) {
        let target = add(&self.0.offset_ms, span, &self.now());
        self.0.tell_followers(span);
        self.0.ring_until(target, || self.now());
        self.0.wait_for_work();
    }

    /// Moves the time of sessions and poll intervals ahead by `span`, as [`Clock::advance`] does with wall time.
    pub fn advance_sessions(&self, span: Duration) {
        add(&self.0.session_offset_ms, span, &self.session_now());
    }

    /// Has `ring` called each time `period` of wall time has passed, on a thread that may wait, until the
    /// alarm is dropped. [`Clock::run`] has to run for that, or the time be moved. `ring` must not move it.
    pub(crate) fn every(
        &self,
        period: Duration,
        ring: impl Fn(Timestamp) + Send + Sync + 'static,
    ) -> Alarm {
        let period_ms = millis(period).max(1);
        let mut alarms = self.0.alarms.lock();
        let id = alarms.new_id();
        let due = self.now().get().saturating_add(period_ms);
        let ring = Arc::new(ring);
        alarms.due.insert((due, id), Repeating { period_ms, ring });
        drop(alarms);
        self.0.changed.notify_one();
        let clock = self.clone();
        Alarm { clock, id }
    }

    /// Has `moved` called with the span whenever wall time is moved, before alarms ring, until the alarm is dropped.
    pub(crate) fn follow(&self, moved: impl Fn(Duration) + Send + Sync + 'static) -> Alarm {
        let mut alarms = self.0.alarms.lock();
        let id = alarms.new_id();
        alarms.followers.insert(id, Arc::new(moved));
        drop(alarms);
        let clock = self.clone();
        Alarm { clock, id }
    }

    /// Has `wait` called whenever wall time was moved, after alarms rang, until the alarm is dropped: it waits for what
    /// they set off on other threads. As time passes by itself it is not called.
    pub(crate) fn after_moves(&self, wait: impl Fn() + Send + Sync + 'static) -> Alarm {
        let mut alarms = self.0.alarms.lock();
        let id = alarms.new_id();
        alarms.waiting.insert(id, Arc::new(wait));
        drop(alarms);
        let clock = self.clone();
        Alarm { clock, id }
    }

    /// Rings the alarms as time passes, for ever. One such future at a time. Dropping it is safe.
    pub(crate) async fn run(&self) {
        loop {
            let due = self.0.alarms.lock().due.keys().next().copied();
            let changed = self.0.changed.notified();
            let Some((due, _)) = due else {
                changed.await;
                continue;
            };
            let left = u64::try_from(due - self.now().get()).unwrap_or(0);
            if left > 0 {
                tokio::select! {
                    () = sleep(Duration::from_millis(left)) => {}
                    () = changed => {}
                }
                continue;
            }
            let clock = self.clone();
            let ring = move || clock.0.ring_until(due, || clock.now());
            if let Err(error) = tokio::task::spawn_blocking(ring).await {
                tracing::error!(%error, "what was due was not done");
            }
        }
    }
}

/// Keeps an alarm set; dropping it takes it back, though a call under way goes on.
#[derive(Debug)]
pub(crate) struct Alarm {
    clock: Clock,
    id: u64,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut alarms = self.clock.0.alarms.lock();
        alarms.due.retain(|(_, id), _| *id != self.id);
        alarms.followers.remove(&self.id);
        alarms.waiting.remove(&self.id);
    }
}

#[derive(Default)]
struct Alarms {
    /// By due time in milliseconds, then by age.
    due: BTreeMap<(i64, u64), Repeating>,
    followers: BTreeMap<u64, Arc<dyn Fn(Duration) + Send + Sync>>,
    /// Who waits for what alarms set off on other threads.
    waiting: BTreeMap<u64, Arc<dyn Fn() + Send + Sync>>,
    next_id: u64,
}

impl Alarms {
    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

#[derive(Clone)]
struct Repeating {
    period_ms: i64,
    ring: Arc<dyn Fn(Timestamp) + Send + Sync>,
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.due.keys()).finish()
    }
}

impl Shared {
    fn tell_followers(&self, span: Duration) {
        let followers: Vec<_> = self.alarms.lock().followers.values().cloned().collect();
        for moved in followers {
            unless_it_panics(|| moved(span));
        }
    }

    fn wait_for_work(&self) {
        let waiting: Vec<_> = self.alarms.lock().waiting.values().cloned().collect();
        for wait in waiting {
            unless_it_panics(|| wait());
        }
    }

    /// Rings what is due at `target` (inclusive) or earlier, each alarm once, and sets it for its next time.
    fn ring_until(&self, target: i64, now: impl Fn() -> Timestamp) {
        let _ringing = self.ringing.lock();
        // Taken out first: what is set while they ring is due after `target`.
        let mut due = Vec::new();
        {
            let mut alarms = self.alarms.lock();
            while let Some(first) = alarms.due.first_entry()
                && first.key().0 <= target
            {
                due.push((*first.key(), first.remove()));
            }
            for ((at, id), alarm) in &due {
                let missed = (target - at) / alarm.period_ms;
                let next = at.saturating_add((missed + 1).saturating_mul(alarm.period_ms));
                alarms.due.insert((next, *id), alarm.clone());
            }
        }
        for (_, alarm) in due {
            unless_it_panics(|| (alarm.ring)(now()));
        }
        self.changed.notify_one();
    }
}

/// A host's program must not end by a fault of ours.
fn unless_it_panics(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("what was due panicked");
    }
}

/// Adds to an offset, within its limit; the time it stands for then, if it was `now`.
fn add(offset_ms: &AtomicI64, span: Duration, now: &Timestamp) -> i64 {
    let span_ms = millis(span);
    // The closure always returns a value, so that the update cannot fail.
    let before = offset_ms
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |offset| {
            Some(offset.saturating_add(span_ms).min(MAX_OFFSET_MS))
        })
        .unwrap_or_else(|offset| offset);
    let moved = span_ms.min(MAX_OFFSET_MS - before);
    now.get().saturating_add(moved)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn system_time_plus(offset_ms: &AtomicI64) -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads it"
    )]
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::new(millis(since).saturating_add(offset_ms.load(Ordering::Acquire)))
}

/// Waits for a span of real time. Dropping the future is safe.
pub(crate) async fn sleep(span: Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that waits"
    )]
    tokio::time::sleep(span).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn wall_time_and_session_time_move_apart() {
        let clock = Clock::default();
        let (wall, session) = (clock.now(), clock.session_now());
        clock.advance(HOUR);
        assert!(clock.now().get() - wall.get() >= 3_600_000);
        assert!(clock.session_now().get() - session.get() < 3_600_000);
        clock.advance_sessions(2 * HOUR);
        assert!(clock.session_now().get() - session.get() >= 7_200_000);
        assert!(clock.now().get() - wall.get() < 7_200_000);
    }

    #[test]
    fn what_is_due_is_done_in_order_and_once_when_the_time_was_moved() {
        let clock = Clock::default();
        let rung = Arc::new(Mutex::new(Vec::new()));
        let note = |name: &'static str| {
            let rung = Arc::clone(&rung);
            move |now: Timestamp| rung.lock().push((name, now))
        };
        let begun = clock.now().get();
        let _slow = clock.every(3 * HOUR, note("slow"));
        let _fast = clock.every(HOUR, note("fast"));
        clock.advance(HOUR / 2);
        assert_eq!(rung.lock().len(), 0);
        clock.advance(5 * HOUR);
        let seen = rung.lock().clone();
        assert_eq!(
            seen.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["fast", "slow"]
        );
        assert!(seen.iter().all(|(_, now)| now.get() - begun >= 19_800_000));
        // The next times are whole periods from the first.
        rung.lock().clear();
        clock.advance(HOUR / 2 + Duration::from_secs(1));
        let seen: Vec<_> = rung.lock().iter().map(|(name, _)| *name).collect();
        assert_eq!(seen, ["slow", "fast"]);
    }

    #[test]
    fn a_dropped_alarm_does_not_ring_and_a_panicking_one_harms_nobody() {
        let clock = Clock::default();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let dropped = clock.every(HOUR, |_| unreachable!("it was dropped"));
        drop(dropped);
        let _panics = clock.every(HOUR, |_| panic!("as the test wants"));
        let _counts = clock.every(HOUR, move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        clock.advance(HOUR);
        clock.advance(HOUR);
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_time_stays_at_its_limit_rather_than_overflow() {
        let clock = Clock::default();
        clock.advance(Duration::MAX);
        let at_limit = clock.now();
        clock.advance(Duration::MAX);
        assert!(clock.now().get() - at_limit.get() < 60_000);
        clock.advance_sessions(Duration::MAX);
    }

    #[tokio::test]
    async fn alarms_ring_by_themselves_as_real_time_passes() {
        let clock = Clock::default();
        let rung = Arc::new(Notify::new());
        let ring = Arc::clone(&rung);
        let runner = clock.clone();
        let running = tokio::spawn(async move { runner.run().await });
        let _alarm = clock.every(Duration::from_millis(1), move |_| ring.notify_one());
        for _ in 0..3 {
            let rings = tokio::time::timeout(Duration::from_secs(30), rung.notified());
            rings.await.expect("the alarm rings");
        }
        running.abort();
    }
}
