//! The gRPC contract as a client in another language meets it: reflection, health, plain records,
//! acks, typed errors, limits.
#![expect(
    clippy::too_many_lines,
    reason = "a conversation with the broker is told in one piece"
)]

use std::time::{Duration, Instant};

use logweir_proto::grpc::v1;
use logweir_proto::partitioner::partition_for_key;
use logweir_tests::{
    DEADLINE, GrpcBroker, ServeOptions, earliest, latest, record, wait_until_async,
};
use prost::Message;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

const SERVICES: [&str; 4] = [
    "logweir.v1.ClusterService",
    "logweir.v1.FetchService",
    "logweir.v1.ProduceService",
    "logweir.v1.TopicService",
];

async fn reflect(
    broker: &GrpcBroker,
    request: reflection::server_reflection_request::MessageRequest,
) -> reflection::server_reflection_response::MessageResponse {
    let request = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let mut client = ServerReflectionClient::new(broker.channel());
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    answers
        .into_inner()
        .next()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap()
}

#[tokio::test]
async fn reflection_lists_the_services_and_their_files() {
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;

    let process = ServeOptions::in_memory().start();
    let broker = GrpcBroker::connect(process.grpc()).await;
    let answer = reflect(&broker, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    for service in SERVICES {
        assert!(names.contains(&service), "{service} is not among {names:?}");
        let wanted = MessageRequest::FileContainingSymbol(service.to_owned());
        let answer = reflect(&broker, wanted).await;
        let MessageResponse::FileDescriptorResponse(files) = answer else {
            panic!("{answer:?}")
        };
        assert!(!files.file_descriptor_proto.is_empty());
    }
    assert!(!names.iter().any(|n| n.contains("internal")), "{names:?}");
}

/// Older grpcurl asks for the older version.
#[tokio::test]
async fn reflection_is_there_in_its_older_version() {
    use tonic_reflection::pb::v1alpha as older;

    let process = ServeOptions::in_memory().start();
    let broker = GrpcBroker::connect(process.grpc()).await;
    let wanted = SERVICES[0].to_owned();
    let request = older::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            older::server_reflection_request::MessageRequest::FileContainingSymbol(wanted),
        ),
    };
    let mut client = older::server_reflection_client::ServerReflectionClient::new(broker.channel());
    let answers = client.server_reflection_info(tokio_stream::once(request));
    let answer = answers.await.unwrap().into_inner().next().await;
    let answer = answer.unwrap().unwrap().message_response.unwrap();
    let older::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer
    else {
        panic!("{answer:?}")
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn health_serves_for_the_server_and_each_service() {
    let process = ServeOptions::in_memory().start();
    let broker = GrpcBroker::connect(process.grpc()).await;
    let mut health = HealthClient::new(broker.channel());
    for service in SERVICES.into_iter().chain([""]) {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
}

#[tokio::test]
async fn plain_records_come_back_as_they_were_sent() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let header = |key: &str, value: Option<&'static [u8]>| v1::Header {
        key: key.to_owned(),
        value: value.map(Into::into),
    };
    let sent = vec![
        v1::Record {
            key: Some("k".into()),
            value: Some("v".into()),
            headers: vec![
                header("h", Some(b"1")),
                header("h", None),
                header("", Some(b"")),
            ],
            timestamp_ms: Some(1_700_000_000_000),
            offset: 0,
        },
        // Null and empty are not the same, for keys and values.
        v1::Record {
            key: None,
            value: Some("".into()),
            timestamp_ms: Some(7),
            offset: 1,
            ..Default::default()
        },
        v1::Record {
            key: Some("".into()),
            value: None,
            timestamp_ms: Some(0),
            offset: 2,
            ..Default::default()
        },
        v1::Record {
            value: Some(vec![0xff; 100_000].into()),
            timestamp_ms: Some(9),
            offset: 3,
            ..Default::default()
        },
    ];
    for (round, compression) in (0_i64..).zip([
        v1::Compression::None,
        v1::Compression::Gzip,
        v1::Compression::Snappy,
        v1::Compression::Lz4,
        v1::Compression::Zstd,
    ]) {
        let append = v1::PartitionAppend {
            topic: "t".into(),
            partition: Some(0),
            data: Some(v1::partition_append::Data::Records(v1::RecordList {
                records: sent.clone(),
            })),
            compression: compression.into(),
            ..Default::default()
        };
        let request = v1::ProduceRequest {
            correlation_id: 5,
            appends: vec![append],
            ..Default::default()
        };
        let answer = broker.produce.produce(request).await.unwrap().into_inner();
        assert_eq!(answer.correlation_id, 5);
        let result = &answer.results[0];
        assert_eq!(result.error, None, "{compression:?}");
        assert_eq!(
            (result.base_offset, result.record_count),
            (round * 4, 4),
            "{compression:?}"
        );

        let fetched = broker
            .fetch_once("t", 0, round * 4, Duration::ZERO)
            .await
            .unwrap();
        let Some(v1::fetched_partition::Data::Records(list)) = fetched.data else {
            panic!("{compression:?}: no records")
        };
        let expected: Vec<v1::Record> = sent
            .iter()
            .map(|r| v1::Record {
                offset: r.offset + round * 4,
                ..r.clone()
            })
            .collect();
        assert!(
            list.records == expected,
            "{compression:?}: {:?}",
            list.records.first()
        );
        assert_eq!(fetched.next_fetch_offset, (round + 1) * 4);
        assert_eq!(fetched.high_watermark, (round + 1) * 4);
    }
}

