//! In which order control's addresses are tried, and where each is known from. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use overlay_core::NodeId;

use crate::state::KnownControl;

/// Where an address of control is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Control is on this host.
    Local,
    /// A tunnel leads there, to the node that is on control's host.
    Tunnel,
    /// A person said so.
    Set,
    /// Control said so.
    Announced,
    /// This node joined by it.
    JoinLine,
    /// Control answered there, but nobody names the address any more.
    Earlier,
}

impl Source {
    /// Returns the stable word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Tunnel => "tunnel",
            Self::Set => "set",
            Self::Announced => "announced",
            Self::JoinLine => "join-line",
            Self::Earlier => "earlier",
        }
    }
}

/// One address to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlCandidate {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// Where it is known from.
    pub(crate) source: Source,
}

/// Lists control's addresses, the likeliest first: on this host, where it answered last, and then
/// by [`Source`].
///
/// `tunnels` says where the other nodes are reached at the moment; that is the only news of a host
/// whose address changed while control could not announce it.
pub(crate) fn candidates(
    known: &KnownControl,
    me: NodeId,
    join_line: &[String],
    tunnels: &BTreeMap<NodeId, IpAddr>,
) -> Vec<ControlCandidate> {
    let ports = ports(known.announced.iter().chain(&known.set).chain(join_line));
    let at = |ip: IpAddr| ports.iter().map(move |port| SocketAddr::new(ip, *port).to_string());
    let is_here = known.nodes.contains(&me);
    let local = is_here.then_some(Ipv4Addr::LOCALHOST.into());
    let tunnels = known
        .nodes
        .iter()
        .filter(|node| **node != me)
        .filter_map(|node| tunnels.get(node))
        .copied();
    let mut all: Vec<(Source, String)> = Vec::new();
    all.extend(tunnels.flat_map(at).map(|address| (Source::Tunnel, address)));
    all.extend(known.set.iter().map(|address| (Source::Set, address.clone())));
    all.extend(known.announced.iter().map(|address| (Source::Announced, address.clone())));
    all.extend(join_line.iter().map(|address| (Source::JoinLine, address.clone())));
    if let Some(last) = &known.last {
        let at = all.iter().position(|(_, address)| address == last);
        let first = at.map_or_else(|| (Source::Earlier, last.clone()), |at| all.remove(at));
        all.insert(0, first);
    }
    let local = local.into_iter().flat_map(at).map(|address| (Source::Local, address));
    let mut seen = BTreeSet::new();

    local
        .chain(all)
        .filter(|(_, address)| seen.insert(address.clone()))
        .map(|(source, address)| ControlCandidate { address, source })
        .collect()
}

/// Lists the ports of addresses, each once.
fn ports<'a>(addresses: impl Iterator<Item = &'a String>) -> Vec<u16> {
    let mut seen = BTreeSet::new();

    addresses
        .filter_map(|address| address.rsplit_once(':')?.1.parse().ok())
        .filter(|port| seen.insert(*port))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId::FIRST;
    const HOST: NodeId = NodeId::LAST;

    fn texts(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    fn order(known: &KnownControl, tunnels: &[(NodeId, &str)]) -> Vec<(String, &'static str)> {
        let tunnels =
            tunnels.iter().map(|(node, ip)| (*node, ip.parse().expect("an address"))).collect();
        let join_line = texts(&["192.0.2.1:7443", "10.0.2.15:7443"]);

        candidates(known, ME, &join_line, &tunnels)
            .into_iter()
            .map(|c| (c.address, c.source.as_str()))
            .collect()
    }

    #[test]
    fn a_fresh_node_knows_its_join_line() {
        let expected = [
            ("192.0.2.1:7443".to_owned(), "join-line"),
            ("10.0.2.15:7443".to_owned(), "join-line"),
        ];

        assert_eq!(order(&KnownControl::default(), &[(HOST, "192.0.2.99")]), expected);
    }

    #[test]
    fn where_it_answered_last_comes_first_and_nothing_twice() {
        let known = KnownControl {
            announced: texts(&["192.0.2.1:7443", "192.0.2.7:7443"]),
            set: texts(&["control.example:7443"]),
            last: Some("192.0.2.7:7443".to_owned()),
            ..KnownControl::default()
        };

        let addresses: Vec<_> = order(&known, &[]).into_iter().collect();

        let expected = [
            ("192.0.2.7:7443", "announced"),
            ("control.example:7443", "set"),
            ("192.0.2.1:7443", "announced"),
            ("10.0.2.15:7443", "join-line"),
        ];
        assert_eq!(addresses, expected.map(|(address, source)| (address.to_owned(), source)));
    }

    #[test]
    fn a_tunnel_to_controls_host_tells_where_it_has_gone() {
        let known = KnownControl {
            nodes: vec![HOST],
            last: Some("192.0.2.1:7443".to_owned()),
            ..KnownControl::default()
        };

        let moved =
            order(&known, &[(HOST, "198.51.100.9"), (NodeId::from_random(7), "198.51.100.7")]);

        assert_eq!(
            moved[..2],
            [
                ("192.0.2.1:7443".to_owned(), "join-line"),
                ("198.51.100.9:7443".to_owned(), "tunnel"),
            ]
        );
    }

    #[test]
    fn the_node_beside_control_needs_no_address_of_the_host() {
        let known = KnownControl {
            nodes: vec![ME],
            last: Some("203.0.113.1:7443".to_owned()),
            ..KnownControl::default()
        };

        let here = order(&known, &[]);

        let expected =
            [("127.0.0.1:7443".to_owned(), "local"), ("203.0.113.1:7443".to_owned(), "earlier")];
        assert_eq!(here[..2], expected);
    }
}
