//! When an answer may leave, and what becomes of those that nobody waits for.

use std::sync::mpsc::{Receiver, Sender, channel};

use logweir_storage::disk::DiskOp;

use super::*;

/// Holds every sync of the disk until it is let go.
struct Gate {
    entered: Receiver<()>,
    release: Sender<()>,
}

fn hold_syncs(disk: &SimDisk) -> Gate {
    let (entered, at_sync) = channel();
    let (release, released) = channel::<()>();
    let gate = Mutex::new((entered, released));
    disk.set_hook(Some(Arc::new(move |op, _: &Path| {
        if op == DiskOp::Sync {
            let gate = gate.lock();
            let _ = gate.0.send(());
            // An error is that the gate is gone, which opens it.
            let _ = gate.1.recv();
        }
    })));
    Gate {
        entered: at_sync,
        release,
    }
}

/// Whether a call has its answer, after everything that runs had its turn.
async fn is_answered(wait: &mut (impl Future<Output = Result<Told, ApiError>> + Unpin)) -> bool {
    let turn = Duration::from_millis(20);
    tokio::time::timeout(turn, wait).await.is_ok()
}

#[tokio::test]
async fn no_answer_leaves_before_what_it_tells_of_is_committed() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    let gate = hold_syncs(&world.disk);
    let mut write = Box::pin(world.begin(set("a", "2")).wait());
    gate.entered.recv_timeout(PATIENCE).unwrap();
    // The next decision sees what is not committed yet, so its answer waits, too; a timer's records do not hurry it.
    let mut read = Box::pin(world.begin(Ask::Get("a")).wait());
    assert!(!is_answered(&mut write).await && !is_answered(&mut read).await);
    drop(gate.release);
    assert_eq!(within(write).await, Ok(Told::Done));
    assert_eq!(within(read).await, Ok(Told::Value(Some("2".to_owned()))));
}

#[tokio::test]
async fn a_read_waits_for_nothing_when_everything_is_committed() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    let gate = hold_syncs(&world.disk);
    assert_eq!(world.value("a").await, Some("1".to_owned()));
    drop(gate);
}

#[tokio::test]
async fn a_call_is_answered_by_the_decision_of_another_and_after_its_commit() {
    let world = World::start(1);
    let mut waits = Box::pin(world.begin(Ask::Wait("a")).wait());
    world.ask(set("b", "1")).await;
    assert!(!is_answered(&mut waits).await);
    let gate = hold_syncs(&world.disk);
    let mut write = Box::pin(world.begin(set("a", "1")).wait());
    assert!(!is_answered(&mut waits).await && !is_answered(&mut write).await);
    drop(gate);
    assert_eq!(within(waits).await, Ok(Told::Done));
    assert_eq!(within(write).await, Ok(Told::Done));
}

#[tokio::test]
async fn a_call_that_writes_may_be_answered_by_a_later_one() {
    let world = World::start(1);
    let first = world.begin(Ask::SetTwice("a", "1".to_owned()));
    assert_eq!(world.value("a").await, Some("1".to_owned()));
    world.ask(set("a", "2")).await;
    assert_eq!(within(first.wait()).await, Ok(Told::Done));
}

#[tokio::test]
async fn who_goes_away_is_forgotten_and_what_was_decided_stands() {
    let world = World::start(1);
    let waits = world.begin(Ask::Wait("a"));
    let abandoned = || world.journal.abandoned.lock().len();
    assert_eq!(abandoned(), 0);
    drop(waits);
    assert_eq!(abandoned(), 1);
    // Also one that is in the middle of waiting.
    let mut waits = Box::pin(world.begin(Ask::Wait("a")).wait());
    assert!(!is_answered(&mut waits).await);
    drop(waits);
    assert_eq!(abandoned(), 2);
    // One that was answered is none of the machine's business any more.
    drop(world.begin(set("a", "1")));
    assert_eq!(abandoned(), 2);
    assert_eq!(world.value("a").await, Some("1".to_owned()));
}

#[tokio::test]
async fn more_calls_than_a_shard_has_places_for_are_refused_until_one_goes() {
    let world = World::with(1, |settings| settings.max_calls = 2);
    let first = world.begin(Ask::Wait("a"));
    let _second = world.begin(Ask::Wait("a"));
    let refused = world.call(Ask::Get("a")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::CoordinatorNotAvailable);
    drop(first);
    assert_eq!(world.call(Ask::Get("a")).await, Ok(Told::Value(None)));
}

#[tokio::test]
async fn what_is_too_large_for_the_topic_is_refused_and_changes_nothing() {
    let world = World::start(1);
    world.ask(set("a", "small")).await;
    let waits = world.begin(Ask::Wait("a"));
    let end = world.partition(0).log().log_end_offset();
    let refused = world
        .call(set("a", &"x".repeat(2 << 20)))
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::MessageTooLarge);
    let told = within(waits.wait()).await.unwrap_err();
    assert_eq!(told, refused, "the decision was to answer it");
    assert_eq!(world.journal.abandoned.lock().len(), 2);
    assert_eq!(world.value("a").await, Some("small".to_owned()));
    assert_eq!(world.partition(0).log().log_end_offset(), end);
    assert_eq!(world.journal.loads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn while_the_state_is_loaded_callers_are_told_so_and_two_shards_do_not_wait_for_each_other() {
    let mut world = World::start(2);
    let (a, b) = ("a", "b");
    let call = |world: &World, key: &'static str| {
        let coordinator = Arc::clone(&world.run().coordinator);
        async move { coordinator.call(key, set("k", key)).await }
    };
    assert_ne!(
        world.coordinator().partition_for(a),
        world.coordinator().partition_for(b)
    );
    // Only one of them has a log to load.
    within(call(&world, a)).await.unwrap();
    world.crash(0, PowerCut::KeepAll);
    let loading = within(call(&world, a)).await.unwrap_err();
    assert_eq!(loading.code, ErrorCode::CoordinatorLoadInProgress);
    assert_eq!(within(call(&world, b)).await, Ok(Told::Done));
    assert_eq!(world.coordinator().led().len(), 2);
    let begun = Instant::now();
    while within(call(&world, a)).await.is_err() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_clean_stop_tells_who_waits_at_once_and_takes_no_new_calls() {
    let mut world = World::start(1);
    world.ask(set("a", "1")).await;
    let waits = world.begin(Ask::Wait("a"));
    world.coordinator().refuse_calls();
    for refused in [within(waits.wait()).await, world.call(Ask::Get("a")).await] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, ErrorCode::CoordinatorNotAvailable);
        assert!(refused.message.contains("stops"), "{refused}");
    }
    world.stop_and_start();
    assert_eq!(world.value("a").await, Some("1".to_owned()));
}

#[tokio::test]
async fn a_coordinator_that_is_dropped_leaves_no_caller_waiting() {
    let mut world = World::start(1);
    let waits = world.begin(Ask::Wait("a"));
    world.run = None;
    let told = within(waits.wait()).await.unwrap_err();
    assert_eq!(told.code, ErrorCode::CoordinatorNotAvailable);
}
