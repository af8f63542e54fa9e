//! `logweir bench latency`: from the moment a send is due to the moment a reader has the record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use logweir_client::{Reader, ReaderConfig, StartAt};

use super::super::exit::{Exit, usage};
use super::super::interrupt::Interrupt;
use super::super::progress::Progress;
use super::histogram::Times;
use super::load::{self, LoadArgs, STAMP_BYTES, Schedule, Values};
use super::report::{Report, ReportArgs, human_rate, per_second};
use super::subject::SubjectArgs;
use super::topic::TopicArgs;
use super::{Rate, produce, rate};
use crate::words::counted;

/// How long the last records may take to arrive after the last acknowledgement.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

const HELP: &str = "\
Examples:
  logweir bench latency --spawn --rate 1000
  logweir bench latency --spawn --flush os --rate 500000 --record-bytes 100
  logweir bench latency --server 127.0.0.1:9093 --rate 10000 --duration 1m --json

Producers and one reader run in this process. Both latencies count from the
moment a send was due, so that what a stall holds up counts.";

/// Measure the time from a due send to its arrival at a reader
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct LatencyBench {
    /// Records per second of all producers together, or max
    #[arg(long, default_value = "1000", value_name = "N", value_parser = rate)]
    rate: Rate,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    report: ReportArgs,
}

impl LatencyBench {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        if self.load.record_bytes < STAMP_BYTES {
            return Err(usage(format!(
                "--record-bytes {} is below {STAMP_BYTES}: a record carries the time it was due",
                self.load.record_bytes
            )));
        }
        let subject = self.subject.reach().await?;
        let interrupt = Interrupt::listen()?;
        self.topic.ensure(&subject.client).await?;
        let mut reader = subject.client.reader_with(ReaderConfig::default())?;
        self.assign_ends(&mut reader, &subject.client).await?;
        let progress = Progress::new(self.load.records, self.report.quiet);
        let usage = subject.watch()?;
        let schedule = Schedule::begin(&self.load, self.rate);
        // Tells the records of this run from those of others.
        let run =
            u64::from(std::process::id()) << 32 | u64::from(uuid::Uuid::new_v4().as_fields().0);
        let delivered = Arc::new(AtomicU64::new(u64::MAX));
        let arriving = Arrivals {
            reader,
            run,
            began: schedule.began,
            delivered: Arc::clone(&delivered),
            times: Times::default(),
            last: Duration::ZERO,
        };
        let arriving = tokio::spawn(arriving.watch());
        let values = Values::new(self.load.record_bytes, Some((run, schedule.began)));
        let tally = load::run(
            &subject.client,
            &self.topic.topic,
            &self.load,
            schedule,
            &values,
            &progress,
            &interrupt.token(),
        )
        .await?;
        delivered.store(tally.delivered, Ordering::Release);
        let (times, last) = arriving.await.context("the reading task failed")??;
        progress.clear();
        let mut report = Report::default();
        produce::tell(&tally, self.load.record_bytes as u64, &mut report);
        let arrived = times.count();
        let rate = per_second(arrived, last.as_secs_f64());
        report.note("records_read", arrived);
        report.add(
            "records_read_per_second",
            rate,
            "arrived",
            format!(
                "{}: {} records/s",
                counted(indicatif::HumanCount(arrived), "record"),
                human_rate(rate)
            ),
        );
        report.times("end_to_end", "latency to the arrival at a reader", &times);
        usage.tell(tally.delivered * self.load.record_bytes as u64, &mut report)?;
        report.print(self.report)?;
        subject.end()?;
        if arrived < tally.delivered {
            anyhow::bail!(
                "{} of {} acknowledged records did not arrive",
                tally.delivered - arrived,
                tally.delivered
            );
        }
        Ok(interrupt.exit().unwrap_or(Exit::Done))
    }

    async fn assign_ends(
        &self,
        reader: &mut Reader,
        client: &logweir_client::Client,
    ) -> anyhow::Result<()> {
        // By number, not "latest": what is sent before the reader has asked would be missed.
        let described = client.admin().describe_topic(&self.topic.topic).await?;
        for partition in described.partitions {
            let offsets = partition.offsets.context("a partition is not told of")?;
            let start = StartAt::Offset(offsets.high_watermark);
            reader.assign(self.topic.topic.as_str(), partition.partition, start)?;
        }
        Ok(())
    }
}

/// The reading side.
struct Arrivals {
    reader: Reader,
    run: u64,
    began: Instant,
    /// How many records were acknowledged; known when all were sent.
    delivered: Arc<AtomicU64>,
    times: Times,
    last: Duration,
}

impl Arrivals {
    /// Reads until every acknowledged record has arrived, or none does any more.
    async fn watch(mut self) -> anyhow::Result<(Times, Duration)> {
        let mut stalled = None;
        while self.times.count() < self.delivered.load(Ordering::Acquire) {
            // Looks up now and then whether the sending has ended.
            let next = tokio::time::timeout(Duration::from_millis(100), self.reader.next_batch());
            let Ok(batch) = next.await else {
                let all_sent = self.delivered.load(Ordering::Acquire) != u64::MAX;
                let since = *stalled.get_or_insert_with(Instant::now);
                if all_sent && since.elapsed() > ARRIVAL_TIMEOUT {
                    break;
                }
                continue;
            };
            stalled = None;
            let Some(batch) = batch? else { break };
            for record in &batch.records {
                if let Some(due) = record.value.as_deref().and_then(|value| self.due(value)) {
                    self.times.add(due.elapsed());
                }
            }
            self.last = self.began.elapsed();
        }
        Ok((self.times, self.last))
    }

    /// When a record of this run was due.
    fn due(&self, value: &[u8]) -> Option<Instant> {
        let (run, rest) = value.split_first_chunk()?;
        let (nanos, _) = rest.split_first_chunk()?;
        (u64::from_be_bytes(*run) == self.run)
            .then(|| self.began + Duration::from_nanos(u64::from_be_bytes(*nanos)))
    }
}
