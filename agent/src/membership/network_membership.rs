//! Enters a network when its first endpoint is wanted, asks for more addresses before they run out, and leaves some time
//! after the last endpoint did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use overlay_core::ipam::Pool;
use overlay_core::{Member, Network, NetworkId, PublicKey, View};
use overlay_proto::{Code, Refusal, v1};
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Membership, connection};
use crate::joined_node::JoinedNode;
use crate::state::keyring::public_keys;

/// How long a membership outlives its last endpoint: a container that restarts finds its network as it was.
const LINGER: Duration = Duration::from_secs(60);
/// How often unused memberships and scarce addresses are looked for while something changes, and what failed is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// The same though nothing changed.
const SWEEP: Duration = Duration::from_secs(30);
/// How often more addresses are asked for: a network that has none left is not asked all the time.
const GROWTH: Duration = Duration::from_secs(30);
/// How long the membership may take to arrive once control granted it.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Makes sure that this node is a member of a network, with the keys of its lanes and at least `blocks` blocks.
pub(crate) async fn enter(joined: &JoinedNode, network: NetworkId, blocks: usize) -> Result<(), Refusal> {
    // One at a time for each network: two askers would ask twice.
    let _one = joined.entering.lock(network).await;
    let keys = joined.keyring.obtain(network, &joined.store).await?;
    let public = public_keys(&keys);
    let served = |view: &View| {
        let member = view.member(network, joined.node);
        member.is_some_and(|member| member.lane_keys == public && member.blocks.len() >= blocks)
    };
    if served(&joined.membership.borrow().view) {
        return Ok(());
    }
    let mut client = joined.connection.reach(connection::PATIENCE).await?;
    let request = v1::EnterNetworkRequest {
        network: network.to_string(),
        lane_keys: public.iter().map(|key| key.as_bytes().to_vec()).collect(),
        blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
    };
    connection::call(client.enter_network(request)).await?;
    let mut membership = joined.membership.subscribe();
    let arrived = timeout(ARRIVAL, membership.wait_for(|membership| served(&membership.view))).await;

    arrived
        .map(drop)
        .map_err(|_| Refusal::new(Code::ControlAway, "control granted the membership and then fell silent"))
}

/// Enters a network, and keeps this node in it until the answer is dropped: it is held while an
/// address is chosen and journalled.
pub(crate) async fn stay(joined: &JoinedNode, network: NetworkId) -> Result<MutexGuard<'_, ()>, Refusal> {
    loop {
        enter(joined, network, 1).await?;
        let staying = joined.lifecycle.lock().await;
        // The network may have been left between the two.
        if joined.membership.borrow().view.member(network, joined.node).is_some() {
            return Ok(staying);
        }
    }
}

/// Looks after the memberships while the node is joined.
pub(crate) async fn run(joined: &JoinedNode) {
    let mut empty_since: BTreeMap<NetworkId, Instant> = BTreeMap::new();
    let mut grown: BTreeMap<NetworkId, Instant> = BTreeMap::new();
    let mut keyed: BTreeMap<NetworkId, Vec<PublicKey>> = BTreeMap::new();
    let mut journal = joined.journal.subscribe();
    let mut memberships = joined.membership.subscribe();
    loop {
        sleep(LOOK).await;
        journal.mark_unchanged();
        let membership = memberships.borrow_and_update().clone();
        if membership.live && joined.connection.is_connected() {
            renew_keys(joined, &membership.view, &mut keyed).await;
            forget_keys(joined, &membership.view).await;
            grow(joined, &membership.view, &mut grown).await;
            leave_unused(joined, &membership.view, &mut empty_since).await;
        }
        let unused = empty_since.values().min().map(|since| *since + LINGER);
        let sweep = Instant::now() + SWEEP;
        tokio::select! {
            _ = journal.changed() => {}
            _ = memberships.changed() => {}
            () = sleep_until(unused.map_or(sweep, |unused| unused.min(sweep))) => {}
        }
    }
}

/// Leaves the networks that have had no endpoint here for long.
async fn leave_unused(joined: &JoinedNode, view: &View, empty_since: &mut BTreeMap<NetworkId, Instant>) {
    let used = used(joined);
    let member_of: BTreeSet<_> = view.memberships_of(joined.node).map(|m| m.network).collect();
    empty_since.retain(|network, _| member_of.contains(network) && !used.contains(network));
    for network in member_of.difference(&used) {
        let since = empty_since.entry(*network).or_insert_with(Instant::now);
        if since.elapsed() >= LINGER {
            exit(joined, *network).await;
        }
    }
}

/// Lists the networks that have an endpoint here, or of which Docker holds an address for a container
/// whose endpoint it has still to make: it may stand still in between for any time.
fn used(joined: &JoinedNode) -> BTreeSet<NetworkId> {
    let mut used = joined.journal.networks();
    used.extend(joined.docker.state().given().map(|(network, _)| network));

    used
}

