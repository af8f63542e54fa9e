//! A sorted map that is cheap to copy and change: what makes one image from the last.
//!
//! Entries lie in chunks, each shared with the map it was copied from until it is changed. A copy costs
//! one reference count for each chunk, a change copies one chunk besides: with 100,000 topics a few
//! microseconds, where a `BTreeMap` would be copied whole. Chunks hold 1 to [`CHUNK`] entries, none is
//! empty, and keys ascend within and across them.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// The most entries in a chunk; a full one is split in two.
const CHUNK: usize = 128;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A map sorted by key, with cheap copies.
#[derive(Clone)]
pub(crate) struct SortedMap<K, V> {
    chunks: Vec<Chunk<K, V>>,
    len: usize,
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SortedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SortedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K, V> SortedMap<K, V> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The entries, by ascending key.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
    }

    /// The values, by ascending key.
    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord + Clone, V: Clone> SortedMap<K, V> {
    /// The value of a key.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (chunk, position) = self.position(key).ok()?;
        Some(&self.chunks[chunk][position].1)
    }

    /// Whether a key is there.
    pub(crate) fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.position(key).is_ok()
    }

    /// The entries from a lower bound on, by ascending key.
    pub(crate) fn iter_from<Q>(&self, from: Bound<&Q>) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (chunk, position) = match from {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) => self.position(key).unwrap_or_else(|at| at),
            Bound::Excluded(key) => match self.position(key) {
                Ok((chunk, position)) => (chunk, position + 1),
                Err(at) => at,
            },
        };
        let skip = position;
        self.chunks[chunk.min(self.chunks.len())..]
            .iter()
            .flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
            .skip(skip)
    }

    /// The value of a key, to be changed; its chunk is copied if another map shares it.
    pub(crate) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (chunk, position) = self.position(key).ok()?;
        Some(&mut Arc::make_mut(&mut self.chunks[chunk])[position].1)
    }

    /// Sets a key's value and returns the one it had.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.position(&key) {
            Ok((chunk, position)) => {
                let slot = &mut Arc::make_mut(&mut self.chunks[chunk])[position].1;
                Some(std::mem::replace(slot, value))
            }
            Err((chunk, position)) => {
                self.len += 1;
                if self.chunks.is_empty() {
                    self.chunks.push(Arc::new(vec![(key, value)]));
                    return None;
                }
                let entries = Arc::make_mut(&mut self.chunks[chunk]);
                entries.insert(position, (key, value));
                if entries.len() > CHUNK {
                    let upper = entries.split_off(CHUNK / 2);
                    self.chunks.insert(chunk + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Removes a key and returns its value.
    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (chunk, position) = self.position(key).ok()?;
        self.len -= 1;
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        let (_, value) = entries.remove(position);
        if entries.is_empty() {
            self.chunks.remove(chunk);
        }
        Some(value)
    }

    /// Where a key is, or where it belongs: a chunk that exists unless the map is empty, and a place in it.
    fn position<Q>(&self, key: &Q) -> Result<(usize, usize), (usize, usize)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let after = self
            .chunks
            .partition_point(|chunk| chunk[0].0.borrow() <= key);
        let Some(chunk) = after.checked_sub(1) else {
            return Err((0, 0));
        };
        self.chunks[chunk]
            .binary_search_by(|(candidate, _)| candidate.borrow().cmp(key))
            .map(|position| (chunk, position))
            .map_err(|position| (chunk, position))
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_behaves_like_a_btree_map_and_copies_stay_as_they_were(
            steps in prop::collection::vec((any::<bool>(), 0u16..700), 0..2_000),
            from in 0u16..700,
        ) {
            let mut map = SortedMap::default();
            let mut model = BTreeMap::new();
            let mut copies = Vec::new();
            for (number, (insert, key)) in steps.into_iter().enumerate() {
                if number % 100 == 0 {
                    copies.push((map.clone(), model.clone()));
                }
                if insert {
                    prop_assert_eq!(map.insert(key, number), model.insert(key, number));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
            }
            copies.push((map, model));
            for (map, model) in copies {
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert!(map.iter_from(Bound::Included(&from)).eq(model.range(from..)));
                prop_assert!(map
                    .iter_from(Bound::Excluded(&from))
                    .eq(model.range((Bound::Excluded(from), Bound::Unbounded))));
                prop_assert_eq!(map.get(&from), model.get(&from));
                prop_assert!(map.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
            }
        }
    }
}
