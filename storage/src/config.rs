//! Settings of a log and of a data directory, as plain data.
//!
//! The broker translates Kafka's names into these; nothing here reads a file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use logweir_proto::record::TimestampType;

/// The largest `segment_bytes` (as in Kafka): positions within a segment fit 31 bits.
pub const MAX_SEGMENT_BYTES: u64 = 0x7fff_ffff;

/// When appended records are made durable. All off is Kafka's default: when the operating system likes
/// (and at the latest when [`LogDirConfig::max_unflushed_bytes`] are waiting).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Every append asks for a sync; the group-commit thread serves all that wait with one.
    pub per_ack: bool,
    /// A sync is asked for when this many records are not durable (Kafka's `flush.messages`).
    pub records: Option<u64>,
    /// A sync is asked for at the latest this long after an append (Kafka's `flush.ms`).
    pub interval: Option<Duration>,
}

impl FlushPolicy {
    /// Left to the operating system.
    pub const OS: Self = Self {
        per_ack: false,
        records: None,
        interval: None,
    };
    /// Nothing is told to be done before it is durable.
    pub const PER_ACK: Self = Self {
        per_ack: true,
        records: None,
        interval: None,
    };
}

/// What becomes of old records (Kafka's `cleanup.policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CleanupPolicy {
    /// Segments beyond `retention` or `retention_bytes` go.
    #[default]
    Delete,
    /// The last record of each key stays.
    Compact,
    /// Both.
    CompactAndDelete,
}

impl CleanupPolicy {
    /// Whether only the last record of each key stays.
    #[must_use]
    pub const fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }

    /// Whether segments go by age and size.
    #[must_use]
    pub const fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }
}

/// A part of a whole, from 0 to 1, to a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio {
    millionths: u32,
}

impl Ratio {
    const WHOLE: u32 = 1_000_000;
    /// One half.
    pub const HALF: Self = Self {
        millionths: Self::WHOLE / 2,
    };

    /// A ratio of so many hundredths, at most 100.
    #[must_use]
    pub const fn percent(hundredths: u8) -> Self {
        let hundredths = if hundredths > 100 { 100 } else { hundredths };
        Self {
            millionths: hundredths as u32 * (Self::WHOLE / 100),
        }
    }

    /// Whether `part` of `part + rest` is more than this; never if both are none.
    pub(crate) fn is_exceeded_by(self, part: u64, rest: u64) -> bool {
        let whole = u128::from(part) + u128::from(rest);
        u128::from(part) * u128::from(Self::WHOLE) > u128::from(self.millionths) * whole
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.millionths / Self::WHOLE, self.millionths % Self::WHOLE);
        let digits = format!("{part:06}");
        let digits = digits.trim_end_matches('0');
        write!(
            f,
            "{whole}.{}",
            if digits.is_empty() { "0" } else { digits }
        )
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is not a number from 0 to 1, such as 0.5");
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(part) || part.len() > 6 {
            return Err(refused());
        }
        let whole: u32 = whole.parse().map_err(|_| refused())?;
        let part: u32 = format!("{part:0<6}").parse().map_err(|_| refused())?;
        let millionths = whole
            .checked_mul(Self::WHOLE)
            .and_then(|whole| whole.checked_add(part));
        let millionths = millionths.filter(|&millionths| millionths <= Self::WHOLE);
        millionths
            .map(|millionths| Self { millionths })
            .ok_or_else(refused)
    }
}

/// Settings of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment is closed before it would grow beyond this many bytes (Kafka's `segment.bytes`), at most
    /// [`MAX_SEGMENT_BYTES`]. A larger batch is refused when it comes from a producer, and gets a segment of
    /// its own when it comes from a leader.
    pub segment_bytes: u64,
    /// A segment is closed this long after its first append (Kafka's `segment.ms`).
    pub segment_age: Duration,
    /// About one index entry for this many bytes (Kafka's `index.interval.bytes`).
    pub index_interval_bytes: u32,
    /// What becomes of old records (Kafka's `cleanup.policy`).
    pub cleanup_policy: CleanupPolicy,
    /// Where the log is compacted: tombstones stay so long after the compaction that first met them (Kafka's
    /// `delete.retention.ms`), so that every reader who reads from the beginning within this time sees them.
    pub delete_retention: Duration,
    /// Where the log is compacted: records younger than this are left alone (Kafka's `min.compaction.lag.ms`).
    pub min_compaction_lag: Duration,
    /// Where the log is compacted: a record becomes due after this, whatever the ratio, and the active segment is
    /// closed at this age (Kafka's `max.compaction.lag.ms`); `None` waits for the ratio.
    pub max_compaction_lag: Option<Duration>,
    /// Where the log is compacted: it is when more than this part of it was not yet (Kafka's
    /// `min.cleanable.dirty.ratio`).
    pub min_cleanable_dirty_ratio: Ratio,
    /// Records older than this may go (Kafka's `retention.ms`), where the policy deletes; `None` keeps them.
    pub retention: Option<Duration>,
    /// Old segments may go while the log keeps at least this many bytes (Kafka's `retention.bytes`), where the policy
    /// deletes.
    pub retention_bytes: Option<u64>,
    /// When appended records are made durable.
    pub flush: FlushPolicy,
    /// Whether records keep the producer's time or get the broker's (Kafka's `message.timestamp.type`).
    pub timestamp_type: TimestampType,
    /// A producer id not seen for this long is forgotten (Kafka's `producer.id.expiration.ms`).
    pub producer_expiry: Duration,
}

