//! The raft log and vote: in memory whole, and on disk as the history of its changes.
//!
//! The entries in memory are those since the last snapshot, so their number and bytes are bounded by
//! how often snapshots are made. The raft core alone changes it; readers share it under a lock that is
//! held for a few lines.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::grpc::internal::log_step::Kind;
use logweir_proto::grpc::internal::{LogFrame, LogStep};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, Entry, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader, StorageError,
    StorageIOError, Vote,
};
use parking_lot::Mutex;
use prost::Message;

use super::log_file::frame_pages;
use super::log_writer::{LogWriter, Written};
use super::raft::TypeConfig;
use super::raft_codec::{
    CodecError, check_proposal, entry_from_wire, entry_to_wire, log_id_from_wire, log_id_to_wire,
    vote_from_wire, vote_to_wire,
};

/// Encoded bytes of entries after which a frame of a rewritten file is full.
const REWRITE_FRAME_BYTES: usize = 1 << 20;

/// The log of one node. Clones are the same log.
#[derive(Clone)]
pub(super) struct RaftLog {
    state: Arc<Mutex<State>>,
    writer: LogWriter,
    /// The file is not rewritten below this size, in bytes.
    rewrite_bytes: u64,
}

/// What the file's steps come to.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) vote: Option<Vote<u64>>,
    pub(super) purged: Option<LogId<u64>>,
    pub(super) committed: Option<LogId<u64>>,
    /// Consecutive by index; the first follows `purged`, or is 0.
    entries: BTreeMap<u64, Entry<TypeConfig>>,
    /// Encoded bytes of `entries`.
    entry_bytes: usize,
    /// About how many bytes the file has.
    file_bytes: u64,
    /// `committed` has moved since it was last written.
    committed_is_news: bool,
}

impl State {
    /// Takes one frame of the file.
    ///
    /// # Errors
    /// What is wrong with it: a frame is written only if it fits the state before it.
    pub(super) fn replay(&mut self, body: Bytes) -> Result<(), CodecError> {
        self.file_bytes += frame_pages(body.len()) as u64;
        let frame = LogFrame::decode(body)?;
        for step in frame.steps {
            let unknown = CodecError::Newer("a step of an unknown kind");
            match step.kind.ok_or(unknown)? {
                Kind::Vote(vote) => self.vote = Some(vote_from_wire(&vote)),
                Kind::Append(entry) => {
                    let entry_bytes = entry.encoded_len();
                    let entry = entry_from_wire(&entry)?;
                    let expected = self.last_log_id().map_or(0, |last| last.index + 1);
                    if entry.log_id.index != expected {
                        let found = entry.log_id.index;
                        let reason = format!("entry {found} where {expected} belongs");
                        return Err(CodecError::Damaged(reason));
                    }
                    if let EntryPayload::Normal(proposed) = &entry.payload {
                        check_proposal(&proposed.0)?;
                    }
                    self.push(entry, entry_bytes);
                }
                Kind::TruncateFrom(index) => self.truncate(index),
                Kind::PurgedTo(id) => self.purge(log_id_from_wire(&id)),
                Kind::CommittedTo(id) => self.committed = Some(log_id_from_wire(&id)),
            }
        }
        Ok(())
    }

    pub(super) fn last_log_id(&self) -> Option<LogId<u64>> {
        self.entries
            .last_key_value()
            .map(|(_, entry)| entry.log_id)
            .or(self.purged)
    }

    fn push(&mut self, entry: Entry<TypeConfig>, entry_bytes: usize) {
        self.entry_bytes += entry_bytes;
        self.entries.insert(entry.log_id.index, entry);
    }

    fn truncate(&mut self, from: u64) {
        let removed = self.entries.split_off(&from);
        self.forget(removed.values());
    }

    fn purge(&mut self, to: LogId<u64>) {
        let kept = self.entries.split_off(&(to.index + 1));
        let removed = std::mem::replace(&mut self.entries, kept);
        self.forget(removed.values());
        self.purged = Some(to);
    }

