//! Pools and addresses for Docker: pools out of what hosts leave free, containers' addresses out of
//! this node's blocks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use overlay_core::network::first_host;
use overlay_core::{Network, NetworkId, pool};
use overlay_proto::convert;

use super::ipam_error::{LeaseError, MAX_POOLS, PoolError};
use super::plugin::{AddressRequest, AddressUse, PoolGranted, PoolRequest};
use super::plugin_store::PluginStore;
use super::{NETWORK_OPTION, lifetime, ready, returning};
use crate::endpoint::lifecycle::Endpoints;
use crate::problem::{unix_now, unix_now_ms};
use crate::state::{DockerKey, DockerLease, DockerPool, DockerRow, StoreFailure};

/// Where IPv6 prefixes are chosen: RFC 4193, with random bits.
const ULA: u128 = 0xfd00_0000_0000_0000_0000_0000_0000_0000;

/// Gives a pool: the one a replica names, the one a person names, or one that nobody uses.
pub(super) async fn request_pool(
    store: &PluginStore,
    endpoints: &Endpoints,
    request: PoolRequest,
) -> Result<PoolGranted, PoolError> {
    let plugin_state = store.state();
    if plugin_state.pools.len() >= MAX_POOLS {
        return Err(PoolError::TooMany);
    }
    let stands_for = request
        .options
        .get(NETWORK_OPTION)
        .map(|id| convert::field(NETWORK_OPTION, id))
        .transpose()?;
    let (id, prefix) = match stands_for {
        Some(network) => {
            (replica_pool(network, request.v6), replica_prefix(endpoints, network, request.v6)?)
        }
        None => {
            let prefix = match request.prefix {
                Some(prefix) => checked(store, endpoints, prefix)?,
                None => chosen(store, endpoints, request.v6)?,
            };
            (format!("{:012x}-{}", rand::random::<u64>() >> 16, family(request.v6)), prefix)
        }
    };
    if request.v6 && request.range.is_some() {
        return Err(PoolError::RangeOfV6);
    }
    let known = plugin_state.pools.get(&id).and_then(|known| known.docker_network.clone());
    let row = DockerPool {
        id: id.clone(),
        prefix,
        range: request.range,
        network: stands_for,
        docker_network: known,
        since_ms: unix_now_ms(),
    };
    store.write(vec![DockerRow::Pool(row)], Vec::new()).await?;

    Ok(PoolGranted { id, prefix })
}

fn family(v6: bool) -> u8 {
    if v6 { 6 } else { 4 }
}

/// Returns how the pool of a replica is called.
pub(super) fn replica_pool(network: NetworkId, v6: bool) -> String {
    format!("{network}-{}", family(v6))
}

fn replica_prefix(endpoints: &Endpoints, id: NetworkId, v6: bool) -> Result<IpNet, PoolError> {
    let membership = endpoints.memberships.membership.borrow();
    let network = membership.view.networks.get(&id).ok_or(PoolError::UnknownNetwork { id })?;
    let prefix = if v6 { network.prefix6.map(IpNet::V6) } else { Some(IpNet::V4(network.prefix)) };

    prefix.ok_or_else(|| PoolError::NoV6 { network: network.name.clone() })
}

/// Checks a prefix that a person chose.
pub(super) fn checked(
    store: &PluginStore,
    endpoints: &Endpoints,
    prefix: IpNet,
) -> Result<IpNet, PoolError> {
    check_form(prefix)?;
    let conflict = pool::conflict(&endpoints.memberships.membership.borrow().view, prefix);

    conflict.map_or(Ok(prefix), |holder| Err(taken(store, endpoints, prefix, &holder)))
}

/// Checks a prefix of Docker's own address management. Where Docker may have chosen it by itself,
/// it did not know of a bridge that another host just made, or had nothing else to choose.
pub(super) fn checked_of_engine(
    store: &PluginStore,
    endpoints: &Endpoints,
    prefix: IpNet,
) -> Result<IpNet, PoolError> {
    let by_itself = match prefix {
        IpNet::V4(prefix) => store.state().engine.default_pools.may_choose(prefix),
        IpNet::V6(_) => false,
    };
    if !by_itself {
        return checked(store, endpoints, prefix);
    }
    check_form(prefix)?;
    let (conflict, bridge) = {
        let view = &endpoints.memberships.membership.borrow().view;
        (pool::conflict_of_chosen(view, prefix), pool::conflict(view, prefix))
    };
    match (conflict, bridge) {
        (Some(holder), _) => Err(taken(store, endpoints, prefix, &holder)),
        (None, bridge) => {
            if let Some(bridge) = bridge {
                tracing::warn!(%prefix, %bridge, "Docker chose a prefix that a bridge of another host has");
            }
            Ok(prefix)
        }
    }
}

