//! What problems are about.

use std::fmt;
use std::net::IpAddr;

use overlay_core::{EndpointId, NetworkId};

/// What a problem is about: there is one problem of each at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProblemKey {
    /// This node's announcement, as control refuses it.
    Announcement,
    /// The node's certificate.
    Certificate,
    /// Something that control says it cannot do, by its code.
    Control(String),
    /// Where control was heard to be, which cannot be kept.
    ControlAddresses,
    /// The connection to control.
    ControlConnection,
    /// Endpoints that ended because this node may not enter their network any more.
    CutOff(NetworkId),
    /// Peers that do not hear this host.
    DeafPeers,
    /// The file descriptors of this process.
    Descriptors,
    /// The events of the kernel.
    Events,
    /// The host's own firewall.
    Firewall,
    /// The guard of a network.
    Guard(NetworkId),
    /// The host's network, which cannot be looked at.
    HostNetwork,
    /// The node's identity, which another host uses.
    Identity,
    /// A container's interface, which the kernel does not have.
    Interface(EndpointId),
    /// The lease of a network.
    Lease(NetworkId),
    /// The namespace of a network that is no more.
    Leftover(NetworkId),
    /// Namespaces that were left behind.
    Leftovers,
    /// A container that has an endpoint which this node lost, by the engine's id of it.
    LostEndpoint(String),
    /// A network that control lost, and that endpoints of this node are on.
    LostNetwork(NetworkId),
    /// The log of this process.
    Log,
    /// Peers with which datagrams are lost.
    LossyPeers,
    /// The membership of a network.
    Membership(NetworkId),
    /// An endpoint whose name another one claims, too.
    NameShared(EndpointId),
    /// An endpoint whose name belongs to another one.
    NameTaken(EndpointId),
    /// The kernel's part of a network.
    Network(NetworkId),
    /// The node itself.
    Node,
    /// The plugin socket.
    Plugin,
    /// The plugin proxy.
    PluginProxy,
    /// The policy of a network.
    Policy(NetworkId),
    /// A prefix that both the host and a network have.
    Prefix(NetworkId),
    /// An endpoint that other nodes do not know.
    Publication(EndpointId),
    /// Peers to which there is no tunnel, for reasons of their own.
    RefusedPeers,
    /// An address that both this host and a peer announce.
    SharedAddress(IpAddr),
    /// Peers from which nothing arrives.
    SilentPeers,
    /// The state on disk.
    Storage,
    /// A network of the engine on this host, by the engine's id or ours.
    EngineNetwork(String),
    /// The DNS interceptors of containers.
    Interceptors,
    /// Names of a container that no other host finds.
    ContainerNames(EndpointId),
    /// Prefixes that are kept from the engine.
    ReservedPrefixes,
}

/// The order of listings is that of these texts.
impl fmt::Display for ProblemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announcement => f.write_str("announce"),
            Self::Certificate => f.write_str("certificate"),
            Self::Control(code) => write!(f, "control's {code}"),
            Self::ControlAddresses => f.write_str("control-addresses"),
            Self::ControlConnection => f.write_str("control connection"),
            Self::CutOff(network) => write!(f, "cut off {network}"),
            Self::DeafPeers => f.write_str("deaf peers"),
            Self::Descriptors => f.write_str("descriptors"),
            Self::Events => f.write_str("events"),
            Self::Firewall => f.write_str("firewall"),
            Self::Guard(network) => write!(f, "guard {network}"),
            Self::HostNetwork => f.write_str("host network"),
            Self::Identity => f.write_str("identity"),
            Self::Interface(endpoint) => write!(f, "container interface {endpoint}"),
            Self::Lease(network) => write!(f, "lease of {network}"),
            Self::Leftover(network) => write!(f, "leftover {network}"),
            Self::Leftovers => f.write_str("leftovers"),
            Self::LostEndpoint(endpoint) => write!(f, "container endpoint {endpoint}"),
            Self::LostNetwork(network) => write!(f, "lost network {network}"),
            Self::Log => f.write_str("log"),
            Self::LossyPeers => f.write_str("lossy peers"),
            Self::Membership(network) => write!(f, "membership {network}"),
            Self::NameShared(endpoint) => write!(f, "claims on the name of {endpoint}"),
            Self::NameTaken(endpoint) => write!(f, "name of {endpoint}"),
            Self::Network(network) => write!(f, "network {network}"),
            Self::Node => f.write_str("node"),
            Self::Plugin => f.write_str("docker plugin"),
            Self::PluginProxy => f.write_str("docker door"),
            Self::Policy(network) => write!(f, "policy {network}"),
            Self::Prefix(network) => write!(f, "prefix {network}"),
            Self::Publication(endpoint) => write!(f, "publish {endpoint}"),
            Self::RefusedPeers => f.write_str("refused peers"),
            Self::SharedAddress(address) => write!(f, "shared address {address}"),
            Self::SilentPeers => f.write_str("silent peers"),
            Self::Storage => f.write_str("storage"),
            Self::EngineNetwork(id) => write!(f, "docker network {id}"),
            Self::Interceptors => f.write_str("docker names"),
            Self::ContainerNames(endpoint) => write!(f, "docker names {endpoint}"),
            Self::ReservedPrefixes => f.write_str("docker prefixes"),
        }
    }
}