#[tokio::test]
async fn keys_go_where_kafka_puts_them_and_the_answer_tells_which_record_went_where() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 7, &[]).await;
    let keys: Vec<String> = (0..200).map(|n| format!("order-{n}")).collect();
    let records = keys.iter().map(|key| record(Some(key), key)).collect();
    let append = v1::PartitionAppend {
        topic: "t".into(),
        data: Some(v1::partition_append::Data::Records(v1::RecordList {
            records,
        })),
        ..Default::default()
    };
    let request = v1::ProduceRequest {
        appends: vec![append],
        ..Default::default()
    };
    let results = broker
        .produce
        .produce(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let mut told = vec![None; keys.len()];
    for result in &results {
        assert_eq!(result.error, None);
        for index in &result.record_indexes {
            told[usize::try_from(*index).unwrap()] = Some(result.partition);
        }
    }
    for (key, told) in keys.iter().zip(told) {
        assert_eq!(
            told,
            Some(partition_for_key(key.as_bytes(), 7).get()),
            "{key}"
        );
    }
    for read in broker.read_topic("t").await {
        assert_eq!(
            read.partition,
            partition_for_key(read.value.as_bytes(), 7).get()
        );
    }
}

#[tokio::test]
async fn acks_all_and_leader_answer_with_the_offset_and_none_stores_without_it() {
    // On a disk, where the default is a sync for every ack, and where the system flushes when it likes.
    for flush in ["per-ack", "os"] {
        let dir = tempfile::tempdir().unwrap();
        let process = ServeOptions::on_disk(dir.path())
            .args(&["--flush", flush])
            .start();
        let mut broker = GrpcBroker::connect(process.grpc()).await;
        broker.create_topic("t", 1, &[]).await;
        for (offset, acks) in (0..).zip([v1::Acks::All, v1::Acks::Leader]) {
            let records = vec![record(None, "x")];
            let result = broker
                .produce_records("t", Some(0), acks, records)
                .await
                .unwrap();
            assert_eq!(
                (result.error, result.base_offset),
                (None, offset),
                "{flush} {acks:?}"
            );
            let topic = broker.describe_topic("t").await;
            let offsets = topic.partitions[0].offsets.unwrap();
            assert_eq!(offsets.high_watermark, offset + 1, "{flush} {acks:?}");
            if flush == "per-ack" {
                assert_eq!(
                    offsets.durable_end_offset,
                    offset + 1,
                    "{acks:?} waited for the disk"
                );
            }
        }
        // No answer to wait for, but it must become readable by itself.
        let append = v1::PartitionAppend {
            topic: "t".into(),
            partition: Some(0),
            data: Some(v1::partition_append::Data::Records(v1::RecordList {
                records: vec![record(None, "unanswered")],
            })),
            ..Default::default()
        };
        let request = v1::ProduceRequest {
            acks: v1::Acks::None.into(),
            appends: vec![append],
            ..Default::default()
        };
        broker.produce.produce(request).await.unwrap();
        let fetched = broker.fetch_once("t", 0, 2, DEADLINE / 2).await.unwrap();
        assert_eq!(fetched.next_fetch_offset, 3, "{flush}: acks=0 is readable");
    }
}

