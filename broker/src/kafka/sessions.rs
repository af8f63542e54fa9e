//! Fetch sessions (KIP-227): the broker remembers what a client reads, so that requests and answers name only what changed.
//!
//! Bounded in sessions and in partitions of all sessions; one that finds no room is answered without a session, and its
//! client then says each time what it wants. Sessions belong to no connection.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::FetchRequest;
use kafka_wire::fetch_request::FetchPartition as Asked;
use kafka_wire_core::Uuid;
use logweir_proto::{ErrorCode, Offset, TopicId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::service::FetchedPartition;

/// Sessions at a time (Kafka's `max.incremental.fetch.session.cache.slots`).
const MAX_SESSIONS: usize = 1_000;
/// Partitions of all sessions.
const MAX_PARTITIONS: usize = 1_000_000;
/// One that was not used for so long may give way (Kafka's `min.incremental.fetch.session.eviction.ms`).
const EVICTION: Duration = Duration::from_secs(120);

/// The epochs that begin a session, and that want none.
const INITIAL: i32 = 0;
const FINAL: i32 = -1;

/// How a request names a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TopicKey {
    Name(Arc<str>),
    Id(Uuid),
}

/// A partition that is to be read.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) topic: TopicKey,
    pub(super) asked: Asked,
}

impl Wanted {
    fn key(&self) -> (TopicKey, i32) {
        (self.topic.clone(), self.asked.partition)
    }
}

/// What a request is in the light of sessions.
#[derive(Debug)]
pub(super) enum Plan {
    /// Everything is named, and everything is answered. If `begins`, a session is wanted.
    Full { wanted: Vec<Wanted>, begins: bool },
    /// What changed is named, and what changed is answered.
    Incremental { id: i32, wanted: Vec<Wanted> },
    /// The client is to begin anew.
    Refused(ErrorCode),
}

impl Plan {
    /// Of a version that knows no sessions, nor topics by id.
    pub(super) fn without_session(request: &FetchRequest) -> Self {
        Self::Full {
            wanted: asked(request, false).collect(),
            begins: false,
        }
    }

    pub(super) fn wanted(&self) -> &[Wanted] {
        match self {
            Self::Full { wanted, .. } | Self::Incremental { wanted, .. } => wanted,
            Self::Refused(_) => &[],
        }
    }
}

/// The sessions of a listener.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<i32, Session>,
    partitions: usize,
}

#[derive(Debug)]
struct Session {
    next_epoch: i32,
    used: Instant,
    /// In the order in which they are read: who was given records goes to the end.
    ordered: BTreeMap<u64, Cached>,
    places: HashMap<(TopicKey, i32), u64>,
    next_place: u64,
}

/// A partition, with what was told of it last.
#[derive(Debug)]
struct Cached {
    wanted: Wanted,
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    high_watermark: Offset,
    log_start_offset: Offset,
}

impl Sessions {
    /// Takes in what a request says about its session. `with_ids` is whether its version names topics by id.
    pub(super) fn plan(&self, request: &FetchRequest, with_ids: bool) -> Plan {
        let (id, epoch) = (request.session_id, request.session_epoch);
        let mut table = self.0.lock();
        if epoch == INITIAL || epoch == FINAL {
            table.remove(id);
            return Plan::Full {
                wanted: asked(request, with_ids).collect(),
                begins: epoch == INITIAL,
            };
        }
        let Some(session) = table.sessions.get_mut(&id) else {
            return Plan::Refused(ErrorCode::FetchSessionIdNotFound);
        };
        if session.next_epoch != epoch {
            return Plan::Refused(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.names_otherwise(with_ids) {
            return Plan::Refused(ErrorCode::FetchSessionTopicIdError);
        }
        session.next_epoch = next(epoch);
        session.used = Instant::now();
        let before = session.ordered.len();
        for wanted in asked(request, with_ids) {
            session.put(wanted);
        }
        for forgotten in &request.forgotten_topics_data {
            let topic = key(&forgotten.topic, forgotten.topic_id, with_ids);
            for partition in &forgotten.partitions {
                session.forget(&(topic.clone(), *partition));
            }
        }
        let now = session.ordered.len();
        let wanted = session
            .ordered
            .values()
            .map(|cached| cached.wanted.clone())
            .collect();
        table.partitions = table.partitions - before + now;
        if table.partitions > MAX_PARTITIONS {
            table.remove(id);
            return Plan::Refused(ErrorCode::FetchSessionIdNotFound);
        }
        Plan::Incremental { id, wanted }
    }

    /// Takes in what was read. Returns the session of the answer, 0 for none, and which of the partitions are told.
    pub(super) fn conclude(
        &self,
        plan: &Plan,
        fetched: &[Option<FetchedPartition>],
    ) -> (i32, Vec<bool>) {
        let all = || vec![true; fetched.len()];
        let mut table = self.0.lock();
        match plan {
            Plan::Refused(_) => (0, Vec::new()),
            Plan::Full { begins: false, .. } => (0, all()),
            Plan::Full {
                wanted,
                begins: true,
            } => (table.begin(wanted, fetched), all()),
            Plan::Incremental { id, wanted } => {
                let Some(session) = table.sessions.get_mut(id) else {
                    return (0, all());
                };
                let told = wanted.iter().zip(fetched);
                (
                    *id,
                    told.map(|(wanted, fetched)| session.tell(wanted, fetched.as_ref()))
                        .collect(),
                )
            }
        }
    }
}

impl Table {
    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.ordered.len();
        }
    }

