//! The main job, through the program alone: create a topic, pipe the flights in, read them back.
//! Also with the broker killed in the middle, and killed again before reading.

use std::collections::BTreeMap;
use std::thread;

use logweir_proto::partitioner::partition_for_key;
use logweir_tests::{
    BrokerProcess, DEADLINE, Flights, GrpcBroker, Logweir, ServeOptions, wait_until_async,
};

/// Reads the topic through the program and checks it against the file: every row once, byte for byte,
/// in file order per key, on the partition where Kafka's partitioner puts the key.
fn check_flights(broker: &BrokerProcess, expected: &BTreeMap<&str, Vec<&str>>) {
    let output = Logweir::new(&["consume", "flights", "--output", "json", "--quiet"])
        .server(broker.grpc())
        .succeed();
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut next_offsets = BTreeMap::new();
    for line in output.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let key = record["key"].as_str().unwrap();
        assert_eq!(record["topic"], "flights");
        let partition = partition_for_key(key.as_bytes(), Flights::PARTITIONS).get();
        assert_eq!(record["partition"], partition, "the partition of {key}");
        let next: &mut i64 = next_offsets.entry(partition).or_default();
        assert_eq!(
            record["offset"], *next,
            "the next record of partition {partition}"
        );
        *next += 1;
        assert!(record["timestamp"].as_i64().unwrap() > 0);
        assert_eq!(record["headers"], serde_json::json!([]));
        let value = record["value"].as_str().unwrap().to_owned();
        keys.entry(key.to_owned()).or_default().push(value);
    }
    let rows: usize = expected.values().map(Vec::len).sum();
    assert_eq!(
        keys.values().map(Vec::len).sum::<usize>(),
        rows,
        "rows that came back"
    );
    for (key, lines) in expected {
        assert_eq!(
            keys.get(*key).map(Vec::as_slice).unwrap_or_default(),
            lines,
            "rows of {key}"
        );
    }
}

/// How many records are readable now.
async fn readable(broker: &mut GrpcBroker) -> i64 {
    let topic = broker.describe_topic("flights").await;
    topic
        .partitions
        .iter()
        .filter_map(|p| p.offsets.as_ref())
        .map(|o| o.high_watermark)
        .sum()
}

#[test]
fn every_flight_comes_back_once_and_in_file_order_per_aircraft() {
    let flights = Flights::load();
    let dir = tempfile::tempdir().unwrap();
    let mut broker = ServeOptions::on_disk(dir.path()).start();
    Flights::create_topic(broker.grpc()).succeed();
    let finished = Flights::produce(broker.grpc(), flights.csv()).run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("336"),
        "a summary with the count: {}",
        finished.stderr
    );
    check_flights(&broker, &flights.by_tailnum());

    // Values as plain lines: what `consume` prints without flags is the file again, in another order.
    let output = Logweir::new(&["consume", "flights"])
        .server(broker.grpc())
        .succeed();
    let sorted = |text: &str, skip: usize| {
        let mut lines: Vec<String> = text.lines().skip(skip).map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert!(
        sorted(&output, 0) == sorted(flights.csv(), 1),
        "the lines are those of the file"
    );

    broker.kill9();
    broker.restart();
    check_flights(&broker, &flights.by_tailnum());
    broker.terminate();
    broker.restart();
    check_flights(&broker, &flights.by_tailnum());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_the_flights_loses_and_repeats_nothing() {
    let flights = Flights::load();
    let dir = tempfile::tempdir().unwrap();
    let mut broker = ServeOptions::on_disk(dir.path()).start();
    Flights::create_topic(broker.grpc()).succeed();
    let address = broker.grpc().to_owned();
    let csv = flights.csv().to_owned();
    let producing = thread::spawn(move || Flights::produce(&address, &csv).run());

    // Twice, once the broker has taken some more; the program rides over it.
    for kill_at in [40_000, 150_000] {
        let client = GrpcBroker::connect(broker.grpc()).await;
        let acknowledged = wait_until_async("rows are readable", DEADLINE, || {
            let mut client = client.clone();
            async move { Some(readable(&mut client).await).filter(|count| *count >= kill_at) }
        })
        .await;
        broker.kill9();
        broker.restart();
        let mut client = GrpcBroker::connect(broker.grpc()).await;
        let after = readable(&mut client).await;
        assert!(
            after >= acknowledged,
            "{acknowledged} rows were readable, {after} still are"
        );
    }
    let finished = producing.join().unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    check_flights(&broker, &flights.by_tailnum());
}
