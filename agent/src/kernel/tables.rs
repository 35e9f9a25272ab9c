//! The kernel's tables in our words, keyed as the kernel keys them: what is wanted, what is there,
//! and one step between.
//!
//! No I/O and no vendor types. Who computes a wanted value is `desired` and `sandbox`; who compares
//! is `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use overlay_core::EndpointId;

/// The protocol number that our routes and rules carry (`RTPROT_*`, free for use above 4 except
/// what `rt_protos` lists). It is how a process with no memory tells its routes in a sandbox from
/// the container's own.
pub const ROUTE_PROTOCOL: u8 = 0x4f;

/// The type of service of routes that only keep a prefix: DSCP 63, which nobody sends, so no packet
/// takes them.
pub const RESERVED_TOS: u8 = 0xfc;

/// The metric of every IPv6 route of ours: the kernel's default, written out because the kernel
/// keys by it.
pub const METRIC_V6: u32 = 1024;

/// A kernel parameter below `/proc/sys/net`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// The path below `/proc/sys/net`, with slashes.
    pub path: String,
    /// The interface it belongs to, if it belongs to one.
    pub link: Option<String>,
}

impl Sysctl {
    /// Names a parameter of the whole namespace, such as `ipv4/ip_forward`.
    pub fn global(path: impl Into<String>) -> Self {
        Self { path: path.into(), link: None }
    }

    /// Names an interface's parameter: `family` is `ipv4` or `ipv6`, `key` the last part of the
    /// path.
    pub fn link(family: &str, link: &str, key: &str) -> Self {
        Self { path: format!("{family}/conf/{link}/{key}"), link: Some(link.to_owned()) }
    }

    /// Names a parameter of the neighbours on an interface.
    pub fn neighbours(family: &str, link: &str, key: &str) -> Self {
        Self { path: format!("{family}/neigh/{link}/{key}"), link: Some(link.to_owned()) }
    }
}

/// What a link must have; it must be up in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkDesired {
    /// In bytes; nothing leaves it as it is.
    pub mtu: Option<u32>,
    /// `txqueuelen` in packets, at least; nothing leaves it as it is.
    pub queue_len: Option<u32>,
}

/// A link as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// The kernel's number of it.
    pub index: u32,
    /// Whether it is up (administratively).
    pub up: bool,
    /// In bytes.
    pub mtu: u32,
    /// `txqueuelen`, in packets.
    pub queue_len: u32,
    /// The kind, such as `veth`, `tun`, `bridge`; empty for hardware and `lo`.
    pub kind: String,
    /// The index, in its own namespace, of a veth's other end.
    pub peer: Option<u32>,
    /// Its interface group, 0 by default; [`UNFINISHED`] where its maker is not done with it.
    pub group: u32,
}

/// The interface group (`IFLA_GROUP`) of the network's end of a pair whose far end, in a container,
/// does not have its addresses and routes yet: whoever finds it may be after a process that was
/// killed while making it. No other group of ours exists; the number is "ov" in ASCII.
pub const UNFINISHED: u32 = 0x6f76;

/// One change of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// Sets the MTU, in bytes.
    Mtu(u32),
    /// Sets `txqueuelen`, in packets.
    QueueLen(u32),
    /// Sets it up.
    Up,
    /// Puts it into an interface group; 0 is the default one.
    Group(u32),
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link's name.
    pub link: String,
    /// The address with its prefix length.
    pub address: IpNet,
}

/// What the kernel keys the main table's routes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The destination.
    pub prefix: IpNet,
    /// The metric; lower wins.
    pub metric: u32,
}

impl RouteKey {
    /// Returns the key under which our route to a prefix stands.
    pub fn ours(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self { prefix, metric: 0 },
            IpNet::V6(_) => Self { prefix, metric: METRIC_V6 },
        }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// To neighbours on a link.
    Link(String),
    /// To a gateway on a link.
    Via(String, IpAddr),
    /// Nowhere: the sender is told so.
    Unreachable,
    /// Something we never make (several next hops, other types).
    Foreign,
}

impl Hop {
    /// Returns the link the hop leads out of, if it leads anywhere.
    pub fn link(&self) -> Option<&str> {
        match self {
            Self::Link(link) | Self::Via(link, _) => Some(link),
            Self::Unreachable | Self::Foreign => None,
        }
    }
}

/// A route as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub hop: Hop,
    /// Whether it carries [`ROUTE_PROTOCOL`].
    pub ours: bool,
}

/// What an IPv6 rule does with a packet it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleAction {
    /// Looks in a table, and goes on when nothing is found.
    Lookup(u32),
    /// Continues at the rule of this priority.
    Goto(u32),
    /// Drops silently.
    Blackhole,
    /// Something we never make.
    Foreign,
}

/// An IPv6 routing rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Lower comes first.
    pub priority: u32,
    /// Only packets that came in here; `lo` means our own.
    pub iif: Option<String>,
    /// Only packets from here.
    pub from: Option<Ipv6Net>,
    /// What is done.
    pub action: RuleAction,
}