fn check_form(prefix: IpNet) -> Result<(), PoolError> {
    match prefix {
        IpNet::V4(_) => drop(convert::network_prefix(&prefix.to_string())?),
        IpNet::V6(_) => drop(convert::network_prefix6(&prefix.to_string())?),
    }

    Ok(())
}

fn taken(store: &PluginStore, endpoints: &Endpoints, prefix: IpNet, holder: &str) -> PoolError {
    let free = match prefix {
        IpNet::V4(_) => chosen(store, endpoints, false).ok(),
        IpNet::V6(_) => None,
    };

    PoolError::Taken { prefix, holder: holder.to_owned(), free }
}

fn chosen(store: &PluginStore, endpoints: &Endpoints, v6: bool) -> Result<IpNet, PoolError> {
    if v6 {
        let bits = ULA | (u128::from(rand::random::<u64>() >> 8) << 64);
        return Ok(Ipv6Net::new(Ipv6Addr::from_bits(bits), 64).map(IpNet::V6)?);
    }
    let pool = endpoints.control().identity().pool;
    let plugin_state = store.state();
    let held = plugin_state.pools.values().filter_map(|held| match held.prefix {
        IpNet::V4(prefix) => Some(prefix),
        IpNet::V6(_) => None,
    });
    let held: Vec<_> = held.collect();
    let picked =
        pool::pick(&endpoints.memberships.membership.borrow().view, pool, &held, rand::random());

    picked.map(IpNet::V4).ok_or(PoolError::Exhausted { pool })
}

/// Takes a pool back with all its addresses.
pub(super) async fn release_pool(store: &PluginStore, pool: &str) -> Result<(), StoreFailure> {
    let plugin_state = store.state();
    let leases = plugin_state
        .leases_of(pool)
        .map(|lease| DockerKey::Lease(lease.pool.clone(), lease.address));
    let pool = plugin_state.pools.contains_key(pool).then(|| DockerKey::Pool(pool.to_owned()));

    store.write(Vec::new(), leases.chain(pool).collect()).await
}

/// Gives an address.
pub(super) async fn request_address(
    store: &PluginStore,
    endpoints: &Endpoints,
    request: AddressRequest,
) -> Result<IpNet, LeaseError> {
    let pool = store.state().pools.get(&request.pool).cloned();
    let pool = pool.ok_or(LeaseError::UnknownPool)?;
    if let Some(address) = request.address.filter(|address| !pool.prefix.contains(address)) {
        return Err(LeaseError::Outside { address, prefix: pool.prefix });
    }
    match (&pool.docker_network, request.purpose) {
        (Some(network), AddressUse::Other) => {
            let network = network.clone();
            give(store, endpoints, &pool, &network, request.address).await
        }
        (_, AddressUse::Gateway) => {
            keep(store, &pool, request.address.unwrap_or_else(|| gateway(pool.prefix))).await
        }
        (None, AddressUse::Other) => {
            keep(store, &pool, request.address.ok_or(LeaseError::Unnamed)?).await
        }
    }
}

fn gateway(prefix: IpNet) -> IpAddr {
    match prefix {
        IpNet::V4(prefix) => first_host(prefix).into(),
        IpNet::V6(prefix) => Ipv6Addr::from_bits(prefix.network().to_bits() | 1).into(),
    }
}

/// Notes an address that no container gets.
async fn keep(
    store: &PluginStore,
    pool: &DockerPool,
    address: IpAddr,
) -> Result<IpNet, LeaseError> {
    note(store, pool, address, false).await?;
    // The gateway's address has the prefix length of the whole network.
    Ok(IpNet::new(address, pool.prefix.prefix_len())?)
}

/// Notes an address that Docker holds.
pub(super) async fn note(
    store: &PluginStore,
    pool: &DockerPool,
    address: IpAddr,
    is_endpoint: bool,
) -> Result<(), StoreFailure> {
    let lease = DockerLease { pool: pool.id.clone(), address, is_endpoint, since: unix_now() };

    store.write(vec![DockerRow::Lease(lease)], Vec::new()).await
}

