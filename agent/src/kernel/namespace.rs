//! A network's namespace on this node: pin, TUN and tables, owned by one value.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlay_core::{EndpointId, NetworkId};
use tokio_util::task::TaskTracker;

use super::converge::{self, Namespace};
use super::error::KernelError;
use super::lock::Lock;
use super::namespace_desired::{
    InterfaceDesired, JoinDesired, NamespaceDesired, TUN_NAME, TunDesired, endpoint_of,
    host_ifname, join_ifname, joined_by,
};
use super::netlink::{Netlink, OwnPort, VethPeer};
use super::netns::{Netns, Pins};
use super::nft::Enforcement;
use super::reconcile_report::ReconcileReport;
use super::sandbox::{self, Drift, SandboxDesired};
use super::sysctl;
use super::tables::Step;
use super::tun::{NetworkInterface, Tun};

/// A network's namespace, held by this process and no other.
///
/// Dropping it leaves everything standing in the kernel, as a killed process does;
/// [`NetworkNamespace::delete`] removes it.
#[derive(Debug)]
pub struct NetworkNamespace {
    network: NetworkId,
    pins: Pins,
    netns: Netns,
    netlink: Netlink,
    port: Arc<OwnPort>,
    lock: Arc<Lock>,
    /// The index of the interface that was handed out: one of the same name may be somebody
    /// else's.
    interface: u32,
}

impl NetworkNamespace {
    /// Opens the namespace of a network below `run_dir`, or makes it, and opens its TUN. What is
    /// inside stays as it is until the first [`NetworkNamespace::reconcile`].
    ///
    /// # Errors
    ///
    /// When another process holds it, or the kernel refuses.
    pub async fn open(
        run_dir: &Path,
        network: NetworkId,
        tun: TunDesired,
    ) -> Result<(Self, Tun), KernelError> {
        let desired = InterfaceDesired::Tun(tun);
        let (namespace, NetworkInterface::Tun(tun)) =
            Self::open_with(run_dir, network, desired, None).await?;

        Ok((namespace, tun))
    }

    /// As [`NetworkNamespace::open`], with any interface, or the one that an earlier session had.
    pub(crate) async fn open_with(
        run_dir: &Path,
        network: NetworkId,
        desired: InterfaceDesired,
        earlier: Option<NetworkInterface>,
    ) -> Result<(Self, NetworkInterface), KernelError> {
        let lock = Lock::take(run_dir, network)?;
        let pins = Pins::new(run_dir);
        let netns = pins.open_or_create(network)?;
        let mut netlink = Netlink::open(&netns).await?;
        let there = match &earlier {
            Some(_) => netlink.link(TUN_NAME).await?,
            None => None,
        };
        let (interface, index) = match earlier.zip(there) {
            Some((interface, link)) => (interface, link.index),
            None => open_interface(&netns, &mut netlink, desired).await?,
        };

        let port = Arc::<OwnPort>::default();
        port.set(netlink.port());

        let lock = Arc::new(lock);
        Ok((Self { network, pins, netns, netlink, port, lock, interface: index }, interface))
    }

    /// Returns the network.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// Returns the namespace, for sockets to be opened in it.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Returns the port id of the connection by which the namespace is changed.
    pub fn own_port(&self) -> &Arc<OwnPort> {
        &self.port
    }

    /// Returns what keeps the network to its policy. The namespace is free for another process once
    /// this is dropped and `runs` has ended.
    pub(crate) fn enforcement(&self, runs: &TaskTracker) -> Enforcement {
        Enforcement::new(self.netns.clone(), Arc::clone(&self.lock), runs.clone())
    }

    /// Returns where it is pinned.
    pub fn path(&self) -> PathBuf {
        self.pins.path(self.network)
    }

    /// Says whether the pin still stands; one look at a file.
    pub fn is_pinned(&self) -> bool {
        self.pins.holds(self.network, &self.netns)
    }

