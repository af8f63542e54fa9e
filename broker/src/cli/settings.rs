//! The broker's configuration from the command line, and `logweir config`, which shows it.

use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, usage};
use super::output::{OutputArgs, OutputFormat, print_json, print_line};
use crate::config::{self, Layers, Loaded};

/// Flags that make up the strongest layer of the configuration.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct BrokerArgs {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", env = "LOGWEIR_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Keep everything in this directory, created if absent [default: ./logweir-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Keep everything in memory, and nothing after the end
    #[arg(long)]
    in_memory: bool,
    /// This broker's id in the cluster [default: 1]
    #[arg(long, value_name = "N")]
    node_id: Option<String>,
    /// Kafka listener: HOST:PORT (port 0: the system chooses) or off [default: 127.0.0.1:9092]
    #[arg(long, value_name = "ADDR")]
    kafka: Option<String>,
    /// gRPC listener: HOST:PORT (port 0: the system chooses) or off [default: 127.0.0.1:9093]
    #[arg(long, value_name = "ADDR")]
    grpc: Option<String>,
    /// HTTP listener for metrics and health: HOST:PORT (port 0: the system chooses) or off [default: 127.0.0.1:9094]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// When records reach the disk for certain: per-ack, os or auto [default: auto]
    #[arg(
        long,
        value_name = "MODE",
        long_help = "When records reach the disk for certain, for topics that do not say otherwise [default: auto]\n\n\
          - per-ack: before they are acknowledged or shown to a reader; a power cut takes back nothing\n\
          - os: when the operating system likes; a killed broker loses nothing, a power cut the last seconds\n\
          - auto: per-ack for topics with one replica on disk, else os"
    )]
    flush: Option<String>,
    /// Log lines to write to standard error: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Form of the log lines: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Set any setting, such as log.retention_ms=2d; `logweir config` lists them. Repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl BrokerArgs {
    /// Puts defaults, file, environment and these flags together.
    pub(super) fn load(&self) -> anyhow::Result<Loaded> {
        let file = self.config.as_deref().map(Layers::read_file).transpose()?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                let value = value.to_string_lossy().into_owned();
                name.starts_with("LOGWEIR_").then_some((name, value))
            })
            .collect();
        Ok(Layers {
            file,
            environment,
            flags: self.flags()?,
        }
        .load()?)
    }

    fn flags(&self) -> anyhow::Result<Vec<(String, String, String)>> {
        let mut flags = Vec::new();
        let named = [
            ("--data-dir", "data_dir", &self.data_dir),
            ("--node-id", "node_id", &self.node_id),
            ("--kafka", "listeners.kafka", &self.kafka),
            ("--grpc", "listeners.grpc", &self.grpc),
            ("--http", "listeners.http", &self.http),
            ("--flush", "log.flush", &self.flush),
            ("--log-level", "log_level", &self.log_level),
            ("--log-format", "log_format", &self.log_format),
        ];
        for (flag, name, value) in named {
            if let Some(value) = value {
                flags.push((flag.to_owned(), name.to_owned(), value.clone()));
            }
        }
        if self.in_memory {
            flags.push((
                "--in-memory".to_owned(),
                "in_memory".to_owned(),
                "true".to_owned(),
            ));
        }
        for pair in &self.set {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(usage(format!(
                    "--set {pair}: is not KEY=VALUE, such as log.retention_ms=2d"
                )));
            };
            flags.push((
                "--set".to_owned(),
                name.trim().to_owned(),
                value.trim().to_owned(),
            ));
        }
        Ok(flags)
    }
}

const EXAMPLES: &str = "\
Examples:
  logweir config > logweir.toml           a documented file to start from
  logweir config --explain retention.ms   one setting, by any of its names
  LOGWEIR_LOG_FLUSH=os logweir config     what a broker so started would use";

/// Show the configuration a broker would start with, and explain settings
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConfigCommand {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Explain one setting, by its name in the file, the environment, topic configuration or Kafka
    #[arg(long, value_name = "KEY")]
    explain: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl ConfigCommand {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        if let Some(name) = &self.explain {
            // A broken configuration must not keep anybody from reading what a setting means.
            let loaded = self.broker.load().ok();
            let loaded = loaded.as_ref();
            match self.output.format() {
                OutputFormat::Table => {
                    print_line(config::explain(name, loaded).map_err(usage)?.trim_end())?;
                }
                OutputFormat::Json => {
                    print_json(&config::explain_json(name, loaded).map_err(usage)?)?;
                }
            }
            return Ok(Exit::Done);
        }
        let loaded = self.broker.load()?;
        match self.output.format() {
            OutputFormat::Table => print_line(config::render(&loaded).trim_end())?,
            OutputFormat::Json => print_json(&config::to_json(&loaded))?,
        }
        Ok(Exit::Done)
    }
}
