//! Client of the Logweir log broker: producer, reader and admin calls over gRPC.
//!
//! ```no_run
//! # async fn example() -> logweir_client::Result<()> {
//! use logweir_client::{Client, NewTopic, ProducerRecord, StartAt};
//!
//! let client = Client::connect("127.0.0.1:9093").await?;
//! client.admin().create_topic(NewTopic::new("flights").partitions(12)).await?;
//!
//! let producer = client.producer()?;
//! let delivery = producer.send(ProducerRecord::new("flights").key("N14228").value("EWR,IAH")).await?;
//! println!("stored at offset {:?}", delivery.await?.offset);
//! producer.close().await?;
//!
//! let mut reader = client.reader()?;
//! reader.assign_topic("flights", StartAt::Earliest).await?;
//! reader.stop_at_end();
//! while let Some(record) = reader.next().await? {
//!     println!("{}-{} {}: {:?}", record.topic, record.partition, record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Everything is opened from a [`Client`], which connects anew by itself. Errors are one type,
//! [`Error`], whose [`ErrorKind`] says what to do next.

mod admin;
mod backoff;
mod client;
mod clock;
mod config;
mod error;
mod metadata;
mod metrics;
mod producer;
mod reader;
mod topic_partition;

#[cfg(test)]
mod mock;

pub use admin::{
    Admin, ClusterDescription, ConfigChanges, ConfigEntry, ConfigSource, ListedOffset, NewTopic,
    Node, OffsetSpec, PartitionDescription, PartitionOffsets, TopicDescription, TopicSummary,
};
pub use client::{CLIENT_ID_KEY, Client, ClientBuilder};
pub use clock::WallClock;
pub use config::{Acks, ClientConfig, Isolation, OutOfRange, ProducerConfig, ReaderConfig};
pub use error::{Error, ErrorKind, Result};
pub use logweir_proto::record::{Compression, RecordHeader, TimestampType};
pub use logweir_proto::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionId, Timestamp, TopicId};
pub use metrics::{ProducerMetrics, ReaderMetrics};
pub use producer::{Delivery, Producer, ProducerRecord, RecordMetadata};
pub use reader::{ConsumerRecord, FetchedBatch, Reader, StartAt};
pub use topic_partition::TopicPartition;
