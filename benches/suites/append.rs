//! Appending batches of 1 KiB to 1 MiB, into fresh pages and into pages that are present.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use logweir_benches::{ScratchLog, batch_of, warm_memory};
use logweir_proto::record::RecordBatch;
use logweir_proto::{LeaderEpoch, Timestamp};
use logweir_storage::LogConfig;

use crate::KIB;

const NOW: Timestamp = Timestamp::new(1_700_000_000_000);
const SEGMENT_BYTES: u64 = 128 << 20;
/// Bytes between two calls of the keeper; what it prefaults at a time is twice as much.
const BURST_BYTES: usize = 256 << 10;

pub(crate) fn suite(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for kib in [1, 4, 16, 64, 256, 1_024] {
        let batch = batch_of(kib * KIB);
        group.throughput(Throughput::Bytes(batch.bytes().len() as u64));
        for (name, keeps) in [("fresh", false), ("warm", true)] {
            // Large batches are written without the map; there is nothing to be warm.
            if keeps && kib >= 32 {
                continue;
            }
            let id = BenchmarkId::new(name, format!("{kib}KiB"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| append(&batch, count, keeps));
            });
        }
    }
    group.finish();
}

/// The time of `count` appends, the making of logs and of room not counted.
fn append(batch: &RecordBatch, count: u64, keeps: bool) -> Duration {
    let per_log = SEGMENT_BYTES / batch.bytes().len() as u64 - 1;
    let per_burst = (BURST_BYTES / batch.bytes().len()).max(1) as u64;
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let scratch = ScratchLog::new(LogConfig {
            segment_bytes: SEGMENT_BYTES,
            ..LogConfig::default()
        });
        let mut room = per_log.min(left);
        warm_memory(usize::try_from(room).expect("small") * batch.bytes().len());
        left -= room;
        while room > 0 {
            let burst = per_burst.min(room);
            room -= burst;
            let began = Instant::now();
            for _ in 0..burst {
                let appended = scratch.log.lock().append(batch, LeaderEpoch::new(0), NOW);
                appended.expect("there is room");
            }
            spent += began.elapsed();
            if keeps {
                scratch.keep();
            }
        }
    }
    spent
}
