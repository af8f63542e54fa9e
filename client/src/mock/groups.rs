//! The mock broker's group service: which function answers which call.

use logweir_proto::grpc::v1;
use tokio_stream::Empty;
use tonic::{Request, Response, Status, Streaming};
use v1::group_service_server::GroupService;

use super::{MockBroker, group_admin};

#[tonic::async_trait]
impl GroupService for MockBroker {
    type ConsumerGroupHeartbeatStream = Empty<Result<v1::ConsumerGroupHeartbeatResponse, Status>>;

    async fn consumer_group_heartbeat(
        &self,
        _: Request<Streaming<v1::ConsumerGroupHeartbeatRequest>>,
    ) -> Result<Response<Self::ConsumerGroupHeartbeatStream>, Status> {
        Err(Status::unimplemented("the mock has no members yet"))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        group_admin::commit_offsets(self, request.into_inner()).map(Response::new)
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        group_admin::fetch_offsets(self, request.into_inner()).map(Response::new)
    }

    async fn delete_offsets(
        &self,
        request: Request<v1::DeleteOffsetsRequest>,
    ) -> Result<Response<v1::DeleteOffsetsResponse>, Status> {
        group_admin::delete_offsets(self, request.into_inner()).map(Response::new)
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        group_admin::reset_offsets(self, request.into_inner()).map(Response::new)
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        group_admin::list_groups(self, &request.into_inner()).map(Response::new)
    }

    async fn describe_groups(
        &self,
        request: Request<v1::DescribeGroupsRequest>,
    ) -> Result<Response<v1::DescribeGroupsResponse>, Status> {
        group_admin::describe_groups(self, request.into_inner()).map(Response::new)
    }

    async fn delete_groups(
        &self,
        request: Request<v1::DeleteGroupsRequest>,
    ) -> Result<Response<v1::DeleteGroupsResponse>, Status> {
        group_admin::delete_groups(self, request.into_inner()).map(Response::new)
    }
}
