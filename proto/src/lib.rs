//! Names and formats of Logweir: ids, Kafka's error codes, the record batch, and the gRPC contract.
//!
//! The bottom of the workspace: it reads no file, opens no socket and knows no runtime. Everything
//! here is used on the wire and on disk alike.

pub mod error_code;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod ids;
pub mod partitioner;
pub mod record;

pub use error_code::ErrorCode;
pub use ids::{
    BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence,
    Timestamp, TopicId,
};
