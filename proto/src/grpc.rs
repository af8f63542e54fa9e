//! The gRPC contract: messages, clients and servers, generated from `logweir/v1/*.proto`.
//!
//! `bytes` fields are [`bytes::Bytes`] that share the received frame.

#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications
)]

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

mod codec;

pub use codec::{SizedCodec, SizedEncoder};

/// Version 1 of the contract.
pub mod v1 {
    tonic::include_proto!("logweir.v1");
}

/// What brokers keep on disk and send each other; no part of the contract, and free to change.
pub mod internal {
    tonic::include_proto!("logweir.internal");
}

/// The compiled contract (a `FileDescriptorSet`), for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
