//! Enters a network when its first endpoint is wanted, asks for more addresses before they run out,
//! and leaves some time after the last endpoint did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use overlay_core::ipam::Pool;
use overlay_core::{Endpoint, Member, Network, NetworkId, NodeId, PublicKey, RowKey, View};
use overlay_proto::{Code, v1};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::control_error::ControlError;
use super::control_link::ControlLink;
use super::per_network::PerNetwork;
use super::{Membership, connection};
use crate::desired;
use crate::problem::Problems;
use crate::problem_key::ProblemKey;
use crate::state::StateStore;
use crate::state::journal::Journal;
use crate::state::keyring::{Keyring, KeyringError, public_keys};

/// How long a membership outlives its last endpoint: a container that restarts finds its network as
/// it was.
const LINGER: Duration = Duration::from_secs(60);
/// How often unused memberships and scarce addresses are looked for while something changes, and
/// what failed is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// The same though nothing changed.
const SWEEP: Duration = Duration::from_secs(30);
/// How often more addresses are asked for: a network that has none left is not asked all the time.
const GROWTH: Duration = Duration::from_secs(30);
/// How long the membership may take to arrive once control granted it.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Addresses that are held for something that is no endpoint yet: a container engine asks for them
/// before it makes the endpoint.
pub(crate) trait HeldAddresses: std::fmt::Debug + Send + Sync {
    /// Lists the networks with such an address.
    fn networks(&self) -> BTreeSet<NetworkId>;
    /// Lists the addresses of a network.
    fn addresses(&self, network: NetworkId) -> BTreeSet<IpAddr>;
}

/// Why this node is not in a network, or not as it is to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    /// Its keys are not there.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// Control does not let it in.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The membership did not arrive.
    #[error("control granted the membership and then fell silent")]
    NotArrived,
}

impl MembershipError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Keys(error) => error.code(),
            Self::Control(error) => error.code(),
            Self::NotArrived => Code::ControlAway,
        }
    }
}

/// The networks that this node is in, and how it comes to be in them.
#[derive(Debug)]
pub(crate) struct NetworkMemberships {
    /// This node.
    pub(crate) node: NodeId,
    /// The membership as it was heard last.
    pub(crate) membership: watch::Sender<Membership>,
    /// Who grants memberships.
    pub(crate) control: Arc<ControlLink>,
    /// The endpoints of this node.
    pub(crate) journal: Arc<Journal>,
    /// Addresses that are held for something else.
    pub(crate) held: Arc<dyn HeldAddresses>,
    /// This node's private keys.
    pub(crate) keyring: Arc<Keyring>,
    /// Where keys are kept.
    pub(crate) store: StateStore,
    /// Where it is told what is wrong.
    pub(crate) problems: Arc<Problems>,
    /// Held while an address is chosen and journalled, and while a network is left
    /// ([`NetworkMemberships::stay`]).
    pub(crate) reserving: Mutex<()>,
    /// Held while a network is entered.
    pub(crate) entering: PerNetwork,
}

