//! What the tasks of a joined node share: who it is, what it knows, what it must do, and how that goes.

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
use crate::docker::book::Book;
use crate::endpoint::journal::Journal;
use crate::kernel::Events;
use crate::kernel::host::{Underlay, tunnel_mtu};
use crate::membership::Membership;
use crate::membership::candidates::{self, Candidate};
use crate::membership::control_book::ControlBook;
use crate::membership::keyring::Keyring;
use crate::membership::link::Link;
use crate::membership::prefix_clash::HostPrefixes;
use crate::membership::publish::Unpublished;
use crate::path::Lanes;
use crate::problem::{Problems, explain};
use crate::reconcile::NetworkReport;
use crate::state::{Identity, Loaded, Store};

/// How long a question to control waits for what control must be told before.
const TELLING: Duration = Duration::from_millis(500);

/// The MTU of most underlays, until the host's own is known.
const ETHERNET_MTU: u32 = 1500;

/// Whether this host is the one that may carry packets as its node: of two hosts with one identity only one can, for each
/// would draw the other's packets to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Control has not said anything since this process started; nothing is carried for the moment that it takes.
    Unproven,
    /// Control knows of no other, or cannot be asked.
    Admitted,
    /// Another host was there first; nothing is carried until it is gone.
    TurnedAway,
}

impl Standing {
    /// Tells whether packets are carried.
    pub(crate) fn carries(self) -> bool {
        self == Self::Admitted
    }
}

/// What a session has of its process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// Random: tells this process from every other that shows the same certificate.
    pub(crate) instance: Arc<str>,
    /// Where each peer was heard last, with proof.
    pub(crate) tunnels: watch::Receiver<BTreeMap<NodeId, IpAddr>>,
}

/// A node's life between join and leave.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its id.
    pub(crate) node: NodeId,
    /// Where namespaces are pinned.
    pub(crate) run_dir: PathBuf,
    /// What is kept.
    pub(crate) store: Store,
    /// What does not work.
    pub(crate) problems: Arc<Problems>,
    /// What it knows.
    pub(crate) membership: watch::Sender<Membership>,
    /// The connection to control.
    pub(crate) link: Link,
    /// Where control is looked for.
    pub(crate) control: ControlBook,
    /// The process that lives it.
    pub(crate) process: Process,
    /// What the host has in use beside the networks.
    pub(crate) host_prefixes: watch::Sender<HostPrefixes>,
    /// Whether this host may carry packets as this node.
    pub(crate) standing: watch::Sender<Standing>,
    /// Its endpoints.
    pub(crate) journal: Journal,
    /// What Docker was promised.
    pub(crate) docker: Book,
    /// Networks that this host's engine does not have as the cluster does.
    pub(crate) differences: watch::Sender<Vec<v1::Difference>>,
    /// The names of all its networks.
    pub(crate) names: watch::Sender<Arc<Names>>,
    /// Its keys.
    pub(crate) keyring: Keyring,
    /// Its packet engine.
    pub(crate) lanes: Arc<Lanes>,
    /// How each network is doing in the kernel.
    pub(crate) networks: watch::Sender<BTreeMap<NetworkId, NetworkReport>>,
    /// Held while an address is chosen and journalled, and while a network is left
    /// ([`crate::membership::occupancy::stay`]).
    pub(crate) lifecycle: Mutex<()>,
    /// Held while a network is entered.
    pub(crate) entering: PerNetwork,
    /// Ends its tasks.
    pub(crate) stop: CancellationToken,
    identity: watch::Sender<Arc<Identity>>,
    underlay_mtu: watch::Sender<u32>,
    events: OnceCell<Option<Arc<Events>>>,
    own: watch::Sender<Arc<BTreeSet<IpAddr>>>,
}

/// A lock for each network.
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

impl Session {
    /// Begins with what was kept.
    pub(crate) fn new(
        identity: Identity,
        loaded: Loaded,
        store: Store,
        problems: Arc<Problems>,
        lanes: Arc<Lanes>,
        run_dir: PathBuf,
        process: Process,
    ) -> Self {
        let count = u16::try_from(lanes.count()).unwrap_or(u16::MAX);
        let membership = Membership { view: Arc::new(loaded.view), live: false };

        Self {
            node: identity.node,
            run_dir,
            problems,
            membership: watch::Sender::new(membership),
            link: Link::new(),
            control: ControlBook::new(store.clone(), loaded.control),
            process,
            host_prefixes: watch::Sender::default(),
            standing: watch::Sender::new(Standing::Unproven),
            journal: Journal::new(store.clone(), loaded.endpoints, loaded.cursors),
            docker: Book::new(store.clone(), loaded.docker),
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
        }
    }

