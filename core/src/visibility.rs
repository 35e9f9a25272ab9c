//! What a node may see of the membership: the networks that it may enter, the prefixes in use on
//! hosts, the nodes, keys and endpoints of the networks that it is a member of, and what the policy
//! says of the networks that it may enter.
//!
//! Membership is cryptographic ("a network is a key"): a key that control does not distribute is
//! useless. Of a network that it may not enter, a node learns not even the name, unless the network
//! is linked with one that it may enter: then it learns what reaching takes. That is name, prefixes
//! and gateways, what the policy says of it, and, as a member, the endpoints there, with the names
//! and labels of the nodes that they are on; never a key, a block or an underlay address.

use crate::id::{NetworkId, NodeId};
use crate::name::Name;
use crate::node::{Difference, HostReport, Node, Role};
use crate::policy::{ClusterPolicy, Policy};
use crate::view::{Change, RowKey, View};

/// Returns whether a node may enter a network, and so may know of it; not one that is missing, nor
/// a missing node.
pub fn may_enter(view: &View, node: NodeId, network: NetworkId) -> bool {
    let row = view.networks.get(&network).zip(view.nodes.get(&node));

    row.is_some_and(|(network, node)| network.admits(&node.labels))
}

/// Returns whether a node may know the name of a network: it may enter it, or one that is linked
/// with it.
pub fn may_name(view: &View, node: NodeId, network: NetworkId) -> bool {
    is_near(view, network, |network| may_enter(view, node, network))
}

/// Returns whether a node may see the endpoints of a network: it is in it, or in one that is linked
/// with it.
fn may_reach(view: &View, node: NodeId, network: NetworkId) -> bool {
    is_near(view, network, |network| is_in(view, node, network))
}

/// Returns whether something holds of a network, or of one that is linked with it.
fn is_near(view: &View, network: NetworkId, holds: impl Fn(NetworkId) -> bool) -> bool {
    let links = view.networks.get(&network).map(|network| &network.settings.links);

    holds(network) || links.into_iter().flatten().any(|link| holds(link.network))
}

/// Returns whether a node is in a network, and may be.
fn is_in(view: &View, node: NodeId, network: NetworkId) -> bool {
    view.member(network, node).is_some() && may_enter(view, node, network)
}

/// Returns whether a node may see all of another node's row: they are in one network.
fn share_network(view: &View, node: NodeId, other: NodeId) -> bool {
    let mut mine = view.memberships_of(node);

    other == node
        || mine.any(|mine| {
            is_in(view, node, mine.network) && view.member(mine.network, other).is_some()
        })
}

/// Returns what a node may see of another one that is in a linked network only.
pub fn behind_link(node: Node) -> Node {
    Node { role: Role::Node, underlay: Vec::new(), lane_ports: Vec::new(), ..node }
}

/// Returns whether a node may see a row of `view`, present or not.
pub fn may_see(view: &View, node: NodeId, key: RowKey) -> bool {
    match key {
        RowKey::Network(network) => may_enter(view, node, network),
        RowKey::HostReport(_) | RowKey::Policy => view.nodes.contains_key(&node),
        RowKey::Node(other) => {
            let mut theirs = view.memberships_of(other);

            share_network(view, node, other)
                || theirs.any(|theirs| may_reach(view, node, theirs.network))
        }
        RowKey::Member(network, _) => is_in(view, node, network),
        RowKey::Endpoint(network, _) => may_reach(view, node, network),
    }
}

/// Returns a row as a node may see it, if it may.
pub fn visible_row(view: &View, node: NodeId, key: RowKey) -> Option<Change> {
    let row = view.row(key).filter(|_| may_see(view, node, key))?;
    if let Change::Policy(row) = &row {
        // Whoever does not understand a policy keeps its networks closed; without one they are
        // open.
        let Ok(policy) = Policy::parse(&row.text) else { return Some(Change::Policy(row.clone())) };
        let shows =
            |name: &Name| view.network_named(name).is_some_and(|it| may_name(view, node, it.id));
        return Some(Change::Policy(visible_policy(row, &policy, shows)));
    }
    if let Change::Node(row) = row {
        let whole = share_network(view, node, row.id);
        return Some(Change::Node(if whole { row } else { behind_link(row) }));
    }

    Some(without_hidden_networks(row, |title, host| {
        view.networks.values().any(|network| {
            network.title() == title
                && may_enter(view, node, network.id)
                && may_enter(view, host, network.id)
        })
    }))
}

