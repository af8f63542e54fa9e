//! A running broker: starts and stops the parts, in a written order.
//!
//! Start: bind the listeners (so that a taken port costs nothing), open the data directory (its lock,
//! its recovery), start the metadata quorum, register, open the partitions, serve. Stop: refuse new
//! calls and let those in flight finish, close the partitions, stop the quorum, close the directory,
//! which writes the clean-shutdown file.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::NodeId;
use logweir_storage::disk::{Disk, OsDisk, SimDisk};
use logweir_storage::{LogDir, LogDirConfig, LogId};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Config, ListenAddr, TopicConfig};
use crate::error::BrokerError;
use crate::metadata::{BrokerAddresses, BrokerRegistration, Limits, Quorum, QuorumConfig};
use crate::metrics::Metrics;
use crate::partition::Partitions;
use crate::service::{Reconciler, Service};

/// How long calls in flight may take to finish when the broker stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A running broker. Dropping it stops it at once, as a crash would, without losing what was acknowledged;
/// [`Broker::shutdown`] stops it cleanly.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use logweir::{Broker, Config};
///
/// let broker = Broker::start(Config::in_memory()).await?;
/// println!("gRPC on {:?}", broker.grpc_addr());
/// broker.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Broker {
    addresses: Bound,
    routes: tonic::service::Routes,
    service: Arc<Service>,
    quorum: Quorum,
    log_dir: Arc<LogDir>,
    clock: Clock,
    stop: CancellationToken,
    /// Breaks the connections that are left.
    cut: CancellationToken,
    tasks: Mutex<JoinSet<Result<(), BrokerError>>>,
    background: Vec<JoinHandle<()>>,
}

/// Where the listeners are bound; `None` where one is off.
#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

impl Broker {
    /// Starts a broker and returns when it serves. Needs a Tokio runtime, of either kind.
    ///
    /// # Errors
    /// An invalid configuration, a taken port, a data directory that another process holds or that is damaged.
    pub async fn start(config: Config) -> Result<Self, BrokerError> {
        config
            .validate()
            .map_err(|problems| BrokerError::Config(problems.to_string()))?;
        let config = Arc::new(config);
        let grpc = bind("grpc", &config.listeners.grpc).await?;
        let http = bind_http(&config).await?;
        let addresses = Bound {
            grpc: local(grpc.as_ref()),
            http: local(http.as_ref()),
        };

        let clock = Clock::default();
        let metrics = Arc::new(Metrics::default());
        let log_dir = open_log_dir(&config).await?;
        let node = NodeId::new(config.node_id);
        let existing = existing_logs(&log_dir).await?;
        let expect_existing = log_dir.was_clean() || !existing.is_empty();
        let quorum = Quorum::start(quorum_config(&config, &log_dir, expect_existing))
            .await
            .map_err(|error| BrokerError::Metadata(error.to_string()))?;
        let registration = BrokerRegistration {
            node_id: node,
            directory_id: log_dir.directory_id().get(),
            addresses: advertised(&config, addresses),
            rack: None,
        };
        quorum
            .register_broker(registration)
            .await
            .map_err(|error| BrokerError::Metadata(error.to_string()))?;

        let partitions = Arc::new(Partitions::new(
            node,
            Arc::clone(&log_dir),
            Arc::clone(&config),
            clock.clone(),
            Arc::clone(&metrics.lock_hold),
        ));
        partitions.set_strays_aside(&existing, &quorum.image());
        let (reconciler, follow) = Reconciler::start(quorum.clone(), Arc::clone(&partitions)).await;
        let service = Arc::new(Service::new(
            config,
            clock.clone(),
            metrics,
            quorum.clone(),
            partitions,
            reconciler,
        ));
        let stop = CancellationToken::new();
        let routes = crate::grpc::routes(&service, &stop)
            .await
            .map_err(|error| BrokerError::Config(format!("the gRPC descriptors: {error}")))?;
        let retention = tokio::spawn(Arc::clone(&service).run_retention());
        let broker = Self {
            addresses,
            routes,
            service,
            quorum,
            log_dir,
            clock,
            stop,
            cut: CancellationToken::new(),
            tasks: Mutex::default(),
            background: vec![tokio::spawn(follow), retention],
        };
        broker.serve(grpc, http);
        Ok(broker)
    }

    fn serve(&self, grpc: Option<TcpListener>, http: Option<TcpListener>) {
        let mut tasks = self.tasks.lock();
        if let (Some(listener), Some(address)) = (grpc, self.addresses.grpc) {
            let (routes, service) = (self.routes.clone(), Arc::clone(&self.service));
            let (stop, cut) = (self.stop.clone(), self.cut.clone());
            tasks.spawn(async move {
                crate::grpc::serve(listener, routes, &service, stop, cut)
                    .await
                    .map_err(|error| ended("grpc", address, &error))
            });
        }
        #[cfg(feature = "http")]
        if let (Some(listener), Some(address)) = (http, self.addresses.http) {
            let (service, stop) = (Arc::clone(&self.service), self.stop.clone());
            tasks.spawn(async move {
                crate::http::serve(listener, service, stop)
                    .await
                    .map_err(|error| ended("http", address, &error))
            });
        }
        #[cfg(not(feature = "http"))]
        let _ = http;
    }

