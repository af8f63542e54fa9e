//! `logweir bench start`: how long a broker takes until it serves.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use logweir_client::{Client, NewTopic, ProducerConfig, ProducerRecord};
use serde_json::json;

use super::super::exit::Exit;
use super::super::flag_values;
use super::super::interrupt::Interrupt;
use super::super::progress::Progress;
use super::histogram::{Times, short};
use super::idle;
use super::report::{Report, ReportArgs};
use super::subject::{SpawnOptions, Spawned};
use crate::Broker;
use crate::config::{Config, ListenAddr};

/// The largest log that is written to be killed.
const MAX_LOG_BYTES: usize = 1 << 40;
/// A record of that log.
const LOG_RECORD_BYTES: usize = 64 << 10;
/// Written right before each kill: nearly as much as a broker lets wait to be flushed at most, which is what it has to
/// read again.
const UNFLUSHED_BYTES: usize = 250 << 20;
/// How often a broker with partitions or a log is started again.
const RESTARTS: u16 = 5;

const HELP: &str = "\
Examples:
  logweir bench start
  logweir bench start --iterations 200 --json
  logweir bench start --partitions 10000
  logweir bench start --log-bytes 10GiB --dir /var/tmp

Without --partitions and --log-bytes it measures, so many times each and each
time anew:
  memory        Broker::start in memory without listeners, to the first
                acknowledged record of an in-process client
  memory ports  the same with listeners on ports of the system's choice, and a
                client that connects to one of them
  disk          as memory ports, in an empty folder
  serve         the program `logweir serve` in an empty folder, to its ready line
  serve again   the same, in a folder that was closed in order
With --partitions or --log-bytes it fills a broker, ends or kills it (as kill -9
does), and measures how long `logweir serve` takes to be ready again. A log
that is killed has up to 250 MiB that were not flushed.";

/// Measure how long a broker takes to start
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct StartBench {
    /// How often each start is measured
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    iterations: u16,
    /// Make temporary folders in this one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measure restarts of a broker with so many partitions, one record in each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=20_000))]
    partitions: Option<i32>,
    /// Measure restarts after kill -9 of a broker with a log of this size
    #[arg(long, value_name = "BYTES", conflicts_with = "partitions", value_parser = log_bytes)]
    log_bytes: Option<usize>,
    #[command(flatten)]
    report: ReportArgs,
}

fn log_bytes(text: &str) -> Result<usize, String> {
    let bytes = flag_values::bytes(text)?;
    if bytes <= MAX_LOG_BYTES {
        Ok(bytes)
    } else {
        Err(format!("{text:?} is above 1TiB"))
    }
}

