//! Any bytes as a record batch, as several, and as a compressed body.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| logweir_proto::record::fuzz::check_any_bytes(bytes));
