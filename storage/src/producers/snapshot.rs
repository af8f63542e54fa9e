//! The snapshot of all producers at one offset: a small file beside the segments.

use logweir_proto::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use super::{AppendedBatch, ProducerState, Producers, WINDOW};
use crate::checked_file::{self, Damage, Fields, magic};

const VERSION: u16 = 1;
/// Offset of the "no open transaction" on disk.
const NO_TXN: i64 = -1;

/// The file's bytes: the state before `offset`.
pub(crate) fn encode(producers: &Producers, offset: Offset) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&offset.get().to_be_bytes());
    for (id, state) in producers.sorted() {
        body.extend_from_slice(&id.get().to_be_bytes());
        body.extend_from_slice(&state.epoch.get().to_be_bytes());
        body.extend_from_slice(&state.coordinator_epoch.to_be_bytes());
        let txn = state.txn_first_offset.map_or(NO_TXN, Offset::get);
        body.extend_from_slice(&txn.to_be_bytes());
        body.extend_from_slice(&state.last_seen.get().to_be_bytes());
        let count = u8::try_from(state.batches.len()).expect("at most WINDOW batches");
        body.push(count);
        for batch in &state.batches {
            body.extend_from_slice(&batch.base_sequence.get().to_be_bytes());
            body.extend_from_slice(&batch.last_sequence.get().to_be_bytes());
            body.extend_from_slice(&batch.base_offset.get().to_be_bytes());
            body.extend_from_slice(&batch.append_time.get().to_be_bytes());
        }
    }
    checked_file::frame(magic::PRODUCERS, VERSION, &body)
}

/// Reads the file's bytes: the offset and the state before it.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Offset, Producers), Damage> {
    let (_, body) = checked_file::unframe(magic::PRODUCERS, VERSION, bytes)?;
    let mut fields = Fields::new(body);
    let offset = Offset::new(fields.i64()?);
    let mut producers = Producers::default();
    while !fields.is_empty() {
        let id = ProducerId::new(fields.i64()?);
        let state = decode_state(&mut fields)?;
        producers.by_id.insert(id, state);
    }
    Ok((offset, producers))
}

fn decode_state(fields: &mut Fields<'_>) -> Result<ProducerState, Damage> {
    let mut state = ProducerState::new(ProducerEpoch::new(fields.i16()?));
    state.coordinator_epoch = fields.i32()?;
    let txn = fields.i64()?;
    state.txn_first_offset = (txn != NO_TXN).then(|| Offset::new(txn));
    state.last_seen = Timestamp::new(fields.i64()?);
    let count = usize::from(fields.u8()?);
    if count > WINDOW {
        return Err(Damage::new(
            checked_file::PREFIX_LEN,
            "more batches than the window holds",
        ));
    }
    for _ in 0..count {
        state.batches.push_back(AppendedBatch {
            base_sequence: Sequence::new(fields.i32()?),
            last_sequence: Sequence::new(fields.i32()?),
            base_offset: Offset::new(fields.i64()?),
            append_time: Timestamp::new(fields.i64()?),
        });
    }
    Ok(state)
}
