//! One simulated file: its bytes, what of them is durable, and what a power cut makes of the
//! difference.
//!
//! Only what changed since the last sync costs anything: per 4 KiB page either the old bytes or,
//! for a page that was zero, nothing but a marker. Bytes that a live mapping has published are
//! never changed in place; what would change them is an error here, where a real file would
//! silently hurt its readers.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::seed::Seed;
use crate::mmap::{MapError, Memory, SharedMemory};

pub(super) const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// Rounds up to whole pages.
fn pages_up(len: u64) -> u64 {
    len.div_ceil(PAGE).saturating_mul(PAGE)
}

fn index(position: u64) -> usize {
    usize::try_from(position)
        .expect("a simulated file fits the address space, `check_end` saw to it")
}

/// What a disk has and what of it is taken. A new one after each power cut, so that what the dead
/// process still holds does not count.
#[derive(Debug)]
pub(super) struct Space {
    capacity: Arc<AtomicU64>,
    used: AtomicU64,
    /// Operations that found no room.
    refused: Arc<AtomicU64>,
}

impl Space {
    pub(super) fn new(capacity: Arc<AtomicU64>, refused: Arc<AtomicU64>) -> Self {
        Self {
            capacity,
            used: AtomicU64::new(0),
            refused,
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity
            .load(Ordering::Relaxed)
            .saturating_sub(self.used())
    }

    fn take(&self, bytes: u64) -> bool {
        let capacity = self.capacity.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&after| after <= capacity)
            })
            .inspect_err(|_| {
                self.refused.fetch_add(1, Ordering::Relaxed);
            })
            .is_ok()
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A file that somebody can still reach, by name, handle or mapping; its blocks are taken for as
/// long.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) inode: Arc<Inode>,
    space: Arc<Space>,
}

impl Live {
    pub(super) fn new(inode: Arc<Inode>, space: Arc<Space>) -> Arc<Self> {
        // A file that came back from the dead takes its room even where there is none.
        space
            .used
            .fetch_add(inode.state.lock().allocated, Ordering::Relaxed);
        Arc::new(Self { inode, space })
    }

    pub(super) fn space(&self) -> &Space {
        &self.space
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.space.give(self.inode.state.lock().allocated);
    }
}

/// One file's state behind its lock.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// Handles of an older one are dead.
    pub(super) generation: u64,
    content: Content,
    /// Counts memories; a mapping of an older one can only be read.
    pub(super) memory_number: u64,
    len: u64,
    /// Whole pages taken from the disk's space, always `[0, allocated)`: a hole counts as if it
    /// were filled.
    allocated: u64,
    /// Nothing at or above it was ever written, so it is all zero. `touched <= len`.
    touched: u64,
    /// The length that the last successful sync saw.
    durable_len: u64,
    /// Pages that differ from what is durable.
    shadow: BTreeMap<u64, Old>,
    /// The last page put into `shadow` and still dirty, so that small appends need not look it up
    /// again.
    last_kept: Option<u64>,
    /// Flipped bits that wait until no live mapping can see the byte change: position and mask.
    flips: Vec<(u64, u8)>,
}

/// What a page holds on the device.
#[derive(Debug)]
struct Old {
    /// `None` is all zero.
    bytes: Option<Box<[u8; PAGE_BYTES]>>,
    /// A failed sync marked the page clean: no later sync will write it, unless it is written to
    /// again.
    given_up: bool,
}

#[derive(Debug)]
enum Content {
    /// Never mapped; holds the first `touched` bytes.
    Buffer(Vec<u8>),
    Mapped(Memory),
}

impl Content {
    fn read(&self, position: u64, buffer: &mut [u8]) {
        match self {
            Self::Buffer(bytes) => {
                let start = index(position).min(bytes.len());
                let there = (bytes.len() - start).min(buffer.len());
                buffer[..there].copy_from_slice(&bytes[start..start + there]);
                buffer[there..].fill(0);
            }
            Self::Mapped(memory) => {
                memory
                    .read(position, buffer)
                    .expect("the memory covers the file, `reach` saw to it");
            }
        }
    }

