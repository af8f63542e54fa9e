//! Decides what to send, and what an answer, a lost connection or the time means: the producer's task
//! without its input and output.
//!
//! Fed by [`Sender::collect`], [`Sender::on_response`], [`Sender::on_disconnect`] and
//! [`Sender::expire`]; asked by [`Sender::next_request`] and [`Sender::next_wake`]. It never waits and
//! knows no socket, so that a test can drive it through any order of events.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::ErrorCode;
use logweir_proto::grpc::v1;
use tokio::time::Instant;
use v1::partition_append::Data;

use super::accumulator::{Accumulator, Listed, PartitionQueue};
use super::batch::SealedBatch;
use super::delivery::Appended;
use super::lane::{Identity, Lane, Settled};
use super::verdict::Verdict;
use crate::backoff::{Backoff, Random};
use crate::config::{Acks, ProducerConfig};
use crate::error::{Error, ErrorKind};

/// The most appends in one request, as the contract says.
const MAX_APPENDS: usize = 10_000;
/// What an append takes in a request beside its batch and its topic's name, at the most.
const APPEND_OVERHEAD: usize = 32;

/// So many bytes sent from one idle moment to the next mean that there is much to send: batches that could
/// go because nothing is in flight then wait for [`BUSY_PAUSE`], or they would never fill. Measured on two shared cores with
/// twelve partitions and records of 100 bytes: 0.5 to 1.9 million records a second for one sender that does not wait, while
/// a thousand tasks that each wait for their answer go down from 0.6 to 0.4 million.
const BUSY_BYTES: usize = 32 << 10;
/// See [`BUSY_BYTES`]. The linger time, if that is shorter.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// A request whose answer is awaited.
struct InFlight {
    correlation_id: u64,
    sent_at: Instant,
    /// In the order of the request's appends.
    batches: Vec<(usize, SealedBatch)>,
}

/// The producer's task without its input and output.
pub(crate) struct Sender {
    accumulator: Arc<Accumulator>,
    random: Random,
    idempotent: bool,
    /// Whose batches these are, for partitions without an identity of their own.
    identity: Option<Identity>,
    /// By queue number.
    lanes: Vec<Option<Lane>>,
    /// Lanes that may have something to send now, in turn.
    ready: VecDeque<usize>,
    /// Lanes whose batch may fill until then; nearly sorted, because every batch waits equally long.
    lingering: VecDeque<(Instant, usize)>,
    /// Lanes that pause until then.
    paused: BTreeSet<(Instant, usize)>,
    in_flight: VecDeque<InFlight>,
    /// Bytes sent since nothing was in flight last.
    burst_bytes: usize,
    /// Until when batches that are not full wait although nothing is in flight.
    busy_until: Option<Instant>,
    next_correlation_id: u64,
    /// What keeps requests from being answered at present, for the errors of records that run out of time.
    trouble: Option<Error>,
    /// Topics whose description is stale.
    stale_topics: HashSet<Arc<str>>,
}

impl Sender {
    pub(crate) fn new(accumulator: Arc<Accumulator>) -> Self {
        Self {
            idempotent: accumulator.config.is_idempotent(),
            accumulator,
            random: Random::from_entropy(),
            identity: None,
            lanes: Vec::new(),
            ready: VecDeque::new(),
            lingering: VecDeque::new(),
            paused: BTreeSet::new(),
            in_flight: VecDeque::new(),
            burst_bytes: 0,
            busy_until: None,
            next_correlation_id: 1,
            trouble: None,
            stale_topics: HashSet::new(),
        }
    }

    fn config(&self) -> &ProducerConfig {
        &self.accumulator.config
    }

    /// How many requests await their answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a producer id has to be asked for before anything can be sent.
    pub(crate) fn wants_identity(&self) -> bool {
        self.idempotent && self.identity.is_none()
    }

    /// Takes the producer id the broker gave.
    pub(crate) fn set_identity(&mut self, identity: Identity) {
        self.identity = Some(identity);
    }

    /// Remembers what keeps requests from being answered.
    pub(crate) fn set_trouble(&mut self, trouble: Error) {
        self.trouble = Some(trouble);
    }

