//! Settings of the client, its producer, reader and consumer, as data: each with its default, unit and range.
//!
//! Names are Kafka's where Kafka has the setting; serialized durations are whole milliseconds and
//! their names end in `_ms`. `validate` reports every problem at once.

mod consumer;

use std::time::Duration;

use logweir_proto::record::Compression;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use consumer::{ConsumerConfig, Delivery, OffsetReset};

/// 1 KiB.
const KIB: usize = 1024;
/// 1 MiB.
const MIB: usize = 1024 * KIB;
/// The largest time any setting may hold: 24 days, so that milliseconds fit in 31 bits as in Kafka.
const MAX_TIME: Duration = Duration::from_millis(i32::MAX as u64);
/// The largest request of a producer: a broker takes 16 MiB, of which some is not records.
const MOST_REQUEST_BYTES: usize = 16 * MIB - KIB;
/// How many batches of one producer a broker remembers per partition (KIP-98).
pub(crate) const DEDUPLICATION_WINDOW: usize = 5;

/// Settings of a connection.
///
/// ```
/// let config = logweir_client::ClientConfig { client_id: "billing".to_owned(), ..Default::default() };
/// config.validate().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// Sent with every request and shown in the broker's logs and quotas (`client.id`). Printable ASCII,
    /// at most 255 bytes. Default `logweir-client`.
    pub client_id: String,
    /// How long one attempt to connect may take, from 1 ms (`socket.connection.setup.timeout.ms`). Default 10 s.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    /// How long to wait for the answer to one request, from 1 ms (`request.timeout.ms`). Default 30 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,
    /// How often an idle connection is probed with an HTTP/2 ping, from 1 s. Default 20 s.
    #[serde(rename = "keepalive_interval_ms", with = "millis")]
    pub keepalive_interval: Duration,
    /// How long a probe may go unanswered until the connection counts as broken, from 1 ms. Default 10 s.
    #[serde(rename = "keepalive_timeout_ms", with = "millis")]
    pub keepalive_timeout: Duration,
    /// After how long a topic's description is asked for anew (`metadata.max.age.ms`), from 1 ms. Default 5 min.
    #[serde(rename = "metadata_max_age_ms", with = "millis")]
    pub metadata_max_age: Duration,
    /// The first wait before a request is tried again (`retry.backoff.ms`), doubling from there; from 1 ms. Default 100 ms.
    #[serde(rename = "retry_backoff_ms", with = "millis")]
    pub retry_backoff: Duration,
    /// The longest wait before a request is tried again (`retry.backoff.max.ms`). Default 1 s.
    #[serde(rename = "retry_backoff_max_ms", with = "millis")]
    pub retry_backoff_max: Duration,
    /// The largest response taken, in bytes, from 1 MiB. Default 64 MiB.
    pub max_response_bytes: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            client_id: "logweir-client".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            metadata_max_age: Duration::from_secs(300),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            max_response_bytes: 64 * MIB,
        }
    }
}

impl ClientConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// Of kind [`Invalid`](crate::ErrorKind::Invalid), listing all problems.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::new("client");
        let printable = self
            .client_id
            .bytes()
            .all(|byte| (0x20..0x7f).contains(&byte));
        problems.check(printable && self.client_id.len() <= 255, || {
            format!(
                "client_id {:?} is not up to 255 bytes of printable ASCII",
                self.client_id
            )
        });
        problems.time(
            "connect_timeout_ms",
            self.connect_timeout,
            Duration::from_millis(1),
        );
        problems.time(
            "request_timeout_ms",
            self.request_timeout,
            Duration::from_millis(1),
        );
        problems.time(
            "keepalive_interval_ms",
            self.keepalive_interval,
            Duration::from_secs(1),
        );
        problems.time(
            "keepalive_timeout_ms",
            self.keepalive_timeout,
            Duration::from_millis(1),
        );
        problems.time(
            "metadata_max_age_ms",
            self.metadata_max_age,
            Duration::from_millis(1),
        );
        problems.backoff(self.retry_backoff, self.retry_backoff_max);
        problems.size(
            "max_response_bytes",
            self.max_response_bytes,
            MIB,
            1024 * MIB,
        );
        problems.finish()
    }
}

/// When a produce request is answered (`acks`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Acks {
    /// Every in-sync replica has the records (-1). The default.
    #[default]
    All,
    /// The leader has the records (1); where the topic flushes per ack, its disk has them.
    Leader,
    /// Nothing is answered (0): a send succeeds once the connection has taken it, without an offset, and
    /// idempotence is off.
    None,
}

impl std::str::FromStr for Acks {
    type Err = Error;

    /// Reads `all` or `-1`, `leader` or `1`, `none` or `0`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" | "-1" => Ok(Self::All),
            "leader" | "1" => Ok(Self::Leader),
            "none" | "0" => Ok(Self::None),
            _ => Err(Error::invalid(format!(
                "acks {text:?} is not all (-1), leader (1) or none (0)"
            ))),
        }
    }
}

