//! Overlay on the hosts of a lab, controlled as an operator would do: with `overlayctl`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{CommandOutput, HostCommand, Running};
use crate::daemon::Daemon;
use crate::host::Host;
use crate::lab::Lab;
use crate::snapshot::Snapshot;
use crate::wait_until;

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// The folders in which the workspace's programs keep files on a host.
pub(crate) const FOLDERS: [&str; 3] = ["/run", "/etc", "/var/lib"];

/// Hosts with Overlay on them: host 0 has control and is the first node, the others have joined.
///
/// The order of the fields is that of teardown: daemons before hosts.
#[derive(Debug)]
pub struct Cluster {
    restarted: Vec<Running>,
    before: Vec<Snapshot>,
    join: String,
    lab: Lab,
}

/// The command that makes a cluster. Some have more hosts than a join line admits by default.
const INIT: [&str; 6] = ["init", "--json", "--ttl", "24h", "--uses", "1000"];

impl Cluster {
    /// Makes `nodes` hosts and sets up Overlay on them.
    ///
    /// # Errors
    ///
    /// If the hosts cannot be made, or `overlayctl` fails.
    pub fn new(nodes: usize) -> Result<Self> {
        Self::on(Lab::new(nodes)?)
    }

    /// Sets up Overlay on the hosts of `lab`.
    ///
    /// # Errors
    ///
    /// If `overlayctl` fails.
    pub fn on(lab: Lab) -> Result<Self> {
        Self::advertising(lab, &[])
    }

    /// Sets up Overlay on the hosts of `lab`, each of which advertises one of these addresses; if
    /// there are none, each advertises all of its own.
    ///
    /// # Errors
    ///
    /// If `overlayctl` fails.
    pub fn advertising(lab: Lab, addresses: &[IpAddr]) -> Result<Self> {
        let told = |host: usize| {
            let address = addresses.get(host).map(ToString::to_string);

            address.map(|address| ["--advertise".to_owned(), address]).into_iter().flatten()
        };
        let before = lab
            .hosts()
            .iter()
            .map(|host| host.snapshot_at_rest(&FOLDERS))
            .collect::<Result<_>>()?;
        let output = lab.host(0).try_command("overlayctl")?.args(INIT).args(told(0)).run()?;
        let answer: serde_json::Value =
            serde_json::from_str(&output.stdout).context("init printed no JSON")?;
        let join = answer["join"].as_str().context("init printed no join line")?.to_owned();
        for (index, host) in lab.hosts().iter().enumerate().skip(1) {
            host.try_command("overlayctl")?.args(["join", &join]).args(told(index)).run()?;
        }

        Ok(Self { restarted: Vec::new(), before, join, lab })
    }

