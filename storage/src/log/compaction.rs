//! Keeping the last record of each key only (Kafka's `cleanup.policy=compact`), segment by segment.
//!
//! A compaction makes passes. Each maps the keys of what was not compacted yet, as far as memory goes, then goes over
//! the log from its beginning and writes anew what changes: every segment, or several small ones that follow each
//! other, becomes one new segment of the same range. Offsets, order, producers and leader epochs stay; the active
//! segment is never touched. What must hold:
//!
//! * Only what is durable, and lies below a written recovery point, is compacted: a recovery never has to find
//!   something out (an epoch's start, say) from records that compaction removed.
//! * The last batch of a new segment ends where the next begins, so it stays, if need be without records.
//! * A replacement is durable before the next one is written, in the order of the log: a tombstone never goes before
//!   what it deletes.
//! * Everything is read by `pread` and verified; damage and device errors end the compaction and change nothing.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use logweir_proto::{Offset, ProducerId, Timestamp};

use super::shared::{LogShared, Segments};
use super::{Log, remove_if_there};
use crate::checkpoint::LogState;
use crate::config::MAX_SEGMENT_BYTES;
use crate::error::ChangeError;
use crate::flush::flush_log;
use crate::segment::Segment;

mod filter;
mod group;
mod key_map;
mod output;
mod plan;
mod point;
mod replacement;
mod source;

use filter::Filter;
use group::Group;
use output::Output;
pub(crate) use point::CompactionPoint;
pub use replacement::Replacement;
pub(crate) use replacement::Unsettled;
pub(in crate::log) use replacement::put_in_place;
use source::Source;

/// After so much was read the caller is asked whether to go on.
const PACE_BYTES: u64 = 1 << 20;

/// What a compaction goes by.
#[derive(Debug)]
struct Plan {
    truncations: u32,
    now: Timestamp,
    log_start: Offset,
    /// Below it everything is compacted.
    dirty_from: Offset,
    /// Where to stop (exclusive): a segment begins there.
    end: Offset,
    delete_retention: Duration,
    segment_bytes: u64,
    interval_bytes: u32,
    /// Those that are known; each keeps its last batch.
    producers: HashSet<ProducerId>,
    dirty_bytes: u64,
    clean_bytes: u64,
}

/// A compaction that was decided; see [`Log::plan_compaction`]. Dropping it loses only what was not replaced yet.
pub struct Compaction {
    shared: Arc<LogShared>,
    plan: Plan,
    is_prepared: bool,
    pass: Option<Pass>,
    /// Whether the last replacement that was given was finished.
    given: Option<Arc<AtomicBool>>,
    stats: CompactionStats,
}

/// What [`Compaction::run`] has come to.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum CompactionStep {
    /// A segment is to take the place of others, by [`Log::finish_compaction`] and [`Replacement::settle`]; then `run`
    /// is to be called again.
    Replace(Replacement),
    /// All is done.
    Done,
    /// The caller stopped it, or the log was truncated or closed. What was replaced stays.
    Stopped,
}

/// What a compaction did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionStats {
    /// Times that the log was gone over.
    pub passes: u64,
    /// Different keys that were mapped, over all passes.
    pub keys: u64,
    /// Records that are gone.
    pub removed_records: u64,
    /// Bytes of batches read, over all passes.
    pub read_bytes: u64,
    /// Bytes of the segments that were replaced.
    pub replaced_bytes: u64,
    /// Bytes of the segments that took their place.
    pub written_bytes: u64,
}

/// One way over the log.
struct Pass {
    filter: Filter,
    /// The base offset of the segment that comes next.
    at: Offset,
}

/// Why a compaction does not go on.
enum Halt {
    Stopped,
    Failed(ChangeError),
}

impl<E: Into<ChangeError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Asks the caller now and then whether to go on.
struct Pace<'a> {
    go_on: &'a mut dyn FnMut(u64) -> bool,
    unpaid_bytes: u64,
    read_bytes: u64,
}

impl Pace<'_> {
    fn read(&mut self, bytes: u64) -> Result<(), Halt> {
        self.read_bytes += bytes;
        self.unpaid_bytes += bytes;
        if self.unpaid_bytes < PACE_BYTES {
            return Ok(());
        }
        match (self.go_on)(std::mem::take(&mut self.unpaid_bytes)) {
            true => Ok(()),
            false => Err(Halt::Stopped),
        }
    }
}

