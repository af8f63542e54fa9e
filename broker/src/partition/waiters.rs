//! Who waits for a partition's offsets to move: acknowledgements in offset order, and readers at its end.
//!
//! Owned by the partition, under its lock; what is popped is completed outside of it.

use std::collections::VecDeque;
use std::sync::Arc;

use logweir_proto::Offset;
use tokio::sync::{Notify, oneshot};

use crate::error::ApiError;

/// The answer to a waiting append.
pub(crate) type AckSender = oneshot::Sender<Result<(), ApiError>>;

/// Appends that wait for one offset to pass them, sorted by it. Offsets are handed out in order, so that
/// nearly every push is at the back; only a producer's repeated batch waits for an older offset.
#[derive(Debug, Default)]
struct Queue(VecDeque<(Offset, AckSender)>);

impl Queue {
    fn push(&mut self, end: Offset, sender: AckSender) {
        // Waiters that gave up leave from the front as offsets pass; a stalled disk must not let
        // the abandoned ones pile up behind it.
        if self.0.len() >= 64 && self.0.len().is_power_of_two() {
            self.0.retain(|(_, sender)| !sender.is_closed());
        }
        let place = self
            .0
            .iter()
            .rposition(|(other, _)| *other <= end)
            .map_or(0, |index| index + 1);
        self.0.insert(place, (end, sender));
    }

    fn pop_until(&mut self, reached: Offset, ready: &mut Ready) {
        while self.0.front().is_some_and(|(end, _)| *end <= reached) {
            ready
                .acks
                .extend(self.0.pop_front().map(|(_, sender)| sender));
        }
    }
}

/// What may be completed now; call [`Ready::complete`] outside of the partition's lock.
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct Ready {
    acks: Vec<AckSender>,
    readers: Vec<Arc<Notify>>,
    at_end: Vec<oneshot::Sender<ApiError>>,
    /// What the appends are answered instead of success.
    failure: Option<ApiError>,
}

impl Ready {
    /// Answers the appends and wakes the readers, who will meet a failure themselves.
    pub(crate) fn complete(self) {
        if let Some(reason) = &self.failure {
            for waiting in self.at_end {
                let _ = waiting.send(reason.clone());
            }
        }
        let outcome = self.failure.map_or(Ok(()), Err);
        for ack in self.acks {
            // A caller that gave up has dropped its end.
            let _ = ack.send(outcome.clone());
        }
        for reader in self.readers {
            reader.notify_one();
        }
    }
}

/// All who wait on one partition.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    durable: Queue,
    replicated: Queue,
    /// Who wants to know of the end, such as a coordinator on an internal topic: few.
    at_end: Vec<oneshot::Sender<ApiError>>,
    readers: Vec<Arc<Notify>>,
}

impl Waiters {
    /// Completes `sender` when the durable end has passed `end`.
    pub(crate) fn on_durable(&mut self, end: Offset, sender: AckSender) {
        self.durable.push(end, sender);
    }

    /// Completes `sender` when the high watermark has passed `end`.
    pub(crate) fn on_replicated(&mut self, end: Offset, sender: AckSender) {
        self.replicated.push(end, sender);
    }

    /// Tells `sender` of the partition's end.
    pub(crate) fn on_end(&mut self, sender: oneshot::Sender<ApiError>) {
        self.at_end.retain(|waiting| !waiting.is_closed());
        self.at_end.push(sender);
    }

    /// Notifies `reader` of every move of the high watermark until it is removed.
    pub(crate) fn add_reader(&mut self, reader: &Arc<Notify>) {
        self.readers.push(Arc::clone(reader));
    }

    /// Forgets a reader.
    pub(crate) fn remove_reader(&mut self, reader: &Arc<Notify>) {
        if let Some(index) = self
            .readers
            .iter()
            .position(|other| Arc::ptr_eq(other, reader))
        {
            self.readers.swap_remove(index);
        }
    }

    /// Takes out what the new durable end completes.
    pub(crate) fn durable_moved(&mut self, durable_end: Offset, ready: &mut Ready) {
        self.durable.pop_until(durable_end, ready);
    }

    /// Takes out what the new high watermark completes.
    pub(crate) fn high_watermark_moved(&mut self, high_watermark: Offset, ready: &mut Ready) {
        self.replicated.pop_until(high_watermark, ready);
        ready.readers.extend(self.readers.iter().cloned());
    }

    /// Takes everybody out, for a partition that has ended; the appends fail with `reason`.
    pub(crate) fn take_all(&mut self, reason: &ApiError) -> Ready {
        let mut ready = Ready {
            failure: Some(reason.clone()),
            ..Ready::default()
        };
        self.durable.pop_until(Offset::MAX, &mut ready);
        self.replicated.pop_until(Offset::MAX, &mut ready);
        ready.readers.extend(self.readers.iter().cloned());
        ready.at_end = std::mem::take(&mut self.at_end);
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_an_offset_completes_exactly_the_appends_below_it() {
        let mut waiters = Waiters::default();
        let mut answers: Vec<_> = [3, 5, 8]
            .map(|end| {
                let (sender, receiver) = oneshot::channel();
                waiters.on_durable(Offset::new(end), sender);
                receiver
            })
            .into();
        let mut ready = Ready::default();
        waiters.durable_moved(Offset::new(5), &mut ready);
        ready.complete();
        assert!(matches!(answers[0].try_recv(), Ok(Ok(()))));
        assert!(matches!(answers[1].try_recv(), Ok(Ok(()))));
        assert!(answers[2].try_recv().is_err());
    }

    #[test]
    fn a_repeated_batch_is_answered_with_its_own_offset_not_behind_newer_ones() {
        let mut waiters = Waiters::default();
        let mut answers: Vec<_> = [5, 8, 3]
            .map(|end| {
                let (sender, receiver) = oneshot::channel();
                waiters.on_replicated(Offset::new(end), sender);
                receiver
            })
            .into();
        let mut ready = Ready::default();
        waiters.high_watermark_moved(Offset::new(3), &mut ready);
        ready.complete();
        assert!(answers[0].try_recv().is_err());
        assert!(matches!(answers[2].try_recv(), Ok(Ok(()))));
    }

    #[test]
    fn abandoned_waiters_do_not_pile_up_behind_a_stalled_disk() {
        let mut waiters = Waiters::default();
        for end in 0..100_000 {
            let (sender, receiver) = oneshot::channel();
            drop(receiver);
            waiters.on_durable(Offset::new(end), sender);
        }
        assert!(
            waiters.durable.0.len() <= 128,
            "{} kept",
            waiters.durable.0.len()
        );
    }

    #[test]
    fn a_removed_reader_is_not_woken() {
        let mut waiters = Waiters::default();
        let (stays, goes) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        waiters.add_reader(&stays);
        waiters.add_reader(&goes);
        waiters.remove_reader(&goes);
        let mut ready = Ready::default();
        waiters.high_watermark_moved(Offset::new(1), &mut ready);
        assert_eq!(ready.readers.len(), 1);
        assert!(Arc::ptr_eq(&ready.readers[0], &stays));
    }
}
