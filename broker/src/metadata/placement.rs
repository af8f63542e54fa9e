//! Where a new partition's replicas go.

use std::collections::BTreeMap;

use logweir_proto::NodeId;

use super::image::BrokerImage;

/// Replicas for `count` new partitions, the preferred leader first. `first` is the number of the first of
/// them, `start` shifts the whole topic so that not every topic begins at the same node.
///
/// Kafka's way (KIP-36): nodes stand in a ring in which racks alternate; leaders go round the ring, and the
/// followers' distance from the leader grows by one with every round, so that the load of a lost node
/// spreads over all others. `factor` must not exceed the number of brokers, nor be 0.
pub(super) fn place<'a>(
    brokers: impl Iterator<Item = &'a BrokerImage>,
    first: usize,
    count: usize,
    factor: usize,
    start: usize,
) -> Vec<Vec<NodeId>> {
    let ring = alternate_racks(brokers);
    let nodes = ring.len();
    debug_assert!(
        (1..=nodes).contains(&factor),
        "the controller checks the factor"
    );
    let start = start % nodes;
    (first..first + count)
        .map(|partition| {
            let leader = (start + partition) % nodes;
            let round = start + partition / nodes;
            let mut replicas = vec![ring[leader]];
            replicas.extend((0..factor - 1).map(|follower| {
                let distance = 1 + (round + follower) % (nodes - 1);
                ring[(leader + distance) % nodes]
            }));
            replicas
        })
        .collect()
}

/// Nodes with racks taking turns.
fn alternate_racks<'a>(brokers: impl Iterator<Item = &'a BrokerImage>) -> Vec<NodeId> {
    let mut racks: BTreeMap<Option<&str>, Vec<NodeId>> = BTreeMap::new();
    for broker in brokers {
        racks
            .entry(broker.rack.as_deref())
            .or_default()
            .push(broker.node_id);
    }
    let longest = racks.values().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|round| {
            racks
                .values()
                .filter_map(move |nodes| nodes.get(round).copied())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use logweir_proto::BrokerEpoch;
    use std::collections::BTreeSet;

    fn broker(node_id: i32, rack: Option<&str>) -> BrokerImage {
        BrokerImage {
            node_id: NodeId::new(node_id),
            epoch: BrokerEpoch::new(0),
            directory_id: [0; 16],
            addresses: Default::default(),
            rack: rack.map(str::to_owned),
            fenced: false,
            version: String::new(),
            boot_id: None,
        }
    }

    #[test]
    fn leaders_and_followers_are_spread_evenly_and_never_twice_on_a_node() {
        let brokers: Vec<_> = (0..5).map(|id| broker(id, None)).collect();
        for start in [0, 1, 7, usize::MAX] {
            let placed = place(brokers.iter(), 0, 20, 3, start);
            let mut leads = BTreeMap::<NodeId, usize>::new();
            let mut holds = BTreeMap::<NodeId, usize>::new();
            for replicas in &placed {
                assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), 3);
                *leads.entry(replicas[0]).or_default() += 1;
                for node in replicas {
                    *holds.entry(*node).or_default() += 1;
                }
            }
            assert!(leads.values().all(|count| *count == 4), "{leads:?}");
            assert!(holds.values().all(|count| *count == 12), "{holds:?}");
        }
    }

    #[test]
    fn one_broker_takes_everything() {
        let brokers = [broker(7, None)];
        assert_eq!(
            place(brokers.iter(), 3, 2, 1, 9),
            vec![vec![NodeId::new(7)]; 2]
        );
    }

    #[test]
    fn racks_take_turns() {
        let racks = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")];
        let brokers: Vec<_> = racks.map(|(id, rack)| broker(id, Some(rack))).to_vec();
        let ring = alternate_racks(brokers.iter());
        assert_eq!(ring, [1, 3, 5, 2, 4].map(NodeId::new));
    }
}
