//! The interface that a container engine took into a container: how it is called there, and how it
//! is made again when foreign hands destroyed it. As long as it exists it is the engine's alone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId};

use super::converge::{Kernel, Namespace, converge, perform_all};
use super::error::KernelError;
use super::namespace_desired::host_ifname;
use super::netlink::{Netlink, VethPeer};
use super::netns::{Netns, Pins};
use super::plan::plan;
use super::reconcile_report::ReconcileReport;
use super::sysctl;
use super::tables::{
    Address, Desired, Hop, LinkChange, LinkDesired, RouteKey, Scope, Step, UNFINISHED,
};

/// An endpoint's interface as the engine set it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInterface {
    /// The container's namespace.
    pub netns: PathBuf,
    /// The interface's name there.
    pub ifname: String,
    /// Its addresses, with the prefix lengths that the engine gave them.
    pub addresses: Vec<IpNet>,
    /// Its routes; without a gateway the destination is on the link.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

impl ContainerInterface {
    fn tables(&self, mtu: u32) -> Desired {
        let link = || self.ifname.clone();
        let hop = |via: Option<IpAddr>| {
            via.map_or_else(|| Hop::Link(link()), |via| Hop::Via(link(), via))
        };
        let ipv6 = self.addresses.iter().any(|address| address.addr().is_ipv6());
        let routes = self.routes.iter().map(|&(prefix, via)| (RouteKey::ours(prefix), hop(via)));

        Desired {
            scope: Scope::Sandbox { link: link() },
            // An engine switches IPv6 off in new interfaces of a container, and on in those that
            // have it.
            sysctls: if ipv6 { sysctl::of_sandbox(ipv6, &self.ifname) } else { [].into() },
            rules: [].into(),
            links: [(link(), LinkDesired { mtu: Some(mtu), queue_len: None })].into(),
            addresses: self
                .addresses
                .iter()
                .map(|&address| Address { link: link(), address })
                .collect(),
            routes: routes.collect(),
        }
    }
}

/// Makes the pair again, whose far end was in a container, with the hardware address and MTU
/// (bytes) that it had. `name` is the network's end, which is [`UNFINISHED`] until all is done: a
/// half of it would pass for the engine's work.
pub(super) async fn make_again(
    network: &mut Netlink,
    name: &str,
    (mac, mtu): ([u8; 6], u32),
    inside: &ContainerInterface,
) -> Result<ReconcileReport, KernelError> {
    let netns = open(&inside.netns)?;
    let mut within = Netlink::open(&netns).await?;
    if within.link(&inside.ifname).await?.is_some() {
        let namespace = netns.label().to_owned();
        return Err(KernelError::IfnameTaken { ifname: inside.ifname.clone(), namespace });
    }
    let peer = VethPeer { netns: netns.as_fd(), name: &inside.ifname, mac };
    network.add_veth(name, mtu, UNFINISHED, peer).await?;
    network.set_link(name, LinkChange::Up).await?;
    let mut kernel = Namespace { netns: &netns, netlink: &mut within };
    let round = converge(&mut kernel, &inside.tables(mtu)).await;
    if round.as_ref().is_ok_and(|round| round.errors.is_empty()) {
        network.set_link(name, LinkChange::Group(0)).await?;
        // Being asked for a link by name makes the kernel run its link watch at once.
        network.link(name).await?;
    } else {
        network.remove_link(name).await?;
    }
    let round = round?;

    Ok(ReconcileReport {
        steps: std::iter::once(Step::MakeVeth(name.to_owned())).chain(round.steps).collect(),
        errors: round.errors,
        ..ReconcileReport::default()
    })
}

/// Adds the routes to linked networks to an interface, by the gateways that it has, and takes those
/// away that are none any more; all others are the engine's. Does nothing in a container that is
/// gone.
pub(super) async fn lead_to_linked(
    inside: &ContainerInterface,
    linked: &[IpNet],
    report: &mut ReconcileReport,
) -> Result<(), KernelError> {
    let netns = match open(&inside.netns) {
        Err(KernelError::SandboxGone { .. }) => return Ok(()),
        opened => opened?,
    };
    let mut within = Netlink::open(&netns).await?;
    if within.link(&inside.ifname).await?.is_none() {
        return Ok(());
    }
    let of_family = |prefix: &IpNet| {
        let gateways = inside.routes.iter().filter_map(|(_, gateway)| *gateway);
        gateways.into_iter().find(|gateway| gateway.is_ipv4() == prefix.addr().is_ipv4())
    };
    let route = |prefix: &IpNet| {
        let hop = Hop::Via(inside.ifname.clone(), of_family(prefix)?);
        Some((RouteKey::ours(*prefix), hop))
    };
    let tables = Desired {
        scope: Scope::Sandbox { link: inside.ifname.clone() },
        sysctls: [].into(),
        rules: [].into(),
        links: [].into(),
        addresses: [].into(),
        routes: linked.iter().filter_map(route).collect(),
    };
    let mut kernel = Namespace { netns: &netns, netlink: &mut within };
    let is_engines = |key: &RouteKey| inside.routes.iter().any(|(prefix, _)| *prefix == key.prefix);
    let mut steps = plan(&tables, &kernel.list(&tables).await?);
    // Nothing else is wanted, so nothing else is planned.
    steps.retain(|step| if let Step::RemoveRoute(key) = step { !is_engines(key) } else { true });
    let performed = perform_all(&mut kernel, steps).await;
    report.steps.extend(performed.steps);
    report.errors.extend(performed.errors);

    Ok(())
}

fn open(path: &Path) -> Result<Netns, KernelError> {
    let gone = || KernelError::SandboxGone { path: path.to_owned() };

    Netns::open(path).map_err(|error| {
        // The engine takes the namespace off its file before it removes the file.
        let is_gone = matches!(error, KernelError::NotANamespace { .. })
            || matches!(error.errno(), Some(libc::ENOENT | libc::ESRCH));
        if is_gone { gone() } else { error }
    })
}

/// Finds out how an endpoint's interface is called in a container. Where the pair is gone, it is
/// the first name that an engine gives and that is free there and not `taken`; nothing where the
/// pair is there and its far end is not in the container.
///
/// # Errors
///
/// When one of the namespaces is not there, or cannot be read.
pub async fn name_inside(
    run_dir: &Path,
    network: NetworkId,
    endpoint: EndpointId,
    container: &Path,
    taken: &BTreeSet<String>,
) -> Result<Option<String>, KernelError> {
    let container = open(container)?;
    let pins = Pins::new(run_dir);
    let near = match pins.open(network)? {
        Some(netns) => Netlink::open(&netns).await?.link(&host_ifname(endpoint)).await?,
        None => None,
    };
    let links = Netlink::open(&container).await?.links().await?;
    let Some(near) = near else {
        let mut names = (0..=links.len() + taken.len()).map(|n| format!("eth{n}"));
        return Ok(names.find(|name| !links.contains_key(name) && !taken.contains(name)));
    };
    let is_far = |link: &super::tables::LinkState| {
        near.peer == Some(link.index) && link.peer == Some(near.index)
    };

    Ok(links.into_iter().find(|(_, link)| is_far(link)).map(|(name, _)| name))
}
