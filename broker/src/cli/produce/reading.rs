//! The thread that reads the input, so that a terminal that says nothing blocks nobody.

use std::io::{BufReader, Read};

use tokio::sync::mpsc;

use crate::input::{Format, Input, InputError, InputRecord, Limit};

/// Records handed over at once, and how many such hands may wait: bounds of what is read ahead.
const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: u64 = 256 << 10;
const CHUNKS_AHEAD: usize = 8;
const BUFFER_BYTES: usize = 256 << 10;

/// Some records, in input order.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) records: Vec<Result<InputRecord, InputError>>,
    /// About how much input they took.
    pub(super) bytes: u64,
}

/// Starts to read. The channel ends after the last record, or after an [`InputError::Stop`].
pub(super) fn start(
    reader: Box<dyn Read + Send>,
    format: Format,
    limit: Limit,
) -> std::io::Result<mpsc::Receiver<Chunk>> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
    // A thread of its own and not the runtime's: nothing can interrupt a read, and the program must be able to end.
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
            read(reader, &format, limit, &chunks);
        })?;
    Ok(receiver)
}

fn read(
    reader: BufReader<Box<dyn Read + Send>>,
    format: &Format,
    limit: Limit,
    chunks: &mpsc::Sender<Chunk>,
) {
    let mut chunk = Chunk::default();
    let mut input = match Input::new(reader, format, limit) {
        Ok(input) => input,
        Err(error) => {
            chunk.records.push(Err(error));
            let _ = chunks.blocking_send(chunk);
            return;
        }
    };
    while let Some(record) = input.next_record() {
        let stop = matches!(record, Err(InputError::Stop { .. }));
        chunk.bytes += record.as_ref().map_or(0, InputRecord::input_bytes);
        chunk.records.push(record);
        let full = chunk.records.len() >= CHUNK_RECORDS || chunk.bytes >= CHUNK_BYTES;
        // What is typed shall be sent now, not when there is more of it.
        if (full || stop || !input.has_buffered_line())
            && chunks.blocking_send(std::mem::take(&mut chunk)).is_err()
        {
            return;
        }
        if stop {
            return;
        }
    }
    if !chunk.records.is_empty() {
        let _ = chunks.blocking_send(chunk);
    }
}
