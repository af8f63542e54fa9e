//! Compaction against a map: whatever happens, a reader finds the last value of each key, at the offset it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::compaction::{Found, compacted, keyed, records};
use super::*;
use crate::disk::PowerCut;
use crate::log::CompactionStep;
use crate::producers::ProducerCheck;
use logweir_proto::record::{set_base_offset, set_leader_epoch, set_producer};
use logweir_proto::{ProducerEpoch, ProducerId, Sequence};

const RETENTION_MS: i64 = 1_000;

/// Something that happens to a log. Fractions are of 256, of the log's range.
#[derive(Clone, Debug)]
enum Step {
    /// Keys, each with or without a value.
    Append {
        records: Vec<(u8, bool)>,
        codec: usize,
        size: usize,
    },
    AppendIdempotent {
        key: u8,
    },
    AppendReplica {
        gap: i64,
        records: Vec<(u8, bool)>,
    },
    Roll,
    /// All of it, or as many replacements as it says; of which the last may be left unsettled.
    Compact {
        bound: u8,
        buffer_bytes: usize,
        replacements: usize,
        leave: bool,
    },
    Wait {
        millis: i64,
    },
    Truncate {
        at: u8,
    },
    DeleteRecords {
        at: u8,
    },
    NextEpoch,
    Flush,
    Checkpoint,
    Crash,
    PowerCut {
        seed: u64,
    },
    Reopen,
    Configure {
        segment_bytes: u64,
        stamped: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pairs = || proptest::collection::vec((0_u8..12, prop::bool::weighted(0.8)), 1..5);
    prop_oneof![
        14 => (pairs(), 0_usize..5, 0_usize..120)
            .prop_map(|(records, codec, size)| Step::Append { records, codec, size }),
        4 => (0_u8..12).prop_map(|key| Step::AppendIdempotent { key }),
        1 => (0_i64..5, pairs()).prop_map(|(gap, records)| Step::AppendReplica { gap, records }),
        4 => Just(Step::Roll),
        6 => (any::<u8>(), 0_usize..5, 0_usize..12, any::<bool>()).prop_map(
            |(bound, buffer, replacements, leave)| Step::Compact {
                bound: if bound < 128 { 255 } else { bound },
                buffer_bytes: [0, 0, 8_300, 8_400, 1 << 20][buffer],
                replacements,
                leave,
            }
        ),
        3 => (0_i64..RETENTION_MS * 2).prop_map(|millis| Step::Wait { millis }),
        1 => any::<u8>().prop_map(|at| Step::Truncate { at }),
        1 => any::<u8>().prop_map(|at| Step::DeleteRecords { at }),
        1 => Just(Step::NextEpoch),
        2 => Just(Step::Flush),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Crash),
        3 => any::<u64>().prop_map(|seed| Step::PowerCut { seed }),
        1 => Just(Step::Reopen),
        // The largest batch above, of four records, is a few bytes more than 600.
        1 => (800_u64..3000, any::<bool>())
            .prop_map(|(segment_bytes, stamped)| Step::Configure { segment_bytes, stamped }),
    ]
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq)]
struct Appended {
    time: i64,
    key: String,
    value: Option<String>,
    epoch: i32,
}

struct Model {
    disk: SimDisk,
    dir: Arc<LogDir>,
    log: Option<Log>,
    config: LogConfig,
    buffer_bytes: usize,
    /// By offset.
    appended: BTreeMap<i64, Appended>,
    /// Offsets that a reader found and then no more: they must not come back while the process lives.
    gone: BTreeSet<i64>,
    /// The last batch of the idempotent producer, and its base offset.
    sent: Vec<(RecordBatch, i64)>,
    start: i64,
    end: i64,
    /// Below it the log may have been compacted; above it nothing may be missing.
    bound: i64,
    epoch: i32,
    now: i64,
    written: usize,
}

fn open_dir(disk: &SimDisk, buffer_bytes: usize) -> Arc<LogDir> {
    let config = LogDirConfig {
        threads: false,
        compaction_buffer_bytes: buffer_bytes,
        ..LogDirConfig::default()
    };
    LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap()
}

