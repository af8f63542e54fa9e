//! Everything goes wrong, at random, by seed.

use std::collections::HashMap;
use std::time::Duration;

use logweir_proto::{ErrorCode, PartitionId};

use super::config;
use crate::backoff::Random;
use crate::config::ProducerConfig;
use crate::error::Error;
use crate::mock::{Act, MockBroker};
use crate::producer::{ProducerRecord, RecordMetadata};

const PARTITIONS: usize = 3;
const SENDERS: u64 = 3;

/// How many seeds: a tenth unless the full count is asked for.
fn seeds(full: u64) -> std::ops::Range<u64> {
    let count = match std::env::var("LOGWEIR_PROOF").as_deref() {
        Ok("full") => full,
        _ => full / 10,
    };
    println!("seeds 0..{count} of 0..{full}");
    0..count
}

/// Batches of a few or of many records.
fn batch_size(seed: u64) -> usize {
    usize::try_from(150 + (seed % 5) * 300).unwrap()
}

/// Trouble that passes: nothing may fail, be lost, doubled or reordered.
fn passing_trouble(random: &mut Random, appends: usize) -> Act {
    let place = usize::try_from(random.below(appends.max(1) as u64)).unwrap();
    match random.below(40) {
        0 => Act::Refuse(ErrorCode::NotLeaderOrFollower),
        1 => Act::Refuse(ErrorCode::NotEnoughReplicas),
        2 => Act::RefuseSome(ErrorCode::LeaderNotAvailable, vec![place]),
        3 => Act::RefuseSome(ErrorCode::KafkaStorageError, vec![place]),
        4 => Act::ServeAndSay(ErrorCode::RequestTimedOut),
        5 => Act::ServeAndSay(ErrorCode::NotEnoughReplicasAfterAppend),
        6 => Act::ServeAndDisconnect,
        7 => Act::Disconnect,
        8 => Act::DisconnectAndServeLater,
        9 => Act::FallSilent,
        10 => Act::End(tonic::Code::Internal),
        11 => Act::TalkNonsense,
        _ => Act::Serve,
    }
}

/// Trouble that may also be the end of a batch.
fn lasting_trouble(random: &mut Random, appends: usize) -> Act {
    let place = usize::try_from(random.below(appends.max(1) as u64)).unwrap();
    match random.below(60) {
        0 => Act::Refuse(ErrorCode::InvalidRecord),
        1 => Act::RefuseSome(ErrorCode::InvalidTimestamp, vec![place]),
        2 => Act::RefuseSome(ErrorCode::MessageTooLarge, vec![place]),
        3 => Act::End(tonic::Code::InvalidArgument),
        4 => Act::RefuseSome(ErrorCode::TopicAuthorizationFailed, vec![place]),
        5 => Act::RefuseSome(ErrorCode::CorruptMessage, vec![place]),
        6 => Act::ServeAndSay(ErrorCode::UnknownServerError),
        7 => Act::Refuse(ErrorCode::UnknownServerError),
        8..20 => passing_trouble(random, appends),
        20..24 => Act::FallSilent,
        _ => Act::Serve,
    }
}

/// What came of one record: its name, and its fate.
type Outcome = (String, Result<RecordMetadata, Error>);

