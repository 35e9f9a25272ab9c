//! How a host becomes a node.

use overlay_core::{Change, Node, NodeId};

use super::record::{Enrollment, Revoked};
use super::{
    ClusterState, Decision, Digest, EnrollmentError, Join, Record, RegistryError, Reply, Token,
    TokenError, limits,
};

/// Admits a host; a node that joined with the same key before gets the identity that it has.
pub(super) fn join(state: &ClusterState, join: Join, now: u64) -> Decision {
    let token = admits(state, &join, now)?;
    if let Some(node) = state.node_of_key(&join.key) {
        return rejoin(node, &join);
    }
    if let Some(gone) = state.revoked_with_key(&join.key).and_then(Revoked::revocation) {
        return Err(EnrollmentError::EvictedKey(Box::new(gone)).into());
    }
    if let Some(other) = state.node_named(&join.name) {
        return Err(EnrollmentError::NameTaken(other.name.clone()).into());
    }
    if state.view().nodes.len() >= limits::MAX_NODES {
        return Err(EnrollmentError::TooMany.into());
    }

    let node = Node {
        id: free_id(state, join.candidate),
        name: join.name,
        role: token.role,
        labels: token.labels.clone(),
        underlay: Vec::new(),
        lane_ports: Vec::new(),
    };
    let enrollment =
        Enrollment { node: node.id, key: join.key, token: join.token, version: String::new() };
    let used = Token { used: token.used + 1, ..token.clone() };
    let records = vec![
        Record::Token(used),
        Record::Enrollment(enrollment),
        Record::Row(Change::Node(node.clone())),
    ];

    Ok((Reply::Joined(node), records))
}

/// Answers a host whose key joined before: whoever holds the key is that node, and the token is not
/// used up again.
fn rejoin(node: &Node, join: &Join) -> Decision {
    if node.name == join.name {
        return Ok((Reply::Joined(node.clone()), Vec::new()));
    }

    Err(EnrollmentError::JoinedAs { name: node.name.clone(), asked: join.name.clone() }.into())
}

/// Refuses a host whose token is not known, with the least possible work.
///
/// # Errors
///
/// [`TokenError::Refused`], whatever is wrong with the token.
pub(crate) fn secret_is_known(
    state: &ClusterState,
    id: &str,
    secret: &Digest,
    now: u64,
) -> Result<(), RegistryError> {
    known(state, id, secret, now).map(drop).ok_or(TokenError::Refused.into())
}

fn known<'a>(state: &'a ClusterState, id: &str, secret: &Digest, now: u64) -> Option<&'a Token> {
    // An unknown id must take as long as a wrong secret, so something is compared in either case.
    let token = state.tokens().get(id);
    let matches = secret.matches(&token.map_or(Digest([0; 32]), |token| token.digest));

    token.filter(|token| matches && now < token.expires && !token.fenced)
}

/// Finds the token that admits a host with this key; a token that is used up still admits the hosts
/// it admitted before.
fn admits<'a>(state: &'a ClusterState, join: &Join, now: u64) -> Result<&'a Token, TokenError> {
    let again = || {
        let enrolled =
            state.node_of_key(&join.key).and_then(|node| state.enrollments().get(&node.id));
        enrolled.is_some_and(|enrolled| enrolled.token == join.token)
    };

    known(state, &join.token, &join.secret, now)
        .filter(|token| token.used < token.uses || again())
        .ok_or(TokenError::Refused)
}

/// Returns the first id at or after the random one that no node has or ever had.
fn free_id(state: &ClusterState, candidate: NodeId) -> NodeId {
    let mut id = candidate;
    while state.view().nodes.contains_key(&id) || state.revoked().contains_key(&id) {
        id = NodeId::from_random(id.as_u64() + 1);
    }

    id
}
