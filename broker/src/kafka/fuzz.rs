//! What must hold for any bytes that the listener reads by hand, as functions that proptest runs in `cargo test` and the
//! fuzzer at length. Compiled for tests and fuzzing only. A broken promise is a panic.

use bytes::{Bytes, BytesMut};
use kafka_wire::{OffsetCommitRequest, ProduceRequest, RequestHeader, request_header_version};
use kafka_wire_core::{ApiVersion, DecodeError, Decoder, KafkaDecode, KafkaEncode};

use super::apis;
use super::handlers::produce;
use super::header::Header;
use super::legacy;
use super::message::limits;

/// The first version of Produce that the codec reads.
const FIRST_OF_CODEC: i16 = 3;
/// The versions of Produce that are read: 0 and up to here.
const LAST_OF_PRODUCE: u8 = 11;
/// A partition of OffsetCommit 1: index, offset, time, and the length of its metadata.
const SMALLEST_COMMIT: usize = 4 + 8 + 8 + 2;

fn codec<M: KafkaDecode>(body: &Bytes, version: i16) -> Result<(M, usize), DecodeError> {
    let mut decoder = Decoder::new(body.clone(), limits(body.len()))?;
    let message = M::decode(&mut decoder, ApiVersion::new(version))?;
    Ok((message, decoder.offset()))
}

/// Any bytes as the header of a request: read as the codec reads it, or refused as it refuses it.
pub fn check_any_header(bytes: &[u8]) {
    let frame = Bytes::copy_from_slice(bytes);
    let number = |at: usize| {
        let bytes = frame.get(at..at + 2)?.first_chunk::<2>()?;
        Some(i16::from_be_bytes(*bytes))
    };
    let flexible = number(0).zip(number(2)).is_some_and(|(key, version)| {
        apis::served(key).is_some_and(|s| s.is_flexible(version) && version <= s.max)
    });
    let expected = codec::<RequestHeader>(&frame, request_header_version(flexible));
    let header = Header::read(&frame);
    match (header, expected) {
        (Ok(header), Ok((expected, read))) => {
            assert_eq!(header.api_key, expected.request_api_key);
            assert_eq!(header.version, expected.request_api_version);
            assert_eq!(header.correlation_id, expected.correlation_id);
            assert_eq!(header.client_id, expected.client_id);
            assert_eq!(header.body, frame.slice(read..));
        }
        (Err(_), Err(_)) => {}
        (Ok(header), Err(error)) => panic!("{header:?}, and not {error}"),
        (Err(error), Ok((expected, _))) => panic!("{error}, and not {expected:?}"),
    }
}

/// Takes the first byte as the version and the rest as the body of a Produce request: read as the codec reads it, or
/// refused as it refuses it.
pub fn check_any_produce(bytes: &[u8]) {
    let Some((&version, body)) = bytes.split_first() else {
        return;
    };
    let version = i16::from(version % (LAST_OF_PRODUCE + 1));
    let body = Bytes::copy_from_slice(body);
    let parsed = produce::parse(&body, version);
    if version < FIRST_OF_CODEC {
        return;
    }
    let (parsed, expected) = match (parsed, codec::<ProduceRequest>(&body, version)) {
        (Ok(parsed), Ok((expected, _))) => (parsed, expected),
        (Err(_), Err(_)) => return,
        (Ok(parsed), Err(error)) => panic!("version {version}: {parsed:?}, and not {error}"),
        (Err(error), Ok((expected, _))) => {
            panic!("version {version}: {error}, and not {expected:?}")
        }
    };
    assert_eq!(
        parsed.transactional_id.as_deref(),
        expected.transactional_id.as_deref()
    );
    assert_eq!(
        (parsed.acks, parsed.timeout_ms),
        (expected.acks, expected.timeout_ms)
    );
    let mut appends = parsed.appends.iter();
    for topic in &expected.topic_data {
        for partition in &topic.partition_data {
            let append = appends.next().expect("one for each partition");
            assert_eq!(*append.topic, *topic.name);
            assert_eq!(append.partition.get(), partition.index);
            assert_eq!(append.batch, partition.records.clone().unwrap_or_default());
        }
    }
    assert_eq!(appends.count(), 0);
}

