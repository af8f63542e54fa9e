//! How far a partition has got: the offsets that decide what is acknowledged and what is shown.
//!
//! A sans-IO core, `(now, event) -> effects`: it owns no log, lock, clock or socket, so that it can be
//! driven by a simulator. The partition feeds it under its lock and carries out what it answers.
//! Today there is one replica; the rules are those of several.

use std::collections::BTreeMap;

use logweir_proto::{NodeId, Offset, Timestamp};

/// Something that happened to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The leader's log now ends here (exclusive).
    Appended {
        /// The new log end offset.
        log_end: Offset,
        /// The log's durable end offset, which the append may have moved: a disk in memory is flushed at once.
        durable_end: Offset,
    },
    /// The leader's disk has everything below this offset for certain.
    Durable {
        /// The new durable end offset.
        durable_end: Offset,
    },
    /// A follower holds everything below this offset.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "followers come with replication")
    )]
    FollowerFetched {
        /// The follower.
        node: NodeId,
        /// Its log end, or durable end where the topic flushes per ack.
        end: Offset,
    },
    /// The topic's flush policy changed.
    FlushPerAck(bool),
    /// Records below this offset are gone.
    LogStartMoved {
        /// The new log start offset.
        log_start: Offset,
    },
}

/// What the partition has to do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Complete the waiters for durability below this offset.
    pub(crate) durable: Option<Offset>,
    /// Complete the waiters for replication below this offset, and wake readers.
    pub(crate) high_watermark: Option<Offset>,
}

/// The offsets contradict each other: a bug here or in what feeds this. The partition must end; no other is touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("partition offsets out of order: {0}")]
pub(crate) struct OutOfOrder(String);

/// What the leader knows of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Follower {
    /// Everything below it is on the follower.
    end: Offset,
    /// When it last fetched.
    seen: Timestamp,
}

/// The offsets of one led partition.
///
/// `log_start <= last_stable <= high_watermark <= log_end` and `durable_end <= log_end` always hold;
/// [`Progress::on`] alone moves them.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    leader: NodeId,
    isr: Vec<NodeId>,
    followers: BTreeMap<NodeId, Follower>,
    flush_per_ack: bool,
    log_start: Offset,
    last_stable: Offset,
    high_watermark: Offset,
    durable_end: Offset,
    log_end: Offset,
}

impl Progress {
    /// A partition that `leader` begins to lead with the log it has. Offsets that contradict each other show at
    /// the first event.
    pub(crate) fn new(
        leader: NodeId,
        isr: Vec<NodeId>,
        flush_per_ack: bool,
        (log_start, durable_end, log_end): (Offset, Offset, Offset),
    ) -> Self {
        let mut progress = Self {
            leader,
            isr,
            followers: BTreeMap::new(),
            flush_per_ack,
            log_start,
            last_stable: log_start,
            high_watermark: log_start,
            durable_end: durable_end.min(log_end),
            log_end,
        };
        progress.advance();
        progress
    }

    pub(crate) fn last_stable(&self) -> Offset {
        self.last_stable
    }

    pub(crate) fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    pub(crate) fn durable_end(&self) -> Offset {
        self.durable_end
    }

    pub(crate) fn flush_per_ack(&self) -> bool {
        self.flush_per_ack
    }

    /// Takes an event in and says what follows from it.
    ///
    /// # Errors
    /// [`OutOfOrder`] if the offsets contradict each other now; they are not to be used any more.
    pub(crate) fn on(&mut self, now: Timestamp, event: Event) -> Result<Effects, OutOfOrder> {
        let (durable, high_watermark) = (self.durable_end, self.high_watermark);
        match event {
            Event::Appended {
                log_end,
                durable_end,
            } => {
                self.log_end = self.log_end.max(log_end);
                self.durable_end = self.durable_end.max(durable_end.min(self.log_end));
            }
            Event::Durable { durable_end } => {
                self.durable_end = self.durable_end.max(durable_end.min(self.log_end));
            }
            Event::FollowerFetched { node, end } => {
                let end = end.min(self.log_end);
                let follower = self
                    .followers
                    .entry(node)
                    .or_insert(Follower { end, seen: now });
                *follower = Follower {
                    end: follower.end.max(end),
                    seen: now,
                };
            }
            Event::FlushPerAck(per_ack) => self.flush_per_ack = per_ack,
            Event::LogStartMoved { log_start } => self.log_start = self.log_start.max(log_start),
        }
        self.advance();
        self.check()?;
        Ok(Effects {
            durable: (self.durable_end > durable).then_some(self.durable_end),
            high_watermark: (self.high_watermark > high_watermark).then_some(self.high_watermark),
        })
    }

    /// Moves the high watermark to the minimum over the in-sync replicas, never back.
    fn advance(&mut self) {
        let own = if self.flush_per_ack {
            self.durable_end
        } else {
            self.log_end
        };
        let reached = self
            .isr
            .iter()
            .filter(|node| **node != self.leader)
            .map(|node| {
                self.followers
                    .get(node)
                    .map_or(self.log_start, |follower| follower.end)
            })
            .fold(own, Offset::min);
        self.high_watermark = self.high_watermark.max(reached).max(self.log_start);
        // Without transactions every record below the high watermark is stable.
        self.last_stable = self.high_watermark;
    }

