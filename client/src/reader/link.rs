//! The reader's connection: looking offsets up, opening the stream, receiving, and trying again.
//!
//! A state machine that is polled; each state holds what it waits for, so that a dropped `next` call
//! loses no progress. After anything unexpected it begins anew at `Idle`, from each partition's fetch offset.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::record::batches;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, PartitionId, TopicId};
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tonic::Streaming;
use v1::fetched_partition::Data;

use super::StartAt;
use super::assignment::{Arrived, Assignment, End, Position};
use crate::admin::{OffsetSpec, look_up};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::clock::timer;
use crate::config::{Isolation, OutOfRange, ReaderConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::ReaderCounters;
use crate::topic_partition::TopicPartition;

/// How often in a row a partition may be unknown to the broker until it fails.
const MAX_UNKNOWN: u32 = 4;

type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a reader lends its link.
pub(super) struct Reading<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a ReaderConfig,
    pub(super) partitions: &'a mut BTreeMap<TopicPartition, Assignment>,
    pub(super) repeat_failures: bool,
    pub(super) counters: &'a ReaderCounters,
}

/// What happened.
pub(super) enum LinkEvent {
    /// Every partition has reached its end.
    Finished,
    /// Something arrived for these.
    Arrived(Vec<TopicPartition>),
    /// A partition failed, or trying again has taken too long.
    Failed(Error),
}

/// What was looked up for a partition.
enum Found {
    TopicId(TopicId),
    /// With the leader epoch that the broker named beside it.
    Start(Offset, LeaderEpoch),
    End(Offset),
    Failed(Error),
}

type Findings = Result<Vec<(TopicPartition, Found)>>;

enum State {
    Idle,
    LookingUp(Call<Findings>),
    Opening(Call<Result<Streaming<v1::FetchResponse>>>),
    Receiving(Box<Streaming<v1::FetchResponse>>),
    Waiting(Pin<Box<Sleep>>),
}

/// The reader's connection.
pub(super) struct Link {
    state: State,
    backoff: Backoff,
    /// Since when nothing has worked.
    failing_since: Option<Instant>,
    /// Errors of partitions, to be told one by one.
    pub(super) failures: Vec<Error>,
}

