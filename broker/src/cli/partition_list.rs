//! Partitions as people write them: `orders`, `orders:0,2` and `orders:0-3,7`.

use std::collections::BTreeMap;
use std::str::FromStr;

use logweir_client::{NamedPartitions, PartitionId, TopicPartition};

/// The most partitions that one value names, so that `0-2000000000` is an error and not a gigabyte.
const MAX_PARTITIONS: usize = 100_000;

/// A topic with some of its partitions; none stands for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartitionList {
    topic: String,
    partitions: Vec<i32>,
}

impl FromStr for PartitionList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "{text:?} is neither a topic nor a topic with partitions, such as orders, orders:0 or orders:0,2-5"
            )
        };
        // No topic has a colon in its name.
        let (topic, list) = match text.split_once(':') {
            Some((topic, list)) => (topic, Some(list)),
            None => (text, None),
        };
        if topic.is_empty() {
            return Err(refused());
        }
        let mut partitions = Vec::new();
        for item in list.into_iter().flat_map(|list| list.split(',')) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let number = |text: &str| text.parse::<u32>().ok()?.try_into().ok();
            let (first, last): (i32, i32) = number(first).zip(number(last)).ok_or_else(refused)?;
            if first > last {
                return Err(format!(
                    "{item:?} in {text:?} runs backwards; say {last}-{first}"
                ));
            }
            partitions.extend((first..=last).take(MAX_PARTITIONS + 1));
            if partitions.len() > MAX_PARTITIONS {
                return Err(format!(
                    "{text:?} names more than {MAX_PARTITIONS} partitions; {topic} alone stands for all that it has"
                ));
            }
        }
        partitions.sort_unstable();
        partitions.dedup();
        Ok(Self {
            topic: topic.to_owned(),
            partitions,
        })
    }
}

impl PartitionList {
    /// As the client's calls take it.
    pub(super) fn named(&self) -> NamedPartitions {
        let partitions = self.partitions.iter().copied().map(PartitionId::new);
        NamedPartitions::some(self.topic.as_str(), partitions)
    }
}

/// Partition numbers under their topics, both in order.
pub(super) fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<&str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for place in partitions {
        let numbers = topics.entry(&place.topic).or_default();
        numbers.push(place.partition.get());
    }
    for numbers in topics.values_mut() {
        numbers.sort_unstable();
    }
    topics
}

/// Sorted numbers as `0-3,7`.
pub(super) fn ranges(sorted: &[i32]) -> String {
    let mut parts = Vec::new();
    for run in sorted.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        match run {
            [only] => parts.push(only.to_string()),
            [first, .., last] => parts.push(format!("{first}-{last}")),
            [] => {}
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_read_one_by_one_and_in_ranges() {
        let check = |text: &str, partitions: &[i32]| {
            let list: PartitionList = text.parse().unwrap();
            assert_eq!(
                (list.topic.as_str(), list.partitions.as_slice()),
                ("t", partitions)
            );
        };
        check("t", &[]);
        check("t:0", &[0]);
        check("t:3,0-2,1", &[0, 1, 2, 3]);
        check("t:5-5", &[5]);
    }

    #[test]
    fn what_names_no_partitions_is_refused() {
        for text in [
            "",
            ":0",
            "t:",
            "t:x",
            "t:-1",
            "t:1-",
            "t:0,,1",
            "t:3-1",
            "t:0-2000000000",
            "t:9999999999",
        ] {
            assert!(text.parse::<PartitionList>().is_err(), "{text}");
        }
    }

    #[test]
    fn neighbours_are_written_as_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[4]), "4");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }
}
