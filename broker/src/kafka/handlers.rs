//! Who answers what: one file for each API, and what they share.

use std::time::Duration;

use logweir_proto::ErrorCode;

use super::apis::ApiKey;
use super::call::{Answer, Broken, Call};
use crate::config::ConfigSource;
use crate::error::ApiError;
use crate::service::Time;

mod acls;
mod alter_configs;
mod api_versions;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_client_quotas;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod elect_leaders;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod partition_reassignments;
pub(super) mod produce;
mod sync_group;

/// What a client that asks may do is not told: nothing is forbidden, and nobody asks yet.
const OPERATIONS_UNKNOWN: i32 = i32::MIN;

/// Kafka's `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const GROUP: i8 = 32;

/// Answers a request.
///
/// # Errors
/// If the connection cannot go on after it.
pub(super) async fn handle(call: Call) -> Result<Answer, Broken> {
    match call.api() {
        ApiKey::Produce => produce::handle(call).await,
        ApiKey::Fetch => fetch::handle(call).await,
        ApiKey::ListOffsets => call.answer(list_offsets::handle).await,
        ApiKey::Metadata => call.answer(metadata::handle).await,
        ApiKey::OffsetCommit => offset_commit::handle(call).await,
        ApiKey::OffsetFetch => call.answer(offset_fetch::handle).await,
        ApiKey::FindCoordinator => call.answer(find_coordinator::handle).await,
        ApiKey::JoinGroup => call.answer(join_group::handle).await,
        ApiKey::Heartbeat => call.answer(heartbeat::handle).await,
        ApiKey::LeaveGroup => call.answer(leave_group::handle).await,
        ApiKey::SyncGroup => call.answer(sync_group::handle).await,
        ApiKey::DescribeGroups => call.answer(describe_groups::handle).await,
        ApiKey::ListGroups => call.answer(list_groups::handle).await,
        ApiKey::ApiVersions => api_versions::handle(call),
        ApiKey::CreateTopics => create_topics::handle(call).await,
        ApiKey::DeleteTopics => call.answer(delete_topics::handle).await,
        ApiKey::DeleteRecords => call.answer(delete_records::handle).await,
        ApiKey::InitProducerId => call.answer(init_producer_id::handle).await,
        ApiKey::OffsetForLeaderEpoch => call.answer(offset_for_leader_epoch::handle).await,
        ApiKey::DescribeAcls => call.answer(acls::describe).await,
        ApiKey::CreateAcls => call.answer(acls::create).await,
        ApiKey::DeleteAcls => call.answer(acls::delete).await,
        ApiKey::DescribeConfigs => call.answer(describe_configs::handle).await,
        ApiKey::AlterConfigs => call.answer(alter_configs::handle).await,
        ApiKey::DescribeLogDirs => call.answer(describe_log_dirs::handle).await,
        ApiKey::CreatePartitions => call.answer(create_partitions::handle).await,
        ApiKey::DeleteGroups => call.answer(delete_groups::handle).await,
        ApiKey::ElectLeaders => call.answer(elect_leaders::handle).await,
        ApiKey::IncrementalAlterConfigs => call.answer(incremental_alter_configs::handle).await,
        ApiKey::AlterPartitionReassignments => call.answer(partition_reassignments::alter).await,
        ApiKey::ListPartitionReassignments => call.answer(partition_reassignments::list).await,
        ApiKey::OffsetDelete => call.answer(offset_delete::handle).await,
        ApiKey::DescribeClientQuotas => call.answer(describe_client_quotas::handle).await,
        ApiKey::DescribeCluster => call.answer(describe_cluster::handle).await,
        ApiKey::DescribeProducers => call.answer(describe_producers::handle).await,
        ApiKey::ConsumerGroupHeartbeat => call.answer(consumer_group_heartbeat::handle).await,
        ApiKey::ConsumerGroupDescribe => call.answer(consumer_group_describe::handle).await,
        ApiKey::DescribeTopicPartitions => call.answer(describe_topic_partitions::handle).await,
    }
}

/// Kafka's number for what came of something.
fn code<T>(outcome: &Result<T, ApiError>) -> i16 {
    outcome
        .as_ref()
        .err()
        .map_or(ErrorCode::None, |error| error.code)
        .code()
}

/// A time of a request; below 0 is none.
fn shared(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The time that a request has; 0 and less is the broker's default.
fn time(timeout_ms: i32) -> Time {
    Time::of(u32::try_from(timeout_ms).unwrap_or(0))
}

/// Kafka's `ConfigEntry.ConfigSource`.
fn config_source(source: ConfigSource) -> i8 {
    match source {
        ConfigSource::Topic => 1,
        ConfigSource::Broker => 4,
        ConfigSource::Default => 5,
    }
}

/// Only topics have settings that can be changed while the broker runs.
fn check_alterable(resource_type: i8) -> Result<(), ApiError> {
    let message = match resource_type {
        TOPIC => return Ok(()),
        BROKER => "a broker's settings are set where it is started".to_owned(),
        GROUP => "groups have no settings of their own".to_owned(),
        other => format!("resources of type {other} have no settings here"),
    };
    Err(ApiError::new(ErrorCode::InvalidRequest, message))
}
