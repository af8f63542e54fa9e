//! The memory map, and the only unsafe code of the workspace.
//!
//! Owns the mappings of segments. What must always hold, so that the safe functions here stay
//! sound:
//!
//! 1. One process owns a data directory ([`Disk::lock_dir`](crate::disk::Disk::lock_dir)), and one
//!    [`SegmentWriter`] a file. Two maps of one real file that both write cannot be told apart
//!    here; in simulated memory they are refused byte by byte.
//! 2. Nothing is stored where the file has no reserved blocks: [`SegmentWriter::set_allocated`] is
//!    called after `DiskFile::allocate`, and a write past it is an error before the copy.
//! 3. Only the writer stores, at or above the published end; then it publishes (release). Readers
//!    load the end (acquire) and form slices below it only.
//! 4. Published bytes are never rewritten, and the file never shrinks below them.
//! 5. `Bytes` given out own a share of the mapping. No bare slice leaves this file.
//!
//! What it cannot defend against: another program that shortens the file, and a device that cannot
//! read a page of it. Both are a signal when this process loads from the map (see
//! [`SegmentMap::populate_read`]).
#![allow(
    unsafe_code,
    reason = "loads and stores through a shared mapping have no safe form; see the invariants above"
)]

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw};
use parking_lot::Mutex;

mod published;
#[cfg(test)]
mod tests;

use published::Published;

/// Why the map refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    /// A write would change bytes that readers may hold.
    #[error("position {position} lies below the published end {published}")]
    Published {
        /// Where the write was to begin.
        position: u64,
        /// The published end.
        published: u64,
    },
    /// The bytes have no reserved blocks.
    #[error("bytes up to {end} were asked for, but only {allocated} are allocated")]
    NotAllocated {
        /// The exclusive end asked for.
        end: u64,
        /// The allocated length.
        allocated: u64,
    },
    /// The mapping does not reach that far.
    #[error("bytes up to {end} were asked for, but only {mapped} are mapped")]
    NotMapped {
        /// The exclusive end asked for.
        end: u64,
        /// The length of the mapping.
        mapped: u64,
    },
    /// The file was opened or mapped for reading, or its simulated memory has moved on.
    #[error("the mapping can no longer be written to")]
    ReadOnly,
    /// The disk behind a simulated mapping refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<MapError> for io::Error {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidInput, other),
        }
    }
}

/// What a simulated disk does for the stores through a mapping: it keeps the old bytes of pages
/// that were not synced since, and puts the new ones into its [`Memory`].
pub(crate) trait MapHook: fmt::Debug + Send + Sync {
    /// Writes the parts one after the other, from `position` on.
    fn write(&self, position: u64, parts: &[&[u8]]) -> Result<(), MapError>;

    /// Writes zeroes.
    fn zero(&self, from: u64, to: u64) -> Result<(), MapError>;
}

/// Address space over a file, made by [`DiskFile::map`](crate::disk::DiskFile::map) and unmapped
/// when dropped.
pub struct Mapping {
    backing: Backing,
    len: usize,
    writable: bool,
}

