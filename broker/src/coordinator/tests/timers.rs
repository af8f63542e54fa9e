//! What is due by one of the two times, and what it costs to wait for it.

use super::*;

#[tokio::test]
async fn what_is_due_is_done_in_its_order_when_the_clock_was_moved() {
    let world = World::start(1);
    world.ask(Ask::Later("late", 7_200_000)).await;
    world.ask(Ask::Later("soon", 3_600_000)).await;
    world.ask(Ask::Join("member", 5_400_000)).await;
    world.clock.advance(HOUR / 2);
    let before = world.partition(0).log().log_end_offset();
    world.clock.advance(3 * HOUR);
    // Not in a moment: now.
    assert_eq!(
        world.partition(0).log().log_end_offset(),
        before.plus(4),
        "two timers, two records each"
    );
    let state = world.dump().await;
    assert_eq!(state, world.replayed());
    assert_eq!(state["v/soon"], "rung");
    assert_eq!(state["v/late"], "rung");
    assert!(state.contains_key("m/member"), "sessions did not move");
    world.clock.advance_sessions(2 * HOUR);
    assert_eq!(world.value("member").await, Some("expired".to_owned()));
}

#[tokio::test]
async fn sessions_begin_anew_with_a_load_and_wall_timers_do_not() {
    let mut world = World::start(1);
    world.ask(Ask::Join("member", 3_600_000)).await;
    world.ask(Ask::Later("timer", 3_600_000)).await;
    world.clock.advance_sessions(HOUR / 2);
    world.clock.advance(HOUR / 2);
    world.crash(0, PowerCut::LoseUnsynced);
    world.dump().await;
    world.clock.advance_sessions(HOUR * 3 / 4);
    world.clock.advance(HOUR * 3 / 4);
    let state = world.dump().await;
    assert!(state.contains_key("m/member"), "{state:?}");
    assert_eq!(state["v/timer"], "rung");
}

#[tokio::test]
async fn what_became_due_while_nobody_served_is_done_after_the_load() {
    let mut world = World::start(1);
    let clock = world.clock.clone();
    let running = tokio::spawn(async move { clock.run().await });
    world.ask(Ask::Later("timer", 3_600_000)).await;
    world.disk.power_cut(0, PowerCut::KeepAll);
    world.run = None;
    world.clock.advance(2 * HOUR);
    world.restart();
    let begun = Instant::now();
    while world.value("timer").await.is_none() {
        assert!(begun.elapsed() < PATIENCE, "the timer does not ring");
    }
    running.abort();
}

/// A thousand members that send heartbeats: the timer is not set with every one of them, and between them nothing runs.
#[tokio::test]
async fn idle_members_and_idle_shards_wake_nobody() {
    const MEMBERS: u64 = 1_000;
    let world = World::start(16);
    let clock = world.clock.clone();
    let running = tokio::spawn(async move { clock.run().await });
    let mut pending = Vec::new();
    for number in 0..MEMBERS {
        let member: &'static str = Box::leak(format!("m{number}").into_boxed_str());
        pending.push((member, world.begin(Ask::Join(member, 45_000))));
    }
    let mut members = Vec::new();
    for (member, join) in pending {
        within(join.wait()).await.unwrap();
        members.push(member);
    }
    assert_ne!(
        world.coordinator().partition_for("another"),
        world.coordinator().partition_for("key")
    );
    let metrics = Handle::current().metrics();
    let rings = || world.journal.rings.load(Ordering::Relaxed);
    let parks = metrics.worker_park_count(0);
    crate::clock::sleep(Duration::from_millis(300)).await;
    let parks = metrics.worker_park_count(0) - parks;
    assert!(parks <= 3, "{parks} wake-ups in 300 ms, one is this test's");
    assert_eq!(rings(), 0);
    // Three minutes of heartbeats every three seconds.
    let begun = Instant::now();
    for _ in 0..60 {
        world.clock.advance_sessions(Duration::from_secs(3));
        for member in &members {
            assert_eq!(world.call(Ask::Heartbeat(member)).await, Ok(Told::Done));
        }
    }
    let spent = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..10_000 {
        let empty = world.coordinator().call("another", Ask::Get("a")).await;
        assert_eq!(empty, Ok(Told::Value(None)));
    }
    println!(
        "10,000 reads of a machine without members took {:?}",
        begun.elapsed()
    );
    println!("60 rounds of {MEMBERS} heartbeats took {spent:?}, of 180 s that they stand for");
    assert_eq!(rings(), 0, "nobody's session ended");
    assert_eq!(world.journal.loads.load(Ordering::Relaxed), 16);
    world.clock.advance_sessions(Duration::from_secs(46));
    assert_eq!(rings(), 1_000);
    running.abort();
}

#[tokio::test]
async fn a_machine_whose_time_never_passes_is_loaded_anew_and_does_not_keep_the_clock() {
    let world = World::start(1);
    world.ask(set("a", "1")).await;
    let waits = world.begin(Ask::Wait("b"));
    world.ask(Ask::Stall).await;
    world.clock.advance_sessions(Duration::from_secs(1));
    let told = within(waits.wait()).await.unwrap_err();
    assert!(told.message.contains("does not end"), "{told}");
    assert_eq!(world.value("a").await, Some("1".to_owned()));
    let rings = world.journal.rings.load(Ordering::Relaxed);
    assert!((1_000..1_100).contains(&rings), "{rings}");
}
