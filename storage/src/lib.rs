//! One partition's log on a disk: synchronous, with no network, no runtime and no idea who is asking.
//!
//! A [`LogDir`] is an open data directory; [`LogDir::open_log`] gives the one writer of a log, [`Log::reader`] its
//! readers. Every byte of every file is described in `FORMAT.md`.

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

pub use config::{FlushPolicy, LogConfig, LogDirConfig, MAX_SEGMENT_BYTES};
pub use error::{AppendError, ChangeError, OpenError, ProducerError, ReadError};
pub use flush::{FlushCallback, FlushOutcome};
pub use log::{Appended, Log, LogReader};
pub use log_dir::{DirectoryId, LogDir, LogId};
pub use producers::ProducerCheck;
pub use segment::ReadSlice;
