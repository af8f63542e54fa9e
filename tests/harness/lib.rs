//! What integration tests stand on: the real `logweir` program as a child process, waiting with a
//! deadline, a ledger of acknowledged records, and the flights of `examples/data/`.
//!
//! Everything here may panic: a harness that fails says so at once, with what the broker logged.

// The program of the READMEs is compiled and run with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../README.zh.md")]
mod readmes {}

mod broker_process;
mod flights;
mod grpc;
mod http;
mod ledger;
mod member;
mod process;
mod program;
mod seeded;
mod wait;

pub use broker_process::{BrokerProcess, Ready, ServeOptions};
pub use flights::{Flight, Flights};
pub use grpc::{GrpcBroker, earliest, latest, record};
pub use http::{HttpResponse, http_get};
pub use ledger::{Ledger, ReadBack, Verdict};
pub use member::{MemberProcess, Outputs, Written};
pub use process::{ResidentBytes, free_port, is_running, open_files};
pub use program::{Finished, Logweir, binary};
pub use seeded::Seeded;
pub use wait::{DEADLINE, proof_count, wait_until, wait_until_async};
