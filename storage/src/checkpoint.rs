//! Up to where logs are known to be durable, and where they start: the two files recovery begins with.
//!
//! `recovery-points` is one file for all logs of a directory, written now and then. `log-state` is a file of one
//! log, written before its start offset rises or its end falls. A recovery point from before a truncation is
//! told by the count of truncations and capped by the cut.

use std::collections::BTreeMap;

use logweir_proto::{Offset, PartitionId, TopicId};

use crate::checked_file::{self, Damage, Fields, magic};

const VERSION: u16 = 1;
/// Topic id (16), partition (4), truncations (4), offset (8), flags (4).
pub(crate) const ENTRY_LEN: usize = 36;
const CLEAN: u32 = 1;
const RESTARTING: u32 = 1;
const HAS_GAPS: u32 = 2;

/// Names a log within a data directory, whatever its topic is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogKey {
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
}

/// Up to where one log was durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecoveryPoint {
    /// Truncations of the log when this was written.
    pub(crate) truncations: u32,
    /// Below it everything was durable (exclusive).
    pub(crate) offset: Offset,
    /// The log was closed and ends exactly there. Counts only with the clean-shutdown file.
    pub(crate) clean: bool,
}

impl RecoveryPoint {
    /// Whether both speak of the same beginning of the same log.
    pub(crate) fn is_as_far_as(&self, other: &Self) -> bool {
        (self.truncations, self.offset) == (other.truncations, other.offset)
    }
}

/// The recovery points of all logs of a directory.
pub(crate) type RecoveryPoints = BTreeMap<LogKey, RecoveryPoint>;

/// The bytes of `recovery-points`.
pub(crate) fn encode_points(points: &RecoveryPoints) -> Vec<u8> {
    let mut body = Vec::with_capacity(points.len() * ENTRY_LEN);
    for (key, point) in points {
        body.extend_from_slice(&key.topic_id.get());
        body.extend_from_slice(&key.partition.get().to_be_bytes());
        body.extend_from_slice(&point.truncations.to_be_bytes());
        body.extend_from_slice(&point.offset.get().to_be_bytes());
        let flags = if point.clean { CLEAN } else { 0 };
        body.extend_from_slice(&flags.to_be_bytes());
    }
    checked_file::frame(magic::RECOVERY_POINTS, VERSION, &body)
}

/// Reads the bytes of `recovery-points`.
pub(crate) fn decode_points(bytes: &[u8]) -> Result<RecoveryPoints, Damage> {
    let (_, body) = checked_file::unframe(magic::RECOVERY_POINTS, VERSION, bytes)?;
    let mut fields = Fields::new(body);
    let mut points = RecoveryPoints::new();
    while !fields.is_empty() {
        let topic_id = TopicId::new(fields.array()?);
        let partition = PartitionId::new(fields.i32()?);
        let truncations = fields.u32()?;
        let offset = Offset::new(fields.i64()?);
        let clean = fields.u32()? & CLEAN != 0;
        points.insert(
            LogKey {
                topic_id,
                partition,
            },
            RecoveryPoint {
                truncations,
                offset,
                clean,
            },
        );
    }
    Ok(points)
}

/// What one log keeps besides its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    /// Nothing below it may be read.
    pub(crate) log_start: Offset,
    /// How often the log was truncated.
    pub(crate) truncations: u32,
    /// Where it was cut last; recovery points from before are no higher than this.
    pub(crate) last_cut: Offset,
    /// The log begins anew at its start: whatever segments there are do not count.
    pub(crate) restarting: bool,
    /// Offsets may be missing between batches: a leader's compacted batches were copied, or the log was compacted.
    /// Without it recovery takes a gap for damage, since base offsets are not under the CRC.
    pub(crate) has_gaps: bool,
}

impl Default for LogState {
    fn default() -> Self {
        Self {
            log_start: Offset::ZERO,
            truncations: 0,
            last_cut: Offset::ZERO,
            restarting: false,
            has_gaps: false,
        }
    }
}

impl LogState {
    /// The offset below which the log must be whole.
    pub(crate) fn recovery_offset(&self, point: Option<&RecoveryPoint>) -> Offset {
        match point {
            Some(point) if point.truncations == self.truncations => point.offset,
            Some(point) => point.offset.min(self.last_cut),
            None => Offset::ZERO,
        }
    }

    /// The bytes of `log-state`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(24);
        body.extend_from_slice(&self.log_start.get().to_be_bytes());
        body.extend_from_slice(&self.truncations.to_be_bytes());
        body.extend_from_slice(&self.last_cut.get().to_be_bytes());
        let restarting = if self.restarting { RESTARTING } else { 0 };
        let has_gaps = if self.has_gaps { HAS_GAPS } else { 0 };
        body.extend_from_slice(&(restarting | has_gaps).to_be_bytes());
        checked_file::frame(magic::LOG_STATE, VERSION, &body)
    }

    /// Reads the bytes of `log-state`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let (_, body) = checked_file::unframe(magic::LOG_STATE, VERSION, bytes)?;
        let mut fields = Fields::new(body);
        let log_start = Offset::new(fields.i64()?);
        let truncations = fields.u32()?;
        let last_cut = Offset::new(fields.i64()?);
        let flags = fields.u32()?;
        let (restarting, has_gaps) = (flags & RESTARTING != 0, flags & HAS_GAPS != 0);
        fields.end()?;
        Ok(Self {
            log_start,
            truncations,
            last_cut,
            restarting,
            has_gaps,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_points_are_given_back() {
        let key = LogKey {
            topic_id: TopicId::new([7; 16]),
            partition: PartitionId::new(3),
        };
        let point = RecoveryPoint {
            truncations: 2,
            offset: Offset::new(99),
            clean: true,
        };
        let points = RecoveryPoints::from([(key, point)]);
        assert_eq!(decode_points(&encode_points(&points)), Ok(points));
    }

    #[test]
    fn a_point_from_before_a_truncation_is_capped_by_the_cut() {
        let state = LogState {
            log_start: Offset::ZERO,
            truncations: 2,
            last_cut: Offset::new(50),
            restarting: true,
            has_gaps: true,
        };
        assert_eq!(LogState::decode(&state.encode()), Ok(state));
        let point = |truncations, offset| RecoveryPoint {
            truncations,
            offset: Offset::new(offset),
            clean: false,
        };
        assert_eq!(state.recovery_offset(Some(&point(1, 80))), Offset::new(50));
        assert_eq!(state.recovery_offset(Some(&point(1, 30))), Offset::new(30));
        assert_eq!(state.recovery_offset(Some(&point(2, 80))), Offset::new(80));
        assert_eq!(state.recovery_offset(None), Offset::ZERO);
    }
}
