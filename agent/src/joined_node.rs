//! What the tasks of a joined node share: its identity, its view, its stores, and its state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use overlay_core::{NetworkId, NodeId, Revision, View};
use overlay_proto::v1;
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::desired;
use crate::dns::Names;
use crate::docker::plugin_store::PluginStore;
use crate::kernel::NamespaceEvents;
use crate::kernel::host::{Underlay, tunnel_mtu};
use crate::membership::Membership;
use crate::membership::address_book::AddressBook;
use crate::membership::candidates::{self, Candidate};
use crate::membership::connection::ControlConnection;
use crate::membership::prefix_clash::HostPrefixes;
use crate::membership::publish::Unpublished;
use crate::path::Lanes;
use crate::problem::{Problems, explain};
use crate::reconcile::NetworkReport;
use crate::state::journal::Journal;
use crate::state::keyring::Keyring;
use crate::state::{Identity, StateStore, StoredState};

/// How long a request to control waits until pending changes are published.
const TELLING: Duration = Duration::from_millis(500);

/// The MTU of most underlays, until the host's own is known.
const ETHERNET_MTU: u32 = 1500;

/// Whether this host may carry packets as its node. Of two hosts with one identity only one may: each would attract the
/// other's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Control has not answered since this process started; until it does, nothing is carried.
    Unproven,
    /// Control knows of no other host, or cannot be reached.
    Admitted,
    /// Another host was first; nothing is carried until it is gone.
    TurnedAway,
}

impl Admission {
    /// Tells whether packets are carried.
    pub(crate) fn carries(self) -> bool {
        self == Self::Admitted
    }
}

/// What a joined node needs from its process.
#[derive(Debug, Clone)]
pub(crate) struct ProcessContext {
    /// A random id that distinguishes this process from others with the same certificate.
    pub(crate) instance: Arc<str>,
    /// The address from which each peer was last heard, authenticated.
    pub(crate) tunnels: watch::Receiver<BTreeMap<NodeId, IpAddr>>,
}

/// Everything a node has between join and leave.
#[derive(Debug)]
pub(crate) struct JoinedNode {
    /// The node's id.
    pub(crate) node: NodeId,
    /// Where namespaces are pinned.
    pub(crate) run_dir: PathBuf,
    /// The state on disk.
    pub(crate) store: StateStore,
    /// The current problems.
    pub(crate) problems: Arc<Problems>,
    /// The membership as this node sees it.
    pub(crate) membership: watch::Sender<Membership>,
    /// The connection to control.
    pub(crate) connection: ControlConnection,
    /// The addresses at which control may be reached.
    pub(crate) control: AddressBook,
    /// What it needs from its process.
    pub(crate) process: ProcessContext,
    /// The prefixes that the host itself uses.
    pub(crate) host_prefixes: watch::Sender<HostPrefixes>,
    /// Whether this host may carry packets as this node.
    pub(crate) admission: watch::Sender<Admission>,
    /// The journal of its endpoints.
    pub(crate) journal: Journal,
    /// What Docker was promised.
    pub(crate) docker: PluginStore,
    /// The networks that differ in this host's Docker.
    pub(crate) differences: watch::Sender<Vec<v1::Difference>>,
    /// The DNS names of all its networks.
    pub(crate) names: watch::Sender<Arc<Names>>,
    /// Its WireGuard keys.
    pub(crate) keyring: Keyring,
    /// Its data path.
    pub(crate) lanes: Arc<Lanes>,
    /// The state of each network in the kernel.
    pub(crate) networks: watch::Sender<BTreeMap<NetworkId, NetworkReport>>,
    /// Held while an address is chosen and journalled, and while a network is left
    /// ([`crate::membership::network_membership::stay`]).
    pub(crate) lifecycle: Mutex<()>,
    /// Held while a network is entered.
    pub(crate) entering: PerNetwork,
    /// Ends its tasks.
    pub(crate) stop: CancellationToken,
    identity: watch::Sender<Arc<Identity>>,
    underlay_mtu: watch::Sender<u32>,
    events: OnceCell<Option<Arc<NamespaceEvents>>>,
    own: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    ways: watch::Sender<u64>,
}

