//! The simulated directories: the names as the process sees them, the names that are durable, and
//! the changes between.
//!
//! A change becomes durable when a directory it concerns is synced. At a power cut any of the
//! others may have reached the device: none, all, those up to some moment (a journal), or any
//! choice of them (what POSIX allows).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use super::inode::{Inode, Live, Space};
use super::seed::Seed;
use crate::disk::DirEntry;

/// More changes than this wait for a sync only until the next one: then the oldest reach the device
/// by themselves, as a journal's do every few seconds.
const MAX_PENDING: usize = 4096;
/// Removed files that only a power cut could bring back are kept up to this size.
const MAX_PENDING_BYTES: u64 = 256 << 20;

type DirId = u64;
const ROOT: DirId = 0;

#[derive(Clone, Debug)]
enum Entry<F> {
    File(F),
    Dir(DirId),
}

type Tree<F> = BTreeMap<DirId, BTreeMap<String, Entry<F>>>;

/// What a name means, whatever the name is.
type Node = Entry<Arc<Inode>>;

impl Node {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(two)) => Arc::ptr_eq(one, two),
            (Self::Dir(one), Self::Dir(two)) => one == two,
            _ => false,
        }
    }
}

impl Entry<Arc<Live>> {
    fn node(&self) -> Node {
        match self {
            Self::File(live) => Entry::File(Arc::clone(&live.inode)),
            Self::Dir(id) => Entry::Dir(*id),
        }
    }
}

/// A place in a directory.
type Place = (DirId, String);

#[derive(Clone, Debug)]
enum Change {
    Link(Place, Node),
    Unlink(Place, Node),
    Rename(Place, Place, Node),
}

impl Change {
    fn concerns(&self, dir: DirId) -> bool {
        match self {
            Self::Link((at, _), _) | Self::Unlink((at, _), _) => *at == dir,
            Self::Rename((from, _), (to, _), _) => *from == dir || *to == dir,
        }
    }

    fn node(&self) -> &Node {
        match self {
            Self::Link(_, node) | Self::Unlink(_, node) | Self::Rename(_, _, node) => node,
        }
    }
}

/// All names of one disk.
#[derive(Debug)]
pub(super) struct Names {
    live: Tree<Arc<Live>>,
    durable: Tree<Arc<Inode>>,
    pending: Vec<Change>,
    /// Bytes of files in `pending` that no live name leads to.
    pending_bytes: u64,
    next_dir: DirId,
}

fn error(kind: io::ErrorKind, what: &str) -> io::Error {
    io::Error::new(kind, what)
}

fn not_found() -> io::Error {
    error(io::ErrorKind::NotFound, "no such file or directory")
}

fn parts(path: &Path) -> io::Result<Vec<&str>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                parts.push(name.to_str().ok_or_else(|| {
                    error(io::ErrorKind::InvalidInput, "a simulated name is UTF-8")
                })?)
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(error(
                    io::ErrorKind::InvalidInput,
                    "a simulated path has no `..`",
                ));
            }
        }
    }
    Ok(parts)
}

impl Names {
    pub(super) fn new() -> Self {
        let empty = || BTreeMap::from([(ROOT, BTreeMap::new())]);
        Self {
            live: empty(),
            durable: BTreeMap::from([(ROOT, BTreeMap::new())]),
            pending: Vec::new(),
            pending_bytes: 0,
            next_dir: ROOT + 1,
        }
    }

    fn dir(&self, parts: &[&str]) -> io::Result<DirId> {
        let mut at = ROOT;
        for part in parts {
            match self.live[&at].get(*part) {
                Some(Entry::Dir(id)) => at = *id,
                Some(Entry::File(_)) => {
                    return Err(error(
                        io::ErrorKind::NotADirectory,
                        "a file is not a directory",
                    ));
                }
                None => return Err(not_found()),
            }
        }
        Ok(at)
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let parts = parts(path)?;
        let Some((name, above)) = parts.split_last() else {
            return Err(error(io::ErrorKind::InvalidInput, "the root has no name"));
        };
        Ok((self.dir(above)?, (*name).to_owned()))
    }