/// Settings of a producer.
///
/// ```
/// use std::time::Duration;
/// use logweir_client::{Acks, ProducerConfig};
///
/// let config = ProducerConfig { acks: Acks::Leader, linger: Duration::from_millis(20), ..Default::default() };
/// config.validate().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProducerConfig {
    /// When a send counts as done. Default [`Acks::All`].
    pub acks: Acks,
    /// Whether the broker drops what a retry repeats (`enable.idempotence`), so that retries neither double nor
    /// reorder records. Works with [`Acks::All`] and [`Acks::Leader`]; no effect with [`Acks::None`]. Default true.
    pub idempotence: bool,
    /// How batches are compressed (`compression.type`). Default none.
    #[serde(with = "compression")]
    pub compression: Compression,
    /// A batch is closed when the next record would make it larger than this, in bytes before compression, from 1 to
    /// `max_request_size` (`batch.size`). A larger record gets a batch of its own. Default 64 KiB.
    pub batch_size: usize,
    /// How long a record waits for its batch to fill (`linger.ms`). Default 5 ms.
    #[serde(rename = "linger_ms", with = "millis")]
    pub linger: Duration,
    /// Send without lingering while no request is in flight: at once, or after a millisecond if much was sent just
    /// before. A lone record is not delayed, and under load batches still fill. Not in Kafka. Default true.
    pub send_when_idle: bool,
    /// Bytes of records that may wait or be in flight (`buffer.memory`), from `max_request_size` to 2 GiB; past that
    /// [`send`](crate::Producer::send) waits. Default 32 MiB.
    pub buffer_memory: usize,
    /// The largest record, and the largest request in bytes before compression, from 1 KiB to 16 MiB
    /// less 1 KiB (`max.request.size`). Default 1 MiB.
    pub max_request_size: usize,
    /// Requests in flight, from 1 (`max.in.flight.requests.per.connection`); at most 5 with idempotence, else at most
    /// 1,000. Without idempotence, more than 1 lets a retry overtake. Default 5.
    pub max_in_flight: usize,
    /// How long to wait for the answer to one request; then the connection is given up and the request sent again
    /// (`request.timeout.ms`). From 1 ms to 5 min. Default 30 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,
    /// How long after [`send`](crate::Producer::send) a record is delivered or failed, all retries included
    /// (`delivery.timeout.ms`). At least `linger` + `request_timeout`. Default 2 min.
    #[serde(rename = "delivery_timeout_ms", with = "millis")]
    pub delivery_timeout: Duration,
    /// How long [`send`](crate::Producer::send) may wait for memory or for the topic's partitions (`max.block.ms`). Default 60 s.
    #[serde(rename = "max_block_ms", with = "millis")]
    pub max_block: Duration,
    /// The first wait before a batch is sent again (`retry.backoff.ms`), doubling from there; from 1 ms. Default 100 ms.
    #[serde(rename = "retry_backoff_ms", with = "millis")]
    pub retry_backoff: Duration,
    /// The longest wait before a batch is sent again (`retry.backoff.max.ms`). Default 1 s.
    #[serde(rename = "retry_backoff_max_ms", with = "millis")]
    pub retry_backoff_max: Duration,
    /// How often a topic or partition that the broker does not know is asked for again before the send fails. Kafka's
    /// client asks until the time is up, which turns a mistyped name into a minute of silence. Default 4.
    pub unknown_topic_retries: u32,
    /// Ask the broker to create missing topics on first use; it may refuse. Default true.
    pub auto_create_topics: bool,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotence: true,
            compression: Compression::None,
            batch_size: 64 * KIB,
            linger: Duration::from_millis(5),
            send_when_idle: true,
            buffer_memory: 32 * MIB,
            max_request_size: MIB,
            max_in_flight: 5,
            request_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(120),
            max_block: Duration::from_secs(60),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            unknown_topic_retries: 4,
            auto_create_topics: true,
        }
    }
}

