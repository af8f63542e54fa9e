//! To which partition a record goes: the one it names, its key's, or the one that keyless records stick to.

use logweir_proto::partitioner::partition_for_key;
use parking_lot::Mutex;

use super::accumulator::{PartitionQueue, TopicQueues, TopicView};
use super::record::ProducerRecord;
use crate::backoff::Random;
use crate::error::{Error, Result};

/// Keyless records go to one partition until a batch's worth of bytes went there, then to another chosen
/// at random (KIP-794): batches fill, and partitions get equal shares.
pub(crate) struct Sticky {
    batch_bytes: usize,
    state: Mutex<StickyState>,
}

struct StickyState {
    /// The partition's number; none before the first record.
    partition: Option<usize>,
    bytes: usize,
    random: Random,
}

impl Sticky {
    pub(crate) fn new(batch_bytes: usize) -> Self {
        let state = StickyState {
            partition: None,
            bytes: 0,
            random: Random::from_entropy(),
        };
        Self {
            batch_bytes,
            state: Mutex::new(state),
        }
    }

    /// The partition for a record of so many bytes, among `available` (not empty).
    fn choose(&self, available: &[usize], record_bytes: usize) -> usize {
        let mut state = self.state.lock();
        if state.bytes >= self.batch_bytes {
            state.partition = None;
        }
        let partition = match state.partition.filter(|known| available.contains(known)) {
            Some(known) => known,
            None => {
                let at = state.random.below(available.len() as u64);
                state.bytes = 0;
                available[usize::try_from(at).unwrap_or(0)]
            }
        };
        state.partition = Some(partition);
        state.bytes += record_bytes;
        partition
    }
}

/// The queue a record goes to. None if it names a partition that the view does not have.
pub(crate) fn choose<'a>(
    topic: &TopicQueues,
    view: &'a TopicView,
    record: &ProducerRecord,
    record_bytes: usize,
) -> Option<&'a std::sync::Arc<PartitionQueue>> {
    let count = i32::try_from(view.partitions).unwrap_or(i32::MAX);
    let number = match (record.partition, &record.key) {
        (Some(partition), _) => usize::try_from(partition.get()).ok()?,
        (None, Some(key)) => usize::try_from(partition_for_key(key, count).get()).ok()?,
        (None, None) => topic.sticky.choose(&view.available, record_bytes),
    };
    view.queue(number)
}

/// The error for a partition that the topic does not have.
pub(crate) fn no_such_partition(record: &ProducerRecord, view: &TopicView) -> Error {
    let error = Error::from_code(
        logweir_proto::ErrorCode::UnknownTopicOrPartition,
        format!(
            "the topic has partitions 0 to {}",
            view.partitions.saturating_sub(1)
        ),
    );
    match record.partition {
        Some(partition) => error.of_partition(std::sync::Arc::clone(&record.topic), partition),
        None => error.of_topic(std::sync::Arc::clone(&record.topic)),
    }
}

/// Refuses what no partition can be.
pub(crate) fn check_partition(record: &ProducerRecord) -> Result<()> {
    match record.partition {
        Some(partition) if partition.get() < 0 => {
            Err(Error::invalid(format!("partition {partition} is below 0"))
                .of_topic(std::sync::Arc::clone(&record.topic)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyless_records_stick_for_a_batch_and_spread_over_all_available_partitions() {
        let sticky = Sticky::new(1_000);
        let available = [0, 2, 5];
        let mut seen = [0_u32; 6];
        for _ in 0..3_000 {
            let first = sticky.choose(&available, 100);
            for _ in 1..10 {
                assert_eq!(sticky.choose(&available, 100), first);
            }
            seen[first] += 1;
        }
        assert_eq!(seen.iter().sum::<u32>(), seen[0] + seen[2] + seen[5]);
        for partition in available {
            assert!((800..1_200).contains(&seen[partition]), "{seen:?}");
        }
    }

    #[test]
    fn a_partition_that_lost_its_leader_is_left_at_once() {
        let sticky = Sticky::new(1_000);
        assert_eq!(sticky.choose(&[3], 1), 3);
        assert_eq!(sticky.choose(&[1], 1), 1);
    }
}
