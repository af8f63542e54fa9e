//! What a coordinator's state machine is: decides from requests and times, changes by replaying records.
//!
//! A machine does no I/O, reads no clock and spawns nothing; the runtime beside this file calls it, under the lock
//! of its shard. Durable state is what the records of its partition say and nothing else, so that normal life, a
//! restart and a failover run the same code.

use std::time::Duration;

use bytes::Bytes;
use logweir_proto::Timestamp;

use crate::clock::Clock;

/// A record of an internal topic: what a decision writes and a replay reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateRecord {
    /// What the record is about; compaction keeps the last record of each key.
    pub(crate) key: Bytes,
    /// What is so from now on; `None` is a tombstone: nothing is known of the key any more.
    pub(crate) value: Option<Bytes>,
}

/// Names one call whose answer may come later than its decision (a join waits for other members). No two calls of
/// one shard share one, also if the machine was loaded anew between them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct CallId(u64);

impl CallId {
    /// The call with this number.
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[cfg(test)]
    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

/// Wall time and session time, both handed in: offsets expire by the first, sessions and poll intervals by the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// Wall time; it may go back as the system's may.
    pub(crate) wall: Timestamp,
    /// By the clock of the broker, never going back: one for all its machines, so that what they put off to a multiple
    /// of some span is due at the same moment in all of them.
    pub(crate) session: Duration,
}

impl Now {
    /// What a clock shows.
    pub(super) fn of(clock: &Clock) -> Self {
        Self {
            wall: clock.now(),
            session: clock.sessions(),
        }
    }
}

/// When a machine has something to do by itself, by each clock; `None` is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// By wall time.
    pub(crate) wall: Option<Timestamp>,
    /// By session time.
    pub(crate) session: Option<Duration>,
}

impl Due {
    /// Whether one of both times has come.
    pub(crate) fn has_come(&self, now: Now) -> bool {
        self.wall.is_some_and(|due| due <= now.wall)
            || self.session.is_some_and(|due| due <= now.session)
    }
}

/// What a machine decided: the records, appended as one batch, and the answers to give once those are committed (the
/// high watermark passed them). Answers without records wait for what was decided before them, since they may tell
/// of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effects<A> {
    /// What to write, in order; together at most the internal topic's `max.message.bytes`.
    pub(crate) records: Vec<StateRecord>,
    /// Whom to answer, and what; a call that is unknown or was answered is passed over.
    pub(crate) answers: Vec<(CallId, A)>,
}

impl<A> Default for Effects<A> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            answers: Vec::new(),
        }
    }
}

/// Why a record cannot be replayed: it is damaged, or of a type or version that this broker does not know. Its shard
/// is not served then, since what it says must not be guessed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct ReplayError {
    reason: String,
}

impl ReplayError {
    /// An error that says what is wrong with the record.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// A replayed state machine: one for each partition of an internal topic.
///
/// If the append of the last effects failed, or its outcome is unknown, the runtime drops the machine and loads it anew
/// from the log, and answers every waiting call with an error that callers retry. Effects whose batch is larger than
/// the topic takes are not appended: the caller and all whom they answer get an error and are
/// [abandoned](Machine::abandon); durable state is as it was. (If it was [`Machine::on_time`] that decided so, the
/// machine is loaded anew.)
pub(crate) trait Machine: Send + 'static {
    /// What is asked of it.
    type Request: Send;
    /// What it answers, its own errors included.
    type Answer: Send;

    /// Decides. Durable state is not changed here: only [`Machine::replay`] does, called by the runtime with the very
    /// records of the effects, right after they got their place in the log and before the next decision. Transient
    /// state (sessions, who waits) may change here.
    fn handle(&mut self, call: CallId, request: Self::Request, now: Now) -> Effects<Self::Answer>;

    /// The caller of `call` went away, or has had an error; forget that it waits. It may be unknown here.
    fn abandon(&mut self, call: CallId);

    /// Applies one record: in normal life, after a restart, after a failover; the only code that changes durable state.
    ///
    /// # Errors
    /// [`ReplayError`] for what it cannot read, never a guess.
    fn replay(&mut self, record: &StateRecord, now: Now) -> Result<(), ReplayError>;

    /// All records were replayed and the machine is about to serve: start the sessions of what was loaded.
    fn loaded(&mut self, now: Now);

    /// When [`Machine::on_time`] is due next, by each clock. Asked after every decision, so it must be cheap.
    fn next_due(&self) -> Due;

    /// Does what is due at `now`. Afterwards [`Machine::next_due`] lies after `now`, or it is called again at once.
    fn on_time(&mut self, now: Now) -> Effects<Self::Answer>;

    /// The whole durable state as records, for a local snapshot; replaying them into a new machine gives an equal one.
    /// Asked for under the shard's lock, so bytes are better shared than copied.
    fn snapshot(&self) -> Vec<StateRecord>;
}
