//! The stream of one member of a consumer group: heartbeats up, assignments down.
//!
//! Each heartbeat takes its place with the coordinator before the next is read, and is answered in that order; an answer
//! that waits for news is set free by the next heartbeat. The stream's end tells the coordinator nothing: sessions do.
//! Most members are idle, and there may be thousands: a stream has no task but its connection's, and a heartbeat one
//! future that is small.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{ErrorCode, PartitionId, TopicId};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use crate::error::ApiError;
use crate::faults::Hit;
use crate::grpc::Handler;
use crate::grpc::answers::{OwnAnswers, Place};
use crate::grpc::groups::{assignment, inner};
use crate::grpc::status::{at_most, check_name, invalid, shutting_down};
use crate::inflight::{Charge, Kept};
use crate::service::RequestContext;
use crate::service::groups::request::{ConsumerHeartbeat, PollMark};
use crate::service::groups::{Assignment, ConsumerHeartbeatAnswer, Epoch};

/// The path of the call, whose requests come at any time.
pub(super) const MEMBERSHIP: &str = "/logweir.v1.GroupService/ConsumerGroupHeartbeat";

/// Heartbeats of a member that are not answered yet; the next is not read before.
const MAX_OUTSTANDING: usize = 16;
/// Topics of one subscription.
const MAX_TOPICS: usize = 10_000;
/// Partitions that a member says it owns.
const MAX_PARTITIONS: usize = 100_000;
/// How long an answer may wait for news: the coordinator takes its heartbeat interval if that is less.
const WAIT: Duration = Duration::from_secs(3_600);

type Request = v1::ConsumerGroupHeartbeatRequest;
type Answer = v1::ConsumerGroupHeartbeatResponse;

/// Serves a member's stream.
pub(super) fn serve(
    handler: Handler,
    ctx: RequestContext,
    charge: Option<Charge>,
    requests: Streaming<Request>,
) -> impl Stream<Item = Result<Answer, Status>> + Send {
    OwnAnswers::new(|place| async move {
        let ended = tokio::select! {
            ended = answer_all(&handler, &ctx, charge, requests, &place) => ended,
            () = handler.stop.cancelled() => Err(shutting_down()),
        };
        if let Err(status) = ended {
            place.put(Err(status)).await;
        }
    })
}

/// Reads and answers until the member ends the stream.
async fn answer_all(
    handler: &Handler,
    ctx: &RequestContext,
    charge: Option<Charge>,
    mut requests: Streaming<Request>,
    place: &Place<Answer>,
) -> Result<(), Status> {
    let mut group: Option<String> = None;
    let mut outstanding = Outstanding::default();
    let mut ended = false;
    while !(ended && outstanding.0.is_empty()) {
        // Answers first: a heartbeat has its place with the coordinator once it was polled.
        tokio::select! {
            biased;
            answer = poll_fn(|cx| outstanding.poll(cx)) => place.put(Ok(answer)).await,
            request = requests.next(), if !ended && outstanding.0.len() < MAX_OUTSTANDING => {
                let Some(request) = request.transpose()? else {
                    ended = true;
                    continue;
                };
                let member_id = request.member_id.clone();
                let group = group.get_or_insert_with(|| request.group_id.clone());
                let heartbeat = match *group == request.group_id {
                    true => heartbeat(ctx, request),
                    false => Err(invalid(format!(
                        "group_id {:?} on the stream of group {group:?}; open a stream for each",
                        request.group_id
                    ))),
                };
                let expected = match heartbeat {
                    Ok(heartbeat) => expect(handler, ctx, heartbeat).await,
                    Err(status) => Err(refused(&member_id, &refusal(&status))),
                };
                let kept = charge.as_ref().map(|charge| charge.settle(usize::MAX));
                let beat = Box::pin(beat(handler, ctx, expected, kept));
                outstanding.0.push_back(Beat::Waits(beat));
            }
        }
    }
    Ok(())
}

/// Heartbeats that are not answered yet, in their order.
#[derive(Default)]
struct Outstanding<'a>(VecDeque<Beat<'a>>);

enum Beat<'a> {
    Waits(Pin<Box<dyn Future<Output = Answer> + Send + 'a>>),
    /// Until those before it are.
    Answered(Answer),
}

