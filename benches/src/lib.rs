//! What the benchmarks share: the records they send, logs in temporary folders, servers in child
//! processes, and the machine's own account of what those used.
//!
//! Everything here may panic: a benchmark that cannot be carried out says so at once.

mod grpc_load;
mod peer;
mod process;
mod records;
mod scratch;
mod stubs;

pub use grpc_load::{ConsumeLoad, Loaded, ProduceLoad, Server, connect};
pub use peer::{Peer, Role, serve_bare, serve_if_told};
pub use process::cpu_time;
pub use records::{batch_of, batches_for, record_batch};
pub use scratch::{ScratchLog, scratch_folder, warm_memory};

/// The one topic of the servers.
pub const TOPIC: &str = "bench";
