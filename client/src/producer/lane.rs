//! What the producer's task knows of one partition: its sequence numbers, and which batches are out.
//!
//! Rules that keep order and prevent doubles, all within one partition:
//!  * batches are numbered when they are sealed, and sealed only when they can be sent at once;
//!  * until a first batch was stored under a producer id and epoch, only one is out: a broker that does
//!    not know the producer takes any number, and would take a second batch after refusing the first;
//!  * after a failure nothing more is sent until every batch that is out has been answered or lost;
//!    then the undecided ones are sent again, in the order of their numbers, before anything new;
//!  * a batch that may have been stored is repeated byte for byte or not at all;
//!  * a batch that was given up leaves a gap in the numbers. Once the broker has refused what follows
//!    for that reason (or nothing follows), the epoch is raised and the numbers begin at 0 (KIP-360).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use logweir_proto::{ErrorCode, ProducerEpoch, ProducerId, Sequence};
use tokio::time::Instant;

use super::accumulator::PartitionQueue;
use super::batch::{SealedBatch, Stamp};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind};

/// For how long after storing a batch a broker certainly remembers the producer. Its own limit is a day by
/// default; a lane that was idle for longer than this just begins with one batch again.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// A numbered batch that was given up.
#[derive(Clone, Copy, Debug)]
struct Gap {
    sequence: Sequence,
    may_be_stored: bool,
}

/// Whether one sequence comes before another, less than half of the circle of sequences away.
fn is_before(one: Sequence, other: Sequence) -> bool {
    let circle = i64::from(i32::MAX) + 1;
    let distance = (i64::from(other.get()) - i64::from(one.get())).rem_euclid(circle);
    distance > 0 && distance < circle / 2
}

/// A producer id and epoch.
pub(crate) type Identity = (ProducerId, ProducerEpoch);

/// One partition's side of the producer's task.
pub(crate) struct Lane {
    pub(crate) queue: Arc<PartitionQueue>,
    /// Who this partition's batches are from. Its own, because an epoch is raised for one partition at a time.
    identity: Option<Identity>,
    /// The number of the next record to be sealed.
    next_sequence: Sequence,
    /// Sealed and to be sent again, in the order of their numbers, ahead of everything in the queue.
    pub(crate) retries: VecDeque<SealedBatch>,
    /// Batches that are out.
    pub(crate) in_flight: usize,
    /// How many of the retries, at the front, came back since the lane was blocked; the rest was not sent again yet.
    returned: usize,
    /// Until when the broker certainly knows the present identity, because it stored a batch of it.
    established_until: Option<Instant>,
    /// Whether the identity's epochs are used up.
    exhausted: bool,
    /// Nothing is sent while set: the batches that are out must come back first, or a pause must pass.
    blocked: bool,
    /// Numbered batches that were given up, and that the broker has not shown to have stored.
    gaps: Vec<Gap>,
    /// The broker refuses the present numbers; begin anew when all batches are back.
    renumber: bool,
    /// Some batch failed in a way that passes with time, so wait before sending again.
    pause: bool,
    /// Until when it pauses, if it does.
    pub(crate) paused_until: Option<Instant>,
    backoff: Backoff,
    /// Whether it stands in the task's list of partitions to send from.
    pub(crate) is_ready: bool,
    /// Whether it stands in the task's list of partitions whose batch may fill.
    pub(crate) is_lingering: bool,
}

/// What to do with a lane whose batches are all back.
pub(crate) enum Settled {
    /// Some are still out, or it pauses already.
    NotYet,
    /// It may send at once.
    Go,
    /// It may send again after a pause, until then.
    Pause(Instant),
}

impl Lane {
    pub(crate) const fn new(queue: Arc<PartitionQueue>, backoff: Backoff) -> Self {
        Self {
            queue,
            identity: None,
            next_sequence: Sequence::new(0),
            retries: VecDeque::new(),
            in_flight: 0,
            returned: 0,
            established_until: None,
            exhausted: false,
            blocked: false,
            gaps: Vec::new(),
            renumber: false,
            pause: false,
            paused_until: None,
            backoff,
            is_ready: false,
            is_lingering: false,
        }
    }

    /// Numbers a batch of so many records, as `identity` if the lane has none of its own.
    pub(crate) fn stamp(&mut self, identity: Option<Identity>, records: usize) -> Stamp {
        let Some(identity) = identity else {
            return Stamp::NONE;
        };
        let (producer_id, epoch) = *self.identity.get_or_insert(identity);
        let sequence = self.next_sequence;
        self.next_sequence = sequence.plus(i32::try_from(records).unwrap_or(i32::MAX));
        Stamp {
            producer_id,
            epoch,
            sequence,
        }
    }

    /// Takes a number back from a batch that could not be built and was never sent.
    pub(crate) fn unstamp(&mut self, stamp: Stamp) {
        if stamp != Stamp::NONE {
            self.next_sequence = stamp.sequence;
        }
    }

    /// Whether a batch may be sent now.
    pub(crate) fn may_send(&self, idempotent: bool, now: Instant) -> bool {
        let known = self.established_until.is_some_and(|until| now < until);
        !self.blocked && (known || self.in_flight == 0 || !idempotent)
    }

    /// A batch was stored.
    pub(crate) fn stored(&mut self, batch: &SealedBatch, now: Instant) {
        self.established_until = Some(now + KNOWN_FOR);
        // The broker takes numbers without gaps only: what came before is stored too.
        self.gaps
            .retain(|gap| is_before(batch.stamp.sequence, gap.sequence));
        self.backoff.reset();
    }

