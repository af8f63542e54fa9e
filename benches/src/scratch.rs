//! Logs in temporary folders of a real disk.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use logweir_proto::{PartitionId, TopicId};
use logweir_storage::disk::OsDisk;
use logweir_storage::{Log, LogConfig, LogDir, LogDirConfig};
use parking_lot::Mutex;
use tempfile::TempDir;

/// A folder that is removed when dropped: below `LOGWEIR_BENCH_DIR` if that is set, else where temporary files go.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn scratch_folder() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("logweir-bench-");
    let folder = match std::env::var_os("LOGWEIR_BENCH_DIR") {
        Some(parent) => builder.tempdir_in(PathBuf::from(parent)),
        None => builder.tempdir(),
    };
    folder.expect("a temporary folder can be made")
}

/// Has the machine hand out so much memory and takes it back at once, so that what is measured next finds memory that
/// was touched before: on a virtual machine the host may have to be asked for each page that was not, which can cost
/// more than ten times what the page is needed for, and takes pages back that lie idle for seconds.
///
/// # Panics
/// If a temporary file of this size cannot be written.
pub fn warm_memory(bytes: usize) {
    let folder = scratch_folder();
    let piece = vec![0; 1 << 20];
    let mut file = std::fs::File::create(folder.path().join("warm")).expect("a new name");
    for _ in 0..bytes.div_ceil(piece.len()) {
        file.write_all(&piece).expect("there is room");
    }
}

/// A log behind a lock, as a partition has it. Its directory runs no threads: what they would do is done by
/// [`ScratchLog::keep`], outside of what is measured.
#[derive(Debug)]
pub struct ScratchLog {
    /// The log, under the partition's lock.
    pub log: Mutex<Log>,
    dir: Arc<LogDir>,
    _folder: TempDir,
}

impl ScratchLog {
    /// An empty log.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(config: LogConfig) -> Self {
        let folder = scratch_folder();
        let settings = LogDirConfig {
            threads: false,
            max_unflushed_bytes: 8 << 30,
            reserve_bytes: 0,
            ..LogDirConfig::default()
        };
        let dir = LogDir::open(Arc::new(OsDisk::new()), folder.path(), settings)
            .expect("the folder is new");
        let log = dir
            .open_log(
                "bench",
                TopicId::random(),
                PartitionId::new(0),
                config,
                Box::new(|_| {}),
            )
            .expect("the directory is empty");
        Self {
            log: Mutex::new(log),
            dir,
            _folder: folder,
        }
    }

    /// Does what the directory's threads would have done by now: reserves blocks and prefaults pages ahead.
    pub fn keep(&self) {
        self.dir.drive(false);
    }
}
