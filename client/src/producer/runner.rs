//! The producer's task: the input and output around [`Sender`].
//!
//! One task per producer. It owns the stream to the broker and at most one of each side call: opening
//! the stream, asking for a producer id, describing a stale topic. The channel into the stream holds as
//! many requests as may be in flight. The task ends when the producer is closed or dropped, and then
//! every undecided record has failed.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{ProducerEpoch, ProducerId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::accumulator::Accumulator;
use super::lane::Identity;
use super::sender::Sender;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::clock::wait_until;
use crate::config::Acks;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::TopicMetadata;

/// Requests that wait for the connection with acks=none, where nothing else bounds them.
const UNANSWERED_REQUESTS: usize = 2;
/// How long the broker may take to end a stream whose producer has nothing more to send.
const GOODBYE: Duration = Duration::from_secs(5);
/// The task does not look again sooner than this without an event.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

type Call<T> = Option<Pin<Box<dyn Future<Output = Result<T>> + Send>>>;

/// A stream of requests and answers.
struct Connection {
    requests: mpsc::Sender<v1::ProduceRequest>,
    answers: Box<Streaming<v1::ProduceResponse>>,
    /// Whether anything came back on it yet.
    proven: bool,
}

/// What the task was woken by.
enum Event {
    Woken,
    Answer(Result<Option<v1::ProduceResponse>, tonic::Status>),
    Opened(Result<Connection>),
    Identity(Result<Identity>),
    Described(Arc<str>, Result<Arc<TopicMetadata>>),
    Time,
}

/// Runs a producer until it is closed or dropped.
pub(crate) struct Runner {
    client: Client,
    accumulator: Arc<Accumulator>,
    sender: Sender,
    connection: Option<Connection>,
    opening: Call<Connection>,
    asking_identity: Call<Identity>,
    describing: Option<(Arc<str>, Call<Arc<TopicMetadata>>)>,
    to_describe: VecDeque<Arc<str>>,
    /// When to look for topics whose description has grown old.
    look_for_old_topics_at: Instant,
    backoff: Backoff,
    /// Do not try to connect, or to ask for an id, before.
    not_before: Option<Instant>,
}

/// How a producer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Not yet.
    No,
    /// Everything sent so far is to be delivered first.
    Close,
    /// Everything undecided fails.
    Abandon,
}

impl Runner {
    pub(crate) fn new(client: Client, accumulator: Arc<Accumulator>) -> Self {
        let config = &accumulator.config;
        let random = crate::backoff::Random::from_entropy();
        let max_age = client.config().metadata_max_age;
        Self {
            look_for_old_topics_at: Instant::now() + max_age,
            backoff: Backoff::new(config.retry_backoff, config.retry_backoff_max, random),
            sender: Sender::new(Arc::clone(&accumulator)),
            client,
            accumulator,
            connection: None,
            opening: None,
            asking_identity: None,
            describing: None,
            to_describe: VecDeque::new(),
            not_before: None,
        }
    }

    /// Runs until `ending` says so.
    pub(crate) async fn run(mut self, ending: impl Fn() -> Ending) {
        loop {
            let now = Instant::now();
            self.sender.collect(now);
            self.sender.expire(now);
            match ending() {
                Ending::No => {}
                Ending::Close
                    if self.accumulator.tracker.is_idle() && self.sender.in_flight() == 0 =>
                {
                    break;
                }
                Ending::Close => {}
                Ending::Abandon => break,
            }
            self.send(now);
            self.start_calls(now);
            let event = self.next_event(now).await;
            self.handle(event);
        }
        self.sender
            .abandon(&Error::closed("producer"), Instant::now());
        self.say_goodbye().await;
    }

    /// Sends what can be sent.
    fn send(&mut self, now: Instant) {
        let acks = self.accumulator.config.acks;
        loop {
            let Some(connection) = &self.connection else {
                return;
            };
            let Ok(permit) = connection.requests.try_reserve() else {
                return;
            };
            let Some(request) = self.sender.next_request(now) else {
                return;
            };
            permit.send(request);
            if acks == Acks::None {
                self.sender.on_handed_over(now);
            }
        }
    }

