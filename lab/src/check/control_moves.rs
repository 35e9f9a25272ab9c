//! Control moves: its host's address changes under the nodes' connections and under traffic, packets to it vanish, it is
//! halted, it is found by hand; a bridge comes onto a network's prefix, and a host pretends to be another one. `status` says what is wrong and, soon after, that
//! it is right again.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Notes, PATIENCE, PingSummary, ms};
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::process::rest;
use crate::wait::wait_until;

/// How long nodes may take to find control where it has gone.
const BACK: Duration = Duration::from_secs(5);
/// How long `status` may take to name a fault.
const NAMED: Duration = Duration::from_secs(10);
/// How long `status` may name it after it is gone.
const GONE: Duration = Duration::from_secs(5);
/// How long a host whose state was copied may be silent: the copy is turned away before it says a word.
const SILENCE: Duration = Duration::from_secs(1);
/// The interface of a host that leads to the others.
const UNDERLAY: &str = "eth0";
/// The port that control listens on.
const PORT: u16 = 7443;

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    // One family, or the nodes would stay with control by the other one.
    let mut cluster = Cluster::on(Lab::builder(4).ipv6(None).start()?)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let servers = [0, 1, 2].map(|host| cluster.serve_http(host, "net", &format!("service{host}")));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    for host in [1, 2] {
        cluster.fetch(host, "net", "caller", "service0")?;
    }

    // From control's host, so that every tunnel in use says where it has gone.
    let ping = |to: &str| {
        let args = ["ping", "--quiet", "--count", "0", "--interval-ms", "50", to];
        cluster.container(0, "net", &format!("to-{to}"))?.args(args).spawn()
    };
    let pings = [ping("service1")?, ping("service2")?];
    let home = cluster.host(0).plan().ipv4;
    let mut at = home;
    for round in 1..=rounds {
        let next = if round == rounds { home } else { moved(home, round) };
        follow(&cluster, at, next, notes)?;
        at = next;
    }
    drop(pings);
    by_hand(&mut cluster, home, notes)?;
    dropped(&cluster, notes)?;
    halted(&cluster, notes)?;
    clash(&cluster, notes)?;
    copied(&cluster, notes)?;

    drop(servers);
    cluster.finish()
}

/// An address of the underlay that no host has.
fn moved(home: Ipv4Addr, round: u32) -> Ipv4Addr {
    let [a, b, c, d] = home.octets();

    Ipv4Addr::new(a, b, c, d + 100 + u8::try_from(round % 20).unwrap_or(0))
}

/// Changes the address of control's host: at once, as a lease that ends does it.
fn change(cluster: &Cluster, from: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
    let gateway = cluster.lab().topology().gateway_v4();
    let script = format!(
        "ip -o -4 addr show dev {UNDERLAY} | grep -q ' {from}/' && ip addr del {from}/24 dev {UNDERLAY}; \
         ip addr add {to}/24 dev {UNDERLAY}; ip route replace default via {gateway} dev {UNDERLAY}"
    );
    cluster.host(0).try_command("sh")?.args(["-ec", &script]).run().context("this needs the ip program")?;

    Ok(())
}

/// The nodes are back with control within the bar, and see what changes there.
fn follow(cluster: &Cluster, from: Ipv4Addr, to: Ipv4Addr, notes: &mut Notes) -> Result<()> {
    let moved = Instant::now();
    change(cluster, from, to)?;
    let expected = format!("{to}:{PORT}");
    for host in [1, 2] {
        let back = || {
            let status = cluster.ctl_json(host, &["status"])?;
            let at_new = status["control"]["address"] == expected.as_str();
            Ok::<_, anyhow::Error>(at_new && status["control"]["connected"] == true)
        };
        wait_until(PATIENCE, "the node is back with control", || back().unwrap_or(false))
            .with_context(|| format!("host {host}: {}", addresses(cluster, host)))?;
        let after = moved.elapsed();
        ensure!(after <= BACK, "host {host} took {after:?} to find control at {to}");
        notes.say(&format!("{from} → {to}: host {host} back with control after {}", ms(after)));
    }
    // Control is asked, not the node's own view.
    for host in [0, 1, 2] {
        cluster.ctl(host, &["network", "create", "proof"]).with_context(|| format!("host {host}"))?;
        cluster.ctl(host, &["network", "rm", "proof"])?;
    }

    Ok(())
}

fn addresses(cluster: &Cluster, host: usize) -> String {
    let listed = cluster.ctl(host, &["control", "ls"]).map(|output| output.stdout);

    listed.unwrap_or_else(|error| error.to_string())
}

/// A node to which nothing leads any more is told by hand, and only what is control is believed.
fn by_hand(cluster: &mut Cluster, home: Ipv4Addr, notes: &mut Notes) -> Result<()> {
    let away = moved(home, 19);
    // Nobody is left who could tell: no agent beside control, and an address that nobody has heard of.
    let beside = cluster.agent(0)?;
    beside.kill()?;
    change(cluster, home, away)?;
    wait_until(NAMED, "the node says that control is away", || {
        has_problem(cluster, 1, "control-away").unwrap_or(false)
    })?;

    let nobody = cluster.host(1).try_command("overlayctl")?.args(["control", "set", &home.to_string()]).output()?;
    ensure!(!nobody.status.success(), "an address that nobody answers at was taken: {}", nobody.stdout);
    let told = Instant::now();
    cluster.ctl(1, &["control", "set", &away.to_string()])?;
    cluster.wait_for_control(1)?;
    notes.say(&format!("told by hand: back after {}", ms(told.elapsed())));
    ensure!(told.elapsed() <= BACK, "it took {:?}", told.elapsed());

    change(cluster, away, home)?;
    cluster.restart(&beside)?;
    cluster.wait_for_agent(0)?;
    for host in [0, 1, 2] {
        cluster.wait_for_control(host)?;
    }

    Ok(())
}

