//! One run of a broker, from its start to its clean end or its crash: the parts, in a written order.
//!
//! Start: open the data directory (its lock, its recovery), start the metadata quorum, register, open the
//! partitions, serve. Stop: refuse new calls and let those in flight finish, close the partitions, stop
//! the quorum, close the directory, which writes the clean-shutdown file.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use logweir_proto::NodeId;
use logweir_storage::disk::{Disk, OsDisk};
use logweir_storage::{LogDir, LogDirConfig, LogId};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::broker::{Parts, Port};
use crate::clock::Alarm;
use crate::config::{Config, TopicConfig};
use crate::error::BrokerError;
use crate::inflight::Budget;
use crate::metadata::{BrokerAddresses, BrokerRegistration, Limits, Quorum, QuorumConfig};
use crate::metrics::Metrics;
use crate::partition::Partitions;
use crate::service::{Groups, ProducerIds, Reconciler, Service};

/// How long calls in flight may take to finish when the broker stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A run of a broker. Dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub(super) struct Run {
    service: Arc<Service>,
    quorum: Quorum,
    log_dir: Arc<LogDir>,
    stop: CancellationToken,
    /// Breaks the connections that are left.
    cut: CancellationToken,
    /// Calls in process that are under way.
    calls: TaskTracker,
    listeners: Mutex<JoinSet<()>>,
    background: Mutex<JoinSet<()>>,
    /// Which part ended by itself.
    failure: watch::Sender<Option<String>>,
    _alarms: [Alarm; 4],
}

impl Run {
    /// Starts everything and returns when it serves.
    ///
    /// # Errors
    /// As [`Broker::start`](crate::Broker::start).
    pub(super) async fn start(parts: &Parts) -> Result<Self, BrokerError> {
        let config = &parts.config;
        // First, so that a port in use costs nothing.
        let kafka = parts.kafka.as_ref().map(Port::listen).transpose()?;
        let grpc = parts.grpc.as_ref().map(Port::listen).transpose()?;
        #[cfg(feature = "http")]
        let http = parts.http.as_ref().map(Port::listen).transpose()?;

        let metrics = Arc::new(Metrics::default());
        let log_dir = open_log_dir(parts).await?;
        let existing = existing_logs(config, &log_dir).await?;
        let expect_existing = log_dir.was_clean() || !existing.is_empty();
        let (quorum, producer_ids) = start_quorum(parts, &log_dir, expect_existing).await?;
        let partitions = Arc::new(Partitions::new(
            NodeId::new(config.node_id),
            Arc::clone(&log_dir),
            Arc::clone(config),
            parts.clock.clone(),
            Arc::clone(&metrics.lock_hold),
        ));
        let (to, image) = (Arc::clone(&partitions), quorum.image());
        let set_aside = move || {
            to.set_strays_aside(&existing, &image);
            Ok(())
        };
        off_runtime(config, set_aside).await?;
        let (reconciler, follow) = Reconciler::start(quorum.clone(), Arc::clone(&partitions)).await;
        let groups = Groups::start(config, &parts.clock, &quorum, &partitions);
        let stop = CancellationToken::new();
        let service = Arc::new(Service {
            config: Arc::clone(config),
            clock: parts.clock.clone(),
            metrics,
            quorum: quorum.clone(),
            partitions,
            reconciler,
            producer_ids,
            compactor: Default::default(),
            groups,
            faults: parts.faults.clone(),
            stop: stop.clone(),
        });
        let cut = CancellationToken::new();
        let routes = crate::grpc::routes(&service, &stop).await;
        let calls = TaskTracker::new();
        let in_process = &parts.in_process;
        in_process.connect(routes.clone(), cut.clone(), calls.clone());
        // Retention first: it closes segments that have had their time, and compaction leaves those that are open.
        let retain = service.watch_retention();
        let [compact, wait] = service.watch_compaction();
        let run = Self {
            _alarms: [retain, compact, wait, watch_flushes(parts, &log_dir)],
            service,
            quorum,
            log_dir,
            stop,
            cut,
            calls,
            listeners: Mutex::default(),
            background: Mutex::default(),
            failure: watch::Sender::default(),
        };
        run.watch_over(parts, follow);
        let budget = Arc::new(Budget::new(
            &config.limits,
            Arc::clone(&run.service.metrics),
        ));
        run.serve_kafka(kafka, &budget);
        run.serve_grpc(grpc, routes, budget);
        #[cfg(feature = "http")]
        run.serve_http(http);
        Ok(run)
    }

    /// Runs what has to run for as long as the broker does, so that an early end is noticed.
    fn watch_over(&self, parts: &Parts, follow: impl Future<Output = String> + Send + 'static) {
        let mut background = self.background.lock();
        let part = |name| Part::new(name, &self.failure);
        let partitions = part("what carries metadata to the partitions");
        background.spawn(async move { partitions.ended(&follow.await) });
        let groups = part("what tells groups of topics");
        let tell = self.service.groups.follow(self.quorum.clone());
        background.spawn(async move { groups.ended(&tell.await) });
        let (metadata, quorum) = (part("the metadata quorum"), self.quorum.clone());
        background.spawn(async move { metadata.ended(&quorum.ended().await) });
        let (time, clock) = (part("the clock"), parts.clock.clone());
        background.spawn(async move {
            clock.run().await;
            drop(time);
        });
    }

