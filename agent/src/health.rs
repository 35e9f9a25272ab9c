//! Turns problems between this node and its peers into messages for operators, with cause and
//! remedy. Pure.
//!
//! The lanes report on pairs of lanes; here this becomes a few lines, one per kind of problem,
//! however many peers have it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{NodeId, View};
use overlay_dataplane::{Loss, PeerError, PeerState, PeerStatus};

use crate::problem::Problem;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
use crate::state::KnownControl;

/// The most peers that a line names.
const NAMED: usize = 5;
/// A peer heard within this time hears us or not, but nobody can say that nothing arrives here.
const LATELY: Duration = Duration::from_secs(5);
/// What QEMU's and VirtualBox's user networking gives to every guest alike.
const GUEST_NAT: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24));
/// How long a refusal by the host's own firewall counts.
const REFUSED: Duration = Duration::from_secs(3);

/// What is known about this node and its peers.
pub(crate) struct Facts<'a> {
    /// The membership, for names and addresses.
    pub(crate) view: &'a View,
    /// The state of every pair of lanes.
    pub(crate) peers: &'a [&'a PeerStatus],
    /// The UDP ports of this node's lanes.
    pub(crate) ports: &'a [u16],
    /// The host's own addresses; empty when they are not known.
    pub(crate) own: &'a BTreeSet<IpAddr>,
    /// How long ago the host refused to send.
    pub(crate) refused: Option<Duration>,
    /// The time, in seconds since 1970.
    pub(crate) now: u64,
}

/// One peer, with all its lanes and networks.
#[derive(Default)]
struct Peer {
    /// Lanes from which nothing arrives, and since when the first.
    silent: Vec<SocketAddr>,
    /// Lanes that hear nothing.
    deaf: Vec<SocketAddr>,
    /// Other errors, as they are told.
    other: BTreeSet<String>,
    since: Option<Duration>,
    heard: Option<Duration>,
    is_translated: bool,
    lost_in: u16,
    lost_out: u16,
}

/// Lists the problems.
pub(crate) fn problems(facts: &Facts<'_>) -> Vec<Problem> {
    let mut peers: BTreeMap<NodeId, Peer> = BTreeMap::new();
    for status in facts.peers {
        peers.entry(status.node).or_default().add(status);
    }
    let silent = choose(&peers, |peer| !peer.silent.is_empty());
    let hears_nobody =
        silent.len() > 1 && peers.values().all(|peer| peer.heard.is_none_or(|age| age > LATELY));
    let silent = if hears_nobody { facts.closed(&silent) } else { facts.silent(&silent) };

    [
        facts.refused(),
        silent,
        facts.deaf(&choose(&peers, |peer| !peer.deaf.is_empty())),
        facts.lossy(&peers),
        facts.other(&choose(&peers, |peer| !peer.other.is_empty())),
    ]
    .into_iter()
    .flatten()
    .chain(facts.shared(&peers))
    .collect()
}

/// Returns why a lane of a peer is not up, for `overlayctl peers`; empty if there is nothing to
/// say.
pub(crate) fn reason(status: &PeerStatus, own: &BTreeSet<IpAddr>) -> String {
    let error = status.error.map(|error| error.to_string());
    let peer = status.is_translated.then(|| "the peer is behind NAT".to_owned());
    let here = translation(status, own).map(|at| format!("this host is behind NAT: seen at {at}"));

    error.into_iter().chain(peer).chain(here).collect::<Vec<_>>().join("; ")
}

/// Returns where a peer sees this host, if that is none of its addresses.
fn translation(status: &PeerStatus, own: &BTreeSet<IpAddr>) -> Option<SocketAddr> {
    status.seen_at.filter(|at| !own.is_empty() && !own.contains(&at.ip()))
}

/// Says so where control is on this host, and none of its addresses is: it listens, and waits for
/// one.
pub(crate) fn displaced(
    control: &KnownControl,
    me: NodeId,
    own: &BTreeSet<IpAddr>,
) -> Option<String> {
    let announced = control.announced.iter().map(|address| address.parse::<SocketAddr>().ok());
    // A name may stand for anything.
    let announced: Vec<SocketAddr> = announced.collect::<Option<_>>()?;
    let is_here =
        announced.iter().any(|address| address.ip().is_loopback() || own.contains(&address.ip()));
    if !control.nodes.contains(&me) || own.is_empty() || announced.is_empty() || is_here {
        return None;
    }
    let addresses: Vec<_> = announced.iter().map(|address| address.ip().to_string()).collect();

    Some(format!(
        "control runs on this host and was found at {}, which this host does not have at the moment",
        addresses.join(" and ")
    ))
}

