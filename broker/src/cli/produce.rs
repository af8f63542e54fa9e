//! `logweir produce`: sends lines, JSON lines or CSV rows, and tells what became of every record.
//!
//! A thread reads the input (it may block for ever on a terminal), this task sends in input order, and a third
//! waits for the outcomes, also in input order, so that "stored up to line N" can be said when it ends early.

use std::io::{IsTerminal as _, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use logweir_client::{Acks, Producer, ProducerConfig, ProducerRecord};
use logweir_proto::record::{Compression, RecordHeader};
use logweir_proto::{PartitionId, Timestamp};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connection::ServerArgs;
use super::exit::{Exit, usage};
use super::flag_values;
use super::interrupt::Interrupt;
use super::output::print_json;
use super::progress::{Progress, rate};
use crate::input::{CsvOptions, Format, InputError, InputRecord, Limit};
use crate::words::counted;

mod outcomes;
mod reading;

use outcomes::{Fate, Sent, Tally};
use reading::Chunk;

/// Outcomes that may wait to be looked at. The producer's own memory limit is the real bound.
const OUTCOMES_AHEAD: usize = 65_536;
/// What a record may take beside its value: key, headers, framing.
const RECORD_ROOM: usize = 64 << 10;

const HELP: &str = "\
Examples:
  echo hello | logweir produce greetings
  logweir produce orders --file orders.txt --key-separator '\\t'
  zcat flights.csv.gz | logweir produce flights --format csv --key-column tailnum
  logweir produce orders --format jsonl < orders.jsonl
  logweir consume a --output json | logweir produce b --format jsonl

Formats:
  lines  A record is a line without its ending. With --key-separator the text
         before the first separator is the key; without it keys are null.
  jsonl  A record is a JSON object on a line, such as
           {\"key\": \"7\", \"value\": \"paid\", \"headers\": [{\"key\": \"a\", \"value\": \"b\"}]}
         \"value\" is needed (null is a tombstone); \"key\" (null if absent),
         \"headers\" (also {\"a\": \"b\"}) and \"timestamp\" (milliseconds) are not.
         A string is sent as its text, anything else as its JSON text.
         \"key_base64\" and \"value_base64\" hold bytes that are not UTF-8.
         \"topic\", \"partition\" and \"offset\" are passed over.
  csv    The first row is the header, which is not a record. A record's value
         is the row as it stands, quotes included, without its line ending.
         Quoted cells may hold separators and line breaks. --key-column names
         the column whose cell is the key; an empty cell is an empty key, not
         null. Blank lines are passed over.

Failures:
  A record that cannot be read or is refused (too large) is named by its line,
  the others are sent, and the exit code is 3. When sending itself fails, it
  stops, says up to which line everything is stored, and exits with 1. Ctrl-C
  sends what was read, tells the same, and exits with 130.";

/// Form of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// A record a line
    #[default]
    Lines,
    /// A JSON object a line
    Jsonl,
    /// A CSV row a record, after a header row
    Csv,
}

/// Form of the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum SummaryFormat {
    /// A line on standard error
    #[default]
    Text,
    /// A JSON object on standard output
    Json,
}

/// Send records from standard input or a file
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct ProduceCommand {
    /// The topic; created if the broker allows it
    topic: String,
    /// Read this file instead of standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Form of the input
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: InputFormat,
    /// With --format lines: what ends the key, such as : or \t
    #[arg(long, value_name = "TEXT", value_parser = flag_values::separator)]
    key_separator: Option<String>,
    /// With --format csv: the column that is the key
    #[arg(long, value_name = "NAME")]
    key_column: Option<String>,
    /// With --format csv: the character between cells, such as ; or \t
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = flag_values::delimiter)]
    delimiter: u8,
    /// Send everything to this partition instead of choosing by key
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// When a record counts as sent: all in-sync replicas have it, 1 (the leader has it), or 0 (nobody is asked)
    #[arg(
        long,
        default_value = "all",
        value_name = "all|1|0",
        allow_hyphen_values = true,
        value_parser = flag_values::acks
    )]
    acks: Acks,
    /// Compress batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_name = "CODEC", value_parser = flag_values::compression)]
    compression: Compression,
    /// How long a record waits for its batch to fill
    #[arg(long, default_value = "5ms", value_name = "TIME", value_parser = flag_values::duration)]
    linger: Duration,
    /// How many bytes a batch gathers before it is sent
    #[arg(long, default_value = "64KiB", value_name = "BYTES", value_parser = flag_values::bytes)]
    batch_bytes: usize,
    /// A longer record is refused; at most 15MiB, and the topic's max.message.bytes still holds
    #[arg(long, default_value = "1MiB", value_name = "BYTES", value_parser = flag_values::bytes)]
    max_record_bytes: usize,
    /// How long to try to deliver a record, all retries included
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = flag_values::duration)]
    delivery_timeout: Duration,
    /// Fail if the topic does not exist
    #[arg(long)]
    no_auto_create: bool,
    /// No progress display and no summary
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: SummaryFormat,
}

