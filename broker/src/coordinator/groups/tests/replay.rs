//! Whatever is asked, in whatever order: replaying the records gives the state that the machine has, and so does its
//! snapshot.

use proptest::prelude::*;

use super::*;

/// A request with small choices, so that different ones meet.
#[derive(Clone, Debug)]
enum Move {
    Join {
        group: u8,
        member: u8,
        instance: bool,
    },
    Sync {
        group: u8,
        member: u8,
    },
    Beat {
        group: u8,
        member: u8,
        epoch: i8,
        owned: Option<u8>,
        instance: bool,
        wait: bool,
    },
    Leave {
        group: u8,
        member: u8,
    },
    Commit {
        group: u8,
        member: u8,
        epoch: i8,
    },
    Delete {
        group: u8,
    },
    DeleteOffsets {
        group: u8,
    },
    Reset {
        group: u8,
    },
    Topics(u8),
    TopicGone,
    Pass(u8),
    PassDays(u8),
    Restart,
}

fn any_move() -> impl Strategy<Value = Move> {
    let (group, member) = (0..3_u8, 0..4_u8);
    let pair = (group.clone(), member.clone());
    prop_oneof![
        4 => (pair.clone(), any::<bool>())
            .prop_map(|((group, member), instance)| Move::Join { group, member, instance }),
        4 => pair.clone().prop_map(|(group, member)| Move::Sync { group, member }),
        8 => (pair.clone(), -2..6_i8, proptest::option::of(any::<u8>()), any::<bool>(), any::<bool>())
            .prop_map(|((group, member), epoch, owned, instance, wait)| {
                Move::Beat { group, member, epoch, owned, instance, wait }
            }),
        2 => pair.clone().prop_map(|(group, member)| Move::Leave { group, member }),
        4 => (pair, -1..4_i8)
            .prop_map(|((group, member), epoch)| Move::Commit { group, member, epoch }),
        1 => group.clone().prop_map(|group| Move::Delete { group }),
        1 => group.clone().prop_map(|group| Move::DeleteOffsets { group }),
        1 => group.prop_map(|group| Move::Reset { group }),
        1 => (0..4_u8).prop_map(Move::Topics),
        1 => Just(Move::TopicGone),
        4 => (0..40_u8).prop_map(Move::Pass),
        1 => (0..5_u8).prop_map(Move::PassDays),
        1 => Just(Move::Restart),
    ]
}

/// The classic members' ids as the coordinator gave them, by the tests' numbers.
#[derive(Default)]
struct Ids(BTreeMap<(u8, u8), (MemberId, Generation)>);

fn play(harness: &mut Harness, ids: &mut Ids, one: Move) {
    let name = |group: u8| format!("group-{group}");
    let member_name = |member: u8| format!("member-{member}");
    let known = |ids: &Ids, group, member| ids.0.get(&(group, member)).cloned();
    match one {
        Move::Join {
            group,
            member,
            instance,
        } => {
            let id = known(ids, group, member).map(|k| k.0).unwrap_or_default();
            let mut request = join(&name(group), &id);
            request.instance_id = instance.then(|| member_name(member).into());
            let call = harness.send(GroupRequest::Join(request));
            if let Some(answer) = harness.take_join(call) {
                let generation = answer
                    .result
                    .map(|joined| joined.generation)
                    .unwrap_or_default();
                ids.0
                    .insert((group, member), (answer.member_id, generation));
            }
        }
        Move::Sync { group, member } => {
            if let Some((member_id, _)) = known(ids, group, member) {
                sync(harness, &name(group), member_id);
            }
        }
        Move::Beat {
            group,
            member,
            epoch,
            owned,
            instance,
            wait,
        } => {
            let mut request = beat(&name(group), &member_name(member), epoch, owned);
            request.instance_id = instance.then(|| member_name(member).into());
            request.wait = wait.then_some(SECOND);
            harness.send(GroupRequest::ConsumerHeartbeat(Box::new(request)));
        }
        Move::Leave { group, member } => {
            let member_id = known(ids, group, member).map(|k| k.0).unwrap_or_default();
            let members = vec![LeavingMember {
                member_id,
                instance_id: None,
            }];
            harness.ask(GroupRequest::Leave(LeaveGroup {
                group_id: name(group).into(),
                members,
            }));
        }
        other => play_admin(harness, other),
    }
}

fn sync(harness: &mut Harness, group: &str, member_id: MemberId) {
    let generation = harness
        .machine
        .classic
        .get(group)
        .map(|g| g.value().generation);
    let request = SyncGroup {
        group_id: group.into(),
        generation: generation.unwrap_or_default(),
        member_id: Arc::clone(&member_id),
        instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: vec![(member_id, Bytes::from_static(&[7]))],
    };
    harness.send(GroupRequest::Sync(request));
}

/// A heartbeat; the bits of `owned` are the partitions that the member says it owns.
fn beat(group: &str, member: &str, epoch: i8, owned: Option<u8>) -> ConsumerHeartbeat {
    if epoch == 0 {
        return first_beat(group, member);
    }
    let held = |bits: u8| (0..8).filter(|p| bits & (1 << p) != 0).collect::<Vec<_>>();
    ConsumerHeartbeat {
        owned: owned.map(|bits| partitions(&held(bits))),
        ..next_beat(group, member, i32::from(epoch))
    }
}

fn play_admin(harness: &mut Harness, one: Move) {
    let name = |group: u8| format!("group-{group}");
    match one {
        Move::Commit {
            group,
            member,
            epoch,
        } => {
            let member = if epoch < 0 {
                String::new()
            } else {
                format!("member-{member}")
            };
            harness.commit(&name(group), &member, i32::from(epoch), 5);
        }
        Move::Delete { group } => {
            harness.delete_group(&name(group));
        }
        Move::DeleteOffsets { group } => {
            let partitions = vec![("orders".into(), PartitionId::new(0))];
            let request = DeleteOffsets {
                group_id: name(group).into(),
                partitions,
                whole_topics: Vec::new(),
            };
            harness.ask(GroupRequest::DeleteOffsets(request));
        }
        Move::Reset { group } => {
            let offsets = vec![new_offset("orders", 1, 9)];
            let request = ResetOffsets {
                group_id: name(group).into(),
                offsets,
                dry_run: false,
            };
            harness.ask(GroupRequest::Reset(request));
        }
        Move::Topics(more) => {
            harness.set_topics(&[("orders", 1, 3 + i32::from(more)), ("payments", 2, 2)]);
        }
        Move::TopicGone => {
            let gone = vec![("orders".into(), topic_id(1))];
            harness.ask(GroupRequest::TopicsDeleted(gone));
        }
        Move::Pass(seconds) => harness.pass(u32::from(seconds) * SECOND),
        Move::PassDays(days) => harness.pass_wall(i64::from(days) * DAY_MS),
        Move::Restart => harness.restart(),
        other => unreachable!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn replay_and_snapshot_give_the_live_state(moves in proptest::collection::vec(any_move(), 1..60)) {
        let mut harness = Harness::new();
        let mut ids = Ids::default();
        for one in moves {
            play(&mut harness, &mut ids, one);
            harness.check_replay();
        }
        harness.restart();
    }
}