/// Removes from a row what names a network that is hidden from its reader or from the host that
/// the row is of: host reports name those that differ. `shows` is given the network's title and
/// that host.
pub fn without_hidden_networks(row: Change, shows: impl Fn(&str, NodeId) -> bool) -> Change {
    match row {
        Change::HostReport(report) => {
            let is_shown = |of: &Difference| shows(&of.network, report.node);
            let differences = report.differences.iter().filter(|of| is_shown(of)).cloned();

            Change::HostReport(HostReport { differences: differences.collect(), ..report })
        }
        row @ (Change::Network(_)
        | Change::Node(_)
        | Change::Member(_)
        | Change::Endpoint(_)
        | Change::Policy(_)
        | Change::Removed(_)) => row,
    }
}

/// Returns the part of the cluster's policy for a node to which `shows` shows networks. `policy` is
/// that of the row, parsed.
pub fn visible_policy(
    row: &ClusterPolicy,
    policy: &Policy,
    shows: impl Fn(&Name) -> bool,
) -> ClusterPolicy {
    if policy.named_networks().all(&shows) {
        return row.clone();
    }
    let text = policy.without_hidden(shows).to_string();

    ClusterPolicy { text, ..row.clone() }
}

/// Returns the part of `view` that a node may see.
pub fn visible(view: &View, node: NodeId) -> View {
    let rows = view.rows().filter_map(|row| visible_row(view, node, row.key()));

    View::from_rows(view.revision, rows)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::endpoint::{Endpoint, Runtime};
    use crate::id::EndpointId;
    use crate::network::{LinkAccess, Member, Network, NetworkLink, NetworkMode, NetworkSettings};
    use crate::policy::FilterMode;
    use crate::view::Revision;

    fn network(n: u64) -> NetworkId {
        NetworkId::from_random(n + 1)
    }

    fn node(n: u64) -> NodeId {
        NodeId::from_random(n + 1)
    }

    /// Makes a network for the nodes of a selector.
    fn network_row(n: u64, nodes: &str) -> Change {
        Change::Network(Network {
            id: network(n),
            name: format!("net{n}").parse().expect("a name"),
            prefix: "10.0.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings {
                nodes: nodes.parse().expect("a selector"),
                ..NetworkSettings::default()
            },
            creator: None,
        })
    }

    fn node_row(n: u64, role: &str) -> Change {
        Change::Node(Node {
            id: node(n),
            name: format!("node{n}").parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::from([("role".to_owned(), role.to_owned())]),
            underlay: Vec::new(),
            lane_ports: Vec::new(),
        })
    }

    fn member(n: u64, of: u64) -> Change {
        Change::Member(Member {
            network: network(of),
            node: node(n),
            lane_keys: vec![[1; 32].into()],
            blocks: Vec::new(),
        })
    }

    fn endpoint(n: u64, of: u64) -> Change {
        Change::Endpoint(Endpoint {
            id: EndpointId::FIRST,
            network: network(of),
            node: node(n),
            name: "vault".parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            runtime: Runtime::Run,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        })
    }

    fn report(n: u64) -> Change {
        let difference =
            |of: &str| Difference { network: of.to_owned(), reason: "another".to_owned() };

        Change::HostReport(HostReport {
            node: node(n),
            prefixes: Vec::new(),
            differences: ["net0", "net1", "gone"].map(difference).to_vec(),
            name: format!("node{n}").parse().expect("a name"),
        })
    }

    /// A database host and a web host, a network for everyone and one for databases.
    fn view() -> View {
        let rows = [
            node_row(0, "db"),
            node_row(1, "web"),
            network_row(0, ""),
            network_row(1, "role=db"),
            member(0, 1),
            endpoint(0, 1),
            report(0),
        ];

        View::from_rows(Revision(1), rows)
    }

    fn keys(view: &View) -> BTreeSet<RowKey> {
        view.rows().map(|row| row.key()).collect()
    }

    /// Invariant 12.
    #[test]
    fn a_stranger_to_a_network_sees_its_settings_and_no_key() {
        let mut view = view();
        view.apply(network_row(1, ""));

        assert!(may_see(&view, node(1), RowKey::Network(network(1))));
        assert!(!may_see(&view, node(1), RowKey::Member(network(1), node(0))));
        assert!(!may_see(&view, node(1), RowKey::Endpoint(network(1), EndpointId::FIRST)));
        assert!(!may_see(&view, node(1), RowKey::Node(node(0))));
        assert!(may_see(&view, node(0), RowKey::Member(network(1), node(0))));
    }

    /// Invariant 12.
    #[test]
    fn of_a_network_that_a_node_may_not_enter_it_sees_nothing() {
        let view = view();
        let seen = visible(&view, node(1));

        assert_eq!(
            keys(&seen),
            BTreeSet::from([
                RowKey::Node(node(1)),
                RowKey::Network(network(0)),
                RowKey::HostReport(node(0)),
            ])
        );
        let text = format!("{seen:?}");
        assert!(!text.contains("net1") && !text.contains("vault"), "{text}");
        assert_eq!(visible(&view, node(0)).rows().count(), 6);
    }

    /// Has both networks of a view say that they are linked.
    fn link(view: &mut View) {
        for (one, other) in [(0, 1), (1, 0)] {
            let row = view.networks[&network(other)].clone();
            let link = NetworkLink {
                network: row.id,
                name: row.name,
                prefix: row.prefix,
                prefix6: None,
                access: LinkAccess::Defaults,
                gateways: Vec::new(),
            };
            let row = view.networks.get_mut(&network(one)).expect("it is there");
            row.settings.links.push(link);
        }
    }

    /// Invariant 12.
    #[test]
    fn of_a_linked_network_a_member_sees_endpoints_and_no_key_and_others_the_name() {
        let mut view = view();
        let announced = Node {
            underlay: vec![[192, 0, 2, 1].into()],
            lane_ports: vec![51820],
            ..view.nodes[&node(0)].clone()
        };
        view.apply(Change::Node(announced));
        link(&mut view);
        let outside = visible(&view, node(1));
        view.apply(member(1, 0));
        let inside = visible(&view, node(1));

        assert_eq!(outside.networks[&network(0)].settings.links[0].name.as_str(), "net1");
        assert!(!outside.networks.contains_key(&network(1)) && outside.endpoints.is_empty());
        assert!(!outside.nodes.contains_key(&node(0)));
        assert!(may_name(&view, node(1), network(1)));
        assert_eq!(inside.endpoints_of(network(1)).count(), 1);
        assert_eq!(inside.members_of(network(1)).count(), 0);
        assert!(!inside.networks.contains_key(&network(1)));
        let host = &inside.nodes[&node(0)];
        assert_eq!(host.labels["role"], "db");
        assert!(host.underlay.is_empty() && host.lane_ports.is_empty());
        view.apply(member(0, 0));
        assert_eq!(visible(&view, node(1)).nodes[&node(0)].lane_ports, [51820]);
    }

    #[test]
    fn a_membership_shows_nothing_to_a_node_that_may_not_enter_any_more() {
        let mut view = view();
        view.apply(member(1, 1));
        let before = visible(&view, node(1));
        view.apply(network_row(1, "role in (web,db)"));

        assert!(!keys(&before).contains(&RowKey::Node(node(0))));
        assert!(keys(&visible(&view, node(1))).contains(&RowKey::Node(node(0))));
    }

    #[test]
    fn reports_name_the_networks_that_their_reader_sees() {
        let named = |n| {
            let seen = visible(&view(), node(n));
            let report = &seen.hosts[&node(0)];
            report.differences.iter().map(|d| d.network.clone()).collect::<Vec<_>>()
        };

        assert_eq!(named(1), ["net0"]);
        assert_eq!(named(0), ["net0", "net1"]);
    }

    #[test]
    fn a_host_has_no_say_about_networks_that_are_not_for_it() {
        let mut view = view();
        view.apply(report(1));

        let differences = &visible(&view, node(0)).hosts[&node(1)].differences;

        assert_eq!(differences.iter().map(|d| d.network.as_str()).collect::<Vec<_>>(), ["net0"]);
    }

    #[test]
    fn the_policy_names_the_networks_that_its_reader_sees() {
        let rule = |name: &str, rest: &str| {
            format!("[[rule]]\nname = \"{name}\"\n{rest}to = \"any\"\ndeny = \"any\"\n")
        };
        let (all, hidden) =
            (rule("a", "from = { role = \"x\" }\n"), rule("b", "from = { network = \"net1\" }\n"));
        let default = "[network.net1]\ndefault = \"deny\"\n";
        let policy = ClusterPolicy {
            revision: 1,
            mode: FilterMode::Enforced,
            text: format!("{default}\n{all}\n{hidden}"),
        };
        let mut view = view();
        view.apply(Change::Policy(policy.clone()));
        let told = |view: &View, n| visible(view, node(n)).policy.map(|row| row.text.clone());

        assert_eq!(told(&view, 0), Some(policy.text));
        assert_eq!(told(&view, 1), Some(all.clone()));
        view.apply(Change::Removed(RowKey::Network(network(1))));
        assert_eq!(told(&view, 0), Some(all), "a network that is not there is for nobody");
    }

    #[test]
    fn a_policy_that_is_not_understood_is_not_taken_for_none() {
        let policy =
            ClusterPolicy { revision: 1, mode: FilterMode::Enforced, text: "[of tomorrow".into() };
        let mut view = view();
        view.apply(Change::Policy(policy.clone()));

        assert_eq!(visible(&view, node(1)).policy.as_deref(), Some(&policy));
    }

    #[test]
    fn whoever_is_no_node_sees_nothing() {
        assert_eq!(keys(&visible(&view(), node(7))), BTreeSet::new());
    }
}
