//! The cluster's metadata: a raft quorum that keeps it, and the [`Image`] that everybody reads.
//!
//! [`Quorum`] is a handle to a thread of its own, so that neither a busy runtime nor a stalled data disk
//! keeps the quorum from its duties. Callers ask for a change, the controller on that thread decides and
//! writes the result through openraft, and the image is replaced before the caller has its answer.
//! Now there is one voter; what will make it a cluster is named in `raft.rs` and `raft_network.rs`.
//!
//! What must hold: a change that was answered is on disk; the image never goes back, also not over a
//! restart; a file that cannot be trusted is a refusal to start, never a new beginning.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use logweir_proto::{BrokerEpoch, NodeId, TopicId};
use logweir_storage::disk::Disk;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

mod batch;
mod controller;
mod error;
mod image;
#[cfg(feature = "cli")]
pub(crate) mod inspect;
mod log_file;
mod log_writer;
mod placement;
mod quorum_files;
mod raft;
mod raft_codec;
mod raft_log;
mod raft_network;
mod snapshot_file;
mod sorted_map;
mod state_machine;
mod topic_name;

pub(crate) use controller::{BrokerRegistration, CheckTopicConfigs, NewTopic};
pub(crate) use error::{MetadataError, QuorumError};
pub(crate) use image::{BrokerAddresses, Image, TopicImage};

use batch::Operation;
use controller::{Request, Rules};
use raft::{QUEUE, Start};
use state_machine::Publisher;

/// What a node's quorum is started with.
#[derive(Clone)]
pub(crate) struct QuorumConfig {
    /// This node, from 0.
    pub(crate) node_id: NodeId,
    /// The id of the data directory that `dir` lies in.
    pub(crate) directory_id: [u8; 16],
    /// Where the files are.
    pub(crate) disk: Arc<dyn Disk>,
    /// The metadata directory; made if absent.
    pub(crate) dir: PathBuf,
    /// Whether the data directory has been used before, so that an absent metadata log is an error.
    pub(crate) expect_existing: bool,
    /// Whether the disk may keep its caller waiting. If not (memory), no thread is made for it.
    pub(crate) disk_may_wait: bool,
    /// How much the cluster may hold.
    pub(crate) limits: Limits,
    /// Checks a topic's settings as they would be after a change.
    pub(crate) check_topic_configs: CheckTopicConfigs,
    /// Kept until the thread has ended and the files are closed: the directory's lock, so that nobody
    /// opens it too early.
    pub(crate) keep: Option<Arc<dyn Any + Send + Sync>>,
    /// Gives up space that was kept for metadata, when a write met a full disk; whether there was any. May wait for
    /// the disk.
    pub(crate) release_reserve: ReleaseReserve,
    /// A snapshot is made after so many log entries.
    pub(crate) snapshot_entries: u64,
    /// A snapshot is made when the entries since the last take so many bytes.
    pub(crate) snapshot_bytes: u64,
    /// The log file is not written anew, without what was purged, before it has so many bytes.
    pub(crate) rewrite_bytes: u64,
}

/// Gives up space that was kept; whether there was any.
pub(crate) type ReleaseReserve = Arc<dyn Fn() -> bool + Send + Sync>;

/// How much the cluster may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Topics, internal ones included.
    pub(crate) max_topics: u64,
    /// Partitions of all topics together.
    pub(crate) max_partitions: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_topics: 50_000,
            max_partitions: 200_000,
        }
    }
}

impl QuorumConfig {
    /// A configuration with default limits that takes any topic setting.
    pub(crate) fn new(
        node_id: NodeId,
        directory_id: [u8; 16],
        disk: Arc<dyn Disk>,
        dir: PathBuf,
    ) -> Self {
        Self {
            node_id,
            directory_id,
            disk,
            dir,
            expect_existing: false,
            disk_may_wait: true,
            limits: Limits::default(),
            check_topic_configs: |_| Ok(()),
            keep: None,
            release_reserve: Arc::new(|| false),
            snapshot_entries: 2_000,
            snapshot_bytes: 4 << 20,
            rewrite_bytes: 1 << 20,
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            max_topics: self.limits.max_topics,
            max_partitions: self.limits.max_partitions,
            check_topic_configs: self.check_topic_configs,
        }
    }
}

