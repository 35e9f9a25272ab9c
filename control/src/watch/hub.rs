//! The published present, and who watches it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use overlay_core::{Delta, NodeId, Revision, RowKey, View};
use overlay_proto::{Code, Refusal, v1};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::catch_up;
use super::history::History;
use super::rival::{self, Rival};
use crate::registry::{State, Touched};
use crate::store::{Footprint, Step};

/// How long an agent may take to say that it is still there, when another one shows its certificate.
const ANSWER: Duration = Duration::from_secs(3);

/// Everything that readers and watchers are told, and nothing that is not stored yet.
#[derive(Debug)]
pub(crate) struct Hub {
    present: RwLock<Present>,
    watches: Mutex<Watches>,
}

#[derive(Debug)]
struct Present {
    state: State,
    history: History,
}

#[derive(Debug, Default)]
struct Watches {
    open: BTreeMap<NodeId, Arc<Session>>,
    presence: BTreeMap<NodeId, Presence>,
}

/// What is known of a node's watch, since control started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Presence {
    /// Whether it has one open.
    pub(crate) online: bool,
    /// When it last had one, in seconds since 1970.
    pub(crate) seen: u64,
    /// The last revision sent to it.
    pub(crate) revision: Revision,
}

/// Who opens a watch.
#[derive(Debug, Clone)]
pub(crate) struct Watcher {
    /// Random, of the agent's process; empty when it names none.
    pub(crate) instance: String,
    /// Where it connects from.
    pub(crate) address: IpAddr,
}

/// What came of opening a watch.
#[derive(Debug)]
pub(crate) enum Opened {
    /// It is open.
    Open(Arc<Session>),
    /// Another process of the same node has one open; whether it is still there must be asked.
    Occupied(Arc<Session>),
}

/// One open watch.
#[derive(Debug)]
pub(crate) struct Session {
    watcher: Watcher,
    wake: Notify,
    /// Something is to be told beside the membership.
    prompt: Notify,
    asked: AtomicBool,
    answers: watch::Sender<u64>,
    rival: Rival,
    closed: CancellationToken,
    reason: OnceLock<Refusal>,
}

impl Session {
    fn new(watcher: Watcher) -> Self {
        Self {
            watcher,
            wake: Notify::new(),
            prompt: Notify::new(),
            asked: AtomicBool::new(false),
            answers: watch::Sender::new(0),
            rival: Rival::default(),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
        }
    }

    /// Returns where the watcher connects from.
    pub(crate) fn address(&self) -> IpAddr {
        self.watcher.address
    }

    /// Asks the watcher whether it is still there, and waits for the answer.
    pub(crate) async fn answers(&self) -> bool {
        let mut answers = self.answers.subscribe();
        self.asked.store(true, Ordering::Relaxed);
        self.prompt.notify_one();
        tokio::select! {
            () = self.closed.cancelled() => false,
            answer = timeout(ANSWER, answers.changed()) => matches!(answer, Ok(Ok(()))),
        }
    }

    /// Notes that another process showed this watcher's certificate and was turned away, at `unix` seconds since 1970.
    pub(crate) fn turned_away(&self, address: IpAddr, unix: u64) -> Refusal {
        if self.rival.turned_away(address, unix, Instant::now()) {
            tracing::warn!(kept = %self.watcher.address, turned_away = %address, "Two hosts use the identity of one node");
            self.prompt.notify_one();
        }

        rival::refusal(self.watcher.address)
    }

    /// Waits until the watcher must be told something beside the membership, at once.
    pub(crate) async fn prompted(&self) {
        self.prompt.notified().await;
    }

