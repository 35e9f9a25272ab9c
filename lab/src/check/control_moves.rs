//! Control moves: the address of its host changes under the nodes' connections and under traffic,
//! and it is found by a command.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::roam::BAR_MS;
use super::traffic::{self, Marks, Pace, Sink, Traffic};
use super::truth::{SAID, has};
use super::{Notes, PATIENCE, ms, percentile};
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::wait_until;

/// How long nodes may take to find control at its new address.
const BACK: Duration = Duration::from_secs(5);
/// How long a dead connection may be reported as up after the host's network has changed; the
/// kernel takes twice as long.
const DOUBTED: Duration = Duration::from_secs(3);
/// A thousand packets a second next to a stream that leaves processor time for the rest.
const PACE: Pace = Pace { interval_ms: 1, mbit: Some(200) };
/// The interface of a host that leads to the others.
const UNDERLAY: &str = "eth0";
/// The port that control listens on.
const PORT: u16 = 7443;
/// By how much the addresses that control's host moves to are higher than its own.
const OTHER: u32 = 100;
/// The same for an address that no node is told.
const UNHEARD: u32 = 150;

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    // One family only, or the nodes would reach control by the other one.
    let mut cluster = Cluster::on(Lab::builder(3).ipv6(None).start()?)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let services = [0, 2].map(|host| cluster.serve_http(host, "net", &format!("service{host}")));
    let services = services.into_iter().collect::<Result<Vec<_>>>()?;
    let sink = cluster.serve(1, "net", "sink", &["throughput", "serve"], "listening")?;
    for host in [1, 2] {
        cluster.fetch(host, "net", "caller", "service0")?;
    }

    // From control's host, so that every tunnel in use tells its new address.
    let ping = ["ping", "--quiet", "--count", "0", "--interval-ms", "50", "service2"];
    let ping = cluster.container(0, "net", "to-service2")?.args(ping).spawn()?;
    let traffic = Traffic::start(&cluster, 0, &Sink { network: "net", name: "sink" }, PACE)?;
    let home = cluster.host(0).plan().ipv4;
    let mut at = home;
    let mut marks = Marks::default();
    let mut back = Vec::new();
    for round in 1..=rounds {
        let next = if round == rounds { home } else { above(home, OTHER + round % 20) };
        marks.mark();
        back.extend(follow(&cluster, at, next)?);
        at = next;
    }
    let noticed = traffic.end().context("address of control's host changed")?;
    drop(ping);
    traffic::judge("address of control's host changed", &marks, &noticed, BAR_MS, notes)?;
    let (middle, worst) = (percentile(&back, 50), percentile(&back, 100));
    notes.say(&format!("nodes back with control: median {}, worst {}", ms(middle), ms(worst)));
    ensure!(worst <= BACK, "a node took {} to find control", ms(worst));
    by_hand(&mut cluster, home, notes)?;
    rerouted(&cluster, notes)?;

    drop((services, sink));
    cluster.finish()
}

/// Returns an address of the underlay that no host has.
fn above(home: Ipv4Addr, by: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(home.to_bits() + by)
}

/// Changes the address of control's host at once, as when a DHCP lease ends.
fn change(cluster: &Cluster, from: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
    let gateway = cluster.lab().topology().gateway_v4();
    let script = format!(
        "ip -o -4 addr show dev {UNDERLAY} | grep -q ' {from}/' && ip addr del {from}/24 dev {UNDERLAY}; \
         ip addr add {to}/24 dev {UNDERLAY}; ip route replace default via {gateway} dev {UNDERLAY}"
    );
    cluster.host(0).shell(&script).context("this needs the ip program")?;

    Ok(())
}

/// Moves control's host; returns how long each node took to reconnect to control.
fn follow(cluster: &Cluster, from: Ipv4Addr, to: Ipv4Addr) -> Result<Vec<Duration>> {
    let moved = Instant::now();
    change(cluster, from, to)?;
    let mut took = Vec::new();
    for host in [1, 2] {
        wait_for_control_at(cluster, host, to)?;
        took.push(moved.elapsed());
    }
    // Asked of control, not of the node.
    for host in [0, 1, 2] {
        cluster
            .ctl(host, &["network", "create", "proof"])
            .with_context(|| format!("host {}", host + 1))?;
        cluster.ctl(host, &["network", "rm", "proof"])?;
    }

    Ok(took)
}

