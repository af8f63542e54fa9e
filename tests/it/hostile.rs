//! Peers that are idle, slow, or promise what they never send: a good client does not notice them, and
//! the broker's memory does not follow their promises.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use logweir_proto::grpc::v1;
use logweir_tests::{
    BrokerProcess, DEADLINE, GrpcBroker, ResidentBytes, ServeOptions, open_files, record,
    wait_until,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_stream::StreamExt;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const MIB: u64 = 1 << 20;

/// Lets this process, and brokers started from now on, have as many open files as the system allows.
fn raise_open_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may rise to the hard one");
}

/// The head of a gRPC call over HTTP/2: preface, settings, and HEADERS of stream 1.
fn call_head(path: &str) -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        let mut field = vec![0, u8::try_from(name.len()).unwrap()];
        field.extend_from_slice(name.as_bytes());
        field.push(u8::try_from(value.len()).unwrap());
        field.extend_from_slice(value.as_bytes());
        field
    };
    // :method POST and :scheme http by their index in the static table.
    let mut fields = vec![0x83, 0x86];
    fields.extend(literal(":path", path));
    fields.extend(literal(":authority", "logweir"));
    fields.extend(literal("content-type", "application/grpc"));
    fields.extend(literal("te", "trailers"));
    let mut bytes = [PREFACE, SETTINGS].concat();
    bytes.extend(frame(1, 0x4, &fields)); // END_HEADERS
    bytes
}

/// An HTTP/2 frame of stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    bytes.extend_from_slice(payload);
    bytes
}

/// A DATA frame that begins a message of `promised` bytes and holds `sent` of them.
fn promise(promised: u32, sent: usize) -> Vec<u8> {
    let mut payload = vec![0];
    payload.extend(promised.to_be_bytes());
    payload.resize(payload.len() + sent, 0);
    frame(0, 0, &payload)
}

fn connect(address: &str, first_bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the listener takes the connection");
    stream
        .write_all(first_bytes)
        .expect("a few bytes fit into the socket");
    stream
}

/// A peer that sends DATA as fast as it is let, up to a bound.
struct Flood {
    stream: TcpStream,
    frame: Vec<u8>,
    sent: u64,
    refused: bool,
}

impl Flood {
    const MOST_BYTES: u64 = 3_500 * 1024;

    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            frame: frame(0, 0, &[0; 16_384]),
            sent: 0,
            refused: false,
        }
    }

    /// Sends what the socket takes now; whether there is nothing more to send.
    fn push(&mut self) -> bool {
        while !self.refused && self.sent < Self::MOST_BYTES {
            let at = usize::try_from(self.sent).unwrap() % self.frame.len();
            match self.stream.write(&self.frame[at..]) {
                Ok(written) => self.sent += u64::try_from(written).unwrap(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => self.refused = true,
            }
        }
        true
    }
}

