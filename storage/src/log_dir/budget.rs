//! How many closed segments may be mapped at once, and which are let go; how many logs may be open.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::segment::Segment;

/// Mappings a process has for other things.
const MIN_MAPPED: usize = 64;
/// Where the kernel tells how many mappings a process may have, and what it says by default.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";
const DEFAULT_MAP_COUNT: usize = 65_530;

/// A quarter of the mappings the kernel allows this process.
pub(crate) fn default_max_mapped() -> usize {
    let count = std::fs::read_to_string(MAX_MAP_COUNT).ok();
    let count = count
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_MAP_COUNT);
    (count / 4).max(MIN_MAPPED)
}

/// Half of the files this process may have open.
pub(crate) fn default_max_open_logs() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    (limit / 2).max(MIN_MAPPED)
}

/// The closed segments that are mapped.
#[derive(Debug)]
pub(crate) struct MapBudget {
    max_mapped: usize,
    max_open_logs: usize,
    open_logs: Arc<AtomicUsize>,
    clock: AtomicU64,
    mapped: Mutex<Vec<Weak<Segment>>>,
}

/// Counts a log with open files, until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenSlot(Arc<AtomicUsize>);

impl Drop for OpenSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MapBudget {
    pub(crate) fn new(max_mapped: usize, max_open_logs: usize) -> Self {
        Self {
            max_mapped,
            max_open_logs,
            open_logs: Arc::default(),
            clock: AtomicU64::new(0),
            mapped: Mutex::default(),
        }
    }

    /// Counts a log whose newest segment is being opened for appends.
    pub(crate) fn open_slot(&self) -> OpenSlot {
        self.open_logs.fetch_add(1, Ordering::Relaxed);
        OpenSlot(Arc::clone(&self.open_logs))
    }

    /// Whether idle logs should let go of their files soon.
    pub(crate) fn is_crowded(&self) -> bool {
        self.open_logs.load(Ordering::Relaxed) > self.max_open_logs
    }

    /// The time of a use of a segment.
    pub(crate) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a segment that was just mapped; those used longest ago are let go if there are too many.
    pub(crate) fn opened(&self, segment: &Arc<Segment>) {
        let mut mapped = self.mapped.lock();
        mapped.push(Arc::downgrade(segment));
        if mapped.len() <= self.max_mapped {
            return;
        }
        let mut live: Vec<_> = mapped.drain(..).filter_map(|weak| weak.upgrade()).collect();
        live.retain(|segment| segment.opened().is_some());
        live.sort_by_key(|segment| segment.last_used());
        // An eighth at once, so that the search is worth it.
        let keep = self.max_mapped - self.max_mapped / 8;
        let spare = live.len().saturating_sub(keep.max(1));
        let kept = live.split_off(spare);
        mapped.extend(kept.iter().map(Arc::downgrade));
        drop(mapped);
        for segment in live {
            segment.close_if_sealed();
        }
    }

    #[cfg(test)]
    pub(crate) fn mapped(&self) -> usize {
        let mapped = self.mapped.lock();
        let open = |weak: &Weak<Segment>| weak.upgrade().is_some_and(|s| s.opened().is_some());
        mapped.iter().filter(|weak| open(weak)).count()
    }
}
