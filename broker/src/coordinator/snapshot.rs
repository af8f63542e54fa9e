//! Local snapshots: when a shard writes one, and how a machine's state lies in it. `storage/FORMAT.md` has the bytes.
//!
//! A snapshot is written only of what is committed, so that it never tells of records that the log may still lose, by
//! one writer at a time and with no lock held that a decision needs. It spares work at the next load and nothing else.

use bytes::Bytes;
use logweir_proto::{LeaderEpoch, Offset, Timestamp};
use logweir_storage::StateSnapshot;

use super::answers::Commit;
use super::machine::{Machine, StateRecord};
use super::shard::{Phase, Serving, Shard};

/// What stands for the length of a value that is none.
const TOMBSTONE: i32 = -1;

/// The records, one after the other.
fn encode(records: &[StateRecord]) -> Result<Bytes, String> {
    let value_len = |record: &StateRecord| record.value.as_ref().map_or(0, Bytes::len);
    let len = records.iter().map(|r| 8 + r.key.len() + value_len(r)).sum();
    let mut bytes = Vec::with_capacity(len);
    for record in records {
        let length = |len: usize| i32::try_from(len).map_err(|error| error.to_string());
        bytes.extend_from_slice(&length(record.key.len())?.to_be_bytes());
        bytes.extend_from_slice(&record.key);
        let value_len = match &record.value {
            Some(value) => length(value.len())?,
            None => TOMBSTONE,
        };
        bytes.extend_from_slice(&value_len.to_be_bytes());
        bytes.extend_from_slice(record.value.as_deref().unwrap_or_default());
    }
    Ok(bytes.into())
}

/// The records of a snapshot's state.
///
/// # Errors
/// What is wrong with the bytes.
pub(super) fn decode(bytes: &Bytes) -> Result<Vec<StateRecord>, String> {
    let mut rest = bytes.clone();
    let mut records = Vec::new();
    while !rest.is_empty() {
        let key = take_field(&mut rest)?.ok_or("a record has no key")?;
        let value = take_field(&mut rest)?;
        records.push(StateRecord { key, value });
    }
    Ok(records)
}

fn take_field(rest: &mut Bytes) -> Result<Option<Bytes>, String> {
    let cut_off = || "a field is cut off".to_owned();
    let len = rest.first_chunk::<4>().ok_or_else(cut_off)?;
    let len = i32::from_be_bytes(*len);
    let _ = rest.split_to(4);
    if len == TOMBSTONE {
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| format!("a field has the length {len}"))?;
    if len > rest.len() {
        return Err(cut_off());
    }
    // Copied, so that what a machine keeps does not keep the whole file in memory.
    Ok(Some(Bytes::copy_from_slice(&rest.split_to(len))))
}

/// A machine's state at one offset, not yet written.
struct Taken {
    records: Vec<StateRecord>,
    end: Offset,
    leader_epoch: LeaderEpoch,
    taken_at: Timestamp,
    /// What is still to be committed before it may be written.
    commit: Option<Commit>,
}

impl<M: Machine> Serving<M> {
    /// When the next snapshot is due at the latest.
    pub(super) fn save_due(&self) -> Option<Timestamp> {
        self.save_by.filter(|_| !self.saving)
    }
}