impl ProducerConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// Of kind [`Invalid`](crate::ErrorKind::Invalid), listing all problems.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::new("producer");
        problems.size(
            "max_request_size",
            self.max_request_size,
            KIB,
            MOST_REQUEST_BYTES,
        );
        problems.size("batch_size", self.batch_size, 1, self.max_request_size);
        problems.size(
            "buffer_memory",
            self.buffer_memory,
            self.max_request_size,
            2048 * MIB,
        );
        let most_in_flight = if self.is_idempotent() {
            DEDUPLICATION_WINDOW
        } else {
            1_000
        };
        problems.size("max_in_flight", self.max_in_flight, 1, most_in_flight);
        problems.time("linger_ms", self.linger, Duration::ZERO);
        problems.time(
            "request_timeout_ms",
            self.request_timeout,
            Duration::from_millis(1),
        );
        problems.check(self.request_timeout <= Duration::from_secs(300), || {
            format!(
                "request_timeout_ms {} is above 300000",
                self.request_timeout.as_millis()
            )
        });
        let least = self.linger.saturating_add(self.request_timeout);
        problems.check(self.delivery_timeout >= least, || {
            format!(
                "delivery_timeout_ms {} is below linger_ms + request_timeout_ms, {}",
                self.delivery_timeout.as_millis(),
                least.as_millis()
            )
        });
        problems.time(
            "delivery_timeout_ms",
            self.delivery_timeout,
            Duration::from_millis(1),
        );
        problems.time("max_block_ms", self.max_block, Duration::ZERO);
        problems.backoff(self.retry_backoff, self.retry_backoff_max);
        problems.finish()
    }

    /// Whether batches carry a producer id: [`Self::idempotence`], unless nothing is answered.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.idempotence && self.acks != Acks::None
    }
}

/// Where to go on when the offset to read is not in the log: it was deleted, or was never written.
///
/// A log that has lost the end of what the reader has read (a power cut, where the topic leaves flushing to the system) is
/// a case of its own, told by leader epochs even if other records were written since. The reader then warns and goes on
/// where the two part, wherever that is (KIP-320); with [`Self::Error`] the error names that offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OutOfRange {
    /// At the first offset that can be read. The default: nothing that is still there is skipped.
    #[default]
    Earliest,
    /// At the end.
    Latest,
    /// Nowhere: the reader answers with an error of kind [`Data`](crate::ErrorKind::Data).
    Error,
}

/// Which records are shown (`isolation.level`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Isolation {
    /// Everything below the high watermark. The default.
    #[default]
    ReadUncommitted,
    /// Everything below the last stable offset.
    ReadCommitted,
}

/// Settings of a reader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderConfig {
    /// What to do when the offset to read is not in the log (`auto.offset.reset`). Default [`OutOfRange::Earliest`].
    pub out_of_range: OutOfRange,
    /// Which records are shown. Default [`Isolation::ReadUncommitted`].
    pub isolation: Isolation,
    /// The most bytes of one response (`fetch.max.bytes`), from 1 KiB to 50 MiB. A first batch larger than that is
    /// sent all the same. Default 1 MiB.
    pub fetch_max_bytes: usize,
    /// The most bytes of one partition in a response (`max.partition.fetch.bytes`), from 1 KiB to 50 MiB. Default 1 MiB.
    pub partition_fetch_max_bytes: usize,
    /// The most bytes one batch may take once unpacked; more is an error of kind [`Data`](crate::ErrorKind::Data), so
    /// that a small batch cannot fill the memory. From 1 KiB to 2 GiB. Default 64 MiB.
    pub max_decompressed_bytes: usize,
    /// Whether the checksum of each batch is verified (`check.crcs`). Default true.
    pub check_crcs: bool,
    /// For how long lost connections and other passing failures are retried before the caller is told; the reader can be
    /// asked again after that and goes on. Default 60 s.
    #[serde(rename = "retry_timeout_ms", with = "millis")]
    pub retry_timeout: Duration,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            out_of_range: OutOfRange::default(),
            isolation: Isolation::default(),
            fetch_max_bytes: MIB,
            partition_fetch_max_bytes: MIB,
            max_decompressed_bytes: 64 * MIB,
            check_crcs: true,
            retry_timeout: Duration::from_secs(60),
        }
    }
}

impl ReaderConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// Of kind [`Invalid`](crate::ErrorKind::Invalid), listing all problems.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::new("reader");
        problems.size("fetch_max_bytes", self.fetch_max_bytes, KIB, 50 * MIB);
        problems.size(
            "partition_fetch_max_bytes",
            self.partition_fetch_max_bytes,
            KIB,
            50 * MIB,
        );
        problems.size(
            "max_decompressed_bytes",
            self.max_decompressed_bytes,
            KIB,
            2048 * MIB,
        );
        problems.time("retry_timeout_ms", self.retry_timeout, Duration::ZERO);
        problems.finish()
    }
}

/// Collects what is wrong with a configuration.
struct Problems {
    what: &'static str,
    found: Vec<String>,
}

impl Problems {
    const fn new(what: &'static str) -> Self {
        Self {
            what,
            found: Vec::new(),
        }
    }

    fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.found.push(problem());
        }
    }

    fn size(&mut self, name: &str, value: usize, least: usize, most: usize) {
        self.check((least..=most).contains(&value), || {
            format!("{name} {value} is not between {least} and {most}")
        });
    }

    fn time(&mut self, name: &str, value: Duration, least: Duration) {
        self.check((least..=MAX_TIME).contains(&value), || {
            format!(
                "{name} {} is not between {} and {}",
                value.as_millis(),
                least.as_millis(),
                MAX_TIME.as_millis()
            )
        });
    }

    fn backoff(&mut self, first: Duration, max: Duration) {
        self.time("retry_backoff_ms", first, Duration::from_millis(1));
        self.check(max >= first && max <= MAX_TIME, || {
            format!(
                "retry_backoff_max_ms {} is not between retry_backoff_ms and {}",
                max.as_millis(),
                MAX_TIME.as_millis()
            )
        });
    }

    fn finish(self) -> Result<()> {
        if self.found.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{} settings: {}",
            self.what,
            self.found.join("; ")
        )))
    }
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// Compression by its lower-case name.
mod compression {
    use logweir_proto::record::Compression;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(which: &Compression, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(which)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Compression, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use logweir_proto::Timestamp;

    use super::*;

    fn check(result: Result<()>, expected: &[&str]) {
        match (result, expected) {
            (Ok(()), []) => {}
            (Ok(()), _) => panic!("valid, but {expected:?} was expected"),
            (Err(error), expected) => {
                assert!(!expected.is_empty(), "{error}");
                for part in expected {
                    assert!(error.message().contains(part), "{part:?} is not in {error}");
                }
            }
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        check(ClientConfig::default().validate(), &[]);
        check(ProducerConfig::default().validate(), &[]);
        check(ReaderConfig::default().validate(), &[]);
        check(ConsumerConfig::new("group").validate(), &[]);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = ProducerConfig {
            batch_size: 0,
            max_in_flight: 6,
            buffer_memory: 1,
            delivery_timeout: Duration::from_secs(1),
            retry_backoff: Duration::ZERO,
            ..Default::default()
        };
        let all = [
            "batch_size",
            "max_in_flight",
            "buffer_memory",
            "delivery_timeout_ms",
            "retry_backoff_ms",
        ];
        check(config.validate(), &all);
        let config = ClientConfig {
            client_id: "new\nline".to_owned(),
            max_response_bytes: 3,
            ..Default::default()
        };
        check(config.validate(), &["client_id", "max_response_bytes"]);
        let config = ReaderConfig {
            fetch_max_bytes: 0,
            max_decompressed_bytes: 1,
            ..Default::default()
        };
        check(
            config.validate(),
            &["fetch_max_bytes", "max_decompressed_bytes"],
        );
        let config = ConsumerConfig {
            max_poll_records: 0,
            close_timeout: Duration::ZERO,
            reader: config,
            ..Default::default()
        };
        let all = [
            "group_id",
            "max_poll_records",
            "close_timeout_ms",
            "fetch_max_bytes",
        ];
        check(config.validate(), &all);
    }

    #[test]
    fn more_requests_in_flight_are_allowed_without_idempotence() {
        let config = ProducerConfig {
            max_in_flight: 100,
            idempotence: false,
            ..Default::default()
        };
        check(config.validate(), &[]);
        let config = ProducerConfig {
            max_in_flight: 100,
            acks: Acks::None,
            ..Default::default()
        };
        check(config.validate(), &[]);
    }

    #[test]
    fn settings_are_written_and_read_as_data_and_unknown_ones_are_refused() {
        let config = ProducerConfig {
            compression: Compression::Zstd,
            linger: Duration::from_millis(7),
            acks: Acks::Leader,
            ..Default::default()
        };
        let text = serde_json::to_string(&config).unwrap();
        for part in [
            r#""linger_ms":7"#,
            r#""compression":"zstd""#,
            r#""acks":"leader""#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(
            serde_json::from_str::<ProducerConfig>(&text).unwrap(),
            config
        );
        let partly: ReaderConfig = serde_json::from_str(r#"{"out_of_range":"latest"}"#).unwrap();
        assert_eq!(
            partly,
            ReaderConfig {
                out_of_range: OutOfRange::Latest,
                ..Default::default()
            }
        );
        let consumer: ConsumerConfig = serde_json::from_str(
            r#"{"group_id":"g","delivery":"at_most_once","auto_offset_reset":{"timestamp_ms":7}}"#,
        )
        .unwrap();
        assert_eq!(consumer.delivery, Delivery::AtMostOnce);
        assert_eq!(
            consumer.auto_offset_reset,
            OffsetReset::Timestamp(Timestamp::new(7))
        );
        assert!(serde_json::from_str::<ProducerConfig>(r#"{"linger":7}"#).is_err());
    }

    #[test]
    fn acks_are_read_by_name_and_by_kafkas_number() {
        for (text, acks) in [
            ("all", Acks::All),
            ("-1", Acks::All),
            ("1", Acks::Leader),
            ("none", Acks::None),
        ] {
            assert_eq!(text.parse::<Acks>().unwrap(), acks);
        }
        assert!("2".parse::<Acks>().is_err());
    }
}
