//! Many partitions, and what waiting costs.

use std::fs;
use std::time::{Duration, Instant};

use logweir_proto::grpc::v1;
use logweir_tests::{GrpcBroker, ServeOptions, open_files, proof_count, record};

/// Appends its number to each partition, 200 partitions to a request, because each log is synced by
/// itself.
async fn append_to_each(broker: &mut GrpcBroker, partitions: i32) {
    let appends: Vec<v1::PartitionAppend> = (0..partitions)
        .map(|partition| v1::PartitionAppend {
            topic: "t".into(),
            partition: Some(partition),
            data: Some(v1::partition_append::Data::Records(v1::RecordList {
                records: vec![record(None, &partition.to_string())],
            })),
            ..Default::default()
        })
        .collect();
    for appends in appends.chunks(200) {
        let request = v1::ProduceRequest {
            appends: appends.to_vec(),
            ..Default::default()
        };
        let results = broker.produce.produce(request).await.unwrap();
        for result in results.into_inner().results {
            assert_eq!(
                (result.error, result.base_offset),
                (None, 0),
                "{}",
                result.partition
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_partitions_take_records_and_come_back_after_a_kill() {
    let partitions = i32::try_from(proof_count(10_000)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut process = ServeOptions::on_disk(dir.path()).start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    let started = Instant::now();
    broker.create_topic("t", partitions, &[]).await;
    println!("{partitions} partitions made in {:?}", started.elapsed());

    let started = Instant::now();
    append_to_each(&mut broker, partitions).await;
    println!(
        "a record in each in {:?}, {} open files",
        started.elapsed(),
        open_files(process.pid())
    );

    process.kill9();
    let started = Instant::now();
    process.restart();
    println!("ready after {:?}", started.elapsed());
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    let request = v1::FetchRequest {
        partitions: (0..partitions)
            .map(|partition| v1::FetchPartition {
                topic: "t".into(),
                partition,
                ..Default::default()
            })
            .collect(),
        format: v1::RecordFormat::Records.into(),
        ..Default::default()
    };
    let fetched = broker
        .fetch
        .fetch(request)
        .await
        .unwrap()
        .into_inner()
        .partitions;
    assert_eq!(fetched.len(), usize::try_from(partitions).unwrap());
    for answer in fetched {
        assert_eq!(answer.error, None);
        let Some(v1::fetched_partition::Data::Records(list)) = answer.data else {
            panic!("{answer:?}")
        };
        let value = list.records[0].value.as_deref().unwrap();
        assert_eq!(value, answer.partition.to_string().as_bytes());
    }
    process.terminate();
}

/// Processor time that a process has used.
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // utime and stime, fields 14 and 15 of proc(5), in ticks of 10 ms.
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_wait_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let process = ServeOptions::on_disk(dir.path()).start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 100, &[]).await;
    let wait = |mut broker: GrpcBroker| async move {
        let request = v1::FetchRequest {
            partitions: (0..100)
                .map(|partition| v1::FetchPartition {
                    topic: "t".into(),
                    partition,
                    ..Default::default()
                })
                .collect(),
            max_wait_ms: 3_000,
            min_bytes: 1,
            ..Default::default()
        };
        broker.fetch.fetch(request).await.unwrap();
    };
    // The first round warms up, the second is measured: 200 readers of 100 partitions wait three seconds.
    wait(broker.clone()).await;
    let before = processor_time(process.pid());
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..200 {
        waiting.spawn(wait(broker.clone()));
    }
    while let Some(ended) = waiting.join_next().await {
        ended.unwrap();
    }
    let used = processor_time(process.pid()).saturating_sub(before);
    println!("200 waiting readers of 100 partitions used {used:?} of processor time in 3 s");
    // Taking and answering 200 requests for 100 partitions each costs some; polling would cost seconds.
    assert!(used < Duration::from_millis(1_500), "{used:?}");
}
