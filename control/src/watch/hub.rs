//! The published present, and who watches it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use overlay_core::{Delta, NodeId, Revision, RowKey, View};
use overlay_proto::{Code, Refusal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::catch_up;
use super::history::History;
use crate::registry::{State, Touched};
use crate::store::{Footprint, Step};

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

/// One open watch.
#[derive(Debug, Default)]
pub(crate) struct Session {
    wake: Notify,
    closed: CancellationToken,
    reason: OnceLock<Refusal>,
}

impl Session {
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

    /// Opens a watch; an earlier one of the same node ends.
    ///
    /// # Errors
    ///
    /// When the node was taken out meanwhile.
    pub(crate) fn open(&self, node: NodeId, now: u64) -> Result<Arc<Session>, Refusal> {
        let mut watches = self.watches();
        // Under the lock, so that a removal either is seen here or finds the session.
        self.look(|state| state.node(node).map(drop))?;
        let session = Arc::new(Session::default());
        if let Some(earlier) = watches.open.insert(node, Arc::clone(&session)) {
            tracing::warn!(%node, "A second watch of one node replaced the first; if this repeats, two hosts share one state directory");
            earlier.end(Refusal::new(
                Code::WrongState,
                "another watch with this node's identity began; if this repeats, two hosts share one state directory",
            ));
        }
        let presence = watches.presence.entry(node).or_default();
        presence.online = true;
        presence.seen = now;

        Ok(session)
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
