//! A lab that lives as long as its value.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::binary::bin;
use crate::capture::Capture;
use crate::command::HostCommand;
use crate::host::Host;
use crate::process::ProcessIdentity;
use crate::supervisor::{self, LabStarted, Order};
use crate::topology::{Topology, UnderlayKind};

/// How long the hosts may take to disappear once their lab is gone. The kernel takes milliseconds;
/// a loaded machine may take longer.
const TEARDOWN: Duration = Duration::from_secs(10);

/// Hosts on a switch. They disappear with this value, and with the process that has it, however it
/// ends.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    hosts: Vec<Host>,
    supervisor: ProcessIdentity,
    process: Option<Supervisor>,
}

/// The supervisor process, which ends when its input is closed.
#[derive(Debug)]
struct Supervisor {
    child: Child,
    input: Option<ChildStdin>,
}

/// Options of a lab.
#[derive(Clone, Debug)]
pub struct Builder {
    hosts: usize,
    mtu: u32,
    ipv4: Ipv4Net,
    ipv6: Option<Ipv6Net>,
    underlay: UnderlayKind,
}

impl Builder {
    /// Sets the underlay's MTU in bytes; 1500 by default.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Sets the underlay's IPv4 prefix; 192.0.2.0/24 by default.
    #[must_use]
    pub fn ipv4(mut self, prefix: Ipv4Net) -> Self {
        self.ipv4 = prefix;
        self
    }

    /// Sets the underlay's IPv6 prefix, or none; `2001:db8::/64` by default.
    #[must_use]
    pub fn ipv6(mut self, prefix: Option<Ipv6Net>) -> Self {
        self.ipv6 = prefix;
        self
    }

    /// Puts a router between the hosts instead of a switch.
    #[must_use]
    pub fn routed(mut self) -> Self {
        self.underlay = UnderlayKind::Router;
        self
    }

    /// Makes the lab.
    ///
    /// # Errors
    ///
    /// If the options are invalid, or the system allows no namespaces.
    pub fn start(&self) -> Result<Lab> {
        self.start_as(false)
    }

    /// Makes a lab that remains when this program ends, until its supervisor is stopped.
    pub(crate) fn start_to_stay(&self) -> Result<Lab> {
        self.start_as(true)
    }

    fn start_as(&self, stays: bool) -> Result<Lab> {
        let id = format!("{:08x}", rand::random::<u32>());
        let topology = Topology::new(id, self.hosts, self.mtu, self.ipv4, self.ipv6)?;

        Lab::start(Topology { underlay: self.underlay, ..topology }, stays)
    }
}