    fn forget<'a>(&mut self, removed: impl Iterator<Item = &'a Entry<TypeConfig>>) {
        let bytes: usize = removed
            .map(|entry| entry_to_wire(entry).encoded_len())
            .sum();
        self.entry_bytes = self.entry_bytes.saturating_sub(bytes);
    }

    /// A frame of these steps, with the commit hint if there is news of it.
    fn frame(&mut self, mut steps: Vec<Kind>) -> Bytes {
        if std::mem::take(&mut self.committed_is_news)
            && let Some(committed) = &self.committed
        {
            steps.push(Kind::CommittedTo(log_id_to_wire(committed)));
        }
        let body = encode(steps);
        self.file_bytes += frame_pages(body.len()) as u64;
        body
    }

    /// Frames that come to this state.
    fn rewritten(&mut self) -> Vec<Bytes> {
        let mut frames = Vec::new();
        let mut steps = Vec::new();
        let mut step_bytes = 0;
        steps.extend(
            self.vote
                .as_ref()
                .map(|vote| Kind::Vote(vote_to_wire(vote))),
        );
        steps.extend(
            self.purged
                .as_ref()
                .map(|id| Kind::PurgedTo(log_id_to_wire(id))),
        );
        steps.extend(
            self.committed
                .as_ref()
                .map(|id| Kind::CommittedTo(log_id_to_wire(id))),
        );
        for entry in self.entries.values() {
            let entry = entry_to_wire(entry);
            step_bytes += entry.encoded_len();
            steps.push(Kind::Append(entry));
            if step_bytes >= REWRITE_FRAME_BYTES {
                frames.push(encode(std::mem::take(&mut steps)));
                step_bytes = 0;
            }
        }
        frames.push(encode(steps));
        self.committed_is_news = false;
        self.file_bytes = frames
            .iter()
            .map(|frame| frame_pages(frame.len()) as u64)
            .sum();
        frames
    }
}

fn encode(steps: Vec<Kind>) -> Bytes {
    let steps = steps
        .into_iter()
        .map(|kind| LogStep { kind: Some(kind) })
        .collect();
    LogFrame { steps }.encode_to_vec().into()
}

impl RaftLog {
    pub(super) fn new(state: State, writer: LogWriter, rewrite_bytes: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            writer,
            rewrite_bytes,
        }
    }

    /// Encoded bytes of the entries in memory.
    pub(super) fn entry_bytes(&self) -> usize {
        self.state.lock().entry_bytes
    }

    /// The last entry, or the last that was purged.
    pub(super) fn last_log_id(&self) -> Option<LogId<u64>> {
        self.state.lock().last_log_id()
    }

    /// The writer behind it.
    pub(super) fn writer(&self) -> &LogWriter {
        &self.writer
    }

    async fn write(&self, frame: Bytes) -> Result<(), AnyError> {
        self.writer
            .append_and_wait(frame)
            .await
            .map_err(|error| AnyError::new(&error))
    }
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        let state = self.state.lock();
        Ok(state
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        let state = self.state.lock();
        Ok(LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.last_log_id(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let frame = {
            let mut state = self.state.lock();
            state.vote = Some(*vote);
            state.frame(vec![Kind::Vote(vote_to_wire(vote))])
        };
        self.write(frame)
            .await
            .map_err(|error| StorageIOError::write_vote(error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.state.lock().vote)
    }

    /// Kept with the next write: a hint that lets a restarted follower serve before it hears a leader.
    async fn save_committed(
        &mut self,
        committed: Option<LogId<u64>>,
    ) -> Result<(), StorageError<u64>> {
        let mut state = self.state.lock();
        state.committed = committed;
        state.committed_is_news = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        Ok(self.state.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let frame = {
            let mut state = self.state.lock();
            let mut steps = Vec::new();
            for entry in entries {
                let message = entry_to_wire(&entry);
                state.push(entry, message.encoded_len());
                steps.push(Kind::Append(message));
            }
            state.frame(steps)
        };
        self.writer.append(
            frame,
            Box::new(move |outcome| callback.log_io_completed(outcome.map(drop))),
        );
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        let frame = {
            let mut state = self.state.lock();
            state.truncate(log_id.index);
            state.frame(vec![Kind::TruncateFrom(log_id.index)])
        };
        self.write(frame)
            .await
            .map_err(|error| StorageIOError::write_logs(error).into())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        let (frame, rewritten) = {
            let mut state = self.state.lock();
            state.purge(log_id);
            let live = state.entry_bytes as u64;
            let rewrite = state.file_bytes > self.rewrite_bytes.max(live.saturating_mul(2));
            let frame = state.frame(vec![Kind::PurgedTo(log_id_to_wire(&log_id))]);
            (frame, rewrite.then(|| state.rewritten()))
        };
        let rewritten = match rewritten {
            Some(frames) => self.writer.rewrite(frames).await,
            None => Ok(Written::NoRoom),
        };
        let written = match rewritten {
            Ok(Written::Durable) => Ok(()),
            Ok(Written::NoRoom) => self.writer.append_and_wait(frame).await,
            Err(error) => Err(error),
        };
        written.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }
}
