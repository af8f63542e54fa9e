//! Membership: one stream of heartbeats, made anew when it breaks, until the consumer ends.
//!
//! The broker holds an answer back while there is no news; the next heartbeat follows each answer, or comes before it if
//! there is something to say. A stream that breaks is no leave: the member goes on over the next one with all that it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::ErrorCode;
use logweir_proto::grpc::v1;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::member::{JOIN, Phase, Shared};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::clock::wait_until;
use crate::error::{Error, ErrorKind, Result};

/// Heartbeats that may wait for their answers: one that the broker holds back, and one that has something to say. With
/// more, the epoch could move on twice before one of the first arrives, and the broker takes the one before only.
const MAX_OUTSTANDING: usize = 2;
/// And one to take leave.
const MAX_UNSENT: usize = MAX_OUTSTANDING + 1;
/// Topics of one look whether they exist.
const TOPICS_PER_REQUEST: usize = 1_000;
/// The shortest time between heartbeats whose answers bring no news, and between those whose answers do.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);
const SHORTEST_NEWS_INTERVAL: Duration = Duration::from_millis(5);

type Request = v1::ConsumerGroupHeartbeatRequest;
type Answer = v1::ConsumerGroupHeartbeatResponse;

/// Whether an error means that the member is not one any more.
pub(super) fn says_removed(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound
    )
}

/// Keeps the consumer in its group until it ends, then takes leave.
pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    let mut membership = Membership {
        backoff: client.backoff(),
        join_backoff: client.backoff(),
        failing_since: None,
        interval: client.config().request_timeout,
        shared,
        client,
    };
    while !membership.is_to_leave() {
        if !membership.shared.lock().wants_membership() {
            membership.shared.beat.notified().await;
            continue;
        }
        let shared = Arc::clone(&membership.shared);
        let line = match shared.until_the_end(&shared.beat, membership.open()).await {
            Some(Ok(Some(line))) => line,
            Some(Ok(None)) | None => continue,
            Some(Err(error)) => {
                membership.failed(error).await;
                continue;
            }
        };
        if let Some(line) = membership.live(line).await {
            membership.leave(Some(line)).await;
            return;
        }
    }
    membership.leave(None).await;
}

struct Membership {
    shared: Arc<Shared>,
    client: Client,
    backoff: Backoff,
    /// Grows while it is removed as soon as it joins.
    join_backoff: Backoff,
    failing_since: Option<Instant>,
    /// How long the member may be silent.
    interval: Duration,
}

/// A stream of heartbeats and answers.
struct Line {
    requests: mpsc::Sender<Request>,
    answers: Streaming<Answer>,
    /// When the heartbeats were sent that are not answered yet.
    outstanding: VecDeque<Instant>,
    last_sent: Instant,
    /// When the next heartbeat is due if none waits for an answer.
    next: Option<Instant>,
    /// Whether a heartbeat that is not answered told of a poll.
    told_poll: bool,
    /// Whether the next heartbeat has to say everything, because one that said something was refused.
    full: bool,
    /// The member that it was of is no member any more.
    ended: bool,
}

impl Line {
    /// Whether another heartbeat may be sent: not while a join is under way, which decides what there is to say.
    fn has_room(&self, epoch: i32) -> bool {
        let joins = epoch == JOIN && !self.outstanding.is_empty();
        !joins && self.outstanding.len() < MAX_OUTSTANDING
    }
}

/// What happened on a line.
enum Event {
    Answer(Result<Option<Answer>, tonic::Status>),
    Woken,
    /// A heartbeat is due.
    Due,
    /// An answer is overdue.
    Silence,
}

impl Membership {
    /// Whether the consumer has ended and all its commits are decided.
    fn is_to_leave(&self) -> bool {
        let state = self.shared.lock();
        state.ending.is_some() && (state.queue.is_idle() || self.is_out_of_time(state.ending))
    }

    fn is_out_of_time(&self, ending: Option<Instant>) -> bool {
        ending.is_some_and(|ending| Instant::now() >= ending)
    }

