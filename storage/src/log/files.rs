//! Names of the files in a log's directory, and which of them are what.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use logweir_proto::Offset;

use crate::disk::Disk;

/// Digits of an offset in a file's name, so that names sort as offsets do.
const DIGITS: usize = 20;
const SEGMENT: &str = "log";
const INDEX: &str = "index";
const PRODUCERS: &str = "producers";
const STATE: &str = "log-state";
const EPOCHS: &str = "leader-epochs";
const SNAPSHOT: &str = "state-snapshot";
/// Ending of a snapshot that could not be read.
const UNREADABLE: &str = "unreadable";
/// Ending of a file that is only there because unlinking comes later.
const DELETED: &str = "deleted";
/// Ending of a file that is being written.
const TEMPORARY: &str = "tmp";
/// Ending of a whole segment that is to take the place of others.
const COMPACTED: &str = "compacted";
const COMPACTION: &str = "compaction";

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    /// Batches from this base offset on.
    Segment(Offset),
    /// The index of the segment with this base offset.
    Index(Offset),
    /// Producer states before this offset.
    Producers(Offset),
    /// The log's state.
    State,
    /// The log's leader epochs.
    Epochs,
    /// A segment that takes the place of all from its base offset on to its end.
    Compacted {
        base: Offset,
        /// Exclusive.
        end: Offset,
        /// Counts only if the log was truncated so often.
        truncations: u32,
    },
    /// Up to where the log is compacted.
    Compaction,
    /// What the log's records amount to, or an earlier such file that could not be read.
    Snapshot,
    /// May be removed: half written, or deleted.
    Leftover,
    /// Not ours; left alone.
    Unknown,
}

impl FileName {
    pub(crate) fn parse(name: &str) -> Self {
        let Some((stem, ending)) = name.rsplit_once('.') else {
            return match name {
                STATE => Self::State,
                EPOCHS => Self::Epochs,
                COMPACTION => Self::Compaction,
                SNAPSHOT => Self::Snapshot,
                _ => Self::Unknown,
            };
        };
        if ending == DELETED || ending == TEMPORARY {
            return Self::Leftover;
        }
        if ending == COMPACTED {
            return Self::parse_compacted(stem).unwrap_or(Self::Unknown);
        }
        if (stem, ending) == (SNAPSHOT, UNREADABLE) {
            return Self::Snapshot;
        }
        let Some(offset) = offset_of(stem) else {
            return Self::Unknown;
        };
        match ending {
            SEGMENT => Self::Segment(offset),
            INDEX => Self::Index(offset),
            PRODUCERS => Self::Producers(offset),
            _ => Self::Unknown,
        }
    }

    fn parse_compacted(stem: &str) -> Option<Self> {
        let mut parts = stem.splitn(3, '-');
        Some(Self::Compacted {
            base: offset_of(parts.next()?)?,
            end: offset_of(parts.next()?)?,
            truncations: parts.next()?.parse().ok()?,
        })
    }
}

fn offset_of(digits: &str) -> Option<Offset> {
    let whole = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| whole).map(Offset::new)
}

/// The paths in one log's directory.
#[derive(Clone, Debug)]
pub(crate) struct LogFiles {
    dir: Arc<Path>,
}

impl LogFiles {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: Arc::from(dir),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn segment(&self, base: Offset) -> PathBuf {
        self.numbered(base, SEGMENT)
    }

    pub(crate) fn index(&self, base: Offset) -> PathBuf {
        self.numbered(base, INDEX)
    }

    pub(crate) fn producers(&self, offset: Offset) -> PathBuf {
        self.numbered(offset, PRODUCERS)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    pub(crate) fn epochs(&self) -> PathBuf {
        self.dir.join(EPOCHS)
    }

    pub(crate) fn compaction(&self) -> PathBuf {
        self.dir.join(COMPACTION)
    }

    /// Where the segment that compaction makes at `base` is written.
    pub(crate) fn compacting(&self, base: Offset) -> PathBuf {
        let name = format!("{:0DIGITS$}.{SEGMENT}.{TEMPORARY}", base.get());
        self.dir.join(name)
    }

    /// Where it waits for its name, which it gets when the segments from `base` to `end` are gone.
    pub(crate) fn compacted(&self, base: Offset, end: Offset, truncations: u32) -> PathBuf {
        let (base, end) = (base.get(), end.get());
        let name = format!("{base:0DIGITS$}-{end:0DIGITS$}-{truncations}.{COMPACTED}");
        self.dir.join(name)
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.dir.join(SNAPSHOT)
    }

    /// Where a snapshot goes that cannot be read.
    pub(crate) fn snapshot_aside(&self) -> PathBuf {
        self.dir.join(format!("{SNAPSHOT}.{UNREADABLE}"))
    }

    fn numbered(&self, offset: Offset, ending: &str) -> PathBuf {
        self.dir.join(format!("{:0DIGITS$}.{ending}", offset.get()))
    }

    /// Takes a segment out of the log: its file is renamed, its index and snapshot go. Gives the path
    /// that is still to be unlinked, which may take long. Not durable before the directory is synced.
    pub(crate) fn retire(&self, disk: &dyn Disk, base: Offset) -> io::Result<PathBuf> {
        remove_if_there(disk, &self.producers(base))?;
        self.retire_keeping_producers(disk, base)
    }

    /// As [`LogFiles::retire`], for a segment in whose place another comes with the same base offset.
    pub(crate) fn retire_keeping_producers(
        &self,
        disk: &dyn Disk,
        base: Offset,
    ) -> io::Result<PathBuf> {
        let segment = self.segment(base);
        let mut retired = segment.clone().into_os_string();
        retired.push(".");
        retired.push(DELETED);
        let retired = PathBuf::from(retired);
        remove_if_there(disk, &self.index(base))?;
        match disk.rename(&segment, &retired) {
            // A segment that was never appended to has no file.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(retired),
        }
    }
}

/// Removes a file that may be absent. Gives whether it was there.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let files = LogFiles::new(Path::new("/d"));
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let offset = Offset::new(123);
        assert_eq!(name(files.segment(offset)), "00000000000000000123.log");
        assert_eq!(
            FileName::parse(&name(files.segment(offset))),
            FileName::Segment(offset)
        );
        assert_eq!(
            FileName::parse(&name(files.index(offset))),
            FileName::Index(offset)
        );
        assert_eq!(
            FileName::parse(&name(files.producers(offset))),
            FileName::Producers(offset)
        );
        assert_eq!(FileName::parse("log-state"), FileName::State);
        assert_eq!(FileName::parse("leader-epochs"), FileName::Epochs);
        for path in [files.snapshot(), files.snapshot_aside()] {
            assert_eq!(FileName::parse(&name(path)), FileName::Snapshot);
        }
        assert_eq!(FileName::parse("leader-epochs.tmp"), FileName::Leftover);
        assert_eq!(
            FileName::parse("00000000000000000123.log.deleted"),
            FileName::Leftover
        );
        assert_eq!(FileName::parse("123.log"), FileName::Unknown);
        assert_eq!(
            FileName::parse(&name(files.compacting(offset))),
            FileName::Leftover
        );
        let compacted = FileName::Compacted {
            base: offset,
            end: Offset::new(456),
            truncations: 7,
        };
        assert_eq!(
            FileName::parse(&name(files.compacted(offset, Offset::new(456), 7))),
            compacted
        );
        assert_eq!(FileName::parse("1-2-3.compacted"), FileName::Unknown);
        assert_eq!(FileName::parse("compaction"), FileName::Compaction);
        assert_eq!(FileName::parse("notes.txt"), FileName::Unknown);
    }
}
