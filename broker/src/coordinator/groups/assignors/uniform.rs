//! `uniform`: everybody gets as many partitions as can be, and keeps what it had as far as that allows.
//!
//! 1. Members keep what they had and are still subscribed to.
//! 2. What nobody has goes to the subscriber that has least.
//! 3. Partitions move from those that have most to subscribers that have at least two less, until no such move is
//!    left: each makes the sum of squares smaller, so that this ends.
//!
//! Topics with equal subscribers are one class, within which it does not matter which partition is whose. Most groups
//! have one. Steps 2 and 3 take O(log n) for each partition that is handed out or moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use logweir_proto::{PartitionId, TopicId};

use super::Subscriber;
use crate::coordinator::groups::ids::{Assignment, MemberId};

type Place = (TopicId, PartitionId);

pub(super) fn assign(members: &BTreeMap<MemberId, Subscriber>) -> BTreeMap<MemberId, Assignment> {
    let mut draft = Draft::new(members);
    draft.keep(members);
    for class in &mut draft.classes {
        class.hand_out(&mut draft.loads);
    }
    loop {
        let mut moved = false;
        for class in &mut draft.classes {
            moved |= class.balance(&mut draft.loads);
        }
        // With one class a second look finds nothing.
        if !moved || draft.classes.len() < 2 {
            break;
        }
    }
    let mut assigned = vec![Assignment::default(); members.len()];
    for (number, place) in draft.classes.into_iter().flat_map(Class::into_places) {
        assigned[number].insert(place.0, place.1);
    }
    members.keys().map(Arc::clone).zip(assigned).collect()
}

/// Members by their number, in the order of their ids.
struct Draft {
    /// How many partitions each member has.
    loads: Vec<usize>,
    /// Those with few subscribers first: the others can make up for them.
    classes: Vec<Class>,
    class_of: BTreeMap<TopicId, usize>,
}

/// The partitions of topics that have the same subscribers.
struct Class {
    subscribers: Vec<usize>,
    held: BTreeMap<usize, BTreeSet<Place>>,
    free: BTreeSet<Place>,
}

impl Draft {
    /// With everything free.
    fn new(members: &BTreeMap<MemberId, Subscriber>) -> Self {
        let mut topics: BTreeMap<TopicId, (i32, Vec<usize>)> = BTreeMap::new();
        for (number, member) in members.values().enumerate() {
            for (topic, partitions) in &*member.topics {
                let (_, subscribers) = topics
                    .entry(*topic)
                    .or_insert_with(|| (*partitions, Vec::new()));
                subscribers.push(number);
            }
        }
        let mut by_subscribers: BTreeMap<_, Vec<(TopicId, i32)>> = BTreeMap::new();
        for (topic, (partitions, subscribers)) in topics {
            let key = (subscribers.len(), subscribers);
            by_subscribers
                .entry(key)
                .or_default()
                .push((topic, partitions));
        }
        let mut draft = Self {
            loads: vec![0; members.len()],
            classes: Vec::with_capacity(by_subscribers.len()),
            class_of: BTreeMap::new(),
        };
        for ((_, subscribers), topics) in by_subscribers {
            let class = draft.classes.len();
            draft
                .class_of
                .extend(topics.iter().map(|(t, _)| (*t, class)));
            let places = |(topic, count): (TopicId, i32)| {
                (0..count).map(move |p| (topic, PartitionId::new(p)))
            };
            draft.classes.push(Class {
                subscribers,
                held: BTreeMap::new(),
                free: topics.into_iter().flat_map(places).collect(),
            });
        }
        draft
    }

    /// Gives everybody what it had and still wants. Taken out of what is free, so that nothing is kept twice, nor what
    /// no longer exists.
    fn keep(&mut self, members: &BTreeMap<MemberId, Subscriber>) {
        for (number, member) in members.values().enumerate() {
            for (topic, partitions) in member.target.topics() {
                if !member.topics.contains_key(&topic) {
                    continue;
                }
                let Some(class) = self.class_of.get(&topic).map(|at| &mut self.classes[*at]) else {
                    continue;
                };
                for partition in partitions {
                    let place = (topic, *partition);
                    if class.free.remove(&place) {
                        class.held.entry(number).or_default().insert(place);
                        self.loads[number] += 1;
                    }
                }
            }
        }
    }
}

impl Class {
    /// Its subscribers by what they have, of other classes, too.
    fn by_load(&self, loads: &[usize]) -> BTreeSet<(usize, usize)> {
        let numbers = self.subscribers.iter();
        numbers.map(|number| (loads[*number], *number)).collect()
    }

    fn hand_out(&mut self, loads: &mut [usize]) {
        if self.free.is_empty() {
            return;
        }
        let mut by_load = self.by_load(loads);
        for place in std::mem::take(&mut self.free) {
            let least = by_load.pop_first();
            // A topic comes into a class by a member that is subscribed to it (`Draft::new`), whatever the members ask for;
            // and each turn puts back the one that it takes.
            let (load, number) = least.expect("a class is made of its subscribers");
            self.held.entry(number).or_default().insert(place);
            loads[number] = load + 1;
            by_load.insert((load + 1, number));
        }
    }

    /// Moves partitions until no subscriber has two more than another to whom it could give one; whether any moved.
    fn balance(&mut self, loads: &mut [usize]) -> bool {
        let mut by_load = self.by_load(loads);
        let mut givers: BTreeSet<(usize, usize)> =
            self.held.keys().map(|n| (loads[*n], *n)).collect();
        let mut moved = false;
        while let (Some(&(most, from)), Some(&(least, to))) = (givers.last(), by_load.first()) {
            if most < least + 2 {
                break;
            }
            by_load.remove(&(most, from));
            by_load.remove(&(least, to));
            givers.remove(&(most, from));
            givers.remove(&(least, to));
            // Givers are the keys of `held`, at the beginning and after each move: who is given a partition becomes one,
            // and who has given its last is none any more. An entry of `held` is made with a partition in it.
            let given = self.held.get_mut(&from).and_then(BTreeSet::pop_last);
            let place = given.expect("a giver has a partition of this class");
            self.held.entry(to).or_default().insert(place);
            (loads[from], loads[to]) = (most - 1, least + 1);
            by_load.extend([(most - 1, from), (least + 1, to)]);
            givers.insert((least + 1, to));
            if self.held[&from].is_empty() {
                self.held.remove(&from);
            } else {
                givers.insert((most - 1, from));
            }
            moved = true;
        }
        moved
    }

    fn into_places(self) -> impl Iterator<Item = (usize, Place)> {
        let held = self.held.into_iter();
        held.flat_map(|(number, places)| places.into_iter().map(move |place| (number, place)))
    }
}
