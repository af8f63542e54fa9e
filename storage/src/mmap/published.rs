//! The published end: the one word by which a segment's writer hands bytes to its readers.
//!
//! The writer stores bytes, then the end (release); a reader loads the end (acquire), then bytes
//! below it. The model at the foot checks exactly this type under every interleaving that loom can
//! find: `RUSTFLAGS="--cfg loom" cargo test -p logweir-storage --release loom`.

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

    /// Hands everything below `end` to the readers. Called by the one writer, never with a lower
    /// end.
    pub(super) fn publish(&self, end: u64) {
        debug_assert!(end >= self.own());
        self.0.store(end, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_model {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::Published;
    use super::sync::Ordering;

    const BYTES: usize = 3;

    /// Stands for a segment: loom's cells report a load that no release and acquire order after the
    /// store.
    struct Segment {
        cells: [UnsafeCell<u8>; BYTES],
        published: Published,
    }

    /// The two halves of the protocol, so that the model can be given weaker ones.
    #[derive(Clone, Copy)]
    struct Protocol {
        publish: fn(&Published, u64),
        get: fn(&Published) -> u64,
    }

    const OURS: Protocol = Protocol {
        publish: Published::publish,
        get: Published::get,
    };

    fn read(segment: &Segment, protocol: Protocol, seen: &mut u64) {
        let end = (protocol.get)(&segment.published);
        assert!(end >= *seen, "the end never moves back");
        for cell in &segment.cells[..usize::try_from(end).unwrap()] {
            cell.with(|_| ());
        }
        *seen = end;
    }

    /// The writer stores and publishes twice while two readers slice what they see.
    fn check(protocol: Protocol) {
        loom::model(move || {
            let segment = Arc::new(Segment {
                cells: std::array::from_fn(|_| UnsafeCell::new(0)),
                published: Published::new(0),
            });
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let segment = Arc::clone(&segment);
                    thread::spawn(move || {
                        let mut seen = 0;
                        read(&segment, protocol, &mut seen);
                        read(&segment, protocol, &mut seen);
                    })
                })
                .collect();
            segment.cells[0].with_mut(|_| ());
            (protocol.publish)(&segment.published, 1);
            assert_eq!(segment.published.own(), 1);
            segment.cells[1].with_mut(|_| ());
            segment.cells[2].with_mut(|_| ());
            (protocol.publish)(&segment.published, 3);
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }

    #[test]
    fn loom_readers_see_only_what_was_written_before_it_was_published() {
        check(OURS);
    }

    /// The model would be worth nothing if it let this pass.
    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_notices_a_relaxed_publish() {
        check(Protocol {
            publish: |end, to| end.0.store(to, Ordering::Relaxed),
            ..OURS
        });
    }

    /// The model would be worth nothing if it let this pass.
    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_notices_a_relaxed_read() {
        check(Protocol {
            get: |end| end.0.load(Ordering::Relaxed),
            ..OURS
        });
    }
}