    /// Returns the hosts.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Returns one host.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        self.lab.host(index)
    }

    /// Returns the line that `init` printed.
    #[must_use]
    pub fn join_line(&self) -> &str {
        &self.join
    }

    /// Runs `overlayctl` on a host.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn ctl(&self, host: usize, args: &[&str]) -> Result<CommandOutput> {
        self.host(host).try_command("overlayctl")?.args(args).run()
    }

    /// Runs `overlayctl … --json` on a host and parses its output.
    ///
    /// # Errors
    ///
    /// If it fails or the output is not JSON.
    pub fn ctl_json(&self, host: usize, args: &[&str]) -> Result<serde_json::Value> {
        let output = self.host(host).try_command("overlayctl")?.args(args).arg("--json").run()?;

        serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {}", output.stdout))
    }

    /// Replaces the cluster's policy from the first host by `overlayctl policy HOW`: `apply` or
    /// `shadow`.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub fn put_policy(&self, how: &str, document: &str) -> Result<CommandOutput> {
        let put = self.host(0).try_command("overlayctl")?.args(["policy", how, "/dev/stdin"]);

        put.input(document)?.run()
    }

    /// Returns the rows of `endpoint ls` on a host.
    ///
    /// # Errors
    ///
    /// If it fails or the output is not JSON.
    pub fn endpoints(&self, host: usize) -> Result<Vec<serde_json::Value>> {
        let list = self.ctl_json(host, &["endpoint", "ls"])?;

        list.as_array().cloned().context("endpoint ls --json is no list")
    }

    /// Returns the names of all endpoints.
    ///
    /// # Errors
    ///
    /// As [`Cluster::endpoints`].
    pub fn endpoint_names(&self, host: usize) -> Result<Vec<String>> {
        Ok(self
            .endpoints(host)?
            .iter()
            .filter_map(|row| Some(row["name"].as_str()?.to_owned()))
            .collect())
    }

    /// Returns whether a host lists an endpoint of this name.
    pub fn lists(&self, host: usize, name: &str) -> bool {
        self.endpoint_names(host).is_ok_and(|names| names.iter().any(|known| known == name))
    }

    /// Returns the first address of an endpoint.
    ///
    /// # Errors
    ///
    /// If no such endpoint is listed.
    pub fn address_of(&self, host: usize, name: &str) -> Result<String> {
        let rows = self.endpoints(host)?;
        let row = rows.iter().find(|row| row["name"] == name);
        let address =
            row.and_then(|row| row["addresses"].get(0)).and_then(|address| address.as_str());

        address.map(str::to_owned).with_context(|| format!("{name} is not listed"))
    }

    /// Checks that no address is assigned twice, and returns how many there are.
    ///
    /// # Errors
    ///
    /// If one is.
    pub fn distinct_addresses(&self, host: usize) -> Result<usize> {
        let rows = self.endpoints(host)?;
        let of = |row: &serde_json::Value| {
            let addresses = row["addresses"].as_array().cloned().unwrap_or_default();
            let network = row["network"].clone();
            addresses
                .into_iter()
                .map(move |address| format!("{network} {address}"))
                .collect::<Vec<_>>()
        };
        let addresses: Vec<_> = rows.iter().flat_map(of).collect();
        let distinct: BTreeSet<_> = addresses.iter().collect();
        ensure!(distinct.len() == addresses.len(), "an address is live twice: {addresses:?}");

        Ok(addresses.len())
    }

    /// Returns a command that runs one of this program's tools in a container called `name`, which
    /// is a process in a network namespace of its own.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub fn container(&self, host: usize, network: &str, name: &str) -> Result<HostCommand> {
        let run = ["run", "--network", network, "--name", name, "--", "overlay-lab"];

        Ok(self.host(host).try_command("overlayctl")?.args(run))
    }

    /// Starts a container and waits until it has printed `said`.
    ///
    /// # Errors
    ///
    /// If it ends before that, or takes too long.
    pub fn serve(
        &self,
        host: usize,
        network: &str,
        name: &str,
        args: &[&str],
        said: &str,
    ) -> Result<Running> {
        let mut running = self.container(host, network, name)?.args(args).spawn()?;
        wait_until(PATIENCE, said, || running.stdout().contains(said) || !running.is_running())?;
        ensure!(
            running.is_running(),
            "{name} ended early: {}{}",
            running.stdout(),
            running.stderr()
        );

        Ok(running)
    }

    /// Starts an HTTP server as container `name`.
    ///
    /// # Errors
    ///
    /// As [`Cluster::serve`].
    pub fn serve_http(&self, host: usize, network: &str, name: &str) -> Result<Running> {
        self.serve(host, network, name, &["serve-http", "--name", name], "listens on")
    }

    /// Fetches `http://<from>:8080/hello` in a container of its own; the server must answer with
    /// its name.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn fetch(&self, host: usize, network: &str, name: &str, from: &str) -> Result<()> {
        let url = format!("http://{from}:8080/hello");
        let output = self.container(host, network, name)?.args(["fetch", &url]).run()?;

        let server = from.split('.').next().unwrap_or(from);
        let expected = format!("hello from {server}\n");
        ensure!(
            output.stdout == expected || from.parse::<IpAddr>().is_ok(),
            "{from} said: {}",
            output.stdout
        );
        Ok(())
    }

    /// Returns the agent of a host.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn agent(&self, host: usize) -> Result<Daemon> {
        Daemon::find(self.host(host), "overlayd")
    }

    /// Returns the control service.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn control(&self) -> Result<Daemon> {
        Daemon::find(self.host(0), "overlay-control")
    }

    /// Restarts a killed daemon; it then ends with the cluster.
    ///
    /// # Errors
    ///
    /// If its host is gone.
    pub fn restart(&mut self, daemon: &Daemon) -> Result<()> {
        // Daemons that were started here and have died are reaped.
        self.restarted.retain_mut(Running::is_running);
        self.restarted.push(daemon.start()?);
        Ok(())
    }

    /// Restarts a killed daemon with another destination for its log; it then ends with the
    /// cluster.
    ///
    /// # Errors
    ///
    /// If its host is gone.
    pub(crate) fn restart_logging_to(&mut self, daemon: &Daemon, log: &str) -> Result<()> {
        self.restarted.retain_mut(Running::is_running);
        self.restarted.push(daemon.logging_to(log)?.spawn()?);
        Ok(())
    }

    /// Restarts a killed daemon without a capability; it then ends with the cluster.
    ///
    /// # Errors
    ///
    /// If its host is gone.
    pub(crate) fn restart_without(&mut self, daemon: &Daemon, capability: &str) -> Result<()> {
        self.restarted.retain_mut(Running::is_running);
        self.restarted.push(daemon.without(capability)?.spawn()?);
        Ok(())
    }

    /// Waits until the agent of a host answers.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub fn wait_for_agent(&self, host: usize) -> Result<Duration> {
        let answers = || {
            let status = self.host(host).try_command("overlayctl")?.arg("status").output()?;
            Ok::<_, anyhow::Error>(status.status.success())
        };

        wait_until(PATIENCE, "the agent answers", || answers().unwrap_or(false))
            .with_context(|| self.last_words())
    }

    /// Returns the last output of the restarted daemons, for an error.
    fn last_words(&self) -> String {
        let words =
            self.restarted.iter().map(|daemon| format!("{}{}", daemon.stdout(), daemon.stderr()));
        let lines: Vec<_> = words
            .flat_map(|text| text.lines().rev().take(5).map(str::to_owned).collect::<Vec<_>>())
            .collect();

        lines.join("\n")
    }

    /// Waits until the agent of a host has a connection to control.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub fn wait_for_control(&self, host: usize) -> Result<Duration> {
        let connected = || {
            Ok::<_, anyhow::Error>(
                self.ctl_json(host, &["status"])?["control"]["connected"] == true,
            )
        };

        wait_until(PATIENCE, "the agent finds control", || connected().unwrap_or(false))
    }

    /// Returns the hosts alone, for callers that have already made them leave.
    #[must_use]
    pub(crate) fn into_lab(self) -> Lab {
        self.lab
    }

    /// Makes all hosts leave and checks that nothing is left on any of them.
    ///
    /// # Errors
    ///
    /// If a host cannot leave, or something is left.
    pub fn finish(self) -> Result<()> {
        self.finish_by(&["leave"])
    }

    /// As [`Self::finish`], for a cluster with nodes that are not among its hosts and lose their
    /// control.
    ///
    /// # Errors
    ///
    /// Those of [`Self::finish`].
    pub(crate) fn finish_with_strangers(self) -> Result<()> {
        self.finish_by(&["leave", "--force"])
    }

    fn finish_by(mut self, leave: &[&str]) -> Result<()> {
        for index in (0..self.lab.hosts().len()).rev() {
            self.wait_for_control(index)?;
            self.ctl(index, leave)?;
        }
        self.restarted.clear();
        self.unchanged()?;

        self.lab.finish()
    }

    /// Checks that the hosts, which must have left, are as they were before.
    ///
    /// # Errors
    ///
    /// If something is left.
    pub fn unchanged(&self) -> Result<()> {
        for (host, before) in self.lab.hosts().iter().zip(&self.before) {
            before
                .assert_unchanged(|| host.snapshot(&FOLDERS))
                .with_context(|| format!("on {}", host.name()))?;
        }

        Ok(())
    }
}