/// Several tasks send records named by sender and number, of varied sizes, to all partitions.
async fn run(
    seed: u64,
    config: ProducerConfig,
    trouble: fn(&mut Random, usize) -> Act,
) -> (MockBroker, Vec<Outcome>) {
    let broker = MockBroker::new().with_topic("t", PARTITIONS);
    let mut random = Random::from_seed(seed);
    broker.script(move |_, request| trouble(&mut random, request.appends.len()));
    let producer = broker.client().producer_with(config).unwrap();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let producer = producer.clone();
            let mut random = Random::from_seed(seed * 1_000 + sender);
            tokio::spawn(async move {
                let mut deliveries = Vec::new();
                for number in 0..200 {
                    let partition = i32::try_from(random.below(PARTITIONS as u64)).unwrap();
                    let name = format!("{sender}-{number:03}");
                    let filler = "x".repeat(usize::try_from(random.below(60)).unwrap());
                    let record = ProducerRecord::new("t")
                        .partition(PartitionId::new(partition))
                        .key(filler)
                        .value(name.clone());
                    deliveries.push((name, producer.send(record).await.unwrap()));
                    if random.below(8) == 0 {
                        tokio::time::sleep_until(
                            tokio::time::Instant::now() + Duration::from_millis(random.below(50)),
                        )
                        .await;
                    }
                }
                let mut outcomes = Vec::new();
                for (name, delivery) in deliveries {
                    outcomes.push((name, delivery.await));
                }
                outcomes
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for sender in senders {
        outcomes.extend(sender.await.unwrap());
    }
    producer.close().await.unwrap();
    assert_eq!(producer.buffered_bytes(), 0, "seed {seed}");
    (broker, outcomes)
}

/// Every acknowledged record is stored once, where it was said to be; every other at most once, and not at all
/// if that was promised; each sender's records are in order.
fn check(seed: u64, broker: &MockBroker, outcomes: &[Outcome]) {
    let mut found: HashMap<String, Vec<(i32, i64)>> = HashMap::new();
    for partition in 0..PARTITIONS {
        let mut last: HashMap<String, String> = HashMap::new();
        for record in broker.records("t", partition) {
            let name = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            let sender = name[..1].to_owned();
            if let Some(before) = last.insert(sender, name.clone()) {
                assert!(
                    before < name,
                    "seed {seed}: {before} is stored before {name}"
                );
            }
            let place = (i32::try_from(partition).unwrap(), record.offset.get());
            found.entry(name).or_default().push(place);
        }
    }
    for (name, outcome) in outcomes {
        let places = found.remove(name).unwrap_or_default();
        match outcome {
            Ok(stored) => {
                assert_eq!(
                    places.len(),
                    1,
                    "seed {seed}: {name} was acknowledged, found at {places:?}"
                );
                assert_eq!(stored.partition.get(), places[0].0, "seed {seed}: {name}");
                if let Some(offset) = stored.offset {
                    assert_eq!(offset.get(), places[0].1, "seed {seed}: {name}");
                }
            }
            Err(error) => {
                // This broker forgets nothing that it acknowledged.
                let blamed = error.code() == Some(ErrorCode::OutOfOrderSequenceNumber);
                assert!(
                    !blamed || error.may_have_happened(),
                    "seed {seed}: {name}: {error}"
                );
                assert!(
                    places.len() <= 1,
                    "seed {seed}: {name} is stored at {places:?}"
                );
                assert!(
                    places.is_empty() || error.may_have_happened(),
                    "seed {seed}: {name} is stored, but {error:?}"
                );
            }
        }
    }
    assert!(found.is_empty(), "seed {seed}: {found:?} were never sent");
}

#[tokio::test(start_paused = true)]
async fn passing_trouble_loses_doubles_and_reorders_nothing() {
    for seed in seeds(1_000) {
        let config = ProducerConfig {
            batch_size: batch_size(seed),
            ..config()
        };
        let (broker, outcomes) = run(seed, config, passing_trouble).await;
        for (name, outcome) in &outcomes {
            assert!(outcome.is_ok(), "seed {seed}: {name}: {outcome:?}");
        }
        check(seed, &broker, &outcomes);
    }
}

#[tokio::test(start_paused = true)]
async fn lasting_trouble_fails_records_but_doubles_and_reorders_none() {
    let (mut failed, mut uncertain) = (0, 0);
    for seed in seeds(1_000) {
        let config = ProducerConfig {
            batch_size: batch_size(seed),
            request_timeout: Duration::from_secs(2),
            delivery_timeout: Duration::from_secs(3 + seed % 4),
            ..config()
        };
        let (broker, outcomes) = run(seed, config, lasting_trouble).await;
        check(seed, &broker, &outcomes);
        let errors = outcomes
            .iter()
            .filter_map(|(_, outcome)| outcome.as_ref().err());
        for error in errors {
            failed += 1;
            uncertain += u64::from(error.may_have_happened());
        }
    }
    println!("{failed} records failed, {uncertain} of them may be stored");
    assert!(
        failed > 100 && uncertain > 10,
        "the trouble was too small to prove anything"
    );
}
