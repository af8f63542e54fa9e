//! `DescribeCluster` (60), versions 0 to 2: brokers and the controller (KIP-700, KIP-919, KIP-1073).

use std::sync::Arc;

use kafka_wire::describe_cluster_response::DescribeClusterBroker;
use kafka_wire::{DescribeClusterRequest, DescribeClusterResponse};
use logweir_proto::ErrorCode;

use super::OPERATIONS_UNKNOWN;
use crate::kafka::addresses;
use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

/// The endpoints of brokers, and not those of controllers.
const BROKERS: i8 = 1;

pub(super) async fn handle(
    call: Arc<Call>,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    if call.version >= 1 && request.endpoint_type != BROKERS {
        return message!(DescribeClusterResponse {
            error_code: ErrorCode::MismatchedEndpointType.code(),
            error_message: Some(text(
                "this is a listener of brokers; controllers have none of their own"
            )),
            endpoint_type: BROKERS,
            cluster_authorized_operations: OPERATIONS_UNKNOWN,
        });
    }
    let image = match call.service.cluster(&call.ctx).await {
        Ok(image) => image,
        Err(error) => {
            return message!(DescribeClusterResponse {
                error_code: error.code.code(),
                error_message: Some(text(error.to_string())),
                endpoint_type: BROKERS,
                cluster_authorized_operations: OPERATIONS_UNKNOWN,
            });
        }
    };
    let brokers = addresses::brokers(&call.service, &image, &call.peer)
        .into_iter()
        .map(|address| {
            message!(DescribeClusterBroker {
                broker_id: address.node_id.get(),
                host: text(address.host),
                port: address.port,
                rack: address.rack.map(text),
            })
        });
    message!(DescribeClusterResponse {
        error_message: None,
        endpoint_type: BROKERS,
        cluster_id: text(&image.cluster_id),
        controller_id: image.controller.map_or(-1, |node| node.get()),
        brokers: brokers.collect(),
        cluster_authorized_operations: OPERATIONS_UNKNOWN,
    })
}