    fn entry(&self, place: &Place) -> Option<&Entry<Arc<Live>>> {
        self.live.get(&place.0)?.get(&place.1)
    }

    fn set(&mut self, place: &Place, entry: Entry<Arc<Live>>) {
        if let Some(names) = self.live.get_mut(&place.0) {
            names.insert(place.1.clone(), entry);
        }
    }

    fn unset(&mut self, place: &Place) {
        if let Some(names) = self.live.get_mut(&place.0) {
            names.remove(&place.1);
        }
    }

    fn note(&mut self, change: Change) {
        self.pending.push(change);
        if self.pending.len() > MAX_PENDING || self.pending_bytes > MAX_PENDING_BYTES {
            self.commit(|_| true);
        }
    }

    /// The file of that name, if there is one.
    pub(super) fn file(&self, path: &Path) -> io::Result<Option<Arc<Live>>> {
        let parts = parts(path)?;
        let Some((name, above)) = parts.split_last() else {
            return Err(error(
                io::ErrorKind::IsADirectory,
                "the root is a directory",
            ));
        };
        match self.live[&self.dir(above)?].get(*name) {
            Some(Entry::File(live)) => Ok(Some(Arc::clone(live))),
            Some(Entry::Dir(_)) => Err(error(io::ErrorKind::IsADirectory, "it is a directory")),
            None => Ok(None),
        }
    }