impl Model {
    fn new(buffer_bytes: usize) -> Self {
        let disk = SimDisk::new(64 << 20);
        let dir = open_dir(&disk, buffer_bytes);
        let config = LogConfig {
            segment_bytes: 1200,
            index_interval_bytes: 200,
            delete_retention: Duration::from_millis(RETENTION_MS.unsigned_abs()),
            ..compacted()
        };
        let log = Some(open_log(&dir, &config));
        Self {
            disk,
            dir,
            log,
            config,
            buffer_bytes,
            appended: BTreeMap::new(),
            gone: BTreeSet::new(),
            sent: Vec::new(),
            start: 0,
            end: 0,
            bound: 0,
            epoch: 1,
            now: 1_000_000,
            written: 0,
        }
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn at(&self, fraction: u8) -> i64 {
        self.start + (self.end - self.start) * i64::from(fraction) / 255
    }

    fn batch(
        &mut self,
        records: &[(u8, bool)],
        codec: usize,
        size: usize,
    ) -> (RecordBatch, Vec<Appended>) {
        let mut told = Vec::new();
        for &(key, has_value) in records {
            self.written += 1;
            let value = format!("{}:{}", self.written, "x".repeat(size));
            told.push(Appended {
                time: self.now,
                key: format!("key {key}"),
                value: has_value.then_some(value),
                epoch: self.epoch,
            });
        }
        let pairs: Vec<_> = told
            .iter()
            .map(|r| (r.key.as_str(), r.value.as_deref()))
            .collect();
        (keyed(Compression::ALL[codec], &pairs, self.now), told)
    }

    fn append(&mut self, batch: &RecordBatch, told: Vec<Appended>) -> i64 {
        let (epoch, now) = (LeaderEpoch::new(self.epoch), Timestamp::new(self.now));
        let done = self.log().append(batch, epoch, now).unwrap();
        self.note(done.base_offset.get(), told);
        self.now += 10;
        done.base_offset.get()
    }

    fn note(&mut self, base: i64, told: Vec<Appended>) {
        for (at, record) in told.into_iter().enumerate() {
            self.end = base + i64::try_from(at).unwrap();
            self.appended.insert(self.end, record);
            self.end += 1;
        }
    }

    fn append_idempotent(&mut self, key: u8) {
        let (plain, told) = self.batch(&[(key, true)], 0, 10);
        let next = self
            .sent
            .last()
            .map(|(batch, _)| batch.header().last_sequence().plus(1));
        let mut bytes = plain.bytes().to_vec();
        let (id, epoch) = (ProducerId::new(7), ProducerEpoch::new(0));
        set_producer(&mut bytes, id, epoch, next.unwrap_or(Sequence::new(0)));
        let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
        let now = Timestamp::new(self.now);
        let check = self.log().check_producer(batch.header(), now);
        assert_eq!(check, Ok(ProducerCheck::New));
        let base_offset = self.append(&batch, told);
        self.sent.push((batch, base_offset));
    }

    fn append_replica(&mut self, gap: i64, records: &[(u8, bool)]) {
        let (plain, told) = self.batch(records, 0, 10);
        let base = self.end + gap;
        let mut bytes = plain.bytes().to_vec();
        set_base_offset(&mut bytes, Offset::new(base));
        set_leader_epoch(&mut bytes, LeaderEpoch::new(self.epoch));
        let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
        let now = Timestamp::new(self.now);
        self.log().append_replica(&batch, now).unwrap();
        self.note(base, told);
    }

    fn step(&mut self, step: &Step) {
        match step.clone() {
            Step::Append {
                records,
                codec,
                size,
            } => {
                let (batch, told) = self.batch(&records, codec, size);
                self.append(&batch, told);
            }
            Step::AppendIdempotent { key } => self.append_idempotent(key),
            Step::AppendReplica { gap, records } => self.append_replica(gap, &records),
            Step::Roll => self.log().roll(0).unwrap(),
            Step::Compact {
                bound,
                buffer_bytes,
                replacements,
                leave,
            } => {
                self.buffer_bytes = buffer_bytes;
                self.compact(bound, replacements, leave);
            }
            Step::Wait { millis } => self.now += millis,
            Step::Truncate { at } => self.truncate(at),
            Step::DeleteRecords { at } => {
                let at = self.at(at);
                self.log().delete_records_before(Offset::new(at)).unwrap();
                self.start = at;
            }
            Step::NextEpoch => self.epoch += 1,
            Step::Flush => self.log().flush().unwrap(),
            Step::Checkpoint => {
                self.log().flush().unwrap();
                self.dir.drive(true);
            }
            Step::Crash => self.crash(0, PowerCut::KeepAll),
            Step::PowerCut { seed } => self.crash(seed, PowerCut::LoseUnsynced),
            Step::Reopen => {
                self.log().close().unwrap();
                self.log = None;
                self.dir.close().unwrap();
                self.dir = open_dir(&self.disk, self.buffer_bytes);
                self.log = Some(open_log(&self.dir, &self.config));
            }
            Step::Configure {
                segment_bytes,
                stamped,
            } => {
                self.config.segment_bytes = segment_bytes;
                self.config.timestamp_type = match stamped {
                    true => logweir_proto::record::TimestampType::LogAppendTime,
                    false => logweir_proto::record::TimestampType::CreateTime,
                };
                let config = self.config.clone();
                self.log().set_config(config);
            }
        }
    }

    fn compact(&mut self, bound: u8, replacements: usize, leave: bool) {
        let (now, bound) = (Timestamp::new(self.now), Offset::new(self.at(bound)));
        let Some(mut compaction) = self.log().plan_compaction(now, bound).unwrap() else {
            return;
        };
        self.bound = self.bound.max(bound.get());
        for at in 0.. {
            let CompactionStep::Replace(replacement) = compaction.run(&mut |_| true).unwrap()
            else {
                break;
            };
            if at > 0 && at == replacements {
                // Committed, and given up.
                drop(replacement);
                break;
            }
            assert!(self.log().finish_compaction(&replacement).unwrap());
            if leave && at + 1 == replacements {
                break;
            }
            replacement.settle().unwrap();
        }
    }

    fn truncate(&mut self, at: u8) {
        // Not below what was compacted: that was replicated.
        let at = self.at(at).max(self.bound).min(self.end);
        if at <= self.start || at >= self.end {
            return;
        }
        let cut = self.log().truncate_to(Offset::new(at)).unwrap().get();
        assert!(cut <= at);
        self.cut(cut);
    }

    fn cut(&mut self, end: i64) {
        self.appended.retain(|&offset, _| offset < end);
        self.sent.retain(|(_, base_offset)| *base_offset < end);
        self.end = end;
        self.bound = self.bound.min(end);
    }

    fn crash(&mut self, seed: u64, cut: PowerCut) {
        let durable = self.log().durable_end_offset().get();
        let held = self
            .log()
            .reader()
            .read(Offset::new(self.start), 500, Offset::MAX)
            .unwrap();
        let before = held.bytes.to_vec();
        self.disk.power_cut(seed, cut);
        self.log = None;
        self.dir = open_dir(&self.disk, self.buffer_bytes);
        self.log = Some(open_log(&self.dir, &self.config));
        assert_eq!(held.bytes, before);
        let end = self.log().log_end_offset().get();
        assert!(
            end >= durable && end <= self.end,
            "{durable} {end} {}",
            self.end
        );
        if cut == PowerCut::KeepAll {
            assert_eq!(end, self.end);
        }
        let start = self.log().log_start_offset().get();
        assert_eq!(start, self.start);
        self.gone.clear();
        self.cut(end);
    }

    fn check(&mut self) {
        let reader = self.log().reader();
        let found = records(&reader, self.start);
        self.check_records(&found);
        self.check_counts(&reader, &found);
        self.check_times(&reader, &found);
        self.check_producer();
    }

    fn check_records(&mut self, found: &[Found]) {
        let offsets: BTreeSet<i64> = found.iter().map(|record| record.0).collect();
        for (offset, time, key, value) in found {
            let told = &self.appended[offset];
            assert_eq!((&told.key, &told.value), (key, value), "offset {offset}");
            assert_eq!(told.time, *time, "offset {offset}");
            assert!(!self.gone.contains(offset), "offset {offset} came back");
        }
        let mut last = BTreeMap::new();
        for (&offset, told) in self.appended.range(self.start..self.end) {
            last.insert(&told.key, offset);
            let missing = !offsets.contains(&offset);
            assert!(!missing || offset < self.bound, "offset {offset} is gone");
            if missing {
                self.gone.insert(offset);
            }
        }
        for (key, offset) in last {
            // Only a tombstone may be missing, and then nothing older is left.
            let is_there = offsets.contains(&offset);
            assert!(
                is_there || self.appended[&offset].value.is_none(),
                "{key} at {offset}"
            );
            let older = found
                .iter()
                .any(|record| record.2 == *key && record.0 < offset);
            assert!(is_there || !older, "{key} came back");
        }
    }

    fn check_counts(&self, reader: &LogReader, found: &[Found]) {
        for part in [0_u8, 60, 130, 200, 255] {
            let at = self.at(part);
            let below = found.iter().filter(|record| record.0 < at).count();
            let count = reader
                .records_between(Offset::new(self.start), Offset::new(at))
                .unwrap();
            assert_eq!(count, below as u64, "records below {at}");
        }
        for record in found {
            let epoch = reader.leader_epoch_of(Offset::new(record.0));
            assert_eq!(
                epoch.get(),
                self.appended[&record.0].epoch,
                "epoch of {}",
                record.0
            );
        }
    }

    fn check_times(&self, reader: &LogReader, found: &[Found]) {
        let max = found.iter().map(|record| record.1).max();
        let newest = found
            .iter()
            .find(|record| Some(record.1) == max)
            .map(|r| (r.0, r.1));
        let told = reader
            .max_timestamp(Offset::MAX)
            .unwrap()
            .map(|r| (r.0.get(), r.1.get()));
        assert_eq!(told, newest);
        for time in found
            .iter()
            .step_by(5)
            .map(|record| record.1)
            .chain([self.now])
        {
            let first = found.iter().find(|record| record.1 >= time).map(|r| r.0);
            let told = reader
                .offset_for_timestamp(Timestamp::new(time), Offset::MAX)
                .unwrap();
            assert_eq!(told.map(|r| r.0.get()), first, "first at or after {time}");
        }
    }

    /// The producer's last batch, sent again, is known.
    fn check_producer(&mut self) {
        let Some((batch, base_offset)) = self.sent.last().cloned() else {
            return;
        };
        if base_offset < self.start {
            return;
        }
        let now = Timestamp::new(self.now);
        let check = self.log().check_producer(batch.header(), now).unwrap();
        let ProducerCheck::Duplicate {
            base_offset: found, ..
        } = check
        else {
            panic!("the batch at {base_offset} is not known");
        };
        assert_eq!(found.get(), base_offset);
    }

    /// After all is said, one more compaction leaves one record of each key below its bound.
    fn check_the_end(&mut self) {
        self.log().roll(0).unwrap();
        let end = self.end;
        self.buffer_bytes = 0;
        for _ in 0..2 {
            self.compact(255, usize::MAX, false);
            self.check();
            self.now += RETENTION_MS;
        }
        self.bound = end;
        let found = records(&self.log().reader(), self.start);
        let keys: BTreeSet<&String> = found.iter().map(|record| &record.2).collect();
        assert_eq!(keys.len(), found.len(), "{found:?}");
        assert!(found.iter().all(|record| record.3.is_some()), "{found:?}");
    }
}

fn cases() -> u32 {
    if full() { 20_000 } else { 2_000 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_compacted_log_tells_what_a_map_tells(
        buffer in 0_usize..3,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut model = Model::new([0, 8_400, 1 << 20][buffer]);
        for step in &steps {
            model.step(step);
            model.check();
        }
        model.check_the_end();
    }
}
