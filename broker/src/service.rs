//! What a broker can do, in plain Rust types: the one layer behind every front end.
//!
//! Listeners translate and call in here; what one of them can do, the others can. Every call takes a
//! [`RequestContext`], the place where environments, quotas and authorization act.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::error::ApiError;
use crate::faults::{Api, Faults};
use crate::metadata::Quorum;
use crate::metrics::Metrics;
use crate::partition::Partitions;
#[cfg(feature = "http")]
use crate::words::counted;

mod compaction;
mod context;
mod faults;
mod fetch;
pub(crate) mod groups;
mod internal_topics;
mod offsets;
mod produce;
mod producer_ids;
mod reconcile;
mod retention;
mod time;
mod topics;

pub(crate) use crate::metadata::{Image, TopicImage};
pub(crate) use context::{ListenerKind, NameMapping, Principal, RequestContext};
#[cfg(test)]
pub(crate) use fetch::Fetched;
pub(crate) use fetch::{FetchPartition, FetchRequest, FetchedPartition, Isolation};
pub(crate) use groups::{
    GroupDescription, GroupPartition, Groups, MemberDescription, ResetTo, Resetting,
};
pub(crate) use offsets::OffsetQuery;
pub(crate) use produce::{Acks, Append, AppendResult, PendingProduce, ProduceRequest};
pub(crate) use producer_ids::ProducerIds;
pub(crate) use reconcile::Reconciler;
pub(crate) use time::{Time, within};
pub(crate) use topics::{CreateTopic, PartitionOffsets, TopicOutcome};

use compaction::Compactor;

/// A broker's abilities; shared by its listeners.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) quorum: Quorum,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) reconciler: Reconciler,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) compactor: Compactor,
    pub(crate) groups: Groups,
    pub(crate) faults: Faults,
    /// Cancelled when the broker stops.
    pub(crate) stop: CancellationToken,
}

impl Service {
    /// The cluster as this broker knows it.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.quorum.image()
    }

    /// The cluster as this broker knows it, for a caller.
    ///
    /// # Errors
    /// Injected ones only.
    pub(crate) async fn cluster(&self, ctx: &RequestContext) -> Result<Arc<Image>, ApiError> {
        let image = || Box::pin(std::future::ready(Ok(self.image()))) as _;
        self.suffer(ctx, Api::Metadata, None, image).await
    }

    fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// Closes every partition; the data directory can be closed cleanly if none failed.
    ///
    /// # Errors
    /// The first that failed, after all were tried.
    pub(crate) fn close_partitions(&self) -> Result<(), String> {
        self.groups.close();
        // It was told to stop.
        self.compactor.wait();
        self.partitions.close()
    }

    /// Why this broker cannot serve everything it should; `None` if it can.
    #[cfg(feature = "http")]
    pub(crate) fn unready(&self) -> Option<String> {
        if let Some(reason) = self.partitions.disk_offline() {
            return Some(format!("the data directory is offline: {reason}"));
        }
        if let Some(reason) = self.quorum.offline() {
            return Some(format!("the metadata is offline: {reason}"));
        }
        if let Some(reason) = self.groups.unready() {
            return Some(reason);
        }
        match self.partitions.offline_count() {
            0 => None,
            count => Some(format!(
                "{} cannot be served; the log says why",
                counted(count, "partition")
            )),
        }
    }

    /// Syncs of segment files since the data directory was opened.
    #[cfg(feature = "http")]
    pub(crate) fn log_flushes(&self) -> u64 {
        self.partitions.log_flushes()
    }

    /// The topic of the image, by its name as the caller sees it.
    pub(crate) fn topic(
        &self,
        ctx: &RequestContext,
        name: &str,
    ) -> Result<Arc<TopicImage>, ApiError> {
        let inner = ctx.names.to_inner(name);
        let image = self.image();
        image
            .topics
            .get(&*inner)
            .cloned()
            .ok_or_else(|| ApiError::unknown_topic(name))
    }
}
