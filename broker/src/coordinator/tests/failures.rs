//! What a shard does when its log cannot be written or read: it never guesses and never serves what the log does not say.

use std::io;

use logweir_proto::record::{BatchBuilder, Compression, RecordBatch};
use logweir_storage::disk::{DiskOp, SimFault};

use super::*;

fn loads(world: &World) -> usize {
    world.journal.loads.load(Ordering::Relaxed)
}

/// A batch that no coordinator wrote.
fn foreign(key: Option<&[u8]>) -> RecordBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    let time = Timestamp::new(1);
    builder.append(time, key, Some(b"v"), &[]).unwrap();
    RecordBatch::from_bytes(builder.build().unwrap()).unwrap()
}

fn append_foreign(world: &World, key: Option<&[u8]>) {
    let partition = world.partition(0);
    let epoch = partition.leader_epoch();
    partition.append_in(epoch, &foreign(key)).unwrap();
}

#[tokio::test]
async fn on_a_full_disk_who_waits_is_told_and_the_state_is_the_logs_again_when_there_is_room() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    let waits = world.begin(Ask::Wait("b"));
    world
        .disk
        .inject(SimFault::new(io::ErrorKind::StorageFull).forever());
    for _ in 0..3 {
        let refused = world.call(set("a", "2")).await.unwrap_err();
        assert!(refused.code.is_retriable(), "{refused}");
    }
    let told = within(waits.wait()).await.unwrap_err();
    assert_eq!(told.code, ErrorCode::CoordinatorNotAvailable, "{told}");
    world.disk.clear_faults();
    assert_eq!(world.value("a").await, Some("1".to_owned()));
    assert!(loads(&world) >= 2);
    assert_eq!(world.ask(set("a", "3")).await, Told::Done);
    assert_eq!(world.dump().await, world.replayed());
    assert_eq!(world.coordinator().unready(), None);
}

#[tokio::test]
async fn when_a_commit_fails_everybody_is_told_and_nothing_is_served_any_more() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    let waits = world.begin(Ask::Wait("b"));
    world
        .disk
        .inject(SimFault::errno(5).on(DiskOp::Sync).forever());
    let lost = world.call(set("a", "2")).await.unwrap_err();
    assert_eq!(lost.code, ErrorCode::CoordinatorNotAvailable, "{lost}");
    let told = within(waits.wait()).await.unwrap_err();
    assert_eq!(told.code, ErrorCode::CoordinatorNotAvailable, "{told}");
    until("the trouble", || world.coordinator().unready().is_some()).await;
    let refused = world.call(Ask::Get("a")).await.unwrap_err();
    assert!(refused.message.contains("offline"), "{refused}");
}

#[tokio::test]
async fn a_shard_of_an_older_leader_epoch_writes_nothing_and_the_next_has_its_state() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    let waits = world.begin(Ask::Wait("b"));
    let end = world.partition(0).log().log_end_offset();
    // The partition knows of the epoch before the coordinator is told.
    world
        .partition(0)
        .lead_in(logweir_proto::LeaderEpoch::new(9));
    let fenced = world.call(set("a", "2")).await.unwrap_err();
    assert_eq!(fenced.code, ErrorCode::NotCoordinator, "{fenced}");
    let told = within(waits.wait()).await.unwrap_err();
    assert_eq!(told.code, ErrorCode::NotCoordinator);
    assert_eq!(world.partition(0).log().log_end_offset(), end);
    world.run().partitions.apply(&image(1, 9));
    assert_eq!(world.value("a").await, Some("1".to_owned()));
    assert_eq!(world.ask(set("a", "2")).await, Told::Done);
}

