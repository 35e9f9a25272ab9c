//! Everything that control decides: a pure function of what it remembers, what is asked and the time.
//!
//! No I/O, no clock, no randomness: identities that somebody must draw come with the command.

mod endpoints;
mod joining;
pub(crate) mod limits;
mod members;
mod networks;
mod nodes;
pub(crate) mod record;
pub(crate) mod state;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use overlay_core::{
    Difference, Endpoint, EndpointId, HostPrefix, Member, Name, Network, NetworkId, NetworkMode, NetworkSettings, Node,
    NodeId, PublicKey, Role,
};
use overlay_proto::{Code, Refusal};

pub(crate) use joining::secret_is_known;
pub(crate) use record::{Digest, Record, Settings, Token, Touched};
pub(crate) use state::State;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    /// A person at control's own state directory.
    Operator,
    /// A node, by its certificate.
    Node(NodeId),
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// A host wants to become a node; the actor is not looked at.
    Join(Join),
    /// How a node is reached, and what it has in use.
    Announce(Announce),
    /// The caller takes itself out.
    Leave,
    /// An admin takes a node out, by name or id.
    RemoveNode(String),
    /// A network is made.
    CreateNetwork(CreateNetwork),
    /// A network is removed, by name or id.
    RemoveNetwork {
        /// Name or id.
        network: String,
        /// Also when endpoints are on it.
        force: bool,
    },
    /// The caller becomes a member, or changes its keys.
    EnterNetwork {
        /// Which.
        network: NetworkId,
        /// One a lane.
        lane_keys: Vec<PublicKey>,
        /// At least this many.
        blocks: usize,
    },
    /// The caller's membership ends.
    ExitNetwork(NetworkId),
    /// Endpoints of the caller, each whole.
    PutEndpoints(Vec<Endpoint>),
    /// Endpoints of the caller that are gone.
    RemoveEndpoints(Vec<(NetworkId, EndpointId)>),
    /// A token is made.
    CreateToken(CreateToken),
    /// A token is withdrawn.
    RevokeToken(String),
}

/// See [`Command::Join`].
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// The token's id.
    pub(crate) token: String,
    /// Of the token's secret.
    pub(crate) secret: Digest,
    /// Of the public key that the node will use.
    pub(crate) key: Digest,
    /// The node's name.
    pub(crate) name: Name,
    /// Random; the node's id unless it is taken.
    pub(crate) candidate: NodeId,
}

/// See [`Command::Announce`].
#[derive(Debug, Clone)]
pub(crate) struct Announce {
    /// Addresses, the likeliest first.
    pub(crate) underlay: Vec<IpAddr>,
    /// One a lane.
    pub(crate) lane_ports: Vec<u16>,
    /// In use on the host.
    pub(crate) prefixes: Vec<HostPrefix>,
    /// Networks that are not there as elsewhere.
    pub(crate) differences: Vec<Difference>,
    /// Of the agent.
    pub(crate) version: String,
}

/// See [`Command::CreateNetwork`].
#[derive(Debug, Clone)]
pub(crate) struct CreateNetwork {
    /// Its name.
    pub(crate) name: Name,
    /// Chosen from the pool when missing.
    pub(crate) prefix: Option<Ipv4Net>,
    /// No IPv6 when missing.
    pub(crate) prefix6: Option<Ipv6Net>,
    /// How packets are carried.
    pub(crate) mode: NetworkMode,
    /// Of the operator.
    pub(crate) labels: BTreeMap<String, String>,
    /// What else is asked for.
    pub(crate) settings: NetworkSettings,
    /// Random, or wanted by the caller; the network's id unless it is taken.
    pub(crate) candidate: NetworkId,
}

/// See [`Command::CreateToken`].
#[derive(Debug, Clone)]
pub(crate) struct CreateToken {
    /// Random.
    pub(crate) id: String,
    /// Of its secret.
    pub(crate) digest: Digest,
    /// Seconds; 0: an hour.
    pub(crate) ttl: u64,
    /// Nodes it admits; 0: one.
    pub(crate) uses: u32,
    /// What they may ask.
    pub(crate) role: Role,
    /// What they are labelled with.
    pub(crate) labels: BTreeMap<String, String>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is so.
    Done,
    /// The node is one.
    Joined(Node),
    /// The network is there.
    Network(Network),
    /// The membership is there.
    Member(Member),
    /// The token is there.
    Token(Token),
}

/// What a command came to, and the records that make it so; no record means that nothing changes.
pub(crate) type Verdict = Result<(Outcome, Vec<Record>), Refusal>;

/// Decides a command at `now`, in seconds since 1970.
///
/// # Errors
///
/// The refusal; nothing changes then.
pub(crate) fn apply(state: &State, actor: Actor, command: Command, now: u64) -> Verdict {
    // Who joins is no node yet.
    if let (Actor::Node(node), false) = (actor, matches!(command, Command::Join(_))) {
        state.node(node)?;
    }

    match command {
        Command::Join(join) => joining::join(state, join, now),
        Command::CreateToken(create) => tokens::create(state, actor, create, now),
        Command::RevokeToken(id) => tokens::revoke(state, actor, &id),
        Command::Announce(announce) => nodes::announce(state, node(actor)?, announce),
        Command::Leave => nodes::leave(state, node(actor)?, now),
        Command::RemoveNode(name) => nodes::remove(state, actor, &name, now),
        Command::CreateNetwork(create) => networks::create(state, actor, create),
        Command::RemoveNetwork { network, force } => networks::remove(state, actor, &network, force),
        Command::EnterNetwork { network, lane_keys, blocks } => {
            members::enter(state, node(actor)?, network, lane_keys, blocks)
        }
        Command::ExitNetwork(network) => members::exit(state, node(actor)?, network),
        Command::PutEndpoints(rows) => endpoints::put(state, node(actor)?, rows),
        Command::RemoveEndpoints(keys) => endpoints::remove(state, node(actor)?, &keys),
    }
}

fn node(actor: Actor) -> Result<NodeId, Refusal> {
    match actor {
        Actor::Node(node) => Ok(node),
        Actor::Operator => Err(refuse(Code::NotAllowed, "only a node may ask this")),
    }
}

/// Refuses unless the actor may change everything.
pub(crate) fn require_admin(state: &State, actor: Actor) -> Result<(), Refusal> {
    match actor {
        Actor::Operator => Ok(()),
        Actor::Node(id) => {
            let node = state.node(id)?;
            match node.role {
                Role::Admin => Ok(()),
                Role::Node => Err(refuse(
                    Code::NotAllowed,
                    format!("node {} has role node, and this takes role admin; ask it of an admin node", node.name),
                )),
            }
        }
    }
}

fn refuse(code: Code, message: impl std::fmt::Display) -> Refusal {
    Refusal::new(code, message)
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= limits::MAX_ROW_LABELS {
        Ok(())
    } else {
        let most = limits::MAX_ROW_LABELS;
        Err(refuse(Code::InvalidInput, format!("labels have {bytes} bytes, more than {most}")))
    }
}
