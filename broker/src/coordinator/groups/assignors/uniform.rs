//! `uniform`: everybody gets as many partitions as can be, and keeps what it had as far as that allows.
//!
//! 1. Members keep what they had and are still subscribed to.
//! 2. Where all are subscribed to the same, whoever has more than its share gives the surplus back.
//! 3. What nobody has goes to the subscriber that has least.
//! 4. Where subscriptions differ, partitions move from those that have more to subscribers that have at least two
//!    less, until no such move is left: each makes the sum of squares smaller, so that this ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use logweir_proto::{PartitionId, TopicId};

use super::Subscriber;
use crate::coordinator::groups::ids::{Assignment, MemberId};

type Place = (TopicId, PartitionId);

pub(super) fn assign(members: &BTreeMap<MemberId, Subscriber>) -> BTreeMap<MemberId, Assignment> {
    let mut draft = Draft::new(members);
    if draft.is_homogeneous {
        draft.trim();
        draft.hand_out();
    } else {
        draft.hand_out();
        draft.balance();
    }
    let named = draft.ids.into_iter().zip(draft.held);
    named
        .map(|(id, held)| (Arc::clone(id), held.into_iter().collect()))
        .collect()
}

/// Members by their number, in the order of their ids.
struct Draft<'a> {
    ids: Vec<&'a MemberId>,
    /// Who is subscribed to each topic, as lists are shared by topics with equal subscribers.
    subscribers: BTreeMap<TopicId, Vec<usize>>,
    held: Vec<BTreeSet<Place>>,
    free: BTreeSet<Place>,
    is_homogeneous: bool,
}

impl<'a> Draft<'a> {
    fn new(members: &'a BTreeMap<MemberId, Subscriber>) -> Self {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        let mut free = BTreeSet::new();
        for (number, member) in members.values().enumerate() {
            for (topic, partitions) in &member.topics {
                let of_topic = subscribers.entry(*topic).or_default();
                if of_topic.is_empty() {
                    free.extend((0..*partitions).map(|p| (*topic, PartitionId::new(p))));
                }
                of_topic.push(number);
            }
        }
        let keep = |member: &Subscriber, free: &mut BTreeSet<Place>| {
            let is_wanted = |place: &Place| member.topics.contains_key(&place.0);
            // Taken out of what is free, so that nothing is kept twice, nor what no longer exists.
            member
                .target
                .iter()
                .filter(is_wanted)
                .filter(|place| free.remove(place))
                .collect()
        };
        let held = members
            .values()
            .map(|member| keep(member, &mut free))
            .collect();
        let is_homogeneous = subscribers
            .values()
            .all(|of_topic| of_topic.len() == members.len());
        Self {
            ids: members.keys().collect(),
            subscribers,
            held,
            free,
            is_homogeneous,
        }
    }

    /// Takes from who has more than its share. As many as there is a remainder may keep one more.
    fn trim(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let total = self.free.len() + self.held.iter().map(BTreeSet::len).sum::<usize>();
        let (share, mut more) = (total / self.ids.len(), total % self.ids.len());
        for held in &mut self.held {
            let mut quota = share;
            if held.len() > share && more > 0 {
                (quota, more) = (share + 1, more - 1);
            }
            while held.len() > quota {
                self.free.extend(held.pop_last());
            }
        }
    }

    fn hand_out(&mut self) {
        if self.is_homogeneous {
            let mut by_load: BTreeSet<(usize, usize)> = self
                .held
                .iter()
                .enumerate()
                .map(|(number, held)| (held.len(), number))
                .collect();
            for place in std::mem::take(&mut self.free) {
                let Some((load, number)) = by_load.pop_first() else {
                    return;
                };
                self.held[number].insert(place);
                by_load.insert((load + 1, number));
            }
            return;
        }
        // Topics that few are subscribed to first: the others can make up for it.
        let mut free: Vec<Place> = std::mem::take(&mut self.free).into_iter().collect();
        free.sort_by_key(|(topic, partition)| (self.subscribers[topic].len(), *topic, *partition));
        for place in free {
            let least = self.least_loaded(place.0);
            self.held[least].insert(place);
        }
    }

    fn least_loaded(&self, topic: TopicId) -> usize {
        let of_topic = self.subscribers[&topic].iter().copied();
        let least = of_topic.min_by_key(|number| (self.held[*number].len(), *number));
        least.expect("a topic is listed because somebody is subscribed to it")
    }

    fn balance(&mut self) {
        loop {
            let mut moved = false;
            for number in 0..self.held.len() {
                for place in self.held[number].clone() {
                    let least = self.least_loaded(place.0);
                    if self.held[least].len() + 1 < self.held[number].len() {
                        self.held[number].remove(&place);
                        self.held[least].insert(place);
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }
}