    /// Starts the calls that are needed and may be made now.
    fn start_calls(&mut self, now: Instant) {
        self.to_describe.extend(self.sender.take_stale_topics());
        if self.look_for_old_topics_at <= now {
            let max_age = self.client.config().metadata_max_age;
            self.to_describe
                .extend(self.accumulator.topics_older_than(max_age));
            self.look_for_old_topics_at = now + max_age;
        }
        if self.describing.is_none()
            && let Some(topic) = self.to_describe.pop_front()
        {
            let (client, name) = (self.client.clone(), Arc::clone(&topic));
            let auto_create = self.accumulator.config.auto_create_topics;
            let call = async move { client.metadata().refresh(&client, &name, auto_create).await };
            self.describing = Some((topic, Some(Box::pin(call))));
        }
        if self.not_before.is_some_and(|at| at > now) || !self.sender.has_work(now) {
            return;
        }
        self.not_before = None;
        if self.sender.wants_identity() && self.asking_identity.is_none() {
            self.asking_identity = Some(Box::pin(ask_identity(self.client.clone())));
        }
        if self.connection.is_none() && self.opening.is_none() {
            let config = &self.accumulator.config;
            let room = match config.acks {
                Acks::None => UNANSWERED_REQUESTS,
                _ => config.max_in_flight,
            };
            let open = open(self.client.clone(), room, config.request_timeout);
            self.opening = Some(Box::pin(open));
            self.accumulator.tracker.counters.connections_opened.add(1);
        }
    }

    async fn next_event(&mut self, now: Instant) -> Event {
        let wake_at = [
            self.sender.next_wake(),
            self.not_before.filter(|_| !self.is_calling()),
            Some(self.look_for_old_topics_at),
        ];
        let wake_at = wake_at
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(now + SHORTEST_WAIT));
        // With acks=none, room in the channel is what to wait for.
        let waits_for_room =
            self.accumulator.config.acks == Acks::None && self.sender.has_work(now);
        let (room, answers) = match &mut self.connection {
            Some(connection) => (
                Some(connection.requests.clone()).filter(|_| waits_for_room),
                Some(&mut *connection.answers),
            ),
            None => (None, None),
        };
        let accumulator = &self.accumulator;
        tokio::select! {
            answer = next_answer(answers) => Event::Answer(answer),
            opened = finish(&mut self.opening) => Event::Opened(opened),
            identity = finish(&mut self.asking_identity) => Event::Identity(identity),
            (topic, described) = finish_describing(&mut self.describing) => Event::Described(topic, described),
            () = accumulator.wake.notified() => Event::Woken,
            () = room_in(room) => Event::Woken,
            () = wait_until(wake_at) => Event::Time,
        }
    }

    fn is_calling(&self) -> bool {
        self.opening.is_some() || self.asking_identity.is_some()
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Woken => {}
            Event::Answer(Ok(Some(answer))) => {
                if let Err(error) = self.sender.on_response(answer, now) {
                    self.disconnect(&error, now);
                } else if let Some(connection) = &mut self.connection {
                    connection.proven = true;
                    self.backoff.reset();
                }
            }
            Event::Answer(Ok(None)) => {
                let error = Error::new(ErrorKind::Retriable, "the broker ended the stream");
                self.disconnect(&self.client.explain(error), now);
            }
            Event::Answer(Err(status)) => {
                let error = self.client.explain(Error::from_status(&status));
                self.disconnect(&error, now);
            }
            Event::Opened(Ok(connection)) => self.connection = Some(connection),
            Event::Opened(Err(error)) | Event::Identity(Err(error)) => self.call_failed(error, now),
            Event::Identity(Ok(identity)) => self.sender.set_identity(identity),
            Event::Described(topic, Ok(metadata)) => {
                self.accumulator.learn(&topic, &metadata);
            }
            Event::Described(topic, Err(error)) => {
                tracing::debug!(%topic, %error, "topic could not be described");
            }
            Event::Time => {
                if self.sender.answer_due().is_some_and(|due| due <= now) {
                    let limit = self.accumulator.config.request_timeout;
                    let error = Error::timed_out(format!("no answer within {limit:?}"));
                    self.disconnect(&error, now);
                }
            }
        }
    }

    /// The stream is of no more use.
    fn disconnect(&mut self, error: &Error, now: Instant) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        tracing::warn!(%error, in_flight = self.sender.in_flight(), "produce stream lost");
        self.accumulator.tracker.counters.connections_lost.add(1);
        self.sender.set_trouble(error.clone());
        self.sender.on_disconnect(error, now);
        if !connection.proven {
            self.not_before = Some(now + self.backoff.next());
        }
    }

    /// A call without which nothing can be sent has failed.
    fn call_failed(&mut self, error: Error, now: Instant) {
        if matches!(
            error.kind(),
            ErrorKind::Retriable | ErrorKind::TimedOut | ErrorKind::Broker
        ) {
            tracing::debug!(%error, "cannot send yet");
            self.sender.set_trouble(error);
        } else {
            self.sender.fail_all(&error, now);
        }
        self.not_before = Some(now + self.backoff.next());
    }

    /// Ends the stream properly: with acks=none, what the connection has taken is sent before it ends.
    async fn say_goodbye(self) {
        let Some(Connection {
            requests,
            mut answers,
            ..
        }) = self.connection
        else {
            return;
        };
        drop(requests);
        let until_end = async { while let Ok(Some(_)) = answers.message().await {} };
        if tokio::time::timeout(GOODBYE, until_end).await.is_err() {
            tracing::debug!("the broker did not end the produce stream in time");
        }
    }
}

