//! gRPC streams of a broker in a process of its own, beside bare tonic with the same messages.
//!
//! Shares of the base, in turns and at length: `cargo bench --bench targets -- produce fetch`.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use logweir_benches::{ConsumeLoad, Peer, ProduceLoad, Role, record_batch};

/// Requests of one measurement; 16 MiB of records.
const REQUESTS: u64 = 256;

pub(crate) fn suite(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let batch = record_batch(63, 1_024);
    let batch_bytes = batch.bytes().len();
    let total_bytes = batch_bytes * (usize::try_from(REQUESTS).expect("small") + 1);
    let broker = Peer::start(Role::Broker);
    let bare = Peer::start(Role::Bare {
        total_bytes,
        response_bytes: batch_bytes * 15,
    });
    let load = ProduceLoad {
        batch: batch.bytes().clone(),
        requests: REQUESTS,
        in_flight: 32,
        topic: "grpc".to_owned(),
    };
    // What is read later is written first, once.
    runtime.block_on(load.run(broker.server()));
    let fetch = ConsumeLoad {
        topic: load.topic.clone(),
        end_offset: i64::from(batch.header().record_count)
            * (i64::try_from(REQUESTS).expect("small") + 1),
        response_bytes: 1 << 20,
    };
    let mut group = criterion.benchmark_group("grpc");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(total_bytes as u64));
    for (name, peer) in [("broker", &broker), ("bare_tonic", &bare)] {
        group.bench_function(BenchmarkId::new("produce_16MiB", name), |bencher| {
            bencher.iter_custom(|count| {
                times(count, || runtime.block_on(load.run(peer.server())).elapsed)
            });
        });
        group.bench_function(BenchmarkId::new("fetch_16MiB", name), |bencher| {
            bencher.iter_custom(|count| {
                times(count, || runtime.block_on(fetch.run(peer.server())).elapsed)
            });
        });
    }
    group.finish();
}

fn times(count: u64, mut once: impl FnMut() -> Duration) -> Duration {
    (0..count).map(|_| once()).sum()
}
