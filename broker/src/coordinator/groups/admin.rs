//! Listing, describing and deleting groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use logweir_proto::ErrorCode;

use super::GroupMachine;
use super::answer::{GroupError, ListedGroup};
use super::ids::GroupId;
use super::offsets::non_empty;
use super::records::GroupRecord;
use super::request::ListGroups;
use super::scene::Decision;
use super::state::offset_key;

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
        ids: Vec<GroupId>,
        decision: &mut Decision,
    ) -> Vec<(GroupId, Result<(), GroupError>)> {
        let deleted = ids.into_iter().map(|id| {
            let result = self.delete_group(&id, decision);
            (id, result)
        });
        deleted.collect()
    }

    fn delete_group(&mut self, id: &GroupId, decision: &mut Decision) -> Result<(), GroupError> {
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
                let key = offset_key(id, topic, *partition);
                decision.records.push(GroupRecord::Offset(key, None));
            }
        }
        self.end_group(id, decision);
        Ok(())
    }
}
