//! Faults, one at a time: `status` soon names each on the host where a person would look, and
//! withdraws it soon after it is gone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_core::instant::rfc3339;
use overlay_traffic::wait::rest;
use serde_json::Value;

use super::{Notes, PATIENCE, PingSummary, descriptors, ms};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

/// How soon a fault must be reported, and how soon the report must be withdrawn.
pub(super) const SAID: Duration = Duration::from_secs(10);
pub(super) const GONE: Duration = Duration::from_secs(5);
/// How long healthy hosts must report nothing at all, in each round.
const WELL: Duration = Duration::from_secs(3);
/// The ports of all lanes, as `nft` writes them.
const PORTS: &str = "udp dport 51820-51899";
/// The nftables table that implements a fault.
const TABLE: &str = "lab_fault";
/// The number of hosts that are examined. There is one more, which joins and leaves.
const HOSTS: usize = 3;
const SPARE: usize = 3;
/// How many seconds before a fault it may be reported to have begun, because peers and control are
/// heard only now and then.
const EARLY: u64 = 10;
/// How long a host whose state was copied may be silent, in milliseconds: the copy is refused
/// before it sends anything.
const SILENCE_MS: f64 = 1_000.0;

/// A fault, and what must be reported about it.
struct Fault {
    name: &'static str,
    inject: fn(&mut Cluster) -> Result<()>,
    undo: fn(&mut Cluster) -> Result<()>,
    /// The reporting host, the code of the problem, and words in its text.
    said: &'static [(usize, &'static str, &'static str)],
    /// Whether it is tested when there is only one round.
    brief: bool,
}

const FAULTS: &[Fault] = &[
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
        said: &[
            (1, "port-unreachable", "open it in this host's firewall"),
            (0, "peer-not-reached", "open UDP"),
        ],
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
    Fault {
        name: "packets of host 2 to control are lost",
        inject: |cluster| {
            let lost = "tcp dport 7443 drop;";
            let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority 0; ");
            let (out, back) = (chain("output"), chain("input"));
            nft(
                cluster,
                1,
                &format!("table inet {TABLE} {{ {out}{lost} }}; {back}tcp sport 7443 drop; }}; }}"),
            )
        },
        undo: |cluster| restore(cluster, 1),
        said: &[(1, "control-away", "traffic goes on")],
        brief: true,
    },
    Fault {
        name: "control is halted",
        inject: |cluster| cluster.host(0).kill(cluster.control()?.pid(), "STOP"),
        undo: |cluster| cluster.host(0).kill(cluster.control()?.pid(), "CONT"),
        said: &[(1, "control-away", "traffic goes on"), (2, "control-away", "traffic goes on")],
        brief: true,
    },
    Fault {
        name: "control is gone",
        inject: |cluster| cluster.control()?.kill(),
        undo: |cluster| cluster.ctl(0, &["start"]).map(drop),
        said: &[(1, "control-away", "control is away"), (2, "control-away", "control is away")],
        brief: false,
    },
    Fault {
        name: "a bridge of host 2 is on the network's prefix",
        inject: |cluster| {
            let networks = cluster.ctl_json(0, &["network", "ls"])?;
            let prefix = networks[0]["prefix"].as_str().context("a network has a prefix")?;
            let address = prefix.split('/').next().unwrap_or_default();
            let add = format!("ip addr add {address}/24 dev br-lab");
            let bridge = format!("ip link add br-lab type bridge; ip link set br-lab up; {add}");
            cluster.host(1).shell(&bridge).map(drop)
        },
        undo: |cluster| cluster.host(1).shell("ip link del br-lab").map(drop),
        said: &[(1, "prefix-clash", "br-lab")],
        brief: true,
    },
    Fault {
        name: "the agent of host 2 has no descriptors left",
        inject: |cluster| descriptors::use_up(cluster.host(1), cluster.agent(1)?.pid()),
        undo: |cluster| descriptors::give_back(cluster.host(1), cluster.agent(1)?.pid()),
        said: &[(1, "descriptors", "")],
        brief: false,
    },
];

