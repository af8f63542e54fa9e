//! A broker: what a host starts, asks and stops.
//!
//! Owns what outlasts a crash and a restart (configuration, ports, clock, faults, the memory disk and the
//! link of in-process clients) and at most one run (`broker/run.rs`), which has everything else.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use logweir_storage::LogDir;
use logweir_storage::disk::{PowerCut, SimDisk};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::error::BrokerError;
use crate::faults::Faults;
use crate::grpc::InProcess;

mod port;
mod run;

use port::Port;
use run::Run;

/// How long a run that ended may take to let go of a data directory on a real disk.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);

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
    parts: Parts,
    /// `None` after a crash.
    run: watch::Sender<Option<Arc<Run>>>,
    /// Held while a run begins or ends; counts the crashes.
    changing: Mutex<u64>,
}

/// What stays over a crash.
#[derive(Debug)]
struct Parts {
    config: Arc<Config>,
    clock: Clock,
    faults: Faults,
    /// The disk of a broker in memory.
    memory: Option<Arc<SimDisk>>,
    kafka: Option<Port>,
    grpc: Option<Port>,
    http: Option<Port>,
    in_process: InProcess,
    /// The data directory, where it is to go with the broker.
    temporary: Option<TempDir>,
}

impl Parts {
    async fn new(config: Config, temporary: Option<TempDir>) -> Result<Self, BrokerError> {
        config
            .validate()
            .map_err(|problems| BrokerError::Config(problems.to_string()))?;
        let capacity = config.memory_capacity_bytes;
        let memory = config
            .is_in_memory()
            .then(|| Arc::new(SimDisk::new(capacity)));
        Ok(Self {
            clock: Clock::default(),
            faults: Faults::new(memory.clone().map(|disk| (disk, capacity))),
            memory,
            kafka: Port::take("kafka", &config.listeners.kafka).await?,
            grpc: Port::take("grpc", &config.listeners.grpc).await?,
            #[cfg(feature = "http")]
            http: Port::take("http", &config.listeners.http).await?,
            #[cfg(not(feature = "http"))]
            http: None,
            in_process: InProcess::default(),
            temporary,
            config: Arc::new(config),
        })
    }
}

impl Broker {
    /// Starts a broker and returns when it serves. Needs a Tokio runtime, of either kind; from synchronous code there
    /// is [`BlockingBroker`](crate::BlockingBroker).
    ///
    /// # Errors
    /// An invalid configuration, a taken port, a data directory that another process holds or that is damaged;
    /// [`BrokerError::WithoutRuntime`] outside of a Tokio runtime.
    ///
    /// # Panics
    /// In a runtime that was built without its drivers for I/O and time.
    pub async fn start(config: Config) -> Result<Self, BrokerError> {
        Self::start_with(config, None).await
    }

    /// Starts a broker on a real disk, in a folder of its own in the system's place for temporary files, whatever
    /// `config` says. The folder is removed by [`Broker::shutdown`], and soon after a drop, if the process lives on.
    ///
    /// # Errors
    /// As [`Broker::start`]; if no folder can be made.
    pub async fn start_in_temp_dir(mut config: Config) -> Result<Self, BrokerError> {
        let dir = tempfile::Builder::new()
            .prefix("logweir-")
            .tempdir()
            .map_err(BrokerError::TemporaryFolder)?;
        config.data_dir = Some(dir.path().to_owned());
        Self::start_with(config, Some(dir)).await
    }

    async fn start_with(config: Config, temporary: Option<TempDir>) -> Result<Self, BrokerError> {
        Handle::try_current().map_err(|_| BrokerError::WithoutRuntime)?;
        let parts = Parts::new(config, temporary).await?;
        let run = Run::start(&parts).await?;
        Ok(Self {
            parts,
            run: watch::Sender::new(Some(Arc::new(run))),
            changing: Mutex::default(),
        })
    }

    /// What the listeners call, of the run that there is now.
    #[cfg(test)]
    pub(crate) fn service(&self) -> Arc<crate::service::Service> {
        let run = self.run.borrow();
        Arc::clone(run.as_ref().expect("the broker is up").service())
    }

