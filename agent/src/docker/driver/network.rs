//! The networks that Docker makes of our kind, and the pools that they were given.

use std::collections::BTreeMap;

use ipnet::IpNet;
use overlay_core::network::first_host;
use overlay_core::{NodeId, Role, View};

use super::error::CreateNetworkError;
use crate::docker::plugin::NetworkRequest;
use crate::docker::plugin_store::PluginStore;
use crate::docker::{DRIVER, ipam, options};
use crate::endpoint::lifecycle::Endpoints;
use crate::state::{DockerNetwork, DockerPool, DockerRow, IpamMode};

/// Records a network. Its name comes later, from Docker's API.
pub(super) async fn create_network(
    store: &PluginStore,
    endpoints: &Endpoints,
    request: NetworkRequest,
) -> Result<(), CreateNetworkError> {
    let plugin_state = store.state();
    if plugin_state.networks.contains_key(&request.id) {
        return Ok(());
    }
    let prefix = request.v4.prefix.trunc();
    let is_replica = |pools: &[DockerPool]| pools.iter().any(|pool| pool.network.is_some());
    let (ipam_mode, pools) = if request.v4.space == DRIVER {
        ours(&plugin_state.pools, &request)?
    } else {
        ipam::checked_of_engine(store, endpoints, prefix.into())?;
        if let Some(v6) = &request.v6 {
            ipam::checked_of_engine(store, endpoints, v6.prefix.trunc().into())?;
        }
        (IpamMode::Engine, Vec::new())
    };
    // A replica has the options of its origin, which another version may have accepted.
    if !is_replica(&pools) {
        options::check_network(&request.options, request.v6.is_some())?;
        check_right(&endpoints.view(), endpoints.node(), &request.options)?;
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
    let pools = pools
        .into_iter()
        .map(|pool| DockerRow::Pool(DockerPool { docker_network: docker_network.clone(), ..pool }));
    let rows = pools.chain([DockerRow::Network(row.clone())]).collect();

    Ok(store.write(rows, Vec::new()).await?)
}

/// Refuses what control would refuse, or what this host could not use.
fn check_right(
    view: &View,
    node: NodeId,
    options: &BTreeMap<String, String>,
) -> Result<(), CreateNetworkError> {
    let nodes = options::nodes(options)?;
    // Without a row of its own this node waits for control, which decides.
    let Some(node) = view.nodes.get(&node) else { return Ok(()) };
    if node.role == Role::Worker {
        return Err(CreateNetworkError::Worker);
    }
    if !nodes.matches(&node.labels) {
        return Err(CreateNetworkError::NotForThisNode { nodes, node: node.name.clone() });
    }

    Ok(())
}

/// Finds the pools that were asked for a network: Docker does not say which they were, so the
/// latest free ones of its prefixes (an earlier one was asked for a network that never came).
/// Should two networks of one prefix be made at the same instant, the names tell (`docker::sync`).
fn ours(
    pools: &BTreeMap<String, DockerPool>,
    request: &NetworkRequest,
) -> Result<(IpamMode, Vec<DockerPool>), CreateNetworkError> {
    let find = |prefix: IpNet| {
        let free =
            |pool: &&DockerPool| pool.docker_network.is_none() && pool.prefix == prefix.trunc();
        let unknown = || CreateNetworkError::UnknownPool { prefix };
        pools.values().filter(free).max_by_key(|pool| pool.since_ms).cloned().ok_or_else(unknown)
    };
    let v4 = find(request.v4.prefix.into())?;
    let v6 = request.v6.as_ref().map(|v6| find(v6.prefix.into())).transpose()?;
    let ipam_mode =
        IpamMode::Ours { pool: v4.id.clone(), pool6: v6.as_ref().map(|pool| pool.id.clone()) };

    Ok((ipam_mode, std::iter::once(v4).chain(v6).collect()))
}

#[cfg(test)]
mod tests {
    use overlay_core::{Change, Node, Revision};

    use super::*;
    use crate::docker::testing;

    #[test]
    fn of_two_free_pools_of_a_prefix_the_latest_is_the_networks() {
        let pool = |id: &str, since_ms| DockerPool { since_ms, ..testing::pool(id, "10.9.0.0/16") };
        let pools = BTreeMap::from(
            [("never-came", 5), ("asked-for", 7)].map(|(id, at)| (id.to_owned(), pool(id, at))),
        );
        let body = br#"{"NetworkID":"aa","IPv4Data":[{"AddressSpace":"overlay-wg","Pool":"10.9.0.0/16"}]}"#;
        let request = NetworkRequest::read(body).expect("sound");

        let (ipam_mode, _) = ours(&pools, &request).expect("found");

        assert_eq!(ipam_mode, IpamMode::Ours { pool: "asked-for".to_owned(), pool6: None });
    }

    #[test]
    fn a_host_that_could_not_use_a_network_does_not_make_it() {
        let labels = |text: &str| BTreeMap::from([("role".to_owned(), text.to_owned())]);
        let view = |role| {
            let node = Node {
                id: NodeId::FIRST,
                name: "web1".parse().expect("a name"),
                role,
                labels: labels("web"),
                underlay: Vec::new(),
                lane_ports: Vec::new(),
            };
            View::from_rows(Revision(1), [Change::Node(node)])
        };
        let refused = |role, nodes: &str| {
            let options = BTreeMap::from([("nodes".to_owned(), nodes.to_owned())]);
            check_right(&view(role), NodeId::FIRST, &options).err().map(|error| error.to_string())
        };

        assert_eq!(refused(Role::Node, "role in (web,db)"), None);
        assert_eq!(
            refused(Role::Admin, "role=db").as_deref(),
            Some(
                "nodes=role=db does not match the labels of this node, web1, which could not use \
                 the network; make it on a host that it is for, or with `overlayctl network \
                 create` on an admin node"
            )
        );
        assert!(refused(Role::Worker, "").is_some_and(|text| text.contains("role worker")));
        assert_eq!(
            check_right(&View::default(), NodeId::FIRST, &labels("x")).err().map(drop),
            None
        );
    }
}
