//! How nodes enter and leave networks, and how they get the blocks that they allocate addresses
//! from.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use overlay_core::{
    Block, Change, Endpoint, Member, Network, NetworkId, NodeId, PublicKey, RowKey,
};

use super::report::fence_text;
use super::{ClusterState, Decision, MemberError, NetworkError, Record, Reply, limits, names};

/// Makes a node a member or changes its keys, and grants blocks until it has enough.
pub(super) fn enter(
    state: &ClusterState,
    node: NodeId,
    network: NetworkId,
    lane_keys: Vec<PublicKey>,
    blocks: usize,
    now: u64,
) -> Decision {
    let network = network_of(state, node, network)?;
    if blocks > limits::MAX_NODE_BLOCKS {
        return Err(MemberError::TooManyBlocks(blocks).into());
    }
    check_keys(state, node, network, &lane_keys)?;
    let old = state.view().member(network.id, node);
    let mut held = old.map(|member| member.blocks.clone()).unwrap_or_default();
    let missing = blocks.max(1).saturating_sub(held.len());
    check_use(state, network, node, &held, missing)?;
    if missing > 0 && state.is_fenced(now) {
        return Err(MemberError::Fenced(fence_text(state)).into());
    }
    let epoch = state.view().revision.next().0;
    held.extend(
        free_blocks(state, network, node, missing)?
            .into_iter()
            .map(|prefix| Block { prefix, epoch }),
    );

    let member = Member { network: network.id, node, lane_keys, blocks: held };
    let records = if old == Some(&member) {
        Vec::new()
    } else {
        vec![Record::Row(Change::Member(member.clone()))]
    };

    Ok((Reply::Member(member), records))
}

/// Grants one block more when half of the addresses of those before are in use, so that nobody can
/// hold what it does not use.
fn check_use(
    state: &ClusterState,
    network: &Network,
    node: NodeId,
    held: &[Block],
    missing: usize,
) -> Result<(), MemberError> {
    if missing == 0 {
        return Ok(());
    }
    let own = |id| state.view().endpoints.get(&(network.id, id)).is_some_and(|e| e.node == node);
    let all = held.iter().flat_map(|block| state.addresses(network.id, block.prefix));
    let used = all.filter(|(_, endpoint)| own(*endpoint)).count();
    let addresses = held.len() << (32 - network.block_len());
    if missing == 1 && used * 2 >= addresses {
        return Ok(());
    }

    Err(MemberError::UnusedBlocks {
        network: network.name.clone(),
        held: held.len(),
        addresses,
        used,
    })
}

/// A key identifies one node on one lane of one network; a second holder could read the first one's
/// traffic.
pub(super) fn check_keys(
    state: &ClusterState,
    node: NodeId,
    network: &Network,
    lane_keys: &[PublicKey],
) -> Result<(), MemberError> {
    let mut seen = std::collections::BTreeSet::new();
    let others = state.view().members_of(network.id).filter(|member| member.node != node);
    let mut others = others.flat_map(|member| &member.lane_keys);
    let twice =
        lane_keys.iter().any(|key| !seen.insert(*key)) || others.any(|key| seen.contains(key));

    if twice { Err(MemberError::KeyUsedTwice) } else { Ok(()) }
}

/// Finds a network that a node may enter. Of any other it is not told whether it exists.
fn network_of(state: &ClusterState, node: NodeId, id: NetworkId) -> Result<&Network, NetworkError> {
    let network = state.view().networks.get(&id);

    network.filter(|_| state.may_enter(node, id)).ok_or(NetworkError::Unknown(id))
}

/// Picks the blocks that [`overlay_core::ipam::free_block`] would pick, from the top down, in a
/// single pass.
fn free_blocks(
    state: &ClusterState,
    network: &Network,
    node: NodeId,
    count: usize,
) -> Result<Vec<Ipv4Net>, MemberError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let prefix = network.range();
    let len = network.block_len();
    let step = 1u32 << (32 - len);
    let free = |block: &Ipv4Net| {
        !state.is_held(network.id, *block)
            && state.addresses(network.id, *block).next().is_none()
            && !state.is_held_for_another(network.id, node, *block)
            && !state.holds_address_in(network.id, node, *block)
    };
    let all = (0..1u32 << (len - prefix.prefix_len())).rev();
    let block =
        |i| Ipv4Net::new(Ipv4Addr::from_bits(prefix.network().to_bits() + i * step), len).ok();
    let blocks: Vec<_> = all.filter_map(block).filter(free).take(count).collect();

    if blocks.len() == count {
        Ok(blocks)
    } else {
        Err(MemberError::NoBlockLeft {
            network: network.name.clone(),
            range: prefix,
            blocks: 1 << (len - prefix.prefix_len()),
            block_len: len,
        })
    }
}

/// Ends a membership; refused while the node has endpoints there. Those that are stopped end with
/// it.
pub(super) fn exit(state: &ClusterState, node: NodeId, network: NetworkId) -> Decision {
    let keys = state.endpoints_of(node, Some(network));
    let (stopped, live): (Vec<_>, Vec<_>) =
        keys.partition(|key| state.view().endpoints.get(key).is_some_and(Endpoint::is_stopped));
    let endpoints = live.len();
    if endpoints > 0 {
        return Err(MemberError::InUse { endpoints, network }.into());
    }
    // Leaving twice is not an error: the first answer may have been lost.
    let mut records = names::removals(state, stopped.into_iter().map(|key| (key, None)).collect());
    let held = state.held_by(node).filter(|held| held.network == network);
    records.extend(held.map(Record::Release));
    if state.view().member(network, node).is_some() {
        records.push(Record::Row(Change::Removed(RowKey::Member(network, node))));
    }

    Ok((Reply::Done, records))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_core::ipam;

    use super::super::tests::{Fixture, fixture};
    use super::*;

    #[test]
    fn blocks_are_those_that_core_would_pick() {
        let Fixture { mut state, network, nodes } = fixture("10.9.0.0/22");
        let prefix = "10.9.0.0/22".parse().expect("a prefix");
        let mut held = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            let keys = vec![[u8::try_from(i).expect("few nodes") + 1; 32].into()];
            let (outcome, records) =
                enter(&state, *node, network, keys, 1, 0).expect("there is room");
            state.commit(records);
            let Reply::Member(member) = outcome else { panic!("{outcome:?}") };
            for block in member.blocks {
                assert_eq!(ipam::free_block(prefix, &held, &BTreeSet::new()), Ok(block.prefix));
                held.push(block.prefix);
            }
        }
    }
}
