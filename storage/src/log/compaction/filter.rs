//! What of a batch stays: the rules of one pass of a compaction.
//!
//! Batches are shown in the order of the log. A record goes if a newer one with its key was mapped; a tombstone goes if
//! its delete horizon (KIP-534) has passed. By then nothing older with its key is left, because every pass goes over
//! the log from its beginning, and a replacement is durable before the next one is.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use logweir_proto::record::{
    BatchError, BatchHeader, KeyedRecord, RecordBatch, UnpackedBatch, without_records,
};
use logweir_proto::{Offset, ProducerId, Timestamp};

use super::key_map::KeyMap;

/// A compressed batch that unpacks to more is not opened.
const MAX_UNPACKED_BYTES: usize = 256 << 20;

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays as it is.
    Keep,
    /// These bytes take its place.
    Rewrite(Bytes),
    /// Nothing of it is left.
    Drop,
}

/// What a pass met, as far as it matters for what comes after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// A batch whose records are not known was kept. It may hold older records of any key, so tombstones stay.
    opaque: bool,
    /// The newest delete horizon, not passed yet, of a batch that stays with a tombstone; [`Timestamp::NONE`] if there is
    /// none.
    pub(super) newest_horizon: Timestamp,
    pub(super) removed_records: u64,
}

/// The rules, and what was mapped.
pub(super) struct Filter {
    map: KeyMap,
    /// Records below were mapped, or need not be (exclusive). Those at and above stay.
    mapped_end: Offset,
    /// Records below it may not be read any more, so they go.
    log_start: Offset,
    now: Timestamp,
    /// What tombstones get that have none.
    delete_horizon: Timestamp,
    /// Producers that are known, with the base offset of the last batch of each that was mapped.
    producers: HashMap<ProducerId, Option<Offset>>,
    seen: Seen,
}

impl Filter {
    pub(super) fn new(
        max_map_bytes: usize,
        producers: &HashSet<ProducerId>,
        log_start: Offset,
        now: Timestamp,
        delete_horizon: Timestamp,
    ) -> Self {
        Self {
            map: KeyMap::new(max_map_bytes),
            mapped_end: Offset::ZERO,
            log_start,
            now,
            delete_horizon,
            producers: producers.iter().map(|&id| (id, None)).collect(),
            seen: Seen {
                opaque: false,
                newest_horizon: Timestamp::NONE,
                removed_records: 0,
            },
        }
    }

