//! Setting a group's offsets by hand: refused while the group is in use, and first tried without doing it.

use std::sync::Arc;

use logweir_proto::{ErrorCode, Offset};

use super::{committed, non_empty};
use crate::coordinator::groups::GroupMachine;
use crate::coordinator::groups::answer::{GroupError, ResetAnswer};
use crate::coordinator::groups::check_group_id;
use crate::coordinator::groups::records::GroupRecord;
use crate::coordinator::groups::request::ResetOffsets;
use crate::coordinator::groups::scene::Decision;
use crate::coordinator::groups::state::offset_key;
use crate::coordinator::machine::Now;

impl GroupMachine {
    /// Decides a reset. All of it is done, or nothing: one bad offset refuses the whole.
    pub(in crate::coordinator::groups) fn reset(
        &self,
        request: &ResetOffsets,
        now: Now,
        decision: &mut Decision,
    ) -> Result<Vec<ResetAnswer>, GroupError> {
        let id = &request.group_id;
        check_group_id(id)?;
        if self.has_members(id) {
            return Err(non_empty(id));
        }
        let mut bytes = 0;
        let mut answers = Vec::with_capacity(request.offsets.len());
        let mut records = Vec::with_capacity(request.offsets.len());
        for offset in &request.offsets {
            if offset.offset < Offset::ZERO {
                let message = format!(
                    "offset {} of partition {} of topic {:?} is negative",
                    offset.offset, offset.partition, offset.topic
                );
                return Err(GroupError::new(ErrorCode::InvalidRequest, message));
            }
            self.check_offset(id, offset, &mut bytes)?;
            let topic_id = self.topic_id(offset);
            let before = self.state.groups.get(id);
            let before = before.and_then(|g| g.offset(&offset.topic, topic_id, offset.partition));
            answers.push(ResetAnswer {
                topic: Arc::clone(&offset.topic),
                topic_id,
                partition: offset.partition,
                before: before.map(|offset| offset.offset),
                after: offset.offset,
            });
            let key = offset_key(id, &offset.topic, offset.partition);
            records.push(GroupRecord::Offset(
                key,
                Some(committed(offset, topic_id, now)),
            ));
        }
        if !request.dry_run {
            decision.records.append(&mut records);
        }
        Ok(answers)
    }
}
