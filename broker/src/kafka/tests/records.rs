//! What Produce and Fetch read and write by hand. That their answers are, byte for byte, what the codec writes is seen by
//! `Client::answer`, for every answer here; here it is seen that they say what they are to say.

use bytes::Bytes;
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::fetch_response::PartitionData;
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{FetchRequest, FetchResponse, ProduceRequest};
use kafka_wire_core::Uuid;
use logweir_proto::record::{batches, set_base_offset};
use logweir_proto::{ErrorCode, Offset};

use super::client::code;
use super::{Client, batch, broker, create_topic, value};
use crate::kafka::apis::{ApiKey, served};
use crate::kafka::message::{message, text, uuid};
use crate::{Broker, Config};

const PRODUCE: std::ops::RangeInclusive<i16> = 3..=11;
const FETCH: std::ops::RangeInclusive<i16> = 4..=17;
/// The first version of Fetch that can say where logs part ways.
const FIRST_WITH_DIVERGING: i16 = 12;
const FIRST_WITH_IDS: i16 = 13;

#[test]
fn all_versions_that_are_served_are_tested() {
    let versions = |api: ApiKey| {
        let served = served(api as i16).expect("it is served");
        (served.min, served.max)
    };
    assert_eq!(versions(ApiKey::Produce), (0, *PRODUCE.end()));
    assert_eq!(versions(ApiKey::Fetch), (*FETCH.start(), *FETCH.end()));
}

fn produced(index: i32, records: Option<Bytes>) -> PartitionProduceData {
    message!(PartitionProduceData {
        index: index,
        records: records,
    })
}

fn to_topic(name: &str, partitions: Vec<PartitionProduceData>) -> TopicProduceData {
    message!(TopicProduceData {
        name: text(name),
        partition_data: partitions,
    })
}

/// A batch of which a byte fell over.
fn broken(value: &[u8]) -> Bytes {
    let mut bytes = batch(value).to_vec();
    *bytes.last_mut().expect("it is not empty") ^= 1;
    bytes.into()
}

#[tokio::test]
async fn produce_says_of_each_partition_what_became_of_it_in_every_version() {
    let broker = broker(Config::in_memory()).await;
    let mut client = Client::of(&broker).await;
    create_topic(&mut client, "t", &[]).await;
    let stamped = [("message.timestamp.type", "LogAppendTime")];
    create_topic(&mut client, "stamped", &stamped).await;
    for (round, version) in PRODUCE.enumerate() {
        let offset = i64::try_from(round).unwrap();
        let request = message!(ProduceRequest {
            acks: if version % 2 == 0 { 1 } else { -1 },
            timeout_ms: 30_000,
            topic_data: vec![
                to_topic(
                    "t",
                    vec![
                        produced(0, Some(batch(b"a"))),
                        produced(9, Some(batch(b"b"))),
                        produced(1, Some(broken(b"c"))),
                        produced(1, None),
                    ],
                ),
                to_topic("stamped", vec![produced(1, Some(batch(b"d")))]),
                to_topic("absent", vec![produced(0, Some(batch(b"e")))]),
                to_topic("t", vec![produced(1, Some(batch(b"f")))]),
            ],
        });
        let answer = client.ask(&request, version).await;
        let names: Vec<_> = answer.responses.iter().map(|topic| &*topic.name).collect();
        assert_eq!(names, ["t", "stamped", "absent", "t"], "version {version}");
        let told: Vec<_> = answer
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses)
            .map(|p| (p.index, code(p.error_code), p.base_offset))
            .collect();
        let expected = [
            (0, ErrorCode::None, offset),
            (9, ErrorCode::UnknownTopicOrPartition, -1),
            (1, ErrorCode::CorruptMessage, -1),
            (1, ErrorCode::CorruptMessage, -1),
            (1, ErrorCode::None, offset),
            (0, ErrorCode::UnknownTopicOrPartition, -1),
            (1, ErrorCode::None, offset),
        ];
        assert_eq!(told, expected, "version {version}");
        let stamped = &answer.responses[1].partition_responses[0];
        assert!(
            stamped.log_append_time_ms > 1_700_000_000_000,
            "version {version}"
        );
        assert_eq!(
            answer.responses[0].partition_responses[0].log_append_time_ms,
            -1
        );
        if version >= 5 {
            assert_eq!(stamped.log_start_offset, 0, "version {version}");
        }
        let failed = &answer.responses[2].partition_responses[0];
        assert_eq!(
            failed.error_message.is_some(),
            version >= 8,
            "version {version}"
        );
    }
}

