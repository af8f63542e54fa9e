//! `logweir serve`: starts a broker, says where it listens, and stops it when told to.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use super::exit::{Exit, usage};
use super::settings::BrokerArgs;
use crate::Broker;
use crate::config::{Config, ListenAddr, LogFormat};

const HELP: &str = "\
Examples:
  logweir serve                        data in ./logweir-data, Kafka clients on 127.0.0.1:9092
  logweir serve --data-dir /var/lib/logweir --kafka 0.0.0.0:9092 --grpc 0.0.0.0:9093
  logweir serve --kafka 0.0.0.0:9092 --set listeners.advertised_kafka=logs.example:19092
  logweir serve --flush os --set log.retention_ms=2d
  logweir serve --in-memory --kafka 127.0.0.1:0 --grpc 127.0.0.1:0 --http off \\
      --ready-file ready.json --exit-with-parent

When it is ready it prints one line of JSON:
  {\"pid\":7,\"kafka\":\"127.0.0.1:9092\",\"grpc\":\"127.0.0.1:9093\",\"http\":\"127.0.0.1:9094\"}

SIGTERM or Ctrl-C finishes what is in flight and stops; a second one ends at
once, as a crash would: nothing acknowledged is lost, the next start checks
the end of the log.";

/// Start a broker
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct ServeCommand {
    #[command(flatten)]
    broker: BrokerArgs,
    /// When ready, write the JSON line with pid and addresses to this file as well (under a temporary name, then renamed)
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Stop when standard input closes, which it does when the process that holds its other end dies
    #[arg(long)]
    exit_with_parent: bool,
}

impl ServeCommand {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let config = self.broker.load()?.config;
        refuse_deaf(&config)?;
        let data = match &config.data_dir {
            Some(dir) => dir.display().to_string(),
            None => "in memory".to_owned(),
        };
        start_logging(&config)?;
        raise_open_files();
        if let Some(file) = &self.ready_file {
            forget_stale(file)?;
        }
        let mut signals = Signals::new(self.exit_with_parent)?;

        // A signal during the start waits until the broker can be stopped in order; a second one does not.
        let start = Broker::start(config);
        tokio::pin!(start);
        let mut stop = None;
        let broker = loop {
            tokio::select! {
                started = &mut start => break started?,
                name = signals.next(stop.is_some()) => stop = Some(name),
            }
        };
        let addresses = Addresses {
            kafka: broker.kafka_addr(),
            grpc: broker.grpc_addr(),
            http: broker.http_addr(),
        };
        tracing::info!(
            %data,
            kafka = %or_off(addresses.kafka),
            grpc = %or_off(addresses.grpc),
            http = %or_off(addresses.http),
            "ready"
        );
        let mut outcome = self.tell_ready(&addresses);
        if outcome.is_ok() && stop.is_none() {
            tokio::select! {
                name = signals.next(false) => stop = Some(name),
                error = broker.failed() => outcome = Err(error.into()),
            }
        }
        if let Some(name) = stop {
            tracing::info!(signal = name, "stopping; a second signal ends at once");
        }
        let shutdown = broker.shutdown();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                stopped = &mut shutdown => {
                    stopped.context("the broker did not stop cleanly")?;
                    break;
                }
                // A signal ends the process; the parent's end changes nothing any more.
                _ = signals.next(true) => {}
            }
        }
        if let Some(file) = &self.ready_file {
            // A file left behind would name a broker that is gone.
            let _ = std::fs::remove_file(file);
        }
        outcome?;
        Ok(Exit::Done)
    }

    fn tell_ready(&self, addresses: &Addresses) -> anyhow::Result<()> {
        let line = addresses.line(std::process::id());
        if let Some(file) = &self.ready_file {
            write_whole(file, &line)
                .with_context(|| format!("cannot write --ready-file {}", file.display()))?;
        }
        let mut out = io::stdout().lock();
        // A parent that closed our standard output may still want the broker.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            tracing::warn!(
                "standard output is closed; the line with the addresses was not printed"
            );
        }
        Ok(())
    }
}

