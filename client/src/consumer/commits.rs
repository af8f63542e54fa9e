//! Commits: one after the other, so that none overtakes another, each tried until it is decided.
//!
//! A commit is given up for partitions that are not owned any more: another member may have committed further since. The
//! queue is bounded; automatic commits are in it once at most.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use logweir_proto::grpc::v1;
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, TopicId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::member::{Phase, Shared};
use super::partitions::not_owned;
use crate::admin::fitting_offsets;
use crate::client::Client;
use crate::clock::wait_until;
use crate::error::{Error, ErrorKind, Result};
use crate::topic_partition::TopicPartition;

/// Commits that may wait, and offsets in them; more are refused.
const MAX_WAITING: usize = 1_000;
const MAX_WAITING_OFFSETS: usize = 200_000;

/// An offset to be committed, under one ownership of its partition.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) place: TopicPartition,
    pub(super) topic_id: TopicId,
    pub(super) ownership: u64,
    pub(super) offset: Offset,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) metadata: String,
}

/// Offsets that are committed together.
#[derive(Debug)]
struct Commit {
    entries: Vec<Entry>,
    until: Instant,
    is_automatic: bool,
    done: oneshot::Sender<Result<()>>,
}

/// Commits that wait, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Commit>,
    /// Offsets of those that wait.
    offsets: usize,
    /// Whether an automatic commit waits or is under way.
    pub(super) has_automatic: bool,
    /// Whether one is under way.
    is_busy: bool,
    /// Nobody carries commits out any more.
    is_closed: bool,
}

impl Queue {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING || self.offsets >= MAX_WAITING_OFFSETS
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_busy
    }

    pub(super) fn push(
        &mut self,
        entries: Vec<Entry>,
        until: Instant,
        is_automatic: bool,
    ) -> CommitFuture {
        if self.is_closed {
            return CommitFuture::refused(Error::closed("consumer"));
        }
        let (done, outcome) = oneshot::channel();
        self.has_automatic |= is_automatic;
        self.offsets += entries.len();
        self.waiting.push_back(Commit {
            entries,
            until,
            is_automatic,
            done,
        });
        CommitFuture(Ok(outcome))
    }

    fn pop(&mut self) -> Option<Commit> {
        let commit = self.waiting.pop_front();
        self.is_busy = commit.is_some();
        self.offsets -= commit.as_ref().map_or(0, |commit| commit.entries.len());
        commit
    }
}

/// Closes the queue when commits are carried out no more, however that came about: who waits is told.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let waiting = {
            let queue = &mut self.0.lock().queue;
            (queue.is_closed, queue.is_busy, queue.offsets) = (true, false, 0);
            std::mem::take(&mut queue.waiting)
        };
        // Dropped without the lock: that wakes those who wait.
        drop(waiting);
        self.0.beat.notify_one();
    }
}

/// The fate of a commit. May be dropped; the commit goes on.
#[derive(Debug)]
#[must_use = "a commit that fails is told here only"]
pub struct CommitFuture(Result<oneshot::Receiver<Result<()>>>);

impl CommitFuture {
    pub(super) const fn refused(error: Error) -> Self {
        Self(Err(error))
    }
}

