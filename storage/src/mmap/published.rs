//! The published end: the one word by which a segment's writer hands bytes to its readers.
//!
//! The writer stores bytes, then the end (release); a reader loads the end (acquire), then bytes below it. The model at
//! the foot checks exactly this type under every interleaving that loom can find:
//! `RUSTFLAGS="--cfg loom" cargo test -p logweir-storage --release loom`.

use sync::{AtomicU64, Ordering};

/// Atomics of the machine, or of the model checker.
mod sync {
    #[cfg(loom)]
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
    #[cfg(not(loom))]
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

/// An exclusive end that only grows, moved by one writer.
#[derive(Debug)]
pub(super) struct Published(AtomicU64);

impl Published {
    pub(super) fn new(end: u64) -> Self {
        Self(AtomicU64::new(end))
    }

    /// The end as a reader sees it; everything below it is there to be read.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The end as its writer knows it. Nobody else moves it, so no ordering is needed.
    pub(super) fn own(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Hands everything below `end` to the readers. Called by the one writer, never with a lower end.
    pub(super) fn publish(&self, end: u64) {
        debug_assert!(end >= self.own());
        self.0.store(end, Ordering::Release);
    }
}
