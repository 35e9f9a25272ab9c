//! Faults, one at a time: `status` names each on the side where a person would look, soon, and is silent soon after it is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Notes, PATIENCE, ms};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::process::rest;
use crate::wait::wait_until;

/// How soon a fault must be named, and how soon it must be gone when it is.
pub(super) const SAID: Duration = Duration::from_secs(10);
pub(super) const GONE: Duration = Duration::from_secs(5);
/// How long nothing at all may be said of hosts that are well, each round.
const WELL: Duration = Duration::from_secs(3);
/// The ports of all lanes, as `nft` writes them.
const PORTS: &str = "udp dport 51820-51899";
/// The table that holds a fault.
const TABLE: &str = "lab_fault";

/// Something that breaks, and what must be said of it.
struct Fault {
    name: &'static str,
    inject: fn(&mut Cluster) -> Result<()>,
    undo: fn(&mut Cluster) -> Result<()>,
    /// Host, code of the problem, and words in its text.
    said: &'static [(usize, &'static str, &'static str)],
    /// Whether it is tried when there is only one round.
    brief: bool,
}

const FAULTS: [Fault; 8] = [
    Fault {
        name: "the agent of host 2 is stopped",
        inject: |cluster| cluster.host(1).kill(cluster.agent(1)?.pid(), "STOP"),
        undo: |cluster| cluster.host(1).kill(cluster.agent(1)?.pid(), "CONT"),
        said: &[(0, "peer-silent", "host2"), (2, "peer-silent", "host2")],
        brief: true,
    },
    Fault {
        name: "the agent of host 2 is gone",
        inject: |cluster| cluster.agent(1)?.kill(),
        undo: |cluster| {
            let agent = cluster.agent(0)?.on(cluster.host(1));
            cluster.restart(&agent)
        },
        said: &[(0, "peer-silent", "host2")],
        brief: false,
    },
    Fault {
        name: "the cable of host 2 is out",
        inject: |cluster| cluster.lab().unplug(1),
        undo: |cluster| cluster.lab().plug(1),
        said: &[(0, "peer-silent", "host2"), (1, "port-unreachable", "UDP 51820")],
        brief: false,
    },
    Fault {
        name: "what host 1 sends does not reach host 2",
        inject: |cluster| lose_between(cluster, 0, 1, ""),
        undo: |cluster| restore(cluster, 1),
        said: &[(0, "peer-not-reached", "host2"), (1, "peer-silent", "host1")],
        brief: true,
    },
    Fault {
        name: "what host 2 sends does not reach host 1",
        inject: |cluster| lose_between(cluster, 1, 0, ""),
        undo: |cluster| restore(cluster, 0),
        said: &[(1, "peer-not-reached", "host1"), (0, "peer-silent", "host2")],
        brief: false,
    },
    Fault {
        name: "nobody reaches the port of host 2",
        inject: |cluster| drop_where(cluster, 1, "prerouting", PORTS),
        undo: |cluster| restore(cluster, 1),
        said: &[(1, "port-unreachable", "open it in this host's firewall"), (0, "peer-not-reached", "open UDP")],
        brief: true,
    },
    Fault {
        name: "host 2 may not send",
        inject: |cluster| drop_where(cluster, 1, "output", PORTS),
        undo: |cluster| restore(cluster, 1),
        said: &[(1, "udp-refused", "outgoing rules")],
        brief: false,
    },
    Fault {
        name: "a tenth of what host 1 sends to host 2 is lost",
        inject: |cluster| lose_between(cluster, 0, 1, "numgen random mod 100 < 10"),
        undo: |cluster| restore(cluster, 1),
        said: &[(0, "peer-loss", "to host2"), (1, "peer-loss", "from host1")],
        brief: false,
    },
];

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::new(3)?;
    let talk = talk(&cluster, "net")?;
    for _ in 0..rounds {
        stay_well(&cluster)?;
        for fault in FAULTS.iter().filter(|fault| fault.brief || rounds > 1) {
            try_fault(&mut cluster, fault, notes).with_context(|| fault.name)?;
        }
    }
    drop(talk);
    cluster.finish()
}

/// Has containers of all hosts ask each other, two hundred times a second.
fn talk(cluster: &Cluster, network: &str) -> Result<Vec<Running>> {
    cluster.ctl(0, &["network", "create", network])?;
    let mut running = Vec::new();
    for host in 0..3 {
        running.push(cluster.serve_http(host, network, &format!("server{host}"))?);
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        running.push(ask(cluster, network, from, to)?);
    }

    Ok(running)
}