    /// Brings the namespace to `desired`: reads back, plans, performs every step, collects all
    /// failures. Writes nothing when nothing differs. The container side of endpoints is not looked
    /// at; see [`NetworkNamespace::attach`].
    ///
    /// # Errors
    ///
    /// When the namespace cannot be read back; nothing was changed inside then.
    pub async fn reconcile(
        &mut self,
        desired: &NamespaceDesired,
    ) -> Result<ReconcileReport, KernelError> {
        let mut report = ReconcileReport::default();
        self.restore_netlink().await?;
        self.restore_pin(&mut report);
        self.restore_interface(desired.interface, &mut report).await?;
        for (other, join) in &desired.joins {
            self.restore_join(*other, join, desired.interface.mtu(), &mut report).await?;
        }

        let mut kernel = Namespace { netns: &self.netns, netlink: &mut self.netlink };
        let round = converge::converge(&mut kernel, &desired.tables()).await?;

        report.steps.extend(round.steps);
        report.errors.extend(round.errors);
        report.missing = round.missing.iter().filter_map(|link| endpoint_of(link)).collect();
        Ok(report)
    }

    /// Brings the namespace from `held`, which it holds, to `desired` by the routes that differ,
    /// and reads nothing back. Returns the steps; nothing when more than routes differ or the
    /// kernel refused one, so that it takes a [`NetworkNamespace::reconcile`].
    pub(crate) async fn reroute(
        &mut self,
        held: &NamespaceDesired,
        desired: &NamespaceDesired,
    ) -> Option<Vec<Step>> {
        let steps = desired.route_steps(held)?;
        // With a new connection everything is read back, because of its port id.
        if self.netlink.is_closed() {
            return None;
        }
        let mut kernel = Namespace { netns: &self.netns, netlink: &mut self.netlink };
        let performed = converge::perform_all(&mut kernel, steps).await;
        if let Some(error) = performed.errors.first() {
            tracing::debug!(%error, network = %self.network, "Failed to change a route");
            return None;
        }

        Some(performed.steps)
    }

    /// Makes or heals the container side of an endpoint: veth pair, address, routes. Doing it again
    /// changes only what differs.
    ///
    /// Reconcile before (once) and after, then with the endpoint in it. In between its packets get
    /// nowhere: strict `rp_filter` finds no route back to an IPv4 source, and the last IPv6 rule
    /// drops what no other one lets pass.
    ///
    /// # Errors
    ///
    /// When the sandbox is gone, its interface's name is taken, or it cannot be read back.
    pub async fn attach(
        &mut self,
        endpoint: EndpointId,
        desired: &SandboxDesired,
    ) -> Result<ReconcileReport, KernelError> {
        self.restore_netlink().await?;
        sandbox::attach(&mut self.netlink, &host_ifname(endpoint), desired).await
    }

    /// Lists what differs on the container side of an endpoint. Changes nothing.
    ///
    /// # Errors
    ///
    /// When the sandbox is gone, its interface's name is taken, or it cannot be read back.
    pub async fn check(
        &mut self,
        endpoint: EndpointId,
        desired: &SandboxDesired,
    ) -> Result<Vec<Drift>, KernelError> {
        self.restore_netlink().await?;
        sandbox::check(&mut self.netlink, &host_ifname(endpoint), desired).await
    }

