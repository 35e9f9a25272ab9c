//! Answers Docker's plugin calls from the plugin store and the journal.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_core::network::first_host;
use overlay_core::{Endpoint, EndpointId, Network, Runtime};
use overlay_proto::{Code, Refusal, convert};

use super::plugin::{
    AddressRequest, ContainerIfname, DockerInterface, Driver, EndpointRequest, JoinRequest, Joined, NetworkRequest,
    NewInterface, PoolGranted, PoolRequest, Route, endpoint_id,
};
use super::{DRIVER, ipam, options, ready, routes};
use crate::endpoint::{lifecycle, sandbox};
use crate::joined_node::JoinedNode;
use crate::kernel::Netns;
use crate::kernel::host::HostNetwork;
use crate::kernel::namespace_desired::engine_ifname;
use crate::kernel::sandbox::mac_of;
use crate::membership::{network_membership, publish};
use crate::node_handle::NodeHandle;
use crate::state::journal::Entries;
use crate::state::{DockerNetwork, DockerPool, DockerRow, DockerSandbox, EndpointRecord, IpamMode, SandboxRecord};

/// The driver of networks and addresses.
#[derive(Debug)]
pub(super) struct OverlayDriver {
    handle: Arc<NodeHandle>,
}

impl OverlayDriver {
    /// Answers for the node behind this handle.
    pub(super) fn new(handle: Arc<NodeHandle>) -> Self {
        Self { handle }
    }
}

impl Driver for OverlayDriver {
    async fn request_pool(&self, request: PoolRequest) -> Result<PoolGranted, Refusal> {
        ipam::request_pool(&*self.handle.joined()?, request).await
    }

    async fn release_pool(&self, pool: String) -> Result<(), Refusal> {
        match self.handle.joined() {
            Ok(joined) => ipam::release_pool(&joined, &pool).await,
            // A node that has left holds nothing.
            Err(_) => Ok(()),
        }
    }

    async fn request_address(&self, request: AddressRequest) -> Result<IpNet, Refusal> {
        let joined = self.handle.joined()?;
        // Runs to completion even if the caller stops waiting.
        spawned(async move { ipam::request_address(&joined, request).await }).await
    }

    async fn release_address(&self, pool: String, address: IpAddr) -> Result<(), Refusal> {
        match self.handle.joined() {
            Ok(joined) => ipam::release_address(&joined, pool, address).await,
            Err(_) => Ok(()),
        }
    }

    async fn create_network(&self, request: NetworkRequest) -> Result<(), Refusal> {
        let joined = self.handle.joined()?;
        spawned(async move { create_network(&joined, request).await }).await
    }

    async fn delete_network(&self, network: String) -> Result<(), Refusal> {
        match self.handle.joined() {
            Ok(joined) => joined.docker.delete_network(&network).await,
            Err(_) => Ok(()),
        }
    }

    async fn create_endpoint(&self, request: EndpointRequest) -> Result<NewInterface, Refusal> {
        let joined = self.handle.joined()?;
        spawned(async move { create_endpoint(&joined, request).await }).await
    }

    async fn delete_endpoint(&self, endpoint: String) -> Result<(), Refusal> {
        let Ok(joined) = self.handle.joined() else { return Ok(()) };
        let known = find(&joined, &endpoint).map(|record| record.endpoint.id);
        spawned(
            async move { lifecycle::remove(&joined, known.into_iter().collect(), "Docker removed it").await.map(drop) },
        )
        .await
    }

    async fn join(&self, request: JoinRequest) -> Result<Joined, Refusal> {
        let joined = self.handle.joined()?;
        spawned(async move { join(&joined, request).await }).await
    }
}

async fn spawned<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::spawn(work).await.map_err(|error| Refusal::new(Code::Fault, error))?
}