    /// The topics that should be described anew; each is told once.
    pub(crate) fn take_stale_topics(&mut self) -> impl Iterator<Item = Arc<str>> + use<> {
        std::mem::take(&mut self.stale_topics).into_iter()
    }

    /// When the task must look again, if nothing happens before.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        // With all requests out, the next answer is what to wait for.
        let may_send = self.in_flight.len() < self.config().max_in_flight;
        let lingering = self
            .lingering
            .front()
            .map(|(until, _)| *until)
            .filter(|_| may_send);
        let paused = self
            .paused
            .first()
            .map(|(until, _)| *until)
            .filter(|_| may_send);
        let deadline = self
            .accumulator
            .tracker
            .first_deadline()
            .map(|(deadline, _)| deadline);
        let idle = self.config().send_when_idle && self.in_flight.is_empty();
        let busy = self
            .busy_until
            .filter(|_| idle && !self.lingering.is_empty());
        [lingering, paused, busy, deadline, self.answer_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the oldest request counts as unanswered.
    pub(crate) fn answer_due(&self) -> Option<Instant> {
        self.in_flight
            .front()
            .map(|request| request.sent_at + self.config().request_timeout)
    }

    /// Learns which queues have something new.
    pub(crate) fn collect(&mut self, now: Instant) {
        for queue in self.accumulator.take_inbox() {
            let index = queue.index;
            self.lane_of(&queue);
            self.relist(index, now);
        }
    }

    fn lane_of(&mut self, queue: &Arc<PartitionQueue>) -> &mut Lane {
        if self.lanes.len() <= queue.index {
            self.lanes.resize_with(queue.index + 1, || None);
        }
        let (config, random) = (&self.accumulator.config, &mut self.random);
        self.lanes[queue.index].get_or_insert_with(|| {
            let mut seed = random.clone();
            random.next_u64();
            seed.next_u64();
            let backoff = Backoff::new(config.retry_backoff, config.retry_backoff_max, seed);
            Lane::new(Arc::clone(queue), backoff)
        })
    }

    /// Puts a lane on the list where it belongs.
    fn relist(&mut self, index: usize, now: Instant) {
        let linger = self.config().linger;
        let idempotent = self.idempotent;
        let Some(lane) = self.lanes.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let mut state = lane.queue.state.lock();
        let opened_at = state.open.as_ref().map(|open| open.opened_at);
        state.listed = match (state.full.is_empty(), opened_at) {
            (false, _) => Listed::Full,
            (true, Some(_)) => Listed::Open,
            (true, None) => Listed::No,
        };
        let listed = state.listed;
        drop(state);
        if !lane.may_send(idempotent, now) {
            return;
        }
        let now_ready = listed == Listed::Full || !lane.retries.is_empty() || linger.is_zero();
        if now_ready && (listed != Listed::No || !lane.retries.is_empty()) {
            if !std::mem::replace(&mut lane.is_ready, true) {
                self.ready.push_back(index);
            }
        } else if let Some(opened_at) = opened_at
            && !std::mem::replace(&mut lane.is_lingering, true)
        {
            self.lingering.push_back((opened_at + linger, index));
        }
    }

    /// Moves what is due from the lists of the waiting to the list of the ready.
    fn advance(&mut self, now: Instant, everything: bool) {
        while let Some((until, index)) = self.paused.first().copied().filter(|(at, _)| *at <= now) {
            self.paused.remove(&(until, index));
            if let Some(lane) = self.lanes[index].as_mut() {
                lane.paused_until = None;
            }
            self.settle(index, now);
        }
        for _ in 0..self.lingering.len() {
            let Some((until, index)) = self.lingering.front().copied() else {
                break;
            };
            if until > now && !everything {
                break;
            }
            self.lingering.pop_front();
            let linger = self.config().linger;
            let Some(lane) = self.lanes[index].as_mut() else {
                continue;
            };
            lane.is_lingering = false;
            let opened_at = lane
                .queue
                .state
                .lock()
                .open
                .as_ref()
                .map(|open| open.opened_at);
            let due = opened_at.is_some_and(|at| everything || at + linger <= now);
            if due && lane.may_send(self.idempotent, now) {
                if !std::mem::replace(&mut lane.is_ready, true) {
                    self.ready.push_back(index);
                }
            } else {
                self.relist(index, now);
            }
        }
    }

    /// Whether what lingers is to be sent without waiting for more.
    fn is_urgent(&self, now: Instant) -> bool {
        let idle = self.in_flight.is_empty() && self.busy_until.is_none_or(|until| until <= now);
        self.accumulator.is_urgent() || (idle && self.config().send_when_idle)
    }

    /// Notices when nothing is in flight any more.
    fn note_idle(&mut self, now: Instant) {
        if self.in_flight.is_empty() {
            let busy = std::mem::take(&mut self.burst_bytes) >= BUSY_BYTES;
            self.busy_until = busy.then(|| now + BUSY_PAUSE.min(self.config().linger));
        }
    }

    /// Whether a request could be made now, if there were a connection and a producer id.
    pub(crate) fn has_work(&mut self, now: Instant) -> bool {
        if self.in_flight.len() >= self.config().max_in_flight {
            return false;
        }
        let urgent = self.is_urgent(now);
        self.advance(now, urgent);
        !self.ready.is_empty()
    }

    /// The next request, if there is one to send now. It counts as sent.
    pub(crate) fn next_request(&mut self, now: Instant) -> Option<v1::ProduceRequest> {
        if self.wants_identity() || !self.has_work(now) {
            return None;
        }
        let urgent = self.is_urgent(now);
        let limit = self.config().max_request_size;
        let mut batches: Vec<(usize, SealedBatch)> = Vec::new();
        let mut size = 0;
        let mut again = Vec::new();
        for _ in 0..self.ready.len().min(MAX_APPENDS) {
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            match self.take_from(
                index,
                now,
                urgent,
                limit - size.min(limit),
                batches.is_empty(),
            ) {
                Take::Batch(batch) => {
                    let name = self.lanes[index]
                        .as_ref()
                        .map_or(0, |lane| lane.queue.topic.len());
                    size += batch.bytes.len() + name + APPEND_OVERHEAD;
                    batches.push((index, batch));
                    again.push(index);
                }
                Take::TooLarge => {
                    self.ready.push_front(index);
                    break;
                }
                Take::Nothing => again.push(index),
            }
        }
        for index in again {
            if let Some(lane) = self.lanes[index].as_mut() {
                lane.is_ready = false;
            }
            self.relist(index, now);
        }
        self.burst_bytes += size;
        if batches.is_empty() {
            None
        } else {
            Some(self.request_of(batches, now))
        }
    }

    /// Takes one batch of a lane, of at most `room` bytes unless it is the `first` of its request.
    fn take_from(
        &mut self,
        index: usize,
        now: Instant,
        urgent: bool,
        room: usize,
        first: bool,
    ) -> Take {
        let linger = self.config().linger;
        let Some(lane) = self.lanes[index].as_mut() else {
            return Take::Nothing;
        };
        if !lane.may_send(self.idempotent, now) {
            return Take::Nothing;
        }
        if let Some(retry) = lane.retries.front() {
            if retry.bytes.len() > room && !first {
                return Take::TooLarge;
            }
            let Some(mut batch) = lane.retries.pop_front() else {
                return Take::Nothing;
            };
            batch.attempts += 1;
            lane.in_flight += 1;
            if batch.attempts > 1 {
                self.accumulator.tracker.counters.batches_retried.add(1);
            }
            return Take::Batch(batch);
        }
        let mut state = lane.queue.state.lock();
        let due = |opened_at: Instant| urgent || opened_at + linger <= now;
        let size = match (state.full.front(), &state.open) {
            (Some(full), _) => full.builder.uncompressed_bytes(),
            (None, Some(open)) if due(open.opened_at) => open.builder.uncompressed_bytes(),
            _ => return Take::Nothing,
        };
        if size > room && !first {
            return Take::TooLarge;
        }
        let taken = state.full.pop_front();
        let taken = if taken.is_some() {
            taken
        } else {
            state.open.take()
        };
        drop(state);
        let Some(open) = taken else {
            return Take::Nothing;
        };
        let identity = if self.idempotent { self.identity } else { None };
        let stamp = lane.stamp(identity, open.builder.len());
        match SealedBatch::seal(open, stamp) {
            Some(mut batch) => {
                batch.attempts = 1;
                lane.in_flight += 1;
                Take::Batch(batch)
            }
            None => {
                lane.unstamp(stamp);
                Take::Nothing
            }
        }
    }

    fn request_of(
        &mut self,
        batches: Vec<(usize, SealedBatch)>,
        now: Instant,
    ) -> v1::ProduceRequest {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id += 1;
        // A little less than we wait ourselves, so that the broker's answer comes before we give up.
        let broker_ms = (self.config().request_timeout.as_millis() * 9 / 10).clamp(1, 300_000);
        let appends = batches
            .iter()
            .map(|(index, batch)| self.append_of(*index, batch))
            .collect();
        let mut request = v1::ProduceRequest {
            correlation_id,
            acks: 0,
            timeout_ms: u32::try_from(broker_ms).unwrap_or(300_000),
            appends,
            transactional_id: None,
        };
        request.set_acks(match self.config().acks {
            Acks::All => v1::Acks::All,
            Acks::Leader => v1::Acks::Leader,
            Acks::None => v1::Acks::None,
        });
        self.accumulator.tracker.counters.requests_sent.add(1);
        self.in_flight.push_back(InFlight {
            correlation_id,
            sent_at: now,
            batches,
        });
        request
    }

    fn append_of(&self, index: usize, batch: &SealedBatch) -> v1::PartitionAppend {
        let lane = self.lanes[index]
            .as_ref()
            .expect("a batch was taken from this lane");
        v1::PartitionAppend {
            topic: lane.queue.topic.to_string(),
            topic_id: None,
            partition: Some(lane.queue.partition.get()),
            data: Some(Data::Batch(batch.bytes.clone())),
            compression: 0,
        }
    }

    /// With acks=none: the connection has taken the last request, and that is all there will be.
    pub(crate) fn on_handed_over(&mut self, now: Instant) {
        let Some(request) = self.in_flight.pop_back() else {
            return;
        };
        self.note_idle(now);
        for (index, batch) in request.batches {
            self.count_stored(&batch);
            batch.complete(Ok(Appended {
                base_offset: None,
                log_append_time: None,
            }));
            self.back(index, now);
        }
    }

    /// The broker answered. An error means that the answer makes no sense and the connection must be given up.
    pub(crate) fn on_response(
        &mut self,
        response: v1::ProduceResponse,
        now: Instant,
    ) -> Result<(), Error> {
        let nonsense = |message: String| Err(Error::new(ErrorKind::Broker, message));
        let Some(request) = self.in_flight.front() else {
            return nonsense("the broker answered a request that was not sent".to_owned());
        };
        if request.correlation_id != response.correlation_id {
            return nonsense(format!(
                "the broker answered request {} instead of {}",
                response.correlation_id, request.correlation_id
            ));
        }
        let fits = request.batches.len() == response.results.len()
            && request
                .batches
                .iter()
                .zip(&response.results)
                .all(|((index, _), result)| {
                    self.lanes[*index].as_ref().is_some_and(|lane| {
                        *lane.queue.topic == *result.topic
                            && lane.queue.partition.get() == result.partition
                    })
                });
        if !fits {
            return nonsense("the broker's answer does not fit the request's appends".to_owned());
        }
        let Some(request) = self.in_flight.pop_front() else {
            return Ok(());
        };
        self.trouble = None;
        self.note_idle(now);
        for ((index, batch), result) in request.batches.into_iter().zip(response.results) {
            self.on_result(index, batch, &result, now);
            self.back(index, now);
        }
        Ok(())
    }

    fn on_result(
        &mut self,
        index: usize,
        mut batch: SealedBatch,
        result: &v1::AppendResult,
        now: Instant,
    ) {
        let error = result.error.as_ref().map(Error::from_entry);
        let verdict = match &error {
            None => Verdict::stored_at(result.base_offset, result.log_append_time_ms),
            Some(error) => {
                if Verdict::asks_for_metadata(error) {
                    self.mark_stale(index);
                }
                Verdict::on(&mut batch, error, self.config().unknown_topic_retries)
            }
        };
        let Some(lane) = self.lanes[index].as_mut() else {
            return;
        };
        match verdict {
            Verdict::Stored(appended) => {
                lane.stored(&batch, now);
                self.count_stored(&batch);
                batch.complete(Ok(appended));
            }
            Verdict::Retry { may_be_stored } => {
                batch.may_be_stored |= may_be_stored;
                batch.last_error.clone_from(&error);
                tracing::debug!(
                    topic = %lane.queue.topic, partition = %lane.queue.partition, error = ?error,
                    attempts = batch.attempts, "batch is sent again"
                );
                lane.retry(batch, true);
            }
            Verdict::RefusedNumber(code) => {
                if let Some((batch, error)) = lane.refused_number(batch, code) {
                    batch.complete(Err(error));
                }
            }
            Verdict::Split => match batch.split() {
                Ok((head, tail)) => {
                    self.accumulator.tracker.counters.batches_split.add(1);
                    lane.retry(head, false);
                    lane.retry(tail, false);
                }
                Err(batch) => self.fail(index, *batch, error),
            },
            Verdict::Fail { may_be_stored } => {
                batch.may_be_stored |= may_be_stored;
                self.fail(index, batch, error);
            }
            Verdict::Fenced => {
                let error = error.unwrap_or_else(|| Error::new(ErrorKind::Fenced, "fenced"));
                self.accumulator.refuse(error.clone());
                self.fail(index, batch, Some(error.clone()));
                self.fail_all(&error, now);
            }
        }
    }

    /// A batch is given up for a reason the broker named.
    fn fail(&mut self, index: usize, batch: SealedBatch, error: Option<Error>) {
        if let Some(lane) = self.lanes[index].as_mut() {
            lane.lost(&batch);
        }
        let error = error.unwrap_or_else(|| Error::new(ErrorKind::Broker, "no reason was given"));
        let may_be_stored = batch.may_be_stored || error.may_have_happened();
        batch.complete(Err(error.with_may_have_happened(may_be_stored)));
    }

    fn mark_stale(&mut self, index: usize) {
        if let Some(lane) = self.lanes[index].as_ref() {
            self.stale_topics.insert(Arc::clone(&lane.queue.topic));
        }
    }

    fn count_stored(&self, batch: &SealedBatch) {
        let counters = &self.accumulator.tracker.counters;
        counters.batches_delivered.add(1);
        counters.bytes_delivered.add_usize(batch.bytes.len());
    }

    /// A batch of the lane is no longer out.
    fn back(&mut self, index: usize, now: Instant) {
        if let Some(lane) = self.lanes[index].as_mut() {
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
        self.settle(index, now);
    }

    fn settle(&mut self, index: usize, now: Instant) {
        let Some(lane) = self.lanes[index].as_mut() else {
            return;
        };
        let mut bumps = 0;
        let (settled, failed) = lane.settle(now, &mut bumps);
        self.accumulator.tracker.counters.epoch_bumps.add(bumps);
        if lane.take_exhausted() {
            self.identity = None;
        }
        match settled {
            Settled::NotYet | Settled::Go => self.relist(index, now),
            Settled::Pause(until) => {
                self.paused.insert((until, index));
            }
        }
        for batch in failed {
            let error = Error::from_code(
                ErrorCode::OutOfOrderSequenceNumber,
                "the batch may be stored, and cannot be repeated under its number",
            );
            batch.complete(Err(error.with_may_have_happened(true)));
        }
    }

    /// The connection is gone: what is out may be stored or not, and is sent again. If the broker ended
    /// it with a refusal, the oldest request is what it refused.
    pub(crate) fn on_disconnect(&mut self, reason: &Error, now: Instant) {
        let refused = matches!(
            reason.kind(),
            ErrorKind::Invalid | ErrorKind::Denied | ErrorKind::Fenced
        );
        let mut lost: Vec<InFlight> = std::mem::take(&mut self.in_flight).into();
        if refused && !lost.is_empty() {
            for (index, batch) in lost.remove(0).batches {
                self.fail(index, batch, Some(reason.clone()));
                if let Some(lane) = self.lanes[index].as_mut() {
                    lane.in_flight = lane.in_flight.saturating_sub(1);
                }
            }
        }
        for request in lost {
            for (index, mut batch) in request.batches {
                batch.may_be_stored = true;
                if let Some(lane) = self.lanes[index].as_mut() {
                    lane.retry(batch, false);
                    lane.in_flight = lane.in_flight.saturating_sub(1);
                }
            }
        }
        for index in 0..self.lanes.len() {
            if let Some(lane) = self.lanes[index].as_mut() {
                lane.skip_pause();
            }
            self.settle(index, now);
        }
    }

    /// Fails the batches whose deadline has passed, wherever they are.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((deadline, index)) = self.accumulator.tracker.first_deadline() {
            if deadline > now {
                return;
            }
            self.collect(now);
            if !self.expire_lane(index, now) {
                // Being appended to at this moment, or already on its way to the end: the next look finds it.
                return;
            }
        }
    }

