//! What a host controls: crashes, time and faults, in process and over a socket.

use logweir_client::ClientConfig;
use logweir_storage::disk::PowerCut;

use super::*;
use crate::config::FlushMode;
use crate::faults::{Api, DiskFault, Fault};
use crate::testing::{eventually, read_topic};

const DAY: Duration = Duration::from_secs(86_400);

/// A client over the gRPC listener.
fn remote(broker: &Broker) -> Client {
    let address = broker.grpc_addr().expect("it listens").to_string();
    Client::builder()
        .connect_lazy(address)
        .expect("a valid address")
}

/// A client that gives up soon.
fn impatient(broker: &Broker) -> Client {
    let config = ClientConfig {
        request_timeout: Duration::from_millis(100),
        ..ClientConfig::default()
    };
    broker.client_with(config).expect("valid settings")
}

async fn count(broker: &Broker, topic: &str) -> usize {
    read_topic(broker, topic).await.expect("reads").len()
}

#[tokio::test]
async fn clients_go_on_after_a_crash_on_the_same_ports_and_nothing_acknowledged_is_lost() {
    let broker = Broker::start(Config::in_memory()).await.expect("starts");
    let addresses = (broker.grpc_addr(), broker.http_addr());
    for client in [broker.client().expect("default settings"), remote(&broker)] {
        send(&client, "orders", &["a", "b"]).await;
        for cut in [PowerCut::LoseUnsynced, PowerCut::KeepAll] {
            broker.crash(cut).await.expect("crashes");
            let address = addresses.0.expect("on");
            let refused = tokio::net::TcpStream::connect(address).await;
            let refused = refused.expect_err("the broker is down").kind();
            assert_eq!(refused, io::ErrorKind::ConnectionRefused);
            broker.restart().await.expect("restarts");
            assert_eq!((broker.grpc_addr(), broker.http_addr()), addresses);
            send(&client, "orders", &["c"]).await;
        }
    }
    let read = read(&remote(&broker), "orders").await;
    assert_eq!(values(&read), ["a", "b", "c", "c", "a", "b", "c", "c"]);
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_producer_that_is_under_way_lives_through_crashes_and_stores_each_record_once() {
    let broker = Arc::new(Broker::start(quiet()).await.expect("starts"));
    let producer = broker
        .client()
        .expect("settings")
        .producer()
        .expect("settings");
    let crasher = Arc::clone(&broker);
    let crashes = tokio::spawn(async move {
        for seed in 0..5 {
            let cut = PowerCut::LoseUnsynced;
            crasher.crash_with_seed(cut, seed).await.expect("crashes");
            crasher.restart().await.expect("restarts");
            tokio::task::yield_now().await;
        }
    });
    let mut deliveries = Vec::new();
    for n in 0..500 {
        let record = ProducerRecord::new("orders").value(n.to_string());
        deliveries.push(producer.send(record).await.expect("buffered"));
        tokio::task::yield_now().await;
    }
    for delivery in deliveries {
        delivery.await.expect("acknowledged");
    }
    crashes.await.expect("no panic");
    let read = read_topic(&broker, "orders").await.expect("reads");
    let read: Vec<String> = read
        .into_iter()
        .map(|record| String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned())
        .collect();
    let sent: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    assert_eq!(read, sent);
}

/// The client took a connection for made, and its first request for one that was lost with it: it tried again for
/// half a minute, or for a whole one where it read.
#[cfg(feature = "http")]
#[tokio::test]
async fn a_client_that_is_given_the_http_port_is_told_at_once_that_it_is_not_the_grpc_one() {
    let broker = Broker::start(Config::in_memory()).await.expect("starts");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let deaf = silent.local_addr().expect("it is bound");
    for address in [broker.http_addr().expect("it listens"), deaf] {
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .connect(address.to_string());
        let connected = tokio::time::timeout(Duration::from_secs(15), client).await;
        let error = connected.expect("it gives up").expect_err("no gRPC there");
        let told = error.to_string();
        assert!(told.contains(&address.to_string()), "{told}");
        assert!(
            told.contains("as gRPC does") && told.contains("--grpc"),
            "{told}"
        );
    }
}

/// A reader asked for the offset after the last it had read. Where a power cut had taken records back and others were
/// written since, it passed over as many of them without a word.
#[tokio::test]
async fn a_reader_notices_that_records_it_has_read_are_lost_and_reads_those_that_took_their_place()
{
    let place = TopicPartition::new("orders", PartitionId::new(0));
    for (policy, over_grpc) in [
        (OutOfRange::Earliest, false),
        (OutOfRange::Latest, true),
        (OutOfRange::Error, true),
    ] {
        let config = Config::in_memory().with_flush(FlushMode::Os);
        let broker = Broker::start(config).await.expect("starts");
        let client = if over_grpc {
            remote(&broker)
        } else {
            broker.client().expect("settings")
        };
        send(&client, "orders", &["kept"]).await;
        broker.restart().await.expect("restarts cleanly");
        send(&client, "orders", &["lost", "lost", "lost"]).await;
        let mut reader = client
            .reader_with(ReaderConfig {
                out_of_range: policy,
                ..ReaderConfig::default()
            })
            .expect("settings");
        reader
            .assign("orders", PartitionId::new(0), StartAt::Earliest)
            .expect("room");
        for expected in ["kept", "lost", "lost", "lost"] {
            let record = reader.next().await.expect("reads").expect("no end");
            assert_eq!(record.value.as_deref(), Some(expected.as_bytes()));
        }
        broker.crash(PowerCut::LoseUnsynced).await.expect("crashes");
        broker.restart().await.expect("restarts");
        let new = ["n1", "n2", "n3", "n4", "n5"];
        send(&client, "orders", &new).await;
        if policy == OutOfRange::Error {
            let error = reader.next().await.expect_err("records are lost");
            assert_eq!(error.code(), Some(ErrorCode::OffsetOutOfRange));
            assert_eq!(error.kind(), logweir_client::ErrorKind::Data);
            assert!(error.action().contains("offset 1"), "{error}");
            let on = StartAt::Offset(Offset::new(1));
            reader.seek(&place, on).expect("assigned");
        }
        for expected in new {
            let record = reader.next().await.expect("reads").expect("no end");
            assert_eq!(record.value.as_deref(), Some(expected.as_bytes()));
        }
        assert_eq!(reader.metrics().offset_resets, 1);
        // A new leader epoch alone is nothing to be told of.
        broker.crash(PowerCut::KeepAll).await.expect("crashes");
        broker.restart().await.expect("restarts");
        send(&client, "orders", &["more"]).await;
        let record = reader.next().await.expect("reads").expect("no end");
        assert_eq!(record.value.as_deref(), Some(&b"more"[..]));
        assert_eq!(reader.metrics().offset_resets, 1);
        broker.shutdown().await.expect("stops");
    }
}

#[tokio::test]
async fn on_a_real_disk_a_kill_is_simulated_and_the_power_is_not() {
    let broker = Broker::start_in_temp_dir(quiet()).await.expect("starts");
    let dir = broker.parts.config.data_dir.clone().expect("on disk");
    let client = broker.client().expect("settings");
    send(&client, "orders", &["a"]).await;
    let refused = broker.crash(PowerCut::LoseUnsynced).await;
    assert!(matches!(refused, Err(BrokerError::NotInMemory(_))));
    broker.crash(PowerCut::KeepAll).await.expect("crashes");
    assert!(matches!(
        broker.crash(PowerCut::KeepAll).await,
        Err(BrokerError::Down)
    ));
    broker.restart().await.expect("restarts");
    assert!(!log_dir(&broker).was_clean());
    broker.restart().await.expect("restarts cleanly");
    assert!(log_dir(&broker).was_clean());
    assert_eq!(count(&broker, "orders").await, 1);
    broker.shutdown().await.expect("stops");
    assert!(!dir.exists(), "{} is left behind", dir.display());
}

#[tokio::test]
async fn a_dropped_broker_takes_its_temporary_folder_with_it() {
    let broker = Broker::start_in_temp_dir(quiet()).await.expect("starts");
    let dir = broker.parts.config.data_dir.clone().expect("on disk");
    let client = impatient(&broker);
    send(&client, "orders", &["a"]).await;
    drop(broker);
    let gone = || std::future::ready(!dir.exists());
    let waited = eventually("the folder is gone", Duration::from_secs(60), gone).await;
    waited.expect("removed");
    let refused = client.admin().list_topics().await.expect_err("no broker");
    assert!(refused.is_retriable(), "{refused}");
}

#[tokio::test]
async fn a_week_passes_when_the_clock_is_moved() {
    let (broker, client) = start(quiet()).await;
    send(&client, "orders", &["old"]).await;
    let before = broker.clock().now();
    broker.clock().advance(8 * DAY);
    send(&client, "orders", &["new"]).await;
    let records = read_topic(&broker, "orders").await.expect("reads");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].offset, Offset::new(1));
    assert!(records[0].timestamp.get() - before.get() >= 8 * 86_400_000);
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_flush_by_time_follows_the_clock() {
    let (broker, client) = start(quiet()).await;
    let topic = NewTopic::new("t").config("flush.ms", "3600000");
    client.admin().create_topic(topic).await.expect("made");
    send(&client, "t", &["a", "b"]).await;
    let durable = async || {
        let described = client.admin().describe_topic("t").await.expect("described");
        described.partitions[0]
            .offsets
            .expect("led here")
            .durable_end_offset
    };
    assert_eq!(durable().await, Offset::ZERO);
    broker.clock().advance(Duration::from_secs(3_601));
    assert_eq!(durable().await, Offset::new(2));
    broker.crash(PowerCut::LoseUnsynced).await.expect("crashes");
    broker.restart().await.expect("restarts");
    assert_eq!(count(&broker, "t").await, 2);
}

