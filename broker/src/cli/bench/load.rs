//! Sending records on time, and what became of each.
//!
//! Each producer has a thread that waits for the moment a send is due: the runtime's timers are too coarse
//! for that. A task per producer waits for the outcomes, in the order of the sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use logweir_client::{Acks, Client, DeliveryFuture, Producer, ProducerConfig, ProducerRecord};
use logweir_proto::record::Compression;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::exit::usage;
use super::super::flag_values;
use super::super::progress::Progress;
use super::Rate;
use super::histogram::Times;

/// Outcomes of one producer that may wait to be looked at; the producer's own memory is the closer limit for large records.
const OUTCOMES_AHEAD: usize = 65_536;
/// Outcomes looked at in a row.
const OUTCOMES_AT_ONCE: usize = 1_024;
/// Values are slices of one buffer this much larger than a record.
const VARIETY_BYTES: usize = 64 << 10;
/// What a record takes beside its value, at most.
const RECORD_ROOM: usize = 64 << 10;

/// The load.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Load")]
pub(super) struct LoadArgs {
    /// Size of each record's value, which is random bytes
    #[arg(long, default_value = "100", value_name = "BYTES", value_parser = super::record_bytes)]
    pub(super) record_bytes: usize,
    /// How many records [default: as many as are due in --duration]
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(super) records: Option<u64>,
    /// How long to send [default: 10s, without --records]
    #[arg(long, value_name = "TIME", value_parser = super::run_time)]
    pub(super) duration: Option<Duration>,
    /// Producers, each with a connection of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(super) producers: u16,
    /// When a record counts as sent: all in-sync replicas have it, 1 (the leader has it), or 0 (nobody is asked)
    #[arg(long, default_value = "all", value_name = "all|1|0", allow_hyphen_values = true, value_parser = flag_values::acks)]
    pub(super) acks: Acks,
    /// Compress batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_name = "CODEC", value_parser = flag_values::compression)]
    pub(super) compression: Compression,
    /// How long a record waits for its batch to fill
    #[arg(long, default_value = "5ms", value_name = "TIME", value_parser = flag_values::duration)]
    pub(super) linger: Duration,
    /// How many bytes a batch gathers before it is sent
    #[arg(long, default_value = "64KiB", value_name = "BYTES", value_parser = super::record_bytes)]
    pub(super) batch_bytes: usize,
    /// Send each record only after the one before was acknowledged
    #[arg(long)]
    pub(super) one_at_a_time: bool,
}

impl LoadArgs {
    fn producer_config(&self) -> anyhow::Result<ProducerConfig> {
        let defaults = ProducerConfig::default();
        let max_request_size = self
            .record_bytes
            .max(self.batch_bytes)
            .saturating_add(RECORD_ROOM)
            .max(defaults.max_request_size);
        let config = ProducerConfig {
            acks: self.acks,
            compression: self.compression,
            linger: self.linger,
            batch_size: self.batch_bytes,
            max_request_size,
            buffer_memory: defaults
                .buffer_memory
                .max(max_request_size.saturating_mul(2)),
            ..defaults
        };
        config
            .validate()
            .map_err(|error| usage(error.to_string()))?;
        Ok(config)
    }

    /// How long sending takes if it keeps its rate, or is told to.
    pub(super) fn duration(&self) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(10))
    }
}

/// When sends are due, counted from a common beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) began: Instant,
    rate: Option<u64>,
    /// The first index that is not sent; none where the end is a time.
    records: Option<u64>,
    ends: Instant,
}

impl Schedule {
    /// A schedule that begins now.
    pub(super) fn begin(load: &LoadArgs, rate: Rate) -> Self {
        let began = Instant::now();
        Self {
            began,
            rate: rate.0,
            records: load.records,
            ends: began + load.duration(),
        }
    }

