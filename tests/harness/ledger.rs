//! What was sent and what was acknowledged, and the verdict on what came back.
//!
//! A load calls [`Ledger::sent`] before each send and [`Ledger::acknowledged`] after each ack. Values
//! must be unique: `key:number`, with numbers rising per key, is what [`Ledger::value`] makes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// A record as a reader gave it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its value.
    pub value: String,
}

/// The record of a load. Shared by the threads that make it.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Per key, the next number.
    next: HashMap<String, u64>,
    /// Value -> where it was acknowledged, if it was.
    sent: HashMap<String, Option<(i32, i64)>>,
}

/// What a check of what came back found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many values were acknowledged.
    pub acknowledged: usize,
    /// How many values came back.
    pub read: usize,
    /// Everything that is wrong, one sentence each; at most 20 are kept.
    pub complaints: Vec<String>,
}

impl Ledger {
    /// Makes the next value of a key and notes that it is about to be sent.
    ///
    /// # Panics
    /// If another thread panicked here.
    pub fn value(&self, key: &str) -> String {
        let mut entries = self
            .entries
            .lock()
            .expect("nothing panics with the lock held");
        let number = entries.next.entry(key.to_owned()).or_default();
        let value = format!("{key}:{number}");
        *number += 1;
        entries.sent.insert(value.clone(), None);
        value
    }

    /// Notes that a value was acknowledged at an offset.
    ///
    /// # Panics
    /// If the value was never sent, or was acknowledged before.
    pub fn acknowledged(&self, value: &str, partition: i32, offset: i64) {
        let mut entries = self
            .entries
            .lock()
            .expect("nothing panics with the lock held");
        let entry = entries
            .sent
            .get_mut(value)
            .expect("an acknowledged value was sent");
        assert_eq!(*entry, None, "{value} was acknowledged twice");
        *entry = Some((partition, offset));
    }

    /// How many values have been acknowledged.
    ///
    /// # Panics
    /// If another thread panicked here.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        let entries = self
            .entries
            .lock()
            .expect("nothing panics with the lock held");
        entries.sent.values().filter(|at| at.is_some()).count()
    }

    /// Compares with everything that came back, in partition and offset order: each acknowledged
    /// value stands where it was acknowledged; nothing stands there twice; nothing stands there that
    /// was not sent; the numbers of each key rise.
    ///
    /// # Panics
    /// If another thread panicked here.
    #[must_use]
    pub fn check(&self, read: &[ReadBack]) -> Verdict {
        let entries = self
            .entries
            .lock()
            .expect("nothing panics with the lock held");
        let mut complaints = Vec::new();
        let mut seen: HashMap<&str, (i32, i64)> = HashMap::new();
        let mut last: BTreeMap<&str, (u64, &ReadBack)> = BTreeMap::new();
        for record in read {
            let place = (record.partition, record.offset);
            if !entries.sent.contains_key(&record.value) {
                complaints.push(format!("{record:?} was never sent"));
                continue;
            }
            if let Some(before) = seen.insert(&record.value, place) {
                complaints.push(format!(
                    "{} stands at {before:?} and {place:?}",
                    record.value
                ));
            }
            let (key, number) = record
                .value
                .rsplit_once(':')
                .expect("the ledger made the value");
            let number: u64 = number.parse().expect("the ledger made the value");
            if let Some((before, at)) = last.insert(key, (number, record))
                && before >= number
            {
                complaints.push(format!("{} comes after {at:?}", record.value));
            }
        }
        let mut acknowledged = 0;
        for (value, place) in &entries.sent {
            let Some(place) = place else { continue };
            acknowledged += 1;
            match seen.get(value.as_str()) {
                None => complaints.push(format!("{value}, acknowledged at {place:?}, is lost")),
                Some(at) if at != place => {
                    complaints.push(format!(
                        "{value}, acknowledged at {place:?}, stands at {at:?}"
                    ));
                }
                Some(_) => {}
            }
        }
        complaints.sort();
        complaints.truncate(20);
        Verdict {
            acknowledged,
            read: read.len(),
            complaints,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, ReadBack};

    fn check(read: &[(i32, i64, &str)], complaint: Option<&str>) {
        let ledger = Ledger::default();
        for (partition, key, offset) in [(0, "a", 0), (0, "a", 1), (1, "b", 0)] {
            let value = ledger.value(key);
            ledger.acknowledged(&value, partition, offset);
        }
        ledger.value("b"); // sent, never acknowledged
        let read: Vec<ReadBack> = read
            .iter()
            .map(|(partition, offset, value)| ReadBack {
                partition: *partition,
                offset: *offset,
                value: (*value).to_owned(),
            })
            .collect();
        let found = ledger.check(&read).complaints;
        match complaint {
            None => assert_eq!(found, [""; 0]),
            Some(words) => assert!(found.iter().any(|f| f.contains(words)), "{found:?}"),
        }
    }

    #[test]
    fn the_ledger_sees_loss_repetition_disorder_and_strangers() {
        let (a0, a1, b0) = ((0, 0, "a:0"), (0, 1, "a:1"), (1, 0, "b:0"));
        check(&[a0, a1, b0], None);
        check(&[a0, a1, b0, (1, 1, "b:1")], None); // stored, but its ack was lost
        check(&[a0, b0], Some("a:1, acknowledged at (0, 1), is lost"));
        check(
            &[a0, a1, (0, 2, "a:1"), b0],
            Some("a:1 stands at (0, 1) and (0, 2)"),
        );
        check(&[(0, 0, "a:1"), (0, 1, "a:0"), b0], Some("a:0 comes after"));
        check(
            &[a0, a1, (1, 1, "b:0")],
            Some("b:0, acknowledged at (1, 0), stands at (1, 1)"),
        );
        check(&[a0, a1, b0, (1, 1, "c:0")], Some("was never sent"));
    }
}
