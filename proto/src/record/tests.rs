//! Record batches as a whole: round trips, hostile bytes, and bytes of other implementations.

use bytes::Bytes;

use super::*;
use crate::ids::{Offset, Timestamp};

#[test]
fn a_batch_of_every_compression_gives_its_records_back() {
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(compression);
        for index in 0..1000_i64 {
            let value = format!("value {index}");
            builder
                .append(
                    Timestamp::new(index),
                    Some(b"key"),
                    Some(value.as_bytes()),
                    &[],
                )
                .unwrap();
        }
        let mut bytes = builder.build().unwrap();
        let batch = RecordBatch::split_from(&mut bytes).unwrap();
        batch.validate().unwrap();
        let records: Vec<Record> = batch
            .records(1 << 20)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(records.len(), 1000, "{compression}");
        assert_eq!(records[999].offset, Offset::new(999));
        assert_eq!(records[999].value, Some(Bytes::from_static(b"value 999")));
    }
}
