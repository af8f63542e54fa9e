//! Waiting times between attempts: exponential, with jitter, and the small random source for it.
//!
//! Jitter keeps many clients of a restarted broker from returning all at the same moment (KIP-580).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// A SplitMix64 sequence: enough to spread clients and partitions, not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A sequence that differs from run to run.
    pub(crate) fn from_entropy() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    /// The sequence of a seed.
    #[cfg(test)]
    pub(crate) const fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound.max(1)
    }
}

/// Waiting times that double from `first` up to `max`, each moved by up to a fifth either way.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
    random: Random,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, max: Duration, random: Random) -> Self {
        Self {
            first,
            max,
            attempts: 0,
            random,
        }
    }

    /// The time to wait before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX));
        self.attempts = self.attempts.saturating_add(1);
        let base = doubled.min(self.max);
        // 80 to 120 per cent, in steps of a thousandth.
        let permille = u32::try_from(800 + self.random.below(401)).unwrap_or(1000);
        base.saturating_mul(permille) / 1000
    }

    /// Begins anew after a success.
    pub(crate) const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How many waits were handed out since the last reset.
    pub(crate) const fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_within_a_fifth() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(1));
        for seed in 0..200 {
            let mut backoff = Backoff::new(first, max, Random::from_seed(seed));
            for attempt in 0..40 {
                let nominal = first.saturating_mul(1 << attempt.min(4)).min(max);
                let wait = backoff.next();
                assert!(
                    wait >= nominal * 4 / 5 && wait <= nominal * 6 / 5,
                    "{attempt}: {wait:?}"
                );
            }
            backoff.reset();
            assert!(backoff.next() <= first * 6 / 5);
        }
    }

    #[test]
    fn clients_do_not_come_back_together() {
        let waits: std::collections::HashSet<_> = (0..100)
            .map(|seed| {
                Backoff::new(
                    Duration::from_secs(1),
                    Duration::from_secs(9),
                    Random::from_seed(seed),
                )
                .next()
            })
            .collect();
        assert!(waits.len() > 50, "{} different waits", waits.len());
    }
}
