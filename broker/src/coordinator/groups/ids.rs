//! Names and numbers of groups as types, so that a generation is not taken for an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use logweir_proto::{PartitionId, TopicId};

/// A group's id; 1 to [`MAX_NAME_BYTES`] bytes.
pub(crate) type GroupId = Arc<str>;
/// A member's id; empty if it has none yet.
pub(crate) type MemberId = Arc<str>;
/// What a static member calls itself over restarts (KIP-345).
pub(crate) type InstanceId = Arc<str>;

/// The most bytes of an id, a client's name or address, a rack, a protocol's or an assignor's name, or a pattern.
pub(crate) const MAX_NAME_BYTES: usize = 4_096;

/// The most bytes of a classic member's id: the coordinator makes it of a name and a UUID.
pub(crate) const MAX_MEMBER_ID_BYTES: usize = MAX_NAME_BYTES + 37;

/// The generation of a classic group; -1 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation(i32);

impl Generation {
    pub(crate) const fn new(raw: i32) -> Self {
        Self(raw)
    }

    pub(crate) const fn get(self) -> i32 {
        self.0
    }

    /// The next one; wraps to 0, never to the negative numbers that have meanings of their own.
    pub(crate) const fn next(self) -> Self {
        if self.0 == i32::MAX {
            Self(0)
        } else {
            Self(self.0 + 1)
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in a KIP-848 group's life. Group, target assignment and members have one each, on one line: a member's
/// epoch follows the target's, which follows the group's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Epoch(i32);

impl Epoch {
    /// What a member sends to join, or to join anew.
    pub(crate) const JOIN: Self = Self(0);
    /// What a member sends to leave.
    pub(crate) const LEAVE: Self = Self(-1);
    /// What a static member sends when it leaves and means to come back.
    pub(crate) const LEAVE_STATIC: Self = Self(-2);

    pub(crate) const fn new(raw: i32) -> Self {
        Self(raw)
    }

    pub(crate) const fn get(self) -> i32 {
        self.0
    }

    /// The next one; stays at the largest.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Partitions of topics: what a member owns, or is to own. No topic has an empty set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assignment(BTreeMap<TopicId, BTreeSet<PartitionId>>);

impl Assignment {
    pub(crate) fn insert(&mut self, topic: TopicId, partition: PartitionId) -> bool {
        self.0.entry(topic).or_default().insert(partition)
    }

    pub(crate) fn contains(&self, topic: TopicId, partition: PartitionId) -> bool {
        self.0
            .get(&topic)
            .is_some_and(|held| held.contains(&partition))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many partitions.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TopicId, PartitionId)> + '_ {
        let of_topic = |(topic, held): (&TopicId, &BTreeSet<PartitionId>)| {
            let topic = *topic;
            held.iter()
                .map(move |partition| (topic, *partition))
                .collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_topic)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = (TopicId, &BTreeSet<PartitionId>)> + '_ {
        self.0.iter().map(|(topic, held)| (*topic, held))
    }

    /// Those that are not in `other`.
    pub(crate) fn without(&self, other: &Self) -> Self {
        self.iter()
            .filter(|(topic, partition)| !other.contains(*topic, *partition))
            .collect()
    }

    /// Those that are in `other`, too.
    pub(crate) fn within(&self, other: &Self) -> Self {
        self.iter()
            .filter(|(topic, partition)| other.contains(*topic, *partition))
            .collect()
    }

    pub(crate) fn is_subset_of(&self, other: &Self) -> bool {
        self.iter()
            .all(|(topic, partition)| other.contains(topic, partition))
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.iter()
            .any(|(topic, partition)| other.contains(topic, partition))
    }
}

impl FromIterator<(TopicId, PartitionId)> for Assignment {
    fn from_iter<I: IntoIterator<Item = (TopicId, PartitionId)>>(partitions: I) -> Self {
        let mut all = Self::default();
        for (topic, partition) in partitions {
            all.insert(topic, partition);
        }
        all
    }
}
