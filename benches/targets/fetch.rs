//! A fetch stream of a log whose pages are cached, beside a bare tonic source of the same messages.

use logweir_benches::{ConsumeLoad, Loaded, Peer, ProduceLoad, Role, batches_for, record_batch};

use crate::Effort;
use crate::figure::{Figure, Goal};
use crate::produce::beside;

/// Bytes of records in a response, at most; what a stream's reader gets by default.
const RESPONSE_BYTES: usize = 1 << 20;

pub(crate) fn measure(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let batch = record_batch(63, 1_024);
    let total_bytes = effort.choose(384 << 20, 4 << 20);
    let broker = Peer::start(Role::Broker);
    let fill = ProduceLoad {
        requests: batches_for(total_bytes, &batch),
        batch: batch.bytes().clone(),
        in_flight: 32,
        topic: "fetch".to_owned(),
    };
    runtime.block_on(fill.run(broker.server()));
    // Whole batches fit into a response; the source sends as many bytes in each.
    let per_response = RESPONSE_BYTES / batch.bytes().len() * batch.bytes().len();
    let source = Peer::start(Role::Bare {
        total_bytes: usize::try_from(total_bytes)?,
        response_bytes: per_response,
    });
    let records = i64::from(batch.header().record_count);
    let load = ConsumeLoad {
        topic: "fetch".to_owned(),
        // The request that waited for the topic is in the log, too.
        end_offset: records * (i64::try_from(fill.requests)? + 1),
        response_bytes: u32::try_from(RESPONSE_BYTES)?,
    };
    let (mut ours, mut base) = (Loaded::default(), Loaded::default());
    for round in 0..=effort.choose(8, 1) {
        let (a, b) = runtime.block_on(async {
            (
                load.run(broker.server()).await,
                load.run(source.server()).await,
            )
        });
        if round > 0 {
            ours.add(a);
            base.add(b);
        }
    }
    let expected = batch.bytes().len() as u64 * (fill.requests + 1) * effort.choose(8, 1);
    anyhow::ensure!(ours.bytes == expected, "{} of {expected} bytes", ours.bytes);
    Ok(beside(
        "fetch",
        "gRPC fetch stream from cached segments, 1 MiB responses",
        ours,
        base,
        Goal::AtLeast(0.75),
        None,
    ))
}