    /// Opens a stream and says everything. `None` if there is no need any more.
    async fn open(&mut self) -> Result<Option<Line>> {
        let joins = self.shared.lock().epoch == JOIN;
        if joins && self.join_backoff.attempts() > 0 {
            wait_until(Some(Instant::now() + self.join_backoff.next())).await;
        }
        let (requests, receiver) = mpsc::channel(MAX_UNSENT);
        let (first, told_poll) = {
            let mut state = self.shared.lock();
            if !state.wants_membership() {
                return Ok(None);
            }
            let told_poll = state.polled;
            (state.heartbeat(&self.shared, true, false), told_poll)
        };
        self.shared.wake();
        // Before the stream is opened: the answer to that may wait for it. There is room for it.
        let _ = requests.try_send(first);
        self.shared.counters.heartbeats.add(1);
        let sent_at = Instant::now();
        let mut service = self.client.group_service();
        let call = service.consumer_group_heartbeat(ReceiverStream::new(receiver));
        let what = "opening a stream of heartbeats";
        let opened = self.client.call(what, Duration::ZERO, call).await;
        if opened.is_err() {
            self.shared.lock().polled |= told_poll;
        }
        let answers = opened?;
        self.shared.counters.connections_opened.add(1);
        Ok(Some(Line {
            requests,
            answers,
            outstanding: VecDeque::from([sent_at]),
            last_sent: sent_at,
            next: None,
            told_poll,
            full: false,
            ended: false,
        }))
    }

    /// Beats until the stream breaks, membership ends, or the consumer is to leave: then the line is returned.
    async fn live(&mut self, mut line: Line) -> Option<Line> {
        loop {
            if self.is_to_leave() {
                return Some(line);
            }
            if line.ended || !self.shared.lock().wants_membership() {
                return None;
            }
            let outcome = match self.next_event(&mut line).await {
                Event::Woken => Ok(()),
                Event::Due => {
                    line.next = None;
                    self.send(&mut line)
                }
                Event::Silence => Err(Error::timed_out("a heartbeat was not answered in time")),
                Event::Answer(Ok(Some(answer))) => self.take_in(&mut line, answer),
                Event::Answer(Ok(None)) => Err(Error::new(
                    ErrorKind::Retriable,
                    "the broker ended the stream",
                )),
                Event::Answer(Err(status)) => Err(self.client.explain(Error::from_status(&status))),
            };
            let outcome = outcome.and_then(|()| self.speak_up(&mut line));
            if let Err(error) = outcome {
                self.shared.lock().polled |= line.told_poll;
                self.shared.counters.connections_lost.add(1);
                drop(line);
                self.failed(error).await;
                return None;
            }
        }
    }

    async fn next_event(&self, line: &mut Line) -> Event {
        let silence = line.outstanding.front().map(|sent| {
            *sent
                + self
                    .interval
                    .saturating_add(self.client.config().request_timeout)
        });
        // A short poll interval wants polls to be told sooner than the heartbeat interval has it.
        let poll_interval = self.shared.config.max_poll_interval / 3;
        let due = match line.next {
            Some(next) => Some(next),
            None if poll_interval < self.interval => Some(line.last_sent + poll_interval),
            None => None,
        };
        let (ending, epoch) = {
            let state = self.shared.lock();
            (state.ending, state.epoch)
        };
        let room = line.has_room(epoch);
        tokio::select! {
            answer = line.answers.message() => Event::Answer(answer),
            () = self.shared.beat.notified() => Event::Woken,
            () = wait_until(due), if room => Event::Due,
            () = wait_until(silence) => Event::Silence,
            () = wait_until(ending) => Event::Woken,
        }
    }

    /// Sends a heartbeat at once if there is something to say.
    fn speak_up(&self, line: &mut Line) -> Result<()> {
        let state = self.shared.lock();
        let speaks =
            state.wants_membership() && state.epoch != JOIN && state.has_something_to_say();
        let has_room = line.has_room(state.epoch);
        drop(state);
        if speaks && has_room && !line.ended {
            return self.send(line);
        }
        Ok(())
    }

