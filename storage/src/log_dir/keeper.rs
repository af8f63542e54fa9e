//! Small jobs that appends should not wait for: blocks ahead, indexes and snapshots, unlinking.
//!
//! None of them is needed for correctness; what fails here is met again by whoever needs it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::disk::Disk;
use crate::log::{LogFiles, remove_if_there};
use crate::mmap::SegmentMap;
use crate::segment::{OpenSegment, Reservation};

/// More jobs than this are not kept waiting: the one who brings the next does it.
const MAX_JOBS: usize = 16_384;

/// Something to do soon.
#[derive(Debug)]
pub(crate) enum Job {
    /// Reserve the next step of blocks.
    Reserve(Arc<Reservation>),
    /// Make the pages of `[from, to)` present.
    Prefault(Arc<SegmentMap>, u64, u64),
    /// Write the rest of a closed segment's index.
    PersistIndex(Arc<OpenSegment>, LogFiles),
    /// Remove a file.
    Unlink(PathBuf),
}

impl Job {
    fn run(self, disk: &dyn Disk) {
        let outcome = match &self {
            Self::Reserve(reservation) => reservation.grow_ahead(),
            Self::Prefault(map, from, to) => map.prefault(*from, *to),
            Self::PersistIndex(segment, files) => segment.persist_index(disk, files),
            Self::Unlink(path) => remove_if_there(disk, path).map(drop),
        };
        if let Err(error) = outcome {
            tracing::debug!(job = ?self, %error, "background work failed");
        }
    }
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    stopped: bool,
}

/// The jobs of one data directory, and the thread's work.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    jobs: Mutex<Jobs>,
    wake: Condvar,
}

impl Keeper {
    /// Hands a job over.
    pub(crate) fn submit(&self, disk: &dyn Disk, job: Job) {
        let mut jobs = self.jobs.lock();
        if jobs.waiting.len() < MAX_JOBS && !jobs.stopped {
            jobs.waiting.push_back(job);
            drop(jobs);
            self.wake.notify_one();
            return;
        }
        drop(jobs);
        job.run(disk);
    }

    pub(crate) fn stop(&self) {
        self.jobs.lock().stopped = true;
        self.wake.notify_one();
    }

    /// The keeper thread: works until [`Keeper::stop`] and all is done.
    pub(crate) fn run(&self, disk: &dyn Disk) {
        loop {
            let mut jobs = self.jobs.lock();
            while jobs.waiting.is_empty() && !jobs.stopped {
                self.wake.wait(&mut jobs);
            }
            let stopped = jobs.stopped;
            drop(jobs);
            self.drive(disk);
            if stopped {
                return;
            }
        }
    }

    /// Does all that waits.
    pub(crate) fn drive(&self, disk: &dyn Disk) {
        loop {
            let job = self.jobs.lock().waiting.pop_front();
            match job {
                Some(job) => job.run(disk),
                None => return,
            }
        }
    }
}