    /// Fails what is late in one lane. Returns whether there was anything.
    fn expire_lane(&mut self, index: usize, now: Instant) -> bool {
        let timeout = self.config().delivery_timeout;
        let trouble = self.trouble.clone();
        let late = |sent: bool, may_be_stored: bool, last: Option<&Error>| {
            let state = if sent {
                "sent, but not acknowledged"
            } else {
                "not sent"
            };
            let reason = last.or(trouble.as_ref()).map(|error| format!(": {error}"));
            let reason = reason.unwrap_or_default();
            Error::timed_out(format!(
                "{state} within the delivery timeout of {timeout:?}{reason}"
            ))
            .with_may_have_happened(may_be_stored)
        };
        let Some(lane) = self.lanes.get_mut(index).and_then(Option::as_mut) else {
            return false;
        };
        let mut found = false;
        for open in lane.queue.take_expired(now) {
            found = true;
            open.completion.complete(Err(late(false, false, None)));
        }
        for batch in lane.take_expired(now) {
            found = true;
            let error = late(true, batch.may_be_stored, batch.last_error.as_ref());
            batch.complete(Err(error));
        }
        for request in &mut self.in_flight {
            for (_, batch) in request.batches.iter_mut().filter(|(at, _)| *at == index) {
                if batch.deadline <= now && !batch.is_dead() {
                    found = true;
                    batch.fail_early(late(true, true, None));
                }
            }
        }
        self.settle(index, now);
        found
    }

