//! Listing, describing and deleting groups.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use logweir_proto::ErrorCode;

use super::GroupMachine;
use super::answer::{GroupAnswer, GroupError, ListedGroup};
use super::ids::GroupId;
use super::offsets::{Room, non_empty};
use super::records::GroupRecord;
use super::request::ListGroups;
use super::scene::Decision;
use super::state::offset_key;
use crate::coordinator::machine::CallId;

/// Groups that are being deleted, by several decisions where their offsets do not fit one. In between a group may get
/// members; then it stays, with the offsets that it has left.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) call: CallId,
    left: VecDeque<GroupId>,
    done: Vec<(GroupId, Result<(), GroupError>)>,
}

impl GroupMachine {
    /// The groups that pass the filters, in the order of their ids.
    pub(super) fn list(&self, request: &ListGroups) -> Vec<ListedGroup> {
        let ids: BTreeSet<&GroupId> = self
            .state
            .groups
            .keys()
            .chain(self.classic.keys())
            .collect();
        let passes = |filter: &[Arc<str>], value: &str| {
            filter.is_empty()
                || filter
                    .iter()
                    .any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let listed = ids.into_iter().map(|id| self.listed(id));
        listed
            .filter(|group| passes(&request.states, group.state))
            .filter(|group| passes(&request.types, group.group_type))
            .collect()
    }

    fn listed(&self, id: &GroupId) -> ListedGroup {
        let group_id = Arc::clone(id);
        if let Some(group) = self.state.consumer(id) {
            let (protocol_type, state, group_type) = ("consumer".into(), group.state(), "consumer");
            return ListedGroup {
                group_id,
                protocol_type,
                state,
                group_type,
            };
        }
        let (protocol_type, state) = match self.classic.get(id) {
            Some(group) => group.listed(),
            None => ("".into(), "Empty"),
        };
        ListedGroup {
            group_id,
            protocol_type,
            state,
            group_type: "classic",
        }
    }

    /// Deletes groups that have no members, with their offsets.
    pub(super) fn delete_groups(
        &mut self,
        call: CallId,
        ids: Vec<GroupId>,
        decision: &mut Decision,
    ) {
        let (left, done) = (ids.into(), Vec::new());
        self.go_on_deleting(Deletion { call, left, done }, decision);
    }

    /// Deletes as much as fits one decision; what is left is housekeeping. Answers when all is done.
    pub(super) fn go_on_deleting(&mut self, mut deletion: Deletion, decision: &mut Decision) {
        let mut room = self.room();
        while let Some(id) = deletion.left.pop_front() {
            match self.delete_group(&id, &mut room, decision) {
                Ok(true) => deletion.done.push((id, Ok(()))),
                Err(error) => deletion.done.push((id, Err(error))),
                Ok(false) => {
                    deletion.left.push_front(id);
                    self.housekeeping.put_off(deletion);
                    return;
                }
            }
        }
        let answer = GroupAnswer::DeleteGroups(deletion.done);
        decision.answers.push((deletion.call, answer));
    }

    /// Whether the group is gone; if not, there was no room for all of it.
    fn delete_group(
        &mut self,
        id: &GroupId,
        room: &mut Room,
        decision: &mut Decision,
    ) -> Result<bool, GroupError> {
        let consumer = self
            .state
            .consumer(id)
            .is_some_and(|group| !group.members.is_empty());
        if consumer || self.classic.get(id).is_some_and(|group| !group.is_empty()) {
            return Err(non_empty(id));
        }
        if !self.state.groups.contains_key(id) && !self.classic.contains_key(id) {
            let message = format!("there is no group {id:?}");
            return Err(GroupError::new(ErrorCode::GroupIdNotFound, message));
        }
        for (topic, partitions) in self.state.offsets(id).into_iter().flatten() {
            for partition in partitions.keys() {
                if !room.take(id, topic) {
                    return Ok(false);
                }
                let key = offset_key(id, topic, *partition);
                decision.records.push(GroupRecord::Offset(key, None));
            }
        }
        // A group ends by up to two tombstones.
        if !(room.take(id, "") && room.take(id, "")) {
            return Ok(false);
        }
        self.end_group(id, decision);
        Ok(true)
    }
}
