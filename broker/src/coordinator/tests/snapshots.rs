//! Snapshots spare the next load its work, and whatever becomes of them the state is the log's.

use logweir_storage::disk::{DiskOp, OpenMode, SimFault};

use super::*;

fn end_of(world: &World) -> Option<i64> {
    let snapshot = world.partition(0).log().read_snapshot().unwrap();
    snapshot.map(|snapshot| snapshot.end.get())
}

async fn fill(world: &World, count: usize) {
    for number in 0..count {
        world.ask(set("a", &number.to_string())).await;
    }
}

/// How many records the load of a new run replays.
async fn replays_of_a_restart(world: &mut World) -> usize {
    let replayed = Arc::clone(&world.journal);
    let before = replayed.replayed.load(Ordering::Relaxed);
    world.crash(0, PowerCut::KeepAll);
    world.value("a").await;
    replayed.replayed.load(Ordering::Relaxed) - before
}

#[tokio::test]
async fn a_load_reads_the_snapshot_and_what_came_after_it() {
    let mut world = World::start(1);
    fill(&world, 20).await;
    assert_eq!(replays_of_a_restart(&mut world).await, 20);
    world.clock.advance(Duration::from_secs(61));
    until("the snapshot", || end_of(&world) == Some(20)).await;
    fill(&world, 3).await;
    assert_eq!(replays_of_a_restart(&mut world).await, 1 + 3);
    assert_eq!(world.dump().await, world.replayed());
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let world = World::start(1);
    fill(&world, 2).await;
    world.clock.advance(Duration::from_secs(61));
    until("the snapshot", || end_of(&world) == Some(2)).await;
    let created = world.disk.operations_of(DiskOp::Create);
    for _ in 0..5 {
        world.clock.advance(Duration::from_secs(61));
        assert_eq!(world.value("a").await, Some("1".to_owned()));
    }
    assert_eq!(world.disk.operations_of(DiskOp::Create), created);
}

#[tokio::test]
async fn many_records_are_a_reason_for_a_snapshot_too() {
    let world = World::with(1, |settings| settings.snapshot_records = 10);
    fill(&world, 9).await;
    assert_eq!(end_of(&world), None);
    fill(&world, 1).await;
    until("the snapshot", || end_of(&world) == Some(10)).await;
    // The next one waits for the pause.
    fill(&world, 10).await;
    world.clock.advance(Duration::from_secs(11));
    fill(&world, 1).await;
    until("the snapshot", || end_of(&world) == Some(21)).await;
}

#[tokio::test]
async fn a_clean_stop_leaves_a_snapshot_of_everything() {
    let mut world = World::start(1);
    fill(&world, 7).await;
    world.stop_and_start();
    assert_eq!(world.value("a").await, Some("6".to_owned()));
    assert_eq!(end_of(&world), Some(7));
    assert_eq!(replays_of_a_restart(&mut world).await, 1);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_or_replayed_is_put_aside_and_the_log_tells_the_same() {
    for state in [
        &b"\0\0\0\x09x/unknown\xff\xff\xff\xff"[..],
        &b"\0\0\0\x09"[..],
    ] {
        let mut world = World::start(1);
        fill(&world, 5).await;
        let log = world.partition(0).log().clone();
        let snapshot = logweir_storage::StateSnapshot {
            end: Offset::new(5),
            leader_epoch: log.leader_epoch_of(Offset::new(4)),
            taken_at: world.clock.now(),
            state: Bytes::copy_from_slice(state),
        };
        log.write_snapshot(&snapshot).unwrap();
        assert_eq!(
            replays_of_a_restart(&mut world).await,
            5 + usize::from(state.len() > 4)
        );
        assert_eq!(end_of(&world), None);
        assert_eq!(world.dump().await, world.replayed());
    }
}

#[tokio::test]
async fn a_bit_that_flips_in_a_snapshot_is_noticed() {
    let mut world = World::start(1);
    fill(&world, 5).await;
    world.stop_and_start();
    world.value("a").await;
    let path = world.snapshot_path();
    let file = world.disk.open(&path, OpenMode::Read).unwrap();
    for position in 0..file.len().unwrap() {
        world.disk.flip_bit(&path, position, 3).unwrap();
        assert_eq!(end_of(&world), None, "byte {position}");
        let aside = path.with_extension("unreadable");
        world.disk.rename(&aside, &path).unwrap();
        world.disk.flip_bit(&path, position, 3).unwrap();
    }
    assert_eq!(end_of(&world), Some(5));
}

/// The disk fails at each operation of the writing in turn, and then loses its power.
#[tokio::test]
async fn after_a_crash_at_any_operation_of_a_snapshot_the_state_is_the_logs() {
    let mut failed = 0;
    for (k, seed) in (1..=10).flat_map(|k| (0..3).map(move |seed| (k, seed))) {
        let mut world = World::start(1);
        fill(&world, 3).await;
        let end = world.partition(0).log().log_end_offset();
        let fault = world.disk.inject(
            SimFault::errno(5)
                .under(world.snapshot_path().parent().unwrap())
                .at(k)
                .forever(),
        );
        world.coordinator().close();
        failed += usize::from(fault.fired() > 0);
        world.disk.clear_faults();
        world.crash(seed, PowerCut::LoseUnsynced);
        assert_eq!(
            world.value("a").await,
            Some("2".to_owned()),
            "operation {k}, seed {seed}"
        );
        assert_eq!(world.partition(0).log().log_end_offset(), end);
        assert_eq!(world.dump().await, world.replayed());
    }
    assert!(failed >= 12, "only {failed} snapshots were disturbed");
}

/// What follows an old snapshot may once have held a tombstone that compaction has removed since: the snapshot would
/// bring back what it deleted.
#[tokio::test]
async fn an_old_snapshot_counts_only_if_nothing_follows_it() {
    let mut world = World::start(1);
    fill(&world, 5).await;
    world.stop_and_start();
    world.value("a").await;
    world.clock.advance(13 * HOUR);
    assert_eq!(replays_of_a_restart(&mut world).await, 1, "nothing follows");
    fill(&world, 2).await;
    assert_eq!(replays_of_a_restart(&mut world).await, 7, "too old");
    assert_eq!(world.dump().await, world.replayed());
}
