//! The quorum as its callers see it.

use super::*;
use logweir_storage::disk::SimDisk;
use std::path::Path;
use std::time::Instant;

const NODE: NodeId = NodeId::new(1);
const DIRECTORY: [u8; 16] = [7; 16];

fn memory() -> Arc<dyn Disk> {
    let disk = SimDisk::new(1 << 30);
    disk.create_dir_all(Path::new("/data")).unwrap();
    Arc::new(disk)
}

fn config(disk: Arc<dyn Disk>) -> QuorumConfig {
    let dir = PathBuf::from("/data/metadata");
    QuorumConfig {
        disk_may_wait: false,
        ..QuorumConfig::new(NODE, DIRECTORY, disk, dir)
    }
}

fn registration() -> BrokerRegistration {
    BrokerRegistration {
        node_id: NODE,
        directory_id: DIRECTORY,
        addresses: BrokerAddresses::default(),
        rack: None,
    }
}

fn topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions,
        replication_factor: 1,
        ..NewTopic::default()
    }
}

#[tokio::test]
async fn a_first_topic_is_there_half_a_millisecond_after_the_start() {
    let mut best = u128::MAX;
    for _ in 0..50 {
        let disk = memory();
        let begin = Instant::now();
        let quorum = Quorum::start(config(disk)).await.unwrap();
        quorum.register_broker(registration()).await.unwrap();
        quorum.create_topic(topic("flights", 12)).await.unwrap();
        best = best.min(begin.elapsed().as_micros());
        quorum.shutdown().await;
    }
    println!("best start, registration and first topic: {best} us");
    assert!(best < 20_000);
}
