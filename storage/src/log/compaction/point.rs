//! Up to where a log was compacted: a small file of the log's own, and what it says.
//!
//! It may be too low, or lost: then records are looked at once more. It is never too high: it is written when all
//! below it is compacted, and does not count after a truncation.

use logweir_proto::{Offset, Timestamp};

use crate::checked_file::{self, Damage, Fields, magic};

const VERSION: u16 = 1;

/// How far compaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompactionPoint {
    /// Truncations of the log when this was written; after another it does not count.
    pub(crate) truncations: u32,
    /// Below it no key has two records (exclusive).
    pub(crate) end: Offset,
    /// When the last of the tombstones below may go; [`Timestamp::NONE`] if there are none.
    pub(crate) newest_horizon: Timestamp,
}

impl CompactionPoint {
    /// Nothing was compacted.
    pub(crate) const NONE: Self = Self {
        truncations: 0,
        end: Offset::ZERO,
        newest_horizon: Timestamp::NONE,
    };

    /// What counts of it in a log that was truncated so often.
    pub(crate) fn after(self, truncations: u32) -> Self {
        match self.truncations == truncations {
            true => self,
            false => Self {
                truncations,
                ..Self::NONE
            },
        }
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(20);
        body.extend_from_slice(&self.truncations.to_be_bytes());
        body.extend_from_slice(&self.end.get().to_be_bytes());
        body.extend_from_slice(&self.newest_horizon.get().to_be_bytes());
        checked_file::frame(magic::COMPACTION, VERSION, &body)
    }

    /// Reads the file's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let (_, body) = checked_file::unframe(magic::COMPACTION, VERSION, bytes)?;
        let mut fields = Fields::new(body);
        let point = Self {
            truncations: fields.u32()?,
            end: Offset::new(fields.i64()?),
            newest_horizon: Timestamp::new(fields.i64()?),
        };
        fields.end()?;
        Ok(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_given_back_and_does_not_count_after_a_truncation() {
        let point = CompactionPoint {
            truncations: 3,
            end: Offset::new(99),
            newest_horizon: Timestamp::new(1_000),
        };
        assert_eq!(CompactionPoint::decode(&point.encode()), Ok(point));
        assert_eq!(point.after(3), point);
        assert_eq!(point.after(4).end, Offset::ZERO);
    }
}