    #[cfg(test)]
    pub(super) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    fn serve_kafka(&self, listener: Option<TcpListener>, budget: &Arc<Budget>) {
        let Some(listener) = listener else { return };
        let part = Part::new("the Kafka listener", &self.failure);
        let (service, budget) = (Arc::clone(&self.service), Arc::clone(budget));
        let (stop, cut) = (self.stop.clone(), self.cut.clone());
        self.listeners.lock().spawn(async move {
            let served = crate::kafka::serve(listener, service, budget, stop, cut).await;
            part.ended(&outcome(served));
        });
    }

    fn serve_grpc(&self, listener: Option<TcpListener>, routes: Routes, budget: Arc<Budget>) {
        let Some(listener) = listener else { return };
        let part = Part::new("the gRPC listener", &self.failure);
        let service = Arc::clone(&self.service);
        let (stop, cut) = (self.stop.clone(), self.cut.clone());
        self.listeners.lock().spawn(async move {
            let served = crate::grpc::serve(listener, routes, &service, budget, stop, cut).await;
            part.ended(&outcome(served));
        });
    }

    #[cfg(feature = "http")]
    fn serve_http(&self, listener: Option<TcpListener>) {
        let Some(listener) = listener else { return };
        let part = Part::new("the HTTP listener", &self.failure);
        let (service, stop) = (Arc::clone(&self.service), self.stop.clone());
        self.listeners.lock().spawn(async move {
            let served = crate::http::serve(listener, service, stop).await;
            part.ended(&outcome(served));
        });
    }

    /// Tells when a part has ended by itself, which only a failure makes it do, and which.
    pub(super) fn failure(&self) -> watch::Receiver<Option<String>> {
        let mut failure = self.failure.subscribe();
        // Whoever asks late is told, too.
        failure.mark_changed();
        failure
    }

    /// The data directory, to see when the last user has let go of it.
    pub(super) fn log_dir(&self) -> Weak<LogDir> {
        Arc::downgrade(&self.log_dir)
    }

    /// Stops cleanly. To be called once.
    ///
    /// # Errors
    /// [`BrokerError::Close`]: what could not be closed. The next start recovers.
    pub(super) async fn shutdown(&self) -> Result<(), BrokerError> {
        self.stop.cancel();
        self.service.groups.refuse_calls();
        let mut listeners = std::mem::take(&mut *self.listeners.lock());
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
            while listeners.join_next().await.is_some() {}
            self.calls.close();
            self.calls.wait().await;
        });
        if drained.await.is_err() {
            tracing::warn!("calls in flight did not finish in time and are broken off");
        }
        self.end(listeners).await;
        let service = Arc::clone(&self.service);
        let log_dir = Arc::clone(&self.log_dir);
        let close = move || {
            let partitions = service.close_partitions();
            // Also if a partition failed: whose log was not closed is recovered at the next start.
            let directory = log_dir.close().map_err(|error| error.to_string());
            partitions.and(directory).map_err(BrokerError::Close)
        };
        off_runtime(&self.service.config, close).await
    }

    /// Ends at once, without flushing or closing anything: what a kill -9 leaves behind. To be called once.
    pub(super) async fn crash(&self) {
        self.stop.cancel();
        let listeners = std::mem::take(&mut *self.listeners.lock());
        self.end(listeners).await;
    }

    /// What the run can do, for tests of parts that no listener uses yet.
    #[cfg(test)]
    pub(super) fn service_for_test(&self) -> &Arc<Service> {
        &self.service
    }

    /// Ends the metadata quorum as nothing but a failure does.
    #[cfg(test)]
    pub(super) async fn end_quorum_for_test(&self) {
        self.quorum.shutdown().await;
    }

    async fn end(&self, mut listeners: JoinSet<()>) {
        self.cut.cancel();
        listeners.shutdown().await;
        let mut background = std::mem::take(&mut *self.background.lock());
        background.shutdown().await;
        self.quorum.shutdown().await;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

/// Has flushes that come after a time follow the clock when it is moved.
fn watch_flushes(parts: &Parts, log_dir: &Arc<LogDir>) -> Alarm {
    let log_dir = Arc::downgrade(log_dir);
    parts.clock.follow(move |span| {
        if let Some(log_dir) = log_dir.upgrade() {
            log_dir.advance(span);
        }
    })
}

fn outcome(served: Result<(), impl std::fmt::Display>) -> String {
    served.map_or_else(|error| error.to_string(), |()| "it stopped".to_owned())
}

/// A part that must not end before the broker does. Its end is told, also if it is a panic.
#[derive(Debug)]
struct Part {
    name: &'static str,
    failure: watch::Sender<Option<String>>,
}

impl Part {
    fn new(name: &'static str, failure: &watch::Sender<Option<String>>) -> Self {
        let failure = failure.clone();
        Self { name, failure }
    }

    fn ended(&self, reason: &str) {
        // The first end is the one that explains the others.
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| format!("{} ended: {reason}", self.name));
            first
        });
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.ended("it panicked or was stopped");
    }
}

