//! How a member gets from what it owns to its target: it lets go first, then takes what others have let go of.
//!
//! Pure. A partition is handed on only after its former owner no longer reports it (KIP-848, "reconciliation").

use logweir_proto::{PartitionId, TopicId};

use crate::coordinator::groups::ids::{Assignment, Epoch};
use crate::coordinator::groups::records::{CurrentValue, MemberState};

/// What a member is on its way to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal<'a> {
    pub(super) epoch: Epoch,
    pub(super) assignment: &'a Assignment,
    /// What the member says that it owns; `None` if it does not say.
    pub(super) owned: Option<&'a Assignment>,
}

/// The member's next step, if there is one to take. `is_taken` tells whether somebody else has a partition.
pub(super) fn reconcile(
    current: &CurrentValue,
    goal: Goal<'_>,
    is_taken: impl Fn(TopicId, PartitionId) -> bool,
) -> Option<CurrentValue> {
    let next = match current.state {
        MemberState::Stable if current.epoch == goal.epoch => return None,
        MemberState::Stable | MemberState::UnreleasedPartitions => {
            advance(current, current.epoch, goal, is_taken)
        }
        MemberState::UnrevokedPartitions => {
            if goal.still_owns(&current.pending_revocation) {
                return None;
            }
            advance(current, current.epoch.next(), goal, is_taken)
        }
    };
    (next != *current).then_some(next)
}

impl Goal<'_> {
    /// Whether the member may still use any of these. Who does not say has to be believed to.
    fn still_owns(&self, partitions: &Assignment) -> bool {
        self.owned.is_none_or(|owned| owned.overlaps(partitions))
    }
}

fn advance(
    current: &CurrentValue,
    epoch: Epoch,
    goal: Goal<'_>,
    is_taken: impl Fn(TopicId, PartitionId) -> bool,
) -> CurrentValue {
    let kept = current.assigned.within(goal.assignment);
    let surplus = current.assigned.without(goal.assignment);
    if !surplus.is_empty() && goal.still_owns(&surplus) {
        return CurrentValue {
            epoch,
            previous_epoch: before(current, epoch),
            state: MemberState::UnrevokedPartitions,
            assigned: kept,
            pending_revocation: surplus,
        };
    }
    let wanted = goal.assignment.without(&kept);
    let (taken, free): (Vec<_>, Vec<_>) = wanted.iter().partition(|(t, p)| is_taken(*t, *p));
    CurrentValue {
        epoch: goal.epoch,
        previous_epoch: before(current, goal.epoch),
        state: if taken.is_empty() {
            MemberState::Stable
        } else {
            MemberState::UnreleasedPartitions
        },
        assigned: kept.iter().chain(free).collect(),
        pending_revocation: Assignment::default(),
    }
}

