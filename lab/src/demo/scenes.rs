//! What the demo shows, step by step.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::stage::{Scene, Stage};
use crate::cluster::FOLDERS;
use crate::command::{HostCommand, Running};
use crate::daemon::Daemon;
use crate::host::Host;
use crate::lab::Lab;
use crate::wait::wait_until;

const NETWORK: &str = "demo-net";
/// Sent as payload; must never be seen on the wire between the hosts.
const MARKER: &str = "this-must-not-be-readable";
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What stays over several steps.
struct Play<'a> {
    lab: &'a Lab,
    before: Vec<crate::Snapshot>,
    /// Containers of the demo; they end with it.
    running: Vec<Running>,
    watcher: Option<Running>,
    /// What was started again after a kill.
    daemons: Vec<Running>,
    control: Option<Daemon>,
}

/// Plays all scenes; the first that fails is the last, and the hosts' logs are shown.
pub(crate) fn play(stage: &mut Stage, lab: &Lab, seconds: f64) {
    let mut play =
        Play { lab, before: Vec::new(), running: Vec::new(), watcher: None, daemons: Vec::new(), control: None };

    if play.acts(stage, seconds).is_none() {
        lab.hosts().iter().for_each(show_logs);
    }
}

impl Play<'_> {
    fn acts(&mut self, stage: &mut Stage, seconds: f64) -> Option<()> {
        stage
            .step("host1 becomes control and the first node", |scene| self.init(scene))
            .and_then(|join| stage.step("host2 joins by the printed line", |scene| self.join(scene, &join)))?;
        stage.step("a network, known on all hosts", |scene| self.network(scene))?;
        stage.step("service2 serves HTTP on host2", |scene| self.serve(scene))?;
        stage.step("service1 on host1 fetches from service2", |scene| self.fetch(scene))?;
        stage.step("ping both ways", |scene| self.ping(scene))?;
        stage.step("TCP throughput", |scene| self.throughput(scene, seconds))?;
        stage.step("nothing readable between the hosts", |scene| self.capture(scene))?;
        stage.step("control killed: traffic goes on", |scene| self.kill_control(scene))?;
        stage.step("both agents killed and started again", |scene| self.kill_agents(scene))?;
        stage.step("both hosts leave; nothing stays on them", |scene| self.leave(scene))
    }

    fn init(&mut self, scene: &mut Scene) -> Result<String> {
        self.before = self.lab.hosts().iter().map(|host| host.snapshot(&FOLDERS)).collect::<Result<_>>()?;
        let output = scene.run(self.host1().try_command("overlayctl")?.args(["init", "--json"]))?;
        let answer: serde_json::Value = serde_json::from_str(&output.stdout).context("init printed no JSON")?;

        answer["join"].as_str().map(str::to_owned).context("init printed no join line")
    }

    fn join(&self, scene: &mut Scene, line: &str) -> Result<()> {
        scene.run(self.host2().try_command("overlayctl")?.args(["join", line]))?;
        scene.run(self.host1().try_command("overlayctl")?.args(["node", "ls"])).map(drop)
    }

    fn network(&self, scene: &mut Scene) -> Result<()> {
        scene.run(self.host1().try_command("overlayctl")?.args(["network", "create", NETWORK]))?;
        scene.run(self.host2().try_command("overlayctl")?.args(["network", "ls"])).map(drop)
    }

    fn serve(&mut self, scene: &mut Scene) -> Result<()> {
        let server = scene.start(container(self.host2(), "service2")?.arg("serve-http"))?;
        self.running.push(wait_for(server, "listens on")?);

        scene.run(self.host1().try_command("overlayctl")?.args(["endpoint", "ls"])).map(drop)
    }

    fn fetch(&self, scene: &mut Scene) -> Result<()> {
        let fetch = container(self.host1(), "service1")?.args(["fetch", "--time", "http://service2:8080/hello"]);
        let output = scene.run(fetch)?;

        ensure!(output.stdout.starts_with("hello from"), "service2 said something else: {}", output.stdout);
        Ok(())
    }

    fn ping(&mut self, scene: &mut Scene) -> Result<()> {
        let receiver = scene.start(container(self.host1(), "service1")?.args(["throughput", "serve"]))?;
        self.running.push(wait_for(receiver, "listening")?);
        for (host, name, to) in [(self.host1(), "pinger1", "service2"), (self.host2(), "pinger2", "service1")] {
            let ping = container(host, name)?.args(["ping", "--quiet", "--count=10", "--interval-ms=50", to]);
            let output = scene.run(ping)?;
            ensure!(output.stdout.contains(" 0 lost"), "some were lost");
        }

        Ok(())
    }

    fn throughput(&self, scene: &mut Scene, seconds: f64) -> Result<()> {
        let client = ["throughput", "client", "service1", "--seconds"];
        let output = scene.run(container(self.host2(), "load")?.args(client).arg(seconds.to_string()))?;

        scene.figure(output.stdout.split(':').next().unwrap_or_default().to_owned());
        Ok(())
    }

    fn capture(&self, scene: &mut Scene) -> Result<()> {
        let ping = ["ping", "--quiet", "--count=10", "--interval-ms=20", "--marker", MARKER];
        let fetch = ["fetch", "http://service2:8080/echo", "--data", MARKER];
        let stream =
            ["throughput", "client", "service1", "--seconds=0.5", "--rate=200", "--verify", "--marker", MARKER];

        let capture = self.lab.capture(Some(MARKER))?;
        scene.run(self.host1().try_command("overlay-lab")?.args(ping).arg("host2"))?;
        let bare = capture.stop()?;
        scene.say(&format!("between the hosts, without the overlay: {bare}"));
        ensure!(bare.marked >= 20, "the capture does not see what is in clear");

        let capture = self.lab.capture(Some(MARKER))?;
        scene.run(container(self.host1(), "marker1")?.args(ping).arg("service2"))?;
        scene.run(container(self.host1(), "marker2")?.args(fetch))?;
        scene.run(container(self.host2(), "marker3")?.args(stream))?;
        let sealed = capture.stop()?;
        ensure!(sealed.frames > 0 && sealed.is_complete(), "the capture is not complete: {sealed}");
        ensure!(sealed.marked == 0, "READABLE ON THE WIRE: {sealed}");
        scene.figure(format!("{} frames, {} bytes, marker seen 0 times", sealed.frames, sealed.bytes));
        Ok(())
    }

    fn kill_control(&mut self, scene: &mut Scene) -> Result<()> {
        let watcher = ["ping", "--quiet", "--count=0", "--interval-ms=50", "service2"];
        self.watcher = Some(scene.start(container(self.host1(), "watcher")?.args(watcher))?);
        self.control = Some(kill(scene, self.host1(), "overlay-control")?);

        self.fetch(scene)
    }

    fn kill_agents(&mut self, scene: &mut Scene) -> Result<()> {
        for index in [0, 1] {
            let host = self.lab.host(index);
            let agent = kill(scene, host, "overlayd")?;
            self.daemons.push(scene.start(agent.command()?)?);
        }
        for index in [0, 1] {
            let host = self.lab.host(index);
            let answers =
                || Ok::<_, anyhow::Error>(host.try_command("overlayctl")?.arg("status").output()?.status.success());
            wait_until(PATIENCE, "the agent answers again", || answers().unwrap_or(false))?;
        }
        self.fetch(scene)?;

        let watcher = self.watcher.take().context("the watcher is there")?;
        watcher.signal(Signal::SIGTERM)?;
        let output = watcher.wait(PATIENCE)?;
        let silence = output.stdout.split("; ").last().unwrap_or_default().trim().to_owned();
        scene.figure(format!("{silence} over both kills"));
        Ok(())
    }

    fn leave(&mut self, scene: &mut Scene) -> Result<()> {
        // What runs on the overlay ends first, as an operator would have it.
        self.running.clear();
        if let Some(control) = &self.control {
            self.daemons.push(scene.start(control.command()?)?);
            for host in self.lab.hosts() {
                wait_until(PATIENCE, "the agent finds control again", || is_connected(host).unwrap_or(false))?;
            }
        }
        for index in [1, 0] {
            scene.run(self.lab.host(index).try_command("overlayctl")?.arg("leave"))?;
        }
        for (host, before) in self.lab.hosts().iter().zip(&self.before) {
            before.assert_unchanged(|| host.snapshot(&FOLDERS)).with_context(|| format!("on {}", host.name()))?;
        }
        scene.say("namespaces, links, addresses, routes, nft rules, mounts, processes and files are as before");
        Ok(())
    }

    fn host1(&self) -> &Host {
        self.lab.host(0)
    }

    fn host2(&self) -> &Host {
        self.lab.host(1)
    }
}