    fn check(&self) -> Result<(), OutOfOrder> {
        let in_order = self.log_start <= self.last_stable
            && self.last_stable <= self.high_watermark
            && self.high_watermark <= self.log_end
            && self.durable_end <= self.log_end;
        if in_order {
            return Ok(());
        }
        Err(OutOfOrder(format!("{self:?}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEADER: NodeId = NodeId::new(1);
    const FOLLOWER: NodeId = NodeId::new(2);
    const NOW: Timestamp = Timestamp::new(0);

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    /// An append that the group-commit thread has yet to flush.
    fn appended(log_end: i64) -> Event {
        Event::Appended {
            log_end: at(log_end),
            durable_end: at(0),
        }
    }

    fn single(flush_per_ack: bool) -> Progress {
        Progress::new(LEADER, vec![LEADER], flush_per_ack, (at(0), at(0), at(0)))
    }

    #[test]
    fn a_single_replica_without_flush_shows_records_at_once() {
        let mut progress = single(false);
        let effects = progress.on(NOW, appended(5)).unwrap();
        assert_eq!(
            effects,
            Effects {
                durable: None,
                high_watermark: Some(at(5))
            }
        );
    }

    #[test]
    fn a_topic_that_flushes_per_ack_shows_nothing_before_its_disk_has_it() {
        let mut progress = single(true);
        assert_eq!(progress.on(NOW, appended(5)).unwrap(), Effects::default());
        let effects = progress
            .on(NOW, Event::Durable { durable_end: at(3) })
            .unwrap();
        assert_eq!(
            effects,
            Effects {
                durable: Some(at(3)),
                high_watermark: Some(at(3))
            }
        );
    }

    #[test]
    fn an_append_that_was_flushed_at_once_is_shown_at_once() {
        let event = Event::Appended {
            log_end: at(5),
            durable_end: at(5),
        };
        let effects = single(true).on(NOW, event).unwrap();
        assert_eq!(
            (effects.durable, effects.high_watermark),
            (Some(at(5)), Some(at(5)))
        );
    }

    #[test]
    fn the_slowest_replica_in_sync_holds_the_high_watermark_back() {
        let mut progress =
            Progress::new(LEADER, vec![LEADER, FOLLOWER], false, (at(0), at(0), at(0)));
        assert_eq!(progress.on(NOW, appended(9)).unwrap().high_watermark, None);
        let fetched = Event::FollowerFetched {
            node: FOLLOWER,
            end: at(4),
        };
        assert_eq!(
            progress.on(NOW, fetched).unwrap().high_watermark,
            Some(at(4))
        );
        let behind = Event::FollowerFetched {
            node: FOLLOWER,
            end: at(2),
        };
        assert_eq!(progress.on(NOW, behind).unwrap().high_watermark, None);
    }

    #[test]
    fn a_switch_to_flush_per_ack_never_takes_back_what_was_shown() {
        let mut progress = single(false);
        progress.on(NOW, appended(5)).unwrap();
        progress.on(NOW, Event::FlushPerAck(true)).unwrap();
        assert_eq!(progress.high_watermark(), at(5));
        assert_eq!(progress.on(NOW, appended(8)).unwrap().high_watermark, None);
    }

    #[test]
    fn offsets_that_contradict_each_other_are_told_and_nobody_panics() {
        let mut progress = single(false);
        progress.on(NOW, appended(5)).unwrap();
        let beyond = Event::LogStartMoved { log_start: at(6) };
        let error = progress.on(NOW, beyond).unwrap_err();
        assert!(error.to_string().contains("out of order"), "{error}");
    }

    fn event() -> impl Strategy<Value = (u8, i64)> {
        (0_u8..5, 0_i64..1_000)
    }

    proptest! {
        #[test]
        fn offsets_never_fall_and_stay_in_order(events in prop::collection::vec(event(), 1..200)) {
            let mut progress =
                Progress::new(LEADER, vec![LEADER, FOLLOWER], true, (at(0), at(0), at(0)));
            for (kind, offset) in events {
                let before = progress.clone();
                let event = match kind {
                    0 => Event::Appended { log_end: at(offset), durable_end: at(offset / 2) },
                    1 => Event::Durable { durable_end: at(offset) },
                    2 => Event::FollowerFetched { node: FOLLOWER, end: at(offset) },
                    3 => Event::FlushPerAck(offset % 2 == 0),
                    _ => Event::LogStartMoved { log_start: at(offset).min(progress.high_watermark) },
                };
                progress.on(NOW, event).unwrap();
                prop_assert!(progress.high_watermark >= before.high_watermark);
                prop_assert!(progress.durable_end >= before.durable_end);
                prop_assert!(progress.log_start >= before.log_start);
            }
        }
    }
}