/// Tested by [`copied`], which also prepares the hosts.
const COPIED: Fault = Fault {
    name: "the state of host 3 is copied to another host",
    inject: copy_identity,
    undo: |cluster| {
        is_told_and_harmless(cluster)?;
        cluster.ctl(SPARE, &["leave"]).map(drop)
    },
    said: &[(2, "identity-clash", "")],
    brief: true,
};

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::new(HOSTS + 1)?;
    let talk = talk(&cluster, "net")?;
    let mut table = Table::default();
    for _ in 0..rounds {
        stay_well(&cluster)?;
        for fault in FAULTS.iter().filter(|fault| fault.brief || rounds > 1) {
            try_fault(&mut cluster, fault, &mut table).with_context(|| fault.name)?;
        }
        copied(&mut cluster, &mut table).context(COPIED.name)?;
    }
    table.say(notes);
    drop(talk);
    cluster.finish()
}

/// What was reported for each fault, and when.
#[derive(Default)]
struct Table(Vec<Said>);

struct Said {
    fault: &'static str,
    host: usize,
    code: &'static str,
    named: Duration,
    gone: Duration,
}

impl Table {
    /// Prints the worst of all rounds for each fault and host.
    fn say(&self, notes: &mut Notes) {
        notes.say(&format!(
            "{:<68} {:<7} {:<16} {:>8} {:>8}",
            "fault", "side", "problem", "named", "gone"
        ));
        let mut told = BTreeSet::new();
        for one in &self.0 {
            if !told.insert((one.fault, one.host, one.code)) {
                continue;
            }
            let alike = || {
                self.0
                    .iter()
                    .filter(|s| (s.fault, s.host, s.code) == (one.fault, one.host, one.code))
            };
            let named = alike().map(|said| said.named).max().unwrap_or_default();
            let gone = alike().map(|said| said.gone).max().unwrap_or_default();
            let side = format!("host{}", one.host + 1);
            notes.say(&format!(
                "{:<68} {side:<7} {:<16} {:>8} {:>8}",
                one.fault,
                one.code,
                ms(named),
                ms(gone)
            ));
        }
    }
}