impl Link {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            state: State::Idle,
            backoff: client.backoff(),
            failing_since: None,
            failures: Vec::new(),
        }
    }

    /// Begins anew, because the partitions or their offsets have changed.
    pub(super) fn renew(&mut self) {
        // While it waits after a failure, it begins anew by itself.
        if !matches!(self.state, State::Waiting(_)) {
            self.state = State::Idle;
        }
    }

    pub(super) fn poll(
        &mut self,
        mut reading: Reading<'_>,
        context: &mut Context<'_>,
    ) -> Poll<LinkEvent> {
        loop {
            if let Some(error) = self.failures.pop() {
                return Poll::Ready(LinkEvent::Failed(error));
            }
            match &mut self.state {
                State::Idle => match self.begin(&mut reading) {
                    Some(event) => return event,
                    None => continue,
                },
                State::LookingUp(call) => {
                    let findings = ready!(call.as_mut().poll(context));
                    self.state = State::Idle;
                    match findings {
                        Ok(findings) => self.take_in(findings, &mut reading),
                        Err(error) => self.failed(error, &reading),
                    }
                }
                State::Opening(call) => match ready!(call.as_mut().poll(context)) {
                    Ok(stream) => {
                        reading.counters.connections_opened.add(1);
                        self.state = State::Receiving(Box::new(stream));
                    }
                    Err(error) => self.failed(error, &reading),
                },
                State::Receiving(stream) => {
                    match ready!(Pin::new(&mut **stream).poll_next(context)) {
                        Some(Ok(response)) => {
                            let places = self.receive(response, &mut reading);
                            if !places.is_empty() {
                                return Poll::Ready(LinkEvent::Arrived(places));
                            }
                        }
                        Some(Err(status)) => {
                            reading.counters.connections_lost.add(1);
                            let error = reading.client.explain(Error::from_status(&status));
                            self.failed(error, &reading);
                        }
                        None => self.ended(&reading),
                    }
                }
                State::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(context));
                    self.state = State::Idle;
                }
            }
        }
    }

    /// Finds out what to do first. Returns an event if there is nothing to do.
    fn begin(&mut self, reading: &mut Reading<'_>) -> Option<Poll<LinkEvent>> {
        if reading.partitions.values().any(Assignment::needs_look_up) {
            self.state = State::LookingUp(Box::pin(find(reading)));
            return None;
        }
        let wanted: Vec<v1::FetchPartition> = reading
            .partitions
            .iter()
            .filter(|(_, assignment)| assignment.is_wanted())
            .map(|(place, assignment)| wanted_partition(place, assignment, reading.config))
            .collect();
        if wanted.is_empty() {
            return Some(Self::nothing_wanted(reading));
        }
        let max_bytes = u32::try_from(reading.config.fetch_max_bytes).unwrap_or(u32::MAX);
        let isolation = reading.config.isolation;
        let call = open(reading.client.clone(), max_bytes, isolation, wanted);
        self.state = State::Opening(Box::pin(call));
        None
    }

    /// All partitions are at their ends, paused or failed.
    fn nothing_wanted(reading: &Reading<'_>) -> Poll<LinkEvent> {
        let mut paused = false;
        for assignment in reading.partitions.values() {
            if assignment.is_finished() {
                continue;
            }
            match &assignment.failure {
                Some(error) if reading.repeat_failures => {
                    return Poll::Ready(LinkEvent::Failed(error.clone()));
                }
                _ => paused = true,
            }
        }
        // What could change this needs the reader mutably, so nobody has to be woken.
        if paused {
            Poll::Pending
        } else {
            Poll::Ready(LinkEvent::Finished)
        }
    }

    fn take_in(&mut self, findings: Vec<(TopicPartition, Found)>, reading: &mut Reading<'_>) {
        let mut again = None;
        for (place, found) in findings {
            let Some(assignment) = reading.partitions.get_mut(&place) else {
                continue;
            };
            match found {
                Found::TopicId(id) => assignment.topic_id = Some(id),
                Found::Start(offset, epoch) => {
                    assignment.found(offset);
                    assignment.read_epoch = epoch;
                }
                Found::End(offset) => assignment.end = End::At(offset),
                Found::Failed(error) => {
                    if let Some(error) = self.partition_failed(assignment, error, reading.config) {
                        again = Some(error);
                    }
                }
            }
        }
        match again {
            Some(error) => self.try_again(error, true, reading),
            None => self.worked(),
        }
    }

    /// Takes a response in. Returns the partitions for which something arrived.
    fn receive(
        &mut self,
        response: v1::FetchResponse,
        reading: &mut Reading<'_>,
    ) -> Vec<TopicPartition> {
        let mut places = Vec::new();
        let mut again = None;
        let mut reopen = false;
        for part in response.partitions {
            let place = TopicPartition::new(part.topic, PartitionId::new(part.partition));
            let Some(assignment) = reading.partitions.get_mut(&place) else {
                continue;
            };
            if let Some(error) = &part.error {
                let error = Error::from_entry(error)
                    .of_partition(Arc::clone(&place.topic), place.partition);
                reopen = true;
                if error.code() == Some(ErrorCode::OffsetOutOfRange) {
                    reading.counters.offset_resets.add(1);
                }
                if let Some(diverging) = part.diverging_epoch {
                    self.truncated(assignment, error, diverging, reading.config);
                    continue;
                }
                again = self
                    .partition_failed(assignment, error, reading.config)
                    .or(again);
                continue;
            }
            assignment.unknown = 0;
            assignment.high_watermark = Some(Offset::new(part.high_watermark));
            let next_offset = Offset::new(part.next_fetch_offset).max(assignment.fetch_offset);
            let bytes = match part.data {
                Some(Data::Batches(bytes)) => bytes,
                Some(Data::Records(_)) | None => bytes::Bytes::new(),
            };
            if bytes.is_empty() && next_offset == assignment.fetch_offset {
                continue;
            }
            assignment.fetch_offset = next_offset;
            let high_watermark = Offset::new(part.high_watermark);
            let arrived = Arrived {
                batches: batches(bytes),
                high_watermark,
                next_offset,
            };
            assignment.arrived.push_back(arrived);
            places.push(place);
        }
        match again {
            Some(error) => self.try_again(error, true, reading),
            None => {
                self.worked();
                if reopen {
                    self.state = State::Idle;
                }
            }
        }
        places
    }

    /// The log has lost the end of what was read (KIP-320). As Kafka's consumer, a reader that may go on elsewhere goes on
    /// where the two part: what lies below it has read, and what is there now it has not.
    fn truncated(
        &mut self,
        assignment: &mut Assignment,
        error: Error,
        diverging: v1::DivergingEpoch,
        config: &ReaderConfig,
    ) {
        let end = Offset::new(diverging.end_offset);
        let error = error.with_action(format!(
            "seek to offset {end} to go on with what is there now"
        ));
        if config.out_of_range == OutOfRange::Error {
            assignment.rewind();
            assignment.failure = Some(error.clone());
            self.failures.push(error);
            return;
        }
        tracing::warn!(%error, offset = %end, "records that were read are lost, going on where they began");
        assignment.go_back(end, LeaderEpoch::new(diverging.leader_epoch));
    }

    /// A partition cannot be read as it is. Returns the error if trying again may help.
    fn partition_failed(
        &mut self,
        assignment: &mut Assignment,
        error: Error,
        config: &ReaderConfig,
    ) -> Option<Error> {
        match error.code() {
            Some(ErrorCode::OffsetOutOfRange) => {
                let start = match config.out_of_range {
                    OutOfRange::Earliest => Some(StartAt::Earliest),
                    OutOfRange::Latest => Some(StartAt::Latest),
                    OutOfRange::Error => None,
                };
                if let Some(start) = start {
                    tracing::warn!(%error, ?start, "offset is not in the log, going on elsewhere");
                    assignment.position = Position::Unknown(start);
                    return None;
                }
            }
            Some(ErrorCode::UnknownTopicOrPartition) if assignment.unknown < MAX_UNKNOWN => {
                assignment.unknown += 1;
                return Some(error);
            }
            Some(ErrorCode::UnknownTopicOrPartition) => {}
            Some(ErrorCode::UnknownTopicId | ErrorCode::InconsistentTopicId) => {
                let gone =
                    error.with_action("the topic was deleted and made anew: assign it again");
                assignment.failure = Some(gone.clone());
                self.failures.push(gone);
                return None;
            }
            _ if matches!(error.kind(), ErrorKind::Retriable | ErrorKind::TimedOut) => {
                return Some(error);
            }
            _ => {}
        }
        assignment.failure = Some(error.clone());
        self.failures.push(error);
        None
    }

    /// The broker ended the stream: because all is read, or because it goes away.
    fn ended(&mut self, reading: &Reading<'_>) {
        if reading.partitions.values().any(Assignment::is_wanted) {
            reading.counters.connections_lost.add(1);
            let error = Error::new(ErrorKind::Retriable, "the broker ended the stream");
            self.failed(reading.client.explain(error), reading);
        } else {
            self.state = State::Idle;
        }
    }

    fn worked(&mut self) {
        self.backoff.reset();
        self.failing_since = None;
    }

    /// The connection, or a call, has failed.
    fn failed(&mut self, error: Error, reading: &Reading<'_>) {
        let passing = matches!(error.kind(), ErrorKind::Retriable | ErrorKind::TimedOut);
        self.try_again(error, passing, reading);
    }

    /// Waits and tries again; tells the caller if that has gone on for long, or if it does not pass.
    fn try_again(&mut self, error: Error, passing: bool, reading: &Reading<'_>) {
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        if self.backoff.attempts() == 0 {
            tracing::warn!(%error, "reading was interrupted, trying again");
        }
        self.state = State::Waiting(Box::pin(timer(now + self.backoff.next())));
        if !passing || now.duration_since(since) >= reading.config.retry_timeout {
            self.failing_since = None;
            self.failures.push(error);
        }
    }
}

