//! The simulated disk: files in memory that a power cut, a full disk or a failing device can happen
//! to.
//!
//! It is also what embedders run on when nothing is to be kept, so it is cheap: making one maps
//! nothing, files take memory as they are touched, and knowing what a power cut would lose costs a
//! marker per new page. A [`SimDisk`] and its clones are one disk; [`SimDisk::power_cut`] ends the
//! "process" that uses it.
//!
//! Locks, in this order: `Machine::names`, one file's state, one file's memory. None is held while
//! the hook runs.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::{DirEntry, DirLock, Disk, DiskFile, DiskSpace, LOCK_FILE, OpenMode};
use crate::mmap::{MapError, MapHook, Mapping};

mod fault;
mod inode;
mod names;
mod seed;
#[cfg(test)]
mod tests;

pub use fault::{DiskHook, DiskOp, InjectedFault, SimFault};

use fault::{Faults, Hit};
use inode::{Inode, Live, Space, State, at};
use names::Names;
use seed::Seed;

/// The capacity of [`SimDisk::default`]: 1 GiB.
pub const DEFAULT_CAPACITY_BYTES: u64 = 1 << 30;

/// What survives when the process that uses a [`SimDisk`] ends without notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PowerCut {
    /// The machine stopped. Of what was not synced, the seed decides what reached the device.
    LoseUnsynced,
    /// Only the process was killed: everything written is there, but what was not synced still is
    /// not.
    KeepAll,
}

/// A disk in memory. Clones are the same disk.
///
/// ```
/// use logweir_storage::disk::{Disk, OpenMode, PowerCut, SimDisk};
/// # fn main() -> std::io::Result<()> {
/// let disk = SimDisk::new(1 << 20);
/// let file = disk.open("/kept".as_ref(), OpenMode::Create)?;
/// file.write_at(b"hello", 0)?;
/// file.sync()?;
/// disk.sync_dir("/".as_ref())?;
/// disk.open("/lost".as_ref(), OpenMode::Create)?;
///
/// disk.power_cut(7, PowerCut::LoseUnsynced);
/// assert!(file.len().is_err(), "the process is gone, and so are its handles");
/// assert_eq!(disk.open("/kept".as_ref(), OpenMode::Read)?.len()?, 5);
/// # Ok(())
/// # }
/// ```
pub struct SimDisk {
    machine: Arc<Machine>,
    /// The run of the machine that this handle belongs to; see [`SimDisk::power_cut`].
    generation: AtomicU64,
}

struct Machine {
    names: Mutex<Names>,
    faults: Faults,
    capacity: Arc<AtomicU64>,
    /// Operations that found the disk full.
    refused: Arc<AtomicU64>,
    space: Mutex<Arc<Space>>,
    /// Locked directories, and the number of the lock.
    locks: Mutex<Locks>,
    /// Counts the processes that had the disk.
    generation: AtomicU64,
    /// Counts the times the machine was started.
    boot: AtomicU64,
}

#[derive(Default)]
struct Locks {
    held: BTreeMap<PathBuf, u64>,
    next: u64,
}

