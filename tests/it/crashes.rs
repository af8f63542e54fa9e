//! Real kill -9 of the process under load: nothing acknowledged is lost, whoever waited for acks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use logweir_client::{Client, Producer, ProducerRecord};
use logweir_proto::grpc::v1;
use logweir_tests::{
    DEADLINE, GrpcBroker, Ledger, Seeded, ServeOptions, proof_count, record, wait_until_async,
};

const PARTITIONS: i32 = 6;
/// Topics and their flush policies: for producers that retry, and for clients that never do.
const TOPICS: [(&str, &str); 4] = [
    ("retried", "per-ack"),
    ("retried-os", "os"),
    ("bare", "per-ack"),
    ("bare-os", "os"),
];
/// Loads at a time of each topic.
const LOADS: usize = 2;
/// The least number of records of each topic that are acknowledged between two kills.
const LEAST: usize = 20;
/// Keys of one load.
const KEYS: u64 = 5;
/// Unanswered records of one retrying load.
const WINDOW: usize = 64;

/// A producer as users have it: idempotent, retrying, several records in flight.
async fn retrying_load(
    producer: Producer,
    topic: &'static str,
    name: String,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
) {
    let mut in_flight = std::collections::VecDeque::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{name}-{}", number % KEYS);
        let value = ledger.value(&key);
        let record = ProducerRecord::new(topic).key(key).value(value.clone());
        let delivery = producer.send(record).await.expect("a send is taken");
        in_flight.push_back((value, delivery));
        if in_flight.len() == WINDOW {
            settle(&ledger, in_flight.pop_front().expect("it is full")).await;
        }
    }
    for sent in in_flight {
        settle(&ledger, sent).await;
    }
}

async fn settle(ledger: &Ledger, (value, delivery): (String, logweir_client::DeliveryFuture)) {
    let stored = delivery
        .await
        .expect("a producer that retries delivers in the end");
    // The broker may have forgotten where, not whether.
    if let Some(offset) = stored.offset {
        ledger.acknowledged(&value, stored.partition.get(), offset.get());
    }
}

/// A client of the bare contract that never sends anything twice: a call that failed is given up.
async fn bare_load(
    address: String,
    topic: &'static str,
    name: String,
    acks: v1::Acks,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
) {
    let mut broker = None;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let Some(connected) = &mut broker else {
            let connect = || async { GrpcBroker::try_connect(&address).await.ok() };
            broker = Some(wait_until_async("the broker is back", DEADLINE, connect).await);
            continue;
        };
        let key = format!("{name}-{}", number % KEYS);
        let value = ledger.value(&key);
        let records = vec![record(Some(&key), &value)];
        match connected.produce_records(topic, None, acks, records).await {
            Ok(result) if result.error.is_none() => {
                ledger.acknowledged(&value, result.partition, result.base_offset);
            }
            Ok(_) => {}
            Err(_) => broker = None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_no_acknowledged_record() {
    let kills = proof_count(50);
    let mut seeded = Seeded::from_environment();
    let dir = tempfile::tempdir().unwrap();
    let mut broker = ServeOptions::on_disk(dir.path()).start();
    let address = broker.grpc().to_owned();
    let mut client = GrpcBroker::connect(&address).await;
    // Small segments, so that kills meet rolls too. The page cache outlives a killed process, so nothing
    // may be lost without a sync either.
    for (topic, flush) in TOPICS {
        let configs = [("segment.bytes", "65536"), ("logweir.flush", flush)];
        client.create_topic(topic, PARTITIONS, &configs).await;
    }

    let ledgers = TOPICS.map(|_| Arc::new(Ledger::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut loads = tokio::task::JoinSet::new();
    for ((topic, _), ledger) in TOPICS.iter().zip(&ledgers) {
        for load in 0..LOADS {
            let (name, ledger, stop) = (format!("k{load}"), ledger.clone(), stop.clone());
            if topic.starts_with("retried") {
                let producer = Client::connect(&address).await.unwrap().producer().unwrap();
                loads.spawn(retrying_load(producer, topic, name, ledger, stop));
            } else {
                let acks = if load % 2 == 0 {
                    v1::Acks::All
                } else {
                    v1::Acks::Leader
                };
                loads.spawn(bare_load(address.clone(), topic, name, acks, ledger, stop));
            }
        }
    }
    for kill in 1..=kills {
        let more = LEAST + usize::try_from(seeded.below(200)).unwrap();
        let goals = ledgers.each_ref().map(|ledger| ledger.acknowledged_count());
        let loaded = || async {
            let counts = ledgers.each_ref().map(|ledger| ledger.acknowledged_count());
            let enough = counts
                .iter()
                .zip(goals)
                .all(|(count, goal)| *count >= goal + LEAST);
            (enough && counts[0] >= goals[0] + more).then_some(())
        };
        let what = format!("records are acknowledged before kill {kill}");
        wait_until_async(&what, DEADLINE, loaded).await;
        broker.kill9();
        broker.restart();
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(load) = loads.join_next().await {
        load.unwrap();
    }

    // Once as it is, once after a last kill: what a reader was shown stays.
    for life in ["running", "killed once more"] {
        let mut client = GrpcBroker::connect(&address).await;
        for ((topic, _), ledger) in TOPICS.iter().zip(&ledgers) {
            let verdict = ledger.check(&client.read_topic(topic).await);
            println!("{kills} kills, {life}, {topic}: {verdict:?}");
            assert!(
                verdict.complaints.is_empty(),
                "{topic}, {life}: {:#?}",
                verdict.complaints
            );
            assert!(
                verdict.acknowledged >= LEAST * usize::try_from(kills).unwrap(),
                "{verdict:?}"
            );
        }
        broker.kill9();
        broker.restart();
    }
}