impl LogConfig {
    /// `segment_bytes` within what positions can tell.
    pub(crate) fn max_segment_bytes(&self) -> u64 {
        self.segment_bytes.min(MAX_SEGMENT_BYTES)
    }

    /// The age at which the active segment is closed.
    pub(crate) fn max_segment_age(&self) -> Duration {
        match self.max_compaction_lag {
            Some(lag) if self.cleanup_policy.compacts() => self.segment_age.min(lag),
            _ => self.segment_age,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            segment_bytes: 128 << 20,
            segment_age: 7 * DAY,
            index_interval_bytes: 4096,
            cleanup_policy: CleanupPolicy::Delete,
            delete_retention: DAY,
            min_compaction_lag: Duration::ZERO,
            max_compaction_lag: None,
            min_cleanable_dirty_ratio: Ratio::HALF,
            retention: Some(7 * DAY),
            retention_bytes: None,
            flush: FlushPolicy::OS,
            timestamp_type: TimestampType::CreateTime,
            producer_expiry: DAY,
        }
    }
}

/// Settings of one data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirConfig {
    /// Bytes that may wait to be made durable, over all logs, so that recovery after a crash is bounded.
    pub max_unflushed_bytes: u64,
    /// Size of the reserve file that is given up when the disk is full, so that metadata and retention go on.
    /// At most a 64th of the disk is taken.
    pub reserve_bytes: u64,
    /// How often the recovery points are written.
    pub checkpoint_interval: Duration,
    /// How many closed segments may be mapped at once; `None` takes a quarter of the kernel's
    /// `max_map_count`.
    pub max_mapped_segments: Option<usize>,
    /// How many logs may keep their newest segment open while nothing is appended; `None` takes half of the
    /// process's limit of open files.
    pub max_open_logs: Option<usize>,
    /// Bytes that the keys of one compaction may take in memory (Kafka's `log.cleaner.dedupe.buffer.size`): each takes
    /// its length and about 25 bytes. What does not fit is compacted in another pass over the log. One key always fits.
    pub compaction_buffer_bytes: usize,
    /// Whether the directory runs threads of its own. Without them nothing is flushed, reserved ahead or
    /// checkpointed until [`LogDir::drive`](crate::LogDir::drive) is called: for simulations.
    pub threads: bool,
    /// Whether an append that asks for a flush carries it out itself for as long as the disk does not wait
    /// ([`Disk::may_wait`](crate::disk::Disk::may_wait)): where the disk is memory, the group-commit thread would cost
    /// more than the flush. Then nobody calls back: the log's durable end tells.
    pub flush_in_append: bool,
}

impl Default for LogDirConfig {
    fn default() -> Self {
        Self {
            max_unflushed_bytes: 256 << 20,
            reserve_bytes: 8 << 20,
            checkpoint_interval: Duration::from_secs(60),
            max_mapped_segments: None,
            max_open_logs: None,
            compaction_buffer_bytes: 128 << 20,
            threads: true,
            flush_in_append: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_read_as_it_is_written() {
        for text in ["0.0", "0.5", "1.0", "0.000001", "0.25"] {
            let ratio: Ratio = text.parse().unwrap();
            assert_eq!(ratio.to_string(), text);
        }
        assert_eq!("1".parse(), Ok(Ratio::percent(100)));
        assert_eq!("0.50".parse(), Ok(Ratio::HALF));
        for text in [
            "",
            "1.1",
            "-0.5",
            "0.",
            ".5",
            "0,5",
            "half",
            "1e-3",
            "0.0000001",
        ] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_ratio_is_exceeded_only_by_more() {
        assert!(!Ratio::HALF.is_exceeded_by(5, 5));
        assert!(Ratio::HALF.is_exceeded_by(6, 5));
        assert!(!Ratio::percent(0).is_exceeded_by(0, 5));
        assert!(!Ratio::percent(0).is_exceeded_by(0, 0));
        assert!(Ratio::percent(0).is_exceeded_by(1, u64::MAX));
        assert!(!Ratio::percent(100).is_exceeded_by(u64::MAX, 0));
    }
}
