//! The metrics page, in the OpenMetrics text format.
//!
//! Names, units and meanings (also in README.md):
//!
//! | name | unit | meaning |
//! |---|---|---|
//! | `logweir_produce_batches_total` | batches | record batches appended |
//! | `logweir_produce_records_total` | records | records appended |
//! | `logweir_produce_bytes_total` | bytes | bytes of record batches appended |
//! | `logweir_produce_errors_total` | appends | appends refused or failed |
//! | `logweir_fetch_partitions_total` | partitions | partitions read successfully |
//! | `logweir_fetch_bytes_total` | bytes | bytes of record batches sent to readers |
//! | `logweir_fetch_errors_total` | partitions | partitions whose read failed |
//! | `logweir_log_flushes_total` | syncs | syncs of segment files by flushes, since the data directory was opened |
//! | `logweir_compactions_total` | compactions | times that a partition was compacted |
//! | `logweir_compaction_removed_records_total` | records | records that compaction removed |
//! | `logweir_compaction_errors_total` | compactions | compactions that failed; the log says why |
//! | `logweir_connections` | connections | Kafka and gRPC connections open now |
//! | `logweir_connections_refused_total` | connections | refused because of `max_connections` |
//! | `logweir_inflight_bytes` | bytes | bytes of requests in the broker now |
//! | `logweir_partition_lock_hold_seconds` | seconds | how long partition locks are held (one append in 16 is timed) |
//! | `logweir_topics` | topics | topics of the cluster |
//! | `logweir_partitions_online` | partitions | partitions led here |
//! | `logweir_partitions_offline` | partitions | partitions that cannot be served because of their disk |
//! | `logweir_log_start_offset`, `logweir_high_watermark`, `logweir_log_end_offset`, `logweir_durable_end_offset` | offset | by topic and partition |
//! | `logweir_log_size_bytes` | bytes | segments, by topic and partition |
//! | `logweir_groups` | groups | consumer groups coordinated here |
//! | `logweir_groups_left_out` | groups | of them not on the page: it is full, or they could not be asked in time |
//! | `logweir_groups_unlisted_partitions` | partitions | of `__consumer_offsets`, whose groups are not known at present |
//! | `logweir_group_members` | members | by group |
//! | `logweir_group_lag_records` | records | still to be read, by group, topic and partition |
//! | `logweir_group_lag_seconds` | seconds | age of the oldest of them, by group, topic and partition |
//! | `logweir_group_member_lag_records` | records | still to be read, by group, member and client id |
//! | `logweir_group_member_lag_seconds` | seconds | age of the oldest of them, by group, member and client id |

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use logweir_proto::PartitionId;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::{LockHold, Metrics};
use crate::service::{PartitionOffsets, Service};

mod groups;

pub(super) use groups::GroupValues;

/// The page as it is now.
///
/// # Errors
/// If a value cannot be written, which is a bug.
pub(super) fn render(service: &Service, groups: GroupValues) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page::of(service, groups)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Values copied out of the broker, so that the encoder needs no reference to it.
#[derive(Debug)]
struct Page {
    counters: Vec<(&'static str, &'static str, u64)>,
    gauges: Vec<(&'static str, &'static str, u64)>,
    lock_hold: (Vec<u64>, u64),
    partitions: Vec<PartitionValues>,
    groups: GroupValues,
}