#[tokio::test]
async fn what_the_system_did_not_flush_may_be_lost_with_the_power_and_only_then() {
    let lost = async |cut| {
        let (broker, client) = start(quiet().with_flush(FlushMode::Os)).await;
        for _ in 0..20 {
            send(&client, "t", &["a"]).await;
        }
        broker.crash_with_seed(cut, 7).await.expect("crashes");
        broker.restart().await.expect("restarts");
        20 - count(&broker, "t").await
    };
    assert_eq!(lost(PowerCut::KeepAll).await, 0);
    assert!(lost(PowerCut::LoseUnsynced).await > 0);
}

#[tokio::test]
async fn whatever_happens_to_a_produce_request_its_record_is_stored_once() {
    let broker = Broker::start(Config::in_memory()).await.expect("starts");
    let faults = [
        Fault::fail(ErrorCode::NotLeaderOrFollower),
        Fault::delay(Duration::from_millis(5)),
        Fault::duplicate(),
        Fault::disconnect(),
        Fault::disconnect_after(),
        Fault::drop_request(),
        Fault::drop_response(),
    ];
    send(&remote(&broker), "t", &["first"]).await;
    for (round, fault) in faults.into_iter().enumerate() {
        for client in [impatient(&broker), remote(&broker)] {
            let before = count(&broker, "t").await;
            let id = broker
                .faults()
                .inject(fault.clone().on(Api::Produce).topic("t"));
            let hurried = ProducerConfig {
                request_timeout: Duration::from_millis(100),
                ..ProducerConfig::default()
            };
            let producer = client.producer_with(hurried).expect("valid");
            for value in ["a", "b"] {
                let sent = producer.send(ProducerRecord::new("t").value(value)).await;
                sent.expect("buffered").await.expect("acknowledged");
            }
            assert_eq!(broker.faults().fired(id), 1, "round {round}");
            assert_eq!(count(&broker, "t").await, before + 2, "round {round}");
        }
    }
    broker.shutdown().await.expect("all have happened");
}

