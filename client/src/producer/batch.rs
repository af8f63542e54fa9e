//! A batch that was closed, stamped and built: the bytes that are sent, as often as it takes.

use bytes::{Bytes, BytesMut};
use logweir_proto::record::{BatchBuilder, Compression, RecordBatch, set_producer};
use logweir_proto::{ProducerEpoch, ProducerId, Sequence};
use tokio::time::Instant;

use super::accumulator::{OpenBatch, Reserved};
use super::delivery::{Appended, Completion};
use crate::error::{Error, ErrorKind, Result};

/// The most bytes a batch built by this producer can unpack to: the largest `max_request_size`, and the headers.
const MAX_UNPACKED_BYTES: usize = 17 << 20;

/// Under which name and number a batch is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) producer_id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) sequence: Sequence,
}

impl Stamp {
    /// The stamp of a producer without idempotence.
    pub(crate) const NONE: Self = Self {
        producer_id: ProducerId::NONE,
        epoch: ProducerEpoch::NONE,
        sequence: Sequence::NONE,
    };
}

/// A batch to send, or sent and not yet decided.
pub(crate) struct SealedBatch {
    /// What is sent. A repetition sends the same bytes, or the broker could not know it for one.
    pub(crate) bytes: Bytes,
    pub(crate) stamp: Stamp,
    /// None once the records were failed for their deadline while their request was still out.
    completion: Option<Completion>,
    pub(crate) records: i32,
    pub(crate) deadline: Instant,
    /// How often it was sent.
    pub(crate) attempts: u32,
    /// How often the broker said that it does not know the topic or partition.
    pub(crate) unknown_topic: u32,
    /// How often the broker found it damaged.
    pub(crate) corrupt: u32,
    /// What the broker said last.
    pub(crate) last_error: Option<Error>,
    /// Whether an attempt ended without word on whether the batch was stored. Such a batch is only ever
    /// repeated under its old stamp; under a new one it could be stored twice.
    pub(crate) may_be_stored: bool,
    /// Its share of the memory, held until its request is gone.
    reserved: Reserved,
}

impl SealedBatch {
    /// Builds the batch under a stamp. If that fails, its records fail.
    pub(crate) fn seal(open: OpenBatch, stamp: Stamp) -> Option<Self> {
        let OpenBatch {
            mut builder,
            completion,
            reserved,
            ..
        } = open;
        let records = i32::try_from(builder.len()).unwrap_or(i32::MAX);
        builder.producer(stamp.producer_id, stamp.epoch, stamp.sequence);
        match builder.build() {
            Ok(bytes) => Some(Self {
                bytes,
                stamp,
                records,
                deadline: completion.deadline(),
                completion: Some(completion),
                attempts: 0,
                unknown_topic: 0,
                corrupt: 0,
                last_error: None,
                may_be_stored: false,
                reserved,
            }),
            Err(error) => {
                completion.complete(Err(Error::new(ErrorKind::Data, error.to_string())));
                None
            }
        }
    }

    /// Whether its records were failed already, so that it is not worth repeating.
    pub(crate) const fn is_dead(&self) -> bool {
        self.completion.is_none()
    }

    /// Decides its records, and gives its memory back.
    pub(crate) fn complete(self, result: Result<Appended>) {
        if let Some(completion) = self.completion {
            completion.complete(result);
        }
        drop(self.reserved);
    }

    /// Fails its records now; its memory stays taken while its request is out.
    pub(crate) fn fail_early(&mut self, error: Error) {
        if let Some(completion) = self.completion.take() {
            completion.complete(Err(error));
        }
    }

    /// Puts it under another stamp. Call only if it is certain not to be stored under the old one.
    pub(crate) fn restamp(&mut self, stamp: Stamp) {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        set_producer(&mut bytes, stamp.producer_id, stamp.epoch, stamp.sequence);
        self.bytes = bytes.freeze();
        self.stamp = stamp;
        self.may_be_stored = false;
    }

    /// Divides a batch that the broker found too large. The halves take the sequences of the whole, so
    /// that later batches stay as they are. Gives the batch back if it cannot be divided.
    pub(crate) fn split(mut self) -> std::result::Result<(Self, Self), Box<Self>> {
        let Some((head_bytes, tail_bytes, head_records)) = self.halves() else {
            return Err(Box::new(self));
        };
        let Some(completion) = self.completion.take() else {
            return Err(Box::new(self));
        };
        let Ok(head_count) = u32::try_from(head_records) else {
            return Err(Box::new(self));
        };
        let (head_completion, tail_completion) = completion.split(head_count);
        let (head_reserved, tail_reserved) = self.reserved.split();
        let tail_stamp = match self.stamp {
            Stamp {
                sequence: Sequence::NONE,
                ..
            } => self.stamp,
            stamp => Stamp {
                sequence: stamp.sequence.plus(head_records),
                ..stamp
            },
        };
        let half = |bytes, stamp, completion, records, reserved| Self {
            bytes,
            stamp,
            completion: Some(completion),
            records,
            deadline: self.deadline,
            attempts: 0,
            unknown_topic: 0,
            corrupt: 0,
            last_error: None,
            may_be_stored: false,
            reserved,
        };
        Ok((
            half(
                head_bytes,
                self.stamp,
                head_completion,
                head_records,
                head_reserved,
            ),
            half(
                tail_bytes,
                tail_stamp,
                tail_completion,
                self.records - head_records,
                tail_reserved,
            ),
        ))
    }

    fn halves(&self) -> Option<(Bytes, Bytes, i32)> {
        if self.records < 2 || self.is_dead() {
            return None;
        }
        let batch = RecordBatch::from_bytes(self.bytes.clone()).ok()?;
        let compression: Compression = batch.header().attributes.compression();
        let head_records = self.records / 2;
        let (mut head, mut tail) = (
            BatchBuilder::new(compression),
            BatchBuilder::new(compression),
        );
        let Stamp {
            producer_id,
            epoch,
            sequence,
        } = self.stamp;
        head.producer(producer_id, epoch, sequence);
        let tail_sequence = if sequence == Sequence::NONE {
            sequence
        } else {
            sequence.plus(head_records)
        };
        tail.producer(producer_id, epoch, tail_sequence);
        for (index, record) in (0..).zip(batch.records(MAX_UNPACKED_BYTES).ok()?) {
            let record = record.ok()?;
            let half = if index < head_records {
                &mut head
            } else {
                &mut tail
            };
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            half.append(record.timestamp, key, value, &record.headers)
                .ok()?;
        }
        Some((head.build().ok()?, tail.build().ok()?, head_records))
    }
}