    /// Takes in a batch of the part that was not compacted yet, its records from `from` on. Batches come in order.
    /// Gives the offset of the first record that the map has no room for; nothing may be mapped after it.
    pub(super) fn map(&mut self, batch: &RecordBatch, from: Offset) -> Option<Offset> {
        let header = batch.header();
        if let Some(last) = producer_of(header).and_then(|id| self.producers.get_mut(&id)) {
            *last = Some(header.base_offset);
        }
        if header.attributes.is_control() {
            return None;
        }
        let unpacked = open(batch)?;
        let mut full = None;
        // Malformed records were refused by `open`.
        let _ = unpacked.visit(|record| {
            if let Some(key) = record.key.filter(|_| record.offset >= from)
                && !self.map.insert(key, record.offset)
            {
                full = Some(record.offset);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        full
    }

    /// Ends the mapping at `end`.
    pub(super) fn mapped(&mut self, end: Offset) {
        self.mapped_end = end;
    }

    pub(super) fn mapped_end(&self) -> Offset {
        self.mapped_end
    }

    pub(super) fn mapped_keys(&self) -> usize {
        self.map.len()
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    /// Takes back what was seen since.
    pub(super) fn forget(&mut self, seen: Seen) {
        self.seen = seen;
    }

    /// Decides on a batch. All before it in the log were decided on in this pass.
    ///
    /// # Errors
    /// It cannot be written without what goes: compressed anew, or with its delete horizon, it is too large. To keep it
    /// would let old records outlive the tombstones that deleted them.
    pub(super) fn decide(&mut self, batch: &RecordBatch) -> Result<Verdict, BatchError> {
        let header = batch.header();
        let emptied = header.next_offset() <= self.log_start;
        if header.record_count == 0 || emptied {
            self.count_removed(header, 0);
            return Ok(self.without_records(batch));
        }
        if header.base_offset >= self.mapped_end {
            return Ok(Verdict::Keep);
        }
        // Markers of transactions stay until they can be told from those that nobody needs.
        if header.attributes.is_control() {
            return Ok(Verdict::Keep);
        }
        let Some(unpacked) = open(batch) else {
            self.seen.opaque = true;
            return Ok(Verdict::Keep);
        };
        self.decide_by_record(batch, &unpacked)
    }

    fn decide_by_record(
        &mut self,
        batch: &RecordBatch,
        unpacked: &UnpackedBatch,
    ) -> Result<Verdict, BatchError> {
        let header = batch.header();
        let (mut kept, mut tombstones) = (0_i32, false);
        let has_expired = self.has_expired(header);
        let mut stays = Vec::with_capacity(
            usize::try_from(header.record_count)
                .unwrap_or(0)
                .min(1 << 16),
        );
        let _ = unpacked.visit(|record| {
            let keep = self.stays(record, has_expired);
            kept += i32::from(keep);
            tombstones |= keep && record.is_tombstone;
            stays.push(keep);
            ControlFlow::Continue(())
        });
        if kept == 0 {
            self.count_removed(header, 0);
            return Ok(self.without_records(batch));
        }
        let has_horizon = header.attributes.has_delete_horizon();
        let horizon = (tombstones && !has_horizon).then_some(self.delete_horizon);
        let until = horizon.unwrap_or(header.base_timestamp);
        // One that stays although its time has come is nothing to wait for.
        if tombstones && until > self.now {
            self.seen.newest_horizon = self.seen.newest_horizon.max(until);
        }
        if kept == header.record_count && horizon.is_none() {
            return Ok(Verdict::Keep);
        }
        let mut stays = stays.into_iter();
        let bytes = unpacked.retain(horizon, |_| stays.next() == Some(true))?;
        self.count_removed(header, kept);
        Ok(Verdict::Rewrite(bytes))
    }

    fn stays(&self, record: &KeyedRecord<'_>, has_expired: bool) -> bool {
        if record.offset >= self.mapped_end {
            return true;
        }
        // Kafka drops records without a key as well: nothing could ever take their place.
        let Some(key) = record.key.filter(|_| record.offset >= self.log_start) else {
            return false;
        };
        let newest = self
            .map
            .get(key)
            .is_none_or(|newest| newest <= record.offset);
        newest && !(record.is_tombstone && has_expired)
    }

    fn has_expired(&self, header: &BatchHeader) -> bool {
        header.attributes.has_delete_horizon()
            && header.base_timestamp <= self.now
            && !self.seen.opaque
    }

    /// The last batch of a producer stays without its records: it holds the sequence that finds duplicates.
    fn without_records(&self, batch: &RecordBatch) -> Verdict {
        let header = batch.header();
        let is_last = producer_of(header)
            .and_then(|id| self.producers.get(&id))
            // None was mapped: it may be any of those that were left before.
            .is_some_and(|last| last.is_none_or(|last| header.base_offset >= last));
        match is_last {
            false => Verdict::Drop,
            true if header.record_count == 0 => Verdict::Keep,
            true => Verdict::Rewrite(without_records(batch.bytes())),
        }
    }

    fn count_removed(&mut self, header: &BatchHeader, kept: i32) {
        let removed = header.record_count.saturating_sub(kept);
        self.seen.removed_records += u64::try_from(removed).unwrap_or(0);
    }
}

fn producer_of(header: &BatchHeader) -> Option<ProducerId> {
    let has = header.has_producer() && !header.attributes.is_control();
    has.then_some(header.producer_id)
}

/// Unpacks a batch if all its records can be read and count: `None` for one that is compressed wrongly or to more than
/// the limit (which is not looked for at append), and for one of a transaction, which may have been aborted.
///
/// Tombstones after such a batch stay for as long as it does. Code that opens more has to take logs as not compacted at
/// all (by a new version of the file `compaction`), or what these batches hold outlives the tombstones.
fn open(batch: &RecordBatch) -> Option<UnpackedBatch> {
    if batch.header().attributes.is_transactional() {
        return None;
    }
    let unpacked = UnpackedBatch::open(batch, MAX_UNPACKED_BYTES).ok()?;
    let well_formed = unpacked.visit(|_| ControlFlow::Continue(()));
    well_formed.ok().map(|()| unpacked)
}