#[tokio::test]
async fn readers_get_over_faults_of_fetch() {
    let broker = Broker::start(Config::in_memory()).await.expect("starts");
    let client = remote(&broker);
    send(&client, "t", &["a", "b", "c"]).await;
    for fault in [
        Fault::fail(ErrorCode::NotLeaderOrFollower),
        Fault::delay(Duration::from_millis(5)),
        Fault::duplicate(),
        Fault::disconnect(),
        Fault::disconnect_after(),
    ] {
        let id = broker.faults().inject(fault.on(Api::Fetch));
        let read = read(&client, "t").await;
        assert_eq!(values(&read), ["a", "b", "c"]);
        assert_eq!(broker.faults().fired(id), 1);
    }
    broker.shutdown().await.expect("stops");
}

#[tokio::test]
async fn each_api_can_be_made_to_fail_by_its_name() {
    let broker = Broker::start(quiet()).await.expect("starts");
    let client = broker.client().expect("settings");
    let admin = client.admin();
    let fail = |api| broker.faults().fail_next(api, ErrorCode::PolicyViolation);
    let refused = |outcome: Result<(), logweir_client::Error>| {
        let error = outcome.expect_err("a fault was injected");
        assert_eq!(error.code(), Some(ErrorCode::PolicyViolation), "{error}");
    };
    fail(Api::CreateTopics);
    refused(admin.create_topic(NewTopic::new("t")).await.map(drop));
    admin.create_topic(NewTopic::new("t")).await.expect("made");
    fail(Api::Metadata);
    refused(admin.describe_topic("t").await.map(drop));
    fail(Api::Metadata);
    refused(admin.list_topics().await.map(drop));
    fail(Api::DescribeConfigs);
    refused(admin.describe_config("t").await.map(drop));
    fail(Api::AlterConfigs);
    let changes = ConfigChanges::new().set("retention.ms", "1000");
    refused(admin.alter_config("t", changes).await);
    fail(Api::CreatePartitions);
    refused(admin.create_partitions("t", 2).await.map(drop));
    let first = PartitionId::new(0);
    fail(Api::ListOffsets);
    refused(
        admin
            .list_offset("t", first, OffsetSpec::Latest)
            .await
            .map(drop),
    );
    fail(Api::DeleteRecords);
    refused(admin.delete_records("t", first, None).await.map(drop));
    fail(Api::DeleteTopics);
    refused(admin.delete_topic("t").await);
    assert_eq!(
        admin
            .describe_topic("t")
            .await
            .expect("left alone")
            .partitions
            .len(),
        1
    );
    broker.shutdown().await.expect("all have happened");
}