    /// Gives a new file its name, which is not taken.
    pub(super) fn link(&mut self, path: &Path, live: &Arc<Live>) -> io::Result<()> {
        let place = self.place(path)?;
        self.set(&place, Entry::File(Arc::clone(live)));
        self.note(Change::Link(place, Entry::File(Arc::clone(&live.inode))));
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        let parts = parts(path)?;
        for (nth, part) in parts.iter().enumerate() {
            let place = (at, (*part).to_owned());
            match self.entry(&place) {
                Some(Entry::Dir(id)) => at = *id,
                Some(Entry::File(_)) if nth + 1 == parts.len() => {
                    return Err(error(io::ErrorKind::AlreadyExists, "a file has that name"));
                }
                Some(Entry::File(_)) => {
                    return Err(error(
                        io::ErrorKind::NotADirectory,
                        "a file is not a directory",
                    ));
                }
                None => {
                    at = self.next_dir;
                    self.next_dir += 1;
                    self.live.insert(at, BTreeMap::new());
                    self.durable.insert(at, BTreeMap::new());
                    self.set(&place, Entry::Dir(at));
                    self.note(Change::Link(place, Entry::Dir(at)));
                }
            }
        }
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let names = &self.live[&self.dir(&parts(dir)?)?];
        Ok(names
            .iter()
            .map(|(name, entry)| {
                let (is_dir, len) = match entry {
                    Entry::File(live) => (false, live.inode.state.lock().len()),
                    Entry::Dir(_) => (true, 0),
                };
                DirEntry {
                    name: name.clone(),
                    is_dir,
                    len,
                }
            })
            .collect())
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        let parts = parts(path)?;
        let Some((name, above)) = parts.split_last() else {
            return Ok(true);
        };
        match self.dir(above) {
            Ok(dir) => Ok(self.live[&dir].contains_key(*name)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn is_dir(&self, path: &Path) -> io::Result<bool> {
        Ok(self.dir(&parts(path)?).is_ok())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let moved = self.entry(&source).ok_or_else(not_found)?.clone();
        let node = moved.node();
        match (&moved, self.entry(&target)) {
            (_, Some(present)) if present.node().is(&node) => return Ok(()),
            (Entry::File(_), Some(Entry::Dir(_))) => {
                return Err(error(
                    io::ErrorKind::IsADirectory,
                    "the new name is a directory",
                ));
            }
            (Entry::Dir(_), Some(Entry::File(_))) => {
                return Err(error(
                    io::ErrorKind::NotADirectory,
                    "the new name is a file",
                ));
            }
            (Entry::Dir(_), Some(Entry::Dir(id))) if !self.live[id].is_empty() => {
                return Err(error(
                    io::ErrorKind::DirectoryNotEmpty,
                    "the new name is taken",
                ));
            }
            (Entry::Dir(_), _) if parts(to)?.starts_with(&parts(from)?) => {
                return Err(error(
                    io::ErrorKind::InvalidInput,
                    "a directory cannot go into itself",
                ));
            }
            _ => {}
        }
        self.count_removed(&target);
        self.unset(&source);
        self.set(&target, moved);
        self.note(Change::Rename(source, target, node));
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        match self.entry(&place) {
            None => return Err(not_found()),
            Some(Entry::Dir(_)) => {
                return Err(error(io::ErrorKind::IsADirectory, "it is a directory"));
            }
            Some(Entry::File(_)) => {}
        }
        self.unlink(&place);
        Ok(())
    }

    /// Removes a directory, with everything in it if there may be anything.
    pub(super) fn remove_dir(&mut self, path: &Path, with_content: bool) -> io::Result<()> {
        let place = self.place(path)?;
        match self.entry(&place) {
            None => Err(not_found()),
            Some(Entry::File(_)) => Err(error(
                io::ErrorKind::NotADirectory,
                "a file is not a directory",
            )),
            Some(Entry::Dir(id)) => {
                let id = *id;
                if !with_content && !self.live[&id].is_empty() {
                    let kind = io::ErrorKind::DirectoryNotEmpty;
                    return Err(error(kind, "something is in it"));
                }
                self.empty_dir(id);
                self.unlink(&place);
                Ok(())
            }
        }
    }

    /// Removes what is in a directory, one name after the other, as the system call's users do.
    fn empty_dir(&mut self, id: DirId) {
        let inside: Vec<(String, Option<DirId>)> = self.live[&id]
            .iter()
            .map(|(name, entry)| match entry {
                Entry::Dir(below) => (name.clone(), Some(*below)),
                Entry::File(_) => (name.clone(), None),
            })
            .collect();
        for (name, below) in inside {
            if let Some(below) = below {
                self.empty_dir(below);
            }
            self.unlink(&(id, name));
        }
    }

    fn unlink(&mut self, place: &Place) {
        let Some(entry) = self.entry(place) else {
            return;
        };
        let node = entry.node();
        self.count_removed(place);
        self.unset(place);
        if let Entry::Dir(id) = node {
            self.live.remove(&id);
        }
        self.note(Change::Unlink(place.clone(), node));
    }

    fn count_removed(&mut self, place: &Place) {
        if let Some(Entry::File(live)) = self.entry(place) {
            let bytes = live.inode.state.lock().held_bytes();
            self.pending_bytes += bytes;
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        let id = self.dir(&parts(dir)?)?;
        self.commit(|change| change.concerns(id));
        Ok(())
    }

    /// Makes the chosen changes durable, in the order they were made.
    fn commit(&mut self, mut chosen: impl FnMut(&Change) -> bool) {
        let (now, later) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|c| chosen(c));
        self.pending = later;
        for change in now {
            let removed = match &change {
                Change::Unlink(_, Entry::Dir(id)) => Some(*id),
                _ => None,
            };
            apply(&mut self.durable, change);
            if let Some(id) = removed
                && !self.live.contains_key(&id)
            {
                self.durable.remove(&id);
            }
        }
        if self.pending.is_empty() {
            self.pending_bytes = 0;
        }
    }

    /// Files that any name leads to, or could lead to after a power cut.
    pub(super) fn inodes(&self) -> Vec<Arc<Inode>> {
        let mut all: BTreeMap<*const Inode, Arc<Inode>> = BTreeMap::new();
        let live = self
            .live
            .values()
            .flat_map(BTreeMap::values)
            .map(Entry::node);
        let durable = self.durable.values().flat_map(BTreeMap::values).cloned();
        let pending = self.pending.iter().map(|change| change.node().clone());
        let mut in_order = Vec::new();
        for node in live.chain(durable).chain(pending) {
            if let Entry::File(inode) = node
                && all
                    .insert(Arc::as_ptr(&inode), Arc::clone(&inode))
                    .is_none()
            {
                in_order.push(inode);
            }
        }
        in_order
    }

    /// The device got some of the changes that were not synced; the names are what the device has.
    pub(super) fn lose_unsynced(&mut self, seed: &mut Seed) {
        let pending = std::mem::take(&mut self.pending);
        let kept = match seed.below(5) {
            0 => vec![false; pending.len()],
            1 => vec![true; pending.len()],
            2 => {
                let until = seed.below(pending.len() as u64 + 1);
                (0..pending.len() as u64).map(|nth| nth < until).collect()
            }
            _ => pending.iter().map(|_| seed.coin()).collect(),
        };
        for (change, kept) in pending.into_iter().zip(kept) {
            if kept {
                apply(&mut self.durable, change);
            }
        }
        self.pending_bytes = 0;
        let reached = reach(&self.durable);
        self.durable.retain(|id, _| reached.contains(id));
        // A directory that was emptied and removed for good can still be named by a lost change.
        for id in reached {
            self.durable.entry(id).or_default();
        }
    }

    /// After `lose_unsynced`: the process sees what is durable.
    pub(super) fn adopt_durable(&mut self, space: &Arc<Space>) {
        let mut made = BTreeMap::new();
        self.live = self
            .durable
            .iter()
            .map(|(id, names)| {
                let names = names
                    .iter()
                    .map(|(name, entry)| {
                        let entry = match entry {
                            Entry::File(inode) => Entry::File(live_of(inode, space, &mut made)),
                            Entry::Dir(id) => Entry::Dir(*id),
                        };
                        (name.clone(), entry)
                    })
                    .collect();
                (*id, names)
            })
            .collect();
    }

    /// The process died, the machine did not: the same names, with nothing open.
    pub(super) fn adopt_live(&mut self, space: &Arc<Space>) {
        let mut made = BTreeMap::new();
        for entry in self.live.values_mut().flat_map(BTreeMap::values_mut) {
            if let Entry::File(live) = entry {
                *live = live_of(&live.inode, space, &mut made);
            }
        }
    }
}

/// One `Live` a file, however many names lead to it.
fn live_of(
    inode: &Arc<Inode>,
    space: &Arc<Space>,
    made: &mut BTreeMap<*const Inode, Arc<Live>>,
) -> Arc<Live> {
    let live = made
        .entry(Arc::as_ptr(inode))
        .or_insert_with(|| Live::new(Arc::clone(inode), Arc::clone(space)));
    Arc::clone(live)
}

/// Directories that the root leads to.
fn reach(tree: &Tree<Arc<Inode>>) -> BTreeSet<DirId> {
    let mut reached = BTreeSet::new();
    let mut open = vec![ROOT];
    while let Some(id) = open.pop() {
        if !reached.insert(id) {
            continue;
        }
        for entry in tree.get(&id).into_iter().flat_map(BTreeMap::values) {
            if let Entry::Dir(below) = entry {
                open.push(*below);
            }
        }
    }
    reached
}

/// Applies one change to durable names. What it was to find there may be missing, because an
/// earlier change was lost.
fn apply(durable: &mut Tree<Arc<Inode>>, change: Change) {
    match change {
        Change::Link((dir, name), node) => {
            if let Some(names) = durable.get_mut(&dir) {
                names.insert(name, node);
            }
        }
        Change::Unlink((dir, name), node) => {
            if let Some(names) = durable.get_mut(&dir)
                && names.get(&name).is_some_and(|present| present.is(&node))
            {
                names.remove(&name);
            }
        }
        Change::Rename((from, _), (to, name), node) => {
            // Whatever name it had there: an earlier rename may have been lost.
            if let Some(names) = durable.get_mut(&from) {
                names.retain(|_, present| !present.is(&node));
            }
            if let Some(names) = durable.get_mut(&to) {
                names.insert(name, node);
            }
        }
    }
}
