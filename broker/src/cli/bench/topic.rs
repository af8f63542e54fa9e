//! The topic that records go to: made if it is missing, and counted.

use anyhow::Context as _;
use logweir_client::{Client, ErrorKind, NewTopic};
use logweir_proto::ErrorCode;

/// Which topic, and how it is made.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TopicArgs {
    /// The topic; created if it does not exist
    #[arg(long, default_value = "bench", value_name = "NAME")]
    pub(super) topic: String,
    /// Partitions of the topic if it is created
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=20_000))]
    pub(super) partitions: i32,
    /// When records of the topic reach the disk if it is created: os, per-ack or auto
    #[arg(long, default_value = "auto", value_name = "MODE", value_parser = ["os", "per-ack", "auto"])]
    pub(super) flush: String,
}

impl TopicArgs {
    /// Creates the topic unless it is there.
    ///
    /// # Errors
    /// The broker refuses.
    pub(super) async fn ensure(&self, client: &Client) -> anyhow::Result<()> {
        let topic = NewTopic::new(&self.topic)
            .partitions(self.partitions)
            .config("logweir.flush", &self.flush);
        match client.admin().create_topic(topic).await {
            Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Invalid => {
                Err(error).context("the topic cannot be made")
            }
            outcome => Ok(outcome.map(|_| ())?),
        }
    }

    /// Log start and log end, each summed over the partitions.
    ///
    /// # Errors
    /// The broker does not tell.
    pub(super) async fn extent(&self, client: &Client) -> anyhow::Result<Extent> {
        let described = client.admin().describe_topic(&self.topic).await?;
        let mut extent = Extent::default();
        for partition in described.partitions {
            let offsets = partition
                .offsets
                .with_context(|| format!("partition {} is not told of", partition.partition))?;
            extent.start += u64::try_from(offsets.log_start_offset.get()).unwrap_or(0);
            extent.end += u64::try_from(offsets.log_end_offset.get()).unwrap_or(0);
        }
        Ok(extent)
    }
}

/// Offsets summed over a topic's partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    /// Exclusive.
    pub(super) end: u64,
}
