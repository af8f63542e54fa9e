//! Settings and limits of groups and offsets, by Kafka's names, and the two parts that are handed in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

/// Settings of groups; each is the Kafka setting named beside it.
#[derive(Clone, Debug)]
pub(crate) struct GroupConfig {
    /// `group.min.session.timeout.ms`: what a classic member may ask for at least.
    pub(crate) min_session_timeout: Duration,
    /// `group.max.session.timeout.ms`: and at most.
    pub(crate) max_session_timeout: Duration,
    /// `group.initial.rebalance.delay.ms`: how long a new classic group waits for more members.
    pub(crate) initial_rebalance_delay: Duration,
    /// `group.max.size`: members of a classic group.
    pub(crate) max_size: usize,
    /// `group.consumer.max.size`: members of a KIP-848 group.
    pub(crate) consumer_max_size: usize,
    /// `group.consumer.session.timeout.ms`.
    pub(crate) consumer_session_timeout: Duration,
    /// `group.consumer.heartbeat.interval.ms`, told to members; also how long a heartbeat may wait for news.
    pub(crate) consumer_heartbeat_interval: Duration,
    /// KIP-848 groups of so many members are assigned anew at most once in a while. No setting: smaller ones lose nothing by
    /// being assigned at each change.
    pub(crate) consumer_batched_size: usize,
    /// That while, for each member; at most the heartbeat interval in all.
    pub(crate) consumer_assignment_pause: Duration,
    /// How long the join of a classic member that never heartbeat may wait: 5 minutes, as in Kafka.
    pub(crate) new_member_join_timeout: Duration,
    /// `offset.metadata.max.bytes`.
    pub(crate) offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`.
    pub(crate) offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`.
    pub(crate) offsets_retention_check_interval: Duration,
    /// The most bytes of one decision's records; what needs more is refused.
    pub(crate) max_batch_bytes: usize,
    /// The most bytes of a classic member's protocols, names and metadata together.
    pub(crate) max_protocol_bytes: usize,
    /// How patterns of topic names are read; `None` refuses them.
    pub(crate) patterns: Option<ReadPattern>,
}

/// Reads a pattern (RE2's syntax, as KIP-848 has it) into what tells whether a topic's name matches. Who hands one in
/// answers for its bounds.
pub(crate) type ReadPattern = fn(&str) -> Result<Pattern, String>;

/// Tells whether a topic's name matches.
#[derive(Clone)]
pub(crate) struct Pattern(pub(crate) Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pattern")
    }
}

/// Where new members' ids come from: handed in, so that a seed replays a run.
pub(crate) type NewUuid = Box<dyn FnMut() -> Uuid + Send>;

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            min_session_timeout: Duration::from_secs(6),
            max_session_timeout: Duration::from_secs(30 * 60),
            initial_rebalance_delay: Duration::from_secs(3),
            max_size: 10_000,
            consumer_max_size: 10_000,
            consumer_session_timeout: Duration::from_secs(45),
            consumer_heartbeat_interval: Duration::from_secs(5),
            consumer_batched_size: 250,
            consumer_assignment_pause: Duration::from_millis(1),
            new_member_join_timeout: Duration::from_secs(5 * 60),
            offset_metadata_max_bytes: 4_096,
            offsets_retention: Duration::from_secs(7 * 86_400),
            offsets_retention_check_interval: Duration::from_secs(600),
            max_batch_bytes: 1_000_000,
            max_protocol_bytes: 512 << 10,
            patterns: Some(super::patterns::read_pattern),
        }
    }
}
