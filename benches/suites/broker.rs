//! A broker in this process, in memory, by its in-process client: no port, no HTTP/2.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use logweir::{Broker, Config, ListenAddr};
use logweir_benches::TOPIC;
use logweir_client::{NewTopic, ProducerRecord, StartAt};
use logweir_proto::PartitionId;

/// Records of 1 KiB in one go.
const RECORDS: u64 = 1_024;

pub(crate) fn suite(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let config = Config::in_memory()
        .with_grpc(ListenAddr::Off)
        .with_http(ListenAddr::Off);
    let broker = runtime.block_on(Broker::start(config)).expect("it starts");
    let client = broker.client().expect("the settings are the default ones");
    let value = Bytes::from(vec![7; 1_024]);
    let mut group = criterion.benchmark_group("in_process");
    // Small segments: what is deleted goes by segments, and a broker in memory is full at 1 GiB.
    let topic = NewTopic::new(TOPIC).config("segment.bytes", "16777216");
    runtime
        .block_on(client.admin().create_topic(topic))
        .expect("the broker is new");
    let producer = runtime
        .block_on(async { client.producer() })
        .expect("as default");
    group.bench_function("produce_one_and_wait", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let record = ProducerRecord::new(TOPIC).value(value.slice(..100));
            producer.send(record).await?.await
        });
    });
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("produce_1MiB", |bencher| {
        let clear = || {
            runtime.block_on(async {
                let admin = client.admin();
                let cleared = admin.delete_records(TOPIC, PartitionId::new(0), None);
                cleared.await.expect("old records may go");
            });
        };
        bencher.iter_batched(
            clear,
            |()| {
                runtime.block_on(async {
                    for _ in 0..RECORDS {
                        let record = ProducerRecord::new(TOPIC).value(value.clone());
                        drop(producer.send(record).await.expect("it is taken"));
                    }
                    producer.flush().await.expect("all are stored");
                });
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("fetch_1MiB", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let mut reader = client.reader().expect("as default");
                let from_first = reader.assign(TOPIC, PartitionId::new(0), StartAt::Earliest);
                from_first.expect("there is such a partition");
                reader.stop_at_end();
                let mut records = 0_u64;
                while records < RECORDS
                    && let Some(batch) = reader.next_batch().await.expect("it can be read")
                {
                    records += batch.records.len() as u64;
                }
                records
            })
        });
    });
    group.finish();
    drop(producer);
    runtime
        .block_on(broker.shutdown())
        .expect("nothing is in its way");
}
