//! Reflection (`grpc.reflection.v1` and `v1alpha`): what grpcurl asks before its first call.
//!
//! The descriptors are decoded by the first call, not by the start of a broker, of which they would take the greater
//! part: most brokers, those of tests above all, are never asked.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use logweir_proto::grpc::DESCRIPTORS;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};
use tower::Service;

/// Adds both versions of the service.
pub(super) fn add_to(routes: Routes) -> Routes {
    let descriptors = Descriptors::default();
    routes
        .add_service(Reflection::<false>(descriptors.clone()))
        .add_service(Reflection::<true>(descriptors))
}

/// Both versions as they serve, once somebody has asked.
#[derive(Clone, Debug, Default)]
struct Descriptors(Arc<OnceLock<Routes>>);

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Descriptors {
    fn call(&self, request: http::Request<Body>) -> Answer {
        let built = match self.0.get() {
            Some(routes) => Ok(routes),
            None => build().map(|routes| self.0.get_or_init(|| routes)),
        };
        match built {
            Ok(routes) => Box::pin(routes.clone().call(request)),
            Err(error) => {
                let status = Status::internal(format!("the gRPC descriptors: {error}"));
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

fn build() -> Result<Routes, Error> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(builder().build_v1()?).add_service(builder().build_v1alpha()?);
    Ok(routes.prepare())
}

/// One version of the service.
#[derive(Clone, Debug)]
struct Reflection<const ALPHA: bool>(Descriptors);

impl<const ALPHA: bool> NamedService for Reflection<ALPHA> {
    const NAME: &'static str = match ALPHA {
        true => "grpc.reflection.v1alpha.ServerReflection",
        false => "grpc.reflection.v1.ServerReflection",
    };
}

impl<const ALPHA: bool> Service<http::Request<Body>> for Reflection<ALPHA> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        self.0.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker starts without the descriptors, so nothing else would tell that they cannot be read.
    #[test]
    fn the_descriptors_can_be_read() {
        build().unwrap();
    }
}
