//! The steps that a consumer takes between records: partitions let go of, lost, taken over; at most once, a commit.
//!
//! One at a time, each kept until it is finished, so that a dropped poll loses nothing of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use logweir_proto::{LeaderEpoch, Offset};
use tokio::time::Instant;

use super::Consumer;
use super::commits::CommitFuture;
use super::listener::{Listener, RebalanceListener};
use super::member::Phase;
use super::partitions::Position;
use super::rebalance::{self, Start};
use crate::config::OffsetReset;
use crate::error::{Error, ErrorKind, Result};
use crate::reader::{FetchedBatch, MAX_PARTITIONS, StartAt};
use crate::topic_partition::TopicPartition;

type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What has to be finished before anything is handed out.
pub(super) enum Step {
    None,
    LettingGo(Vec<TopicPartition>, Call<(Listener, Result<()>)>),
    Losing(Call<Listener>),
    /// With the version of the target that it is for.
    Finding(u64, Call<Result<Vec<Start>>>),
    Welcoming(Call<Listener>),
    /// At most once: before these records are handed out.
    Committing(CommitFuture, TopicPartition, Offset),
}

impl Step {
    /// Whether the application is at work, and not waiting for records.
    pub(super) const fn is_in_listener(&self) -> bool {
        matches!(
            self,
            Self::LettingGo(..) | Self::Losing(_) | Self::Welcoming(_)
        )
    }
}

