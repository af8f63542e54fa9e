//! Any bytes as a Kafka Produce request, of the version that the first byte chooses.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| logweir::kafka_fuzz::check_any_produce(bytes));
