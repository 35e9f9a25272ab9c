//! Longest-prefix tables: which peer holds an inner address.
//!
//! The same table decides where a packet goes and whether its source may come from the peer that
//! sent it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::index::PeerIndex;

/// Maps prefixes of both families to values; the longest prefix that contains an address wins.
#[derive(Debug, Clone)]
pub(crate) struct PrefixTable<T: Copy> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
    /// The last answer. Consecutive packets often belong to one flow, and each needs two lookups.
    last: Cell<Option<(IpAddr, Option<T>)>>,
}

impl<T: Copy> Default for PrefixTable<T> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new(), last: Cell::new(None) }
    }
}

impl<T: Copy> PrefixTable<T> {
    /// Adds a prefix unless the same one is there already.
    pub(crate) fn insert(&mut self, prefix: IpNet, value: T) {
        self.last.set(None);
        match prefix {
            IpNet::V4(v4) => *self.v4.entry(v4.trunc()).or_insert(value),
            IpNet::V6(v6) => *self.v6.entry(v6.trunc()).or_insert(value),
        };
    }

    /// Returns the value of this very prefix.
    fn get(&self, prefix: IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(v4) => self.v4.get(&v4.trunc()).copied(),
            IpNet::V6(v6) => self.v6.get(&v6.trunc()).copied(),
        }
    }

    /// Replaces the value of a prefix.
    fn replace(&mut self, prefix: IpNet, value: T) {
        self.last.set(None);
        match prefix {
            IpNet::V4(v4) => self.v4.insert(v4.trunc(), value),
            IpNet::V6(v6) => self.v6.insert(v6.trunc(), value),
        };
    }

    /// Removes a prefix.
    fn remove(&mut self, prefix: IpNet) {
        self.last.set(None);
        match prefix {
            IpNet::V4(v4) => self.v4.remove(&v4.trunc()),
            IpNet::V6(v6) => self.v6.remove(&v6.trunc()),
        };
    }

    /// Returns the value of the longest prefix that contains `address`.
    #[inline]
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<T> {
        match self.last.get() {
            Some((last, found)) if last == address => found,
            _ => self.search(address),
        }
    }

    fn search(&self, address: IpAddr) -> Option<T> {
        let found = match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).map(|(_, value)| *value),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).map(|(_, value)| *value),
        };
        self.last.set(Some((address, found)));

        found
    }
}

/// Which peer holds each prefix; of several that are listed with the same one, the first.
#[derive(Debug, Default)]
pub(crate) struct PeerRoutes {
    table: PrefixTable<PeerIndex>,
    /// Who else is listed with a prefix, and holds it once the first does not any more.
    others: BTreeMap<IpNet, BTreeSet<PeerIndex>>,
}

impl PeerRoutes {
    /// Returns the peer with the longest prefix that contains `address`.
    #[inline]
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<PeerIndex> {
        self.table.lookup(address)
    }

    /// Adds a peer to those that are listed with a prefix.
    pub(crate) fn insert(&mut self, prefix: IpNet, peer: PeerIndex) {
        let prefix = prefix.trunc();
        match self.table.get(prefix) {
            None => self.table.insert(prefix, peer),
            Some(holder) if holder == peer => {}
            Some(holder) => {
                self.table.replace(prefix, holder.min(peer));
                self.others.entry(prefix).or_default().insert(holder.max(peer));
            }
        }
    }

    /// Removes a peer from those that are listed with a prefix.
    pub(crate) fn remove(&mut self, prefix: IpNet, peer: PeerIndex) {
        let prefix = prefix.trunc();
        let is_holder = self.table.get(prefix) == Some(peer);
        let Some(others) = self.others.get_mut(&prefix) else {
            if is_holder {
                self.table.remove(prefix);
            }
            return;
        };
        if !is_holder {
            others.remove(&peer);
        } else if let Some(next) = others.pop_first() {
            self.table.replace(prefix, next);
        }
        if others.is_empty() {
            self.others.remove(&prefix);
        }
    }
}

