//! What idempotent producers wrote last: the window that finds duplicates and gaps (KIP-98).
//!
//! Owned by the log's writer. A change of state comes only from an appended (or recovered) batch, so that the same
//! batches give the same state on every replica and after every restart.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use logweir_proto::record::{BatchHeader, TimestampType};
use logweir_proto::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::error::ProducerError;

mod snapshot;
#[cfg(test)]
mod tests;

pub(crate) use snapshot::{decode, encode};

/// Batches of a producer that are remembered, as in Kafka: its clients keep at most five in flight.
pub(crate) const WINDOW: usize = 5;

/// Whether a batch is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerCheck {
    /// Append it.
    New,
    /// It was appended before; answer as then.
    Duplicate {
        /// Where it was appended.
        base_offset: Offset,
        /// The append time that was answered: [`Timestamp::NONE`] unless the topic stamps append times.
        append_time: Timestamp,
    },
}

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppendedBatch {
    pub(crate) base_sequence: Sequence,
    pub(crate) last_sequence: Sequence,
    pub(crate) base_offset: Offset,
    pub(crate) append_time: Timestamp,
}

/// What one producer id wrote last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerState {
    pub(crate) epoch: ProducerEpoch,
    /// The last batches of this epoch, oldest first, at most [`WINDOW`].
    pub(crate) batches: VecDeque<AppendedBatch>,
    /// When it was last seen; [`Timestamp::NONE`] after recovery, until the first look at the clock.
    pub(crate) last_seen: Timestamp,
    /// Epoch of the transaction coordinator that wrote the last marker, -1 if none did.
    pub(crate) coordinator_epoch: i32,
    /// First offset of the open transaction; such a producer never expires.
    pub(crate) txn_first_offset: Option<Offset>,
}

impl ProducerState {
    fn new(epoch: ProducerEpoch) -> Self {
        Self {
            epoch,
            batches: VecDeque::new(),
            last_seen: Timestamp::NONE,
            coordinator_epoch: -1,
            txn_first_offset: None,
        }
    }

    fn check(&self, header: &BatchHeader) -> Result<ProducerCheck, ProducerError> {
        let found = header.base_sequence;
        if header.producer_epoch < self.epoch {
            let (current, found) = (self.epoch, header.producer_epoch);
            return Err(ProducerError::Fenced { current, found });
        }
        if header.producer_epoch > self.epoch {
            return in_order(Sequence::new(0), found);
        }
        let (Some(oldest), Some(newest)) = (self.batches.front(), self.batches.back()) else {
            return Ok(ProducerCheck::New);
        };
        let last = header.last_sequence();
        let same = |b: &&AppendedBatch| b.base_sequence == found && b.last_sequence == last;
        if let Some(batch) = self.batches.iter().find(same) {
            let (base_offset, append_time) = (batch.base_offset, batch.append_time);
            return Ok(ProducerCheck::Duplicate {
                base_offset,
                append_time,
            });
        }
        if lies_before(last, oldest.base_sequence) {
            return Err(ProducerError::DuplicateTooOld);
        }
        in_order(newest.last_sequence.plus(1), found)
    }

    fn note(&mut self, batch: AppendedBatch) {
        if self.batches.len() == WINDOW {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
    }
}

fn in_order(expected: Sequence, found: Sequence) -> Result<ProducerCheck, ProducerError> {
    if expected == found {
        return Ok(ProducerCheck::New);
    }
    Err(ProducerError::OutOfOrder { expected, found })
}

/// Whether `one` lies less than half of the circle of sequences before `other`.
fn lies_before(one: Sequence, other: Sequence) -> bool {
    let circle = i64::from(i32::MAX) + 1;
    let distance = (i64::from(other.get()) - i64::from(one.get())).rem_euclid(circle);
    distance > 0 && distance < circle / 2
}

/// What a log remembers of a producer, for who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownProducer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The sequence of its last record.
    pub last_sequence: Sequence,
    /// When its last batch was appended.
    pub last_timestamp: Timestamp,
}

/// The producers of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: HashMap<ProducerId, ProducerState>,
}

impl Producers {
    /// Whether the batch may be appended. A producer that is not known, or was not seen for `expiry`, may
    /// begin with any sequence, as in Kafka.
    pub(crate) fn check(
        &self,
        header: &BatchHeader,
        now: Timestamp,
        expiry: Duration,
    ) -> Result<ProducerCheck, ProducerError> {
        if !header.has_producer() || header.attributes.is_control() {
            return Ok(ProducerCheck::New);
        }
        match self.by_id.get(&header.producer_id) {
            Some(state) if !is_expired(state, now, expiry) => state.check(header),
            _ => Ok(ProducerCheck::New),
        }
    }

    /// Takes in a batch as it lies in the log. `seen` is the time of the append, or [`Timestamp::NONE`].
    pub(crate) fn note(&mut self, header: &BatchHeader, seen: Timestamp) {
        // Markers of transactions carry no sequence; they end the open transaction once there are transactions.
        if !header.has_producer() || header.attributes.is_control() {
            return;
        }
        let state = self
            .by_id
            .entry(header.producer_id)
            .or_insert_with(|| ProducerState::new(header.producer_epoch));
        if state.epoch != header.producer_epoch {
            state.epoch = header.producer_epoch;
            state.batches.clear();
        }
        state.last_seen = seen;
        let append_time = match header.attributes.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => Timestamp::NONE,
        };
        state.note(AppendedBatch {
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            append_time,
        });
    }

    /// Forgets producers that were not seen for `expiry`; those just recovered count as seen now.
    pub(crate) fn expire(&mut self, now: Timestamp, expiry: Duration) {
        self.by_id.retain(|_, state| {
            if state.last_seen == Timestamp::NONE {
                state.last_seen = now;
            }
            !is_expired(state, now, expiry)
        });
    }

    /// All producers' ids, in no order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ProducerId> {
        self.by_id.keys().copied()
    }

    /// All producers that have written something, by id.
    pub(crate) fn known(&self) -> Vec<KnownProducer> {
        let known = |(id, state): (ProducerId, &ProducerState)| {
            let last = state.batches.back()?;
            Some(KnownProducer {
                id,
                epoch: state.epoch,
                last_sequence: last.last_sequence,
                last_timestamp: last.append_time,
            })
        };
        self.sorted().into_iter().filter_map(known).collect()
    }

    /// All producers, by id.
    pub(crate) fn sorted(&self) -> Vec<(ProducerId, &ProducerState)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(&id, state)| (id, state)).collect();
        all.sort_by_key(|&(id, _)| id);
        all
    }
}

fn is_expired(state: &ProducerState, now: Timestamp, expiry: Duration) -> bool {
    let idle = now.get().saturating_sub(state.last_seen.get());
    let expiry_ms = i64::try_from(expiry.as_millis()).unwrap_or(i64::MAX);
    state.last_seen != Timestamp::NONE && state.txn_first_offset.is_none() && idle >= expiry_ms
}
