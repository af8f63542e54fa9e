//! What is due when, by session time: sessions, rebalances, polls, and members that wait for news.
//!
//! A timer has a key, and setting it anew moves it. Every operation is O(log n); a thousand idle members are a
//! thousand entries that nobody looks at. A heartbeat puts its member's timers off, which costs one look-up each: a
//! timer that is put off keeps its place in the order until it is the first.

use std::collections::btree_map::Entry;
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

/// When a timer is due, and where it stands in the order: not later.
#[derive(Clone, Copy, Debug)]
struct Times {
    due: Duration,
    place: Duration,
}

/// All timers of a machine.
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Duration, Timer)>,
    set: BTreeMap<Timer, Times>,
}

impl Timers {
    /// Sets a timer, or moves it.
    pub(super) fn set(&mut self, timer: Timer, at: Duration) {
        let times = Times { due: at, place: at };
        match self.set.entry(timer) {
            Entry::Occupied(mut held) if held.get().place <= at => held.get_mut().due = at,
            Entry::Occupied(mut held) => {
                let before = held.insert(times);
                let timer = held.key().clone();
                self.order.remove(&(before.place, timer.clone()));
                self.order.insert((at, timer));
            }
            Entry::Vacant(place) => {
                self.order.insert((at, place.key().clone()));
                place.insert(times);
            }
        }
    }

    /// Sets a timer unless it is due by then.
    pub(super) fn hasten(&mut self, timer: Timer, at: Duration) {
        if self.set.get(&timer).is_none_or(|times| times.due > at) {
            self.set(timer, at);
        }
    }

    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some((timer, times)) = self.set.remove_entry(timer) {
            self.order.remove(&(times.place, timer));
        }
    }

    pub(super) fn is_set(&self, timer: &Timer) -> bool {
        self.set.contains_key(timer)
    }

    /// When to look for one that is due: never after the first is, and exactly then after [`Self::pop`] found none.
    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out the first timer that is due at `now` (inclusive).
    pub(super) fn pop(&mut self, now: Duration) -> Option<Timer> {
        loop {
            let (place, timer) = self.order.first()?;
            let (place, due) = (*place, self.set.get(timer)?.due);
            if due <= place && place > now {
                return None;
            }
            let (_, timer) = self.order.pop_first()?;
            if due <= place {
                self.set.remove(&timer);
                return Some(timer);
            }
            // It was put off. Also if it is not the time yet: then what is next is known, and nobody is woken for nothing.
            if let Some(held) = self.set.get_mut(&timer) {
                held.place = due;
            }
            self.order.insert((due, timer));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.order.len(), self.set.len());
        self.order.len()
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
        assert_eq!(timers.pop(SECOND), None);
        assert_eq!(timers.next(), Some(2 * SECOND));
        // One that was put off does not wake anybody.
        timers.set(timer("b"), 5 * SECOND);
        assert_eq!(timers.pop(2 * SECOND), None);
        assert_eq!(timers.next(), Some(3 * SECOND));
        timers.set(timer("b"), 2 * SECOND);
        assert_eq!(timers.pop(3 * SECOND), Some(timer("b")));
        assert_eq!(timers.pop(3 * SECOND), Some(timer("a")));
        // Only ever to an earlier time.
        for at in [9, 7, 8] {
            timers.hasten(timer("d"), at * SECOND);
        }
        assert_eq!(timers.pop(6 * SECOND), None);
        assert_eq!(timers.pop(7 * SECOND), Some(timer("d")));
        assert_eq!(timers.pop(Duration::MAX), None);
        assert_eq!(timers.len(), 0);
    }

    proptest::proptest! {
        /// As if there were one time for each timer and nothing else.
        #[test]
        fn timers_ring_in_the_order_of_their_times(
            moves in proptest::collection::vec((0_u8..4, 0_u64..6, 0_u64..20), 1..200),
        ) {
            let mut timers = Timers::default();
            let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
            let timer = |name: u64| Timer::ClassicJoin(name.to_string().into());
            let mut now = 0;
            for (action, name, span) in moves {
                match action {
                    0 | 1 => {
                        timers.set(timer(name), Duration::from_secs(now + span));
                        expected.insert(name, now + span);
                    }
                    2 => {
                        timers.cancel(&timer(name));
                        expected.remove(&name);
                    }
                    _ => {
                        now += span;
                        let at = Duration::from_secs(now);
                        let mut due: Vec<(u64, u64)> =
                            expected.iter().map(|(name, at)| (*at, *name)).collect();
                        due.retain(|(at, _)| *at <= now);
                        due.sort_unstable();
                        for (_, name) in due {
                            proptest::prop_assert_eq!(timers.pop(at), Some(timer(name)));
                            expected.remove(&name);
                        }
                        proptest::prop_assert_eq!(timers.pop(at), None);
                    }
                }
                let first = expected.values().min().map(|at| Duration::from_secs(*at));
                proptest::prop_assert!(timers.next() <= first);
                proptest::prop_assert_eq!(timers.next().is_none(), first.is_none());
                proptest::prop_assert_eq!(timers.len(), expected.len());
            }
        }
    }
}