/// Records a network. Its name comes later, from Docker's API.
async fn create_network(joined: &JoinedNode, request: NetworkRequest) -> Result<(), Refusal> {
    let plugin_state = joined.docker.state();
    if plugin_state.networks.contains_key(&request.id) {
        return Ok(());
    }
    let prefix = request.v4.prefix.trunc();
    let is_replica = |pools: &[DockerPool]| pools.iter().any(|pool| pool.network.is_some());
    let (ipam_mode, pools) = if request.v4.space == DRIVER {
        ours(&plugin_state.pools, &request)?
    } else {
        ipam::checked_of_engine(joined, prefix.into())?;
        if let Some(v6) = &request.v6 {
            ipam::checked_of_engine(joined, v6.prefix.trunc().into())?;
        }
        (IpamMode::Engine, Vec::new())
    };
    // A replica has the options of its origin, which another version may have accepted.
    if !is_replica(&pools) {
        options::check_network(&request.options, request.v6.is_some())?;
    }
    let row = DockerNetwork {
        id: request.id,
        network: pools.iter().find_map(|pool| pool.network),
        prefix,
        gateway: request.v4.gateway.unwrap_or_else(|| first_host(prefix)),
        prefix6: request.v6.as_ref().map(|v6| v6.prefix.trunc()),
        gateway6: request.v6.and_then(|v6| v6.gateway),
        reserved: request.reserved,
        internal: request.internal,
        options: request.options,
        ipam_mode,
    };
    let docker_network = Some(row.id.clone());
    let pools =
        pools.into_iter().map(|pool| DockerRow::Pool(DockerPool { docker_network: docker_network.clone(), ..pool }));
    let rows = pools.chain([DockerRow::Network(row.clone())]).collect();

    joined.docker.write(rows, Vec::new()).await
}

/// Finds the pools that were asked for a network: Docker does not say which they were, so the latest free ones of its prefixes (an
/// earlier one was asked for a network that never came). Should
/// two networks of one prefix be made at the same instant, the names tell ([`super::sync`]).
fn ours(
    pools: &BTreeMap<String, DockerPool>,
    request: &NetworkRequest,
) -> Result<(IpamMode, Vec<DockerPool>), Refusal> {
    let find = |prefix: IpNet| {
        let free = |pool: &&DockerPool| pool.docker_network.is_none() && pool.prefix == prefix.trunc();
        let unknown = || Refusal::new(Code::NotFound, format!("nobody asked for {prefix}; create the network again"));
        pools.values().filter(free).max_by_key(|pool| pool.since_ms).cloned().ok_or_else(unknown)
    };
    let v4 = find(request.v4.prefix.into())?;
    let v6 = request.v6.as_ref().map(|v6| find(v6.prefix.into())).transpose()?;
    let ipam_mode = IpamMode::Ours { pool: v4.id.clone(), pool6: v6.as_ref().map(|pool| pool.id.clone()) };

    Ok((ipam_mode, std::iter::once(v4).chain(v6).collect()))
}

/// Finds the record of a Docker endpoint.
pub(super) fn find(joined: &JoinedNode, endpoint: &str) -> Option<EndpointRecord> {
    let is_it = |record: &&EndpointRecord| record.sandbox.docker().is_some_and(|docker| docker.endpoint == endpoint);

    joined.journal.entries().values().find(is_it).cloned()
}

async fn create_endpoint(joined: &JoinedNode, request: EndpointRequest) -> Result<NewInterface, Refusal> {
    if let Some(known) = find(joined, &request.endpoint) {
        return Ok(described(&request.interface, &known.endpoint.addresses));
    }
    if let Some(ifname) = &request.ifname {
        options::check_ifname(ifname, joined.docker.state().engine.heeds_names)?;
    }
    let (docker, network) = ready::network(joined, &request.network).await?;
    let _one = network_membership::stay(joined, network.id).await?;
    let entries = joined.journal.entries();
    if entries.len() >= lifecycle::MAX_ENDPOINTS {
        let text = format!("this node has {} endpoints, which is the limit", lifecycle::MAX_ENDPOINTS);
        return Err(Refusal::new(Code::Exhausted, text));
    }
    let addresses = addresses(joined, &docker, &network, &request.interface)?;
    let replaced = superseded(&entries, &network, &addresses)?;
    let sandbox = DockerSandbox {
        mac: request.interface.mac,
        container_ifname: request.ifname,
        ..sandbox_of(&docker, request.endpoint)
    };
    let record = record(joined, &network, sandbox, addresses)?;
    if needs_claim(joined, &network, &record) {
        // Control grants no address twice, so it must first learn that the old holders are gone.
        joined.journal.remove(replaced.clone()).await?;
        joined.published().await;
        publish::put(joined, std::slice::from_ref(&record.endpoint)).await?;
    }
    let endpoint = record.endpoint.clone();
    joined.journal.replace(replaced, record).await?;
    tracing::info!(endpoint = %endpoint.id, network = %network.name, addresses = ?endpoint.addresses, "Docker made an endpoint");

    Ok(described(&request.interface, &endpoint.addresses))
}

