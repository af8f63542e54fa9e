//! A broker as seen through the bare gRPC contract, as a client in another language sees it: no
//! retries, no batching, no idempotence.

use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::cluster_service_client::ClusterServiceClient;
use logweir_proto::grpc::v1::fetch_service_client::FetchServiceClient;
use logweir_proto::grpc::v1::group_service_client::GroupServiceClient;
use logweir_proto::grpc::v1::produce_service_client::ProduceServiceClient;
use logweir_proto::grpc::v1::topic_service_client::TopicServiceClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::ledger::ReadBack;
use crate::wait::DEADLINE;

/// Largest message these clients take.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The contract's services at one address, over one connection.
#[derive(Clone, Debug)]
pub struct GrpcBroker {
    channel: Channel,
    /// Appending.
    pub produce: ProduceServiceClient<Channel>,
    /// Reading.
    pub fetch: FetchServiceClient<Channel>,
    /// Groups and committed offsets.
    pub groups: GroupServiceClient<Channel>,
    /// Topics and configuration.
    pub topics: TopicServiceClient<Channel>,
    /// The cluster.
    pub cluster: ClusterServiceClient<Channel>,
}

impl GrpcBroker {
    /// Connects to `HOST:PORT`.
    ///
    /// # Panics
    /// If nobody listens there.
    pub async fn connect(address: &str) -> Self {
        Self::try_connect(address)
            .await
            .expect("the gRPC listener is there")
    }

    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn try_connect(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = endpoint
            .connect_timeout(DEADLINE)
            .timeout(DEADLINE)
            .connect()
            .await?;
        let (produce, fetch) = (channel.clone(), channel.clone());
        Ok(Self {
            produce: ProduceServiceClient::new(produce)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
            fetch: FetchServiceClient::new(fetch).max_decoding_message_size(MAX_MESSAGE_BYTES),
            groups: GroupServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            topics: TopicServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel.clone()),
            channel,
        })
    }

    /// The connection, for other services.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Creates a topic with settings by Kafka's names.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let result = self.try_create_topic(name, partitions, configs).await;
        assert_eq!(result.error, None, "creating {name}");
    }

    /// Creates a topic and gives what became of it.
    ///
    /// # Panics
    /// If the whole request fails.
    pub async fn try_create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> v1::TopicResult {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let topic = v1::NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            replication_factor: None,
            configs: configs.iter().map(owned).collect(),
        };
        let request = v1::CreateTopicsRequest {
            topics: vec![topic],
            ..Default::default()
        };
        let answer = self
            .topics
            .create_topics(request)
            .await
            .expect("the request is served");
        answer
            .into_inner()
            .results
            .pop()
            .expect("one answer for one topic")
    }

    /// Appends plain records in one request and gives its only result.
    ///
    /// # Errors
    /// If the whole request fails.
    ///
    /// # Panics
    /// If there is not one result.
    pub async fn produce_records(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        acks: v1::Acks,
        records: Vec<v1::Record>,
    ) -> Result<v1::AppendResult, Status> {
        let append = v1::PartitionAppend {
            topic: topic.to_owned(),
            partition,
            data: Some(v1::partition_append::Data::Records(v1::RecordList {
                records,
            })),
            ..Default::default()
        };
        let request = v1::ProduceRequest {
            correlation_id: 1,
            acks: acks.into(),
            appends: vec![append],
            ..Default::default()
        };
        let mut results = self.produce.produce(request).await?.into_inner().results;
        assert_eq!(results.len(), 1, "{results:?}");
        Ok(results.remove(0))
    }

    /// Appends one value without a key and gives its offset.
    ///
    /// # Panics
    /// If it fails.
    pub async fn produce_value(&mut self, topic: &str, partition: i32, value: &str) -> i64 {
        let records = vec![record(None, value)];
        let acks = v1::Acks::All;
        let result = self
            .produce_records(topic, Some(partition), acks, records)
            .await;
        let result = result.expect("the request is served");
        assert_eq!(result.error, None, "producing to {topic}");
        result.base_offset
    }

    /// Reads once from one partition, plain records, and gives what came.
    ///
    /// # Errors
    /// If the whole request fails.
    ///
    /// # Panics
    /// If there is not one answer.
    pub async fn fetch_once(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        max_wait: Duration,
    ) -> Result<v1::FetchedPartition, Status> {
        let request = v1::FetchRequest {
            partitions: vec![v1::FetchPartition {
                topic: topic.to_owned(),
                partition,
                fetch_offset: offset,
                partition_max_bytes: 8 << 20,
                ..Default::default()
            }],
            max_wait_ms: u32::try_from(max_wait.as_millis()).expect("waits are short"),
            min_bytes: 1,
            format: v1::RecordFormat::Records.into(),
            ..Default::default()
        };
        let mut partitions = self.fetch.fetch(request).await?.into_inner().partitions;
        assert_eq!(partitions.len(), 1, "{partitions:?}");
        Ok(partitions.remove(0))
    }

    /// Everything that can be read from a partition now, in order.
    ///
    /// # Panics
    /// If it cannot be read, or if a value is not text.
    pub async fn read_partition(&mut self, topic: &str, partition: i32) -> Vec<ReadBack> {
        let mut read = Vec::new();
        let mut offset = self.list_offset(topic, partition, earliest()).await.offset;
        loop {
            let fetched = self
                .fetch_once(topic, partition, offset, Duration::ZERO)
                .await;
            let fetched = fetched.expect("the request is served");
            assert_eq!(
                fetched.error, None,
                "reading {topic}-{partition} at {offset}"
            );
            let Some(v1::fetched_partition::Data::Records(list)) = fetched.data else {
                break;
            };
            for record in list.records {
                assert!(record.offset >= offset, "{} below {offset}", record.offset);
                let value = record.value.expect("the tests write values");
                let value = String::from_utf8(value.to_vec()).expect("the tests write text");
                read.push(ReadBack {
                    partition,
                    offset: record.offset,
                    value,
                });
            }
            if fetched.next_fetch_offset == offset {
                break;
            }
            offset = fetched.next_fetch_offset;
            if offset >= fetched.high_watermark {
                break;
            }
        }
        read
    }

    /// Everything that can be read from a topic now, by partition and offset.
    ///
    /// # Panics
    /// If it cannot be read, or if a value is not text.
    pub async fn read_topic(&mut self, topic: &str) -> Vec<ReadBack> {
        let partitions = self.describe_topic(topic).await.partitions.len();
        let mut read = Vec::new();
        for partition in 0..i32::try_from(partitions).expect("few partitions") {
            read.extend(self.read_partition(topic, partition).await);
        }
        read
    }

    /// Looks an offset up.
    ///
    /// # Panics
    /// If the look-up fails.
    pub async fn list_offset(
        &mut self,
        topic: &str,
        partition: i32,
        at: v1::list_offsets_partition::At,
    ) -> v1::ListedOffset {
        let wanted = v1::ListOffsetsPartition {
            topic: topic.to_owned(),
            partition,
            at: Some(at),
            ..Default::default()
        };
        let request = v1::ListOffsetsRequest {
            partitions: vec![wanted],
            ..Default::default()
        };
        let answer = self
            .fetch
            .list_offsets(request)
            .await
            .expect("the request is served");
        let found = answer
            .into_inner()
            .offsets
            .pop()
            .expect("one answer for one partition");
        assert_eq!(found.error, None, "looking up {topic}-{partition}");
        found
    }

    /// Describes a topic.
    ///
    /// # Panics
    /// If there is no such topic.
    pub async fn describe_topic(&mut self, topic: &str) -> v1::TopicDescription {
        let names = vec![topic.to_owned()];
        let request = v1::DescribeTopicsRequest {
            names,
            ..Default::default()
        };
        let answer = self
            .topics
            .describe_topics(request)
            .await
            .expect("the request is served");
        let topic = answer
            .into_inner()
            .topics
            .pop()
            .expect("one answer for one topic");
        assert_eq!(topic.error, None);
        topic
    }
}

/// A plain record.
#[must_use]
pub fn record(key: Option<&str>, value: &str) -> v1::Record {
    v1::Record {
        key: key.map(|key| key.as_bytes().to_vec().into()),
        value: Some(value.as_bytes().to_vec().into()),
        ..Default::default()
    }
}

/// Asks for the first offset that can be read.
#[must_use]
pub fn earliest() -> v1::list_offsets_partition::At {
    v1::list_offsets_partition::At::Earliest(v1::Earliest {})
}

/// Asks for the offset where new records will appear.
#[must_use]
pub fn latest() -> v1::list_offsets_partition::At {
    v1::list_offsets_partition::At::Latest(v1::Latest {})
}