    /// Where the gRPC listener is bound; `None` if it is off.
    #[must_use]
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.parts.grpc.as_ref().map(Port::address)
    }

    /// Where the HTTP listener is bound; `None` if it is off.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.parts.http.as_ref().map(Port::address)
    }

    /// Where the Kafka listener is bound; `None` if it is off.
    #[must_use]
    pub fn kafka_addr(&self) -> Option<SocketAddr> {
        self.parts.kafka.as_ref().map(Port::address)
    }

    /// The broker's clock, which can be moved ahead.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.parts.clock
    }

    /// The faults that the broker is to suffer.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.parts.faults
    }

    /// A client in this process, which needs no port. Records get their time from the broker's clock. It goes on
    /// after a crash and a restart, as a client over the network does.
    ///
    /// # Errors
    /// Never with the client's default settings, which it uses.
    #[cfg(feature = "client")]
    pub fn client(&self) -> Result<logweir_client::Client, logweir_client::Error> {
        self.client_with(logweir_client::ClientConfig::default())
    }

    /// As [`Broker::client`], with these settings.
    ///
    /// # Errors
    /// If the settings are not valid.
    #[cfg(feature = "client")]
    pub fn client_with(
        &self,
        config: logweir_client::ClientConfig,
    ) -> Result<logweir_client::Client, logweir_client::Error> {
        let clock = self.parts.clock.clone();
        logweir_client::Client::builder()
            .config(config)
            .clock(logweir_client::WallClock::new(move || clock.now()))
            .from_service(self.parts.in_process.clone())
    }

    /// Waits until a part of the broker ends by itself, which only a failure makes it do.
    pub async fn failed(&self) -> BrokerError {
        let mut runs = self.run.subscribe();
        loop {
            // Not the run itself: whoever asks may not look again before it is to end.
            let failure = runs.borrow_and_update().as_ref().map(|run| run.failure());
            let failed = async {
                match failure {
                    None => std::future::pending().await,
                    Some(failure) => reason(failure).await,
                }
            };
            tokio::select! {
                biased;
                // Crashed, restarted or stopped on purpose: that is no failure.
                _ = runs.changed() => {}
                reason = failed => return BrokerError::Ended(reason),
            }
        }
    }

    /// Ends the broker at once, as a crash would, on purpose: connections break, nothing is flushed. With
    /// [`PowerCut::LoseUnsynced`] a random part of what was not synced is lost too, the same part for the same writes and
    /// the same number of crashes before; [`Broker::crash_with_seed`] tries others. Acknowledged records of topics
    /// that flush per ack survive both.
    ///
    /// Ports, clock, faults and in-process clients stay; the ports refuse connections until [`Broker::restart`].
    ///
    /// # Errors
    /// [`BrokerError::Down`] if it is down already; [`BrokerError::NotInMemory`] for
    /// [`PowerCut::LoseUnsynced`] on a real disk, which keeps its power.
    pub async fn crash(&self, cut: PowerCut) -> Result<(), BrokerError> {
        let mut crashes = self.changing.lock().await;
        self.crash_now(cut, *crashes).await?;
        *crashes += 1;
        Ok(())
    }

    /// As [`Broker::crash`]; `seed` decides what is lost.
    ///
    /// # Errors
    /// As [`Broker::crash`].
    pub async fn crash_with_seed(&self, cut: PowerCut, seed: u64) -> Result<(), BrokerError> {
        let mut crashes = self.changing.lock().await;
        self.crash_now(cut, seed).await?;
        *crashes += 1;
        Ok(())
    }

    async fn crash_now(&self, cut: PowerCut, seed: u64) -> Result<(), BrokerError> {
        if self.parts.memory.is_none() && cut != PowerCut::KeepAll {
            return Err(BrokerError::NotInMemory("a power cut"));
        }
        let run = self.run.send_replace(None).ok_or(BrokerError::Down)?;
        self.parts.in_process.disconnect();
        if let Some(disk) = &self.parts.memory {
            disk.power_cut(seed, cut);
        }
        tracing::info!(?cut, seed, "crashed on purpose");
        run.crash().await;
        let log_dir = run.log_dir();
        drop(run);
        match &self.parts.memory {
            // Nothing old can use a disk whose power was cut.
            Some(_) => Ok(()),
            None => released(log_dir).await,
        }
    }

    /// Starts the broker again after a crash; one that runs is stopped cleanly first, if it can be. Addresses stay.
    ///
    /// # Errors
    /// As [`Broker::start`]; the broker is then down, and this can be tried again.
    pub async fn restart(&self) -> Result<(), BrokerError> {
        let _changing = self.changing.lock().await;
        if let Err(error) = self.stop().await {
            tracing::warn!(%error, "not stopped cleanly; the start recovers");
        }
        let run = Run::start(&self.parts).await?;
        self.run.send_replace(Some(Arc::new(run)));
        Ok(())
    }

    /// Stops cleanly: calls in flight finish (at most 10 s), logs are flushed, and the next start need not scan them.
    ///
    /// # Errors
    /// What could not be closed: nothing acknowledged is lost by that; the next start scans the logs.
    /// [`BrokerError::UnfiredFaults`], after all else went well, if an injected fault never happened.
    pub async fn shutdown(mut self) -> Result<(), BrokerError> {
        self.stop().await?;
        if let Some(dir) = self.parts.temporary.take() {
            let removed = tokio::task::spawn_blocking(move || dir.close()).await;
            removed
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(BrokerError::TemporaryFolder)?;
        }
        let unfired = self.parts.faults.unfired();
        if unfired.is_empty() {
            return Ok(());
        }
        Err(BrokerError::UnfiredFaults(unfired))
    }

    /// Stops the run cleanly, if there is one.
    async fn stop(&self) -> Result<(), BrokerError> {
        let Some(run) = self.run.send_replace(None) else {
            return Ok(());
        };
        self.parts.in_process.disconnect();
        let closed = run.shutdown().await;
        let log_dir = run.log_dir();
        drop(run);
        match &self.parts.memory {
            // What was not closed must not disturb the next run.
            Some(disk) if closed.is_err() => disk.power_cut(0, PowerCut::KeepAll),
            Some(_) => {}
            None => released(log_dir).await?,
        }
        closed
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Clients that outlive the broker must not keep its parts alive.
        self.parts.in_process.disconnect();
        let run = self.run.send_replace(None);
        if let Some(dir) = self.parts.temporary.take() {
            let log_dir = run.as_ref().map(|run| run.log_dir());
            drop(run);
            sweep(dir, log_dir.unwrap_or_default());
        }
    }
}

