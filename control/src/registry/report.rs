//! How control's history begins anew, and how nodes tell then what they hold.
//!
//! A node's own word about itself is newer than the backup, so it replaces what the backup says of
//! the node, before the node is told anything; what it claims is its own only where nobody else has
//! it, and is kept from all others where it cannot be its own. Nothing that the backup has as free
//! is given away before every node has spoken. So no address is given twice, whoever comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use overlay_core::instant::rfc3339;
use overlay_core::{
    Change, Endpoint, EndpointId, Lineage, Member, Network, NetworkId, NodeId, Revision, RowKey,
};

use overlay_daemon::Condition;

use super::error::RegistryError;
use super::history::HistoryKey;
use super::record::{Revoked, Token};
use super::state::{Fence, FenceCause, Held};
use super::{Actor, ClusterState, Decision, Record, Reply, limits, members, names, nodes};

/// How long nodes are waited for by default, in seconds: a day, so that hosts that are switched off
/// for the night come back before.
pub(crate) const REPORT_WAIT: u64 = 86_400;
/// Nodes that are named of those that have still to report.
const SHOWN: usize = 8;

/// See [`super::Operation::BeginAnew`].
#[derive(Debug, Clone)]
pub(crate) struct BeginAnew {
    /// The history that begins, random.
    pub(crate) history: HistoryKey,
    /// Why.
    pub(crate) cause: FenceCause,
    /// How long nodes are waited for, in seconds.
    pub(crate) wait: u64,
}

/// See [`super::Operation::Report`].
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeReport {
    /// The history that the node's view belongs to.
    pub(crate) lineage: Option<Lineage>,
    /// The revision of its view.
    pub(crate) revision: Revision,
    /// Its memberships, with keys and blocks.
    pub(crate) members: Vec<Member>,
    /// Its endpoints, with their addresses.
    pub(crate) endpoints: BTreeMap<(NetworkId, EndpointId), Vec<IpAddr>>,
}

/// Begins the history anew: no token of the past admits anybody, and every node must report before
/// anything is given away.
pub(super) fn begin(state: &ClusterState, actor: Actor, begin: &BeginAnew, now: u64) -> Decision {
    if actor != Actor::Operator {
        return Err(RegistryError::OnlyOperator);
    }
    let fence = Fence {
        cause: begin.cause,
        before: state.history().map_or(begin.history.lineage, |history| history.lineage),
        revision: state.view().revision,
        since: now,
        until: now.saturating_add(begin.wait),
    };
    let tokens = state.tokens().values().filter(|token| !token.fenced);
    let tokens = tokens.map(|token| Record::Token(Token { fenced: true, ..token.clone() }));
    let awaited = state.view().nodes.keys().copied().map(Record::Awaited);
    let records = [Record::History(begin.history), Record::Fence(fence)];

    Ok((Reply::Done, records.into_iter().chain(tokens).chain(awaited).collect()))
}

/// Takes a node's report, once; one that nobody waits for changes nothing.
pub(super) fn report(state: &ClusterState, node: NodeId, report: &NodeReport) -> Decision {
    let Some(fence) = state.fence().filter(|_| state.awaited().contains(&node)) else {
        return Ok((Reply::Done, Vec::new()));
    };
    let mut records = vec![Record::RemoveAwaited(node)];
    if state.awaited().len() == 1 {
        records.push(Record::RemoveFence);
    }
    records.extend(state.held_by(node).map(Record::Release));
    // The backup knows all of such a view: what happened since to its rows, the node has not heard
    // of either.
    let is_older = report.lineage == Some(fence.before) && report.revision <= fence.revision;
    let mut held = BTreeSet::new();
    let members: Vec<Member> = if is_older {
        state.memberships(node).filter_map(|id| state.view().member(id, node).cloned()).collect()
    } else {
        let rows = report.members.iter().filter_map(|row| taken_back(state, row, &mut held));
        let rows: Vec<_> = rows.collect();
        records.extend(given_up(state, node, &rows, report));
        let is_new = |row: &&Member| state.view().member(row.network, node) != Some(row);
        records.extend(rows.iter().filter(is_new).cloned().map(Change::Member).map(Record::Row));
        rows
    };
    for ((network, _), addresses) in &report.endpoints {
        let is_covered = |address| members.iter().any(|row| covers(row, *network, address));
        let kept = addresses.iter().filter(|address| !is_covered(**address));
        held.extend(kept.filter_map(|address| kept_address(state, node, *network, *address)));
    }
    records.extend(held.into_iter().take(limits::MAX_HELD).map(Record::Held));

    Ok((Reply::Done, records))
}