/// The next answer; for ever if there is no stream.
async fn next_answer(
    answers: Option<&mut Streaming<v1::ProduceResponse>>,
) -> Result<Option<v1::ProduceResponse>, tonic::Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

/// Waits until a channel has room, or is closed; for ever if there is none.
async fn room_in(requests: Option<mpsc::Sender<v1::ProduceRequest>>) {
    match requests {
        // An error means that the stream is gone, of which the answers tell.
        Some(requests) => match requests.reserve().await {
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// The result of a call, which is then over; for ever if there is none.
async fn finish<T>(call: &mut Call<T>) -> Result<T> {
    std::future::poll_fn(|context| match call {
        Some(running) => match running.as_mut().poll(context) {
            Poll::Ready(result) => {
                *call = None;
                Poll::Ready(result)
            }
            Poll::Pending => Poll::Pending,
        },
        None => Poll::Pending,
    })
    .await
}

async fn finish_describing(
    describing: &mut Option<(Arc<str>, Call<Arc<TopicMetadata>>)>,
) -> (Arc<str>, Result<Arc<TopicMetadata>>) {
    let Some((topic, call)) = describing else {
        return std::future::pending().await;
    };
    let result = finish(call).await;
    let topic = Arc::clone(topic);
    *describing = None;
    (topic, result)
}

/// Opens a stream. Nothing is sent before the broker has accepted it, so that what could not be sent is
/// never taken for sent.
async fn open(client: Client, room: usize, timeout: Duration) -> Result<Connection> {
    let (requests, outgoing) = mpsc::channel(room);
    let mut service = client.produce_service();
    let call = service.produce_stream(ReceiverStream::new(outgoing));
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(Connection {
            requests,
            answers: Box::new(response.into_inner()),
            proven: false,
        }),
        Ok(Err(status)) => Err(client.explain(Error::from_status(&status))),
        Err(_) => Err(Error::timed_out(format!(
            "{}: no stream within {timeout:?}",
            client.target()
        ))),
    }
}

async fn ask_identity(client: Client) -> Result<Identity> {
    let mut service = client.produce_service();
    let call = service.init_producer_id(v1::InitProducerIdRequest {
        transactional_id: None,
    });
    let given = client
        .call("asking for a producer id", Duration::ZERO, call)
        .await?;
    let epoch = i16::try_from(given.producer_epoch)
        .ok()
        .filter(|epoch| *epoch >= 0);
    match epoch {
        Some(epoch) if given.producer_id >= 0 => Ok((
            ProducerId::new(given.producer_id),
            ProducerEpoch::new(epoch),
        )),
        _ => Err(Error::new(
            ErrorKind::Broker,
            format!(
                "producer id {} epoch {}",
                given.producer_id, given.producer_epoch
            ),
        )),
    }
}