    fn write(&mut self, position: u64, bytes: &[u8]) -> Result<(), MapError> {
        match self {
            Self::Buffer(buffer) => {
                let start = index(position);
                let end = start + bytes.len();
                if buffer.len() < end {
                    buffer.resize(end, 0);
                }
                buffer[start..end].copy_from_slice(bytes);
                Ok(())
            }
            Self::Mapped(memory) => memory.write(position, bytes),
        }
    }

    fn fixed_end(&self) -> u64 {
        match self {
            Self::Buffer(_) => 0,
            Self::Mapped(memory) => memory.fixed_end(),
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Mapped(memory) if memory.is_shared())
    }
}

impl Inode {
    pub(super) fn new(generation: u64) -> Self {
        Self {
            state: Mutex::new(State {
                generation,
                content: Content::Buffer(Vec::new()),
                memory_number: 0,
                len: 0,
                allocated: 0,
                touched: 0,
                durable_len: 0,
                shadow: BTreeMap::new(),
                last_kept: None,
                flips: Vec::new(),
            }),
        }
    }
}

impl State {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that a store through a mapping may touch without a signal.
    pub(super) fn storable(&self) -> u64 {
        self.len.min(self.allocated)
    }

    pub(super) fn unsynced_pages(&self) -> usize {
        self.shadow.len()
    }

    /// Bytes of memory or buffer behind the file, about.
    pub(super) fn held_bytes(&self) -> u64 {
        self.touched
    }

