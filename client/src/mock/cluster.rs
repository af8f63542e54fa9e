//! The mock broker's cluster service.

use logweir_proto::grpc::v1;
use tonic::{Request, Response, Status};
use v1::cluster_service_server::ClusterService;

use super::MockBroker;

#[tonic::async_trait]
impl ClusterService for MockBroker {
    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        self.check_call("DescribeCluster")?;
        Ok(Response::new(v1::DescribeClusterResponse {
            cluster_id: "mock".to_owned(),
            controller_id: -1,
            nodes: vec![v1::Node {
                node_id: 1,
                grpc_address: "127.0.0.1:1".to_owned(),
                ..Default::default()
            }],
            node_id: 1,
            version: "0".to_owned(),
        }))
    }
}
