//! Looks into the files of a data directory, one at a time, and verifies what it finds: for `logweir dump`.
//!
//! Nothing here changes a file, and no lock is needed; a segment that is being appended to ends somewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, iter};

use logweir_proto::record::BatchHeader;
use logweir_proto::{
    LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Timestamp, TopicId,
};

use crate::checked_file::{self, Damage, Fields, magic};
use crate::checkpoint::{self, LogState};
use crate::disk::{Disk, DiskFile, OpenMode, OsDisk};
use crate::epochs::Epochs;
use crate::index::{self, IndexEntry};
use crate::log::{CompactionPoint, FileName, decode_snapshot};
use crate::producers;
use crate::segment::{Scanner, Stop};

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// Record batches.
    Segment,
    /// The index of a segment.
    Index,
    /// Producer states at one offset.
    Producers,
    /// Leader epochs of a log.
    LeaderEpochs,
    /// Start offset and truncations of a log.
    LogState,
    /// Up to where a log is compacted.
    Compaction,
    /// What a log's records amount to.
    StateSnapshot,
    /// Recovery points of a data directory.
    RecoveryPoints,
    /// Identity of a data directory.
    Directory,
    /// The mark of a run.
    Running,
    /// The mark of a clean end.
    CleanShutdown,
    /// The owner of a data directory.
    Lock,
    /// Space that is given up when the disk is full.
    Reserve,
    /// Half written or deleted, and removed by the next start.
    Leftover,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Segment => "segment",
            Self::Index => "index",
            Self::Producers => "producer snapshot",
            Self::LeaderEpochs => "leader epochs",
            Self::LogState => "log state",
            Self::Compaction => "compaction",
            Self::StateSnapshot => "state snapshot",
            Self::RecoveryPoints => "recovery points",
            Self::Directory => "directory id",
            Self::Running => "running file",
            Self::CleanShutdown => "clean-shutdown file",
            Self::Lock => "lock file",
            Self::Reserve => "reserve",
            Self::Leftover => "leftover, removed by the next start",
        })
    }
}

/// Something found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// A record batch whose CRC holds.
    Batch {
        /// Where it begins.
        position: u64,
        /// Its header.
        header: BatchHeader,
    },
    /// Bytes that were reserved and not used.
    Zeroes {
        /// Where they begin.
        position: u64,
        /// How many there are.
        len: u64,
    },
    /// An index entry whose CRC holds.
    IndexEntry {
        /// The end (exclusive) of all before `position`.
        offset: Offset,
        /// Where in the segment a batch begins, or the segment ends.
        position: u32,
        /// Data records before it in the segment.
        records_before: u32,
        /// When the batch was appended; [`Timestamp::NONE`] if that is not known.
        append_time: Timestamp,
        /// The largest timestamp before it in the segment; [`Timestamp::NONE`] if there is none.
        max_timestamp_before: Timestamp,
    },
    /// What a producer wrote last.
    Producer {
        /// Its id.
        producer_id: ProducerId,
        /// Its epoch.
        epoch: ProducerEpoch,
        /// How many of its batches are remembered.
        batches: usize,
        /// Base offset of the newest of them.
        last_base_offset: Option<Offset>,
        /// When it was last seen; [`Timestamp::NONE`] if that is not known.
        last_seen: Timestamp,
        /// First offset of its open transaction.
        txn_first_offset: Option<Offset>,
    },
    /// A leader epoch.
    LeaderEpoch {
        /// The epoch.
        epoch: LeaderEpoch,
        /// Its first offset.
        start_offset: Offset,
    },
    /// Where the recovery of a log begins.
    RecoveryPoint {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: PartitionId,
        /// All below was durable.
        offset: Offset,
        /// The log had been truncated so often.
        truncations: u32,
        /// The log was closed and ends there.
        clean: bool,
    },
    /// A named value.
    Field {
        /// Its name.
        name: &'static str,
        /// Its value, as text.
        value: String,
    },
}

/// A file cannot be read, or is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// Neither name nor content tell what it is.
    #[error("{} is none of Logweir's files", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged.
    #[error("{} is corrupt at byte {position}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The device's error.
        source: std::io::Error,
    },
}

/// A file's contents, in order. Damage ends them with an error.
pub struct Contents {
    /// What kind of file it is.
    pub kind: FileKind,
    items: Box<dyn Iterator<Item = Result<Item, InspectError>>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Iterator for Contents {
    type Item = Result<Item, InspectError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.items.next()
    }
}

