//! `logweir consume`: writes a topic's records, from a point on, to where it ended at the start or for ever.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use logweir_client::{
    Admin, Client, FetchedBatch, OffsetSpec, Reader, ReaderConfig, StartAt, TopicPartition,
};
use logweir_proto::{Offset, PartitionId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::ServerArgs;
use super::exit::Exit;
use super::flag_values;
use super::interrupt::Interrupt;
use super::offsets::{choose_partitions, look_up};
use super::progress::{Progress, rate};
use super::record_output::RecordFormat;
use super::time::Position;
use crate::clock::Clock;

mod group;

const OUTPUT_BUFFER_BYTES: usize = 256 << 10;
/// How often it is looked whether anybody still reads the output, while nothing is written.
const READER_CHECK: Duration = Duration::from_secs(1);

const HELP: &str = "\
Examples:
  logweir consume flights                          every value, then end
  logweir consume flights --from latest --follow   what is new, until Ctrl-C
  logweir consume flights --from 2h --max 10       ten of the last two hours
  logweir consume flights --key-separator '\\t'     key, tab, value
  logweir consume flights --partition 3 --from 120000 --output json | jq .key
  logweir consume flights --group billing          what the group has not read yet

Without --follow it ends at the end that each partition had when it started.
Records of one partition come in order; those of different partitions come as
they arrive.

With --group, several of these share the partitions, and each record is written
by one of them. Offsets are committed after their lines were written and flushed:
what was written and not committed when it is killed is written again, by this or
another member. With --delivery at-most-once they are committed before: then such
lines are lost. Flushed into a pipe counts as written, so take a few with --max,
not with head. --from only matters where the group has committed nothing. Without
--follow it ends when the group, all members together, has come to the ends that
there were when it started.

A member that is killed keeps its partitions until its session has timed out (the
broker's group.consumer.session.timeout.ms, 45 s by default); the others wait for
that. So does one that is stopped, or that cannot write its output, until the poll
interval is over (5 minutes). A member waits for a broker that goes away until it
is back, without --follow too; Ctrl-C ends it.

--output json writes one object a line: topic, partition, offset, timestamp
(milliseconds since 1970), key, value, headers ([{\"key\": …, \"value\": …}]).
A null key or value is null. Bytes that are not UTF-8 stand in base64 under
key_base64 or value_base64 instead. logweir produce --format jsonl reads it all.";

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ConsumeOutput {
    /// A record's value a line
    #[default]
    Value,
    /// A JSON object a line
    Json,
}

/// What becomes of records that a member was writing when it was cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum GroupDelivery {
    /// Offsets are committed after their lines were written: none is lost, some may come twice
    #[default]
    AtLeastOnce,
    /// Offsets are committed before their lines are written: none comes twice, some may be lost
    AtMostOnce,
}

/// Write the records of a topic to standard output, alone or as a member of a group
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct ConsumeCommand {
    /// The topic
    topic: String,
    /// Where to begin: earliest, latest, an offset, or a time: RFC 3339, a date (UTC), @MILLISECONDS, an age such as 2h
    #[arg(
        long,
        default_value = "earliest",
        value_name = "earliest|latest|OFFSET|TIME"
    )]
    from: Position,
    /// Share the topic with the other members of this consumer group, and commit what was written
    #[arg(long, short, value_name = "GROUP", conflicts_with = "partition")]
    group: Option<String>,
    /// Whether records of a member that is cut off are written again, or not at all
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "HOW",
        requires = "group"
    )]
    delivery: GroupDelivery,
    /// Only this partition; repeatable, or 0,2,5
    #[arg(long, value_name = "N", value_delimiter = ',')]
    partition: Vec<i32>,
    /// End after so many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Go on with new records until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Form of the output
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: ConsumeOutput,
    /// Write the key before each value
    #[arg(long)]
    print_key: bool,
    /// What stands between key and value, such as : or \t; implies --print-key [default: tab]
    #[arg(long, value_name = "TEXT", value_parser = flag_values::separator)]
    key_separator: Option<String>,
    /// No progress display and no summary
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// From where to where a partition is read; no end is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    partition: PartitionId,
    from: Offset,
    to: Option<Offset>,
}

