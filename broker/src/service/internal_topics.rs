//! The broker's own topics, on which coordinators keep their records: made when they are first needed.

use std::collections::BTreeMap;

use logweir_proto::ErrorCode;

use crate::config::TopicConfig;
use crate::coordinator::INTERNAL_TOPIC_CONFIGS;
use crate::error::ApiError;
use crate::metadata::NewTopic;
use crate::service::Service;

impl Service {
    /// Makes sure that an internal topic is there, and its coordinator was told of it. Costs a look-up once it is.
    ///
    /// # Errors
    /// `COORDINATOR_NOT_AVAILABLE` if it cannot be made; callers try again.
    pub(crate) async fn ensure_internal_topic(&self, name: &str) -> Result<(), ApiError> {
        if self.partitions().partition_count(name).is_some() {
            return Ok(());
        }
        // Boxed, so that the many calls that find it take no room for it.
        Box::pin(self.make_internal_topic(name)).await
    }

    async fn make_internal_topic(&self, name: &str) -> Result<(), ApiError> {
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: self.config.topics.internal_num_partitions,
            replication_factor: self.config.topics.default_replication_factor,
            configs: internal_topic_configs(),
        };
        match self
            .quorum
            .create_internal_topic(topic)
            .await
            .map_err(ApiError::from)
        {
            // Somebody else was first.
            Err(error) if error.code != ErrorCode::TopicAlreadyExists => {
                let message = format!("the internal topic {name:?} cannot be made: {error}");
                let error = ApiError::new(ErrorCode::CoordinatorNotAvailable, message);
                Err(error.hint("try again"))
            }
            _ => {
                self.partitions_follow().await;
                Ok(())
            }
        }
    }
}

/// Refuses to let a client change the records of an internal topic: coordinators replay them. As in Kafka.
///
/// # Errors
/// `INVALID_TOPIC_EXCEPTION`.
pub(super) fn refuse_internal(topic: &str) -> Result<(), ApiError> {
    if !topic.starts_with("__") {
        return Ok(());
    }
    let message = format!("topic {topic:?} is the broker's own; clients may only read it");
    Err(ApiError::new(ErrorCode::InvalidTopicException, message))
}

/// What this broker knows of the settings that internal topics are to have.
fn internal_topic_configs() -> BTreeMap<String, String> {
    INTERNAL_TOPIC_CONFIGS
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .filter(|(key, value)| {
            let alone = BTreeMap::from([(key.clone(), value.clone())]);
            TopicConfig::validate(&alone).is_ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_topics_have_small_segments_and_nothing_goes_by_age() {
        let configs = internal_topic_configs();
        assert_eq!(configs["segment.bytes"], "4194304");
        assert_eq!(configs["retention.ms"], "-1");
        TopicConfig::validate(&configs).expect("together they are valid, too");
    }
}