/// Makes the containers of all hosts send requests to each other, two hundred times a second.
fn talk(cluster: &Cluster, network: &str) -> Result<Vec<Running>> {
    cluster.ctl(0, &["network", "create", network])?;
    let mut running = Vec::new();
    for host in 0..HOSTS {
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

fn try_fault(cluster: &mut Cluster, fault: &Fault, table: &mut Table) -> Result<()> {
    let (begin, begin_unix) = (Instant::now(), unix_now());
    (fault.inject)(cluster)?;
    let mut named = Vec::new();
    for (host, code, words) in fault.said {
        let is_said = || has(cluster, *host, code, words);
        wait_until(
            SAID.saturating_sub(begin.elapsed()),
            &format!("{code} on host {}", host + 1),
            is_said,
        )
        .with_context(|| told(cluster, *host))?;
        named.push(begin.elapsed());
        let since = since(cluster, *host, code)?;
        // In this format, times have the same order as their texts.
        let (earliest, latest) = (rfc3339(begin_unix.saturating_sub(EARLY)), rfc3339(unix_now()));
        let honest = (earliest..=latest).contains(&since);
        ensure!(
            honest,
            "{code} on host {}: since {since}, which began at {}",
            host + 1,
            rfc3339(begin_unix)
        );
    }

    (fault.undo)(cluster)?;
    let healed = Instant::now();
    for ((host, code, _), named) in fault.said.iter().zip(named) {
        let bar = GONE.saturating_sub(healed.elapsed());
        wait_until(bar, &format!("{code} of host {} is gone", host + 1), || {
            lacks(cluster, *host, code)
        })
        .with_context(|| told(cluster, *host))?;
        table.0.push(Said { fault: fault.name, host: *host, code, named, gone: healed.elapsed() });
    }

    // What else the fault caused ends as well.
    settle(cluster)
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Waits until no host reports anything.
fn settle(cluster: &Cluster) -> Result<()> {
    for host in 0..HOSTS {
        wait_until(PATIENCE, "no problems", || {
            problems(cluster, host).is_ok_and(|problems| problems.is_empty())
        })
        .with_context(|| told(cluster, host))?;
    }

    Ok(())
}

fn stay_well(cluster: &Cluster) -> Result<()> {
    settle(cluster)?;
    let begin = Instant::now();
    while begin.elapsed() < WELL {
        for host in 0..HOSTS {
            let problems = problems(cluster, host)?;
            ensure!(problems.is_empty(), "a false alarm on host {}: {problems:?}", host + 1);
        }
        rest(Duration::from_millis(100));
    }

    Ok(())
}

/// Lists the problems in a host's `status`.
pub(super) fn problems(cluster: &Cluster, host: usize) -> Result<Vec<Value>> {
    let status = cluster.ctl_json(host, &["status"])?;

    status["problems"].as_array().cloned().context("no list of problems")
}

pub(super) fn has(cluster: &Cluster, host: usize, code: &str, words: &str) -> bool {
    let is_it = |problem: &Value| {
        problem["code"] == code && problem["text"].as_str().unwrap_or("").contains(words)
    };

    // An agent that is stopped reports nothing.
    problems(cluster, host).is_ok_and(|problems| problems.iter().any(is_it))
}

/// Returns whether an agent answers and does not report this.
fn lacks(cluster: &Cluster, host: usize, code: &str) -> bool {
    problems(cluster, host)
        .is_ok_and(|problems| problems.iter().all(|problem| problem["code"] != code))
}

/// Returns since when a host reports that it has a problem.
fn since(cluster: &Cluster, host: usize, code: &str) -> Result<String> {
    let problems = problems(cluster, host)?;
    let problem = problems.iter().find(|problem| problem["code"] == code);
    let since = problem.with_context(|| format!("{code} is no longer reported"))?["since"].clone();

    since.as_str().map(str::to_owned).with_context(|| format!("{code} is since {since}"))
}

pub(super) fn told(cluster: &Cluster, host: usize) -> String {
    let peers = cluster.ctl(host, &["peers"]).map(|output| output.stdout);

    format!("host {} says {:?}\n{}", host + 1, problems(cluster, host), peers.unwrap_or_default())
}

/// Drops what one host sends to another's lanes, if it also matches `and`.
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
    cluster
        .host(host)
        .try_command("nft")?
        .arg(rules)
        .run()
        .context("this needs the nft program")
        .map(drop)
}

/// The copy of a host carries nothing and is told so; containers on the real host stay reachable.
fn copied(cluster: &mut Cluster, table: &mut Table) -> Result<()> {
    let ping = ["ping", "--json", "--count", "0", "--interval-ms", "50", "server2"];
    let ping = cluster.container(1, "net", "pinger")?.args(ping).spawn()?;
    try_fault(cluster, &COPIED, table)?;

    let nodes = cluster.ctl(0, &["node", "ls"])?.stdout;
    ensure!(nodes.contains(cluster.host(2).name()), "the copy took the real node along: {nodes}");
    ping.signal(Signal::SIGTERM)?;
    let echoes: PingSummary =
        serde_json::from_str(&ping.wait(PATIENCE)?.stdout).context("no figures")?;
    ensure!(echoes.longest_silence_ms <= SILENCE_MS, "the copy drew packets to itself: {echoes:?}");

    cluster.ctl(SPARE, &["join", cluster.join_line()]).map(drop)
}

fn copy_identity(cluster: &mut Cluster) -> Result<()> {
    const FILE: &str = "/var/lib/overlay/agent/agent.redb";
    cluster.ctl(SPARE, &["leave"])?;
    let script = format!("gzip -c {FILE} | base64 -w0");
    let state = cluster.host(2).shell(&script)?.stdout;
    let script = format!("umask 077; mkdir -p $(dirname {FILE}); base64 -d | gunzip > {FILE}");
    cluster.host(SPARE).try_command("sh")?.args(["-ec", &script]).input(&state)?.run()?;
    // It does not matter whether a copy that is refused counts as started.
    let _ = cluster.host(SPARE).try_command("overlayctl")?.arg("start").output()?;

    Ok(())
}

fn is_told_and_harmless(cluster: &Cluster) -> Result<()> {
    wait_until(SAID, "the copy says it", || has(cluster, SPARE, "identity-clash", ""))?;
    rest(WELL);
    ensure!(
        cluster.endpoint_names(0)?.contains(&"server2".to_owned()),
        "the real host lost its endpoint"
    );

    cluster.fetch(0, "net", "caller", "server2").context("from the real host")
}
