//! Every API in every version that is served: with topics and groups that are there, with some that are not, and with
//! every call failing. Some fields cannot be said in old versions, and a handler that says them closes the connection.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bytes::Bytes;
use kafka_wire::RequestResponsePair;
use kafka_wire_core::{KafkaDecode, KafkaEncode, StrBytes, Uuid};
use logweir_proto::ErrorCode;

use super::{Client, batch, broker, create_topic};
use crate::kafka::apis::{SERVED, served};
use crate::kafka::message::{text, uuid};
use crate::{Broker, Config, Fault};

mod admin;
mod cluster;
mod groups;
mod records;

/// Names a file that the requests are written to: `tests/it/kafka_hostile/requests.bin` was made by this.
const RECORD_TO: &str = "LOGWEIR_RECORD_REQUESTS";
/// A topic that is there, with two partitions and records.
const TOPIC: &str = "flights";
/// A topic that is not.
const ABSENT: &str = "absent";
/// Nobody has given it.
const UNKNOWN_ID: Uuid = Uuid::from_bytes([7; 16]);

/// A broker, a connection to it, and what was asked over it.
struct World {
    broker: Broker,
    client: Client,
    topic_id: Uuid,
    asked: BTreeSet<(i16, i16)>,
}

impl World {
    async fn new() -> Self {
        let broker = broker(Config::in_memory()).await;
        let mut client = Client::of(&broker).await;
        create_topic(&mut client, TOPIC, &[]).await;
        let image = broker.service().image();
        let topic = image.topics_after("").find(|topic| &*topic.name == TOPIC);
        let topic_id = uuid(topic.expect("it was created").id);
        let mut world = Self {
            broker,
            client,
            topic_id,
            asked: BTreeSet::new(),
        };
        world.produce_some().await;
        world
    }

    /// Asks what `requests` makes for each version that is served, and gives the answers.
    async fn ask<Q>(&mut self, requests: impl Fn(i16) -> Vec<Q>) -> Vec<(i16, Q::Response)>
    where
        Q: RequestResponsePair + KafkaEncode,
        Q::Response: KafkaDecode + KafkaEncode + Debug,
    {
        let key = Q::API_KEY.value();
        let served = served(key).unwrap_or_else(|| panic!("{} is not served", Q::NAME));
        // What the codec does not know is asked for in `old_versions.rs`.
        let first = served.min.max(Q::SUPPORTED_VERSIONS.min().value());
        let mut answers = Vec::new();
        for version in first..=served.max {
            for request in requests(version) {
                answers.push((version, self.client.ask(&request, version).await));
            }
            self.asked.insert((key, version));
        }
        answers
    }
}

async fn everything(world: &mut World) {
    world.records().await;
    world.cluster().await;
    world.groups().await;
    world.admin().await;
}

fn texts(names: &[&str]) -> Vec<StrBytes> {
    names.iter().map(text).collect()
}

/// The versions of the table that `old_versions.rs` asks for by bytes.
fn is_old(key: i16, version: i16) -> bool {
    matches!((key, version), (0, 0..=2) | (8, 1) | (19, 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_api_is_answered_in_every_version_as_the_codec_would() {
    let mut world = World::new().await;
    everything(&mut world).await;
    for served in SERVED {
        for version in served.min..=served.max {
            let key = served.api as i16;
            assert!(
                is_old(key, version) || world.asked.contains(&(key, version)),
                "{} {version} was not asked for",
                served.name
            );
        }
    }
    if let Some(path) = std::env::var_os(RECORD_TO) {
        std::fs::write(path, &world.client.sent).expect("the recording can be written");
    }
    world.broker.shutdown().await.expect("a clean end");
}

/// One error for all, of a kind that no handler expects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_api_says_in_every_version_that_it_failed() {
    let mut world = World::new().await;
    for code in [ErrorCode::UnknownServerError, ErrorCode::PolicyViolation] {
        world
            .broker
            .faults()
            .inject(Fault::fail(code).always().optional());
        everything(&mut world).await;
        world.broker.faults().clear();
    }
    world.broker.shutdown().await.expect("a clean end");
}

impl World {
    async fn produce_some(&mut self) {
        for partition in [0, 1] {
            for n in 0..3 {
                let request = records::produce_request(TOPIC, &[(partition, Some(batch(&[n])))]);
                self.client.ask(&request, 9).await;
            }
        }
    }
}

/// Whatever a client puts there.
fn opaque() -> Bytes {
    Bytes::from_static(b"\x00\x01opaque")
}
