//! What an application does when partitions come and go.

use std::pin::Pin;

use super::ConsumerHandle;
use crate::topic_partition::TopicPartition;

/// What a [`RebalanceListener`] does, until it is done.
pub type RebalanceFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Called while the consumer is polled, one call at a time, as Kafka's `ConsumerRebalanceListener` is.
///
/// No records are handed out meanwhile, and the time counts against `max_poll_interval`. The calls may mark, commit, seek
/// and pause through the handle.
///
/// ```
/// use logweir_client::{ConsumerHandle, RebalanceFuture, RebalanceListener, TopicPartition};
///
/// struct Totals(std::collections::BTreeMap<TopicPartition, u64>);
///
/// impl RebalanceListener for Totals {
///     fn assigned<'a>(&'a mut self, _: &'a ConsumerHandle, partitions: &'a [TopicPartition]) -> RebalanceFuture<'a> {
///         Box::pin(async { self.0.extend(partitions.iter().map(|partition| (partition.clone(), 0))) })
///     }
///
///     fn revoked<'a>(&'a mut self, consumer: &'a ConsumerHandle, partitions: &'a [TopicPartition]) -> RebalanceFuture<'a> {
///         Box::pin(async move {
///             self.0.retain(|partition, _| !partitions.contains(partition));
///             if let Err(error) = consumer.commit().await {
///                 eprintln!("what was read last will be read again: {error}");
///             }
///         })
///     }
/// }
/// ```
pub trait RebalanceListener: Send + 'static {
    /// These were given to the consumer, and nothing of them was handed out yet: set up what they need, or seek.
    fn assigned<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> RebalanceFuture<'a> {
        let _ = (consumer, partitions);
        Box::pin(async {})
    }

    /// These go to another member, or the consumer closes: finish what is in progress and commit it. They are still owned,
    /// and are let go of when this is done; what is marked then is committed if `auto_commit` is on.
    fn revoked<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> RebalanceFuture<'a> {
        let _ = (consumer, partitions);
        Box::pin(async {})
    }

    /// The consumer was removed from the group, and these may be another's already: clean up without committing, which
    /// would be refused.
    fn lost<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> RebalanceFuture<'a> {
        let _ = (consumer, partitions);
        Box::pin(async {})
    }
}

/// A listener, if there is one.
pub(super) type Listener = Option<Box<dyn RebalanceListener>>;