/// Offsets and size of one partition.
#[derive(Debug)]
struct PartitionValues {
    labels: [(&'static str, String); 2],
    values: [i64; 5],
}

impl PartitionValues {
    fn of((topic, partition, offsets): (Arc<str>, PartitionId, PartitionOffsets)) -> Self {
        Self {
            labels: [
                ("topic", topic.to_string()),
                ("partition", partition.to_string()),
            ],
            values: [
                offsets.log_start.get(),
                offsets.high_watermark.get(),
                offsets.log_end.get(),
                offsets.durable_end.get(),
                i64::try_from(offsets.size_bytes).unwrap_or(i64::MAX),
            ],
        }
    }
}

/// What the five values of a partition are.
const PARTITION_GAUGES: [(&str, &str); 5] = [
    ("logweir_log_start_offset", "First offset that can be read"),
    (
        "logweir_high_watermark",
        "Below it, every in-sync replica has the records",
    ),
    ("logweir_log_end_offset", "Offset the next record will get"),
    (
        "logweir_durable_end_offset",
        "Below it, the disk has the records for certain",
    ),
    (
        "logweir_log_size_bytes",
        "Bytes of the partition's segments",
    ),
];

/// A value that is read from the broker's counters.
type Read = fn(&Metrics) -> &AtomicU64;

/// Name, help and source of every counter.
const COUNTERS: [(&str, &str, Read); 11] = [
    ("logweir_produce_batches", "Record batches appended", |m| {
        &m.produce_batches
    }),
    ("logweir_produce_records", "Records appended", |m| {
        &m.produce_records
    }),
    (
        "logweir_produce_bytes",
        "Bytes of record batches appended",
        |m| &m.produce_bytes,
    ),
    ("logweir_produce_errors", "Appends refused or failed", |m| {
        &m.produce_errors
    }),
    (
        "logweir_fetch_partitions",
        "Partitions read successfully",
        |m| &m.fetch_partitions,
    ),
    (
        "logweir_fetch_bytes",
        "Bytes of record batches sent to readers",
        |m| &m.fetch_bytes,
    ),
    (
        "logweir_fetch_errors",
        "Partitions whose read failed",
        |m| &m.fetch_errors,
    ),
    (
        "logweir_compactions",
        "Times that a partition was compacted",
        |m| &m.compactions,
    ),
    (
        "logweir_compaction_removed_records",
        "Records that compaction removed",
        |m| &m.compaction_removed_records,
    ),
    (
        "logweir_compaction_errors",
        "Compactions that failed",
        |m| &m.compaction_errors,
    ),
    (
        "logweir_connections_refused",
        "Connections refused because of max_connections",
        |m| &m.connections_refused,
    ),
];

impl Page {
    fn of(service: &Service, groups: GroupValues) -> Self {
        let metrics = &service.metrics;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let hosted = service.hosted_partitions();
        let offline = service.offline_partitions() as u64;
        let counted = COUNTERS.map(|(name, help, read)| (name, help, load(read(metrics))));
        let flushes = (
            "logweir_log_flushes",
            "Syncs of segment files by flushes, since the data directory was opened",
            service.log_flushes(),
        );
        Self {
            counters: counted.into_iter().chain([flushes]).collect(),
            gauges: vec![
                (
                    "logweir_connections",
                    "Kafka and gRPC connections open now",
                    load(&metrics.connections),
                ),
                (
                    "logweir_inflight_bytes",
                    "Bytes of requests in the broker now",
                    load(&metrics.inflight_bytes),
                ),
                (
                    "logweir_topics",
                    "Topics of the cluster",
                    service.image().topics.len() as u64,
                ),
                (
                    "logweir_partitions_online",
                    "Partitions led here",
                    hosted.len() as u64,
                ),
                (
                    "logweir_partitions_offline",
                    "Partitions that cannot be served because of their disk",
                    offline,
                ),
            ],
            lock_hold: metrics.lock_hold.snapshot(),
            partitions: hosted.into_iter().map(PartitionValues::of).collect(),
            groups,
        }
    }

    fn encode_lock_hold(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (counts, sum_nanos) = &self.lock_hold;
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds for people, exact to 2^53 ns"
        )]
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let bounds = LockHold::BOUNDS_NANOS.iter().map(|bound| seconds(*bound));
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::MAX])
            .zip(counts.iter().copied())
            .collect();
        let mut metric = encoder.encode_descriptor(
            "logweir_partition_lock_hold",
            "How long partition locks are held; one append in 16 is timed",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        metric.encode_histogram::<[(String, String); 0]>(
            seconds(*sum_nanos),
            counts.iter().sum(),
            &buckets,
            None,
        )
    }
}

impl prometheus_client::collector::Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in &self.counters {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<[(String, String); 0], _, u64>(value, None)?;
        }
        for (name, help, value) in &self.gauges {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&i64::try_from(*value).unwrap_or(i64::MAX))?;
        }
        self.encode_lock_hold(&mut encoder)?;
        for (index, (name, help)) in PARTITION_GAUGES.iter().enumerate() {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for partition in &self.partitions {
                metric
                    .encode_family(&partition.labels)?
                    .encode_gauge(&partition.values[index])?;
            }
        }
        self.groups.encode(&mut encoder)
    }
}
