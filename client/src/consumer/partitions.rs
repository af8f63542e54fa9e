//! The partitions that a consumer owns, and how far each is handed out, marked and committed.
//!
//! Pure. `start <= mark <= handed out` holds unless the application commits or seeks as it likes. Every ownership has a
//! number of its own: what was marked or queued under an earlier one says nothing about a later one, because another
//! member may have come further in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use logweir_proto::{LeaderEpoch, Offset, TopicId};

use super::commits::Entry;
use crate::admin::OffsetToCommit;
use crate::error::{Error, ErrorKind, Result};
use crate::reader::StartAt;
use crate::topic_partition::TopicPartition;

/// An offset with the leader epoch of the record before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: Offset,
    pub(super) leader_epoch: LeaderEpoch,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) topic_id: TopicId,
    ownership: u64,
    /// Nothing below was handed out.
    start: Offset,
    handed_out: Option<Position>,
    /// The last record handed out; below the position by what is not shown.
    last: Offset,
    mark: Option<Position>,
    /// The application committed an offset of its own, and nothing was handed out since.
    committed_by_hand: bool,
    /// What was given to be committed last, and what was committed last.
    queued: Option<Offset>,
    pub(super) committed: Option<Offset>,
    /// Where the application wants to go on, until the reader is told.
    pub(super) seek: Option<StartAt>,
    pub(super) paused: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    owned: BTreeMap<TopicPartition, Owned>,
    ownerships: u64,
    /// What was handed out since the last poll: partitions, and records of each.
    unmarked: Vec<(TopicPartition, u64)>,
    /// Records marked since the last automatic commit.
    marked: u64,
    /// Whether the reader has to be told of a seek, a pause or a resumption.
    pub(super) has_orders: bool,
}

impl Partitions {
    pub(super) fn get(&self, place: &TopicPartition) -> Option<&Owned> {
        self.owned.get(place)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Owned)> {
        self.owned.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&TopicPartition, &mut Owned)> {
        self.owned.iter_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.owned.is_empty()
    }

    pub(super) fn add(
        &mut self,
        place: TopicPartition,
        topic_id: TopicId,
        committed: Option<Offset>,
    ) {
        self.ownerships += 1;
        let owned = Owned {
            topic_id,
            ownership: self.ownerships,
            start: committed.unwrap_or(Offset::ZERO),
            handed_out: None,
            last: Offset::ZERO,
            mark: None,
            committed_by_hand: false,
            queued: committed,
            committed,
            seek: None,
            paused: false,
        };
        self.owned.insert(place, owned);
    }

    pub(super) fn remove(&mut self, place: &TopicPartition) {
        self.owned.remove(place);
        self.unmarked.retain(|(unmarked, _)| unmarked != place);
    }

    /// Takes all of them away.
    pub(super) fn clear(&mut self) -> Vec<TopicPartition> {
        self.unmarked.clear();
        self.marked = 0;
        std::mem::take(&mut self.owned).into_keys().collect()
    }

    /// The application, or the reader, goes on elsewhere.
    ///
    /// # Errors
    /// If the partition is not owned.
    pub(super) fn seek(&mut self, place: &TopicPartition, to: StartAt) -> Result<()> {
        let owned = self.wanted(place)?;
        owned.seek = Some(to);
        owned.handed_out = None;
        (owned.start, owned.mark) = match to {
            StartAt::Offset(offset) => {
                let leader_epoch = LeaderEpoch::NONE;
                let mark = Position {
                    offset,
                    leader_epoch,
                };
                (offset, Some(mark))
            }
            _ => (Offset::ZERO, None),
        };
        self.has_orders = true;
        self.unmarked.retain(|(unmarked, _)| unmarked != place);
        Ok(())
    }

    /// # Errors
    /// If the partition is not owned.
    pub(super) fn pause(&mut self, place: &TopicPartition, paused: bool) -> Result<()> {
        self.wanted(place)?.paused = paused;
        self.has_orders = true;
        Ok(())
    }

