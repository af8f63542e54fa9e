//! Topics, their configuration and offsets, groups, and the cluster.
//!
//! Calls that only read are tried again while the broker cannot be reached, until `request_timeout` is
//! up. Calls that change something are sent once: a lost answer is an error that says so. Where a group's
//! coordinator says that it is not there (it loads or moves), both are tried again. The change may have been made all
//! the same; so what is tried again is said in a way that leaves the same behind when it is done twice.

mod group_offsets;
#[cfg(test)]
mod group_tests;
mod groups;
mod offsets;
#[cfg(test)]
mod tests;
mod topics;

use std::time::Duration;

use logweir_proto::NodeId;
use logweir_proto::grpc::v1;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::clock::wait_until;
use crate::error::{Error, ErrorKind, Result};

pub(crate) use group_offsets::fitting_offsets;
pub use group_offsets::{CommittedOffset, NamedPartitions, OffsetToCommit, ResetOffset, ResetTo};
pub(crate) use groups::same_number;
pub use groups::{
    GroupDescription, GroupFilter, GroupMember, GroupPartition, GroupState, GroupSummary, GroupType,
};
pub(crate) use offsets::look_up;
pub use offsets::{ListedOffset, OffsetSpec};
pub use topics::{
    ConfigChanges, ConfigEntry, ConfigSource, NewTopic, PartitionDescription, PartitionOffsets,
    TopicDescription, TopicSummary,
};

/// What an answer may take longer than the time given to the broker.
const SLACK: Duration = Duration::from_secs(5);

/// Administers a cluster. Cheap to clone. All calls may be dropped; a change may then still happen.
///
/// ```no_run
/// # async fn example(client: logweir_client::Client) -> logweir_client::Result<()> {
/// use logweir_client::NewTopic;
///
/// let admin = client.admin();
/// admin.create_topic(NewTopic::new("flights").partitions(12).config("retention.ms", "604800000")).await?;
/// for topic in admin.list_topics().await? {
///     println!("{} has {} partitions", topic.name, topic.partitions);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterDescription {
    /// The cluster's id, made when it was first started.
    pub cluster_id: String,
    /// The node that is the active controller, if there is one at present.
    pub controller: Option<NodeId>,
    /// The brokers, by id.
    pub nodes: Vec<Node>,
    /// The node that answered.
    pub node_id: NodeId,
    /// Its version.
    pub version: String,
}

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its id.
    pub node_id: NodeId,
    /// Where its gRPC listener is reached, if it has one.
    pub grpc_address: Option<String>,
    /// Where its Kafka listener is reached, if it has one.
    pub kafka_address: Option<String>,
    /// Where its HTTP listener is reached, if it has one.
    pub http_address: Option<String>,
    /// Its rack, if it has one.
    pub rack: Option<String>,
    /// Whether it is kept from leading partitions at present.
    pub fenced: bool,
}

impl Admin {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// The cluster's id, controller and brokers.
    ///
    /// # Errors
    /// If the broker cannot be reached or refuses.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription> {
        let cluster = self
            .read(|| async {
                let mut service = self.client.cluster_service();
                let call = service.describe_cluster(v1::DescribeClusterRequest {});
                self.client
                    .call("describing the cluster", Duration::ZERO, call)
                    .await
            })
            .await?;
        Ok(ClusterDescription {
            cluster_id: cluster.cluster_id,
            controller: (cluster.controller_id >= 0).then(|| NodeId::new(cluster.controller_id)),
            nodes: cluster.nodes.into_iter().map(Node::from).collect(),
            node_id: NodeId::new(cluster.node_id),
            version: cluster.version,
        })
    }

    /// The time given to the broker for a change, in milliseconds.
    fn timeout_ms(&self) -> u32 {
        let timeout = self.client.config().request_timeout.as_millis();
        u32::try_from(timeout).unwrap_or(u32::MAX).min(300_000)
    }

    /// Repeats a call that changes nothing, while it fails in a passing way, until `request_timeout` is up.
    ///
    /// Takes a closure that makes futures, not an async closure: with those, the compiler cannot see that the calls' own
    /// futures may move between threads.
    async fn read<T, F: Future<Output = Result<T>>>(&self, call: impl FnMut() -> F) -> Result<T> {
        let passes = |result: &Result<T>| result.as_ref().is_err_and(Error::is_retriable);
        self.repeat(call, passes).await
    }

    /// Like [`Self::read`], and repeats the call also while an entry of its answer says that a coordinator is not
    /// there; when time is up, that entry is the answer.
    async fn read_entries<T, F: Future<Output = Result<Vec<T>>>>(
        &self,
        call: impl FnMut() -> F,
        error_of: impl Fn(&T) -> Option<&v1::Error>,
    ) -> Result<Vec<T>> {
        let passes = |entry: &T| {
            let error = error_of(entry).map(Error::from_entry);
            error.as_ref().is_some_and(groups::is_of_coordinator)
        };
        let passes = |result: &Result<Vec<T>>| match result {
            Err(error) => error.is_retriable(),
            Ok(entries) => entries.iter().any(passes),
        };
        self.repeat(call, passes).await
    }

    /// Repeats a call while its result passes, until `request_timeout` is up.
    async fn repeat<T, F: Future<Output = Result<T>>>(
        &self,
        mut call: impl FnMut() -> F,
        mut passes: impl FnMut(&Result<T>) -> bool,
    ) -> Result<T> {
        let mut tries = self.tries();
        loop {
            let result = call().await;
            if !passes(&result) || !tries.wait().await {
                return result;
            }
        }
    }

    /// Like [`Self::repeat`], for a change of a group: an error after a try that may have been done says so.
    async fn repeat_change<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl FnMut() -> F,
        passes: impl Fn(&Result<T>) -> bool,
    ) -> Result<T> {
        let mut may_be_done = false;
        let result = self.repeat(call, |result| {
            may_be_done |= result.as_ref().is_err_and(groups::may_stand);
            passes(result)
        });
        let result = result.await;
        match result {
            Err(error) if may_be_done => Err(error.with_may_have_happened(true)),
            result => result,
        }
    }

    fn tries(&self) -> Tries {
        Tries {
            deadline: Instant::now() + self.client.config().request_timeout,
            backoff: self.client.backoff(),
        }
    }
}

/// When a call is tried again.
struct Tries {
    deadline: Instant,
    backoff: Backoff,
}

impl Tries {
    /// Waits for the next try; `false` if time is up before.
    async fn wait(&mut self) -> bool {
        let next = Instant::now() + self.backoff.next();
        if next >= self.deadline {
            return false;
        }
        wait_until(Some(next)).await;
        true
    }
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        let given = |text: String| (!text.is_empty()).then_some(text);
        Self {
            node_id: NodeId::new(node.node_id),
            grpc_address: given(node.grpc_address),
            kafka_address: given(node.kafka_address),
            http_address: given(node.http_address),
            rack: given(node.rack),
            fenced: node.fenced,
        }
    }
}

/// The only entry of an answer to a request about one thing.
pub(crate) fn only<T>(entries: Vec<T>) -> Result<T> {
    entries.into_iter().next().ok_or_else(|| {
        Error::new(
            ErrorKind::Broker,
            "the answer has no entry for what was asked",
        )
    })
}
