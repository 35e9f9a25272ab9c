//! The operations of the registry, their actors, and the replies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use overlay_core::policy::FilterMode;
use overlay_core::{
    Difference, Endpoint, EndpointId, HostPrefix, Lease, LinkAccess, Member, Name, Network,
    NetworkId, NetworkMode, NetworkSettings, Node, NodeId, PublicKey, Revocation, Role, Selector,
};

use super::error::RegistryError;
use super::policies::ExaminedPolicy;
use super::record::{AppliedPolicy, Digest, Record, Revoked, Token};
use super::report::{BeginAnew, NodeReport};

/// The party a command comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    /// Someone with access to control's state directory.
    Operator,
    /// A node, authenticated by its certificate.
    Node(NodeId),
}

/// A request to change the state.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// A host asks to become a node; the actor does not matter.
    Join(Join),
    /// A node announces how it is reached and what its host has in use.
    Announce(Announce),
    /// The caller leaves the cluster.
    Leave,
    /// An admin removes a node, by name or id.
    RemoveNode(String),
    /// A node tells of one that was removed, with the authority's signature, which was verified.
    Revoke(Revocation),
    /// Creates a network.
    CreateNetwork(CreateNetwork),
    /// Changes the settings of a network that can be changed.
    SetNetwork {
        /// The network's name or id.
        network: String,
        /// The nodes that may enter it; the same as before when missing.
        nodes: Option<Selector>,
        /// How long its nodes trust each other without control; the same as before when missing.
        lease: Option<Option<Lease>>,
    },
    /// Lets two networks reach each other, or changes what passes between them.
    LinkNetworks {
        /// The name or id of one.
        one: String,
        /// The name or id of the other.
        other: String,
        /// What passes.
        access: LinkAccess,
    },
    /// Keeps two networks apart again.
    UnlinkNetworks {
        /// The name or id of one.
        one: String,
        /// The name or id of the other.
        other: String,
    },
    /// Removes a network.
    RemoveNetwork {
        /// The network's name or id.
        network: String,
        /// Whether to remove it even if it has endpoints.
        force: bool,
    },
    /// The caller becomes a member of a network, or changes its keys there.
    EnterNetwork {
        /// The network.
        network: NetworkId,
        /// One public key per lane.
        lane_keys: Vec<PublicKey>,
        /// The least number of blocks that the caller needs.
        blocks: usize,
    },
    /// Ends the caller's membership in a network.
    ExitNetwork(NetworkId),
    /// Creates or replaces endpoints of the caller.
    PutEndpoints(Vec<Endpoint>),
    /// Removes endpoints of the caller.
    RemoveEndpoints(Vec<(NetworkId, EndpointId)>),
    /// Creates a join token.
    CreateToken(CreateToken),
    /// Revokes a join token.
    RevokeToken(String),
    /// Has a policy replace the live one.
    ApplyPolicy(ApplyPolicy),
    /// Has an earlier policy replace the live one.
    RollBackPolicy {
        /// The revision of the policy; 0 stands for none.
        to: u64,
        /// See [`ApplyPolicy::expected`].
        expected: Option<u64>,
    },
    /// An operator restored control, or its state is found to be an older copy.
    BeginAnew(BeginAnew),
    /// A node tells what it holds after control's history began anew.
    Report(NodeReport),
    /// An operator's restore takes over which nodes the state before it knew to be removed.
    MergeRemoved(Vec<Revoked>),
}

/// See [`Operation::Join`].
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// The token's id.
    pub(crate) token: String,
    /// The digest of the token's secret.
    pub(crate) secret: Digest,
    /// The digest of the public key that the node will use.
    pub(crate) key: Digest,
    /// The node's name.
    pub(crate) name: Name,
    /// A random id, which the node gets unless it is taken.
    pub(crate) candidate: NodeId,
}

/// See [`Operation::Announce`].
#[derive(Debug, Clone)]
pub(crate) struct Announce {
    /// The node's underlay addresses, the likeliest first.
    pub(crate) underlay: Vec<IpAddr>,
    /// One UDP port per lane.
    pub(crate) lane_ports: Vec<u16>,
    /// The prefixes in use on the host.
    pub(crate) prefixes: Vec<HostPrefix>,
    /// The networks that differ on this host.
    pub(crate) differences: Vec<Difference>,
    /// The agent's version.
    pub(crate) version: String,
}

/// See [`Operation::CreateNetwork`].
#[derive(Debug, Clone)]
pub(crate) struct CreateNetwork {
    /// Its name.
    pub(crate) name: Name,
    /// Its IPv4 prefix; one is chosen from the pool when missing.
    pub(crate) prefix: Option<Ipv4Net>,
    /// Its IPv6 prefix; no IPv6 when missing.
    pub(crate) prefix6: Option<Ipv6Net>,
    /// How packets are carried.
    pub(crate) mode: NetworkMode,
    /// The operator's labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Further settings.
    pub(crate) settings: NetworkSettings,
    /// An id, random or chosen by the caller, which the network gets unless it is taken.
    pub(crate) candidate: NetworkId,
}

/// See [`Operation::CreateToken`].
#[derive(Debug, Clone)]
pub(crate) struct CreateToken {
    /// A random id.
    pub(crate) id: String,
    /// The digest of its secret.
    pub(crate) digest: Digest,
    /// How long it is valid, in seconds; 0 stands for an hour.
    pub(crate) ttl: u64,
    /// How many nodes it admits; 0 stands for one.
    pub(crate) uses: u32,
    /// The role of the nodes it admits.
    pub(crate) role: Role,
    /// The labels of the nodes it admits.
    pub(crate) labels: BTreeMap<String, String>,
}

/// See [`Operation::ApplyPolicy`].
#[derive(Debug, Clone)]
pub(crate) struct ApplyPolicy {
    /// The policy.
    pub(crate) policy: ExaminedPolicy,
    /// Whether it is kept to, or only counted.
    pub(crate) mode: FilterMode,
    /// The revision of the policy that it is to replace, 0 for none; any when missing.
    pub(crate) expected: Option<u64>,
    /// Whether it is refused if anything in it does nothing.
    pub(crate) is_strict: bool,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The change was made, or was not needed.
    Done,
    /// The host is this node.
    Joined(Node),
    /// The network exists.
    Network(Network),
    /// The membership exists.
    Member(Member),
    /// The token exists.
    Token(Token),
    /// This policy is live.
    Policy {
        /// The policy, or that there is none; missing when there never was one.
        live: Option<Box<AppliedPolicy>>,
        /// Whether it was not live before.
        changed: bool,
    },
}

/// The outcome of a command and the records that carry it out; without records, nothing changes.
pub(crate) type Decision = Result<(Reply, Vec<Record>), RegistryError>;