/// Returns the sandbox of an endpoint that no container has taken yet.
pub(super) fn sandbox_of(docker: &DockerNetwork, endpoint: String) -> DockerSandbox {
    DockerSandbox {
        network: docker.id.clone(),
        endpoint,
        container: None,
        netns: None,
        joined: false,
        mac: None,
        boot: sandbox::boot(),
        on_link: docker.ipam_mode == IpamMode::Engine,
        inside: None,
        container_ifname: None,
    }
}

/// Writes down an endpoint of Docker's. It is called by its id until the engine tells its
/// container's name.
pub(super) fn record(
    joined: &JoinedNode,
    network: &Network,
    sandbox: DockerSandbox,
    addresses: Vec<IpAddr>,
) -> Result<EndpointRecord, Refusal> {
    let id = endpoint_id(&sandbox.endpoint);
    let is_taken = joined.journal.entries().contains_key(&id);
    let id = if is_taken { EndpointId::from_random(rand::random()) } else { id };

    Ok(EndpointRecord {
        endpoint: Endpoint {
            id,
            network: network.id,
            node: joined.node,
            name: convert::field("name", &id.to_string())?,
            aliases: BTreeSet::new(),
            addresses,
            labels: BTreeMap::new(),
            runtime: Runtime::Docker,
        },
        sandbox: SandboxRecord::Docker(sandbox),
        ifname: engine_ifname(id),
        owner: None,
    })
}

/// Tells whether control must be asked for an endpoint's addresses before anybody has them. Where an
/// engine numbers its containers, no other node takes addresses outside of blocks.
pub(super) fn needs_claim(joined: &JoinedNode, network: &Network, record: &EndpointRecord) -> bool {
    let is_ours_to_give = |address: &IpAddr| match address {
        IpAddr::V4(v4) => lifecycle::in_blocks(joined, network.id, *v4),
        IpAddr::V6(v6) => network.address4(*v6).is_some_and(|v4| lifecycle::in_blocks(joined, network.id, v4)),
    };
    let numbers_here = network.settings.numbered_by == Some(joined.node);

    !numbers_here && !record.endpoint.addresses.iter().all(is_ours_to_give)
}

/// Lists the endpoints that had these addresses: that Docker gives an address again proves that it
/// took it from whoever had it before, though its call for that may have found nobody.
///
/// # Errors
///
/// When one belongs to something that is none of Docker's.
fn superseded(entries: &Entries, network: &Network, addresses: &[IpAddr]) -> Result<Vec<EndpointId>, Refusal> {
    let has_one = |endpoint: &Endpoint| endpoint.addresses.iter().any(|address| addresses.contains(address));
    let holders = entries.values().filter(|record| record.endpoint.network == network.id && has_one(&record.endpoint));
    let mut replaced = Vec::new();
    for holder in holders {
        if !holder.sandbox.is_docker() {
            let taken = holder.endpoint.addresses.iter().find(|address| addresses.contains(address));
            let address = taken.map(ToString::to_string).unwrap_or_default();
            let text =
                format!("{address} is {}'s in {}, on this node; use another --ip", holder.endpoint.name, network.name);
            return Err(Refusal::new(Code::AddressTaken, text));
        }
        replaced.push(holder.endpoint.id);
    }

    Ok(replaced)
}

/// Returns what Docker did not specify: it rejects fields that it had filled in.
fn described(interface: &DockerInterface, addresses: &[IpAddr]) -> NewInterface {
    NewInterface { mac: interface.mac.is_none().then(|| mac_of(addresses)) }
}

