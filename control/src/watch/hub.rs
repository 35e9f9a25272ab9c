//! The published state, and the watches on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use overlay_core::{Delta, Lineage, NodeId, Revision, RowKey, Stamp, View};
use overlay_proto::v1;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::catch_up;
use super::change_log::ChangeLog;
use super::duplicate::{self, Duplicate};
use super::end::{DuplicateIdentity, WatchEnd};
use super::transfer::{Part, WatchTransfer};
use crate::registry::{ChangedKey, ClusterState, Record, RegistryError};
use crate::store::{ChangeLogEntry, Commit};

/// How long an agent has to confirm that it is still there when another process presents its
/// certificate.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// The state that readers and watchers see. Nothing is published before it is stored.
#[derive(Debug)]
pub(crate) struct Hub {
    present: RwLock<Present>,
    watches: Mutex<Watches>,
    evictions: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Present {
    pub(super) state: ClusterState,
    pub(super) history: ChangeLog,
}

impl Present {
    /// Returns what tells a revision from the same number of another history.
    pub(super) fn stamp(&self, revision: Revision) -> Option<Stamp> {
        let history = self.state.history()?;
        let mark = self.history.nonce(revision).map(|nonce| history.mark(revision, nonce));

        Some(Stamp { lineage: history.lineage, mark })
    }

    fn lineage(&self) -> Option<Lineage> {
        self.state.history().map(|history| history.lineage)
    }
}

/// How the view that a watcher shows belongs to control's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is of this history's past: the watch may go on from it.
    Past,
    /// It is of another history, of no known one, or too old to tell.
    Elsewhere,
    /// Control made it in this history, and knows nothing of it: its state is an older copy.
    Forked,
}

#[derive(Debug, Default)]
struct Watches {
    open: BTreeMap<NodeId, Arc<OpenWatch>>,
    presence: BTreeMap<NodeId, Presence>,
}

/// What is known about a node's watch since control started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Presence {
    /// Whether it has a watch open.
    pub(crate) online: bool,
    /// When it last had a watch open, in seconds since 1970.
    pub(crate) seen: u64,
    /// The last revision sent to it.
    pub(crate) revision: Revision,
}

/// The process that opens a watch.
#[derive(Debug, Clone)]
pub(crate) struct Watcher {
    /// A random id of the agent's process; empty when it sent none.
    pub(crate) instance: String,
    /// Whether its calls name the instance, too, so that one that does not is not its.
    pub(crate) is_tagged: bool,
    /// The address it connects from.
    pub(crate) address: IpAddr,
}

/// The result of opening a watch.
#[derive(Debug)]
pub(crate) enum OpenResult {
    /// The watch is open.
    Open(Arc<OpenWatch>),
    /// Another process of the same node has a watch open; it must be asked whether it is still
    /// there.
    Occupied(Arc<OpenWatch>),
}

/// One open watch.
#[derive(Debug)]
pub(crate) struct OpenWatch {
    watcher: Watcher,
    wake: Notify,
    /// There is something to send besides the membership.
    prompt: Notify,
    asked: AtomicBool,
    answers: watch::Sender<u64>,
    duplicate: Duplicate,
    closed: CancellationToken,
    reason: OnceLock<WatchEnd>,
}

impl OpenWatch {
    fn new(watcher: Watcher) -> Self {
        Self {
            watcher,
            wake: Notify::new(),
            prompt: Notify::new(),
            asked: AtomicBool::new(false),
            answers: watch::Sender::new(0),
            duplicate: Duplicate::default(),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
        }
    }

