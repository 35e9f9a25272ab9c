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

use super::keyring::public_keys;
use super::{Membership, link};
use crate::session::Session;

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
pub(crate) async fn enter(session: &Session, network: NetworkId, blocks: usize) -> Result<(), Refusal> {
    // One at a time for each network: two askers would ask twice.
    let _one = session.entering.lock(network).await;
    let keys = session.keyring.obtain(network, &session.store).await?;
    let public = public_keys(&keys);
    let served = |view: &View| {
        let member = view.member(network, session.node);
        member.is_some_and(|member| member.lane_keys == public && member.blocks.len() >= blocks)
    };
    if served(&session.membership.borrow().view) {
        return Ok(());
    }
    let mut client = session.link.reach(link::PATIENCE).await?;
    let request = v1::EnterNetworkRequest {
        network: network.to_string(),
        lane_keys: public.iter().map(|key| key.as_bytes().to_vec()).collect(),
        blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
    };
    link::call(client.enter_network(request)).await?;
    let mut membership = session.membership.subscribe();
    let arrived = timeout(ARRIVAL, membership.wait_for(|membership| served(&membership.view))).await;

    arrived
        .map(drop)
        .map_err(|_| Refusal::new(Code::ControlAway, "control granted the membership and then fell silent"))
}

/// Enters a network, and keeps this node in it until the answer is dropped: it is held while an
/// address is chosen and journalled.
pub(crate) async fn stay(session: &Session, network: NetworkId) -> Result<MutexGuard<'_, ()>, Refusal> {
    loop {
        enter(session, network, 1).await?;
        let staying = session.lifecycle.lock().await;
        // The network may have been left between the two.
        if session.membership.borrow().view.member(network, session.node).is_some() {
            return Ok(staying);
        }
    }
}