fn choose(peers: &BTreeMap<NodeId, Peer>, which: impl Fn(&Peer) -> bool) -> Vec<(NodeId, &Peer)> {
    peers.iter().filter(|(_, peer)| which(peer)).map(|(node, peer)| (*node, peer)).collect()
}

impl Peer {
    fn add(&mut self, status: &PeerStatus) {
        self.heard = [self.heard, status.heard].into_iter().flatten().min();
        self.is_translated |= status.is_translated;
        let high =
            |loss: Option<Loss>| loss.filter(|loss| loss.is_high).map_or(0, |loss| loss.permille);
        self.lost_in = self.lost_in.max(high(status.incoming_loss));
        self.lost_out = self.lost_out.max(high(status.outgoing_loss));
        match status.error {
            Some(PeerError::NotHeard) => self.deaf.extend(status.underlay),
            Some(PeerError::Silent { .. }) => self.silent.extend(status.underlay),
            Some(
                error @ (PeerError::NoUnderlayAddr
                | PeerError::InvalidKey
                | PeerError::ClockWentBack),
            ) => {
                self.other.insert(error.to_string());
            }
            // Until it counts as silent this is how every handshake begins.
            Some(PeerError::NoAnswer { .. }) | None => return,
        }
        if status.state == PeerState::Unreachable {
            self.since = self.since.max(Some(status.since));
        }
    }
}