/// Checks that Docker's addresses belong to the network, and that they are ours or were promised by us.
fn addresses(
    joined: &JoinedNode,
    docker: &DockerNetwork,
    network: &Network,
    interface: &DockerInterface,
) -> Result<Vec<IpAddr>, Refusal> {
    let missing = || Refusal::new(Code::InvalidInput, "Interface.Address is missing");
    let v4 = interface.v4.ok_or_else(missing)?;
    let all: Vec<IpAddr> = std::iter::once(IpAddr::V4(v4)).chain(interface.v6.map(IpAddr::V6)).collect();
    match &docker.ipam_mode {
        IpamMode::Ours { pool, pool6 } => {
            let plugin_state = joined.docker.state();
            let promised = |address: &&IpAddr| {
                let pool = if address.is_ipv4() { Some(pool) } else { pool6.as_ref() };
                pool.is_some_and(|pool| plugin_state.leases.contains_key(&(pool.clone(), **address)))
            };
            if let Some(stray) = all.iter().find(|address| !promised(address)) {
                let text = format!("{stray} was not given out for network {}", network.name);
                return Err(Refusal::new(Code::AddressTaken, text));
            }
        }
        IpamMode::Engine => {
            let view = Arc::clone(&joined.membership.borrow().view);
            let foreign = |address: &&IpAddr| {
                let mut others = view.members_of(network.id).filter(|member| member.node != joined.node);
                others.any(|member| {
                    member
                        .blocks
                        .iter()
                        .any(|block| network.prefixes(block.prefix).iter().any(|p| p.contains(*address)))
                })
            };
            if let Some(taken) = all.iter().find(foreign) {
                let text =
                    format!("{taken} is in a block of addresses that another node of {} gives out", network.name);
                return Err(Refusal::new(Code::AddressTaken, format!("{text}; choose a lower one")));
            }
        }
    }

    Ok(all)
}

/// Hands the interface over, once the kernel has created it and lets its packets through.
async fn join(joined: &JoinedNode, request: JoinRequest) -> Result<Joined, Refusal> {
    let unknown = || Refusal::new(Code::NotFound, "there is no such endpoint; start the container again");
    let record = find(joined, &request.endpoint).ok_or_else(unknown)?;
    let (docker, network) = ready::network(joined, &request.network).await?;
    if let Some(netns) = &request.netns {
        let left = left_behind(&joined.journal.entries(), &record, netns);
        lifecycle::remove(joined, left, "its container joined the network anew").await?;
    }
    // With this the pairs of endpoints that are no more are gone, too: none of an earlier round is
    // left in the container, with a route that Docker would take for another network's.
    lifecycle::brought_up(joined, &record).await?;
    if let Some(netns) = &request.netns {
        check_apart(&docker, &network, &record.endpoint.addresses, netns).await?;
    }
    let id = record.endpoint.id;
    joined
        .journal
        .update(id, |record| {
            if let SandboxRecord::Docker(docker) = &mut record.sandbox {
                docker.joined = true;
                docker.netns = request.netns.clone().or(docker.netns.take());
            }
        })
        .await?;

    let on_link = docker.ipam_mode == IpamMode::Engine;
    let routes = routes::routes(&network, &record.endpoint.addresses, on_link).into_iter();
    let routes = routes.map(|(destination, via)| Route { destination, via }).collect();

    let wanted = record.sandbox.docker().and_then(|docker| docker.container_ifname.as_deref());
    let container_ifname =
        wanted.map_or_else(|| ContainerIfname::of_network(&network.settings.options), ContainerIfname::exactly);

    Ok(Joined { ifname: record.ifname, container_ifname, routes })
}

/// Lists the endpoints that an earlier connection to the network left behind in the namespace that
/// an endpoint is about to join. A container is on a network once: that it joins proves that Docker
/// has taken it off, though nobody may have heard. Their interface may still be there, and its route
/// would keep Docker from giving the new one its address.
fn left_behind(entries: &Entries, joining: &EndpointRecord, netns: &Path) -> Vec<EndpointId> {
    let is_left = |record: &&EndpointRecord| {
        let is_there = record.sandbox.docker().is_some_and(|docker| docker.netns.as_deref() == Some(netns));
        is_there && record.endpoint.network == joining.endpoint.network && record.endpoint.id != joining.endpoint.id
    };

    entries.values().filter(is_left).map(|record| record.endpoint.id).collect()
}