    /// Fails everything that is not out.
    pub(crate) fn fail_all(&mut self, error: &Error, now: Instant) {
        self.collect(now);
        self.accumulator.fail_waiting(error);
        for index in 0..self.lanes.len() {
            let Some(lane) = self.lanes[index].as_mut() else {
                continue;
            };
            for batch in lane.take_retries() {
                let may_be_stored = batch.may_be_stored;
                batch.complete(Err(error.clone().with_may_have_happened(may_be_stored)));
            }
            if let Some(until) = lane.paused_until.take() {
                self.paused.remove(&(until, index));
            }
            self.settle(index, now);
        }
    }

    /// Fails everything, also what is out: nobody will hear the answers.
    pub(crate) fn abandon(&mut self, error: &Error, now: Instant) {
        for request in std::mem::take(&mut self.in_flight) {
            for (index, batch) in request.batches {
                if let Some(lane) = self.lanes[index].as_mut() {
                    lane.in_flight = lane.in_flight.saturating_sub(1);
                }
                batch.complete(Err(error.clone().with_may_have_happened(true)));
            }
        }
        self.fail_all(error, now);
    }
}

/// What came of taking a batch.
enum Take {
    Batch(SealedBatch),
    /// It does not fit into this request any more.
    TooLarge,
    Nothing,
}