/// Recognises a file and gives what is in it, verified as it is read. Small files are verified at once.
///
/// What a file is shows in its first bytes, so that a copy under another name is known, too. The name counts where those
/// say nothing: for a segment without a first batch, for the files without a magic number, and to tell one of ours
/// whose magic number is damaged from a file of others.
///
/// # Errors
/// As [`InspectError`] says; damage inside a segment or index is an item instead.
pub fn describe(path: &Path) -> Result<Contents, InspectError> {
    let unreadable = |source| InspectError::Io {
        path: path.to_path_buf(),
        source,
    };
    let disk = OsDisk::new();
    let file = disk.open(path, OpenMode::Read).map_err(unreadable)?;
    let mut head = [0; 8];
    let len = file.len().map_err(unreadable)?;
    let known = usize::try_from(len).map_or(head.len(), |len| len.min(head.len()));
    file.read_at(&mut head[..known], 0).map_err(unreadable)?;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if let Some(kind) = kind_of_magic(&head) {
        let bytes = checked_file::read_whole(&disk, path).map_err(unreadable)?;
        let bytes = bytes.ok_or_else(|| unreadable(std::io::ErrorKind::NotFound.into()))?;
        return match small_items(path, kind, &bytes) {
            Err(_) if FileName::parse(name) == FileName::Leftover => Ok(leftover(len)),
            items => Ok(Contents {
                kind,
                items: Box::new(items?.into_iter()),
            }),
        };
    }
    let base = match FileName::parse(name.trim_end_matches(".deleted")) {
        FileName::Segment(base) | FileName::Compacted { base, .. } => Some(base),
        _ => first_batch(file.as_ref(), Offset::new(i64::from_be_bytes(head)), len)
            .map_err(unreadable)?,
    };
    if let Some(base) = base {
        let batches = SegmentItems {
            path: path.to_path_buf(),
            file,
            place: IndexEntry::beginning(base),
            end: len,
            done: false,
        };
        return Ok(Contents {
            kind: FileKind::Segment,
            items: Box::new(batches),
        });
    }
    by_name(path, name, file, len)
}

/// What only the name tells.
fn by_name(
    path: &Path,
    name: &str,
    file: Arc<dyn DiskFile>,
    len: u64,
) -> Result<Contents, InspectError> {
    // The second is the metadata log's, while it is written anew.
    if FileName::parse(name) == FileName::Leftover || name == "log.new" {
        return Ok(leftover(len));
    }
    match name {
        ".lock" => {
            let text = fs::read_to_string(path).map_err(|source| InspectError::Io {
                path: path.to_path_buf(),
                source,
            })?;
            let pid = match text.trim() {
                "" => "none".to_owned(),
                pid if pid.parse::<u32>().is_ok() => pid.to_owned(),
                _ => return Err(corrupt(path, Damage::new(0, "it holds no pid"))),
            };
            Ok(Contents {
                kind: FileKind::Lock,
                items: Box::new(iter::once(field("pid of the last owner", pid))),
            })
        }
        "reserve" => {
            let path = path.to_path_buf();
            let zeroes = move || all_zeroes(&path, file.as_ref(), len);
            Ok(Contents {
                kind: FileKind::Reserve,
                items: Box::new(iter::once_with(zeroes)),
            })
        }
        _ => Err(match kind_of_name(name) {
            Some(kind) => corrupt(path, Damage::new(0, format!("it does not begin as {kind}"))),
            None => InspectError::Unknown {
                path: path.to_path_buf(),
            },
        }),
    }
}

fn leftover(len: u64) -> Contents {
    Contents {
        kind: FileKind::Leftover,
        items: Box::new(iter::once(field("bytes", len))),
    }
}

fn kind_of_magic(head: &[u8]) -> Option<FileKind> {
    Some(match *head.first_chunk::<4>()? {
        magic::INDEX => FileKind::Index,
        magic::PRODUCERS => FileKind::Producers,
        magic::LEADER_EPOCHS => FileKind::LeaderEpochs,
        magic::LOG_STATE => FileKind::LogState,
        magic::COMPACTION => FileKind::Compaction,
        magic::STATE_SNAPSHOT => FileKind::StateSnapshot,
        magic::RECOVERY_POINTS => FileKind::RecoveryPoints,
        magic::DIRECTORY => FileKind::Directory,
        magic::RUNNING => FileKind::Running,
        magic::CLEAN_SHUTDOWN => FileKind::CleanShutdown,
        _ => return None,
    })
}

