//! `logweir bench idle`: what partitions and readers cost a broker while nothing happens.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use logweir_client::{Client, NewTopic, Offset, ProducerRecord, ReaderConfig, StartAt};
use logweir_proto::PartitionId;
use tokio::task::JoinSet;

use super::super::exit::{Exit, usage};
use super::super::interrupt::Interrupt;
use super::histogram::short;
use super::process;
use super::report::{Report, ReportArgs};
use super::run_time;
use super::subject::{SpawnOptions, Spawned};
use crate::words::counted;

/// The topic that has the partitions.
const TOPIC: &str = "idle";

const HELP: &str = "\
Examples:
  logweir bench idle
  logweir bench idle --partitions 10000 --consumers 100 --duration 1m
  logweir bench idle --in-memory --json

A broker of this program is started in a temporary folder, given a topic with so
many partitions and so many records in each, and readers that have read all of
them. When it has settled, its processor time and memory are measured.";

/// Measure processor time and memory of an idle broker
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct IdleBench {
    /// Partitions of the topic
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=20_000))]
    partitions: i32,
    /// Readers, each with a connection of its own; they share the partitions out
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=9_000))]
    consumers: i32,
    /// Records written to each partition before
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(i64).range(0..=1_000))]
    records_each: i64,
    /// How long to let the broker settle
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = run_time)]
    settle: Duration,
    /// How long to measure
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = run_time)]
    duration: Duration,
    /// A broker that keeps everything in memory
    #[arg(long)]
    in_memory: bool,
    /// Make the temporary folder in this one
    #[arg(long, value_name = "DIR")]
    spawn_in: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
}

impl IdleBench {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        if self.consumers > self.partitions {
            return Err(usage(format!(
                "--consumers {} is above --partitions {}: some would have nothing to read",
                self.consumers, self.partitions
            )));
        }
        let interrupt = Interrupt::listen()?;
        let options = SpawnOptions {
            folder: self.spawn_in.clone(),
            in_memory: self.in_memory,
            ..SpawnOptions::default()
        };
        let broker = tokio::task::spawn_blocking(move || Spawned::start(&options)).await??;
        let began = Instant::now();
        let client = Client::connect(&broker.address).await?;
        fill(&client, self.partitions, self.records_each).await?;
        let filled = began.elapsed();
        let mut waiting = self.start_readers(&client).await?;
        let measured = tokio::select! {
            measured = self.measure(broker.pid()) => measured?,
            ended = waiting.join_next(), if !waiting.is_empty() => {
                let outcome = ended.context("there are readers")?.context("a reading task failed")?;
                return Err(outcome.map_or_else(anyhow::Error::from, |()| {
                    anyhow::anyhow!("a reader that should have waited got something")
                }));
            }
            () = interrupt.asked() => return Ok(interrupt.exit().unwrap_or(Exit::Done)),
        };
        self.tell(filled, &measured).print(self.report)?;
        waiting.shutdown().await;
        drop(client);
        broker.end()?;
        Ok(Exit::Done)
    }

    /// Readers that are at the end of their partitions, and wait.
    async fn start_readers(
        &self,
        client: &Client,
    ) -> anyhow::Result<JoinSet<logweir_client::Result<()>>> {
        let mut waiting = JoinSet::new();
        for consumer in 0..self.consumers {
            let mut reader = client.reader_with(ReaderConfig::default())?;
            for partition in
                (consumer..self.partitions).step_by(self.consumers.unsigned_abs() as usize)
            {
                let end = StartAt::Offset(Offset::new(self.records_each));
                reader.assign(TOPIC, PartitionId::new(partition), end)?;
            }
            waiting.spawn(async move { reader.next_batch().await.map(|_| ()) });
        }
        Ok(waiting)
    }

    async fn measure(&self, pid: u32) -> anyhow::Result<Measured> {
        tokio::time::sleep_until((Instant::now() + self.settle).into()).await;
        let (cpu, began) = (process::exact_cpu_time(pid)?, Instant::now());
        tokio::time::sleep_until((began + self.duration).into()).await;
        Ok(Measured {
            cpu: process::exact_cpu_time(pid)?.saturating_sub(cpu),
            elapsed: began.elapsed(),
            memory: process::memory(pid)?,
        })
    }

    fn tell(&self, filled: Duration, measured: &Measured) -> Report {
        let mut report = Report::default();
        report.add(
            "partitions",
            self.partitions,
            "partitions",
            format!(
                "{}, {} in each, made in {}",
                HumanCount(self.partitions.unsigned_abs().into()),
                counted(self.records_each, "record"),
                short(filled)
            ),
        );
        report.add(
            "consumers",
            self.consumers,
            "consumers",
            self.consumers.to_string(),
        );
        let percent = measured.cpu.as_secs_f64() / measured.elapsed.as_secs_f64() * 100.0;
        report.note("cpu_seconds", measured.cpu.as_secs_f64());
        report.note("elapsed_seconds", measured.elapsed.as_secs_f64());
        report.add(
            "cpu_percent_of_a_core",
            percent,
            "processor time",
            format!(
                "{percent:.3} % of a core ({} in {})",
                short(measured.cpu),
                short(measured.elapsed)
            ),
        );
        let memory = &measured.memory;
        report.add(
            "anonymous_bytes",
            memory.anonymous_bytes,
            "anonymous memory",
            BinaryBytes(memory.anonymous_bytes).to_string(),
        );
        report.add(
            "page_table_bytes",
            memory.page_table_bytes,
            "page tables",
            BinaryBytes(memory.page_table_bytes).to_string(),
        );
        report.add(
            "threads",
            memory.threads,
            "threads",
            memory.threads.to_string(),
        );
        report
    }
}

struct Measured {
    cpu: Duration,
    elapsed: Duration,
    memory: process::Memory,
}

/// Makes a topic with so many partitions and so many records in each.
pub(super) async fn fill(
    client: &Client,
    partitions: i32,
    records_each: i64,
) -> anyhow::Result<()> {
    client
        .admin()
        .create_topic(NewTopic::new(TOPIC).partitions(partitions))
        .await?;
    let producer = client.producer()?;
    for partition in 0..partitions {
        for _ in 0..records_each {
            let record = ProducerRecord::new(TOPIC)
                .partition(PartitionId::new(partition))
                .value("idle");
            // A failure is reported by the flush.
            drop(producer.send(record).await?);
        }
    }
    producer.flush().await?;
    producer.close().await?;
    Ok(())
}
