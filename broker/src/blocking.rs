//! A broker for programs and tests without an asynchronous runtime: it brings its own.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use logweir_storage::disk::PowerCut;
use tokio::runtime::{Handle, Runtime};

use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::BrokerError;
use crate::faults::Faults;

/// How long threads may take to end when it is dropped.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// A [`Broker`] with a runtime of its own, one thread strong, for synchronous code. Dropping it stops it at once.
///
/// ```
/// use logweir::{BlockingBroker, Config};
///
/// let broker = BlockingBroker::start(Config::in_memory())?;
/// # #[cfg(feature = "client")]
/// # {
/// broker.produce("orders", "42", "paid")?;
/// assert_eq!(broker.read_topic("orders")?.len(), 1);
/// # }
/// broker.shutdown()?;
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct BlockingBroker {
    /// Gone once it was shut down.
    broker: Option<Broker>,
    runtime: Option<Runtime>,
}

impl fmt::Debug for BlockingBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingBroker")
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}

impl BlockingBroker {
    /// As [`Broker::start`].
    ///
    /// # Errors
    /// As there; [`BrokerError::WithinRuntime`] within an asynchronous runtime, which a blocking call would stop.
    pub fn start(config: Config) -> Result<Self, BrokerError> {
        Self::start_with(|| Broker::start(config))
    }

    /// As [`Broker::start_in_temp_dir`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in_temp_dir(config: Config) -> Result<Self, BrokerError> {
        Self::start_with(|| Broker::start_in_temp_dir(config))
    }

    fn start_with<F>(start: impl FnOnce() -> F) -> Result<Self, BrokerError>
    where
        F: Future<Output = Result<Broker, BrokerError>>,
    {
        refuse_within_runtime()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("logweir-blocking")
            .enable_all()
            .build()
            .map_err(|error| BrokerError::Ended(format!("no runtime: {error}")))?;
        let broker = runtime.block_on(start())?;
        Ok(Self {
            broker: Some(broker),
            runtime: Some(runtime),
        })
    }

    /// The broker itself, for what has no shorter way here. Its asynchronous functions go with [`Self::block_on`].
    #[must_use]
    pub fn broker(&self) -> &Broker {
        self.broker
            .as_ref()
            .expect("only shutdown and drop take it, and nobody has it after them")
    }

    /// Runs a future to its end, on this thread; what it spawns goes on in the background.
    ///
    /// # Errors
    /// [`BrokerError::WithinRuntime`] within an asynchronous runtime.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, BrokerError> {
        refuse_within_runtime()?;
        let runtime = self
            .runtime
            .as_ref()
            .expect("only drop takes it, and nobody has it after that");
        Ok(runtime.block_on(future))
    }

    /// See [`Broker::clock`].
    #[must_use]
    pub fn clock(&self) -> &Clock {
        self.broker().clock()
    }

    /// See [`Broker::faults`].
    #[must_use]
    pub fn faults(&self) -> &Faults {
        self.broker().faults()
    }

    /// See [`Broker::grpc_addr`].
    #[must_use]
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.broker().grpc_addr()
    }

    /// See [`Broker::http_addr`].
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.broker().http_addr()
    }

    /// See [`Broker::kafka_addr`].
    #[must_use]
    pub fn kafka_addr(&self) -> Option<SocketAddr> {
        self.broker().kafka_addr()
    }

    /// See [`Broker::crash`].
    ///
    /// # Errors
    /// As there.
    pub fn crash(&self, cut: PowerCut) -> Result<(), BrokerError> {
        self.block_on(self.broker().crash(cut))?
    }

    /// See [`Broker::restart`].
    ///
    /// # Errors
    /// As there.
    pub fn restart(&self) -> Result<(), BrokerError> {
        self.block_on(self.broker().restart())?
    }

    /// See [`Broker::shutdown`].
    ///
    /// # Errors
    /// As there.
    pub fn shutdown(mut self) -> Result<(), BrokerError> {
        refuse_within_runtime()?;
        match (self.broker.take(), &self.runtime) {
            (Some(broker), Some(runtime)) => runtime.block_on(broker.shutdown()),
            _ => Ok(()),
        }
    }

    /// Sends one record and waits until it is acknowledged by every in-sync replica; its offset. The topic is made on
    /// first use, if that is allowed.
    ///
    /// # Errors
    /// As the client's producer.
    #[cfg(feature = "client")]
    pub fn produce(
        &self,
        topic: &str,
        key: impl Into<bytes::Bytes>,
        value: impl Into<bytes::Bytes>,
    ) -> crate::testing::Result<logweir_proto::Offset> {
        let record = logweir_client::ProducerRecord::new(topic)
            .key(key)
            .value(value);
        self.block_on(crate::testing::produce(self.broker(), record))?
    }

    /// Every record of a topic up to its present end, partition by partition as they come.
    ///
    /// # Errors
    /// As the client's reader.
    #[cfg(feature = "client")]
    pub fn read_topic(
        &self,
        topic: &str,
    ) -> crate::testing::Result<Vec<logweir_client::ConsumerRecord>> {
        self.block_on(crate::testing::read_topic(self.broker(), topic))?
    }
}

impl Drop for BlockingBroker {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        {
            // The broker's tasks belong to this runtime.
            let _within = runtime.enter();
            drop(self.broker.take());
        }
        if Handle::try_current().is_ok() {
            runtime.shutdown_background();
        } else {
            runtime.shutdown_timeout(END_TIMEOUT);
        }
    }
}

fn refuse_within_runtime() -> Result<(), BrokerError> {
    match Handle::try_current() {
        Ok(_) => Err(BrokerError::WithinRuntime),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_crashes_and_stops_without_a_runtime_of_the_host() {
        let broker = BlockingBroker::start(Config::in_memory()).expect("starts");
        let address = broker.grpc_addr();
        assert!(address.is_some());
        broker.crash(PowerCut::LoseUnsynced).expect("crashes");
        assert!(matches!(
            broker.crash(PowerCut::KeepAll),
            Err(BrokerError::Down)
        ));
        broker.restart().expect("restarts");
        assert_eq!(broker.grpc_addr(), address);
        broker.shutdown().expect("stops");
    }

    #[tokio::test]
    async fn within_a_runtime_it_is_an_error_and_no_panic() {
        let refused = BlockingBroker::start(Config::in_memory());
        assert!(matches!(refused, Err(BrokerError::WithinRuntime)));
        let started = std::thread::spawn(|| BlockingBroker::start(Config::in_memory()));
        let broker = started.join().expect("no panic").expect("starts");
        let refused = broker.crash(PowerCut::KeepAll);
        assert!(matches!(refused, Err(BrokerError::WithinRuntime)));
        drop(broker);
    }
}