impl Clone for SimDisk {
    fn clone(&self) -> Self {
        Self {
            machine: Arc::clone(&self.machine),
            generation: AtomicU64::new(self.machine.generation.load(Ordering::Acquire)),
        }
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY_BYTES)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field(
                "capacity_bytes",
                &self.machine.capacity.load(Ordering::Relaxed),
            )
            .field("used_bytes", &self.used_bytes())
            .field("operations", &self.operations())
            .finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk with room for `capacity_bytes`. Takes no memory yet.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        let capacity = Arc::new(AtomicU64::new(capacity_bytes));
        let refused = Arc::<AtomicU64>::default();
        Self {
            machine: Arc::new(Machine {
                names: Mutex::new(Names::new()),
                faults: Faults::default(),
                space: Mutex::new(Arc::new(Space::new(
                    Arc::clone(&capacity),
                    Arc::clone(&refused),
                ))),
                capacity,
                refused,
                locks: Mutex::default(),
                generation: AtomicU64::new(0),
                boot: AtomicU64::new(0),
            }),
            generation: AtomicU64::new(0),
        }
    }

    /// Changes the capacity while the disk is in use. Below what is used, the disk is full.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.machine
            .capacity
            .store(capacity_bytes, Ordering::Relaxed);
    }

    /// Bytes taken by files that have a name, a handle or a mapping, in whole pages of 4 KiB.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.machine.space.lock().used()
    }

    /// How many operations have failed so far because the disk was full.
    #[must_use]
    pub fn refused_for_space(&self) -> u64 {
        self.machine.refused.load(Ordering::Relaxed)
    }

    /// Pages of 4 KiB that a power cut could now take back, in files that have a name.
    #[must_use]
    pub fn unsynced_pages(&self) -> usize {
        let names = self.machine.names.lock();
        names
            .inodes()
            .iter()
            .map(|inode| inode.state.lock().unsynced_pages())
            .sum()
    }

    /// Makes an operation fail or take its time. Several faults count on their own. What it gives tells how often
    /// the fault came about, also after it was taken back.
    pub fn inject(&self, fault: SimFault) -> InjectedFault {
        self.machine.faults.inject(fault)
    }

    /// Takes back one fault. Operations that it makes wait go on at once.
    pub fn clear_fault(&self, fault: &InjectedFault) {
        self.machine.faults.clear_one(fault);
    }

    /// Takes back all faults. Operations that they make wait go on at once.
    pub fn clear_faults(&self) {
        self.machine.faults.clear();
    }

    /// Calls `hook` before each operation, with its kind and path and no lock held, so that it may
    /// wait (a slow disk), count or cut the power. `None` takes it back.
    pub fn set_hook(&self, hook: Option<DiskHook>) {
        self.machine.faults.set_hook(hook);
    }

    /// Operations so far, without writes through mappings.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.machine.faults.total()
    }

    /// Operations of one kind so far.
    #[must_use]
    pub fn operations_of(&self, op: DiskOp) -> u64 {
        self.machine.faults.count(op)
    }

    /// Flips bit `bit` (0 to 7) of the byte at `position`, on the device and in the cache. A
    /// mapping that is alive keeps the byte it shows; reads through handles and mappings made from
    /// then on have the new one.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] without such a file, [`io::ErrorKind::UnexpectedEof`] beyond its
    /// end.
    pub fn flip_bit(&self, path: &Path, position: u64, bit: u32) -> io::Result<()> {
        let found = self.machine.names.lock().file(path)?;
        let live = found.ok_or_else(|| at(&io::ErrorKind::NotFound.into(), "flip in", path))?;
        let mut state = live.inode.state.lock();
        if position >= state.len() {
            return Err(at(&io::ErrorKind::UnexpectedEof.into(), "flip in", path));
        }
        state.flip(position, 1 << (bit % 8));
        Ok(())
    }

    /// Ends the process that uses the disk, and says what is left for the next.
    ///
    /// Every handle, lock and *clone* made before is dead and gives errors, so that threads of the
    /// old process cannot disturb the new one; only the `SimDisk` this is called on goes on, and
    /// clones made of it from now on. Mappings and `Bytes` of the old process stay as they are, and
    /// readable. Faults, hook and capacity stay too.
    ///
    /// With [`PowerCut::LoseUnsynced`], `seed` decides: each 4 KiB page changed since its file's
    /// last sync holds the old bytes, the new ones, or a mix of 512-byte sectors; changed lengths,
    /// and each name made, renamed or removed since its directory's last sync, are kept or lost. A
    /// file whose name was lost is gone even if it was synced.
    ///
    /// # Panics
    /// If there is no memory for a copy of the files that mappings of the old process hold.
    pub fn power_cut(&self, seed: u64, cut: PowerCut) {
        let mut seed = Seed::new(seed);
        let mut names = self.machine.names.lock();
        let generation = self.machine.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.generation.store(generation, Ordering::Release);
        *self.machine.locks.lock() = Locks::default();
        self.machine.faults.hurry();
        let space = Arc::new(Space::new(
            Arc::clone(&self.machine.capacity),
            Arc::clone(&self.machine.refused),
        ));
        *self.machine.space.lock() = Arc::clone(&space);
        for inode in names.inodes() {
            inode
                .state
                .lock()
                .orphan(generation)
                .expect("there is memory for a copy of a file");
        }
        match cut {
            PowerCut::KeepAll => names.adopt_live(&space),
            PowerCut::LoseUnsynced => {
                self.machine.boot.fetch_add(1, Ordering::AcqRel);
                names.lose_unsynced(&mut seed);
                for inode in names.inodes() {
                    let mut state = inode.state.lock();
                    state
                        .lose_unsynced(&mut seed)
                        .expect("no mapping is left to forbid it");
                }
                names.adopt_durable(&space);
            }
        }
    }

    /// Counts the operation, lets it fail if it is to, and gives the names to work on.
    fn enter(&self, op: DiskOp, path: &Path) -> io::Result<MutexGuard<'_, Names>> {
        self.machine.faults.enter(op, path)?;
        let names = self.machine.names.lock();
        if self.generation.load(Ordering::Acquire)
            != self.machine.generation.load(Ordering::Acquire)
        {
            return Err(at(&power_is_cut(), "use", path));
        }
        Ok(names)
    }

    fn handle(&self, path: &Path, live: Arc<Live>, writable: bool) -> SimFile {
        let generation = self.generation.load(Ordering::Acquire);
        let machine = Arc::clone(&self.machine);
        SimFile(Arc::new(Handle {
            machine,
            live,
            generation,
            path: path.to_owned(),
            writable,
        }))
    }

    fn create(&self, names: &mut Names, path: &Path) -> io::Result<Arc<Live>> {
        let inode = Arc::new(Inode::new(self.generation.load(Ordering::Acquire)));
        let live = Live::new(inode, Arc::clone(&self.machine.space.lock()));
        names.link(path, &live)?;
        Ok(live)
    }
}

