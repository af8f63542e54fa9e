//! Settings of a group consumer.

use std::time::Duration;

use logweir_proto::Timestamp;
use serde::{Deserialize, Serialize};

use super::{OutOfRange, Problems, ReaderConfig, millis};
use crate::error::Result;

/// The longest names that a group knows members by, in bytes.
const MAX_NAME: usize = 4_096;

/// What a consumer that stops or is cut off makes of the records it was working on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Delivery {
    /// Nothing is lost: a position is committed after its records were handled, and those whose commit did not happen are
    /// handed out again, to this or another member. The default.
    #[default]
    AtLeastOnce,
    /// Nothing is repeated: a position is committed before its records are handed out, and those that were not handled
    /// after that are lost. Marks and automatic commits have no effect.
    AtMostOnce,
}

/// Where a group begins to read a partition for which it has committed nothing (`auto.offset.reset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OffsetReset {
    /// At the first record there is. The default, so that no record is missed; Kafka's is the end.
    #[default]
    Earliest,
    /// At the end.
    Latest,
    /// At the first record whose timestamp is at or above this; at the end if there is none.
    #[serde(rename = "timestamp_ms", with = "timestamp")]
    Timestamp(Timestamp),
    /// Nowhere: polling gives an error of kind [`Data`](crate::ErrorKind::Data) until the partition is sought.
    Error,
}

/// Settings of a consumer.
///
/// ```
/// use logweir_client::{ConsumerConfig, Delivery};
///
/// let config = ConsumerConfig { delivery: Delivery::AtMostOnce, ..ConsumerConfig::new("billing") };
/// config.validate().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsumerConfig {
    /// The group (`group.id`), 1 to 4,096 bytes.
    pub group_id: String,
    /// Makes the consumer a static member (`group.instance.id`): when it closes, its partitions are kept for the next
    /// consumer with this id until its session times out. Default none.
    pub instance_id: Option<String>,
    /// Where it runs (`client.rack`). Default none.
    pub rack_id: Option<String>,
    /// How partitions are shared out (`group.remote.assignor`): `uniform` or `range`. Default none, which leaves it to the
    /// broker.
    pub server_assignor: Option<String>,
    /// Whether records may be lost or repeated when a member stops. Default [`Delivery::AtLeastOnce`].
    pub delivery: Delivery,
    /// Where to begin without a committed offset, and where to go on if an offset is not in the log; a time stands for the
    /// first record there. Default [`OffsetReset::Earliest`].
    pub auto_offset_reset: OffsetReset,
    /// Whether what is marked is committed by itself (`enable.auto.commit`): by interval, by number, before partitions are
    /// let go of, and on closing. Default true.
    pub auto_commit: bool,
    /// How often to commit what is marked (`auto.commit.interval.ms`), from 1 ms. Default 5 s.
    #[serde(rename = "auto_commit_interval_ms", with = "millis")]
    pub auto_commit_interval: Duration,
    /// Also commit each time so many records have been marked; 0 for never. Default 0.
    pub commit_every: u64,
    /// Whether a poll marks what the last one handed out. Without it the application marks what it is done with, which it has
    /// to if it polls on while it is at work, such as with a stream that is buffered.
    /// Default true.
    pub auto_mark: bool,
    /// The most records of one poll (`max.poll.records`), from 1 to 1,000,000. Default 500.
    pub max_poll_records: usize,
    /// How long the consumer may go without a poll or a keep-alive before the group takes its partitions
    /// (`max.poll.interval.ms`), and how long it may take to let go of partitions; from 10 ms. Default 5 min.
    #[serde(rename = "max_poll_interval_ms", with = "millis")]
    pub max_poll_interval: Duration,
    /// How long a commit may take, retries and those before it included (`default.api.timeout.ms`), from 1 ms.
    /// Default 60 s.
    #[serde(rename = "commit_timeout_ms", with = "millis")]
    pub commit_timeout: Duration,
    /// How long closing may take, from 1 ms. Default 30 s.
    #[serde(rename = "close_timeout_ms", with = "millis")]
    pub close_timeout: Duration,
    /// How records are fetched. Its `out_of_range` is not used: `auto_offset_reset` decides. Its `retry_timeout` also says
    /// after how long a poll tells that the group's coordinator cannot be reached.
    pub reader: ReaderConfig,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group_id: String::new(),
            instance_id: None,
            rack_id: None,
            server_assignor: None,
            delivery: Delivery::default(),
            auto_offset_reset: OffsetReset::default(),
            auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            commit_every: 0,
            auto_mark: true,
            max_poll_records: 500,
            max_poll_interval: Duration::from_secs(300),
            commit_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(30),
            reader: ReaderConfig::default(),
        }
    }
}

impl ConsumerConfig {
    /// The default settings for a group.
    pub fn new(group_id: impl Into<String>) -> Self {
        Self {
            group_id: group_id.into(),
            ..Self::default()
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Of kind [`Invalid`](crate::ErrorKind::Invalid), listing all problems.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::new("consumer");
        let mut name = |what: &str, value: Option<&str>| {
            let fits = value.is_none_or(|value| (1..=MAX_NAME).contains(&value.len()));
            problems.check(fits, || format!("{what} is not 1 to {MAX_NAME} bytes long"));
        };
        name("group_id", Some(&self.group_id));
        name("instance_id", self.instance_id.as_deref());
        name("rack_id", self.rack_id.as_deref());
        name("server_assignor", self.server_assignor.as_deref());
        problems.size("max_poll_records", self.max_poll_records, 1, 1_000_000);
        for (name, time, least) in [
            ("auto_commit_interval_ms", self.auto_commit_interval, 1),
            ("max_poll_interval_ms", self.max_poll_interval, 10),
            ("commit_timeout_ms", self.commit_timeout, 1),
            ("close_timeout_ms", self.close_timeout, 1),
        ] {
            problems.time(name, time, Duration::from_millis(least));
        }
        if let Err(error) = self.reader.validate() {
            problems.check(false, || error.message().to_owned());
        }
        problems.finish()
    }

    /// Whether marks are committed by themselves.
    pub(crate) fn commits_marks(&self) -> bool {
        self.auto_commit && self.delivery == Delivery::AtLeastOnce
    }

    /// How the reader is to work.
    pub(crate) fn reader_config(&self) -> ReaderConfig {
        ReaderConfig {
            out_of_range: match self.auto_offset_reset {
                OffsetReset::Earliest | OffsetReset::Timestamp(_) => OutOfRange::Earliest,
                OffsetReset::Latest => OutOfRange::Latest,
                OffsetReset::Error => OutOfRange::Error,
            },
            ..self.reader.clone()
        }
    }
}

/// A timestamp in milliseconds.
mod timestamp {
    use logweir_proto::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(time.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(Timestamp::new)
    }
}
