#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! Everything is opened from a [`Client`], which connects anew by itself: [`Client::producer`],
//! [`Client::consumer`], [`Client::reader`], [`Client::admin`]. Settings are [`ClientConfig`],
//! [`ProducerConfig`], [`ConsumerConfig`] and [`ReaderConfig`]. Errors are one type, [`Error`], whose [`ErrorKind`] says what to do next.

mod admin;
mod backoff;
mod client;
mod clock;
mod config;
mod consumer;
mod error;
mod metadata;
mod metrics;
mod producer;
mod reader;
mod topic_partition;

#[cfg(test)]
mod mock;

pub use admin::{
    Admin, ClusterDescription, CommittedOffset, ConfigChanges, ConfigEntry, ConfigSource,
    GroupDescription, GroupFilter, GroupMember, GroupPartition, GroupState, GroupSummary,
    GroupType, ListedOffset, NamedPartitions, NewTopic, Node, OffsetSpec, OffsetToCommit,
    PartitionDescription, PartitionOffsets, ResetOffset, ResetTo, TopicDescription, TopicSummary,
};
pub use client::{CLIENT_ID_KEY, Client, ClientBuilder};
pub use clock::WallClock;
pub use config::{
    Acks, ClientConfig, ConsumerConfig, Delivery, Isolation, OffsetReset, OutOfRange,
    ProducerConfig, ReaderConfig,
};
pub use consumer::{CommitFuture, Consumer, ConsumerHandle, RebalanceFuture, RebalanceListener};
pub use error::{Error, ErrorKind, Result};
pub use logweir_proto::record::{Compression, RecordHeader, TimestampType};
pub use logweir_proto::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionId, Timestamp, TopicId};
pub use metrics::{ConsumerMetrics, ProducerMetrics, ReaderMetrics};
pub use producer::{DeliveryFuture, Producer, ProducerRecord, RecordMetadata};
pub use reader::{ConsumerRecord, FetchedBatch, Reader, StartAt};
pub use topic_partition::TopicPartition;
