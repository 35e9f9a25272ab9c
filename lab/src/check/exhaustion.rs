//! No process ends when a host runs out of a resource: disk space for the log or a reader of it,
//! disk space for the state, file descriptors. The agent of host 2 and control on host 1 go through
//! all of it under echoes, a TCP stream, container starts and changes.

mod starts;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use overlay_traffic::wait::rest;
use serde_json::Value;

use self::starts::{Starting, Starts};
use super::traffic::{Pace, Sink, Traffic};
use super::{Notes, PATIENCE, descriptors, ms, truth};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::docker::{DockerDaemon, Image};
use crate::wait_until;

/// The host whose agent is tested.
const HOST: usize = 1;
/// How long `status` may take to report a problem.
const NAMED: Duration = Duration::from_secs(10);
/// How long it may take to withdraw the report.
const GONE: Duration = Duration::from_secs(5);
/// How long all descriptors are in use.
const HELD: Duration = Duration::from_secs(3);
/// Where the log and the state of the tested daemons are, each on a small disk of its own.
const LOG_DISK: &str = "/run/log-disk";
const STATE_DISK: &str = "/var/lib/overlay";
/// Where the agent listens.
const AGENT_SOCKET: &str = "/run/overlay/agent.sock";
/// A pipe for the log.
const PIPE: &str = "/run/log-pipe";

/// Fifty echoes a second, and a stream that leaves processor time for the rest.
const PACE: Pace = Pace { interval_ms: 20, mbit: Some(200) };
/// The errors that a start may fail with while the state disk is full, and while there are no
/// descriptors: each says what to do.
const FULL: &[&str] = &["is full; make room there"];
const NO_DESCRIPTORS: &[&str] = &["raise LimitNOFILE="];

/// In every other round there is a Docker engine next to the agent, if one is installed.
pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    for round in 0..rounds {
        let has_docker = round % 2 == 1 && DockerDaemon::missing_program().is_none();
        let mut setup = Setup::new(has_docker, notes)?;
        let services = setup.serve()?;
        pipe(&mut setup, notes)?;
        dev_full(&mut setup, notes)?;
        full_log_disk(&mut setup, notes)?;
        full_state_disk(&mut setup, notes)?;
        no_descriptors(&mut setup, notes)?;
        drop(services);
        setup.finish()?;
    }

    Ok(())
}

/// The hosts, and the engine of the one that is tested.
struct Setup {
    cluster: Cluster,
    engine: Option<DockerDaemon>,
}

impl Setup {
    fn new(has_docker: bool, notes: &mut Notes) -> Result<Self> {
        let cluster = Cluster::new(2)?;
        cluster.ctl(0, &["network", "create", "net"])?;
        if !has_docker {
            notes.say("containers of `overlayctl run` start all the while");
            return Ok(Self { cluster, engine: None });
        }
        let engine = DockerDaemon::start(cluster.host(HOST), &notes.engine(HOST), false)?;
        engine.load(&Image::make()?)?;
        let create = ["network", "create", "-d", "overlay-wg", starts::DOCKER_NETWORK];
        wait_until(PATIENCE, "Docker makes a network", || engine.run(&create).is_ok())?;
        notes.say(&format!(
            "containers of `overlayctl run` and Docker {} start all the while",
            engine.version()?
        ));

        Ok(Self { cluster, engine: Some(engine) })
    }

    /// Starts the servers that pages are fetched from and streams are sent to.
    fn serve(&self) -> Result<Vec<Running>> {
        let mut services = vec![
            self.cluster.serve_http(0, "net", "service")?,
            self.cluster.serve(0, "net", "sink", &["throughput", "serve"], "listening")?,
        ];
        if self.engine.is_some() {
            services.push(self.cluster.serve_http(0, starts::DOCKER_NETWORK, "service")?);
        }

        Ok(services)
    }

    /// Makes the hosts leave. What an engine leaves on its host is its own.
    fn finish(self) -> Result<()> {
        let Some(engine) = self.engine else { return self.cluster.finish() };
        for host in [HOST, 0] {
            self.cluster.wait_for_control(host)?;
            self.cluster.ctl(host, &["leave"])?;
        }
        engine.stop_daemon("TERM")?;

        self.cluster.into_lab().finish()
    }
}