pub(super) fn ask(cluster: &Cluster, network: &str, from: usize, to: usize) -> Result<Running> {
    let (name, server) = (format!("asks{from}{to}"), format!("server{to}"));
    let ping = ["ping", "--count=0", "--interval-ms=5", "--quiet", &server];

    cluster.container(from, network, &name)?.args(ping).spawn()
}

fn try_fault(cluster: &mut Cluster, fault: &Fault, notes: &mut Notes) -> Result<()> {
    let begin = Instant::now();
    (fault.inject)(cluster)?;
    for (host, code, words) in fault.said {
        let is_said = || has(cluster, *host, code, words);
        wait_until(SAID.saturating_sub(begin.elapsed()), &format!("{code} on host {}", host + 1), is_said)
            .with_context(|| told(cluster, *host))?;
    }
    let said = begin.elapsed();

    let healed = Instant::now();
    (fault.undo)(cluster)?;
    for host in 0..3 {
        let is_gone = || fault.said.iter().all(|(_, code, _)| !has(cluster, host, code, ""));
        let bar = GONE.saturating_sub(healed.elapsed());
        wait_until(bar, &format!("host {} says nothing any more", host + 1), is_gone)
            .with_context(|| told(cluster, host))?;
    }
    notes.say(&format!("{}: said after {}, gone after {}", fault.name, ms(said), ms(healed.elapsed())));

    // What else a fault led to passes as well.
    settle(cluster)
}

/// Waits until no host says anything.
fn settle(cluster: &Cluster) -> Result<()> {
    for host in 0..3 {
        wait_until(PATIENCE, "no problems", || problems(cluster, host).is_ok_and(|problems| problems.is_empty()))
            .with_context(|| told(cluster, host))?;
    }

    Ok(())
}

fn stay_well(cluster: &Cluster) -> Result<()> {
    settle(cluster)?;
    let begin = Instant::now();
    while begin.elapsed() < WELL {
        for host in 0..3 {
            let problems = problems(cluster, host)?;
            ensure!(problems.is_empty(), "a false alarm on host {}: {problems:?}", host + 1);
        }
        rest(Duration::from_millis(100));
    }

    Ok(())
}

fn problems(cluster: &Cluster, host: usize) -> Result<Vec<Value>> {
    let status = cluster.ctl_json(host, &["status"])?;

    status["problems"].as_array().cloned().context("no list of problems")
}

pub(super) fn has(cluster: &Cluster, host: usize, code: &str, words: &str) -> bool {
    let is_it = |problem: &Value| problem["code"] == code && problem["text"].as_str().unwrap_or("").contains(words);

    // An agent that is stopped says nothing.
    problems(cluster, host).is_ok_and(|problems| problems.iter().any(is_it))
}

pub(super) fn told(cluster: &Cluster, host: usize) -> String {
    let peers = cluster.ctl(host, &["peers"]).map(|output| output.stdout);

    format!("host {} says {:?}\n{}", host + 1, problems(cluster, host), peers.unwrap_or_default())
}

/// Loses, of what one host sends to another's lanes, what also matches `and`.
fn lose_between(cluster: &Cluster, from: usize, to: usize, and: &str) -> Result<()> {
    let plan = cluster.host(from).plan();
    let v6 = plan.ipv6.map(|v6| format!("ip6 saddr {v6} {PORTS} {and} drop;")).unwrap_or_default();

    rule(cluster, to, "prerouting", &format!("ip saddr {} {PORTS} {and} drop; {v6}", plan.ipv4))
}

fn drop_where(cluster: &Cluster, host: usize, hook: &str, what: &str) -> Result<()> {
    rule(cluster, host, hook, &format!("{what} drop;"))
}

fn rule(cluster: &Cluster, host: usize, hook: &str, rules: &str) -> Result<()> {
    let chain = format!("chain fault {{ type filter hook {hook} priority -300; {rules} }};");

    nft(cluster, host, &format!("table inet {TABLE} {{ {chain} }}"))
}

fn restore(cluster: &Cluster, host: usize) -> Result<()> {
    nft(cluster, host, &format!("delete table inet {TABLE}"))
}

fn nft(cluster: &Cluster, host: usize, rules: &str) -> Result<()> {
    cluster.host(host).try_command("nft")?.arg(rules).run().context("this needs the nft program").map(drop)
}
