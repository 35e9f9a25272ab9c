//! Address management: a network's prefix is divided into blocks, and a node's blocks into
//! addresses.
//!
//! Pure arithmetic over what is taken. Keeping track of that is up to the callers: control for
//! blocks, the agent's journal for addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::network::{Member, Network, block_len};

/// Why no address or block can be assigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Every block of the prefix is held by a node or contains a fixed address.
    #[error("no free block is left in {0}")]
    Blocks(Ipv4Net),
    /// Every address of the node's blocks is in use or was until recently.
    #[error("no free address is left in this node's blocks")]
    Addresses,
}

/// Picks a free block of `prefix`, from the top down, so that the low addresses, which people
/// choose by hand, stay free longest.
///
/// # Errors
///
/// [`Exhausted::Blocks`] when every block overlaps one in `held` or contains one of the `fixed`
/// addresses.
pub fn free_block(
    prefix: Ipv4Net,
    held: &[Ipv4Net],
    fixed: &BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Net, Exhausted> {
    let len = block_len(prefix);
    let step = 1u32 << (32 - len);
    let count = 1u32 << (len - prefix.prefix_len());
    let taken = |block: &Ipv4Net| {
        held.iter().any(|h| h.contains(block) || block.contains(h))
            || fixed.range(block.network()..=block.broadcast()).next().is_some()
    };

    (0..count)
        .rev()
        .filter_map(|i| {
            let network = prefix.network().to_bits() + i * step;
            Ipv4Net::new(Ipv4Addr::from_bits(network), len).ok()
        })
        .find(|block| !taken(block))
        .ok_or(Exhausted::Blocks(prefix))
}

/// Returns whether an address ends in .0 or .255, which people and some programs mistake for a
/// network or broadcast address.
fn looks_special(address: Ipv4Addr) -> bool {
    matches!(address.octets()[3], 0 | 255)
}

/// The addresses that one node may assign in one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    blocks: Vec<Ipv4Net>,
    reserved: BTreeSet<Ipv4Addr>,
}