    /// Returns the address that the watcher connects from.
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
            answer = timeout(CONFIRM_TIMEOUT, answers.changed()) => matches!(answer, Ok(Ok(()))),
        }
    }

    /// Records that another process presented this watcher's certificate and was turned away, at
    /// `unix` seconds since 1970.
    pub(crate) fn turned_away(&self, address: IpAddr, unix: u64) -> DuplicateIdentity {
        if self.duplicate.turned_away(address, unix, Instant::now()) {
            tracing::warn!(kept = %self.watcher.address, turned_away = %address, "Two hosts use the identity of one node");
            self.prompt.notify_one();
        }

        DuplicateIdentity { first: self.watcher.address }
    }

    /// Waits until something besides the membership must be sent to the watcher at once.
    pub(crate) async fn prompted(&self) {
        self.prompt.notified().await;
    }

    /// Waits until the other process has stayed away long enough to count as gone; forever when
    /// there is none.
    pub(crate) async fn duplicate_gone(&self) {
        match self.duplicate.until() {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the message that tells the watcher everything besides the membership.
    pub(crate) fn alive(&self, unix_time: u64) -> v1::Alive {
        v1::Alive {
            unix_time,
            clash: self.duplicate.told(Instant::now()),
            answer: self.asked.swap(false, Ordering::Relaxed),
            ..v1::Alive::default()
        }
    }

    /// Records that the watch is no longer served.
    pub(crate) fn over(&self) {
        self.closed.cancel();
    }

    /// Waits until something has changed for this watcher.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits until the watch must end, and returns why.
    pub(crate) async fn ended(&self) -> WatchEnd {
        self.closed.cancelled().await;

        self.reason.get().cloned().unwrap_or(WatchEnd::Shutdown)
    }

    fn end(&self, reason: WatchEnd) {
        // The first reason wins.
        let _ = self.reason.set(reason);
        self.closed.cancel();
    }
}

/// The next message of the membership for a watcher.
#[derive(Debug)]
pub(crate) enum WatchEvent {
    /// Everything it may see.
    Snapshot(View),
    /// What changed.
    Delta(Delta),
}

impl Hub {
    /// Publishes a loaded state.
    pub(crate) fn new(
        state: ClusterState,
        history: impl IntoIterator<Item = ChangeLogEntry>,
    ) -> Self {
        let mut past = ChangeLog::default();
        for commit in history {
            past.push(commit);
        }

        Self {
            present: RwLock::new(Present { state, history: past }),
            watches: Mutex::default(),
            evictions: AtomicU64::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Present> {
        self.present.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the current state; must be quick, since the next commit waits.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&ClusterState) -> T) -> T {
        at(&self.read().state)
    }

    /// Returns a number that changes whenever somebody removed a node.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Acquire)
    }

    /// Publishes commits that are stored, and wakes the watchers concerned: all of them when
    /// somebody removed a node, which every node is to know.
    pub(crate) fn publish(&self, commits: Vec<Commit>) {
        let mut changed = Vec::new();
        let evicts = commits.iter().flat_map(|commit| &commit.records).any(Record::is_eviction);
        let is_anew;
        let concerned = {
            let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
            let lineage = present.lineage();
            for commit in commits {
                present.state.commit(commit.records);
                changed.extend_from_slice(&commit.changed);
                let Commit { to, changed, nonce, .. } = commit;
                present.history.push(ChangeLogEntry { to, changed, nonce });
            }
            is_anew = lineage != present.lineage();
            concerned(&present.state, &changed)
        };
        if evicts {
            self.evictions.fetch_add(1, Ordering::Release);
        }
        if is_anew {
            self.watches().open.values().for_each(|watch| watch.end(WatchEnd::Anew));
        }
        self.wake(&changed, concerned.as_ref().filter(|_| !evicts));
    }

    /// Publishes commits that were stored although their write was reported as failed.
    pub(crate) fn adopt(&self, state: ClusterState, commits: Vec<ChangeLogEntry>) {
        let changed: Vec<_> =
            commits.iter().flat_map(|commit| commit.changed.iter().cloned()).collect();
        {
            let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
            present.state = state;
            for commit in commits {
                present.history.push(commit);
            }
        }
        self.evictions.fetch_add(1, Ordering::Release);
        self.wake(&changed, None);
    }

    fn wake(&self, changed: &[ChangedKey], concerned: Option<&BTreeSet<NodeId>>) {
        let mut watches = self.watches();
        for row in changed {
            if let RowKey::Node(node) = row.key
                && let Err(gone) = self.read().state.node(node)
            {
                watches.presence.remove(&node);
                if let Some(watch) = watches.open.remove(&node) {
                    watch.end(WatchEnd::Removed(gone));
                }
            }
        }
        match concerned {
            None => watches.open.values().for_each(|watch| watch.wake.notify_one()),
            Some(nodes) => nodes
                .iter()
                .filter_map(|node| watches.open.get(node))
                .for_each(|watch| watch.wake.notify_one()),
        }
    }

    /// Opens a watch. An earlier watch of the same process ends, as does one whose process was
    /// asked and stayed `silent`.
    ///
    /// # Errors
    ///
    /// If the node was removed in the meantime.
    pub(crate) fn open(
        &self,
        node: NodeId,
        watcher: Watcher,
        silent: Option<&Arc<OpenWatch>>,
        now: u64,
    ) -> Result<OpenResult, RegistryError> {
        let mut watches = self.watches();
        // Under the lock, so that a removal is either seen here or finds the watch.
        self.look(|state| state.node(node).map(drop))?;
        let occupied = watches.open.get(&node).filter(|earlier| {
            let is_silent = silent.is_some_and(|silent| Arc::ptr_eq(silent, earlier));
            !is_silent && duplicate::is_another(&earlier.watcher.instance, &watcher.instance)
        });
        if let Some(earlier) = occupied {
            return Ok(OpenResult::Occupied(Arc::clone(earlier)));
        }
        let watch = Arc::new(OpenWatch::new(watcher));
        if let Some(earlier) = watches.open.insert(node, Arc::clone(&watch)) {
            tracing::debug!(%node, "A second watch of one node replaced the first");
            earlier.end(WatchEnd::Replaced);
        }
        let presence = watches.presence.entry(node).or_default();
        presence.online = true;
        presence.seen = now;

        Ok(OpenResult::Open(watch))
    }

    /// Returns the watch of a node if a call that names `instance` comes from another process.
    pub(crate) fn other_process(
        &self,
        node: NodeId,
        instance: Option<&str>,
    ) -> Option<Arc<OpenWatch>> {
        let watches = self.watches();
        let open = watches.open.get(&node)?;
        let is_other = match instance {
            Some(calling) => duplicate::is_another(&open.watcher.instance, calling),
            None => open.watcher.is_tagged,
        };

        is_other.then(|| Arc::clone(open))
    }

    /// Returns the watch of a node, if it has one.
    pub(crate) fn watch_of(&self, node: NodeId) -> Option<Arc<OpenWatch>> {
        self.watches().open.get(&node).map(Arc::clone)
    }

    /// Records that the agent of a node's watch confirmed that it is still there.
    pub(crate) fn confirm(&self, node: NodeId, instance: &str) {
        if let Some(watch) =
            self.watches().open.get(&node).filter(|open| open.watcher.instance == instance)
        {
            watch.answers.send_modify(|count| *count += 1);
        }
    }

    /// Records that a watch ended.
    pub(crate) fn close(&self, node: NodeId, watch: &Arc<OpenWatch>, now: u64) {
        let mut watches = self.watches();
        if watches.open.get(&node).is_some_and(|open| Arc::ptr_eq(open, watch)) {
            watches.open.remove(&node);
            if let Some(presence) = watches.presence.get_mut(&node) {
                presence.online = false;
                presence.seen = now;
            }
        }
    }

    /// Records the revision that was sent to a watcher.
    pub(crate) fn sent(&self, node: NodeId, revision: Revision, now: u64) {
        if let Some(presence) = self.watches().presence.get_mut(&node) {
            presence.revision = revision;
            presence.seen = now;
        }
    }

    /// Returns what is known about a node's watch.
    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        self.watches().presence.get(&node).copied().unwrap_or_default()
    }

    /// Ends every watch.
    pub(crate) fn shut(&self) {
        for watch in self.watches().open.values() {
            watch.closed.cancel();
        }
    }

    /// Returns the current revision.
    pub(crate) fn revision(&self) -> Revision {
        self.read().state.view().revision
    }

    /// Returns what brings a node from its revision to the current one.
    pub(crate) fn next_event(&self, node: NodeId, from: Option<Revision>) -> WatchEvent {
        let present = self.read();
        let stamp = present.stamp(present.state.view().revision);
        let delta =
            from.and_then(|from| catch_up::delta(&present.state, &present.history, node, from));

        match delta {
            Some(delta) => WatchEvent::Delta(Delta { stamp, ..delta }),
            None => {
                WatchEvent::Snapshot(View { stamp, ..catch_up::snapshot(&present.state, node) })
            }
        }
    }

    /// Begins to bring a node from its revision to the current one, part by part.
    pub(crate) fn transfer(&self, node: NodeId, from: Option<Revision>) -> WatchTransfer {
        WatchTransfer::new(&self.read(), node, from)
    }

    /// Makes the next part of a transfer.
    pub(crate) fn next_part(&self, node: NodeId, transfer: &mut WatchTransfer) -> Part {
        transfer.next(&self.read(), node)
    }

    /// Returns how a view that a watcher shows belongs to the history.
    pub(crate) fn standing(&self, revision: Revision, stamp: Option<Stamp>) -> Standing {
        let present = self.read();
        let (Some(history), Some(stamp)) = (present.state.history(), stamp) else {
            return Standing::Elsewhere;
        };
        let Some(mark) = stamp.mark.filter(|_| stamp.lineage == history.lineage) else {
            return Standing::Elsewhere;
        };
        let ours = present.history.nonce(revision).map(|nonce| history.mark(revision, nonce));
        let is_known = ours.is_some() || revision > present.state.view().revision;
        if ours == Some(mark) {
            Standing::Past
        } else if is_known && history.has_marked(revision, &mark) {
            Standing::Forked
        } else {
            Standing::Elsewhere
        }
    }
}

/// Lists the nodes that may see one of the rows, or could before; `None` stands for all nodes.
fn concerned(state: &ClusterState, changed: &[ChangedKey]) -> Option<BTreeSet<NodeId>> {
    let mut nodes = BTreeSet::new();
    let mut networks = BTreeSet::new();
    for row in changed {
        match row.key {
            RowKey::Network(_) | RowKey::HostReport(_) | RowKey::Policy => return None,
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
    let linked: Vec<_> = networks.iter().flat_map(|network| state.links_of(*network)).collect();
    networks.extend(linked);
    nodes.extend(
        networks
            .into_iter()
            .flat_map(|network| state.view().members_of(network))
            .map(|member| member.node),
    );

    Some(nodes)
}