    pub(super) fn read(&mut self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = position.saturating_add(buffer.len() as u64);
        if end > self.len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "read past the end",
            ));
        }
        self.settle_flips();
        let there = self
            .touched
            .saturating_sub(position)
            .min(buffer.len() as u64);
        let (there, rest) = buffer.split_at_mut(index(there));
        if !there.is_empty() {
            self.content.read(position, there);
        }
        rest.fill(0);
        for &(at, mask) in &self.flips {
            if (position..end).contains(&at) {
                buffer[index(at - position)] ^= mask;
            }
        }
        Ok(())
    }

    /// Writes as much as there is room for; an error if that is not all.
    pub(super) fn write(&mut self, position: u64, bytes: &[u8], space: &Space) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = check_end(position, bytes.len())?;
        if position < self.content.fixed_end() {
            return Err(fixed(position, self.content.fixed_end()));
        }
        let room = self.grow_allocated(end, space);
        let bytes = match room {
            Ok(()) => bytes,
            // As a real disk does: what fits is written before the error.
            Err(_) => {
                let fits = self
                    .allocated
                    .saturating_sub(position)
                    .min(bytes.len() as u64);
                &bytes[..index(fits)]
            }
        };
        if !bytes.is_empty() {
            self.put(position, bytes)?;
        }
        room
    }

    /// Writes through a mapping: only into what is there already.
    pub(super) fn write_mapped(&mut self, position: u64, bytes: &[u8]) -> Result<(), MapError> {
        let end = position.saturating_add(bytes.len() as u64);
        if end > self.storable() {
            return Err(MapError::NotAllocated {
                end,
                allocated: self.storable(),
            });
        }
        let published = self.content.fixed_end();
        if position < published && !bytes.is_empty() {
            return Err(MapError::Published {
                position,
                published,
            });
        }
        self.put(position, bytes)?;
        Ok(())
    }

    /// Zeroes through a mapping.
    pub(super) fn zero_mapped(&mut self, from: u64, to: u64) -> Result<(), MapError> {
        if to > self.storable() {
            return Err(MapError::NotAllocated {
                end: to,
                allocated: self.storable(),
            });
        }
        let published = self.content.fixed_end();
        if from < published && from < to {
            return Err(MapError::Published {
                position: from,
                published,
            });
        }
        self.clear(from, to.min(self.touched))?;
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: u64, space: &Space) -> io::Result<()> {
        check_end(len, 0)?;
        if len < self.len {
            if len < self.content.fixed_end() {
                return Err(fixed(len, self.content.fixed_end()));
            }
            self.clear(len, self.touched)?;
            self.touched = self.touched.min(len);
            if let Content::Buffer(bytes) = &mut self.content {
                bytes.truncate(index(len));
            }
            let keep = pages_up(len).min(self.allocated);
            space.give(self.allocated - keep);
            self.allocated = keep;
        }
        self.len = len;
        Ok(())
    }

    pub(super) fn allocate(&mut self, len: u64, space: &Space) -> io::Result<()> {
        check_end(len, 0)?;
        let wanted = pages_up(len);
        if wanted > self.allocated {
            if !space.take(wanted - self.allocated) {
                return Err(full());
            }
            self.allocated = wanted;
        }
        self.len = self.len.max(len);
        Ok(())
    }

    /// Everything is durable now, except what an earlier failure gave up.
    pub(super) fn sync(&mut self) {
        self.shadow.retain(|_, old| old.given_up);
        self.last_kept = None;
        self.durable_len = self.len;
    }

    /// Nothing is durable now that was not before, and no later sync will try.
    pub(super) fn sync_failed(&mut self) {
        for old in self.shadow.values_mut() {
            old.given_up = true;
        }
        self.last_kept = None;
    }

    /// Shares the bytes with a mapping of `len`.
    pub(super) fn share(&mut self, len: usize) -> io::Result<SharedMemory> {
        self.settle_flips();
        let wanted = len.max(index(self.touched));
        if !matches!(&self.content, Content::Mapped(memory) if memory.capacity() >= wanted) {
            self.move_to(wanted)?;
        }
        match &self.content {
            Content::Mapped(memory) => Ok(memory.share()),
            Content::Buffer(_) => Err(io::Error::other("the file has no memory after its move")),
        }
    }

    /// Flips bits of one byte, on the device and in the cache alike.
    pub(super) fn flip(&mut self, position: u64, mask: u8) {
        self.flips.push((position, mask));
        self.settle_flips();
    }

    /// Keeps what is durable of the page, then overwrites.
    fn put(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let end = position + bytes.len() as u64;
        self.settle_flips();
        if let Content::Mapped(memory) = &self.content
            && index(end) > memory.capacity()
        {
            self.move_to(index(end.next_power_of_two()))?;
        }
        self.keep(position, end);
        self.content.write(position, bytes)?;
        self.touched = self.touched.max(end);
        self.len = self.len.max(end);
        Ok(())
    }

    /// Keeps what is durable of the pages, then zeroes `[from, to)`, which is all touched.
    fn clear(&mut self, from: u64, to: u64) -> Result<(), MapError> {
        if from >= to {
            return Ok(());
        }
        self.settle_flips();
        self.keep(from, to);
        match &mut self.content {
            Content::Buffer(bytes) => bytes[index(from)..index(to)].fill(0),
            Content::Mapped(memory) => memory.zero(from, index(to - from))?,
        }
        Ok(())
    }

    /// Puts the durable form of each page of `[from, to)` aside, unless it is already.
    fn keep(&mut self, from: u64, to: u64) {
        for page in from / PAGE..to.div_ceil(PAGE) {
            if self.last_kept == Some(page) {
                continue;
            }
            if let Some(old) = self.shadow.get_mut(&page) {
                old.given_up = false;
            } else {
                let bytes = self.page_if_written(page);
                self.shadow.insert(
                    page,
                    Old {
                        bytes,
                        given_up: false,
                    },
                );
            }
            self.last_kept = Some(page);
        }
    }

    /// A page's bytes, or `None` if they are zero on the device because it is new.
    fn page_if_written(&self, page: u64) -> Option<Box<[u8; PAGE_BYTES]>> {
        let start = page * PAGE;
        let there = self
            .touched
            .min(self.durable_len)
            .saturating_sub(start)
            .min(PAGE);
        if there == 0 {
            return None;
        }
        let mut bytes = Box::new([0; PAGE_BYTES]);
        self.content.read(start, &mut bytes[..index(there)]);
        Some(bytes)
    }

    fn grow_allocated(&mut self, end: u64, space: &Space) -> io::Result<()> {
        let wanted = pages_up(end);
        if wanted <= self.allocated {
            return Ok(());
        }
        if space.take(wanted - self.allocated) {
            self.allocated = wanted;
            return Ok(());
        }
        let fits = (space.free() / PAGE * PAGE).min(wanted - self.allocated);
        if space.take(fits) {
            self.allocated += fits;
        }
        Err(full())
    }

    /// Gives the file fresh memory with the same bytes. Mappings of the old one keep what they see.
    fn move_to(&mut self, capacity: usize) -> io::Result<()> {
        let fresh = Memory::new(capacity)?;
        let mut chunk = vec![0; index(self.touched.min(1 << 20))];
        let mut position = 0;
        while position < self.touched {
            let len = index((self.touched - position).min(chunk.len() as u64));
            self.content.read(position, &mut chunk[..len]);
            fresh.write(position, &chunk[..len])?;
            position += len as u64;
        }
        self.memory_number += 1;
        if let Content::Mapped(old) = std::mem::replace(&mut self.content, Content::Mapped(fresh)) {
            old.retire();
        }
        Ok(())
    }

    /// Whether there is room behind the byte, so that it can be stored without growing anything
    /// mapped.
    fn reaches(&self, position: u64) -> bool {
        match &self.content {
            Content::Buffer(_) => true,
            Content::Mapped(memory) => position < memory.capacity() as u64,
        }
    }

    /// Applies waiting bit flips, if no live mapping can see it.
    fn settle_flips(&mut self) {
        if self.flips.is_empty() || self.content.is_shared() {
            return;
        }
        for (position, mask) in std::mem::take(&mut self.flips) {
            if position < self.len && self.reaches(position) {
                let mut byte = [0];
                if position < self.touched {
                    self.content.read(position, &mut byte);
                }
                byte[0] ^= mask;
                self.content
                    .write(position, &byte)
                    .expect("nothing is fixed in memory that is not shared");
                self.touched = self.touched.max(position + 1);
            }
            if let Some(Old {
                bytes: Some(bytes), ..
            }) = self.shadow.get_mut(&(position / PAGE))
            {
                bytes[index(position % PAGE)] ^= mask;
            }
        }
    }
}

