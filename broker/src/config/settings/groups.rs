//! The settings of consumer groups and committed offsets.

use super::{Access, Kind, PLAIN, Setting, put};

pub(super) static GROUPS: &[Setting] = &[
    Setting {
        name: "groups.min_session_timeout_ms",
        kafka: Some("group.min.session.timeout.ms"),
        kind: Kind::Milliseconds,
        range: (1, i32::MAX as i64),
        doc: "The shortest session timeout that a member of a classic group may ask for.",
        access: Access::Broker {
            get: |c| c.groups.min_session_timeout_ms.to_string(),
            set: |c, v| put(&mut c.groups.min_session_timeout_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.max_session_timeout_ms",
        kafka: Some("group.max.session.timeout.ms"),
        kind: Kind::Milliseconds,
        range: (1, i32::MAX as i64),
        doc: "The longest session timeout that a member of a classic group may ask for.",
        access: Access::Broker {
            get: |c| c.groups.max_session_timeout_ms.to_string(),
            set: |c, v| put(&mut c.groups.max_session_timeout_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.initial_rebalance_delay_ms",
        kafka: Some("group.initial.rebalance.delay.ms"),
        kind: Kind::Milliseconds,
        range: (0, i32::MAX as i64),
        doc: "How long a new classic group waits for more members before it shares out partitions. A broker within a \
              program does not wait unless it says otherwise.",
        access: Access::Broker {
            get: |c| c.groups.initial_rebalance_delay_ms.to_string(),
            set: |c, v| put(&mut c.groups.initial_rebalance_delay_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.max_size",
        kafka: Some("group.max.size"),
        kind: Kind::Number,
        range: (1, 100_000),
        doc: "How many members a classic group may have.",
        access: Access::Broker {
            get: |c| c.groups.max_size.to_string(),
            set: |c, v| put(&mut c.groups.max_size, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.consumer_max_size",
        kafka: Some("group.consumer.max.size"),
        kind: Kind::Number,
        range: (1, 100_000),
        doc: "How many members a group of the consumer protocol (KIP-848, and gRPC) may have.",
        access: Access::Broker {
            get: |c| c.groups.consumer_max_size.to_string(),
            set: |c, v| put(&mut c.groups.consumer_max_size, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.consumer_session_timeout_ms",
        kafka: Some("group.consumer.session.timeout.ms"),
        kind: Kind::Milliseconds,
        range: (1, i32::MAX as i64),
        doc: "How long a member of the consumer protocol may be silent before it is removed and its partitions are given \
              to others.",
        access: Access::Broker {
            get: |c| c.groups.consumer_session_timeout_ms.to_string(),
            set: |c, v| put(&mut c.groups.consumer_session_timeout_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.consumer_heartbeat_interval_ms",
        kafka: Some("group.consumer.heartbeat.interval.ms"),
        kind: Kind::Milliseconds,
        range: (1, i32::MAX as i64),
        doc: "How often members of the consumer protocol are told to send heartbeats. Less than the session timeout.",
        access: Access::Broker {
            get: |c| c.groups.consumer_heartbeat_interval_ms.to_string(),
            set: |c, v| put(&mut c.groups.consumer_heartbeat_interval_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.offset_metadata_max_bytes",
        kafka: Some("offset.metadata.max.bytes"),
        kind: Kind::Bytes,
        range: (0, 32_767),
        doc: "How much text may be committed with an offset.",
        access: Access::Broker {
            get: |c| c.groups.offset_metadata_max_bytes.to_string(),
            set: |c, v| put(&mut c.groups.offset_metadata_max_bytes, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.offsets_retention_ms",
        kind: Kind::Milliseconds,
        range: (1, i64::MAX),
        doc: "How long committed offsets of a group without members are kept; Kafka's offsets.retention.minutes. Those of \
              a group with members are kept for as long as it has any.",
        access: Access::Broker {
            get: |c| c.groups.offsets_retention_ms.to_string(),
            set: |c, v| put(&mut c.groups.offsets_retention_ms, v),
        },
        ..PLAIN
    },
    Setting {
        name: "groups.offsets_retention_check_interval_ms",
        kafka: Some("offsets.retention.check.interval.ms"),
        kind: Kind::Milliseconds,
        range: (1, i64::MAX),
        doc: "How often it is looked for committed offsets that have expired.",
        access: Access::Broker {
            get: |c| c.groups.offsets_retention_check_interval_ms.to_string(),
            set: |c, v| put(&mut c.groups.offsets_retention_check_interval_ms, v),
        },
        ..PLAIN
    },
];