enum Backing {
    File(MmapRaw),
    Memory(SharedMemory, Arc<dyn MapHook>),
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Mapping {
    /// Maps `len` bytes of a real file, shared; the file may be shorter.
    pub(crate) fn of_file(file: &File, len: usize, writable: bool) -> io::Result<Self> {
        if len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a mapping has at least 1 byte",
            ));
        }
        let mut options = MmapOptions::new();
        options.len(len);
        let raw = if writable {
            options.map_raw(file)?
        } else {
            options.map_raw_read_only(file)?
        };
        Ok(Self {
            backing: Backing::File(raw),
            len,
            writable,
        })
    }

    /// Maps the first `len` bytes of simulated memory.
    pub(crate) fn of_memory(
        memory: SharedMemory,
        len: usize,
        writable: bool,
        hook: Arc<dyn MapHook>,
    ) -> Self {
        let len = len.min(memory.0.raw.len());
        Self {
            backing: Backing::Memory(memory, hook),
            len,
            writable,
        }
    }

    /// Its length in bytes; the file may be shorter.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    fn raw(&self) -> &MmapRaw {
        match &self.backing {
            Backing::File(raw) => raw,
            Backing::Memory(memory, _) => &memory.0.raw,
        }
    }

    /// `[from, to)` as an index and a length, if it lies within the mapping.
    fn range(&self, from: u64, to: u64) -> Result<(usize, usize), MapError> {
        let mapped = self.len as u64;
        match (usize::try_from(from), usize::try_from(to)) {
            (Ok(start), Ok(end)) if start <= end && end <= self.len => Ok((start, end - start)),
            _ => Err(MapError::NotMapped {
                end: to.max(from),
                mapped,
            }),
        }
    }

    fn advise(&self, advice: Advice, from: u64, to: u64) -> io::Result<()> {
        let (start, len) = self.range(from, to)?;
        if len == 0 {
            return Ok(());
        }
        match self.raw().advise_range(advice, start, len) {
            // Kernels before 5.14 do not know the advice; it is one, so nothing is lost.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }

    /// Fixes the bytes below `end` in simulated memory; a real file relies on invariants 1 and 4.
    fn freeze(&self, end: u64) -> Result<(), MapError> {
        match &self.backing {
            Backing::File(_) => Ok(()),
            Backing::Memory(memory, _) => memory.freeze(end),
        }
    }
}

/// One segment's mapping as readers have it: everything below the published end, never anything
/// above.
pub(crate) struct SegmentMap {
    mapping: Mapping,
    published: Published,
}

impl fmt::Debug for SegmentMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentMap")
            .field("mapped", &self.mapping.len)
            .field("published", &self.published.get())
            .finish()
    }
}

impl SegmentMap {
    /// Splits a mapping into its writer and its readers' side. `published` bytes are valid already
    /// and `allocated` bytes of the file have reserved blocks (for a file that is only written with
    /// `DiskFile::write_at`: may be published up to).
    ///
    /// # Errors
    /// [`MapError::NotAllocated`] or [`MapError::NotMapped`] unless `published <= allocated <=
    /// mapping.len()`; [`MapError::ReadOnly`] if the file was opened for reading.
    pub(crate) fn new(
        mapping: Mapping,
        published: u64,
        allocated: u64,
    ) -> Result<(SegmentWriter, Arc<Self>), MapError> {
        if !mapping.writable {
            return Err(MapError::ReadOnly);
        }
        mapping.range(0, allocated)?;
        if published > allocated {
            return Err(MapError::NotAllocated {
                end: published,
                allocated,
            });
        }
        let map = Self::sealed(mapping, published)?;
        Ok((
            SegmentWriter {
                map: Arc::clone(&map),
                allocated,
            },
            map,
        ))
    }

    /// Wraps the mapping of a file that gets no more bytes. The file must be at least `end` bytes
    /// long.
    ///
    /// # Errors
    /// [`MapError::NotMapped`] if the mapping is shorter.
    pub(crate) fn sealed(mapping: Mapping, end: u64) -> Result<Arc<Self>, MapError> {
        mapping.range(0, end)?;
        mapping.freeze(end)?;
        Ok(Arc::new(Self {
            mapping,
            published: Published::new(end),
        }))
    }

    /// The exclusive end of the bytes that may be read.
    pub(crate) fn published(&self) -> u64 {
        self.published.get()
    }

    /// The bytes in `[from, to)` without a copy, or `None` if they are not all published. They keep
    /// the mapping alive.
    pub(crate) fn slice(self: &Arc<Self>, from: u64, to: u64) -> Option<Bytes> {
        let (start, len) = self.readable(from, to)?;
        Some(Bytes::from_owner(Slice {
            map: Arc::clone(self),
            start,
            len,
        }))
    }