    fn send(&self, line: &mut Line) -> Result<()> {
        let (request, told_poll) = {
            let mut state = self.shared.lock();
            if !state.wants_membership() {
                return Ok(());
            }
            let told_poll = state.polled;
            let full = std::mem::take(&mut line.full);
            // One that overtakes an answer may be of an epoch that is over by then: what it owns shows that it may be.
            let overtakes = !line.outstanding.is_empty();
            (state.heartbeat(&self.shared, full, overtakes), told_poll)
        };
        self.shared.wake();
        line.told_poll |= told_poll;
        self.put(line, request)
    }

    fn put(&self, line: &mut Line, request: Request) -> Result<()> {
        self.shared.counters.heartbeats.add(1);
        line.last_sent = Instant::now();
        line.next = None;
        line.outstanding.push_back(line.last_sent);
        let sent = line.requests.try_send(request);
        sent.map_err(|_| Error::new(ErrorKind::Retriable, "the stream takes no more heartbeats"))
    }

    /// Takes an answer in and decides when the next heartbeat is due.
    fn take_in(&mut self, line: &mut Line, answer: Answer) -> Result<()> {
        let sent_at = line.outstanding.pop_front().unwrap_or(line.last_sent);
        let now = Instant::now();
        if let Some(error) = &answer.error {
            let error = Error::from_entry(error);
            return self.refused(line, error);
        }
        self.backoff.reset();
        self.join_backoff.reset();
        self.failing_since = None;
        line.told_poll &= !line.outstanding.is_empty();
        if answer.heartbeat_interval_ms > 0 {
            let interval = Duration::from_millis(answer.heartbeat_interval_ms.into());
            self.interval = interval.max(SHORTEST_INTERVAL);
        }
        let (is_news, unsure) = {
            let mut state = self.shared.lock();
            let is_news = state.hear(&self.shared, answer);
            (is_news, state.topics_to_look_for())
        };
        if !unsure.is_empty() {
            let group_id = self.shared.config.group_id.clone();
            tokio::spawn(tell_of_unknown(self.client.clone(), group_id, unsure));
        }
        if is_news {
            self.shared.wake();
        }
        if !line.outstanding.is_empty() {
            return Ok(());
        }
        // The broker holds answers without news back; one that does not is not to be asked in a tight loop.
        let next = match is_news {
            true => sent_at + SHORTEST_NEWS_INTERVAL,
            false => sent_at + SHORTEST_INTERVAL,
        };
        if next <= now {
            return self.send(line);
        }
        line.next = Some(next);
        Ok(())
    }

    fn refused(&mut self, line: &mut Line, error: Error) -> Result<()> {
        let joins = matches!(self.shared.lock().phase, Phase::Joining);
        match error.code() {
            // To a join that says that the members of this group are of the other kind.
            Some(ErrorCode::GroupIdNotFound) if joins => {
                let error = error.with_action(
                    "the group has members of the classic protocol: wait until they have left, or use another group",
                );
                self.give_up(line, error);
            }
            Some(code) if says_removed(code) => {
                if joins {
                    self.join_backoff.next();
                    self.note_failure(&error);
                }
                tracing::warn!(group = %self.shared.config.group_id, %error, "removed from the group");
                line.ended = true;
                self.shared.lock().lose(&self.shared, error);
                self.shared.wake();
            }
            Some(ErrorCode::UnreleasedInstanceId | ErrorCode::FencedInstanceId) => {
                let error = error.with_kind(ErrorKind::Fenced).with_action(
                    "another consumer has this instance id: give each an id of its own, or wait until the session of the one before has timed out",
                );
                self.give_up(line, error);
            }
            _ if is_passing(&error) => {
                self.note_failure(&error);
                // What it said was not taken in.
                line.full = true;
                self.shared.lock().polled |= line.told_poll;
                if line.outstanding.is_empty() {
                    line.next = Some(Instant::now() + self.backoff.next());
                }
            }
            _ => self.give_up(line, error),
        }
        Ok(())
    }

    fn give_up(&self, line: &mut Line, error: Error) {
        line.ended = true;
        self.shared.lock().fail(&self.shared, error);
        self.shared.wake();
    }