fn advertised(parts: &Parts) -> BrokerAddresses {
    let text = |port: &Option<Port>| port.as_ref().map(|port| port.address().to_string());
    let listeners = &parts.config.listeners;
    BrokerAddresses {
        kafka: listeners
            .advertised_kafka
            .clone()
            .or_else(|| text(&parts.kafka)),
        grpc: listeners
            .advertised_grpc
            .clone()
            .or_else(|| text(&parts.grpc)),
        http: listeners
            .advertised_http
            .clone()
            .or_else(|| text(&parts.http)),
    }
}

async fn start_quorum(
    parts: &Parts,
    log_dir: &Arc<LogDir>,
    expect_existing: bool,
) -> Result<(Quorum, ProducerIds), BrokerError> {
    let failed = |error: &dyn std::error::Error| BrokerError::Metadata(error.to_string());
    let quorum = Quorum::start(quorum_config(&parts.config, log_dir, expect_existing))
        .await
        .map_err(|error| failed(&error))?;
    let registration = BrokerRegistration {
        node_id: NodeId::new(parts.config.node_id),
        directory_id: log_dir.directory_id().get(),
        addresses: advertised(parts),
        rack: None,
        was_clean: log_dir.was_clean(),
        boot_id: log_dir.boot_id().to_owned(),
    };
    // Side by side, so that both go into one entry of the log: the first producer need not wait for a second.
    let register = quorum.register_broker(registration);
    let (registered, ids) = tokio::join!(register, quorum.allocate_producer_ids());
    if let Err(error) = registered {
        // Its thread would hold the directory for a while.
        quorum.shutdown().await;
        return Err(failed(&error));
    }
    // Without them the first producer asks again, and is told why not.
    Ok((quorum, ProducerIds::new(ids.unwrap_or_default())))
}

fn quorum_config(config: &Config, log_dir: &Arc<LogDir>, expect_existing: bool) -> QuorumConfig {
    let quorum = QuorumConfig::new(
        NodeId::new(config.node_id),
        log_dir.directory_id().get(),
        Arc::clone(log_dir.disk()),
        log_dir.metadata_path(),
    );
    QuorumConfig {
        // A directory that has held a broker has its metadata, or something has been lost.
        expect_existing,
        disk_may_wait: !config.is_in_memory(),
        // The directory's lock outlives a quorum whose broker was dropped, until it writes no more.
        keep: Some(Arc::clone(log_dir) as Arc<dyn Any + Send + Sync>),
        release_reserve: {
            let log_dir = Arc::clone(log_dir);
            Arc::new(move || log_dir.release_reserve())
        },
        limits: Limits {
            max_topics: config.limits.max_topics as u64,
            max_partitions: config.limits.max_partitions as u64,
        },
        check_topic_configs,
        ..quorum
    }
}

/// What the controller asks before it takes a topic's settings.
fn check_topic_configs(set: &BTreeMap<String, String>) -> Result<(), String> {
    TopicConfig::validate(set).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        problems.join("; ")
    })
}

/// Runs what may wait for a real disk on a thread that may wait; memory is not worth one.
async fn off_runtime<T: Send + 'static>(
    config: &Config,
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    if config.is_in_memory() {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(BrokerError::Ended(error.to_string())))
}

async fn existing_logs(config: &Config, log_dir: &Arc<LogDir>) -> Result<Vec<LogId>, BrokerError> {
    let log_dir = Arc::clone(log_dir);
    off_runtime(config, move || Ok(log_dir.existing_logs()?)).await
}

async fn open_log_dir(parts: &Parts) -> Result<Arc<LogDir>, BrokerError> {
    let config = &parts.config;
    let mut settings = LogDirConfig {
        max_unflushed_bytes: config.log_dir.max_unflushed_bytes,
        reserve_bytes: config.log_dir.reserve_bytes,
        checkpoint_interval: Duration::from_millis(config.log_dir.checkpoint_interval_ms),
        compaction_buffer_bytes: config.log_dir.compaction_buffer_bytes,
        ..LogDirConfig::default()
    };
    let (disk, path): (Arc<dyn Disk>, PathBuf) = match (&parts.memory, &config.data_dir) {
        (None, Some(path)) => (Arc::new(OsDisk::new()), path.clone()),
        (memory, _) => {
            settings.reserve_bytes = 0;
            settings.flush_in_append = true;
            let disk = memory.as_deref().cloned().unwrap_or_default();
            (Arc::new(disk), Path::new("/").to_owned())
        }
    };
    off_runtime(config, move || Ok(LogDir::open(disk, &path, settings)?)).await
}
