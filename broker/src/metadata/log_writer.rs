//! Writes to the log file away from the raft core, which must not wait for a disk: on a thread of its own,
//! or at once where the disk is memory. Writes happen in the order in which they were asked for.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ReleaseReserve;
use super::log_file::LogFile;

/// Called once a write is durable, or has failed.
pub(super) type Done = Box<dyn FnOnce(io::Result<Written>) + Send>;

/// What became of a write that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Durable,
    /// There was no room to rewrite the file, which is as it was.
    NoRoom,
}

/// A handle to the writer. Its thread ends when the last handle is dropped.
#[derive(Clone)]
pub(super) struct LogWriter {
    route: Route,
    failure: Arc<OnceLock<Arc<str>>>,
    panicked: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Route {
    Inline(Arc<Mutex<Room>>),
    Thread(mpsc::Sender<(Job, Done)>),
}

/// The file, and what to do when there is no room for it.
struct Room {
    file: LogFile,
    release_reserve: ReleaseReserve,
}

enum Job {
    Append(Bytes),
    Rewrite(Vec<Bytes>),
    Reserve(usize),
}

impl LogWriter {
    /// A writer that writes in the caller, for disks that never wait.
    pub(super) fn inline(file: LogFile, release_reserve: ReleaseReserve) -> Self {
        let file = Room {
            file,
            release_reserve,
        };
        Self {
            route: Route::Inline(Arc::new(Mutex::new(file))),
            failure: Arc::default(),
            panicked: Arc::default(),
        }
    }

    /// A writer with a thread of its own.
    pub(super) fn spawn(
        file: LogFile,
        release_reserve: ReleaseReserve,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        // Unbounded in form only: the raft core waits for each write before it asks for another.
        let (sender, jobs) = mpsc::channel::<(Job, Done)>();
        let failure: Arc<OnceLock<Arc<str>>> = Arc::default();
        let writer = Self {
            route: Route::Thread(sender),
            failure: Arc::clone(&failure),
            panicked: Arc::default(),
        };
        let panicked = Arc::clone(&writer.panicked);
        let thread = std::thread::Builder::new()
            .name("logweir-meta-io".to_owned())
            .spawn(move || {
                let mut file = Room {
                    file,
                    release_reserve,
                };
                while let Ok((job, done)) = jobs.recv() {
                    // Who waits for a write that panicked would wait for ever.
                    let work = AssertUnwindSafe(|| run(&mut file, job, &failure));
                    let Ok(outcome) = catch_unwind(work) else {
                        let reason = "the metadata writer panicked";
                        let _ = failure.set(reason.into());
                        panicked.store(true, Ordering::Release);
                        return done(Err(io::Error::other(reason)));
                    };
                    done(outcome);
                }
            })?;
        Ok((writer, thread))
    }

    /// Why nothing more is written, once a write has failed.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failure.get().cloned()
    }

    /// Whether nothing more is written because of a bug.
    pub(super) fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::Acquire)
    }

    /// Appends a frame.
    pub(super) fn append(&self, body: Bytes, done: Done) {
        self.submit(Job::Append(body), done);
    }

    /// Appends a frame, and waits until it is durable.
    pub(super) async fn append_and_wait(&self, body: Bytes) -> io::Result<()> {
        self.wait(Job::Append(body)).await.map(drop)
    }

    /// Puts a file with only these frames in the place of the present one.
    pub(super) async fn rewrite(&self, bodies: Vec<Bytes>) -> io::Result<Written> {
        self.wait(Job::Rewrite(bodies)).await
    }

    /// Makes room for a frame of `body_len` bytes, with the space that was kept for metadata if need be. For lack of
    /// room this fails harmlessly.
    pub(super) async fn reserve(&self, body_len: usize) -> io::Result<()> {
        self.wait(Job::Reserve(body_len)).await.map(drop)
    }

    async fn wait(&self, job: Job) -> io::Result<Written> {
        let (sender, receiver) = oneshot::channel();
        self.submit(
            job,
            Box::new(move |outcome| {
                // The waiter may have gone away, and then nobody wants to know.
                let _ = sender.send(outcome);
            }),
        );
        receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the metadata writer has ended")))
    }

    fn submit(&self, job: Job, done: Done) {
        match &self.route {
            Route::Inline(file) => {
                let outcome = run(&mut file.lock(), job, &self.failure);
                done(outcome);
            }
            Route::Thread(sender) => {
                if let Err(mpsc::SendError((_, done))) = sender.send((job, done)) {
                    done(Err(io::Error::other("the metadata writer has ended")));
                }
            }
        }
    }
}

fn run(room: &mut Room, job: Job, failure: &OnceLock<Arc<str>>) -> io::Result<Written> {
    let file = &mut room.file;
    let outcome = match job {
        Job::Append(body) => file.append(&body).map(|()| Written::Durable),
        Job::Rewrite(bodies) => file.rewrite(&bodies).map(|rewritten| {
            if rewritten {
                Written::Durable
            } else {
                Written::NoRoom
            }
        }),
        // For lack of room only the operation fails that asked for it.
        Job::Reserve(body_len) => {
            let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
            let reserved = match file.reserve(body_len) {
                Err(error) if is_full(&error) && (room.release_reserve)() => file.reserve(body_len),
                reserved => reserved,
            };
            return reserved.map(|()| Written::Durable);
        }
    };
    if let Err(error) = &outcome {
        let _ = failure.set(error.to_string().into());
    }
    outcome
}
