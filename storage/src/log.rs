//! One partition's log: append, truncate, delete, roll. The writer's side; readers have [`LogReader`].
//!
//! A log is a row of segments, each ending where the next begins; the last is appended to. Whoever has the [`Log`]
//! is its only writer (the partition, under its lock). No call here waits for a sync, but for those that say
//! so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use logweir_proto::record::{
    BatchHeader, HEADER_LEN, RecordBatch, TimestampType, set_base_offset, set_leader_epoch,
    set_log_append_time,
};
use logweir_proto::{LeaderEpoch, Offset, Timestamp};

use crate::checkpoint::LogState;
use crate::config::LogConfig;
use crate::error::{AppendError, ChangeError, ProducerError, ReadError};
use crate::flush::flush_log;
use crate::log_dir::{Job, LogDir, LogId, OpenSlot};
use crate::producers::{self, KnownProducer, ProducerCheck, Producers};
use crate::segment::{ActiveSegment, Placement, Segment, WriteError};

mod compaction;
mod files;
mod reader;
mod recovery;
mod retention;
mod shared;
mod snapshot;
#[cfg(test)]
mod tests;
mod truncation;

pub(crate) use compaction::CompactionPoint;
pub use compaction::{Compaction, CompactionStats, CompactionStep, Replacement};
pub(crate) use files::{FileName, LogFiles, remove_if_there};
pub use reader::LogReader;
pub(crate) use recovery::open;
pub use retention::Trim;
pub(crate) use shared::LogShared;
use shared::Segments;
pub(crate) use snapshot::decode as decode_snapshot;
pub use snapshot::{MAX_STATE_BYTES, StateSnapshot};

/// At the latest when so much was appended, the producers' state is written, so that recovery need not find it
/// from much more.
const SNAPSHOT_BYTES: u64 = 16 << 20;

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset of its last record.
    pub last_offset: Offset,
    /// The time it was stamped with; [`Timestamp::NONE`] if the topic keeps the producer's times.
    pub log_append_time: Timestamp,
}

/// The writer of one log. Dropping it without [`Log::close`] is what a crash of the process is.
#[derive(Debug)]
pub struct Log {
    shared: Arc<LogShared>,
    dir: Arc<LogDir>,
    config: LogConfig,
    /// The newest segment, unless nothing was appended since the log was opened or parked.
    active: Option<ActiveSegment>,
    /// Counts the log among those with open files, from its first append on until it is parked.
    slot: Option<OpenSlot>,
    /// A roll has begun: the file of the next segment, with this base offset, may be there, so the last one gets no
    /// more.
    rolling_to: Option<Offset>,
    last_epoch: LeaderEpoch,
    producers: Producers,
    /// Where the newest snapshot of the producers was taken.
    snapshot_at: Offset,
    /// Bytes appended since that.
    unsnapped_bytes: u64,
    /// Appended since the last flush was asked for.
    unflushed_records: u64,
    last_append: Timestamp,
    /// A batch that is stamped with its append time is put together here.
    stamped: Vec<u8>,
}

impl Log {
    /// Names the log.
    #[must_use]
    pub fn id(&self) -> &LogId {
        &self.shared.id
    }

    /// A reader of this log.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// The first offset that may be read.
    #[must_use]
    pub fn log_start_offset(&self) -> Offset {
        self.shared.offsets.log_start()
    }

    /// The offset the next record will get.
    #[must_use]
    pub fn log_end_offset(&self) -> Offset {
        self.shared.offsets.log_end()
    }

    /// Everything below it (exclusive) survives a power cut.
    #[must_use]
    pub fn durable_end_offset(&self) -> Offset {
        self.shared.offsets.durable_end()
    }

    /// The producers that the log remembers, by id (KIP-664).
    #[must_use]
    pub fn known_producers(&self) -> Vec<KnownProducer> {
        self.producers.known()
    }

