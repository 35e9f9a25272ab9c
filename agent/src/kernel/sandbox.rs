//! The container side of an endpoint: its interface in a sandbox, which may be the host's own
//! namespace.
//!
//! The veth pair is made inside the network's namespace and its far end is born in the sandbox, so
//! it is never seen on the host. In the sandbox only that interface and our routes on it are ours;
//! everything else there is left alone.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;

use ipnet::IpNet;

use super::container_interface::{ContainerInterface, lead_to_linked, make_again};
use super::converge::{Kernel, Namespace, converge};
use super::error::KernelError;
use super::namespace_desired::GATEWAY_V6;
use super::netlink::{Netlink, VethPeer};
use super::netns::{Netns, NetnsId};
use super::plan::plan;
use super::reconcile_report::ReconcileReport;
use super::sysctl;
use super::tables::{
    Address, Desired, Hop, LinkChange, LinkDesired, RouteKey, Scope, Step, UNFINISHED,
};

/// `IFNAMSIZ` without its closing zero.
const MAX_IFNAME: usize = 15;

/// What an endpoint's sandbox must contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxDesired {
    /// The sandbox's namespace: `/proc/PID/ns/net`, a pin, `/proc/self/ns/net` for the host. Opened
    /// for each use and never held, so that a container's end is the end of its namespace.
    pub netns: PathBuf,
    /// The namespace that the path meant at first; nothing takes whatever is there.
    pub identity: Option<NetnsId>,
    /// The interface's name, such as `eth0`.
    pub ifname: String,
    /// The endpoint's addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// The network's IPv4 gateway, on `lo` of its namespace. IPv6 always has `fe80::1`.
    pub gateway: Option<Ipv4Addr>,
    /// The network's prefixes; no default route is made.
    pub prefixes: Vec<IpNet>,
    /// The prefixes of linked networks, which are reached by the same gateway.
    pub linked: Vec<IpNet>,
    /// In bytes.
    pub mtu: u32,
    /// Who looks after the interface.
    pub owner: InterfaceOwner,
    /// Its hardware address; one made from the addresses when missing.
    pub mac: Option<[u8; 6]>,
}

/// Who gives a container's interface its name, addresses and routes, and heals them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceOwner {
    /// We do.
    Agent,
    /// A container engine: we make the pair with its far end in the host's namespace, the engine
    /// moves that end away.
    Engine {
        /// Whether it was told to: from then on the pair is not made in the host's namespace again.
        joined: bool,
        /// Where it took it, once it was seen there: a pair that is destroyed after that is made
        /// again in the container. Before, the far end may be anywhere.
        inside: Option<ContainerInterface>,
    },
}

/// One difference found in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The veth pair is not there.
    Missing,
    /// Its far end is elsewhere or has another name.
    Astray,
    /// Something differs; the step would heal it.
    Differs(Step),
}

/// How the network's end and the sandbox's interface stand to each other.
enum Pairing {
    Paired,
    Missing,
    Astray,
}

impl SandboxDesired {
    /// Computes the tables that the sandbox must contain.
    pub fn tables(&self) -> Desired {
        let on_link = |hop: Hop, prefix: IpNet| (RouteKey::ours(prefix), hop);
        let link = || self.ifname.clone();
        let gateway =
            self.gateway.map(|ip| on_link(Hop::Link(link()), IpNet::from(IpAddr::V4(ip))));
        let prefixes = self.prefixes.iter().chain(&self.linked).filter_map(|&prefix| {
            let gateway = match prefix {
                IpNet::V4(_) => IpAddr::V4(self.gateway?),
                IpNet::V6(_) if self.ipv6() => IpAddr::V6(GATEWAY_V6),
                IpNet::V6(_) => return None,
            };
            Some(on_link(Hop::Via(link(), gateway), prefix))
        });
        let addresses = self
            .addresses
            .iter()
            .map(|&ip| Address { link: link(), address: IpNet::from(ip) })
            .collect();

        Desired {
            scope: Scope::Sandbox { link: link() },
            sysctls: sysctl::of_sandbox(self.ipv6(), &self.ifname),
            rules: [].into(),
            links: [
                ("lo".to_owned(), LinkDesired::default()),
                (link(), LinkDesired { mtu: Some(self.mtu), queue_len: None }),
            ]
            .into(),
            addresses,
            routes: gateway.into_iter().chain(prefixes).collect(),
        }
    }

    /// Returns the interface's hardware address. It derives from the IPv4 address, so that
    /// neighbours that remember it stay right when the interface is made again.
    pub fn mac(&self) -> [u8; 6] {
        self.mac.unwrap_or_else(|| mac_of(&self.addresses))
    }

    fn ipv6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    fn open(&self) -> Result<Netns, KernelError> {
        let gone = || KernelError::SandboxGone { path: self.netns.clone() };
        let netns = Netns::open(&self.netns).map_err(|error| match error.errno() {
            Some(libc::ENOENT | libc::ESRCH) => gone(),
            _ => error,
        })?;
        if self.identity.is_some_and(|identity| identity != netns.identity()) {
            return Err(gone());
        }

        Ok(netns)
    }

    fn try_ifname(&self) -> Result<(), KernelError> {
        let fits = (1..=MAX_IFNAME).contains(&self.ifname.len());
        let clean = !self
            .ifname
            .chars()
            .any(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control());
        let reserved = matches!(self.ifname.as_str(), "." | ".." | "lo" | "all" | "default");

        if fits && clean && !reserved {
            Ok(())
        } else {
            Err(KernelError::InvalidIfname { ifname: self.ifname.clone() })
        }
    }
}

