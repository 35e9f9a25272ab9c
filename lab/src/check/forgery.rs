//! Packets with somebody else's source address, from a container and from a member node itself:
//! none arrives, all are counted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_traffic::capture::{CaptureReport, READY};

use super::{Notes, PATIENCE};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

/// The payload of every forged packet.
const FORGED: &str = "i-am-somebody-else";
/// The number of forged packets in a round.
const PACKETS: u32 = 10_000;
/// How many packets the node itself forges at a time: no more than the TUN's queue holds, so that
/// the agent sees every one.
const AT_ONCE: u32 = 2_000;
/// Enters the network's namespace on the host, as only the host's root can.
const INSIDE: &str = "for pin in /run/overlay/netns/*; do exec nsenter --net=$pin \"$@\"; done";

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let neighbour = cluster.serve_http(1, "net", "neighbour")?;
    let near = cluster.serve_http(0, "net", "near")?;
    let victim = victim(&cluster)?;
    let (to, other, near_address) =
        (address(&cluster, "victim")?, address(&cluster, "neighbour")?, address(&cluster, "near")?);
    cluster.fetch(0, "net", "first", "neighbour")?;

    let before = dropped(&cluster)?;
    for _ in 0..rounds {
        let forge = |from: &str, count: u32| {
            [
                "forge".to_owned(),
                "--from".into(),
                from.into(),
                "--to".into(),
                to.clone(),
                "--count".into(),
                count.to_string(),
                "--marker".into(),
                FORGED.into(),
            ]
        };
        for from in [&other, &near_address] {
            cluster.container(0, "net", "attacker")?.args(forge(from, PACKETS)).run()?;
        }
        for _ in 0..PACKETS / AT_ONCE {
            let seen = dropped(&cluster)?;
            let node = ["-c", INSIDE, "sh", "overlay-lab"];
            let node = cluster.host(0).try_command("sh")?.args(node).args(forge(&other, AT_ONCE));
            node.run().context("from the node itself")?;
            wait_until(PATIENCE, "the node counts every packet", || {
                dropped(&cluster).is_ok_and(|now| now >= seen + u64::from(AT_ONCE))
            })?;
        }
    }
    cluster.fetch(0, "net", "last", "neighbour")?;
    let counted = dropped(&cluster)? - before;

    // The same packets with their real address arrive; otherwise the test would prove nothing.
    let honest = [
        "-c",
        "for own in $(overlay-lab addresses eth0); do overlay-lab forge --from $own --to $0 --marker $1; done",
    ];
    let run = ["run", "--network", "net", "--name", "honest", "--", "sh"];
    cluster
        .host(0)
        .try_command("overlayctl")?
        .args(run)
        .args(honest)
        .args([to.as_str(), FORGED])
        .run()?;
    victim.signal(Signal::SIGTERM)?;
    let output = victim.wait(PATIENCE)?;
    let report: CaptureReport =
        serde_json::from_str(&output.stdout).with_context(|| output.stderr.clone())?;

    let sent = 3 * PACKETS * rounds;
    notes.say(&format!(
        "{sent} forged packets sent, {} arrived (10 of them honest); the node counted {counted} drops",
        report.marked
    ));
    ensure!(report.marked == 10, "{} packets arrived instead of the 10 honest ones", report.marked);
    ensure!(counted >= u64::from(PACKETS * rounds), "only {counted} drops were counted");
    drop((neighbour, near));
    cluster.finish()
}

/// Starts a container that counts what reaches it.
fn victim(cluster: &Cluster) -> Result<Running> {
    let capture = ["capture", "--interface", "eth0", "--incoming", "--json", "--marker", FORGED];
    let mut running = cluster.container(1, "net", "victim")?.args(capture).spawn()?;
    wait_until(PATIENCE, "the victim listens", || {
        running.stderr().contains(READY) || !running.is_running()
    })?;
    ensure!(running.is_running(), "the victim ended: {}", running.stderr());

    Ok(running)
}

fn address(cluster: &Cluster, name: &str) -> Result<String> {
    let find = || -> Option<String> {
        let list = cluster.ctl_json(0, &["endpoint", "ls"]).ok()?;
        let row = list.as_array()?.iter().find(|row| row["name"] == name)?.clone();
        let addresses = row["addresses"].as_array()?.iter().filter_map(|address| address.as_str());
        addresses
            .map(|address| address.split('/').next().unwrap_or_default().to_owned())
            .find(|a| a.contains('.'))
    };
    let mut found = None;
    wait_until(Duration::from_secs(5), "the container is listed", || {
        found = find();
        found.is_some()
    })?;

    found.with_context(|| format!("{name} has no address"))
}

/// Returns how many packets the node has dropped because of their source.
fn dropped(cluster: &Cluster) -> Result<u64> {
    let status = cluster.ctl_json(0, &["status"])?;
    let counter = |name: &str| {
        status["counters"][name].as_u64().with_context(|| format!("status does not count {name}"))
    };

    Ok(counter("source_not_local")? + counter("inner_source_forged")?)
}