    /// Reads `[from, to)` from the device, so that a device error is an `Err` here and not a signal
    /// later. May wait for the device. Does nothing on kernels before 5.14.
    ///
    /// # Errors
    /// The device's, or [`io::ErrorKind::InvalidInput`] outside the mapping.
    pub(crate) fn populate_read(&self, from: u64, to: u64) -> io::Result<()> {
        self.mapping.advise(Advice::PopulateRead, from, to)
    }

    /// Makes the pages of `[from, to)` present and writable, so that the appends to come do not
    /// fault. Only for allocated bytes; beyond the file's end it is an error, not a signal. May
    /// wait for the device; needs no lock. Does nothing on kernels before 5.14.
    ///
    /// # Errors
    /// The device's, or [`io::ErrorKind::InvalidInput`] outside the mapping.
    pub(crate) fn prefault(&self, from: u64, to: u64) -> io::Result<()> {
        self.mapping.advise(Advice::PopulateWrite, from, to)
    }

    fn readable(&self, from: u64, to: u64) -> Option<(usize, usize)> {
        if to > self.published.get() {
            return None;
        }
        self.mapping.range(from, to).ok()
    }

    /// The caller has checked `start + len` against the published end.
    fn bytes(&self, start: usize, len: usize) -> &[u8] {
        debug_assert!((start + len) as u64 <= self.published.get());
        // SAFETY: `range` found `start` within the mapping, which lives as long as `self`.
        let pointer = unsafe { self.mapping.raw().as_ptr().add(start) };
        // SAFETY: the bytes lie within the mapping and below a published end that was loaded with
        // acquire, so they were written before and are never written again (invariants 3 and 4).
        unsafe { std::slice::from_raw_parts(pointer, len) }
    }
}

/// What a `Bytes` from a segment owns.
struct Slice {
    map: Arc<SegmentMap>,
    start: usize,
    len: usize,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.map.bytes(self.start, self.len)
    }
}

/// What the processor moves at once.
const CACHE_LINE_BYTES: usize = 64;

/// The one writer of a segment's mapping.
pub(crate) struct SegmentWriter {
    map: Arc<SegmentMap>,
    /// `published <= allocated <= mapping.len()`.
    allocated: u64,
}

impl fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("map", &self.map)
            .field("allocated", &self.allocated)
            .finish()
    }
}

impl SegmentWriter {
    /// The readers' side.
    pub(crate) fn map(&self) -> &Arc<SegmentMap> {
        &self.map
    }

    /// The exclusive end of the bytes that may be written.
    pub(crate) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// The exclusive end of the bytes that readers see; nothing below it may be written.
    pub(crate) fn published(&self) -> u64 {
        self.map.published.own()
    }

    /// Says that the first `len` bytes of the file now have reserved blocks (`DiskFile::allocate`
    /// succeeded).
    ///
    /// # Errors
    /// [`MapError::NotMapped`] beyond the mapping, [`MapError::NotAllocated`] below the published
    /// end.
    pub(crate) fn set_allocated(&mut self, len: u64) -> Result<(), MapError> {
        self.map.mapping.range(0, len)?;
        let published = self.published();
        if len < published {
            return Err(MapError::NotAllocated {
                end: published,
                allocated: len,
            });
        }
        self.allocated = len;
        Ok(())
    }

    /// As [`SegmentWriter::write_vectored`], in one part.
    #[cfg(test)]
    pub(crate) fn write(&mut self, position: u64, bytes: &[u8]) -> Result<(), MapError> {
        self.write_vectored(position, &[bytes])
    }