/// One lock per network.
#[derive(Debug, Default)]
pub(crate) struct PerNetwork(std::sync::Mutex<BTreeMap<NetworkId, Arc<Mutex<()>>>>);

impl PerNetwork {
    /// Waits for the lock of a network.
    pub(crate) async fn lock(&self, network: NetworkId) -> OwnedMutexGuard<()> {
        self.of(network).lock_owned().await
    }

    /// Takes the lock of a network, if nobody has it.
    pub(crate) fn try_lock(&self, network: NetworkId) -> Option<OwnedMutexGuard<()>> {
        self.of(network).try_lock_owned().ok()
    }

    fn of(&self, network: NetworkId) -> Arc<Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has or wants one holds a copy.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);

        Arc::clone(locks.entry(network).or_default())
    }
}

impl JoinedNode {
    /// Starts with the stored state.
    pub(crate) fn new(
        identity: Identity,
        loaded: StoredState,
        store: StateStore,
        problems: Arc<Problems>,
        lanes: Arc<Lanes>,
        run_dir: PathBuf,
        process: ProcessContext,
    ) -> Self {
        let count = u16::try_from(lanes.count()).unwrap_or(u16::MAX);
        let membership = Membership { view: Arc::new(loaded.view), live: false };

        Self {
            node: identity.node,
            run_dir,
            problems,
            membership: watch::Sender::new(membership),
            connection: ControlConnection::new(),
            control: AddressBook::new(store.clone(), loaded.control),
            process,
            host_prefixes: watch::Sender::default(),
            admission: watch::Sender::new(Admission::Unproven),
            journal: Journal::new(store.clone(), loaded.endpoints, loaded.cursors),
            docker: PluginStore::new(store.clone(), loaded.docker),
            differences: watch::Sender::default(),
            names: watch::Sender::new(Arc::default()),
            keyring: Keyring::new(count, loaded.keys),
            store,
            lanes,
            networks: watch::Sender::new(BTreeMap::new()),
            lifecycle: Mutex::new(()),
            entering: PerNetwork::default(),
            stop: CancellationToken::new(),
            identity: watch::Sender::new(Arc::new(identity)),
            underlay_mtu: watch::Sender::new(ETHERNET_MTU),
            events: OnceCell::new(),
            own: watch::Sender::default(),
            ways: watch::Sender::default(),
        }
    }

    /// Returns the node's identity.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// Returns the source of events in namespaces. If the kernel refuses one, all namespaces must be polled.
    pub(crate) async fn events(&self) -> Option<Arc<NamespaceEvents>> {
        let open = async {
            match NamespaceEvents::open().await {
                Ok(events) => {
                    self.problems.clear("events");
                    Some(Arc::new(events))
                }
                Err(error) => {
                    let text =
                        format!("changes in namespaces are not heard of, so they are polled: {}", explain(&error));
                    self.problems.raise("events", "kernel", text);
                    None
                }
            }
        };

        self.events.get_or_init(|| open).await.clone()
    }

    /// Replaces the certificate.
    pub(crate) fn set_identity(&self, identity: Identity) {
        self.identity.send_replace(Arc::new(identity));
    }

    /// Records control's decision about this host; tells whether it changed.
    pub(crate) fn set_admission(&self, admission: Admission) -> bool {
        self.admission.send_if_modified(|known| std::mem::replace(known, admission) != admission)
    }

    /// Admits this host unless control has turned it away.
    pub(crate) fn assume_admission(&self) {
        self.admission.send_if_modified(|known| {
            let presumed = *known == Admission::Unproven;
            if presumed {
                *known = Admission::Admitted;
            }
            presumed
        });
    }

