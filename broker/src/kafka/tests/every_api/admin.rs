//! Topics and settings, and what is refused because there is one broker and no authorizer.

use kafka_wire::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_wire::create_acls_request::AclCreation;
use kafka_wire::create_partitions_request::CreatePartitionsTopic;
use kafka_wire::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_wire::delete_acls_request::DeleteAclsFilter;
use kafka_wire::delete_topics_request::DeleteTopicState;
use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::elect_leaders_request::TopicPartitions;
use kafka_wire::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_wire::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, CreateAclsRequest,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteAclsRequest, DeleteTopicsRequest,
    DescribeAclsRequest, DescribeConfigsRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest, alter_configs_request,
    incremental_alter_configs_request,
};

use super::{ABSENT, TOPIC, UNKNOWN_ID, World, texts};
use crate::kafka::message::{message, text};

/// Kafka's `ConfigResource.Type`: a topic, a broker, a broker's loggers, a group, and none.
const RESOURCES: [(i8, &str); 7] = [
    (2, TOPIC),
    (2, ABSENT),
    (4, "0"),
    (4, ""),
    (8, "0"),
    (32, "g"),
    (99, "?"),
];

impl World {
    pub(super) async fn admin(&mut self) {
        self.topics().await;
        self.settings().await;
        self.acls().await;
        self.replicas().await;
    }

    async fn topics(&mut self) {
        let create = |version: i16| {
            let new = |name: &str, partitions, configs: &[(&str, Option<&str>)]| {
                let configs = configs.iter().map(|(name, value)| {
                    message!(CreatableTopicConfig {
                        name: text(name),
                        value: value.map(text),
                    })
                });
                message!(CreatableTopic {
                    name: text(name),
                    num_partitions: partitions,
                    replication_factor: 1,
                    configs: configs.collect(),
                })
            };
            let mut placed = new(&format!("placed-{version}"), -1, &[]);
            placed.replication_factor = -1;
            placed.assignments = vec![message!(CreatableReplicaAssignment {
                broker_ids: vec![0]
            })];
            let topics = vec![
                new(
                    &format!("new-{version}"),
                    2,
                    &[("retention.ms", Some("1000"))],
                ),
                new(&format!("gone-{version}"), 1, &[]),
                new(TOPIC, 1, &[]),
                new("a b", 1, &[]),
                new("wrong", 1, &[("no.such.setting", Some("1"))]),
                new("without-value", 1, &[("retention.ms", None)]),
                new("too-many", 0, &[]),
                placed,
            ];
            let request = message!(CreateTopicsRequest {
                topics: topics,
                timeout_ms: 30_000,
            });
            let mut dry = request.clone();
            dry.validate_only = true;
            vec![dry, request]
        };
        self.ask(create).await;
        self.fewer_topics_and_more_partitions().await;
    }

    async fn fewer_topics_and_more_partitions(&mut self) {
        let delete = |version: i16| {
            let names = [&*format!("gone-{}", version.max(2)), ABSENT, ""];
            let mut request = message!(DeleteTopicsRequest { timeout_ms: 30_000 });
            match version {
                6.. => {
                    let by_name = |name| {
                        message!(DeleteTopicState {
                            name: Some(text(name))
                        })
                    };
                    request.topics = names.map(by_name).to_vec();
                    request.topics.push(message!(DeleteTopicState {
                        topic_id: UNKNOWN_ID
                    }));
                }
                _ => request.topic_names = texts(&names),
            }
            vec![request]
        };
        self.ask(delete).await;
        let grow = |version: i16| {
            let topics = [(TOPIC, 1), (ABSENT, 5), (TOPIC, i32::from(version) + 3)];
            let topics = topics.map(|(name, count)| {
                message!(CreatePartitionsTopic {
                    name: text(name),
                    count: count,
                    assignments: None,
                })
            });
            let request = |validate_only| {
                message!(CreatePartitionsRequest {
                    topics: topics.to_vec(),
                    timeout_ms: 30_000,
                    validate_only: validate_only,
                })
            };
            vec![request(true), request(false)]
        };
        self.ask(grow).await;
    }

    async fn settings(&mut self) {
        let describe = |version| {
            let resource = |keys: Option<&[&str]>| {
                RESOURCES.map(|(kind, name)| {
                    message!(DescribeConfigsResource {
                        resource_type: kind,
                        resource_name: text(name),
                        configuration_keys: keys.map(texts),
                    })
                })
            };
            let mut all = message!(DescribeConfigsRequest {
                resources: resource(None).to_vec(),
                include_synonyms: true,
            });
            if version >= 3 {
                all.include_documentation = true;
            }
            let some = message!(DescribeConfigsRequest {
                resources: resource(Some(&["retention.ms", "log.retention.ms"])).to_vec(),
            });
            vec![all, some]
        };
        self.ask(describe).await;
        self.other_settings().await;
    }