/// The epoch that a member may still speak of at `epoch`. A step within an epoch does not change it: a heartbeat of the
/// one before can be on its way all the same.
fn before(current: &CurrentValue, epoch: Epoch) -> Epoch {
    if epoch == current.epoch {
        current.previous_epoch
    } else {
        current.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId::new([7; 16]);

    fn partitions(numbers: &[i32]) -> Assignment {
        numbers
            .iter()
            .map(|n| (TOPIC, PartitionId::new(*n)))
            .collect()
    }

    fn current(epoch: i32, state: MemberState, assigned: &[i32], revoking: &[i32]) -> CurrentValue {
        CurrentValue {
            epoch: Epoch::new(epoch),
            previous_epoch: Epoch::new(epoch - 1),
            state,
            assigned: partitions(assigned),
            pending_revocation: partitions(revoking),
        }
    }

    /// Epoch, state, assigned and to be revoked after a step towards `target` at epoch 5, with others having `taken`.
    fn check(
        from: &CurrentValue,
        target: &[i32],
        owned: Option<&[i32]>,
        taken: &[i32],
        expected: (i32, MemberState, &[i32], &[i32]),
    ) {
        let (target, owned) = (partitions(target), owned.map(partitions));
        let goal = Goal {
            epoch: Epoch::new(5),
            assignment: &target,
            owned: owned.as_ref(),
        };
        let next = reconcile(from, goal, |_, p| taken.contains(&p.get()));
        assert_ne!(next.as_ref(), Some(from));
        let next = next.unwrap_or_else(|| from.clone());
        assert_eq!(next.epoch, Epoch::new(expected.0));
        assert_eq!(next.state, expected.1);
        assert_eq!(next.assigned, partitions(expected.2));
        assert_eq!(next.pending_revocation, partitions(expected.3));
    }

    use MemberState::{
        Stable, UnreleasedPartitions as Unreleased, UnrevokedPartitions as Unrevoked,
    };

    #[test]
    fn who_has_all_of_its_target_stays() {
        check(
            &current(5, Stable, &[1], &[]),
            &[1],
            None,
            &[],
            (5, Stable, &[1], &[]),
        );
    }

    #[test]
    fn free_partitions_are_taken_at_once_and_others_are_waited_for() {
        let from = current(3, Stable, &[1], &[]);
        check(&from, &[1, 2, 3], None, &[], (5, Stable, &[1, 2, 3], &[]));
        check(&from, &[1, 2, 3], None, &[3], (5, Unreleased, &[1, 2], &[]));
        let waiting = current(5, Unreleased, &[1, 2], &[]);
        check(
            &waiting,
            &[1, 2, 3],
            None,
            &[3],
            (5, Unreleased, &[1, 2], &[]),
        );
        check(
            &waiting,
            &[1, 2, 3],
            None,
            &[],
            (5, Stable, &[1, 2, 3], &[]),
        );
    }

    #[test]
    fn the_epoch_before_is_known_until_the_epoch_moves() {
        let previous = |from: &CurrentValue, target: &[i32]| {
            let target = partitions(target);
            let goal = Goal {
                epoch: Epoch::new(5),
                assignment: &target,
                owned: None,
            };
            let next = reconcile(from, goal, |_, _| false).expect("there is a step");
            (next.epoch.get(), next.previous_epoch.get())
        };
        let waiting = current(5, Unreleased, &[1], &[]);
        assert_eq!(previous(&waiting, &[1, 2]), (5, 4));
        let from = current(3, Stable, &[1, 2], &[]);
        assert_eq!(previous(&from, &[1]), (3, 2), "it has to let go first");
        assert_eq!(previous(&from, &[1, 2, 3]), (5, 3));
    }

    #[test]
    fn what_is_taken_away_is_let_go_of_before_the_epoch_moves() {
        let from = current(3, Stable, &[1, 2], &[]);
        check(&from, &[2, 3], None, &[], (3, Unrevoked, &[2], &[1]));
        check(
            &from,
            &[2, 3],
            Some(&[1, 2]),
            &[],
            (3, Unrevoked, &[2], &[1]),
        );
        let revoking = current(3, Unrevoked, &[2], &[1]);
        check(&revoking, &[2, 3], None, &[], (3, Unrevoked, &[2], &[1]));
        check(
            &revoking,
            &[2, 3],
            Some(&[1, 2]),
            &[],
            (3, Unrevoked, &[2], &[1]),
        );
        check(
            &revoking,
            &[2, 3],
            Some(&[2]),
            &[],
            (5, Stable, &[2, 3], &[]),
        );
    }

    #[test]
    fn who_says_that_it_owns_nothing_need_not_be_waited_for() {
        let from = current(3, Stable, &[1, 2], &[]);
        check(&from, &[2, 3], Some(&[]), &[3], (5, Unreleased, &[2], &[]));
    }

    #[test]
    fn after_letting_go_there_may_be_more_to_let_go_of() {
        let revoking = current(3, Unrevoked, &[2], &[1]);
        check(&revoking, &[3], Some(&[2]), &[], (4, Unrevoked, &[], &[2]));
    }
}