/// Topics with records of two sizes: those that are copied into an answer, and those that are spliced in.
struct Stored {
    broker: Broker,
    client: Client,
    /// Name, id, and for each partition its batches as they are stored.
    topics: Vec<(&'static str, Uuid, [Vec<Bytes>; 2])>,
}

impl Stored {
    async fn new() -> Self {
        let broker = broker(Config::in_memory()).await;
        let mut client = Client::of(&broker).await;
        let mut topics = Vec::new();
        // Above 1 KiB they are spliced in; that is also a batch whose bytes do not fill one more piece.
        for (name, sizes) in [
            ("small", [1, 30]),
            ("large", [3_000, 70_000]),
            ("mixed", [10, 5_000]),
        ] {
            create_topic(&mut client, name, &[]).await;
            let mut partitions = [Vec::new(), Vec::new()];
            for (index, partition) in partitions.iter_mut().enumerate() {
                for offset in 0..3 {
                    let index_on_wire = i32::try_from(index).unwrap();
                    let sent = batch(&value(sizes[index]));
                    let request = message!(ProduceRequest {
                        acks: -1,
                        timeout_ms: 30_000,
                        topic_data: vec![to_topic(
                            name,
                            vec![produced(index_on_wire, Some(sent.clone()))],
                        )],
                    });
                    let answer = client.ask(&request, 9).await;
                    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
                    let mut stored = sent.to_vec();
                    set_base_offset(&mut stored, Offset::new(offset));
                    partition.push(stored.into());
                }
            }
            let image = broker.service().image();
            let topic = image.topics_after("").find(|topic| &*topic.name == name);
            topics.push((name, uuid(topic.expect("it was created").id), partitions));
        }
        Self {
            broker,
            client,
            topics,
        }
    }

    /// Wants these partitions of these topics from `offset` on.
    fn request(&self, version: i16, wanted: &[(usize, &[i32])], offset: i64) -> FetchRequest {
        let topics = wanted.iter().map(|(topic, partitions)| {
            let (name, id, _) = &self.topics[*topic];
            let partitions = partitions.iter().map(|partition| {
                message!(FetchPartition {
                    partition: *partition,
                    fetch_offset: offset,
                    partition_max_bytes: 1 << 20,
                })
            });
            let mut topic = message!(FetchTopic {
                partitions: partitions.collect()
            });
            match version {
                FIRST_WITH_IDS.. => topic.topic_id = *id,
                _ => topic.topic = text(name),
            }
            topic
        });
        message!(FetchRequest {
            max_bytes: 8 << 20,
            min_bytes: 1,
            session_epoch: -1,
            topics: topics.collect(),
        })
    }

    /// Checks records against what was stored, from `offset` on; the leader's epoch is the broker's.
    fn check_records(&self, what: &str, part: &PartitionData, topic: usize, offset: usize) {
        assert_eq!(part.error_code, 0, "{what}");
        assert_eq!(
            (part.high_watermark, part.last_stable_offset),
            (3, 3),
            "{what}"
        );
        let index = usize::try_from(part.partition_index).unwrap();
        let stored = &self.topics[topic].2[index][offset..];
        let records = part
            .records
            .clone()
            .expect("an answer has records, or none, but not null");
        let found: Vec<_> = batches(records)
            .map(|batch| batch.expect("whole batches"))
            .collect();
        assert_eq!(found.len(), stored.len(), "{what}");
        for (found, stored) in found.iter().zip(stored) {
            let bytes = found.bytes();
            // The epoch stands between the length and the magic byte.
            assert_eq!(bytes[..12], stored[..12], "{what}");
            assert_eq!(bytes[16..], stored[16..], "{what}");
        }
    }
}

#[tokio::test]
async fn fetch_gives_what_was_stored_of_several_topics_and_partitions_in_every_version() {
    let mut stored = Stored::new().await;
    for version in FETCH {
        for isolation in [0, 1] {
            for offset in [0_usize, 2] {
                let what = format!("Fetch {version}, isolation {isolation}, from {offset}");
                let from = i64::try_from(offset).unwrap();
                let wanted: [(usize, &[i32]); 3] = [(0, &[1, 0]), (1, &[0, 1]), (2, &[0, 1])];
                let mut request = stored.request(version, &wanted, from);
                request.isolation_level = isolation;
                let answer = stored.client.ask(&request, version).await;
                assert_eq!((answer.error_code, answer.session_id), (0, 0), "{what}");
                for ((topic, partitions), told) in wanted.iter().zip(&answer.responses) {
                    let (name, id, _) = &stored.topics[*topic];
                    match version {
                        FIRST_WITH_IDS.. => assert_eq!(told.topic_id, *id, "{what}"),
                        _ => assert_eq!(&*told.topic, *name, "{what}"),
                    }
                    let indexes: Vec<_> =
                        told.partitions.iter().map(|p| p.partition_index).collect();
                    assert_eq!(indexes, *partitions, "{what}");
                    for part in &told.partitions {
                        stored.check_records(&what, part, *topic, offset);
                        // Null is for who did not ask.
                        let aborted = part.aborted_transactions.as_ref().map(Vec::len);
                        assert_eq!(aborted, (isolation == 1).then_some(0), "{what}");
                    }
                }
                assert_eq!(answer.responses.len(), wanted.len(), "{what}");
            }
        }
    }
    stored.broker.shutdown().await.expect("a clean end");
}

fn codes(answer: &FetchResponse) -> Vec<Vec<ErrorCode>> {
    let topics = answer.responses.iter().map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|p| code(p.error_code)).collect()
    });
    topics.collect()
}