    async fn other_settings(&mut self) {
        let alter = |_| {
            let resources = RESOURCES.map(|(kind, name)| {
                let configs = [("retention.ms", Some("5000")), ("max.message.bytes", None)];
                message!(alter_configs_request::AlterConfigsResource {
                    resource_type: kind,
                    resource_name: text(name),
                    configs: configs
                        .map(
                            |(name, value)| message!(alter_configs_request::AlterableConfig {
                                name: text(name),
                                value: value.map(text),
                            })
                        )
                        .to_vec(),
                })
            });
            vec![message!(AlterConfigsRequest {
                resources: resources.to_vec()
            })]
        };
        self.ask(alter).await;
        let change = |_| {
            let resource = |kind, name, operation, key, value: Option<&str>| {
                let config = message!(incremental_alter_configs_request::AlterableConfig {
                    name: text(key),
                    config_operation: operation,
                    value: value.map(text),
                });
                message!(incremental_alter_configs_request::AlterConfigsResource {
                    resource_type: kind,
                    resource_name: text(name),
                    configs: vec![config],
                })
            };
            let mut resources: Vec<_> = RESOURCES
                .iter()
                .map(|(kind, name)| resource(*kind, *name, 0, "retention.ms", Some("7000")))
                .collect();
            resources.extend([
                resource(2, TOPIC, 1, "retention.ms", None),
                resource(2, TOPIC, 2, "cleanup.policy", Some("compact")),
                resource(2, TOPIC, 3, "cleanup.policy", Some("compact")),
                resource(2, TOPIC, 9, "cleanup.policy", Some("compact")),
            ]);
            vec![message!(IncrementalAlterConfigsRequest {
                resources: resources
            })]
        };
        self.ask(change).await;
    }

    async fn acls(&mut self) {
        let any = |_| {
            vec![message!(DescribeAclsRequest {
                resource_type_filter: 1,
                pattern_type_filter: 1,
                operation: 1,
                permission_type: 1,
            })]
        };
        self.ask(any).await;
        let create = |_| {
            let acl = message!(AclCreation {
                resource_type: 2,
                resource_name: text(TOPIC),
                resource_pattern_type: 3,
                principal: text("User:somebody"),
                host: text("*"),
                operation: 3,
                permission_type: 3,
            });
            vec![message!(CreateAclsRequest {
                creations: vec![acl.clone(), acl]
            })]
        };
        self.ask(create).await;
        let delete = |_| {
            let filter = message!(DeleteAclsFilter {
                resource_type_filter: 2,
                resource_name_filter: Some(text(TOPIC)),
                pattern_type_filter: 3,
                operation: 3,
                permission_type: 3,
            });
            vec![message!(DeleteAclsRequest {
                filters: vec![filter]
            })]
        };
        self.ask(delete).await;
    }

    async fn replicas(&mut self) {
        let elect = |_| {
            let topics = [TOPIC, ABSENT].map(|topic| {
                message!(TopicPartitions {
                    topic: text(topic),
                    partitions: vec![0, 9],
                })
            });
            vec![
                message!(ElectLeadersRequest {
                    topic_partitions: Some(topics.to_vec())
                }),
                message!(ElectLeadersRequest {
                    topic_partitions: None
                }),
            ]
        };
        self.ask(elect).await;
        let own = self.broker.service().config.node_id;
        let alter = |_| {
            let partitions = [
                (0, Some(vec![own])),
                (0, Some(vec![own, 77])),
                (1, None),
                (99, None),
            ];
            let partitions = partitions.map(|(index, replicas)| {
                message!(ReassignablePartition {
                    partition_index: index,
                    replicas: replicas,
                })
            });
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(ReassignableTopic {
                    name: text(name),
                    partitions: partitions.to_vec(),
                })
            });
            vec![message!(AlterPartitionReassignmentsRequest {
                topics: topics.to_vec()
            })]
        };
        self.ask(alter).await;
        let list = |_| {
            let topic = message!(ListPartitionReassignmentsTopics {
                name: text(TOPIC),
                partition_indexes: vec![0],
            });
            vec![
                message!(ListPartitionReassignmentsRequest {
                    topics: Some(vec![topic])
                }),
                message!(ListPartitionReassignmentsRequest { topics: None }),
            ]
        };
        self.ask(list).await;
    }
}
