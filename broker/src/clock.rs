//! The broker's one source of wall time and of waiting.
//!
//! Wall time is the system's plus an offset, so that a host can move it: timestamps, retention, delays
//! and expiries follow [`Clock::advance`]. Sessions and poll intervals have a time of their own, which
//! moves only by [`Clock::advance_sessions`] and by itself, steadily, whatever becomes of the system's. What guards liveness (time-outs of requests, connections,
//! raft) is measured with [`std::time::Instant`] and never moves.
//!
//! What must hold: neither time goes back unless the system's does, and when `advance` returns, what became due is done.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use logweir_proto::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The furthest that a time can be moved in all: a thousand years, in milliseconds.
const MAX_OFFSET_MS: i64 = 1_000 * 365 * 86_400_000;

/// The broker's clock; clones share it, and it goes on over [`crash`](crate::Broker::crash) and
/// [`restart`](crate::Broker::restart).
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    offset_ms: AtomicI64,
    session_offset_ms: AtomicI64,
    /// Session time is measured from here, so that a step of the system's clock ends no session.
    begun: Instant,
    alarms: Mutex<Alarms>,
    /// Held while alarms ring, so that who moved the time waits for what somebody else set off.
    ringing: Mutex<()>,
    changed: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            offset_ms: AtomicI64::default(),
            session_offset_ms: AtomicI64::default(),
            begun: Instant::now(),
            alarms: Mutex::default(),
            ringing: Mutex::default(),
            changed: Notify::default(),
        }
    }
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

    /// Session time since the clock was made, in whole milliseconds: what is due a span after a moment must be due when
    /// the time was moved by that span, however little has passed since. Never goes back.
    pub(crate) fn sessions(&self) -> Duration {
        let offset_ms = self.0.session_offset_ms.load(Ordering::Acquire);
        let passed_ms = millis(self.0.begun.elapsed()).saturating_add(offset_ms);
        Duration::from_millis(u64::try_from(passed_ms).unwrap_or(0))
    }

    /// Moves wall time ahead by `span` (whole milliseconds; 1,000 years in all are the limit, beyond which
    /// it stays). Timestamps, retention and expiries follow; what is thereby due is done, in the order of its
    /// times, when this returns. Work that repeats is done once, however often it was missed.
    ///
    /// Sessions, poll intervals and all that guards liveness do not move. With data on a disk, this waits for it.
    pub fn advance(&self, span: Duration) {
        let target = add(&self.0.offset_ms, span, self.now().get());
        self.0.tell_followers(span);
        self.0.ring_until(Line::Wall, target, || self.now());
        self.0.wait_for_work();
    }

    /// Moves the time of sessions and poll intervals ahead by `span`, as [`Clock::advance`] does with wall time: what is
    /// thereby due is done when this returns.
    pub fn advance_sessions(&self, span: Duration) {
        let target = add(&self.0.session_offset_ms, span, millis(self.sessions()));
        self.0.ring_until(Line::Sessions, target, || self.now());
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
        let period_ms = Some(period_ms);
        alarms.wall.insert((due, id), Ringing { period_ms, ring });
        drop(alarms);
        self.0.changed.notify_one();
        let clock = self.clone();
        Alarm { clock, id }
    }

    /// A timer that calls `ring`, on a thread that may wait, once for each time it is set to. [`Clock::run`] has to run
    /// for that, or the time be moved. `ring` must not move it; it may set the timer anew.
    pub(crate) fn timer(&self, ring: impl Fn() + Send + Sync + 'static) -> Timer {
        let id = self.0.alarms.lock().new_id();
        Timer {
            ring: Arc::new(move |_| ring()),
            set: Mutex::default(),
            alarm: Alarm {
                clock: self.clone(),
                id,
            },
        }
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
            let (wall, sessions) = self.0.alarms.lock().next();
            let changed = self.0.changed.notified();
            let (wall_now, sessions_now) = (self.now().get(), millis(self.sessions()));
            let left = |due: Option<i64>, now: i64| due.map(|due| due.saturating_sub(now).max(0));
            let left = [left(wall, wall_now), left(sessions, sessions_now)];
            let Some(left) = left.into_iter().flatten().min() else {
                changed.await;
                continue;
            };
            if let Some(left) = u64::try_from(left).ok().filter(|&left| left > 0) {
                tokio::select! {
                    () = sleep(Duration::from_millis(left)) => {}
                    () = changed => {}
                }
                continue;
            }
            let clock = self.clone();
            let ring = move || {
                clock.0.ring_until(Line::Wall, wall_now, || clock.now());
                clock
                    .0
                    .ring_until(Line::Sessions, sessions_now, || clock.now());
            };
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
        alarms.wall.retain(|(_, id), _| *id != self.id);
        alarms.sessions.retain(|(_, id), _| *id != self.id);
        alarms.followers.remove(&self.id);
        alarms.waiting.remove(&self.id);
    }
}

/// Rings at the times it is set to, until it is dropped, though a call under way goes on.
pub(crate) struct Timer {
    ring: Arc<dyn Fn(Timestamp) + Send + Sync>,
    /// The times it was set to, in milliseconds, by wall and by session time; they may be past.
    set: Mutex<[Option<i64>; 2]>,
    alarm: Alarm,
}

