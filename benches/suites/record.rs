//! Building and checking record batches.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use logweir_benches::record_batch;
use logweir_proto::Timestamp;
use logweir_proto::record::{BatchBuilder, Compression};

/// Records of a batch and bytes of each value.
const SHAPES: [(usize, usize); 3] = [(1, 1_024), (63, 1_024), (590, 100)];

pub(crate) fn suite(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for (records, value_bytes) in SHAPES {
        let shape = format!("{records}x{value_bytes}B");
        let batch = record_batch(records, value_bytes);
        group.throughput(Throughput::Bytes(batch.bytes().len() as u64));
        let value = Bytes::from(vec![7; value_bytes]);
        group.bench_function(BenchmarkId::new("build", &shape), |bencher| {
            bencher.iter(|| {
                let mut builder = BatchBuilder::new(Compression::None);
                for _ in 0..records {
                    builder
                        .append(Timestamp::new(1), None, Some(black_box(&value)), &[])
                        .expect("it fits");
                }
                builder.build().expect("there are records")
            });
        });
        group.bench_function(BenchmarkId::new("validate", &shape), |bencher| {
            bencher.iter(|| black_box(&batch).validate());
        });
        group.bench_function(BenchmarkId::new("crc", &shape), |bencher| {
            bencher.iter(|| black_box(&batch).verify_crc());
        });
    }
    group.finish();
}