/// What a file of this name should be, if it is one of those with a magic number.
fn kind_of_name(name: &str) -> Option<FileKind> {
    Some(match FileName::parse(name) {
        FileName::Index(_) => FileKind::Index,
        FileName::Producers(_) => FileKind::Producers,
        FileName::Epochs => FileKind::LeaderEpochs,
        FileName::State => FileKind::LogState,
        FileName::Compaction => FileKind::Compaction,
        FileName::Snapshot => FileKind::StateSnapshot,
        _ => match name {
            "recovery-points" => FileKind::RecoveryPoints,
            "directory" => FileKind::Directory,
            "running" => FileKind::Running,
            "clean-shutdown" => FileKind::CleanShutdown,
            _ => return None,
        },
    })
}

/// The base offset of a segment whose name says nothing, if the file begins with a whole batch.
fn first_batch(file: &dyn DiskFile, base: Offset, len: u64) -> std::io::Result<Option<Offset>> {
    if base < Offset::ZERO {
        return Ok(None);
    }
    let mut scanner = Scanner::new(file, IndexEntry::beginning(base), len, true);
    Ok(scanner.peek()?.is_ok().then_some(base))
}

/// The zeroes that a whole file consists of.
fn all_zeroes(path: &Path, file: &dyn DiskFile, len: u64) -> Result<Item, InspectError> {
    let mut chunk = vec![0; 1 << 20];
    let mut position = 0;
    while position < len {
        let left = usize::try_from(len - position).unwrap_or(usize::MAX);
        let read = left.min(chunk.len());
        let bytes = &mut chunk[..read];
        file.read_at(bytes, position)
            .map_err(|source| InspectError::Io {
                path: path.to_path_buf(),
                source,
            })?;
        if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
            let position = position + at as u64;
            let reason = "a reserve holds zeroes only".to_owned();
            return Err(corrupt(path, Damage { position, reason }));
        }
        position += read as u64;
    }
    Ok(Item::Zeroes { position: 0, len })
}

/// The contents of a file with a magic number.
fn small_items(path: &Path, kind: FileKind, bytes: &[u8]) -> Result<Items, InspectError> {
    let items = match kind {
        FileKind::Index => return index_items(path, bytes),
        FileKind::Producers => producers_of(bytes),
        FileKind::LeaderEpochs => epochs_of(bytes),
        FileKind::LogState => state_of(bytes),
        FileKind::Compaction => compaction_of(bytes),
        FileKind::StateSnapshot => snapshot_of(bytes),
        FileKind::RecoveryPoints => points_of(bytes),
        FileKind::Directory => directory_of(bytes),
        FileKind::Running => running_of(bytes),
        FileKind::CleanShutdown => clean_of(bytes),
        FileKind::Segment | FileKind::Lock | FileKind::Reserve | FileKind::Leftover => {
            Err(Damage::new(0, "it has no magic number"))
        }
    };
    items.map_err(|damage| corrupt(path, damage))
}

fn corrupt(path: &Path, damage: Damage) -> InspectError {
    let Damage { position, reason } = damage;
    InspectError::Corrupt {
        path: path.to_path_buf(),
        position,
        reason,
    }
}

/// The batches of a segment, read one after the other.
struct SegmentItems {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    place: IndexEntry,
    end: u64,
    done: bool,
}

impl SegmentItems {
    fn step(&mut self) -> Result<Option<Item>, InspectError> {
        let position = u64::from(self.place.position);
        let unreadable = |source| InspectError::Io {
            path: self.path.clone(),
            source,
        };
        let mut scanner = Scanner::new(self.file.as_ref(), self.place, self.end, true);
        let reason = match scanner.peek().map_err(unreadable)? {
            Ok(header) if header.base_offset < self.place.offset => {
                format!(
                    "offset {} where {} was expected",
                    header.base_offset, self.place.offset
                )
            }
            Ok(header) => {
                scanner.pass(&header);
                self.place = scanner.place();
                return Ok(Some(Item::Batch { position, header }));
            }
            Err(Stop::End) => return Ok(None),
            Err(Stop::Zeroes) if scanner.rest_is_zero().map_err(unreadable)? => {
                self.done = true;
                return Ok(Some(Item::Zeroes {
                    position,
                    len: self.end - position,
                }));
            }
            Err(stop) => stop.to_string(),
        };
        Err(corrupt(&self.path, Damage { position, reason }))
    }
}

impl Iterator for SegmentItems {
    type Item = Result<Item, InspectError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.step().transpose();
        self.done |= !matches!(item, Some(Ok(_)));
        item
    }
}

type Items = Vec<Result<Item, InspectError>>;

