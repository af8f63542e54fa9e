//! Any bytes as a gRPC request, and the record batches in it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| logweir_proto::grpc::fuzz::check_any_request(bytes));