/// Makes the table of a set of prefixes.
pub(crate) fn set(prefixes: &[IpNet]) -> PrefixTable<()> {
    let mut table = PrefixTable::default();
    for prefix in prefixes {
        table.insert(*prefix, ());
    }

    table
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn table(rows: &[(&str, u8)]) -> PrefixTable<u8> {
        let mut table = PrefixTable::default();
        for (prefix, value) in rows {
            table.insert(prefix.parse().expect("a prefix"), *value);
        }
        table
    }

    fn lookup(table: &PrefixTable<u8>, address: &str) -> Option<u8> {
        table.lookup(address.parse().expect("an address"))
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = table(&[
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("10.1.2.3/32", 3),
            ("fd00::/8", 4),
            ("fd00::1/128", 5),
        ]);

        assert_eq!(lookup(&table, "10.9.9.9"), Some(1));
        assert_eq!(lookup(&table, "10.1.9.9"), Some(2));
        assert_eq!(lookup(&table, "10.1.2.3"), Some(3));
        assert_eq!(lookup(&table, "fd00::1"), Some(5));
        assert_eq!(lookup(&table, "fd00::2"), Some(4));
        assert_eq!(lookup(&table, "11.0.0.1"), None);
        assert_eq!(lookup(&table, "::1"), None);
    }

    #[test]
    fn the_first_of_two_equal_prefixes_stays() {
        assert_eq!(lookup(&table(&[("10.0.0.0/8", 1), ("10.3.0.0/8", 2)]), "10.3.0.1"), Some(1));
    }

    #[test]
    fn an_answer_is_not_kept_beyond_a_better_prefix() {
        let mut table = table(&[("10.0.0.0/8", 1)]);
        assert_eq!(lookup(&table, "10.1.2.3"), Some(1));
        assert_eq!(lookup(&table, "11.1.2.3"), None);

        table.insert("10.1.0.0/16".parse().expect("a prefix"), 2);
        table.insert("11.0.0.0/8".parse().expect("a prefix"), 3);

        assert_eq!(lookup(&table, "11.1.2.3"), Some(3));
        assert_eq!(lookup(&table, "10.1.2.3"), Some(2));
    }

    #[test]
    fn the_whole_address_space_is_a_prefix() {
        assert_eq!(lookup(&table(&[("0.0.0.0/0", 7)]), "255.255.255.255"), Some(7));
    }

    fn nets() -> impl Strategy<Value = Vec<(IpNet, u16)>> {
        // Few of the bits vary, so that prefixes nest.
        let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| {
            IpNet::V4(Ipv4Net::new((bits & 0x0303_0003).into(), len).expect("a prefix"))
        });
        let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| {
            IpNet::V6(Ipv6Net::new((bits & (0x3 << 120 | 0x3)).into(), len).expect("a prefix"))
        });
        proptest::collection::vec((prop_oneof![v4, v6], any::<u16>()), 0..40)
    }

    fn slow_lookup(rows: &[(IpNet, u16)], address: IpAddr) -> Option<u16> {
        let mut best: Option<(u8, u16)> = None;
        for (prefix, value) in rows {
            if prefix.contains(&address) && best.is_none_or(|(len, _)| prefix.prefix_len() > len) {
                best = Some((prefix.prefix_len(), *value));
            }
        }
        best.map(|(_, value)| value)
    }

    /// Adds peers to prefixes and removes them again, all among few of both.
    fn listings() -> impl Strategy<Value = Vec<(bool, IpNet, PeerIndex)>> {
        let prefix = (0..4_u8, 30..=32_u8).prop_map(|(last, len)| {
            IpNet::V4(Ipv4Net::new([10, 0, 0, last].into(), len).expect("a prefix"))
        });
        let listing = (any::<bool>(), prefix, (0..4_usize).prop_map(PeerIndex));

        proptest::collection::vec(listing, 0..60)
    }

    proptest! {
        #[test]
        fn listed_one_after_the_other_peers_hold_what_they_hold_when_listed_anew(
            listings in listings()
        ) {
            let (mut routes, mut listed) = (PeerRoutes::default(), BTreeSet::new());
            for (is_new, prefix, peer) in listings {
                if is_new {
                    routes.insert(prefix, peer);
                    listed.insert((peer, prefix.trunc()));
                } else {
                    routes.remove(prefix, peer);
                    listed.remove(&(peer, prefix.trunc()));
                }
                let mut anew = PeerRoutes::default();
                for (peer, prefix) in &listed {
                    anew.insert(*prefix, *peer);
                }

                for last in 0..8 {
                    let address = Ipv4Addr::new(10, 0, 0, last).into();
                    prop_assert_eq!(routes.lookup(address), anew.lookup(address));
                }
                prop_assert_eq!(&routes.others, &anew.others);
            }
        }

        #[test]
        fn it_agrees_with_the_slow_model(rows in nets(), v4 in any::<u32>(), v6 in any::<u128>()) {
            let mut table = PrefixTable::default();
            for (prefix, value) in &rows {
                table.insert(*prefix, *value);
            }

            let v4 = IpAddr::V4((v4 & 0x0303_0003).into());
            let v6 = IpAddr::V6((v6 & (0x3 << 120 | 0x3)).into());
            prop_assert_eq!(table.lookup(v4), slow_lookup(&rows, v4));
            prop_assert_eq!(table.lookup(v6), slow_lookup(&rows, v6));
            for (prefix, _) in &rows {
                prop_assert_eq!(table.lookup(prefix.network()), slow_lookup(&rows, prefix.network()));
            }
        }
    }
}
