//! The file of the metadata log: frames one after another, each written once and synced before anything
//! it holds is acknowledged. `storage/FORMAT.md`, *Metadata*, describes every byte.
//!
//! What is told apart at the next start:
//! * a *torn* frame: the last write, cut off by a crash before it was acknowledged. It is dropped.
//! * *damage*: anything else that is wrong. The broker refuses to start.
//!
//! Frames start on pages of their own, so that no write touches a sector with acknowledged bytes. After each
//! sync a *mark* notes how many frames are durable; it is written without a sync of its own, so it may be
//! late by a frame after a power cut, never early. Below the mark everything must be whole. Above it, a
//! broken frame counts as torn only if it looks like it: part of it is zeros where a write never arrived.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use logweir_storage::disk::{Disk, DiskFile, OpenMode, replace_file};

use super::error::QuorumError;

/// The name of the file in the metadata directory.
pub(super) const LOG_NAME: &str = "log";

/// The unit in which the file is laid out, in bytes.
const PAGE: usize = 4096;
/// The unit in which a device writes, in bytes.
const SECTOR: usize = 512;
/// Where the frames begin: after the header and two pages for marks.
const FIRST_FRAME: usize = 3 * PAGE;
/// What the file begins with.
pub(super) const MAGIC: [u8; 8] = *b"LWMETLOG";
const VERSION: u32 = 1;
/// Bytes of the header that mean something.
const HEADER_LEN: usize = 40;
const MARK_MAGIC: u32 = 0x4C57_4D4B;
/// Bytes of a mark.
const MARK_LEN: usize = 24;
const FRAME_MAGIC: u32 = 0x4C57_4D46;
/// Bytes before a frame's body.
pub(super) const FRAME_HEADER_LEN: usize = 24;
/// What ends a frame; no byte is zero, so that a frame cut off anywhere is seen to be.
const TRAILER: [u8; 8] = *b"LWMF-END";
/// The most bytes in a frame's body.
pub(super) const MAX_BODY: usize = 64 << 20;
/// The least and most bytes by which the file grows ahead of its frames.
const GROWTH: Range<u64> = 64 << 10..1 << 20;
/// Room that is kept for votes and membership when a proposal is let in.
pub(super) const SLACK: u64 = 64 << 10;

const _: () = assert!(FIRST_FRAME.is_multiple_of(PAGE) && PAGE.is_multiple_of(SECTOR));

/// Whose metadata it is: stamped on every file, so that a copied folder is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) node_id: i32,
    pub(super) directory_id: [u8; 16],
}

/// What [`LogFile::open`] found.
pub(super) struct Opened {
    pub(super) file: LogFile,
    /// The bodies of the frames, with their positions, in order.
    pub(super) bodies: Vec<(u64, Bytes)>,
    /// Whether a torn frame was dropped.
    pub(super) torn: bool,
}

/// The open file. One owner; every call may wait for the disk.
#[derive(Debug)]
pub(super) struct LogFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: Identity,
    file: Arc<dyn DiskFile>,
    /// Where the next frame goes.
    end: u64,
    /// How many frames there are.
    frames: u64,
    /// The file's length: blocks are reserved up to here.
    allocated: u64,
    /// What failed; after a failed write or sync nothing more is written.
    poison: Option<Arc<str>>,
}

