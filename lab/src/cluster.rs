//! Overlay itself on the hosts of a lab, driven as an operator would: by `overlayctl`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{CommandOutput, HostCommand, Running};
use crate::daemon::Daemon;
use crate::host::Host;
use crate::lab::Lab;
use crate::snapshot::Snapshot;
use crate::wait::wait_until;

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the workspace's programs keep things on a host.
pub(crate) const FOLDERS: [&str; 3] = ["/run", "/etc", "/var/lib"];

/// Hosts with Overlay on them: host 0 is control and the first node, the others have joined.
///
/// Field order is teardown order: daemons before hosts.
#[derive(Debug)]
pub struct Cluster {
    restarted: Vec<Running>,
    before: Vec<Snapshot>,
    join: String,
    lab: Lab,
}

/// How a cluster begins. Some have more hosts than a line admits unless told otherwise.
const INIT: [&str; 6] = ["init", "--json", "--ttl", "24h", "--uses", "1000"];

impl Cluster {
    /// Makes `nodes` hosts and Overlay on them.
    ///
    /// # Errors
    ///
    /// When the hosts cannot be made, or `overlayctl` fails.
    pub fn new(nodes: usize) -> Result<Self> {
        Self::on(Lab::new(nodes)?)
    }

    /// Puts Overlay on the hosts of `lab`.
    ///
    /// # Errors
    ///
    /// When `overlayctl` fails.
    pub fn on(lab: Lab) -> Result<Self> {
        Self::advertising(lab, &[])
    }

    /// Puts Overlay on the hosts of `lab`, each of which tells the others one address; without any, they tell all they have.
    ///
    /// # Errors
    ///
    /// When `overlayctl` fails.
    pub fn advertising(lab: Lab, addresses: &[IpAddr]) -> Result<Self> {
        let told = |host: usize| {
            let address = addresses.get(host).map(ToString::to_string);

            address.map(|address| ["--advertise".to_owned(), address]).into_iter().flatten()
        };
        let before = lab.hosts().iter().map(|host| host.snapshot(&FOLDERS)).collect::<Result<_>>()?;
        let output = lab.host(0).try_command("overlayctl")?.args(INIT).args(told(0)).run()?;
        let answer: serde_json::Value = serde_json::from_str(&output.stdout).context("init printed no JSON")?;
        let join = answer["join"].as_str().context("init printed no join line")?.to_owned();
        for (index, host) in lab.hosts().iter().enumerate().skip(1) {
            host.try_command("overlayctl")?.args(["join", &join]).args(told(index)).run()?;
        }

        Ok(Self { restarted: Vec::new(), before, join, lab })
    }

