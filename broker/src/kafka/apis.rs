//! What is served, in which versions: the one table behind ApiVersions, the check of every request, and the log.

/// An API with the versions served of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) api: ApiKey,
    pub(super) name: &'static str,
    /// Inclusive.
    pub(super) min: i16,
    /// Inclusive.
    pub(super) max: i16,
    /// The first version whose encoding is flexible (KIP-482).
    pub(super) flexible_from: i16,
}

impl Served {
    pub(super) const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

macro_rules! apis {
    ($($name:ident = $key:literal, $min:literal..=$max:literal, $flexible:literal;)*) => {
        /// Kafka's API keys, of what is served.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i16)]
        pub(super) enum ApiKey {
            $($name = $key,)*
        }

        /// Every API served, by key.
        pub(super) const SERVED: &[Served] = &[
            $(Served {
                api: ApiKey::$name,
                name: stringify!($name),
                min: $min,
                max: $max,
                flexible_from: $flexible,
            },)*
        ];
    };
}

// Name = key, versions served, first flexible version.
//
// Produce is listed from 0, as Kafka 4 does: librdkafka before 2.0 otherwise takes the broker for one that cannot
// compress. Versions 0 to 2 are refused in a well-formed answer.
apis! {
    Produce = 0, 0..=11, 9;
    Fetch = 1, 4..=17, 12;
    ListOffsets = 2, 1..=10, 6;
    Metadata = 3, 0..=13, 9;
    OffsetCommit = 8, 1..=9, 8;
    OffsetFetch = 9, 1..=9, 6;
    FindCoordinator = 10, 0..=6, 3;
    JoinGroup = 11, 0..=9, 6;
    Heartbeat = 12, 0..=4, 4;
    LeaveGroup = 13, 0..=5, 4;
    SyncGroup = 14, 0..=5, 4;
    DescribeGroups = 15, 0..=6, 5;
    ListGroups = 16, 0..=5, 3;
    ApiVersions = 18, 0..=4, 3;
    CreateTopics = 19, 1..=7, 5;
    DeleteTopics = 20, 1..=6, 4;
    DeleteRecords = 21, 0..=2, 2;
    InitProducerId = 22, 0..=5, 2;
    OffsetForLeaderEpoch = 23, 2..=4, 4;
    DescribeAcls = 29, 1..=3, 2;
    CreateAcls = 30, 1..=3, 2;
    DeleteAcls = 31, 1..=3, 2;
    DescribeConfigs = 32, 1..=4, 4;
    AlterConfigs = 33, 0..=2, 2;
    DescribeLogDirs = 35, 1..=4, 2;
    CreatePartitions = 37, 0..=3, 2;
    DeleteGroups = 42, 0..=2, 2;
    ElectLeaders = 43, 0..=2, 2;
    IncrementalAlterConfigs = 44, 0..=1, 1;
    AlterPartitionReassignments = 45, 0..=1, 0;
    ListPartitionReassignments = 46, 0..=0, 0;
    OffsetDelete = 47, 0..=0, 32767;
    DescribeClientQuotas = 48, 0..=1, 1;
    DescribeCluster = 60, 0..=2, 0;
    DescribeProducers = 61, 0..=0, 0;
    ConsumerGroupHeartbeat = 68, 0..=1, 0;
    ConsumerGroupDescribe = 69, 0..=1, 0;
    DescribeTopicPartitions = 75, 0..=0, 0;
}

/// Which entry of the table answers for a key.
pub(super) fn served(key: i16) -> Option<&'static Served> {
    SERVED.iter().find(|served| served.api as i16 == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table says of flexible versions is what the codec does.
    #[test]
    fn the_table_agrees_with_the_codec() {
        for served in SERVED {
            let key = served.api as i16;
            let known = kafka_wire::API_DESCRIPTORS
                .iter()
                .find(|known| known.api_key.value() == key)
                .unwrap_or_else(|| panic!("the codec has no {}", served.name));
            let flexible = known
                .flexible_versions
                .map_or(i16::MAX, |range| range.min().value());
            assert_eq!(flexible, served.flexible_from, "{}", served.name);
            let max = known.supported_versions.max().value();
            assert!(served.max <= max, "{} up to {max}", served.name);
        }
        assert!(SERVED.is_sorted_by_key(|served| served.api as i16));
    }
}
