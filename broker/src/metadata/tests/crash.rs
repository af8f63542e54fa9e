//! Crashes: what was answered is there afterwards, what was shown is there afterwards, and nothing comes
//! twice.

use super::*;
use logweir_storage::disk::PowerCut;
use std::sync::atomic::{AtomicU64, Ordering};

/// What callers know: what was acknowledged, and what may or may not have happened.
#[derive(Default)]
struct Known {
    topics: BTreeMap<String, Arc<TopicImage>>,
    /// The one change without an answer: a topic created, changed or deleted.
    unsure: Option<String>,
    next_producer_id: i64,
    epoch: i64,
    cluster_id: Option<Arc<str>>,
    /// The newest image anybody saw.
    seen: Option<Arc<Image>>,
}

impl Known {
    /// Does one operation drawn from `draw`; whether the quorum still lives.
    fn step(&mut self, quorum: &Quorum, draw: u64) -> bool {
        let name = format!("t-{}", draw % 7);
        let outcome = match draw / 7 % 6 {
            0 | 1 => {
                let partitions = i32::try_from(draw % 90).unwrap() + 1;
                block_on(quorum.create_topic(topic(&name, partitions)))
                    .map(|topic| drop(self.topics.insert(name.clone(), topic)))
            }
            2 => block_on(quorum.delete_topic(&name)).map(|_| drop(self.topics.remove(&name))),
            3 => {
                let value = "v".repeat(usize::try_from(draw % 9_000).unwrap());
                let set = settings(&[("k", &value)]);
                block_on(quorum.alter_configs(&name, set, Vec::new())).map(|()| {
                    let topic = Arc::clone(quorum.image().topic(&name).unwrap());
                    self.topics.insert(name.clone(), topic);
                })
            }
            4 => block_on(quorum.create_partitions(&name, 95))
                .map(|topic| drop(self.topics.insert(name.clone(), topic))),
            _ => block_on(quorum.allocate_producer_ids()).map(|block| {
                assert!(
                    block.start >= self.next_producer_id,
                    "producer ids came twice"
                );
                assert_eq!(block.end - block.start, PRODUCER_ID_BLOCK);
                self.next_producer_id = block.end;
            }),
        };
        self.seen = Some(quorum.image());
        match outcome {
            Err(MetadataError::Offline { .. } | MetadataError::Interrupted) => {
                self.unsure = Some(name);
                false
            }
            Ok(()) | Err(_) => true,
        }
    }

    /// Checks a quorum that was started again, and registers its broker.
    fn check(&mut self, quorum: &Quorum) -> Result<(), MetadataError> {
        let image = quorum.image();
        if let Some(seen) = self.seen.take() {
            assert!(image.version >= seen.version, "the image went back");
            if image.version == seen.version {
                assert_eq!(without_controller(&image), without_controller(&seen));
            }
        }
        let cluster_id = self
            .cluster_id
            .get_or_insert_with(|| image.cluster_id.clone());
        assert_eq!(*cluster_id, image.cluster_id, "the cluster was formed anew");
        let unsure = self.unsure.take();
        let names: BTreeSet<String> = image
            .topics
            .values()
            .map(|topic| topic.name.to_string())
            .chain(self.topics.keys().cloned())
            .collect();
        for name in names {
            let found = image.topic(&name);
            if unsure.as_ref() != Some(&name) {
                assert_eq!(found, self.topics.get(&name), "topic {name}");
            }
            match found {
                Some(topic) => self.topics.insert(name, Arc::clone(topic)),
                None => self.topics.remove(&name),
            };
        }
        let epoch = block_on(quorum.register_broker(registration()))?.get();
        assert!(epoch > self.epoch, "the broker epoch did not grow");
        self.epoch = epoch;
        Ok(())
    }
}

pub(super) fn without_controller(image: &Image) -> Image {
    let mut image = image.clone();
    image.controller = None;
    image
}

