//! What is due when, by session time: sessions, rebalances, polls, and members that wait for news.
//!
//! A timer has a key, and setting it anew moves it. Every operation is O(log n); a thousand idle members are a
//! thousand entries that nobody looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ids::{GroupId, MemberId};

/// What a timer is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A classic member, or one that was given an id and has not joined with it, was not heard of.
    ClassicSession(GroupId, MemberId),
    /// A classic group has waited long enough for its members to join.
    ClassicJoin(GroupId),
    /// And for them to ask for their assignments.
    ClassicSync(GroupId),
    /// A KIP-848 member was not heard of.
    ConsumerSession(GroupId, MemberId),
    /// It has not let go of what was taken from it.
    ConsumerRebalance(GroupId, MemberId),
    /// It has not polled.
    ConsumerPoll(GroupId, MemberId),
    /// Its heartbeat has waited long enough for news.
    ConsumerWait(GroupId, MemberId),
    /// There may be news for members that wait.
    ConsumerNews(GroupId),
}

/// All timers of a machine.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Duration, Timer)>,
    at: BTreeMap<Timer, Duration>,
}

impl Timers {
    /// Sets a timer, or moves it.
    pub(super) fn set(&mut self, timer: Timer, at: Duration) {
        if let Some(before) = self.at.insert(timer.clone(), at) {
            if before == at {
                return;
            }
            self.due.remove(&(before, timer.clone()));
        }
        self.due.insert((at, timer));
    }

    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some((timer, at)) = self.at.remove_entry(timer) {
            self.due.remove(&(at, timer));
        }
    }

    pub(super) fn is_set(&self, timer: &Timer) -> bool {
        self.at.contains_key(timer)
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out the first timer that is due at `now` (inclusive).
    pub(super) fn pop(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.due.pop_first()?;
        self.at.remove(&timer);
        Some(timer)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.due.len(), self.at.len());
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_timer_that_is_set_anew_moves_and_a_cancelled_one_is_gone() {
        let mut timers = Timers::default();
        let timer = |name: &str| Timer::ClassicJoin(name.into());
        timers.set(timer("a"), SECOND);
        timers.set(timer("b"), 2 * SECOND);
        timers.set(timer("a"), 3 * SECOND);
        timers.set(timer("c"), SECOND);
        timers.cancel(&timer("c"));
        timers.cancel(&timer("unknown"));
        assert_eq!(timers.next(), Some(2 * SECOND));
        assert_eq!(timers.pop(SECOND), None);
        assert_eq!(timers.pop(3 * SECOND), Some(timer("b")));
        assert_eq!(timers.pop(3 * SECOND), Some(timer("a")));
        assert_eq!(timers.pop(Duration::MAX), None);
        assert_eq!(timers.len(), 0);
    }
}