impl ProduceCommand {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let format = self.input_format()?;
        let config = self.producer_config()?;
        let (reader, length) = self.open()?;
        let client = self.server.connect().await?;
        if self.no_auto_create {
            client.admin().describe_topic(&self.topic).await?;
        }
        let producer = client.producer_with(config)?;
        if self.file.is_none() && std::io::stdin().is_terminal() && !self.quiet {
            eprintln!("reading from the terminal; Ctrl-D on an empty line ends");
        }
        let interrupt = Interrupt::listen()?;
        let progress = Progress::new(length, self.quiet);
        let started = Instant::now();
        let limit = Limit {
            bytes: self.max_record_bytes,
            has_flags: true,
        };
        let chunks = reading::start(reader, format, limit)?;
        let stop = CancellationToken::new();
        let (sent, waiting) = mpsc::channel(OUTCOMES_AHEAD);
        let watching = tokio::spawn(outcomes::watch(waiting, progress.clone(), stop.clone()));

        self.send_all(
            &producer,
            chunks,
            sent,
            [&stop, &interrupt.token()],
            &progress,
        )
        .await;
        // Every failure is in the tally already, so what closing says is no news.
        let _ = producer.close().await;
        let tally = watching
            .await
            .context("the task that counts outcomes failed")?;
        progress.clear();
        self.conclude(&tally, started.elapsed(), interrupt.exit())
    }

    fn input_format(&self) -> anyhow::Result<Format> {
        let only = |given: bool, flag: &str, format: InputFormat, name: &str| {
            if given && self.format != format {
                return Err(usage(format!("{flag} goes with --format {name} only")));
            }
            Ok(())
        };
        only(
            self.key_separator.is_some(),
            "--key-separator",
            InputFormat::Lines,
            "lines",
        )?;
        only(
            self.key_column.is_some(),
            "--key-column",
            InputFormat::Csv,
            "csv",
        )?;
        only(
            self.delimiter != b',',
            "--delimiter",
            InputFormat::Csv,
            "csv",
        )?;
        Ok(match self.format {
            InputFormat::Lines => Format::Lines {
                key_separator: self.key_separator.clone().map(String::into_bytes),
            },
            InputFormat::Jsonl => Format::Jsonl,
            InputFormat::Csv => Format::Csv(CsvOptions {
                delimiter: self.delimiter,
                key_column: self.key_column.clone(),
            }),
        })
    }

    fn producer_config(&self) -> anyhow::Result<ProducerConfig> {
        let defaults = ProducerConfig::default();
        let max_request_size = self
            .max_record_bytes
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
            delivery_timeout: self.delivery_timeout,
            // A short delivery timeout means short requests too.
            request_timeout: defaults
                .request_timeout
                .min(self.delivery_timeout.saturating_sub(self.linger))
                .max(Duration::from_millis(1)),
            auto_create_topics: !self.no_auto_create,
            ..defaults
        };
        config
            .validate()
            .map_err(|error| usage(error.to_string()))?;
        Ok(config)
    }

    /// The input, and its length if it has one.
    fn open(&self) -> anyhow::Result<(Box<dyn Read + Send>, Option<u64>)> {
        let Some(path) = &self.file else {
            return Ok((Box::new(std::io::stdin()), None));
        };
        let file =
            std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot read {}", path.display()))?;
        if metadata.is_dir() {
            anyhow::bail!("{} is a directory", path.display());
        }
        Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
    }

    /// Sends until the input ends or one of `stops` says so.
    async fn send_all(
        &self,
        producer: &Producer,
        mut chunks: mpsc::Receiver<Chunk>,
        sent: mpsc::Sender<Sent>,
        stops: [&CancellationToken; 2],
        progress: &Progress,
    ) {
        let topic: Arc<str> = Arc::from(self.topic.as_str());
        let send = async {
            while let Some(chunk) = chunks.recv().await {
                progress.read(chunk.bytes);
                for record in chunk.records {
                    // Dropped before it returns, a send has not happened, so stopping here is clean.
                    let outcome = self.send_one(producer, &topic, record).await;
                    if sent.send(outcome).await.is_err() {
                        return;
                    }
                }
            }
        };
        let [failed, interrupted] = stops;
        tokio::select! {
            biased;
            () = interrupted.cancelled() => {}
            () = failed.cancelled() => {}
            () = send => {}
        }
    }

    async fn send_one(
        &self,
        producer: &Producer,
        topic: &Arc<str>,
        record: Result<InputRecord, InputError>,
    ) -> Sent {
        let record = match record {
            Ok(record) => record,
            Err(InputError::Record { line, reason }) => {
                return Sent {
                    line,
                    bytes: 0,
                    fate: Fate::Refused(reason),
                };
            }
            Err(InputError::Stop { line, reason }) => {
                return Sent {
                    line,
                    bytes: 0,
                    fate: Fate::Fatal(reason),
                };
            }
        };
        let (line, bytes) = (record.line, record.data_bytes());
        let mut sending = ProducerRecord::new(Arc::clone(topic));
        sending.partition = self.partition.map(PartitionId::new);
        sending.key = record.key;
        sending.value = record.value;
        sending.timestamp = record.timestamp_ms.map(Timestamp::new);
        sending.headers = record
            .headers
            .into_iter()
            .map(|(name, value)| RecordHeader {
                key: Bytes::from(name),
                value,
            })
            .collect();
        let fate = match producer.send(sending).await {
            Ok(delivery) => Fate::Waiting(delivery),
            Err(error) => Fate::of(&error),
        };
        Sent { line, bytes, fate }
    }

    /// Tells how it went, and picks the exit code.
    fn conclude(
        &self,
        tally: &Tally,
        elapsed: Duration,
        interrupted: Option<Exit>,
    ) -> anyhow::Result<Exit> {
        // With acks=0 nobody knows what is stored.
        let stored = (self.acks != Acks::None).then_some(tally.stored_to_line);
        if self.output == SummaryFormat::Json {
            print_json(&json!({
                "topic": self.topic,
                "delivered": tally.delivered,
                "failed": tally.failed,
                "bytes": tally.delivered_bytes,
                "elapsed_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                "stored_to_line": stored,
                "interrupted": interrupted.is_some(),
                "error": tally.fatal,
            }))?;
        } else if !self.quiet && (tally.delivered > 0 || tally.fatal.is_none()) {
            let verb = if stored.is_some() { "produced" } else { "sent" };
            let seconds = elapsed.as_secs_f64();
            let amount = rate(tally.delivered, tally.delivered_bytes, elapsed);
            eprintln!("{verb} to {}: {amount}, in {seconds:.2} s", self.topic);
        }
        if (tally.fatal.is_some() || interrupted.is_some())
            && let Some(line) = stored.filter(|line| *line > 0)
        {
            eprintln!("everything up to line {line} is stored");
        }
        if let Some(reason) = &tally.fatal {
            let others = tally.failed.saturating_sub(1);
            let more = if others > 0 {
                format!(" ({} failed)", counted(others, "other record"))
            } else {
                String::new()
            };
            anyhow::bail!("stopped at {reason}{more}");
        }
        if tally.failed > 0 {
            let were = if tally.failed == 1 { "was" } else { "were" };
            eprintln!("{} {were} not stored", counted(tally.failed, "record"));
        }
        if let Some(exit) = interrupted {
            return Ok(exit);
        }
        let tried = tally.failed.saturating_add(tally.delivered);
        Ok(match tally.failed {
            0 => Exit::Done,
            failed if failed == tried => Exit::Failed,
            _ => Exit::Partial,
        })
    }
}
