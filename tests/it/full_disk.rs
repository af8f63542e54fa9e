//! A full disk is a normal state: appends are refused with an error, reads go on, and appends resume by
//! themselves when there is room. Nothing acknowledged is lost meanwhile.

use std::path::Path;
use std::process::Command;

use logweir_proto::grpc::v1;
use logweir_tests::{BrokerProcess, DEADLINE, GrpcBroker, ServeOptions, record, wait_until_async};

const MIB: usize = 1 << 20;

/// Produces until the broker refuses; gives how many records it took, and the refusal.
async fn fill(broker: &mut GrpcBroker, topic: &str, most: usize) -> (usize, v1::Error) {
    let value = "x".repeat(100_000);
    for stored in 0..most {
        let records = vec![record(None, &format!("{stored}:{value}"))];
        let result = broker
            .produce_records(topic, Some(0), v1::Acks::All, records)
            .await
            .unwrap();
        if let Some(error) = result.error {
            return (stored, error);
        }
    }
    panic!("{most} records of 100 kB were taken, and the disk should be full");
}

/// How many records can be read, in order and whole.
async fn readable(broker: &mut GrpcBroker, topic: &str) -> usize {
    let read = broker.read_partition(topic, 0).await;
    for (number, record) in read.iter().enumerate() {
        assert!(
            record.value.starts_with(&format!("{number}:x")),
            "record {number}"
        );
        assert!(record.value.len() > 100_000);
    }
    read.len()
}

/// The story, on a disk of 48 MiB: full, readable, and working again when a topic is deleted.
async fn fills_and_resumes(process: &mut BrokerProcess, restart: bool) {
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker
        .create_topic("kept", 1, &[("segment.bytes", "1048576")])
        .await;
    broker
        .create_topic("given-up", 1, &[("segment.bytes", "1048576")])
        .await;
    for number in 0..50 {
        let value = format!("{number}:{}", "x".repeat(100_000));
        broker.produce_value("given-up", 0, &value).await;
    }
    let (stored, error) = fill(&mut broker, "kept", 48 * MIB / 100_000).await;
    println!("{stored} records of 100 kB, then: {error:?}");
    assert_eq!(error.name, "KAFKA_STORAGE_ERROR", "{error:?}");
    assert!(error.retriable, "it may work later: {error:?}");
    assert!(stored > 20, "only {stored} records fitted");

    // Full, not broken: everything acknowledged is readable, small metadata changes work, and the
    // process lives.
    assert_eq!(readable(&mut broker, "kept").await, stored);
    assert_eq!(readable(&mut broker, "given-up").await, 50);
    if restart {
        process.kill9();
        process.restart();
        broker = GrpcBroker::connect(process.grpc()).await;
        assert_eq!(
            readable(&mut broker, "kept").await,
            stored,
            "after a kill on the full disk"
        );
    }
    let request = v1::DeleteTopicsRequest {
        names: vec!["given-up".into()],
        ..Default::default()
    };
    let deleted = broker
        .topics
        .delete_topics(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(deleted.results[0].error, None, "deleting makes room");

    let resumed = wait_until_async("appends resume by themselves", DEADLINE, || {
        let mut broker = broker.clone();
        async move {
            let value = format!("{stored}:{}", "x".repeat(100_000));
            let records = vec![record(None, &value)];
            let result = broker
                .produce_records("kept", Some(0), v1::Acks::All, records)
                .await
                .unwrap();
            result.error.is_none().then_some(result.base_offset)
        }
    })
    .await;
    assert_eq!(
        resumed,
        i64::try_from(stored).unwrap(),
        "no gap and no repetition"
    );
    assert_eq!(readable(&mut broker, "kept").await, stored + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_refuses_appends_keeps_reads_and_resumes() {
    let capacity = ["--set", "memory_capacity_bytes=48MiB"];
    let mut process = ServeOptions::in_memory().args(&capacity).start();
    fills_and_resumes(&mut process, false).await;
}

/// A file system of its own, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this process may not mount: only root may, and not in every container.
    fn mount(mib: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let arguments = ["-t", "tmpfs", "-o", &size, "logweir-test"];
        let mounted = Command::new("mount")
            .args(arguments)
            .arg(dir.path())
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_full_disk_refuses_appends_keeps_reads_and_resumes() {
    let Some(disk) = SmallDisk::mount(48) else {
        println!(
            "skipped: this process may not mount a file system; the same story runs in memory"
        );
        return;
    };
    let mut process = ServeOptions::on_disk(disk.path()).start();
    fills_and_resumes(&mut process, true).await;
    process.terminate();
}
