//! The newest offset of each key, within a bound of memory.
//!
//! Keys are kept whole, so that two keys are never taken for one: no hash has to be trusted with somebody's record. A
//! 32-bit hash beside each only spares comparisons; it is keyed by chance, so that no producer can choose keys that
//! collide.

use std::hash::{BuildHasher, RandomState};

use logweir_proto::Offset;

/// Offset (8), length (4), before each key.
const PREFIX_LEN: usize = 12;
const SLOT_LEN: usize = size_of::<Slot>();
const MIN_SLOTS: usize = 1024;
const MIN_GROWTH: usize = 64 << 10;
/// Of 8 slots, so many may be taken.
const LOAD: usize = 6;

/// Where a key stands in the arena.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// `u32::MAX` if there is none.
    at: u32,
    hash: u32,
}

const FREE: Slot = Slot {
    at: u32::MAX,
    hash: 0,
};

/// Keys with their newest offsets.
#[derive(Debug)]
pub(super) struct KeyMap {
    hasher: RandomState,
    /// A power of two, or none yet.
    slots: Vec<Slot>,
    arena: Vec<u8>,
    keys: usize,
    max_bytes: usize,
}

impl KeyMap {
    /// An empty map that takes at most `max_bytes` (while it grows, for a moment, up to twice as much), but has room for
    /// one key, however long.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            slots: Vec::new(),
            arena: Vec::new(),
            keys: 0,
            max_bytes,
        }
    }

    /// Notes that `key` stands at `offset`, which is above all noted before. Gives whether there was room.
    #[must_use]
    pub(super) fn insert(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        if let Some(at) = self.find(key, hash) {
            self.arena[at..at + 8].copy_from_slice(&offset.get().to_be_bytes());
            return true;
        }
        if !self.make_room(PREFIX_LEN + key.len()) {
            return false;
        }
        let Ok(at) = u32::try_from(self.arena.len()) else {
            return false;
        };
        let len = u32::try_from(key.len()).expect("a key lies in a batch, which is smaller");
        self.arena.extend_from_slice(&offset.get().to_be_bytes());
        self.arena.extend_from_slice(&len.to_be_bytes());
        self.arena.extend_from_slice(key);
        place(&mut self.slots, Slot { at, hash });
        self.keys += 1;
        true
    }

    /// The newest offset that was noted for `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<Offset> {
        let at = self.find(key, self.hash(key))?;
        let bytes = self.arena[at..].first_chunk().expect("a prefix is whole");
        Some(Offset::new(i64::from_be_bytes(*bytes)))
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys
    }

    fn hash(&self, key: &[u8]) -> u32 {
        let [a, b, c, d, ..] = self.hasher.hash_one(key).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// Where the key's entry begins in the arena.
    fn find(&self, key: &[u8], hash: u32) -> Option<usize> {
        let mut index = first(hash, self.slots.len())?;
        loop {
            let slot = self.slots[index];
            if slot.at == u32::MAX {
                return None;
            }
            let at = usize::try_from(slot.at).expect("an index of the arena");
            if slot.hash == hash && self.key_at(at) == key {
                return Some(at);
            }
            index = (index + 1) & (self.slots.len() - 1);
        }
    }

    fn key_at(&self, at: usize) -> &[u8] {
        let len = self.arena[at + 8..]
            .first_chunk()
            .expect("a prefix is whole");
        let len = usize::try_from(u32::from_be_bytes(*len)).expect("keys fit in memory");
        &self.arena[at + PREFIX_LEN..at + PREFIX_LEN + len]
    }

    /// Grows if that is needed for one more entry of `len` bytes and allowed.
    fn make_room(&mut self, len: usize) -> bool {
        let first = self.keys == 0;
        let mut slots = self.slots.len();
        if (self.keys + 1) * 8 > slots * LOAD {
            slots = (slots * 2).max(MIN_SLOTS);
        }
        let mut capacity = self.arena.capacity();
        let needed = self.arena.len() + len;
        if needed > capacity {
            let spare = self.max_bytes.saturating_sub(slots * SLOT_LEN);
            capacity = needed.max((needed + (needed / 2).max(MIN_GROWTH)).min(spare));
        }
        if slots * SLOT_LEN + capacity > self.max_bytes && !first {
            return false;
        }
        self.arena.reserve_exact(capacity - self.arena.len());
        if slots > self.slots.len() {
            let mut grown = vec![FREE; slots];
            for slot in self.slots.iter().filter(|slot| slot.at != u32::MAX) {
                place(&mut grown, *slot);
            }
            self.slots = grown;
        }
        true
    }
}

fn first(hash: u32, slots: usize) -> Option<usize> {
    let mask = slots.checked_sub(1)?;
    Some(usize::try_from(hash).expect("32 bits fit") & mask)
}

/// Puts a slot of a new key at its place; there is a free one.
fn place(slots: &mut [Slot], slot: Slot) {
    let mut index = first(slot.hash, slots.len()).expect("there are slots");
    while slots[index].at != u32::MAX {
        index = (index + 1) & (slots.len() - 1);
    }
    slots[index] = slot;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_map_tells_what_a_hash_map_tells(
            keys in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..6), 1..2000),
        ) {
            let mut map = KeyMap::new(1 << 20);
            let mut expected = HashMap::new();
            for (at, key) in keys.iter().enumerate() {
                let offset = Offset::new(i64::try_from(at).unwrap());
                prop_assert!(map.insert(key, offset));
                expected.insert(key.clone(), offset);
            }
            prop_assert_eq!(map.len(), expected.len());
            for (key, offset) in &expected {
                prop_assert_eq!(map.get(key), Some(*offset));
            }
            prop_assert_eq!(map.get(b"absent"), None);
        }
    }

    #[test]
    fn a_full_map_takes_no_new_key_but_a_newer_offset_of_a_known_one() {
        for max_bytes in [0, 1, 100, 20 << 10, 200 << 10, 1 << 20] {
            let mut map = KeyMap::new(max_bytes);
            let mut keys = 0_i64;
            while map.insert(format!("key {keys}").as_bytes(), Offset::new(keys)) {
                keys += 1;
                assert!(keys < 100_000, "never full at {max_bytes}");
            }
            assert!(keys >= 1, "one key has room whatever the bound");
            let taken = map.slots.len() * SLOT_LEN + map.arena.capacity();
            assert!(
                taken <= max_bytes.max(MIN_SLOTS * SLOT_LEN + (128 << 10)),
                "{taken} of {max_bytes}"
            );
            assert!(map.insert(b"key 0", Offset::new(1_000_000)));
            assert_eq!(map.get(b"key 0"), Some(Offset::new(1_000_000)));
            assert!(map.get(format!("key {}", keys - 1).as_bytes()).is_some());
        }
    }

    #[test]
    fn a_key_longer_than_the_bound_has_room_if_it_is_the_first() {
        let mut map = KeyMap::new(100);
        let long = vec![7; 10_000];
        assert!(map.insert(&long, Offset::new(3)));
        assert!(!map.insert(b"other", Offset::new(4)));
        assert_eq!(map.get(&long), Some(Offset::new(3)));
    }
}
