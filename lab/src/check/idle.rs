//! Networks without traffic: how much processor time and memory they cost an agent, and how soon
//! many of them start.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use overlay_traffic::wait::rest;

use super::{Notes, PATIENCE};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::daemon::Daemon;
use crate::wait_until;

/// The numbers of networks that are tried before the number asked for.
const STEPS: [u32; 3] = [20, 60, 100];
/// The number of hosts, each with one container on every network.
const HOSTS: usize = 2;
/// How long all containers of 200 networks may take to start.
const START: Duration = Duration::from_secs(60);
/// How long the agents may settle after the last start, and how long they are then watched.
const SHORT: Watch = Watch { settle: Duration::from_secs(2), watch: Duration::from_secs(4) };
/// The same if exact figures are wanted.
const LONG: Watch = Watch { settle: Duration::from_secs(8), watch: Duration::from_secs(10) };
/// The same with networks in use: long enough to sweep each once, which happens every 45 to 75 s.
const SWEPT: Watch = Watch { settle: Duration::from_secs(8), watch: Duration::from_secs(80) };
/// Percent of a core for an agent without networks, and for each network in use. Only release
/// builds must meet it.
const BASE: f64 = 0.1;
const PER_NETWORK: f64 = 0.02;
/// How often an agent without networks may wake up in a second, and for each network in use; that
/// depends on neither the build nor what else the machine does.
const BASE_WAKES: f64 = 15.0;
const PER_NETWORK_WAKES: f64 = 0.25;
/// KiB per network. Only release builds must meet it.
const MEMORY: u64 = 256;
/// How many networks it takes to judge memory: with fewer, the memory that the agent needs anyway
/// hides it.
const MANY: u32 = 60;

/// How long agents are watched.
#[derive(Clone, Copy)]
struct Watch {
    settle: Duration,
    watch: Duration,
}

/// Idle containers.
struct Crowd {
    containers: Vec<Running>,
}

/// The cost of one agent.
#[derive(Clone, Copy)]
struct Cost {
    /// Percent of a core.
    cpu: f64,
    /// How often it woke up, a second.
    wakes: f64,
    /// Resident memory in KiB.
    memory: u64,
}

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let watch = if rounds < MANY { [SHORT, SHORT] } else { [LONG, SWEPT] };
    let mut misses = Vec::new();
    for networks in STEPS.into_iter().filter(|step| *step < rounds).chain([rounds]) {
        misses.extend(cold(networks, watch, notes)?);
    }
    ensure!(misses.is_empty(), "{}", misses.join("; "));

    Ok(())
}

/// Tries this many networks on new hosts, and lists what costs more than it may.
fn cold(networks: u32, [alone, in_use]: [Watch; 2], notes: &mut Notes) -> Result<Vec<String>> {
    let cluster = Cluster::new(HOSTS)?;
    let agents = [cluster.agent(0)?, cluster.agent(1)?];
    for network in 0..networks {
        cluster.ctl(0, &["network", "create", &format!("n{network}")])?;
    }
    let empty = alone.measure(&agents)?;
    notes.say(&row("unused", networks, &empty, &empty));
    let (crowd, took) = Crowd::start(&cluster, networks)?;
    let busy = in_use.measure(&agents)?;
    notes.say(&row(
        &format!("in use, started in {:.1} s", took.as_secs_f64()),
        networks,
        &empty,
        &busy,
    ));
    let mut misses = judge(networks, &empty, &busy);
    if took > START {
        misses.push(format!(
            "the containers of {networks} networks took {:.1} s to start",
            took.as_secs_f64()
        ));
    }

    crowd.end(&cluster)?;
    let left = alone.measure(&agents)?;
    notes.say(&row("without containers", networks, &empty, &left));
    misses.extend(left.iter().filter_map(|cost| cost.above("memberships", 2.0 * BASE, BASE_WAKES)));
    cluster.finish()?;

    Ok(misses)
}