    /// Begins a session, if there is room; its id, or 0.
    fn begin(&mut self, wanted: &[Wanted], fetched: &[Option<FetchedPartition>]) -> i32 {
        if self.sessions.len() >= MAX_SESSIONS {
            self.evict();
        }
        let is_full =
            self.sessions.len() >= MAX_SESSIONS || self.partitions + wanted.len() > MAX_PARTITIONS;
        if is_full || wanted.is_empty() {
            return 0;
        }
        let id = loop {
            let id = i32::from_be_bytes(first_bytes(TopicId::random())) & i32::MAX;
            if id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            next_epoch: 1,
            used: Instant::now(),
            ordered: BTreeMap::new(),
            places: HashMap::new(),
            next_place: 0,
        };
        for (wanted, fetched) in wanted.iter().zip(fetched) {
            session.put(wanted.clone());
            session.tell(wanted, fetched.as_ref());
        }
        self.partitions += session.ordered.len();
        self.sessions.insert(id, session);
        id
    }

    /// Lets the session go that was not used for longest, if that is long enough.
    fn evict(&mut self) {
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used);
        let oldest = oldest.filter(|(_, session)| session.used.elapsed() >= EVICTION);
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.remove(id);
        }
    }
}

impl Session {
    fn names_otherwise(&self, with_ids: bool) -> bool {
        let first = self.ordered.values().next();
        first.is_some_and(|cached| matches!(cached.wanted.topic, TopicKey::Id(_)) != with_ids)
    }

    fn put(&mut self, wanted: Wanted) {
        let known = self
            .places
            .get(&wanted.key())
            .and_then(|place| self.ordered.get_mut(place));
        if let Some(cached) = known {
            cached.wanted = wanted;
            return;
        }
        self.places.insert(wanted.key(), self.next_place);
        self.ordered
            .insert(self.next_place, Cached { wanted, told: None });
        self.next_place += 1;
    }

    fn forget(&mut self, key: &(TopicKey, i32)) {
        if let Some(place) = self.places.remove(key) {
            self.ordered.remove(&place);
        }
    }

    /// Whether there is anything to tell of a partition.
    fn tell(&mut self, wanted: &Wanted, fetched: Option<&FetchedPartition>) -> bool {
        let key = wanted.key();
        let Some(place) = self.places.get(&key).copied() else {
            return true;
        };
        let fetched = fetched.and_then(|fetched| fetched.outcome.as_ref().ok());
        let told = fetched.map(|fetched| Told {
            high_watermark: fetched.high_watermark,
            log_start_offset: fetched.log_start_offset,
        });
        let has_records = fetched.is_some_and(|fetched| !fetched.records.is_empty());
        let Some(mut cached) = self.ordered.remove(&place) else {
            return true;
        };
        // Errors, diverging logs among them, are told each time.
        let is_news = has_records || told.is_none() || told != cached.told;
        cached.told = told;
        let place = match has_records {
            true => {
                self.next_place += 1;
                self.next_place - 1
            }
            false => place,
        };
        self.places.insert(key, place);
        self.ordered.insert(place, cached);
        is_news
    }
}

fn asked(request: &FetchRequest, with_ids: bool) -> impl Iterator<Item = Wanted> {
    request.topics.iter().flat_map(move |topic| {
        let key = key(&topic.topic, topic.topic_id, with_ids);
        topic.partitions.iter().map(move |asked| {
            let (topic, mut asked) = (key.clone(), asked.clone());
            // What nobody knows would be kept for as long as the session.
            asked.unknown_tagged_fields = Default::default();
            Wanted { topic, asked }
        })
    })
}

fn key(name: &str, id: Uuid, with_ids: bool) -> TopicKey {
    match with_ids {
        true => TopicKey::Id(id),
        false => TopicKey::Name(Arc::from(name)),
    }
}

/// Epochs go round without the two that have meanings of their own.
const fn next(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

fn first_bytes(id: TopicId) -> [u8; 4] {
    let [a, b, c, d, ..] = id.get();
    [a, b, c, d]
}

#[cfg(test)]
mod tests;