#[tokio::test]
async fn a_fault_that_never_happened_is_told_at_the_end() {
    let broker = Broker::start(quiet()).await.expect("starts");
    broker
        .faults()
        .inject(Fault::duplicate().on(Api::Produce).topic("orders"));
    broker.faults().inject(Fault::disconnect().optional());
    let unfired = broker.shutdown().await.expect_err("one never happened");
    let text = unfired.to_string();
    assert!(
        text.contains("duplicate the next Produce call, topic orders"),
        "{text}"
    );
    assert!(!text.contains("disconnect"), "{text}");
}

#[tokio::test]
async fn a_broken_disk_takes_the_directory_offline_until_a_restart() {
    let (broker, client) = start(quiet()).await;
    send(&client, "t", &["a"]).await;
    let broken = broker
        .faults()
        .inject_disk(DiskFault::FailSync)
        .expect("in memory");
    let config = ProducerConfig {
        delivery_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_millis(100),
        ..ProducerConfig::default()
    };
    let producer = client.producer_with(config).expect("valid");
    let record = || ProducerRecord::new("t").value("b");
    let failed = producer.send(record()).await.expect("buffered").await;
    failed.expect_err("it cannot be made durable");
    assert!(broker.faults().fired(broken) > 0);
    broker.faults().remove(broken);
    let failed = producer.send(record()).await.expect("buffered").await;
    failed.expect_err("a failed sync is not tried again");
    broker
        .restart()
        .await
        .expect("what could not be closed is recovered");
    send(&client, "t", &["c"]).await;
    let slow = DiskFault::Slow(Duration::from_millis(2));
    broker.faults().inject_disk(slow).expect("in memory");
    send(&client, "t", &["d"]).await;
    let read = read(&client, "t").await;
    let read = values(&read);
    assert!(
        read.first() == Some(&"a") && read.ends_with(&["c", "d"]),
        "{read:?}"
    );
    broker.shutdown().await.expect("both have happened");
}