impl Crowd {
    /// Starts a container on every network and host, all at the same time, and waits until they
    /// run.
    fn start(cluster: &Cluster, networks: u32) -> Result<(Self, Duration)> {
        let start = Instant::now();
        let mut containers = Vec::new();
        for network in 0..networks {
            for host in 0..HOSTS {
                let words = [
                    "run",
                    "--network",
                    &format!("n{network}"),
                    "--name",
                    &format!("c{host}"),
                    "--",
                ];
                let command = cluster.host(host).try_command("overlayctl")?.args(words);
                containers
                    .push(command.args(["sh", "-c", "echo up; exec sleep infinity"]).spawn()?);
            }
        }
        wait_until(START + PATIENCE, "all containers run or failed", || {
            containers
                .iter_mut()
                .all(|container| container.stdout().contains("up") || !container.is_running())
        })?;
        let took = start.elapsed();
        let failed: Vec<_> =
            containers.iter().filter(|c| !c.stdout().contains("up")).map(Running::stderr).collect();
        ensure!(
            failed.is_empty(),
            "{} of {} starts failed: {}",
            failed.len(),
            containers.len(),
            failed[0]
        );

        Ok((Self { containers }, took))
    }

    /// Ends all containers, and waits until they are no longer listed.
    fn end(self, cluster: &Cluster) -> Result<()> {
        for container in &self.containers {
            container.signal(Signal::SIGTERM)?;
        }
        drop(self.containers);
        wait_until(PATIENCE, "no container is listed", || {
            cluster.endpoint_names(0).is_ok_and(|names| names.is_empty())
        })
        .map(drop)
    }
}

impl Watch {
    /// Measures the agents while nothing else happens.
    fn measure(self, agents: &[Daemon; HOSTS]) -> Result<[Cost; HOSTS]> {
        rest(self.settle);
        let before = [agents[0].usage()?, agents[1].usage()?];
        let start = Instant::now();
        rest(self.watch);
        let took = start.elapsed().as_secs_f64();
        let cost = |host: usize| {
            let (before, after) = (&before[host], agents[host].usage()?);
            Ok::<_, anyhow::Error>(Cost {
                cpu: (after.cpu_seconds - before.cpu_seconds) * 100.0 / took,
                wakes: after.waits_since(before) as f64 / took,
                memory: agents[host].memory("VmRSS")?,
            })
        };

        Ok([cost(0)?, cost(1)?])
    }
}

impl Cost {
    /// Says that something costs more than so many percent of a core, or wakes up more often in a
    /// second, if that is so.
    fn above(self, what: &str, cpu: f64, wakes: f64) -> Option<String> {
        let is_judged = !cfg!(debug_assertions);
        if is_judged && self.cpu > cpu {
            return Some(format!("{what} cost {:.2} % of a core, more than {cpu:.2}", self.cpu));
        }

        (self.wakes > wakes).then(|| {
            format!("{what} wake up {:.1} times a second, more than {wakes:.1}", self.wakes)
        })
    }
}

/// Lists what costs more than it may.
fn judge(networks: u32, empty: &[Cost; HOSTS], costs: &[Cost; HOSTS]) -> Vec<String> {
    let mut misses = Vec::new();
    for (empty, cost) in empty.iter().zip(costs) {
        let each_of = |base: f64, each: f64| base + each * f64::from(networks);
        misses.extend(cost.above(
            &format!("{networks} idle networks"),
            each_of(BASE, PER_NETWORK),
            each_of(BASE_WAKES, PER_NETWORK_WAKES),
        ));
        let each = each(networks, *empty, *cost);
        if !cfg!(debug_assertions) && networks >= MANY && each > MEMORY {
            misses
                .push(format!("each of {networks} networks takes {each} KiB, more than {MEMORY}"));
        }
    }

    misses
}

/// Returns the KiB per network.
fn each(networks: u32, empty: Cost, cost: Cost) -> u64 {
    cost.memory.saturating_sub(empty.memory) / u64::from(networks.max(1))
}

fn row(what: &str, networks: u32, empty: &[Cost; HOSTS], costs: &[Cost; HOSTS]) -> String {
    let figures = |host: usize| {
        let cost = costs[host];
        let (mib, each) = (cost.memory / 1024, each(networks, empty[host], cost));
        format!(
            "{:.2} % of a core, {:.1} wake-ups a second, {mib} MiB ({each} KiB a network)",
            cost.cpu, cost.wakes
        )
    };

    format!("{networks} networks {what}: {} and {}", figures(0), figures(1))
}
