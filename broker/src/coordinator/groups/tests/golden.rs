//! Records that were written once must load for ever: the bytes stand here, and what they mean.

use super::*;
use crate::coordinator::groups::records::*;

fn unhex(text: &str) -> Bytes {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect::<Vec<_>>().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a record from its bytes; where `is_written`, writing it gives the same.
fn check(key: &str, value: Option<&str>, expected: &GroupRecord, is_written: bool) {
    let record = StateRecord {
        key: unhex(key),
        value: value.map(unhex),
    };
    assert_eq!(&GroupRecord::decode(&record).unwrap(), expected);
    if is_written {
        let written = expected.encode();
        assert_eq!(hex(&written.key), hex(&record.key));
        assert_eq!(
            written.value.map(|v| hex(&v)),
            record.value.map(|v| hex(&v))
        );
    }
}

fn offset_key() -> OffsetKey {
    OffsetKey {
        group_id: "g1".into(),
        topic: "orders".into(),
        partition: PartitionId::new(5),
    }
}

fn offset(leader_epoch: i32) -> CommittedOffset {
    CommittedOffset {
        offset: Offset::new(1_234),
        leader_epoch: LeaderEpoch::new(leader_epoch),
        metadata: "meta".into(),
        committed_at: Timestamp::new(1_700_000_000_000),
        expires_at: None,
        topic_id: TopicId::ZERO,
    }
}

const OFFSET_KEY: &str = "0001 0002 6731 0006 6f7264657273 00000005";

#[test]
fn offsets_of_every_version_load() {
    let record = |value| GroupRecord::Offset(offset_key(), Some(value));
    let old = "00000000000004d2 0004 6d657461 0000018bcfe56800";
    check(
        OFFSET_KEY,
        Some(&format!("0000 {old}")),
        &record(offset(-1)),
        false,
    );
    let expiring = CommittedOffset {
        expires_at: Some(Timestamp::new(1_700_000_000_001)),
        ..offset(-1)
    };
    let value = format!("0001 {old} 0000018bcfe56801");
    check(OFFSET_KEY, Some(&value), &record(expiring), true);
    check(
        OFFSET_KEY,
        Some(&format!("0002 {old}")),
        &record(offset(-1)),
        false,
    );
    let value = "0003 00000000000004d2 00000007 0004 6d657461 0000018bcfe56800";
    check(OFFSET_KEY, Some(value), &record(offset(7)), true);
    // Of version 0 keys there are some in old logs.
    check(
        &OFFSET_KEY.replacen("0001", "0000", 1),
        Some(value),
        &record(offset(7)),
        false,
    );
    let known = CommittedOffset {
        topic_id: topic_id(0xab),
        ..offset(7)
    };
    let value = format!(
        "0004 00000000000004d2 00000007 05 6d657461 0000018bcfe56800 01 00 10 {}",
        "ab".repeat(16)
    );
    check(OFFSET_KEY, Some(&value), &record(known.clone()), true);
    // A tagged field of somebody else is skipped.
    let value = value.replace("01 00 10", "02 00 10") + "07 02 ffff";
    check(OFFSET_KEY, Some(&value), &record(known), false);
    check(
        OFFSET_KEY,
        None,
        &GroupRecord::Offset(offset_key(), None),
        true,
    );
}

#[test]
fn classic_groups_of_every_version_load() {
    let member = |instance: Option<&str>, rebalance: u64| ClassicMemberValue {
        member_id: "m-1".into(),
        instance_id: instance.map(Arc::from),
        client_id: "c".into(),
        client_host: "/h".into(),
        rebalance_timeout: Duration::from_millis(rebalance),
        session_timeout: Duration::from_millis(10_000),
        subscription: Bytes::from_static(&[1, 2, 3]),
        assignment: Bytes::from_static(&[9]),
    };
    let group = |since: i64, member| {
        let value = ClassicValue {
            protocol_type: "consumer".into(),
            generation: Generation::new(3),
            protocol: Some("range".into()),
            leader: Some("m-1".into()),
            state_since: Timestamp::new(since),
            members: vec![member],
        };
        GroupRecord::Classic("g1".into(), Some(value))
    };
    let key = "0002 0002 6731";
    let head = "0008 636f6e73756d6572 00000003 0005 72616e6765 0003 6d2d31";
    let (id, client) = ("0003 6d2d31", "0001 63 0002 2f68");
    let tail = "00000003 010203 00000001 09";
    let value = format!("0000 {head} 00000001 {id} {client} 00002710 {tail}");
    check(key, Some(&value), &group(-1, member(None, 10_000)), false);
    let value = format!("0001 {head} 00000001 {id} {client} 0000ea60 00002710 {tail}");
    check(key, Some(&value), &group(-1, member(None, 60_000)), false);
    let since = "0000018bcfe56800";
    let value = format!("0002 {head} {since} 00000001 {id} {client} 0000ea60 00002710 {tail}");
    check(
        key,
        Some(&value),
        &group(1_700_000_000_000, member(None, 60_000)),
        false,
    );
    let value =
        format!("0003 {head} {since} 00000001 {id} 0002 6931 {client} 0000ea60 00002710 {tail}");
    check(
        key,
        Some(&value),
        &group(1_700_000_000_000, member(Some("i1"), 60_000)),
        true,
    );
    let value = format!(
        "0004 09 636f6e73756d6572 00000003 06 72616e6765 04 6d2d31 {since} 02 \
         04 6d2d31 03 6931 02 63 03 2f68 0000ea60 00002710 04 010203 02 09 00 00"
    );
    check(
        key,
        Some(&value),
        &group(1_700_000_000_000, member(Some("i1"), 60_000)),
        false,
    );
    check(key, None, &GroupRecord::Classic("g1".into(), None), true);
}

#[test]
fn consumer_groups_load() {
    let group = || GroupId::from("g1");
    let value = ConsumerGroupValue {
        epoch: Epoch::new(7),
        metadata_hash: 0x1122_3344_5566_7788,
        empty_since: None,
    };
    let record = GroupRecord::ConsumerGroup(group(), Some(value));
    check(
        "0003 0002 6731",
        Some("0000 00000007 01 00 08 1122334455667788"),
        &record,
        true,
    );
    // Kafka before 4.1 has no hash.
    let value = ConsumerGroupValue {
        metadata_hash: 0,
        ..value
    };
    let record = GroupRecord::ConsumerGroup(group(), Some(value));
    check("0003 0002 6731", Some("0000 00000007 00"), &record, false);
    let value = ConsumerGroupValue {
        empty_since: Some(Timestamp::new(5)),
        ..value
    };
    let record = GroupRecord::ConsumerGroup(group(), Some(value));
    let bytes = "0000 00000007 02 00 08 0000000000000000 904e 08 0000000000000005";
    check("0003 0002 6731", Some(bytes), &record, true);

    let member = MemberValue {
        instance_id: Some("i1".into()),
        rack_id: None,
        client_id: "c".into(),
        client_host: "/h".into(),
        topic_names: ["a".into(), "b".into()].into(),
        topic_regex: Some("x*".into()),
        rebalance_timeout: 60 * SECOND,
        server_assignor: Some("range".into()),
    };
    let record = GroupRecord::Member(group(), "m1".into(), Some(member));
    let bytes = "0000 03 6931 00 02 63 03 2f68 03 02 61 02 62 03 782a 0000ea60 06 72616e6765 00";
    check("0005 0002 6731 0002 6d31", Some(bytes), &record, true);

    let record = GroupRecord::TargetEpoch(group(), Some(Epoch::new(7)));
    check("0006 0002 6731", Some("0000 00000007 00"), &record, true);
    let target = format!("02 {} 03 00000000 00000002 00", "01".repeat(16));
    let record = GroupRecord::Target(group(), "m1".into(), Some(partitions(&[0, 2])));
    check(
        "0007 0002 6731 0002 6d31",
        Some(&format!("0000 {target} 00")),
        &record,
        true,
    );
    let current = CurrentValue {
        epoch: Epoch::new(6),
        previous_epoch: Epoch::new(5),
        state: MemberState::UnrevokedPartitions,
        assigned: partitions(&[0, 2]),
        pending_revocation: Assignment::default(),
    };
    let record = GroupRecord::Current(group(), "m1".into(), Some(current));
    let bytes = format!("0000 00000006 00000005 01 {target} 01 00");
    check("0008 0002 6731 0002 6d31", Some(&bytes), &record, true);
    for key in ["0005", "0007", "0008"] {
        let record = match key {
            "0005" => GroupRecord::Member(group(), "m1".into(), None),
            "0007" => GroupRecord::Target(group(), "m1".into(), None),
            _ => GroupRecord::Current(group(), "m1".into(), None),
        };
        check(&format!("{key} 0002 6731 0002 6d31"), None, &record, true);
    }
}

/// Three partitions of `__consumer_offsets` as Kafka 4.1.2 wrote them while `consumer-4.1.2.jsonl` was recorded.
const KAFKA: [&[u8]; 3] = [
    include_bytes!("recordings/offsets-4.1.2-0.log"),
    include_bytes!("recordings/offsets-4.1.2-1.log"),
    include_bytes!("recordings/offsets-4.1.2-5.log"),
];

fn kafka_records(segment: &'static [u8]) -> Vec<StateRecord> {
    let mut records = Vec::new();
    for batch in logweir_proto::record::batches(Bytes::from_static(segment)) {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        for record in batch.records(1 << 20).unwrap() {
            let record = record.unwrap();
            let (key, value) = (record.key.unwrap(), record.value);
            records.push(StateRecord { key, value });
        }
    }
    records
}

/// What Kafka wrote comes out again, but for the order of topics, and tags that say that there is nothing.
fn check_written_as_by_kafka(decoded: &GroupRecord, record: &StateRecord) {
    let written = decoded.encode();
    assert_eq!(hex(&written.key), hex(&record.key));
    let (ours, kafkas) = (written.value.as_deref(), record.value.as_deref());
    let (our_length, length) = (ours.map(<[u8]>::len), kafkas.map(<[u8]>::len));
    match record.key[1] {
        // Kafka writes version 4 here, too, with no tag; ours is of version 3.
        1 if matches!(decoded, GroupRecord::Offset(_, Some(o)) if o.topic_id == TopicId::ZERO) => {}
        // Kafka leaves out the hash of no topics.
        3 if length == Some(7) => assert_eq!(our_length, Some(17)),
        5 => assert_eq!(our_length.map(|l| l + 3), length),
        7 | 8 => assert_eq!(our_length, length),
        _ => assert_eq!(ours.map(hex), kafkas.map(hex)),
    }
}

#[test]
fn what_kafka_wrote_loads() {
    let mut kinds = BTreeMap::new();
    let (mut pattern, mut topic_ids) = (None, 0);
    for (at, segment) in KAFKA.into_iter().enumerate() {
        let mut harness = Harness::new();
        for record in kafka_records(segment) {
            let decoded = GroupRecord::decode(&record).unwrap();
            *kinds.entry(record.key[1]).or_insert(0) += 1;
            assert!(!matches!(decoded, GroupRecord::Foreign(..)), "{decoded:?}");
            if decoded != GroupRecord::Dropped {
                check_written_as_by_kafka(&decoded, &record);
            }
            if let GroupRecord::Member(group, _, Some(member)) = &decoded
                && **group == *"pattern"
            {
                pattern.clone_from(&member.topic_regex);
            }
            if let GroupRecord::Offset(_, Some(offset)) = &decoded {
                topic_ids += usize::from(offset.topic_id != TopicId::ZERO);
            }
            harness.machine.replay(&record, harness.now).unwrap();
        }
        harness.machine.loaded(harness.now);
        let state = &harness.machine.state;
        let group = [
            "pattern",
            "group-classic,-then-consumer",
            "group-topic-made-anew",
        ][at];
        assert!(state.groups.contains_key(group), "{group:?} is there");
        let mut again = Harness::new();
        for record in harness.machine.snapshot() {
            again.machine.replay(&record, again.now).unwrap();
        }
        assert_eq!(&again.machine.state, state);
    }
    assert_eq!((pattern.as_deref(), topic_ids), (Some("ord.*"), 3));
    // Every type: offsets, both kinds of groups, and the two that are dropped.
    let kinds: Vec<u8> = kinds.into_keys().collect();
    assert_eq!(kinds, [1, 2, 3, 4, 5, 6, 7, 8, 16]);
}

#[test]
fn what_is_not_known_is_kept_and_what_is_of_no_use_is_dropped() {
    let (key, value) = (unhex("7fff 0102"), unhex("00"));
    let foreign = GroupRecord::Foreign(key, Some(value));
    check("7fff 0102", Some("00"), &foreign, true);
    check(
        "0004 0002 6731",
        Some("0000 01 00"),
        &GroupRecord::Dropped,
        false,
    );
    let mut harness = Harness::new();
    harness
        .machine
        .replay(&foreign.encode(), harness.now)
        .unwrap();
    assert_eq!(harness.machine.snapshot(), [foreign.encode()]);
    let StateRecord { key, .. } = foreign.encode();
    harness
        .machine
        .replay(&StateRecord { key, value: None }, harness.now)
        .unwrap();
    assert_eq!(harness.machine.snapshot(), []);
}
