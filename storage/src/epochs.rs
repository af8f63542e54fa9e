//! Leader epoch -> start offset: what KIP-101 and KIP-279 cut diverging replicas by.
//!
//! Epochs and start offsets both rise strictly. Entries come from appended batches; the file is written
//! before the recovery point passes them, and what lies above the recovery point is found again by the scan.

use logweir_proto::{LeaderEpoch, Offset};

use crate::checked_file::{self, Damage, Fields, magic};

const VERSION: u16 = 1;
/// Epoch (4), start offset (8).
pub(crate) const ENTRY_LEN: usize = 12;

/// Leader epochs of one log, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs {
    entries: Vec<(LeaderEpoch, Offset)>,
}

impl Epochs {
    /// Notes that `epoch` writes from `start`; an epoch that is not above the last is known already.
    /// Returns whether something changed.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if epoch <= self.last() {
            return false;
        }
        // An epoch that wrote nothing gives way, so that start offsets rise strictly.
        while self.entries.last().is_some_and(|&(_, at)| at >= start) {
            self.entries.pop();
        }
        self.entries.push((epoch, start));
        true
    }

    /// The newest epoch, [`LeaderEpoch::NONE`] if there is none.
    pub(crate) fn last(&self) -> LeaderEpoch {
        self.entries
            .last()
            .map_or(LeaderEpoch::NONE, |&(epoch, _)| epoch)
    }

    /// The epoch that wrote `offset`, [`LeaderEpoch::NONE`] if it lies before the first entry.
    pub(crate) fn of(&self, offset: Offset) -> LeaderEpoch {
        let after = self.entries.partition_point(|&(_, start)| start <= offset);
        match after.checked_sub(1) {
            Some(at) => self.entries[at].0,
            None => LeaderEpoch::NONE,
        }
    }

    /// The end offset (exclusive) of the largest epoch not above `epoch`, and that epoch; `None` if `epoch`
    /// is newer than all, or nothing is known (KIP-279).
    pub(crate) fn end_of(
        &self,
        epoch: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let after = self.entries.partition_point(|&(known, _)| known <= epoch);
        if epoch > self.last() {
            return None;
        }
        let end = self.entries.get(after).map_or(log_end, |&(_, start)| start);
        match after.checked_sub(1) {
            Some(at) => Some((self.entries[at].0, end)),
            // Older than all that is kept: the records of that epoch are gone.
            None => Some((epoch, end)),
        }
    }

    /// Forgets epochs that start at or above `end`. Returns whether something changed.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|&(_, start)| start < end);
        before != self.entries.len()
    }

    /// Forgets epochs that end at or below `log_start`; the one that holds `log_start` begins there.
    /// Returns whether something changed.
    pub(crate) fn truncate_from_start(&mut self, log_start: Offset) -> bool {
        let after = self
            .entries
            .partition_point(|&(_, start)| start <= log_start);
        let Some(holder) = after.checked_sub(1) else {
            return false;
        };
        let changed = holder > 0 || self.entries[holder].1 != log_start;
        self.entries.drain(..holder);
        self.entries[0].1 = log_start;
        changed
    }

    /// All entries, ascending.
    pub(crate) fn entries(&self) -> &[(LeaderEpoch, Offset)] {
        &self.entries
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.entries.len() * ENTRY_LEN);
        for (epoch, start) in &self.entries {
            body.extend_from_slice(&epoch.get().to_be_bytes());
            body.extend_from_slice(&start.get().to_be_bytes());
        }
        checked_file::frame(magic::LEADER_EPOCHS, VERSION, &body)
    }

    /// Reads the file's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let (_, body) = checked_file::unframe(magic::LEADER_EPOCHS, VERSION, bytes)?;
        let mut fields = Fields::new(body);
        let mut epochs = Self::default();
        while !fields.is_empty() {
            let epoch = LeaderEpoch::new(fields.i32()?);
            let start = Offset::new(fields.i64()?);
            let rises = epochs
                .entries
                .last()
                .is_none_or(|last| last.0 < epoch && last.1 < start);
            if !rises {
                return Err(Damage::new(checked_file::PREFIX_LEN, "epochs do not rise"));
            }
            epochs.entries.push((epoch, start));
        }
        Ok(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for &(epoch, start) in entries {
            epochs.assign(LeaderEpoch::new(epoch), Offset::new(start));
        }
        epochs
    }

    fn end_of(epochs: &Epochs, epoch: i32) -> Option<(i32, i64)> {
        let end = epochs.end_of(LeaderEpoch::new(epoch), Offset::new(100));
        end.map(|(epoch, end)| (epoch.get(), end.get()))
    }

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next() {
        let epochs = epochs(&[(1, 0), (3, 10), (7, 40)]);
        assert_eq!(end_of(&epochs, 1), Some((1, 10)));
        assert_eq!(end_of(&epochs, 2), Some((1, 10)));
        assert_eq!(end_of(&epochs, 5), Some((3, 40)));
        assert_eq!(end_of(&epochs, 7), Some((7, 100)));
        assert_eq!(end_of(&epochs, 8), None);
        assert_eq!(end_of(&epochs, 0), Some((0, 0)));
    }

    #[test]
    fn an_offset_belongs_to_the_epoch_that_started_last_before_it() {
        let epochs = epochs(&[(1, 5), (3, 10)]);
        assert_eq!(epochs.of(Offset::new(4)), LeaderEpoch::NONE);
        assert_eq!(epochs.of(Offset::new(9)), LeaderEpoch::new(1));
        assert_eq!(epochs.of(Offset::new(10)), LeaderEpoch::new(3));
    }

    #[test]
    fn an_epoch_that_wrote_nothing_gives_way() {
        let epochs = epochs(&[(1, 0), (2, 10), (3, 10), (3, 12)]);
        let expected = [(1, 0), (3, 10)].map(|(e, o)| (LeaderEpoch::new(e), Offset::new(o)));
        assert_eq!(epochs.entries(), expected);
    }

    #[test]
    fn truncation_keeps_the_epoch_that_holds_the_cut() {
        let mut both = epochs(&[(1, 0), (3, 10), (7, 40)]);
        assert!(both.truncate_from_end(Offset::new(40)));
        assert!(!both.truncate_from_end(Offset::new(40)));
        assert!(both.truncate_from_start(Offset::new(15)));
        assert_eq!(both, epochs(&[(3, 15)]));
        assert!(!both.truncate_from_start(Offset::new(15)));
    }

    #[test]
    fn the_file_gives_back_the_epochs() {
        let epochs = epochs(&[(1, 0), (3, 10)]);
        assert_eq!(Epochs::decode(&epochs.encode()), Ok(epochs));
    }
}
