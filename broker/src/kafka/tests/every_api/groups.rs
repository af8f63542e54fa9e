//! Groups of both protocols, and their offsets: with members, without, and groups that are not there.

use kafka_wire::consumer_group_heartbeat_request::TopicPartitions;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_wire::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, DeleteGroupsRequest,
    DescribeGroupsRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
    SyncGroupRequest,
};
use kafka_wire_core::StrBytes;

use super::{ABSENT, TOPIC, UNKNOWN_ID, World, opaque, texts};
use crate::kafka::message::{message, text};

/// A member as it comes back from JoinGroup.
struct Member {
    group: String,
    id: StrBytes,
    generation: i32,
}

impl World {
    pub(super) async fn groups(&mut self) {
        for version in 0..=9 {
            self.life_of_a_member(version, false).await;
            if version >= 5 {
                self.life_of_a_member(version, true).await;
            }
        }
        self.consumer_members().await;
        self.offsets(None).await;
        self.all_groups().await;
        let request = |_| {
            vec![message!(DeleteGroupsRequest {
                groups_names: texts(&["simple", "consumers", ABSENT, ""]),
            })]
        };
        self.ask(request).await;
    }

    fn join_request(
        version: i16,
        group: &str,
        member_id: StrBytes,
        is_static: bool,
    ) -> JoinGroupRequest {
        let protocol = message!(JoinGroupRequestProtocol {
            name: text("range"),
            metadata: opaque(),
        });
        let mut join = message!(JoinGroupRequest {
            group_id: text(group),
            session_timeout_ms: 30_000,
            member_id: member_id,
            protocol_type: text("consumer"),
            protocols: vec![protocol],
        });
        if version >= 1 {
            join.rebalance_timeout_ms = 30_000;
        }
        if is_static {
            join.group_instance_id = Some(text("instance"));
        }
        if version >= 8 {
            join.reason = Some(text("because"));
        }
        join
    }

    /// Joins, gets an assignment, beats, is described, commits, and leaves.
    async fn life_of_a_member(&mut self, version: i16, is_static: bool) {
        let group = format!("classic-{version}-{is_static}");
        let mut joined = {
            let join = Self::join_request(version, &group, text(""), is_static);
            self.client.ask(&join, version).await
        };
        // MEMBER_ID_REQUIRED.
        if joined.error_code == 79 {
            let join = Self::join_request(version, &group, joined.member_id.clone(), is_static);
            joined = self.client.ask(&join, version).await;
        }
        self.asked.insert((11, version));
        // Refused: of a session that is too short, and in a generation that is not there.
        let mut wrong = Self::join_request(version, &group, text("nobody"), false);
        wrong.session_timeout_ms = 1;
        self.client.ask(&wrong, version).await;
        let member = Member {
            group,
            id: joined.member_id,
            generation: joined.generation_id,
        };
        let instance = is_static.then(|| text("instance"));
        self.sync(version.min(5), &member, instance.clone()).await;
        self.beat(version.min(4), &member, instance).await;
        self.describe(&member.group).await;
        if version == 9 {
            self.offsets(Some(&member)).await;
        }
        self.leave(version.min(5), &member, is_static).await;
        self.describe(&member.group).await;
    }

    async fn sync(&mut self, version: i16, member: &Member, instance: Option<StrBytes>) {
        let assignment = message!(SyncGroupRequestAssignment {
            member_id: member.id.clone(),
            assignment: opaque(),
        });
        let mut sync = message!(SyncGroupRequest {
            group_id: text(&member.group),
            generation_id: member.generation,
            member_id: member.id.clone(),
            assignments: vec![assignment],
        });
        if version >= 3 {
            sync.group_instance_id = instance;
        }
        if version >= 5 {
            sync.protocol_type = Some(text("consumer"));
            sync.protocol_name = Some(text("range"));
        }
        self.client.ask(&sync, version).await;
        sync.generation_id += 5;
        self.client.ask(&sync, version).await;
        self.asked.insert((14, version));
    }

    async fn beat(&mut self, version: i16, member: &Member, instance: Option<StrBytes>) {
        let mut beat = message!(HeartbeatRequest {
            group_id: text(&member.group),
            generation_id: member.generation,
            member_id: member.id.clone(),
        });
        if version >= 3 {
            beat.group_instance_id = instance;
        }
        self.client.ask(&beat, version).await;
        beat.generation_id += 5;
        self.client.ask(&beat, version).await;
        self.asked.insert((12, version));
    }

    async fn leave(&mut self, version: i16, member: &Member, is_static: bool) {
        let mut leave = message!(LeaveGroupRequest {
            group_id: text(&member.group)
        });
        match version {
            3.. => {
                let mut own = message!(MemberIdentity {
                    member_id: member.id.clone()
                });
                if is_static {
                    own.group_instance_id = Some(text("instance"));
                }
                let mut other = message!(MemberIdentity {
                    member_id: text("nobody")
                });
                if version >= 5 {
                    other.reason = Some(text("because"));
                }
                leave.members = vec![own, other];
            }
            _ => leave.member_id = member.id.clone(),
        }
        for _ in 0..2 {
            // The second time it is not there any more.
            self.client.ask(&leave, version).await;
        }
        self.asked.insert((13, version));
    }

    async fn describe(&mut self, group: &str) {
        let request = |version| {
            let mut request = message!(DescribeGroupsRequest {
                groups: texts(&[group, ABSENT, ""])
            });
            if version >= 3 {
                request.include_authorized_operations = true;
            }
            vec![request]
        };
        self.ask(request).await;
    }