/// A reader that stopped with the pipe full, no reader at all, and a reader again.
fn pipe(setup: &mut Setup, notes: &mut Notes) -> Result<()> {
    let script = format!(
        "exec 3<>{PIPE}; dd if=/dev/zero bs=65536 count=1 >&3 2>/dev/null; echo full; exec sleep 600"
    );
    let mut stopped = Vec::new();
    for host in [0, HOST] {
        setup.cluster.host(host).try_command("mkfifo")?.arg(PIPE).run()?;
        let reader = setup.cluster.host(host).try_command("sh")?.args(["-c", &script]).spawn()?;
        wait_until(PATIENCE, "the pipe is full", || reader.stdout().contains("full"))?;
        stopped.push(reader);
    }
    let scenario = Scenario::begin(setup, PIPE, &[])?;
    let named = scenario.named(&setup.cluster, &["log", "control-log"])?;
    scenario.works(&setup.cluster)?;
    notes
        .say(&format!("reader of a full pipe stopped: {named}, {}", scenario.end(&setup.cluster)?));

    let scenario = Scenario::go_on(setup, &[])?;
    drop(stopped);
    let named = scenario.named(&setup.cluster, &["log", "control-log"])?;
    scenario.works(&setup.cluster)?;
    let readers =
        [0, HOST].map(|host| setup.cluster.host(host).try_command("cat")?.arg(PIPE).spawn());
    let gone = scenario.gone(&setup.cluster)?;
    notes.say(&format!(
        "pipe closed: {named}; read again: {gone}, {}",
        scenario.end(&setup.cluster)?
    ));

    stop(&mut setup.cluster)?;
    for (host, reader) in [0, HOST].into_iter().zip(readers) {
        reader?.wait(PATIENCE)?;
        setup.cluster.host(host).try_command("rm")?.arg(PIPE).run()?;
    }
    Ok(())
}

fn dev_full(setup: &mut Setup, notes: &mut Notes) -> Result<()> {
    let scenario = Scenario::begin(setup, "/dev/full", &[])?;
    let cluster = &mut setup.cluster;
    let named = scenario.named(cluster, &["log", "control-log"])?;
    scenario.works(cluster)?;
    notes.say(&format!("standard error is /dev/full: {named}, {}", scenario.end(cluster)?));

    stop(cluster)
}

fn full_log_disk(setup: &mut Setup, notes: &mut Notes) -> Result<()> {
    for host in [0, HOST] {
        let script = format!("mkdir {LOG_DISK} && mount -n -t tmpfs -o size=64k log {LOG_DISK}");
        setup.cluster.host(host).shell(&script)?;
        fill(&setup.cluster, host, LOG_DISK)?;
    }
    let scenario = Scenario::begin(setup, &format!("{LOG_DISK}/log"), &[])?;
    let cluster = &mut setup.cluster;
    let named = scenario.named(cluster, &["log", "control-log"])?;
    scenario.works(cluster)?;
    for host in [0, HOST] {
        make_room(cluster, host, LOG_DISK)?;
    }
    let gone = scenario.gone(cluster)?;
    notes.say(&format!(
        "log on a full disk: {named}; with room: {gone}, {}",
        scenario.end(cluster)?
    ));
    for host in [0, HOST] {
        let log = cluster.host(host).shell(&format!("cat {LOG_DISK}/log"))?.stdout;
        ensure!(log.lines().count() > 1, "nothing was logged when there was room: {log}");
    }

    stop(cluster)?;
    for host in [0, HOST] {
        cluster.host(host).shell(&format!("umount -n {LOG_DISK} && rmdir {LOG_DISK}"))?;
    }
    Ok(())
}

fn full_state_disk(setup: &mut Setup, notes: &mut Notes) -> Result<()> {
    with_daemons_away(
        &mut setup.cluster,
        &format!("mount -n -t tmpfs -o size=16m state {STATE_DISK}"),
    )?;
    let scenario = Scenario::begin(setup, "/dev/null", FULL)?;
    let cluster = &mut setup.cluster;
    for host in [0, HOST] {
        fill(cluster, host, STATE_DISK)?;
    }
    let start = Instant::now();
    let changes = until_refused(|n| {
        let create = cluster.host(HOST).try_command("overlayctl")?.args([
            "network",
            "create",
            &format!("big{n}"),
        ]);
        let output = create.args(labels()).output()?;
        Ok(if output.status.success() { Ok(()) } else { Err(output.stderr) })
    })?;
    let mut late = Vec::new();
    let starts = until_refused(|n| {
        let run = cluster.host(HOST).try_command("overlayctl")?.args([
            "run",
            "--network",
            "net",
            "--name",
        ]);
        let run = run.arg(format!("late{n}")).args(labels()).args([
            "--",
            "overlay-lab",
            "serve-http",
            "--name",
            "late",
        ]);
        let mut running = run.spawn()?;
        wait_until(PATIENCE, "a start", || {
            running.stdout().contains("listens on") || !running.is_running()
        })?;
        if !running.is_running() {
            return Ok(Err(running.stderr()));
        }
        late.push(running);

        Ok(Ok(()))
    })?;
    let named = scenario.named(cluster, &["storage", "control-storage"])?;
    let filled = start.elapsed();
    for host in [0, HOST] {
        make_room(cluster, host, STATE_DISK)?;
    }
    let gone = scenario.gone(cluster)?;
    scenario.works(cluster)?;
    drop(late);
    let there = cluster.ctl_json(0, &["network", "ls"])?.to_string();
    let lost = (0..changes).filter(|n| !there.contains(&format!("\"big{n}\""))).count();
    ensure!(lost == 0, "{lost} acknowledged changes are lost");
    for n in 0..changes {
        cluster.ctl(HOST, &["network", "rm", &format!("big{n}")])?;
    }
    notes.say(&format!(
        "state disk full for {}: {changes} changes and {starts} starts before one was refused, 0 lost; {named}; \
         with room: {gone}, {}",
        ms(filled),
        scenario.end(cluster)?
    ));

    for host in [0, HOST] {
        fill(cluster, host, STATE_DISK)?;
    }
    stop(cluster)?;
    notes.say("state disk full: agent and control killed and started, both are there");
    for host in [0, HOST] {
        make_room(cluster, host, STATE_DISK)?;
    }
    with_daemons_away(cluster, &format!("umount -n {STATE_DISK}"))
}

