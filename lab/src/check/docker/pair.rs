//! Two hosts with Overlay and a Docker engine each, and what the checks do with them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::check::{Notes, PATIENCE, PingSummary};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::docker::{DockerDaemon, IMAGE, Image};
use crate::lab::Lab;
use crate::tool::plugin::{Answered, READY};
use crate::wait_until;

/// Where an engine looks for the plugin's socket.
pub(super) const PLUGIN: &str = "/run/docker/plugins/overlay-wg.sock";
/// Where an agent serves the plugin's socket while something else is in front of it.
pub(super) const BEHIND: &str = "/run/overlay/docker.sock";
/// The network of an ordinary compose project.
const PROJECT: &str = "project_default";
/// Milliseconds between two echoes of a flow.
const PACE: &str = "20";
/// How many echoes of a flow may be missing: those on their way when it ended.
const UNDER_WAY: usize = 1;

/// Two hosts with Overlay and an engine each. On host2 there is also an ordinary compose project.
pub(super) struct Pair {
    pub(super) cluster: Cluster,
    pub(super) engines: [DockerDaemon; 2],
}

impl Pair {
    pub(super) fn new(notes: &mut Notes, live_restore: bool) -> Result<Self> {
        Self::with_image(&Image::make()?, notes, live_restore)
    }

    /// As [`Pair::new`], with an image that can serve any number of pairs.
    pub(super) fn with_image(image: &Image, notes: &mut Notes, live_restore: bool) -> Result<Self> {
        let lab = Lab::new(2)?;
        let cluster = Cluster::on(lab)?;
        let start = |host: usize| {
            let engine =
                DockerDaemon::start(cluster.host(host), &notes.engine(host), live_restore)?;
            engine.load(image)?;
            Ok::<_, anyhow::Error>(engine)
        };
        let engines = [start(0)?, start(1)?];
        notes.say(&format!("engines: {} and {}", engines[0].version()?, engines[1].version()?));
        let pair = Self { cluster, engines };
        pair.start_ordinary_project(1)?;

        Ok(pair)
    }

    /// Starts a project as compose does without a `driver:` line: a bridge with a prefix that the
    /// engine chooses, which must not get in the way of our networks, and a container on it.
    pub(super) fn start_ordinary_project(&self, host: usize) -> Result<()> {
        self.docker(host, &["network", "create", PROJECT])?;
        self.serve(host, PROJECT, "project")
    }

    /// Runs a Docker command on a host.
    pub(super) fn docker(&self, host: usize, args: &[&str]) -> Result<String> {
        self.engines[host].run(args)
    }

    /// Runs a Docker command that must fail, and returns its error output.
    pub(super) fn refused(&self, host: usize, args: &[&str]) -> Result<String> {
        let output = self.engines[host].docker(args)?.output()?;
        ensure!(!output.status.success(), "docker {} was not refused", args.join(" "));

        Ok(output.stderr)
    }

    /// Makes one of our networks.
    pub(super) fn create(&self, host: usize, args: &[&str]) -> Result<()> {
        self.docker(host, &[&["network", "create", "-d", "overlay-wg"], args].concat()).map(drop)
    }

    /// Makes one of our networks on host1 and waits until host2 has it.
    pub(super) fn create_on_both(&self, args: &[&str]) -> Result<()> {
        self.create(0, args)?;
        self.wait_for_network(1, args.last().context("a name")?).map(drop)
    }

    /// Starts a container with a server.
    pub(super) fn serve(&self, host: usize, network: &str, name: &str) -> Result<()> {
        self.docker(
            host,
            &["run", "-d", "--stop-timeout", "1", "--name", name, "--network", network, IMAGE],
        )
        .map(drop)
    }

    /// Waits until a host's engine has a network.
    pub(super) fn wait_for_network(&self, host: usize, name: &str) -> Result<Duration> {
        wait_until(PATIENCE, "the network is there", || {
            self.docker(host, &["network", "inspect", name]).is_ok()
        })
        .with_context(|| format!("{name} on host{}", host + 1))
    }

    /// Waits until a host's engine no longer has a network.
    pub(super) fn wait_for_removal(&self, host: usize, name: &str) -> Result<Duration> {
        wait_until(PATIENCE, "the network is gone", || {
            self.docker(host, &["network", "inspect", name]).is_err()
        })
        .with_context(|| format!("{name} on host{}", host + 1))
    }

    /// Fetches a page in a container.
    pub(super) fn fetch(&self, host: usize, from: &str, url: &str) -> Result<String> {
        self.docker(host, &["exec", from, "curl", "-sS", "-m", "3", url])
    }

    /// Waits until a container reaches another by name or address.
    pub(super) fn reaches(&self, host: usize, from: &str, to: &str) -> Result<Duration> {
        let url = format!("http://{to}:8080/hello");

        wait_until(PATIENCE, "a fetch", || self.fetch(host, from, &url).is_ok())
            .with_context(|| format!("{from} does not reach {to}"))
    }

    /// Returns the file of a container's network namespace.
    pub(super) fn namespace(&self, host: usize, container: &str) -> Result<String> {
        self.docker(host, &["inspect", "-f", "{{.NetworkSettings.SandboxKey}}", container])
    }

