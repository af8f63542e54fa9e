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
/// Ending of a file that is only there because unlinking comes later.
const DELETED: &str = "deleted";

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
                _ => Self::Unknown,
            };
        };
        if ending == DELETED || ending == "tmp" {
            return Self::Leftover;
        }
        let digits = stem.len() == DIGITS && stem.bytes().all(|byte| byte.is_ascii_digit());
        let Some(offset) = stem.parse().ok().filter(|_| digits).map(Offset::new) else {
            return Self::Unknown;
        };
        match ending {
            SEGMENT => Self::Segment(offset),
            INDEX => Self::Index(offset),
            PRODUCERS => Self::Producers(offset),
            _ => Self::Unknown,
        }
    }
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

    fn numbered(&self, offset: Offset, ending: &str) -> PathBuf {
        self.dir.join(format!("{:0DIGITS$}.{ending}", offset.get()))
    }

    /// Takes a segment out of the log: its file is renamed, its index and snapshot go. Gives the path
    /// that is still to be unlinked, which may take long. Not durable before the directory is synced.
    pub(crate) fn retire(&self, disk: &dyn Disk, base: Offset) -> io::Result<PathBuf> {
        let segment = self.segment(base);
        let mut retired = segment.clone().into_os_string();
        retired.push(".");
        retired.push(DELETED);
        let retired = PathBuf::from(retired);
        remove_if_there(disk, &self.index(base))?;
        remove_if_there(disk, &self.producers(base))?;
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
        assert_eq!(FileName::parse("leader-epochs.tmp"), FileName::Leftover);
        assert_eq!(
            FileName::parse("00000000000000000123.log.deleted"),
            FileName::Leftover
        );
        assert_eq!(FileName::parse("123.log"), FileName::Unknown);
        assert_eq!(FileName::parse("notes.txt"), FileName::Unknown);
    }
}