/// Produces and fetches, each within a bound, `rounds` times; gives the slowest round.
async fn good_client(process: &BrokerProcess, topic: &str, rounds: i64) -> Duration {
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    let mut slowest = Duration::ZERO;
    let first = broker
        .list_offset(topic, 0, logweir_tests::latest())
        .await
        .offset;
    for round in first..first + rounds {
        let started = Instant::now();
        assert_eq!(broker.produce_value(topic, 0, "good").await, round);
        let fetched = broker.fetch_once(topic, 0, round, DEADLINE).await.unwrap();
        assert_eq!(fetched.next_fetch_offset, round + 1);
        slowest = slowest.max(started.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_slow_and_lying_connections_do_not_hurt_a_good_client() {
    raise_open_file_limit();
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let alone = good_client(&process, "t", 200).await;
    let (files_before, memory_before) =
        (open_files(process.pid()), ResidentBytes::of(process.pid()));

    let produce = call_head("/logweir.v1.ProduceService/Produce");
    let stream = call_head("/logweir.v1.ProduceService/ProduceStream");
    let fetch = call_head("/logweir.v1.FetchService/Fetch");
    let mut bad: Vec<TcpStream> = Vec::new();
    for n in 0..2_000_u32 {
        let first_bytes = match n % 8 {
            0 => Vec::new(),                                       // says nothing
            1 => PREFACE[..10].to_vec(),                           // half a preface
            2 => [PREFACE, SETTINGS].concat(),                     // a connection without calls
            3 => produce.clone(),                                  // a call without a message
            4 => [&produce[..], &promise(u32::MAX, 100)].concat(), // 4 GiB to come
            5 => [&stream[..], &promise(16 << 20, 100)].concat(), // 16 MiB to come, which is allowed
            6 => [&fetch[..], &promise(1 << 20, 9_000)].concat(),
            _ => [&stream[..], &promise(60_000, 1)].concat(), // sent byte by byte below
        };
        bad.push(connect(process.grpc(), &first_bytes));
    }
    // The slow ones go on sending, a byte of DATA at a time, while the good client works.
    let beside = good_client(&process, "t", 100).await;
    for _ in 0..20 {
        for slow in bad.iter_mut().skip(7).step_by(8) {
            // The broker may have had enough of it.
            let _ = slow.write_all(&frame(0, 0, &[0]));
        }
        good_client(&process, "t", 10).await;
    }
    let memory = ResidentBytes::of(process.pid());
    println!(
        "slowest round alone {alone:?}, beside 2,000 {beside:?}; \
         anonymous memory {} -> {} MiB",
        memory_before.anonymous / MIB,
        memory.anonymous / MIB
    );
    assert!(beside < DEADLINE / 10, "a round took {beside:?}");
    assert!(
        memory.anonymous < memory_before.anonymous + 256 * MIB,
        "anonymous memory grew to {} MiB",
        memory.anonymous / MIB
    );

    // Nothing is left of them once they are gone.
    drop(bad);
    wait_until("their connections are closed", DEADLINE, || {
        open_files(process.pid()) <= files_before + 5
    });
    good_client(&process, "t", 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_really_sent_stay_within_the_byte_budget() {
    raise_open_file_limit();
    let limits = [
        "--set",
        "limits.max_inflight_bytes=64MiB",
        "--set",
        "limits.max_inflight_bytes_per_connection=16MiB",
    ];
    let process = ServeOptions::in_memory().args(&limits).start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    good_client(&process, "t", 20).await;
    let before = ResidentBytes::of(process.pid()).anonymous;

    // 200 peers each send 3.5 MiB (the broker's window lets 4 MiB through) of an allowed 15 MiB message,
    // and never its end: 700 MiB in all.
    let head = call_head("/logweir.v1.ProduceService/Produce");
    let mut peers: Vec<Flood> = (0..200)
        .map(|_| {
            Flood::new(connect(
                process.grpc(),
                &[&head[..], &promise(15 << 20, 1_000)].concat(),
            ))
        })
        .collect();
    wait_until("all is sent, or refused", DEADLINE, || {
        // Every peer pushes in each round, also those behind one that is not done.
        peers
            .iter_mut()
            .filter_map(|peer| (!peer.push()).then_some(()))
            .count()
            == 0
    });
    let sent: u64 = peers.iter().map(|peer| peer.sent).sum();
    // A good client is served, or told at once that there is no room, which it may try again.
    let started = Instant::now();
    let mut served = false;
    while !served && started.elapsed() < DEADLINE {
        let mut client = GrpcBroker::connect(process.grpc()).await;
        let records = vec![record(None, "good")];
        served = match client
            .produce_records("t", Some(0), v1::Acks::All, records)
            .await
        {
            Ok(result) => result.error.is_none(),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
                false
            }
        };
    }
    assert!(served, "the good client was not served within {DEADLINE:?}");
    let grown = ResidentBytes::of(process.pid())
        .anonymous
        .saturating_sub(before);
    println!(
        "{} MiB were sent, anonymous memory grew by {} MiB",
        sent / MIB,
        grown / MIB
    );
    assert!(sent > 100 * MIB, "only {} MiB were sent", sent / MIB);
    assert!(grown < 400 * MIB, "memory grew by {} MiB", grown / MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_do_not_fill_the_brokers_memory() {
    let dir = tempfile::tempdir().unwrap();
    let process = ServeOptions::on_disk(dir.path())
        .args(&["--flush", "os"])
        .start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    broker.create_topic("good", 1, &[]).await;
    let value = "x".repeat(900_000);
    for _ in 0..100 {
        broker.produce_value("t", 0, &value).await;
    }
    let before = ResidentBytes::of(process.pid()).anonymous;
    let mut streams = Vec::new();
    for _ in 0..50 {
        // A connection each, so that each has a window of its own.
        let mut reader = GrpcBroker::connect(process.grpc()).await;
        let request = v1::FetchStreamRequest {
            partitions: vec![v1::FetchPartition {
                topic: "t".into(),
                partition: 0,
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut stream = reader
            .fetch
            .fetch_stream(request)
            .await
            .unwrap()
            .into_inner();
        stream.next().await.unwrap().unwrap(); // the first answer, and never another
        streams.push((reader, stream));
    }
    let slowest = good_client(&process, "good", 100).await;
    let grown = ResidentBytes::of(process.pid())
        .anonymous
        .saturating_sub(before);
    println!(
        "50 readers that do not read: memory grew by {} MiB, slowest round {slowest:?}",
        grown / MIB
    );
    // 50 readers times 90 MB would be 4.5 GB.
    assert!(grown < 600 * MIB, "memory grew by {} MiB", grown / MIB);
}

#[test]
fn idle_and_slow_peers_of_the_http_listener_do_not_hurt_it() {
    raise_open_file_limit();
    let process = ServeOptions::in_memory().start();
    let mut bad: Vec<TcpStream> = Vec::new();
    for n in 0..500 {
        let first_bytes: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /metrics HT",
            _ => b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nx",
        };
        bad.push(connect(process.http(), first_bytes));
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            logweir_tests::http_get(process.http(), path).status,
            200,
            "{path}"
        );
    }
    let memory = ResidentBytes::of(process.pid()).anonymous;
    assert!(memory < 256 * MIB, "{} MiB", memory / MIB);
}

#[test]
fn bytes_that_are_no_http2_end_that_connection_only() {
    let process = ServeOptions::in_memory().start();
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 1000],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // a TLS greeting
        &[PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(), // a frame of 16 MiB
        &[PREFACE, SETTINGS, &frame(9, 4, &[0x80; 64])].concat(), // CONTINUATION of nothing
    ];
    for bytes in garbage {
        let mut stream = connect(process.grpc(), bytes);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // It may have ended already.
        let _ = stream.shutdown(Shutdown::Write);
        // Whatever it answers, it ends.
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(
            ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        );
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut broker = GrpcBroker::connect(process.grpc()).await;
        broker.create_topic("t", 1, &[]).await;
        assert_eq!(broker.produce_value("t", 0, "x").await, 0);
    });
}
