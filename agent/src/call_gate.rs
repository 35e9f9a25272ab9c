//! The gate that calls go through: while the agent is handed over it is closed, and calls wait
//! before it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, Semaphore, watch};
use tokio::time::timeout;

/// More connections than there ever are.
const CONNECTIONS: usize = 4096;
const ALL: u32 = 4096;

/// The gate. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct CallGate {
    stage: Arc<watch::Sender<Stage>>,
    calls: Arc<RwLock<()>>,
    connections: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has never been open: another process still has this one's place.
    Coming,
    Open,
    Closed,
    /// Another process has this one's place.
    Replaced,
}

/// The gate is closed, and no call is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct ClosedGate {
    gate: CallGate,
    _calls: OwnedRwLockWriteGuard<()>,
}

impl CallGate {
    /// Makes a gate. One that is closed is opened by [`CallGate::open`].
    pub(crate) fn new(is_open: bool) -> Self {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));

        let stage = if is_open { Stage::Open } else { Stage::Coming };

        Self { stage: Arc::new(watch::Sender::new(stage)), calls: Arc::default(), connections }
    }

    /// Has connections be accepted.
    pub(crate) fn open(&self) {
        self.stage.send_replace(Stage::Open);
    }

    /// Accepts connections while the gate is open. `accept` is given up when it closes, and begun
    /// again.
    pub(crate) async fn accept<T, F: Future<Output = T>>(&self, accept: impl Fn() -> F) -> T {
        loop {
            self.until(|stage| stage == Stage::Open).await;
            tokio::select! {
                biased;
                () = self.until(|stage| stage != Stage::Open) => {}
                accepted = accept() => return accepted,
            }
        }
    }

    /// Accepts connections whose calls wait for themselves while the gate is closed: from when it
    /// opens first until another process has this one's place.
    pub(crate) async fn accept_before_it<T>(&self, accept: impl AsyncFnOnce() -> T) -> T {
        self.until(|stage| stage != Stage::Coming).await;
        tokio::select! {
            biased;
            () = self.until(|stage| stage == Stage::Replaced) => std::future::pending().await,
            accepted = accept() => accepted,
        }
    }

    /// Notes a connection until what is returned is dropped; nothing when there are too many to
    /// note.
    pub(crate) fn connected(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// Lets one call through, which holds what is returned until it has its answer; nothing when it
    /// waited in vain, for another process has this one's place.
    pub(crate) async fn enter(&self) -> Option<OwnedRwLockReadGuard<()>> {
        tokio::select! {
            biased;
            call = Arc::clone(&self.calls).read_owned() => Some(call),
            () = self.until(|stage| stage == Stage::Replaced) => None,
        }
    }

    /// Closes the gate and waits for the calls that are under way; nothing, and it is open, if they
    /// take too long.
    pub(crate) async fn close(&self, patience: Duration) -> Option<ClosedGate> {
        self.stage.send_replace(Stage::Closed);
        match timeout(patience, Arc::clone(&self.calls).write_owned()).await {
            Ok(calls) => Some(ClosedGate { gate: self.clone(), _calls: calls }),
            Err(_) => {
                self.open();
                None
            }
        }
    }

    /// Turns away whoever waits, and whoever comes from now on.
    pub(crate) fn turn_away(&self, closed: ClosedGate) {
        // It is never opened again.
        std::mem::forget(closed);
        self.stage.send_replace(Stage::Replaced);
    }

    async fn until(&self, is_it: impl Fn(Stage) -> bool) {
        // The sender is this very value's.
        let _ = self.stage.subscribe().wait_for(|stage| is_it(*stage)).await;
    }

    /// Waits until whoever was connected has hung up.
    pub(crate) async fn hung_up(&self, patience: Duration) {
        // Who follows events never does.
        let _ = timeout(patience, self.connections.acquire_many(ALL)).await;
    }
}

impl Drop for ClosedGate {
    fn drop(&mut self) {
        self.gate.open();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_closed_gate_accepts_and_lets_through_nobody_until_it_opens() {
        let gate = CallGate::new(true);
        assert_eq!(gate.accept(async || 1).await, 1);

        let closed = gate.close(LONG).await.expect("no call is under way");
        assert!(timeout(SHORT, gate.accept(async || 1)).await.is_err());
        assert!(timeout(SHORT, gate.enter()).await.is_err());
        drop(closed);

        assert_eq!(gate.accept(async || 2).await, 2);
        assert!(gate.enter().await.is_some());
    }

    #[tokio::test]
    async fn a_call_under_way_is_waited_for_but_not_for_ever() {
        let gate = CallGate::new(true);
        let call = gate.enter().await.expect("it is open");

        assert!(gate.close(SHORT).await.is_none());
        assert_eq!(gate.accept(async || 1).await, 1, "it is open again");
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.close(LONG).await.is_some() }
        });
        drop(call);

        assert!(waiting.await.expect("no panic"));
    }

    #[tokio::test]
    async fn who_waits_at_a_gate_that_another_has_is_turned_away() {
        let gate = CallGate::new(true);
        let closed = gate.close(LONG).await.expect("no call is under way");
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter().await.is_none() }
        });

        gate.turn_away(closed);

        assert!(waiting.await.expect("no panic"));
        assert!(gate.enter().await.is_none());
    }

    #[tokio::test]
    async fn who_waits_for_himself_is_accepted_from_the_first_opening_until_the_end() {
        let gate = CallGate::new(false);
        let is_accepted = async || timeout(SHORT, gate.accept_before_it(async || ())).await.is_ok();
        assert!(!is_accepted().await, "another process has this place");
        gate.open();
        assert!(is_accepted().await);

        let closed = gate.close(LONG).await.expect("no call is under way");
        assert!(is_accepted().await);

        gate.turn_away(closed);
        assert!(!is_accepted().await);
    }

    #[tokio::test]
    async fn who_is_connected_is_waited_for() {
        let gate = CallGate::new(false);
        let connection = gate.connected().expect("a place");
        let hung_up = tokio::spawn({
            let gate = gate.clone();
            async move { timeout(LONG, gate.hung_up(LONG)).await.is_ok() }
        });

        drop(connection);

        assert!(hung_up.await.expect("no panic"));
    }
}