/// The number of lanes may have changed since the membership was made. To tell costs more than anything else here, so each
/// membership is looked at once.
async fn renew_keys(joined: &JoinedNode, view: &View, keyed: &mut BTreeMap<NetworkId, Vec<PublicKey>>) {
    keyed.retain(|network, _| view.member(*network, joined.node).is_some());
    for member in view.memberships_of(joined.node) {
        if keyed.get(&member.network) == Some(&member.lane_keys) {
            continue;
        }
        let ours = joined.keyring.find(member.network).map(|keys| public_keys(&keys));
        if ours.as_ref() == Some(&member.lane_keys) {
            keyed.insert(member.network, member.lane_keys.clone());
        } else {
            note(joined, member.network, enter(joined, member.network, 1).await);
        }
    }
}

/// The keys of a network end with the network.
async fn forget_keys(joined: &JoinedNode, view: &View) {
    for network in joined.keyring.orphaned(view) {
        note(joined, network, joined.keyring.forget(network, &joined.store).await);
    }
}

/// Asks for another block where fewer than an eighth of the addresses are free.
async fn grow(joined: &JoinedNode, view: &View, grown: &mut BTreeMap<NetworkId, Instant>) {
    for member in view.memberships_of(joined.node) {
        if grown.get(&member.network).is_some_and(|last| last.elapsed() < GROWTH) {
            continue;
        }
        let Some(network) = view.networks.get(&member.network) else { continue };
        let pool = Pool::new(network, member);
        let used = in_use(joined, network, view).into_iter().filter(|a| pool.contains(*a)).count();
        if pool.capacity().saturating_sub(used) * 8 < pool.capacity() {
            grown.insert(network.id, Instant::now());
            // A network without a free block serves from what there is; who needs more is told then.
            let _ = enter(joined, network.id, member.blocks.len() + 1).await;
        }
    }
}

async fn exit(joined: &JoinedNode, network: NetworkId) {
    // Nobody attaches to it meanwhile, or takes the membership that ends for one that stands.
    let _reserving = joined.lifecycle.lock().await;
    let Some(_entering) = joined.entering.try_lock(network) else { return };
    if used(joined).contains(&network) {
        return;
    }
    let Ok(mut client) = joined.connection.client() else { return };
    let left = connection::call(client.exit_network(v1::ExitNetworkRequest { network: network.to_string() })).await;
    match left {
        Ok(_) => {
            let mut membership = joined.membership.subscribe();
            let is_left = |membership: &Membership| membership.view.member(network, joined.node).is_none();
            let _ = timeout(ARRIVAL, membership.wait_for(is_left)).await;
            // The keys stay: a node that comes back is the one that its peers knew.
            tracing::info!(%network, "Left the network");
        }
        Err(refusal) => tracing::debug!(%network, %refusal, "Network was not left"),
    }
}

fn note(joined: &JoinedNode, network: NetworkId, outcome: Result<(), Refusal>) {
    let about = format!("membership {network}");
    match outcome {
        Ok(()) => joined.problems.clear(&about),
        Err(refusal) => joined.problems.raise(&about, refusal.code.as_str(), refusal),
    }
}

/// Lists the IPv4 addresses of a network that may not be given out: those of our journal, those that Docker holds, and those
/// that others show.
pub(crate) fn in_use(joined: &JoinedNode, network: &Network, view: &View) -> BTreeSet<Ipv4Addr> {
    let all = all_in_use(joined, network, view).into_iter();

    all.filter_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
    .collect()
}

/// Lists the IPv6 addresses of a network that may not be given out.
pub(crate) fn in_use6(joined: &JoinedNode, network: &Network, view: &View) -> BTreeSet<Ipv6Addr> {
    let all = all_in_use(joined, network, view).into_iter();

    all.filter_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    })
    .collect()
}

fn all_in_use(joined: &JoinedNode, network: &Network, view: &View) -> BTreeSet<IpAddr> {
    let shown = view.endpoints_of(network.id).filter(|endpoint| endpoint.node != joined.node);
    let mut taken: BTreeSet<IpAddr> = shown.flat_map(|endpoint| &endpoint.addresses).copied().collect();
    let entries = joined.journal.entries();
    let ours = entries.values().map(|record| &record.endpoint).filter(|endpoint| endpoint.network == network.id);
    taken.extend(ours.flat_map(|endpoint| &endpoint.addresses).copied());
    taken.extend(joined.docker.state().leased(network.id));

    taken
}

/// Returns the pool that a member gives addresses out of, if the network is known.
pub(crate) fn pool(view: &View, member: &Member) -> Option<Pool> {
    view.networks.get(&member.network).map(|network| Pool::new(network, member))
}
