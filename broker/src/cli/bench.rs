//! `logweir bench`: load from outside, and what it costs the broker.
//!
//! One file per subcommand. Latencies count from the moment a send was due, not from the moment it was
//! made: a stall that holds the sender back shows in every record that should have been sent meanwhile.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::exit::Exit;
use super::flag_values;

mod consume;
mod end_to_end;
mod group;
mod histogram;
mod idle;
mod load;
mod process;
mod produce;
mod report;
mod start;
mod subject;
mod topic;

/// Measure a broker: throughput, latency, idle cost, start-up
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct BenchCommand {
    #[command(subcommand)]
    action: Action,
}

const HELP: &str = "\
Examples:
  logweir bench produce --spawn --flush os --record-bytes 100 --records 5000000
  logweir bench latency --server 127.0.0.1:9093 --rate 10000 --duration 30s
  logweir bench idle --partitions 1000
  logweir bench group --members 100
  logweir bench start --json

With --spawn a broker of this same program is started in a temporary folder and
ended afterwards; with --pid or --ready-file the processor time and memory of a
broker on this machine are told, too.";

#[derive(Debug, Subcommand)]
enum Action {
    Produce(Box<produce::ProduceBench>),
    Consume(Box<consume::ConsumeBench>),
    Latency(Box<end_to_end::LatencyBench>),
    Idle(Box<idle::IdleBench>),
    Group(Box<group::GroupBench>),
    Start(Box<start::StartBench>),
}

impl BenchCommand {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::Produce(bench) => bench.run().await,
            Action::Consume(bench) => bench.run().await,
            Action::Latency(bench) => bench.run().await,
            Action::Idle(bench) => bench.run().await,
            Action::Group(bench) => bench.run().await,
            Action::Start(bench) => bench.run().await,
        }
    }
}

/// The most time that a run may be told to take.
const MAX_DURATION: Duration = Duration::from_secs(86_400);
/// The largest record: what a request may hold, less its own bytes.
const MAX_RECORD_BYTES: usize = 15 << 20;
/// Records per second that can be asked for.
const MAX_RATE: u64 = 100_000_000;

/// A time from 100 ms to a day.
fn run_time(text: &str) -> Result<Duration, String> {
    let time = flag_values::duration(text)?;
    if (Duration::from_millis(100)..=MAX_DURATION).contains(&time) {
        Ok(time)
    } else {
        Err(format!("{text:?} is not between 100ms and 24h"))
    }
}

/// A record's size.
fn record_bytes(text: &str) -> Result<usize, String> {
    let bytes = flag_values::bytes(text)?;
    if bytes <= MAX_RECORD_BYTES {
        Ok(bytes)
    } else {
        Err(format!("{text:?} is above 15MiB, the most a request holds"))
    }
}

/// Records per second; `max` is as fast as the broker takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(Option<u64>);

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate(None));
    }
    let digits = text.replace(['_', ','], "");
    match digits.parse() {
        Ok(rate @ 1..=MAX_RATE) => Ok(Rate(Some(rate))),
        _ => Err(format!(
            "{text:?} is neither max nor a number of records per second from 1 to {MAX_RATE}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_with_their_numbers() {
        assert_eq!(rate("10_000"), Ok(Rate(Some(10_000))));
        assert_eq!(rate("max"), Ok(Rate(None)));
        for bad in ["0", "-1", "fast", "100000001"] {
            assert!(
                rate(bad).is_err_and(|error| error.contains("from 1 to 100000000")),
                "{bad}"
            );
        }
        assert_eq!(record_bytes("15MiB"), Ok(15 << 20));
        assert!(record_bytes("16MiB").is_err_and(|error| error.contains("15MiB")));
        assert_eq!(run_time("2s"), Ok(Duration::from_secs(2)));
        for bad in ["99ms", "25h"] {
            assert!(
                run_time(bad).is_err_and(|error| error.contains("24h")),
                "{bad}"
            );
        }
    }
}
