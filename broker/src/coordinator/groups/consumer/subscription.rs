//! Which topics members are subscribed to, by name and by pattern, and a hash that tells when those changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use logweir_proto::{ErrorCode, TopicId};

use super::group::Subscribed;
use crate::coordinator::groups::answer::GroupError;
use crate::coordinator::groups::config::{Pattern, ReadPattern};
use crate::coordinator::groups::topics::Topics;

/// What the names of internal topics begin with. A pattern never means them; who wants one names it.
const INTERNAL_PREFIX: &str = "__";

/// Looks subscriptions up in the topics of one moment. Every pattern is matched once.
#[derive(Debug)]
pub(super) struct Subscriptions<'a> {
    topics: &'a Topics,
    patterns: Option<ReadPattern>,
    matched: BTreeMap<Arc<str>, Arc<BTreeSet<Arc<str>>>>,
    /// What was looked up last: members of a group mostly want the same.
    last: Option<Found>,
}

/// What a subscription came to.
#[derive(Debug)]
struct Found {
    topic_names: BTreeSet<Arc<str>>,
    topic_regex: Option<Arc<str>>,
    topics: Arc<BTreeMap<TopicId, i32>>,
}

impl<'a> Subscriptions<'a> {
    pub(super) fn new(topics: &'a Topics, patterns: Option<ReadPattern>) -> Self {
        Self {
            topics,
            patterns,
            matched: BTreeMap::new(),
            last: None,
        }
    }

    fn matching(&mut self, pattern: &Arc<str>) -> Arc<BTreeSet<Arc<str>>> {
        if let Some(matched) = self.matched.get(pattern) {
            return Arc::clone(matched);
        }
        // A pattern that cannot be read was refused; one that is read by a broker that cannot matches nothing.
        let read = read_pattern(self.patterns, pattern).ok();
        let is_internal = |name: &str| name.starts_with(INTERNAL_PREFIX);
        let matches = |name: &&Arc<str>| {
            !is_internal(name) && read.as_ref().is_some_and(|pattern| (pattern.0)(name))
        };
        let names = Arc::new(self.topics.names().filter(matches).cloned().collect());
        self.matched.insert(Arc::clone(pattern), Arc::clone(&names));
        names
    }

    /// The topics of a subscription that exist, with their numbers of partitions.
    pub(super) fn of(
        &mut self,
        topic_names: &BTreeSet<Arc<str>>,
        topic_regex: Option<&Arc<str>>,
    ) -> Arc<BTreeMap<TopicId, i32>> {
        if let Some(last) = &self.last
            && last.topic_names == *topic_names
            && last.topic_regex.as_ref() == topic_regex
        {
            return Arc::clone(&last.topics);
        }
        let topics = Arc::new(self.find(topic_names, topic_regex));
        self.last = Some(Found {
            topic_names: topic_names.clone(),
            topic_regex: topic_regex.cloned(),
            topics: Arc::clone(&topics),
        });
        topics
    }

    fn find(
        &mut self,
        topic_names: &BTreeSet<Arc<str>>,
        topic_regex: Option<&Arc<str>>,
    ) -> BTreeMap<TopicId, i32> {
        let matched = topic_regex.map(|pattern| self.matching(pattern));
        let names = topic_names
            .iter()
            .chain(matched.iter().flat_map(|names| names.iter()));
        let found = names.filter_map(|name| self.topics.get(name));
        found.map(|topic| (topic.id, topic.partitions)).collect()
    }

    /// A hash of the topics of all members: their ids, and how many partitions they have. 0 if there are none.
    pub(super) fn hash(&mut self, subscribed: &Subscribed) -> i64 {
        let mut all: BTreeMap<TopicId, i32> = BTreeMap::new();
        for (topic_names, topic_regex) in subscribed.iter() {
            all.extend(self.of(topic_names, topic_regex.as_ref()).iter());
        }
        if all.is_empty() {
            return 0;
        }
        // FNV-1a: it need not be strong, for topic ids are random.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (id, partitions) in all {
            for byte in id.get().into_iter().chain(partitions.to_be_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash.cast_signed()
    }
}

/// Reads a pattern.
///
/// # Errors
/// INVALID_REGULAR_EXPRESSION if it cannot be read; UNSUPPORTED_VERSION if patterns are not served.
pub(super) fn read_pattern(
    read: Option<ReadPattern>,
    pattern: &str,
) -> Result<Pattern, GroupError> {
    let Some(read) = read else {
        let message = "subscriptions by pattern are not served";
        return Err(GroupError::new(ErrorCode::UnsupportedVersion, message));
    };
    read(pattern).map_err(|why| {
        let message = format!("the pattern {pattern:?} cannot be read: {why}");
        GroupError::new(ErrorCode::InvalidRegularExpression, message)
    })
}