impl LogFile {
    /// Makes the file with some frames, durable when this returns.
    pub(super) fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
        bodies: &[Bytes],
    ) -> io::Result<Self> {
        let path = dir.join(LOG_NAME);
        let bytes = file_image(identity, bodies);
        replace_file(&*disk, &path, &bytes)?;
        let file = disk.open(&path, OpenMode::Write)?;
        let end = bytes.len() as u64;
        let frames = bodies.len() as u64;
        Ok(Self {
            disk,
            path,
            identity,
            file,
            end,
            frames,
            allocated: end,
            poison: None,
        })
    }

    /// Opens the file and reads it whole; `None` if there is none.
    ///
    /// # Errors
    /// [`QuorumError`] if anything in it was not written so.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
    ) -> Result<Option<Opened>, QuorumError> {
        let path = dir.join(LOG_NAME);
        let failed = |doing| {
            let path = path.clone();
            move |cause| QuorumError::Io { path, doing, cause }
        };
        let file = match disk.open(&path, OpenMode::Write) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => {
                return Err(QuorumError::Io {
                    path,
                    doing: "opened",
                    cause,
                });
            }
        };
        let bytes = read_whole(&*file).map_err(failed("read"))?;
        let bytes = Bytes::from(bytes);
        check_identity(read_header(&bytes, &path)?, identity, &path)?;
        let Contents {
            mark,
            bodies,
            end: scanned,
            torn,
            damage,
        } = read_contents(&bytes, &path)?;
        damage.map_or(Ok(()), Err)?;
        let end = scanned as u64;
        let frames = bodies.len() as u64;
        if torn {
            file.set_len(end).map_err(failed("cut"))?;
        }
        if torn || frames != mark.frames {
            // A frame above the mark may be whole in the page cache only: its broker was killed before the
            // sync, or the sync failed and the kernel took the pages for clean. From here on the frame counts,
            // so it is written once more and synced.
            let above = &bytes[usize::try_from(mark.end).unwrap_or(bytes.len())..scanned];
            file.write_at(above, mark.end).map_err(failed("written"))?;
            file.sync().map_err(failed("synced"))?;
            let mark = Mark { frames, end };
            file.write_at(&mark.encode(), mark.position())
                .map_err(failed("written"))?;
        }
        let allocated = file.len().map_err(failed("read"))?;
        let file = LogFile {
            disk,
            path,
            identity,
            file,
            end,
            frames,
            allocated,
            poison: None,
        };
        Ok(Some(Opened { file, bodies, torn }))
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reserves blocks for a frame of `body_len` bytes and [`SLACK`], so that appending it cannot meet a
    /// full disk. A failure for lack of room leaves everything as it was.
    pub(super) fn reserve(&mut self, body_len: usize) -> io::Result<()> {
        self.check()?;
        self.grow(self.end + frame_pages(body_len) as u64 + SLACK)
    }

    /// Appends a frame; it is durable when this returns.
    ///
    /// # Errors
    /// After any error nothing more can be appended: what the file holds is not known until it is opened anew.
    pub(super) fn append(&mut self, body: &[u8]) -> io::Result<()> {
        self.check()?;
        let appended = self.try_append(body);
        self.poison_if(appended)
    }

    fn try_append(&mut self, body: &[u8]) -> io::Result<()> {
        let frame = encode_frame(self.frames, body);
        let end = self.end + frame.len() as u64;
        self.grow(end)?;
        self.file.write_at(&frame, self.end)?;
        self.file.sync()?;
        self.end = end;
        self.frames += 1;
        let mark = Mark {
            frames: self.frames,
            end,
        };
        self.file.write_at(&mark.encode(), mark.position())
    }

    /// Puts a file with only these frames in its place; for lack of room, `false` and the file stays as it was.
    ///
    /// # Errors
    /// As [`LogFile::append`].
    pub(super) fn rewrite(&mut self, bodies: &[Bytes]) -> io::Result<bool> {
        self.check()?;
        let bytes = file_image(self.identity, bodies);
        let temporary = self.path.with_extension("new");
        match write_new(&*self.disk, &temporary, &bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // If it cannot be removed either, the next rewrite does it.
                let _ = self.disk.remove_file(&temporary);
                return Ok(false);
            }
            Err(error) => return self.poison_if(Err(error)).map(|()| false),
        }
        let renamed = self.replace_with(&temporary, bytes.len() as u64, bodies.len() as u64);
        self.poison_if(renamed).map(|()| true)
    }

    fn replace_with(&mut self, temporary: &Path, end: u64, frames: u64) -> io::Result<()> {
        self.disk.rename(temporary, &self.path)?;
        self.disk
            .sync_dir(self.path.parent().unwrap_or(Path::new("")))?;
        self.file = self.disk.open(&self.path, OpenMode::Write)?;
        (self.end, self.allocated, self.frames) = (end, end, frames);
        Ok(())
    }

    fn grow(&mut self, needed: u64) -> io::Result<()> {
        if needed > self.allocated {
            let ahead = self.end.clamp(GROWTH.start, GROWTH.end);
            let len = (needed + ahead).next_multiple_of(PAGE as u64);
            self.file.allocate(len)?;
            self.allocated = len;
        }
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match &self.poison {
            Some(reason) => Err(io::Error::other(reason.to_string())),
            None => Ok(()),
        }
    }

    fn poison_if(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        outcome.map_err(|error| {
            let reason = format!("the metadata log cannot be written: {error}");
            self.poison = Some(reason.as_str().into());
            io::Error::new(error.kind(), reason)
        })
    }
}