#[tokio::test]
async fn fetch_says_what_is_wrong_with_a_partition_in_every_version() {
    let mut stored = Stored::new().await;
    for version in FETCH {
        let mut request = stored.request(version, &[(0, &[0, 9, 1]), (1, &[0])], 0);
        request.topics[0].partitions[2].fetch_offset = 99;
        let absent = &mut request.topics[1];
        match version {
            FIRST_WITH_IDS.. => absent.topic_id = Uuid::from_bytes([7; 16]),
            _ => absent.topic = text("absent"),
        }
        let answer = stored.client.ask(&request, version).await;
        let of_absent = match version {
            FIRST_WITH_IDS.. => ErrorCode::UnknownTopicId,
            _ => ErrorCode::UnknownTopicOrPartition,
        };
        let expected = vec![
            vec![
                ErrorCode::None,
                ErrorCode::UnknownTopicOrPartition,
                ErrorCode::OffsetOutOfRange,
            ],
            vec![of_absent],
        ];
        assert_eq!(codes(&answer), expected, "version {version}");
        let what = format!("Fetch {version}");
        stored.check_records(&what, &answer.responses[0].partitions[0], 0, 0);
        let failed = &answer.responses[0].partitions[1];
        assert_eq!(
            (failed.high_watermark, failed.last_stable_offset),
            (-1, -1),
            "{what}"
        );
        if version >= 9 {
            let mut fenced = stored.request(version, &[(0, &[0])], 0);
            fenced.topics[0].partitions[0].current_leader_epoch = 1_000;
            let answer = stored.client.ask(&fenced, version).await;
            assert_eq!(codes(&answer), [[ErrorCode::UnknownLeaderEpoch]], "{what}");
        }
    }
    stored.broker.shutdown().await.expect("a clean end");
}

/// A reader that has read on in an epoch past its end in this log is told where that is.
#[tokio::test]
async fn fetch_says_where_logs_part_ways_in_versions_that_can() {
    let mut stored = Stored::new().await;
    for version in FIRST_WITH_DIVERGING..=*FETCH.end() {
        let mut request = stored.request(version, &[(1, &[0, 1])], 3);
        let parted = &mut request.topics[0].partitions[0];
        (parted.last_fetched_epoch, parted.fetch_offset) = (0, 99);
        let answer = stored.client.ask(&request, version).await;
        assert_eq!(
            codes(&answer),
            [[ErrorCode::None, ErrorCode::None]],
            "version {version}"
        );
        let [parted, whole] = &answer.responses[0].partitions[..] else {
            panic!("two partitions: {answer:?}");
        };
        assert_eq!(parted.records, Some(Bytes::new()), "version {version}");
        assert_eq!(parted.high_watermark, -1, "version {version}");
        let told = &parted.diverging_epoch;
        assert_eq!((told.epoch, told.end_offset), (0, 3), "version {version}");
        assert_eq!(whole.diverging_epoch.end_offset, -1, "version {version}");
    }
    stored.broker.shutdown().await.expect("a clean end");
}

/// More than one write takes, and more pieces than one system call takes.
#[tokio::test]
async fn an_answer_of_many_pieces_arrives_whole() {
    let mut stored = Stored::new().await;
    let wanted: Vec<(usize, &[i32])> = (0..200).map(|_| (1_usize, &[0, 1][..])).collect();
    for version in [4, 11, 12, 17] {
        let mut request = stored.request(version, &wanted, 0);
        request.max_bytes = i32::MAX;
        let answer = stored.client.ask(&request, version).await;
        let what = format!("Fetch {version}");
        for part in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            stored.check_records(&what, part, 1, 0);
        }
        // A topic that is named over and over is answered once, with all that was asked of it.
        let [topic] = &answer.responses[..] else {
            panic!("{what}: {} topics", answer.responses.len());
        };
        assert_eq!(topic.partitions.len(), 400, "{what}");
    }
    stored.broker.shutdown().await.expect("a clean end");
}
