//! Agents are replaced by new ones under load, and by programs that cannot take their place: no
//! packet is lost, no connection breaks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_traffic::flows::Summary;
use overlay_traffic::wait::rest;

use super::{Notes, PATIENCE, kernel, kernel_at_rest, median};
use crate::binary;
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

/// How far a datagram may be overtaken: what the replay window of a session allows.
const WINDOW: u32 = 8_192;
/// The longest that packets may wait, in milliseconds.
const PAUSED_MS: f64 = 100.0;
/// How long a transfer may take to be compared at both ends.
const SETTLE: Duration = Duration::from_secs(60);
/// The time between two upgrades.
const PAUSE: Duration = Duration::from_millis(300);

/// Programs that fail, by what they do: a shell script for each. `AGENT` is the real agent.
const FAILING: [(&str, &str); 16] = [
    ("ends at once", "exit 3"),
    ("is killed at once", "kill -9 $$"),
    ("does not understand its command line", "exec AGENT --no-such-option"),
    ("is silent", "exec overlay-lab successor silent"),
    ("speaks another format", "exec overlay-lab successor other-format"),
    ("says nonsense", "exec overlay-lab successor nonsense"),
    ("refuses what is offered", "exec overlay-lab successor refuses"),
    ("would be elsewhere", "exec AGENT \"$@\" --lanes 7"),
    ("ends with the descriptors", "exec overlay-lab successor ends-with-descriptors"),
    ("refuses the descriptors", "exec overlay-lab successor refuses-descriptors"),
    ("ends with the sessions", "exec overlay-lab successor ends-with-sessions"),
    ("is silent with the sessions", "exec overlay-lab successor silent-with-sessions"),
    ("refuses the sessions", "exec overlay-lab successor refuses-sessions"),
    ("may open next to nothing", "ulimit -n 12; exec AGENT \"$@\""),
    ("may open less than it is given", "ulimit -n 28; exec AGENT \"$@\""),
    ("may open only what it is given", "ulimit -n 40; exec AGENT \"$@\""),
];

/// A round is an upgrade of one host's agent that succeeds, and one that fails.
pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let echo = cluster.serve(1, "net", "echo", &["flows", "serve"], "listening")?;
    let sink = cluster.serve(1, "net", "sink", &["throughput", "serve"], "listening")?;
    // A host is in the network from its first container on.
    cluster
        .container(0, "net", "first")?
        .args(["ping", "--count=3", "--interval-ms=100", "echo"])
        .run()?;
    let before = [kernel_at_rest(&cluster, 0)?, kernel_at_rest(&cluster, 1)?];
    let programs = tempfile::tempdir()?;

    let callers = [Callers::start(&cluster, 0)?, Callers::start(&cluster, 1)?];
    let load = Load::start(&cluster)?;
    let mut paused = Vec::new();
    for round in 0..rounds {
        let host = usize::try_from(round % 2)?;
        let (upgraded, _) =
            upgrade(&cluster, host).with_context(|| format!("upgrade {}", round + 1))?;
        paused.push(upgraded["paused_ms"].as_f64().context("no figure")?);
        cluster.wait_for_control(host)?;
        rest(PAUSE);
    }
    let seen = load.end()?;
    for caller in callers {
        caller.end(notes)?;
    }
    let median = median(&mut paused);
    let worst = paused.last().copied().unwrap_or_default();
    notes.say(&format!("packets waited {median:.1} ms, at most {worst:.1} ms"));
    seen.judge(&format!("{rounds} upgrades"), notes)?;
    // Programs that are not optimized run beside other tests, and are not judged by speed.
    ensure!(cfg!(debug_assertions) || worst <= PAUSED_MS, "packets waited {worst:.1} ms");

    let load = Load::start(&cluster)?;
    for (round, (what, script)) in (0..rounds).zip(failing().iter().cycle()) {
        let host = usize::try_from(round % 2)?;
        fails(&cluster, host, &programs.path().join(format!("overlayd-{round}")), script, notes)
            .with_context(|| format!("a program that {what}"))?;
        rest(PAUSE);
    }
    load.end()?.judge(&format!("{rounds} programs that failed"), notes)?;

    for (host, before) in before.iter().enumerate() {
        before
            .assert_unchanged(|| kernel(&cluster, host))
            .with_context(|| format!("leaked on host {}", host + 1))?;
    }
    drop((echo, sink));
    cluster.finish()
}

/// Replaces a host's agent, which must lose no session; returns what was said, and how long it
/// took.
pub(super) fn upgrade(cluster: &Cluster, host: usize) -> Result<(serde_json::Value, Duration)> {
    let pid = cluster.agent(host)?.pid();
    let begun = Instant::now();
    let upgraded = cluster.ctl_json(host, &["upgrade"])?;
    let took = begun.elapsed();
    ensure!(upgraded["sessions_lost"] == 0, "sessions were lost: {upgraded}");
    wait_until(PATIENCE, "the old agent is gone", || {
        cluster.agent(host).is_ok_and(|agent| agent.pid() != pid)
    })?;

    Ok((upgraded, took))
}