/// A place in the file, and what is wrong there.
type Damage = (usize, String);

/// How far the file was known to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    frames: u64,
    end: u64,
}

impl Mark {
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MARK_LEN);
        bytes.put_u32_le(MARK_MAGIC);
        bytes.put_u64_le(self.frames);
        bytes.put_u64_le(self.end);
        bytes.put_u32_le(crc32fast::hash(&bytes));
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let crc = crc32fast::hash(&bytes[..MARK_LEN - 4]);
        if bytes.get_u32_le() != MARK_MAGIC {
            return None;
        }
        let mark = Self {
            frames: bytes.get_u64_le(),
            end: bytes.get_u64_le(),
        };
        (bytes.get_u32_le() == crc).then_some(mark)
    }

    /// Two marks take turns, so that a torn one leaves the other.
    fn position(self) -> u64 {
        if self.frames.is_multiple_of(2) {
            PAGE as u64
        } else {
            2 * PAGE as u64
        }
    }
}

/// The whole content of a file with these frames.
fn file_image(identity: Identity, bodies: &[Bytes]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(
        FIRST_FRAME
            + bodies
                .iter()
                .map(|body| frame_pages(body.len()))
                .sum::<usize>(),
    );
    bytes.put_slice(&MAGIC);
    bytes.put_u32_le(VERSION);
    bytes.put_i32_le(identity.node_id);
    bytes.put_slice(&identity.directory_id);
    bytes.put_u32_le(0);
    bytes.put_u32_le(crc32fast::hash(&bytes));
    debug_assert_eq!(
        bytes.len(),
        HEADER_LEN,
        "the header is as long as FORMAT says"
    );
    bytes.resize(FIRST_FRAME, 0);
    for (sequence, body) in (0..).zip(bodies) {
        bytes.extend_from_slice(&encode_frame(sequence, body));
    }
    let mark = Mark {
        frames: bodies.len() as u64,
        end: bytes.len() as u64,
    }
    .encode();
    for page in [PAGE, 2 * PAGE] {
        bytes[page..page + MARK_LEN].copy_from_slice(&mark);
    }
    bytes
}

/// How many bytes a frame takes in the file, whole pages.
pub(super) fn frame_pages(body_len: usize) -> usize {
    (FRAME_HEADER_LEN + body_len + TRAILER.len()).next_multiple_of(PAGE)
}

fn encode_frame(sequence: u64, body: &[u8]) -> Vec<u8> {
    let pages = frame_pages(body.len());
    let body_len = u32::try_from(body.len()).expect("bodies are limited to MAX_BODY");
    let mut frame = Vec::with_capacity(pages);
    frame.put_u32_le(FRAME_MAGIC);
    frame.put_u32_le(body_len);
    frame.put_u64_le(sequence);
    frame.put_u32_le(crc32fast::hash(body));
    frame.put_u32_le(crc32fast::hash(&frame));
    frame.put_slice(body);
    frame.put_slice(&TRAILER);
    frame.resize(pages, 0);
    frame
}

/// Writes a file that nobody knows of yet, and syncs it.
fn write_new(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if disk.exists(path)? {
        disk.remove_file(path)?;
    }
    let file = disk.open(path, OpenMode::Create)?;
    file.write_at(bytes, 0)?;
    file.sync()
}

