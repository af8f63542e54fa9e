//! `logweir.v1.ProduceService`.
//!
//! A stream's requests are appended in the order sent; their answers are waited for side by side and
//! leave in the same order. At most [`MAX_PENDING`] requests of a stream are unanswered at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::grpc::v1::produce_service_server::ProduceService;
use logweir_proto::{ErrorCode, PartitionId};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::error::ApiError;
use crate::grpc::Handler;
use crate::grpc::answers::Answers;
use crate::grpc::context::{context, topic_id};
use crate::grpc::framing::ANSWER_BYTES;
use crate::grpc::records::{Place, compression, pack};
use crate::grpc::status::{at_most, check_name, error_of, shutting_down, status};
use crate::inflight::{Charge, Kept};
use crate::service::{Acks, Append, AppendResult, PendingProduce, ProduceRequest, RequestContext};

/// Appends of one request.
const MAX_APPENDS: usize = 10_000;
/// A client that has taken no answer for so long, although some are due, is given up: longer than any wait for acks.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(330);
/// Plain records of more than so many bytes are packed, and compressed, where no other call waits for it.
const MAX_PACKED_HERE_BYTES: usize = 64 << 10;
/// Requests of one stream whose answers are due.
const MAX_PENDING: usize = 256;

#[tonic::async_trait]
impl ProduceService for Handler {
    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        let ctx = context(&request);
        // Held until the records have their places.
        let _charge = request.extensions().get::<Charge>().cloned();
        let begun = self.begin(&ctx, request.into_inner()).await?;
        Ok(Response::new(begun.finish().await))
    }

    type ProduceStreamStream =
        Pin<Box<dyn Stream<Item = Result<v1::ProduceResponse, Status>> + Send + 'static>>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        Ok(Response::new(Box::pin(self.answers_to_stream(request))))
    }

    async fn init_producer_id(
        &self,
        request: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        let ctx = context(&request);
        let request = request.into_inner();
        let (id, epoch) = self
            .service
            .init_producer_id(&ctx, request.transactional_id.as_deref())
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::InitProducerIdResponse {
            producer_id: id.get(),
            producer_epoch: i32::from(epoch.get()),
        }))
    }
}

/// A request whose records have their places, with what its answer has to name.
#[derive(Debug)]
struct Begun {
    correlation_id: u64,
    pending: PendingProduce,
    /// For each append: an error found before it reached the service, or which of its records it holds.
    parts: Vec<Part>,
    /// What is charged for it until the client takes the answer.
    kept: Option<Kept>,
}

/// One append as the service saw it, or as it was refused before.
#[derive(Debug)]
enum Part {
    Sent { record_indexes: Vec<u32> },
    Refused(AppendResult),
}

impl Begun {
    /// What it takes in memory, about.
    fn answer_bytes(&self) -> usize {
        let parts = self.parts.iter().map(|part| match part {
            Part::Sent { record_indexes } => size_of_val(record_indexes.as_slice()),
            Part::Refused(_) => 0,
        });
        parts.sum::<usize>() + self.parts.len() * ANSWER_BYTES
    }

    async fn finish(self) -> v1::ProduceResponse {
        let mut sent = self.pending.wait().await.into_iter();
        let results = self.parts.into_iter().filter_map(|part| match part {
            Part::Refused(result) => Some(append_result(result, Vec::new())),
            Part::Sent { record_indexes } => sent
                .next()
                .map(|result| append_result(result, record_indexes)),
        });
        v1::ProduceResponse {
            correlation_id: self.correlation_id,
            results: results.collect(),
        }
    }
}

impl Handler {
    /// Appends the requests of a stream in order; the answers to them, in the same order.
    pub(super) fn answers_to_stream<S>(
        &self,
        request: Request<S>,
    ) -> impl Stream<Item = Result<v1::ProduceResponse, Status>> + Send + use<S>
    where
        S: Stream<Item = Result<v1::ProduceRequest, Status>> + Send + Unpin + 'static,
    {
        let ctx = context(&request);
        let charge = request.extensions().get::<Charge>().cloned();
        let (sender, pending) = mpsc::channel(MAX_PENDING);
        let handler = self.clone();
        let requests = request.into_inner();
        let appending = async move { handler.append_all(&ctx, charge, requests, sender).await };
        Answers::new(pending, appending).then(|begun| async {
            match begun {
                Ok(begun) => Ok(begun.finish().await),
                Err(status) => Err(status),
            }
        })
    }

    /// Appends requests one after the other, until they end, one fails, or the broker or the connection ends.
    async fn append_all(
        &self,
        ctx: &RequestContext,
        charge: Option<Charge>,
        mut requests: impl Stream<Item = Result<v1::ProduceRequest, Status>> + Unpin,
        sender: mpsc::Sender<Result<Begun, Status>>,
    ) {
        loop {
            // Room for the answer first: a client that reads no answers is not read from either.
            let room = tokio::select! {
                () = ctx.cut() => return,
                room = tokio::time::timeout(UNREAD_TIMEOUT, sender.reserve()) => room,
            };
            let Ok(Ok(room)) = room else {
                return;
            };
            let next = tokio::select! {
                biased;
                // What came over a connection before it broke, and was not begun, is lost with it.
                () = ctx.cut() => return,
                () = self.stop.cancelled() => {
                    // What was sent and not read must not pass for stored.
                    room.send(Err(shutting_down()));
                    return;
                }
                next = requests.next() => next,
            };
            let begun = match next {
                None => return,
                Some(Ok(request)) => {
                    let acks = request.acks;
                    let mut begun = self.begin(ctx, request).await;
                    if let Some(charge) = &charge {
                        let keep = begun.as_ref().map_or(0, Begun::answer_bytes);
                        let kept = charge.settle(keep);
                        if let Ok(begun) = &mut begun {
                            begun.kept = Some(kept);
                        }
                    }
                    if acks == v1::Acks::None as i32 && begun.is_ok() {
                        continue;
                    }
                    begun
                }
                Some(Err(status)) => Err(status),
            };
            let failed = begun.is_err();
            room.send(begun);
            if failed {
                return;
            }
        }
    }

