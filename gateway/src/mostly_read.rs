//! A map that every request reads and that seldom changes: readers take no lock, writers copy a part.
//!
//! Entries lie in parts by their hash, each part a sorted list that is replaced as a whole. A key is hashed
//! once, and may be looked up by anything that hashes alike, so that a look-up needs no owned key.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Parts; a write copies one of them.
const PARTS: usize = 64;

#[derive(Debug)]
pub(crate) struct MostlyRead<K, V> {
    hasher: RandomState,
    parts: Box<[ArcSwap<Part<K, V>>]>,
}

type Part<K, V> = Vec<Slot<K, V>>;

#[derive(Debug, Clone)]
struct Slot<K, V> {
    hash: u64,
    key: K,
    value: V,
}

impl<K, V> Default for MostlyRead<K, V> {
    fn default() -> Self {
        let parts = (0..PARTS).map(|_| ArcSwap::from_pointee(Vec::new())).collect();
        Self { hasher: RandomState::new(), parts }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> MostlyRead<K, V> {
    /// Reads the entry whose key hashes like `key` and is the `same`.
    pub(crate) fn read<Q: Hash + ?Sized, R>(
        &self,
        key: &Q,
        same: impl Fn(&K) -> bool,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R> {
        let hash = self.hasher.hash_one(key);
        let part = self.part(hash).load();
        let start = part.partition_point(|slot| slot.hash < hash);
        let mut alike = part[start..].iter().take_while(|slot| slot.hash == hash);
        alike.find(|slot| same(&slot.key)).map(|slot| read(&slot.value))
    }

    /// Puts what `next` makes of the present value; none removes the entry. Runs again if writers collide.
    pub(crate) fn change(&self, key: &K, mut next: impl FnMut(Option<&V>) -> Option<V>) {
        let hash = self.hasher.hash_one(key);
        self.part(hash).rcu(|part| {
            let present = part.iter().find(|slot| slot.hash == hash && slot.key == *key);
            let value = next(present.map(|slot| &slot.value));
            let mut part: Part<K, V> =
                part.iter().filter(|slot| slot.hash != hash || slot.key != *key).cloned().collect();
            if let Some(value) = value {
                let at = part.partition_point(|slot| slot.hash < hash);
                part.insert(at, Slot { hash, key: key.clone(), value });
            }
            part
        });
    }

    /// All entries; each part as it was when it was reached.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (K, V)> + use<'_, K, V> {
        let part = |part: Arc<Part<K, V>>| {
            part.iter().map(|slot| (slot.key.clone(), slot.value.clone())).collect::<Vec<_>>()
        };
        self.parts.iter().flat_map(move |of| part(of.load_full()))
    }

    fn part(&self, hash: u64) -> &ArcSwap<Part<K, V>> {
        // The upper bits: the lower ones order the part.
        let index = (hash >> 32) as usize % self.parts.len();
        &self.parts[index]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_put_is_read_until_it_is_removed() {
        let map = MostlyRead::<String, usize>::default();
        for at in 0..1000 {
            map.change(&at.to_string(), |known| Some(known.copied().unwrap_or(at)));
            map.change(&at.to_string(), |known| known.map(|known| known + 1));
        }
        let read = |key: &str| map.read(key, |known| known == key, |value| *value);
        for at in 0..1000 {
            assert_eq!(read(&at.to_string()), Some(at + 1));
        }
        assert_eq!(map.entries().collect::<BTreeMap<_, _>>().len(), 1000);
        map.change(&"7".to_owned(), |_| None);
        assert_eq!(read("7"), None);
        assert_eq!(map.entries().count(), 999);
    }

    #[test]
    fn writers_that_collide_lose_nothing() {
        let map = MostlyRead::<u32, u32>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..500).for_each(|at| map.change(&(at % 8), |n| Some(n.map_or(1, |n| n + 1))))
                });
            }
        });
        assert_eq!(map.entries().map(|(_, count)| count).sum::<u32>(), 2000);
    }
}
