//! A machine small enough to be looked through: values by key, timers of both kinds, and answers that come later.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What the toy is asked.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// Sets a value, or removes it.
    Set(&'static str, Option<String>),
    /// Sets a value and answers only when the next call to set it is decided.
    SetTwice(&'static str, String),
    /// The value of a key.
    Get(&'static str),
    /// Waits until a key is set.
    Wait(&'static str),
    /// Sets the value "rung" when so many milliseconds of wall time have passed.
    Later(&'static str, i64),
    /// Keeps a member for so many milliseconds of session time from now on.
    Join(&'static str, u64),
    /// Joins again without a record.
    Heartbeat(&'static str),
    /// Everything durable.
    Dump,
    /// Is due from now on and does nothing about it, until it is loaded anew.
    Stall,
    Panic,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Done,
    Unknown,
    Value(Option<String>),
    All(Durable),
}

pub(super) type Durable = BTreeMap<String, String>;

/// `v/` are values, `t/` wall timers in milliseconds, `m/` members' session timeouts in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Toy {
    pub(super) durable: Durable,
    /// Who waits for a key, and for members when their sessions end.
    pub(super) waiting: BTreeSet<(&'static str, CallId)>,
    pub(super) sessions: BTreeMap<String, Duration>,
    pub(super) log: Arc<Journal>,
    pub(super) stalled: bool,
}

/// What the runtime did to the machines of one test.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) abandoned: Mutex<Vec<u64>>,
    pub(super) loads: AtomicUsize,
    pub(super) replayed: AtomicUsize,
    pub(super) rings: AtomicUsize,
}

fn record(kind: &str, key: &str, value: Option<String>) -> StateRecord {
    StateRecord {
        key: Bytes::from(format!("{kind}/{key}")),
        value: value.map(Bytes::from),
    }
}

fn only<A>(records: Vec<StateRecord>, call: CallId, answer: A) -> Effects<A> {
    Effects {
        records,
        answers: vec![(call, answer)],
    }
}

impl Toy {
    fn set(&mut self, key: &'static str, value: Option<String>) -> Effects<Told> {
        let mut effects = Effects {
            records: vec![record("v", key, value)],
            answers: Vec::new(),
        };
        for (of, call) in std::mem::take(&mut self.waiting) {
            match of == key {
                true => effects.answers.push((call, Told::Done)),
                false => drop(self.waiting.insert((of, call))),
            }
        }
        effects
    }

    fn begin_session(&mut self, member: &str, now: Now) -> bool {
        let Some(timeout) = self.durable.get(&format!("m/{member}")) else {
            return false;
        };
        let timeout = Duration::from_millis(timeout.parse().unwrap());
        self.sessions
            .insert(member.to_owned(), now.session + timeout);
        true
    }

    fn timers(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.durable.iter().filter_map(|(key, due)| {
            let key = key.strip_prefix("t/")?;
            Some((key, Timestamp::new(due.parse().unwrap())))
        })
    }
}

impl Machine for Toy {
    type Request = Ask;
    type Answer = Told;

    fn handle(&mut self, call: CallId, request: Ask, now: Now) -> Effects<Told> {
        match request {
            Ask::Set(key, value) => {
                let mut effects = self.set(key, value);
                effects.answers.push((call, Told::Done));
                effects
            }
            Ask::SetTwice(key, value) => {
                let effects = self.set(key, Some(value));
                self.waiting.insert((key, call));
                effects
            }
            Ask::Get(key) => {
                let value = self.durable.get(&format!("v/{key}")).cloned();
                only(Vec::new(), call, Told::Value(value))
            }
            Ask::Wait(key) => {
                self.waiting.insert((key, call));
                Effects::default()
            }
            Ask::Later(key, span_ms) => {
                let due = (now.wall.get() + span_ms).to_string();
                only(vec![record("t", key, Some(due))], call, Told::Done)
            }
            Ask::Join(member, timeout_ms) => {
                let due = now.session + Duration::from_millis(timeout_ms);
                self.sessions.insert(member.to_owned(), due);
                let timeout = Some(timeout_ms.to_string());
                only(vec![record("m", member, timeout)], call, Told::Done)
            }
            Ask::Heartbeat(member) => match self.begin_session(member, now) {
                true => only(Vec::new(), call, Told::Done),
                false => only(Vec::new(), call, Told::Unknown),
            },
            Ask::Dump => only(Vec::new(), call, Told::All(self.durable.clone())),
            Ask::Stall => {
                self.stalled = true;
                only(Vec::new(), call, Told::Done)
            }
            Ask::Panic => panic!("as the test wants"),
        }
    }

    fn abandon(&mut self, call: CallId) {
        self.log.abandoned.lock().push(call.get());
        self.waiting.retain(|(_, waiting)| *waiting != call);
    }

    fn replay(&mut self, record: &StateRecord, _: Now) -> Result<(), ReplayError> {
        self.log.replayed.fetch_add(1, Ordering::Relaxed);
        let key = std::str::from_utf8(&record.key).map_err(|e| ReplayError::new(e.to_string()))?;
        if !["v/", "t/", "m/"].iter().any(|kind| key.starts_with(kind)) {
            return Err(ReplayError::new(format!("key {key:?} is of no known type")));
        }
        match &record.value {
            Some(value) => {
                let value = String::from_utf8(value.to_vec()).unwrap();
                self.durable.insert(key.to_owned(), value);
            }
            None => drop(self.durable.remove(key)),
        }
        Ok(())
    }

    fn loaded(&mut self, now: Now) {
        self.log.loads.fetch_add(1, Ordering::Relaxed);
        let members = self.durable.keys().filter_map(|key| key.strip_prefix("m/"));
        for member in members.map(str::to_owned).collect::<Vec<_>>() {
            self.begin_session(&member, now);
        }
    }

    fn next_due(&self) -> Due {
        if self.stalled {
            return Due {
                wall: None,
                session: Some(Duration::ZERO),
            };
        }
        Due {
            wall: self.timers().map(|(_, due)| due).min(),
            session: self.sessions.values().min().copied(),
        }
    }

    fn on_time(&mut self, now: Now) -> Effects<Told> {
        self.log.rings.fetch_add(1, Ordering::Relaxed);
        // One thing at a time, so that the runtime has to ask again.
        let member = self.sessions.iter().find(|(_, due)| **due <= now.session);
        if let Some(member) = member.map(|(member, _)| member.clone()) {
            self.sessions.remove(&member);
            return Effects {
                records: vec![
                    record("m", &member, None),
                    record("v", &member, Some("expired".to_owned())),
                ],
                answers: Vec::new(),
            };
        }
        let mut timers: Vec<_> = self.timers().filter(|(_, due)| *due <= now.wall).collect();
        timers.sort_by_key(|(_, due)| *due);
        let records = timers.first().map(|(key, _)| {
            vec![
                record("t", key, None),
                record("v", key, Some("rung".to_owned())),
            ]
        });
        Effects {
            records: records.unwrap_or_default(),
            answers: Vec::new(),
        }
    }

    fn snapshot(&self) -> Vec<StateRecord> {
        let records = self.durable.iter().map(|(key, value)| StateRecord {
            key: Bytes::from(key.clone()),
            value: Some(Bytes::from(value.clone())),
        });
        records.collect()
    }
}