    /// The newest leader epoch in the log; [`LeaderEpoch::NONE`] if there is none.
    #[must_use]
    pub fn last_epoch(&self) -> LeaderEpoch {
        self.last_epoch
    }

    /// The log's settings.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Changes the log's settings; the segment being written keeps its size and age limits until the next append.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// Whether a batch of an idempotent producer is new; others always are. Nothing is changed, so that the caller
    /// may decide not to append.
    ///
    /// # Errors
    /// A batch before it is missing, or a newer instance of the producer has written (KIP-98).
    pub fn check_producer(
        &self,
        header: &BatchHeader,
        now: Timestamp,
    ) -> Result<ProducerCheck, ProducerError> {
        self.producers
            .check(header, now, self.config.producer_expiry)
    }

    /// Appends a producer's batch, which the caller has validated: gives it the next offsets, `epoch` and, if the topic
    /// asks for it, `now` as its time. Copied once, into the page cache; a flush is asked for as the topic's policy says.
    ///
    /// # Errors
    /// As [`AppendError`] says; the log is as it was.
    pub fn append(
        &mut self,
        batch: &RecordBatch,
        epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let (size_bytes, limit_bytes) =
            (batch.bytes().len() as u64, self.config.max_segment_bytes());
        if size_bytes > limit_bytes {
            return Err(AppendError::TooLarge {
                size_bytes,
                limit_bytes,
            });
        }
        let base_offset = self.log_end_offset();
        if epoch < self.last_epoch {
            return Err(self.out_of_order(base_offset, epoch));
        }
        match self.config.timestamp_type {
            TimestampType::CreateTime => {
                let (head, body) = batch.bytes().split_at(HEADER_LEN);
                let mut patched = [0; HEADER_LEN];
                patched.copy_from_slice(head);
                set_base_offset(&mut patched, base_offset);
                set_leader_epoch(&mut patched, epoch);
                let header = BatchHeader {
                    base_offset,
                    leader_epoch: epoch,
                    ..*batch.header()
                };
                self.write(&header, [&patched, body], now)?;
                Ok(appended(&header, Timestamp::NONE))
            }
            TimestampType::LogAppendTime => {
                let mut stamped = std::mem::take(&mut self.stamped);
                stamped.clear();
                stamped.extend_from_slice(batch.bytes());
                set_base_offset(&mut stamped, base_offset);
                set_leader_epoch(&mut stamped, epoch);
                set_log_append_time(&mut stamped, now);
                let header = BatchHeader::read(&stamped).expect("the batch was valid before");
                let outcome = self.write(&header, [&stamped[..], &[]], now);
                self.stamped = stamped;
                outcome.map(|()| appended(&header, now))
            }
        }
    }

    /// Appends a leader's batch as it is, with its offset and epoch. Offsets may leave a gap (compaction; the first waits for
    /// the device); a batch larger than a segment gets one of its own.
    ///
    /// # Errors
    /// [`AppendError::OutOfOrder`] if it lies below the log's end, or more than `i32::MAX` above it, or if its epoch
    /// lies below the log's last; and as
    /// [`AppendError`] says; the log is as it was.
    pub fn append_replica(
        &mut self,
        batch: &RecordBatch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let header = *batch.header();
        let gap = header.base_offset.since(self.log_end_offset());
        if !(0..=i64::from(i32::MAX)).contains(&gap) || header.leader_epoch < self.last_epoch {
            return Err(self.out_of_order(header.base_offset, header.leader_epoch));
        }
        if header.base_offset > self.log_end_offset() {
            self.allow_gaps()?;
        }
        let (head, body) = batch.bytes().split_at(HEADER_LEN);
        self.write(&header, [head, body], now)?;
        Ok(appended(&header, Timestamp::NONE))
    }

    /// Notes that offsets may be missing, before the first ones are. Waits for the device, once in a log's life.
    fn allow_gaps(&mut self) -> Result<(), AppendError> {
        self.check_writable()?;
        let noted = self.shared.write_state(|state| LogState {
            has_gaps: true,
            ..state
        });
        noted.map_err(|error| AppendError::from_io(&self.shared.files.state(), error))
    }

