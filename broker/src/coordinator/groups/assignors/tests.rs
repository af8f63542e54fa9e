//! What must hold of every assignor, and what each promises beyond that.

use std::collections::BTreeSet;

use logweir_proto::PartitionId;
use proptest::prelude::*;

use super::*;

fn topic(number: u8) -> TopicId {
    TopicId::new([number; 16])
}

/// Members as (id, topics with partitions); what they had is that of `before`.
fn group(
    members: &[(&str, &[(u8, i32)])],
    before: &BTreeMap<MemberId, Assignment>,
) -> BTreeMap<MemberId, Subscriber> {
    let subscriber = |id: &str, topics: &[(u8, i32)]| Subscriber {
        instance_id: None,
        topics: Arc::new(topics.iter().map(|(t, n)| (topic(*t), *n)).collect()),
        target: Arc::new(before.get(id).cloned().unwrap_or_default()),
    };
    members
        .iter()
        .map(|(id, topics)| (Arc::from(*id), subscriber(id, topics)))
        .collect()
}

fn numbers(assignment: &Assignment, of: u8) -> Vec<i32> {
    let held = assignment.iter().filter(|(t, _)| *t == topic(of));
    held.map(|(_, p)| p.get()).collect()
}

fn moved(before: &BTreeMap<MemberId, Assignment>, after: &BTreeMap<MemberId, Assignment>) -> usize {
    let lost =
        |(id, had): (&MemberId, &Assignment)| after.get(id).map_or(0, |has| had.without(has).len());
    before.iter().map(lost).sum()
}

#[test]
fn range_cuts_each_topic_into_runs_that_match() {
    let topics: &[(u8, i32)] = &[(1, 5), (2, 5), (3, 1)];
    let members = group(&[("a", topics), ("b", topics)], &BTreeMap::new());
    let assigned = Assignor::Range.assign(&members);
    for of in [1, 2] {
        assert_eq!(numbers(&assigned["a"], of), [0, 1, 2]);
        assert_eq!(numbers(&assigned["b"], of), [3, 4]);
    }
    assert_eq!(numbers(&assigned["a"], 3), [0]);
    assert_eq!(numbers(&assigned["b"], 3), [0; 0]);
}

#[test]
fn range_orders_static_members_by_their_instance() {
    let mut members = group(&[("x", &[(1, 2)]), ("y", &[(1, 2)])], &BTreeMap::new());
    members.get_mut("x").unwrap().instance_id = Some("second".into());
    members.get_mut("y").unwrap().instance_id = Some("first".into());
    let assigned = Assignor::Range.assign(&members);
    assert_eq!(numbers(&assigned["y"], 1), [0]);
    assert_eq!(numbers(&assigned["x"], 1), [1]);
}

#[test]
fn uniform_moves_no_more_than_it_must_when_members_come_and_go() {
    let topics: &[(u8, i32)] = &[(1, 6), (2, 3)];
    let two = Assignor::Uniform.assign(&group(&[("a", topics), ("b", topics)], &BTreeMap::new()));
    assert_eq!((two["a"].len(), two["b"].len()), (5, 4));
    let three = group(&[("a", topics), ("b", topics), ("c", topics)], &two);
    let three = Assignor::Uniform.assign(&three);
    assert_eq!(
        three.values().map(Assignment::len).collect::<Vec<_>>(),
        [3, 3, 3]
    );
    assert_eq!(moved(&two, &three), 3);
    let again = Assignor::Uniform.assign(&group(&[("a", topics), ("c", topics)], &three));
    assert_eq!(
        again.values().map(Assignment::len).collect::<Vec<_>>(),
        [5, 4]
    );
    assert_eq!(moved(&three, &again), 0);
}

#[test]
fn uniform_balances_members_that_are_subscribed_to_different_topics() {
    let members: &[(&str, &[(u8, i32)])] = &[("a", &[(1, 4), (2, 4)]), ("b", &[(1, 4)])];
    let assigned = Assignor::Uniform.assign(&group(members, &BTreeMap::new()));
    assert_eq!(numbers(&assigned["a"], 2), [0, 1, 2, 3]);
    assert_eq!(numbers(&assigned["b"], 1), [0, 1, 2, 3]);
}

#[test]
fn nobody_and_nothing_can_be_assigned() {
    for assignor in Assignor::ALL {
        assert!(assignor.assign(&BTreeMap::new()).is_empty());
        let assigned = assignor.assign(&group(&[("a", &[])], &BTreeMap::new()));
        assert!(assigned["a"].is_empty());
        assert_eq!(Assignor::from_name(assignor.name()), Some(assignor));
    }
    assert_eq!(Assignor::from_name("sticky"), None);
}

/// Up to 8 members with up to 4 topics each, out of 4 topics of up to 12 partitions.
fn any_group() -> impl Strategy<Value = Vec<BTreeSet<u8>>> {
    proptest::collection::vec(proptest::collection::btree_set(0_u8..4, 0..4), 0..8)
}

proptest! {
    #[test]
    fn every_partition_has_one_owner_who_is_subscribed(
        first in any_group(), second in any_group(), sizes in proptest::array::uniform4(0_i32..12),
    ) {
        for assignor in Assignor::ALL {
            let mut before = BTreeMap::new();
            for subscriptions in [&first, &second, &second] {
                let members: BTreeMap<MemberId, Subscriber> = subscriptions.iter().enumerate().map(|(n, topics)| {
                    let id: MemberId = format!("member-{n}").into();
                    let topics = Arc::new(topics.iter().map(|t| (topic(*t), sizes[usize::from(*t)])).collect());
                    let target = Arc::new(before.get(&id).cloned().unwrap_or_default());
                    (id, Subscriber { instance_id: None, topics, target })
                }).collect();
                let assigned = assignor.assign(&members);
                let mut seen = BTreeSet::new();
                for (id, assignment) in &assigned {
                    for (topic, partition) in assignment.iter() {
                        prop_assert!(members[id].topics.contains_key(&topic));
                        prop_assert!(seen.insert((topic, partition)));
                    }
                }
                let wanted: BTreeSet<_> = members.values().flat_map(|m| m.topics.iter()).flat_map(|(t, n)| {
                    (0..*n).map(|p| (*t, PartitionId::new(p)))
                }).collect();
                prop_assert_eq!(&seen, &wanted);
                before = assigned;
            }
            // Assigning the same again moves nothing.
            let members: BTreeMap<MemberId, Subscriber> = second.iter().enumerate().map(|(n, topics)| {
                let id: MemberId = format!("member-{n}").into();
                let topics = Arc::new(topics.iter().map(|t| (topic(*t), sizes[usize::from(*t)])).collect());
                let target = Arc::new(before.get(&id).cloned().unwrap_or_default());
                (id, Subscriber { instance_id: None, topics, target })
            }).collect();
            prop_assert_eq!(assignor.assign(&members), before);
        }
    }

    #[test]
    fn uniform_loads_differ_by_at_most_one_where_all_want_the_same(
        count in 1_usize..12, sizes in proptest::array::uniform4(0_i32..12),
    ) {
        let topics: BTreeMap<TopicId, i32> = (0_u8..4).map(|t| (topic(t), sizes[usize::from(t)])).collect();
        let topics = Arc::new(topics);
        let members: BTreeMap<MemberId, Subscriber> = (0..count).map(|n| {
            let subscriber = Subscriber { topics: Arc::clone(&topics), ..Subscriber::default() };
            (format!("member-{n}").into(), subscriber)
        }).collect();
        let loads: Vec<usize> = Assignor::Uniform.assign(&members).values().map(Assignment::len).collect();
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
    }
}