/// What a program that cannot be an agent holds.
enum Program {
    /// A script.
    Script(String),
    /// This, with this mode.
    Bytes(&'static [u8], u32),
}

fn failing() -> Vec<(&'static str, Program)> {
    let scripts =
        FAILING.iter().map(|(what, script)| (*what, Program::Script((*script).to_owned())));
    let others = [
        ("is no program", Program::Bytes(b"#!/bin/sh\nexit 0\n", 0o644)),
        (
            "is of another machine",
            Program::Bytes(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf7\0", 0o755),
        ),
    ];

    scripts.chain(others).collect()
}

/// Has an agent try a program that does not take its place: it says why, and goes on.
fn fails(
    cluster: &Cluster,
    host: usize,
    path: &Path,
    program: &Program,
    notes: &mut Notes,
) -> Result<()> {
    let agent: PathBuf = binary::bin("overlayd")?;
    let (bytes, mode) = match program {
        Program::Script(script) => (
            format!("#!/bin/sh\n{}\n", script.replace("AGENT", &agent.display().to_string()))
                .into_bytes(),
            0o755,
        ),
        Program::Bytes(bytes, mode) => (bytes.to_vec(), *mode),
    };
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    let pid = cluster.agent(host)?.pid();

    let tried = cluster
        .host(host)
        .try_command("overlayctl")?
        .arg("upgrade")
        .arg("--binary")
        .arg(path)
        .output()?;
    ensure!(
        tried.status.code() == Some(1),
        "exit code {:?}: {}{}",
        tried.status,
        tried.stdout,
        tried.stderr
    );
    ensure!(tried.stderr.contains("this agent goes on"), "it does not say why: {}", tried.stderr);
    notes.say(tried.stderr.trim());
    let now = cluster.agent(host)?.pid();
    ensure!(now == pid, "another agent runs: {now} instead of {pid}");
    cluster.wait_for_control(host)?;

    Ok(())
}

/// Somebody who asks the agent of a host all the time.
struct Callers(Running);

impl Callers {
    /// Each call has a connection of its own, as a person's has.
    const SCRIPT: &'static str =
        "while :; do overlayctl status > /dev/null && echo answered || echo failed; done";

    fn start(cluster: &Cluster, host: usize) -> Result<Self> {
        Ok(Self(cluster.host(host).try_command("sh")?.args(["-c", Self::SCRIPT]).spawn()?))
    }

    fn end(self, notes: &mut Notes) -> Result<()> {
        self.0.signal(Signal::SIGTERM)?;
        let said = self.0.wait(PATIENCE)?;
        let count = |word: &str| said.stdout.lines().filter(|line| *line == word).count();
        let (answered, failed) = (count("answered"), count("failed"));
        notes.say(&format!("calls of the agent: {answered} answered, {failed} not"));

        ensure!(answered > 0 && failed == 0, "{failed} calls of the agent failed: {}", said.stderr);
        Ok(())
    }
}

/// Datagrams, connections and a download.
struct Load {
    flows: Running,
    transfer: Running,
}

/// What the load saw.
struct Seen {
    flows: Summary,
    transfer: String,
}

impl Load {
    fn start(cluster: &Cluster) -> Result<Self> {
        let client = ["flows", "client", "echo"];
        let flows = cluster.serve(0, "net", "flows", &client, "under way")?;
        let transfer = [
            "throughput",
            "client",
            "sink",
            "--json",
            "--verify",
            "--seconds=100000",
            "--rate=100",
        ];
        let transfer = cluster.container(0, "net", "download")?.args(transfer).spawn()?;
        rest(Duration::from_secs(1));

        Ok(Self { flows, transfer })
    }

    fn end(self) -> Result<Seen> {
        self.flows.signal(Signal::SIGTERM)?;
        self.transfer.signal(Signal::SIGTERM)?;
        let flows = self.flows.wait(PATIENCE)?;
        let transfer = self.transfer.wait(SETTLE)?;
        ensure!(transfer.status.success(), "the download broke: {}", transfer.stderr);
        let last = flows.stdout.lines().last().unwrap_or_default();

        Ok(Seen {
            flows: serde_json::from_str(last)
                .with_context(|| format!("no figures: {}", flows.stderr))?,
            transfer: transfer.stdout.trim().to_owned(),
        })
    }
}

impl Seen {
    fn judge(&self, what: &str, notes: &mut Notes) -> Result<()> {
        let Summary { sent, lost, repeated, furthest_overtaken, longest_silence_ms, .. } =
            &self.flows;
        let Summary {
            connections,
            broken,
            exchanges,
            lookups,
            failed_lookups,
            slowest_lookup_ms,
            ..
        } = &self.flows;
        notes.say(&format!(
            "{what}: {lost} of {sent} datagrams lost, {repeated} repeated, overtaken by {furthest_overtaken} at most, \
             silent for {longest_silence_ms} ms at most; {broken} of {connections} connections broken in {exchanges} \
             exchanges; {failed_lookups} of {lookups} lookups failed, the slowest took {slowest_lookup_ms} ms; download {}",
            self.transfer
        ));

        ensure!(*lost == 0, "{what}: {lost} of {sent} datagrams lost");
        ensure!(*repeated == 0, "{what}: {repeated} datagrams came twice");
        ensure!(
            *furthest_overtaken < WINDOW,
            "{what}: a datagram was overtaken by {furthest_overtaken}"
        );
        ensure!(
            *lookups > 0 && *failed_lookups == 0,
            "{what}: {failed_lookups} of {lookups} lookups failed"
        );
        ensure!(*broken == 0, "{what}: {broken} of {connections} connections broke");
        Ok(())
    }
}