    /// Copies bytes in, in several parts one after the other (a patched header and the rest), unseen
    /// by readers until [`SegmentWriter::publish`].
    ///
    /// # Errors
    /// [`MapError::Published`] or [`MapError::NotAllocated`] outside `[published, allocated)`;
    /// nothing is then written. A simulated disk may also fail.
    pub(crate) fn write_vectored(
        &mut self,
        position: u64,
        parts: &[&[u8]],
    ) -> Result<(), MapError> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let (start, _) = self.writable(position, position.saturating_add(len))?;
        match &self.map.mapping.backing {
            Backing::File(raw) => {
                let mut at = start;
                for part in parts {
                    // SAFETY: `writable` found `start + len` within the mapping, and `at` stays
                    // within that.
                    let to = unsafe { raw.as_mut_ptr().add(at) };
                    // SAFETY: the bytes are mapped and their blocks reserved (invariant 2); `&mut
                    // self` is the only writer and no slice reaches above the published end
                    // (invariant 3), so neither a reader nor `part` overlaps them.
                    unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len()) };
                    at += part.len();
                }
                Ok(())
            }
            Backing::Memory(_, hook) => hook.write(position, parts),
        }
    }

    /// Has the processor fetch the lines of the `len` bytes from `position` on, to be written soon: who writes there then
    /// finds them, and their page's address, at hand. Pages that are not present are left alone.
    pub(crate) fn prefetch(&self, position: u64, len: usize) {
        let end = position.saturating_add(len as u64).min(self.allocated);
        let Ok((start, len)) = self.map.mapping.range(position, end.max(position)) else {
            return;
        };
        if let Backing::File(raw) = &self.map.mapping.backing {
            for at in (start..start + len).step_by(CACHE_LINE_BYTES) {
                prefetch_line(raw.as_ptr().wrapping_add(at));
            }
        }
    }

    /// Zeroes `[from, to)`: what a failed append or an older run left behind.
    ///
    /// # Errors
    /// As [`SegmentWriter::write`].
    pub(crate) fn zero(&mut self, from: u64, to: u64) -> Result<(), MapError> {
        let (start, len) = self.writable(from, to)?;
        match &self.map.mapping.backing {
            Backing::File(raw) => {
                // SAFETY: `writable` found `[start, start + len)` within the mapping.
                let pointer = unsafe { raw.as_mut_ptr().add(start) };
                // SAFETY: mapped, reserved, unpublished and ours alone, as in `write_vectored`.
                unsafe { std::ptr::write_bytes(pointer, 0, len) };
                Ok(())
            }
            Backing::Memory(_, hook) => hook.zero(from, to),
        }
    }

    /// Shows readers everything below `end`, written here or with `DiskFile::write_at` into the
    /// same file. Publishing the present end again is no change.
    ///
    /// # Errors
    /// [`MapError::Published`] if `end` would move back, [`MapError::NotAllocated`] past the
    /// allocated bytes, [`MapError::ReadOnly`] if a simulated disk lost its power.
    pub(crate) fn publish(&mut self, end: u64) -> Result<(), MapError> {
        let published = self.published();
        if end < published {
            return Err(MapError::Published {
                position: end,
                published,
            });
        }
        if end > self.allocated {
            return Err(MapError::NotAllocated {
                end,
                allocated: self.allocated,
            });
        }
        self.map.mapping.freeze(end)?;
        self.map.published.publish(end);
        Ok(())
    }

    fn writable(&self, from: u64, to: u64) -> Result<(usize, usize), MapError> {
        let published = self.published();
        if from < published {
            return Err(MapError::Published {
                position: from,
                published,
            });
        }
        if to > self.allocated {
            return Err(MapError::NotAllocated {
                end: to,
                allocated: self.allocated,
            });
        }
        self.map.mapping.range(from, to)
    }
}

/// Hints that a line will be written. Where there is no such hint, nothing happens.
#[cfg(target_arch = "x86_64")]
fn prefetch_line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint: it loads nothing into a register and faults on no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch_line(_at: *const u8) {}

/// The bytes of one simulated file: anonymous memory, touched lazily, zero until written.
///
/// Every store happens under the lock of `Core::fixed` and above its end, so that slices of mapped,
/// published bytes are never written to, whatever the caller does.
pub(crate) struct Memory(Arc<Core>);

struct Core {
    raw: MmapRaw,
    fixed: Mutex<Fixed>,
}

/// What may not change as long as it is shared.
#[derive(Default)]
struct Fixed {
    /// Below it nothing is written while `shares > 0`.
    end: u64,
    /// Live [`SharedMemory`] values.
    shares: usize,
    /// The file has other memory now; this one only serves the readers it has.
    retired: bool,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("capacity", &self.capacity())
            .finish()
    }
}

