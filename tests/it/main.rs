//! Every integration test of the workspace, as modules of one program: it links once and shares one
//! built `logweir` binary.
//!
//! `cargo test -p logweir-tests --test it tidy` runs one module. Long counts run at a tenth unless
//! `LOGWEIR_PROOF=full` is set.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic that names its line is the report"
)]

mod bench;
mod compaction;
mod consumer;
mod contract;
mod crashes;
mod embedding;
mod flights;
mod full_disk;
mod group_commands;
mod groups;
mod hostile;
mod http;
mod kafka;
mod kafka_hostile;
mod program;
mod readme;
mod scale;
mod sharing;
mod startup;
mod tidy;
mod topics;