    /// When the send with this index is due; `None` if it is not to be made.
    fn due(&self, index: u64) -> Option<Instant> {
        let due = match self.rate {
            Some(rate) => {
                let nanos = u128::from(index) * 1_000_000_000 / u128::from(rate);
                self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            None => Instant::now(),
        };
        let wanted = match self.records {
            Some(records) => index < records,
            None => due < self.ends,
        };
        wanted.then_some(due)
    }
}

/// Waits on this thread, without the runtime's millisecond steps.
fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// What values are made of.
#[derive(Clone, Debug)]
pub(super) struct Values {
    pool: Bytes,
    record_bytes: usize,
    /// Values begin with the run's number and the nanosecond at which they were due.
    stamp: Option<(u64, Instant)>,
}

/// Bytes at the front of a value that carries its time.
pub(super) const STAMP_BYTES: usize = 16;

impl Values {
    pub(super) fn new(record_bytes: usize, stamp: Option<(u64, Instant)>) -> Self {
        let mut pool = BytesMut::with_capacity(record_bytes + VARIETY_BYTES + 8);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while pool.len() < record_bytes + VARIETY_BYTES {
            // Xorshift: does not compress, and is the same in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            pool.extend_from_slice(&state.to_le_bytes());
        }
        Self {
            pool: pool.freeze(),
            record_bytes,
            stamp,
        }
    }

    fn value(&self, index: u64, due: Instant) -> Bytes {
        let at = usize::try_from(index.wrapping_mul(61) % (VARIETY_BYTES as u64)).unwrap_or(0);
        let plain = self.pool.slice(at..at + self.record_bytes);
        let Some((run, began)) = self.stamp else {
            return plain;
        };
        let nanos = due.saturating_duration_since(began).as_nanos();
        let mut value = BytesMut::with_capacity(self.record_bytes);
        value.extend_from_slice(&run.to_be_bytes());
        value.extend_from_slice(&u64::try_from(nanos).unwrap_or(u64::MAX).to_be_bytes());
        value.extend_from_slice(plain.get(STAMP_BYTES..).unwrap_or(&[]));
        value.freeze()
    }
}

/// What became of the records.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// From the moment a send was due to its acknowledgement.
    pub(super) times: Times,
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) first_error: Option<String>,
    /// From the beginning to the last acknowledgement.
    pub(super) elapsed: Duration,
    /// Batches that carried the records.
    pub(super) batches: u64,
}