    /// Starts echoes from a container that continue until the flow is ended.
    pub(super) fn flow(&self, host: usize, container: &str, to: &str) -> Result<Flow> {
        let enter = format!("--net={}", self.namespace(host, container)?);
        let ping = ["overlay-lab", "ping", "--json", "--count", "0", "--interval-ms", PACE, to];
        let running =
            self.cluster.host(host).try_command("nsenter")?.arg(enter).args(ping).spawn()?;

        Ok(Flow { running, what: format!("{container} to {to}") })
    }

    /// Ends the plugin proxy of a host, so that something else can be in front of the agent, which
    /// serves at [`BEHIND`].
    pub(super) fn take_door(&self, host: usize) -> Result<()> {
        let ctl = self.cluster.host(host);
        let noted = ctl.try_command("cat")?.arg("/var/lib/overlay/overlay-door.pid").run()?.stdout;
        let noted: serde_json::Value = serde_json::from_str(&noted).context("the door's note")?;
        let pid = noted["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .context("no pid in the door's note")?;
        ctl.kill(pid, "TERM")?;

        wait_until(PATIENCE, "the door is gone", || {
            ctl.pids_of("overlayd").is_ok_and(|pids| !pids.contains(&pid))
        })
        .map(drop)
    }

    /// Starts the plugin proxy again where something else was in front of the agent.
    pub(super) fn give_door_back(&self, host: usize) -> Result<()> {
        self.cluster.ctl(host, &["start"]).map(drop)
    }

    /// Makes the agent of a host serve the plugin's socket elsewhere, so that something can be in
    /// front of it.
    pub(super) fn move_plugin(&mut self, host: usize, to: &str) -> Result<()> {
        let agent = self.cluster.agent(host)?;
        agent.kill()?;
        let agent = agent.with("--docker-plugin", to);
        self.cluster.restart(&agent)?;
        self.cluster.wait_for_agent(host).map(drop)
    }

    /// Removes all containers, so that the hosts can leave without leaving anything behind.
    pub(super) fn finish(self) -> Result<()> {
        for engine in &self.engines {
            let all = engine.run(&["ps", "-aq"])?;
            let ids: Vec<_> = all.lines().collect();
            if !ids.is_empty() {
                engine.run(&[&["rm", "-f"], ids.as_slice()].concat())?;
            }
        }
        for host in [1, 0] {
            self.cluster.wait_for_control(host)?;
            self.cluster.ctl(host, &["leave"])?;
            let left =
                self.docker(host, &["network", "ls", "--format", "{{.Driver}} {{.Name}}"])?;
            let ours =
                |line: &&str| line.starts_with("overlay-wg") || line.ends_with("docker_gwbridge");
            ensure!(
                !left.lines().any(|line| ours(&line)),
                "networks are left on host{}: {left}",
                host + 1
            );
            self.engines[host].stop_daemon("TERM")?;
        }

        self.cluster.into_lab().finish()
    }
}

/// Echoes that continue.
pub(super) struct Flow {
    running: Running,
    what: String,
}

impl Flow {
    /// Ends the echoes and checks that none was lost; returns how many were answered.
    pub(super) fn unbroken(self) -> Result<usize> {
        self.running.signal(Signal::SIGINT)?;
        let output = self.running.wait(PATIENCE)?;
        let summary: PingSummary = serde_json::from_str(&output.stdout)
            .with_context(|| format!("no figures: {}", output.stderr))?;
        let lost = summary.sent.saturating_sub(summary.received);
        ensure!(
            summary.received > 0 && lost <= UNDER_WAY,
            "{}: {lost} of {} echoes lost",
            self.what,
            summary.sent
        );

        Ok(summary.received)
    }
}

/// A relay between an engine and the agent of its host that records their calls.
pub(super) struct Relay {
    running: Running,
}

impl Relay {
    /// Starts it; the agent must serve at [`BEHIND`], or at `to`.
    pub(super) fn start(
        pair: &Pair,
        host: usize,
        listen: &str,
        to: &str,
        delay_ms: u32,
    ) -> Result<Self> {
        Self::with(
            pair,
            host,
            &["--listen", listen, "--to", to, "--delay-ms", &delay_ms.to_string()],
        )
    }

    /// Starts it between [`PLUGIN`] and [`BEHIND`]; `late` gives the options that delay answers.
    pub(super) fn with_late(pair: &Pair, host: usize, late: &[&str]) -> Result<Self> {
        Self::with(pair, host, &[&["--listen", PLUGIN, "--to", BEHIND], late].concat())
    }

    fn with(pair: &Pair, host: usize, args: &[&str]) -> Result<Self> {
        let tool = pair.cluster.host(host).try_command("overlay-lab")?.args(["plugin", "relay"]);
        let mut running = tool.args(args).spawn()?;
        wait_until(PATIENCE, "the relay listens", || {
            running.stderr().contains(READY) || !running.is_running()
        })?;
        ensure!(running.is_running(), "the relay ended: {}", running.stderr());

        Ok(Self { running })
    }

    /// Returns all calls so far.
    pub(super) fn calls(&self) -> Result<Vec<Answered>> {
        self.running
            .stdout()
            .lines()
            .map(|line| serde_json::from_str(line).context("no call"))
            .collect()
    }
}
