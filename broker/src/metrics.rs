//! What the broker counts. Plain atomics, so that counting costs the hot path next to nothing.
//!
//! Names and units as shown on `/metrics` are in `http/metrics.rs`; embedders without HTTP pay only for the atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::ApiError;

/// Counters of one broker.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) produce_batches: AtomicU64,
    pub(crate) produce_records: AtomicU64,
    pub(crate) produce_bytes: AtomicU64,
    pub(crate) produce_errors: AtomicU64,
    pub(crate) fetch_partitions: AtomicU64,
    pub(crate) fetch_bytes: AtomicU64,
    pub(crate) fetch_errors: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compaction_removed_records: AtomicU64,
    pub(crate) compaction_errors: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) inflight_bytes: AtomicU64,
    pub(crate) lock_hold: Arc<LockHold>,
}

impl Metrics {
    /// Counts one batch that was appended: not one that an idempotent producer repeats.
    pub(crate) fn count_append(&self, records: u64, bytes: u64) {
        self.produce_batches.fetch_add(1, Ordering::Relaxed);
        self.produce_records.fetch_add(records, Ordering::Relaxed);
        self.produce_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts one append that was answered with an error: refused, or appended and not acknowledged in time.
    pub(crate) fn count_produce_error(&self) {
        self.produce_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one compaction of a partition.
    pub(crate) fn count_compaction(&self, removed_records: u64) {
        self.compactions.fetch_add(1, Ordering::Relaxed);
        self.compaction_removed_records
            .fetch_add(removed_records, Ordering::Relaxed);
    }

    /// Counts one compaction that failed.
    pub(crate) fn count_compaction_error(&self) {
        self.compaction_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one partition of a fetch: its bytes, or that it failed.
    pub(crate) fn count_fetch(&self, outcome: Result<u64, &ApiError>) {
        match outcome {
            Ok(bytes) => {
                self.fetch_partitions.fetch_add(1, Ordering::Relaxed);
                self.fetch_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(_) => {
                self.fetch_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// How long partition locks are held, as a histogram over a sample of the appends.
#[derive(Debug)]
pub(crate) struct LockHold {
    turn: AtomicU64,
    /// Sampled holds of at most `BOUNDS_NANOS[i]`, and in the last place all longer ones.
    buckets: [AtomicU64; LockHold::BOUNDS_NANOS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Default for LockHold {
    fn default() -> Self {
        Self {
            turn: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_nanos: AtomicU64::new(0),
        }
    }
}

impl LockHold {
    /// Upper bounds of the buckets, inclusive, in nanoseconds.
    pub(crate) const BOUNDS_NANOS: [u64; 14] = [
        100,
        250,
        500,
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        1_000_000,
        10_000_000,
        100_000_000,
        1_000_000_000,
    ];
    /// One hold in so many is timed: two clock reads cost as much as a small append.
    const SAMPLE: u64 = 16;

    /// Whether this hold is one to be timed.
    pub(crate) fn sample(&self) -> bool {
        self.turn
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(Self::SAMPLE)
    }

    /// Counts a timed hold.
    pub(crate) fn record(&self, held: Duration) {
        let nanos = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        let bucket = Self::BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Counts per bucket (not cumulative) and the sum of all sampled holds in nanoseconds.
    #[cfg(any(test, feature = "http"))]
    pub(crate) fn snapshot(&self) -> (Vec<u64>, u64) {
        let counts = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        (counts, self.sum_nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_lands_in_the_bucket_whose_bound_is_not_below_it() {
        let hold = LockHold::default();
        for nanos in [100, 101, 2_000_000_000] {
            hold.record(Duration::from_nanos(nanos));
        }
        let (counts, sum) = hold.snapshot();
        assert_eq!((counts[0], counts[1], counts[14]), (1, 1, 1));
        assert_eq!(sum, 2_000_000_201);
    }

    #[test]
    fn one_hold_in_sixteen_is_timed() {
        let hold = LockHold::default();
        assert_eq!((0..160).filter(|_| hold.sample()).count(), 10);
    }
}
