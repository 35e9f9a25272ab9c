//! A joined node: the stores and services that it is made of, each handed to those who need it and
//! to no other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use overlay_core::{NetworkId, NodeId, View};
use overlay_proto::{SignedRevocation, v1};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::backend::DataPath;
use crate::dns::{DnsCounts, Names};
use crate::docker::plugin_store::PluginStore;
use crate::docker::task::DockerWork;
use crate::endpoint::lifecycle::Endpoints;
use crate::endpoint::sandbox::boot;
use crate::event_source::EventSource;
use crate::hand_over::DescriptorStore;
use crate::host_state::HostState;
use crate::membership::address_book::AddressBook;
use crate::membership::admission::AdmissionState;
use crate::membership::announce::Announcer;
use crate::membership::contact::{Contact, boot_time};
use crate::membership::control_link::{ControlLink, ProcessContext};
use crate::membership::network_membership::NetworkMemberships;
use crate::membership::per_network::PerNetwork;
use crate::membership::publish::Publisher;
use crate::membership::renewal::Renewal;
use crate::membership::revocations::Revocations;
use crate::membership::watch::Follower;
use crate::membership::{Membership, leases};
use crate::problem::Problems;
use crate::reconcile::{NetworkReports, ReconcileContext, ReconcileQueue};
use crate::state::journal::Journal;
use crate::state::keyring::Keyring;
use crate::state::{Identity, StateStore, StoredState};

/// What a joined node is made of.
#[derive(Debug)]
pub(crate) struct JoinedNode {
    /// The node's id.
    pub(crate) node: NodeId,
    /// The membership as it was heard last.
    pub(crate) membership: watch::Sender<Membership>,
    /// What it has of control.
    pub(crate) control: Arc<ControlLink>,
    /// The host's network.
    pub(crate) host: Arc<HostState>,
    /// The networks that carry no packets because their lease has run out.
    pub(crate) lapsed: watch::Sender<Arc<BTreeSet<NetworkId>>>,
    /// Whether this host may carry packets as this node.
    pub(crate) admission: Arc<AdmissionState>,
    /// Its endpoints, and the networks that they are on.
    pub(crate) endpoints: Arc<Endpoints>,
    /// What Docker was promised.
    pub(crate) docker: Arc<PluginStore>,
    /// What carries its packets.
    pub(crate) data_path: DataPath,
    /// Counts the questions of containers that are refused.
    pub(crate) dns_counts: Arc<DnsCounts>,
    /// Ends its tasks.
    pub(crate) stop: CancellationToken,
    store: StateStore,
    problems: Arc<Problems>,
    keyring: Arc<Keyring>,
    events: Arc<EventSource>,
    names: watch::Sender<Arc<Names>>,
    /// Sees a change from the first names on.
    first_names: watch::Receiver<Arc<Names>>,
    differences: watch::Sender<Vec<v1::Difference>>,
    renewal: Arc<Renewal>,
    /// What outlives a session while the agent is handed over.
    descriptors: DescriptorStore,
}

/// Reads the revocations that were kept, and verifies them once more.
fn revocations(who: &Identity, kept: &[Vec<u8>]) -> Revocations {
    Revocations::kept(kept.iter().filter_map(|bytes| {
        let read = SignedRevocation::verified(bytes, who.cluster, &who.ca);
        read.inspect_err(|error| tracing::error!(%error, "A kept revocation is none")).ok()
    }))
}

