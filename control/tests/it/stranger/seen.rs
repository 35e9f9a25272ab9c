//! What an admin sees.

use std::collections::BTreeSet;

use overlay_proto::v1;

use crate::harness::Node;

/// Lists which networks are linked, by their names, in both orders.
pub(super) fn links(networks: &[v1::NetworkState]) -> BTreeSet<(String, String)> {
    let rows = networks.iter().filter_map(|state| state.network.as_ref());
    let of = |network: &v1::Network| {
        let links = network.links.iter();
        links.map(|link| (network.name.clone(), link.name.clone())).collect::<Vec<_>>()
    };

    rows.flat_map(of).collect()
}

/// What an admin sees beside networks: the names of nodes, the ids of tokens, and the policies.
pub(super) async fn others(
    admin: &Node,
) -> (BTreeSet<String>, BTreeSet<String>, Vec<v1::AppliedPolicy>) {
    let mut client = admin.client.clone();
    let nodes = client.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    let tokens = client.list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner().tokens;
    let policies = client.list_policies(v1::ListPoliciesRequest {}).await.unwrap().into_inner();
    let nodes = nodes.into_iter().filter_map(|state| Some(state.node?.name));

    (nodes.collect(), tokens.into_iter().map(|token| token.id).collect(), policies.policies)
}

/// Lists the names of all networks, and of those that `web1` is in.
pub(super) fn names(networks: Vec<v1::NetworkState>) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut entered = BTreeSet::new();
    let mut all = BTreeSet::new();
    for state in networks {
        let name = state.network.unwrap().name;
        if state.members.contains(&"web1".to_owned()) {
            entered.insert(name.clone());
        }
        all.insert(name);
    }

    (all, entered)
}