    /// Where the gRPC listener is bound; `None` if it is off.
    #[must_use]
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.addresses.grpc
    }

    /// Where the HTTP listener is bound; `None` if it is off.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.addresses.http
    }

    /// Where the Kafka listener is bound; `None`, as this version does not have it yet.
    #[must_use]
    pub fn kafka_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// The broker's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A client in this process, which needs no port.
    #[cfg(feature = "client")]
    ///
    /// # Errors
    /// Never with the client's default settings, which it uses.
    pub fn client(&self) -> Result<logweir_client::Client, logweir_client::Error> {
        logweir_client::Client::from_service(self.routes.clone())
    }

    /// Waits until a listener ends by itself, which only a failure makes it do.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn failed(&self) -> BrokerError {
        loop {
            let ended = std::future::poll_fn(|cx| self.tasks.lock().poll_join_next(cx)).await;
            match ended {
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) if error.is_panic() => {
                    return BrokerError::Close(format!("a listener panicked: {error}"));
                }
                Some(_) if !self.stop.is_cancelled() => {}
                // Without listeners, or after the stop, nothing can fail any more.
                _ => std::future::pending().await,
            }
        }
    }

    /// Stops cleanly: calls in flight finish (at most 10 s), logs are flushed, and the next start need not scan them.
    ///
    /// # Errors
    /// What could not be closed. Nothing acknowledged is lost by that; the next start scans the logs.
    pub async fn shutdown(self) -> Result<(), BrokerError> {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
            while tasks.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            tracing::warn!("calls in flight did not finish in time and are broken off");
        }
        self.cut.cancel();
        tasks.shutdown().await;
        for task in &self.background {
            task.abort();
        }
        self.quorum.shutdown().await;
        let service = Arc::clone(&self.service);
        let log_dir = Arc::clone(&self.log_dir);
        let closed = tokio::task::spawn_blocking(move || {
            service.close_partitions()?;
            log_dir.close().map_err(|error| error.to_string())
        });
        let closed = closed.await.unwrap_or_else(|error| Err(error.to_string()));
        closed.map_err(BrokerError::Close)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
        self.tasks.get_mut().abort_all();
        for task in &self.background {
            task.abort();
        }
    }
}

fn ended(
    listener: &'static str,
    address: SocketAddr,
    error: &dyn std::error::Error,
) -> BrokerError {
    BrokerError::ListenerEnded {
        listener,
        address,
        reason: error.to_string(),
    }
}

async fn bind(
    name: &'static str,
    address: &ListenAddr,
) -> Result<Option<TcpListener>, BrokerError> {
    let Some(address) = address.address() else {
        return Ok(None);
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) => Err(BrokerError::Listen {
            listener: name,
            address: address.to_owned(),
            source,
        }),
    }
}

#[cfg(feature = "http")]
async fn bind_http(config: &Config) -> Result<Option<TcpListener>, BrokerError> {
    bind("http", &config.listeners.http).await
}

#[cfg(not(feature = "http"))]
#[expect(clippy::unused_async, reason = "the same shape as with the listener")]
async fn bind_http(_config: &Config) -> Result<Option<TcpListener>, BrokerError> {
    Ok(None)
}

fn local(listener: Option<&TcpListener>) -> Option<SocketAddr> {
    listener.and_then(|listener| listener.local_addr().ok())
}

fn advertised(config: &Config, bound: Bound) -> BrokerAddresses {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    BrokerAddresses {
        kafka: None,
        grpc: config
            .listeners
            .advertised_grpc
            .clone()
            .or_else(|| text(bound.grpc)),
        http: config
            .listeners
            .advertised_http
            .clone()
            .or_else(|| text(bound.http)),
    }
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

async fn existing_logs(log_dir: &Arc<LogDir>) -> Result<Vec<LogId>, BrokerError> {
    let log_dir = Arc::clone(log_dir);
    match tokio::task::spawn_blocking(move || log_dir.existing_logs()).await {
        Ok(logs) => Ok(logs?),
        Err(error) => Err(BrokerError::Close(error.to_string())),
    }
}

async fn open_log_dir(config: &Config) -> Result<Arc<LogDir>, BrokerError> {
    let settings = LogDirConfig {
        max_unflushed_bytes: config.log_dir.max_unflushed_bytes,
        reserve_bytes: config.log_dir.reserve_bytes,
        checkpoint_interval: Duration::from_millis(config.log_dir.checkpoint_interval_ms),
        ..LogDirConfig::default()
    };
    let Some(path) = config.data_dir.clone() else {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(config.memory_capacity_bytes));
        let settings = LogDirConfig {
            reserve_bytes: 0,
            ..settings
        };
        return Ok(LogDir::open(disk, Path::new("/"), settings)?);
    };
    let open = move || LogDir::open(Arc::new(OsDisk::new()), &path, settings);
    match tokio::task::spawn_blocking(open).await {
        Ok(opened) => Ok(opened?),
        Err(error) => Err(BrokerError::Close(io::Error::other(error).to_string())),
    }
}

#[cfg(all(test, feature = "client"))]
mod tests;