/// A handle to the metadata quorum; clones are the same quorum.
///
/// When the last handle is dropped, the thread ends by itself, soon but not at once: the directory may be
/// opened again after [`Quorum::shutdown`], or when [`QuorumConfig::keep`] was let go.
#[derive(Clone)]
pub(crate) struct Quorum {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: NodeId,
    rules: Rules,
    operations: mpsc::Sender<Operation>,
    publisher: Arc<Publisher>,
    stop: CancellationToken,
    ended: watch::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quorum")
            .field("node_id", &self.inner.node_id)
            .finish_non_exhaustive()
    }
}

/// What an operation gave.
#[derive(Debug)]
enum Reply {
    Done,
    BrokerEpoch(BrokerEpoch),
    Topic(Arc<TopicImage>),
    DeletedTopic(TopicId),
    ProducerIds(Range<i64>),
}

/// Takes the one kind of reply that a request has.
macro_rules! expect_reply {
    ($reply:expr, $kind:pat => $value:expr) => {
        match $reply {
            $kind => Ok($value),
            other => unreachable!("the controller answers each request in kind, not {other:?}"),
        }
    };
}

impl Quorum {
    /// Starts the quorum and returns when it has a controller, and everything the log holds is in the image.
    /// Needs no runtime of a particular kind. Dropping the future ends what was started.
    ///
    /// # Errors
    /// [`QuorumError`] if a file cannot be trusted or the disk fails.
    pub(crate) async fn start(config: QuorumConfig) -> Result<Self, QuorumError> {
        let (operations, received) = mpsc::channel(QUEUE);
        let (ready, started) = oneshot::channel();
        let (ending, ended) = watch::channel(());
        let publisher = Arc::new(Publisher::new());
        let stop = CancellationToken::new();
        let node_id = config.node_id;
        let rules = config.rules();
        let start = Start {
            config,
            publisher: Arc::clone(&publisher),
            operations: received,
            ready,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("logweir-meta".to_owned())
            .spawn(move || {
                raft::run(start);
                drop(ending);
            })
            .map_err(|error| QuorumError::Failed {
                reason: error.to_string(),
            })?;
        let thread = Mutex::new(Some(thread));
        let inner = Arc::new(Inner {
            node_id,
            rules,
            operations,
            publisher,
            stop,
            ended,
            thread,
        });
        let quorum = Self { inner };
        match started.await {
            Ok(Ok(())) => Ok(quorum),
            Ok(Err(error)) => {
                quorum.shutdown().await;
                Err(error)
            }
            Err(_) => Err(QuorumError::Failed {
                reason: "its thread panicked".to_owned(),
            }),
        }
    }

    /// The cluster as it is now.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.inner.publisher.image()
    }

