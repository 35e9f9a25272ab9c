//! The order in which networks are worked on: a few at a time, first come, first served, so that of
//! many that are wanted at once the first are ready early. Remembers when the work on each last
//! moved on, by which whoever waits for one tells a long queue from a kernel that is stuck.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlay_core::NetworkId;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Networks that are worked on at once. The kernel does most of it one after the other: more would
/// only delay each other.
const AT_ONCE: usize = 4;

/// The queue of one node.
#[derive(Debug)]
pub(crate) struct ReconcileQueue {
    places: Semaphore,
    log: Mutex<QueueLog>,
}

/// A network's turn; ends when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    queue: &'a ReconcileQueue,
    network: NetworkId,
    _place: Option<SemaphorePermit<'a>>,
}

impl ReconcileQueue {
    /// Makes an empty queue.
    pub(crate) fn new() -> Self {
        Self { places: Semaphore::new(AT_ONCE), log: Mutex::new(QueueLog::new(Instant::now())) }
    }

    /// Waits for a network's turn.
    pub(crate) async fn turn(&self, network: NetworkId) -> Turn<'_> {
        self.log().handle_wanted(network);
        let mut turn = Turn { queue: self, network, _place: None };
        // Nobody closes it.
        turn._place = self.places.acquire().await.ok();
        self.log().handle_begun(network, Instant::now());

        turn
    }

    /// Notes that the kernel did something for a network.
    pub(crate) fn note_step(&self, network: NetworkId) {
        self.log().handle_step(network, Instant::now());
    }

    /// Returns when the work on a network last moved on; nothing when none is wanted.
    pub(crate) fn last_progress(&self, network: NetworkId) -> Option<Instant> {
        self.log().last_progress(network)
    }

    fn log(&self) -> MutexGuard<'_, QueueLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.log().handle_ended(self.network, Instant::now());
    }
}

/// What happened in the queue. Pure.
#[derive(Debug)]
pub(crate) struct QueueLog {
    /// When a turn last began or ended.
    moved: Instant,
    networks: BTreeMap<NetworkId, Stage>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Waiting,
    /// It is being worked on; what the kernel did last for it was done then.
    Working(Instant),
}

impl QueueLog {
    /// Begins with nothing in the queue.
    pub(crate) fn new(now: Instant) -> Self {
        Self { moved: now, networks: BTreeMap::new() }
    }

    /// A network waits for its turn.
    pub(crate) fn handle_wanted(&mut self, network: NetworkId) {
        self.networks.insert(network, Stage::Waiting);
    }

    /// A network's turn began.
    pub(crate) fn handle_begun(&mut self, network: NetworkId, now: Instant) {
        self.moved = now;
        self.networks.insert(network, Stage::Working(now));
    }

    /// The kernel did something for a network.
    pub(crate) fn handle_step(&mut self, network: NetworkId, now: Instant) {
        if let Some(Stage::Working(last)) = self.networks.get_mut(&network) {
            *last = now;
        }
    }

    /// A network's turn ended, or is not wanted any more.
    pub(crate) fn handle_ended(&mut self, network: NetworkId, now: Instant) {
        if let Some(Stage::Working(_)) = self.networks.remove(&network) {
            self.moved = now;
        }
    }

    /// Returns when the work on a network last moved on: while it waits, when the queue did.
    pub(crate) fn last_progress(&self, network: NetworkId) -> Option<Instant> {
        self.networks.get(&network).map(|stage| match stage {
            Stage::Waiting => self.moved,
            Stage::Working(last) => *last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(n: u64) -> NetworkId {
        NetworkId::from_random(n)
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_turn_and_who_gives_up_is_forgotten() {
        let queue = ReconcileQueue::new();
        let mut served: Vec<_> = Vec::new();
        for n in 0..AT_ONCE as u64 {
            served.push(queue.turn(network(n)).await);
        }
        let (mut second, mut first) =
            (Box::pin(queue.turn(network(99))), Box::pin(queue.turn(network(98))));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(
            first.as_mut().poll(&mut context).is_pending()
                && second.as_mut().poll(&mut context).is_pending()
        );
        assert!(
            queue.last_progress(network(98)).is_some()
                && queue.last_progress(network(99)).is_some()
        );

        served.pop();

        assert!(second.as_mut().poll(&mut context).is_pending(), "it came later");
        drop(first.await);
        drop(second);
        assert_eq!(queue.last_progress(network(98)), None);
        assert_eq!(queue.last_progress(network(99)), None);
        assert_eq!(queue.places.available_permits(), 1);
    }
}
