//! One host of a lab, and what can be done to it from outside.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{CommandOutput, HostCommand};
use crate::process::ProcessIdentity;
use crate::snapshot::Snapshot;
use crate::topology::HostPlan;
use crate::wait_until;

/// How long a host may take until its addresses accept packets.
const READY: Duration = Duration::from_secs(20);

/// One host of a lab.
#[derive(Clone, Debug)]
pub struct Host {
    plan: HostPlan,
    lab: String,
    init: ProcessIdentity,
}

impl Host {
    pub(crate) fn new(plan: HostPlan, lab: String, init: ProcessIdentity) -> Self {
        Self { plan, lab, init }
    }

    /// Returns the host's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Returns the lab it is in.
    #[must_use]
    pub(crate) fn lab(&self) -> &str {
        &self.lab
    }

    /// Returns the host's name and addresses.
    #[must_use]
    pub fn plan(&self) -> &HostPlan {
        &self.plan
    }

    /// Returns the host's IPv4 address on the underlay.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.plan.ipv4.into()
    }

    /// Returns the process id of the host's first process.
    #[must_use]
    pub fn init_pid(&self) -> i32 {
        self.init.pid
    }

    /// Returns whether the host is still there.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.init.is_alive()
    }

    /// Returns a command to be run on this host. The workspace's own programs are found by name.
    ///
    /// # Panics
    ///
    /// If the workspace's programs have not been built; [`Host::try_command`] returns that as an
    /// error.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> HostCommand {
        self.try_command(program).expect("the workspace's programs are built")
    }

    /// Returns a command to be run on this host.
    ///
    /// # Errors
    ///
    /// If the host is gone, or the program is one of the workspace's and has not been built.
    pub fn try_command(&self, program: impl AsRef<OsStr>) -> Result<HostCommand> {
        if !self.is_up() {
            bail!("{} is down", self.plan.name);
        }

        HostCommand::new(self.init.pid, &self.plan.name, &self.lab, program.as_ref())
    }

    /// Runs a script on this host; the first command that fails ends it.
    ///
    /// # Errors
    ///
    /// If the host is gone, or the script fails.
    pub(crate) fn shell(&self, script: &str) -> Result<CommandOutput> {
        self.try_command("sh")?.args(["-ec", script]).run()
    }

    /// Sets a firewall policy that container hosts often have: nothing is forwarded. Needs the
    /// `nft` program.
    ///
    /// # Errors
    ///
    /// If `nft` is missing or fails.
    pub fn set_firewall_drop_forward(&self) -> Result<()> {
        const RULES: &str = "table inet lab_firewall { chain forward { type filter hook forward priority 0; policy drop; }; }";

        self.try_command("nft")?.arg(RULES).run().context("this needs the nft program")?;
        Ok(())
    }

    /// Sets the host's name servers.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn set_resolvers(&self, resolvers: &[IpAddr]) -> Result<()> {
        let text: String =
            resolvers.iter().map(|address| format!("nameserver {address}\n")).collect();

        self.write("/etc/resolv.conf", &text)
    }

    /// Writes a file on the host.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, text: &str) -> Result<()> {
        let tee = self.try_command("tee")?.arg(path.as_ref()).input(text)?;

        tee.run().map(drop)
    }

    /// Returns the ids, inside the host, of the processes whose program has this name.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub fn pids_of(&self, program: &str) -> Result<Vec<i32>> {
        let output = self.try_command("overlay-lab")?.args(["pids", program]).run()?;

        output.stdout.lines().map(|line| Ok(line.parse()?)).collect()
    }

    /// Sends a signal to a process of the host, given by its id inside the host.
    ///
    /// # Errors
    ///
    /// If there is no such process.
    pub fn kill(&self, pid: i32, signal: &str) -> Result<()> {
        self.try_command("overlay-lab")?.args(["kill", signal, &pid.to_string()]).run().map(drop)
    }

    /// Returns what the host has at the moment; `folders` are listed with their contents.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub fn snapshot(&self, folders: &[&str]) -> Result<Snapshot> {
        let output = self.try_command("overlay-lab")?.arg("snapshot").args(folders).run()?;

        serde_json::from_str(&output.stdout).context("overlay-lab snapshot wrote something else")
    }

    /// As [`Host::snapshot`], once every address of the host accepts packets, whose routes the
    /// kernel adds a moment later, and its agent knows all of its endpoints.
    ///
    /// # Errors
    ///
    /// If the host is gone, or that is not so within 20 s.
    pub fn snapshot_at_rest(&self, folders: &[&str]) -> Result<Snapshot> {
        let mut seen = self.snapshot(folders)?;
        let settled = wait_until(READY, "the host is as it will be", || {
            // If the host cannot be examined, that is noticed by the next step.
            seen = self.snapshot(folders).unwrap_or_else(|_| seen.clone());
            seen.unfinished().is_none()
        });
        settled.with_context(|| format!("{:?}", seen.unfinished()))?;

        Ok(seen)
    }
}
