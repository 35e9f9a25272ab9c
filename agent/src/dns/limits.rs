//! Limits concurrent work, per source and in total, so that one container cannot starve the others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts work in progress.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    per_source: u32,
    total: u32,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    total: u32,
    sources: BTreeMap<IpAddr, u32>,
}

/// Permission for one piece of work; released when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    source: IpAddr,
    counts: Arc<Mutex<Counts>>,
}

impl InFlight {
    /// Allows `per_source` concurrent pieces of work for one source, and `total` for all.
    pub(crate) fn new(per_source: u32, total: u32) -> Self {
        Self { per_source, total, counts: Arc::default() }
    }

    /// Starts one piece of work unless the limit is reached.
    pub(crate) fn begin(&self, source: IpAddr) -> Option<Permit> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = counts.sources.get(&source).copied().unwrap_or(0);
        if counts.total >= self.total || mine >= self.per_source {
            return None;
        }
        counts.total += 1;
        counts.sources.insert(source, mine + 1);

        Some(Permit { source, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        match counts.sources.get_mut(&self.source) {
            Some(mine) if *mine > 1 => *mine -= 1,
            _ => drop(counts.sources.remove(&self.source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_what_others_need() {
        let limits = InFlight::new(2, 3);
        let (greedy, modest) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));

        let held: Vec<_> = (0..5).filter_map(|_| limits.begin(greedy)).collect();

        assert_eq!(held.len(), 2);
        assert!(limits.begin(modest).is_some());
    }

    #[test]
    fn what_ends_makes_room_and_leaves_nothing_behind() {
        let limits = InFlight::new(1, 1);
        let source = IpAddr::from([10, 0, 0, 1]);

        let permit = limits.begin(source);
        assert!(limits.begin(source).is_none());
        drop(permit);

        assert!(limits.begin(source).is_some());
        assert!(limits.counts.lock().expect("not poisoned").sources.is_empty());
    }
}