/// Refuses a container that has one of the network's addresses by another interface, in words that tell why: Docker would refuse
/// it, too. Engines before 28 make the container's namespace with its first network only.
async fn check_apart(
    docker: &DockerNetwork,
    network: &Network,
    addresses: &[IpAddr],
    netns: &Path,
) -> Result<(), Refusal> {
    let Ok(netns) = Netns::open(netns) else { return Ok(()) };
    // If it cannot be read, it is up to Docker to decide.
    let Ok(there) = HostNetwork::list(&netns).await else { return Ok(()) };
    let on_link = |address: &IpAddr| match (&docker.ipam_mode, address) {
        (IpamMode::Engine, IpAddr::V4(_)) => IpNet::V4(network.prefix),
        (IpamMode::Engine | IpamMode::Ours { .. }, address) => IpNet::from(*address),
    };
    match addresses.iter().find_map(|address| there.conflict(on_link(address))) {
        None => Ok(()),
        Some((held, interface)) => Err(Refusal::new(
            Code::AddressTaken,
            format!(
                "this container is on {held} by {interface}, which overlaps {} of network {}: no container can be on both; \
                 take it off the other network, or make one of them with another --subnet",
                network.prefix,
                network.title()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;
    use overlay_core::{NetworkId, NodeId};

    use super::*;

    #[test]
    fn of_two_free_pools_of_a_prefix_the_latest_is_the_networks() {
        let prefix: Ipv4Net = "10.9.0.0/16".parse().expect("a prefix");
        let pool = |id: &str, since_ms| DockerPool {
            id: id.to_owned(),
            prefix: prefix.into(),
            range: None,
            network: None,
            docker_network: None,
            since_ms,
        };
        let pools = BTreeMap::from([("never-came", 5), ("asked-for", 7)].map(|(id, at)| (id.to_owned(), pool(id, at))));
        let body = br#"{"NetworkID":"aa","IPv4Data":[{"AddressSpace":"overlay-wg","Pool":"10.9.0.0/16"}]}"#;
        let request = NetworkRequest::read(body).expect("sound");

        let (ipam_mode, _) = ours(&pools, &request).expect("found");

        assert_eq!(ipam_mode, IpamMode::Ours { pool: "asked-for".to_owned(), pool6: None });
    }

    fn holder(n: u64, network: NetworkId, last: u8, sandbox: SandboxRecord) -> (EndpointId, EndpointRecord) {
        let id = EndpointId::from_random(n);
        let endpoint = Endpoint {
            id,
            network,
            node: NodeId::FIRST,
            name: format!("e{n}").parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: vec![[10, 9, 0, last].into()],
            labels: BTreeMap::new(),
            runtime: Runtime::Docker,
        };

        (id, EndpointRecord { endpoint, sandbox, ifname: engine_ifname(id), owner: None })
    }

    #[test]
    fn an_address_that_docker_gives_again_is_taken_from_its_old_holder() {
        let network = Network {
            id: NetworkId::FIRST,
            name: "net".parse().expect("a name"),
            prefix: "10.9.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: overlay_core::NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: overlay_core::NetworkSettings::default(),
        };
        let docker = || SandboxRecord::Docker(super::super::testing::sandbox("e", None));
        let entries = [
            holder(1, network.id, 2, docker()),
            holder(2, network.id, 3, docker()),
            holder(3, NetworkId::LAST, 2, docker()),
            holder(4, network.id, 4, SandboxRecord::Host),
        ];
        let entries: Entries = Arc::new(entries.into());
        let given = |last: u8| superseded(&entries, &network, &[[10, 9, 0, last].into()]);

        assert_eq!(given(2).expect("Docker's own"), [EndpointId::from_random(1)]);
        assert_eq!(given(9).expect("nobody's"), []);
        let refusal = given(4).expect_err("the host lives");
        assert_eq!(refusal.code, Code::AddressTaken);
        assert!(refusal.message.contains("10.9.0.4 is e4's in net"), "{refusal}");
    }
    #[test]
    fn who_joins_from_a_namespace_proves_that_no_earlier_endpoint_of_the_network_lives_there() {
        let within = |path: &str| {
            SandboxRecord::Docker(DockerSandbox {
                netns: Some(path.into()),
                ..super::super::testing::sandbox("e", None)
            })
        };
        let entries = [
            holder(1, NetworkId::FIRST, 2, within("/run/netns/here")),
            holder(2, NetworkId::FIRST, 3, within("/run/netns/there")),
            holder(3, NetworkId::LAST, 4, within("/run/netns/here")),
            holder(4, NetworkId::FIRST, 5, SandboxRecord::Docker(super::super::testing::sandbox("e", None))),
            holder(5, NetworkId::FIRST, 6, within("/run/netns/here")),
        ];
        let (_, joining) = holder(5, NetworkId::FIRST, 6, within("/run/netns/here"));

        let left = left_behind(&Arc::new(entries.into()), &joining, Path::new("/run/netns/here"));

        assert_eq!(left, [EndpointId::from_random(1)]);
    }
}