/// Any bytes as the body of OffsetCommit 1: what is read has no more than the bytes can hold, and can be written in the
/// next version and read again.
pub fn check_any_offset_commit(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let Ok(request) = legacy::offset_commit_v1(&body) else {
        return;
    };
    let partitions: usize = request
        .topics
        .iter()
        .map(|topic| topic.partitions.len())
        .sum();
    assert!(partitions * SMALLEST_COMMIT <= body.len(), "{request:?}");
    let mut again = BytesMut::new();
    request
        .encode_into(&mut again, ApiVersion::new(2))
        .expect("version 2 holds what version 1 does");
    let (again, _) = codec::<OffsetCommitRequest>(&again.freeze(), 2).expect("it was just written");
    assert_eq!(again, request);
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;
    use crate::kafka::apis::SERVED;
    use crate::kafka::message::message;
    use crate::kafka::message::text;
    use kafka_wire::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};

    /// Topics with partitions, each with bytes or null.
    type Topics = Vec<(String, Vec<(i32, Option<Vec<u8>>)>)>;

    fn topics() -> impl Strategy<Value = Topics> {
        let records = proptest::option::of(collection::vec(any::<u8>(), 0..80));
        let partitions = collection::vec((any::<i32>(), records), 0..4);
        collection::vec(("[a-z]{0,6}", partitions), 0..4)
    }

    fn written(message: &impl KafkaEncode, version: i16) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        message
            .encode_into(&mut bytes, ApiVersion::new(version))
            .expect("the version can say it");
        bytes.to_vec()
    }

    fn produce(transactional_id: Option<String>, acks: i16, topics: &Topics) -> ProduceRequest {
        let data = topics.iter().map(|(name, partitions)| {
            let partitions = partitions.iter().map(|(index, records)| {
                message!(PartitionProduceData {
                    index: *index,
                    records: records.clone().map(Bytes::from),
                })
            });
            message!(TopicProduceData {
                name: text(name),
                partition_data: partitions.collect(),
            })
        });
        message!(ProduceRequest {
            transactional_id: transactional_id.map(text),
            acks: acks,
            timeout_ms: 1_500,
            topic_data: data.collect(),
        })
    }

    /// OffsetCommit 1 as a client of 0.9 writes it.
    pub(super) fn offset_commit_v1(topics: &Topics) -> Vec<u8> {
        fn put(bytes: &mut Vec<u8>, text: &[u8]) {
            bytes.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text);
        }
        let count = |length: usize| i32::try_from(length).unwrap().to_be_bytes();
        let mut bytes = Vec::new();
        put(&mut bytes, b"g");
        bytes.extend(3_i32.to_be_bytes());
        put(&mut bytes, b"m");
        bytes.extend(count(topics.len()));
        for (name, partitions) in topics {
            put(&mut bytes, name.as_bytes());
            bytes.extend(count(partitions.len()));
            for (index, metadata) in partitions {
                bytes.extend(index.to_be_bytes());
                bytes.extend(40_i64.to_be_bytes());
                bytes.extend(1_700_000_000_000_i64.to_be_bytes());
                match metadata {
                    Some(metadata) => {
                        let metadata = String::from_utf8_lossy(metadata);
                        put(&mut bytes, metadata.as_bytes());
                    }
                    None => bytes.extend((-1_i16).to_be_bytes()),
                }
            }
        }
        bytes
    }

    /// Overwrites a byte, cuts the end off, or leaves it.
    fn mutate(mut bytes: Vec<u8>, at: usize, byte: u8, kind: u8) -> Vec<u8> {
        let at = at % bytes.len().max(1);
        match kind % 3 {
            0 if !bytes.is_empty() => bytes[at] = byte,
            1 => bytes.truncate(at),
            _ => {}
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_bytes_are_read_as_the_codec_reads_them_or_refused(
            bytes in collection::vec(any::<u8>(), 0..300),
        ) {
            check_any_header(&bytes);
            check_any_produce(&bytes);
            check_any_offset_commit(&bytes);
        }

        #[test]
        fn a_mutated_header_is_read_as_the_codec_reads_it_or_refused(
            api in 0..SERVED.len(),
            version in -1..20_i16,
            client in proptest::option::of("[a-zäö]{0,20}"),
            (at, byte, kind) in (any::<usize>(), any::<u8>(), any::<u8>()),
        ) {
            let header = message!(RequestHeader {
                request_api_key: SERVED[api].api as i16,
                request_api_version: version,
                correlation_id: 7,
                client_id: client.map(text),
            });
            let flexible = SERVED[api].is_flexible(version);
            let bytes = written(&header, request_header_version(flexible));
            let read = Header::read(&bytes.clone().into()).expect("it is whole");
            prop_assert_eq!(read.correlation_id, 7);
            check_any_header(&mutate(bytes, at, byte, kind));
        }

        #[test]
        fn a_mutated_produce_request_is_read_as_the_codec_reads_it_or_refused(
            version in FIRST_OF_CODEC..=11,
            transactional_id in proptest::option::of("[a-z]{0,6}"),
            acks in -1..2_i16,
            topics in topics(),
            (at, byte, kind) in (any::<usize>(), any::<u8>(), any::<u8>()),
        ) {
            let body = written(&produce(transactional_id, acks, &topics), version);
            prop_assert!(produce::parse(&body.clone().into(), version).is_ok());
            let version = u8::try_from(version).unwrap();
            check_any_produce(&[&[version][..], &mutate(body, at, byte, kind)].concat());
        }

        #[test]
        fn a_mutated_offset_commit_of_version_1_is_read_or_refused(
            topics in topics(),
            (at, byte, kind) in (any::<usize>(), any::<u8>(), any::<u8>()),
        ) {
            check_any_offset_commit(&mutate(offset_commit_v1(&topics), at, byte, kind));
        }

        #[test]
        fn offset_commit_1_is_read_like_what_it_says(topics in topics()) {
            let read = legacy::offset_commit_v1(&offset_commit_v1(&topics).into()).expect("it is whole");
            let expected = topics.iter().map(|(name, partitions)| {
                let partitions = partitions.iter().map(|(index, metadata)| {
                    let metadata = metadata.as_deref().map(String::from_utf8_lossy);
                    message!(OffsetCommitRequestPartition {
                        partition_index: *index,
                        committed_offset: 40,
                        committed_leader_epoch: -1,
                        committed_metadata: metadata.map(text),
                    })
                });
                message!(OffsetCommitRequestTopic {
                    name: text(name),
                    partitions: partitions.collect(),
                })
            });
            let expected = message!(OffsetCommitRequest {
                group_id: text("g"),
                generation_id_or_member_epoch: 3,
                member_id: text("m"),
                retention_time_ms: -1,
                topics: expected.collect(),
            });
            prop_assert_eq!(read, expected);
        }
    }
}
