//! The log as its users have it: what is appended is read back, whatever happens in between.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::record::{BatchBuilder, Compression, RecordBatch, batches};
use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};

use crate::config::{FlushPolicy, LogConfig, LogDirConfig};
use crate::disk::{Disk, OsDisk, SimDisk};
use crate::log::{Log, LogReader};
use crate::log_dir::LogDir;

mod basics;
mod compaction;
mod compaction_faults;
mod compaction_long;
mod compaction_model;
mod compaction_steps;
mod crash;
mod damage;
mod directory;
mod failed_syncs;
mod faults;
mod flushing;
mod full_disk;
mod golden;
mod golden_compaction;
mod model;
mod policies;
mod reading;
mod regressions;
mod snapshots;
mod trims;

const EPOCH: LeaderEpoch = LeaderEpoch::new(1);

/// Whether long counts are to be run in full.
fn full() -> bool {
    std::env::var("LOGWEIR_PROOF").is_ok_and(|value| value == "full")
}

/// A data directory that can be opened again.
struct Place {
    disk: Arc<dyn Disk>,
    path: std::path::PathBuf,
    /// Keeps a real directory.
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn simulated() -> Self {
        let disk = Arc::new(SimDisk::new(1 << 30));
        Self {
            disk,
            path: "/data".into(),
            _temporary: None,
        }
    }

    fn real() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        Self {
            disk: Arc::new(OsDisk::new()),
            path,
            _temporary: Some(temporary),
        }
    }

    fn open(&self) -> Arc<LogDir> {
        LogDir::open(Arc::clone(&self.disk), &self.path, LogDirConfig::default()).unwrap()
    }
}

fn open_log(dir: &Arc<LogDir>, config: &LogConfig) -> Log {
    let topic_id = TopicId::new([1; 16]);
    let on_flush = Box::new(|_| {});
    dir.open_log("t", topic_id, PartitionId::new(0), config.clone(), on_flush)
        .unwrap()
}

fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 1000,
        index_interval_bytes: 100,
        ..LogConfig::default()
    }
}

/// A batch of records with these values and times.
fn batch(values: &[&str], timestamp: i64) -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        let timestamp = Timestamp::new(timestamp);
        builder
            .append(timestamp, None, Some(value.as_bytes()), &[])
            .unwrap();
    }
    RecordBatch::from_bytes(builder.build().unwrap()).unwrap()
}

/// Every record from `from` on: offset and value.
fn read_all(log: &Log, from: i64) -> Vec<(i64, String)> {
    let reader = log.reader();
    let mut at = Offset::new(from);
    let mut found = Vec::new();
    while at < reader.log_end_offset() {
        let slice = reader.read(at, 300, Offset::MAX).unwrap();
        assert!(slice.next_offset > at, "reading at {at} makes no progress");
        found.extend(values(&slice.bytes));
        at = slice.next_offset;
    }
    found.retain(|&(offset, _)| offset >= from);
    found
}

fn values(bytes: &Bytes) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    for batch in batches(bytes.clone()) {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        for record in batch.records(1 << 20).unwrap() {
            let record = record.unwrap();
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            found.push((record.offset.get(), value));
        }
    }
    found
}