fn has_problem(cluster: &Cluster, host: usize, code: &str) -> Result<bool> {
    let status = cluster.ctl_json(host, &["status"])?;
    let problems = status["problems"].as_array().context("status --json has no problems")?;

    Ok(problems.iter().any(|problem| problem["code"] == code))
}

/// Insists that a fault is named in time while it lasts, and not for long after it.
fn named(
    cluster: &Cluster,
    what: &str,
    faults: &[(usize, &str)],
    notes: &mut Notes,
    mend: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    for (host, code) in faults {
        wait_until(NAMED, what, || has_problem(cluster, *host, code).unwrap_or(false))
            .with_context(|| format!("host {host} does not name it"))?;
        let named = begun.elapsed();
        ensure!(named <= NAMED, "{what}: named on host {host} after {named:?}");
        notes.say(&format!("{what}: named on host {host} after {}", ms(named)));
    }
    mend()?;
    let mended = Instant::now();
    for (host, code) in faults {
        wait_until(PATIENCE, what, || has_problem(cluster, *host, code).is_ok_and(|stands| !stands))
            .with_context(|| format!("host {host} still names it"))?;
        let gone = mended.elapsed();
        ensure!(gone <= GONE, "{what}: still named on host {host} for {gone:?}");
        notes.say(&format!("{what}: gone on host {host} after {}", ms(gone)));
    }

    Ok(())
}

/// Packets to control vanish without a word.
fn dropped(cluster: &Cluster, notes: &mut Notes) -> Result<()> {
    let rules = format!(
        "table inet lab_control {{ chain out {{ type filter hook output priority 0; tcp dport {PORT} drop; }}; \
         chain in {{ type filter hook input priority 0; tcp sport {PORT} drop; }}; }}"
    );
    let nft = |rules: &str| cluster.host(1).try_command("nft")?.arg(rules).run().map(drop);
    nft(&rules).context("this needs the nft program")?;

    named(cluster, "packets to control dropped", &[(1, "control-away")], notes, || nft("delete table inet lab_control"))
}

/// Control is there and says nothing.
fn halted(cluster: &Cluster, notes: &mut Notes) -> Result<()> {
    let control = cluster.control()?.pid();
    cluster.host(0).kill(control, "STOP")?;

    named(cluster, "control halted", &[(1, "control-away"), (2, "control-away")], notes, || {
        cluster.host(0).kill(control, "CONT")
    })
}

/// A bridge comes onto a network's prefix, as one of another container engine does.
fn clash(cluster: &Cluster, notes: &mut Notes) -> Result<()> {
    let networks = cluster.ctl_json(0, &["network", "ls"])?;
    let prefix = networks[0]["prefix"].as_str().context("a network has a prefix")?;
    let address = prefix.split('/').next().unwrap_or_default();
    let script = format!("ip link add br-lab type bridge; ip link set br-lab up; ip addr add {address}/24 dev br-lab");
    let ip = |script: &str| cluster.host(1).try_command("sh")?.args(["-ec", script]).run().map(drop);
    ip(&script)?;

    named(cluster, "a bridge on a network's prefix", &[(1, "prefix-clash")], notes, || ip("ip link del br-lab"))
}

/// The state of host 2 is copied to host 3: the copy carries nothing and is told so; the real one is told, too, and what
/// is on it stays reached.
fn copied(cluster: &Cluster, notes: &mut Notes) -> Result<()> {
    const FILE: &str = "/var/lib/overlay/agent/agent.redb";
    cluster.ctl(3, &["leave"])?;
    let script = format!("gzip -c {FILE} | base64 -w0");
    let state = cluster.host(2).try_command("sh")?.args(["-ec", &script]).run()?.stdout;
    let script = format!("umask 077; mkdir -p $(dirname {FILE}); base64 -d | gunzip > {FILE}");
    cluster.host(3).try_command("sh")?.args(["-ec", &script]).input(&state)?.run()?;
    let ping = ["ping", "--json", "--count", "0", "--interval-ms", "50", "service2"];
    let ping = cluster.container(1, "net", "pinger")?.args(ping).spawn()?;
    // Whether a copy that is turned away has started is a matter of opinion.
    let _ = cluster.host(3).try_command("overlayctl")?.arg("start").output()?;

    named(cluster, "identity copied", &[(2, "identity-clash")], notes, || {
        wait_until(NAMED, "the copy says it", || has_problem(cluster, 3, "identity-clash").unwrap_or(false))?;
        rest(Duration::from_secs(3));
        ensure!(cluster.endpoint_names(0)?.contains(&"service2".to_owned()), "the real host lost its endpoint");
        cluster.fetch(0, "net", "caller", "service2").context("from the real host")?;
        cluster.ctl(3, &["leave"]).map(drop)
    })?;
    let nodes = cluster.ctl(0, &["node", "ls"])?.stdout;
    ensure!(nodes.contains(cluster.host(2).name()), "the copy took the real node along: {nodes}");
    ping.signal(Signal::SIGTERM)?;
    let echoes: PingSummary = serde_json::from_str(&ping.wait(PATIENCE)?.stdout).context("no figures")?;
    notes.say(&format!("longest silence of the real host: {:.0} ms", echoes.longest_silence_ms));
    ensure!(echoes.longest_silence_ms <= SILENCE.as_secs_f64() * 1_000.0, "the copy drew packets to itself");
    cluster.ctl(3, &["join", cluster.join_line()])?;

    Ok(())
}