impl JoinedNode {
    /// Starts with the stored state.
    pub(crate) fn new(
        identity: Identity,
        loaded: StoredState,
        store: StateStore,
        problems: Arc<Problems>,
        data_path: DataPath,
        run_dir: PathBuf,
        process: ProcessContext,
    ) -> Self {
        let node = identity.node;
        let keys = u16::try_from(data_path.ports.len()).unwrap_or(u16::MAX);
        let membership = Membership { lost: loaded.lost_networks, ..Membership::kept(loaded.view) };
        let membership = membership.without(revocations(&identity, &loaded.revocations));
        let membership = watch::Sender::new(membership);
        let addresses = AddressBook::new(store.clone(), loaded.control);
        let descriptors = process.descriptors.clone();
        let contact = Contact::new(loaded.contact, &boot(), boot_time());
        let lapsed = leases::lapsed(&membership.borrow().view, node, &contact);
        let control = Arc::new(ControlLink::new(identity, addresses, contact, process));
        let journal = Arc::new(Journal::new(store.clone(), loaded.endpoints, loaded.cursors));
        let keyring = Arc::new(Keyring::new(keys, loaded.keys));
        let docker = Arc::new(PluginStore::new(store.clone(), loaded.docker));
        let host = Arc::new(HostState::new());
        let memberships = Arc::new(NetworkMemberships {
            node,
            membership: membership.clone(),
            control: Arc::clone(&control),
            journal: Arc::clone(&journal),
            held: Arc::<PluginStore>::clone(&docker),
            keyring: Arc::clone(&keyring),
            store: store.clone(),
            problems: Arc::clone(&problems),
            reserving: Mutex::new(()),
            entering: PerNetwork::default(),
        });
        let publisher = Arc::new(Publisher {
            node,
            journal: Arc::clone(&journal),
            membership: membership.clone(),
            control: Arc::clone(&control),
            problems: Arc::clone(&problems),
            containers: watch::Sender::default(),
        });
        let endpoints = Arc::new(Endpoints {
            journal,
            memberships,
            publisher,
            reports: watch::Sender::new(NetworkReports::new()),
            queue: Arc::new(ReconcileQueue::new()),
            run_dir,
            host: Arc::clone(&host),
            problems: Arc::clone(&problems),
        });
        let renewal = Renewal {
            control: Arc::clone(&control),
            store: store.clone(),
            problems: Arc::clone(&problems),
        };

        let (names, first_names) = watch::channel(Arc::default());
        Self {
            node,
            membership,
            control,
            host,
            lapsed: watch::Sender::new(lapsed),
            admission: Arc::new(AdmissionState::new()),
            endpoints,
            docker,
            data_path,
            dns_counts: Arc::default(),
            stop: CancellationToken::new(),
            events: Arc::new(EventSource::new(Arc::clone(&problems))),
            names,
            first_names,
            differences: watch::Sender::default(),
            renewal: Arc::new(renewal),
            store,
            problems,
            keyring,
            descriptors,
        }
    }

    /// Returns the node's identity.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        self.control.identity()
    }

    /// Returns the membership as control has it.
    pub(crate) fn view(&self) -> Arc<View> {
        self.endpoints.view()
    }

    /// Returns the state on disk.
    pub(crate) fn store(&self) -> &StateStore {
        &self.store
    }

    /// Returns what replaces the certificate.
    pub(crate) fn renewal(&self) -> &Renewal {
        &self.renewal
    }

    /// Says whether there are keys of a network.
    pub(crate) fn has_keys(&self, network: NetworkId) -> bool {
        self.keyring.find(network).is_some()
    }

    /// Puts together what it takes to follow control.
    pub(crate) fn follower(&self) -> Follower {
        Follower {
            control: Arc::clone(&self.control),
            membership: self.membership.clone(),
            admission: Arc::clone(&self.admission),
            host: Arc::clone(&self.host),
            backend: Arc::clone(&self.data_path.backend),
            renewal: Arc::clone(&self.renewal),
            problems: Arc::clone(&self.problems),
            journal: Arc::clone(&self.endpoints.journal),
            kept_lost: self.membership.borrow().lost.clone().into(),
        }
    }

    /// Puts together what it takes to announce this host.
    pub(crate) fn announcer(&self) -> Announcer {
        Announcer {
            control: Arc::clone(&self.control),
            host: Arc::clone(&self.host),
            journal: Arc::clone(&self.endpoints.journal),
            differences: self.differences.clone(),
            data_path: self.data_path.clone(),
            events: Arc::clone(&self.events),
            problems: Arc::clone(&self.problems),
        }
    }

    /// Puts together what it takes to keep this node's networks.
    pub(crate) fn reconcile_context(&self) -> ReconcileContext {
        ReconcileContext {
            node: self.node,
            run_dir: self.endpoints.run_dir.clone(),
            membership: self.membership.clone(),
            journal: Arc::clone(&self.endpoints.journal),
            admission: Arc::clone(&self.admission),
            lapsed: self.lapsed.clone(),
            host: Arc::clone(&self.host),
            keyring: Arc::clone(&self.keyring),
            backend: Arc::clone(&self.data_path.backend),
            names: self.names.clone(),
            dns_counts: Arc::clone(&self.dns_counts),
            reports: self.endpoints.reports.clone(),
            queue: Arc::clone(&self.endpoints.queue),
            events: Arc::clone(&self.events),
            problems: Arc::clone(&self.problems),
            stop: self.stop.clone(),
            descriptors: self.descriptors.clone(),
        }
    }

    /// Puts together what it takes to follow Docker.
    pub(crate) fn docker_work(&self) -> DockerWork {
        DockerWork {
            store: Arc::clone(&self.docker),
            endpoints: Arc::clone(&self.endpoints),
            names: self.names.clone(),
            dns_counts: Arc::clone(&self.dns_counts),
            first_names: self.first_names.clone(),
            differences: self.differences.clone(),
            descriptors: self.descriptors.clone(),
        }
    }
}