/// A small generator, so that a printed seed replays a run.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Small enough that snapshots and rewrites fall into every run.
fn busy(disk: &SimDisk) -> QuorumConfig {
    QuorumConfig {
        snapshot_entries: 9,
        snapshot_bytes: 40_000,
        rewrite_bytes: 60_000,
        ..config(disk)
    }
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_acknowledged_and_nothing_shown() {
    let runs = long_count(1_000);
    println!("seeds 0..{runs}");
    for seed in 0..runs {
        let disk = Arc::new(memory());
        let mut draws = Draws(seed);
        let mut known = Known::default();
        for _ in 0..6 {
            let left = AtomicU64::new(1 + draws.next() % 160);
            let (machine, cut_seed) = (Arc::downgrade(&disk), draws.next());
            let cut = if draws.next().is_multiple_of(4) {
                PowerCut::KeepAll
            } else {
                PowerCut::LoseUnsynced
            };
            disk.set_hook(Some(Arc::new(move |_, _: &Path| {
                if left.fetch_sub(1, Ordering::Relaxed) == 1
                    && let Some(machine) = machine.upgrade()
                {
                    machine.power_cut(cut_seed, cut);
                }
            })));
            if let Ok(quorum) = block_on(Quorum::start(busy(&disk))) {
                if known.check(&quorum).is_ok() {
                    while known.step(&quorum, draws.next()) {}
                }
                known.seen = Some(quorum.image());
                block_on(quorum.shutdown());
            }
            // If the run ended before its cut came.
            disk.set_hook(None);
            disk.power_cut(cut_seed, cut);
        }
        let quorum = block_on(Quorum::start(busy(&disk)))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        known.check(&quorum).unwrap();
        block_on(quorum.shutdown());
    }
}

#[test]
fn whichever_disk_operation_fails_nothing_acknowledged_is_lost() {
    for errno in [5, 28] {
        let mut k = 1;
        loop {
            let disk = Arc::new(memory());
            disk.inject(SimFault::errno(errno).at(k));
            let mut known = Known::default();
            let mut draws = Draws(k);
            let mut steps = 0;
            if let Ok(quorum) = block_on(Quorum::start(busy(&disk))) {
                if known.check(&quorum).is_ok() {
                    while steps < 250 && known.step(&quorum, draws.next()) {
                        steps += 1;
                    }
                }
                known.seen = Some(quorum.image());
                block_on(quorum.shutdown());
            }
            let done = disk.operations() < k;
            disk.clear_faults();
            disk.power_cut(k, PowerCut::LoseUnsynced);
            let quorum = block_on(Quorum::start(busy(&disk)))
                .unwrap_or_else(|error| panic!("errno {errno} at operation {k}: {error}"));
            known.check(&quorum).unwrap();
            block_on(quorum.shutdown());
            if done {
                break;
            }
            k += if long_count(10) == 10 { 1 } else { 3 };
        }
        println!("errno {errno}: every operation up to {k}");
        assert!(k > 500, "the run is too short to mean much");
    }
}

#[test]
fn a_kill_between_any_two_disk_operations_and_a_power_cut_later_lose_nothing() {
    let mut k = 1;
    loop {
        let disk = Arc::new(memory());
        let left = AtomicU64::new(k);
        let machine = Arc::downgrade(&disk);
        disk.set_hook(Some(Arc::new(move |_, _: &Path| {
            if left.fetch_sub(1, Ordering::Relaxed) == 1
                && let Some(machine) = machine.upgrade()
            {
                machine.power_cut(0, PowerCut::KeepAll);
            }
        })));
        let mut known = Known::default();
        let mut draws = Draws(4);
        let mut steps = 0;
        if let Ok(quorum) = block_on(Quorum::start(busy(&disk))) {
            if known.check(&quorum).is_ok() {
                while steps < 120 && known.step(&quorum, draws.next()) {
                    steps += 1;
                }
            }
            known.seen = Some(quorum.image());
            block_on(quorum.shutdown());
        }
        let done = disk.operations() < k;
        disk.set_hook(None);
        disk.power_cut(k, PowerCut::KeepAll);
        let quorum = block_on(Quorum::start(busy(&disk))).unwrap();
        known.check(&quorum).unwrap();
        for _ in 0..k % 3 {
            assert!(known.step(&quorum, draws.next()));
        }
        known.seen = Some(quorum.image());
        block_on(quorum.shutdown());
        disk.power_cut(k, PowerCut::LoseUnsynced);
        let quorum = block_on(Quorum::start(busy(&disk)))
            .unwrap_or_else(|error| panic!("killed at operation {k}: {error}"));
        known.check(&quorum).unwrap();
        block_on(quorum.shutdown());
        if done {
            break;
        }
        k += 1;
    }
    println!("killed at every operation up to {k}");
    assert!(k > 200, "the run is too short to mean much");
}

#[test]
fn a_frame_whose_sync_failed_is_made_durable_before_it_counts() {
    let disk = memory();
    let quorum = block_on(registered(config(&disk)));
    disk.inject(SimFault::errno(5).on(DiskOp::Sync));
    block_on(quorum.create_topic(topic("a", 1))).unwrap_err();
    block_on(quorum.shutdown());
    disk.power_cut(1, PowerCut::KeepAll);
    // The page cache has it, and after a sync that failed the kernel takes its pages for clean.
    let shown = {
        let quorum = block_on(Quorum::start(config(&disk))).unwrap();
        let shown = quorum.image();
        block_on(quorum.shutdown());
        shown
    };
    for seed in 0..20 {
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        let quorum = block_on(Quorum::start(config(&disk))).unwrap();
        assert_eq!(
            without_controller(&quorum.image()),
            without_controller(&shown)
        );
        block_on(quorum.shutdown());
    }
}

#[test]
fn a_hundred_restarts_change_nothing_but_the_broker_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let config = QuorumConfig {
        snapshot_entries: 20,
        ..config_on_files(dir.path())
    };
    let mut known = Known::default();
    let mut draws = Draws(100);
    for run in 0..100 {
        let config = QuorumConfig {
            expect_existing: run > 0,
            ..config.clone()
        };
        let quorum = block_on(Quorum::start(config)).unwrap();
        known.check(&quorum).unwrap();
        for draw in [draws.next(), draws.next(), 35] {
            assert!(known.step(&quorum, draw), "run {run}");
        }
        known.seen = Some(quorum.image());
        block_on(quorum.shutdown());
    }
    assert!(
        known.next_producer_id >= 100 * PRODUCER_ID_BLOCK,
        "{}",
        known.next_producer_id
    );
}

