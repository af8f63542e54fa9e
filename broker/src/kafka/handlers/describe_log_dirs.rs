//! `DescribeLogDirs` (35), versions 1 to 4: the data directory and what each partition takes in it (KIP-113, KIP-827).

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_wire::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_wire::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_wire::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

pub(super) async fn handle(
    call: Arc<Call>,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let wanted = request.topics.as_deref();
    let mut topics: BTreeMap<Arc<str>, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for (topic, partition, offsets) in call.service.hosted_partitions() {
        if is_wanted(wanted, &topic, partition.get()) {
            topics
                .entry(topic)
                .or_default()
                .push(message!(DescribeLogDirsPartition {
                    partition_index: partition.get(),
                    partition_size: i64::try_from(offsets.size_bytes).unwrap_or(i64::MAX),
                }));
        }
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        message!(DescribeLogDirsTopic {
            name: text(topic),
            partitions: partitions,
        })
    });
    let space = call.service.disk_space();
    let told =
        |bytes: Option<u64>| bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let result = message!(DescribeLogDirsResult {
        log_dir: text(call.service.log_dir_name()),
        topics: topics.collect(),
        total_bytes: told(space.map(|space| space.total_bytes)),
        usable_bytes: told(space.map(|space| space.free_bytes)),
    });
    message!(DescribeLogDirsResponse {
        results: vec![result]
    })
}

/// Null is all topics.
fn is_wanted(wanted: Option<&[DescribableLogDirTopic]>, topic: &str, partition: i32) -> bool {
    wanted.is_none_or(|wanted| {
        let mut of_topic = wanted.iter().filter(|wanted| *wanted.topic == *topic);
        of_topic.any(|wanted| wanted.partitions.contains(&partition))
    })
}