/// What a power cut does to one file.
impl State {
    /// Ends the handles, and moves the bytes away from the mappings that the dead process has. What
    /// is durable does not change.
    pub(super) fn orphan(&mut self, generation: u64) -> io::Result<()> {
        self.generation = generation;
        if self.content.is_shared() {
            self.move_to(index(self.touched.max(1)))?;
        }
        self.settle_flips();
        Ok(())
    }

    /// Decides for each change since the last sync whether the device got it. Called after
    /// `orphan`.
    pub(super) fn lose_unsynced(&mut self, seed: &mut Seed) -> io::Result<()> {
        let len = self.len_after_cut(seed);
        let fates = Fates::choose(seed, self.shadow.len() as u64);
        let cut_short = self.len;
        let shadow = std::mem::take(&mut self.shadow);
        for (nth, (page, old)) in (0..).zip(shadow) {
            let fate = fates.of(nth, seed);
            // If the file was cut and the cut is lost, so are the pages beyond it.
            let restore = page * PAGE >= cut_short || old.given_up;
            self.resolve(
                page,
                old.bytes,
                if restore { Fate::Old } else { fate },
                seed,
            )?;
        }
        if len < self.touched {
            self.zero_to_touched(len)?;
            self.touched = len;
            if let Content::Buffer(bytes) = &mut self.content {
                bytes.truncate(index(len));
            }
        }
        self.len = len;
        self.durable_len = len;
        self.allocated = if len > cut_short {
            pages_up(len)
        } else {
            self.allocated.min(pages_up(len))
        };
        self.last_kept = None;
        Ok(())
    }

