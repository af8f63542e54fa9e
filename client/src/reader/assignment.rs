//! One partition that a reader reads: where it is, where it ends, and what has arrived for it.

use std::collections::VecDeque;

use logweir_proto::record::{Batches, RecordBatch};
use logweir_proto::{LeaderEpoch, Offset, TopicId};

use super::StartAt;
use super::record::FetchedBatch;
use crate::config::ReaderConfig;
use crate::error::{Error, ErrorKind};
use crate::topic_partition::TopicPartition;

/// How often a batch that arrives damaged is fetched again: once could be the wire, more is not.
const MAX_CORRUPT_RETRIES: u32 = 1;

/// Where a partition's reading stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// To be looked up.
    Unknown(StartAt),
    /// The next record to hand out is the first at or above this offset.
    At(Offset),
}

/// Where a partition's reading stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nowhere.
    Never,
    /// At the end of the log when it is looked up.
    Unknown,
    /// Below this offset.
    At(Offset),
}

/// One partition of a reader.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) position: Position,
    /// The leader epoch in which the record before the position was written; the broker finds by it that this record is
    /// gone (KIP-320). [`LeaderEpoch::NONE`] while nothing was read.
    pub(super) read_epoch: LeaderEpoch,
    pub(super) end: End,
    /// What arrived and was not handed out, oldest first.
    pub(super) arrived: VecDeque<Arrived>,
    /// Where the next response begins; above the position by what has arrived.
    pub(super) fetch_offset: Offset,
    pub(super) high_watermark: Option<Offset>,
    pub(super) topic_id: Option<TopicId>,
    pub(super) paused: bool,
    /// Why it cannot be read, until it is sought or assigned anew.
    pub(super) failure: Option<Error>,
    /// How often in a row the broker did not know it.
    pub(super) unknown: u32,
    corrupt: u32,
}

/// A response's part for one partition.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) batches: Batches,
    pub(super) high_watermark: Offset,
    /// Where reading goes on after all of it.
    pub(super) next_offset: Offset,
}

/// What came of looking for the next batch.
pub(super) enum Decoded {
    Batch(FetchedBatch),
    /// Nothing has arrived, or nothing that is to be shown.
    Nothing,
    /// It was damaged and has to be fetched again.
    Refetch,
    Failed(Error),
}

impl Assignment {
    pub(super) fn new(start: StartAt, end: End) -> Self {
        let mut assignment = Self {
            position: Position::Unknown(start),
            read_epoch: LeaderEpoch::NONE,
            end,
            arrived: VecDeque::new(),
            fetch_offset: Offset::ZERO,
            high_watermark: None,
            topic_id: None,
            paused: false,
            failure: None,
            unknown: 0,
            corrupt: 0,
        };
        assignment.seek(start);
        assignment
    }

    /// Goes on elsewhere; what has arrived is dropped, and a failure forgotten.
    pub(super) fn seek(&mut self, to: StartAt) {
        self.arrived.clear();
        self.failure = None;
        self.corrupt = 0;
        self.unknown = 0;
        self.read_epoch = LeaderEpoch::NONE;
        match to {
            StartAt::Offset(offset) => self.found(offset),
            _ => self.position = Position::Unknown(to),
        }
    }

    /// The position is known now.
    pub(super) fn found(&mut self, offset: Offset) {
        self.position = Position::At(offset);
        self.fetch_offset = offset;
    }

    /// The leader epoch of the last record below the fetch offset.
    pub(super) fn fetched_epoch(&self) -> LeaderEpoch {
        let last_epoch = |arrived: &Arrived| {
            let batches = arrived.batches.clone().filter_map(Result::ok);
            batches.last().map(|batch| batch.header().leader_epoch)
        };
        let arrived = self.arrived.iter().rev().find_map(last_epoch);
        arrived.unwrap_or(self.read_epoch)
    }

    /// The log was truncated: it agrees with what was read below `end` only. Goes on there, or at the position if that is
    /// lower; what has arrived is fetched again.
    pub(super) fn go_back(&mut self, end: Offset, epoch: LeaderEpoch) {
        self.rewind();
        if let Position::At(position) = self.position
            && position > end
        {
            self.read_epoch = epoch;
            self.found(end);
        }
    }

