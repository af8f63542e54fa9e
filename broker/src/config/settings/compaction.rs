//! The settings of topics that are compacted.

use super::{Access, Kind, PLAIN, Setting, put, put_choice};

pub(super) static COMPACTION: &[Setting] = &[
    Setting {
        name: "log.cleanup_policy",
        kafka: Some("log.cleanup.policy"),
        topic: Some("cleanup.policy"),
        kind: Kind::Choice(&["delete", "compact", "compact,delete"]),
        doc: "What becomes of old records. delete removes segments beyond retention_ms and retention_bytes. compact keeps \
              the last record of each key, whatever its age, and refuses records without a key; the segment that is being \
              written is left alone, so segment_ms and segment_bytes say how soon. compact,delete does both.",
        access: Access::Topic {
            get: |l| l.cleanup_policy.to_string(),
            set: |l, v| put_choice(&mut l.cleanup_policy, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.delete_retention_ms",
        kafka: Some("log.cleaner.delete.retention.ms"),
        topic: Some("delete.retention.ms"),
        kind: Kind::Milliseconds,
        range: (0, i64::MAX),
        doc: "Where the policy compacts: a record without a value deletes its key. It stays itself for so long after the \
              compaction that first met it, so that a reader who reads from the beginning within this time sees it.",
        access: Access::Topic {
            get: |l| l.delete_retention_ms.to_string(),
            set: |l, v| put(&mut l.delete_retention_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.min_cleanable_dirty_ratio",
        kafka: Some("log.cleaner.min.cleanable.ratio"),
        topic: Some("min.cleanable.dirty.ratio"),
        kind: Kind::Ratio,
        doc: "Where the policy compacts: a partition is compacted when more than this part of its bytes was not yet. Less \
              wastes less room and copies more often.",
        access: Access::Topic {
            get: |l| l.min_cleanable_dirty_ratio.to_string(),
            set: |l, v| put_choice(&mut l.min_cleanable_dirty_ratio, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.min_compaction_lag_ms",
        kafka: Some("log.cleaner.min.compaction.lag.ms"),
        topic: Some("min.compaction.lag.ms"),
        kind: Kind::Milliseconds,
        range: (0, i64::MAX),
        doc: "Where the policy compacts: records younger than this are left alone, so that a reader who is not further \
              behind sees every one of them.",
        access: Access::Topic {
            get: |l| l.min_compaction_lag_ms.to_string(),
            set: |l, v| put(&mut l.min_compaction_lag_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "log.max_compaction_lag_ms",
        kafka: Some("log.cleaner.max.compaction.lag.ms"),
        topic: Some("max.compaction.lag.ms"),
        kind: Kind::Milliseconds,
        range: (1, i64::MAX),
        doc: "Where the policy compacts: a record is compacted after this, whatever min_cleanable_dirty_ratio says, and a \
              segment is closed at this age. 9223372036854775807 sets no limit.",
        access: Access::Topic {
            get: |l| l.max_compaction_lag_ms.to_string(),
            set: |l, v| put(&mut l.max_compaction_lag_ms, v),
        },
        ..PLAIN
    },
];