/// Labels that make a record large.
fn labels() -> impl Iterator<Item = String> {
    (0..16).flat_map(|k| ["--label".to_owned(), format!("k{k}={}", "x".repeat(200))])
}

/// Repeats `attempt` until it fails because the disk is full; returns how often it succeeded.
fn until_refused(mut attempt: impl FnMut(usize) -> Result<Result<(), String>>) -> Result<usize> {
    const MOST: usize = 200;
    for n in 0..MOST {
        if let Err(refusal) = attempt(n)? {
            let clear =
                refusal.contains("is full; make room there") && refusal.contains(STATE_DISK);
            ensure!(clear, "refused otherwise: {refusal}");
            return Ok(n);
        }
    }

    anyhow::bail!("{MOST} found room on a full disk")
}

/// Moves the state of both hosts to another disk. Space that the files have reserved but not used
/// is not taken there.
fn with_daemons_away(cluster: &mut Cluster, change: &str) -> Result<()> {
    let daemons = [cluster.control()?, cluster.agent(0)?, cluster.agent(HOST)?];
    for daemon in &daemons {
        daemon.kill()?;
    }
    let kept = "/run/kept-state";
    for host in [0, HOST] {
        let back = format!("cp -a --sparse=always {kept}/. {STATE_DISK}/");
        cluster
            .host(host)
            .shell(&format!("cp -a {STATE_DISK} {kept} && {change} && {back} && rm -r {kept}"))?;
    }
    for daemon in &daemons {
        cluster.restart(daemon)?;
    }
    for host in [0, HOST] {
        cluster.wait_for_agent(host)?;
        cluster.wait_for_control(host)?;
    }

    Ok(())
}

fn no_descriptors(setup: &mut Setup, notes: &mut Notes) -> Result<()> {
    let scenario = Scenario::begin(setup, "/dev/null", NO_DESCRIPTORS)?;
    let cluster = &mut setup.cluster;
    let (agent, control) = (cluster.agent(HOST)?.pid(), cluster.control()?.pid());
    let mut taken = vec![descriptors::fill(cluster.host(HOST), agent, AGENT_SOCKET)?];
    descriptors::use_up(cluster.host(0), control)?;
    let named = scenario.named(cluster, &["descriptors", "control-descriptors"])?;
    let refusal = refusal_without_descriptors(cluster, agent, &mut taken)?;
    // Long enough for every periodic check to run.
    rest(HELD);
    cluster.ctl(HOST, &["network", "create", "few"])?;
    cluster.ctl(HOST, &["network", "rm", "few"])?;
    for (pid, host) in [(agent, HOST), (control, 0)] {
        descriptors::give_back(cluster.host(host), pid)?;
    }
    drop(taken);
    let gone = scenario.gone(cluster)?;
    scenario.works(cluster)?;
    notes.say(&format!(
        "descriptors used up: {named}; with more: {gone}, {}",
        scenario.end(cluster)?
    ));
    notes.say(&format!("  a start was refused with: {refusal}"));

    stop(cluster)
}

/// Starts a container while the agent has no descriptors left; returns the words it is refused
/// with.
fn refusal_without_descriptors(
    cluster: &Cluster,
    agent: i32,
    taken: &mut Vec<Running>,
) -> Result<String> {
    let start = Instant::now();
    loop {
        let output = cluster.container(HOST, "net", "late")?.args(["pids", "none"]).output()?;
        if !output.status.success() {
            let is_clear = NO_DESCRIPTORS.iter().all(|words| output.stderr.contains(words));
            ensure!(is_clear, "refused otherwise: {}", output.stderr);
            return Ok(output.stderr.trim().to_owned());
        }
        ensure!(start.elapsed() < PATIENCE, "containers start without descriptors");
        // One that was started before has ended, and given its own back.
        taken.push(descriptors::fill(cluster.host(HOST), agent, AGENT_SOCKET)?);
    }
}

