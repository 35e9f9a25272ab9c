//! The agent's resident memory with a crowd of peers: known, in use, and after all buffers were
//! filled.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Notes, PATIENCE, throughput};
use crate::binary::are_packaged;
use crate::cluster::Cluster;
use crate::command::Running;
use crate::daemon::Daemon;
use crate::tool::crowd::{CrowdReport, PREFIX};
use crate::wait_until;

/// How many known peers there are in a round for each one in use.
const KNOWN_PER_ROUND: usize = 20;
/// The most memory that the agent may take, in KiB. Only the profile `dist` must meet it, because
/// most of the memory is the program's code.
const BAR: u64 = 24 << 10;
/// A prefix for 4,096 blocks, one per member.
const SUBNET: &str = "10.16.0.0/12";
/// How long the crowd may take to join, per node.
const JOIN: Duration = Duration::from_millis(500);
/// How many seconds a throughput measurement takes.
const SECONDS: &str = "2";
/// Sends echoes to all addresses at the same time.
const ECHOES: &str = "for to; do overlay-lab ping --quiet --count 20 --interval-ms 50 $to & all=\"$all $!\"; done; \
    for one in $all; do wait $one || exit 1; done";

/// The host whose agent is measured; the first has control, the third the crowd.
const MEASURED: usize = 1;
const FAR: usize = 0;
const CROWD: usize = 2;

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let in_use = usize::try_from(rounds)?;
    let known = in_use * KNOWN_PER_ROUND;
    let cluster = Cluster::new(3)?;
    cluster.ctl(0, &["network", "create", "net", "--subnet", SUBNET])?;
    let serve =
        |host, name| cluster.serve(host, "net", name, &["throughput", "serve"], "listening");
    let sinks = (serve(FAR, "far")?, serve(MEASURED, "near")?);
    let (agent, control) = (cluster.agent(MEASURED)?, cluster.control()?);
    let mut most = measure(&agent, "with one peer", notes)?;

    let (crowd, report) = join(&cluster, known, in_use)?;
    notes.say(&format!(
        "{known} nodes joined in {:.1} s and had seen each other after {:.1} s more; control takes {}",
        report.join_seconds,
        report.watch_seconds,
        mib(control.memory("VmRSS")?)
    ));
    wait_until(PATIENCE, "the agent knows them all", || knows(&cluster, known).unwrap_or(false))?;
    most = most.max(measure(&agent, &format!("{known} peers known"), notes)?);

    let sessions = echo(&cluster, &report)?;
    most = most.max(measure(
        &agent,
        &format!("{in_use} of them in use, by {sessions} sessions"),
        notes,
    )?);

    let stream = |host, to| throughput(cluster.container(host, "net", "load")?, to, SECONDS);
    let (sent, received) = (stream(MEASURED, "far")?, stream(FAR, "near")?);
    let burst = format!(
        "after {SECONDS} s at {sent:.2} and {SECONDS} s at {received:.2} Gbit/s with another"
    );
    most = most.max(measure(&agent, &burst, notes)?);
    notes.say(&format!("the most it ever took: {}", mib(agent.memory("VmHWM")?)));
    if are_packaged() {
        ensure!(most <= BAR, "the agent takes {}, more than {}", mib(most), mib(BAR));
    } else {
        notes.say("not built with `--profile dist`: no bar applies");
    }

    drop((crowd, sinks));
    cluster.finish_with_strangers()
}

/// Reports and returns the agent's memory in KiB.
fn measure(agent: &Daemon, when: &str, notes: &mut Notes) -> Result<u64> {
    let resident = agent.memory("VmRSS")?;
    let own = agent.memory("RssAnon")?;
    notes.say(&format!(
        "the agent {when}: {}, {} of it not out of its file",
        mib(resident),
        mib(own)
    ));

    Ok(resident)
}

/// Makes the crowd join; it stays as long as the returned value.
fn join(cluster: &Cluster, nodes: usize, carrying: usize) -> Result<(Running, CrowdReport)> {
    let token = cluster.ctl_json(0, &["token", "create", "--uses", &nodes.to_string()])?;
    let line = token["join"].as_str().context("no join line")?;
    let lanes =
        cluster.ctl_json(MEASURED, &["status"])?["lanes"].as_array().context("no lanes")?.len();
    let host = cluster.host(CROWD);
    let (address, nodes_text) = (host.address().to_string(), nodes.to_string());
    let (carrying, lanes) = (carrying.to_string(), lanes.to_string());
    let words = ["crowd", "--join", line, "--network", "net", "--address", &address];
    let counts = ["--nodes", &nodes_text, "--carrying", &carrying, "--lanes", &lanes];
    let mut crowd = host.try_command("overlay-lab")?.args(words).args(counts).spawn()?;
    let patience = PATIENCE + JOIN * u32::try_from(nodes)?;
    wait_until(patience, "the crowd has joined", || {
        crowd.stdout().ends_with('\n') || !crowd.is_running()
    })?;
    let report = serde_json::from_str(&crowd.stdout())
        .with_context(|| format!("the crowd ended: {}", crowd.stderr()))?;

    Ok((crowd, report))
}

/// Returns whether the agent has as many nodes of the crowd as peers, and is in sync with control.
fn knows(cluster: &Cluster, nodes: usize) -> Result<bool> {
    let peers = rows(cluster)?;
    let revision =
        |host| Ok::<_, anyhow::Error>(cluster.ctl_json(host, &["status"])?["revision"].clone());

    Ok(distinct(peers.iter()) == nodes && revision(MEASURED)? == revision(FAR)?)
}

/// Sends echoes to all nodes that carry packets, all of which must answer, and returns the number
/// of sessions with them.
fn echo(cluster: &Cluster, report: &CrowdReport) -> Result<usize> {
    let run = ["run", "--network", "net", "--name", "echoes", "--", "sh", "-c", ECHOES, "sh"];
    let to = report.addresses.iter().map(ToString::to_string);
    cluster.host(MEASURED).try_command("overlayctl")?.args(run).args(to).run()?;

    let lanes = rows(cluster)?;
    let is_up = |row: &&Value| row["state"] == "up";
    let carried = |row: &&Value| {
        ["rx_bytes", "tx_bytes"].iter().all(|key| row[key].as_u64().is_some_and(|n| n > 0))
    };
    let used = distinct(lanes.iter().filter(is_up).filter(carried));
    ensure!(used == report.addresses.len(), "packets went both ways with {used} peers only");

    Ok(lanes.iter().filter(is_up).count())
}

/// Counts the nodes that these lanes belong to.
fn distinct<'a>(lanes: impl Iterator<Item = &'a Value>) -> usize {
    lanes.map(|row| row["node"].as_str()).collect::<BTreeSet<_>>().len()
}

/// Returns the lanes of the crowd that are peers of the agent.
fn rows(cluster: &Cluster) -> Result<Vec<Value>> {
    let peers = cluster.ctl_json(MEASURED, &["peers", "--lanes"])?;
    let is_of_crowd =
        |row: &&Value| row["node"].as_str().is_some_and(|name| name.starts_with(PREFIX));

    Ok(peers
        .as_array()
        .context("peers --json is no list")?
        .iter()
        .filter(is_of_crowd)
        .cloned()
        .collect())
}

/// Formats KiB as MiB.
fn mib(kib: u64) -> String {
    let tenths = kib * 10 / 1024;

    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
