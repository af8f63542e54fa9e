//! Round trips, and bytes that must be refused.

use std::sync::Arc;

use logweir_proto::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};
use proptest::option;
use proptest::prelude::*;

use super::super::ids::Generation;
use super::*;

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zé.]{0,12}".prop_map(Arc::from)
}

fn assignment() -> impl Strategy<Value = Assignment> {
    let place = (any::<[u8; 16]>(), 0..1_000_i32)
        .prop_map(|(topic, p)| (TopicId::new(topic), PartitionId::new(p)));
    proptest::collection::vec(place, 0..20).prop_map(|all| all.into_iter().collect())
}

fn span_of_time() -> impl Strategy<Value = Duration> {
    (0..1_000_000_u64).prop_map(Duration::from_millis)
}

fn offset() -> impl Strategy<Value = CommittedOffset> {
    (
        any::<i64>(),
        any::<i32>(),
        text(),
        any::<i64>(),
        any::<[u8; 16]>(),
    )
        .prop_map(|(offset, epoch, metadata, at, topic)| CommittedOffset {
            offset: Offset::new(offset),
            leader_epoch: LeaderEpoch::new(epoch),
            metadata,
            committed_at: Timestamp::new(at),
            expires_at: None,
            topic_id: TopicId::new(topic),
        })
}

fn classic() -> impl Strategy<Value = ClassicValue> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let member = (
        (text(), option::of(text()), text(), text()),
        (span_of_time(), span_of_time(), bytes(), bytes()),
    );
    let member = member.prop_map(|(names, rest)| ClassicMemberValue {
        member_id: names.0,
        instance_id: names.1,
        client_id: names.2,
        client_host: names.3,
        rebalance_timeout: rest.0,
        session_timeout: rest.1,
        subscription: rest.2,
        assignment: rest.3,
    });
    let members = proptest::collection::vec(member, 0..4);
    (
        text(),
        0..100_i32,
        option::of(text()),
        any::<i64>(),
        members,
    )
        .prop_map(
            |(protocol_type, generation, protocol, since, members)| ClassicValue {
                protocol_type,
                generation: Generation::new(generation),
                leader: protocol.clone(),
                protocol,
                state_since: Timestamp::new(since),
                members,
            },
        )
}

fn member() -> impl Strategy<Value = MemberValue> {
    let names = proptest::collection::btree_set(text(), 0..5);
    (option::of(text()), text(), names, span_of_time()).prop_map(
        |(maybe, name, topic_names, rebalance_timeout)| MemberValue {
            instance_id: maybe.clone(),
            rack_id: maybe.clone(),
            client_id: Arc::clone(&name),
            client_host: name,
            topic_names,
            topic_regex: maybe.clone().filter(|p| !p.is_empty()),
            rebalance_timeout,
            server_assignor: maybe,
        },
    )
}

fn current() -> impl Strategy<Value = CurrentValue> {
    let state = prop_oneof![
        Just(MemberState::Stable),
        Just(MemberState::UnrevokedPartitions),
        Just(MemberState::UnreleasedPartitions)
    ];
    (any::<i32>(), state, assignment(), assignment()).prop_map(|(epoch, state, a, b)| {
        CurrentValue {
            epoch: Epoch::new(epoch),
            previous_epoch: Epoch::new(epoch.wrapping_sub(1)),
            state,
            assigned: a,
            pending_revocation: b,
        }
    })
}

fn record() -> impl Strategy<Value = GroupRecord> {
    let key = (text(), text(), any::<i32>()).prop_map(|(group_id, topic, partition)| OffsetKey {
        group_id,
        topic,
        partition: PartitionId::new(partition),
    });
    let group = (any::<i32>(), any::<i64>(), option::of(any::<i64>())).prop_map(
        |(epoch, metadata_hash, since)| ConsumerGroupValue {
            epoch: Epoch::new(epoch),
            metadata_hash,
            empty_since: since.map(Timestamp::new),
        },
    );
    prop_oneof![
        (key, option::of(offset())).prop_map(|(k, v)| GroupRecord::Offset(k, v)),
        (text(), option::of(classic())).prop_map(|(g, v)| GroupRecord::Classic(g, v)),
        (text(), option::of(group)).prop_map(|(g, v)| GroupRecord::ConsumerGroup(g, v)),
        (text(), text(), option::of(member())).prop_map(|(g, m, v)| GroupRecord::Member(g, m, v)),
        (text(), option::of(any::<i32>()))
            .prop_map(|(g, v)| GroupRecord::TargetEpoch(g, v.map(Epoch::new))),
        (text(), text(), option::of(assignment()))
            .prop_map(|(g, m, v)| GroupRecord::Target(g, m, v)),
        (text(), text(), option::of(current())).prop_map(|(g, m, v)| GroupRecord::Current(g, m, v)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(record in record()) {
        prop_assert_eq!(GroupRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn a_record_cut_short_is_refused(record in record(), cut in any::<prop::sample::Index>()) {
        let StateRecord { key, value } = record.encode();
        let short = key.slice(..cut.index(key.len()));
        let decoded = GroupRecord::decode(&StateRecord { key: short, value: value.clone() });
        prop_assert!(!matches!(decoded, Ok(same) if same == record));
        if let Some(value) = value {
            let value = Some(value.slice(..cut.index(value.len())));
            let decoded = GroupRecord::decode(&StateRecord { key, value });
            prop_assert!(decoded.is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_panic(
        kind in 0_i16..20, key in proptest::collection::vec(any::<u8>(), 0..64),
        version in 0_i16..6, value in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        let key = [&kind.to_be_bytes()[..], &key].concat().into();
        let value = Some([&version.to_be_bytes()[..], &value].concat().into());
        let _ = GroupRecord::decode(&StateRecord { key, value });
    }

    #[test]
    fn damaged_records_are_no_panic_and_apply(
        records in proptest::collection::vec(record(), 1..8), place in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut state = super::super::state::State::default();
        for record in records {
            let StateRecord { key, value } = record.encode();
            let value = value.map(|value| {
                let mut bytes = value.to_vec();
                let place = place.index(bytes.len());
                bytes[place] = byte;
                Bytes::from(bytes)
            });
            if let Ok(record) = GroupRecord::decode(&StateRecord { key, value }) {
                state.apply(record);
            }
        }
        let mut again = super::super::state::State::default();
        for record in state.records() {
            again.apply(record);
        }
        let _ = again;
    }
}

#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    let mut value = Writer::new(3, false);
    value
        .string("consumer")
        .i32(1)
        .string("range")
        .string("m")
        .i64(0)
        .i32(i32::MAX);
    let record = StateRecord {
        key: group_key(classic::KEY, "g"),
        value: Some(value.finish()),
    };
    assert!(GroupRecord::decode(&record).is_err());
    let mut value = Writer::new(0, true);
    value.uvarint(u32::MAX);
    let key = member_key(consumer::TARGET_MEMBER_KEY, "g", "m");
    let record = StateRecord {
        key,
        value: Some(value.finish()),
    };
    assert!(GroupRecord::decode(&record).is_err());
}