/// Why a part of a run ended by itself; waits for ever if the run ends first.
async fn reason(mut failure: watch::Receiver<Option<String>>) -> String {
    while failure.changed().await.is_ok() {
        if let Some(reason) = failure.borrow_and_update().clone() {
            return reason;
        }
    }
    std::future::pending().await
}

/// Removes a folder when nobody uses it any more, without waiting for that here: the runtime may have to go on first.
fn sweep(dir: TempDir, log_dir: Weak<LogDir>) {
    let begun = Instant::now();
    let work = move || {
        while log_dir.strong_count() > 0 && begun.elapsed() < RELEASE_TIMEOUT {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if let Err(error) = dir.close() {
            tracing::warn!(%error, "a temporary folder was left behind");
        }
    };
    let thread = std::thread::Builder::new().name("logweir-sweep".to_owned());
    // Without a thread to be had, the closure is dropped, which removes the folder at once.
    let _ = thread.spawn(work);
}

/// Waits until nothing holds a data directory on a real disk, so that it can be opened again.
async fn released(log_dir: Weak<LogDir>) -> Result<(), BrokerError> {
    let released = tokio::time::timeout(RELEASE_TIMEOUT, async {
        // Reads on blocking threads may hold it for a moment.
        while log_dir.strong_count() > 0 {
            crate::clock::sleep(Duration::from_millis(1)).await;
        }
    });
    released.await.map_err(|_| {
        BrokerError::Close(format!(
            "something in this process still uses the data directory after {RELEASE_TIMEOUT:?}"
        ))
    })
}

#[cfg(all(test, feature = "client"))]
mod tests;