    fn zero_to_touched(&mut self, from: u64) -> Result<(), MapError> {
        match &mut self.content {
            Content::Buffer(bytes) => bytes[index(from)..].fill(0),
            Content::Mapped(memory) => memory.zero(from, index(self.touched - from))?,
        }
        Ok(())
    }

    fn len_after_cut(&self, seed: &mut Seed) -> u64 {
        let (old, new) = (self.durable_len, self.len);
        match seed.below(3) {
            0 => old,
            1 => new,
            // Writeback moved the length some of the way.
            _ if old < new => (old + seed.below(new - old + 1)) / PAGE * PAGE,
            _ => old,
        }
        .clamp(old.min(new), old.max(new))
    }

    /// Makes a page what the device has of it.
    fn resolve(
        &mut self,
        page: u64,
        old: Option<Box<[u8; PAGE_BYTES]>>,
        fate: Fate,
        seed: &mut Seed,
    ) -> io::Result<()> {
        if fate == Fate::New {
            return Ok(());
        }
        let start = page * PAGE;
        let old = old.unwrap_or_else(|| Box::new([0; PAGE_BYTES]));
        let mut bytes = [0; PAGE_BYTES];
        let there = index(self.touched.saturating_sub(start).min(PAGE));
        self.content.read(start, &mut bytes[..there]);
        for (sector, old) in bytes.chunks_mut(SECTOR_BYTES).zip(old.chunks(SECTOR_BYTES)) {
            if fate == Fate::Old || seed.coin() {
                sector.copy_from_slice(old);
            }
        }
        // Trailing zeroes need no storing beyond what is stored already.
        let last = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1);
        let len = last.max(there);
        if len > 0 {
            self.content.write(start, &bytes[..len])?;
            self.touched = self.touched.max(start + len as u64);
        }
        Ok(())
    }
}

/// What became of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Old,
    New,
    Torn,
}

/// How a file's pages fared. Chosen a file at a time, or every cut of many pages would look like
/// the average one.
enum Fates {
    All(Fate),
    /// Writeback went from the front: new pages, one torn, old pages.
    Front(u64),
    Mixed,
}

impl Fates {
    fn choose(seed: &mut Seed, pages: u64) -> Self {
        match seed.below(5) {
            0 => Self::All(Fate::Old),
            1 => Self::All(Fate::New),
            2 => Self::Front(seed.below(pages.max(1))),
            _ => Self::Mixed,
        }
    }

    fn of(&self, nth: u64, seed: &mut Seed) -> Fate {
        match *self {
            Self::All(fate) => fate,
            Self::Front(torn) if nth < torn => Fate::New,
            Self::Front(torn) if nth == torn => Fate::Torn,
            Self::Front(_) => Fate::Old,
            Self::Mixed => match seed.below(3) {
                0 => Fate::Old,
                1 => Fate::New,
                _ => Fate::Torn,
            },
        }
    }
}

fn check_end(position: u64, len: usize) -> io::Result<u64> {
    // 2^46 bytes: half of what a process can address, and far beyond any capacity.
    position
        .checked_add(len as u64)
        .filter(|&end| end <= 1 << 46)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the file would be larger than 64 TiB",
            )
        })
}

fn full() -> io::Error {
    io::Error::new(
        io::ErrorKind::StorageFull,
        "no space left on the simulated disk",
    )
}

fn fixed(position: u64, end: u64) -> io::Error {
    MapError::Published {
        position,
        published: end,
    }
    .into()
}

/// Adds what was tried and on which path.
pub(super) fn at(error: &io::Error, verb: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{verb} {}: {error}", path.display()))
}