    /// Records from `first` to `last` were handed out, and there are no others below `next`.
    pub(super) fn hand_out(
        &mut self,
        place: &TopicPartition,
        (first, last): (Offset, Offset),
        next: Position,
        records: u64,
    ) {
        if let Some(owned) = self.owned.get_mut(place) {
            let expected = owned.handed_out.map_or(owned.start, |next| next.offset);
            if first < expected {
                // The reader went back, because the log did not have what it wanted: a seek, only not by the application.
                owned.start = first;
                owned.mark = None;
            }
            owned.handed_out = Some(next);
            owned.last = last;
            owned.committed_by_hand = false;
            self.unmarked.push((place.clone(), records));
        }
    }

    /// The application has come back: what was handed out is done with, if `auto_mark` says so.
    pub(super) fn come_back(&mut self, auto_mark: bool) {
        for (place, records) in std::mem::take(&mut self.unmarked) {
            let Some(owned) = self.owned.get_mut(&place).filter(|_| auto_mark) else {
                continue;
            };
            if owned.mark != owned.handed_out {
                owned.mark = owned.handed_out;
                self.marked += records;
            }
        }
    }

    /// The application is done with the record at `offset` and those before it.
    ///
    /// # Errors
    /// If the record was not handed out by this consumer since it owns the partition.
    pub(super) fn mark(
        &mut self,
        place: &TopicPartition,
        offset: Offset,
        leader_epoch: LeaderEpoch,
    ) -> Result<()> {
        let owned = self.wanted(place)?;
        let Some(next) = owned
            .handed_out
            .filter(|_| (owned.start..=owned.last).contains(&offset))
        else {
            let message = format!(
                "the record at offset {offset} was not handed out since this consumer owns the partition, or has sought in it"
            );
            return Err(Error::new(ErrorKind::Fenced, message)
                .of_partition(Arc::clone(&place.topic), place.partition)
                .with_action(
                    "leave it: what is to be read is handed out anew, to this or another member",
                ));
        };
        let mark = if offset == owned.last {
            next
        } else {
            Position {
                offset: offset.plus(1),
                leader_epoch,
            }
        };
        if owned.mark.is_none_or(|before| before.offset < mark.offset) {
            owned.mark = Some(mark);
            self.marked += 1;
        }
        Ok(())
    }

    /// Records marked since the last automatic commit.
    pub(super) fn marked(&self) -> u64 {
        self.marked
    }

    /// What an automatic commit has to commit: marks that were not given to be committed yet.
    pub(super) fn take_new_marks(&mut self, of: impl Fn(&TopicPartition) -> bool) -> Vec<Entry> {
        self.marked = 0;
        self.take_marks(|place, owned| {
            of(place) && owned.mark.map(|mark| mark.offset) != owned.queued
        })
    }

    /// What a commit that is asked for has to commit: marks that are not known to be committed.
    pub(super) fn take_uncommitted_marks(
        &mut self,
        of: impl Fn(&TopicPartition) -> bool,
    ) -> Vec<Entry> {
        self.take_marks(|place, owned| {
            of(place) && owned.mark.map(|mark| mark.offset) != owned.committed
        })
    }

    fn take_marks(&mut self, of: impl Fn(&TopicPartition, &Owned) -> bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (place, owned) in &mut self.owned {
            let Some(mark) = owned.mark.filter(|_| of(place, owned)) else {
                continue;
            };
            owned.queued = Some(mark.offset);
            entries.push(owned.entry(place, mark));
        }
        entries
    }