/// Whether the agent of a host has a connection to control.
fn is_connected(host: &Host) -> Result<bool> {
    let output = host.try_command("overlayctl")?.args(["status", "--json"]).run()?;
    let status: serde_json::Value = serde_json::from_str(&output.stdout)?;

    Ok(status["control"]["connected"] == true)
}

/// A container on the demo's network that runs one of this program's tools.
fn container(host: &Host, name: &str) -> Result<HostCommand> {
    let run = ["run", "--network", NETWORK, "--name", name, "--", "overlay-lab"];

    Ok(host.try_command("overlayctl")?.args(run))
}

fn wait_for(mut running: Running, said: &str) -> Result<Running> {
    wait_until(PATIENCE, said, || running.stdout().contains(said) || !running.is_running())?;
    ensure!(running.is_running(), "it ended early: {}{}", running.stdout(), running.stderr());

    Ok(running)
}

fn kill(scene: &Scene, host: &Host, program: &str) -> Result<Daemon> {
    let daemon = Daemon::find(host, program)?;
    scene.say(&format!("{}$ kill -9 {}   # {program}", host.name(), daemon.pid()));
    daemon.kill()?;

    Ok(daemon)
}

/// Shows the end of each log on a host, after a failure.
#[expect(clippy::print_stdout, reason = "this is a command line")]
fn show_logs(host: &Host) {
    const SCRIPT: &str = "for log in $(find /var/lib/overlay /var/log/overlay /run/overlay -name '*.log' 2>/dev/null); do \
                          echo \"--- $log\"; tail -n 20 \"$log\"; done";

    let Ok(output) = host.command("sh").args(["-c", SCRIPT]).output() else { return };
    println!("\nLogs of {}:\n{}", host.name(), output.stdout);
}
