//! Where produce calls come in: streams are taken from the body itself, all else goes to the generated server.
//!
//! The generated server would have tonic copy every batch once more, see [`Requests`].

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use logweir_proto::grpc::SizedEncoder;
use logweir_proto::grpc::v1::produce_service_server::{ProduceServiceServer, SERVICE_NAME};
use tonic::body::Body;
use tonic::codec::{EncodeBody, SingleMessageCompressionOverride};
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap, MetadataValue};
use tonic::server::NamedService;
use tonic::{Request, Status};
use tower::Service;

use crate::grpc::Handler;
use crate::grpc::requests::Requests;

/// The path of the streaming call.
pub(super) const PRODUCE_STREAM: &str = "/logweir.v1.ProduceService/ProduceStream";

/// `logweir.v1.ProduceService`.
#[derive(Clone, Debug)]
pub(super) struct ProduceServer {
    handler: Handler,
    generated: ProduceServiceServer<Handler>,
    max_request_bytes: usize,
    max_response_bytes: usize,
}

impl ProduceServer {
    pub(super) fn new(
        handler: Handler,
        max_request_bytes: usize,
        max_response_bytes: usize,
    ) -> Self {
        let generated = ProduceServiceServer::new(handler.clone())
            .max_decoding_message_size(max_request_bytes)
            .max_encoding_message_size(max_response_bytes);
        Self {
            handler,
            generated,
            max_request_bytes,
            max_response_bytes,
        }
    }

    fn stream(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        if let Some(encoding) = parts.headers.get("grpc-encoding")
            && encoding != "identity"
        {
            let message = format!("messages with grpc-encoding {encoding:?} are not taken");
            let mut status = Status::unimplemented(message);
            // What it may send instead, as gRPC has it.
            let (accepts, identity) = (
                "grpc-accept-encoding",
                MetadataValue::from_static("identity"),
            );
            status.metadata_mut().insert(accepts, identity);
            return status.into_http();
        }
        let requests = Requests::new(body, self.max_request_bytes);
        let metadata = MetadataMap::from_headers(parts.headers);
        let request = Request::from_parts(metadata, parts.extensions, requests);
        let body = EncodeBody::new_server(
            SizedEncoder::default(),
            self.handler.answers_to_stream(request),
            None,
            SingleMessageCompressionOverride::default(),
            Some(self.max_response_bytes),
        );
        let mut response = http::Response::new(Body::new(body));
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
    }
}

impl NamedService for ProduceServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for ProduceServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() == PRODUCE_STREAM {
            return Box::pin(std::future::ready(Ok(self.stream(request))));
        }
        self.generated.call(request)
    }
}
