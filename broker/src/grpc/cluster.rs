//! `logweir.v1.ClusterService`.

use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::cluster_service_server::ClusterService;
use tonic::{Request, Response, Status};

use crate::grpc::Handler;
use crate::grpc::context::context;
use crate::grpc::status::status;

#[tonic::async_trait]
impl ClusterService for Handler {
    async fn describe_cluster(
        &self,
        request: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        let ctx = context(&request);
        let image = self
            .service
            .cluster(&ctx)
            .await
            .map_err(|error| status(&error))?;
        let nodes = image.brokers.values().map(|broker| v1::Node {
            node_id: broker.node_id.get(),
            grpc_address: broker.addresses.grpc.clone().unwrap_or_default(),
            kafka_address: broker.addresses.kafka.clone().unwrap_or_default(),
            http_address: broker.addresses.http.clone().unwrap_or_default(),
            rack: broker.rack.clone().unwrap_or_default(),
            fenced: broker.fenced,
        });
        Ok(Response::new(v1::DescribeClusterResponse {
            cluster_id: image.cluster_id.to_string(),
            controller_id: image.controller.map_or(-1, |node| node.get()),
            nodes: nodes.collect(),
            node_id: self.service.config.node_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}
