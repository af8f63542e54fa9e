//! Any bytes as the header of a Kafka request.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| logweir::kafka_fuzz::check_any_header(bytes));