#[tokio::test]
async fn the_end_of_a_part_is_a_failure_and_a_crash_on_purpose_is_none() {
    let broker = Arc::new(Broker::start(quiet()).await.expect("starts"));
    let watcher = Arc::clone(&broker);
    let failed = tokio::spawn(async move { watcher.failed().await });
    broker.crash(PowerCut::KeepAll).await.expect("crashes");
    broker.restart().await.expect("restarts");
    tokio::task::yield_now().await;
    assert!(!failed.is_finished());
    let run = broker.run.borrow().clone().expect("it runs");
    let watcher = Arc::clone(&broker);
    let second = tokio::spawn(async move { watcher.failed().await });
    run.end_quorum_for_test().await;
    for waiting in [failed, second] {
        let failure = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        let failure = failure.expect("it is noticed").expect("no panic");
        assert!(failure.to_string().contains("metadata"), "{failure}");
    }
    let late = tokio::time::timeout(Duration::from_secs(30), broker.failed()).await;
    late.expect("who asks late is told, too");
}

/// A host that waits for failures and restarts in another arm of its `select!` polls the first no more.
#[tokio::test]
async fn a_wait_for_failures_that_is_not_polled_does_not_hold_the_data_directory() {
    let broker = Broker::start_in_temp_dir(quiet()).await.expect("starts");
    let failed = broker.failed();
    tokio::pin!(failed);
    let at_once = std::future::poll_fn(|cx| std::task::Poll::Ready(failed.as_mut().poll(cx)));
    assert!(at_once.await.is_pending());
    let begun = Instant::now();
    broker.restart().await.expect("restarts");
    assert!(begun.elapsed() < RELEASE_TIMEOUT);
    assert!(log_dir(&broker).was_clean());
}

/// A reader that had read ahead and was then left alone held its stream, and with it the data directory.
#[tokio::test]
async fn a_reader_that_is_left_alone_does_not_hold_up_the_end() {
    let broker = Broker::start_in_temp_dir(quiet()).await.expect("starts");
    let client = broker.client().expect("settings");
    for _ in 0..8 {
        let value = "v".repeat(900_000);
        send(&client, "t", &[&value, &value]).await;
    }
    let mut reader = client.reader().expect("settings");
    reader
        .assign_topic("t", StartAt::Earliest)
        .await
        .expect("assigned");
    reader.next().await.expect("reads").expect("a record");
    broker.restart().await.expect("the directory is let go of");
    let next = reader.next().await.expect("reads on").expect("a record");
    assert_eq!(next.offset, Offset::new(1));
    broker.shutdown().await.expect("stops");
}

/// Only the listeners' calls were waited for: a record that was stored got no answer in process.
#[tokio::test]
async fn calls_in_process_that_are_under_way_are_answered_before_the_end() {
    let (broker, client) = start(quiet()).await;
    send(&client, "t", &["a"]).await;
    let slow = DiskFault::Slow(Duration::from_millis(100));
    let slow = broker.faults().inject_disk(slow).expect("in memory");
    let mut service = ProduceServiceClient::new(broker.parts.in_process.clone());
    let append = v1::PartitionAppend {
        topic: "t".to_owned(),
        partition: Some(0),
        data: Some(v1::partition_append::Data::Batch(batch(0))),
        ..v1::PartitionAppend::default()
    };
    let request = v1::ProduceRequest {
        appends: vec![append],
        ..v1::ProduceRequest::default()
    };
    let call = tokio::spawn(async move { service.produce(request).await });
    let under_way = || std::future::ready(broker.faults().fired(slow) > 0);
    let waited = eventually("the append syncs", Duration::from_secs(30), under_way).await;
    waited.expect("it does");
    broker.shutdown().await.expect("stops");
    let answer = call
        .await
        .expect("no panic")
        .expect("it is answered")
        .into_inner();
    assert!(answer.results[0].error.is_none(), "{answer:?}");
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let mut start = std::pin::pin!(Broker::start(quiet()));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(refused) = start.as_mut().poll(&mut cx) else {
        unreachable!("it does not wait for what it does not have");
    };
    assert!(matches!(refused, Err(BrokerError::WithoutRuntime)));
}

#[tokio::test]
async fn a_fault_of_the_disk_may_go_without_happening_if_that_is_allowed() {
    for allowed in [true, false] {
        let broker = Broker::start(quiet()).await.expect("starts");
        let slow = DiskFault::Slow(Duration::MAX);
        let slow = broker.faults().inject_disk(slow).expect("in memory");
        broker.faults().remove(slow);
        if allowed {
            broker.faults().allow_unfired(slow);
        }
        assert_eq!(broker.shutdown().await.is_ok(), allowed);
    }
}