impl Pool {
    /// Makes the pool of a member: its blocks without the addresses of the network and the node,
    /// and without those that end in .0 or .255.
    pub fn new(network: &Network, member: &Member) -> Self {
        let own = member.node_address(network);
        let ends = [network.prefix.network(), network.gateway(), network.prefix.broadcast()];
        let asked_for = network.settings.reserved.values().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });

        Self {
            blocks: member.blocks.iter().map(|block| block.prefix).collect(),
            reserved: ends.into_iter().chain(own).chain(asked_for).collect(),
        }
    }

    /// Returns whether an address belongs to the pool, in use or not.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.blocks.iter().any(|block| block.contains(&address)) && self.may_give(address)
    }

    /// Counts the addresses of the pool, in use or not.
    pub fn capacity(&self) -> usize {
        let addresses =
            self.blocks.iter().flat_map(|b| b.network().to_bits()..=b.broadcast().to_bits());

        addresses.filter(|&bits| self.may_give(Ipv4Addr::from_bits(bits))).count()
    }

    fn may_give(&self, address: Ipv4Addr) -> bool {
        !self.reserved.contains(&address) && !looks_special(address)
    }

    /// Picks the next free address after `last`, wrapping around, so that a released address is
    /// reused as late as possible.
    ///
    /// # Errors
    ///
    /// [`Exhausted::Addresses`] when all are in `in_use`.
    pub fn allocate(
        &self,
        in_use: &BTreeSet<Ipv4Addr>,
        last: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, Exhausted> {
        let free = |address: &Ipv4Addr| !in_use.contains(address) && self.may_give(*address);
        let start = last
            .and_then(|last| self.blocks.iter().position(|block| block.contains(&last)))
            .unwrap_or(0);
        let addresses = |index: usize| {
            let block = self.blocks.get(index % self.blocks.len().max(1)).copied();
            block
                .into_iter()
                .flat_map(|b| b.network().to_bits()..=b.broadcast().to_bits())
                .map(Ipv4Addr::from_bits)
        };
        let after = addresses(start).filter(|a| last.is_none_or(|last| *a > last));
        let others = (start + 1..start + self.blocks.len()).flat_map(addresses);
        let before = addresses(start).filter(|a| last.is_some_and(|last| *a <= last));

        after.chain(others).chain(before).find(free).ok_or(Exhausted::Addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::id::{NetworkId, NodeId};
    use crate::network::{Block, NetworkMode, NetworkSettings};

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    fn pool(prefix: &str, blocks: &[&str]) -> Pool {
        let network = Network {
            id: NetworkId::from_random(1),
            name: "n".parse().expect("a name"),
            prefix: net(prefix),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
            creator: None,
        };
        let blocks = blocks.iter().map(|b| Block { prefix: net(b), epoch: 1 }).collect();
        let member = Member {
            network: network.id,
            node: NodeId::from_random(1),
            lane_keys: Vec::new(),
            blocks,
        };

        Pool::new(&network, &member)
    }

    #[test]
    fn blocks_come_from_the_top_and_avoid_what_is_held_or_fixed() {
        let fixed = BTreeSet::from([Ipv4Addr::new(10, 0, 254, 9)]);

        assert_eq!(free_block(net("10.0.0.0/16"), &[], &fixed), Ok(net("10.0.255.0/24")));
        assert_eq!(
            free_block(net("10.0.0.0/16"), &[net("10.0.255.0/24")], &fixed),
            Ok(net("10.0.253.0/24"))
        );
    }

    #[test]
    fn a_prefix_without_a_free_block_says_so() {
        let held = [net("10.0.0.0/28")];

        assert_eq!(
            free_block(net("10.0.0.0/29"), &held, &BTreeSet::new()),
            Err(Exhausted::Blocks(net("10.0.0.0/29")))
        );
    }

    #[test]
    fn network_gateway_node_and_broadcast_addresses_are_never_given_out() {
        let pool = pool("10.0.0.0/29", &["10.0.0.0/30", "10.0.0.4/30"]);
        let mut in_use = BTreeSet::new();

        while let Ok(address) = pool.allocate(&in_use, None) {
            in_use.insert(address);
        }

        let given: Vec<_> = in_use.iter().map(|a| a.octets()[3]).collect();
        assert_eq!(given, [3, 4, 5, 6]);
        assert_eq!(pool.capacity(), 4);
    }

    #[test]
    fn addresses_that_look_like_a_network_or_broadcast_are_never_given_out() {
        let pool = pool("10.0.0.0/16", &["10.0.1.0/24"]);

        assert_eq!(pool.allocate(&BTreeSet::new(), None), Ok(Ipv4Addr::new(10, 0, 1, 2)));
        assert!(
            !pool.contains(Ipv4Addr::new(10, 0, 1, 0))
                && !pool.contains(Ipv4Addr::new(10, 0, 1, 255))
        );
        assert_eq!(pool.capacity(), 253);
    }

    #[test]
    fn an_address_given_back_rests_until_the_others_were_used() {
        let pool = pool("10.0.0.0/24", &["10.0.0.16/30"]);
        let in_use = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 18)]);

        let next = pool.allocate(&in_use, Some(Ipv4Addr::new(10, 0, 0, 18)));

        assert_eq!(next, Ok(Ipv4Addr::new(10, 0, 0, 19)));
    }

    proptest! {
        #[test]
        fn an_allocated_address_is_free_and_of_the_pool(
            in_use in prop::collection::btree_set(0u32..64, 0..64),
            last in prop::option::of(0u32..64),
        ) {
            let address = |n| Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 1, 0).to_bits() + n);
            let pool = pool("10.0.0.0/16", &["10.0.1.0/27", "10.0.1.32/27"]);
            let in_use: BTreeSet<_> = in_use.into_iter().map(address).collect();

            match pool.allocate(&in_use, last.map(address)) {
                Ok(given) => prop_assert!(pool.contains(given) && !in_use.contains(&given)),
                Err(_) => prop_assert!((0..64).map(address).all(|a| in_use.contains(&a) || !pool.contains(a))),
            }
        }
    }
}
