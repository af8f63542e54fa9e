//! One partition of the mock broker.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use logweir_proto::record::{RecordBatch, set_base_offset};
use logweir_proto::{ErrorCode, Offset, ProducerEpoch, ProducerId, Sequence};

/// What a producer wrote last.
pub(crate) struct ProducerState {
    epoch: ProducerEpoch,
    window: VecDeque<(Sequence, Sequence, Offset)>,
}

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) start: Offset,
    pub(crate) producers: HashMap<ProducerId, ProducerState>,
    /// The largest batch taken, in bytes.
    pub(crate) max_message_bytes: Option<usize>,
    /// How many batches were recognized as repetitions.
    pub(crate) duplicates: usize,
}

impl Log {
    pub(crate) fn end(&self) -> Offset {
        self.batches
            .last()
            .map_or(self.start, |batch| batch.header().next_offset())
            .max(self.start)
    }

    /// Appends a batch, or recognizes it; returns its base offset.
    pub(crate) fn append(&mut self, bytes: &Bytes) -> Result<Offset, ErrorCode> {
        let batch =
            RecordBatch::from_bytes(bytes.clone()).map_err(|_| ErrorCode::CorruptMessage)?;
        batch.validate().map_err(|_| ErrorCode::CorruptMessage)?;
        if self.max_message_bytes.is_some_and(|max| bytes.len() > max) {
            return Err(ErrorCode::MessageTooLarge);
        }
        if batch.header().has_producer()
            && let Some(offset) = self.check(&batch)?
        {
            self.duplicates += 1;
            return Ok(offset);
        }
        let base = self.end();
        let mut stored = BytesMut::from(&bytes[..]);
        set_base_offset(&mut stored, base);
        let stored = RecordBatch::from_bytes(stored.freeze()).unwrap();
        let header = *stored.header();
        if header.has_producer() {
            let state = self
                .producers
                .entry(header.producer_id)
                .or_insert_with(|| ProducerState {
                    epoch: header.producer_epoch,
                    window: VecDeque::new(),
                });
            if state.epoch != header.producer_epoch {
                state.epoch = header.producer_epoch;
                state.window.clear();
            }
            if state.window.len() == 5 {
                state.window.pop_front();
            }
            state
                .window
                .push_back((header.base_sequence, header.last_sequence(), base));
        }
        self.batches.push(stored);
        Ok(base)
    }

    fn check(&self, batch: &RecordBatch) -> Result<Option<Offset>, ErrorCode> {
        let header = batch.header();
        let Some(state) = self.producers.get(&header.producer_id) else {
            return Ok(None);
        };
        let first = header.base_sequence;
        if header.producer_epoch < state.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if header.producer_epoch > state.epoch {
            let begins = first == Sequence::new(0);
            return if begins {
                Ok(None)
            } else {
                Err(ErrorCode::OutOfOrderSequenceNumber)
            };
        }
        let same = |known: &&(Sequence, Sequence, Offset)| {
            known.0 == first && known.1 == header.last_sequence()
        };
        if let Some((_, _, offset)) = state.window.iter().find(same) {
            return Ok(Some(*offset));
        }
        match state.window.back() {
            Some((_, last, _)) if last.plus(1) == first => Ok(None),
            None => Ok(None),
            Some(_)
                if state
                    .window
                    .front()
                    .is_some_and(|oldest| header.last_sequence() < oldest.0) =>
            {
                Err(ErrorCode::DuplicateSequenceNumber)
            }
            Some(_) => Err(ErrorCode::OutOfOrderSequenceNumber),
        }
    }

    /// Loses the last batches, and what was known of their producers.
    pub(crate) fn lose(&mut self, count: usize) {
        for lost in self.batches.split_off(self.batches.len() - count) {
            for state in self.producers.values_mut() {
                state
                    .window
                    .retain(|(_, _, offset)| *offset != lost.header().base_offset);
            }
        }
    }
}
