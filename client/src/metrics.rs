//! Counters of a producer or reader: plain numbers that only grow, and gauges, read at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that threads may add to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn add_usize(&self, amount: usize) {
        self.add(amount as u64);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($(#[$outer:meta])* $name:ident, $counters:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        #[derive(Debug, Default)]
        pub(crate) struct $counters { $(pub(crate) $field: Counter,)* }

        $(#[$outer])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name { $($(#[$doc])* pub $field: u64,)* }

        impl $counters {
            pub(crate) fn snapshot(&self) -> $name {
                $name { $($field: self.$field.get(),)* }
            }
        }
    };
}

metrics! {
    /// What a producer has done since it was opened.
    ProducerMetrics, ProducerCounters {
        /// Records taken by `send`.
        records_accepted,
        /// Records that `send` refused: too large, no memory in time, unknown topic, closed.
        records_rejected,
        /// Records delivered.
        records_delivered,
        /// Records that were taken and then failed.
        records_failed,
        /// Failed records whose delivery future had been dropped; `flush` and `close` report them.
        records_failed_unseen,
        /// Batches delivered.
        batches_delivered,
        /// Bytes of the batches delivered, as sent.
        bytes_delivered,
        /// Requests sent, repetitions included.
        requests_sent,
        /// Batches sent again.
        batches_retried,
        /// Batches split because the broker found them too large.
        batches_split,
        /// Streams opened to the broker.
        connections_opened,
        /// Streams that broke.
        connections_lost,
        /// Times a partition went on under a new producer epoch.
        epoch_bumps,
        /// Times `send` had to wait for memory.
        memory_waits,
    }
}

metrics! {
    /// What a reader has done since it was opened.
    ReaderMetrics, ReaderCounters {
        /// Records handed out.
        records,
        /// Batches handed out.
        batches,
        /// Bytes of the batches handed out, as received.
        bytes,
        /// Streams opened to the broker.
        connections_opened,
        /// Streams that broke.
        connections_lost,
        /// Times an offset was not in the log and the reader went on elsewhere.
        offset_resets,
    }
}

metrics! {
    /// What a consumer has done since it was opened. What it fetched is in its [`ReaderMetrics`].
    ConsumerMetrics, ConsumerCounters {
        /// Records handed out.
        records,
        /// Heartbeats sent.
        heartbeats,
        /// Streams of heartbeats opened to the broker.
        connections_opened,
        /// Streams of heartbeats that broke.
        connections_lost,
        /// Times it became a member of the group.
        joins,
        /// Times the group changed what it is to read.
        rebalances,
        /// Partitions it was given.
        partitions_assigned,
        /// Partitions it let go of.
        partitions_revoked,
        /// Partitions it lost because it was removed from the group.
        partitions_lost,
        /// Commits that succeeded.
        commits,
        /// Commits that failed, with one or more of their partitions.
        commits_failed,
        /// Requests to commit that were sent again.
        commits_retried,
        /// Partitions committed.
        offsets_committed,
    }
}
