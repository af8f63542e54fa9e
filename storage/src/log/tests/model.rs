//! The log against a `Vec` of records: whatever happens, both tell the same.

use proptest::prelude::*;

use super::*;
use crate::disk::PowerCut;
use crate::producers::ProducerCheck;
use logweir_proto::{ProducerEpoch, ProducerId, Sequence};

/// Something that happens to a log. Fractions are of 256, of the log's range.
#[derive(Clone, Debug)]
enum Step {
    Append {
        records: usize,
        size: usize,
        time: i64,
    },
    AppendIdempotent {
        records: usize,
    },
    AppendReplica {
        gap: i64,
        records: usize,
    },
    NextEpoch,
    Truncate {
        at: u8,
    },
    Restart {
        at: u8,
    },
    DeleteRecords {
        at: u8,
    },
    Retention {
        high_watermark: u8,
        days: i64,
    },
    Roll,
    Park,
    Flush,
    Checkpoint,
    Crash,
    PowerCut {
        seed: u64,
    },
    Reopen,
    Configure {
        segment_bytes: u64,
        per_ack: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1usize..5, 0usize..300, -5i64..20)
            .prop_map(|(records, size, time)| Step::Append { records, size, time }),
        4 => (1usize..4).prop_map(|records| Step::AppendIdempotent { records }),
        2 => (0i64..7, 1usize..4).prop_map(|(gap, records)| Step::AppendReplica { gap, records }),
        1 => Just(Step::NextEpoch),
        2 => any::<u8>().prop_map(|at| Step::Truncate { at }),
        1 => any::<u8>().prop_map(|at| Step::Restart { at }),
        1 => any::<u8>().prop_map(|at| Step::DeleteRecords { at }),
        1 => (any::<u8>(), 0i64..5)
            .prop_map(|(high_watermark, days)| Step::Retention { high_watermark, days }),
        1 => Just(Step::Roll),
        1 => Just(Step::Park),
        3 => Just(Step::Flush),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Crash),
        2 => any::<u64>().prop_map(|seed| Step::PowerCut { seed }),
        1 => Just(Step::Reopen),
        1 => (600u64..3000, any::<bool>())
            .prop_map(|(segment_bytes, per_ack)| Step::Configure { segment_bytes, per_ack }),
    ]
}

/// A record as it should be.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    offset: i64,
    value: String,
    time: i64,
    epoch: i32,
}

/// A batch of the one idempotent producer.
#[derive(Clone, Debug)]
struct Sent {
    batch: RecordBatch,
    base_offset: i64,
    /// By the log's clock.
    sent_at: i64,
}

struct Model {
    disk: SimDisk,
    dir: Arc<LogDir>,
    log: Option<Log>,
    config: LogConfig,
    records: Vec<Expected>,
    sent: Vec<Sent>,
    start: i64,
    end: i64,
    epoch: i32,
    now: i64,
    written: usize,
}

fn open_dir(disk: &SimDisk) -> Arc<LogDir> {
    let config = LogDirConfig {
        threads: false,
        ..LogDirConfig::default()
    };
    LogDir::open(Arc::new(disk.clone()), Path::new("/data"), config).unwrap()
}

