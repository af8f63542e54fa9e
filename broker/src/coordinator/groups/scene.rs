//! What one decision works with: settings, timers, who waits, the time, and what it has decided so far.

use std::collections::BTreeMap;

use super::answer::GroupAnswer;
use super::config::GroupConfig;
use super::ids::{GroupId, MemberId};
use super::records::GroupRecord;
use super::timers::Timers;
use crate::coordinator::machine::{CallId, Effects, Now};

/// What a decision has come to.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub(super) records: Vec<GroupRecord>,
    pub(super) answers: Vec<(CallId, GroupAnswer)>,
}

impl Decision {
    pub(super) fn into_effects(self) -> Effects<GroupAnswer> {
        let records = self.records.iter().map(GroupRecord::encode).collect();
        Effects {
            records,
            answers: self.answers,
        }
    }
}

/// Calls that wait, with the member that each waits as.
pub(super) type Waiting = BTreeMap<CallId, (GroupId, MemberId)>;

/// The surroundings of one decision about one group.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) config: &'a GroupConfig,
    pub(super) timers: &'a mut Timers,
    pub(super) waiting: &'a mut Waiting,
    pub(super) decision: &'a mut Decision,
    pub(super) now: Now,
}

impl Scene<'_> {
    pub(super) fn answer(&mut self, call: CallId, answer: GroupAnswer) {
        self.waiting.remove(&call);
        self.decision.answers.push((call, answer));
    }

    pub(super) fn write(&mut self, record: GroupRecord) {
        self.decision.records.push(record);
    }

    pub(super) fn wait(&mut self, call: CallId, group: &GroupId, member: &MemberId) {
        self.waiting
            .insert(call, (GroupId::clone(group), MemberId::clone(member)));
    }
}
