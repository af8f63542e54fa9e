//! The classic protocol, which Kafka's own clients speak: join, sync, heartbeat, leave; and descriptions by kind.

use std::sync::Arc;

use super::{OFFSETS_TOPIC, answer, other_kind};
use crate::coordinator::groups::answer::{
    ClassicDescription, ConsumerDescription, GroupAnswer, JoinAnswer, LeftMember, Synced,
};
use crate::coordinator::groups::request::{
    GroupRequest, Heartbeat, JoinGroup, LeaveGroup, SyncGroup,
};
use crate::error::ApiError;
use crate::faults::Api;
use crate::metadata::Image;
use crate::service::faults::Work;
use crate::service::{RequestContext, Service};

impl Service {
    /// The cluster, for who looks in it for the coordinator of a group.
    ///
    /// # Errors
    /// `COORDINATOR_NOT_AVAILABLE` if the internal topic cannot be made.
    pub(crate) async fn find_coordinator(
        &self,
        ctx: &RequestContext,
    ) -> Result<Arc<Image>, ApiError> {
        let work = || -> Work<'_, Arc<Image>> {
            Box::pin(async move {
                self.ensure_internal_topic(OFFSETS_TOPIC).await?;
                Ok(self.image())
            })
        };
        self.suffer(ctx, Api::FindCoordinator, None, work).await
    }

    /// Joins a group, or joins again. Waits until the generation begins.
    ///
    /// # Errors
    /// The coordinator's; the machine's stand in the answer.
    pub(crate) async fn join_group(
        &self,
        ctx: &RequestContext,
        join: JoinGroup,
    ) -> Result<JoinAnswer, ApiError> {
        let group = Arc::clone(&join.group_id);
        let request = GroupRequest::Join(join);
        answer!(
            Join,
            self.ask_for(ctx, Api::JoinGroup, &group, request).await
        )
    }

    /// Gives or gets an assignment. Waits until the leader has given them.
    ///
    /// # Errors
    /// The coordinator's and the machine's.
    pub(crate) async fn sync_group(
        &self,
        ctx: &RequestContext,
        sync: SyncGroup,
    ) -> Result<Synced, ApiError> {
        let group = Arc::clone(&sync.group_id);
        let request = GroupRequest::Sync(sync);
        Ok(answer!(
            Sync,
            self.ask_for(ctx, Api::SyncGroup, &group, request).await
        )??)
    }

    /// A heartbeat of a member of a classic group.
    ///
    /// # Errors
    /// The coordinator's and the machine's, `REBALANCE_IN_PROGRESS` among them.
    pub(crate) async fn heartbeat(
        &self,
        ctx: &RequestContext,
        heartbeat: Heartbeat,
    ) -> Result<(), ApiError> {
        let group = Arc::clone(&heartbeat.group_id);
        let request = GroupRequest::Heartbeat(heartbeat);
        Ok(answer!(
            Heartbeat,
            self.ask_for(ctx, Api::Heartbeat, &group, request).await
        )??)
    }

    /// Takes members out of a group; what became of each.
    ///
    /// # Errors
    /// The coordinator's and the machine's.
    pub(crate) async fn leave_group(
        &self,
        ctx: &RequestContext,
        leave: LeaveGroup,
    ) -> Result<Vec<LeftMember>, ApiError> {
        let group = Arc::clone(&leave.group_id);
        let request = GroupRequest::Leave(leave);
        Ok(answer!(
            Leave,
            self.ask_for(ctx, Api::LeaveGroup, &group, request).await
        )??)
    }

    /// A group as the classic protocol describes it; one that is not there, or of the other kind, is Dead.
    ///
    /// # Errors
    /// The coordinator's.
    pub(crate) async fn describe_classic_group(
        &self,
        ctx: &RequestContext,
        group: &Arc<str>,
    ) -> Result<ClassicDescription, ApiError> {
        let request = GroupRequest::DescribeClassic(vec![Arc::clone(group)]);
        let asked = self.ask_for(ctx, Api::DescribeGroups, group, request);
        let mut described = answer!(DescribeClassic, asked.await)?;
        Ok(described.pop().ok_or_else(other_kind)?.1)
    }

    /// A group of the consumer protocol (KIP-848).
    ///
    /// # Errors
    /// The coordinator's; `GROUP_ID_NOT_FOUND` if there is none, or it is of the other kind.
    pub(crate) async fn describe_consumer_group(
        &self,
        ctx: &RequestContext,
        group: &Arc<str>,
    ) -> Result<ConsumerDescription, ApiError> {
        let request = GroupRequest::DescribeConsumer(vec![Arc::clone(group)]);
        let asked = self.ask_for(ctx, Api::DescribeGroups, group, request);
        let mut described = answer!(DescribeConsumer, asked.await)?;
        Ok(described.pop().ok_or_else(other_kind)?.1?)
    }
}
