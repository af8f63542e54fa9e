//! The topics that groups may subscribe to, as the machine was last told: names, ids, numbers of partitions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use logweir_proto::TopicId;

/// A topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicInfo {
    pub(crate) id: TopicId,
    /// How many partitions it has, numbered from 0.
    pub(crate) partitions: i32,
}

/// All topics at one moment; replaced whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topics {
    by_name: BTreeMap<Arc<str>, TopicInfo>,
    /// Those that were deleted last.
    deleted: Arc<VecDeque<TopicId>>,
}

impl Topics {
    pub(crate) fn get(&self, name: &str) -> Option<TopicInfo> {
        self.by_name.get(name).copied()
    }

    /// With the topics that were deleted last.
    pub(crate) fn with_deleted(self, deleted: Arc<VecDeque<TopicId>>) -> Self {
        Self { deleted, ..self }
    }

    /// The ids of the topics that were deleted last.
    pub(super) fn deleted(&self) -> impl Iterator<Item = TopicId> {
        self.deleted.iter().copied()
    }

    /// The topics that are not in `newer`, also those whose name stands for another topic there.
    pub(crate) fn gone_from(&self, newer: &Self) -> Vec<(Arc<str>, TopicId)> {
        let stays = |name: &str, id| newer.get(name).is_some_and(|topic| topic.id == id);
        self.by_name
            .iter()
            .filter(|(name, topic)| !stays(name, topic.id))
            .map(|(name, topic)| (Arc::clone(name), topic.id))
            .collect()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }
}

impl FromIterator<(Arc<str>, TopicInfo)> for Topics {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, TopicInfo)>>(topics: I) -> Self {
        Self {
            by_name: topics.into_iter().collect(),
            deleted: Arc::default(),
        }
    }
}