#[tokio::test]
async fn a_produce_stream_appends_and_answers_in_order_and_leaves_acks_none_unanswered() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let requests: Vec<v1::ProduceRequest> = (0_u64..500)
        .map(|n| v1::ProduceRequest {
            correlation_id: n,
            acks: if n % 10 == 3 {
                v1::Acks::None
            } else {
                v1::Acks::All
            }
            .into(),
            appends: vec![v1::PartitionAppend {
                topic: "t".into(),
                partition: Some(0),
                data: Some(v1::partition_append::Data::Records(v1::RecordList {
                    records: vec![record(None, &n.to_string())],
                })),
                ..Default::default()
            }],
            ..Default::default()
        })
        .collect();
    let answers = broker
        .produce
        .produce_stream(tokio_stream::iter(requests))
        .await
        .unwrap();
    let answers: Vec<v1::ProduceResponse> = answers
        .into_inner()
        .map(|answer| answer.unwrap())
        .collect()
        .await;
    let answered: Vec<u64> = answers.iter().map(|a| a.correlation_id).collect();
    assert_eq!(
        answered,
        (0..500).filter(|n| n % 10 != 3).collect::<Vec<_>>()
    );
    for answer in &answers {
        assert_eq!(
            answer.results[0].base_offset,
            i64::try_from(answer.correlation_id).unwrap()
        );
    }
    let read = broker.read_partition("t", 0).await;
    let values: Vec<String> = read.into_iter().map(|r| r.value).collect();
    assert_eq!(values, (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// The typed error in the details of a status.
fn typed(status: &tonic::Status) -> v1::Error {
    let details = tonic_types::pb::Status::decode(status.details()).expect("details are a Status");
    let detail = details.details.first().expect("a status has a detail");
    assert_eq!(detail.type_url, "type.googleapis.com/logweir.v1.Error");
    v1::Error::decode(&*detail.value).unwrap()
}

#[tokio::test]
async fn errors_say_kafkas_code_whether_to_retry_and_what_to_do() {
    let process = ServeOptions::in_memory()
        .args(&["--set", "topics.auto_create_topics_enable=false"])
        .start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker
        .create_topic("t", 2, &[("max.message.bytes", "1000")])
        .await;

    let missing = broker
        .produce_records("absent", Some(0), v1::Acks::All, vec![record(None, "x")])
        .await;
    let error = missing.unwrap().error.unwrap();
    assert_eq!(
        (error.code, error.name.as_str()),
        (3, "UNKNOWN_TOPIC_OR_PARTITION")
    );
    assert!(
        error.retriable && error.message.contains("absent") && !error.action.is_empty(),
        "{error:?}"
    );

    let outside = broker
        .produce_records("t", Some(2), v1::Acks::All, vec![record(None, "x")])
        .await;
    let error = outside.unwrap().error.unwrap();
    assert_eq!(error.code, 3, "{error:?}");

    let large = vec![record(None, &"x".repeat(2000))];
    let error = broker
        .produce_records("t", Some(0), v1::Acks::All, large)
        .await
        .unwrap()
        .error
        .unwrap();
    assert_eq!(
        (error.code, error.name.as_str(), error.retriable),
        (10, "MESSAGE_TOO_LARGE", false)
    );
    assert!(
        error.message.contains("1000"),
        "the limit is named: {error:?}"
    );

    let fetched = broker.fetch_once("t", 0, 55, Duration::ZERO).await.unwrap();
    let error = fetched.error.unwrap();
    assert_eq!(
        (error.code, error.name.as_str()),
        (1, "OFFSET_OUT_OF_RANGE"),
        "{error:?}"
    );

    // One bad append does not stop its neighbours.
    let append = |topic: &str, partition| v1::PartitionAppend {
        topic: topic.into(),
        partition: Some(partition),
        data: Some(v1::partition_append::Data::Records(v1::RecordList {
            records: vec![record(None, "x")],
        })),
        ..Default::default()
    };
    let request = v1::ProduceRequest {
        appends: vec![append("t", 0), append("absent", 0), append("t", 1)],
        ..Default::default()
    };
    let results = broker
        .produce
        .produce(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let failed: Vec<bool> = results.iter().map(|r| r.error.is_some()).collect();
    assert_eq!(failed, [false, true, false]);

    // A request that is wrong as a whole is a status with the same error inside.
    let many = v1::ProduceRequest {
        appends: vec![append("t", 0); 10_001],
        ..Default::default()
    };
    let status = broker.produce.produce(many).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(typed(&status).name, "INVALID_REQUEST", "{status:?}");
    assert!(
        typed(&status).message.contains("10000"),
        "the limit is named: {status:?}"
    );
    let request = v1::ProduceRequest {
        transactional_id: Some("t".into()),
        appends: vec![append("t", 0)],
        ..Default::default()
    };
    let refused = broker.produce.produce(request).await.unwrap().into_inner();
    let error = refused.results[0].error.clone().unwrap();
    assert!(
        !error.retriable && error.message.contains("transaction"),
        "{error:?}"
    );

    let request = v1::ProduceRequest {
        acks: 77,
        appends: vec![append("t", 0)],
        ..Default::default()
    };
    let status = broker.produce.produce(request).await.unwrap_err();
    assert_eq!(typed(&status).name, "INVALID_REQUIRED_ACKS", "{status:?}");
}

#[tokio::test]
async fn bytes_that_are_no_batch_are_refused_and_change_nothing() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let mut builder =
        logweir_proto::record::BatchBuilder::new(logweir_proto::record::Compression::None);
    builder
        .append(
            logweir_proto::Timestamp::new(1),
            Some(b"k"),
            Some(b"v"),
            &[],
        )
        .unwrap();
    let good = builder.build().unwrap();
    let mut wrong_crc = good.to_vec();
    *wrong_crc.last_mut().unwrap() ^= 1;
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        b"not a batch".to_vec(),
        good[..good.len() - 1].to_vec(),
        [&good[..], &good[..]].concat(),
        wrong_crc,
        vec![0xff; 4096],
    ];
    for batch in cases {
        let append = v1::PartitionAppend {
            topic: "t".into(),
            partition: Some(0),
            data: Some(v1::partition_append::Data::Batch(batch.clone().into())),
            ..Default::default()
        };
        let request = v1::ProduceRequest {
            appends: vec![append],
            ..Default::default()
        };
        let refused = match broker.produce.produce(request).await {
            Ok(answer) => answer.into_inner().results[0].error.is_some(),
            Err(status) => status.code() == Code::InvalidArgument,
        };
        assert!(
            refused,
            "{} bytes: {:?}",
            batch.len(),
            &batch[..batch.len().min(20)]
        );
    }
    assert_eq!(broker.list_offset("t", 0, latest()).await.offset, 0);
    assert_eq!(broker.list_offset("t", 0, earliest()).await.offset, 0);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_with_the_limit_and_the_connection_goes_on() {
    let limit = [
        "--set",
        "limits.max_request_bytes=1048576",
        "--set",
        "log.max_message_bytes=65536",
    ];
    let process = ServeOptions::in_memory().args(&limit).start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let large = vec![record(None, &"x".repeat(2 << 20))];
    let status = broker
        .produce_records("t", Some(0), v1::Acks::All, large.clone())
        .await
        .unwrap_err();
    let told = [
        Code::ResourceExhausted,
        Code::OutOfRange,
        Code::InvalidArgument,
    ];
    assert!(told.contains(&status.code()), "{status:?}");
    assert!(
        status.message().contains("1048576"),
        "the limit is named: {status:?}"
    );
    assert_eq!(
        broker.produce_value("t", 0, "small").await,
        0,
        "the broker goes on"
    );
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_stream_only_and_what_came_before_is_answered() {
    let flags = [
        "--set",
        "limits.max_request_bytes=1048576",
        "--set",
        "log.max_message_bytes=65536",
    ];
    let process = ServeOptions::in_memory().args(&flags).start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let request = |value: &str| v1::ProduceRequest {
        appends: vec![v1::PartitionAppend {
            topic: "t".into(),
            partition: Some(0),
            data: Some(v1::partition_append::Data::Records(v1::RecordList {
                records: vec![record(None, value)],
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    let large = "x".repeat(2 << 20);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = broker
        .produce
        .produce_stream(requests)
        .await
        .unwrap()
        .into_inner();
    sender.send(request("small")).await.unwrap();
    let first = answers.next().await.unwrap().unwrap();
    assert_eq!(
        (first.results[0].error.clone(), first.results[0].base_offset),
        (None, 0)
    );
    sender.send(request(&large)).await.unwrap();
    let status = answers.next().await.unwrap().unwrap_err();
    let told = [
        Code::ResourceExhausted,
        Code::OutOfRange,
        Code::InvalidArgument,
    ];
    assert!(told.contains(&status.code()), "{status:?}");
    assert!(
        status.message().contains("1048576"),
        "the limit is named: {status:?}"
    );
    assert_eq!(
        broker.produce_value("t", 0, "the connection goes on").await,
        1
    );
}

#[tokio::test]
async fn a_fetch_waits_for_records_and_no_longer_than_it_was_told() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let started = Instant::now();
    let fetched = broker
        .fetch_once("t", 0, 0, Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(fetched.next_fetch_offset, 0);
    assert!(
        started.elapsed() >= Duration::from_millis(290),
        "{:?}",
        started.elapsed()
    );

    let mut waiting = broker.clone();
    let fetch = tokio::spawn(async move { waiting.fetch_once("t", 0, 0, DEADLINE).await });
    // Woken by the record, whether it was parked already or not.
    broker.produce_value("t", 0, "x").await;
    let fetched = tokio::time::timeout(DEADLINE / 2, fetch)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(fetched.next_fetch_offset, 1);
}

#[tokio::test]
async fn a_fetch_stream_follows_and_ends_where_it_was_told() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 2, &[]).await;
    broker.produce_value("t", 0, "a").await;
    let partition = |partition| v1::FetchPartition {
        topic: "t".into(),
        partition,
        end_offset: Some(3),
        ..Default::default()
    };
    let request = v1::FetchStreamRequest {
        partitions: vec![partition(0), partition(1)],
        format: v1::RecordFormat::Records.into(),
        ..Default::default()
    };
    let mut stream = broker
        .fetch
        .fetch_stream(request)
        .await
        .unwrap()
        .into_inner();
    let producing = tokio::spawn(async move {
        for (partition, value) in [
            (0, "b"),
            (1, "d"),
            (1, "e"),
            (0, "c"),
            (1, "f"),
            (1, "beyond"),
        ] {
            broker.produce_value("t", partition, value).await;
        }
    });
    let mut values = [String::new(), String::new()];
    while let Some(answer) = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap() {
        for fetched in answer.unwrap().partitions {
            assert_eq!(fetched.error, None);
            let Some(v1::fetched_partition::Data::Records(list)) = fetched.data else {
                continue;
            };
            for record in list.records {
                let text = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                values[usize::try_from(fetched.partition).unwrap()].push_str(&text);
            }
        }
    }
    producing.await.unwrap();
    assert_eq!(values, ["abc", "def"]);
}

#[tokio::test]
async fn idempotent_batches_sent_twice_are_stored_once_and_answered_alike() {
    use logweir_proto::record::{BatchBuilder, Compression};
    use logweir_proto::{ProducerEpoch, ProducerId, Sequence, Timestamp};

    let dir = tempfile::tempdir().unwrap();
    let mut process = ServeOptions::on_disk(dir.path()).start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let granted = broker
        .produce
        .init_producer_id(v1::InitProducerIdRequest::default())
        .await
        .unwrap()
        .into_inner();
    let batch = |sequence| {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(
            ProducerId::new(granted.producer_id),
            ProducerEpoch::new(i16::try_from(granted.producer_epoch).unwrap()),
            Sequence::new(sequence),
        );
        builder
            .append(
                Timestamp::new(1),
                None,
                Some(sequence.to_string().as_bytes()),
                &[],
            )
            .unwrap();
        v1::ProduceRequest {
            appends: vec![v1::PartitionAppend {
                topic: "t".into(),
                partition: Some(0),
                data: Some(v1::partition_append::Data::Batch(builder.build().unwrap())),
                ..Default::default()
            }],
            ..Default::default()
        }
    };
    for sequence in 0..3 {
        for attempt in ["first", "repeated"] {
            let answer = broker
                .produce
                .produce(batch(sequence))
                .await
                .unwrap()
                .into_inner();
            let result = &answer.results[0];
            assert_eq!(result.error, None, "{attempt} {sequence}");
            assert_eq!(
                result.base_offset,
                i64::from(sequence),
                "{attempt} {sequence}"
            );
        }
    }
    // What producers sent is remembered over a kill, too; a gap is refused.
    process.kill9();
    process.restart();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    let answer = broker.produce.produce(batch(2)).await.unwrap().into_inner();
    assert_eq!(
        (
            answer.results[0].error.clone(),
            answer.results[0].base_offset
        ),
        (None, 2)
    );
    let answer = broker.produce.produce(batch(9)).await.unwrap().into_inner();
    let error = answer.results[0].error.clone().unwrap();
    assert_eq!(error.name, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    assert_eq!(broker.read_partition("t", 0).await.len(), 3);

    // And another producer gets another id, over kills.
    let other = broker
        .produce
        .init_producer_id(v1::InitProducerIdRequest::default())
        .await;
    assert_ne!(other.unwrap().into_inner().producer_id, granted.producer_id);
}

#[tokio::test]
async fn offsets_are_found_by_time_and_by_largest_timestamp() {
    use v1::list_offsets_partition::At;
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let largest = broker
        .list_offset("t", 0, At::MaxTimestamp(v1::MaxTimestamp {}))
        .await;
    assert_eq!(largest.offset, -1, "an empty log has no largest timestamp");
    for timestamp in [100, 300, 200] {
        let records = vec![v1::Record {
            timestamp_ms: Some(timestamp),
            ..record(None, "x")
        }];
        broker
            .produce_records("t", Some(0), v1::Acks::All, records)
            .await
            .unwrap();
    }
    let check = async |at: At, offset: i64, timestamp: i64| {
        let found = broker.clone().list_offset("t", 0, at).await;
        assert_eq!(
            (found.offset, found.timestamp_ms),
            (offset, timestamp),
            "{at:?}"
        );
    };
    check(earliest(), 0, -1).await;
    check(latest(), 3, -1).await;
    check(At::TimestampMs(0), 0, 100).await;
    check(At::TimestampMs(101), 1, 300).await;
    check(At::TimestampMs(301), -1, -1).await;
    check(At::MaxTimestamp(v1::MaxTimestamp {}), 1, 300).await;
}

#[tokio::test]
async fn the_cluster_describes_itself_and_keeps_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = ServeOptions::on_disk(dir.path())
        .args(&["--node-id", "5"])
        .start();
    let mut ids = Vec::new();
    for life in ["first", "killed", "terminated"] {
        let broker = GrpcBroker::connect(process.grpc()).await;
        let described = wait_until_async("there is a controller", DEADLINE, || {
            let mut broker = broker.clone();
            async move {
                let request = v1::DescribeClusterRequest {};
                let answer = broker
                    .cluster
                    .describe_cluster(request)
                    .await
                    .unwrap()
                    .into_inner();
                (answer.controller_id == 5).then_some(answer)
            }
        })
        .await;
        assert_eq!((described.node_id, described.nodes.len()), (5, 1), "{life}");
        assert_eq!(described.nodes[0].grpc_address, process.grpc());
        assert_eq!(described.nodes[0].http_address, process.http());
        ids.push(described.cluster_id);
        if life == "killed" {
            process.terminate()
        } else {
            process.kill9()
        }
        process.restart();
    }
    assert!(
        !ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]),
        "{ids:?}"
    );
}

#[tokio::test]
async fn a_stream_of_compressed_messages_is_refused_with_what_may_be_sent() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    let call = |encoding: &'static str| {
        let mut request = tonic::Request::new(tokio_stream::iter([v1::ProduceRequest {
            correlation_id: 7,
            ..Default::default()
        }]));
        let encoding = encoding.parse().unwrap();
        request.metadata_mut().insert("grpc-encoding", encoding);
        let mut service = broker.produce.clone();
        async move { service.produce_stream(request).await }
    };
    let refused = call("gzip").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
    let instead = refused.metadata().get("grpc-accept-encoding").unwrap();
    assert_eq!(instead, "identity");
    let mut answers = call("identity").await.unwrap().into_inner();
    assert_eq!(answers.next().await.unwrap().unwrap().correlation_id, 7);
}

/// KIP-320: a reader says from which epoch its last record is, and learns where the log and what it has part.
#[tokio::test]
async fn a_reader_that_has_more_than_the_log_is_told_where_they_part() {
    let process = ServeOptions::in_memory().start();
    let mut broker = GrpcBroker::connect(process.grpc()).await;
    broker.create_topic("t", 1, &[]).await;
    broker.produce_value("t", 0, "a").await;
    let fetch = |fetch_offset, epoch| {
        let request = v1::FetchRequest {
            partitions: vec![v1::FetchPartition {
                topic: "t".to_owned(),
                fetch_offset,
                last_fetched_epoch: epoch,
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut service = broker.fetch.clone();
        async move { service.fetch(request).await }
    };
    let partition = |answer: tonic::Response<v1::FetchResponse>| {
        answer.into_inner().partitions.into_iter().next().unwrap()
    };
    let agrees = partition(fetch(1, Some(0)).await.unwrap());
    assert_eq!((agrees.error, agrees.diverging_epoch), (None, None));
    // Of the same epoch, and of one that is newer than all there is.
    for epoch in [0, 7] {
        let lost = partition(fetch(5, Some(epoch)).await.unwrap());
        assert_eq!(lost.error.unwrap().code, 1, "OFFSET_OUT_OF_RANGE");
        let parting = v1::DivergingEpoch {
            leader_epoch: 0,
            end_offset: 1,
        };
        assert_eq!(lost.diverging_epoch, Some(parting), "epoch {epoch}");
    }
    for unknown in [None, Some(-1)] {
        let beyond = partition(fetch(5, unknown).await.unwrap());
        assert_eq!(beyond.error.unwrap().code, 1);
        assert_eq!(beyond.diverging_epoch, None);
    }
    let refused = fetch(1, Some(-5)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}
