//! The topics that groups may subscribe to, as the machine was last told: names, ids, numbers of partitions.

use std::collections::BTreeMap;
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
#[derive(Clone, Debug, Default)]
pub(crate) struct Topics {
    by_name: BTreeMap<Arc<str>, TopicInfo>,
}

impl Topics {
    pub(crate) fn get(&self, name: &str) -> Option<TopicInfo> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }
}

impl FromIterator<(Arc<str>, TopicInfo)> for Topics {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, TopicInfo)>>(topics: I) -> Self {
        let by_name = topics.into_iter().collect();
        Self { by_name }
    }
}
