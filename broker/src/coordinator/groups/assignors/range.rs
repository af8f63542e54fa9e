//! `range`: each topic's partitions are cut into runs of neighbours, one for each subscriber, in one order of members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use logweir_proto::{PartitionId, TopicId};

use super::Subscriber;
use crate::coordinator::groups::ids::{Assignment, MemberId};

pub(super) fn assign(members: &BTreeMap<MemberId, Subscriber>) -> BTreeMap<MemberId, Assignment> {
    let mut order: Vec<(&MemberId, &Subscriber)> = members.iter().collect();
    // Static members first, by what stays when they come back with another id.
    order.sort_by_key(|(id, m)| {
        (
            m.instance_id.is_none(),
            m.instance_id.clone(),
            Arc::clone(id),
        )
    });
    let mut assigned: BTreeMap<MemberId, Assignment> = members
        .keys()
        .map(|id| (Arc::clone(id), Assignment::default()))
        .collect();
    let topics: BTreeSet<(TopicId, i32)> = members
        .values()
        .flat_map(|m| m.topics.iter().map(|(id, n)| (*id, *n)))
        .collect();
    for (topic, partitions) in topics {
        let subscribers: Vec<&MemberId> = order
            .iter()
            .filter(|(_, m)| m.topics.contains_key(&topic))
            .map(|(id, _)| *id)
            .collect();
        let count = i32::try_from(subscribers.len()).unwrap_or(i32::MAX);
        let (each, more) = (partitions / count, partitions % count);
        let mut next = 0;
        for (place, id) in (0..count).zip(subscribers) {
            let end = next + each + i32::from(place < more);
            for partition in next..end {
                if let Some(assignment) = assigned.get_mut(id) {
                    assignment.insert(topic, PartitionId::new(partition));
                }
            }
            next = end;
        }
    }
    assigned
}
