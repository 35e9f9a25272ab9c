//! Prefixes that both this host and a network of the cluster have: who is on both cannot tell which
//! one an address means.

use std::collections::BTreeMap;

use ipnet::IpNet;
use overlay_core::{NetworkId, View};
use tokio::sync::watch;

use super::Membership;
use crate::host_state::{HostPrefixes, HostState};
use crate::problem::Problems;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;

/// Looks again whenever networks or the host's prefixes change, while the node is joined.
pub(crate) async fn run(
    mut membership: watch::Receiver<Membership>,
    host: &HostState,
    problems: &Problems,
) {
    let mut prefixes = host.prefixes();
    loop {
        check(&membership.borrow_and_update().view, &prefixes.borrow_and_update(), problems);
        tokio::select! {
            _ = membership.changed() => {}
            _ = prefixes.changed() => {}
        }
    }
}

/// States the clashes there are now as problems, and no others.
pub(crate) fn check(view: &View, prefixes: &HostPrefixes, problems: &Problems) {
    let clashes = clashes(view, prefixes);
    problems.retain(
        |key| !matches!(key, ProblemKey::Prefix(network) if !clashes.contains_key(network)),
    );
    for (network, text) in &clashes {
        problems.raise(ProblemKey::Prefix(*network), ProblemCode::PrefixClash, text);
    }
}

/// Lists the networks that clash with something on the host, with what is to be said.
///
/// A route that leads to more than the network, as one into a site's 10.0.0.0/8, is none: only what
/// it shares with the network is out of reach for containers on it, which is what was asked for.
fn clashes(view: &View, host: &HostPrefixes) -> BTreeMap<NetworkId, String> {
    let clash = |network: &overlay_core::Network, prefix: IpNet| {
        let link =
            host.links.iter().find(|(used, _)| used.contains(&prefix) || prefix.contains(*used));
        let (used, holder) =
            link.or_else(|| host.routes.iter().find(|(used, _)| prefix.contains(*used)))?;
        let text = format!(
            "network {} has {prefix}, which overlaps {used} of {holder} on this host: nothing here can be on both; give \
             {holder} another prefix, or make the network anew with another --subnet",
            network.title()
        );

        Some((network.id, text))
    };

    view.networks
        .values()
        .filter_map(|network| {
            let prefixes = [Some(IpNet::V4(network.prefix)), network.prefix6.map(IpNet::V6)];
            prefixes.into_iter().flatten().find_map(|prefix| clash(network, prefix))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use overlay_core::{Change, Network, NetworkMode, NetworkSettings, Revision};

    use super::*;

    fn view() -> View {
        let network = Network {
            id: NetworkId::FIRST,
            name: "web".parse().expect("a name"),
            prefix: "10.64.0.0/16".parse().expect("a prefix"),
            prefix6: Some("fd00:64::/64".parse().expect("a prefix")),
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
            creator: None,
        };

        View::from_rows(Revision(1), [Change::Network(network)])
    }

    fn of(prefix: &str, holder: &str) -> BTreeMap<IpNet, String> {
        [(prefix.parse().expect("a prefix"), holder.to_owned())].into()
    }

    fn told(links: BTreeMap<IpNet, String>, routes: BTreeMap<IpNet, String>) -> Vec<String> {
        clashes(&view(), &HostPrefixes { links, routes }).into_values().collect()
    }

    #[test]
    fn a_bridge_on_a_networks_prefix_is_named_with_both() {
        let expected = "network web has 10.64.0.0/16, which overlaps 10.64.7.0/24 of br-app on this host: nothing here \
                        can be on both; give br-app another prefix, or make the network anew with another --subnet";

        assert_eq!(told(of("10.64.7.0/24", "br-app"), BTreeMap::new()), [expected]);
        assert!(
            told(of("fd00:64::/64", "br-app"), BTreeMap::new())[0]
                .contains("fd00:64::/64 of br-app")
        );
        assert_eq!(told(of("10.0.0.0/8", "eth1"), BTreeMap::new()).len(), 1, "a wide link");
    }

    #[test]
    fn a_route_clashes_only_where_it_leads_into_the_network() {
        assert_eq!(told(BTreeMap::new(), of("10.64.7.0/24", "tun0")).len(), 1);
        assert_eq!(told(BTreeMap::new(), of("10.0.0.0/8", "tun0")), Vec::<String>::new());
        assert_eq!(told(of("192.0.2.0/24", "eth0"), of("0.0.0.0/1", "tun0")), Vec::<String>::new());
    }
}