fn read_whole(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Whose the file is, by its header.
///
/// # Errors
/// [`QuorumError`] if the header was not written so.
pub(super) fn read_header(bytes: &[u8], path: &Path) -> Result<Identity, QuorumError> {
    let damaged = |position: usize, reason: &str| QuorumError::Damaged {
        path: path.to_owned(),
        position: position as u64,
        reason: reason.to_owned(),
    };
    if bytes.len() < FIRST_FRAME {
        return Err(damaged(bytes.len(), "the file ends within its header"));
    }
    let mut header = &bytes[..HEADER_LEN];
    let crc = crc32fast::hash(&header[..HEADER_LEN - 4]);
    if (&bytes[HEADER_LEN - 4..]).get_u32_le() != crc {
        return Err(damaged(0, "the header's checksum is wrong"));
    }
    if header[..MAGIC.len()] != MAGIC {
        return Err(damaged(0, "it is not a metadata log"));
    }
    header.advance(MAGIC.len());
    let version = header.get_u32_le();
    if version != VERSION {
        let reason = format!("format {version}, this version knows {VERSION}");
        return Err(QuorumError::Newer {
            path: path.to_owned(),
            reason,
        });
    }
    let node_id = header.get_i32_le();
    let directory_id = header[..16]
        .try_into()
        .expect("sixteen bytes are sixteen bytes");
    Ok(Identity {
        node_id,
        directory_id,
    })
}

/// What the frames of a file say, as far as they are sound.
pub(super) struct Contents {
    mark: Mark,
    /// The bodies of the frames, with their positions, in order.
    pub(super) bodies: Vec<(u64, Bytes)>,
    /// Where the last sound frame ends.
    end: usize,
    /// Whether a torn frame follows.
    pub(super) torn: bool,
    /// What is wrong behind them.
    pub(super) damage: Option<QuorumError>,
}

/// Reads the frames of a file whose header was read.
///
/// # Errors
/// [`QuorumError`] if nothing says how far the file is durable.
pub(super) fn read_contents(bytes: &Bytes, path: &Path) -> Result<Contents, QuorumError> {
    let damaged = |(position, reason): Damage| QuorumError::Damaged {
        path: path.to_owned(),
        position: position as u64,
        reason,
    };
    let mark = read_marks(bytes).map_err(damaged)?;
    let scan = scan(bytes, mark);
    let bodies = scan
        .bodies
        .iter()
        .map(|range| (range.start as u64, bytes.slice(range.clone())));
    Ok(Contents {
        mark,
        bodies: bodies.collect(),
        end: scan.end,
        torn: scan.torn,
        damage: scan.damage.map(damaged),
    })
}

/// Whether a file's identity is this node's.
pub(super) fn check_identity(
    found: Identity,
    expected: Identity,
    path: &Path,
) -> Result<(), QuorumError> {
    if found.node_id != expected.node_id {
        return Err(QuorumError::Foreign {
            path: path.to_owned(),
            found: format!("node {}", found.node_id),
            expected: format!("node {}", expected.node_id),
            advice: "start the broker with the node id of its data directory",
        });
    }
    if found.directory_id != expected.directory_id {
        return Err(QuorumError::Foreign {
            path: path.to_owned(),
            found: format!("data directory {}", super::hex(&found.directory_id)),
            expected: format!("data directory {}", super::hex(&expected.directory_id)),
            advice: "it was copied from another data directory; put the right metadata folder back",
        });
    }
    Ok(())
}

fn read_marks(bytes: &[u8]) -> Result<Mark, Damage> {
    let marks = [PAGE, 2 * PAGE].map(|page| Mark::decode(&bytes[page..page + MARK_LEN]));
    marks
        .into_iter()
        .flatten()
        .max_by_key(|mark| mark.frames)
        .ok_or_else(|| (PAGE, "neither of the two marks is whole".to_owned()))
}

struct Scan {
    bodies: Vec<Range<usize>>,
    end: usize,
    torn: bool,
    damage: Option<Damage>,
}

fn scan(bytes: &[u8], mark: Mark) -> Scan {
    let mut scan = Scan {
        bodies: Vec::new(),
        end: FIRST_FRAME,
        torn: false,
        damage: None,
    };
    if let Err(damage) = scan.run(bytes, mark) {
        scan.damage = Some(damage);
    }
    scan
}

impl Scan {
    /// Reads frames until the file ends, or something is wrong.
    fn run(&mut self, bytes: &[u8], mark: Mark) -> Result<(), Damage> {
        let mut sequence = 0;
        loop {
            if sequence == mark.frames && self.end as u64 != mark.end {
                let reason = format!("frame {sequence} was marked to begin at byte {}", mark.end);
                return Err((self.end, reason));
            }
            let rest = bytes.get(self.end..).unwrap_or_default();
            match read_frame(rest, sequence) {
                Ok(body_len) => {
                    let body = self.end + FRAME_HEADER_LEN;
                    self.bodies.push(body..body + body_len);
                    self.end += frame_pages(body_len);
                    sequence += 1;
                }
                Err(broken) if sequence < mark.frames => {
                    let reason = format!(
                        "frame {sequence} of {} that were acknowledged: {}",
                        mark.frames, broken.reason
                    );
                    return Err((self.end, reason));
                }
                Err(_) if rest.iter().all(|byte| *byte == 0) => return Ok(()),
                Err(broken) if looks_torn(rest, sequence, broken.frame_len) => {
                    self.torn = true;
                    return Ok(());
                }
                Err(broken) => {
                    return Err((self.end, format!("frame {sequence}: {}", broken.reason)));
                }
            }
        }
    }
}

struct Broken {
    reason: &'static str,
    /// The frame's length as its header says, if the header is whole.
    frame_len: Option<usize>,
}

/// The length of the body of the frame at the start of `rest`.
fn read_frame(rest: &[u8], sequence: u64) -> Result<usize, Broken> {
    let broken = |reason, frame_len| Err(Broken { reason, frame_len });
    let Some(header) = FrameHeader::read(rest) else {
        return broken("its header is missing or its checksum is wrong", None);
    };
    if header.sequence != sequence {
        return broken("it stands in the wrong place", None);
    }
    let frame_len = FRAME_HEADER_LEN + header.body_len + TRAILER.len();
    let Some(frame) = rest.get(..frame_len) else {
        return broken("the file ends within it", Some(frame_len));
    };
    let (body, trailer) = frame[FRAME_HEADER_LEN..].split_at(header.body_len);
    if trailer != TRAILER || crc32fast::hash(body) != header.body_crc {
        return broken("its checksum is wrong", Some(frame_len));
    }
    Ok(header.body_len)
}

struct FrameHeader {
    body_len: usize,
    sequence: u64,
    body_crc: u32,
}

impl FrameHeader {
    fn read(rest: &[u8]) -> Option<Self> {
        let mut header = rest.get(..FRAME_HEADER_LEN)?;
        let crc = crc32fast::hash(&header[..FRAME_HEADER_LEN - 4]);
        let magic = header.get_u32_le();
        let body_len = usize::try_from(header.get_u32_le()).ok()?;
        let read = Self {
            body_len,
            sequence: header.get_u64_le(),
            body_crc: header.get_u32_le(),
        };
        (magic == FRAME_MAGIC && header.get_u32_le() == crc && body_len <= MAX_BODY).then_some(read)
    }
}

/// Whether a broken frame at the start of `rest` can be a write that was cut off: some of it never
/// arrived and is still zeros, and nothing was written after it.
fn looks_torn(rest: &[u8], sequence: u64, frame_len: Option<usize>) -> bool {
    let written = rest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let zero = |range: Range<usize>| rest[range].iter().all(|byte| *byte == 0);
    match frame_len {
        Some(frame_len) => {
            let cut_short = written < frame_len;
            let sector_missing = (0..frame_len.min(rest.len()))
                .step_by(SECTOR)
                .any(|sector| zero(sector..(sector + SECTOR).min(frame_len).min(rest.len())));
            written <= frame_len.next_multiple_of(PAGE) && (cut_short || sector_missing)
        }
        None => {
            let header_cut = written < FRAME_HEADER_LEN;
            let first_sector_missing = zero(0..SECTOR.min(rest.len()));
            let followed = (PAGE..rest.len()).step_by(PAGE).any(|page| {
                FrameHeader::read(&rest[page..]).is_some_and(|later| later.sequence > sequence)
            });
            (header_cut || first_sector_missing) && !followed
        }
    }
}