    fn out_of_order(&self, found: Offset, found_epoch: LeaderEpoch) -> AppendError {
        AppendError::OutOfOrder {
            expected: self.log_end_offset(),
            expected_epoch: self.last_epoch,
            found,
            found_epoch,
        }
    }

    fn write(
        &mut self,
        header: &BatchHeader,
        parts: [&[u8]; 2],
        now: Timestamp,
    ) -> Result<(), AppendError> {
        self.check_writable()?;
        self.make_room(header, now)?;
        let placement = match self.config.flush.per_ack {
            true => Placement::Written,
            false => Placement::Mapped,
        };
        let interval_bytes = self.config.index_interval_bytes;
        let active = self.active.as_mut().expect("make_room opened it");
        if let Err(error) = active.append(header, parts, placement, interval_bytes, now) {
            return Err(self.not_appended(error));
        }
        active.ask_keeper(&self.shared.context);
        self.note_epoch(header.leader_epoch, header.base_offset);
        self.producers.note(header, now);
        self.last_append = now;
        self.count(header);
        self.shared.offsets.set_log_end(header.next_offset());
        self.ask_for_flush();
        self.wait_if_behind();
        if self.unsnapped_bytes >= SNAPSHOT_BYTES {
            self.take_snapshot();
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Arc<LogShared> {
        &self.shared
    }

    fn check_writable(&self) -> Result<(), AppendError> {
        let context = &self.shared.context;
        self.shared
            .check_open()
            .map_err(|reason| AppendError::Offline { reason })?;
        if !context.reserve.allows_appends(context.disk.as_ref()) {
            return Err(AppendError::Full);
        }
        Ok(())
    }

    fn not_appended(&self, error: WriteError) -> AppendError {
        let path = self.shared.segments.load().last().path();
        match error {
            WriteError::NoRoom(error) => AppendError::from_io(&path, error),
            WriteError::Failed(source) => {
                let reason = format!("write to {} failed: {source}", path.display());
                self.shared.context.go_offline(reason);
                AppendError::Io { path, source }
            }
        }
    }

    fn note_epoch(&mut self, epoch: LeaderEpoch, start: Offset) {
        if epoch > self.last_epoch {
            self.last_epoch = epoch;
            self.shared.epochs.write().assign(epoch, start);
            self.shared.epochs_dirty.store(true, Ordering::Release);
        }
    }

    /// Notes that the leader of `epoch` begins to write here, before its first batch (KIP-101). An epoch
    /// that is not above the log's last is known already.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        self.note_epoch(epoch, self.log_end_offset());
    }

    /// Counts what was appended, before a flush can cover it: bytes that were flushed before they were counted would
    /// count for ever.
    fn count(&mut self, header: &BatchHeader) {
        let context = &self.shared.context;
        let size_bytes = header.size_bytes as u64;
        // The sum over all logs first: it is never less than a flush takes from it.
        context
            .writeback
            .appended(size_bytes, context.config.max_unflushed_bytes);
        self.shared.flush.add_bytes(size_bytes);
        self.unsnapped_bytes += size_bytes;
        self.unflushed_records += u64::try_from(header.record_count).unwrap_or(0);
    }

    fn ask_for_flush(&mut self) {
        let context = &self.shared.context;
        let policy = self.config.flush;
        let enough = policy
            .records
            .is_some_and(|records| self.unflushed_records >= records);
        if policy.per_ack || enough {
            self.unflushed_records = 0;
            let here = context.config.flush_in_append && !context.disk.may_wait();
            if here && flush_log(context, &self.shared).is_ok() {
                return;
            }
            // A failure has taken the directory offline, which that thread tells everybody.
            context.group_commit.request(&self.shared);
        } else if let Some(interval) = policy.interval {
            context.group_commit.request_after(&self.shared, interval);
        }
    }

    /// Flushes here if the background does not keep up with what may be unflushed. Failures take the directory
    /// offline, or are met again by the background.
    fn wait_if_behind(&self) {
        let context = &self.shared.context;
        let max_unflushed = context.config.max_unflushed_bytes;
        if context.writeback.is_full(max_unflushed) && flush_log(context, &self.shared).is_ok() {
            context.group_commit.request(&self.shared);
        }
        if context.writeback.is_behind(max_unflushed) {
            let _ = context.writeback.checkpoint(context);
        }
    }

    /// Asks the group-commit thread to make all that was appended durable.
    pub fn request_flush(&self) {
        self.shared.context.group_commit.request(&self.shared);
    }

    /// Makes all that was appended durable. Waits for the device.
    ///
    /// # Errors
    /// [`ChangeError::Offline`] if the data directory is or thereby goes offline.
    pub fn flush(&mut self) -> Result<(), ChangeError> {
        self.unflushed_records = 0;
        if self.durable_end_offset() == self.log_end_offset() {
            return Ok(());
        }
        match flush_log(&self.shared.context, &self.shared) {
            // The callback is the group-commit thread's to call.
            Ok(_) => {
                self.request_flush();
                Ok(())
            }
            Err(reason) => Err(ChangeError::Offline { reason }),
        }
    }

    /// Makes sure that the batch fits in the active segment.
    fn make_room(&mut self, header: &BatchHeader, now: Timestamp) -> Result<(), AppendError> {
        let size_bytes = header.size_bytes as u64;
        if self.active.is_none() && self.rolling_to.is_none() {
            self.activate(size_bytes).map_err(AppendError::from_read)?;
        }
        let segment_bytes = self.config.max_segment_bytes();
        let fits = self
            .active
            .as_ref()
            .is_some_and(|active| active.fits(size_bytes, header.next_offset(), segment_bytes));
        if fits && self.rolling_to.is_none() && !self.is_old(now) {
            return Ok(());
        }
        self.roll(size_bytes).map_err(AppendError::from_read)
    }

    /// Whether the active segment has had its time.
    fn is_old(&self, now: Timestamp) -> bool {
        let Some(active) = &self.active else {
            return false;
        };
        !active.is_empty() && passed(active.first_append(), self.config.max_segment_age(), now)
    }

    /// Opens the last segment for appends.
    fn activate(&mut self, size_bytes: u64) -> Result<(), ReadError> {
        self.slot
            .get_or_insert_with(|| self.shared.context.budget.open_slot());
        let segment = Arc::clone(self.shared.segments.load().last());
        let active = self.open_active(segment, size_bytes)?;
        self.active = Some(active);
        Ok(())
    }

    fn open_active(
        &self,
        segment: Arc<Segment>,
        size_bytes: u64,
    ) -> Result<ActiveSegment, ReadError> {
        let context = &self.shared.context;
        let end = self.log_end_offset();
        let base = segment.base();
        let capacity = self.config.max_segment_bytes().max(size_bytes);
        let active = ActiveSegment::open(
            context.disk.as_ref(),
            segment,
            end,
            capacity,
            context.reserves_blocks,
        )?;
        self.shared.flush.add_file(base, Arc::clone(active.file()));
        if base == end {
            self.shared
                .flush
                .add_dir(self.shared.files.dir().to_path_buf());
        }
        Ok(active)
    }

    /// Begins a new segment at the log's end, with room for a batch of `size_bytes`. If the last one is empty it is
    /// only opened anew.
    fn roll(&mut self, size_bytes: u64) -> Result<(), ReadError> {
        let end = self.log_end_offset();
        let segments = self.shared.segments.load_full();
        let last = segments.last();
        if last.base() == end {
            self.active = None;
            last.close();
            self.rolling_to = None;
            return self.activate(size_bytes);
        }
        // From here on the new file may be there, and all at or above its base counts as cut from the last one.
        self.rolling_to = Some(end);
        let segment = Segment::new(end, self.shared.files.clone(), 0);
        let next = self.open_active(Arc::clone(&segment), size_bytes)?;
        self.rolling_to = None;
        let mut list = Segments::clone(&segments);
        list.0.push(segment);
        self.shared.segments.store(Arc::new(list));
        if let Some(before) = self.active.replace(next) {
            self.seal(before);
        }
        self.take_snapshot();
        Ok(())
    }

    fn seal(&self, mut active: ActiveSegment) {
        let context = &self.shared.context;
        if let Err(error) = active.seal() {
            tracing::warn!(log = %self.shared.id, %error, "unused blocks are not given back");
        }
        context.budget.opened(active.segment());
        let job = Job::PersistIndex(Arc::clone(active.open_segment()), self.shared.files.clone());
        context.submit(job);
    }

    /// Writes the state of the producers at the log's end. It may be lost: an older one and the log give
    /// the same.
    fn take_snapshot(&mut self) {
        let end = self.log_end_offset();
        self.unsnapped_bytes = 0;
        if self.snapshot_at == end {
            return;
        }
        let bytes = producers::encode(&self.producers, end);
        let path = self.shared.files.producers(end);
        let disk = self.shared.context.disk.as_ref();
        match write_plain(disk, &path, &bytes) {
            Ok(()) => self.forget_snapshot(end),
            Err(error) => tracing::warn!(log = %self.shared.id, %error, "no producer snapshot"),
        }
    }

    /// Removes the snapshot before, unless it is the one a segment begins with.
    fn forget_snapshot(&mut self, newest: Offset) {
        let before = std::mem::replace(&mut self.snapshot_at, newest);
        let segments = self.shared.segments.load();
        let begins = segments
            .find(before)
            .is_some_and(|at| segments.0[at].base() == before);
        if !begins {
            let path = self.shared.files.producers(before);
            self.shared.context.submit(Job::Unlink(path));
        }
    }

    /// Closes the segment that is appended to if it has had its time, forgets producers that have had theirs, and lets
    /// go of the files of a log that is idle. To be called now and then.
    ///
    /// # Errors
    /// Device errors; the log is as it was.
    pub fn roll_if_due(&mut self, now: Timestamp) -> Result<(), ChangeError> {
        self.producers.expire(now, self.config.producer_expiry);
        if self.is_old(now) {
            self.roll(0)?;
        }
        self.park_if_idle(now)
    }

    /// Makes all durable, writes the producer snapshot and the index, and gives back unused blocks, so that the next start
    /// need not look at the log. Waits for the device. Nothing can be changed afterwards.
    ///
    /// # Errors
    /// Device errors; the log will be recovered at the next start.
    pub fn close(&mut self) -> Result<(), ChangeError> {
        self.check_open()?;
        self.shared.settle()?;
        self.flush()?;
        self.take_snapshot();
        self.park()?;
        self.shared
            .save_epochs()
            .map_err(ChangeError::io(self.shared.files.dir()))?;
        self.shared.closed.store(true, Ordering::Release);
        self.dir.log_closed(&self.shared);
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.dir.log_dropped(&self.shared);
    }
}

/// Whether `age` lies between `since` and `now`; never if `since` is not known.
fn passed(since: Timestamp, age: std::time::Duration, now: Timestamp) -> bool {
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    since != Timestamp::NONE && now.get().saturating_sub(since.get()) >= age_ms
}

fn appended(header: &BatchHeader, log_append_time: Timestamp) -> Appended {
    Appended {
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        log_append_time,
    }
}

/// Writes a file that may be lost or torn.
fn write_plain(
    disk: &dyn crate::disk::Disk,
    path: &std::path::Path,
    bytes: &[u8],
) -> io::Result<()> {
    remove_if_there(disk, path)?;
    disk.open(path, crate::disk::OpenMode::Create)?
        .write_at(bytes, 0)
}