impl std::fmt::Debug for Compaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compaction")
            .field("log", &self.shared.id)
            .field("plan", &self.plan)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Compaction {
    fn new(shared: Arc<LogShared>, plan: Plan) -> Self {
        Self {
            shared,
            plan,
            is_prepared: false,
            pass: None,
            given: None,
            stats: CompactionStats::default(),
        }
    }

    /// The part of the log's bytes, from 0 to 1, that was not compacted before: who has several logs to compact begins
    /// with the highest.
    #[must_use]
    pub fn dirty_ratio(&self) -> f64 {
        let (dirty, all) = (
            self.plan.dirty_bytes,
            self.plan.dirty_bytes + self.plan.clean_bytes,
        );
        #[expect(clippy::cast_precision_loss, reason = "it is only compared")]
        let ratio = dirty as f64 / all.max(1) as f64;
        ratio
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> CompactionStats {
        self.stats
    }

    /// Works up to the next replacement or the end. Needs no lock of the log's owner: appends, reads, retention and
    /// truncation may go on. Takes long and waits for the device. `go_on` is told each time about 1 MiB was read, may
    /// wait to slow it down, and says whether to go on.
    ///
    /// Memory: the map of keys (`compaction_buffer_bytes` of the directory), and a few batches and buffers.
    ///
    /// # Errors
    /// Damage and device errors, among them a full disk (a new segment needs room before the old ones go). Nothing is
    /// changed but what was replaced before.
    pub fn run(
        &mut self,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<CompactionStep, ChangeError> {
        let mut pace = Pace {
            go_on,
            unpaid_bytes: 0,
            read_bytes: 0,
        };
        let outcome = self.advance(&mut pace);
        self.stats.read_bytes += pace.read_bytes;
        match outcome {
            Ok(Some(replacement)) => Ok(CompactionStep::Replace(replacement)),
            Ok(None) => Ok(CompactionStep::Done),
            Err(Halt::Stopped) => Ok(CompactionStep::Stopped),
            // The log was closed or deleted under it.
            Err(Halt::Failed(_)) if !self.is_valid() => Ok(CompactionStep::Stopped),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    fn advance(&mut self, pace: &mut Pace<'_>) -> Result<Option<Replacement>, Halt> {
        if self
            .given
            .take()
            .is_some_and(|done| !done.load(Ordering::Acquire))
        {
            // What it would have removed is still there, so that no tombstone after it may go.
            return Err(Halt::Stopped);
        }
        // What is read now is read by its name.
        self.shared.while_open(|| self.shared.settle())?;
        if !self.is_prepared {
            self.prepare()?;
            self.is_prepared = true;
        }
        loop {
            if !self.is_valid() {
                return Err(Halt::Stopped);
            }
            let mut pass = match self.pass.take() {
                Some(pass) => pass,
                None if self.stats.passes > 0 && self.plan.dirty_from >= self.plan.end => {
                    return Ok(None);
                }
                None => self.begin_pass(pace)?,
            };
            if let Some(replacement) = self.next_replacement(&mut pass, pace)? {
                self.pass = Some(pass);
                self.given = Some(replacement.finished());
                return Ok(Some(replacement));
            }
            self.end_pass(&pass)?;
        }
    }

    /// Whether what was planned still holds.
    fn is_valid(&self) -> bool {
        !self.shared.closed.load(Ordering::Acquire)
            && self.shared.state.lock().truncations == self.plan.truncations
    }

    /// Makes all that is to be compacted durable, and has the log's files say so.
    fn prepare(&self) -> Result<(), Halt> {
        let (shared, context) = (&self.shared, &self.shared.context);
        let dir = shared.files.dir();
        if shared.offsets.durable_end() < self.plan.end {
            let flushed = flush_log(context, shared);
            flushed.map_err(|reason| ChangeError::Offline { reason })?;
            // The callback is the group-commit thread's to call.
            context.group_commit.request(shared);
        }
        shared.while_open(|| {
            let noted = shared.write_state(|state| LogState {
                has_gaps: state.has_gaps || state.truncations == self.plan.truncations,
                ..state
            });
            noted.map_err(ChangeError::io(&shared.files.state()))
        })?;
        let reached = || {
            let point = context.writeback.point(shared.key());
            point.is_some_and(|point| {
                point.truncations == self.plan.truncations && point.offset >= self.plan.end
            })
        };
        if !reached() {
            let written = context.writeback.checkpoint(context);
            written.map_err(ChangeError::io(dir))?;
        }
        match reached() {
            true => Ok(()),
            false => Err(Halt::Stopped),
        }
    }

    /// Maps what is to be compacted, as far as there is room.
    fn begin_pass(&mut self, pace: &mut Pace<'_>) -> Result<Pass, Halt> {
        let plan = &self.plan;
        let retention_ms = i64::try_from(plan.delete_retention.as_millis()).unwrap_or(i64::MAX);
        let mut filter = Filter::new(
            self.shared.context.config.compaction_buffer_bytes,
            &plan.producers,
            plan.log_start,
            plan.now,
            Timestamp::new(plan.now.get().saturating_add(retention_ms)),
        );
        let mapped_end = self.map(&mut filter, pace)?;
        filter.mapped(mapped_end);
        self.stats.passes += 1;
        self.stats.keys += filter.mapped_keys() as u64;
        let at = self.shared.segments.load().0[0].base();
        Ok(Pass { filter, at })
    }

    fn map(&self, filter: &mut Filter, pace: &mut Pace<'_>) -> Result<Offset, Halt> {
        let plan = &self.plan;
        let disk = self.shared.context.disk.as_ref();
        let segments = self.shared.segments.load_full();
        let first = segments.find(plan.dirty_from).unwrap_or(0);
        for (segment, end) in below(&segments, first, plan.end) {
            let source = Source::open(disk, segment, end)?;
            let mut batches = source.batches();
            while let Some(found) = batches.next()? {
                pace.read(found.header().size_bytes as u64)?;
                if found.header().next_offset() <= plan.dirty_from {
                    continue;
                }
                if let Some(full) = filter.map(&found.batch, plan.dirty_from) {
                    return Ok(full);
                }
            }
        }
        Ok(plan.end)
    }

    /// Notes that all below the pass's end is compacted.
    fn end_pass(&mut self, pass: &Pass) -> Result<(), Halt> {
        let shared = &self.shared;
        let seen = pass.filter.seen();
        self.stats.removed_records += seen.removed_records;
        let point = CompactionPoint {
            truncations: self.plan.truncations,
            end: pass.filter.mapped_end(),
            newest_horizon: seen.newest_horizon,
        };
        let path = shared.files.compaction();
        shared.while_open(|| {
            let written = shared.context.replace_file(&path, &point.encode());
            written.map_err(ChangeError::io(&path))
        })?;
        *shared.compacted.lock() = point;
        self.plan.dirty_from = point.end;
        Ok(())
    }

    /// Goes on over the log to the next segment that changes; `None` where the pass ends.
    fn next_replacement(
        &mut self,
        pass: &mut Pass,
        pace: &mut Pace<'_>,
    ) -> Result<Option<Replacement>, Halt> {
        loop {
            let segments = self.shared.segments.load_full();
            // The beginning may have been removed in the meantime.
            let at = segments.find(pass.at).unwrap_or(0);
            let end = pass.filter.mapped_end().min(self.plan.end);
            if segments.0[at].base() < pass.at {
                return Err(Halt::Stopped);
            }
            let mut row = below(&segments, at, self.plan.end)
                .take_while(|(segment, _)| segment.base() < end)
                .peekable();
            if row.peek().is_none() {
                return Ok(None);
            }
            let written = self.write_group(&mut row, pass, pace);
            if written.is_err() {
                self.remove_temporary(segments.0[at].base());
            }
            if let Some(replacement) = written? {
                return Ok(Some(replacement));
            }
        }
    }

    /// Writes one segment for the first of `row`, and for those after it that fit in; `None` if that stays as it is.
    fn write_group<'a>(
        &mut self,
        row: &mut impl Iterator<Item = (&'a Arc<Segment>, Offset)>,
        pass: &mut Pass,
        pace: &mut Pace<'_>,
    ) -> Result<Option<Replacement>, Halt> {
        let shared = Arc::clone(&self.shared);
        let disk = Arc::clone(&shared.context.disk);
        let (segment, end) = row.next().expect("the caller has looked");
        let first = Source::open(disk.as_ref(), segment, end)?;
        let (base, path) = (first.base(), shared.files.compacting(first.base()));
        let original = Arc::clone(&first.file);
        let interval_bytes = self.plan.interval_bytes;
        let output = Output::new(disk, path.clone(), base, original, interval_bytes);
        let mut group = Group::new(output, end);
        pass.at = end;
        group.add(first, &mut pass.filter, pace, &path)?;
        if group.output.size_bytes() > MAX_SEGMENT_BYTES {
            // To pass over it would let old records outlive the tombstones that deleted them.
            let grown = "it grows beyond what a segment may be with its delete horizons";
            return Err(ChangeError::io(&path)(io::Error::other(grown)).into());
        }
        let is_changed = !group.output.is_as_the_original();
        self.add_more(&mut group, row, pass, pace, &path)?;
        pass.at = group.end;
        if group.sources.len() == 1 && !is_changed {
            self.remove_temporary(base);
            return Ok(None);
        }
        group.close(&path)?;
        self.replace(group, path).map(Some)
    }

    /// Adds the segments that follow, as long as they fit.
    fn add_more<'a>(
        &self,
        group: &mut Group,
        row: &mut impl Iterator<Item = (&'a Arc<Segment>, Offset)>,
        pass: &mut Pass,
        pace: &mut Pace<'_>,
        path: &Path,
    ) -> Result<(), Halt> {
        let limit = self.plan.segment_bytes;
        let disk = self.shared.context.disk.as_ref();
        for (segment, end) in row {
            let near = end.since(group.sources[0].base()) <= i64::from(i32::MAX);
            let size = group.output.size_bytes() + segment.size_bytes();
            let shrinks = end > self.plan.dirty_from;
            if !near || (size > limit && !shrinks) || group.output.size_bytes() >= limit {
                return Ok(());
            }
            let source = Source::open(disk, segment, end)?;
            let before = group.mark(&pass.filter, path)?;
            group.output.begin().map_err(ChangeError::io(path))?;
            group.add(source, &mut pass.filter, pace, path)?;
            if group.output.size_bytes() > limit {
                return group.rewind(before, &mut pass.filter, path);
            }
        }
        Ok(())
    }

    /// Syncs what was written and commits it.
    fn replace(&mut self, group: Group, path: PathBuf) -> Result<Replacement, Halt> {
        let (shared, context) = (&self.shared, &self.shared.context);
        let base = group.sources[0].base();
        let finished = group.output.finish().map_err(ChangeError::io(&path))?;
        let (file, index) = finished.expect("a group that changes has a file");
        let synced = context.synced(&path, file.sync());
        synced.map_err(ChangeError::io(&path))?;
        let segment = Segment::compacted(base, shared.files.clone(), file.as_ref(), index);
        let segment = segment.map_err(ChangeError::io(&path))?;
        let written_bytes = segment.size_bytes();
        let replacement = Replacement::write(
            shared,
            self.plan.truncations,
            group.sources,
            segment,
            (path, group.end),
        )?;
        self.stats.replaced_bytes += group.bytes;
        self.stats.written_bytes += written_bytes;
        Ok(replacement)
    }

    /// Removes what was written and is not needed; what stays is removed at the next start.
    fn remove_temporary(&self, base: Offset) {
        let path = self.shared.files.compacting(base);
        let disk = self.shared.context.disk.as_ref();
        let _ = self.shared.while_open(|| {
            let removed = remove_if_there(disk, &path);
            removed.map(drop).map_err(ChangeError::io(&path))
        });
    }
}

/// The closed segments from the one at `first` on that end at or below `end`, with where each ends.
fn below(
    segments: &Segments,
    first: usize,
    end: Offset,
) -> impl Iterator<Item = (&Arc<Segment>, Offset)> {
    segments.0[first..]
        .windows(2)
        .map(|two| (&two[0], two[1].base()))
        .take_while(move |(_, segment_end)| *segment_end <= end)
}

impl Log {
    /// The steps of [`Log::plan_compaction`] in one, up to the end. Gives what was done; `None` if it was not due. Takes
    /// long and waits for the device.
    ///
    /// # Errors
    /// Damage and device errors.
    pub fn enforce_compaction(
        &mut self,
        now: Timestamp,
        bound: Offset,
    ) -> Result<Option<CompactionStats>, ChangeError> {
        let Some(mut compaction) = self.plan_compaction(now, bound)? else {
            return Ok(None);
        };
        while let CompactionStep::Replace(replacement) = compaction.run(&mut |_| true)? {
            if !self.finish_compaction(&replacement)? {
                break;
            }
            replacement.settle()?;
        }
        Ok(Some(compaction.stats()))
    }
}
