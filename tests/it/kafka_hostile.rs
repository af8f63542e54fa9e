//! The Kafka listener and peers that lie, send nonsense or too much: a good client does not notice them, and the broker's
//! memory does not follow their promises.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{
    KafkaRequest, OffsetFetchRequest, OffsetFetchResponse, OutboundFrameLimits, ProduceRequest,
    ProduceResponse, encode_request,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, KafkaDecode, KafkaEncode, StrBytes};
use logweir_proto::Timestamp;
use logweir_proto::record::{BatchBuilder, Compression};
use logweir_tests::{
    BrokerProcess, DEADLINE, GrpcBroker, ResidentBytes, Seeded, ServeOptions, http_get, open_files,
    proof_count, wait_until,
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const METADATA: i16 = 3;
const OFFSET_FETCH: i16 = 9;
/// A request as long as any but Produce may be.
const LARGEST_SMALL: usize = 1 << 20;

fn start(arguments: &[&str]) -> BrokerProcess {
    ServeOptions::in_memory()
        .args(&["--kafka", "127.0.0.1:0"])
        .args(arguments)
        .start()
}

/// A length, then the bytes.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[..], bytes].concat()
}

/// A header of the old form.
fn header(key: i16, version: i16) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(key);
    bytes.put_i16(version);
    bytes.put_i32(1);
    bytes.put_i16(3);
    bytes.put_slice(b"bad");
    bytes.to_vec()
}

fn encoded<Q: KafkaRequest + KafkaEncode>(request: &Q, version: i16) -> Vec<u8> {
    let mut frame = BytesMut::new();
    let limits = OutboundFrameLimits::new(64 << 20);
    encode_request(
        &mut frame,
        1,
        None,
        request,
        ApiVersion::new(version),
        limits,
    )
    .unwrap();
    frame.to_vec()
}

fn produce_request(value: &[u8]) -> ProduceRequest {
    let mut batch = BatchBuilder::new(Compression::None);
    let now = Timestamp::new(1_700_000_000_000);
    batch.append(now, None, Some(value), &[]).unwrap();
    let mut partition = PartitionProduceData::default();
    partition.records = Some(batch.build().unwrap());
    let mut topic = TopicProduceData::default();
    topic.name = StrBytes::from("t");
    topic.partition_data = vec![partition];
    let mut request = ProduceRequest::default();
    (request.acks, request.timeout_ms) = (-1, 30_000);
    request.topic_data = vec![topic];
    request
}

struct Peer(TcpStream);

impl Peer {
    fn connect(process: &BrokerProcess) -> Self {
        let stream = TcpStream::connect(process.kafka()).expect("the listener is there");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    fn sending(process: &BrokerProcess, bytes: &[u8]) -> Self {
        let mut peer = Self::connect(process);
        // It may have had enough before the end.
        let _ = peer.0.write_all(bytes);
        peer
    }

    /// What follows the length of the next answer.
    fn answer(&mut self) -> std::io::Result<Bytes> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.0.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// Whether the broker closes without an answer.
    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0; 16]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Somebody who produces on, over one connection.
struct Good {
    peer: Peer,
    next: i64,
}

impl Good {
    async fn of(process: &BrokerProcess) -> Self {
        GrpcBroker::connect(process.grpc())
            .await
            .create_topic("t", 1, &[])
            .await;
        Self {
            peer: Peer::connect(process),
            next: 0,
        }
    }