fn power_is_cut() -> io::Error {
    io::Error::other(
        "the power was cut; the disk goes on under the handle that cut it, and new clones of that",
    )
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let failed = |e: io::Error| at(&e, "open", path);
        // Which of the two operations it is shows only when it is looked for.
        let present = self
            .machine
            .names
            .lock()
            .file(path)
            .is_ok_and(|found| found.is_some());
        let makes = !present && matches!(mode, OpenMode::Create | OpenMode::CreateOrOpen);
        let op = if makes { DiskOp::Create } else { DiskOp::Open };
        let mut names = self.enter(op, path)?;
        let live = match (names.file(path).map_err(failed)?, mode) {
            (Some(_), OpenMode::Create) => {
                return Err(failed(io::ErrorKind::AlreadyExists.into()));
            }
            (Some(live), _) => live,
            (None, OpenMode::Create | OpenMode::CreateOrOpen) => {
                self.create(&mut names, path).map_err(failed)?
            }
            (None, _) => return Err(failed(io::ErrorKind::NotFound.into())),
        };
        Ok(Arc::new(self.handle(path, live, mode != OpenMode::Read)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut names = self.enter(DiskOp::CreateDir, path)?;
        names
            .create_dir_all(path)
            .map_err(|e| at(&e, "make directory", path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.enter(DiskOp::List, dir)?
            .list(dir)
            .map_err(|e| at(&e, "list", dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.enter(DiskOp::Exists, path)?
            .exists(path)
            .map_err(|e| at(&e, "look for", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.enter(DiskOp::Rename, from)?;
        names
            .rename(from, to)
            .map_err(|e| at(&at(&e, "to", to), "rename", from))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut names = self.enter(DiskOp::Remove, path)?;
        names.remove_file(path).map_err(|e| at(&e, "remove", path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut names = self.enter(DiskOp::RemoveDir, path)?;
        names
            .remove_dir(path, false)
            .map_err(|e| at(&e, "remove directory", path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut names = self.enter(DiskOp::RemoveDir, path)?;
        names
            .remove_dir(path, true)
            .map_err(|e| at(&e, "remove directory", path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut names = self.enter(DiskOp::SyncDir, dir)?;
        names
            .sync_dir(dir)
            .map_err(|e| at(&e, "sync directory", dir))
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let names = self.enter(DiskOp::Space, path)?;
        if !names.exists(path)? {
            return Err(at(&io::ErrorKind::NotFound.into(), "space of", path));
        }
        Ok(DiskSpace {
            total_bytes: self.machine.capacity.load(Ordering::Relaxed),
            free_bytes: self.machine.space.lock().free(),
        })
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut names = self.enter(DiskOp::Lock, dir)?;
        if !names.is_dir(dir)? {
            return Err(at(&io::ErrorKind::NotFound.into(), "lock", dir));
        }
        let mut locks = self.machine.locks.lock();
        if locks.held.contains_key(dir) {
            return Err(super::locked(Some(std::process::id())));
        }
        let path = dir.join(LOCK_FILE);
        let live = match names.file(&path)? {
            Some(live) => live,
            None => self.create(&mut names, &path)?,
        };
        let mut state = live.inode.state.lock();
        let pid = format!("{}\n", std::process::id());
        state
            .set_len(0, live.space())
            .and_then(|()| state.write(0, pid.as_bytes(), live.space()))
            .map_err(|e| at(&e, "write", &path))?;
        let number = locks.next;
        locks.next += 1;
        locks.held.insert(dir.to_owned(), number);
        let generation = self.generation.load(Ordering::Acquire);
        let machine = Arc::clone(&self.machine);
        Ok(Box::new(SimLock {
            machine,
            dir: dir.to_owned(),
            number,
            generation,
        }))
    }

    fn reserves_blocks(&self, dir: &Path) -> io::Result<bool> {
        drop(self.enter(DiskOp::Space, dir)?);
        Ok(true)
    }

    fn boot_id(&self) -> io::Result<String> {
        drop(self.enter(DiskOp::Space, Path::new("/"))?);
        Ok(format!(
            "simulated-{}",
            self.machine.boot.load(Ordering::Acquire)
        ))
    }

    fn may_wait(&self) -> bool {
        self.machine.faults.armed()
    }
}

struct SimLock {
    machine: Arc<Machine>,
    dir: PathBuf,
    number: u64,
    generation: u64,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLock")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut locks = self.machine.locks.lock();
        let current = self.machine.generation.load(Ordering::Acquire) == self.generation;
        if current && locks.held.get(&self.dir) == Some(&self.number) {
            locks.held.remove(&self.dir);
        }
    }
}

/// An open file, shared with its mappings.
#[derive(Debug)]
struct SimFile(Arc<Handle>);

struct Handle {
    machine: Arc<Machine>,
    live: Arc<Live>,
    generation: u64,
    path: PathBuf,
    writable: bool,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// The file's state, unless the process that opened it is gone.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.live.inode.state.lock();
        let current = self.machine.generation.load(Ordering::Acquire) == self.generation;
        if !current || state.generation != self.generation {
            return Err(power_is_cut());
        }
        Ok(state)
    }

    fn enter(&self, op: DiskOp) -> io::Result<MutexGuard<'_, State>> {
        self.machine.faults.enter(op, &self.path)?;
        self.state().map_err(self.failed("use"))
    }

    fn enter_to_write(&self, op: DiskOp) -> io::Result<MutexGuard<'_, State>> {
        self.check_writable()?;
        self.enter(op)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(self.failed("write")(io::ErrorKind::PermissionDenied.into()))
    }

    fn failed(&self, verb: &str) -> impl FnOnce(io::Error) -> io::Error {
        move |error| at(&error, verb, &self.path)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.enter(DiskOp::Len)?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.enter_to_write(DiskOp::SetLen)?;
        state
            .set_len(len, self.0.live.space())
            .map_err(self.0.failed("set length of"))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.enter_to_write(DiskOp::Allocate)?;
        state
            .allocate(len, self.0.live.space())
            .map_err(self.0.failed("reserve space in"))
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut state = self.0.enter(DiskOp::Read)?;
        state.read(position, buffer).map_err(self.0.failed("read"))
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_vectored_at([bytes, &[]], position)
    }

    fn write_vectored_at(&self, parts: [&[u8]; 2], position: u64) -> io::Result<()> {
        self.0.check_writable()?;
        let hit = self.0.machine.faults.decide(DiskOp::Write, &self.0.path);
        let all = parts[0].len() + parts[1].len();
        let mut left = match &hit {
            None => all,
            Some(Hit { first: true, .. }) => all / 2,
            Some(_) => 0,
        };
        let mut state = self.0.state().map_err(self.0.failed("write"))?;
        let mut start = position;
        let written = parts.into_iter().try_for_each(|part| {
            let part = &part[..part.len().min(left)];
            state.write(start, part, self.0.live.space())?;
            left -= part.len();
            start += part.len() as u64;
            Ok(())
        });
        drop(state);
        match hit {
            Some(hit) => Err(hit.error),
            None => written.map_err(self.0.failed("write")),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let fault = self.0.machine.faults.enter(DiskOp::Sync, &self.0.path);
        let mut state = self.0.state().map_err(self.0.failed("sync"))?;
        if fault.is_ok() {
            state.sync();
        } else {
            state.sync_failed();
        }
        fault
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        let mut state = self.0.enter(DiskOp::Map)?;
        if len == 0 {
            let error =
                io::Error::new(io::ErrorKind::InvalidInput, "a mapping has at least 1 byte");
            return Err(self.0.failed("map")(error));
        }
        let memory = state.share(len).map_err(self.0.failed("map"))?;
        let hook = Tracker {
            handle: Arc::clone(&self.0),
            memory_number: state.memory_number,
        };
        Ok(Mapping::of_memory(
            memory,
            len,
            self.0.writable,
            Arc::new(hook),
        ))
    }
}

/// Sends stores through a mapping past the file's record of what is durable.
#[derive(Debug)]
struct Tracker {
    handle: Arc<Handle>,
    memory_number: u64,
}

impl Tracker {
    fn enter(&self) -> Result<MutexGuard<'_, State>, MapError> {
        let handle = &self.handle;
        handle
            .machine
            .faults
            .enter(DiskOp::MapWrite, &handle.path)?;
        let state = handle
            .state()
            .map_err(handle.failed("write through the map of"))?;
        if state.memory_number != self.memory_number {
            return Err(MapError::ReadOnly);
        }
        Ok(state)
    }
}

impl MapHook for Tracker {
    fn write(&self, position: u64, parts: &[&[u8]]) -> Result<(), MapError> {
        let mut state = self.enter()?;
        let mut position = position;
        for part in parts {
            state.write_mapped(position, part)?;
            position += part.len() as u64;
        }
        Ok(())
    }

    fn zero(&self, from: u64, to: u64) -> Result<(), MapError> {
        self.enter()?.zero_mapped(from, to)
    }
}
