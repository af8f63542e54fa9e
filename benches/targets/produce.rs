//! A produce stream of 64 KiB batches of 1 KiB records, acks=1, OS flush, beside a bare tonic sink.

use logweir_benches::{Loaded, Peer, ProduceLoad, Role, batches_for, record_batch, warm_memory};

use crate::Effort;
use crate::figure::{Figure, Goal, number};

/// Requests that may be unanswered: 2 MiB, half of a stream's window.
const IN_FLIGHT: usize = 32;

pub(crate) fn measure(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let batch = record_batch(63, 1_024);
    let sink = Peer::start(Role::Bare {
        total_bytes: 0,
        response_bytes: 1,
    });
    let broker = Peer::start(Role::Broker);
    let (mut ours, mut base) = (Loaded::default(), Loaded::default());
    let rounds = effort.choose(12, 1);
    let round_bytes = effort.choose(192 << 20, 1 << 20);
    for round in 0..=rounds {
        let load = ProduceLoad {
            requests: batches_for(round_bytes as u64, &batch),
            batch: batch.bytes().clone(),
            in_flight: IN_FLIGHT,
            topic: format!("produce-{round}"),
        };
        // A log takes memory that a sink does not: what it takes is to be as warm as the sink's own.
        warm_memory(round_bytes + (round_bytes >> 1));
        let ours_now = runtime.block_on(load.run(broker.server()));
        warm_memory(round_bytes + (round_bytes >> 1));
        let base_now = runtime.block_on(load.run(sink.server()));
        // The first round warms up both.
        if round > 0 {
            ours.add(ours_now);
            base.add(base_now);
        }
    }
    Ok(beside(
        "produce",
        "gRPC produce stream, 64 KiB batches of 1 KiB records, acks=1, OS flush",
        ours,
        base,
        Goal::AtLeast(0.65),
        Some(Goal::AtMost(1.6)),
    ))
}

/// Rate and processor time per GB, each as a share of the base's.
pub(crate) fn beside(
    name: &str,
    what: &str,
    ours: Loaded,
    base: Loaded,
    rate_goal: Goal,
    cpu_goal: Option<Goal>,
) -> Vec<Figure> {
    let rate = |load: Loaded| number(load.bytes) / 1e6 / load.elapsed.as_secs_f64();
    let cpu = |load: Loaded| load.server_cpu.as_secs_f64() / (number(load.bytes) / 1e9);
    let mut figures = vec![Figure {
        name: format!("grpc_{name}_rate"),
        what: format!("{what}: rate, share of bare tonic"),
        value: rate(ours) / rate(base),
        unit: "of base",
        goal: rate_goal,
        parts: vec![
            ("Logweir", rate(ours), "MB/s"),
            ("bare tonic", rate(base), "MB/s"),
        ],
    }];
    // A goal of its own, or none that can be missed: the figure is told in any case.
    figures.push(Figure {
        name: format!("grpc_{name}_cpu"),
        what: format!("{what}: server's processor time per GB, times bare tonic's"),
        value: cpu(ours) / cpu(base),
        unit: "x base",
        goal: cpu_goal.unwrap_or(Goal::AtMost(f64::INFINITY)),
        parts: vec![
            ("Logweir", cpu(ours), "s per GB"),
            ("bare tonic", cpu(base), "s per GB"),
        ],
    });
    figures
}