    /// Translates a request and has the service append it.
    async fn begin(
        &self,
        ctx: &RequestContext,
        request: v1::ProduceRequest,
    ) -> Result<Begun, Status> {
        at_most("appends", request.appends.len(), MAX_APPENDS)?;
        let acks = match v1::Acks::try_from(request.acks) {
            Ok(v1::Acks::All) => Acks::All,
            Ok(v1::Acks::Leader) => Acks::Leader,
            Ok(v1::Acks::None) => Acks::None,
            Err(_) => {
                return Err(status(&ApiError::new(
                    ErrorCode::InvalidRequiredAcks,
                    format!(
                        "acks {} is none of all (0), leader (1), none (2)",
                        request.acks
                    ),
                )));
            }
        };
        let mut parts = Vec::with_capacity(request.appends.len());
        let mut appends = Vec::with_capacity(request.appends.len());
        for append in request.appends {
            check_name(&append.topic)?;
            let topic: Arc<str> = Arc::from(append.topic.as_str());
            let partition = PartitionId::new(append.partition.unwrap_or(-1));
            match self.translate(ctx, &topic, append).await {
                Ok(translated) => {
                    for (append, record_indexes) in translated {
                        parts.push(Part::Sent { record_indexes });
                        appends.push(append);
                    }
                }
                Err(error) => {
                    let outcome = Err(error);
                    parts.push(Part::Refused(AppendResult {
                        topic,
                        partition,
                        outcome,
                    }));
                }
            }
        }
        let request_for_service = ProduceRequest {
            acks,
            timeout: Duration::from_millis(u64::from(request.timeout_ms)),
            transactional_id: request.transactional_id,
            appends,
        };
        let pending = self.service.produce(ctx, request_for_service).await;
        Ok(Begun {
            correlation_id: request.correlation_id,
            pending,
            parts,
            kept: None,
        })
    }

    /// The batches of one append, with the indexes of their records where the broker spread them.
    async fn translate(
        &self,
        ctx: &RequestContext,
        topic: &Arc<str>,
        append: v1::PartitionAppend,
    ) -> Result<Vec<(Append, Vec<u32>)>, ApiError> {
        let topic_id = topic_id(append.topic_id.as_deref())
            .map_err(|status| ApiError::new(ErrorCode::InvalidRequest, status.message()))?;
        let sent = |partition, batch| Append {
            topic: Arc::clone(topic),
            topic_id,
            partition,
            batch,
        };
        let list = match append.data {
            Some(v1::partition_append::Data::Batch(batch)) => {
                let partition = append.partition.ok_or_else(|| {
                    ApiError::new(ErrorCode::InvalidRequest, "a batch needs its partition")
                })?;
                return Ok(vec![(sent(PartitionId::new(partition), batch), Vec::new())]);
            }
            Some(v1::partition_append::Data::Records(list)) => list,
            None => {
                return Err(ApiError::new(
                    ErrorCode::InvalidRecord,
                    "an append carries a batch or records, this one has neither",
                ));
            }
        };
        let compression = compression(append.compression)?;
        let now = self.service.clock.now();
        let place = match append.partition {
            Some(partition) => Place::At(PartitionId::new(partition)),
            None => {
                // A topic that is known by its id is not created anew.
                let may_create = topic_id.is_none();
                let described = self
                    .service
                    .describe_topic_now(ctx, topic, may_create)
                    .await?;
                let count = i32::try_from(described.partitions.len())
                    .unwrap_or(i32::MAX)
                    .max(1);
                let turn = self.next_keyless.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff;
                let keyless = PartitionId::new(i32::try_from(turn).unwrap_or(0) % count);
                Place::Spread { count, keyless }
            }
        };
        let large = list.encoded_len() > MAX_PACKED_HERE_BYTES;
        let pack = move || pack(&list.records, place, compression, now);
        let packed = if large {
            let work = tokio::task::spawn_blocking(pack);
            work.await
                .map_err(|error| ApiError::storage(format!("packing ended early: {error}")))??
        } else {
            pack()?
        };
        let appends = packed
            .into_iter()
            .map(|(partition, batch, indexes)| (sent(partition, batch), indexes))
            .collect();
        Ok(appends)
    }
}

fn append_result(result: AppendResult, record_indexes: Vec<u32>) -> v1::AppendResult {
    let stored = result.outcome.as_ref().ok();
    v1::AppendResult {
        topic: result.topic.to_string(),
        partition: result.partition.get(),
        error: error_of(&result.outcome),
        base_offset: stored.map_or(-1, |stored| stored.base_offset.get()),
        record_count: stored.map_or(0, |stored| stored.record_count),
        log_append_time_ms: stored.map_or(-1, |stored| stored.log_append_time.get()),
        log_start_offset: stored.map_or(-1, |stored| stored.log_start_offset.get()),
        record_indexes,
    }
}
