//! The stable codes of problems, as scripts know them.

use overlay_proto::Code;

/// Which kind of problem one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProblemCode {
    /// Something was refused, or failed as a call fails.
    Refused(Code),
    /// Another node announces an address of this host.
    AddressShared,
    /// The certificate ends soon and is not renewed.
    CertificateEnding,
    /// The certificate has ended.
    CertificateExpired,
    /// Control lacks descriptors.
    ControlDescriptors,
    /// Control cannot write its log.
    ControlLog,
    /// Control cannot write its state.
    ControlStorage,
    /// Control was restored, and waits for nodes to tell what they hold.
    ControlRestored,
    /// Control lacks something that this version does not know.
    ControlTrouble,
    /// This node may not enter a network any more that it had endpoints on.
    CutOff,
    /// File descriptors are running out.
    Descriptors,
    /// The plugin socket cannot be served.
    Docker,
    /// A network of Docker's cannot be used.
    DockerConflict,
    /// The plugin proxy does not serve.
    DockerDoor,
    /// A network is not in Docker.
    DockerMissing,
    /// Other hosts do not find a name of a container.
    DockerName,
    /// This node was removed from its cluster.
    Expelled,
    /// What the containers of a network send is not guarded.
    Guard,
    /// A container lost its interface.
    InterfaceLost,
    /// A network is not carried because control was not heard for as long as its lease.
    Lease,
    /// The log is not written.
    Log,
    /// Control lost a network that endpoints of this node are on.
    NetworkLost,
    /// Datagrams are lost on the way.
    PeerLoss,
    /// Peers do not hear this host.
    PeerNotReached,
    /// There is no tunnel to a peer for a reason of its own.
    PeerRefused,
    /// Nothing arrives from a peer.
    PeerSilent,
    /// A network's policy is not in force.
    Policy,
    /// Nobody reaches this host.
    PortUnreachable,
    /// The host and a network both have a prefix.
    PrefixClash,
    /// This host's firewall refuses what is sent.
    UdpRefused,
}

impl ProblemCode {
    /// Returns the stable word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Refused(code) => code.as_str(),
            Self::AddressShared => "address-shared",
            Self::CertificateEnding => "certificate-ending",
            Self::CertificateExpired => "certificate-expired",
            Self::ControlDescriptors => "control-descriptors",
            Self::ControlLog => "control-log",
            Self::ControlStorage => "control-storage",
            Self::ControlRestored => "control-restored",
            Self::ControlTrouble => "control-trouble",
            Self::CutOff => "cut-off",
            Self::Descriptors => "descriptors",
            Self::Docker => "docker",
            Self::DockerConflict => "docker-conflict",
            Self::DockerDoor => "docker-door",
            Self::DockerMissing => "docker-missing",
            Self::DockerName => "docker-name",
            Self::Expelled => "expelled",
            Self::Guard => "guard",
            Self::InterfaceLost => "interface-lost",
            Self::Lease => "lease",
            Self::Log => "log",
            Self::NetworkLost => "network-lost",
            Self::PeerLoss => "peer-loss",
            Self::PeerNotReached => "peer-not-reached",
            Self::PeerRefused => "peer-refused",
            Self::PeerSilent => "peer-silent",
            Self::Policy => "policy",
            Self::PortUnreachable => "port-unreachable",
            Self::PrefixClash => "prefix-clash",
            Self::UdpRefused => "udp-refused",
        }
    }
}

impl From<Code> for ProblemCode {
    fn from(code: Code) -> Self {
        Self::Refused(code)
    }
}