/// Where the broker listens.
struct Addresses {
    kafka: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

impl Addresses {
    fn line(&self, pid: u32) -> String {
        let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
        json!({"pid": pid, "kafka": text(self.kafka), "grpc": text(self.grpc), "http": text(self.http)})
            .to_string()
    }
}

/// A file that a killed broker left behind would name the wrong addresses to whoever waits for it.
fn forget_stale(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace --ready-file {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn or_off(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "off".to_owned(), |address| address.to_string())
}

/// Whoever finds the file finds all of it.
fn write_whole(path: &Path, line: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::write(&temporary, format!("{line}\n"))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// A broker that nobody can reach is a mistake.
fn refuse_deaf(config: &Config) -> anyhow::Result<()> {
    let listeners = &config.listeners;
    let all = [&listeners.kafka, &listeners.grpc, &listeners.http];
    if all.into_iter().all(|listener| *listener == ListenAddr::Off) {
        return Err(usage(
            "listeners.kafka, listeners.grpc and listeners.http are all off: nobody could reach the broker; turn one on",
        ));
    }
    Ok(())
}

/// Takes as many open files as the system allows: each partition and each connection needs some, and the usual soft
/// limit of 1,024 is meant for programs that call `select`.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => tracing::debug!(?before, now = ?limit.current, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, ?before, "cannot raise the limit of open files"),
    }
}

/// Sends log lines to standard error. A plain level is meant for Logweir; libraries stay at warnings.
fn start_logging(config: &Config) -> anyhow::Result<()> {
    let level = config.log_level.as_str();
    let directives = match level {
        "error" | "off" | "trace" => level.to_owned(),
        "warn" | "info" | "debug" => {
            format!("warn,logweir={level},logweir_storage={level},logweir_client={level}")
        }
        directives => directives.to_owned(),
    };
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        usage(format!(
            "log_level {level:?}: {error}; say error, warn, info, debug or trace"
        ))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
    }
    Ok(())
}

/// The signals that end a broker, and the end of the process that started it.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Gone once it has come.
    parent_gone: Option<oneshot::Receiver<()>>,
}

impl Signals {
    fn new(with_parent: bool) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            parent_gone: with_parent.then(watch_standard_input).transpose()?,
        })
    }

    /// Waits for a signal; where one came before already, ends the process at once.
    async fn next(&mut self, second: bool) -> &'static str {
        let parent_gone = async {
            match &mut self.parent_gone {
                Some(gone) => _ = gone.await,
                None => std::future::pending().await,
            }
        };
        let (name, code) = tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
            () = parent_gone => {
                self.parent_gone = None;
                return "end of standard input";
            }
        };
        if second {
            tracing::warn!(signal = name, "second signal: ending at once");
            std::process::exit(code);
        }
        name
    }
}

/// Tells when standard input has come to its end. The thread waits in a read that nothing can interrupt, and ends with
/// the process.
fn watch_standard_input() -> anyhow::Result<oneshot::Receiver<()>> {
    let (gone, is_gone) = oneshot::channel();
    std::thread::Builder::new()
        .name("logweir-parent".to_owned())
        .spawn(move || {
            // What the parent writes is nobody's; an error is an end too.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            let _ = gone.send(());
        })
        .context("cannot watch standard input")?;
    Ok(is_gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_pid_and_addresses_and_null_for_what_is_off() {
        let addresses = Addresses {
            kafka: None,
            grpc: Some(([127, 0, 0, 1], 9093).into()),
            http: None,
        };
        let line: serde_json::Value = serde_json::from_str(&addresses.line(7)).unwrap();
        let expected = json!({"pid": 7, "kafka": null, "grpc": "127.0.0.1:9093", "http": null});
        assert_eq!(line, expected);
    }

    #[test]
    fn the_ready_file_appears_whole_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready.json");
        write_whole(&path, "{}").unwrap();
        write_whole(&path, "{\"pid\":1}").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"pid\":1}\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_whole(&dir.path().join("no/such/dir"), "x").is_err());
    }

    #[test]
    fn a_broker_nobody_could_reach_is_refused() {
        let only_kafka = Config::default()
            .with_grpc(ListenAddr::Off)
            .with_http(ListenAddr::Off);
        assert!(refuse_deaf(&only_kafka).is_ok());
        assert!(refuse_deaf(&only_kafka.with_kafka(ListenAddr::Off)).is_err());
    }
}