/// Looks after the memberships for as long as the session lasts.
pub(crate) async fn run(session: &Session) {
    let mut empty_since: BTreeMap<NetworkId, Instant> = BTreeMap::new();
    let mut grown: BTreeMap<NetworkId, Instant> = BTreeMap::new();
    let mut keyed: BTreeMap<NetworkId, Vec<PublicKey>> = BTreeMap::new();
    let mut journal = session.journal.subscribe();
    let mut memberships = session.membership.subscribe();
    loop {
        sleep(LOOK).await;
        journal.mark_unchanged();
        let membership = memberships.borrow_and_update().clone();
        if membership.live && session.link.is_connected() {
            renew_keys(session, &membership.view, &mut keyed).await;
            forget_keys(session, &membership.view).await;
            grow(session, &membership.view, &mut grown).await;
            leave_unused(session, &membership.view, &mut empty_since).await;
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
async fn leave_unused(session: &Session, view: &View, empty_since: &mut BTreeMap<NetworkId, Instant>) {
    let used = used(session);
    let member_of: BTreeSet<_> = view.memberships_of(session.node).map(|m| m.network).collect();
    empty_since.retain(|network, _| member_of.contains(network) && !used.contains(network));
    for network in member_of.difference(&used) {
        let since = empty_since.entry(*network).or_insert_with(Instant::now);
        if since.elapsed() >= LINGER {
            exit(session, *network).await;
        }
    }
}

/// Lists the networks that have an endpoint here, or of which Docker holds an address for a container
/// whose endpoint it has still to make: it may stand still in between for any time.
fn used(session: &Session) -> BTreeSet<NetworkId> {
    let mut used = session.journal.networks();
    used.extend(session.docker.ledger().given().map(|(network, _)| network));

    used
}

/// The number of lanes may have changed since the membership was made. To tell costs more than anything else here, so each
/// membership is looked at once.
async fn renew_keys(session: &Session, view: &View, keyed: &mut BTreeMap<NetworkId, Vec<PublicKey>>) {
    keyed.retain(|network, _| view.member(*network, session.node).is_some());
    for member in view.memberships_of(session.node) {
        if keyed.get(&member.network) == Some(&member.lane_keys) {
            continue;
        }
        let ours = session.keyring.find(member.network).map(|keys| public_keys(&keys));
        if ours.as_ref() == Some(&member.lane_keys) {
            keyed.insert(member.network, member.lane_keys.clone());
        } else {
            note(session, member.network, enter(session, member.network, 1).await);
        }
    }
}

/// The keys of a network end with the network.
async fn forget_keys(session: &Session, view: &View) {
    for network in session.keyring.orphaned(view) {
        note(session, network, session.keyring.forget(network, &session.store).await);
    }
}

/// Asks for another block where fewer than an eighth of the addresses are free.
async fn grow(session: &Session, view: &View, grown: &mut BTreeMap<NetworkId, Instant>) {
    for member in view.memberships_of(session.node) {
        if grown.get(&member.network).is_some_and(|last| last.elapsed() < GROWTH) {
            continue;
        }
        let Some(network) = view.networks.get(&member.network) else { continue };
        let pool = Pool::new(network, member);
        let used = in_use(session, network, view).into_iter().filter(|a| pool.contains(*a)).count();
        if pool.capacity().saturating_sub(used) * 8 < pool.capacity() {
            grown.insert(network.id, Instant::now());
            // A network without a free block serves from what there is; who needs more is told then.
            let _ = enter(session, network.id, member.blocks.len() + 1).await;
        }
    }
}

async fn exit(session: &Session, network: NetworkId) {
    // Nobody attaches to it meanwhile, or takes the membership that ends for one that stands.
    let _reserving = session.lifecycle.lock().await;
    let Some(_entering) = session.entering.try_lock(network) else { return };
    if used(session).contains(&network) {
        return;
    }
    let Ok(mut client) = session.link.client() else { return };
    let left = link::call(client.exit_network(v1::ExitNetworkRequest { network: network.to_string() })).await;
    match left {
        Ok(_) => {
            let mut membership = session.membership.subscribe();
            let is_left = |membership: &Membership| membership.view.member(network, session.node).is_none();
            let _ = timeout(ARRIVAL, membership.wait_for(is_left)).await;
            // The keys stay: a node that comes back is the one that its peers knew.
            tracing::info!(%network, "Left the network");
        }
        Err(refusal) => tracing::debug!(%network, %refusal, "Network was not left"),
    }
}

fn note(session: &Session, network: NetworkId, outcome: Result<(), Refusal>) {
    let about = format!("membership {network}");
    match outcome {
        Ok(()) => session.problems.clear(&about),
        Err(refusal) => session.problems.raise(&about, refusal.code.as_str(), refusal),
    }
}

/// Lists the IPv4 addresses of a network that may not be given out: those of our journal, those that Docker holds, and those
/// that others show.
pub(crate) fn in_use(session: &Session, network: &Network, view: &View) -> BTreeSet<Ipv4Addr> {
    let all = all_in_use(session, network, view).into_iter();

    all.filter_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
    .collect()
}

/// Lists the IPv6 addresses of a network that may not be given out.
pub(crate) fn in_use6(session: &Session, network: &Network, view: &View) -> BTreeSet<Ipv6Addr> {
    let all = all_in_use(session, network, view).into_iter();

    all.filter_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    })
    .collect()
}

fn all_in_use(session: &Session, network: &Network, view: &View) -> BTreeSet<IpAddr> {
    let shown = view.endpoints_of(network.id).filter(|endpoint| endpoint.node != session.node);
    let mut taken: BTreeSet<IpAddr> = shown.flat_map(|endpoint| &endpoint.addresses).copied().collect();
    let entries = session.journal.entries();
    let ours = entries.values().map(|record| &record.endpoint).filter(|endpoint| endpoint.network == network.id);
    taken.extend(ours.flat_map(|endpoint| &endpoint.addresses).copied());
    taken.extend(session.docker.ledger().leased(network.id));

    taken
}

/// Returns the pool that a member gives addresses out of, if the network is known.
pub(crate) fn pool(view: &View, member: &Member) -> Option<Pool> {
    view.networks.get(&member.network).map(|network| Pool::new(network, member))
}
