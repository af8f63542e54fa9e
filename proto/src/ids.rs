//! Ids, offsets and epochs as types of their own, so that two numbers cannot be mixed up.
//!
//! Raw integers exist only inside encoders; `new` and `get` are the doors.

use std::fmt;

use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            /// Wraps the raw number as it stands on the wire.
            #[must_use]
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The raw number as it stands on the wire.
            #[must_use]
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A position in a partition's log. An "end" offset is always exclusive.
    Offset(i64)
}
id! {
    /// The term of one leader of a partition; `-1` means unknown (KIP-101).
    LeaderEpoch(i32)
}
id! {
    /// The number of a partition within its topic, from 0.
    PartitionId(i32)
}
id! {
    /// A broker's id, from 0.
    NodeId(i32)
}
id! {
    /// The registration of one run of a broker; later registrations are greater.
    BrokerEpoch(i64)
}
id! {
    /// Names an idempotent producer; `-1` means none (KIP-98).
    ProducerId(i64)
}
id! {
    /// Fences older instances of a producer id; `-1` means none (KIP-98).
    ProducerEpoch(i16)
}
id! {
    /// The number of a producer's record in its partition; wraps from `i32::MAX` to 0; `-1` means none.
    Sequence(i32)
}
id! {
    /// Milliseconds since 1970-01-01 UTC; `-1` means none.
    Timestamp(i64)
}

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Self = Self(0);
    /// The largest offset; reading from it finds nothing.
    pub const MAX: Self = Self(i64::MAX);

    /// This offset moved on by `records`, saturating at [`Offset::MAX`].
    #[must_use]
    pub const fn plus(self, records: i64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// How many offsets lie from `earlier` (inclusive) to this one (exclusive); negative if this is below.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl LeaderEpoch {
    /// No epoch known.
    pub const NONE: Self = Self(-1);
}

impl ProducerId {
    /// The batch has no producer id.
    pub const NONE: Self = Self(-1);
}

impl ProducerEpoch {
    /// The batch has no producer epoch.
    pub const NONE: Self = Self(-1);
}

impl Sequence {
    /// The batch has no sequence.
    pub const NONE: Self = Self(-1);

    /// This sequence moved on by `records` (at or above 0), wrapping from `i32::MAX` to 0 as Kafka does.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the modulus keeps it within i32"
    )]
    pub const fn plus(self, records: i32) -> Self {
        Self(((self.0 as i64 + records as i64) % (i32::MAX as i64 + 1)) as i32)
    }
}

impl Timestamp {
    /// No timestamp.
    pub const NONE: Self = Self(-1);
}

/// A topic's identity (KIP-516): a topic deleted and created anew under one name gets another.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId([u8; 16]);

impl TopicId {
    /// No topic id.
    pub const ZERO: Self = Self([0; 16]);

    /// Wraps the sixteen bytes as they stand on the wire.
    #[must_use]
    pub const fn new(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    /// A new random id (UUID version 4).
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().into_bytes())
    }

    /// Reads sixteen bytes; `None` for any other length.
    #[must_use]
    pub fn from_slice(raw: &[u8]) -> Option<Self> {
        raw.try_into().ok().map(Self)
    }

    /// The sixteen bytes as they stand on the wire.
    #[must_use]
    pub const fn get(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_wraps_to_zero_after_the_largest() {
        assert_eq!(Sequence::new(i32::MAX).plus(1), Sequence::new(0));
        assert_eq!(Sequence::new(i32::MAX - 1).plus(3), Sequence::new(1));
        assert_eq!(Sequence::new(5).plus(0), Sequence::new(5));
    }

    #[test]
    fn an_offset_saturates_at_the_end_of_its_range() {
        assert_eq!(Offset::MAX.plus(1), Offset::MAX);
        assert_eq!(Offset::new(10).since(Offset::new(4)), 6);
    }
}