    /// The stream could not be opened, or broke.
    async fn failed(&mut self, error: Error) {
        if !is_passing(&error) {
            self.shared.lock().fail(&self.shared, error);
            self.shared.wake();
            return;
        }
        self.note_failure(&error);
        let pause = Instant::now() + self.backoff.next();
        let ending = self.shared.lock().ending;
        wait_until(Some(ending.map_or(pause, |ending| pause.min(ending)))).await;
    }

    /// Tells the application if the group cannot be reached for long.
    fn note_failure(&mut self, error: &Error) {
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        if self.backoff.attempts() == 0 {
            tracing::warn!(group = %self.shared.config.group_id, %error, "heartbeats were interrupted, trying again");
        }
        if now.duration_since(since) >= self.shared.config.reader.retry_timeout {
            self.failing_since = None;
            self.shared.lock().trouble = Some(error.clone());
            self.shared.wake();
        }
    }

    /// Takes leave, if it is a member and the broker is there in time.
    async fn leave(&mut self, line: Option<Line>) {
        let (is_member, ending) = {
            let state = self.shared.lock();
            (state.wants_membership(), state.ending)
        };
        let farewell = match is_member {
            true => {
                let ending = ending.unwrap_or_else(Instant::now);
                let left = timeout_at(ending, self.say_goodbye(line)).await;
                left.unwrap_or_else(|_| Err(not_told()))
            }
            false => Ok(()),
        };
        let mut state = self.shared.lock();
        state.farewell = Some(farewell);
        state.phase = Phase::Left;
        state.partitions.clear();
    }

    async fn say_goodbye(&mut self, line: Option<Line>) -> Result<()> {
        let goodbye = Request {
            group_id: self.shared.config.group_id.clone(),
            member_id: self.shared.member_id.clone(),
            member_epoch: self.shared.leaving_epoch(),
            instance_id: self.shared.config.instance_id.clone(),
            ..Request::default()
        };
        let mut line = line;
        loop {
            match self.try_goodbye(line.take(), goodbye.clone()).await {
                Err(error) if is_passing(&error) => {
                    wait_until(Some(Instant::now() + self.backoff.next())).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_goodbye(&mut self, line: Option<Line>, goodbye: Request) -> Result<()> {
        let mut answers = match line {
            Some(mut line) => {
                self.put(&mut line, goodbye)?;
                line.answers
            }
            None => {
                let mut service = self.client.group_service();
                let call = service.consumer_group_heartbeat(tokio_stream::once(goodbye));
                let what = "opening a stream of heartbeats";
                self.client.call(what, Duration::ZERO, call).await?
            }
        };
        // What was sent before is answered first.
        while let Some(answer) = answers.message().await? {
            match &answer.error {
                Some(error) => {
                    let error = Error::from_entry(error);
                    return match error.code() {
                        Some(code) if says_removed(code) => Ok(()),
                        _ => Err(error),
                    };
                }
                None if answer.member_epoch < JOIN => return Ok(()),
                None => {}
            }
        }
        Err(Error::new(
            ErrorKind::Retriable,
            "the broker ended the stream",
        ))
    }
}

/// The error of a consumer that has gone without a word.
pub(super) fn not_told() -> Error {
    let message = "the group could not be told in time that this consumer leaves";
    Error::timed_out(message)
        .with_action("its partitions are shared out when its session times out")
}

/// Topics that do not exist are waited for. That is said, since it may be a name misspelt.
async fn tell_of_unknown(client: Client, group: String, topics: Vec<String>) {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    for some in names.chunks(TOPICS_PER_REQUEST) {
        // Without an answer there is nothing to say.
        let found = client.admin().describe_topics(some).await;
        for (topic, found) in some.iter().zip(found.into_iter().flatten()) {
            if let Err(error) = found {
                tracing::warn!(%group, topic, %error, "a topic that is subscribed to cannot be read yet");
            }
        }
    }
}

/// Whether it is worth trying again.
fn is_passing(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Retriable | ErrorKind::TimedOut | ErrorKind::Broker
    )
}