impl ConsumeCommand {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let interrupt = Interrupt::listen()?;
        let client = match self.group.is_some() && self.follow {
            // It may be a service that is started together with the broker.
            true => group::connect(&self.server, &interrupt).await?,
            false => Some(self.server.connect().await?),
        };
        let Some(client) = client else {
            return Ok(interrupt.exit().unwrap_or(Exit::Done));
        };
        let started = Instant::now();
        let (records, bytes) = match &self.group {
            Some(group_id) => self.share(&client, group_id, &interrupt).await?,
            None => self.read(&client, &interrupt).await?,
        };
        if !self.quiet {
            let amount = rate(records, bytes, started.elapsed());
            eprintln!("consumed from {}: {amount}", self.topic);
        }
        Ok(interrupt.exit().unwrap_or(Exit::Done))
    }

    /// Reads by itself. Returns how many records it wrote, and their bytes.
    async fn read(&self, client: &Client, interrupt: &Interrupt) -> anyhow::Result<(u64, u64)> {
        let spans = self.spans(&client.admin()).await?;
        let mut reader = client.reader_with(ReaderConfig::default())?;
        let mut expected = Some(0_u64);
        for span in &spans {
            if span.to.is_some_and(|to| span.from >= to) {
                continue;
            }
            reader.assign(
                self.topic.as_str(),
                span.partition,
                StartAt::Offset(span.from),
            )?;
            expected = match span.to {
                Some(to) => {
                    reader.stop_at(
                        &TopicPartition::new(self.topic.as_str(), span.partition),
                        to,
                    )?;
                    let records = u64::try_from(to.since(span.from)).unwrap_or(0);
                    expected.map(|sum| sum.saturating_add(records))
                }
                None => None,
            };
        }
        let expected = expected.map(|sum| sum.min(self.max.unwrap_or(u64::MAX)));
        let mut writer = self.writer(expected);
        let outcome = copy(&mut reader, &mut writer, interrupt).await;
        let flushed = writer.out.flush();
        writer.progress.clear();
        outcome?;
        flushed?;
        Ok((writer.records, writer.bytes))
    }

    fn writer(&self, expected: Option<u64>) -> Writer<'static> {
        Writer {
            out: BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, io::stdout().lock()),
            format: self.format(),
            // A display between the lines of the records would help nobody.
            progress: Progress::new(expected, self.quiet || io::stdout().is_terminal()),
            left: self.max.unwrap_or(u64::MAX),
            records: 0,
            bytes: 0,
        }
    }

    fn format(&self) -> RecordFormat {
        let separator = self
            .key_separator
            .clone()
            .or_else(|| self.print_key.then(|| "\t".to_owned()));
        match self.output {
            ConsumeOutput::Json => RecordFormat::Json,
            ConsumeOutput::Value => RecordFormat::Value {
                key_separator: separator,
            },
        }
    }

    /// Looks up where to begin and where to end in each partition.
    async fn spans(&self, admin: &Admin) -> anyhow::Result<Vec<Span>> {
        let partitions = choose_partitions(admin, &self.topic, &self.partition).await?;
        // Ends first: what arrives between the two look-ups comes after the end and is not lost by it.
        let latest = look_up(admin, &self.topic, &partitions, OffsetSpec::Latest).await?;
        let earliest = look_up(admin, &self.topic, &partitions, OffsetSpec::Earliest).await?;
        let timed = match self.from {
            Position::Time(when) => {
                let spec = OffsetSpec::Timestamp(when.resolve(Clock::default().now()));
                Some(look_up(admin, &self.topic, &partitions, spec).await?)
            }
            _ => None,
        };
        let mut spans = Vec::with_capacity(partitions.len());
        for (index, partition) in partitions.iter().enumerate() {
            let first = earliest[index].offset.unwrap_or(Offset::ZERO);
            let end = latest[index].offset.unwrap_or(first).max(first);
            let wanted = match self.from {
                Position::Earliest => first,
                Position::Latest => end,
                Position::Offset(offset) => offset,
                // No record that late yet.
                Position::Time(_) => timed
                    .as_ref()
                    .and_then(|found| found[index].offset)
                    .unwrap_or(end),
            };
            let from = wanted.clamp(first, end);
            if from != wanted && !self.quiet {
                let (verb, bound) = if wanted < first {
                    ("begins", first)
                } else {
                    ("ends", end)
                };
                eprintln!(
                    "partition {partition} {verb} at {bound}; reading from there, not from {wanted}"
                );
            }
            spans.push(Span {
                partition: *partition,
                from,
                to: (!self.follow).then_some(end),
            });
        }
        Ok(spans)
    }
}

/// Where records go.
struct Writer<'a> {
    out: BufWriter<StdoutLock<'a>>,
    format: RecordFormat,
    progress: Progress,
    /// How many more records are wanted.
    left: u64,
    records: u64,
    bytes: u64,
}

impl Writer<'_> {
    /// Writes as many of the records as are wanted. Returns how many.
    fn write(&mut self, batch: &FetchedBatch) -> io::Result<u64> {
        let (mut records, mut bytes) = (0_u64, 0_u64);
        for record in &batch.records {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.format
                .write(&mut self.out, &batch.topic, batch.partition.get(), record)?;
            let length = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
            records += 1;
            bytes += u64::try_from(length(&record.key) + length(&record.value)).unwrap_or(0);
        }
        self.records += records;
        self.bytes += bytes;
        self.progress.read(records);
        self.progress.done(records, bytes);
        Ok(records)
    }

    /// Fails if whoever read the output is gone, which a write would only find out with the next record.
    fn check_reader(&self) -> io::Result<()> {
        let out = self.out.get_ref().as_fd();
        let mut watched = [PollFd::new(&out, PollFlags::empty())];
        poll(&mut watched, Some(&Timespec::default()))?;
        if watched[0].revents().contains(PollFlags::ERR) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

/// Copies records until all partitions are at their ends, enough were written, or somebody interrupts.
async fn copy(
    reader: &mut Reader,
    writer: &mut Writer<'_>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let mut reader_check = tokio::time::interval(READER_CHECK);
    while writer.left > 0 {
        // What was written is passed on when nothing more is there at once, so that a pipe is never behind.
        let at_hand = tokio::select! {
            biased;
            () = interrupt.asked() => return Ok(()),
            batch = reader.next_batch() => Some(batch?),
            () = std::future::ready(()) => None,
        };
        let batch = match at_hand {
            Some(batch) => batch,
            None => {
                writer.out.flush()?;
                loop {
                    tokio::select! {
                        biased;
                        () = interrupt.asked() => return Ok(()),
                        batch = reader.next_batch() => break batch?,
                        _ = reader_check.tick() => writer.check_reader()?,
                    }
                }
            }
        };
        match batch {
            Some(batch) => writer.write(&batch).map(drop)?,
            None => return Ok(()),
        }
    }
    Ok(())
}