/// Returns the hardware address of an interface with these addresses.
pub fn mac_of(addresses: &[IpAddr]) -> [u8; 6] {
    let v4 = addresses.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip.octets()),
        IpAddr::V6(_) => None,
    });
    let v6 = addresses.iter().find_map(|ip| match ip {
        IpAddr::V6(ip) => ip.octets().last_chunk().copied(),
        IpAddr::V4(_) => None,
    });
    let [a, b, c, d] = v4.or(v6).unwrap_or_default();

    // 0x02: unicast, locally administered.
    [0x02, 0x6f, a, b, c, d]
}

/// Makes or heals the sandbox's interface; `name` is the network's end, `network` the connection to
/// its namespace.
pub(crate) async fn attach(
    network: &mut Netlink,
    name: &str,
    desired: &SandboxDesired,
) -> Result<ReconcileReport, KernelError> {
    desired.try_ifname()?;
    if let InterfaceOwner::Engine { joined, inside } = &desired.owner {
        return hand_over(network, name, desired, *joined, inside.as_ref()).await;
    }
    let netns = desired.open()?;
    let mut inside = Netlink::open(&netns).await?;
    let mut report = ReconcileReport::default();

    let pairing = pairing(network, name, &mut inside, desired, &netns).await?;
    let is_new = !matches!(pairing, Pairing::Paired);
    if is_new {
        network.remove_link(name).await?;
        let peer = VethPeer { netns: netns.as_fd(), name: &desired.ifname, mac: desired.mac() };
        network.add_veth(name, desired.mtu, 0, peer).await?;
        report.steps.push(Step::MakeVeth(name.to_owned()));
        network.set_link(name, LinkChange::Up).await?;
    }

    let mut kernel = Namespace { netns: &netns, netlink: &mut inside };
    let round = converge(&mut kernel, &desired.tables()).await?;
    report.steps.extend(round.steps);
    report.errors.extend(round.errors);
    if is_new {
        // The end that was up first sends only after the kernel's link watch has run, and packets
        // before that are lost (ARP then waits a second). Being asked for one link by name makes
        // the kernel run it at once.
        network.link(name).await?;
    }

    Ok(report)
}

/// Makes the pair for a container engine. What becomes of the far end is the engine's affair, until
/// somebody destroys it.
async fn hand_over(
    network: &mut Netlink,
    name: &str,
    desired: &SandboxDesired,
    joined: bool,
    inside: Option<&ContainerInterface>,
) -> Result<ReconcileReport, KernelError> {
    let mut report = ReconcileReport::default();
    match network.link(name).await? {
        Some(link) if link.group == UNFINISHED => network.remove_link(name).await?,
        Some(_) => {
            if let Some(inside) = inside {
                lead_to_linked(inside, &desired.linked, &mut report).await?;
            }
            return Ok(report);
        }
        None => {}
    }
    if let Some(inside) = inside {
        let mac_and_mtu = (desired.mac(), desired.mtu);
        let mut report = make_again(network, name, mac_and_mtu, inside).await?;
        lead_to_linked(inside, &desired.linked, &mut report).await?;
        return Ok(report);
    }
    if joined {
        return Err(KernelError::SandboxGone { path: desired.netns.clone() });
    }
    let host = desired.open()?;
    // Left by a process that was killed in between.
    Netlink::open(&host).await?.remove_link(&desired.ifname).await?;
    let peer = VethPeer { netns: host.as_fd(), name: &desired.ifname, mac: desired.mac() };
    network.add_veth(name, desired.mtu, 0, peer).await?;
    report.steps.push(Step::MakeVeth(name.to_owned()));
    network.set_link(name, LinkChange::Up).await?;

    Ok(report)
}

/// Lists what [`attach`] would change.
pub(crate) async fn check(
    network: &mut Netlink,
    name: &str,
    desired: &SandboxDesired,
) -> Result<Vec<Drift>, KernelError> {
    desired.try_ifname()?;
    if let InterfaceOwner::Engine { .. } = desired.owner {
        let is_there = network.link(name).await?.is_some_and(|link| link.group != UNFINISHED);
        return Ok(if is_there { Vec::new() } else { vec![Drift::Missing] });
    }
    let netns = desired.open()?;
    let mut inside = Netlink::open(&netns).await?;

    match pairing(network, name, &mut inside, desired, &netns).await? {
        Pairing::Missing => Ok(vec![Drift::Missing]),
        Pairing::Astray => Ok(vec![Drift::Astray]),
        Pairing::Paired => {
            let tables = desired.tables();
            let actual = Namespace { netns: &netns, netlink: &mut inside }.list(&tables).await?;

            Ok(plan(&tables, &actual).into_iter().map(Drift::Differs).collect())
        }
    }
}

/// The two ends of a pair know each other's index. An interface of the wanted name that is not our
/// end's twin is foreign.
async fn pairing(
    network: &mut Netlink,
    name: &str,
    inside: &mut Netlink,
    desired: &SandboxDesired,
    netns: &Netns,
) -> Result<Pairing, KernelError> {
    let near = network.link(name).await?;
    let far = inside.link(&desired.ifname).await?;

    match (near, far) {
        (None, None) => Ok(Pairing::Missing),
        (Some(_), None) => Ok(Pairing::Astray),
        (Some(near), Some(far)) if near.peer == Some(far.index) && far.peer == Some(near.index) => {
            Ok(Pairing::Paired)
        }
        (_, Some(_foreign)) => Err(KernelError::IfnameTaken {
            ifname: desired.ifname.clone(),
            namespace: netns.label().to_owned(),
        }),
    }
}
