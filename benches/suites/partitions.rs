//! Appending to more and more partitions in turn: what each costs beside the bytes.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion};
use logweir_benches::{batch_of, scratch_folder};
use logweir_proto::{LeaderEpoch, PartitionId, Timestamp, TopicId};
use logweir_storage::disk::OsDisk;
use logweir_storage::{Log, LogConfig, LogDir, LogDirConfig};

use crate::KIB;

pub(crate) fn suite(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("partitions");
    for count in [1, 10, 100, 1_000] {
        let folder = scratch_folder();
        let settings = LogDirConfig {
            reserve_bytes: 0,
            ..LogDirConfig::default()
        };
        let dir = LogDir::open(Arc::new(OsDisk::new()), folder.path(), settings)
            .expect("the folder is new");
        let topic = TopicId::random();
        let mut logs: Vec<Log> = (0..count)
            .map(|id| {
                let id = PartitionId::new(id);
                dir.open_log("t", topic, id, LogConfig::default(), Box::new(|_| {}))
                    .expect("it is new")
            })
            .collect();
        let batch = batch_of(KIB);
        let mut at = 0;
        let id = BenchmarkId::new("append_1KiB_in_turn", count);
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                at = (at + 1) % logs.len();
                logs[at].append(&batch, LeaderEpoch::new(0), Timestamp::new(1))
            });
        });
    }
    group.finish();
}
