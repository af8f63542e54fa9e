//! The HTTP listener: metrics by their documented names, health, readiness.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use logweir_tests::{GrpcBroker, ServeOptions, http_get};

/// The samples of a metrics page: name with labels -> value.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line
                .rsplit_once(' ')
                .unwrap_or_else(|| panic!("no sample: {line}"));
            (
                name.to_owned(),
                value
                    .parse()
                    .unwrap_or_else(|_| panic!("no number: {line}")),
            )
        })
        .collect()
}

#[tokio::test]
async fn the_metrics_count_what_happened() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 2, &[]).await;
    for n in 0..100 {
        broker.produce_value("t", n % 2, "x").await;
    }
    broker.fetch_once("t", 0, 0, Duration::ZERO).await.unwrap();
    broker
        .produce_records(
            "absent-",
            Some(5),
            logweir_proto::grpc::v1::Acks::All,
            vec![],
        )
        .await
        .ok();

    let answer = http_get(process.http(), "/metrics");
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .head
            .to_lowercase()
            .contains("content-type: application/openmetrics-text"),
        "{}",
        answer.head
    );
    assert!(
        answer.body.ends_with("# EOF\n"),
        "OpenMetrics ends with its mark"
    );
    let samples = samples(&answer.body);
    let check = |name: &str, expected: f64| {
        let found = samples
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in\n{}", answer.body));
        assert!(
            (found - expected).abs() < 0.5,
            "{name} is {found}, not {expected}"
        );
    };
    check("logweir_produce_records_total", 100.0);
    check("logweir_produce_batches_total", 100.0);
    check("logweir_fetch_partitions_total", 1.0);
    check("logweir_topics", 1.0);
    check("logweir_partitions_online", 2.0);
    check("logweir_partitions_offline", 0.0);
    check("logweir_log_end_offset{topic=\"t\",partition=\"1\"}", 50.0);
    check("logweir_high_watermark{topic=\"t\",partition=\"0\"}", 50.0);
    // Each append was flushed before it was acknowledged, and they came one after the other.
    assert!(samples["logweir_log_flushes_total"] >= 100.0);
    assert!(samples["logweir_partition_lock_hold_seconds_count"] >= 1.0);
    assert!(samples["logweir_connections"] >= 1.0);
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_metric_exists() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    broker.produce_value("t", 0, "x").await;
    let page = http_get(process.http(), "/metrics").body;
    let served: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split(' ').next())
        .collect();
    for readme in [
        include_str!("../../README.md"),
        include_str!("../../README.zh.md"),
    ] {
        let documented: BTreeSet<&str> = readme
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("logweir_"))
            // Counters are documented as their sample is called, and typed without its suffix.
            .map(|word| word.trim_end_matches("_total"))
            .filter(|word| !["logweir_client", "logweir_proto", "logweir_storage"].contains(word))
            .collect();
        assert_eq!(documented, served, "left: documented, right: served");
    }
}

#[test]
fn health_and_readiness_answer_and_other_paths_say_what_there_is() {
    let process = ServeOptions::in_memory().start();
    assert_eq!(http_get(process.http(), "/healthz").status, 200);
    assert_eq!(http_get(process.http(), "/readyz").status, 200);
    let other = http_get(process.http(), "/nothing");
    assert_eq!(other.status, 404);
    assert!(other.body.contains("/metrics"), "{}", other.body);
}
