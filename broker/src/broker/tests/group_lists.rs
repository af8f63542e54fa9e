//! Groups for the broker's own sake, where not every coordinator can be asked.

use std::sync::Arc;

use logweir_client::OffsetToCommit;
use tokio::time::Instant;

use super::*;
use crate::error::ApiError;
use crate::service::groups::OFFSETS_TOPIC;

/// One partition of the table that was loading hid the groups of all others from the metrics page.
#[tokio::test]
async fn a_partition_that_cannot_be_asked_hides_no_groups_but_its_own() {
    let mut config = quiet();
    config.topics.internal_num_partitions = 2;
    let (broker, client) = start(config).await;
    let topic = NewTopic::new("t");
    client.admin().create_topic(topic).await.unwrap();
    let service = {
        let run = broker.run.borrow();
        Arc::clone(run.as_ref().expect("it runs").service_for_test())
    };
    // Their ids' hashes are even and odd.
    for group in ["b", "a"] {
        let offset = OffsetToCommit::new("t", PartitionId::new(0), Offset::new(1));
        let committed = client.admin().commit_group_offsets(group, &[offset]).await;
        committed.unwrap().remove(0).unwrap();
    }
    let list = || service.list_all_groups(Instant::now() + Duration::from_secs(20));
    let all = list().await;
    let ids: Vec<_> = all.groups.iter().map(|group| &*group.group_id).collect();
    assert_eq!((ids, all.unlisted_partitions), (vec!["b", "a"], 0));

    let partition = service
        .partitions
        .get(OFFSETS_TOPIC, None, PartitionId::new(0));
    let reason = ApiError::new(ErrorCode::KafkaStorageError, "its disk is gone");
    let _ = partition.unwrap().close(&reason);
    let is_told = || async { list().await.unlisted_partitions == 1 };
    crate::testing::eventually("its coordinator ends", Duration::from_secs(20), is_told)
        .await
        .unwrap();
    let all = list().await;
    let ids: Vec<_> = all.groups.iter().map(|group| &*group.group_id).collect();
    assert_eq!(ids, ["a"]);
    broker.shutdown().await.unwrap();
}
