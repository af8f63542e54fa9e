//! The mock broker's produce service.

use logweir_proto::grpc::v1;
use logweir_proto::{ErrorCode, Offset};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use v1::partition_append::Data;
use v1::produce_service_server::ProduceService;

use super::{Act, MockBroker, error, partition_index};

type Answers = mpsc::Sender<Result<v1::ProduceResponse, Status>>;

#[tonic::async_trait]
impl ProduceService for MockBroker {
    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        Ok(Response::new(self.serve(request.get_ref())))
    }

    type ProduceStreamStream = ReceiverStream<Result<v1::ProduceResponse, Status>>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        self.check_call("ProduceStream")?;
        let client_id = request.metadata().get(crate::CLIENT_ID_KEY);
        let client_id = client_id.map(|id| id.to_str().unwrap().to_owned());
        let mut state = self.state.lock();
        state.client_ids.extend(client_id);
        state.streams_opened += 1;
        drop(state);
        let (answers, outgoing) = mpsc::channel(16);
        let broker = self.clone();
        tokio::spawn(async move { broker.serve_stream(request.into_inner(), answers).await });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn init_producer_id(
        &self,
        _: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        self.check_call("InitProducerId")?;
        let producer_id = self.new_producer_id().get();
        Ok(Response::new(v1::InitProducerIdResponse {
            producer_id,
            producer_epoch: 0,
        }))
    }
}

impl MockBroker {
    async fn serve_stream(&self, mut requests: Streaming<v1::ProduceRequest>, answers: Answers) {
        let mut open = self.open.subscribe();
        while let Some(Ok(request)) = requests.next().await {
            if open.wait_for(|open| *open).await.is_err() {
                return;
            }
            let act = {
                let mut state = self.state.lock();
                let number = state.produce_requests;
                state.produce_requests += 1;
                let mut script = state.produce_script.take();
                let act = script.as_mut().map(|script| script(number, &request));
                state.produce_script = script;
                act.unwrap_or_default()
            };
            let acks_none = request.acks() == v1::Acks::None;
            let answer = match act {
                Act::Serve => self.serve(&request),
                Act::Refuse(code) => refused(&request, code, |_| true),
                Act::RefuseSome(code, which) => {
                    let mut served = request.clone();
                    let mut place = 0;
                    served.appends.retain(|_| {
                        place += 1;
                        !which.contains(&(place - 1))
                    });
                    let mut results = self.serve(&served).results.into_iter();
                    let mut answer = refused(&request, code, |place| which.contains(&place));
                    for result in answer
                        .results
                        .iter_mut()
                        .filter(|result| result.error.is_none())
                    {
                        *result = results.next().unwrap();
                    }
                    answer
                }
                Act::ServeAndSay(code) => {
                    self.serve(&request);
                    refused(&request, code, |_| true)
                }
                Act::ServeAndDisconnect => {
                    self.serve(&request);
                    return disconnect(&answers, tonic::Code::Unavailable).await;
                }
                Act::Disconnect => return disconnect(&answers, tonic::Code::Unavailable).await,
                Act::End(code) => return disconnect(&answers, code).await,
                Act::DisconnectAndServeLater => {
                    disconnect(&answers, tonic::Code::Unavailable).await;
                    drop(answers);
                    self.serve(&request);
                    while let Some(Ok(late)) = requests.next().await {
                        self.serve(&late);
                    }
                    return;
                }
                Act::FallSilent => {
                    self.serve(&request);
                    while let Some(Ok(late)) = requests.next().await {
                        self.serve(&late);
                    }
                    return answers.closed().await;
                }
                Act::TalkNonsense => v1::ProduceResponse::default(),
            };
            if !acks_none && answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
    }

    fn serve(&self, request: &v1::ProduceRequest) -> v1::ProduceResponse {
        let mut state = self.state.lock();
        let results = request.appends.iter().map(|append| {
            let partition = partition_index(append.partition());
            let log = state
                .topics
                .get_mut(&append.topic)
                .and_then(|topic| topic.partitions.get_mut(partition?));
            let outcome = match (log, &append.data) {
                (Some(log), Some(Data::Batch(batch))) => {
                    log.append(batch).map(|offset| (offset, log.start))
                }
                (None, _) => Err(ErrorCode::UnknownTopicOrPartition),
                _ => Err(ErrorCode::InvalidRequest),
            };
            let (base_offset, log_start) = outcome.unwrap_or((Offset::new(-1), Offset::new(-1)));
            v1::AppendResult {
                topic: append.topic.clone(),
                partition: append.partition(),
                error: outcome.err().and_then(error),
                base_offset: base_offset.get(),
                record_count: 0,
                log_append_time_ms: -1,
                log_start_offset: log_start.get(),
                record_indexes: Vec::new(),
            }
        });
        let results = results.collect();
        drop(state);
        self.changed();
        v1::ProduceResponse {
            correlation_id: request.correlation_id,
            results,
        }
    }
}

async fn disconnect(answers: &Answers, code: tonic::Code) {
    let _ = answers.send(Err(Status::new(code, "scripted"))).await;
}

fn refused(
    request: &v1::ProduceRequest,
    code: ErrorCode,
    which: impl Fn(usize) -> bool,
) -> v1::ProduceResponse {
    let results = request
        .appends
        .iter()
        .enumerate()
        .map(|(place, append)| v1::AppendResult {
            topic: append.topic.clone(),
            partition: append.partition(),
            error: error(code).filter(|_| which(place)),
            base_offset: -1,
            log_append_time_ms: -1,
            ..Default::default()
        });
    v1::ProduceResponse {
        correlation_id: request.correlation_id,
        results: results.collect(),
    }
}