impl NetworkMemberships {
    /// Returns the membership as control has it.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.membership.borrow().view)
    }

    /// Returns the view with this node's own endpoints as the journal has them.
    pub(crate) fn local_view(&self) -> Arc<View> {
        desired::local_view(&self.membership.borrow().view, &self.journal.entries(), self.node)
    }

    /// Keeps every network from being left, and every address from being given, until the answer is
    /// dropped.
    pub(crate) async fn reserving(&self) -> MutexGuard<'_, ()> {
        self.reserving.lock().await
    }

    /// Makes sure that this node is a member of a network, with the keys of its lanes and at least
    /// `blocks` blocks.
    pub(crate) async fn enter(
        &self,
        network: NetworkId,
        blocks: usize,
    ) -> Result<(), MembershipError> {
        // One at a time for each network: two askers would ask twice.
        let _one = self.entering.lock(network).await;
        let keys = self.keyring.obtain(network, &self.store).await?;
        let public = public_keys(&keys);
        let served = |view: &View| {
            let member = view.member(network, self.node);
            member.is_some_and(|member| member.lane_keys == public && member.blocks.len() >= blocks)
        };
        if served(&self.membership.borrow().view) {
            return Ok(());
        }
        let mut client = self.control.connection.reach(connection::PATIENCE).await?;
        let request = v1::EnterNetworkRequest {
            network: network.to_string(),
            lane_keys: public.iter().map(|key| key.as_bytes().to_vec()).collect(),
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
        };
        connection::call(client.enter_network(request)).await?;
        let mut membership = self.membership.subscribe();
        let arrived =
            timeout(ARRIVAL, membership.wait_for(|membership| served(&membership.view))).await;

        arrived.map(drop).map_err(|_| MembershipError::NotArrived)
    }

    /// Enters a network, and keeps this node in it until the answer is dropped: it is held while an
    /// address is chosen and journalled.
    pub(crate) async fn stay(
        &self,
        network: NetworkId,
    ) -> Result<MutexGuard<'_, ()>, MembershipError> {
        loop {
            self.enter(network, 1).await?;
            let staying = self.reserving.lock().await;
            // The network may have been left between the two.
            if self.membership.borrow().view.member(network, self.node).is_some() {
                return Ok(staying);
            }
        }
    }

    /// Looks after the memberships while the node is joined.
    pub(crate) async fn run(&self) {
        let mut empty_since: BTreeMap<NetworkId, Instant> = BTreeMap::new();
        let mut grown: BTreeMap<NetworkId, Instant> = BTreeMap::new();
        let mut keyed: BTreeMap<NetworkId, Vec<PublicKey>> = BTreeMap::new();
        let mut journal = self.journal.subscribe();
        let mut memberships = self.membership.subscribe();
        // Nothing is known to be as it was.
        let mut seen = None;
        loop {
            sleep(LOOK).await;
            let has_new_endpoints = journal.has_changed().unwrap_or(false);
            journal.mark_unchanged();
            let (view, live, touched) = {
                let membership = memberships.borrow_and_update();
                let changed = seen
                    .filter(|_| !has_new_endpoints)
                    .and_then(|seen| membership.changed.since(seen));
                // A sweep, which nothing in particular caused, looks at all networks.
                let touched = changed.map(networks_of).filter(|touched| !touched.is_empty());
                seen = Some(membership.changed.cursor());
                (Arc::clone(&membership.view), membership.live, touched)
            };
            if live && self.control.connection.is_connected() {
                self.come_back(&view).await;
                self.renew_keys(&view, &mut keyed).await;
                self.forget_keys(&view).await;
                self.grow(&view, touched.as_ref(), &mut grown).await;
                self.leave_unused(&view, &mut empty_since).await;
            } else {
                seen = None;
            }
            // Whoever holds a view makes the next change copy all of it.
            drop(view);
            let unused = empty_since.values().min().map(|since| *since + LINGER);
            let sweep = Instant::now() + SWEEP;
            tokio::select! {
                _ = journal.changed() => {}
                _ = memberships.changed() => {}
                () = sleep_until(unused.map_or(sweep, |unused| unused.min(sweep))) => {}
            }
        }
    }

    /// Enters networks again that this node has endpoints on and is no member of, as after a
    /// restore of control.
    async fn come_back(&self, view: &View) {
        let is_out = |network: &NetworkId| {
            view.networks.contains_key(network) && view.member(*network, self.node).is_none()
        };
        for network in self.journal.networks().into_iter().filter(is_out) {
            self.note(network, self.enter(network, 1).await);
        }
    }

    /// Leaves the networks that have had no endpoint here for long.
    async fn leave_unused(&self, view: &View, empty_since: &mut BTreeMap<NetworkId, Instant>) {
        let mut used = self.used();
        used.extend(self.kept(view));
        let member_of: BTreeSet<_> = view.memberships_of(self.node).map(|m| m.network).collect();
        empty_since.retain(|network, _| member_of.contains(network) && !used.contains(network));
        for network in member_of.difference(&used) {
            let since = empty_since.entry(*network).or_insert_with(Instant::now);
            if since.elapsed() >= LINGER {
                self.exit(*network).await;
            }
        }
    }

    /// Lists the networks on which stopped containers of this host keep their names: they would not
    /// outlive its membership.
    fn kept(&self, view: &View) -> impl Iterator<Item = NetworkId> {
        let is_kept = |e: &&Endpoint| e.node == self.node && e.is_stopped();

        view.endpoints.values().filter(is_kept).map(|endpoint| endpoint.network)
    }

    /// Lists the networks that have an endpoint here, or of which an address is held for something
    /// that has still to become an endpoint: whoever holds it may stand still in between for any
    /// time.
    fn used(&self) -> BTreeSet<NetworkId> {
        let mut used = self.journal.networks();
        used.extend(self.held.networks());

        used
    }

    /// The number of lanes may have changed since the membership was made. To tell costs more than
    /// anything else here, so each membership is looked at once.
    async fn renew_keys(&self, view: &View, keyed: &mut BTreeMap<NetworkId, Vec<PublicKey>>) {
        keyed.retain(|network, _| view.member(*network, self.node).is_some());
        for member in view.memberships_of(self.node) {
            if keyed.get(&member.network) == Some(&member.lane_keys) {
                continue;
            }
            let ours = self.keyring.find(member.network).map(|keys| public_keys(&keys));
            if ours.as_ref() == Some(&member.lane_keys) {
                keyed.insert(member.network, member.lane_keys.clone());
            } else {
                self.note(member.network, self.enter(member.network, 1).await);
            }
        }
    }

    /// The keys of a network end with the network.
    async fn forget_keys(&self, view: &View) {
        for network in self.keyring.orphaned(view) {
            let forgotten = self.keyring.forget(network, &self.store).await;
            self.note(network, forgotten.map_err(|failure| KeyringError::from(failure).into()));
        }
    }

    /// Asks for another block where fewer than an eighth of the addresses are free: in the networks
    /// that were touched, or in all, and where it was asked for before.
    async fn grow(
        &self,
        view: &View,
        touched: Option<&BTreeSet<NetworkId>>,
        grown: &mut BTreeMap<NetworkId, Instant>,
    ) {
        for member in view.memberships_of(self.node) {
            let is_touched = touched.is_none_or(|touched| touched.contains(&member.network));
            if !is_touched && !grown.contains_key(&member.network) {
                continue;
            }
            if grown.get(&member.network).is_some_and(|last| last.elapsed() < GROWTH) {
                continue;
            }
            let Some(network) = view.networks.get(&member.network) else { continue };
            let pool = Pool::new(network, member);
            let used = self.in_use(network, view).into_iter().filter(|a| pool.contains(*a)).count();
            if pool.capacity().saturating_sub(used) * 8 < pool.capacity() {
                grown.insert(network.id, Instant::now());
                // A network without a free block serves from what there is; who needs more is told
                // then.
                let _ = self.enter(network.id, member.blocks.len() + 1).await;
            }
        }
    }

    async fn exit(&self, network: NetworkId) {
        // Nobody attaches to it meanwhile, or takes the membership that ends for one that stands.
        let _reserving = self.reserving.lock().await;
        let Some(_entering) = self.entering.try_lock(network) else { return };
        if self.used().contains(&network) {
            return;
        }
        let Ok(mut client) = self.control.connection.client() else { return };
        let left = connection::call(
            client.exit_network(v1::ExitNetworkRequest { network: network.to_string() }),
        )
        .await;
        match left {
            Ok(_) => {
                let mut membership = self.membership.subscribe();
                let is_left =
                    |membership: &Membership| membership.view.member(network, self.node).is_none();
                let _ = timeout(ARRIVAL, membership.wait_for(is_left)).await;
                // The keys stay: a node that comes back is the one that its peers knew.
                tracing::info!(%network, "Left the network");
            }
            Err(error) => tracing::debug!(%network, %error, "Network was not left"),
        }
    }

    fn note(&self, network: NetworkId, outcome: Result<(), MembershipError>) {
        let key = ProblemKey::Membership(network);
        match outcome {
            Ok(()) => self.problems.clear(&key),
            Err(error) => self.problems.raise(key, error.code(), error),
        }
    }

    /// Lists the IPv4 addresses of a network that may not be given out: those of our journal, those
    /// that are held, and those that others show.
    pub(crate) fn in_use(&self, network: &Network, view: &View) -> BTreeSet<Ipv4Addr> {
        let all = self.all_in_use(network, view).into_iter();

        all.filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
    }

    /// Lists the IPv6 addresses of a network that may not be given out.
    pub(crate) fn in_use6(&self, network: &Network, view: &View) -> BTreeSet<Ipv6Addr> {
        let all = self.all_in_use(network, view).into_iter();

        all.filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        })
        .collect()
    }

    fn all_in_use(&self, network: &Network, view: &View) -> BTreeSet<IpAddr> {
        let lost = self.journal.lost(view, self.node);
        let is_shown =
            |endpoint: &&Endpoint| endpoint.node != self.node || lost.contains(&endpoint.id);
        let shown = view.endpoints_of(network.id).filter(is_shown);
        let mut taken: BTreeSet<IpAddr> =
            shown.flat_map(|endpoint| &endpoint.addresses).copied().collect();
        let entries = self.journal.entries();
        let ours = entries
            .values()
            .map(|record| &record.endpoint)
            .filter(|endpoint| endpoint.network == network.id);
        taken.extend(ours.flat_map(|endpoint| &endpoint.addresses).copied());
        taken.extend(self.held.addresses(network.id));

        taken
    }
}

/// Lists the networks that rows belong to.
fn networks_of(keys: impl Iterator<Item = RowKey>) -> BTreeSet<NetworkId> {
    keys.filter_map(|key| match key {
        RowKey::Network(network) | RowKey::Member(network, _) | RowKey::Endpoint(network, _) => {
            Some(network)
        }
        RowKey::Node(_) | RowKey::HostReport(_) | RowKey::Policy => None,
    })
    .collect()
}

/// Returns the pool that a member gives addresses out of, if the network is known.
pub(crate) fn pool(view: &View, member: &Member) -> Option<Pool> {
    view.networks.get(&member.network).map(|network| Pool::new(network, member))
}