    /// Returns who this node is.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// Returns what hears of changes in namespaces. Where the kernel refuses that, all must be looked at all the time.
    pub(crate) async fn events(&self) -> Option<Arc<Events>> {
        let open = async {
            match Events::open().await {
                Ok(events) => {
                    self.problems.clear("events");
                    Some(Arc::new(events))
                }
                Err(error) => {
                    self.problems.raise("events", "kernel", explain(&error));
                    None
                }
            }
        };

        self.events.get_or_init(|| open).await.clone()
    }

    /// Takes a new certificate.
    pub(crate) fn set_identity(&self, identity: Identity) {
        self.identity.send_replace(Arc::new(identity));
    }

    /// Takes note of what control says of this host's standing; tells whether that is news.
    pub(crate) fn note_standing(&self, standing: Standing) -> bool {
        self.standing.send_if_modified(|known| std::mem::replace(known, standing) != standing)
    }

    /// Goes on as this node unless control has turned this host away.
    pub(crate) fn presume_standing(&self) {
        self.standing.send_if_modified(|known| {
            let presumed = *known == Standing::Unproven;
            if presumed {
                *known = Standing::Admitted;
            }
            presumed
        });
    }

    /// Lists where control may be, the likeliest first.
    pub(crate) fn control_candidates(&self) -> Vec<Candidate> {
        let known = self.control.known();

        candidates::candidates(&known, self.node, &self.identity().control, &self.process.tunnels.borrow())
    }

    /// Returns the view with this node's own endpoints as the journal has them.
    pub(crate) fn local_view(&self) -> Arc<View> {
        desired::local_view(&self.membership.borrow().view, &self.journal.entries(), self.node)
    }

    /// Returns what control must still be told.
    pub(crate) fn unpublished(&self) -> Unpublished {
        Unpublished::new(&self.membership.borrow().view, &self.journal.entries(), self.node)
    }

    /// Waits until control knows of everything, but not for long: for who is about to ask it.
    pub(crate) async fn published(&self) {
        let mut journal = self.journal.subscribe();
        let mut membership = self.membership.subscribe();
        let all_told = async {
            while self.link.is_connected() && self.unpublished().len() > 0 {
                tokio::select! {
                    _ = journal.changed() => {}
                    _ = membership.changed() => {}
                }
            }
        };
        // What control refuses stays untold.
        let _ = timeout(TELLING, all_told).await;
    }

    /// Returns the revision to ask the next changes from.
    pub(crate) fn followed(&self) -> Revision {
        self.membership.borrow().view.revision
    }

    /// Makes the next watch begin with a snapshot; the rows stay in use until it comes.
    pub(crate) fn follow_from_nothing(&self) {
        self.membership.send_modify(|membership| {
            Arc::make_mut(&mut membership.view).revision = Revision(0);
            membership.live = false;
        });
    }

    /// Returns the MTU of the tunnels, and hears of its changes.
    pub(crate) fn underlay_mtu(&self) -> watch::Receiver<u32> {
        self.underlay_mtu.subscribe()
    }

    /// Takes note of the underlay's MTU, in bytes.
    pub(crate) fn note_underlay_mtu(&self, mtu: u32) {
        self.underlay_mtu.send_if_modified(|known| std::mem::replace(known, mtu) != mtu);
    }

    /// Returns the host's own addresses, and hears of their changes. None until they were looked at.
    pub(crate) fn own(&self) -> watch::Receiver<Arc<BTreeSet<IpAddr>>> {
        self.own.subscribe()
    }

    /// Takes note of the host's own addresses; peers then see this node as behind a translation if they see it elsewhere.
    pub(crate) fn note_own(&self, own: BTreeSet<IpAddr>) {
        let has_changed = self.own.send_if_modified(|known| {
            **known != own && {
                *known = Arc::new(own);
                true
            }
        });
        if has_changed {
            // A lane that takes no commands has ended the process already.
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
