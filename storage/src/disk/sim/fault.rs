//! Which operation of a [`SimDisk`](super::SimDisk) fails, how they are counted, and who is told of
//! them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// The operations of a simulated disk, as they are counted and made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskOp {
    /// A file that is there was opened.
    Open,
    /// A file was made.
    Create,
    /// A directory and its parents were made.
    CreateDir,
    /// A directory was listed.
    List,
    /// A name was looked for.
    Exists,
    /// A file or directory was renamed.
    Rename,
    /// A file was removed.
    Remove,
    /// A directory was removed with everything in it.
    RemoveDir,
    /// A directory's names were made durable.
    SyncDir,
    /// Free space, boot id or the kind of file system was asked for.
    Space,
    /// A directory was locked.
    Lock,
    /// A file's length was asked for.
    Len,
    /// A file's length was set.
    SetLen,
    /// Blocks were reserved.
    Allocate,
    /// Bytes were read, not through a mapping.
    Read,
    /// Bytes were written, not through a mapping. If it is made to fail, the first half of them is
    /// written.
    Write,
    /// A file's bytes were made durable. If it is made to fail, they are not, and never will be by
    /// a second try.
    Sync,
    /// A file was mapped.
    Map,
    /// Bytes were written through a mapping. Not one of the operations "of any kind": a real one
    /// cannot fail.
    MapWrite,
}

impl DiskOp {
    const COUNT: usize = Self::MapWrite as usize + 1;
}

/// Makes one operation fail, or all from one on. Built by steps:
///
/// ```
/// use logweir_storage::disk::{DiskOp, SimDisk, SimFault};
/// let disk = SimDisk::default();
/// disk.inject(SimFault::errno(5).on(DiskOp::Sync).at(3)); // the third sync from now gives EIO
/// ```
#[derive(Clone, Debug)]
pub struct SimFault {
    op: Option<DiskOp>,
    under: Option<PathBuf>,
    at: u64,
    forever: bool,
    error: Failure,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Kind(io::ErrorKind),
    Errno(i32),
}

impl SimFault {
    /// The next operation of any kind fails with an error of this kind.
    #[must_use]
    pub fn new(kind: io::ErrorKind) -> Self {
        Self {
            op: None,
            under: None,
            at: 1,
            forever: false,
            error: Failure::Kind(kind),
        }
    }

    /// The next operation of any kind fails with this number of the operating system (5 is EIO).
    #[must_use]
    pub fn errno(errno: i32) -> Self {
        Self {
            error: Failure::Errno(errno),
            ..Self::new(io::ErrorKind::Other)
        }
    }

    /// Counts and fails operations of one kind only.
    #[must_use]
    pub fn on(self, op: DiskOp) -> Self {
        Self {
            op: Some(op),
            ..self
        }
    }

    /// Counts and fails operations on this path, and on those below it, only.
    #[must_use]
    pub fn under(self, path: impl Into<PathBuf>) -> Self {
        Self {
            under: Some(path.into()),
            ..self
        }
    }

    /// The `k`-th operation that fits, counted from the injection, is the one to fail; 1 is the
    /// next.
    #[must_use]
    pub fn at(self, k: u64) -> Self {
        Self {
            at: k.max(1),
            ..self
        }
    }

    /// All from that one on fail, not it alone.
    #[must_use]
    pub fn forever(self) -> Self {
        Self {
            forever: true,
            ..self
        }
    }

    fn fits(&self, op: DiskOp, path: &Path) -> bool {
        let kind = match self.op {
            Some(wanted) => wanted == op,
            None => op != DiskOp::MapWrite,
        };
        kind && self
            .under
            .as_ref()
            .is_none_or(|under| path.starts_with(under))
    }

    fn error(&self, op: DiskOp, path: &Path) -> io::Error {
        match self.error {
            Failure::Kind(kind) => {
                io::Error::new(kind, format!("{op:?} {}: injected fault", path.display()))
            }
            Failure::Errno(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                io::Error::new(
                    error.kind(),
                    format!("{op:?} {}: injected fault: {error}", path.display()),
                )
            }
        }
    }
}

/// Called before each operation of a [`SimDisk`](super::SimDisk), with its kind and path and no
/// lock held.
pub type DiskHook = Arc<dyn Fn(DiskOp, &Path) + Send + Sync>;

/// Rules, counts and the hook of one disk.
#[derive(Default)]
pub(super) struct Faults {
    /// Whether there is any rule or hook: the only thing looked at on the way when there is none.
    armed: AtomicBool,
    counts: [AtomicU64; DiskOp::COUNT],
    script: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    hook: Option<DiskHook>,
}

/// An operation that is to fail.
pub(super) struct Hit {
    pub(super) error: io::Error,
    /// The first of its rule. The later ones of a rule that holds forever happen to a device that
    /// is gone, so they change nothing.
    pub(super) first: bool,
}

struct Rule {
    fault: SimFault,
    seen: u64,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("operations", &self.total())
            .finish_non_exhaustive()
    }
}

impl Faults {
    pub(super) fn inject(&self, fault: SimFault) {
        let mut script = self.script.lock();
        script.rules.push(Rule { fault, seen: 0 });
        self.armed.store(true, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        let mut script = self.script.lock();
        script.rules.clear();
        self.armed.store(script.hook.is_some(), Ordering::Release);
    }

    pub(super) fn set_hook(&self, hook: Option<DiskHook>) {
        let mut script = self.script.lock();
        script.hook = hook;
        let armed = script.hook.is_some() || !script.rules.is_empty();
        self.armed.store(armed, Ordering::Release);
    }

    pub(super) fn count(&self, op: DiskOp) -> u64 {
        self.counts[op as usize].load(Ordering::Relaxed)
    }

    pub(super) fn total(&self) -> u64 {
        let all: u64 = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum();
        all - self.count(DiskOp::MapWrite)
    }

    /// Counts an operation, tells the hook, and fails it if a rule says so.
    pub(super) fn enter(&self, op: DiskOp, path: &Path) -> io::Result<()> {
        self.decide(op, path).map_or(Ok(()), |hit| Err(hit.error))
    }

    /// As [`Faults::enter`], for callers that do part of the work when they fail.
    pub(super) fn decide(&self, op: DiskOp, path: &Path) -> Option<Hit> {
        self.counts[op as usize].fetch_add(1, Ordering::Relaxed);
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let hook = self.script.lock().hook.clone();
        if let Some(hook) = hook {
            hook(op, path);
        }
        let mut hit = None;
        let mut script = self.script.lock();
        script.rules.retain_mut(|rule| {
            if !rule.fault.fits(op, path) {
                return true;
            }
            rule.seen += 1;
            if rule.seen < rule.fault.at {
                return true;
            }
            let first = rule.seen == rule.fault.at;
            hit.get_or_insert_with(|| Hit {
                error: rule.fault.error(op, path),
                first,
            });
            rule.fault.forever
        });
        hit
    }
}