impl Outstanding<'_> {
    /// The next answer. Goes on with every heartbeat, not only with the first; pending if there is none.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        for beat in &mut self.0 {
            if let Beat::Waits(waiting) = beat
                && let Poll::Ready(answer) = waiting.as_mut().poll(cx)
            {
                *beat = Beat::Answered(answer);
            }
        }
        match self.0.pop_front() {
            Some(Beat::Answered(answer)) => Poll::Ready(answer),
            Some(waits) => {
                self.0.push_front(waits);
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

/// A heartbeat that is to take its place, with the fault that it is to suffer.
type Expected = (ConsumerHeartbeat, Option<Hit>);

async fn expect(
    handler: &Handler,
    ctx: &RequestContext,
    heartbeat: ConsumerHeartbeat,
) -> Result<Expected, Answer> {
    let expected = handler.service.expect_heartbeat(ctx, &heartbeat.group_id);
    match expected.await {
        Ok(hit) => Ok((heartbeat, hit)),
        Err(error) => Err(refused(&heartbeat.member_id, &error)),
    }
}

/// `_kept` is what the heartbeat takes of the limits until it is answered.
async fn beat(
    handler: &Handler,
    ctx: &RequestContext,
    expected: Result<Expected, Answer>,
    _kept: Option<Kept>,
) -> Answer {
    let (heartbeat, hit) = match expected {
        Ok(expected) => expected,
        Err(answer) => return answer,
    };
    let member_id = Arc::clone(&heartbeat.member_id);
    match handler
        .service
        .consumer_heartbeat(ctx, heartbeat, hit)
        .await
    {
        Ok(answer) => good(handler, &answer),
        Err(error) => refused(&member_id, &error),
    }
}

/// What is wrong with a heartbeat ends that heartbeat, not the stream.
fn refusal(status: &Status) -> ApiError {
    let message = status.message();
    let message = message.strip_prefix("INVALID_REQUEST: ").unwrap_or(message);
    ApiError::new(ErrorCode::InvalidRequest, message)
}

fn good(handler: &Handler, answer: &ConsumerHeartbeatAnswer) -> Answer {
    let interval = answer.heartbeat_interval.as_millis();
    let named = answer
        .assignment
        .as_ref()
        .map(|assigned| handler.service.named(assigned));
    Answer {
        error: None,
        member_id: answer.member_id.to_string(),
        member_epoch: answer.member_epoch.get(),
        heartbeat_interval_ms: u32::try_from(interval).unwrap_or(u32::MAX),
        assignment: named.as_ref().map(assignment),
    }
}

fn refused(member_id: &str, error: &ApiError) -> Answer {
    Answer {
        error: Some(error.into()),
        member_id: member_id.to_owned(),
        ..Answer::default()
    }
}

fn heartbeat(ctx: &RequestContext, request: Request) -> Result<ConsumerHeartbeat, Status> {
    let joins = request.member_epoch == Epoch::JOIN.get();
    let (mut topic_names, mut topic_regex) = (None, None);
    if let Some(subscription) = request.subscription {
        at_most("topics", subscription.topics.len(), MAX_TOPICS)?;
        let mut names = BTreeSet::new();
        for topic in &subscription.topics {
            check_name(topic)?;
            names.insert(inner(ctx, topic));
        }
        topic_names = Some(names.into_iter().collect());
        topic_regex = Some(Arc::from(subscription.topic_regex));
    }
    let rebalance_timeout = request
        .rebalance_timeout_ms
        .or(joins.then_some(DEFAULT_REBALANCE_TIMEOUT_MS));
    let max_interval = match request.max_poll_interval_ms {
        0 => PollMark::DEFAULT_INTERVAL,
        ms => Duration::from_millis(u64::from(ms)),
    };
    Ok(ConsumerHeartbeat {
        group_id: inner(ctx, &request.group_id),
        member_id: request.member_id.into(),
        member_epoch: Epoch::new(request.member_epoch),
        instance_id: request.instance_id.map(Arc::from),
        rack_id: request.rack_id.map(Arc::from),
        client_id: Arc::clone(&ctx.client_id),
        client_host: Arc::clone(&ctx.client_host),
        rebalance_timeout: rebalance_timeout.map(|ms| Duration::from_millis(u64::from(ms))),
        topic_names,
        topic_regex,
        server_assignor: request.server_assignor.map(Arc::from),
        owned: request
            .owned
            .map(owned)
            .transpose()?
            .or_else(|| joins.then(Assignment::default)),
        poll: Some(PollMark {
            polled: request.polled,
            max_interval,
        }),
        wait: Some(WAIT),
    })
}

/// As Kafka's consumers have it: their `max.poll.interval.ms`.
const DEFAULT_REBALANCE_TIMEOUT_MS: u32 = 300_000;

fn owned(owned: v1::Assignment) -> Result<Assignment, Status> {
    let count = owned
        .topics
        .iter()
        .map(|topic| topic.partitions.len())
        .sum();
    at_most("partitions", count, MAX_PARTITIONS)?;
    let mut all = Assignment::default();
    for topic in owned.topics {
        let id = TopicId::from_slice(&topic.topic_id).ok_or_else(|| {
            invalid(format!(
                "a topic id has 16 bytes, not {}",
                topic.topic_id.len()
            ))
        })?;
        for partition in topic.partitions {
            all.insert(id, PartitionId::new(partition));
        }
    }
    Ok(all)
}
