//! The base of the gRPC figures: tonic with the broker's settings and nothing behind it.

use std::pin::Pin;

use bytes::Bytes;
use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::fetch_service_server::{FetchService, FetchServiceServer};
use logweir_proto::grpc::v1::produce_service_server::{ProduceService, ProduceServiceServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::TOPIC;

/// Responses between source and connection, as in the broker.
const QUEUED_RESPONSES: usize = 2;

/// Takes messages and acknowledges each; sends prepared ones.
#[derive(Clone, Debug)]
pub(crate) struct Bare {
    /// What a fetch stream sends, in this order.
    responses: std::sync::Arc<Vec<v1::FetchResponse>>,
}

impl Bare {
    /// A source of `total_bytes` in responses of `response_bytes`, each in memory of its own, as a log's are.
    pub(crate) fn new(total_bytes: usize, response_bytes: usize) -> Self {
        let responses = (0..total_bytes / response_bytes.max(1)).map(|at| {
            let batches = Bytes::from(vec![u8::try_from(at % 251).unwrap_or(0); response_bytes]);
            v1::FetchResponse {
                partitions: vec![v1::FetchedPartition {
                    topic: TOPIC.to_owned(),
                    data: Some(v1::fetched_partition::Data::Batches(batches)),
                    ..Default::default()
                }],
            }
        });
        Self {
            responses: std::sync::Arc::new(responses.collect()),
        }
    }

    /// Serves until the process ends.
    pub(crate) async fn serve(self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        const LIMIT: usize = 64 << 20;
        let incoming = TcpListenerStream::new(listener).map(|accepted| {
            accepted.inspect(|stream| stream.set_nodelay(true).expect("a socket has this option"))
        });
        Server::builder()
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .max_frame_size(1 << 20)
            .add_service(ProduceServiceServer::new(self.clone()).max_decoding_message_size(LIMIT))
            .add_service(FetchServiceServer::new(self).max_encoding_message_size(LIMIT))
            .serve_with_incoming(incoming)
            .await
    }
}

#[tonic::async_trait]
impl ProduceService for Bare {
    async fn produce(
        &self,
        _: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("the sink takes streams only"))
    }

    type ProduceStreamStream =
        Pin<Box<dyn Stream<Item = Result<v1::ProduceResponse, Status>> + Send + 'static>>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let answers = request.into_inner().map(|request| {
            let request = request?;
            Ok(v1::ProduceResponse {
                correlation_id: request.correlation_id,
                results: vec![v1::AppendResult {
                    topic: TOPIC.to_owned(),
                    ..Default::default()
                }],
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn init_producer_id(
        &self,
        _: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        Err(Status::unimplemented("the sink takes streams only"))
    }
}

#[tonic::async_trait]
impl FetchService for Bare {
    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("the source sends streams only"))
    }

    type FetchStreamStream = ReceiverStream<Result<v1::FetchResponse, Status>>;

    async fn fetch_stream(
        &self,
        _: Request<v1::FetchStreamRequest>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let (sender, responses) = tokio::sync::mpsc::channel(QUEUED_RESPONSES);
        let prepared = std::sync::Arc::clone(&self.responses);
        tokio::spawn(async move {
            for response in prepared.iter() {
                if sender.send(Ok(response.clone())).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn list_offsets(
        &self,
        _: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        Err(Status::unimplemented("the source has no offsets"))
    }
}
