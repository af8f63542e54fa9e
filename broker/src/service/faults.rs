//! Carries out the faults that a host injected: the one place where calls are lost, late or doubled.
//!
//! A call without a fault runs as if this were not here.

use std::future::Future;
use std::pin::Pin;

use logweir_proto::{ErrorCode, PartitionId};
use tokio_util::sync::CancellationToken;

use crate::clock::sleep;
use crate::error::ApiError;
use crate::faults::{Action, Api, Hit};
use crate::service::{
    Acks, AppendResult, FetchRequest, FetchedPartition, PendingProduce, ProduceRequest,
    RequestContext, Service,
};

/// Work that can be begun more than once.
pub(super) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// An answer that is never sent.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// The connection to break first.
    cut: Option<CancellationToken>,
    stop: CancellationToken,
}

impl Lost {
    /// Waits until the caller has given up, which drops this future, or the broker stops.
    pub(super) async fn forever(&self) -> ApiError {
        if let Some(cut) = &self.cut {
            cut.cancel();
        }
        self.stop.cancelled().await;
        ApiError::new(
            ErrorCode::NetworkException,
            "the answer was lost, as an injected fault wants",
        )
    }
}

pub(super) fn injected(code: ErrorCode) -> ApiError {
    ApiError::new(code, "injected fault")
}

impl Service {
    /// Does `work`, with the fault that this call is to suffer, if any. `topic` is the caller's name of what it concerns.
    pub(super) async fn suffer<'a, T>(
        &'a self,
        ctx: &RequestContext,
        api: Api,
        target: Option<(&str, Option<PartitionId>)>,
        work: impl Fn() -> Work<'a, T>,
    ) -> Result<T, ApiError> {
        let target = target.map(|(topic, partition)| (topic, partition.map(PartitionId::get)));
        match self.faults.hit(api, &ctx.client_id, target) {
            None => work().await,
            Some(hit) => self.endure(ctx, &hit, work).await,
        }
    }

    /// Does `work` with a fault.
    pub(super) async fn endure<'a, T>(
        &'a self,
        ctx: &RequestContext,
        hit: &Hit,
        work: impl Fn() -> Work<'a, T>,
    ) -> Result<T, ApiError> {
        match hit.action {
            Action::Fail(code) => Err(injected(code)),
            Action::Delay(by) => {
                sleep(by).await;
                work().await
            }
            Action::Duplicate => {
                let first = work().await;
                // The second answer is nobody's.
                let _ = work().await;
                first
            }
            Action::DropRequest | Action::Disconnect => Err(self.lost(ctx, hit).forever().await),
            Action::DropResponse | Action::DisconnectAfter => {
                let _ = work().await;
                Err(self.lost(ctx, hit).forever().await)
            }
        }
    }

    /// Appends with a fault.
    pub(super) async fn produce_faulty(
        &self,
        ctx: &RequestContext,
        mut request: ProduceRequest,
        hit: &Hit,
    ) -> PendingProduce {
        match hit.action {
            Action::Fail(code) => {
                let mut failed = Vec::new();
                let mut kept = Vec::new();
                for (index, append) in request.appends.into_iter().enumerate() {
                    if hit.covers(&append.topic, Some(append.partition.get())) {
                        let result = AppendResult {
                            topic: append.topic,
                            partition: append.partition,
                            outcome: Err(injected(code)),
                        };
                        failed.push((index, result));
                    } else {
                        kept.push(append);
                    }
                }
                request.appends = kept;
                let mut pending = self.produce_now(ctx, request).await;
                for (index, result) in failed {
                    pending.insert(index, result);
                }
                pending
            }
            Action::Delay(by) => {
                sleep(by).await;
                self.produce_now(ctx, request).await
            }
            Action::Duplicate => {
                let first = self.produce_now(ctx, request.clone()).await;
                drop(self.produce_now(ctx, request).await);
                first
            }
            Action::DropRequest | Action::Disconnect => {
                let lost = self.lost(ctx, hit);
                // Now, because a caller that wants no answer waits for none.
                if let Some(cut) = &lost.cut {
                    cut.cancel();
                }
                request.appends.clear();
                self.produce_now(ctx, request).await.lose(lost)
            }
            Action::DropResponse | Action::DisconnectAfter => {
                let lost = self.lost(ctx, hit);
                let waited_for = request.acks != Acks::None;
                let pending = self.produce_now(ctx, request).await;
                if let (false, Some(cut)) = (waited_for, &lost.cut) {
                    cut.cancel();
                }
                pending.lose(lost)
            }
        }
    }

    /// Reads with a fault.
    pub(super) async fn fetch_faulty(
        &self,
        ctx: &RequestContext,
        request: &FetchRequest,
        hit: &Hit,
    ) -> Vec<FetchedPartition> {
        match hit.action {
            Action::Fail(code) => {
                let failed = |wanted: &crate::service::FetchPartition| {
                    hit.covers(&wanted.topic, Some(wanted.partition.get()))
                };
                let mut rest = request.clone();
                rest.partitions.retain(|wanted| !failed(wanted));
                // An error is an answer: what goes with it is not waited for.
                rest.min_bytes = 0;
                let mut read = self.fetch_now_or_wait(ctx, &rest).await.into_iter();
                let answer = request.partitions.iter().filter_map(|wanted| {
                    if !failed(wanted) {
                        return read.next();
                    }
                    Some(FetchedPartition {
                        topic: wanted.topic.clone(),
                        partition: wanted.partition,
                        outcome: Err(injected(code)),
                        diverging: None,
                    })
                });
                answer.collect()
            }
            Action::Delay(by) => {
                sleep(by).await;
                self.fetch_now_or_wait(ctx, request).await
            }
            // Reading twice is reading.
            Action::Duplicate => self.fetch_now_or_wait(ctx, request).await,
            Action::DropRequest | Action::Disconnect => {
                self.lost(ctx, hit).forever().await;
                Vec::new()
            }
            Action::DropResponse | Action::DisconnectAfter => {
                self.fetch_now_or_wait(ctx, request).await;
                self.lost(ctx, hit).forever().await;
                Vec::new()
            }
        }
    }

    fn lost(&self, ctx: &RequestContext, hit: &Hit) -> Lost {
        let breaks = matches!(hit.action, Action::Disconnect | Action::DisconnectAfter);
        Lost {
            cut: ctx.connection.clone().filter(|_| breaks),
            stop: self.stop.clone(),
        }
    }
}
