//! Server-side assignors (KIP-848): who is to own which partition in the end.
//!
//! Pure, and the same input gives the same output. Every partition of a topic that somebody subscribes to gets exactly
//! one owner among its subscribers.

mod range;
#[cfg(test)]
mod tests;
mod uniform;

use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::TopicId;

use super::ids::{Assignment, InstanceId, MemberId};

/// An assignor, by Kafka's name of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Assignor {
    /// Sticky and balanced over all topics together.
    #[default]
    Uniform,
    /// By topic: neighbours stay together, and equal numbers of different topics go to one member.
    Range,
}

/// A member as an assignor sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscriber {
    /// What orders static members, whatever their member ids are.
    pub(crate) instance_id: Option<InstanceId>,
    /// Its topics, with their numbers of partitions. Shared, since most members of a group want the same.
    pub(crate) topics: Arc<BTreeMap<TopicId, i32>>,
    /// What it was to own before.
    pub(crate) target: Arc<Assignment>,
}

impl Assignor {
    /// All of them; the first is the default.
    pub(crate) const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    /// Kafka's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|assignor| assignor.name() == name)
    }

    /// Assigns. Every member is in the result, perhaps with nothing.
    pub(crate) fn assign(
        self,
        members: &BTreeMap<MemberId, Subscriber>,
    ) -> BTreeMap<MemberId, Assignment> {
        match self {
            Self::Uniform => uniform::assign(members),
            Self::Range => range::assign(members),
        }
    }
}
