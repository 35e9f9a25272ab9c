//! The steps of the demo.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::reporter::{DemoStep, Reporter};
use crate::cluster::FOLDERS;
use crate::command::{HostCommand, Running};
use crate::daemon::Daemon;
use crate::host::Host;
use crate::lab::Lab;
use crate::wait_until;

const NETWORK: &str = "demo-net";
/// A payload that must never be seen on the wire between the hosts.
const MARKER: &str = "this-must-not-be-readable";
/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// What lasts for several steps.
struct Play<'a> {
    lab: &'a Lab,
    before: Vec<crate::Snapshot>,
    /// The containers of the demo, which end with it.
    running: Vec<Running>,
    watcher: Option<Running>,
    /// The daemons that were restarted after they were killed.
    daemons: Vec<Running>,
    control: Option<Daemon>,
}

/// Runs the steps until one fails; then the hosts' logs are shown.
pub(crate) fn play(reporter: &mut Reporter, lab: &Lab, seconds: f64) {
    let mut play = Play {
        lab,
        before: Vec::new(),
        running: Vec::new(),
        watcher: None,
        daemons: Vec::new(),
        control: None,
    };

    if play.acts(reporter, seconds).is_none() {
        lab.hosts().iter().for_each(show_logs);
    }
}

impl Play<'_> {
    fn acts(&mut self, reporter: &mut Reporter, seconds: f64) -> Option<()> {
        reporter
            .step("host1 becomes control and the first node", |step| self.init(step))
            .and_then(|join| {
                reporter.step("host2 joins by the printed line", |step| self.join(step, &join))
            })?;
        reporter.step("a network, known on all hosts", |step| self.network(step))?;
        reporter.step("service2 serves HTTP on host2", |step| self.serve(step))?;
        reporter.step("service1 on host1 fetches from service2", |step| self.fetch(step))?;
        reporter.step("ping both ways", |step| self.ping(step))?;
        reporter.step("TCP throughput", |step| self.throughput(step, seconds))?;
        reporter.step("nothing readable between the hosts", |step| self.capture(step))?;
        reporter.step("control killed: traffic goes on", |step| self.kill_control(step))?;
        reporter.step("both agents killed and started again", |step| self.kill_agents(step))?;
        reporter.step("both hosts leave; nothing stays on them", |step| self.leave(step))
    }

    fn init(&mut self, step: &mut DemoStep) -> Result<String> {
        self.before = self
            .lab
            .hosts()
            .iter()
            .map(|host| host.snapshot_at_rest(&FOLDERS))
            .collect::<Result<_>>()?;
        let output = step.run(self.host1().try_command("overlayctl")?.args(["init", "--json"]))?;
        let answer: serde_json::Value =
            serde_json::from_str(&output.stdout).context("init printed no JSON")?;

        answer["join"].as_str().map(str::to_owned).context("init printed no join line")
    }

    fn join(&self, step: &mut DemoStep, line: &str) -> Result<()> {
        step.run(self.host2().try_command("overlayctl")?.args(["join", line]))?;
        step.run(self.host1().try_command("overlayctl")?.args(["node", "ls"])).map(drop)
    }

    fn network(&self, step: &mut DemoStep) -> Result<()> {
        step.run(self.host1().try_command("overlayctl")?.args(["network", "create", NETWORK]))?;
        step.run(self.host2().try_command("overlayctl")?.args(["network", "ls"])).map(drop)
    }

    fn serve(&mut self, step: &mut DemoStep) -> Result<()> {
        let server = step.start(container(self.host2(), "service2")?.arg("serve-http"))?;
        self.running.push(wait_for(server, "listens on")?);

        step.run(self.host1().try_command("overlayctl")?.args(["endpoint", "ls"])).map(drop)
    }

    fn fetch(&self, step: &mut DemoStep) -> Result<()> {
        let fetch = container(self.host1(), "service1")?.args([
            "fetch",
            "--time",
            "http://service2:8080/hello",
        ]);
        let output = step.run(fetch)?;

        ensure!(
            output.stdout.starts_with("hello from"),
            "service2 said something else: {}",
            output.stdout
        );
        Ok(())
    }

    fn ping(&mut self, step: &mut DemoStep) -> Result<()> {
        let receiver =
            step.start(container(self.host1(), "service1")?.args(["throughput", "serve"]))?;
        self.running.push(wait_for(receiver, "listening")?);
        for (host, name, to) in
            [(self.host1(), "pinger1", "service2"), (self.host2(), "pinger2", "service1")]
        {
            let ping = container(host, name)?.args([
                "ping",
                "--quiet",
                "--count=10",
                "--interval-ms=50",
                to,
            ]);
            let output = step.run(ping)?;
            ensure!(output.stdout.contains(" 0 lost"), "some were lost");
        }

        Ok(())
    }

    fn throughput(&self, step: &mut DemoStep, seconds: f64) -> Result<()> {
        let client = ["throughput", "client", "service1", "--seconds"];
        let output =
            step.run(container(self.host2(), "load")?.args(client).arg(seconds.to_string()))?;

        step.figure(output.stdout.split(':').next().unwrap_or_default().to_owned());
        Ok(())
    }

    fn capture(&self, step: &mut DemoStep) -> Result<()> {
        let ping = ["ping", "--quiet", "--count=10", "--interval-ms=20", "--marker", MARKER];
        let fetch = ["fetch", "http://service2:8080/echo", "--data", MARKER];
        let stream = [
            "throughput",
            "client",
            "service1",
            "--seconds=0.5",
            "--rate=200",
            "--verify",
            "--marker",
            MARKER,
        ];

        let capture = self.lab.capture(Some(MARKER))?;
        step.run(self.host1().try_command("overlay-lab")?.args(ping).arg("host2"))?;
        let bare = capture.stop()?;
        step.say(&format!("between the hosts, without the overlay: {bare}"));
        ensure!(bare.marked >= 20, "the capture does not see what is in clear");

        let capture = self.lab.capture(Some(MARKER))?;
        step.run(container(self.host1(), "marker1")?.args(ping).arg("service2"))?;
        step.run(container(self.host1(), "marker2")?.args(fetch))?;
        step.run(container(self.host2(), "marker3")?.args(stream))?;
        let sealed = capture.stop()?;
        ensure!(sealed.frames > 0 && sealed.is_complete(), "the capture is not complete: {sealed}");
        ensure!(sealed.marked == 0, "READABLE ON THE WIRE: {sealed}");
        step.figure(format!(
            "{} frames, {} bytes, marker seen 0 times",
            sealed.frames, sealed.bytes
        ));
        Ok(())
    }

    fn kill_control(&mut self, step: &mut DemoStep) -> Result<()> {
        let watcher = ["ping", "--quiet", "--count=0", "--interval-ms=50", "service2"];
        self.watcher = Some(step.start(container(self.host1(), "watcher")?.args(watcher))?);
        self.control = Some(kill(step, self.host1(), "overlay-control")?);

        self.fetch(step)
    }

    fn kill_agents(&mut self, step: &mut DemoStep) -> Result<()> {
        for index in [0, 1] {
            let host = self.lab.host(index);
            let agent = kill(step, host, "overlayd")?;
            self.daemons.push(step.start(agent.command()?)?);
        }
        for index in [0, 1] {
            let host = self.lab.host(index);
            let answers = || {
                Ok::<_, anyhow::Error>(
                    host.try_command("overlayctl")?.arg("status").output()?.status.success(),
                )
            };
            wait_until(PATIENCE, "the agent answers again", || answers().unwrap_or(false))?;
        }
        self.fetch(step)?;

        let watcher = self.watcher.take().context("the watcher is there")?;
        watcher.signal(Signal::SIGTERM)?;
        let output = watcher.wait(PATIENCE)?;
        let silence = output.stdout.split("; ").last().unwrap_or_default().trim().to_owned();
        step.figure(format!("{silence} over both kills"));
        Ok(())
    }

    fn leave(&mut self, step: &mut DemoStep) -> Result<()> {
        // The containers end first, as an operator would do it.
        self.running.clear();
        if let Some(control) = &self.control {
            self.daemons.push(step.start(control.command()?)?);
            for host in self.lab.hosts() {
                wait_until(PATIENCE, "the agent finds control again", || {
                    is_connected(host).unwrap_or(false)
                })?;
            }
        }
        for index in [1, 0] {
            step.run(self.lab.host(index).try_command("overlayctl")?.arg("leave"))?;
        }
        for (host, before) in self.lab.hosts().iter().zip(&self.before) {
            before
                .assert_unchanged(|| host.snapshot(&FOLDERS))
                .with_context(|| format!("on {}", host.name()))?;
        }
        step.say("namespaces, links, addresses, routes, nft rules, mounts, processes and files are as before");
        Ok(())
    }

    fn host1(&self) -> &Host {
        self.lab.host(0)
    }

    fn host2(&self) -> &Host {
        self.lab.host(1)
    }
}

