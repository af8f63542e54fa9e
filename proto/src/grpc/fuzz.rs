//! What must hold for any bytes taken as a request, as a function that proptest runs in `cargo test` and the fuzzer at
//! length. Compiled for tests and fuzzing only. A broken promise is a panic.

use std::fmt::Debug;

use prost::Message;

use super::v1;
use crate::{
    Timestamp,
    record::{self, BatchBuilder, Compression, RecordHeader},
};

/// Takes the first byte as the choice of a request and the rest as its bytes.
pub fn check_any_request(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else {
        return;
    };
    match choice % 12 {
        0 => decode::<v1::FetchRequest>(bytes),
        1 => decode::<v1::FetchStreamRequest>(bytes),
        2 => decode::<v1::ListOffsetsRequest>(bytes),
        3 => decode::<v1::CreateTopicsRequest>(bytes),
        4 => decode::<v1::AlterConfigsRequest>(bytes),
        5 => decode::<v1::CreatePartitionsRequest>(bytes),
        6 => decode::<v1::DeleteRecordsRequest>(bytes),
        7 => decode::<v1::FetchResponse>(bytes),
        _ => produce(bytes),
    }
}

/// What decodes can be encoded, and decodes to the same again.
fn decode<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let encoded = message.encode_to_vec();
        assert!(
            M::decode(&encoded[..]).is_ok_and(|again| again == message),
            "{message:?}"
        );
    }
}

fn produce(bytes: &[u8]) {
    decode::<v1::ProduceRequest>(bytes);
    let Ok(request) = v1::ProduceRequest::decode(bytes) else {
        return;
    };
    for append in request.appends {
        match append.data {
            Some(v1::partition_append::Data::Batch(batch)) => {
                record::fuzz::check_any_bytes(&batch);
            }
            Some(v1::partition_append::Data::Records(list)) => build(&list, append.compression),
            None => {}
        }
    }
}

/// Plain records make a batch that is valid.
fn build(list: &v1::RecordList, compression: i32) {
    let compression = u8::try_from(compression)
        .ok()
        .and_then(Compression::from_bits);
    let mut builder = BatchBuilder::new(compression.unwrap_or_default());
    for record in &list.records {
        let header = |header: &v1::Header| RecordHeader {
            key: header.key.clone().into(),
            value: header.value.clone().map(Into::into),
        };
        let headers: Vec<RecordHeader> = record.headers.iter().map(header).collect();
        builder
            .append(
                Timestamp::new(record.timestamp_ms.unwrap_or(0)),
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
            )
            .expect("a request is smaller than a batch may be, and its strings are UTF-8");
    }
    if !builder.is_empty() {
        record::fuzz::check_as_batch(&builder.build().expect("it has records"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn request(data: v1::partition_append::Data, compression: u8) -> Vec<u8> {
        let append = v1::PartitionAppend {
            topic: "flights".to_owned(),
            partition: Some(1),
            data: Some(data),
            compression: i32::from(compression),
            ..v1::PartitionAppend::default()
        };
        v1::ProduceRequest {
            appends: vec![append],
            ..v1::ProduceRequest::default()
        }
        .encode_to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_bytes_as_a_request_are_taken_or_refused_without_a_panic(
            bytes in collection::vec(any::<u8>(), 0..300),
        ) {
            check_any_request(&bytes);
        }

        #[test]
        fn a_mutated_produce_request_is_taken_or_refused_without_a_panic(
            values in collection::vec(proptest::option::of(collection::vec(any::<u8>(), 0..60)), 1..6),
            compression in 0..5_u8,
            plain in any::<bool>(),
            changes in collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let data = if plain {
                let record = |value: &Option<Vec<u8>>| v1::Record {
                    value: value.clone().map(Into::into),
                    headers: vec![v1::Header { key: "name".to_owned(), value: None }],
                    ..v1::Record::default()
                };
                let records = values.iter().map(record).collect();
                v1::partition_append::Data::Records(v1::RecordList { records })
            } else {
                let mut builder = BatchBuilder::new(Compression::from_bits(compression).unwrap());
                for value in &values {
                    builder.append(Timestamp::new(5), None, value.as_deref(), &[]).unwrap();
                }
                v1::partition_append::Data::Batch(builder.build().unwrap())
            };
            let mut bytes = request(data, compression);
            produce(&bytes);
            for (index, value) in changes {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            produce(&bytes);
        }
    }
}