#[test]
fn everything_is_there_after_a_restart_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let quorum = block_on(registered(config_on_files(dir.path())));
        let new = NewTopic {
            configs: settings(&[("a", "b")]),
            ..topic("flights", 12)
        };
        block_on(quorum.create_topic(new)).unwrap();
        block_on(quorum.create_topic(topic("gone", 1))).unwrap();
        block_on(quorum.delete_topic("gone")).unwrap();
        block_on(quorum.create_partitions("flights", 14)).unwrap();
        block_on(quorum.create_internal_topic(topic("__offsets", 50))).unwrap();
        block_on(quorum.allocate_producer_ids()).unwrap();
        block_on(quorum.shutdown());
        quorum.image()
    };
    let begin = Instant::now();
    let quorum = block_on(Quorum::start(config_on_files(dir.path()))).unwrap();
    println!("restart on files: {:?}", begin.elapsed());
    assert_eq!(
        without_controller(&quorum.image()),
        without_controller(&before)
    );
    let block = block_on(quorum.allocate_producer_ids()).unwrap();
    assert_eq!(block, 1_000..2_000);
    block_on(quorum.shutdown());
}

#[test]
fn snapshots_keep_the_log_short_and_the_state_whole() {
    let disk = memory();
    let config = QuorumConfig {
        snapshot_entries: 50,
        ..config(&disk)
    };
    let mut quorum = block_on(registered(config.clone()));
    block_on(quorum.create_topic(topic("kept", 3))).unwrap();
    for round in 0..1_000 {
        let name = format!("t-{round}");
        block_on(quorum.create_topic(topic(&name, 2))).unwrap();
        block_on(quorum.delete_topic(&name)).unwrap();
        if round % 100 == 99 {
            let before = quorum.image();
            block_on(quorum.shutdown());
            quorum = block_on(Quorum::start(config.clone())).unwrap();
            assert_eq!(
                without_controller(&quorum.image()),
                without_controller(&before)
            );
        }
    }
    let names = disk.list(Path::new(DIR)).unwrap();
    let bytes: u64 = names.iter().map(|name| name.len).sum();
    assert!(bytes < 3 << 20, "{names:?}");
    assert!(
        names.iter().any(|name| name.name == "snapshot"),
        "{names:?}"
    );
    assert_eq!(
        quorum
            .image()
            .topics
            .values()
            .map(|topic| &*topic.name)
            .collect::<Vec<_>>(),
        ["kept"]
    );
    block_on(quorum.shutdown());
}
