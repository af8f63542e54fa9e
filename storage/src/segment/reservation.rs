//! Real blocks ahead of the appends, in steps from 64 KiB doubling to 8 MiB.
//!
//! The writer takes what it needs if it must; otherwise the keeper has taken the next step when half of the
//! last was used. Both take turns at the file's length.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::DiskFile;

const FIRST_STEP: u64 = 64 << 10;
const LAST_STEP: u64 = 8 << 20;

/// The blocks of one segment's file.
#[derive(Debug)]
pub(crate) struct Reservation {
    file: Arc<dyn DiskFile>,
    /// The segment cannot be longer.
    capacity: u64,
    /// Bytes that have blocks.
    reserved: AtomicU64,
    /// The keeper has been asked for the next step.
    asked: AtomicBool,
    /// Held while the file's length changes; true once the segment is closed.
    closed: Mutex<bool>,
}

impl Reservation {
    /// A file of which nothing beyond `reserved` bytes is known to have blocks.
    pub(crate) fn new(file: Arc<dyn DiskFile>, reserved: u64, capacity: u64) -> Arc<Self> {
        Arc::new(Self {
            file,
            capacity,
            reserved: AtomicU64::new(reserved),
            asked: AtomicBool::new(false),
            closed: Mutex::new(false),
        })
    }

    /// Bytes that have blocks.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// The segment cannot be longer.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether the keeper is to be asked for the next step, now that `used` bytes are used; once for each. Called by the
    /// one writer.
    pub(crate) fn asks_for_more(&self, used: u64) -> bool {
        let reserved = self.reserved();
        let low = reserved < self.capacity && used + step(reserved) / 2 > reserved;
        // No swap: on every append until the keeper is done it would wait for the copy to leave the store buffer.
        let asks = low && !self.asked.load(Ordering::Acquire);
        if asks {
            self.asked.store(true, Ordering::Release);
        }
        asks
    }

    /// Takes the next step, and as many as `needed` bytes take.
    ///
    /// # Errors
    /// The device's; the file is then as it was.
    pub(crate) fn grow(&self, needed: u64) -> io::Result<()> {
        let closed = self.closed.lock();
        if *closed {
            return Ok(());
        }
        let reserved = self.reserved();
        let len = needed.max(reserved + step(reserved)).min(self.capacity);
        if len > reserved {
            self.file.allocate(len)?;
            self.reserved.store(len, Ordering::Release);
        }
        Ok(())
    }

    /// As [`Reservation::grow`] for the keeper: takes the step the writer asked for. A full disk is the writer's to
    /// find, when it needs the blocks.
    pub(crate) fn grow_ahead(&self) -> io::Result<()> {
        let outcome = self.grow(0);
        self.asked.store(false, Ordering::Release);
        outcome
    }

    /// Gives back what lies beyond `used` bytes and takes no more.
    pub(crate) fn close(&self, used: u64) -> io::Result<()> {
        let mut closed = self.closed.lock();
        *closed = true;
        if self.file.len()? > used {
            self.file.set_len(used)?;
        }
        Ok(())
    }
}

/// The size of the step after `reserved` bytes.
fn step(reserved: u64) -> u64 {
    reserved.clamp(FIRST_STEP, LAST_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_double_from_64_kib_to_8_mib() {
        assert_eq!(step(0), 64 << 10);
        assert_eq!(step(64 << 10), 64 << 10);
        assert_eq!(step(128 << 10), 128 << 10);
        assert_eq!(step(100 << 20), 8 << 20);
    }
}
