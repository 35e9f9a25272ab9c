//! Somebody deletes what belongs to Overlay: it is restored within a second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{MARKER, Notes, PATIENCE, PingSummary, sealed};
use crate::cluster::Cluster;
use crate::wait_until;

/// The longest silence while something is restored, in milliseconds.
const BAR_MS: f64 = 1000.0;

/// How long a deleted route may be missing if the agent gets no notifications.
const UNHEARD: Duration = Duration::from_secs(3);

/// How many containers come and go, and how many of them at a time.
const CONTAINERS: usize = 40;
const AT_A_TIME: usize = 8;

/// Where a namespace is pinned by hand, and how long its endpoint may outlive it: less than the
/// interval of garbage collection.
const PINNED: &str = "/run/pinned-by-hand";
const GONE: Duration = Duration::from_secs(5);

/// What is done to a host, by a shell inside the network's namespace. Needs the `ip` program there.
const INJURIES: [(&str, &str); 9] = [
    ("every route to another host is deleted", "ip route flush dev ovt"),
    (
        "a container's route is deleted",
        "ip route del $(ip -4 route show | grep -oE '^[0-9.]+ dev ov[0-9a-f]{12}' | head -n1)",
    ),
    (
        "a container's link is set down",
        "ip link set $(ip -o link | grep -oE 'ov[0-9a-f]{12}' | head -n1) down",
    ),
    ("the gateway's address is deleted", "ip -4 address flush dev lo scope global"),
    ("forwarding is switched off", "echo 0 > /proc/sys/net/ipv4/ip_forward"),
    (
        "a container's link is deleted",
        "ip link del $(ip -o link | grep -oE 'ov[0-9a-f]{12}' | head -n1)",
    ),
    ("the TUN device is set down", "ip link set ovt down"),
    ("the TUN device is deleted", "ip link del ovt"),
    ("the namespace's pin is removed", "umount $PIN; rm -rf $PIN /run/mount 2>/dev/null || true"),
];

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let server = cluster.serve_http(1, "net", "service2")?;
    cluster.fetch(0, "net", "service1", "service2")?;

    coming_and_going_is_not_healed(&cluster, notes)?;
    a_namespace_takes_its_endpoint_along(&cluster, notes)?;
    sealed(cluster.lab(), notes, |notes| {
        for _ in 0..rounds {
            for (what, script) in INJURIES {
                injure(&cluster, what, script, notes)?;
            }
        }
        Ok(())
    })?;
    // A new process finds what the repaired host has.
    let agent = cluster.agent(0)?;
    agent.kill()?;
    cluster.restart(&agent)?;
    cluster.wait_for_agent(0)?;
    cluster.fetch(0, "net", "service1", "service2")?;
    unheard(&mut cluster, notes)?;

    drop(server);
    cluster.finish()
}

/// An agent that gets no notifications of changes looks for them itself, and reports that.
fn unheard(cluster: &mut Cluster, notes: &mut Notes) -> Result<()> {
    let agent = cluster.agent(0)?;
    agent.kill()?;
    cluster.restart_without(&agent, "net_broadcast")?;
    cluster.wait_for_agent(0)?;
    let says = || Ok::<_, anyhow::Error>(cluster.ctl_json(0, &["status"])?["problems"].to_string());
    wait_until(PATIENCE, "status says it", || {
        says().is_ok_and(|all| all.contains("subscribe to changes"))
    })?;
    cluster.fetch(0, "net", "service1", "service2")?;

    inside(cluster, "ip route flush dev ovt")?;
    let begun = Instant::now();
    let has_route = || inside(cluster, "ip -4 route show dev ovt | grep -q .").is_ok();
    wait_until(PATIENCE, "the routes are back", has_route)?;
    let after = begun.elapsed();
    ensure!(after <= UNHEARD, "the routes were back after {after:?}");
    cluster.fetch(0, "net", "service1", "service2")?;
    notes.say(&format!(
        "without CAP_NET_BROADCAST: said by status, deleted routes back after {after:?}"
    ));

    Ok(())
}