impl Facts<'_> {
    fn problem(
        &self,
        key: ProblemKey,
        code: ProblemCode,
        text: String,
        since: Option<Duration>,
    ) -> Problem {
        let since = self.now.saturating_sub(since.unwrap_or_default().as_secs());

        Problem { key, code, text, since }
    }

    fn name(&self, node: NodeId) -> String {
        self.view.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.to_string())
    }

    /// Names some peers, with the addresses that it is about.
    fn names(&self, peers: &[(NodeId, &Peer)], addresses: fn(&Peer) -> &[SocketAddr]) -> String {
        let named = peers.iter().take(NAMED).map(|(node, peer)| {
            let distinct: BTreeSet<_> = addresses(peer).iter().map(ToString::to_string).collect();
            match distinct.is_empty() {
                true => self.name(*node),
                false => format!("{} ({})", self.name(*node), Vec::from_iter(distinct).join(", ")),
            }
        });
        let mut text = named.collect::<Vec<_>>().join(", ");
        if let Some(more) = peers.len().checked_sub(NAMED).filter(|more| *more > 0) {
            text.push_str(&format!(" and {more} more"));
        }

        text
    }

    /// Peers that claim an address of this very host, on its ports: nothing is sent there.
    fn shared(&self, peers: &BTreeMap<NodeId, Peer>) -> Vec<Problem> {
        let mut claims: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for node in peers.keys().filter_map(|node| self.view.nodes.get(node)) {
            let has_others = node.underlay.iter().any(|address| !self.own.contains(address));
            let is_usual = |address: IpAddr| has_others && GUEST_NAT.contains(&address);
            let lanes = (0..node.lane_ports.len())
                .flat_map(|lane| node.candidates(lane))
                .map(|candidate| candidate.address);
            let own =
                lanes.filter(|at| self.own.contains(&at.ip()) && self.ports.contains(&at.port()));
            let own = own.filter(|at| !is_usual(at.ip()));
            for address in own {
                claims.entry(address.ip()).or_default().insert(node.name.to_string());
            }
        }
        let problem = |(address, names): (IpAddr, BTreeSet<String>)| {
            let more = names.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let names = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
            let text = format!(
                "{address} of this host is also announced by {names}{more}, and not tried for them: give each host an \
                 address of its own, or let them join again with --advertise"
            );
            self.problem(ProblemKey::SharedAddress(address), ProblemCode::AddressShared, text, None)
        };

        claims.into_iter().map(problem).collect()
    }

    fn ports(&self) -> String {
        match (self.ports.first(), self.ports.last()) {
            (Some(first), Some(last)) if first != last => format!("UDP {first}-{last}"),
            (Some(port), _) => format!("UDP {port}"),
            (None, _) => "UDP".to_owned(),
        }
    }

    fn refused(&self) -> Option<Problem> {
        let age = self.refused.filter(|age| *age < REFUSED)?;
        let text = format!(
            "this host's firewall refuses what the agent sends from {}: allow it in the outgoing rules",
            self.ports()
        );

        Some(self.problem(ProblemKey::Firewall, ProblemCode::UdpRefused, text, Some(age)))
    }

    /// Nothing arrives from anybody.
    fn closed(&self, peers: &[(NodeId, &Peer)]) -> Option<Problem> {
        let text = format!(
            "nothing arrives from any of {} peers ({}): nobody reaches {} of this host; open it in this host's \
             firewall, or see whether its network is up",
            peers.len(),
            self.names(peers, |_| &[]),
            self.ports()
        );

        Some(self.problem(
            ProblemKey::SilentPeers,
            ProblemCode::PortUnreachable,
            text,
            since(peers),
        ))
    }

    fn silent(&self, peers: &[(NodeId, &Peer)]) -> Option<Problem> {
        let [(_, first), ..] = peers else { return None };
        let names = self.names(peers, |peer| &peer.silent);
        let here = self.peers.iter().find_map(|status| translation(status, self.own));
        let never = peers.iter().all(|(_, peer)| peer.heard.is_none());
        let remedy = match here {
            Some(at) if never => format!(
                "this host is behind NAT (seen at {at}): where the other side is behind NAT, too, neither can call; \
                 forward UDP to one of them"
            ),
            _ if never => format!(
                "the agent or host is down, a firewall drops {} there or here, or it is behind NAT and must call first",
                port_of(&first.silent)
            ),
            _ if first.is_translated => "it is behind NAT, and down or cut off".to_owned(),
            _ => format!(
                "the agent or host is down, or a firewall drops the datagrams: open {} there and {} here",
                port_of(&first.silent),
                self.ports()
            ),
        };

        Some(self.problem(
            ProblemKey::SilentPeers,
            ProblemCode::PeerSilent,
            format!("nothing arrives from {names}: {remedy}"),
            since(peers),
        ))
    }

    fn deaf(&self, peers: &[(NodeId, &Peer)]) -> Option<Problem> {
        let [(_, first), ..] = peers else { return None };
        let (names, port) = (self.names(peers, |peer| &peer.deaf), port_of(&first.deaf));
        let text = match peers {
            [_] => format!(
                "{names} is heard but does not hear this host: datagrams from here do not arrive; open {port} there, \
                 or check this host's outgoing rules"
            ),
            _ => format!(
                "{} peers are heard but do not hear this host: {names}; datagrams from here do not arrive: check this \
                 host's outgoing rules, or open {port} there",
                peers.len()
            ),
        };

        Some(self.problem(ProblemKey::DeafPeers, ProblemCode::PeerNotReached, text, since(peers)))
    }

    fn lossy(&self, peers: &BTreeMap<NodeId, Peer>) -> Option<Problem> {
        let lossy = choose(peers, |peer| peer.lost_in.max(peer.lost_out) > 0);
        let percent = |permille: u16| (permille + 5) / 10;
        let ways = |(node, peer): &(NodeId, &Peer)| {
            let ways = [("from", peer.lost_in), ("to", peer.lost_out)];
            let ways = ways.into_iter().filter(|(_, lost)| *lost > 0);
            ways.map(|(way, lost)| format!("{} % {way} {}", percent(lost), self.name(*node)))
                .collect::<Vec<_>>()
        };
        let named: Vec<_> = lossy.iter().take(NAMED).flat_map(ways).collect();
        let more = lossy.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = format!(
            "datagrams are lost on the way: {}{more}; see the underlay's links and queues, and this host's load",
            named.join(", ")
        );

        (!named.is_empty())
            .then(|| self.problem(ProblemKey::LossyPeers, ProblemCode::PeerLoss, text, None))
    }

    fn other(&self, peers: &[(NodeId, &Peer)]) -> Option<Problem> {
        let told = |(node, peer): &(NodeId, &Peer)| {
            format!(
                "{}: {}",
                self.name(*node),
                Vec::from_iter(peer.other.iter().cloned()).join(", ")
            )
        };
        let mut text = peers.iter().take(NAMED).map(told).collect::<Vec<_>>().join("; ");
        if let Some(more) = peers.len().checked_sub(NAMED).filter(|more| *more > 0) {
            text.push_str(&format!("; and {more} more"));
        }

        (!peers.is_empty()).then(|| {
            self.problem(ProblemKey::RefusedPeers, ProblemCode::PeerRefused, text, since(peers))
        })
    }
}

/// Returns since when the first of them has its problem.
fn since(peers: &[(NodeId, &Peer)]) -> Option<Duration> {
    peers.iter().filter_map(|(_, peer)| peer.since).max()
}

fn port_of(addresses: &[SocketAddr]) -> String {
    let ports: BTreeSet<_> = addresses.iter().map(|address| address.port().to_string()).collect();

    format!("UDP {}", Vec::from_iter(ports).join(", ")).trim_end().to_owned()
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
