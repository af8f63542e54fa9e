//! `logweir bench produce`: how many records a broker takes, and how long each waits for its acknowledgement.

use std::time::Duration;

use clap::Args;
use indicatif::BinaryBytes;

use super::super::exit::Exit;
use super::super::interrupt::Interrupt;
use super::super::progress::Progress;
use super::histogram::short;
use super::load::{self, LoadArgs, Schedule, Tally, Values};
use super::report::{Report, ReportArgs, human_rate, per_second, to_f64};
use super::subject::SubjectArgs;
use super::topic::TopicArgs;
use super::{Rate, rate};
use crate::words::counted;

const HELP: &str = "\
Examples:
  logweir bench produce --spawn --flush os --records 5000000
  logweir bench produce --rate 20000 --duration 30s --record-bytes 1KiB
  logweir bench produce --spawn --flush per-ack --producers 64 --one-at-a-time
  logweir bench produce --ready-file ready.json --json

The latency of a record counts from the moment its send was due (with --rate) or
was made (without) to its acknowledgement, so that what a stall holds up counts.
Outcomes are looked at in the order of the sends.";

/// Send records and measure throughput and latency
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct ProduceBench {
    /// Records per second of all producers together, or max
    #[arg(long, default_value = "max", value_name = "N", value_parser = rate)]
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

impl ProduceBench {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let subject = self.subject.reach().await?;
        let interrupt = Interrupt::listen()?;
        self.topic.ensure(&subject.client).await?;
        let before = self.topic.extent(&subject.client).await?;
        let progress = Progress::new(self.load.records, self.report.quiet);
        let usage = subject.watch()?;
        let tally = load::run(
            &subject.client,
            &self.topic.topic,
            &self.load,
            Schedule::begin(&self.load, self.rate),
            &Values::new(self.load.record_bytes, None),
            &progress,
            &interrupt.token(),
        )
        .await;
        progress.clear();
        let tally = tally?;
        let mut report = Report::default();
        tell(&tally, self.load.record_bytes as u64, &mut report);
        usage.tell(tally.delivered * self.load.record_bytes as u64, &mut report)?;
        let after = self.topic.extent(&subject.client).await?;
        report.note("log_records", after.end - before.end);
        report.print(self.report)?;
        let failed = tally.failed > 0;
        if let Some(error) = tally.first_error {
            eprintln!(
                "{} failed; the first: {error}",
                counted(tally.failed, "record")
            );
        }
        subject.end()?;
        let outcome = if failed { Exit::Partial } else { Exit::Done };
        Ok(interrupt.exit().unwrap_or(outcome))
    }
}

/// Tells counts, rates and latency of what was produced.
pub(super) fn tell(tally: &Tally, record_bytes: u64, report: &mut Report) {
    let seconds = tally.elapsed.as_secs_f64();
    let bytes = tally.delivered * record_bytes;
    report.note("records", tally.delivered);
    report.note("failed", tally.failed);
    report.note("record_bytes", record_bytes);
    report.note("elapsed_seconds", seconds);
    let rate = per_second(tally.delivered, seconds);
    report.add(
        "records_per_second",
        rate,
        "acknowledged",
        format!(
            "{}, {} in {}: {} records/s",
            counted(indicatif::HumanCount(tally.delivered), "record"),
            BinaryBytes(bytes),
            short(Duration::from_secs_f64(seconds)),
            human_rate(rate)
        ),
    );
    let megabytes = per_second(bytes, seconds) / 1e6;
    report.add(
        "mb_per_second",
        megabytes,
        "payload",
        format!("{megabytes:.1} MB/s"),
    );
    let per_batch = to_f64(tally.delivered) / to_f64(tally.batches.max(1));
    report.add(
        "records_per_batch",
        per_batch,
        "batches",
        format!(
            "{} of {per_batch:.1} records",
            indicatif::HumanCount(tally.batches)
        ),
    );
    report.times("latency", "latency to the acknowledgement", &tally.times);
}