    /// Tells of every new image: its version. Versions may be skipped, and one may come again when only
    /// the controller changed.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.inner.publisher.changed()
    }

    /// Why nothing can be changed any more until the broker restarts; `None` while all is well.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "only readiness asks")
    )]
    pub(crate) fn offline(&self) -> Option<Arc<str>> {
        self.inner.publisher.failure()
    }

    /// Waits until the quorum has stopped, and says why: it was shut down, or something panicked. A failed or full
    /// disk does not stop it: see [`Quorum::offline`]. Dropping the future is safe.
    pub(crate) async fn ended(&self) -> String {
        tokio::select! {
            () = self.thread_ended() => {}
            () = self.inner.publisher.stopped() => {}
        }
        if self.inner.stop.is_cancelled() {
            return "the metadata quorum was shut down".to_owned();
        }
        let reason = self.inner.publisher.failure();
        reason.map_or_else(
            || "the metadata thread panicked".to_owned(),
            |reason| format!("the metadata quorum stopped: {reason}"),
        )
    }

    /// Waits until the quorum's thread has ended, for whatever reason. Dropping the future is safe.
    async fn thread_ended(&self) {
        let mut ended = self.inner.ended.clone();
        // Nothing is ever sent: the thread drops the sender as the last thing it does.
        while ended.changed().await.is_ok() {}
    }

    /// Registers a run of a broker, which may lead partitions from then on, and gives it its epoch, which
    /// is greater than that of every run before.
    ///
    /// # Errors
    /// [`MetadataError`]; all operations share these rules: refused means nothing was written, and if the
    /// future is dropped the change may still happen.
    pub(crate) async fn register_broker(
        &self,
        registration: BrokerRegistration,
    ) -> Result<BrokerEpoch, MetadataError> {
        let reply = self.submit(Request::RegisterBroker(registration)).await?;
        expect_reply!(reply, Reply::BrokerEpoch(epoch) => epoch)
    }

    /// Creates a topic for a client.
    ///
    /// # Errors
    /// As [`Quorum::register_broker`]; names that begin with "__" are refused.
    pub(crate) async fn create_topic(
        &self,
        topic: NewTopic,
    ) -> Result<Arc<TopicImage>, MetadataError> {
        let reply = self
            .submit(Request::CreateTopic {
                topic,
                internal: false,
            })
            .await?;
        expect_reply!(reply, Reply::Topic(topic) => topic)
    }

    /// Creates a topic for the broker itself, whose name may begin with "__".
    ///
    /// # Errors
    /// As [`Quorum::register_broker`].
    pub(crate) async fn create_internal_topic(
        &self,
        topic: NewTopic,
    ) -> Result<Arc<TopicImage>, MetadataError> {
        let reply = self
            .submit(Request::CreateTopic {
                topic,
                internal: true,
            })
            .await?;
        expect_reply!(reply, Reply::Topic(topic) => topic)
    }

    /// Checks what [`Quorum::create_topic`] would check, on the present image, and changes nothing.
    ///
    /// # Errors
    /// As [`Quorum::create_topic`].
    pub(crate) fn check_create_topic(&self, topic: &NewTopic) -> Result<(), MetadataError> {
        let request = Request::CreateTopic {
            topic: topic.clone(),
            internal: false,
        };
        controller::plan(&request, &self.image(), &self.inner.rules).map(drop)
    }

    /// Deletes a topic; its id.
    ///
    /// # Errors
    /// As [`Quorum::register_broker`]; internal topics are refused.
    pub(crate) async fn delete_topic(&self, name: &str) -> Result<TopicId, MetadataError> {
        let reply = self.submit(Request::DeleteTopic(name.to_owned())).await?;
        expect_reply!(reply, Reply::DeletedTopic(id) => id)
    }

    /// Adds partitions until the topic has `total`; the topic as it is then.
    ///
    /// # Errors
    /// As [`Quorum::register_broker`].
    pub(crate) async fn create_partitions(
        &self,
        name: &str,
        total: i32,
    ) -> Result<Arc<TopicImage>, MetadataError> {
        let name = name.to_owned();
        let reply = self
            .submit(Request::CreatePartitions { name, total })
            .await?;
        expect_reply!(reply, Reply::Topic(topic) => topic)
    }

    /// Changes a topic's settings, all of them or none.
    ///
    /// # Errors
    /// As [`Quorum::register_broker`].
    pub(crate) async fn alter_configs(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<(), MetadataError> {
        let name = name.to_owned();
        let reply = self
            .submit(Request::AlterConfigs { name, set, unset })
            .await?;
        expect_reply!(reply, Reply::Done => ())
    }

    /// Checks what [`Quorum::create_partitions`] would check, on the present image, and changes nothing.
    ///
    /// # Errors
    /// As [`Quorum::create_partitions`].
    pub(crate) fn check_create_partitions(
        &self,
        name: &str,
        total: i32,
    ) -> Result<(), MetadataError> {
        let request = Request::CreatePartitions {
            name: name.to_owned(),
            total,
        };
        controller::plan(&request, &self.image(), &self.inner.rules).map(drop)
    }

    /// Checks what [`Quorum::alter_configs`] would check, on the present image, and changes nothing.
    ///
    /// # Errors
    /// As [`Quorum::alter_configs`].
    pub(crate) fn check_alter_configs(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<(), MetadataError> {
        let request = Request::AlterConfigs {
            name: name.to_owned(),
            set,
            unset,
        };
        controller::plan(&request, &self.image(), &self.inner.rules).map(drop)
    }

    /// Hands out a block of [`controller::PRODUCER_ID_BLOCK`] producer ids, which nobody gets again.
    ///
    /// # Errors
    /// As [`Quorum::register_broker`].
    pub(crate) async fn allocate_producer_ids(&self) -> Result<Range<i64>, MetadataError> {
        let reply = self
            .submit(Request::AllocateProducerIds(self.inner.node_id))
            .await?;
        expect_reply!(reply, Reply::ProducerIds(block) => block)
    }

    /// Ends the quorum: what is under way is finished, what waits is refused. When this returns, the files
    /// are closed. The image stays readable. A second call waits like the first.
    pub(crate) async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.thread_ended().await;
        let thread = self.inner.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the metadata thread panicked");
        }
    }

    async fn submit(&self, request: Request) -> Result<Reply, MetadataError> {
        let (answer, answered) = oneshot::channel();
        let operation = Operation { request, answer };
        self.inner
            .operations
            .send(operation)
            .await
            .map_err(|_| MetadataError::ShutDown)?;
        answered.await.unwrap_or(Err(MetadataError::Interrupted))
    }
}

/// Sixteen bytes as people read them.
fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