/// A failure, with the processes that must survive it and the traffic that must not be disturbed.
struct Scenario {
    agent: i32,
    control: i32,
    traffic: Traffic,
    starts: Starts,
}

impl Scenario {
    /// Restarts control and the agent with another log, and starts the traffic.
    fn begin(setup: &mut Setup, log: &str, refusals: &'static [&'static str]) -> Result<Self> {
        let cluster = &mut setup.cluster;
        for daemon in [cluster.control()?, cluster.agent(HOST)?] {
            daemon.kill()?;
            cluster.restart_logging_to(&daemon, log)?;
        }
        cluster.wait_for_agent(HOST)?;
        cluster.wait_for_control(HOST)?;
        let cluster = &setup.cluster;
        let first = || {
            cluster.container(HOST, "net", "first")?.args(["ping", "--count=1", "service"]).output()
        };
        wait_until(PATIENCE, "traffic passes", || {
            first().is_ok_and(|output| output.status.success())
        })?;

        Self::go_on(setup, refusals)
    }

    /// Starts the traffic and leaves the processes as they are. A start may fail with one of
    /// `refusals`.
    fn go_on(setup: &Setup, refusals: &'static [&'static str]) -> Result<Self> {
        let cluster = &setup.cluster;
        let traffic = Traffic::start(cluster, HOST, &Sink { network: "net", name: "sink" }, PACE)?;
        let starting =
            Starting { host: cluster.host(HOST).clone(), engine: setup.engine.clone(), refusals };
        let (agent, control) = (cluster.agent(HOST)?.pid(), cluster.control()?.pid());

        Ok(Self { agent, control, traffic, starts: Starts::begin(&starting) })
    }

    /// Waits until the agent's `status` reports all of these problems.
    fn named(&self, cluster: &Cluster, codes: &[&str]) -> Result<String> {
        let all = || {
            problems(cluster)
                .is_ok_and(|found| codes.iter().all(|code| found.iter().any(|c| c == code)))
        };
        let took = wait_until(NAMED, &format!("status names {codes:?}"), all)
            .with_context(|| format!("status has {:?}", problems(cluster)))?;

        Ok(format!("named after {}", ms(took)))
    }

    /// Waits until it reports no problem at all.
    fn gone(&self, cluster: &Cluster) -> Result<String> {
        let none = || problems(cluster).is_ok_and(|found| found.is_empty());
        let took = wait_until(GONE, "status has no problem", none)
            .with_context(|| format!("status has {:?}", truth::problems(cluster, HOST)))?;

        Ok(format!("gone after {}", ms(took)))
    }

    /// Checks that containers can start and changes can be made.
    fn works(&self, cluster: &Cluster) -> Result<()> {
        cluster.fetch(HOST, "net", "fetcher", "service")?;
        cluster.ctl(HOST, &["network", "create", "other"])?;
        cluster.ctl(HOST, &["network", "rm", "other"]).map(drop)
    }

    /// Ends the traffic; checks that nothing was lost and no process died.
    fn end(self, cluster: &Cluster) -> Result<String> {
        let starts = self.starts.end()?;
        let noticed = self.traffic.end()?;
        let (sent, received) = (noticed.echoes.sent, noticed.echoes.received);
        ensure!(sent == received, "{} of {sent} packets were lost", sent - received);
        ensure!(cluster.agent(HOST)?.pid() == self.agent, "the agent died");
        ensure!(cluster.control()?.pid() == self.control, "control died");
        let megabytes = noticed.transfer.bytes / 1_000_000;

        Ok(format!(
            "{received} of {sent} echoes answered, {megabytes} MB by TCP whole, {starts}, 0 deaths"
        ))
    }
}

fn problems(cluster: &Cluster) -> Result<Vec<String>> {
    let code = |problem: Value| problem["code"].as_str().map(str::to_owned);

    Ok(truth::problems(cluster, HOST)?.into_iter().filter_map(code).collect())
}

/// Restarts the tested daemons as they were before.
fn stop(cluster: &mut Cluster) -> Result<()> {
    for daemon in [cluster.control()?, cluster.agent(HOST)?] {
        daemon.kill()?;
        cluster.restart(&daemon)?;
    }
    cluster.wait_for_agent(HOST)?;
    cluster.wait_for_control(HOST).map(drop)
}

fn fill(cluster: &Cluster, host: usize, disk: &str) -> Result<()> {
    cluster
        .host(host)
        .shell(&format!("! dd if=/dev/zero of={disk}/filling bs=4096 2>/dev/null"))
        .map(drop)
}

fn make_room(cluster: &Cluster, host: usize, disk: &str) -> Result<()> {
    cluster.host(host).shell(&format!("rm {disk}/filling")).map(drop)
}
