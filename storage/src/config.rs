//! Settings of a log and of a data directory, as plain data.
//!
//! The broker translates Kafka's names into these; nothing here reads a file.

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
    /// Records older than this may go (Kafka's `retention.ms`); `None` keeps them.
    pub retention: Option<Duration>,
    /// Old segments may go while the log keeps at least this many bytes (Kafka's `retention.bytes`).
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
}

impl Default for LogConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            segment_bytes: 128 << 20,
            segment_age: 7 * DAY,
            index_interval_bytes: 4096,
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
            threads: true,
            flush_in_append: false,
        }
    }
}