    /// The hosts.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// One host.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        self.lab.host(index)
    }

    /// The line that `init` printed.
    #[must_use]
    pub fn join_line(&self) -> &str {
        &self.join
    }

    /// Runs `overlayctl` on a host; it must succeed.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn ctl(&self, host: usize, args: &[&str]) -> Result<CommandOutput> {
        self.host(host).try_command("overlayctl")?.args(args).run()
    }

    /// Runs `overlayctl … --json` on a host and reads what it prints.
    ///
    /// # Errors
    ///
    /// When it fails or prints something else.
    pub fn ctl_json(&self, host: usize, args: &[&str]) -> Result<serde_json::Value> {
        let output = self.host(host).try_command("overlayctl")?.args(args).arg("--json").run()?;

        serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {}", output.stdout))
    }

    /// The rows of `endpoint ls`, as a host lists them.
    ///
    /// # Errors
    ///
    /// When it fails or prints something else.
    pub fn endpoints(&self, host: usize) -> Result<Vec<serde_json::Value>> {
        let list = self.ctl_json(host, &["endpoint", "ls"])?;

        list.as_array().cloned().context("endpoint ls --json is no list")
    }

    /// The names of all endpoints.
    ///
    /// # Errors
    ///
    /// As [`Cluster::endpoints`].
    pub fn endpoint_names(&self, host: usize) -> Result<Vec<String>> {
        Ok(self.endpoints(host)?.iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect())
    }

    /// The first address of an endpoint.
    ///
    /// # Errors
    ///
    /// When no such endpoint is listed.
    pub fn address_of(&self, host: usize, name: &str) -> Result<String> {
        let rows = self.endpoints(host)?;
        let row = rows.iter().find(|row| row["name"] == name);
        let address = row.and_then(|row| row["addresses"].get(0)).and_then(|address| address.as_str());

        address.map(str::to_owned).with_context(|| format!("{name} is not listed"))
    }

    /// Insists that no address is live twice, and counts them.
    ///
    /// # Errors
    ///
    /// When one is.
    pub fn distinct_addresses(&self, host: usize) -> Result<usize> {
        let rows = self.endpoints(host)?;
        let of = |row: &serde_json::Value| {
            let addresses = row["addresses"].as_array().cloned().unwrap_or_default();
            let network = row["network"].clone();
            addresses.into_iter().map(move |address| format!("{network} {address}")).collect::<Vec<_>>()
        };
        let addresses: Vec<_> = rows.iter().flat_map(of).collect();
        let distinct: BTreeSet<_> = addresses.iter().collect();
        ensure!(distinct.len() == addresses.len(), "an address is live twice: {addresses:?}");

        Ok(addresses.len())
    }

    /// A container (a process in a namespace of its own) called `name`, running one of this program's tools.
    ///
    /// # Errors
    ///
    /// When the host is gone.
    pub fn container(&self, host: usize, network: &str, name: &str) -> Result<HostCommand> {
        let run = ["run", "--network", network, "--name", name, "--", "overlay-lab"];

        Ok(self.host(host).try_command("overlayctl")?.args(run))
    }

    /// Starts a container and waits until it has printed `said`.
    ///
    /// # Errors
    ///
    /// When it ends before, or takes too long.
    pub fn serve(&self, host: usize, network: &str, name: &str, args: &[&str], said: &str) -> Result<Running> {
        let mut running = self.container(host, network, name)?.args(args).spawn()?;
        wait_until(PATIENCE, said, || running.stdout().contains(said) || !running.is_running())?;
        ensure!(running.is_running(), "{name} ended early: {}{}", running.stdout(), running.stderr());

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

    /// Fetches `http://<from>:8080/hello` in a container of its own; the server must answer with its name.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn fetch(&self, host: usize, network: &str, name: &str, from: &str) -> Result<()> {
        let url = format!("http://{from}:8080/hello");
        let output = self.container(host, network, name)?.args(["fetch", &url]).run()?;

        let server = from.split('.').next().unwrap_or(from);
        let expected = format!("hello from {server}\n");
        ensure!(output.stdout == expected || from.parse::<IpAddr>().is_ok(), "{from} said: {}", output.stdout);
        Ok(())
    }

    /// The agent of a host.
    ///
    /// # Errors
    ///
    /// When none runs.
    pub fn agent(&self, host: usize) -> Result<Daemon> {
        Daemon::find(self.host(host), "overlayd")
    }

    /// The control service.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn control(&self) -> Result<Daemon> {
        Daemon::find(self.host(0), "overlay-control")
    }

    /// Starts a killed daemon again; it then ends with the cluster.
    ///
    /// # Errors
    ///
    /// When its host is gone.
    pub fn restart(&mut self, daemon: &Daemon) -> Result<()> {
        // What was started before and is dead by now is reaped.
        self.restarted.retain_mut(Running::is_running);
        self.restarted.push(daemon.start()?);
        Ok(())
    }

    /// Starts a killed daemon again with its log elsewhere; it then ends with the cluster.
    ///
    /// # Errors
    ///
    /// When its host is gone.
    pub(crate) fn restart_logging_to(&mut self, daemon: &Daemon, log: &str) -> Result<()> {
        self.restarted.retain_mut(Running::is_running);
        self.restarted.push(daemon.logging_to(log)?.spawn()?);
        Ok(())
    }

    /// Starts a killed daemon again that may not do everything; it then ends with the cluster.
    ///
    /// # Errors
    ///
    /// When its host is gone.
    pub(crate) fn restart_without(&mut self, daemon: &Daemon, capability: &str) -> Result<()> {
        self.restarted.retain_mut(Running::is_running);
        self.restarted.push(daemon.without(capability)?.spawn()?);
        Ok(())
    }

    /// Waits until the agent of a host answers.
    ///
    /// # Errors
    ///
    /// When it does not in time.
    pub fn wait_for_agent(&self, host: usize) -> Result<Duration> {
        let answers = || {
            let status = self.host(host).try_command("overlayctl")?.arg("status").output()?;
            Ok::<_, anyhow::Error>(status.status.success())
        };

        wait_until(PATIENCE, "the agent answers", || answers().unwrap_or(false)).with_context(|| self.last_words())
    }

    /// What the daemons that were started again said last, for an error.
    fn last_words(&self) -> String {
        let words = self.restarted.iter().map(|daemon| format!("{}{}", daemon.stdout(), daemon.stderr()));
        let lines: Vec<_> =
            words.flat_map(|text| text.lines().rev().take(5).map(str::to_owned).collect::<Vec<_>>()).collect();

        lines.join("\n")
    }

    /// Waits until the agent of a host has a connection to control.
    ///
    /// # Errors
    ///
    /// When it does not in time.
    pub fn wait_for_control(&self, host: usize) -> Result<Duration> {
        let connected = || Ok::<_, anyhow::Error>(self.ctl_json(host, &["status"])?["control"]["connected"] == true);

        wait_until(PATIENCE, "the agent finds control", || connected().unwrap_or(false))
    }

    /// The hosts alone, for who has let them leave already.
    #[must_use]
    pub(crate) fn into_lab(self) -> Lab {
        self.lab
    }

    /// Lets all hosts leave and insists that nothing is left on any of them.
    ///
    /// # Errors
    ///
    /// When a host cannot leave, or something is left.
    pub fn finish(self) -> Result<()> {
        self.finish_by(&["leave"])
    }

    /// The same for a cluster with nodes that are none of its hosts, which lose their control.
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

    /// Insists that the hosts, which must have left, are as they were before.
    ///
    /// # Errors
    ///
    /// When something is left.
    pub fn unchanged(&self) -> Result<()> {
        for (host, before) in self.lab.hosts().iter().zip(&self.before) {
            before.assert_unchanged(|| host.snapshot(&FOLDERS)).with_context(|| format!("on {}", host.name()))?;
        }

        Ok(())
    }
}
