//! How much of what is costly one client may have under way at the same time; more waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// The turns of all clients that have something under way.
#[derive(Debug)]
pub(crate) struct Turns<C> {
    at_once: usize,
    of: Mutex<BTreeMap<C, Weak<Semaphore>>>,
}

impl<C: Ord> Turns<C> {
    /// Lets each client have so much under way at the same time.
    pub(crate) fn new(at_once: usize) -> Self {
        Self { at_once, of: Mutex::default() }
    }

    /// Returns the turns of a client.
    pub(crate) fn of(&self, client: C) -> Arc<Semaphore> {
        let mut turns = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&client).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(self.at_once));
        turns.insert(client, Arc::downgrade(&turn));

        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_turns_of_its_own_and_nothing_is_kept_of_those_who_are_done() {
        let turns = Turns::new(2);
        let one = turns.of("one");
        let taken: Vec<_> =
            (0..3).filter_map(|_| Arc::clone(&one).try_acquire_owned().ok()).collect();

        assert_eq!(taken.len(), 2);
        assert_eq!(turns.of("one").available_permits(), 0);
        assert_eq!(turns.of("two").available_permits(), 2);
        drop((one, taken));
        assert_eq!(turns.of("three").available_permits(), 2);
        assert_eq!(turns.of.lock().expect("not poisoned").len(), 1);
    }
}
