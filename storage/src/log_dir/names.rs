//! Where things lie in a data directory, and how a log's directory is named.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use logweir_proto::{PartitionId, TopicId};

use crate::checkpoint::LogKey;

/// Ending of a directory that is nobody's: kept, never read.
pub(crate) const STRAY: &str = "stray";
/// Ending of a directory that is being deleted.
pub(crate) const DELETED: &str = "deleted";

/// Names a log: the partition of a topic, whose id tells it from an earlier topic of that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The topic's name, as Kafka allows it: at most 249 of `[a-zA-Z0-9._-]`, not `.` or `..`.
    pub topic: Arc<str>,
    /// The topic's identity.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

impl LogId {
    pub(crate) fn key(&self) -> LogKey {
        LogKey {
            topic_id: self.topic_id,
            partition: self.partition,
        }
    }

    /// The name of the log's directory within its topic's.
    pub(crate) fn dir_name(&self) -> String {
        format!("{}-{}", self.partition, self.topic_id)
    }

    /// Reads the names of a topic's and a log's directory.
    pub(crate) fn parse(topic: &str, dir_name: &str) -> Option<Self> {
        let (partition, id) = dir_name.split_once('-')?;
        let id = Self {
            topic: Arc::from(topic),
            topic_id: parse_topic_id(id)?,
            partition: PartitionId::new(partition.parse().ok().filter(|&number| number >= 0)?),
        };
        // Only the one way of writing it counts.
        (id.dir_name() == dir_name).then_some(id)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} ({})", self.topic, self.partition, self.topic_id)
    }
}

fn parse_topic_id(text: &str) -> Option<TopicId> {
    let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'-').collect();
    let mut raw = [0; 16];
    if digits.len() != 2 * raw.len() {
        return None;
    }
    for (byte, pair) in raw.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(TopicId::new(raw))
}

/// The paths in a data directory.
#[derive(Clone, Debug)]
pub(crate) struct DirPaths {
    root: PathBuf,
}

impl DirPaths {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join("directory")
    }

    pub(crate) fn running(&self) -> PathBuf {
        self.root.join("running")
    }

    pub(crate) fn clean_shutdown(&self) -> PathBuf {
        self.root.join("clean-shutdown")
    }

    pub(crate) fn recovery_points(&self) -> PathBuf {
        self.root.join("recovery-points")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(crate) fn metadata(&self) -> PathBuf {
        self.root.join("metadata")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn topic(&self, topic: &str) -> PathBuf {
        self.logs().join(topic)
    }

    pub(crate) fn log(&self, id: &LogId) -> PathBuf {
        self.topic(&id.topic).join(id.dir_name())
    }

    /// The log's directory with an ending that takes it out of the logs.
    pub(crate) fn log_as(&self, id: &LogId, ending: &str) -> PathBuf {
        self.topic(&id.topic)
            .join(format!("{}.{ending}", id.dir_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_name_gives_back_the_log() {
        let id = LogId {
            topic: "flights".into(),
            topic_id: TopicId::new([0xab; 16]),
            partition: PartitionId::new(12),
        };
        assert_eq!(id.dir_name(), "12-abababab-abab-abab-abab-abababababab");
        assert_eq!(LogId::parse("flights", &id.dir_name()), Some(id));
    }

    #[test]
    fn other_names_are_no_logs() {
        for name in [
            "",
            "12",
            "12-ab",
            "-1-abababab-abab-abab-abab-abababababab",
            "012-abababab-abab-abab-abab-abababababab",
            "12-abababababababababababababababab",
            "12-abababab-abab-abab-abab-abababababab.stray",
        ] {
            assert_eq!(LogId::parse("flights", name), None, "{name}");
        }
    }
}
