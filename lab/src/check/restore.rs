//! Control is restored from a backup: what was changed since is lost, nothing that was fenced comes
//! back, no address is given twice, and all nodes see the same within seconds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Notes, PATIENCE, ms};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

/// How long it may take until all nodes see what control has.
const BAR: Duration = Duration::from_secs(5);
/// Where the backup is kept on control's host.
const FILE: &str = "/run/overlay.backup";
/// An address outside all blocks.
const FIXED: &str = "10.77.0.9";

/// The fewest hosts: control's, two with containers, and one that is removed.
const FEWEST: u32 = 4;

pub(super) fn run(hosts: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::new(usize::try_from(hosts.max(FEWEST))?)?;
    let (last, running) = (cluster.lab().hosts().len() - 1, prepare(&cluster)?);
    let spare = token(&cluster)?;
    control(&cluster, &["backup", FILE])?;
    let doubled = control(&cluster, &["backup", FILE]);
    ensure!(doubled.is_err(), "a backup replaced another one unasked");

    let lost = lose(&mut cluster, last, &spare)?;
    let daemon = cluster.control()?;
    let refused = control(&cluster, &["restore", FILE, "--keep-old"]);
    ensure!(refused.is_err(), "a backup was restored under a running control");
    daemon.kill()?;
    let said = control(&cluster, &["restore", FILE, "--keep-old"])?;
    for word in ["stay removed: host", "made since: lost", "tokens admit nobody any more"] {
        ensure!(said.contains(word), "restore did not say {word:?}: {said}");
    }
    cluster.fetch(0, "net", "meanwhile", "later0")?;
    cluster.restart(&daemon)?;
    for agent in &lost.stopped {
        cluster.restart(agent)?;
    }
    let back = agreed(&cluster, last)?;
    notes.say(&format!("{last} nodes see the same {} after control is back", ms(back)));
    ensure!(back <= BAR, "it took {back:?}");

    nothing_is_given_twice(&cluster, &lost, last)?;
    nothing_is_revived(&cluster, last, &spare, notes)?;
    drop((running, lost));
    control_files_go(&cluster)?;
    cluster.finish()
}

/// Runs `overlay-control` beside the service.
fn control(cluster: &Cluster, args: &[&str]) -> Result<String> {
    Ok(cluster.host(0).try_command("overlay-control")?.args(args).run()?.stdout)
}

fn token(cluster: &Cluster) -> Result<String> {
    let made = cluster.ctl_json(0, &["token", "create"])?;

    Ok(made["join"].as_str().context("no join line")?.to_owned())
}

/// Networks and containers that the backup knows.
fn prepare(cluster: &Cluster) -> Result<Vec<Running>> {
    cluster.ctl(0, &["network", "create", "net", "--subnet", "10.77.0.0/16"])?;
    cluster.ctl(0, &["network", "create", "gone"])?;

    [1, 2]
        .into_iter()
        .map(|host| cluster.serve_http(host, "net", &format!("before{host}")))
        .collect()
}