fn wanted_partition(
    place: &TopicPartition,
    assignment: &Assignment,
    config: &ReaderConfig,
) -> v1::FetchPartition {
    v1::FetchPartition {
        topic: place.topic.to_string(),
        topic_id: assignment.topic_id.map(|id| id.get().to_vec().into()),
        partition: place.partition.get(),
        fetch_offset: assignment.fetch_offset.get(),
        partition_max_bytes: u32::try_from(config.partition_fetch_max_bytes).unwrap_or(u32::MAX),
        end_offset: match assignment.end {
            End::At(end) => Some(end.get()),
            End::Never | End::Unknown => None,
        },
        // Not the leader's: that one changes without anything being lost, and says nothing of what was read.
        current_leader_epoch: None,
        last_fetched_epoch: Some(assignment.fetched_epoch().get()).filter(|epoch| *epoch >= 0),
    }
}

async fn open(
    client: Client,
    max_bytes: u32,
    isolation: Isolation,
    partitions: Vec<v1::FetchPartition>,
) -> Result<Streaming<v1::FetchResponse>> {
    let mut request = v1::FetchStreamRequest {
        partitions,
        max_bytes,
        ..Default::default()
    };
    request.set_isolation_level(isolation.into());
    request.set_format(v1::RecordFormat::Batches);
    let mut service = client.fetch_service();
    client
        .call(
            "opening a fetch stream",
            Duration::ZERO,
            service.fetch_stream(request),
        )
        .await
}