    /// Forgets what has arrived, to fetch it again.
    pub(super) fn rewind(&mut self) {
        self.arrived.clear();
        if let Position::At(offset) = self.position {
            self.fetch_offset = offset;
        }
    }

    /// Whether something has to be looked up before it can be fetched.
    pub(super) fn needs_look_up(&self) -> bool {
        self.failure.is_none()
            && (matches!(self.position, Position::Unknown(_)) || self.end == End::Unknown)
    }

    /// Whether it is to be fetched now.
    pub(super) fn is_wanted(&self) -> bool {
        self.failure.is_none() && !self.paused && !self.all_arrived()
    }

    /// Whether nothing more needs to be fetched.
    pub(super) fn all_arrived(&self) -> bool {
        matches!((self.position, self.end), (Position::At(_), End::At(end)) if self.fetch_offset >= end)
    }

    /// Whether everything was handed out.
    pub(super) fn is_finished(&self) -> bool {
        matches!((self.position, self.end), (Position::At(at), End::At(end)) if at >= end)
    }

    /// Unpacks the next batch that has something to show.
    pub(super) fn next_batch(&mut self, place: &TopicPartition, config: &ReaderConfig) -> Decoded {
        while let Some(arrived) = self.arrived.front_mut() {
            let Position::At(position) = self.position else {
                return Decoded::Nothing;
            };
            let (high_watermark, after) = (arrived.high_watermark, arrived.next_offset);
            let Some(batch) = arrived.batches.next() else {
                self.arrived.pop_front();
                self.position = Position::At(position.max(after));
                continue;
            };
            let shown = batch
                .map_err(|error| error.to_string())
                .and_then(|batch| self.show(place, &batch, position, high_watermark, config));
            match shown {
                Ok(Some(batch)) => return Decoded::Batch(batch),
                Ok(None) => {}
                Err(problem) => return self.damaged(place, position, &problem),
            }
        }
        Decoded::Nothing
    }

    /// The records of a batch that are to be shown, if any. The position moves past the batch.
    fn show(
        &mut self,
        place: &TopicPartition,
        batch: &RecordBatch,
        position: Offset,
        high_watermark: Offset,
        config: &ReaderConfig,
    ) -> Result<Option<FetchedBatch>, String> {
        let header = batch.header();
        let next_offset = header.next_offset();
        if next_offset <= position {
            return Ok(None);
        }
        if config.check_crcs {
            batch.verify_crc().map_err(|error| error.to_string())?;
        }
        let mut records = Vec::new();
        if !header.attributes.is_control() {
            let end = if let End::At(end) = self.end {
                end
            } else {
                Offset::MAX
            };
            let unpacked = batch
                .records(config.max_decompressed_bytes)
                .map_err(|error| error.to_string())?;
            records.reserve(
                usize::try_from(header.record_count)
                    .unwrap_or(0)
                    .min(1 << 16),
            );
            for record in unpacked {
                let record = record.map_err(|error| error.to_string())?;
                if record.offset >= position && record.offset < end {
                    records.push(record);
                }
            }
        }
        self.corrupt = 0;
        self.position = Position::At(next_offset);
        self.read_epoch = header.leader_epoch;
        if records.is_empty() {
            return Ok(None);
        }
        Ok(Some(FetchedBatch {
            topic: std::sync::Arc::clone(&place.topic),
            partition: place.partition,
            records,
            leader_epoch: header.leader_epoch,
            timestamp_type: header.attributes.timestamp_type(),
            high_watermark,
            next_offset,
            size_bytes: batch.bytes().len(),
        }))
    }

    fn damaged(&mut self, place: &TopicPartition, position: Offset, problem: &str) -> Decoded {
        self.rewind();
        self.corrupt += 1;
        if self.corrupt <= MAX_CORRUPT_RETRIES {
            tracing::warn!(topic = %place.topic, partition = %place.partition, offset = %position,
                problem, "damaged batch received, fetching it again");
            return Decoded::Refetch;
        }
        let error = Error::new(
            ErrorKind::Data,
            format!("the batch at offset {position} cannot be read: {problem}"),
        )
        .of_partition(std::sync::Arc::clone(&place.topic), place.partition)
        .with_action("seek past it to go on");
        self.failure = Some(error.clone());
        Decoded::Failed(error)
    }
}
