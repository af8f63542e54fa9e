//! The producers' state at the end of a log: a snapshot, and the headers of the batches after it.

use std::io;

use logweir_proto::{Offset, Timestamp};

use crate::checked_file;
use crate::disk::Disk;
use crate::error::ReadError;
use crate::log::shared::LogShared;
use crate::log::{FileName, LogFiles, remove_if_there};
use crate::producers::{self, Producers};

/// Offsets of the snapshots in a directory, ascending.
fn snapshots(disk: &dyn Disk, files: &LogFiles) -> io::Result<Vec<Offset>> {
    let names = disk.list(files.dir())?.into_iter();
    let offsets = names.filter_map(|entry| match FileName::parse(&entry.name) {
        FileName::Producers(offset) => Some(offset),
        _ => None,
    });
    Ok(offsets.collect())
}

/// Removes producer snapshots that speak of offsets beyond `end`, and gives whether there were any. Not durable
/// before the directory is synced.
pub(in crate::log) fn remove_snapshots_above(
    disk: &dyn Disk,
    files: &LogFiles,
    end: Offset,
) -> io::Result<bool> {
    let above = snapshots(disk, files)?
        .into_iter()
        .filter(|&offset| offset > end);
    let mut any = false;
    for offset in above {
        remove_if_there(disk, &files.producers(offset))?;
        any = true;
    }
    Ok(any)
}

/// The producers of a log, and where the snapshot was taken that they were found with.
pub(in crate::log) struct Replayed {
    pub(in crate::log) producers: Producers,
    pub(in crate::log) snapshot_at: Offset,
}

/// Finds the state of the producers at the log's end: from the newest snapshot that can be read, and the headers of the
/// batches after it. What lies below the log start counts as well, as long as it is there; a snapshot that the batches
/// do not reach back to tells of producers that may have gone on since, so it does not count.
pub(in crate::log) fn replay_producers(shared: &LogShared) -> Result<Replayed, ReadError> {
    let disk = shared.context.disk.as_ref();
    let files = &shared.files;
    let log_end = shared.offsets.log_end();
    let segments = shared.segments.load_full();
    let first = segments.0[0].base();
    let listed = snapshots(disk, files).map_err(ReadError::io(files.dir()))?;
    let mut producers = Producers::default();
    let mut snapshot_at = first;
    for &offset in listed
        .iter()
        .rev()
        .filter(|&&offset| offset >= first && offset <= log_end)
    {
        let path = files.producers(offset);
        let bytes = checked_file::read_whole(disk, &path).map_err(ReadError::io(&path))?;
        if let Ok((at, found)) = producers::decode(&bytes.unwrap_or_default())
            && at == offset
        {
            producers = found;
            snapshot_at = offset;
            break;
        }
    }
    let from = snapshot_at;
    for at in segments.find(from).unwrap_or(0)..segments.0.len() {
        let end = segments.end_of(at, log_end);
        if from < end {
            segments.0[at].replay(disk, from, end, |header| {
                producers.note(header, Timestamp::NONE);
            })?;
        }
    }
    Ok(Replayed {
        producers,
        snapshot_at,
    })
}
