//! Any bytes as a Kafka OffsetCommit request of version 1.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| logweir::kafka_fuzz::check_any_offset_commit(bytes));