/// Takes over which nodes the old state knew to have been removed: those that the backup still has
/// are removed again, and none of them comes back.
pub(super) fn merge_removed(state: &ClusterState, actor: Actor, removed: Vec<Revoked>) -> Decision {
    if actor != Actor::Operator {
        return Err(RegistryError::OnlyOperator);
    }
    let unknown = removed.into_iter().filter(|gone| !state.revoked().contains_key(&gone.node));

    Ok((Reply::Done, nodes::removal(state, unknown.collect())))
}

/// Takes away what the backup says of a node and the node does not: memberships, and endpoints that
/// do not run.
fn given_up(
    state: &ClusterState,
    node: NodeId,
    rows: &[Member],
    report: &NodeReport,
) -> Vec<Record> {
    let stays: BTreeSet<_> = rows.iter().map(|row| row.network).collect();
    let is_gone = |key: &(NetworkId, EndpointId)| {
        let is_stopped = state.view().endpoints.get(key).is_some_and(Endpoint::is_stopped);

        !stays.contains(&key.0) || (!is_stopped && !report.endpoints.contains_key(key))
    };
    let endpoints = state.endpoints_of(node, None).filter(is_gone);
    let mut records = names::removals(state, endpoints.map(|key| (key, None)).collect());
    let left = state.memberships(node).filter(|network| !stays.contains(network));
    records.extend(left.map(|id| Record::Row(Change::Removed(RowKey::Member(id, node)))));

    records
}

/// Returns a membership as the node may have it again, with those of its blocks that nobody else
/// has; the others are held for it. The first block has the node's own address, so without that one
/// there is none.
fn taken_back(state: &ClusterState, row: &Member, held: &mut BTreeSet<Held>) -> Option<Member> {
    let (id, node) = (row.network, row.node);
    let network = state.view().networks.get(&id).filter(|_| state.may_enter(node, id));
    let network = network.filter(|network| {
        members::check_keys(state, node, network, &row.lane_keys).is_ok()
            && row
                .blocks
                .first()
                .is_some_and(|block| is_free_for(state, node, network, block.prefix))
    });
    let mut seen = BTreeSet::new();
    let mut blocks = Vec::new();
    for block in row.blocks.iter().take(limits::MAX_NODE_BLOCKS) {
        if !seen.insert(block.prefix) {
            continue;
        }
        if network.is_some_and(|network| is_free_for(state, node, network, block.prefix)) {
            blocks.push(*block);
        } else {
            held.insert(Held { network: id, node, prefix: IpNet::V4(block.prefix) });
        }
    }

    network.map(|_| Member { network: id, node, lane_keys: row.lane_keys.clone(), blocks })
}

fn covers(row: &Member, network: NetworkId, address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };

    row.network == network && row.blocks.iter().any(|block| block.prefix.contains(&address))
}

/// Returns whether a node may have a block: one of the network's, that neither another node nor an
/// endpoint of one has.
fn is_free_for(state: &ClusterState, node: NodeId, network: &Network, block: Ipv4Net) -> bool {
    let fits = block.prefix_len() == network.block_len()
        && block == block.trunc()
        && network.range().contains(&block);
    let own = state.view().member(network.id, node);
    let is_own = own.is_some_and(|own| own.blocks.iter().any(|held| held.prefix == block));

    fits && (is_own || !state.is_held(network.id, block))
        && !state.is_held_for_another(network.id, node, block)
        && !state.others_live_in(network.id, node, block)
}

/// Returns what keeps an address of a running endpoint from all others, unless another node has it.
fn kept_address(
    state: &ClusterState,
    node: NodeId,
    network: NetworkId,
    address: IpAddr,
) -> Option<Held> {
    let holder = state.holder(network, address);
    let is_of_another = holder.is_some_and(|id| {
        state.view().endpoints.get(&(network, id)).is_some_and(|row| row.node != node)
    });

    (!is_of_another && !state.is_kept_for_another(network, node, address)).then(|| Held {
        network,
        node,
        prefix: IpNet::from(address),
    })
}

/// Says that nodes have still to report, since when, and until when they are waited for.
pub(crate) fn fence_condition(state: &ClusterState) -> Option<(Condition, u64)> {
    let fence = state.fence()?;
    let cause = match fence.cause {
        FenceCause::Restored => "control was restored from a backup",
        FenceCause::Copied => "control's state is an older copy that somebody put back",
    };
    let text = format!(
        "{cause}: until every node has told what it holds, no new block is given, and no address \
         outside a host's own; it waits for {}",
        fence_text(state)
    );

    Some((Condition { text, since: fence.since }, fence.until))
}

/// Says whom control waits for, and until when.
pub(super) fn fence_text(state: &ClusterState) -> String {
    let Some(fence) = state.fence() else { return String::new() };
    let names = state.awaited().iter().filter_map(|id| state.node_name(*id));
    let shown: Vec<_> = names.take(SHOWN).map(|name| name.to_string()).collect();
    let more = match state.awaited().len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };

    format!("{}{more}, or until {}", shown.join(", "), rfc3339(fence.until))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