    /// A batch is to be sent again, in its place.
    pub(crate) fn retry(&mut self, batch: SealedBatch, pause: bool) {
        self.blocked = true;
        self.pause |= pause;
        if batch.is_dead() {
            // Its records were told; whether it was stored is open if an attempt is.
            self.lost(&batch);
            return;
        }
        // Answers come in the order of sending, so this comes after those that came back before it, and
        // before those that were not sent again yet.
        self.retries.insert(self.returned, batch);
        self.returned += 1;
    }

    /// A numbered batch was given up.
    pub(crate) fn lost(&mut self, batch: &SealedBatch) {
        if batch.stamp != Stamp::NONE {
            let (sequence, may_be_stored) = (batch.stamp.sequence, batch.may_be_stored);
            self.gaps.push(Gap {
                sequence,
                may_be_stored,
            });
        }
    }

    /// The broker refused a batch's number. Gives the batch back if it must fail.
    pub(crate) fn refused_number(
        &mut self,
        batch: SealedBatch,
        code: ErrorCode,
    ) -> Option<(SealedBatch, Error)> {
        if self.returned > 0 {
            // One before it failed; that one comes first again.
            self.retry(batch, false);
            return None;
        }
        self.renumber = true;
        self.blocked = true;
        let gap = self
            .gaps
            .iter()
            .any(|gap| is_before(gap.sequence, batch.stamp.sequence));
        let explained = gap || code == ErrorCode::UnknownProducerId;
        if explained && !batch.may_be_stored {
            self.retry(batch, false);
            return None;
        }
        let message = if batch.may_be_stored {
            "an earlier attempt may have been stored, and the broker no longer knows this producer's numbers"
        } else {
            "the broker lacks records before this one that it had acknowledged"
        };
        let error = Error::from_code(code, message)
            .with_kind(ErrorKind::Data)
            .with_may_have_happened(batch.may_be_stored);
        self.lost(&batch);
        Some((batch, error))
    }

    /// Looks whether sending may go on. Returns batches that must fail because they may be stored and
    /// can no longer be repeated.
    pub(crate) fn settle(&mut self, now: Instant, bumps: &mut u64) -> (Settled, Vec<SealedBatch>) {
        if self.in_flight > 0 || self.paused_until.is_some() {
            return (Settled::NotYet, Vec::new());
        }
        self.close_questions();
        let nothing_open = self.retries.iter().all(|batch| !batch.may_be_stored);
        let mut failed = Vec::new();
        if self.renumber || (!self.gaps.is_empty() && nothing_open) {
            failed = self.begin_anew();
            *bumps += 1;
        }
        self.returned = 0;
        let pause = std::mem::take(&mut self.pause) && !self.retries.is_empty();
        if pause {
            self.blocked = true;
            let until = now + self.backoff.next();
            self.paused_until = Some(until);
            return (Settled::Pause(until), failed);
        }
        self.blocked = false;
        (Settled::Go, failed)
    }

    /// What is numbered above a batch that is certainly not stored is not stored either, whatever became of
    /// its requests: the broker takes numbers without gaps only.
    fn close_questions(&mut self) {
        for gap in self.gaps.iter().filter(|gap| !gap.may_be_stored) {
            for batch in &mut self.retries {
                if is_before(gap.sequence, batch.stamp.sequence) {
                    batch.may_be_stored = false;
                }
            }
        }
    }

    /// Raises the epoch, begins the numbers at 0, and numbers the waiting batches anew.
    fn begin_anew(&mut self) -> Vec<SealedBatch> {
        self.gaps.clear();
        self.renumber = false;
        self.established_until = None;
        self.next_sequence = Sequence::new(0);
        let next = |(id, epoch): Identity| {
            epoch
                .get()
                .checked_add(1)
                .map(|raised| (id, ProducerEpoch::new(raised)))
        };
        let raised = self.identity.and_then(next);
        self.exhausted = self.identity.is_some() && raised.is_none();
        self.identity = raised;
        let mut failed = Vec::new();
        for mut batch in std::mem::take(&mut self.retries) {
            if batch.may_be_stored || self.identity.is_none() {
                failed.push(batch);
                continue;
            }
            let records = usize::try_from(batch.records).unwrap_or(usize::MAX);
            let stamp = self.stamp(self.identity, records);
            batch.restamp(stamp);
            self.retries.push_back(batch);
        }
        failed
    }

    /// Whether the lane's epochs are used up, so that it needs another producer id.
    pub(crate) const fn take_exhausted(&mut self) -> bool {
        std::mem::replace(&mut self.exhausted, false)
    }

    /// Takes the batches whose deadline has passed out of the retries.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<SealedBatch> {
        let returned = self.retries.iter().take(self.returned);
        self.returned = returned.filter(|batch| batch.deadline > now).count();
        let (late, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.retries)
            .into_iter()
            .partition(|batch| batch.deadline <= now);
        self.retries = kept;
        for batch in &late {
            self.lost(batch);
        }
        late.into()
    }

    /// Takes everything out that waits to be sent again.
    pub(crate) fn take_retries(&mut self) -> Vec<SealedBatch> {
        self.returned = 0;
        let taken: Vec<_> = std::mem::take(&mut self.retries).into();
        for batch in &taken {
            self.lost(batch);
        }
        taken
    }

    /// What passed while the connection was lost is no reason to wait longer here.
    pub(crate) const fn skip_pause(&mut self) {
        self.pause = false;
    }
}
