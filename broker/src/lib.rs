//! Broker.
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
#[allow(dead_code, unused_imports, reason = "the parts above are still to come")]
mod metadata;

pub use config::{Config, ConfigError, FlushMode, ListenAddr};