impl Timer {
    /// Sets the timer to a wall time and to a session time ([`Clock::sessions`]), in place of those it was set to; `None`
    /// is never. Nobody is woken by a timer that is set to later than another.
    pub(crate) fn set(&self, wall: Option<Timestamp>, sessions: Option<Duration>) {
        let shared = &self.alarm.clock.0;
        // Not before its time, so the part of a millisecond counts as one.
        let up = |due: Duration| millis(due.saturating_add(Duration::from_nanos(999_999)));
        let due = [wall.map(Timestamp::get), sessions.map(up)];
        let mut set = self.set.lock();
        let mut alarms = shared.alarms.lock();
        let mut is_first = false;
        for (line, due, before) in [
            (Line::Wall, due[0], set[0]),
            (Line::Sessions, due[1], set[1]),
        ] {
            let line = alarms.line(line);
            if let Some(before) = before {
                line.remove(&(before, self.alarm.id));
            }
            let Some(due) = due else { continue };
            let ring = Arc::clone(&self.ring);
            let period_ms = None;
            line.insert((due, self.alarm.id), Ringing { period_ms, ring });
            is_first |= line.keys().next() == Some(&(due, self.alarm.id));
        }
        *set = due;
        drop(alarms);
        if is_first {
            shared.changed.notify_one();
        }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timer").field(&*self.set.lock()).finish()
    }
}

/// Which of the two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Wall,
    Sessions,
}

#[derive(Default)]
struct Alarms {
    /// By due wall time in milliseconds, then by age.
    wall: BTreeMap<(i64, u64), Ringing>,
    /// As `wall`, by session time.
    sessions: BTreeMap<(i64, u64), Ringing>,
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

    fn line(&mut self, line: Line) -> &mut BTreeMap<(i64, u64), Ringing> {
        match line {
            Line::Wall => &mut self.wall,
            Line::Sessions => &mut self.sessions,
        }
    }

    /// The first due times.
    fn next(&self) -> (Option<i64>, Option<i64>) {
        let first = |line: &BTreeMap<(i64, u64), Ringing>| line.keys().next().map(|key| key.0);
        (first(&self.wall), first(&self.sessions))
    }
}

#[derive(Clone)]
struct Ringing {
    /// `None` if it rings once.
    period_ms: Option<i64>,
    ring: Arc<dyn Fn(Timestamp) + Send + Sync>,
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.wall.keys().chain(self.sessions.keys()))
            .finish()
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

    /// Rings what is due at `target` (inclusive) or earlier, each alarm once, and sets it for its next time if it repeats.
    fn ring_until(&self, line: Line, target: i64, now: impl Fn() -> Timestamp) {
        let _ringing = self.ringing.lock();
        // Taken out first: what is set while they ring is due after `target`.
        let mut due = Vec::new();
        {
            let mut alarms = self.alarms.lock();
            let line = alarms.line(line);
            while let Some(first) = line.first_entry()
                && first.key().0 <= target
            {
                due.push((*first.key(), first.remove()));
            }
            for ((at, id), alarm) in &due {
                let Some(period_ms) = alarm.period_ms else {
                    continue;
                };
                let missed = (target - at) / period_ms;
                let next = at.saturating_add((missed + 1).saturating_mul(period_ms));
                line.insert((next, *id), alarm.clone());
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
fn add(offset_ms: &AtomicI64, span: Duration, now_ms: i64) -> i64 {
    let span_ms = millis(span);
    // The closure always returns a value, so that the update cannot fail.
    let before = offset_ms
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |offset| {
            Some(offset.saturating_add(span_ms).min(MAX_OFFSET_MS))
        })
        .unwrap_or_else(|offset| offset);
    let moved = span_ms.min(MAX_OFFSET_MS - before);
    now_ms.saturating_add(moved)
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
    fn a_timer_rings_once_for_each_time_it_is_set_to_and_by_both_times() {
        let clock = Clock::default();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let timer = clock.timer(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let rung = || count.swap(0, Ordering::Relaxed);
        let at = |span: Duration| Some(Timestamp::new(clock.now().get() + millis(span)));
        timer.set(at(HOUR), Some(clock.sessions() + HOUR));
        clock.advance(HOUR / 2);
        clock.advance_sessions(HOUR / 2);
        assert_eq!(rung(), 0);
        clock.advance(HOUR);
        assert_eq!(rung(), 1);
        clock.advance(HOUR);
        assert_eq!(rung(), 0, "it was set to one wall time");
        clock.advance_sessions(HOUR);
        assert_eq!(rung(), 1);
        timer.set(at(HOUR), None);
        timer.set(None, None);
        clock.advance(2 * HOUR);
        assert_eq!(rung(), 0, "it was taken back");
        timer.set(at(HOUR), Some(clock.sessions() + HOUR));
        drop(timer);
        clock.advance(2 * HOUR);
        clock.advance_sessions(2 * HOUR);
        assert_eq!(rung(), 0);
    }

    /// Due times were rounded up and the time down, so that a timer set within the same millisecond did not ring.
    #[test]
    fn a_timer_rings_when_the_time_was_moved_by_exactly_its_span() {
        let clock = Clock::default();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let timer = clock.timer(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        for times in 1..=200 {
            timer.set(None, Some(clock.sessions() + HOUR));
            clock.advance_sessions(HOUR);
            assert_eq!(count.load(Ordering::Relaxed), times);
        }
    }

    #[tokio::test]
    async fn timers_ring_by_themselves_as_session_time_passes_never_before_their_time() {
        let clock = Clock::default();
        let (sender, mut rung) = tokio::sync::mpsc::unbounded_channel();
        let ringing = clock.clone();
        let timer = clock.timer(move || {
            let _ = sender.send(ringing.sessions());
        });
        let runner = clock.clone();
        let running = tokio::spawn(async move { runner.run().await });
        for _ in 0..3 {
            let due = clock.sessions() + Duration::from_micros(1_500);
            timer.set(None, Some(due));
            let at = tokio::time::timeout(Duration::from_secs(30), rung.recv()).await;
            let at = at.expect("the timer rings").expect("it is not dropped");
            assert!(at >= due, "{at:?} is before {due:?}");
        }
        running.abort();
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
