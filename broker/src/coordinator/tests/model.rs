//! Random requests, timers, snapshots, reloads, full disks and power cuts: the state that serves is at every step the one
//! that a replay of the log gives, and everything that was answered is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use logweir_storage::disk::SimFault;
use proptest::prelude::*;

use super::*;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    Set(usize, Option<u8>),
    /// So many values for a key, none of them waited for.
    Burst(usize, u8),
    Wait(usize),
    Later(usize, i64),
    Join(usize, u64),
    Advance(u64),
    AdvanceSessions(u64),
    StopAndStart,
    Crash(u64, bool),
    /// The disk is full at the n-th operation from now on, for good or once; then a crash or none.
    FullDisk(u64, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    prop_oneof![
        8 => (key(), prop::option::weighted(0.8, any::<u8>())).prop_map(|(k, v)| Step::Set(k, v)),
        4 => (key(), 1_u8..8).prop_map(|(k, n)| Step::Burst(k, n)),
        2 => key().prop_map(Step::Wait),
        2 => (key(), 1_i64..100_000).prop_map(|(k, ms)| Step::Later(k, ms)),
        2 => (key(), 1_u64..100_000).prop_map(|(k, ms)| Step::Join(k, ms)),
        3 => (0_u64..90_000).prop_map(Step::Advance),
        2 => (0_u64..90_000).prop_map(Step::AdvanceSessions),
        1 => Just(Step::StopAndStart),
        2 => (any::<u64>(), any::<bool>()).prop_map(|(seed, lose)| Step::Crash(seed, lose)),
        2 => (1_u64..6, any::<bool>()).prop_map(|(k, forever)| Step::FullDisk(k, forever)),
    ]
}

/// What is known of the values that were set: they may be any of these.
#[derive(Default)]
struct Known(BTreeMap<&'static str, BTreeSet<Option<String>>>);

impl Known {
    fn may_be(&mut self, key: &'static str, value: Option<String>) {
        let values = self.0.entry(key).or_insert_with(|| BTreeSet::from([None]));
        values.insert(value);
    }

    fn is(&mut self, key: &'static str, value: Option<String>) {
        self.0.insert(key, BTreeSet::from([value]));
    }

    fn check(&self, state: &Durable) {
        for (key, values) in &self.0 {
            let found = state.get(&format!("v/{key}")).cloned();
            assert!(
                values.contains(&found),
                "{key} is {found:?}, not of {values:?}"
            );
        }
    }
}

/// Lets the answers that are there arrive; of the others nothing is known.
async fn settle(known: &mut Known, pending: Vec<(&'static str, String, Pending<Toy>)>) {
    for (key, value, call) in pending {
        match within(call.wait()).await {
            Ok(_) => known.is(key, Some(value)),
            Err(_) => known.may_be(key, Some(value)),
        }
    }
}

async fn take(world: &mut World, known: &mut Known, step: Step, number: usize) {
    match step {
        Step::Set(key, value) => {
            let (key, value) = (KEYS[key], value.map(|value| value.to_string()));
            match world.call(Ask::Set(key, value.clone())).await {
                Ok(_) => known.is(key, value),
                Err(_) => known.may_be(key, value),
            }
        }
        Step::Burst(key, count) => {
            let mut pending = Vec::new();
            for n in 0..count {
                let value = format!("{number}-{n}");
                let call = world.coordinator().begin("key", set(KEYS[key], &value));
                pending.extend(call.ok().map(|call| (KEYS[key], value, call)));
            }
            if count % 2 == 0 {
                // The power goes while some of it is on its way.
                world.crash(u64::from(count), PowerCut::LoseUnsynced);
            }
            settle(known, pending).await;
        }
        Step::Wait(key) => drop(world.coordinator().begin("key", Ask::Wait(KEYS[key]))),
        // Timers have keys of their own.
        Step::Later(key, span_ms) => {
            let _ = world
                .call(Ask::Later(["t0", "t1", "t2", "t3"][key], span_ms))
                .await;
        }
        Step::Join(key, timeout_ms) => {
            let _ = world
                .call(Ask::Join(["m0", "m1", "m2", "m3"][key], timeout_ms))
                .await;
        }
        Step::Advance(span_ms) => world.clock.advance(Duration::from_millis(span_ms)),
        Step::AdvanceSessions(span_ms) => {
            world.clock.advance_sessions(Duration::from_millis(span_ms));
        }
        Step::StopAndStart => world.stop_and_start(),
        Step::Crash(seed, lose) => {
            let cut = [PowerCut::KeepAll, PowerCut::LoseUnsynced][usize::from(lose)];
            world.crash(seed, cut);
        }
        Step::FullDisk(k, forever) => {
            let mut fault = SimFault::new(io::ErrorKind::StorageFull)
                .under("/logs")
                .at(k);
            if forever {
                fault = fault.forever();
            }
            world.disk.inject(fault);
            for n in 0..3 {
                let value = format!("{number}-{n}");
                match world.call(set("a", &value)).await {
                    Ok(_) => known.is("a", Some(value)),
                    Err(_) => known.may_be("a", Some(value)),
                }
            }
            world.disk.clear_faults();
            // A sync that found no room ends the run's data directory.
            if world.run().log_dir.offline().is_some() {
                world.crash(k, PowerCut::LoseUnsynced);
            }
        }
    }
}

async fn run(steps: Vec<Step>) {
    let mut world = World::with(1, |settings| {
        settings.snapshot_records = 5;
        settings.snapshot_pause = Duration::ZERO;
    });
    let mut known = Known::default();
    for (number, step) in steps.into_iter().enumerate() {
        take(&mut world, &mut known, step, number).await;
        let state = world.dump().await;
        assert_eq!(state, world.replayed(), "after step {number}");
        known.check(&state);
        for (key, values) in &mut known.0 {
            *values = BTreeSet::from([state.get(&format!("v/{key}")).cloned()]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var("LOGWEIR_PROOF").is_ok_and(|value| value == "full") { 2_000 } else { 200 },
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_state_that_serves_is_the_one_that_a_replay_gives(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
