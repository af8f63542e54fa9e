//! Which operation of a [`SimDisk`](super::SimDisk) fails or is slow, how they are counted, and who
//! is told of them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

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
    /// A directory was removed, empty or with everything in it.
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

/// Makes one operation fail or take its time, or all from one on. Built by steps:
///
/// ```
/// use logweir_storage::disk::{DiskOp, SimDisk, SimFault};
/// let disk = SimDisk::default();
/// disk.inject(SimFault::errno(5).on(DiskOp::Sync).at(3)); // the third sync from now gives EIO
/// let slow = SimFault::slow(std::time::Duration::from_millis(20)); // and one device is slow
/// let slow = disk.inject(slow.under("/data/logs").forever());
/// assert_eq!(slow.fired(), 0, "nothing was done there yet");
/// ```
#[derive(Clone, Debug)]
pub struct SimFault {
    op: Option<DiskOp>,
    under: Option<PathBuf>,
    at: u64,
    forever: bool,
    effect: Effect,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Kind(io::ErrorKind),
    Errno(i32),
    Slow(Duration),
}

/// A fault that was injected, to be asked whether it came about. Clones are the same fault.
#[derive(Clone, Debug, Default)]
pub struct InjectedFault(Arc<Injected>);

#[derive(Debug, Default)]
struct Injected {
    fired: AtomicU64,
    cleared: AtomicBool,
}

impl InjectedFault {
    /// How many operations it has failed or slowed down so far.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.0.fired.load(Ordering::Acquire)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
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
            effect: Effect::Kind(kind),
        }
    }

    /// The next operation of any kind fails with this number of the operating system (5 is EIO).
    #[must_use]
    pub fn errno(errno: i32) -> Self {
        Self {
            effect: Effect::Errno(errno),
            ..Self::new(io::ErrorKind::Other)
        }
    }

    /// The next operation of any kind takes at least `time`, in real time: the thread that calls it
    /// waits before it is done, with no lock of the disk held. Taking the fault back, and a power
    /// cut, ends the wait.
    #[must_use]
    pub fn slow(time: Duration) -> Self {
        Self {
            effect: Effect::Slow(time),
            ..Self::new(io::ErrorKind::Other)
        }
    }

    /// Counts and strikes operations of one kind only.
    #[must_use]
    pub fn on(self, op: DiskOp) -> Self {
        Self {
            op: Some(op),
            ..self
        }
    }

    /// Counts and strikes operations on this path, and on those below it, only.
    #[must_use]
    pub fn under(self, path: impl Into<PathBuf>) -> Self {
        Self {
            under: Some(path.into()),
            ..self
        }
    }

    /// The `k`-th operation that fits, counted from the injection, is the one it strikes; 1 is the
    /// next.
    #[must_use]
    pub fn at(self, k: u64) -> Self {
        Self {
            at: k.max(1),
            ..self
        }
    }

    /// It strikes all from that one on, not it alone.
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

    /// The error it gives, unless it only takes time.
    fn error(&self, op: DiskOp, path: &Path) -> Option<io::Error> {
        let path = path.display();
        match self.effect {
            Effect::Kind(kind) => Some(io::Error::new(
                kind,
                format!("{op:?} {path}: injected fault"),
            )),
            Effect::Errno(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                let text = format!("{op:?} {path}: injected fault: {error}");
                Some(io::Error::new(error.kind(), text))
            }
            Effect::Slow(_) => None,
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
    /// Wakes operations that take their time.
    hurry: Condvar,
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    hook: Option<DiskHook>,
    /// Counts the times that all waits were ended.
    hurried: u64,
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
    injected: InjectedFault,
}

/// What the rules say of one operation.
#[derive(Default)]
struct Verdict {
    hit: Option<Hit>,
    waits: Vec<(Duration, InjectedFault)>,
}

impl Rule {
    /// Counts an operation and adds what is to become of it; false if the rule is spent.
    fn judge(&mut self, op: DiskOp, path: &Path, verdict: &mut Verdict) -> bool {
        if !self.fault.fits(op, path) {
            return true;
        }
        self.seen += 1;
        if self.seen < self.fault.at {
            return true;
        }
        self.injected.0.fired.fetch_add(1, Ordering::AcqRel);
        match (self.fault.effect, self.fault.error(op, path)) {
            (Effect::Slow(time), _) => verdict.waits.push((time, self.injected.clone())),
            (_, Some(error)) if verdict.hit.is_none() => {
                let first = self.seen == self.fault.at;
                verdict.hit = Some(Hit { error, first });
            }
            _ => {}
        }
        self.fault.forever
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("operations", &self.total())
            .finish_non_exhaustive()
    }
}

impl Faults {
    pub(super) fn inject(&self, fault: SimFault) -> InjectedFault {
        let injected = InjectedFault::default();
        let rule = Rule {
            fault,
            seen: 0,
            injected: injected.clone(),
        };
        self.script.lock().rules.push(rule);
        self.armed.store(true, Ordering::Release);
        injected
    }

    pub(super) fn clear(&self) {
        self.change(|script| {
            script.rules.clear();
            script.hurried += 1;
        });
    }

    pub(super) fn clear_one(&self, injected: &InjectedFault) {
        self.change(|script| {
            script.rules.retain(|rule| !rule.injected.is(injected));
            injected.0.cleared.store(true, Ordering::Release);
        });
    }

    /// Ends all waits; the rules stay.
    pub(super) fn hurry(&self) {
        self.change(|script| script.hurried += 1);
    }

    pub(super) fn set_hook(&self, hook: Option<DiskHook>) {
        self.change(|script| script.hook = hook);
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.script.lock();
        change(&mut script);
        let armed = script.hook.is_some() || !script.rules.is_empty();
        self.armed.store(armed, Ordering::Release);
        self.hurry.notify_all();
    }

    /// Whether a rule or a hook may slow an operation down.
    pub(super) fn armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
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
        if !self.armed() {
            return None;
        }
        let hook = self.script.lock().hook.clone();
        if let Some(hook) = hook {
            hook(op, path);
        }
        let mut verdict = Verdict::default();
        let mut script = self.script.lock();
        script
            .rules
            .retain_mut(|rule| rule.judge(op, path, &mut verdict));
        let (began, hurried) = (Instant::now(), script.hurried);
        for (time, injected) in verdict.waits {
            let goes_on = |script: &mut Script| {
                script.hurried == hurried && !injected.0.cleared.load(Ordering::Acquire)
            };
            match began.checked_add(time) {
                Some(until) => {
                    self.hurry.wait_while_until(&mut script, goes_on, until);
                }
                // A device that hangs.
                None => self.hurry.wait_while(&mut script, goes_on),
            }
        }
        verdict.hit
    }
}