impl Consumer {
    /// Finishes the step that is under way.
    pub(super) fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.step {
            Step::None => {}
            Step::LettingGo(_, call) => {
                let (listener, _) = ready!(call.as_mut().poll(context));
                self.bring_back(listener);
                self.has_let_go();
            }
            Step::Losing(call) => {
                let listener = ready!(call.as_mut().poll(context));
                self.bring_back(listener);
                self.step = Step::None;
                self.has_lost();
            }
            Step::Finding(version, call) => {
                let version = *version;
                let starts = ready!(call.as_mut().poll(context));
                self.step = Step::None;
                return Poll::Ready(starts.and_then(|starts| self.take_over(version, starts)));
            }
            Step::Welcoming(call) => {
                let listener = ready!(call.as_mut().poll(context));
                self.bring_back(listener);
                self.step = Step::None;
            }
            Step::Committing(outcome, ..) => {
                let outcome = ready!(Pin::new(outcome).poll(context));
                return Poll::Ready(self.committed_ahead(outcome));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The listener has been called; another may have been set meanwhile.
    fn bring_back(&mut self, listener: Listener) {
        if self.listener.is_none() {
            self.listener = listener;
        }
    }

    /// Begins what has to be done before more is handed out. Returns whether there is anything.
    pub(super) fn begin_step(&mut self) -> Result<bool> {
        let mut state = self.handle.shared.lock();
        match &state.phase {
            Phase::Idle => {
                let error = Error::invalid("the consumer is not subscribed to anything");
                return Err(error.with_action("subscribe first"));
            }
            Phase::Left => return Err(Error::closed("consumer")),
            Phase::Lost(_) | Phase::Failed(_) if !state.partitions.is_empty() => {
                let places = state.partitions.iter().map(|(place, _)| place.clone());
                let places = places.collect();
                drop(state);
                let (handle, listener) = (self.handle.clone(), self.listener.take());
                let call = rebalance::tell(handle, listener, places, RebalanceListener::lost);
                self.step = Step::Losing(Box::pin(call));
                return Ok(true);
            }
            Phase::Lost(_) => {
                state.phase = Phase::Joining;
                self.handle.shared.beat.notify_one();
            }
            Phase::Failed(error) => return Err(error.clone()),
            Phase::Joining | Phase::Member => {}
        }
        if let Some(trouble) = state.trouble.take() {
            return Err(trouble);
        }
        if !state.unsettled {
            return Ok(false);
        }
        let gone = state.to_revoke();
        let come = state.to_add();
        state.unsettled = !(gone.is_empty() && come.is_empty());
        let version = state.target_version;
        let reads = state.target.as_ref().map_or(0, BTreeMap::len);
        drop(state);
        if !gone.is_empty() {
            self.prepare_to_let_go();
            let (handle, listener) = (self.handle.clone(), self.listener.take());
            let call = rebalance::let_go(handle, listener, gone.clone());
            self.step = Step::LettingGo(gone, Box::pin(call));
        } else if !come.is_empty() && reads > MAX_PARTITIONS {
            return Err(Error::invalid(format!(
                "the group gives this consumer {reads} partitions, and one reads at most {MAX_PARTITIONS}"
            ))
            .with_action("start more consumers in the group"));
        } else if !come.is_empty() {
            let shared = Arc::clone(&self.handle.shared);
            let call = rebalance::find(shared, self.client.clone(), come);
            self.step = Step::Finding(version, Box::pin(call));
        }
        Ok(!matches!(self.step, Step::None))
    }

    fn has_let_go(&mut self) {
        let Step::LettingGo(places, _) = std::mem::replace(&mut self.step, Step::None) else {
            return;
        };
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        for place in &places {
            state.partitions.remove(place);
            self.reader.unassign(place);
            self.gone.remove(place);
        }
        self.ahead = self
            .ahead
            .take()
            .filter(|(place, _)| !places.contains(place));
        state.owned_changed();
        drop(state);
        shared.counters.partitions_revoked.add_usize(places.len());
        shared.beat.notify_one();
    }

    fn has_lost(&mut self) {
        let lost = self.handle.shared.lock().partitions.clear();
        for place in &lost {
            self.reader.unassign(place);
        }
        let counters = &self.handle.shared.counters;
        counters.partitions_lost.add_usize(lost.len());
        self.ahead = None;
        self.gone.clear();
    }

    /// Begins to read partitions, unless what is to be read has changed since it was looked up where: another member may
    /// have come further meanwhile.
    fn take_over(&mut self, version: u64, starts: Vec<Start>) -> Result<()> {
        let shared = Arc::clone(&self.handle.shared);
        let mut state = shared.lock();
        if state.target_version != version {
            return Ok(());
        }
        let wanted = state.to_add();
        let mut places = Vec::new();
        for start in starts {
            if wanted.get(&start.place) != Some(&start.topic_id) {
                continue;
            }
            self.read_from(&start)?;
            let committed = start.committed.map(|committed| committed.offset);
            let place = start.place.clone();
            state.partitions.add(start.place, start.topic_id, committed);
            places.push(place);
        }
        if places.is_empty() {
            return Ok(());
        }
        state.owned_changed();
        drop(state);
        shared.counters.partitions_assigned.add_usize(places.len());
        shared.beat.notify_one();
        let listener = self.listener.take();
        if listener.is_some() {
            let handle = self.handle.clone();
            let call = rebalance::tell(handle, listener, places, RebalanceListener::assigned);
            self.step = Step::Welcoming(Box::pin(call));
        }
        Ok(())
    }

    fn read_from(&mut self, start: &Start) -> Result<()> {
        let (at, epoch) = match (start.committed, self.config().auto_offset_reset) {
            (Some(committed), _) => (StartAt::Offset(committed.offset), committed.leader_epoch),
            (None, OffsetReset::Earliest | OffsetReset::Error) => {
                (StartAt::Earliest, LeaderEpoch::NONE)
            }
            (None, OffsetReset::Latest) => (StartAt::Latest, LeaderEpoch::NONE),
            (None, OffsetReset::Timestamp(time)) => (StartAt::Timestamp(time), LeaderEpoch::NONE),
        };
        self.reader
            .assign_known(&start.place, at, epoch, start.topic_id)?;
        if start.committed.is_none() && self.config().auto_offset_reset == OffsetReset::Error {
            let place = &start.place;
            let message = "the group has committed nothing for this partition";
            let error = Error::new(ErrorKind::Data, message)
                .of_partition(Arc::clone(&place.topic), place.partition)
                .with_action("seek to where it is to begin");
            self.reader.refuse(place, error);
        }
        Ok(())
    }

    fn committed_ahead(&mut self, outcome: Result<()>) -> Result<()> {
        let Step::Committing(_, place, end) = std::mem::replace(&mut self.step, Step::None) else {
            return Ok(());
        };
        let Err(error) = outcome else {
            self.ahead = Some((place, end));
            return Ok(());
        };
        let state = self.handle.shared.lock();
        let is_member = matches!(state.phase, Phase::Member);
        // What is to be done about that is found out next.
        if !is_member || state.unsettled || state.partitions.get(&place).is_none() {
            return Ok(());
        }
        Err(error)
    }

    /// What may be handed out because it is committed already; it comes before anything else, since nobody else will see
    /// it.
    pub(super) fn take_ahead(&mut self, max: usize) -> Option<FetchedBatch> {
        let (place, end) = self.ahead.as_ref()?;
        let fits = self.reader.peek(1, *end);
        let end = fits.filter(|chunk| chunk.place == *place).map(|_| *end);
        let batch = end.and_then(|end| self.take(max, end));
        if batch.is_none() {
            self.ahead = None;
        }
        batch
    }

    /// At most once: commits what has arrived before it is handed out.
    pub(super) fn commit_ahead(&mut self) {
        let max = self.config().max_poll_records;
        let Some(chunk) = self.reader.peek(max, Offset::MAX) else {
            return;
        };
        let to = Position {
            offset: chunk.next_offset,
            leader_epoch: chunk.leader_epoch,
        };
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        let Some(entry) = state.partitions.take_position(&chunk.place, to) else {
            drop(state);
            self.reader.unassign(&chunk.place);
            return;
        };
        let until = Instant::now() + shared.config.commit_timeout;
        let outcome = state.queue.push(vec![entry], until, false);
        drop(state);
        shared.commit.notify_one();
        self.step = Step::Committing(outcome, chunk.place, chunk.next_offset);
    }
}
