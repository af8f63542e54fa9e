//! Appends to a log, beside a bare copy or `pwrite` of the same bytes.
//!
//! Small batches: bursts into a segment whose pages the directory's keeper has just made present, which is
//! how a busy partition finds them; the base copies into a warm buffer of the same size. Large batches: the
//! log and a bare file of the same file system take turns at fresh segments, blocks reserved before. Both find
//! memory that was in use a moment ago.

use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use logweir_benches::{ScratchLog, batch_of, scratch_folder, warm_memory};
use logweir_proto::record::RecordBatch;
use logweir_proto::{LeaderEpoch, Timestamp};
use logweir_storage::LogConfig;
use rustix::fs::{FallocateFlags, fallocate};

use crate::Effort;
use crate::figure::{Figure, Goal, number};

const NOW: Timestamp = Timestamp::new(1_700_000_000_000);
const EPOCH: LeaderEpoch = LeaderEpoch::new(0);
/// A quarter of what the keeper prefaults at a time, so that a burst never leaves present pages.
const BURST_BYTES: usize = 256 << 10;
const SEGMENT_BYTES: usize = 128 << 20;

pub(crate) fn measure(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mut figures = vec![small(effort)];
    for kib in [64, 256, 1_024] {
        figures.push(large(kib, effort)?);
    }
    Ok(figures)
}

fn small(effort: Effort) -> Figure {
    let batch = batch_of(1_024);
    let rounds = effort.choose(9, 1);
    let (mut logs, mut copies) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        logs.extend(append_bursts(&batch, effort));
        copies.extend(copy_bursts(&batch, effort));
    }
    let mean = logs.iter().sum::<f64>() / number(logs.len() as u64);
    let (ours, base) = (median(logs), median(copies));
    Figure {
        name: "append_1_kib".to_owned(),
        what: "append of a 1 KiB batch into a warm segment: lock, copy, index, publish".to_owned(),
        value: ours,
        unit: "ns",
        goal: Goal::AtMost(120.0),
        parts: vec![
            ("append, median of bursts", ours, "ns"),
            ("append, mean of bursts", mean, "ns"),
            ("bare copy of the same bytes into warm memory", base, "ns"),
        ],
    }
}

/// Nanoseconds per append of each burst, over one segment.
fn append_bursts(batch: &RecordBatch, effort: Effort) -> Vec<f64> {
    warm_memory(effort.choose(SEGMENT_BYTES, 1 << 20));
    let scratch = ScratchLog::new(LogConfig {
        segment_bytes: SEGMENT_BYTES as u64,
        ..LogConfig::default()
    });
    let per_burst = BURST_BYTES / batch.bytes().len();
    let mut times = Vec::new();
    let bursts = effort.choose(SEGMENT_BYTES / BURST_BYTES - 8, 24);
    for burst in 0..bursts {
        let began = Instant::now();
        for _ in 0..per_burst {
            let appended = scratch.log.lock().append(batch, EPOCH, NOW);
            appended.expect("there is room");
        }
        // The first 4 MiB make the writer known as busy.
        if burst >= 16 {
            times.push(nanos(began.elapsed()) / number(per_burst as u64));
        }
        scratch.keep();
    }
    times
}

/// Nanoseconds per bare copy of each burst, over as many bytes.
fn copy_bursts(batch: &RecordBatch, effort: Effort) -> Vec<f64> {
    let mut segment = vec![1_u8; effort.choose(SEGMENT_BYTES, 4 << 20)];
    let per_burst = BURST_BYTES / batch.bytes().len();
    let mut times = Vec::new();
    for burst in segment.chunks_exact_mut(per_burst * batch.bytes().len()) {
        let began = Instant::now();
        for place in burst.chunks_exact_mut(batch.bytes().len()) {
            place.copy_from_slice(batch.bytes());
        }
        times.push(nanos(began.elapsed()) / number(per_burst as u64));
    }
    std::hint::black_box(&segment);
    times
}

fn large(kib: usize, effort: Effort) -> anyhow::Result<Figure> {
    let batch = batch_of(kib << 10);
    let rounds = effort.choose(7, 1);
    let (mut logs, mut files) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        logs.push(append_segment(&batch, effort));
        files.push(write_file(&batch, effort)?);
    }
    let (ours, base) = (median(logs), median(files));
    Ok(Figure {
        name: format!("append_{kib}_kib"),
        what: format!("append of {kib} KiB batches, share of the rate of a bare pwrite"),
        value: ours / base,
        unit: "of base",
        goal: Goal::AtLeast(0.75),
        parts: vec![
            ("append, median of rounds", ours, "GB/s"),
            ("bare pwrite of the same bytes", base, "GB/s"),
        ],
    })
}

/// GB/s of appends over one segment.
fn append_segment(batch: &RecordBatch, effort: Effort) -> f64 {
    warm_memory(effort.choose(SEGMENT_BYTES, 1 << 20));
    let scratch = ScratchLog::new(LogConfig {
        segment_bytes: SEGMENT_BYTES as u64,
        ..LogConfig::default()
    });
    let mut spent = Duration::ZERO;
    let appends = effort.choose(SEGMENT_BYTES / batch.bytes().len() - 1, 4);
    for _ in 0..appends {
        let began = Instant::now();
        let appended = scratch.log.lock().append(batch, EPOCH, NOW);
        spent += began.elapsed();
        appended.expect("there is room");
        scratch.keep();
    }
    number((appends * batch.bytes().len()) as u64) / nanos(spent)
}

/// GB/s of `pwrite` into a file whose blocks are reserved.
fn write_file(batch: &RecordBatch, effort: Effort) -> anyhow::Result<f64> {
    warm_memory(effort.choose(SEGMENT_BYTES, 1 << 20));
    let folder = scratch_folder();
    let file = std::fs::File::create(folder.path().join("base"))?;
    let writes = effort.choose(SEGMENT_BYTES / batch.bytes().len() - 1, 4);
    let step = 8 << 20;
    let (mut reserved, mut spent) = (0, Duration::ZERO);
    for write in 0..writes {
        let at = (write * batch.bytes().len()) as u64;
        while reserved < at + batch.bytes().len() as u64 {
            fallocate(&file, FallocateFlags::empty(), reserved, step)?;
            reserved += step;
        }
        let began = Instant::now();
        file.write_all_at(batch.bytes(), at)?;
        spent += began.elapsed();
    }
    Ok(number((writes * batch.bytes().len()) as u64) / nanos(spent))
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