impl Lab {
    /// Makes a lab of `hosts` hosts with an underlay of both families and an MTU of 1500.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub fn new(hosts: usize) -> Result<Self> {
        Self::builder(hosts).start()
    }

    /// Starts to configure a lab of `hosts` hosts.
    #[must_use]
    pub fn builder(hosts: usize) -> Builder {
        Builder {
            hosts,
            mtu: 1500,
            ipv4: Topology::IPV4,
            ipv6: Some(Topology::IPV6),
            underlay: UnderlayKind::Switch,
        }
    }

    fn start(topology: Topology, stays: bool) -> Result<Self> {
        let order = serde_json::to_string(&Order { topology: topology.clone(), stays })?;
        let errors = tempfile::tempfile()?;
        let mut child = Command::new(bin("overlay-lab")?)
            .args([supervisor::COMMAND, &order])
            .env("OVERLAY_LAB", &topology.id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .spawn()
            .context("cannot start a lab")?;

        let mut line = String::new();
        let output = child.stdout.take().context("the lab has an output")?;
        BufReader::new(output.take(1 << 20)).read_line(&mut line)?;
        let Ok(report) = serde_json::from_str::<LabStarted>(&line) else {
            child.wait()?;
            bail!("cannot make a lab: {}", reason(&errors));
        };

        let supervisor =
            ProcessIdentity::of(i32::try_from(child.id())?).context("the lab is gone already")?;
        let hosts = Self::hosts_of(&topology, &report.hosts)?;
        let input = child.stdin.take();
        Ok(Self { topology, hosts, supervisor, process: Some(Supervisor { child, input }) })
    }

    fn hosts_of(topology: &Topology, inits: &[i32]) -> Result<Vec<Host>> {
        let pairs = topology.hosts.iter().zip(inits);

        pairs
            .map(|(plan, pid)| {
                let init = ProcessIdentity::of(*pid)
                    .with_context(|| format!("{} is gone already", plan.name))?;
                Ok(Host::new(plan.clone(), topology.id.clone(), init))
            })
            .collect()
    }

    /// Returns the lab's names and addresses.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Returns the host with this index, from 0.
    ///
    /// # Panics
    ///
    /// If the lab has fewer hosts.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// Returns all hosts, in order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub(crate) fn supervisor(&self) -> ProcessIdentity {
        self.supervisor
    }

    /// Captures on the switch from now on; with a marker, counts the frames that contain it.
    ///
    /// # Errors
    ///
    /// If the capture cannot be started.
    pub fn capture(&self, marker: Option<&str>) -> Result<Capture> {
        Capture::start(self.on_switch()?.arg("capture"), marker, None)
    }

    /// As [`Lab::capture`], and writes the frames to a pcap file.
    ///
    /// # Errors
    ///
    /// If the capture cannot be started.
    pub fn capture_to(&self, marker: Option<&str>, file: &std::path::Path) -> Result<Capture> {
        Capture::start(self.on_switch()?.arg("capture"), marker, Some(file))
    }

    /// Captures on the router's link to one host, in both directions, from now on.
    ///
    /// # Errors
    ///
    /// If the capture cannot be started.
    pub fn capture_link(&self, host: usize) -> Result<Capture> {
        Capture::start(
            self.on_switch()?.args(["capture", "--interface", &supervisor::port(host)]),
            None,
            None,
        )
    }

    /// Sets the largest packet, in bytes, that the router forwards to a host; at least 1280 for
    /// IPv6.
    ///
    /// # Errors
    ///
    /// If the hosts have no router between them.
    pub fn set_path_mtu(&self, host: usize, mtu: u32) -> Result<()> {
        ensure!(self.topology.underlay == UnderlayKind::Router, "only a router tells paths apart");
        let addresses = self.topology.hosts[host].addresses();
        for address in addresses.filter(|address| address.is_ipv4() || mtu >= 1280) {
            let args =
                ["path-mtu", &supervisor::port(host), &address.to_string(), &mtu.to_string()];
            self.on_switch()?.args(args).run()?;
        }

        Ok(())
    }

    /// Stops the router from sending ICMP errors for packets that are too large, or lets it send
    /// them again. Needs the `nft` program.
    ///
    /// # Errors
    ///
    /// If `nft` is missing or fails.
    pub fn mute_router(&self, is_mute: bool) -> Result<()> {
        const RULES: &str = "table inet lab_router { chain output { type filter hook output priority 0; \
            icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }";

        let nft =
            HostCommand::new(self.supervisor.pid, "router", &self.topology.id, "nft".as_ref())?;
        let nft = if is_mute { nft.arg(RULES) } else { nft.args(["flush", "ruleset"]) };
        nft.run().context("this needs the nft program").map(drop)
    }

    /// Puts exactly these hosts behind address translation: others see them with the router's
    /// address, and can only answer them. Needs the `nft` program.
    ///
    /// # Errors
    ///
    /// If the hosts have no router between them, or `nft` is missing or fails.
    pub fn translate(&self, hosts: &[usize]) -> Result<()> {
        ensure!(self.topology.underlay == UnderlayKind::Router, "only a router translates");
        let links: Vec<_> =
            hosts.iter().map(|host| format!("{:?}", supervisor::port(*host))).collect();
        let addresses: Vec<_> =
            hosts.iter().map(|host| self.topology.hosts[*host].ipv4.to_string()).collect();
        let (links, addresses) = (links.join(", "), addresses.join(", "));
        let rules = format!(
            "table ip lab_nat {{ chain out {{ type nat hook postrouting priority 100; ip saddr {{ {addresses} }} \
             masquerade; }}; chain in {{ type filter hook forward priority 0; iifname != {{ {links} }} \
             ip daddr {{ {addresses} }} ct state new drop; iifname {{ {links} }} ip daddr {{ {addresses} }} \
             ct state new drop; }}; }}"
        );
        let nft =
            || HostCommand::new(self.supervisor.pid, "router", &self.topology.id, "nft".as_ref());
        nft()?
            .arg("table ip lab_nat; delete table ip lab_nat")
            .run()
            .context("this needs the nft program")?;
        if !hosts.is_empty() {
            nft()?.arg(rules).run()?;
        }

        Ok(())
    }

    /// Drops everything between the underlay addresses of two hosts, silently.
    ///
    /// # Errors
    ///
    /// If a host is gone.
    pub fn partition(&self, one: usize, other: usize) -> Result<()> {
        self.each_way(one, other, |host, address| host.args(["neighbour", "lose", &address]))
    }

    /// Undoes [`Lab::partition`].
    ///
    /// # Errors
    ///
    /// If a host is gone.
    pub fn heal(&self, one: usize, other: usize) -> Result<()> {
        self.each_way(one, other, |host, address| host.args(["neighbour", "find", &address]))
    }

    fn each_way(
        &self,
        one: usize,
        other: usize,
        change: impl Fn(HostCommand, String) -> HostCommand,
    ) -> Result<()> {
        for (near, far) in [(one, other), (other, one)] {
            let (near, far) = (self.host(near), self.host(far));
            for address in far.plan().addresses() {
                change(near.try_command("overlay-lab")?, address.to_string()).run()?;
            }
        }

        Ok(())
    }

    /// Takes the carrier from a host's `eth0`, as if its cable were unplugged.
    ///
    /// # Errors
    ///
    /// If the lab is gone.
    pub fn unplug(&self, host: usize) -> Result<()> {
        self.on_switch()?.args(["link", &supervisor::port(host), "down"]).run().map(drop)
    }

    /// Plugs the host's cable in again.
    ///
    /// # Errors
    ///
    /// If the lab is gone.
    pub fn plug(&self, host: usize) -> Result<()> {
        self.on_switch()?.args(["link", &supervisor::port(host), "up"]).run().map(drop)
    }

    fn on_switch(&self) -> Result<HostCommand> {
        HostCommand::new(self.supervisor.pid, "switch", &self.topology.id, "overlay-lab".as_ref())
    }

    /// Takes the lab down and checks that all of its hosts are gone.
    ///
    /// # Errors
    ///
    /// If a host remains.
    pub fn finish(mut self) -> Result<()> {
        self.stop();

        let left: Vec<_> = self.hosts.iter().filter(|host| host.is_up()).map(Host::name).collect();
        ensure!(left.is_empty(), "still there after the end of the lab: {}", left.join(", "));
        Ok(())
    }

    /// Keeps the lab when this value is dropped.
    pub(crate) fn leave_running(mut self) -> Self {
        if let Some(mut supervisor) = self.process.take() {
            drop(supervisor.input.take());
        }
        self
    }

    fn stop(&mut self) {
        let Some(mut supervisor) = self.process.take() else { return };
        drop(supervisor.input.take());
        let stopped = crate::process::ProcessHandle::open(self.supervisor.pid)
            .is_ok_and(|handle| handle.wait_gone(TEARDOWN));
        if !stopped {
            let _ = supervisor.child.kill();
        }
        let _ = supervisor.child.wait();
        crate::docker::forget(&self.topology.id);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop();
    }
}

fn reason(errors: &std::fs::File) -> String {
    let mut bytes = vec![0; 16 * 1024];
    let read = errors.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]);
    let lines: Vec<_> = text.lines().map(|line| line.trim_start_matches("overlay-lab: ")).collect();

    if lines.is_empty() { "no reason given".to_owned() } else { lines.join("; ") }
}
