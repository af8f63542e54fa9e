//! Records: Produce, Fetch, ListOffsets, OffsetForLeaderEpoch, DeleteRecords, InitProducerId, DescribeProducers.

use bytes::Bytes;
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::describe_producers_request::TopicRequest;
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{
    DeleteRecordsRequest, DescribeProducersRequest, FetchRequest, InitProducerIdRequest,
    ListOffsetsRequest, OffsetForLeaderEpochRequest, ProduceRequest,
};
use kafka_wire_core::Uuid;

use super::{ABSENT, TOPIC, UNKNOWN_ID, World, batch};
use crate::kafka::message::{message, text};

/// For one topic: partitions with their records.
pub(super) fn produce_request(topic: &str, records: &[(i32, Option<Bytes>)]) -> ProduceRequest {
    message!(ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![produce_topic(topic, records)],
    })
}

fn produce_topic(topic: &str, records: &[(i32, Option<Bytes>)]) -> TopicProduceData {
    let partitions = records.iter().map(|(index, records)| {
        message!(PartitionProduceData {
            index: *index,
            records: records.clone(),
        })
    });
    message!(TopicProduceData {
        name: text(topic),
        partition_data: partitions.collect(),
    })
}

/// By name, or by id in versions that have ids.
fn fetch_topic(version: i16, name: &str, id: Uuid, partitions: &[i32]) -> FetchTopic {
    let partitions = partitions.iter().map(|partition| {
        message!(FetchPartition {
            partition: *partition,
            fetch_offset: 1,
            partition_max_bytes: 1 << 20,
        })
    });
    let mut topic = message!(FetchTopic {
        partitions: partitions.collect()
    });
    match version {
        13.. => topic.topic_id = id,
        _ => topic.topic = text(name),
    }
    topic
}

impl World {
    pub(super) async fn records(&mut self) {
        self.produce().await;
        self.fetch().await;
        self.ends().await;
        self.producers().await;
    }

    async fn produce(&mut self) {
        let request = |_| {
            let mut many =
                produce_request(TOPIC, &[(0, Some(batch(b"v"))), (9, Some(batch(b"v")))]);
            many.topic_data.extend([
                produce_topic(ABSENT, &[(0, Some(batch(b"v")))]),
                produce_topic(TOPIC, &[(1, None)]),
            ]);
            let mut wrong_acks = produce_request(TOPIC, &[(0, Some(batch(b"v")))]);
            wrong_acks.acks = 3;
            let mut transactional = produce_request(TOPIC, &[(0, Some(batch(b"v")))]);
            transactional.transactional_id = Some(text("t"));
            let garbage =
                produce_request(TOPIC, &[(0, Some(Bytes::from_static(b"no batch at all")))]);
            let nothing = message!(ProduceRequest { acks: 1 });
            vec![many, wrong_acks, transactional, garbage, nothing]
        };
        self.ask(request).await;
    }

    async fn fetch(&mut self) {
        let id = self.topic_id;
        let request = |version| {
            let topics = vec![
                fetch_topic(version, TOPIC, id, &[0, 1, 9]),
                fetch_topic(version, ABSENT, UNKNOWN_ID, &[0]),
            ];
            let fetch = |isolation: i8, offset: i64, topics: &[FetchTopic]| {
                let mut topics = topics.to_vec();
                topics[0].partitions[0].fetch_offset = offset;
                message!(FetchRequest {
                    max_bytes: 1 << 20,
                    isolation_level: isolation,
                    // No session.
                    session_epoch: -1,
                    topics: topics,
                })
            };
            let mut requests = vec![
                fetch(0, 1, &topics),
                fetch(1, 1, &topics),
                fetch(0, 99, &topics),
            ];
            if version >= 12 {
                let mut diverging = fetch(0, 1, &topics[..1]);
                diverging.topics[0].partitions[0].last_fetched_epoch = 0;
                requests.push(diverging);
            }
            let mut nothing = fetch(0, 1, &topics);
            nothing.topics = Vec::new();
            requests.push(nothing);
            requests
        };
        self.ask(request).await;
    }

    async fn ends(&mut self) {
        let request = |version| {
            let times = [-1, -2, -3, -4, -5, -6, 1_700_000_000_000, i64::MAX];
            let partitions = times.map(|timestamp| {
                message!(ListOffsetsPartition {
                    partition_index: 0,
                    timestamp: timestamp,
                })
            });
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(ListOffsetsTopic {
                    name: text(name),
                    partitions: partitions.to_vec(),
                })
            });
            let list = |isolation: i8| {
                message!(ListOffsetsRequest {
                    replica_id: -1,
                    isolation_level: isolation,
                    topics: topics.to_vec(),
                })
            };
            match version {
                ..2 => vec![list(0)],
                _ => vec![list(0), list(1)],
            }
        };
        self.ask(request).await;
        let request = |_| {
            let partitions = [(0, 0), (0, 1), (0, 9), (9, 0)].map(|(partition, epoch)| {
                message!(OffsetForLeaderPartition {
                    partition: partition,
                    current_leader_epoch: -1,
                    leader_epoch: epoch,
                })
            });
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(OffsetForLeaderTopic {
                    topic: text(name),
                    partitions: partitions.to_vec(),
                })
            });
            vec![message!(OffsetForLeaderEpochRequest {
                topics: topics.to_vec()
            })]
        };
        self.ask(request).await;
        let request = |_| {
            let partitions = [(0, 1), (1, -1), (1, 1_000), (9, 0)].map(|(partition, offset)| {
                message!(DeleteRecordsPartition {
                    partition_index: partition,
                    offset: offset,
                })
            });
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(DeleteRecordsTopic {
                    name: text(name),
                    partitions: partitions.to_vec(),
                })
            });
            vec![message!(DeleteRecordsRequest {
                topics: topics.to_vec(),
                timeout_ms: 30_000,
            })]
        };
        self.ask(request).await;
    }

    async fn producers(&mut self) {
        let request = |version| {
            let plain = message!(InitProducerIdRequest {
                transaction_timeout_ms: 60_000
            });
            let mut transactional = plain.clone();
            transactional.transactional_id = Some(text("t"));
            let mut again = plain.clone();
            if version >= 3 {
                (again.producer_id, again.producer_epoch) = (1, 0);
            }
            vec![plain, transactional, again]
        };
        self.ask(request).await;
        let request = |_| {
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(TopicRequest {
                    name: text(name),
                    partition_indexes: vec![0, 9],
                })
            });
            vec![message!(DescribeProducersRequest {
                topics: topics.to_vec()
            })]
        };
        self.ask(request).await;
    }
}
