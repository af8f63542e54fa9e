//! Simulated groups: members join, leave, crash and are slow, answers get lost, the coordinator restarts, topics grow.
//!
//! At every step no partition has two owners in one epoch, and committed offsets never go back. After quiet every
//! partition has exactly one owner. 10,000 seeds by `LOGWEIR_PROOF=full`, a tenth otherwise; `LOGWEIR_SEED` runs one.

mod classic;
mod consumer;

use super::*;

/// Members of a simulated group.
const MEMBERS: usize = 5;
const GROUP: &str = "g";
const FULL_SEEDS: u64 = 10_000;

/// What a simulated client does; one for each protocol.
trait Client {
    fn new(number: usize) -> Self;
    /// Starts if it is stopped; `is_static` says whether with an instance id.
    fn start(&mut self, is_static: bool);
    fn is_running(&self) -> bool;
    /// Takes the next step of the protocol.
    fn step(&mut self, world: &mut World);
    /// Commits what it has consumed.
    fn commit(&mut self, world: &mut World);
    /// Ends, telling the coordinator.
    fn leave(&mut self, world: &mut World);
    /// Ends without a word.
    fn crash(&mut self, world: &mut World);
    /// The coordinator has restarted; answers that were awaited do not come.
    fn lose_calls(&mut self);
    /// What it may consume, as far as it knows.
    fn owned(&self) -> Vec<i32>;
    /// Whether the coordinator takes it for a member still.
    fn is_known(&self, world: &World) -> bool;
}

/// The coordinator, and what is checked.
struct World {
    harness: Harness,
    random: Random,
    /// Whether things go wrong.
    is_quiet: bool,
    /// Who got each partition in each generation (classic).
    given: BTreeMap<(i32, i32), String>,
    /// The last acknowledged commit of each partition.
    committed: BTreeMap<i32, i64>,
    partitions: i32,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let delay = 3 * random.below(2);
        let harness = Harness::with(|config| {
            config.initial_rebalance_delay = Duration::from_secs(delay);
            config.consumer_session_timeout = 10 * SECOND;
            if seed % 2 == 1 {
                // As in a large group.
                config.consumer_batched_size = 2;
                config.consumer_assignment_pause = Duration::from_millis(400);
            }
        });
        let (given, committed) = (BTreeMap::new(), BTreeMap::new());
        Self {
            harness,
            random,
            is_quiet: false,
            given,
            committed,
            partitions: 4,
        }
    }

    /// Whether an answer gets lost.
    fn loses(&mut self) -> bool {
        !self.is_quiet && self.random.chance(10)
    }

    /// Commits a position that lies a little further; the error, if any.
    fn commit(&mut self, member: &str, epoch: i32, partition: i32, position: i64) -> ErrorCode {
        let offset = new_offset("orders", partition, position);
        let code = self.harness.commit_all(GROUP, member, epoch, vec![offset])[0];
        if code == ErrorCode::None {
            let before = self.committed.insert(partition, position).unwrap_or(0);
            assert!(
                position >= before,
                "partition {partition} went back from {before} to {position}"
            );
        }
        code
    }

    fn position(&mut self, partition: i32) -> i64 {
        let group = self.harness.machine.state.groups.get(GROUP);
        let offset =
            group.and_then(|g| g.offset("orders", topic_id(1), PartitionId::new(partition)));
        let position = offset.map_or(0, |o| o.offset.get());
        assert_eq!(
            position,
            self.committed.get(&partition).copied().unwrap_or(0)
        );
        position
    }

    fn grow(&mut self) {
        if self.partitions < 7 {
            self.partitions += 1;
            let (orders, payments) = (("orders", 1, self.partitions), ("payments", 2, 2));
            self.harness.set_topics(&[orders, payments]);
        }
    }
}

fn simulate<C: Client>(seed: u64) {
    let mut world = World::new(seed);
    let mut clients: Vec<C> = (0..MEMBERS).map(C::new).collect();
    for _ in 0..60 + world.random.below(80) {
        disturb(&mut world, &mut clients);
        check_owners(&world, &clients);
    }
    world.is_quiet = true;
    for client in &mut clients {
        client.start(false);
    }
    for _ in 0..60 {
        for client in &mut clients {
            client.step(&mut world);
        }
        check_owners(&world, &clients);
        world.harness.pass(2 * SECOND);
    }
    let mut owned: Vec<i32> = clients.iter().flat_map(Client::owned).collect();
    owned.sort_unstable();
    assert_eq!(
        owned,
        (0..world.partitions).collect::<Vec<_>>(),
        "after quiet"
    );
    world.harness.check_replay();
}

fn disturb<C: Client>(world: &mut World, clients: &mut [C]) {
    let who = usize::try_from(world.random.below(MEMBERS as u64)).unwrap();
    let client = &mut clients[who];
    match world.random.below(100) {
        0..10 => {
            let is_static = world.random.chance(30);
            client.start(is_static);
        }
        10..13 => client.leave(world),
        13..16 => client.crash(world),
        16..60 => client.step(world),
        60..75 => client.commit(world),
        75..93 => {
            let span = Duration::from_millis(world.random.below(4_000));
            world.harness.pass(span);
        }
        93..94 => world.harness.pass(20 * SECOND),
        94..97 => {
            world.harness.restart();
            clients.iter_mut().for_each(Client::lose_calls);
        }
        97..98 => world.grow(),
        _ => world.harness.check_replay(),
    }
}

/// Of those that the coordinator still takes for members, no two may consume one partition.
fn check_owners<C: Client>(world: &World, clients: &[C]) {
    let mut owners = BTreeMap::new();
    for (number, client) in clients.iter().enumerate() {
        if !client.is_running() || !client.is_known(world) {
            continue;
        }
        for partition in client.owned() {
            if let Some(other) = owners.insert(partition, number) {
                panic!("partition {partition} is owned by clients {other} and {number}");
            }
        }
    }
}

fn run_seeds<C: Client>() {
    if let Ok(seed) = std::env::var("LOGWEIR_SEED") {
        println!("LOGWEIR_SEED={seed}");
        return simulate::<C>(seed.parse().expect("a seed is a number"));
    }
    let is_full = std::env::var("LOGWEIR_PROOF").is_ok_and(|value| value == "full");
    let seeds = if is_full { FULL_SEEDS } else { FULL_SEEDS / 10 };
    for seed in 0..seeds {
        let run = std::panic::AssertUnwindSafe(|| simulate::<C>(seed));
        if let Err(panic) = std::panic::catch_unwind(run) {
            println!("LOGWEIR_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn classic_groups_share_partitions_whatever_happens() {
    run_seeds::<classic::ClassicClient>();
}

#[test]
fn consumer_groups_share_partitions_whatever_happens() {
    run_seeds::<consumer::ConsumerClient>();
}
