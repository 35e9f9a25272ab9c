//! The endpoints of containers: reserved when Docker makes them, handed over when a container
//! joins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use overlay_core::{Endpoint, EndpointId, Network, Runtime};

use super::error::{CreateEndpointError, HandOutError};
use crate::docker::container_ifname::ContainerIfname;
use crate::docker::interceptor_reserves::InterceptorReserves;
use crate::docker::plugin::{
    DockerInterface, EndpointRequest, JoinRequest, Joined, NewInterface, Route, endpoint_id,
};
use crate::docker::plugin_store::PluginStore;
use crate::docker::{options, ready};
use crate::endpoint::lifecycle::Endpoints;
use crate::endpoint::reservation::{Addresses, Reservation};
use crate::endpoint::{routes, sandbox};
use crate::kernel::Netns;
use crate::kernel::host::HostNetwork;
use crate::kernel::namespace_desired::engine_ifname;
use crate::kernel::sandbox::mac_of;
use crate::state::journal::Entries;
use crate::state::{DockerNetwork, EndpointRecord, IpamMode, ManagedSandbox, SandboxRecord};

/// Finds the record of a Docker endpoint.
pub(in crate::docker) fn find(endpoints: &Endpoints, endpoint: &str) -> Option<EndpointRecord> {
    let is_it = |record: &&EndpointRecord| {
        record.sandbox.managed().is_some_and(|docker| docker.endpoint == endpoint)
    };

    endpoints.journal.entries().values().find(is_it).cloned()
}

/// Makes an endpoint; says what Docker has not said of its interface.
pub(super) async fn create_endpoint(
    store: &PluginStore,
    endpoints: &Endpoints,
    request: EndpointRequest,
) -> Result<NewInterface, CreateEndpointError> {
    if let Some(known) = find(endpoints, &request.endpoint) {
        return Ok(described(&request.interface, &known.endpoint.addresses));
    }
    if let Some(ifname) = &request.ifname {
        options::check_ifname(ifname, store.state().engine.heeds_names)?;
    }
    let (docker, network) = ready::network(store, endpoints, &request.network).await?;
    let _staying = endpoints.memberships.stay(network.id).await?;
    let addresses = addresses(store, endpoints, &docker, &network, &request.interface)?;
    let replaced = superseded(&endpoints.journal.entries(), &network, &addresses)?;
    let sandbox = ManagedSandbox {
        mac: request.interface.mac,
        container_ifname: request.ifname,
        ..sandbox_of(&docker, request.endpoint)
    };
    let reservation = Reservation { replaced, ..reservation(endpoints, sandbox, addresses) };
    let record = endpoints.reserve(&network, reservation).await?;

    Ok(described(&request.interface, &record.endpoint.addresses))
}