    /// Marks where the reader stands, in partitions of which all that was handed out is marked: past the last record there
    /// may be what is not shown, and where nothing was handed out nothing would ever be committed.
    pub(super) fn settle(&mut self, position: impl Fn(&TopicPartition) -> Option<Offset>) {
        for (place, owned) in &mut self.owned {
            let is_settled = owned.mark == owned.handed_out || owned.handed_out.is_none();
            let Some(offset) = position(place).filter(|_| is_settled && owned.seek.is_none())
            else {
                continue;
            };
            let known = owned.mark.map(|mark| mark.offset).or(owned.committed);
            if known.is_none_or(|known| known < offset) {
                let leader_epoch = owned
                    .handed_out
                    .map_or(LeaderEpoch::NONE, |next| next.leader_epoch);
                let settled = Position {
                    offset,
                    leader_epoch,
                };
                (owned.mark, owned.handed_out) = (Some(settled), Some(settled));
            }
        }
    }

    /// What is to be committed as the application says.
    ///
    /// # Errors
    /// If a partition is not owned.
    pub(super) fn take_offsets(&mut self, offsets: Vec<OffsetToCommit>) -> Result<Vec<Entry>> {
        // All of them, or none.
        for wanted in &offsets {
            self.wanted(&wanted.partition)?;
        }
        let mut entries = Vec::with_capacity(offsets.len());
        for wanted in offsets {
            let owned = self.wanted(&wanted.partition)?;
            let mark = Position {
                offset: wanted.offset,
                leader_epoch: wanted.leader_epoch.unwrap_or(LeaderEpoch::NONE),
            };
            owned.mark = Some(mark);
            owned.queued = Some(mark.offset);
            owned.committed_by_hand = true;
            let mut entry = owned.entry(&wanted.partition, mark);
            entry.topic_id = wanted.topic_id.unwrap_or(entry.topic_id);
            entry.metadata = wanted.metadata;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// A position to be committed before its records are handed out.
    pub(super) fn take_position(&mut self, place: &TopicPartition, to: Position) -> Option<Entry> {
        let owned = self.owned.get_mut(place)?;
        owned.queued = Some(to.offset);
        Some(owned.entry(place, to))
    }

    /// At most once: where reading stands, where that is not what was committed. What was committed and never handed out is
    /// given back by that. What the application committed itself stays as it is.
    pub(super) fn take_positions(
        &mut self,
        position: impl Fn(&TopicPartition) -> Option<Offset>,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (place, owned) in &mut self.owned {
            let offset = position(place).filter(|offset| Some(*offset) != owned.queued);
            let Some(offset) = offset.filter(|_| !owned.committed_by_hand) else {
                continue;
            };
            let leader_epoch = owned
                .handed_out
                .map_or(LeaderEpoch::NONE, |next| next.leader_epoch);
            owned.queued = Some(offset);
            let to = Position {
                offset,
                leader_epoch,
            };
            entries.push(owned.entry(place, to));
        }
        entries
    }

    /// Whether the ownership under which an entry was made goes on.
    pub(super) fn still_owns(&self, entry: &Entry) -> bool {
        let owned = self.owned.get(&entry.place);
        owned.is_some_and(|owned| owned.ownership == entry.ownership)
    }

    /// An entry was committed, or was not.
    pub(super) fn decided(&mut self, entry: &Entry, committed: bool) {
        let owned = self.owned.get_mut(&entry.place);
        if let Some(owned) = owned.filter(|owned| owned.ownership == entry.ownership) {
            if committed {
                owned.committed = Some(entry.offset);
            } else if owned.queued == Some(entry.offset) {
                owned.queued = owned.committed;
            }
        }
    }

    fn wanted(&mut self, place: &TopicPartition) -> Result<&mut Owned> {
        self.owned.get_mut(place).ok_or_else(|| not_owned(place))
    }
}

impl Owned {
    fn entry(&self, place: &TopicPartition, to: Position) -> Entry {
        Entry {
            place: place.clone(),
            topic_id: self.topic_id,
            ownership: self.ownership,
            offset: to.offset,
            leader_epoch: to.leader_epoch,
            metadata: String::new(),
        }
    }
}

/// The error for a partition that this consumer does not own.
pub(super) fn not_owned(place: &TopicPartition) -> Error {
    Error::new(
        ErrorKind::Fenced,
        "the partition is not assigned to this consumer",
    )
    .of_partition(Arc::clone(&place.topic), place.partition)
    .with_action("leave it: another member of the group may read it now")
}

#[cfg(test)]
mod tests {
    use logweir_proto::PartitionId;

    use super::*;

    fn place() -> TopicPartition {
        TopicPartition::new("t", PartitionId::new(0))
    }

    fn position(offset: i64) -> Position {
        Position {
            offset: Offset::new(offset),
            leader_epoch: LeaderEpoch::new(3),
        }
    }

    /// Partition 0 of "t", of which `committed` was committed.
    fn owned(committed: Option<i64>) -> Partitions {
        let mut partitions = Partitions::default();
        partitions.add(place(), TopicId::ZERO, committed.map(Offset::new));
        partitions
    }

    fn hand_out(partitions: &mut Partitions, last: i64, next: i64) {
        let count = 1;
        let offsets = (Offset::new(last), Offset::new(last));
        partitions.hand_out(&place(), offsets, position(next), count);
    }

    fn offsets(entries: &[Entry]) -> Vec<i64> {
        entries.iter().map(|entry| entry.offset.get()).collect()
    }

    fn mark(partitions: &mut Partitions, offset: i64) -> Result<()> {
        partitions.mark(&place(), Offset::new(offset), LeaderEpoch::new(3))
    }

    #[test]
    fn only_what_was_handed_out_can_be_marked_and_the_last_takes_in_what_is_not_shown() {
        let mut partitions = owned(Some(5));
        assert_eq!(
            mark(&mut partitions, 5).unwrap_err().kind(),
            ErrorKind::Fenced
        );
        // The record at 7 is the last before 12: those between are not shown.
        hand_out(&mut partitions, 7, 12);
        assert!(
            mark(&mut partitions, 4).is_err(),
            "handed out before it was owned"
        );
        assert!(mark(&mut partitions, 8).is_err());
        mark(&mut partitions, 6).unwrap();
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [7]);
        mark(&mut partitions, 7).unwrap();
        // A mark does not go back.
        mark(&mut partitions, 5).unwrap();
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [12]);
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [0; 0]);
        // Until it is known to be committed, one that is asked for takes it again.
        let entries = partitions.take_uncommitted_marks(|_| true);
        assert_eq!(offsets(&entries), [12]);
        partitions.decided(&entries[0], true);
        assert_eq!(
            offsets(&partitions.take_uncommitted_marks(|_| true)),
            [0; 0]
        );
    }

    #[test]
    fn coming_back_marks_all_that_was_handed_out_if_it_is_to() {
        let mut partitions = owned(None);
        hand_out(&mut partitions, 0, 1);
        hand_out(&mut partitions, 1, 2);
        partitions.come_back(false);
        assert_eq!(
            (
                partitions.marked(),
                offsets(&partitions.take_uncommitted_marks(|_| true))
            ),
            (0, vec![])
        );
        hand_out(&mut partitions, 2, 3);
        partitions.come_back(true);
        assert_eq!(partitions.marked(), 1);
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [3]);
        assert_eq!(partitions.marked(), 0);
    }

    #[test]
    fn a_commit_that_failed_is_to_be_made_again() {
        let mut partitions = owned(Some(0));
        hand_out(&mut partitions, 4, 5);
        mark(&mut partitions, 4).unwrap();
        let entries = partitions.take_new_marks(|_| true);
        partitions.decided(&entries[0], false);
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [5]);
    }

    #[test]
    fn what_was_queued_under_an_earlier_ownership_says_nothing() {
        let mut partitions = owned(Some(0));
        hand_out(&mut partitions, 4, 5);
        mark(&mut partitions, 4).unwrap();
        let old = partitions.take_new_marks(|_| true);
        partitions.remove(&place());
        assert!(!partitions.still_owns(&old[0]));
        assert_eq!(
            mark(&mut partitions, 4).unwrap_err().kind(),
            ErrorKind::Fenced
        );
        partitions.add(place(), TopicId::ZERO, Some(Offset::new(9)));
        assert!(!partitions.still_owns(&old[0]));
        partitions.decided(&old[0], true);
        assert_eq!(
            partitions.get(&place()).unwrap().committed,
            Some(Offset::new(9))
        );
        assert!(mark(&mut partitions, 4).is_err());
    }

    #[test]
    fn a_seek_is_where_the_next_commit_goes_unless_more_is_marked() {
        let mut partitions = owned(Some(0));
        hand_out(&mut partitions, 4, 5);
        partitions
            .seek(&place(), StartAt::Offset(Offset::new(2)))
            .unwrap();
        assert!(partitions.has_orders);
        // What was handed out before the seek is not marked by coming back.
        partitions.come_back(true);
        assert_eq!(offsets(&partitions.take_uncommitted_marks(|_| true)), [2]);
        hand_out(&mut partitions, 2, 3);
        partitions.come_back(true);
        assert_eq!(offsets(&partitions.take_uncommitted_marks(|_| true)), [3]);
        // A place that is not known yet is not committed.
        partitions.seek(&place(), StartAt::Earliest).unwrap();
        assert_eq!(
            offsets(&partitions.take_uncommitted_marks(|_| true)),
            [0; 0]
        );
        let elsewhere = TopicPartition::new("t", PartitionId::new(1));
        assert!(partitions.seek(&elsewhere, StartAt::Earliest).is_err());
    }

    #[test]
    fn what_is_behind_the_last_record_is_settled_once_all_before_is_marked() {
        let at = |offset: i64| move |_: &TopicPartition| Some(Offset::new(offset));
        let mut partitions = owned(None);
        // Nothing is shown at all.
        partitions.settle(at(3));
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [3]);
        hand_out(&mut partitions, 4, 5);
        partitions.settle(at(8));
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [0; 0]);
        mark(&mut partitions, 4).unwrap();
        partitions.settle(at(8));
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [8]);
        partitions.settle(at(6));
        assert_eq!(offsets(&partitions.take_new_marks(|_| true)), [0; 0]);
    }

    #[test]
    fn at_most_once_reading_stands_where_it_does_unless_the_application_says_otherwise() {
        let at = |offset: i64| move |_: &TopicPartition| Some(Offset::new(offset));
        let mut partitions = owned(Some(0));
        hand_out(&mut partitions, 4, 5);
        assert_eq!(offsets(&partitions.take_positions(at(5))), [5]);
        assert_eq!(offsets(&partitions.take_positions(at(5))), [0; 0]);
        let by_hand = OffsetToCommit::new("t", PartitionId::new(0), Offset::new(3));
        partitions.take_offsets(vec![by_hand]).unwrap();
        assert_eq!(offsets(&partitions.take_positions(at(5))), [0; 0]);
        hand_out(&mut partitions, 6, 7);
        assert_eq!(offsets(&partitions.take_positions(at(7))), [7]);
    }

    #[test]
    fn offsets_are_committed_as_the_application_says_also_backwards() {
        let mut partitions = owned(Some(7));
        let offset = |partition: i32, offset: i64| {
            OffsetToCommit::new("t", PartitionId::new(partition), Offset::new(offset))
        };
        let entries = partitions
            .take_offsets(vec![offset(0, 2).metadata("m")])
            .unwrap();
        assert_eq!(
            (offsets(&entries), entries[0].metadata.as_str()),
            (vec![2], "m")
        );
        assert!(
            partitions
                .take_offsets(vec![offset(0, 3), offset(1, 2)])
                .is_err()
        );
    }
}
