//! What the metrics page says of consumer groups: members, and how far behind each partition and member is.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use tokio::time::{Instant, timeout_at};

use crate::service::{GroupDescription, Service};

/// Partitions and members of groups on one page; a page must have an end.
const MAX_SERIES: usize = 20_000;
/// And the bytes of their labels, as they are before they are escaped: names may have thousands.
const MAX_BYTES: usize = 16 << 20;
/// What the names and quotes of one series take beside its labels' values.
const SERIES_BYTES: usize = 64;
/// How long a page waits for lists of groups, and for groups in all; what is not known by then is left out.
const LIST_PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// A value with its labels.
type Series<V> = (Vec<(&'static str, String)>, V);

/// The groups that this broker coordinates.
#[derive(Debug, Default)]
pub(in crate::http) struct GroupValues {
    groups: i64,
    left_out: i64,
    unlisted_partitions: i64,
    /// What [`MAX_BYTES`] is for.
    bytes: usize,
    members: Vec<Series<i64>>,
    partition_records: Vec<Series<i64>>,
    partition_seconds: Vec<Series<f64>>,
    member_records: Vec<Series<i64>>,
    member_seconds: Vec<Series<f64>>,
}

impl GroupValues {
    /// As the groups are now. Those that cannot be asked at present, or not in time, are left out.
    pub(in crate::http) async fn of(service: &Service) -> Self {
        let began = Instant::now();
        let listed = service.list_all_groups(began + LIST_PATIENCE).await;
        let mut values = Self {
            groups: signed(listed.groups.len()),
            unlisted_partitions: signed(listed.unlisted_partitions),
            ..Self::default()
        };
        let mut shown = 0;
        for group in listed.groups {
            let describing = service.describe_group_now(&group.group_id);
            match timeout_at(began + PATIENCE, describing).await {
                Ok(Ok(described)) => match values.take(&described) {
                    Taken::Whole => shown += 1,
                    Taken::NeverFits => {}
                    Taken::PageIsFull => break,
                },
                Ok(Err(_)) => {}
                Err(_elapsed) => break,
            }
        }
        values.left_out = values.groups - shown;
        values
    }

    /// Takes a group, whole or not at all.
    fn take(&mut self, group: &GroupDescription) -> Taken {
        let used = self.members.len() + self.partition_records.len() + self.member_records.len();
        let wanted = 1 + group.members.len() + group.partitions.len();
        let bytes = bytes_of(group);
        if wanted > MAX_SERIES || bytes > MAX_BYTES {
            return Taken::NeverFits;
        }
        // A smaller group may still fit, but to find it all others would have to be described.
        if used + wanted > MAX_SERIES || self.bytes + bytes > MAX_BYTES {
            return Taken::PageIsFull;
        }
        self.bytes += bytes;
        self.add(group);
        Taken::Whole
    }

    fn add(&mut self, group: &GroupDescription) {
        let of_group = || vec![("group", group.group_id.to_string())];
        self.members.push((of_group(), signed(group.members.len())));
        for partition in &group.partitions {
            let Some(lag) = partition.lag else { continue };
            let mut labels = of_group();
            labels.push(("topic", partition.topic.to_string()));
            labels.push(("partition", partition.partition.to_string()));
            self.partition_records
                .push((labels.clone(), records(lag.records)));
            let age = lag.age.map(|age| (labels, age.as_secs_f64()));
            self.partition_seconds.extend(age);
        }
        for member in &group.members {
            let mut labels = of_group();
            labels.push(("member", member.member_id.to_string()));
            labels.push(("client_id", member.client_id.to_string()));
            self.member_records
                .push((labels.clone(), records(member.lag.records)));
            let age = member.lag.age.map(|age| (labels, age.as_secs_f64()));
            self.member_seconds.extend(age);
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = [
            ("logweir_groups", "Groups coordinated here", self.groups),
            (
                "logweir_groups_left_out",
                "Groups that are not on this page: it is full, or they could not be asked in time",
                self.left_out,
            ),
            (
                "logweir_groups_unlisted_partitions",
                "Partitions of __consumer_offsets whose groups are not known at present",
                self.unlisted_partitions,
            ),
        ];
        for (name, help, value) in counts {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&value)?;
        }
        let name = "logweir_group_members";
        gauge(encoder, name, "Members of the group", &self.members)?;
        let name = "logweir_group_lag_records";
        let help = "Records that the group has still to read of the partition";
        gauge(encoder, name, help, &self.partition_records)?;
        let name = "logweir_group_lag_seconds";
        let help = "Age of the oldest of them";
        gauge(encoder, name, help, &self.partition_seconds)?;
        let name = "logweir_group_member_lag_records";
        let help = "Records that the member has still to read";
        gauge(encoder, name, help, &self.member_records)?;
        let name = "logweir_group_member_lag_seconds";
        let help = "Age of the oldest of them";
        gauge(encoder, name, help, &self.member_seconds)
    }
}

/// The bytes of a group's labels: records and seconds of each partition and of each member.
fn bytes_of(group: &GroupDescription) -> usize {
    let each = SERIES_BYTES + group.group_id.len();
    let partitions = group.partitions.iter().map(|p| each + p.topic.len());
    let members = group.members.iter();
    let members = members.map(|m| each + m.member_id.len() + m.client_id.len());
    each + 2 * partitions.chain(members).sum::<usize>()
}

/// What became of a group.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Whole,
    /// It is larger than a page.
    NeverFits,
    PageIsFull,
}

fn gauge<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[Series<V>],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        metric.encode_family(labels)?.encode_gauge(value)?;
    }
    Ok(())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn records(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use logweir_proto::{NodeId, PartitionId};

    use super::*;
    use crate::service::GroupPartition;
    use crate::service::groups::Lag;

    fn group(partitions: usize) -> GroupDescription {
        group_of("t", partitions)
    }

    fn group_of(topic: &str, partitions: usize) -> GroupDescription {
        let topic: Arc<str> = topic.into();
        let partitions = (0..).map(PartitionId::new).take(partitions);
        let partition = |partition| GroupPartition {
            topic: Arc::clone(&topic),
            topic_id: None,
            partition,
            member_id: None,
            committed: None,
            bounds: None,
            lag: Some(Lag::default()),
        };
        GroupDescription {
            group_id: Arc::from("g"),
            state: "Empty",
            group_type: "classic",
            protocol_type: "".into(),
            assignor: "".into(),
            epochs: None,
            coordinator: NodeId::new(0),
            members: Vec::new(),
            partitions: partitions.map(partition).collect(),
            lag: Lag::default(),
        }
    }

    /// When the page was full every other group was described all the same, at every scrape.
    #[test]
    fn a_full_page_says_so_and_a_group_larger_than_a_page_does_not_fill_it() {
        let mut values = GroupValues::default();
        assert_eq!(values.take(&group(MAX_SERIES)), Taken::NeverFits);
        assert_eq!(values.take(&group(MAX_SERIES - 10)), Taken::Whole);
        assert_eq!(values.take(&group(9)), Taken::PageIsFull);
        assert_eq!(values.take(&group(8)), Taken::Whole);
        assert_eq!(values.take(&group(0)), Taken::PageIsFull);
        assert_eq!(
            values.members.len() + values.partition_records.len(),
            MAX_SERIES
        );
    }

    /// Twenty thousand series with names of the greatest length were hundreds of megabytes.
    #[test]
    fn a_page_is_full_by_its_bytes_too() {
        let long = "t".repeat(MAX_BYTES / 1_000);
        let mut values = GroupValues::default();
        assert_eq!(values.take(&group_of(&long, 500)), Taken::NeverFits);
        assert_eq!(values.take(&group_of(&long, 400)), Taken::Whole);
        assert_eq!(values.take(&group_of(&long, 100)), Taken::PageIsFull);
        assert_eq!(values.take(&group(1)), Taken::Whole);
        assert!(values.bytes <= MAX_BYTES);
    }
}
