//! The process behind a lab: it lives in the switch's namespace, makes the hosts, and ends them
//! when it ends.
//!
//! It ends when its standard input does (the lab of a test or a demo dies with the program that
//! made it, however that dies), or on SIGTERM (a lab that stays up). If the supervisor itself is
//! killed, the kernel kills the hosts.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2, setsid};
use serde::{Deserialize, Serialize};

use crate::host_init::{self, HostSetup};
use crate::namespace::{drop_standard_streams, enter_new_network, spawn_host, within_network};
use crate::netlink::{NetlinkHandle, block_on};
use crate::topology::{HostPlan, Topology, UnderlayKind};

/// The hidden subcommand that runs [`supervise`].
pub(crate) const COMMAND: &str = "__keep";
/// The name of the switch.
pub(crate) const BRIDGE: &str = "sw0";
/// The name of a host's link to the switch.
pub(crate) const UPLINK: &str = "eth0";

/// The supervisor's instructions.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    /// The lab to make.
    pub(crate) topology: Topology,
    /// Whether the lab remains when the standard input ends.
    pub(crate) stays: bool,
}

/// The supervisor's report that the lab is made.
#[derive(Serialize, Deserialize)]
pub(crate) struct LabStarted {
    /// The process ids of the hosts' first processes, in order.
    pub(crate) hosts: Vec<i32>,
}

/// Returns the switch's end of the link to host number `index`.
pub(crate) fn port(index: usize) -> String {
    format!("port{}", index + 1)
}

/// Makes the lab, reports it, and holds it.
///
/// # Errors
///
/// If the lab cannot be made.
pub(crate) fn supervise(order: &str) -> Result<()> {
    let order: Order =
        serde_json::from_str(order).context("a lab is started by `overlay-lab up` or a test")?;
    // Detached from the terminal: its Ctrl-C is for the program that made the lab.
    let _ = setsid();
    let stop = block_stop_signals()?;
    enter_new_network()?;

    let mut hosts = Hosts::default();
    hosts.start(&order.topology)?;
    block_on(connect(&order.topology, &hosts.pids))?;

    let report = LabStarted { hosts: hosts.pids.iter().map(|pid| pid.as_raw()).collect() };
    writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    drop_standard_streams()?;

    wait_for_stop(&stop, (!order.stays).then_some(&input))
}

/// The first processes of the hosts; dropping them kills them, so that nothing is left if the
/// supervisor ends early.
#[derive(Default)]
struct Hosts {
    pids: Vec<Pid>,
}

impl Hosts {
    fn start(&mut self, topology: &Topology) -> Result<()> {
        let mut pipes = Vec::new();
        for host in &topology.hosts {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            self.pids.push(start_host(host, topology, &write)?);
            pipes.push((host, File::from(read)));
        }

        pipes.into_iter().try_for_each(|(host, pipe)| wait_ready(host, pipe))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for pid in &self.pids {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        for pid in &self.pids {
            let _ = waitpid(*pid, None);
        }
    }
}

fn start_host(host: &HostPlan, topology: &Topology, ready: &OwnedFd) -> Result<Pid> {
    let part = HostSetup { host: host.name.clone(), hosts_file: topology.hosts_file() };
    let null = File::open("/dev/null")?;

    spawn_host(&["overlay-lab", host_init::COMMAND, &serde_json::to_string(&part)?], &null, ready)
}

fn wait_ready(host: &HostPlan, pipe: File) -> Result<()> {
    let mut said = Vec::new();
    pipe.take(host_init::READY.len() as u64).read_to_end(&mut said)?;
    if said != host_init::READY {
        bail!("{} could not be made (see the line above)", host.name);
    }

    Ok(())
}

async fn connect(topology: &Topology, hosts: &[Pid]) -> Result<()> {
    let home = File::open("/proc/self/ns/net").context("cannot open the switch's namespace")?;
    let switch = NetlinkHandle::open()?;
    switch.set_up("lo", true).await?;
    match topology.underlay {
        UnderlayKind::Switch => {
            switch.add_bridge(BRIDGE, topology.mtu).await?;
            address_gateway(&switch, BRIDGE, topology).await?;
        }
        UnderlayKind::Router => forward()?,
    }

    for (index, (host, pid)) in topology.hosts.iter().zip(hosts).enumerate() {
        let namespace =
            File::open(format!("/proc/{pid}/ns/net")).context("cannot open a host's namespace")?;
        let bridge = (topology.underlay == UnderlayKind::Switch).then_some(BRIDGE);
        switch.add_port(bridge, &port(index), (UPLINK, namespace.as_fd()), topology.mtu).await?;
        if topology.underlay == UnderlayKind::Router {
            address_gateway(&switch, &port(index), topology).await?;
            for address in host.addresses() {
                switch.set_host_route(&port(index), address, None).await?;
            }
        }
        let network = within_network(&namespace, &home, NetlinkHandle::open)?;
        configure(&network, host, topology)
            .await
            .with_context(|| format!("cannot connect {}", host.name))?;
    }

    Ok(())
}

async fn address_gateway(switch: &NetlinkHandle, link: &str, topology: &Topology) -> Result<()> {
    let len = |prefix_len, whole| {
        if topology.underlay == UnderlayKind::Switch { prefix_len } else { whole }
    };
    switch
        .add_address(link, topology.gateway_v4().into(), len(topology.ipv4.prefix_len(), 32))
        .await?;
    if let (Some(address), Some(prefix)) = (topology.gateway_v6(), topology.ipv6) {
        switch.add_address(link, address.into(), len(prefix.prefix_len(), 128)).await?;
    }

    Ok(())
}

/// Enables forwarding in the namespace of this thread.
fn forward() -> Result<()> {
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{file}"), "1")
            .with_context(|| format!("cannot set {file}"))?;
    }

    Ok(())
}

async fn configure(network: &NetlinkHandle, host: &HostPlan, topology: &Topology) -> Result<()> {
    let is_alone = topology.underlay == UnderlayKind::Router;
    network.set_up("lo", true).await?;
    let len = if is_alone { 32 } else { topology.ipv4.prefix_len() };
    network.add_address(UPLINK, host.ipv4.into(), len).await?;
    network.set_up(UPLINK, true).await?;
    if is_alone {
        network.set_host_route(UPLINK, topology.gateway_v4().into(), None).await?;
    }
    network.add_default_route(topology.gateway_v4().into()).await?;
    if let (Some(address), Some(prefix), Some(gateway)) =
        (host.ipv6, topology.ipv6, topology.gateway_v6())
    {
        let len = if is_alone { 128 } else { prefix.prefix_len() };
        network.add_address(UPLINK, IpAddr::V6(address), len).await?;
        if is_alone {
            network.set_host_route(UPLINK, gateway.into(), None).await?;
        }
        network.add_default_route(IpAddr::V6(gateway)).await?;
    }

    Ok(())
}

fn block_stop_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;

    Ok(SignalFd::new(&set)?)
}

/// Returns on a signal, or when `input` ends.
fn wait_for_stop(stop: &SignalFd, input: Option<&File>) -> Result<()> {
    let mut watched = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    watched.extend(input.map(|input| PollFd::new(input.as_fd(), PollFlags::POLLIN)));
    loop {
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait"),
        }
    }
}