impl StartBench {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let interrupt = Interrupt::listen()?;
        let mut report = Report::default();
        let measured = async {
            match (self.partitions, self.log_bytes) {
                (Some(partitions), _) => self.with_partitions(partitions, &mut report).await,
                (None, Some(bytes)) => self.with_log(bytes, &mut report).await,
                (None, None) => self.empty(&mut report).await,
            }
        };
        tokio::select! {
            outcome = measured => outcome?,
            () = interrupt.asked() => return Ok(interrupt.exit().unwrap_or(Exit::Done)),
        }
        report.print(self.report)?;
        Ok(Exit::Done)
    }

    async fn empty(&self, report: &mut Report) -> anyhow::Result<()> {
        let progress = Progress::new(Some(u64::from(self.iterations) * 5), self.report.quiet);
        let memory = || async {
            let off = ListenAddr::Off;
            let config = Config::in_memory().with_grpc(off.clone()).with_http(off);
            to_first_ack(config, false).await
        };
        self.repeat(report, &progress, ["memory", "memory"], memory)
            .await?;
        let ports = || to_first_ack(Config::in_memory(), true);
        self.repeat(report, &progress, ["memory_ports", "memory ports"], ports)
            .await?;
        let disk = || async {
            let folder = temporary_folder(self.dir.as_deref())?;
            to_first_ack(Config::on_dir(folder.path()), true).await
        };
        self.repeat(report, &progress, ["disk", "disk"], disk)
            .await?;
        let serve = || async {
            let began = Instant::now();
            let (broker, ready) = (self.spawn(Vec::new()).await?, began.elapsed());
            broker.end()?;
            Ok(ready)
        };
        self.repeat(report, &progress, ["serve", "serve"], serve)
            .await?;
        let mut broker = self.spawn(Vec::new()).await?;
        let mut times = Times::default();
        for _ in 0..self.iterations {
            times.add(blocking(|| broker.end_and_restart())?);
            progress.read(1);
        }
        broker.end()?;
        progress.clear();
        report.times("serve_again", "serve again", &times);
        Ok(())
    }

    async fn repeat<F: Future<Output = anyhow::Result<Duration>>>(
        &self,
        report: &mut Report,
        progress: &Progress,
        [name, label]: [&str; 2],
        start: impl Fn() -> F,
    ) -> anyhow::Result<()> {
        let mut times = Times::default();
        // The first pays for what is loaded once per process.
        start().await?;
        for _ in 0..self.iterations {
            times.add(start().await?);
            progress.read(1);
        }
        report.times(name, label, &times);
        Ok(())
    }

    async fn with_partitions(&self, partitions: i32, report: &mut Report) -> anyhow::Result<()> {
        let mut broker = self.spawn(Vec::new()).await?;
        let client = Client::connect(&broker.address).await?;
        idle::fill(&client, partitions, 1).await?;
        drop(client);
        let (mut ended, mut killed) = (Times::default(), Times::default());
        for _ in 0..self.iterations.min(RESTARTS) {
            ended.add(blocking(|| broker.end_and_restart())?);
            killed.add(blocking(|| broker.kill_and_restart())?);
        }
        broker.end()?;
        report.note("partitions", partitions);
        report.times("after_end", "ready after SIGTERM", &ended);
        report.times("after_kill", "ready after kill -9", &killed);
        Ok(())
    }

    async fn with_log(&self, bytes: usize, report: &mut Report) -> anyhow::Result<()> {
        let mut broker = self
            .spawn(vec!["--flush".to_owned(), "os".to_owned()])
            .await?;
        let mut killed = Times::default();
        let began = Instant::now();
        let mut client = Client::connect(&broker.address).await?;
        client.admin().create_topic(NewTopic::new("log")).await?;
        let written = self.write(&client, bytes).await?;
        let wrote = began.elapsed();
        for _ in 0..self.iterations.min(RESTARTS) {
            self.write(&client, UNFLUSHED_BYTES.min(bytes)).await?;
            killed.add(blocking(|| broker.kill_and_restart())?);
            // It has another port now.
            client = Client::connect(&broker.address).await?;
            let described = client.admin().describe_topic("log").await?;
            let offsets = described.partitions.first().and_then(|part| part.offsets);
            let end = offsets.context("the log is not told of")?.log_end_offset;
            anyhow::ensure!(
                u64::try_from(end.get()).is_ok_and(|end| end >= written),
                "{end} of {written} acknowledged records are left"
            );
        }
        broker.end()?;
        report.add(
            "log_bytes",
            bytes,
            "log",
            format!(
                "{}, written in {}",
                indicatif::BinaryBytes(bytes as u64),
                short(wrote)
            ),
        );
        report.note("log_records", json!(written));
        report.times("after_kill", "ready after kill -9", &killed);
        Ok(())
    }

    /// Writes a log of so many bytes, and gives the number of its records.
    async fn write(&self, client: &Client, bytes: usize) -> anyhow::Result<u64> {
        let config = ProducerConfig {
            batch_size: 512 << 10,
            ..ProducerConfig::default()
        };
        let producer = client.producer_with(config)?;
        let records = bytes.div_ceil(LOG_RECORD_BYTES) as u64;
        let value = bytes::Bytes::from(vec![b'x'; LOG_RECORD_BYTES]);
        let progress = Progress::new(Some(records), self.report.quiet);
        for _ in 0..records {
            // A failure is reported by the flush.
            drop(
                producer
                    .send(ProducerRecord::new("log").value(value.clone()))
                    .await?,
            );
            progress.read(1);
            progress.done(1, LOG_RECORD_BYTES as u64);
        }
        producer.close().await?;
        progress.clear();
        Ok(records)
    }

    async fn spawn(&self, arguments: Vec<String>) -> anyhow::Result<Spawned> {
        let options = SpawnOptions {
            folder: self.dir.clone(),
            in_memory: false,
            arguments,
        };
        tokio::task::spawn_blocking(move || Spawned::start(&options)).await?
    }
}

/// Starts a broker, sends it a record, and gives the time to its acknowledgement.
async fn to_first_ack(config: Config, by_port: bool) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let broker = Broker::start(config).await?;
    let client = match broker.grpc_addr() {
        Some(address) if by_port => Client::connect(address.to_string()).await?,
        _ => broker.client()?,
    };
    let producer = client.producer()?;
    producer
        .send(ProducerRecord::new("first").value("record"))
        .await?
        .await?;
    let time = began.elapsed();
    producer.close().await?;
    drop((producer, client));
    broker.shutdown().await?;
    Ok(time)
}

fn temporary_folder(parent: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let folder = match parent {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    };
    folder.context("cannot make a temporary folder")
}

/// Work that holds this thread up.
fn blocking(work: impl FnOnce() -> anyhow::Result<Duration>) -> anyhow::Result<Duration> {
    tokio::task::block_in_place(work)
}
