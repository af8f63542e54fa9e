//! Logweir: an embedded Kafka-like log broker. One library, and the program `logweir`.
//!
//! A [`Broker`] is three calls: start, addresses, shut down. It is the same broker in a unit test, in
//! memory, and in production, on a disk.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = logweir::Broker::start(logweir::Config::in_memory()).await?;
//! assert!(broker.grpc_addr().is_some());
//! broker.shutdown().await?;
//! # Ok(())
//! # }
//! ```

mod blocking;
mod broker;
#[cfg(feature = "cli")]
pub mod cli;
mod clock;
pub mod config;
mod coordinator;
mod error;
mod faults;
mod grpc;
#[cfg(feature = "http")]
mod http;
mod inflight;
#[cfg(feature = "client")]
#[cfg_attr(
    not(feature = "cli"),
    allow(dead_code, reason = "fixtures need less of it than the command line")
)]
mod input;
mod kafka;
mod metadata;
mod metrics;
mod partition;
mod service;
pub mod testing;
mod words;

pub use blocking::BlockingBroker;
pub use broker::Broker;
pub use clock::Clock;
pub use config::{Config, ConfigError, FlushMode, ListenAddr};
pub use error::{ApiError, BrokerError};
pub use faults::{Api, DiskFault, Fault, FaultId, FaultReport, Faults};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use kafka::fuzz as kafka_fuzz;
pub use logweir_proto::ErrorCode;
pub use logweir_storage::disk::PowerCut;