impl Memory {
    /// Reserves address space for `capacity` bytes; no memory yet.
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        let raw = MmapRaw::from(
            MmapOptions::new()
                .len(capacity.max(1))
                .no_reserve_swap()
                .map_anon()?,
        );
        // A huge page under each of 10,000 almost empty files would be 20 GB. Kernels without them
        // refuse.
        let _ = raw.advise(Advice::NoHugePage);
        Ok(Self(Arc::new(Core {
            raw,
            fixed: Mutex::default(),
        })))
    }

    pub(crate) fn capacity(&self) -> usize {
        self.0.raw.len()
    }

    /// Whether a mapping, or bytes read from one, are alive.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.fixed.lock().shares > 0
    }

    /// The end of the bytes that may not change now.
    pub(crate) fn fixed_end(&self) -> u64 {
        self.0.fixed.lock().end
    }

    pub(crate) fn share(&self) -> SharedMemory {
        self.0.fixed.lock().shares += 1;
        SharedMemory(Arc::clone(&self.0))
    }

    /// Ends writing and publishing through the mappings there are; their readers keep what they
    /// see.
    pub(crate) fn retire(self) {
        self.0.fixed.lock().retired = true;
    }

    pub(crate) fn write(&self, position: u64, bytes: &[u8]) -> Result<(), MapError> {
        let fixed = self.0.fixed.lock();
        let start = self.writable(&fixed, position, bytes.len())?;
        // SAFETY: `writable` found `start + bytes.len()` within the memory.
        let to = unsafe { self.0.raw.as_mut_ptr().add(start) };
        // SAFETY: within the memory; every other store and load of unfixed bytes needs the lock
        // that is held, and slices reach only to `fixed.end`, below `start`. `bytes` is somebody's
        // slice, so it is not here.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        drop(fixed);
        Ok(())
    }

    pub(crate) fn zero(&self, from: u64, len: usize) -> Result<(), MapError> {
        let fixed = self.0.fixed.lock();
        let start = self.writable(&fixed, from, len)?;
        // SAFETY: `writable` found `start + len` within the memory.
        let to = unsafe { self.0.raw.as_mut_ptr().add(start) };
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(to, 0, len) };
        drop(fixed);
        Ok(())
    }

    pub(crate) fn read(&self, position: u64, buffer: &mut [u8]) -> Result<(), MapError> {
        let fixed = self.0.fixed.lock();
        let start = self.within(position, buffer.len())?;
        // SAFETY: `within` found `start + buffer.len()` within the memory.
        let from = unsafe { self.0.raw.as_ptr().add(start) };
        // SAFETY: within the memory; nobody stores while the lock is held; `buffer` is exclusively
        // the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
        drop(fixed);
        Ok(())
    }

    fn writable(&self, fixed: &Fixed, position: u64, len: usize) -> Result<usize, MapError> {
        if position < fixed.end && len > 0 {
            return Err(MapError::Published {
                position,
                published: fixed.end,
            });
        }
        self.within(position, len)
    }

    fn within(&self, position: u64, len: usize) -> Result<usize, MapError> {
        let mapped = self.capacity();
        match usize::try_from(position) {
            Ok(start) if start <= mapped && len <= mapped - start => Ok(start),
            _ => Err(MapError::NotMapped {
                end: position.saturating_add(len as u64),
                mapped: mapped as u64,
            }),
        }
    }
}

/// A mapping's share of a simulated file's memory.
pub(crate) struct SharedMemory(Arc<Core>);

impl SharedMemory {
    fn freeze(&self, end: u64) -> Result<(), MapError> {
        let mut fixed = self.0.fixed.lock();
        if fixed.retired {
            return Err(MapError::ReadOnly);
        }
        fixed.end = fixed.end.max(end);
        Ok(())
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let mut fixed = self.0.fixed.lock();
        fixed.shares -= 1;
        if fixed.shares == 0 {
            fixed.end = 0;
        }
    }
}
