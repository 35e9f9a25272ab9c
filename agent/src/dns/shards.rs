//! A map in parts that are shared with its copies: a copy costs next to nothing, and a change of
//! one entry that of one part.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

/// How many parts there are: of ten thousand entries a part has some 150, and none costs 512 bytes.
const SHARDS: usize = 64;

/// A map in parts.
#[derive(Debug, Clone)]
pub(crate) struct Shards<K, V>(Vec<Arc<BTreeMap<K, V>>>);

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(BTreeMap::new());

        Self(vec![empty; SHARDS])
    }
}

impl<K: Ord + Hash + Clone, V: Clone> Shards<K, V> {
    /// Returns the value of a key.
    pub(crate) fn get<Q: Ord + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(shard(key))?.get(key)
    }

    /// Changes the value of a key, which starts as the default; a value that is the default
    /// afterwards is removed.
    pub(crate) fn change(&mut self, key: K, change: impl FnOnce(&mut V))
    where
        V: Default + PartialEq,
    {
        let Some(shard) = self.0.get_mut(shard(&key)) else { return };
        let shard = Arc::make_mut(shard);
        let mut value = shard.remove(&key).unwrap_or_default();
        change(&mut value);
        if value != V::default() {
            shard.insert(key, value);
        }
    }
}

/// The hash is the same for a key and for whatever it is looked up by.
fn shard<Q: Hash + ?Sized>(key: &Q) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);

    usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_every_part_but_the_one_that_is_changed() {
        let mut shards: Shards<String, Vec<u32>> = Shards::default();
        for n in 0..10_000 {
            shards.change(format!("name{n}"), |values| values.push(n));
        }
        let copy = shards.clone();

        shards.change("name7".to_owned(), |values| values.push(70));
        shards.change("name8".to_owned(), Vec::clear);

        let shared =
            shards.0.iter().zip(&copy.0).filter(|(one, other)| Arc::ptr_eq(one, other)).count();
        assert!(shared >= SHARDS - 2, "{shared}");
        assert_eq!((shards.get("name7"), copy.get("name7")), (Some(&vec![7, 70]), Some(&vec![7])));
        assert_eq!((shards.get("name8"), copy.get("name8")), (None, Some(&vec![8])));
    }
}
