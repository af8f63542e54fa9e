//! The runtime on a simulated disk, with a machine that is a toy.

use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bytes::Bytes;
use logweir_proto::grpc::internal::record::Kind;
use logweir_proto::grpc::internal::{PartitionRecord, Record, TopicRecord};
use logweir_proto::record::batches;
use logweir_proto::{NodeId, Offset, Timestamp};
use logweir_storage::disk::{Disk, PowerCut, SimDisk};
use logweir_storage::{LogDir, LogDirConfig};
use parking_lot::Mutex;

use super::machine::{CallId, Due, Effects, Now, ReplayError, StateRecord};
use super::*;
use crate::config::Config;
use crate::metadata::Image;
use crate::partition::Partition;

mod answers;
mod failures;
mod model;
mod snapshots;
mod timers;
mod toy;

use toy::{Ask, Durable, Journal, Told, Toy};

const NODE: i32 = 1;
const TOPIC: &str = "__toy";
const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3_600);

/// What outlasts a crash.
struct World {
    disk: SimDisk,
    clock: Clock,
    journal: Arc<Journal>,
    partitions: i32,
    settings: Settings,
    leader_epoch: i32,
    run: Option<Run>,
}

/// One run of the parts of a broker that a coordinator needs.
struct Run {
    log_dir: Arc<LogDir>,
    partitions: Arc<Partitions>,
    coordinator: Arc<Coordinator<Toy>>,
}

impl World {
    fn start(partitions: i32) -> Self {
        Self::with(partitions, |_| {})
    }

    fn with(partitions: i32, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            reload_pause: Duration::from_millis(1),
            max_reload_pause: Duration::from_millis(5),
            ..Settings::default()
        };
        change(&mut settings);
        let mut world = Self {
            disk: SimDisk::new(1 << 28),
            clock: Clock::default(),
            journal: Arc::default(),
            partitions,
            settings,
            leader_epoch: 0,
            run: None,
        };
        world.restart();
        world
    }

    /// Runs the parts anew, in another leader epoch.
    fn restart(&mut self) {
        self.restart_with(|_| {});
    }

    /// As [`World::restart`], with something done before the coordinator begins to load.
    fn restart_with(&mut self, before_loading: impl FnOnce(&SimDisk)) {
        self.leader_epoch += 1;
        let config = LogDirConfig {
            reserve_bytes: 0,
            ..LogDirConfig::default()
        };
        let log_dir = LogDir::open(Arc::new(self.disk.clone()), Path::new("/"), config).unwrap();
        let partitions = Arc::new(Partitions::new(
            NodeId::new(NODE),
            Arc::clone(&log_dir),
            Arc::new(Config::in_memory()),
            self.clock.clone(),
            Arc::default(),
        ));
        partitions.apply(&image(self.partitions, self.leader_epoch));
        before_loading(&self.disk);
        let journal = Arc::clone(&self.journal);
        let coordinator =
            Coordinator::start(TOPIC, &partitions, &self.clock, self.settings, move |_| {
                Toy {
                    log: Arc::clone(&journal),
                    ..Toy::default()
                }
            });
        self.run = Some(Run {
            log_dir,
            partitions,
            coordinator,
        });
    }

    /// Ends the run as a kill or a power cut does, and begins another.
    fn crash(&mut self, seed: u64, cut: PowerCut) {
        self.disk.power_cut(seed, cut);
        self.run = None;
        self.restart();
    }

    /// Stops cleanly and starts again.
    fn stop_and_start(&mut self) {
        let run = self.run.take().unwrap();
        run.coordinator.close();
        run.partitions.close().unwrap();
        run.log_dir.close().unwrap();
        drop(run);
        self.restart();
    }

    fn run(&self) -> &Run {
        self.run.as_ref().unwrap()
    }

    fn coordinator(&self) -> &Coordinator<Toy> {
        &self.run().coordinator
    }

    fn partition(&self, partition: i32) -> Arc<Partition> {
        let partition = PartitionId::new(partition);
        self.run().partitions.get(TOPIC, None, partition).unwrap()
    }

    /// Where the first partition's snapshot is.
    fn snapshot_path(&self) -> std::path::PathBuf {
        let topic = Path::new("/logs").join(TOPIC);
        let dirs = self.disk.list(&topic).unwrap();
        let first = dirs.iter().find(|dir| dir.name.starts_with("0-")).unwrap();
        topic.join(&first.name).join("state-snapshot")
    }

    fn begin(&self, ask: Ask) -> Pending<Toy> {
        self.coordinator().begin("key", ask).unwrap()
    }

    /// Asks once.
    async fn call(&self, ask: Ask) -> Result<Told, ApiError> {
        within(self.coordinator().call("key", ask)).await
    }

    /// Asks until the coordinator answers, as a client does.
    async fn ask(&self, ask: Ask) -> Told {
        let begun = Instant::now();
        loop {
            match self.call(ask.clone()).await {
                Ok(told) => return told,
                Err(error) if error.code.is_retriable() && begun.elapsed() < PATIENCE => {
                    crate::clock::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{ask:?}: {error}"),
            }
        }
    }

    async fn value(&self, key: &'static str) -> Option<String> {
        match self.ask(Ask::Get(key)).await {
            Told::Value(value) => value,
            other => panic!("{other:?}"),
        }
    }

    async fn dump(&self) -> Durable {
        match self.ask(Ask::Dump).await {
            Told::All(durable) => durable,
            other => panic!("{other:?}"),
        }
    }

    /// What a replay of the whole log, without snapshots, gives.
    fn replayed(&self) -> Durable {
        let partition = self.partition(0);
        let (log, mut toy) = (partition.log(), Toy::default());
        let now = Now {
            wall: self.clock.now(),
            session: Duration::ZERO,
        };
        let (mut at, end) = (Offset::ZERO, log.log_end_offset());
        while at < end {
            let slice = log.read(at, 1 << 20, end).unwrap();
            for batch in batches(slice.bytes) {
                for record in batch.unwrap().records(1 << 20).unwrap() {
                    let record = record.unwrap();
                    let (key, value) = (record.key.unwrap(), record.value);
                    toy.replay(&StateRecord { key, value }, now).unwrap();
                }
            }
            at = slice.next_offset;
        }
        toy.durable
    }
}

fn set(key: &'static str, value: &str) -> Ask {
    Ask::Set(key, Some(value.to_owned()))
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.expect("it is done in time")
}

/// Waits for a condition.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        crate::clock::sleep(Duration::from_millis(1)).await;
    }
}

/// A cluster that is one node with the toy's topic.
fn image(partitions: i32, leader_epoch: i32) -> Image {
    let topic_id = Bytes::from_static(&[7; 16]);
    let mut kinds = vec![Kind::Topic(TopicRecord {
        name: TOPIC.to_owned(),
        topic_id: topic_id.clone(),
    })];
    kinds.extend((0..partitions).map(|partition| {
        Kind::Partition(PartitionRecord {
            topic_id: topic_id.clone(),
            partition,
            replicas: vec![NODE],
            isr: vec![NODE],
            leader: NODE,
            leader_epoch,
            ..PartitionRecord::default()
        })
    }));
    let records: Vec<_> = kinds
        .into_iter()
        .map(|kind| Record { kind: Some(kind) })
        .collect();
    Image::from_records(u64::try_from(leader_epoch).unwrap(), &records).unwrap()
}