fn index_items(path: &Path, bytes: &[u8]) -> Result<Items, InspectError> {
    let (header, entries) = bytes.split_at(bytes.len().min(index::HEADER_LEN));
    let base = index::decode_header(header).map_err(|damage| corrupt(path, damage))?;
    let mut items = vec![field("base offset", base)];
    for (at, chunk) in entries.chunks(index::ENTRY_LEN).enumerate() {
        let position = index::HEADER_LEN + at * index::ENTRY_LEN;
        match index::decode_entry(chunk, base) {
            Ok(entry) => items.push(Ok(index_item(&entry))),
            Err(damage) => {
                items.push(Err(corrupt(path, Damage::new(position, damage.reason))));
                break;
            }
        }
    }
    Ok(items)
}

fn index_item(entry: &IndexEntry) -> Item {
    Item::IndexEntry {
        offset: entry.offset,
        position: entry.position,
        records_before: entry.records,
        append_time: entry.append_time,
        max_timestamp_before: entry.max_timestamp,
    }
}

fn producers_of(bytes: &[u8]) -> Result<Items, Damage> {
    let (offset, producers) = producers::decode(bytes)?;
    let mut items = vec![field("offset", offset)];
    for (producer_id, state) in producers.sorted() {
        items.push(Ok(Item::Producer {
            producer_id,
            epoch: state.epoch,
            batches: state.batches.len(),
            last_base_offset: state.batches.back().map(|batch| batch.base_offset),
            last_seen: state.last_seen,
            txn_first_offset: state.txn_first_offset,
        }));
    }
    Ok(items)
}

fn epochs_of(bytes: &[u8]) -> Result<Items, Damage> {
    let epochs = Epochs::decode(bytes)?;
    let entries = epochs.entries().iter();
    let items = entries.map(|&(epoch, start_offset)| {
        Ok(Item::LeaderEpoch {
            epoch,
            start_offset,
        })
    });
    Ok(items.collect())
}

fn state_of(bytes: &[u8]) -> Result<Items, Damage> {
    let state = LogState::decode(bytes)?;
    Ok(vec![
        field("log start offset", state.log_start),
        field("truncations", state.truncations),
        field("last cut", state.last_cut),
        field("restarting", state.restarting),
        field("has gaps", state.has_gaps),
    ])
}

fn compaction_of(bytes: &[u8]) -> Result<Items, Damage> {
    let point = CompactionPoint::decode(bytes)?;
    Ok(vec![
        field("truncations", point.truncations),
        field("compacted end", point.end),
        field("newest delete horizon", point.newest_horizon),
    ])
}

fn snapshot_of(bytes: &[u8]) -> Result<Items, Damage> {
    let decoded = decode_snapshot(bytes)?;
    Ok(vec![
        field("topic id", decoded.topic_id),
        field("partition", decoded.partition),
        field("end", decoded.snapshot.end),
        field("leader epoch", decoded.snapshot.leader_epoch),
        field("taken at", decoded.snapshot.taken_at),
        field("state bytes", decoded.snapshot.state.len()),
    ])
}

fn points_of(bytes: &[u8]) -> Result<Items, Damage> {
    let points = checkpoint::decode_points(bytes)?.into_iter();
    let items = points.map(|(key, point)| {
        Ok(Item::RecoveryPoint {
            topic_id: key.topic_id,
            partition: key.partition,
            offset: point.offset,
            truncations: point.truncations,
            clean: point.clean,
        })
    });
    Ok(items.collect())
}

fn directory_of(bytes: &[u8]) -> Result<Items, Damage> {
    let (_, body) = checked_file::unframe(magic::DIRECTORY, 1, bytes)?;
    Ok(vec![directory_id(&mut Fields::new(body))?])
}

fn running_of(bytes: &[u8]) -> Result<Items, Damage> {
    let (_, body) = checked_file::unframe(magic::RUNNING, 1, bytes)?;
    let mut fields = Fields::new(body);
    let id = directory_id(&mut fields)?;
    let boot_id = fields.take(body.len() - 16)?;
    Ok(vec![id, field("boot id", String::from_utf8_lossy(boot_id))])
}

fn clean_of(bytes: &[u8]) -> Result<Items, Damage> {
    let (_, body) = checked_file::unframe(magic::CLEAN_SHUTDOWN, 1, bytes)?;
    let mut fields = Fields::new(body);
    let id = directory_id(&mut fields)?;
    let crc = fields.u32()?;
    Ok(vec![
        id,
        field("CRC of recovery-points", format!("{crc:08x}")),
    ])
}

fn directory_id(fields: &mut Fields<'_>) -> Result<Result<Item, InspectError>, Damage> {
    Ok(field("directory id", TopicId::new(fields.array()?)))
}

#[expect(clippy::unnecessary_wraps, reason = "an item of a list of results")]
fn field(name: &'static str, value: impl fmt::Display) -> Result<Item, InspectError> {
    Ok(Item::Field {
        name,
        value: value.to_string(),
    })
}
