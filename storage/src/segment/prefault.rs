//! When pages ahead of the writer are worth having: while it copies into the map faster than about 5 MiB/s.
//!
//! Prefaulted pages are dirty zeroes, so at most 1 MiB lies ahead.

use std::time::{Duration, Instant};

/// Pages are asked for in pieces of this size, so at most two pieces lie ahead.
const PIECE_BYTES: u64 = 512 << 10;
/// A writer is busy if a piece takes it no longer than this.
const BUSY: Duration = Duration::from_millis(100);

/// How far the pages of one segment were asked for.
#[derive(Debug)]
pub(crate) struct Prefault {
    /// When the writer gets here, the next piece is due.
    mark: u64,
    /// When it got to the mark before.
    marked: Option<Instant>,
    /// Pages below are present or were asked for.
    asked: u64,
}

impl Prefault {
    pub(crate) fn new(position: u64) -> Self {
        Self {
            mark: position + PIECE_BYTES,
            marked: None,
            asked: position,
        }
    }

    /// The range that is due when `used` bytes are written and `allocated` have blocks.
    pub(crate) fn next(&mut self, used: u64, allocated: u64) -> Option<(u64, u64)> {
        if used < self.mark {
            return None;
        }
        let now = Instant::now();
        let before = self.marked.replace(now);
        self.mark = used + PIECE_BYTES;
        let busy = before.is_some_and(|before| now.duration_since(before) <= BUSY);
        let from = self.asked.max(used);
        let to = (used + 2 * PIECE_BYTES).min(allocated);
        if !busy || from >= to {
            return None;
        }
        self.asked = to;
        Some((from, to))
    }

    /// Notes that bytes up to `position` were written without the map: their pages need not be present.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.marked = None;
        self.mark = position + PIECE_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_writer_has_at_most_1_mib_ahead() {
        let mut prefault = Prefault::new(0);
        let mut asked = 0;
        for used in (0..8 << 20).step_by(4096) {
            if let Some((from, to)) = prefault.next(used, 8 << 20) {
                assert!(from >= asked && from < to, "no page is asked for twice");
                assert!(to - used <= 1 << 20);
                asked = to;
            }
        }
        assert!(asked >= 7 << 20, "only {asked} bytes were asked for");
    }

    #[test]
    fn nothing_is_asked_for_beyond_the_blocks_or_after_direct_writes() {
        let mut prefault = Prefault::new(0);
        assert_eq!(prefault.next(PIECE_BYTES, 600 << 10), None);
        assert_eq!(prefault.next(1 << 20, 1 << 20), None);
        prefault.skip_to(2 << 20);
        assert_eq!(prefault.next((2 << 20) + PIECE_BYTES, 8 << 20), None);
    }
}