/// Returns the sandbox of an endpoint that no container has taken yet.
pub(in crate::docker) fn sandbox_of(docker: &DockerNetwork, endpoint: String) -> ManagedSandbox {
    ManagedSandbox {
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

/// Returns what is reserved for an endpoint of Docker's. It is called by its id until the engine
/// tells its container's name.
pub(in crate::docker) fn reservation(
    endpoints: &Endpoints,
    sandbox: ManagedSandbox,
    addresses: Vec<IpAddr>,
) -> Reservation {
    let id = endpoints.free_id(endpoint_id(&sandbox.endpoint));

    Reservation {
        id,
        name: None,
        aliases: BTreeSet::new(),
        group: None,
        labels: BTreeMap::new(),
        addresses: Addresses::Given(addresses),
        runtime: Runtime::Docker,
        sandbox: SandboxRecord::Managed(sandbox),
        ifname: engine_ifname(id),
        owner: None,
        replaced: Vec::new(),
    }
}

/// Lists the endpoints that had these addresses: that Docker gives an address again proves that it
/// took it from whoever had it before, though its call for that may have found nobody.
///
/// # Errors
///
/// When one belongs to something that is none of Docker's.
fn superseded(
    entries: &Entries,
    network: &Network,
    addresses: &[IpAddr],
) -> Result<Vec<EndpointId>, CreateEndpointError> {
    let taken = |endpoint: &Endpoint| {
        endpoint.addresses.iter().copied().find(|address| addresses.contains(address))
    };
    let here = entries.values().filter(|record| record.endpoint.network == network.id);
    let holders = here.filter_map(|record| Some((record, taken(&record.endpoint)?)));
    let mut replaced = Vec::new();
    for (holder, address) in holders {
        if !holder.sandbox.is_managed() {
            let (holder, network) = (holder.endpoint.name.clone(), network.name.clone());
            return Err(CreateEndpointError::Taken { address, holder, network });
        }
        replaced.push(holder.endpoint.id);
    }

    Ok(replaced)
}

/// Returns what Docker did not specify: it rejects fields that it had filled in.
fn described(interface: &DockerInterface, addresses: &[IpAddr]) -> NewInterface {
    NewInterface { mac: interface.mac.is_none().then(|| mac_of(addresses)) }
}

/// Checks that Docker's addresses belong to the network, and that they are ours or were promised by
/// us.
fn addresses(
    store: &PluginStore,
    endpoints: &Endpoints,
    docker: &DockerNetwork,
    network: &Network,
    interface: &DockerInterface,
) -> Result<Vec<IpAddr>, CreateEndpointError> {
    let v4 = interface.v4.ok_or(CreateEndpointError::AddressMissing)?;
    let all: Vec<IpAddr> =
        std::iter::once(IpAddr::V4(v4)).chain(interface.v6.map(IpAddr::V6)).collect();
    match &docker.ipam_mode {
        IpamMode::Ours { pool, pool6 } => {
            let plugin_state = store.state();
            let promised = |address: &&IpAddr| {
                let pool = if address.is_ipv4() { Some(pool) } else { pool6.as_ref() };
                pool.is_some_and(|pool| {
                    plugin_state.leases.contains_key(&(pool.clone(), **address))
                })
            };
            if let Some(stray) = all.iter().find(|address| !promised(address)) {
                let (address, network) = (*stray, network.name.clone());
                return Err(CreateEndpointError::NotGiven { address, network });
            }
        }
        IpamMode::Engine => {
            let view = endpoints.view();
            let foreign = |address: &&IpAddr| {
                let mut others =
                    view.members_of(network.id).filter(|member| member.node != endpoints.node());
                others.any(|member| {
                    member.blocks.iter().any(|block| {
                        network.prefixes(block.prefix).iter().any(|p| p.contains(*address))
                    })
                })
            };
            if let Some(taken) = all.iter().find(foreign) {
                let (address, network) = (*taken, network.name.clone());
                return Err(CreateEndpointError::OfOtherNode { address, network });
            }
        }
    }

    Ok(all)
}

/// Hands the interface over, once the kernel has created it and lets its packets through.
pub(super) async fn join(
    store: &PluginStore,
    endpoints: &Endpoints,
    reserves: &InterceptorReserves,
    request: JoinRequest,
) -> Result<Joined, HandOutError> {
    let record = find(endpoints, &request.endpoint).ok_or(HandOutError::UnknownEndpoint)?;
    let (docker, network) = ready::network(store, endpoints, &request.network).await?;
    if let Some(netns) = &request.netns {
        let left = left_behind(&endpoints.journal.entries(), &record, netns);
        endpoints.remove(left, "its container joined the network anew").await?;
    }
    // With this the pairs of endpoints that are no more are gone, too: none of an earlier round is
    // left in the container, with a route that Docker would take for another network's.
    endpoints.brought_up(&record).await?;
    if let Some(netns) = &request.netns {
        check_apart(&docker, &network, &record.endpoint.addresses, netns).await?;
    }
    let id = record.endpoint.id;
    reserves.keep_back(id)?;
    endpoints
        .journal
        .update(id, |record| {
            if let SandboxRecord::Managed(docker) = &mut record.sandbox {
                docker.joined = true;
                docker.netns = request.netns.clone().or(docker.netns.take());
            }
        })
        .await?;

    let on_link = docker.ipam_mode == IpamMode::Engine;
    let routes = routes::routes(&network, &record.endpoint.addresses, on_link).into_iter();
    let routes = routes.map(|(destination, via)| Route { destination, via }).collect();

    let wanted = record.sandbox.managed().and_then(|docker| docker.container_ifname.as_deref());
    let container_ifname = wanted.map_or_else(
        || ContainerIfname::of_network(&network.settings.options),
        ContainerIfname::exactly,
    );

    Ok(Joined { ifname: record.ifname, container_ifname, routes })
}

/// Lists the endpoints that an earlier connection to the network left behind in the namespace that
/// an endpoint is about to join. A container is on a network once: that it joins proves that Docker
/// has taken it off, though nobody may have heard. Their interface may still be there, and its
/// route would keep Docker from giving the new one its address.
fn left_behind(entries: &Entries, joining: &EndpointRecord, netns: &Path) -> Vec<EndpointId> {
    let is_left = |record: &&EndpointRecord| {
        let is_there =
            record.sandbox.managed().is_some_and(|docker| docker.netns.as_deref() == Some(netns));
        is_there
            && record.endpoint.network == joining.endpoint.network
            && record.endpoint.id != joining.endpoint.id
    };

    entries.values().filter(is_left).map(|record| record.endpoint.id).collect()
}

/// Refuses a container that has one of the network's addresses by another interface, in words that
/// tell why: Docker would refuse it, too. Engines before 28 make the container's namespace with its
/// first network only.
async fn check_apart(
    docker: &DockerNetwork,
    network: &Network,
    addresses: &[IpAddr],
    netns: &Path,
) -> Result<(), HandOutError> {
    let Ok(netns) = Netns::open(netns) else { return Ok(()) };
    // If it cannot be read, it is up to Docker to decide.
    let Ok(there) = HostNetwork::list(&netns).await else { return Ok(()) };
    let on_link = |address: &IpAddr| match (&docker.ipam_mode, address) {
        (IpamMode::Engine, IpAddr::V4(_)) => IpNet::V4(network.prefix),
        (IpamMode::Engine | IpamMode::Ours { .. }, address) => IpNet::from(*address),
    };
    match addresses.iter().find_map(|address| there.conflict(on_link(address))) {
        None => Ok(()),
        Some((held, interface)) => Err(HandOutError::Overlap {
            held,
            interface: interface.to_owned(),
            prefix: network.prefix,
            title: network.title().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use overlay_core::{NetworkId, NodeId};
    use overlay_proto::Code;

    use super::*;
    use crate::docker::testing;

    fn holder(
        n: u64,
        network: NetworkId,
        last: u8,
        sandbox: SandboxRecord,
    ) -> (EndpointId, EndpointRecord) {
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
            group: None,
            container: None,
            taken: BTreeSet::new(),
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
            creator: None,
        };
        let docker = || SandboxRecord::Managed(testing::sandbox("e", None));
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
        assert_eq!(refusal.code(), Code::AddressTaken);
        assert!(refusal.to_string().contains("10.9.0.4 is e4's in net"), "{refusal}");
    }

    #[test]
    fn who_joins_from_a_namespace_proves_that_no_earlier_endpoint_of_the_network_lives_there() {
        let within = |path: &str| {
            SandboxRecord::Managed(ManagedSandbox {
                netns: Some(path.into()),
                ..testing::sandbox("e", None)
            })
        };
        let entries = [
            holder(1, NetworkId::FIRST, 2, within("/run/netns/here")),
            holder(2, NetworkId::FIRST, 3, within("/run/netns/there")),
            holder(3, NetworkId::LAST, 4, within("/run/netns/here")),
            holder(4, NetworkId::FIRST, 5, SandboxRecord::Managed(testing::sandbox("e", None))),
            holder(5, NetworkId::FIRST, 6, within("/run/netns/here")),
        ];
        let (_, joining) = holder(5, NetworkId::FIRST, 6, within("/run/netns/here"));

        let left = left_behind(&Arc::new(entries.into()), &joining, Path::new("/run/netns/here"));

        assert_eq!(left, [EndpointId::from_random(1)]);
    }
}
