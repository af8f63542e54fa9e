//! Criterion suites of every layer, from a record batch to a gRPC stream.
//!
//! `cargo bench --bench suites` runs all, a word chooses (`-- append`). Called by `cargo test`, criterion
//! carries each out once.

use std::time::Duration;

use criterion::Criterion;

mod append;
mod broker;
mod grpc;
mod partitions;
mod read;
mod record;
mod recovery;

fn main() {
    logweir_benches::serve_if_told();
    // Short, so that all of it takes a few minutes: these show where time goes; the figures that
    // are promised are measured at length in the other program.
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    record::suite(&mut criterion);
    append::suite(&mut criterion);
    read::suite(&mut criterion);
    recovery::suite(&mut criterion);
    partitions::suite(&mut criterion);
    broker::suite(&mut criterion);
    grpc::suite(&mut criterion);
    criterion.final_summary();
}

/// Bytes.
const KIB: usize = 1 << 10;
