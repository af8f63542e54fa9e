//! `logweir bench consume`: how fast readers get what lies in a topic.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use logweir_client::{Client, ReaderConfig, StartAt};

use super::super::exit::{Exit, usage};
use super::super::interrupt::Interrupt;
use super::super::progress::Progress;
use super::Rate;
use super::histogram::{Times, short};
use super::load::{self, LoadArgs, Schedule, Values};
use super::report::{Report, ReportArgs, human_rate, per_second};
use super::subject::SubjectArgs;
use super::topic::TopicArgs;
use crate::words::counted;

const HELP: &str = "\
Examples:
  logweir bench consume --spawn --flush os --records 5000000
  logweir bench consume --topic flights --ready-file ready.json
  logweir bench consume --topic flights --consumers 4 --json

An empty topic is filled first, as the flags of the load say; that is not
measured. Each consumer reads every partition, from the first record to the last
one that is there when it begins. The wait for a batch counts from the moment
the one before was done with.";

/// Read a topic from its beginning and measure throughput
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct ConsumeBench {
    /// Readers, each with a connection of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    consumers: u16,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    report: ReportArgs,
}

impl ConsumeBench {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let subject = self.subject.reach().await?;
        let interrupt = Interrupt::listen()?;
        self.topic.ensure(&subject.client).await?;
        let mut extent = self.topic.extent(&subject.client).await?;
        if extent.start == extent.end {
            self.fill(&subject.client, &interrupt).await?;
            extent = self.topic.extent(&subject.client).await?;
        }
        if let Some(exit) = interrupt.exit() {
            return Ok(exit);
        }
        let records = (extent.end - extent.start) * u64::from(self.consumers);
        let progress = Progress::new(Some(records), self.report.quiet);
        let usage = subject.watch()?;
        let began = Instant::now();
        let mut reading = tokio::task::JoinSet::new();
        for _ in 0..self.consumers {
            let (client, topic) = (subject.client.clone(), self.topic.topic.clone());
            reading.spawn(read(client, topic, progress.clone()));
        }
        let mut total = Read::default();
        let ended = async {
            while let Some(read) = reading.join_next().await {
                total.merge(&read.context("a reading task failed")??);
            }
            anyhow::Ok(())
        };
        tokio::select! {
            outcome = ended => outcome?,
            () = interrupt.asked() => {}
        }
        let elapsed = began.elapsed();
        progress.clear();
        let mut report = Report::default();
        total.tell(elapsed, &mut report);
        report.note("log_records", extent.end - extent.start);
        usage.tell(total.bytes, &mut report)?;
        report.print(self.report)?;
        subject.end()?;
        Ok(interrupt.exit().unwrap_or(Exit::Done))
    }

    async fn fill(&self, client: &Client, interrupt: &Interrupt) -> anyhow::Result<()> {
        if self.load.producers > 1 || self.load.one_at_a_time {
            return Err(usage(
                "--producers and --one-at-a-time are not for consume: filling is not measured",
            ));
        }
        let progress = Progress::new(self.load.records, self.report.quiet);
        let filled = load::run(
            client,
            &self.topic.topic,
            &self.load,
            Schedule::begin(&self.load, Rate(None)),
            &Values::new(self.load.record_bytes, None),
            &progress,
            &interrupt.token(),
        )
        .await;
        progress.clear();
        if let Some(error) = filled?.first_error {
            anyhow::bail!("the topic cannot be filled: {error}");
        }
        Ok(())
    }
}

/// What was read.
#[derive(Debug, Default)]
struct Read {
    records: u64,
    /// Of keys and values.
    bytes: u64,
    waits: Times,
}

impl Read {
    fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.waits.merge(&other.waits);
    }

    fn tell(&self, elapsed: Duration, report: &mut Report) {
        let seconds = elapsed.as_secs_f64();
        let rate = per_second(self.records, seconds);
        report.note("records", self.records);
        report.note("elapsed_seconds", seconds);
        report.add(
            "records_per_second",
            rate,
            "read",
            format!(
                "{}, {} in {}: {} records/s",
                counted(HumanCount(self.records), "record"),
                BinaryBytes(self.bytes),
                short(elapsed),
                human_rate(rate)
            ),
        );
        let megabytes = per_second(self.bytes, seconds) / 1e6;
        report.add(
            "mb_per_second",
            megabytes,
            "payload",
            format!("{megabytes:.1} MB/s"),
        );
        report.times("batch_wait", "wait for a batch", &self.waits);
    }
}

async fn read(client: Client, topic: String, progress: Progress) -> anyhow::Result<Read> {
    let mut reader = client.reader_with(ReaderConfig::default())?;
    reader
        .assign_topic(topic.as_str(), StartAt::Earliest)
        .await?;
    reader.stop_at_end();
    let mut read = Read::default();
    let mut before = Instant::now();
    while let Some(batch) = reader.next_batch().await? {
        read.waits.add(before.elapsed());
        let length = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
        let bytes: usize = batch
            .records
            .iter()
            .map(|record| length(&record.key) + length(&record.value))
            .sum();
        let records = batch.records.len() as u64;
        read.records += records;
        read.bytes += bytes as u64;
        progress.read(records);
        progress.done(records, bytes as u64);
        before = Instant::now();
    }
    Ok(read)
}
