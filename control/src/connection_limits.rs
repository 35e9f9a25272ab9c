//! How many connections each client may hold open, so that nobody can keep the others out.
//!
//! A newcomer always gets in: where a limit is reached, an older connection ends, of the client
//! itself or of whichever stranger holds most. A host that joins needs one connection for a moment;
//! a node needs a few, and opens another one when it loses one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlay_core::NodeId;
use tokio_util::sync::CancellationToken;

/// Connections without a certificate, of all clients together: 32 MiB at some 32 KiB each.
const MAX_STRANGERS: usize = 1_024;
/// The same from one IPv4 address or one /64 of IPv6: a site behind one address whose hosts join at
/// the same time.
const MAX_PER_SOURCE: usize = 128;
/// Connections with one node's certificate: an agent has two or three, twice that while another one
/// takes its place.
const MAX_PER_NODE: usize = 8;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    /// Without a certificate; the address, of IPv6 its /64.
    Stranger(IpAddr),
    /// With a certificate of this node, which it may not be any more.
    Node(NodeId),
}

impl Client {
    /// Returns the client without a certificate at an address.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Stranger(match address.to_canonical() {
            IpAddr::V4(v4) => v4.into(),
            // What one host can choose its addresses from (RFC 4291, 2.5.4).
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }

    fn most(self) -> usize {
        match self {
            Self::Stranger(_) => MAX_PER_SOURCE,
            Self::Node(_) => MAX_PER_NODE,
        }
    }
}

/// All connections that are open.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLimits(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// By client, the oldest first.
    of: BTreeMap<Client, BTreeMap<u64, CancellationToken>>,
    strangers: usize,
}

/// A connection, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    limits: Arc<ConnectionLimits>,
    client: Client,
    number: u64,
    ended: CancellationToken,
}

impl ConnectionLimits {
    /// Admits a connection, for which an older one may end.
    pub(crate) fn admit(self: &Arc<Self>, client: Client) -> Admitted {
        let mut open = self.open();
        if open.count(client) >= client.most() {
            open.end_oldest(client);
        } else if matches!(client, Client::Stranger(_)) && open.strangers >= MAX_STRANGERS {
            let most = open.of.iter().filter(|(of, _)| matches!(of, Client::Stranger(_)));
            if let Some((&client, _)) = most.max_by_key(|(_, held)| held.len()) {
                open.end_oldest(client);
            }
        }
        let (number, ended) = (open.next, CancellationToken::new());
        open.next += 1;
        open.of.entry(client).or_default().insert(number, ended.clone());
        open.strangers += usize::from(matches!(client, Client::Stranger(_)));

        Admitted { limits: Arc::clone(self), client, number, ended }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn count(&self, client: Client) -> usize {
        self.of.get(&client).map_or(0, BTreeMap::len)
    }

    /// It is not counted from here on, whenever it is closed.
    fn end_oldest(&mut self, client: Client) {
        let oldest = self.of.get(&client).and_then(|held| held.keys().next().copied());
        if let Some(ended) = oldest.and_then(|number| self.remove(client, number)) {
            tracing::debug!(?client, "Ended a connection: its client has too many");
            ended.cancel();
        }
    }

    fn remove(&mut self, client: Client, number: u64) -> Option<CancellationToken> {
        let held = self.of.get_mut(&client)?;
        let removed = held.remove(&number)?;
        if held.is_empty() {
            self.of.remove(&client);
        }
        self.strangers -= usize::from(matches!(client, Client::Stranger(_)));

        Some(removed)
    }
}

impl Admitted {
    /// Returns what ends the connection.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Completes when the connection must end.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.clone().cancelled_owned()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.limits.open().remove(self.client, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Client {
        Client::at(text.parse().expect("an address"))
    }

    fn source(n: usize) -> Client {
        let n = u32::try_from(n).expect("few sources");

        Client::at(std::net::Ipv4Addr::from_bits(0xc633_6400 + n).into())
    }

    #[test]
    fn an_ipv6_host_is_known_by_its_64_however_it_chooses_addresses() {
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.7"), at("192.0.2.7"));
        assert_ne!(at("192.0.2.7"), at("192.0.2.8"));
    }

    #[test]
    fn of_one_client_the_oldest_ends_and_of_others_none() {
        let limits = Arc::new(ConnectionLimits::default());
        for (client, most) in
            [(at("192.0.2.7"), MAX_PER_SOURCE), (Client::Node(NodeId::FIRST), MAX_PER_NODE)]
        {
            let mut held: Vec<_> = (0..most).map(|_| limits.admit(client)).collect();
            let other = limits.admit(at("192.0.2.8"));
            assert!(held.iter().all(|one| !one.ended.is_cancelled()));

            held.push(limits.admit(client));

            let ended: Vec<_> = held.iter().map(|one| one.ended.is_cancelled()).collect();
            assert_eq!(ended.iter().filter(|ended| **ended).count(), 1);
            assert!(ended[0] && !other.ended.is_cancelled());
        }
        let open = limits.open();
        assert!(open.of.is_empty() && open.strangers == 0);
    }

    #[test]
    fn of_too_many_strangers_whoever_holds_most_gives_way() {
        let limits = Arc::new(ConnectionLimits::default());
        let nodes: Vec<_> =
            (0..MAX_PER_NODE).map(|_| limits.admit(Client::Node(NodeId::FIRST))).collect();
        let mut held: Vec<_> = (0..100).map(|_| limits.admit(source(0))).collect();
        let few: Vec<_> = (1..=MAX_STRANGERS - 100).map(|n| limits.admit(source(n))).collect();
        assert_eq!(limits.open().strangers, MAX_STRANGERS);

        held.push(limits.admit(source(99_999)));

        assert!(held[0].ended.is_cancelled());
        assert!(held[1..].iter().chain(&few).chain(&nodes).all(|one| !one.ended.is_cancelled()));
        assert_eq!(limits.open().strangers, MAX_STRANGERS);
        held.remove(0);
        assert_eq!(limits.open().strangers, MAX_STRANGERS, "it was not counted any more");
    }
}