/// What was done after the backup and goes on running.
struct Lost {
    running: Vec<Running>,
    /// Agents that were killed at different revisions.
    stopped: Vec<crate::daemon::Daemon>,
    /// The address of each container that was started since.
    addresses: Vec<(&'static str, String)>,
}

/// Makes ten changes that the backup does not know.
fn lose(cluster: &mut Cluster, last: usize, spare: &str) -> Result<Lost> {
    let name = |host: usize| format!("host{}", host + 1);
    cluster.ctl(0, &["network", "create", "lost"])?;
    cluster.ctl(0, &["network", "rm", "gone"])?;
    let mut running = vec![cluster.serve_http(1, "net", "later1")?];
    let early = cluster.agent(1)?;
    early.kill()?;
    // A block of its own, by its first container here.
    running.push(cluster.serve_http(0, "net", "later0")?);
    cluster.ctl(0, &["token", "create"])?;
    let fixed = ["run", "--network", "net", "--name", "fixed", "--ip", FIXED, "--"];
    let serve = ["overlay-lab", "serve-http", "--name", "fixed"];
    let fixed = cluster.host(2).try_command("overlayctl")?.args(fixed).args(serve).spawn()?;
    wait_until(PATIENCE, "the container with a fixed address", || cluster.lists(0, "fixed"))?;
    running.push(fixed);
    let late = cluster.agent(2)?;
    late.kill()?;
    // One node is removed, and its host joins again with a token that the backup has as unused.
    cluster.ctl(0, &["node", "rm", &name(last)])?;
    cluster.ctl(last, &["leave", "--force"])?;
    cluster.ctl(last, &["join", spare])?;
    cluster.ctl(0, &["node", "rm", &name(last)])?;
    cluster.ctl(0, &["network", "create", "lost2"])?;
    let addresses = ["later1", "later0", "fixed"].map(|name| (name, cluster.address_of(0, name)));
    let addresses = addresses.into_iter().map(|(name, address)| Ok((name, address?)));

    Ok(Lost { running, stopped: vec![early, late], addresses: addresses.collect::<Result<_>>()? })
}

/// Waits until all nodes that belong to the cluster stand where control stands.
fn agreed(cluster: &Cluster, last: usize) -> Result<Duration> {
    let start = Instant::now();
    let revision = |host| {
        let status = cluster.ctl_json(host, &["status"])?;
        let is_live = status["control"]["connected"] == true;
        Ok::<_, anyhow::Error>(status["revision"].as_u64().filter(|_| is_live))
    };
    let same = || {
        let first = revision(0).ok().flatten();
        let nodes = ["before1", "before2", "later0", "later1", "fixed"];
        let known = nodes.iter().all(|name| cluster.lists(0, name));

        known
            && first.is_some()
            && (1..last).all(|host| revision(host).is_ok_and(|other| other == first))
    };
    wait_until(PATIENCE, "all nodes see the same", same)?;

    Ok(start.elapsed())
}

/// Everything that runs is still found at its address, and nobody else gets that.
fn nothing_is_given_twice(cluster: &Cluster, lost: &Lost, last: usize) -> Result<()> {
    for (name, address) in &lost.addresses {
        let now = cluster.address_of(0, name)?;
        ensure!(now == *address, "{name} had {address} and has {now}");
        cluster.fetch(1, "net", "caller", name)?;
    }
    let late = (0..last.min(3)).map(|host| cluster.serve_http(host, "net", &format!("new{host}")));
    let late = late.collect::<Result<Vec<_>>>()?;
    wait_until(PATIENCE, "new containers are known", || cluster.lists(0, "new0"))?;
    ensure!(cluster.distinct_addresses(0)? >= 5 + late.len(), "an endpoint is missing");
    ensure!(lost.running.len() == 3);
    let claim = ["run", "--network", "net", "--ip", FIXED, "--", "true"];
    let claimed = cluster.host(1).try_command("overlayctl")?.args(claim).output()?;
    ensure!(!claimed.status.success(), "{FIXED} was given twice");

    Ok(())
}

/// Tokens of the backup and the removed node stay out; a new token lets the host in.
fn nothing_is_revived(
    cluster: &Cluster,
    last: usize,
    spare: &str,
    notes: &mut Notes,
) -> Result<()> {
    let is_out =
        || cluster.ctl_json(last, &["status"]).is_ok_and(|s| s.to_string().contains("expelled"));
    wait_until(PATIENCE, "the removed node is refused", is_out)?;
    let nodes = cluster.ctl_json(0, &["node", "ls"])?.to_string();
    ensure!(!nodes.contains(&format!("\"host{}\"", last + 1)), "a removed node is back: {nodes}");
    cluster.ctl(last, &["leave", "--force"])?;
    for line in [spare, cluster.join_line()] {
        let joined = cluster.ctl(last, &["join", line]);
        ensure!(joined.is_err(), "a token of the backup admits");
    }
    let tokens = cluster.ctl_json(0, &["token", "ls"])?;
    let rows = tokens.as_array().context("token ls --json is no list")?;
    ensure!(rows.iter().all(|row| row["fenced"] == true), "a token is not fenced: {tokens}");
    cluster.ctl(last, &["join", &token(cluster)?])?;
    notes.say("no token of the backup admits, the removed node stays out, a new token lets it in");

    Ok(())
}

fn control_files_go(cluster: &Cluster) -> Result<()> {
    let script = format!("rm -rf {FILE} /var/lib/overlay/control.before-*");

    cluster.host(0).shell(&script).map(drop)
}