/// Containers that come and go are not counted as drift; a single deleted route is.
fn coming_and_going_is_not_healed(cluster: &Cluster, notes: &mut Notes) -> Result<()> {
    let mut running = Vec::new();
    for number in 0..CONTAINERS {
        let run = ["run", "--network", "net", "--name", &format!("brief{number}"), "--", "true"];
        running.push(cluster.host(0).try_command("overlayctl")?.args(run).spawn()?);
        if running.len() == AT_A_TIME || number + 1 == CONTAINERS {
            for container in running.drain(..) {
                let output = container.wait(PATIENCE)?;
                ensure!(output.status.success(), "a container failed: {}", output.stderr);
            }
        }
    }
    wait_until(PATIENCE, "no container is listed", || {
        cluster
            .endpoint_names(0)
            .is_ok_and(|names| !names.iter().any(|name| name.starts_with("brief")))
    })?;
    overlay_traffic::wait::rest(Duration::from_secs(1));
    let counted = healed(cluster)?;
    ensure!(counted == 0, "{CONTAINERS} containers came and went: {counted} differences healed");

    inside(cluster, "ip route del $(ip -4 route show dev ovt | head -n1)")?;
    wait_until(PATIENCE, "the deleted route is counted", || {
        healed(cluster).is_ok_and(|counted| counted > 0)
    })?;
    let counted = healed(cluster)?;
    ensure!(counted == 1, "a deleted route counts as {counted} differences");
    notes
        .say(&format!("{CONTAINERS} containers came and went: nothing healed; a deleted route: 1"));
    Ok(())
}

/// An endpoint whose namespace is unmounted goes at once, not only with the next garbage
/// collection.
fn a_namespace_takes_its_endpoint_along(cluster: &Cluster, notes: &mut Notes) -> Result<()> {
    let shell = |script: &str| cluster.host(0).shell(script);
    shell(&format!("touch {PINNED}; unshare --net={PINNED} true"))?;
    cluster.ctl(0, &["attach", "--network", "net", "--netns", PINNED, "--name", "pinned"])?;
    let is_listed = || cluster.lists(0, "pinned");
    ensure!(is_listed(), "what was attached is not listed");
    // The agent opens it for a moment whenever it looks into it.
    let unmount = || shell(&format!("umount {PINNED}")).is_ok();
    wait_until(PATIENCE, "nobody holds the namespace open", unmount)?;
    shell(&format!("rm {PINNED}"))?;
    let took = wait_until(GONE, "the endpoint has gone with its namespace", || !is_listed())?;
    notes.say(&format!(
        "a namespace is unmounted: its endpoint is gone after {} ms",
        took.as_millis()
    ));

    Ok(())
}

/// Returns how many differences the agent of the first host has repaired in its network.
fn healed(cluster: &Cluster) -> Result<u64> {
    let status = cluster.ctl_json(0, &["status"])?;

    status["networks"][0]["drift_healed"].as_u64().context("status does not count repairs")
}

/// Runs a shell inside the network's namespace on the first host.
fn inside(cluster: &Cluster, script: &str) -> Result<()> {
    let enter = "for pin in /run/overlay/netns/*; do export PIN=$pin; exec nsenter --net=$pin sh -ec \"$1\"; done";
    let output = cluster.host(0).try_command("sh")?.args(["-c", enter, "sh", script]).output()?;
    ensure!(output.status.success(), "cannot run {script:?}: {}", output.stderr);

    Ok(())
}

fn injure(cluster: &Cluster, what: &str, script: &str, notes: &mut Notes) -> Result<()> {
    let ping = ["ping", "--json", "--count=60", "--interval-ms=30", "--marker", MARKER, "service2"];
    let mut ping = cluster.container(0, "net", "pinger")?.args(ping).spawn()?;
    wait_until(PATIENCE, "the ping is attached", || {
        cluster
            .ctl_json(0, &["endpoint", "ls"])
            .is_ok_and(|list| list.to_string().contains("\"pinger\""))
            || !ping.is_running()
    })?;
    overlay_traffic::wait::rest(Duration::from_millis(200));

    inside(cluster, script).with_context(|| what.to_owned())?;

    let output = ping.wait(PATIENCE)?;
    let summary: PingSummary = serde_json::from_str(&output.stdout)
        .with_context(|| format!("{what}: {}", output.stderr))?;
    notes.say(&format!("{what}: longest silence {:.0} ms", summary.longest_silence_ms));
    ensure!(
        summary.longest_silence_ms <= BAR_MS,
        "{what}: {:.0} ms of silence",
        summary.longest_silence_ms
    );
    ensure!(
        summary.sent - summary.received <= 35,
        "{what}: not healed, {} of {} lost",
        summary.sent - summary.received,
        summary.sent
    );
    Ok(())
}
