//! The competitors: paths from one host to the other.

use anyhow::Result;

use super::nebula::Nebula;
use super::policy;
use crate::cluster::Cluster;
use crate::command::HostCommand;
use crate::competitor_tunnel::CompetitorTunnel;
use crate::stock::Stock;

/// The network of Overlay's containers.
pub(super) const NETWORK: &str = "net";
/// The name of Overlay in all tables.
pub(super) const OVERLAY: &str = "overlay";
/// The name of Overlay with a policy.
pub(super) const WITH_POLICY: &str = "with policy";
/// The name of the bare underlay.
pub(super) const BARE: &str = "bare";

/// One competitor, with what is needed to carry packets.
#[derive(Debug)]
pub(super) enum Competitor {
    /// The underlay without a tunnel, which shows what hosts, sender and receiver cost.
    Bare,
    /// Overlay, from container to container.
    Overlay,
    /// The same in a network with a policy of many rules.
    WithPolicy,
    /// Another userspace WireGuard implementation, from host to host.
    Tunnel(CompetitorTunnel),
    /// Nebula, from host to host.
    Nebula(Nebula),
}

impl Competitor {
    /// Starts all that are wanted and installed; also returns which are missing and how to install
    /// them.
    pub(super) fn start_all(
        cluster: &Cluster,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(Vec<Self>, Vec<String>)> {
        let (near, far) = (cluster.host(0), cluster.host(1));
        let (mut started, mut missing) = (vec![Self::Bare, Self::Overlay], Vec::new());
        started.retain(|one| matches!(one, Self::Overlay) || wanted(BARE));
        for stock in Stock::ALL.into_iter().filter(|stock| wanted(stock.program())) {
            if stock.is_installed() {
                started.push(Self::Tunnel(CompetitorTunnel::start(stock, near, far)?));
            } else {
                missing.push(format!("{} (`{}`)", stock.program(), stock.source()));
            }
        }
        if wanted(Nebula::PROGRAM) {
            if Nebula::is_installed() {
                started.push(Self::Nebula(Nebula::start(near, far)?));
            } else {
                missing.push(format!("{} (`apt-get install nebula`)", Nebula::PROGRAM));
            }
        }

        Ok((started, missing))
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Bare => BARE,
            Self::Overlay => OVERLAY,
            Self::WithPolicy => WITH_POLICY,
            Self::Tunnel(tunnel) => tunnel.stock().program(),
            Self::Nebula(_) => Nebula::PROGRAM,
        }
    }

    /// Returns the program that carries it, if there is one.
    pub(super) fn program(&self) -> Option<&'static str> {
        match self {
            Self::Bare => None,
            Self::Overlay | Self::WithPolicy => Some("overlayd"),
            Self::Tunnel(_) | Self::Nebula(_) => Some(self.name()),
        }
    }

    /// Returns the version that its program prints, in one line.
    pub(super) fn version(&self, cluster: &Cluster) -> Option<String> {
        let option = if matches!(self, Self::Nebula(_)) { "-version" } else { "--version" };
        let output =
            cluster.host(0).try_command(self.program()?).ok()?.arg(option).output().ok()?;

        output.stdout.lines().chain(output.stderr.lines()).next().map(str::to_owned)
    }

    /// Returns the command that runs one of this program's tools at the sending end; `role` names
    /// the container that it may become.
    pub(super) fn tool(&self, cluster: &Cluster, role: &str) -> Result<HostCommand> {
        match self {
            Self::Overlay => cluster.container(0, NETWORK, role),
            Self::WithPolicy => cluster.container(0, policy::NETWORK, role),
            Self::Bare | Self::Tunnel(_) | Self::Nebula(_) => {
                cluster.host(0).try_command("overlay-lab")
            }
        }
    }

    /// Returns the address of the server of `role`.
    pub(super) fn address(&self, cluster: &Cluster, role: &str) -> String {
        match self {
            Self::Bare => cluster.host(1).address().to_string(),
            Self::Overlay | Self::WithPolicy => role.to_owned(),
            Self::Tunnel(tunnel) => tunnel.address(),
            Self::Nebula(nebula) => nebula.address(),
        }
    }
}
