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
        let join = &join;
        let work = || -> Work<'_, JoinAnswer> {
            Box::pin(async move {
                let request = GroupRequest::Join(join.clone());
                answer!(Join, self.ask(&join.group_id, request).await)
            })
        };
        self.suffer_in_group(ctx, Api::JoinGroup, &join.group_id, [], work)
            .await
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
        let sync = &sync;
        let work = || -> Work<'_, Synced> {
            Box::pin(async move {
                let request = GroupRequest::Sync(sync.clone());
                Ok(answer!(Sync, self.ask(&sync.group_id, request).await)??)
            })
        };
        self.suffer_in_group(ctx, Api::SyncGroup, &sync.group_id, [], work)
            .await
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
        let heartbeat = &heartbeat;
        let work = || -> Work<'_, ()> {
            Box::pin(async move {
                let request = GroupRequest::Heartbeat(heartbeat.clone());
                Ok(answer!(
                    Heartbeat,
                    self.ask(&heartbeat.group_id, request).await
                )??)
            })
        };
        self.suffer_in_group(ctx, Api::Heartbeat, &heartbeat.group_id, [], work)
            .await
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
        let leave = &leave;
        let work = || -> Work<'_, Vec<LeftMember>> {
            Box::pin(async move {
                let request = GroupRequest::Leave(leave.clone());
                Ok(answer!(Leave, self.ask(&leave.group_id, request).await)??)
            })
        };
        self.suffer_in_group(ctx, Api::LeaveGroup, &leave.group_id, [], work)
            .await
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
        let work = || -> Work<'_, ClassicDescription> {
            Box::pin(async move {
                let request = GroupRequest::DescribeClassic(vec![Arc::clone(group)]);
                let mut described = answer!(DescribeClassic, self.ask(group, request).await)?;
                Ok(described.pop().ok_or_else(other_kind)?.1)
            })
        };
        self.suffer_in_group(ctx, Api::DescribeGroups, group, [], work)
            .await
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
        let work = || -> Work<'_, ConsumerDescription> {
            Box::pin(async move {
                let request = GroupRequest::DescribeConsumer(vec![Arc::clone(group)]);
                let mut described = answer!(DescribeConsumer, self.ask(group, request).await)?;
                Ok(described.pop().ok_or_else(other_kind)?.1?)
            })
        };
        self.suffer_in_group(ctx, Api::DescribeGroups, group, [], work)
            .await
    }
}
