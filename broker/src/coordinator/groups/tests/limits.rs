//! Whatever sizes a peer sends, nothing panics: what does not fit a record is refused before it is one.

use super::*;

/// At the limits, beyond them, and beyond what an old string's 16-bit length can say.
const SIZES: [usize; 6] = [
    MAX_NAME_BYTES - 1,
    MAX_NAME_BYTES,
    MAX_NAME_BYTES + 1,
    32_767,
    32_768,
    70_000,
];

fn long(size: usize) -> Arc<str> {
    "n".repeat(size).into()
}

/// Requests that carry `name` wherever a name can be, one place at a time, to groups of both kinds.
fn join_requests(name: &Arc<str>) -> Vec<GroupRequest> {
    let joins = [
        JoinGroup {
            group_id: Arc::clone(name),
            ..join("g", "")
        },
        JoinGroup {
            member_id: Arc::clone(name),
            ..join("g", "")
        },
        JoinGroup {
            instance_id: Some(Arc::clone(name)),
            ..join("g", "")
        },
        JoinGroup {
            client_id: Arc::clone(name),
            ..join("g", "")
        },
        JoinGroup {
            client_host: Arc::clone(name),
            ..join("g", "")
        },
        JoinGroup {
            protocol_type: Arc::clone(name),
            ..join("p", "")
        },
        JoinGroup {
            protocols: vec![protocol(name)],
            ..join("q", "")
        },
        JoinGroup {
            session_timeout: Duration::MAX,
            rebalance_timeout: Duration::MAX,
            ..join("r", "")
        },
        JoinGroup {
            rebalance_timeout: Duration::MAX,
            ..join("s", "")
        },
        JoinGroup {
            protocols: vec![Protocol {
                name: "range".into(),
                metadata: vec![0; 600 << 10].into(),
            }],
            ..join("t", "")
        },
    ];
    joins.into_iter().map(GroupRequest::Join).collect()
}

fn member_requests(name: &Arc<str>, member: &MemberId) -> Vec<GroupRequest> {
    let sync = SyncGroup {
        group_id: "g".into(),
        generation: Generation::new(1),
        member_id: Arc::clone(member),
        instance_id: Some(Arc::clone(name)),
        protocol_type: Some(Arc::clone(name)),
        protocol: Some(Arc::clone(name)),
        assignments: vec![
            (Arc::clone(name), vec![0; 1 << 20].into()),
            (Arc::clone(member), vec![0; 1 << 20].into()),
        ],
    };
    let plain = SyncGroup {
        instance_id: None,
        protocol_type: None,
        protocol: None,
        ..sync.clone()
    };
    let leaving = LeavingMember {
        member_id: Arc::clone(name),
        instance_id: Some(Arc::clone(name)),
    };
    vec![
        GroupRequest::Sync(sync),
        GroupRequest::Sync(plain),
        GroupRequest::Leave(LeaveGroup {
            group_id: Arc::clone(name),
            members: vec![leaving.clone()],
        }),
        GroupRequest::Leave(LeaveGroup {
            group_id: "g".into(),
            members: vec![leaving],
        }),
    ]
}

fn consumer_requests(name: &Arc<str>) -> Vec<GroupRequest> {
    let first = || first_beat("c", "m");
    let some = || Some(Arc::clone(name));
    let beats = [
        ConsumerHeartbeat {
            group_id: Arc::clone(name),
            ..first()
        },
        ConsumerHeartbeat {
            member_id: Arc::clone(name),
            ..first()
        },
        ConsumerHeartbeat {
            instance_id: some(),
            ..first()
        },
        ConsumerHeartbeat {
            rack_id: some(),
            ..first()
        },
        ConsumerHeartbeat {
            client_id: Arc::clone(name),
            ..first()
        },
        ConsumerHeartbeat {
            client_host: Arc::clone(name),
            ..first()
        },
        ConsumerHeartbeat {
            topic_names: Some(vec![Arc::clone(name)]),
            ..first()
        },
        ConsumerHeartbeat {
            topic_names: Some(vec!["orders".into(); 10_001]),
            ..first()
        },
        ConsumerHeartbeat {
            topic_regex: some(),
            ..first()
        },
        ConsumerHeartbeat {
            server_assignor: some(),
            ..first()
        },
        ConsumerHeartbeat {
            rebalance_timeout: Some(Duration::MAX),
            ..first()
        },
    ];
    beats
        .into_iter()
        .map(|beat| GroupRequest::ConsumerHeartbeat(Box::new(beat)))
        .collect()
}

fn offset_requests(name: &Arc<str>) -> Vec<GroupRequest> {
    let offset = |topic: &str, metadata: &Arc<str>| NewOffset {
        metadata: Arc::clone(metadata),
        ..new_offset(topic, i32::MAX, i64::MAX)
    };
    let commit = |group: &str, offset: NewOffset| CommitOffsets {
        group_id: group.into(),
        member_id: "".into(),
        instance_id: None,
        generation_or_epoch: -1,
        knows_epochs: true,
        retention: Some(Duration::MAX),
        offsets: vec![offset],
    };
    let reset = |offset: NewOffset| ResetOffsets {
        group_id: Arc::clone(name),
        offsets: vec![offset],
        dry_run: false,
    };
    let short: Arc<str> = "".into();
    vec![
        GroupRequest::Commit(commit(name, offset("orders", &short))),
        GroupRequest::Commit(commit("o", offset(name, &short))),
        GroupRequest::Commit(commit("o", offset("orders", name))),
        GroupRequest::Commit(commit("o", offset("none", name))),
        GroupRequest::Commit(CommitOffsets {
            retention: None,
            ..commit("o", offset("none", name))
        }),
        GroupRequest::Reset(reset(offset("orders", name))),
        GroupRequest::Reset(reset(offset(name, &short))),
        GroupRequest::DeleteOffsets(DeleteOffsets {
            group_id: "o".into(),
            partitions: vec![(Arc::clone(name), PartitionId::new(-1))],
            whole_topics: vec![Arc::clone(name)],
        }),
        GroupRequest::DeleteGroups(vec![Arc::clone(name), "o".into()]),
    ]
}

#[test]
fn nothing_that_a_peer_sends_reaches_the_ends_of_the_encoding() {
    for size in SIZES {
        let mut h = Harness::with(|config| config.offset_metadata_max_bytes = 1 << 20);
        let call = h.send(GroupRequest::Join(join("g", "")));
        let member = h.take_join(call).unwrap().member_id;
        let name = long(size);
        let requests = [
            join_requests(&name),
            member_requests(&name, &member),
            consumer_requests(&name),
            offset_requests(&name),
        ];
        for request in requests.into_iter().flatten() {
            h.send(request);
        }
        h.pass(2_000 * SECOND);
        h.check_replay();
    }
}

/// The id was made of a client id of the largest size, and then refused for being longer.
#[test]
fn a_member_whose_name_is_as_long_as_can_be_joins_with_the_id_that_it_is_given() {
    let mut h = Harness::new();
    let request = JoinGroup {
        client_id: long(MAX_NAME_BYTES),
        member_id_required: true,
        ..join("g", "")
    };
    let call = h.send(GroupRequest::Join(request.clone()));
    let id = h.take_join(call).unwrap().member_id;
    assert_eq!(id.len(), MAX_MEMBER_ID_BYTES);
    let call = h.send(GroupRequest::Join(JoinGroup {
        member_id: id,
        ..request
    }));
    assert!(h.take_join(call).unwrap().result.is_ok());
}