#[tokio::test]
async fn a_partition_that_is_no_longer_led_here_answers_so_and_comes_back_with_the_next_event() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    let waits = world.begin(Ask::Wait("b"));
    let id = PartitionId::new(0);
    world.coordinator().on_leadership(Leadership::Lost(id));
    let told = within(waits.wait()).await.unwrap_err();
    assert_eq!(told.code, ErrorCode::NotCoordinator, "{told}");
    assert_eq!(world.coordinator().led(), []);
    assert!(world.coordinator().begin("key", Ask::Get("a")).is_err());
    let partition = world.partition(0);
    let epoch = partition.leader_epoch();
    let gained = Leadership::Gained(partition, epoch);
    world.coordinator().on_leadership(gained.clone());
    assert_eq!(world.value("a").await, Some("1".to_owned()));
    let before = loads(&world);
    // Told once more, which changes nothing.
    world.coordinator().on_leadership(gained);
    assert_eq!(world.value("a").await, Some("1".to_owned()));
    assert_eq!(loads(&world), before);
}

#[tokio::test]
async fn without_its_topic_a_coordinator_is_not_available() {
    let world = World::start(1);
    world.run().partitions.apply(&Image::default());
    let refused = world.coordinator().begin("key", Ask::Get("a"));
    let refused = refused.err().expect("there is no topic");
    assert_eq!(refused.code, ErrorCode::CoordinatorNotAvailable);
    assert_eq!(world.coordinator().led(), []);
}

#[tokio::test]
async fn what_somebody_else_wrote_is_noticed_and_replayed() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    append_foreign(&world, Some(b"v/foreign"));
    let doubted = world.call(set("a", "2")).await.unwrap_err();
    assert_eq!(
        doubted.code,
        ErrorCode::CoordinatorNotAvailable,
        "{doubted}"
    );
    assert_eq!(world.value("foreign").await, Some("v".to_owned()));
    // It was in the log before the doubt arose: the caller was told that it may try again.
    assert_eq!(world.value("a").await, Some("2".to_owned()));
    assert_eq!(world.dump().await, world.replayed());
}

#[tokio::test]
async fn a_log_that_holds_what_nobody_can_read_is_not_served_and_says_so() {
    for (key, reason) in [
        (Some(&b"x/unknown"[..]), "no known type"),
        (Some(&b"\xff"[..]), "utf-8"),
        (None, "no key"),
    ] {
        let mut world = World::start(1);
        world.ask(set("a", "1")).await;
        append_foreign(&world, key);
        world.crash(0, PowerCut::KeepAll);
        until("the trouble", || world.coordinator().unready().is_some()).await;
        let trouble = world.coordinator().unready().unwrap();
        assert!(trouble.contains(reason), "{trouble}");
        let refused = world.call(Ask::Get("a")).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::CoordinatorNotAvailable);
        assert!(refused.message.contains(reason), "{refused}");
    }
}

#[tokio::test]
async fn a_log_without_its_beginning_is_not_taken_for_a_whole_one() {
    let mut world = World::start(1);
    world.ask(set("a", "1")).await;
    world.ask(set("b", "1")).await;
    let before = Some(Offset::new(1));
    world.partition(0).delete_records(before).unwrap();
    world.crash(0, PowerCut::KeepAll);
    until("the trouble", || world.coordinator().unready().is_some()).await;
    let trouble = world.coordinator().unready().unwrap();
    assert!(trouble.contains("were deleted"), "{trouble}");
}

#[tokio::test]
async fn a_machine_that_panics_is_loaded_anew() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    let waits = world.begin(Ask::Wait("b"));
    let panicked = world.call(Ask::Panic).await.unwrap_err();
    assert_eq!(panicked.code, ErrorCode::CoordinatorNotAvailable);
    assert!(within(waits.wait()).await.is_err());
    assert_eq!(world.value("a").await, Some("1".to_owned()));
    assert_eq!(loads(&world), 2);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_for_a_moment_is_read_again() {
    let mut world = World::start(1);
    world.ask(set("a", "1")).await;
    let run = world.run.take().unwrap();
    run.coordinator.close();
    run.partitions.close().unwrap();
    drop(run);
    world.disk.power_cut(0, PowerCut::KeepAll);
    // The snapshot is looked for first.
    let fault = SimFault::errno(5).on(DiskOp::Open).under("/logs");
    world.restart_with(|disk| {
        disk.inject(fault.clone());
    });
    assert_eq!(world.value("a").await, Some("1".to_owned()));
}