impl Model {
    fn new() -> Self {
        let disk = SimDisk::new(64 << 20);
        let dir = open_dir(&disk);
        let config = LogConfig {
            segment_bytes: 1500,
            index_interval_bytes: 200,
            retention: Some(std::time::Duration::from_secs(2 * 86_400)),
            ..LogConfig::default()
        };
        let log = Some(open_log(&dir, &config));
        Self {
            disk,
            dir,
            log,
            config,
            records: Vec::new(),
            sent: Vec::new(),
            start: 0,
            end: 0,
            epoch: 1,
            now: 1_000_000,
            written: 0,
        }
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn values(&mut self, records: usize, size: usize) -> Vec<String> {
        let values = (0..records).map(|_| {
            self.written += 1;
            format!("{}:{}", self.written, "x".repeat(size / records))
        });
        values.collect()
    }

    fn note(&mut self, base: i64, values: &[String], time: i64) {
        for (at, value) in values.iter().enumerate() {
            let (offset, epoch) = (base + i64::try_from(at).unwrap(), self.epoch);
            self.records.push(Expected {
                offset,
                value: value.clone(),
                time,
                epoch,
            });
        }
        self.end = base + i64::try_from(values.len()).unwrap();
    }

    fn at(&self, fraction: u8) -> i64 {
        self.start + (self.end - self.start) * i64::from(fraction) / 255
    }

    fn batch(&mut self, records: usize, size: usize, time: i64) -> (RecordBatch, Vec<String>) {
        let values = self.values(records, size);
        let texts: Vec<&str> = values.iter().map(String::as_str).collect();
        (batch(&texts, time), values)
    }

    fn append(&mut self, batch: &RecordBatch, values: &[String], time: i64) -> i64 {
        let (epoch, now) = (LeaderEpoch::new(self.epoch), Timestamp::new(self.now));
        let done = self.log().append(batch, epoch, now).unwrap();
        assert_eq!(done.base_offset.get(), self.end);
        self.note(done.base_offset.get(), values, time);
        self.now += 100;
        done.base_offset.get()
    }

    fn append_idempotent(&mut self, records: usize) {
        let (plain, values) = self.batch(records, 30, self.now);
        let sequence = self.sent.last().map_or(Sequence::new(0), |sent| {
            sent.batch.header().last_sequence().plus(1)
        });
        let mut bytes = plain.bytes().to_vec();
        let (id, epoch) = (ProducerId::new(7), ProducerEpoch::new(0));
        logweir_proto::record::set_producer(&mut bytes, id, epoch, sequence);
        let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
        let now = Timestamp::new(self.now);
        let check = self.log().check_producer(batch.header(), now);
        assert_eq!(check, Ok(ProducerCheck::New));
        let sent_at = self.now;
        let base_offset = self.append(&batch, &values, sent_at);
        self.sent.push(Sent {
            batch,
            base_offset,
            sent_at,
        });
    }

    fn append_replica(&mut self, gap: i64, records: usize) {
        let time = self.now;
        let (plain, values) = self.batch(records, 20, time);
        let base = self.end + gap;
        let mut bytes = plain.bytes().to_vec();
        logweir_proto::record::set_base_offset(&mut bytes, Offset::new(base));
        logweir_proto::record::set_leader_epoch(&mut bytes, LeaderEpoch::new(self.epoch));
        let batch = RecordBatch::from_bytes(bytes.into()).unwrap();
        let now = Timestamp::new(self.now);
        let done = self.log().append_replica(&batch, now).unwrap();
        assert_eq!(done.base_offset.get(), base);
        self.note(base, &values, time);
    }

    /// The log ends at `end` now.
    fn cut(&mut self, end: i64) {
        self.records.retain(|record| record.offset < end);
        self.sent.retain(|sent| sent.base_offset < end);
        self.end = end;
    }

    fn step(&mut self, step: &Step) {
        match step.clone() {
            Step::Append {
                records,
                size,
                time,
            } => {
                let time = self.now + time * 1000;
                let (batch, values) = self.batch(records, size, time);
                self.append(&batch, &values, time);
            }
            Step::AppendIdempotent { records } => self.append_idempotent(records),
            Step::AppendReplica { gap, records } => self.append_replica(gap, records),
            Step::NextEpoch => self.epoch += 1,
            Step::Truncate { at } => {
                let at = self.at(at);
                let cut = self.log().truncate_to(Offset::new(at)).unwrap().get();
                assert!(cut <= at, "{cut} is above {at}");
                if at <= self.start && at < self.end {
                    self.restarted(at);
                }
                self.cut(cut);
            }
            Step::Restart { at } => {
                let at = (self.at(at) - 3).max(0) * 2;
                self.log().restart_at(Offset::new(at)).unwrap();
                self.restarted(at);
            }
            Step::DeleteRecords { at } => self.delete_records(at),
            Step::Retention {
                high_watermark,
                days,
            } => self.retain(high_watermark, days),
            Step::Roll => {
                self.now += 8 * 86_400_000;
                let now = Timestamp::new(self.now);
                self.log().roll_if_due(now).unwrap();
            }
            Step::Park => self.log().flush().and_then(|()| self.log().park()).unwrap(),
            Step::Flush => self.flush(),
            Step::Checkpoint => {
                self.flush();
                self.dir.drive(true);
            }
            Step::Crash => self.crash(0, PowerCut::KeepAll),
            Step::PowerCut { seed } => self.crash(seed, PowerCut::LoseUnsynced),
            Step::Reopen => {
                self.log().close().unwrap();
                self.log = None;
                self.dir.close().unwrap();
                self.dir = open_dir(&self.disk);
                assert!(self.dir.was_clean());
                self.log = Some(open_log(&self.dir, &self.config));
            }
            Step::Configure {
                segment_bytes,
                per_ack,
            } => {
                self.config.segment_bytes = segment_bytes;
                self.config.flush.per_ack = per_ack;
                let config = self.config.clone();
                self.log().set_config(config);
            }
        }
    }

    fn delete_records(&mut self, at: u8) {
        let at = self.at(at);
        let start = self
            .log()
            .delete_records_before(Offset::new(at))
            .unwrap()
            .get();
        assert_eq!(start, at);
        self.start = at;
    }

    fn flush(&mut self) {
        self.log().request_flush();
        self.dir.drive(false);
        assert_eq!(self.log().durable_end_offset().get(), self.end);
    }

    fn restarted(&mut self, at: i64) {
        self.records.clear();
        self.sent.clear();
        self.start = at;
        self.end = at;
    }

    fn retain(&mut self, high_watermark: u8, days: i64) {
        self.now += days * 86_400_000;
        let high_watermark = self.at(high_watermark);
        let now = Timestamp::new(self.now);
        self.log()
            .enforce_retention(now, Offset::new(high_watermark))
            .unwrap();
        let start = self.log().log_start_offset().get();
        assert!(start >= self.start && start <= high_watermark.max(self.start));
        let horizon = self.now - 2 * 86_400_000;
        let gone = self
            .records
            .iter()
            .filter(|r| r.offset >= self.start && r.offset < start);
        for record in gone {
            assert!(record.time <= horizon, "{record:?} was not due");
        }
        self.start = start;
    }

    fn crash(&mut self, seed: u64, cut: PowerCut) {
        let durable = self.log().durable_end_offset().get();
        // A reader that outlives the process keeps what it holds.
        let held = self
            .log()
            .reader()
            .read(Offset::new(self.start), 500, Offset::MAX)
            .unwrap();
        let before = held.bytes.to_vec();
        self.disk.power_cut(seed, cut);
        self.log = None;
        self.dir = open_dir(&self.disk);
        assert!(!self.dir.was_clean());
        assert_eq!(self.dir.same_boot(), cut == PowerCut::KeepAll);
        self.log = Some(open_log(&self.dir, &self.config));
        let end = self.log().log_end_offset().get();
        match cut {
            PowerCut::KeepAll => assert_eq!(end, self.end),
            _ => assert!(
                end >= durable && end <= self.end,
                "{durable} <= {end} <= {}",
                self.end
            ),
        }
        assert_eq!(self.log().durable_end_offset().get(), end);
        self.cut(end);
        assert_eq!(held.bytes, before);
    }

    /// Compares everything that can be asked.
    fn check(&mut self) {
        let reader = self.log().reader();
        assert_eq!(reader.log_start_offset().get(), self.start);
        assert_eq!(reader.log_end_offset().get(), self.end);
        let visible: Vec<_> = self
            .records
            .iter()
            .filter(|record| record.offset >= self.start)
            .cloned()
            .collect();
        let expected: Vec<_> = visible
            .iter()
            .map(|r| (r.offset, r.value.clone()))
            .collect();
        let start = self.start;
        assert_eq!(read_all(self.log(), start), expected);
        for part in [0u8, 60, 130, 200, 255] {
            let at = self.at(part);
            let below = visible.iter().filter(|record| record.offset < at).count();
            let count = reader
                .records_between(Offset::new(self.start), Offset::new(at))
                .unwrap();
            assert_eq!(count, below as u64, "records below {at}");
        }
        self.check_times(&reader, &visible);
        for record in &visible {
            let epoch = reader.leader_epoch_of(Offset::new(record.offset));
            assert_eq!(epoch.get(), record.epoch, "epoch of {}", record.offset);
        }
        self.check_producer();
    }

    fn check_times(&self, reader: &LogReader, visible: &[Expected]) {
        let found = |found: Option<(Offset, Timestamp, LeaderEpoch)>| {
            found.map(|(offset, time, epoch)| (offset.get(), time.get(), epoch.get()))
        };
        let of = |record: &Expected| (record.offset, record.time, record.epoch);
        let max = visible.iter().map(|record| record.time).max();
        let newest = visible.iter().find(|record| Some(record.time) == max);
        assert_eq!(
            found(reader.max_timestamp(Offset::MAX).unwrap()),
            newest.map(of)
        );
        for time in visible
            .iter()
            .step_by(7)
            .map(|record| record.time)
            .chain([self.now])
        {
            let first = visible.iter().find(|record| record.time >= time);
            let answer = reader
                .offset_for_timestamp(Timestamp::new(time), Offset::MAX)
                .unwrap();
            assert_eq!(found(answer), first.map(of), "first at or after {time}");
        }
    }

    /// The producer's last batch, sent again, is known.
    fn check_producer(&mut self) {
        let Some(last) = self.sent.last().cloned() else {
            return;
        };
        let expired = self.now - last.sent_at >= 86_400_000;
        if last.base_offset < self.start || expired {
            return;
        }
        let now = Timestamp::new(self.now);
        let check = self.log().check_producer(last.batch.header(), now).unwrap();
        let ProducerCheck::Duplicate { base_offset, .. } = check else {
            panic!("the batch at {} is not known", last.base_offset);
        };
        assert_eq!(base_offset.get(), last.base_offset);
    }
}

fn cases() -> u32 {
    if full() { 20_000 } else { 2_000 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_log_tells_what_a_vec_of_its_records_tells(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
            model.check();
        }
    }
}