impl<M: Machine> Shard<M> {
    /// Begins to write a snapshot if one is due.
    pub(super) fn save_if_due(&self, serving: &mut Serving<M>, generation: u64) {
        let now = self.context.clock.now();
        let settings = &self.context.settings;
        let by_time = serving.save_by.is_some_and(|by| by <= now);
        let unsaved = u64::try_from(serving.end.since(serving.saved_end)).unwrap_or(0);
        let by_count = unsaved >= settings.snapshot_records && serving.save_not_before <= now;
        if serving.saving || !(by_time || by_count) {
            return;
        }
        serving.saving = true;
        let (this, stop) = (self.this.clone(), self.stop.clone());
        self.context.runtime.spawn(async move {
            let take = this.clone();
            let taking =
                tokio::task::spawn_blocking(move || take.upgrade()?.take_state(generation));
            let mut taken = match taking.await {
                Ok(Some(taken)) => taken,
                // Another load, or nothing to write.
                Ok(None) => return,
                Err(error) => {
                    let shard = this.upgrade();
                    let outcome = Err(error.to_string());
                    return shard.map_or((), |s| s.saved(generation, Offset::ZERO, outcome));
                }
            };
            let mut outcome = Ok(());
            if let Some(commit) = taken.commit.take() {
                outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    committed = commit => match committed {
                        Ok(committed) => committed.map_err(|error| error.to_string()),
                        Err(_) => return,
                    }
                };
            }
            let Some(shard) = this.upgrade() else { return };
            let writing = tokio::task::spawn_blocking(move || {
                let end = taken.end;
                let outcome = outcome.and_then(|()| shard.write_state(taken));
                shard.saved(generation, end, outcome);
            });
            // A panic in there has been told by the hook for panics; the snapshot before stays.
            let _ = writing.await;
        });
    }

    /// Writes a snapshot of what a clean stop leaves, if it is committed and not written yet. Waits for the disk.
    pub(super) fn save_at_stop(&self) {
        let generation = self.state.lock().generation;
        if let Some(taken) = self.take_state(generation)
            && taken.commit.is_none()
            && let Err(reason) = self.write_state(taken)
        {
            self.warn_unsaved(&reason);
        }
    }

    fn take_state(&self, generation: u64) -> Option<Taken> {
        let state = self.state.lock();
        let Phase::Serving(serving) = &state.phase else {
            return None;
        };
        if state.generation != generation || serving.end <= serving.saved_end {
            return None;
        }
        Some(Taken {
            records: serving.machine.snapshot(),
            end: serving.end,
            leader_epoch: self.partition.log().leader_epoch_of(serving.end.plus(-1)),
            taken_at: self.context.clock.now(),
            commit: self.partition.committed(serving.end).ok()?,
        })
    }

    fn write_state(&self, taken: Taken) -> Result<(), String> {
        let mut written_end = self.written_end.lock();
        if taken.end <= *written_end || self.stop.is_cancelled() {
            return Ok(());
        }
        let snapshot = StateSnapshot {
            end: taken.end,
            leader_epoch: taken.leader_epoch,
            taken_at: taken.taken_at,
            state: encode(&taken.records)?,
        };
        let written = self.partition.log().write_snapshot(&snapshot);
        written.map_err(|error| error.to_string())?;
        *written_end = taken.end;
        Ok(())
    }

    /// Notes how writing went: what was decided since is due after another interval, and so is a next try.
    fn saved(&self, generation: u64, end: Offset, outcome: Result<(), String>) {
        let now = self.context.clock.now();
        let settings = &self.context.settings;
        let mut state = self.state.lock();
        let this_load = state.generation == generation;
        if let (true, Phase::Serving(serving)) = (this_load, &mut state.phase) {
            serving.saving = false;
            serving.save_not_before = after(now, settings.snapshot_pause);
            if outcome.is_ok() {
                serving.saved_end = serving.saved_end.max(end);
            }
            let unsaved = serving.end > serving.saved_end;
            serving.save_by = unsaved.then(|| after(now, settings.snapshot_interval));
            let due = self.due_of(serving);
            self.arm(&mut state, due);
        }
        drop(state);
        if let Err(reason) = outcome {
            self.warn_unsaved(&reason);
        }
    }

    fn warn_unsaved(&self, reason: &str) {
        tracing::warn!(topic = %self.partition.topic(), partition = %self.partition.id(), reason,
            "a coordinator's snapshot was not written; the next load reads more of the log");
    }
}

/// A wall time later.
pub(super) fn after(time: Timestamp, span: std::time::Duration) -> Timestamp {
    let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    Timestamp::new(time.get().saturating_add(span_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = StateRecord> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        (bytes(), prop::option::of(bytes())).prop_map(|(key, value)| StateRecord { key, value })
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let records = [("k", Some("val")), ("key", None)].map(|(key, value)| StateRecord {
            key: Bytes::from_static(key.as_bytes()),
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
        });
        let expected = b"\0\0\0\x01k\0\0\0\x03val\0\0\0\x03key\xff\xff\xff\xff";
        assert_eq!(encode(&records).unwrap(), &expected[..]);
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(records in prop::collection::vec(record(), 0..20)) {
            prop_assert_eq!(decode(&encode(&records).unwrap()), Ok(records));
        }

        #[test]
        fn arbitrary_bytes_give_records_or_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&Bytes::from(bytes));
        }
    }
}
