//! One partition's log on a disk: synchronous, with no network, no runtime and no idea who is asking.
//!
//! A [`LogDir`] is an open data directory; [`LogDir::open_log`] gives the one writer of a log, [`Log::reader`] its
//! readers. Every byte of every file is described in `FORMAT.md`.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use logweir_proto::record::{BatchBuilder, Compression, RecordBatch};
//! use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
//! use logweir_storage::disk::SimDisk;
//! use logweir_storage::{LogConfig, LogDir, LogDirConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = LogDir::open(Arc::new(SimDisk::default()), Path::new("/data"), LogDirConfig::default())?;
//! let (id, partition) = (TopicId::random(), PartitionId::new(0));
//! let mut log = dir.open_log("flights", id, partition, LogConfig::default(), Box::new(|_| {}))?;
//!
//! let mut batch = BatchBuilder::new(Compression::None);
//! batch.append(Timestamp::new(1), Some(b"N14228"), Some(b"on time"), &[])?;
//! let batch = RecordBatch::from_bytes(batch.build()?)?;
//! let done = log.append(&batch, LeaderEpoch::new(0), Timestamp::new(1))?;
//! assert_eq!(done.base_offset, Offset::ZERO);
//!
//! let slice = log.reader().read(Offset::ZERO, 1 << 20, log.log_end_offset())?;
//! assert_eq!(slice.next_offset, Offset::new(1));
//! log.close()?;
//! drop(log);
//! dir.close()?;
//! # Ok(())
//! # }
//! ```

mod checked_file;
mod checkpoint;
mod config;
pub mod disk;
mod epochs;
mod error;
mod flush;
mod index;
pub mod inspect;
mod log;
mod log_dir;
mod mmap;
mod producers;
mod segment;
mod threads;

pub use config::{CleanupPolicy, FlushPolicy, LogConfig, LogDirConfig, MAX_SEGMENT_BYTES, Ratio};
pub use error::{AppendError, ChangeError, OpenError, ProducerError, ReadError};
pub use flush::{FlushCallback, FlushOutcome};
pub use log::{
    Appended, Compaction, CompactionStats, CompactionStep, Log, LogReader, MAX_STATE_BYTES,
    Replacement, StateSnapshot, Trim,
};
pub use log_dir::{DirectoryId, LogDir, LogId};
pub use producers::{KnownProducer, ProducerCheck};
pub use segment::ReadSlice;
pub use threads::on_threads;