    /// A member of the consumer protocol joins, and is described while it is there.
    async fn consumer_members(&mut self) {
        let id = self.topic_id;
        for version in [0, 1] {
            let group = format!("consumers-{version}");
            let mut beat = message!(ConsumerGroupHeartbeatRequest {
                group_id: text(&group),
                member_id: text("AAAAAAAAAAAAAAAAAAAAAA"),
                rack_id: Some(text("r")),
                instance_id: Some(text("instance")),
                rebalance_timeout_ms: 30_000,
                subscribed_topic_names: Some(texts(&[TOPIC, ABSENT])),
                topic_partitions: Some(Vec::new()),
            });
            let joined = self.client.ask(&beat, version).await;
            beat.member_epoch = joined.member_epoch;
            let owned = message!(TopicPartitions {
                topic_id: id,
                partitions: vec![0, 1],
            });
            beat.topic_partitions = Some(vec![owned]);
            self.client.ask(&beat, version).await;
            beat.topic_partitions.as_mut().expect("it was set")[0].topic_id = UNKNOWN_ID;
            self.client.ask(&beat, version).await;
            let mut stranger = beat.clone();
            (stranger.member_id, stranger.member_epoch) = (text("stranger"), 7);
            self.client.ask(&stranger, version).await;
            if version >= 1 {
                let mut by_pattern = beat.clone();
                by_pattern.subscribed_topic_regex = Some(text("fl.*"));
                self.client.ask(&by_pattern, version).await;
                by_pattern.subscribed_topic_regex = Some(text("("));
                self.client.ask(&by_pattern, version).await;
            }
            self.asked.insert((68, version));
            let request = |_| {
                vec![message!(ConsumerGroupDescribeRequest {
                    group_ids: texts(&[&group, ABSENT, "classic-9-false", ""]),
                    include_authorized_operations: true,
                })]
            };
            self.ask(request).await;
            self.describe(&group).await;
            (beat.member_epoch, beat.topic_partitions) = (-1, None);
            self.client.ask(&beat, version).await;
        }
    }

    /// Commits, reads and forgets, as a member or as nobody's member.
    async fn offsets(&mut self, member: Option<&Member>) {
        let group = member
            .map_or("simple", |member| member.group.as_str())
            .to_owned();
        let commit = |version| {
            let partitions = [(0, Some("m")), (1, None), (9, Some(""))].map(|(index, metadata)| {
                let mut partition = message!(OffsetCommitRequestPartition {
                    partition_index: index,
                    committed_offset: 2,
                    committed_metadata: metadata.map(text),
                });
                if version >= 6 {
                    partition.committed_leader_epoch = 0;
                }
                partition
            });
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(OffsetCommitRequestTopic {
                    name: text(name),
                    partitions: partitions.to_vec(),
                })
            });
            let mut commit = message!(OffsetCommitRequest {
                group_id: text(&group),
                generation_id_or_member_epoch: member.map_or(-1, |member| member.generation),
                member_id: member.map_or(text(""), |member| member.id.clone()),
                topics: topics.to_vec(),
            });
            if (2..=4).contains(&version) {
                commit.retention_time_ms = 60_000;
            }
            let mut late = commit.clone();
            late.generation_id_or_member_epoch = 77;
            vec![commit, late]
        };
        self.ask(commit).await;
        self.ask(|version| fetch_requests(version, &group)).await;
        let forget = |_| {
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(OffsetDeleteRequestTopic {
                    name: text(name),
                    partitions: [0, 9]
                        .map(|index| message!(OffsetDeleteRequestPartition {
                            partition_index: index
                        }))
                        .to_vec(),
                })
            });
            let of_group = |group| {
                message!(OffsetDeleteRequest {
                    group_id: text(group),
                    topics: topics.to_vec(),
                })
            };
            vec![of_group(&*group), of_group(ABSENT)]
        };
        self.ask(forget).await;
    }

    async fn all_groups(&mut self) {
        let request = |version| {
            let all = ListGroupsRequest::default();
            let mut some = all.clone();
            if version >= 4 {
                some.states_filter = texts(&["Empty", "nonsense"]);
            }
            if version >= 5 {
                some.types_filter = texts(&["classic", "Consumer"]);
            }
            vec![all, some]
        };
        self.ask(request).await;
    }
}

fn fetch_requests(version: i16, group: &str) -> Vec<OffsetFetchRequest> {
    let mut requests = Vec::new();
    for (group, all) in [(group, false), (ABSENT, false), (group, true)] {
        if all && version < 2 {
            continue;
        }
        let mut request = OffsetFetchRequest::default();
        if version >= 8 {
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(OffsetFetchRequestTopics {
                    name: text(name),
                    partition_indexes: vec![0, 1, 9],
                })
            });
            let of_group = |group| {
                message!(OffsetFetchRequestGroup {
                    group_id: text(group),
                    topics: (!all).then(|| topics.to_vec()),
                })
            };
            request.groups = vec![of_group(group), of_group("another")];
            if version >= 9 {
                request.groups[1].member_id = Some(text("stranger"));
                request.groups[1].member_epoch = 3;
            }
        } else {
            let topics = [TOPIC, ABSENT].map(|name| {
                message!(OffsetFetchRequestTopic {
                    name: text(name),
                    partition_indexes: vec![0, 1, 9],
                })
            });
            request.group_id = text(group);
            request.topics = (!all).then(|| topics.to_vec());
        }
        request.require_stable = version >= 7;
        requests.push(request);
    }
    requests
}