/// Returns whether the agent of a host has a connection to control.
fn is_connected(host: &Host) -> Result<bool> {
    let output = host.try_command("overlayctl")?.args(["status", "--json"]).run()?;
    let status: serde_json::Value = serde_json::from_str(&output.stdout)?;

    Ok(status["control"]["connected"] == true)
}

/// Returns a command that runs one of this program's tools in a container on the demo's network.
fn container(host: &Host, name: &str) -> Result<HostCommand> {
    let run = ["run", "--network", NETWORK, "--name", name, "--", "overlay-lab"];

    Ok(host.try_command("overlayctl")?.args(run))
}

fn wait_for(mut running: Running, said: &str) -> Result<Running> {
    wait_until(PATIENCE, said, || running.stdout().contains(said) || !running.is_running())?;
    ensure!(running.is_running(), "it ended early: {}{}", running.stdout(), running.stderr());

    Ok(running)
}

fn kill(step: &DemoStep, host: &Host, program: &str) -> Result<Daemon> {
    let daemon = Daemon::find(host, program)?;
    step.say(&format!("{}$ kill -9 {}   # {program}", host.name(), daemon.pid()));
    daemon.kill()?;

    Ok(daemon)
}

/// Shows the last lines of each log on a host, after a failure.
#[expect(clippy::print_stdout, reason = "this is a command line")]
fn show_logs(host: &Host) {
    const SCRIPT: &str = "for log in $(find /var/lib/overlay /var/log/overlay /run/overlay -name '*.log' 2>/dev/null); do \
                          echo \"--- $log\"; tail -n 20 \"$log\"; done";

    let Ok(output) = host.command("sh").args(["-c", SCRIPT]).output() else { return };
    println!("\nLogs of {}:\n{}", host.name(), output.stdout);
}