/// Whose the namespace is, which decides what may be removed from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Wholly ours: every address, route, rule and `ov…` veth that is not wanted goes, but for
    /// those of `strays`.
    Network {
        /// Whose veths stay, with all that is on them.
        strays: Strays,
    },
    /// A container's: only routes of ours on this link may go.
    Sandbox {
        /// The endpoint's interface.
        link: String,
    },
}

impl Scope {
    /// Tells whether the namespace is wholly ours.
    pub(super) fn is_network(&self) -> bool {
        matches!(self, Self::Network { .. })
    }
}

/// Endpoints whose veth pairs stay though nothing wants them: it is not known yet whether their
/// containers live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strays {
    /// These.
    Only(BTreeSet<EndpointId>),
    /// All others.
    AllBut(BTreeSet<EndpointId>),
}

impl Strays {
    /// Tells whether an endpoint is among them.
    pub fn contains(&self, endpoint: EndpointId) -> bool {
        match self {
            Self::Only(these) => these.contains(&endpoint),
            Self::AllBut(these) => !these.contains(&endpoint),
        }
    }
}

impl Default for Strays {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

/// What a namespace must contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// What may be removed.
    pub scope: Scope,
    /// Kernel parameters; those that the kernel does not have are passed over.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// IPv6 rules; none leaves the rules alone.
    pub rules: BTreeSet<Rule>,
    /// Links. A plan never makes one: who opens the TUN or attaches an endpoint does.
    pub links: BTreeMap<String, LinkDesired>,
    /// Addresses.
    pub addresses: BTreeSet<Address>,
    /// Routes of the main table.
    pub routes: BTreeMap<RouteKey, Hop>,
}

/// What a namespace contains, as far as it matters to a [`Desired`]: kernel-made routes, loopback
/// and link-local addresses are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actual {
    /// The wanted parameters that exist.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// IPv6 rules.
    pub rules: BTreeSet<Rule>,
    /// All links.
    pub links: BTreeMap<String, LinkState>,
    /// Addresses.
    pub addresses: BTreeSet<Address>,
    /// Routes of the main table.
    pub routes: BTreeMap<RouteKey, Route>,
}

/// One change of the kernel; doing it twice is as good as once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Writes a parameter.
    SetSysctl(Sysctl, String),
    /// Adds a rule.
    AddRule(Rule),
    /// Changes a link.
    SetLink(String, LinkChange),
    /// Adds an address.
    AddAddress(Address),
    /// Adds a route or replaces the one under the same key.
    SetRoute(RouteKey, Hop),
    /// Removes a route.
    RemoveRoute(RouteKey),
    /// Removes an address.
    RemoveAddress(Address),
    /// Removes a link with all that is on it.
    RemoveLink(String),
    /// Removes a rule.
    RemoveRule(Rule),
    /// Makes the TUN again; the old queues are dead.
    MakeTun(String),
    /// Pins the namespace again.
    Pin(String),
    /// Makes an endpoint's veth pair.
    MakeVeth(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSysctl(sysctl, value) => write!(f, "set {} to {value}", sysctl.path),
            Self::AddRule(rule) => write!(f, "add {rule}"),
            Self::SetLink(link, LinkChange::Mtu(mtu)) => {
                write!(f, "set the MTU of {link} to {mtu}")
            }
            Self::SetLink(link, LinkChange::QueueLen(len)) => {
                write!(f, "set the queue of {link} to {len}")
            }
            Self::SetLink(link, LinkChange::Up) => write!(f, "set {link} up"),
            Self::SetLink(link, LinkChange::Group(group)) => {
                write!(f, "put {link} into group {group}")
            }
            Self::AddAddress(Address { link, address }) => {
                write!(f, "add address {address} on {link}")
            }
            Self::SetRoute(key, hop) => write!(f, "set route {} {hop}", key.prefix),
            Self::RemoveRoute(key) => {
                write!(f, "remove route {} metric {}", key.prefix, key.metric)
            }
            Self::RemoveAddress(Address { link, address }) => {
                write!(f, "remove address {address} on {link}")
            }
            Self::RemoveLink(link) => write!(f, "remove {link}"),
            Self::RemoveRule(rule) => write!(f, "remove {rule}"),
            Self::MakeTun(link) => write!(f, "make {link} again"),
            Self::Pin(namespace) => write!(f, "pin {namespace} again"),
            Self::MakeVeth(link) => write!(f, "make {link}"),
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => write!(f, "dev {link}"),
            Self::Via(link, gateway) => write!(f, "via {gateway} dev {link}"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Foreign => f.write_str("foreign"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.priority)?;
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(from) = &self.from {
            write!(f, " from {from}")?;
        }
        match self.action {
            RuleAction::Lookup(table) => write!(f, " lookup {table}"),
            RuleAction::Goto(priority) => write!(f, " goto {priority}"),
            RuleAction::Blackhole => f.write_str(" blackhole"),
            RuleAction::Foreign => f.write_str(" foreign"),
        }
    }
}
