//! The cluster: ApiVersions, Metadata, DescribeCluster, FindCoordinator, DescribeTopicPartitions, DescribeLogDirs,
//! DescribeClientQuotas.

use kafka_wire::describe_client_quotas_request::ComponentData;
use kafka_wire::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_wire::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::{
    ApiVersionsRequest, DescribeClientQuotasRequest, DescribeClusterRequest,
    DescribeLogDirsRequest, DescribeTopicPartitionsRequest, FindCoordinatorRequest,
    MetadataRequest,
};

use super::{ABSENT, SERVED, TOPIC, UNKNOWN_ID, World, texts};
use crate::kafka::message::{message, text};

impl World {
    pub(super) async fn cluster(&mut self) {
        self.api_versions().await;
        self.metadata().await;
        let request = |version| {
            let plain = message!(DescribeClusterRequest {
                include_cluster_authorized_operations: true
            });
            let mut of_controllers = plain.clone();
            if version >= 1 {
                of_controllers.endpoint_type = 2;
            }
            vec![plain, of_controllers]
        };
        self.ask(request).await;
        let request = |version| {
            let find = |key_type| {
                let mut find = FindCoordinatorRequest::default();
                match version {
                    4.. => find.coordinator_keys = texts(&["g", "", "another"]),
                    _ => find.key = text("g"),
                }
                if version >= 1 {
                    find.key_type = key_type;
                }
                find
            };
            vec![find(0), find(1), find(2), find(99)]
        };
        self.ask(request).await;
        self.topics_and_dirs().await;
    }

    /// What is told is what the table says, in every version.
    async fn api_versions(&mut self) {
        let request = |version| {
            let mut request = ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = text("tests");
                request.client_software_version = text("1.0");
            }
            vec![request]
        };
        let table: Vec<_> = SERVED
            .iter()
            .map(|s| (s.api as i16, s.min, s.max))
            .collect();
        for (version, told) in self.ask(request).await {
            let keys = told.api_keys.iter();
            let keys: Vec<_> = keys
                .map(|k| (k.api_key, k.min_version, k.max_version))
                .collect();
            assert_eq!((told.error_code, &keys), (0, &table), "version {version}");
        }
    }

    async fn metadata(&mut self) {
        let id = self.topic_id;
        let request = |version| {
            let by_name = |name| {
                message!(MetadataRequestTopic {
                    name: Some(text(name))
                })
            };
            let ask = |topics| message!(MetadataRequest { topics: topics });
            let mut requests = vec![
                ask(Some(vec![
                    by_name(TOPIC),
                    by_name(ABSENT),
                    by_name("a b"),
                    by_name(""),
                ])),
                ask(Some(Vec::new())),
            ];
            if version >= 1 {
                requests.push(ask(None));
            }
            if version >= 10 {
                let by_id = |id| message!(MetadataRequestTopic { topic_id: id });
                requests.push(ask(Some(vec![by_id(id), by_id(UNKNOWN_ID)])));
            }
            requests
        };
        self.ask(request).await;
    }

    async fn topics_and_dirs(&mut self) {
        let request = |_| {
            let topics = [ABSENT, TOPIC].map(|name| message!(TopicRequest { name: text(name) }));
            let plain = message!(DescribeTopicPartitionsRequest {
                topics: topics.to_vec(),
                response_partition_limit: 1,
            });
            let cursor = message!(Cursor {
                topic_name: text(TOPIC),
                partition_index: 1,
            });
            let mut next = plain.clone();
            next.cursor = Some(cursor);
            vec![
                plain,
                next,
                message!(DescribeTopicPartitionsRequest {
                    response_partition_limit: 100
                }),
            ]
        };
        self.ask(request).await;
        let request = |_| {
            let topics = [TOPIC, ABSENT].map(|topic| {
                message!(DescribableLogDirTopic {
                    topic: text(topic),
                    partitions: vec![0, 9],
                })
            });
            vec![
                message!(DescribeLogDirsRequest {
                    topics: Some(topics.to_vec())
                }),
                message!(DescribeLogDirsRequest { topics: None }),
            ]
        };
        self.ask(request).await;
        let request = |_| {
            let component = message!(ComponentData {
                entity_type: text("client-id"),
                match_type: 2,
            });
            vec![message!(DescribeClientQuotasRequest {
                components: vec![component]
            })]
        };
        self.ask(request).await;
    }
}