    /// Produces so many records; the slowest answer.
    fn produces(&mut self, count: usize) -> Duration {
        let frame = encoded(&produce_request(b"good"), 7);
        let mut slowest = Duration::ZERO;
        for _ in 0..count {
            let begun = Instant::now();
            self.peer
                .0
                .write_all(&frame)
                .expect("a good connection stays");
            let answer = self.peer.answer().expect("a good client is answered");
            let answer = ProduceResponse::decode_from_bytes(
                answer.slice(4..),
                ApiVersion::new(7),
                DecodeLimits::default(),
            );
            let answer = answer.expect("an answer to Produce");
            let stored = &answer.responses[0].partition_responses[0];
            assert_eq!((stored.error_code, stored.base_offset), (0, self.next));
            self.next += 1;
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    }
}

/// A number of `/metrics`.
fn metric(process: &BrokerProcess, name: &str) -> u64 {
    let text = http_get(process.http(), "/metrics").body;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let number = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    number.trim().parse().expect("a whole number")
}

fn await_nothing_inflight(process: &BrokerProcess) {
    wait_until("nothing is in the broker any more", DEADLINE, || {
        metric(process, "logweir_inflight_bytes") == 0
    });
}

/// The most memory that the process had since `begin_peak`.
fn peak(process: &BrokerProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("/proc counts in kB")
        * 1024
}

fn begin_peak(process: &BrokerProcess) -> u64 {
    fs::write(format!("/proc/{}/clear_refs", process.pid()), "5").unwrap();
    peak(process)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_that_nobody_can_mean_close_their_connection_only() {
    let process = start(&[]);
    let mut good = Good::of(&process).await;
    let lengths = [-1, i32::MIN, 0, i32::MAX, 16 << 20 | 1];
    for length in lengths {
        let bytes = [&length.to_be_bytes()[..], &header(METADATA, 4)].concat();
        assert!(Peer::sending(&process, &bytes).is_closed(), "{length}");
        wait_until("it is logged", DEADLINE, || {
            process
                .log()
                .contains(&format!("a request says that it has {length} bytes"))
        });
        good.produces(3);
    }
    let others: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0xff; 1_000],
    ];
    for bytes in others {
        assert!(Peer::sending(&process, bytes).is_closed(), "{bytes:?}");
        good.produces(3);
    }
    await_nothing_inflight(&process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_promise_50_mib_and_send_nothing_do_not_hurt_a_good_client() {
    let process = start(&["--set", "limits.max_request_bytes=50MiB"]);
    let mut good = Good::of(&process).await;
    good.produces(50);
    let (files, memory) = (
        open_files(process.pid()),
        ResidentBytes::of(process.pid()).anonymous,
    );
    let mut promise = (50_i32 << 20).to_be_bytes().to_vec();
    promise.extend(header(PRODUCE, 9));
    let mut bad: Vec<Peer> = (0..100)
        .map(|_| Peer::sending(&process, &promise))
        .collect();
    wait_until("all have promised", DEADLINE, || {
        metric(&process, "logweir_inflight_bytes") >= 100 * 1_000
    });
    let mut slowest = good.produces(200);
    // Some send on, a little at a time.
    for _ in 0..20 {
        for peer in bad.iter_mut().step_by(5) {
            peer.0.write_all(&[0; 100]).expect("it is still read from");
        }
        slowest = slowest.max(good.produces(10));
    }
    let grown = ResidentBytes::of(process.pid())
        .anonymous
        .saturating_sub(memory);
    println!(
        "slowest {slowest:?}, anonymous memory grew by {} MiB",
        grown / MIB
    );
    assert!(slowest < DEADLINE / 10, "{slowest:?}");
    assert!(grown < 96 * MIB, "memory grew by {} MiB", grown / MIB);
    drop(bad);
    await_nothing_inflight(&process);
    wait_until("their connections are closed", DEADLINE, || {
        open_files(process.pid()) <= files + 2
    });
    good.produces(10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_end_early_close_their_connection_only() {
    let process = start(&[]);
    let mut good = Good::of(&process).await;
    let frame = encoded(&produce_request(b"bad"), 9);
    for end in 0..frame.len() {
        // The peer is gone in the middle of a frame.
        let mut gone = Peer::sending(&process, &frame[..end]);
        gone.0.shutdown(Shutdown::Write).unwrap();
        assert!(gone.is_closed(), "{end} bytes and the end");
        // The frame is whole, and what is in it is not.
        if end > 4 {
            let mut short = Peer::sending(&process, &framed(&frame[4..end]));
            assert!(short.is_closed(), "{end} bytes in a frame");
        }
    }
    good.produces(10);
    await_nothing_inflight(&process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_served_closes_its_connection_with_a_line_that_names_it() {
    let process = start(&[]);
    let mut good = Good::of(&process).await;
    for (key, version, line) in [
        (4, 7, "API 4 (version 7) is not served"),
        (24, 3, "API 24 (version 3) is not served"),
        (-1, 0, "API -1 (version 0) is not served"),
        (i16::MAX, 0, "API 32767 (version 0) is not served"),
        (METADATA, 99, "Metadata is served in versions 0 to "),
        (FETCH, 3, "Fetch is served in versions 4 to "),
        (FETCH, -1, "and was asked for in -1"),
        (
            PRODUCE,
            12,
            "Produce is served in versions 0 to 11, and was asked for in 12",
        ),
    ] {
        let bytes = framed(&[header(key, version), vec![0; 20]].concat());
        assert!(Peer::sending(&process, &bytes).is_closed(), "{line}");
        wait_until(line, DEADLINE, || process.log().contains(line));
        good.produces(3);
    }
    assert!(process.log().contains("client_id"), "{}", process.log());
    await_nothing_inflight(&process);
}

fn offset_fetch(groups: usize, name_bytes: usize) -> Vec<u8> {
    let group = |n: usize| {
        let mut group = OffsetFetchRequestGroup::default();
        group.group_id = format!("{n:0name_bytes$}").into();
        group.topics = None;
        group
    };
    let mut request = OffsetFetchRequest::default();
    request.groups = (0..groups).map(group).collect();
    encoded(&request, 8)
}

/// A mebibyte of groups of a few bytes each is some twenty mebibytes of structs, and as much again in the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_full_of_tiny_groups_does_not_fill_the_memory() {
    let process = start(&["--set", "limits.max_inflight_bytes=128MiB"]);
    let mut good = Good::of(&process).await;
    let frame = offset_fetch(99_000, 7);
    assert!(
        (900_000..LARGEST_SMALL).contains(&frame.len()),
        "{}",
        frame.len()
    );
    let before = begin_peak(&process);
    let mut peer = Peer::sending(&process, &frame);
    let answer = peer.answer().expect("it is answered");
    let answer = OffsetFetchResponse::decode_from_bytes(
        answer.slice(5..),
        ApiVersion::new(8),
        DecodeLimits::default(),
    );
    assert_eq!(
        answer.expect("an answer to OffsetFetch").groups.len(),
        99_000
    );
    let one = peak(&process).saturating_sub(before);
    good.produces(5);

    // Twenty at a time: as many are decoded as the budget has room for, and the others wait.
    let before = begin_peak(&process);
    let mut peers: Vec<Peer> = (0..20).map(|_| Peer::sending(&process, &frame)).collect();
    for peer in &mut peers {
        peer.answer().expect("it is answered");
    }
    let twenty = peak(&process).saturating_sub(before);
    println!(
        "one takes {} MiB, twenty take {} MiB",
        one / MIB,
        twenty / MIB
    );
    assert!(one < 96 * MIB, "one takes {} MiB", one / MIB);
    assert!(twenty < 300 * MIB, "twenty take {} MiB", twenty / MIB);
    await_nothing_inflight(&process);
    good.produces(5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_produce_may_be_larger_than_a_mebibyte() {
    let process = start(&[]);
    let mut good = Good::of(&process).await;
    let large = framed(&[header(OFFSET_FETCH, 5), vec![0; LARGEST_SMALL]].concat());
    assert!(Peer::sending(&process, &large).is_closed());
    let line = format!(
        "a request for OffsetFetch has {} bytes; up to",
        large.len() - 4
    );
    wait_until(&line, DEADLINE, || process.log().contains(&line));
    good.produces(1);
    // A record of a batch that is larger is refused by the topic, in an answer.
    let records = encoded(&produce_request(&vec![b'x'; 2 * LARGEST_SMALL]), 7);
    let mut peer = Peer::sending(&process, &records);
    let answer = ProduceResponse::decode_from_bytes(
        peer.answer().expect("it is answered").slice(4..),
        ApiVersion::new(7),
        DecodeLimits::default(),
    );
    let answer = answer.expect("an answer to Produce");
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 10);
    await_nothing_inflight(&process);
}

/// The frames of the recording, without their lengths: every API in every version, as the tests of the listener send them.
/// There each has its length before it.
fn recorded() -> Vec<Bytes> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/kafka_hostile/requests.bin");
    let recording = fs::read(&path).expect("the recording is there");
    let (mut frames, mut rest) = (Vec::new(), &recording[..]);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap();
        let (frame, after) = after.split_at(length);
        frames.push(Bytes::copy_from_slice(frame));
        rest = after;
    }
    frames
}

/// Changes a frame: bytes become others, go, come twice, or are numbers that are at the edge of something.
fn mutate(frame: &[u8], chance: &mut Seeded) -> Vec<u8> {
    const EDGES: [&[u8]; 8] = [
        &[0xff; 2],
        &[0xff; 4],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x80, 0, 0, 0],
        &[0; 4],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff; 8],
        &[0x80; 10],
    ];
    let below = |chance: &mut Seeded, bound: usize| {
        usize::try_from(chance.below(u64::try_from(bound).unwrap())).unwrap()
    };
    let mut bytes = frame.to_vec();
    for _ in 0..=chance.below(2) {
        // The key and the version stay most of the time, so that what is behind them is reached.
        let first = if chance.below(20) == 0 {
            0
        } else {
            4.min(bytes.len())
        };
        let at = first + below(chance, bytes.len() - first + 1);
        let end = (at + 1 + below(chance, 4)).min(bytes.len());
        match chance.below(10) {
            0..3 if at < bytes.len() => bytes[at] = u8::try_from(chance.below(256)).unwrap(),
            3..6 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            6 => bytes.truncate(at.max(1)),
            7 if at < end => drop(bytes.drain(at..end)),
            8 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            _ => {
                let edge = EDGES[below(chance, EDGES.len())];
                let end = (at + edge.len()).min(bytes.len());
                drop(bytes.splice(at..end, edge.iter().copied()));
            }
        }
    }
    if bytes.is_empty() { vec![0] } else { bytes }
}

/// Sends frames over as many connections as it takes; how many were sent, and how many bytes were answered.
async fn send_mutated(address: String, mut chance: Seeded, count: u64) -> (u64, usize) {
    /// Frames of one connection, of which the first that cannot be read ends it.
    const AT_ONCE: u64 = 4;
    const PATIENCE: Duration = Duration::from_millis(500);
    let frames = recorded();
    let (mut sent, mut answered) = (0, 0);
    while sent < count {
        let mut bytes = Vec::new();
        for _ in 0..AT_ONCE {
            let which = usize::try_from(chance.below(frames.len() as u64)).unwrap();
            bytes.extend(framed(&mutate(&frames[which], &mut chance)));
        }
        let mut stream = tokio::net::TcpStream::connect(&address)
            .await
            .expect("the listener is there");
        // So that no closed connection keeps its port for a minute.
        stream.set_zero_linger().unwrap();
        if stream.write_all(&bytes).await.is_ok() && stream.shutdown().await.is_ok() {
            // Until the broker closes, or says nothing for long because a request waits.
            let mut scratch = [0; 16_384];
            while let Ok(Ok(read @ 1..)) = timeout(PATIENCE, stream.read(&mut scratch)).await {
                answered += read;
            }
        }
        sent += AT_ONCE;
    }
    (sent, answered)
}

/// A tenth of a million, or all with `LOGWEIR_PROOF=full`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_requests_neither_stop_the_broker_nor_stay_in_it() {
    const SENDERS: u64 = 8;
    // Names of topics change, too, and topics are made by asking for them.
    let mut process = start(&[
        "--set",
        "limits.max_inflight_bytes=64MiB",
        "--set",
        "limits.max_topics=100",
        "--set",
        "limits.max_partitions=500",
    ]);
    let mut good = Good::of(&process).await;
    let mut chance = Seeded::from_environment();
    let before = begin_peak(&process);
    let each = proof_count(1_000_000) / SENDERS;
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            // Each sender has a seed of its own, which follows from the one that is printed.
            let mut own = chance.clone();
            for _ in 0..chance.below(1_000) {
                own.below(2);
            }
            tokio::spawn(send_mutated(process.kafka().to_owned(), own, each))
        })
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_over);
    let good = std::thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            good.produces(10);
        }
        good
    });
    let (mut sent, mut answered) = (0, 0);
    for sender in senders {
        let (more, bytes) = sender.await.expect("no sender fails");
        (sent, answered) = (sent + more, answered + bytes);
    }
    is_over.store(true, Ordering::Relaxed);
    let mut good = good.join().expect("a good client is served meanwhile");
    good.produces(10);
    let log = process.log();
    assert!(!log.contains("panicked"), "{log}");
    let grown = peak(&process).saturating_sub(before);
    println!(
        "{sent} mutated requests, {answered} bytes answered, memory grew by {} MiB at most",
        grown / MIB
    );
    // Many are still requests: what is behind the decoder is reached, too.
    assert!(answered as u64 > 5 * sent, "{answered} bytes");
    assert!(grown < 512 * MIB, "memory grew by {} MiB", grown / MIB);
    // A fetch that was told to wait for minutes, or a member for its group, still does: with its own few bytes.
    wait_until("what is left is little", DEADLINE, || {
        metric(&process, "logweir_inflight_bytes") < 256 << 10
    });
    assert_eq!(http_get(process.http(), "/healthz").status, 200);
    assert_eq!(http_get(process.http(), "/readyz").status, 200);
    process.signal(Signal::TERM);
    assert!(process.wait_exit(DEADLINE).success(), "{}", process.log());
    let log = process.log();
    assert!(!log.contains("panicked"), "{log}");
}
