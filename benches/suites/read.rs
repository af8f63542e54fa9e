//! Reading cached batches without copying, and finding an offset or a time by the index.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use logweir_benches::{ScratchLog, batch_of};
use logweir_proto::{LeaderEpoch, Offset, Timestamp};
use logweir_storage::LogConfig;

use crate::KIB;

const BATCHES: i64 = 32_768;

pub(crate) fn suite(criterion: &mut Criterion) {
    let scratch = ScratchLog::new(LogConfig::default());
    let batch = batch_of(KIB);
    let mut log = scratch.log.lock();
    for at in 0..BATCHES {
        log.append(&batch, LeaderEpoch::new(0), Timestamp::new(1 + at))
            .expect("there is room");
    }
    let (reader, end) = (log.reader(), log.log_end_offset());
    drop(log);
    let mut group = criterion.benchmark_group("read");
    for kib in [1, 64, 1_024] {
        group.throughput(Throughput::Bytes((kib * KIB) as u64));
        let id = BenchmarkId::new("slice", format!("{kib}KiB"));
        let mut from = 0;
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                from = (from + 7_919) % (BATCHES - 1_024);
                let slice = reader.read(Offset::new(from), kib * KIB, end);
                slice.expect("it is there").bytes.len()
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("index");
    let mut at = 0;
    group.bench_function("append_time_of", |bencher| {
        bencher.iter(|| {
            at = (at + 7_919) % BATCHES;
            reader.append_time_of(black_box(Offset::new(at)))
        });
    });
    group.bench_function("records_between", |bencher| {
        bencher.iter(|| {
            at = (at + 7_919) % BATCHES;
            reader.records_between(black_box(Offset::new(at)), end)
        });
    });
    group.finish();
}
