//! What a replayed state machine is: requests and time go in, records and answers come out.
//!
//! Durable state changes by [`Machine::replay`] alone, so that a restart runs the code that normal life runs. A machine
//! does no I/O, reads no clock and sets no timer; its runner does, and if an append fails the runner drops the machine
//! and loads it anew.

#![cfg_attr(
    not(test),
    expect(dead_code, reason = "the broker does not run machines yet")
)]

use std::time::Duration;

use bytes::Bytes;
use logweir_proto::Timestamp;

/// A record of an internal topic: what a decision writes and a replay reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateRecord {
    pub(crate) key: Bytes,
    /// `None` is a tombstone.
    pub(crate) value: Option<Bytes>,
}

/// Names one call whose answer may come later than its decision (a join waits for other members).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct CallId(u64);

impl CallId {
    pub(crate) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

/// Wall time and session time, both handed in: offsets expire by the first, sessions and poll intervals by the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    /// Since the machine was loaded; never goes back.
    pub(crate) session: Duration,
}

/// What a machine decided: the records, appended as one batch, and the answers to give once those are committed.
/// Answers without records wait for what was decided before them, since they may tell of it.
#[derive(Debug)]
pub(crate) struct Effects<A> {
    pub(crate) records: Vec<StateRecord>,
    pub(crate) answers: Vec<(CallId, A)>,
}

/// When `on_time` is due next, by each clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) wall: Option<Timestamp>,
    pub(crate) session: Option<Duration>,
}

/// A record that cannot be applied; the machine is not to be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct ReplayError {
    reason: String,
}

impl ReplayError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// A state machine on one partition of an internal topic.
pub(crate) trait Machine: Send + 'static {
    type Request: Send;
    type Answer: Send;

    /// Decides. Durable state is not changed here: only `replay` does, called with the very records of the effects
    /// right after they got their place in the log and before the next decision. Transient state may change.
    fn handle(&mut self, call: CallId, request: Self::Request, now: Now) -> Effects<Self::Answer>;

    /// The caller of `call` went away; forgets that it waits.
    fn abandon(&mut self, call: CallId);

    /// Applies one record: in normal life, after a restart, after a failover.
    ///
    /// # Errors
    /// [`ReplayError`] if the record is malformed or contradicts the state.
    fn replay(&mut self, record: &StateRecord, now: Now) -> Result<(), ReplayError>;

    /// All records were replayed and the machine is about to serve: starts sessions of what was loaded.
    fn loaded(&mut self, now: Now);

    /// When `on_time` is due next.
    fn next_due(&self) -> Due;

    /// Does what is due; to be called again while `next_due` is not in the future.
    fn on_time(&mut self, now: Now) -> Effects<Self::Answer>;

    /// The whole durable state as records; replaying them into a new machine gives an equal one.
    fn snapshot(&self) -> Vec<StateRecord>;
}