/// Gives a container an address: alone on its interface, for all others are reached by routes.
async fn give(
    store: &PluginStore,
    endpoints: &Endpoints,
    pool: &DockerPool,
    docker: &str,
    wanted: Option<IpAddr>,
) -> Result<IpNet, LeaseError> {
    let (_, network) = ready::network(store, endpoints, docker).await?;
    if let Some(wanted) = wanted {
        check_numbered(endpoints, &network, wanted)?;
        lifetime::freed(store, endpoints, network.id, wanted).await;
    }
    let _one = endpoints.memberships.stay(network.id).await?;
    let wanted = match wanted {
        None => returned(endpoints, pool, &network).await?,
        named => named,
    };
    let address = match (pool.prefix, wanted) {
        (IpNet::V4(_), Some(IpAddr::V6(_))) | (IpNet::V6(_), Some(IpAddr::V4(_))) => {
            return Err(LeaseError::OtherFamily);
        }
        (IpNet::V4(_), Some(IpAddr::V4(wanted))) => {
            endpoints.address(&network, Some(wanted)).await.map(IpAddr::V4)?
        }
        (IpNet::V4(_), None) => endpoints.address(&network, None).await.map(IpAddr::V4)?,
        (IpNet::V6(_), Some(IpAddr::V6(wanted))) => {
            fixed6(endpoints, &network, wanted).map(IpAddr::V6)?
        }
        (IpNet::V6(_), None) => next6(endpoints, &network).map(IpAddr::V6)?,
    };
    note(store, pool, address, true).await?;

    Ok(IpNet::from(address))
}

/// Where another host's engine numbers its containers by itself, it may give out anything outside
/// of blocks at any time: here only this node's own blocks may be used.
fn check_numbered(
    endpoints: &Endpoints,
    network: &Network,
    wanted: IpAddr,
) -> Result<(), LeaseError> {
    let Some(origin) = network.settings.numbered_by.filter(|origin| *origin != endpoints.node())
    else {
        return Ok(());
    };
    let view = endpoints.view();
    let blocks: Vec<IpNet> = view
        .member(network.id, endpoints.node())
        .into_iter()
        .flat_map(|member| &member.blocks)
        .flat_map(|block| network.prefixes(block.prefix))
        .filter(|prefix| prefix.addr().is_ipv4() == wanted.is_ipv4())
        .collect();
    if blocks.iter().any(|block| block.contains(&wanted)) {
        return Ok(());
    }
    let host = view.hosts.get(&origin).map_or("another host", |host| host.name.as_str());

    Err(LeaseError::NumberedElsewhere {
        wanted,
        host: host.to_owned(),
        title: network.title().to_owned(),
        blocks,
        prefix: network.prefix,
    })
}

/// Returns the address to give a container that comes back, where it is free.
async fn returned(
    endpoints: &Endpoints,
    pool: &DockerPool,
    network: &Network,
) -> Result<Option<IpAddr>, StoreFailure> {
    let view = endpoints.view();
    let is_free = |address: &IpAddr| match address {
        IpAddr::V4(v4) => {
            endpoints.in_blocks(network.id, *v4)
                && !endpoints.memberships.in_use(network, &view).contains(v4)
        }
        IpAddr::V6(v6) => !endpoints.memberships.in_use6(network, &view).contains(v6),
    };
    let known = returning::addresses(endpoints, network.id).await?;

    Ok(known.into_iter().find(|address| pool.prefix.contains(address) && is_free(address)))
}

fn fixed6(
    endpoints: &Endpoints,
    network: &Network,
    wanted: Ipv6Addr,
) -> Result<Ipv6Addr, LeaseError> {
    let view = endpoints.view();
    let nodes = view
        .members_of(network.id)
        .filter_map(|member| network.address6(member.node_address(network)?));
    let taken = endpoints.memberships.in_use6(network, &view).contains(&wanted)
        || network.is_reserved6(wanted)
        || nodes.into_iter().any(|node| node == wanted);

    if taken {
        return Err(LeaseError::Taken6 { address: wanted, network: network.name.clone() });
    }

    Ok(wanted)
}

/// IPv6 addresses are those that belong to the IPv4 addresses of this node's blocks.
fn next6(endpoints: &Endpoints, network: &Network) -> Result<Ipv6Addr, LeaseError> {
    let view = endpoints.view();
    let used = endpoints.memberships.in_use6(network, &view);
    let carried: BTreeSet<Ipv4Addr> =
        used.into_iter().filter_map(|address| network.address4(address)).collect();
    let v4 = endpoints.next_free(network, &view, &carried)?;

    network.address6(v4).ok_or_else(|| LeaseError::NoV6 { network: network.name.clone() })
}

/// Takes an address back.
pub(super) async fn release_address(
    store: &PluginStore,
    pool: String,
    address: IpAddr,
) -> Result<(), StoreFailure> {
    let key = (pool, address);
    if !store.state().leases.contains_key(&key) {
        return Ok(());
    }

    store.write(Vec::new(), vec![DockerKey::Lease(key.0, key.1)]).await
}