    /// Removes an endpoint's veth pair, both ends. One that is not there is removed already.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub async fn detach(&mut self, endpoint: EndpointId) -> Result<(), KernelError> {
        self.netlink.remove_link(&host_ifname(endpoint)).await
    }

    /// Removes the namespace with everything in it. Queues of the TUN that are still open are dead
    /// afterwards.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; what could be removed is.
    pub async fn delete(mut self) -> Result<(), KernelError> {
        let emptied = empty(&mut self.netlink).await;
        let removed = self.pins.remove(self.network);
        self.lock.remove();

        emptied.and(removed)
    }

    /// Removes the namespace of a network that this process has not opened. One that is not there
    /// is removed already.
    ///
    /// # Errors
    ///
    /// When another process holds it, or the kernel refuses.
    pub async fn delete_leftover(run_dir: &Path, network: NetworkId) -> Result<(), KernelError> {
        let lock = Lock::take(run_dir, network)?;
        let pins = Pins::new(run_dir);
        let emptied = match pins.open(network)? {
            Some(netns) => empty(&mut Netlink::open(&netns).await?).await,
            None => Ok(()),
        };
        let removed = pins.remove(network);
        lock.remove();

        emptied.and(removed)
    }

    /// A connection ends when it cannot read what the kernel sent.
    async fn restore_netlink(&mut self) -> Result<(), KernelError> {
        if self.netlink.is_closed() {
            self.netlink = Netlink::open(&self.netns).await?;
            self.port.set(self.netlink.port());
        }

        Ok(())
    }

    fn restore_pin(&self, report: &mut ReconcileReport) {
        if self.is_pinned() {
            return;
        }
        match self.pins.pin(self.network, &self.netns) {
            Ok(()) => report.steps.push(Step::Pin(self.netns.label().to_owned())),
            Err(error) => report.errors.push(error),
        }
    }

    /// Makes the veth pair to the namespace of a linked network, if that is there: whichever of the
    /// two comes second makes it, and the other one hears of it.
    async fn restore_join(
        &mut self,
        other: NetworkId,
        join: &JoinDesired,
        mtu: u32,
        report: &mut ReconcileReport,
    ) -> Result<(), KernelError> {
        let (near, far) = (join_ifname(other), join_ifname(self.network));
        if self.netlink.link(&near).await?.is_some() {
            return Ok(());
        }
        let Some(netns) = self.pins.open(other)? else { return Ok(()) };
        let mac = sandbox::mac_of(&[join.gateway.into()]);
        let peer = || VethPeer { netns: netns.as_fd(), name: &far, mac };
        let mut made = self.netlink.add_veth(&near, mtu, 0, peer()).await;
        if made.is_err() && self.netlink.link(&near).await?.is_none() {
            // What has the name over there leads to a namespace that was this network's before.
            Netlink::open(&netns).await?.remove_link(&far).await?;
            made = self.netlink.add_veth(&near, mtu, 0, peer()).await;
        }
        match made {
            Ok(()) => report.steps.push(Step::MakeVeth(near)),
            // The other namespace's worker was faster.
            Err(_) if self.netlink.link(&near).await?.is_some() => {}
            Err(error) => report.errors.push(error),
        }

        Ok(())
    }

    async fn restore_interface(
        &mut self,
        desired: InterfaceDesired,
        report: &mut ReconcileReport,
    ) -> Result<(), KernelError> {
        match self.netlink.link(TUN_NAME).await? {
            Some(link) if link.index == self.interface => return Ok(()),
            Some(_foreign) => self.netlink.remove_link(TUN_NAME).await?,
            None => {}
        }
        let (interface, index) = open_interface(&self.netns, &mut self.netlink, desired).await?;
        self.interface = index;
        report.interface = Some(interface);
        report.steps.push(Step::MakeTun(TUN_NAME.to_owned()));

        Ok(())
    }
}

/// Opens the network's interface, and returns its index with it.
async fn open_interface(
    netns: &Netns,
    netlink: &mut Netlink,
    desired: InterfaceDesired,
) -> Result<(NetworkInterface, u32), KernelError> {
    match desired {
        InterfaceDesired::Tun(tun) => {
            let (tun, index) = open_tun(netns, netlink, tun).await?;
            Ok((NetworkInterface::Tun(tun), index))
        }
    }
}

/// Opens the TUN. What stands under its name and is no TUN of ours (other flags) is replaced.
async fn open_tun(
    netns: &Netns,
    netlink: &mut Netlink,
    desired: TunDesired,
) -> Result<(Tun, u32), KernelError> {
    let refused = |source| KernelError::Refused {
        action: "open",
        object: format!("TUN {TUN_NAME} (/dev/net/tun)"),
        namespace: netns.label().to_owned(),
        source,
    };
    // A new device takes its parameters from the defaults.
    let open = move || {
        sysctl::set_defaults();
        Tun::open(desired)
    };

    let mut opened = netns.enter(open).await?;
    if opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
        netlink.remove_link(TUN_NAME).await?;
        opened = netns.enter(open).await?;
    }
    let tun = opened.map_err(refused)?;
    let link = netlink.link(TUN_NAME).await?;
    let index = link
        .map(|link| link.index)
        .ok_or_else(|| refused(std::io::Error::from_raw_os_error(libc::ENODEV)))?;

    Ok((tun, index))
}

/// Removes our links at once: a namespace that somebody still holds would keep containers'
/// interfaces alive.
async fn empty(netlink: &mut Netlink) -> Result<(), KernelError> {
    let links = netlink.links().await?;
    let mut result = Ok(());

    let is_ours = |name: &&String| {
        *name == TUN_NAME || endpoint_of(name).is_some() || joined_by(name).is_some()
    };
    for name in links.keys().filter(is_ours) {
        result = result.and(netlink.remove_link(name).await);
    }

    result
}