    /// Lists the addresses at which control may be reached, the likeliest first.
    pub(crate) fn control_candidates(&self) -> Vec<Candidate> {
        let known = self.control.known();

        candidates::candidates(&known, self.node, &self.identity().control, &self.process.tunnels.borrow())
    }

    /// Returns the view with this node's own endpoints as the journal has them.
    pub(crate) fn local_view(&self) -> Arc<View> {
        desired::local_view(&self.membership.borrow().view, &self.journal.entries(), self.node)
    }

    /// Returns the changes that are not yet published.
    pub(crate) fn unpublished(&self) -> Unpublished {
        Unpublished::new(&self.membership.borrow().view, &self.journal.entries(), self.node)
    }

    /// Waits briefly until everything is published; called before requests to control.
    pub(crate) async fn published(&self) {
        let mut journal = self.journal.subscribe();
        let mut membership = self.membership.subscribe();
        let all_told = async {
            while self.connection.is_connected() && self.unpublished().len() > 0 {
                tokio::select! {
                    _ = journal.changed() => {}
                    _ = membership.changed() => {}
                }
            }
        };
        // Changes that control refuses stay unpublished.
        let _ = timeout(TELLING, all_told).await;
    }

    /// Returns the revision from which to watch.
    pub(crate) fn followed(&self) -> Revision {
        self.membership.borrow().view.revision
    }

    /// Makes the next watch begin with a snapshot; the rows stay in use until it arrives.
    pub(crate) fn follow_from_nothing(&self) {
        self.membership.send_modify(|membership| {
            Arc::make_mut(&mut membership.view).revision = Revision(0);
            membership.live = false;
        });
    }

    /// Hears whenever the host's addresses or routes have changed: connections may be dead by that.
    pub(crate) fn ways(&self) -> watch::Receiver<u64> {
        self.ways.subscribe()
    }

    /// Takes note that the host's addresses or routes have changed.
    pub(crate) fn note_ways(&self) {
        self.ways.send_modify(|count| *count += 1);
    }

    /// Subscribes to the underlay's MTU.
    pub(crate) fn underlay_mtu(&self) -> watch::Receiver<u32> {
        self.underlay_mtu.subscribe()
    }

    /// Records the underlay's MTU, in bytes.
    pub(crate) fn note_underlay_mtu(&self, mtu: u32) {
        self.underlay_mtu.send_if_modified(|known| std::mem::replace(known, mtu) != mtu);
    }

    /// Subscribes to the host's own addresses; empty until they were read.
    pub(crate) fn own(&self) -> watch::Receiver<Arc<BTreeSet<IpAddr>>> {
        self.own.subscribe()
    }

    /// Records the host's own addresses; a peer that sees this node at another address means that it is behind NAT.
    pub(crate) fn note_own(&self, own: BTreeSet<IpAddr>) {
        let has_changed = self.own.send_if_modified(|known| {
            **known != own && {
                *known = Arc::new(own);
                true
            }
        });
        if has_changed {
            // A lane that accepts no commands has ended the process already.
            let _ = self.lanes.know_own(&self.own.borrow());
        }
    }

    /// Returns the largest inner packet, in bytes.
    pub(crate) fn mtu(&self) -> u32 {
        tunnel_mtu(*self.underlay_mtu.borrow(), Underlay::Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_network_does_not_wait_for_another_and_no_lock_stays() {
        let (locks, far) = (PerNetwork::default(), Duration::from_millis(20));
        let first = locks.lock(NetworkId::from_random(1)).await;
        let _other = locks.lock(NetworkId::from_random(2)).await;

        assert!(timeout(far, locks.lock(NetworkId::from_random(1))).await.is_err(), "it is taken");
        drop(first);
        drop(timeout(far, locks.lock(NetworkId::from_random(1))).await.expect("it is free"));
        let _third = locks.lock(NetworkId::from_random(3)).await;
        assert_eq!(locks.0.lock().expect("no panic").len(), 2);
    }
}