    /// Waits until the other process has not been seen for so long that it is gone; for ever when there is none.
    pub(crate) async fn rival_gone(&self) {
        match self.rival.until() {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Writes what the watcher is told beside the membership.
    pub(crate) fn alive(&self, unix_time: u64) -> v1::Alive {
        v1::Alive {
            unix_time,
            clash: self.rival.told(Instant::now()),
            answer: self.asked.swap(false, Ordering::Relaxed),
            ..v1::Alive::default()
        }
    }

    /// Notes that nobody serves the watch any more.
    pub(crate) fn over(&self) {
        self.closed.cancel();
    }

    /// Waits until something changed for this watcher.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits until the watch must end, and returns why.
    pub(crate) async fn ended(&self) -> Refusal {
        self.closed.cancelled().await;
        let shutdown = || Refusal::new(Code::ControlAway, "control is shutting down");

        self.reason.get().cloned().unwrap_or_else(shutdown)
    }

    fn end(&self, reason: Refusal) {
        // The first reason stands.
        let _ = self.reason.set(reason);
        self.closed.cancel();
    }
}

/// What a watcher is sent next.
#[derive(Debug)]
pub(crate) enum News {
    /// Everything it may see.
    Snapshot(View),
    /// What changed.
    Delta(Delta),
}

impl Hub {
    /// Publishes a loaded state.
    pub(crate) fn new(state: State, history: impl IntoIterator<Item = Footprint>) -> Self {
        let mut past = History::default();
        for step in history {
            past.push(step);
        }

        Self { present: RwLock::new(Present { state, history: past }), watches: Mutex::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Present> {
        self.present.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the present; must not take long, for the next commit waits.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.read().state)
    }

    /// Publishes steps that are stored, and wakes whom they concern.
    pub(crate) fn publish(&self, steps: Vec<Step>) {
        let mut touched = Vec::new();
        let concerned = {
            let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
            for step in steps {
                present.state.commit(step.records);
                touched.extend_from_slice(&step.touched);
                present.history.push(Footprint { to: step.to, touched: step.touched });
            }
            concerned(&present.state, &touched)
        };
        self.wake(&touched, concerned.as_ref());
    }

    /// Publishes what is stored without having been published: a commit that was reported as failed.
    pub(crate) fn adopt(&self, state: State, steps: Vec<Footprint>) {
        let touched: Vec<_> = steps.iter().flat_map(|step| step.touched.iter().copied()).collect();
        {
            let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
            present.state = state;
            for step in steps {
                present.history.push(step);
            }
        }
        self.wake(&touched, None);
    }

    fn wake(&self, touched: &[Touched], concerned: Option<&BTreeSet<NodeId>>) {
        let mut watches = self.watches();
        for row in touched {
            if let RowKey::Node(node) = row.key
                && let Err(gone) = self.read().state.node(node)
            {
                watches.presence.remove(&node);
                if let Some(session) = watches.open.remove(&node) {
                    session.end(gone);
                }
            }
        }
        match concerned {
            None => watches.open.values().for_each(|session| session.wake.notify_one()),
            Some(nodes) => {
                nodes.iter().filter_map(|node| watches.open.get(node)).for_each(|session| session.wake.notify_one())
            }
        }
    }

    /// Opens a watch; an earlier one of the same process ends, as does one of a process that was asked and kept `silent`.
    ///
    /// # Errors
    ///
    /// When the node was taken out meanwhile.
    pub(crate) fn open(
        &self,
        node: NodeId,
        watcher: Watcher,
        silent: Option<&Arc<Session>>,
        now: u64,
    ) -> Result<Opened, Refusal> {
        let mut watches = self.watches();
        // Under the lock, so that a removal either is seen here or finds the session.
        self.look(|state| state.node(node).map(drop))?;
        let occupied = watches.open.get(&node).filter(|earlier| {
            let is_silent = silent.is_some_and(|silent| Arc::ptr_eq(silent, earlier));
            !is_silent && rival::is_another(&earlier.watcher.instance, &watcher.instance)
        });
        if let Some(earlier) = occupied {
            return Ok(Opened::Occupied(Arc::clone(earlier)));
        }
        let session = Arc::new(Session::new(watcher));
        if let Some(earlier) = watches.open.insert(node, Arc::clone(&session)) {
            tracing::debug!(%node, "A second watch of one node replaced the first");
            earlier.end(Refusal::new(
                Code::WrongState,
                "another watch with this node's identity began; if this repeats, two hosts share one state directory",
            ));
        }
        let presence = watches.presence.entry(node).or_default();
        presence.online = true;
        presence.seen = now;

        Ok(Opened::Open(session))
    }

    /// Notes that the agent of a node's watch says that it is still there.
    pub(crate) fn confirm(&self, node: NodeId, instance: &str) {
        if let Some(session) = self.watches().open.get(&node).filter(|open| open.watcher.instance == instance) {
            session.answers.send_modify(|count| *count += 1);
        }
    }

    /// Notes that a watch ended.
    pub(crate) fn close(&self, node: NodeId, session: &Arc<Session>, now: u64) {
        let mut watches = self.watches();
        if watches.open.get(&node).is_some_and(|open| Arc::ptr_eq(open, session)) {
            watches.open.remove(&node);
            if let Some(presence) = watches.presence.get_mut(&node) {
                presence.online = false;
                presence.seen = now;
            }
        }
    }

    /// Notes what a watcher was sent.
    pub(crate) fn sent(&self, node: NodeId, revision: Revision, now: u64) {
        if let Some(presence) = self.watches().presence.get_mut(&node) {
            presence.revision = revision;
            presence.seen = now;
        }
    }

    /// Returns what is known of a node's watch.
    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        self.watches().presence.get(&node).copied().unwrap_or_default()
    }

    /// Ends every watch.
    pub(crate) fn shut(&self) {
        for session in self.watches().open.values() {
            session.closed.cancel();
        }
    }

    /// Returns the present revision.
    pub(crate) fn revision(&self) -> Revision {
        self.read().state.view().revision
    }

    /// Returns what takes a node from where it stands to the present.
    pub(crate) fn news(&self, node: NodeId, from: Option<Revision>) -> News {
        let present = self.read();
        let delta = from.and_then(|from| catch_up::delta(&present.state, &present.history, node, from));

        delta.map_or_else(|| News::Snapshot(catch_up::snapshot(&present.state, node)), News::Delta)
    }
}

/// Lists the nodes that may see one of the rows or could before; nothing means all nodes.
fn concerned(state: &State, touched: &[Touched]) -> Option<BTreeSet<NodeId>> {
    let mut nodes = BTreeSet::new();
    let mut networks = BTreeSet::new();
    for row in touched {
        match row.key {
            RowKey::Network(_) | RowKey::HostReport(_) => return None,
            RowKey::Node(node) => {
                nodes.insert(node);
                networks.extend(state.memberships(node));
            }
            RowKey::Member(network, node) => {
                nodes.insert(node);
                networks.insert(network);
            }
            RowKey::Endpoint(network, _) => drop(networks.insert(network)),
        }
    }
    nodes.extend(networks.into_iter().flat_map(|network| state.view().members_of(network)).map(|member| member.node));

    Some(nodes)
}
