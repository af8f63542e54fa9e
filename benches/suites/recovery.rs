//! Opening a log after a crash: every byte since the recovery point is looked at.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use logweir_benches::{batch_of, scratch_folder};
use logweir_proto::{LeaderEpoch, PartitionId, Timestamp, TopicId};
use logweir_storage::disk::OsDisk;
use logweir_storage::{LogConfig, LogDir, LogDirConfig};

use crate::KIB;

const LOG_BYTES: usize = 64 << 20;

pub(crate) fn suite(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    group.throughput(Throughput::Bytes(LOG_BYTES as u64));
    for kib in [1, 64] {
        let folder = scratch_folder();
        let topic = TopicId::random();
        let open = || {
            let settings = LogDirConfig {
                threads: false,
                reserve_bytes: 0,
                ..LogDirConfig::default()
            };
            let dir = LogDir::open(Arc::new(OsDisk::new()), folder.path(), settings)
                .expect("nobody else has it");
            let id = PartitionId::new(0);
            let began = Instant::now();
            let log = dir
                .open_log("t", topic, id, LogConfig::default(), Box::new(|_| {}))
                .expect("it is whole");
            (log, began.elapsed())
        };
        let (mut log, _) = open();
        let batch = batch_of(kib * KIB);
        for _ in 0..LOG_BYTES / batch.bytes().len() {
            log.append(&batch, LeaderEpoch::new(0), Timestamp::new(1))
                .expect("there is room");
        }
        let end = log.log_end_offset();
        // Dropped without being closed, as a crash would leave it.
        drop(log);
        let id = BenchmarkId::new("64MiB_unflushed", format!("{kib}KiB"));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for _ in 0..count {
                    let (log, time) = open();
                    assert_eq!(log.log_end_offset(), end);
                    spent += time;
                }
                spent
            });
        });
    }
    group.finish();
}
