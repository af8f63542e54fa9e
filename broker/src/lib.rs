//! Broker.
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;

pub use config::{Config, ConfigError, FlushMode, ListenAddr};