/// Looks up what the partitions need: topic ids, starts and ends.
fn find(reading: &Reading<'_>) -> impl Future<Output = Findings> + Send + use<> {
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    let mut topics: HashMap<Arc<str>, Vec<TopicPartition>> = HashMap::new();
    for (place, assignment) in reading.partitions.iter() {
        if assignment.failure.is_some() {
            continue;
        }
        if assignment.topic_id.is_none() {
            topics
                .entry(Arc::clone(&place.topic))
                .or_default()
                .push(place.clone());
        }
        match assignment.position {
            Position::Unknown(StartAt::Earliest) => {
                starts.push((place.clone(), OffsetSpec::Earliest))
            }
            Position::Unknown(StartAt::Latest) => starts.push((place.clone(), OffsetSpec::Latest)),
            Position::Unknown(StartAt::Timestamp(time)) => {
                starts.push((place.clone(), OffsetSpec::Timestamp(time)));
            }
            Position::Unknown(StartAt::Offset(_)) | Position::At(_) => {}
        }
        if assignment.end == End::Unknown {
            ends.push((place.clone(), OffsetSpec::Latest));
        }
    }
    find_all(
        reading.client.clone(),
        reading.config.isolation,
        topics,
        starts,
        ends,
    )
}

async fn find_all(
    client: Client,
    isolation: Isolation,
    topics: HashMap<Arc<str>, Vec<TopicPartition>>,
    starts: Vec<(TopicPartition, OffsetSpec)>,
    ends: Vec<(TopicPartition, OffsetSpec)>,
) -> Findings {
    let mut findings = Vec::new();
    for (topic, places) in topics {
        // A topic that is not there shows at each of its partitions below.
        // Not from the cache: a topic made anew has another id.
        if let Ok(metadata) = client.metadata().refresh(&client, &topic, false).await
            && metadata.id != TopicId::ZERO
        {
            findings.extend(
                places
                    .into_iter()
                    .map(|place| (place, Found::TopicId(metadata.id))),
            );
        }
    }
    let mut at_the_end = Vec::new();
    // Ends first: a partition that is empty between the two look-ups must not end below its start.
    for (wanted, is_end) in [(ends, true), (starts, false)] {
        if wanted.is_empty() {
            continue;
        }
        let found = look_up(&client, &wanted, isolation).await?;
        for ((place, _), found) in wanted.into_iter().zip(found) {
            match found.map(|listed| (listed.offset, listed.leader_epoch)) {
                Ok((Some(offset), _)) if is_end => findings.push((place, Found::End(offset))),
                Ok((Some(offset), epoch)) => findings.push((place, Found::Start(offset, epoch))),
                Ok((None, _)) => at_the_end.push((place, OffsetSpec::Latest)),
                Err(error) => findings.push((place, Found::Failed(error))),
            }
        }
    }
    if !at_the_end.is_empty() {
        let found = look_up(&client, &at_the_end, isolation).await?;
        for ((place, _), found) in at_the_end.into_iter().zip(found) {
            let found = match found {
                Ok(listed) => {
                    Found::Start(listed.offset.unwrap_or(Offset::ZERO), listed.leader_epoch)
                }
                Err(error) => Found::Failed(error),
            };
            findings.push((place, found));
        }
    }
    Ok(findings)
}
