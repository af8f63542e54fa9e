//! How often the broker copies a payload: once on append, never on fetch.
//!
//! A copy on the heap needs memory, so memory is counted: what the same load has this process allocate
//! with a broker, less what it has with bare tonic, is what the broker's own code takes. The one copy of
//! an append goes into the segment, which is no heap. That a fetch hands out the segment's own bytes shows in
//! their address: two reads of one place give the same.

use std::alloc::System;

use logweir::{Broker, Config, FlushMode, ListenAddr};
use logweir_benches::{
    ConsumeLoad, ProduceLoad, ScratchLog, Server, batch_of, record_batch, serve_bare,
};
use logweir_proto::{LeaderEpoch, Offset, Timestamp};
use logweir_storage::LogConfig;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUESTS: u64 = 128;
/// Batches in a response.
const FETCHED: i32 = 8;
/// Streams of one response each, one after the other: what the two ends allocate to receive depends on whether they
/// have let go of what came before.
const FETCHES: usize = 16;

/// A server in this very process.
fn server(address: &str) -> Server<'_> {
    Server {
        address,
        pid: std::process::id(),
    }
}

/// Bytes allocated while `work` runs; growth of an allocation counts as new.
async fn allocated(work: impl Future<Output = u64>) -> (u64, i64) {
    let region = Region::new(HEAP);
    let payload = work.await;
    let change = region.change();
    let grown = i64::try_from(change.bytes_allocated).expect("small");
    // Reallocation is told as the difference, and counted in what was allocated already.
    (payload, grown)
}

#[tokio::test]
async fn a_payload_is_copied_once_on_append_and_never_on_fetch() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let config = Config::on_dir(folder.path())
        .with_flush(FlushMode::Os)
        .with_http(ListenAddr::Off);
    let broker = Broker::start(config).await.expect("it starts");
    let batch = record_batch(63, 1_024);
    let batch_bytes = batch.bytes().len();
    let response_bytes = usize::try_from(FETCHED).expect("small") * batch_bytes;
    let ours = broker.grpc_addr().expect("it listens").to_string();
    let bare = serve_bare(response_bytes, response_bytes).await;
    let produce = ProduceLoad {
        batch: batch.bytes().clone(),
        requests: REQUESTS,
        in_flight: 8,
        topic: "copies".to_owned(),
    };
    let fetch = ConsumeLoad {
        topic: "copies".to_owned(),
        end_offset: i64::from(batch.header().record_count) * i64::from(FETCHED),
        response_bytes: u32::try_from(response_bytes).expect("small"),
    };
    // Once before, for what is made once.
    for address in [&ours, &bare] {
        produce.run(server(address)).await;
    }
    let (sent, with_broker) = allocated(async { produce.run(server(&ours)).await.bytes }).await;
    let (_, with_sink) = allocated(async { produce.run(server(&bare)).await.bytes }).await;
    check("append", sent, with_broker, with_sink);

    let read_by_streams = async |address: &str| {
        let mut bytes = 0;
        for _ in 0..FETCHES {
            bytes += fetch.run(server(address)).await.bytes;
        }
        bytes
    };
    let (read, with_broker) = allocated(read_by_streams(&ours)).await;
    let (same, with_source) = allocated(read_by_streams(&bare)).await;
    let expected = (FETCHES * response_bytes) as u64;
    assert_eq!((read, same), (expected, expected));
    check("fetch", read, with_broker, with_source);
    broker.shutdown().await.expect("nothing is in its way");
}

/// The broker's own code allocates far less than another copy of the payload would take.
fn check(what: &str, payload: u64, with_broker: i64, with_bare_tonic: i64) {
    let payload = i64::try_from(payload).expect("small");
    println!(
        "{what} of {payload} bytes: {with_broker} bytes allocated, with bare tonic {with_bare_tonic}"
    );
    assert!(
        with_bare_tonic > payload,
        "{what}: the transport's own copies are not seen, so others would not be either"
    );
    let own = with_broker - with_bare_tonic;
    assert!(
        own < payload / 4,
        "{what}: {own} bytes for {payload} of payload"
    );
}

#[test]
fn two_reads_of_one_place_hand_out_the_very_same_bytes() {
    for batch_bytes in [1_024, 64 << 10] {
        let scratch = ScratchLog::new(LogConfig::default());
        let batch = batch_of(batch_bytes);
        let mut log = scratch.log.lock();
        for _ in 0..2 {
            log.append(&batch, LeaderEpoch::new(0), Timestamp::new(1))
                .expect("there is room");
        }
        let read = |from| {
            let read = log
                .reader()
                .read(Offset::new(from), 1 << 20, log.log_end_offset());
            read.expect("it is there").bytes
        };
        let (first, again, second) = (read(0), read(0), read(1));
        assert_eq!(first.as_ptr(), again.as_ptr());
        // And the next batch lies right behind it, as in the file.
        assert_eq!(first[batch_bytes..].as_ptr(), second.as_ptr());
    }
}