impl Tally {
    fn fail(&mut self, error: &logweir_client::Error) {
        self.failed += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn merge(&mut self, other: Self) {
        self.times.merge(&other.times);
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.first_error = self.first_error.take().or(other.first_error);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.batches += other.batches;
    }
}

/// Sends the whole load, and returns when every record was acknowledged or failed, or after `stop` those that were sent.
///
/// # Errors
/// A producer cannot be opened, or a task or thread failed.
pub(super) async fn run(
    client: &Client,
    topic: &str,
    load: &LoadArgs,
    schedule: Schedule,
    values: &Values,
    progress: &Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Tally> {
    let config = load.producer_config()?;
    let mut lanes = Vec::new();
    for first in 0..u64::from(load.producers) {
        let producer = client.producer_with(config.clone())?;
        let (sent, outcomes) = mpsc::channel(OUTCOMES_AHEAD);
        let lane = Lane {
            producer: producer.clone(),
            topic: Arc::from(topic),
            values: values.clone(),
            schedule,
            first,
            step: u64::from(load.producers),
            one_at_a_time: load.one_at_a_time,
        };
        let (handle, stop) = (Handle::current(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("logweir-bench".to_owned())
            .spawn(move || handle.block_on(lane.send_all(sent, &stop)))
            .context("cannot start a thread")?;
        let watch = watch(
            outcomes,
            schedule.began,
            load.record_bytes as u64,
            progress.clone(),
        );
        lanes.push((producer, thread, tokio::spawn(watch)));
    }
    let mut total = Tally::default();
    for (producer, thread, watching) in lanes {
        total.merge(watching.await.context("a task failed")?);
        total.batches += producer.metrics().batches_delivered;
        // Failures are counted already.
        let _ = producer.close().await;
        if thread.join().is_err() {
            anyhow::bail!("a sending thread failed");
        }
    }
    Ok(total)
}

/// One producer's part of the load.
struct Lane {
    producer: Producer,
    topic: Arc<str>,
    values: Values,
    schedule: Schedule,
    /// It sends this index and every `step`th after it.
    first: u64,
    step: u64,
    one_at_a_time: bool,
}

/// A record that was handed over, or refused.
type Sent = (Instant, Result<Outcome, logweir_client::Error>);

enum Outcome {
    Waiting(DeliveryFuture),
    /// Acknowledged this long after it was due.
    Done(Duration),
}

impl Lane {
    async fn send_all(self, sent: mpsc::Sender<Sent>, stop: &CancellationToken) {
        let mut index = self.first;
        while let Some(due) = self.schedule.due(index) {
            wait_until(due);
            if stop.is_cancelled() {
                return;
            }
            let value = self.values.value(index, due);
            let record = ProducerRecord::new(Arc::clone(&self.topic)).value(value);
            let outcome = match self.producer.send(record).await {
                Ok(delivery) if self.one_at_a_time => {
                    delivery.await.map(|_| Outcome::Done(due.elapsed()))
                }
                Ok(delivery) => Ok(Outcome::Waiting(delivery)),
                Err(error) => Err(error),
            };
            if sent.send((due, outcome)).await.is_err() {
                return;
            }
            index += self.step;
        }
    }
}

async fn watch(
    mut outcomes: mpsc::Receiver<Sent>,
    began: Instant,
    record_bytes: u64,
    progress: Progress,
) -> Tally {
    let mut tally = Tally::default();
    let mut some = Vec::with_capacity(OUTCOMES_AT_ONCE);
    while outcomes.recv_many(&mut some, OUTCOMES_AT_ONCE).await > 0 {
        let before = tally.delivered;
        for (due, outcome) in some.drain(..) {
            let outcome = match outcome {
                Ok(Outcome::Waiting(delivery)) => delivery.await.map(|_| due.elapsed()),
                Ok(Outcome::Done(time)) => Ok(time),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(time) => {
                    tally.delivered += 1;
                    tally.times.add(time);
                }
                Err(error) => tally.fail(&error),
            }
        }
        let delivered = tally.delivered - before;
        progress.read(delivered);
        progress.done(delivered, delivered * record_bytes);
        tally.elapsed = began.elapsed();
    }
    tally
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn load(flags: &str) -> LoadArgs {
        let words = std::iter::once("x").chain(flags.split_whitespace());
        Line::try_parse_from(words).unwrap().load
    }

    #[test]
    fn sends_are_due_at_even_times_until_the_records_or_the_time_are_up() {
        let records = Schedule::begin(&load("--records 3"), Rate(Some(1_000)));
        let due = |schedule: &Schedule, index| schedule.due(index).map(|due| due - schedule.began);
        assert_eq!(due(&records, 0), Some(Duration::ZERO));
        assert_eq!(due(&records, 2), Some(Duration::from_millis(2)));
        assert_eq!(due(&records, 3), None);
        let time = Schedule::begin(&load("--duration 1s"), Rate(Some(7)));
        assert_eq!(due(&time, 6), Some(Duration::from_nanos(6_000_000_000 / 7)));
        assert_eq!(due(&time, 7), None);
    }

    #[test]
    fn a_value_has_its_size_and_carries_the_time_it_was_due() {
        let began = Instant::now();
        let values = Values::new(100, Some((7, began)));
        let value = values.value(3, began + Duration::from_nanos(1_234));
        assert_eq!(value.len(), 100);
        assert_eq!(value[..8], 7_u64.to_be_bytes());
        assert_eq!(value[8..16], 1_234_u64.to_be_bytes());
        let plain = Values::new(9, None);
        assert_ne!(plain.value(0, began), plain.value(1, began));
        assert_eq!(plain.value(0, began).len(), 9);
    }

    #[test]
    fn what_the_producer_would_refuse_is_refused_before_anything_starts() {
        assert!(load("--batch-bytes 15MiB").producer_config().is_ok());
        assert!(load("--linger 10m").producer_config().is_err());
        for bad in [
            "--records 0",
            "--producers 0",
            "--producers 1001",
            "--record-bytes 16MiB",
            "--batch-bytes 16MiB",
            "--duration 1ms",
            "--records 1 --duration 1s",
        ] {
            let words = std::iter::once("x").chain(bad.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{bad}");
        }
    }
}