/// Waits until a node is connected to control at an address. A connection to another one may be
/// dead without anybody having noticed.
fn wait_for_control_at(cluster: &Cluster, host: usize, address: Ipv4Addr) -> Result<()> {
    let expected = format!("{address}:{PORT}");
    let is_there = || {
        let status = cluster.ctl_json(host, &["status"])?;
        let at_new = status["control"]["address"] == expected.as_str();
        Ok::<_, anyhow::Error>(at_new && status["control"]["connected"] == true)
    };
    let there =
        wait_until(PATIENCE, "the node is back with control", || is_there().unwrap_or(false));

    there.map(drop).with_context(|| format!("host {}: {}", host + 1, addresses(cluster, host)))
}

fn addresses(cluster: &Cluster, host: usize) -> String {
    let listed = cluster.ctl(host, &["control", "ls"]).map(|output| output.stdout);

    listed.unwrap_or_else(|error| error.to_string())
}

/// A node that can no longer find control is told the address by a command, which accepts only
/// control.
fn by_hand(cluster: &mut Cluster, home: Ipv4Addr, notes: &mut Notes) -> Result<()> {
    let away = above(home, UNHEARD);
    // No other node can tell: there is no agent on control's host, and the address is unknown to
    // all.
    let beside = cluster.agent(0)?;
    beside.kill()?;
    change(cluster, home, away)?;
    wait_until(SAID, "the node says that control is away", || has(cluster, 1, "control-away", ""))?;

    let nobody = cluster
        .host(1)
        .try_command("overlayctl")?
        .args(["control", "set", &home.to_string()])
        .output()?;
    ensure!(
        !nobody.status.success(),
        "an address that nobody answers at was taken: {}",
        nobody.stdout
    );
    let told = Instant::now();
    cluster.ctl(1, &["control", "set", &away.to_string()])?;
    cluster.wait_for_control(1)?;
    notes.say(&format!("told by hand: back after {}", ms(told.elapsed())));
    ensure!(told.elapsed() <= BACK, "it took {:?}", told.elapsed());

    change(cluster, away, home)?;
    cluster.restart(&beside)?;
    cluster.wait_for_agent(0)?;
    cluster.wait_for_control(0)?;

    [1, 2].into_iter().try_for_each(|host| wait_for_control_at(cluster, host, home))
}

/// The route to control leads nowhere any more: the connection still has both addresses, and is
/// dead.
fn rerouted(cluster: &Cluster, notes: &mut Notes) -> Result<()> {
    let control = || Ok::<_, anyhow::Error>(cluster.ctl_json(1, &["status"])?["control"].clone());
    let address = control()?["address"]
        .as_str()
        .and_then(|at| at.rsplit_once(':'))
        .context("no control")?
        .0
        .to_owned();
    let route = |verb: &str| {
        let words = ["route", verb, "blackhole", &format!("{address}/32")];
        cluster.host(1).try_command("ip")?.args(words).run().map(drop)
    };
    let is = |connected: bool| control().is_ok_and(|control| control["connected"] == connected);

    let (begun, ()) = (Instant::now(), route("add")?);
    wait_until(PATIENCE, "status says that control is away", || is(false))?;
    let told = begun.elapsed();
    let (ended, ()) = (Instant::now(), route("del")?);
    wait_until(PATIENCE, "the node is back with control", || is(true))?;
    let back = ended.elapsed();

    notes.say(&format!(
        "a way to control that leads nowhere: told after {}, back after {}",
        ms(told),
        ms(back)
    ));
    ensure!(told <= DOUBTED, "status said for {told:?} that control is connected");
    ensure!(back <= BACK, "control was found after {back:?}");

    Ok(())
}