impl Future for CommitFuture {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(outcome) => {
                let told = ready!(Pin::new(outcome).poll(context));
                Poll::Ready(told.unwrap_or_else(|_| Err(Error::closed("consumer"))))
            }
            Err(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

/// Commits what is given to the queue, and marks by interval, until the consumer ends.
pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    let _closing = Closing(Arc::clone(&shared));
    let interval = shared.config.auto_commit_interval;
    let mut next = Instant::now() + interval;
    loop {
        let commit = shared.lock().queue.pop();
        if let Some(commit) = commit {
            let is_empty = commit.entries.is_empty();
            let (outcome, is_automatic) = (
                carry_out(&shared, &client, commit.entries, commit.until).await,
                commit.is_automatic,
            );
            if !is_empty {
                finish(&shared, is_automatic, outcome.as_ref().err());
            }
            // Nobody needs to know who does not wait.
            let _ = commit.done.send(outcome);
            continue;
        }
        if shared.lock().ending.is_some() {
            return;
        }
        let due = shared.config.commits_marks().then_some(next);
        tokio::select! {
            () = shared.commit.notified() => {}
            () = wait_until(due) => {
                next = Instant::now() + interval;
                shared.commit_automatically();
            }
        }
    }
}

fn finish(shared: &Shared, is_automatic: bool, error: Option<&Error>) {
    match error {
        None => shared.counters.commits.add(1),
        Some(error) => {
            shared.counters.commits_failed.add(1);
            if is_automatic {
                tracing::warn!(group = %shared.config.group_id, %error, "an automatic commit failed");
            }
        }
    }
    if is_automatic {
        shared.lock().queue.has_automatic = false;
        shared.commit_if_many();
    }
}

/// Tries until every entry is decided. Returns the first failure.
async fn carry_out(
    shared: &Shared,
    client: &Client,
    mut entries: Vec<Entry>,
    until: Instant,
) -> Result<()> {
    let mut backoff = client.backoff();
    let mut failure = None;
    let mut last = None;
    loop {
        let asked = match compose(shared, &mut entries, &mut failure) {
            Ok(request) => request,
            Err(error) => {
                give_up(shared, &entries);
                return Err(failure.unwrap_or(error));
            }
        };
        if entries.is_empty() {
            return failure.map_or(Ok(()), Err);
        }
        let now = Instant::now();
        if now >= until || shared.lock().ending.is_some_and(|ending| now >= ending) {
            give_up(shared, &entries);
            return Err(failure.unwrap_or_else(|| out_of_time(last)));
        }
        if last.is_some() {
            shared.counters.commits_retried.add(1);
        }
        let epoch = asked.member_epoch;
        let count = asked.offsets.len();
        let asking = ask(client, asked, until);
        let outcomes = shared.until_the_end(&shared.commit, asking).await;
        let late = || vec![Some(not_answered()); count];
        let outcomes = outcomes.unwrap_or_else(late);
        let rest = entries.split_off(count);
        let Some(error) = settle(shared, &mut entries, outcomes, &mut failure) else {
            entries = rest;
            backoff.reset();
            last = None;
            continue;
        };
        entries.extend(rest);
        let stale = error.code() == Some(ErrorCode::StaleMemberEpoch);
        last = Some(error);
        let pause = Some((Instant::now() + backoff.next()).min(until));
        tokio::select! {
            () = shared.epoch_moved.notified(), if stale && shared.lock().epoch == epoch => {}
            () = wait_until(pause) => {}
        }
    }
}

/// The next request; entries of partitions that are not owned any more are given up.
fn compose(
    shared: &Shared,
    entries: &mut Vec<Entry>,
    failure: &mut Option<Error>,
) -> Result<v1::CommitOffsetsRequest> {
    let state = shared.lock();
    if !entries.is_empty() {
        match &state.phase {
            Phase::Member => {}
            Phase::Lost(why) | Phase::Failed(why) => return Err(removed(shared, "committed", why)),
            Phase::Idle | Phase::Joining => {
                let why = Error::new(ErrorKind::Fenced, "it is about to join again");
                return Err(removed(shared, "committed", &why));
            }
            Phase::Left => return Err(Error::closed("consumer")),
        }
    }
    entries.retain(|entry| {
        let owned = state.partitions.still_owns(entry);
        if !owned {
            failure.get_or_insert_with(|| not_owned(&entry.place));
        }
        owned
    });
    Ok(v1::CommitOffsetsRequest {
        group_id: shared.config.group_id.clone(),
        member_id: shared.member_id.clone(),
        member_epoch: state.epoch,
        instance_id: shared.config.instance_id.clone(),
        offsets: entries[..fitting(&shared.config.group_id, entries)]
            .iter()
            .map(v1::OffsetToCommit::from)
            .collect(),
    })
}

/// How many of the entries one request takes.
fn fitting(group_id: &str, entries: &[Entry]) -> usize {
    let sizes = entries
        .iter()
        .map(|entry| entry.place.topic.len() + entry.metadata.len());
    fitting_offsets(group_id, sizes)
}

/// One request; an error for each of its offsets that was not committed.
async fn ask(
    client: &Client,
    request: v1::CommitOffsetsRequest,
    until: Instant,
) -> Vec<Option<Error>> {
    let count = request.offsets.len();
    let mut service = client.group_service();
    let call = client.call(
        "committing offsets",
        Duration::ZERO,
        service.commit_offsets(request),
    );
    let outcome = match tokio::time::timeout_at(until, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(not_answered()),
    };
    match outcome {
        Ok(response) if response.results.len() == count => {
            let results = response.results.iter();
            results
                .map(|result| result.error.as_ref().map(Error::from_entry))
                .collect()
        }
        Ok(response) => {
            let message = format!(
                "{count} offsets were to be committed and {} answered",
                response.results.len()
            );
            vec![Some(Error::new(ErrorKind::Broker, message)); count]
        }
        Err(error) => vec![Some(error); count],
    }
}

/// Takes outcomes in; what may be tried again is left in `entries`. Returns an error if anything is.
fn settle(
    shared: &Shared,
    entries: &mut Vec<Entry>,
    outcomes: Vec<Option<Error>>,
    failure: &mut Option<Error>,
) -> Option<Error> {
    let mut again = None;
    let mut state = shared.lock();
    let mut outcomes = outcomes.into_iter();
    entries.retain(|entry| match outcomes.next().flatten() {
        None => {
            shared.counters.offsets_committed.add(1);
            state.partitions.decided(entry, true);
            false
        }
        Some(error) if may_pass(&error) => {
            again = Some(error);
            true
        }
        Some(error) => {
            state.partitions.decided(entry, false);
            failure.get_or_insert_with(|| {
                let place = &entry.place;
                explain(shared, error).of_partition(Arc::clone(&place.topic), place.partition)
            });
            false
        }
    });
    again
}

/// Whether to try again: the epoch has moved on, the coordinator is not there, or the connection.
fn may_pass(error: &Error) -> bool {
    error.code() == Some(ErrorCode::StaleMemberEpoch)
        || matches!(error.kind(), ErrorKind::Retriable | ErrorKind::TimedOut)
}

fn explain(shared: &Shared, error: Error) -> Error {
    match error.code() {
        Some(code) if super::heartbeat::says_removed(code) => removed(shared, "committed", &error),
        _ => error,
    }
}

/// The error for what cannot be committed, or marked, because the consumer is no member any more.
pub(super) fn removed(shared: &Shared, done: &str, why: &Error) -> Error {
    let message = format!(
        "not {done}: this consumer is no longer a member of group {:?} ({})",
        shared.config.group_id,
        why.message()
    );
    let error = match why.code() {
        Some(code) => Error::from_code(code, message),
        None => Error::new(ErrorKind::Fenced, message),
    };
    error.with_kind(ErrorKind::Fenced).with_action(
        "poll to join again: what was not committed is handed out again, to this or another member",
    )
}

fn not_answered() -> Error {
    Error::timed_out("the commit was not answered in time").with_may_have_happened(true)
}

fn out_of_time(last: Option<Error>) -> Error {
    match last {
        Some(last) => {
            let message = format!("the commit did not succeed in time: {}", last.message());
            Error::timed_out(message).with_may_have_happened(last.may_have_happened())
        }
        None => Error::timed_out("the commit had to wait for others until its time was up"),
    }
}

fn give_up(shared: &Shared, entries: &[Entry]) {
    let partitions = &mut shared.lock().partitions;
    for entry in entries {
        partitions.decided(entry, false);
    }
}

impl From<&Entry> for v1::OffsetToCommit {
    fn from(entry: &Entry) -> Self {
        Self {
            topic: entry.place.topic.to_string(),
            topic_id: (entry.topic_id != TopicId::ZERO)
                .then(|| entry.topic_id.get().to_vec().into()),
            partition: entry.place.partition.get(),
            offset: entry.offset.get(),
            leader_epoch: Some(entry.leader_epoch.get()).filter(|epoch| *epoch >= 0),
            metadata: entry.metadata.clone(),
        }
    }
}
