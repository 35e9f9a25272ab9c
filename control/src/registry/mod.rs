//! Every decision of control, as a pure function of its state, the command and the time.
//!
//! No I/O, no clock, no randomness: random identities come with the command.

#[cfg(test)]
mod admission_tests;
#[cfg(test)]
mod bounds_tests;
mod check;
mod endpoints;
mod error;
mod history;
mod joining;
pub(crate) mod limits;
mod links;
mod members;
mod names;
mod networks;
mod nodes;
mod operation;
mod policies;
mod policy_parts;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
pub(crate) mod random_tests;
pub(crate) mod record;
mod report;
pub(crate) mod state;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;

use overlay_core::NodeId;

use check::{
    check_labels, check_share, check_sizes, creator, refuse_worker, require_creator, share,
};
pub(crate) use check::{known_network, may_know, require_admin};
pub(crate) use endpoints::check_count;
pub(crate) use error::PolicyError;
pub(crate) use error::RegistryError;
use error::{EndpointError, EnrollmentError, MemberError, NetworkError, TokenError};
pub(crate) use history::HistoryKey;
pub(crate) use joining::secret_is_known;
pub(crate) use operation::{
    Actor, Announce, ApplyPolicy, CreateNetwork, CreateToken, Decision, Join, Operation, Reply,
};
pub(crate) use policies::{ExaminedPolicy, PolicySubjects, canonical};
#[cfg(test)]
pub(crate) use record::Revoked;
pub(crate) use record::{AppliedPolicy, ChangedKey, Digest, Record, Settings, Token};
pub(crate) use report::{BeginAnew, NodeReport, REPORT_WAIT, fence_condition};
pub(crate) use state::{ClusterState, Contradiction, FenceCause};

/// Decides a command at `now`, in seconds since 1970.
///
/// # Errors
///
/// [`RegistryError`] if the command is not allowed or not valid; nothing changes then.
pub(crate) fn apply(state: &ClusterState, actor: Actor, command: Operation, now: u64) -> Decision {
    // A host that joins is not a node yet.
    if let (Actor::Node(node), false) = (actor, matches!(command, Operation::Join(_))) {
        state.node(node)?;
    }

    // What a node holds already is reported to a control that has lost it.
    let is_report = matches!(command, Operation::Report(_));
    let (reply, mut records) = decide(state, actor, command, now)?;
    links::follow(state, &mut records);
    check_sizes(&records)?;
    if !is_report {
        check_share(state, actor, &records)?;
    }

    Ok((reply, records))
}

fn decide(state: &ClusterState, actor: Actor, command: Operation, now: u64) -> Decision {
    match command {
        Operation::Join(join) => joining::join(state, join, now),
        Operation::CreateToken(create) => tokens::create(state, actor, create, now),
        Operation::RevokeToken(id) => tokens::revoke(state, actor, &id),
        Operation::Announce(announce) => nodes::announce(state, node(actor)?, announce),
        Operation::Leave => nodes::leave(state, node(actor)?, now),
        Operation::RemoveNode(name) => nodes::remove(state, actor, &name, now),
        Operation::Revoke(revocation) => nodes::revoke(state, revocation),
        Operation::CreateNetwork(create) => networks::create(state, actor, create),
        Operation::SetNetwork { network, nodes, lease } => {
            networks::set(state, actor, &network, nodes, lease)
        }
        Operation::LinkNetworks { one, other, access } => {
            links::link(state, actor, &one, &other, access)
        }
        Operation::UnlinkNetworks { one, other } => links::unlink(state, actor, &one, &other),
        Operation::RemoveNetwork { network, force } => {
            networks::remove(state, actor, &network, force)
        }
        Operation::EnterNetwork { network, lane_keys, blocks } => {
            members::enter(state, node(actor)?, network, lane_keys, blocks, now)
        }
        Operation::ExitNetwork(network) => members::exit(state, node(actor)?, network),
        Operation::PutEndpoints(rows) => endpoints::put(state, node(actor)?, rows, now),
        Operation::RemoveEndpoints(keys) => endpoints::remove(state, node(actor)?, &keys),
        Operation::ApplyPolicy(apply) => policies::apply(state, actor, apply, now),
        Operation::RollBackPolicy { to, expected } => {
            policies::roll_back(state, actor, to, expected, now)
        }
        Operation::BeginAnew(begin) => report::begin(state, actor, &begin, now),
        Operation::Report(report) => report::report(state, node(actor)?, &report),
        Operation::MergeRemoved(removed) => report::merge_removed(state, actor, removed),
    }
}

fn node(actor: Actor) -> Result<NodeId, RegistryError> {
    match actor {
        Actor::Node(node) => Ok(node),
        Actor::Operator => Err(RegistryError::OnlyNodes),
    }
}
