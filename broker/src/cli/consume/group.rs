//! `logweir consume --group`: as a member of a consumer group, which commits what was written and flushed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logweir_client::{
    Admin, Client, Consumer, ConsumerConfig, ConsumerHandle, Delivery, Error, ErrorKind,
    FetchedBatch, OffsetReset, OffsetSpec, OffsetToCommit, ReaderConfig, RebalanceFuture,
    RebalanceListener, StartAt, TopicPartition,
};
use logweir_proto::{Offset, PartitionId};

use super::{ConsumeCommand, GroupDelivery, READER_CHECK, Writer};
use crate::cli::connection::ServerArgs;
use crate::cli::interrupt::Interrupt;
use crate::cli::offsets::{choose_partitions, look_up};
use crate::cli::time::Position;
use crate::clock::Clock;

/// How often what was written is committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether the group is at the ends, while this member has nothing to do.
const END_CHECK: Duration = Duration::from_millis(200);
/// How often it tries to connect for the first time.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// How long there may be nothing to do before it is said what is waited for.
const SAY_WAITING_AFTER: Duration = Duration::from_secs(3);
/// How long it tries to take its leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the broker may be away before that is said, again and again.
const SAY_AFTER: Duration = Duration::from_secs(10);

/// Connects, however long the broker is not there. None if somebody interrupts.
pub(super) async fn connect(
    server: &ServerArgs,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<Client>> {
    let mut pause = tokio::time::interval(CONNECT_INTERVAL);
    let mut said = None;
    loop {
        tokio::select! {
            biased;
            () = interrupt.asked() => return Ok(None),
            _ = pause.tick() => {}
        }
        match server.connect().await {
            Ok(client) => return Ok(Some(client)),
            Err(error) if error.downcast_ref().is_some_and(Error::is_retriable) => {
                let text = format!("{error:#}");
                if said.as_ref() != Some(&text) {
                    eprintln!("still trying: {text}");
                    said = Some(text);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

impl ConsumeCommand {
    /// Reads as a member of a group. Returns how many records it wrote, and their bytes.
    pub(super) async fn share(
        &self,
        client: &Client,
        group_id: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<(u64, u64)> {
        let admin = client.admin();
        let ends = match self.follow {
            true => None,
            false => Some(ends_of(&admin, &self.topic).await?),
        };
        let mut consumer = client.consumer_with(self.config(group_id))?;
        if let Position::Offset(offset) = self.from {
            let (admin, topic) = (client.admin(), self.topic.clone());
            consumer.set_listener(BeginAt {
                admin,
                topic,
                offset,
            });
        }
        consumer.subscribe([self.topic.as_str()])?;
        let mut sharing = Sharing {
            consumer,
            topic: self.topic.as_str().into(),
            admin,
            writer: self.writer(None),
            ends,
            idle_since: Instant::now(),
            said_waiting: false,
        };
        let outcome = sharing.copy(interrupt).await;
        sharing.writer.progress.clear();
        let closed = sharing.consumer.close().await;
        outcome?;
        match closed {
            // That is how it was asked to end, whether or not the group hears of it.
            Err(error) if interrupt.exit().is_some() => eprintln!("warning: {error}"),
            closed => closed?,
        }
        Ok((sharing.writer.records, sharing.writer.bytes))
    }

    fn config(&self, group_id: &str) -> ConsumerConfig {
        ConsumerConfig {
            auto_offset_reset: match self.from {
                // An offset is sought when a partition comes.
                Position::Earliest | Position::Offset(_) => OffsetReset::Earliest,
                Position::Latest => OffsetReset::Latest,
                Position::Time(when) => {
                    OffsetReset::Timestamp(when.resolve(Clock::default().now()))
                }
            },
            delivery: match self.delivery {
                GroupDelivery::AtLeastOnce => Delivery::AtLeastOnce,
                GroupDelivery::AtMostOnce => Delivery::AtMostOnce,
            },
            auto_mark: false,
            auto_commit_interval: COMMIT_INTERVAL,
            close_timeout: CLOSE_TIMEOUT,
            // Whole batches: each is one write.
            max_poll_records: 1_000_000,
            reader: ReaderConfig {
                retry_timeout: SAY_AFTER,
                ..ReaderConfig::default()
            },
            ..ConsumerConfig::new(group_id)
        }
    }
}

/// Where the partitions end that have anything in them.
async fn ends_of(admin: &Admin, topic: &str) -> anyhow::Result<BTreeMap<PartitionId, Offset>> {
    let partitions = choose_partitions(admin, topic, &[]).await?;
    let latest = look_up(admin, topic, &partitions, OffsetSpec::Latest).await?;
    let earliest = look_up(admin, topic, &partitions, OffsetSpec::Earliest).await?;
    let offset = |listed: &logweir_client::ListedOffset| listed.offset.unwrap_or(Offset::ZERO);
    let ends = partitions.iter().zip(latest.iter().zip(&earliest));
    let filled = ends.filter(|(_, (latest, earliest))| offset(latest) > offset(earliest));
    Ok(filled
        .map(|(partition, (latest, _))| (*partition, offset(latest)))
        .collect())
}

struct Sharing {
    topic: Arc<str>,
    consumer: Consumer,
    admin: Admin,
    writer: Writer<'static>,
    /// Where to end; none is never.
    ends: Option<BTreeMap<PartitionId, Offset>>,
    /// When it wrote last.
    idle_since: Instant,
    /// Whether it was said since that the others are waited for.
    said_waiting: bool,
}

impl Sharing {
    /// Copies records until the group is at the ends, enough were written, or somebody interrupts.
    async fn copy(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let mut reader_check = tokio::time::interval(READER_CHECK);
        let mut end_check = tokio::time::interval(END_CHECK);
        while self.writer.left > 0 {
            // The ends before records: those that are always there would hide them.
            tokio::select! {
                biased;
                () = interrupt.asked() => return Ok(()),
                _ = end_check.tick(), if self.ends.is_some() => tokio::select! {
                    () = interrupt.asked() => return Ok(()),
                    at_the_ends = self.is_at_the_ends() => if at_the_ends? {
                        return Ok(());
                    },
                },
                _ = reader_check.tick() => self.writer.check_reader()?,
                batch = self.consumer.next_batch() => match batch {
                    Ok(batch) => self.put(batch).await?,
                    Err(error) => go_on_after(error)?,
                },
            }
        }
        Ok(())
    }

    /// Writes records and flushes them; then they may be committed.
    async fn put(&mut self, mut batch: FetchedBatch) -> anyhow::Result<()> {
        let written = self.writer.write(&batch)?;
        self.writer.out.flush()?;
        (self.idle_since, self.said_waiting) = (Instant::now(), false);
        let written = usize::try_from(written).unwrap_or(usize::MAX);
        let unwritten = batch.records.get(written).map(|record| record.offset);
        batch.records.truncate(written);
        match unwritten {
            // At most once, all of the batch is committed already.
            Some(offset) => {
                let offset = OffsetToCommit::new(Arc::clone(&batch.topic), batch.partition, offset)
                    .leader_epoch(batch.leader_epoch);
                self.consumer.commit_offsets([offset]).await?;
            }
            None => self.consumer.mark_batch(&batch)?,
        }
        Ok(())
    }

    /// Whether the group has come to the ends: this member by what it has written, the others by what they have
    /// committed.
    async fn is_at_the_ends(&mut self) -> anyhow::Result<bool> {
        let owned: BTreeSet<TopicPartition> = self.consumer.assignment().into_iter().collect();
        let mut others = Vec::new();
        for (partition, end) in self.ends.iter().flatten() {
            let place = TopicPartition::new(Arc::clone(&self.topic), *partition);
            if !owned.contains(&place) {
                others.push((*partition, *end));
            } else if self.consumer.position(&place).is_none_or(|at| at < *end) {
                return Ok(false);
            }
        }
        if others.is_empty() {
            return Ok(true);
        }
        // The others wait to see this.
        drop(self.consumer.commit_async());
        let committed = self.admin.group_offsets(self.consumer.group_id()).await;
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => return go_on_after(error).map(|()| false),
        };
        let committed: BTreeMap<PartitionId, Offset> = committed
            .into_iter()
            .filter(|offset| offset.partition.topic == self.topic)
            .map(|offset| (offset.partition.partition, offset.offset))
            .collect();
        others.retain(|(partition, end)| committed.get(partition).is_none_or(|at| at < end));
        if !others.is_empty() {
            self.say_waiting(others.len());
        }
        Ok(others.is_empty())
    }

    /// Says what it waits for, once after a while without records.
    fn say_waiting(&mut self, partitions: usize) {
        if !self.said_waiting && self.idle_since.elapsed() >= SAY_WAITING_AFTER {
            self.said_waiting = true;
            eprintln!(
                "waiting for other members of group {:?}, to come to the ends of partitions ({partitions}); those of a member \
                 that was killed come to others when its session has timed out",
                self.consumer.group_id()
            );
        }
    }
}

/// What passes is said; anything else ends the command.
fn go_on_after(error: Error) -> anyhow::Result<()> {
    if !passes(&error) {
        return Err(error.into());
    }
    eprintln!("still trying: {error}");
    Ok(())
}

fn passes(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Retriable | ErrorKind::TimedOut)
}

/// Begins at an offset in partitions for which the group has committed nothing.
#[derive(Clone)]
struct BeginAt {
    admin: Admin,
    topic: String,
    offset: Offset,
}

impl BeginAt {
    async fn begin(self, consumer: ConsumerHandle, partitions: Vec<PartitionId>) {
        // Each look-up tries for a while by itself.
        while let Err(error) = self.seek(&consumer, &partitions).await {
            let topic = &self.topic;
            eprintln!("cannot look up where {topic} begins and ends: {error:#}");
            let error = error.downcast_ref::<Error>();
            if !error.is_some_and(passes) {
                // Rather nothing than from where it was not told to.
                for partition in &partitions {
                    let place = TopicPartition::new(self.topic.as_str(), *partition);
                    let _ = consumer.pause(&place);
                }
                return;
            }
        }
    }

    async fn seek(
        &self,
        consumer: &ConsumerHandle,
        partitions: &[PartitionId],
    ) -> anyhow::Result<()> {
        let latest = look_up(&self.admin, &self.topic, partitions, OffsetSpec::Latest).await?;
        let earliest = look_up(&self.admin, &self.topic, partitions, OffsetSpec::Earliest).await?;
        for (partition, (latest, earliest)) in partitions.iter().zip(latest.iter().zip(&earliest)) {
            let first = earliest.offset.unwrap_or(Offset::ZERO);
            let end = latest.offset.unwrap_or(first).max(first);
            let place = TopicPartition::new(self.topic.as_str(), *partition);
            let at = self.offset.clamp(first, end);
            // It may have been taken away meanwhile.
            let _ = consumer.seek(&place, StartAt::Offset(at));
        }
        Ok(())
    }
}

impl RebalanceListener for BeginAt {
    fn assigned<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> RebalanceFuture<'a> {
        let fresh = partitions
            .iter()
            .filter(|place| consumer.committed(place).is_none());
        let fresh = fresh.map(|place| place.partition).collect();
        Box::pin(self.clone().begin(consumer.clone(), fresh))
    }
}
