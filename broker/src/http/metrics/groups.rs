//! What the metrics page says of consumer groups: members, and how far behind each partition and member is.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;

use crate::service::{GroupDescription, Service};

/// Partitions and members of groups on one page; a page must have an end.
const MAX_SERIES: usize = 20_000;

/// A value with its labels.
type Series<V> = (Vec<(&'static str, String)>, V);

/// The groups that this broker coordinates.
#[derive(Debug, Default)]
pub(in crate::http) struct GroupValues {
    groups: i64,
    left_out: i64,
    members: Vec<Series<i64>>,
    partition_records: Vec<Series<i64>>,
    partition_seconds: Vec<Series<f64>>,
    member_records: Vec<Series<i64>>,
    member_seconds: Vec<Series<f64>>,
}

impl GroupValues {
    /// As the groups are now. Those that cannot be asked at present are left out.
    pub(in crate::http) async fn of(service: &Service) -> Self {
        let mut values = Self::default();
        let listed = service.list_all_groups().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the metrics page is without groups");
            Vec::new()
        });
        values.groups = i64::try_from(listed.len()).unwrap_or(i64::MAX);
        for group in listed {
            match service.describe_group_now(&group.group_id).await {
                Ok(described) if values.has_room_for(&described) => values.add(&described),
                _ => values.left_out += 1,
            }
        }
        values
    }

    fn has_room_for(&self, group: &GroupDescription) -> bool {
        let used = self.members.len() + self.partition_records.len() + self.member_records.len();
        used + group.members.len() + group.partitions.len() < MAX_SERIES
    }

    fn add(&mut self, group: &GroupDescription) {
        let of_group = || vec![("group", group.group_id.to_string())];
        let count = i64::try_from(group.members.len()).unwrap_or(i64::MAX);
        self.members.push((of_group(), count));
        for partition in &group.partitions {
            let Some(lag) = partition.lag else { continue };
            let mut labels = of_group();
            labels.push(("topic", partition.topic.to_string()));
            labels.push(("partition", partition.partition.to_string()));
            self.partition_records
                .push((labels.clone(), records(lag.records)));
            self.partition_seconds.push((labels, seconds(lag.age)));
        }
        for member in &group.members {
            let mut labels = of_group();
            labels.push(("member", member.member_id.to_string()));
            labels.push(("client_id", member.client_id.to_string()));
            self.member_records
                .push((labels.clone(), records(member.lag.records)));
            self.member_seconds.push((labels, seconds(member.lag.age)));
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = [
            ("logweir_groups", "Groups coordinated here", self.groups),
            (
                "logweir_groups_left_out",
                "Groups that are not on this page: it is full, or they cannot be asked",
                self.left_out,
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

fn records(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn seconds(age: Duration) -> f64 {
    age.as_secs_f64()
}
