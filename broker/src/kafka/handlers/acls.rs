//! `DescribeAcls` (29), `CreateAcls` (30), `DeleteAcls` (31), versions 1 to 3: `SECURITY_DISABLED`, as Kafka answers without
//! an authorizer (KIP-140).

use std::sync::Arc;

use kafka_wire::create_acls_response::AclCreationResult;
use kafka_wire::delete_acls_response::DeleteAclsFilterResult;
use kafka_wire::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DescribeAclsRequest, DescribeAclsResponse,
};
use logweir_proto::ErrorCode;

use crate::kafka::call::Call;
use crate::kafka::message::{message, text};

const WHY: &str = "there is no authorizer: everybody may do everything";
const DISABLED: i16 = ErrorCode::SecurityDisabled.code();

pub(super) async fn describe(_: Arc<Call>, _: DescribeAclsRequest) -> DescribeAclsResponse {
    message!(DescribeAclsResponse {
        error_code: DISABLED,
        error_message: Some(text(WHY)),
    })
}

pub(super) async fn create(_: Arc<Call>, request: CreateAclsRequest) -> CreateAclsResponse {
    let results = request.creations.iter().map(|_| {
        message!(AclCreationResult {
            error_code: DISABLED,
            error_message: Some(text(WHY)),
        })
    });
    message!(CreateAclsResponse {
        results: results.collect()
    })
}

pub(super) async fn delete(_: Arc<Call>, request: DeleteAclsRequest) -> DeleteAclsResponse {
    let results = request.filters.iter().map(|_| {
        message!(DeleteAclsFilterResult {
            error_code: DISABLED,
            error_message: Some(text(WHY)),
        })
    });
    message!(DeleteAclsResponse {
        filter_results: results.collect()
    })
}
