//! Entry points for fuzzers: one function per kind of input that control reads. None of them may
//! ever panic.
//!
//! Their corpora are in `fuzz/corpus`; the tests of this module replay every input there.

use overlay_core::{NodeId, Revision};
use overlay_proto::{convert, v1};
use prost::Message;

use crate::pki::NodeRequest;
use crate::registry::testing::{ask, check_invariants, join_with, settings, with_tokens};
use crate::registry::{Actor, ClusterState, ExaminedPolicy, Operation, PolicySubjects, Record};
use crate::service::requests;
use crate::token::FreshToken;

/// Nodes of the cluster; the first is an admin.
const NODES: u8 = 4;
/// The most calls of one input; more would find nothing new.
const MOST_CALLS: usize = 64;

fn node(number: u8) -> NodeId {
    NodeId::from_random(u64::from(number % NODES) + 1)
}

fn cluster() -> ClusterState {
    let mut state = with_tokens();
    for number in 0..NODES {
        let join = join_with(
            if number == 0 { 1 } else { 2 + number % 2 },
            number,
            &format!("node{number}"),
        );
        ask(&mut state, Actor::Operator, join).expect("there is room");
    }

    state
}

/// Makes nodes send any request that the wire can carry. A call consists of the number of the node,
/// the number of the call, the length of its message in two bytes, and the message.
///
/// # Panics
///
/// If an invariant of the cluster is broken, or a refused call changed something.
pub fn requests(mut bytes: &[u8]) {
    let mut state = cluster();
    for _ in 0..MOST_CALLS {
        let Some(([actor, kind, high, low], rest)) = bytes.split_first_chunk() else { break };
        let (message, rest) =
            rest.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(rest.len()));
        bytes = rest;
        let Some(command) = command(*kind, message) else { continue };
        let before = state.clone();
        if let Err(refusal) = ask(&mut state, Actor::Node(node(*actor)), command) {
            assert!(!refusal.message.is_empty(), "a refusal says why");
            assert_eq!(state, before);
        }
    }
    check_invariants(&state);
    let loaded = ClusterState::from_records(settings(), state.view().revision, state.records());
    assert_eq!(loaded, state, "what is written is what is read");
}

/// Returns `None` for bytes that are not such a message, or if the message is refused when it is
/// read.
fn command(kind: u8, message: &[u8]) -> Option<Operation> {
    fn decoded<M: Message + Default>(message: &[u8]) -> Option<M> {
        M::decode(message).ok()
    }

    match kind % 15 {
        0 => requests::announce(decoded(message)?).ok(),
        1 => requests::create_network(decoded(message)?).ok(),
        2 => requests::enter_network(&decoded(message)?).ok(),
        3 => requests::put_endpoints(decoded(message)?).ok(),
        4 => requests::remove_endpoints(&decoded(message)?).ok(),
        5 => requests::create_token(decoded(message)?, &FreshToken::draw().ok()?).ok(),
        6 => Some(Operation::RevokeToken(decoded::<v1::RevokeTokenRequest>(message)?.id)),
        7 => Some(Operation::RemoveNode(decoded::<v1::RemoveNodeRequest>(message)?.node)),
        8 => {
            let request: v1::RemoveNetworkRequest = decoded(message)?;
            Some(Operation::RemoveNetwork { network: request.network, force: request.force })
        }
        9 => decoded::<v1::ExitNetworkRequest>(message)?
            .network
            .parse()
            .ok()
            .map(Operation::ExitNetwork),
        10 => requests::set_network(decoded(message)?).ok(),
        11 => {
            let mut request: v1::ApplyPolicyRequest = decoded(message)?;
            let document = convert::policy_text(std::mem::take(&mut request.document)).ok()?;
            let examined = ExaminedPolicy::new(document, &PolicySubjects::default()).ok()?;
            requests::apply_policy(&request, examined).ok()
        }
        12 => requests::link_networks(decoded(message)?).ok(),
        13 => {
            let v1::UnlinkNetworksRequest { one, other } = decoded(message)?;
            Some(Operation::UnlinkNetworks { one, other })
        }
        _ => {
            let request: v1::RollbackPolicyRequest = decoded(message)?;
            Some(Operation::RollBackPolicy { to: request.to, expected: request.expected })
        }
    }
}

/// Reads a certificate request.
///
/// # Panics
///
/// If reading a request twice gives different results.
pub fn certificate_requests(bytes: &[u8]) {
    let digest = |bytes: &[u8]| NodeRequest::parse(bytes).map(|request| request.digest());
    assert_eq!(digest(bytes), digest(bytes));
}

/// Reads stored rows, and rebuilds a cluster from them as control does when it starts.
///
/// # Panics
///
/// If writing and reading the state again changes it.
pub fn control_state(bytes: &[u8]) {
    let Ok(records) = serde_json::from_slice::<Vec<Record>>(bytes) else { return };
    let state = ClusterState::from_records(settings(), Revision::default(), records);
    // Inconsistent rows are refused when control starts.
    if state.contradiction().is_none() {
        let again = ClusterState::from_records(settings(), Revision::default(), state.records());
        assert_eq!(again, state);
    }
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus;

    #[test]
    fn requests() {
        corpus::replay("requests", super::requests);
    }

    #[test]
    fn certificate_requests() {
        corpus::replay("certificate_requests", super::certificate_requests);
    }

    #[test]
    fn control_state() {
        corpus::replay("control_state", super::control_state);
    }
}
